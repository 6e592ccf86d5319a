//! The broker: a deterministic machine that bytes, hand-overs and time go into and out of which
//! bytes and hand-overs come.
//!
//! [`Shard`] is the only door. It performs no I/O, reads no clock and starts no thread: who drives
//! it (the server, the simulator, a WASI host) brings the input and takes the output. So whole
//! nodes run in one thread under a seed, and a history that found a bug can be played again.
//!
//! Invariants: the same inputs give the same outputs; everything has a cap, in [`limits`]; a
//! connection's replies keep the order of its requests; a publisher's events of a topic keep
//! theirs; no event precedes the confirmation of the subscription that asked for it.
//!
//! The life of an event: [`Shard::handle`] -> `session` (bytes to a command) -> `delivery` ->
//! `broker` (whom does it reach) -> `outbox` and `handover` -> the driver writes
//! [`Shard::output`]. Start reading at [`Shard::handle`].
#![forbid(unsafe_code)]

mod broker;
pub mod command;
pub mod counters;
mod deadlines;
mod delivery;
mod groups;
mod guests;
pub mod handover;
mod input;
pub mod interest;
pub mod limits;
mod outbox;
mod pings;
mod questions;
mod session;
mod sids;
mod subs;
#[cfg(test)]
mod tests;
pub mod tree;
mod trie;

use broker::Broker;
use bytes::Bytes;
use command::{ClientId, CloseReason, ConnId, Form, Now, ShardId};
use core::net::SocketAddr;
use counters::Counters;
use deadlines::Deadlines;
use delivery::{Delivery, Ways};
use handover::{Batch, Control, HandOvers, Place, Records, Unheard};
use interest::Interest;
use limits::Limits;
pub use outbox::BodyGauge;
use outbox::Outboxes;
use questions::Gathering;
pub use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
pub use sapwood_wire::native::Policy;
use sapwood_wire::resp::Parser;
use session::{Context, Holds, Identity, Session, Settings};
pub use session::{Protocol, Spoken, WebSettings};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tree::{Links, Tree, TreeConfig};

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number.
    pub shard: ShardId,
    /// How many shards the node has, this one included; 1 to [`limits::SHARDS_MAX`].
    pub shards: u16,
    /// The name of the only user, which goes with the password; `None` is `default`.
    pub user: Option<Vec<u8>>,
    /// What clients must know to be let in; `None` lets everybody in.
    pub password: Option<Vec<u8>>,
    /// Longest payload that clients of NATS may publish, headers included; they are told when they connect.
    /// At most `PAYLOAD_BYTES_MAX`.
    pub nats_payload_max: usize,
    /// What the web may do.
    pub web: WebSettings,
    /// Whether clients may publish to `$all`.
    pub may_broadcast: bool,
    /// What the node's process takes, for who asks.
    pub vitals: Arc<Vitals>,
    /// Who the node is among others, and where it looks for them; `None` if it stays alone.
    pub tree: Option<TreeConfig>,
    /// The caps in force.
    pub limits: Limits,
    /// Keeps outsiders from choosing names that collide in hash tables.
    pub hash_seed: u64,
    /// Shared by all shards of the node.
    pub body_gauge: BodyGauge,
    /// The node's random name for this run, 40 hexadecimal digits.
    pub run_id: String,
    /// The process that the node runs in, as INFO shows it.
    pub process_id: u32,
    /// When the node started, in milliseconds since 1970.
    pub started_wall_ms: u64,
}

/// What the node's process takes, as its driver has last measured it; 0 if it has not.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Resident memory, in bytes.
    pub memory_bytes: AtomicU64,
    /// CPU time, in thousandths of one CPU, since it was measured before.
    pub cpu_permille: AtomicU64,
}

/// Something that happened, for a shard to handle.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted. `conn` is a free place of the driver's choice.
    Opened {
        /// Its place until `Closed`.
        conn: ConnId,
        /// Its number, unique on the node while it runs.
        client: ClientId,
        /// The protocol of the listener that accepted it.
        protocol: Protocol,
        /// What happens when it reads too slowly, unless it says so itself.
        policy: Policy,
        /// Its own address.
        peer: SocketAddr,
        /// The address it connected to.
        local: SocketAddr,
    },
    /// What stands unconsumed of a connection's input, from its first unconsumed byte. May be
    /// empty: after a hold, a command may be waiting to go on.
    Bytes {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a [u8],
        /// How many of them, at the end, are here for the first time.
        fresh: usize,
    },
    /// The same in a buffer made by [`Shard::lend`], of which core may keep parts: for long
    /// requests, whose payload is then never copied.
    Lent {
        /// The connection.
        conn: ConnId,
        /// Its input.
        bytes: &'a Bytes,
        /// How many of them, at the end, are here for the first time.
        fresh: usize,
    },
    /// A connection that core asked for did not come about.
    DialFailed {
        /// The number that core gave it.
        dial: u64,
    },
    /// A connection is gone, or the driver has closed it; its place is free again.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// A batch from another shard, to be read from `place` on.
    HandOver {
        /// The shard that sent it.
        from: ShardId,
        /// The batch.
        batch: &'a mut Batch,
        /// Where to read on: a default one at first, then what `handle` left in it.
        place: &'a mut Place,
    },
    /// A batch of this shard's that another shard has dealt with.
    Returned {
        /// That shard.
        by: ShardId,
        /// The batch.
        batch: Batch,
    },
    /// The driver has nothing more for this turn.
    TurnEnd,
    /// The node ends: all connections will be closed within so many milliseconds.
    Ending {
        /// From now.
        milliseconds: u32,
    },
    /// The time that [`Shard::next_deadline`] gave has come.
    Tick,
}

/// What the driver is to do next with the input it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on reading this connection; another attempt is due once so many bytes stand, and no
    /// earlier. At most as much again as stands and [`limits::INPUT_STEP_BYTES`], so that caps hold.
    Read {
        /// Bytes behind what was consumed.
        needed: usize,
    },
    /// Keep the rest and do not read on until the connection is named in [`Outputs::resumed`].
    Hold,
    /// Write the dirty connections, then give the rest of the same input again.
    Flush,
    /// Nothing: the input is dealt with, or the connection is being closed.
    Done,
}

/// How a shard dealt with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Bytes of `Input::Bytes` that need not be kept.
    pub consumed: usize,
    /// What follows.
    pub next: Next,
}

impl Handled {
    const DONE: Handled = Handled {
        consumed: 0,
        next: Next::Done,
    };
}

/// What an input led to, for the driver to carry out. It empties the lists; dirty connections are
/// asked for with [`Shard::take_dirty`], hand-overs with [`Shard::take_handover`].
#[derive(Debug, Default)]
pub struct Outputs {
    /// Connections that may be read again; the rest of their input is to be given first.
    pub resumed: Vec<ConnId>,
    /// Connections to be closed once their output is written.
    pub closing: Vec<(ConnId, CloseReason)>,
    /// Connections to be dialed: each comes as `Input::Opened` or `Input::DialFailed`, within about a second.
    pub dials: Vec<tree::Dial>,
    /// Connections that are another shard's. They are closed here with nothing consumed, and opened there with the
    /// same input.
    pub moving: Vec<(ConnId, ShardId)>,
    /// What an operator may want to read about links.
    pub notices: Vec<tree::Notice>,
}

/// One connection, but for its output and subscriptions.
#[derive(Debug)]
struct Connection {
    client: ClientId,
    session: Session,
    holds: Holds,
    peer: SocketAddr,
    local: SocketAddr,
    opened_ns: u64,
    active_ns: u64,
    bytes_in: u64,
    events_in: u64,
    /// Bytes of unfinished input that are kept for it.
    kept_bytes: usize,
    /// When it must have authenticated, if it has not.
    guest_until_ns: u64,
    /// Stands among the guests, perhaps no longer being one.
    guest_listed: bool,
    /// Named in `closing`: nothing of it is handled any more.
    closing: bool,
    /// It killed itself: closed once that is answered.
    kills_itself: bool,
}

impl Connection {
    fn identity(&self) -> Identity {
        Identity {
            client: self.client,
            peer: self.peer,
            local: self.local,
        }
    }
}

/// One shard of a node: the broker of the connections it owns.
#[derive(Debug)]
pub struct Shard {
    settings: Settings,
    connections: Vec<Option<Box<Connection>>>,
    broker: Broker,
    outboxes: Outboxes,
    hand_overs: HandOvers,
    interest: Interest,
    links: Links,
    tree: Option<Box<Tree>>,
    delivery: Delivery,
    counters: Counters,
    parser: Parser,
    gatherings: Vec<Gathering>,
    next_question: u64,
    /// When each guest must have authenticated, or is to be looked at again; the first is next.
    guests: Deadlines,
    /// When each client that is asked whether it is there is looked at next.
    pings: Deadlines,
    /// When each connection of the web is looked at next.
    looks: Deadlines,
    /// Empty between inputs.
    scratch: Vec<u8>,
    /// Connections that wait for room at another shard.
    stalled: Vec<(ConnId, ClientId)>,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: Config) -> Shard {
        assert!(
            config.shard.0 < config.shards,
            "a shard's number is below their count"
        );
        assert!(
            usize::from(config.shards) <= limits::SHARDS_MAX,
            "too many shards"
        );
        let Config {
            shard,
            shards,
            limits,
            ..
        } = config;
        // Larger than those of the run before, unless that had 16 events in each microsecond.
        let first_number = (config.started_wall_ms << 20) + u64::from(shard.0);
        let me = config.tree.as_ref().map(|tree| &tree.place);
        let me = me.map(|place| (place.node, place.incarnation));
        let links = Links::new(
            (shard.0, shards),
            me.unwrap_or_default(),
            &limits,
            config.body_gauge.clone(),
            config.hash_seed,
        );
        let mut broker = Broker::new(shard, config.hash_seed, &limits);
        if let Some(tree) = &config.tree {
            broker.call_node(&tree.names());
        }
        let tree = config.tree.map(|tree| Box::new(Tree::new(tree, shard.0)));
        Shard {
            connections: Vec::new(),
            broker,
            outboxes: Outboxes::new(&limits, config.body_gauge, config.hash_seed),
            hand_overs: HandOvers::new(shard, shards, &limits),
            interest: Interest::new(shard, shards),
            links,
            tree,
            delivery: Delivery::new(config.hash_seed, first_number),
            counters: Counters::default(),
            parser: Parser::new(),
            gatherings: Vec::new(),
            next_question: 1,
            guests: Deadlines::default(),
            pings: Deadlines::default(),
            looks: Deadlines::default(),
            scratch: Vec::new(),
            stalled: Vec::new(),
            settings: Settings {
                shard,
                shards,
                user: config.user,
                password: config.password,
                nats_payload_max: config.nats_payload_max,
                web: config.web,
                may_broadcast: config.may_broadcast,
                vitals: config.vitals,
                is_ending: false,
                run_id: config.run_id,
                process_id: config.process_id,
                started_wall_ms: config.started_wall_ms,
                limits,
            },
        }
    }

    /// Handles one input. Never waits, never fails: what is wrong with an input is answered to
    /// whom it came from. Bounded: about [`limits::UNFLUSHED_BYTES_MAX`] of output, then
    /// [`Next::Flush`]; the work of one command is bounded by what it names and by the caps.
    pub fn handle(&mut self, input: Input<'_>, now: Now, outputs: &mut Outputs) -> Handled {
        let handled = match input {
            Input::Bytes { conn, bytes, fresh } => {
                self.note_bytes(conn, fresh);
                self.handle_bytes(conn, bytes, now, outputs)
            }
            Input::Lent { conn, bytes, fresh } => {
                self.note_bytes(conn, fresh);
                self.delivery.lent = Some(bytes.clone());
                let handled = self.handle_bytes(conn, bytes, now, outputs);
                self.delivery.lent = None;
                handled
            }
            Input::HandOver { from, batch, place } => {
                self.handle_handover(from, batch, place, now, outputs)
            }
            Input::Returned { by, batch } => {
                if !batch.unheard.is_empty() {
                    self.retry_turns(by, &batch);
                }
                self.hand_overs.returned(by, batch);
                Handled::DONE
            }
            Input::Opened {
                conn,
                client,
                protocol,
                policy,
                peer,
                local,
            } => {
                self.outboxes.open(conn, protocol.form(), policy);
                self.open(conn, client, protocol, (peer, local), now, outputs);
                Handled::DONE
            }
            Input::DialFailed { dial } => {
                self.dial_failed(dial, now);
                Handled::DONE
            }
            Input::Closed { conn } => {
                self.close(conn, now, outputs);
                Handled::DONE
            }
            Input::TurnEnd => {
                self.end_turn(now, outputs);
                Handled::DONE
            }
            Input::Ending { milliseconds } => {
                self.announce_end(milliseconds, outputs);
                self.drain_tree(now);
                Handled::DONE
            }
            Input::Tick => {
                self.end_guests(now, outputs);
                self.ping_silent(now, outputs);
                self.look_at_web(now, outputs);
                self.tick_tree(now, outputs);
                Handled::DONE
            }
        };
        self.act_on_tree(now, outputs);
        self.sweep_closing(outputs);
        handled
    }

    /// Makes a buffer of input one that may be lent by [`Input::Lent`].
    pub fn lend(&self, input: Vec<u8>) -> Bytes {
        self.outboxes.gauge().adopt(input)
    }

    /// When [`Input::Tick`] is due next, by the monotonic clock; `None` if nothing waits for time.
    pub fn next_deadline(&self) -> Option<u64> {
        let deadlines = [
            self.guests.first(),
            self.pings.first(),
            self.looks.first(),
            self.tree_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Moves the connections that have output to be written into `into`, each once.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        self.outboxes.take_dirty(into);
    }

    /// The bytes to be written to a connection, in order.
    pub fn output(&self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        self.outboxes.slices(conn)
    }

    /// Whether a connection that is being closed must stay: something waits to be written to it, or
    /// its end is not known to all shards yet.
    pub fn has_output(&self, conn: ConnId) -> bool {
        self.outboxes.has_output(conn)
    }

    /// Takes note that the first `count` bytes of the output were written, and whether writing
    /// more would have blocked.
    pub fn sent(&mut self, conn: ConnId, count: usize, blocked: bool, outputs: &mut Outputs) {
        self.outboxes.sent(conn, count, blocked);
        if self.links.len() > 0 {
            self.note_lane_sent(conn);
        }
        let Some(Some(connection)) = self.connections.get_mut(conn.slot()) else {
            return;
        };
        if connection.holds.output && self.outboxes.has_caught_up(conn) {
            connection.holds.output = false;
            resume_if_free(connection, conn, outputs);
        }
    }

    /// The next hand-over for another shard, if there is one and credit allows it.
    pub fn take_handover(&mut self, to: ShardId) -> Option<Batch> {
        self.hand_overs.take(to)
    }

    /// Whether nothing is on the way to other shards or waits to be, and nobody waits for them.
    pub fn is_settled(&self) -> bool {
        self.hand_overs.is_idle() && self.gatherings.is_empty()
    }

    /// Whether another [`Input::TurnEnd`] would do something: taking a hand-over may have made room
    /// for those who wait, and writing may have found that a subscriber is gone.
    pub fn is_turn_due(&self) -> bool {
        let has_news = self.broker.has_changes() || self.interest.is_awaited();
        let has_lanes = self.links.has_listed() || self.broker.has_changes_for_links();
        let is_asked = !self.delivery.questions.is_empty() && self.has_room_everywhere();
        has_news || has_lanes || is_asked || self.may_resume_stalled()
    }

    /// Whether hand-overs wait for credit, so that batches that come back are wanted at once.
    pub fn wants_credit(&self) -> bool {
        self.hand_overs.is_waiting()
    }

    /// Where the node stands in the tree; only shard 0 knows.
    pub fn place(&self) -> Option<&tree::place::Place> {
        self.tree.as_ref()?.place.as_ref()
    }

    /// Requests that were carried out so far: what a shard's work is measured in.
    pub fn commands(&self) -> u64 {
        self.counters.commands
    }

    /// The counters as they stand.
    pub fn counters(&self) -> Counters {
        let outboxes = &self.outboxes.counters;
        let (links, link_bytes_kept) = self.links.gauges();
        let beyond = &self.links.counters;
        Counters {
            links,
            link_bytes_kept,
            link_events_out: beyond.events_out,
            link_events_in: beyond.events_in,
            link_events_twice: beyond.events_twice,
            link_events_lost: beyond.events_lost,
            link_events_lost_before: beyond.events_lost_before,
            link_origins: self.links.seen.len() as u64,
            bytes_out: outboxes.bytes_out,
            closed_outbox_full: outboxes.closed_outbox_full,
            closed_outboxes_full: outboxes.closed_outboxes_full,
            events_lost_drop_oldest: outboxes.lost_drop_oldest,
            events_lost_latest: outboxes.lost_latest,
            events_not_carried: self.delivery.named.uncarried,
            turns_retried: self.delivery.turns_retried,
            turns_unheard: self.delivery.turns_unheard,
            places_unheard: self.delivery.lost_places,
            questions_unanswered: self.delivery.questions.unanswered,
            outbox_bytes: self.outboxes.bytes() as u64,
            shared_body_bytes: self.outboxes.gauge().bytes() as u64,
            events_delivered: self.delivery.delivered + self.delivery.named.delivered,
            events_handed_over: self.hand_overs.events,
            handovers: self.hand_overs.sent,
            handover_backlog_bytes: self.hand_overs.backlog_bytes() as u64,
            subscriptions: self.broker.subscriptions(),
            filters: self.broker.filters().len() as u64,
            ..self.counters.clone()
        }
    }

    /// Tells all whose protocol has words for it that the node will close them within so many milliseconds.
    fn announce_end(&mut self, milliseconds: u32, outputs: &mut Outputs) {
        for (slot, place) in self.connections.iter().enumerate() {
            if let Some(connection) = place.as_ref().filter(|there| !there.closing) {
                let conn = ConnId(slot as u32);
                connection.session.announce_end(
                    milliseconds,
                    &self.settings,
                    connection.identity(),
                    conn,
                    &mut self.outboxes,
                );
            }
        }
        self.settings.is_ending = true;
        if milliseconds <= limits::CLOSE_EARLY_MS {
            self.close_sockets(outputs);
        }
    }

    fn note_bytes(&mut self, conn: ConnId, fresh: usize) {
        self.counters.bytes_in += fresh as u64;
        if let Some(Some(connection)) = self.connections.get_mut(conn.slot()) {
            connection.bytes_in += fresh as u64;
        }
    }

    fn open(
        &mut self,
        conn: ConnId,
        client: ClientId,
        protocol: Protocol,
        (peer, local): (SocketAddr, SocketAddr),
        now: Now,
        outputs: &mut Outputs,
    ) {
        if self.connections.len() <= conn.slot() {
            self.connections.resize_with(conn.slot() + 1, || None);
        }
        assert!(
            self.connections[conn.slot()].is_none(),
            "the place of {conn:?} is taken"
        );
        let session = match protocol {
            Protocol::NodeDialed { dial } => match self.dialed_session(dial) {
                Some(session) => Session::Node(Box::new(session)),
                None => Session::new(Protocol::Node, &self.settings),
            },
            protocol => Session::new(protocol, &self.settings),
        };
        let identity = Identity {
            client,
            peer,
            local,
        };
        session.greet(&self.settings, identity, conn, &mut self.outboxes);
        let is_full = self.counters.connections >= self.settings.limits.connections_max as u64;
        if is_full {
            self.counters.connections_refused += 1;
            let reason = CloseReason::TooManyConnections;
            session.say_why(reason, conn, &mut self.outboxes);
            outputs.closing.push((conn, reason));
        }
        let is_guest = session.is_guest() && !is_full;
        self.counters.connections += 1;
        self.counters.connections_accepted += 1;
        let mut connection = Box::new(Connection {
            client,
            session,
            holds: Holds::default(),
            peer,
            local,
            opened_ns: now.monotonic_ns,
            active_ns: now.monotonic_ns,
            bytes_in: 0,
            events_in: 0,
            kept_bytes: 0,
            guest_until_ns: 0,
            guest_listed: false,
            closing: is_full,
            kills_itself: false,
        });
        if is_guest {
            self.await_guest(&mut connection, conn, now);
        }
        if protocol == Protocol::Nats {
            let due_ns = now.monotonic_ns + self.settings.limits.ping_ms * 1_000_000;
            self.pings.add(due_ns, conn, client);
        }
        if matches!(connection.session, Session::Web(_)) {
            self.look_later(conn, client, now);
        }
        self.connections[conn.slot()] = Some(connection);
    }

    fn close(&mut self, conn: ConnId, now: Now, outputs: &mut Outputs) {
        let Some(connection) = self.connections.get_mut(conn.slot()).and_then(Option::take) else {
            return;
        };
        self.counters.connections -= 1;
        self.counters.input_bytes -= connection.kept_bytes as u64;
        self.leave(conn);
        self.outboxes.kill(conn);
        if connection.guest_listed {
            self.guests.note_gone(&self.connections);
        }
        if matches!(connection.session, Session::Nats(_)) {
            self.pings.note_gone(&self.connections);
        }
        if matches!(connection.session, Session::Web(_)) {
            self.looks.note_gone(&self.connections);
        }
        if let Session::Node(session) = &connection.session {
            self.node_gone(session, conn, now, outputs);
        }
    }

    /// Takes all subscriptions of a connection away.
    fn leave(&mut self, conn: ConnId) {
        let form = self.outboxes.outbox(conn).form;
        if form == Form::Nats {
            for number in self.broker.numbers(conn) {
                self.delivery.named.sids.forget(number);
            }
        }
        self.broker.leave(conn, form);
    }

    fn handle_handover(
        &mut self,
        from: ShardId,
        batch: &mut Batch,
        place: &mut Place,
        now: Now,
        outputs: &mut Outputs,
    ) -> Handled {
        if !place.control_done {
            place.control_done = true;
            self.counters.events_received += batch.events;
            for control in std::mem::take(&mut batch.control) {
                self.handle_control(from, control, now, outputs);
            }
        }
        let mut records = Records::new(batch, *place);
        let mut next = Next::Done;
        let mut unheard = Vec::new();
        let mut ways = Ways {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            hand_overs: &mut self.hand_overs,
            links: &mut self.links,
        };
        loop {
            if ways.outboxes.should_flush(self.delivery.pending()) {
                next = Next::Flush;
                break;
            }
            let place = records.place;
            let Some(record) = records.next() else { break };
            let note = |group| unheard.push(Unheard { place, group });
            self.delivery.receive(&mut ways, &record, note);
        }
        *place = records.place;
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        batch.unheard.extend(unheard);
        if next == Next::Done && batch.known > 0 {
            self.release_barriers(from, batch.known, outputs);
        }
        Handled { consumed: 0, next }
    }

    /// Gives the turns that found no member where they went to members elsewhere.
    fn retry_turns(&mut self, by: ShardId, batch: &Batch) {
        let mut ways = Ways {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            hand_overs: &mut self.hand_overs,
            links: &mut self.links,
        };
        self.delivery.retry(&mut ways, by, batch);
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
    }

    fn handle_control(&mut self, from: ShardId, control: Control, now: Now, outputs: &mut Outputs) {
        match control {
            Control::Interest { sequence, changes } => {
                self.broker.apply_changes(from, &changes);
                self.hand_overs.acknowledge(from, sequence);
            }
            Control::Tree(news) => self.handle_tree_news(news, now, outputs),
            Control::Ask { number, query } => {
                let answer = self.answer(&query, None, now, outputs);
                self.hand_overs
                    .push_control(from, Control::Answer { number, answer });
            }
            Control::Answer { number, answer } => {
                let place = self
                    .gatherings
                    .iter()
                    .position(|other| other.number == number);
                // The asker may have left meanwhile, but its gathering stays until it is whole.
                // invariant: every question is answered once by each other shard.
                let place = place.expect("an answer to a question that was never asked");
                self.gatherings[place].answer.merge(answer);
                self.gatherings[place].missing -= 1;
                if self.gatherings[place].missing == 0 {
                    let gathering = self.gatherings.swap_remove(place);
                    self.finish_gathering(gathering, now, outputs);
                }
            }
        }
    }

    fn release_barriers(&mut self, by: ShardId, number: u64, outputs: &mut Outputs) {
        let Shard {
            interest,
            connections,
            outboxes,
            ..
        } = self;
        interest.acknowledged(by, number, |number, conn, client| {
            let Some(Some(connection)) = connections.get_mut(conn.slot()) else {
                return;
            };
            // Who waits for a later change too is not released by this one.
            if connection.client != client || connection.holds.barrier != Some(number) {
                return;
            }
            connection.holds.barrier = None;
            outboxes.release(conn);
            resume_if_free(connection, conn, outputs);
        });
    }

    /// Names a connection as to be closed; from now on it hears and says nothing.
    fn begin_close(&mut self, conn: ConnId, reason: CloseReason, outputs: &mut Outputs) {
        let Some(Some(connection)) = self.connections.get_mut(conn.slot()) else {
            return;
        };
        if connection.closing {
            return;
        }
        // Its output may have been given up by this very input: then that is why it closes.
        let mut given_up = self.outboxes.closing.iter();
        let given_up = given_up.find(|&&(other, _)| other == conn);
        let reason = given_up.map_or(reason, |&(_, reason)| reason);
        connection.closing = true;
        let listens = self.broker.listens(conn) && !self.interest.is_alone();
        let client = connection.client;
        // The driver drops its input now, so it must not fill the cap for others until it is gone.
        let is_replying = connection.session.is_replying();
        connection.session.forget_unfinished();
        self.counters.input_bytes -= connection.kept_bytes as u64;
        connection.kept_bytes = 0;
        match reason {
            CloseReason::Protocol => self.counters.closed_protocol += 1,
            CloseReason::GuestTimeout => self.counters.closed_guest_timeout += 1,
            CloseReason::Stale => self.counters.closed_stale += 1,
            CloseReason::InputsFull => self.counters.closed_inputs_full += 1,
            CloseReason::Killed => self.counters.closed_killed += 1,
            // Counted where they are decided, or no fault of anyone's.
            CloseReason::Quit
            | CloseReason::Ending
            | CloseReason::OutboxFull
            | CloseReason::OutboxesFull
            | CloseReason::TooManyConnections => {}
        }
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        match is_replying {
            true => self.outboxes.drop_deferred(conn),
            false => self.outboxes.append_deferred(conn),
        }
        if listens {
            // Whoever sees the connection end may count on its subscriptions having ended too.
            self.outboxes.hold(conn);
            connection.holds.barrier = Some(self.interest.wait(conn, client));
        }
        self.leave(conn);
        outputs.closing.push((conn, reason));
    }

    /// Takes in what the outboxes' policy closed while events were delivered.
    fn sweep_closing(&mut self, outputs: &mut Outputs) {
        for (conn, reason) in std::mem::take(&mut self.outboxes.closing) {
            self.begin_close(conn, reason, outputs);
        }
    }

    fn may_resume_stalled(&self) -> bool {
        !self.stalled.is_empty() && self.has_room_everywhere()
    }

    fn has_room_everywhere(&self) -> bool {
        let mut others = self.hand_overs.others();
        others.all(|to| self.hand_overs.has_room(to))
    }

    fn end_turn(&mut self, now: Now, outputs: &mut Outputs) {
        self.answer_questions(now);
        self.end_turn_of_links();
        let changes = self.broker.take_changes();
        let is_news = !changes.is_empty() || self.interest.is_awaited();
        if is_news && !self.interest.is_alone() {
            let sequence = self.interest.tell();
            self.counters.interest_changes += changes.len() as u64;
            let changes: Arc<[interest::Change]> = changes.into();
            for shard in self.hand_overs.others() {
                let changes = Arc::clone(&changes);
                self.hand_overs
                    .push_control(shard, Control::Interest { sequence, changes });
            }
        }
        if self.may_resume_stalled() {
            for (conn, client) in std::mem::take(&mut self.stalled) {
                // Who stalled may have left, and its place may be another's, who waits for more.
                if let Some(Some(connection)) = self.connections.get_mut(conn.slot())
                    && connection.client == client
                {
                    connection.holds.room = false;
                    resume_if_free(connection, conn, outputs);
                }
            }
        }
    }
}

/// A session, and what it works with: disjoint parts of the shard.
fn split<'a>(
    shard: &'a mut Shard,
    connection: &'a mut Connection,
    conn: ConnId,
    now: Now,
) -> (&'a mut Session, Context<'a>) {
    let cx = Context {
        conn,
        client: connection.client,
        peer: connection.peer,
        local: connection.local,
        now,
        settings: &shard.settings,
        holds: &mut connection.holds,
        broker: &mut shard.broker,
        outboxes: &mut shard.outboxes,
        hand_overs: &mut shard.hand_overs,
        links: &mut shard.links,
        tree: &mut shard.tree,
        interest: &mut shard.interest,
        delivery: &mut shard.delivery,
        counters: &mut shard.counters,
        parser: &mut shard.parser,
        scratch: &mut shard.scratch,
        events_in: &mut connection.events_in,
    };
    (&mut connection.session, cx)
}

fn resume_if_free(connection: &Connection, conn: ConnId, outputs: &mut Outputs) {
    if !connection.holds.any() && !connection.closing {
        outputs.resumed.push(conn);
    }
}
