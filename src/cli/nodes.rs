//! The settings by which nodes form a tree: where this one takes in others, where it looks for them, who it is.
//!
//! Owns which of these settings go together. Values are judged in [`value`], where they come from in [`config`](super::config).
//! Start at [`NodeSettings::read`], then [`NodeSettings::into_tree`].

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sapwood_server::{SecretKey, TreeSettings};

use super::config::{self, Key, NODE_DEFAULT, Sourced, Sources, Warning};
use super::file;
use super::problem::{Absent, Problem, Source, Wrong};
use super::topology::{self, Seat, Topology};
use super::value::{self, Listen};

/// The longest file that is read for a secret: what a secret may have at most, and line ends.
const SECRET_FILE_BYTES_MAX: u64 = 65 << 10;

/// Most children that can be allowed: each has a number of one byte, from 0.
const CHILDREN_MAX: u64 = 255;

/// The shortest heartbeat, in milliseconds: others beat each 250 ms, and eight of these must span some of theirs.
const HEARTBEAT_MS_MIN: u64 = 100;

/// The longest: who hangs for eight minutes is missed by people.
const HEARTBEAT_MS_MAX: u64 = 60_000;

/// Every setting of the tree, read and in range.
#[derive(Debug)]
pub struct NodeSettings {
    node: Option<Sourced<Listen>>,
    join: Option<Sourced<Vec<SocketAddr>>>,
    advertise: Option<Sourced<SocketAddr>>,
    parent: Option<Sourced<SocketAddr>>,
    name: Option<Sourced<String>>,
    tags: Option<Sourced<Vec<String>>>,
    groups: Option<Sourced<Vec<String>>>,
    children_max: Option<Sourced<u8>>,
    heartbeat: Option<Sourced<Duration>>,
    topology: Option<Sourced<Topology>>,
    secret: Option<Sourced<SecretKey>>,
    /// A secret was given, though perhaps a wrong one.
    is_secret_given: bool,
}

impl NodeSettings {
    /// Reads what the sources give; what is wrong with it stays with them.
    pub fn read(sources: &mut Sources<'_>, warnings: &mut Vec<Warning>) -> NodeSettings {
        let secret =
            sources.choose_file(Key::ClusterSecretFile, |path| read_secret(path, warnings));
        let is_secret_given = sources.has(Key::ClusterSecretFile);
        NodeSettings {
            node: sources.choose(Key::Node, |text| {
                value::parse_listen(text, NODE_DEFAULT.port())
            }),
            join: sources.choose(Key::Join, value::parse_nodes),
            advertise: sources.choose(Key::Advertise, value::parse_advertised),
            parent: sources.choose(Key::Parent, value::parse_node),
            name: sources.choose(Key::NodeName, parse_name),
            tags: sources.choose(Key::NodeTags, parse_names),
            groups: sources.choose(Key::NodeGroups, parse_names),
            children_max: sources.choose(Key::ChildrenMax, parse_children_max),
            heartbeat: sources.choose(Key::Heartbeat, parse_heartbeat),
            topology: read_topology(sources),
            secret,
            is_secret_given,
        }
    }

    /// Where this node takes in others, and what the server is told of the tree; appends every reason why that must not be.
    pub fn into_tree(self, problems: &mut Vec<Problem>) -> (Option<SocketAddr>, TreeSettings) {
        self.judge_together(problems);
        let name = match &self.name {
            Some(name) => name.value.clone(),
            None => host_name(),
        };
        let topology = self.topology.as_ref();
        let seat = topology.and_then(|topology| topology.value.place_of(&name));
        if let (Some(topology), None) = (topology, &seat) {
            problems.push(self.not_in(topology, &name));
        }
        let node = self.listen(seat.as_ref());
        let address = match node.value {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        };
        self.judge_links(&node, seat.as_ref(), problems);
        if let (Some(advertise), None) = (&self.advertise, address) {
            problems.push(Problem {
                source: advertise.source.clone(),
                wrong: Wrong::NothingToAdvertise,
            });
        }
        let mut tree = TreeSettings {
            name: name.clone(),
            tags: self.tags.map_or(Vec::new(), |tags| tags.value),
            groups: self.groups.map_or(Vec::new(), |groups| groups.value),
            advertise: self.advertise.map(|advertise| advertise.value),
            join: self.join.map_or(Vec::new(), |join| join.value),
            parent: self.parent.map(|parent| parent.value),
            children_max: self.children_max.map(|max| max.value),
            heartbeat: self.heartbeat.map(|heartbeat| heartbeat.value),
            key: self.secret.map(|secret| secret.value),
            ..TreeSettings::default()
        };
        if let Some(seat) = seat {
            sit(&mut tree, &seat, address);
        }
        (address, tree)
    }

    /// Where this node takes in others: as somebody said, or as the tree's file has it, or the default.
    fn listen(&self, seat: Option<&Seat<'_>>) -> Sourced<Listen> {
        match (&self.node, &self.topology, seat) {
            (Some(node), ..) => Sourced {
                source: node.source.clone(),
                value: node.value,
            },
            (None, Some(topology), Some(seat)) => Sourced {
                source: topology.source.clone(),
                value: Listen::At(seat.address),
            },
            _ => Sourced {
                source: Source::Default(Key::Node.name()),
                value: Listen::At(NODE_DEFAULT),
            },
        }
    }

    /// Refuses settings that contradict each other.
    fn judge_together(&self, problems: &mut Vec<Problem>) {
        let join = self.join.as_ref().map(|join| &join.source);
        let parent = self.parent.as_ref().map(|parent| &parent.source);
        let children_max = self.children_max.as_ref().map(|max| &max.source);
        let tags = self.tags.as_ref().map(|tags| &tags.source);
        let groups = self.groups.as_ref().map(|groups| &groups.source);
        let topology = self.topology.as_ref().map(|topology| &topology.source);
        let parent_or_join = "only one can say where this node belongs: --parent names the one node that may be its \
                              parent, --join any node of the tree";
        let by_file = "the file says where each node belongs";
        let in_file = "the file says what each node is called";
        for (source, other, why) in [
            (parent, join, parent_or_join),
            (join, topology, by_file),
            (parent, topology, by_file),
            (children_max, topology, by_file),
            (tags, topology, in_file),
            (groups, topology, in_file),
        ] {
            if let (Some(source), Some(other)) = (source, other) {
                problems.push(Problem {
                    source: source.clone(),
                    wrong: Wrong::Excluded(Box::new(other.clone()), why),
                });
            }
        }
    }

    /// Refuses links with other machines that nothing protects.
    fn judge_links(
        &self,
        node: &Sourced<Listen>,
        seat: Option<&Seat<'_>>,
        problems: &mut Vec<Problem>,
    ) {
        if self.is_secret_given {
            return;
        }
        let mut refuse = |source: &Source, wrong| {
            problems.push(Problem {
                source: source.clone(),
                wrong,
            });
        };
        if let Listen::At(address) = node.value
            && !value::is_loopback(address)
        {
            refuse(&node.source, Wrong::NodesOpenToAll(address));
        }
        let join = self.join.iter();
        let join = join.flat_map(|join| join.value.iter().map(|node| (&join.source, *node)));
        let parent = self.parent.iter();
        let parent = parent.map(|parent| (&parent.source, parent.value));
        let in_file = self.topology.iter().filter_map(|topology| {
            let (_, address) = seat?.parent?;
            Some((&topology.source, address))
        });
        let mut last = None;
        for (source, address) in join.chain(parent).chain(in_file) {
            // One for each setting is enough.
            if !value::is_loopback(address) && last.replace(source) != Some(source) {
                refuse(source, Wrong::LinkOpenToAll(address));
            }
        }
    }

    fn not_in(&self, topology: &Sourced<Topology>, name: &str) -> Problem {
        let names = topology.value.names();
        let nearest = topology::nearest(name, names);
        let given = self.name.as_ref();
        Problem {
            source: given.map_or(&topology.source, |name| &name.source).clone(),
            wrong: Wrong::NotInTopology(Box::new(Absent {
                name: name.to_string(),
                is_given: given.is_some(),
                nearest: nearest.map(str::to_string),
                root: topology.value.root().to_string(),
            })),
        }
    }
}

/// Gives a node its place in a tree that a file describes.
fn sit(tree: &mut TreeSettings, seat: &Seat<'_>, listens: Option<SocketAddr>) {
    tree.is_static = true;
    tree.tags = seat.tags.to_vec();
    tree.groups = seat.groups.to_vec();
    tree.parent = seat.parent.map(|(_, address)| address);
    let children = seat.children.iter();
    tree.allowed_children = Some(children.map(ToString::to_string).collect());
    // The names say who may come.
    tree.children_max = Some(u8::MAX);
    tree.advertise = tree.advertise.or(listens.map(|_| seat.address));
}

fn read_topology(sources: &mut Sources<'_>) -> Option<Sourced<Topology>> {
    let Sourced { source, value } = sources.choose_path(Key::Topology)?;
    let read = Topology::read(&value, source.clone());
    sources.keep(read).map(|value| Sourced { source, value })
}

fn parse_name(text: &str) -> Result<String, Wrong> {
    match topology::wrong_name(text) {
        Some(wrong) => Err(Wrong::Topology(wrong)),
        None => Ok(text.to_string()),
    }
}

fn parse_names(text: &str) -> Result<Vec<String>, Wrong> {
    text.split(',')
        .map(|name| parse_name(name.trim()))
        .collect()
}

fn parse_children_max(text: &str) -> Result<u8, Wrong> {
    value::parse_count(text, 1, CHILDREN_MAX).map(|max| max as u8)
}

/// Reads a time in whole milliseconds, `250` or `250ms`, or in whole seconds, `1s`.
fn parse_heartbeat(text: &str) -> Result<Duration, Wrong> {
    let seconds = text.strip_suffix('s').filter(|rest| !rest.ends_with('m'));
    let ms = match seconds {
        Some(seconds) => {
            value::parse_count(seconds, 1, HEARTBEAT_MS_MAX / 1_000).map(|seconds| seconds * 1_000)
        }
        None => {
            let ms = text.strip_suffix("ms").unwrap_or(text);
            value::parse_count(ms, HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX)
        }
    };
    ms.map(Duration::from_millis)
        .map_err(|_| Wrong::Heartbeat(text.to_string()))
}

fn read_secret(path: &Path, warnings: &mut Vec<Warning>) -> Result<SecretKey, Wrong> {
    let bytes = file::read_capped(path, SECRET_FILE_BYTES_MAX)?;
    let key = SecretKey::from_secret(&bytes).map_err(Wrong::Secret)?;
    config::warn_if_readable(path, "cluster secret", warnings)?;
    Ok(key)
}

/// The name of this machine, or none if a node cannot have it.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_str().unwrap_or_default();
    let is_right = topology::wrong_name(name).is_none();
    if is_right { name } else { "" }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_topology_file() {
        for name in ["a", "eu.oslo-1_b", &"x".repeat(64)] {
            assert_eq!(parse_name(name).unwrap(), name);
        }
        for name in ["", "a b", "\u{e9}", "a/b", "a\n", &"x".repeat(65)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn tags_and_groups_are_lists_of_names() {
        assert_eq!(parse_names("edge").unwrap(), ["edge"]);
        assert_eq!(parse_names("edge, eu-1").unwrap(), ["edge", "eu-1"]);
        for text in ["", "edge,", "a b", "a,/b"] {
            assert!(parse_names(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_host_s_name_is_one_or_none() {
        let name = host_name();
        assert!(name.is_empty() || parse_name(&name).is_ok(), "{name:?}");
    }

    #[test]
    fn a_heartbeat_is_100_milliseconds_to_a_minute() {
        let heartbeat = |text| parse_heartbeat(text).map(|time| time.as_millis()).ok();
        for (text, ms) in [("100", 100), ("250ms", 250), ("1s", 1_000), ("60s", 60_000)] {
            assert_eq!(heartbeat(text), Some(ms), "{text:?}");
        }
        for text in [
            "99", "60001", "61s", "0s", "", "s", "ms", "1m", "1.5s", "-1s",
        ] {
            assert_eq!(heartbeat(text), None, "{text:?}");
        }
    }

    #[test]
    fn children_are_one_to_255() {
        assert_eq!(parse_children_max("1").unwrap(), 1);
        assert_eq!(parse_children_max("255").unwrap(), 255);
        for text in ["0", "256", "-1", "eight", ""] {
            assert!(parse_children_max(text).is_err(), "{text:?}");
        }
    }
}
