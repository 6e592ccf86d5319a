//! Every cap of the state plane's threads, files and store, with its reason.
//!
//! The store's worst memory is its cache, that of the files that are open, and a few buffers: `store/options.rs` has the
//! sum. The store's own tests run with smaller ones where `cfg!(test)` says so, that little data reaches them.

use std::time::Duration;

/// Most bytes of commands that one worker may have in the log thread's inbox: as many as an append takes, so that the
/// next append is full while one is written. Worst memory: so much for each worker.
pub const INBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most proposals that one worker may have in the inbox: an entry for each of 64 partitions in 128 turns. Worst memory:
/// 64 bytes each, 0.5 MiB for each worker.
pub const INBOX_PROPOSALS_MAX: usize = 8_192;

/// `os` entries are synced within 100 ms: the sync begins after half of that, and has the other half.
pub const OS_SYNC_AFTER: Duration = Duration::from_millis(50);

/// When nothing came for so long, a record says that the last one was synced, so that damage to it is noticed.
pub const MARK_AFTER: Duration = Duration::from_secs(1);

/// The store is flushed after so many bytes of log: about what its write buffers take before they are flushed anyway.
pub const FLUSH_BYTES: u64 = 128 * 1024 * 1024;

/// The store is flushed when so much time was spent to apply what it has not flushed: a start spends it again. With the
/// 0.2 s that recovery and opening take, and what comes while the flush goes on, a start stays within 2 s.
pub const FLUSH_COST: Duration = Duration::from_millis(600);

/// Nothing more is taken while so much time to apply, or so many times [`FLUSH_BYTES`], waits for a flush.
pub const HOLD_COST: Duration = Duration::from_millis(1_500);

/// See [`HOLD_COST`]: 1 GiB of log, which is read at 1 GB/s.
pub const HOLD_FLUSHES: u64 = 8;

/// The store is flushed when the oldest entry that it has not flushed is so old, so that segments become free.
pub const FLUSH_AFTER: Duration = Duration::from_secs(300);

/// Preparing a segment is tried again after this where no space was left.
pub const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// Free space is looked at so often while entries come.
pub const SPACE_LOOK_EVERY: Duration = Duration::from_secs(1);

/// With less free space, what stores is refused: a segment, the store's write buffers and a small compaction have room in
/// it, so that what was taken can still be made durable.
pub const FREE_BYTES_LEAST: u64 = 256 * 1024 * 1024;

/// A sync that takes longer is told to the operator, once a minute.
pub const SLOW_SYNC: Duration = Duration::from_secs(1);

/// How often slow syncs are told.
pub const SLOW_SYNC_EVERY: Duration = Duration::from_secs(60);

/// Zeros are written and synced in steps of this, so that a sync of the log never waits behind a whole new segment.
pub const ZEROS_BYTES: usize = 1024 * 1024;

/// Entries applied together at a start.
pub const REPLAY_ENTRIES: usize = 1_024;

/// Bytes of commands applied together at a start.
pub const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// Longest small file (`meta`, `secret`, `lock`) that is read.
pub const SMALL_FILE_BYTES_MAX: u64 = 4_096;

/// The block cache, with what is not flushed charged to it: all that the store may keep in memory but for open files.
pub const CACHE_BYTES: usize = 128 * 1024 * 1024;

/// What is not flushed, of all families together; above it the store flushes by itself. Half the cache, so that reads
/// keep the other half.
pub const UNFLUSHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is not flushed of one family: half of all, so that one can be written while the one before is flushed.
pub const WRITE_BUFFER_BYTES: usize = 32 * 1024 * 1024;

/// Most files that the store keeps open: 64 MiB each of messages are 32 GiB without opening any. Worst memory: a reader
/// of some 10 KiB each, because indexes and filters stand in the cache; 5 MiB.
pub const OPEN_FILES_MAX: i32 = 512;

/// Size of a file of the store. Space returns in whole files, and a bounded compaction rewrites one at each end.
pub const FILE_BYTES: u64 = if cfg!(test) {
    64 * 1024
} else {
    64 * 1024 * 1024
};

/// Size of a file that names long bodies. A name has some 40 bytes, so such a file stands for 6,500 bodies of 4 KiB at
/// least, 26 MiB: with the size of other files space would return in steps of 7 GiB.
pub const BLOB_NAMES_FILE_BYTES: u64 = if cfg!(test) { 1024 } else { 256 * 1024 };

/// Size of a file of long bodies: it goes when all in it are dead, or is rewritten when half of them are.
pub const BLOB_FILE_BYTES: u64 = FILE_BYTES;

/// From this length on a value of the family of long bodies stands outside the tree, so that a compaction does not move
/// it. They begin at 4 KiB; shorter ones do not occur there.
pub const BLOB_BYTES_MIN: u64 = 1024;

/// Bytes that a replay reads at once: 1 MiB, so that ten readers of a disk cost it few seeks.
pub const REPLAY_READ_BYTES: usize = 1024 * 1024;

/// Dead bytes of one stream and family that a compaction is worth: two files. It rewrites at most one file at each end
/// of them, and what was written last.
pub const DEAD_BYTES_MIN: u64 = 2 * FILE_BYTES;

/// Messages of a stream that must be gone before its topics are looked through for those that went with them: some 40 MiB
/// of rows.
pub const GONE_MESSAGES_MIN: u64 = if cfg!(test) { 1_000 } else { 1_000_000 };

/// What a row of a topic takes, beside the topic: a guess from which the number of rows is told.
pub const TOPIC_ROW_BYTES: u64 = 32;

/// Size of the store's own log file, of which it keeps two.
pub const NOTES_BYTES: usize = 1024 * 1024;
