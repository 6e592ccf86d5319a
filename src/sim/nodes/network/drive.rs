//! The sockets and the mail of each shard of a node, and when it does turns.
//!
//! The order of a turn is core's own (`sapwood_core::driver`). Must not know the network beyond the connections' ends.
//! Start at [`Network::run_node`].

use super::*;
use sapwood_core::Handled;
use sapwood_core::command::CloseReason;
use sapwood_core::driver::{Dealt, Driver, Mail, Sockets, Step};
use sapwood_core::tree::{Dial, Notice};

/// What core's driver is given: one shard of a node in the network.
pub(super) struct Host<'a> {
    network: &'a mut Network,
    node: usize,
    shard: usize,
    /// Something happened.
    is_busy: bool,
}

impl Network {
    /// Every shard of a node does turns until nothing moves.
    pub(super) fn run_node(&mut self, node: usize) {
        for shard in 0..self.nodes[node].shards.len() {
            self.nodes[node].shards[shard].is_late = self.rng.percent(15);
        }
        for _ in 0..ROUNDS_MAX {
            let mut is_busy = false;
            for shard in 0..self.nodes[node].shards.len() {
                is_busy |= self.turn(node, shard);
            }
            if !is_busy {
                return;
            }
        }
        panic!("node {node} does not come to rest");
    }

    /// Lets a shard's driver do something; whether anything happened.
    pub(super) fn with_driver(
        &mut self,
        (node, shard): (usize, usize),
        act: impl FnOnce(&mut Driver, &mut Host<'_>),
    ) -> bool {
        let driver = self.nodes[node].shards[shard].driver.take();
        // invariant: it is put back below, and nothing here is called from within.
        let mut driver = driver.expect("a shard between turns");
        let mut host = Host {
            network: self,
            node,
            shard,
            is_busy: false,
        };
        act(&mut driver, &mut host);
        let is_busy = host.is_busy;
        self.nodes[node].shards[shard].driver = Some(driver);
        is_busy
    }

    /// One turn of a shard; whether anything happened.
    fn turn(&mut self, node: usize, shard: usize) -> bool {
        let now = self.now();
        self.with_driver((node, shard), |driver, host| {
            host.read_sockets(driver);
            host.is_busy |= driver.turn(host, now);
            host.write_waiting(driver, now);
            host.is_busy |= driver.has_more();
        })
    }
}

impl Host<'_> {
    fn driven(&mut self) -> &mut Driven {
        &mut self.network.nodes[self.node].shards[self.shard]
    }

    fn socket(&mut self, slot: usize) -> Option<&mut Socket> {
        self.driven().sockets.get_mut(slot)?.as_mut()
    }

    fn read_sockets(&mut self, driver: &mut Driver) {
        for slot in 0..self.driven().sockets.len() {
            let Some(socket) = self.socket(slot) else {
                continue;
            };
            if socket.held || socket.is_closing() {
                continue;
            }
            let (pipe, side) = (socket.pipe, socket.side);
            let (bytes, is_over) = self.network.arrived(pipe, 1 - side);
            if !bytes.is_empty() {
                self.is_busy = true;
                self.hand_fresh(driver, slot, bytes);
            } else if is_over {
                self.is_busy = true;
                self.gone(driver, slot);
            }
        }
    }

    pub(super) fn hand_fresh(&mut self, driver: &mut Driver, slot: usize, bytes: Vec<u8>) {
        let Some(socket) = self.socket(slot) else {
            return;
        };
        let fresh = bytes.len();
        socket.input.extend(bytes);
        if socket.input.len() >= socket.needed {
            self.hand(driver, slot, fresh);
        }
    }

    /// Hands core what stands of a connection's input.
    fn hand(&mut self, driver: &mut Driver, slot: usize, fresh: usize) {
        let now = self.network.now();
        let Some(socket) = self.socket(slot) else {
            return;
        };
        let input = std::mem::take(&mut socket.input);
        let bytes = Input::Bytes {
            conn: ConnId(slot as u32),
            bytes: &input,
            fresh,
        };
        let Some((consumed, next)) = driver.offer(self, bytes, now) else {
            return;
        };
        if let Some(socket) = self.socket(slot) {
            socket.input = input[consumed..].to_vec();
            socket.held = next == Next::Hold;
            match next {
                Next::Read { needed } => socket.needed = needed,
                Next::Done => socket.input.clear(),
                Next::Hold | Next::Flush => {}
            }
        }
    }

    /// Writes to who waited for room, or for the end of the connection.
    fn write_waiting(&mut self, driver: &mut Driver, now: Now) {
        for slot in 0..self.driven().sockets.len() {
            let waits = |socket: &mut Socket| socket.is_blocked || socket.is_closing();
            if self.socket(slot).is_some_and(waits) {
                self.write(driver, ConnId(slot as u32), now);
            }
        }
    }

    fn gone(&mut self, driver: &mut Driver, slot: usize) {
        if let Some(socket) = self.driven().sockets[slot].take() {
            driver.closed(ConnId(slot as u32), self.network.now());
            self.network.close_end(socket.pipe, socket.side);
        }
    }
}

impl Sockets for Host<'_> {
    fn write(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        let delay = self.network.delay();
        let Network {
            nodes,
            pipes,
            now_ns,
            ..
        } = &mut *self.network;
        let sockets = &mut nodes[self.node].shards[self.shard].sockets;
        let slot = conn.0 as usize;
        let Some(Some(socket)) = sockets.get_mut(slot) else {
            return;
        };
        let mut arrives = None;
        if let Some(pipe) = &mut pipes[socket.pipe] {
            let wire = &mut pipe.wires[socket.side];
            let room = SOCKET_BYTES.saturating_sub(wire.bytes);
            let mut taken = Vec::new();
            let mut is_more = false;
            // Only what there is room for is looked at: behind a cut, much may wait.
            for slice in driver.output(conn) {
                let count = slice.len().min(room - taken.len());
                taken.extend_from_slice(&slice[..count]);
                is_more = count < slice.len();
                if is_more {
                    break;
                }
            }
            let count = taken.len();
            if count > 0 {
                let last = wire.parts.back().map_or(0, |&(due, _)| due);
                let due_ns = (*now_ns + delay).max(last);
                wire.parts.push_back((due_ns, taken));
                wire.bytes += count;
                arrives = Some((socket.pipe, 1 - socket.side, due_ns));
                self.is_busy = true;
            }
            wire.is_full = is_more;
            socket.is_blocked = is_more;
            if count > 0 || is_more {
                driver.sent(conn, count, is_more);
            }
        }
        let closing_until_ns = socket.closing_until_ns;
        let is_late = closing_until_ns.is_some_and(|until_ns| until_ns <= now.monotonic_ns);
        let is_closed = socket.is_closing() && (is_late || !driver.has_output(conn));
        if let Some((pipe, side, due_ns)) = arrives {
            self.network.wake_end(pipe, side, due_ns);
        }
        if is_closed {
            self.is_busy = true;
            self.gone(driver, slot);
        }
    }

    fn close(&mut self, conn: ConnId, _reason: CloseReason, now: Now) {
        self.is_busy = true;
        if let Some(socket) = self.socket(conn.0 as usize) {
            let until_ns = now.monotonic_ns + LINGER_NS;
            socket.closing_until_ns.get_or_insert(until_ns);
            socket.input.clear();
        }
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, _now: Now) {
        let slot = conn.0 as usize;
        if let Some(socket) = self.socket(slot)
            && socket.held
            && !socket.is_closing()
        {
            socket.held = false;
            self.hand(driver, slot, 0);
        }
    }

    fn is_open(&self, conn: ConnId) -> bool {
        let sockets = &self.network.nodes[self.node].shards[self.shard].sockets;
        let socket = sockets.get(conn.0 as usize).and_then(Option::as_ref);
        socket.is_some_and(|socket| !socket.is_closing())
    }

    fn dial(&mut self, dial: Dial) {
        self.is_busy = true;
        let network = &mut *self.network;
        let due_ns = network.now_ns + network.delay() * 2;
        let dialing = Dialing {
            from: (self.node, self.shard),
            incarnation: network.nodes[self.node].incarnation,
            dial: dial.dial,
            to: node_of(dial.address),
            is_late: false,
        };
        network.dials.insert((due_ns, network.next_dial), dialing);
        network.next_dial += 1;
    }

    fn move_to(&mut self, driver: &mut Driver, conn: ConnId, to: ShardId, now: Now) {
        self.is_busy = true;
        let Some(socket) = self.driven().sockets[conn.0 as usize].take() else {
            return;
        };
        driver.closed(conn, now);
        let there = (self.node, usize::from(to.0));
        self.network
            .accept(socket.pipe, socket.side, there, Protocol::Node);
        let pipe = self.network.pipes[socket.pipe].as_ref();
        if let Some(End::Shard { conn, .. }) = pipe.map(|pipe| pipe.ends[socket.side]) {
            self.network.with_driver(there, |driver, host| {
                host.hand_fresh(driver, conn.0 as usize, socket.input);
            });
        }
    }

    fn notice(&mut self, notice: Notice) {
        let network = &mut *self.network;
        let seconds = network.now_ns as f64 / 1e9;
        let line = format!("{seconds:9.3} node {}: {notice}", self.node);
        network.log.push_back(line);
        if network.log.len() > LOG_LINES_MAX {
            network.log.pop_front();
        }
    }

    fn handled(&mut self, _driver: &mut Driver, dealt: Dealt<'_>, _handled: Handled) {
        self.is_busy |= matches!(dealt, Dealt::Tick);
    }

    fn does(&mut self, step: Step) -> bool {
        step != Step::Exchange || !self.driven().is_late
    }
}

impl Mail for Host<'_> {
    fn next_returned(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        let (by, batch) = self.driven().returns.pop_front()?;
        Some((ShardId(by as u16), batch))
    }

    fn next_batch(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        let (from, batch) = self.driven().inbox.pop_front()?;
        Some((ShardId(from as u16), batch))
    }

    fn give_back(&mut self, to: ShardId, batch: Batch) {
        let there = &mut self.network.nodes[self.node].shards[usize::from(to.0)];
        there.returns.push_back((self.shard, batch));
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        self.is_busy = true;
        let there = &mut self.network.nodes[self.node].shards[usize::from(to.0)];
        there.inbox.push_back((self.shard, batch));
    }
}
