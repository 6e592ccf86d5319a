//! Bytes to frames and back, and nothing else.
//!
//! This crate owns the forms that events take on a socket and the names they travel under.
//! It must not know connections, shards, subscriptions or time: every function is a pure
//! function of the bytes it is given, so that the broker, the client library, the simulator
//! and a WASI module share it.
//!
//! Start reading at [`resp`] (the Redis protocol), [`nats`], [`native`] (Sapwood's own), [`http`], or [`topic`]
//! (names and matching).
#![forbid(unsafe_code)]

pub mod error;
pub mod glob;
pub mod headers;
#[cfg(feature = "web")]
pub mod http;
#[cfg(feature = "web")]
pub mod json;
pub mod limits;
pub mod native;
pub mod nats;
#[cfg(feature = "node")]
pub mod node;
pub mod resp;
pub mod run;
pub mod scope;
#[cfg(feature = "state")]
pub mod state;
#[cfg(feature = "web")]
pub mod text;
pub mod topic;
#[cfg(feature = "web")]
pub mod websocket;
