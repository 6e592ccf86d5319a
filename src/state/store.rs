//! The store: rows in families, read one by one or in order, written in batches.
//!
//! Owns the trait that machines see, and the batch. Must not know what rows mean. Invariants: keys are compared as bytes;
//! a batch is written whole or not at all, and holds each partition's applied index beside its rows, so that the store
//! and the log never disagree. The server's store is RocksDB; [`MemoryStore`] is for simulation and tests.
//! Start at [`Store`].

mod memory;

pub use memory::MemoryStore;

use std::fmt;
use std::ops::ControlFlow;

/// Kinds of rows that are kept apart. `streams/keys.rs` says what stands in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Applied indexes, configurations and states.
    Meta,
    /// Runs of messages.
    Msgs,
    /// Long bodies.
    Blobs,
    /// Topic to its last sequence.
    Last,
    /// What is known of each 1,024 sequences.
    Block,
    /// Ids within their window.
    Dedup,
    /// When messages expire.
    Ttl,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 7] = [
        Family::Meta,
        Family::Msgs,
        Family::Blobs,
        Family::Last,
        Family::Block,
        Family::Dedup,
        Family::Ttl,
    ];
}

/// In which order a range is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key.
    Forward,
    /// From the highest key.
    Backward,
}

/// The store cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Reading or writing failed; holds what the store said.
    Failed(String),
    /// A row is not what its family says.
    Damaged {
        /// Where.
        family: Family,
        /// Its key.
        key: Vec<u8>,
        /// What was wrong.
        what: &'static str,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Failed(said) => write!(f, "the store failed: {said}"),
            StoreError::Damaged { family, key, what } => {
                write!(
                    f,
                    "a row of {family:?} is damaged, its {what} is wrong; key "
                )?;
                key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl std::error::Error for StoreError {}

/// Says whether a range is to go on.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Rows in families.
pub trait Store {
    /// Puts the value of a row into `value`, in place of what stands there. False if there is no such row; then `value`
    /// is empty.
    fn get(&self, family: Family, key: &[u8], value: &mut Vec<u8>) -> Result<bool, StoreError>;

    /// Visits the rows from `from` (included) to `to` (not included) in order, until the visitor breaks: that is the
    /// limit. A range never begins at the family's first key.
    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        visit: Visit,
    ) -> Result<(), StoreError>;

    /// Writes all or nothing. It is durable only when the store has flushed it.
    fn write(&mut self, batch: &WriteBatch) -> Result<(), StoreError>;
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub family: Family,
    /// Which row.
    pub key: Vec<u8>,
    /// What it holds from now on; none if it goes.
    pub value: Option<Vec<u8>>,
}

/// Writes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// By family and key; each row once.
    pub writes: Vec<Write>,
}
