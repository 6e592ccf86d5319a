//! Walking over a stream's messages in a store, or in a store under a batch.
//!
//! Owns the reading of runs and blocks. Must not know why somebody reads. Invariant: every range begins at a sequence of
//! the caller's, who never gives one below the floor, and ends within the stream.

use super::block::{Block, block_of, offset_of};
use super::keys::Place;
use super::run::{Record, Run};
use crate::store::{Direction, Family, Store, StoreError};
use std::ops::ControlFlow;

/// What a row is that is not what its family says.
pub(crate) fn damaged(family: Family, key: &[u8], what: &'static str) -> StoreError {
    StoreError::Damaged {
        family,
        key: key.to_vec(),
        what,
    }
}

/// Says whether a walk goes on.
pub(crate) type Flow = Result<ControlFlow<()>, StoreError>;

/// Goes on.
pub(crate) const ON: Flow = Ok(ControlFlow::Continue(()));
/// Ends the walk.
pub(crate) const ENOUGH: Flow = Ok(ControlFlow::Break(()));

/// Visits runs that hold messages of `from..to`.
pub(crate) fn runs(
    store: &impl Store,
    place: Place,
    from: u64,
    to: u64,
    direction: Direction,
    mut visit: impl FnMut(Run) -> Flow,
) -> Result<(), StoreError> {
    let mut failed = Ok(());
    let mut on_row = |key: &[u8], row: &[u8]| {
        let run = Run::read(row).map_err(|_| damaged(Family::Msgs, key, "head"));
        let flow = run.and_then(|run| match direction {
            // The last run of a forward walk may begin in front of `to` and end behind it, so `to` is no key.
            Direction::Forward if run.first >= to => ENOUGH,
            _ => visit(run),
        });
        flow.unwrap_or_else(|error| {
            failed = Err(error);
            ControlFlow::Break(())
        })
    };
    let (first, end) = (place.number(from), place.number(u64::MAX));
    match direction {
        Direction::Forward => store.range(Family::Msgs, &first, &end, direction, &mut on_row)?,
        Direction::Backward => {
            // The run that holds `to - 1` may end behind it: it is the first from there on.
            let mut top = None;
            let mut on_top = |key: &[u8], _: &[u8]| {
                top = Some([key, &[0]].concat());
                ControlFlow::Break(())
            };
            let last = place.number(to.saturating_sub(1).max(from));
            store.range(Family::Msgs, &last, &end, Direction::Forward, &mut on_top)?;
            let top = top.unwrap_or_else(|| last.to_vec());
            store.range(Family::Msgs, &first, &top, direction, &mut on_row)?;
        }
    }
    failed
}

/// Visits the messages of `from..to` in order, live or not.
pub(crate) fn forward(
    store: &impl Store,
    place: Place,
    from: u64,
    to: u64,
    mut visit: impl FnMut(&Record) -> Flow,
) -> Result<(), StoreError> {
    runs(store, place, from, to, Direction::Forward, |run| {
        for record in run {
            let record = record.map_err(|_| damaged(Family::Msgs, &place.prefix(), "message"))?;
            if record.sequence >= to {
                return ENOUGH;
            }
            if record.sequence >= from && visit(&record)?.is_break() {
                return ENOUGH;
            }
        }
        ON
    })
}

/// Visits the messages of `from..to`, the last first, live or not.
pub(crate) fn backward(
    store: &impl Store,
    place: Place,
    from: u64,
    to: u64,
    mut visit: impl FnMut(&Record) -> Flow,
) -> Result<(), StoreError> {
    runs(store, place, from, to, Direction::Backward, |run| {
        let records: Result<Vec<_>, _> = run.collect();
        let records = records.map_err(|_| damaged(Family::Msgs, &place.prefix(), "message"))?;
        for record in records.iter().rev() {
            let is_inside = (from..to).contains(&record.sequence);
            if is_inside && visit(record)?.is_break() {
                return ENOUGH;
            }
        }
        ON
    })
}

/// The row of a block, if it stands there.
pub(crate) fn block(
    store: &impl Store,
    place: Place,
    number: u64,
) -> Result<Option<Block>, StoreError> {
    let key = place.number(number);
    let mut row = Vec::new();
    if !store.get(Family::Block, &key, &mut row)? {
        return Ok(None);
    }
    let block = Block::decode(&row).map_err(|_| damaged(Family::Block, &key, "block"))?;
    Ok(Some(block))
}

/// Says which messages at or above the floor are live, by the rows of their blocks; keeps the last block.
#[derive(Debug)]
pub(crate) struct Liveness<'s, S> {
    store: &'s S,
    place: Place,
    block: Option<(u64, Option<Block>)>,
}

impl<'s, S: Store> Liveness<'s, S> {
    pub fn new(store: &'s S, place: Place) -> Liveness<'s, S> {
        Liveness {
            store,
            place,
            block: None,
        }
    }

    pub fn is_live(&mut self, sequence: u64) -> Result<bool, StoreError> {
        let number = block_of(sequence);
        if self.block.as_ref().is_none_or(|(kept, _)| *kept != number) {
            self.block = Some((number, block(self.store, self.place, number)?));
        }
        let block = self.block.as_ref().and_then(|(_, block)| block.as_ref());
        Ok(block.is_some_and(|block| block.is_stored_and_not_deleted(offset_of(sequence))))
    }
}

/// What a search for a topic's last message found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastOfTopic {
    /// It has none.
    None,
    /// This one.
    Live(u64),
    /// None down to here, where the search ended.
    Unknown(u64),
}

/// Finds the last live message of a topic at or above the floor. Cost: a row, unless that message was deleted; then up to
/// `most` messages are looked at. `is_gone` says of a live one whether it is to be passed over.
pub(crate) fn last_of_topic(
    store: &impl Store,
    place: Place,
    topic: &[u8],
    floor: u64,
    most: u64,
    is_gone: impl Fn(&Record) -> bool,
) -> Result<LastOfTopic, StoreError> {
    let (mut key, mut row) = (Vec::new(), Vec::new());
    place.topic(topic, &mut key);
    if !store.get(Family::Last, &key, &mut row)? {
        return Ok(LastOfTopic::None);
    }
    let last = super::keys::number_at(&row, 0);
    let last = last.ok_or_else(|| damaged(Family::Last, &key, "sequence"))?;
    if last < floor {
        return Ok(LastOfTopic::None);
    }
    let mut liveness = Liveness::new(store, place);
    let mut found = LastOfTopic::None;
    let mut looked_at = 0;
    backward(store, place, floor, last + 1, |record| {
        if record.topic == topic && liveness.is_live(record.sequence)? && !is_gone(record) {
            found = LastOfTopic::Live(record.sequence);
            return ENOUGH;
        }
        looked_at += 1;
        if looked_at == most {
            found = LastOfTopic::Unknown(record.sequence);
            return ENOUGH;
        }
        ON
    })?;
    Ok(found)
}
