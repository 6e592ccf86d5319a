//! Connections that have yet to be let in, and their time for it.
//!
//! Invariant: a connection stands in the list at most once. Start at [`Shard::await_guest`].

use crate::command::{CloseReason, ConnId, Now};
use crate::limits::NODE_GUEST_MS_MAX;
use crate::session::Session;
use crate::{Connection, Outputs, Shard};

impl Shard {
    /// Gives a connection that RESET made a guest its time again.
    pub(crate) fn await_if_guest(&mut self, connection: &mut Connection, conn: ConnId, now: Now) {
        if connection.session.take_became_guest() {
            self.await_guest(connection, conn, now);
        }
    }

    /// Gives a connection that has to authenticate its time for it.
    pub(crate) fn await_guest(&mut self, connection: &mut Connection, conn: ConnId, now: Now) {
        let guest_ms = match connection.session {
            Session::Node(_) => self.settings.limits.guest_ms_max.min(NODE_GUEST_MS_MAX),
            _ => self.settings.limits.guest_ms_max,
        };
        let until_ns = now.monotonic_ns + guest_ms * 1_000_000;
        connection.guest_until_ns = until_ns;
        // At most once in the list, so that nobody makes it grow by coming and going.
        if !std::mem::replace(&mut connection.guest_listed, true) {
            self.guests.add(until_ns, conn, connection.client);
        }
    }

    pub(crate) fn end_guests(&mut self, now: Now, outputs: &mut Outputs) {
        while let Some((conn, client)) = self.guests.take_due(now.monotonic_ns, &self.connections) {
            let Some(connection) = &mut self.connections[conn.slot()] else {
                continue;
            };
            connection.guest_listed = false;
            let until_ns = connection.guest_until_ns;
            // Who is being closed was told why, and reads nothing more behind that.
            if !connection.session.is_guest() || connection.closing {
                continue;
            }
            if until_ns <= now.monotonic_ns {
                let reason = CloseReason::GuestTimeout;
                connection.session.say_why(reason, conn, &mut self.outboxes);
                self.begin_close(conn, reason, outputs);
            } else {
                // It was let in and became a guest again, by RESET.
                connection.guest_listed = true;
                self.guests.add(until_ns, conn, client);
            }
        }
    }
}
