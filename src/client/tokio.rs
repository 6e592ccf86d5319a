//! The async client, on the tokio runtime.
//!
//! Owns the handles: [`Client`], [`Subscription`], [`Replies`], [`Events`]. Must not know the protocol: every call goes
//! to the machine in `shared.rs`, and one task of its own (`driver.rs`) moves the bytes. Handles wait by wakers, so no
//! call costs a task or a channel. The blocking client has the same calls. Start at [`Client`].

mod driver;
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
use futures_core::Stream as AsyncIterator;
use sapwood_wire::native::Reached;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use stream::{Reading, Stream};

/// A connection to a broker, which reconnects by itself. Cheap to clone; all clones share the connection. When the last
/// clone and the last subscription are dropped, queued publishes are still written, then the client ends: a program
/// that exits right after publishing should [`flush`](Client::flush) or [`drain`](Client::drain) first.
#[derive(Clone, Debug)]
pub struct Client {
    handles: Arc<Handles>,
}

impl Builder<Client> {
    /// Connects. Fails if no address leads to a broker or the broker does not let the client in. Needs a tokio runtime
    /// with I/O and time enabled.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let client = self.start().map_err(ConnectError::Config)?;
        poll_fn(|cx| client.shared().poll_connected(cx)).await?;
        Ok(client)
    }

    /// Creates a client that connects in the background, and keeps trying. Publishes made before that wait in the
    /// window.
    pub fn start(self) -> Result<Client, ConfigError> {
        let shared = Arc::new(Shared::new(self.config)?);
        tokio::spawn(Driver::new(shared.clone()));
        let handles = Arc::new(Handles { shared });
        Ok(Client { handles })
    }
}

impl Client {
    /// Connects to one broker with the default settings.
    pub async fn connect(address: impl Into<String>) -> Result<Client, ConnectError> {
        Client::builder().address(address).connect().await
    }

    /// A builder, for settings other than the defaults.
    pub fn builder() -> Builder<Client> {
        Builder::default()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    /// Queues a publish; waits only while the window is full (back-pressure). Returning means that it is queued, not
    /// that it arrived: for that see [`publish_confirmed`](Client::publish_confirmed), [`flush`](Client::flush) and
    /// [`ConnectionEvent::Unconfirmed`].
    pub async fn publish(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        self.publish_message(&Outgoing::new(&topic, &payload)).await
    }

    /// Publishes a message with headers or a reply topic, as [`publish`](Client::publish) does.
    pub async fn publish_message(&self, message: &Outgoing<'_>) -> Result<(), PublishError> {
        let parts = message.parts();
        poll_fn(|cx| self.shared().poll_publish(cx, &parts)).await
    }

    /// Queues a publish without waiting, or fails with [`PublishError::Full`].
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
    pub async fn publish_confirmed(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Reached, PublishError> {
        let message = Outgoing::new(&topic, &payload);
        self.publish_message_confirmed(&message).await
    }

    /// Publishes a message with headers or a reply topic, as [`publish_confirmed`](Client::publish_confirmed) does.
    pub async fn publish_message_confirmed(
        &self,
        message: &Outgoing<'_>,
    ) -> Result<Reached, PublishError> {
        let parts = message.parts();
        let start =
            |machine: &mut Machine, now, token| machine.publish_confirmed(now, token, &parts);
        let ((), operation) = poll_fn(|cx| self.shared().poll_start(cx, start)).await?;
        shared::published(poll_fn(|cx| operation.poll_outcome(cx)).await)
    }

    /// Subscribes to a topic, or to the topics that a wildcard matches. No event published after the return is missed.
    pub async fn subscribe(
        &self,
        filter: impl AsRef<[u8]>,
    ) -> Result<Subscription, SubscribeError> {
        self.subscription(filter.as_ref()).subscribe().await
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
    pub async fn request(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Message, RequestError> {
        let message = Outgoing::new(&topic, &payload);
        self.request_message(&message, None).await
    }

    /// Publishes a request with headers or a time-out of its own, as [`request`](Client::request) does.
    pub async fn request_message(
        &self,
        message: &Outgoing<'_>,
        timeout: Option<Duration>,
    ) -> Result<Message, RequestError> {
        let mut replies = self.request_message_many(message, timeout).await?;
        // Ends because the stream ends. A gap is not the reply, which may still come.
        loop {
            match replies.next().await {
                Some(Err(RequestError::Gap { .. })) => {}
                Some(result) => return result,
                None => return Err(RequestError::NoResponders),
            }
        }
    }

    /// Publishes a request, and returns the replies as they arrive, up to the one with the end mark.
    pub async fn request_many(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Replies, RequestError> {
        let message = Outgoing::new(&topic, &payload);
        self.request_message_many(&message, None).await
    }

    /// Publishes a request with headers or a time-out of its own, as [`request_many`](Client::request_many) does.
    pub async fn request_message_many(
        &self,
        message: &Outgoing<'_>,
        timeout: Option<Duration>,
    ) -> Result<Replies, RequestError> {
        let parts = message.parts();
        let shared = self.shared();
        let id = poll_fn(|cx| {
            let now = shared.now();
            shared.poll_room(cx, |machine| {
                let timeout = timeout.unwrap_or(machine.config().request_timeout);
                machine.request(now, &parts, timeout)
            })
        })
        .await?;
        Ok(Replies {
            id,
            batch: Batch::default(),
            handles: self.handles.clone(),
        })
    }

    /// Sends the only reply to a request, or the last of several.
    pub async fn reply(
        &self,
        request: &Message,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        let topic = reply_topic(request)?;
        let message = Outgoing::new(topic, &payload).end();
        self.publish_message(&message).await
    }

    /// Sends one of several replies to a request; the last one is sent by [`reply`](Client::reply).
    pub async fn reply_part(
        &self,
        request: &Message,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        let topic = reply_topic(request)?;
        self.publish_message(&Outgoing::new(topic, &payload)).await
    }

    /// Sends a PING, and returns the round-trip time.
    pub async fn ping(&self) -> Result<Duration, PingError> {
        let since = self.shared().now();
        let start = |machine: &mut Machine, now, token: Token| machine.ping(now, token);
        let ((), operation) = poll_fn(|cx| self.shared().poll_start(cx, start)).await?;
        shared::ponged(poll_fn(|cx| operation.poll_outcome(cx)).await)?;
        Ok(self.shared().now().saturating_sub(since))
    }

    /// Waits until the broker has received everything that was published before.
    pub async fn flush(&self) -> Result<(), PingError> {
        self.ping().await.map(|_| ())
    }

    /// Ends the client without losing anything: subscriptions receive the events on their way, then end; when each was
    /// read to its end or dropped, publishes are flushed and the client closes. Must not be awaited in the task that
    /// reads a subscription.
    pub async fn drain(&self) -> Result<(), DrainError> {
        let operation = self.shared().drain();
        shared::drained(poll_fn(|cx| operation.poll_outcome(cx)).await)
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
    pub async fn subscribe(self) -> Result<Subscription, SubscribeError> {
        let (shared, filter) = (self.client.shared(), self.filter);
        let start = |machine: &mut Machine, now, token| machine.subscribe(now, token, &filter);
        let (id, operation) = poll_fn(|cx| shared.poll_start(cx, start)).await?;
        // From here on, dropping this future unsubscribes.
        let subscription = Subscription {
            id,
            batch: Batch::default(),
            handles: self.client.handles.clone(),
        };
        shared::subscribed(poll_fn(|cx| operation.poll_outcome(cx)).await)?;
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
    /// The next event; `None` once the client is drained or closed. Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.handles.shared.poll_event(cx, self.id, &mut self.batch)
    }
}

impl AsyncIterator for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
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
    /// The next reply; the last one has [`is_end`](Message::is_end). `None` after it and after an error, except for
    /// [`RequestError::Gap`], which more replies may follow.
    pub async fn next(&mut self) -> Option<Result<Message, RequestError>> {
        poll_fn(|cx| self.poll_reply(cx)).await
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, RequestError>>> {
        self.handles.shared.poll_reply(cx, self.id, &mut self.batch)
    }
}

impl AsyncIterator for Replies {
    type Item = Result<Message, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_reply(cx)
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
    /// The next event; `None` once the client is closed.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        self.shared.poll_connection_event(cx, &mut self.position)
    }
}

impl AsyncIterator for Events {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        self.poll_event(cx)
    }
}
