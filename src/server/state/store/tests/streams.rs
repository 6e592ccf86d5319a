//! Streams on the store: the same log gives the same live rows as in memory, whatever happens to the store.

use super::*;
use sapwood_state::log::Entry;
use sapwood_state::partition::{Applied, Partition};
use sapwood_state::store::MemoryStore;
use sapwood_state::streams::Floors;
use sapwood_wire::state::*;

pub(super) const PARTITION: PartitionId = PartitionId(3);

/// A partition on a store, and its log.
pub(super) struct Machine {
    pub store: RocksStore,
    pub partition: Partition,
    pub log: Vec<Vec<u8>>,
    pub directory: Directory,
}

impl Machine {
    pub(super) fn new() -> Machine {
        let directory = Directory::new();
        let store = directory.open();
        Machine {
            partition: Partition::open(PARTITION, &store).unwrap(),
            directory,
            store,
            log: Vec::new(),
        }
    }

    pub(super) fn tell(&mut self, command: &Command) -> Reply {
        let mut commands = Vec::new();
        push_command(&mut commands, |out| command.write(out));
        self.log(commands)
    }

    /// Messages with a topic of its own each, `topics` in all, and bodies that no compression shortens.
    pub(super) fn append(
        &mut self,
        stream: u32,
        numbers: std::ops::Range<u64>,
        topics: u64,
        bytes: usize,
    ) {
        let mut commands = Vec::new();
        push_command(&mut commands, |out| {
            let mut writer = AppendWriter::new(out, StreamNumber(stream));
            for number in numbers {
                writer.push(&Message {
                    topic: format!("{stream}.{}", number % topics).as_bytes(),
                    body: &Random(number).bytes(bytes),
                    ..Message::default()
                });
            }
        });
        self.log(commands);
    }

    fn log(&mut self, commands: Vec<u8>) -> Reply {
        self.log.push(commands);
        let mut replies = self.catch_up();
        // invariant: one entry was new, with one command.
        replies.pop().unwrap()
    }

    /// Applies what the store does not have, and says what the last entry came to.
    pub(super) fn catch_up(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        for index in self.partition.applied().0 as usize..self.log.len() {
            let entry = entry(index, &self.log[index]);
            let applied = apply(&mut self.partition, &mut self.store, &[entry]);
            replies = applied.replies.into_iter().flat_map(|(_, of)| of).collect();
        }
        replies
    }

    /// Goes on with what a crash leaves.
    pub(super) fn crash(&mut self) {
        let image = self.directory.crash_image();
        self.store = image.open();
        self.directory = image;
        self.partition = Partition::open(PARTITION, &self.store).unwrap();
    }
}

fn entry(index: usize, commands: &[u8]) -> Entry<'_> {
    Entry {
        partition: PARTITION,
        index: Index(index as u64 + 1),
        wall_ms: 1_000 + index as u64 * 7,
        commands,
    }
}

fn apply<S: Store>(partition: &mut Partition, store: &mut S, entries: &[Entry]) -> Applied {
    let applied = partition.apply(entries, store).unwrap();
    store.write(&applied.batch).unwrap();
    applied
}

/// All rows that are not dead.
fn live_rows(store: &impl Store) -> Vec<Row> {
    let mut floors = Floors::default();
    floors.read(PARTITION, store).unwrap();
    let mut rows = Vec::new();
    for family in Family::ALL {
        rows.extend(rows_of(
            store,
            family,
            &[0],
            &[255; 8],
            Direction::Forward,
            usize::MAX,
        ));
    }
    rows.retain(|(family, key, value)| !floors.is_dead(*family, key, value));
    rows
}

fn config(random: &mut Random, number: u32) -> StreamConfig {
    let mut or_none = |limit: u64| {
        if random.one_in(2) {
            random.below(limit) + 1
        } else {
            0
        }
    };
    StreamConfig {
        name: format!("s{number}").into_bytes(),
        filters: vec![format!("{number}.>").into_bytes()],
        age_ms_max: or_none(900),
        messages_max: or_none(900),
        bytes_max: or_none(900_000),
        duplicate_window_ms: or_none(200),
        message_ttl: MessageTtl::Allowed,
        ..StreamConfig::default()
    }
}

fn messages(random: &mut Random, stream: u32, writer: &mut AppendWriter) {
    for _ in 0..1 + random.below(60) {
        let bytes = match random.below(20) {
            0 => 4_000 + random.below(6_000),
            _ => random.below(200),
        };
        let id = format!("id{}", random.below(50));
        writer.push(&Message {
            topic: format!("{stream}.{}", random.below(40)).as_bytes(),
            id: if random.one_in(4) { id.as_bytes() } else { b"" },
            ttl_ms: if random.one_in(4) {
                1 + random.below(300)
            } else {
                0
            },
            body: &random.bytes(bytes as usize),
            ..Message::default()
        });
    }
}

/// An entry of a history.
fn commands(random: &mut Random) -> Vec<u8> {
    // Numbers that were given and some that were not.
    let number = 1 + random.below(4) as u32;
    let stream = StreamNumber(number);
    let sequence = Sequence(random.below(3_000));
    let filter = format!("{number}.{}", random.below(40));
    let mut entry = Vec::new();
    push_command(&mut entry, |out| {
        let command = match random.below(24) {
            0..=1 => Command::Create(config(random, number)),
            2 if random.one_in(4) => Command::Delete(stream),
            3 => Command::DeleteMessage(stream, sequence),
            4 => Command::ExpireAge(stream, 500),
            5 => Command::ExpireTtl(stream, 500),
            6 => Command::PruneIds(stream),
            7 => Command::Purge(Purge {
                stream,
                filter: random.one_in(2).then_some(filter.as_bytes()),
                before: sequence,
                keep: random.below(3) * 10,
            }),
            _ => return messages(random, number, &mut AppendWriter::new(out, stream)),
        };
        command.write(out);
    });
    entry
}

#[test]
fn two_stores_of_one_log_hold_the_same_live_rows() {
    let mut compactions = 0;
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut machine = Machine::new();
        let mut memory = MemoryStore::default();
        let mut partition = Partition::open(PARTITION, &memory).unwrap();
        for number in 1..=4 {
            let command = Command::Create(config(&mut random, number));
            machine.tell(&command);
        }
        for step in 0..400 {
            let commands = commands(&mut random);
            let reply = machine.log(commands);
            let from = partition.applied().0 as usize;
            let entries: Vec<_> = (from..machine.log.len())
                .map(|index| entry(index, &machine.log[index]))
                .collect();
            let applied = apply(&mut partition, &mut memory, &entries);
            let expected = applied
                .replies
                .into_iter()
                .flat_map(|(_, of)| of)
                .next_back();
            assert_eq!(Some(reply), expected, "entry {}", machine.log.len());
            match random.below(40) {
                0..=2 => machine.store.flush().unwrap(),
                3 => compact_all(&machine.store),
                4..=5 => compactions += machine.store.reclaim().unwrap().compactions,
                6 => {
                    machine.crash();
                    machine.catch_up();
                }
                7 => partition = Partition::open(PARTITION, &memory).unwrap(),
                _ => {}
            }
            if step % 50 == 49 {
                let is_same = live_rows(&memory) == live_rows(&machine.store);
                assert!(
                    is_same,
                    "the stores differ behind entry {}",
                    machine.log.len()
                );
            }
        }
    }
    println!("{compactions} compactions were worth it");
}
