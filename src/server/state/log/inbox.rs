//! What the log thread shares with others: its inbox, the failed flag, what was applied.
//!
//! Owns the bounds of the inbox. Must not know how entries are written. Invariants: a worker has at most
//! [`INBOX_BYTES_MAX`] waiting, or one proposal; the failed flag is set before anyone is told of a failure, and stays.
//! Start at [`Shared::propose`] and [`Shared::wait`].

use super::vitals::LogVitals;
use super::{OpenLog, Proposal, ProposeError};
use crate::state::Failure;
use crate::state::files::{Files, OpenFile};
use crate::state::limits::{INBOX_BYTES_MAX, INBOX_PROPOSALS_MAX, SPACE_LOOK_EVERY};
use sapwood_state::log::{FileId, Remembered, SegmentNumber};
use sapwood_state::store::StoreError;
use sapwood_wire::state::{Index, PartitionId};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the threads beside the log thread, and workers, tell it. Bounded: one of each is under way at most.
#[derive(Debug)]
pub(super) enum News {
    /// A segment is prepared, or was not.
    Prepared {
        file: FileId,
        segment: SegmentNumber,
        result: io::Result<Arc<dyn OpenFile>>,
    },
    /// The store was flushed, and how long it took, or was not.
    Flushed(Result<(Remembered, Duration), StoreError>),
    /// So much was applied since the last flush that the next is due.
    Behind,
    /// The plane is to stop.
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    bytes: usize,
    proposals: usize,
    /// Number of the last proposal that was taken.
    last: u64,
}

#[derive(Debug)]
struct Inbox {
    proposals: VecDeque<Proposal>,
    news: Vec<News>,
    loads: Vec<Load>,
    /// What the log thread sleeps for; nothing while it is awake.
    sleeps: Option<Wants>,
    is_closed: bool,
    /// The log thread knows that.
    is_close_told: bool,
}

/// What the log thread can go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Proposals and news.
    All,
    /// News alone: entries have no room.
    News,
}

/// What a wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woke {
    /// By an input or a deadline.
    Open,
    /// Nothing more will be proposed.
    Closed,
}

#[derive(Debug)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    wakes: Condvar,
    has_failed: AtomicBool,
    failure: OnceLock<Failure>,
    /// By partition: the store has all up to this.
    applied: Vec<AtomicU64>,
    /// Time that was spent to apply, since the store was flushed before the start.
    cost_ns: AtomicU64,
    /// The store is to be flushed when that much was spent.
    flush_at_ns: AtomicU64,
    files: Arc<dyn Files>,
    free_bytes_least: u64,
    is_low: AtomicBool,
    space_looked_ms: AtomicU64,
    begun: Instant,
    pub vitals: LogVitals,
}

/// Stops the plane if its thread ends by a panic.
pub(super) struct Guard {
    shared: Arc<Shared>,
    thread: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail_from_outside(Failure::Bug(self.thread));
        }
    }
}

impl Shared {
    pub fn new(log: &OpenLog, workers: usize) -> Shared {
        let applied = log.applied.iter().map(|index| AtomicU64::new(index.0));
        Shared {
            inbox: Mutex::new(Inbox {
                proposals: VecDeque::new(),
                news: Vec::new(),
                loads: vec![Load::default(); workers],
                sleeps: None,
                is_closed: false,
                is_close_told: false,
            }),
            wakes: Condvar::new(),
            has_failed: AtomicBool::new(false),
            failure: OnceLock::new(),
            applied: applied.collect(),
            cost_ns: AtomicU64::new(log.unflushed_cost.as_nanos() as u64),
            flush_at_ns: AtomicU64::new(log.settings.flush_cost.as_nanos() as u64),
            files: Arc::clone(&log.files),
            free_bytes_least: log.settings.free_bytes_least,
            is_low: AtomicBool::new(false),
            space_looked_ms: AtomicU64::new(0),
            begun: Instant::now(),
            vitals: LogVitals::new(),
        }
    }

    /// A panic while it is held leaves it whole: nothing in between can panic but assertions before changes.
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn propose(
        &self,
        worker: u16,
        proposals: &mut Vec<Proposal>,
    ) -> Result<usize, ProposeError> {
        if self.has_failed() {
            return Err(ProposeError::Failed);
        }
        let mut inbox = self.lock();
        if inbox.is_closed {
            return Err(ProposeError::Ended);
        }
        let Inbox {
            proposals: waiting,
            loads,
            ..
        } = &mut *inbox;
        let Some(load) = loads.get_mut(usize::from(worker)) else {
            panic!("worker {worker} is not known to the log");
        };
        let fits = |proposal: &&Proposal| {
            let bytes = load.bytes + proposal.commands.len();
            let has_room = bytes <= INBOX_BYTES_MAX && load.proposals < INBOX_PROPOSALS_MAX;
            if !has_room && load.proposals > 0 {
                return false;
            }
            assert!(
                proposal.worker == worker && proposal.number == load.last + 1,
                "worker {worker} proposes number {} of worker {} after {}",
                proposal.number,
                proposal.worker,
                load.last
            );
            load.bytes = bytes;
            load.proposals += 1;
            load.last = proposal.number;
            true
        };
        let taken = proposals.iter().take_while(fits).count();
        waiting.extend(proposals.drain(..taken));
        let wakes = taken > 0 && inbox.sleeps.take_if(|wants| *wants == Wants::All).is_some();
        drop(inbox);
        if wakes {
            self.wakes.notify_one();
        }
        Ok(taken)
    }

    /// Says that so much of a worker's was taken out.
    pub fn release<'a>(&self, taken: impl Iterator<Item = &'a Proposal>) {
        let mut inbox = self.lock();
        for proposal in taken {
            let load = &mut inbox.loads[usize::from(proposal.worker)];
            load.bytes -= proposal.commands.len();
            load.proposals -= 1;
        }
    }

    pub fn tell(&self, news: News) {
        let mut inbox = self.lock();
        inbox.news.push(news);
        inbox.sleeps = None;
        drop(inbox);
        self.wakes.notify_one();
    }

    /// Whether the end has begun.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Ends the log thread once it has done what was proposed. Idempotent.
    pub fn close(&self) {
        let mut inbox = self.lock();
        inbox.is_closed = true;
        inbox.sleeps = None;
        drop(inbox);
        self.wakes.notify_one();
    }

    /// Waits for what is wanted, for news, for the end (once) or until `until`, and takes what there is. Without `until` it may
    /// sleep for ever; with one in the past it does not sleep.
    pub fn wait(
        &self,
        wants: Wants,
        until: Option<Instant>,
        proposals: &mut VecDeque<Proposal>,
        news: &mut Vec<News>,
    ) -> Woke {
        let mut inbox = self.lock();
        // Ends at an input or at the deadline; a wake-up without a reason waits again.
        while inbox.news.is_empty()
            && inbox.is_closed == inbox.is_close_told
            && (wants == Wants::News || inbox.proposals.is_empty())
        {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            inbox.sleeps = Some(wants);
            inbox = match left {
                None => self
                    .wakes
                    .wait(inbox)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.wakes.wait_timeout(inbox, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inbox.sleeps = None;
        if wants == Wants::All {
            proposals.append(&mut inbox.proposals);
        }
        news.append(&mut inbox.news);
        inbox.is_close_told = inbox.is_closed;
        match inbox.is_closed {
            true => Woke::Closed,
            false => Woke::Open,
        }
    }

    /// Whether proposals wait.
    pub fn has_proposals(&self) -> bool {
        !self.lock().proposals.is_empty()
    }

    pub fn note_applied(&self, partition: PartitionId, index: Index, took: Duration) {
        // Release: who reads the index may rely on the store's having it.
        self.applied[usize::from(partition.0)].fetch_max(index.0, Ordering::Release);
        let took = took.as_nanos() as u64;
        // Sequentially consistent with `flush_at`: either the log thread sees this sum, or it is woken here. It may sleep,
        // because what is applied last comes behind the last entry.
        let before = self.cost_ns.fetch_add(took, Ordering::SeqCst);
        let due = self.flush_at_ns.load(Ordering::SeqCst);
        if before < due && before + took >= due {
            self.tell(News::Behind);
        }
    }

    /// Has the log thread woken when so much was spent to apply. It must look at [`Shared::cost`] behind that.
    pub fn flush_at(&self, cost: Duration) {
        let cost = cost.as_nanos() as u64;
        self.flush_at_ns.store(cost, Ordering::SeqCst);
    }

    pub fn applied(&self, partition: PartitionId) -> u64 {
        let applied = self.applied.get(usize::from(partition.0));
        applied.map_or(0, |index| index.load(Ordering::Acquire))
    }

    pub fn cost(&self) -> Duration {
        Duration::from_nanos(self.cost_ns.load(Ordering::SeqCst))
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    pub fn failure(&self) -> Option<Failure> {
        match self.has_failed() {
            true => self.failure.get().cloned(),
            false => None,
        }
    }

    /// Sets the flag. The first failure is the one that is told; true for that.
    pub fn set_failed(&self, failure: Failure) -> bool {
        let is_first = self.failure.set(failure).is_ok();
        self.has_failed.store(true, Ordering::Release);
        is_first
    }

    /// Sets the flag, and makes the log thread tell the workers.
    pub fn fail_from_outside(&self, failure: Failure) {
        self.set_failed(failure.clone());
        self.tell(News::Failed(failure));
    }

    pub fn guard(self: &Arc<Shared>, thread: &'static str) -> Guard {
        Guard {
            shared: Arc::clone(self),
            thread,
        }
    }

    pub fn is_low_on_space(&self) -> bool {
        if !self.is_low.load(Ordering::Relaxed) {
            return false;
        }
        self.look_at_space(Instant::now());
        self.is_low.load(Ordering::Relaxed)
    }

    /// Looks at the free space, if the last look was some time ago. A file system that does not say it has enough.
    pub fn look_at_space(&self, now: Instant) {
        let now = now.saturating_duration_since(self.begun).as_millis() as u64 + 1;
        let looked = self.space_looked_ms.load(Ordering::Relaxed);
        let is_due = looked == 0 || now >= looked + SPACE_LOOK_EVERY.as_millis() as u64;
        if !is_due {
            return;
        }
        self.space_looked_ms.store(now, Ordering::Relaxed);
        let Ok(free) = self.files.free_bytes() else {
            return;
        };
        self.vitals.free_bytes.store(free, Ordering::Relaxed);
        let is_low = free < self.free_bytes_least;
        if is_low != self.is_low.swap(is_low, Ordering::Relaxed) {
            match is_low {
                true => tracing::warn!(
                    "only {} MiB are free where the data is kept: nothing more is stored until {} MiB are",
                    free >> 20,
                    self.free_bytes_least >> 20
                ),
                false => tracing::info!("{} MiB are free again: messages are stored", free >> 20),
            }
        }
    }

    /// No space was left for a segment.
    pub fn note_no_space(&self) {
        self.is_low.store(true, Ordering::Relaxed);
    }
}
