//! One lane of a link: numbered frames, kept for retransmission until the other side has acknowledged them.
//!
//! A frame's sequence number is its position: both sides count. When the lane's connection breaks, unacknowledged
//! frames are sent again on the next one, so between two running nodes nothing is lost or comes twice. Kept bytes are
//! capped: beyond the cap, whole frames of events are dropped and counted, and a LOST frame stands in their place;
//! frames of interest always go in, and a lane without room even for those is given up. Must not know what events mean,
//! nor sockets. Invariants: `first_kept - 1 <= given <= sent`; `kept` and `tail` hold the frames from `first_kept` to
//! `sent`. Start at [`Lane::push`].

use crate::command::ConnId;
use crate::limits::{LANE_INTEREST_BYTES_MAX, LANE_SPARE_BYTES_MAX, LANE_SPARES_MAX};
use bytes::Bytes;
use sapwood_wire::limits::NODE_FRAME_BYTES_MAX;
use sapwood_wire::node::events::Events;
use sapwood_wire::node::interest::{Beat, Lost, Needs};
use sapwood_wire::node::{self, Parsed, VERSIONS, kind};
use std::collections::VecDeque;

/// Adjacent frames in one buffer.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    frames: u64,
}

/// One lane, as seen by the shard that owns it.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The lane's number on its link.
    pub number: u16,
    /// The connection that carries the lane, if there is one.
    pub conn: Option<ConnId>,
    /// Frames gathered until the end of the turn.
    tail: Vec<u8>,
    tail_frames: u64,
    kept: VecDeque<Piece>,
    kept_bytes: usize,
    /// Buffers of acknowledged frames, for reuse: allocating a new one costs more than writing to it.
    spare: Vec<Vec<u8>>,
    first_kept: u64,
    /// Sequence number of the last frame queued.
    sent: u64,
    /// Sequence number of the last frame given to the connection.
    given: u64,
    /// Events dropped since the last LOST frame.
    lost: u64,
    /// The dependencies in the last NEEDS frame sent.
    needs_said: Needs,
    /// Sequence number of the last frame received.
    pub received: u64,
    /// Bytes of frames received and not yet acknowledged.
    pub unsaid_bytes: usize,
    /// The dependencies of the frames that follow, from the last NEEDS frame received.
    pub needs: Needs,
    /// How long nothing was received, in checks of the lane that this side has come to: see [`Lane::note_silence`].
    pub silent_ns: u64,
    /// Whether the lane is in the list of lanes with something to send.
    pub is_listed: bool,
    /// The send time in the other side's last heartbeat, and when it arrived.
    to_echo: (u64, u64),
    /// Round-trip time from the last echo, in nanoseconds.
    pub round_trip_ns: Option<u64>,
    /// Times that a connection took over the lane.
    connects: u64,
    /// Whether the lane is being dialed; the next field is when it last was.
    pub is_dialing: bool,
    pub dialed_ns: u64,
    /// Events dropped since the last notice to the operator.
    lost_unsaid: u64,
    bytes_max: usize,
}

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Queued for sending.
    Kept,
    /// The lane is full: the frame's events were dropped and counted.
    Dropped,
}

impl Lane {
    /// A new lane, which keeps at most `bytes_max` bytes.
    pub(crate) fn new(number: u16, bytes_max: usize) -> Lane {
        Lane {
            number,
            conn: None,
            tail: Vec::new(),
            tail_frames: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            spare: Vec::new(),
            first_kept: 1,
            sent: 0,
            given: 0,
            lost: 0,
            needs_said: Needs::default(),
            received: 0,
            unsaid_bytes: 0,
            needs: Needs::default(),
            silent_ns: 0,
            is_listed: false,
            to_echo: (0, 0),
            round_trip_ns: None,
            connects: 0,
            is_dialing: false,
            dialed_ns: 0,
            lost_unsaid: 0,
            bytes_max,
        }
    }

    /// Counts one check without anything received. It counts as one interval however late it comes: what the other side
    /// sent meanwhile was read first, so a side that got no CPU itself does not take that for silence.
    pub(crate) fn note_silence(&mut self, interval_ns: u64) {
        self.silent_ns = self.silent_ns.saturating_add(interval_ns);
    }

    /// Bytes kept.
    pub(crate) fn len(&self) -> usize {
        self.kept_bytes + self.tail.len()
    }

    /// Queues a frame of events. The other side handles it once `needs` are met.
    pub(crate) fn push(&mut self, frame: &[u8], events: u64, needs: Needs) -> Pushed {
        self.push_with(frame.len(), events, needs, |tail| {
            tail.extend_from_slice(frame)
        })
    }

    /// Like [`push`](Lane::push), with a frame that `encode` writes in place; `bytes` is its approximate length.
    pub(crate) fn push_with(
        &mut self,
        bytes: usize,
        events: u64,
        needs: Needs,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Pushed {
        if self.len() > 0 && self.len() + bytes > self.bytes_max {
            return self.drop_events(events);
        }
        self.say_what_stands_before(needs);
        self.append(encode);
        Pushed::Kept
    }

    /// Like [`push`](Lane::push), with one long frame that several lanes share.
    pub(crate) fn push_shared(&mut self, bytes: &Bytes, events: u64, needs: Needs) -> Pushed {
        if self.len() > 0 && self.len() + bytes.len() > self.bytes_max {
            return self.drop_events(events);
        }
        self.say_what_stands_before(needs);
        self.end_piece();
        self.kept_bytes += bytes.len();
        self.sent += 1;
        self.kept.push_back(Piece {
            bytes: bytes.clone(),
            frames: 1,
        });
        Pushed::Kept
    }

    /// Queues a frame that must not be dropped. False if the lane is over its cap: then the link must be closed.
    pub(crate) fn push_interest(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.append(encode);
        self.len() <= self.bytes_max + LANE_INTEREST_BYTES_MAX
    }

    fn drop_events(&mut self, events: u64) -> Pushed {
        self.lost += events;
        self.lost_unsaid += events;
        Pushed::Dropped
    }

    /// Takes the number of events dropped since the last call.
    pub(crate) fn take_lost_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.lost_unsaid)
    }

    fn say_what_stands_before(&mut self, needs: Needs) {
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.append(|tail| Lost { events: lost }.write(VERSIONS.1, tail));
        }
        if needs != self.needs_said {
            self.needs_said = needs;
            self.append(|tail| needs.write(VERSIONS.1, tail));
        }
    }

    fn append(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.tail);
        self.tail_frames += 1;
        self.sent += 1;
    }

    fn end_piece(&mut self) {
        if self.tail_frames == 0 {
            return;
        }
        let next = self.spare.pop().unwrap_or_default();
        let bytes = std::mem::replace(&mut self.tail, next);
        self.kept_bytes += bytes.len();
        self.kept.push_back(Piece {
            bytes: bytes.into(),
            frames: std::mem::take(&mut self.tail_frames),
        });
    }

    /// Passes the next frames for the connection to `write`, in order: about `most` bytes at most.
    pub(crate) fn give(&mut self, most: usize, mut write: impl FnMut(&Bytes)) {
        self.end_piece();
        let mut before = self.first_kept - 1;
        let mut given_bytes = 0;
        for piece in &self.kept {
            before += piece.frames;
            if before <= self.given {
                continue;
            }
            if given_bytes > 0 && given_bytes + piece.bytes.len() > most {
                return;
            }
            given_bytes += piece.bytes.len();
            self.given = before;
            write(&piece.bytes);
        }
        assert!(
            self.given == before && before == self.sent,
            "{before} frames are kept or acknowledged, {} were sent",
            self.sent
        );
    }

    /// A heartbeat, which acknowledges received frames.
    pub(crate) fn beat(&mut self, now_ns: u64) -> Beat {
        self.unsaid_bytes = 0;
        let (sent_ns, came_ns) = std::mem::take(&mut self.to_echo);
        Beat {
            received: self.received,
            sent_ns: now_ns.max(1),
            echo_ns: match sent_ns {
                0 => 0,
                sent_ns => sent_ns.saturating_add(now_ns - came_ns),
            },
        }
    }

    /// Handles the other side's heartbeat. False if it acknowledges frames that were never sent.
    pub(crate) fn take_beat(&mut self, beat: &Beat, now_ns: u64) -> bool {
        self.to_echo = (beat.sent_ns, now_ns);
        if beat.echo_ns != 0 && beat.echo_ns <= now_ns {
            self.round_trip_ns = Some(now_ns - beat.echo_ns);
        }
        self.acknowledged(beat.received)
    }

    /// Events that are kept because the other side has not acknowledged them.
    pub(crate) fn unacknowledged(&self) -> u64 {
        let pieces = self.kept.iter().map(|piece| &piece.bytes[..]);
        let pieces = pieces.chain(std::iter::once(&self.tail[..]));
        pieces.map(events_in).sum()
    }

    /// Times that a connection took the lane over from another.
    pub(crate) fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }

    /// Whether the other side has acknowledged everything.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.kept.is_empty() && self.tail_frames == 0
    }

    /// Whether there are frames to give to the connection.
    pub(crate) fn has_more(&self) -> bool {
        self.sent > self.given
    }

    /// Handles an acknowledgement of all frames up to this number. False if they were never queued.
    ///
    /// What this connection was not given yet may have come on the one before, after the other side had said where to
    /// resume: it skips those frames when they come again, so they are kept until they are given.
    pub(crate) fn acknowledged(&mut self, received: u64) -> bool {
        if received > self.sent {
            return false;
        }
        self.forget(received.min(self.given));
        true
    }

    /// Drops the pieces of which the other side has all frames.
    fn forget(&mut self, received: u64) {
        while let Some(piece) = self.kept.front()
            && self.first_kept + piece.frames - 1 <= received
        {
            assert!(piece.frames > 0, "a piece without frames");
            self.first_kept += piece.frames;
            self.kept_bytes -= piece.bytes.len();
            if let Some(piece) = self.kept.pop_front() {
                self.use_again(piece.bytes);
            }
        }
        if self.kept.is_empty() {
            assert!(
                self.kept_bytes == 0 && self.first_kept + self.tail_frames == self.sent + 1,
                "all pieces are acknowledged: {} bytes are counted, frame {} comes next of {}",
                self.kept_bytes,
                self.first_kept,
                self.sent
            );
        }
    }

    /// Keeps a buffer for reuse, unless it is shared or too large, or there are enough.
    fn use_again(&mut self, bytes: Bytes) {
        if self.spare.len() < LANE_SPARES_MAX
            && let Ok(buffer) = bytes.try_into_mut()
            && buffer.capacity() <= LANE_SPARE_BYTES_MAX
        {
            let mut buffer = Vec::from(buffer);
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Resumes on a new connection; the other side has the frames up to `received`. False if that is not possible.
    pub(crate) fn resume(&mut self, conn: ConnId, received: u64) -> bool {
        self.end_piece();
        if received.saturating_add(1) < self.first_kept || received > self.sent {
            return false;
        }
        self.forget(received);
        self.conn = Some(conn);
        self.connects += 1;
        self.split_front(received);
        self.given = received;
        true
    }

    /// Drops kept frames up to `received`, which may be in the middle of the first piece.
    fn split_front(&mut self, received: u64) {
        let Some(piece) = self.kept.front_mut() else {
            return;
        };
        let known = received.saturating_add(1).saturating_sub(self.first_kept);
        for _ in 0..known {
            let length = frame_bytes(&piece.bytes);
            let rest = piece.bytes.split_off(length);
            piece.bytes = rest;
            piece.frames -= 1;
            self.kept_bytes -= length;
        }
        self.first_kept += known;
    }
}

/// Events of whole frames.
fn events_in(frames: &[u8]) -> u64 {
    let (mut events, mut rest) = (0, frames);
    while let Ok(Parsed::Frame(frame, length)) = node::parse(rest, VERSIONS.1, NODE_FRAME_BYTES_MAX)
    {
        if frame.kind == kind::EVENTS
            && let Ok(read) = Events::read(&frame)
        {
            events += read.len() as u64;
        }
        rest = &rest[length..];
    }
    events
}

/// Length of the whole frame at the start of these bytes.
fn frame_bytes(bytes: &[u8]) -> usize {
    match node::parse(bytes, VERSIONS.1, NODE_FRAME_BYTES_MAX) {
        Ok(Parsed::Frame(_, length)) => length,
        other => unreachable!("a kept frame is none: {other:?}"),
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
