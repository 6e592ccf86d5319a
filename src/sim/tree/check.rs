//! What must hold at any time, and when all is quiet.
//!
//! Must not know why. Start at [`World::check_step`] and [`World::shape`].

use super::{TreeFailure, World};
use sapwood_core::tree::place::{
    ASKED_MAX, DEPTH_MAX, REMEMBERED_MAX, Role, STRANGERS_MAX, TARGETS_MAX,
};
use sapwood_wire::node::NodeId;
use std::collections::BTreeMap;

/// A loop of links may stand for so long, in nanoseconds: news go around it at once, but a node of it that hangs or is cut off
/// is found by its silence, of up to 2.25 s, and the beats may then take one more.
const LOOP_NS_MAX: u64 = 3_250_000_000;

/// Events less than so far apart, in nanoseconds, come in a rush, and of one so many at most, and a hundred for each node.
const RUSH_NS: u64 = 1_000;
const RUSH_EVENTS_MAX: u64 = 10_000;

/// Trees, and nodes of each, that are shown to people.
const TREES_SHOWN: usize = 20;

/// More nodes than this are a crowd, whose links are looked at so often, in nanoseconds.
const CROWD: usize = 200;
const CROWD_NS: u64 = 100_000_000;

/// More than this are a large crowd, whose links are looked at so often, in nanoseconds.
const LARGE_CROWD: usize = 10_000;
const LARGE_CROWD_NS: u64 = 1_000_000_000;

/// In a crowd, caps are looked at when so many nodes were given something, each once.
const TOUCHED_MAX: usize = 100_000;

/// What the tree looks like when all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Nodes that run.
    pub nodes: usize,
    /// The longest path.
    pub depth: usize,
    /// The root's number.
    pub root: usize,
    /// The reign's term.
    pub term: u64,
}

impl World {
    fn failure<T>(&self, check: &'static str, text: String) -> Result<T, TreeFailure> {
        let at_ns = self.now_ns();
        Err(TreeFailure { check, text, at_ns })
    }

    /// A machine that asks for a tick again and again without pause would never let time pass.
    pub(super) fn check_spin(&mut self, at_ns: u64) -> Result<(), TreeFailure> {
        let is_rush = at_ns < self.now_ns() + RUSH_NS;
        self.rush = if is_rush { self.rush + 1 } else { 0 };
        if self.rush > RUSH_EVENTS_MAX + 100 * self.len() as u64 {
            return self.failure("spin", "time stands still".to_string());
        }
        Ok(())
    }

    /// What must hold at any time.
    pub(super) fn check_step(&mut self) -> Result<(), TreeFailure> {
        if let Some((check, text)) = self.broken_rule.take() {
            return self.failure(check, text);
        }
        if self.len() <= CROWD || self.touched.len() >= TOUCHED_MAX {
            let mut touched = std::mem::take(&mut self.touched);
            touched.sort_unstable();
            touched.dedup();
            for number in touched {
                self.check_caps(number)?;
            }
        }
        let is_due = self.has_links_changed || !self.loops.is_empty();
        // In a large world not at every change: it costs as much as there are nodes.
        let wait_ns = match self.len() {
            count if count > LARGE_CROWD => LARGE_CROWD_NS,
            count if count > CROWD => CROWD_NS,
            _ => 0,
        };
        if is_due && self.now_ns() >= self.loops_checked_ns + wait_ns {
            self.has_links_changed = false;
            self.loops_checked_ns = self.now_ns();
            self.check_loops()?;
        }
        Ok(())
    }

    fn check_caps(&self, number: usize) -> Result<(), TreeFailure> {
        let node = &self.nodes[number];
        let Some(place) = &node.place else {
            return Ok(());
        };
        let children = node
            .links
            .values()
            .filter(|role| matches!(role, Role::Child(_)));
        if children.count() > usize::from(node.config.children_max) {
            return self.failure("children", format!("node {number} has too many"));
        }
        let counts = place.counts();
        let peers_max = STRANGERS_MAX + TARGETS_MAX + usize::from(node.config.children_max) + 1;
        let is_within = counts.strangers <= STRANGERS_MAX
            && counts.targets <= TARGETS_MAX
            && counts.asked <= ASKED_MAX + 1
            && counts.remembered <= REMEMBERED_MAX
            && counts.peers <= peers_max;
        if !is_within {
            return self.failure("caps", format!("node {number} keeps {counts:?}"));
        }
        let depth = place.path().map_or(0, <[u8]>::len);
        if depth > DEPTH_MAX {
            return self.failure("depth", format!("node {number} stands {depth} deep"));
        }
        Ok(())
    }

    /// The parent of each node by links that both sides have adopted.
    fn parents(&self) -> Vec<Option<usize>> {
        let parents = self.nodes.iter().map(|node| {
            let (&peer, _) = node.links.iter().find(|(_, role)| **role == Role::Parent)?;
            let (other, end) = self.other_end(peer)?;
            let is_child = matches!(self.nodes[other].links.get(&end), Some(Role::Child(_)));
            is_child.then_some(other)
        });
        parents.collect()
    }

    fn check_loops(&mut self) -> Result<(), TreeFailure> {
        let parents = self.parents();
        // 0: not looked at; 1: on the way up from here; 2: done.
        let mut marks = vec![0_u8; parents.len()];
        let mut in_loops = BTreeMap::new();
        for start in 0..parents.len() {
            let mut way = Vec::new();
            let mut at = start;
            // Ends: each turn marks a node, or stops at one that is marked.
            while marks[at] == 0 {
                marks[at] = 1;
                way.push(at);
                let Some(parent) = parents[at] else { break };
                at = parent;
            }
            if marks[at] == 1 && parents[at].is_some() {
                let from = way.iter().position(|node| *node == at);
                for node in &way[from.unwrap_or(way.len())..] {
                    let since_ns = self.loops.get(node).copied();
                    in_loops.insert(*node, since_ns.unwrap_or(self.now_ns()));
                }
            }
            way.iter().for_each(|node| marks[*node] = 2);
        }
        self.loops = in_loops;
        let oldest = self.loops.iter().min_by_key(|(_, since_ns)| **since_ns);
        match oldest {
            Some((node, since_ns)) if self.now_ns() - since_ns > LOOP_NS_MAX => {
                let text = format!("node {node} stands in a loop since {since_ns} ns");
                self.failure("loop", text)
            }
            _ => Ok(()),
        }
    }

    /// The tree, if all running nodes stand in one and agree about it; else what is wrong.
    pub fn shape(&self) -> Result<Shape, String> {
        let running: Vec<_> = (0..self.len())
            .filter(|number| self.is_running(*number))
            .collect();
        let mut shape = Shape::default();
        let Some(&first) = running.first() else {
            return Ok(shape);
        };
        let reign = self.place(first).map(|place| place.reign());
        let stands_elsewhere =
            |number: &&usize| self.place(**number).map(|place| place.reign()) != reign;
        if let Some(number) = running.iter().find(stands_elsewhere) {
            return Err(format!("node {number} stands in another tree"));
        }
        let by_id: BTreeMap<NodeId, usize> = running
            .iter()
            .map(|number| (self.nodes[*number].config.node, *number))
            .collect();
        let mut roots = Vec::new();
        for &number in &running {
            let Some(place) = self.place(number) else {
                continue;
            };
            let Some(path) = place.path() else {
                return Err(format!("node {number} is adrift"));
            };
            shape.depth = shape.depth.max(path.len());
            shape.term = place.reign().term;
            self.check_links(number)?;
            let Some(parent) = place.parent() else {
                roots.push(number);
                continue;
            };
            let above = by_id
                .get(&parent.contact.node())
                .and_then(|above| self.place(*above));
            let above = above.and_then(|above| above.path());
            let number_below = path.last();
            if above != Some(&path[..path.len() - 1]) || number_below.is_none() {
                return Err(format!(
                    "node {number} has the path {path:?} below {above:?}"
                ));
            }
        }
        if roots.len() != 1 {
            return Err(format!("the roots are {roots:?}"));
        }
        shape.root = roots[0];
        shape.nodes = running.len();
        Ok(shape)
    }

    /// Every link of a node is one at the other side too, with the same number.
    fn check_links(&self, number: usize) -> Result<(), String> {
        let node = &self.nodes[number];
        let path_end = |number: usize| {
            let place = self.place(number)?;
            place.path()?.last().copied()
        };
        for (&peer, &role) in &node.links {
            let other = self
                .other_end(peer)
                .and_then(|(other, end)| Some((other, *self.nodes[other].links.get(&end)?)));
            let is_same = match (role, other) {
                (Role::Parent, Some((_, Role::Child(child)))) => path_end(number) == Some(child),
                (Role::Child(child), Some((other, Role::Parent))) => path_end(other) == Some(child),
                _ => false,
            };
            if !is_same {
                return Err(format!(
                    "node {number} has {role:?}, the other side {other:?}"
                ));
            }
        }
        Ok(())
    }

    /// All trees, for people to read.
    pub fn describe(&self) -> String {
        let ids = self.nodes.iter().map(|node| node.config.node);
        let by_id: BTreeMap<NodeId, usize> = ids.zip(0..).collect();
        let mut trees = BTreeMap::<String, Vec<usize>>::new();
        for number in (0..self.len()).filter(|number| self.is_running(*number)) {
            if let Some(place) = self.place(number) {
                let reign = place.reign();
                let root = by_id.get(&reign.root());
                let (term, level, settled) = (reign.term, reign.level, reign.settled);
                let what = if settled { "settled" } else { "adrift" };
                let tree = format!("{what}, term {term}, level {level}, top {root:?}");
                trees.entry(tree).or_default().push(number);
            }
        }
        let count = trees.len();
        let mut shown = String::new();
        for (tree, nodes) in trees.into_iter().take(TREES_SHOWN) {
            let some: Vec<usize> = nodes.iter().copied().take(TREES_SHOWN).collect();
            shown += &format!("{tree}: {} nodes, {some:?}; ", nodes.len());
        }
        format!("{count} trees: {shown}")
    }

    /// Lets time pass until all running nodes stand in one tree; the time that it took.
    pub fn run_until_one(&mut self, limit_ns: u64) -> Result<u64, TreeFailure> {
        /// How often it is looked whether they do.
        const STEP_NS: u64 = 5_000_000;
        let step_ns = match self.len() {
            count if count > LARGE_CROWD => CROWD_NS,
            count if count > CROWD => CROWD_NS / 4,
            _ => STEP_NS,
        };
        let start_ns = self.now_ns();
        loop {
            let wrong = match self.shape() {
                Ok(_) => return Ok(self.now_ns() - start_ns),
                Err(wrong) => wrong,
            };
            if self.now_ns() >= start_ns + limit_ns {
                return self.failure("one tree", format!("{wrong}; {}", self.describe()));
            }
            self.run_until(self.now_ns() + step_ns)?;
        }
    }
}
