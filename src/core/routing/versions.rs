//! Which cached routes a change of subscriptions invalidates.
//!
//! A topic's route depends on the filters of exactly its name, and on all that may match any topic: wildcards, globs, what
//! links want without naming it, what nodes are called, where the node stands. So exact names have a version for each
//! bucket that they hash to, and all else has one; a subscription to one topic leaves the routes of nearly all others
//! valid. Must not know what routes hold. Invariant: versions only grow, so that their sum is the same only if
//! neither has changed. Start at [`Versions::of`].

use crate::command::{FilterKind, Space};
use crate::limits::ROUTE_VERSIONS;
use core::hash::BuildHasher;

/// The state of all that a topic's route depends on. The default is never current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    bucket: usize,
    sum: u64,
}

#[derive(Debug)]
pub(crate) struct Versions {
    /// Of what may concern any topic.
    common: u64,
    /// Of exact names, by their hash.
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

    /// The listeners of a filter changed, or those of one of its groups.
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

    /// Something changed that may concern any topic.
    pub(crate) fn all_changed(&mut self) {
        self.common += 1;
    }

    /// The present version of the routes to a name, which is what subscribers see of a topic.
    pub(crate) fn of(&self, space: Space, name: &[u8]) -> Version {
        let bucket = self.bucket(space, name);
        let sum = self.common + self.exact[bucket];
        Version { bucket, sum }
    }

    /// Whether nothing has changed since.
    pub(crate) fn is_current(&self, version: Version) -> bool {
        version.sum == self.common + self.exact[version.bucket]
    }

    fn bucket(&self, space: Space, name: &[u8]) -> usize {
        self.hasher.hash_one((space as u8, name)) as usize % ROUTE_VERSIONS
    }
}
