//! Whole nodes and the network between them: every shard is driven as a server drives it, every byte takes its time.
//!
//! Owns nodes, connections, the clock and faults; must not know what clients expect. A connection behaves as TCP does: bytes
//! keep their order, come late or not at all while a way is cut, and are lost only with the connection. A node does a turn
//! only when something has come for it or is due, so that quiet costs nothing. Start at [`Network::step`]; `drive` is what a node does in its turn.

mod agenda;
mod drive;
mod weather;

use agenda::{Agenda, Who};
pub(crate) use weather::{Cut, Weather};

use crate::rng::Rng;
use sapwood_core::command::{ClientId, ConnId, Now, ShardId};
use sapwood_core::counters::Counters;
use sapwood_core::driver::Driver;
use sapwood_core::limits::Limits;
use sapwood_core::mailbox::Batch;
use sapwood_core::tree::place::{PlaceConfig, PlaceCounts};
use sapwood_core::tree::{NodeId, SecretKey, TreeConfig};
use sapwood_core::{BodyGauge, Config, Input, Next, PAYLOAD_BYTES_MAX, Policy, Protocol, Shard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// How long a closing connection may take to read its last output, as in the server.
const LINGER_NS: u64 = 1_000_000_000;

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

/// The first node's number as others know it.
const FIRST_ID: u64 = 1_000;

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
    /// Its sender waits for room.
    is_full: bool,
}

#[derive(Debug)]
struct Pipe {
    ends: [End; 2],
    /// The nodes at both ends; `None` is a client.
    nodes: [Option<usize>; 2],
    /// By the end that sends.
    wires: [Wire; 2],
    /// It broke: nothing comes any more, whatever is written.
    is_reset: bool,
}

#[derive(Debug)]
struct Socket {
    pipe: usize,
    side: usize,
    input: Vec<u8>,
    needed: usize,
    held: bool,
    /// It closes once its output is written, or at this time.
    closing_until_ns: Option<u64>,
    is_blocked: bool,
}

impl Socket {
    fn is_closing(&self) -> bool {
        self.closing_until_ns.is_some()
    }
}

/// One shard and what its driver keeps.
struct Driven {
    /// Taken out while it drives.
    driver: Option<Driver>,
    sockets: Vec<Option<Socket>>,
    inbox: VecDeque<(usize, Batch)>,
    returns: VecDeque<(usize, Batch)>,
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
    to: Option<usize>,
    /// The way was cut when it was due.
    is_late: bool,
}

/// Nodes and the network between them.
pub(crate) struct Network {
    pub nodes: Vec<Node>,
    pub now_ns: u64,
    pub weather: Weather,
    pub rng: Rng,
    pipes: Vec<Option<Pipe>>,
    /// Places among them that nobody has.
    free_pipes: Vec<usize>,
    /// By the time that they are due, and their number.
    dials: BTreeMap<(u64, u64), Dialing>,
    next_dial: u64,
    agenda: Agenda,
    /// What clients were sent and have not read.
    delivered: BTreeMap<usize, Vec<u8>>,
    /// Clients whose connection ended.
    ended: BTreeSet<usize>,
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

/// Who listens there.
fn node_of(address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let [_, _, high, low] = address.ip().octets();
    Some(usize::from(u16::from_be_bytes([high, low])))
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            nodes: Vec::new(),
            now_ns: 1_000_000_000,
            weather: Weather::new(1_000_000_000),
            rng: Rng::new(seed),
            pipes: Vec::new(),
            free_pipes: Vec::new(),
            dials: BTreeMap::new(),
            next_dial: 1,
            agenda: Agenda::default(),
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
        let mut place =
            PlaceConfig::new(NodeId(FIRST_ID + number as u64), now_ns, Some(node.address));
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
                tags: Vec::new(),
                groups: Vec::new(),
                advertise: Some(node.address),
                nats: None,
                key: plan.is_sealed.then(|| key.clone()),
                entropy: [shard as u8 ^ entropy as u8; 32],
            }),
            limits: plan.limits.clone(),
            hash_seed: 1,
            capacity: Default::default(),
            body_gauge: gauge.clone(),
            run_id: "0".repeat(40),
            process_id: 1,
            started_wall_ms: 1,
        };
        node.shards = (0..shards)
            .map(|shard| Driven::new(Shard::new(make(shard))))
            .collect();
        self.wake_node(number);
    }

    /// Lets a node do nothing until this time.
    pub(crate) fn hang(&mut self, number: usize, until_ns: u64) {
        self.nodes[number].health = Health::Hangs(until_ns);
        self.agenda.wake(Who::Node(number), until_ns);
    }

    /// Tells a node that it ends soon, so that its children look for other parents.
    pub(crate) fn drain(&mut self, number: usize, milliseconds: u32) {
        let now = self.now();
        for shard in 0..self.nodes[number].shards.len() {
            for input in [Input::Ending { milliseconds }, Input::HandOver] {
                self.with_driver((number, shard), |driver, host| {
                    driver.handle(host, input, now)
                });
            }
        }
        self.wake_node(number);
    }

    /// Lets a node that drains leave, if it has handed over what it had for others.
    pub(crate) fn leave(&mut self, number: usize) {
        let mut shards = self.nodes[number].shards.iter();
        if shards.all(|driven| driven.core().has_handed_over()) {
            let now = self.now();
            self.with_driver((number, 0), |driver, host| {
                driver.handle(host, Input::Leave, now)
            });
            self.wake_node(number);
        }
    }

    /// Ends everything that is wrong with the network and the nodes.
    pub(crate) fn mend(&mut self) {
        self.weather.clear();
        for number in 0..self.nodes.len() {
            match self.nodes[number].health {
                Health::Dead => self.start(number),
                Health::Hangs(_) => self.nodes[number].health = Health::Runs,
                Health::Runs => {}
            }
            self.wake_node(number);
        }
    }

    fn wake_node(&mut self, number: usize) {
        self.agenda.wake(Who::Node(number), self.now_ns);
    }

    /// Who is at one end of a connection has something to do then.
    fn wake_end(&mut self, pipe: usize, side: usize, at_ns: u64) {
        let there = self.pipes[pipe].as_ref().map(|there| there.ends[side]);
        match there {
            Some(End::Shard { node, .. }) => self.agenda.wake(Who::Node(node), at_ns),
            Some(End::Client(client)) => self.agenda.wake(Who::Client(client), at_ns),
            Some(End::Nobody) | None => {}
        }
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
        self.reset(pipe);
        true
    }

    /// Breaks all connections between two nodes; whether there were any.
    pub(crate) fn reset_between(&mut self, one: usize, other: usize) -> bool {
        let ends = [[Some(one), Some(other)], [Some(other), Some(one)]];
        let mut is_any = false;
        for pipe in 0..self.pipes.len() {
            let there = self.pipes[pipe].as_ref();
            if there.is_some_and(|there| ends.contains(&there.nodes)) {
                self.reset(pipe);
                is_any = true;
            }
        }
        is_any
    }

    fn reset(&mut self, pipe: usize) {
        if let Some(there) = &mut self.pipes[pipe] {
            there.is_reset = true;
        }
        (0..2).for_each(|side| self.wake_end(pipe, side, self.now_ns));
    }

    /// Connects a client to a shard of a node.
    pub(crate) fn connect_client(&mut self, client: usize, node: usize, shard: usize) {
        let pipe = self.new_pipe(End::Client(client), None, Some(node));
        self.client_pipes.insert(client, pipe);
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
            self.wake_end(pipe, 1, self.now_ns);
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
            is_reset: false,
        };
        let free = self.free_pipes.pop();
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
            closing_until_ns: None,
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
        self.with_driver((node, shard), |driver, host| {
            driver.handle(host, input, now)
        });
        self.wake_node(node);
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
        let closed_ns = *wire
            .closed_ns
            .get_or_insert((self.now_ns + delay).max(last));
        if there.ends == [End::Nobody, End::Nobody] {
            self.pipes[pipe] = None;
            self.free_pipes.push(pipe);
        }
        self.wake_end(pipe, 1 - side, closed_ns);
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
            (Some(from), Some(to)) => self.weather.is_cut(from, to),
            _ => false,
        }
    }

    /// Lets time pass, and everything happen that is due.
    pub(crate) fn step(&mut self, ns: u64) {
        self.now_ns += ns;
        if self.weather.pass(self.now_ns) {
            (0..self.nodes.len()).for_each(|node| self.wake_node(node));
        }
        self.connect_dials();
        for who in self.agenda.take_due(self.now_ns) {
            match who {
                Who::Node(node) => self.run_if_able(node),
                Who::Client(client) => self.deliver(client),
            }
        }
    }

    fn run_if_able(&mut self, node: usize) {
        match self.nodes[node].health {
            Health::Dead => return,
            Health::Hangs(until_ns) if until_ns > self.now_ns => {
                return self.agenda.wake(Who::Node(node), until_ns);
            }
            Health::Hangs(_) => self.nodes[node].health = Health::Runs,
            Health::Runs => {}
        }
        self.run_node(node);
        if let Some(at_ns) = self.due_ns(node) {
            let at_ns = at_ns.max(self.now_ns + 1);
            self.agenda.wake(Who::Node(node), at_ns);
        }
    }

    /// When a node has something to do next, by what is on its way to it and what it waits for.
    fn due_ns(&self, node: usize) -> Option<u64> {
        let mut first = u64::MAX;
        for driven in &self.nodes[node].shards {
            let has_more = driven.driver.as_ref().is_some_and(Driver::has_more);
            if !driven.inbox.is_empty() || !driven.returns.is_empty() || has_more {
                first = 0;
            }
            first = first.min(driven.core().next_deadline().unwrap_or(u64::MAX));
            for socket in driven.sockets.iter().flatten() {
                if let Some(until_ns) = socket.closing_until_ns {
                    first = first.min(until_ns);
                } else if !socket.held {
                    let due_ns = self.arrival_ns(socket.pipe, 1 - socket.side);
                    first = first.min(due_ns.unwrap_or(u64::MAX));
                }
            }
        }
        (first < u64::MAX).then_some(first)
    }

    /// When the next of what one end sent arrives, if the way is open.
    fn arrival_ns(&self, pipe: usize, from: usize) -> Option<u64> {
        let Some(there) = &self.pipes[pipe] else {
            return Some(self.now_ns);
        };
        if there.is_reset {
            return Some(self.now_ns);
        }
        if self.is_cut(there.nodes[from], there.nodes[1 - from]) {
            return None;
        }
        let wire = &there.wires[from];
        let part = wire.parts.front().map(|&(due_ns, _)| due_ns);
        part.or(wire.closed_ns)
    }

    /// A node that runs and has something to do for which its turn would not come: a fault of the simulator.
    pub(crate) fn forgotten(&self) -> Option<usize> {
        let mut running =
            (0..self.nodes.len()).filter(|&node| self.nodes[node].health == Health::Runs);
        running.find(|&node| {
            let turn_ns = self.agenda.time_of(Who::Node(node)).unwrap_or(u64::MAX);
            self.due_ns(node)
                .is_some_and(|due_ns| due_ns.max(self.now_ns + 1) < turn_ns)
        })
    }

    /// What has arrived of what one end sent, and whether nothing more will come.
    fn arrived(&mut self, pipe: usize, from: usize) -> (Vec<u8>, bool) {
        let now_ns = self.now_ns;
        let Some(there) = &self.pipes[pipe] else {
            return (Vec::new(), true);
        };
        if there.is_reset {
            return (Vec::new(), true);
        }
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
        if !bytes.is_empty() && std::mem::take(&mut wire.is_full) {
            self.wake_end(pipe, from, now_ns);
        }
        (bytes, is_over)
    }

    /// Lets dials that are due connect or fail.
    fn connect_dials(&mut self) {
        while let Some((&(due_ns, number), _)) = self.dials.first_key_value()
            && due_ns <= self.now_ns
        {
            let Some(mut dialing) = self.dials.remove(&(due_ns, number)) else {
                return;
            };
            let (node, _) = dialing.from;
            let from = &self.nodes[node];
            if from.health == Health::Dead || from.incarnation != dialing.incarnation {
                continue;
            }
            let is_cut = dialing.to.is_some_and(|to| {
                self.is_cut(Some(node), Some(to)) || self.is_cut(Some(to), Some(node))
            });
            if is_cut && !dialing.is_late {
                dialing.is_late = true;
                self.dials.insert((due_ns + DIAL_NS, number), dialing);
            } else if let Health::Hangs(until_ns) = from.health {
                let again_ns = until_ns.max(self.now_ns + 1);
                self.dials.insert((again_ns, number), dialing);
            } else {
                self.end_dial(&dialing, is_cut);
            }
        }
    }

    fn end_dial(&mut self, dialing: &Dialing, is_cut: bool) {
        let (node, shard) = dialing.from;
        let dial = dialing.dial;
        let is_there = |to: &usize| {
            self.nodes
                .get(*to)
                .is_some_and(|to| to.health != Health::Dead)
        };
        match dialing.to.filter(is_there).filter(|_| !is_cut) {
            Some(to) => {
                let pipe = self.new_pipe(End::Nobody, Some(node), Some(to));
                self.accept(pipe, 0, (node, shard), Protocol::NodeDialed { dial });
                let shards = self.nodes[to].shards.len();
                let any = self.rng.below(shards);
                self.accept(pipe, 1, (to, any), Protocol::Node);
            }
            None => {
                let now = self.now();
                let input = Input::DialFailed { dial };
                self.with_driver((node, shard), |driver, host| {
                    driver.handle(host, input, now)
                });
                self.wake_node(node);
            }
        }
    }

    /// Gives a client what has arrived for it.
    fn deliver(&mut self, client: usize) {
        let Some(&pipe) = self.client_pipes.get(&client) else {
            return;
        };
        // Ends because each round takes what has arrived.
        loop {
            let (bytes, is_over) = self.arrived(pipe, 1);
            if bytes.is_empty() {
                if is_over {
                    self.ended.insert(client);
                    self.disconnect_client(client);
                } else if let Some(at_ns) = self.arrival_ns(pipe, 1) {
                    self.agenda.wake(Who::Client(client), at_ns);
                }
                return;
            }
            self.delivered.entry(client).or_default().extend(bytes);
        }
    }

    /// Clients for whom something came, and whether their connections ended.
    pub(crate) fn take_delivered(&mut self) -> BTreeMap<usize, (Vec<u8>, bool)> {
        let mut taken = BTreeMap::new();
        for (client, bytes) in std::mem::take(&mut self.delivered) {
            taken.insert(client, (bytes, false));
        }
        for client in std::mem::take(&mut self.ended) {
            taken.entry(client).or_default().1 = true;
        }
        taken
    }

    /// The counters of all nodes that are not dead, summed.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for node in 0..self.nodes.len() {
            self.counters_of(node)
                .for_each(|counters| sum.add(&counters));
        }
        sum
    }

    /// The counters of each shard of a node.
    pub(crate) fn counters_of(&self, node: usize) -> impl Iterator<Item = Counters> {
        let shards = self.nodes[node].shards.iter();
        shards.map(|driven| driven.core().counters())
    }

    /// How many shards a node has.
    pub(crate) fn shards_of(&self, node: usize) -> u16 {
        self.nodes[node].plan.shards
    }

    fn place(&self, node: usize) -> Option<&sapwood_core::tree::place::Place> {
        self.nodes[node].shards.first()?.core().place()
    }

    /// Where a node stands, if it is settled.
    pub(crate) fn path(&self, node: usize) -> Option<Vec<u8>> {
        self.place(node)?.path().map(<[u8]>::to_vec)
    }

    /// The root that a node knows.
    pub(crate) fn root(&self, node: usize) -> Option<u64> {
        let place = self.place(node)?;
        place.path().map(|_| place.reign().root().0)
    }

    /// Whether another node takes this one for its neighbour.
    pub(crate) fn is_linked_to(&self, node: usize) -> bool {
        let id = NodeId(FIRST_ID + node as u64);
        (0..self.nodes.len())
            .filter(|&other| other != node)
            .filter_map(|other| self.place(other))
            .any(|place| {
                let parent = place.parent().map(|parent| parent.contact.node());
                let children = place.children().map(|child| child.contact.node());
                parent.into_iter().chain(children).any(|other| other == id)
            })
    }

    /// The parent that a node takes for its own.
    pub(crate) fn parent(&self, node: usize) -> Option<usize> {
        let parent = self.place(node)?.parent()?.contact.node();
        Some((parent.0 - FIRST_ID) as usize)
    }

    /// The parent of a node, if that takes it for its child too.
    pub(crate) fn linked_parent(&self, node: usize) -> Option<usize> {
        let parent = self.parent(node)?;
        let mut children = self.place(parent)?.children();
        let id = NodeId(FIRST_ID + node as u64);
        let is_child = children.any(|child| child.contact.node() == id);
        is_child.then_some(parent)
    }

    /// Whether a node that drains has no children any more.
    pub(crate) fn is_drained(&self, node: usize) -> bool {
        self.place(node).is_some_and(|place| place.is_drained())
    }

    /// How much a node's place keeps.
    pub(crate) fn place_counts(&self, node: usize) -> Option<PlaceCounts> {
        self.place(node).map(|place| place.counts())
    }
}

impl Driven {
    fn new(core: Shard) -> Driven {
        Driven {
            driver: Some(Driver::new(core)),
            sockets: Vec::new(),
            inbox: VecDeque::new(),
            returns: VecDeque::new(),
            is_late: false,
        }
    }

    /// The shard, between turns.
    fn core(&self) -> &Shard {
        // invariant: it is put back before anybody looks.
        self.driver.as_ref().expect("a shard between turns").shard()
    }
}
