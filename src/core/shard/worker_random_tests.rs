//! Shards and workers with windows of a few events, in random turns: nobody waits for ever, everything arrives once and in
//! its order, every call is answered.

use super::*;
use crate::driver::{Driver, Mail, Sockets};
use crate::limits::HANDOVER_COST_MIN;
use sapwood_wire::native::{BrokerFrame, Parsed, Subscription};
use std::collections::{BTreeMap, VecDeque};

const SEEDS: u64 = 200;
const STEPS: usize = 600;
/// More turns of all than the rest takes.
const LAST_TURNS: usize = 4_000;

/// Place of the connection that hears everything, and of the one that asks; publishers come behind.
const LISTENER: ConnId = ConnId(0);
const CALLER: ConnId = ConnId(1);
const PUBLISHERS: [ConnId; 2] = [ConnId(2), ConnId(3)];

/// A random sequence (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What one shard is wired to.
#[derive(Default)]
struct Wires {
    inbox: VecDeque<(ShardId, Batch)>,
    said: VecDeque<(ShardId, Batch)>,
    returned: VecDeque<(ShardId, Batch)>,
    sent: Vec<(ShardId, Batch)>,
    given_back: Vec<(ShardId, Batch)>,
    /// Batches that it takes in this turn.
    taken_max: usize,
    resumed: Vec<ConnId>,
    /// What the listener got.
    heard: Vec<u8>,
}

impl Wires {
    fn may_take(&mut self) -> bool {
        let may_take = self.taken_max > 0;
        self.taken_max -= usize::from(may_take);
        may_take
    }
}

impl Sockets for Wires {
    fn write(&mut self, driver: &mut Driver, conn: ConnId, _now: Now) {
        let bytes = driver.output(conn).collect::<Vec<_>>().concat();
        driver.sent(conn, bytes.len(), false);
        if conn == LISTENER {
            self.heard.extend(bytes);
        }
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
        self.may_take().then(|| self.inbox.pop_front()).flatten()
    }

    fn next_said(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.may_take().then(|| self.said.pop_front()).flatten()
    }

    fn give_back(&mut self, to: ShardId, batch: Batch) {
        self.given_back.push((to, batch));
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        self.sent.push((to, batch));
    }
}

/// A worker that acknowledges what it keeps, and takes in no more before that has room.
struct Worker {
    port: WorkerPort,
    inbox: VecDeque<(ShardId, Batch)>,
    returned: VecDeque<(ShardId, Batch)>,
    present: Option<(ShardId, Batch, BatchCursor)>,
    /// Acknowledgements to be published, and by which shard.
    owed: VecDeque<(ShardId, String)>,
    kept: Vec<(String, String)>,
}

impl Worker {
    fn new(worker: u16, shards: u16, limits: &Limits) -> Worker {
        let mut port = WorkerPort::new(worker, shards, limits);
        let name = format!("k{worker}.>");
        port.set_filters(&[name.as_bytes()], &[]);
        Worker {
            port,
            inbox: VecDeque::new(),
            returned: VecDeque::new(),
            present: None,
            owed: VecDeque::new(),
            kept: Vec::new(),
        }
    }

    /// Takes in at most so many records; gives the batches that are done with.
    fn turn(&mut self, most: usize) -> Vec<(ShardId, Batch)> {
        while let Some((by, batch)) = self.returned.pop_front() {
            self.port.handle_returned(by, batch);
        }
        let mut done = Vec::new();
        for _ in 0..most {
            if !self.publish_owed() {
                break;
            }
            let begun = self.present.take();
            let next = begun.or_else(|| {
                let (from, batch) = self.inbox.pop_front()?;
                Some((from, batch, BatchCursor::default()))
            });
            let Some((from, batch, mut cursor)) = next else {
                break;
            };
            let heard = self.port.handle_batch(from, &batch, &mut cursor).next();
            let is_done = heard.is_none();
            match heard {
                Some(Heard::Events(kept)) => {
                    for payload in kept.payloads() {
                        self.kept.push((text(kept.topic), text(payload)));
                    }
                    if let Some(reply) = kept.reply() {
                        self.owed.push_back((from, text(reply)));
                    }
                    if let Some(asker) = kept.ack {
                        self.port.answer(asker, Bytes::new(), Extent::Done);
                    }
                }
                Some(Heard::Asked { asker, request, .. }) => {
                    let (extent, bytes) = match request.split_first() {
                        Some((_, rest)) => (Extent::More, Bytes::copy_from_slice(rest)),
                        None => (Extent::Done, Bytes::new()),
                    };
                    self.port.answer(asker, bytes, extent);
                }
                None => {}
            }
            match is_done {
                true => done.push((from, batch)),
                false => self.present = Some((from, batch, cursor)),
            }
        }
        done
    }

    /// Publishes acknowledgements as far as there is room; gives whether none is left.
    fn publish_owed(&mut self) -> bool {
        while let Some((by, reply)) = self.owed.front() {
            if !self.port.may_publish(*by) {
                return false;
            }
            let event = Event::plain(Space::Topic, reply.as_bytes(), b"+OK");
            self.port.publish(*by, event);
            self.owed.pop_front();
        }
        true
    }
}

/// A node with workers, and what its clients did.
struct World {
    random: Random,
    drivers: Vec<Driver>,
    wires: Vec<Wires>,
    workers: Vec<Worker>,
    /// Input that publishers have not been rid of, by shard and connection.
    unsent: BTreeMap<(usize, ConnId), Vec<u8>>,
    held: Vec<(usize, ConnId)>,
    /// Events in the order in which each publisher sent them, with their topics.
    published: Vec<(String, String)>,
    replies: Vec<String>,
    asked: usize,
    count: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (shards, workers) = (1 + random.below(3) as u16, 1 + random.below(3) as u16);
        let limits = Limits {
            handover_window_bytes: HANDOVER_COST_MIN,
            handover_backlog_bytes: 100 + random.below(1_000) as usize,
            ..Limits::default()
        };
        let node = Node::make((shards, workers), None, limits.clone(), Capacity::default());
        let mut world = World {
            random,
            drivers: node.shards.into_iter().map(Driver::new).collect(),
            wires: (0..shards).map(|_| Wires::default()).collect(),
            workers: (0..workers)
                .map(|worker| Worker::new(worker, shards, &limits))
                .collect(),
            unsent: BTreeMap::new(),
            held: Vec::new(),
            published: Vec::new(),
            replies: Vec::new(),
            asked: 0,
            count: 0,
        };
        (0..usize::from(shards)).for_each(|shard| world.connect(shard));
        // Everybody is subscribed, and all know what is kept, before anything is published.
        (0..50).for_each(|_| world.turn_all());
        let is_known = |worker: &Worker| worker.port.is_known(1);
        assert!(world.workers.iter().all(is_known) && world.held.is_empty());
        world
    }

    fn connect(&mut self, shard: usize) {
        let native = [LISTENER, CALLER].map(|conn| (conn, Protocol::Native));
        let nats = PUBLISHERS.map(|conn| (conn, Protocol::Nats));
        for (conn, protocol) in native.into_iter().chain(nats) {
            let input = Input::Opened {
                conn,
                client: ClientId(u64::from(conn.0) + 10 * shard as u64),
                protocol,
                policy: Policy::Close,
                peer: ([127, 0, 0, 1], 1).into(),
                local: ([127, 0, 0, 1], 2).into(),
            };
            self.drivers[shard].handle(&mut self.wires[shard], input, Now::default());
            let mut bytes = Vec::new();
            if protocol == Protocol::Native {
                native::write_hello(&mut bytes, &Hello::default());
            }
            if conn == LISTENER {
                let everything = Subscription {
                    member: 0,
                    group: b"",
                    filter: b">",
                };
                native::write_subscription(&mut bytes, native::kind::SUBSCRIBE, 1, &everything);
            }
            if protocol == Protocol::Nats {
                bytes.extend_from_slice(b"CONNECT {\"verbose\":false}\r\n");
            }
            self.unsent.insert((shard, conn), bytes);
            self.offer(shard, conn);
        }
    }

    /// Offers what a connection has to send, unless it is held.
    fn offer(&mut self, shard: usize, conn: ConnId) {
        let unsent = self.unsent.entry((shard, conn)).or_default();
        if unsent.is_empty() || self.held.contains(&(shard, conn)) {
            return;
        }
        let input = Input::Bytes {
            conn,
            bytes: unsent,
            fresh: 0,
        };
        let offered = self.drivers[shard].offer(&mut self.wires[shard], input, Now::default());
        let (consumed, next) = offered.expect("a connection that is open");
        unsent.drain(..consumed);
        if next == Next::Hold {
            self.held.push((shard, conn));
        } else {
            assert!(unsent.is_empty(), "the broker left a part");
        }
    }

    /// A publisher sends a few events of one topic.
    fn publish(&mut self) {
        let shard = self.random.below(self.drivers.len() as u64) as usize;
        let conn = PUBLISHERS[self.random.below(2) as usize];
        let worker = self.random.below(self.workers.len() as u64 + 1);
        let topic = match worker as usize == self.workers.len() {
            true => format!("live.{}", self.random.below(2)),
            false => format!("k{worker}.{}", self.random.below(2)),
        };
        let padding = "x".repeat(self.random.below(200) as usize);
        let wants_replies = self.random.one_in(2);
        for _ in 0..1 + self.random.below(8) {
            self.count += 1;
            let payload = format!("{shard}:{}:{}:{padding}", conn.0, self.count);
            let reply = match wants_replies {
                true => format!("acks.{} ", self.count),
                false => String::new(),
            };
            let frame = format!("PUB {topic} {reply}{}\r\n{payload}\r\n", payload.len());
            let unsent = self.unsent.entry((shard, conn)).or_default();
            unsent.extend_from_slice(frame.as_bytes());
            if wants_replies && topic.starts_with('k') {
                self.replies.push(reply.trim().into());
            }
            self.published.push((topic.clone(), payload));
        }
        self.offer(shard, conn);
    }

    /// A client asks a worker, or publishes what is to be stored.
    fn call(&mut self) {
        let shard = self.random.below(self.drivers.len() as u64) as usize;
        let worker = self.random.below(self.workers.len() as u64) as usize;
        let peer = self.workers[worker].port.peer();
        let parts = self.random.below(4) as usize;
        let stores = self.random.one_in(3);
        let payload = format!("{shard}:{}:{}:", CALLER.0, self.count + 1);
        let topic = format!("k{worker}.0");
        let event = Event::plain(Space::Topic, topic.as_bytes(), payload.as_bytes());
        let there = self.drivers[shard].shard_mut();
        let mut connection = there.connections.take(CALLER).expect("the caller");
        let (_, mut cx) = split(there, &mut connection, CALLER, Now::default());
        let is_asked = match stores {
            true => matches!(cx.publish_stored(event), Stored::Asked(..)),
            false => {
                let written = match parts % 2 {
                    0 => Written::Short,
                    _ => Written::Streamed,
                };
                let request = Bytes::from(vec![b'.'; parts]);
                cx.ask_state(peer, request, written).is_some()
            }
        };
        cx.settle();
        // It asks again some time, whether it is resumed or not.
        connection.blocked = Blocked::default();
        there.connections.put(CALLER, connection);
        if is_asked && stores {
            self.count += 1;
            self.published.push((topic, payload));
        }
        self.asked += match (is_asked, stores) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 1 + parts,
        };
    }

    fn turn(&mut self, shard: usize, most: usize) {
        self.wires[shard].taken_max = most;
        self.drivers[shard].turn(&mut self.wires[shard], Now::default());
        let by = ShardId(shard as u16);
        let shards = self.drivers.len();
        for (to, batch) in std::mem::take(&mut self.wires[shard].sent) {
            match to.index().checked_sub(shards) {
                None => self.wires[to.index()].inbox.push_back((by, batch)),
                Some(worker) => self.workers[worker].inbox.push_back((by, batch)),
            }
        }
        for (to, batch) in std::mem::take(&mut self.wires[shard].given_back) {
            match to.index().checked_sub(shards) {
                None => self.wires[to.index()].returned.push_back((by, batch)),
                Some(worker) => self.workers[worker].returned.push_back((by, batch)),
            }
        }
        for conn in std::mem::take(&mut self.wires[shard].resumed) {
            self.held.retain(|&held| held != (shard, conn));
            self.offer(shard, conn);
        }
    }

    fn turn_of_worker(&mut self, worker: usize, most: usize) {
        let there = &mut self.workers[worker];
        let done = there.turn(most);
        let by = there.port.peer();
        for (to, batch) in done {
            self.wires[to.index()].returned.push_back((by, batch));
        }
        for to in there.port.shards() {
            if let Some(batch) = there.port.take_batch(to) {
                self.wires[to.index()].said.push_back((by, batch));
            }
        }
    }

    fn turn_all(&mut self) {
        (0..self.drivers.len()).for_each(|shard| self.turn(shard, usize::MAX));
        (0..self.workers.len()).for_each(|worker| self.turn_of_worker(worker, 100));
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=2 => self.publish(),
            3 => self.call(),
            4..=6 => {
                let shard = self.random.below(self.drivers.len() as u64) as usize;
                let most = self.random.below(3) as usize;
                self.turn(shard, most);
            }
            // Workers are slower than those who publish.
            _ => {
                let worker = self.random.below(self.workers.len() as u64) as usize;
                let most = self.random.below(6) as usize;
                self.turn_of_worker(worker, most);
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_done = |worker: &Worker| {
            worker.port.is_idle() && worker.owed.is_empty() && worker.present.is_none()
        };
        let are_sent = self.unsent.values().all(Vec::is_empty);
        let are_settled = self
            .drivers
            .iter()
            .all(|driver| driver.shard().is_settled());
        are_sent && are_settled && self.workers.iter().all(is_done)
    }

    /// What a shard's listener got, as topics and payloads.
    fn heard(&self, shard: usize) -> Vec<(String, String)> {
        let bytes = &self.wires[shard].heard;
        let (mut at, mut heard) = (0, Vec::new());
        while at < bytes.len() {
            let frame = native::parse_from_broker(&bytes[at..]);
            let Ok(Parsed::Frame { frame, length }) = frame else {
                panic!("no whole frame");
            };
            at += length;
            if let BrokerFrame::Message(message) = frame {
                heard.push((text(message.topic), text(message.payload)));
            }
        }
        heard
    }

    fn check(&mut self) {
        for shard in 0..self.drivers.len() {
            let (acks, events): (Vec<_>, Vec<_>) = self
                .heard(shard)
                .into_iter()
                .partition(|(topic, _)| topic.starts_with("acks."));
            assert_eq!(by_publisher(&events), by_publisher(&self.published));
            let mut acks: Vec<String> = acks.into_iter().map(|(topic, _)| topic).collect();
            acks.sort_unstable();
            let mut replies = self.replies.clone();
            replies.sort_unstable();
            assert_eq!(acks, replies);
        }
        for (place, worker) in self.workers.iter().enumerate() {
            let own = |(topic, _): &&(String, String)| topic.starts_with(&format!("k{place}."));
            let expected: Vec<_> = self.published.iter().filter(own).cloned().collect();
            assert_eq!(by_publisher(&worker.kept), by_publisher(&expected));
        }
        let mut answers = 0;
        for driver in &mut self.drivers {
            let connection = driver.shard_mut().connections.get_mut(CALLER);
            let Session::Native(session) = &mut connection.expect("the caller").session else {
                panic!("no native connection");
            };
            answers += session.heard.len();
            assert!(session.heard.iter().all(|(_, answer)| answer.is_ok()));
        }
        assert_eq!(answers, self.asked);
    }
}

/// Events by their topic and publisher: the order between others is nobody's.
fn by_publisher(events: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut each: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (topic, payload) in events {
        let publisher: Vec<&str> = payload.split(':').take(2).collect();
        let key = format!("{topic} by {}", publisher.join(":"));
        each.entry(key).or_default().push(payload.clone());
    }
    each
}

#[test]
fn everything_arrives_however_small_the_windows_are() {
    let mut stalls = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        stalls += world
            .drivers
            .iter()
            .map(|driver| driver.shard().counters().stalled_publishers)
            .sum::<u64>();
        let turns = (0..LAST_TURNS).find(|_| {
            world.turn_all();
            world.is_over()
        });
        assert!(turns.is_some(), "somebody waits for ever");
        world.check();
    }
    assert!(stalls > 10 * SEEDS, "the windows are too large: {stalls}");
}
