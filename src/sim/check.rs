//! The checks: what clients read against what they are owed, caps, closings, and what is left.
//!
//! Bounds are stated where they are checked. Start at [`World::check_read`].

use crate::client::End;
use crate::command::KillForm;
use crate::driver::Phase;
use crate::expect::{Owed, What, is_refused_call};
use crate::finale;
use crate::model::{Conn, HandedOver};
use crate::reader::{Frame, Value};
use crate::world::World;
use crate::{Failure, Sabotage, fail};
use sapwood_core::command::{CloseReason, ConnId, FilterKind};
use sapwood_core::limits::RUN_BYTES_MAX;
use sapwood_core::{Policy, Protocol};
use sapwood_wire::native::flag;
use std::collections::BTreeSet;

/// The largest event that clients publish, as a frame: payload, topic, glob and heads.
pub(crate) const FRAME_BYTES_MAX: usize = 41_500;

/// The largest run that is handed over as a whole, which is more than an event.
const RUN_OR_FRAME_BYTES_MAX: usize = RUN_BYTES_MAX;

/// Output that may gather before the shard writes, as the limits say.
pub(crate) const UNFLUSHED_BYTES_MAX: usize = 1024 * 1024;

impl World {
    /// Compares what a client has read with what it is owed.
    pub(crate) fn check_read(&mut self, key: usize) -> Result<(), Failure> {
        if self.clients[key].protocol == Protocol::Native {
            self.check_frames(key)?;
        } else {
            self.check_values(key)?;
        }
        self.note_caught_up(key)
    }

    fn check_values(&mut self, key: usize) -> Result<(), Failure> {
        loop {
            let conn = self.model.conn(key);
            let may_lose = conn.stream.policy != Policy::Close;
            // What stands before it may be lost.
            let mut owed = conn.stream.owed.iter();
            let next = owed.find(|owed| !(may_lose && owed.is_event()));
            let mut is_head = next.is_some_and(|owed| matches!(owed.what, What::ExecHead(_)));
            if is_head && may_lose {
                match self.clients[key].reader.is_event_next() {
                    None => return Ok(()),
                    Some(is_event) => is_head = !is_event,
                }
            }
            let reader = &mut self.clients[key].reader;
            let read = if is_head {
                reader.next_head()
            } else {
                reader.next()
            };
            let value = match read {
                Ok(Some(value)) => value,
                Ok(None) => return Ok(()),
                Err(text) => return fail("protocol", format!("client {key}: {text}")),
            };
            self.take_value(key, &value)?;
        }
    }

    fn check_frames(&mut self, key: usize) -> Result<(), Failure> {
        let mut frames = Vec::new();
        loop {
            match self.clients[key].reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(text) => return fail("protocol", format!("client {key}: {text}")),
            }
        }
        self.sabotage_frames(&mut frames);
        for frame in &frames {
            self.take_value(key, frame)?;
        }
        self.frames_read = frames;
        Ok(())
    }

    /// Spoils what a client reads as a fault of the broker would.
    fn sabotage_frames(&mut self, frames: &mut Vec<Value>) {
        let is_turn = |value: &Value| matches!(value, Value::Frame(Frame::Turn(..)));
        let is_gap = |value: &Value| matches!(value, Value::Frame(Frame::Gap(_)));
        let is_event = |value: &Value| matches!(value, Value::Frame(Frame::Message(_)));
        for at in 0..frames.len() {
            let is_pair =
                frames[at..].len() > 1 && is_turn(&frames[at]) && is_turn(&frames[at + 1]);
            if is_pair && self.sabotage(Sabotage::SwapTurns) {
                frames.swap(at, at + 1);
            }
            if is_turn(&frames[at]) && self.sabotage(Sabotage::DoubleTurn) {
                return frames.insert(at, frames[at].clone());
            }
            let loses_turn = is_turn(&frames[at]) && self.sabotage(Sabotage::LoseTurn);
            let loses_gap = is_gap(&frames[at]) && self.sabotage(Sabotage::LoseGap);
            let loses_event = is_event(&frames[at]) && self.sabotage(Sabotage::LoseEvent);
            if loses_turn || loses_gap || loses_event {
                frames.remove(at);
                return;
            }
        }
    }

    /// A client that has read all there is, and for whom nothing waits: what it is still owed is
    /// lost, and nothing is lost from now on until it is behind again.
    fn note_caught_up(&mut self, key: usize) -> Result<(), Failure> {
        let Some(Some(conn)) = self.model.conns.get_mut(key) else {
            return Ok(());
        };
        let client = &self.clients[key];
        let is_read = client.link.down.is_empty() && !client.reader.is_inside();
        let has_answers = conn.stream.owed.iter().any(|owed| !owed.is_event());
        let node = &self.nodes[conn.shard];
        let is_between = !conn.executing.is_empty() || has_answers || node.unfinished.is_some();
        if !conn.stream.was_behind || !conn.open || !is_read || is_between {
            return Ok(());
        }
        let mut sockets = node.sockets.iter().enumerate();
        let found = sockets.find(|(_, socket)| {
            let socket = socket.as_ref();
            socket.is_some_and(|socket| socket.client == key)
        });
        let Some((slot, Some(socket))) = found else {
            return Ok(());
        };
        if socket.told_blocked || socket.held || node.core().has_output(ConnId(slot as u32)) {
            return Ok(());
        }
        let ended = conn.stream.end(&self.model.turns);
        ended.map_err(|failure| Failure {
            text: format!("client {key}, who has caught up: {}", failure.text),
            ..failure
        })?;
        conn.stream.was_behind = false;
        Ok(())
    }

    fn take_value(&mut self, key: usize, value: &Value) -> Result<(), Failure> {
        // invariant: only clients that were accepted read.
        let conn = self.model.conns[key].as_mut().expect("an accepted client");
        let losses = conn.stream.lost;
        let taken = conn.stream.take(value, &mut self.model.turns);
        let (shard, is_latest) = (conn.shard, conn.stream.policy == Policy::Latest);
        let grew = conn.stream.lost > losses;
        let taken = taken.map_err(|failure| Failure {
            text: format!(
                "client {key} of shard {shard} read {}: {}",
                shown(&format!("{value:?}")),
                failure.text
            ),
            ..failure
        })?;
        if grew {
            self.coverage.hit(match is_latest {
                true => "lost by latest",
                false => "lost by drop-oldest",
            });
        }
        match taken {
            Some(owed) => {
                self.note_exec(key, &owed)?;
                self.taken(key, &owed, value)
            }
            None => {
                self.coverage.hit("gap read");
                Ok(())
            }
        }
    }

    /// Between the elements of an EXEC's reply stand events of its own only.
    fn note_exec(&mut self, key: usize, owed: &Owed) -> Result<(), Failure> {
        let left = &mut self.clients[key].exec_left;
        match owed.what {
            What::ExecHead(count) => *left = count,
            What::Event(..) if *left > 0 && owed.inside => self.coverage.hit("events inside exec"),
            What::Event(..) if *left > 0 => {
                return fail("exec", format!("client {key} read another's event inside"));
            }
            What::Event(..) => {}
            _ => *left = left.saturating_sub(1),
        }
        Ok(())
    }

    /// What follows from having read something.
    fn taken(&mut self, key: usize, owed: &Owed, value: &Value) -> Result<(), Failure> {
        match &owed.what {
            What::Event(..) => self.coverage.hit("events read"),
            What::Native { event, turns, .. } => {
                self.coverage.hit("native events read");
                if let (Value::Frame(Frame::Turn(number, _)), Some((id, _))) =
                    (value, turns.first())
                {
                    let shard = self.model.conn(key).shard;
                    self.model.shards[shard].turns_taken += 1;
                    self.coverage.hit("turns read");
                    if self.model.turns.origin(*id) != shard {
                        self.coverage.hit("turns across shards");
                    }
                    if event.topic == finale::TOPIC {
                        *self.fair_turns.entry((key, *number)).or_default() += 1;
                    }
                }
                if event.flags & flag::HEADERS != 0 {
                    self.coverage.hit("headers read");
                }
            }
            What::Ack {
                subscription: Some(id),
                ..
            } => self.model.confirmed(key, *id),
            What::Refused { code, .. } => self.coverage.hit(match code.is_fatal() {
                true => "native closings explained",
                false => "native requests refused",
            }),
            What::Draining(_) => self.coverage.hit("draining read"),
            What::Confirm(confirm) => {
                if let Some(id) = confirm.subscription {
                    self.model.confirmed(key, id);
                }
            }
            What::Error(text) if text.starts_with("ERR this connection has") => {
                self.coverage.hit("subscription refused");
            }
            What::Error(text) if text.starts_with("ERR the transaction is larger") => {
                self.coverage.hit("transaction too large");
            }
            What::Clients { .. } | What::Names(_) if is_refused_call(value) => {
                self.coverage.hit("call refused");
                if self.limits.outbox_bytes_max > self.reply_max() {
                    return fail("call", "refused where its answer has room".to_string());
                }
            }
            What::Clients { asked } => {
                let (Value::Bulk(text) | Value::Verbatim(text)) = value else {
                    return fail("clients", "no text".to_string());
                };
                self.check_clients(key, *asked, text)?;
                self.note_gathered();
            }
            &What::Killed {
                form,
                target,
                asked,
                is_me,
            } => {
                let is_killed = matches!(value, Value::Integer(1) | Value::Simple(_));
                self.check_killed(key, (form, is_me), target, asked, is_killed)?;
                self.note_gathered();
            }
            _ => {}
        }
        Ok(())
    }

    fn note_gathered(&mut self) {
        if self.nodes.len() > 1 {
            self.coverage.hit("gathered answers");
        }
    }

    /// CLIENT LIST names everybody who was there all the while, and nobody who was not.
    fn check_clients(&mut self, key: usize, asked: u64, text: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix("txt:").unwrap_or(&text);
        for line in text.lines() {
            self.check_record(key, line)?;
        }
        let ids = text.lines().map(|line| {
            let id = line.strip_prefix("id=")?.split(' ').next()?;
            id.parse::<usize>().ok()?.checked_sub(1)
        });
        let Some(ids) = ids.collect::<Option<Vec<usize>>>() else {
            return fail("clients", format!("client {key} read {}", shown(text)));
        };
        if !ids.windows(2).all(|pair| pair[0] < pair[1]) {
            return fail(
                "clients",
                format!("client {key} read ids out of order: {ids:?}"),
            );
        }
        let listed: BTreeSet<usize> = ids.into_iter().collect();
        for (other, conn) in self.model.conns.iter().enumerate() {
            let Some(conn) = conn else { continue };
            let is_listed = listed.contains(&other);
            if conn.open && conn.opened < asked && !is_listed {
                return fail("clients", format!("client {key} was not told of {other}"));
            }
            if conn.closed < asked && is_listed {
                return fail(
                    "clients",
                    format!("client {key} was told of {other}, who had left"),
                );
            }
        }
        Ok(())
    }

    fn check_killed(
        &mut self,
        key: usize,
        (form, is_me): (KillForm, bool),
        target: usize,
        asked: u64,
        is_killed: bool,
    ) -> Result<(), Failure> {
        let Some(conn) = self.model.conns.get(target).and_then(Option::as_ref) else {
            return match is_killed {
                true => fail(
                    "kill",
                    format!("client {key} killed {target}, who never came"),
                ),
                false => Ok(()),
            };
        };
        let may_be = form != KillForm::Id || !is_me;
        if is_killed && (conn.open || !may_be || conn.closed < asked) {
            return fail(
                "kill",
                format!("client {key} was told that {target} is killed"),
            );
        }
        if !is_killed && conn.open && may_be && conn.opened < asked {
            return fail(
                "kill",
                format!("client {key} was told that {target} is not there"),
            );
        }
        if is_killed && is_me {
            self.coverage.hit("killed itself");
        }
        Ok(())
    }

    /// A connection was named as closing: whether it had to be.
    pub(crate) fn check_closing(
        &mut self,
        key: usize,
        reason: CloseReason,
        blocked: bool,
    ) -> Result<(), Failure> {
        let now_ns = self.now.monotonic_ns;
        let guest_ns = self.limits.guest_ms_max * 1_000_000;
        let conn = self.model.conn(key);
        let closes = conn.stream.policy == Policy::Close;
        let (name, is_right) = match reason {
            CloseReason::Quit => ("closed: quit", conn.reason == Some(CloseReason::Quit)),
            CloseReason::Protocol => ("closed: protocol", conn.garbage.is_some()),
            CloseReason::AuthTimeout => {
                let is_late = now_ns >= conn.guest_ns + guest_ns;
                ("closed: guest timeout", is_late && !conn.authenticated)
            }
            CloseReason::OutboxFull => ("closed: outbox full", blocked && closes),
            CloseReason::OutboxesFull => ("closed: outboxes full", blocked && closes),
            CloseReason::InputsFull => ("closed: inputs full", true),
            CloseReason::Killed => ("closed: killed", true),
            CloseReason::TooManyConnections => ("closed: too many", true),
            CloseReason::Stale => ("closed: stale", false),
            CloseReason::Ending => ("closed: ending", false),
        };
        self.coverage.hit(name);
        if !is_right {
            return fail("closing", format!("client {key} was closed: {reason:?}"));
        }
        self.model.owe_reason(key, reason);
        match reason {
            CloseReason::TooManyConnections => {
                let conn = self.model.conn(key);
                let shard = conn.shard;
                let count = self.model.shards[shard].open.len();
                if count <= self.limits.connections_max {
                    // Those that are being closed count too, until they are gone.
                    let taken = self.nodes[shard].sockets.iter().flatten().count();
                    if taken <= self.limits.connections_max {
                        return fail(
                            "closing",
                            format!("client {key} was refused with {taken} connections"),
                        );
                    }
                }
            }
            CloseReason::OutboxFull | CloseReason::OutboxesFull | CloseReason::InputsFull => {
                self.cut[key] = true;
            }
            _ => {}
        }
        self.model.close(key, reason);
        self.model.conn(key).reason = Some(reason);
        Ok(())
    }

    /// Guests whose time is over are gone.
    pub(crate) fn check_guests(&mut self, shard: usize) -> Result<(), Failure> {
        let guest_ns = self.limits.guest_ms_max * 1_000_000;
        for &key in &self.model.shards[shard].open {
            let Some(conn) = &self.model.conns[key] else {
                continue;
            };
            if !conn.authenticated && conn.guest_ns + guest_ns <= self.now.monotonic_ns {
                return fail(
                    "guests",
                    format!("client {key} did not authenticate and is still there"),
                );
            }
        }
        Ok(())
    }

    /// Unfinished input stays within its cap: at all times, whoever sends it.
    pub(crate) fn check_input(&mut self, shard: usize, bytes: u64) -> Result<(), Failure> {
        if bytes > self.limits.inputs_bytes_max as u64 {
            let cap = self.limits.inputs_bytes_max;
            return fail(
                "inputs cap",
                format!("shard {shard} keeps {bytes} of {cap} bytes of input"),
            );
        }
        Ok(())
    }

    /// Data on the way to a shard stays within the window, or is one batch alone. A batch alone is
    /// at most the backlog and one event or run more.
    pub(crate) fn check_window(&mut self, shard: usize, to: usize) -> Result<(), Failure> {
        let in_flight = &self.nodes[shard].in_flight[to];
        let data: Vec<usize> = in_flight
            .iter()
            .copied()
            .filter(|&bytes| bytes > 0)
            .collect();
        let bytes: usize = data.iter().sum();
        let alone = self.limits.handover_backlog_bytes + RUN_OR_FRAME_BYTES_MAX;
        let bound = match data.len() {
            0 | 1 => self.limits.handover_window_bytes.max(alone),
            _ => self.limits.handover_window_bytes,
        };
        if bytes > bound {
            return fail(
                "window",
                format!("{bytes} bytes are on the way from shard {shard} to {to}, {bound} may be"),
            );
        }
        Ok(())
    }

    /// The cap on what waits for other shards.
    fn check_backlog(&self, shard: usize) -> Result<(), Failure> {
        let node = &self.nodes[shard];
        let counters = node.core().counters();
        // Before a backlog is full, one event or run may go in, whatever its size; a head has 8 bytes.
        let backlog =
            (self.nodes.len() - 1) * (self.limits.handover_backlog_bytes + RUN_OR_FRAME_BYTES_MAX);
        // Beside what came back.
        let pending = self.model.shards[shard].pending.iter().flatten();
        let backlog = backlog + pending.map(HandedOver::bytes_again).sum::<usize>();
        if counters.handover_backlog_bytes > backlog as u64 {
            let text = format!(
                "{} bytes wait for other shards, {backlog} may",
                counters.handover_backlog_bytes
            );
            return fail("backlog", text);
        }
        Ok(())
    }

    /// What the driver keeps must be what core knows of: its cap is for memory that is there.
    fn check_kept(&self, shard: usize) -> Result<(), Failure> {
        let mut kept = 0;
        for socket in self.nodes[shard].sockets.iter().flatten() {
            let (key, bytes) = (socket.client, socket.input.len());
            // Core stops counting the input of a connection when it begins to close it.
            if socket.phase != Phase::Open && bytes > 0 {
                let text =
                    format!("client {key} is being closed, {bytes} bytes of its input are kept");
                return fail("inputs kept", text);
            }
            kept += bytes;
        }
        if kept > self.limits.inputs_bytes_max {
            let text = format!("shard {shard} keeps {kept} bytes of input");
            return fail("inputs kept", text);
        }
        Ok(())
    }

    /// The other caps, after a turn.
    pub(crate) fn check_caps(&mut self, shard: usize) -> Result<(), Failure> {
        self.check_memory(shard)?;
        self.check_backlog(shard)?;
        self.check_kept(shard)?;
        let node = &self.nodes[shard];
        if node.core().counters().shared_body_bytes > 0 {
            self.coverage.hit("shared bodies");
        }
        let reply_max = self.reply_max();
        let cap = self.limits.outbox_bytes_max;
        let mut blocked_bytes = 0;
        for (slot, socket) in node.sockets.iter().enumerate() {
            let Some(socket) = socket else { continue };
            let bytes: usize = node
                .core()
                .output(ConnId(slot as u32))
                .map(<[u8]>::len)
                .sum();
            let Some(before) = socket.blocked else {
                if bytes > 0 && socket.phase == Phase::Open {
                    return fail(
                        "flush",
                        format!("client {} has output, and was not written", socket.client),
                    );
                }
                continue;
            };
            blocked_bytes += bytes;
            // Who was not behind may have gathered what was not flushed; who is, keeps to the cap.
            let conn = self.model.conns[socket.client].as_ref();
            let aside = match conn.map(|conn| conn.stream.policy) {
                // What waits aside follows before an answer, or once most was sent.
                Some(Policy::Latest) => FRAME_BYTES_MAX.max(cap / 2),
                _ => 0,
            };
            if bytes > cap.max(before) + aside + reply_max
                || before > cap + UNFLUSHED_BYTES_MAX + 64 * FRAME_BYTES_MAX
            {
                return fail(
                    "outbox cap",
                    format!(
                        "client {} has {bytes} bytes of output, {before} when it blocked",
                        socket.client
                    ),
                );
            }
        }
        // Over the shard's cap: what the last flush left, and one reply of each connection.
        let over = UNFLUSHED_BYTES_MAX + 64 * FRAME_BYTES_MAX + node.sockets.len() * reply_max;
        if blocked_bytes > self.limits.outboxes_bytes_max + over {
            return fail(
                "outboxes cap",
                format!("shard {shard} has {blocked_bytes} bytes of output"),
            );
        }
        Ok(())
    }

    /// After the drain: nothing is owed, and the counters are those of the model.
    pub(crate) fn check_rest(&mut self) -> Result<(), Failure> {
        for key in 0..self.clients.len() {
            self.take_last_head(key)?;
        }
        for (key, client) in self.clients.iter().enumerate() {
            let Some(Some(conn)) = self.model.conns.get_mut(key) else {
                continue;
            };
            let is_alive = client.link.end == End::Open && conn.open;
            if is_alive && !self.cut[key] {
                let ended = conn.stream.end(&self.model.turns);
                ended.map_err(|failure| Failure {
                    text: format!("client {key}, at rest: {}", failure.text),
                    ..failure
                })?;
            }
            if client.link.end != End::Open {
                continue;
            }
            if client.reader.is_inside() && !self.cut[key] {
                return fail(
                    "rest",
                    format!(
                        "client {key} of shard {}, {:?}, has read half a frame",
                        conn.shard, conn.reason
                    ),
                );
            }
            let was_killed =
                conn.reason == Some(CloseReason::Killed) && self.model.hunted.contains(&key);
            let is_read = conn.stream.is_read(was_killed, &self.model.turns);
            if !is_read && !self.cut[key] {
                let owed = shown(&format!("{:?}", conn.stream.owed[0]));
                let text = format!(
                    "client {key} of shard {}, {:?}, never read {} things, first {owed}",
                    conn.shard,
                    conn.reason,
                    conn.stream.owed.len()
                );
                return fail("lost", text);
            }
        }
        self.check_turns()?;
        self.check_losses()?;
        self.check_counters()
    }

    /// Who is killed while its EXEC waits may have been given no more of the array than its head.
    /// Where a policy may drop events that was left unread, as it could have been an event's.
    fn take_last_head(&mut self, key: usize) -> Result<(), Failure> {
        let conn = self.model.conns.get(key).and_then(Option::as_ref);
        let was_killed = conn.is_some_and(|conn| conn.reason == Some(CloseReason::Killed));
        let client = &mut self.clients[key];
        if !was_killed || self.cut[key] || client.link.end != End::Open {
            return Ok(());
        }
        let Some(head) = client.reader.last_head() else {
            return Ok(());
        };
        self.take_value(key, &head)
    }

    fn check_counters(&mut self) -> Result<(), Failure> {
        for (shard, node) in self.nodes.iter().enumerate() {
            let counters = node.core().counters();
            let model = &self.model.shards[shard];
            let delivered = model.delivered + model.turns_taken;
            // A turn that nobody has read may have been given to somebody here.
            let unread = self.model.turns.untaken().count() as u64;
            let is_least = model.inexact || counters.events_delivered >= delivered;
            let delivered_is_right = is_least && counters.events_delivered <= delivered + unread;
            let subscriptions: u64 = model.table.values().sum();
            let filters = self.model.known_filters(shard);
            let pairs = [
                (
                    "events_published",
                    counters.events_published,
                    model.published,
                ),
                ("subscriptions", counters.subscriptions, subscriptions),
                ("filters", counters.filters, filters),
                (
                    "connections",
                    counters.connections,
                    node.sockets.iter().flatten().count() as u64,
                ),
                ("bytes_out", counters.bytes_out, node.written),
                ("handover_backlog_bytes", counters.handover_backlog_bytes, 0),
            ];
            for (name, counted, expected) in pairs {
                if counted != expected {
                    return fail(
                        "counters",
                        format!("shard {shard}: {name} is {counted}, not {expected}"),
                    );
                }
            }
            if !delivered_is_right {
                return fail(
                    "counters",
                    format!(
                        "shard {shard}: {} delivered, not {delivered}, {unread} turns unread",
                        counters.events_delivered
                    ),
                );
            }
            self.check_closed(shard)?;
        }
        Ok(())
    }

    /// Closings are counted by their reason.
    fn check_closed(&self, shard: usize) -> Result<(), Failure> {
        let counters = self.nodes[shard].core().counters();
        let conns: Vec<&Conn> = self
            .model
            .conns
            .iter()
            .flatten()
            .filter(|conn| conn.shard == shard)
            .collect();
        let count = |reason| {
            conns
                .iter()
                .filter(|conn| conn.reason == Some(reason))
                .count() as u64
        };
        let pairs = [
            (CloseReason::OutboxFull, counters.closed_outbox_full),
            (CloseReason::OutboxesFull, counters.closed_outboxes_full),
            (CloseReason::InputsFull, counters.closed_inputs_full),
            (CloseReason::Protocol, counters.closed_protocol),
            (CloseReason::AuthTimeout, counters.closed_guest_timeout),
            (CloseReason::Killed, counters.closed_killed),
            (
                CloseReason::TooManyConnections,
                counters.connections_refused,
            ),
        ];
        for (reason, counted) in pairs {
            if counted != count(reason) {
                return fail(
                    "counters",
                    format!(
                        "shard {shard}: {counted} closed for {reason:?}, seen {}",
                        count(reason)
                    ),
                );
            }
        }
        if counters.connections_accepted != conns.len() as u64 {
            return fail(
                "counters",
                format!("shard {shard}: {} accepted", counters.connections_accepted),
            );
        }
        Ok(())
    }

    /// After everybody has left: nothing is kept.
    pub(crate) fn check_emptiness(&mut self) -> Result<(), Failure> {
        self.check_counters()?;
        self.coverage
            .count("events kept for exec", self.model.kept_for_exec);
        for conn in self.model.conns.iter().flatten() {
            let seen = conn.stream.seen;
            self.coverage
                .count("gap between kept events", seen.gaps_between);
            self.coverage
                .count("gap behind an answer", seen.gaps_behind_answers);
            self.coverage.count("shared bodies lost", seen.shared_lost);
        }
        for shard in 0..self.nodes.len() {
            let counters = self.nodes[shard].core().counters();
            let left = [
                ("connections", counters.connections),
                ("subscriptions", counters.subscriptions),
                ("filters", counters.filters),
                ("outbox_bytes", counters.outbox_bytes),
                ("shared_body_bytes", counters.shared_body_bytes),
                ("input_bytes", counters.input_bytes),
                ("backlog", counters.handover_backlog_bytes),
            ];
            if let Some((name, count)) = left.into_iter().find(|&(_, count)| count > 0) {
                return fail(
                    "emptiness",
                    format!("shard {shard} has {name} {count} after all have left"),
                );
            }
            let globs = self
                .model
                .active(shard)
                .iter()
                .filter(|filter| filter.0 == FilterKind::Glob)
                .count();
            assert_eq!(globs, 0, "the model has globs left");
            self.coverage.count("barrier waits", counters.barriers);
            self.coverage
                .count("publishers stalled", counters.stalled_publishers);
            self.coverage
                .count("readers stalled", counters.stalled_readers);
            self.coverage.count(
                "publishers stalled for subscribers",
                counters.stalled_for_subscribers,
            );
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.chars().take(400).collect()
}
