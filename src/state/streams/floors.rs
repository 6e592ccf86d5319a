//! Which rows are dead: what a compaction may drop, and what a comparison of two stores leaves out.
//!
//! Owns that judgement. Invariant: given to a compaction, it was read from what a flush made durable, never from newer
//! rows; else a crash brings back a lower floor, and rows above it are missing. Start at [`Floors::read`].

use super::block::block_of;
use super::keys::{KIND_PARTITION, KIND_STATE, PREFIX_BYTES, number_at};
use super::scan::damaged;
use super::state::State;
use crate::store::{Direction, Family, Store, StoreError};
use sapwood_wire::state::{PartitionId, Reader};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Floors and cursors of streams.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// By partition: the next stream's number, and those that exist.
    partitions: BTreeMap<u16, (u32, BTreeMap<u32, State>)>,
}

impl Floors {
    /// Adds what stands in a store about a partition.
    ///
    /// Cost: a row for each of its streams.
    pub fn read(&mut self, partition: PartitionId, store: &impl Store) -> Result<(), StoreError> {
        let mut next_stream = 0;
        let mut streams = BTreeMap::new();
        let mut failed = None;
        let from = [&partition.0.to_be_bytes()[..], &[KIND_PARTITION]].concat();
        let to = [&partition.0.to_be_bytes()[..], &[u8::MAX]].concat();
        let mut visit = |key: &[u8], row: &[u8]| {
            let number = key.get(3..7).and_then(|number| number.first_chunk());
            match (key.get(2), number) {
                (Some(&KIND_PARTITION), None) => {
                    let mut reader = Reader::new(row);
                    let _ = reader.u64("applied index");
                    next_stream = reader.u32("next stream").unwrap_or(0);
                }
                (Some(&KIND_STATE), Some(number)) => match State::decode(row) {
                    Ok(state) => {
                        streams.insert(u32::from_be_bytes(*number), state);
                    }
                    Err(_) => {
                        failed = Some(damaged(Family::Meta, key, "state"));
                        return ControlFlow::Break(());
                    }
                },
                _ => {}
            }
            ControlFlow::Continue(())
        };
        store.range(Family::Meta, &from, &to, Direction::Forward, &mut visit)?;
        self.partitions.insert(partition.0, (next_stream, streams));
        failed.map_or(Ok(()), Err)
    }

    /// Whether nothing will ever read this row again. What is not known is not dead.
    pub fn is_dead(&self, family: Family, key: &[u8], value: &[u8]) -> bool {
        if family == Family::Meta || key.len() < PREFIX_BYTES {
            return false;
        }
        let partition = u16::from_be_bytes([key[0], key[1]]);
        let stream = u32::from_be_bytes([key[2], key[3], key[4], key[5]]);
        let Some((next_stream, streams)) = self.partitions.get(&partition) else {
            return false;
        };
        let Some(state) = streams.get(&stream) else {
            return stream < *next_stream;
        };
        let number = number_at(key, PREFIX_BYTES).unwrap_or(u64::MAX);
        match family {
            Family::Meta => false,
            Family::Msgs | Family::Blobs => number < state.floor,
            Family::Last => number_at(value, 0).is_some_and(|sequence| sequence < state.floor),
            Family::Block => number < block_of(state.floor),
            Family::Dedup => number < state.dedup_cursor,
            Family::Ttl => {
                let sequence = number_at(key, PREFIX_BYTES + 8).unwrap_or(u64::MAX);
                (number, sequence) < state.ttl_cursor
            }
        }
    }
}
