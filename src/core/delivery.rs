//! From an event to the outboxes of its receivers and the hand-overs for other shards.
//!
//! Owns the route of the last topic and the run of frames that gathers for it: frames of one
//! topic are encoded once for each form and copied as one to each receiver. Invariant: whoever
//! changes who listens settles the run before, so that an event reaches exactly those who
//! listened when it was published. Start at [`Delivery::publish`].

use crate::broker::{Broker, Route};
use crate::command::{ConnId, Form, Space};
use crate::handover::{HandOvers, Record};
use crate::limits::{RUN_BYTES_MAX, SHARED_BODY_BYTES_MIN};
use crate::outbox::{Outboxes, Pending};
use crate::session;
use bytes::Bytes;

/// Frames' heads that are kept from topic to topic, for the next one's filters.
const HEADS_KEPT: usize = 64;

/// The parts of a shard that a delivery goes through.
pub(crate) struct Ways<'a> {
    pub broker: &'a Broker,
    pub outboxes: &'a mut Outboxes,
    pub hand_overs: &'a mut HandOvers,
}

/// What an event needs to know about its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gathering {
    /// The event may wait for others of its topic until the publisher's input is dealt with.
    Allowed,
    /// The publisher may hear itself, so that its events and replies must keep their order.
    AtOnce,
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Matching subscriptions on this node.
    To(u64),
    /// A shard that listens is behind: nothing was done, try again when there is room.
    NoRoom,
}

#[derive(Debug, Default)]
pub(crate) struct Delivery {
    route: Route,
    /// For each filter of the route and form: the frame up to the payload; empty if not needed yet.
    heads: Vec<[Vec<u8>; Form::COUNT]>,
    /// Frames that wait to be copied to the members of the route's only filter.
    run: [Vec<u8>; Form::COUNT],
    run_events: u64,
    /// Subscriptions that events were given to.
    pub delivered: u64,
}

impl Delivery {
    /// Delivers an event here and hands it to the shards that listen.
    ///
    /// Cost: one comparison if the topic is the last one's, else a look-up; then a copy for each
    /// receiver, or less for a run.
    pub(crate) fn publish(
        &mut self,
        ways: &mut Ways<'_>,
        gathering: Gathering,
        space: Space,
        topic: &[u8],
        payload: &[u8],
    ) -> Published {
        self.prepare(ways, space, topic);
        if self
            .route
            .remote
            .iter()
            .any(|&shard| !ways.hand_overs.has_room(shard))
        {
            return Published::NoRoom;
        }
        let is_shared = payload.len() >= SHARED_BODY_BYTES_MIN
            && self.route.receivers + self.route.remote.len() > 1;
        let body = is_shared.then(|| ways.outboxes.gauge().share(payload));
        for &shard in &self.route.remote {
            ways.hand_overs
                .push(shard, space, topic, payload, body.as_ref());
        }
        self.deliver(ways, gathering, topic, payload, body.as_ref());
        Published::To(self.route.subscriptions)
    }

    /// Delivers an event that another shard handed over. It never goes further.
    pub(crate) fn receive(&mut self, ways: &mut Ways<'_>, record: Record<'_>) {
        self.prepare(ways, record.space, record.topic);
        self.deliver(
            ways,
            Gathering::Allowed,
            record.topic,
            record.payload,
            record.body,
        );
    }

    /// Output that the run stands for and that is not in the outboxes yet.
    pub(crate) fn pending(&self) -> Pending {
        let receivers = self.route.receivers;
        match self.run_events {
            0 => Pending::default(),
            _ => Pending {
                bytes: self.run.iter().map(Vec::len).sum::<usize>() * receivers,
                receivers,
            },
        }
    }

    fn prepare(&mut self, ways: &mut Ways<'_>, space: Space, topic: &[u8]) {
        if self.route.fits(ways.broker, space, topic) {
            return;
        }
        self.settle(ways.broker, ways.outboxes);
        ways.broker.route(space, topic, &mut self.route);
        if self.heads.len() < self.route.filters.len() {
            self.heads
                .resize_with(self.route.filters.len(), Default::default);
        }
        // What one topic with many patterns needed is not kept, nor looked at, for ever.
        self.heads
            .truncate(self.route.filters.len().max(HEADS_KEPT));
        for heads in self.heads.iter_mut().take(self.route.filters.len()) {
            heads.iter_mut().for_each(Vec::clear);
        }
    }

    fn deliver(
        &mut self,
        ways: &mut Ways<'_>,
        gathering: Gathering,
        topic: &[u8],
        payload: &[u8],
        body: Option<&Bytes>,
    ) {
        self.delivered += self.route.receivers as u64;
        let may_gather = gathering == Gathering::Allowed
            && body.is_none()
            && self.route.filters.len() == 1
            && self.route.receivers > 1;
        if !may_gather {
            self.settle(ways.broker, ways.outboxes);
        }
        for place in 0..self.route.filters.len() {
            let entry = ways.broker.filters().entry(self.route.filters[place]);
            for form in Form::ALL {
                if entry.forms[form.index()] == 0 {
                    continue;
                }
                let head = &mut self.heads[place][form.index()];
                if head.is_empty() {
                    session::encode_event_head(form, entry.kind, &entry.name, topic, head);
                }
                let members = entry.members.iter().copied();
                if may_gather {
                    let run = &mut self.run[form.index()];
                    run.extend_from_slice(head);
                    session::encode_event_body(form, payload, run);
                } else {
                    deliver_one(ways.outboxes, members, form, head, payload, body);
                }
            }
        }
        if may_gather {
            self.run_events += 1;
            if self.run.iter().any(|frames| frames.len() >= RUN_BYTES_MAX) {
                self.settle(ways.broker, ways.outboxes);
            }
        }
    }

    /// Copies the run to its receivers. To be called before anything changes who listens, and
    /// when an input is dealt with.
    pub(crate) fn settle(&mut self, broker: &Broker, outboxes: &mut Outboxes) {
        if self.run_events == 0 {
            return;
        }
        let entry = broker.filters().entry(self.route.filters[0]);
        for &conn in &entry.members {
            let form = outboxes.outbox(conn).form;
            outboxes.offer(conn, &self.run[form.index()]);
        }
        self.run.iter_mut().for_each(Vec::clear);
        self.run_events = 0;
    }
}

/// Gives one event to those members that take it in this form.
fn deliver_one(
    outboxes: &mut Outboxes,
    members: impl Iterator<Item = ConnId>,
    form: Form,
    head: &mut Vec<u8>,
    payload: &[u8],
    body: Option<&Bytes>,
) {
    let head_length = head.len();
    if body.is_some() {
        session::encode_event_body_head(form, payload.len(), head);
    }
    for conn in members {
        if outboxes.outbox(conn).form != form {
            continue;
        }
        match body {
            Some(body) => {
                outboxes.offer_shared(conn, head, body, session::EVENT_END);
            }
            None => {
                outboxes.offer_with(conn, head.len() + payload.len(), |out| {
                    out.reserve(head.len() + payload.len() + 16);
                    out.extend_from_slice(head);
                    session::encode_event_body(form, payload, out);
                });
            }
        }
    }
    head.truncate(head_length);
}
