//! Single behaviours of streams, each with the shortest history that shows it.

use super::histories::live_rows;
use crate::limits::{BLOCK_SEQUENCES, RUN_BODY_BYTES_MAX};
use crate::log::Entry;
use crate::partition::{Applied, ApplyError, Event, Partition};
use crate::store::{Direction, Family, MemoryStore, Store, StoreError, Visit, WriteBatch};
use crate::streams::*;
use sapwood_wire::state::*;
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

const PARTITION: PartitionId = PartitionId(0);
const ONE: StreamNumber = StreamNumber(1);
const PLACE: Place = Place {
    partition: PARTITION,
    stream: ONE,
};
const ALL: PageLimits = PageLimits {
    messages: usize::MAX,
    bytes: usize::MAX,
    looked_at: usize::MAX,
};

/// A partition, its store, and what it was told.
struct Bench {
    store: MemoryStore,
    partition: Partition,
    log: Vec<(u64, Vec<u8>)>,
}

impl Bench {
    fn new(config: StreamConfig) -> Bench {
        let store = MemoryStore::default();
        let partition = Partition::open(PARTITION, &store).unwrap();
        let mut bench = Bench {
            store,
            partition,
            log: Vec::new(),
        };
        let created = Reply::Created(ONE, Creation::New);
        assert_eq!(bench.tell(0, Command::Create(config)), created);
        bench
    }

    fn apply(&mut self, wall_ms: u64, commands: Vec<u8>) -> Applied {
        self.log.push((wall_ms, commands));
        self.replay().pop().unwrap()
    }

    /// Applies one by one what the partition does not have yet.
    fn replay(&mut self) -> Vec<Applied> {
        let mut all = Vec::new();
        for index in self.partition.applied().0..self.log.len() as u64 {
            let (wall_ms, commands) = &self.log[index as usize];
            let entry = entry(index + 1, *wall_ms, commands);
            let applied = self.partition.apply(&[entry], &self.store).unwrap();
            self.store.write(&applied.batch).unwrap();
            all.push(applied);
        }
        all
    }

    fn restart(&mut self) {
        self.partition = Partition::open(PARTITION, &self.store).unwrap();
    }

    fn tell(&mut self, wall_ms: u64, command: Command) -> Reply {
        let mut commands = Vec::new();
        push_command(&mut commands, |out| command.write(out));
        self.apply(wall_ms, commands)
            .replies
            .pop()
            .unwrap()
            .1
            .pop()
            .unwrap()
    }

    fn append(&mut self, wall_ms: u64, messages: &[Message]) -> Vec<Outcome> {
        let commands = append(messages);
        let reply = self
            .apply(wall_ms, commands)
            .replies
            .pop()
            .unwrap()
            .1
            .pop()
            .unwrap();
        match reply {
            Reply::Appended(Appended { outcomes, .. }) => match outcomes {
                Outcomes::Run { first, count } => (first.0..first.0 + u64::from(count))
                    .map(|one| Outcome::Stored(Sequence(one)))
                    .collect(),
                Outcomes::Each(each) => each,
            },
            other => panic!("{other:?}"),
        }
    }

    /// So many messages, one entry each.
    fn fill(&mut self, count: u64) {
        for _ in 0..count {
            self.append(0, &[message("t", "b")]);
        }
    }

    fn view(&self) -> StreamView<'_, MemoryStore> {
        StreamView::open(&self.store, PLACE).unwrap().unwrap()
    }

    fn sequences(&self, now: u64) -> Vec<u64> {
        let mut found = Vec::new();
        let mut visit = |one: &StoredMessage| found.push(one.sequence.0);
        self.view()
            .page(Start::First, &[], ALL, now, &mut visit)
            .unwrap();
        found
    }
}

fn entry(index: u64, wall_ms: u64, commands: &[u8]) -> Entry<'_> {
    Entry {
        partition: PARTITION,
        index: Index(index),
        wall_ms,
        commands,
    }
}

fn append(messages: &[Message]) -> Vec<u8> {
    let mut commands = Vec::new();
    push_command(&mut commands, |out| {
        let mut writer = AppendWriter::new(out, ONE);
        messages.iter().for_each(|one| writer.push(one));
    });
    commands
}

fn message<'a>(topic: &'a str, body: &'a str) -> Message<'a> {
    Message {
        topic: topic.as_bytes(),
        body: body.as_bytes(),
        ..Message::default()
    }
}

fn with_id(id: &str) -> Message<'_> {
    Message {
        id: id.as_bytes(),
        ..message("t", "b")
    }
}

fn config() -> StreamConfig {
    StreamConfig {
        name: b"s".to_vec(),
        ..StreamConfig::default()
    }
}

fn purge_all() -> Command<'static> {
    Command::Purge(Purge {
        stream: ONE,
        filter: None,
        before: Sequence(u64::MAX),
        keep: 0,
    })
}

fn stored(sequence: u64) -> Vec<Outcome> {
    vec![Outcome::Stored(Sequence(sequence))]
}

#[test]
fn id_is_a_duplicate_after_purge_and_restart_until_its_window_is_over() {
    let mut bench = Bench::new(StreamConfig {
        duplicate_window_ms: 1_000,
        ..config()
    });
    assert_eq!(bench.append(100, &[with_id("1")]), stored(1));
    bench.tell(200, purge_all());
    bench.restart();
    let duplicate = vec![Outcome::Duplicate(Sequence(1))];
    assert_eq!(bench.append(1_099, &[with_id("1")]), duplicate);
    assert_eq!(bench.append(1_100, &[with_id("1")]), stored(2));
    let duplicate = vec![Outcome::Duplicate(Sequence(2))];
    assert_eq!(bench.append(2_099, &[with_id("1")]), duplicate);
}

#[test]
fn buckets_of_ids_stay_few_and_go_by_a_cursor() {
    let mut bench = Bench::new(StreamConfig {
        duplicate_window_ms: 100,
        ..config()
    });
    for ms in 0..2_000 {
        bench.append(ms, &[with_id(&ms.to_string())]);
    }
    let floors = floors(&bench.store);
    bench
        .store
        .compact(|family, key, value| floors.is_dead(family, key, value));
    let ids = bench.store.len(Family::Dedup);
    assert!((100..=125).contains(&ids), "{ids} ids");
    bench.tell(2_100, Command::PruneIds(ONE));
    assert_eq!(bench.partition.deadline_ms(), None);
    let ids = live_ids(&bench.store);
    assert_eq!(ids, 0);
}

#[test]
fn id_that_comes_when_the_clock_stepped_back_is_not_below_the_cursor() {
    let mut bench = Bench::new(StreamConfig {
        duplicate_window_ms: 1_000,
        ..config()
    });
    bench.append(100, &[with_id("1")]);
    bench.tell(5_000, Command::PruneIds(ONE));
    assert_eq!(bench.append(100, &[with_id("2")]), stored(2));
    let floors = floors(&bench.store);
    bench
        .store
        .compact(|family, key, value| floors.is_dead(family, key, value));
    let duplicate = vec![Outcome::Duplicate(Sequence(2))];
    assert_eq!(bench.append(101, &[with_id("2")]), duplicate);
}

fn floors(store: &MemoryStore) -> Floors {
    let mut floors = Floors::default();
    floors.read(PARTITION, store).unwrap();
    floors
}

fn live_ids(store: &MemoryStore) -> usize {
    let mut store = store.clone();
    let floors = floors(&store);
    store.compact(|family, key, value| floors.is_dead(family, key, value));
    store.len(Family::Dedup)
}

#[test]
fn entries_applied_before_are_skipped() {
    let mut bench = Bench::new(config());
    bench.fill(2);
    let (wall_ms, commands) = bench.log[2].clone();
    let again = entry(3, wall_ms, &commands);
    let applied = bench.partition.apply(&[again], &bench.store).unwrap();
    assert_eq!(applied, Applied::default());
    assert_eq!(bench.view().info().messages, 2);
}

#[test]
#[should_panic(expected = "an entry of the log is missing")]
fn missing_entry_stops_the_partition() {
    let mut bench = Bench::new(config());
    let commands = append(&[message("t", "b")]);
    let _ = bench
        .partition
        .apply(&[entry(3, 0, &commands)], &bench.store);
}

#[test]
fn entry_of_a_newer_build_is_refused_by_its_version() {
    let mut bench = Bench::new(config());
    let mut commands = append(&[message("t", "b")]);
    commands[4] = 9;
    let applied = bench
        .partition
        .apply(&[entry(2, 0, &commands)], &bench.store);
    let expected = ApplyError::Unreadable(Index(2), DecodeError::Version(9));
    assert_eq!(applied, Err(expected.clone()));
    assert_eq!(
        expected.to_string(),
        "a command in entry 2 cannot be read: it has version 9, which this build does not know"
    );
}

#[test]
fn clock_that_steps_back_does_not_take_time_back() {
    let mut bench = Bench::new(config());
    bench.append(500, &[message("t", "b")]);
    bench.append(300, &[message("t", "b")]);
    bench.append(600, &[message("t", "b")]);
    let mut times = Vec::new();
    let mut visit = |one: &StoredMessage| times.push(one.ms);
    bench
        .view()
        .page(Start::First, &[], ALL, 0, &mut visit)
        .unwrap();
    assert_eq!(times, [500, 500, 600]);
}

#[test]
fn conditions_see_the_messages_before_them_in_the_entry() {
    let mut bench = Bench::new(config());
    let expect = |topic, sequence| Message {
        expected_last_of_topic: Some(Sequence(sequence)),
        ..message(topic, "b")
    };
    let outcomes = bench.append(
        0,
        &[
            expect("a", 0),
            expect("b", 0),
            expect("a", 1),
            expect("a", 1),
            expect("b", 2),
        ],
    );
    let one = |sequence| Outcome::Stored(Sequence(sequence));
    let refused = Outcome::Refused(Refusal::WrongLastOfTopic(Sequence(3)));
    assert_eq!(outcomes, [one(1), one(2), one(3), refused, one(4)]);
}

#[test]
fn last_of_topic_is_the_one_before_when_it_is_deleted() {
    let mut bench = Bench::new(config());
    bench.append(
        0,
        &[message("a", "1"), message("b", "2"), message("a", "3")],
    );
    bench.tell(0, Command::DeleteMessage(ONE, Sequence(3)));
    let expect = |sequence| Message {
        expected_last_of_topic: Some(Sequence(sequence)),
        ..message("a", "b")
    };
    let refused = Outcome::Refused(Refusal::WrongLastOfTopic(Sequence(1)));
    assert_eq!(bench.append(0, &[expect(3)]), [refused]);
    assert_eq!(bench.append(0, &[expect(1)]), stored(4));
}

#[test]
fn batch_is_stored_whole_or_not_at_all() {
    let mut bench = Bench::new(config());
    let second = StreamConfig {
        name: b"two".to_vec(),
        filters: vec![b"x".to_vec()],
        ..config()
    };
    bench.tell(0, Command::Create(second));
    bench.append(0, &[with_id("1")]);
    let before = live_rows(&bench.store);
    let batch = |topic: &'static str| {
        let mut commands = Vec::new();
        push_command(&mut commands, |out| {
            let mut writer = BatchWriter::new(out);
            writer.push(ONE, |part| {
                part.push(&message("t", "b"));
                part.push(&message("u", "b"));
            });
            writer.push(StreamNumber(2), |part| part.push(&message(topic, "b")));
        });
        commands
    };
    let refused = bench.apply(0, batch("y")).replies.pop().unwrap().1;
    assert_eq!(refused, [Reply::BatchRefused(2, Refusal::TopicNotKept)]);
    // But for the applied index nothing has changed.
    assert_eq!(live_rows(&bench.store)[1..], before[1..]);
    let applied = bench.apply(0, batch("x"));
    let part = |stream, first, count| Appended {
        stream,
        outcomes: Outcomes::Run {
            first: Sequence(first),
            count,
        },
    };
    let expected = Reply::Batch(vec![part(ONE, 2, 2), part(StreamNumber(2), 1, 1)]);
    assert_eq!(applied.replies[0].1, [expected]);
    let events = [
        Event::Appended(ONE, Sequence(2), Sequence(3)),
        Event::Appended(StreamNumber(2), Sequence(1), Sequence(1)),
    ];
    assert_eq!(applied.events, events);
}

#[test]
fn stream_made_again_is_another_one() {
    let mut bench = Bench::new(config());
    bench.fill(3);
    let token = ResumeToken {
        lineage: Lineage(7),
        stream: ONE,
        sequence: Sequence(2),
    };
    assert_eq!(
        bench.view().resume(&token, Lineage(7)),
        Resumed::At(Sequence(3))
    );
    assert_eq!(bench.view().resume(&token, Lineage(8)), Resumed::Reset);
    let beyond = ResumeToken {
        sequence: Sequence(4),
        ..token
    };
    assert_eq!(bench.view().resume(&beyond, Lineage(7)), Resumed::Reset);
    assert_eq!(bench.tell(0, Command::Delete(ONE)), Reply::Deleted(ONE, 3));
    assert_eq!(bench.append_reply(), Reply::Refused(Refusal::NoStream));
    let created = bench.tell(0, Command::Create(config()));
    assert_eq!(created, Reply::Created(StreamNumber(2), Creation::New));
    let place = Place {
        stream: StreamNumber(2),
        ..PLACE
    };
    let view = StreamView::open(&bench.store, place).unwrap().unwrap();
    assert_eq!(view.info().messages, 0);
    assert_eq!(view.resume(&token, Lineage(7)), Resumed::Reset);
    // Nothing of the first is left to a compaction.
    let floors = floors(&bench.store);
    bench
        .store
        .compact(|family, key, value| floors.is_dead(family, key, value));
    assert_eq!(bench.store.len(Family::Msgs), 0);
}

impl Bench {
    fn append_reply(&mut self) -> Reply {
        let commands = append(&[message("t", "b")]);
        self.apply(0, commands)
            .replies
            .pop()
            .unwrap()
            .1
            .pop()
            .unwrap()
    }
}

#[test]
fn maintenance_is_proposed_when_it_is_due_and_makes_progress() {
    let mut bench = Bench::new(StreamConfig {
        age_ms_max: 1_000,
        message_ttl: MessageTtl::Allowed,
        duplicate_window_ms: 300,
        ..config()
    });
    assert_eq!(bench.partition.deadline_ms(), None);
    let short = Message {
        ttl_ms: 50,
        ..with_id("1")
    };
    bench.append(100, &[message("t", "b"), short]);
    bench.append(200, &[message("t", "b")]);
    bench.restart();
    let mut seen = Vec::new();
    while let Some(due_ms) = bench.partition.deadline_ms() {
        assert_eq!(bench.partition.maintenance(due_ms - 1, 10), []);
        let commands = bench.partition.maintenance(due_ms, 10);
        assert_eq!(commands.len(), 1, "{commands:?}");
        bench.tell(due_ms, commands[0].clone());
        seen.push((due_ms, bench.sequences(0)));
    }
    let expected = [
        (150, vec![1, 3]),
        (400, vec![1, 3]),
        (1_100, vec![3]),
        (1_200, vec![]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn reads_treat_messages_that_are_over_as_gone() {
    let mut bench = Bench::new(StreamConfig {
        age_ms_max: 1_000,
        message_ttl: MessageTtl::Allowed,
        ..config()
    });
    let short = Message {
        ttl_ms: 50,
        ..message("t", "b")
    };
    bench.append(100, &[message("t", "a"), short]);
    assert_eq!(bench.sequences(149), [1, 2]);
    assert_eq!(bench.sequences(150), [1]);
    assert!(bench.sequences(1_100).is_empty());
    let last = |now| {
        let mut found = 0;
        let mut visit = |one: &StoredMessage| found = one.sequence.0;
        let read = bench.view().last_of_topic(b"t", now, &mut visit);
        read.map(|()| found)
    };
    assert_eq!(last(149), Ok(2));
    assert_eq!(last(150), Ok(1));
    assert_eq!(last(1_100), Err(ReadError::NoMessage));
}

#[test]
fn message_longer_than_the_stream_is_refused() {
    let mut bench = Bench::new(StreamConfig {
        bytes_max: 100,
        ..config()
    });
    let outcomes = bench.append(
        0,
        &[message("t", &"b".repeat(68)), message("t", &"b".repeat(67))],
    );
    let refused = Outcome::Refused(Refusal::MessageTooLong(100));
    assert_eq!(outcomes, [refused, Outcome::Stored(Sequence(1))]);
    assert_eq!(bench.view().info().bytes, 100);
}

#[test]
fn run_of_an_entry_is_one_row_and_batches_do_not_change_rows() {
    let mut bench = Bench::new(config());
    bench.append(0, &[message("t", "b"); 20]);
    assert_eq!(bench.store.len(Family::Msgs), 1);
    assert_eq!(bench.store.len(Family::Last), 1);
    assert_eq!(bench.store.len(Family::Block), 1);
    bench.fill(2);
    assert_eq!(bench.store.len(Family::Msgs), 3);
    let mut store = MemoryStore::default();
    let mut partition = Partition::open(PARTITION, &store).unwrap();
    let entries = bench.log.iter().zip(1..);
    let entries: Vec<_> = entries
        .map(|((ms, commands), index)| entry(index, *ms, commands))
        .collect();
    let applied = partition.apply(&entries, &store).unwrap();
    store.write(&applied.batch).unwrap();
    assert!(live_rows(&store) == live_rows(&bench.store));
}

#[test]
fn purge_goes_over_all_blocks_without_their_runs() {
    let mut bench = Bench::new(config());
    bench.fill(3 * BLOCK_SEQUENCES);
    let purge = |before, keep| {
        Command::Purge(Purge {
            stream: ONE,
            filter: None,
            before: Sequence(before),
            keep,
        })
    };
    let reply = bench.tell(0, purge(BLOCK_SEQUENCES + 10, 0));
    assert_eq!(reply, Reply::Purged(ONE, BLOCK_SEQUENCES + 9, None));
    let reply = bench.tell(0, purge(u64::MAX, 5));
    assert_eq!(reply, Reply::Purged(ONE, 2 * BLOCK_SEQUENCES - 14, None));
    let last = 3 * BLOCK_SEQUENCES;
    assert_eq!(bench.sequences(0), (last - 4..=last).collect::<Vec<_>>());
    bench.tell(0, purge_all());
    assert_eq!(bench.view().info().first, Sequence(last + 1));
    assert_eq!(bench.append(0, &[message("t", "b")]), stored(last + 1));
}

#[test]
fn raised_sequences_are_passed_over_by_every_read() {
    let mut bench = Bench::new(config());
    bench.fill(3);
    assert_eq!(bench.tell(0, Command::Raise(1_000_000_000)), Reply::Raised);
    bench.tell(0, Command::Raise(0));
    bench.restart();
    let next = 1_000_000_003u64.next_multiple_of(BLOCK_SEQUENCES) + BLOCK_SEQUENCES;
    let first = bench.view().info().last.0 + 1;
    assert!(first >= 1_000_000_004 && first <= next);
    assert_eq!(bench.append(0, &[message("t", "b")]), stored(first));
    assert_eq!(bench.sequences(0), [1, 2, 3, first]);
    let page = |from| {
        let mut found = Vec::new();
        let mut visit = |one: &StoredMessage| found.push(one.sequence.0);
        let start = Start::At(Sequence(from));
        let page = bench.view().page(start, &[], ALL, 0, &mut visit).unwrap();
        (page.next.0, page.gap, found)
    };
    assert_eq!(page(77), (first + 1, None, vec![first]));
    let purge = Command::Purge(Purge {
        stream: ONE,
        filter: None,
        before: Sequence(500),
        keep: 0,
    });
    assert_eq!(bench.tell(0, purge), Reply::Purged(ONE, 3, None));
    assert_eq!(bench.view().info().first, Sequence(first));
}

/// A store in which something happens when a range of messages is read the first time.
struct Interrupted<'s> {
    store: RefCell<&'s mut Bench>,
    is_left: Cell<bool>,
    after_rows: usize,
    then: fn(&mut Bench),
}

impl Store for Interrupted<'_> {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.store.borrow().store.get(family, key, value)
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError> {
        if family != Family::Msgs || !self.is_left.replace(false) {
            let store = self.store.borrow().store.clone();
            return store.range(family, from, to, direction, visit);
        }
        // The first rows as they were, then the others as they are afterwards.
        let before = self.store.borrow().store.clone();
        let mut count = 0;
        let mut last = Vec::new();
        let mut flow = ControlFlow::Continue(());
        before.range(family, from, to, direction, &mut |key, row| {
            if count == self.after_rows {
                return ControlFlow::Break(());
            }
            count += 1;
            last = [key, &[0]].concat();
            flow = visit(key, row);
            flow
        })?;
        (self.then)(&mut self.store.borrow_mut());
        let after = self.store.borrow().store.clone();
        let from = if last.is_empty() { from } else { &last };
        match flow.is_continue() {
            true => after.range(family, from, to, direction, visit),
            false => Ok(()),
        }
    }

    fn write(&mut self, _: &WriteBatch) -> Result<(), StoreError> {
        unreachable!("readers do not write")
    }
}

/// Removes the first 30 messages, and their rows.
fn overtake(bench: &mut Bench) {
    let purge = Purge {
        stream: ONE,
        filter: None,
        before: Sequence(31),
        keep: 0,
    };
    bench.tell(0, Command::Purge(purge));
    let floors = floors(&bench.store);
    bench
        .store
        .compact(|family, key, value| floors.is_dead(family, key, value));
}

fn lose_rows(bench: &mut Bench) {
    bench
        .store
        .compact(|family, key, _| family == Family::Msgs && key[13] < 31);
}

/// Removes the first 30 messages, and of their rows the long bodies.
fn overtake_bodies(bench: &mut Bench) {
    let rows = bench.store.clone();
    overtake(bench);
    let bodies = bench.store.clone();
    bench.store = rows;
    let key = PLACE.meta(KIND_STATE);
    let mut state = Vec::new();
    bodies.get(Family::Meta, &key, &mut state).unwrap();
    let write = crate::store::Write {
        family: Family::Meta,
        key: key.to_vec(),
        value: Some(state),
    };
    bench
        .store
        .write(&WriteBatch {
            writes: vec![write],
        })
        .unwrap();
    let is_gone = |key: &[u8]| !bodies.get(Family::Blobs, key, &mut Vec::new()).unwrap();
    bench
        .store
        .compact(|family, key, _| family == Family::Blobs && is_gone(key));
}

fn delete_fifth(bench: &mut Bench) {
    bench.tell(0, Command::DeleteMessage(ONE, Sequence(5)));
}

fn lose_bodies(bench: &mut Bench) {
    bench
        .store
        .compact(|family, key, _| family == Family::Blobs && key[13] == 5);
}

fn interrupted_page(
    after_rows: usize,
    then: fn(&mut Bench),
) -> Result<(Page, Vec<u64>), ReadError> {
    let mut bench = Bench::new(config());
    let body = "b".repeat(RUN_BODY_BYTES_MAX + 1);
    for _ in 0..40 {
        bench.append(0, &[message("t", &body)]);
    }
    let store = Interrupted {
        store: RefCell::new(&mut bench),
        is_left: Cell::new(true),
        after_rows,
        then,
    };
    let view = StreamView::open(&store, PLACE).unwrap().unwrap();
    let mut found = Vec::new();
    let mut visit = |one: &StoredMessage| found.push(one.sequence.0);
    let page = view.page(Start::At(Sequence(1)), &[], ALL, 0, &mut visit)?;
    Ok((page, found))
}

#[test]
fn reader_overtaken_by_the_floor_says_gap() {
    // Before anything was given out, the gap is said and the page goes on behind it.
    let (page, found) = interrupted_page(0, overtake).unwrap();
    assert_eq!(page.gap, Some((Sequence(1), Sequence(31))));
    assert_eq!(found, (31..=40).collect::<Vec<_>>());
    // After that the page ends in front of it, and the next one says it.
    let (page, found) = interrupted_page(10, overtake).unwrap();
    assert_eq!(found, (1..=10).collect::<Vec<_>>());
    let expected = Page {
        next: Sequence(11),
        end: PageEnd::Limit,
        gap: None,
    };
    assert_eq!(page, expected);
}

#[test]
fn long_body_that_goes_under_a_reader_is_passed_over_or_a_gap() {
    let (page, found) = interrupted_page(1, delete_fifth).unwrap();
    assert_eq!((page.end, page.gap), (PageEnd::Head, None));
    assert!(found.len() == 39 && !found.contains(&5), "{found:?}");
    let (page, found) = interrupted_page(1, overtake_bodies).unwrap();
    assert_eq!(
        (page.next, page.end, found),
        (Sequence(2), PageEnd::Limit, vec![1])
    );
    let (page, found) = interrupted_page(0, overtake_bodies).unwrap();
    assert_eq!(page.gap, Some((Sequence(1), Sequence(31))));
    assert_eq!(found, (31..=40).collect::<Vec<_>>());
    let lost = interrupted_page(1, lose_bodies);
    assert!(matches!(
        lost,
        Err(ReadError::Store(StoreError::Damaged { .. }))
    ));
}

#[test]
fn rows_that_are_missing_above_the_floor_are_damage() {
    for after_rows in [0, 10] {
        let page = interrupted_page(after_rows, lose_rows);
        let is_damage = matches!(page, Err(ReadError::Store(StoreError::Damaged { .. })));
        assert!(is_damage, "{page:?}");
    }
}

#[test]
fn damaged_rows_are_named_and_never_panic() {
    let mut bench = Bench::new(config());
    bench.append(0, &[message("t", &"b".repeat(300)), message("t", "b")]);
    let mut rows = Vec::new();
    for family in Family::ALL {
        let mut visit = |key: &[u8], row: &[u8]| {
            rows.push((family, key.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        };
        let range = bench
            .store
            .range(family, &[0], &[255; 4], Direction::Forward, &mut visit);
        range.unwrap();
    }
    assert!(rows.len() >= 7);
    for (family, key, row) in rows {
        for cut in 0..row.len() {
            let mut store = bench.store.clone();
            let write = crate::store::Write {
                family,
                key: key.clone(),
                value: Some(row[..cut].to_vec()),
            };
            store
                .write(&WriteBatch {
                    writes: vec![write],
                })
                .unwrap();
            let opened = Partition::open(PARTITION, &store);
            let read = || -> Result<(), ReadError> {
                let view = StreamView::open(&store, PLACE)?.ok_or(ReadError::NoMessage)?;
                view.last_of_topic(b"t", 0, &mut |_| {})?;
                view.page(Start::First, &[], ALL, 0, &mut |_| {})?;
                Ok(())
            };
            assert!(
                opened.is_err() || read().is_err(),
                "{family:?} cut at {cut}"
            );
        }
    }
}
