//! The store: RocksDB behind [`Store`].
//!
//! Owns the database of a data directory. Must not know what rows mean, but for those that [`Floors`] reads. Invariants:
//! only [`DurableStore::flush`], over all families, makes something durable; a crash goes back to what some flush made
//! durable, all families together; what a compaction or [`RocksStore::reclaim`] drops was dead in what a flush made
//! durable (rule 8); no iterator or snapshot outlives a call. The first failed write or flush is final: RocksDB itself
//! takes no more until it is opened again, which goes back to the last flush, and the log is replayed from there.
//!
//! A clone is the same store, for another thread. Start at [`RocksStore::open`]; `options.rs` has the options and their
//! reasons, `reclaim.rs` how space returns.

mod options;
mod reclaim;
#[cfg(test)]
mod tests;

pub use reclaim::Reclaimed;

use crate::state::DurableStore;
use crate::state::limits::REPLAY_READ_BYTES;
use options::Memory;
use reclaim::{Filters, Reclaim};
use rocksdb::{ColumnFamily, DB, DBRawIterator, FlushOptions, ReadOptions, WriteOptions};
use sapwood_state::store::{Direction, Family, Store, StoreError, Visit, WriteBatch};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The families' names in the database. They must not change.
const NAMES: [&str; Family::ALL.len()] = ["meta", "msgs", "blobs", "last", "block", "dedup", "ttl"];

/// RocksDB.
#[derive(Clone)]
pub struct RocksStore {
    shared: Arc<Shared>,
    reads: Reads,
}

/// How ranges are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// As it comes; what is read is kept in the cache.
    Near,
    /// Far ahead, and past the cache.
    Ahead,
}

struct Shared {
    db: DB,
    memory: Memory,
    reclaim: Reclaim,
    /// What the first failed write or flush said.
    failed: OnceLock<String>,
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.shared.db.path();
        write!(f, "RocksStore({}, {:?})", path.display(), self.reads)
    }
}

fn failed(error: rocksdb::Error) -> StoreError {
    StoreError::Failed(error.into_string())
}

/// Not all that RocksDB says names the directory.
fn cannot_open(directory: &Path, error: rocksdb::Error) -> StoreError {
    let error = error.into_string();
    StoreError::Failed(format!("{}: {error}", directory.display()))
}

impl Shared {
    fn family(&self, family: Family) -> &ColumnFamily {
        let handle = self.db.cf_handle(NAMES[family as usize]);
        // invariant: all families were opened with the database, and none is ever dropped.
        handle.expect("the family was opened")
    }

    fn families(&self) -> [&ColumnFamily; Family::ALL.len()] {
        Family::ALL.map(|family| self.family(family))
    }

    fn check(&self) -> Result<(), StoreError> {
        let failed = self.failed.get();
        failed.map_or(Ok(()), |said| Err(StoreError::Failed(said.clone())))
    }

    /// Keeps the error if it is the first.
    fn fail(&self, error: rocksdb::Error) -> StoreError {
        let said = self.failed.get_or_init(|| error.into_string());
        StoreError::Failed(said.clone())
    }
}

impl RocksStore {
    /// Opens the database in a directory, or makes it there; the directory above it must exist.
    ///
    /// Fails if another process has it open, or this one has; and if it is damaged. Cost: some ms, whatever it holds.
    pub fn open(directory: &Path) -> Result<RocksStore, StoreError> {
        let memory = Memory::new();
        let filters = Filters::default();
        let families = Family::ALL.map(|family| options::family(family, &memory, &filters));
        let db = DB::open_cf_descriptors(&options::database(&memory), directory, families);
        Ok(RocksStore {
            shared: Arc::new(Shared {
                db: db.map_err(|error| cannot_open(directory, error))?,
                memory,
                reclaim: Reclaim::new(filters),
                failed: OnceLock::new(),
            }),
            reads: Reads::Near,
        })
    }

    /// The same store for whoever reads many rows in a row and will not come back to them: it reads 1 MiB ahead, and
    /// leaves the cache to others. Single rows are read as ever.
    pub fn for_replay(&self) -> RocksStore {
        RocksStore {
            shared: Arc::clone(&self.shared),
            reads: Reads::Ahead,
        }
    }

    /// Gives back the space of rows that are dead for good: whole files at once, then by compactions that are worth it
    /// and bounded. Says what was done. Flushes make rows dead for good, so it is to be called behind some of them.
    ///
    /// Blocks while it compacts, seconds perhaps, so it wants a thread of its own; writes and flushes go on meanwhile.
    pub fn reclaim(&self) -> Result<Reclaimed, StoreError> {
        self.shared.reclaim.run(&self.shared)
    }

    /// Bytes in memory: the cache, with what is not flushed.
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory.used_bytes()
    }

    /// Bytes of files on disk.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let shared = &self.shared;
        let mut bytes = 0;
        for family in shared.families() {
            for property in [
                c"rocksdb.total-sst-files-size",
                c"rocksdb.total-blob-file-size",
            ] {
                let value = shared.db.property_int_value_cf(family, property);
                bytes += value.map_err(failed)?.unwrap_or(0);
            }
        }
        Ok(bytes)
    }

    /// How ranges from a key to another are read. The iterator never looks at rows outside, dead ones above all.
    fn range_options(&self, from: &[u8], to: &[u8]) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        if self.reads == Reads::Ahead {
            options.set_readahead_size(REPLAY_READ_BYTES);
            options.fill_cache(false);
        }
        options
    }
}

impl Store for RocksStore {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        value.clear();
        let row = self
            .shared
            .db
            .get_pinned_cf(self.shared.family(family), key);
        let row = row.map_err(failed)?;
        value.extend_from_slice(row.as_deref().unwrap_or_default());
        Ok(row.is_some())
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let (db, family) = (&self.shared.db, self.shared.family(family));
        let mut rows: DBRawIterator = db.raw_iterator_cf_opt(family, self.range_options(from, to));
        match direction {
            Direction::Forward => rows.seek(from),
            // The upper bound is where it begins.
            Direction::Backward => rows.seek_to_last(),
        }
        // Ends with the rows, or when the visitor has enough.
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(failed)
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let shared = &*self.shared;
        shared.check()?;
        let families = shared.families();
        let mut rows = rocksdb::WriteBatch::default();
        for write in &batch.writes {
            let family = families[write.family as usize];
            match &write.value {
                Some(value) => rows.put_cf(family, &write.key, value),
                None => rows.delete_cf(family, &write.key),
            }
        }
        let mut options = WriteOptions::default();
        // Our own log is what is replayed.
        options.disable_wal(true);
        let written = shared.db.write_opt(rows, &options);
        written.map_err(|error| shared.fail(error))?;
        // Behind the write: whoever reads the floors next reads this one, or is told again.
        shared.reclaim.note(batch);
        Ok(())
    }
}

impl DurableStore for RocksStore {
    fn flush(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        shared.check()?;
        // The floors are read in front of the flush, so that what it makes durable is no older.
        shared.reclaim.between_floors(self, || {
            let families = shared.families();
            let mut options = FlushOptions::default();
            options.set_wait(true);
            // One call for all of them: a flush of one family is durable for that one alone.
            let flushed = shared.db.flush_cfs_opt(&families, &options);
            flushed.map_err(|error| shared.fail(error))
        })
    }

    fn give_back_space(&self) -> Result<(), StoreError> {
        let reclaimed = self.reclaim()?;
        tracing::debug!("space returned: {reclaimed:?}");
        Ok(())
    }
}
