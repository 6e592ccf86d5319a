//! Deliveries put off to a later turn, because their connection has enough output for this one.
//!
//! A connection may be subscribed to one topic many times: named subscriptions of NATS, patterns of Redis, queue
//! groups. Past [`PUT_OFF_BYTES`](crate::limits::PUT_OFF_BYTES) of its unwritten output, the rest of its
//! deliveries of that event waits until the output was written: so one event makes bounded output in a turn, a client
//! that does not read meets its slow consumer policy, and one that reads is waited for. Who published waits until they
//! are given, which keeps its events in order, and who is to be given them is not read; everybody else goes on. Between
//! events of different publishers this may change the order. Invariants: each source has at most one event here; what is
//! here goes to those who are still subscribed. Start at [`Delivery::put_off_rest`] and [`Delivery::go_on`].

use super::named::NamedRun;
use super::stalls::Stalls;
use super::{Delivery, Frame};
use crate::command::{ConnId, Event, FilterId, FilterKind, Form, Member, ShardId, Space};
use crate::form;
use crate::limits::{
    DELIVERIES_AT_ONCE, PUT_OFF_BATCH_MS_MAX, PUT_OFF_IDLE_MS_MAX, PUT_OFF_MAX, PUT_OFF_MS_MAX,
    SHARED_RUN_BYTES_MIN,
};
use crate::outbox::{Offer, Outboxes};
use crate::routing::broker::Broker;
use bytes::Bytes;
use std::collections::VecDeque;

/// The source of an event on this shard. Its further input waits while deliveries of the event are put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The input of a connection: a client's, or a lane's.
    Conn(ConnId),
    /// A batch of another shard.
    Batch(ShardId),
}

/// A subscription that is still to be given an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub filter: FilterId,
    pub member: Member,
    /// It takes the turn of its queue group.
    pub is_turn: bool,
}

impl Owed {
    /// A subscription outside groups.
    pub(super) fn plain(filter: FilterId, member: Member) -> Owed {
        Owed {
            filter,
            member,
            is_turn: false,
        }
    }

    /// Adds it to the deliveries that are put off, if its connection must be written first. Gives whether it did.
    pub(super) fn try_put_off(self, owed: &mut Vec<Owed>, outboxes: &mut Outboxes) -> bool {
        let conn = self.member.conn;
        let is_full = outboxes.wants_flush(conn);
        if is_full {
            outboxes.owe(conn);
            owed.push(self);
        }
        is_full
    }
}

/// Content of deliveries that are put off.
#[derive(Debug)]
enum Given {
    /// A gathered run, for subscriptions that their clients name.
    Run(Box<NamedRun>),
    /// An event, for all others.
    Event(Box<Kept>),
}

/// A copy of an event.
#[derive(Debug)]
struct Kept {
    space: Space,
    topic: Box<[u8]>,
    flags: u8,
    attributes: Box<[u8]>,
    payload: Bytes,
    number: u64,
}

impl Kept {
    fn event(&self) -> Event<'_> {
        Event {
            space: self.space,
            topic: &self.topic,
            flags: self.flags,
            attributes: &self.attributes,
            payload: &self.payload,
            number: self.number,
        }
    }
}

/// The deliveries of one event, or run, that are put off.
#[derive(Debug)]
struct Rest {
    source: Option<Source>,
    what: Given,
    owed: Vec<Owed>,
    /// Index of the next one.
    next: usize,
    /// When it was put off, in nanoseconds; 0 until deliveries go on for the first time.
    since_ns: u64,
    /// While the next one's client is behind: the bytes that it has taken so far, and when it last took some.
    taken: Option<(u64, u64)>,
    /// The next one's client is behind, and is waited for.
    is_waiting: bool,
    /// Number of filters that had been removed when it was put off: as long as there are no more, their ids are those
    /// of the same filters.
    removed: u64,
}

impl Rest {
    /// Until when the next one's client is waited for. Other shards' events wait behind a batch, so less long for one.
    fn deadline_ns(&self) -> u64 {
        let most_ms = match self.source {
            Some(Source::Conn(_)) => PUT_OFF_MS_MAX,
            Some(Source::Batch(_)) | None => PUT_OFF_BATCH_MS_MAX,
        };
        let end_ns = self.since_ns + most_ms * 1_000_000;
        match self.taken {
            Some((_, idle_since_ns)) => end_ns.min(idle_since_ns + PUT_OFF_IDLE_MS_MAX * 1_000_000),
            None => end_ns,
        }
    }

    /// Whether the next one's client is behind and still takes its output, so that it is waited for before its slow
    /// consumer policy decides.
    fn waits_for(&mut self, conn: ConnId, outboxes: &Outboxes, now_ns: u64) -> bool {
        let Some(bytes) = outboxes.taken_while_behind(conn) else {
            self.taken = None;
            return false;
        };
        let is_unchanged = self.taken.is_some_and(|(before, _)| before == bytes);
        if !is_unchanged {
            self.taken = Some((bytes, now_ns));
        }
        self.is_waiting = now_ns < self.deadline_ns();
        self.is_waiting
    }
}

/// All deliveries that are put off.
#[derive(Debug, Default)]
pub(crate) struct PutOff {
    /// Source of the input that is being handled.
    pub source: Option<Source>,
    /// Deliveries of the present event.
    pub(super) owed: Vec<Owed>,
    rests: VecDeque<Rest>,
    /// Number of deliveries in `rests`.
    count: usize,
    /// Connections that have been given all that was put off.
    settled: Vec<ConnId>,
    /// Publishers that wait although nothing of theirs is put off.
    stalls: Stalls,
}

impl PutOff {
    pub(crate) fn is_empty(&self) -> bool {
        self.rests.is_empty() && self.settled.is_empty() && self.stalls.is_empty()
    }

    /// The place of a connection is another client's now, which is owed nothing.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        assert!(!self.stalls.waits(conn), "who is gone waits for nobody");
        for rest in &mut self.rests {
            let before = rest.owed.len();
            rest.owed.drain(..std::mem::take(&mut rest.next));
            rest.owed.retain(|owed| owed.member.conn != conn);
            self.count -= before - rest.owed.len();
        }
    }

    /// A publisher is being closed, or gone: it waits for no subscriber any more.
    pub(crate) fn end_stall(&mut self, publisher: ConnId) {
        self.stalls.forget(publisher);
    }

    /// Whether some can go on now.
    pub(crate) fn is_due(&self) -> bool {
        let mut rests = self.rests.iter();
        !self.settled.is_empty() || rests.any(|rest| !rest.is_waiting) || self.stalls.is_due()
    }

    /// A client has taken output, or time has passed: those that wait are looked at again.
    pub(crate) fn look_again(&mut self) {
        self.stalls.look_again();
        self.rests
            .iter_mut()
            .for_each(|rest| rest.is_waiting = false);
    }

    /// When those that wait are to be looked at again, by the monotonic clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let waiting = self.rests.iter().filter(|rest| rest.is_waiting);
        let deadlines = waiting.map(Rest::deadline_ns);
        deadlines.chain(self.stalls.next_deadline()).min()
    }

    /// Whether deliveries of an event that this source brought are put off, or it waits for a subscriber.
    pub(crate) fn waits(&self, source: Source) -> bool {
        let is_stalled = matches!(source, Source::Conn(conn) if self.stalls.waits(conn));
        is_stalled || self.rests.iter().any(|rest| rest.source == Some(source))
    }

    /// A publisher waits for a subscriber that is behind; see [`stalls`](super::stalls). Gives whether it does.
    pub(crate) fn stall(
        &mut self,
        publisher: ConnId,
        subscriber: ConnId,
        outboxes: &Outboxes,
        now_ns: u64,
    ) -> bool {
        self.stalls.begin((publisher, subscriber), outboxes, now_ns)
    }

    /// Whether deliveries of an event that the present source brought are put off.
    fn is_source_waiting(&self) -> bool {
        self.source.is_some_and(|source| self.waits(source))
    }

    /// Keeps deliveries of the present input. True if they must be made at once: nobody can wait for them, others of
    /// their source wait, or there are too many.
    fn push(&mut self, what: Given, removed: u64) -> bool {
        let source = self.source;
        self.count += self.owed.len();
        let is_second = source.is_none() || self.is_source_waiting() || self.count > PUT_OFF_MAX;
        self.rests.push_back(Rest {
            source,
            what,
            owed: std::mem::take(&mut self.owed),
            next: 0,
            since_ns: 0,
            taken: None,
            is_waiting: false,
            removed,
        });
        is_second
    }
}

impl Delivery {
    /// An input begins; `source` is set by those that may publish.
    pub(crate) fn begin_input(&mut self) {
        self.put_off.source = None;
        self.look_ups.begin_input();
    }

    /// Whether the next event of the present input must wait: output is to be written first, deliveries are put off, or
    /// looking routes up has taken its share of the turn.
    pub(crate) fn must_pause(&self, outboxes: &Outboxes) -> bool {
        self.look_ups.are_spent()
            || self.put_off.is_source_waiting()
            || outboxes.should_flush(self.pending())
    }

    /// Keeps the present event for the deliveries that were put off, if any.
    pub(super) fn put_off_rest(
        &mut self,
        broker: &mut Broker,
        outboxes: &mut Outboxes,
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) {
        if self.put_off.owed.is_empty() {
            return;
        }
        let gauge = outboxes.gauge();
        let kept = Kept {
            space: event.space,
            topic: event.topic.into(),
            flags: event.flags,
            attributes: event.attributes.into(),
            payload: body.map_or_else(|| gauge.share(event.payload), Bytes::clone),
            number: event.number,
        };
        let removed = broker.filters().removed();
        if self.put_off.push(Given::Event(Box::new(kept)), removed) {
            self.finish(broker, outboxes);
        }
    }

    /// Keeps the gathered run for the deliveries that were put off, if any.
    pub(super) fn put_off_run(&mut self, broker: &mut Broker, outboxes: &mut Outboxes) {
        if self.put_off.owed.is_empty() {
            return;
        }
        let heads = &self.cached[self.present].heads[0];
        let run = self.named.keep_run(&heads[Form::NAMED.index()]);
        let removed = broker.filters().removed();
        if self.put_off.push(Given::Run(Box::new(run)), removed) {
            self.finish(broker, outboxes);
        }
    }

    /// Makes what is put off of the present source at once. Each connection's cap decides, without a write between.
    fn finish(&mut self, broker: &mut Broker, outboxes: &mut Outboxes) {
        let source = self.put_off.source;
        outboxes.set_strict(true);
        for mut rest in std::mem::take(&mut self.put_off.rests) {
            if rest.source == source {
                self.give(broker, outboxes, &mut rest, (usize::MAX, None));
                self.put_off.count -= rest.owed.len();
            } else {
                self.put_off.rests.push_back(rest);
            }
        }
        outboxes.set_strict(false);
    }

    /// Makes the next deliveries of what is put off; gives the connections whose events are done with, and those that
    /// have been given all.
    pub(crate) fn go_on(
        &mut self,
        broker: &mut Broker,
        outboxes: &mut Outboxes,
        now_ns: u64,
    ) -> Vec<ConnId> {
        let mut done = Vec::new();
        let each = DELIVERIES_AT_ONCE / self.put_off.rests.len().max(1);
        for mut rest in std::mem::take(&mut self.put_off.rests) {
            if rest.since_ns == 0 {
                rest.since_ns = now_ns;
            }
            if !rest.is_waiting {
                self.give(broker, outboxes, &mut rest, (each.max(1), Some(now_ns)));
            }
            if rest.next < rest.owed.len() {
                self.put_off.rests.push_back(rest);
                continue;
            }
            self.put_off.count -= rest.owed.len();
            if let Some(Source::Conn(conn)) = rest.source {
                done.push(conn);
            }
        }
        self.named.end_sids(broker);
        self.put_off.stalls.end(outboxes, now_ns, &mut done);
        done.append(&mut self.put_off.settled);
        done
    }

    /// Makes at most so many deliveries, up to the first whose connection must be written first, or is waited for if
    /// there is a time.
    fn give(
        &mut self,
        broker: &mut Broker,
        outboxes: &mut Outboxes,
        rest: &mut Rest,
        (most, now_ns): (usize, Option<u64>),
    ) {
        let mut given = 0;
        let is_same = rest.removed == broker.filters().removed();
        while given < most
            && let Some(&owed) = rest.owed.get(rest.next)
        {
            let conn = owed.member.conn;
            let waits = now_ns.is_some_and(|now_ns| rest.waits_for(conn, outboxes, now_ns));
            if waits || outboxes.wants_flush(conn) {
                return;
            }
            rest.next += 1;
            given += 1;
            if outboxes.is_dead(conn) {
                self.turns_unheard += u64::from(owed.is_turn);
                continue;
            }
            if outboxes.end_owing(conn) {
                self.put_off.settled.push(conn);
            }
            match &rest.what {
                Given::Run(run) => {
                    if broker.is_member(owed.filter, owed.member) {
                        self.named.give_kept(run, owed.member, outboxes);
                    }
                }
                Given::Event(kept) => {
                    self.give_event(broker, outboxes, owed, &kept.event(), kept, is_same)
                }
            }
        }
    }

    fn give_event(
        &mut self,
        broker: &mut Broker,
        outboxes: &mut Outboxes,
        owed: Owed,
        event: &Event<'_>,
        kept: &Kept,
        is_same: bool,
    ) {
        let Owed {
            filter,
            member,
            is_turn,
        } = owed;
        let is_there = broker.is_member(filter, member)
            && (is_same || broker.filters().matches(filter, event));
        if !is_there {
            self.turns_unheard += u64::from(is_turn);
            return;
        }
        let body = (kept.payload.len() >= SHARED_RUN_BYTES_MIN).then_some(&kept.payload);
        let form = outboxes.outbox(member.conn).form;
        if is_turn {
            return self.offer_turn(outboxes, member, event, body);
        }
        let entry = broker.filters().entry(filter);
        let mut head = Vec::new();
        form::encode_event_head(form, entry.kind, &entry.name, event.topic, &mut head);
        if form == Form::NAMED {
            return self.named.offer(member, &head, event, body, outboxes);
        }
        let frame = Frame {
            form,
            head: &head,
            event,
            body: body.filter(|_| !form.is_json()),
        };
        let only = std::iter::once((member.conn, None));
        self.delivered += frame.offer_to(only, None, outboxes, &mut Vec::new());
    }

    /// Offers a group's turn to the member that takes it.
    pub(super) fn offer_turn(
        &mut self,
        outboxes: &mut Outboxes,
        member: Member,
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) {
        let Member { conn, number } = member;
        let form = outboxes.outbox(conn).form;
        self.turn.clear();
        if form == Form::NAMED {
            let kind = FilterKind::Topic;
            form::encode_event_head(Form::NAMED, kind, b"", event.topic, &mut self.turn);
            self.named.offer(member, &self.turn, event, body, outboxes);
            return;
        }
        let volume = form::volume(form, event);
        self.delivered += volume;
        self.turn_key.clear();
        form::encode_turn_key(number, event.topic, &mut self.turn_key);
        let offer = Offer::one(volume, &self.turn_key);
        if form.is_json() {
            form::encode_json_turn(form, number, event, &mut self.turn);
            outboxes.offer(conn, &self.turn, offer);
            return;
        }
        form::encode_turn_before_payload(form, number, event, &mut self.turn);
        match body {
            Some(body) => outboxes.offer_shared(conn, &self.turn, body, b"", offer),
            None => {
                let length = self.turn.len() + event.payload.len();
                outboxes.offer_with(conn, length, offer, |out| {
                    out.reserve(length);
                    out.extend_from_slice(&self.turn);
                    out.extend_from_slice(event.payload);
                });
            }
        }
    }
}
