//! What must hold at any time: memory is capped, no loop of links lasts, and what parents and trees there are.
//!
//! Must not know what clients expect. Start at [`World::look`].

use super::network::Health;
use super::world::{MS, World};
use crate::{Failure, fail};
use sapwood_core::tree::place::{ASKED_MAX, REMEMBERED_MAX, STRANGERS_MAX, TARGETS_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Nodes are looked at so often, in nanoseconds: in a large tree it costs more.
const LOOK_NS: u64 = 20 * MS;
const LOOK_LARGE_NS: u64 = 100 * MS;

/// A tree of more nodes is large.
const LARGE: usize = 60;

/// A loop of links may stand for so long, in nanoseconds: news go around it at once, but a node of it that hangs or is cut off
/// is found by its silence, of one second, lanes that were cut come again after another, and the beats may then take one more.
const LOOP_NS_MAX: u64 = 3_000 * MS;

/// What a lane keeps beside events, at most: interest and what is said of losses. The simulator's names are short and few.
const LANE_INTEREST_BYTES: usize = 128 * 1024;

/// Most lanes that a shard has of a link: nodes have 1 to 4 shards, and 3 of one and 4 of another make 12 lanes.
const LANES_MAX: usize = 4;

/// What was seen of the tree when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    next_ns: u64,
    parents: Vec<Option<usize>>,
    trees: usize,
    /// Since when each node stands in a loop.
    loops: BTreeMap<usize, u64>,
}

impl World {
    /// Checks what must hold at any time, now and then.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let now_ns = self.network.now_ns;
        if now_ns < self.seen.next_ns {
            return Ok(());
        }
        let count = self.network.nodes.len();
        let pause_ns = if count > LARGE {
            LOOK_LARGE_NS
        } else {
            LOOK_NS
        };
        self.seen.next_ns = now_ns + pause_ns;
        if let Some(node) = self.network.forgotten() {
            return fail(
                "simulator",
                format!("node {node} has something to do, and no turn"),
            );
        }
        for node in 0..count {
            self.check_caps(node)?;
        }
        let parents = (0..count).map(|node| self.network.linked_parent(node));
        let parents: Vec<Option<usize>> = parents.collect();
        self.check_loops(&parents)?;
        self.note_moves(parents);
        self.note_trees();
        Ok(())
    }

    fn check_caps(&mut self, node: usize) -> Result<(), Failure> {
        let Some(counts) = self.network.place_counts(node) else {
            return Ok(());
        };
        let children_max = usize::from(self.children_max);
        let peers_max = STRANGERS_MAX + TARGETS_MAX + children_max + 1;
        let is_within = counts.strangers <= STRANGERS_MAX
            && counts.targets <= TARGETS_MAX
            && counts.asked <= ASKED_MAX + 1
            && counts.remembered <= REMEMBERED_MAX
            && counts.peers <= peers_max;
        if !is_within {
            return fail("memory", format!("node {node} keeps {counts:?}"));
        }
        let mut most = 0;
        for counters in self.network.counters_of(node) {
            let links = counters.links as usize;
            if links > children_max + 1 {
                return fail("memory", format!("node {node} has {links} links"));
            }
            let lanes = links * LANES_MAX;
            let kept_max = lanes * (self.limits.lane_bytes_max + LANE_INTEREST_BYTES);
            if counters.link_bytes_kept as usize > kept_max {
                let text = format!(
                    "links of node {node} keep {} bytes",
                    counters.link_bytes_kept
                );
                return fail("memory", text);
            }
            if counters.link_origins as usize > self.limits.origins_max {
                let text = format!("node {node} remembers {} origins", counters.link_origins);
                return fail("memory", text);
            }
            most = most.max(counters.link_bytes_kept);
        }
        self.sum.kept_bytes_most = self.sum.kept_bytes_most.max(most);
        Ok(())
    }

    fn check_loops(&mut self, parents: &[Option<usize>]) -> Result<(), Failure> {
        // 0: not looked at; 1: on the way up from here; 2: done.
        let mut marks = vec![0_u8; parents.len()];
        let mut loops = BTreeMap::new();
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
                for &node in &way[from.unwrap_or(way.len())..] {
                    let since_ns = self.seen.loops.get(&node).copied();
                    loops.insert(node, since_ns.unwrap_or(self.network.now_ns));
                }
            }
            way.iter().for_each(|node| marks[*node] = 2);
        }
        if self.seen.loops.is_empty() && !loops.is_empty() {
            self.count_fault("loop of links, for a moment");
        }
        self.seen.loops = loops;
        let now_ns = self.network.now_ns;
        let mut lasting = self.seen.loops.iter();
        match lasting.find(|(_, since_ns)| now_ns - **since_ns > LOOP_NS_MAX) {
            Some((node, _)) => fail("loop", format!("node {node} stands in a loop of links")),
            None => Ok(()),
        }
    }

    /// Counts nodes that have another parent than before.
    fn note_moves(&mut self, parents: Vec<Option<usize>>) {
        let pairs = parents.iter().zip(&self.seen.parents);
        let moves = pairs.filter(
            |(now, before)| matches!((now, before), (Some(now), Some(before)) if now != before),
        );
        let moves = moves.count() as u64;
        if moves > 0 {
            *self.sum.faults.entry("move to another parent").or_default() += moves;
        }
        self.seen.parents = parents;
    }

    /// Counts trees that become one.
    fn note_trees(&mut self) {
        let nodes = 0..self.network.nodes.len();
        let running = nodes.filter(|&node| self.network.nodes[node].health == Health::Runs);
        let roots: BTreeSet<u64> = running.filter_map(|node| self.network.root(node)).collect();
        if roots.len() < self.seen.trees && !roots.is_empty() {
            let merges = (self.seen.trees - roots.len()) as u64;
            *self.sum.faults.entry("trees become one").or_default() += merges;
        }
        self.seen.trees = roots.len();
    }
}
