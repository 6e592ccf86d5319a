//! The broker: a deterministic state machine. Bytes, batches of other shards and time go in; bytes and batches come
//! out.
//!
//! [`Shard`] is the only entry point. It performs no I/O, reads no clock and starts no thread: the driver (the server,
//! the simulator, a WASI host) brings the input and takes the output. So whole nodes run in one thread under a seed,
//! and a history that found a bug can be replayed.
//!
//! Invariants: the same inputs give the same outputs; everything has a cap, in [`limits`]; a
//! connection's replies keep the order of its requests; a publisher's events of a topic keep
//! theirs; no event precedes the confirmation of the subscription that asked for it.
//!
//! The life of an event: [`Shard::handle`] -> `session` (bytes to a command) -> `context` (the verbs of sessions) ->
//! `delivery` -> `routing` (which receivers) -> `outbox` and `mailbox` -> the driver writes [`Shard::output`]. Start at
//! [`Shard::handle`].
#![forbid(unsafe_code)]

mod calls;
pub mod command;
mod connection;
mod context;
pub mod counters;

mod delivery;
pub mod driver;
mod form;
mod guesses;
mod input;
pub mod limits;
mod liveness;
pub mod mailbox;
mod outbox;
mod paged_slab;
mod routing;
mod session;
mod settings;
mod shard;
mod split_table;
pub mod tree;
pub mod worker;

pub use input::{Config, Handled, Input, Next, Outputs};
pub use outbox::BodyGauge;
pub use routing::interest;
pub use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
pub use sapwood_wire::native::Policy;
pub use session::{Protocol, Spoken};
pub use settings::{Asset, Capacity, Vitals, WebSettings};
pub use shard::Shard;
