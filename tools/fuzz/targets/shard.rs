//! Any bytes on several connections of a shard, of every protocol and with every policy, some of which
//! read slowly: no panic, whole frames, no output beyond its bound, and nothing is left when all have gone.
#![no_main]

#[path = "shard_web.rs"]
mod shard_web;

use libfuzzer_sys::fuzz_target;
use sapwood_core::command::{ClientId, CloseReason, ConnId, Now, ShardId};
use sapwood_core::driver::{Driver, Mail, Sockets};
use sapwood_core::limits::Limits;
use sapwood_core::{
    BodyGauge, Config, Input, Next, PAYLOAD_BYTES_MAX, Policy, Protocol, Shard, WebSettings,
};
use sapwood_wire::native::{self, Hello, Parsed};

/// Redis, native and NATS by turns, each three with another policy.
const PLAIN: usize = 9;

/// All connections; those of the web stand behind the others.
const CONNECTIONS: usize = PLAIN + shard_web::CONNECTIONS;

/// The first byte that names a connection of the web: below it inputs mean what they did before there was one.
const WEB_FROM: u8 = 192;

/// The byte that is not a connection's: time passes.
const TIME: u8 = 255;

const OUTBOX_BYTES_MAX: usize = 4096;

fn protocol(place: usize, password: bool) -> Protocol {
    match place.checked_sub(PLAIN) {
        Some(place) => shard_web::protocol(place, password),
        None => [Protocol::Redis, Protocol::Native, Protocol::Nats][place % 3],
    }
}

fn place(byte: u8) -> usize {
    match byte.checked_sub(WEB_FROM) {
        Some(byte) => PLAIN + usize::from(byte) % shard_web::CONNECTIONS,
        None => usize::from(byte) % PLAIN,
    }
}

fn shard(password: bool) -> Driver {
    Driver::new(Shard::new(Config {
        shard: ShardId(0),
        shards: 1,
        user: None,
        nats_payload_max: PAYLOAD_BYTES_MAX,
        web: WebSettings { echo: true, ..WebSettings::default() },
        may_broadcast: true,
        tree: None,
        vitals: Default::default(),
        password: password.then(|| b"a".to_vec()),
        limits: Limits {
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            transaction_bytes_max: 4096,
            ..Limits::default()
        },
        hash_seed: 1,
        capacity: Default::default(),
        body_gauge: BodyGauge::default(),
        run_id: "0".repeat(40),
        process_id: 1,
        started_wall_ms: 0,
    }))
}

/// The client's end of a connection.
#[derive(Default)]
struct Client {
    /// Input that core has not consumed.
    kept: Vec<u8>,
    /// What was read and makes no whole frame yet; not of Redis clients.
    read: Vec<u8>,
    /// Of a client of the web.
    web: Option<shard_web::Reader>,
    /// Reads so many bytes when it is written to, or everything.
    share: Option<usize>,
    blocked: bool,
    /// Not to be read on before core names it.
    held: bool,
    closed: bool,
}

impl Client {
    fn take_lines(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = line_of_nats(&self.read[at..]) {
            at += length;
        }
        self.read.drain(..at);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        let mut at = 0;
        // Ends because a frame has five bytes at least.
        while let Parsed::Frame { length, .. } =
            native::parse_from_broker(&self.read[at..]).expect("a frame of the broker's")
        {
            at += length;
        }
        self.read.drain(..at);
    }
}

/// The bytes of a line, and of the body that follows it, if all are there.
fn line_of_nats(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[..end];
    let is_message = line.starts_with(b"MSG ") || line.starts_with(b"HMSG ");
    if !is_message {
        let known: [&[u8]; 5] = [b"INFO {", b"PONG", b"+OK", b"-ERR '", b"PING"];
        assert!(known.iter().any(|known| line.starts_with(known)), "{}", line.escape_ascii());
        return Some(end + 2);
    }
    let length = line.rsplit(|&byte| byte == b' ').next().expect("a word");
    let length: usize = std::str::from_utf8(length).expect("digits").parse().expect("a length");
    let whole = end + 2 + length + 2;
    let body = bytes.get(..whole)?;
    assert!(body.ends_with(b"\r\n"), "behind {}", line.escape_ascii());
    Some(whole)
}

/// The clients' ends of all connections.
struct Clients(Vec<Client>);

impl Clients {
    /// Writes once: what the client reads.
    fn write_on(&mut self, driver: &mut Driver, conn: ConnId) {
        let client = &mut self.0[conn.0 as usize];
        let waiting: Vec<u8> = driver.output(conn).collect::<Vec<_>>().concat();
        let count = client.share.unwrap_or(usize::MAX).min(waiting.len());
        match (&mut client.web, protocol(conn.0 as usize, false)) {
            (Some(web), _) => web.take(&waiting[..count]),
            (None, Protocol::Native) => client.take(&waiting[..count]),
            (None, Protocol::Nats) => client.take_lines(&waiting[..count]),
            (None, _) => {}
        }
        client.blocked = count < waiting.len();
        driver.sent(conn, count, client.blocked);
    }

    /// Gives a connection what stands of its input.
    fn give(&mut self, driver: &mut Driver, place: usize, fresh: usize, now: Now) {
        let conn = ConnId(place as u32);
        if self.0[place].closed {
            return;
        }
        let mut kept = std::mem::take(&mut self.0[place].kept);
        let input = Input::Bytes { conn, bytes: &kept, fresh };
        let offered = driver.offer(self, input, now);
        let Some((consumed, next)) = offered else { return };
        kept.drain(..consumed);
        self.0[place].kept = kept;
        self.0[place].held = next == Next::Hold;
    }
}

impl Sockets for Clients {
    /// Writes to everybody who is not blocked.
    fn write(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        let client = &self.0[conn.0 as usize];
        if client.closed {
            self.write_on(driver, conn);
            driver.closed(conn, now);
        } else if !client.blocked {
            self.write_on(driver, conn);
        }
    }

    /// The flush that follows writes to it once more, and closes it.
    fn close(&mut self, conn: ConnId, _reason: CloseReason, _now: Now) {
        self.0[conn.0 as usize].closed = true;
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        self.give(driver, conn.0 as usize, 0, now);
    }

    fn is_open(&self, conn: ConnId) -> bool {
        !self.0[conn.0 as usize].closed
    }
}

impl Mail for Clients {}

/// An operation of NATS that mostly makes sense: about few subjects, and with a right length.
fn operation(kind: u8, fields: &[u8]) -> Vec<u8> {
    let word = |at: usize| {
        let byte = fields.get(at).copied().unwrap_or_default();
        ["a", "b", "a.b", "*", "a.*", ">", "$x", "a..b"][usize::from(byte % 8)]
    };
    let (subject, other, body) = (word(0), word(1), fields.get(2..).unwrap_or_default());
    let sid = fields.get(1).copied().unwrap_or_default() % 8;
    let headers = "NATS/1.0\r\nA: b\r\n\r\n";
    let (line, headers) = match kind % 10 {
        0 | 1 => (format!("PUB {subject} {}", body.len()), ""),
        2 => (format!("PUB {subject} {other} {}", body.len()), ""),
        3 => (format!("HPUB {subject} {} {}", headers.len(), headers.len() + body.len()), headers),
        4 => return format!("SUB {subject} {sid}\r\n").into_bytes(),
        5 => return format!("SUB {subject} group {sid}\r\n").into_bytes(),
        6 => return format!("UNSUB {sid}\r\n").into_bytes(),
        7 => return format!("UNSUB {sid} {}\r\n", body.len()).into_bytes(),
        8 => return b"PING\r\n".to_vec(),
        _ => {
            let [verbose, echo] = [sid % 2 == 0, sid % 4 < 2];
            let json = format!("{{\"verbose\":{verbose},\"echo\":{echo},\"headers\":true,\"no_responders\":true}}");
            return format!("CONNECT {json}\r\n").into_bytes();
        }
    };
    [line.as_bytes(), b"\r\n", headers.as_bytes(), body, b"\r\n"].concat()
}

/// Native clients mostly say frames with a right length, which is hard to guess.
fn append(input: &mut Vec<u8>, place: usize, how: u8, bytes: &[u8]) {
    let protocol = protocol(place, false);
    match bytes {
        _ if place >= PLAIN => shard_web::append(input, place - PLAIN, how, bytes),
        [kind, fields @ ..] if protocol == Protocol::Native && how % 4 != 0 => {
            native::write_frame(input, *kind, |out| out.extend_from_slice(fields));
        }
        [kind, fields @ ..] if protocol == Protocol::Nats && how % 4 != 0 => {
            input.extend_from_slice(&operation(*kind, fields));
        }
        _ => input.extend_from_slice(bytes),
    }
}

/// All connections, and what most of them say first.
fn open(driver: &mut Driver, password: bool, now: Now) -> Clients {
    let address = "127.0.0.1:1".parse().expect("an address");
    let mut clients = Clients((0..CONNECTIONS).map(|_| Client::default()).collect());
    for place in 0..CONNECTIONS {
        let (conn, id) = (ConnId(place as u32), ClientId(place as u64 + 1));
        let policy = Policy::ALL[place / 3 % 3];
        let protocol = protocol(place, password);
        let input = Input::Opened { conn, client: id, protocol, policy, peer: address, local: address };
        driver.handle(&mut clients, input, now);
        let client = &mut clients.0[place];
        if protocol == Protocol::Native && !password {
            // Most of what follows is reached only by who was let in.
            native::write_hello(&mut client.kept, &Hello::default());
        }
        if let Some(place) = place.checked_sub(PLAIN) {
            client.kept = shard_web::begin(place, password);
            client.web = Some(shard_web::Reader::new(place));
        }
    }
    clients
}

fuzz_target!(|data: (bool, Vec<(u8, u8, Vec<u8>)>)| {
    let (password, pieces) = data;
    let mut driver = shard(password);
    let mut now = Now::default();
    let mut clients = open(&mut driver, password, now);
    for (byte, how, bytes) in pieces {
        if byte == TIME {
            now.monotonic_ns += u64::from(how) * 1_000_000_000;
            now.wall_ms += u64::from(how) * 1_000;
            driver.turn(&mut clients, now);
            continue;
        }
        let place = place(byte);
        let conn = ConnId(place as u32);
        if clients.0[place].closed {
            continue;
        }
        // Half of the time it reads all, else a few bytes each time.
        clients.0[place].share = (how < 128).then_some(usize::from(how));
        if clients.0[place].blocked {
            clients.write_on(&mut driver, conn);
        }
        if !clients.0[place].held {
            let before = clients.0[place].kept.len();
            append(&mut clients.0[place].kept, place, how, &bytes);
            let fresh = clients.0[place].kept.len() - before;
            clients.give(&mut driver, place, fresh, now);
        }
        driver.turn(&mut clients, now);
        // The largest frame here is below 4 KiB, and a cap's half may wait aside; the page's files are below 64 KiB.
        let most = CONNECTIONS * (2 * OUTBOX_BYTES_MAX + 64 * 1024);
        assert!(driver.shard().counters().outbox_bytes <= most as u64, "output beyond its bound");
    }
    for place in 0..CONNECTIONS {
        driver.closed(ConnId(place as u32), now);
    }
    driver.turn(&mut clients, now);
    let counters = driver.shard().counters();
    let left = [counters.connections, counters.subscriptions, counters.filters];
    assert_eq!(left, [0, 0, 0], "connections, subscriptions, filters");
    assert_eq!([counters.outbox_bytes, counters.input_bytes], [0, 0], "bytes out, bytes in");
});
