//! Clients of protocols in which a server asks the silent whether they are there, or has something to do from time to time.
//!
//! Each is looked at after the same time, again and again while it is open. Start at
//! [`Shard::ping_silent`] and [`Shard::look_at_web`].

use crate::command::{ClientId, CloseReason, ConnId, Now};
use crate::limits::{WEB_LOOK_MS, WEB_LOOK_STEP_MS};
use crate::session::Session;
use crate::{Outputs, Shard};

impl Shard {
    /// Asks those who have been silent, and closes those who have not answered.
    pub(crate) fn ping_silent(&mut self, now: Now, outputs: &mut Outputs) {
        let every_ns = self.settings.limits.ping_ms * 1_000_000;
        while let Some((conn, client)) = self.pings.take_due(now.monotonic_ns, &self.connections) {
            // It stays in the list, closing or not, until it is gone.
            self.pings.add(now.monotonic_ns + every_ns, conn, client);
            let Some(connection) = &mut self.connections[conn.slot()] else {
                continue;
            };
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

    /// Puts a connection of the web among those that are looked at; many at once, so that a shard with thousands of them
    /// is seldom woken.
    pub(crate) fn look_later(&mut self, conn: ConnId, client: ClientId, now: Now) {
        let step_ns = WEB_LOOK_STEP_MS * 1_000_000;
        let due_ns = now.monotonic_ns + WEB_LOOK_MS * 1_000_000;
        let due_ns = due_ns.div_ceil(step_ns) * step_ns;
        self.looks.add(due_ns, conn, client);
    }

    /// Looks at connections of the web: heartbeats, pings, and ends of those that are too slow.
    pub(crate) fn look_at_web(&mut self, now: Now, outputs: &mut Outputs) {
        while let Some((conn, client)) = self.looks.take_due(now.monotonic_ns, &self.connections) {
            self.look_later(conn, client, now);
            let Some(connection) = &mut self.connections[conn.slot()] else {
                continue;
            };
            let Session::Web(session) = &mut connection.session else {
                continue;
            };
            if connection.closing || connection.holds.any() {
                continue;
            }
            let active_ns = connection.active_ns;
            let reason = session.look(active_ns, now, &self.settings, conn, &mut self.outboxes);
            if let Some(reason) = reason {
                session.say_why(reason, conn, &mut self.outboxes);
                self.begin_close(conn, reason, outputs);
            }
        }
    }

    /// Tells the WebSockets that the node ends, in their own words, and closes them.
    pub(crate) fn close_sockets(&mut self, outputs: &mut Outputs) {
        for slot in 0..self.connections.len() {
            let conn = ConnId(slot as u32);
            let Some(Some(connection)) = self.connections.get(slot) else {
                continue;
            };
            let is_socket =
                matches!(&connection.session, Session::Web(web) if web.is_closed_early());
            if is_socket && !connection.closing {
                let session = &connection.session;
                session.say_why(CloseReason::Ending, conn, &mut self.outboxes);
                self.begin_close(conn, CloseReason::Ending, outputs);
            }
        }
    }
}
