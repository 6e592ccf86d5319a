//! The client of the Sapwood broker.
#![forbid(unsafe_code)]

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(any(feature = "tokio", feature = "blocking"))]
mod builder;
pub mod config;
pub mod error;
#[cfg(any(feature = "tokio", feature = "blocking"))]
mod hub;
pub mod limits;
pub mod machine;
pub mod message;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(any(feature = "tokio", feature = "blocking"))]
pub use builder::Builder;
pub use config::{Config, Overflow};
pub use machine::{ConnectionEvent, Statistics};
pub use message::{Batch, Event, Message, Outgoing};
pub use sapwood_wire::error::ErrorCode;
pub use sapwood_wire::native::Policy;
#[cfg(feature = "tokio")]
pub use tokio::{Client, Events, Replies, Subscription, SubscriptionBuilder};
