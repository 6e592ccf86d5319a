//! How space returns: the filter of compactions, files that go whole, compactions that are worth it.
//!
//! Owns what is dead for good. Invariant (rule 8): it was read in front of a flush that then succeeded, so nothing of it
//! is newer than what a crash goes back to. What is read may be older than the store, which only keeps rows for longer.
//! RocksDB compacts what it likes, so its filter alone may never come by: [`Reclaim::run`] goes after dead ranges itself.

use super::{RocksStore, Shared, failed};
use crate::state::limits::{DEAD_BYTES_MIN, GONE_MESSAGES_MIN, TOPIC_ROW_BYTES};
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{CompactOptions, CompactionDecision, Range};
use sapwood_state::limits::PARTITIONS_MAX;
use sapwood_state::log::PartitionId;
use sapwood_state::store::{Family, StoreError, WriteBatch};
use sapwood_state::streams::{Floors, Place};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a round has given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Ranges that were dead and had grown.
    pub ranges: u64,
    /// Those that a compaction went through.
    pub compactions: u64,
}

/// What is dead for good, as it is known now: shared with the filters.
#[derive(Clone, Default)]
pub(super) struct Filters(Arc<Mutex<Arc<Floors>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filters {
    pub(super) fn of(&self, family: Family) -> Factory {
        Factory {
            family,
            filters: self.clone(),
        }
    }

    fn floors(&self) -> Arc<Floors> {
        Arc::clone(&lock(&self.0))
    }
}

/// Makes a family's filters. RocksDB calls it from several threads at once, so it has no state of its own.
pub(super) struct Factory {
    family: Family,
    filters: Filters,
}

impl CompactionFilterFactory for Factory {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter {
            family: self.family,
            floors: self.filters.floors(),
        }
    }

    fn name(&self) -> &CStr {
        c"floors"
    }
}

/// Drops dead rows of one compaction.
pub(super) struct Filter {
    family: Family,
    floors: Arc<Floors>,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.floors.is_dead(self.family, key, value) {
            true => CompactionDecision::Remove,
            false => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"floors"
    }
}

/// What has changed, what is dead, and what was given back.
pub(super) struct Reclaim {
    filters: Filters,
    /// A bit for each partition that was written to since its floors were last read.
    changed: [AtomicU64; PARTITIONS_MAX.div_ceil(64)],
    /// Held during a flush: two at once could publish in the wrong order.
    flush: Mutex<()>,
    progress: Mutex<Progress>,
}

/// Of the rounds so far.
#[derive(Default)]
struct Progress {
    floors: Arc<Floors>,
    /// For each stream, the floor when its topics were last looked through.
    topics: BTreeMap<Place, u64>,
}

impl Reclaim {
    pub(super) fn new(filters: Filters) -> Reclaim {
        Reclaim {
            filters,
            // Nothing was read yet.
            changed: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            flush: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// Notes whose floors a batch may have moved: a partition's rows come with its own.
    pub(super) fn note(&self, batch: &WriteBatch) {
        let writes = batch.writes.iter();
        for write in writes.filter(|write| write.family == Family::Meta) {
            let Some(front) = write.key.first_chunk() else {
                continue;
            };
            let partition = u16::from_be_bytes(*front);
            // What is no partition's stands above them.
            if let Some(word) = self.changed.get(usize::from(partition / 64)) {
                word.fetch_or(1 << (partition % 64), Ordering::Release);
            }
        }
    }

    /// Reads the floors, flushes, and takes them for durable if that went well.
    pub(super) fn between_floors(
        &self,
        store: &RocksStore,
        flush: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _one = lock(&self.flush);
        let mut floors = Floors::clone(&self.filters.floors());
        for (place, word) in self.changed.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Acquire);
            // Ends: each round clears a bit.
            while bits != 0 {
                let partition = place as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                floors.read(PartitionId(partition as u16), store)?;
            }
        }
        flush()?;
        *lock(&self.filters.0) = Arc::new(floors);
        Ok(())
    }

    /// One round.
    pub(super) fn run(&self, shared: &Shared) -> Result<Reclaimed, StoreError> {
        let mut progress = lock(&self.progress);
        let floors = self.filters.floors();
        let mut reclaimed = Reclaimed::default();
        for family in Family::ALL {
            for (from, to) in floors.dead_ranges(family, &progress.floors) {
                reclaimed.ranges += 1;
                let handle = shared.family(family);
                let last = below(&to);
                let deleted = shared.db.delete_file_in_range_cf(handle, &from, &last);
                deleted.map_err(failed)?;
                if shared.size(family, &from, &to) >= DEAD_BYTES_MIN {
                    shared.compact(family, &from, &to);
                    reclaimed.compactions += 1;
                }
            }
        }
        for (place, floor) in floors.streams() {
            let before = progress.topics.get(&place).copied().unwrap_or(0);
            if shared.looks_through_topics(place, floor.saturating_sub(before)) {
                progress.topics.insert(place, floor);
                reclaimed.compactions += 1;
            }
        }
        progress.topics.retain(|place, _| floors.has(*place));
        progress.floors = floors;
        Ok(reclaimed)
    }
}

/// A key below this one with as good as none between them. RocksDB deletes a file that ends with the very key that it is
/// given, and the row at the floor is alive.
fn below(key: &[u8]) -> Vec<u8> {
    let mut below = key.to_vec();
    for byte in below.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            break;
        }
    }
    // Numbers and short ids stand behind it.
    below.extend_from_slice(&[u8::MAX; 24]);
    below
}

impl Shared {
    /// About how many bytes of files hold keys of a range.
    fn size(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        let sizes = self
            .db
            .get_approximate_sizes_cf(self.family(family), &[Range::new(from, to)]);
        sizes.iter().sum()
    }

    /// Rewrites the files that hold keys of a range, without what is dead.
    fn compact(&self, family: Family, from: &[u8], to: &[u8]) {
        let mut options = CompactOptions::default();
        // Automatic ones go on beside it.
        options.set_exclusive_manual_compaction(false);
        // The lowest level too, but not what this very compaction wrote.
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::ForceOptimized);
        let handle = self.family(family);
        self.db
            .compact_range_cf_opt(handle, Some(from), Some(to), &options);
    }

    /// Compacts a stream's topics if at least as many messages went as there are topics, so that each message that goes
    /// pays for one row. Those that are dead stand among the living, so no range tells them.
    fn looks_through_topics(&self, place: Place, gone: u64) -> bool {
        if gone < GONE_MESSAGES_MIN {
            return false;
        }
        let (from, to) = place.range();
        if gone < self.size(Family::Last, &from, &to) / TOPIC_ROW_BYTES {
            return false;
        }
        self.compact(Family::Last, &from, &to);
        true
    }
}
