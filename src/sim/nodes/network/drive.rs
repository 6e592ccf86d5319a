//! How each shard of a node is driven: what a server's turn does, in its order.
//!
//! Must not know the network beyond the connections' ends. Start at [`Network::run_node`].

use super::*;

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

    /// One turn of a shard; whether anything happened.
    fn turn(&mut self, node: usize, shard: usize) -> bool {
        let now = self.now();
        let mut is_busy = self.read_sockets(node, shard);
        let driven = &mut self.nodes[node].shards[shard];
        while let Some((by, batch)) = driven.returns.pop_front() {
            is_busy = true;
            let by = ShardId(by as u16);
            driven
                .core
                .handle(Input::Returned { by, batch }, now, &mut driven.outputs);
        }
        is_busy |= self.take_batches(node, shard);
        is_busy |= self.resume(node, shard);
        let driven = &mut self.nodes[node].shards[shard];
        if driven
            .core
            .next_deadline()
            .is_some_and(|due| due <= now.monotonic_ns)
        {
            is_busy = true;
            driven.core.handle(Input::Tick, now, &mut driven.outputs);
        }
        driven.core.handle(Input::TurnEnd, now, &mut driven.outputs);
        is_busy |= self.flush(node, shard);
        let count = self.nodes[node].shards.len();
        for to in (0..count).filter(|&to| to != shard) {
            let batch = self.nodes[node].shards[shard]
                .core
                .take_batch(ShardId(to as u16));
            if let Some(batch) = batch {
                is_busy = true;
                self.nodes[node].shards[to].inbox.push_back((shard, batch));
            }
        }
        is_busy |= self.resume(node, shard);
        is_busy |= self.flush(node, shard);
        is_busy || self.nodes[node].shards[shard].core.is_turn_due()
    }

    fn take_batches(&mut self, node: usize, shard: usize) -> bool {
        if self.nodes[node].shards[shard].is_late {
            return false;
        }
        let mut is_busy = false;
        loop {
            let now = self.now();
            let driven = &mut self.nodes[node].shards[shard];
            let next = driven.unfinished.take().or_else(|| {
                let (from, batch) = driven.inbox.pop_front()?;
                Some((from, batch, BatchCursor::default()))
            });
            let Some((from, mut batch, mut cursor)) = next else {
                return is_busy;
            };
            is_busy = true;
            let input = Input::Batch {
                from: ShardId(from as u16),
                batch: &mut batch,
                cursor: &mut cursor,
            };
            let handled = driven.core.handle(input, now, &mut driven.outputs);
            if handled.next == Next::Flush {
                driven.unfinished = Some((from, batch, cursor));
                self.flush(node, shard);
                return true;
            }
            self.nodes[node].shards[from]
                .returns
                .push_back((shard, batch));
        }
    }

    fn read_sockets(&mut self, node: usize, shard: usize) -> bool {
        let mut is_busy = false;
        for slot in 0..self.nodes[node].shards[shard].sockets.len() {
            let Some(socket) = &self.nodes[node].shards[shard].sockets[slot] else {
                continue;
            };
            if socket.held || socket.is_closing {
                continue;
            }
            let (pipe, side) = (socket.pipe, socket.side);
            let (bytes, is_over) = self.arrived(pipe, 1 - side);
            if !bytes.is_empty() {
                is_busy = true;
                self.hand_fresh(node, shard, slot, bytes);
            } else if is_over {
                is_busy = true;
                self.gone(node, shard, slot);
            }
        }
        is_busy
    }

    fn hand_fresh(&mut self, node: usize, shard: usize, slot: usize, bytes: Vec<u8>) {
        let socket = self.nodes[node].shards[shard].sockets[slot].as_mut();
        // invariant: the caller has looked.
        let socket = socket.expect("a socket");
        let fresh = bytes.len();
        socket.input.extend(bytes);
        if socket.input.len() >= socket.needed {
            self.hand(node, shard, slot, fresh);
        }
    }

    /// Hands core what stands of a connection's input.
    fn hand(&mut self, node: usize, shard: usize, slot: usize, mut fresh: usize) {
        loop {
            let now = self.now();
            let driven = &mut self.nodes[node].shards[shard];
            let Some(socket) = &mut driven.sockets[slot] else {
                return;
            };
            let input = std::mem::take(&mut socket.input);
            let handled = driven.core.handle(
                Input::Bytes {
                    conn: ConnId(slot as u32),
                    bytes: &input,
                    fresh,
                },
                now,
                &mut driven.outputs,
            );
            fresh = 0;
            if let Some(socket) = &mut driven.sockets[slot] {
                socket.input = input[handled.consumed..].to_vec();
                socket.held = handled.next == Next::Hold;
                match handled.next {
                    Next::Read { needed } => socket.needed = needed,
                    Next::Done => socket.input.clear(),
                    Next::Hold | Next::Flush => {}
                }
            }
            if handled.next != Next::Flush {
                return;
            }
            self.flush(node, shard);
        }
    }

    fn resume(&mut self, node: usize, shard: usize) -> bool {
        let resumed = std::mem::take(&mut self.nodes[node].shards[shard].outputs.resumed);
        for conn in &resumed {
            let slot = conn.0 as usize;
            let socket = self.nodes[node].shards[shard].sockets.get_mut(slot);
            if let Some(Some(socket)) = socket
                && socket.held
                && !socket.is_closing
            {
                socket.held = false;
                self.hand(node, shard, slot, 0);
            }
        }
        !resumed.is_empty()
    }

    fn gone(&mut self, node: usize, shard: usize, slot: usize) {
        let now = self.now();
        let driven = &mut self.nodes[node].shards[shard];
        if let Some(socket) = driven.sockets[slot].take() {
            let conn = ConnId(slot as u32);
            driven
                .core
                .handle(Input::Closed { conn }, now, &mut driven.outputs);
            self.close_end(socket.pipe, socket.side);
        }
    }

    /// Carries out what core named, and writes; whether there was anything.
    fn flush(&mut self, node: usize, shard: usize) -> bool {
        let mut is_busy = self.note_outputs(node, shard);
        let mut dirty = Vec::new();
        let driven = &mut self.nodes[node].shards[shard];
        driven.core.take_dirty(&mut dirty);
        for (slot, socket) in driven.sockets.iter().enumerate() {
            if socket
                .as_ref()
                .is_some_and(|socket| socket.is_blocked || socket.is_closing)
            {
                dirty.push(ConnId(slot as u32));
            }
        }
        for conn in dirty {
            is_busy |= self.write(node, shard, conn.0 as usize);
        }
        is_busy | self.note_outputs(node, shard)
    }

    fn write(&mut self, node: usize, shard: usize, slot: usize) -> bool {
        let delay = self.delay();
        let driven = &mut self.nodes[node].shards[shard];
        let Some(Some(socket)) = driven.sockets.get_mut(slot) else {
            return false;
        };
        let conn = ConnId(slot as u32);
        let mut is_busy = false;
        let mut arrives = None;
        if let Some(pipe) = &mut self.pipes[socket.pipe] {
            let wire = &mut pipe.wires[socket.side];
            let room = SOCKET_BYTES.saturating_sub(wire.bytes);
            let mut taken = Vec::new();
            let mut is_more = false;
            // Only what there is room for is looked at: behind a cut, much may wait.
            for slice in driven.core.output(conn) {
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
                let due_ns = (self.now_ns + delay).max(last);
                wire.parts.push_back((due_ns, taken));
                wire.bytes += count;
                arrives = Some((socket.pipe, 1 - socket.side, due_ns));
                is_busy = true;
            }
            wire.is_full = is_more;
            socket.is_blocked = is_more;
            if is_busy || socket.is_blocked {
                driven
                    .core
                    .sent(conn, count, socket.is_blocked, &mut driven.outputs);
            }
        }
        let is_closed = socket.is_closing && !driven.core.has_output(conn);
        if let Some((pipe, side, due_ns)) = arrives {
            self.wake_end(pipe, side, due_ns);
        }
        if is_closed {
            self.gone(node, shard, slot);
        }
        is_busy || is_closed
    }

    fn note_outputs(&mut self, node: usize, shard: usize) -> bool {
        let driven = &mut self.nodes[node].shards[shard];
        let closing = std::mem::take(&mut driven.outputs.closing);
        let dials = std::mem::take(&mut driven.outputs.dials);
        let moving = std::mem::take(&mut driven.outputs.moving);
        let is_busy = !closing.is_empty() || !dials.is_empty() || !moving.is_empty();
        for notice in driven.outputs.notices.drain(..) {
            let line = format!("{:9.3} node {node}: {notice}", self.now_ns as f64 / 1e9);
            self.log.push_back(line);
            if self.log.len() > LOG_LINES_MAX {
                self.log.pop_front();
            }
        }
        for (conn, _) in closing {
            if let Some(Some(socket)) = driven.sockets.get_mut(conn.0 as usize) {
                socket.is_closing = true;
                socket.input.clear();
            }
        }
        let incarnation = self.nodes[node].incarnation;
        for dial in dials {
            let due_ns = self.now_ns + self.delay() * 2;
            let dialing = Dialing {
                from: (node, shard),
                incarnation,
                dial: dial.dial,
                to: node_of(dial.address),
                is_late: false,
            };
            self.dials.insert((due_ns, self.next_dial), dialing);
            self.next_dial += 1;
        }
        for (conn, to) in moving {
            self.move_socket(node, shard, conn, usize::from(to.0));
        }
        is_busy
    }

    fn move_socket(&mut self, node: usize, shard: usize, conn: ConnId, to: usize) {
        let now = self.now();
        let driven = &mut self.nodes[node].shards[shard];
        let Some(socket) = driven.sockets[conn.0 as usize].take() else {
            return;
        };
        driven
            .core
            .handle(Input::Closed { conn }, now, &mut driven.outputs);
        self.accept(socket.pipe, socket.side, (node, to), Protocol::Node);
        let there = self.pipes[socket.pipe].as_ref();
        if let Some(End::Shard { conn, .. }) = there.map(|pipe| pipe.ends[socket.side]) {
            self.hand_fresh(node, to, conn.0 as usize, socket.input);
        }
    }
}
