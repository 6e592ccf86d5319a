//! Nodes, the connections between them, and the clock.
//!
//! A connection is a pair of ordered streams of messages. A cut makes bytes vanish: what is sent into it never comes, nor
//! does anything behind it on that connection, as no TCP stream goes on behind a hole. Must not know what is right; `check`
//! does. Start at [`World::run_until`].

use super::TreeFailure;
use super::queue::Queue;
use crate::rng::{Rng, Trace};
use sapwood_core::tree::place::{
    Broken, DialId, PeerId, Place, PlaceConfig, PlaceInput, PlaceOutput, Role,
};
use sapwood_wire::limits::NODE_FRAME_BYTES_MAX;
use sapwood_wire::node::place::{PlaceMessage, read, write};
use sapwood_wire::node::{NodeId, Parsed, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A dial that nobody answers fails after so long, in nanoseconds, as a driver's would.
const DIAL_NS_MAX: u64 = 3_000_000_000;

/// How long messages travel, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// At least.
    pub least_ns: u64,
    /// Each pair of nodes has a distance of its own up to this, beside it.
    pub pair_ns: u64,
    /// Each message takes up to this longer.
    pub jitter_ns: u64,
}

impl Delay {
    /// Always the same.
    pub fn fixed(ns: u64) -> Delay {
        Delay {
            least_ns: ns,
            pair_ns: 0,
            jitter_ns: 0,
        }
    }

    fn max_ns(&self) -> u64 {
        self.least_ns + self.pair_ns + self.jitter_ns
    }
}

/// How a world is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorldOptions {
    /// All its randomness.
    pub seed: u64,
    /// How long messages travel.
    pub delay: Delay,
    /// A rule that all nodes break, for the checks to notice.
    pub broken: Option<Broken>,
    /// Every message is written to bytes and read again.
    pub encodes: bool,
}

#[derive(Debug)]
pub(super) enum Event {
    /// The first message of a connection arrives at who was dialed.
    Hello {
        connection: u64,
    },
    /// The answer arrives at the dialer.
    Welcome {
        connection: u64,
    },
    Failed {
        node: usize,
        start: u64,
        dial: DialId,
    },
    Message {
        connection: u64,
        end: usize,
        message: Box<PlaceMessage>,
    },
    Closed {
        connection: u64,
        end: usize,
    },
    Tick {
        node: usize,
        start: u64,
    },
}

/// A connection: end 0 dialed.
#[derive(Debug)]
struct Connection {
    nodes: [usize; 2],
    starts: [u64; 2],
    dial: DialId,
    /// By receiving end: when the last message arrives.
    arrival_ns: [u64; 2],
    /// By receiving end: something vanished.
    is_lost: [bool; 2],
    /// By end: the machine knows it.
    is_open: [bool; 2],
}

/// A node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub config: PlaceConfig,
    pub place: Option<Place>,
    /// Counts its starts.
    start: u64,
    is_hung: bool,
    /// What came while it hung.
    inbox: Vec<Event>,
    tick_at_ns: u64,
    pub links: BTreeMap<PeerId, Role>,
    connections: BTreeSet<u64>,
}

/// All there is.
#[derive(Debug)]
pub struct World {
    pub(super) options: WorldOptions,
    pub(super) rng: Rng,
    now_ns: u64,
    queue: Queue,
    pub(super) nodes: Vec<Node>,
    by_address: BTreeMap<SocketAddr, usize>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Ways that swallow everything, from and to.
    cuts: BTreeSet<(usize, usize)>,
    /// Since when each node stands in a loop.
    pub(super) loops: BTreeMap<usize, u64>,
    pub(super) loops_checked_ns: u64,
    pub(super) trace: Trace,
    messages: u64,
    /// Events in a row that came without a pause.
    pub(super) rush: u64,
    bytes: u64,
    buffer: Vec<u8>,
    outputs: Vec<PlaceOutput>,
    pub(super) has_links_changed: bool,
    /// A rule of a single node that was seen broken.
    pub(super) broken_rule: Option<(&'static str, String)>,
    /// Nodes whose caps are to be looked at.
    pub(super) touched: Vec<usize>,
}

impl World {
    /// A world without nodes.
    pub fn new(options: WorldOptions) -> World {
        World {
            options,
            rng: Rng::new(options.seed),
            now_ns: 1_000_000_000,
            queue: Queue::default(),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            cuts: BTreeSet::new(),
            loops: BTreeMap::new(),
            loops_checked_ns: 0,
            trace: Trace::default(),
            messages: 0,
            rush: 0,
            bytes: 0,
            buffer: Vec::new(),
            outputs: Vec::new(),
            has_links_changed: false,
            broken_rule: None,
            touched: Vec::new(),
        }
    }

    /// The address of the node of this number.
    pub fn address(number: usize) -> SocketAddr {
        let ip = Ipv4Addr::from(0x0a00_0001 + number as u32);
        SocketAddr::new(IpAddr::V4(ip), 7401)
    }

    /// Adds a node that does not run yet, with seeds by number; `change` may change what is usual.
    pub fn add(&mut self, seeds: &[usize], change: impl FnOnce(&mut PlaceConfig)) -> usize {
        let number = self.nodes.len();
        let id = NodeId(self.rng.next() | 1);
        let mut config = PlaceConfig::new(id, 0, Some(World::address(number)));
        config.seeds = seeds.iter().map(|seed| World::address(*seed)).collect();
        config.name = format!("node{number}");
        config.entropy = self.rng.next();
        change(&mut config);
        self.by_address.insert(World::address(number), number);
        self.nodes.push(Node {
            config,
            place: None,
            start: 0,
            is_hung: false,
            inbox: Vec::new(),
            tick_at_ns: 0,
            links: BTreeMap::new(),
            connections: BTreeSet::new(),
        });
        number
    }

    /// Starts a node that does not run.
    pub fn start(&mut self, number: usize) {
        let entropy = self.rng.next();
        let now_ns = self.now_ns;
        let node = &mut self.nodes[number];
        assert!(node.place.is_none(), "a node starts once at a time");
        node.start += 1;
        node.config.incarnation += 1 + now_ns / 1_000_000;
        node.config.entropy ^= entropy;
        let mut place = Place::new(node.config.clone());
        if let Some(broken) = self.options.broken {
            place.break_rule(broken);
        }
        node.place = Some(place);
        node.is_hung = false;
        node.tick_at_ns = u64::MAX;
        self.give(number, PlaceInput::Tick);
    }

    /// Adds and starts so many nodes; the first is the root, and the seed of the others.
    pub fn start_crowd(&mut self, count: usize) {
        for number in 0..count {
            let seeds: &[usize] = if number == 0 { &[] } else { &[0] };
            self.add(seeds, |_| ());
            self.start(number);
        }
    }

    /// Adds and starts so many nodes more, each of which knows two of those that are there.
    pub fn start_wave(&mut self, count: usize) {
        let there = self.len();
        for number in there..there + count {
            let seeds = [self.rng.below(there), self.rng.below(there)];
            self.add(&seeds, |_| ());
            self.start(number);
        }
    }

    /// Ends a node's process. Its peers hear of it, unless `vanishes`.
    pub fn crash(&mut self, number: usize, vanishes: Vanishes) {
        let node = &mut self.nodes[number];
        node.place = None;
        node.is_hung = false;
        node.inbox.clear();
        node.links.clear();
        self.has_links_changed = true;
        for id in std::mem::take(&mut node.connections) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let end = usize::from(connection.nodes[0] != number);
            connection.is_open[end] = false;
            if vanishes == Vanishes::Yes {
                connection.is_lost[1 - end] = true;
            }
            self.send_close(id, 1 - end);
        }
    }

    /// Stops a process without ending it.
    pub fn hang(&mut self, number: usize) {
        self.nodes[number].is_hung = self.nodes[number].place.is_some();
    }

    /// Lets it go on.
    pub fn wake(&mut self, number: usize) {
        self.nodes[number].is_hung = false;
        for event in std::mem::take(&mut self.nodes[number].inbox) {
            self.push(self.now_ns, event);
        }
        let start = self.nodes[number].start;
        self.push(
            self.now_ns,
            Event::Tick {
                node: number,
                start,
            },
        );
    }

    /// Nothing goes from one node to another any more.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// All cuts are lifted.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Breaks a connection that carries a link, chosen at random.
    pub fn break_link(&mut self) {
        let open: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_open == [true; 2])
            .map(|(&id, _)| id)
            .collect();
        if open.is_empty() {
            return;
        }
        let id = self.rng.pick(&open);
        self.send_close(id, 0);
        self.send_close(id, 1);
    }

    /// Tells a node to drain.
    pub fn drain(&mut self, number: usize) {
        self.give(number, PlaceInput::Drain);
        self.give(number, PlaceInput::Leave);
    }

    /// The simulated time, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// A node's place, if it runs.
    pub fn place(&self, number: usize) -> Option<&Place> {
        self.nodes[number].place.as_ref()
    }

    /// Whether a process runs, hung or not.
    pub fn is_running(&self, number: usize) -> bool {
        self.nodes[number].place.is_some()
    }

    /// Whether it hangs.
    pub fn is_hung(&self, number: usize) -> bool {
        self.nodes[number].is_hung
    }

    /// Nodes, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Messages sent so far, and their bytes if they are encoded.
    pub fn traffic(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until_ns: u64) -> Result<(), TreeFailure> {
        while let Some((at_ns, event)) = self.queue.pop(until_ns) {
            self.check_spin(at_ns)?;
            self.now_ns = at_ns;
            self.apply(event)?;
            self.check_step()?;
        }
        self.now_ns = self.now_ns.max(until_ns);
        Ok(())
    }

    fn push(&mut self, at_ns: u64, event: Event) {
        self.queue.push(at_ns, event);
    }

    /// The node that an event is for, if it hangs; what it would get waits.
    fn hung_receiver(&self, event: &Event) -> Option<usize> {
        let number = match event {
            Event::Hello { connection } => self.connections.get(connection)?.nodes[1],
            Event::Welcome { connection } => self.connections.get(connection)?.nodes[0],
            Event::Failed { node, .. } | Event::Tick { node, .. } => *node,
            Event::Message {
                connection, end, ..
            }
            | Event::Closed { connection, end } => self.connections.get(connection)?.nodes[*end],
        };
        self.nodes[number].is_hung.then_some(number)
    }

    fn apply(&mut self, event: Event) -> Result<(), TreeFailure> {
        if let Some(number) = self.hung_receiver(&event) {
            if !matches!(event, Event::Tick { .. }) {
                self.nodes[number].inbox.push(event);
            }
            return Ok(());
        }
        match event {
            Event::Hello { connection } => self.apply_hello(connection),
            Event::Welcome { connection } => {
                let dial = self.connections.get(&connection).map(|open| open.dial);
                self.connect(connection, 0, dial);
            }
            Event::Failed { node, start, dial } => {
                if self.nodes[node].start == start && self.nodes[node].place.is_some() {
                    self.give(node, PlaceInput::DialFailed { dial });
                }
            }
            Event::Message {
                connection,
                end,
                message,
            } => {
                if let Some(number) = self.open_end(connection, end) {
                    let message = self.transcode(*message)?;
                    let peer = peer_of(connection, end);
                    self.give(number, PlaceInput::Message { peer, message });
                }
            }
            Event::Closed { connection, end } => {
                if let Some(number) = self.open_end(connection, end) {
                    self.forget_end(connection, end);
                    let peer = peer_of(connection, end);
                    self.give(number, PlaceInput::Closed { peer });
                }
            }
            Event::Tick { node, start } => {
                let runs = self.nodes[node].start == start && self.nodes[node].place.is_some();
                if runs {
                    self.nodes[node].tick_at_ns = u64::MAX;
                    self.give(node, PlaceInput::Tick);
                }
            }
        }
        Ok(())
    }

    fn open_end(&self, id: u64, end: usize) -> Option<usize> {
        let connection = self.connections.get(&id)?;
        connection.is_open[end].then_some(connection.nodes[end])
    }

    fn forget_end(&mut self, id: u64, end: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_open[end] = false;
            self.nodes[connection.nodes[end]].connections.remove(&id);
            if connection.is_open == [false; 2] && connection.is_lost[0] | connection.is_lost[1] {
                // What is still on the way finds nobody.
                self.connections.remove(&id);
            }
        }
    }

    /// Who was dialed hears of it, and answers.
    fn apply_hello(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let [dialer, dialed] = connection.nodes;
        let is_there =
            self.nodes[dialed].place.is_some() && self.nodes[dialed].start == connection.starts[1];
        let is_dialer = self.nodes[dialer].start == connection.starts[0];
        if !is_there || !is_dialer {
            self.connections.remove(&id);
            return;
        }
        if let Some(at_ns) = self.arrival_ns(id, 0) {
            self.push(at_ns, Event::Welcome { connection: id });
        }
        self.connect(id, 1, None);
    }

    fn connect(&mut self, id: u64, end: usize, dialed: Option<DialId>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let number = connection.nodes[end];
        let is_same = self.nodes[number].start == connection.starts[end];
        if !is_same || self.nodes[number].place.is_none() {
            return;
        }
        connection.is_open[end] = true;
        let other = connection.nodes[1 - end];
        self.nodes[number].connections.insert(id);
        let config = &self.nodes[other].config;
        let input = PlaceInput::Connected {
            peer: peer_of(id, end),
            node: config.node,
            incarnation: config.incarnation,
            address: config.address,
            dialed,
        };
        self.give(number, input);
    }

    /// When something sent now to this end arrives; `None` if never.
    fn arrival_ns(&mut self, id: u64, end: usize) -> Option<u64> {
        let connection = self.connections.get_mut(&id)?;
        let (from, to) = (connection.nodes[1 - end], connection.nodes[end]);
        if self.cuts.contains(&(from, to)) {
            connection.is_lost[end] = true;
        }
        if connection.is_lost[end] {
            return None;
        }
        let travel_ns =
            travel_ns(&self.options, from, to) + jitter_ns(&self.options, &mut self.rng);
        let at_ns = (self.now_ns + travel_ns).max(connection.arrival_ns[end]);
        connection.arrival_ns[end] = at_ns;
        Some(at_ns)
    }

    fn send_close(&mut self, id: u64, end: usize) {
        if let Some(at_ns) = self.arrival_ns(id, end) {
            self.push(
                at_ns,
                Event::Closed {
                    connection: id,
                    end,
                },
            );
        }
    }

    /// Gives a node its input and carries out what it wishes.
    fn give(&mut self, number: usize, input: PlaceInput) {
        let now_ns = self.now_ns;
        let mut outputs = std::mem::take(&mut self.outputs);
        let node = &mut self.nodes[number];
        let Some(place) = &mut node.place else {
            return;
        };
        let before = place.reign();
        place.handle(input, now_ns, &mut outputs);
        let after = place.reign();
        // A node that has a place keeps it, or goes to a tree of a higher rank; else it is adrift in between.
        let both_settled = before.settled && after.settled && !before.is_same_tree(&after);
        if both_settled && !after.outranks(&before) {
            self.broken_rule = Some(("rank", format!("node {number}: {before:?}, then {after:?}")));
        }
        let deadline_ns = place.next_deadline();
        if let Some(at_ns) = deadline_ns.map(|ns| ns.max(now_ns + 1))
            && at_ns < node.tick_at_ns
        {
            node.tick_at_ns = at_ns;
            let start = node.start;
            self.push(
                at_ns,
                Event::Tick {
                    node: number,
                    start,
                },
            );
        }
        for output in outputs.drain(..) {
            self.carry_out(number, output);
        }
        self.outputs = outputs;
        self.touched.push(number);
    }

    fn carry_out(&mut self, number: usize, output: PlaceOutput) {
        match output {
            PlaceOutput::Dial { dial, address } => self.dial(number, dial, address),
            PlaceOutput::Send { peer, message } => {
                let (id, end) = (peer.0 / 2, (peer.0 % 2) as usize);
                self.messages += 1;
                let is_place = matches!(message, PlaceMessage::Accept(_));
                let is_adrift = self
                    .place(number)
                    .is_some_and(|place| place.path().is_none());
                if is_place && is_adrift {
                    let text = format!("node {number} gives a place while adrift");
                    self.broken_rule = Some(("adrift", text));
                }
                self.trace.number(peer.0 ^ u64::from(message.kind()) << 56);
                if let Some(at_ns) = self.arrival_ns(id, 1 - end) {
                    let message = Box::new(message);
                    let event = Event::Message {
                        connection: id,
                        end: 1 - end,
                        message,
                    };
                    self.push(at_ns, event);
                }
            }
            PlaceOutput::Close { peer, .. } => {
                let (id, end) = (peer.0 / 2, (peer.0 % 2) as usize);
                self.send_close(id, 1 - end);
                self.forget_end(id, end);
            }
            PlaceOutput::Adopted { peer, role } => {
                let old = self.nodes[number].links.insert(peer, role);
                assert!(old.is_none(), "a link is adopted once");
                self.has_links_changed = true;
            }
            PlaceOutput::Dropped { peer } => {
                let old = self.nodes[number].links.remove(&peer);
                assert!(old.is_some(), "only an adopted link is dropped");
                self.has_links_changed = true;
            }
            PlaceOutput::Moved => {}
        }
    }

    fn dial(&mut self, number: usize, dial: DialId, address: SocketAddr) {
        let start = self.nodes[number].start;
        let failed = Event::Failed {
            node: number,
            start,
            dial,
        };
        let Some(&other) = self.by_address.get(&address) else {
            self.push(self.now_ns + DIAL_NS_MAX, failed);
            return;
        };
        let round_trip_ns = 2 * travel_ns(&self.options, number, other);
        let is_cut = self.cuts.contains(&(number, other)) || self.cuts.contains(&(other, number));
        if is_cut {
            self.push(self.now_ns + DIAL_NS_MAX, failed);
            return;
        }
        if self.nodes[other].place.is_none() {
            self.push(self.now_ns + round_trip_ns, failed);
            return;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Connection {
            nodes: [number, other],
            starts: [start, self.nodes[other].start],
            dial,
            arrival_ns: [0; 2],
            is_lost: [false; 2],
            is_open: [false; 2],
        };
        self.connections.insert(id, connection);
        let at_ns = self.now_ns + round_trip_ns + travel_ns(&self.options, number, other);
        self.push(at_ns, Event::Hello { connection: id });
    }

    /// Through bytes and back.
    fn transcode(&mut self, message: PlaceMessage) -> Result<PlaceMessage, TreeFailure> {
        if !self.options.encodes {
            return Ok(message);
        }
        self.buffer.clear();
        write(&message, 1, &mut self.buffer);
        self.bytes += self.buffer.len() as u64;
        let parsed = parse(&self.buffer, 1, NODE_FRAME_BYTES_MAX);
        let again = match parsed {
            Ok(Parsed::Frame(frame, _)) => read(&frame).ok(),
            _ => None,
        };
        if again.as_ref() == Some(&message) {
            return Ok(message);
        }
        Err(TreeFailure {
            check: "bytes",
            text: format!("{message:?} became {again:?}"),
            at_ns: self.now_ns,
        })
    }

    /// The other end of a link: its node, and what the link is there.
    pub(super) fn other_end(&self, peer: PeerId) -> Option<(usize, PeerId)> {
        let connection = self.connections.get(&(peer.0 / 2))?;
        let end = 1 - (peer.0 % 2) as usize;
        Some((connection.nodes[end], PeerId(peer.0 ^ 1)))
    }

    /// The longest that a message travels.
    pub fn delay_max_ns(&self) -> u64 {
        self.options.delay.max_ns()
    }
}

/// Whether a crashed node's peers hear nothing of it, as when a machine loses its power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanishes {
    /// They hear nothing.
    Yes,
    /// Their connections are closed.
    No,
}

/// By a function of the pair, so that distances need no table.
fn travel_ns(options: &WorldOptions, from: usize, to: usize) -> u64 {
    let delay = options.delay;
    if delay.pair_ns == 0 {
        return delay.least_ns;
    }
    let (low, high) = (from.min(to) as u64, from.max(to) as u64);
    let distance = Rng::new(options.seed ^ (low << 32) ^ high).next();
    delay.least_ns + distance % delay.pair_ns
}

fn jitter_ns(options: &WorldOptions, rng: &mut Rng) -> u64 {
    match options.delay.jitter_ns {
        0 => 0,
        most_ns => rng.next() % most_ns,
    }
}

fn peer_of(connection: u64, end: usize) -> PeerId {
    PeerId(connection * 2 + end as u64)
}
