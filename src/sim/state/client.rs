//! Clients: what they ask for, and that full mailboxes make them wait.
//!
//! Must not know what they will be answered. Start at [`World::step_client`].

use super::model::ModelStream;
use super::worker::Call;
use super::world::World;
use crate::rng::Rng;
use sapwood_wire::state::*;
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
#[derive(Debug)]
struct Draft {
    topic: &'static [u8],
    id: Vec<u8>,
    expected_last: Option<Sequence>,
    expected_last_of_topic: Option<Sequence>,
    ttl_ms: u64,
    body: Vec<u8>,
}

impl Draft {
    fn as_message(&self) -> Message<'_> {
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

fn config_of(rng: &mut Rng, partition: usize) -> StreamConfig {
    let filters: &[&[u8]] = match rng.below(4) {
        0 => &FILTERS[rng.below(FILTERS.len())..][..1],
        _ => &[],
    };
    let leans_to_os = partition.is_multiple_of(3) != rng.percent(15);
    StreamConfig {
        name: rng.pick(&NAMES).to_vec(),
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
            None => self.next_call(),
        };
        self.calls.insert(call.number, call.clone());
        let worker = self.worker_of(call.partition);
        let mailbox = &mut self.workers[worker].mailbox;
        let client = &mut self.clients[number];
        if mailbox.len() >= self.mailbox_max {
            self.io.note("worker's mailbox full");
            client.waiting = Some(call);
            return;
        }
        client.in_flight.insert(call.number);
        mailbox.push_back(call);
    }

    fn next_call(&mut self) -> Call {
        let number = self.next_call;
        self.next_call += 1;
        if self.io.rng.percent(20)
            && let Some(unknown) = self.unknown.pop()
            && unknown.has_ids
        {
            self.io.note("unknown call made again");
            return Call { number, ..unknown };
        }
        let partition = self.io.rng.below(self.partitions);
        let streams: Vec<u32> = self.places[partition]
            .model
            .streams
            .keys()
            .copied()
            .collect();
        let mut call = Call {
            number,
            partition,
            command: Vec::new(),
            streams: Vec::new(),
            has_ids: false,
        };
        let choice = self.io.rng.below(100);
        if streams.is_empty() || choice < 6 {
            let config = config_of(&mut self.io.rng, partition);
            push_command(&mut call.command, |out| Command::Create(config).write(out));
            return call;
        }
        let stream = self.io.rng.pick(&streams);
        if self.io.rng.percent(1) {
            let by = self.io.rng.pick(&[0, 1, 900, 1_000_000_000]);
            push_command(&mut call.command, |out| Command::Raise(by).write(out));
            return call;
        }
        match choice {
            6..70 => self.append(&mut call, stream),
            70..80 => self.batch(&mut call, &streams),
            _ => {
                let command = self.change(partition, stream, choice);
                push_command(&mut call.command, |out| command.write(out));
            }
        }
        call
    }

    fn append(&mut self, call: &mut Call, stream: u32) {
        let drafts = self.drafts(call, stream, 6);
        push_command(&mut call.command, |out| {
            let mut writer = AppendWriter::new(out, StreamNumber(stream));
            drafts.iter().for_each(|one| writer.push(&one.as_message()));
        });
    }

    fn batch(&mut self, call: &mut Call, streams: &[u32]) {
        let mut parts = Vec::new();
        for _ in 0..self.io.rng.within(1..4) {
            let stream = self.io.rng.pick(streams);
            parts.push((stream, self.drafts(call, stream, 3)));
        }
        push_command(&mut call.command, |out| {
            let mut writer = BatchWriter::new(out);
            for (stream, drafts) in &parts {
                writer.push(StreamNumber(*stream), |part| {
                    drafts.iter().for_each(|one| part.push(&one.as_message()));
                });
            }
        });
    }

    fn drafts(&mut self, call: &mut Call, stream: u32, most: usize) -> Vec<Draft> {
        call.streams.push(stream);
        let count = self.io.rng.within(1..most + 1);
        let of = &self.places[call.partition].model.streams[&stream];
        let mut drafts = Vec::new();
        for _ in 0..count {
            let draft = draft_of(&mut self.io.rng, of, self.next_message);
            self.next_message += 1;
            drafts.push(draft);
        }
        // A call that is made again must not be stored twice.
        let is_first = call.streams.len() == 1;
        call.has_ids = (is_first || call.has_ids) && drafts.iter().all(|one| !one.id.is_empty());
        // One long body a call at most, so that a call fits into an entry.
        let rest = drafts.iter_mut().skip(usize::from(is_first));
        for long in rest {
            long.body.truncate(200);
        }
        drafts
    }

    fn change(&mut self, partition: usize, stream: u32, choice: usize) -> Command<'static> {
        let rng = &mut self.io.rng;
        let of = &self.places[partition].model.streams[&stream];
        let number = StreamNumber(stream);
        match choice {
            80..85 => {
                let config = StreamConfig {
                    name: of.config.name.clone(),
                    durability: of.config.durability,
                    duplicate_window_ms: of.config.duplicate_window_ms,
                    ..config_of(rng, partition)
                };
                Command::Update(number, config)
            }
            85..87 => Command::Delete(number),
            87..92 => Command::Purge(Purge {
                stream: number,
                filter: rng.percent(50).then(|| rng.pick(&FILTERS)),
                before: Sequence(match rng.percent(40) {
                    true => u64::MAX,
                    false => of.floor() + rng.below(10) as u64,
                }),
                keep: rng.pick(&[0, 0, 2, 5]),
            }),
            _ => Command::DeleteMessage(number, Sequence(of.floor() + rng.below(12) as u64)),
        }
    }
}

fn draft_of(rng: &mut Rng, of: &ModelStream, number: u64) -> Draft {
    let topic = rng.pick(&TOPICS);
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
    let last = Sequence(of.next - 1);
    let of_topic = of.messages.iter().rev().find(|(_, one)| one.topic == topic);
    let of_topic = Sequence(of_topic.map_or(0, |(sequence, _)| *sequence));
    Draft {
        topic,
        id: id.into_bytes(),
        expected_last: rng.percent(8).then_some(last),
        expected_last_of_topic: rng.percent(8).then_some(of_topic),
        ttl_ms: match rng.percent(8) {
            true => rng.within(100..6_000) as u64,
            false => 0,
        },
        body,
    }
}
