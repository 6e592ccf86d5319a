//! Deduplication of events from other nodes, whatever way they take.
//!
//! The events of each shard of each node are numbered as they are published, and reach any other node at one shard, in
//! order. So only the last number of each origin has to be stored. Memory is capped: origins silent for longest are
//! forgotten first, so only an event that old could come twice. Start at [`Dedup::known`].

use crate::limits::ORIGIN_JUMP_MAX;
use hashbrown::HashMap;
use sapwood_wire::node::NodeId;

/// The origin of an event: the node id and the shard that published it.
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

/// The last event of each recent origin.
#[derive(Debug)]
pub(crate) struct Dedup {
    recent: Table,
    /// The previous generation of `recent`: an origin that sends again is entered in `recent`.
    older: Table,
    origins_max: usize,
}

impl Dedup {
    /// An empty table. At most `origins_max` origins are remembered, and the latest half of that for certain.
    pub(crate) fn new(origins_max: usize, hash_seed: u64) -> Dedup {
        let table = || Table::with_hasher(foldhash::fast::FixedState::with_seed(hash_seed));
        Dedup {
            recent: table(),
            older: table(),
            origins_max,
        }
    }

    /// How many of `count` events with numbers from `first` on are duplicates; all, if they are of an earlier run of
    /// that node.
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
                let next = last.sequence.saturating_add(1);
                next.saturating_sub(first).min(count)
            }
            _ => 0,
        }
    }

    /// Whether an origin may have come to this number: no peer can make it count as seen what another node will publish
    /// for years.
    pub(crate) fn is_plausible(&self, origin: Origin, incarnation: u64, sequence: u64) -> bool {
        let last = self.last(origin);
        let last = last.filter(|last| last.incarnation == incarnation);
        let most = match last {
            Some(last) => last.sequence.saturating_add(ORIGIN_JUMP_MAX),
            // Most that a run comes to, which begins with 1: a million events a second for two thousand years.
            None => u64::MAX >> 8,
        };
        sequence <= most.min(u64::MAX >> 8)
    }

    /// Records an event as seen.
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
            // The older generation is dropped, and its memory reused.
            std::mem::swap(&mut self.older, &mut self.recent);
            self.recent.clear();
        }
        self.recent.insert(origin, last);
    }

    fn last(&self, origin: Origin) -> Option<Last> {
        let last = self.recent.get(&origin);
        last.or_else(|| self.older.get(&origin)).copied()
    }

    /// Number of remembered origins.
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
    fn no_origin_jumps_to_where_it_would_be_silent_for_ever() {
        let mut seen = Dedup::new(100, 1);
        assert!(
            seen.is_plausible(origin(1), 7, 1 << 50),
            "not heard of before"
        );
        assert!(!seen.is_plausible(origin(1), 7, u64::MAX - 1));
        seen.note(origin(1), 7, 1_000);
        assert!(seen.is_plausible(origin(1), 7, 1_000_000_000));
        assert!(!seen.is_plausible(origin(1), 7, 1 << 50));
        assert!(seen.is_plausible(origin(1), 8, 1 << 50), "another run");
        seen.note(origin(2), 7, u64::MAX);
        assert_eq!(seen.known(origin(2), 7, 5, 3), 3);
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
