//! A connection's bounded output, and its slow consumer policy at the cap.
//!
//! Owns every byte that waits to be sent. Replies are never dropped and never refused; events are subject to the caps,
//! and at a cap to the connection's slow consumer policy: it is closed, or it loses events (`lossy`). Replies that come
//! later than their requests have reply slots (`slots`). While a reply is written in parts, events are deferred, so
//! that the reply stays one value. Must not know what the bytes mean. Invariants: an empty outbox holds no memory;
//! `bytes` is the sum of the owned bytes of all outboxes of the shard, their reply slots, deferred and conflated events
//! included; a dead outbox holds nothing and takes nothing; no frame is ever cut. Start at [`Outboxes::offer`].

mod behind;
mod lossy;
mod slots;

use crate::command::{CloseReason, ConnId, Form, Volume};
use crate::form::{encode_reply, translate_events};
use crate::limits::{
    Limits, OUTBOX_CHUNK_BYTES, PUT_OFF_BYTES, SHARED_RUN_BYTES_MIN, SPARE_BYTES_MAX,
    SPARE_LIST_PIECES_MAX, SPARE_LISTS_MAX, STREAMED_BYTES_MAX, UNFLUSHED_BYTES_EACH,
    UNFLUSHED_BYTES_MAX,
};
use bytes::Bytes;
use lossy::{Lossy, What};
use sapwood_wire::native::Policy;
use slots::Slots;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gauges shared by all shards of a node: bytes of shared payloads in memory, and connections that get events published
/// to `$all`.
#[derive(Clone, Debug, Default)]
pub struct BodyGauge(Arc<Gauges>);

#[derive(Debug, Default)]
struct Gauges {
    body_bytes: AtomicUsize,
    hearing_all: AtomicUsize,
}

impl BodyGauge {
    /// Bytes of shared payloads in memory now.
    pub fn bytes(&self) -> usize {
        self.0.body_bytes.load(Ordering::Relaxed)
    }

    /// Number of connections that get events published to `$all`.
    pub(crate) fn hearing(&self) -> u64 {
        self.0.hearing_all.load(Ordering::Relaxed) as u64
    }

    /// Copies a payload once, to be shared by all its receivers, and counts the copy.
    pub(crate) fn share(&self, payload: &[u8]) -> Bytes {
        self.adopt(payload.to_vec())
    }

    /// Counts a buffer until the last of those who share it drops it.
    pub(crate) fn adopt(&self, bytes: Vec<u8>) -> Bytes {
        let body_bytes = &self.0.body_bytes;
        body_bytes.fetch_add(bytes.capacity(), Ordering::Relaxed);
        Bytes::from_owner(CountedBody {
            bytes,
            gauge: self.clone(),
        })
    }
}

struct CountedBody {
    bytes: Vec<u8>,
    gauge: BodyGauge,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        let body_bytes = &self.gauge.0.body_bytes;
        body_bytes.fetch_sub(self.bytes.capacity(), Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Segment {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Owned(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }
}

/// Frames of deferred events.
#[derive(Debug)]
enum Frames {
    /// One or more whole frames.
    Owned(Vec<u8>),
    /// One frame around a shared payload.
    Shared {
        head: Vec<u8>,
        body: Bytes,
        end: &'static [u8],
    },
}

/// Events deferred during a reply, in the order they came.
#[derive(Debug, Default)]
struct Aside {
    frames: Vec<Frames>,
    /// Bytes of all frames, shared payloads included.
    length: usize,
    /// Bytes that count in the shard's total: all but shared payloads.
    owned: usize,
}

/// The output of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Full pieces, in order; the first `head` bytes of the front one are already sent.
    segments: VecDeque<Segment>,
    /// The last piece, which grows. If there are no segments, its first `head` bytes are already sent.
    tail: Vec<u8>,
    head: usize,
    /// Unsent bytes in `segments` and `tail`.
    length: usize,
    /// Events admitted since it was opened.
    pub admitted: Volume,
    /// Bytes written since it was opened.
    written: u64,
    /// Events deferred while `deferring`; none for nearly every connection.
    aside: Option<Box<Aside>>,
    /// Reply slots of unfinished replies, if any.
    slots: Option<Box<Slots>>,
    /// State of a lossy policy; none for `close`.
    lossy: Option<Box<Lossy>>,
    /// Number of the last event that several of its filters matched, to deliver that once.
    last_event: u64,
    /// Form in which the connection takes events.
    pub form: Form,
    /// A reply is written in part: events are deferred until it is whole.
    deferring: bool,
    /// The last send would have blocked.
    blocked: bool,
    /// It waits at the barrier: nothing may be sent.
    held: bool,
    /// Listed among the connections to be flushed.
    dirty: bool,
    /// Takes nothing more: the connection is being closed, or the place is free.
    dead: bool,
    /// Gets events published to `$all`.
    hears_all: bool,
    /// Gets no more events: its subscriptions are ending.
    is_ending: bool,
    /// Deliveries to it that are put off.
    owed: u32,
    /// A publisher has waited for it in vain since it was last below a quarter of its cap.
    is_given_up: bool,
}

impl Outbox {
    /// Bytes waiting to be sent, including events deferred during a reply, unfinished replies and conflated events.
    pub(crate) fn len(&self) -> usize {
        let aside = self.aside.as_ref().map_or(0, |aside| aside.length);
        let slots = self.slots.as_ref().map_or(0, |slots| slots.bytes);
        let conflated = self.lossy.as_ref().map_or(0, |lossy| lossy.latest_bytes());
        self.length + aside + slots + conflated
    }

    /// Bytes that wait to be sent, without what is only reserved.
    pub(crate) fn waiting(&self) -> usize {
        self.len() - self.slots.as_ref().map_or(0, |slots| slots.reserved())
    }

    /// Whether its output cannot all be written now: the last send would have blocked, it waits at the barrier, or events
    /// are deferred during a reply.
    fn is_stuck(&self) -> bool {
        self.blocked || self.held || self.deferring
    }

    /// Events sent, or still to be sent.
    pub(crate) fn events_out(&self) -> u64 {
        self.admitted.events.saturating_sub(self.lost())
    }

    /// Events dropped by the slow consumer policy.
    pub(crate) fn lost(&self) -> u64 {
        self.lossy.as_ref().map_or(0, |lossy| lossy.lost)
    }

    pub(crate) fn pieces(&self) -> usize {
        self.segments.len() + usize::from(!self.tail.is_empty())
    }
}

/// Output that is not in an outbox yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Bytes for all receivers together.
    pub bytes: usize,
    /// Number of receiving connections.
    pub receivers: usize,
}

/// What a slow consumer policy must know of offered frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    /// The events, all of one topic.
    pub volume: Volume,
    /// Offset of the last event's frame.
    pub last_at: usize,
    /// Key that is the same for all frames of the topic that reach a connection by one filter.
    pub key: &'a [u8],
}

impl<'a> Offer<'a> {
    /// One event.
    pub(crate) fn one(volume: Volume, key: &'a [u8]) -> Offer<'a> {
        debug_assert!(volume.events == 1, "one event is {volume:?}");
        Offer {
            volume,
            last_at: 0,
            key,
        }
    }
}

/// Decision about offered frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Append,
    /// They replace the waiting event of their topic.
    Conflate,
    /// They are lost, or the connection is closed.
    Refuse,
}

/// Counters of the outboxes.
#[derive(Debug, Default)]
pub(crate) struct OutboxCounters {
    pub bytes_out: u64,
    pub closed_outbox_full: u64,
    pub closed_outboxes_full: u64,
    pub lost_drop_oldest: u64,
    pub lost_latest: u64,
}

/// Subtracts freed bytes from a count.
fn uncount(bytes: &mut usize, freed: usize) {
    assert!(
        freed <= *bytes,
        "{freed} bytes are freed, {bytes} are counted"
    );
    *bytes -= freed;
}

/// The output of all connections of a shard.
#[derive(Debug)]
pub(crate) struct Outboxes {
    boxes: Vec<Outbox>,
    /// Connections with something to send, each once, in the order of their first byte.
    dirty: Vec<ConnId>,
    /// Connections closed by a slow consumer policy since this list was last taken.
    pub closing: Vec<(ConnId, CloseReason)>,
    /// Bytes of all owned pieces; shared payloads are counted in `gauge`.
    bytes: usize,
    /// Part of `bytes` that is reserved for replies of calls and holds nothing yet.
    reserved: usize,
    /// Bytes added since the last flush.
    unflushed: usize,
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    /// Spare lists of pieces, for connections that share a run next.
    spare_lists: Vec<VecDeque<Segment>>,
    gauge: BodyGauge,
    hash_seed: u64,
    /// The caps hold for all connections.
    is_strict: bool,
    /// The connection that came above half its cap last, if one did since this was last taken.
    crowded: Option<ConnId>,
    outbox_bytes_max: usize,
    outboxes_bytes_max: usize,
    pub counters: OutboxCounters,
}

impl Outboxes {
    pub(crate) fn new(limits: &Limits, gauge: BodyGauge, hash_seed: u64) -> Outboxes {
        Outboxes {
            boxes: Vec::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            bytes: 0,
            reserved: 0,
            unflushed: 0,
            spare: Vec::new(),
            spare_bytes: 0,
            spare_lists: Vec::new(),
            gauge,
            hash_seed,
            is_strict: false,
            crowded: None,
            outbox_bytes_max: limits.outbox_bytes_max,
            outboxes_bytes_max: limits.outboxes_bytes_max,
            counters: OutboxCounters::default(),
        }
    }

    pub(crate) fn open(&mut self, conn: ConnId, form: Form, policy: Policy) {
        if self.boxes.len() <= conn.slot() {
            self.boxes.resize_with(conn.slot() + 1, || Outbox {
                dead: true,
                ..Outbox::default()
            });
        }
        assert!(
            self.boxes[conn.slot()].dead,
            "the place of {conn:?} is taken"
        );
        // An entry in the dirty list outlives its connection: it must not be listed twice.
        let dirty = self.boxes[conn.slot()].dirty;
        self.boxes[conn.slot()] = Outbox {
            form,
            dirty,
            ..Outbox::default()
        };
        self.set_policy(conn, policy);
    }

    /// Drops the output and takes nothing more. Idempotent.
    pub(crate) fn kill(&mut self, conn: ConnId) {
        self.drop_slots(conn);
        let outbox = &mut self.boxes[conn.slot()];
        for segment in outbox.segments.drain(..) {
            if let Segment::Owned(bytes) = segment {
                uncount(&mut self.bytes, bytes.len());
            }
        }
        let mut freed = outbox.tail.len();
        freed += outbox.aside.as_ref().map_or(0, |aside| aside.owned);
        freed += outbox
            .lossy
            .as_ref()
            .map_or(0, |lossy| lossy.latest_owned());
        uncount(&mut self.bytes, freed);
        if outbox.hears_all {
            self.gauge.0.hearing_all.fetch_sub(1, Ordering::Relaxed);
        }
        *outbox = Outbox {
            dead: true,
            dirty: outbox.dirty,
            form: outbox.form,
            // Another of its filters may match the event that closed it: that event counts once.
            last_event: outbox.last_event,
            ..Outbox::default()
        };
    }

    /// Bytes of spare buffers.
    pub(crate) fn spare_bytes(&self) -> usize {
        let list = SPARE_LIST_PIECES_MAX * size_of::<Segment>();
        self.spare_bytes + self.spare_lists.len() * list
    }

    /// Frees the spare buffers, and the places after the last connection. Must be called between turns only: an event
    /// under way may still meet a connection that it has closed.
    pub(crate) fn release_spares(&mut self) {
        self.spare = Vec::new();
        self.spare_bytes = 0;
        self.spare_lists = Vec::new();
        while self.boxes.pop_if(|last| last.dead && !last.dirty).is_some() {}
        self.boxes.shrink_to_fit();
    }

    pub(crate) fn outbox(&self, conn: ConnId) -> &Outbox {
        &self.boxes[conn.slot()]
    }

    /// Changes the form of events from now on, including deferred ones.
    pub(crate) fn change_form(&mut self, conn: ConnId, form: Form) {
        self.boxes[conn.slot()].form = form;
        for frames in self.deferred_mut(conn) {
            translate_events(form, frames);
        }
    }

    /// From now on the connection gets events published to `$all`.
    pub(crate) fn hear_all(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        if !outbox.dead && !std::mem::replace(&mut outbox.hears_all, true) {
            self.gauge.0.hearing_all.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connections that get events published to `$all`.
    pub(crate) fn all_hearing(&self) -> Vec<ConnId> {
        let boxes = self.boxes.iter().enumerate();
        let hearing = boxes.filter(|(_, outbox)| outbox.hears_all);
        hearing.map(|(slot, _)| ConnId(slot as u32)).collect()
    }

    /// Bytes that count against the shard's cap, without shared payloads.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait to be sent, without what is only reserved.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes - self.reserved
    }

    pub(crate) fn gauge(&self) -> &BodyGauge {
        &self.gauge
    }

    /// Whether so much output has gathered that it should be written before more is made.
    pub(crate) fn should_flush(&self, pending: Pending) -> bool {
        self.room_to_flush(pending) == 0
    }

    /// Bytes that may still gather before the output should be written.
    pub(crate) fn room_to_flush(&self, pending: Pending) -> usize {
        // Receivers of the pending run are not dirty yet, but each will be a write.
        let receivers = self.dirty.len().max(pending.receivers);
        let allowed = UNFLUSHED_BYTES_MAX.max(receivers * UNFLUSHED_BYTES_EACH);
        allowed.saturating_sub(self.unflushed + pending.bytes)
    }

    /// Whether a connection has so much unwritten output that it must be written before it is given more. Never if
    /// it is behind or may lose events: then the caps and its slow consumer policy decide.
    pub(crate) fn wants_flush(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        let is_decided = outbox.is_stuck() || outbox.lossy.is_some() || self.is_strict;
        outbox.length >= PUT_OFF_BYTES && !is_decided
    }

    /// From now on the connection gets no events.
    pub(crate) fn end_events(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].is_ending = true;
    }

    /// A delivery to the connection is put off: it is not read until all are made, so that its replies keep their place
    /// among its events, and it unsubscribes from nothing that it is still to be given.
    pub(crate) fn owe(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].owed += 1;
    }

    /// A delivery that was put off is made. Gives whether it was the last.
    pub(crate) fn end_owing(&mut self, conn: ConnId) -> bool {
        // The place may be another client's by now.
        let owed = &mut self.boxes[conn.slot()].owed;
        *owed = owed.saturating_sub(1);
        *owed == 0
    }

    /// Whether deliveries to the connection are put off.
    pub(crate) fn is_owed(&self, conn: ConnId) -> bool {
        self.boxes[conn.slot()].owed > 0
    }

    /// Whether the connection's subscriptions are ending.
    pub(crate) fn is_ending(&self, conn: ConnId) -> bool {
        self.boxes[conn.slot()].is_ending
    }

    /// Whether the connection gets no events any more.
    pub(crate) fn is_dead(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        outbox.dead || outbox.is_ending
    }

    /// From now on the caps hold also for connections that are not behind, because nothing can be written before more
    /// is given to them.
    pub(crate) fn set_strict(&mut self, is_strict: bool) {
        self.is_strict = is_strict;
    }

    /// Whether this event, which several filters of the connection match, is new to it.
    pub(crate) fn is_first_offer(&mut self, conn: ConnId, event: u64) -> bool {
        std::mem::replace(&mut self.boxes[conn.slot()].last_event, event) != event
    }

    /// Appends a reply. Never refused: a client that does not take its replies is not read (back-pressure).
    pub(crate) fn reply(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        let form = self.boxes[conn.slot()].form;
        self.reply_bare(conn, |out| encode_reply(form, out, encode));
    }

    /// Appends bytes without the framing of the form, such as a WebSocket close.
    pub(crate) fn reply_bare(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.boxes[conn.slot()].dead {
            return;
        }
        let Some(encode) = self.reply_behind_slots(conn, encode) else {
            return;
        };
        self.append_latest(conn);
        self.append_with(conn, What::Reply, encode);
    }

    /// Appends the same reply `times` times.
    pub(crate) fn reply_repeated(
        &mut self,
        conn: ConnId,
        times: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        self.reply(conn, |out| {
            let start = out.len();
            encode(out);
            let length = out.len() - start;
            let end = start + length * times;
            out.reserve(end - out.len());
            // Each round doubles the copied part.
            while out.len() < end {
                let more = (out.len() - start).min(end - out.len());
                out.extend_from_within(start..start + more);
            }
        });
    }

    /// Appends whole frames of events. If the connection is behind and a cap is reached, its slow consumer policy
    /// decides.
    pub(crate) fn offer(&mut self, conn: ConnId, frames: &[u8], offer: Offer<'_>) {
        match self.admit(conn, frames.len(), offer.volume) {
            Admission::Append => self.add(conn, offer.volume.events, |out| {
                out.extend_from_slice(frames)
            }),
            Admission::Conflate => self.conflate(conn, offer, None, |out| {
                out.extend_from_slice(&frames[offer.last_at..]);
            }),
            Admission::Refuse => {}
        }
    }

    /// Whether a connection keeps up and has no lossy policy, so that frames need no decision: they may be given to
    /// [`add_run`](Outboxes::add_run).
    pub(crate) fn takes_all(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        let is_free = !outbox.is_stuck() && !self.is_strict && outbox.lossy.is_none();
        is_free && !outbox.dead && !outbox.is_ending
    }

    /// Appends frames of events; the connection must be one that [`takes_all`](Outboxes::takes_all).
    pub(crate) fn add_run(
        &mut self,
        conn: ConnId,
        volume: Volume,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(self.takes_all(conn), "a decision was due");
        self.boxes[conn.slot()].admitted += volume;
        self.append_piece(conn, encode);
    }

    /// Appends frames between nodes. Never refused, as their bytes are bounded elsewhere.
    pub(crate) fn carry(&mut self, conn: ConnId, bytes: &Bytes) {
        if self.boxes[conn.slot()].dead {
            return;
        }
        if bytes.len() < SHARED_RUN_BYTES_MIN {
            self.append_piece(conn, |tail| tail.extend_from_slice(bytes));
            return;
        }
        self.seal_tail(conn);
        self.push_segment(conn, Segment::Shared(bytes.clone()));
        self.boxes[conn.slot()].length += bytes.len();
        self.unflushed += bytes.len();
        self.mark_dirty(conn);
    }

    /// Copies a run once, to be shared by many receivers through [`add_shared_run`](Outboxes::add_shared_run).
    pub(crate) fn share_run(&mut self, frames: &[u8]) -> Bytes {
        // Counted once, however many share it: this is what fills the cache until it is written.
        self.unflushed += frames.len();
        self.gauge.share(frames)
    }

    /// Appends the shared frames of a run; the connection must be one that [`takes_all`](Outboxes::takes_all).
    pub(crate) fn add_shared_run(&mut self, conn: ConnId, volume: Volume, frames: &Bytes) {
        debug_assert!(self.takes_all(conn), "a decision was due");
        self.boxes[conn.slot()].admitted += volume;
        self.seal_tail(conn);
        self.push_segment(conn, Segment::Shared(frames.clone()));
        self.boxes[conn.slot()].length += frames.len();
        self.mark_dirty(conn);
    }

    /// Like [`offer`](Outboxes::offer), for one frame of at most `length` bytes that is encoded in
    /// place.
    pub(crate) fn offer_with(
        &mut self,
        conn: ConnId,
        length: usize,
        offer: Offer<'_>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        match self.admit(conn, length, offer.volume) {
            Admission::Append => self.add(conn, 1, encode),
            Admission::Conflate => self.conflate(conn, offer, None, encode),
            Admission::Refuse => {}
        }
    }

    /// Like [`offer`](Outboxes::offer), for a frame around a shared payload.
    pub(crate) fn offer_shared(
        &mut self,
        conn: ConnId,
        head: &[u8],
        body: &Bytes,
        end: &'static [u8],
        offer: Offer<'_>,
    ) {
        match self.admit(conn, head.len() + body.len() + end.len(), offer.volume) {
            Admission::Append if self.boxes[conn.slot()].deferring => {
                self.set_aside_shared(conn, head, body, end);
            }
            Admission::Append => self.append_shared(conn, head, body, end),
            Admission::Conflate => {
                self.conflate(conn, offer, Some((body.clone(), end)), |out| {
                    out.extend_from_slice(head);
                });
            }
            Admission::Refuse => {}
        }
    }

    fn add(&mut self, conn: ConnId, events: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.boxes[conn.slot()].deferring {
            self.set_aside(conn, encode);
        } else {
            self.append_with(conn, What::Events(events), encode);
        }
    }

    fn admit(&mut self, conn: ConnId, length: usize, volume: Volume) -> Admission {
        if self.is_dead(conn) {
            return Admission::Refuse;
        }
        let outbox = &mut self.boxes[conn.slot()];
        outbox.admitted += volume;
        if outbox.lossy.is_some() {
            return self.admit_lossy(conn, length, volume.events);
        }
        if !outbox.is_stuck() && !self.is_strict {
            // Not behind: its output is flushed before much more is made.
            return Admission::Append;
        }
        let waiting = outbox.len();
        if outbox.blocked && !outbox.is_given_up && waiting >= self.outbox_bytes_max / 2 {
            self.crowded = Some(conn);
        }
        let reason = if waiting > 0 && waiting + length > self.outbox_bytes_max {
            self.counters.closed_outbox_full += 1;
            CloseReason::OutboxFull
        } else if self.total() + length > self.outboxes_bytes_max {
            self.counters.closed_outboxes_full += 1;
            CloseReason::OutboxesFull
        } else {
            return Admission::Append;
        };
        self.kill(conn);
        self.closing.push((conn, reason));
        Admission::Refuse
    }

    /// Defers events from now on.
    pub(crate) fn defer(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        outbox.deferring = !outbox.dead;
    }

    /// Stops deferring; events that are deferred stay so.
    pub(crate) fn end_deferring(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].deferring = false;
    }

    /// The reply is whole: appends the deferred events.
    pub(crate) fn append_deferred(&mut self, conn: ConnId) {
        self.end_deferring(conn);
        let Some(aside) = self.boxes[conn.slot()].aside.take() else {
            return;
        };
        uncount(&mut self.bytes, aside.owned);
        for frames in aside.frames {
            match frames {
                Frames::Owned(frames) => {
                    self.append_with(conn, What::Reply, |tail| tail.extend_from_slice(&frames));
                }
                Frames::Shared { head, body, end } => self.append_shared(conn, &head, &body, end),
            }
        }
    }

    /// The reply will never be whole: drops the deferred events.
    pub(crate) fn drop_deferred(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        outbox.deferring = false;
        let freed = outbox.aside.take().map_or(0, |aside| aside.owned);
        uncount(&mut self.bytes, freed);
    }

    /// The deferred events: whole frames, except for a shared payload and what follows it.
    fn deferred_mut(&mut self, conn: ConnId) -> impl Iterator<Item = &mut [u8]> {
        let aside = self.boxes[conn.slot()].aside.iter_mut();
        let frames = aside.flat_map(|aside| &mut aside.frames);
        frames.map(|frames| match frames {
            Frames::Owned(frames) => frames.as_mut_slice(),
            Frames::Shared { head, .. } => head.as_mut_slice(),
        })
    }

    fn set_aside(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        let aside = self.boxes[conn.slot()].aside.get_or_insert_default();
        let added = match aside.frames.last_mut() {
            Some(Frames::Owned(frames)) if frames.len() < OUTBOX_CHUNK_BYTES => {
                let before = frames.len();
                encode(frames);
                frames.len() - before
            }
            _ => {
                let mut frames = Vec::new();
                encode(&mut frames);
                let added = frames.len();
                aside.frames.push(Frames::Owned(frames));
                added
            }
        };
        aside.length += added;
        aside.owned += added;
        self.bytes += added;
    }

    fn set_aside_shared(&mut self, conn: ConnId, head: &[u8], body: &Bytes, end: &'static [u8]) {
        let aside = self.boxes[conn.slot()].aside.get_or_insert_default();
        aside.length += head.len() + body.len() + end.len();
        aside.owned += head.len();
        self.bytes += head.len();
        aside.frames.push(Frames::Shared {
            head: head.to_vec(),
            body: body.clone(),
            end,
        });
    }

    fn append_shared(&mut self, conn: ConnId, head: &[u8], body: &Bytes, end: &[u8]) {
        self.append_gap(conn);
        self.append_piece(conn, |tail| tail.extend_from_slice(head));
        self.seal_tail(conn);
        self.push_segment(conn, Segment::Shared(body.clone()));
        self.boxes[conn.slot()].length += body.len();
        self.unflushed += body.len();
        self.append_piece(conn, |tail| tail.extend_from_slice(end));
        self.note_unit(conn, head.len() + body.len() + end.len(), What::Events(1));
    }

    /// Appends one or more whole frames.
    fn append_with(&mut self, conn: ConnId, what: What, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append_gap(conn);
        let added = self.append_piece(conn, encode);
        self.note_unit(conn, added, what);
    }

    /// Appends bytes; gives their number.
    fn append_piece(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let outbox = &mut self.boxes[conn.slot()];
        let chunk_bytes = match outbox.lossy {
            // Dropping leaves the first piece alone, so a small cap needs small pieces.
            Some(_) => OUTBOX_CHUNK_BYTES.min(self.outbox_bytes_max / 16),
            None => OUTBOX_CHUNK_BYTES,
        };
        if outbox.tail.len() >= chunk_bytes {
            self.seal_tail(conn);
        }
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.tail.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            self.spare_bytes -= spare.capacity();
            outbox.tail = spare;
        }
        let before = outbox.tail.len();
        encode(&mut outbox.tail);
        let added = outbox.tail.len() - before;
        outbox.length += added;
        self.bytes += added;
        self.unflushed += added;
        self.mark_dirty(conn);
        added
    }

    fn mark_dirty(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        if !outbox.dirty && !outbox.held && !outbox.dead {
            outbox.dirty = true;
            self.dirty.push(conn);
        }
    }

    fn seal_tail(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        if !outbox.tail.is_empty() {
            let tail = std::mem::take(&mut outbox.tail);
            self.push_segment(conn, Segment::Owned(tail));
        }
    }

    /// Holds the output back until [`release`](Outboxes::release).
    pub(crate) fn hold(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        outbox.held = !outbox.dead;
    }

    pub(crate) fn release(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].held = false;
        self.append_latest(conn);
        // Even if it is empty: a connection that is being closed may have waited for this alone.
        self.mark_dirty(conn);
    }

    /// Whether output waits to be written, or is held back.
    pub(crate) fn has_output(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        outbox.held || outbox.length > 0
    }

    /// Whether a client takes its replies too slowly to be read (back-pressure). Never if its output is empty, so that
    /// there is always a write that ends it.
    pub(crate) fn is_behind(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        let is_its_share_full = outbox.len() >= self.outbox_bytes_max;
        outbox.length > 0 && (is_its_share_full || outbox.blocked && self.is_full())
    }

    /// Whether the next part of a streamed reply may be made: fewer than [`STREAMED_BYTES_MAX`] bytes wait.
    pub(crate) fn takes_parts(&self, conn: ConnId) -> bool {
        self.boxes[conn.slot()].length < STREAMED_BYTES_MAX
    }

    /// Whether a client that was behind may be read again: its output is empty, or at most half its cap while the
    /// shard's output is below its own.
    pub(crate) fn has_caught_up(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        outbox.length == 0 || outbox.len() <= self.outbox_bytes_max / 2 && !self.is_full()
    }

    /// Bytes that count against the shard's cap, including shared payloads of the whole node.
    fn total(&self) -> usize {
        self.bytes + self.gauge.bytes()
    }

    /// Whether the shard's output is at its cap.
    pub(crate) fn is_full(&self) -> bool {
        self.total() >= self.outboxes_bytes_max
    }

    /// Moves the connections to be flushed into `into`; output from now on counts for the next flush.
    pub(crate) fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        self.unflushed = 0;
        for conn in self.dirty.drain(..) {
            let outbox = &mut self.boxes[conn.slot()];
            outbox.dirty = false;
            if !outbox.held && !outbox.dead {
                into.push(conn);
            }
        }
    }

    /// The bytes to send, in order; none while the connection is held.
    pub(crate) fn slices(&self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        let outbox = &self.boxes[conn.slot()];
        let mut skip = outbox.head;
        let shown = !outbox.held;
        outbox
            .segments
            .iter()
            .map(Segment::as_slice)
            .chain(std::iter::once(outbox.tail.as_slice()))
            .filter(move |_| shown)
            .map(move |slice| &slice[std::mem::take(&mut skip)..])
            .filter(|slice| !slice.is_empty())
    }

    /// Notes that the first `count` bytes were sent, and whether more would have blocked.
    pub(crate) fn sent(&mut self, conn: ConnId, count: usize, blocked: bool) {
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.dead {
            return;
        }
        assert!(
            count <= outbox.length,
            "sent {count} of {} bytes",
            outbox.length
        );
        outbox.blocked = blocked;
        outbox.written += count as u64;
        outbox.length -= count;
        outbox.head += count;
        if outbox.length <= self.outbox_bytes_max / 4 {
            outbox.is_given_up = false;
        }
        if let Some(lossy) = &mut outbox.lossy {
            lossy.sent(count);
        }
        self.counters.bytes_out += count as u64;
        self.drop_sent_pieces(conn);
        let outbox = &self.boxes[conn.slot()];
        if outbox.lossy.is_some() && outbox.length <= self.outbox_bytes_max / 4 {
            self.append_latest(conn);
            if self.boxes[conn.slot()].length == 0 {
                self.append_gap(conn);
            }
        }
    }

    fn drop_sent_pieces(&mut self, conn: ConnId) {
        loop {
            let outbox = &mut self.boxes[conn.slot()];
            let Some(front) = outbox.segments.front() else {
                break;
            };
            let length = front.as_slice().len();
            if outbox.head < length {
                return;
            }
            outbox.head -= length;
            if let Some(Segment::Owned(bytes)) = outbox.segments.pop_front() {
                uncount(&mut self.bytes, bytes.len());
                self.keep_spare(bytes);
            }
        }
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.length == 0 {
            let tail = std::mem::take(&mut outbox.tail);
            assert!(
                outbox.segments.is_empty() && outbox.head == tail.len(),
                "nothing waits, but not all was sent"
            );
            outbox.head = 0;
            let list = std::mem::take(&mut outbox.segments);
            uncount(&mut self.bytes, tail.len());
            self.keep_spare(tail);
            let is_wanted = (1..=SPARE_LIST_PIECES_MAX).contains(&list.capacity());
            if is_wanted && self.spare_lists.len() < SPARE_LISTS_MAX {
                self.spare_lists.push(list);
            }
        }
    }

    /// Adds a full piece.
    fn push_segment(&mut self, conn: ConnId, segment: Segment) {
        let segments = &mut self.boxes[conn.slot()].segments;
        if segments.capacity() == 0
            && let Some(list) = self.spare_lists.pop()
        {
            *segments = list;
        }
        segments.push_back(segment);
    }

    fn keep_spare(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0
            && capacity <= 2 * OUTBOX_CHUNK_BYTES
            && self.spare_bytes + capacity <= SPARE_BYTES_MAX
        {
            buffer.clear();
            self.spare_bytes += capacity;
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gathers_for_each_receiver_before_it_is_written() {
        let outboxes = Outboxes::new(&Limits::default(), BodyGauge::default(), 1);
        let pending = |each: usize, receivers: usize| Pending {
            bytes: each * receivers,
            receivers,
        };
        // No connection is dirty yet: the receivers of the pending run count instead.
        assert!(!outboxes.should_flush(pending(UNFLUSHED_BYTES_EACH - 1, 10_000)));
        assert!(outboxes.should_flush(pending(UNFLUSHED_BYTES_EACH, 10_000)));
        assert!(!outboxes.should_flush(pending(UNFLUSHED_BYTES_MAX - 1, 1)));
        assert!(outboxes.should_flush(pending(UNFLUSHED_BYTES_MAX, 1)));
    }
}
