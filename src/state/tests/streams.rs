//! Streams with the limits that a broker has, and what applying costs.

use sapwood_state::log::Entry;
use sapwood_state::partition::Partition;
use sapwood_state::store::{Family, MemoryStore, Store};
use sapwood_state::streams::{PageEnd, PageLimits, Place, Start, StoredMessage, StreamView};
use sapwood_wire::state::*;
use std::time::{Duration, Instant};

const PARTITION: PartitionId = PartitionId(0);
const ONE: StreamNumber = StreamNumber(1);

struct Machine {
    store: MemoryStore,
    partition: Partition,
}

impl Machine {
    fn new(config: StreamConfig) -> Machine {
        let store = MemoryStore::default();
        let partition = Partition::open(PARTITION, &store).unwrap();
        let mut machine = Machine { store, partition };
        let mut commands = Vec::new();
        push_command(&mut commands, |out| Command::Create(config).write(out));
        machine.apply(&[commands]);
        machine
    }

    /// Applies entries as one batch. Returns the rows that were written, and how long applying and writing took.
    fn apply(&mut self, entries: &[Vec<u8>]) -> (usize, Duration, Duration) {
        let first = self.partition.applied().0 + 1;
        let entries: Vec<_> = entries
            .iter()
            .zip(first..)
            .map(|(commands, index)| Entry {
                partition: PARTITION,
                index: Index(index),
                wall_ms: 1_000 + index,
                commands,
            })
            .collect();
        let start = Instant::now();
        let applied = self.partition.apply(&entries, &self.store).unwrap();
        let apply = start.elapsed();
        let start = Instant::now();
        self.store.write(&applied.batch).unwrap();
        (applied.batch.writes.len(), apply, start.elapsed())
    }

    fn view(&self) -> StreamView<'_, MemoryStore> {
        let place = Place {
            partition: PARTITION,
            stream: ONE,
        };
        StreamView::open(&self.store, place).unwrap().unwrap()
    }
}

fn config() -> StreamConfig {
    StreamConfig {
        name: b"s".to_vec(),
        filters: vec![b"t.>".to_vec()],
        ..StreamConfig::default()
    }
}

/// An append of so many messages from a number on, whose topics repeat after so many.
fn append(first: u64, count: u64, topics: u64, body: &[u8], change: Change) -> Vec<u8> {
    let mut commands = Vec::new();
    push_command(&mut commands, |out| {
        let mut writer = AppendWriter::new(out, ONE);
        for number in first..first + count {
            let topic = format!("t.{}", number % topics);
            let mut message = Message {
                topic: topic.as_bytes(),
                body,
                ..Message::default()
            };
            change(&mut message, number);
            writer.push(&message);
        }
    });
    commands
}

type Change = fn(&mut Message, u64);

const ALL: PageLimits = PageLimits {
    messages: usize::MAX,
    bytes: usize::MAX,
    looked_at: usize::MAX,
};

#[test]
fn thousand_messages_of_a_topic_are_few_rows() {
    let mut machine = Machine::new(config());
    let entries: Vec<_> = (0..10)
        .map(|one| append(one * 100, 100, 1, &[7; 128], |_, _| {}))
        .collect();
    let (rows, ..) = machine.apply(&entries);
    // A run each entry, and one each of last, block, state and partition.
    assert_eq!(rows, 10 + 4);
    let (rows, ..) = machine.apply(&[append(0, 1_000, 1, &[7; 128], |_, _| {})]);
    // 133,000 bytes are nine runs; they reach into a second block.
    assert_eq!(rows, 9 + 5);
}

#[test]
fn bodies_of_all_lengths_come_back() {
    let mut machine = Machine::new(config());
    let lengths = [0, 1, 4_095, 4_096, 4_097, 16_384, 16_385, 1 << 19];
    for length in lengths {
        machine.apply(&[append(0, 2, 1, &vec![length as u8; length], |_, _| {})]);
    }
    assert_eq!(machine.store.len(Family::Blobs), 2 * 4);
    let mut found = Vec::new();
    let mut visit = |one: &StoredMessage| {
        assert!(one.body.iter().all(|&byte| byte == one.body.len() as u8));
        found.push(one.body.len());
    };
    let page = machine
        .view()
        .page(Start::First, &[], ALL, 0, &mut visit)
        .unwrap();
    assert_eq!(
        found,
        lengths
            .iter()
            .flat_map(|&one| [one, one])
            .collect::<Vec<_>>()
    );
    assert_eq!((page.next, page.end), (Sequence(17), PageEnd::Head));
}

#[test]
fn stream_at_its_limits_keeps_the_newest_across_many_blocks() {
    let mut machine = Machine::new(StreamConfig {
        messages_max: 5_000,
        ..config()
    });
    for turn in 0..100 {
        machine.apply(&[append(turn * 337, 337, 50, &[7; 20], |_, _| {})]);
    }
    let info = machine.view().info();
    let last = 100 * 337;
    assert_eq!((info.messages, info.last), (5_000, Sequence(last)));
    assert_eq!(info.first, Sequence(last - 4_999));
    let mut next = last - 4_999;
    let mut visit = |one: &StoredMessage| {
        assert_eq!(one.sequence, Sequence(next));
        assert_eq!(one.topic, format!("t.{}", (next - 1) % 50).as_bytes());
        next += 1;
    };
    machine
        .view()
        .page(Start::First, &[], ALL, 0, &mut visit)
        .unwrap();
    assert_eq!(next, last + 1);
    let mut found = 0;
    let mut visit = |one: &StoredMessage| found = one.sequence.0;
    machine.view().last_of_topic(b"t.7", 0, &mut visit).unwrap();
    assert_eq!((found - 1) % 50, 7);
    assert!(found > last - 50);
}

#[test]
fn purge_by_filter_goes_on_until_it_is_done() {
    let mut machine = Machine::new(config());
    for turn in 0..150 {
        machine.apply(&[append(turn * 1_000, 1_000, 10, b"", |_, _| {})]);
    }
    let mut before = u64::MAX;
    let mut keep = 3;
    let mut rounds = 0;
    loop {
        let mut commands = Vec::new();
        let purge = Command::Purge(Purge {
            stream: ONE,
            filter: Some(b"t.4"),
            before: Sequence(before),
            keep,
        });
        push_command(&mut commands, |out| purge.write(out));
        let entry = Entry {
            partition: PARTITION,
            index: Index(machine.partition.applied().0 + 1),
            wall_ms: 0,
            commands: &commands,
        };
        let mut applied = machine.partition.apply(&[entry], &machine.store).unwrap();
        machine.store.write(&applied.batch).unwrap();
        rounds += 1;
        match applied.replies[0].1.remove(0) {
            Reply::Purged(_, _, Some(rest)) => (before, keep) = (rest.before.0, rest.keep),
            Reply::Purged(_, _, None) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rounds, 3);
    assert_eq!(machine.view().info().messages, 135_000 + 3);
    let mut left = Vec::new();
    let mut visit = |one: &StoredMessage| left.push(one.sequence.0);
    machine
        .view()
        .page(Start::First, &[b"t.4"], ALL, 0, &mut visit)
        .unwrap();
    assert_eq!(left, [149_975, 149_985, 149_995]);
}

/// Prints what a message costs; `cargo test --release -p sapwood-state --test streams cost -- --nocapture`.
#[test]
fn cost_of_applying_is_printed() {
    let cases: [(&str, StreamConfig, u64, Change); 5] = [
        ("1 topic", config(), 1, |_, _| {}),
        ("1,000 topics", config(), 1_000, |_, _| {}),
        (
            "1 topic, at its limit of 10,000",
            StreamConfig {
                messages_max: 10_000,
                ..config()
            },
            1,
            |_, _| {},
        ),
        (
            "1,000 topics, expected last of topic",
            config(),
            1_000,
            |message, number| {
                message.expected_last_of_topic = Some(Sequence((number + 1).saturating_sub(1_000)));
            },
        ),
        (
            "1,000 topics, TTL",
            StreamConfig {
                message_ttl: MessageTtl::Allowed,
                ..config()
            },
            1_000,
            |message, _| message.ttl_ms = 60_000,
        ),
    ];
    const ENTRIES: u64 = 2_000;
    for (name, config, topics, change) in cases {
        for batch in [1, 10] {
            let mut machine = Machine::new(config.clone());
            let (mut rows, mut apply, mut write) = (0, Duration::ZERO, Duration::ZERO);
            for turn in 0..ENTRIES / batch {
                let entries: Vec<_> = (0..batch)
                    .map(|one| append((turn * batch + one) * 100, 100, topics, &[7; 128], change))
                    .collect();
                let (new_rows, new_apply, new_write) = machine.apply(&entries);
                rows += new_rows;
                apply += new_apply;
                write += new_write;
            }
            let each = |time: Duration| time.as_nanos() as u64 / (ENTRIES * 100);
            println!(
                "{name}, batches of {batch} x 100: apply {} ns, write {} ns a message, {:.3} rows a message",
                each(apply),
                each(write),
                rows as f64 / (ENTRIES * 100) as f64,
            );
        }
    }
}
