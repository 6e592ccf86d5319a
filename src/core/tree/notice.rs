//! What the link layer asks of its driver, and what it has to say to operators.

use super::address::Path;
use super::links::Peer;
use super::place::{CloseWhy, Place};
use core::net::SocketAddr;
use sapwood_wire::node::hello::Refusal;
use std::fmt;

/// A connection that core asks its driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Comes back with the connection, or when there is none.
    pub dial: u64,
    /// Where to.
    pub address: SocketAddr,
}

/// Something about links that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A connection for nodes was refused or given up.
    Refused {
        /// Who is there.
        peer: SocketAddr,
        /// Why.
        why: String,
    },
    /// A link is a branch of the tree now.
    Linked {
        /// Who is there.
        peer: String,
        /// What it is to this node.
        role: &'static str,
    },
    /// A link is none any more.
    Unlinked {
        /// Who was there.
        peer: String,
        /// Why.
        why: String,
    },
    /// Where the node stands.
    Placed(String),
    /// It is a root, because nobody answers where it was to join.
    Alone(String),
    /// A link was full, and dropped events.
    Lost {
        /// Who is there.
        peer: String,
        /// How many, since this was last said.
        events: u64,
    },
    /// The other side of a link was full, and dropped events on their way here.
    LostBefore {
        /// Who is there.
        peer: String,
        /// How many.
        events: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Refused { peer, why } => write!(f, "no link with {peer}: {why}"),
            Notice::Linked { peer, role } => write!(f, "linked with {peer}, the {role}"),
            Notice::Unlinked { peer, why } => write!(f, "link with {peer} ended: {why}"),
            Notice::Placed(place) | Notice::Alone(place) => write!(f, "{place}"),
            Notice::Lost { peer, events } => {
                write!(f, "the link with {peer} is full and lost {events} events")
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
    /// Whether it is of the usual course of things.
    pub fn is_usual(&self) -> bool {
        matches!(self, Notice::Linked { .. } | Notice::Placed(_))
    }
}

/// A peer as people know it.
pub(crate) fn show_peer(peer: &Peer) -> String {
    let address = peer
        .address
        .map_or(String::new(), |address| format!(" at {address}"));
    match peer.name.is_empty() {
        true => format!("node {}{address}", peer.node),
        false => format!("node {} ({}){address}", peer.name, peer.node),
    }
}

/// Where a node stands, for the log.
pub(crate) fn show_place(place: &Place) -> String {
    let position = place.reign();
    match place.path() {
        Some([]) => format!("this node is the root of the tree, term {}", position.term),
        Some(path) => format!(
            "this node stands at {} below {}",
            Path::new(path).map_or_else(|error| error.to_string(), |path| path.to_string()),
            position.root()
        ),
        None => "this node is adrift and looks for a parent".into(),
    }
}

/// The same as a notice; a root that nobody answers may be one by mistake.
pub(crate) fn note_place(place: &Place) -> Notice {
    let text = show_place(place);
    match place.is_alone() {
        true => Notice::Alone(format!(
            "{text}; nobody answers where it was to join, and it goes on trying"
        )),
        false => Notice::Placed(text),
    }
}

/// Whether a reason to close a connection is of the usual course of things.
pub(crate) fn is_usual(why: &CloseWhy) -> bool {
    matches!(
        why,
        CloseWhy::Done | CloseWhy::Idle | CloseWhy::Late | CloseWhy::Moved
    )
}

/// Why a node is refused, in the words of the log.
pub(crate) fn refusal_text(code: u8, text: &str) -> String {
    match Refusal::from_code(code) {
        Some(refusal) => format!("it refuses: {refusal}"),
        // Its own words may hold anything.
        None => format!("it refuses with code {code}: {}", text.escape_debug()),
    }
}
