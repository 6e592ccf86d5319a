//! Frames to be written, and requests to be answered.
//!
//! Owns the frames from publish until written, and a record of each request until it is answered. Must not know why a
//! connection ended or what an answer means. Invariants: a segment holds whole frames; the records in `pending` are in
//! the order in which their frames are written; `handed` of them belong to frames that the driver has or has written.
//! Fire-and-forget messages are recognized in the frames themselves, so they need no record. Start at
//! [`Outgoing::hand_out`] and [`Outgoing::break_off`].

use super::{CallId, Token};
use crate::limits::{SEGMENT_BYTES, SEGMENTS_SPARE_MAX};
use crate::message::frame_length;
use bytes::Bytes;
use sapwood_wire::native::{self, AnswerPart, Parts, PartsError, When, kind};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A buffer of whole frames.
#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Number of MESSAGE frames.
    publishes: u64,
    /// Bytes of the MESSAGE frames.
    publish_bytes: usize,
    /// Number of frames with a record in `pending`.
    requests: usize,
}

/// Bytes that the driver is writing to the socket. The driver gets it from
/// [`poll_transmit`](super::Machine::poll_transmit), and returns it there, or to
/// [`handle_disconnected`](super::Machine::handle_disconnected), with the number of bytes written.
#[derive(Debug, Default)]
pub struct Transmit {
    segment: Segment,
    written: usize,
}

impl Transmit {
    /// The bytes left to write.
    pub fn bytes(&self) -> &[u8] {
        &self.segment.bytes[self.written..]
    }

    /// Records that the socket took this many more bytes.
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

/// The kind of a request, which decides where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A confirmed publish; `None` after its caller was told of the time-out.
    Publish(Option<Token>),
    /// A request (request/reply): acknowledged only if nobody listens.
    Call(CallId),
    /// A subscription of the client.
    Subscribe(super::SubscriptionId),
    /// The subscription to the inbox, which receives the replies to all requests.
    Inbox,
    /// An unsubscribe, whose answer is ignored.
    Unsubscribe,
    /// A ping of a caller; `None` after its caller was told of the time-out.
    Ping(Option<Token>),
    /// A publish that is answered once it is stored, behind later requests perhaps; `None` as above.
    Store(Option<Token>),
    /// A CALL, whose answer comes in parts and behind later requests perhaps; `None` as above.
    State(Option<Token>),
    /// A ping of the machine itself, for liveness or for proof of receipt.
    Probe,
    /// The DRAIN of a drain started by this side.
    Drain,
    /// The DRAIN that leaves a connection whose broker is about to stop.
    Leave,
    /// The ping after which a drained client closes.
    LastPing,
}

impl Ask {
    /// Whether a caller waits for the answer.
    fn is_awaited(self) -> bool {
        match self {
            Ask::Publish(_) | Ask::Ping(_) | Ask::Store(_) | Ask::State(_) => {
                self.token().is_some()
            }
            Ask::Subscribe(_) | Ask::Drain | Ask::LastPing => true,
            Ask::Call(_) | Ask::Inbox | Ask::Unsubscribe | Ask::Probe | Ask::Leave => false,
        }
    }

    /// The number of the caller who is told the outcome.
    pub(super) fn token(self) -> Option<Token> {
        match self {
            Ask::Publish(token) | Ask::Ping(token) | Ask::Store(token) | Ask::State(token) => token,
            _ => None,
        }
    }

    /// Whether the frame can be sent on another connection. The others are made anew there if needed.
    fn outlives_connection(self) -> bool {
        matches!(
            self,
            Ask::Publish(_) | Ask::Call(_) | Ask::Ping(_) | Ask::Store(_) | Ask::State(_)
        )
    }

    /// Whether it is answered whenever that is done, rather than in the order of requests.
    fn is_of_state(self) -> bool {
        matches!(self, Ask::Store(_) | Ask::State(_))
    }
}

/// A request without an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    request: u32,
    pub(super) ask: Ask,
    /// When its caller asked.
    pub(super) since: Duration,
    bytes: usize,
    /// Number of MESSAGE frames before it on this connection.
    publishes_before: u64,
}

/// What is left of a connection that ended.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Requests written in whole or in part, and not answered.
    pub(super) touched: Vec<Pending>,
    /// Requests of the machine itself that were not written, and are dropped.
    pub(super) discarded: Vec<Pending>,
    /// Fire-and-forget publishes that were written and may not have arrived.
    pub(super) unconfirmed: u64,
}

/// A request that answers to later ones have passed, and the parts of its own that have come.
#[derive(Debug)]
struct Late {
    pending: Pending,
    parts: Vec<Bytes>,
}

/// An answer to a request that was never sent, or that was already passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongAnswer;

/// Where a frame is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// After all queued frames.
    Last,
    /// Before all queued frames: only for frames that belong to this connection.
    Next,
}

/// All outgoing frames, see the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Frames of the machine itself that go before the queued ones.
    next: Segment,
    queued: VecDeque<Segment>,
    spare: Vec<Vec<u8>>,
    pending: VecDeque<Pending>,
    /// Requests that the broker has, and answers when that is done.
    late: BTreeMap<u32, Late>,
    handed: usize,
    handed_publishes: u64,
    /// Number of MESSAGE frames of this connection, handed out or queued.
    publishes: u64,
    /// How many of them the broker has certainly received.
    confirmed_publishes: u64,
    /// Bytes of unwritten MESSAGE frames and of unanswered requests.
    bytes: usize,
    awaited: usize,
    last_request: u32,
}

impl Outgoing {
    /// Bytes and requests that count against the window.
    pub(super) fn window(&self) -> (usize, usize) {
        (self.bytes, self.pending.len() + self.late.len())
    }

    /// Number of requests that callers wait for.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether there are frames for the driver. With `Place::Next`, only those that go first.
    pub(super) fn has_frames(&self, place: Place) -> bool {
        // A publish refused here may leave an empty segment behind, which can only be the last.
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

    /// Queues a publish that is answered once it is stored.
    pub(super) fn push_store(
        &mut self,
        now: Duration,
        token: Token,
        parts: &Parts<'_>,
    ) -> Result<(), PartsError> {
        self.push(Place::Last, now, Ask::Store(Some(token)), |out, request| {
            write_around(out, parts, |out| {
                native::write_publish_stored(out, request, &[]);
            })
        })
    }

    /// Queues a confirmed publish (PUBLISH).
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
            write_around(out, parts, |out| {
                native::write_publish(out, request, when, &[]);
            })
        })
    }

    /// Queues the frame of a request, which `write` appends.
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

    /// Begins a connection with a frame that is not a request: HELLO. Returns the records of kept frames, so that the
    /// records of the opening frames can be appended in order.
    pub(super) fn begin_opening(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> VecDeque<Pending> {
        assert!(
            self.next.bytes.is_empty() && self.handed == 0,
            "a connection opens once"
        );
        write(&mut self.next.bytes);
        std::mem::take(&mut self.pending)
    }

    /// Ends the opening: the kept records follow it.
    pub(super) fn finish_opening(&mut self, mut kept: VecDeque<Pending>) {
        self.pending.append(&mut kept);
    }

    /// Takes back a segment that was written whole, and gives out the next frames. Returns whether there are any.
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

    /// Finds the request that was answered. Earlier requests that are only acknowledged if nobody listens have been
    /// received.
    pub(super) fn answer(&mut self, request: u32) -> Result<Pending, WrongAnswer> {
        // Ends because each round removes a record.
        while self.handed > 0 {
            let Some(front) = self.pending.front().copied() else {
                break;
            };
            let is_answered = front.request == request;
            let may_pass = matches!(front.ask, Ask::Call(_)) || front.ask.is_of_state();
            if self.late.contains_key(&request) || !is_answered && !may_pass {
                break;
            }
            self.pending.pop_front();
            self.handed -= 1;
            if is_answered {
                self.settle(&front);
                // Frames are handled in order, so everything before an answered one has arrived.
                self.confirmed_publishes = self.confirmed_publishes.max(front.publishes_before);
                return Ok(front);
            }
            match front.ask.is_of_state() {
                true => self.put_late(front, Vec::new()),
                false => self.settle(&front),
            }
        }
        let late = self.late.remove(&request).ok_or(WrongAnswer)?;
        self.settle(&late.pending);
        Ok(late.pending)
    }

    fn put_late(&mut self, pending: Pending, parts: Vec<Bytes>) {
        self.late.insert(pending.request, Late { pending, parts });
    }

    /// Takes a part of the answer to a CALL; gives all of it with the last.
    pub(super) fn answer_part(
        &mut self,
        request: u32,
        part: Bytes,
        extent: AnswerPart,
    ) -> Result<Option<(Pending, Vec<Bytes>)>, WrongAnswer> {
        let late = self.late.get_mut(&request);
        let mut parts = late.map_or_else(Vec::new, |late| std::mem::take(&mut late.parts));
        let pending = self.answer(request)?;
        if !matches!(pending.ask, Ask::State(_)) {
            return Err(WrongAnswer);
        }
        parts.push(part);
        if extent == AnswerPart::Last {
            return Ok(Some((pending, parts)));
        }
        self.bytes += pending.bytes;
        self.awaited += usize::from(pending.ask.is_awaited());
        self.put_late(pending, parts);
        Ok(None)
    }

    fn settle(&mut self, pending: &Pending) {
        self.bytes -= pending.bytes;
        self.awaited -= usize::from(pending.ask.is_awaited());
    }

    /// Collects the requests whose callers have waited since before `since`, and forgets the callers.
    pub(super) fn give_up(&mut self, since: Duration, expired: &mut Vec<Ask>) {
        let late = self.late.values_mut().map(|late| &mut late.pending);
        for pending in self.pending.iter_mut().chain(late) {
            if pending.since > since {
                continue;
            }
            let ask = pending.ask;
            match &mut pending.ask {
                Ask::Publish(token @ Some(_))
                | Ask::Ping(token @ Some(_))
                | Ask::Store(token @ Some(_))
                | Ask::State(token @ Some(_)) => *token = None,
                _ => continue,
            }
            self.awaited -= 1;
            expired.push(ask);
        }
    }

    /// The requests for replies among the kept frames.
    pub(super) fn kept_calls(&self) -> impl Iterator<Item = CallId> {
        self.pending.iter().filter_map(|pending| match pending.ask {
            Ask::Call(call) => Some(call),
            _ => None,
        })
    }

    /// Number of requests for replies that no connection has carried yet.
    pub(super) fn unsent_calls(&self) -> usize {
        let unsent = self.pending.iter().skip(self.handed);
        unsent.filter(|it| matches!(it.ask, Ask::Call(_))).count()
    }

    /// Removes everything, once there is no connection, and returns the requests.
    pub(super) fn clear(&mut self) -> Vec<Pending> {
        let Outgoing { pending, late, .. } = std::mem::take(self);
        let late = late.into_values().map(|late| late.pending);
        late.chain(pending).collect()
    }

    /// Handles the end of the connection. Frames of which nothing was written are kept for the next one, in order; the
    /// rest is returned. `transmit` is what the driver was writing.
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
        let late = std::mem::take(&mut self.late).into_values();
        let late = late.map(|late| late.pending);
        let mut remains = Remains {
            touched: late.chain(pending.drain(..touched_count)).collect(),
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

/// Writes a message into a frame that `write` begins, which saves a copy.
fn write_around(
    out: &mut Vec<u8>,
    parts: &Parts<'_>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), PartsError> {
    let start = out.len();
    write(out);
    parts.write(out)?;
    let length = (out.len() - start - native::LENGTH_BYTES) as u32;
    out[start..start + native::LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
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

/// Lets `write` append one frame, all or nothing. Returns the frame's length.
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

/// Position of the first frame of which nothing was written.
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

/// Number of frames that match `is_counted`.
fn count(mut frames: &[u8], is_counted: fn(&[u8]) -> bool) -> usize {
    let mut counted = 0;
    while let Some(length) = frame_length(frames) {
        let (frame, rest) = frames.split_at(length);
        counted += usize::from(is_counted(frame));
        frames = rest;
    }
    counted
}
