//! Why a log is refused, and why a writer takes nothing.

use super::format::VERSION;
use super::{FileId, PartitionId, Position, Remembered, SegmentNumber};
use std::fmt;

/// Why nothing was taken. Nothing changed, and nothing is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterError {
    /// A write or sync failed before, or this writer was told so: it takes nothing any more.
    Failed,
    /// An entry's command is longer than [`Settings::command_bytes_max`](super::Settings::command_bytes_max).
    EntryTooLong {
        /// Which of the entries.
        entry: usize,
        /// Its command's length.
        bytes: usize,
        /// The most that is allowed.
        cap: usize,
    },
    /// The segment is full and no other is prepared: carry out what [`Writer::prepare`](super::Writer::prepare) says,
    /// then try again. Where it says nothing although nothing is being prepared, the log has as many files as it may
    /// ([`LOG_FILES_MAX`](crate::limits::LOG_FILES_MAX)), and the store must flush.
    NoSegment,
}

impl fmt::Display for WriterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriterError::Failed => write!(f, "the log failed to write or sync; it takes no more"),
            WriterError::EntryTooLong { entry, bytes, cap } => write!(
                f,
                "entry {entry} of the batch has {bytes} bytes, at most {cap} are allowed"
            ),
            WriterError::NoSegment => write!(f, "no segment of the log is free and prepared"),
        }
    }
}

impl std::error::Error for WriterError {}

/// What is wrong with the bytes where a record should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It does not begin as a record does: nothing was written here, or it is gone.
    NoRecord,
    /// The segment ends before its header or body does.
    NoRoom,
    /// Its length cannot be.
    Length(u32),
    /// It says that it stands elsewhere.
    Position(Position),
    /// It says that more was synced than was written.
    Synced(Position),
    /// The seal of its header is wrong.
    Seal,
    /// It is of a kind that this build does not know.
    Kind(u8),
    /// A field is set that this build does not know.
    Reserved,
    /// Its batch number does not come next.
    Number(u64),
    /// It does not name the record before.
    Previous,
    /// Its epoch cannot follow.
    Epoch(u32),
    /// The checksum of its entries is wrong.
    Checksum,
    /// An entry cannot be; names the field.
    Entry(&'static str),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NoRecord => write!(f, "no record begins there"),
            Flaw::NoRoom => write!(f, "the file ends within the record"),
            Flaw::Length(length) => write!(f, "the record's length is {length}"),
            Flaw::Position(position) => write!(f, "the record belongs to {position}"),
            Flaw::Synced(position) => {
                write!(f, "the record says that {position}, was synced before it")
            }
            Flaw::Seal => write!(f, "the record's header is damaged"),
            Flaw::Kind(kind) => write!(f, "kind {kind} of record is not known to this version"),
            Flaw::Reserved => write!(f, "the record's header has fields of a newer version"),
            Flaw::Number(number) => write!(f, "batch number {number} does not come next"),
            Flaw::Previous => write!(f, "the record does not follow the one before"),
            Flaw::Epoch(epoch) => write!(f, "start {epoch} cannot come next"),
            Flaw::Checksum => write!(f, "the checksum of the record's entries is wrong"),
            Flaw::Entry(field) => write!(f, "an entry of the record has a wrong {field}"),
        }
    }
}

/// Who says that something was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The store, at its last flush.
    Store,
    /// The record that stands here.
    Record(Position),
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Witness::Store => write!(f, "the store"),
            Witness::Record(position) => write!(f, "the record at {position}"),
        }
    }
}

/// Where a segment that is missing most likely was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// In this file, whose header (offset 0) cannot be read.
    Unreadable(FileId),
    /// In this file, which is not there.
    Absent(FileId),
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suspect::Unreadable(file) => write!(f, "the header of {file}, offset 0, is damaged"),
            Suspect::Absent(file) => write!(f, "there is no {file}"),
            Suspect::Unknown => write!(f, "no file holds it"),
        }
    }
}

/// What is wrong with a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFlaw {
    /// Another file says that it is the same segment.
    Twice(SegmentNumber, FileId),
    /// It does not have the size that its header says.
    Size {
        /// The size in its header.
        expected: u32,
        /// Its size.
        found: u64,
    },
    /// It was written under another secret.
    OtherSecret,
    /// It is of a version that this build does not read.
    Version(u32),
}

impl fmt::Display for FileFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFlaw::Twice(segment, other) => write!(f, "is segment {segment}, and so is {other}"),
            FileFlaw::Size { expected, found } => {
                write!(f, "has {found} bytes, its header says {expected}")
            }
            FileFlaw::OtherSecret => write!(
                f,
                "was written with another secret: it is of another directory, or the secret was replaced"
            ),
            FileFlaw::Version(version) => write!(
                f,
                "has version {version} of the format, this build reads {VERSION}"
            ),
        }
    }
}

/// Why a log is refused. Nothing was changed; the whole state plane must not start on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// What was synced is not there any more (rule 4).
    Damaged {
        /// The file.
        file: FileId,
        /// The first record that is bad.
        position: Position,
        /// What is wrong with it.
        flaw: Flaw,
        /// Up to where all was synced.
        synced: Position,
        /// Who says so.
        by: Witness,
    },
    /// A record was written with the directory's secret, but by a newer version or by a bug.
    Refused {
        /// The file.
        file: FileId,
        /// The record.
        position: Position,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A segment is not there that was.
    Missing {
        /// The segment.
        segment: SegmentNumber,
        /// Where it was.
        suspect: Suspect,
    },
    /// A file as a whole is not what a log may have.
    File {
        /// The file.
        file: FileId,
        /// What is wrong with it.
        what: FileFlaw,
    },
    /// A partition's index goes back or skips.
    Index {
        /// The file.
        file: FileId,
        /// The record's offset in it.
        offset: u32,
        /// The partition.
        partition: PartitionId,
        /// The last index before.
        last: u64,
        /// The index that stands there.
        found: u64,
    },
    /// The log begins behind what the store has of a partition.
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The last index that the store has.
        applied: u64,
        /// The first that the log has.
        first: u64,
    },
    /// What the store remembers contradicts itself.
    Remembered(Remembered),
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Damaged {
                file,
                position,
                flaw,
                synced,
                by,
            } => write!(
                f,
                "{file} is damaged at offset {} (segment {}): {flaw}, but {by} says that all before {synced}, was synced",
                position.offset, position.segment
            ),
            RecoveryError::Refused {
                file,
                position,
                flaw,
            } => write!(
                f,
                "{file} cannot be read at offset {} (segment {}): {flaw}",
                position.offset, position.segment
            ),
            RecoveryError::Missing { segment, suspect } => {
                write!(f, "segment {segment} of the log is missing: {suspect}")
            }
            RecoveryError::Index {
                file,
                offset,
                partition,
                last,
                found,
            } => write!(
                f,
                "{file}, offset {offset}: index {found} of partition {} follows {last}",
                partition.0
            ),
            RecoveryError::Gap {
                partition,
                applied,
                first,
            } => write!(
                f,
                "partition {}: the store has entries up to {applied}, the log begins at {first}",
                partition.0
            ),
            RecoveryError::Remembered(remembered) => write!(
                f,
                "the store needs segment {}, but says that only what is before {}, was synced",
                remembered.needed, remembered.synced
            ),
            RecoveryError::File { file, what } => write!(f, "{file} {what}"),
        }
    }
}

impl std::error::Error for RecoveryError {}
