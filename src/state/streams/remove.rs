//! How messages go: limits, age, TTL, purges, deletions.
//!
//! Owns the floor. Messages that go from the front raise it and no row is deleted; others are marked in their block.
//! Must not know rows of ids: those outlive their messages. Invariants: the floor is the first live message, or the next
//! one where there is none; whatever looks at messages one by one has a bound. Start at [`Stream::trim`].

use super::block::{block_of, offset_of};
use super::keys::{PREFIX_BYTES, number_at};
use super::scan::{self, ENOUGH, ON};
use super::stream::{Change, Stream};
use crate::limits::{BLOCK_SEQUENCES, SCAN_MESSAGES_MAX};
use crate::overlay::Overlay;
use crate::store::{Direction, Family, Store, StoreError};
use sapwood_wire::state::{Purge, PurgeRest, Rest};
use sapwood_wire::topic::wildcard_matches;
use std::ops::ControlFlow;

/// What is to stay: the first message goes while one of these says so.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// At most so many messages.
    messages: u64,
    /// At most so many bytes.
    bytes: u64,
    /// What is younger than this.
    above_ms: Option<u64>,
    /// From this one on.
    from: u64,
}

impl Bounds {
    fn is_too_old(&self, ms: u64) -> bool {
        self.above_ms.is_some_and(|above_ms| ms <= above_ms)
    }

    const NONE: Bounds = Bounds {
        messages: u64::MAX,
        bytes: u64::MAX,
        above_ms: None,
        from: 0,
    };
}

/// A message that is going to be deleted.
#[derive(Clone, Copy, Debug)]
struct Doomed {
    sequence: u64,
    size: u64,
    is_in_blobs: bool,
}

impl Stream {
    /// Lets the oldest messages go until the limits of messages and bytes hold.
    pub(super) fn discard_old<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
    ) -> Result<(), StoreError> {
        let or_all = |limit: u64| if limit > 0 { limit } else { u64::MAX };
        let bounds = Bounds {
            messages: or_all(self.config.messages_max),
            bytes: or_all(self.config.bytes_max),
            ..Bounds::NONE
        };
        self.trim(overlay, bounds, u64::MAX)?;
        Ok(())
    }

    /// Lets at most `most` messages go that are older than the stream keeps them.
    pub fn expire_age<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        now: u64,
        most: u64,
    ) -> Result<(u64, Rest), StoreError> {
        let age = self.config.age_ms_max;
        if age == 0 || now < age {
            return Ok((0, Rest::Done));
        }
        self.flush_messages(overlay);
        let bounds = Bounds {
            above_ms: Some(now - age),
            ..Bounds::NONE
        };
        let gone = self.trim(overlay, bounds, most)?;
        let is_more = self.state.messages > 0 && self.state.first_ms <= now - age;
        Ok((gone, if is_more { Rest::More } else { Rest::Done }))
    }

    /// Lets messages go from the front while a bound says so, `most` at most. Returns how many went.
    ///
    /// Cost: a row for each block that goes as a whole; in the last one its runs are read.
    fn trim<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        bounds: Bounds,
        most: u64,
    ) -> Result<u64, StoreError> {
        let before = self.state.messages;
        let mut left = most;
        // Ends: each round lets one message go at least.
        while left > 0 && self.first_goes(bounds) {
            let number = block_of(self.state.floor);
            let block = self.block(overlay, number)?;
            let (live, bytes, last_ms) = (u64::from(block.live), block.bytes, block.last_ms);
            let end = ((number + 1) * BLOCK_SEQUENCES).min(self.state.next);
            let state = &self.state;
            let is_whole = end <= bounds.from
                || bounds.is_too_old(last_ms)
                || state.messages - live >= bounds.messages
                || state.bytes - bytes >= bounds.bytes;
            if is_whole && live <= left {
                let block = self.changed_block(overlay, number)?;
                block.take_out(live as u16, bytes);
                self.state.messages -= live;
                self.state.bytes -= bytes;
                self.state.floor = end;
                left -= live;
            } else {
                left -= self.trim_within(overlay, bounds, left, end)?;
            }
            self.find_first(overlay)?;
        }
        Ok(before - self.state.messages)
    }

    /// Whether the first message is to go.
    fn first_goes(&self, bounds: Bounds) -> bool {
        let state = &self.state;
        state.messages > 0
            && (state.messages > bounds.messages
                || state.bytes > bounds.bytes
                || bounds.is_too_old(state.first_ms)
                || state.floor < bounds.from)
    }

    /// Lets messages of the floor's block go, one by one. Returns how many went.
    fn trim_within<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        bounds: Bounds,
        most: u64,
        end: u64,
    ) -> Result<u64, StoreError> {
        let number = block_of(self.state.floor);
        let block = self.block(overlay, number)?.clone();
        let (mut messages, mut bytes) = (self.state.messages, self.state.bytes);
        let mut floor = self.state.floor;
        scan::forward(&*overlay, self.place, floor, end, |record| {
            if !block.is_stored_and_not_deleted(offset_of(record.sequence)) {
                floor = record.sequence + 1;
                return ON;
            }
            let goes = messages > bounds.messages
                || bytes > bounds.bytes
                || bounds.is_too_old(record.ms)
                || record.sequence < bounds.from;
            if !goes || self.state.messages - messages == most {
                return ENOUGH;
            }
            messages -= 1;
            bytes -= record.size();
            floor = record.sequence + 1;
            ON
        })?;
        let gone = self.state.messages - messages;
        let gone_bytes = self.state.bytes - bytes;
        self.changed_block(overlay, number)?
            .take_out(gone as u16, gone_bytes);
        self.state.messages = messages;
        self.state.bytes = bytes;
        self.state.floor = floor;
        Ok(gone)
    }

    /// Raises the floor to the first live message at or above it, and looks its time up.
    fn find_first<S: Store>(&mut self, overlay: &mut Overlay<S>) -> Result<(), StoreError> {
        self.change = Change::Unwritten;
        if self.state.messages == 0 {
            (self.state.floor, self.state.first_ms) = (self.state.next, 0);
            self.state.holes.clear();
            return Ok(());
        }
        // Ends: a live message is there, in one of the blocks that follow.
        loop {
            self.state.floor = self.state.skip_hole(self.state.floor);
            let number = block_of(self.state.floor);
            let from = offset_of(self.state.floor);
            let block = self.block(overlay, number)?;
            let first = match block.live {
                0 => None,
                _ => block.next_live(from),
            };
            if let Some(offset) = first {
                let first_ms = (offset == block.first).then_some(block.first_ms);
                self.state.floor = number * BLOCK_SEQUENCES + u64::from(offset);
                self.state.first_ms = match first_ms {
                    Some(first_ms) => first_ms,
                    None => self.time_of(overlay, self.state.floor)?,
                };
                let floor = self.state.floor;
                self.state.holes.retain(|(_, to)| *to > floor);
                return Ok(());
            }
            self.state.floor = (number + 1) * BLOCK_SEQUENCES;
            assert!(
                self.state.floor < self.state.next,
                "a live message is there"
            );
        }
    }

    /// When a message was stored.
    fn time_of<S: Store>(&self, overlay: &Overlay<S>, sequence: u64) -> Result<u64, StoreError> {
        let mut ms = None;
        scan::forward(overlay, self.place, sequence, sequence + 1, |record| {
            ms = Some(record.ms);
            ENOUGH
        })?;
        let key = self.place.number(sequence);
        ms.ok_or_else(|| scan::damaged(Family::Msgs, &key, "absence"))
    }

    /// Carries out a purge. Returns how many messages went, and what is left to do.
    pub fn purge<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        purge: &Purge,
    ) -> Result<(u64, Option<PurgeRest>), StoreError> {
        self.flush_messages(overlay);
        #[cfg(test)]
        if super::canary::is_set(super::canary::Canary::ForgetIdsAtPurge) {
            self.forget_ids();
        }
        if let Some(filter) = purge.filter {
            return self.purge_filtered(overlay, filter, purge.before.0, purge.keep);
        }
        // What is kept may lie below `before`, or all above it.
        let bounds = Bounds {
            from: purge.before.0,
            ..Bounds::NONE
        };
        let mut gone = 0;
        if purge.keep == 0 && bounds.from >= self.state.next {
            gone += self.clear(overlay)?;
        } else if purge.keep == 0 {
            gone += self.trim(overlay, bounds, u64::MAX)?;
        } else if self.state.messages > purge.keep {
            let most = self.state.messages - purge.keep;
            gone += self.trim(overlay, bounds, most)?;
        }
        Ok((gone, None))
    }

    /// Lets all messages go, without a look at them.
    fn clear<S: Store>(&mut self, overlay: &mut Overlay<S>) -> Result<u64, StoreError> {
        let gone = self.state.messages;
        if gone > 0 {
            // Blocks below the floor are dead; messages to come go on in the last one.
            let last = self.changed_block(overlay, block_of(self.state.last_stored()))?;
            last.take_out(last.live, last.bytes);
            (self.state.messages, self.state.bytes) = (0, 0);
            self.find_first(overlay)?;
        }
        Ok(gone)
    }

    /// Goes back from `before`: keeps the first `keep` messages that match, and deletes the others.
    fn purge_filtered<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        filter: &[u8],
        before: u64,
        mut keep: u64,
    ) -> Result<(u64, Option<PurgeRest>), StoreError> {
        self.settle(overlay);
        let before = before.min(self.state.next);
        let mut liveness = scan::Liveness::new(&*overlay, self.place);
        let mut doomed = Vec::new();
        let mut looked_at = 0;
        let mut reached = before;
        scan::backward(&*overlay, self.place, self.state.floor, before, |record| {
            if looked_at == SCAN_MESSAGES_MAX {
                return ENOUGH;
            }
            looked_at += 1;
            reached = record.sequence;
            if !wildcard_matches(filter, record.topic) || !liveness.is_live(record.sequence)? {
                return ON;
            }
            if keep > 0 {
                keep -= 1;
                return ON;
            }
            doomed.push(Doomed {
                sequence: record.sequence,
                size: record.size(),
                is_in_blobs: record.body.is_none(),
            });
            ON
        })?;
        let is_more = reached > self.state.floor && looked_at == SCAN_MESSAGES_MAX;
        let rest = PurgeRest {
            before: sapwood_wire::state::Sequence(reached),
            keep,
        };
        self.delete_all(overlay, &doomed)?;
        Ok((doomed.len() as u64, is_more.then_some(rest)))
    }

    /// Deletes live messages.
    fn delete_all<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        doomed: &[Doomed],
    ) -> Result<(), StoreError> {
        for one in doomed {
            let block = self.changed_block(overlay, block_of(one.sequence))?;
            block.delete(offset_of(one.sequence), one.size);
            self.state.messages -= 1;
            self.state.bytes -= one.size;
            if one.is_in_blobs {
                overlay.delete(Family::Blobs, &self.place.number(one.sequence));
            }
        }
        if doomed.iter().any(|one| one.sequence == self.state.floor) {
            self.find_first(overlay)?;
        }
        self.change = Change::Unwritten;
        Ok(())
    }

    /// Finds a live message in a settled overlay.
    fn find_doomed<S: Store>(
        &mut self,
        overlay: &Overlay<S>,
        sequence: u64,
    ) -> Result<Option<Doomed>, StoreError> {
        let state = &self.state;
        let is_inside = (state.floor..state.next).contains(&sequence);
        if !is_inside || state.skip_hole(sequence) != sequence {
            return Ok(None);
        }
        let block = self.block(overlay, block_of(sequence))?;
        if !block.is_stored_and_not_deleted(offset_of(sequence)) {
            return Ok(None);
        }
        let mut found = None;
        scan::forward(overlay, self.place, sequence, sequence + 1, |record| {
            found = Some(Doomed {
                sequence,
                size: record.size(),
                is_in_blobs: record.body.is_none(),
            });
            ENOUGH
        })?;
        let key = self.place.number(sequence);
        let damaged = || scan::damaged(Family::Msgs, &key, "absence");
        found.ok_or_else(damaged).map(Some)
    }

    /// Deletes one message. False if there is none.
    pub fn delete_message<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        sequence: u64,
    ) -> Result<bool, StoreError> {
        self.flush_messages(overlay);
        let found = self.find_doomed(overlay, sequence)?;
        if let Some(one) = found {
            self.delete_all(overlay, &[one])?;
        }
        Ok(found.is_some())
    }

    /// Looks at no more than `most` messages whose TTL is over, and lets those go that are still there.
    pub fn expire_ttl<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        now: u64,
        most: u64,
    ) -> Result<(u64, Rest), StoreError> {
        self.flush_messages(overlay);
        let mut due = Vec::new();
        let mut next_ms = 0;
        let mut visit = |key: &[u8], _: &[u8]| {
            let ms = number_at(key, PREFIX_BYTES).unwrap_or(u64::MAX);
            let sequence = number_at(key, PREFIX_BYTES + 8).unwrap_or(0);
            if ms > now || due.len() as u64 >= most.min(SCAN_MESSAGES_MAX) {
                next_ms = ms;
                return ControlFlow::Break(());
            }
            due.push((ms, sequence));
            ControlFlow::Continue(())
        };
        let (ms, sequence) = self.state.ttl_cursor;
        let (from, to) = (
            self.place.pair(ms, sequence),
            self.place.pair(u64::MAX, u64::MAX),
        );
        overlay.range(Family::Ttl, &from, &to, Direction::Forward, &mut visit)?;
        let mut doomed = Vec::new();
        for &(ms, sequence) in &due {
            doomed.extend(self.find_doomed(overlay, sequence)?);
            self.state.ttl_cursor = (ms, sequence + 1);
        }
        self.state.ttl_next_ms = next_ms;
        self.change = Change::Unwritten;
        self.delete_all(overlay, &doomed)?;
        let is_more = next_ms > 0 && next_ms <= now;
        let rest = if is_more { Rest::More } else { Rest::Done };
        Ok((doomed.len() as u64, rest))
    }
}
