//! A slab in pages: values at stable keys, whose memory is freed when they are removed.
//!
//! A slab in one vector copies everything when it grows, and never shrinks below its last value. Here a page is freed
//! as soon as it is empty, except for one, so that growing and emptying never cost more than one page at a time. Must
//! not know what it holds. Invariants: a page is listed in `open` exactly if it has room and a value, or was found
//! empty since and is not the last there; an empty page is listed in `empty`, and only the last of these holds memory;
//! which key comes next depends on the history alone. Start at [`PagedSlab::insert`].

use core::ops::{Index, IndexMut};

/// Values in a page: a page of filters takes about 256 KiB, which allocators give back to the system at once.
const PAGE_VALUES: usize = 1024;

/// End of a page's list of free places.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum PageCell<T> {
    Taken(T),
    /// Free; holds the next free place of the page.
    Free(u32),
}

#[derive(Debug)]
struct Page<T> {
    places: Vec<PageCell<T>>,
    /// First of the free places that were taken before; [`NONE`] if there is none.
    free: u32,
    taken: usize,
    is_open: bool,
}

impl<T> Page<T> {
    fn next_place(&self) -> usize {
        match self.free {
            NONE => self.places.len(),
            free => free as usize,
        }
    }
}

/// Values at stable keys.
#[derive(Debug)]
pub(crate) struct PagedSlab<T> {
    pages: Vec<Page<T>>,
    /// Pages with room; the last is filled next, and is never empty.
    open: Vec<usize>,
    /// Pages without a value; the last is filled next when none is open.
    empty: Vec<usize>,
    len: usize,
}

impl<T> Default for PagedSlab<T> {
    fn default() -> PagedSlab<T> {
        PagedSlab {
            pages: Vec::new(),
            open: Vec::new(),
            empty: Vec::new(),
            len: 0,
        }
    }
}

impl<T> PagedSlab<T> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Key of the value that is inserted next.
    pub(crate) fn vacant_key(&self) -> usize {
        let next = self.open.last().or(self.empty.last());
        let page = next.copied().unwrap_or(self.pages.len());
        let place = self.pages.get(page).map_or(0, Page::next_place);
        page * PAGE_VALUES + place
    }

    /// Inserts a value at [`vacant_key`](PagedSlab::vacant_key), and gives that key.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        let key = self.vacant_key();
        let number = key / PAGE_VALUES;
        if number == self.pages.len() {
            self.pages.push(Page {
                places: Vec::new(),
                free: NONE,
                taken: 0,
                is_open: false,
            });
            self.empty.push(number);
        }
        let page = &mut self.pages[number];
        let place = key % PAGE_VALUES;
        if place == page.places.len() {
            page.places.push(PageCell::Taken(value));
        } else {
            let place = &mut page.places[place];
            let PageCell::Free(next) = *place else {
                unreachable!("a place in the list of free ones is taken");
            };
            page.free = next;
            *place = PageCell::Taken(value);
        }
        page.taken += 1;
        self.len += 1;
        if page.taken == 1 {
            // No page was open, so it was the last of the empty ones.
            assert_eq!(self.empty.pop(), Some(number), "an empty page is listed");
            if !std::mem::replace(&mut page.is_open, true) {
                self.open.push(number);
            }
        }
        if page.taken == PAGE_VALUES {
            page.is_open = false;
            self.open.pop();
        }
        self.drop_stale();
        key
    }

    /// Removes a value; its key may be reused. Panics if there is none.
    pub(crate) fn remove(&mut self, key: usize) -> T {
        let number = key / PAGE_VALUES;
        let page = &mut self.pages[number];
        let free = PageCell::Free(page.free);
        let place = std::mem::replace(&mut page.places[key % PAGE_VALUES], free);
        let PageCell::Taken(value) = place else {
            panic!("there is no value at {key}");
        };
        page.free = (key % PAGE_VALUES) as u32;
        page.taken -= 1;
        self.len -= 1;
        if page.taken == 0 {
            self.empty_page(number);
        } else if !std::mem::replace(&mut page.is_open, true) {
            self.open.push(number);
        }
        self.drop_stale();
        value
    }

    /// Lists an empty page. Frees its memory, unless no other empty page has any: then it is reused next.
    fn empty_page(&mut self, number: usize) {
        let last = self.empty.last();
        let has_spare = last.is_some_and(|&last| self.pages[last].places.capacity() > 0);
        let page = &mut self.pages[number];
        page.free = NONE;
        page.places.clear();
        if has_spare {
            page.places = Vec::new();
            self.empty.insert(self.empty.len() - 1, number);
        } else {
            self.empty.push(number);
        }
    }

    /// Removes empty pages from the end of `open`.
    fn drop_stale(&mut self) {
        while let Some(&last) = self.open.last()
            && self.pages[last].taken == 0
        {
            self.pages[last].is_open = false;
            self.open.pop();
        }
    }

    /// The value at a key.
    pub(crate) fn get(&self, key: usize) -> Option<&T> {
        match self
            .pages
            .get(key / PAGE_VALUES)?
            .places
            .get(key % PAGE_VALUES)?
        {
            PageCell::Taken(value) => Some(value),
            PageCell::Free(_) => None,
        }
    }

    /// The value at a key, to be changed.
    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        let page = self.pages.get_mut(key / PAGE_VALUES)?;
        match page.places.get_mut(key % PAGE_VALUES)? {
            PageCell::Taken(value) => Some(value),
            PageCell::Free(_) => None,
        }
    }

    /// All values with their keys, in the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.iter_from(0)
    }

    /// The values from a key on, with their keys, in the order of keys.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &T)> {
        let pages = self.pages.iter().enumerate().skip(from / PAGE_VALUES);
        pages.flat_map(move |(number, page)| {
            let places = page.places.iter().enumerate();
            places.filter_map(move |(place, value)| match value {
                PageCell::Taken(value) => {
                    let key = number * PAGE_VALUES + place;
                    (key >= from).then_some((key, value))
                }
                PageCell::Free(_) => None,
            })
        })
    }
}

impl<T> Index<usize> for PagedSlab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        // invariant: the caller's key is that of a value.
        self.get(key).expect("a value at this key")
    }
}

impl<T> IndexMut<usize> for PagedSlab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        // invariant: the caller's key is that of a value.
        self.get_mut(key).expect("a value at this key")
    }
}

/// Whether a table is so empty that it should shrink to twice what it holds: moving what is left is paid for by the
/// removals. For hash tables the capacity is an underestimate, because removed entries reduce it until the table is
/// rebuilt: see [`is_table_sparse`].
pub(crate) fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > PAGE_VALUES && capacity / SPARSE_PART > len
}

/// The same for a hash table, by its allocated bytes and the size of a value.
pub(crate) fn is_table_sparse(len: usize, allocated: usize, value_bytes: usize) -> bool {
    is_sparse(len, allocated / (value_bytes + 1))
}

/// A table is sparse when it holds less than one value for this many places. Moving the rest of a table that held a
/// million takes some milliseconds.
const SPARSE_PART: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl<T> PagedSlab<T> {
        /// Number of values that memory is allocated for.
        fn capacity(&self) -> usize {
            let pages = self.pages.iter();
            pages.map(|page| page.places.capacity()).sum()
        }
    }

    proptest! {
        #[test]
        fn values_stay_at_their_keys(
            steps in prop::collection::vec((any::<bool>(), 1usize..900, any::<usize>()), 1..40),
        ) {
            let (mut slab, mut model) = (PagedSlab::default(), BTreeMap::new());
            let mut value = 0;
            for (comes, count, seed) in steps {
                for step in 0..count {
                    value += 1;
                    if comes {
                        let key = slab.vacant_key();
                        prop_assert_eq!(slab.insert(value), key);
                        prop_assert_eq!(model.insert(key, value), None);
                    } else if !model.is_empty() {
                        let nth = seed.wrapping_add(step.wrapping_mul(7919)) % model.len();
                        let key = *model.keys().nth(nth).unwrap();
                        prop_assert_eq!(Some(slab.remove(key)), model.remove(&key));
                        prop_assert_eq!(slab.get(key), None);
                    }
                }
                prop_assert_eq!(slab.len(), model.len());
                let all: Vec<_> = slab.iter().map(|(key, &value)| (key, value)).collect();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
                let used = model.keys().map(|key| key / PAGE_VALUES);
                let used = used.collect::<std::collections::BTreeSet<_>>().len();
                prop_assert!(slab.capacity() <= (used + 1) * PAGE_VALUES);
            }
        }
    }

    #[test]
    fn memory_goes_with_the_values_but_for_a_page() {
        let mut slab = PagedSlab::default();
        let keys: Vec<usize> = (0..100 * PAGE_VALUES)
            .map(|value| slab.insert(value))
            .collect();
        assert_eq!(keys, (0..100 * PAGE_VALUES).collect::<Vec<_>>(), "no gaps");
        for &key in keys.iter().rev().skip(1) {
            slab.remove(key);
        }
        assert!(slab.capacity() <= 2 * PAGE_VALUES, "the last one stays");
        assert_eq!(slab[keys[keys.len() - 1]], 100 * PAGE_VALUES - 1);
        // The next value goes to the page that is there.
        assert_eq!(slab.insert(7) / PAGE_VALUES, 99);
    }

    #[test]
    fn coming_and_going_of_one_value_allocates_nothing() {
        let mut slab = PagedSlab::default();
        for value in 0..10 {
            let key = slab.insert(value);
            assert_eq!((key, slab.capacity() > 0), (0, true));
            slab.remove(key);
            assert!(slab.capacity() > 0);
        }
    }
}
