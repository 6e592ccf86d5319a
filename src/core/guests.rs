//! Connections that have yet to be let in, and their time for it.
//!
//! Invariant: a connection stands in the list at most once, and the list never holds more than
//! twice the connections that are open. Start at [`Shard::await_guest`].

use crate::command::{CloseReason, ConnId, Now};
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
        let until_ns = now.monotonic_ns + self.settings.limits.guest_ms_max * 1_000_000;
        connection.guest_until_ns = until_ns;
        // At most once in the list, so that nobody makes it grow by coming and going.
        if !std::mem::replace(&mut connection.guest_listed, true) {
            self.guests.push_back((until_ns, conn, connection.client));
        }
    }

    /// Keeps the list of guests below twice the open connections that stand in it, however many
    /// come and go. Cost: the list, once half of it has gone; so little for each that goes.
    pub(crate) fn forget_guests_gone(&mut self) {
        if self.guests_gone * 2 <= self.guests.len() {
            return;
        }
        let connections = &self.connections;
        self.guests.retain(|&(_, conn, client)| {
            let there = connections[conn.slot()].as_ref();
            there.is_some_and(|there| there.client == client)
        });
        self.guests_gone = 0;
    }

    pub(crate) fn end_guests(&mut self, now: Now, outputs: &mut Outputs) {
        while let Some(&(deadline, conn, client)) = self.guests.front() {
            if deadline > now.monotonic_ns {
                break;
            }
            self.guests.pop_front();
            let connection = self.connections.get_mut(conn.slot());
            let connection = connection.and_then(Option::as_mut);
            let Some(connection) = connection.filter(|there| there.client == client) else {
                self.guests_gone -= 1;
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
                let place = self
                    .guests
                    .partition_point(|&(other, ..)| other <= until_ns);
                self.guests.insert(place, (until_ns, conn, client));
            }
        }
    }
}
