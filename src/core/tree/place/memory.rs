//! Addresses of other nodes that a root probes for other trees.
//!
//! Invariant: at most [`REMEMBERED_MAX`] besides the seeds; the latest are kept. Start at [`Memory::next`].

use super::REMEMBERED_MAX;
use core::net::SocketAddr;

/// Maximum addresses known to be this node's own.
const OWN_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Memory {
    seeds: Vec<SocketAddr>,
    /// Oldest first.
    heard: Vec<SocketAddr>,
    own: Vec<SocketAddr>,
    seed_turn: usize,
    heard_turn: usize,
}

impl Memory {
    pub(super) fn new(seeds: Vec<SocketAddr>, own: Option<SocketAddr>) -> Memory {
        Memory {
            seeds,
            heard: Vec::new(),
            own: own.into_iter().collect(),
            seed_turn: 0,
            heard_turn: 0,
        }
    }

    /// Remembers an address of another node. True if it is new.
    pub(super) fn add(&mut self, address: Option<SocketAddr>) -> bool {
        let Some(address) = address else { return false };
        if self.seeds.contains(&address) || self.own.contains(&address) {
            return false;
        }
        let count = self.heard.len();
        self.heard.retain(|other| *other != address);
        let is_new = count == self.heard.len();
        if self.heard.len() == REMEMBERED_MAX {
            self.heard.remove(0);
        }
        self.heard.push(address);
        is_new
    }

    /// Up to `count` addresses for another root: at most half of them seeds, the rest the latest remembered.
    pub(super) fn share(&self, count: usize) -> Vec<SocketAddr> {
        let seeds = self.seeds.iter().filter(|seed| !self.is_own(**seed));
        let mut shared: Vec<_> = seeds.take(count / 2).copied().collect();
        shared.extend(self.heard.iter().rev().take(count - shared.len()));
        shared
    }

    /// Marks an address as this node's own: a dial there led back to it.
    pub(super) fn add_own(&mut self, address: SocketAddr) {
        if self.own.len() == OWN_MAX {
            self.own.remove(1);
        }
        self.own.push(address);
        self.heard.retain(|other| *other != address);
    }

    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.contains(&address)
    }

    /// The addresses to probe now: a seed, and a remembered one, each in turn.
    pub(super) fn next(&mut self) -> impl Iterator<Item = SocketAddr> {
        let seeds: Vec<_> = self
            .seeds
            .iter()
            .filter(|seed| !self.is_own(**seed))
            .collect();
        let seed = (!seeds.is_empty()).then(|| *seeds[self.seed_turn % seeds.len()]);
        let heard =
            (!self.heard.is_empty()).then(|| self.heard[self.heard_turn % self.heard.len()]);
        self.seed_turn = self.seed_turn.wrapping_add(1);
        self.heard_turn = self.heard_turn.wrapping_add(1);
        seed.into_iter().chain(heard)
    }

    /// Whether there is no address to probe.
    pub(super) fn is_empty(&self) -> bool {
        let mut seeds = self.seeds.iter();
        self.heard.is_empty() && seeds.all(|seed| self.is_own(*seed))
    }

    pub(super) fn len(&self) -> usize {
        self.heard.len()
    }
}
