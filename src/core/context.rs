//! What sessions may do with the broker, as verbs.
//!
//! Owns the order around the verbs, so that no session can get it wrong: pending events are delivered before
//! subscriptions change and before a subscriber gets a reply; a connection whose subscriptions changed waits at the
//! barrier; a connection at the barrier publishes nothing. Must not know protocols. Start at [`Context::publish`] and
//! [`Context::subscribe`].

use crate::calls::Calls;
use crate::command::{
    CallId, ClientId, CloseReason, ConnId, Event, Filter, FilterKind, Form, Member, Now, Query,
    Refusal, Round, ShardId, Space, Volume, Written,
};
use crate::counters::Counters;
use crate::delivery::{Delivery, Egress, Published, PublishedRun, Source};
use crate::form::sids::Sid;
use crate::guesses::Guesses;
use crate::limits::{CALLS_MAX, CHANGES_AT_ONCE, RUN_CHECK_BYTES};
use crate::mailbox::{CallKey, Mailboxes};
use crate::outbox::Outboxes;
use crate::routing::broker::Broker;
use crate::routing::interest::Interest;
use crate::settings::{Identity, Settings};
use crate::tree::links::Links;
use crate::tree::state::Tree;
use bytes::Bytes;
use sapwood_wire::native::{Policy, Reached};
use sapwood_wire::resp::Parser;
use sapwood_wire::run::Head;
use sapwood_wire::scope::{Audience, Scope};
use sapwood_wire::topic;

/// Reasons why a connection is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// The barrier: number of its last change of interest that not all shards know yet.
    pub barrier: Option<u64>,
    /// Back-pressure: this shard or state worker is behind with what the connection published or asked.
    pub room: Option<ShardId>,
    /// It waits for its calls, until at most this many are unanswered.
    pub calls: Option<u32>,
    /// Its client does not take its replies.
    pub output: bool,
    /// A lane waits for news about its link.
    pub link: bool,
    /// Deliveries of an event that it published, or to itself, are put off.
    pub deliveries: bool,
    /// Its next password waits, because too many from its address were wrong.
    pub guess: bool,
}

impl Blocked {
    pub(crate) fn any(self) -> bool {
        self != Blocked::default()
    }
}

/// Next step for a connection after its session handled input.
#[derive(Debug)]
pub(crate) enum Then {
    /// Read on; offer the input again once `needed` unconsumed bytes are there.
    Read { needed: usize },
    /// Stop reading until the connection is named in `Outputs::resumed`.
    Hold,
    /// Write the pending output, then offer the rest of the input again.
    Flush,
    /// Offer the rest of the input in the next turn, after other connections, even if the barrier is not over.
    Yield,
    /// Move the connection to another shard; nothing was consumed.
    Move(ShardId),
    /// Write the output, then close.
    Close(CloseReason),
}

/// Bytes of input that a session consumed, and the next step.
#[derive(Debug)]
pub(crate) struct SessionStep {
    pub consumed: usize,
    pub then: Then,
}

/// Scratch buffers shared by all sessions of a shard, empty between calls of a session.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Parser for a Redis request that is whole in the input.
    pub resp: Parser,
    /// Buffer for an unmasked WebSocket message.
    pub message: Vec<u8>,
    /// Buffer for an event's reply topic and headers, converted from another protocol to native attributes.
    pub attributes: Vec<u8>,
}

/// What became of a publish that is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It went to its subscribers, so many on this node; the answer of this call says whether it is stored.
    Asked(CallId, u64),
    /// Nothing was done: publish again when the connection is resumed.
    Held,
    /// Nothing was done: no stream of this node keeps the topic.
    NoStream,
}

/// Disjoint parts of a shard, borrowed to handle one connection's input.
pub(crate) struct Parts<'a> {
    pub conn: ConnId,
    pub identity: Identity,
    pub now: Now,
    pub settings: &'a Settings,
    pub blocked: &'a mut Blocked,
    pub broker: &'a mut Broker,
    pub outboxes: &'a mut Outboxes,
    pub mailboxes: &'a mut Mailboxes,
    pub interest: &'a mut Interest,
    pub links: &'a mut Links,
    pub tree: &'a mut Option<Box<Tree>>,
    pub delivery: &'a mut Delivery,
    pub calls: &'a mut Calls,
    pub guesses: &'a mut Guesses,
    pub counters: &'a mut Counters,
    pub scratch: &'a mut Scratch,
    /// Whether this connection's next password has waited.
    pub has_waited: &'a mut bool,
    /// What this connection has published.
    pub published: &'a mut Volume,
    /// Calls of this connection that are not answered.
    pub calls_waiting: &'a mut u32,
}

impl Parts<'_> {
    /// The delivery, and the parts of the shard that it writes to.
    pub(crate) fn delivery(&mut self) -> (&mut Delivery, Egress<'_>) {
        let egress = Egress {
            broker: self.broker,
            outboxes: self.outboxes,
            mailboxes: self.mailboxes,
            links: self.links,
        };
        (self.delivery, egress)
    }

    /// Delivers pending events. Must be called before anything changes who listens.
    pub(crate) fn settle(&mut self) {
        self.delivery.settle(self.broker, self.outboxes);
    }
}

/// A session's access to the broker while it handles input.
pub(crate) struct Context<'a> {
    parts: Parts<'a>,
    /// Subscriptions added or removed in this call of the session.
    changes: usize,
}

impl<'a> Context<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Context<'a> {
        Context { parts, changes: 0 }
    }

    /// Settings and limits of the broker.
    pub(crate) fn settings(&self) -> &'a Settings {
        self.parts.settings
    }

    /// Access for the session between nodes, which is part of the broker rather than a client.
    pub(crate) fn for_links(&mut self) -> &mut Parts<'a> {
        &mut self.parts
    }
}

/// The client's identity, the broker's settings, and scratch buffers.
impl Context<'_> {
    pub(crate) fn client(&self) -> ClientId {
        self.parts.identity.client
    }

    pub(crate) fn conn(&self) -> ConnId {
        self.parts.conn
    }

    pub(crate) fn identity(&self) -> Identity {
        self.parts.identity
    }

    pub(crate) fn now(&self) -> Now {
        self.parts.now
    }

    pub(crate) fn scratch(&mut self) -> &mut Scratch {
        self.parts.scratch
    }

    /// Whether a password that this connection sends must wait, because too many from its address were wrong. Then the
    /// connection is not read until it may try.
    pub(crate) fn must_wait_to_prove(&mut self) -> bool {
        if self.settings().password.is_none() || std::mem::take(self.parts.has_waited) {
            return false;
        }
        let Identity { client, peer, .. } = self.parts.identity;
        let now_ns = self.parts.now.monotonic_ns;
        let Some(until_ns) = self.parts.guesses.until(peer.ip(), now_ns) else {
            return false;
        };
        self.parts.guesses.wait(until_ns, self.parts.conn, client);
        *self.parts.has_waited = true;
        self.parts.blocked.guess = true;
        self.parts.counters.passwords_delayed += 1;
        true
    }

    /// Notes that this connection sent a wrong password.
    pub(crate) fn note_wrong_password(&mut self) {
        self.parts.counters.wrong_passwords += 1;
        let ip = self.parts.identity.peer.ip();
        self.parts.guesses.wrong(ip, self.parts.now.monotonic_ns);
    }

    /// Form in which this connection takes events.
    pub(crate) fn form(&self) -> Form {
        self.parts.outboxes.outbox(self.parts.conn).form
    }

    /// Counters of the shard.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        self.parts.counters
    }
}

/// Publishing.
impl Context<'_> {
    /// Whether clients may publish to this name.
    pub(crate) fn check_topic(&self, space: Space, name: &[u8]) -> Result<(), Refusal> {
        topic::check_name(name).map_err(Refusal::Name)?;
        if space == Space::ShardChannel {
            return Ok(());
        }
        match Scope::parse(name).map_err(Refusal::Scope)?.audience {
            Audience::All if !self.settings().may_broadcast => Err(Refusal::NoBroadcasts),
            _ => Ok(()),
        }
    }

    /// Publishes an event, and gives the number of matching subscriptions on this node. `None` if nothing was done:
    /// publish again when the connection is resumed.
    pub(crate) fn publish(&mut self, event: Event<'_>) -> Option<u64> {
        self.publish_except(None, event)
    }

    /// Like [`publish`](Context::publish), but this connection does not get the event.
    pub(crate) fn publish_to_others(&mut self, event: Event<'_>) -> Option<u64> {
        let conn = self.parts.conn;
        self.publish_except(Some(conn).filter(|_| self.listens()), event)
    }

    fn publish_except(&mut self, except: Option<ConnId>, event: Event<'_>) -> Option<u64> {
        if self.waits_for_barrier() {
            // A receiver may reply at once (request/reply), so this client's subscriptions must be known to all shards
            // first.
            return None;
        }
        let (delivery, mut egress) = self.parts.delivery();
        match delivery.publish(&mut egress, except, event) {
            Published::NoRoom(shard) => {
                self.parts.blocked.room = Some(shard);
                self.parts.counters.stalled_publishers += 1;
                None
            }
            Published::To(subscriptions) => {
                self.note_published(event.volume());
                Some(subscriptions)
            }
        }
    }

    /// How far the event published last got, which has so many subscriptions on this node.
    pub(crate) fn reached(&self, subscriptions: u64) -> Reached {
        Reached {
            subscriptions,
            is_beyond: self.parts.delivery.is_heard_beyond(),
        }
    }

    /// Publishes the run at the start of the input, whose first frame has this head. `None` if nothing was done,
    /// because the messages must be checked or delivered one by one.
    pub(crate) fn publish_run(
        &mut self,
        head: &Head<'_>,
        input: &[u8],
        payload_max: usize,
    ) -> Option<PublishedRun> {
        if self.waits_for_barrier() {
            return None;
        }
        let (delivery, mut egress) = self.parts.delivery();
        let published = delivery.publish_run(&mut egress, head, input, payload_max)?;
        self.note_published(published.volume);
        self.parts.counters.commands += published.volume.events;
        Some(published)
    }

    fn note_published(&mut self, volume: Volume) {
        self.parts.counters.events_published += volume.events;
        self.parts.counters.payload_bytes_in += volume.bytes;
        *self.parts.published += volume;
    }

    /// Publishes consecutive runs from the start of the input by `publish`. Gives the bytes consumed, and whether
    /// [`must_pause`](Context::must_pause) must be asked before anything else is carried out.
    pub(crate) fn publish_runs(
        &mut self,
        input: &[u8],
        mut publish: impl FnMut(&[u8], &mut Self) -> Option<PublishedRun>,
    ) -> (usize, bool) {
        let mut consumed = 0;
        while let Some(run) = publish(&input[consumed..], self) {
            consumed += run.bytes;
            if self.is_check_due(&run, consumed) {
                return (consumed, true);
            }
        }
        (consumed, false)
    }

    /// Whether [`must_pause`](Context::must_pause) must be asked after this run, `consumed` bytes after it was last
    /// asked. Not after each message to a single receiver, which adds no more output than it was input.
    pub(crate) fn is_check_due(&self, run: &PublishedRun, consumed: usize) -> bool {
        let is_spent = self.parts.delivery.look_ups.are_spent();
        run.receivers > 1 || consumed >= RUN_CHECK_BYTES || is_spent
    }
}

/// Subscriptions of this connection. After a change the connection waits at the barrier: until all shards know the
/// change, its output is not written and it is not read.
impl Context<'_> {
    /// Whether the connection has any subscription.
    pub(crate) fn listens(&self) -> bool {
        self.parts.broker.listens(self.parts.conn)
    }

    /// Number of its subscriptions of this kind.
    pub(crate) fn count(&self, kind: FilterKind) -> usize {
        self.parts.broker.count(self.parts.conn, kind)
    }

    /// Number of its subscriptions of all kinds.
    pub(crate) fn count_all(&self) -> usize {
        self.parts.broker.count_all(self.parts.conn)
    }

    /// Names of its subscriptions of this kind.
    pub(crate) fn names(&self, kind: FilterKind) -> Vec<Box<[u8]>> {
        self.parts.broker.names(self.parts.conn, kind)
    }

    /// Names of this kind among the subscriptions before an index, from the last on: at most so many, among at most four
    /// times as many that are looked at. Gives the index before which the rest is.
    pub(crate) fn names_before(
        &self,
        from: usize,
        kind: FilterKind,
        most: usize,
    ) -> (Vec<Box<[u8]>>, usize) {
        self.parts
            .broker
            .names_before(self.parts.conn, from, kind, most)
    }

    /// Adds a subscription under the client's own number for it. `Ok(false)` if it exists already. After an error
    /// nothing has changed.
    pub(crate) fn subscribe(&mut self, number: u32, filter: Filter<'_>) -> Result<bool, Refusal> {
        self.parts.settle();
        let (member, form) = (self.member(number), self.form());
        let subscribed = self.parts.broker.subscribe(member, form, filter);
        // To refuse one may have cost as much as to make it.
        self.changes += usize::from(subscribed.is_err());
        let is_new = subscribed?;
        if is_new {
            self.interest_changed();
        }
        Ok(is_new)
    }

    /// Removes a subscription; false if there was none.
    pub(crate) fn unsubscribe(&mut self, number: u32, filter: Filter<'_>) -> bool {
        self.parts.settle();
        let (member, form) = (self.member(number), self.form());
        let was_there = self.parts.broker.unsubscribe(member, form, filter);
        if was_there {
            self.interest_changed();
        }
        was_there
    }

    /// Removes all subscriptions.
    pub(crate) fn unsubscribe_all(&mut self) {
        if self.listens() {
            self.parts.settle();
            self.parts.broker.leave(self.parts.conn, self.form());
            self.interest_changed();
        }
    }

    /// Begins to remove all subscriptions; gives their number. Those in queue groups end at once; events on their way
    /// to the others are still delivered until [`end_drain`](Context::end_drain), which is called after the barrier.
    pub(crate) fn begin_drain(&mut self) -> usize {
        self.parts.settle();
        let count = self.count_all();
        if count > 0 {
            self.parts
                .broker
                .begin_to_leave(self.parts.conn, self.form());
            self.interest_changed();
        }
        count
    }

    /// Ends what [`begin_drain`](Context::begin_drain) began.
    pub(crate) fn end_drain(&mut self) {
        self.parts.settle();
        self.parts.broker.leave(self.parts.conn, self.form());
    }

    /// Whether it waits at the barrier: not all shards know its changes of subscriptions.
    pub(crate) fn waits_for_barrier(&self) -> bool {
        self.parts.blocked.barrier.is_some()
    }

    /// From now on the connection gets events published to `$all`.
    pub(crate) fn hear_all(&mut self) {
        self.parts.outboxes.hear_all(self.parts.conn);
    }

    /// Sets the slow consumer policy.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.parts.outboxes.set_policy(self.parts.conn, policy);
    }

    /// Changes the form in which it takes events, including events deferred during a reply.
    pub(crate) fn change_form(&mut self, form: Form) {
        let (conn, before) = (self.parts.conn, self.form());
        if before == form {
            return;
        }
        self.parts.settle();
        self.parts.broker.change_form(conn, before, form);
        self.parts.outboxes.change_form(conn, form);
    }

    fn member(&self, number: u32) -> Member {
        let conn = self.parts.conn;
        Member { conn, number }
    }

    fn interest_changed(&mut self) {
        self.changes += 1;
        let Parts {
            conn,
            identity,
            interest,
            blocked,
            counters,
            ..
        } = &mut self.parts;
        let is_noted = blocked.barrier == Some(interest.next_number());
        if !interest.is_alone() && !is_noted {
            blocked.barrier = Some(interest.wait(*conn, identity.client));
            counters.barriers += 1;
        }
    }
}

/// Subscriptions that the client names (sids of NATS). Each message carries the name of its subscription.
impl Context<'_> {
    /// Whether a subscription of this name exists.
    pub(crate) fn has_named(&self, name: &[u8]) -> bool {
        let sids = &self.parts.delivery.named.sids;
        sids.find(self.parts.conn, name).is_some()
    }

    /// Adds a subscription under a name that must be new. `takes_headers`: whether its client takes headers.
    pub(crate) fn subscribe_named(
        &mut self,
        name: &[u8],
        filter: Filter<'_>,
        takes_headers: bool,
    ) -> Result<(), Refusal> {
        let number = self.parts.delivery.named.sids.next_number();
        self.subscribe(number, filter)?;
        // invariant: it has just been subscribed to.
        let filter = self.parts.broker.filters().find(filter).expect("a filter");
        let sid = Sid::new(self.parts.conn, name, filter, takes_headers);
        self.parts.delivery.named.sids.insert(sid);
        Ok(())
    }

    /// Ends a subscription after `after` messages, counted from its first, or now if it has had them or `after` is 0.
    /// Does nothing if the name is unknown.
    pub(crate) fn unsubscribe_named(&mut self, name: &[u8], after: u64) {
        self.parts.settle();
        let Parts {
            conn,
            delivery,
            broker,
            ..
        } = &mut self.parts;
        let Some(number) = delivery.named.sids.find(*conn, name) else {
            return;
        };
        let goes_on = after > 0 && delivery.named.sids.end_after(number, after);
        if !goes_on {
            delivery.named.end_sid(number, broker);
            self.interest_changed();
        }
    }

    /// The name of one of this connection's subscriptions that matches a topic.
    pub(crate) fn name_for(&self, topic: &[u8]) -> Option<Box<[u8]>> {
        let Parts {
            broker, delivery, ..
        } = &self.parts;
        let mut number = None;
        broker.filters().matching(Space::Topic, topic, |filter| {
            let mut members = broker.filters().entry(filter).members.iter();
            let own = members.find(|member| member.conn == self.parts.conn);
            number = number.or(own.map(|member| member.number));
        });
        Some(delivery.named.sids.get(number?).name.clone())
    }
}

/// Counts over all subscriptions of the node.
impl Context<'_> {
    /// Number of subscribers of exactly this filter, on all shards.
    pub(crate) fn listeners(&self, filter: Filter<'_>) -> u64 {
        self.parts.broker.listeners(filter)
    }

    /// Number of different globs with subscribers.
    pub(crate) fn active_globs(&self) -> usize {
        self.parts.broker.active_globs()
    }

    /// Number of different filters of this kind.
    pub(crate) fn filters(&self, kind: FilterKind) -> usize {
        self.parts.broker.filters().count(kind)
    }
}

/// Calls to shards; their answers go to [`Session::answered`](crate::session::Session::answered). In a protocol that
/// answers in order, later replies wait behind the reply slots of calls; a session waits for its calls before it
/// carries out what others can see.
impl Context<'_> {
    /// Whether any call is not answered.
    pub(crate) fn has_calls(&self) -> bool {
        *self.parts.calls_waiting > 0
    }

    /// Stops reading the connection until all its calls are answered.
    pub(crate) fn wait_for_calls(&mut self) {
        self.parts.blocked.calls = Some(0);
    }

    /// Stops reading the connection until one of its calls is answered.
    pub(crate) fn wait_for_a_call(&mut self) {
        assert!(self.has_calls(), "nothing is asked");
        self.parts.blocked.calls = Some(*self.parts.calls_waiting - 1);
    }

    /// Whether calls before a request must be answered first: then the connection is not read until they are.
    pub(crate) fn must_wait_for_calls(&mut self) -> bool {
        let must_wait = self.has_calls();
        if must_wait {
            self.wait_for_calls();
        }
        must_wait
    }

    /// Begins a call. `None` at a cap on calls: nothing was asked, and the session asks again when the connection is
    /// resumed.
    pub(crate) fn ask(&mut self, round: Round, written: Written) -> Option<CallId> {
        self.begin_call((round, None), written)
    }

    fn begin_call(&mut self, asked: (Round, Option<ShardId>), written: Written) -> Option<CallId> {
        if !self.may_call() {
            return None;
        }
        let (asker, now_ns) = (self.asker(), self.now().monotonic_ns);
        let call = self.parts.calls.ask(asker, asked, written, now_ns);
        self.note_call(call);
        call
    }

    fn asker(&self) -> (ConnId, ClientId) {
        (self.parts.conn, self.client())
    }

    /// Whether there is no cap on calls in the way. If there is, the connection waits for fewer.
    fn may_call(&mut self) -> bool {
        let asker = self.asker();
        let may_call = *self.parts.calls_waiting < CALLS_MAX && self.parts.calls.has_room(asker);
        if !may_call {
            self.parts.blocked.calls = Some(CALLS_MAX / 2);
        }
        may_call
    }

    fn note_call(&mut self, call: Option<CallId>) {
        let Some(call) = call else { return };
        *self.parts.calls_waiting += 1;
        if self.form().answers_in_order() {
            self.parts.outboxes.reserve_slot(self.parts.conn, call);
        }
    }

    /// Asks all shards the same query in one call.
    pub(crate) fn ask_all(&mut self, query: &Query, written: Written) -> Option<CallId> {
        let shards = (0..self.settings().shards).map(ShardId);
        let round = shards.map(|shard| (shard, query.clone())).collect();
        self.ask(round, written)
    }

    /// Sets the next round of a call that is being answered.
    pub(crate) fn ask_on(&mut self, call: CallId, round: Round) {
        self.parts.calls.ask_on((self.parts.conn, call), round);
    }

    /// Sets how many bytes of output a call counts for until its reply is written, for what the session keeps of the
    /// answers.
    pub(crate) fn reserve(&mut self, call: CallId, bytes: usize) {
        self.parts
            .outboxes
            .set_reserved(self.parts.conn, call, bytes);
    }

    /// Appends to a reply that is written when it is whole; gives its length so far, in bytes.
    pub(crate) fn spool(&mut self, call: CallId, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.parts.outboxes.spool(self.parts.conn, call, encode)
    }

    /// Drops the spooled part of a reply, to write another reply instead.
    pub(crate) fn drop_spooled(&mut self, call: CallId) {
        self.parts.outboxes.drop_spooled(self.parts.conn, call);
    }

    /// Writes the next part of a streamed reply.
    pub(crate) fn stream(&mut self, call: CallId, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.stream(self.parts.conn, call, encode);
    }

    /// Ends a reply: writes `head`, then what was spooled.
    pub(crate) fn end_call(&mut self, call: CallId, head: &[u8]) {
        self.settle_for_listener();
        self.parts.outboxes.end_slot(self.parts.conn, call, head);
    }
}

/// What state workers are asked and what they keep. Both are calls, answered like those to shards.
impl Context<'_> {
    /// Publishes an event whose publisher is told when it is stored: subscribers get it at once, and the worker that keeps
    /// it answers the call, behind what this connection published before.
    pub(crate) fn publish_stored(&mut self, event: Event<'_>) -> Stored {
        if self.waits_for_barrier() {
            return Stored::Held;
        }
        let (delivery, mut egress) = self.parts.delivery();
        let (worker, full) = match event.space {
            Space::Topic => match delivery.keeper(&mut egress, event.topic) {
                Some(keeper) => keeper,
                None => return Stored::NoStream,
            },
            Space::ShardChannel => return Stored::NoStream,
        };
        if full.is_some_and(|full| !self.has_room_at(full)) || !self.may_call() {
            return Stored::Held;
        }
        let call = self.send(worker);
        let (delivery, mut egress) = self.parts.delivery();
        let subscriptions = delivery.publish_stored(&mut egress, (worker, call), event);
        self.note_published(event.volume());
        Stored::Asked(call.1, subscriptions)
    }

    /// Like [`publish_run`](Context::publish_run), for a run whose publisher is told when it is stored: one call and one
    /// record for all of it. `None` also if no stream keeps the topic or something is full, which
    /// [`publish_stored`](Context::publish_stored) says.
    pub(crate) fn publish_stored_run(
        &mut self,
        head: &Head<'_>,
        input: &[u8],
        payload_max: usize,
    ) -> Option<(PublishedRun, CallId)> {
        if self.waits_for_barrier() || topic::check_name(head.topic).is_err() {
            return None;
        }
        let (delivery, mut egress) = self.parts.delivery();
        let (worker, full) = delivery.keeper(&mut egress, head.topic)?;
        if full.is_some() || !self.may_call() {
            return None;
        }
        // The call is made once there is a run.
        let call = (self.parts.conn, self.parts.calls.next_id());
        self.parts.mailboxes.push_ack(worker, call);
        let Some(published) = self.publish_run(head, input, payload_max) else {
            self.parts.mailboxes.take_back_ack(worker);
            return None;
        };
        assert_eq!(self.send(worker), call, "a call was made meanwhile");
        Some((published, call.1))
    }

    /// The state worker of a partition; `None` if this node keeps nothing.
    pub(crate) fn worker_of(&self, partition: u16) -> Option<ShardId> {
        let Settings {
            shards, workers, ..
        } = *self.settings();
        let worker = partition.checked_rem(workers)?;
        Some(ShardId(shards + worker))
    }

    /// Asks a state worker, behind what this connection published before if the answer is short. `None` if the worker is
    /// behind, or at a cap on calls: nothing was asked, and the session asks again when the connection is resumed. The
    /// answer is an [`Answer::State`](crate::command::Answer::State), or says that the worker is gone; where it is a
    /// part, the session [asks on](Context::ask_on) for the next with the bytes that it says.
    pub(crate) fn ask_state(
        &mut self,
        worker: ShardId,
        request: Bytes,
        written: Written,
    ) -> Option<CallId> {
        assert!(
            self.parts.mailboxes.is_worker(worker),
            "{worker:?} keeps nothing"
        );
        if !self.has_room_at(worker) {
            return None;
        }
        if written != Written::Short {
            let round = vec![(worker, Query::State(request))];
            return self.begin_call((round, Some(worker)), written);
        }
        if !self.may_call() {
            return None;
        }
        let call = self.send(worker);
        self.parts.mailboxes.push_ask(worker, call, request);
        Some(call.1)
    }

    /// Sets the next round of a call to a worker that is being answered, if the worker may wait long with its answer. Other
    /// calls do not wait for it.
    pub(crate) fn wait_on(&mut self, call: CallId, worker: ShardId, request: Bytes) {
        let key = (self.parts.conn, call);
        let is_gone = self.parts.mailboxes.is_closed(worker);
        self.parts.calls.wait_on(key, is_gone);
        self.parts.mailboxes.push_ask(worker, key, request);
    }

    /// Whether a peer has room. If not, the connection waits for it.
    fn has_room_at(&mut self, peer: ShardId) -> bool {
        let has_room = self.parts.mailboxes.has_room(peer);
        if !has_room {
            self.parts.blocked.room = Some(peer);
            self.parts.counters.stalled_publishers += 1;
        }
        has_room
    }

    /// Makes a call to a worker, whose record the caller pushes now.
    fn send(&mut self, worker: ShardId) -> CallKey {
        let (asker, now_ns) = (self.asker(), self.now().monotonic_ns);
        let is_gone = self.parts.mailboxes.is_closed(worker);
        let call = self.parts.calls.send(asker, worker, is_gone, now_ns);
        self.note_call(Some(call));
        (self.parts.conn, call)
    }
}

/// Replies. If the client has subscriptions, pending events are delivered first.
impl Context<'_> {
    /// Appends a reply, framed as the connection's form needs it.
    pub(crate) fn reply(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.reply(self.parts.conn, encode);
    }

    /// Appends the same reply `times` times.
    pub(crate) fn reply_repeated(&mut self, times: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        let conn = self.parts.conn;
        self.parts.outboxes.reply_repeated(conn, times, encode);
    }

    /// Appends bytes without framing, such as a WebSocket pong or an HTTP response.
    pub(crate) fn reply_bare(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.reply_bare(self.parts.conn, encode);
    }

    /// Ends a reply of several parts: appends the events of other clients that were deferred meanwhile.
    pub(crate) fn end_reply(&mut self) {
        self.parts.outboxes.append_deferred(self.parts.conn);
    }

    /// What must happen before the next request is carried out, if anything: the output is flushed, other connections
    /// have their turn, or the connection is held because its client does not take its replies (back-pressure).
    /// `guest_cap`: a smaller cap on waiting output in bytes, for clients that have yet to authenticate.
    pub(crate) fn must_pause(&mut self, guest_cap: Option<usize>) -> Option<Then> {
        let now_ns = self.parts.now.monotonic_ns;
        let Parts {
            outboxes,
            delivery,
            conn,
            ..
        } = &mut self.parts;
        if self.changes >= CHANGES_AT_ONCE || delivery.look_ups.are_spent() {
            return Some(Then::Yield);
        }
        if delivery.put_off.waits(Source::Conn(*conn)) {
            // The end of the input marks it as blocked.
            return Some(Then::Hold);
        }
        if let Some(subscriber) = outboxes.take_crowded()
            && delivery.put_off.stall(*conn, subscriber, outboxes, now_ns)
        {
            self.parts.counters.stalled_for_subscribers += 1;
            return Some(Then::Hold);
        }
        if outboxes.should_flush(delivery.pending()) {
            return Some(Then::Flush);
        }
        let waiting = outboxes.outbox(*conn).len();
        let is_guest_full = guest_cap.is_some_and(|cap| waiting >= cap);
        if is_guest_full || outboxes.is_behind(*conn) {
            self.parts.blocked.output = true;
            self.parts.counters.stalled_readers += 1;
            return Some(Then::Hold);
        }
        None
    }

    /// Delivers pending events, when the input has been handled.
    pub(crate) fn settle(&mut self) {
        self.parts.settle();
    }

    fn settle_for_listener(&mut self) {
        if self.listens() {
            self.parts.settle();
        }
    }
}
