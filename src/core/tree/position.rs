//! The position of a node in the tree, as each of its shards knows it: its address, and the links to its neighbours.
//!
//! Shard 0 finds it (`place`) and tells the other shards. Owns the step from address arithmetic to links; must not know
//! who listens. Start at [`Position::split`].

use super::address::{Path, Split};
use crate::command::LinkId;

/// A node's address and its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The address; `None` while the node is adrift.
    pub path: Option<Path>,
    /// The link to its parent.
    pub up: Option<LinkId>,
    /// The links to its children, with their child numbers.
    pub down: Vec<(u8, LinkId)>,
}

/// The next hops from a node towards a set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextHops {
    /// Whether this node is one of the targets.
    pub is_here: bool,
    /// Whether a target has no node: it would be below this node (or anywhere, if this node is adrift) and no link
    /// leads there.
    pub is_lost: bool,
    /// The links to the other targets, each once.
    pub links: Vec<LinkId>,
}

impl Position {
    /// The links to all neighbours.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> {
        let down = self.down.iter().map(|&(_, link)| link);
        self.up.into_iter().chain(down)
    }

    /// The next hops towards these addresses, whether nodes stand there or not. Cost: sorting them.
    pub(crate) fn split(&self, mut targets: Vec<Path>) -> NextHops {
        targets.sort_unstable();
        targets.dedup();
        let Some(path) = &self.path else {
            return NextHops {
                is_lost: !targets.is_empty(),
                ..NextHops::default()
            };
        };
        let split = Split::of(path, &targets);
        let mut hops = NextHops {
            is_here: split.is_here(),
            ..NextHops::default()
        };
        let up = split.goes_up().then_some(self.up);
        let down = split.children().map(|(child, _)| {
            let mut children = self.down.iter();
            let found = children.find(|&&(number, _)| number == child);
            found.map(|&(_, link)| link)
        });
        for link in up.into_iter().chain(down) {
            match link {
                Some(link) => hops.links.push(link),
                None => hops.is_lost = true,
            }
        }
        hops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> Vec<Path> {
        let paths = texts.iter().map(|text| text.parse().expect("a path"));
        paths.collect()
    }

    fn position() -> Position {
        Position {
            path: Some("/3".parse().expect("a path")),
            up: Some(LinkId(7)),
            down: vec![(0, LinkId(1)), (4, LinkId(2))],
        }
    }

    #[test]
    fn each_link_that_leads_to_a_target_is_taken_once() {
        let hops = position().split(paths(&["/3/4/1", "/3/4/2", "/2", "/", "/3", "/3/4/1"]));
        assert!(hops.is_here && !hops.is_lost);
        assert_eq!(hops.links, [LinkId(7), LinkId(2)]);
    }

    #[test]
    fn who_would_stand_below_and_does_not_is_lost() {
        let hops = position().split(paths(&["/3/5", "/3/0"]));
        assert!(hops.is_lost && !hops.is_here);
        assert_eq!(hops.links, [LinkId(1)]);
    }

    #[test]
    fn a_node_that_is_adrift_leads_nowhere() {
        let adrift = Position::default();
        assert!(adrift.split(paths(&["/"])).is_lost);
        assert_eq!(adrift.split(Vec::new()), NextHops::default());
    }
}
