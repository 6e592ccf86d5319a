//! Requests that wait for replies.
//!
//! Owns the inbox prefix, the numbers that make reply topics, and the replies until they are taken. Must not know how a
//! request is published. Invariants: a number is used once; an ended call takes no more replies; each open call has
//! exactly one entry among the deadlines. Start at [`Calls::route`].

use super::queue::{Gauge, Given, Queue};
use crate::error::RequestError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Id of a request, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(super) u64);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By a reply with the end mark.
    Marked,
    /// By an error, which its caller is told once.
    Failed(RequestError),
}

#[derive(Debug)]
struct Call {
    queue: Queue,
    timeout: Duration,
    deadline: Duration,
    end: Option<End>,
}

/// What a call returns to its caller.
#[derive(Debug)]
pub(super) enum Reply {
    Given(Given),
    Failed(RequestError),
    Empty,
    Ended,
}

/// All requests of a client, see the module.
#[derive(Debug)]
pub(super) struct Calls {
    /// `_INBOX.`, an unguessable token, and a dot.
    prefix: Vec<u8>,
    /// Boxed, because the map moves its entries on insert and remove.
    calls: BTreeMap<u64, Box<Call>>,
    deadlines: BTreeSet<(Duration, u64)>,
    last: u64,
}

impl Calls {
    pub(super) fn new(secret: u128) -> Calls {
        Calls {
            prefix: format!("_INBOX.{secret:032x}.").into_bytes(),
            calls: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last: 0,
        }
    }

    /// The filter that matches all reply topics.
    pub(super) fn inbox(&self) -> Vec<u8> {
        [&self.prefix, &b"*"[..]].concat()
    }

    /// The reply topic of this call.
    pub(super) fn reply_topic(&self, call: CallId) -> Vec<u8> {
        let mut topic = self.prefix.clone();
        topic.extend_from_slice(call.0.to_string().as_bytes());
        topic
    }

    /// The id that [`insert`](Calls::insert) will use.
    pub(super) fn upcoming(&self) -> CallId {
        CallId(self.last + 1)
    }

    pub(super) fn insert(&mut self, now: Duration, timeout: Duration, queue: Queue) -> CallId {
        self.last += 1;
        let deadline = now.saturating_add(timeout);
        self.deadlines.insert((deadline, self.last));
        let call = Call {
            queue,
            timeout,
            deadline,
            end: None,
        };
        self.calls.insert(self.last, Box::new(call));
        CallId(self.last)
    }

    /// Number of calls that have not ended.
    pub(super) fn open(&self) -> usize {
        self.deadlines.len()
    }

    /// Number of calls that their callers still hold.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The open call whose reply topic this is.
    pub(super) fn route(&self, topic: &[u8]) -> Option<CallId> {
        let number = topic.strip_prefix(self.prefix.as_slice())?;
        let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        let call = self.calls.get(&number)?;
        call.end.is_none().then_some(CallId(number))
    }

    /// The queue of a call, for a reply that arrived. Restarts the call's time-out.
    pub(super) fn handle_reply(&mut self, now: Duration, id: CallId) -> Option<&mut Queue> {
        let call = self.calls.get_mut(&id.0)?;
        if call.end.is_none() {
            self.deadlines.remove(&(call.deadline, id.0));
            call.deadline = now.saturating_add(call.timeout);
            self.deadlines.insert((call.deadline, id.0));
        }
        Some(&mut call.queue)
    }

    /// Ends a call that is still open. Returns whether there is something to tell.
    pub(super) fn end(&mut self, id: CallId, end: End) -> bool {
        match self.calls.get_mut(&id.0) {
            Some(call) if call.end.is_none() => {
                self.deadlines.remove(&(call.deadline, id.0));
                call.end = Some(end);
                true
            }
            _ => false,
        }
    }

    /// The broker dropped events, perhaps with replies among them. Returns the calls to tell.
    pub(super) fn mark_gap(&mut self, events: u64) -> Vec<CallId> {
        let open = self.calls.iter_mut().filter(|(_, call)| call.end.is_none());
        open.map(|(number, call)| {
            call.queue.mark_gap(events);
            CallId(*number)
        })
        .collect()
    }

    /// The open calls except `kept`, in order of their numbers.
    pub(super) fn open_but(&self, kept: &BTreeSet<CallId>) -> Vec<CallId> {
        let open = self.calls.iter().filter(|(_, call)| call.end.is_none());
        open.map(|(number, _)| CallId(*number))
            .filter(|id| !kept.contains(id))
            .collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends one call whose time-out has passed, and returns it.
    pub(super) fn expire(&mut self, now: Duration) -> Option<CallId> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let timeout = self.calls.get(&number).map(|call| call.timeout)?;
        let id = CallId(number);
        self.end(id, End::Failed(RequestError::TimedOut(timeout)));
        Some(id)
    }

    /// Takes the next replies of a call.
    pub(super) fn take(&mut self, id: CallId, gauge: &mut Gauge) -> Reply {
        let Some(call) = self.calls.get_mut(&id.0) else {
            return Reply::Ended;
        };
        if let Some(given) = call.queue.take(gauge) {
            return Reply::Given(given);
        }
        match &mut call.end {
            None => Reply::Empty,
            Some(end) => match std::mem::replace(end, End::Marked) {
                End::Marked => Reply::Ended,
                End::Failed(error) => Reply::Failed(error),
            },
        }
    }

    /// Removes a call, ended or not.
    pub(super) fn remove(&mut self, id: CallId, gauge: &mut Gauge) {
        if let Some(mut call) = self.calls.remove(&id.0) {
            call.queue.clear(gauge);
            self.deadlines.remove(&(call.deadline, id.0));
        }
    }
}
