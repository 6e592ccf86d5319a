//! The index of globs: finds those that match a topic.
//!
//! Each is kept under the literal bytes that it begins with, so that a topic tries only those that begin like it.
//! Invariant: `cost` is the sum of what each glob costs at most, which bounds a look-up whatever the topic. Must not know
//! who listens. Start at [`Globs::matching`].

use crate::command::FilterId;
use hashbrown::HashMap;
use sapwood_wire::glob::Glob;

/// Most bytes of a prefix: each length in use costs a look-up.
const PREFIX_BYTES_MAX: usize = 32;

/// Cost of a look-up by prefix, in steps of about a nanosecond.
const COST_PREFIX: u64 = 32;

#[derive(Debug)]
struct KnownGlob {
    id: FilterId,
    glob: Glob,
    cost: u64,
    /// Its number in the order of insertion, in which matches are given.
    born: u64,
}

/// All globs that a shard knows.
#[derive(Debug)]
pub(crate) struct Globs {
    by_prefix: HashMap<Box<[u8]>, Vec<KnownGlob>, foldhash::fast::FixedState>,
    /// Number of prefixes by length.
    lengths: [u32; PREFIX_BYTES_MAX + 1],
    count: usize,
    cost: u64,
    born: u64,
}

fn prefix(glob: &Glob) -> &[u8] {
    let whole = glob.prefix();
    &whole[..whole.len().min(PREFIX_BYTES_MAX)]
}

impl Globs {
    /// An empty index. The seed keeps outsiders from choosing prefixes that collide.
    pub(crate) fn new(seed: u64) -> Globs {
        Globs {
            by_prefix: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            lengths: [0; PREFIX_BYTES_MAX + 1],
            count: 0,
            cost: 0,
            born: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The most that trying all of them costs, in steps of about a nanosecond.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// Their ids, in no order that means anything.
    pub(crate) fn ids(&self) -> impl Iterator<Item = FilterId> {
        self.by_prefix.values().flatten().map(|place| place.id)
    }

    pub(crate) fn insert(&mut self, pattern: &[u8], id: FilterId) {
        let glob = Glob::new(pattern);
        let cost = glob.cost();
        self.cost += cost;
        self.count += 1;
        self.born += 1;
        let prefix = prefix(&glob);
        let places = match self.by_prefix.get_mut(prefix) {
            Some(places) => places,
            None => {
                self.lengths[prefix.len()] += 1;
                self.by_prefix.entry(prefix.into()).or_default()
            }
        };
        places.push(KnownGlob {
            id,
            cost,
            born: self.born,
            glob,
        });
    }

    /// Removes a glob that was inserted. Cost: those with its prefix that came later.
    pub(crate) fn remove(&mut self, pattern: &[u8], id: FilterId) {
        let glob = Glob::new(pattern);
        let prefix = prefix(&glob);
        let Some(places) = self.by_prefix.get_mut(prefix) else {
            return;
        };
        let Some(place) = places.iter().rposition(|place| place.id == id) else {
            return;
        };
        self.cost -= places.swap_remove(place).cost;
        self.count -= 1;
        if places.is_empty() {
            self.by_prefix.remove(prefix);
            self.lengths[prefix.len()] -= 1;
            if self.by_prefix.is_empty() {
                self.by_prefix.shrink_to_fit();
            }
        }
    }

    /// Calls `each` with every glob that matches, in the order in which they were inserted. Gives what it cost at most, in
    /// steps of about a nanosecond.
    pub(crate) fn matching(&self, topic: &[u8], each: &mut impl FnMut(FilterId)) -> u64 {
        let mut cost = 0;
        let mut first = None;
        let mut more: Vec<(u64, FilterId)> = Vec::new();
        let longest = topic.len().min(PREFIX_BYTES_MAX);
        for length in (0..=longest).filter(|&length| self.lengths[length] > 0) {
            cost += COST_PREFIX;
            let Some(places) = self.by_prefix.get(&topic[..length]) else {
                continue;
            };
            for place in places {
                cost += place.cost;
                if !place.glob.matches(topic) {
                    continue;
                }
                match first {
                    None => first = Some((place.born, place.id)),
                    Some(_) => more.push((place.born, place.id)),
                }
            }
        }
        if !more.is_empty() {
            more.extend(first.take());
            more.sort_unstable();
        }
        first.into_iter().chain(more).for_each(|(_, id)| each(id));
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_tries_those_that_begin_like_it() {
        let mut globs = Globs::new(1);
        for number in 0..1_000u32 {
            globs.insert(format!("user.{number:04}.*").as_bytes(), FilterId(number));
        }
        globs.insert(b"*", FilterId(1_000));
        let mut found = Vec::new();
        let cost = globs.matching(b"user.0007.name", &mut |id| found.push(id));
        assert_eq!(found, [FilterId(7), FilterId(1_000)]);
        assert!(cost < 200 && globs.cost() > 16_000, "{cost}");
        for number in 0..1_000u32 {
            globs.remove(format!("user.{number:04}.*").as_bytes(), FilterId(number));
        }
        globs.remove(b"*", FilterId(1_000));
        assert_eq!(
            (globs.len(), globs.cost(), globs.by_prefix.len()),
            (0, 0, 0)
        );
        assert_eq!(globs.matching(b"user", &mut |_| panic!("none is left")), 0);
    }
}
