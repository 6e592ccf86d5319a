//! A store in memory that loses what was not flushed.
//!
//! Owns sorted maps and, for each row that changed since the last flush, what it was then. Must not know what rows mean.
//! Invariant: `undo` put over `rows` is the state of the last flush.

use super::{Direction, Family, Store, StoreError, Visit, WriteBatch};
use std::collections::BTreeMap;
use std::ops::Bound;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// For simulation and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    rows: [Rows; Family::ALL.len()],
    undo: BTreeMap<(Family, Vec<u8>), Option<Vec<u8>>>,
}

impl MemoryStore {
    /// Makes all that was written durable.
    pub fn flush(&mut self) {
        self.undo.clear();
    }

    /// Loses what was written since the last flush.
    pub fn crash(&mut self) {
        for ((family, key), value) in std::mem::take(&mut self.undo) {
            match value {
                Some(value) => self.rows[family as usize].insert(key, value),
                None => self.rows[family as usize].remove(&key),
            };
        }
    }

    /// Removes rows for good, flushed or not, as a compaction does with rows that its filter calls dead.
    pub fn compact(&mut self, is_dead: impl Fn(Family, &[u8], &[u8]) -> bool) {
        for family in Family::ALL {
            let undo = &mut self.undo;
            self.rows[family as usize].retain(|key, value| {
                let is_kept = !is_dead(family, key, value);
                if !is_kept {
                    undo.remove(&(family, key.clone()));
                }
                is_kept
            });
        }
    }

    /// How many rows a family has.
    pub fn len(&self, family: Family) -> usize {
        self.rows[family as usize].len()
    }

    /// Whether nothing is stored at all.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(BTreeMap::is_empty)
    }
}

impl Store for MemoryStore {
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError> {
        value.clear();
        let row = self.rows[family as usize].get(key);
        value.extend_from_slice(row.map_or(&[], |row| row));
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
        // Ends with the rows, or when the visitor has enough.
        while let Some((key, value)) = match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        } {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        for write in &batch.writes {
            let rows = &mut self.rows[write.family as usize];
            let before = match &write.value {
                Some(value) => rows.insert(write.key.clone(), value.clone()),
                None => rows.remove(&write.key),
            };
            let place = (write.family, write.key.clone());
            self.undo.entry(place).or_insert(before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Write;
    use std::ops::ControlFlow;

    fn write(store: &mut MemoryStore, rows: &[(&str, Option<&str>)]) {
        let writes = rows.iter().map(|(key, value)| Write {
            family: Family::Last,
            key: key.as_bytes().to_vec(),
            value: value.map(|value| value.as_bytes().to_vec()),
        });
        let batch = WriteBatch {
            writes: writes.collect(),
        };
        store.write(&batch).unwrap();
    }

    fn all(store: &MemoryStore, direction: Direction) -> String {
        let mut found = String::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push_str(&String::from_utf8_lossy(&[key, value].concat()));
            ControlFlow::Continue(())
        };
        store
            .range(Family::Last, b"a", b"z", direction, &mut visit)
            .unwrap();
        found
    }

    #[test]
    fn crash_goes_back_to_the_last_flush() {
        let mut store = MemoryStore::default();
        write(&mut store, &[("a", Some("1")), ("b", Some("1"))]);
        store.flush();
        write(&mut store, &[("a", Some("2")), ("c", Some("2"))]);
        write(
            &mut store,
            &[("a", Some("3")), ("b", None), ("c", None), ("d", Some("3"))],
        );
        assert_eq!(all(&store, Direction::Forward), "a3d3");
        store.crash();
        assert_eq!(all(&store, Direction::Backward), "b1a1");
        store.crash();
        assert_eq!(all(&store, Direction::Forward), "a1b1");
    }

    #[test]
    fn compacted_rows_do_not_come_back() {
        let mut store = MemoryStore::default();
        write(&mut store, &[("a", Some("1")), ("b", Some("1"))]);
        store.flush();
        write(&mut store, &[("a", Some("2")), ("c", Some("2"))]);
        store.compact(|_, key, _| key == b"a" || key == b"c");
        assert_eq!(all(&store, Direction::Forward), "b1");
        store.crash();
        assert_eq!(all(&store, Direction::Forward), "b1");
    }
}
