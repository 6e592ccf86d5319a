//! Clients that are behind, and still worth waiting for.
//!
//! Must not know who waits: deliveries that were put off, and publishers. Start at [`Outboxes::take_crowded`].

use super::Outboxes;
use crate::command::ConnId;

impl Outboxes {
    /// The bytes that a client has taken so far, if it is behind with half its cap or more.
    pub(crate) fn taken_while_behind(&self, conn: ConnId) -> Option<u64> {
        let outbox = &self.boxes[conn.slot()];
        let is_behind = outbox.blocked && outbox.length >= self.outbox_bytes_max / 2;
        is_behind.then_some(outbox.written)
    }

    /// The connection that came above half its cap since this was last asked, and is worth waiting for.
    pub(crate) fn take_crowded(&mut self) -> Option<ConnId> {
        self.crowded.take()
    }

    /// The bytes that a client has taken so far, if it came above half its cap, is still above a quarter, and is worth
    /// waiting for.
    pub(crate) fn taken_since_crowded(&self, conn: ConnId) -> Option<u64> {
        let outbox = &self.boxes[conn.slot()];
        let is_behind = outbox.blocked && outbox.length > self.outbox_bytes_max / 4;
        (is_behind && !outbox.is_given_up && !outbox.dead).then_some(outbox.written)
    }

    /// The connection is not waited for until it is below a quarter of its cap.
    pub(crate) fn give_up(&mut self, conn: ConnId) {
        self.boxes[conn.slot()].is_given_up = true;
    }
}
