//! Vocabulary that all protocols share: ids, filters, events, calls and their answers.
//!
//! Nothing here knows a protocol or how the broker is built.

use crate::counters::Counters;
use crate::limits::{SHARDS_MAX, WILDCARDS_WIDTH_MAX};
use bytes::Bytes;
use core::net::SocketAddr;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::native::{attributes_headers, flag};
use sapwood_wire::scope::ScopeError;
use sapwood_wire::topic;
use std::sync::Arc;

/// A connection's place on its shard; reused after the connection has closed.
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

/// A shard's number on its node, from 0. The numbers behind the last shard's are those of its state workers, which are
/// peers of the shards and have no connections.
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
    /// Stands for this node itself among links. No link has this number.
    pub(crate) const HERE: LinkId = LinkId(u16::MAX);

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A filter's place in the index; reused once the filter has no subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FilterId(pub u32);

impl FilterId {
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }
}

/// Destination of an event besides this shard's own connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A shard of this node.
    Shard(ShardId),
    /// Another node, and all that are reached through it.
    Link(LinkId),
}

impl Target {
    /// A small number, different for each target: shards first, then links.
    pub(crate) fn index(self) -> usize {
        match self {
            Target::Shard(shard) => shard.index(),
            Target::Link(link) => SHARDS_MAX + link.index(),
        }
    }
}

/// Time of an input, read once a turn by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a monotonic clock.
    pub monotonic_ns: u64,
    /// Wall clock in milliseconds since 1970, for people to read.
    pub wall_ms: u64,
}

/// Namespaces that events are published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Topics, the namespace of every protocol.
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
    /// Not topics, but names, tags and groups of nodes; never a client's subscription.
    Node,
}

impl FilterKind {
    /// The kind of a filter in protocols whose patterns are token wildcards.
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
    /// The subscriber's queue group; empty for none.
    pub group: &'a [u8],
}

impl<'a> Filter<'a> {
    /// A filter without a queue group: its subscribers get every event.
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
    /// Tells its subscriptions to one filter apart; 0 where the protocol has no such number.
    pub number: u32,
}

/// A published event: a native message in its parts, whatever protocol it came by.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Namespace of `topic`.
    pub space: Space,
    /// Topic or shard channel that it is published to.
    pub topic: &'a [u8],
    /// The native message's flags; 0 where the protocol has none.
    pub flags: u8,
    /// Reply topic and headers, as `flags` says, encoded as in a native message.
    pub attributes: &'a [u8],
    /// Payload bytes.
    pub payload: &'a [u8],
    /// Larger than the number of any earlier event on this shard, for forms that show one; 0 until it is delivered.
    pub number: u64,
}

impl<'a> Event<'a> {
    /// What it counts as where its headers are delivered.
    pub(crate) fn volume(&self) -> Volume {
        let headers = match self.flags & flag::HEADERS {
            0 => 0,
            _ => attributes_headers(self.flags, self.attributes).block_length(),
        };
        let Volume { events, bytes } = self.bare_volume();
        let bytes = bytes + headers as u64;
        Volume { events, bytes }
    }

    /// What it counts as where its headers are dropped.
    pub(crate) fn bare_volume(&self) -> Volume {
        Volume {
            events: 1,
            bytes: self.payload.len() as u64,
        }
    }

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

/// Encoding in which a connection takes events. Connections with the same form share encoded bytes.
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
    /// Payloads only, a WebSocket message for each event.
    Text,
    /// The JSON protocol, a WebSocket message for each frame.
    Json,
    /// The JSON protocol, a line for each frame.
    JsonLines,
    /// The native protocol in WebSocket messages.
    NativeMessages,
    /// Server-sent events, each in a chunk of HTTP/1.1; also HTTP, which takes no events.
    Sse,
    /// Server-sent events without chunks, for HTTP/1.0.
    SsePlain,
}

impl Form {
    /// Number of forms.
    pub const COUNT: usize = 10;
    /// All forms.
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
        Form::SsePlain,
    ];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The form whose messages name the subscription that they are for, by the name that its client gave it.
    pub(crate) const NAMED: Form = Form::Nats;

    /// Whether an event is delivered once to a connection, even if several of its filters match.
    pub(crate) fn takes_once(self) -> bool {
        !matches!(self, Form::Resp2 | Form::Resp3 | Form::Nats)
    }

    /// Whether replies keep the order of pipelined requests, so that a late reply needs a reply slot.
    pub(crate) fn answers_in_order(self) -> bool {
        matches!(self, Form::Resp2 | Form::Resp3) || self.is_sse()
    }

    /// Whether events are written as JSON: topics must be UTF-8, and payloads are encoded rather than copied.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Form::Json | Form::JsonLines) || self.is_sse()
    }

    /// Whether it takes server-sent events.
    pub(crate) fn is_sse(self) -> bool {
        matches!(self, Form::Sse | Form::SsePlain)
    }
}

/// Why a subscription or an event was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The name cannot be a topic or pattern.
    Name(sapwood_wire::topic::TopicError),
    /// It starts with `$`, and is reserved for the broker or has an invalid scope.
    Scope(ScopeError),
    /// It is `$all`, and the operator has not allowed that.
    NoBroadcasts,
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`]; holds its length in bytes.
    PayloadTooLong(usize),
    /// A header's name or value holds a forbidden byte.
    Headers,
    /// The connection is at its cap of subscriptions; holds the cap.
    TooManySubscriptions(usize),
    /// The node is at its cap of filters; holds the cap.
    TooManyFilters(usize),
    /// The node is at its cap of globs; holds the cap.
    TooManyGlobs(usize),
    /// The filter is at the cap of queue groups; holds the cap.
    TooManyGroups(usize),
    /// All globs of the node together would cost each event too much.
    GlobsTooCostly,
    /// The wildcards of the node part from each other at so many tokens that events of some topic would cost too much.
    WildcardsTooWide,
}

impl Refusal {
    /// Its stable error code.
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::Name(_) => ErrorCode::TopicInvalid,
            Refusal::Scope(error) => error.code(),
            Refusal::NoBroadcasts => ErrorCode::TopicReserved,
            Refusal::PayloadTooLong(_) => ErrorCode::PayloadTooLong,
            Refusal::Headers => ErrorCode::HeadersInvalid,
            Refusal::TooManySubscriptions(_) => ErrorCode::SubscriptionsFull,
            Refusal::TooManyFilters(_)
            | Refusal::TooManyGlobs(_)
            | Refusal::TooManyGroups(_)
            | Refusal::GlobsTooCostly
            | Refusal::WildcardsTooWide => ErrorCode::FiltersFull,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Name(error) => error.fmt(f),
            Refusal::Scope(error) => error.fmt(f),
            Refusal::NoBroadcasts => f.write_str(
                "this broker takes no broadcasts: its operator has not allowed publishing to $all",
            ),
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
            Refusal::TooManyGroups(cap) => {
                write!(f, "this topic has {cap} queue groups, the most it may")
            }
            Refusal::GlobsTooCostly => {
                write!(
                    f,
                    "with this pattern, those of the node would take too long to match; use fewer '?' and '[' between '*'"
                )
            }
            Refusal::WildcardsTooWide => {
                write!(
                    f,
                    "with this wildcard, those of the node would lead one topic over more than {WILDCARDS_WIDTH_MAX} ways; use fewer '*' where others have words"
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
    /// The client broke the protocol.
    Protocol,
    /// It did not authenticate in time.
    AuthTimeout,
    /// It did not answer pings, was idle or late for too long, or was a lane that fell silent or was replaced.
    Stale,
    /// Slow consumer: its own output reached the cap.
    OutboxFull,
    /// Slow consumer while the shard's output reached the cap.
    OutboxesFull,
    /// The shard's unfinished input reached the cap.
    InputsFull,
    /// Another client closed it.
    Killed,
    /// The node shuts down.
    Ending,
    /// The shard is at its cap of connections.
    TooManyConnections,
}

/// A call's number: ascending, and never reused on its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What a shard is asked in one round of a call. Work and length of the answer are bounded; if there is more, the
/// answer says where the next round continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The counters of the shard.
    Counters,
    /// The clients that match a selection, from a place on.
    Select {
        /// The condition.
        selection: Arc<Selection>,
        /// The sort key.
        sort: Sort,
        /// First connection that is looked at.
        from: ConnId,
    },
    /// The records of these clients; clients that have gone are left out.
    Describe {
        /// At most [`crate::limits::CALL_CLIENTS_MAX`].
        clients: Vec<(ConnId, ClientId)>,
        /// Whether their first subscriptions are included.
        with_subscriptions: bool,
    },
    /// What a client is subscribed to, from a place among its subscriptions on.
    SubscriptionsOf {
        /// The client's connection.
        conn: ConnId,
        /// The client.
        client: ClientId,
        /// First subscription.
        from: usize,
    },
    /// The names of one kind with subscribers anywhere on the node, from a place in the index of filters on.
    ActiveNames {
        /// The kind.
        kind: FilterKind,
        /// Only names that this Redis glob matches.
        pattern: Option<Arc<[u8]>>,
        /// First filter that is looked at.
        from: usize,
    },
    /// Close the clients that match a selection, from a place on.
    Kill {
        /// The condition.
        selection: Arc<Selection>,
        /// First connection that is looked at.
        from: ConnId,
    },
    /// What a state worker is asked; shards are not. Its bytes are the state plane's.
    State(Bytes),
}

/// Sort keys for clients. All but `Id` sort the largest first; ties by client number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Client number, which is the order in which they connected.
    #[default]
    Id,
    /// Number of subscriptions.
    Subscriptions,
    /// Bytes waiting to be sent.
    Pending,
    /// Events sent to the client.
    EventsOut,
    /// Events that the client published.
    EventsIn,
    /// Bytes of the events sent to the client.
    BytesOut,
    /// Bytes of the events that the client published.
    BytesIn,
    /// Time since the client last sent something.
    Idle,
    /// When the client last sent something: the latest first.
    Last,
    /// When the client connected: the latest first.
    Start,
}

/// A client that matches a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its sort key; the largest comes first.
    pub rank: u64,
    /// Its number.
    pub client: ClientId,
    /// The shard that owns it.
    pub shard: ShardId,
    /// Its connection there.
    pub conn: ConnId,
}

/// Conditions that select clients; a client must meet all that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// These numbers only, ascending; empty for any.
    pub ids: Vec<ClientId>,
    /// The client's own address.
    pub peer: Option<SocketAddr>,
    /// The broker's address that it connected to.
    pub local: Option<SocketAddr>,
    /// The form in which it takes events.
    pub form: Option<Form>,
    /// Whether it is subscribed to something.
    pub subscribed: Option<bool>,
    /// Connected for at least this many seconds.
    pub age_s_min: Option<u64>,
    /// Excludes this client.
    pub but: Option<ClientId>,
    /// Selects nobody: a condition was given that no client can meet.
    pub nobody: bool,
}

impl Selection {
    /// Sorts the ids for binary search, and removes duplicates.
    pub(crate) fn sort_ids(&mut self) {
        self.ids.sort_unstable();
        self.ids.dedup();
    }
}

/// A number of events, and their bytes as nats-server counts them: payloads and headers, without what protocols add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Number of events.
    pub events: u64,
    /// Bytes of their payloads and of their headers, these as NATS writes them.
    pub bytes: u64,
}

impl Volume {
    /// The same for each of so many receivers.
    pub(crate) fn times(self, receivers: u64) -> Volume {
        Volume {
            events: self.events * receivers,
            bytes: self.bytes * receivers,
        }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

/// One connected client, as shown to people.
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
    /// Bytes waiting to be sent, and the number of pieces that hold them.
    pub output: (usize, usize),
    /// Events dropped by its slow consumer policy.
    pub lost: u64,
    /// What the client has published.
    pub published: Volume,
    /// What was put into its output.
    pub delivered: Volume,
    /// The form in which it takes events.
    pub form: Form,
    /// Its first subscriptions, if asked for.
    pub listens_to: Vec<Subscribed>,
    /// Place of the next one, if there are more.
    pub listens_next: Option<usize>,
    /// The database it selected.
    pub database: u8,
    /// The version of the Redis protocol; 0 for another protocol.
    pub version: u8,
    /// Name of the last command.
    pub command: &'static str,
    /// Whether the client asked for exemption from eviction (CLIENT NO-EVICT).
    pub no_evict: bool,
}

/// One subscription, as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// What is subscribed to.
    pub name: Box<[u8]>,
    /// The queue group, if any.
    pub group: Option<Box<[u8]>>,
    /// The client's name for it and its messages, in a protocol where it has one.
    pub named: Option<NamedSubscription>,
}

/// A subscription that its client has named (sid of NATS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSubscription {
    /// The name.
    pub sid: Box<[u8]>,
    /// Number of messages that it has been given.
    pub messages: u64,
    /// Number of messages after which it ends; 0 if it does not.
    pub messages_max: u64,
}

/// One shard's answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answers `Counters`.
    Counters(Box<Counters>),
    /// Answers `Select`.
    Selected {
        /// The clients that match.
        found: Vec<Selected>,
        /// Where the next round continues, if there is more.
        next: Option<ConnId>,
    },
    /// Answers `Describe`.
    Described(Vec<ClientRecord>),
    /// Answers `SubscriptionsOf`.
    Subscribed {
        /// The subscriptions.
        listens_to: Vec<Subscribed>,
        /// Where the next round continues, if there is more.
        next: Option<usize>,
    },
    /// Answers `ActiveNames`.
    Names {
        /// The names.
        names: Vec<Box<[u8]>>,
        /// Where the next round continues, if there is more.
        next: Option<usize>,
    },
    /// Answers `Kill`.
    Killed {
        /// Number of clients closed.
        count: u64,
        /// Where the next round continues, if there is more.
        next: Option<ConnId>,
    },
    /// Answers `State`, or what was to be stored.
    State {
        /// The state plane's bytes.
        bytes: Bytes,
        /// Whether there is more.
        extent: Extent,
    },
}

/// How much of what a state worker was asked its answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A part; the bytes say what the next round asks for. The worker keeps nothing of the call.
    More,
    /// All, or the last part.
    Done,
}

/// When the answer of a call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// When it is whole. It is so short that it needs no room beyond what a call reserves.
    Short,
    /// When it is whole. Until then it is spooled as output, and waits while the shard's output is at its cap.
    Spooled,
    /// Part by part. It waits while the client does not read.
    Streamed,
}

/// One round of a call: at most one query for each shard.
pub(crate) type Round = Vec<(ShardId, Query)>;

/// Answers to one round by all shards that were asked, in the order of shard numbers.
pub(crate) type Answers = Vec<(ShardId, Answer)>;

/// The counters of each shard that was asked.
pub(crate) fn counters_of(answers: Answers) -> Vec<(ShardId, Counters)> {
    let each = answers.into_iter().map(|(shard, answer)| match answer {
        Answer::Counters(counters) => (shard, *counters),
        answer => unreachable!("{answer:?} are no counters"),
    });
    each.collect()
}

/// Why a call ends without its answer. Nothing that it asked for was done, except with `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// No room for the answer: the shard's output was at its cap for `CALL_MS_MAX` milliseconds.
    NoRoom,
    /// The state worker went while the call was with it: it may have been carried out.
    Unknown,
    /// The state worker is gone.
    NoWorker,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::NoRoom => f.write_str(
                "no room for the answer: the broker's output is at its cap, because clients do not read theirs; try again later",
            ),
            CallError::Unknown => f.write_str(
                "the part of the broker that keeps this failed meanwhile: whether it was carried out is unknown",
            ),
            CallError::NoWorker => f.write_str(
                "the part of the broker that keeps this has failed: nothing was kept; see the broker's log",
            ),
        }
    }
}
