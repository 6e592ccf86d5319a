//! Where a node stands in the tree: it finds a parent, keeps it, finds another when it is lost, and takes in children.
//!
//! [`Place`] is a machine without I/O: connections, messages and time come in, dials and messages go out. Only shard 0 of a
//! node runs it. It owns the node's path, its parent and its children; it must not know events, lanes or sockets.
//!
//! Words. A node is *settled* when a chain of parents leads from it to a root, and *adrift* when the node at the top of that
//! chain looks for a parent. The rank of a tree is its *reign*: the higher term, then the lower level, then the lower id of
//! its root. A tree of a lower rank joins one of a higher rank as a whole, so that in the end there is one.
//!
//! Invariants: a settled root never asks for a place in a tree of its own rank or a lower one; an adrift node gives no
//! places; nobody gives a place to one of its ancestors. So a loop can only come from news that is still on its way, and then
//! the path vector breaks it: who finds itself among its parent's ancestors leaves that parent. Every list is capped. Nothing depends on the order of a hash.
//!
//! Start at [`Place::handle`]; `search.rs` looks for a parent, `answer.rs` gives places, `neighbours.rs` keeps the links.

mod answer;
mod memory;
mod neighbours;
mod search;
#[cfg(test)]
mod tests;

use core::net::SocketAddr;
use memory::Memory;
use sapwood_wire::node::NodeId;
use sapwood_wire::node::place::{Ask, Contact, Echo, Leave, Move, PlaceMessage, Standing};
use search::Search;
use std::collections::BTreeMap;

/// Deepest place in a tree that places itself: with 2 children each, 32 levels hold more nodes than there are.
pub const DEPTH_MAX: usize = 32;

/// Deepest place in a tree that a file describes.
pub const STATIC_DEPTH_MAX: usize = 255;

/// Most connections that are neither parent nor child nor asked for a place. Worst memory: about 200 bytes each.
pub const STRANGERS_MAX: usize = 64;

/// Most addresses that are remembered beside the seeds.
pub const REMEMBERED_MAX: usize = 32;

/// Most seeds that are kept.
pub const SEEDS_MAX: usize = 16;

/// Most nodes of which one search keeps track: ancestors, the root's children and siblings, all at once.
pub const TARGETS_MAX: usize = 96;

/// Most nodes that are dialed or asked at a time.
pub const ASKED_MAX: usize = 8;

/// A connection, numbered by the caller; a number is not used again while the machine may remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// An attempt to connect, numbered by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// How long what takes, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Between two signs of life.
    pub beat_ns: u64,
    /// Without any, a link is lost.
    pub silence_ns: u64,
    /// The root counts no further: the node is adrift, though its parent lives.
    pub stall_ns: u64,
    /// For the answer of who is asked, dialing included, while the node is adrift or looks about.
    pub answer_ns: u64,
    /// The same, while it has never had a place.
    pub first_answer_ns: u64,
    /// For a place to be confirmed.
    pub reserve_ns: u64,
    /// For a connection that neither asks nor is asked.
    pub idle_ns: u64,
    /// Between two looks of a root for other trees.
    pub probe_ns: u64,
    /// Nobody can be reached for so long: the node is a root of its own.
    pub alone_ns: u64,
    /// Others can be reached, but none has become a root for so long: the same.
    pub drift_ns: u64,
    /// Until those who are adrift too are asked again, at first.
    pub retry_ns: u64,
    /// What it grows to.
    pub retry_max_ns: u64,
    /// How long a first good offer waits for a better one, when there is time.
    pub gather_ns: u64,
    /// Between two reports to the parent, at least.
    pub report_ns: u64,
    /// For the children to move away from a node that drains.
    pub drain_ns: u64,
}

const MS: u64 = 1_000_000;

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            beat_ns: 250 * MS,
            silence_ns: 1_000 * MS,
            stall_ns: 3_000 * MS,
            answer_ns: 300 * MS,
            first_answer_ns: 1_000 * MS,
            reserve_ns: 1_000 * MS,
            idle_ns: 2_000 * MS,
            probe_ns: 1_000 * MS,
            alone_ns: 1_000 * MS,
            drift_ns: 3_000 * MS,
            retry_ns: 50 * MS,
            retry_max_ns: 1_000 * MS,
            gather_ns: 100 * MS,
            report_ns: 20 * MS,
            drain_ns: 3_000 * MS,
        }
    }
}

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub struct PlaceConfig {
    /// Who it is.
    pub node: NodeId,
    /// Which of its starts this is; grows.
    pub incarnation: u64,
    /// Where others can reach it.
    pub address: Option<SocketAddr>,
    /// Its name; may be empty.
    pub name: String,
    /// Where to ask for a place; the first [`SEEDS_MAX`] count. A node without seeds and parent is a root.
    pub seeds: Vec<SocketAddr>,
    /// The only parent that it may have.
    pub parent: Option<SocketAddr>,
    /// The tree is described by a file: nobody is elected, and it may be [`STATIC_DEPTH_MAX`] deep.
    pub is_static: bool,
    /// Names of the children it may have, at the places of their numbers; `None` is any.
    pub allowed_children: Option<Vec<String>>,
    /// Most children.
    pub children_max: u8,
    /// All its randomness.
    pub entropy: u64,
    /// How long what takes.
    pub timings: Timings,
}

impl PlaceConfig {
    /// A node that places itself, with what is usual.
    pub fn new(node: NodeId, incarnation: u64, address: Option<SocketAddr>) -> PlaceConfig {
        PlaceConfig {
            node,
            incarnation,
            address,
            name: String::new(),
            seeds: Vec::new(),
            parent: None,
            is_static: false,
            allowed_children: None,
            children_max: 8,
            entropy: node.0 ^ incarnation,
            timings: Timings::default(),
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum PlaceInput {
    /// A connection stands, and who is there is known.
    Connected {
        /// A number that is free.
        peer: PeerId,
        /// Who is there.
        node: NodeId,
        /// Which of its starts it is.
        incarnation: u64,
        /// Where it says that it can be reached.
        address: Option<SocketAddr>,
        /// If this machine wished for it.
        dialed: Option<DialId>,
    },
    /// A connection did not come about.
    DialFailed {
        /// Which.
        dial: DialId,
    },
    /// A connection led back to this node: its address is one of this node's own.
    DialedItself {
        /// Which.
        dial: DialId,
    },
    /// A connection is gone.
    Closed {
        /// Which.
        peer: PeerId,
    },
    /// A message came.
    Message {
        /// By which connection.
        peer: PeerId,
        /// What it says.
        message: PlaceMessage,
    },
    /// Something else came on a connection: who is there lives, whatever became of its messages.
    Heard {
        /// By which connection.
        peer: PeerId,
    },
    /// The time that [`Place::next_deadline`] gave has come. Also the first input, which starts everything.
    Tick,
    /// The node ends soon: its children are to move away. It is done when [`Place::is_drained`].
    Drain,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The other side is the parent.
    Parent,
    /// The other side is the child of this number.
    Child(u8),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// It has served: the search is over, or somebody else was chosen.
    Done,
    /// Nothing came for too long on a link.
    Silent,
    /// Neither asked nor was asked for too long.
    Idle,
    /// A place was not confirmed in time.
    Unconfirmed,
    /// Too many strangers at once.
    Busy,
    /// The other side is this node.
    Itself,
    /// It was dialed, and came too late.
    Late,
    /// The same node is connected anew, or in a later start.
    Replaced,
    /// The node stands among its parent's ancestors.
    Loop,
    /// It would stand deeper than is allowed.
    TooDeep,
    /// The root's beats no longer come, though the parent's do.
    Stalled,
    /// The node moved to another parent.
    Moved,
    /// The other side left.
    Left,
    /// This node drains.
    Draining,
    /// The other side says what cannot be; names it.
    Lie(&'static str),
}

impl core::fmt::Display for CloseWhy {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            CloseWhy::Done => "no longer needed",
            CloseWhy::Silent => "it has been silent for too long",
            CloseWhy::Idle => "it asked for nothing",
            CloseWhy::Unconfirmed => "it did not take the place that it was given",
            CloseWhy::Busy => "too many nodes ask at once",
            CloseWhy::Itself => "the node has dialed itself",
            CloseWhy::Late => "the connection came too late",
            CloseWhy::Replaced => "the same node has connected anew",
            CloseWhy::Loop => "this node stands above its parent",
            CloseWhy::TooDeep => "the place would be too deep",
            CloseWhy::Stalled => "the root is no longer heard",
            CloseWhy::Moved => "this node has moved to another parent",
            CloseWhy::Left => "it left",
            CloseWhy::Draining => "this node ends",
            CloseWhy::Lie(what) => return write!(out, "it says what cannot be: {what}"),
        })
    }
}

/// What the caller is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutput {
    /// Connect, and say `Connected` or `DialFailed`.
    Dial {
        /// To be given back.
        dial: DialId,
        /// Where.
        address: SocketAddr,
    },
    /// Send.
    Send {
        /// Where.
        peer: PeerId,
        /// What.
        message: PlaceMessage,
    },
    /// Close once everything is sent. The machine has forgotten the connection already.
    Close {
        /// Which.
        peer: PeerId,
        /// For the log.
        why: CloseWhy,
    },
    /// From now on the link carries events.
    Adopted {
        /// Which.
        peer: PeerId,
        /// What it is.
        role: Role,
    },
    /// From now on it does not.
    Dropped {
        /// Which.
        peer: PeerId,
    },
    /// The node's own path or reign changed, or whether it is settled.
    Moved,
}

impl PlaceOutput {
    /// Whether the node's address may be another now, or other links lead from it.
    pub fn is_of_standing(&self) -> bool {
        use PlaceOutput::{Adopted, Dropped, Moved};
        matches!(self, Moved | Adopted { .. } | Dropped { .. })
    }
}

/// Rules that can be broken, for the simulator's canary: a check that cannot fail is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Broken {
    /// A node does not look for itself among its ancestors, and gives places to them.
    PathVector,
    /// A node gives places while it is adrift.
    AcceptAdrift,
    /// Trees that meet do not compare their ranks.
    Rank,
    /// A silent link is not noticed.
    Silence,
}

/// What a connection is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Stranger,
    Parent,
    /// Perhaps not confirmed yet.
    Child(u8),
}

#[derive(Debug)]
struct PlacePeer {
    node: NodeId,
    incarnation: u64,
    address: Option<SocketAddr>,
    relation: Relation,
    heard_ns: u64,
    /// What it asked and has not been answered for good.
    waiting: Option<Ask>,
    /// Its answer waits for a sign of life of this node's parent.
    is_deferred: bool,
    echo: EchoState,
}

impl PlacePeer {
    fn contact(&self) -> Contact {
        Contact::new(self.node, self.address)
    }
}

/// What is needed to measure round trips.
#[derive(Clone, Copy, Debug, Default)]
struct EchoState {
    came_ns: u64,
    echo_ns: u64,
    round_trip_ns: Option<u64>,
}

impl EchoState {
    fn take(&mut self, echo: &Echo, now_ns: u64) {
        self.came_ns = now_ns;
        self.echo_ns = echo.sent_ns;
        if echo.echo_ns != 0 {
            let since = now_ns.checked_sub(echo.echo_ns);
            let round_trip = since.and_then(|since| since.checked_sub(echo.held_ns));
            self.round_trip_ns = round_trip.or(self.round_trip_ns);
        }
    }

    fn give(&self, now_ns: u64) -> Echo {
        let is_known = self.echo_ns != 0;
        Echo {
            sent_ns: now_ns.max(1),
            echo_ns: self.echo_ns,
            held_ns: if is_known {
                now_ns.saturating_sub(self.came_ns)
            } else {
                0
            },
        }
    }
}

#[derive(Debug)]
struct Child {
    peer: PeerId,
    is_confirmed: bool,
    reserved_until_ns: u64,
    subtree: u32,
    below: u8,
    room: u32,
    /// Nodes that were sent there since its last report.
    expected: u32,
}

#[derive(Debug)]
struct Parent {
    peer: PeerId,
    child: u8,
    /// Places free below it.
    room: u8,
}

/// When the children hear of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    No,
    AtBeat,
    Now,
}

/// A child, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildView {
    /// Its connection.
    pub peer: PeerId,
    /// Its number.
    pub number: u8,
    /// Who it is, and where.
    pub contact: Contact,
    /// Nodes of its subtree, itself included.
    pub subtree: u32,
    /// The time to it and back, if it was measured.
    pub round_trip_ns: Option<u64>,
}

/// The parent, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentView {
    /// Its connection.
    pub peer: PeerId,
    /// Who it is, and where.
    pub contact: Contact,
    /// The time to it and back, if it was measured.
    pub round_trip_ns: Option<u64>,
}

/// How much is kept, for who checks the caps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceCounts {
    /// Connections that are neither parent nor child nor asked.
    pub strangers: usize,
    /// Connections of any sort.
    pub peers: usize,
    /// Nodes being dialed or asked.
    pub asked: usize,
    /// Nodes that a search keeps track of.
    pub targets: usize,
    /// Addresses remembered, seeds not counted.
    pub remembered: usize,
}

/// A node's place.
#[derive(Debug)]
pub struct Place {
    config: PlaceConfig,
    random: u64,
    standing: Standing,
    path: Vec<u8>,
    /// The parent first, the root last.
    ancestors: Vec<Contact>,
    root_children: Vec<Contact>,
    siblings: Vec<Contact>,
    parent: Option<Parent>,
    children: BTreeMap<u8, Child>,
    peers: BTreeMap<PeerId, PlacePeer>,
    search: Option<Search>,
    memory: Memory,
    next_dial: u64,
    beat: u64,
    beat_changed_ns: u64,
    beat_at_ns: u64,
    probe_at_ns: u64,
    report_at_ns: u64,
    is_report_due: bool,
    lineage_due: Due,
    /// A sign of life of the parent came.
    is_parent_alive: bool,
    /// Those who wait can be answered.
    answers_due: bool,
    has_moved: bool,
    handled_ns: u64,
    has_started: bool,
    drains_until_ns: Option<u64>,
    is_drained: bool,
    broken: Option<Broken>,
}

impl Place {
    /// A node that has not started yet; the first input starts it.
    pub fn new(mut config: PlaceConfig) -> Place {
        config.seeds.truncate(SEEDS_MAX);
        let standing = Standing::new(false, 0, u8::MAX, config.node);
        let memory = Memory::new(config.seeds.clone(), config.address);
        Place {
            random: config.entropy,
            config,
            standing,
            path: Vec::new(),
            ancestors: Vec::new(),
            root_children: Vec::new(),
            siblings: Vec::new(),
            parent: None,
            children: BTreeMap::new(),
            peers: BTreeMap::new(),
            search: None,
            memory,
            next_dial: 0,
            beat: 0,
            beat_changed_ns: 0,
            beat_at_ns: 0,
            probe_at_ns: 0,
            report_at_ns: 0,
            is_report_due: false,
            lineage_due: Due::No,
            is_parent_alive: false,
            answers_due: false,
            has_moved: false,
            handled_ns: 0,
            has_started: false,
            drains_until_ns: None,
            is_drained: false,
            broken: None,
        }
    }

    /// Breaks a rule, for the simulator's canary.
    #[doc(hidden)]
    pub fn break_rule(&mut self, broken: Broken) {
        self.broken = Some(broken);
    }

    /// Takes what happened, and appends what to do. Time never goes back.
    ///
    /// What a peer says that cannot be closes its connection. Cost: microseconds, and proportional to the connections.
    pub fn handle(&mut self, input: PlaceInput, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        self.note_time(now_ns, out);
        match input {
            PlaceInput::Connected {
                peer,
                node,
                incarnation,
                address,
                dialed,
            } => {
                let entry = PlacePeer {
                    node,
                    incarnation,
                    address,
                    relation: Relation::Stranger,
                    heard_ns: now_ns,
                    waiting: None,
                    is_deferred: false,
                    echo: EchoState::default(),
                };
                self.handle_connected(peer, entry, dialed, now_ns, out);
            }
            PlaceInput::DialFailed { dial } => self.handle_dial_failed(dial),
            PlaceInput::DialedItself { dial } => self.handle_dialed_itself(dial),
            PlaceInput::Closed { peer } => self.handle_closed(peer, CloseWhy::Left, now_ns, out),
            PlaceInput::Message { peer, message } => {
                self.handle_message(peer, message, now_ns, out)
            }
            PlaceInput::Heard { peer } => self.handle_heard(peer, now_ns),
            PlaceInput::Tick => {}
            PlaceInput::Drain => self.start_drain(now_ns, out),
        }
        self.apply_time(now_ns, out);
        self.poll_search(now_ns, out);
        self.flush(now_ns, out);
    }

    /// The first input starts the node. A process that slept must not take its neighbours' silence for theirs.
    fn note_time(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if !self.has_started {
            self.has_started = true;
            self.handled_ns = now_ns;
            self.beat_at_ns = now_ns + self.jitter(self.config.timings.beat_ns);
            self.beat_changed_ns = now_ns;
            self.start(now_ns, out);
        }
        let slept_ns = now_ns.saturating_sub(self.handled_ns);
        if slept_ns > 2 * self.config.timings.beat_ns {
            self.beat_changed_ns += slept_ns;
            for peer in self.peers.values_mut() {
                peer.heard_ns += slept_ns;
            }
        }
        self.handled_ns = self.handled_ns.max(now_ns);
    }

    fn start(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if let Some(parent) = self.config.parent {
            self.search = Some(Search::pinned(parent, now_ns));
        } else if self.config.seeds.is_empty() {
            self.become_root(Standing::new(true, 1, 0, self.config.node), now_ns, out);
        } else {
            self.search = Some(Search::join(&self.config.seeds, now_ns));
        }
    }

    /// When a `Tick` is due, if nothing comes before.
    pub fn next_deadline(&self) -> Option<u64> {
        // A root that knows nobody sleeps until somebody comes.
        let is_idle = self.search.is_none() && self.drains_until_ns.is_none();
        let is_alone = self.is_root() && self.peers.is_empty() && self.memory.is_empty();
        if self.is_drained || (is_alone && is_idle) {
            return None;
        }
        let timings = &self.config.timings;
        let mut due_ns = self.beat_at_ns;
        let mut note = |ns: u64| due_ns = due_ns.min(ns);
        for peer in self.peers.values() {
            note(peer.heard_ns + self.patience_ns(peer));
        }
        for child in self.children.values().filter(|child| !child.is_confirmed) {
            note(child.reserved_until_ns);
        }
        if self.parent.is_some() {
            note(self.beat_changed_ns + timings.stall_ns);
            if self.is_report_due {
                note(self.report_at_ns);
            }
        }
        match &self.search {
            Some(search) => note(search.next_deadline().unwrap_or(u64::MAX)),
            None if self.is_root() => note(self.probe_at_ns),
            None => {}
        }
        self.drains_until_ns.into_iter().for_each(&mut note);
        Some(due_ns)
    }

    fn patience_ns(&self, peer: &PlacePeer) -> u64 {
        match peer.relation {
            Relation::Stranger => self.config.timings.idle_ns,
            _ if self.broken == Some(Broken::Silence) => u64::MAX / 4,
            Relation::Parent | Relation::Child(_) => self.config.timings.silence_ns,
        }
    }

    fn handle_connected(
        &mut self,
        id: PeerId,
        peer: PlacePeer,
        dialed: Option<DialId>,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        let mut close = |why| out.push(PlaceOutput::Close { peer: id, why });
        let node = peer.node;
        if node == self.config.node {
            dialed
                .into_iter()
                .for_each(|dial| self.handle_dialed_itself(dial));
            return close(CloseWhy::Itself);
        }
        if self.peers.contains_key(&id) {
            return close(CloseWhy::Lie("two connections have one number"));
        }
        if self.is_drained {
            return close(CloseWhy::Draining);
        }
        let older = |other: &PlacePeer| other.node == node && other.incarnation < peer.incarnation;
        let is_outdated = |other: &PlacePeer| {
            other.node == node
                && other.incarnation > peer.incarnation
                && other.relation != Relation::Stranger
        };
        if self.peers.values().any(is_outdated) {
            return close(CloseWhy::Replaced);
        }
        let replaced = self
            .peers
            .iter()
            .filter_map(|(&id, peer)| older(peer).then_some(id));
        for old in replaced.collect::<Vec<_>>() {
            self.close_peer(old, CloseWhy::Replaced, now_ns, out);
        }
        match dialed {
            Some(dial) => self.handle_dialed(id, peer, dial, now_ns, out),
            None => self.take_stranger(id, peer, out),
        }
    }

    /// Pulses that stood on a connection when it broke are lost, and so a branch may seem silent that is not.
    fn handle_heard(&mut self, id: PeerId, now_ns: u64) {
        if let Some(peer) = self.peers.get_mut(&id)
            && matches!(peer.relation, Relation::Parent | Relation::Child(_))
        {
            peer.heard_ns = peer.heard_ns.max(now_ns);
        }
    }

    fn handle_message(
        &mut self,
        id: PeerId,
        message: PlaceMessage,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            // It was closed while this was on its way.
            return;
        };
        peer.heard_ns = peer.heard_ns.max(now_ns);
        let relation = peer.relation;
        let verdict = match (relation, message) {
            (Relation::Stranger, PlaceMessage::Ask(ask)) => self.handle_ask(id, ask, now_ns, out),
            (Relation::Stranger, PlaceMessage::Offer(offer)) => {
                self.handle_offer(id, offer, now_ns)
            }
            (Relation::Stranger, PlaceMessage::Accept(accept)) => {
                self.handle_accept(id, accept.lineage, now_ns, out)
            }
            (Relation::Stranger, PlaceMessage::Refuse(refuse)) => self.handle_refuse(refuse.why()),
            (Relation::Stranger, PlaceMessage::Wait(wait)) => self.handle_wait(id, wait.standing),
            (Relation::Child(number), PlaceMessage::Confirm(confirm)) => {
                self.handle_confirm(id, number, confirm.child, out)
            }
            (Relation::Child(number), PlaceMessage::Report(report)) => {
                self.handle_report(id, number, &report, now_ns)
            }
            (Relation::Child(_), PlaceMessage::Known(known)) => {
                self.handle_known(&known, out);
                Ok(())
            }
            (Relation::Parent, PlaceMessage::Pulse(pulse)) => self.handle_pulse(id, &pulse, now_ns),
            (Relation::Parent, PlaceMessage::Lineage(lineage)) => {
                self.handle_lineage(id, lineage, now_ns)
            }
            (Relation::Parent, PlaceMessage::Move(order)) => self.handle_move(order, now_ns, out),
            (_, PlaceMessage::Leave(leave)) => {
                self.handle_leave(id, leave, now_ns, out);
                Ok(())
            }
            // Both sides may end a search or a place at the same time.
            (Relation::Stranger, PlaceMessage::Confirm(_)) => Err(CloseWhy::Unconfirmed),
            _ => Err(CloseWhy::Lie("a message that does not stand here")),
        };
        if let Err(why) = verdict {
            self.close_peer(id, why, now_ns, out);
        }
    }

    /// What is due by the clock alone.
    fn apply_time(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.is_drained {
            return;
        }
        let is_late =
            |place: &Place, peer: &PlacePeer| now_ns >= peer.heard_ns + place.patience_ns(peer);
        let mut late = Vec::new();
        for (&id, peer) in &self.peers {
            let is_unconfirmed = matches!(peer.relation, Relation::Child(number) if self.children.get(&number).is_some_and(|child| {
                !child.is_confirmed && now_ns >= child.reserved_until_ns
            }));
            if is_unconfirmed {
                late.push((id, CloseWhy::Unconfirmed));
            } else if is_late(self, peer) {
                let why = match peer.relation {
                    Relation::Stranger => CloseWhy::Idle,
                    _ => CloseWhy::Silent,
                };
                late.push((id, why));
            }
        }
        for (id, why) in late {
            self.close_peer(id, why, now_ns, out);
        }
        let stall_ns = self.beat_changed_ns + self.config.timings.stall_ns;
        if let Some(parent) = self.parent.as_ref().filter(|_| now_ns >= stall_ns) {
            self.close_peer(parent.peer, CloseWhy::Stalled, now_ns, out);
        }
        if self.search.is_none() && self.is_root() && now_ns >= self.probe_at_ns {
            let wait_ns = self.config.timings.probe_ns;
            self.probe_at_ns = now_ns + wait_ns - self.jitter(wait_ns / 4);
            self.start_probe(now_ns);
        }
        self.drive_drain(now_ns, out);
    }

    fn start_drain(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.drains_until_ns.is_some() {
            return;
        }
        self.drains_until_ns = Some(now_ns + self.config.timings.drain_ns);
        if self
            .search
            .as_ref()
            .is_some_and(|search| !search.is_for_member())
        {
            self.end_search(now_ns, None, out);
        }
        // The root's children cannot move below each other all at once: one of them becomes the root first.
        let heir = self
            .confirmed()
            .filter(|_| self.is_root())
            .map(|(_, child)| child.peer)
            .filter(|peer| self.peers[peer].address.is_some())
            .min_by_key(|peer| self.peers[peer].node);
        let parent = self.parent.as_ref().map(|parent| parent.peer);
        let nobody = Contact::new(NodeId(0), None);
        let to = heir
            .or(parent)
            .map_or(nobody, |peer| self.peers[&peer].contact());
        for (_, child) in self.confirmed() {
            let inherits = Some(child.peer) == heir;
            let message = PlaceMessage::Move(Move { inherits, to });
            let peer = child.peer;
            out.push(PlaceOutput::Send { peer, message });
        }
    }

    fn drive_drain(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let Some(until_ns) = self.drains_until_ns else {
            return;
        };
        if self.is_drained || !(self.children.is_empty() || now_ns >= until_ns) {
            return;
        }
        self.end_search(now_ns, None, out);
        let message = PlaceMessage::Leave(Leave { drains: true });
        for (&peer, entry) in &self.peers {
            if entry.relation != Relation::Stranger {
                let message = message.clone();
                out.push(PlaceOutput::Send { peer, message });
                if self.is_adopted(peer) {
                    out.push(PlaceOutput::Dropped { peer });
                }
            }
            let why = CloseWhy::Draining;
            out.push(PlaceOutput::Close { peer, why });
        }
        self.peers.clear();
        self.children.clear();
        self.parent = None;
        self.standing.settled = false;
        self.has_moved = true;
        self.is_drained = true;
    }

    /// Whether events may flow by this connection.
    fn is_adopted(&self, id: PeerId) -> bool {
        match self.peers.get(&id).map(|peer| peer.relation) {
            Some(Relation::Parent) => true,
            Some(Relation::Child(number)) => self.children[&number].is_confirmed,
            _ => false,
        }
    }

    fn confirmed(&self) -> impl Iterator<Item = (u8, &Child)> {
        self.children
            .iter()
            .filter(|(_, child)| child.is_confirmed)
            .map(|(&number, child)| (number, child))
    }

    fn depth_max(&self) -> usize {
        // Paths grow around a loop, so that their length would break it too.
        let is_unchecked = self.broken == Some(Broken::PathVector);
        if self.config.is_static || is_unchecked {
            STATIC_DEPTH_MAX
        } else {
            DEPTH_MAX
        }
    }

    /// A number below `end`, or 0.
    fn jitter(&mut self, end: u64) -> u64 {
        // splitmix64: small, and good enough to spread what would happen at once.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).checked_rem(end).unwrap_or(0)
    }

    /// The numbers of the children that lead here from the root; `None` while the node is adrift.
    pub fn path(&self) -> Option<&[u8]> {
        self.standing.settled.then_some(&self.path)
    }

    /// The tree it stands in.
    pub fn reign(&self) -> Standing {
        self.standing
    }

    /// Whether it is the root of a tree.
    pub fn is_root(&self) -> bool {
        self.parent.is_none() && self.standing.settled
    }

    /// Whether it is a root that knows where others should be, and none of them answers.
    pub fn is_alone(&self) -> bool {
        self.is_root() && self.peers.is_empty() && !self.memory.is_empty()
    }

    /// Its parent.
    pub fn parent(&self) -> Option<ParentView> {
        let peer = self.parent.as_ref()?.peer;
        let entry = &self.peers[&peer];
        Some(ParentView {
            peer,
            contact: entry.contact(),
            round_trip_ns: entry.echo.round_trip_ns,
        })
    }

    /// Its children, by number.
    pub fn children(&self) -> impl Iterator<Item = ChildView> {
        self.confirmed().map(|(number, child)| {
            let entry = &self.peers[&child.peer];
            ChildView {
                peer: child.peer,
                number,
                contact: entry.contact(),
                subtree: child.subtree,
                round_trip_ns: entry.echo.round_trip_ns,
            }
        })
    }

    /// Its parent first, the root last; the nearest [`DEPTH_MAX`].
    pub fn ancestors(&self) -> &[Contact] {
        &self.ancestors
    }

    /// Nodes of its subtree, itself included, as far as is known.
    pub fn subtree(&self) -> u32 {
        let below = self
            .confirmed()
            .map(|(_, child)| u64::from(child.subtree))
            .sum::<u64>();
        (below + 1).min(u64::from(sapwood_wire::node::place::SUBTREE_MAX)) as u32
    }

    /// Levels below it.
    pub fn below(&self) -> u8 {
        let below = self.confirmed().map(|(_, child)| child.below);
        below.max().map_or(0, |below| below.saturating_add(1))
    }

    /// Whether the node has moved its children away, or given up on it, and left.
    pub fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// How much is kept.
    pub fn counts(&self) -> PlaceCounts {
        let strangers = self
            .peers
            .iter()
            .filter(|(id, peer)| peer.relation == Relation::Stranger && !self.is_target(**id));
        PlaceCounts {
            strangers: strangers.count(),
            peers: self.peers.len(),
            asked: self.search.as_ref().map_or(0, Search::asked),
            targets: self.search.as_ref().map_or(0, Search::len),
            remembered: self.memory.len(),
        }
    }
}
