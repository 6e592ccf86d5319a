//! What goes into a shard and what comes out of it: the types of the door.
//!
//! Nothing here does anything. Start at [`Input`].

use crate::command::{ClientId, CloseReason, ConnId, ShardId};
use crate::limits::Limits;
use crate::mailbox::{Batch, BatchCursor};
use crate::outbox::BodyGauge;
use crate::session::Protocol;
use crate::settings::{Vitals, WebSettings};
use crate::tree::config::TreeConfig;
use crate::tree::notice::{Dial, Notice};
use bytes::Bytes;
use core::net::SocketAddr;
use sapwood_wire::native::Policy;
use std::sync::Arc;

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number.
    pub shard: ShardId,
    /// How many shards the node has, this one included; 1 to [`limits::SHARDS_MAX`].
    pub shards: u16,
    /// The name of the only user, which goes with the password; `None` is `default`.
    pub user: Option<Vec<u8>>,
    /// What clients must know to be let in; `None` lets everybody in.
    pub password: Option<Vec<u8>>,
    /// Longest payload that clients of NATS may publish, headers included; they are told when they connect.
    /// At most `PAYLOAD_BYTES_MAX`.
    pub nats_payload_max: usize,
    /// What the web may do.
    pub web: WebSettings,
    /// Whether clients may publish to `$all`.
    pub may_broadcast: bool,
    /// What the node's process takes, for who asks.
    pub vitals: Arc<Vitals>,
    /// Who the node is among others, and where it looks for them; `None` if it stays alone.
    pub tree: Option<TreeConfig>,
    /// The caps in force.
    pub limits: Limits,
    /// Keeps outsiders from choosing names that collide in hash tables.
    pub hash_seed: u64,
    /// Shared by all shards of the node.
    pub body_gauge: BodyGauge,
    /// The node's random name for this run, 40 hexadecimal digits.
    pub run_id: String,
    /// The process that the node runs in, as INFO shows it.
    pub process_id: u32,
    /// When the node started, in milliseconds since 1970.
    pub started_wall_ms: u64,
}

/// Something that happened, for a shard to handle.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted. `conn` is a free place of the driver's choice.
    Opened {
        /// Its place until `Closed`.
        conn: ConnId,
        /// Its number, unique on the node while it runs.
        client: ClientId,
        /// The protocol of the listener that accepted it.
        protocol: Protocol,
        /// What happens when it reads too slowly, unless it says so itself.
        policy: Policy,
        /// Its own address.
        peer: SocketAddr,
        /// The address it connected to.
        local: SocketAddr,
    },
    /// What stands unconsumed of a connection's input, from its first unconsumed byte. May be
    /// empty: after a hold, a command may be waiting to go on.
    Bytes {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a [u8],
        /// How many of them, at the end, are here for the first time.
        fresh: usize,
    },
    /// The same in a buffer made by [`crate::Shard::lend`], of which core may keep parts: for long
    /// requests, whose payload is then never copied.
    Lent {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a Bytes,
        /// How many of them, at the end, are here for the first time.
        fresh: usize,
    },
    /// A connection that core asked for did not come about.
    DialFailed {
        /// The number that core gave it.
        dial: u64,
    },
    /// A connection is gone, or the driver has closed it; its place is free again.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// A batch from another shard, to be read from `cursor` on.
    Batch {
        /// The shard that sent it.
        from: ShardId,
        /// The batch.
        batch: &'a mut Batch,
        /// Where to read on: a default one at first, then what `handle` left in it.
        cursor: &'a mut BatchCursor,
    },
    /// A batch of this shard's that another shard has dealt with.
    Returned {
        /// That shard.
        by: ShardId,
        /// The batch.
        batch: Batch,
    },
    /// The driver has nothing more for this turn.
    TurnEnd,
    /// The node ends: all connections will be closed within so many milliseconds.
    Ending {
        /// From now.
        milliseconds: u32,
    },
    /// The time that [`crate::Shard::next_deadline`] gave has come.
    Tick,
}

/// What the driver is to do next with the input it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on reading this connection; another attempt is due once so many bytes stand, and no
    /// earlier. At most as much again as stands and [`limits::INPUT_STEP_BYTES`], so that caps hold.
    Read {
        /// Bytes behind what was consumed.
        needed: usize,
    },
    /// Keep the rest and do not read on until the connection is named in [`Outputs::resumed`].
    Hold,
    /// Write the dirty connections, then give the rest of the same input again.
    Flush,
    /// Nothing: the input is dealt with, or the connection is being closed.
    Done,
}

/// How a shard dealt with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Bytes of `Input::Bytes` that need not be kept.
    pub consumed: usize,
    /// What follows.
    pub next: Next,
}

impl Handled {
    pub(crate) const DONE: Handled = Handled {
        consumed: 0,
        next: Next::Done,
    };
}

/// What an input led to, for the driver to carry out. It empties the lists; dirty connections are
/// asked for with [`crate::Shard::take_dirty`], batches with [`crate::Shard::take_batch`].
#[derive(Debug, Default)]
pub struct Outputs {
    /// Connections that may be read again; the rest of their input is to be given first.
    pub resumed: Vec<ConnId>,
    /// Connections to be closed once their output is written.
    pub closing: Vec<(ConnId, CloseReason)>,
    /// Connections to be dialed: each comes as `Input::Opened` or `Input::DialFailed`, within about a second.
    pub dials: Vec<Dial>,
    /// Connections that are another shard's. They are closed here with nothing consumed, and opened there with the
    /// same input.
    pub moving: Vec<(ConnId, ShardId)>,
    /// What an operator may want to read about links.
    pub notices: Vec<Notice>,
}
