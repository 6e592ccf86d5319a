//! Counters and latencies of the log.
//!
//! Written by the log thread, read by whoever asks. Invariant: no counter goes back.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest time that a histogram tells from longer ones, in us: a minute.
const LONGEST_US: u64 = 60_000_000;

/// Most entries of one sync that are told from more.
const ENTRIES_MOST: u64 = 1_000_000;

/// A share of a value: p50, p99 and the greatest, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// The greatest.
    pub max: u64,
}

/// What the log did since the start, and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Entries that were written.
    pub entries: u64,
    /// Bytes of their commands.
    pub command_bytes: u64,
    /// Bytes of log that were written, heads and padding too.
    pub log_bytes: u64,
    /// Bytes that the disk had to write for them, in pages of 4 KiB: a page that several syncs touch counts for each.
    pub page_bytes: u64,
    /// System calls that wrote records.
    pub writes: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Microseconds to write what was gathered.
    pub write_us: Percentiles,
    /// Microseconds of a sync.
    pub sync_us: Percentiles,
    /// Entries that one sync made durable.
    pub entries_a_sync: Percentiles,
    /// Flushes of the store.
    pub flushes: u64,
    /// Microseconds of a flush.
    pub flush_us: Percentiles,
    /// Bytes of log that the store has not flushed.
    pub unflushed_bytes: u64,
    /// Microseconds that a start would need to apply them.
    pub unflushed_us: u64,
    /// Times that entries had to wait for a segment.
    pub segment_waits: u64,
    /// Times that entries had to wait for a flush.
    pub flush_waits: u64,
    /// Segments from which a start may have to read.
    pub segments_live: u64,
    /// Segments that are prepared.
    pub segments_prepared: u64,
    /// Files whose segments are not needed any more.
    pub segments_free: u64,
    /// Free space, when it was looked at last; 0 before.
    pub free_bytes: u64,
    /// Whether the log thread runs at real-time priority.
    pub is_real_time: bool,
}

#[derive(Debug)]
pub(super) struct Distribution(Mutex<Histogram<u32>>);

impl Distribution {
    fn new(most: u64) -> Distribution {
        // invariant: the bounds are constants: 1 and more than twice that, with two digits.
        let histogram = Histogram::new_with_bounds(1, most, 2).expect("bounds of a histogram");
        Distribution(Mutex::new(histogram))
    }

    pub fn note(&self, value: u64) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(value.max(1));
    }

    pub fn note_time(&self, took: Duration) {
        self.note(took.as_micros() as u64);
    }

    fn percentiles(&self) -> Percentiles {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Percentiles {
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    }
}

/// The shared counters; their names are those of [`LogSummary`].
#[derive(Debug)]
pub(super) struct LogVitals {
    pub entries: AtomicU64,
    pub command_bytes: AtomicU64,
    pub log_bytes: AtomicU64,
    pub page_bytes: AtomicU64,
    pub writes: AtomicU64,
    pub syncs: AtomicU64,
    pub flushes: AtomicU64,
    pub unflushed_bytes: AtomicU64,
    pub unflushed_us: AtomicU64,
    pub segment_waits: AtomicU64,
    pub flush_waits: AtomicU64,
    pub segments: [AtomicU64; 3],
    pub free_bytes: AtomicU64,
    pub is_real_time: AtomicU64,
    pub write_us: Distribution,
    pub sync_us: Distribution,
    pub flush_us: Distribution,
    pub entries_a_sync: Distribution,
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    // The log thread alone writes it.
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

impl LogVitals {
    pub fn new() -> LogVitals {
        let zero = AtomicU64::default;
        LogVitals {
            entries: zero(),
            command_bytes: zero(),
            log_bytes: zero(),
            page_bytes: zero(),
            writes: zero(),
            syncs: zero(),
            flushes: zero(),
            unflushed_bytes: zero(),
            unflushed_us: zero(),
            segment_waits: zero(),
            flush_waits: zero(),
            segments: Default::default(),
            free_bytes: zero(),
            is_real_time: zero(),
            write_us: Distribution::new(LONGEST_US),
            sync_us: Distribution::new(LONGEST_US),
            flush_us: Distribution::new(LONGEST_US),
            entries_a_sync: Distribution::new(ENTRIES_MOST),
        }
    }

    pub fn summary(&self) -> LogSummary {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [live, prepared, free] = &self.segments;
        LogSummary {
            entries: of(&self.entries),
            command_bytes: of(&self.command_bytes),
            log_bytes: of(&self.log_bytes),
            page_bytes: of(&self.page_bytes),
            writes: of(&self.writes),
            syncs: of(&self.syncs),
            write_us: self.write_us.percentiles(),
            sync_us: self.sync_us.percentiles(),
            entries_a_sync: self.entries_a_sync.percentiles(),
            flushes: of(&self.flushes),
            flush_us: self.flush_us.percentiles(),
            unflushed_bytes: of(&self.unflushed_bytes),
            unflushed_us: of(&self.unflushed_us),
            segment_waits: of(&self.segment_waits),
            flush_waits: of(&self.flush_waits),
            segments_live: of(live),
            segments_prepared: of(prepared),
            segments_free: of(free),
            free_bytes: of(&self.free_bytes),
            is_real_time: of(&self.is_real_time) != 0,
        }
    }
}
