//! Delivery: carries an event to the outboxes of its receivers, and to the mailboxes of other shards.
//!
//! Owns the routes of recent topics, and the gathered run of frames for the last topic: frames of one topic are encoded
//! once for each form and copied to each receiver as one piece. Invariant: a change of subscriptions settles the run
//! first, so that an event reaches exactly those who were subscribed when it was published. Start at
//! [`Delivery::publish`], then read [`Delivery::execute`], which delivers every event whatever its source, and
//! [`Delivery::publish_run`], the path of nearly all events under load.

use crate::command::{ConnId, Event, FilterId, Form, Member, ShardId, Space, Target, Volume};
use crate::form;
use crate::limits::{
    ENDING_MEMBERS_TRIED, ROUTE_FILTERS_KEPT, ROUTES_KEPT, RUN_BYTES_MAX, SHARED_BODY_BYTES_MIN,
    SHARED_RUN_BYTES_MIN, SHARED_RUN_RECEIVERS_MIN,
};
use crate::mailbox::{Batch, CallKey, HandedEvent, HandedRun, Mailboxes, Record, TURN_TRIES_MAX};
use crate::outbox::{Offer, Outboxes, Pending};
use crate::routing::broker::{Broker, GroupRoute, Route};
use crate::routing::subs::Entry;
use crate::tree::links::Links;
use bytes::Bytes;
use core::hash::BuildHasher;
use sapwood_wire::native::flag;
use sapwood_wire::run::{Head, Span};
use sapwood_wire::{nats, topic};

mod broadcast;
mod look_ups;
mod named;
mod plan;
mod put_off;
mod remote;
mod scoped;
mod stalls;

use look_ups::LookUps;
use named::Named;
use plan::{Plan, Reach};
pub(crate) use put_off::Source;
use put_off::{Owed, PutOff};
pub(crate) use remote::{Arrival, Received};
use scoped::Questions;
pub(crate) use scoped::{Question, Subject};

/// The parts of a shard that delivery writes to.
pub(crate) struct Egress<'a> {
    pub broker: &'a mut Broker,
    pub outboxes: &'a mut Outboxes,
    pub mailboxes: &'a mut Mailboxes,
    pub links: &'a mut Links,
}

/// Result of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The number of matching subscriptions on this node.
    To(u64),
    /// The mailbox of this shard, which listens, is full. Nothing was done: retry when it has room.
    NoRoom(ShardId),
}

/// Result of publishing a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishedRun {
    /// Bytes of the run's frames.
    pub bytes: usize,
    /// The run's events.
    pub volume: Volume,
    /// Connections of this shard that receive each event.
    pub receivers: usize,
    /// Matching subscriptions on this node, the same for each event.
    pub subscriptions: u64,
}

/// A cached route: the receivers of a topic, and the encoded heads of its frames.
#[derive(Debug, Default)]
struct CachedRoute {
    route: Route,
    /// Frame heads by filter of the route and form: the frame up to the payload. Empty until first needed.
    heads: Vec<[Vec<u8>; Form::COUNT]>,
    /// Whether the topic is a valid NATS subject.
    is_subject: bool,
    /// Whether the topic is valid UTF-8, which JSON needs.
    is_text: bool,
}

impl CachedRoute {
    /// Whether this form can carry the topic.
    fn carries(&self, form: Form) -> bool {
        (form != Form::NAMED || self.is_subject) && (!form.is_json() || self.is_text)
    }

    /// The frame head of events that match this entry; `place` is the entry's index in the route.
    fn head(&mut self, place: usize, form: Form, entry: &Entry, topic: &[u8]) -> &[u8] {
        let head = &mut self.heads[place][form.index()];
        if head.is_empty() {
            form::encode_event_head(form, entry.kind, &entry.name, topic, head);
        }
        head
    }

    /// How to encode a run in this form for the members of the route's only filter.
    fn encoding<'a>(
        &'a mut self,
        form: Form,
        entry: &Entry,
        run: &HandedRun<'a>,
        number: u64,
    ) -> form::Run<'a> {
        form::Run {
            source: run.source,
            kind: entry.kind,
            topic: run.topic,
            head: self.head(0, form, entry, run.topic),
            frames: run.frames,
            payloads: run.payloads,
            volume: run.volume,
            number,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Delivery {
    /// Routes by the hash of their topic.
    cached: Box<[CachedRoute]>,
    /// Index of the present topic's route in `cached`: the last topic that was delivered.
    present: usize,
    hasher: foldhash::fast::FixedState,
    /// The buffer that holds the publisher's input, if payloads may be kept as parts of it.
    pub lent: Option<Bytes>,
    /// Scratch buffer for the payload positions of the run that is being published.
    payloads: Vec<Span>,
    /// Gathered frames for the members of the route's only filter, by form.
    run: [Vec<u8>; Form::COUNT],
    run_volume: Volume,
    /// Position of the last frame in each gathered run.
    run_last: [usize; Form::COUNT],
    /// Delivery to clients that name their subscriptions (NATS).
    pub named: Named,
    /// For each group of the route, the shard or link whose turn this event is; `None` if the event is not for the
    /// group.
    turns: Vec<Option<Target>>,
    /// Scratch buffer for the frame of a group turn.
    turn: Vec<u8>,
    /// Scratch buffer for the conflation key of a group turn: the same for all turns of one member on one topic.
    turn_key: Vec<u8>,
    /// Counter that numbers events which several filters may match.
    event: u64,
    /// Number of the last event that was delivered here.
    number: u64,
    /// Events delivered, counted once for each subscription; for native clients, once for each connection.
    pub delivered: Volume,
    /// Group turns sent to another shard because the first had no member left.
    pub turns_retried: u64,
    /// Group turns dropped because no member was left anywhere.
    pub turns_unheard: u64,
    /// Questions that this shard answers at the end of the turn.
    pub questions: Questions,
    /// Events sent to a tree address where no node stands.
    pub lost_places: u64,
    /// Deliveries that wait for a later turn.
    pub put_off: PutOff,
    /// Cost of this turn's look-ups of routes.
    pub look_ups: LookUps,
}

impl Delivery {
    /// A delivery without routes. `hash_seed` decides which topics share a cache slot; event numbers start at
    /// `first_number`.
    pub(crate) fn new(hash_seed: u64, first_number: u64) -> Delivery {
        Delivery {
            cached: (0..ROUTES_KEPT).map(|_| CachedRoute::default()).collect(),
            present: 0,
            hasher: foldhash::fast::FixedState::with_seed(hash_seed),
            lent: None,
            payloads: Vec::new(),
            run: Default::default(),
            run_volume: Volume::default(),
            run_last: [0; Form::COUNT],
            named: Named::new(hash_seed),
            turns: Vec::new(),
            turn: Vec::new(),
            turn_key: Vec::new(),
            event: 0,
            number: first_number,
            delivered: Volume::default(),
            turns_retried: 0,
            turns_unheard: 0,
            questions: Questions::default(),
            lost_places: 0,
            put_off: PutOff::default(),
            look_ups: LookUps::default(),
        }
    }

    /// Delivers the run of events at the start of the input that share this head, up to the first incomplete one and to
    /// the room for output. The publisher must not receive its own events.
    ///
    /// Returns `None`, with nothing done, if the events must be published one by one: the topic is reserved or not
    /// legal, several filters or a group match, a mailbox is full, or the first event is incomplete or its payload long
    /// enough to be shared.
    pub(crate) fn publish_run(
        &mut self,
        egress: &mut Egress<'_>,
        head: &Head<'_>,
        input: &[u8],
        payload_max: usize,
    ) -> Option<PublishedRun> {
        let is_legal = |name: &[u8]| topic::check_name(name).is_ok();
        // Reserved topics need more than a route.
        if topic::is_reserved(head.topic) {
            return None;
        }
        if !self.prepare_if(egress, (Space::Topic, head.topic), is_legal) {
            return None;
        }
        let route = self.route();
        if route.filters.len() > 1 || !route.groups.is_empty() || self.full_shard(egress).is_some()
        {
            return None;
        }
        let shares = route.receivers + route.shards.len();
        let payload_max = if self.named_receivers(egress) >= SHARED_RUN_RECEIVERS_MIN {
            payload_max.min(SHARED_RUN_BYTES_MIN - 1)
        } else if shares > 1 || self.lent.is_some() {
            payload_max.min(SHARED_BODY_BYTES_MIN - 1)
        } else {
            payload_max
        };
        // Output that is gathered or may be dropped is limited to bounded pieces; a single receiver that keeps up gets
        // the whole run.
        let only = self.only_receiver(egress);
        let bytes_max = match only {
            Some(_) if self.route().shards.is_empty() => {
                egress.outboxes.room_to_flush(self.pending())
            }
            // Another shard handles a run as a whole, whatever room there is.
            _ => RUN_BYTES_MAX,
        };
        let mut payloads = std::mem::take(&mut self.payloads);
        payloads.clear();
        let bytes = head.scan(input, bytes_max, payload_max, &mut payloads);
        let mut volume = Volume::default();
        if !payloads.is_empty() {
            let run = HandedRun::new(head.source, head.topic, &input[..bytes], &payloads);
            volume = run.volume;
            self.execute_run(egress, &run, only, Reach::Tree);
        }
        self.payloads = payloads;
        (volume.events > 0).then(|| PublishedRun {
            bytes,
            volume,
            receivers: self.route().receivers,
            subscriptions: self.route().subscriptions,
        })
    }

    /// Whether the event just published may have listeners that are not counted: on another node, or a worker that keeps
    /// it.
    pub(crate) fn is_heard_beyond(&self) -> bool {
        self.route().is_heard_beyond()
    }

    /// The present topic's route.
    fn route(&self) -> &Route {
        &self.cached[self.present].route
    }

    /// The only member of the route's only filter, if frames can be appended to its outbox without the slow consumer
    /// policy.
    fn only_receiver(&self, egress: &Egress<'_>) -> Option<Member> {
        let &[filter] = &self.route().filters[..] else {
            return None;
        };
        match &egress.broker.filters().entry(filter).members[..] {
            &[member] => Some(member).filter(|member| egress.outboxes.takes_all(member.conn)),
            _ => None,
        }
    }

    /// Delivers a run to the members of the route's only filter: at once if there is only one, else it is gathered for
    /// all.
    fn deliver_run(&mut self, egress: &mut Egress<'_>, run: &HandedRun<'_>, only: Option<Member>) {
        let first_number = self.number + form::EVENT_NUMBER_STEP;
        self.number += run.volume.events * form::EVENT_NUMBER_STEP;
        if let Some(member) = only {
            return self.give_run(egress, run, first_number, member);
        }
        self.gather_run(egress, run, first_number);
        self.run_volume += run.volume;
        // For a single receiver that is behind, the slow consumer policy decides at once.
        if self.route().receivers == 1 || self.is_run_full() {
            self.settle(egress.broker, egress.outboxes);
        }
    }

    /// Encodes a run for the only member of the route's only filter, straight into its outbox.
    fn give_run(
        &mut self,
        egress: &mut Egress<'_>,
        run: &HandedRun<'_>,
        number: u64,
        member: Member,
    ) {
        let form = egress.outboxes.outbox(member.conn).form;
        let way = &mut self.cached[self.present];
        if !way.carries(form) {
            self.named.uncarried += run.volume.events;
            return;
        }
        let entry = egress.broker.filters().entry(way.route.filters[0]);
        let how = way.encoding(form, entry, run, number);
        if form == Form::NAMED {
            self.named.give_run(how, member, egress.outboxes);
            return self.named.end_sids(egress.broker);
        }
        egress.outboxes.add_run(member.conn, run.volume, |out| {
            how.encode(form, out);
        });
        self.delivered += run.volume;
    }

    /// Encodes a run in each form that members of the route's only filter take.
    fn gather_run(&mut self, egress: &mut Egress<'_>, run: &HandedRun<'_>, number: u64) {
        let way = &mut self.cached[self.present];
        let entry = egress.broker.filters().entry(way.route.filters[0]);
        for form in Form::ALL {
            let members = entry.forms[form.index()];
            let deliveries = run.volume.times(u64::from(members));
            if members == 0 {
                continue;
            }
            if !way.carries(form) {
                self.named.uncarried += deliveries.events;
                continue;
            }
            let how = way.encoding(form, entry, run, number);
            if form == Form::NAMED {
                self.named.gather_run(&how, entry, egress.outboxes);
                continue;
            }
            let place = form.index();
            self.run_last[place] = how.encode(form, &mut self.run[place]);
            self.delivered += deliveries;
        }
    }

    /// Delivers an event on this shard, and hands it to the other shards and links that listen.
    ///
    /// Cost: one comparison if the topic is the previous event's, else a look-up; then one copy for each receiver, or
    /// less for a run.
    pub(crate) fn publish(
        &mut self,
        egress: &mut Egress<'_>,
        except: Option<ConnId>,
        event: Event<'_>,
    ) -> Published {
        self.prepare(egress, event.space, event.topic);
        if self.is_scoped()
            && let Some(published) = self.publish_scoped(egress, &event)
        {
            return published;
        }
        if let Some(shard) = self.full_shard(egress) {
            return Published::NoRoom(shard);
        }
        Published::To(self.publish_prepared(egress, except, event))
    }

    /// Publishes an event of the present topic, for which there is room. Gives the number of matching subscriptions on
    /// this node.
    #[inline(always)]
    fn publish_prepared(
        &mut self,
        egress: &mut Egress<'_>,
        except: Option<ConnId>,
        event: Event<'_>,
    ) -> u64 {
        let body = self.body_of(egress, &event);
        self.take_turns(egress, except);
        let subscriptions = self.matching_subscriptions(egress, except);
        let plan = Plan {
            except,
            ..Plan::for_all(Reach::Tree, body.as_ref())
        };
        self.execute(egress, &event, plan);
        subscriptions
    }

    /// Publishes an event of the topic that [`keeper`](Delivery::keeper) found with room; the worker tells this call when
    /// it is stored.
    pub(crate) fn publish_stored(
        &mut self,
        egress: &mut Egress<'_>,
        (worker, call): (ShardId, CallKey),
        event: Event<'_>,
    ) -> u64 {
        assert!(
            self.route().fits(egress.broker, event.space, event.topic),
            "another topic came between"
        );
        egress.mailboxes.push_ack(worker, call);
        self.publish_prepared(egress, None, event)
    }

    /// Like [`publish`](Delivery::publish), for an event that the broker itself publishes: no worker keeps it.
    pub(crate) fn emit(&mut self, egress: &mut Egress<'_>, event: Event<'_>) -> Published {
        self.prepare(egress, event.space, event.topic);
        if self.is_scoped()
            && let Some(published) = self.publish_scoped(egress, &event)
        {
            return published;
        }
        if let Some(shard) = self.full_shard_besides_workers(egress) {
            return Published::NoRoom(shard);
        }
        let body = self.body_of(egress, &event);
        self.take_turns(egress, None);
        let subscriptions = self.route().subscriptions;
        self.execute(egress, &event, Plan::for_all(Reach::Emitted, body.as_ref()));
        Published::To(subscriptions)
    }

    /// The worker that keeps the events of a topic, and the first peer on their way that is full. `None` for a topic with
    /// a scope, whose events another node may get in place of this one.
    pub(crate) fn keeper(
        &mut self,
        egress: &mut Egress<'_>,
        topic: &[u8],
    ) -> Option<(ShardId, Option<ShardId>)> {
        self.prepare(egress, Space::Topic, topic);
        let worker = self.route().keeper.filter(|_| !self.is_scoped())?;
        Some((worker, self.full_shard(egress)))
    }

    /// Number of the matching subscriptions that belong to a publisher that must not receive its own events.
    fn own_subscriptions(&self, egress: &Egress<'_>, except: Option<ConnId>) -> u64 {
        let Some(publisher) = except else {
            return 0;
        };
        let filters = self.route().filters.iter();
        let members = filters.flat_map(|&filter| &egress.broker.filters().entry(filter).members);
        let own = members.filter(|member| member.conn == publisher).count();
        let groups = self.route().groups.iter();
        let is_own = |group: &&GroupRoute| {
            group.weights.len() == 1 && egress.broker.are_members_of(group, publisher)
        };
        (own + groups.filter(is_own).count()) as u64
    }

    /// Delivers a record that another shard handed over; it goes no further. `unheard` gets the index in the record of
    /// each group that has no member left here.
    pub(crate) fn receive(
        &mut self,
        egress: &mut Egress<'_>,
        record: &Record<'_>,
        unheard: impl FnMut(usize),
    ) {
        match record {
            Record::Event(handed) => self.receive_event(egress, handed, unheard),
            Record::Run(run) => self.receive_handed_run(egress, run),
            Record::Ask(..) | Record::Ack(_) => unreachable!("shards are asked by control"),
        }
    }

    /// Publishes what a worker handed over, for the whole tree. False if a shard that listens has no room: nothing was
    /// done.
    pub(crate) fn receive_emitted(&mut self, egress: &mut Egress<'_>, record: &Record<'_>) -> bool {
        match record {
            Record::Event(handed) => {
                !matches!(self.emit(egress, handed.event), Published::NoRoom(_))
            }
            Record::Run(_) | Record::Ask(..) | Record::Ack(_) => {
                unreachable!("a worker publishes single events: {record:?}")
            }
        }
    }

    fn receive_handed_run(&mut self, egress: &mut Egress<'_>, run: &HandedRun<'_>) {
        self.prepare_if(egress, (Space::Topic, run.topic), |_| true);
        match self.route().filters.len() {
            0 => return,
            1 if self.route().groups.is_empty() => {
                let only = self.only_receiver(egress);
                return self.execute_run(egress, run, only, Reach::Shard);
            }
            _ => {}
        }
        for &(start, end) in run.payloads {
            let payload = &run.frames[start as usize..end as usize];
            let event = Event::plain(Space::Topic, run.topic, payload);
            self.turns.clear();
            self.execute(egress, &event, Plan::for_all(Reach::Shard, None));
        }
    }

    fn receive_event(
        &mut self,
        egress: &mut Egress<'_>,
        record: &HandedEvent<'_>,
        mut unheard: impl FnMut(usize),
    ) {
        let event = &record.event;
        self.prepare(egress, event.space, event.topic);
        for (number, name) in record.groups.clone().enumerate() {
            if self.deliver_to_group(egress, name, event, record.body) {
                continue;
            }
            match record.tries + 1 < TURN_TRIES_MAX {
                true => unheard(number),
                false => self.turns_unheard += 1,
            }
        }
        self.turns.clear();
        let plan = Plan {
            plain: record.plain,
            ..Plan::for_all(Reach::Shard, record.body)
        };
        self.execute(egress, event, plan);
    }

    /// Gives group turns that another shard could not deliver to members elsewhere; `batch` came back with them.
    /// Interest may still count the members that are gone, because batches come back at once and changes are announced
    /// at the end of a turn.
    pub(crate) fn retry(&mut self, egress: &mut Egress<'_>, by: ShardId, batch: &Batch) {
        for unheard in &batch.unheard {
            let Some((record, name)) = batch.event_of(unheard) else {
                continue;
            };
            let event = record.event;
            self.prepare(egress, event.space, event.topic);
            let Some(place) = self.route().place_of(egress.broker, name) else {
                self.turns_unheard += 1;
                continue;
            };
            self.turns_retried += 1;
            let tries = record.tries + 1;
            let group = &self.route().groups[place];
            let by = Target::Shard(by);
            let turn = egress.broker.take_turn_again(group, by, tries);
            self.begin_turns();
            self.turns[place] = Some(turn);
            // May exceed the cap on the backlog, but by no more than the batch that came back.
            let plan = Plan {
                plain: false,
                tries,
                ..Plan::for_all(Reach::Tree, record.body)
            };
            self.execute(egress, &event, plan);
        }
    }

    fn deliver_to_group(
        &mut self,
        egress: &mut Egress<'_>,
        name: &[u8],
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) -> bool {
        let place = self.route().place_of(egress.broker, name);
        place.is_some_and(|place| self.deliver_turn(egress, place, None, event, body))
    }

    /// Delivers an event to the group member whose turn it is. False if there is no member.
    fn deliver_turn(
        &mut self,
        egress: &mut Egress<'_>,
        place: usize,
        except: Option<ConnId>,
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) -> bool {
        let Some((filter, member)) = self.member_in_turn(egress, place, except) else {
            return false;
        };
        let event = &self.as_shown(event);
        let form = egress.outboxes.outbox(member.conn).form;
        if !self.cached[self.present].carries(form) {
            self.named.uncarried += 1;
            return true;
        }
        let owed = Owed {
            filter,
            member,
            is_turn: true,
        };
        if !owed.try_put_off(&mut self.put_off.owed, egress.outboxes) {
            self.offer_turn(egress.outboxes, member, event, body);
        }
        true
    }

    /// Picks the group member on this shard whose turn it is, except a publisher that must not receive its own events.
    fn member_in_turn(
        &mut self,
        egress: &mut Egress<'_>,
        place: usize,
        except: Option<ConnId>,
    ) -> Option<(FilterId, Member)> {
        let group = &self.cached[self.present].route.groups[place];
        // Connections that end may still be members: they take nothing.
        let takes = |&(_, member): &(FilterId, Member)| !egress.outboxes.is_ending(member.conn);
        let Some(publisher) = except else {
            let mut turns =
                (0..ENDING_MEMBERS_TRIED).map_while(|_| egress.broker.take_member_turn(group));
            return turns.find(takes);
        };
        let entries = group.entries.iter();
        let members = entries.map(|&id| egress.broker.filters().entry(id).members.len());
        let members: usize = members.sum();
        let mut turns = (0..members).map_while(|_| egress.broker.take_member_turn(group));
        let found = turns.find(|turn| turn.1.conn != publisher && takes(turn));
        // The publisher's filters may be owed more turns in a row than there are members.
        found.or_else(|| egress.broker.member_besides(group, publisher))
    }

    /// Output of the gathered run that is not in the outboxes yet.
    pub(crate) fn pending(&self) -> Pending {
        if self.run_volume.events == 0 {
            return Pending::default();
        }
        let receivers = self.route().receivers;
        let bytes = self.run.iter().map(Vec::len).sum::<usize>() + self.named.pending();
        let copies = match is_run_shared(SHARED_RUN_BYTES_MIN, receivers as u32) {
            true => 1,
            false => receivers,
        };
        Pending {
            bytes: bytes * copies,
            receivers,
        }
    }

    /// Makes the topic's route the present one; a topic without a cached route must pass `is_legal`. Returns whether
    /// the route is the present one now.
    fn prepare_if(
        &mut self,
        egress: &mut Egress<'_>,
        (space, topic): (Space, &[u8]),
        is_legal: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        let place = self.hasher.hash_one((space as u8, topic)) as usize % ROUTES_KEPT;
        let is_known = self.cached[place].route.fits(egress.broker, space, topic);
        if is_known && place == self.present {
            return true;
        }
        if !is_known && !is_legal(topic) {
            return false;
        }
        self.settle(egress.broker, egress.outboxes);
        // Settling may have delivered the last message of a subscription, which changes routes.
        let is_known = is_known && self.cached[place].route.is_current(egress.broker);
        // A route of very many filters or groups is dropped, so that it costs neither memory nor scans later.
        let present = self.route();
        if present.filters.len().max(present.groups.len()) > ROUTE_FILTERS_KEPT {
            self.cached[self.present] = CachedRoute::default();
        }
        self.present = place;
        if !is_known {
            let CachedRoute {
                route,
                heads,
                is_subject,
                is_text,
            } = &mut self.cached[place];
            self.look_ups.add(egress.broker.route(space, topic, route));
            if route.scope.is_for_all() && route.scope.is_here {
                route.lead_to_shards(egress.mailboxes.others());
            }
            let shown = &topic[route.scope.name_at..];
            *is_subject = nats::can_carry(shown);
            *is_text = std::str::from_utf8(shown).is_ok();
            heads.resize_with(route.filters.len(), Default::default);
            heads.iter_mut().flatten().for_each(Vec::clear);
        }
        true
    }

    /// Like `prepare_if`, without the check of the topic. The previous event's topic is recognized without a hash; a
    /// run ends where the topic changes, so the next event seldom has the same one.
    fn prepare(&mut self, egress: &mut Egress<'_>, space: Space, topic: &[u8]) {
        if !self.route().fits(egress.broker, space, topic) {
            self.prepare_if(egress, (space, topic), |_| true);
        }
    }

    /// Number of named subscriptions of the route's only filter; 0 if it has several.
    fn named_receivers(&self, egress: &Egress<'_>) -> u32 {
        match &self.route().filters[..] {
            &[filter] => egress.broker.filters().entry(filter).forms[Form::NAMED.index()],
            _ => 0,
        }
    }

    fn deliver(
        &mut self,
        egress: &mut Egress<'_>,
        except: Option<ConnId>,
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) {
        let is_for_all = self.route().scope.is_for_all();
        if (is_for_all && self.is_answered_here(event)) || !self.route().scope.is_here {
            return;
        }
        self.number += form::EVENT_NUMBER_STEP;
        let event = &Event {
            number: self.number,
            ..self.as_shown(event)
        };
        // Each named subscription gets a frame of its own, so a shorter payload is worth sharing.
        let is_long = body.is_none() && event.payload.len() >= SHARED_RUN_BYTES_MIN;
        let is_shared = is_long && self.named_receivers(egress) >= SHARED_RUN_RECEIVERS_MIN;
        let shared_by_named = is_shared.then(|| egress.outboxes.gauge().share(event.payload));
        let body = body.or(shared_by_named.as_ref());
        let may_gather = except.is_none()
            && body.is_none()
            && !is_for_all
            && self.route().filters.len() == 1
            && self.route().groups.is_empty()
            && self.route().receivers > 1
            // NATS frames of these differ between receivers, or are two messages.
            && event.flags & (flag::HEADERS | flag::END) == 0;
        if may_gather {
            return self.gather(egress, event);
        }
        self.settle(egress.broker, egress.outboxes);
        // Most clients take an event once, however many of their subscriptions match.
        let once = (self.route().filters.len() > 1 || is_for_all).then(|| {
            self.event += 1;
            self.event
        });
        if let Some(once) = once.filter(|_| is_for_all) {
            self.deliver_to_all(egress, event, body, once);
        }
        self.deliver_to_each(egress, (except, once), event, body);
        self.put_off_rest(egress.broker, egress.outboxes, event, body);
    }

    /// Delivers an event to the members of each of the route's filters; with `once`, the event's number, to those that
    /// take it once only by the first of theirs.
    fn deliver_to_each(
        &mut self,
        egress: &mut Egress<'_>,
        (except, once): (Option<ConnId>, Option<u64>),
        event: &Event<'_>,
        body: Option<&Bytes>,
    ) {
        let way = &mut self.cached[self.present];
        for place in 0..way.route.filters.len() {
            let filter = way.route.filters[place];
            let entry = egress.broker.filters().entry(filter);
            for form in Form::ALL {
                let members = entry.forms[form.index()];
                if members == 0 {
                    continue;
                }
                if !way.carries(form) {
                    self.named.uncarried += u64::from(members);
                    continue;
                }
                let head = way.head(place, form, entry, event.topic);
                let owed = &mut self.put_off.owed;
                if form == Form::NAMED {
                    for &member in &entry.members {
                        let is_his = egress.outboxes.outbox(member.conn).form == form;
                        if !is_his || Some(member.conn) == except {
                            continue;
                        }
                        if !Owed::plain(filter, member).try_put_off(owed, egress.outboxes) {
                            self.named.offer(member, head, event, body, egress.outboxes);
                        }
                    }
                    continue;
                }
                let once = once.filter(|_| form.takes_once());
                let members = entry.members.iter();
                let members =
                    members.map(|&member| (member.conn, Some(Owed::plain(filter, member))));
                let frame = Frame {
                    form,
                    head,
                    event,
                    body,
                };
                let offered = frame.offer_to(members, once, egress.outboxes, owed);
                self.delivered += offered;
            }
        }
    }

    /// Adds an event to the gathered run for the members of the route's only filter.
    fn gather(&mut self, egress: &mut Egress<'_>, event: &Event<'_>) {
        let way = &mut self.cached[self.present];
        let entry = egress.broker.filters().entry(way.route.filters[0]);
        for form in Form::ALL {
            let members = entry.forms[form.index()];
            if members == 0 {
                continue;
            }
            if !way.carries(form) {
                self.named.uncarried += u64::from(members);
                continue;
            }
            let head = way.head(0, form, entry, event.topic);
            if form == Form::NAMED {
                self.named.gather(head, event, entry, egress.outboxes);
                continue;
            }
            let run = &mut self.run[form.index()];
            self.run_last[form.index()] = run.len();
            form::encode_event(form, head, None, event, run);
            self.delivered += event.bare_volume().times(u64::from(members));
        }
        self.run_volume += event.bare_volume();
        if self.is_run_full() {
            self.settle(egress.broker, egress.outboxes);
        }
    }

    fn is_run_full(&self) -> bool {
        let lengths = self.run.iter().map(Vec::len);
        lengths
            .chain([self.named.pending()])
            .any(|length| length >= RUN_BYTES_MAX)
    }

    /// Delivers the gathered run to its receivers. Must be called before subscriptions change and at the end of an
    /// input.
    pub(crate) fn settle(&mut self, broker: &mut Broker, outboxes: &mut Outboxes) {
        if self.run_volume.events == 0 {
            return;
        }
        let entry = broker.filters().entry(self.route().filters[0]);
        let mut shared: [Option<Bytes>; Form::COUNT] = Default::default();
        for form in Form::ALL.map(Form::index) {
            if is_run_shared(self.run[form].len(), entry.forms[form]) {
                shared[form] = Some(outboxes.share_run(&self.run[form]));
            }
        }
        let heads = &self.cached[self.present].heads[0];
        for member in &entry.members {
            let form = outboxes.outbox(member.conn).form.index();
            if form == Form::NAMED.index() {
                let filter = self.cached[self.present].route.filters[0];
                if Owed::plain(filter, *member).try_put_off(&mut self.put_off.owed, outboxes) {
                    continue;
                }
                let members = entry.forms[form];
                self.named
                    .give(*member, &heads[form], members, &mut shared[form], outboxes);
                continue;
            }
            if let Some(body) = &shared[form]
                && outboxes.takes_all(member.conn)
            {
                outboxes.add_shared_run(member.conn, self.run_volume, body);
                continue;
            }
            let offer = Offer {
                volume: self.run_volume,
                last_at: self.run_last[form],
                key: &heads[form],
            };
            outboxes.offer(member.conn, &self.run[form], offer);
        }
        self.run.iter_mut().for_each(Vec::clear);
        self.run_volume = Volume::default();
        self.put_off_run(broker, outboxes);
        self.named.end_run();
        self.named.end_sids(broker);
    }
}

/// Whether a run of this size for this many receivers is stored once and shared instead of copied.
fn is_run_shared(bytes: usize, receivers: u32) -> bool {
    bytes >= SHARED_RUN_BYTES_MIN && receivers >= SHARED_RUN_RECEIVERS_MIN
}

/// One event encoded in one form.
struct Frame<'a> {
    form: Form,
    head: &'a [u8],
    event: &'a Event<'a>,
    body: Option<&'a Bytes>,
}

impl Frame<'_> {
    /// Offers the frame to the members that take this form, and returns how many they were. With `once`, the event's
    /// number, a connection gets it once even if several of its filters match. Those that must be written first are
    /// put off, if they come with what they are owed.
    fn offer_to(
        &self,
        members: impl Iterator<Item = (ConnId, Option<Owed>)>,
        once: Option<u64>,
        outboxes: &mut Outboxes,
        put_off: &mut Vec<Owed>,
    ) -> Volume {
        let Frame {
            form,
            head,
            event,
            body,
        } = *self;
        if form.is_json() {
            let conns = members.map(|(conn, _)| conn);
            return self.offer_written_to(conns, once, outboxes);
        }
        let mut before_payload = Vec::new();
        if body.is_some() {
            form::encode_event_before_payload(form, head, None, event, &mut before_payload);
        }
        let length = head.len() + event.payload.len() + form::event_room(form, event);
        let volume = form::volume(form, event);
        let offer = Offer::one(volume, head);
        let mut offered = 0;
        for (conn, owed) in members {
            if !self.is_for(conn, once, outboxes) {
                continue;
            }
            if owed.is_some_and(|owed| owed.try_put_off(put_off, outboxes)) {
                continue;
            }
            offered += 1;
            match body {
                Some(body) => {
                    let end = form::event_end(form);
                    outboxes.offer_shared(conn, &before_payload, body, end, offer);
                }
                None => outboxes.offer_with(conn, length, offer, |out| {
                    out.reserve(length);
                    form::encode_event(form, head, None, event, out);
                }),
            }
        }
        volume.times(offered)
    }

    fn is_for(&self, conn: ConnId, once: Option<u64>, outboxes: &mut Outboxes) -> bool {
        outboxes.outbox(conn).form == self.form
            && once.is_none_or(|event| outboxes.is_first_offer(conn, event))
    }

    /// Like `offer_to`, for a form that escapes the payload (JSON): encoded once and shared by all.
    fn offer_written_to(
        &self,
        members: impl Iterator<Item = ConnId>,
        once: Option<u64>,
        outboxes: &mut Outboxes,
    ) -> Volume {
        let offer = Offer::one(form::volume(self.form, self.event), self.head);
        let mut frame = Vec::new();
        form::encode_event(self.form, self.head, None, self.event, &mut frame);
        let is_long = frame.len() >= SHARED_BODY_BYTES_MIN;
        let shared = is_long.then(|| outboxes.gauge().adopt(std::mem::take(&mut frame)));
        let mut offered = 0;
        for conn in members {
            if !self.is_for(conn, once, outboxes) {
                continue;
            }
            offered += 1;
            match &shared {
                Some(shared) => outboxes.offer_shared(conn, b"", shared, b"", offer),
                None => outboxes.offer(conn, &frame, offer),
            }
        }
        offer.volume.times(offered)
    }
}
