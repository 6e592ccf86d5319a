//! Queue groups and their turns: each event goes to one member of a group.
//!
//! A group is identified by its name; its members are stored in the index of filters, one entry for each filter that
//! they subscribe to. The publishing shard picks a shard or link, weighted by its number of members for the topic; the
//! picked shard or node picks the member. Both use smooth weighted round robin: among a steady set of candidates each
//! gets exactly its share, spread as evenly as whole turns allow. Must not know what events are. Invariant: a group
//! exists exactly as long as an entry of it. Start at [`Groups::take_turn`].

use crate::command::Target;
use crate::paged_slab::{PagedSlab, is_table_sparse};
use hashbrown::HashMap;

/// Id of a group: its slot, which is reused after its last entry is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(u32);

#[derive(Debug)]
struct Group {
    name: Box<[u8]>,
    /// Number of the group's entries in the index.
    entries: usize,
    /// Credit of each shard and link in the round robin: positive is owed, negative is had in advance. As long as the
    /// last one that had a turn.
    credits: Vec<i64>,
}

/// All groups that a shard knows.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: PagedSlab<Group>,
    names: HashMap<Box<[u8]>, GroupId, foldhash::fast::FixedState>,
}

impl Groups {
    pub(crate) fn new(seed: u64) -> Groups {
        Groups {
            groups: PagedSlab::default(),
            names: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
        }
    }

    /// Adds an entry to the group of this name, which is created if it is new.
    pub(crate) fn enter(&mut self, name: &[u8]) -> GroupId {
        if let Some(&id) = self.names.get(name) {
            self.groups[id.0 as usize].entries += 1;
            return id;
        }
        let group = Group {
            name: name.into(),
            entries: 1,
            credits: Vec::new(),
        };
        let id = GroupId(self.groups.insert(group) as u32);
        self.names.insert(name.into(), id);
        id
    }

    /// Removes an entry from the group.
    pub(crate) fn leave(&mut self, id: GroupId) {
        let group = &mut self.groups[id.0 as usize];
        group.entries -= 1;
        if group.entries == 0 {
            let group = self.groups.remove(id.0 as usize);
            self.names.remove(&group.name);
            let bytes = size_of::<(Box<[u8]>, GroupId)>();
            if is_table_sparse(self.names.len(), self.names.allocation_size(), bytes) {
                self.names.shrink_to(2 * self.names.len());
            }
        }
    }

    /// Bytes of the hash table.
    #[cfg(test)]
    pub(crate) fn table_bytes(&self) -> usize {
        self.names.allocation_size()
    }

    pub(crate) fn name(&self, id: GroupId) -> &[u8] {
        &self.groups[id.0 as usize].name
    }

    /// The group of this name, if it has entries.
    pub(crate) fn find(&self, name: &[u8]) -> Option<GroupId> {
        self.names.get(name).copied()
    }

    /// Picks one of these candidates for one event, by their numbers of members. `weights` must not be empty.
    pub(crate) fn take_turn(&mut self, id: GroupId, weights: &[(Target, u32)]) -> Target {
        if let [(only, _)] = weights {
            return *only;
        }
        let credits = &mut self.groups[id.0 as usize].credits;
        let indexes = weights.iter().map(|(target, _)| target.index());
        let needed = indexes.max().map_or(0, |index| index + 1);
        if credits.len() < needed {
            credits.resize(needed, 0);
        }
        let (place, total) = next_turn(weights.len(), |place| {
            let (target, weight) = weights[place];
            let credit = &mut credits[target.index()];
            *credit += i64::from(weight);
            (i64::from(weight), *credit)
        });
        let target = weights[place].0;
        credits[target.index()] -= total;
        target
    }
}

/// Half a step of smooth weighted round robin among `count` candidates, at least one. `owe` adds a candidate's weight
/// to its credit and returns both. Returns the index of the candidate with the highest credit and the sum of the
/// weights, which the caller subtracts from that credit. Credits stay within that sum.
pub(crate) fn next_turn(count: usize, mut owe: impl FnMut(usize) -> (i64, i64)) -> (usize, i64) {
    let (mut best, mut most, mut total) = (0, i64::MIN, 0);
    for place in 0..count {
        let (weight, credit) = owe(place);
        total += weight;
        if credit > most {
            (best, most) = (place, credit);
        }
    }
    (best, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{LinkId, ShardId};
    use proptest::prelude::*;

    /// Targets for the tests: shards and links alternate.
    fn target(place: u16) -> Target {
        match place % 2 {
            0 => Target::Shard(ShardId(place / 2)),
            _ => Target::Link(LinkId(place / 2)),
        }
    }

    proptest! {
        #[test]
        fn a_steady_set_of_candidates_gets_its_shares_exactly(
            weights in prop::collection::vec(1u32..9, 1..6),
            rounds in 1usize..5,
        ) {
            let mut groups = Groups::new(1);
            let id = groups.enter(b"g");
            let candidates: Vec<(Target, u32)> =
                weights.iter().enumerate().map(|(place, &weight)| (target(place as u16), weight)).collect();
            let total: u32 = weights.iter().sum();
            let mut turns = vec![0u32; weights.len()];
            for _ in 0..rounds * total as usize {
                let taken = groups.take_turn(id, &candidates);
                let place = candidates.iter().position(|&(target, _)| target == taken);
                turns[place.unwrap()] += 1;
            }
            for (shard, &weight) in weights.iter().enumerate() {
                prop_assert_eq!(turns[shard], weight * rounds as u32);
            }
        }

        #[test]
        fn credits_stay_bounded_whoever_comes_and_goes(
            sets in prop::collection::vec(prop::collection::vec((0u16..6, 1u32..5), 1..6), 1..200),
        ) {
            let mut groups = Groups::new(1);
            let id = groups.enter(b"g");
            for mut set in sets {
                set.sort();
                set.dedup_by_key(|(shard, _)| *shard);
                let set: Vec<(Target, u32)> =
                    set.into_iter().map(|(place, weight)| (target(place), weight)).collect();
                let chosen = groups.take_turn(id, &set);
                prop_assert!(set.iter().any(|&(target, _)| target == chosen));
                for &credit in &groups.groups[id.0 as usize].credits {
                    prop_assert!(credit.abs() <= 6 * 5 * 6, "credit {}", credit);
                }
            }
        }
    }
}
