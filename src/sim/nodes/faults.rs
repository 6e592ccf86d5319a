//! What happens to nodes and the network while clients work, each kind counted.
//!
//! Must not know what clients expect. Start at [`World::misbehave`]; [`World::end_faults`] ends all of it.

use super::network::{Cut, Health};
use super::world::{MS, World};

/// A node that drains is ended after this time at the latest: a place gives up on its children after a second.
const DRAIN_NS: u64 = 1_500 * MS;

/// Something that goes on for a while.
#[derive(Debug)]
pub(super) enum Ongoing {
    /// A node crashes and comes back again and again.
    Crashes { node: usize, next_ns: u64 },
    /// Connections between two nodes break again and again.
    Resets {
        one: usize,
        other: usize,
        next_ns: u64,
    },
    /// A node's children move away, then it ends.
    Drains {
        node: usize,
        incarnation: u64,
        since_ns: u64,
    },
}

impl World {
    pub(super) fn count_fault(&mut self, name: &'static str) {
        *self.sum.faults.entry(name).or_default() += 1;
    }

    /// Something breaks, or is mended; more in a large tree.
    pub(super) fn misbehave(&mut self) {
        self.go_on();
        for _ in 0..1 + self.network.nodes.len() / 100 {
            match self.network.rng.below(150) {
                0..28 => self.harm_node(),
                28..60 => self.harm_way(),
                _ => {}
            }
        }
        if self.network.rng.percent(2) {
            self.harm_network();
        }
    }

    fn any_node(&mut self) -> usize {
        let count = self.network.nodes.len();
        self.network.rng.below(count)
    }

    /// Two nodes, mostly such that have a link.
    fn any_way(&mut self) -> (usize, usize) {
        let node = self.any_node();
        let other = self.any_node();
        let parent = self
            .network
            .parent(node)
            .filter(|_| self.network.rng.percent(70));
        let (one, other) = (node, parent.unwrap_or(other));
        match self.network.rng.percent(50) {
            true => (one, other),
            false => (other, one),
        }
    }

    /// How long something lasts: less than a link's silence may, about as long, or longer.
    fn any_time_ns(&mut self) -> u64 {
        self.network.rng.pick(&[20, 50, 300, 2_200, 4_000]) * MS
    }

    fn harm_node(&mut self) {
        let node = self.any_node();
        let health = self.network.nodes[node].health;
        let now_ns = self.network.now_ns;
        match self.network.rng.below(28) {
            0..2 if health == Health::Runs => self.crash(node, "crash"),
            2..18 if health == Health::Dead => {
                self.count_fault("restart");
                self.network.start(node);
            }
            18..20 if health == Health::Runs => {
                self.count_fault("hang");
                let time_ns = self.network.rng.below(5_000) as u64 * MS;
                self.network.hang(node, now_ns + time_ns);
            }
            20 if health == Health::Runs => {
                self.count_fault("flapping node");
                let next_ns = now_ns;
                self.ongoing.push(Ongoing::Crashes { node, next_ns });
            }
            21..23 if health == Health::Runs && self.alive() > 1 => {
                self.count_fault("drain: its children move");
                let incarnation = self.network.nodes[node].incarnation;
                self.network.drain(node, 10_000);
                let since_ns = now_ns;
                self.ongoing.push(Ongoing::Drains {
                    node,
                    incarnation,
                    since_ns,
                });
            }
            23 => {
                // The root, which is the hardest to lose.
                let mut nodes = 0..self.network.nodes.len();
                let root =
                    nodes.find(|&node| self.network.path(node).is_some_and(|path| path.is_empty()));
                if let Some(root) =
                    root.filter(|&root| self.network.nodes[root].health == Health::Runs)
                {
                    self.crash(root, "crash of a root");
                }
            }
            _ => {}
        }
    }

    fn harm_way(&mut self) {
        let (one, other) = self.any_way();
        let time_ns = self.any_time_ns();
        match self.network.rng.below(32) {
            0..8 if self.network.reset_one() => self.count_fault("connection reset"),
            8..13 => {
                self.count_fault("one-way cut");
                self.network.weather.cut(
                    Cut::Way {
                        from: one,
                        to: other,
                    },
                    time_ns,
                );
            }
            13..18 => {
                self.count_fault("cut");
                self.network.weather.cut(Cut::Pair { one, other }, time_ns);
            }
            18..22 => {
                self.count_fault("flapping way");
                let period_ns = self.network.rng.pick(&[3, 30, 300, 1_200]) * MS;
                let cut = Cut::Flap {
                    one,
                    other,
                    period_ns,
                };
                self.network.weather.cut(cut, 3 * period_ns + time_ns);
            }
            22..24 => {
                self.count_fault("flapping connections");
                let next_ns = self.network.now_ns;
                self.ongoing.push(Ongoing::Resets {
                    one,
                    other,
                    next_ns,
                });
            }
            24..26 => {
                self.count_fault("one-way cut of a node, out");
                self.network.weather.cut(Cut::Mute { node: one }, time_ns);
            }
            26..28 => {
                self.count_fault("one-way cut of a node, in");
                self.network.weather.cut(Cut::Deaf { node: one }, time_ns);
            }
            _ => {}
        }
    }

    fn harm_network(&mut self) {
        match self.network.rng.below(6) {
            0..3 => {
                let most = self.network.rng.pick(&[1, 5, 80]);
                self.network.weather.delay_ns = (MS / 5, most * MS);
                self.network.weather.loss_percent = self.network.rng.pick(&[0, 0, 2, 10]);
                let is_bad = most > 1 || self.network.weather.loss_percent > 0;
                if is_bad {
                    self.count_fault("delay or loss");
                }
            }
            3 | 4 if self.network.weather.cuts() < 20 => {
                let sides = self.any_sides();
                let time_ns = self.network.rng.pick(&[300, 2_500, 5_000]) * MS;
                let cut = match self.network.rng.percent(30) {
                    true => {
                        self.count_fault("one-way cut between two parts");
                        Cut::PartsOneWay { sides }
                    }
                    false => {
                        self.count_fault("cut between two parts");
                        Cut::Parts { sides }
                    }
                };
                self.network.weather.cut(cut, time_ns);
            }
            _ => {}
        }
    }

    /// A subtree and the others, or two parts by chance.
    fn any_sides(&mut self) -> Vec<bool> {
        let top = self.any_node();
        let top = self.network.path(top).filter(|path| !path.is_empty());
        let nodes = 0..self.network.nodes.len();
        match top.filter(|_| self.network.rng.percent(60)) {
            Some(top) => {
                let is_below = |node| {
                    let path: Option<Vec<u8>> = self.network.path(node);
                    path.is_some_and(|path| path.starts_with(&top))
                };
                nodes.map(is_below).collect()
            }
            None => nodes.map(|_| self.network.rng.percent(50)).collect(),
        }
    }

    fn crash(&mut self, node: usize, name: &'static str) {
        if self.alive() > 1 {
            self.count_fault(name);
            self.network.kill(node);
            self.forget_clients(node);
        }
    }

    fn alive(&self) -> usize {
        let nodes = self.network.nodes.iter();
        nodes.filter(|node| node.health != Health::Dead).count()
    }

    /// Carries on what goes on for a while.
    fn go_on(&mut self) {
        let now_ns = self.network.now_ns;
        for ongoing in std::mem::take(&mut self.ongoing) {
            let goes_on = self.network.rng.percent(85);
            let pause_ns = self.network.rng.pick(&[20, 100, 400]) * MS;
            let next_ns = now_ns + pause_ns;
            match ongoing {
                Ongoing::Crashes { next_ns, .. } | Ongoing::Resets { next_ns, .. }
                    if now_ns < next_ns =>
                {
                    self.ongoing.push(ongoing);
                }
                Ongoing::Crashes { node, .. } => {
                    match self.network.nodes[node].health {
                        Health::Dead => self.network.start(node),
                        _ => self.crash(node, "crash while flapping"),
                    }
                    if goes_on {
                        self.ongoing.push(Ongoing::Crashes { node, next_ns });
                    }
                }
                Ongoing::Resets { one, other, .. } => {
                    self.network.reset_between(one, other);
                    if goes_on {
                        self.ongoing.push(Ongoing::Resets {
                            one,
                            other,
                            next_ns,
                        });
                    }
                }
                Ongoing::Drains {
                    node,
                    incarnation,
                    since_ns,
                } => self.go_on_draining(node, incarnation, since_ns),
            }
        }
    }

    fn go_on_draining(&mut self, node: usize, incarnation: u64, since_ns: u64) {
        let there = &self.network.nodes[node];
        if there.health == Health::Dead || there.incarnation != incarnation {
            return;
        }
        if there.health == Health::Runs {
            self.network.leave(node);
        }
        let is_done = self.network.is_drained(node);
        if is_done {
            self.count_fault("drained: nobody is left below");
        }
        if is_done || self.network.now_ns > since_ns + DRAIN_NS {
            self.network.kill(node);
            self.forget_clients(node);
        } else {
            let ongoing = Ongoing::Drains {
                node,
                incarnation,
                since_ns,
            };
            self.ongoing.push(ongoing);
        }
    }

    /// Ends all faults; all nodes run then, so that every seed is there.
    pub(super) fn end_faults(&mut self) {
        for ongoing in std::mem::take(&mut self.ongoing) {
            // Who drains takes nobody in any more, and must begin anew.
            if let Ongoing::Drains {
                node, incarnation, ..
            } = ongoing
                && self.network.nodes[node].incarnation == incarnation
                && self.network.nodes[node].health != Health::Dead
            {
                self.network.kill(node);
                self.forget_clients(node);
            }
        }
        self.network.mend();
    }
}
