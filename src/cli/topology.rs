//! The topology file: which nodes there are, where each is reached, and who is whose parent.
//!
//! Owns what makes such a file right as a whole: one root, no circles, and every name and address there once. Must not know what
//! a node does with its place. [`draft`] reads the TOML; what spans nodes is judged here. One reading reports everything that is
//! wrong, up to [`PROBLEMS_MAX`] things. Nothing is looked up, so a file that is right here is right everywhere.
//! Start at [`Topology::read`].

mod draft;
#[cfg(test)]
mod tests;
mod wrong;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use draft::wrong_name;
use draft::{Draft, Parent};
pub use wrong::{AddressReason, WrongTopology};

use super::file::{self, SUGGESTION_EDITS_MAX};
use super::problem::{Problem, Source, Wrong};

/// The longest topology file: 16 MiB is enough for 100,000 nodes, of which 5.5 MB took 202 MiB to read. Worst memory: about
/// 1.2 GiB, by twice the 614 MiB that 8 MB of one key over and over took, each of which is an error of the parser.
const TOPOLOGY_FILE_BYTES_MAX: u64 = 16 << 20;

/// How many hops a node can be from the root: its path has at most so many numbers.
const DEPTH_MAX: usize = 255;

/// How many children a node can have: each has a number of one byte.
const CHILDREN_MAX: usize = 256;

/// How many problems of a file are listed: as many as fit on a screen. The others are counted.
const PROBLEMS_MAX: usize = 20;

/// How many names of a circle are listed: enough to see where it is.
const CIRCLE_NAMES_MAX: usize = 8;

/// A tree of nodes, as a file describes it: right as a whole.
#[derive(Debug)]
pub struct Topology {
    /// In the order of the file.
    nodes: Vec<Node>,
    by_name: HashMap<String, usize>,
    root: usize,
}

#[derive(Debug)]
struct Node {
    name: String,
    address: SocketAddr,
    parent: Option<usize>,
    /// Its number as a child.
    number: u8,
    children: Vec<usize>,
    tags: Vec<String>,
    groups: Vec<String>,
}

/// A node's place in the tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Seat<'a> {
    /// Where the other nodes connect to it.
    pub address: SocketAddr,
    /// Its parent's name and address; the root has none.
    pub parent: Option<(&'a str, SocketAddr)>,
    /// The names of its children, in the order of the file, which numbers them from 0.
    pub children: Vec<&'a str>,
    /// The child numbers that lead to it from the root.
    pub path: Vec<u8>,
    /// What it is tagged with.
    pub tags: &'a [String],
    /// The groups it belongs to.
    pub groups: &'a [String],
}

impl Topology {
    /// Reads a file whose name came from `asked_by`.
    ///
    /// Errors: everything that is wrong with it, in the order of its lines; the last may stand for several that are not listed.
    pub fn read(path: &Path, asked_by: Source) -> Result<Topology, Vec<Problem>> {
        match file::read_text(path, TOPOLOGY_FILE_BYTES_MAX) {
            Ok(text) => Topology::parse(path, &text, asked_by),
            Err(wrong) => Err(vec![Problem {
                source: asked_by,
                wrong,
            }]),
        }
    }

    fn parse(path: &Path, text: &str, asked_by: Source) -> Result<Topology, Vec<Problem>> {
        let mut problems = Problems {
            path,
            text,
            listed: Vec::new(),
            more: 0,
        };
        let drafts = draft::read(text, &mut problems);
        let topology = drafts.and_then(|drafts| Judging::new(&drafts).run(&mut problems));
        match topology {
            Some(topology) if problems.listed.is_empty() => Ok(topology),
            _ => Err(problems.finish(asked_by)),
        }
    }

    /// The place of the node of this name.
    pub fn place_of(&self, name: &str) -> Option<Seat<'_>> {
        let mut at = *self.by_name.get(name)?;
        let node = &self.nodes[at];
        let named = |of: usize| (self.nodes[of].name.as_str(), self.nodes[of].address);
        let mut path = Vec::new();
        // Ends: there is no circle, and a way to the root has at most 255 hops.
        while let Some(parent) = self.nodes[at].parent {
            path.push(self.nodes[at].number);
            at = parent;
        }
        path.reverse();
        Some(Seat {
            address: node.address,
            parent: node.parent.map(named),
            children: node.children.iter().map(|child| named(*child).0).collect(),
            path,
            tags: &node.tags,
            groups: &node.groups,
        })
    }

    /// The name of the root.
    pub fn root(&self) -> &str {
        &self.nodes[self.root].name
    }

    /// All names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.nodes.iter().map(|node| node.name.as_str())
    }
}

/// The name that a misspelt one was meant to be, if one is near.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let edits = |other: &str| strsim::damerau_levenshtein(name, other);
    let near = names
        .filter(|other| other.len().abs_diff(name.len()) <= SUGGESTION_EDITS_MAX)
        .map(|other| (edits(other), other))
        .min_by_key(|(edits, _)| *edits);
    // A name that would have to change altogether is another one.
    near.filter(|(edits, _)| *edits <= SUGGESTION_EDITS_MAX && *edits < name.len())
        .map(|(_, other)| other)
}

/// What is wrong with a file, as it is found.
struct Problems<'a> {
    path: &'a Path,
    text: &'a str,
    listed: Vec<Problem>,
    /// How many are not listed.
    more: usize,
}

impl Problems<'_> {
    /// Takes a problem at a byte of the file. What is wrong is only worked out where it is listed.
    fn push(&mut self, byte: usize, key: Option<String>, wrong: impl FnOnce() -> Wrong) {
        if self.listed.len() == PROBLEMS_MAX {
            self.more += 1;
            return;
        }
        let source = Source::File {
            path: PathBuf::from(self.path),
            line: file::line_at(self.text, byte),
            key,
        };
        self.listed.push(Problem {
            source,
            wrong: wrong(),
        });
    }

    fn push_topology(&mut self, byte: usize, key: String, wrong: impl FnOnce() -> WrongTopology) {
        self.push(byte, Some(key), || Wrong::Topology(wrong()));
    }

    fn finish(mut self, asked_by: Source) -> Vec<Problem> {
        self.listed.sort_by_key(|problem| problem.source.line());
        if self.more > 0 {
            self.listed.push(Problem {
                source: asked_by,
                wrong: Wrong::Topology(WrongTopology::More(self.more)),
            });
        }
        self.listed
    }
}

/// The nodes of a file, judged together.
struct Judging<'a> {
    drafts: &'a [Draft],
    by_name: HashMap<&'a str, usize>,
    /// The parent of each that has one which is there.
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
}

impl<'a> Judging<'a> {
    fn new(drafts: &'a [Draft]) -> Judging<'a> {
        let names = drafts.iter().enumerate();
        let by_name: HashMap<_, _> = names.map(|(at, draft)| (draft.name.as_str(), at)).collect();
        let parents: Vec<Option<usize>> = drafts
            .iter()
            .map(|draft| match &draft.parent {
                Parent::Named { name, .. } => by_name.get(name.as_str()).copied(),
                Parent::Absent | Parent::Unreadable => None,
            })
            .collect();
        let mut children = vec![Vec::new(); drafts.len()];
        for (at, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(at);
            }
        }
        Judging {
            drafts,
            by_name,
            parents,
            children,
        }
    }

    /// The tree, which is of use only where there are no problems; none where it could not even be put together.
    fn run(&self, problems: &mut Problems<'_>) -> Option<Topology> {
        self.find_unknown_parents(problems);
        self.find_doubled_addresses(problems);
        self.find_circles(problems);
        let root = self.find_root(problems);
        self.find_crowds(problems);
        self.find_depths(problems);
        if !problems.listed.is_empty() {
            return None;
        }
        let mut nodes = Vec::with_capacity(self.drafts.len());
        for (at, draft) in self.drafts.iter().enumerate() {
            nodes.push(Node {
                name: draft.name.clone(),
                address: draft.address?.0,
                parent: self.parents[at],
                number: 0,
                children: self.children[at].clone(),
                tags: draft.tags.clone(),
                groups: draft.groups.clone(),
            });
        }
        for children in &self.children {
            for (number, child) in children.iter().enumerate() {
                // There are at most 256, which has been checked.
                nodes[*child].number = u8::try_from(number).ok()?;
            }
        }
        let owned = self.by_name.iter();
        Some(Topology {
            nodes,
            by_name: owned.map(|(name, at)| (name.to_string(), *at)).collect(),
            root: root?,
        })
    }

    fn find_unknown_parents(&self, problems: &mut Problems<'_>) {
        for (at, draft) in self.drafts.iter().enumerate() {
            let Parent::Named { name, byte } = &draft.parent else {
                continue;
            };
            if self.parents[at].is_none() {
                problems.push_topology(*byte, draft.key("parent"), || {
                    let names = self.drafts.iter().map(|draft| draft.name.as_str());
                    let names = names.filter(|other| *other != draft.name);
                    WrongTopology::UnknownParent {
                        given: name.clone(),
                        nearest: nearest(name, names).map(str::to_string),
                    }
                });
            }
        }
    }

    fn find_doubled_addresses(&self, problems: &mut Problems<'_>) {
        let with_address = |draft: &'a Draft| draft.address.map(|(at, byte)| (byte, at, draft));
        let mut addresses: Vec<_> = self.drafts.iter().filter_map(with_address).collect();
        // A node that is there twice stands last among the nodes, but its address where it was at first.
        addresses.sort_by_key(|(byte, ..)| *byte);
        let text = problems.text;
        let mut first = HashMap::new();
        for (byte, address, draft) in addresses {
            let (other, other_byte) = *first.entry(address).or_insert((&draft.name, byte));
            if other_byte != byte {
                problems.push_topology(byte, draft.key("address"), || WrongTopology::SameAddress {
                    address,
                    other: other.clone(),
                    line: file::line_at(text, other_byte),
                });
            }
        }
    }

    /// Reports each circle once, at its node that stands first in the file.
    fn find_circles(&self, problems: &mut Problems<'_>) {
        /// The walk that came past a node first.
        const NONE: usize = usize::MAX;
        let mut walk_of = vec![NONE; self.drafts.len()];
        for start in 0..self.drafts.len() {
            let mut at = start;
            // Ends: each step takes a node that no walk has been at.
            while walk_of[at] == NONE {
                walk_of[at] = start;
                match self.parents[at] {
                    Some(parent) => at = parent,
                    None => break,
                }
            }
            let is_circle = walk_of[at] == start && self.parents[at].is_some();
            if is_circle {
                self.report_circle(at, problems);
            }
        }
    }

    fn report_circle(&self, inside: usize, problems: &mut Problems<'_>) {
        let next = |at: &usize| self.parents[*at].filter(|parent| *parent != inside);
        let circle: Vec<usize> = std::iter::successors(Some(inside), next).collect();
        let first = circle.iter().copied().min().unwrap_or(inside);
        let draft = &self.drafts[first];
        problems.push_topology(draft.parent_byte(), draft.key("parent"), || {
            let split = circle.iter().position(|at| *at == first).unwrap_or(0);
            let ordered = circle[split..].iter().chain(&circle[..split]);
            let names = ordered.map(|at| self.drafts[*at].name.clone());
            WrongTopology::Circle {
                names: names.take(CIRCLE_NAMES_MAX).collect(),
                count: circle.len(),
            }
        });
    }

    fn find_root(&self, problems: &mut Problems<'_>) -> Option<usize> {
        let without = |(_, draft): &(usize, &Draft)| matches!(draft.parent, Parent::Absent);
        let mut roots = self.drafts.iter().enumerate().filter(without);
        let first = roots.next();
        let (root, line) = first.map_or(("", 0), |(_, root)| {
            let line = file::line_at(problems.text, root.byte);
            (root.name.as_str(), line)
        });
        for (_, draft) in roots {
            problems.push_topology(draft.byte, draft.key(""), || WrongTopology::SecondRoot {
                root: root.to_string(),
                line,
            });
        }
        // A parent that cannot be read may be one that should not be there.
        let is_unclear = |draft: &Draft| matches!(draft.parent, Parent::Unreadable);
        if first.is_none() && !self.drafts.iter().any(is_unclear) {
            let byte = self.drafts.first().map_or(0, |draft| draft.byte);
            problems.push_topology(byte, "node".to_string(), || WrongTopology::NoRoot);
        }
        first.map(|(at, _)| at)
    }

    fn find_crowds(&self, problems: &mut Problems<'_>) {
        for (at, children) in self.children.iter().enumerate() {
            let Some(first_over) = children.get(CHILDREN_MAX) else {
                continue;
            };
            let draft = &self.drafts[*first_over];
            problems.push_topology(draft.parent_byte(), draft.key("parent"), || {
                WrongTopology::TooManyChildren {
                    parent: self.drafts[at].name.clone(),
                    count: children.len(),
                    max: CHILDREN_MAX,
                }
            });
        }
    }

    /// Reports the first node of each branch that is too deep; those below it would only repeat that.
    fn find_depths(&self, problems: &mut Problems<'_>) {
        let tops = (0..self.drafts.len()).filter(|at| self.parents[*at].is_none());
        let mut level: Vec<usize> = tops.collect();
        for _ in 0..=DEPTH_MAX {
            let below = level.iter().flat_map(|at| &self.children[*at]);
            level = below.copied().collect();
        }
        let too_deep: BTreeSet<usize> = level.into_iter().collect();
        for at in too_deep {
            let draft = &self.drafts[at];
            problems.push_topology(draft.parent_byte(), draft.key("parent"), || {
                WrongTopology::TooDeep(DEPTH_MAX)
            });
        }
    }
}
