//! The database's options, each with its reason. "Measured" is with a prototype, beside a log that syncs.
//!
//! | option | reason |
//! |---|---|
//! | no WAL | our own log is replayed: a second one would write everything twice |
//! | atomic flush | all families stand at one moment: applied indexes beside the rows they speak of |
//! | cache 128 MiB, what is not flushed charged to it | one cap for both |
//! | write buffers 32 MiB, 64 MiB of all families | measured well; a flush every 32 MiB at most |
//! | indexes and filters in the cache | otherwise they are held for each open file, without a cap |
//! | `bytes_per_sync` 1 MiB | p99.9 of the log's sync beside a busy store 4 ms instead of 9; a rate limiter or direct I/O add nothing |
//! | 2 background jobs | one flushes, one compacts; the cores are the shards' |
//! | no concurrent memtable writes | workers write in turns; each batch is one writer's |
//! | blocks 16 KiB; names of long bodies 4 KiB; `last` 4 KiB and bloom | a run has up to 16 KiB; a body or a topic is looked up alone, and mostly a topic is not there |
//! | lz4 | the only compression built in; it costs less than the bytes that it saves |
//! | 512 open files, opened by one thread | a cap; no scan at start |
//! | no statistics, no dumps of them | no work while there is none |
//! | own log file: warnings, 2 of 1 MiB | what it says at other levels is of no use here |
//! | long bodies in blob files | a compaction does not move them; garbage is collected when half a file is |
//!
//! Memory: the cache, 2 MiB when opened, some 10 KiB for each open file, and what a compaction holds: some MiB.

use super::NAMES;
use super::reclaim::Filters;
use crate::state::limits::*;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options,
    WriteBufferManager,
};
use sapwood_state::store::Family;

/// Bits of a topic's filter: one look-up in a hundred reads a block for nothing.
const BLOOM_BITS: f64 = 10.0;

/// What all families share.
pub(super) struct Memory {
    cache: Cache,
    unflushed: WriteBufferManager,
}

impl Memory {
    pub(super) fn new() -> Memory {
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        // Without a stall: a writer waits for a flush anyway when both of a family's buffers are full.
        let unflushed = WriteBufferManager::new_write_buffer_manager_with_cache(
            UNFLUSHED_BYTES_MAX,
            false,
            cache.clone(),
        );
        Memory { cache, unflushed }
    }

    /// Blocks, and what is not flushed.
    pub(super) fn used_bytes(&self) -> usize {
        self.cache.get_usage()
    }
}

/// Of the database.
pub(super) fn database(memory: &Memory) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_write_buffer_manager(&memory.unflushed);
    options.set_allow_concurrent_memtable_write(false);
    options.set_bytes_per_sync(1024 * 1024);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(NOTES_BYTES);
    options.set_keep_log_file_num(2);
    // Whoever reads or writes does not wait until old files are deleted.
    options.set_avoid_unnecessary_blocking_io(true);
    options
}

/// Of a family.
pub(super) fn family(family: Family, memory: &Memory, filters: &Filters) -> ColumnFamilyDescriptor {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&memory.cache);
    blocks.set_block_size(16 * 1024);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    match family {
        // Its rows are never dead, and few.
        Family::Meta => {}
        Family::Blobs => {
            // A file is as long as a block at least, which with 16 KiB would name 400 bodies.
            blocks.set_block_size(4 * 1024);
            options.set_target_file_size_base(BLOB_NAMES_FILE_BYTES);
            options.set_enable_blob_files(true);
            options.set_min_blob_size(BLOB_BYTES_MIN);
            options.set_blob_file_size(BLOB_FILE_BYTES);
            options.set_blob_compression_type(DBCompressionType::Lz4);
            options.set_enable_blob_gc(true);
            options.set_blob_gc_age_cutoff(1.0);
            options.set_blob_gc_force_threshold(0.5);
            // No filter: it would read every body that a compaction passes.
        }
        Family::Last => {
            blocks.set_block_size(4 * 1024);
            blocks.set_bloom_filter(BLOOM_BITS, false);
            options.set_compaction_filter_factory(filters.of(family));
        }
        Family::Msgs | Family::Block | Family::Dedup | Family::Ttl => {
            options.set_compaction_filter_factory(filters.of(family));
        }
    }
    options.set_block_based_table_factory(&blocks);
    ColumnFamilyDescriptor::new(NAMES[family as usize], options)
}
