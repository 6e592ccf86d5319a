//! The streams of a worker: by name, by topic, and by a key that is short.
//!
//! Owns what the worker knows of each as of the last entry that was applied. Must not know the store. Start at
//! [`Streams::keeper_of`].

use crate::filters::{FilterTrie, Reservation};
use sapwood_wire::state::{Durability, StreamConfig, StreamNumber};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A stream's place in the worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

/// A stream as the worker knows it.
#[derive(Debug)]
pub(super) struct Known {
    /// Which of the worker's partitions.
    pub slot: usize,
    pub number: StreamNumber,
    pub name: Arc<[u8]>,
    pub config: Arc<StreamConfig>,
    pub reservation: Option<Reservation>,
    /// Updates that are under way. Until they are applied its entries wait for their sync, whatever it is now.
    pub updates: u32,
    /// Where its messages of this turn are gathered.
    pub open: Option<usize>,
}

impl Known {
    /// Whether its messages count as stored before they are synced.
    pub fn is_os(&self) -> bool {
        self.config.durability == Durability::Os && self.updates == 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    table: Vec<Option<Known>>,
    free: Vec<Key>,
    names: BTreeMap<Arc<[u8]>, Key>,
    topics: FilterTrie<Key>,
    /// The last topic that was looked up, and who keeps it.
    last_topic: Vec<u8>,
    last_keeper: Option<Key>,
}

impl Streams {
    pub fn insert(&mut self, known: Known) -> Key {
        let key = self.free.pop().unwrap_or(Key(self.table.len() as u32));
        self.names.insert(known.name.clone(), key);
        for filter in &known.config.filters {
            self.topics.insert(filter, key);
        }
        self.forget_topic();
        if key.0 as usize == self.table.len() {
            self.table.push(None);
        }
        self.table[key.0 as usize] = Some(known);
        key
    }

    pub fn remove(&mut self, key: Key) -> Known {
        let known = self.table[key.0 as usize].take();
        let known = known.expect("a key is of a stream that is there"); // invariant: keys end with their stream.
        self.names.remove(&known.name);
        for filter in &known.config.filters {
            self.topics.remove(filter, |one| *one == key);
        }
        self.forget_topic();
        self.free.push(key);
        known
    }

    /// Gives a stream another configuration; returns the one it had.
    pub fn configure(&mut self, key: Key, config: Arc<StreamConfig>) -> Arc<StreamConfig> {
        for filter in &config.filters {
            self.topics.insert(filter, key);
        }
        let before = std::mem::replace(&mut self.of_mut(key).config, config.clone());
        for filter in before
            .filters
            .iter()
            .filter(|one| !config.filters.contains(one))
        {
            self.topics.remove(filter, |one| *one == key);
        }
        // Those that it has as before stand there twice.
        for filter in config
            .filters
            .iter()
            .filter(|one| before.filters.contains(one))
        {
            self.topics.remove(filter, |one| *one == key);
            self.topics.insert(filter, key);
        }
        self.forget_topic();
        before
    }

    pub fn of(&self, key: Key) -> &Known {
        let known = self.table[key.0 as usize].as_ref();
        known.expect("a key is of a stream that is there") // invariant: keys end with their stream.
    }

    pub fn of_mut(&mut self, key: Key) -> &mut Known {
        let known = self.table[key.0 as usize].as_mut();
        known.expect("a key is of a stream that is there") // invariant: keys end with their stream.
    }

    pub fn named(&self, name: &[u8]) -> Option<Key> {
        self.names.get(name).copied()
    }

    /// The stream of a number in one of the worker's partitions.
    pub fn numbered(&self, slot: usize, number: StreamNumber, name: &[u8]) -> Option<Key> {
        let key = self.named(name)?;
        let known = self.of(key);
        (known.slot == slot && known.number == number).then_some(key)
    }

    /// Names in order, from behind one on.
    pub fn behind(&self, after: &[u8]) -> impl Iterator<Item = (&Arc<[u8]>, Key)> {
        let from = match after {
            [] => Bound::Unbounded,
            after => Bound::Excluded(after),
        };
        let range = self.names.range::<[u8], _>((from, Bound::Unbounded));
        range.map(|(name, key)| (name, *key))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.table.iter().flatten()
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The stream that keeps a topic.
    pub fn keeper_of(&mut self, topic: &[u8]) -> Option<Key> {
        if self.last_topic != topic || topic.is_empty() {
            self.last_keeper = self.topics.find(topic).copied();
            self.last_topic.clear();
            self.last_topic.extend_from_slice(topic);
        }
        self.last_keeper
    }

    fn forget_topic(&mut self) {
        self.last_topic.clear();
    }
}
