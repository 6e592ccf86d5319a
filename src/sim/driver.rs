//! One shard's sockets and mail as the simulator has them, with delays from the seed.
//!
//! The order of a turn is core's own (`sapwood_core::driver`), the same as in the server; what a system call would do is
//! done by a simulated socket. Tells the model what went in and out. Start at [`World::turn`].

use crate::client::End;
use crate::command::peer;
use crate::model::{HandedOver, Retries, TRIES_MAX, Table, Unheard};
use crate::world::World;
use crate::{Failure, Sabotage, fail};
use sapwood_core::command::{ClientId, CloseReason, ConnId, Now, ShardId};
use sapwood_core::counters::Counters;
use sapwood_core::driver::{Dealt, Driver, Mail, Sockets, Step};
use sapwood_core::mailbox::{Batch, BatchCursor};
use sapwood_core::{Handled, Input, Next, Protocol, Shard};
use std::collections::VecDeque;
use std::rc::Rc;

/// How long a connection that is being closed may take to read its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Pieces of output in one write.
const SLICES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Core is done with it; its last output is being written, until this time.
    Lingering(u64),
}

/// The broker's end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    pub client: usize,
    /// Input that core has not consumed.
    pub input: Vec<u8>,
    needed: usize,
    fresh: usize,
    pub held: bool,
    /// It is held until the next turn only, because output had to be written first.
    flushed: bool,
    pub phase: Phase,
    /// The last write would have blocked; its output was so long then.
    pub blocked: Option<usize>,
    /// What core was told last: that the write would have blocked.
    pub told_blocked: bool,
}

/// A batch under way, with what the model knows of it.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// Empty while core's driver has it.
    pub batch: Batch,
    pub events: Vec<HandedOver>,
    /// Turns that perhaps nobody on the receiving shard could take.
    unheard: Vec<Unheard>,
    pub told: Rc<Table>,
    pub begun: bool,
    /// It is dealt with once more, by mistake.
    doubled: bool,
}

/// A shard and its driver.
#[derive(Debug)]
pub(crate) struct Node {
    /// Taken out while it drives.
    driver: Option<Driver>,
    pub sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    /// By sender: when each batch arrives.
    pub inbox: Vec<VecDeque<(u64, Envelope)>>,
    /// By who gives back.
    pub returns: Vec<VecDeque<(u64, Batch, Vec<Unheard>)>>,
    /// Bytes on the way to each shard.
    pub in_flight: Vec<VecDeque<usize>>,
    /// The batch that core's driver has, and its sender.
    pub unfinished: Option<(usize, Envelope)>,
    pub accepting: VecDeque<usize>,
    pub written: u64,
    /// Core's counters when it was last looked at.
    counters: Counters,
}

impl Node {
    pub(crate) fn new(core: Shard, shards: usize) -> Node {
        Node {
            driver: Some(Driver::new(core)),
            sockets: Vec::new(),
            free: Vec::new(),
            inbox: (0..shards).map(|_| VecDeque::new()).collect(),
            returns: (0..shards).map(|_| VecDeque::new()).collect(),
            in_flight: vec![VecDeque::new(); shards],
            unfinished: None,
            accepting: VecDeque::new(),
            written: 0,
            counters: Counters::default(),
        }
    }

    /// The shard, between turns.
    pub(crate) fn core(&self) -> &Shard {
        // invariant: it is put back before anybody looks.
        self.driver.as_ref().expect("a shard between turns").shard()
    }

    /// Whether a connection is there and core is not done with it.
    fn is_open(&self, conn: ConnId) -> bool {
        let socket = self.sockets.get(conn.0 as usize);
        socket.is_some_and(|there| {
            let phase = there.as_ref().map(|socket| socket.phase);
            phase == Some(Phase::Open)
        })
    }
}

/// What core's driver is given: a shard of the world.
struct Host<'a> {
    world: &'a mut World,
    shard: usize,
    /// The first thing that was wrong.
    failure: Option<Failure>,
    /// The client whose connection is being opened.
    opening: Option<usize>,
    /// What the model knows of the batch that has come back.
    returned: Vec<Unheard>,
}

impl World {
    /// Lets a shard's driver do something.
    fn with_driver(
        &mut self,
        shard: usize,
        act: impl FnOnce(&mut Driver, &mut Host<'_>),
    ) -> Result<(), Failure> {
        let driver = self.nodes[shard].driver.take();
        // invariant: it is put back below, and nothing here is called from within.
        let mut driver = driver.expect("a shard between turns");
        self.nodes[shard].counters = driver.shard().counters();
        let mut host = Host {
            world: self,
            shard,
            failure: None,
            opening: None,
            returned: Vec::new(),
        };
        act(&mut driver, &mut host);
        let failure = host.failure.take();
        self.nodes[shard].driver = Some(driver);
        failure.map_or(Ok(()), Err)
    }

    /// One turn of a shard.
    pub(crate) fn turn(&mut self, shard: usize) -> Result<(), Failure> {
        let now = self.now;
        self.with_driver(shard, |driver, host| {
            host.accept(driver);
            // The model deals with a batch as a whole: nobody is answered between its parts.
            if host.node().unfinished.is_none() {
                host.poll_sockets(driver);
            }
            driver.turn(host, now);
            host.end_lingering(driver);
        })?;
        let mut waiting = self.model.shards[shard].pending.iter().flatten();
        if waiting.any(|event| event.plain) {
            self.coverage.hit("credit waits");
        }
        self.check_guests(shard)?;
        self.check_caps(shard)
    }

    /// A shard is told that the node ends; here it does not.
    pub(crate) fn announce_end(&mut self, shard: usize) -> Result<(), Failure> {
        if self.nodes[shard].unfinished.is_some() {
            // As in a turn: nobody is told anything between the parts of a batch.
            return Ok(());
        }
        let milliseconds = self.rng.below(5_000) as u32;
        let now = self.now;
        self.with_driver(shard, |driver, host| {
            driver.handle(host, Input::Ending { milliseconds }, now);
        })?;
        let told = self.model.announced(shard, milliseconds);
        self.coverage.count("told to end", told);
        Ok(())
    }
}

impl Host<'_> {
    fn node(&mut self) -> &mut Node {
        &mut self.world.nodes[self.shard]
    }

    fn socket(&mut self, slot: usize) -> Option<&mut Socket> {
        self.node().sockets.get_mut(slot)?.as_mut()
    }

    /// Remembers the first thing that was wrong.
    fn check(&mut self, result: Result<(), Failure>) {
        if self.failure.is_none() {
            self.failure = result.err();
        }
    }

    fn accept(&mut self, driver: &mut Driver) {
        while let Some(key) = self.node().accepting.pop_front() {
            let node = self.node();
            let free = node.free.pop();
            let slot = free.unwrap_or_else(|| {
                node.sockets.push(None);
                node.sockets.len() - 1
            });
            if free.is_some() {
                self.world.coverage.hit("places used again");
            }
            self.node().sockets[slot] = Some(Socket {
                client: key,
                input: Vec::new(),
                needed: 1,
                fresh: 0,
                held: false,
                flushed: false,
                phase: Phase::Open,
                blocked: None,
                told_blocked: false,
            });
            let client = &mut self.world.clients[key];
            let port = match client.protocol {
                Protocol::Redis => 7463,
                Protocol::Native => 7400,
                Protocol::Nats => 7422,
                Protocol::Web | Protocol::WebSocket { .. } => 7480,
                Protocol::Node | Protocol::NodeDialed { .. } => 7401,
            };
            let input = Input::Opened {
                conn: ConnId(slot as u32),
                client: ClientId(key as u64 + 1),
                protocol: client.protocol,
                policy: client.policy,
                peer: peer(key),
                local: ([127, 0, 0, 1], port).into(),
            };
            self.opening = Some(key);
            driver.handle(self, input, self.world.now);
            self.world.greet(key);
        }
    }

    /// Reads at most once from each connection that is ready, and writes where there is room.
    fn poll_sockets(&mut self, driver: &mut Driver) {
        for slot in 0..self.node().sockets.len() {
            let Some(socket) = self.socket(slot) else {
                continue;
            };
            let (key, is_blocked) = (socket.client, socket.blocked.is_some());
            let link = &self.world.clients[key].link;
            let has_room = link.down.len() < link.down_max;
            let is_cut = link.end == End::Aborted;
            if is_blocked && (has_room || is_cut) && self.world.rng.percent(70) {
                self.write_on(driver, slot);
            }
            self.receive(driver, slot);
        }
    }

    fn receive(&mut self, driver: &mut Driver, slot: usize) {
        let Some(Some(socket)) = self.world.nodes[self.shard].sockets.get_mut(slot) else {
            return;
        };
        if socket.held || !self.world.rng.percent(60) {
            return;
        }
        let link = &mut self.world.clients[socket.client].link;
        let is_over = link.end == End::Aborted || (link.end == End::Finished && link.up.is_empty());
        if is_over {
            return self.gone(driver, slot);
        }
        let rng = &mut self.world.rng;
        let most = rng.pick(&[1, 9, 300, 5_000, 65_536, 65_536, 2_000_000]);
        let count = most.min(link.up.len());
        if socket.phase != Phase::Open || count == 0 {
            return;
        }
        socket.input.extend(link.up.drain(..count));
        socket.fresh += count;
        if socket.input.len() >= socket.needed {
            self.hand_kept(driver, slot);
        }
    }

    /// Hands core what stands of a connection's input, and keeps what it leaves.
    fn hand_kept(&mut self, driver: &mut Driver, slot: usize) {
        let Some(socket) = self.socket(slot) else {
            return;
        };
        let mut input = std::mem::take(&mut socket.input);
        let bytes = Input::Bytes {
            conn: ConnId(slot as u32),
            bytes: &input,
            fresh: std::mem::take(&mut socket.fresh),
        };
        socket.flushed = false;
        let now = self.world.now;
        let Some((consumed, next)) = driver.offer(self, bytes, now) else {
            return;
        };
        input.drain(..consumed);
        let is_held = next == Next::Hold;
        let loses_input = is_held && !input.is_empty() && self.world.sabotage(Sabotage::SkipInput);
        let Some(socket) = self.socket(slot) else {
            return;
        };
        socket.held = is_held;
        let (key, flushed) = (socket.client, socket.flushed);
        if is_held && !flushed {
            self.world.model.conn(key).stream.was_behind = true;
        }
        let Some(socket) = self.socket(slot) else {
            return;
        };
        match next {
            Next::Hold if loses_input => {}
            Next::Read { needed } if needed <= input.len() => {
                let text = format!("{needed} are needed and {} stand", input.len());
                self.check(fail("needed", text));
            }
            Next::Read { needed } => {
                socket.needed = needed;
                socket.input = input;
            }
            Next::Hold => socket.input = input,
            Next::Done | Next::Flush => {}
        }
    }

    /// The model learns what core consumed of a connection's input.
    fn note_consumed(&mut self, conn: ConnId, handled: Handled, commands: u64) {
        let Some(socket) = self.socket(conn.0 as usize) else {
            return;
        };
        let key = socket.client;
        socket.flushed = handled.next == Next::Flush;
        let model = &mut self.world.model;
        let consumed = model.handled(key, handled.consumed as u64, commands);
        let conn = model.conn(key);
        // What a barrier or an unfinished EXEC holds back is behind. Core may go on with the input before a barrier is over.
        let goes_on_held = handled.next == Next::Flush && conn.barrier;
        let is_held = handled.next == Next::Hold || goes_on_held;
        conn.stream.was_behind |= is_held || !conn.executing.is_empty();
        if handled.next == Next::Hold && !conn.executing.is_empty() {
            self.world.coverage.hit("exec suspended");
        }
        if handled.next == Next::Flush {
            self.world.coverage.hit("input flushed in the middle");
        }
        self.check(consumed);
    }

    /// The model learns what became of a batch, up to where core came.
    fn note_batch(&mut self, driver: &Driver, handled: Handled, unheard: u64) -> bool {
        let shard = self.shard;
        // invariant: the driver deals with what it was given last.
        let (from, mut envelope) = self.node().unfinished.take().expect("a batch");
        self.world.model.tick += 1;
        if !envelope.begun {
            envelope.begun = true;
            self.world.model.shards[shard].known[from] = Rc::clone(&envelope.told);
            self.note_killed(driver);
            self.world.deliver_batch(shard, &mut envelope);
        }
        let is_flushed = handled.next == Next::Flush;
        if is_flushed {
            // Who may take the rest can have left before it is read.
            let events = envelope.events.iter();
            let events = events.filter(|event| event.tries + 1 < TRIES_MAX);
            envelope.unheard = events
                .flat_map(|event| event.turns.iter().map(|&id| (id, event.tries)))
                .collect();
        }
        let checked = self.world.check_unheard(shard, &envelope, unheard);
        self.check(checked);
        if is_flushed && !driver.closing().is_empty() {
            self.world.model.shards[shard].inexact = true;
        }
        self.node().unfinished = Some((from, envelope));
        if is_flushed {
            self.world.coverage.hit("batch flushed in the middle");
        }
        is_flushed && self.world.sabotage(Sabotage::Reread)
    }

    /// Those who were killed heard nothing of what comes after: of the events in the same batch, if another shard asked
    /// for it.
    fn note_killed(&mut self, driver: &Driver) {
        for &(conn, reason) in driver.closing() {
            if reason == CloseReason::Killed
                && let Some(socket) = self.socket(conn.0 as usize)
            {
                let key = socket.client;
                self.world.model.close(key, reason);
            }
        }
    }

    /// Gives up on connections that do not read their last replies.
    fn end_lingering(&mut self, driver: &mut Driver) {
        let now_ns = self.world.now.monotonic_ns;
        for slot in 0..self.node().sockets.len() {
            let phase = self.socket(slot).map(|socket| socket.phase);
            if matches!(phase, Some(Phase::Lingering(until)) if until <= now_ns) {
                self.gone(driver, slot);
            }
        }
    }

    /// Writes what core has for a connection, as far as its socket takes it.
    fn write_on(&mut self, driver: &mut Driver, slot: usize) {
        let conn = ConnId(slot as u32);
        // Ends when all is written or the socket is full: its buffer is finite.
        loop {
            let Host { world, shard, .. } = self;
            let node = &mut world.nodes[*shard];
            let Some(socket) = &mut node.sockets[slot] else {
                return;
            };
            socket.blocked = None;
            let link = &mut world.clients[socket.client].link;
            let pieces: Vec<&[u8]> = driver.output(conn).take(SLICES_MAX).collect();
            if pieces.is_empty() {
                break;
            }
            if link.end == End::Aborted {
                return self.gone(driver, slot);
            }
            let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
            let room = link.down_max.saturating_sub(link.down.len());
            let mut left = room.min(offered);
            let count = left;
            world.trace.number(socket.client as u64);
            for piece in pieces {
                let part = &piece[..left.min(piece.len())];
                left -= part.len();
                world.trace.bytes(part);
                link.down.extend(part);
            }
            node.written += count as u64;
            let is_full = count < offered;
            if count == 0 {
                let all: usize = driver.output(conn).map(<[u8]>::len).sum();
                socket.blocked = Some(all);
            }
            socket.told_blocked = is_full;
            let key = socket.client;
            world.model.conn(key).stream.was_behind |= is_full;
            let said_full = is_full && !world.sabotage_for_good(Sabotage::SentUnblocked);
            if count == 0 {
                world.coverage.hit("partial writes");
                return driver.sent(conn, 0, said_full);
            }
            let mut reported = count;
            if is_full && world.sabotage(Sabotage::SentTooMuch) {
                reported += 1;
            } else if count > 1 && world.sabotage(Sabotage::SentTooLittle) {
                reported -= 1;
            }
            driver.sent(conn, reported, said_full);
        }
        let phase = self.socket(slot).map(|socket| socket.phase);
        if matches!(phase, Some(Phase::Lingering(_))) && !driver.has_output(conn) {
            self.gone(driver, slot);
        }
    }

    /// Forgets a connection: its client is gone, or its last output is written or given up.
    fn gone(&mut self, driver: &mut Driver, slot: usize) {
        let conn = ConnId(slot as u32);
        let Some(socket) = self.node().sockets[slot].take() else {
            return;
        };
        if socket.held {
            self.world.coverage.hit("vanished held");
        }
        if self.node().unfinished.is_some() {
            self.world.model.shards[self.shard].inexact = true;
        }
        if driver.has_output(conn) {
            self.world.cut[socket.client] = true;
        }
        self.world.clients[socket.client].link.closed = true;
        self.world.trace.number(!(socket.client as u64));
        if self.world.sabotage(Sabotage::ForgetClosed) {
            return;
        }
        driver.closed(conn, self.world.now);
        self.node().free.push(slot);
        self.world.model.tick += 1;
        self.world.model.gone(socket.client);
    }
}

impl Sockets for Host<'_> {
    fn write(&mut self, driver: &mut Driver, conn: ConnId, _now: Now) {
        let slot = conn.0 as usize;
        if self
            .socket(slot)
            .is_some_and(|socket| socket.blocked.is_none())
        {
            self.write_on(driver, slot);
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        let Some(socket) = self.socket(conn.0 as usize) else {
            return self.check(fail(
                "closing",
                format!("{conn:?} is free and named as closing"),
            ));
        };
        if socket.phase != Phase::Open {
            let text = format!("{conn:?} was named as closing before");
            return self.check(fail("closing", text));
        }
        socket.phase = Phase::Lingering(now.monotonic_ns + LINGER_NS);
        socket.input = Vec::new();
        let (key, blocked) = (socket.client, socket.told_blocked || socket.held);
        self.world.trace.number(key as u64);
        let checked = self.world.check_closing(key, reason, blocked);
        self.check(checked);
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, _now: Now) {
        let slot = conn.0 as usize;
        let Some(socket) = self.socket(slot) else {
            return;
        };
        if !socket.held || socket.phase != Phase::Open {
            return;
        }
        let key = socket.client;
        // It may come up again for another reason, such as its turn after a flush before.
        if !driver.shard().is_held_back(conn) {
            self.world.model.conn(key).barrier = false;
        }
        if self.world.sabotage(Sabotage::ForgetResumed) {
            return;
        }
        self.hand_kept(driver, slot);
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.world.nodes[self.shard].is_open(conn)
    }

    fn handled(&mut self, driver: &mut Driver, dealt: Dealt<'_>, handled: Handled) {
        let after = driver.shard().counters();
        let before = std::mem::replace(&mut self.node().counters, after.clone());
        match dealt {
            Dealt::Bytes(conn) => {
                self.note_consumed(conn, handled, after.commands - before.commands);
                // Calls come after what the input says itself.
                self.note_killed(driver);
                let checked = self.world.check_input(self.shard, after.input_bytes);
                self.check(checked);
            }
            Dealt::Returned(_) => {
                let counted = Retries {
                    retried: after.turns_retried - before.turns_retried,
                    unheard: after.turns_unheard - before.turns_unheard,
                };
                let World {
                    coverage, model, ..
                } = &mut *self.world;
                coverage.count("turn retried", counted.retried);
                coverage.count("turn unheard", counted.unheard);
                let came_back = model.came_back(self.shard, &self.returned, counted);
                self.check(came_back);
            }
            Dealt::Batch(_, cursor) => {
                let unheard = after.turns_unheard - before.turns_unheard;
                if self.note_batch(driver, handled, unheard) {
                    *cursor = BatchCursor::default();
                }
            }
            Dealt::TurnEnd => {
                // Calls that have waited come before the other shards are told what changed.
                self.note_killed(driver);
                self.world.model.turn_ended(self.shard);
            }
            Dealt::Other => {
                if let Some(key) = self.opening.take() {
                    let World { clients, model, .. } = &mut *self.world;
                    clients[key].accepted = true;
                    model.opened(key, &clients[key], self.shard);
                }
            }
            Dealt::Tick => {}
        }
        self.world
            .model
            .note_names(self.shard, after.calls_waiting > 0);
    }

    fn does(&mut self, step: Step) -> bool {
        match step {
            // It may not come to what other shards sent.
            Step::Exchange => {
                let must = self.world.drains || self.node().unfinished.is_some();
                must || self.world.rng.percent(70)
            }
            // Calls are answered at its end.
            Step::TurnEnd => {
                self.node().unfinished.is_none()
                    && !self.world.sabotage_for_good(Sabotage::ForgetTurnEnd)
            }
            Step::Resume => self.node().unfinished.is_none(),
            Step::Tick => true,
        }
    }
}

impl Mail for Host<'_> {
    fn next_returned(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        if self.node().unfinished.is_some() {
            return None;
        }
        let Host { world, shard, .. } = self;
        for by in 0..world.nodes.len() {
            while let Some(&(due, ..)) = world.nodes[*shard].returns[by].front()
                && due <= world.step
            {
                let (_, batch, unheard) = world.nodes[*shard].returns[by].pop_front()?;
                if world.sabotage(Sabotage::LoseReturn) {
                    continue;
                }
                world.nodes[*shard].in_flight[by].pop_front();
                self.returned = unheard;
                return Some((ShardId(by as u16), batch));
            }
        }
        None
    }

    fn next_batch(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        let shard = self.shard;
        // Ends because each round takes a batch that has arrived.
        loop {
            let doubled = self.node().unfinished.take();
            let (from, mut envelope) = match doubled {
                Some(again) => again,
                None => self.world.arrived(shard)?,
            };
            let is_new = !envelope.begun;
            if is_new && self.world.sabotage(Sabotage::DropBatch) {
                self.world.give_back(shard, from, envelope);
                continue;
            }
            let has_events = envelope.batch.events() > 0;
            envelope.doubled = is_new && has_events && self.world.sabotage(Sabotage::DoubleBatch);
            let shards = self.world.nodes.len();
            let said = match shards > 2 && self.world.sabotage(Sabotage::WrongSender) {
                true => (0..shards).find(|&other| other != from && other != shard),
                false => None,
            };
            let batch = std::mem::take(&mut envelope.batch);
            self.node().unfinished = Some((from, envelope));
            return Some((ShardId(said.unwrap_or(from) as u16), batch));
        }
    }

    fn give_back(&mut self, _to: ShardId, batch: Batch) {
        // invariant: the driver gives back what it was given last.
        let (from, mut envelope) = self.node().unfinished.take().expect("a batch");
        envelope.batch = batch;
        match envelope.doubled {
            true => self.node().unfinished = Some((from, envelope)),
            false => self.world.give_back(self.shard, from, envelope),
        }
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        let sent = self.world.send_batch(self.shard, usize::from(to.0), batch);
        self.check(sent);
    }
}

impl World {
    /// The next batch that has arrived, of any sender.
    fn arrived(&mut self, shard: usize) -> Option<(usize, Envelope)> {
        let first = self.rng.below(self.nodes.len());
        for offset in 0..self.nodes.len() {
            let from = (first + offset) % self.nodes.len();
            let is_due = |&(due, _): &(u64, Envelope)| due <= self.step;
            if !self.nodes[shard].inbox[from].front().is_some_and(is_due) {
                continue;
            }
            let may_swap = self.nodes[shard].inbox[from].len() > 1;
            if may_swap && self.sabotage(Sabotage::SwapBatches) {
                self.nodes[shard].inbox[from].swap(0, 1);
            }
            let (_, envelope) = self.nodes[shard].inbox[from].pop_front()?;
            return Some((from, envelope));
        }
        None
    }

    /// The model delivers a batch's events, and notes the turns that nobody here can take.
    fn deliver_batch(&mut self, shard: usize, envelope: &mut Envelope) {
        for handed in &mut envelope.events {
            let tries = handed.tries;
            let turns = &self.model.turns;
            handed.turns.retain(|&id| turns.is_under_way(id, tries));
        }
        let events = &envelope.events;
        self.coverage
            .count("events across shards", events.len() as u64);
        for handed in events {
            let HandedOver {
                event,
                plain,
                turns,
                tries,
            } = handed;
            let unheard = self.model.deliver(shard, event, (None, *plain), turns);
            if tries + 1 < TRIES_MAX {
                envelope
                    .unheard
                    .extend(unheard.into_iter().map(|id| (id, *tries)));
            }
        }
    }

    /// Only turns that come for the last time are lost where they find no member.
    fn check_unheard(
        &mut self,
        shard: usize,
        envelope: &Envelope,
        unheard: u64,
    ) -> Result<(), Failure> {
        self.coverage.count("turn unheard", unheard);
        let events = envelope.events.iter();
        let last = events.filter(|event| event.tries + 1 == TRIES_MAX);
        match unheard <= last.map(HandedOver::records).sum::<usize>() as u64 {
            true => Ok(()),
            false => fail("turns", format!("shard {shard} loses {unheard} turns")),
        }
    }

    fn give_back(&mut self, shard: usize, to: usize, envelope: Envelope) {
        let due = self.due(to, shard);
        let returns = &mut self.nodes[to].returns[shard];
        let due = returns.back().map_or(due, |&(last, ..)| last.max(due));
        returns.push_back((due, envelope.batch, envelope.unheard));
    }

    fn send_batch(&mut self, shard: usize, to: usize, batch: Batch) -> Result<(), Failure> {
        let pending = &mut self.model.shards[shard].pending[to];
        let certain = pending.iter().filter(|event| event.plain).count();
        let possible: usize = pending.iter().map(HandedOver::records).sum();
        let count = batch.events() as usize;
        // Either all that waits goes, or control alone. Whether a turn goes there is not known.
        if count > possible || (count > 0 && count < certain) {
            let text =
                format!("shard {shard} sends {count} events to {to} of {certain} to {possible}");
            return fail("hand-over", text);
        }
        let all = if count > 0 { pending.len() } else { 0 };
        let events: Vec<HandedOver> = pending.drain(..all).collect();
        // What came back goes on whatever the window: no more than came back.
        let again: usize = events.iter().map(HandedOver::bytes_again).sum();
        let bytes = batch.data_bytes().saturating_sub(again);
        self.nodes[shard].in_flight[to].push_back(bytes);
        self.check_window(shard, to)?;
        let due = self.due(shard, to);
        let inbox = &mut self.nodes[to].inbox[shard];
        let due = inbox.back().map_or(due, |(last, _)| due.max(*last));
        inbox.push_back((
            due,
            Envelope {
                batch,
                events,
                unheard: Vec::new(),
                told: Rc::clone(&self.model.shards[shard].told),
                begun: false,
                doubled: false,
            },
        ));
        Ok(())
    }
}
