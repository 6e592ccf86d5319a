//! Which rows are dead: what a compaction may drop, and what a comparison of two stores leaves out.
//!
//! Owns that judgement. Invariant: given to a compaction, it was read from what a flush made durable, never from newer
//! rows; else a crash brings back a lower floor, and rows above it are missing. Start at [`Floors::read`].

use super::block::block_of;
use super::keys::{KIND_PARTITION, KIND_STATE, PREFIX_BYTES, Place, number_at};
use super::scan::damaged;
use super::state::State;
use crate::store::{Direction, Family, Store, StoreError};
use sapwood_wire::state::{PartitionId, Reader, StreamNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Keys from the first to before the second.
pub type KeyRange = (Vec<u8>, Vec<u8>);

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

    /// The streams that exist, each with its floor.
    pub fn streams(&self) -> impl Iterator<Item = (Place, u64)> {
        self.partitions
            .iter()
            .flat_map(|(partition, (_, streams))| {
                streams
                    .iter()
                    .map(|(stream, state)| (place(*partition, *stream), state.floor))
            })
    }

    /// Whether a stream exists.
    pub fn has(&self, place: Place) -> bool {
        let partition = self.partitions.get(&place.partition.0);
        partition.is_some_and(|(_, streams)| streams.contains_key(&place.stream.0))
    }

    /// Ranges of keys of a family whose rows are all dead, in order, but for those that were `before` as they are now.
    /// Dead rows of `last` stand among the living: of them only those of streams that are gone are told.
    ///
    /// Cost: that of all streams.
    pub fn dead_ranges(&self, family: Family, before: &Floors) -> Vec<KeyRange> {
        let before: BTreeSet<_> = before.all_dead_ranges(family).into_iter().collect();
        let mut ranges = self.all_dead_ranges(family);
        ranges.retain(|range| !before.contains(range));
        ranges
    }

    fn all_dead_ranges(&self, family: Family) -> Vec<KeyRange> {
        let mut ranges = Vec::new();
        if family == Family::Meta {
            return ranges;
        }
        for (&partition, (next_stream, streams)) in &self.partitions {
            // Streams up to this one were looked at; numbers begin at 1.
            let mut behind = 1;
            for (&stream, state) in streams {
                let own = place(partition, stream);
                if stream > behind {
                    ranges.push((
                        place(partition, behind).prefix().to_vec(),
                        own.prefix().to_vec(),
                    ));
                }
                behind = stream + 1;
                ranges.extend(dead_range(family, own, state));
            }
            if *next_stream > behind {
                let [from, to] =
                    [behind, *next_stream].map(|stream| place(partition, stream).prefix());
                ranges.push((from.to_vec(), to.to_vec()));
            }
        }
        ranges
    }
}

fn place(partition: u16, stream: u32) -> Place {
    Place {
        partition: PartitionId(partition),
        stream: StreamNumber(stream),
    }
}

/// What is dead of a stream that exists, at the front of its keys.
fn dead_range(family: Family, place: Place, state: &State) -> Option<KeyRange> {
    let to = match family {
        Family::Meta | Family::Last => return None,
        Family::Msgs | Family::Blobs => place.number(state.floor).to_vec(),
        Family::Block => place.number(block_of(state.floor)).to_vec(),
        Family::Dedup => place.number(state.dedup_cursor).to_vec(),
        Family::Ttl => place.pair(state.ttl_cursor.0, state.ttl_cursor.1).to_vec(),
    };
    let from = place.prefix().to_vec();
    // Nothing has gone yet where the end is the first key that a row could have.
    let is_empty = to[PREFIX_BYTES..].iter().all(|byte| *byte == 0)
        || (is_by_sequence(family) && state.floor == 1);
    (!is_empty).then_some((from, to))
}

fn is_by_sequence(family: Family) -> bool {
    matches!(family, Family::Msgs | Family::Blobs)
}
