//! The tree of nodes: which other nodes this one is linked to, and what is sent over the links.
//!
//! Shard 0 finds the node's place (`place`) and tells the other shards which links there are (`news`). Every shard owns
//! lanes on each link (`links`, `lane`), so events published on a shard leave from there and arrive at one shard of the
//! next node. Interest behind a link is stored in the filters' entries (`routing/broker/remote`), kept up to date by
//! deltas on lane 0 (`interest_sync`). `session` is the protocol of one connection; `shard/links` is what a shard does
//! with all of it. Start there.

pub mod address;
pub(crate) mod config;
pub(crate) mod dedup;
pub(crate) mod interest_sync;
pub(crate) mod lane;
pub(crate) mod links;
pub(crate) mod news;
pub(crate) mod notice;
pub mod place;
pub(crate) mod position;
pub(crate) mod session;
pub(crate) mod state;

pub use config::TreeConfig;
pub use links::Peer;
pub use news::TreeNews;
pub use notice::{Dial, Notice};
pub use position::Position;
pub use sapwood_wire::node::NodeId;
pub use sapwood_wire::node::seal::{SecretError, SecretKey};
