//! What the store costs: opening, applying messages of few and of many topics, replay, retention.
//!
//! `cargo bench -p sapwood-server --bench store [-- MESSAGES]`, 10 million by default; on the disk of the directory for
//! temporary files. CPU is that of the whole process, compactions too; "thread" is that of the worker alone.

use rustix::time::{ClockId, clock_gettime};
use sapwood_server::state::DurableStore;
use sapwood_server::state::store::RocksStore;
use sapwood_state::log::Entry;
use sapwood_state::partition::Partition;
use sapwood_state::store::Store;
use sapwood_state::streams::{Page, PageEnd, PageLimits, Place, Start, StreamView};
use sapwood_wire::state::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PLACE: Place = Place {
    partition: PartitionId(0),
    stream: StreamNumber(1),
};

/// Messages of an entry, and entries of a batch: 1,000 messages.
const ENTRY: u64 = 100;
const BATCH: u64 = 10;

/// The log that one flush of ours covers.
const FLUSH_MESSAGES: u64 = 500_000;

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

fn directory_bytes(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).unwrap();
    files
        .map(|file| file.unwrap().metadata().map_or(0, |of| of.len()))
        .sum()
}

struct Machine {
    store: RocksStore,
    partition: Partition,
    wall_ms: u64,
}

impl Machine {
    fn open(path: &Path) -> Machine {
        let store = RocksStore::open(path).unwrap();
        let partition = Partition::open(PLACE.partition, &store).unwrap();
        Machine {
            store,
            partition,
            wall_ms: 1_000,
        }
    }

    fn apply(&mut self, commands: &[Vec<u8>]) {
        let first = self.partition.applied().0 + 1;
        self.wall_ms += 1;
        let entries: Vec<_> = commands
            .iter()
            .zip(first..)
            .map(|(commands, index)| Entry {
                partition: PLACE.partition,
                index: Index(index),
                wall_ms: self.wall_ms,
                commands,
            })
            .collect();
        let applied = self.partition.apply(&entries, &self.store).unwrap();
        self.store.write(&applied.batch).unwrap();
    }

    fn tell(&mut self, command: Command) {
        let mut commands = Vec::new();
        push_command(&mut commands, |out| command.write(out));
        self.apply(&[commands]);
    }
}

fn append(first: u64, topics: u64) -> Vec<u8> {
    let mut commands = Vec::new();
    push_command(&mut commands, |out| {
        let mut writer = AppendWriter::new(out, PLACE.stream);
        for number in first..first + ENTRY {
            // Neighbours in time are not neighbours in the tree.
            let topic = format!("t.{}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % topics);
            let mut body = [0; 128];
            for (place, chunk) in body.chunks_mut(8).enumerate() {
                let mixed = (number * 16 + place as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                chunk.copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
            }
            writer.push(&Message {
                topic: topic.as_bytes(),
                body: &body,
                ..Message::default()
            });
        }
    });
    commands
}

fn fill(machine: &mut Machine, messages: u64, topics: u64) {
    machine.tell(Command::Create(StreamConfig {
        name: b"s".to_vec(),
        filters: vec![b"t.>".to_vec()],
        ..StreamConfig::default()
    }));
    let (mut worker, mut all) = (Duration::ZERO, Duration::ZERO);
    let begin = Instant::now();
    for first in (0..messages).step_by((ENTRY * BATCH) as usize) {
        let commands: Vec<_> = (0..BATCH)
            .map(|one| append(first + one * ENTRY, topics))
            .collect();
        let (thread, process) = (cpu(ClockId::ThreadCPUTime), cpu(ClockId::ProcessCPUTime));
        machine.apply(&commands);
        if (first + ENTRY * BATCH).is_multiple_of(FLUSH_MESSAGES) {
            machine.store.flush().unwrap();
        }
        worker += cpu(ClockId::ThreadCPUTime) - thread;
        all += cpu(ClockId::ProcessCPUTime) - process;
    }
    let each = |time: Duration| time.as_nanos() as f64 / 1_000.0 / messages as f64;
    println!(
        "  apply: thread {:.2} us, process {:.2} us of CPU a message; {:.0} s in all; resident {} MiB, at most {}",
        each(worker),
        each(all),
        begin.elapsed().as_secs_f64(),
        resident_mib("VmRSS"),
        resident_mib("VmHWM"),
    );
}

fn replay(store: &RocksStore) -> u64 {
    let limits = PageLimits {
        messages: 100_000,
        bytes: 1024 * 1024,
        looked_at: 1_000_000,
    };
    let (mut count, mut next, mut last) = (0, Sequence(0), 0);
    loop {
        let view = StreamView::open(store, PLACE).unwrap().unwrap();
        let start = if next.0 == 0 {
            Start::First
        } else {
            Start::At(next)
        };
        let page: Page = view
            .page(start, &[], limits, 0, &mut |message| {
                count += 1;
                last = message.sequence.0;
            })
            .unwrap();
        next = page.next;
        if page.end == PageEnd::Head {
            assert_eq!(last + 1, next.0);
            return count;
        }
    }
}

fn replays(store: &RocksStore, readers: usize) {
    let (begin, process) = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    let count: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let store = store.for_replay();
                scope.spawn(move || replay(&store))
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).sum()
    });
    let (time, process) = (begin.elapsed(), cpu(ClockId::ProcessCPUTime) - process);
    println!(
        "  replay by {readers}: {:.2} M/s, {:.3} us of CPU a message; resident {} MiB, at most {}",
        count as f64 / time.as_secs_f64() / 1e6,
        process.as_nanos() as f64 / 1_000.0 / count as f64,
        resident_mib("VmRSS"),
        resident_mib("VmHWM"),
    );
}

fn open_again(path: &Path) -> Machine {
    let (before, begin) = (resident_mib("VmRSS"), Instant::now());
    let machine = Machine::open(path);
    println!(
        "  open: {:.1} ms, {} MiB more ({} MiB)",
        begin.elapsed().as_secs_f64() * 1e3,
        resident_mib("VmRSS").saturating_sub(before),
        resident_mib("VmRSS"),
    );
    machine
}

fn retain(machine: &mut Machine, path: &Path, messages: u64) {
    let full = directory_bytes(path);
    let begin = Instant::now();
    machine.tell(Command::Purge(Purge {
        stream: PLACE.stream,
        filter: None,
        before: Sequence(messages - messages / 10 + 1),
        keep: 0,
    }));
    let purged = begin.elapsed();
    machine.store.flush().unwrap();
    let (begin, process) = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    let reclaimed = machine.store.reclaim().unwrap();
    println!(
        "  retention of nine tenths: purge {:.0} ms, reclaim {:.0} ms, {:.0} ms of CPU; {} of {} MiB left; {reclaimed:?}",
        purged.as_secs_f64() * 1e3,
        begin.elapsed().as_secs_f64() * 1e3,
        (cpu(ClockId::ProcessCPUTime) - process).as_secs_f64() * 1e3,
        directory_bytes(path) >> 20,
        full >> 20,
    );
    assert_eq!(replay(&machine.store), messages / 10);
}

fn main() {
    let messages = std::env::args()
        .find_map(|one| one.parse().ok())
        .unwrap_or(10_000_000);
    let path: PathBuf =
        std::env::temp_dir().join(format!("sapwood-bench-store-{}", std::process::id()));
    for topics in [1_000, 1_000_000] {
        println!("{messages} messages of 128 B, {topics} topics, batches of 1,000");
        let _ = std::fs::remove_dir_all(&path);
        let mut machine = open_again(&path);
        fill(&mut machine, messages, topics);
        drop(machine);
        let mut machine = open_again(&path);
        replays(&machine.store, 1);
        replays(&machine.store, 10);
        println!("  disk {} MiB", directory_bytes(&path) >> 20);
        retain(&mut machine, &path, messages);
        drop(machine);
    }
    std::fs::remove_dir_all(&path).unwrap();
}
