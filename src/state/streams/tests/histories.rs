//! Random histories of streams, with crashes, torn logs, flushes and compactions, against the model.
//!
//! Every history has a seed, which a failure prints.

use super::model::{Kept, Model, ModelStream};
use crate::log::Entry;
use crate::partition::{Applied, Partition};
use crate::store::{Direction, Family, MemoryStore, Store};
use crate::streams::canary::{self, Canary};
use crate::streams::*;
use sapwood_wire::state::*;
use sapwood_wire::topic::wildcard_matches;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

const PARTITION: PartitionId = PartitionId(3);
const TOPICS: [&str; 7] = ["a.0", "a.1", "a.2", "a.2.x", "b.0", "b.1", "c"];
const FILTERS: [&str; 6] = [">", "a.*", "a.>", "a.2", "b.1", "nothing"];

pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// All rows that are not dead.
pub(super) fn live_rows(store: &MemoryStore) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut floors = Floors::default();
    floors.read(PARTITION, store).unwrap();
    let mut rows = Vec::new();
    for family in Family::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            if !floors.is_dead(family, key, value) {
                rows.push((family, key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        };
        let range = store.range(family, &[0], &[255; 8], Direction::Forward, &mut visit);
        range.unwrap();
    }
    rows
}

/// Ranges of dead keys hold dead rows and no others, and all of them but topics of streams that exist.
fn check_dead_ranges(store: &MemoryStore, floors: &Floors) {
    for family in Family::ALL {
        let (mut dead, mut in_ranges) = (BTreeSet::new(), BTreeSet::new());
        let mut visit = |key: &[u8], value: &[u8]| {
            if floors.is_dead(family, key, value) {
                dead.insert(key.to_vec());
            }
            ControlFlow::Continue(())
        };
        let range = store.range(family, &[0], &[255; 8], Direction::Forward, &mut visit);
        range.unwrap();
        for (from, to) in floors.dead_ranges(family, &Floors::default()) {
            let mut visit = |key: &[u8], _: &[u8]| {
                assert!(in_ranges.insert(key.to_vec()), "ranges meet");
                ControlFlow::Continue(())
            };
            let range = store.range(family, &from, &to, Direction::Forward, &mut visit);
            range.unwrap();
        }
        match family {
            Family::Last => assert!(in_ranges.is_subset(&dead)),
            _ => assert!(in_ranges == dead, "dead rows of {family:?}"),
        }
    }
    assert_eq!(floors.dead_ranges(Family::Msgs, floors), []);
}

struct Logged {
    index: u64,
    wall_ms: u64,
    commands: Vec<u8>,
    replies: Vec<Reply>,
}

impl Logged {
    fn entry(&self) -> Entry<'_> {
        Entry {
            partition: PARTITION,
            index: Index(self.index),
            wall_ms: self.wall_ms,
            commands: &self.commands,
        }
    }
}

/// A fault of the harness, beside those of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    SkipEntryAtReplay,
    CompactByUnflushedFloor,
}

struct World {
    random: Random,
    fault: Fault,
    log: Vec<Logged>,
    store: MemoryStore,
    partition: Partition,
    model: Model,
    /// As of the last flush.
    floors: Floors,
    flushed: u64,
    wall_ms: u64,
}

impl World {
    fn new(seed: u64, fault: Fault) -> World {
        let store = MemoryStore::default();
        World {
            random: Random(seed),
            fault,
            log: Vec::new(),
            partition: Partition::open(PARTITION, &store).unwrap(),
            store,
            model: Model::default(),
            floors: Floors::default(),
            flushed: 0,
            wall_ms: 1_000,
        }
    }

    fn floors_now(&self) -> Floors {
        let mut floors = Floors::default();
        floors.read(PARTITION, &self.store).unwrap();
        floors
    }

    fn flush(&mut self) {
        self.store.flush();
        self.floors = self.floors_now();
        self.flushed = self.log.len() as u64;
    }

    fn compact(&mut self) {
        let floors = match self.fault {
            Fault::CompactByUnflushedFloor => self.floors_now(),
            _ => self.floors.clone(),
        };
        check_dead_ranges(&self.store, &floors);
        self.store
            .compact(|family, key, value| floors.is_dead(family, key, value));
    }

    /// Applies what the store does not have yet, in batches of a random size.
    fn catch_up(&mut self) {
        let mut at = self.partition.applied().0 as usize;
        while at < self.log.len() {
            let count = 1 + self.random.below(5) as usize;
            let end = (at + count).min(self.log.len());
            // From an earlier one: what was applied before is skipped.
            let from = at.saturating_sub(self.random.below(3) as usize);
            let entries: Vec<_> = self.log[from..end].iter().map(Logged::entry).collect();
            let applied = self.partition.apply(&entries, &self.store).unwrap();
            self.store.write(&applied.batch).unwrap();
            self.check_replies(&applied);
            at = end;
        }
    }

    fn check_replies(&self, applied: &Applied) {
        for (index, replies) in &applied.replies {
            let logged = &self.log[index.0 as usize - 1];
            assert_eq!(
                replies, &logged.replies,
                "answers of entry {index} at replay"
            );
        }
    }

    /// A crash: what was not flushed is gone, and perhaps the end of the log.
    fn crash(&mut self) {
        self.store.crash();
        if self.random.one_in(2) {
            let unflushed = self.log.len() as u64 - self.flushed;
            let lost = self.random.below(unflushed + 1);
            self.log.truncate(self.log.len() - lost as usize);
            self.model = Model::default();
            for one in &self.log {
                self.model.apply(one.wall_ms, &one.commands, &one.replies);
            }
        }
        if self.fault == Fault::SkipEntryAtReplay && self.log.len() as u64 > self.flushed {
            // An empty entry stands where one was.
            let at = self.flushed as usize;
            let commands = std::mem::take(&mut self.log[at].commands);
            let replies = std::mem::take(&mut self.log[at].replies);
            self.partition = Partition::open(PARTITION, &self.store).unwrap();
            self.catch_up();
            (self.log[at].commands, self.log[at].replies) = (commands, replies);
        } else {
            self.partition = Partition::open(PARTITION, &self.store).unwrap();
            self.catch_up();
        }
        self.check_reads();
    }

    fn step(&mut self) {
        self.wall_ms = match self.random.below(20) {
            0 => self.wall_ms.saturating_sub(self.random.below(200)),
            1 => self.wall_ms + self.random.below(1_000),
            _ => self.wall_ms + self.random.below(10),
        };
        let mut commands = Vec::new();
        for _ in 0..=self.random.below(3) {
            push_command(&mut commands, |out| self.command(out));
        }
        let index = self.log.len() as u64 + 1;
        self.log.push(Logged {
            index,
            wall_ms: self.wall_ms,
            commands,
            replies: Vec::new(),
        });
        let logged = self.log.last_mut().unwrap();
        let applied = self
            .partition
            .apply(&[logged.entry()], &self.store)
            .unwrap();
        self.store.write(&applied.batch).unwrap();
        logged.replies = applied.replies[0].1.clone();
        let expected = self
            .model
            .apply(logged.wall_ms, &logged.commands, &logged.replies);
        assert_eq!(logged.replies, expected, "answers of entry {index}");
    }

    fn number(&mut self) -> StreamNumber {
        let numbers: Vec<u32> = self.model.streams.keys().copied().collect();
        match numbers.is_empty() || self.random.one_in(40) {
            true => StreamNumber(self.random.below(9) as u32),
            false => StreamNumber(self.random.pick(&numbers)),
        }
    }

    fn config(&mut self, which: u64) -> StreamConfig {
        let random = &mut self.random;
        let mut or_none = |one_in: u64, limit: u64| match random.one_in(one_in) {
            true => 1 + random.below(limit),
            false => 0,
        };
        let filters: [&[&str]; 4] = [&["a.>"], &["b.*", "c"], &[], &["d", "*.1"]];
        StreamConfig {
            name: format!("s{which}").into_bytes(),
            filters: filters[which as usize]
                .iter()
                .map(|one| one.as_bytes().to_vec())
                .collect(),
            age_ms_max: or_none(3, 400),
            bytes_max: or_none(4, 20_000),
            messages_max: or_none(3, 300),
            duplicate_window_ms: or_none(1, 100),
            message_bytes_max: or_none(6, 200) as u32,
            discard: [Discard::Old, Discard::New][or_none(4, 1) as usize],
            durability: Durability::Fsync,
            message_ttl: [MessageTtl::Refused, MessageTtl::Allowed][or_none(2, 1) as usize],
        }
    }

    fn messages(&mut self, stream: StreamNumber, writer: &mut AppendWriter) {
        let count = match self.random.below(4) {
            0 => 1,
            1 => 1 + self.random.below(100),
            _ => 1 + self.random.below(8),
        };
        let mut topic = self.random.pick(&TOPICS);
        for _ in 0..count {
            if self.random.one_in(3) {
                topic = self.random.pick(&TOPICS);
            }
            let random = &mut self.random;
            let id = format!("id{}", random.below(20));
            let model = self.model.streams.get(&stream.0);
            let last = model.map_or(0, |one| one.next - 1);
            let of_topic = model.and_then(|one| one.last_of(topic.as_bytes()));
            let of_topic = of_topic.map_or(0, |one| one.sequence);
            let mut expect = |sequence: u64| {
                let sequence = if random.one_in(5) {
                    random.below(50)
                } else {
                    sequence
                };
                random.one_in(12).then_some(Sequence(sequence))
            };
            let (expected_last, expected_last_of_topic) = (expect(last), expect(of_topic));
            let random = &mut self.random;
            let body = vec![b'a' + random.below(26) as u8; random.below(130) as usize];
            writer.push(&Message {
                topic: topic.as_bytes(),
                id: if random.one_in(6) { id.as_bytes() } else { b"" },
                expected_last,
                expected_last_of_topic,
                ttl_ms: if random.one_in(10) {
                    1 + random.below(80)
                } else {
                    0
                },
                headers: if random.one_in(5) { b"k: v" } else { b"" },
                body: &body,
            });
        }
    }

    fn command(&mut self, out: &mut Vec<u8>) {
        let stream = self.number();
        let newest = self.model.streams.get(&stream.0).map_or(1, |one| one.next);
        let most = 1 + self.random.below(40) as u32;
        let command = match self.random.below(40) {
            0..=2 => {
                let which = self.random.below(4);
                match self.model.streams.get(&stream.0) {
                    Some(one) if self.random.one_in(4) => Command::Create(one.config.clone()),
                    _ => Command::Create(self.config(which)),
                }
            }
            3 => match self
                .model
                .streams
                .get(&stream.0)
                .map(|one| one.config.name[1])
            {
                Some(which) => Command::Update(stream, self.config(u64::from(which - b'0'))),
                None => Command::PruneIds(stream),
            },
            4 if self.random.one_in(4) => match self.random.below(200) {
                by if by % 2 == 0 => Command::Raise(by),
                by => Command::RaiseOs(by),
            },
            4 if self.random.one_in(3) => Command::Delete(stream),
            5..=7 => Command::DeleteMessage(
                stream,
                Sequence(newest - self.random.below(newest.min(60) + 1).min(newest)),
            ),
            8..=9 => Command::ExpireAge(stream, most),
            10..=11 => Command::ExpireTtl(stream, most),
            12 => Command::PruneIds(stream),
            13..=15 => Command::Purge(Purge {
                stream,
                filter: match self.random.one_in(3) {
                    true => None,
                    false => Some(self.random.pick(&FILTERS).as_bytes()),
                },
                before: match self.random.one_in(3) {
                    true => Sequence(u64::MAX),
                    false => Sequence(self.random.below(newest + 3)),
                },
                keep: if self.random.one_in(2) {
                    0
                } else {
                    self.random.below(80)
                },
            }),
            16..=17 => {
                let mut writer = BatchWriter::new(out);
                for _ in 0..1 + self.random.below(3) {
                    let stream = self.number();
                    writer.push(stream, |part| self.messages(stream, part));
                }
                return;
            }
            _ => return self.messages(stream, &mut AppendWriter::new(out, stream)),
        };
        command.write(out);
    }

    /// All that can be read is what the model says.
    fn check_reads(&mut self) {
        let named = self.partition.streams().map(|(number, _)| number.0);
        let numbers: Vec<u32> = self.model.streams.keys().copied().collect();
        assert_eq!(named.collect::<Vec<_>>(), numbers);
        for number in 0..numbers.last().copied().unwrap_or(0) + 2 {
            self.check_stream(number);
        }
    }

    fn check_stream(&mut self, number: u32) {
        let place = Place {
            partition: PARTITION,
            stream: StreamNumber(number),
        };
        let view = StreamView::open(&self.store, place).unwrap();
        let Some(model) = self.model.streams.get(&number) else {
            assert!(view.is_none(), "stream {number} is there");
            return;
        };
        let view = view.unwrap();
        assert_eq!(view.config(), &model.config);
        let info = view.info();
        let first = model.messages.first();
        let expected = Info {
            messages: model.messages.len() as u64,
            bytes: model.bytes(),
            first: Sequence(model.floor()),
            last: Sequence(model.next - 1),
            first_ms: first.map_or(0, |one| one.ms),
            last_ms: model.last_ms,
        };
        assert_eq!(info, expected, "stream {number}");
        let now = self.wall_ms + self.random.below(50);
        check_messages(&view, model, now, &mut self.random);
        check_last_of_each(&view, model, now, &mut self.random);
        check_pages(&view, model, now, &mut self.random);
    }

    /// The same log, applied anew in other batches, gives the same rows.
    fn check_replica(&mut self) {
        let mut store = MemoryStore::default();
        let mut partition = Partition::open(PARTITION, &store).unwrap();
        let mut at = 0;
        while at < self.log.len() {
            let end = (at + 1 + self.random.below(12) as usize).min(self.log.len());
            let entries: Vec<_> = self.log[at..end].iter().map(Logged::entry).collect();
            let applied = partition.apply(&entries, &store).unwrap();
            store.write(&applied.batch).unwrap();
            self.check_replies(&applied);
            if self.random.one_in(4) {
                partition = Partition::open(PARTITION, &store).unwrap();
            }
            at = end;
        }
        assert!(
            live_rows(&store) == live_rows(&self.store),
            "two stores of one log differ"
        );
        assert_eq!(partition.deadline_ms(), self.partition.deadline_ms());
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
            match self.random.below(30) {
                0..=1 => self.flush(),
                2 => self.compact(),
                3 => self.crash(),
                4..=8 => self.check_reads(),
                _ => {}
            }
        }
        self.check_reads();
        self.check_replica();
    }
}

/// Single messages are what the model says.
fn check_messages(
    view: &StreamView<MemoryStore>,
    model: &ModelStream,
    now: u64,
    random: &mut Random,
) {
    let seen = |one: &&Kept| !model.is_over(one, now);
    for topic in TOPICS {
        let of_topic = model.messages.iter().rev().filter(seen);
        let mut of_topic = of_topic.filter(|one| one.topic == topic.as_bytes());
        let found = collect(|visit| view.last_of_topic(topic.as_bytes(), now, visit));
        assert_eq!(
            found.first(),
            of_topic.next().map(shown).as_ref(),
            "last of {topic}"
        );
    }
    for _ in 0..4 {
        let sequence = random.below(model.next + 1);
        let mut one = model.messages.iter().filter(seen);
        let one = one.find(|one| one.sequence == sequence);
        let found = collect(|visit| view.message(Sequence(sequence), now, visit));
        assert_eq!(found.first(), one.map(shown).as_ref(), "message {sequence}");
        let ms = (model.last_ms + 20).saturating_sub(random.below(500));
        let mut later = model
            .messages
            .iter()
            .filter(seen)
            .filter(|one| one.ms >= ms);
        let expected = later.next().map_or(model.next, |one| one.sequence);
        assert_eq!(
            view.first_at(ms, now),
            Ok(Sequence(expected)),
            "first at {ms}"
        );
    }
}

/// Pages from somewhere on are what the model says.
fn check_pages(view: &StreamView<MemoryStore>, model: &ModelStream, now: u64, random: &mut Random) {
    let seen = |one: &&Kept| !model.is_over(one, now);
    let mut filters = Vec::new();
    for _ in 0..random.below(3) {
        filters.push(random.pick(&FILTERS).as_bytes());
    }
    let matches =
        |topic: &[u8]| filters.is_empty() || filters.iter().any(|one| wildcard_matches(one, topic));
    let start = match random.one_in(2) {
        true => Start::First,
        false => Start::At(Sequence(random.below(model.next + 2))),
    };
    let limits = PageLimits {
        messages: 1 + random.below(60) as usize,
        bytes: random.below(4_000) as usize,
        looked_at: 1 + random.below(90) as usize,
    };
    let from = match start {
        Start::First => model.floor(),
        Start::At(from) => from.0,
    };
    let matching = model
        .messages
        .iter()
        .filter(seen)
        .filter(|one| one.sequence >= from && matches(&one.topic));
    let expected: Vec<Kept> = matching.map(shown).collect();
    assert_eq!(
        pages(view, start, &filters, limits, now),
        expected,
        "pages from {start:?}"
    );
    let gap = view
        .page(start, &filters, limits, now, &mut |_| {})
        .unwrap()
        .gap;
    let expected = (from < model.floor()).then_some((Sequence(from), Sequence(model.floor())));
    assert_eq!(gap, expected);
}

/// The last messages of topics are what the model says, however they are cut into pages.
fn check_last_of_each(
    view: &StreamView<MemoryStore>,
    model: &ModelStream,
    now: u64,
    random: &mut Random,
) {
    let filter = random.pick(&FILTERS).as_bytes();
    let mut expected = BTreeMap::new();
    for one in model.messages.iter().filter(|one| !model.is_over(one, now)) {
        if wildcard_matches(filter, &one.topic) {
            expected.insert(one.topic.clone(), one.sequence);
        }
    }
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    let most = 1 + random.below(4) as usize;
    loop {
        let mut visit = |topic: &[u8], sequence: Sequence| found.push((topic.to_vec(), sequence.0));
        let next = view.last_of_each(after.as_deref(), &[filter], most, now, &mut visit);
        after = next.unwrap();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
}

/// What a read of one message gave; nothing if it said that there is none.
fn collect(
    read: impl FnOnce(&mut dyn FnMut(&StoredMessage)) -> Result<(), ReadError>,
) -> Vec<Kept> {
    let mut found = Vec::new();
    match read(&mut |one| found.push(kept(one))) {
        Ok(()) => assert_eq!(found.len(), 1),
        Err(error) => assert_eq!(error, ReadError::NoMessage),
    }
    found
}

/// Of a message that was read, what the model knows; when it expires is not shown to readers.
fn kept(one: &StoredMessage) -> Kept {
    Kept {
        sequence: one.sequence.0,
        ms: one.ms,
        topic: one.topic.to_vec(),
        headers: one.headers.to_vec(),
        body: one.body.to_vec(),
        expires_ms: 0,
    }
}

/// As a reader sees it.
fn shown(one: &Kept) -> Kept {
    Kept {
        expires_ms: 0,
        ..one.clone()
    }
}

/// All pages from a start on.
fn pages(
    view: &StreamView<MemoryStore>,
    mut start: Start,
    filters: &[&[u8]],
    limits: PageLimits,
    now: u64,
) -> Vec<Kept> {
    let mut found = Vec::new();
    loop {
        let (before, mut bytes) = (found.len(), 0);
        let page = view
            .page(start, filters, limits, now, &mut |one| {
                bytes += one.topic.len() + one.headers.len() + one.body.len();
                found.push(kept(one));
            })
            .unwrap();
        let count = found.len() - before;
        assert!(count <= limits.messages && (count <= 1 || bytes <= limits.bytes));
        if page.end == PageEnd::Head {
            return found;
        }
        assert!(start != Start::At(page.next), "no progress");
        start = Start::At(page.next);
    }
}

/// What a history reached: names of answers, for a test that is to reach all.
fn reached(world: &World, found: &mut BTreeSet<&'static str>) {
    let mut outcome = |one: &Outcome| match one {
        Outcome::Stored(_) => found.insert("stored"),
        Outcome::Duplicate(_) => found.insert("duplicate"),
        Outcome::Refused(refusal) => found.insert(refusal.name()),
    };
    for reply in world.log.iter().flat_map(|one| &one.replies) {
        if let Reply::Appended(part) = reply
            && let Outcomes::Each(each) = &part.outcomes
        {
            each.iter().for_each(|one| _ = outcome(one));
        }
    }
    for reply in world.log.iter().flat_map(|one| &one.replies) {
        found.insert(match reply {
            Reply::Created(_, Creation::New) => "created",
            Reply::Created(_, Creation::Existing) => "existing",
            Reply::Updated(_) => "updated",
            Reply::Deleted(..) => "deleted",
            Reply::Appended(_) => "appended",
            Reply::Batch(_) => "batch",
            Reply::BatchRefused(..) => "batch_refused",
            Reply::Purged(_, _, None) => "purged",
            Reply::Purged(_, _, Some(_)) => "purged_more",
            Reply::Expired(_, _, Rest::Done) => "expired",
            Reply::Expired(_, _, Rest::More) => "expired_more",
            Reply::Pruned(_) => "pruned",
            Reply::MessageDeleted(_) => "message_deleted",
            Reply::Refused(refusal) => refusal.name(),
            Reply::Raised => "raised",
        });
    }
}

#[test]
fn histories_with_crashes_agree_with_the_model() {
    let mut found = BTreeSet::new();
    for seed in 0..400 {
        let mut world = World::new(seed, Fault::None);
        let run = catch_unwind(AssertUnwindSafe(|| world.run(120)));
        assert!(run.is_ok(), "seed {seed}");
        reached(&world, &mut found);
    }
    let all = "appended batch batch_refused created deleted duplicate existing expired expired_more \
               filters_taken message_deleted message_too_long no_message no_stream pruned purged purged_more raised \
               search_too_long stored stream_exists stream_full topic_not_kept ttl_refused updated wrong_last_of_topic \
               wrong_last_sequence";
    let missing: Vec<_> = all
        .split_whitespace()
        .filter(|one| !found.contains(one))
        .collect();
    assert!(
        missing.is_empty(),
        "not reached: {missing:?}; reached {found:?}"
    );
}

/// Whether some seed of a few notices a fault. [`histories_with_crashes_agree_with_the_model`] runs the same ones without.
fn is_noticed(fault: Fault, canary: Option<Canary>) -> bool {
    canary::set(canary);
    let noticed = (0..60)
        .any(|seed| catch_unwind(AssertUnwindSafe(|| World::new(seed, fault).run(120))).is_err());
    canary::set(None);
    noticed
}

#[test]
fn ids_that_a_purge_forgets_are_noticed() {
    assert!(is_noticed(Fault::None, Some(Canary::ForgetIdsAtPurge)));
}

#[test]
fn sequence_that_is_used_again_is_noticed() {
    assert!(is_noticed(Fault::None, Some(Canary::ReuseSequence)));
}

#[test]
fn entry_that_replay_skips_is_noticed() {
    assert!(is_noticed(Fault::SkipEntryAtReplay, None));
}

#[test]
fn compaction_by_an_unflushed_floor_is_noticed() {
    assert!(is_noticed(Fault::CompactByUnflushedFloor, None));
}
