//! Messages about links from shard 0 to the other shards.

use super::links::Peer;
use super::position::Position;
use crate::command::LinkId;
use crate::routing::interest::Change;
use core::net::SocketAddr;
use std::sync::Arc;

/// A message about links from shard 0. `Told` and `Known` come before every event that relies on them.
#[derive(Clone, Debug)]
pub enum TreeNews {
    /// The node's position in the tree changed: its address, or the links to its neighbours.
    Stands(Arc<Position>),
    /// A new link, which is a branch of the tree from now on.
    Up {
        /// The link's number.
        link: LinkId,
        /// The token that its lanes present.
        token: u64,
        /// The node at the other side.
        peer: Arc<Peer>,
        /// The address to dial for its lanes; `None` if the other side dials.
        dial_to: Option<SocketAddr>,
    },
    /// A link was closed.
    Down {
        /// The link's number.
        link: LinkId,
    },
    /// Interest was announced to a link, up to this sequence number.
    Told {
        /// The link's number.
        link: LinkId,
        /// Sequence number of the last frame.
        number: u64,
    },
    /// A link announced interest.
    Known {
        /// The link's number.
        link: LinkId,
        /// Sequence number of the frame.
        number: u64,
        /// Whether everything announced before is void.
        restart: bool,
        /// Whether any event may be wanted behind the link.
        everything: bool,
        /// The changed filters.
        changes: Arc<[Change]>,
    },
}
