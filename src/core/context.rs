//! What sessions do with the broker, as verbs.
//!
//! Owns the order around them, which no session can get wrong: what gathers is delivered before who listens changes and
//! before a listener is answered; whoever's subscriptions changed waits at the barrier; whoever waits there publishes
//! nothing. Must not know protocols. Start at [`Context::publish`] and [`Context::subscribe`].

use crate::calls::Calls;
use crate::command::{
    CallId, ClientId, CloseReason, ConnId, Event, Filter, FilterKind, Form, Member, Now, Query,
    Refusal, Round, ShardId, Space, Written,
};
use crate::counters::Counters;
use crate::delivery::{Delivery, Egress, Published, PublishedRun};
use crate::form::sids::Sid;
use crate::limits::{CALLS_MAX, CHANGES_AT_ONCE, RUN_CHECK_BYTES};
use crate::mailbox::Mailboxes;
use crate::outbox::Outboxes;
use crate::routing::broker::Broker;
use crate::routing::interest::Interest;
use crate::settings::{Identity, Settings};
use crate::tree::links::Links;
use crate::tree::state::Tree;
use sapwood_wire::native::Policy;
use sapwood_wire::resp::Parser;
use sapwood_wire::run::Head;
use sapwood_wire::scope::{Audience, Scope, ScopeError};
use sapwood_wire::topic;

/// Why a connection is not read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// Its changes of interest are not known to all shards yet: the number of the last.
    pub barrier: Option<u64>,
    /// This shard is behind with what the connection published.
    pub room: Option<ShardId>,
    /// It waits for its calls: it goes on once so many or fewer are not answered.
    pub calls: Option<u32>,
    /// It does not take its replies.
    pub output: bool,
    /// A lane waits for news about its link.
    pub link: bool,
}

impl Blocked {
    pub(crate) fn any(self) -> bool {
        self != Blocked::default()
    }
}

/// What is to happen after a session handled input.
#[derive(Debug)]
pub(crate) enum Then {
    /// Read on; of use once so many bytes stand behind what was consumed.
    Read { needed: usize },
    /// Do not read on before the connection is named again.
    Hold,
    /// Write what gathered, then offer the rest again.
    Flush,
    /// Offer the rest again when others have had their turn, whether or not changes of interest are known by then.
    Yield,
    /// The connection is another shard's: nothing was consumed.
    Move(ShardId),
    /// Write what stands in the outbox, then close.
    Close(CloseReason),
}

/// How much of the input a session consumed, and what follows.
#[derive(Debug)]
pub(crate) struct SessionStep {
    pub consumed: usize,
    pub then: Then,
}

/// Memory that sessions use within one call and leave empty, so that they need none of their own.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// For a request of Redis that stands whole in the input.
    pub resp: Parser,
    /// For a message of a WebSocket.
    pub message: Vec<u8>,
    /// For reply topic and headers of an event that came in another form than the native one.
    pub attributes: Vec<u8>,
}

/// The disjoint parts of a shard that handling one connection's input works on.
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
    pub counters: &'a mut Counters,
    pub scratch: &'a mut Scratch,
    /// Events that this connection has published.
    pub events_in: &'a mut u64,
    /// Calls of this connection that are not answered.
    pub calls_waiting: &'a mut u32,
}

impl Parts<'_> {
    /// What a publish goes through, and the delivery itself.
    pub(crate) fn delivery(&mut self) -> (&mut Delivery, Egress<'_>) {
        let egress = Egress {
            broker: self.broker,
            outboxes: self.outboxes,
            mailboxes: self.mailboxes,
            links: self.links,
        };
        (self.delivery, egress)
    }

    /// Delivers what gathers. To be called before anything changes who listens.
    pub(crate) fn settle(&mut self) {
        self.delivery.settle(self.broker, self.outboxes);
    }
}

/// What a session works with while it handles input of its connection.
pub(crate) struct Context<'a> {
    parts: Parts<'a>,
    /// Subscriptions that came or went in this call of the session.
    changes: usize,
}

impl<'a> Context<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Context<'a> {
        Context { parts, changes: 0 }
    }

    /// What the broker is and allows.
    pub(crate) fn settings(&self) -> &'a Settings {
        self.parts.settings
    }

    /// What the link layer works on, which is no client of the broker but a part of it.
    pub(crate) fn for_links(&mut self) -> &mut Parts<'a> {
        &mut self.parts
    }
}

/// Who the client is, what the broker is, and memory to work in.
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

    /// The form that this connection takes events in.
    pub(crate) fn form(&self) -> Form {
        self.parts.outboxes.outbox(self.parts.conn).form
    }

    /// What shows in the counters of the shard.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        self.parts.counters
    }
}

/// Publishing.
impl Context<'_> {
    /// Whether clients may publish to this name.
    pub(crate) fn check_topic(&self, space: Space, name: &[u8]) -> Result<(), Refusal> {
        topic::check_name(name).map_err(Refusal::Name)?;
        let reserved = Err(Refusal::Scope(ScopeError::Reserved));
        if space == Space::ShardChannel && topic::is_reserved(name) {
            return reserved;
        }
        match Scope::parse(name).map_err(Refusal::Scope)?.audience {
            Audience::All if !self.settings().may_broadcast => reserved,
            _ => Ok(()),
        }
    }

    /// Publishes an event; gives the matching subscriptions on this node, or `None` if nothing was done and the
    /// same is to be done again once the connection may go on.
    pub(crate) fn publish(&mut self, event: Event<'_>) -> Option<u64> {
        self.publish_except(None, event)
    }

    /// The same for a publisher that must not hear itself.
    pub(crate) fn publish_to_others(&mut self, event: Event<'_>) -> Option<u64> {
        let conn = self.parts.conn;
        self.publish_except(Some(conn).filter(|_| self.listens()), event)
    }

    fn publish_except(&mut self, except: Option<ConnId>, event: Event<'_>) -> Option<u64> {
        if self.waits_for_barrier() {
            // Who hears this event may answer at once: what this client asked for stands first.
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
                self.parts.counters.events_published += 1;
                *self.parts.events_in += 1;
                Some(subscriptions)
            }
        }
    }

    /// Whether the event that was just published may be heard on another node.
    pub(crate) fn is_heard_remotely(&self) -> bool {
        self.parts.delivery.is_heard_remotely()
    }

    /// Publishes the run with this head at the start of the input. `None`, and nothing is done, if
    /// what stands there must be checked or delivered one by one.
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
        self.parts.counters.events_published += published.events as u64;
        *self.parts.events_in += published.events as u64;
        self.parts.counters.commands += published.events as u64;
        Some(published)
    }

    /// Publishes run after run from the start of the input, as `publish` finds them; gives their bytes, and
    /// whether [`must_pause`](Context::must_pause) is to be asked before anything else is carried out.
    pub(crate) fn publish_runs(
        &mut self,
        input: &[u8],
        mut publish: impl FnMut(&[u8], &mut Self) -> Option<PublishedRun>,
    ) -> (usize, bool) {
        let mut consumed = 0;
        while let Some(run) = publish(&input[consumed..], self) {
            consumed += run.bytes;
            if Context::is_check_due(&run, consumed) {
                return (consumed, true);
            }
        }
        (consumed, false)
    }

    /// Whether [`must_pause`](Context::must_pause) is to be asked again behind this run, if so many bytes
    /// were consumed since: not for each message to one receiver, which can add no more than it brought.
    pub(crate) fn is_check_due(run: &PublishedRun, consumed: usize) -> bool {
        run.receivers > 1 || consumed >= RUN_CHECK_BYTES
    }
}

/// Subscriptions of this connection. Whoever changed them waits at the barrier: what it is answered is neither written
/// nor followed by anything until all shards know.
impl Context<'_> {
    /// Whether the connection has any subscription.
    pub(crate) fn listens(&self) -> bool {
        self.parts.broker.listens(self.parts.conn)
    }

    /// How many subscriptions of this kind it has.
    pub(crate) fn count(&self, kind: FilterKind) -> usize {
        self.parts.broker.count(self.parts.conn, kind)
    }

    /// How many of any kind it has.
    pub(crate) fn count_all(&self) -> usize {
        self.parts.broker.count_all(self.parts.conn)
    }

    /// The names of those of this kind.
    pub(crate) fn names(&self, kind: FilterKind) -> Vec<Box<[u8]>> {
        self.parts.broker.names(self.parts.conn, kind)
    }

    /// Adds a subscription under the client's own number for it; `Ok(false)` if it had that already.
    pub(crate) fn subscribe(&mut self, number: u32, filter: Filter<'_>) -> Result<bool, Refusal> {
        self.parts.settle();
        let (member, form) = (self.member(number), self.form());
        let is_new = self.parts.broker.subscribe(member, form, filter)?;
        if is_new {
            self.interest_changed();
        }
        Ok(is_new)
    }

    /// Takes a subscription away; false if there was none.
    pub(crate) fn unsubscribe(&mut self, number: u32, filter: Filter<'_>) -> bool {
        self.parts.settle();
        let (member, form) = (self.member(number), self.form());
        let was_there = self.parts.broker.unsubscribe(member, form, filter);
        if was_there {
            self.interest_changed();
        }
        was_there
    }

    /// Takes all subscriptions away.
    pub(crate) fn unsubscribe_all(&mut self) {
        if self.listens() {
            self.parts.settle();
            self.parts.broker.leave(self.parts.conn, self.form());
            self.interest_changed();
        }
    }

    /// Begins to take all subscriptions away; gives how many there are. What is on its way to them still comes until
    /// [`end_drain`](Context::end_drain), which is due when the barrier is over.
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

    /// Whether changes of its subscriptions are not known to all shards yet.
    pub(crate) fn waits_for_barrier(&self) -> bool {
        self.parts.blocked.barrier.is_some()
    }

    /// From now on it gets what is published to all.
    pub(crate) fn hear_all(&mut self) {
        self.parts.outboxes.hear_all(self.parts.conn);
    }

    /// Chooses what happens when it reads too slowly.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.parts.outboxes.set_policy(self.parts.conn, policy);
    }

    /// It takes events in another form from now on; those that were kept aside while it is being answered, too.
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

/// Subscriptions that the client names, each of which its messages name in turn.
impl Context<'_> {
    /// Whether there is one of this name.
    pub(crate) fn has_named(&self, name: &[u8]) -> bool {
        let sids = &self.parts.delivery.named.sids;
        sids.find(self.parts.conn, name).is_some()
    }

    /// Adds a subscription under a name that is new; whether its client takes headers.
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

    /// Ends the subscription of this name after so many messages, counted from its first, or now. Unknown ones are none.
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

    /// The name of one of its subscriptions that matches a topic, if any does.
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

/// What can be known of all subscriptions of the node.
impl Context<'_> {
    /// Subscribers of exactly this name, on all shards.
    pub(crate) fn listeners(&self, filter: Filter<'_>) -> u64 {
        self.parts.broker.listeners(filter)
    }

    /// Different globs that anyone listens to.
    pub(crate) fn active_globs(&self) -> usize {
        self.parts.broker.active_globs()
    }

    /// Different filters of this kind.
    pub(crate) fn filters(&self, kind: FilterKind) -> usize {
        self.parts.broker.filters().count(kind)
    }
}

/// Calls: what shards are asked, whose answers go to [`Session::answered`](crate::session::Session::answered). In a
/// protocol that answers in the order of its requests, what is replied meanwhile stands behind them; a session that
/// carries out what others can see waits for them first.
impl Context<'_> {
    /// Whether any is not answered.
    pub(crate) fn has_calls(&self) -> bool {
        *self.parts.calls_waiting > 0
    }

    /// The connection is not read on until all are answered.
    pub(crate) fn wait_for_calls(&mut self) {
        self.parts.blocked.calls = Some(0);
    }

    /// Asks shards; `None` if nothing was asked and the same is to be done again once the connection may go on.
    pub(crate) fn ask(&mut self, round: Round, written: Written) -> Option<CallId> {
        let asker = (self.parts.conn, self.client());
        if *self.parts.calls_waiting >= CALLS_MAX {
            self.parts.blocked.calls = Some(CALLS_MAX / 2);
            return None;
        }
        let now_ns = self.now().monotonic_ns;
        let Some(call) = self.parts.calls.ask(asker, round, written, now_ns) else {
            self.parts.blocked.calls = Some(CALLS_MAX / 2);
            return None;
        };
        *self.parts.calls_waiting += 1;
        if self.form().answers_in_order() {
            self.parts.outboxes.reserve_slot(self.parts.conn, call);
        }
        Some(call)
    }

    /// Asks all shards the same.
    pub(crate) fn ask_all(&mut self, query: &Query, written: Written) -> Option<CallId> {
        let shards = (0..self.settings().shards).map(ShardId);
        let round = shards.map(|shard| (shard, query.clone())).collect();
        self.ask(round, written)
    }

    /// Asks on in a call that is being answered.
    pub(crate) fn ask_on(&mut self, call: CallId, round: Round) {
        self.parts.calls.ask_on((self.parts.conn, call), round);
    }

    /// What a call keeps of answers until they are written counts as output.
    pub(crate) fn reserve(&mut self, call: CallId, bytes: usize) {
        self.parts
            .outboxes
            .set_reserved(self.parts.conn, call, bytes);
    }

    /// Appends to a reply that is written once it is whole; gives its length so far.
    pub(crate) fn spool(&mut self, call: CallId, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.parts.outboxes.spool(self.parts.conn, call, encode)
    }

    /// Drops what was spooled: the reply becomes another.
    pub(crate) fn drop_spooled(&mut self, call: CallId) {
        self.parts.outboxes.drop_spooled(self.parts.conn, call);
    }

    /// Writes the next part of a reply that is streamed.
    pub(crate) fn stream(&mut self, call: CallId, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.stream(self.parts.conn, call, encode);
    }

    /// A reply is whole: what was spooled, behind this head.
    pub(crate) fn end_call(&mut self, call: CallId, head: &[u8]) {
        self.settle_for_listener();
        self.parts.outboxes.end_slot(self.parts.conn, call, head);
    }
}

/// Answers. Events that the client heard before stand before them.
impl Context<'_> {
    /// Appends a reply, in the form of what is spoken.
    pub(crate) fn reply(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.reply(self.parts.conn, encode);
    }

    /// Appends the same reply so many times.
    pub(crate) fn reply_repeated(&mut self, times: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        let conn = self.parts.conn;
        self.parts.outboxes.reply_repeated(conn, times, encode);
    }

    /// Appends what belongs to the connection itself and not to what is spoken on it, such as a pong of WebSocket.
    pub(crate) fn reply_bare(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.settle_for_listener();
        self.parts.outboxes.reply_bare(self.parts.conn, encode);
    }

    /// A reply of several parts is whole: what other clients' events were kept aside for it follows.
    pub(crate) fn end_reply(&mut self) {
        self.parts.outboxes.append_deferred(self.parts.conn);
    }

    /// What must happen before another request is carried out, if anything: output is to be
    /// written, others have their turn, or the client does not take its replies, of which one that has yet to authenticate may leave fewer.
    pub(crate) fn must_pause(&mut self, guest_cap: Option<usize>) -> Option<Then> {
        let Parts {
            outboxes,
            delivery,
            conn,
            ..
        } = &self.parts;
        if self.changes >= CHANGES_AT_ONCE {
            return Some(Then::Yield);
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

    /// Delivers what gathers: the input is dealt with.
    pub(crate) fn settle(&mut self) {
        self.parts.settle();
    }

    fn settle_for_listener(&mut self) {
        if self.listens() {
            self.parts.settle();
        }
    }
}
