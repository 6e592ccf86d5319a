//! Readers at the end of a stream who wait for more.
//!
//! Owns who waits for which stream, and until when. A wait keeps no request and counts as no open read. Must not know what
//! is stored. Invariants: whoever waits is answered once, by what is stored next, the end of the stream, or the clock.
//! Start at [`Worker::wait_for`].

use super::{Part, Tag, Worker};
use crate::limits::{WAIT_MS_MAX, WAITS_MAX};
use sapwood_wire::state::{
    ReadEnd, ReadHead, ReadPageWriter, Rest, ResumeToken, StreamNumber, Wait,
};
use std::collections::{BTreeMap, BTreeSet};

/// A stream, by the worker's place of its partition.
type Of = (usize, StreamNumber);

/// All waits of a worker.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_stream: BTreeMap<Of, BTreeMap<Tag, (ResumeToken, u64)>>,
    /// When each ends, ms since 1970.
    due: BTreeSet<(u64, Tag, Of)>,
}

impl Waits {
    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.due.len() >= WAITS_MAX
    }

    /// When the first ends, ms since 1970.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.due.first().map(|&(due_ms, ..)| due_ms)
    }
}

impl Worker {
    /// Lets a reader wait for what is stored next in a stream. There is room, and the token is that of its end.
    pub(super) fn wait_for(&mut self, tag: Tag, of: Of, wait: &Wait) {
        let due_ms = self.wall_ms.saturating_add(wait.ms.min(WAIT_MS_MAX));
        self.waits.due.insert((due_ms, tag, of));
        let waiting = self.waits.by_stream.entry(of).or_default();
        waiting.insert(tag, (wait.token, due_ms));
    }

    /// Answers a wait.
    pub(super) fn end_wait(&mut self, tag: Tag, token: ResumeToken, rest: Rest) {
        let head = ReadHead {
            end: Some(ReadEnd { rest, token }),
            ..ReadHead::default()
        };
        self.answers.push_with(tag, Part::Last, |out| {
            ReadPageWriter::new(Vec::new()).finish(&head, out);
        });
    }

    /// Something was stored in a stream, or it ended: its waits are over.
    pub(super) fn wake_waits(&mut self, of: Of) {
        for (tag, (token, due_ms)) in self.waits.by_stream.remove(&of).unwrap_or_default() {
            self.waits.due.remove(&(due_ms, tag, of));
            self.end_wait(tag, token, Rest::More);
        }
    }

    /// Ends the waits whose time is over.
    pub(super) fn end_late_waits(&mut self) {
        while let Some(&(due_ms, tag, of)) = self.waits.due.first()
            && due_ms <= self.wall_ms
        {
            self.waits.due.pop_first();
            // invariant: both hold the same waits.
            let waiting = self.waits.by_stream.get_mut(&of).expect("a wait");
            // invariant: as above.
            let (token, _) = waiting.remove(&tag).expect("a wait that is due");
            if waiting.is_empty() {
                self.waits.by_stream.remove(&of);
            }
            self.end_wait(tag, token, Rest::Done);
        }
    }
}
