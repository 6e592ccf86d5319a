//! Streams: messages in the order of their sequences, kept as long as their configuration says.
//!
//! Owns what commands do to a stream, where its rows stand (`keys.rs`) and how they are read ([`StreamView`]). Must not
//! know partitions, who waits for a reply, or who announces filters. Invariants: a sequence is never used twice; the same
//! entries give the same live rows, in however many batches they came; what [`Floors`] calls dead is never read. Start
//! at `stream.rs` for what comes in, `remove.rs` for what goes, `read.rs` for reads.

mod block;
#[cfg(test)]
pub(crate) mod canary;
mod floors;
mod ids;
mod keys;
mod read;
mod remove;
mod run;
mod scan;
mod state;
mod stream;

pub use floors::{Floors, KeyRange};
pub use keys::Place;
pub use read::{Info, Page, PageEnd, PageLimits, ReadError, Resumed, Start, StreamView};
pub use sapwood_wire::state::StoredMessage;

pub(crate) use keys::{KIND_CONFIG, KIND_PARTITION, KIND_STATE, partition_row};
pub(crate) use scan::damaged;
pub(crate) use state::State;
pub(crate) use stream::{Change, Stream, decode_config};

#[cfg(test)]
mod tests;
