//! What the tests of the state plane share: a directory of their own, a store that forgets what was not flushed, a node
//! with workers that only count.

use super::directory::DataDirectory;
use super::files::FaultControl;
use super::log::{LogHandle, LogNews, LogSettings, LogThread, Proposal, ProposeError, Tell};
use super::start::{self, StartReport};
use super::{DurableStore, OpenError};
use sapwood_state::limits::PARTITIONS_MAX;
use sapwood_state::log::Entry;
use sapwood_state::log::Settings;
use sapwood_state::partition::Partition;
use sapwood_state::store::{
    Direction, Family, MemoryStore, Store, StoreError, Visit, Write, WriteBatch,
};
use sapwood_state::streams::{PageLimits, Place, Start, StreamView};
use sapwood_wire::state::{
    AppendWriter, Command, Durability, Index, Message, PartitionId, StreamConfig, StreamNumber,
    push_command,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longer than anything takes here; a test that waits so long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Partitions of test directories.
pub(super) const PARTITIONS: u16 = 64;

/// A directory that goes with its value.
pub(super) struct TempDirectory(PathBuf);

impl TempDirectory {
    pub fn new() -> TempDirectory {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sapwood-state-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        TempDirectory(path)
    }

    /// What a test's data directory is; not made yet.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sorted maps that lose what was not flushed, and keep what was in a file if they have one.
#[derive(Clone, Debug, Default)]
pub(super) struct TestStore {
    rows: Arc<Mutex<MemoryStore>>,
    file: Option<PathBuf>,
    flushing: Arc<(Mutex<Flushing>, Condvar)>,
}

#[derive(Debug, Default)]
struct Flushing {
    count: u64,
    /// Flushes that space was given back behind.
    given_back: u64,
    is_gate_closed: bool,
    fails: bool,
}

impl TestStore {
    /// With what the file holds, if there is one.
    pub fn in_file(file: PathBuf) -> TestStore {
        let mut store = TestStore::default();
        let bytes = std::fs::read(&file).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut writes = Vec::new();
        let mut take = |count: usize| {
            let (taken, behind) = rest.split_at(count);
            rest = behind;
            taken
        };
        // Ends with the bytes, each row of which takes some.
        let mut left = bytes.len();
        while left > 0 {
            let family = take(1)[0];
            let lengths = [(); 2].map(|()| {
                let length = <[u8; 4]>::try_from(take(4)).unwrap();
                u32::from_le_bytes(length) as usize
            });
            left -= 9 + lengths[0] + lengths[1];
            let [key, value] = lengths.map(|length| take(length).to_vec());
            writes.push(Write {
                family: Family::ALL[usize::from(family)],
                key,
                value: Some(value),
            });
        }
        store.write(&WriteBatch { writes }).unwrap();
        store.rows().flush();
        store.file = Some(file);
        store
    }

    fn rows(&self) -> MutexGuard<'_, MemoryStore> {
        self.rows.lock().unwrap()
    }

    pub fn crash(&self) {
        self.rows().crash();
    }

    pub fn flushes(&self) -> u64 {
        self.flushing.0.lock().unwrap().count
    }

    /// Behind how many flushes space was given back.
    pub fn given_back(&self) -> u64 {
        self.flushing.0.lock().unwrap().given_back
    }

    pub fn fail_flushes(&self) {
        self.flushing.0.lock().unwrap().fails = true;
    }

    /// From now on flushes begin and do not end, until it is opened.
    pub fn close_gate(&self) {
        self.flushing.0.lock().unwrap().is_gate_closed = true;
    }

    pub fn open_gate(&self) {
        self.flushing.0.lock().unwrap().is_gate_closed = false;
        self.flushing.1.notify_all();
    }

    fn save(rows: &MemoryStore, file: &Path) {
        let mut bytes = Vec::new();
        for family in Family::ALL {
            let mut visit = |key: &[u8], value: &[u8]| {
                bytes.push(family as u8);
                for part in [key, value] {
                    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                }
                bytes.extend_from_slice(key);
                bytes.extend_from_slice(value);
                ControlFlow::Continue(())
            };
            let end = [0xff; 32];
            rows.range(family, &[], &end, Direction::Forward, &mut visit)
                .unwrap();
        }
        let new = file.with_extension("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, file).unwrap();
    }
}

impl Store for TestStore {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.rows().get(family, key, value)
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError> {
        // A visitor may ask for rows itself.
        let mut rows = Vec::new();
        let mut collect = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.rows()
            .range(family, from, to, direction, &mut collect)?;
        for (key, value) in rows {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.rows().write(batch)
    }
}

impl DurableStore for TestStore {
    fn flush(&self) -> Result<(), StoreError> {
        let mut flushing = self.flushing.0.lock().unwrap();
        flushing.count += 1;
        while flushing.is_gate_closed {
            flushing = self.flushing.1.wait(flushing).unwrap();
        }
        if flushing.fails {
            return Err(StoreError::Failed("no space left on device".into()));
        }
        drop(flushing);
        let mut rows = self.rows();
        rows.flush();
        if let Some(file) = &self.file {
            TestStore::save(&rows, file);
        }
        Ok(())
    }

    fn give_back_space(&self) -> Result<(), StoreError> {
        let mut flushing = self.flushing.0.lock().unwrap();
        flushing.given_back = flushing.count;
        Ok(())
    }
}

/// What a worker was told last, and how often.
#[derive(Debug, Default)]
pub(super) struct Told {
    state: Mutex<(LogNews, u64)>,
    changes: Condvar,
}

impl Told {
    pub fn news(&self) -> LogNews {
        self.state.lock().unwrap().0
    }

    pub fn times(&self) -> u64 {
        self.state.lock().unwrap().1
    }

    fn note(&self, news: LogNews) {
        let mut state = self.state.lock().unwrap();
        assert!(
            news.synced <= news.written
                && news.written >= state.0.written
                && news.synced >= state.0.synced,
            "{news:?} after {state:?}"
        );
        *state = (news, state.1 + 1);
        self.changes.notify_all();
    }

    /// Waits until the news are such.
    #[track_caller]
    pub fn wait(&self, are_such: impl Fn(LogNews) -> bool) -> LogNews {
        self.wait_for(|news, _| are_such(news))
    }

    /// Waits until it was told once more than so often.
    #[track_caller]
    pub fn wait_times(&self, times: u64) -> LogNews {
        self.wait_for(|_, now| now > times)
    }

    #[track_caller]
    fn wait_for(&self, is_such: impl Fn(LogNews, u64) -> bool) -> LogNews {
        let state = self.state.lock().unwrap();
        let waits = |state: &mut (LogNews, u64)| !is_such(state.0, state.1);
        let (state, timeout) = self
            .changes
            .wait_timeout_while(state, PATIENCE, waits)
            .unwrap();
        assert!(!timeout.timed_out(), "told {state:?} and no more");
        state.0
    }
}

/// Small segments and commands, so that few entries fill them.
pub(super) fn small_sizes() -> Settings {
    Settings {
        first_segment_bytes: 16 * 1024,
        segment_bytes: 16 * 1024,
        command_bytes_max: 2 * 1024,
        record_bytes_max: 4 * 1024,
        append_bytes_max: 8 * 1024,
    }
}

/// Settings with which nothing is due by time within a test.
pub(super) fn settings() -> LogSettings {
    LogSettings {
        sizes: Settings {
            first_segment_bytes: 2 * 1024 * 1024,
            segment_bytes: 2 * 1024 * 1024,
            ..Settings::default()
        },
        mark_after: Duration::from_secs(3_600),
        flush_after: Duration::from_secs(3_600),
        prepare_again: Duration::from_millis(5),
        free_bytes_least: 0,
        ..LogSettings::default()
    }
}

/// A running state plane. Worker w owns the partitions that are w more than a multiple of the number of workers.
pub(super) struct Node {
    pub directory: DataDirectory,
    pub store: TestStore,
    pub log: LogThread,
    pub handle: LogHandle,
    pub report: StartReport,
    pub workers: Vec<TestWorker>,
}

/// Proposes entries of one message each, and applies them when it is asked to.
pub(super) struct TestWorker {
    pub handle: LogHandle,
    pub told: Arc<Told>,
    id: u16,
    proposed: u64,
    partitions: BTreeMap<u16, Owned>,
    store: TestStore,
    waiting: Vec<Proposal>,
}

struct Owned {
    partition: Partition,
    next: Index,
}

impl Node {
    pub fn start(
        path: &Path,
        store: &TestStore,
        workers: u16,
        settings: LogSettings,
        faults: Option<&FaultControl>,
    ) -> Result<Node, OpenError> {
        let directory = DataDirectory::open(path, PARTITIONS, faults)?;
        Node::start_in(directory, store, workers, settings)
    }

    pub fn start_in(
        directory: DataDirectory,
        store: &TestStore,
        workers: u16,
        settings: LogSettings,
    ) -> Result<Node, OpenError> {
        let mut store = store.clone();
        let opened = start::open(&directory, &mut store, settings)?;
        let told: Vec<_> = (0..workers).map(|_| Arc::new(Told::default())).collect();
        let tells = told.iter().map(|told| {
            let told = Arc::clone(told);
            Box::new(move |news| told.note(news)) as Tell
        });
        let log = LogThread::start(opened.log, store.clone(), tells.collect()).unwrap();
        let handle = log.handle();
        // What it does at first is over when a test sets its faults.
        let begun = Instant::now();
        while handle.summary().segments_prepared == 0 && !handle.has_failed() {
            assert!(begun.elapsed() < PATIENCE, "no segment is prepared");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut owned: Vec<BTreeMap<_, _>> = (0..workers).map(|_| BTreeMap::new()).collect();
        for (partition, next) in opened.partitions.into_iter().zip(opened.next_indexes) {
            let number = partition.id().0;
            owned[usize::from(number % workers)].insert(number, Owned { partition, next });
        }
        let workers = owned.into_iter().zip(told).zip(0..);
        let workers = workers.map(|((partitions, told), id)| TestWorker {
            handle: handle.clone(),
            told,
            id,
            proposed: 0,
            partitions,
            store: store.clone(),
            waiting: Vec::new(),
        });
        Ok(Node {
            workers: workers.collect(),
            directory,
            store,
            handle,
            log,
            report: opened.report,
        })
    }

    /// Waits until the plane stopped.
    pub fn wait_failed(&self) {
        let begun = Instant::now();
        while !self.handle.has_failed() {
            assert!(begun.elapsed() < PATIENCE, "it never failed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends in order.
    pub fn end(self) {
        self.log.end().unwrap();
    }

    /// Ends as a process does that is killed: nothing more reaches the disk but what the log thread is at. Returns the
    /// store as of its last flush.
    pub fn abandon(self) -> TestStore {
        self.handle
            .fail(super::Failure::Bug("the test, which kills the node"));
        let _ = self.log.end();
        self.store.crash();
        self.store
    }
}

/// What entry `index` of a partition holds: the first makes a stream, each other appends a message that says which it is.
pub(super) fn commands(partition: u16, index: Index, body_bytes: usize) -> Vec<u8> {
    let mut commands = Vec::new();
    push_command(&mut commands, |out| match index.0 {
        1 => Command::Create(StreamConfig {
            name: format!("s{partition}").into_bytes(),
            ..StreamConfig::default()
        })
        .write(out),
        index => {
            let mut body = format!("{partition}/{index} ").into_bytes();
            body.resize(body.len().max(body_bytes), b'.');
            let mut writer = AppendWriter::new(out, StreamNumber(1));
            writer.push(&Message {
                topic: b"t",
                body: &body,
                ..Message::default()
            });
        }
    });
    commands
}

impl TestWorker {
    /// Proposes the next entry of a partition of its own, and returns its number.
    #[track_caller]
    pub fn propose(&mut self, partition: u16, durability: Durability) -> u64 {
        let number = self.try_propose(partition, durability, 0).unwrap();
        number.expect("the inbox is full")
    }

    /// Like that, with a body of so many bytes; nothing if the inbox is full.
    pub fn try_propose(
        &mut self,
        partition: u16,
        durability: Durability,
        body_bytes: usize,
    ) -> Result<Option<u64>, ProposeError> {
        let owned = self.partitions.get_mut(&partition).expect("not its own");
        let mut proposals = vec![Proposal {
            worker: self.id,
            number: self.proposed + 1,
            partition: PartitionId(partition),
            index: owned.next,
            wall_ms: 1_700_000_000_000,
            commands: Arc::new(commands(partition, owned.next, body_bytes)),
            durability,
        }];
        let proposal = proposals[0].clone();
        if self.handle.propose(self.id, &mut proposals)? == 0 {
            return Ok(None);
        }
        assert!(proposals.is_empty());
        owned.next.0 += 1;
        self.proposed += 1;
        self.waiting.push(proposal);
        Ok(Some(self.proposed))
    }

    /// Proposes and waits until it is synced. Returns the entry's index.
    #[track_caller]
    pub fn propose_synced(&mut self, partition: u16) -> Index {
        let number = self.propose(partition, Durability::Fsync);
        self.told.wait(|news| news.synced >= number);
        Index(self.next_index(partition).0 - 1)
    }

    /// The index of a partition's next entry.
    pub fn next_index(&self, partition: u16) -> Index {
        self.partitions[&partition].next
    }

    /// Applies what was synced.
    pub fn apply(&mut self) {
        self.apply_up_to(self.told.news().synced);
    }

    /// Applies what was written.
    pub fn apply_written(&mut self) {
        self.apply_up_to(self.told.news().written);
    }

    fn apply_up_to(&mut self, number: u64) {
        let count = self.waiting.partition_point(|one| one.number <= number);
        for proposal in self.waiting.drain(..count) {
            let begun = Instant::now();
            let owned = self.partitions.get_mut(&proposal.partition.0).unwrap();
            let entry = Entry {
                partition: proposal.partition,
                index: proposal.index,
                wall_ms: proposal.wall_ms,
                commands: &proposal.commands,
            };
            let applied = owned.partition.apply(&[entry], &self.store).unwrap();
            self.store.write(&applied.batch).unwrap();
            let took = begun.elapsed();
            self.handle
                .note_applied(proposal.partition, proposal.index, took);
        }
    }
}

/// Checks what a partition's stream holds: the messages of all entries up to the last, each once and in order. Returns the
/// last entry, 0 for none.
#[track_caller]
pub(super) fn last_stored(store: &TestStore, partition: u16) -> u64 {
    assert!(usize::from(partition) < PARTITIONS_MAX);
    let place = Place {
        partition: PartitionId(partition),
        stream: StreamNumber(1),
    };
    let Some(view) = StreamView::open(store, place).unwrap() else {
        return 0;
    };
    let mut last = 1;
    let limits = PageLimits {
        messages: usize::MAX,
        bytes: usize::MAX,
        looked_at: usize::MAX,
    };
    view.page(Start::First, &[], limits, 0, &mut |message| {
        last += 1;
        let body = String::from_utf8(message.body.to_vec()).unwrap();
        let expected = format!("{partition}/{last} ");
        assert!(body.starts_with(&expected), "{body} is not {expected}");
        assert_eq!(message.sequence.0, last - 1);
    })
    .unwrap();
    last
}
