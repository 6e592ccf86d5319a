//! Shards of a node driven by hand in one thread, without sockets: what the micro-benchmarks and the count of
//! allocations share. They take turns as in the server, by core's driver, which allocates nothing of its own
//! once it is warm.

// Each user compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use sapwood_core::command::{ClientId, CloseReason, ConnId, Now, ShardId};
use sapwood_core::driver::{Driver, Mail, Sockets};
use sapwood_core::limits::Limits;
use sapwood_core::mailbox::Batch;
use sapwood_core::{BodyGauge, Config, Input, Next, PAYLOAD_BYTES_MAX, Policy, Protocol, Shard};
use sapwood_wire::native::{self, Hello, Parts, Subscription};
use std::collections::VecDeque;
use std::hint::black_box;

/// No test here depends on the time.
const NOW: Now = Now {
    monotonic_ns: 1,
    wall_ms: 1,
};

/// More turns than any confirmation takes.
const TURNS_MAX: usize = 8;

/// A connection and the shard that owns it.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub shard: usize,
    pub conn: ConnId,
}

/// Shards, their connections and what is on its way between them.
pub struct Node {
    drivers: Vec<Driver>,
    wires: Vec<Wires>,
    /// For each shard, how many connections it has.
    opened: Vec<u32>,
    clients: u64,
}

/// What one shard is wired to.
#[derive(Default)]
struct Wires {
    inbox: VecDeque<(ShardId, Batch)>,
    returned: VecDeque<(ShardId, Batch)>,
    /// What it sends, and what it gives back, to be carried to the others when its turn is over.
    sent: Vec<(ShardId, Batch)>,
    given_back: Vec<(ShardId, Batch)>,
    resumed: Vec<ConnId>,
}

impl Sockets for Wires {
    /// Lets each client take what stands for it.
    fn write(&mut self, driver: &mut Driver, conn: ConnId, _now: Now) {
        let pieces = driver.output(conn);
        let count = pieces.map(|piece| black_box(piece).len()).sum();
        driver.sent(conn, count, false);
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, _now: Now) {
        panic!("the broker closes {conn:?}: {reason:?}");
    }

    fn resume(&mut self, _driver: &mut Driver, conn: ConnId, _now: Now) {
        self.resumed.push(conn);
    }

    fn is_open(&self, _conn: ConnId) -> bool {
        true
    }
}

impl Mail for Wires {
    fn next_returned(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.returned.pop_front()
    }

    fn next_batch(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.inbox.pop_front()
    }

    fn give_back(&mut self, to: ShardId, batch: Batch) {
        self.given_back.push((to, batch));
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        self.sent.push((to, batch));
    }
}

impl Node {
    /// A node without connections.
    pub fn new(shards: u16) -> Node {
        let body_gauge = BodyGauge::default();
        let make = |shard| {
            Driver::new(Shard::new(Config {
                shard: ShardId(shard),
                shards,
                user: None,
                nats_payload_max: PAYLOAD_BYTES_MAX,
                web: Default::default(),
                may_broadcast: true,
                tree: None,
                vitals: Default::default(),
                password: None,
                limits: Limits::default(),
                hash_seed: 1,
                capacity: Default::default(),
                body_gauge: body_gauge.clone(),
                run_id: "0".repeat(40),
                process_id: 1,
                started_wall_ms: 0,
            }))
        };
        Node {
            drivers: (0..shards).map(make).collect(),
            wires: (0..shards).map(|_| Wires::default()).collect(),
            opened: vec![0; usize::from(shards)],
            clients: 0,
        }
    }

    /// Connects a client of Redis that takes events in version 2 of its protocol.
    pub fn connect_resp2(&mut self, shard: usize) -> Client {
        self.connect(shard, Protocol::Redis, Policy::Close)
    }

    /// Connects a client of Redis that takes events in version 3 of its protocol.
    pub fn connect_resp3(&mut self, shard: usize) -> Client {
        let client = self.connect(shard, Protocol::Redis, Policy::Close);
        self.give(client, b"HELLO 3\r\n");
        client
    }

    /// Connects a client of the native protocol.
    pub fn connect_native(&mut self, shard: usize) -> Client {
        self.connect_native_with(shard, Policy::Close)
    }

    /// The same, which loses events by this policy if it reads too slowly.
    pub fn connect_native_with(&mut self, shard: usize, policy: Policy) -> Client {
        let client = self.connect(shard, Protocol::Native, policy);
        let mut hello = Vec::new();
        native::write_hello(&mut hello, &Hello::default());
        self.give(client, &hello);
        client
    }

    /// Connects a client of NATS.
    pub fn connect_nats(&mut self, shard: usize) -> Client {
        let client = self.connect(shard, Protocol::Nats, Policy::Close);
        let json = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
        self.give(client, format!("CONNECT {json}\r\n").as_bytes());
        client
    }

    /// Subscribes a client of NATS, under numbers from `sid` on; `queue` is empty, or ends in a blank.
    pub fn subscribe_nats<'a>(
        &mut self,
        client: Client,
        queue: &str,
        sid: usize,
        subjects: impl IntoIterator<Item = &'a str>,
    ) {
        for (place, subject) in subjects.into_iter().enumerate() {
            let line = format!("SUB {subject} {queue}{}\r\n", sid + place);
            self.give(client, line.as_bytes());
        }
    }

    fn connect(&mut self, shard: usize, protocol: Protocol, policy: Policy) -> Client {
        self.clients += 1;
        let conn = ConnId(self.opened[shard]);
        self.opened[shard] += 1;
        let input = Input::Opened {
            conn,
            client: ClientId(self.clients),
            protocol,
            policy,
            peer: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
        };
        self.drivers[shard].handle(&mut self.wires[shard], input, NOW);
        Client { shard, conn }
    }

    /// Gives a shard what a client sent: one read. Writes in between where the shard asks for it; ends when all is
    /// consumed, and the client is not held any more.
    pub fn give(&mut self, client: Client, bytes: &[u8]) {
        let Client { shard, conn } = client;
        let (mut at, mut fresh) = (0, bytes.len());
        loop {
            let input = Input::Bytes {
                conn,
                bytes: &bytes[at..],
                fresh,
            };
            let offered = self.drivers[shard].offer(&mut self.wires[shard], input, NOW);
            let (consumed, next) = offered.expect("a connection that is open");
            at += consumed;
            fresh = 0;
            match next {
                Next::Hold => self.await_resumed(client),
                _ => break,
            }
        }
        assert_eq!(at, bytes.len(), "the broker left a part of the input");
    }

    /// Takes turns until the client is not held any more.
    fn await_resumed(&mut self, client: Client) {
        for _ in 0..TURNS_MAX {
            self.turn();
            let resumed = &mut self.wires[client.shard].resumed;
            let is_resumed = resumed.contains(&client.conn);
            resumed.clear();
            if is_resumed {
                return;
            }
        }
        panic!("{client:?} is held for ever");
    }

    /// Takes turns of all shards until nothing is on its way between them, and all is written.
    pub fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut is_quiet = true;
            for shard in 0..self.drivers.len() {
                self.drivers[shard].turn(&mut self.wires[shard], NOW);
                is_quiet &= !self.carry(shard);
            }
            if is_quiet {
                return;
            }
        }
    }

    /// Carries what a shard sent to the others; whether there was anything.
    fn carry(&mut self, from: usize) -> bool {
        let by = ShardId(from as u16);
        let mut sent = std::mem::take(&mut self.wires[from].sent);
        let mut given_back = std::mem::take(&mut self.wires[from].given_back);
        let is_any = !sent.is_empty() || !given_back.is_empty();
        for (to, batch) in sent.drain(..) {
            self.wires[usize::from(to.0)].inbox.push_back((by, batch));
        }
        for (to, batch) in given_back.drain(..) {
            let there = &mut self.wires[usize::from(to.0)];
            there.returned.push_back((by, batch));
        }
        self.wires[from].sent = sent;
        self.wires[from].given_back = given_back;
        is_any
    }

    /// Events that subscribers were given, on all shards.
    pub fn delivered(&self) -> u64 {
        let shards = self.drivers.iter().map(Driver::shard);
        shards.map(|shard| shard.counters().events_delivered).sum()
    }

    /// Subscribes a client of Redis by this command to these names, many in one request.
    pub fn subscribe_resp<'a>(
        &mut self,
        client: Client,
        command: &'a str,
        names: impl IntoIterator<Item = &'a str>,
    ) {
        let mut names = names.into_iter().peekable();
        while names.peek().is_some() {
            let words: Vec<&str> = std::iter::once(command)
                .chain(names.by_ref().take(10_000))
                .collect();
            self.give(client, &resp_request(&words));
        }
        self.turn();
    }

    /// Subscribes a client of the native protocol, as this member of the group if that has a name.
    pub fn subscribe_native<'a>(
        &mut self,
        client: Client,
        (group, member): (&str, u32),
        filters: impl IntoIterator<Item = &'a str>,
    ) {
        let mut bytes = Vec::new();
        for filter in filters {
            let subscription = Subscription {
                member,
                group: group.as_bytes(),
                filter: filter.as_bytes(),
            };
            native::write_subscription(&mut bytes, native::kind::SUBSCRIBE, 1, &subscription);
        }
        self.give(client, &bytes);
        self.turn();
    }
}

/// A request of Redis as its clients write it.
pub fn resp_request(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// A PUBLISH of a client of Redis.
pub fn resp_publish(topic: &str, payload_bytes: usize) -> Vec<u8> {
    resp_request(&["PUBLISH", topic, &"x".repeat(payload_bytes)])
}

/// A MESSAGE of a client of the native protocol.
pub fn native_message(topic: &str, payload_bytes: usize) -> Vec<u8> {
    let parts = Parts {
        topic: topic.as_bytes(),
        payload: &vec![b'x'; payload_bytes],
        ..Parts::default()
    };
    let (mut message, mut bytes) = (Vec::new(), Vec::new());
    parts.write(&mut message).expect("a legal message");
    native::write_message(&mut bytes, &message);
    bytes
}
