//! A connection's bounded output and the policy when it is full.
//!
//! Owns every byte that waits to be sent. Replies are never dropped and never refused; events are
//! subject to the caps. Must not know what the bytes mean. Invariants: an empty outbox holds no
//! memory; `bytes` is the sum of what stands in all outboxes of the shard; a dead outbox holds
//! nothing and takes nothing. Start at [`Outboxes::offer`].

use crate::command::{CloseReason, ConnId, Form};
use crate::limits::{
    Limits, OUTBOX_CHUNK_BYTES, SPARE_BYTES_MAX, UNFLUSHED_BYTES_EACH, UNFLUSHED_BYTES_MAX,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes of shared payloads that are alive, for all shards of a node together.
#[derive(Clone, Debug, Default)]
pub struct BodyGauge(Arc<AtomicUsize>);

impl BodyGauge {
    /// Bytes alive now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Copies a payload once, to be shared by all its receivers.
    pub(crate) fn share(&self, payload: &[u8]) -> Bytes {
        self.0.fetch_add(payload.len(), Ordering::Relaxed);
        Bytes::from_owner(CountedBody {
            bytes: payload.into(),
            gauge: self.0.clone(),
        })
    }
}

struct CountedBody {
    bytes: Box<[u8]>,
    gauge: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        self.gauge.fetch_sub(self.bytes.len(), Ordering::Relaxed);
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

/// The output of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Full pieces, in order; the first `head` bytes of the front one are sent.
    segments: VecDeque<Segment>,
    /// The last piece, which grows. If there are no segments, its first `head` bytes are sent.
    tail: Vec<u8>,
    head: usize,
    /// Bytes that wait.
    length: usize,
    /// How the connection takes events.
    pub form: Form,
    /// The last send would have blocked.
    blocked: bool,
    /// A confirmation in it waits for the other shards: nothing may be sent.
    held: bool,
    /// Stands in the list of connections to be flushed.
    dirty: bool,
    /// Takes nothing more: the connection is to be closed, or the place is free.
    dead: bool,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn pieces(&self) -> usize {
        self.segments.len() + usize::from(!self.tail.is_empty())
    }
}

/// Output that stands in no outbox yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Its bytes, for all receivers together.
    pub bytes: usize,
    /// How many connections it is for.
    pub receivers: usize,
}

/// What the outboxes count.
#[derive(Debug, Default)]
pub(crate) struct OutboxCounters {
    pub bytes_out: u64,
    pub closed_outbox_full: u64,
    pub closed_outboxes_full: u64,
}

/// The output of all connections of a shard.
#[derive(Debug)]
pub(crate) struct Outboxes {
    boxes: Vec<Outbox>,
    /// Connections with something to send, each once, in the order of their first byte.
    dirty: Vec<ConnId>,
    /// Connections that a policy closed since this was last taken.
    pub closing: Vec<(ConnId, CloseReason)>,
    /// Bytes of all owned pieces; shared payloads are in `gauge`.
    bytes: usize,
    /// Bytes added since the last flush.
    unflushed: usize,
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    gauge: BodyGauge,
    outbox_bytes_max: usize,
    outboxes_bytes_max: usize,
    pub counters: OutboxCounters,
}

impl Outboxes {
    pub(crate) fn new(limits: &Limits, gauge: BodyGauge) -> Outboxes {
        Outboxes {
            boxes: Vec::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            bytes: 0,
            unflushed: 0,
            spare: Vec::new(),
            spare_bytes: 0,
            gauge,
            outbox_bytes_max: limits.outbox_bytes_max,
            outboxes_bytes_max: limits.outboxes_bytes_max,
            counters: OutboxCounters::default(),
        }
    }

    pub(crate) fn open(&mut self, conn: ConnId, form: Form) {
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
        // A place in the dirty list survives its connection: it must not be listed twice.
        let dirty = self.boxes[conn.slot()].dirty;
        self.boxes[conn.slot()] = Outbox {
            form,
            dirty,
            ..Outbox::default()
        };
    }

    /// Drops what waits and takes nothing more. Idempotent.
    pub(crate) fn kill(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        for segment in outbox.segments.drain(..) {
            if let Segment::Owned(bytes) = segment {
                self.bytes -= bytes.len();
            }
        }
        self.bytes -= outbox.tail.len();
        *outbox = Outbox {
            dead: true,
            dirty: outbox.dirty,
            form: outbox.form,
            ..Outbox::default()
        };
    }

    pub(crate) fn outbox(&self, conn: ConnId) -> &Outbox {
        &self.boxes[conn.slot()]
    }

    pub(crate) fn set_form(&mut self, conn: ConnId, form: Form) {
        self.boxes[conn.slot()].form = form;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn gauge(&self) -> &BodyGauge {
        &self.gauge
    }

    /// Whether so much output gathered that it should be written before more is made.
    pub(crate) fn should_flush(&self, pending: Pending) -> bool {
        // Those for whom a run gathers are not dirty yet, and are as many writes.
        let receivers = self.dirty.len().max(pending.receivers);
        let allowed = UNFLUSHED_BYTES_MAX.max(receivers * UNFLUSHED_BYTES_EACH);
        self.unflushed + pending.bytes >= allowed
    }

    /// Appends a reply. Never refused: a client that does not take its replies is not read on.
    pub(crate) fn reply(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.boxes[conn.slot()].dead {
            return;
        }
        self.append_with(conn, encode);
    }

    /// Appends frames of events, or closes the connection if it is behind and the cap is reached.
    /// Returns whether they were taken.
    pub(crate) fn offer(&mut self, conn: ConnId, frames: &[u8]) -> bool {
        if !self.admit(conn, frames.len()) {
            return false;
        }
        self.append_with(conn, |tail| tail.extend_from_slice(frames));
        true
    }

    /// Like [`offer`](Outboxes::offer), for a frame of `length` bytes that is encoded in place.
    pub(crate) fn offer_with(
        &mut self,
        conn: ConnId,
        length: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if !self.admit(conn, length) {
            return false;
        }
        self.append_with(conn, encode);
        true
    }

    /// Like [`offer`](Outboxes::offer), for a frame around a shared payload.
    pub(crate) fn offer_shared(
        &mut self,
        conn: ConnId,
        head: &[u8],
        body: &Bytes,
        end: &[u8],
    ) -> bool {
        if !self.admit(conn, head.len() + body.len() + end.len()) {
            return false;
        }
        self.append_with(conn, |tail| tail.extend_from_slice(head));
        self.seal_tail(conn);
        let outbox = &mut self.boxes[conn.slot()];
        outbox.segments.push_back(Segment::Shared(body.clone()));
        outbox.length += body.len();
        self.unflushed += body.len();
        self.append_with(conn, |tail| tail.extend_from_slice(end));
        true
    }

    fn admit(&mut self, conn: ConnId, length: usize) -> bool {
        let outbox = &self.boxes[conn.slot()];
        if outbox.dead {
            return false;
        }
        if !outbox.blocked && !outbox.held {
            // Not behind: what stands here is flushed before much more is made.
            return true;
        }
        let reason = if outbox.length > 0 && outbox.length + length > self.outbox_bytes_max {
            self.counters.closed_outbox_full += 1;
            CloseReason::OutboxFull
        } else if self.bytes + self.gauge.bytes() + length > self.outboxes_bytes_max {
            self.counters.closed_outboxes_full += 1;
            CloseReason::OutboxesFull
        } else {
            return true;
        };
        self.kill(conn);
        self.closing.push((conn, reason));
        false
    }

    fn append_with(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.tail.len() >= OUTBOX_CHUNK_BYTES {
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
            outbox.segments.push_back(Segment::Owned(tail));
        }
    }

    /// Keeps everything back until [`release`](Outboxes::release).
    pub(crate) fn hold(&mut self, conn: ConnId) {
        let outbox = &mut self.boxes[conn.slot()];
        outbox.held = !outbox.dead;
    }

    pub(crate) fn release(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].held = false;
        // Even if it is empty: a connection that is being closed may have waited for nothing else.
        self.mark_dirty(conn);
    }

    /// Whether something waits to be written, or is held back.
    pub(crate) fn has_output(&self, conn: ConnId) -> bool {
        let outbox = &self.boxes[conn.slot()];
        outbox.held || outbox.length > 0
    }

    /// Moves the connections to be flushed into `into`; what gathers from now on counts anew.
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

    /// Takes note that the first `count` bytes were sent, and whether more would have blocked.
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
        outbox.length -= count;
        outbox.head += count;
        self.counters.bytes_out += count as u64;
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
                self.bytes -= bytes.len();
                self.keep_spare(bytes);
            }
        }
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.length == 0 {
            let tail = std::mem::take(&mut outbox.tail);
            outbox.head = 0;
            outbox.segments = VecDeque::new();
            self.bytes -= tail.len();
            self.keep_spare(tail);
        }
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
        let outboxes = Outboxes::new(&Limits::default(), BodyGauge::default());
        let pending = |each: usize, receivers: usize| Pending {
            bytes: each * receivers,
            receivers,
        };
        // Nobody is dirty yet: the receivers of the run are those who will be.
        assert!(!outboxes.should_flush(pending(UNFLUSHED_BYTES_EACH - 1, 10_000)));
        assert!(outboxes.should_flush(pending(UNFLUSHED_BYTES_EACH, 10_000)));
        assert!(!outboxes.should_flush(pending(UNFLUSHED_BYTES_MAX - 1, 1)));
        assert!(outboxes.should_flush(pending(UNFLUSHED_BYTES_MAX, 1)));
    }
}
