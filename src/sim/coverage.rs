//! How often the situations came up that the simulator exists to reach.

use std::fmt;

/// The situations; a set of seeds that misses one is too small or too tame.
const NAMES: &[&str] = &[
    "events read",
    "native events read",
    "headers read",
    "turns read",
    "native requests refused",
    "native closings explained",
    "draining read",
    "gap read",
    "gap between kept events",
    "gap behind an answer",
    "shared bodies lost",
    "turns across shards",
    "told to end",
    "fair groups",
    "losses listed",
    "machine connects",
    "machine cut",
    "machine in doubt",
    "machine publishes unconfirmed",
    "machine told of a new connection",
    "machine holds back reading",
    "lost by drop-oldest",
    "lost by latest",
    "turn retried",
    "turn unheard",
    "events across shards",
    "shared bodies",
    "barrier waits",
    "publishers stalled",
    "readers stalled",
    "publishers stalled for subscribers",
    "credit waits",
    "gathered answers",
    "input flushed in the middle",
    "batch flushed in the middle",
    "exec suspended",
    "events inside exec",
    "events kept for exec",
    "partial writes",
    "half commands",
    "vanished held",
    "places used again",
    "closed: outbox full",
    "closed: outboxes full",
    "closed: inputs full",
    "closed: protocol",
    "closed: guest timeout",
    "closed: killed",
    "closed: quit",
    "closed: too many",
    "killed itself",
    "transaction too large",
    "call refused",
    "subscription refused",
];

/// Counts of situations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage(Vec<u64>);

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage(vec![0; NAMES.len()])
    }
}

impl Coverage {
    pub(crate) fn hit(&mut self, name: &'static str) {
        self.count(name, 1);
    }

    pub(crate) fn count(&mut self, name: &'static str, times: u64) {
        let place = NAMES.iter().position(|&other| other == name);
        // invariant: every situation that is counted has a name in the list.
        self.0[place.expect("a situation in the list")] += times;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Coverage) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Situations that never came up.
    pub fn missing(&self) -> Vec<&'static str> {
        let all = NAMES.iter().zip(&self.0);
        all.filter(|&(_, &count)| count == 0)
            .map(|(&name, _)| name)
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in NAMES.iter().zip(&self.0) {
            writeln!(out, "{count:>12}  {name}")?;
        }
        Ok(())
    }
}
