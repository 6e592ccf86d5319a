//! The client of the Sapwood broker: publish, subscribe and request, on tokio or with threads.
//!
//! [`Client`] is for async programs on tokio, [`blocking::Client`] for all others; they have the same calls. Both
//! reconnect by themselves and never lose anything silently. Every example on this page runs as a test, against a
//! broker at `address` (by default a broker listens on `127.0.0.1:7400`).
//!
//! # Publish and subscribe
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::{Client, Event};
//!
//! let client = Client::connect(address).await?;
//! let mut news = client.subscribe("news.>").await?;
//! client.publish("news.art", "hello").await?;
//!
//! while let Some(event) = news.next().await {
//!     match event {
//!         Event::Message(message) => {
//!             assert_eq!(message.topic_text(), "news.art");
//!             assert_eq!(message.text(), "hello");
//!             break;
//!         }
//!         // Something may be missing here: this reader was too slow, or the connection broke.
//!         Event::Gap { .. } | Event::Reconnected => {}
//!         // After a reconnect, the broker did not take the subscription again.
//!         _ => break,
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A filter is a topic, or has wildcards: `*` is any one token between dots, `>` at the end is one or more. A
//! [`Subscription`] is also a `Stream`, and an iterator in the blocking client; dropping it unsubscribes.
//!
//! # What a publish promises
//!
//! [`publish`](Client::publish) queues, and waits only while the window is full. These calls promise more:
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::error::PublishError;
//! use sapwood_client::{Client, Outgoing};
//!
//! let client = Client::connect(address).await?;
//! // How many subscriptions the broker has put it on its way to.
//! match client.publish_confirmed("orders", "7").await {
//!     Ok(reached) => assert!(reached.is_nobody(), "{reached} subscriptions"),
//!     // The connection broke: it may or may not have been published. Nothing is ever sent twice.
//!     Err(PublishError::Unknown(_)) => {}
//!     Err(error) => return Err(error.into()),
//! }
//! // Many at once, then one wait until the broker has received them all.
//! for number in 0..1000 {
//!     let number = number.to_string();
//!     let message = Outgoing::new("orders", &number).header("source", "shop");
//!     client.publish_message(&message).await?;
//! }
//! client.flush().await?;
//! // Without waiting at all.
//! match client.try_publish("orders", "8") {
//!     Ok(()) | Err(PublishError::Full) => {}
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! If a connection breaks, publishes not yet written go over the next one, in order. Those that were written, and that
//! no later acknowledgement proves received, are counted in [`ConnectionEvent::Unconfirmed`]; see
//! [`events`](Client::events).
//!
//! # Requests and replies
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::{Client, Event};
//! use sapwood_client::error::RequestError;
//!
//! let server = Client::connect(&address).await?;
//! // Two members of a group would take turns.
//! let mut requests = server.subscription("add").group("adders").subscribe().await?;
//! tokio::spawn(async move {
//!     while let Some(Event::Message(request)) = requests.next().await {
//!         let sum: u32 = request.text().split('+').filter_map(|it| it.parse::<u32>().ok()).sum();
//!         server.reply_part(&request, "thinking").await?;
//!         server.reply(&request, sum.to_string()).await?;
//!     }
//!     Ok::<(), sapwood_client::error::PublishError>(())
//! });
//!
//! let client = Client::connect(&address).await?;
//! let mut replies = client.request_many("add", "1+2").await?;
//! assert_eq!(replies.next().await.expect("a reply")?.text(), "thinking");
//! let last = replies.next().await.expect("a reply")?;
//! assert!(last.is_end() && last.text() == "3");
//! // Nobody listens: the broker says so at once, no time-out is involved.
//! assert_eq!(client.request("divide", "1/0").await, Err(RequestError::NoResponders));
//! # Ok(())
//! # }
//! ```
//!
//! # Streams
//!
//! A stream stores the messages of some topics, numbers them, and gives them to whoever reads it later. The broker must keep
//! data: `sapwood serve --data DIR`.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::Client;
//! use sapwood_client::stream::{ReadOptions, Start, StreamConfig};
//!
//! let client = Client::connect(address).await?;
//! let orders = client.stream("orders");
//! let filters = vec![b"orders.>".to_vec()];
//! orders.create(&StreamConfig { filters, ..StreamConfig::default() }).await?;
//! // Returns once the disk has it.
//! let first = orders.publish("orders.new", "7").await?;
//! let second = orders.publish("orders.paid", "7").await?;
//! assert_eq!(second.sequence, first.sequence + 1);
//!
//! let mut reading = orders.read(ReadOptions { start: Start::First, ..ReadOptions::default() });
//! while let Some(event) = reading.next().await {
//!     // A gap or a reset is said in its place.
//!     if let Some(message) = event?.message() {
//!         println!("{} {}: {}", message.sequence, message.topic_text(), message.text());
//!     }
//! }
//! // To go on from here, now or after a restart of this program.
//! let token = reading.token();
//! # assert!(token.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # Settings, and an end that loses nothing
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::{Client, Overflow, Policy};
//! use std::time::Duration;
//!
//! let client = Client::builder()
//!     .address(address) // several are tried in turn
//!     .name("worker-3")
//!     .policy(Policy::DropOldest) // what the broker does when this client reads too slowly
//!     .request_timeout(Duration::from_secs(2))
//!     .connect()
//!     .await?;
//! // This one drops its own oldest events instead of holding up the whole connection.
//! let ticker = client.subscription("prices.*").overflow(Overflow::DropOldest).subscribe().await?;
//! drop(ticker);
//! // Subscriptions are read to their end, publishes are flushed, the client closes.
//! client.drain().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Without a runtime
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = Broker::start();
//! # let address = broker.address();
//! use sapwood_client::blocking::{Client, TimedOut};
//! use std::time::Duration;
//!
//! let client = Client::connect(address)?;
//! let mut news = client.subscribe("news.*")?;
//! client.publish("news.art", "hello")?;
//! let event = news.next().expect("the client is not closed");
//! assert_eq!(event.message().expect("nothing was missed").text(), "hello");
//! assert_eq!(news.next_timeout(Duration::from_millis(1)), Err(TimedOut));
//! # Ok(())
//! # }
//! ```
//!
//! # Slow subscribers
//!
//! Each subscription has a bounded queue. When it is full, the connection is not read until there is room
//! (back-pressure), so that the broker's slow consumer policy applies and reports what it dropped. While an answer is
//! awaited, reading goes on past full queues, so that nothing waits for ever. The reasons are at
//! [`machine`](machine#full-queues).
//!
//! # Features
//!
//! `tokio` and `blocking` (both on by default) are the two clients; `serde` adds values as JSON. Without any of them
//! there is only the [`machine`], without I/O, for other runtimes and for simulations.
//!
//! For readers of the code: this crate owns the client's side of the native protocol. It must know only the wire crate.
//! Start at [`machine`], then `shared.rs`, then a driver.
#![forbid(unsafe_code)]

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(any(feature = "tokio", feature = "blocking"))]
mod builder;
pub mod config;
pub mod error;
pub mod limits;
pub mod machine;
pub mod message;
#[cfg(any(feature = "tokio", feature = "blocking"))]
mod shared;
#[cfg(any(feature = "tokio", feature = "blocking"))]
pub mod stream;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "serde")]
pub mod value;

#[cfg(any(feature = "tokio", feature = "blocking"))]
pub use builder::Builder;
pub use config::{Config, Overflow};
pub use machine::{ConnectionEvent, Statistics};
pub use message::{Batch, Event, Message, Outgoing};
pub use sapwood_wire::error::ErrorCode;
pub use sapwood_wire::native::{Policy, Reached};
#[cfg(feature = "tokio")]
pub use tokio::{Client, Events, Reading, Replies, Stream, Subscription, SubscriptionBuilder};
