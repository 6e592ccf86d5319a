//! Every cap of the state plane's store, with its reason. Its worst memory is the cache, that of the files that are
//! open, and a few buffers: `store/options.rs` has the sum. The crate's own tests run with smaller ones where `cfg!(test)`
//! says so, that little data reaches them.

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
