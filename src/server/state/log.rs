//! The log thread: takes what workers propose, appends it, and makes it durable with one sync for all.
//!
//! Owns the [`Writer`], its files, and the threads beside it that prepare segments and flush the store. Must not know what
//! commands mean, nor who waits for them. The format, and what is written where, is `sapwood_state::log`'s business.
//! Invariants: a worker is told of an entry only after the write or the sync that covers it; once one failed, the flag
//! is set before anything else and nothing is told as written or synced any more; no timer runs while nothing is due.
//! Start at [`LogThread::start`], then `driver`.
//!
//! ```text
//! worker --propose--> Inbox --> append, write --(an `os` entry waits)--> tell written
//!                       ^           '--> one fdatasync for all -------> tell written and synced
//!                       '-- segment prepared (sapwood-segment), store flushed (sapwood-flush), space given back (sapwood-space)
//! ```

mod driver;
mod inbox;
mod segments;
mod vitals;

#[cfg(test)]
mod tests;

pub(super) use segments::prepare as prepare_segment;
pub use vitals::{LogSummary, Percentiles};

use super::files::{Files, OpenFile};
use super::limits::{
    FLUSH_AFTER, FLUSH_BYTES, FLUSH_COST, FREE_BYTES_LEAST, HOLD_COST, HOLD_FLUSHES, MARK_AFTER,
    OS_SYNC_AFTER, PREPARE_AGAIN,
};
use super::threads::spawn;
use super::{DurableStore, Failure, remembered};
use driver::Driver;
use inbox::{News, Shared};
use sapwood_state::log::{FileId, Remembered, Settings, Writer};
pub use sapwood_state::worker::{LogNews, Proposal};
use sapwood_wire::state::{Index, PartitionId};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tells a worker its news, or by the same news as before that the log failed. Called by the log thread: it must not block,
/// and should cost no more than a wake-up.
pub type Tell = Box<dyn Fn(LogNews) + Send>;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// The plane stopped, for ever: see [`LogHandle::failure`].
    Failed,
    /// The log thread has ended, as it was asked to.
    Ended,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::Failed => write!(f, "the log failed; it takes no more"),
            ProposeError::Ended => write!(f, "the log has ended"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// When things are due. The defaults stand in `limits.rs`; tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// Sizes of what is written.
    pub sizes: Settings,
    /// `os` entries are synced when they are so old.
    pub os_sync_after: Duration,
    /// A record says that all is synced when nothing came for so long.
    pub mark_after: Duration,
    /// The store is flushed when its oldest unflushed entry is so old,
    pub flush_after: Duration,
    /// or after so many bytes of log,
    pub flush_bytes: u64,
    /// or when so much time to apply would be spent again by a start.
    pub flush_cost: Duration,
    /// Nothing is taken while a flush is so far behind.
    pub hold_cost: Duration,
    /// Preparing a segment is tried again after this.
    pub prepare_again: Duration,
    /// With less free space the log says that it is low.
    pub free_bytes_least: u64,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            sizes: Settings::default(),
            os_sync_after: OS_SYNC_AFTER,
            mark_after: MARK_AFTER,
            flush_after: FLUSH_AFTER,
            flush_bytes: FLUSH_BYTES,
            flush_cost: FLUSH_COST,
            hold_cost: HOLD_COST,
            prepare_again: PREPARE_AGAIN,
            free_bytes_least: FREE_BYTES_LEAST,
        }
    }
}

impl LogSettings {
    fn hold_bytes(&self) -> u64 {
        self.flush_bytes.saturating_mul(HOLD_FLUSHES)
    }
}

/// A log whose start record is synced: what [`super::start`] leaves to the log thread.
#[derive(Debug)]
pub struct OpenLog {
    pub(super) path: PathBuf,
    pub(super) files: Arc<dyn Files>,
    pub(super) open: BTreeMap<FileId, Arc<dyn OpenFile>>,
    pub(super) writer: Writer,
    pub(super) settings: LogSettings,
    /// Each partition's applied index in the store, flushed or not.
    pub(super) applied: Vec<Index>,
    /// What the start had to replay, and how long it took: not flushed yet.
    pub(super) unflushed_bytes: u64,
    pub(super) unflushed_cost: Duration,
}

/// The running log thread.
#[derive(Debug)]
pub struct LogThread {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What workers, and whoever asks, have of the log. Clones are the same.
#[derive(Clone, Debug)]
pub struct LogHandle(Arc<Shared>);

impl LogThread {
    /// Starts the thread and those beside it. Each of `tells` is for the worker of its place.
    pub fn start<S: DurableStore>(
        log: OpenLog,
        store: S,
        tells: Vec<Tell>,
    ) -> io::Result<LogThread> {
        let shared = Arc::new(Shared::new(&log, tells.len()));
        // One at a time is asked for, so neither channel is ever full.
        let (to_segments, segments) = flume::bounded(1);
        let (to_flusher, flushes) = flume::bounded::<Remembered>(1);
        let mut thread = LogThread {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let driver = Driver::new(log, Arc::clone(&shared), tells, to_segments, to_flusher);
        let (files, of_segments) = (driver.files(), Arc::clone(&shared));
        let (of_flusher, of_reclaim) = (Arc::clone(&shared), Arc::clone(&shared));
        // One round serves all flushes before it.
        let (to_reclaim, rounds) = flume::bounded(1);
        let of_rounds = store.clone();
        // The log thread comes last: where one of the others does not start, nothing was done yet, and those that run end
        // with the driver, whose channels they wait on.
        thread.threads.push(spawn("sapwood-segment", move || {
            segments::run(&*files, &segments, &of_segments);
        })?);
        thread.threads.push(spawn("sapwood-flush", move || {
            flush_until_closed(store, &flushes, &to_reclaim, &of_flusher);
        })?);
        thread.threads.push(spawn("sapwood-space", move || {
            give_back_until_closed(&of_rounds, &rounds, &of_reclaim);
        })?);
        thread
            .threads
            .push(spawn("sapwood-log", move || driver.run())?);
        Ok(thread)
    }

    /// For those who propose and ask.
    pub fn handle(&self) -> LogHandle {
        LogHandle(Arc::clone(&self.shared))
    }

    /// Makes durable what was proposed, flushes the store and ends the threads. Workers must have ended, so that what they
    /// applied is known. Returns why the plane had stopped before, if it had.
    pub fn end(mut self) -> Result<(), Failure> {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A panic was noted as a failure.
            let _ = thread.join();
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Flushes the store whenever it is asked to.
fn flush_until_closed<S: DurableStore>(
    mut store: S,
    flushes: &flume::Receiver<Remembered>,
    to_reclaim: &flume::Sender<()>,
    shared: &Arc<Shared>,
) {
    let _guard = shared.guard("sapwood-flush");
    while let Ok(wanted) = flushes.recv() {
        let begun = Instant::now();
        let flushed = store
            .write(&remembered::batch(wanted))
            .and_then(|()| store.flush());
        let took = begun.elapsed();
        if flushed.is_ok() {
            // Full: the round that waits serves this flush too.
            let _ = to_reclaim.try_send(());
        }
        let flushed = flushed.map(|()| (wanted, took));
        shared.tell(News::Flushed(flushed));
    }
}

/// Gives space back behind flushes, beside whoever writes and flushes: a compaction takes seconds.
fn give_back_until_closed<S: DurableStore>(
    store: &S,
    rounds: &flume::Receiver<()>,
    shared: &Arc<Shared>,
) {
    let _guard = shared.guard("sapwood-space");
    while rounds.recv().is_ok() {
        // An end does not wait for a round that has not begun.
        if shared.is_closed() {
            continue;
        }
        if let Err(error) = store.give_back_space() {
            shared.fail_from_outside(Failure::Store(error));
        }
    }
}

impl LogHandle {
    /// Hands over a worker's proposals, the first ones as far as there is room, and returns how many. What was not taken
    /// stays; the worker hears from the log before there is room, because something of its own is on the way.
    pub fn propose(
        &self,
        worker: u16,
        proposals: &mut Vec<Proposal>,
    ) -> Result<usize, ProposeError> {
        self.0.propose(worker, proposals)
    }

    /// Says that the store has the partition's entries up to this one, and what applying them took since the last time:
    /// so much a start would need.
    pub fn note_applied(&self, partition: PartitionId, index: Index, took: Duration) {
        self.0.note_applied(partition, index, took);
    }

    /// Whether the plane stopped. One load.
    pub fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    /// Why the plane stopped.
    pub fn failure(&self) -> Option<Failure> {
        self.0.failure()
    }

    /// Stops the plane: a worker's store failed, or is damaged.
    pub fn fail(&self, failure: Failure) {
        self.0.fail_from_outside(failure);
    }

    /// Whether so little space is free that nothing more should be stored; what frees space should be. One load, or while
    /// it is low a system call a second.
    pub fn is_low_on_space(&self) -> bool {
        self.0.is_low_on_space()
    }

    /// What the log did and how it fares.
    pub fn summary(&self) -> LogSummary {
        self.0.vitals.summary()
    }
}
