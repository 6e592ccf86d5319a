//! What the store promises, by stores in directories of their own.
//!
//! A crash is the kill of a child process, or a copy of the files while the store is open: what was not flushed is in
//! neither.

mod crashes;
mod rows;
mod space;
mod streams;
mod trouble;

use super::*;
use sapwood_state::store::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sapwood-store-{}-{number}", std::process::id());
        // In memory where that is possible: these tests flush thousands of times.
        let memory = PathBuf::from("/dev/shm");
        let place = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let path = place.join(name);
        // Of a process that had the same id.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn open(&self) -> RocksStore {
        RocksStore::open(&self.0.join("store")).unwrap()
    }

    /// The files as a crash of the machine's power would find them, had all been synced that was written to files.
    fn crash_image(&self) -> Directory {
        let image = Directory::new();
        let (from, to) = (self.0.join("store"), image.0.join("store"));
        // Ends: compactions do. While none ends the manifest stays the same, and no file that it names is deleted.
        loop {
            let before = manifest(&from);
            let _ = std::fs::remove_dir_all(&to);
            std::fs::create_dir(&to).unwrap();
            for entry in std::fs::read_dir(&from).unwrap() {
                let entry = entry.unwrap();
                let copied = std::fs::copy(entry.path(), to.join(entry.file_name()));
                // Old files may be deleted meanwhile.
                assert!(copied.is_ok() || !entry.path().exists(), "{copied:?}");
            }
            if manifest(&from) == before {
                return image;
            }
        }
    }
}

/// What names the files of a store.
fn manifest(directory: &Path) -> Vec<u8> {
    let current = std::fs::read_to_string(directory.join("CURRENT")).unwrap();
    std::fs::read(directory.join(current.trim())).unwrap()
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Bytes that no compression shortens.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

fn put(family: Family, key: &[u8], value: &[u8]) -> Write {
    Write {
        family,
        key: key.to_vec(),
        value: Some(value.to_vec()),
    }
}

type Row = (Family, Vec<u8>, Vec<u8>);

fn rows_of(
    store: &impl Store,
    family: Family,
    from: &[u8],
    to: &[u8],
    direction: Direction,
    limit: usize,
) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        rows.push((family, key.to_vec(), value.to_vec()));
        match rows.len() >= limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    store
        .range(family, from, to, direction, &mut visit)
        .unwrap();
    rows
}

/// Compacts everything; what is not flushed is flushed by that.
fn compact_all(store: &RocksStore) {
    compact(store, &Family::ALL);
}

/// Compacts these families, as RocksDB may at any time. Flushes only where one of them has rows that are not flushed.
fn compact(store: &RocksStore, families: &[Family]) {
    for family in families {
        let family = store.shared.family(*family);
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        // Without bounds it would flush whatever there is.
        let (from, to) = (Some([0; 1]), Some([255; 8]));
        let db = &store.shared.db;
        db.compact_range_cf_opt(family, from, to, &options);
    }
}
