//! The words that all protocols share: ids, filters, events, calls and their answers.
//!
//! Nothing here knows a protocol or how the broker is built.

use crate::counters::Counters;
use crate::limits::SHARDS_MAX;
use core::net::SocketAddr;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::scope::ScopeError;
use sapwood_wire::topic;
use std::sync::Arc;

/// A connection's place on its shard; used again after it has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

impl ConnId {
    pub(crate) fn slot(self) -> usize {
        self.0 as usize
    }
}

/// A client's number, never used again while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A shard's number on its node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A link's number on its node, from 0; the same on all shards, and used again after it has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

impl LinkId {
    /// The node itself, where it stands among what links lead to. No link has this number.
    pub(crate) const HERE: LinkId = LinkId(u16::MAX);

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A filter's place in the index; used again once nobody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FilterId(pub u32);

impl FilterId {
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }
}

/// Where an event may go from a shard, besides to that shard's own connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A shard of this node.
    Shard(ShardId),
    /// Another node, and all that are reached through it.
    Link(LinkId),
}

impl Target {
    /// A small number of its own.
    pub(crate) fn index(self) -> usize {
        match self {
            Target::Shard(shard) => shard.index(),
            Target::Link(link) => SHARDS_MAX + link.index(),
        }
    }
}

/// The time of an input, read once a turn by who drives the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a clock that never steps back.
    pub monotonic_ns: u64,
    /// Milliseconds since 1970, for people to read.
    pub wall_ms: u64,
}

/// The two sets of names that an event can be published under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Topics: what every protocol means.
    Topic,
    /// Redis's shard channels (SPUBLISH): a namespace of their own, without patterns.
    ShardChannel,
}

/// How a filter's name is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterKind {
    /// The topic itself.
    Topic,
    /// The shard channel itself.
    ShardChannel,
    /// A Redis glob over topics.
    Glob,
    /// A token wildcard over topics.
    Wildcard,
    /// No topics, but nodes that are called so: nobody's subscription.
    Node,
}

impl FilterKind {
    /// The kind of a name in protocols whose patterns are token wildcards.
    pub(crate) fn of_tokens(name: &[u8]) -> FilterKind {
        match topic::is_wildcard(name) {
            true => FilterKind::Wildcard,
            false => FilterKind::Topic,
        }
    }
}

/// What a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    /// How the name is matched.
    pub kind: FilterKind,
    /// The topic or pattern, at most `TOPIC_BYTES_MAX` long.
    pub name: &'a [u8],
    /// The group that the subscriber is a member of; empty for none.
    pub group: &'a [u8],
}

impl<'a> Filter<'a> {
    /// A filter of a subscriber that gets every event.
    pub fn plain(kind: FilterKind, name: &'a [u8]) -> Filter<'a> {
        Filter {
            kind,
            name,
            group: &[],
        }
    }
}

/// A subscriber of a filter: a connection, and its own number for the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The connection.
    pub conn: ConnId,
    /// What tells its subscriptions to one filter apart; 0 where the protocol has no such number.
    pub number: u32,
}

/// What is published: a native message in its parts, whatever protocol it came by.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The names that `topic` is one of.
    pub space: Space,
    /// What it is published to.
    pub topic: &'a [u8],
    /// The native message's flags; 0 where the protocol has none.
    pub flags: u8,
    /// Reply topic and headers, as `flags` says, in the form of the native message.
    pub attributes: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
    /// Larger than that of any event before it on this shard, for forms that show one; 0 until it is delivered.
    pub number: u64,
}

impl<'a> Event<'a> {
    /// An event of a protocol without reply topics and headers.
    pub fn plain(space: Space, topic: &'a [u8], payload: &'a [u8]) -> Event<'a> {
        Event {
            space,
            topic,
            flags: 0,
            attributes: &[],
            payload,
            number: 0,
        }
    }
}

/// The form that a connection takes events in: what decides whether two share their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Redis protocol, version 2.
    #[default]
    Resp2,
    /// Redis protocol, version 3.
    Resp3,
    /// Native protocol.
    Native,
    /// NATS protocol. Each message names the subscription that it is for.
    Nats,
    /// Payloads alone, a WebSocket message each.
    Text,
    /// The JSON protocol, a WebSocket message for each frame.
    Json,
    /// The same, a line for each frame.
    JsonLines,
    /// The native protocol in WebSocket messages.
    NativeMessages,
    /// Server-sent events; and HTTP, which takes none.
    Sse,
}

impl Form {
    /// How many forms there are.
    pub const COUNT: usize = 9;
    /// Each of them.
    pub const ALL: [Form; Form::COUNT] = [
        Form::Resp2,
        Form::Resp3,
        Form::Native,
        Form::Nats,
        Form::Text,
        Form::Json,
        Form::JsonLines,
        Form::NativeMessages,
        Form::Sse,
    ];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The form whose messages name the subscription that they are for, which its client has named.
    pub(crate) const NAMED: Form = Form::Nats;

    /// Whether a connection gets an event once, however many of its filters match.
    pub(crate) fn takes_once(self) -> bool {
        !matches!(self, Form::Resp2 | Form::Resp3 | Form::Nats)
    }

    /// Whether replies keep the order of the requests, so that what is answered late keeps a reply slot.
    pub(crate) fn answers_in_order(self) -> bool {
        matches!(self, Form::Resp2 | Form::Resp3 | Form::Sse)
    }

    /// Whether events are written as JSON: topics must be UTF-8, and payloads do not stand there as they are.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Form::Json | Form::JsonLines | Form::Sse)
    }
}

/// Why a subscription or an event was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The name cannot be a topic or pattern.
    Name(sapwood_wire::topic::TopicError),
    /// It starts with `$`, and is the broker's to publish or says wrongly whom it is for.
    Scope(ScopeError),
    /// The payload is longer than any may be; holds its length in bytes.
    PayloadTooLong(usize),
    /// A header's name or value holds a byte that it must not hold.
    Headers,
    /// The connection has as many subscriptions as it may; holds the cap.
    TooManySubscriptions(usize),
    /// The node knows as many filters as it may; holds the cap.
    TooManyFilters(usize),
    /// The node knows as many globs as it may; holds the cap.
    TooManyGlobs(usize),
}

impl Refusal {
    /// Its stable code.
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::Name(_) => ErrorCode::TopicInvalid,
            Refusal::Scope(error) => error.code(),
            Refusal::PayloadTooLong(_) => ErrorCode::PayloadTooLong,
            Refusal::Headers => ErrorCode::HeadersInvalid,
            Refusal::TooManySubscriptions(_) => ErrorCode::SubscriptionsFull,
            Refusal::TooManyFilters(_) | Refusal::TooManyGlobs(_) => ErrorCode::FiltersFull,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Name(error) => error.fmt(f),
            Refusal::Scope(error) => error.fmt(f),
            Refusal::PayloadTooLong(length) => {
                write!(
                    f,
                    "the payload has {length} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
                )
            }
            Refusal::Headers => {
                write!(
                    f,
                    "a header's name is 1 to 255 bytes from '!' to '~' without ':', and its value holds no CR, LF or NUL"
                )
            }
            Refusal::TooManySubscriptions(cap) => {
                write!(
                    f,
                    "this connection has {cap} subscriptions, the most it may; unsubscribe first"
                )
            }
            Refusal::TooManyFilters(cap) => {
                write!(
                    f,
                    "this node knows {cap} different topics and patterns, the most it may"
                )
            }
            Refusal::TooManyGlobs(cap) => {
                write!(
                    f,
                    "this node knows {cap} different patterns, the most it may"
                )
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client asked for it.
    Quit,
    /// What it sent broke the protocol.
    Protocol,
    /// It did not authenticate in time.
    AuthTimeout,
    /// It did not answer when it was asked whether it is there.
    Stale,
    /// It reads too slowly: its output reached the cap.
    OutboxFull,
    /// It reads too slowly while the shard's output reached the cap.
    OutboxesFull,
    /// The shard's unfinished input reached the cap.
    InputsFull,
    /// Another client closed it.
    Killed,
    /// The node ends.
    Ending,
    /// The shard has as many connections as it may.
    TooManyConnections,
}

/// A call's number: never used again on its shard, and ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What a shard is asked in one round of a call. The work and the length of the answer are bounded: where there is more,
/// the answer says from where on the next round is to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The counters of the shard.
    Counters,
    /// Which clients a selection means, from this place on.
    Select {
        /// The condition.
        selection: Arc<Selection>,
        /// What they are to be ranked by.
        sort: Sort,
        /// The first connection that is looked at.
        from: ConnId,
    },
    /// What people are shown of these clients; who has gone meanwhile is left out.
    Describe {
        /// At most [`crate::limits::CALL_CLIENTS_MAX`].
        clients: Vec<(ConnId, ClientId)>,
        /// The first names of their subscriptions are wanted too.
        with_names: bool,
    },
    /// What a client is subscribed to, from this place among its subscriptions on.
    NamesOf {
        /// The client's connection.
        conn: ConnId,
        /// The client.
        client: ClientId,
        /// The first subscription.
        from: usize,
    },
    /// The names of one kind that anyone on the node is subscribed to, from this place in the index of filters on.
    ActiveNames {
        /// The kind.
        kind: FilterKind,
        /// Only those that this Redis glob matches.
        pattern: Option<Arc<[u8]>>,
        /// The first filter that is looked at.
        from: usize,
    },
    /// Close the clients that a selection means, from this place on.
    Kill {
        /// The condition.
        selection: Arc<Selection>,
        /// The first connection that is looked at.
        from: ConnId,
    },
}

/// What clients are ranked by: all but `Id` largest first, equal ones by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Their numbers, which is the order in which they connected.
    #[default]
    Id,
    /// Subscriptions.
    Subscriptions,
    /// Bytes that wait to be sent.
    Pending,
    /// Events that they were sent.
    EventsOut,
    /// Events that they published.
    EventsIn,
    /// Bytes that they were sent.
    BytesOut,
    /// Bytes that they sent.
    BytesIn,
    /// How long they have sent nothing.
    Idle,
    /// How long they have been connected.
    Age,
}

/// A client that a selection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// What it is ranked by, the largest first.
    pub rank: u64,
    /// Its number.
    pub client: ClientId,
    /// The shard that owns it.
    pub shard: ShardId,
    /// Its connection there.
    pub conn: ConnId,
}

/// Which clients are meant: all that every given condition holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// These numbers only, ascending; empty for any.
    pub ids: Vec<ClientId>,
    /// The client's own address.
    pub peer: Option<SocketAddr>,
    /// The broker's address that it connected to.
    pub local: Option<SocketAddr>,
    /// Whether it is subscribed to something.
    pub subscribed: Option<bool>,
    /// Connected for at least so many seconds.
    pub age_s_min: Option<u64>,
    /// All but this one.
    pub but: Option<ClientId>,
    /// Nobody at all: a condition was given that no client can meet.
    pub nobody: bool,
}

impl Selection {
    /// Brings the numbers into the order that looking one up needs.
    pub(crate) fn sort_ids(&mut self) {
        self.ids.sort_unstable();
        self.ids.dedup();
    }
}

/// What a connection has brought and taken since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Events that it published.
    pub events_in: u64,
    /// Events that were put into its output.
    pub events_out: u64,
    /// Bytes that it sent.
    pub bytes_in: u64,
    /// Bytes that were written to it.
    pub bytes_out: u64,
}

/// One connected client, as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// Its number.
    pub id: ClientId,
    /// The shard that owns it.
    pub shard: ShardId,
    /// Its own address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The name it gave itself.
    pub name: Vec<u8>,
    /// The library it named, and that library's version.
    pub library: (Vec<u8>, Vec<u8>),
    /// Seconds since it connected.
    pub age_s: u64,
    /// Seconds since it last sent something.
    pub idle_s: u64,
    /// Subscriptions: topics, patterns, shard channels.
    pub subscriptions: [usize; 3],
    /// Commands queued in a transaction, if one is open.
    pub queued: Option<usize>,
    /// Bytes that wait to be sent, and the pieces they stand in.
    pub output: (usize, usize),
    /// Events that a policy dropped.
    pub lost: u64,
    /// What it has sent and was sent.
    pub traffic: Traffic,
    /// What it subscribed to, if that was asked for: the first names.
    pub names: Vec<Box<[u8]>>,
    /// Where the rest of them begins, if there is more.
    pub names_next: Option<usize>,
    /// The database it selected.
    pub database: u8,
    /// The version of the Redis protocol; 0 for another protocol.
    pub version: u8,
    /// The last command.
    pub command: &'static str,
    /// Whether it is exempt from eviction by its own wish.
    pub no_evict: bool,
}

/// What one shard says to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Counters`.
    Counters(Box<Counters>),
    /// To `Select`.
    Selected {
        /// Those that are meant.
        found: Vec<Selected>,
        /// Where the rest begins.
        next: Option<ConnId>,
    },
    /// To `Describe`.
    Described(Vec<ClientRecord>),
    /// To `NamesOf` and `ActiveNames`.
    Names {
        /// The names.
        names: Vec<Box<[u8]>>,
        /// Where the rest begins.
        next: Option<usize>,
    },
    /// To `Kill`.
    Killed {
        /// How many were closed.
        count: u64,
        /// Where the rest begins.
        next: Option<ConnId>,
    },
}

/// How the answer of a call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Once it is whole: short enough to need no room beyond what a call reserves.
    Short,
    /// Once it is whole: it gathers as output, and so waits while that is at its cap.
    Spooled,
    /// As it comes: it waits while the client does not take what is there.
    Streamed,
}

/// What is asked in one round of a call: each shard at most one thing.
pub(crate) type Round = Vec<(ShardId, Query)>;

/// The answers of all shards that were asked in a round, in the order of their numbers.
pub(crate) type Answers = Vec<(ShardId, Answer)>;

/// The counters of each shard that was asked for them.
pub(crate) fn counters_of(answers: Answers) -> Vec<(ShardId, Counters)> {
    let each = answers.into_iter().map(|(shard, answer)| match answer {
        Answer::Counters(counters) => (shard, *counters),
        answer => unreachable!("{answer:?} are no counters"),
    });
    each.collect()
}

/// Why a call ends without its answer. Nothing that it asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The shard's output has been at its cap for too long, so that there is no room for an answer.
    NoRoom,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::NoRoom => f.write_str(
                "no room for the answer: the broker's output is at its cap, because clients do not read theirs; try again later",
            ),
        }
    }
}
