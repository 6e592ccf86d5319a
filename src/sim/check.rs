//! The checks: what clients read against what they are owed, caps, closings, and what is left.
//!
//! Bounds are stated where they are checked. Start at [`World::check_read`].

use crate::command::KillForm;
use crate::driver::Phase;
use crate::expect::{Match, Owed, What};
use crate::model::Conn;
use crate::reader::Value;
use crate::world::World;
use crate::{Failure, fail};
use sapwood_core::command::{CloseReason, ConnId, FilterKind};
use std::collections::BTreeSet;

/// The largest event that clients publish, as a frame: payload, topic, glob and heads.
const FRAME_BYTES_MAX: usize = 41_500;

/// Output that may gather before the shard writes, as the limits say.
const UNFLUSHED_BYTES_MAX: usize = 1024 * 1024;

impl World {
    /// Compares what a client has read with what it is owed.
    pub(crate) fn check_read(&mut self, key: usize) -> Result<(), Failure> {
        loop {
            let conn = self.model.conn(key);
            let is_head = conn
                .owed
                .front()
                .is_some_and(|owed| matches!(owed.what, What::ExecHead(_)));
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

    fn take_value(&mut self, key: usize, value: &Value) -> Result<(), Failure> {
        let conn = self.model.conn(key);
        let mut place = 0;
        let mut found = Match::No;
        let mut copy = None;
        if let Some(owed) = conn.owed.front_mut() {
            copy = Some(owed.clone());
            found = owed.take(value);
            let floats = owed.floats && !owed.inside;
            if found == Match::No
                && floats
                && let Some(owed) = conn.owed.get_mut(1)
            {
                // The answer of all shards may come later, but only events before it.
                if matches!(owed.what, What::Event(..)) {
                    copy = Some(owed.clone());
                    found = owed.take(value);
                    place = 1;
                }
            }
        }
        let Some(owed) = copy.filter(|_| found != Match::No) else {
            let owed = conn.owed.front().map(|owed| shown(&format!("{owed:?}")));
            let text = format!(
                "client {key} of shard {} read {}, owed is {owed:?}",
                conn.shard,
                shown(&format!("{value:?}"))
            );
            return fail("stream", text);
        };
        if found == Match::Whole {
            conn.owed.remove(place);
        }
        self.note_exec(key, &owed)?;
        self.taken(key, &owed, value)
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
    fn check_clients(&self, key: usize, asked: u64, text: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix("txt:").unwrap_or(&text);
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
        let (name, is_right) = match reason {
            CloseReason::Quit => ("closed: quit", conn.reason == Some(CloseReason::Quit)),
            CloseReason::Protocol => ("closed: protocol", conn.garbage),
            CloseReason::GuestTimeout => {
                let is_late = now_ns >= conn.guest_ns + guest_ns;
                ("closed: guest timeout", is_late && !conn.authenticated)
            }
            CloseReason::OutboxFull => ("closed: outbox full", blocked),
            CloseReason::OutboxesFull => ("closed: outboxes full", blocked),
            CloseReason::InputsFull => ("closed: inputs full", true),
            CloseReason::Killed => ("closed: killed", true),
            CloseReason::TooManyConnections => ("closed: too many", true),
        };
        self.coverage.hit(name);
        if !is_right {
            return fail("closing", format!("client {key} was closed: {reason:?}"));
        }
        match reason {
            CloseReason::Protocol => self.model.broke_protocol(key),
            CloseReason::TooManyConnections => {
                let conn = self.model.conn(key);
                let shard = conn.shard;
                let count = self.model.shards[shard].open.len();
                self.model.refused(key);
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
    pub(crate) fn check_input(&mut self, shard: usize) -> Result<(), Failure> {
        let bytes = self.nodes[shard].core.counters().input_bytes;
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
    /// at most the backlog and one event more.
    pub(crate) fn check_window(&mut self, shard: usize, to: usize) -> Result<(), Failure> {
        let in_flight = &self.nodes[shard].in_flight[to];
        let data: Vec<usize> = in_flight
            .iter()
            .copied()
            .filter(|&bytes| bytes > 0)
            .collect();
        let bytes: usize = data.iter().sum();
        let alone = self.limits.handover_backlog_bytes + FRAME_BYTES_MAX;
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

    /// The other caps, after a turn.
    pub(crate) fn check_caps(&mut self, shard: usize) -> Result<(), Failure> {
        let node = &self.nodes[shard];
        let counters = node.core.counters();
        // Before a backlog is full, one event may go in, whatever its size; a head has 8 bytes.
        let backlog =
            (self.nodes.len() - 1) * (self.limits.handover_backlog_bytes + FRAME_BYTES_MAX);
        if counters.handover_backlog_bytes > backlog as u64 {
            let text = format!(
                "{} bytes wait for other shards, {backlog} may",
                counters.handover_backlog_bytes
            );
            return fail("backlog", text);
        }
        // What the driver keeps must be what core knows of: its cap is for memory that is there.
        let kept: usize = node
            .sockets
            .iter()
            .flatten()
            .map(|socket| socket.input.len())
            .sum();
        if kept > self.limits.inputs_bytes_max {
            return fail(
                "inputs kept",
                format!("shard {shard} keeps {kept} bytes of input"),
            );
        }
        if counters.shared_body_bytes > 0 {
            self.coverage.hit("shared bodies");
        }
        // The longest reply, CLIENT LIST, goes over the cap as a whole: about 250 bytes a client.
        let reply_max = 2_000 + 300 * self.clients.len();
        let cap = self.limits.outbox_bytes_max;
        let mut blocked_bytes = 0;
        for (slot, socket) in node.sockets.iter().enumerate() {
            let Some(socket) = socket else { continue };
            let bytes: usize = node.core.output(ConnId(slot as u32)).map(<[u8]>::len).sum();
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
            if bytes > cap.max(before) + reply_max
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
        for (key, client) in self.clients.iter().enumerate() {
            let Some(Some(conn)) = self.model.conns.get(key) else {
                continue;
            };
            if client.link.end != crate::client::End::Open {
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
            // Who is killed by another is not told what it was waiting for.
            let was_killed =
                conn.reason == Some(CloseReason::Killed) && self.model.hunted.contains(&key);
            let is_unanswered = |owed: &Owed| owed.floats && was_killed;
            // Nor of what was to follow the array that the answer belongs to.
            let mut owed = conn.owed.iter();
            let mut owed = owed
                .by_ref()
                .take_while(|owed| !(is_unanswered(owed) && owed.inside));
            if !owed.all(is_unanswered) && !self.cut[key] {
                let owed = shown(&format!("{:?}", conn.owed[0]));
                let text = format!(
                    "client {key} of shard {}, {:?}, never read {} things, first {owed}",
                    conn.shard,
                    conn.reason,
                    conn.owed.len()
                );
                return fail("lost", text);
            }
        }
        self.check_counters()
    }

    fn check_counters(&mut self) -> Result<(), Failure> {
        for (shard, node) in self.nodes.iter().enumerate() {
            let counters = node.core.counters();
            let model = &self.model.shards[shard];
            let delivered_is_right = match model.inexact {
                true => counters.events_delivered <= model.delivered,
                false => counters.events_delivered == model.delivered,
            };
            let subscriptions: u64 = model.table.values().sum();
            let filters = self.model.active(shard).len() as u64;
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
                        "shard {shard}: {} delivered, not {}",
                        counters.events_delivered, model.delivered
                    ),
                );
            }
            self.check_closed(shard)?;
        }
        Ok(())
    }

    /// Closings are counted by their reason.
    fn check_closed(&self, shard: usize) -> Result<(), Failure> {
        let counters = self.nodes[shard].core.counters();
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
            (CloseReason::GuestTimeout, counters.closed_guest_timeout),
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
        for shard in 0..self.nodes.len() {
            let counters = self.nodes[shard].core.counters();
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
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.chars().take(400).collect()
}
