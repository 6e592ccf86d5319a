//! Every cap of the state plane, with its reason.

/// Most partitions of a data directory: what STATE.md's `--partitions` allows. Worst memory of the log: 16 bytes each,
/// and 8 for each segment that is still needed.
pub const PARTITIONS_MAX: usize = 256;

/// Longest command of one entry: what a partition gathers in a turn. A longer one is refused before anything is
/// written.
pub const ENTRY_COMMAND_BYTES_MAX: usize = 1024 * 1024;

/// Longest record: the smallest that holds the longest entry with both heads. A longer one would save nothing, because
/// a head of 72 bytes already vanishes, and would leave more of a segment's end unused: this leaves 1.6 % of 64 MiB.
pub const RECORD_BYTES_MAX: usize = ENTRY_COMMAND_BYTES_MAX + 4 * 1024;

/// Most bytes that one append encodes, but for its last record; the rest of the entries is left for the next one. It
/// bounds the buffer of the log thread, and what is encoded before the first write: about 1 ms.
pub const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Size of the first segment: a directory is usable after 4 ms of writing zeros.
pub const FIRST_SEGMENT_BYTES: u32 = 4 * 1024 * 1024;

/// Size of all other segments: 59 ms of zeros, once, in the background; at 100 MB/s one is begun every 0.6 s.
pub const SEGMENT_BYTES: u32 = 64 * 1024 * 1024;

/// Largest segment that is read: recovery wants one in memory.
pub const SEGMENT_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Most files of a log: 16 GiB that the store has not flushed, which is more than any start should replay. At the cap
/// no segment is prepared, and an append says that there is none until the store has flushed.
pub const LOG_FILES_MAX: usize = 256;
