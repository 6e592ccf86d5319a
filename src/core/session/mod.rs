//! One file for each protocol: turns the client's input into calls of the broker, and the results into bytes.
//!
//! A session owns the state that its protocol keeps for a connection. It must not know sockets, shards or other
//! connections. Start at [`Session::handle`].

mod listing;
pub(crate) mod native;
pub(crate) mod nats;
mod pending;
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

/// Name and version of the broker, where a protocol asks.
pub(crate) const BROKER: &str = concat!("sapwood/", env!("CARGO_PKG_VERSION"));

/// Text of the refusal of a connection at the cap.
const TOO_MANY_CONNECTIONS: &str = "this shard of the broker has as many connections as it may";

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 and RESP3.
    Redis,
    /// Sapwood's native protocol.
    Native,
    /// The client protocol of NATS.
    Nats,
    /// HTTP, with WebSocket and server-sent events; also the JSON protocol in lines.
    Web,
    /// The protocol between nodes, on an accepted connection.
    Node,
    /// The protocol between nodes, on a connection that core asked to be dialed.
    NodeDialed {
        /// The dial's number, given by core.
        dial: u64,
    },
    /// A WebSocket whose opening handshake is over: for a host with its own HTTP.
    WebSocket {
        /// The protocol of its messages.
        spoken: Spoken,
        /// Whether the host has authenticated the client.
        is_known: bool,
    },
}

/// Protocols of WebSocket messages, by sub-protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Text commands: `sapwood.text`.
    Text,
    /// The JSON protocol: `sapwood.json`.
    Json,
    /// The native protocol: `sapwood.native`.
    Native,
    /// No protocol: every message is sent back.
    Echo,
}

impl Spoken {
    /// Form in which its connections take events.
    pub(crate) fn form(self) -> Form {
        match self {
            Spoken::Text | Spoken::Echo => Form::Text,
            Spoken::Json => Form::Json,
            Spoken::Native => Form::NativeMessages,
        }
    }
}

impl Protocol {
    /// Form in which its connections take events at first.
    pub(crate) fn form(self) -> Form {
        match self {
            Protocol::Redis => Form::Resp2,
            // Nodes take no events in a client's form.
            Protocol::Native | Protocol::Node | Protocol::NodeDialed { .. } => Form::Native,
            Protocol::Nats => Form::Nats,
            Protocol::Web => Form::Sse,
            Protocol::WebSocket { spoken, .. } => spoken.form(),
        }
    }
}

/// State of a connection, by its protocol.
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

    /// Carries out the requests in `input`, as far as the connection may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        match self {
            Session::Redis(session) => session.handle(input, cx),
            Session::Native(session) => session.handle(input, cx),
            Session::Nats(session) => session.handle(input, cx),
            Session::Web(session) => session.handle(input, cx),
            Session::Node(session) => session.handle(input, cx.for_links()),
        }
    }

    /// Takes the answers of a round of a call. The call is over unless the session [asks on](Context::ask_on).
    pub(crate) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        match self {
            Session::Redis(session) => session.answered(call, answers, cx),
            Session::Web(session) => session.answered(call, answers, cx),
            Session::Native(session) => session.answered(call, answers, cx),
            Session::Nats(_) | Session::Node(_) => {
                unreachable!("this protocol asks nothing: {answers:?}")
            }
        }
    }

    /// Writes why the connection is closed, in protocols with a message for it.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        match self {
            Session::Redis(session) => session.say_why(reason, conn, outboxes),
            Session::Native(session) => session.say_why(reason, conn, outboxes),
            Session::Nats(session) => session.say_why(reason, conn, outboxes),
            Session::Web(session) => session.say_why(reason, conn, outboxes),
            Session::Node(_) => {}
        }
    }

    /// Writes the server's first message, in protocols where the server speaks first.
    pub(crate) fn greet(
        &mut self,
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

    /// Writes the addresses of other nodes, in protocols with a message for them.
    pub(crate) fn tell_urls(
        &mut self,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        if let Session::Nats(session) = self {
            session.tell_urls(settings, identity, conn, outboxes);
        }
    }

    /// Writes that the node will close all connections within `milliseconds`, in protocols with a message for it.
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

    /// Fills in the fields that only the protocol knows.
    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        match self {
            Session::Redis(session) => session.describe(record),
            Session::Native(session) => session.describe(record),
            Session::Nats(session) => session.describe(record),
            Session::Web(session) => session.describe(record),
            Session::Node(session) => session.describe(record),
        }
    }

    /// Whether the client has yet to authenticate.
    pub(crate) fn awaits_auth(&self) -> bool {
        match self {
            Session::Redis(session) => session.awaits_auth(),
            Session::Native(session) => session.awaits_auth(),
            Session::Nats(session) => session.awaits_auth(),
            Session::Web(session) => session.awaits_auth(),
            Session::Node(session) => session.awaits_auth(),
        }
    }

    /// Whether the client must authenticate again since this was last asked, although it was let in before.
    pub(crate) fn take_needs_auth(&mut self) -> bool {
        match self {
            Session::Redis(session) => session.take_needs_auth(),
            Session::Web(session) => session.take_needs_auth(),
            Session::Native(_) | Session::Nats(_) | Session::Node(_) => false,
        }
    }

    /// Whether a reply is written in part, so that other clients' events are deferred until its end.
    pub(crate) fn is_replying(&self) -> bool {
        match self {
            Session::Redis(session) => session.is_replying(),
            Session::Native(_) | Session::Nats(_) | Session::Web(_) | Session::Node(_) => false,
        }
    }

    /// Drops unfinished requests and replies, because the connection is being closed.
    pub(crate) fn forget_unfinished(&mut self) {
        match self {
            Session::Redis(session) => session.forget_unfinished(),
            Session::Web(session) => session.forget_unfinished(),
            Session::Node(session) => session.forget_unfinished(),
            Session::Native(_) | Session::Nats(_) => {}
        }
    }

    /// Bytes of memory kept for unfinished input: a transaction, a body, a message, a line or a frame.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Session::Redis(session) => session.kept_bytes(),
            Session::Web(session) => session.kept_bytes(),
            Session::Node(session) => session.kept_bytes(),
            Session::Native(_) | Session::Nats(_) => 0,
        }
    }
}
