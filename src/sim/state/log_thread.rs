//! The log thread: it drives a [`Writer`] as the log's module says, in steps that everything else may come between.
//!
//! Owns the writer, what is being written, the sync that goes on, and the segment that is prepared beside them. Must not
//! know partitions' states or who waits. Invariants: once a write or a sync failed, nothing is taken or told any more; the
//! inbox is bounded. Start at [`LogThread::step`].

use super::Sabotage;
use super::disk::Covered;
use super::history::{History, Owned};
use super::io::{DiskError, Io};
use sapwood_state::log::{
    Entry, FileId, Fill, Index, PartitionId, Position, Prepare, Writer, WriterError, Writes,
};
use std::collections::VecDeque;

/// `os` entries are synced within this time.
const OS_SYNC_MS: u64 = 100;

/// A preparing that failed is tried again after this.
const PREPARE_AGAIN_MS: u64 = 20;

/// An entry on its way to the log.
#[derive(Debug)]
pub(super) struct Proposal {
    pub entry: Owned,
    pub is_os: bool,
}

/// What workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Written(usize, u64),
    Synced(usize, u64),
}

#[derive(Debug)]
struct Piece {
    file: FileId,
    offset: u32,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Sync {
    covered: Vec<Covered>,
    up_to: Position,
    chain: usize,
    end_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Create,
    Zeros(u32),
    SyncZeros,
    Directory,
    Head(u32),
    SyncHead,
}

#[derive(Debug)]
struct Preparing {
    prepare: Prepare,
    stage: Stage,
    sync: Option<(Covered, u64)>,
    wait_ms: u64,
}

pub(super) struct LogThread {
    pub writer: Writer,
    pub inbox: VecDeque<Proposal>,
    pub inbox_max: usize,
    pub told: VecDeque<Told>,
    writes: Writes,
    pieces: VecDeque<Piece>,
    going: Vec<(usize, u64)>,
    sync: Option<Sync>,
    /// When the first `os` entry that is not synced was taken; none if others wait for the sync too.
    os_since_ms: Option<u64>,
    preparing: Option<Preparing>,
}

impl LogThread {
    pub fn new(writer: Writer, inbox_max: usize) -> LogThread {
        LogThread {
            writer,
            inbox: VecDeque::new(),
            inbox_max,
            told: VecDeque::new(),
            writes: Writes::default(),
            pieces: VecDeque::new(),
            going: Vec::new(),
            sync: None,
            os_since_ms: None,
            preparing: None,
        }
    }

    pub fn has_room(&self) -> bool {
        self.inbox.len() < self.inbox_max
    }

    /// For people to read.
    pub fn describe(&self) -> String {
        format!(
            "segments {:?}, written {}, synced {}, {} entries wait, {} pieces, {:?}, {:?}",
            self.writer.segments(),
            self.writer.written(),
            self.writer.synced(),
            self.inbox.len(),
            self.pieces.len(),
            self.sync,
            self.preparing,
        )
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        let is_synced = self.writer.synced() == self.writer.written();
        self.inbox.is_empty() && self.pieces.is_empty() && self.sync.is_none() && is_synced
    }

    fn is_unsynced(&self) -> bool {
        self.writer.synced() < self.writer.written()
    }

    fn fail(&mut self, io: &mut Io) {
        self.writer.fail();
        io.has_failed = true;
        io.note("log failed");
    }

    /// Writes the record with which a start begins; false if a segment has to be prepared first.
    pub fn start(&mut self) -> bool {
        match self.writer.start(&mut self.writes) {
            Ok(()) => self.take_writes(),
            Err(WriterError::NoSegment) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn take_writes(&mut self) {
        let pieces = self.writes.iter().map(|write| Piece {
            file: write.file,
            offset: write.offset,
            bytes: write.bytes.to_vec(),
        });
        self.pieces.extend(pieces);
    }

    /// Does the next thing.
    pub fn step(&mut self, io: &mut Io, history: &mut History) {
        if self.writer.is_failed() {
            return;
        }
        if !self.pieces.is_empty() {
            return self.write_piece(io, history);
        }
        if self.sync.is_some() {
            return self.end_sync(io, history);
        }
        let is_unsynced = self.is_unsynced();
        // A sync may come before what waits, or cover that too.
        let appends = !self.inbox.is_empty() && (!is_unsynced || io.rng.percent(60));
        if appends {
            if self.append(io, history) {
                return;
            }
        } else if !is_unsynced {
            if io.rng.percent(3) && self.writer.mark(&mut self.writes).is_ok() {
                io.note("mark");
                self.take_writes();
            }
            return;
        }
        let may_wait = self
            .os_since_ms
            .is_some_and(|since| since + OS_SYNC_MS > io.now_ms);
        if self.is_unsynced() && !(may_wait && self.inbox.is_empty() && io.rng.percent(80)) {
            self.begin_sync(io, history);
        }
    }

    /// Takes entries; false if there is no segment for them.
    fn append(&mut self, io: &mut Io, history: &mut History) -> bool {
        let was_unsynced = self.is_unsynced();
        let offered = io.rng.within(1..self.inbox.len() + 1);
        let entries: Vec<_> = self
            .inbox
            .iter()
            .take(offered)
            .map(|one| Entry {
                partition: PartitionId(one.entry.partition as u16),
                index: Index(one.entry.index),
                wall_ms: one.entry.wall_ms,
                commands: &one.entry.commands,
            })
            .collect();
        let taken = match self.writer.append(&entries, &mut self.writes) {
            Ok(taken) => taken,
            Err(WriterError::NoSegment) => {
                io.note("no segment: entries wait");
                return false;
            }
            Err(error) => panic!("{error}"),
        };
        if !was_unsynced {
            self.os_since_ms = Some(io.now_ms);
        }
        if taken > 1 {
            io.note("several entries in an append");
        }
        for proposal in self.inbox.drain(..taken) {
            if !proposal.is_os {
                self.os_since_ms = None;
            }
            let Owned {
                partition, index, ..
            } = proposal.entry;
            self.going.push((partition, index));
            history.append(proposal.entry);
        }
        self.take_writes();
        true
    }

    fn write_piece(&mut self, io: &mut Io, history: &mut History) {
        let Some(piece) = self.pieces.front_mut() else {
            return;
        };
        match io.write(piece.file, piece.offset, &piece.bytes) {
            Ok(count) => {
                piece.offset += count as u32;
                piece.bytes.drain(..count);
            }
            Err(_) => return self.fail(io),
        }
        if piece.bytes.is_empty() {
            self.pieces.pop_front();
        }
        // A start record has no entries, and says nothing of those that were lost.
        if self.pieces.is_empty() && !self.going.is_empty() {
            history.handle_written();
            let told = self
                .going
                .drain(..)
                .map(|(partition, index)| Told::Written(partition, index));
            self.told.extend(told);
        }
    }

    fn begin_sync(&mut self, io: &mut Io, history: &History) {
        let files: Vec<_> = self.writer.unsynced_files().collect();
        if files.len() > 1 {
            io.note("sync of several files");
        }
        self.sync = Some(Sync {
            covered: files
                .into_iter()
                .map(|file| io.disk.begin_sync(file))
                .collect(),
            up_to: self.writer.written(),
            chain: history.written(),
            end_ms: io.sync_end_ms(),
        });
    }

    fn end_sync(&mut self, io: &mut Io, history: &mut History) {
        let Some(sync) = self.sync.take_if(|sync| sync.end_ms <= io.now_ms) else {
            return;
        };
        if io.end_syncs(&sync.covered).is_err() {
            io.has_failed = true;
            if io.is_sabotaged(Sabotage::RetrySync) {
                return self.begin_sync(io, history);
            }
            return self.fail(io);
        }
        if let Err(error) = self.writer.handle_synced(sync.up_to) {
            panic!("{error}");
        }
        self.os_since_ms = None;
        let new = history.handle_synced(sync.chain);
        if new.len() > 1 {
            io.note("one sync for several entries");
        }
        self.told.extend(
            new.into_iter()
                .map(|(partition, index)| Told::Synced(partition, index)),
        );
    }

    /// Does the next thing to prepare a segment, in the background.
    pub fn step_preparing(&mut self, io: &mut Io) {
        if self.writer.is_failed() {
            return;
        }
        if self.preparing.is_none() {
            self.preparing = self.writer.prepare().map(|prepare| Preparing {
                stage: begin_of(&prepare),
                prepare,
                sync: None,
                wait_ms: 0,
            });
            return;
        }
        let Some(mut preparing) = self.preparing.take_if(|one| one.wait_ms <= io.now_ms) else {
            return;
        };
        match preparing.step(io) {
            Ok(true) => {
                if preparing.prepare.fill == Fill::Kept {
                    io.note("segment used again");
                }
                self.writer.handle_prepared(preparing.prepare.segment);
            }
            Ok(false) => self.preparing = Some(preparing),
            Err(DiskError::NoSpace) => {
                io.note("no space for a segment: tried again");
                preparing.stage = begin_of(&preparing.prepare);
                preparing.wait_ms = io.now_ms + PREPARE_AGAIN_MS;
                self.preparing = Some(preparing);
            }
            Err(DiskError::Io) => self.fail(io),
        }
    }
}

fn begin_of(prepare: &Prepare) -> Stage {
    match prepare.fill {
        Fill::Zeros => Stage::Create,
        Fill::Kept => Stage::Head(0),
    }
}

impl Preparing {
    /// True once all is done.
    fn step(&mut self, io: &mut Io) -> Result<bool, DiskError> {
        let file = self.prepare.file;
        self.stage = match self.stage {
            Stage::Create => {
                io.disk.create(file);
                Stage::Zeros(0)
            }
            Stage::Zeros(at) => {
                let left = (self.prepare.bytes - at) as usize;
                let at = at + io.write(file, at, &vec![0; left])? as u32;
                match at == self.prepare.bytes {
                    true => Stage::SyncZeros,
                    false => Stage::Zeros(at),
                }
            }
            Stage::SyncZeros => self.sync(io, Stage::Directory)?,
            Stage::Directory => {
                if !io.is_sabotaged(Sabotage::DirectoryNotSynced) {
                    io.disk.sync_directory();
                }
                Stage::Head(0)
            }
            Stage::Head(at) => {
                let head = &self.prepare.head[at as usize..];
                let at = at + io.write(file, at, head)? as u32;
                match at as usize == self.prepare.head.len() {
                    true => Stage::SyncHead,
                    false => Stage::Head(at),
                }
            }
            Stage::SyncHead => {
                let stage = self.sync(io, Stage::Create)?;
                return Ok(stage == Stage::Create);
            }
        };
        Ok(false)
    }

    /// Begins a sync, or ends the one that goes on; the stage behind that.
    fn sync(&mut self, io: &mut Io, then: Stage) -> Result<Stage, DiskError> {
        match self.sync.take() {
            None => self.sync = Some((io.disk.begin_sync(self.prepare.file), io.sync_end_ms())),
            Some((covered, end_ms)) if end_ms <= io.now_ms => {
                io.end_syncs(&[covered])?;
                return Ok(then);
            }
            going => self.sync = going,
        }
        Ok(self.stage)
    }
}
