//! Versions that tell which cached routes a change of subscriptions invalidates.
//!
//! A topic's route depends on the filters of exactly its name, and on everything that may match any topic: wildcards,
//! globs, links that get everything, names of nodes, and the node's position. So exact names have a version for each
//! hash bucket, and everything else has one common version; a subscription to one topic leaves the routes of nearly all
//! others valid. Must not know what routes hold. Invariant: versions only grow, so the sum of two is unchanged only if
//! both are. Start at [`Versions::of`].

use crate::command::{FilterKind, Space};
use crate::limits::ROUTE_VERSIONS;
use core::hash::BuildHasher;

/// The state of everything that a topic's route depends on. The default is never current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    bucket: usize,
    sum: u64,
}

#[derive(Debug)]
pub(crate) struct Versions {
    /// Version of everything that may concern any topic.
    common: u64,
    /// Versions of exact names, by hash bucket.
    exact: Box<[u64]>,
    hasher: foldhash::fast::FixedState,
}

impl Versions {
    /// The seed keeps outsiders from choosing names that share a bucket.
    pub(crate) fn new(seed: u64) -> Versions {
        Versions {
            common: 1,
            exact: vec![0; ROUTE_VERSIONS].into(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
        }
    }

    /// Registers that the listeners of a filter or of one of its groups changed.
    pub(crate) fn filter_changed(&mut self, kind: FilterKind, name: &[u8]) {
        let space = match kind {
            FilterKind::Topic => Space::Topic,
            FilterKind::ShardChannel => Space::ShardChannel,
            FilterKind::Glob | FilterKind::Wildcard | FilterKind::Node => {
                return self.all_changed();
            }
        };
        let bucket = self.bucket(space, name);
        self.exact[bucket] += 1;
    }

    /// Registers a change that may concern any topic.
    pub(crate) fn all_changed(&mut self) {
        self.common += 1;
    }

    /// The present version of the routes to a name (a topic without its scope).
    pub(crate) fn of(&self, space: Space, name: &[u8]) -> Version {
        let bucket = self.bucket(space, name);
        let sum = self.common + self.exact[bucket];
        Version { bucket, sum }
    }

    /// Whether nothing has changed since this version.
    pub(crate) fn is_current(&self, version: Version) -> bool {
        version.sum == self.common + self.exact[version.bucket]
    }

    fn bucket(&self, space: Space, name: &[u8]) -> usize {
        self.hasher.hash_one((space as u8, name)) as usize % ROUTE_VERSIONS
    }
}
