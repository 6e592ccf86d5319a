//! Requests of the link layer to its driver, and notices for operators.

use super::address::Path;
use super::links::Peer;
use super::place::{CloseWhy, Place};
use core::net::{IpAddr, SocketAddr};
use sapwood_wire::node::hello::Refusal;
use std::fmt;

/// A connection that the driver is to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Number that comes back with the connection, or with its failure.
    pub dial: u64,
    /// The address to dial.
    pub address: SocketAddr,
}

/// A notice for operators, about links or who tries to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A connection between nodes was refused or given up.
    Refused {
        /// The remote address.
        peer: SocketAddr,
        /// The reason.
        why: String,
    },
    /// A link became a branch of the tree.
    Linked {
        /// The node at the other side.
        peer: String,
        /// Its role: parent or child.
        role: &'static str,
    },
    /// The node at the other side of a link has the name of this node, or of another that it is linked with.
    SameName {
        /// The node at the other side.
        peer: String,
        /// The other node of this name.
        other: String,
    },
    /// A link is no longer a branch of the tree.
    Unlinked {
        /// The node at the other side.
        peer: String,
        /// The reason.
        why: String,
    },
    /// The node's position in the tree changed.
    Placed(String),
    /// The node is a root because none of its seeds answers.
    Alone(String),
    /// Too many wrong passwords came from an address: its further attempts wait.
    WrongPasswords {
        /// The address; of IPv6 its network.
        address: IpAddr,
        /// How many since the last notice.
        count: u64,
    },
    /// A link was full and dropped events.
    Lost {
        /// The node at the other side.
        peer: String,
        /// Events dropped since the last notice.
        events: u64,
    },
    /// A link ended before the other side had acknowledged everything.
    LostAtEnd {
        /// The node at the other side.
        peer: String,
        /// Events that were not acknowledged.
        events: u64,
    },
    /// The other side of a link was full and dropped events on their way here.
    LostBefore {
        /// The node at the other side.
        peer: String,
        /// Events dropped since the last notice.
        events: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Refused { peer, why } => write!(f, "no link with {peer}: {why}"),
            Notice::Linked { peer, role } => write!(f, "linked with {peer}, the {role}"),
            Notice::SameName { peer, other } => write!(
                f,
                "{peer} has the same name as {other}: what is sent to that name reaches both; give each node its own with --node-name"
            ),
            Notice::Unlinked { peer, why } => write!(f, "link with {peer} ended: {why}"),
            Notice::Placed(place) | Notice::Alone(place) => write!(f, "{place}"),
            Notice::WrongPasswords { address, count } => {
                write!(
                    f,
                    "{count} wrong passwords came from {address}; its further attempts wait"
                )
            }
            Notice::Lost { peer, events } => {
                write!(f, "the link with {peer} is full and lost {events} events")
            }
            Notice::LostAtEnd { peer, events } => {
                write!(
                    f,
                    "the link with {peer} ended before {events} events were acknowledged: they are lost, or some of them"
                )
            }
            Notice::LostBefore { peer, events } => {
                write!(
                    f,
                    "{events} events from {peer} were lost because its link here was full"
                )
            }
        }
    }
}

impl Notice {
    /// Whether the notice reports normal operation.
    pub fn is_usual(&self) -> bool {
        matches!(self, Notice::Linked { .. } | Notice::Placed(_))
    }
}

/// A peer as shown to people.
pub(crate) fn show_peer(peer: &Peer) -> String {
    let address = peer
        .address
        .map_or(String::new(), |address| format!(" at {address}"));
    match peer.name.is_empty() {
        true => format!("node {}{address}", peer.node),
        false => format!("node {} ({}){address}", peer.name, peer.node),
    }
}

/// The node's position, for the log.
pub(crate) fn show_place(place: &Place) -> String {
    let position = place.reign();
    match place.path() {
        Some([]) => format!("this node is the root of the tree, term {}", position.term),
        Some(path) => format!(
            "this node stands at {} below {}",
            Path::new(path).map_or_else(|error| error.to_string(), |path| path.to_string()),
            position.root()
        ),
        None if place.is_drained() => "this node has left the tree".into(),
        None => "this node is adrift and looks for a parent".into(),
    }
}

/// The node's position as a notice. A root whose seeds do not answer may be one by mistake.
pub(crate) fn note_place(place: &Place) -> Notice {
    let text = show_place(place);
    match place.is_alone() {
        true => Notice::Alone(format!(
            "{text}; nobody answers where it was to join, and it goes on trying"
        )),
        false => Notice::Placed(text),
    }
}

/// Whether a reason to close a connection is part of normal operation.
pub(crate) fn is_usual(why: &CloseWhy) -> bool {
    matches!(
        why,
        CloseWhy::Done | CloseWhy::Idle | CloseWhy::Late | CloseWhy::Moved
    )
}

/// Why a node was refused, as text for the log.
pub(crate) fn refusal_text(code: u8, text: &str) -> String {
    match Refusal::from_code(code) {
        Some(refusal) => format!("it refuses: {refusal}"),
        // The other side's text may hold any bytes.
        None => format!("it refuses with code {code}: {}", text.escape_debug()),
    }
}
