//! Workers, one behaviour at a time, over a store in memory and a log that does what the test says.

use super::*;
use crate::limits::{EXPIRE_MESSAGES_MAX, OPEN_READS_MAX};
use crate::store::{Direction, Family, MemoryStore, Store, Visit, WriteBatch};
use sapwood_wire::limits::{ANSWER_PART_BYTES, MESSAGE_HEADERS_BYTES_MAX, STORED_BODY_BYTES_MAX};
use sapwood_wire::state::{
    Ask, BatchToWriter, Commands, Creation, List, Message, Order, Outcome, Outcomes, PurgeOf, Read,
    ReadHead, ReadStart, Request, Rest, ResumeToken, StreamConfig, Which, partition_of,
    write_append,
};

mod reads;
mod waits;

const PARTITIONS: u16 = 8;
const LINEAGE: Lineage = Lineage(7);

/// An answer that owns what it says, in a form that tests compare.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Stored(String, u32, Durability, Vec<Result<u64, Refusal>>),
    Page(Vec<(u64, String, usize)>, ReadHead),
    Refused(Refusal, String),
    Other(Vec<u8>),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn outcomes(of: &Outcomes) -> Vec<Result<u64, Refusal>> {
    match of {
        Outcomes::Run { first, count } => (first.0..).take(*count as usize).map(Ok).collect(),
        Outcomes::Each(each) => each
            .iter()
            .map(|one| match one {
                Outcome::Stored(sequence) | Outcome::Duplicate(sequence) => Ok(sequence.0),
                Outcome::Refused(refusal) => Err(*refusal),
            })
            .collect(),
    }
}

fn heard(bytes: &[u8]) -> Heard {
    match Answer::read(bytes).unwrap() {
        Answer::Stored(one) => Heard::Stored(
            text(one.stream),
            one.position,
            one.durability,
            outcomes(&one.outcomes.outcomes),
        ),
        Answer::Page(page) => Heard::Page(
            page.messages
                .map(|one| (one.sequence.0, text(one.topic), one.body.len()))
                .collect(),
            page.head,
        ),
        Answer::Refused(refusal, stream) => Heard::Refused(refusal, text(stream)),
        _ => Heard::Other(bytes.to_vec()),
    }
}

fn other(answer: Answer) -> Heard {
    let mut bytes = Vec::new();
    answer.write(&mut bytes);
    Heard::Other(bytes)
}

fn refused(refusal: Refusal) -> Heard {
    Heard::Refused(refusal, String::new())
}

struct Bench {
    store: MemoryStore,
    worker: Worker,
    tags: u64,
    /// What the log was offered.
    log: Vec<Proposal>,
    heard: Vec<(Tag, Heard, Part)>,
    changes: Vec<ChangeNumber>,
}

fn setup(store: &MemoryStore, filters: SharedFilters, owned: &[u16]) -> Setup {
    let open = |id: &u16| {
        let partition = Partition::open(PartitionId(*id), store).unwrap();
        let next = Index(partition.applied().0 + 1);
        (partition, next)
    };
    Setup {
        worker: 3,
        lineage: LINEAGE,
        partitions: PARTITIONS,
        owned: owned.iter().map(open).collect(),
        filters,
        last_stop: LastStop::Clean,
        entry_bytes_max: crate::limits::ENTRY_COMMAND_BYTES_MAX,
        wall_ms: 1_000,
    }
}

impl Bench {
    fn new() -> Bench {
        let all: Vec<u16> = (0..PARTITIONS).collect();
        Bench::owning(SharedFilters::default(), &all)
    }

    fn owning(filters: SharedFilters, owned: &[u16]) -> Bench {
        let store = MemoryStore::default();
        Bench::of(Worker::new(setup(&store, filters, owned)), store)
    }

    fn of(worker: Worker, store: MemoryStore) -> Bench {
        Bench {
            store,
            worker,
            tags: 0,
            log: Vec::new(),
            heard: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn tag(&mut self) -> Tag {
        self.tags += 1;
        Tag(self.tags)
    }

    fn send(&mut self, bytes: &[u8]) -> Tag {
        let tag = self.tag();
        self.worker.handle_request(tag, bytes);
        tag
    }

    fn ask(&mut self, ask: Ask) -> Tag {
        self.ask_in(Order::Now, ask)
    }

    fn ask_in(&mut self, order: Order, ask: Ask) -> Tag {
        let mut bytes = Vec::new();
        Request { order, ask }.write(&mut bytes);
        self.send(&bytes)
    }

    fn append(&mut self, stream: Option<&str>, messages: &[(&str, usize)]) -> Tag {
        let mut bytes = Vec::new();
        write_append(&mut bytes, stream.map(str::as_bytes), |push| {
            for (topic, length) in messages {
                push(&message(topic, &vec![b'.'; *length]));
            }
        });
        self.send(&bytes)
    }

    fn publish(&mut self, topic: &str, count: usize) -> Tag {
        let tag = self.tag();
        let messages = (0..count).map(|_| message(topic, b"body"));
        self.worker.capture(messages, Some(tag));
        tag
    }

    /// Ends a turn; what was proposed goes to the log.
    fn turn(&mut self) {
        self.worker.end_turn();
        while let Some(proposal) = self.worker.poll_proposal() {
            self.log.push(proposal);
        }
    }

    fn news(&mut self, written: u64, synced: u64) {
        self.worker.handle_news(LogNews { written, synced });
        while self.worker.apply(&mut self.store).unwrap() == Progress::More {}
        self.hear();
    }

    fn hear(&mut self) {
        while self.worker.read(&self.store).unwrap() {}
        let all = &mut self.heard;
        self.worker
            .take_answers(|tag, bytes, part| all.push((tag, heard(bytes), part)));
        while let Some(output) = self.worker.poll_output() {
            if let Output::Filters { change, .. } = output {
                self.changes.push(change);
            }
        }
    }

    /// The log has all, and all shards know all.
    fn settle(&mut self) {
        // Ends when a turn has nothing to propose.
        loop {
            self.turn();
            let last = self.log.last().map_or(0, |one| one.number);
            self.news(last, last);
            for change in std::mem::take(&mut self.changes) {
                self.worker.handle_known(change);
            }
            self.hear();
            if !self.worker.wants_turn() {
                return;
            }
        }
    }

    /// What a tag has heard so far. The last part ends it.
    fn parts(&self, tag: Tag) -> Vec<Heard> {
        let mine: Vec<_> = self.heard.iter().filter(|one| one.0 == tag).collect();
        let is_last = |part: &&&(Tag, Heard, Part)| part.2 == Part::Last;
        let ended = mine.iter().position(|one| is_last(&one));
        assert!(ended.is_none_or(|at| at + 1 == mine.len()), "{mine:?}");
        mine.into_iter().map(|one| one.1.clone()).collect()
    }

    fn is_ended(&self, tag: Tag) -> bool {
        let mut mine = self.heard.iter().filter(|one| one.0 == tag);
        mine.any(|one| one.2 == Part::Last)
    }

    /// The only answer of a tag.
    fn answer(&self, tag: Tag) -> Heard {
        let parts = self.parts(tag);
        assert!(parts.len() == 1 && self.is_ended(tag), "{parts:?}");
        parts[0].clone()
    }

    fn make(&mut self, config: StreamConfig) {
        let tag = self.ask(Ask::Create(config));
        self.settle();
        assert_eq!(self.answer(tag), other(Answer::Created(Creation::New)));
    }

    fn read(&mut self, read: Read) -> Tag {
        let tag = self.ask(Ask::Read(read));
        self.hear();
        tag
    }
}

fn message<'a>(topic: &'a str, body: &'a [u8]) -> Message<'a> {
    Message {
        topic: topic.as_bytes(),
        body,
        ..Message::default()
    }
}

fn config(name: &str, filters: &[&str]) -> StreamConfig {
    StreamConfig {
        name: name.as_bytes().to_vec(),
        filters: filters.iter().map(|one| one.as_bytes().to_vec()).collect(),
        ..StreamConfig::default()
    }
}

fn os(config: StreamConfig) -> StreamConfig {
    StreamConfig {
        durability: Durability::Os,
        ..config
    }
}

fn stored(name: &str, position: u32, sequences: std::ops::Range<u64>) -> Heard {
    let sequences = sequences.map(Ok).collect();
    Heard::Stored(name.into(), position, Durability::Fsync, sequences)
}

fn reading(stream: &str, start: ReadStart) -> Read<'_> {
    Read {
        stream: stream.as_bytes(),
        start,
        filters: Vec::new(),
        messages: u32::MAX,
        bytes: u32::MAX,
    }
}

fn sequences(parts: &[Heard]) -> Vec<u64> {
    let of = |part: &Heard| match part {
        Heard::Page(messages, _) => messages.iter().map(|one| one.0).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    parts.iter().flat_map(of).collect()
}

fn head(part: &Heard) -> ReadHead {
    match part {
        Heard::Page(_, head) => *head,
        other => panic!("{other:?}"),
    }
}

/// A name that lives in a partition.
fn name_in(partition: u16) -> String {
    let mut names = (0..).map(|number| format!("s{number}"));
    names
        .find(|name| partition_of(name.as_bytes(), PARTITIONS) == PartitionId(partition))
        .unwrap()
}

#[test]
fn messages_of_a_stream_in_a_turn_are_one_command_told_by_ranges() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    bench.log.clear();
    let one = bench.publish("o.a", 3);
    bench
        .worker
        .capture([message("o.b", b"unheard")].into_iter(), None);
    let two = bench.publish("o.a", 2);
    let three = bench.append(Some("orders"), &[("o.c", 1)]);
    bench.turn();
    assert_eq!(bench.log.len(), 1);
    assert_eq!(Commands::new(&bench.log[0].commands).count(), 1);
    assert_eq!(bench.log[0].worker, 3);
    bench.settle();
    assert_eq!(bench.answer(one), stored("orders", 0, 1..4));
    assert_eq!(bench.answer(two), stored("orders", 0, 5..7));
    assert_eq!(bench.answer(three), stored("orders", 0, 7..8));
    assert_eq!(bench.worker.counters().stored, 7);
}

#[test]
fn what_needs_the_sync_is_told_behind_it_and_os_when_it_is_written() {
    let mut bench = Bench::new();
    let (synced, quick) = (name_in(1), name_in(2));
    bench.make(config(&synced, &["f"]));
    bench.make(os(config(&quick, &["q"])));
    let (one, two) = (bench.publish("f", 1), bench.publish("q", 1));
    bench.turn();
    let last = bench.log.last().unwrap().number;
    bench.news(last, last - 2);
    assert_eq!(bench.parts(one), []);
    assert_eq!(
        bench.answer(two),
        Heard::Stored(quick, 0, Durability::Os, vec![Ok(1)])
    );
    bench.news(last, last);
    assert_eq!(bench.answer(one), stored(&synced, 0, 1..2));
}

#[test]
fn entry_of_both_durabilities_waits_for_its_sync() {
    let mut bench = Bench::new();
    bench.make(config("{t}f", &["f"]));
    bench.make(os(config("{t}q", &["q"])));
    let tag = bench.publish("q", 1);
    bench.publish("f", 1);
    bench.turn();
    let last = bench.log.last().unwrap();
    assert_eq!(last.durability, Durability::Fsync);
    let last = last.number;
    bench.news(last, last - 1);
    assert_eq!(bench.parts(tag), []);
    bench.news(last, last);
    assert_eq!(bench.answer(tag), stored("{t}q", 0, 1..2));
}

#[test]
fn while_an_update_is_under_way_os_streams_wait_for_the_sync() {
    let mut bench = Bench::new();
    bench.make(os(config("q", &["q"])));
    bench.ask(Ask::Update(config("q", &["q"])));
    bench.turn();
    bench.publish("q", 1);
    bench.turn();
    assert_eq!(bench.log.last().unwrap().durability, Durability::Fsync);
    bench.settle();
    bench.ask(Ask::Update(os(config("q", &["q"]))));
    bench.settle();
    bench.publish("q", 1);
    bench.turn();
    assert_eq!(bench.log.last().unwrap().durability, Durability::Os);
}

#[test]
fn change_of_filters_is_answered_when_all_shards_know_it() {
    let mut bench = Bench::new();
    let made = bench.ask(Ask::Create(config("orders", &["o.>"])));
    bench.turn();
    bench.news(1, 1);
    // Another one that asks for the same hears it no sooner.
    let again = bench.ask(Ask::Create(config("orders", &["o.>"])));
    bench.turn();
    bench.news(2, 2);
    assert_eq!((bench.parts(made), bench.parts(again)), (vec![], vec![]));
    let change = bench.changes.pop().unwrap();
    bench.worker.handle_known(change);
    bench.hear();
    assert_eq!(bench.answer(made), other(Answer::Created(Creation::New)));
    let existing = other(Answer::Created(Creation::Existing));
    assert_eq!(bench.answer(again), existing);
    let gone = bench.ask(Ask::Delete(b"orders"));
    bench.turn();
    bench.news(3, 3);
    assert_eq!(bench.parts(gone), []);
    // Shards may still send its topics here, so nobody else keeps them yet.
    let early = bench.ask(Ask::Create(config("other", &["o.a"])));
    bench.hear();
    let taken = Refusal::FiltersTaken(StreamNumber(0));
    assert_eq!(bench.answer(early), Heard::Refused(taken, "orders".into()));
    bench.settle();
    assert_eq!(bench.answer(gone), other(Answer::Deleted(0)));
    bench.make(config("other", &["o.a"]));
}

#[test]
fn of_two_creates_at_the_same_time_in_two_workers_one_gets_the_filter() {
    let filters = SharedFilters::default();
    let mut one = Bench::owning(filters.clone(), &[0, 1, 2, 3]);
    let mut two = Bench::owning(filters, &[4, 5, 6, 7]);
    let (first, second) = (name_in(1), name_in(5));
    // Neither is applied, nor even proposed, when the other comes.
    let a = one.ask(Ask::Create(config(&first, &["o.*"])));
    let b = two.ask(Ask::Create(config(&second, &["o.a"])));
    one.settle();
    two.settle();
    assert_eq!(one.answer(a), other(Answer::Created(Creation::New)));
    let taken = Refusal::FiltersTaken(StreamNumber(0));
    assert_eq!(two.answer(b), Heard::Refused(taken, first.clone()));
    // An update takes filters, and gives them back.
    one.ask(Ask::Update(config(&first, &["p"])));
    one.settle();
    two.make(config(&second, &["o.a"]));
    let c = one.ask(Ask::Update(config(&first, &["o.>"])));
    one.settle();
    assert_eq!(one.answer(c), Heard::Refused(taken, second));
}

#[test]
fn create_that_the_partition_refuses_gives_its_filters_back() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o"]));
    let tag = bench.ask(Ask::Create(config("orders", &["p"])));
    bench.settle();
    let exists = Refusal::StreamExists(StreamNumber(1));
    assert_eq!(bench.answer(tag), refused(exists));
    bench.make(config("other", &["p"]));
}

#[test]
fn topics_that_no_stream_keeps_are_dropped_counted_and_said() {
    let mut bench = Bench::new();
    let never = bench.publish("nobody", 2);
    bench
        .worker
        .capture([message("$KV.a", b"")].into_iter(), None);
    bench.make(config("orders", &[">"]));
    let of_broker = bench.publish("$KV.a", 1);
    bench.ask(Ask::Delete(b"orders"));
    let meanwhile = bench.publish("o.a", 3);
    bench.settle();
    let both = vec![Err(Refusal::NoStream); 2];
    let nobody = |each| Heard::Stored(String::new(), 0, Durability::Fsync, each);
    assert_eq!(bench.answer(never), nobody(both));
    let one = vec![Err(Refusal::NoStream)];
    assert_eq!(bench.answer(of_broker), nobody(one));
    let gone = vec![Err(Refusal::NoStream); 3];
    let gone = Heard::Stored("orders".into(), 0, Durability::Fsync, gone);
    assert_eq!(bench.answer(meanwhile), gone);
    assert_eq!(bench.worker.counters().refused[1], 2 + 1 + 1 + 3);
}

#[test]
fn longest_message_is_stored_and_longer_ones_are_refused_at_the_door() {
    let mut bench = Bench::new();
    let topic = "t".repeat(1_024);
    let (body, headers) = (
        vec![1; STORED_BODY_BYTES_MAX],
        vec![2; MESSAGE_HEADERS_BYTES_MAX],
    );
    bench.make(config("long", &[&topic]));
    let id = [b'i'; 255];
    let longest = Message {
        topic: topic.as_bytes(),
        id: &id,
        expected_last: Some(Sequence(0)),
        expected_last_of_topic: Some(Sequence(0)),
        ttl_ms: 0,
        headers: &headers,
        body: &body,
    };
    let one = bench.tag();
    bench.worker.capture([longest].into_iter(), Some(one));
    let above = [&body[..], &[1]].concat();
    let two = bench.tag();
    let longer = Message {
        body: &above,
        ..longest
    };
    bench.worker.capture([longer].into_iter(), Some(two));
    let three = bench.send(&vec![1; 2 << 20]);
    bench.settle();
    assert_eq!(bench.answer(one), stored("long", 0, 1..2));
    let too_large = Refusal::TooLarge(1 << 20);
    let each = vec![Err(too_large)];
    let nobody = Heard::Stored(String::new(), 0, Durability::Fsync, each);
    assert_eq!(bench.answer(two), nobody);
    assert!(too_large.to_string().contains("1048576"));
    let cap = sapwood_wire::limits::STATE_REQUEST_BYTES_MAX as u32;
    assert_eq!(bench.answer(three), refused(Refusal::TooLarge(cap)));
    let read = bench.read(reading("long", ReadStart::First));
    assert_eq!(sequences(&bench.parts(read)), [1]);
}

#[test]
fn worker_is_full_at_its_cap_until_what_it_took_is_applied() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o"]));
    let mut taken = 0;
    while !bench.worker.is_full() {
        bench.publish("o", 10);
        taken += 10;
        bench.turn();
        assert!(taken < 100_000, "it is never full");
    }
    assert!(bench.worker.taken_bytes < TAKEN_BYTES_MAX + 1_000);
    bench.settle();
    assert!(!bench.worker.is_full());
    assert_eq!(
        (bench.worker.taken_bytes, bench.worker.taken_commands),
        (0, 0)
    );
    assert_eq!(bench.worker.counters().stored, taken);
}

#[test]
fn os_entries_that_are_not_synced_are_bounded_too() {
    let mut bench = Bench::new();
    bench.make(os(config("q", &["q"])));
    let body = vec![0; 1 << 20];
    let mut last = 0;
    while !bench.worker.is_full() {
        bench
            .worker
            .capture([message("q", &body)].into_iter(), None);
        bench.turn();
        last = bench.log.last().unwrap().number;
        bench.log.clear();
        bench.news(last, 2);
        assert!(last < 100, "it is never full");
    }
    assert_eq!(bench.worker.taken_bytes, 0);
    bench.news(last, last);
    assert!(!bench.worker.is_full());
}

#[test]
fn after_a_failure_nothing_is_acknowledged_and_reads_go_on() {
    let mut bench = Bench::new();
    let (one, two) = (name_in(1), name_in(2));
    bench.make(config(&one, &["o"]));
    let held = bench.ask(Ask::Create(config(&two, &["p"])));
    bench.turn();
    bench.news(2, 2);
    let offered = bench.publish("o", 1);
    bench.turn();
    let not_offered = bench.publish("o", 1);
    bench.worker.end_turn();
    let gathered = bench.publish("o", 1);
    let waiting = bench.ask_in(Order::BehindWrites, Ask::Info(one.as_bytes()));
    bench.worker.fail();
    let new = bench.append(Some(&one), &[("o", 1)]);
    let published = bench.publish("o", 1);
    let made = bench.ask(Ask::Create(config("new", &[])));
    assert_eq!(bench.worker.poll_proposal(), None);
    bench.news(3, 3);
    bench
        .worker
        .handle_known(ChangeNumber(bench.worker.changes));
    bench.hear();
    let failed = refused(Refusal::StorageFailed);
    let of = |refusal| Heard::Stored(one.clone(), 0, Durability::Fsync, vec![Err(refusal)]);
    assert_eq!(bench.answer(held), refused(Refusal::Unknown));
    assert_eq!(bench.answer(offered), of(Refusal::Unknown));
    assert_eq!(bench.answer(not_offered), of(Refusal::StorageFailed));
    assert_eq!(bench.answer(gathered), of(Refusal::StorageFailed));
    assert_eq!(bench.answer(waiting), failed);
    let each = Heard::Stored(
        String::new(),
        0,
        Durability::Fsync,
        vec![Err(Refusal::StorageFailed)],
    );
    assert_eq!(bench.answer(new), failed);
    assert_eq!(bench.answer(published), each);
    assert_eq!(bench.answer(made), failed);
    let read = bench.read(reading(&one, ReadStart::First));
    assert_eq!(sequences(&bench.parts(read)), Vec::<u64>::new());
    assert!(!bench.worker.is_full());
    assert_eq!(bench.worker.deadline_ms(), None);
}

/// A store whose writes fail.
struct Broken(MemoryStore);

impl Store for Broken {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.0.get(family, key, value)
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError> {
        self.0.range(family, from, to, direction, visit)
    }

    fn write(&mut self, _: &WriteBatch) -> Result<(), StoreError> {
        Err(StoreError::Failed("no".into()))
    }
}

#[test]
fn store_that_cannot_be_written_fails_the_worker() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o"]));
    let tag = bench.publish("o", 1);
    bench.turn();
    let last = bench.log.last().unwrap().number;
    bench.worker.handle_news(LogNews {
        written: last,
        synced: last,
    });
    let mut broken = Broken(bench.store.clone());
    let error = WorkerError::Store(StoreError::Failed("no".into()));
    assert_eq!(bench.worker.apply(&mut broken), Err(error));
    assert!(bench.worker.is_failed());
    bench.hear();
    let unknown = vec![Err(Refusal::Unknown)];
    let unknown = Heard::Stored("orders".into(), 0, Durability::Fsync, unknown);
    assert_eq!(bench.answer(tag), unknown);
}

#[test]
fn purge_of_several_commands_is_answered_once_and_reads_behind_it_wait() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    for _ in 0..10 {
        bench.publish("o.a", 40);
        bench.publish("o.b", 10);
    }
    bench.settle();
    let purge = PurgeOf {
        stream: b"orders",
        filter: Some(b"o.a"),
        before: Sequence(u64::MAX),
        keep: 2,
    };
    let tag = bench.ask(Ask::Purge(purge));
    let behind = bench.ask_in(
        Order::BehindWrites,
        Ask::Read(reading("orders", ReadStart::First)),
    );
    let entries = bench.log.len();
    bench.turn();
    let last = bench.log.last().unwrap().number;
    bench.news(last, last);
    assert_eq!((bench.parts(tag), bench.parts(behind)), (vec![], vec![]));
    assert!(bench.worker.wants_turn());
    bench.settle();
    assert!(bench.log.len() > entries + 2);
    assert_eq!(bench.answer(tag), other(Answer::Purged(398)));
    // The read's first part: it goes on when its reader asks.
    let mut found = sequences(&bench.parts(behind));
    for _ in 0..20 {
        bench.worker.handle_more(behind);
        bench.hear();
    }
    assert!(bench.is_ended(behind));
    found = sequences(&bench.parts(behind)).max(found);
    assert_eq!(found.len(), 102);
}

#[test]
fn append_that_does_not_fit_an_entry_is_answered_in_parts() {
    let store = MemoryStore::default();
    let all: Vec<u16> = (0..PARTITIONS).collect();
    let worker = Worker::new(Setup {
        entry_bytes_max: 300,
        ..setup(&store, SharedFilters::default(), &all)
    });
    let mut bench = Bench::of(worker, store);
    bench.make(config("orders", &["o"]));
    let entries = bench.log.len();
    let tag = bench.append(Some("orders"), &[("o", 100); 7]);
    let alone = bench.append(Some("orders"), &[("o", 10)]);
    let long = bench.append(
        Some("orders"),
        &[("o", 10), ("o", 300), ("o", 300), ("o", 10)],
    );
    bench.settle();
    assert!(bench.log.len() >= entries + 4);
    assert!(bench.log.iter().all(|one| one.commands.len() <= 300));
    let parts = bench.parts(tag);
    assert!(parts.len() > 2 && bench.is_ended(tag), "{parts:?}");
    let mut position = 0;
    for part in parts {
        let Heard::Stored(_, at, _, each) = part else {
            panic!("{part:?}");
        };
        assert_eq!(at, position);
        let expected = (u64::from(position) + 1..).take(each.len()).map(Ok);
        assert_eq!(each, expected.collect::<Vec<_>>());
        position += each.len() as u32;
    }
    assert_eq!(position, 7);
    assert_eq!(bench.answer(alone), stored("orders", 0, 8..9));
    let refused = vec![Err(Refusal::TooLarge(300)); 2];
    let at_the_door = Heard::Stored(String::new(), 1, Durability::Fsync, refused);
    let mut parts = bench.parts(long);
    assert!(bench.is_ended(long));
    assert_eq!(parts.remove(0), at_the_door);
    let expected = Heard::Stored("orders".into(), 0, Durability::Fsync, vec![Ok(9)]);
    assert_eq!(parts[0], expected);
    assert_eq!(parts[1], stored("orders", 3, 10..11));
}

#[test]
fn append_by_topic_goes_to_several_partitions_and_ends_once() {
    let mut bench = Bench::new();
    let (one, two) = (name_in(1), name_in(2));
    bench.make(config(&one, &["a"]));
    bench.make(config(&two, &["b"]));
    let tag = bench.append(None, &[("a", 1), ("a", 1), ("b", 1), ("c", 1), ("a", 1)]);
    bench.settle();
    let mut parts = bench.parts(tag);
    assert!(bench.is_ended(tag));
    parts.sort_by_key(|part| match part {
        Heard::Stored(_, position, ..) => *position,
        other => panic!("{other:?}"),
    });
    let nobody = vec![Err(Refusal::NoStream)];
    let expected = [
        stored(&one, 0, 1..3),
        stored(&two, 2, 1..2),
        Heard::Stored(String::new(), 3, Durability::Fsync, nobody),
        stored(&one, 4, 3..4),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn batch_is_stored_whole_or_not_at_all() {
    let mut bench = Bench::new();
    bench.make(config("{t}a", &["a"]));
    bench.make(config("{t}b", &["b"]));
    bench.make(config(&name_in(1), &["far"]));
    let batch = |bench: &mut Bench, parts: &[(Option<&str>, &str, Option<Sequence>)]| {
        let mut bytes = Vec::new();
        let mut writer = BatchToWriter::new(&mut bytes);
        for (stream, topic, expected_last) in parts {
            writer.push(stream.map(str::as_bytes), |push| {
                push(&Message {
                    expected_last: *expected_last,
                    ..message(topic, b"")
                });
            });
        }
        let tag = bench.send(&bytes);
        bench.settle();
        bench.answer(tag)
    };
    let Heard::Other(bytes) = batch(&mut bench, &[(None, "a", None), (Some("{t}b"), "b", None)])
    else {
        panic!("it is not stored");
    };
    let Ok(Answer::BatchStored(Durability::Fsync, parts)) = Answer::read(&bytes) else {
        panic!("it is not stored");
    };
    let parts = parts
        .iter()
        .map(|one| (text(one.stream), outcomes(&one.outcomes.outcomes)));
    let expected = [("{t}a".into(), vec![Ok(1)]), ("{t}b".into(), vec![Ok(1)])];
    assert_eq!(parts.collect::<Vec<_>>(), expected);
    let wrong = Some(Sequence(7));
    let found = batch(&mut bench, &[(None, "a", None), (None, "b", wrong)]);
    let expected = Answer::BatchRefused(1, Refusal::WrongLast(Sequence(1)));
    assert_eq!(found, other(expected));
    let found = batch(&mut bench, &[(None, "a", None), (None, "far", None)]);
    assert_eq!(found, refused(Refusal::BatchSpans));
    let found = batch(&mut bench, &[(None, "a", None), (None, "nobody", None)]);
    assert_eq!(found, other(Answer::BatchRefused(1, Refusal::NoStream)));
    assert_eq!(batch(&mut bench, &[]), refused(Refusal::RequestInvalid));
    assert_eq!(bench.worker.counters().stored, 2);
}

#[test]
fn unclean_start_gives_no_sequence_of_an_os_stream_again() {
    let mut bench = Bench::new();
    bench.make(os(config("{t}q", &["q"])));
    bench.make(config("{t}f", &["f"]));
    let made = bench.store.clone();
    bench.publish("q", 5);
    bench.publish("f", 5);
    bench.settle();
    let read = bench.read(reading("{t}q", ReadStart::First));
    let token = head(&bench.answer(read)).end.unwrap().token;
    // The power goes, and with it the messages of both: nobody was told of the second's.
    let worker = |last_stop| {
        let all: Vec<u16> = (0..PARTITIONS).collect();
        Worker::new(Setup {
            last_stop,
            ..setup(&made, SharedFilters::default(), &all)
        })
    };
    let mut bench = Bench::of(worker(LastStop::Unclean), made.clone());
    assert!(bench.worker.is_full(), "nothing comes before the raise");
    bench.settle();
    assert!(!bench.worker.is_full());
    bench.publish("q", 2);
    bench.publish("f", 1);
    bench.settle();
    let tag = bench.read(reading("{t}q", ReadStart::Resume(token)));
    let answer = bench.answer(tag);
    assert!(!head(&answer).is_reset);
    let new = sequences(&[answer]);
    assert!(new.len() == 2 && new[0] > OS_RAISE, "{new:?}");
    let tag = bench.read(reading("{t}f", ReadStart::First));
    assert_eq!(sequences(&[bench.answer(tag)]), [1]);
    // Behind a clean stop nothing is raised.
    let mut bench = Bench::of(worker(LastStop::Clean), made.clone());
    bench.publish("q", 1);
    bench.settle();
    let tag = bench.read(reading("{t}q", ReadStart::First));
    assert_eq!(sequences(&[bench.answer(tag)]), [1]);
}

#[test]
fn maintenance_is_proposed_when_due_and_once_until_it_is_applied() {
    let mut bench = Bench::new();
    bench.make(StreamConfig {
        age_ms_max: 100,
        ..config("orders", &["o"])
    });
    bench.publish("o", 3);
    bench.settle();
    assert_eq!(bench.worker.deadline_ms(), Some(1_100));
    bench.worker.handle_clock(1_099);
    bench.turn();
    let before = bench.log.len();
    bench.worker.handle_clock(1_100);
    bench.turn();
    bench.turn();
    assert_eq!(bench.log.len(), before + 1);
    let command = Commands::new(&bench.log[before].commands).next().unwrap();
    let expected = Command::ExpireAge(StreamNumber(1), EXPIRE_MESSAGES_MAX);
    assert_eq!(command, Ok(expected));
    assert_eq!(bench.worker.deadline_ms(), None);
    bench.settle();
    let tag = bench.ask(Ask::Info(b"orders"));
    bench.hear();
    let Heard::Other(bytes) = bench.answer(tag) else {
        panic!("no info");
    };
    assert!(matches!(Answer::read(&bytes), Ok(Answer::Info(info)) if info.messages == 0));
}

#[test]
fn stream_that_is_made_again_at_once_gets_its_own_messages() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o"]));
    bench.publish("o", 2);
    let deleted = bench.ask(Ask::Delete(b"orders"));
    let twice = bench.ask(Ask::Delete(b"orders"));
    let made = bench.ask(Ask::Create(config("orders", &["o"])));
    // It is known by its old number until the create is applied.
    let between = bench.publish("o", 1);
    bench.settle();
    assert_eq!(bench.answer(deleted), other(Answer::Deleted(2)));
    assert_eq!(bench.answer(twice), refused(Refusal::NoStream));
    assert_eq!(bench.answer(made), other(Answer::Created(Creation::New)));
    let gone = vec![Err(Refusal::NoStream)];
    let gone = Heard::Stored("orders".into(), 0, Durability::Fsync, gone);
    assert_eq!(bench.answer(between), gone);
    let tag = bench.publish("o", 1);
    bench.settle();
    assert_eq!(bench.answer(tag), stored("orders", 0, 1..2));
    let unreadable = bench.send(b"\x01\x63");
    bench.hear();
    assert_eq!(bench.answer(unreadable), refused(Refusal::RequestInvalid));
}
