//! What a log holds after a start: its records in order, where it goes on, or why it is refused.
//!
//! Invariants: records are given in the order in which they were written, each the successor of the one before; once
//! one is not, no other is given, and everything behind is only looked at for what it says was synced. Start at
//! [`Recovery::new`].

use super::format::{
    HeadRead, RECORD_HEAD_BYTES, RECORDS_OFFSET, RecordHead, RecordKind, SEGMENT_HEAD_BYTES,
    SegmentHead, read_entry, read_head, scan,
};
use super::writer::Live;
use super::{
    Entry, EntryKind, FileFlaw, FileId, Flaw, PartitionId, Position, RecoveryError, Remembered,
    Secret, SegmentFile, SegmentNumber, Suspect, Witness,
};
use crate::limits::{PARTITIONS_MAX, SEGMENT_BYTES_MAX};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};

/// A file of the log's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStart {
    /// The file's number, which is its name.
    pub file: FileId,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its first bytes; zeros where it has less.
    pub head: [u8; SEGMENT_HEAD_BYTES],
}

/// A record that belongs to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it stands.
    pub position: Position,
    /// Its number: one more than that of the record before.
    pub number: u64,
    /// The start that wrote it.
    pub epoch: u32,
    /// What it is for.
    pub kind: RecordKind,
    body: &'a [u8],
    entries: u32,
}

impl<'a> Record<'a> {
    /// Its entries, in order. What a start says of used indexes is left out.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut rest = self.body;
        let all = (0..self.entries).map_while(move |_| read_entry(&mut rest).ok());
        let commands = all.filter(|(kind, _)| *kind == EntryKind::Command);
        commands.map(|(_, entry)| entry)
    }
}

/// Each partition's first and last index in the log, 0 for none.
#[derive(Clone, Debug)]
pub(super) struct Indexes {
    pub first: Vec<u64>,
    pub last: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next records are in this file.
    Chain(SegmentFile),
    /// The chain ended; this file may hold records that say what was synced. Without a number where the header cannot
    /// be read.
    Scan(FileId, Option<SegmentNumber>),
}

/// The greatest synced position that anyone says, and who.
#[derive(Clone, Copy, Debug)]
struct Claim {
    synced: Position,
    by: Witness,
}

/// Reads a log, one file after the other: [`wanted`](Recovery::wanted) says which, [`next`](Recovery::next) takes its
/// bytes.
#[derive(Debug)]
pub struct Recovery {
    secret: Secret,
    least: SegmentNumber,
    /// Readable segments that may be needed, by number.
    segments: BTreeMap<SegmentNumber, SegmentFile>,
    free: Vec<SegmentFile>,
    unreadable: Vec<FileId>,
    /// Where a segment that is not there may have been.
    suspect: Suspect,
    files: u32,
    step: Option<Step>,
    to_scan: VecDeque<Step>,
    at: Position,
    /// The next record's number and `previous`; what the first record of a log that does not begin at segment 1 says is
    /// taken as it is.
    next: Option<(u64, u64)>,
    /// The last record's epoch, and the greatest seen anywhere.
    epoch: u32,
    epoch_seen: u32,
    claim: Claim,
    indexes: Indexes,
    live: VecDeque<Live>,
    flaw: Option<Flaw>,
    dead_records: u64,
}

/// A log that may go on, and what is known of it.
#[derive(Debug)]
pub struct Recovered {
    pub(super) secret: Secret,
    pub(super) end: Position,
    pub(super) proven: Position,
    pub(super) epoch: u32,
    pub(super) number: u64,
    pub(super) previous: u64,
    pub(super) indexes: Indexes,
    pub(super) live: VecDeque<Live>,
    pub(super) prepared: VecDeque<SegmentFile>,
    pub(super) free: Vec<SegmentFile>,
    pub(super) unreadable: Vec<FileId>,
    pub(super) files: u32,
    cut: Option<Flaw>,
    dead_records: u64,
}

impl Recovered {
    /// Where the next record will stand. What stands behind belongs to nobody.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Everything before this is known to have been synced. What stands between here and the end may be in the page
    /// cache alone, until the sync that [`Writer::new`](super::Writer::new) asks for.
    pub fn proven(&self) -> Position {
        self.proven
    }

    /// The next start's epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes of files that nothing says were synced: headers of segments, and records from [`proven`](Recovered::proven)
    /// to [`end`](Recovered::end). After a sync that failed they may be in the page cache alone, and clean there, so that
    /// no sync brings them to the disk: a start writes them again, as it read them.
    pub fn unproven(&self) -> impl Iterator<Item = (FileId, Range<u32>)> {
        let (proven, end) = (self.proven, self.end);
        let found = self.live.iter().map(|live| &live.of).chain(&self.prepared);
        let found = found.filter(move |of| of.segment >= proven.segment);
        found.flat_map(move |of| {
            let from = match of.segment == proven.segment {
                true => proven.offset,
                false => RECORDS_OFFSET,
            };
            let to = match of.segment.cmp(&end.segment) {
                Ordering::Less => of.bytes,
                Ordering::Equal => end.offset,
                Ordering::Greater => from,
            };
            let head = 0..SEGMENT_HEAD_BYTES as u32;
            let parts = [head, from..to].into_iter();
            parts
                .filter(|part| !part.is_empty())
                .map(|part| (of.file, part))
        })
    }

    /// The last index of a partition in the log, or that the log knows to be used; 0 for none.
    pub fn last_index(&self, partition: PartitionId) -> u64 {
        let last = self.indexes.last.get(usize::from(partition.0));
        last.copied().unwrap_or(0)
    }

    /// What was wrong with the first record that was cut off, for the operator; nothing where the log ends clean.
    pub fn cut(&self) -> Option<Flaw> {
        self.cut
    }

    /// Headers of records at the end or behind it that are whole: lost with what stood before them, never acknowledged.
    pub fn dead_records(&self) -> u64 {
        self.dead_records
    }
}

impl Recovery {
    /// Begins with all files of the directory, in any order, and what the store remembers
    /// ([`Remembered::default`] if it never flushed).
    pub fn new(
        secret: Secret,
        remembered: Remembered,
        files: &[FileStart],
    ) -> Result<Recovery, RecoveryError> {
        let least = SegmentNumber(remembered.needed.0.max(1));
        if least.0 > 1 && remembered.synced <= least.begin() {
            return Err(RecoveryError::Remembered(remembered));
        }
        let mut recovery = Recovery {
            secret,
            least,
            segments: BTreeMap::new(),
            free: Vec::new(),
            unreadable: Vec::new(),
            suspect: Suspect::Unknown,
            files: files.iter().map(|of| of.file.0).max().unwrap_or(0),
            step: None,
            to_scan: VecDeque::new(),
            at: least.begin(),
            next: (least.0 == 1).then_some((1, 0)),
            epoch: 0,
            epoch_seen: 0,
            claim: Claim {
                synced: remembered.synced,
                by: Witness::Store,
            },
            indexes: Indexes {
                first: vec![0; PARTITIONS_MAX],
                last: vec![0; PARTITIONS_MAX],
            },
            live: VecDeque::new(),
            flaw: None,
            dead_records: 0,
        };
        for of in files {
            recovery.sort_in(of)?;
        }
        recovery.find_suspect(files);
        recovery.check_no_hole()?;
        match recovery.segments.get(&least) {
            Some(of) => recovery.enter(*of),
            None => recovery.end_chain(Flaw::NoRecord),
        }
        Ok(recovery)
    }

    /// The file whose bytes [`next`](Recovery::next) wants; nothing once all is read.
    pub fn wanted(&self) -> Option<FileId> {
        self.step.map(|step| match step {
            Step::Chain(of) => of.file,
            Step::Scan(file, _) => file,
        })
    }

    /// The next record in the file that is [wanted](Recovery::wanted), of which `bytes` is all (of a file of more than
    /// [`SEGMENT_BYTES_MAX`], so many are enough); nothing where no more is to be had from it. Once no file is wanted,
    /// [`finish`](Recovery::finish).
    ///
    /// Records are whole and in order whatever comes later, so they may be applied at once, though not acknowledged.
    /// Cost: a checksum of each byte and 0.1 us a record.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Record<'a>>, RecoveryError> {
        match self.step {
            None => Ok(None),
            Some(Step::Chain(of)) => {
                if bytes.len() != of.bytes as usize {
                    let found = bytes.len() as u64;
                    return Err(size_error(&of, found));
                }
                self.next_in_chain(of, bytes)
            }
            Some(Step::Scan(file, segment)) => {
                self.scan(file, segment, RECORDS_OFFSET, bytes)?;
                self.step = self.to_scan.pop_front();
                Ok(None)
            }
        }
    }

    /// What was read, or why the log is refused. All files that were wanted must have been read.
    pub fn finish(self) -> Result<Recovered, RecoveryError> {
        assert!(self.step.is_none(), "a file of the log was not read");
        self.check_claim()?;
        let (number, previous) = match self.next {
            Some(next) => next,
            None => return Err(self.damage(Witness::Store, self.claim.synced)),
        };
        let is_later = |of: &&SegmentFile| of.segment > self.at.segment;
        let prepared = self.segments.values().filter(is_later).copied().collect();
        let epoch = self.epoch_seen.max(self.epoch);
        Ok(Recovered {
            secret: self.secret,
            end: self.at,
            proven: self.claim.synced,
            // invariant: an epoch is a start, and nobody starts a broker 2^32 times.
            epoch: epoch.checked_add(1).expect("all epochs are used"),
            number,
            previous,
            indexes: self.indexes,
            live: self.live,
            prepared,
            free: self.free,
            unreadable: self.unreadable,
            files: self.files,
            cut: self.flaw.filter(|flaw| *flaw != Flaw::NoRecord),
            dead_records: self.dead_records,
        })
    }

    fn sort_in(&mut self, of: &FileStart) -> Result<(), RecoveryError> {
        let head = match SegmentHead::read(&of.head, &self.secret) {
            HeadRead::Segment(head) => head,
            HeadRead::Unreadable => {
                self.unreadable.push(of.file);
                return Ok(());
            }
            HeadRead::OtherSecret => return Err(file_error(of.file, FileFlaw::OtherSecret)),
            HeadRead::Version(version) => {
                return Err(file_error(of.file, FileFlaw::Version(version)));
            }
        };
        let file = SegmentFile {
            file: of.file,
            segment: head.segment,
            bytes: head.bytes,
        };
        if of.bytes != u64::from(head.bytes) || head.bytes > SEGMENT_BYTES_MAX {
            return Err(size_error(&file, of.bytes));
        }
        if head.segment < self.least {
            self.free.push(file);
        } else if let Some(other) = self.segments.insert(head.segment, file) {
            return Err(file_error(
                of.file,
                FileFlaw::Twice(head.segment, other.file),
            ));
        }
        Ok(())
    }

    /// Which file a segment that is not there was most likely in.
    fn find_suspect(&mut self, files: &[FileStart]) {
        let mut ids: Vec<_> = files.iter().map(|of| of.file.0).collect();
        ids.sort_unstable();
        let mut expected = 1..;
        let absent = ids.iter().find_map(|id| {
            let expected = expected.next()?;
            (*id != expected).then_some(FileId(expected))
        });
        self.suspect = match (self.unreadable.first(), absent) {
            (Some(file), _) => Suspect::Unreadable(*file),
            (None, Some(file)) => Suspect::Absent(file),
            (None, None) => Suspect::Unknown,
        };
    }

    fn missing(&self, segment: SegmentNumber) -> RecoveryError {
        RecoveryError::Missing {
            segment,
            suspect: self.suspect,
        }
    }

    /// A segment is prepared, durably, after the one before: so one that is not there was lost later.
    fn check_no_hole(&self) -> Result<(), RecoveryError> {
        let begin = self.least.0;
        for (expected, found) in (begin..).zip(self.segments.keys()) {
            if found.0 != expected {
                return Err(self.missing(SegmentNumber(expected)));
            }
        }
        match self.segments.is_empty() && begin > 1 {
            true => Err(self.missing(self.least)),
            false => Ok(()),
        }
    }

    /// Goes on at the beginning of this segment.
    fn enter(&mut self, of: SegmentFile) {
        self.at = of.segment.begin();
        self.live.push_back(Live {
            of,
            last: vec![0; PARTITIONS_MAX],
        });
        self.step = Some(Step::Chain(of));
    }

    /// Takes nothing into the log any more; plans to look at what may have been behind.
    fn end_chain(&mut self, flaw: Flaw) {
        self.flaw = Some(flaw);
        let behind = (Bound::Excluded(self.at.segment), Bound::Unbounded);
        let later = self.segments.range(behind);
        let later = later.map(|(number, of)| Step::Scan(of.file, Some(*number)));
        let unreadable = self.unreadable.iter().map(|file| Step::Scan(*file, None));
        self.to_scan = later.chain(unreadable).collect();
        self.step = self.to_scan.pop_front();
    }

    fn next_in_chain<'a>(
        &mut self,
        of: SegmentFile,
        bytes: &'a [u8],
    ) -> Result<Option<Record<'a>>, RecoveryError> {
        let flaw = match self.successor(&of, bytes) {
            Ok((head, seal, body)) => return self.take_record(&of, &head, seal, body),
            Err(flaw) => flaw,
        };
        if matches!(flaw, Flaw::Kind(_) | Flaw::Reserved) {
            // Sealed, so no accident: cutting it off would lose what a newer build wrote.
            return Err(self.refused(&of, flaw));
        }
        let offset = self.at.offset;
        self.end_chain(flaw);
        self.scan(of.file, Some(of.segment), offset, bytes)?;
        Ok(None)
    }

    /// The record at the log's end, if it was written right behind the one before.
    fn successor<'a>(
        &self,
        of: &SegmentFile,
        bytes: &'a [u8],
    ) -> Result<(RecordHead, u64, &'a [u8]), Flaw> {
        let rest = bytes.get(self.at.offset as usize..).unwrap_or_default();
        let (head, seal) = read_head(rest, self.at, of.bytes, &self.secret)?;
        if let Some((number, previous)) = self.next {
            if head.number != number {
                return Err(Flaw::Number(head.number));
            }
            if head.previous != previous {
                return Err(Flaw::Previous);
            }
        }
        let is_first = matches!(head.kind, RecordKind::Start | RecordKind::End);
        if head.epoch < self.epoch || (head.epoch > self.epoch && !is_first && self.next.is_some())
        {
            return Err(Flaw::Epoch(head.epoch));
        }
        let Some(body) = rest.get(RECORD_HEAD_BYTES..head.length as usize) else {
            return Err(Flaw::NoRoom);
        };
        if crc32c::crc32c(body) != head.checksum {
            return Err(Flaw::Checksum);
        }
        Ok((head, seal, body))
    }

    fn take_record<'a>(
        &mut self,
        of: &SegmentFile,
        head: &RecordHead,
        seal: u64,
        body: &'a [u8],
    ) -> Result<Option<Record<'a>>, RecoveryError> {
        let mut rest = body;
        for _ in 0..head.entries {
            let (kind, entry) = read_entry(&mut rest).map_err(|flaw| self.refused(of, flaw))?;
            self.note_index(of, kind, &entry)?;
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(self.refused(of, Flaw::Entry("end")));
        }
        self.note_claim(head.synced, Witness::Record(head.position));
        self.epoch = head.epoch;
        self.next = Some((head.number + 1, seal));
        if head.kind == RecordKind::End {
            let next = SegmentNumber(of.segment.0.saturating_add(1));
            if let Some(live) = self.live.back_mut() {
                live.last.copy_from_slice(&self.indexes.last);
            }
            // The mark was written when the next segment was prepared, durably.
            let next = self.segments.get(&next).ok_or_else(|| self.missing(next))?;
            self.enter(*next);
            return Ok(None);
        }
        self.at.offset += head.length;
        Ok(Some(Record {
            position: head.position,
            number: head.number,
            epoch: head.epoch,
            kind: head.kind,
            body,
            entries: head.entries,
        }))
    }

    /// Within the chain nothing was lost, and a start says which indexes were used up elsewhere: so each entry follows
    /// its partition's last, or somebody else wrote here.
    fn note_index(
        &mut self,
        of: &SegmentFile,
        kind: EntryKind,
        entry: &Entry<'_>,
    ) -> Result<(), RecoveryError> {
        let partition = usize::from(entry.partition.0);
        let last = self.indexes.last[partition];
        let is_next = match kind {
            EntryKind::Command => last.checked_add(1) == Some(entry.index.0) || last == 0,
            EntryKind::Used => entry.index.0 > last,
        };
        if !is_next || entry.index.0 == 0 {
            return Err(RecoveryError::Index {
                file: of.file,
                offset: self.at.offset,
                partition: entry.partition,
                last,
                found: entry.index.0,
            });
        }
        if self.indexes.first[partition] == 0 {
            self.indexes.first[partition] = match kind {
                EntryKind::Command => entry.index.0,
                EntryKind::Used => entry.index.0.saturating_add(1),
            };
        }
        self.indexes.last[partition] = entry.index.0;
        Ok(())
    }

    fn note_claim(&mut self, synced: Position, by: Witness) {
        if synced > self.claim.synced {
            self.claim = Claim { synced, by };
        }
    }

    fn scan(
        &mut self,
        file: FileId,
        segment: Option<SegmentNumber>,
        from: u32,
        bytes: &[u8],
    ) -> Result<(), RecoveryError> {
        let secret = self.secret.clone();
        let (least, at) = (self.least, self.at);
        scan(bytes, from, segment, least, &secret, |head| {
            self.dead_records += u64::from(head.position >= at);
            self.epoch_seen = self.epoch_seen.max(head.epoch);
            self.note_claim(head.synced, Witness::Record(head.position));
            if segment.is_none() && head.position.segment == at.segment {
                self.suspect = Suspect::Unreadable(file);
            }
        });
        self.check_claim()
    }

    /// Rule 4: what was synced must be there.
    fn check_claim(&self) -> Result<(), RecoveryError> {
        match self.claim.synced > self.at {
            true => Err(self.damage(self.claim.by, self.claim.synced)),
            false => Ok(()),
        }
    }

    fn damage(&self, by: Witness, synced: Position) -> RecoveryError {
        let Some(of) = self.segments.get(&self.at.segment) else {
            return self.missing(self.at.segment);
        };
        RecoveryError::Damaged {
            file: of.file,
            position: self.at,
            flaw: self.flaw.unwrap_or(Flaw::NoRecord),
            synced,
            by,
        }
    }

    fn refused(&self, of: &SegmentFile, flaw: Flaw) -> RecoveryError {
        RecoveryError::Refused {
            file: of.file,
            position: self.at,
            flaw,
        }
    }
}

fn size_error(of: &SegmentFile, found: u64) -> RecoveryError {
    let expected = of.bytes;
    file_error(of.file, FileFlaw::Size { expected, found })
}

fn file_error(file: FileId, what: FileFlaw) -> RecoveryError {
    RecoveryError::File { file, what }
}
