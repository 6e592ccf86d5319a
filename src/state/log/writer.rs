//! What is written where: entries to records, records to segments, and which segments are used again.
//!
//! Invariants: `synced <= at`; `live` are the segments from the oldest that is needed to the one of `at`, without a
//! hole, and `prepared` go on from there; a segment is in one of `live`, `prepared`, `preparing` and `free`. Start at
//! [`Writer::append`].

use super::format::{
    ENTRY_HEAD_BYTES, RECORD_HEAD_BYTES, RECORDS_OFFSET, RecordHead, RecordKind,
    SEGMENT_HEAD_BYTES, SegmentHead, record_bytes, write_entry,
};
use super::recovery::Recovered;
use super::{
    Entry, EntryKind, FileId, Index, PartitionId, Position, RecoveryError, Remembered, Secret,
    SegmentFile, SegmentNumber, Settings, WriterError, next_index,
};
use crate::limits::{LOG_FILES_MAX, PARTITIONS_MAX};
use std::collections::VecDeque;
use std::ops::Range;

/// What to write, in order; the buffer is reused.
#[derive(Debug, Default)]
pub struct Writes {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    file: FileId,
    offset: u32,
    range: Range<usize>,
}

/// Bytes that belong at an offset of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The file.
    pub file: FileId,
    /// Where in the file.
    pub offset: u32,
    /// What to write there.
    pub bytes: &'a [u8],
}

impl Writes {
    /// The writes, in the order of positions: one for each segment that is touched.
    pub fn iter(&self) -> impl Iterator<Item = Write<'_>> {
        self.parts.iter().map(|part| Write {
            file: part.file,
            offset: part.offset,
            bytes: &self.bytes[part.range.clone()],
        })
    }

    /// Bytes of all writes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    /// Says that the bytes from `start` on belong here; they go on where the last write of the file ends.
    fn end_record(&mut self, file: FileId, offset: u32, start: usize) {
        let end = self.bytes.len();
        match self.parts.last_mut() {
            Some(part) if part.file == file => part.range.end = end,
            _ => self.parts.push(Part {
                file,
                offset,
                range: start..end,
            }),
        }
    }
}

/// How to prepare a segment. The order matters, because a header that can be read promises a whole segment:
/// 1. for [`Fill::Zeros`], create the file, or empty the one that is there, write `bytes` zeros, `fdatasync`, and sync
///    the directory;
/// 2. write `head` at offset 0, `fdatasync`;
/// 3. tell [`Writer::handle_prepared`].
///
/// If a step fails, the same may be tried again, or the writer told that it [failed](Writer::fail).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The file: a new one, or one that is used again.
    pub file: FileId,
    /// The number that the segment will have.
    pub segment: SegmentNumber,
    /// Size of the file.
    pub bytes: u32,
    /// What stands behind the header.
    pub fill: Fill,
    /// The header.
    pub head: [u8; SEGMENT_HEAD_BYTES],
}

/// What a segment's bytes are before records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros, which must be written.
    Zeros,
    /// What stands there.
    Kept,
}

/// A segment from which replay may have to read.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub of: SegmentFile,
    /// Each partition's last index at the segment's end; of use once that is written.
    pub last: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but the start record may be written, and then nothing before that is synced.
    Starting,
    /// The start record ends here and is not synced yet.
    Started(Position),
    Running,
    Failed,
}

/// The end of the log, as long as the process runs. One thread owns it.
#[derive(Debug)]
pub struct Writer {
    secret: Secret,
    settings: Settings,
    state: State,
    epoch: u32,
    /// Number and `previous` of the next record.
    number: u64,
    previous: u64,
    at: Position,
    synced: Position,
    live: VecDeque<Live>,
    prepared: VecDeque<SegmentFile>,
    preparing: Option<(SegmentFile, Fill)>,
    free: Vec<SegmentFile>,
    /// Files that hold nothing that can be read, to be zeroed before they are used.
    unreadable: Vec<FileId>,
    /// The greatest id of a file.
    files: u32,
    last: Vec<u64>,
    /// Indexes that the store has used beyond the log, for the start record.
    used: Vec<(PartitionId, u64)>,
}

impl Writer {
    /// Goes on behind what was recovered. `applied` is each partition's applied index in the store; those that are not
    /// named have none.
    ///
    /// Before the caller carries out [`Writer::start`] it syncs *every* file of the log, and the directory: from now on
    /// all that was recovered counts as synced, and all segments that were found as prepared. Fails where the log lacks
    /// entries between the store and its own first: that is damage.
    pub fn new(
        recovered: Recovered,
        applied: &[(PartitionId, u64)],
        settings: Settings,
    ) -> Result<Writer, RecoveryError> {
        settings.check();
        let mut in_store = vec![0; PARTITIONS_MAX];
        for (partition, applied) in applied {
            let Some(of) = in_store.get_mut(usize::from(partition.0)) else {
                panic!("{partition:?} is above the cap");
            };
            *of = *applied;
        }
        let mut last = recovered.indexes.last.clone();
        let mut used = Vec::new();
        let partitions = (0..).map(PartitionId);
        for ((partition, applied), index) in partitions.zip(in_store).zip(0..) {
            let first = recovered.indexes.first[index];
            if first > next_index(0, applied) {
                return Err(RecoveryError::Gap {
                    partition,
                    applied,
                    first,
                });
            }
            if applied > last[index] {
                last[index] = applied;
                used.push((partition, applied));
            }
        }
        Ok(Writer {
            secret: recovered.secret,
            settings,
            state: State::Starting,
            epoch: recovered.epoch,
            number: recovered.number,
            previous: recovered.previous,
            at: recovered.end,
            synced: recovered.end,
            live: recovered.live,
            prepared: recovered.prepared,
            preparing: None,
            free: recovered.free,
            unreadable: recovered.unreadable,
            files: recovered.files,
            last,
            used,
        })
    }

    /// Writes the record with which a start begins. Nothing else is taken until that is synced: then no later start can
    /// have the same epoch, whatever else is lost.
    pub fn start(&mut self, out: &mut Writes) -> Result<(), WriterError> {
        out.clear();
        if self.state == State::Failed {
            return Err(WriterError::Failed);
        }
        assert!(self.state == State::Starting, "a start writes one record");
        let bytes = record_bytes(self.used.len() * ENTRY_HEAD_BYTES);
        if !self.has_room(bytes) && !self.turn_over(out) {
            return Err(WriterError::NoSegment);
        }
        let used = std::mem::take(&mut self.used);
        let entries = used.iter().map(|&(partition, index)| Entry {
            partition,
            index: Index(index),
            wall_ms: 0,
            commands: &[],
        });
        let entries: Vec<_> = entries.collect();
        self.encode(RecordKind::Start, &entries, out);
        self.state = State::Started(self.at);
        Ok(())
    }

    /// Encodes the first of these entries, as many as fit, and returns how many. The caller writes what `out` holds, in
    /// any order, before it asks for more. With fewer than all, the rest is offered again: either [`APPEND_BYTES_MAX`]
    /// was reached or a segment is wanted.
    ///
    /// Each entry's index is one more than the last of its partition. Cost: a copy and a checksum of each byte, and 0.1
    /// us a record; nothing is allocated once the buffer has grown.
    ///
    /// [`APPEND_BYTES_MAX`]: crate::limits::APPEND_BYTES_MAX
    pub fn append(
        &mut self,
        entries: &[Entry<'_>],
        out: &mut Writes,
    ) -> Result<usize, WriterError> {
        out.clear();
        self.check(entries)?;
        let mut taken = 0;
        // Ends: each turn takes an entry, or begins a segment in which the next turn does.
        while taken < entries.len() && out.len() < self.settings.append_bytes_max {
            let fit = self.fitting(&entries[taken..]);
            if fit == 0 {
                if !self.turn_over(out) {
                    break;
                }
                continue;
            }
            self.encode(RecordKind::Batch, &entries[taken..taken + fit], out);
            taken += fit;
        }
        if taken == 0 && !entries.is_empty() {
            return Err(WriterError::NoSegment);
        }
        Ok(taken)
    }

    /// Encodes a record without entries, which says what is synced now: after it, damage to the last synced entries is
    /// noticed without the store. For a shutdown in order, and where nothing more comes for a while.
    pub fn mark(&mut self, out: &mut Writes) -> Result<(), WriterError> {
        out.clear();
        self.check(&[])?;
        if !self.has_room(RECORD_HEAD_BYTES) && !self.turn_over(out) {
            return Err(WriterError::NoSegment);
        }
        self.encode(RecordKind::Batch, &[], out);
        Ok(())
    }

    /// Where the next record will stand: everything before it has been handed out to be written.
    pub fn written(&self) -> Position {
        self.at
    }

    /// Everything before this was synced.
    pub fn synced(&self) -> Position {
        self.synced
    }

    /// Files that hold what was written and not synced: `fdatasync` of all of them makes [`Writer::written`] synced.
    pub fn unsynced_files(&self) -> impl Iterator<Item = FileId> {
        let begin = self.synced.segment;
        let is_unsynced = move |live: &&Live| live.of.segment >= begin;
        let is_done = self.synced == self.at;
        let live = self.live.iter().filter(is_unsynced);
        live.filter(move |_| !is_done).map(|live| live.of.file)
    }

    /// Handles that all before this position is durable: the [`Writer::written`] at which the sync began.
    pub fn handle_synced(&mut self, up_to: Position) -> Result<(), WriterError> {
        if self.state == State::Failed {
            return Err(WriterError::Failed);
        }
        assert!(
            up_to <= self.at,
            "synced up to {up_to}, but written up to {}",
            self.at
        );
        self.synced = self.synced.max(up_to);
        if let State::Started(end) = self.state
            && self.synced >= end
        {
            self.state = State::Running;
        }
        Ok(())
    }

    /// Handles that a write or a sync failed: nothing is taken any more, and nothing becomes synced. What was handed
    /// out and not synced may or may not be found at the next start.
    pub fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// Whether the writer failed.
    pub fn is_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// The index that a partition's next entry must have.
    pub fn next_index(&self, partition: PartitionId) -> u64 {
        let last = self.last.get(usize::from(partition.0)).copied();
        next_index(last.unwrap_or(0), 0)
    }

    /// What to prepare so that a segment is ready when this one is full; nothing while one is prepared or being
    /// prepared. May be done beside appends. See [`Prepare`].
    pub fn prepare(&mut self) -> Option<Prepare> {
        if self.state == State::Failed || self.preparing.is_some() || !self.prepared.is_empty() {
            return None;
        }
        let last = self.live.back().map_or(0, |live| live.of.segment.0);
        // invariant: 2^32 segments are 2^58 bytes, years of writing as fast as any disk can.
        let segment = SegmentNumber(last.checked_add(1).expect("all segment numbers are used"));
        let (of, fill) = self.next_file(segment)?;
        self.preparing = Some((of, fill));
        let head = SegmentHead {
            segment,
            bytes: of.bytes,
        };
        Some(Prepare {
            file: of.file,
            segment,
            bytes: of.bytes,
            fill,
            head: head.encode(&self.secret),
        })
    }

    /// Handles that what [`Writer::prepare`] said is done, and durable.
    pub fn handle_prepared(&mut self, segment: SegmentNumber) {
        let Some((of, _)) = self.preparing.take_if(|(of, _)| of.segment == segment) else {
            panic!("segment {segment} is not being prepared");
        };
        self.prepared.push_back(of);
    }

    /// What the store is to remember with a flush that makes these applied indexes durable: written in the same batch,
    /// before the flush.
    pub fn remember(&self, applied: impl Fn(PartitionId) -> u64) -> Remembered {
        // The segment of the synced position is kept, and the one before if that has no synced record yet: the chain
        // goes on from there.
        let bound = match self.synced.offset > RECORDS_OFFSET {
            true => self.synced.segment.0,
            false => self.synced.segment.0.saturating_sub(1),
        };
        let is_applied = |live: &Live| {
            (0u16..)
                .zip(&live.last)
                .all(|(partition, last)| *last <= applied(PartitionId(partition)))
        };
        let needed = self
            .live
            .iter()
            .find(|live| live.of.segment.0 >= bound || !is_applied(live));
        Remembered {
            needed: needed.map_or(SegmentNumber(1), |live| live.of.segment),
            synced: self.synced,
        }
    }

    /// Handles that the store's flush made this durable. Segments below are used again from now on.
    pub fn handle_flushed(&mut self, remembered: Remembered) {
        assert!(
            remembered.needed <= self.synced.segment.max(SegmentNumber(1)),
            "segment {} is not synced",
            remembered.needed
        );
        while let Some(live) = self.live.front()
            && live.of.segment < remembered.needed
        {
            self.free.push(live.of);
            self.live.pop_front();
        }
    }

    /// Starts as nobody should: with the epoch of the start before, and without a record that says so.
    #[cfg(test)]
    pub(super) fn start_unnoticed(&mut self) {
        self.epoch -= 1;
        self.state = State::Running;
    }

    /// Segments that are needed, those that are prepared, and those that are free.
    pub fn segments(&self) -> (usize, usize, usize) {
        let free = self.free.len() + self.unreadable.len();
        (self.live.len(), self.prepared.len(), free)
    }

    fn check(&self, entries: &[Entry<'_>]) -> Result<(), WriterError> {
        match self.state {
            State::Failed => return Err(WriterError::Failed),
            State::Starting | State::Started(_) => panic!("the start record is not synced"),
            State::Running => {}
        }
        let cap = self.settings.command_bytes_max;
        for (entry, bytes) in entries.iter().map(|entry| entry.commands.len()).enumerate() {
            if bytes > cap {
                return Err(WriterError::EntryTooLong { entry, bytes, cap });
            }
        }
        Ok(())
    }

    fn next_file(&mut self, segment: SegmentNumber) -> Option<(SegmentFile, Fill)> {
        let least = self.settings.segment_bytes_min();
        let fits = |free: &&SegmentFile| free.bytes >= least;
        let oldest = self.free.iter().filter(fits).min_by_key(|of| of.segment);
        if let Some(oldest) = oldest.copied() {
            self.free.retain(|of| of.file != oldest.file);
            return Some((SegmentFile { segment, ..oldest }, Fill::Kept));
        }
        let bytes = match segment {
            SegmentNumber(1) => self.settings.first_segment_bytes,
            _ => self.settings.segment_bytes,
        };
        let file = match self.unreadable.pop() {
            Some(file) => file,
            None if self.files as usize >= LOG_FILES_MAX => return None,
            None => {
                self.files += 1;
                FileId(self.files)
            }
        };
        let of = SegmentFile {
            file,
            segment,
            bytes,
        };
        Some((of, Fill::Zeros))
    }

    /// The segment of `at`, unless it has to be prepared first.
    fn current(&self) -> Option<&SegmentFile> {
        let of = &self.live.back()?.of;
        (of.segment == self.at.segment).then_some(of)
    }

    /// Whether a record of this length fits here, with the mark of the segment's end behind it.
    fn has_room(&self, bytes: usize) -> bool {
        self.current().is_some_and(|of| {
            self.at.offset as usize + bytes + RECORD_HEAD_BYTES <= of.bytes as usize
        })
    }

    /// How many of the entries make the next record of this segment.
    fn fitting(&self, entries: &[Entry<'_>]) -> usize {
        let mut bytes = 0;
        let fits = |entry: &&Entry<'_>| {
            bytes += ENTRY_HEAD_BYTES + entry.commands.len();
            let record = record_bytes(bytes);
            record <= self.settings.record_bytes_max && self.has_room(record)
        };
        entries.iter().take_while(fits).count()
    }

    /// Ends the segment and begins the next, if one is prepared.
    fn turn_over(&mut self, out: &mut Writes) -> bool {
        let Some(next) = self.prepared.pop_front() else {
            return false;
        };
        if self.current().is_some() {
            self.encode(RecordKind::End, &[], out);
        }
        assert!(
            next.segment == self.at.segment,
            "segment {} is prepared, {} comes next",
            next.segment,
            self.at.segment
        );
        if let Some(ended) = self.live.back_mut() {
            ended.last.copy_from_slice(&self.last);
        }
        self.live.push_back(Live {
            of: next,
            last: self.last.clone(),
        });
        true
    }

    /// Encodes one record, for which there is room.
    fn encode(&mut self, kind: RecordKind, entries: &[Entry<'_>], out: &mut Writes) {
        let start = out.bytes.len();
        out.bytes.resize(start + RECORD_HEAD_BYTES, 0);
        let entry_kind = match kind {
            RecordKind::Start => EntryKind::Used,
            RecordKind::Batch | RecordKind::End => EntryKind::Command,
        };
        for entry in entries {
            self.note_index(entry, entry_kind);
            write_entry(entry, entry_kind, &mut out.bytes);
        }
        let length = record_bytes(out.bytes.len() - start - RECORD_HEAD_BYTES);
        out.bytes.resize(start + length, 0);
        let body = &out.bytes[start + RECORD_HEAD_BYTES..];
        // invariant: a record is shorter than RECORD_BYTES_MAX.
        let length = u32::try_from(length).expect("a record above its cap");
        let head = RecordHead {
            length,
            position: self.at,
            number: self.number,
            previous: self.previous,
            synced: self.synced,
            epoch: self.epoch,
            checksum: crc32c::crc32c(body),
            entries: entries.len() as u32,
            kind,
        };
        let (head, seal) = head.encode(&self.secret);
        out.bytes[start..start + RECORD_HEAD_BYTES].copy_from_slice(&head);
        let Some(live) = self.live.back() else {
            panic!("a record without a segment");
        };
        let end = self.at.offset + length;
        assert!(
            live.of.segment == self.at.segment && end <= live.of.bytes,
            "a record at {} does not fit",
            self.at
        );
        out.end_record(live.of.file, self.at.offset, start);
        self.number += 1;
        self.previous = seal;
        self.at = match kind {
            RecordKind::End => self.at.segment.begin_of_next(),
            RecordKind::Batch | RecordKind::Start => Position {
                offset: end,
                ..self.at
            },
        };
    }

    fn note_index(&mut self, entry: &Entry<'_>, kind: EntryKind) {
        let Some(last) = self.last.get_mut(usize::from(entry.partition.0)) else {
            panic!("{:?} is above the cap", entry.partition);
        };
        let expected = match kind {
            EntryKind::Command => *last + 1,
            EntryKind::Used => *last,
        };
        assert!(
            entry.index.0 == expected,
            "{:?} proposes index {}, {expected} comes next",
            entry.partition,
            entry.index
        );
        *last = entry.index.0;
    }
}
