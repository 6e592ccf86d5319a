//! Start-up settings of a node in the tree.

use super::place::PlaceConfig;
use core::net::SocketAddr;
use sapwood_wire::node::seal::SecretKey;
use sapwood_wire::scope;

/// Start-up settings of a node in the tree.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// The node's identity, and where it looks for a place in the tree.
    pub place: PlaceConfig,
    /// Tags of the node: events can be sent to all nodes with a tag.
    pub tags: Vec<String>,
    /// Groups of nodes that it belongs to: events can be sent to one node of a group, in turn.
    pub groups: Vec<String>,
    /// The advertised address, where other nodes can dial it. If its IP is unspecified, the receiver fills in the IP it
    /// sees.
    pub advertise: Option<SocketAddr>,
    /// Where NATS clients of other nodes are told that they can connect to this one; `None` tells them nothing.
    pub nats: Option<SocketAddr>,
    /// The secret shared by all nodes of the tree. Links are encrypted with it; `None` leaves them open.
    pub key: Option<SecretKey>,
    /// Seed for the keys of connections: random, and different on each shard.
    pub entropy: [u8; 32],
}

impl TreeConfig {
    /// The names of this node as used in topics.
    pub(crate) fn names(&self) -> Vec<Box<[u8]>> {
        let tags = self.tags.iter().map(|tag| (scope::TAG, tag));
        let groups = self.groups.iter().map(|group| (scope::GROUP, group));
        let name = Some(&self.place.name).filter(|name| !name.is_empty());
        let names = name.into_iter().map(|name| (&[][..], name));
        let all = names.chain(tags).chain(groups);
        let all = all.map(|(prefix, name)| [prefix, name.as_bytes()].concat().into());
        let nats = self.nats.map(|address| address.to_string());
        let nats = nats.map(|address| [scope::NATS_ADDRESS, address.as_bytes()].concat().into());
        all.chain(nats).collect()
    }
}
