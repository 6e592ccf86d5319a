//! A node's place in the tree: it finds a parent, keeps it, replaces a lost one, and accepts children.
//!
//! [`Place`] is a state machine without I/O: connections, messages and time go in, dials and messages come out. Only
//! shard 0 of a node runs it. Owns the node's path, its parent and its children; must not know events, lanes or
//! sockets.
//!
//! Terms. A node is *settled* if a chain of parents leads from it to a root, and *adrift* if the node at the top of
//! that chain is looking for a parent. The rank of a tree is its *reign*: the higher term, then the lower level, then
//! the lower id of its root. A tree of a lower rank joins one of a higher rank as a whole, so that in the end there is
//! one.
//!
//! Invariants: a settled root never asks for a place in a tree of its own rank or a lower one; an adrift node gives no
//! places; no node gives a place to one of its ancestors. So a loop can only come from news that is still on its way,
//! and then the path vector breaks it: a node that finds itself among its parent's ancestors leaves that parent. Every
//! list is capped. Nothing depends on hash order.
//!
//! Start at [`Place::handle`]; `search.rs` looks for a parent, `answer.rs` gives places, `neighbours.rs` keeps the
//! links.

mod answer;
mod config;
mod memory;
mod neighbours;
mod search;
#[cfg(test)]
mod tests;

pub use config::{PlaceConfig, Timings};
use core::net::SocketAddr;
use memory::Memory;
use sapwood_wire::node::NodeId;
use sapwood_wire::node::place::{Ask, Contact, Echo, Leave, Move, PlaceMessage, Standing};
use search::Search;
use std::collections::BTreeMap;

/// Maximum depth in a tree that places itself. With 2 children each, 32 levels hold more nodes than there are.
pub const DEPTH_MAX: usize = 32;

/// Maximum depth in a tree that a file describes.
pub const STATIC_DEPTH_MAX: usize = 255;

/// Maximum connections that are neither parent nor child nor part of a search. Worst memory: about 200 bytes each.
pub const STRANGERS_MAX: usize = 64;

/// Maximum remembered addresses, besides the seeds.
pub const REMEMBERED_MAX: usize = 32;

/// Maximum seeds that are kept.
pub const SEEDS_MAX: usize = 16;

/// Maximum nodes that one search tracks: ancestors, the root's children and siblings, all at once.
pub const TARGETS_MAX: usize = 96;

/// Maximum nodes that are dialed or asked at a time.
pub const ASKED_MAX: usize = 8;

/// Id of a connection, chosen by the caller; not reused while the machine may remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// Id of a dial, chosen by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// An input of the machine.
#[derive(Debug)]
pub enum PlaceInput {
    /// A connection to a known node is open.
    Connected {
        /// An unused id.
        peer: PeerId,
        /// The id of the node at the other side.
        node: NodeId,
        /// The incarnation of that node.
        incarnation: u64,
        /// The advertised address of that node.
        address: Option<SocketAddr>,
        /// The dial that led to it; `None` if the other side dialed.
        dialed: Option<DialId>,
    },
    /// A dial failed.
    DialFailed {
        /// The dial.
        dial: DialId,
    },
    /// A dial led back to this node: the address is one of its own.
    DialedItself {
        /// The dial.
        dial: DialId,
    },
    /// A connection was closed.
    Closed {
        /// The connection.
        peer: PeerId,
    },
    /// A message was received.
    Message {
        /// The connection.
        peer: PeerId,
        /// The message.
        message: PlaceMessage,
    },
    /// Something else was received: the other side lives, even if its messages were lost.
    Heard {
        /// The connection.
        peer: PeerId,
    },
    /// The link has another connection, and messages sent on the one before may be lost.
    Resumed {
        /// The link.
        peer: PeerId,
    },
    /// The time of [`Place::next_deadline`] has come. Also the first input, which starts the machine.
    Tick,
    /// The node will end: its children are told to move away.
    Drain,
    /// The node that drains leaves once its children are gone. Done when [`Place::is_drained`].
    Leave,
}

/// The role of the other side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The parent.
    Parent,
    /// The child of this number.
    Child(u8),
}

/// The reason why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// No longer needed: the search ended, or chose another node.
    Done,
    /// Nothing was received on a link for too long.
    Silent,
    /// No question was sent or received for too long.
    Idle,
    /// A place was not confirmed in time.
    Unconfirmed,
    /// Too many strangers.
    Busy,
    /// The other side is this node.
    Itself,
    /// The connection or answer came too late.
    Late,
    /// The same node connected again, or restarted.
    Replaced,
    /// The node is among its parent's ancestors.
    Loop,
    /// The node would be deeper than allowed.
    TooDeep,
    /// The root's beats no longer arrive, though the parent's do.
    Stalled,
    /// The node moved to another parent.
    Moved,
    /// The other side left.
    Left,
    /// The connection was lost.
    Lost,
    /// This node drains.
    Draining,
    /// The other side sent something impossible; holds what.
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
            CloseWhy::Lost => "its connection is lost",
            CloseWhy::Draining => "this node ends",
            CloseWhy::Lie(what) => return write!(out, "it says what cannot be: {what}"),
        })
    }
}

/// An output of the machine: what the caller must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutput {
    /// Dial an address, then report `Connected` or `DialFailed`.
    Dial {
        /// The id to report.
        dial: DialId,
        /// The address.
        address: SocketAddr,
    },
    /// Send a message.
    Send {
        /// The connection.
        peer: PeerId,
        /// The message.
        message: PlaceMessage,
    },
    /// Close a connection after everything was sent. The machine has already forgotten it.
    Close {
        /// The connection.
        peer: PeerId,
        /// The reason, for the log.
        why: CloseWhy,
    },
    /// The link carries events from now on.
    Adopted {
        /// The connection.
        peer: PeerId,
        /// The role of the other side.
        role: Role,
    },
    /// The link no longer carries events.
    Dropped {
        /// The connection.
        peer: PeerId,
    },
    /// The node's path, reign or settled state changed.
    Moved,
}

impl PlaceOutput {
    /// Whether the node's position may have changed: its address, or the links to its neighbours.
    pub fn is_of_standing(&self) -> bool {
        use PlaceOutput::{Adopted, Dropped, Moved};
        matches!(self, Moved | Adopted { .. } | Dropped { .. })
    }
}

/// Rules that the simulator's canary can disable, to show that its checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Broken {
    /// The node does not look for itself among its ancestors, and gives places to them.
    PathVector,
    /// The node gives places while it is adrift.
    AcceptAdrift,
    /// Trees that meet do not compare their ranks.
    Rank,
    /// A silent link is not noticed.
    Silence,
}

/// The role of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Stranger,
    Parent,
    /// The child of this number, confirmed or not.
    Child(u8),
}

#[derive(Debug)]
struct PlacePeer {
    node: NodeId,
    incarnation: u64,
    address: Option<SocketAddr>,
    relation: Relation,
    heard_ns: u64,
    /// Beats of this node since something was heard, as time: however late a beat, it counts as one.
    silent_ns: u64,
    /// The question that it still waits on.
    waiting: Option<Ask>,
    /// Whether the answer is deferred until this node's parent shows a sign of life.
    is_deferred: bool,
    echo: EchoState,
}

impl PlacePeer {
    fn contact(&self) -> Contact {
        Contact::new(self.node, self.address)
    }

    fn is_stranger(&self) -> bool {
        self.relation == Relation::Stranger
    }

    fn note_heard(&mut self, now_ns: u64) {
        self.heard_ns = self.heard_ns.max(now_ns);
        self.silent_ns = 0;
    }
}

/// State for measuring round trips.
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
    /// Nodes sent to this child since its last report.
    expected: u32,
}

#[derive(Debug)]
struct Parent {
    peer: PeerId,
    child: u8,
    /// Free places of the parent itself.
    room: u8,
}

/// When the children are told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    No,
    AtBeat,
    Now,
}

/// A child, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildView {
    /// The connection.
    pub peer: PeerId,
    /// The child number.
    pub number: u8,
    /// The node id and address.
    pub contact: Contact,
    /// Nodes in its subtree, itself included.
    pub subtree: u32,
    /// The round-trip time, if measured.
    pub round_trip_ns: Option<u64>,
}

/// The parent, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentView {
    /// The connection.
    pub peer: PeerId,
    /// The node id and address.
    pub contact: Contact,
    /// The round-trip time, if measured.
    pub round_trip_ns: Option<u64>,
}

/// Sizes of everything that is capped, for tests of the caps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceCounts {
    /// Connections that are neither parent nor child nor part of a search.
    pub strangers: usize,
    /// All connections.
    pub peers: usize,
    /// Nodes being dialed or asked.
    pub asked: usize,
    /// Nodes that a search tracks.
    pub targets: usize,
    /// Remembered addresses, without seeds.
    pub remembered: usize,
}

/// The place machine of a node.
#[derive(Debug)]
pub struct Place {
    config: PlaceConfig,
    random: u64,
    standing: Standing,
    path: Vec<u8>,
    /// Ancestors: the parent first, the root last.
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
    /// Beats of this node since the root's counter changed, as time.
    stalled_ns: u64,
    /// When this node, as a root, last lost a child that did not say that it leaves.
    bereft_ns: Option<u64>,
    /// The tree that the node is in, and since when.
    reign_since: (Standing, u64),
    links_lost: u64,
    beat_at_ns: u64,
    probe_at_ns: u64,
    report_at_ns: u64,
    is_report_due: bool,
    lineage_due: Due,
    /// Whether a sign of life of the parent arrived.
    is_parent_alive: bool,
    /// Whether waiting questions can be answered again.
    answers_due: bool,
    has_moved: bool,
    handled_ns: u64,
    has_started: bool,
    drains_until_ns: Option<u64>,
    may_leave: bool,
    /// When the last child of this node left while it drains.
    childless_ns: Option<u64>,
    is_drained: bool,
    broken: Option<Broken>,
}

impl Place {
    /// A machine that has not started; the first input starts it.
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
            stalled_ns: 0,
            bereft_ns: None,
            reign_since: (standing, 0),
            links_lost: 0,
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
            may_leave: false,
            childless_ns: None,
            is_drained: false,
            broken: None,
        }
    }

    /// Disables a rule, for the simulator's canary.
    #[doc(hidden)]
    pub fn break_rule(&mut self, broken: Broken) {
        self.broken = Some(broken);
    }

    /// Handles an input, and appends the outputs to `out`. Time must not go back.
    ///
    /// An impossible message closes its connection. Cost: microseconds, proportional to the number of connections.
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
                    silent_ns: 0,
                    waiting: None,
                    is_deferred: false,
                    echo: EchoState::default(),
                };
                self.handle_connected(peer, entry, dialed, now_ns, out);
            }
            PlaceInput::DialFailed { dial } => self.handle_dial_failed(dial),
            PlaceInput::DialedItself { dial } => self.handle_dialed_itself(dial),
            PlaceInput::Closed { peer } => self.remove_peer(peer, CloseWhy::Lost, now_ns, out),
            PlaceInput::Message { peer, message } => {
                self.handle_message(peer, message, now_ns, out)
            }
            PlaceInput::Heard { peer } => self.handle_heard(peer, now_ns),
            PlaceInput::Resumed { peer } => self.handle_resumed(peer),
            PlaceInput::Tick => {}
            PlaceInput::Drain => self.start_drain(now_ns, out),
            PlaceInput::Leave => self.may_leave = true,
        }
        self.apply_time(now_ns, out);
        self.poll_search(now_ns, out);
        self.flush(now_ns, out);
    }

    /// Starts the machine at the first input. Time that this process slept does not count as others' idleness.
    fn note_time(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if !self.has_started {
            self.has_started = true;
            self.handled_ns = now_ns;
            self.beat_at_ns = now_ns + self.jitter(self.config.timings.beat_ns);
            self.start(now_ns, out);
        }
        let slept_ns = now_ns.saturating_sub(self.handled_ns);
        if slept_ns > 2 * self.config.timings.beat_ns {
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

    /// When a `Tick` is due, if no other input comes before.
    pub fn next_deadline(&self) -> Option<u64> {
        // A root that knows no other address has no deadline.
        let is_idle = self.search.is_none() && self.drains_until_ns.is_none();
        let is_alone = self.is_root() && self.peers.is_empty() && self.memory.is_empty();
        if self.is_drained || (is_alone && is_idle) {
            return None;
        }
        let timings = &self.config.timings;
        let mut due_ns = self.beat_at_ns;
        let mut note = |ns: u64| due_ns = due_ns.min(ns);
        for peer in self.peers.values().filter(|peer| peer.is_stranger()) {
            note(peer.heard_ns + timings.idle_ns);
        }
        for child in self.children.values().filter(|child| !child.is_confirmed) {
            note(child.reserved_until_ns);
        }
        if self.parent.is_some() && self.is_report_due {
            note(self.report_at_ns);
        }
        match &self.search {
            Some(search) => note(search.next_deadline().unwrap_or(u64::MAX)),
            None if self.is_root() => note(self.probe_at_ns),
            None => {}
        }
        self.drains_until_ns.into_iter().for_each(&mut note);
        let parts_ns = self.childless_ns.map(|since_ns| since_ns + timings.part_ns);
        parts_ns
            .filter(|_| self.may_leave && self.children.is_empty())
            .into_iter()
            .for_each(&mut note);
        Some(due_ns)
    }

    /// Why a connection is to be closed by now, if it is: a neighbour's silence, or a stranger that asks nothing.
    fn late_why(&self, peer: &PlacePeer, now_ns: u64) -> Option<CloseWhy> {
        let timings = &self.config.timings;
        if peer.is_stranger() {
            return (now_ns >= peer.heard_ns + timings.idle_ns).then_some(CloseWhy::Idle);
        }
        let is_noticed = self.broken != Some(Broken::Silence);
        (is_noticed && peer.silent_ns > timings.silence_ns).then_some(CloseWhy::Silent)
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

    /// Counts a sign of life of a neighbour. Pulses are not retransmitted when a connection breaks, so a link could
    /// seem silent that is not.
    fn handle_heard(&mut self, id: PeerId, now_ns: u64) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.is_stranger()
        {
            peer.note_heard(now_ns);
        }
    }

    /// Says again what a neighbour needs to know, and is not said with each beat.
    fn handle_resumed(&mut self, id: PeerId) {
        match self.peers.get(&id).map(|peer| peer.relation) {
            Some(Relation::Child(_)) => self.lineage_due = Due::Now,
            Some(Relation::Parent) => self.is_report_due = true,
            Some(Relation::Stranger) | None => {}
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
            // The connection was closed while the message was on its way.
            return;
        };
        peer.note_heard(now_ns);
        let relation = peer.relation;
        let verdict = match (relation, message) {
            (Relation::Stranger, PlaceMessage::Ask(ask)) => self.handle_ask(id, ask, now_ns, out),
            (Relation::Stranger, PlaceMessage::Offer(offer)) => {
                self.handle_offer(id, offer, now_ns, out)
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

    /// Does what is due by time alone.
    fn apply_time(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.is_drained {
            return;
        }
        if now_ns >= self.beat_at_ns {
            self.count_silence();
        }
        let mut late = Vec::new();
        for (&id, peer) in &self.peers {
            let is_unconfirmed = matches!(peer.relation, Relation::Child(number) if self.children.get(&number).is_some_and(|child| {
                !child.is_confirmed && now_ns >= child.reserved_until_ns
            }));
            if is_unconfirmed {
                late.push((id, CloseWhy::Unconfirmed));
            } else {
                late.extend(self.late_why(peer, now_ns).map(|why| (id, why)));
            }
        }
        for (id, why) in late {
            self.close_peer(id, why, now_ns, out);
        }
        let is_stalled = self.stalled_ns > self.config.timings.stall_ns;
        if let Some(parent) = self.parent.as_ref().filter(|_| is_stalled) {
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
        // The root's children cannot all move below each other: one of them becomes the root first.
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
        // Children in a tree that a file describes stay where they are.
        let has_moved = self.children.is_empty() || self.config.is_static;
        let part_ns = self.config.timings.part_ns;
        let has_waited = self
            .childless_ns
            .is_none_or(|since_ns| now_ns >= since_ns + part_ns);
        let is_over = (has_moved && has_waited && self.may_leave) || now_ns >= until_ns;
        if self.is_drained || !is_over {
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

    /// Whether the link carries events.
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
        // With the path vector disabled, paths grow around a loop, and the depth limit would break it.
        let is_unchecked = self.broken == Some(Broken::PathVector);
        if self.config.is_static || is_unchecked {
            STATIC_DEPTH_MAX
        } else {
            DEPTH_MAX
        }
    }

    /// A random number below `end`; 0 if `end` is 0.
    fn jitter(&mut self, end: u64) -> u64 {
        // splitmix64: small, and good enough to spread what would happen at once.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).checked_rem(end).unwrap_or(0)
    }

    /// The child numbers that lead here from the root; `None` while the node is adrift.
    pub fn path(&self) -> Option<&[u8]> {
        self.standing.settled.then_some(&self.path)
    }

    /// The rank of the tree that the node is in.
    pub fn reign(&self) -> Standing {
        self.standing
    }

    /// Since when the node has been in that tree, whatever its place there: as long it knows the root for one.
    pub fn reign_since_ns(&self) -> u64 {
        self.reign_since.1
    }

    /// Whether the node is the root of a tree.
    pub fn is_root(&self) -> bool {
        self.parent.is_none() && self.standing.settled
    }

    /// Whether the node is a root that has other addresses to try, none of which answers.
    pub fn is_alone(&self) -> bool {
        self.is_root() && self.peers.is_empty() && !self.memory.is_empty()
    }

    /// Links that were lost: neither this node nor the other one ended them.
    pub fn links_lost(&self) -> u64 {
        self.links_lost
    }

    /// The parent.
    pub fn parent(&self) -> Option<ParentView> {
        let peer = self.parent.as_ref()?.peer;
        let entry = &self.peers[&peer];
        Some(ParentView {
            peer,
            contact: entry.contact(),
            round_trip_ns: entry.echo.round_trip_ns,
        })
    }

    /// The children, by number.
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

    /// The ancestors: the parent first, the root last; the nearest [`DEPTH_MAX`].
    pub fn ancestors(&self) -> &[Contact] {
        &self.ancestors
    }

    /// Nodes in the subtree, this one included, as last reported.
    pub fn subtree(&self) -> u32 {
        let below = self
            .confirmed()
            .map(|(_, child)| u64::from(child.subtree))
            .sum::<u64>();
        (below + 1).min(u64::from(sapwood_wire::node::place::SUBTREE_MAX)) as u32
    }

    /// Levels below this node.
    pub fn below(&self) -> u8 {
        let below = self.confirmed().map(|(_, child)| child.below);
        below.max().map_or(0, |below| below.saturating_add(1))
    }

    /// Whether the drain is over: the children moved away or time ran out, and the node left.
    pub fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// Sizes of everything that is capped.
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
