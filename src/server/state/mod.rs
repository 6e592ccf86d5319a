//! The state plane's threads, files and store.
//!
//! Owns what `sapwood-state` must not know: disks, threads, clocks. Invariant: no shard waits for anything in here. Start
//! at [`store`].

pub mod limits;
pub mod store;

use sapwood_state::store::{Store, StoreError};

/// A store whose writes are durable once it was flushed.
pub trait DurableStore: Store + Clone + Send + 'static {
    /// Makes all that was written before the call durable, all families together.
    ///
    /// On an error nothing is known of what is durable, and the store must not be used any more.
    fn flush(&self) -> Result<(), StoreError>;
}
