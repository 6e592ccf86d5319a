//! What waits to be written, and what waits for its answer.
//!
//! Owns the frames from the moment they are published until they were written, and a record of each request until it
//! was answered. Must not know why a connection ended or what an answer means. Invariants: a segment holds whole
//! frames; the records in `pending` stand in the order in which their frames are written; `handed` of them belong to
//! frames that the driver has or has written. The frames themselves say what they are, so a fire-and-forget message
//! costs no record. Start at [`Outgoing::hand_out`] and [`Outgoing::break_off`].

use super::{CallId, Token};
use crate::limits::{SEGMENT_BYTES, SEGMENTS_SPARE_MAX};
use crate::message::frame_length;
use sapwood_wire::native::{self, Parts, PartsError, When, kind};
use std::collections::VecDeque;
use std::time::Duration;

/// Some whole frames.
#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// MESSAGE frames among them.
    publishes: u64,
    /// Bytes of those frames.
    publish_bytes: usize,
    /// Frames among them that have a record in `pending`.
    requests: usize,
}

/// Bytes that the driver is writing to the socket. It belongs to the driver from
/// [`poll_transmit`](super::Machine::poll_transmit) on, and goes back there, or to
/// [`handle_disconnected`](super::Machine::handle_disconnected), with what was written.
#[derive(Debug, Default)]
pub struct Transmit {
    segment: Segment,
    written: usize,
}

impl Transmit {
    /// What is left to write.
    pub fn bytes(&self) -> &[u8] {
        &self.segment.bytes[self.written..]
    }

    /// Takes note that the socket took so many more bytes.
    pub fn advance(&mut self, bytes: usize) {
        assert!(
            bytes <= self.bytes().len(),
            "more was written than there was"
        );
        self.written += bytes;
    }

    /// Whether everything was written.
    pub fn is_written(&self) -> bool {
        self.written == self.segment.bytes.len()
    }
}

/// What a request is, and so who hears its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A confirmed publish; `None` once its caller was told that time is up.
    Publish(Option<Token>),
    /// A request for replies: answered only if nobody listens.
    Call(CallId),
    /// A subscription of ours, by its place and serial number.
    Subscribe(super::SubscriptionId),
    /// The subscription that serves the replies to all requests.
    Inbox,
    /// The answer says nothing that matters.
    Unsubscribe,
    /// A ping that somebody waits for.
    Ping(Option<Token>),
    /// A ping of the machine's own: asks for a sign of life, or what was received.
    Probe,
    /// The DRAIN of a drain that this side asked for.
    Drain,
    /// The DRAIN with which a connection to a broker that stops is left.
    Leave,
    /// The ping after which a drained client closes.
    LastPing,
}

impl Ask {
    /// Whether somebody waits for the answer.
    fn is_awaited(self) -> bool {
        match self {
            Ask::Publish(token) | Ask::Ping(token) => token.is_some(),
            Ask::Subscribe(_) | Ask::Drain | Ask::LastPing => true,
            Ask::Call(_) | Ask::Inbox | Ask::Unsubscribe | Ask::Probe | Ask::Leave => false,
        }
    }

    /// Whether its frame is still right on another connection. The others are made anew there if needed.
    fn outlives_connection(self) -> bool {
        matches!(self, Ask::Publish(_) | Ask::Call(_) | Ask::Ping(_))
    }
}

/// A request that has no answer yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    request: u32,
    pub(super) ask: Ask,
    /// When its caller asked.
    pub(super) since: Duration,
    bytes: usize,
    /// MESSAGE frames that stand before it on this connection.
    publishes_before: u64,
}

/// What a connection left behind when it ended.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Requests that were written, in whole or in part, and never answered.
    pub(super) touched: Vec<Pending>,
    /// Requests of the machine's own that were not written, and are not kept.
    pub(super) discarded: Vec<Pending>,
    /// Fire-and-forget publishes that were written and may not have arrived.
    pub(super) unconfirmed: u64,
}

/// An answer to a request that was never sent, or was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongAnswer;

/// Where a frame stands among what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind everything that is queued.
    Last,
    /// Before everything that is queued: only for frames that no connection inherits.
    Next,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Frames of the machine's own that go before the queued ones.
    next: Segment,
    queued: VecDeque<Segment>,
    spare: Vec<Vec<u8>>,
    pending: VecDeque<Pending>,
    handed: usize,
    handed_publishes: u64,
    /// MESSAGE frames of this connection, handed out or queued.
    publishes: u64,
    /// Those that the broker has received for certain.
    confirmed_publishes: u64,
    /// Bytes of MESSAGE frames that are not yet written, and of requests that are not yet answered.
    bytes: usize,
    awaited: usize,
    last_request: u32,
}

impl Outgoing {
    /// Bytes and requests that count against the window.
    pub(super) fn window(&self) -> (usize, usize) {
        (self.bytes, self.pending.len())
    }

    /// Requests that somebody waits for.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether frames wait for the driver. With `Place::Next`, only those that go first.
    pub(super) fn has_frames(&self, place: Place) -> bool {
        // A segment without bytes is what a publish that was refused here left behind; it can only be the last.
        let is_queued = |segment: &Segment| !segment.bytes.is_empty();
        is_queued(&self.next) || place == Place::Last && self.queued.front().is_some_and(is_queued)
    }

    /// Queues a fire-and-forget publish.
    pub(super) fn push_message(&mut self, parts: &Parts<'_>) -> Result<(), PartsError> {
        let segment = writable(&mut self.queued, &mut self.spare);
        let length = append(segment, |out| {
            let mut result = Ok(());
            native::write_frame(out, kind::MESSAGE, |out| result = parts.write(out));
            result
        })?;
        segment.publishes += 1;
        segment.publish_bytes += length;
        self.bytes += length;
        self.publishes += 1;
        Ok(())
    }

    /// Queues a PUBLISH.
    pub(super) fn push_publish(
        &mut self,
        now: Duration,
        ask: Ask,
        parts: &Parts<'_>,
    ) -> Result<(), PartsError> {
        let when = match ask {
            Ask::Call(_) => When::Unheard,
            _ => When::Always,
        };
        self.push(Place::Last, now, ask, |out, request| {
            let start = out.len();
            // The head of an empty PUBLISH, then the message behind it, which saves copying it.
            native::write_publish(out, request, when, &[]);
            parts.write(out)?;
            let length = (out.len() - start - native::LENGTH_BYTES) as u32;
            out[start..start + native::LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(())
        })
    }

    /// Queues the frame of a request that `write` appends.
    pub(super) fn push_request(
        &mut self,
        place: Place,
        now: Duration,
        ask: Ask,
        write: impl FnOnce(&mut Vec<u8>, u32),
    ) {
        let written = self.push(place, now, ask, |out, request| {
            write(out, request);
            Ok::<(), std::convert::Infallible>(())
        });
        match written {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    fn push<E>(
        &mut self,
        place: Place,
        now: Duration,
        ask: Ask,
        write: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let request = match self.last_request.wrapping_add(1) {
            0 => 1,
            request => request,
        };
        let segment = match place {
            Place::Last => writable(&mut self.queued, &mut self.spare),
            Place::Next => &mut self.next,
        };
        let bytes = append(segment, |out| write(out, request))?;
        let (at, publishes_before) = match place {
            Place::Last => (self.pending.len(), self.publishes),
            Place::Next => (self.handed + segment.requests, self.handed_publishes),
        };
        segment.requests += 1;
        self.last_request = request;
        self.bytes += bytes;
        self.awaited += usize::from(ask.is_awaited());
        let pending = Pending {
            request,
            ask,
            since: now,
            bytes,
            publishes_before,
        };
        self.pending.insert(at, pending);
        Ok(())
    }

    /// Begins a connection with a frame that is no request, a HELLO. The records of what was kept step
    /// aside, so that those of the opening need not be put before each of them.
    pub(super) fn begin_opening(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> VecDeque<Pending> {
        assert!(
            self.next.bytes.is_empty() && self.handed == 0,
            "a connection opens once"
        );
        write(&mut self.next.bytes);
        std::mem::take(&mut self.pending)
    }

    /// Ends the opening: what was kept stands behind it.
    pub(super) fn finish_opening(&mut self, mut kept: VecDeque<Pending>) {
        self.pending.append(&mut kept);
    }

    /// Takes back what was written whole, and gives the next frames out. Says whether there are any.
    pub(super) fn hand_out(&mut self, transmit: &mut Transmit, place: Place) -> bool {
        if !transmit.is_written() {
            return true;
        }
        self.take_back(transmit);
        let segment = if !self.next.bytes.is_empty() {
            std::mem::take(&mut self.next)
        } else if self.has_frames(place) {
            self.queued.pop_front().unwrap_or_default()
        } else {
            Segment::default()
        };
        self.handed += segment.requests;
        self.handed_publishes += segment.publishes;
        *transmit = Transmit {
            segment,
            written: 0,
        };
        !transmit.is_written()
    }

    /// Accounts for a segment that was written whole.
    fn take_back(&mut self, transmit: &mut Transmit) {
        let Transmit { mut segment, .. } = std::mem::take(transmit);
        self.bytes -= segment.publish_bytes;
        if self.spare.len() < SEGMENTS_SPARE_MAX
            && (1..=2 * SEGMENT_BYTES).contains(&segment.bytes.capacity())
        {
            segment.bytes.clear();
            self.spare.push(segment.bytes);
        }
    }

    /// Finds what was answered. Requests before it that are only answered when nobody listens were heard.
    pub(super) fn answer(&mut self, request: u32) -> Result<Pending, WrongAnswer> {
        // Ends because each round takes a record away.
        while self.handed > 0 {
            let Some(front) = self.pending.front().copied() else {
                break;
            };
            let is_answered = front.request == request;
            if !is_answered && !matches!(front.ask, Ask::Call(_)) {
                break;
            }
            self.pending.pop_front();
            self.handed -= 1;
            self.settle(&front);
            if is_answered {
                // Frames are handled in order, so what stands before an answered one has arrived.
                self.confirmed_publishes = self.confirmed_publishes.max(front.publishes_before);
                return Ok(front);
            }
        }
        Err(WrongAnswer)
    }

    fn settle(&mut self, pending: &Pending) {
        self.bytes -= pending.bytes;
        self.awaited -= usize::from(pending.ask.is_awaited());
    }

    /// Forgets the callers that have waited since before `since`, and names them.
    pub(super) fn give_up(&mut self, since: Duration, expired: &mut Vec<Ask>) {
        for pending in &mut self.pending {
            if pending.since > since {
                continue;
            }
            let ask = pending.ask;
            match &mut pending.ask {
                Ask::Publish(token @ Some(_)) | Ask::Ping(token @ Some(_)) => *token = None,
                _ => continue,
            }
            self.awaited -= 1;
            expired.push(ask);
        }
    }

    /// The requests for replies among what is kept.
    pub(super) fn kept_calls(&self) -> impl Iterator<Item = CallId> {
        self.pending.iter().filter_map(|pending| match pending.ask {
            Ask::Call(call) => Some(call),
            _ => None,
        })
    }

    /// Requests for replies that no connection has carried yet.
    pub(super) fn unsent_calls(&self) -> usize {
        let unsent = self.pending.iter().skip(self.handed);
        unsent.filter(|it| matches!(it.ask, Ask::Call(_))).count()
    }

    /// Forgets everything, once there is no connection, and names the requests.
    pub(super) fn clear(&mut self) -> Vec<Pending> {
        std::mem::take(self).pending.into()
    }

    /// The connection ended. What was not written at all is kept for the next one, in its order, and the
    /// rest is named. `transmit` is what the driver was writing.
    pub(super) fn break_off(&mut self, transmit: &mut Transmit) -> Remains {
        let Transmit { segment, written } = std::mem::take(transmit);
        let split = first_untouched(&segment.bytes, written);
        let (touched_part, untouched_part) = segment.bytes.split_at(split);
        let untouched_requests = segment.requests - count(touched_part, is_request);
        let untouched_publishes = segment.publishes - count(touched_part, is_message) as u64;

        let mut pending = std::mem::take(&mut self.pending);
        let queued = std::mem::take(&mut self.queued);
        let next = std::mem::take(&mut self.next);
        let touched_count = self.handed.saturating_sub(untouched_requests);
        let touched_publishes = self.handed_publishes - untouched_publishes;
        let unconfirmed = touched_publishes.saturating_sub(self.confirmed_publishes);
        let mut remains = Remains {
            touched: pending.drain(..touched_count).collect(),
            discarded: Vec::new(),
            unconfirmed,
        };
        let spare = std::mem::take(&mut self.spare);
        let last_request = self.last_request;
        *self = Outgoing {
            spare,
            last_request,
            ..Outgoing::default()
        };
        let parts = [untouched_part, &next.bytes];
        for part in parts
            .into_iter()
            .chain(queued.iter().map(|segment| segment.bytes.as_slice()))
        {
            self.keep(part, &mut pending, &mut remains.discarded);
        }
        remains
    }

    /// Queues again those of some frames that another connection can carry.
    fn keep(
        &mut self,
        mut frames: &[u8],
        pending: &mut VecDeque<Pending>,
        discarded: &mut Vec<Pending>,
    ) {
        // Ends because each round takes a frame, and a frame has five bytes at least.
        while let Some(length) = frame_length(frames) {
            let (frame, rest) = frames.split_at(length);
            frames = rest;
            let segment = if is_message(frame) {
                let segment = writable(&mut self.queued, &mut self.spare);
                segment.publishes += 1;
                segment.publish_bytes += length;
                self.publishes += 1;
                self.bytes += length;
                segment
            } else if is_request(frame) {
                let Some(mut record) = pending.pop_front() else {
                    continue;
                };
                if !record.ask.outlives_connection() {
                    discarded.push(record);
                    continue;
                }
                record.publishes_before = self.publishes;
                self.bytes += record.bytes;
                self.awaited += usize::from(record.ask.is_awaited());
                self.pending.push_back(record);
                let segment = writable(&mut self.queued, &mut self.spare);
                segment.requests += 1;
                segment
            } else {
                continue;
            };
            segment.bytes.extend_from_slice(frame);
        }
    }
}

/// The segment that takes the next frame.
fn writable<'a>(queued: &'a mut VecDeque<Segment>, spare: &mut Vec<Vec<u8>>) -> &'a mut Segment {
    let has_room = queued
        .back()
        .is_some_and(|last| last.bytes.len() < SEGMENT_BYTES);
    if !has_room {
        queued.push_back(Segment {
            bytes: spare.pop().unwrap_or_default(),
            ..Segment::default()
        });
    }
    let last = queued.len() - 1;
    &mut queued[last]
}

/// Lets `write` append one frame, all or nothing, and says how long it is.
fn append<E>(
    segment: &mut Segment,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<usize, E> {
    let start = segment.bytes.len();
    match write(&mut segment.bytes) {
        Ok(()) => Ok(segment.bytes.len() - start),
        Err(error) => {
            segment.bytes.truncate(start);
            Err(error)
        }
    }
}

/// Where the first frame begins of which nothing was written.
fn first_untouched(frames: &[u8], written: usize) -> usize {
    let mut at = 0;
    // Ends because a frame has five bytes at least.
    while at < written {
        match frame_length(&frames[at..]) {
            Some(length) => at += length,
            None => return frames.len(),
        }
    }
    at
}

fn kind_of(frame: &[u8]) -> Option<u8> {
    frame.get(native::LENGTH_BYTES).copied()
}

fn is_message(frame: &[u8]) -> bool {
    kind_of(frame) == Some(kind::MESSAGE)
}

fn is_request(frame: &[u8]) -> bool {
    !matches!(kind_of(frame), Some(kind::MESSAGE | kind::HELLO))
}

/// How many of some whole frames are of a sort.
fn count(mut frames: &[u8], is_counted: fn(&[u8]) -> bool) -> usize {
    let mut counted = 0;
    while let Some(length) = frame_length(frames) {
        let (frame, rest) = frames.split_at(length);
        counted += usize::from(is_counted(frame));
        frames = rest;
    }
    counted
}
