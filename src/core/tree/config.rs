//! What a node is told about itself and the tree when it starts.

use super::place::PlaceConfig;
use core::net::SocketAddr;
use sapwood_wire::node::seal::SecretKey;
use sapwood_wire::scope;

/// What a node is told about itself and the tree.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// Who it is, and where it looks for a place.
    pub place: PlaceConfig,
    /// What else it is called: events can be sent to all nodes with a tag.
    pub tags: Vec<String>,
    /// Groups that it belongs to: events can be sent to one node of a group, in turn.
    pub groups: Vec<String>,
    /// Where others can reach it, as it says to them: an unspecified address is completed by who hears it.
    pub advertise: Option<SocketAddr>,
    /// What all nodes of the tree must know; links are sealed with it.
    pub key: Option<SecretKey>,
    /// For the keys of connections; random, and different on each shard.
    pub entropy: [u8; 32],
}

impl TreeConfig {
    /// How topics call the node.
    pub(crate) fn names(&self) -> Vec<Box<[u8]>> {
        let tags = self.tags.iter().map(|tag| (scope::TAG, tag));
        let groups = self.groups.iter().map(|group| (scope::GROUP, group));
        let name = Some(&self.place.name).filter(|name| !name.is_empty());
        let names = name.into_iter().map(|name| (&[][..], name));
        let all = names.chain(tags).chain(groups);
        all.map(|(prefix, name)| [prefix, name.as_bytes()].concat().into())
            .collect()
    }
}
