//! What shard 0 tells the others about links.

use super::links::Peer;
use super::position::Position;
use crate::command::LinkId;
use crate::routing::interest::Change;
use core::net::SocketAddr;
use std::sync::Arc;

/// What shard 0 tells the others about links; `Told` and `Known` stand before every event that relies on them.
#[derive(Clone, Debug)]
pub enum TreeNews {
    /// The node stands elsewhere, or other links lead from it.
    Stands(Arc<Position>),
    /// There is a link, a branch of the tree from now on.
    Up {
        /// Its number.
        link: LinkId,
        /// The number that its lanes are opened with.
        token: u64,
        /// Who is there.
        peer: Arc<Peer>,
        /// Where its lanes are to be dialed, if that is this side's to do.
        dial_to: Option<SocketAddr>,
    },
    /// A link is gone.
    Down {
        /// Its number.
        link: LinkId,
    },
    /// A link was told of interest up to this number.
    Told {
        /// Its number.
        link: LinkId,
        /// The last frame's.
        number: u64,
    },
    /// A link told of interest.
    Known {
        /// Its number.
        link: LinkId,
        /// The frame's.
        number: u64,
        /// All that was said before is void.
        restart: bool,
        /// Any event may be wanted there.
        everything: bool,
        /// What changed.
        changes: Arc<[Change]>,
    },
}
