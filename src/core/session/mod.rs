//! One file a protocol: what a client sends becomes calls of the broker, what it is owed becomes bytes.
//!
//! A session owns what its protocol must remember of a connection. It must not know sockets,
//! shards or other connections. Start at [`Session::handle`].

pub(crate) mod redis;

use crate::broker::Broker;
use crate::command::{
    Answer, ClientId, CloseReason, ConnId, FilterKind, Form, Now, Query, ShardId,
};
use crate::counters::Counters;
use crate::delivery::{Delivery, Ways};
use crate::handover::HandOvers;
use crate::interest::Interest;
use crate::limits::Limits;
use crate::outbox::Outboxes;
use core::net::SocketAddr;
use redis::RedisSession;
use sapwood_wire::resp::{self, Parser, Version};

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 and RESP3.
    Redis,
}

/// What a connection must remember, by its protocol.
#[derive(Debug)]
pub(crate) enum Session {
    Redis(RedisSession),
}

/// What the shard is and allows, the same for all its connections.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub shard: ShardId,
    pub shards: u16,
    pub password: Option<Vec<u8>>,
    pub run_id: String,
    pub process_id: u32,
    pub started_wall_ms: u64,
    pub limits: Limits,
}

/// Why a connection is not read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Its changes of interest are not known to all shards yet.
    pub barrier: bool,
    /// Another shard is behind with what it published.
    pub room: bool,
    /// The other shards are being asked for it.
    pub gather: bool,
    /// It does not take its replies.
    pub output: bool,
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
    pub local: SocketAddr,
    pub now: Now,
    pub settings: &'a Settings,
    pub holds: &'a mut Holds,
    pub broker: &'a mut Broker,
    pub outboxes: &'a mut Outboxes,
    pub hand_overs: &'a mut HandOvers,
    pub interest: &'a mut Interest,
    pub delivery: &'a mut Delivery,
    pub counters: &'a mut Counters,
    pub parser: &'a mut Parser,
}

impl Context<'_> {
    /// The parts that a publish goes through, and the delivery itself.
    pub(crate) fn delivery(&mut self) -> (&mut Delivery, Ways<'_>) {
        let ways = Ways {
            broker: self.broker,
            outboxes: self.outboxes,
            hand_overs: self.hand_overs,
        };
        (self.delivery, ways)
    }

    /// To be called before this connection's subscriptions change.
    pub(crate) fn settle(&mut self) {
        self.delivery.settle(self.broker, self.outboxes);
    }

    /// To be called after they changed: what was answered waits until all shards know.
    pub(crate) fn interest_changed(&mut self) {
        if !self.interest.is_alone() && !self.holds.barrier {
            self.holds.barrier = true;
            self.interest.wait(self.conn, self.client);
            self.counters.barriers += 1;
        }
    }

    /// Whether output should be written before more is made.
    pub(crate) fn should_flush(&self) -> bool {
        self.outboxes.should_flush(self.delivery.pending())
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
        }
    }

    /// Carries out what stands in `input`, as far as it may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> Handled {
        match self {
            Session::Redis(session) => session.handle(input, cx),
        }
    }

    /// Takes the answer to the question that [`Then::Ask`] asked.
    pub(crate) fn answered(&mut self, answer: Answer, cx: &mut Context<'_>) {
        match self {
            Session::Redis(session) => session.answered(answer, cx),
        }
    }

    /// Says why it was not let in, to be written before the connection is closed.
    pub(crate) fn refuse(&mut self, conn: ConnId, outboxes: &mut Outboxes) {
        match self {
            Session::Redis(_) => outboxes.reply(conn, |out| {
                resp::error(out, b"ERR max number of clients reached");
            }),
        }
    }

    /// Whether the client still has to authenticate.
    pub(crate) fn is_guest(&self) -> bool {
        match self {
            Session::Redis(session) => session.is_guest(),
        }
    }

    /// Whether the client, let in before, has to authenticate anew since this was last asked.
    pub(crate) fn take_became_guest(&mut self) -> bool {
        match self {
            Session::Redis(session) => session.take_became_guest(),
        }
    }

    /// Whether a reply is written in part: other clients' events must wait for its end.
    pub(crate) fn is_replying(&self) -> bool {
        match self {
            Session::Redis(session) => session.is_replying(),
        }
    }

    /// Drops what was begun and will not be finished: the connection is to be closed.
    pub(crate) fn forget_unfinished(&mut self) {
        match self {
            Session::Redis(session) => session.forget_unfinished(),
        }
    }

    /// Bytes of memory that an unfinished transaction keeps.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Session::Redis(session) => session.kept_bytes(),
        }
    }
}

/// What ends an event's frame in every form that Redis clients take.
pub(crate) const EVENT_END: &[u8] = b"\r\n";

/// Writes an event's frame up to its payload: the same for all events of one topic.
pub(crate) fn encode_event_head(
    form: Form,
    kind: FilterKind,
    filter: &[u8],
    topic: &[u8],
    out: &mut Vec<u8>,
) {
    let version = match form {
        Form::Resp2 => Version::Two,
        Form::Resp3 => Version::Three,
    };
    let (word, names): (&[u8], &[&[u8]]) = match kind {
        FilterKind::Topic => (b"message", &[topic]),
        FilterKind::ShardChannel => (b"smessage", &[topic]),
        FilterKind::Glob | FilterKind::Wildcard => (b"pmessage", &[filter, topic]),
    };
    resp::push(out, version, 2 + names.len());
    resp::bulk(out, word);
    for name in names {
        resp::bulk(out, name);
    }
}

/// Writes the rest of an event's frame.
pub(crate) fn encode_event_body(form: Form, payload: &[u8], out: &mut Vec<u8>) {
    match form {
        Form::Resp2 | Form::Resp3 => resp::bulk(out, payload),
    }
}

/// Writes what stands between an event's head and a payload that is kept elsewhere; behind the
/// payload comes [`EVENT_END`].
pub(crate) fn encode_event_body_head(form: Form, length: usize, out: &mut Vec<u8>) {
    match form {
        Form::Resp2 | Form::Resp3 => resp::bulk_header(out, length),
    }
}

/// Turns whole frames of events, written in another form, into this form. Of a frame around a
/// shared payload, what stands before the payload is enough.
///
/// The forms of Redis differ in the first byte only, so that nothing moves. Cost: a step for each
/// string of a frame.
pub(crate) fn translate_events(to: Form, frames: &mut [u8]) {
    let mark = match to {
        Form::Resp2 => b'*',
        Form::Resp3 => b'>',
    };
    let mut at = 0;
    // Ends because each round steps over the frame's head at least.
    while at < frames.len() {
        frames[at] = mark;
        let (count, mut end) = number_at(frames, at + 1);
        for _ in 0..count {
            if end < frames.len() {
                let (length, start) = number_at(frames, end + 1);
                end = start + length + EVENT_END.len();
            }
        }
        at = end;
    }
}

/// The number of a frame's head or of a string's, and where what follows it begins.
fn number_at(frames: &[u8], from: usize) -> (usize, usize) {
    let digits = frames[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let (mut number, mut end) = (0, from);
    for &digit in digits {
        number = number * 10 + usize::from(digit - b'0');
        end += 1;
    }
    (number, end + EVENT_END.len())
}
