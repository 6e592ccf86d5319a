//! The state plane on a disk: the data directory, the log's files and thread, the start.
//!
//! Owns threads that may block, files and clocks. What bytes mean is `sapwood_state`'s business; who asked is the
//! shards'. Invariants: no shard makes a file call; nothing is told as synced before the disk has it; the first failed
//! write or sync is final. A start goes [`directory`], then [`start`], then [`log`]; begin there in this order.

mod acks;
pub mod directory;
mod error;
pub mod files;
pub mod limits;
pub mod log;
pub mod plane;
mod remembered;
pub mod start;
pub mod store;
#[cfg(test)]
#[path = "tests/testing.rs"]
mod testing;
mod threads;
pub(crate) mod worker;

pub use error::{DirectoryFlaw, Failure, Holder, OpenError};

use sapwood_state::store::{Store, StoreError};

/// A store that a disk keeps. Clones are the same store, so that each thread has one to write with.
pub trait DurableStore: Store + Clone + Send + 'static {
    /// Makes all that was written before durable, in all families together.
    fn flush(&self) -> Result<(), StoreError>;

    /// Gives back space of what a flush made dead for good. May take seconds; writes and flushes go on meanwhile.
    fn give_back_space(&self) -> Result<(), StoreError>;
}
