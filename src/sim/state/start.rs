//! How a node comes up again: recovery, replay, making durable what was found, the start record. A crash may come between
//! any two steps.
//!
//! Must not know clients. Start at [`World::start`].

use super::Sabotage;
use super::check::LINEAGE;
use super::history::{Kept, Owned};
use super::io::Faults;
use super::log_thread::LogThread;
use super::model::ModelPartition;
use super::worker::Worker;
use super::world::{Place, SECRET, World, settings_of};
use crate::{Failure, fail};
use sapwood_state::log::{
    Entry, FileId, Position, Recovered, Recovery, RecoveryError, SEGMENT_HEAD_BYTES, Secret, Writer,
};
use sapwood_state::partition::Partition;
use sapwood_state::store::{Family, MemoryStore, Store};
use sapwood_state::worker::{LastStop, Setup, SharedFilters, Worker as Machine};
use sapwood_wire::state::{Index, PartitionId};
use std::collections::{BTreeMap, VecDeque};

/// After so many starts that a crash or the disk ended, nothing happens to the next one.
const STARTS_MAX: usize = 6;

/// What a bit that was turned over led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// The node runs.
    Up,
    /// The log is damaged, and refused: the history ends.
    Refused,
}

/// Whether a start came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Up,
    Broken,
}

fn refused<T>(error: RecoveryError) -> Result<T, Failure> {
    fail("refused", error.to_string())
}

/// Reads the log of a directory, and where its records stand.
type Read = (Recovered, Vec<Owned>, Vec<(FileId, Position)>);

impl World {
    /// Starts the node, again and again where starts break.
    pub(super) fn start(&mut self) -> Result<Came, Failure> {
        if self.io.happens(self.io.faults.flip) && self.flip()? {
            return Ok(Came::Refused);
        }
        for _ in 0..STARTS_MAX {
            if self.try_start()? == Tried::Up {
                return Ok(Came::Up);
            }
            self.io.note("start broken off");
            self.crash();
        }
        let faults = std::mem::replace(
            &mut self.io.faults,
            Faults {
                sync_ms_max: 1,
                ..Faults::default()
            },
        );
        let tried = self.try_start()?;
        self.io.faults = faults;
        match tried {
            Tried::Up => Ok(Came::Up),
            Tried::Broken => fail("start", "it broke without a fault".into()),
        }
    }

    fn read_log(&self) -> Result<Read, RecoveryError> {
        let disk = &self.io.disk;
        let mut recovery = Recovery::new(Secret::new(&SECRET), self.remembered, &disk.starts())?;
        let (mut entries, mut records) = (Vec::new(), Vec::new());
        while let Some(file) = recovery.wanted() {
            while let Some(record) = recovery.next(disk.read(file))? {
                records.push((file, record.position));
                entries.extend(record.entries().map(|entry| Owned {
                    partition: usize::from(entry.partition.0),
                    index: entry.index.0,
                    wall_ms: entry.wall_ms,
                    commands: entry.commands.to_vec(),
                }));
            }
        }
        Ok((recovery.finish()?, entries, records))
    }

    /// Turns a bit over in what is known to be synced, if there is something; then the log must be refused.
    fn flip(&mut self) -> Result<bool, Failure> {
        let (recovered, _, records) = self.read_log().or_else(refused)?;
        let end = recovered.proven();
        let mut spans = BTreeMap::new();
        for &(file, position) in records.iter().filter(|(_, position)| *position < end) {
            let span = spans
                .entry(file)
                .or_insert((position.offset, position.offset));
            span.1 = position.offset;
        }
        // Whole records of a file stand next to each other, so all bytes up to the last of them are covered.
        spans.retain(|_, (first, last)| first < last);
        if spans.is_empty() {
            return Ok(false);
        }
        let spans: Vec<_> = spans.into_iter().collect();
        let (file, (first, last)) = self.io.rng.pick(&spans);
        let offset = match self.io.rng.percent(15) {
            true => self.io.rng.below(SEGMENT_HEAD_BYTES),
            false => self.io.rng.within(first as usize..last as usize),
        };
        let bit = self.io.rng.below(8);
        self.io.disk.flip(file, offset, bit);
        self.io.note("flipped bit refused");
        match self.read_log() {
            Err(_) => Ok(true),
            Ok(_) => fail(
                "damage",
                format!("bit {bit} at {offset} of {file} was turned over, unnoticed"),
            ),
        }
    }

    /// Whether something ends the start here.
    fn breaks(&mut self) -> bool {
        self.io.now_ms += self.io.rng.below(3) as u64;
        self.io.happens(self.io.faults.crash_in_start)
    }

    fn try_start(&mut self) -> Result<Tried, Failure> {
        self.io.has_failed = false;
        if self.io.is_sabotaged(Sabotage::ForgetIds) {
            self.store.compact(|family, _, _| family == Family::Dedup);
        }
        let in_store = self.in_store()?;
        let (recovered, found, _) = self.read_log().or_else(refused)?;
        let kept = self.history.check(&found, &in_store)?;
        self.note_recovery(&recovered, &kept);
        let (partitions, places) = self.replay(&found, &kept)?;
        if self.breaks() || self.make_durable(&recovered).is_none() {
            return Ok(Tried::Broken);
        }
        if self.io.rng.percent(20) {
            self.io.note("log gone on with other sizes");
            self.settings = settings_of(&mut self.io.rng);
        }
        let reuses = self.io.is_sabotaged(Sabotage::ReuseIndex);
        let applied = |(partition, applied): (u16, &u64)| {
            let partition = PartitionId(partition);
            match recovered.last_index(partition) {
                last if reuses && last > 0 => (partition, (*applied).min(last)),
                _ => (partition, *applied),
            }
        };
        let applied: Vec<_> = (0..).zip(&in_store).map(applied).collect();
        let writer = Writer::new(recovered, &applied, self.settings).or_else(refused)?;
        let inbox_max = self.inbox_max;
        let mut log = LogThread::new(writer, inbox_max);
        let mut has_begun = false;
        // Ends: nothing comes in, so what is under way ends.
        while !has_begun || !log.is_idle() {
            if self.breaks() || log.writer.is_failed() {
                return Ok(Tried::Broken);
            }
            match has_begun {
                false => {
                    has_begun = log.start();
                    log.step_preparing(&mut self.io);
                }
                true => log.step(&mut self.io, &mut self.history),
            }
        }
        // Before the start record is synced, what was cut off may come back: where the first sector of a torn one is that of
        // the record it replaces, that one is whole again. Nobody was told anything yet.
        if self.history.commit(&kept) > 0 {
            self.io.note("unsynced entries lost");
        }
        log.told.clear();
        self.make_workers(partitions, &log);
        (self.log, self.places) = (Some(log), places);
        self.compare_all()?;
        if self.io.rng.percent(20) {
            self.compare_replica()?;
        }
        Ok(Tried::Up)
    }

    fn note_recovery(&mut self, recovered: &Recovered, kept: &Kept) {
        if recovered.cut().is_some() {
            self.io.note("torn tail cut");
        }
        if recovered.dead_records() > 0 {
            self.io.note("dead records behind the end");
        }
        if kept.is_store_ahead {
            self.io.note("store ahead of the log");
        }
    }

    /// Each partition's applied index in the store.
    fn in_store(&self) -> Result<Vec<u64>, Failure> {
        (0..self.partitions as u16)
            .map(|of| match Partition::open(PartitionId(of), &self.store) {
                Ok(partition) => Ok(partition.applied().0),
                Err(error) => fail("store", error.to_string()),
            })
            .collect()
    }

    /// Brings partitions to the end of the log, and the model to the end of what is kept.
    fn replay(
        &mut self,
        found: &[Owned],
        kept: &Kept,
    ) -> Result<(Vec<Partition>, Vec<Place>), Failure> {
        let (mut partitions, mut places) = (Vec::new(), Vec::new());
        for number in 0..self.partitions {
            let mut partition = match Partition::open(PartitionId(number as u16), &self.store) {
                Ok(partition) => partition,
                Err(error) => return fail("store", error.to_string()),
            };
            let mut entries: Vec<Owned> = found
                .iter()
                .filter(|one| one.partition == number)
                .cloned()
                .collect();
            let skips = self.io.is_sabotaged(Sabotage::SkipEntry) && self.io.rng.percent(20);
            if skips && let Some(last) = entries.last_mut() {
                last.commands.clear();
            }
            apply_all(&mut self.io.rng, &mut partition, &mut self.store, &entries)?;
            let mut model = ModelPartition::new();
            for entry in &self.history.partitions[number][..kept.last[number] as usize] {
                model.apply(&entry.commands, entry.wall_ms);
            }
            partitions.push(partition);
            places.push(Place {
                model,
                pending: VecDeque::new(),
                numbers: BTreeMap::new(),
                controls: VecDeque::new(),
            });
        }
        if !found.is_empty() {
            self.io.note("entries replayed");
        }
        Ok((partitions, places))
    }

    /// Makes the workers, which share what filters are taken.
    fn make_workers(&mut self, partitions: Vec<Partition>, log: &LogThread) {
        let filters = SharedFilters::default();
        let count = self.workers.len();
        let mut owned: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for (number, partition) in partitions.into_iter().enumerate() {
            let next = log.writer.next_index(partition.id());
            owned[number % count].push((partition, Index(next)));
        }
        for (number, owned) in owned.into_iter().enumerate() {
            let machine = Machine::new(Setup {
                worker: number as u16,
                lineage: LINEAGE,
                partitions: self.partitions as u16,
                owned,
                filters: filters.clone(),
                // Whether power was lost nobody can tell.
                last_stop: match self.io.is_sabotaged(Sabotage::NotRaised) {
                    true => LastStop::Clean,
                    false => LastStop::Unclean,
                },
                entry_bytes_max: self.settings.command_bytes_max,
                wall_ms: self.io.wall_ms,
            });
            self.workers[number] = Worker::driving(machine);
        }
    }

    /// Writes once more what is not known to be synced, because a sync that failed leaves pages that count as clean, and
    /// syncs all files and the directory. Nothing if that broke.
    fn make_durable(&mut self, recovered: &Recovered) -> Option<()> {
        let trusts_pages = self.io.is_sabotaged(Sabotage::PagesTrusted);
        for (file, part) in recovered.unproven().filter(|_| !trusts_pages) {
            let bytes = &self.io.disk.read(file)[part.start as usize..part.end as usize];
            let bytes = bytes.to_vec();
            let mut at = 0;
            while at < bytes.len() {
                let offset = part.start + at as u32;
                at += self.io.write(file, offset, &bytes[at..]).ok()?;
                if self.breaks() {
                    return None;
                }
            }
        }
        let files = self.io.disk.names();
        for file in files {
            let covered = self.io.disk.begin_sync(file);
            self.io.end_syncs(&[covered]).ok()?;
            if self.breaks() {
                return None;
            }
        }
        if !self.io.is_sabotaged(Sabotage::DirectoryNotSynced) {
            self.io.disk.sync_directory();
        }
        (!self.breaks()).then_some(())
    }
}

/// Applies entries in batches of the seed's choice.
pub(super) fn apply_all(
    rng: &mut crate::rng::Rng,
    partition: &mut Partition,
    store: &mut MemoryStore,
    entries: &[Owned],
) -> Result<(), Failure> {
    let mut rest = entries;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.within(1..rest.len().min(6) + 1));
        rest = later;
        let batch: Vec<_> = now
            .iter()
            .map(|one| Entry {
                partition: PartitionId(one.partition as u16),
                index: Index(one.index),
                wall_ms: one.wall_ms,
                commands: &one.commands,
            })
            .collect();
        let applied = match partition.apply(&batch, store) {
            Ok(applied) => applied,
            Err(error) => return fail("apply", error.to_string()),
        };
        if let Err(error) = store.write(&applied.batch) {
            return fail("store", error.to_string());
        }
    }
    Ok(())
}
