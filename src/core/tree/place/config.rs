//! Start-up settings of the place machine, and its times.
//!
//! Start at [`PlaceConfig`].

use crate::limits::{HEARTBEAT_NS, SILENT_BEATS_MAX};
use core::net::SocketAddr;
use sapwood_wire::node::NodeId;

/// Time-outs and intervals, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Interval at which this node shows its neighbours that it lives, and looks whether they do.
    pub beat_ns: u64,
    /// The node's patience is a number of these: see [`Timings::with_heartbeat`].
    pub heartbeat_ns: u64,
    /// A link without any sign of life in beats of this node that come to more than this is lost.
    pub silence_ns: u64,
    /// If the root's beat counter stands still for this long, counted like silence, the node is adrift, though its
    /// parent lives.
    pub stall_ns: u64,
    /// How long after the loss of a child a root may take its place again from who was elected meanwhile.
    pub return_ns: u64,
    /// Time-out for an answer, dialing included, while the node is adrift or probes for other trees.
    pub answer_ns: u64,
    /// Time-out for an answer, dialing included, while the node has never had a place.
    pub first_answer_ns: u64,
    /// Time-out for the confirmation of a place.
    pub reserve_ns: u64,
    /// A connection that neither asks nor is asked is closed after this long.
    pub idle_ns: u64,
    /// Interval at which a root probes for other trees.
    pub probe_ns: u64,
    /// If no other node can be reached for this long, the node becomes a root.
    pub alone_ns: u64,
    /// If others can be reached but none has become a root for this long, the node becomes a root.
    pub drift_ns: u64,
    /// First delay before the whole search is retried, drifting nodes included.
    pub retry_ns: u64,
    /// Maximum of that delay, which doubles.
    pub retry_max_ns: u64,
    /// How long the first good offer of a first search waits for a better one.
    pub gather_ns: u64,
    /// Minimum interval of reports to the parent.
    pub report_ns: u64,
    /// How long a draining node waits for its children to move away.
    pub drain_ns: u64,
    /// How long it stays after the last of them has: its parent must learn first what they want where they are now.
    pub part_ns: u64,
}

const MS: u64 = 1_000_000;

/// The longest interval of beats. A node that is more patient beats as often, so that others need not be.
const BEAT_NS_MAX: u64 = 250 * MS;

/// Heartbeats without a new beat of the root after which a node is adrift: who is nearer to the root notices its loss
/// before, and each level between delays its beats by up to one.
const STALLED_BEATS_MAX: u64 = 2 * SILENT_BEATS_MAX;

impl Timings {
    /// The default times with another heartbeat: how patient this node is with silent neighbours.
    pub fn with_heartbeat(heartbeat_ns: u64) -> Timings {
        Timings {
            beat_ns: heartbeat_ns.min(BEAT_NS_MAX),
            heartbeat_ns,
            silence_ns: heartbeat_ns.saturating_mul(SILENT_BEATS_MAX),
            stall_ns: heartbeat_ns.saturating_mul(STALLED_BEATS_MAX),
            ..Timings::default()
        }
    }
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            beat_ns: BEAT_NS_MAX,
            heartbeat_ns: HEARTBEAT_NS,
            silence_ns: SILENT_BEATS_MAX * HEARTBEAT_NS,
            stall_ns: STALLED_BEATS_MAX * HEARTBEAT_NS,
            return_ns: 60_000 * MS,
            answer_ns: 300 * MS,
            first_answer_ns: 1_000 * MS,
            reserve_ns: 1_000 * MS,
            idle_ns: 2_000 * MS,
            probe_ns: 1_000 * MS,
            alone_ns: 1_000 * MS,
            drift_ns: 3_000 * MS,
            retry_ns: 50 * MS,
            retry_max_ns: 1_000 * MS,
            gather_ns: 100 * MS,
            report_ns: 20 * MS,
            drain_ns: 1_000 * MS,
            part_ns: 20 * MS,
        }
    }
}

/// Start-up settings of the place machine.
#[derive(Clone, Debug)]
pub struct PlaceConfig {
    /// The node id.
    pub node: NodeId,
    /// The node's incarnation: grows with each start.
    pub incarnation: u64,
    /// The advertised address.
    pub address: Option<SocketAddr>,
    /// The node's name; may be empty.
    pub name: String,
    /// Addresses to ask for a place; the first [`SEEDS_MAX`](super::SEEDS_MAX) count. A node without seeds and parent is
    /// a root.
    pub seeds: Vec<SocketAddr>,
    /// The only allowed parent.
    pub parent: Option<SocketAddr>,
    /// Whether a file describes the tree: there is no root election, and the tree may be
    /// [`STATIC_DEPTH_MAX`](super::STATIC_DEPTH_MAX) deep.
    pub is_static: bool,
    /// Whether nothing protects links: then only addresses of this machine are dialed, and those that the operator named.
    pub is_local: bool,
    /// Names of the allowed children, at the index of their child numbers; `None` allows any.
    pub allowed_children: Option<Vec<String>>,
    /// Maximum number of children.
    pub children_max: u8,
    /// Seed of all randomness.
    pub entropy: u64,
    /// Time-outs and intervals.
    pub timings: Timings,
}

impl PlaceConfig {
    /// The default settings of a node that finds its own place.
    pub fn new(node: NodeId, incarnation: u64, address: Option<SocketAddr>) -> PlaceConfig {
        PlaceConfig {
            node,
            incarnation,
            address,
            name: String::new(),
            seeds: Vec::new(),
            parent: None,
            is_static: false,
            is_local: false,
            allowed_children: None,
            children_max: 8,
            entropy: node.0 ^ incarnation,
            timings: Timings::default(),
        }
    }

    /// Whether an address may be dialed, whoever named it. Others name any address; with a secret they are members of the
    /// tree, and without one they may be anybody on this machine, for whom no other machine is dialed.
    pub(super) fn may_dial(&self, address: SocketAddr) -> bool {
        let is_near = address.ip().to_canonical().is_loopback();
        let is_named = self.seeds.contains(&address) || self.parent == Some(address);
        !self.is_local || is_near || is_named
    }
}
