//! How a client ends: by a drain, which loses nothing, or at once.
//!
//! Owns the steps of a drain. Must not know how frames are written. The steps: open requests end; DRAIN ends the
//! subscriptions at the broker, and its answer comes after their last events; the readers read to the end, and may
//! still publish; then publishing is refused, and a last ping proves that everything arrived. If the connection breaks
//! in between, the subscriptions end there, and unsent publishes go over the next connection. Invariant: each step is
//! left once, and never entered again.

use super::outgoing::{Ask, Pending, Place};
use super::{ConnectionEvent, End};
use super::{Link, Machine, Outcome, Output, Reader, Standing, Token, write_drain, write_ping};
use crate::error::{CloseReason, Disconnect, Doubt, RequestError};
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Waiting for open requests to end.
    Calls,
    /// DRAIN was sent, and its answer is awaited.
    Asked,
    /// Waiting for the readers of the subscriptions to reach the end.
    Readers,
    /// Publishing is refused. Holds whether the last ping was queued on this connection.
    Flushing { is_asked: bool },
}

/// A drain started by this side.
#[derive(Debug)]
pub(super) struct Drain {
    token: Option<Token>,
    pub(super) deadline: Duration,
    step: Step,
    /// A connection broke with publishes that may not have arrived.
    doubt: Option<Doubt>,
}

impl Drain {
    /// Whether publishing is refused.
    pub(super) fn is_flushing(&self) -> bool {
        matches!(self.step, Step::Flushing { .. })
    }
}

impl Machine {
    /// Finishes what is in flight, then closes. The token comes back with `Acknowledged` when everything was done, with
    /// `Unknown` if a connection broke meanwhile and took fire-and-forget publishes with it, with `TimedOut` after
    /// `drain_timeout`, or with `Closed` if the client is closed before. A second drain during the first gets `Closed`.
    pub fn drain(&mut self, now: Duration, token: Option<Token>) {
        self.now = self.now.max(now);
        let reason = self.closed.clone().or(self.closing.clone());
        if reason.is_some() || self.drain.is_some() {
            if let Some(token) = token {
                let reason = reason.unwrap_or(CloseReason::Drained);
                self.complete(token, Outcome::Closed(reason));
            }
            return;
        }
        self.drain = Some(Drain {
            token,
            deadline: now.saturating_add(self.config.drain_timeout),
            step: Step::Calls,
            doubt: None,
        });
        self.advance_drain();
    }

    /// Advances a drain as far as possible.
    pub(super) fn advance_drain(&mut self) {
        // Ends because each round leaves a step for good.
        loop {
            let Some(drain) = &mut self.drain else { return };
            let next = match drain.step {
                Step::Calls if self.calls.open() > 0 => return,
                Step::Calls => match &self.link {
                    Link::Open(open) if open.is_leaving() => return,
                    Link::Open(_) => {
                        self.outgoing
                            .push_request(Place::Last, self.now, Ask::Drain, write_drain);
                        Step::Asked
                    }
                    Link::Greeting { .. } | Link::Leaving { .. } => return,
                    Link::Waiting { .. } | Link::Connecting { .. } | Link::Closed => {
                        self.end_subscriptions();
                        Step::Readers
                    }
                },
                Step::Asked => return,
                Step::Readers if self.subscriptions.iter().any(|local| !local.is_finished) => {
                    return;
                }
                Step::Readers => Step::Flushing { is_asked: false },
                Step::Flushing { is_asked: true } => return,
                Step::Flushing { is_asked: false } => match &self.link {
                    Link::Open(open) if !open.is_leaving() => {
                        self.outgoing.push_request(
                            Place::Last,
                            self.now,
                            Ask::LastPing,
                            write_ping,
                        );
                        Step::Flushing { is_asked: true }
                    }
                    _ if self.outgoing.window() == (0, 0) => {
                        self.finish_drain(Outcome::Acknowledged(0));
                        return;
                    }
                    _ => return,
                },
            };
            if let Some(drain) = &mut self.drain {
                drain.step = next;
            }
        }
    }

    /// Handles the answer to a drain's DRAIN: no more events follow.
    pub(super) fn handle_drained(&mut self) {
        if let Some(drain) = &mut self.drain
            && drain.step == Step::Asked
        {
            drain.step = Step::Readers;
            self.end_subscriptions();
            self.advance_drain();
        }
    }

    /// Records that publishes may have been lost, so that a drain in progress cannot claim otherwise.
    pub(super) fn doubt_drain(&mut self, doubt: &Doubt) {
        if let Some(drain) = &mut self.drain {
            drain.doubt = Some(doubt.clone());
        }
    }

    /// The connection ended during a drain: requests on it will not be answered.
    pub(super) fn interrupt_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        match &mut drain.step {
            Step::Asked => self.handle_drained(),
            Step::Flushing { is_asked } => *is_asked = false,
            Step::Calls | Step::Readers => {}
        }
    }

    /// Ends a drain and closes the client.
    pub(super) fn finish_drain(&mut self, outcome: Outcome) {
        let Some(drain) = self.drain.take() else {
            return;
        };
        let outcome = match (outcome, drain.doubt) {
            (Outcome::Acknowledged(_), Some(doubt)) => Outcome::Unknown(doubt),
            (outcome, _) => outcome,
        };
        if let Some(token) = drain.token {
            self.complete(token, outcome);
        }
        self.close(CloseReason::Drained);
    }

    fn end_subscriptions(&mut self) {
        let ids: Vec<_> = self.subscriptions.iter().map(|local| local.id).collect();
        for id in ids {
            self.subscriptions.deactivate(id);
            let Some(local) = self.subscriptions.find(id) else {
                continue;
            };
            match std::mem::replace(&mut local.standing, Standing::Ended) {
                Standing::Asked(Some((token, _))) => {
                    self.asked -= 1;
                    let reason = self.closed.clone().unwrap_or(CloseReason::Drained);
                    self.complete(token, Outcome::Closed(reason));
                }
                Standing::Refused(refusal) => local.standing = Standing::Refused(refusal),
                Standing::Asked(None) | Standing::Active | Standing::Ended => {}
            }
            self.tell_readable(Reader::Subscription(id));
        }
    }

    /// Closes for good, at once.
    pub fn close(&mut self, reason: CloseReason) {
        if self.closed.is_some() || self.closing.is_some() {
            return;
        }
        match self.link {
            Link::Waiting { .. } | Link::Closed => self.finish_close(reason),
            Link::Connecting { .. }
            | Link::Greeting { .. }
            | Link::Open(_)
            | Link::Leaving { .. } => {
                self.closing = Some(reason);
                self.disconnect(Disconnect::Closed);
            }
        }
    }

    /// Tells all waiters that nothing will come, once there is no connection.
    pub(super) fn finish_close(&mut self, reason: CloseReason) {
        self.link = Link::Closed;
        self.closed = Some(reason.clone());
        self.closing = None;
        for Pending { ask, .. } in self.outgoing.clear() {
            if let Some(token) = ask.token() {
                self.complete(token, Outcome::Closed(reason.clone()));
            }
        }
        self.end_subscriptions();
        for call in self.calls.open_but(&BTreeSet::new()) {
            let error = RequestError::Closed(reason.clone());
            self.end_call(call, End::Failed(error));
        }
        if let Some(Drain {
            token: Some(token), ..
        }) = self.drain.take()
        {
            self.complete(token, Outcome::Closed(reason.clone()));
        }
        self.tell(ConnectionEvent::Closed(reason));
        if std::mem::take(&mut self.is_starved) {
            self.outputs.push_back(Output::Room);
        }
    }
}
