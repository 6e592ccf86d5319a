//! The log thread itself: turns of taking, appending, writing, syncing and telling.
//!
//! Owns the writer. Must not wait for anything but its inbox, the log's own writes and syncs. Invariants: numbers are told
//! only after the call of the system that covers them; each wait ends by an input or by something that is due. Start at
//! [`Driver::turn`].

use super::inbox::{News, Shared, Wants, Woke};
use super::segments::Wanted;
use super::vitals::add;
use super::{LogNews, LogSettings, OpenLog, Proposal, Tell};
use crate::state::Failure;
use crate::state::files::{Files, OpenFile, is_no_space, write_all};
use crate::state::limits::{SLOW_SYNC, SLOW_SYNC_EVERY};
use crate::state::threads::become_real_time;
use sapwood_state::log::{FileId, Prepare, Remembered, Writer, WriterError, Writes};
use sapwood_wire::state::Durability;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a disk writes at least.
const PAGE_BYTES: u32 = 4096;

/// All is flushed.
const NOTHING: (u64, Duration) = (0, Duration::ZERO);

const OWN_NAME: &str = "sapwood-log";

/// What a worker has been told, and what is to be told.
struct Worker {
    tell: Tell,
    news: LogNews,
    told: LogNews,
    /// Something of its own that waits for the write alone was written.
    waits_for_write: bool,
}

/// A flush that goes on: what it covers.
#[derive(Clone, Copy, Debug)]
struct Flushing {
    begun: Instant,
    log_bytes: u64,
    cost: Duration,
}

/// What the store has not flushed.
#[derive(Debug)]
struct Unflushed {
    going: Option<Flushing>,
    /// Bytes of log, and time to apply, that the last flush covered.
    log_bytes: u64,
    cost: Duration,
    /// When the oldest entry came.
    since: Option<Instant>,
    /// Not again before this, where the last one freed nothing.
    not_before: Option<Instant>,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// The last flush was asked for.
    Flushing,
}

/// Whether there is another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Next,
    Last,
}

pub(super) struct Driver {
    path: PathBuf,
    files: Arc<dyn Files>,
    open: BTreeMap<FileId, Arc<dyn OpenFile>>,
    writer: Writer,
    writes: Writes,
    settings: LogSettings,
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    pending: VecDeque<Proposal>,
    news: Vec<News>,
    to_segments: flume::Sender<Wanted>,
    to_flusher: flume::Sender<Remembered>,
    /// The segment that is being prepared.
    preparing: Option<Prepare>,
    /// That failed for want of space, and is tried again then.
    prepare_again: Option<Instant>,
    /// Entries wait for a segment.
    lacks_segment: bool,
    /// Too much waits for a flush.
    holds: bool,
    unflushed: Unflushed,
    /// Bytes of log since the store's last flush before the start.
    log_bytes: u64,
    /// When the first `os` entry that is not synced was written.
    os_since: Option<Instant>,
    /// Something that is written waits for a sync.
    waits_for_sync: bool,
    unsynced_entries: u64,
    /// The last page that was written since the last sync.
    dirty: Option<(FileId, u32)>,
    mark_at: Option<Instant>,
    slow_told: Option<Instant>,
    ending: Ending,
}

impl Driver {
    pub fn new(
        log: OpenLog,
        shared: Arc<Shared>,
        tells: Vec<Tell>,
        to_segments: flume::Sender<Wanted>,
        to_flusher: flume::Sender<Remembered>,
    ) -> Driver {
        let workers = tells.into_iter().map(|tell| Worker {
            tell,
            news: LogNews::default(),
            told: LogNews::default(),
            waits_for_write: false,
        });
        Driver {
            path: log.path,
            files: log.files,
            open: log.open,
            writer: log.writer,
            writes: Writes::default(),
            settings: log.settings,
            shared,
            workers: workers.collect(),
            pending: VecDeque::new(),
            news: Vec::new(),
            to_segments,
            to_flusher,
            preparing: None,
            prepare_again: None,
            lacks_segment: false,
            holds: false,
            unflushed: Unflushed {
                going: None,
                log_bytes: 0,
                cost: Duration::ZERO,
                since: (log.unflushed_bytes > 0).then(Instant::now),
                not_before: None,
            },
            log_bytes: log.unflushed_bytes,
            os_since: None,
            waits_for_sync: false,
            unsynced_entries: 0,
            dirty: None,
            mark_at: None,
            slow_told: None,
            ending: Ending::No,
        }
    }

    pub fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.files)
    }

    /// Until the end or the first failure.
    pub fn run(mut self) {
        let is_real_time = become_real_time();
        let vitals = &self.shared.vitals;
        vitals
            .is_real_time
            .store(u64::from(is_real_time), Ordering::Relaxed);
        // Before the first wait: a start leaves no segment prepared, and what it replayed may be due for a flush.
        let now = Instant::now();
        self.prepare(now);
        self.flush_if_due(now);
        self.note_state();
        loop {
            match self.turn() {
                Ok(Turn::Next) => {}
                Ok(Turn::Last) => return,
                Err(failure) => return self.fail(failure),
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        // Before anything else: from here on nobody acknowledges anything.
        self.shared.set_failed(failure.clone());
        self.writer.fail();
        tracing::error!("{failure}");
        for worker in &self.workers {
            (worker.tell)(worker.told);
        }
    }

    fn turn(&mut self) -> Result<Turn, Failure> {
        let wants = match self.lacks_segment || self.holds {
            true => Wants::News,
            false => Wants::All,
        };
        let until = match wants == Wants::All && !self.pending.is_empty() {
            // More was there than one append takes.
            true => Some(Instant::now()),
            false => self.deadline(),
        };
        let woke = self
            .shared
            .wait(wants, until, &mut self.pending, &mut self.news);
        for news in std::mem::take(&mut self.news) {
            self.handle_news(news)?;
        }
        let now = Instant::now();
        self.hold_if_behind();
        self.append(now)?;
        // Behind the append, which may have taken the segment that was prepared: the next is ready when entries need it.
        self.prepare(now);
        if self.waits_for_sync || is_due(self.os_due(), now) {
            self.sync()?;
        }
        if is_due(self.mark_at, now) {
            self.mark()?;
        }
        self.tell_news();
        self.flush_if_due(now);
        self.note_state();
        match woke {
            Woke::Open => Ok(Turn::Next),
            Woke::Closed => self.end(),
        }
    }

    /// When something is due although nothing comes.
    fn deadline(&self) -> Option<Instant> {
        let all = [
            self.os_due(),
            self.mark_at,
            self.flush_due(),
            self.prepare_again,
        ];
        all.into_iter().flatten().min()
    }

    fn os_due(&self) -> Option<Instant> {
        self.os_since
            .map(|since| since + self.settings.os_sync_after)
    }

    fn handle_news(&mut self, news: News) -> Result<(), Failure> {
        match news {
            News::Prepared {
                file,
                segment,
                result: Ok(open),
            } => {
                self.open.insert(file, open);
                self.preparing = None;
                self.writer.handle_prepared(segment);
                self.lacks_segment = false;
            }
            News::Prepared {
                file,
                result: Err(error),
                ..
            } => return self.handle_not_prepared(file, &error),
            News::Flushed(Ok((remembered, took))) => self.handle_flushed(remembered, took),
            News::Flushed(Err(error)) => return Err(Failure::Store(error)),
            // The turn looks at it.
            News::Behind => {}
            News::Failed(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Want of space may pass, and nothing was lost; any other error is final.
    fn handle_not_prepared(&mut self, file: FileId, error: &io::Error) -> Result<(), Failure> {
        if !is_no_space(error) {
            return Err(self.file_failure(file, "prepare", error));
        }
        self.prepare_again = Some(Instant::now() + self.settings.prepare_again);
        tracing::warn!(
            "no space for {} ({error}): it is tried again",
            self.path.join(file.to_string()).display()
        );
        self.shared.note_no_space();
        Ok(())
    }

    fn file_failure(&self, file: FileId, doing: &'static str, error: &io::Error) -> Failure {
        Failure::file(self.path.join(file.to_string()), doing, error)
    }

    /// Has the next segment prepared, if one is wanted.
    fn prepare(&mut self, now: Instant) {
        if let Some(wanted) = self.writer.prepare() {
            self.preparing = Some(wanted);
        } else if is_due(self.prepare_again, now) {
            self.prepare_again = None;
        } else {
            return;
        }
        if let Some(wanted) = self.preparing.clone() {
            let open = self.open.get(&wanted.file).cloned();
            // Fails only if that thread panicked, which was noted.
            let _ = self.to_segments.try_send((wanted, open));
        }
    }

    /// Takes nothing while a start would have too much to do.
    fn hold_if_behind(&mut self) {
        let (bytes, cost) = self.behind();
        let holds = bytes > self.settings.hold_bytes() || cost > self.settings.hold_cost;
        if holds && !self.holds {
            add(&self.shared.vitals.flush_waits, 1);
        }
        self.holds = holds;
    }

    /// Bytes of log, and time to apply, that are not flushed.
    fn behind(&self) -> (u64, Duration) {
        let cost = self.shared.cost().saturating_sub(self.unflushed.cost);
        (self.log_bytes - self.unflushed.log_bytes, cost)
    }

    /// Appends and writes what is pending, as much as an append takes.
    fn append(&mut self, now: Instant) -> Result<(), Failure> {
        if self.pending.is_empty() || self.holds || self.lacks_segment {
            return Ok(());
        }
        self.shared.look_at_space(now);
        let most = self.settings.sizes.append_bytes_max;
        let mut bytes = 0;
        let is_enough = |proposal: &&Proposal| {
            let takes = bytes < most;
            bytes += proposal.commands.len();
            takes
        };
        let entries: Vec<_> = self
            .pending
            .iter()
            .take_while(is_enough)
            .map(Proposal::entry)
            .collect();
        let taken = match self.writer.append(&entries, &mut self.writes) {
            Ok(taken) => taken,
            Err(WriterError::NoSegment) => {
                self.lacks_segment = true;
                add(&self.shared.vitals.segment_waits, 1);
                return Ok(());
            }
            Err(error) => panic!("a worker's entry is refused: {error}"),
        };
        drop(entries);
        self.write()?;
        self.log_bytes += self.writes.len() as u64;
        self.note_written(taken, now);
        Ok(())
    }

    /// Writes what the writer encoded.
    fn write(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let vitals = &self.shared.vitals;
        for write in self.writes.iter() {
            let file = self.file(write.file);
            let written = write_all(&**file, u64::from(write.offset), write.bytes);
            written.map_err(|error| self.file_failure(write.file, "write", &error))?;
            add(&vitals.writes, 1);
            let first = write.offset / PAGE_BYTES;
            let last = (write.offset + write.bytes.len() as u32 - 1) / PAGE_BYTES;
            let again = self.dirty == Some((write.file, first));
            let pages = last - first + u32::from(!again);
            add(&vitals.page_bytes, u64::from(pages * PAGE_BYTES));
            self.dirty = Some((write.file, last));
        }
        add(&vitals.log_bytes, self.writes.len() as u64);
        vitals.write_us.note_time(begun.elapsed());
        Ok(())
    }

    fn file(&self, file: FileId) -> &Arc<dyn OpenFile> {
        match self.open.get(&file) {
            Some(open) => open,
            None => panic!("{file} is not open"),
        }
    }

    /// The first of those pending were written.
    fn note_written(&mut self, taken: usize, now: Instant) {
        let mut bytes = 0;
        for proposal in self.pending.iter().take(taken) {
            bytes += proposal.commands.len() as u64;
            let worker = &mut self.workers[usize::from(proposal.worker)];
            worker.news.written = proposal.number;
            match proposal.durability {
                Durability::Fsync => self.waits_for_sync = true,
                Durability::Os => {
                    worker.waits_for_write = true;
                    self.os_since.get_or_insert(now);
                }
            }
        }
        self.shared.release(self.pending.iter().take(taken));
        self.pending.drain(..taken);
        self.unsynced_entries += taken as u64;
        self.unflushed.since.get_or_insert(now);
        self.mark_at = None;
        let vitals = &self.shared.vitals;
        add(&vitals.entries, taken as u64);
        add(&vitals.command_bytes, bytes);
        // A sync takes long; who waits for the write alone hears of it before.
        for worker in &mut self.workers {
            if std::mem::take(&mut worker.waits_for_write) {
                worker.tell_news();
            }
        }
    }

    /// Makes all that is written durable.
    fn sync(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let up_to = self.writer.written();
        for file in self.writer.unsynced_files() {
            let synced = self.file(file).sync();
            synced.map_err(|error| self.file_failure(file, "sync", &error))?;
        }
        if let Err(error) = self.writer.handle_synced(up_to) {
            panic!("{error}");
        }
        let took = begun.elapsed();
        self.note_slow(begun, took);
        let vitals = &self.shared.vitals;
        vitals.sync_us.note_time(took);
        add(&vitals.syncs, 1);
        if self.unsynced_entries > 0 {
            vitals.entries_a_sync.note(self.unsynced_entries);
            self.mark_at = Some(begun + took + self.settings.mark_after);
        }
        self.unsynced_entries = 0;
        self.waits_for_sync = false;
        self.os_since = None;
        self.dirty = None;
        for worker in &mut self.workers {
            worker.news.synced = worker.news.written;
        }
        Ok(())
    }

    fn note_slow(&mut self, begun: Instant, took: Duration) {
        let is_told = |told: Instant| begun < told + SLOW_SYNC_EVERY;
        if took >= SLOW_SYNC && !self.slow_told.is_some_and(is_told) {
            self.slow_told = Some(begun);
            tracing::warn!(
                "the disk under {} took {} ms for a sync: whoever publishes waits so long",
                self.path.display(),
                took.as_millis()
            );
        }
    }

    /// Says in the log that all before was synced.
    fn mark(&mut self) -> Result<(), Failure> {
        self.mark_at = None;
        match self.writer.mark(&mut self.writes) {
            Ok(()) => {}
            // Then the next entries say it.
            Err(WriterError::NoSegment) => return Ok(()),
            Err(error) => panic!("{error}"),
        }
        self.write()?;
        self.sync()
    }

    fn tell_news(&mut self) {
        for worker in &mut self.workers {
            if worker.news != worker.told {
                worker.tell_news();
            }
        }
    }

    fn flush_due(&self) -> Option<Instant> {
        if self.unflushed.going.is_some() {
            return None;
        }
        let by_age = self.unflushed.since;
        let by_age = by_age.map(|since| since + self.settings.flush_after);
        let for_room = self.unflushed.not_before.filter(|_| self.wants_room());
        by_age.into_iter().chain(for_room).min()
    }

    /// Entries wait for a segment that nobody prepares: all files hold what is not flushed, or there is no space for another.
    fn wants_room(&self) -> bool {
        let is_prepared = self.preparing.is_some() && self.prepare_again.is_none();
        self.lacks_segment && !is_prepared && self.behind() != NOTHING
    }

    fn flush_if_due(&mut self, now: Instant) {
        let (bytes, cost) = self.behind();
        let is_much = bytes >= self.settings.flush_bytes || cost >= self.settings.flush_cost;
        let is_wanted = self.wants_room() && self.unflushed.not_before.is_none();
        if is_much || is_wanted || is_due(self.flush_due(), now) {
            self.flush(now);
        }
    }

    fn flush(&mut self, now: Instant) {
        if self.unflushed.going.is_some() || self.behind() == NOTHING {
            return;
        }
        let covers = Flushing {
            begun: now,
            // Read before what was applied, so that what is applied meanwhile counts as not flushed.
            log_bytes: self.log_bytes,
            cost: self.shared.cost(),
        };
        let remembered = self
            .writer
            .remember(|partition| self.shared.applied(partition));
        self.unflushed.going = Some(covers);
        // Fails only if that thread panicked, which was noted.
        let _ = self.to_flusher.try_send(remembered);
    }

    fn handle_flushed(&mut self, remembered: Remembered, took: Duration) {
        let free_before = self.writer.segments().2;
        self.writer.handle_flushed(remembered);
        let Some(covered) = self.unflushed.going.take() else {
            panic!("nobody asked for a flush");
        };
        self.unflushed.log_bytes = covered.log_bytes;
        self.unflushed.cost = covered.cost;
        self.shared
            .flush_at(covered.cost + self.settings.flush_cost);
        let is_all = self.log_bytes == covered.log_bytes;
        self.unflushed.since = (!is_all).then_some(covered.begun);
        let has_freed = self.writer.segments().2 > free_before;
        self.unflushed.not_before =
            (!has_freed).then(|| Instant::now() + self.settings.prepare_again);
        let vitals = &self.shared.vitals;
        vitals.flush_us.note_time(took);
        add(&vitals.flushes, 1);
    }

    /// Goes on with the end. Until it is there, each wait is for a segment or a flush.
    fn end(&mut self) -> Result<Turn, Failure> {
        let waits = !self.pending.is_empty() || self.shared.has_proposals();
        // Without space nobody knows until when; what waits was never acknowledged.
        let is_hopeless = self.lacks_segment && self.prepare_again.is_some();
        if waits && !is_hopeless {
            return Ok(Turn::Next);
        }
        if self.os_since.is_some() {
            self.sync()?;
            self.tell_news();
        }
        if self.mark_at.is_some() {
            self.mark()?;
        }
        if self.unflushed.going.is_some() {
            return Ok(Turn::Next);
        }
        if self.ending == Ending::No && self.behind() != NOTHING {
            self.ending = Ending::Flushing;
            self.flush(Instant::now());
            return Ok(Turn::Next);
        }
        Ok(Turn::Last)
    }

    fn note_state(&self) {
        let vitals = &self.shared.vitals;
        let (bytes, cost) = self.behind();
        vitals.unflushed_bytes.store(bytes, Ordering::Relaxed);
        let us = cost.as_micros() as u64;
        vitals.unflushed_us.store(us, Ordering::Relaxed);
        let (live, prepared, free) = self.writer.segments();
        for (counter, count) in vitals.segments.iter().zip([live, prepared, free]) {
            counter.store(count as u64, Ordering::Relaxed);
        }
    }
}

impl Worker {
    fn tell_news(&mut self) {
        self.told = self.news;
        (self.tell)(self.news);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.set_failed(Failure::Bug(OWN_NAME));
            // Should telling be what panics, all others are told.
            for worker in &self.workers {
                let tell = || (worker.tell)(worker.told);
                let _ = catch_unwind(AssertUnwindSafe(tell));
            }
        }
    }
}

fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}
