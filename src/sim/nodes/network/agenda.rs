//! Who has something to do, and when: so that time passes quickly over those who have nothing to do.
//!
//! Must not know what is done. Invariant: each stands in the queue once at most, at the earliest time that was asked for.

use std::collections::{BTreeMap, BTreeSet};

/// Who can have something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Node(usize),
    Client(usize),
}

/// What is due when, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    queue: BTreeSet<(u64, Who)>,
    times: BTreeMap<Who, u64>,
}

impl Agenda {
    /// Sees to it that somebody's turn comes at this time at the latest.
    pub(super) fn wake(&mut self, who: Who, at_ns: u64) {
        match self.times.get(&who) {
            Some(&other_ns) if other_ns <= at_ns => return,
            Some(&other_ns) => self.queue.remove(&(other_ns, who)),
            None => false,
        };
        self.times.insert(who, at_ns);
        self.queue.insert((at_ns, who));
    }

    /// When somebody's turn comes.
    pub(super) fn time_of(&self, who: Who) -> Option<u64> {
        self.times.get(&who).copied()
    }

    /// Takes out all whose time has come, nodes first, by their numbers.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Vec<Who> {
        let mut due = Vec::new();
        while let Some(&(at_ns, who)) = self.queue.first()
            && at_ns <= now_ns
        {
            self.queue.pop_first();
            self.times.remove(&who);
            due.push(who);
        }
        due.sort_unstable();
        due
    }
}
