//! Drives one shard as a server does: sockets, turns and the mesh, with delays from the seed.
//!
//! The order of a turn and what is kept of a connection's input are those of `server/shard.rs`
//! and `server/conn.rs`; what a system call would do is done by a simulated socket. Tells the
//! model what went in and out. Start at [`World::turn`].

use crate::client::End;
use crate::command::peer;
use crate::model::{HandedOver, Retries, TRIES_MAX, Table, Unheard};
use crate::world::World;
use crate::{Failure, Sabotage, fail};
use sapwood_core::command::{ClientId, CloseReason, ConnId, ShardId};
use sapwood_core::mailbox::{Batch, BatchCursor};
use sapwood_core::{Input, Next, Outputs, Protocol, Shard};
use std::collections::VecDeque;
use std::rc::Rc;

/// How long a connection that is being closed may take to read its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Batches of other shards taken in one turn.
const BATCHES_EACH_TURN: usize = 64;

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
    pub phase: Phase,
    /// The last write would have blocked; its output was so long then.
    pub blocked: Option<usize>,
    /// What core was told last: that the write would have blocked.
    pub told_blocked: bool,
}

/// A batch under way, with what the model knows of it.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub batch: Batch,
    pub events: Vec<HandedOver>,
    /// Turns that perhaps nobody on the receiving shard could take.
    unheard: Vec<Unheard>,
    pub told: Rc<Table>,
    pub cursor: BatchCursor,
    pub begun: bool,
}

/// A shard and its driver.
#[derive(Debug)]
pub(crate) struct Node {
    pub core: Shard,
    pub sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    pub outputs: Outputs,
    resumed: Vec<ConnId>,
    dirty: Vec<ConnId>,
    /// By sender: when each batch arrives.
    pub inbox: Vec<VecDeque<(u64, Envelope)>>,
    /// By who gives back.
    pub returns: Vec<VecDeque<(u64, Batch, Vec<Unheard>)>>,
    /// Bytes on the way to each shard.
    pub in_flight: Vec<VecDeque<usize>>,
    pub unfinished: Option<(usize, Envelope)>,
    pub accepting: VecDeque<usize>,
    pub written: u64,
}

impl Node {
    pub(crate) fn new(core: Shard, shards: usize) -> Node {
        Node {
            core,
            sockets: Vec::new(),
            free: Vec::new(),
            outputs: Outputs::default(),
            resumed: Vec::new(),
            dirty: Vec::new(),
            inbox: (0..shards).map(|_| VecDeque::new()).collect(),
            returns: (0..shards).map(|_| VecDeque::new()).collect(),
            in_flight: vec![VecDeque::new(); shards],
            unfinished: None,
            accepting: VecDeque::new(),
            written: 0,
        }
    }
}

impl World {
    /// One turn of a shard.
    pub(crate) fn turn(&mut self, shard: usize) -> Result<(), Failure> {
        self.accept(shard)?;
        let exchange_first = self.rng.percent(50);
        if exchange_first {
            self.exchange(shard)?;
            self.resume(shard)?;
        }
        self.poll_sockets(shard)?;
        if !exchange_first {
            self.exchange(shard)?;
        }
        self.resume(shard)?;
        self.keep_time(shard)?;
        if !self.sabotage_for_good(Sabotage::ForgetTurnEnd) {
            let node = &mut self.nodes[shard];
            node.core
                .handle(Input::TurnEnd, self.now, &mut node.outputs);
            self.model.turn_ended(shard);
        }
        self.flush(shard)?;
        self.send_batches(shard)?;
        self.resume(shard)?;
        self.flush(shard)?;
        self.check_caps(shard)
    }

    fn accept(&mut self, shard: usize) -> Result<(), Failure> {
        while let Some(key) = self.nodes[shard].accepting.pop_front() {
            let node = &mut self.nodes[shard];
            let slot = node.free.pop().inspect(|_| {
                self.coverage.hit("places used again");
            });
            let slot = slot.unwrap_or_else(|| {
                node.sockets.push(None);
                node.sockets.len() - 1
            });
            node.sockets[slot] = Some(Socket {
                client: key,
                input: Vec::new(),
                needed: 1,
                fresh: 0,
                held: false,
                phase: Phase::Open,
                blocked: None,
                told_blocked: false,
            });
            let client = &mut self.clients[key];
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
            node.core.handle(input, self.now, &mut node.outputs);
            client.accepted = true;
            self.model.opened(key, client, shard);
            self.note_outputs(shard)?;
            self.greet(key);
        }
        Ok(())
    }

    /// A shard is told that the node ends; here it does not.
    pub(crate) fn announce_end(&mut self, shard: usize) -> Result<(), Failure> {
        let milliseconds = self.rng.below(5_000) as u32;
        let node = &mut self.nodes[shard];
        let input = Input::Ending { milliseconds };
        node.core.handle(input, self.now, &mut node.outputs);
        let told = self.model.announced(shard, milliseconds);
        self.coverage.count("told to end", told);
        self.note_outputs(shard)
    }

    /// Reads at most once from each connection that is ready, and writes where there is room.
    fn poll_sockets(&mut self, shard: usize) -> Result<(), Failure> {
        for slot in 0..self.nodes[shard].sockets.len() {
            let Some(socket) = &self.nodes[shard].sockets[slot] else {
                continue;
            };
            let client = &self.clients[socket.client];
            let has_room = client.link.down.len() < client.link.down_max;
            let is_cut = client.link.end == End::Aborted;
            if socket.blocked.is_some() && (has_room || is_cut) && self.rng.percent(70) {
                self.write(shard, slot)?;
            }
            self.receive(shard, slot)?;
        }
        Ok(())
    }

    fn receive(&mut self, shard: usize, slot: usize) -> Result<(), Failure> {
        let Some(socket) = &mut self.nodes[shard].sockets[slot] else {
            return Ok(());
        };
        if socket.held || !self.rng.percent(60) {
            return Ok(());
        }
        let link = &mut self.clients[socket.client].link;
        let is_over = link.end == End::Aborted || (link.end == End::Finished && link.up.is_empty());
        if is_over {
            self.gone(shard, slot);
            return Ok(());
        }
        let most = self
            .rng
            .pick(&[1, 9, 300, 5_000, 65_536, 65_536, 2_000_000]);
        let count = most.min(link.up.len());
        if socket.phase != Phase::Open || count == 0 {
            return Ok(());
        }
        socket.input.extend(link.up.drain(..count));
        socket.fresh += count;
        if socket.input.len() >= socket.needed {
            self.hand_kept(shard, slot)?;
        }
        Ok(())
    }

    /// Hands core what stands of a connection's input, and keeps what it leaves.
    fn hand_kept(&mut self, shard: usize, slot: usize) -> Result<(), Failure> {
        let Some(socket) = &mut self.nodes[shard].sockets[slot] else {
            return Ok(());
        };
        let mut input = std::mem::take(&mut socket.input);
        let Some((consumed, next)) = self.hand(shard, slot, &input)? else {
            return Ok(());
        };
        input.drain(..consumed);
        let loses_input =
            next == Next::Hold && !input.is_empty() && self.sabotage(Sabotage::SkipInput);
        let Some(socket) = &mut self.nodes[shard].sockets[slot] else {
            return Ok(());
        };
        socket.held = next == Next::Hold;
        let key = socket.client;
        if next == Next::Hold {
            self.model.conn(key).stream.was_behind = true;
        }
        let Some(socket) = &mut self.nodes[shard].sockets[slot] else {
            return Ok(());
        };
        match next {
            Next::Hold if loses_input => {}
            Next::Read { needed } => {
                if needed <= input.len() {
                    return fail(
                        "needed",
                        format!("{needed} are needed and {} stand", input.len()),
                    );
                }
                socket.needed = needed;
                socket.input = input;
            }
            Next::Hold => socket.input = input,
            Next::Done | Next::Flush => {}
        }
        Ok(())
    }

    /// Lets core consume of `bytes` what it can; `None` if the connection has gone meanwhile.
    fn hand(
        &mut self,
        shard: usize,
        slot: usize,
        bytes: &[u8],
    ) -> Result<Option<(usize, Next)>, Failure> {
        let conn = ConnId(slot as u32);
        let mut consumed = 0;
        // Ends because each round consumes something or makes room for it by writing.
        for _ in 0..1_000_000 {
            let node = &mut self.nodes[shard];
            let Some(socket) = &mut node.sockets[slot] else {
                return Ok(None);
            };
            let key = socket.client;
            let before = node.core.counters();
            let input = Input::Bytes {
                conn,
                bytes: &bytes[consumed..],
                fresh: std::mem::take(&mut socket.fresh),
            };
            let handled = node.core.handle(input, self.now, &mut node.outputs);
            let commands = node.core.counters().commands - before.commands;
            consumed += handled.consumed;
            self.model.handled(key, handled.consumed as u64, commands)?;
            self.note_suspended(key, handled.next);
            self.note_outputs(shard)?;
            self.check_input(shard)?;
            if handled.next != Next::Flush {
                return Ok(Some((consumed, handled.next)));
            }
            self.coverage.hit("input flushed in the middle");
            self.flush(shard)?;
            let socket = self.nodes[shard].sockets[slot].as_ref();
            if socket.is_none_or(|socket| socket.phase != Phase::Open) {
                return Ok(None);
            }
        }
        fail(
            "progress",
            format!("client at {conn:?} is flushed for ever"),
        )
    }

    fn note_suspended(&mut self, key: usize, next: Next) {
        let conn = self.model.conn(key);
        // What a barrier or an unfinished EXEC holds back is behind.
        conn.stream.was_behind |= next == Next::Hold || !conn.executing.is_empty();
        if next == Next::Hold && !conn.executing.is_empty() {
            self.coverage.hit("exec suspended");
        }
    }

    /// Offers the input of connections that core holds no longer.
    fn resume(&mut self, shard: usize) -> Result<(), Failure> {
        self.note_outputs(shard)?;
        for conn in std::mem::take(&mut self.nodes[shard].resumed) {
            let slot = conn.0 as usize;
            let Some(socket) = &self.nodes[shard].sockets[slot] else {
                continue;
            };
            if !socket.held || socket.phase != Phase::Open {
                continue;
            }
            let key = socket.client;
            self.model.conn(key).barrier = false;
            if self.sabotage(Sabotage::ForgetResumed) {
                continue;
            }
            self.hand_kept(shard, slot)?;
        }
        Ok(())
    }

    /// Takes in which connections core wants resumed or closed.
    pub(crate) fn note_outputs(&mut self, shard: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[shard];
        node.resumed.append(&mut node.outputs.resumed);
        for (conn, reason) in std::mem::take(&mut node.outputs.closing) {
            let Some(socket) = &mut self.nodes[shard].sockets[conn.0 as usize] else {
                return fail("closing", format!("{conn:?} is free and named as closing"));
            };
            if socket.phase != Phase::Open {
                return fail("closing", format!("{conn:?} was named as closing before"));
            }
            socket.phase = Phase::Lingering(self.now.monotonic_ns + LINGER_NS);
            socket.input = Vec::new();
            let (key, blocked) = (socket.client, socket.told_blocked || socket.held);
            self.nodes[shard].dirty.push(conn);
            self.trace.number(key as u64);
            self.check_closing(key, reason, blocked)?;
        }
        Ok(())
    }

    /// Deals with what other shards sent or gave back.
    fn exchange(&mut self, shard: usize) -> Result<(), Failure> {
        for by in 0..self.nodes.len() {
            while let Some(&(due, ..)) = self.nodes[shard].returns[by].front()
                && due <= self.step
            {
                let node = &mut self.nodes[shard];
                let Some((_, batch, unheard)) = node.returns[by].pop_front() else {
                    break;
                };
                if self.sabotage(Sabotage::LoseReturn) {
                    continue;
                }
                let node = &mut self.nodes[shard];
                node.in_flight[by].pop_front();
                let by = ShardId(by as u16);
                let before = node.core.counters();
                let input = Input::Returned { by, batch };
                node.core.handle(input, self.now, &mut node.outputs);
                let after = node.core.counters();
                let counted = Retries {
                    retried: after.turns_retried - before.turns_retried,
                    unheard: after.turns_unheard - before.turns_unheard,
                };
                self.coverage.count("turn retried", counted.retried);
                self.coverage.count("turn unheard", counted.unheard);
                self.model.came_back(shard, &unheard, counted)?;
                self.note_outputs(shard)?;
            }
        }
        for _ in 0..BATCHES_EACH_TURN {
            let next = self.nodes[shard].unfinished.take();
            let Some((from, envelope)) = next.or_else(|| self.arrived(shard)) else {
                break;
            };
            self.take_batch(shard, from, envelope)?;
        }
        Ok(())
    }

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

    fn take_batch(
        &mut self,
        shard: usize,
        from: usize,
        mut envelope: Envelope,
    ) -> Result<(), Failure> {
        if self.sabotage(Sabotage::DropBatch) {
            return self.give_back(shard, from, envelope);
        }
        let doubles =
            !envelope.begun && envelope.batch.events() > 0 && self.sabotage(Sabotage::DoubleBatch);
        let shards = self.nodes.len();
        let said = match shards > 2 && self.sabotage(Sabotage::WrongSender) {
            true => (0..shards).find(|&other| other != from && other != shard),
            false => None,
        };
        let node = &mut self.nodes[shard];
        let input = Input::Batch {
            from: ShardId(said.unwrap_or(from) as u16),
            batch: &mut envelope.batch,
            cursor: &mut envelope.cursor,
        };
        let before = node.core.counters().turns_unheard;
        let handled = node.core.handle(input, self.now, &mut node.outputs);
        let unheard = node.core.counters().turns_unheard - before;
        self.model.tick += 1;
        if !envelope.begun {
            envelope.begun = true;
            self.model.shards[shard].known[from] = Rc::clone(&envelope.told);
            self.note_killed(shard)?;
            self.deliver_batch(shard, &mut envelope);
        }
        if handled.next == Next::Flush {
            // Who may take the rest can have left before it is read.
            let events = envelope.events.iter();
            let events = events.filter(|event| event.tries + 1 < TRIES_MAX);
            envelope.unheard = events
                .flat_map(|event| event.turns.iter().map(|&id| (id, event.tries)))
                .collect();
        }
        self.check_unheard(shard, &envelope, unheard)?;
        if handled.next == Next::Flush && !self.nodes[shard].outputs.closing.is_empty() {
            self.model.shards[shard].inexact = true;
        }
        self.note_outputs(shard)?;
        if handled.next == Next::Flush {
            self.coverage.hit("batch flushed in the middle");
            if self.sabotage(Sabotage::Reread) {
                envelope.cursor = BatchCursor::default();
            }
            self.nodes[shard].unfinished = Some((from, envelope));
            return self.flush(shard);
        }
        if doubles {
            envelope.cursor = BatchCursor::default();
            return self.take_batch(shard, from, envelope);
        }
        self.give_back(shard, from, envelope)
    }

    /// The model delivers a batch's events, and notes the turns that nobody here can take.
    fn deliver_batch(&mut self, shard: usize, envelope: &mut Envelope) {
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

    /// Those whom another shard killed heard nothing of the events in the same batch.
    fn note_killed(&mut self, shard: usize) -> Result<(), Failure> {
        let node = &self.nodes[shard];
        for &(conn, reason) in &node.outputs.closing {
            if let (Some(socket), CloseReason::Killed) = (&node.sockets[conn.0 as usize], reason) {
                self.model.close(socket.client, reason);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, shard: usize, to: usize, envelope: Envelope) -> Result<(), Failure> {
        let due = self.due(to, shard);
        let returns = &mut self.nodes[to].returns[shard];
        let due = returns.back().map_or(due, |&(last, ..)| last.max(due));
        returns.push_back((due, envelope.batch, envelope.unheard));
        Ok(())
    }

    fn keep_time(&mut self, shard: usize) -> Result<(), Failure> {
        let now_ns = self.now.monotonic_ns;
        let node = &mut self.nodes[shard];
        if node
            .core
            .next_deadline()
            .is_some_and(|deadline| deadline <= now_ns)
        {
            node.core.handle(Input::Tick, self.now, &mut node.outputs);
            self.note_outputs(shard)?;
            self.check_guests(shard)?;
        }
        for slot in 0..self.nodes[shard].sockets.len() {
            let phase = self.nodes[shard].sockets[slot]
                .as_ref()
                .map(|socket| socket.phase);
            if matches!(phase, Some(Phase::Lingering(until)) if until <= now_ns) {
                self.gone(shard, slot);
            }
        }
        Ok(())
    }

    fn send_batches(&mut self, shard: usize) -> Result<(), Failure> {
        for to in (0..self.nodes.len()).filter(|&to| to != shard) {
            let pending = &mut self.model.shards[shard].pending[to];
            let certain = pending.iter().filter(|event| event.plain).count();
            let possible: usize = pending.iter().map(HandedOver::records).sum();
            let Some(batch) = self.nodes[shard].core.take_batch(ShardId(to as u16)) else {
                if certain > 0 {
                    self.coverage.hit("credit waits");
                }
                continue;
            };
            let count = batch.events() as usize;
            // Either all that waits goes, or control alone. Whether a turn goes there is not known.
            if count > possible || (count > 0 && count < certain) {
                let text = format!(
                    "shard {shard} sends {count} events to {to} of {certain} to {possible}"
                );
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
                    cursor: BatchCursor::default(),
                    begun: false,
                },
            ));
        }
        Ok(())
    }

    /// Writes what core has for its connections.
    fn flush(&mut self, shard: usize) -> Result<(), Failure> {
        self.note_outputs(shard)?;
        let node = &mut self.nodes[shard];
        let mut dirty = std::mem::take(&mut node.dirty);
        node.core.take_dirty(&mut dirty);
        for conn in dirty {
            let slot = conn.0 as usize;
            let is_waiting = |socket: &Socket| socket.blocked.is_some();
            if !self.nodes[shard].sockets[slot]
                .as_ref()
                .is_none_or(is_waiting)
            {
                self.write(shard, slot)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, shard: usize, slot: usize) -> Result<(), Failure> {
        let conn = ConnId(slot as u32);
        // Ends when all is written or the socket is full: its buffer is finite.
        loop {
            let node = &mut self.nodes[shard];
            let Some(socket) = &mut node.sockets[slot] else {
                return Ok(());
            };
            socket.blocked = None;
            let link = &mut self.clients[socket.client].link;
            let pieces: Vec<&[u8]> = node.core.output(conn).take(SLICES_MAX).collect();
            if pieces.is_empty() {
                break;
            }
            if link.end == End::Aborted {
                self.gone(shard, slot);
                return Ok(());
            }
            let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
            let room = link.down_max.saturating_sub(link.down.len());
            let mut left = room.min(offered);
            let count = left;
            self.trace.number(socket.client as u64);
            for piece in pieces {
                let part = &piece[..left.min(piece.len())];
                left -= part.len();
                self.trace.bytes(part);
                link.down.extend(part);
            }
            node.written += count as u64;
            if count == 0 {
                let all: usize = node.core.output(conn).map(<[u8]>::len).sum();
                socket.blocked = Some(all);
                socket.told_blocked = true;
                self.model.conn(socket.client).stream.was_behind = true;
                let said_full = !self.sabotage_for_good(Sabotage::SentUnblocked);
                let node = &mut self.nodes[shard];
                node.core.sent(conn, 0, said_full, &mut node.outputs);
                self.coverage.hit("partial writes");
                return Ok(());
            }
            let is_full = count < offered;
            socket.told_blocked = is_full;
            self.model.conn(socket.client).stream.was_behind |= is_full;
            let mut reported = count;
            if is_full && self.sabotage(Sabotage::SentTooMuch) {
                reported += 1;
            } else if count > 1 && self.sabotage(Sabotage::SentTooLittle) {
                reported -= 1;
            }
            let said_full = is_full && !self.sabotage_for_good(Sabotage::SentUnblocked);
            let node = &mut self.nodes[shard];
            node.core.sent(conn, reported, said_full, &mut node.outputs);
        }
        let node = &self.nodes[shard];
        let phase = node.sockets[slot].as_ref().map(|socket| socket.phase);
        if matches!(phase, Some(Phase::Lingering(_))) && !node.core.has_output(conn) {
            self.gone(shard, slot);
        }
        Ok(())
    }

    /// Forgets a connection: its client is gone, or its last output is written or given up.
    pub(crate) fn gone(&mut self, shard: usize, slot: usize) {
        let conn = ConnId(slot as u32);
        let Some(socket) = self.nodes[shard].sockets[slot].take() else {
            return;
        };
        if socket.held {
            self.coverage.hit("vanished held");
        }
        if self.nodes[shard].unfinished.is_some() {
            self.model.shards[shard].inexact = true;
        }
        if self.nodes[shard].core.has_output(conn) {
            self.cut[socket.client] = true;
        }
        self.clients[socket.client].link.closed = true;
        self.trace.number(!(socket.client as u64));
        if self.sabotage(Sabotage::ForgetClosed) {
            return;
        }
        let node = &mut self.nodes[shard];
        node.core
            .handle(Input::Closed { conn }, self.now, &mut node.outputs);
        node.free.push(slot);
        self.model.tick += 1;
        self.model.gone(socket.client);
    }
}
