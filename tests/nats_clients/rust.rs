//! What the checks of async-nats share: its connections, and what a subscription hears.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::client::{Client, RequestErrorKind};
use async_nats::{ConnectOptions, Event, Message, Subscriber};
use futures_core::Stream;
use tokio::sync::mpsc;

/// How long anything may take; far longer than it does.
pub const WAIT_MAX: Duration = Duration::from_secs(15);

/// More events than a client has in a test.
const EVENTS_MAX: usize = 4096;

/// The broker as its clients see it.
pub struct Server {
    pub url: String,
    pub password: Option<&'static str>,
    /// Errors that clients have reported.
    reported: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn new(port: u16, password: Option<&'static str>) -> Server {
        Server {
            url: format!("nats://127.0.0.1:{port}"),
            password,
            reported: Arc::default(),
        }
    }

    /// What every client of this broker needs.
    pub fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .request_timeout(Some(WAIT_MAX))
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        match self.password {
            Some(password) => options.user_and_password("default".into(), password.into()),
            None => options,
        }
    }

    pub async fn connect(&self) -> Client {
        self.connect_with(self.options()).await
    }

    /// A client whose errors count as the test's, see [`Server::check`].
    pub async fn connect_with(&self, options: ConnectOptions) -> Client {
        let reported = Arc::clone(&self.reported);
        let options = options.event_callback(move |event| {
            let is_wrong = matches!(
                event,
                Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_)
            );
            if is_wrong {
                reported.lock().unwrap().push(event.to_string());
            }
            async {}
        });
        self.open(options).await
    }

    /// A client with its events.
    pub async fn watched(&self, options: ConnectOptions) -> (Client, Events) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let options = options.event_callback(move |event| {
            let sent = sender.try_send(event);
            let is_full = matches!(sent, Err(mpsc::error::TrySendError::Full(_)));
            assert!(!is_full, "room for all events");
            async {}
        });
        (self.open(options).await, Events(events))
    }

    async fn open(&self, options: ConnectOptions) -> Client {
        let client = within("connect", options.connect(&self.url)).await;
        client.unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    /// No client has reported an error.
    pub fn check(&self) {
        assert_eq!(*self.reported.lock().unwrap(), [""; 0]);
    }
}

/// What a client tells about its connection.
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// Takes events up to this one.
    pub async fn until(&mut self, wanted: Event) {
        while self.next(&wanted.to_string()).await != wanted {}
    }

    /// The next one, which should be `what`.
    pub async fn next(&mut self, what: &str) -> Event {
        let event = within(what, self.0.recv()).await;
        event.expect("the client lives")
    }

    /// Those that have come and have not been taken.
    pub fn take(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_MAX, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {WAIT_MAX:?}: {what}"),
    }
}

/// A subscription that the broker knows of.
pub async fn subscribed(client: &Client, subject: &str) -> Subscriber {
    let subscriber = client.subscribe(subject.to_string()).await.unwrap();
    settle(client).await;
    subscriber
}

/// A member of a group that the broker knows of.
pub async fn member(client: &Client, subject: &str, group: &str) -> Subscriber {
    let queue = client.queue_subscribe(subject.to_string(), group.to_string());
    let subscriber = queue.await.unwrap();
    settle(client).await;
    subscriber
}

pub async fn publish(client: &Client, subject: &str, payload: impl Into<Vec<u8>>) {
    let published = client.publish(subject.to_string(), payload.into().into());
    published.await.unwrap();
}

/// Returns when the broker has done all that was asked of it so far: `flush` of this client is over when the bytes
/// are written. The client must hear itself.
pub async fn settle(client: &Client) {
    let subject = client.new_inbox();
    let mut own = client.subscribe(subject.clone()).await.unwrap();
    publish(client, &subject, "").await;
    next(&mut own).await.expect("its own message");
    own.unsubscribe().await.unwrap();
}

/// Nobody answers, which is said at once.
pub async fn expect_no_responders(client: &Client, subject: &str) {
    let started = Instant::now();
    let answer = client.request(subject.to_string(), "anybody?".into()).await;
    let error = answer.expect_err("nobody answers");
    assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{error}");
    assert!(started.elapsed() < WAIT_MAX / 3, "it was a time-out");
}

/// The next message, or `None` when the subscription has ended.
pub async fn next(subscriber: &mut Subscriber) -> Option<Message> {
    let message = poll_fn(|cx| Pin::new(&mut *subscriber).poll_next(cx));
    within("a message", message).await
}

/// The payload of the next message.
pub async fn next_payload(subscriber: &mut Subscriber) -> Vec<u8> {
    let message = next(subscriber).await.expect("a subscription goes on");
    message.payload.to_vec()
}

/// Returns when a client has got all that the publisher has published so far.
pub async fn fence(publisher: &Client, client: &Client) {
    let subject = publisher.new_inbox();
    let mut subscriber = subscribed(client, &subject).await;
    publish(publisher, &subject, "").await;
    next(&mut subscriber).await.expect("the fence");
    subscriber.unsubscribe().await.unwrap();
}

/// All messages that have come and have not been taken.
pub async fn waiting(subscriber: &mut Subscriber) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let message = poll_fn(|cx| match Pin::new(&mut *subscriber).poll_next(cx) {
            Poll::Ready(message) => Poll::Ready(message),
            Poll::Pending => Poll::Ready(None),
        });
        // Tokio has a task wait after so many messages, although more are there.
        match tokio::task::unconstrained(message).await {
            Some(message) => messages.push(message),
            None => return messages,
        }
    }
}

/// The same, as texts.
pub async fn texts(subscriber: &mut Subscriber) -> Vec<String> {
    let messages = waiting(subscriber).await;
    messages.iter().map(text).collect()
}

pub fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).expect("a text")
}

pub fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Answers requests until the client ends.
pub async fn answer(client: Client, mut requests: Subscriber, reply: impl Fn(&Message) -> Vec<u8>) {
    while let Some(request) = poll_fn(|cx| Pin::new(&mut requests).poll_next(cx)).await {
        let to = request.reply.clone().expect("a reply subject");
        client.publish(to, reply(&request).into()).await.unwrap();
    }
}
