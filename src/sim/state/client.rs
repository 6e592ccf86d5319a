//! Clients: what they ask for, and that full mailboxes make them wait.
//!
//! Must not know what they will be answered. Start at [`World::step_client`].

use super::worker::{Asked, Call};
use super::world::World;
use crate::rng::Rng;
use sapwood_wire::state::*;
use sapwood_wire::topic::wildcard_matches;
use std::collections::BTreeSet;

/// Calls that a client has in flight at most.
const IN_FLIGHT_MAX: usize = 8;

const NAMES: [&[u8]; 3] = [b"orders", b"audit", b"clicks"];
pub(super) const TOPICS: [&[u8]; 5] = [b"a.1", b"a.2", b"b.1", b"b.2.x", b"c"];
pub(super) const FILTERS: [&[u8]; 4] = [b"a.*", b"b.>", b"c", b"a.1"];

#[derive(Debug, Default)]
pub(super) struct Client {
    /// A call for which a mailbox had no room.
    waiting: Option<Call>,
    in_flight: BTreeSet<u64>,
}

impl Client {
    /// The connection is gone: what was asked for is unknown.
    pub fn forget(&mut self) {
        self.waiting = None;
        self.in_flight.clear();
    }

    pub fn handle_answer(&mut self, call: u64) {
        self.in_flight.remove(&call);
    }
}

/// A message that owns what it says.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub number: u64,
    topic: &'static [u8],
    id: Vec<u8>,
    expected_last: Option<Sequence>,
    expected_last_of_topic: Option<Sequence>,
    ttl_ms: u64,
    body: Vec<u8>,
}

impl Draft {
    pub fn as_message(&self) -> Message<'_> {
        Message {
            topic: self.topic,
            id: &self.id,
            expected_last: self.expected_last,
            expected_last_of_topic: self.expected_last_of_topic,
            ttl_ms: self.ttl_ms,
            headers: &[],
            body: &self.body,
        }
    }
}

fn config_of(rng: &mut Rng, partition: usize, name: Vec<u8>) -> StreamConfig {
    let filters: &[&[u8]] = match rng.below(4) {
        0 => &FILTERS[rng.below(FILTERS.len())..][..1],
        _ => &[],
    };
    let leans_to_os = partition.is_multiple_of(3) != rng.percent(15);
    StreamConfig {
        name,
        filters: filters.iter().map(|one| one.to_vec()).collect(),
        age_ms_max: rng.pick(&[0, 0, 3_000, 20_000]),
        bytes_max: 0,
        messages_max: rng.pick(&[0, 0, 5, 30]),
        discard: rng.pick(&[Discard::Old, Discard::Old, Discard::New]),
        duplicate_window_ms: rng.pick(&[0, 2_000, 30_000]),
        message_bytes_max: 0,
        durability: if leans_to_os {
            Durability::Os
        } else {
            Durability::Fsync
        },
        message_ttl: rng.pick(&[MessageTtl::Allowed, MessageTtl::Refused]),
    }
}

impl World {
    /// A client makes a call, or tries again where there was no room.
    pub(super) fn step_client(&mut self) {
        let number = self.io.rng.below(self.clients.len());
        let client = &mut self.clients[number];
        let call = match client.waiting.take() {
            Some(call) => call,
            None if self.is_draining || client.in_flight.len() >= IN_FLIGHT_MAX => return,
            None => match self.next_call() {
                Some(call) => call,
                None => return,
            },
        };
        let is_asked = !matches!(call.asked, Asked::Unasked(_));
        if is_asked {
            self.calls.insert(call.number, call.clone());
        }
        let mailbox = &mut self.workers[call.worker].mailbox;
        let client = &mut self.clients[number];
        if mailbox.len() >= self.mailbox_max {
            self.io.note("worker's mailbox full");
            client.waiting = Some(call);
            return;
        }
        if is_asked {
            client.in_flight.insert(call.number);
        }
        mailbox.push_back(call);
    }

    /// None if what a client thought of is for nobody.
    fn next_call(&mut self) -> Option<Call> {
        let number = self.next_call;
        self.next_call += 1;
        if self.io.rng.percent(20)
            && let Some(unknown) = self.unknown.pop()
            && unknown.has_ids
        {
            self.io.note("unknown call made again");
            return Some(Call { number, ..unknown });
        }
        let partition = self.io.rng.below(self.partitions);
        let streams: Vec<u32> = self.places[partition]
            .model
            .streams
            .keys()
            .copied()
            .collect();
        let choice = self.io.rng.below(100);
        let mut call = Call {
            number,
            worker: self.worker_of(partition),
            asked: Asked::Unasked(Vec::new()),
            messages: Vec::new(),
            has_ids: false,
        };
        if streams.is_empty() || choice < 6 {
            let config = self.config_of(partition);
            call.asked = Asked::Control(partition, request(Ask::Create(config)));
            return Some(call);
        }
        let stream = self.io.rng.pick(&streams);
        match choice {
            6..45 => self.append(&mut call, partition, stream),
            45..70 => return self.publish(call),
            70..78 => self.batch(&mut call, partition, &streams),
            78..86 => call.asked = self.page(partition, stream),
            _ => {
                let asked = self.change(partition, stream, choice);
                call.asked = Asked::Control(partition, asked);
            }
        }
        Some(call)
    }

    fn append(&mut self, call: &mut Call, partition: usize, stream: u32) {
        let drafts = self.drafts(call, partition, stream, 6);
        let mut bytes = Vec::new();
        let name = &self.places[partition].model.streams[&stream].config.name;
        // One that keeps topics may be asked for by these.
        let by_topic = self.io.rng.percent(10);
        let name = (!by_topic).then_some(name.as_slice());
        write_append(&mut bytes, name, |push| {
            drafts.iter().for_each(|one| push(&one.as_message()));
        });
        call.asked = Asked::Append(bytes);
    }

    /// Publishes messages of one topic, to whoever the shards know that keeps it.
    fn publish(&mut self, mut call: Call) -> Option<Call> {
        let topic = self.io.rng.pick(&TOPICS);
        let keeps = |worker: &super::worker::Worker| {
            let mut filters = worker.interest.iter();
            filters.any(|filter| wildcard_matches(filter, topic))
        };
        call.worker = self.workers.iter().position(keeps)?;
        let mut drafts = Vec::new();
        for _ in 0..self.io.rng.within(1..6) {
            let draft = draft_of(
                &mut self.io.rng,
                (Sequence(0), Sequence(0)),
                self.next_message,
            );
            self.next_message += 1;
            drafts.push(Draft {
                topic,
                expected_last: None,
                expected_last_of_topic: None,
                ..draft
            });
        }
        shorten(&mut drafts);
        call.messages = drafts.iter().map(|one| one.number).collect();
        call.has_ids = drafts.iter().all(|one| !one.id.is_empty());
        call.asked = match self.io.rng.percent(60) {
            true => Asked::Captured(drafts),
            false => Asked::Unasked(drafts),
        };
        Some(call)
    }

    fn batch(&mut self, call: &mut Call, partition: usize, streams: &[u32]) {
        let mut parts = Vec::new();
        for _ in 0..self.io.rng.within(1..4) {
            let stream = self.io.rng.pick(streams);
            let name = self.places[partition].model.streams[&stream]
                .config
                .name
                .clone();
            parts.push((name, self.drafts(call, partition, stream, 3)));
        }
        let mut bytes = Vec::new();
        let mut writer = BatchToWriter::new(&mut bytes);
        for (name, drafts) in &parts {
            writer.push(Some(name), |push| {
                drafts.iter().for_each(|one| push(&one.as_message()));
            });
        }
        call.asked = Asked::Batch(bytes);
    }

    fn drafts(
        &mut self,
        call: &mut Call,
        partition: usize,
        stream: u32,
        most: usize,
    ) -> Vec<Draft> {
        let count = self.io.rng.within(1..most + 1);
        let is_first = call.messages.is_empty();
        let of = &self.places[partition].model.streams[&stream];
        let mut drafts = Vec::new();
        for _ in 0..count {
            let topic = self.io.rng.pick(&TOPICS);
            let last = Sequence(of.next - 1);
            let of_topic = of.messages.iter().rev().find(|(_, one)| one.topic == topic);
            let of_topic = Sequence(of_topic.map_or(0, |(sequence, _)| *sequence));
            let draft = draft_of(&mut self.io.rng, (last, of_topic), self.next_message);
            drafts.push(Draft { topic, ..draft });
            self.next_message += 1;
        }
        // A call that is made again must not be stored twice.
        call.has_ids = (is_first || call.has_ids) && drafts.iter().all(|one| !one.id.is_empty());
        match is_first {
            true => shorten(&mut drafts),
            false => drafts.iter_mut().for_each(|one| one.body.truncate(200)),
        }
        call.messages.extend(drafts.iter().map(|one| one.number));
        drafts
    }

    fn page(&mut self, partition: usize, stream: u32) -> Asked {
        let rng = &mut self.io.rng;
        let of = &self.places[partition].model.streams[&stream];
        let at = Sequence(of.floor() + rng.below(12) as u64);
        let start = match rng.below(8) {
            0 => ReadStart::Last,
            1 => ReadStart::New,
            2 | 3 => ReadStart::First,
            4 => ReadStart::Time(self.io.wall_ms.saturating_sub(rng.below(5_000) as u64)),
            5 => ReadStart::Resume(ResumeToken {
                lineage: super::check::LINEAGE,
                stream: StreamNumber(stream),
                sequence: at,
            }),
            _ => ReadStart::Sequence(at),
        };
        let read = Read {
            stream: &of.config.name,
            start,
            filters: match rng.percent(30) {
                true => vec![rng.pick(&FILTERS)],
                false => Vec::new(),
            },
            messages: rng.within(1..12) as u32,
            bytes: u32::MAX,
        };
        let order = match rng.percent(40) {
            true => Order::BehindWrites,
            false => Order::Now,
        };
        let mut bytes = Vec::new();
        let ask = Ask::Read(read);
        Request { order, ask }.write(&mut bytes);
        Asked::Read(partition, bytes)
    }

    fn config_of(&mut self, partition: usize) -> StreamConfig {
        let name = self.io.rng.pick(&NAMES);
        let name = name_in(partition, self.partitions, name);
        config_of(&mut self.io.rng, partition, name)
    }

    fn change(&mut self, partition: usize, stream: u32, choice: usize) -> Vec<u8> {
        let of = &self.places[partition].model.streams[&stream];
        let before = of.config.clone();
        let rng = &mut self.io.rng;
        let (name, at) = (&before.name, of.floor());
        let asked = match choice {
            86..91 => Ask::Update(StreamConfig {
                durability: before.durability,
                duplicate_window_ms: before.duplicate_window_ms,
                ..config_of(rng, partition, name.clone())
            }),
            91..93 => Ask::Delete(name),
            93..96 => Ask::Purge(PurgeOf {
                stream: name,
                filter: rng.percent(50).then(|| rng.pick(&FILTERS)),
                before: Sequence(match rng.percent(40) {
                    true => u64::MAX,
                    false => at + rng.below(10) as u64,
                }),
                keep: rng.pick(&[0, 0, 2, 5]),
            }),
            _ => Ask::DeleteMessage(name, Sequence(at + rng.below(12) as u64)),
        };
        request(asked)
    }
}

fn request(ask: Ask) -> Vec<u8> {
    let mut bytes = Vec::new();
    let order = Order::Now;
    Request { order, ask }.write(&mut bytes);
    bytes
}

/// A name that lives in a partition.
fn name_in(partition: usize, partitions: usize, name: &[u8]) -> Vec<u8> {
    let tags = (0..).map(|tag| [format!("{{{tag}}}").as_bytes(), name].concat());
    let lives_there =
        |name: &Vec<u8>| usize::from(partition_of(name, partitions as u16).0) == partition;
    let mut there = tags.skip_while(|name| !lives_there(name));
    // invariant: some number comes to each partition.
    there.next().expect("numbers do not end")
}

/// One long body a call at most, so that a call fits into an entry.
fn shorten(drafts: &mut [Draft]) {
    for long in drafts.iter_mut().skip(1) {
        long.body.truncate(200);
    }
}

/// A message under a number; `last`: that of the stream, and that of its topic.
fn draft_of(rng: &mut Rng, last: (Sequence, Sequence), number: u64) -> Draft {
    let id = match rng.below(10) {
        // One of those that came before, perhaps.
        0 => format!("id {}", number.saturating_sub(rng.below(8) as u64)),
        1..6 => format!("id {number}"),
        _ => String::new(),
    };
    let length = match rng.below(60) {
        0 => 4_200,
        _ => rng.below(60),
    };
    let mut body = format!("{number} ").into_bytes();
    body.resize(body.len() + length, b'.');
    Draft {
        number,
        topic: b"",
        id: id.into_bytes(),
        expected_last: rng.percent(8).then_some(last.0),
        expected_last_of_topic: rng.percent(8).then_some(last.1),
        ttl_ms: match rng.percent(8) {
            true => rng.within(100..6_000) as u64,
            false => 0,
        },
        body,
    }
}
