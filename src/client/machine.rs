//! The client as a machine without I/O.
//!
//! It owns everything that a client knows and decides: the connection's states, what waits to be written, which request
//! an answer is for, whom an event reaches, when to try again. It must not know sockets, clocks, threads or async:
//! a driver calls `handle_` when something happened, asks `poll_` what to do, and gives time as the [`Duration`] since any
//! moment that it keeps to, and randomness as one seed. The same calls give the same outputs, always.
//!
//! A driver's round: [`handle_time`](Machine::handle_time), then [`poll_action`](Machine::poll_action) (connect,
//! disconnect), then write what [`poll_transmit`](Machine::poll_transmit) gives, then read if
//! [`wants_read`](Machine::wants_read) and pass the bytes to [`handle_bytes`](Machine::handle_bytes); then
//! wait for the socket, for [`next_deadline`](Machine::next_deadline), or for another thread that used the machine.
//! After each call it takes the [`Output`]s, which name what others wait for. Each connection ends with
//! [`handle_disconnected`](Machine::handle_disconnected), whoever ended it.
//!
//! # What is promised when a connection breaks
//!
//! A frame of which the socket took no byte is kept, in order, and written to the next connection, after
//! every subscription was made again. A request of which it took one byte or more is reported as
//! [`Outcome::Unknown`], and never written again. Fire-and-forget publishes cost no record, so they are counted: those
//! that were written and that no later answer has proved received are reported by
//! [`ConnectionEvent::Unconfirmed`]. (The broker handles frames in order: any answer proves all before it.)
//!
//! # Full queues
//!
//! Events wait in a bounded queue for each subscription. When one is full, the default is to stop reading the socket:
//! the broker then notices a slow reader, applies the connection's policy, and says with GAP what it dropped. That is
//! back-pressure without a second set of rules. It has one trap: answers come on the same stream as
//! events, so a task that awaits the confirmation of a publish while its own subscription's queue is full would
//! wait for ever, and so would every other task of the client. Therefore, while somebody awaits an answer, reading goes
//! on past full queues, up to [`queues_bytes_max`](crate::Config::queues_bytes_max) in all. That cap is twice what
//! a broker queues for one connection by default, so everything that stood before the answer has room.
//! At that cap the fullest rule is the only honest one left: the queue that is over its own cap drops its oldest
//! events and tells its reader, in the same place and by the same [`Event::Gap`](crate::Event::Gap) as if the broker had. So
//! memory is bounded, nothing is lost silently, and no wait is for ever.
//! A subscription that should never hold up the others asks for [`Overflow::DropOldest`] instead.
//!
//! Start reading at [`Machine`], then `outgoing.rs` (writes and answers), `incoming.rs` (events), `link.rs` (connections).

mod calls;
mod ending;
mod incoming;
mod link;
mod outgoing;
mod queue;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use calls::CallId;
pub use outgoing::Transmit;
pub use subscriptions::SubscriptionId;

use crate::config::{Config, ConfigError, Overflow};
use crate::error::{
    CloseReason, Disconnect, Doubt, MessageError, PingError, PublishError, Refusal, RequestError,
    SubscribeError,
};
use crate::message::Batch;
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

/// A number of the caller's choice, with which an operation's [`Outcome`] comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the address of this index, then call `handle_connected`; or `handle_disconnected` if
    /// that fails.
    Connect {
        /// Index into [`Config::addresses`].
        address: usize,
    },
    /// Close the connection, or stop connecting, and call `handle_disconnected`.
    Disconnect,
}

/// How an acknowledged operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. The number is the ACK's count.
    Acknowledged(u32),
    /// The broker refused it; nothing has changed.
    Refused(Refusal),
    /// It may or may not have been done.
    Unknown(Doubt),
    /// It was not done in time: a subscribe or a drain.
    TimedOut,
    /// It was not done: the client closed.
    Closed(CloseReason),
}

/// Who has something to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    /// [`Machine::take`].
    Subscription(SubscriptionId),
    /// [`Machine::take_reply`].
    Call(CallId),
}

/// What others than the driver wait for. To be taken after each call, or they gather.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An acknowledged operation has ended.
    Completed {
        /// The caller's number.
        token: Token,
        /// How.
        outcome: Outcome,
    },
    /// Something can be taken where nothing could.
    Readable(Reader),
    /// There is room in the window again, after an operation was told that it is full.
    Room,
    /// Something happened to the connection.
    Event(ConnectionEvent),
}

/// What happens to the connection, for logs and for programs that must know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker let the client in.
    Connected {
        /// The address that was connected to.
        address: String,
        /// The broker's name and version.
        broker: String,
        /// The connection's number on the broker.
        client: u64,
        /// Names this run of the broker: another value means that it was restarted.
        run: String,
    },
    /// An address could not be connected to; another one, or the same, is tried.
    ConnectFailed {
        /// The address.
        address: String,
        /// Why.
        reason: Disconnect,
    },
    /// The connection ended; another one is made unless the client is closed.
    Disconnected {
        /// Why.
        reason: Disconnect,
    },
    /// So many fire-and-forget publishes were written to the connection that ended, and it is not known whether they
    /// arrived.
    Unconfirmed {
        /// How many.
        publishes: u64,
    },
    /// The broker refused a fire-and-forget publish.
    Refused(Refusal),
    /// The broker dropped so many events because this client read too slowly.
    Gap {
        /// How many, of all subscriptions.
        events: u64,
    },
    /// The broker will stop within this time; the client finishes what is in flight and connects elsewhere.
    Draining {
        /// The broker's time.
        within: Duration,
    },
    /// The client is closed for good.
    Closed(CloseReason),
    /// This reader of events was late, and so many were dropped before the next.
    Missed {
        /// How many.
        events: u64,
    },
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Connections that the broker let in.
    pub connections: u64,
    /// Fire-and-forget publishes of which it is not known whether they arrived.
    pub unconfirmed_publishes: u64,
    /// Fire-and-forget publishes that the broker refused.
    pub refused_publishes: u64,
    /// Events that the broker dropped because this client read too slowly.
    pub gap_events: u64,
}

/// What a subscription has for its reader.
#[derive(Debug)]
pub enum Taken {
    /// Events, in order.
    Batch(Batch),
    /// See [`Event::Gap`](crate::Event::Gap).
    Gap {
        /// How many events.
        events: u64,
    },
    /// See [`Event::Reconnected`](crate::Event::Reconnected).
    Reconnected,
    /// See [`Event::Refused`](crate::Event::Refused).
    Refused(Refusal),
    /// Nothing yet. [`Output::Readable`] will say when.
    Empty,
    /// Nothing, and nothing will come.
    Ended,
}

/// What a request has for its caller.
#[derive(Debug)]
pub enum TakenReply {
    /// Replies, in order.
    Batch(Batch),
    /// What went wrong. If it is a gap, more may follow.
    Failed(RequestError),
    /// Nothing yet. [`Output::Readable`] will say when.
    Empty,
    /// Nothing, and nothing will come.
    Ended,
}

/// What a new subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    /// A topic or a wildcard.
    pub filter: &'a [u8],
    /// The group whose turns it shares; empty for none.
    pub group: &'a [u8],
    /// The cap of its queue; `None` for the configured one.
    pub queue_bytes: Option<usize>,
    /// What happens at that cap.
    pub overflow: Overflow,
}

/// The client without I/O. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    config: Config,
    random: Random,
    /// The latest time that a call has brought.
    now: Duration,
    link: Link,
    action: Option<Action>,
    /// The address of the current or next connection.
    address: usize,
    /// Addresses of this round that have failed.
    failed_addresses: usize,
    /// Rounds that have failed one after the other, and with them short connections.
    failed_rounds: u32,
    last_failure: Option<(usize, Disconnect)>,
    payload_max: usize,
    outgoing: Outgoing,
    subscriptions: Subscriptions,
    /// Callers that wait for the confirmation of their subscription.
    asked: usize,
    calls: Calls,
    inbox_is_wanted: bool,
    /// Requests for replies that were queued since the last one whose answer would prove them received.
    unproved_calls: usize,
    gauge: Gauge,
    /// Where the places of the current run are gathered, kept for its memory.
    places: Vec<u32>,
    drain: Option<Drain>,
    closing: Option<CloseReason>,
    closed: Option<CloseReason>,
    /// Somebody was told that the window is full.
    is_starved: bool,
    next_scan: Duration,
    outputs: VecDeque<Output>,
    statistics: Statistics,
}

impl Machine {
    /// A client that will connect at its first `handle_time`. The seed must not be guessable: what others may not
    /// know of the reply topics comes from it.
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

    /// Sums since the start.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Why the client is closed, if it is.
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// The next thing to tell others.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether `poll_action` would give something, for who must wake the driver.
    pub fn has_action(&self) -> bool {
        self.action.is_some()
    }

    /// What the driver has to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// Queues a publish that is not answered. `Full` while the window is.
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

    /// Queues a publish that is answered with the number of subscriptions that it reached.
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

    /// Queues a PING. Its answer proves that everything queued before has been received.
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

    /// Publishes a request for replies. `parts.reply` is chosen here.
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

    /// Requests that are answered by replies alone leave their records behind, which an answer to a later
    /// frame takes away. So now and then there has to be one.
    fn prove_calls(&mut self) {
        let (bytes, _) = self.outgoing.window();
        let is_due = self.unproved_calls > self.config.window_requests / 4
            || bytes > self.config.window_bytes / 2;
        if is_due && self.link.is_open() {
            self.probe();
        }
    }

    /// Queues a ping of the machine's own.
    fn probe(&mut self) {
        self.unproved_calls = 0;
        self.outgoing
            .push_request(Place::Last, self.now, Ask::Probe, write_ping);
    }

    /// Takes what has come for a request.
    pub fn take_reply(&mut self, call: CallId) -> TakenReply {
        match self.calls.take(call, &mut self.gauge) {
            Reply::Given(Given::Batch(batch)) => TakenReply::Batch(batch),
            Reply::Given(Given::Gap(events)) => TakenReply::Failed(RequestError::Gap { events }),
            Reply::Given(Given::Reconnected) | Reply::Empty => TakenReply::Empty,
            Reply::Failed(error) => TakenReply::Failed(error),
            Reply::Ended => TakenReply::Ended,
        }
    }

    /// Forgets a request. Replies that still come are skipped.
    pub fn forget_call(&mut self, call: CallId) {
        self.calls.remove(call, &mut self.gauge);
        self.advance_drain();
        self.tell_room();
    }

    /// Makes a subscription, which takes events once its token has come back with `Acknowledged`. If it comes back
    /// otherwise, there is no subscription.
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

    /// Ends a subscription and forgets what its queue holds.
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

    /// Takes what a subscription has. After `Ended` its reader counts as done.
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

    /// What the broker would refuse is refused here, where the caller hears which publish it was.
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

    /// Whether one more request fits the window. Notes it if not, so that `Room` is told.
    fn has_room(&mut self) -> bool {
        let (bytes, requests) = self.outgoing.window();
        let has_room = bytes < self.config.window_bytes && requests < self.config.window_requests;
        self.is_starved |= !has_room;
        has_room
    }

    /// Tells that there is room, once half of the window is free: a single place would be fought for.
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
