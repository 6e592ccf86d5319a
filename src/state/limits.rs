//! Every cap of the state plane, with its reason. The crate's own tests run with smaller ones where `cfg!(test)` says so, that
//! short histories reach them; `tests/` runs with the real ones.

use sapwood_wire::limits::STATE_COMMAND_BYTES_MAX;

/// Most partitions of a data directory: what `--partitions` allows. Worst memory of the log: 16 bytes each,
/// and 8 for each segment that is still needed.
pub const PARTITIONS_MAX: usize = 256;

/// Longest commands of one entry: what a partition gathers in a turn, or one command of the greatest size behind its
/// length. A longer one is refused before anything is written.
pub const ENTRY_COMMAND_BYTES_MAX: usize = STATE_COMMAND_BYTES_MAX + 4;

/// Longest record: the smallest that holds the longest entry with both heads. A longer one would save nothing, because
/// a head of 72 bytes already vanishes, and would leave more of a segment's end unused: this leaves 1.8 % of 64 MiB.
pub const RECORD_BYTES_MAX: usize = ENTRY_COMMAND_BYTES_MAX.next_multiple_of(8) + 4 * 1024;

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

/// Longest run of messages in one row, unless one message is longer: a row each costs 0.9 us to write and 0.3 to read, in
/// runs of this size it is 0.4 and 0.07 a message; longer ones gain little and make a single read dear.
pub const RUN_BYTES_MAX: usize = if cfg!(test) { 512 } else { 16 * 1024 };

/// Longest body that stands in its run; longer ones have a row of their own, which is deleted with the message. Four of
/// them fill a run.
pub const RUN_BODY_BYTES_MAX: usize = if cfg!(test) { 100 } else { 4 * 1024 };

/// What a message counts beside topic, headers and body: what its place in rows takes, so that a cap on bytes holds for
/// empty messages too.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 32;

/// Sequences that one block row tells about: its bitmap has 128 bytes, and 10M messages have 10,000 rows.
pub const BLOCK_SEQUENCES: u64 = if cfg!(test) { 64 } else { 1_024 };

/// Most streams of a partition. Worst memory: below 1 KiB each without its filters, 64 MiB.
pub const PARTITION_STREAMS_MAX: usize = 65_536;

/// Most messages that one command looks at one by one, for a purge by filter or a topic's last message: at 0.1 us each
/// some 7 ms, in which the partition's worker does nothing else. Worst memory: 24 bytes each, 1.5 MiB.
pub const SCAN_MESSAGES_MAX: u64 = if cfg!(test) { 150 } else { 65_536 };

/// Most messages that a read looks at for a topic's last one: it holds a reader for 0.1 s, but no worker.
pub const READ_SCAN_MESSAGES_MAX: u64 = 1_000_000;

/// Parts of the window for ids: each look-up asks for its id in so many rows and one more, and an id is kept longer than
/// its window by one part.
pub const DEDUP_BUCKETS: u64 = 4;

/// Most messages that one expiry proposes to remove: some 5 ms of a worker.
pub const EXPIRE_MESSAGES_MAX: u32 = 4_096;

/// Bytes that a worker has taken in and not applied, at which it takes no more: what one append of the log holds is
/// synced while as much again is gathered, so more would only wait. Worst memory: this, one request, and as much in the
/// log thread, which shares the buffers.
pub const TAKEN_BYTES_MAX: usize = if cfg!(test) {
    64 * 1024
} else {
    16 * 1024 * 1024
};

/// Commands that a worker has taken in and not applied, at which it takes no more. Worst memory: some 200 bytes each for
/// who is to be told, 13 MiB. Messages of one stream and turn are one command.
pub const TAKEN_COMMANDS_MAX: usize = if cfg!(test) { 500 } else { 65_536 };

/// Bytes of `os` entries that are not synced, at which a worker takes no more: a disk that syncs within the 100 ms is
/// not held by it up to 320 MB/s.
pub const OS_UNSYNCED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// By how much an unclean start raises the sequences of `os` streams: more than a power cut can take. That is the
/// messages of [`OS_UNSYNCED_BYTES_MAX`] and [`TAKEN_BYTES_MAX`], of 5 bytes at least, 10 million. Sequences below 2^53,
/// the most that JavaScript can tell apart, last for 268 million such starts.
pub const OS_RAISE: u64 = 1 << 25;

/// Bytes of answers that were not taken, at which a worker takes no more requests. Worst memory: this, and what one batch
/// answers.
pub const ANSWERS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of entries that one call applies, and one entry more: some 20 ms at 128 B a message.
pub const APPLY_BYTES_MAX: usize = if cfg!(test) {
    4 * 1024
} else {
    4 * 1024 * 1024
};

/// Streams of a partition whose maintenance is proposed at once: each may remove as many messages as one expiry does.
pub const MAINTENANCE_STREAMS_MAX: usize = 4;

/// Buffers that a worker keeps for entries to come, and the longest of them. Worst memory: 4 MiB.
pub const SPARE_BUFFERS_MAX: usize = 64;

/// See [`SPARE_BUFFERS_MAX`].
pub const SPARE_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Reads that a worker has open, those that wait for their reader to want more included.
pub const OPEN_READS_MAX: usize = if cfg!(test) { 8 } else { 4_096 };

/// Bytes of the requests of open reads: names and filters. With usual ones [`OPEN_READS_MAX`] comes first.
pub const OPEN_READS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages, or topics, that one step of a read looks at: some 1 ms of a worker.
pub const READ_STEP_MESSAGES_MAX: usize = if cfg!(test) { 50 } else { 4_096 };

/// Readers that wait at the end of a worker's streams. Worst memory: 200 bytes each, 13 MiB.
pub const WAITS_MAX: usize = if cfg!(test) { 4 } else { 65_536 };

/// The longest wait, in milliseconds: who is gone by then is forgotten.
pub const WAIT_MS_MAX: u64 = 60_000;
