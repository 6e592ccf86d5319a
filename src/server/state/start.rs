//! A start: recovery of the log, replay into the store, and what makes all of it durable before anything new is taken.
//!
//! Owns the order of these steps. Must not know clients. Invariants: what was replayed is told to nobody before
//! everything is synced; a start that was killed anywhere leaves a directory from which the next one comes up. Start at
//! [`open`].

use super::directory::DataDirectory;
use super::files::{Files, OpenFile, read_all, write_all};
use super::limits::{REPLAY_BYTES, REPLAY_ENTRIES};
use super::log::{LogSettings, OpenLog, prepare_segment};
use super::{DurableStore, OpenError, remembered};
use sapwood_state::limits::SEGMENT_BYTES_MAX;
use sapwood_state::log::{
    Entry, FileId, FileStart, Flaw, Position, Recovered, Recovery, RecoveryError,
    SEGMENT_HEAD_BYTES, Writer, WriterError, Writes,
};
use sapwood_state::partition::Partition;
use sapwood_wire::state::{Index, PartitionId};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a start found, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartReport {
    /// Entries that the store did not have.
    pub replayed: u64,
    /// Bytes of their commands.
    pub replayed_bytes: u64,
    /// How long reading and applying took.
    pub took: Duration,
    /// What ended the log where something behind it was cut off: a write that was under way, and was acknowledged to
    /// nobody.
    pub cut: Option<(Position, Flaw)>,
    /// Records behind that which were whole.
    pub dead_records: u64,
}

/// A state plane that is ready: all that it holds is durable.
#[derive(Debug)]
pub struct Opened {
    /// All partitions, by number.
    pub partitions: Vec<Partition>,
    /// The index of each one's next entry.
    pub next_indexes: Vec<Index>,
    /// What the log thread begins with.
    pub log: OpenLog,
    /// What was found.
    pub report: StartReport,
}

/// Brings a directory and its store up.
///
/// Errors say where and what to do; nothing was changed then but bytes that were written again as they were. Cost: the
/// log's live segments are read, one at a time in memory (64 MiB), and what the store had not flushed is applied.
pub fn open<S: DurableStore>(
    directory: &DataDirectory,
    store: &mut S,
    settings: LogSettings,
) -> Result<Opened, OpenError> {
    let begun = Instant::now();
    let mut start = Start::new(directory)?;
    let count = directory.partitions();
    let mut replay = Replay::new(store, count, &start.path)?;
    let in_store: Vec<_> = replay.applied();
    let recovered = start.recover(directory, &mut replay)?;
    let Replay {
        partitions,
        mut report,
        cost,
        ..
    } = replay;
    report.cut = recovered.cut().map(|flaw| (recovered.end(), flaw));
    report.dead_records = recovered.dead_records();
    report.took = begun.elapsed();
    start.make_durable(&recovered)?;
    let refused = |error| OpenError::Log {
        path: directory.log_path(),
        error,
    };
    let writer = Writer::new(recovered, &in_store, settings.sizes).map_err(refused)?;
    let applied: Vec<_> = partitions.iter().map(Partition::applied).collect();
    let of = |id: PartitionId| applied.get(usize::from(id.0)).map_or(0, |index| index.0);
    let writer = start.write_start(writer, store, of)?;
    let next = |of| Index(writer.next_index(PartitionId(of)));
    Ok(Opened {
        next_indexes: (0..count).map(next).collect(),
        report,
        log: OpenLog {
            path: start.path,
            files: start.files,
            open: start.open,
            writer,
            settings,
            applied,
            unflushed_bytes: report.replayed_bytes,
            unflushed_cost: cost,
        },
        partitions,
    })
}

/// The log's files during a start.
struct Start {
    path: PathBuf,
    files: Arc<dyn Files>,
    open: BTreeMap<FileId, Arc<dyn OpenFile>>,
    /// Sizes.
    sizes: BTreeMap<FileId, u64>,
}

/// The number of a file of the log.
fn file_of(name: &str) -> Option<FileId> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    let file = FileId(number);
    (number > 0 && file.to_string() == name).then_some(file)
}

impl Start {
    fn new(directory: &DataDirectory) -> Result<Start, OpenError> {
        let mut start = Start {
            path: directory.log_path(),
            files: directory.log_files(),
            open: BTreeMap::new(),
            sizes: BTreeMap::new(),
        };
        let listed = start.files.list();
        let listed = listed.map_err(|error| system(&start.path, "list", error))?;
        for (name, bytes) in listed {
            let Some(file) = file_of(&name) else {
                continue;
            };
            let open = start.files.open(&name);
            let open = open.map_err(|error| start.error(file, "open", error))?;
            start.open.insert(file, open);
            start.sizes.insert(file, bytes);
        }
        Ok(start)
    }

    fn error(&self, file: FileId, doing: &'static str, error: io::Error) -> OpenError {
        system(&self.path.join(file.to_string()), doing, error)
    }

    fn file(&self, file: FileId) -> &Arc<dyn OpenFile> {
        // invariant: the log names files that were listed, or prepared here.
        self.open.get(&file).expect("a file that is not open")
    }

    fn read(&self, file: FileId, offset: u32, bytes: &mut [u8]) -> Result<usize, OpenError> {
        let read = read_all(&**self.file(file), u64::from(offset), bytes);
        read.map_err(|error| self.error(file, "read", error))
    }

    /// Reads the log from where the store needs it, and applies what the store lacks.
    fn recover<S: DurableStore>(
        &self,
        directory: &DataDirectory,
        replay: &mut Replay<'_, S>,
    ) -> Result<Recovered, OpenError> {
        let mut starts = Vec::new();
        for (&file, &bytes) in &self.sizes {
            let mut head = [0; SEGMENT_HEAD_BYTES];
            self.read(file, 0, &mut head)?;
            starts.push(FileStart { file, bytes, head });
        }
        let path = self.path.clone();
        let refused = |error| OpenError::Log {
            path: path.clone(),
            error,
        };
        let known = remembered::read(&*replay.store)?;
        let mut recovery = Recovery::new(directory.secret(), known, &starts).map_err(refused)?;
        let mut bytes = Vec::new();
        while let Some(file) = recovery.wanted() {
            let size = self.sizes[&file].min(u64::from(SEGMENT_BYTES_MAX));
            bytes.resize(size as usize, 0);
            let count = self.read(file, 0, &mut bytes)?;
            let mut batch = Vec::new();
            let mut batch_bytes = 0;
            while let Some(record) = recovery.next(&bytes[..count]).map_err(refused)? {
                for entry in record.entries() {
                    batch_bytes += entry.commands.len();
                    batch.push(entry);
                }
                if batch.len() >= REPLAY_ENTRIES || batch_bytes >= REPLAY_BYTES {
                    replay.apply(&mut batch)?;
                    batch_bytes = 0;
                }
            }
            replay.apply(&mut batch)?;
        }
        recovery.finish().map_err(refused)
    }

    /// Makes what was found durable. A process that was killed leaves pages that are not written yet; a sync that failed
    /// leaves some that count as written, so those are written again.
    fn make_durable(&self, recovered: &Recovered) -> Result<(), OpenError> {
        let mut bytes = Vec::new();
        for (file, part) in recovered.unproven() {
            bytes.resize(part.len(), 0);
            let count = self.read(file, part.start, &mut bytes)?;
            let written = write_all(&**self.file(file), u64::from(part.start), &bytes[..count]);
            written.map_err(|error| self.error(file, "write", error))?;
        }
        for (&file, open) in &self.open {
            let synced = open.sync();
            synced.map_err(|error| self.error(file, "sync", error))?;
        }
        let synced = self.files.sync_directory();
        synced.map_err(|error| system(&self.path, "sync", error))
    }

    fn prepare(&mut self, writer: &mut Writer) -> Result<Prepared, OpenError> {
        let Some(wanted) = writer.prepare() else {
            return Ok(Prepared::No);
        };
        let open = self.open.get(&wanted.file).cloned();
        let prepared = prepare_segment(&*self.files, &wanted, open);
        let prepared = prepared.map_err(|error| self.error(wanted.file, "prepare", error))?;
        self.open.insert(wanted.file, prepared);
        writer.handle_prepared(wanted.segment);
        Ok(Prepared::Yes)
    }

    /// Writes the record with which a start begins, and makes it durable.
    fn write_start<S: DurableStore>(
        &mut self,
        mut writer: Writer,
        store: &mut S,
        applied: impl Fn(PartitionId) -> u64,
    ) -> Result<Writer, OpenError> {
        let mut writes = Writes::default();
        let mut begun = writer.start(&mut writes);
        if begun == Err(WriterError::NoSegment) {
            // The log has no segment yet, or its last is full.
            if self.prepare(&mut writer)? == Prepared::No {
                // All files are full of what the store has not flushed.
                let remembered = writer.remember(applied);
                store.write(&remembered::batch(remembered))?;
                store.flush()?;
                writer.handle_flushed(remembered);
                self.prepare(&mut writer)?;
            }
            begun = writer.start(&mut writes);
        }
        begun.map_err(|error| system(&self.path, "begin", io::Error::other(error)))?;
        for write in writes.iter() {
            let offset = u64::from(write.offset);
            let written = write_all(&**self.file(write.file), offset, write.bytes);
            written.map_err(|error| self.error(write.file, "write", error))?;
        }
        for file in writer.unsynced_files() {
            let synced = self.file(file).sync();
            synced.map_err(|error| self.error(file, "sync", error))?;
        }
        let synced = writer.handle_synced(writer.written());
        assert!(synced.is_ok(), "{synced:?}");
        Ok(writer)
    }
}

/// Whether a segment was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepared {
    Yes,
    No,
}

fn system(path: &Path, doing: &'static str, error: io::Error) -> OpenError {
    let path = path.to_path_buf();
    OpenError::System { path, doing, error }
}

/// Applies entries to partitions.
struct Replay<'s, S> {
    store: &'s mut S,
    partitions: Vec<Partition>,
    path: &'s Path,
    report: StartReport,
    cost: Duration,
}

impl<'s, S: DurableStore> Replay<'s, S> {
    fn new(store: &'s mut S, count: u16, path: &'s Path) -> Result<Replay<'s, S>, OpenError> {
        let open = |of| Partition::open(PartitionId(of), &*store);
        let partitions = (0..count).map(open).collect::<Result<_, _>>()?;
        Ok(Replay {
            store,
            partitions,
            path,
            report: StartReport::default(),
            cost: Duration::ZERO,
        })
    }

    fn applied(&self) -> Vec<(PartitionId, u64)> {
        let of = |partition: &Partition| (partition.id(), partition.applied().0);
        self.partitions.iter().map(of).collect()
    }

    /// Applies entries, and empties the list.
    fn apply(&mut self, entries: &mut Vec<Entry<'_>>) -> Result<(), OpenError> {
        let begun = Instant::now();
        // Stable: those of a partition keep their order.
        entries.sort_by_key(|entry| entry.partition);
        for of_one in entries.chunk_by(|one, next| one.partition == next.partition) {
            self.apply_to_one(of_one[0].partition, of_one)?;
        }
        entries.clear();
        self.cost += begun.elapsed();
        Ok(())
    }

    fn apply_to_one(&mut self, id: PartitionId, entries: &[Entry<'_>]) -> Result<(), OpenError> {
        let Some(partition) = self.partitions.get_mut(usize::from(id.0)) else {
            return Err(OpenError::ForeignPartition {
                path: self.path.to_path_buf(),
                partition: id,
            });
        };
        let applied = partition.applied();
        let known = entries.partition_point(|entry| entry.index <= applied);
        let entries = &entries[known..];
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if first.index.0 != applied.0 + 1 {
            return Err(OpenError::Log {
                path: self.path.to_path_buf(),
                error: RecoveryError::Gap {
                    partition: id,
                    applied: applied.0,
                    first: first.index.0,
                },
            });
        }
        let result = partition.apply(entries, &*self.store);
        let result = result.map_err(|error| OpenError::Apply(id, error))?;
        self.store.write(&result.batch)?;
        let bytes = entries.iter().map(|entry| entry.commands.len() as u64);
        self.report.replayed += entries.len() as u64;
        self.report.replayed_bytes += bytes.sum::<u64>();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
