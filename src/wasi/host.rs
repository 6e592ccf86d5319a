//! One shard of core, driven by a host's calls.
//!
//! Owns which connections there are and what the host has not taken yet. A message of a WebSocket is given to core as
//! the frame that it was, and what core writes are frames, which are taken apart again: so the sessions are the same as in the broker, to the
//! byte. Start at [`Host::message`].

use sapwood_core::command::{ClientId, CloseReason, ConnId, Now, ShardId};
use sapwood_core::driver::{Driver, Mail, Sockets};
use sapwood_core::limits::Limits;
use sapwood_core::{
    BodyGauge, Config, Input, Next, PAYLOAD_BYTES_MAX, Policy, Protocol, Shard, WebSettings,
};
use sapwood_wire::websocket::{self, BINARY, TEXT};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Highest number of a connection: places are kept by number.
const CONNECTION_MAX: u32 = 65_535;

/// Most input that waits for a connection that is held: a message of the greatest length and as much again.
const INPUT_BYTES_MAX: usize = 192 * 1024 * 1024;

/// What is taken of a connection at once, in bytes; the rest stays for the next time.
const TAKEN_BYTES_MAX: usize = 1024 * 1024;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Text commands.
    Text,
    /// The JSON protocol.
    Json,
    /// The native protocol.
    Native,
    /// Every message is sent back.
    Echo,
}

impl Spoken {
    /// By its number; `None` for another.
    pub fn of(number: u32) -> Option<Spoken> {
        let all = [Spoken::Text, Spoken::Json, Spoken::Native, Spoken::Echo];
        all.get(number as usize).copied()
    }

    fn in_core(self) -> sapwood_core::Spoken {
        match self {
            Spoken::Text => sapwood_core::Spoken::Text,
            Spoken::Json => sapwood_core::Spoken::Json,
            Spoken::Native => sapwood_core::Spoken::Native,
            Spoken::Echo => sapwood_core::Spoken::Echo,
        }
    }
}

/// What the host configures, as JSON.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Setup {
    /// What clients must know that the host has not let in by itself.
    pub password: Option<String>,
    /// The name that goes with it; `default` if there is none.
    pub user: Option<String>,
    /// Whether clients may publish to `$all`; they may if nothing is said.
    pub broadcast: Option<bool>,
    /// Forty hexadecimal digits that name this run.
    pub run: Option<String>,
}

/// Why settings are none.
#[derive(Debug)]
pub struct SetupError(serde_json::Error);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings cannot be read: {}", self.0)
    }
}

impl std::error::Error for SetupError {}

impl Setup {
    /// Reads a JSON object; nothing at all is all defaults.
    pub fn parse(text: &[u8]) -> Result<Setup, SetupError> {
        match text.is_empty() {
            true => Ok(Setup::default()),
            false => serde_json::from_slice(text).map_err(SetupError),
        }
    }
}

/// A connection as its host sees it.
#[derive(Debug, Default)]
struct Place {
    /// Frames that core has not taken.
    input: Vec<u8>,
    /// How many bytes of them, at the end, it has not seen.
    fresh: usize,
    /// Core said not to read on.
    held: bool,
    /// Output of which no whole frame has come yet.
    partial: Vec<u8>,
    /// The host's socket has too much output.
    is_full: bool,
    /// It stands among those with output.
    is_dirty: bool,
    /// Core is done with it.
    is_closing: bool,
}

/// A broker of one shard, and the connections that a host has.
#[derive(Debug)]
pub struct Host {
    driver: Driver,
    now: Now,
    places: Places,
    /// Connections to be closed because they sent too much while they were held.
    floods: Vec<u32>,
    clients: u64,
}

/// The connections by their numbers.
#[derive(Debug, Default)]
struct Places {
    all: BTreeMap<u32, Place>,
    /// Those with output for the host, which takes it when it asks.
    dirty: Vec<ConnId>,
}

impl Host {
    /// Without connections. The seed decides where names are kept; it should be random.
    pub fn new(setup: Setup, seed: u64, wall_ms: u64) -> Host {
        let config = Config {
            shard: ShardId(0),
            shards: 1,
            user: setup.user.map(String::into_bytes),
            password: setup.password.map(String::into_bytes),
            nats_payload_max: PAYLOAD_BYTES_MAX,
            web: WebSettings {
                echo: true,
                ..WebSettings::default()
            },
            tree: None,
            may_broadcast: setup.broadcast.unwrap_or(true),
            vitals: Arc::default(),
            limits: Limits::default(),
            hash_seed: seed,
            capacity: Default::default(),
            body_gauge: BodyGauge::default(),
            run_id: setup.run.unwrap_or_else(|| format!("{seed:040x}")),
            process_id: 0,
            started_wall_ms: wall_ms,
        };
        Host {
            driver: Driver::new(Shard::new(config)),
            now: Now {
                monotonic_ns: 0,
                wall_ms,
            },
            places: Places::default(),
            floods: Vec::new(),
            clients: 0,
        }
    }

    /// Tells the time, and does what waited for it.
    pub fn set_time(&mut self, monotonic_ns: u64, wall_ms: u64) {
        self.now = Now {
            monotonic_ns: monotonic_ns.max(self.now.monotonic_ns),
            wall_ms,
        };
        self.turn();
    }

    /// Milliseconds until the time is to be told again.
    pub fn due_ms(&self) -> Option<i32> {
        let due_ns = self.driver.shard().next_deadline()?;
        let wait_ns = due_ns.saturating_sub(self.now.monotonic_ns);
        Some(i32::try_from(wait_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX))
    }

    /// Opens a connection under a number of the host's choice that is free; false if it is not.
    pub fn open(&mut self, conn: u32, spoken: Spoken, is_known: bool) -> bool {
        if conn > CONNECTION_MAX || self.places.all.contains_key(&conn) {
            return false;
        }
        self.places.all.insert(conn, Place::default());
        self.clients += 1;
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let input = Input::Opened {
            conn: ConnId(conn),
            client: ClientId(self.clients),
            protocol: Protocol::WebSocket {
                spoken: spoken.in_core(),
                is_known,
            },
            policy: Policy::default(),
            peer: nowhere,
            local: nowhere,
        };
        self.driver.handle(&mut self.places, input, self.now);
        self.turn();
        true
    }

    /// Takes a message of a client; false if there is no such connection.
    pub fn message(&mut self, conn: u32, is_text: bool, message: &[u8]) -> bool {
        let Some(place) = self.places.all.get_mut(&conn) else {
            return false;
        };
        if !place.is_closing {
            let opcode = if is_text { TEXT } else { BINARY };
            let before = place.input.len();
            websocket::write_client_header(&mut place.input, opcode, message.len());
            place.input.extend_from_slice(message);
            place.fresh += place.input.len() - before;
            // Who is held is offered all of it once it may go on.
            if !place.held {
                self.places.offer(&mut self.driver, conn, self.now);
            } else if place.input.len() > INPUT_BYTES_MAX {
                place.is_closing = true;
                place.input = Vec::new();
                self.floods.push(conn);
            }
        }
        self.turn();
        true
    }

    /// Says whether a connection takes output; false if there is no such connection.
    pub fn set_ready(&mut self, conn: u32, is_ready: bool) -> bool {
        let Some(place) = self.places.all.get_mut(&conn) else {
            return false;
        };
        let was_full = std::mem::replace(&mut place.is_full, !is_ready);
        if !is_ready {
            self.driver.sent(ConnId(conn), 0, true);
        } else if was_full {
            place.is_dirty = true;
            self.places.dirty.push(ConnId(conn));
        }
        true
    }

    /// Says that a connection is gone; false if there is none.
    pub fn close(&mut self, conn: u32) -> bool {
        if self.places.all.remove(&conn).is_none() {
            return false;
        }
        self.driver.closed(ConnId(conn), self.now);
        self.turn();
        true
    }

    /// Appends what is to be sent: for each frame the connection (4 bytes, little-endian), what it is (1 byte: the opcode of
    /// RFC 6455), the payload's length (4 bytes) and the payload. Behind a close nothing follows for that connection.
    pub fn take(&mut self, out: &mut Vec<u8>) {
        for conn in std::mem::take(&mut self.floods) {
            let reason = b"more than may wait was sent while nothing was read";
            out.extend_from_slice(&conn.to_le_bytes());
            out.push(websocket::CLOSE.into());
            out.extend_from_slice(&(2 + reason.len() as u32).to_le_bytes());
            out.extend_from_slice(&1008_u16.to_be_bytes());
            out.extend_from_slice(reason);
        }
        self.driver.flush(&mut self.places, self.now);
        for conn in std::mem::take(&mut self.places.dirty) {
            self.take_of(conn, out);
        }
        self.turn();
    }

    fn take_of(&mut self, conn: ConnId, out: &mut Vec<u8>) {
        let Some(place) = self.places.all.get_mut(&conn.0) else {
            return;
        };
        place.is_dirty = false;
        if place.is_full {
            return;
        }
        let mut taken = 0;
        for piece in self.driver.output(conn) {
            let piece = &piece[..piece.len().min(TAKEN_BYTES_MAX - taken)];
            place.partial.extend_from_slice(piece);
            taken += piece.len();
            if taken == TAKEN_BYTES_MAX {
                break;
            }
        }
        self.driver.sent(conn, taken, false);
        if taken == TAKEN_BYTES_MAX {
            place.is_dirty = true;
            self.places.dirty.push(conn);
        }
        let mut from = 0;
        while let Some((opcode, payload)) = websocket::server_frame(&place.partial[from..]) {
            out.extend_from_slice(&conn.0.to_le_bytes());
            out.push(opcode);
            let start = from + payload.start;
            out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            out.extend_from_slice(&place.partial[start..start + payload.len()]);
            from += payload.end;
        }
        place.partial.drain(..from);
        if place.partial.is_empty() {
            place.partial = Vec::new();
        }
    }

    /// Ends the turn, and goes on with connections that core holds no longer.
    fn turn(&mut self) {
        self.driver.turn(&mut self.places, self.now);
    }
}

impl Places {
    /// Offers core what stands of a connection's input.
    fn offer(&mut self, driver: &mut Driver, conn: u32, now: Now) {
        let Some(place) = self.all.get_mut(&conn) else {
            return;
        };
        let mut input = std::mem::take(&mut place.input);
        let bytes = Input::Bytes {
            conn: ConnId(conn),
            bytes: &input,
            fresh: std::mem::take(&mut place.fresh),
        };
        let Some((consumed, next)) = driver.offer(self, bytes, now) else {
            return;
        };
        input.drain(..consumed);
        if let Some(place) = self.all.get_mut(&conn).filter(|place| !place.is_closing) {
            place.held = next == Next::Hold;
            place.input = input;
        }
    }
}

impl Sockets for Places {
    fn write(&mut self, _driver: &mut Driver, conn: ConnId, _now: Now) {
        if let Some(place) = self.all.get_mut(&conn.0)
            && !std::mem::replace(&mut place.is_dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    fn close(&mut self, conn: ConnId, _reason: CloseReason, _now: Now) {
        if let Some(place) = self.all.get_mut(&conn.0) {
            place.is_closing = true;
            place.input = Vec::new();
        }
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        if self.all.get(&conn.0).is_some_and(|place| place.held) {
            self.offer(driver, conn.0, now);
        }
    }

    fn is_open(&self, conn: ConnId) -> bool {
        let place = self.all.get(&conn.0);
        place.is_some_and(|place| !place.is_closing)
    }
}

impl Mail for Places {}
