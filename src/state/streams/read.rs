//! Reads: what a stream tells about itself, single messages, pages.
//!
//! Owns what a reader may see: messages from the floor on that are neither deleted nor expired. Works on a store alone,
//! beside whoever applies commands to it, so the floor may rise under a read: it looks again where rows are missing, and
//! says gap. Must not know consumers or protocols. Invariant: no read begins below the floor. Start at
//! [`StreamView::open`] and [`StreamView::page`].

use super::block::block_of;
use super::keys::{KIND_CONFIG, KIND_STATE, PREFIX_BYTES, Place};
use super::run::Record;
use super::scan::{self, ENOUGH, Flow, LastOfTopic, Liveness, ON, damaged};
use super::state::State;
use super::stream::decode_config;
use crate::limits::{BLOCK_SEQUENCES, READ_SCAN_MESSAGES_MAX};
use crate::store::{Direction, Family, Store, StoreError};
use sapwood_wire::state::{Lineage, ResumeToken, Sequence, StoredMessage, StreamConfig};
use sapwood_wire::topic::wildcard_matches;
use std::fmt;
use std::ops::ControlFlow;

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The store cannot be read.
    Store(StoreError),
    /// There is no such message, or none that the reader may see.
    NoMessage,
    /// Too many messages were looked at for a topic's last one; none was found down to this.
    SearchTooLong(Sequence),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> ReadError {
        ReadError::Store(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Store(error) => error.fmt(f),
            ReadError::NoMessage => f.write_str("there is no such message"),
            ReadError::SearchTooLong(reached) => write!(
                f,
                "too many messages were looked at for the topic's last one; none was found down to {reached}"
            ),
        }
    }
}

impl std::error::Error for ReadError {}

/// What a stream tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Messages that it holds; those whose TTL is over count until they are removed.
    pub messages: u64,
    /// Their topics, headers and bodies, and 32 bytes each.
    pub bytes: u64,
    /// The first message; behind the last if there is none.
    pub first: Sequence,
    /// The last that was given to a message, or passed over by a raise; 0 before.
    pub last: Sequence,
    /// The first message's time in ms; 0 if there is none.
    pub first_ms: u64,
    /// The last's, if one was ever stored.
    pub last_ms: u64,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first message that there is.
    First,
    /// At this sequence or the first behind it. If messages from here on are gone, the page says gap.
    At(Sequence),
}

/// What a page takes at most. One message always goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of topics, headers and bodies.
    pub bytes: usize,
    /// Messages that are looked at, for a filter that matches few.
    pub looked_at: usize,
}

/// Why a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// There was nothing more when the view was opened.
    Head,
    /// It is full.
    Limit,
}

/// How a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the next one begins.
    pub next: Sequence,
    /// Why this one ended.
    pub end: PageEnd,
    /// Messages that the reader should have had may be gone: from the first to before the second. The page's messages
    /// stand behind it, unless its end says that it stopped before.
    pub gap: Option<(Sequence, Sequence)>,
}

/// Where a reader with a token goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// Here.
    At(Sequence),
    /// The token is of another lineage or creation, or of a message that was never stored here: the reader begins anew.
    Reset,
}

/// A stream as it stands in a store.
#[derive(Debug)]
pub struct StreamView<'s, S> {
    store: &'s S,
    place: Place,
    config: StreamConfig,
    state: State,
}

fn read_state(store: &impl Store, place: Place) -> Result<Option<State>, StoreError> {
    let (key, mut row) = (place.meta(KIND_STATE), Vec::new());
    if !store.get(Family::Meta, &key, &mut row)? {
        return Ok(None);
    }
    let state = State::decode(&row).map_err(|_| damaged(Family::Meta, &key, "state"))?;
    Ok(Some(state))
}

impl<'s, S: Store> StreamView<'s, S> {
    /// The stream as it stands now; none if it does not exist.
    ///
    /// Cost: two rows. A view is for one step: what is stored later is not seen.
    pub fn open(store: &'s S, place: Place) -> Result<Option<StreamView<'s, S>>, StoreError> {
        let (key, mut row) = (place.meta(KIND_CONFIG), Vec::new());
        if !store.get(Family::Meta, &key, &mut row)? {
            return Ok(None);
        }
        let config = decode_config(&row).map_err(|_| damaged(Family::Meta, &key, "config"))?;
        let state = read_state(store, place)?;
        Ok(state.map(|state| StreamView {
            store,
            place,
            config,
            state,
        }))
    }

    /// Its configuration.
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// What it tells about itself.
    pub fn info(&self) -> Info {
        let state = &self.state;
        Info {
            messages: state.messages,
            bytes: state.bytes,
            first: Sequence(state.floor),
            last: Sequence(state.next - 1),
            first_ms: state.first_ms,
            last_ms: state.last_ms,
        }
    }

    fn is_over(&self, record: &Record, now_ms: u64) -> bool {
        let age = self.config.age_ms_max;
        (record.expires_ms != 0 && record.expires_ms <= now_ms)
            || (age > 0 && record.ms.saturating_add(age) <= now_ms)
    }

    /// Passes a message on with its body. False if that is gone, because the floor rose or it was deleted.
    fn pass(
        &self,
        record: &Record,
        visit: &mut dyn FnMut(&StoredMessage),
    ) -> Result<bool, StoreError> {
        let mut long = Vec::new();
        let body = match record.body {
            Some(body) => body,
            None => {
                let key = self.place.number(record.sequence);
                if !self.store.get(Family::Blobs, &key, &mut long)? {
                    return Ok(false);
                }
                if long.len() != record.body_bytes {
                    return Err(damaged(Family::Blobs, &key, "length"));
                }
                &long
            }
        };
        visit(&StoredMessage {
            sequence: Sequence(record.sequence),
            ms: record.ms,
            topic: record.topic,
            headers: record.headers,
            body,
        });
        Ok(true)
    }

    /// One message.
    pub fn message(
        &self,
        sequence: Sequence,
        now_ms: u64,
        visit: &mut dyn FnMut(&StoredMessage),
    ) -> Result<(), ReadError> {
        let sequence = sequence.0;
        let is_there = (self.state.floor..self.state.next).contains(&sequence)
            && Liveness::new(self.store, self.place).is_live(sequence)?;
        let mut found = false;
        if is_there {
            scan::forward(self.store, self.place, sequence, sequence + 1, |record| {
                found = !self.is_over(record, now_ms) && self.pass(record, visit)?;
                ENOUGH
            })?;
        }
        found.then_some(()).ok_or(ReadError::NoMessage)
    }

    /// The last message that a reader may see; none if there is none.
    ///
    /// Cost: a run, and more if the last messages were deleted or are over.
    pub fn last(&self, now_ms: u64) -> Result<Option<Sequence>, ReadError> {
        let State { floor, next, .. } = self.state;
        let mut liveness = Liveness::new(self.store, self.place);
        let (mut found, mut looked_at, mut reached) = (None, 0, next);
        scan::backward(self.store, self.place, floor, next, |record| {
            (looked_at, reached) = (looked_at + 1, record.sequence);
            if !self.is_over(record, now_ms) && liveness.is_live(record.sequence)? {
                found = Some(Sequence(record.sequence));
                return ENOUGH;
            }
            match looked_at == READ_SCAN_MESSAGES_MAX {
                true => ENOUGH,
                false => ON,
            }
        })?;
        match found.is_none() && looked_at == READ_SCAN_MESSAGES_MAX {
            true => Err(ReadError::SearchTooLong(Sequence(reached))),
            false => Ok(found),
        }
    }

    /// The last message of a topic.
    ///
    /// Cost: a row and the message; more if the topic's last was deleted or is over.
    pub fn last_of_topic(
        &self,
        topic: &[u8],
        now_ms: u64,
        visit: &mut dyn FnMut(&StoredMessage),
    ) -> Result<(), ReadError> {
        let is_gone =
            |record: &Record| record.sequence >= self.state.next || self.is_over(record, now_ms);
        let (floor, most) = (self.state.floor, READ_SCAN_MESSAGES_MAX);
        let found = scan::last_of_topic(self.store, self.place, topic, floor, most, is_gone)?;
        match found {
            LastOfTopic::None => Err(ReadError::NoMessage),
            LastOfTopic::Live(sequence) => self.message(Sequence(sequence), now_ms, visit),
            LastOfTopic::Unknown(reached) => Err(ReadError::SearchTooLong(Sequence(reached))),
        }
    }

    /// The first message that was stored at or after a time; behind the last if there is none.
    ///
    /// Cost: the logarithm of the number of blocks, and up to two blocks of messages.
    pub fn first_at(&self, ms: u64, now_ms: u64) -> Result<Sequence, ReadError> {
        let State { floor, next, .. } = self.state;
        if floor == next || ms > self.state.last_ms {
            return Ok(Sequence(next));
        }
        // The first block whose last message is late enough. Blocks below the floor may be gone: they are too early.
        let (mut low, mut high) = (block_of(floor), block_of(self.state.last_stored()));
        while low < high {
            let middle = low + (high - low) / 2;
            // In a hole, the block behind it says.
            let at = block_of(self.state.skip_hole(middle * BLOCK_SEQUENCES));
            let block = scan::block(self.store, self.place, at)?;
            match block.is_some_and(|block| block.last_ms >= ms) {
                true => high = middle,
                false => low = at + 1,
            }
        }
        let from = floor.max(low * BLOCK_SEQUENCES);
        let mut liveness = Liveness::new(self.store, self.place);
        let mut first = next;
        scan::forward(self.store, self.place, from, next, |record| {
            let is_it = record.ms >= ms
                && !self.is_over(record, now_ms)
                && liveness.is_live(record.sequence)?;
            if is_it {
                first = record.sequence;
                return ENOUGH;
            }
            ON
        })?;
        Ok(Sequence(first))
    }

    /// Where a reader with this token goes on.
    pub fn resume(&self, token: &ResumeToken, lineage: Lineage) -> Resumed {
        let is_ours = token.lineage == lineage
            && token.stream == self.place.stream
            && token.sequence.0 < self.state.next;
        match is_ours {
            true => Resumed::At(Sequence(token.sequence.0 + 1)),
            false => Resumed::Reset,
        }
    }

    /// Visits topics that one of the filters matches, each with its last message, in the order of topics: those behind
    /// `after`, or from the first. Looks at `most` topics at most, and returns the last of them if there may be more.
    ///
    /// Cost: a row for each topic that was ever stored and not compacted away; for each one that matches its last message.
    pub fn last_of_each(
        &self,
        after: Option<&[u8]>,
        filters: &[&[u8]],
        most: usize,
        now_ms: u64,
        visit: &mut dyn FnMut(&[u8], Sequence),
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let prefix = self.place.prefix();
        let from = after.map_or(prefix.to_vec(), |after| [&prefix, after, &[0]].concat());
        let mut behind = self.place;
        behind.stream.0 += 1;
        let mut topics: Vec<Vec<u8>> = Vec::new();
        let (mut looked_at, mut reached) = (0, None);
        let mut on_row = |key: &[u8], _: &[u8]| {
            let topic = &key[PREFIX_BYTES..];
            looked_at += 1;
            if matches(filters, topic) {
                topics.push(topic.to_vec());
            }
            if looked_at >= most {
                reached = Some(topic.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let (forward, to) = (Direction::Forward, behind.prefix());
        self.store
            .range(Family::Last, &from, &to, forward, &mut on_row)?;
        for topic in topics {
            let read =
                self.last_of_topic(&topic, now_ms, &mut |one| visit(one.topic, one.sequence));
            match read {
                Ok(()) | Err(ReadError::NoMessage) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(reached)
    }

    /// Visits the messages from `start` on whose topic one of the filters matches; without filters all.
    pub fn page(
        &self,
        start: Start,
        filters: &[&[u8]],
        limits: PageLimits,
        now_ms: u64,
        visit: &mut dyn FnMut(&StoredMessage),
    ) -> Result<Page, ReadError> {
        let floor = self.state.floor;
        let mut turn = PageTurn {
            next: floor,
            end: PageEnd::Head,
            gap: None,
            messages: 0,
            bytes: 0,
            looked_at: 0,
        };
        if let Start::At(from) = start {
            if from.0 < floor {
                turn.gap = Some((from.0, floor));
            }
            turn.next = from.0.max(floor);
        }
        let from = turn.next;
        let mut liveness = Liveness::new(self.store, self.place);
        if from < self.state.next {
            let (store, place, to) = (self.store, self.place, self.state.next);
            scan::runs(store, place, from, to, Direction::Forward, |run| {
                if run.first > turn.next && !self.close_hole(&mut turn, run.first)? {
                    return ENOUGH;
                }
                for record in run {
                    let record =
                        record.map_err(|_| damaged(Family::Msgs, &place.prefix(), "run"))?;
                    if record.sequence < turn.next || record.sequence >= to {
                        continue;
                    }
                    let is_wanted = matches(filters, record.topic)
                        && !self.is_over(&record, now_ms)
                        && liveness.is_live(record.sequence)?;
                    if self
                        .turn(&mut turn, &record, is_wanted, limits, visit)?
                        .is_break()
                    {
                        return ENOUGH;
                    }
                }
                ON
            })?;
        }
        if turn.end == PageEnd::Head && turn.next < self.state.next {
            let to = self.state.next;
            self.close_hole(&mut turn, to)?;
            turn.next = turn.next.max(to);
        }
        let numbered = |(from, to)| (Sequence(from), Sequence(to));
        Ok(Page {
            next: Sequence(turn.next),
            end: turn.end,
            gap: turn.gap.map(numbered),
        })
    }

    /// Takes one message into a page, or ends it.
    fn turn(
        &self,
        turn: &mut PageTurn,
        record: &Record,
        is_wanted: bool,
        limits: PageLimits,
        visit: &mut dyn FnMut(&StoredMessage),
    ) -> Flow {
        let bytes = record.topic.len() + record.headers.len() + record.body_bytes;
        let is_full = turn.messages > 0
            && (turn.messages >= limits.messages || turn.bytes + bytes > limits.bytes);
        if (is_wanted && is_full) || turn.looked_at >= limits.looked_at.max(1) {
            turn.end = PageEnd::Limit;
            return ENOUGH;
        }
        turn.looked_at += 1;
        if is_wanted && self.pass(record, visit)? {
            turn.messages += 1;
            turn.bytes += bytes;
        } else if is_wanted && !self.close_hole(turn, record.sequence + 1)? {
            // A long body is gone with what stood before it.
            return ENOUGH;
        }
        turn.next = record.sequence + 1;
        ON
    }

    /// Rows from the page's next sequence up to `to` are not there, though no raise passed them over: says gap if the floor has risen above them, else they
    /// were lost. A message that was already given out stands in front of the gap, so the page ends there. False then.
    fn close_hole(&self, turn: &mut PageTurn, to: u64) -> Result<bool, StoreError> {
        turn.next = self.state.skip_hole(turn.next);
        if turn.next >= to {
            return Ok(true);
        }
        let floor = read_state(self.store, self.place)?.map_or(u64::MAX, |state| state.floor);
        let key = self.place.number(turn.next);
        let is_deleted = || Ok(!Liveness::new(self.store, self.place).is_live(turn.next)?);
        if floor <= turn.next {
            // One message may have been deleted since; a run never goes otherwise.
            return match to == turn.next + 1 && is_deleted()? {
                true => Ok(true),
                false => Err(damaged(Family::Msgs, &key, "absence")),
            };
        }
        if turn.messages > 0 {
            turn.end = PageEnd::Limit;
            return Ok(false);
        }
        let from = turn.gap.map_or(turn.next, |(from, _)| from);
        turn.next = floor.min(to);
        turn.gap = Some((from, turn.next));
        Ok(true)
    }
}

/// Whether one of the filters matches; without filters all do.
fn matches(filters: &[&[u8]], topic: &[u8]) -> bool {
    filters.is_empty() || filters.iter().any(|one| wildcard_matches(one, topic))
}

/// A page while it is read.
#[derive(Debug)]
struct PageTurn {
    next: u64,
    end: PageEnd,
    gap: Option<(u64, u64)>,
    messages: usize,
    bytes: usize,
    looked_at: usize,
}
