//! Which events of other nodes a shard has had: so that none comes twice, whichever way it takes.
//!
//! The events of one shard of one node are numbered as they are published, and reach every other node at one shard, in
//! order. So the last number of each is all that must be known. Memory is capped: those that nothing was heard of for
//! longest are forgotten first, and only an event that is as old could come twice then. Start at [`Dedup::news`].

use hashbrown::HashMap;
use sapwood_wire::node::NodeId;

/// A shard of a node while it runs, as what it publishes is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub node: NodeId,
    pub lane: u8,
}

/// The last event of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    incarnation: u64,
    sequence: u64,
}

type Table = HashMap<Origin, Last, foldhash::fast::FixedState>;

/// The last event of each origin that was heard of lately.
#[derive(Debug)]
pub(crate) struct Dedup {
    recent: Table,
    /// Those that were recent before; each moves back when it is heard of.
    older: Table,
    origins_max: usize,
}

impl Dedup {
    /// Nothing yet. At most `origins_max` are remembered, and half as many for sure.
    pub(crate) fn new(origins_max: usize, hash_seed: u64) -> Dedup {
        let table = || Table::with_hasher(foldhash::fast::FixedState::with_seed(hash_seed));
        Dedup {
            recent: table(),
            older: table(),
            origins_max,
        }
    }

    /// How many of `count` events, from the first on, were here before, of which `first` is the first number; all, if
    /// they are of an earlier run of that node.
    pub(crate) fn known(
        &mut self,
        origin: Origin,
        incarnation: u64,
        first: u64,
        count: u64,
    ) -> u64 {
        match self.last(origin) {
            Some(last) if last.incarnation > incarnation => count,
            Some(last) if last.incarnation == incarnation => {
                (last.sequence + 1).saturating_sub(first).min(count)
            }
            _ => 0,
        }
    }

    /// Takes note of an event.
    pub(crate) fn note(&mut self, origin: Origin, incarnation: u64, sequence: u64) {
        let last = Last {
            incarnation,
            sequence,
        };
        if let Some(there) = self.recent.get_mut(&origin) {
            *there = last;
            return;
        }
        if self.recent.len() >= self.origins_max / 2 {
            // What was older is forgotten, and its memory used again.
            std::mem::swap(&mut self.older, &mut self.recent);
            self.recent.clear();
        }
        self.recent.insert(origin, last);
    }

    fn last(&self, origin: Origin) -> Option<Last> {
        let last = self.recent.get(&origin);
        last.or_else(|| self.older.get(&origin)).copied()
    }

    /// How many origins are remembered.
    pub(crate) fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: u64) -> Origin {
        Origin {
            node: NodeId(node),
            lane: 0,
        }
    }

    #[test]
    fn an_event_is_news_once() {
        let mut seen = Dedup::new(100, 1);
        assert_eq!(seen.known(origin(1), 7, 10, 3), 0);
        seen.note(origin(1), 7, 12);
        assert_eq!(seen.known(origin(1), 7, 10, 3), 3, "all came before");
        assert_eq!(seen.known(origin(1), 7, 11, 3), 2, "the last is new");
        assert_eq!(seen.known(origin(1), 7, 13, 3), 0);
        assert_eq!(seen.known(origin(1), 6, 50, 3), 3, "an earlier run is over");
        assert_eq!(seen.known(origin(1), 8, 1, 3), 0, "a later run begins anew");
        assert_eq!(seen.known(origin(2), 7, 10, 3), 0, "another node's");
    }

    #[test]
    fn memory_is_capped_and_who_was_heard_of_lately_is_remembered() {
        let mut seen = Dedup::new(100, 1);
        for number in 0..10_000 {
            seen.note(origin(number), 1, 5);
            seen.note(origin(0), 1, number);
            assert!(seen.len() <= 100);
            assert_eq!(seen.known(origin(0), 1, number, 1), 1);
        }
        for number in 9_960..10_000 {
            assert_eq!(seen.known(origin(number), 1, 5, 1), 1);
        }
    }
}
