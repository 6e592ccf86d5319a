//! The index of filters: which of them match a topic.
//!
//! Every filter that anyone on this node asks for has one entry here, on every shard: the members
//! that this shard owns, and how many listeners each other shard has. Exact names are found by
//! hash, token wildcards in a trie, globs one after the other. Must not know protocols, outboxes
//! or how shards talk. Invariants: an entry lives exactly as long as someone listens or a change
//! of it is still to be told; the order of members and filters depends on the history alone, never
//! on the hash seed. Start at [`Filters::matching`].

use crate::command::{ConnId, Filter, FilterKind, Form, ShardId, Space};
use crate::trie::Trie;
use hashbrown::HashTable;
use sapwood_wire::topic;
use slab::Slab;
use std::hash::{BuildHasher, Hasher};

/// A filter's place in the index; used again once nobody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FilterId(u32);

impl FilterId {
    fn key(self) -> usize {
        self.0 as usize
    }
}

/// One filter and who listens to it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub kind: FilterKind,
    pub name: Box<[u8]>,
    /// This shard's subscribers.
    pub members: Vec<ConnId>,
    /// How many of them take each form.
    pub forms: [u32; Form::COUNT],
    /// Listeners of the other shards that have any.
    pub remote: Vec<(ShardId, u32)>,
    /// The number of members that the other shards were last told.
    pub announced: u32,
    /// Stands in the list of changes to be told.
    pub changed: bool,
    /// Where it stands in the list of globs.
    glob_place: u32,
}

impl Entry {
    /// Listeners on all shards of the node.
    pub(crate) fn listeners(&self) -> u64 {
        let remote: u64 = self.remote.iter().map(|&(_, count)| u64::from(count)).sum();
        self.members.len() as u64 + remote
    }

    fn is_needless(&self) -> bool {
        self.members.is_empty() && self.remote.is_empty() && !self.changed
    }
}

/// All filters that a shard knows.
#[derive(Debug)]
pub(crate) struct Filters {
    entries: Slab<Entry>,
    names: HashTable<FilterId>,
    hasher: foldhash::fast::FixedState,
    globs: Vec<FilterId>,
    /// Entries of each kind.
    counts: [usize; 4],
    wildcards: Trie<FilterId>,
}

impl Filters {
    /// An empty index; `seed` keeps outsiders from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Filters {
        Filters {
            entries: Slab::new(),
            names: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            globs: Vec::new(),
            counts: [0; 4],
            wildcards: Trie::new(seed),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn glob_count(&self) -> usize {
        self.globs.len()
    }

    pub(crate) fn entry(&self, id: FilterId) -> &Entry {
        &self.entries[id.key()]
    }

    pub(crate) fn entry_mut(&mut self, id: FilterId) -> &mut Entry {
        &mut self.entries[id.key()]
    }

    /// The entries of all globs.
    pub(crate) fn globs(&self) -> impl Iterator<Item = &Entry> {
        self.globs.iter().map(|&id| self.entry(id))
    }

    /// How many entries of this kind there are.
    pub(crate) fn count(&self, kind: FilterKind) -> usize {
        self.counts[kind as usize]
    }

    /// All entries, in an order that depends on the history alone.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    fn hash(&self, kind: FilterKind, name: &[u8]) -> u64 {
        hash_name(&self.hasher, kind, name)
    }

    pub(crate) fn find(&self, filter: Filter<'_>) -> Option<FilterId> {
        let hash = self.hash(filter.kind, filter.name);
        let is_it = |id: &FilterId| {
            let entry = &self.entries[id.key()];
            entry.kind == filter.kind && *entry.name == *filter.name
        };
        self.names.find(hash, is_it).copied()
    }

    /// The entry of a filter, made if it is new.
    pub(crate) fn intern(&mut self, filter: Filter<'_>) -> FilterId {
        if let Some(id) = self.find(filter) {
            return id;
        }
        self.counts[filter.kind as usize] += 1;
        let hash = self.hash(filter.kind, filter.name);
        let id = FilterId(self.entries.vacant_key() as u32);
        if filter.kind == FilterKind::Wildcard {
            self.wildcards.insert(filter.name, id);
        }
        self.entries.insert(Entry {
            kind: filter.kind,
            name: filter.name.into(),
            members: Vec::new(),
            forms: [0; Form::COUNT],
            remote: Vec::new(),
            announced: 0,
            changed: false,
            glob_place: self.globs.len() as u32,
        });
        if filter.kind == FilterKind::Glob {
            self.globs.push(id);
        }
        let Filters {
            entries,
            names,
            hasher,
            ..
        } = self;
        names.insert_unique(hash, id, |id| {
            let entry = &entries[id.key()];
            hash_name(hasher, entry.kind, &entry.name)
        });
        id
    }

    /// Forgets the entry if nobody listens and nothing of it is to be told.
    pub(crate) fn forget_if_needless(&mut self, id: FilterId) {
        if !self.entries[id.key()].is_needless() {
            return;
        }
        let entry = self.entries.remove(id.key());
        self.counts[entry.kind as usize] -= 1;
        let hash = self.hash(entry.kind, &entry.name);
        if let Ok(found) = self.names.find_entry(hash, |&other| other == id) {
            found.remove();
        }
        match entry.kind {
            FilterKind::Wildcard => self.wildcards.remove(&entry.name),
            FilterKind::Glob => {
                let place = entry.glob_place as usize;
                self.globs.swap_remove(place);
                if let Some(moved) = self.globs.get(place) {
                    self.entries[moved.key()].glob_place = place as u32;
                }
            }
            FilterKind::Topic | FilterKind::ShardChannel => {}
        }
    }

    /// Calls `each` with every filter that matches, the exact one first.
    ///
    /// Cost: one look-up, the part of the trie that fits, and every glob of the node.
    pub(crate) fn matching(&self, space: Space, name: &[u8], mut each: impl FnMut(FilterId)) {
        let kind = match space {
            Space::Topic => FilterKind::Topic,
            Space::ShardChannel => FilterKind::ShardChannel,
        };
        if let Some(id) = self.find(Filter { kind, name }) {
            each(id);
        }
        if space == Space::ShardChannel {
            return;
        }
        self.wildcards.matching(name, &mut each);
        for &id in &self.globs {
            if topic::glob_matches(&self.entries[id.key()].name, name) {
                each(id);
            }
        }
    }
}

fn hash_name(state: &foldhash::fast::FixedState, kind: FilterKind, name: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(name);
    hasher.write_u8(kind as u8);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One step of a history: a filter that somebody comes to or goes from.
    #[derive(Clone, Debug)]
    struct Step {
        kind: FilterKind,
        name: String,
        comes: bool,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![
            Just(FilterKind::Topic),
            Just(FilterKind::ShardChannel),
            Just(FilterKind::Glob),
            Just(FilterKind::Wildcard),
        ];
        let name = "(\\$|[ab])?(\\.([ab*]|)){0,3}(\\.>)?";
        (kind, name, any::<bool>()).prop_map(|(kind, name, comes)| Step { kind, name, comes })
    }

    fn oracle_matches(step: &Step, space: Space, name: &[u8]) -> bool {
        let filter = step.name.as_bytes();
        match (step.kind, space) {
            (FilterKind::Topic, Space::Topic) => filter == name,
            (FilterKind::ShardChannel, Space::ShardChannel) => filter == name,
            (FilterKind::Glob, Space::Topic) => topic::glob_matches(filter, name),
            (FilterKind::Wildcard, Space::Topic) => topic::wildcard_matches(filter, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_matching_one_by_one(
            steps in prop::collection::vec(any_step(), 0..40),
            names in prop::collection::vec("(\\$|[ab])?(\\.[ab]?){0,4}", 1..6),
        ) {
            let mut filters = Filters::new(7);
            let mut present: Vec<Step> = Vec::new();
            for step in steps {
                let filter = Filter { kind: step.kind, name: step.name.as_bytes() };
                let same = |other: &Step| other.kind == step.kind && other.name == step.name;
                if step.comes {
                    let id = filters.intern(filter);
                    filters.entry_mut(id).members = vec![ConnId(1)];
                    if !present.iter().any(same) {
                        present.push(step.clone());
                    }
                } else if let Some(id) = filters.find(filter) {
                    filters.entry_mut(id).members.clear();
                    filters.forget_if_needless(id);
                    present.retain(|other| !same(other));
                }
                prop_assert_eq!(filters.len(), present.len());
                for name in &names {
                    for space in [Space::Topic, Space::ShardChannel] {
                        let mut found: Vec<(FilterKind, Vec<u8>)> = Vec::new();
                        filters.matching(space, name.as_bytes(), |id| {
                            let entry = filters.entry(id);
                            found.push((entry.kind, entry.name.to_vec()));
                        });
                        let mut expected: Vec<(FilterKind, Vec<u8>)> = present
                            .iter()
                            .filter(|step| oracle_matches(step, space, name.as_bytes()))
                            .map(|step| (step.kind, step.name.clone().into_bytes()))
                            .collect();
                        found.sort();
                        expected.sort();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
