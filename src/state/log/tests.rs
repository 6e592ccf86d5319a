//! A log on a disk of vectors, and a model of what was written and synced.
//!
//! [`World`] drives a writer as the log thread will, and notes every step, so that a test can crash at each byte of
//! them.
//! [`check_crash`] is what must hold after each.

mod caps;
mod damage;
mod format;
mod indexes;
mod segments;
mod torn;

use super::*;
use std::collections::BTreeMap;

const SECRET: [u8; 16] = *b"sixteen of them!";

/// Small enough that a few records fill a segment.
const SMALL: Settings = Settings {
    first_segment_bytes: RECORDS_OFFSET + 400,
    segment_bytes: RECORDS_OFFSET + 600,
    command_bytes_max: 200,
    record_bytes_max: 304,
    append_bytes_max: 700,
};

/// splitmix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// An entry that owns its command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    partition: PartitionId,
    index: u64,
    wall_ms: u64,
    command: Vec<u8>,
}

impl Owned {
    fn as_entry(&self) -> Entry<'_> {
        Entry {
            partition: self.partition,
            index: Index(self.index),
            wall_ms: self.wall_ms,
            commands: &self.command,
        }
    }

    fn of(entry: Entry<'_>) -> Owned {
        Owned {
            partition: entry.partition,
            index: entry.index.0,
            wall_ms: entry.wall_ms,
            command: entry.commands.to_vec(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Disk(BTreeMap<FileId, Vec<u8>>);

impl Disk {
    fn write(&mut self, file: FileId, offset: u32, bytes: &[u8]) {
        let content = self.0.get_mut(&file).expect("the file was created");
        content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn starts(&self) -> Vec<FileStart> {
        let start = |(file, content): (&FileId, &Vec<u8>)| {
            let mut head = [0; SEGMENT_HEAD_BYTES];
            let length = content.len().min(SEGMENT_HEAD_BYTES);
            head[..length].copy_from_slice(&content[..length]);
            FileStart {
                file: *file,
                bytes: content.len() as u64,
                head,
            }
        };
        self.0.iter().map(start).collect()
    }
}

/// What a store flushed.
#[derive(Clone, Debug, Default)]
struct Store {
    remembered: Remembered,
    applied: BTreeMap<PartitionId, u64>,
}

impl Store {
    fn has(&self, entry: &Owned) -> bool {
        let applied = self.applied.get(&entry.partition);
        applied.is_some_and(|applied| *applied >= entry.index)
    }

    fn applied(&self) -> Vec<(PartitionId, u64)> {
        self.applied
            .iter()
            .map(|(&of, &index)| (of, index))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(FileId, u32),
    Write(FileId, u32, Vec<u8>),
    /// All before is durable; so many entries of the model are acknowledged.
    Sync(usize),
    /// What was written to this file before is durable.
    SyncFile(FileId),
    Flush(Store),
}

/// A running log, and everything that happened since it started.
struct World {
    writer: Writer,
    /// What a process sees, whether synced or not.
    cache: Disk,
    /// What there was at the start.
    base: Disk,
    base_store: Store,
    store: Store,
    steps: Vec<Step>,
    /// Every entry that lives.
    model: Vec<Owned>,
    acknowledged: usize,
    base_acknowledged: usize,
    writes: Writes,
}

/// Reads the log on a disk.
fn recover(disk: &Disk, store: &Store) -> Result<(Recovered, Vec<Owned>), RecoveryError> {
    recover_with(&Secret::new(&SECRET), disk, store)
}

fn recover_with(
    secret: &Secret,
    disk: &Disk,
    store: &Store,
) -> Result<(Recovered, Vec<Owned>), RecoveryError> {
    let mut recovery = Recovery::new(secret.clone(), store.remembered, &disk.starts())?;
    let mut entries = Vec::new();
    while let Some(file) = recovery.wanted() {
        let mut number = None;
        while let Some(record) = recovery.next(&disk.0[&file])? {
            assert!(number.is_none_or(|number| number + 1 == record.number));
            number = Some(record.number);
            entries.extend(record.entries().map(Owned::of));
        }
    }
    Ok((recovery.finish()?, entries))
}

fn entry_of(partition: u16, index: u64, command: &[u8]) -> Owned {
    Owned {
        partition: PartitionId(partition),
        index,
        wall_ms: 1_700_000_000_000 + index,
        command: command.to_vec(),
    }
}

impl World {
    fn new(settings: Settings) -> World {
        World::start(&Disk::default(), &Store::default(), &[], settings)
            .expect("an empty directory")
    }

    /// Starts on what a crash left. `model` is every entry that was written; those that did not come back are dropped.
    fn start(
        disk: &Disk,
        store: &Store,
        model: &[Owned],
        settings: Settings,
    ) -> Result<World, RecoveryError> {
        let mut world = World::open(disk, store, model, settings)?;
        world.prepare();
        world
            .writer
            .start(&mut world.writes)
            .expect("a segment is prepared");
        world.note_writes();
        world.sync();
        Ok(world)
    }

    /// Like `start`, without the start record.
    fn open(
        disk: &Disk,
        store: &Store,
        model: &[Owned],
        settings: Settings,
    ) -> Result<World, RecoveryError> {
        let (recovered, entries) = recover(disk, store)?;
        let kept = end_in_model(&entries, model, store);
        let writer = Writer::new(recovered, &store.applied(), settings)?;
        Ok(World {
            writer,
            cache: disk.clone(),
            base: disk.clone(),
            base_store: store.clone(),
            store: store.clone(),
            steps: Vec::new(),
            model: model[..kept].to_vec(),
            acknowledged: 0,
            base_acknowledged: 0,
            writes: Writes::default(),
        })
    }

    /// From now on a crash is one behind this point.
    fn rebase(&mut self) {
        self.sync();
        self.base = self.cache.clone();
        self.base_store = self.store.clone();
        self.base_acknowledged = self.acknowledged;
        self.steps.clear();
    }

    fn prepare(&mut self) {
        while let Some(prepare) = self.writer.prepare() {
            if prepare.fill == Fill::Zeros {
                let zeros = vec![0; prepare.bytes as usize];
                self.cache.0.insert(prepare.file, zeros);
                self.steps.push(Step::Create(prepare.file, prepare.bytes));
            }
            self.cache.write(prepare.file, 0, &prepare.head);
            let write = Step::Write(prepare.file, 0, prepare.head.to_vec());
            self.steps.push(write);
            self.steps.push(Step::SyncFile(prepare.file));
            self.writer.handle_prepared(prepare.segment);
        }
    }

    fn note_writes(&mut self) {
        for write in self.writes.iter() {
            self.cache.write(write.file, write.offset, write.bytes);
            let step = Step::Write(write.file, write.offset, write.bytes.to_vec());
            self.steps.push(step);
        }
    }

    fn sync(&mut self) {
        let written = self.writer.written();
        self.writer.handle_synced(written).expect("it did not fail");
        self.acknowledged = self.model.len();
        self.steps.push(Step::Sync(self.acknowledged));
    }

    /// Appends entries; each is in the model once it may be found.
    fn append(&mut self, entries: &[Owned]) {
        let mut rest = entries;
        while !rest.is_empty() {
            self.prepare();
            let offered: Vec<_> = rest.iter().map(Owned::as_entry).collect();
            let taken = self
                .writer
                .append(&offered, &mut self.writes)
                .expect("a prepared segment");
            self.model.extend_from_slice(&rest[..taken]);
            self.note_writes();
            rest = &rest[taken..];
        }
    }

    fn mark(&mut self) {
        self.prepare();
        self.writer
            .mark(&mut self.writes)
            .expect("a prepared segment");
        self.note_writes();
    }

    /// A store that has applied the first `count` entries of the model flushes.
    fn flush(&mut self, count: usize) {
        for entry in &self.model[..count] {
            self.store.applied.insert(entry.partition, entry.index);
        }
        let applied = |partition| self.store.applied.get(&partition).copied().unwrap_or(0);
        self.store.remembered = self.writer.remember(applied);
        self.steps.push(Step::Flush(self.store.clone()));
        self.writer.handle_flushed(self.store.remembered);
    }

    /// Entries of random partitions and lengths, with the indexes that come next.
    fn random_entries(&mut self, random: &mut Random, most: u64) -> Vec<Owned> {
        let mut next = BTreeMap::new();
        let count = 1 + random.below(most);
        let one = |_| {
            let partition = PartitionId(random.below(3) as u16);
            let index = next
                .entry(partition)
                .or_insert(self.writer.next_index(partition));
            let length = match random.below(8) {
                0 => random.below(SMALL.command_bytes_max as u64 + 1),
                _ => random.below(40),
            };
            let mut command = vec![0; length as usize];
            command.fill_with(|| random.next() as u8);
            let entry = Owned {
                partition,
                index: *index,
                wall_ms: random.next(),
                command,
            };
            *index += 1;
            entry
        };
        (0..count).map(one).collect()
    }

    /// A while of random work.
    fn work(&mut self, random: &mut Random, turns: u64) {
        for _ in 0..turns {
            let entries = self.random_entries(random, 4);
            self.append(&entries);
            if random.below(3) > 0 {
                self.sync();
            }
            if random.below(5) == 0 {
                let applied = random.below(self.acknowledged as u64 + 1) as usize;
                // Not less than before.
                let before = self.flushed_entries();
                self.flush(applied.max(before));
            }
            if random.below(9) == 0 {
                self.mark();
            }
        }
    }

    /// How many entries of the model the store has.
    fn flushed_entries(&self) -> usize {
        self.model
            .iter()
            .take_while(|entry| self.store.has(entry))
            .count()
    }

    /// Calls `look` with the disk and the store as each crash would leave them, torn at every byte of every write.
    fn tear(&self, mut look: impl FnMut(&Disk, &Store, usize)) {
        let mut disk = self.base.clone();
        let mut store = self.base_store.clone();
        let mut acknowledged = self.base_acknowledged;
        look(&disk, &store, acknowledged);
        for step in &self.steps {
            match step {
                Step::Create(file, bytes) => {
                    for shorter in [0, 63, 64, *bytes / 2, *bytes] {
                        disk.0.insert(*file, vec![0; shorter as usize]);
                        look(&disk, &store, acknowledged);
                    }
                }
                Step::Write(file, offset, bytes) => {
                    for (offset, byte) in (*offset..).zip(bytes) {
                        disk.write(*file, offset, &[*byte]);
                        look(&disk, &store, acknowledged);
                    }
                }
                Step::Sync(all) => acknowledged = *all,
                Step::SyncFile(_) => {}
                Step::Flush(flushed) => store = flushed.clone(),
            }
        }
        assert!(disk == self.cache, "a step is missing");
    }

    /// The disk and the store after a crash at a random step, at which each 512 bytes that were not synced are as one
    /// of the writes to them left them, or as they were before.
    fn lose_sectors(&self, random: &mut Random) -> (Disk, Store, usize) {
        const SECTOR: usize = 512;
        let end = random.below(self.steps.len() as u64 + 1) as usize;
        let mut cache = self.base.clone();
        let mut disk = self.base.clone();
        let mut store = self.base_store.clone();
        let mut acknowledged = self.base_acknowledged;
        for step in &self.steps[..end] {
            match step {
                // A segment is whole before its header is written, so that much is durable.
                Step::Create(file, bytes) => {
                    cache.0.insert(*file, vec![0; *bytes as usize]);
                    disk.0.insert(*file, vec![0; *bytes as usize]);
                }
                Step::Write(file, offset, bytes) => {
                    cache.write(*file, *offset, bytes);
                    let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                    for sector in from / SECTOR..to.div_ceil(SECTOR) {
                        let from = sector * SECTOR;
                        let to = (from + SECTOR).min(cache.0[file].len());
                        if random.below(2) == 0 {
                            disk.write(*file, from as u32, &cache.0[file][from..to]);
                        }
                    }
                }
                Step::Sync(all) => {
                    disk = cache.clone();
                    acknowledged = *all;
                }
                Step::SyncFile(file) => {
                    disk.0.insert(*file, cache.0[file].clone());
                }
                Step::Flush(flushed) => store = flushed.clone(),
            }
        }
        (disk, store, acknowledged)
    }
}

/// How much of the model is there, given what was recovered, which must be a piece of it.
fn end_in_model(entries: &[Owned], model: &[Owned], store: &Store) -> usize {
    let Some(first) = entries.first() else {
        return model.iter().take_while(|entry| store.has(entry)).count();
    };
    let is_first = |one: &&Owned| one.partition == first.partition && one.index == first.index;
    let begin = model.iter().take_while(|one| !is_first(one)).count();
    let end = begin + entries.len();
    assert!(
        model.get(begin..end) == Some(entries),
        "{} entries from {begin} of {} on are not those that were written",
        entries.len(),
        model.len()
    );
    let lacks = &model[..begin];
    assert!(
        lacks.iter().all(|entry| store.has(entry)),
        "the log begins behind the store"
    );
    end
}

/// What must hold after any crash: the log is not refused; what it holds was written, once, in this order, without a
/// hole; nothing acknowledged is missing; what the log has not, the store has. Returns how many entries are there.
fn check_crash(disk: &Disk, store: &Store, model: &[Owned], acknowledged: usize) -> usize {
    let (recovered, entries) = match recover(disk, store) {
        Ok(recovered) => recovered,
        Err(error) => panic!("refused: {error}"),
    };
    let end = end_in_model(&entries, model, store);
    assert!(
        end >= acknowledged,
        "{end} entries are there, {acknowledged} were acknowledged"
    );
    assert!(recovered.proven() <= recovered.end());
    end
}
