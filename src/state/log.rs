//! The log of the state plane: one sequence of records for all partitions, in segment files that are used again.
//!
//! Owns the format, what is written where, and recovery. Must not know files, threads or clocks, nor what commands
//! mean: whoever drives it moves bytes with `pwrite` and `fdatasync`, and a simulator tears what it writes at every
//! byte. Start at [`Writer::append`] for the way in, at [`Recovery`] for a start.
//!
//! # Driving it
//! A start: list the files (names: [`FileId`]'s `Display`), read the first [`SEGMENT_HEAD_BYTES`] of each,
//! [`Recovery::new`] with what the store [remembers](Remembered); while [`Recovery::wanted`] names a file, read it into
//! one buffer and call [`Recovery::next`] until there is no record left in it; [`Recovery::finish`]. Then write
//! [`Recovered::unproven`] again, because a sync that failed leaves pages that count as clean though no disk has them,
//! and sync every file and the directory: a process that was killed leaves pages that are not written yet.
//! [`Writer::new`] with what the store applied; [`Writer::prepare`] if a segment is wanted; [`Writer::start`], write, `fdatasync` [`Writer::unsynced_files`], [`Writer::handle_synced`]. Entries whose
//! index the store has applied are skipped; the others may be applied as they are read, but acknowledged, shown to
//! clients or flushed only after the sync.
//!
//! A turn: note [`Writer::written`] after [`Writer::append`], write, sync, [`Writer::handle_synced`] with what was
//! noted. A sync covers several appends if all their writes came before it. In the background: [`Writer::prepare`]. At
//! a flush: [`Writer::remember`], write that in the flush's batch, flush, [`Writer::handle_flushed`]. Any failure:
//! [`Writer::fail`], for ever.
//!
//! ```
//! use sapwood_state::log::{Entry, Index, PartitionId, Recovery, Remembered, Secret, Settings, Writer, Writes};
//!
//! // An empty directory: no file, so none is wanted.
//! let secret = Secret::new(&[7; 16]);
//! let recovery = Recovery::new(secret, Remembered::default(), &[])?;
//! assert_eq!(recovery.wanted(), None);
//! let mut writer = Writer::new(recovery.finish()?, &[], Settings::default())?;
//! let prepare = writer.prepare().expect("segment 1");
//! // Here: make the file as `prepare` says.
//! writer.handle_prepared(prepare.segment);
//! let mut writes = Writes::default();
//! writer.start(&mut writes)?;
//! // Here: write each of `writes.iter()`, sync.
//! writer.handle_synced(writer.written())?;
//!
//! let partition = PartitionId(3);
//! let index = Index(writer.next_index(partition));
//! let entry = Entry { partition, index, wall_ms: 1_700_000_000_000, commands: b"put" };
//! assert_eq!(writer.append(&[entry], &mut writes)?, 1);
//! let written = writer.written();
//! // Here: write, sync; only then is the entry acknowledged.
//! writer.handle_synced(written)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Format, version 1
//! Numbers are little-endian. A [`Position`] is a segment's number (upper 32 bits) and an offset in it (lower 32):
//! ordered like one long file, and it names the place without a table, though segments differ in size. 2^58 bytes fit.
//!
//! A segment: header, records from offset [`RECORDS_OFFSET`] on, each behind the one before, the mark of its end;
//! behind that anything. Segment numbers begin at 1 and go on without a hole; a file that is used again gets a new
//! number.
//!
//! | offset | size | segment header |
//! |---|---|---|
//! | 0 | 8 | `SwLogSeg` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | size of the segment |
//! | 16 | 8 | segment number |
//! | 24 | 8 | fingerprint of the secret: its seal of `sapwood log secret` |
//! | 32 | 28 | reserved, zero |
//! | 60 | 4 | crc32c of the 60 bytes before |
//!
//! | offset | size | record header |
//! |---|---|---|
//! | 0 | 4 | `SwRc` |
//! | 4 | 4 | length of the record with header and padding, a multiple of 8 |
//! | 8 | 8 | position: where it stands |
//! | 16 | 8 | batch number: one more than that of the record before |
//! | 24 | 8 | seal of the record before; 0 in the first |
//! | 32 | 8 | position up to which all was synced when this was encoded |
//! | 40 | 4 | start epoch |
//! | 44 | 4 | crc32c of everything behind this header |
//! | 48 | 4 | number of entries |
//! | 52 | 1 | kind: 1 batch, 2 start, 3 end of the segment |
//! | 53 | 11 | reserved, zero; the last 8 have room for a term |
//! | 64 | 8 | seal: SipHash-2-4 of the 64 bytes before, keyed with the secret |
//!
//! | offset | size | entry |
//! |---|---|---|
//! | 0 | 4 | length of the command |
//! | 4 | 2 | partition |
//! | 6 | 1 | kind: 1 command, 2 (in start records) all indexes up to this are used; 3 on: room for Raft's hard state |
//! | 7 | 1 | reserved, zero |
//! | 8 | 8 | index, from 1 |
//! | 16 | 8 | wall clock of the proposer, in ms |
//! | 24 | 8 | reserved for a term, zero |
//! | 32 | | the command |
//!
//! # What recovery believes
//! *The chain.* From the first needed segment on, a record is taken if it stands where the last one ended, its batch
//! number is one more, it names the last one's seal, its epoch is not smaller (and grows only where a start begins),
//! its own seal and its checksum are right. The seal is 64 bits under a key that clients never see anything of; it
//! covers the checksum and the seal before, so a record has one predecessor with all that stood before that. (A seeded
//! crc32c alone is not enough: it is linear and has 32 bits, so among a few million forged records in the bodies of one
//! torn tail one would be believed every thousandth time.)
//!
//! *The first bad record* ends the chain, at X. What stands behind cannot be verified by the chain, but its header can
//! by itself: sealed, and naming its own place. So these are told apart:
//! - forged records in a client's command have no seal;
//! - records of a segment's earlier use name an older segment number, and in free segments nobody looks;
//! - records behind X with a seal were written to this place: by a start whose tail was cut (*dead* ones), or behind a
//!   record that is damaged.
//!
//! The last two need not be told apart. Each says up to where all was synced when it was written, and that stays true
//! for ever: what is synced is never cut, for a recovery that would cut it is refused. So if any of them, or the store,
//! says that something beyond X was synced, X is *damaged* and the whole plane is refused (rule 4); otherwise X is the
//! torn tail, cut there. A header's claim counts although its body may be torn.
//! A bad segment header makes its file be looked at like that, too, for any segment number that is still needed.
//!
//! *Dead records stay dead*: the first thing that a start writes, at X, is a record with a new epoch, and nothing else
//! is written before that is synced (but the mark of a segment's end, where the segment has no room for it). It names
//! the last record that lived, so what stood at X is no successor of anything any more; what is behind names dead
//! predecessors and an older epoch. If it is lost itself, nothing else of its epoch exists. (Until it is synced, a torn
//! one may even make whole what it is to replace: where that lost only bytes that are the same in both. So nobody is told
//! what was lost before that.)
//! The epoch is one more than any that a sealed header names, dead ones too.
//!
//! *Noise is cheap*: magic, place, length and synced position are compared before any seal is computed.
//!
//! *Only the very last write* cannot be told from a torn one, unless the store remembers its sync; [`Writer::mark`]
//! writes a record that says it.
//!
//! # Indexes
//! Within the chain nothing is lost, and indexes that the store used beyond it (an `os` stream's entries may reach the
//! store before the log is synced) stand in the start record. So each entry's index is one more than its partition's
//! last; anything else was written by somebody else or by a bug, and is refused. Rule 6 is [`next_index`], which
//! [`Writer::new`] applies: see [`Writer::next_index`].

mod error;
mod format;
mod recovery;
mod writer;

#[cfg(test)]
mod tests;

use crate::limits::{
    APPEND_BYTES_MAX, ENTRY_COMMAND_BYTES_MAX, FIRST_SEGMENT_BYTES, RECORD_BYTES_MAX,
    SEGMENT_BYTES, SEGMENT_BYTES_MAX,
};
use siphasher::sip::SipHasher24;
use std::fmt;

pub use sapwood_wire::state::{Index, PartitionId};

pub use error::{FileFlaw, Flaw, RecoveryError, Suspect, Witness, WriterError};
pub use format::{
    ENTRY_HEAD_BYTES, RECORD_HEAD_BYTES, RECORDS_OFFSET, RecordKind, SEGMENT_HEAD_BYTES,
};
pub use recovery::{FileStart, Record, Recovered, Recovery};
pub use writer::{Fill, Prepare, Write, Writer, Writes};

/// A segment's place in the log, from 1; 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentNumber(pub u32);

impl SegmentNumber {
    /// Where the segment's records begin.
    fn begin(self) -> Position {
        Position {
            segment: self,
            offset: RECORDS_OFFSET,
        }
    }

    fn begin_of_next(self) -> Position {
        // invariant: the next segment was prepared, so it has a number.
        SegmentNumber(self.0.checked_add(1).expect("all segment numbers are used")).begin()
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A file's number, from 1 without holes: files are made once and then hold one segment after the other. Its `Display`
/// is the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}.log", self.0)
    }
}

/// A place in the log, or everything before it. The default is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub segment: SegmentNumber,
    /// The offset in the segment's file.
    pub offset: u32,
}

impl Position {
    /// As one number, which is ordered in the same way.
    pub fn to_u64(self) -> u64 {
        u64::from(self.segment.0) << 32 | u64::from(self.offset)
    }

    /// The position that was made into this number.
    pub fn from_u64(number: u64) -> Position {
        Position {
            segment: SegmentNumber((number >> 32) as u32),
            offset: number as u32,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, offset {}", self.segment, self.offset)
    }
}

/// What a partition gathered in a turn: what the log keeps, and hands over to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Whose it is.
    pub partition: PartitionId,
    /// Its number in the partition, from 1.
    pub index: Index,
    /// The proposer's wall clock, in milliseconds since 1970; may step back.
    pub wall_ms: u64,
    /// What to apply, as `push_command` wrote it; the log does not look at it.
    pub commands: &'a [u8],
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    Command,
    /// All indexes of the partition up to this are used.
    Used,
}

impl EntryKind {
    fn code(self) -> u8 {
        match self {
            EntryKind::Command => 1,
            EntryKind::Used => 2,
        }
    }

    fn of(code: u8) -> Option<EntryKind> {
        match code {
            1 => Some(EntryKind::Command),
            2 => Some(EntryKind::Used),
            _ => None,
        }
    }
}

/// The secret of a data directory: 16 random bytes in a file of their own, made with it. Never shown, never in a
/// segment. Without it no client can write a command that looks like a record.
#[derive(Clone)]
pub struct Secret {
    key: SipHasher24,
    fingerprint: u64,
}

impl Secret {
    /// The secret in these bytes.
    pub fn new(bytes: &[u8; 16]) -> Secret {
        let key = SipHasher24::new_with_key(bytes);
        let fingerprint = key.hash(b"sapwood log secret");
        Secret { key, fingerprint }
    }

    fn seal(&self, bytes: &[u8]) -> u64 {
        self.key.hash(bytes)
    }

    /// By which a segment of another directory is told.
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the store keeps of the log, written with each flush; the default is that of a store that never flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// All entries in segments below are durable in the store.
    pub needed: SegmentNumber,
    /// Everything in the log before this was synced.
    pub synced: Position,
}

/// Sizes of what is written. Logs written with others are read all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Size of segment 1.
    pub first_segment_bytes: u32,
    /// Size of each other new file.
    pub segment_bytes: u32,
    /// Longest command.
    pub command_bytes_max: usize,
    /// Longest record.
    pub record_bytes_max: usize,
    /// Bytes after which an append takes no more.
    pub append_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            segment_bytes: SEGMENT_BYTES,
            command_bytes_max: ENTRY_COMMAND_BYTES_MAX,
            record_bytes_max: RECORD_BYTES_MAX,
            append_bytes_max: APPEND_BYTES_MAX,
        }
    }
}

impl Settings {
    /// The smallest segment in which the longest record has room.
    fn segment_bytes_min(&self) -> u32 {
        RECORDS_OFFSET + (self.record_bytes_max + RECORD_HEAD_BYTES) as u32
    }

    fn check(&self) {
        let entry = format::record_bytes(ENTRY_HEAD_BYTES + self.command_bytes_max);
        let least = self.segment_bytes_min();
        let sizes = [self.first_segment_bytes, self.segment_bytes];
        assert!(
            entry <= self.record_bytes_max
                && self.record_bytes_max <= RECORD_BYTES_MAX
                && self.append_bytes_max > 0
                && sizes
                    .iter()
                    .all(|bytes| *bytes >= least && *bytes <= SEGMENT_BYTES_MAX),
            "sizes of the log do not fit each other: {self:?}"
        );
    }
}

/// A file that holds a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SegmentFile {
    file: FileId,
    segment: SegmentNumber,
    bytes: u32,
}

/// Rule 6: the index of a partition's next entry, given the last in the log and the applied one in the store, 0 for
/// none.
pub fn next_index(last_in_log: u64, applied_in_store: u64) -> u64 {
    let last = last_in_log.max(applied_in_store);
    // invariant: an index is an entry, and nobody proposes 2^64.
    last.checked_add(1).expect("all indexes are used")
}
