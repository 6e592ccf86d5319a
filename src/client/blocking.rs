//! The blocking client, for programs without an async runtime, on threads of the standard library.
//!
//! Owns the handles: [`Client`], [`Subscription`], [`Replies`], [`Events`]. Must not know the protocol: every call goes
//! to the machine in `shared.rs`, and two threads of its own (`driver.rs`) move the bytes. Handles wait by
//! parking their thread. The calls are those of the tokio client without `await`; subscriptions, replies and events are
//! iterators. Start at [`Client`].

mod driver;
mod park;
mod stream;

use crate::builder::Builder;
use crate::config::{ConfigError, Overflow};
use crate::error::{
    ConnectError, DrainError, MessageError, PingError, PublishError, RequestError, SubscribeError,
};
use crate::machine::{CallId, ConnectionEvent, Filter, Machine, Statistics, SubscriptionId, Token};
use crate::message::{Batch, Event, Message, Outgoing};
use crate::shared::{self, Handles, Shared};
use driver::Driver;
use park::{wait, wait_until};
use sapwood_wire::native::Reached;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

pub use stream::{Reading, Stream};

/// A connection to a broker, which reconnects by itself. Cheap to clone; all clones share the connection. When the last
/// clone and the last subscription are dropped, queued publishes are still written, then the client ends: a program
/// that exits right after publishing should [`flush`](Client::flush) or [`drain`](Client::drain) first.
#[derive(Clone, Debug)]
pub struct Client {
    handles: Arc<Handles>,
}

impl Builder<Client> {
    /// Connects. Fails if no address leads to a broker or the broker does not let the client in.
    pub fn connect(self) -> Result<Client, ConnectError> {
        let client = self.start().map_err(ConnectError::Config)?;
        wait(|cx| client.shared().poll_connected(cx))?;
        Ok(client)
    }

    /// Creates a client that connects in the background, and keeps trying. Publishes made before that wait in the
    /// window.
    pub fn start(self) -> Result<Client, ConfigError> {
        let shared = Arc::new(Shared::new(self.config)?);
        let driver = Driver::new(shared.clone());
        thread::Builder::new()
            .name("sapwood-client".to_string())
            .spawn(move || driver.run())
            .map_err(|error: io::Error| ConfigError::Thread(error.kind()))?;
        let handles = Arc::new(Handles { shared });
        Ok(Client { handles })
    }
}

impl Client {
    /// Connects to one broker with the default settings.
    pub fn connect(address: impl Into<String>) -> Result<Client, ConnectError> {
        Client::builder().address(address).connect()
    }

    /// A builder, for settings other than the defaults.
    pub fn builder() -> Builder<Client> {
        Builder::default()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    /// Queues a publish; blocks only while the window is full (back-pressure). Returning means that it is queued, not
    /// that it arrived: for that see [`publish_confirmed`](Client::publish_confirmed), [`flush`](Client::flush) and
    /// [`ConnectionEvent::Unconfirmed`].
    pub fn publish(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        self.publish_message(&Outgoing::new(&topic, &payload))
    }

    /// Publishes a message with headers or a reply topic, as [`publish`](Client::publish) does.
    pub fn publish_message(&self, message: &Outgoing<'_>) -> Result<(), PublishError> {
        let parts = message.parts();
        wait(|cx| self.shared().poll_publish(cx, &parts))
    }

    /// Queues a publish without blocking, or fails with [`PublishError::Full`].
    pub fn try_publish(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        self.try_publish_message(&Outgoing::new(&topic, &payload))
    }

    /// Publishes a message with headers or a reply topic, as [`try_publish`](Client::try_publish) does.
    pub fn try_publish_message(&self, message: &Outgoing<'_>) -> Result<(), PublishError> {
        self.shared().publish(&message.parts())
    }

    /// Publishes, and waits for the broker's acknowledgement: the number of subscriptions of its node that the event was
    /// queued for, and whether there are some on others. If the connection breaks first, the error is [`PublishError::Unknown`].
    pub fn publish_confirmed(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Reached, PublishError> {
        let message = Outgoing::new(&topic, &payload);
        self.publish_message_confirmed(&message)
    }

    /// Publishes a message with headers or a reply topic, as [`publish_confirmed`](Client::publish_confirmed) does.
    pub fn publish_message_confirmed(
        &self,
        message: &Outgoing<'_>,
    ) -> Result<Reached, PublishError> {
        let parts = message.parts();
        let start =
            |machine: &mut Machine, now, token| machine.publish_confirmed(now, token, &parts);
        let ((), operation) = wait(|cx| self.shared().poll_start(cx, start))?;
        shared::published(wait(|cx| operation.poll_outcome(cx)))
    }

    /// Subscribes to a topic, or to the topics that a wildcard matches. No event published after the return is missed.
    pub fn subscribe(&self, filter: impl AsRef<[u8]>) -> Result<Subscription, SubscribeError> {
        self.subscription(filter.as_ref()).subscribe()
    }

    /// A builder for a subscription in a queue group, or with queue settings of its own.
    pub fn subscription<'a>(
        &'a self,
        filter: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> SubscriptionBuilder<'a> {
        SubscriptionBuilder {
            client: self,
            filter: Filter {
                filter: filter.as_ref(),
                group: b"",
                queue_bytes: None,
                overflow: Overflow::Wait,
            },
        }
    }

    /// Publishes a request, and waits for the first reply. If nobody listens, the error comes after one round trip.
    pub fn request(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Message, RequestError> {
        let message = Outgoing::new(&topic, &payload);
        self.request_message(&message, None)
    }

    /// Publishes a request with headers or a time-out of its own, as [`request`](Client::request) does.
    pub fn request_message(
        &self,
        message: &Outgoing<'_>,
        timeout: Option<Duration>,
    ) -> Result<Message, RequestError> {
        let mut replies = self.request_message_many(message, timeout)?;
        // Ends because the stream ends. A gap is not the reply, which may still come.
        loop {
            match replies.next() {
                Some(Err(RequestError::Gap { .. })) => {}
                Some(result) => return result,
                None => return Err(RequestError::NoResponders),
            }
        }
    }

    /// Publishes a request, and returns the replies as they arrive, up to the one with the end mark.
    pub fn request_many(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Replies, RequestError> {
        let message = Outgoing::new(&topic, &payload);
        self.request_message_many(&message, None)
    }

    /// Publishes a request with headers or a time-out of its own, as [`request_many`](Client::request_many) does.
    pub fn request_message_many(
        &self,
        message: &Outgoing<'_>,
        timeout: Option<Duration>,
    ) -> Result<Replies, RequestError> {
        let parts = message.parts();
        let shared = self.shared();
        let id = wait(|cx| {
            let now = shared.now();
            shared.poll_room(cx, |machine| {
                let timeout = timeout.unwrap_or(machine.config().request_timeout);
                machine.request(now, &parts, timeout)
            })
        })?;
        Ok(Replies {
            id,
            batch: Batch::default(),
            handles: self.handles.clone(),
        })
    }

    /// Sends the only reply to a request, or the last of several.
    pub fn reply(&self, request: &Message, payload: impl AsRef<[u8]>) -> Result<(), PublishError> {
        let topic = reply_topic(request)?;
        let message = Outgoing::new(topic, &payload).end();
        self.publish_message(&message)
    }

    /// Sends one of several replies to a request; the last one is sent by [`reply`](Client::reply).
    pub fn reply_part(
        &self,
        request: &Message,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        let topic = reply_topic(request)?;
        self.publish_message(&Outgoing::new(topic, &payload))
    }

    /// Sends a PING, and returns the round-trip time.
    pub fn ping(&self) -> Result<Duration, PingError> {
        let since = self.shared().now();
        let start = |machine: &mut Machine, now, token: Token| machine.ping(now, token);
        let ((), operation) = wait(|cx| self.shared().poll_start(cx, start))?;
        shared::ponged(wait(|cx| operation.poll_outcome(cx)))?;
        Ok(self.shared().now().saturating_sub(since))
    }

    /// Waits until the broker has received everything that was published before.
    pub fn flush(&self) -> Result<(), PingError> {
        self.ping().map(|_| ())
    }

    /// Ends the client without losing anything: subscriptions receive the events on their way, then end; when each was
    /// read to its end or dropped, publishes are flushed and the client closes. Must not be called on the thread that
    /// reads a subscription.
    pub fn drain(&self) -> Result<(), DrainError> {
        let operation = self.shared().drain();
        shared::drained(wait(|cx| operation.poll_outcome(cx)))
    }

    /// Ends the client at once. Queued publishes are not sent.
    pub fn close(&self) {
        self.shared().close();
    }

    /// A stream of connection events from now on.
    pub fn events(&self) -> Events {
        Events {
            position: self.shared().event_position(),
            shared: self.shared().clone(),
        }
    }

    /// Totals since the start.
    pub fn statistics(&self) -> Statistics {
        self.shared().statistics()
    }
}

/// The topic for replies to a request.
fn reply_topic(request: &Message) -> Result<&[u8], PublishError> {
    request
        .reply()
        .ok_or(PublishError::Invalid(MessageError::NoReply))
}

/// A builder for a subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionBuilder<'a> {
    client: &'a Client,
    filter: Filter<'a>,
}

impl<'a> SubscriptionBuilder<'a> {
    /// Joins a queue group: each event goes to one of its members.
    pub fn group(mut self, group: &'a (impl AsRef<[u8]> + ?Sized)) -> SubscriptionBuilder<'a> {
        self.filter.group = group.as_ref();
        self
    }

    /// Sets the cap of its queue, in bytes.
    pub fn queue_bytes(mut self, bytes: usize) -> SubscriptionBuilder<'a> {
        self.filter.queue_bytes = Some(bytes);
        self
    }

    /// Sets the policy for a full queue.
    pub fn overflow(mut self, overflow: Overflow) -> SubscriptionBuilder<'a> {
        self.filter.overflow = overflow;
        self
    }

    /// Subscribes. Returns after the broker has confirmed it.
    pub fn subscribe(self) -> Result<Subscription, SubscribeError> {
        let (shared, filter) = (self.client.shared(), self.filter);
        let start = |machine: &mut Machine, now, token| machine.subscribe(now, token, &filter);
        let (id, operation) = wait(|cx| shared.poll_start(cx, start))?;
        let subscription = Subscription {
            id,
            batch: Batch::default(),
            handles: self.client.handles.clone(),
        };
        shared::subscribed(wait(|cx| operation.poll_outcome(cx)))?;
        Ok(subscription)
    }
}

/// The events of one subscription, in order. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    id: SubscriptionId,
    batch: Batch,
    handles: Arc<Handles>,
}

impl Subscription {
    /// The next event, waiting for it at most `timeout`: what the iterator would return, or [`TimedOut`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, TimedOut> {
        wait_until(Instant::now() + timeout, |cx| self.poll_event(cx)).ok_or(TimedOut)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.handles.shared.poll_event(cx, self.id, &mut self.batch)
    }
}

/// Blocks until the next event. Ends once the client is drained or closed.
impl Iterator for Subscription {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        wait(|cx| self.poll_event(cx))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.handles.shared.unsubscribe(self.id);
    }
}

/// The replies to one request, in order. Dropping it abandons the request.
#[derive(Debug)]
pub struct Replies {
    id: CallId,
    batch: Batch,
    handles: Arc<Handles>,
}

impl Replies {
    /// The next reply, waiting for it at most `timeout`: what the iterator would return, or [`TimedOut`]. The request
    /// itself lasts until its own time-out.
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Result<Message, RequestError>>, TimedOut> {
        wait_until(Instant::now() + timeout, |cx| self.poll_reply(cx)).ok_or(TimedOut)
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, RequestError>>> {
        self.handles.shared.poll_reply(cx, self.id, &mut self.batch)
    }
}

/// Blocks until the next reply; the last one has [`is_end`](Message::is_end). Ends after it and after an error, except
/// for [`RequestError::Gap`], which more replies may follow.
impl Iterator for Replies {
    type Item = Result<Message, RequestError>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(|cx| self.poll_reply(cx))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.handles.shared.forget_call(self.id);
    }
}

/// Connection events, in order. Does not keep the client alive.
#[derive(Debug)]
pub struct Events {
    position: u64,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event, waiting for it at most `timeout`: what the iterator would return, or [`TimedOut`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<ConnectionEvent>, TimedOut> {
        wait_until(Instant::now() + timeout, |cx| self.poll_event(cx)).ok_or(TimedOut)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        self.shared.poll_connection_event(cx, &mut self.position)
    }
}

/// Blocks until the next event. Ends once the client is closed.
impl Iterator for Events {
    type Item = ConnectionEvent;

    fn next(&mut self) -> Option<ConnectionEvent> {
        wait(|cx| self.poll_event(cx))
    }
}

/// Nothing arrived in time. What arrives later is not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing came in time")
    }
}

impl std::error::Error for TimedOut {}
