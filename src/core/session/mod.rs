//! One file a protocol: what a client sends becomes calls of the broker, what it is owed becomes bytes.
//!
//! A session owns what its protocol must remember of a connection. It must not know sockets,
//! shards or other connections. Start at [`Session::handle`].

mod listing;
pub(crate) mod native;
pub(crate) mod nats;
pub(crate) mod redis;
pub(crate) mod web;

use crate::command::{Answers, CallError, CallId, ClientRecord, CloseReason, ConnId, Form};
use crate::context::{Context, SessionStep};
use crate::outbox::Outboxes;
use crate::settings::{Identity, Settings};
use crate::tree::session::NodeSession;
use native::NativeSession;
use nats::NatsSession;
use redis::RedisSession;
use web::WebSession;

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
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        match self {
            Session::Redis(session) => session.handle(input, cx),
            Session::Native(session) => session.handle(input, cx),
            Session::Nats(session) => session.handle(input, cx),
            Session::Web(session) => session.handle(input, cx),
            Session::Node(session) => session.handle(input, cx.for_links()),
        }
    }

    /// Takes what a round of a call brought. The call is over unless the session [asks on](Context::ask_on).
    pub(crate) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        match self {
            Session::Redis(session) => session.answered(call, answers, cx),
            Session::Web(session) => session.answered(call, answers, cx),
            Session::Native(_) | Session::Nats(_) | Session::Node(_) => {
                unreachable!("this protocol asks nothing: {answers:?}")
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
    pub(crate) fn awaits_auth(&self) -> bool {
        match self {
            Session::Redis(session) => session.awaits_auth(),
            Session::Native(session) => session.awaits_auth(),
            Session::Nats(session) => session.awaits_auth(),
            Session::Web(session) => session.awaits_auth(),
            Session::Node(session) => session.awaits_auth(),
        }
    }

    /// Whether the client, let in before, has to authenticate anew since this was last asked.
    pub(crate) fn take_needs_auth(&mut self) -> bool {
        match self {
            Session::Redis(session) => session.take_needs_auth(),
            Session::Web(session) => session.take_needs_auth(),
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
