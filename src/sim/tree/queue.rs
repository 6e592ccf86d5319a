//! Events in the order of their times; those of the same time in the order in which they came.
//!
//! Those of the near future are kept in order, the others in heaps of a millisecond each: with millions of them waiting, one
//! ordered whole costs more than everything that the events lead to.

use super::world::Event;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Events of a span of so many nanoseconds are put in order together.
const SPAN_NS: u64 = 1_000_000;

#[derive(Debug)]
struct Entry {
    at_ns: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// What will happen.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Events of the spans up to this one.
    span: u64,
    near: BinaryHeap<Reverse<Entry>>,
    /// By later spans.
    later: BTreeMap<u64, Vec<Reverse<Entry>>>,
    pushed: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at_ns: u64, event: Event) {
        let number = self.pushed;
        self.pushed += 1;
        let entry = Reverse(Entry {
            at_ns,
            number,
            event,
        });
        let span = at_ns / SPAN_NS;
        match span <= self.span {
            true => self.near.push(entry),
            false => self.later.entry(span).or_default().push(entry),
        }
    }

    /// Takes the first event out, if its time is not behind this one.
    pub(super) fn pop(&mut self, until_ns: u64) -> Option<(u64, Event)> {
        if self.near.is_empty() {
            let (&span, _) = self.later.first_key_value()?;
            if span > until_ns / SPAN_NS {
                return None;
            }
            self.span = span;
            self.near = self.later.remove(&span)?.into();
        }
        if self.near.peek()?.0.at_ns > until_ns {
            return None;
        }
        let Reverse(entry) = self.near.pop()?;
        Some((entry.at_ns, entry.event))
    }
}
