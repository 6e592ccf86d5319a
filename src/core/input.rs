//! Inputs and outputs of a shard: the types of its interface.
//!
//! Types without behaviour. Start at [`Input`].

use crate::command::{ClientId, CloseReason, ConnId, ShardId};
use crate::limits::Limits;
use crate::mailbox::{Batch, BatchCursor};
use crate::outbox::BodyGauge;
use crate::session::Protocol;
use crate::settings::{Capacity, Vitals, WebSettings};
use crate::tree::config::TreeConfig;
use crate::tree::notice::{Dial, Notice};
use bytes::Bytes;
use core::net::SocketAddr;
use sapwood_wire::native::Policy;
use std::sync::Arc;

/// Configuration of a shard.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shard's number.
    pub shard: ShardId,
    /// Number of shards of the node, this one included; 1 to [`crate::limits::SHARDS_MAX`].
    pub shards: u16,
    /// Name of the only user, checked with the password; `None` is `default`.
    pub user: Option<Vec<u8>>,
    /// Password that clients must give; `None` lets everybody in.
    pub password: Option<Vec<u8>>,
    /// Longest payload in bytes that NATS clients may publish, headers included; they are told when they connect. At
    /// most `PAYLOAD_BYTES_MAX`.
    pub nats_payload_max: usize,
    /// Settings of HTTP and WebSocket.
    pub web: WebSettings,
    /// Whether clients may publish to `$all`.
    pub may_broadcast: bool,
    /// Memory and CPU use of the node's process, as the driver last measured them.
    pub vitals: Arc<Vitals>,
    /// Identity of this node in a tree, and where it looks for other nodes; `None` for a node that stays alone.
    pub tree: Option<TreeConfig>,
    /// Connections of the whole node; shared by its shards.
    pub capacity: Arc<Capacity>,
    /// The caps in force.
    pub limits: Limits,
    /// Seed of hash tables: keeps outsiders from choosing names that collide.
    pub hash_seed: u64,
    /// Gauges shared by all shards of the node.
    pub body_gauge: BodyGauge,
    /// Random id of this run of the node, 40 hexadecimal digits.
    pub run_id: String,
    /// Process id of the node, as INFO shows it.
    pub process_id: u32,
    /// When the node started, in milliseconds since 1970.
    pub started_wall_ms: u64,
}

/// An input for a shard to handle.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted, or a dial has succeeded. `conn` is a free place of the driver's choice.
    Opened {
        /// Its place until `Closed`.
        conn: ConnId,
        /// Its number, unique on the node while it runs.
        client: ClientId,
        /// The protocol of the listener that accepted it.
        protocol: Protocol,
        /// Slow consumer policy, unless the client chooses another.
        policy: Policy,
        /// Its own address.
        peer: SocketAddr,
        /// The address it connected to.
        local: SocketAddr,
    },
    /// The unconsumed input of a connection, from its first unconsumed byte. May be empty: after a hold, a suspended
    /// command may go on.
    Bytes {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a [u8],
        /// How many bytes at the end are new.
        fresh: usize,
    },
    /// Like `Bytes`, in a buffer made by [`crate::Shard::lend`], of which core may keep parts: the payload of a long
    /// request is then never copied.
    Lent {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a Bytes,
        /// How many bytes at the end are new.
        fresh: usize,
    },
    /// A dial that core asked for has failed.
    DialFailed {
        /// The dial's number, given by core.
        dial: u64,
    },
    /// A connection is gone, or the driver has closed it; its place is free again.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// A batch from another shard or a state worker, to be read from `cursor` on. One from a worker may find no room for
    /// its events: then the rest is offered again once [`crate::Shard::hears_workers`].
    Batch {
        /// The shard or worker that sent it.
        from: ShardId,
        /// The batch.
        batch: &'a mut Batch,
        /// Where to read on: the default at first, then what `handle` left in it.
        cursor: &'a mut BatchCursor,
    },
    /// A batch of this shard that another shard or a state worker has handled.
    Returned {
        /// That shard or worker.
        by: ShardId,
        /// The batch.
        batch: Batch,
    },
    /// A state worker is gone: it has failed, and takes no batch and answers no call any more. Live events go on; what it
    /// was to store is counted as `events_not_stored`.
    WorkerGone {
        /// The worker, as a peer.
        worker: ShardId,
    },
    /// The end of a turn: the driver has no more input for it.
    TurnEnd,
    /// The node shuts down: all connections will be closed within this time.
    Ending {
        /// Milliseconds from now.
        milliseconds: u32,
    },
    /// The node is about to end, and its clients have been read. WebSockets are closed by a close frame, event streams by
    /// their last chunk. Nothing more is taken from other nodes, which keep it and learn what was taken; children are told
    /// to find another parent. See
    /// [`crate::Shard::has_handed_over`].
    HandOver,
    /// All shards have handed over: the node leaves the tree as soon as no child is left.
    Leave,
    /// The time that [`crate::Shard::next_deadline`] gave has come.
    Tick,
}

/// Next step of the driver with the input it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on. Offer the input again once `needed` bytes are there, and no earlier. While input is unconsumed,
    /// `needed` is at most twice its length plus [`crate::limits::INPUT_STEP_BYTES`], so that the cap on input holds.
    Read {
        /// Bytes needed, counted from the first unconsumed one.
        needed: usize,
    },
    /// Keep the rest, and do not read until the connection is named in [`Outputs::resumed`]. The batch of a worker: until
    /// other shards have room.
    Hold,
    /// Write the dirty connections, then offer the rest of the same input again.
    Flush,
    /// Nothing: the input is handled, or the connection is being closed.
    Done,
}

/// Result of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Bytes of `Input::Bytes` or `Input::Lent` that need not be kept.
    pub consumed: usize,
    /// Next step.
    pub next: Next,
}

impl Handled {
    pub(crate) const DONE: Handled = Handled {
        consumed: 0,
        next: Next::Done,
    };
}

/// Results of inputs for the driver to carry out. The driver empties the lists; it takes dirty connections by
/// [`crate::Shard::take_dirty`], and batches by [`crate::Shard::take_batch`].
#[derive(Debug, Default)]
pub struct Outputs {
    /// Connections that may be read again; the rest of their input is offered first.
    pub resumed: Vec<ConnId>,
    /// Connections to be closed once their output is written.
    pub closing: Vec<(ConnId, CloseReason)>,
    /// Nodes to be dialed: each dial comes back as `Input::Opened` or `Input::DialFailed`, within about a second.
    pub dials: Vec<Dial>,
    /// Connections that belong to another shard. They are closed here with nothing consumed, and opened there with the
    /// same input.
    pub moving: Vec<(ConnId, ShardId)>,
    /// Notices about links, for the operator's log.
    pub notices: Vec<Notice>,
}
