//! The bytes of segments, records and entries; the tables are in the module above.
//!
//! Must not know what a chain of records is, nor files. Everything is checked before it is used, and nothing is
//! allocated. Start at [`read_head`].

use super::{Entry, EntryKind, Flaw, Index, PartitionId, Position, Secret, SegmentNumber};
use crate::limits::{PARTITIONS_MAX, RECORD_BYTES_MAX};

pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"SwLogSeg";

/// The format that this build writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;

/// Bytes of a segment's header that have a meaning. Every version keeps the magic, the version and the checksum where
/// they are, so that a newer one is told from a damaged one.
pub const SEGMENT_HEAD_BYTES: usize = 64;

/// Where a segment's records begin: the header has a page of its own, so that no write of a record touches it.
pub const RECORDS_OFFSET: u32 = 4096;

pub(super) const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"SwRc");

/// Bytes of a record's header. Each segment keeps room for one at its end, for the mark that it ends.
pub const RECORD_HEAD_BYTES: usize = 72;

/// What of a record's header the seal covers.
const SEALED_BYTES: usize = 64;

/// Bytes of an entry's header.
pub const ENTRY_HEAD_BYTES: usize = 32;

/// Records begin at multiples of this, so that a scan looks at an eighth of all offsets.
pub(super) const ALIGNMENT: usize = 8;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Entries; with none, it only says what was synced before it.
    Batch,
    /// The first record of a start; its entries say which indexes the store had used beyond the log.
    Start,
    /// The last record of a segment: the next stands at the beginning of the next segment.
    End,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::Batch => 1,
            RecordKind::Start => 2,
            RecordKind::End => 3,
        }
    }

    fn of(code: u8) -> Option<RecordKind> {
        match code {
            1 => Some(RecordKind::Batch),
            2 => Some(RecordKind::Start),
            3 => Some(RecordKind::End),
            _ => None,
        }
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub segment: SegmentNumber,
    /// Size of the whole segment.
    pub bytes: u32,
}

/// What the first bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadRead {
    Segment(SegmentHead),
    /// Never written, torn while it was being prepared, or damaged: what it was cannot be told.
    Unreadable,
    /// Whole, but written under another secret.
    OtherSecret,
    /// Whole, but of another version.
    Version(u32),
}

impl SegmentHead {
    pub(super) fn encode(&self, secret: &Secret) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        head[..8].copy_from_slice(&SEGMENT_MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        head[16..24].copy_from_slice(&u64::from(self.segment.0).to_le_bytes());
        head[24..32].copy_from_slice(&secret.fingerprint().to_le_bytes());
        let checksum = crc32c::crc32c(&head[..60]);
        head[60..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    pub(super) fn read(head: &[u8; SEGMENT_HEAD_BYTES], secret: &Secret) -> HeadRead {
        if head[..8] != SEGMENT_MAGIC || crc32c::crc32c(&head[..60]) != u32_at(head, 60) {
            return HeadRead::Unreadable;
        }
        let version = u32_at(head, 8);
        if version != VERSION {
            return HeadRead::Version(version);
        }
        if u64_at(head, 24) != secret.fingerprint() {
            return HeadRead::OtherSecret;
        }
        match u32::try_from(u64_at(head, 16)) {
            Ok(segment) if segment > 0 => HeadRead::Segment(SegmentHead {
                segment: SegmentNumber(segment),
                bytes: u32_at(head, 12),
            }),
            _ => HeadRead::Unreadable,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    /// Length of the whole record, a multiple of [`ALIGNMENT`].
    pub length: u32,
    pub position: Position,
    pub number: u64,
    /// Seal of the record before; 0 in the log's first.
    pub previous: u64,
    pub synced: Position,
    pub epoch: u32,
    /// crc32c of what stands behind the header.
    pub checksum: u32,
    pub entries: u32,
    pub kind: RecordKind,
}

impl RecordHead {
    /// The header's bytes, and the seal at their end.
    pub(super) fn encode(&self, secret: &Secret) -> ([u8; RECORD_HEAD_BYTES], u64) {
        let mut head = [0; RECORD_HEAD_BYTES];
        head[..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&self.length.to_le_bytes());
        head[8..16].copy_from_slice(&self.position.to_u64().to_le_bytes());
        head[16..24].copy_from_slice(&self.number.to_le_bytes());
        head[24..32].copy_from_slice(&self.previous.to_le_bytes());
        head[32..40].copy_from_slice(&self.synced.to_u64().to_le_bytes());
        head[40..44].copy_from_slice(&self.epoch.to_le_bytes());
        head[44..48].copy_from_slice(&self.checksum.to_le_bytes());
        head[48..52].copy_from_slice(&self.entries.to_le_bytes());
        head[52] = self.kind.code();
        let seal = secret.seal(&head[..SEALED_BYTES]);
        head[SEALED_BYTES..].copy_from_slice(&seal.to_le_bytes());
        (head, seal)
    }
}

/// Reads the header of the record that stands at this position, of a segment of so many bytes, and returns its seal
/// too.
///
/// `bytes` begin with it. What a seal must not be computed for is checked first, so noise costs a comparison or two. It
/// is believed as far as it goes: the position is its own and a writer that had the secret made it, but whether it
/// belongs to the log as it is now, and whether what stands behind it is whole, is for the caller to see.
pub(super) fn read_head(
    bytes: &[u8],
    at: Position,
    segment_bytes: u32,
    secret: &Secret,
) -> Result<(RecordHead, u64), Flaw> {
    let Some(head) = bytes.first_chunk::<RECORD_HEAD_BYTES>() else {
        return Err(Flaw::NoRoom);
    };
    if u32_at(head, 0) != RECORD_MAGIC {
        return Err(Flaw::NoRecord);
    }
    if u64_at(head, 8) != at.to_u64() {
        return Err(Flaw::Position(Position::from_u64(u64_at(head, 8))));
    }
    let length = u32_at(head, 4);
    if !is_length(length, at.offset, segment_bytes) {
        return Err(Flaw::Length(length));
    }
    let synced = Position::from_u64(u64_at(head, 32));
    if synced > at {
        return Err(Flaw::Synced(synced));
    }
    let seal = u64_at(head, SEALED_BYTES);
    if secret.seal(&head[..SEALED_BYTES]) != seal {
        return Err(Flaw::Seal);
    }
    // From here on a writer that had the secret wrote it: what is not understood is of a newer build.
    let kind = RecordKind::of(head[52]).ok_or(Flaw::Kind(head[52]))?;
    if head[53..SEALED_BYTES].iter().any(|byte| *byte != 0) {
        return Err(Flaw::Reserved);
    }
    let head = RecordHead {
        length,
        position: at,
        number: u64_at(head, 16),
        previous: u64_at(head, 24),
        synced,
        epoch: u32_at(head, 40),
        checksum: u32_at(head, 44),
        entries: u32_at(head, 48),
        kind,
    };
    Ok((head, seal))
}

/// Whether a record at this offset may have this length. Behind it there is room for the mark of the segment's end,
/// unless it is that mark.
fn is_length(length: u32, offset: u32, segment_bytes: u32) -> bool {
    let (least, most) = (RECORD_HEAD_BYTES as u64, RECORD_BYTES_MAX as u64);
    let length = u64::from(length);
    (least..=most).contains(&length)
        && length % ALIGNMENT as u64 == 0
        && u64::from(offset) + length <= u64::from(segment_bytes)
}

/// Length of a record whose entries take so many bytes, heads included.
pub(super) fn record_bytes(entries_bytes: usize) -> usize {
    (RECORD_HEAD_BYTES + entries_bytes).next_multiple_of(ALIGNMENT)
}

pub(super) fn write_entry(entry: &Entry<'_>, kind: EntryKind, out: &mut Vec<u8>) {
    // invariant: the writer refuses commands above ENTRY_COMMAND_BYTES_MAX before it encodes any.
    let length = u32::try_from(entry.commands.len()).expect("a command above its cap");
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..6].copy_from_slice(&entry.partition.0.to_le_bytes());
    head[6] = kind.code();
    head[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    head[16..24].copy_from_slice(&entry.wall_ms.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(entry.commands);
}

/// Takes the first entry off what stands behind a record's header.
pub(super) fn read_entry<'a>(rest: &mut &'a [u8]) -> Result<(EntryKind, Entry<'a>), Flaw> {
    let Some((head, behind)) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>() else {
        return Err(Flaw::Entry("head"));
    };
    let kind = EntryKind::of(head[6]).ok_or(Flaw::Entry("kind"))?;
    let partition = u16::from_le_bytes([head[4], head[5]]);
    if usize::from(partition) >= PARTITIONS_MAX {
        return Err(Flaw::Entry("partition"));
    }
    if head[7] != 0 || u64_at(head, 24) != 0 {
        return Err(Flaw::Entry("reserved field"));
    }
    let length = u32_at(head, 0) as usize;
    let Some((commands, behind)) = behind.split_at_checked(length) else {
        return Err(Flaw::Entry("length"));
    };
    *rest = behind;
    let entry = Entry {
        partition: PartitionId(partition),
        index: Index(u64_at(head, 8)),
        wall_ms: u64_at(head, 16),
        commands,
    };
    Ok((kind, entry))
}

/// Calls `found` with the header of every record that stands where it says, from this offset on.
///
/// `segment` is the segment's number; without it, where the segment's own header cannot be read, records of any from
/// `least` on are found. Cost: a comparison for each 8 bytes, 3 to 6 ms for 64 MiB.
pub(super) fn scan(
    bytes: &[u8],
    from: u32,
    segment: Option<SegmentNumber>,
    least: SegmentNumber,
    secret: &Secret,
    mut found: impl FnMut(&RecordHead),
) {
    let segment_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let words = bytes.get(from as usize..).unwrap_or_default();
    for (index, word) in words.chunks_exact(ALIGNMENT).enumerate() {
        if u32_at(word, 0) != RECORD_MAGIC {
            continue;
        }
        let start = from as usize + index * ALIGNMENT;
        let Some(head) = bytes[start..].first_chunk::<RECORD_HEAD_BYTES>() else {
            return;
        };
        let says = Position::from_u64(u64_at(head, 8));
        if says.offset as usize != start
            || says.segment < least
            || segment.is_some_and(|segment| says.segment != segment)
        {
            continue;
        }
        if let Ok((head, _)) = read_head(&bytes[start..], says, segment_bytes, secret) {
            found(&head);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}
