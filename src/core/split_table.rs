//! A hash table in many parts, so that none of them takes long to grow or to shrink.
//!
//! One table of a million entries moves all of them when it doubles, which stops a shard for 100 ms. The parts grow one
//! by one, and each moves some thousand. Invariant: an entry stands in the part that its hash names.

use hashbrown::HashTable;

/// Parts of a table: a million entries are 4,096 in each.
const PARTS: usize = 256;

/// A part is sparse when it holds less than one entry for this many places.
const SPARSE_PART: usize = 32;

/// A hash table of entries whose hashes the caller knows. An empty one costs 8 KiB.
#[derive(Debug)]
pub(crate) struct SplitTable<T> {
    parts: Box<[HashTable<T>]>,
}

impl<T> SplitTable<T> {
    pub(crate) fn new() -> SplitTable<T> {
        SplitTable {
            parts: (0..PARTS).map(|_| HashTable::new()).collect(),
        }
    }

    /// The part, by bits that the parts themselves make no use of.
    fn place(hash: u64) -> usize {
        (hash >> 40) as usize % PARTS
    }

    /// The entry with this hash that `is_it` recognizes.
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.parts[SplitTable::<T>::place(hash)].find(hash, is_it)
    }

    /// The same, to be changed; its hash must stay.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.parts[SplitTable::<T>::place(hash)].find_mut(hash, is_it)
    }

    /// Inserts an entry that is not there. `rehash` gives an entry's hash.
    pub(crate) fn insert_unique(&mut self, hash: u64, entry: T, rehash: impl Fn(&T) -> u64) {
        let place = SplitTable::<T>::place(hash);
        let part = &mut self.parts[place];
        let capacity = part.capacity();
        // Parts fill evenly, so that they would all be full within a few thousand entries: each has its own time to grow.
        let early = capacity / 4 * place / PARTS;
        if part.len() + early >= capacity {
            part.reserve(capacity + 1 - part.len(), &rehash);
        }
        part.insert_unique(hash, entry, rehash);
    }

    /// Removes an entry, if it is there. `rehash` gives an entry's hash.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        rehash: impl Fn(&T) -> u64,
    ) {
        let part = &mut self.parts[SplitTable::<T>::place(hash)];
        if let Ok(found) = part.find_entry(hash, is_it) {
            found.remove();
        }
        if part.is_empty() {
            *part = HashTable::new();
        } else if part.allocation_size() / (size_of::<T>() + 1) > SPARSE_PART * part.len() {
            part.shrink_to(2 * part.len(), rehash);
        }
    }

    /// Bytes of the parts' tables.
    #[cfg(test)]
    pub(crate) fn allocation_size(&self) -> usize {
        self.parts.iter().map(HashTable::allocation_size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foldhash::fast::FixedState;
    use std::hash::BuildHasher;

    #[test]
    fn parts_of_a_growing_table_do_not_move_their_entries_at_the_same_time() {
        let hasher = FixedState::with_seed(7);
        let hash = |number: &u32| hasher.hash_one(number);
        let mut table = SplitTable::new();
        let (mut moved, mut worst) = (0, 0);
        for number in 0..1_000_000 {
            let part = &table.parts[SplitTable::<u32>::place(hash(&number))];
            let (length, capacity) = (part.len(), part.capacity());
            table.insert_unique(hash(&number), number, hash);
            let part = &table.parts[SplitTable::<u32>::place(hash(&number))];
            if part.capacity() != capacity {
                moved += length;
            }
            if number % 1_024 == 0 {
                worst = worst.max(std::mem::take(&mut moved));
            }
        }
        // 180,000 if all grow when they are full.
        assert!(worst < 16_000, "{worst} entries moved with 1,024 that came");
        let is_there = |number: &u32| table.find(hash(number), |other| other == number).is_some();
        assert!((0..1_000_000).all(|number| is_there(&number)));
        assert!(!is_there(&1_000_000));
    }
}
