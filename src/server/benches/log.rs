//! What the log costs on a disk, against a bare loop of `pwrite` and `fdatasync` on a segment's file, interleaved.
//!
//! `cargo bench -p sapwood-server --bench log`. `SAPWOOD_BENCH_DIR` names a directory on the disk to measure.

use sapwood_server::state::DurableStore;
use sapwood_server::state::directory::DataDirectory;
use sapwood_server::state::files::{Files, RealFiles, write_all};
use sapwood_server::state::log::{
    LogHandle, LogNews, LogSettings, LogSummary, LogThread, Proposal, Tell,
};
use sapwood_server::state::start;
use sapwood_state::store::{Direction, Family, Store, StoreError, Visit, WriteBatch};
use sapwood_wire::state::{Durability, Index, PartitionId};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

/// A record of one entry of 128 bytes: heads of record and entry, padded.
const RECORD_BYTES: usize = 232;

const COMMAND_BYTES: usize = 128;

/// Keeps nothing: entries are not applied here.
#[derive(Clone)]
struct NoStore;

impl Store for NoStore {
    fn get(&self, _: Family, _: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        value.clear();
        Ok(false)
    }

    fn range(
        &self,
        _: Family,
        _: &[u8],
        _: &[u8],
        _: Direction,
        _: Visit,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn write(&mut self, _: &WriteBatch) -> Result<(), StoreError> {
        Ok(())
    }
}

impl DurableStore for NoStore {
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn give_back_space(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn main() {
    let base = std::env::var_os("SAPWOOD_BENCH_DIR");
    let base = base.map_or_else(std::env::temp_dir, PathBuf::from);
    let base = base.join(format!("sapwood-log-bench-{}", std::process::id()));
    println!(
        "in {}, medians of {ROUNDS} interleaved rounds",
        base.display()
    );
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..ROUNDS {
        let directory = base.join(round.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        for row in round_of(&directory) {
            match rows.iter_mut().find(|of| of.name == row.name) {
                Some(of) => of.figures.extend(row.figures),
                None => rows.push(row),
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
    std::fs::remove_dir_all(&base).unwrap();
    for mut row in rows {
        row.figures
            .sort_by(|one, other| one.rate.total_cmp(&other.rate));
        let middle = row.figures[ROUNDS / 2];
        println!(
            "{:34} {:>10.0}/s   p50 {:>5} us   p99 {:>6} us   {:>6.1} entries a sync   (rates {:.0} to {:.0})",
            row.name,
            middle.rate,
            middle.p50_us,
            middle.p99_us,
            middle.entries_a_sync,
            row.figures[0].rate,
            row.figures[ROUNDS - 1].rate,
        );
    }
}

struct Row {
    name: &'static str,
    figures: Vec<Figure>,
}

#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    entries_a_sync: f64,
}

fn round_of(directory: &Path) -> Vec<Row> {
    let row = |name, figure| Row {
        name,
        figures: vec![figure],
    };
    vec![
        row("bare pwrite + fdatasync", bare(directory)),
        row(
            "log: 1 proposer waits",
            waiting(&directory.join("a"), 1, 1, Durability::Fsync),
        ),
        row("bare, woken by another thread", handed_over(directory)),
        row(
            "log: 50 proposers wait",
            waiting(&directory.join("b"), 50, 1, Durability::Fsync),
        ),
        row(
            "log: 1 worker, 64 in flight",
            waiting(&directory.join("c"), 1, 64, Durability::Fsync),
        ),
        row(
            "log: 1 worker, 5,000 in flight",
            waiting(&directory.join("d"), 1, 5_000, Durability::Fsync),
        ),
        row(
            "log: os, 1 proposer waits",
            waiting(&directory.join("e"), 1, 1, Durability::Os),
        ),
        row(
            "log: os, 64 in flight",
            waiting(&directory.join("f"), 1, 64, Durability::Os),
        ),
        row(
            "log: os, 5,000 in flight",
            waiting(&directory.join("g"), 1, 5_000, Durability::Os),
        ),
    ]
}

fn figure(mut times: Vec<Duration>, took: Duration, entries: u64, syncs: u64) -> Figure {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros() as u64;
    Figure {
        rate: entries as f64 / took.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        entries_a_sync: entries as f64 / syncs.max(1) as f64,
    }
}

/// Time that each measurement takes.
const TAKES: Duration = Duration::from_millis(1_000);

fn bare(directory: &Path) -> Figure {
    let file = zeroed(directory, "bare");
    let begun = Instant::now();
    let mut times = Vec::new();
    let bytes = [7; RECORD_BYTES];
    while begun.elapsed() < TAKES {
        let one = Instant::now();
        write_all(&*file, 4096 + (times.len() * RECORD_BYTES) as u64, &bytes).unwrap();
        file.sync().unwrap();
        times.push(one.elapsed());
    }
    let count = times.len() as u64;
    figure(times, begun.elapsed(), count, count)
}

fn zeroed(directory: &Path, name: &str) -> Arc<dyn sapwood_server::state::files::OpenFile> {
    let files = RealFiles::new(directory).unwrap();
    let file = files.create(name).unwrap();
    write_all(&*file, 0, &vec![0; 16 << 20]).unwrap();
    file.sync().unwrap();
    files.sync_directory().unwrap();
    file
}

/// The bare loop on a thread of its own, with two channels between: what handing over costs by itself.
fn handed_over(directory: &Path) -> Figure {
    let file = zeroed(directory, "handed");
    let (ask, asked) = flume::bounded::<u64>(1);
    let (answer, answered) = flume::bounded::<()>(1);
    let thread = std::thread::spawn(move || {
        let bytes = [7; RECORD_BYTES];
        for number in asked {
            write_all(&*file, 4096 + number * RECORD_BYTES as u64, &bytes).unwrap();
            file.sync().unwrap();
            answer.send(()).unwrap();
        }
    });
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < TAKES {
        let one = Instant::now();
        ask.send(times.len() as u64).unwrap();
        answered.recv().unwrap();
        times.push(one.elapsed());
    }
    drop(ask);
    thread.join().unwrap();
    let count = times.len() as u64;
    figure(times, begun.elapsed(), count, count)
}

#[derive(Default)]
struct Told {
    news: Mutex<LogNews>,
    changed: Condvar,
}

/// Workers that keep so many entries in flight each, and wait for the oldest.
fn waiting(directory: &Path, workers: u16, in_flight: u64, durability: Durability) -> Figure {
    let data = DataDirectory::open(directory, 64, None).unwrap();
    let settings = LogSettings::default();
    let opened = start::open(&data, &mut NoStore, settings).unwrap();
    let told: Vec<_> = (0..workers).map(|_| Arc::new(Told::default())).collect();
    let tells = told.iter().map(|told| {
        let told = Arc::clone(told);
        Box::new(move |news| {
            *told.news.lock().unwrap() = news;
            told.changed.notify_one();
        }) as Tell
    });
    let log = LogThread::start(opened.log, NoStore, tells.collect()).unwrap();
    // The segment behind the first is prepared before anything is measured.
    while log.handle().summary().segments_prepared == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    let times = std::thread::scope(|scope| {
        let threads = told.iter().zip(0..).map(|(told, worker)| {
            let handle = log.handle();
            scope.spawn(move || drive(&handle, worker, told, in_flight, durability))
        });
        let threads: Vec<_> = threads.collect();
        let times = threads.into_iter().map(|thread| thread.join().unwrap());
        times.flatten().collect::<Vec<_>>()
    });
    let took = begun.elapsed();
    let LogSummary { entries, syncs, .. } = log.handle().summary();
    log.end().unwrap();
    figure(times, took, entries, syncs)
}

fn drive(
    handle: &LogHandle,
    worker: u16,
    told: &Told,
    in_flight: u64,
    durability: Durability,
) -> Vec<Duration> {
    let begun = Instant::now();
    let commands = Arc::new(vec![7; COMMAND_BYTES]);
    let mut times = Vec::new();
    let mut begins = std::collections::VecDeque::new();
    let (mut proposed, mut done) = (0, 0);
    let mut proposals = Vec::new();
    let is_over = || begun.elapsed() >= TAKES;
    while !is_over() || done < proposed {
        while proposed < done + in_flight && !is_over() {
            proposed += 1;
            begins.push_back(Instant::now());
            proposals.push(Proposal {
                worker,
                number: proposed,
                partition: PartitionId(worker),
                index: Index(proposed),
                wall_ms: 0,
                commands: Arc::clone(&commands),
                durability,
            });
        }
        handle.propose(worker, &mut proposals).unwrap();
        let mut news = told.news.lock().unwrap();
        let reached = |news: &LogNews| match durability {
            Durability::Fsync => news.synced,
            Durability::Os => news.written,
        };
        while done < proposed && reached(&news) == done {
            news = told.changed.wait(news).unwrap();
        }
        let now = reached(&news);
        drop(news);
        for begin in begins.drain(..(now - done) as usize) {
            times.push(begin.elapsed());
        }
        done = now;
    }
    times
}
