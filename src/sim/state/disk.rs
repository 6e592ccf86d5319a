//! A disk under the log: what a process sees, and what a power cut leaves.
//!
//! Owns files and the directory. What was written and not synced may be there after a power cut in any mixture of
//! sectors, or torn at any byte; a name that the directory's sync did not cover may be gone. Must not know what stands in
//! files. Invariant: what a sync covered is there. Start at [`Disk::power_cut`].

use crate::rng::Rng;
use sapwood_state::log::{FileId, FileStart, SEGMENT_HEAD_BYTES};
use std::collections::BTreeMap;

const SECTOR_BYTES: usize = 512;

/// What happened to a file since its last sync.
#[derive(Clone, Debug)]
enum Change {
    Empty,
    Write(usize, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What a process reads.
    cache: Vec<u8>,
    /// What the disk has for certain.
    durable: Vec<u8>,
    /// In order; not durable yet.
    changes: Vec<Change>,
    /// The directory has its name for certain.
    is_named: bool,
}

/// How much a sync that began covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered(FileId, usize);

/// The directory of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, File>,
}

fn put(bytes: &mut Vec<u8>, offset: usize, part: &[u8]) {
    let end = offset + part.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(part);
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.cache, offset, bytes);
        self.changes.push(Change::Write(offset, bytes.to_vec()));
    }

    fn make_durable(&mut self, count: usize) {
        for change in self.changes.drain(..count) {
            match change {
                Change::Empty => self.durable.clear(),
                Change::Write(offset, bytes) => put(&mut self.durable, offset, &bytes),
            }
        }
    }

    /// Writes torn at a byte, in their order.
    fn tear(&mut self, rng: &mut Rng) {
        let whole = rng.below(self.changes.len() + 1);
        let torn = self.changes.get(whole).cloned();
        self.make_durable(whole);
        if let Some(Change::Write(offset, bytes)) = torn {
            let kept = rng.below(bytes.len() + 1);
            put(&mut self.durable, offset, &bytes[..kept]);
        }
    }

    /// Each sector as one of the writes to it left it, or as it was.
    fn mix(&mut self, rng: &mut Rng) {
        let last = |change: &Change| matches!(change, Change::Empty);
        if let Some(emptied) = self.changes.iter().rposition(last) {
            match rng.percent(50) {
                true => self.make_durable(emptied + 1),
                false => self.changes.truncate(emptied),
            }
        }
        let sectors = |offset: usize, bytes: &[u8]| {
            offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES)
        };
        let mut writes = BTreeMap::<usize, usize>::new();
        for change in &self.changes {
            if let Change::Write(offset, bytes) = change {
                for sector in sectors(*offset, bytes) {
                    *writes.entry(sector).or_default() += 1;
                }
            }
        }
        let mut kept: BTreeMap<usize, usize> = writes
            .into_iter()
            .map(|(sector, count)| (sector, rng.below(count + 1)))
            .collect();
        for change in std::mem::take(&mut self.changes) {
            let Change::Write(offset, bytes) = change else {
                continue;
            };
            for sector in sectors(offset, &bytes) {
                // invariant: each was counted.
                let left = kept.get_mut(&sector).expect("a sector");
                if *left > 0 {
                    *left -= 1;
                    let from = (sector * SECTOR_BYTES).max(offset);
                    let to = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len());
                    put(&mut self.durable, from, &bytes[from - offset..to - offset]);
                }
            }
        }
    }
}

impl Disk {
    /// Makes a file, or empties the one that is there.
    pub fn create(&mut self, file: FileId) {
        let file = self.files.entry(file).or_default();
        if !file.cache.is_empty() {
            file.cache.clear();
            file.changes.push(Change::Empty);
        }
    }

    /// Writes; a process sees it at once.
    pub fn write(&mut self, file: FileId, offset: u32, bytes: &[u8]) {
        self.file(file).write(offset as usize, bytes);
    }

    fn file(&mut self, file: FileId) -> &mut File {
        match self.files.get_mut(&file) {
            Some(file) => file,
            None => panic!("file {file} was never made"),
        }
    }

    /// Begins a sync of what was written so far.
    pub fn begin_sync(&mut self, file: FileId) -> Covered {
        Covered(file, self.file(file).changes.len())
    }

    /// All that the sync covers is durable.
    pub fn end_sync(&mut self, covered: Covered) {
        self.file(covered.0).make_durable(covered.1);
    }

    /// The sync failed: parts of what it covers are on the disk, and the system takes the others for clean from now on,
    /// though only the cache has them.
    pub fn fail_sync(&mut self, covered: Covered, rng: &mut Rng) {
        let file = self.file(covered.0);
        let later = file.changes.split_off(covered.1);
        let bytes = file.cache.len();
        file.mix(rng);
        // The length is the directory's matter, and was kept.
        if file.durable.len() < bytes {
            file.durable.resize(bytes, 0);
        }
        file.changes = later;
    }

    /// Syncs the directory.
    pub fn sync_directory(&mut self) {
        self.files
            .values_mut()
            .for_each(|file| file.is_named = true);
    }

    /// The power goes: caches are lost.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        self.files
            .retain(|_, file| file.is_named || rng.percent(50));
        let way = rng.below(4);
        for file in self.files.values_mut() {
            match way {
                0 => file.tear(rng),
                1 => {}
                _ => file.mix(rng),
            }
            file.changes.clear();
            file.cache = file.durable.clone();
            file.is_named = true;
        }
    }

    /// Turns one bit over, on the disk and in the cache.
    pub fn flip(&mut self, file: FileId, offset: usize, bit: usize) {
        let file = self.file(file);
        file.cache[offset] ^= 1 << bit;
        file.changes.clear();
        file.durable = file.cache.clone();
    }

    /// What a file holds, as a process reads it.
    pub fn read(&self, file: FileId) -> &[u8] {
        self.files.get(&file).map_or(&[], |file| &file.cache)
    }

    /// All files.
    pub fn names(&self) -> Vec<FileId> {
        self.files.keys().copied().collect()
    }

    /// What a start looks at first.
    pub fn starts(&self) -> Vec<FileStart> {
        let start = |(&file, content): (&FileId, &File)| {
            let mut head = [0; SEGMENT_HEAD_BYTES];
            let length = content.cache.len().min(SEGMENT_HEAD_BYTES);
            head[..length].copy_from_slice(&content.cache[..length]);
            FileStart {
                file,
                bytes: content.cache.len() as u64,
                head,
            }
        };
        self.files.iter().map(start).collect()
    }
}
