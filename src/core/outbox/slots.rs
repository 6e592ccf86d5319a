//! Reply slots: places in the output for replies that come later, in protocols that answer in the order of their
//! requests.
//!
//! A reply that is given at once while slots wait is kept in the last slot, after that slot's own reply, so that it is
//! written after it. A slot's reply may be spooled, when its length comes before it, or streamed, when its slot is the
//! first. Events need no slot: they are written before it. Whatever a dead outbox is given is dropped. Must not know
//! what a call asks. Invariants: slots are in the order of their calls; the first is never whole; `bytes` is what all
//! slots hold and have reserved. Start at [`Outboxes::reserve_slot`].

use super::{Outboxes, Segment, What, uncount};
use crate::command::{CallId, ConnId};
use crate::limits::{CALL_RESERVED_BYTES, OUTBOX_CHUNK_BYTES, SHARED_RUN_BYTES_MIN};
use std::collections::VecDeque;

/// The slot of one unfinished reply.
#[derive(Debug)]
struct Slot {
    call: CallId,
    /// Bytes before the spooled reply, known when that is whole.
    head: Vec<u8>,
    /// The spooled reply, in pieces.
    pieces: Vec<Vec<u8>>,
    /// Bytes of `pieces`.
    spooled: usize,
    is_whole: bool,
    /// Replies that were given at once to later requests.
    behind: Vec<u8>,
    /// Further bytes that it counts for.
    reserved: usize,
}

impl Slot {
    fn bytes(&self) -> usize {
        self.head.len() + self.spooled + self.behind.len() + self.reserved
    }
}

/// The slots of one connection.
#[derive(Debug, Default)]
pub(super) struct Slots {
    list: VecDeque<Slot>,
    /// Bytes that the slots hold and have reserved.
    pub bytes: usize,
}

impl Slots {
    /// Bytes of `bytes` that are only reserved. Cost: a step for each slot.
    pub(super) fn reserved(&self) -> usize {
        self.list.iter().map(|slot| slot.reserved).sum()
    }

    fn place(&self, call: CallId) -> usize {
        let place = self.list.binary_search_by_key(&call, |slot| slot.call);
        // invariant: a slot stays until its call is answered, or the connection is closed.
        place.unwrap_or_else(|_| panic!("no reply slot for {call:?}"))
    }
}

impl Outboxes {
    /// Reserves the next place in the output for the reply of a call.
    pub(crate) fn reserve_slot(&mut self, conn: ConnId, call: CallId) {
        let outbox = &mut self.boxes[conn.slot()];
        if outbox.dead {
            return;
        }
        let slots = outbox.slots.get_or_insert_default();
        let last = slots.list.back().map(|slot| slot.call);
        assert!(
            last < Some(call),
            "reply slots in another order than their calls"
        );
        slots.list.push_back(Slot {
            call,
            head: Vec::new(),
            pieces: Vec::new(),
            spooled: 0,
            is_whole: false,
            behind: Vec::new(),
            reserved: 0,
        });
        self.set_reserved(conn, call, CALL_RESERVED_BYTES);
    }

    /// Sets how many bytes the slot of a call counts for besides its reply.
    pub(crate) fn set_reserved(&mut self, conn: ConnId, call: CallId, reserved: usize) {
        self.change_slot(conn, call, |slot| slot.reserved = reserved);
    }

    /// Appends to the spooled reply of a call; gives its length so far in bytes, 0 if the outbox is dead.
    pub(crate) fn spool(
        &mut self,
        conn: ConnId,
        call: CallId,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let mut spooled = 0;
        self.change_slot(conn, call, |slot| {
            assert!(!slot.is_whole, "a reply goes on behind its end");
            if slot
                .pieces
                .last()
                .is_none_or(|piece| piece.len() >= OUTBOX_CHUNK_BYTES)
            {
                slot.pieces.push(Vec::new());
            }
            if let Some(piece) = slot.pieces.last_mut() {
                let before = piece.len();
                encode(piece);
                slot.spooled += piece.len() - before;
            }
            spooled = slot.spooled;
        });
        spooled
    }

    /// Drops the spooled part of a reply, to write another reply instead.
    pub(crate) fn drop_spooled(&mut self, conn: ConnId, call: CallId) {
        self.change_slot(conn, call, |slot| {
            slot.pieces = Vec::new();
            slot.spooled = 0;
        });
    }

    /// Writes the next part of a streamed reply, whose slot must be the first; later replies wait for its end.
    pub(crate) fn stream(&mut self, conn: ConnId, call: CallId, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.boxes[conn.slot()].dead {
            return;
        }
        let slots = self.boxes[conn.slot()].slots.as_ref();
        let first = slots.and_then(|slots| slots.list.front());
        let is_first = first.is_some_and(|slot| slot.call == call && slot.spooled == 0);
        assert!(is_first, "only the first reply may be streamed");
        self.append_latest(conn);
        self.append_with(conn, What::Reply, encode);
    }

    /// Ends the reply of a call: `head`, then what was spooled.
    pub(crate) fn end_slot(&mut self, conn: ConnId, call: CallId, head: &[u8]) {
        self.change_slot(conn, call, |slot| {
            assert!(!slot.is_whole, "a reply ends once");
            slot.head = head.to_vec();
            slot.is_whole = true;
            slot.reserved = 0;
        });
        while let Some(slots) = &mut self.boxes[conn.slot()].slots
            && slots.list.front().is_some_and(|first| first.is_whole)
            && let Some(slot) = slots.list.pop_front()
        {
            let bytes = slot.bytes();
            slots.bytes -= bytes;
            let is_last = slots.list.is_empty();
            assert!(!is_last || slots.bytes == 0, "bytes of no slot");
            uncount(&mut self.bytes, bytes);
            if is_last {
                self.boxes[conn.slot()].slots = None;
            }
            self.append_slot(conn, slot);
        }
    }

    /// Appends a whole slot to the output.
    fn append_slot(&mut self, conn: ConnId, slot: Slot) {
        self.append_latest(conn);
        self.append_with(conn, What::Reply, |tail| {
            tail.extend_from_slice(&slot.head);
        });
        for piece in slot.pieces {
            if piece.len() < SHARED_RUN_BYTES_MIN {
                self.append_with(conn, What::Reply, |tail| tail.extend_from_slice(&piece));
                continue;
            }
            let length = piece.len();
            self.seal_tail(conn);
            self.push_segment(conn, Segment::Owned(piece));
            self.boxes[conn.slot()].length += length;
            self.bytes += length;
            self.unflushed += length;
            self.mark_dirty(conn);
            self.note_unit(conn, length, What::Reply);
        }
        self.append_with(conn, What::Reply, |tail| {
            tail.extend_from_slice(&slot.behind);
        });
    }

    /// Appends a reply to the last slot; gives `encode` back if there is no slot.
    pub(super) fn reply_behind_slots<F: FnOnce(&mut Vec<u8>)>(
        &mut self,
        conn: ConnId,
        encode: F,
    ) -> Option<F> {
        let slots = self.boxes[conn.slot()].slots.as_mut();
        let Some(call) = slots
            .and_then(|slots| slots.list.back())
            .map(|slot| slot.call)
        else {
            return Some(encode);
        };
        self.change_slot(conn, call, |slot| encode(&mut slot.behind));
        None
    }

    /// Whether a call has a slot whose reply is not whole; `None` if the outbox is dead.
    pub(crate) fn has_slot(&self, conn: ConnId, call: CallId) -> Option<bool> {
        let outbox = &self.boxes[conn.slot()];
        let list = outbox.slots.as_ref().map(|slots| &slots.list);
        let has = list.is_some_and(|list| {
            let place = list.binary_search_by_key(&call, |slot| slot.call);
            place.is_ok_and(|place| !list[place].is_whole)
        });
        (!outbox.dead).then_some(has)
    }

    /// Drops all slots: the connection is being closed, and their replies will never be whole. What was answered at once
    /// behind them is dropped too, as the client would take it for the reply that is missing.
    pub(crate) fn drop_slots(&mut self, conn: ConnId) {
        let slots = self.boxes[conn.slot()].slots.take();
        let (bytes, reserved) = slots.map_or((0, 0), |slots| (slots.bytes, slots.reserved()));
        uncount(&mut self.bytes, bytes);
        uncount(&mut self.reserved, reserved);
    }

    /// Bytes that the slots of a connection hold and have reserved.
    #[cfg(test)]
    fn slots_bytes(&self, conn: ConnId) -> usize {
        let slots = self.boxes[conn.slot()].slots.as_ref();
        slots.map_or(0, |slots| slots.bytes)
    }

    fn change_slot(&mut self, conn: ConnId, call: CallId, change: impl FnOnce(&mut Slot)) {
        if self.boxes[conn.slot()].dead {
            return;
        }
        let slots = self.boxes[conn.slot()].slots.as_mut();
        // invariant: as in `Slots::place`.
        let slots = slots.expect("a connection with reply slots");
        let place = slots.place(call);
        let slot = &mut slots.list[place];
        let (before, reserved) = (slot.bytes(), slot.reserved);
        change(slot);
        let after = slot.bytes();
        slots.bytes = slots.bytes + after - before;
        self.reserved = self.reserved + slot.reserved - reserved;
        uncount(&mut self.bytes, before);
        self.bytes += after;
    }
}

#[cfg(test)]
mod tests {
    use super::super::BodyGauge;
    use super::*;
    use crate::command::Form;
    use crate::limits::Limits;
    use proptest::prelude::*;
    use sapwood_wire::native::Policy;

    const CONN: ConnId = ConnId(2);

    /// One step of a history.
    #[derive(Clone, Debug)]
    enum Step {
        /// A call is made.
        Call,
        /// A request is answered at once.
        Reply,
        /// One of the waiting calls, by its index modulo their number, gets this many bytes more, and then ends or not.
        Answer(usize, usize, bool),
        /// An event comes.
        Event,
        Sent(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Call),
            2 => Just(Step::Reply),
            5 => (0usize..8, 0usize..9_000, any::<bool>())
                .prop_map(|(which, bytes, is_whole)| Step::Answer(which, bytes, is_whole)),
            1 => Just(Step::Event),
            2 => (0usize..20_000).prop_map(Step::Sent),
        ]
    }

    proptest! {
        /// Replies are in the order of their requests, in whatever order they are answered, and the counted bytes are
        /// those that wait.
        #[test]
        fn replies_keep_the_order_of_their_requests(
            steps in prop::collection::vec(any_step(), 0..60),
        ) {
            let mut outboxes = Outboxes::new(&Limits::default(), BodyGauge::default(), 1);
            outboxes.open(CONN, Form::Resp3, Policy::Close);
            // The expected replies in the order of the requests, each with its call if it has one.
            let mut expected: Vec<(Option<CallId>, Vec<u8>)> = Vec::new();
            let mut open: Vec<CallId> = Vec::new();
            let (mut read, mut last) = (Vec::new(), 0);
            let read_all = |outboxes: &mut Outboxes, read: &mut Vec<u8>, most: usize| {
                let waiting: Vec<u8> = outboxes.slices(CONN).flatten().copied().collect();
                let count = most.min(waiting.len());
                read.extend_from_slice(&waiting[..count]);
                outboxes.sent(CONN, count, count < waiting.len());
            };
            for step in steps {
                last += 1;
                match step {
                    Step::Call => {
                        outboxes.reserve_slot(CONN, CallId(last));
                        open.push(CallId(last));
                        expected.push((Some(CallId(last)), Vec::new()));
                    }
                    Step::Reply => {
                        let reply = format!("<{last}>").into_bytes();
                        outboxes.reply(CONN, |out| out.extend_from_slice(&reply));
                        expected.push((None, reply));
                    }
                    Step::Answer(which, bytes, is_whole) => {
                        if open.is_empty() {
                            continue;
                        }
                        let place = which % open.len();
                        let call = open[place];
                        let piece = vec![b'a' + (last % 26) as u8; bytes];
                        outboxes.spool(CONN, call, |out| out.extend_from_slice(&piece));
                        let mut replies = expected.iter_mut();
                        let reply = replies.find(|(other, _)| *other == Some(call)).expect("asked");
                        reply.1.extend_from_slice(&piece);
                        if is_whole {
                            let head = format!("[{}]", reply.1.len());
                            reply.1.splice(0..0, head.bytes());
                            outboxes.end_slot(CONN, call, head.as_bytes());
                            open.remove(place);
                        }
                    }
                    Step::Event => {
                        let one_event = crate::command::Volume { events: 1, bytes: 1 };
                        let key = crate::outbox::Offer::one(one_event, b"t");
                        outboxes.offer(CONN, b"!", key);
                    }
                    Step::Sent(most) => read_all(&mut outboxes, &mut read, most),
                }
                // A piece counts until its last byte is sent.
                let outbox = outboxes.outbox(CONN);
                let waiting = outbox.head + outbox.length;
                prop_assert_eq!(outboxes.bytes(), waiting + outboxes.slots_bytes(CONN));
            }
            read_all(&mut outboxes, &mut read, usize::MAX);
            read.retain(|&byte| byte != b'!');
            let whole = expected.iter().take_while(|(call, _)| call.is_none_or(|call| !open.contains(&call)));
            let whole: Vec<u8> = whole.flat_map(|(_, reply)| reply.clone()).collect();
            prop_assert_eq!(read, whole);
            outboxes.kill(CONN);
            prop_assert_eq!(outboxes.bytes(), 0);
        }
    }

    #[test]
    fn what_is_streamed_goes_out_before_its_end() {
        let mut outboxes = Outboxes::new(&Limits::default(), BodyGauge::default(), 1);
        outboxes.open(CONN, Form::Sse, Policy::Close);
        outboxes.reserve_slot(CONN, CallId(1));
        outboxes.reply_bare(CONN, |out| out.extend_from_slice(b"second"));
        outboxes.stream(CONN, CallId(1), |out| out.extend_from_slice(b"first"));
        let shown = |outboxes: &Outboxes| outboxes.slices(CONN).flatten().copied().collect();
        let before: Vec<u8> = shown(&outboxes);
        assert_eq!(before, b"first");
        outboxes.end_slot(CONN, CallId(1), b"");
        let after: Vec<u8> = shown(&outboxes);
        assert_eq!(after, b"firstsecond");
    }

    #[test]
    #[should_panic(expected = "only the first reply may be streamed")]
    fn a_later_reply_is_not_streamed() {
        let mut outboxes = Outboxes::new(&Limits::default(), BodyGauge::default(), 1);
        outboxes.open(CONN, Form::Sse, Policy::Close);
        outboxes.reserve_slot(CONN, CallId(1));
        outboxes.reserve_slot(CONN, CallId(2));
        outboxes.stream(CONN, CallId(2), |_| {});
    }
}
