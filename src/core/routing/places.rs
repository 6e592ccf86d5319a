//! A connection's subscriptions, in an order of their own.
//!
//! A few are found in one small table, very many in one of many parts: a single table of a million moves all of them when
//! it doubles, which stops a shard for tens of milliseconds. Must not know filters or members. Invariants: `index` has
//! the place in `entries` of each of them; the order depends on the history alone. Start at [`Places`].

use crate::command::FilterId;
use crate::paged_slab::is_sparse;
use crate::split_table::SplitTable;
use core::hash::BuildHasher;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Key of a subscription within its connection: the filter, and the client's number for it.
pub(super) type Key = (FilterId, u32);

/// Subscriptions from which on the index is one of many parts: moving so many takes some tens of microseconds.
const LARGE: usize = 8 * 1024;

/// The index is a small one again when there are fewer than this.
const SMALL: usize = 2 * 1024;

/// Subscriptions, each with its index among the filter's members: in the order of subscribing, except that a removed one
/// is replaced by the last.
#[derive(Debug, Default)]
pub(super) struct Places {
    entries: Vec<(Key, u32)>,
    index: Index,
}

/// Places in `entries`, by the key's hash.
#[derive(Debug)]
enum Index {
    Small(HashTable<u32>),
    Large(SplitTable<u32>),
}

impl Default for Index {
    fn default() -> Index {
        Index::Small(HashTable::new())
    }
}

fn hash_of(key: Key) -> u64 {
    FixedState::default().hash_one(key)
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.find(key).is_some()
    }

    /// The keys from this place on.
    pub(super) fn keys_from(&self, place: usize) -> impl DoubleEndedIterator<Item = Key> {
        let entries = self.entries.get(place..).unwrap_or_default();
        entries.iter().map(|&(key, _)| key)
    }

    /// Sets a subscription's index among the members of its filter; adds it if it is new.
    pub(super) fn set(&mut self, key: Key, member_at: u32) {
        if let Some(place) = self.find(key) {
            self.entries[place].1 = member_at;
            return;
        }
        let place = self.entries.len() as u32;
        self.entries.push((key, member_at));
        if self.entries.len() == LARGE {
            self.build_large();
        } else {
            self.add_to_index(place);
        }
    }

    /// Removes the last one; gives it with its index among the members.
    pub(super) fn pop(&mut self) -> Option<(Key, u32)> {
        let &(key, member_at) = self.entries.last()?;
        self.remove(key);
        Some((key, member_at))
    }

    /// Removes one, whose place the last takes; gives its index among the members.
    pub(super) fn remove(&mut self, key: Key) -> Option<u32> {
        let place = self.find(key)?;
        let entries = &self.entries;
        let rehash = |&place: &u32| hash_of(entries[place as usize].0);
        let hash = hash_of(key);
        match &mut self.index {
            Index::Small(table) => {
                if let Ok(found) = table.find_entry(hash, |&found| found as usize == place) {
                    found.remove();
                }
            }
            Index::Large(table) => table.remove(hash, |&found| found as usize == place, rehash),
        }
        let last = self.entries.len() - 1;
        if place < last {
            self.point_at(self.entries[last].0, last as u32, place as u32);
        }
        let (_, member_at) = self.entries.swap_remove(place);
        self.shrink_if_sparse();
        Some(member_at)
    }

    fn find(&self, key: Key) -> Option<usize> {
        let is_it = |&place: &u32| self.entries[place as usize].0 == key;
        let found = match &self.index {
            Index::Small(table) => table.find(hash_of(key), is_it),
            Index::Large(table) => table.find(hash_of(key), is_it),
        };
        found.map(|&place| place as usize)
    }

    fn add_to_index(&mut self, place: u32) {
        let entries = &self.entries;
        let rehash = |&place: &u32| hash_of(entries[place as usize].0);
        let hash = rehash(&place);
        match &mut self.index {
            Index::Small(table) => {
                table.insert_unique(hash, place, rehash);
            }
            Index::Large(table) => table.insert_unique(hash, place, rehash),
        }
    }

    /// Notes that an entry moves from one place to another.
    fn point_at(&mut self, key: Key, from: u32, to: u32) {
        let hash = hash_of(key);
        let found = match &mut self.index {
            Index::Small(table) => table.find_mut(hash, |&place| place == from),
            Index::Large(table) => table.find_mut(hash, |&place| place == from),
        };
        // invariant: each entry is in the index.
        *found.expect("an entry without a place") = to;
    }

    fn build_large(&mut self) {
        self.index = Index::Large(SplitTable::new());
        (0..self.entries.len() as u32).for_each(|place| self.add_to_index(place));
    }

    fn shrink_if_sparse(&mut self) {
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        if len < SMALL && matches!(self.index, Index::Large(_)) {
            self.index = Index::default();
            (0..len as u32).for_each(|place| self.add_to_index(place));
        }
        if is_sparse(len, capacity) {
            self.entries.shrink_to(2 * len);
            let entries = &self.entries;
            if let Index::Small(table) = &mut self.index {
                table.shrink_to(2 * len, |&place| hash_of(entries[place as usize].0));
            }
        }
    }

    /// Number of entries that there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indexmap::IndexMap;
    use proptest::prelude::*;

    fn key(number: u32) -> Key {
        (FilterId(number / 3), number % 3)
    }

    /// The same steps on both: what is there, in which order, and what each step gives.
    fn check(steps: impl Iterator<Item = (u8, u32)>) {
        let (mut places, mut model) = (Places::default(), IndexMap::new());
        for (step, number) in steps {
            match step {
                0..=3 => {
                    places.set(key(number), number);
                    model.insert(key(number), number);
                }
                4 => assert_eq!(places.pop(), model.pop()),
                5 => assert_eq!(places.remove(key(number)), model.swap_remove(&key(number))),
                _ => assert_eq!(places.has(key(number)), model.contains_key(&key(number))),
            }
            assert_eq!(places.len(), model.len());
        }
        assert!(places.keys_from(0).eq(model.keys().copied()));
        let after = model.keys().copied().skip(3);
        assert!(places.keys_from(3).eq(after));
        assert_eq!(places.keys_from(model.len() + 1).count(), 0);
    }

    proptest! {
        #[test]
        fn few_places_are_kept_as_a_map_keeps_them(
            steps in prop::collection::vec((0..8_u8, 0..60_u32), 0..300),
        ) {
            check(steps.into_iter());
        }
    }

    #[test]
    fn very_many_places_are_kept_as_a_map_keeps_them() {
        let most = LARGE as u32 + 500;
        let come = (0..most).map(|number| (0, number));
        let mixed = (0..most).map(|number| (number as u8 % 7, number * 7_919 % (most + 100)));
        let go = (0..most).rev().map(|number| (5, number * 31 % most));
        check(come.clone().chain(mixed.clone()));
        check(come.clone().chain(mixed).chain(go));
        check(come.chain((0..most - 1).map(|_| (4, 0))));
    }

    #[test]
    fn memory_goes_with_what_goes() {
        let mut places = Places::default();
        (0..20_000).for_each(|number| places.set(key(number), 0));
        let full = places.capacity();
        for number in 10..20_000 {
            assert_eq!(places.remove(key(number)), Some(0));
        }
        assert!(places.capacity() < full / 8);
        assert!(matches!(&places.index, Index::Small(table) if table.capacity() < 1_000));
    }
}
