//! What a worker and the log thread say to each other.
//!
//! Owns the two messages. Invariants: a worker numbers its proposals from 1 without gaps, over all its partitions; what
//! is written or synced is a front of them. Start at [`Proposal`].

use crate::log::{Entry, Index, PartitionId};
use sapwood_wire::state::Durability;
use std::sync::Arc;

/// An entry that a worker wants in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whose it is.
    pub worker: u16,
    /// Its place among the worker's proposals, from 1.
    pub number: u64,
    /// For which partition.
    pub partition: PartitionId,
    /// Its place among the partition's entries.
    pub index: Index,
    /// The worker's wall clock, ms since 1970; may step back.
    pub wall_ms: u64,
    /// What to apply. Shared, so that neither side copies it.
    pub commands: Arc<Vec<u8>>,
    /// `Os` if nobody waits for its sync.
    pub durability: Durability,
}

impl Proposal {
    /// As the log takes it.
    pub fn entry(&self) -> Entry<'_> {
        Entry {
            partition: self.partition,
            index: self.index,
            wall_ms: self.wall_ms,
            commands: &self.commands,
        }
    }
}

/// How far the log has come with a worker's proposals. What is newer says all that was said before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogNews {
    /// All up to this number are written, where a kill of the process leaves them.
    pub written: u64,
    /// All up to this number are on the disk.
    pub synced: u64,
}
