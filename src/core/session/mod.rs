//! One file a protocol: what a client sends becomes calls of the broker, what it is owed becomes bytes.
//!
//! A session owns what its protocol must remember of a connection. It must not know sockets,
//! shards or other connections. Start at [`Session::handle`].

pub(crate) mod form;
pub(crate) mod native;
pub(crate) mod nats;
pub(crate) mod node;
pub(crate) mod redis;
pub(crate) mod web;

use crate::Vitals;
use crate::broker::Broker;
use crate::command::{
    Answer, ClientId, ClientRecord, CloseReason, ConnId, Event, Form, Now, Query, Refusal, ShardId,
    Space,
};
use crate::counters::Counters;
use crate::delivery::{Delivery, Gathering, Published, PublishedRun, Ways};
use crate::handover::HandOvers;
use crate::interest::Interest;
use crate::limits::{Limits, RUN_CHECK_BYTES};
use crate::outbox::Outboxes;
use crate::tree::{Links, Tree};
use core::net::SocketAddr;
use native::NativeSession;
use nats::NatsSession;
use node::NodeSession;
use redis::RedisSession;
use sapwood_wire::resp::Parser;
use sapwood_wire::run::Head;
use sapwood_wire::scope::{Audience, Scope, ScopeError};
use sapwood_wire::topic;
use std::sync::Arc;
use web::WebSession;
pub use web::WebSettings;

/// What the broker calls itself where a protocol asks.
pub(crate) const BROKER: &str = concat!("sapwood/", env!("CARGO_PKG_VERSION"));

/// Why a connection is refused that is one too many.
const TOO_MANY_CONNECTIONS: &str = "this shard of the broker has as many connections as it may";

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 and RESP3.
    Redis,
    /// Sapwood's own.
    Native,
    /// The client protocol of NATS.
    Nats,
    /// HTTP, and what begins as it: WebSocket and server-sent events; and the JSON protocol by itself.
    Web,
    /// What nodes speak to each other, on a connection that was accepted.
    Node,
    /// The same on a connection that core asked for.
    NodeDialed {
        /// The number that core gave it.
        dial: u64,
    },
    /// A WebSocket whose opening is over: for a host that has its own HTTP.
    WebSocket {
        /// What is spoken on it.
        spoken: Spoken,
        /// The host has proved who the client is.
        is_known: bool,
    },
}

/// What is spoken in WebSocket messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Text commands: `sapwood.text`.
    Text,
    /// The JSON protocol: `sapwood.json`.
    Json,
    /// The native protocol: `sapwood.native`.
    Native,
    /// Every message is sent back.
    Echo,
}

impl Spoken {
    /// The form in which its events come.
    pub(crate) fn form(self) -> Form {
        match self {
            Spoken::Text | Spoken::Echo => Form::Text,
            Spoken::Json => Form::Json,
            Spoken::Native => Form::NativeMessages,
        }
    }
}

impl Protocol {
    /// The form that its connections take events in at first.
    pub(crate) fn form(self) -> Form {
        match self {
            Protocol::Redis => Form::Resp2,
            // Nodes take no events in the form of clients.
            Protocol::Native | Protocol::Node | Protocol::NodeDialed { .. } => Form::Native,
            Protocol::Nats => Form::Nats,
            Protocol::Web => Form::Sse,
            Protocol::WebSocket { spoken, .. } => spoken.form(),
        }
    }
}

/// What a connection must remember, by its protocol.
#[derive(Debug)]
pub(crate) enum Session {
    Redis(RedisSession),
    Native(NativeSession),
    Nats(NatsSession),
    Web(Box<WebSession>),
    Node(Box<NodeSession>),
}

/// What the shard is and allows, the same for all its connections.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub shard: ShardId,
    pub shards: u16,
    pub user: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub nats_payload_max: usize,
    pub web: WebSettings,
    pub may_broadcast: bool,
    pub vitals: Arc<Vitals>,
    /// The node has said that it will end.
    pub is_ending: bool,
    pub run_id: String,
    pub process_id: u32,
    pub started_wall_ms: u64,
    pub limits: Limits,
}

/// The user that there is if no other is configured.
const USER: &[u8] = b"default";

impl Settings {
    /// The name of the only user.
    pub(crate) fn user(&self) -> &[u8] {
        self.user.as_deref().unwrap_or(USER)
    }

    pub(crate) fn is_user(&self, name: &[u8]) -> bool {
        name == self.user()
    }

    /// Whether a client that says this is let in.
    pub(crate) fn is_let_in(&self, user: Option<&[u8]>, given: Option<&[u8]>) -> bool {
        let Some(password) = &self.password else {
            return true;
        };
        let is_user = user.is_none_or(|user| self.is_user(user));
        given.is_some_and(|given| is_equal(given, password)) && is_user
    }
}

/// Who a connection is, as far as its protocol does not say it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub client: ClientId,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// Compares without telling by its time where two passwords differ; only their lengths show.
pub(crate) fn is_equal(given: &[u8], wanted: &[u8]) -> bool {
    let pairs = given.iter().zip(wanted);
    let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
    given.len() == wanted.len() && difference == 0
}

/// Why a connection is not read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Its changes of interest are not known to all shards yet: the number of the last.
    pub barrier: Option<u64>,
    /// Another shard is behind with what it published.
    pub room: bool,
    /// The other shards are being asked for it.
    pub gather: bool,
    /// It does not take its replies.
    pub output: bool,
    /// A lane waits for news about its link.
    pub link: bool,
}

impl Holds {
    pub(crate) fn any(self) -> bool {
        self != Holds::default()
    }
}

/// What a session works with while it handles input.
pub(crate) struct Context<'a> {
    pub conn: ConnId,
    pub client: ClientId,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub now: Now,
    pub settings: &'a Settings,
    pub holds: &'a mut Holds,
    pub broker: &'a mut Broker,
    pub outboxes: &'a mut Outboxes,
    pub hand_overs: &'a mut HandOvers,
    pub interest: &'a mut Interest,
    pub links: &'a mut Links,
    pub tree: &'a mut Option<Box<Tree>>,
    pub delivery: &'a mut Delivery,
    pub counters: &'a mut Counters,
    pub parser: &'a mut Parser,
    /// Empty, for what is needed within one call.
    pub scratch: &'a mut Vec<u8>,
    /// Events that this connection has published.
    pub events_in: &'a mut u64,
}

impl Context<'_> {
    /// The parts that a publish goes through, and the delivery itself.
    pub(crate) fn delivery(&mut self) -> (&mut Delivery, Ways<'_>) {
        let ways = Ways {
            broker: self.broker,
            outboxes: self.outboxes,
            hand_overs: self.hand_overs,
            links: self.links,
        };
        (self.delivery, ways)
    }

    /// Publishes the run with this head at the start of the input. `None`, and nothing is done, if
    /// what stands there must be checked or delivered one by one. Who may hear itself settles before it is
    /// answered.
    pub(crate) fn publish_run(
        &mut self,
        head: &Head<'_>,
        input: &[u8],
        payload_max: usize,
    ) -> Option<PublishedRun> {
        // Who waits for a barrier waits.
        if self.holds.barrier.is_some() {
            return None;
        }
        let (delivery, mut ways) = self.delivery();
        let published = delivery.publish_run(&mut ways, head, input, payload_max)?;
        self.counters.events_published += published.events as u64;
        *self.events_in += published.events as u64;
        self.counters.commands += published.events as u64;
        Some(published)
    }

    /// The form that this connection takes events in.
    pub(crate) fn form(&self) -> Form {
        self.outboxes.outbox(self.conn).form
    }

    /// Whether clients may publish to this name.
    pub(crate) fn check_topic(&self, space: Space, name: &[u8]) -> Result<(), Refusal> {
        topic::check_name(name).map_err(Refusal::Name)?;
        let reserved = Err(Refusal::Scope(ScopeError::Reserved));
        if space == Space::ShardChannel && topic::is_reserved(name) {
            return reserved;
        }
        match Scope::parse(name).map_err(Refusal::Scope)?.audience {
            Audience::All if !self.settings.may_broadcast => reserved,
            _ => Ok(()),
        }
    }

    /// Publishes an event; gives the matching subscriptions on this node, or `None` if nothing was done and the
    /// same is to be done again once the connection may go on.
    pub(crate) fn publish_one(&mut self, event: Event<'_>) -> Option<u64> {
        if self.holds.barrier.is_some() {
            // Who hears this event may answer at once: what this client asked for stands first.
            return None;
        }
        let gathering = if self.broker.listens(self.conn) {
            Gathering::AtOnce
        } else {
            Gathering::Allowed
        };
        let (delivery, mut ways) = self.delivery();
        match delivery.publish(&mut ways, gathering, event) {
            Published::NoRoom => {
                self.holds.room = true;
                self.counters.stalled_publishers += 1;
                None
            }
            Published::To(subscriptions) => {
                self.counters.events_published += 1;
                *self.events_in += 1;
                Some(subscriptions)
            }
        }
    }

    /// To be called before this connection's subscriptions change.
    pub(crate) fn settle(&mut self) {
        self.delivery.settle(self.broker, self.outboxes);
    }

    /// To be called after they changed: what was answered waits until all shards know.
    pub(crate) fn interest_changed(&mut self) {
        let is_noted = self.holds.barrier == Some(self.interest.next_number());
        if !self.interest.is_alone() && !is_noted {
            self.holds.barrier = Some(self.interest.wait(self.conn, self.client));
            self.counters.barriers += 1;
        }
    }

    /// Whether [`must_pause`](Context::must_pause) is to be asked again behind this run, if so many bytes
    /// were consumed since: not for each message to one receiver, which can add no more than it brought.
    pub(crate) fn is_check_due(run: &PublishedRun, consumed: usize) -> bool {
        run.receivers > 1 || consumed >= RUN_CHECK_BYTES
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

    /// What must happen before another request is carried out, if anything: output is to be
    /// written, or the client does not take its replies, of which a guest may leave fewer.
    pub(crate) fn must_pause(&mut self, guest_cap: Option<usize>) -> Option<Then> {
        if self.outboxes.should_flush(self.delivery.pending()) {
            return Some(Then::Flush);
        }
        let waiting = self.outboxes.outbox(self.conn).len();
        let is_guest_full = guest_cap.is_some_and(|cap| waiting >= cap);
        if is_guest_full || self.outboxes.is_behind(self.conn) {
            self.holds.output = true;
            self.counters.stalled_readers += 1;
            return Some(Then::Hold);
        }
        None
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
    /// The connection is another shard's: nothing was consumed.
    Move(ShardId),
    /// Ask all shards; the answer goes to [`Session::answered`].
    Ask(Box<Query>),
    /// Write what stands in the outbox, then close.
    Close(CloseReason),
}

/// How much of the input a session consumed, and what follows.
#[derive(Debug)]
pub(crate) struct Handled {
    pub consumed: usize,
    pub then: Then,
}

impl Session {
    pub(crate) fn new(protocol: Protocol, settings: &Settings) -> Session {
        match protocol {
            Protocol::Redis => Session::Redis(RedisSession::new(settings)),
            Protocol::Native => Session::Native(NativeSession::new(false)),
            Protocol::Nats => Session::Nats(NatsSession::new(settings)),
            Protocol::Web => Session::Web(Box::new(WebSession::new())),
            Protocol::Node => Session::Node(Box::new(NodeSession::accepted())),
            Protocol::NodeDialed { .. } => unreachable!("the shard knows why it was dialed"),
            Protocol::WebSocket { spoken, is_known } => {
                let is_known = is_known || settings.password.is_none();
                Session::Web(Box::new(WebSession::opened(spoken, is_known)))
            }
        }
    }

    /// Carries out what stands in `input`, as far as it may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> Handled {
        match self {
            Session::Redis(session) => session.handle(input, cx),
            Session::Native(session) => session.handle(input, cx),
            Session::Nats(session) => session.handle(input, cx),
            Session::Web(session) => session.handle(input, cx),
            Session::Node(session) => session.handle(input, cx),
        }
    }

    /// Takes the answer to the question that [`Then::Ask`] asked.
    pub(crate) fn answered(&mut self, answer: Answer, cx: &mut Context<'_>) {
        match self {
            Session::Redis(session) => session.answered(answer, cx),
            Session::Web(session) => session.answered(answer, cx),
            Session::Native(_) | Session::Nats(_) | Session::Node(_) => {
                unreachable!("this protocol asks nothing: {answer:?}")
            }
        }
    }

    /// Says why the connection is closed, where the protocol has words for it.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        match self {
            Session::Redis(session) => session.say_why(reason, conn, outboxes),
            Session::Native(session) => session.say_why(reason, conn, outboxes),
            Session::Nats(session) => session.say_why(reason, conn, outboxes),
            Session::Web(session) => session.say_why(reason, conn, outboxes),
            Session::Node(_) => {}
        }
    }

    /// Says what the server says first, in protocols where that speaks first.
    pub(crate) fn greet(
        &self,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        match self {
            Session::Nats(session) => session.greet(settings, identity, conn, outboxes),
            Session::Web(session) => session.greet(conn, outboxes),
            Session::Node(session) => session.greet(conn, outboxes),
            Session::Redis(_) | Session::Native(_) => {}
        }
    }

    /// Says that the node will close all connections within so many milliseconds.
    pub(crate) fn announce_end(
        &self,
        milliseconds: u32,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        match self {
            Session::Redis(_) | Session::Node(_) => {}
            Session::Native(session) => session.announce_end(milliseconds, conn, outboxes),
            Session::Nats(session) => session.announce_end(settings, identity, conn, outboxes),
            Session::Web(session) => session.announce_end(milliseconds, conn, outboxes),
        }
    }

    /// Fills in what only the protocol knows of the client.
    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        match self {
            Session::Redis(session) => session.describe(record),
            Session::Native(session) => session.describe(record),
            Session::Nats(session) => session.describe(record),
            Session::Web(session) => session.describe(record),
            Session::Node(session) => session.describe(record),
        }
    }

    /// Whether the client still has to authenticate.
    pub(crate) fn is_guest(&self) -> bool {
        match self {
            Session::Redis(session) => session.is_guest(),
            Session::Native(session) => session.is_guest(),
            Session::Nats(session) => session.is_guest(),
            Session::Web(session) => session.is_guest(),
            Session::Node(session) => session.is_guest(),
        }
    }

    /// Whether the client, let in before, has to authenticate anew since this was last asked.
    pub(crate) fn take_became_guest(&mut self) -> bool {
        match self {
            Session::Redis(session) => session.take_became_guest(),
            Session::Web(session) => session.take_became_guest(),
            Session::Native(_) | Session::Nats(_) | Session::Node(_) => false,
        }
    }

    /// Whether a reply is written in part: other clients' events must wait for its end.
    pub(crate) fn is_replying(&self) -> bool {
        match self {
            Session::Redis(session) => session.is_replying(),
            Session::Native(_) | Session::Nats(_) | Session::Web(_) | Session::Node(_) => false,
        }
    }

    /// Drops what was begun and will not be finished: the connection is to be closed.
    pub(crate) fn forget_unfinished(&mut self) {
        match self {
            Session::Redis(session) => session.forget_unfinished(),
            Session::Web(session) => session.forget_unfinished(),
            Session::Node(session) => session.forget_unfinished(),
            Session::Native(_) | Session::Nats(_) => {}
        }
    }

    /// Bytes of memory that an unfinished transaction keeps.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Session::Redis(session) => session.kept_bytes(),
            Session::Web(session) => session.kept_bytes(),
            Session::Node(session) => session.kept_bytes(),
            Session::Native(_) | Session::Nats(_) => 0,
        }
    }
}
