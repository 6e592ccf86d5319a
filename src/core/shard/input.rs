//! Hands the input of connections to their sessions.
//!
//! Owns the order of the steps around a session's turn, and the count of input that is kept. Start at
//! [`Shard::handle_bytes`].

use super::{Shard, split};
use crate::command::{CloseReason, ConnId, Now};
use crate::connection::Connection;
use crate::context::{SessionStep, Then};
use crate::delivery::Source;
use crate::input::{Handled, Next, Outputs};
use crate::limits;

impl Shard {
    pub(crate) fn handle_bytes(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Now,
        outputs: &mut Outputs,
    ) -> Handled {
        let Some(mut connection) = self.connections.take(conn) else {
            return Handled::DONE;
        };
        if connection.closing {
            self.connections.put(conn, connection);
            return Handled {
                consumed: bytes.len(),
                next: Next::Done,
            };
        }
        if self.outboxes.is_owed(conn) {
            connection.blocked.deliveries = true;
            self.connections.put(conn, connection);
            return Handled {
                consumed: 0,
                next: Next::Hold,
            };
        }
        connection.active_ns = now.monotonic_ns;
        self.delivery.put_off.source = Some(Source::Conn(conn));
        // Its own events come where it published them, even inside a reply.
        self.outboxes.end_deferring(conn);
        let (session, mut cx) = split(self, &mut connection, conn, now);
        let SessionStep { consumed, then } = session.handle(bytes, &mut cx);
        cx.settle();
        let has_put_off = self.delivery.put_off.waits(Source::Conn(conn));
        connection.blocked.deliveries = has_put_off;
        let rest = bytes.len() - consumed;
        let expected = match then {
            Then::Read { needed } if rest > 0 => needed.min(2 * rest + limits::INPUT_STEP_BYTES),
            _ => rest,
        };
        self.note_kept(&mut connection, expected);
        self.tell_of_guesses(outputs);
        let is_held = connection.blocked.any();
        let has_calls = connection.calls_waiting > 0;
        self.keep_output_back(&connection, conn);
        self.liveness
            .renew_auth_deadline(&mut connection, conn, now, &self.settings);
        self.connections.put(conn, connection);
        let mut next = match then {
            // At the barrier, further input is handled in the same call only if it needs no other shard. Everything is
            // written at the end of the turn; a held connection adds nothing before that.
            Then::Read { .. } | Then::Flush if is_held => Next::Hold,
            Then::Yield if has_put_off => Next::Hold,
            Then::Read { .. } if rest > 0 => Next::Read { needed: expected },
            then => self.follow(conn, then, outputs),
        };
        if has_calls {
            // Other shards may answer within this turn.
            self.run_calls(now, outputs);
        }
        if self.is_over_input_cap() {
            self.outboxes.kill(conn);
            self.begin_close(conn, CloseReason::InputsFull, outputs);
            next = Next::Done;
        }
        Handled { consumed, next }
    }

    /// Carries out the next step of a session.
    fn follow(&mut self, conn: ConnId, then: Then, outputs: &mut Outputs) -> Next {
        match then {
            Then::Read { needed } => Next::Read { needed },
            Then::Flush | Then::Yield => Next::Flush,
            Then::Hold => {
                self.note_stalled(conn);
                Next::Hold
            }
            Then::Move(shard) => {
                outputs.moving.push((conn, shard));
                Next::Hold
            }
            Then::Close(reason) => {
                self.begin_close(conn, reason, outputs);
                Next::Done
            }
        }
    }

    /// Keeps back output that must not be written yet: events during a reply, and everything at the barrier.
    fn keep_output_back(&mut self, connection: &Connection, conn: ConnId) {
        match connection.session.is_replying() {
            true => self.outboxes.defer(conn),
            false => self.outboxes.append_deferred(conn),
        }
        if connection.blocked.barrier.is_some() {
            self.outboxes.hold(conn);
        }
    }

    /// Counts the input that is kept of a connection, and what may come before it is offered again.
    fn note_kept(&mut self, connection: &mut Connection, expected: usize) {
        let kept = expected + connection.session.kept_bytes();
        self.counters.input_bytes -= connection.kept_bytes as u64;
        self.counters.input_bytes += kept as u64;
        connection.kept_bytes = kept;
    }

    fn is_over_input_cap(&self) -> bool {
        self.counters.input_bytes > self.settings.limits.inputs_bytes_max as u64
    }

    fn note_stalled(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        if let Some(shard) = connection.blocked.room {
            self.stalled[shard.index()].push((conn, connection.client));
        }
    }
}
