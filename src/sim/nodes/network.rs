//! Whole nodes and the network between them: every shard is driven as a server drives it, every byte takes its time.
//!
//! Owns nodes, connections, the clock and faults; must not know what clients expect. A connection behaves as TCP does: bytes
//! keep their order, come late or not at all while a way is cut, and are lost only with the connection. Start at
//! [`Network::step`]; `drive` is what a node does in its turn.

mod drive;

use crate::rng::Rng;
use sapwood_core::command::{ClientId, ConnId, Now, ShardId};
use sapwood_core::handover::{Batch, Place};
use sapwood_core::limits::Limits;
use sapwood_core::tree::place::PlaceConfig;
use sapwood_core::tree::{NodeId, SecretKey, TreeConfig};
use sapwood_core::{
    BodyGauge, Config, Input, Next, Outputs, PAYLOAD_BYTES_MAX, Policy, Protocol, Shard,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// What a socket takes before it blocks.
const SOCKET_BYTES: usize = 256 * 1024;

/// What one read brings at most.
const READ_BYTES: usize = 64 * 1024;

/// A dial that gets no answer fails after this time.
const DIAL_NS: u64 = 1_000_000_000;

/// Lines of the nodes' logs that are kept, to be shown when something was wrong.
const LOG_LINES_MAX: usize = 60;

/// Rounds of a node's shards within which one step must come to rest.
const ROUNDS_MAX: usize = 10_000;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Shard {
        node: usize,
        shard: usize,
        conn: ConnId,
    },
    Client(usize),
    Nobody,
}

/// One way of a connection.
#[derive(Debug, Default)]
struct Wire {
    /// What is under way, and when each part arrives.
    parts: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// When the end of the connection arrives.
    closed_ns: Option<u64>,
}

#[derive(Debug)]
struct Pipe {
    ends: [End; 2],
    /// The nodes at both ends; `None` is a client.
    nodes: [Option<usize>; 2],
    /// By the end that sends.
    wires: [Wire; 2],
}

#[derive(Debug)]
struct Socket {
    pipe: usize,
    side: usize,
    input: Vec<u8>,
    needed: usize,
    held: bool,
    is_closing: bool,
    is_blocked: bool,
}

/// One shard and what its driver keeps.
struct Driven {
    core: Shard,
    sockets: Vec<Option<Socket>>,
    outputs: Outputs,
    inbox: VecDeque<(usize, Batch)>,
    returns: VecDeque<(usize, Batch)>,
    unfinished: Option<(usize, Batch, Place)>,
    /// In this step it does not come to what other shards sent.
    is_late: bool,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Runs,
    /// Until this time it does nothing; what others send it waits.
    Hangs(u64),
    Dead,
}

/// A node.
pub(crate) struct Node {
    pub health: Health,
    pub address: SocketAddr,
    pub incarnation: u64,
    shards: Vec<Driven>,
    plan: NodePlan,
}

/// How a node is to be.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    pub shards: u16,
    pub children_max: u8,
    pub seeds: Vec<usize>,
    pub limits: Limits,
    pub is_sealed: bool,
}

/// A dial under way.
struct Dialing {
    from: (usize, usize),
    incarnation: u64,
    dial: u64,
    to: SocketAddr,
    due_ns: u64,
}

/// How the network is at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// Least and most time that bytes take, in nanoseconds.
    pub delay_ns: (u64, u64),
    /// Of a hundred parts, how many are lost and sent again.
    pub loss_percent: usize,
    /// Ways that are cut: from, to.
    pub cuts: BTreeSet<(usize, usize)>,
}

/// Nodes and the network between them.
pub(crate) struct Network {
    pub nodes: Vec<Node>,
    pub now_ns: u64,
    pub weather: Weather,
    pub rng: Rng,
    pipes: Vec<Option<Pipe>>,
    dials: Vec<Dialing>,
    /// What clients were sent and have not read.
    pub delivered: BTreeMap<usize, Vec<u8>>,
    /// Clients whose connection ended.
    pub ended: BTreeSet<usize>,
    client_pipes: BTreeMap<usize, usize>,
    next_client: u64,
    /// The last lines that operators would have read.
    pub log: VecDeque<String>,
}

/// Where a node listens.
pub(crate) fn address(node: usize) -> SocketAddr {
    let [_, _, high, low] = (node as u32).to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 7401))
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            nodes: Vec::new(),
            now_ns: 1_000_000_000,
            weather: Weather {
                delay_ns: (200_000, 1_000_000),
                ..Weather::default()
            },
            rng: Rng::new(seed),
            pipes: Vec::new(),
            dials: Vec::new(),
            delivered: BTreeMap::new(),
            ended: BTreeSet::new(),
            client_pipes: BTreeMap::new(),
            next_client: 1,
            log: VecDeque::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            monotonic_ns: self.now_ns,
            wall_ms: 1_700_000_000_000 + self.now_ns / 1_000_000,
        }
    }

    /// Adds a node that runs.
    pub(crate) fn add(&mut self, plan: NodePlan) -> usize {
        let number = self.nodes.len();
        self.nodes.push(Node {
            health: Health::Dead,
            address: address(number),
            incarnation: 0,
            shards: Vec::new(),
            plan,
        });
        self.start(number);
        number
    }

    /// Starts a node that is dead.
    pub(crate) fn start(&mut self, number: usize) {
        let entropy = self.rng.next();
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        assert_eq!(node.health, Health::Dead);
        node.health = Health::Runs;
        node.incarnation = now_ns;
        let plan = &node.plan;
        let mut place = PlaceConfig::new(NodeId(1000 + number as u64), now_ns, Some(node.address));
        place.seeds = plan.seeds.iter().map(|&seed| address(seed)).collect();
        place.children_max = plan.children_max;
        place.entropy = entropy;
        let gauge = BodyGauge::default();
        let shards = plan.shards;
        // invariant: the secret is long enough.
        let key = SecretKey::from_secret(b"a secret of the simulator").expect("a secret");
        let make = |shard: u16| Config {
            shard: ShardId(shard),
            shards,
            user: None,
            password: None,
            nats_payload_max: PAYLOAD_BYTES_MAX,
            web: Default::default(),
            may_broadcast: true,
            vitals: Default::default(),
            tree: Some(TreeConfig {
                place: place.clone(),
                advertise: Some(node.address),
                key: plan.is_sealed.then(|| key.clone()),
                entropy: [shard as u8 ^ entropy as u8; 32],
            }),
            limits: plan.limits.clone(),
            hash_seed: 1,
            body_gauge: gauge.clone(),
            run_id: "0".repeat(40),
            process_id: 1,
            started_wall_ms: 1,
        };
        node.shards = (0..shards)
            .map(|shard| Driven::new(Shard::new(make(shard))))
            .collect();
    }

    /// Kills a node: its connections end everywhere.
    pub(crate) fn kill(&mut self, number: usize) {
        self.nodes[number].health = Health::Dead;
        self.nodes[number].shards.clear();
        for pipe in 0..self.pipes.len() {
            let Some(there) = &self.pipes[pipe] else {
                continue;
            };
            for side in 0..2 {
                if there.nodes[side] == Some(number) {
                    self.close_end(pipe, side);
                    break;
                }
            }
        }
    }

    /// Breaks a connection between two nodes, chosen by the seed; whether there was one.
    pub(crate) fn reset_one(&mut self) -> bool {
        let links: Vec<usize> = (0..self.pipes.len())
            .filter(|&pipe| {
                let pipe = self.pipes[pipe].as_ref();
                pipe.is_some_and(|pipe| pipe.nodes.iter().all(Option::is_some))
            })
            .collect();
        if links.is_empty() {
            return false;
        }
        let pipe = self.rng.pick(&links);
        for side in 0..2 {
            if let Some(there) = &mut self.pipes[pipe] {
                // What is under way is lost.
                there.wires[side].parts.clear();
                there.wires[side].bytes = 0;
                there.wires[side].closed_ns = Some(self.now_ns);
            }
        }
        true
    }

    /// Connects a client to a shard of a node.
    pub(crate) fn connect_client(&mut self, client: usize, node: usize, shard: usize) {
        let pipe = self.new_pipe(End::Client(client), None, Some(node));
        self.client_pipes.insert(client, pipe);
        self.delivered.insert(client, Vec::new());
        self.ended.remove(&client);
        self.accept(pipe, 1, (node, shard), Protocol::Native);
    }

    /// What a client sends.
    pub(crate) fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(&pipe) = self.client_pipes.get(&client)
            && let Some(there) = &mut self.pipes[pipe]
        {
            there.wires[0].bytes += bytes.len();
            there.wires[0]
                .parts
                .push_back((self.now_ns, bytes.to_vec()));
        }
    }

    /// Ends a client's connection.
    pub(crate) fn disconnect_client(&mut self, client: usize) {
        if let Some(pipe) = self.client_pipes.remove(&client) {
            self.close_end(pipe, 0);
        }
    }

    fn new_pipe(&mut self, from: End, node: Option<usize>, to: Option<usize>) -> usize {
        let pipe = Pipe {
            ends: [from, End::Nobody],
            nodes: [node, to],
            wires: Default::default(),
        };
        let free = self.pipes.iter().position(Option::is_none);
        let place = free.unwrap_or(self.pipes.len());
        if place == self.pipes.len() {
            self.pipes.push(None);
        }
        self.pipes[place] = Some(pipe);
        place
    }

    /// Gives one end of a connection to a shard.
    fn accept(
        &mut self,
        pipe: usize,
        side: usize,
        (node, shard): (usize, usize),
        protocol: Protocol,
    ) {
        let now = self.now();
        let client = ClientId(self.next_client);
        self.next_client += 1;
        let driven = &mut self.nodes[node].shards[shard];
        let free = driven.sockets.iter().position(Option::is_none);
        let slot = free.unwrap_or(driven.sockets.len());
        if slot == driven.sockets.len() {
            driven.sockets.push(None);
        }
        driven.sockets[slot] = Some(Socket {
            pipe,
            side,
            input: Vec::new(),
            needed: 1,
            held: false,
            is_closing: false,
            is_blocked: false,
        });
        let conn = ConnId(slot as u32);
        // invariant: the caller has just made it, or moves it.
        let there = self.pipes[pipe].as_mut().expect("a connection");
        there.ends[side] = End::Shard { node, shard, conn };
        let other = there.nodes[1 - side];
        let peer = other.map_or(SocketAddr::from(([127, 0, 0, 1], 5)), address);
        let input = Input::Opened {
            conn,
            client,
            protocol,
            policy: Policy::Close,
            peer,
            local: address(node),
        };
        driven.core.handle(input, now, &mut driven.outputs);
    }

    /// One end of a connection is gone; the other learns of it in time.
    fn close_end(&mut self, pipe: usize, side: usize) {
        let delay = self.delay();
        let Some(there) = &mut self.pipes[pipe] else {
            return;
        };
        there.ends[side] = End::Nobody;
        let wire = &mut there.wires[side];
        let last = wire.parts.back().map_or(0, |&(due, _)| due);
        wire.closed_ns
            .get_or_insert((self.now_ns + delay).max(last));
        if there.ends == [End::Nobody, End::Nobody] {
            self.pipes[pipe] = None;
        }
    }

    fn delay(&mut self) -> u64 {
        let (least, most) = self.weather.delay_ns;
        let mut delay = least + self.rng.below((most - least + 1) as usize) as u64;
        if self.weather.loss_percent > 0 && self.rng.percent(self.weather.loss_percent) {
            // It is sent again after a while.
            delay += 40_000_000;
        }
        delay
    }

    fn is_cut(&self, from: Option<usize>, to: Option<usize>) -> bool {
        match (from, to) {
            (Some(from), Some(to)) => self.weather.cuts.contains(&(from, to)),
            _ => false,
        }
    }

    /// Lets time pass, and everything happen that is due.
    pub(crate) fn step(&mut self, ns: u64) {
        self.now_ns += ns;
        self.connect_dials();
        for node in 0..self.nodes.len() {
            if let Health::Hangs(until) = self.nodes[node].health
                && until <= self.now_ns
            {
                self.nodes[node].health = Health::Runs;
            }
            if self.nodes[node].health == Health::Runs {
                self.run_node(node);
            }
        }
        self.deliver_to_clients();
    }

    /// What has arrived of what one end sent, and whether nothing more will come.
    fn arrived(&mut self, pipe: usize, from: usize) -> (Vec<u8>, bool) {
        let now_ns = self.now_ns;
        let Some(there) = &self.pipes[pipe] else {
            return (Vec::new(), true);
        };
        if self.is_cut(there.nodes[from], there.nodes[1 - from]) {
            return (Vec::new(), false);
        }
        let mut bytes = Vec::new();
        let split = self.rng.percent(10);
        // invariant: looked at above.
        let wire = &mut self.pipes[pipe].as_mut().expect("a connection").wires[from];
        while let Some((due, part)) = wire.parts.front_mut()
            && *due <= now_ns
            && bytes.len() < READ_BYTES
        {
            if split && part.len() > 1 {
                // A part of it comes by itself.
                let rest = part.split_off(part.len() / 2);
                bytes.append(part);
                *part = rest;
                break;
            }
            bytes.append(part);
            wire.parts.pop_front();
        }
        wire.bytes -= bytes.len();
        let is_over = wire.parts.is_empty() && wire.closed_ns.is_some_and(|due| due <= now_ns);
        (bytes, is_over)
    }

    /// Lets dials that are due connect or fail.
    fn connect_dials(&mut self) {
        for dialing in std::mem::take(&mut self.dials) {
            let (node, shard) = dialing.from;
            let is_there = self.nodes[node].health != Health::Dead
                && self.nodes[node].incarnation == dialing.incarnation;
            if !is_there {
                continue;
            }
            let to = self
                .nodes
                .iter()
                .position(|node| node.address == dialing.to);
            let to = to.filter(|&to| self.nodes[to].health != Health::Dead);
            let is_cut = to.is_some_and(|to| {
                self.is_cut(Some(node), Some(to)) || self.is_cut(Some(to), Some(node))
            });
            let due_ns = match is_cut {
                true => dialing.due_ns + DIAL_NS,
                false => dialing.due_ns,
            };
            if due_ns > self.now_ns || matches!(self.nodes[node].health, Health::Hangs(_)) {
                self.dials.push(dialing);
                continue;
            }
            match to.filter(|_| !is_cut) {
                Some(to) => {
                    let pipe = self.new_pipe(End::Nobody, Some(node), Some(to));
                    let dial = dialing.dial;
                    self.accept(pipe, 0, (node, shard), Protocol::NodeDialed { dial });
                    let shards = self.nodes[to].shards.len();
                    let any = self.rng.below(shards);
                    self.accept(pipe, 1, (to, any), Protocol::Node);
                }
                None => {
                    let now = self.now();
                    let dial = dialing.dial;
                    let driven = &mut self.nodes[node].shards[shard];
                    driven
                        .core
                        .handle(Input::DialFailed { dial }, now, &mut driven.outputs);
                }
            }
        }
    }

    fn deliver_to_clients(&mut self) {
        let clients: Vec<(usize, usize)> = self
            .client_pipes
            .iter()
            .map(|(&client, &pipe)| (client, pipe))
            .collect();
        for (client, pipe) in clients {
            // Ends because each round takes what has arrived.
            loop {
                let (bytes, is_over) = self.arrived(pipe, 1);
                let is_empty = bytes.is_empty();
                self.delivered.entry(client).or_default().extend(bytes);
                if is_empty && is_over {
                    self.ended.insert(client);
                    self.disconnect_client(client);
                }
                if is_empty {
                    break;
                }
            }
        }
    }

    /// The counters of all nodes that are not dead, summed.
    pub(crate) fn counters(&self) -> sapwood_core::counters::Counters {
        let mut sum = sapwood_core::counters::Counters::default();
        for driven in self.nodes.iter().flat_map(|node| &node.shards) {
            sum.add(&driven.core.counters());
        }
        sum
    }

    /// How many shards a node has.
    pub(crate) fn shards_of(&self, node: usize) -> u16 {
        self.nodes[node].plan.shards
    }

    /// Where a node stands, if it is settled.
    pub(crate) fn path(&self, node: usize) -> Option<Vec<u8>> {
        let shard = self.nodes[node].shards.first()?;
        let place = shard.core.place()?;
        place.path().map(<[u8]>::to_vec)
    }

    /// The root that a node knows.
    pub(crate) fn root(&self, node: usize) -> Option<u64> {
        let shard = self.nodes[node].shards.first()?;
        let place = shard.core.place()?;
        place.path().map(|_| place.reign().root().0)
    }
}

impl Driven {
    fn new(core: Shard) -> Driven {
        Driven {
            core,
            sockets: Vec::new(),
            outputs: Outputs::default(),
            inbox: VecDeque::new(),
            returns: VecDeque::new(),
            unfinished: None,
            is_late: false,
        }
    }
}
