//! Clients of protocols in which a server asks the silent whether they are there.
//!
//! Each is looked at after the same time, again and again while it is open. Start at
//! [`Shard::ping_silent`].

use crate::command::{CloseReason, Now};
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
}
