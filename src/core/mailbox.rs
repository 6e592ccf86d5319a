//! Batches that shards hand to each other and to state workers, and the credit that bounds them.
//!
//! A *peer* is another shard, or a state worker, whose numbers follow those of the shards. To a worker, calls go as
//! records between the events, so that it sees what a publisher did in its order and their bytes take credit; what a
//! worker answers is control. Owns, for each peer, the batch that gathers for it and the credit that is left. One batch for each
//! destination and turn; a batch comes back to its sender when it has been handled, which returns credit and memory in
//! one step. Must not know what events mean. Invariants: data on the way to a shard stays within the window (one larger
//! event is let through when nothing else is on the way); handling a batch never needs room for another, so full queues
//! cannot deadlock. An event whose queue group has just lost its last member at the receiver comes back with its batch,
//! to be handed to another shard, at most [`TURN_TRIES_MAX`] times in all. Start at [`Mailboxes::push`] and
//! [`Records::next`].

use crate::command::{Answer, CallId, ConnId, Event, Query, ShardId, Space, Volume};
use crate::limits::{HANDOVER_COST_MIN, HANDOVER_ITEMS_MAX, Limits, SHARED_BODY_BYTES_MIN};
use crate::routing::interest::Change;
use crate::tree::news::TreeNews;
use bytes::Bytes;
use sapwood_wire::run::{Source, Span};
use std::sync::Arc;

/// A control message between shards. Never waits for credit of data.
#[derive(Clone, Debug)]
pub enum Control {
    /// The sender's subscribers changed.
    Interest {
        /// Number of this change, from 1; to be acknowledged.
        sequence: u64,
        /// What changed.
        changes: Arc<[Change]>,
    },
    /// One query of a round of a call; the answer comes back.
    Ask {
        /// The connection on the sender's shard, and its call.
        call: CallKey,
        /// What is asked.
        query: Query,
    },
    /// The answer to an `Ask`.
    Answer {
        /// The call of that `Ask`.
        call: CallKey,
        /// The answer.
        answer: Answer,
    },
    /// News from shard 0 about links and the node's position.
    Tree(TreeNews),
}

/// A hand-over from one shard to another: control messages and events.
#[derive(Debug, Default)]
pub struct Batch {
    /// Control messages, handled before the events.
    pub(crate) control: Vec<Control>,
    /// The sender knows the receiver's changes of interest up to this number, and has sent all events from before.
    /// Handled after the events of this batch. 0 for none.
    pub(crate) known: u64,
    /// Records of events and runs, each with a head of `RECORD_HEAD_BYTES`.
    records: Vec<u8>,
    /// Shared payloads, in the order of their records.
    bodies: Vec<Bytes>,
    /// Bytes of `bodies`.
    body_bytes: usize,
    /// Bytes of all of this that came from other nodes.
    link_bytes: usize,
    /// Spans of the payloads of runs within their frames, in the order of their records.
    spans: Vec<Span>,
    /// Events in `records`.
    pub(crate) events: u64,
    /// Turns of queue groups that no member could take, noted by the receiver for the sender.
    pub(crate) unheard: Vec<Unheard>,
    /// Bytes of a worker's answers in `control`.
    pub(crate) answer_bytes: usize,
    /// Credit that it takes from the sender, in bytes.
    cost: usize,
}

impl Batch {
    /// Number of events in the batch.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes of the events in the batch, shared payloads included.
    pub fn data_bytes(&self) -> usize {
        self.records.len() + self.body_bytes + size_of_val(&self.spans[..])
    }

    fn is_empty(&self) -> bool {
        self.control.is_empty() && self.records.is_empty() && self.known == 0
    }

    /// Bytes of buffers that it keeps for the sender's next batch.
    fn memory(&self) -> usize {
        self.records.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// Drops the contents, and keeps the buffers for the sender's next batch.
    fn clear(&mut self) {
        self.control.clear();
        self.known = 0;
        self.records.clear();
        self.bodies.clear();
        self.body_bytes = 0;
        self.link_bytes = 0;
        self.spans.clear();
        self.events = 0;
        self.unheard.clear();
        self.answer_bytes = 0;
    }

    /// The event of a turn that no member could take, and the queue group whose turn it was.
    pub(crate) fn event_of(&self, unheard: &Unheard) -> Option<(HandedEvent<'_>, &[u8])> {
        let Record::Event(handed) = Records::new(self, unheard.cursor).next()? else {
            return None;
        };
        let group = handed.groups.clone().nth(unheard.group)?;
        Some((handed, group))
    }
}

/// A turn of a queue group that no member could take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unheard {
    /// Where its record begins.
    pub cursor: BatchCursor,
    /// Index of the group among the record's groups.
    pub group: usize,
}

/// Length of a record's head: payload length (4 bytes), topic length (2), space (1), form (1). After it come, as the
/// form says: the topic; flags (1), length (4) and bytes of the attributes; the length of the group names together (4),
/// and for each its length (1) and the name; the payload.
///
/// In a record of a run, all its frames take the place of the payload, the source takes the place of the space, and the
/// number of events (4 bytes) comes after the topic.
///
/// A call to a worker is a record in the form of a run without a topic: `ASK` or `ACK` takes the place of the source, the
/// connection (4 bytes) and the call (8) come next, then the request.
const RECORD_HEAD_BYTES: usize = 8;
/// Form bit: the topic is that of the record before.
const SAME_TOPIC: u8 = 1;
/// Form bit: the payload is the next of the shared ones.
const SHARED_BODY: u8 = 2;
/// Form bit: the event has flags and attributes.
const ATTRIBUTES: u8 = 4;
/// Form bit: it is the turn of queue groups.
const GROUPS: u8 = 8;
/// Form bit: it is for queue groups only.
const NO_PLAIN: u8 = 16;
/// Form bits: how many shards had no member left before, in two bits from this one on.
const TRIES: u8 = 32;
/// Form bit: it is a run.
const RUN: u8 = 128;
/// Sources of runs, by the number in their records.
const SOURCES: [Source; 5] = [
    Source::Resp,
    Source::Native,
    Source::Nats,
    Source::Node,
    Source::NativeStored,
];
/// Place of a request to a worker.
const ASK: u8 = SOURCES.len() as u8;
/// Place of the call that the worker answers once the events of the next record are stored.
const ACK: u8 = ASK + 1;
/// Length of the connection and the call in such a record.
const CALL_BYTES: usize = 12;

/// Most shards that a turn is handed to before it is given up. The second may have lost its last member as well,
/// without having been able to say so; four in a row do not occur in practice.
pub(crate) const TURN_TRIES_MAX: u8 = 4;

/// Receivers of an event on the receiving shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressees<G> {
    /// Whether subscribers without a queue group get it.
    pub plain: bool,
    /// Names of the queue groups whose turn is the shard's, each at most 255 bytes long.
    pub groups: G,
    /// How many shards had no member left before, below `TURN_TRIES_MAX`.
    pub tries: u8,
}

#[cfg(test)]
impl<'a> Addressees<std::iter::Empty<&'a [u8]>> {
    /// Subscribers without a queue group, and no group.
    pub(crate) fn all() -> Addressees<std::iter::Empty<&'a [u8]>> {
        Addressees {
            plain: true,
            groups: std::iter::empty(),
            tries: 0,
        }
    }
}

/// A record of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Record<'a> {
    Event(HandedEvent<'a>),
    Run(HandedRun<'a>),
    /// A request to a worker.
    Ask(CallKey, &'a [u8], Option<&'a Bytes>),
    /// Whom the worker tells that the next record is stored.
    Ack(CallKey),
}

/// A call on the sender's shard: its connection and its number.
pub(crate) type CallKey = (ConnId, CallId);

/// A run: plain events of one topic, for subscribers without a queue group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandedRun<'a> {
    pub source: Source,
    pub topic: &'a [u8],
    /// Frames as they came from the publisher, or the frame of a node.
    pub frames: &'a [u8],
    /// Spans of the payloads in `frames`.
    pub payloads: &'a [Span],
    /// Its events, and the bytes of their payloads.
    pub volume: Volume,
}

impl<'a> HandedRun<'a> {
    /// Adds the payloads up, once for each shard that gets the run and not for each receiver.
    pub(crate) fn new(
        source: Source,
        topic: &'a [u8],
        frames: &'a [u8],
        payloads: &'a [Span],
    ) -> HandedRun<'a> {
        // Together they are no longer than the frames, so that 32 bits are enough, also for a vector of them.
        let lengths = payloads.iter().map(|&(start, end)| end - start);
        HandedRun {
            source,
            topic,
            frames,
            payloads,
            volume: Volume {
                events: payloads.len() as u64,
                bytes: u64::from(lengths.fold(0, u32::wrapping_add)),
            },
        }
    }
}

/// One event, as read from a record.
#[derive(Clone, Debug)]
pub(crate) struct HandedEvent<'a> {
    pub event: Event<'a>,
    pub body: Option<&'a Bytes>,
    /// Whether subscribers without a queue group get it.
    pub plain: bool,
    /// Queue groups whose turn it is here.
    pub groups: GroupNames<'a>,
    /// How many shards had no member left for these before.
    pub tries: u8,
}

/// Iterator over the names of groups in a record.
#[derive(Clone, Debug)]
pub(crate) struct GroupNames<'a>(&'a [u8]);

impl<'a> Iterator for GroupNames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (name, rest) = rest.split_at(usize::from(length));
        self.0 = rest;
        Some(name)
    }
}

/// Read position in a batch; kept beside the batch while output is flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCursor {
    record: usize,
    body: usize,
    span: usize,
    topic: (usize, usize),
    /// The control messages have been handled.
    pub(crate) control_done: bool,
}

/// Reader of a batch's records, from a cursor on.
pub(crate) struct Records<'a> {
    batch: &'a Batch,
    pub cursor: BatchCursor,
}

impl<'a> Records<'a> {
    pub(crate) fn new(batch: &'a Batch, cursor: BatchCursor) -> Records<'a> {
        Records { batch, cursor }
    }

    pub(crate) fn next(&mut self) -> Option<Record<'a>> {
        let records = &self.batch.records[..];
        let head = records.get(self.cursor.record..self.cursor.record + RECORD_HEAD_BYTES)?;
        let payload_length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let topic_length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let (place, form) = (head[6], head[7]);
        let mut at = self.cursor.record + RECORD_HEAD_BYTES;
        if form & SAME_TOPIC == 0 {
            self.cursor.topic = (at, at + topic_length);
            at += topic_length;
        }
        let topic = &records[self.cursor.topic.0..self.cursor.topic.1];
        if form & RUN != 0 {
            let Some(&source) = SOURCES.get(usize::from(place)) else {
                return Some(self.next_call(at, payload_length, (place, form)));
            };
            let count = &records[at..at + 4];
            let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize;
            let (span, end) = (self.cursor.span, at + 4 + payload_length);
            self.cursor.record = end;
            self.cursor.span = span + count;
            let (frames, payloads) = (&records[at + 4..end], span..span + count);
            let payloads = &self.batch.spans[payloads];
            let run = HandedRun::new(source, topic, frames, payloads);
            return Some(Record::Run(run));
        }
        let space = match place {
            0 => Space::Topic,
            _ => Space::ShardChannel,
        };
        let (mut flags, mut attributes) = (0, &[][..]);
        if form & ATTRIBUTES != 0 {
            flags = records[at];
            let length = &records[at + 1..at + 5];
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
            attributes = &records[at + 5..at + 5 + length];
            at += 5 + length;
        }
        let mut groups = &[][..];
        if form & GROUPS != 0 {
            let length = &records[at..at + 4];
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
            groups = &records[at + 4..at + 4 + length];
            at += 4 + length;
        }
        let (payload, body) = if form & SHARED_BODY == 0 {
            let payload = &records[at..at + payload_length];
            at += payload_length;
            (payload, None)
        } else {
            let body = &self.batch.bodies[self.cursor.body];
            self.cursor.body += 1;
            (&body[..], Some(body))
        };
        self.cursor.record = at;
        Some(Record::Event(HandedEvent {
            event: Event {
                space,
                topic,
                flags,
                attributes,
                payload,
                number: 0,
            },
            body,
            plain: form & NO_PLAIN == 0,
            groups: GroupNames(groups),
            tries: form / TRIES % TURN_TRIES_MAX,
        }))
    }

    /// Reads what a worker is asked, or whom it tells; its head has been read.
    fn next_call(
        &mut self,
        at: usize,
        request_length: usize,
        (place, form): (u8, u8),
    ) -> Record<'a> {
        let records = &self.batch.records[at..];
        let (call, rest) = records.split_at(CALL_BYTES);
        let conn = u32::from_le_bytes([call[0], call[1], call[2], call[3]]);
        let number = call[4..].iter().rev();
        let number = number.fold(0, |number, &byte| number << 8 | u64::from(byte));
        let key = (ConnId(conn), CallId(number));
        self.cursor.record = at + CALL_BYTES;
        if place == ACK {
            return Record::Ack(key);
        }
        if form & SHARED_BODY != 0 {
            let body = &self.batch.bodies[self.cursor.body];
            self.cursor.body += 1;
            return Record::Ask(key, body, Some(body));
        }
        self.cursor.record += request_length;
        Record::Ask(key, &rest[..request_length], None)
    }
}

#[derive(Debug, Default)]
struct Mailbox {
    pending: Batch,
    /// Start and end of the last topic in `pending`, and its space.
    last_topic: Option<(usize, usize, Space)>,
    in_flight_cost: usize,
    in_flight_items: usize,
    spare: Vec<Batch>,
    /// It is a worker's that is gone: what was pushed is dropped.
    is_closed: bool,
}

impl Mailbox {
    /// Begins a record: writes its head, and the topic unless it is that of the record before.
    fn begin_record(&mut self, topic: (Space, &[u8]), payload: usize, place: u8, form: u8) {
        let (space, topic) = topic;
        let records = &mut self.pending.records;
        let is_same = self.last_topic.is_some_and(|(start, end, last_space)| {
            last_space == space && &records[start..end] == topic
        });
        let (length, form) = match is_same {
            true => (0, form | SAME_TOPIC),
            false => (topic.len() as u16, form),
        };
        records.extend_from_slice(&(payload as u32).to_le_bytes());
        records.extend_from_slice(&length.to_le_bytes());
        records.extend_from_slice(&[place, form]);
        if !is_same {
            let start = records.len();
            records.extend_from_slice(topic);
            self.last_topic = Some((start, records.len(), space));
        }
    }

    /// Writes the head of a record about a call, and the call.
    fn begin_call(&mut self, (conn, call): CallKey, request: usize, place: u8, form: u8) {
        let records = &mut self.pending.records;
        records.extend_from_slice(&(request as u32).to_le_bytes());
        // The topic of the record before stays that of the next.
        records.extend_from_slice(&[0, 0, place, RUN | SAME_TOPIC | form]);
        records.extend_from_slice(&conn.0.to_le_bytes());
        records.extend_from_slice(&call.0.to_le_bytes());
    }
}

/// The mailboxes of a shard for all its peers, or of a worker for all shards.
#[derive(Debug)]
pub(crate) struct Mailboxes {
    me: ShardId,
    /// Number of shards: peers from this number on are workers.
    shards: u16,
    boxes: Vec<Mailbox>,
    window_bytes: usize,
    backlog_bytes: usize,
    links_bytes: usize,
    /// Events of other nodes dropped for lack of room.
    pub lost: u64,
    /// Events that a worker should have stored and was not given: those of other nodes for lack of room, and all once the
    /// worker is gone.
    pub not_stored: u64,
    /// Bytes of buffers in all spare batches.
    spare_bytes: usize,
    pub sent: u64,
    pub events: u64,
}

impl Mailboxes {
    /// Mailboxes for so many shards and workers.
    pub(crate) fn new(me: ShardId, (shards, workers): (u16, u16), limits: &Limits) -> Mailboxes {
        let peers = 0..shards + workers;
        Mailboxes {
            me,
            shards,
            boxes: peers.map(|_| Mailbox::default()).collect(),
            window_bytes: limits.handover_window_bytes,
            backlog_bytes: limits.handover_backlog_bytes,
            links_bytes: limits.handover_links_bytes,
            lost: 0,
            not_stored: 0,
            spare_bytes: 0,
            sent: 0,
            events: 0,
        }
    }

    /// The other shards.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.peers_before(self.shards)
    }

    /// The other shards, then the workers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.peers_before(self.boxes.len() as u16)
    }

    fn peers_before(&self, end: u16) -> impl Iterator<Item = ShardId> + use<> {
        let me = self.me;
        (0..end).map(ShardId).filter(move |&peer| peer != me)
    }

    /// Whether there are workers.
    pub(crate) fn has_workers(&self) -> bool {
        self.boxes.len() > usize::from(self.shards)
    }

    /// Whether a peer is a worker.
    pub(crate) fn is_worker(&self, peer: ShardId) -> bool {
        peer.0 >= self.shards
    }

    /// Notes that a worker is gone: what waits for it or comes for it is dropped.
    pub(crate) fn close(&mut self, worker: ShardId) {
        assert!(self.is_worker(worker), "shards do not go: {worker:?}");
        let peer = &mut self.boxes[worker.index()];
        peer.is_closed = true;
        (peer.in_flight_cost, peer.in_flight_items) = (0, 0);
        self.drop_pending(worker);
    }

    /// Whether a worker is gone.
    pub(crate) fn is_closed(&self, worker: ShardId) -> bool {
        self.boxes[worker.index()].is_closed
    }

    fn drop_pending(&mut self, to: ShardId) {
        let peer = &mut self.boxes[to.index()];
        self.not_stored += peer.pending.events;
        peer.pending.clear();
        peer.last_topic = None;
    }

    /// Whether publishers for this shard may go on: its backlog is below the cap.
    pub(crate) fn has_room(&self, to: ShardId) -> bool {
        let pending = &self.boxes[to.index()].pending;
        pending.data_bytes() - pending.link_bytes < self.backlog_bytes
    }

    /// Adds events of another node by `push`, unless the cap on those is reached: then `events` are dropped and
    /// counted. Gives whether they were added. Events of local publishers have a cap of their own.
    pub(crate) fn push_arrived(
        &mut self,
        to: ShardId,
        events: u64,
        push: impl FnOnce(&mut Mailboxes),
    ) -> bool {
        let pending = &self.boxes[to.index()].pending;
        if pending.link_bytes >= self.links_bytes {
            match self.is_worker(to) {
                true => self.not_stored += events,
                false => self.lost += events,
            }
            return false;
        }
        let before = pending.data_bytes();
        push(self);
        let pending = &mut self.boxes[to.index()].pending;
        pending.link_bytes += pending.data_bytes() - before;
        true
    }

    /// Bytes of events waiting for all other shards.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.boxes
            .iter()
            .map(|peer| peer.pending.data_bytes())
            .sum()
    }

    /// Adds an event. The caller has asked [`has_room`](Mailboxes::has_room) before.
    pub(crate) fn push<'a>(
        &mut self,
        to: ShardId,
        addressees: Addressees<impl Iterator<Item = &'a [u8]>>,
        event: Event<'_>,
        body: Option<&Bytes>,
    ) {
        let mut groups = addressees.groups.peekable();
        let has_attributes = event.flags != 0 || !event.attributes.is_empty();
        let bits = [
            (body.is_some(), SHARED_BODY),
            (has_attributes, ATTRIBUTES),
            (groups.peek().is_some(), GROUPS),
            (!addressees.plain, NO_PLAIN),
        ];
        let bits = bits
            .iter()
            .map(|&(is_set, bit)| if is_set { bit } else { 0 });
        assert!(addressees.tries < TURN_TRIES_MAX, "too many tries");
        let form = bits.sum::<u8>() + addressees.tries * TRIES;
        let place = u8::from(event.space == Space::ShardChannel);
        let peer = &mut self.boxes[to.index()];
        peer.begin_record((event.space, event.topic), event.payload.len(), place, form);
        let batch = &mut peer.pending;
        let records = &mut batch.records;
        if has_attributes {
            records.push(event.flags);
            records.extend_from_slice(&(event.attributes.len() as u32).to_le_bytes());
            records.extend_from_slice(event.attributes);
        }
        if groups.peek().is_some() {
            let start = records.len() + 4;
            records.extend_from_slice(&[0; 4]);
            for name in groups {
                records.push(name.len() as u8);
                records.extend_from_slice(name);
            }
            let length = (records.len() - start) as u32;
            records[start - 4..start].copy_from_slice(&length.to_le_bytes());
        }
        match body {
            None => records.extend_from_slice(event.payload),
            Some(body) => {
                batch.body_bytes += body.len();
                batch.bodies.push(body.clone());
            }
        }
        batch.events += 1;
        self.events += 1;
    }

    /// Adds a run. The caller has asked [`has_room`](Mailboxes::has_room) before.
    pub(crate) fn push_run(&mut self, to: ShardId, run: HandedRun<'_>) {
        let HandedRun {
            source,
            topic,
            frames,
            payloads,
            ..
        } = run;
        assert!(
            payloads
                .last()
                .is_some_and(|&(_, end)| end as usize <= frames.len()),
            "a run without payloads, or one that ends before them"
        );
        let peer = &mut self.boxes[to.index()];
        peer.begin_record((Space::Topic, topic), frames.len(), source as u8, RUN);
        let batch = &mut peer.pending;
        let count = payloads.len() as u32;
        batch.records.extend_from_slice(&count.to_le_bytes());
        batch.records.extend_from_slice(frames);
        batch.spans.extend_from_slice(payloads);
        batch.events += u64::from(count);
        self.events += u64::from(count);
    }

    /// Adds a request to a worker, behind the events so far. The caller has asked [`has_room`](Mailboxes::has_room)
    /// before, or has few of them on their way.
    pub(crate) fn push_ask(&mut self, to: ShardId, call: CallKey, request: Bytes) {
        let peer = &mut self.boxes[to.index()];
        match request.len() >= SHARED_BODY_BYTES_MIN {
            true => {
                peer.begin_call(call, request.len(), ASK, SHARED_BODY);
                peer.pending.body_bytes += request.len();
                peer.pending.bodies.push(request);
            }
            false => {
                peer.begin_call(call, request.len(), ASK, 0);
                peer.pending.records.extend_from_slice(&request);
            }
        }
    }

    /// Adds whom a worker tells that the events of the next record are stored. That record must be pushed next.
    pub(crate) fn push_ack(&mut self, to: ShardId, call: CallKey) {
        self.boxes[to.index()].begin_call(call, 0, ACK, 0);
    }

    /// Takes back what [`push_ack`](Mailboxes::push_ack) added last, because nothing is to be stored.
    pub(crate) fn take_back_ack(&mut self, to: ShardId) {
        let records = &mut self.boxes[to.index()].pending.records;
        let start = records.len() - (RECORD_HEAD_BYTES + CALL_BYTES);
        assert!(records[start + 6] == ACK, "the last record is no ACK");
        records.truncate(start);
    }

    /// Adds a worker's answer.
    pub(crate) fn push_answer(&mut self, to: ShardId, call: CallKey, answer: Answer, bytes: usize) {
        self.boxes[to.index()].pending.answer_bytes += bytes;
        self.push_control(to, Control::Answer { call, answer });
    }

    /// Adds a control message.
    pub(crate) fn push_control(&mut self, to: ShardId, control: Control) {
        self.boxes[to.index()].pending.control.push(control);
    }

    /// Acknowledges a shard's changes of interest up to `number`, after all events so far.
    pub(crate) fn acknowledge(&mut self, to: ShardId, number: u64) {
        // Acknowledgements are cumulative: the newest one is enough.
        self.boxes[to.index()].pending.known = number;
    }

    /// Takes the next batch for a shard, if something waits and credit allows it.
    pub(crate) fn take(&mut self, to: ShardId) -> Option<Batch> {
        let peer = &mut self.boxes[to.index()];
        if peer.pending.is_empty() || peer.in_flight_items >= HANDOVER_ITEMS_MAX {
            return None;
        }
        if peer.is_closed {
            self.drop_pending(to);
            return None;
        }
        let cost = peer.pending.data_bytes().max(HANDOVER_COST_MIN);
        let data_may_go =
            peer.in_flight_cost == 0 || peer.in_flight_cost + cost <= self.window_bytes;
        let mut batch = peer.spare.pop().unwrap_or_default();
        self.spare_bytes -= batch.memory();
        if data_may_go {
            std::mem::swap(&mut batch, &mut peer.pending);
            peer.last_topic = None;
            batch.cost = cost;
        } else if !peer.pending.control.is_empty() || peer.pending.records.is_empty() {
            std::mem::swap(&mut batch.control, &mut peer.pending.control);
            batch.answer_bytes = std::mem::take(&mut peer.pending.answer_bytes);
            if peer.pending.records.is_empty() {
                batch.known = std::mem::take(&mut peer.pending.known);
            }
            batch.cost = HANDOVER_COST_MIN;
        } else {
            self.spare_bytes += batch.memory();
            peer.spare.push(batch);
            return None;
        }
        peer.in_flight_cost += batch.cost;
        peer.in_flight_items += 1;
        self.sent += 1;
        Some(batch)
    }

    /// Takes back a batch that `by` has handled: its credit returns, and its buffers may be kept.
    pub(crate) fn returned(&mut self, by: ShardId, mut batch: Batch) {
        let peer = &mut self.boxes[by.index()];
        if peer.is_closed {
            return;
        }
        assert!(
            peer.in_flight_items > 0,
            "a batch came back that was never sent"
        );
        assert!(
            batch.cost <= peer.in_flight_cost,
            "a batch brings back more credit than was given"
        );
        peer.in_flight_cost -= batch.cost;
        peer.in_flight_items -= 1;
        assert!(
            (peer.in_flight_items == 0) == (peer.in_flight_cost == 0),
            "credit is on its way exactly while batches are"
        );
        batch.clear();
        // Two spares serve a steady exchange; more would keep the memory of a burst for ever.
        let memory = batch.memory();
        if peer.spare.len() < 2 && memory <= 2 * self.backlog_bytes {
            self.spare_bytes += memory;
            peer.spare.push(batch);
        }
    }

    /// Bytes of spare buffers for the next batches.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spare_bytes
    }

    /// Frees the spare buffers.
    pub(crate) fn release_spares(&mut self) {
        for peer in &mut self.boxes {
            peer.spare = Vec::new();
        }
        self.spare_bytes = 0;
    }

    /// Whether data or control waits for any shard.
    pub(crate) fn is_waiting(&self) -> bool {
        self.boxes.iter().any(|peer| !peer.pending.is_empty())
    }

    /// Whether nothing waits and no batch is on the way.
    pub(crate) fn is_idle(&self) -> bool {
        self.boxes
            .iter()
            .all(|peer| peer.pending.is_empty() && peer.in_flight_items == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailboxes(window: usize, backlog: usize) -> Mailboxes {
        let limits = Limits {
            handover_window_bytes: window,
            handover_backlog_bytes: backlog,
            ..Limits::default()
        };
        Mailboxes::new(ShardId(0), (2, 0), &limits)
    }

    /// Pushes an event for subscribers without a queue group.
    fn push(mailboxes: &mut Mailboxes, topic: &[u8], payload: &[u8]) {
        let event = Event::plain(Space::Topic, topic, payload);
        mailboxes.push(ShardId(1), Addressees::all(), event, None);
    }

    /// A pushed event: space, topic, flags, attributes, payload, plain, groups.
    type Pushed<'a> = (
        Space,
        &'a [u8],
        u8,
        &'a [u8],
        &'a [u8],
        bool,
        &'a [&'a [u8]],
    );

    /// An event as read: space, topic, flags, attributes, payload, plain, groups, tries.
    type Read = (Space, Vec<u8>, u8, Vec<u8>, Vec<u8>, bool, Vec<Vec<u8>>, u8);

    /// The expected reading of a pushed event.
    fn expected_of((pushed, tries): (&Pushed<'_>, u8)) -> Read {
        let &(space, topic, flags, attributes, payload, plain, groups) = pushed;
        (
            space,
            topic.to_vec(),
            flags,
            attributes.to_vec(),
            payload.to_vec(),
            plain,
            groups.iter().map(|name| name.to_vec()).collect(),
            tries,
        )
    }

    #[test]
    fn events_are_read_back_as_they_were_pushed() {
        let mut mailboxes = mailboxes(1 << 20, 1 << 20);
        let large = Bytes::from(vec![7u8; 20_000]);
        let many: Vec<Vec<u8>> = (0..300u16).map(|n| n.to_le_bytes().to_vec()).collect();
        let names: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let pushed: [Pushed<'_>; 7] = [
            (Space::Topic, b"a", 0, b"", b"one", true, &[]),
            (Space::Topic, b"a", 4, b"", b"", true, &[b"g"]),
            (Space::ShardChannel, b"a", 0, b"", &large, true, &[]),
            (
                Space::Topic,
                b"",
                3,
                b"reply",
                b"two",
                false,
                &[b"g", b"hh"],
            ),
            (Space::Topic, b"", 0, b"", b"three", true, &[]),
            (Space::Topic, b"b", 1, b"x", &large, false, &[b"g"]),
            (Space::Topic, b"b", 0, b"", b"four", true, &names),
        ];
        let tries = (0..TURN_TRIES_MAX).cycle();
        for (pushed, tries) in pushed.iter().zip(tries.clone()) {
            let &(space, topic, flags, attributes, payload, plain, groups) = pushed;
            let event = Event {
                space,
                topic,
                flags,
                attributes,
                payload,
                number: 0,
            };
            let addressees = Addressees {
                plain,
                groups: groups.iter().copied(),
                tries,
            };
            let body = (payload.len() == large.len()).then_some(&large);
            mailboxes.push(ShardId(1), addressees, event, body);
        }
        let batch = mailboxes.take(ShardId(1)).expect("a batch");
        let mut records = Records::new(&batch, BatchCursor::default());
        let mut read: Vec<Read> = Vec::new();
        while let Some(Record::Event(record)) = records.next() {
            let event = record.event;
            read.push((
                event.space,
                event.topic.to_vec(),
                event.flags,
                event.attributes.to_vec(),
                event.payload.to_vec(),
                record.plain,
                record.groups.map(<[u8]>::to_vec).collect(),
                record.tries,
            ));
            // Reading on from a saved place gives the same as reading through.
            records = Records::new(&batch, records.cursor);
        }
        let expected: Vec<Read> = pushed.iter().zip(tries).map(expected_of).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn runs_are_read_back_between_events_as_they_were_pushed() {
        let mut mailboxes = mailboxes(1 << 20, 1 << 20);
        let to = ShardId(1);
        let run = HandedRun::new;
        let runs = [
            run(Source::Resp, b"a", b"<one><two>", &[(1, 4), (6, 9)][..]),
            run(Source::Native, b"a", b"<>", &[(1, 1)]),
            run(Source::Nats, b"b", b"[x][y][z]", &[(1, 2), (4, 5), (7, 8)]),
            run(Source::Node, b"b", b"a node's frame: p", &[(16, 17)]),
        ];
        for pushed in runs {
            mailboxes.push_run(to, pushed);
            push(&mut mailboxes, pushed.topic, b"single");
        }
        let batch = mailboxes.take(to).expect("a batch");
        assert_eq!((batch.events(), mailboxes.events), (7 + 4, 7 + 4));
        let records = batch.records.len();
        assert_eq!(batch.data_bytes(), records + 7 * size_of::<Span>());
        let mut cursor = BatchCursor::default();
        for pushed in runs {
            // Reading on from a saved place gives the same as reading through.
            let mut records = Records::new(&batch, cursor);
            let Some(Record::Run(read)) = records.next() else {
                panic!("no run");
            };
            assert_eq!(read, pushed);
            let Some(Record::Event(read)) = records.next() else {
                panic!("no event");
            };
            assert_eq!(
                (read.event.topic, read.event.payload),
                (pushed.topic, &b"single"[..])
            );
            cursor = records.cursor;
        }
        assert!(Records::new(&batch, cursor).next().is_none());
        mailboxes.returned(to, batch);
        push(&mut mailboxes, b"c", b"");
        assert_eq!(
            mailboxes.take(to).expect("a batch").spans,
            [],
            "nothing of the last is left"
        );
    }

    #[test]
    fn a_run_is_written_as_it_always_was() {
        let mut mailboxes = mailboxes(1 << 20, 1 << 20);
        let run = HandedRun::new(Source::Nats, b"t", b"<p>", &[(1, 2)]);
        mailboxes.push_run(ShardId(1), run);
        mailboxes.push_run(ShardId(1), run);
        let batch = mailboxes.take(ShardId(1)).expect("a batch");
        let expected = b"\x03\0\0\0\x01\0\x02\x80t\x01\0\0\0<p>\x03\0\0\0\0\0\x02\x81\x01\0\0\0<p>";
        assert_eq!(batch.records, expected);
        assert_eq!(batch.spans, [(1, 2), (1, 2)]);
    }

    #[test]
    fn data_waits_for_credit_and_control_does_not() {
        let mut mailboxes = mailboxes(HANDOVER_COST_MIN, 100);
        let to = ShardId(1);
        push(&mut mailboxes, b"a", b"one");
        let first = mailboxes.take(to).expect("credit for one");
        push(&mut mailboxes, b"a", &[0; 100]);
        assert!(mailboxes.take(to).is_none(), "the window is used up");
        assert!(!mailboxes.has_room(to), "the backlog is full");
        mailboxes.acknowledge(to, 1);
        assert!(mailboxes.take(to).is_none(), "it stands behind the event");
        mailboxes.acknowledge(to, 2);
        let query = Query::Counters;
        let call = (ConnId(0), CallId(1));
        mailboxes.push_control(to, Control::Ask { call, query });
        let control = mailboxes.take(to).expect("control goes");
        let carried = (control.control.len(), control.events, control.known);
        assert_eq!(carried, (1, 0, 0));
        mailboxes.returned(to, control);
        mailboxes.returned(to, first);
        let second = mailboxes.take(to).expect("credit came back");
        assert_eq!((second.events, second.known), (1, 2));
        assert!(mailboxes.has_room(to));
        mailboxes.returned(to, second);
        assert!(mailboxes.is_idle());
    }

    #[test]
    fn an_event_larger_than_the_window_goes_alone() {
        let mut mailboxes = mailboxes(HANDOVER_COST_MIN, 1 << 20);
        push(&mut mailboxes, b"a", &[0; 3 * HANDOVER_COST_MIN]);
        assert!(mailboxes.take(ShardId(1)).is_some());
    }
}
