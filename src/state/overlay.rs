//! The writes of one batch over the store they are for.
//!
//! Owns rows that are not written yet. Must not know what they mean. Reads see them first, so a command's conditions see
//! what precedes it in the same batch. Invariant: each row stands once, as it will be. Start at [`Overlay::put`].

use crate::store::{Direction, Family, Store, StoreError, Visit, Write, WriteBatch};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A row as it stood here before it was changed; none if it did not.
type Undo = (Family, Vec<u8>, Option<Option<Vec<u8>>>);

/// Writes over a store.
#[derive(Debug)]
pub struct Overlay<'s, S> {
    store: &'s S,
    rows: [Rows; Family::ALL.len()],
    /// While a savepoint is set: what to put back, the last first.
    undo: Option<Vec<Undo>>,
}

impl<'s, S: Store> Overlay<'s, S> {
    /// Nothing over a store.
    pub fn new(store: &'s S) -> Overlay<'s, S> {
        Overlay {
            store,
            rows: Default::default(),
            undo: None,
        }
    }

    /// Writes a row.
    pub fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.set(family, key, Some(value));
    }

    /// Writes a row of a value that is short: into the memory of the one before, where there is one.
    pub fn put_short(&mut self, family: Family, key: &[u8], value: &[u8]) {
        if self.undo.is_none()
            && let Some(Some(row)) = self.rows[family as usize].get_mut(key)
        {
            row.clear();
            row.extend_from_slice(value);
            return;
        }
        self.set(family, key, Some(value.to_vec()));
    }

    /// Removes a row, whether it is there or not.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.set(family, key, None);
    }

    fn set(&mut self, family: Family, key: &[u8], value: Option<Vec<u8>>) {
        let before = self.rows[family as usize].insert(key.to_vec(), value);
        if let Some(undo) = &mut self.undo {
            undo.push((family, key.to_vec(), before));
        }
    }

    /// From here on [`rollback`](Overlay::rollback) can go back to this state. One at a time.
    pub fn set_savepoint(&mut self) {
        assert!(self.undo.is_none(), "a savepoint within another");
        self.undo = Some(Vec::new());
    }

    /// Keeps what was written since the savepoint.
    pub fn release_savepoint(&mut self) {
        self.undo = None;
    }

    /// Undoes what was written since the savepoint.
    pub fn rollback(&mut self) {
        // invariant: whoever rolls back has set a savepoint.
        let undo = self.undo.take().expect("a savepoint is set");
        for (family, key, before) in undo.into_iter().rev() {
            let rows = &mut self.rows[family as usize];
            match before {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }

    /// The batch.
    pub fn into_batch(self) -> WriteBatch {
        let count = self.rows.iter().map(BTreeMap::len).sum();
        let mut writes = Vec::with_capacity(count);
        for (family, rows) in Family::ALL.into_iter().zip(self.rows) {
            let rows = rows.into_iter();
            writes.extend(rows.map(|(key, value)| Write { family, key, value }));
        }
        WriteBatch { writes }
    }

    /// The value of a row; none if there is none.
    pub fn value(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut value = Vec::new();
        Ok(self.get(family, key, &mut value)?.then_some(value))
    }
}

impl<S: Store> Store for Overlay<'_, S> {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        let Some(row) = self.rows[family as usize].get(key) else {
            return self.store.get(family, key, value);
        };
        value.clear();
        value.extend_from_slice(row.as_deref().unwrap_or_default());
        Ok(row.is_some())
    }

    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut rows = self.rows[family as usize].range::<[u8], _>(bounds);
        let mut step = || match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        };
        let mut own = step();
        let mut flow = ControlFlow::Continue(());
        let order = |own: &[u8], stored: &[u8]| match direction {
            Direction::Forward => own.cmp(stored),
            Direction::Backward => stored.cmp(own),
        };
        let mut merge = |key: &[u8], value: &[u8]| {
            // Ends: each round takes one of our own rows.
            while let Some((own_key, own_value)) = own {
                let order = order(own_key, key);
                if order == Ordering::Greater {
                    break;
                }
                own = step();
                if let Some(value) = own_value {
                    flow = visit(own_key, value);
                }
                if order == Ordering::Equal || flow.is_break() {
                    return flow;
                }
            }
            flow = visit(key, value);
            flow
        };
        self.store.range(family, from, to, direction, &mut merge)?;
        // Ends with our own rows.
        while let Some((key, value)) = own.filter(|_| flow.is_continue()) {
            own = step();
            if let Some(value) = value {
                flow = visit(key, value);
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        for write in &batch.writes {
            self.set(write.family, &write.key, write.value.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use proptest::prelude::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn visited(store: &impl Store, from: u8, to: u8, direction: Direction, limit: usize) -> Rows {
        let mut rows = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            match rows.len() >= limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let range = store.range(Family::Last, &[from], &[to], direction, &mut visit);
        range.unwrap();
        rows
    }

    fn batch(writes: &[(u8, Option<u8>)]) -> WriteBatch {
        let write = |&(key, value): &(u8, Option<u8>)| Write {
            family: Family::Last,
            key: vec![key],
            value: value.map(|value| vec![value]),
        };
        WriteBatch {
            writes: writes.iter().map(write).collect(),
        }
    }

    proptest! {
        #[test]
        fn reads_as_if_its_batch_were_written(
            stored: Vec<(u8, Option<u8>)>,
            own: Vec<(u8, Option<u8>)>,
            undone: Vec<(u8, Option<u8>)>,
            from in 0u8..20,
            to in 0u8..40,
            limit in 1usize..20,
        ) {
            // Few keys, so that they meet.
            let few = |writes: Vec<(u8, Option<u8>)>| {
                batch(&writes.iter().map(|&(key, value)| (key % 32, value)).collect::<Vec<_>>())
            };
            let mut store = MemoryStore::default();
            store.write(&few(stored)).unwrap();
            let mut overlay = Overlay::new(&store);
            overlay.write(&few(own)).unwrap();
            overlay.set_savepoint();
            overlay.write(&few(undone)).unwrap();
            overlay.rollback();
            let mut seen = Vec::new();
            for direction in [Direction::Forward, Direction::Backward] {
                seen.push(visited(&overlay, from, to, direction, limit));
            }
            let single: Vec<_> = (0..40).map(|key| overlay.value(Family::Last, &[key]).unwrap()).collect();
            let written = overlay.into_batch();
            store.write(&written).unwrap();
            for (direction, seen) in [Direction::Forward, Direction::Backward].into_iter().zip(seen) {
                prop_assert_eq!(visited(&store, from, to, direction, limit), seen);
            }
            for (key, seen) in (0..40).zip(single) {
                let mut value = Vec::new();
                let found = store.get(Family::Last, &[key], &mut value).unwrap();
                prop_assert_eq!(found.then_some(value), seen);
            }
        }
    }

    #[test]
    fn conditions_see_what_precedes_them_in_the_batch() {
        let mut store = MemoryStore::default();
        store.write(&batch(&[(1, Some(1)), (2, Some(2))])).unwrap();
        let mut overlay = Overlay::new(&store);
        overlay.put_short(Family::Last, &[1], &[9]);
        overlay.delete(Family::Last, &[2]);
        assert_eq!(overlay.value(Family::Last, &[1]).unwrap(), Some(vec![9]));
        assert_eq!(overlay.value(Family::Last, &[2]).unwrap(), None);
        assert_eq!(overlay.value(Family::Msgs, &[1]).unwrap(), None);
    }
}
