//! Slow consumer policies that drop events, and the gap notice.
//!
//! `drop-oldest` drops from the front of the output; `latest` conflates: from half the cap on, it keeps the newest
//! event of each topic aside. Owns the units that the output stream of a lossy connection consists of, and what it
//! lost. Must not know protocols: what the frames of a topic have in common is given as a key, and a gap is written by
//! the form. Invariants: the lengths of the units add up to the stream; a reply is never dropped, nor a frame of which
//! a byte may have been sent; a loss is reported where it happened, or before the next thing that is written. Start at
//! [`Outboxes::admit_lossy`].

use super::{Admission, Offer, Outboxes, Segment, uncount};
use crate::command::{ConnId, Form};
use crate::form::encode_gap;
use crate::limits::PUT_OFF_BYTES;
use bytes::Bytes;
use indexmap::IndexMap;
use sapwood_wire::native::Policy;
use std::collections::VecDeque;

/// Most bytes of adjacent events in one unit: dropping is that much coarser, and a backlog of small events costs little
/// beside its bytes.
const UNIT_BYTES: usize = 4 * 1024;

/// Memory of a conflated event beside its bytes: its place in the map, the slack of two allocations and their heads.
/// Measured: 466,000 of 36 bytes took 98 MB.
const LATEST_ENTRY_BYTES: usize = 176;

/// Contents of a unit of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Reply,
    /// This many events.
    Events(u64),
    /// The gap notice of this many events.
    Gap(u64),
}

/// Adjacent whole frames of the stream.
#[derive(Clone, Copy, Debug)]
struct Unit {
    bytes: usize,
    what: What,
}

/// A conflated event, to be replaced by the next of its topic.
#[derive(Debug, Default)]
struct Latest {
    frame: Vec<u8>,
    /// A shared payload that follows `frame`, and the bytes after it.
    body: Option<(Bytes, &'static [u8])>,
}

impl Latest {
    /// Bytes of its own memory, its key included, a shared payload not.
    fn owned(&self, key: &[u8]) -> usize {
        LATEST_ENTRY_BYTES + key.len() + self.frame.len()
    }

    fn shared(&self) -> usize {
        let body = self.body.as_ref();
        body.map_or(0, |(body, end)| body.len() + end.len())
    }
}

/// State of a connection with a lossy policy.
#[derive(Debug)]
pub(super) struct Lossy {
    policy: Policy,
    units: VecDeque<Unit>,
    /// Bytes of the first unit that are already sent.
    front_sent: usize,
    /// Lost events that are not reported in the stream yet.
    unsaid: u64,
    /// All events lost so far.
    pub lost: u64,
    latest: IndexMap<Box<[u8]>, Latest, foldhash::fast::FixedState>,
    latest_owned: usize,
    latest_shared: usize,
}

impl Lossy {
    /// Bytes of the conflated events.
    pub(super) fn latest_bytes(&self) -> usize {
        self.latest_owned + self.latest_shared
    }

    /// Bytes of them that are not shared.
    pub(super) fn latest_owned(&self) -> usize {
        self.latest_owned
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.front_sent += count;
        while let Some(front) = self.units.front()
            && self.front_sent >= front.bytes
        {
            self.front_sent -= front.bytes;
            self.units.pop_front();
        }
    }

    /// How many units begin in the first `bytes` unsent bytes of the stream, and how many of their bytes are unsent.
    fn begun(&self, bytes: usize) -> (usize, usize) {
        let (mut units, mut end) = (0, 0);
        while end < bytes
            && let Some(unit) = self.units.get(units)
        {
            end += unit.bytes - if units == 0 { self.front_sent } else { 0 };
            units += 1;
        }
        (units, end)
    }

    /// Adds the gap notice of `events` lost events after what is kept of a stream.
    fn insert_gap(&mut self, events: u64, form: Form, pieces: &mut Pieces) {
        if events == 0 {
            return;
        }
        let mut frame = Vec::new();
        encode_gap(form, events, &mut frame);
        pieces.insert(&frame);
        self.push(frame.len(), What::Gap(events));
    }

    fn push(&mut self, bytes: usize, what: What) {
        if bytes == 0 {
            return;
        }
        if let Some(last) = self.units.back_mut()
            && last.bytes + bytes <= UNIT_BYTES
        {
            let merged = match (last.what, what) {
                (What::Reply, What::Reply) => Some(What::Reply),
                (What::Events(some), What::Events(more)) => Some(What::Events(some + more)),
                _ => None,
            };
            if let Some(merged) = merged {
                last.bytes += bytes;
                last.what = merged;
                return;
            }
        }
        self.units.push_back(Unit { bytes, what });
    }
}

impl Outboxes {
    /// Sets the slow consumer policy of a connection.
    pub(crate) fn set_policy(&mut self, conn: ConnId, policy: Policy) {
        let seed = self.hash_seed;
        let outbox = &mut self.boxes[conn.slot()];
        if policy == Policy::Close {
            // Losses of the policy before stay, and are reported before it ends.
            if outbox.lossy.is_some() {
                self.append_latest(conn);
                self.append_gap(conn);
                self.boxes[conn.slot()].lossy = None;
            }
            return;
        }
        if let Some(lossy) = &mut outbox.lossy {
            lossy.policy = policy;
            return;
        }
        let mut lossy = Lossy {
            policy,
            units: VecDeque::new(),
            front_sent: 0,
            unsaid: 0,
            lost: 0,
            latest: IndexMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            latest_owned: 0,
            latest_shared: 0,
        };
        if outbox.length > 0 {
            lossy.push(outbox.length, What::Reply);
        }
        outbox.lossy = Some(Box::new(lossy));
    }

    /// Decides about `events` events of `length` bytes together, for a connection with a lossy policy.
    pub(super) fn admit_lossy(&mut self, conn: ConnId, length: usize, events: u64) -> Admission {
        let outbox = &self.boxes[conn.slot()];
        let Some(lossy) = &outbox.lossy else {
            return Admission::Append;
        };
        let is_much = outbox.length >= PUT_OFF_BYTES || self.is_strict;
        let is_behind = outbox.is_stuck() || is_much;
        if !is_behind && lossy.latest.is_empty() {
            return Admission::Append;
        }
        let is_over = |outboxes: &Outboxes, cap: usize| {
            let waiting = outboxes.boxes[conn.slot()].len();
            let own = if waiting > 0 { waiting + length } else { 0 };
            let total = outboxes.total() + length;
            own.saturating_sub(cap)
                .max(total.saturating_sub(outboxes.outboxes_bytes_max))
        };
        let cap = self.outbox_bytes_max;
        match lossy.policy {
            // While a reply is written in parts, the stream is left alone.
            _ if outbox.deferring => {
                if is_over(self, cap) == 0 {
                    return Admission::Append;
                }
            }
            Policy::Latest => {
                if !lossy.latest.is_empty() || is_over(self, cap / 2) > 0 {
                    return Admission::Conflate;
                }
                return Admission::Append;
            }
            Policy::DropOldest | Policy::Close => {
                let excess = is_over(self, cap);
                if excess == 0 {
                    return Admission::Append;
                }
                if length > cap {
                    // An event longer than the cap waits only if nothing else does, so dropping others would not help.
                    return self.refuse(conn, events);
                }
                // More than needed, so that the next events find room.
                self.drop_oldest(conn, excess + cap / 8);
                if is_over(self, cap) == 0 {
                    return Admission::Append;
                }
            }
        }
        self.refuse(conn, events)
    }

    /// Counts the offered events as lost.
    fn refuse(&mut self, conn: ConnId, events: u64) -> Admission {
        self.note_lost(conn, events);
        if let Some(lossy) = &mut self.boxes[conn.slot()].lossy {
            lossy.unsaid += events;
        }
        Admission::Refuse
    }

    /// Keeps the last of the offered events aside, in place of the waiting one of its topic.
    pub(super) fn conflate(
        &mut self,
        conn: ConnId,
        offer: Offer<'_>,
        body: Option<(Bytes, &'static [u8])>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(lossy) = &mut self.boxes[conn.slot()].lossy else {
            return;
        };
        let owned_before = lossy.latest_owned;
        let mut lost = offer.volume.events - 1;
        let key = offer.key;
        if let Some(latest) = lossy.latest.get_mut(key) {
            lost += 1;
            lossy.latest_owned -= latest.owned(key);
            lossy.latest_shared -= latest.shared();
        } else {
            lossy.latest.insert(key.into(), Latest::default());
        }
        let latest = &mut lossy.latest[key];
        latest.frame.clear();
        encode(&mut latest.frame);
        latest.body = body;
        lossy.latest_owned += latest.owned(key);
        lossy.latest_shared += latest.shared();
        uncount(&mut self.bytes, owned_before);
        self.bytes += lossy.latest_owned;
        let half = self.outbox_bytes_max / 2;
        // Ends because each round removes at least one event; one may stay, however large.
        loop {
            let is_full = self.bytes + self.gauge.bytes() > self.outboxes_bytes_max;
            let kept = lossy.latest.len();
            if kept == 0 || !(is_full || kept > 1 && lossy.latest_bytes() > half) {
                break;
            }
            // A quarter at once, because removing from the front moves all the rest.
            for (key, latest) in lossy.latest.drain(..kept.div_ceil(4)) {
                lossy.latest_owned -= latest.owned(&key);
                lossy.latest_shared -= latest.shared();
                uncount(&mut self.bytes, latest.owned(&key));
                lost += 1;
            }
        }
        lossy.unsaid += lost;
        self.note_lost(conn, lost);
    }

    fn note_lost(&mut self, conn: ConnId, events: u64) {
        let Some(lossy) = &mut self.boxes[conn.slot()].lossy else {
            return;
        };
        lossy.lost += events;
        match lossy.policy {
            Policy::Latest => self.counters.lost_latest += events,
            Policy::DropOldest | Policy::Close => self.counters.lost_drop_oldest += events,
        }
    }

    /// Appends the conflated events.
    pub(super) fn append_latest(&mut self, conn: ConnId) {
        let Some(lossy) = &mut self.boxes[conn.slot()].lossy else {
            return;
        };
        if lossy.latest.is_empty() {
            return;
        }
        uncount(&mut self.bytes, lossy.latest_owned);
        (lossy.latest_owned, lossy.latest_shared) = (0, 0);
        let latest = std::mem::take(&mut lossy.latest);
        // The empty map left by `take` has a hasher without a seed.
        lossy.latest = IndexMap::with_hasher(latest.hasher().clone());
        for (_, latest) in latest {
            match latest.body {
                Some((body, end)) => self.append_shared(conn, &latest.frame, &body, end),
                None => self.append_with(conn, What::Events(1), |tail| {
                    tail.extend_from_slice(&latest.frame);
                }),
            }
        }
    }

    /// Appends the gap notice of the events lost at this point of the stream.
    pub(super) fn append_gap(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        let Some(lossy) = &mut outbox.lossy else {
            return;
        };
        let lost = std::mem::take(&mut lossy.unsaid);
        if lost == 0 {
            return;
        }
        let form = outbox.form;
        let added = self.append_piece(conn, |tail| encode_gap(form, lost, tail));
        self.note_unit(conn, added, What::Gap(lost));
    }

    /// Records a unit that was appended to the stream.
    pub(super) fn note_unit(&mut self, conn: ConnId, bytes: usize, what: What) {
        let Some(lossy) = &mut self.boxes[conn.slot()].lossy else {
            return;
        };
        lossy.push(bytes, what);
    }

    /// Drops the oldest waiting events until `wanted` bytes are free or no event is left. The first piece is left
    /// alone, because some of it may be sent.
    ///
    /// Cost: a step for each piece and each unit that is looked at, and a copy of one piece and of the replies among
    /// the dropped events.
    fn drop_oldest(&mut self, conn: ConnId, wanted: usize) {
        self.seal_tail(conn);
        let outbox = &mut self.boxes[conn.slot()];
        let Some(lossy) = &mut outbox.lossy else {
            return;
        };
        let mut pieces = Pieces::new(std::mem::take(&mut outbox.segments));
        let owned_before = pieces.owned();
        let (kept_units, kept_bytes) = lossy.begun(pieces.first_bytes() - outbox.head);
        pieces.keep(outbox.head + kept_bytes);
        let mut rest = lossy.units.split_off(kept_units);
        let (mut freed, mut dropped, mut gap) = (0, 0, 0);
        while freed < wanted
            && let Some(unit) = rest.pop_front()
        {
            match unit.what {
                What::Events(events) => {
                    pieces.skip(unit.bytes);
                    freed += unit.bytes;
                    dropped += events;
                    gap += events;
                }
                What::Gap(events) => {
                    pieces.skip(unit.bytes);
                    freed += unit.bytes;
                    gap += events;
                }
                What::Reply => {
                    lossy.insert_gap(std::mem::take(&mut gap), outbox.form, &mut pieces);
                    pieces.keep(unit.bytes);
                    lossy.push(unit.bytes, unit.what);
                }
            }
        }
        lossy.insert_gap(gap, outbox.form, &mut pieces);
        lossy.units.append(&mut rest);
        outbox.length = outbox.length - freed + pieces.inserted;
        let owned;
        (outbox.segments, owned) = pieces.finish();
        uncount(&mut self.bytes, owned_before);
        self.bytes += owned;
        self.note_lost(conn, dropped);
    }
}

/// Pieces of a stream, taken from the front one by one and put together again.
#[derive(Debug)]
struct Pieces {
    /// Pieces not looked at yet; `taken` bytes of the first one were.
    rest: VecDeque<Segment>,
    taken: usize,
    kept: VecDeque<Segment>,
    /// The piece after `kept`, which is being filled.
    gathered: Vec<u8>,
    /// Bytes inserted.
    inserted: usize,
}

impl Pieces {
    fn new(segments: VecDeque<Segment>) -> Pieces {
        Pieces {
            rest: segments,
            taken: 0,
            kept: VecDeque::new(),
            gathered: Vec::new(),
            inserted: 0,
        }
    }

    fn first_bytes(&self) -> usize {
        self.rest.front().map_or(0, |front| front.as_slice().len())
    }

    /// Bytes of pieces that are not shared.
    fn owned(&self) -> usize {
        let pieces = self.rest.iter().chain(&self.kept);
        let owned = pieces.map(|piece| match piece {
            Segment::Owned(bytes) => bytes.len(),
            Segment::Shared(_) => 0,
        });
        owned.sum::<usize>() + self.gathered.len()
    }

    fn insert(&mut self, frame: &[u8]) {
        self.gathered.extend_from_slice(frame);
        self.inserted += frame.len();
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.kept.push_back(Segment::Owned(gathered));
        }
    }

    /// Keeps the next `count` bytes: whole pieces as they are, parts of shared pieces as slices, other parts as copies.
    fn keep(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let length = self.first_bytes();
            if self.taken == 0 && length <= left {
                left -= length;
                self.close_gathered();
                self.kept.extend(self.rest.pop_front());
                continue;
            }
            let end = length.min(self.taken + left);
            left -= end - self.taken;
            let shared = match &self.rest[0] {
                Segment::Owned(bytes) => {
                    self.gathered.extend_from_slice(&bytes[self.taken..end]);
                    None
                }
                Segment::Shared(bytes) => Some(bytes.slice(self.taken..end)),
            };
            if let Some(shared) = shared {
                self.close_gathered();
                self.kept.push_back(Segment::Shared(shared));
            }
            self.advance(end);
        }
    }

    /// Drops the next `count` bytes.
    fn skip(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let end = self.first_bytes().min(self.taken + left);
            left -= end - self.taken;
            self.advance(end);
        }
    }

    fn advance(&mut self, to: usize) {
        self.taken = to;
        if to == self.first_bytes() {
            self.rest.pop_front();
            self.taken = 0;
        }
    }

    /// The resulting pieces, and their bytes that are not shared.
    fn finish(mut self) -> (VecDeque<Segment>, usize) {
        self.close_gathered();
        match self.rest.front_mut() {
            Some(Segment::Owned(bytes)) => drop(bytes.drain(..self.taken)),
            Some(Segment::Shared(bytes)) => *bytes = bytes.slice(self.taken..),
            None => {}
        }
        let owned = self.owned();
        self.kept.append(&mut self.rest);
        (self.kept, owned)
    }
}

#[cfg(test)]
#[path = "lossy_tests.rs"]
mod tests;
