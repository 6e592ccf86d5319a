//! Every cap of the state plane's threads and files, with its reason.

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
