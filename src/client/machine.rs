//! The client as a state machine without I/O.
//!
//! It owns everything that a client knows and decides: connection states, queued writes, which request an answer
//! belongs to, which subscription an event is for, and when to reconnect. It must not know sockets, clocks, threads or
//! async: a driver calls `handle_` when something happened and `poll_` to learn what to do. Time is passed in as the
//! [`Duration`] since any fixed moment, and randomness as one seed. The same calls give the same outputs, always.
//!
//! A driver's loop: [`handle_time`](Machine::handle_time), then [`poll_action`](Machine::poll_action) (connect,
//! disconnect), then write what [`poll_transmit`](Machine::poll_transmit) gives, then read if
//! [`wants_read`](Machine::wants_read) and pass the bytes to [`handle_bytes`](Machine::handle_bytes); then wait for the
//! socket, for [`next_deadline`](Machine::next_deadline), or for another thread that used the machine. After each call
//! it takes the [`Output`]s, which name what others wait for. Each connection ends with
//! [`handle_disconnected`](Machine::handle_disconnected), whichever side ended it.
//!
//! # What is promised when a connection breaks
//!
//! A frame of which the socket took no byte is kept, in order, and written to the next connection, after every
//! subscription was made again. A request of which it took one byte or more is reported as [`Outcome::Unknown`], and
//! never written again. Fire-and-forget publishes have no record, so they are counted: those that were written, and
//! that no later answer has proved received, are reported by [`ConnectionEvent::Unconfirmed`]. (The broker handles
//! frames in order: any answer proves all frames before it.)
//!
//! # Full queues
//!
//! Events wait in a bounded queue for each subscription. When one is full, the default is to stop reading the socket:
//! the broker then sees a slow consumer, applies the connection's policy, and reports with GAP what it dropped. That is
//! back-pressure without a second set of rules. It has one trap: answers come on the same stream as events, so a task
//! that awaits the confirmation of a publish while its own subscription's queue is full would wait for ever, and so
//! would every other task of the client. Therefore, while an answer is awaited, reading goes on past full queues, up to
//! [`queues_bytes_max`](crate::Config::queues_bytes_max) in all. That cap is twice what a broker queues for one
//! connection by default, so everything before the answer fits. Beyond that cap, a queue that is over its own cap drops
//! its oldest events and tells its reader, at the same place and by the same [`Event::Gap`](crate::Event::Gap) as if
//! the broker had dropped them. So memory is bounded, nothing is lost silently, and no wait is for ever. A subscription
//! that must never hold up the others uses [`Overflow::DropOldest`] instead.
//!
//! Start at [`Machine`], then `outgoing.rs` (writes and answers), `incoming.rs` (events), `link.rs` (connections).

mod calls;
mod ending;
mod incoming;
mod link;
mod outgoing;
mod queue;
mod state;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use calls::CallId;
pub use outgoing::Transmit;
pub use state::Placed;
pub use subscriptions::SubscriptionId;

use crate::config::{Config, ConfigError, Overflow};
use crate::error::{
    CloseReason, Disconnect, Doubt, MessageError, PingError, PublishError, Refusal, RequestError,
    SubscribeError,
};
use crate::message::Batch;
use bytes::Bytes;
use calls::{Calls, End, Reply};
use ending::Drain;
use link::{Link, Random};
use outgoing::{Ask, Outgoing, Place};
use queue::{Gauge, Given, Queue};
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::native::{self, Parts, kind};
use sapwood_wire::scope::Scope;
use sapwood_wire::topic;
use std::collections::VecDeque;
use std::time::Duration;
use subscriptions::{IsLast, Standing, Subscriptions};

/// A number chosen by the caller, which comes back with the operation's [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// An action for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to this address, then call `handle_connected`, or `handle_disconnected` if that fails.
    Connect {
        /// Index into [`Config::addresses`].
        address: usize,
    },
    /// Close the connection, or stop connecting, and call `handle_disconnected`.
    Disconnect,
}

/// The outcome of an acknowledged operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. Holds the count of the ACK.
    Acknowledged(u32),
    /// A publish was stored, or refused by the stream.
    Stored(Placed),
    /// The parts of a CALL's answer.
    Answered(Vec<Bytes>),
    /// The broker refused it; nothing has changed.
    Refused(Refusal),
    /// It may or may not have been done.
    Unknown(Doubt),
    /// It was not done in time (a subscribe or a drain).
    TimedOut,
    /// It was not done: the client was closed.
    Closed(CloseReason),
}

/// A reader with something to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    /// [`Machine::take`].
    Subscription(SubscriptionId),
    /// [`Machine::take_reply`].
    Call(CallId),
}

/// News for others than the driver. Must be taken after each call, or outputs pile up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An acknowledged operation has ended.
    Completed {
        /// The caller's number.
        token: Token,
        /// The outcome.
        outcome: Outcome,
    },
    /// Something can be taken from this reader, after it was empty.
    Readable(Reader),
    /// The window has room again, after an operation was refused because it was full.
    Room,
    /// A connection event.
    Event(ConnectionEvent),
}

/// A connection event, for logs and for programs that react to them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker accepted the client.
    Connected {
        /// The address.
        address: String,
        /// The broker's name and version.
        broker: String,
        /// The connection's id on the broker.
        client: u64,
        /// Id of this run of the broker; it changes when the broker is restarted.
        run: String,
    },
    /// Connecting to an address failed; another one, or the same, is tried.
    ConnectFailed {
        /// The address.
        address: String,
        /// The reason.
        reason: Disconnect,
    },
    /// The connection ended. Another one is made unless the client is closed.
    Disconnected {
        /// The reason.
        reason: Disconnect,
    },
    /// Fire-and-forget publishes written to a connection that ended. It is unknown whether they arrived.
    Unconfirmed {
        /// Number of publishes.
        publishes: u64,
    },
    /// The broker refused a fire-and-forget publish.
    Refused(Refusal),
    /// The broker dropped events because this client is a slow consumer.
    Gap {
        /// Number of events, of all subscriptions.
        events: u64,
    },
    /// The broker will stop within this time. The client finishes what is in flight and connects elsewhere.
    Draining {
        /// The time left.
        within: Duration,
    },
    /// The client is closed for good.
    Closed(CloseReason),
    /// This reader of connection events was late, and events before the next one were dropped.
    Missed {
        /// Number of events.
        events: u64,
    },
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Connections that the broker accepted.
    pub connections: u64,
    /// Fire-and-forget publishes of which it is unknown whether they arrived.
    pub unconfirmed_publishes: u64,
    /// Fire-and-forget publishes that the broker refused.
    pub refused_publishes: u64,
    /// Events that the broker dropped because this client was a slow consumer.
    pub gap_events: u64,
}

/// What [`Machine::take`] returns.
#[derive(Debug)]
pub enum Taken {
    /// Events, in order.
    Batch(Batch),
    /// See [`Event::Gap`](crate::Event::Gap).
    Gap {
        /// Number of events.
        events: u64,
    },
    /// See [`Event::Reconnected`](crate::Event::Reconnected).
    Reconnected,
    /// See [`Event::Refused`](crate::Event::Refused).
    Refused(Refusal),
    /// Nothing yet. [`Output::Readable`] will follow.
    Empty,
    /// Nothing, and nothing will follow.
    Ended,
}

/// What [`Machine::take_reply`] returns.
#[derive(Debug)]
pub enum TakenReply {
    /// Replies, in order.
    Batch(Batch),
    /// An error. After a gap, more may follow.
    Failed(RequestError),
    /// Nothing yet. [`Output::Readable`] will follow.
    Empty,
    /// Nothing, and nothing will follow.
    Ended,
}

/// The parameters of a new subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    /// A topic or a wildcard.
    pub filter: &'a [u8],
    /// The queue group; empty for none.
    pub group: &'a [u8],
    /// The cap of its queue in bytes; `None` for the configured one.
    pub queue_bytes: Option<usize>,
    /// The policy at that cap.
    pub overflow: Overflow,
}

/// The client without I/O. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    config: Config,
    random: Random,
    /// The latest time passed in.
    now: Duration,
    link: Link,
    action: Option<Action>,
    /// The address of the current or next connection.
    address: usize,
    /// Addresses that failed in this round.
    failed_addresses: usize,
    /// Consecutive failed rounds, short connections included.
    failed_rounds: u32,
    last_failure: Option<(usize, Disconnect)>,
    payload_max: usize,
    outgoing: Outgoing,
    subscriptions: Subscriptions,
    /// Subscribes whose callers await confirmation.
    asked: usize,
    calls: Calls,
    inbox_is_wanted: bool,
    /// Requests queued since the last frame whose answer would prove them received.
    unproved_calls: usize,
    gauge: Gauge,
    /// Scratch buffer for the subscriptions of the current run.
    places: Vec<u32>,
    drain: Option<Drain>,
    closing: Option<CloseReason>,
    closed: Option<CloseReason>,
    /// A caller was told that the window is full.
    is_starved: bool,
    next_scan: Duration,
    outputs: VecDeque<Output>,
    statistics: Statistics,
}

impl Machine {
    /// A client that connects at its first `handle_time`. The seed must not be guessable, because the secret part of
    /// reply topics comes from it.
    pub fn new(config: Config, seed: u128, now: Duration) -> Result<Machine, ConfigError> {
        config.check()?;
        let mut random = Random::new(seed as u64);
        let secret = seed ^ u128::from(random.next()) << 64;
        Ok(Machine {
            config,
            random,
            now,
            link: Link::Waiting { until: now },
            action: None,
            address: 0,
            failed_addresses: 0,
            failed_rounds: 0,
            last_failure: None,
            payload_max: PAYLOAD_BYTES_MAX,
            outgoing: Outgoing::default(),
            subscriptions: Subscriptions::default(),
            asked: 0,
            calls: Calls::new(secret),
            inbox_is_wanted: false,
            unproved_calls: 0,
            gauge: Gauge::default(),
            places: Vec::new(),
            drain: None,
            closing: None,
            closed: None,
            is_starved: false,
            next_scan: now,
            outputs: VecDeque::new(),
            statistics: Statistics::default(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Totals since the start.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The reason why the client is closed, if it is.
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether `poll_action` would return an action, for a caller that must wake the driver.
    pub fn has_action(&self) -> bool {
        self.action.is_some()
    }

    /// The next action for the driver.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// Queues a fire-and-forget publish. [`PublishError::Full`] while the window is full.
    pub fn publish(&mut self, parts: &Parts<'_>) -> Result<(), PublishError> {
        self.check_publish(parts)?;
        if self.outgoing.window().0 >= self.config.window_bytes {
            self.is_starved = true;
            return Err(PublishError::Full);
        }
        self.outgoing
            .push_message(parts)
            .map_err(|error| PublishError::Invalid(MessageError::Parts(error)))
    }

    /// Queues a publish that is acknowledged with the number of subscriptions that it reached.
    pub fn publish_confirmed(
        &mut self,
        now: Duration,
        token: Token,
        parts: &Parts<'_>,
    ) -> Result<(), PublishError> {
        self.check_publish(parts)?;
        if !self.has_room() {
            return Err(PublishError::Full);
        }
        self.outgoing
            .push_publish(now, Ask::Publish(Some(token)), parts)
            .map_err(|error| PublishError::Invalid(MessageError::Parts(error)))
    }

    /// Queues a PING. Its answer proves that the broker received everything queued before.
    pub fn ping(&mut self, now: Duration, token: Token) -> Result<(), PingError> {
        self.check_open().map_err(PingError::Closed)?;
        if !self.has_room() {
            return Err(PingError::Full);
        }
        let ask = Ask::Ping(Some(token));
        self.outgoing
            .push_request(Place::Last, now, ask, write_ping);
        Ok(())
    }

    /// Publishes a request. `parts.reply` is chosen here.
    pub fn request(
        &mut self,
        now: Duration,
        parts: &Parts<'_>,
        timeout: Duration,
    ) -> Result<CallId, RequestError> {
        self.check_subscribing().map_err(RequestError::Closed)?;
        let reply = self.calls.reply_topic(self.calls.upcoming());
        let parts = Parts {
            reply: Some(&reply),
            ..*parts
        };
        self.check_message(&parts).map_err(RequestError::Invalid)?;
        if !self.has_room() || self.calls.len() >= self.config.window_requests {
            self.is_starved = true;
            return Err(RequestError::Full);
        }
        if !self.inbox_is_wanted {
            self.inbox_is_wanted = true;
            if self.link.is_opening_written() {
                self.subscribe_inbox(Place::Last);
            }
        }
        let ask = Ask::Call(self.calls.upcoming());
        self.outgoing
            .push_publish(now, ask, &parts)
            .map_err(|error| RequestError::Invalid(MessageError::Parts(error)))?;
        let queue = Queue::new(self.config.queue_bytes, Overflow::Wait);
        let call = self.calls.insert(now, timeout, queue);
        self.unproved_calls += 1;
        self.prove_calls();
        Ok(call)
    }

    /// Queues a ping if too many requests have no proof of receipt. Requests answered by replies alone leave their
    /// records behind, and only an answer to a later frame removes them.
    fn prove_calls(&mut self) {
        let (bytes, _) = self.outgoing.window();
        let is_due = self.unproved_calls > self.config.window_requests / 4
            || bytes > self.config.window_bytes / 2;
        if is_due && self.link.is_open() {
            self.probe();
        }
    }

    /// Queues a ping of the machine itself.
    fn probe(&mut self) {
        self.unproved_calls = 0;
        self.outgoing
            .push_request(Place::Last, self.now, Ask::Probe, write_ping);
    }

    /// Takes the next replies to a request.
    pub fn take_reply(&mut self, call: CallId) -> TakenReply {
        match self.calls.take(call, &mut self.gauge) {
            Reply::Given(Given::Batch(batch)) => TakenReply::Batch(batch),
            Reply::Given(Given::Gap(events)) => TakenReply::Failed(RequestError::Gap { events }),
            Reply::Given(Given::Reconnected) | Reply::Empty => TakenReply::Empty,
            Reply::Failed(error) => TakenReply::Failed(error),
            Reply::Ended => TakenReply::Ended,
        }
    }

    /// Abandons a request. Replies that still arrive are skipped.
    pub fn forget_call(&mut self, call: CallId) {
        self.calls.remove(call, &mut self.gauge);
        self.advance_drain();
        self.tell_room();
    }

    /// Makes a subscription, which receives events once its token came back with `Acknowledged`. After any other
    /// outcome there is no subscription.
    pub fn subscribe(
        &mut self,
        now: Duration,
        token: Token,
        filter: &Filter<'_>,
    ) -> Result<SubscriptionId, SubscribeError> {
        self.check_subscribing().map_err(SubscribeError::Closed)?;
        topic::check_wildcard(filter.filter).map_err(SubscribeError::Filter)?;
        if filter.group.len() > usize::from(u8::MAX) {
            return Err(SubscribeError::GroupTooLong(filter.group.len()));
        }
        if !self.has_room() {
            return Err(SubscribeError::Full);
        }
        let bytes_max = filter.queue_bytes.unwrap_or(self.config.queue_bytes);
        let queue = Queue::new(bytes_max.max(1), filter.overflow);
        let standing = Standing::Asked(Some((token, now)));
        let id = self
            .subscriptions
            .insert(filter.filter, filter.group, standing, queue);
        self.asked += 1;
        if self.link.is_opening_written()
            && let Some(local) = self.subscriptions.find(id)
        {
            let key = local.key();
            self.outgoing
                .push_request(Place::Last, now, Ask::Subscribe(id), |out, request| {
                    native::write_subscription(out, kind::SUBSCRIBE, request, &key);
                });
        }
        Ok(id)
    }

    /// Ends a subscription and drops its queue.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        let Some((local, is_last)) = self.subscriptions.remove(id, &mut self.gauge) else {
            return;
        };
        if let Standing::Asked(Some((token, _))) = local.standing {
            self.asked -= 1;
            self.complete(token, Outcome::Closed(CloseReason::Closed));
        }
        let is_known = matches!(local.standing, Standing::Asked(_) | Standing::Active);
        if is_last == IsLast::Yes && is_known && self.link.is_opening_written() {
            let key = local.key();
            self.outgoing
                .push_request(Place::Last, self.now, Ask::Unsubscribe, |out, request| {
                    native::write_subscription(out, kind::UNSUBSCRIBE, request, &key);
                });
        }
        self.advance_drain();
    }

    /// Takes the next events of a subscription. After `Ended` its reader counts as done.
    pub fn take(&mut self, id: SubscriptionId) -> Taken {
        let Some(local) = self.subscriptions.find(id) else {
            return Taken::Ended;
        };
        match local.queue.take(&mut self.gauge) {
            Some(Given::Batch(batch)) => return Taken::Batch(batch),
            Some(Given::Gap(events)) => return Taken::Gap { events },
            Some(Given::Reconnected) => return Taken::Reconnected,
            None => {}
        }
        match &local.standing {
            Standing::Asked(_) | Standing::Active => Taken::Empty,
            Standing::Refused(refusal) => {
                let refusal = refusal.clone();
                local.standing = Standing::Ended;
                Taken::Refused(refusal)
            }
            Standing::Ended => {
                local.is_finished = true;
                self.advance_drain();
                Taken::Ended
            }
        }
    }

    fn check_open(&self) -> Result<(), CloseReason> {
        let reason = self.closed.as_ref().or(self.closing.as_ref());
        match reason {
            Some(reason) => Err(reason.clone()),
            None if self.drain.as_ref().is_some_and(Drain::is_flushing) => {
                Err(CloseReason::Drained)
            }
            None => Ok(()),
        }
    }

    fn check_subscribing(&self) -> Result<(), CloseReason> {
        self.check_open()?;
        match self.drain {
            Some(_) => Err(CloseReason::Drained),
            None => Ok(()),
        }
    }

    fn check_publish(&self, parts: &Parts<'_>) -> Result<(), PublishError> {
        self.check_open().map_err(PublishError::Closed)?;
        self.check_message(parts).map_err(PublishError::Invalid)
    }

    /// Refuses locally what the broker would refuse, so that the caller learns which publish it was.
    fn check_message(&self, parts: &Parts<'_>) -> Result<(), MessageError> {
        topic::check_name(parts.topic).map_err(MessageError::Topic)?;
        Scope::parse(parts.topic).map_err(MessageError::Scope)?;
        if let Some(reply) = parts.reply {
            topic::check_name(reply).map_err(MessageError::Reply)?;
        }
        if parts.payload.len() > self.payload_max {
            return Err(MessageError::PayloadTooLong {
                length: parts.payload.len(),
                max: self.payload_max,
            });
        }
        Ok(())
    }

    /// Whether one more request fits the window. If not, `Room` will be reported later.
    fn has_room(&mut self) -> bool {
        let (bytes, requests) = self.outgoing.window();
        let has_room = bytes < self.config.window_bytes && requests < self.config.window_requests;
        self.is_starved |= !has_room;
        has_room
    }

    /// Reports room once half of the window is free: waiters would compete for a single place.
    fn tell_room(&mut self) {
        let (bytes, requests) = self.outgoing.window();
        if self.is_starved
            && bytes <= self.config.window_bytes / 2
            && requests <= self.config.window_requests / 2
            && self.calls.len() < self.config.window_requests
        {
            self.is_starved = false;
            self.outputs.push_back(Output::Room);
        }
    }

    fn subscribe_inbox(&mut self, place: Place) {
        let inbox = self.calls.inbox();
        self.outgoing
            .push_request(place, self.now, Ask::Inbox, |out, request| {
                let key = native::Subscription {
                    member: 0,
                    group: b"",
                    filter: &inbox,
                };
                native::write_subscription(out, kind::SUBSCRIBE, request, &key);
            });
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        self.outputs.push_back(Output::Completed { token, outcome });
    }

    fn tell(&mut self, event: ConnectionEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    fn tell_readable(&mut self, reader: Reader) {
        self.outputs.push_back(Output::Readable(reader));
    }

    fn end_call(&mut self, call: CallId, end: End) {
        if self.calls.end(call, end) {
            self.tell_readable(Reader::Call(call));
        }
    }
}

fn write_ping(out: &mut Vec<u8>, request: u32) {
    native::write_request(out, kind::PING, request);
}

fn write_drain(out: &mut Vec<u8>, request: u32) {
    native::write_request(out, kind::DRAIN, request);
}
