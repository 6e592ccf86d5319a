//! Clients of protocols in which a server asks the silent whether they are there.
//!
//! Owns when each is looked at next: all after the same time, so that the list is in order by itself.
//! Invariant: each such connection stands in the list once, and the list never holds more than
//! twice those that are open. Start at [`Shard::ping_silent`].

use crate::command::{ClientId, CloseReason, ConnId, Now};
use crate::session::Session;
use crate::{Outputs, Shard};
use std::collections::VecDeque;

/// When each client is looked at next; the first is next.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    due: VecDeque<(u64, ConnId, ClientId)>,
    /// How many of them have left.
    gone: usize,
}

impl Pings {
    /// When the next is due, by the monotonic clock.
    pub(crate) fn first(&self) -> Option<u64> {
        self.due.front().map(|&(due_ns, ..)| due_ns)
    }

    /// Adds one that is due no earlier than all others.
    pub(crate) fn push(&mut self, due_ns: u64, conn: ConnId, client: ClientId) {
        self.due.push_back((due_ns, conn, client));
    }
}

impl Shard {
    /// Takes note that one of those connections is gone. Cost: the list, once half of it has gone.
    pub(crate) fn forget_ping(&mut self) {
        self.pings.gone += 1;
        if self.pings.gone * 2 <= self.pings.due.len() {
            return;
        }
        let connections = &self.connections;
        self.pings.due.retain(|&(_, conn, client)| {
            let there = connections[conn.slot()].as_ref();
            there.is_some_and(|there| there.client == client)
        });
        self.pings.gone = 0;
    }

    /// Asks those who have been silent, and closes those who have not answered.
    pub(crate) fn ping_silent(&mut self, now: Now, outputs: &mut Outputs) {
        let every_ns = self.settings.limits.ping_ms * 1_000_000;
        while self
            .pings
            .first()
            .is_some_and(|due_ns| due_ns <= now.monotonic_ns)
        {
            let Some((_, conn, client)) = self.pings.due.pop_front() else {
                return;
            };
            let connection = self.connections.get_mut(conn.slot());
            let connection = connection.and_then(Option::as_mut);
            let Some(connection) = connection.filter(|there| there.client == client) else {
                self.pings.gone -= 1;
                continue;
            };
            // It stays in the list, closing or not, until it is gone.
            self.pings.push(now.monotonic_ns + every_ns, conn, client);
            let is_silent = connection.active_ns + every_ns <= now.monotonic_ns;
            let Session::Nats(session) = &mut connection.session else {
                continue;
            };
            if connection.closing || !is_silent || session.ping(conn, &mut self.outboxes) {
                continue;
            }
            session.say_why(CloseReason::Stale, conn, &mut self.outboxes);
            self.begin_close(conn, CloseReason::Stale, outputs);
        }
    }
}
