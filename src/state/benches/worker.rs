//! What a worker costs in memory, without a log or a disk: gathering messages into entries, and applying those.
//!
//! `cargo bench -p sapwood-state --bench worker`; each figure is the best of five.

use sapwood_state::limits::ENTRY_COMMAND_BYTES_MAX;
use sapwood_state::partition::Partition;
use sapwood_state::store::MemoryStore;
use sapwood_state::worker::{
    LastStop, LogNews, Output, Progress, Setup, SharedFilters, Tag, Worker,
};
use sapwood_wire::state::{
    Ask, Durability, Index, Lineage, Message, Order, PartitionId, Request, StreamConfig,
};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const MESSAGES: usize = 200_000;

fn main() {
    println!("us a message of 128 B: gathered, and applied to a store in memory");
    for topics in [1, 1_000] {
        for an_entry in [1, 100, 1_000] {
            let rounds = (0..ROUNDS).map(|_| round(topics, an_entry));
            let best = rounds.min_by_key(|(gather, apply)| *gather + *apply);
            let (gather, apply) = best.unwrap_or_default();
            let each = |all: Duration| all.as_secs_f64() * 1e6 / MESSAGES as f64;
            println!(
                "{topics:>5} topics, {an_entry:>5} an entry: {:.3} and {:.3}",
                each(gather),
                each(apply)
            );
        }
    }
}

struct Bench {
    store: MemoryStore,
    worker: Worker,
    number: u64,
    gather: Duration,
    apply: Duration,
}

impl Bench {
    fn turn(&mut self, take_in: impl FnOnce(&mut Worker)) {
        let start = Instant::now();
        take_in(&mut self.worker);
        self.worker.end_turn();
        while let Some(proposal) = self.worker.poll_proposal() {
            self.number = proposal.number;
        }
        self.gather += start.elapsed();
        let start = Instant::now();
        self.worker.handle_news(LogNews {
            written: self.number,
            synced: self.number,
        });
        while self
            .worker
            .apply(&mut self.store)
            .expect("a store in memory")
            == Progress::More
        {}
        let mut heard = 0;
        self.worker.take_answers(|_, bytes, _| heard += bytes.len());
        self.apply += start.elapsed();
        while let Some(output) = self.worker.poll_output() {
            if let Output::Filters { change, .. } = output {
                self.worker.handle_known(change);
            }
        }
    }
}

fn round(topics: usize, an_entry: usize) -> (Duration, Duration) {
    let store = MemoryStore::default();
    let partition = Partition::open(PartitionId(0), &store).expect("an empty store");
    let worker = Worker::new(Setup {
        worker: 0,
        lineage: Lineage(1),
        partitions: 1,
        owned: vec![(partition, Index(1))],
        filters: SharedFilters::default(),
        last_stop: LastStop::Clean,
        entry_bytes_max: ENTRY_COMMAND_BYTES_MAX,
        wall_ms: 1_700_000_000_000,
    });
    let mut bench = Bench {
        store,
        worker,
        number: 0,
        gather: Duration::ZERO,
        apply: Duration::ZERO,
    };
    let config = StreamConfig {
        name: b"s".to_vec(),
        filters: vec![b"t.>".to_vec()],
        messages_max: 100_000,
        durability: Durability::Fsync,
        ..StreamConfig::default()
    };
    let mut request = Vec::new();
    let ask = Ask::Create(config);
    let order = Order::Now;
    Request { order, ask }.write(&mut request);
    bench.turn(|worker| worker.handle_request(Tag(0), &request));
    (bench.gather, bench.apply) = (Duration::ZERO, Duration::ZERO);
    let names: Vec<_> = (0..topics)
        .map(|one| format!("t.{one}").into_bytes())
        .collect();
    let body = [7; 128];
    for first in (0..MESSAGES).step_by(an_entry) {
        bench.turn(|worker| {
            for number in first..first + an_entry {
                let message = Message {
                    topic: &names[number % topics],
                    body: &body,
                    ..Message::default()
                };
                // One answer a hundred messages, as pipelines have.
                let tag = (number % 100 == 0).then_some(Tag(number as u64 + 1));
                worker.capture([message].into_iter(), tag);
            }
        });
    }
    assert_eq!(bench.worker.counters().stored, MESSAGES as u64);
    (bench.gather, bench.apply)
}
