//! Timers of connections: authentication deadlines, pings of NATS clients, and heartbeats and timeouts of web
//! connections.
//!
//! Owns when each is due. Must not know how a connection is closed: it says which are to be closed, and why. Start at
//! [`Liveness::poll_overdue`].

mod deadlines;

use crate::command::{ClientId, CloseReason, ConnId, Now};
use crate::connection::{Connection, Connections};
use crate::limits::{NODE_GUEST_MS_MAX, WEB_LOOK_MS, WEB_LOOK_STEP_MS};
use crate::outbox::Outboxes;
use crate::session::Session;
use crate::settings::Settings;
use deadlines::Deadlines;

/// Due times of connections.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    /// When each connection must have authenticated, or is looked at again.
    auth_deadlines: Deadlines,
    /// When each NATS client is pinged next, if it is silent.
    pings: Deadlines,
    /// When each web connection is looked at next.
    web_timers: Deadlines,
}

impl Liveness {
    /// The first due time, by the monotonic clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let lists = [&self.auth_deadlines, &self.pings, &self.web_timers];
        lists.into_iter().filter_map(Deadlines::first).min()
    }

    /// Starts the timers of a new connection.
    pub(crate) fn opened(
        &mut self,
        connection: &mut Connection,
        conn: ConnId,
        now: Now,
        settings: &Settings,
    ) {
        if connection.session.awaits_auth() && !connection.closing {
            self.set_auth_deadline(connection, conn, now, settings);
        }
        match connection.session {
            Session::Nats(_) => {
                let due_ns = now.monotonic_ns + settings.limits.ping_ms * 1_000_000;
                self.pings.add(due_ns, conn, connection.client);
            }
            Session::Web(_) => self.set_web_timer(conn, connection.client, now),
            Session::Redis(_) | Session::Native(_) | Session::Node(_) => {}
        }
    }

    /// Notes that a connection is gone.
    pub(crate) fn closed(&mut self, connection: &Connection, connections: &Connections) {
        if connection.in_auth_deadlines {
            self.auth_deadlines.note_gone(connections);
        }
        match connection.session {
            Session::Nats(_) => self.pings.note_gone(connections),
            Session::Web(_) => self.web_timers.note_gone(connections),
            Session::Redis(_) | Session::Native(_) | Session::Node(_) => {}
        }
    }

    /// Sets a new authentication deadline for a connection that must authenticate again, as after RESET.
    pub(crate) fn renew_auth_deadline(
        &mut self,
        connection: &mut Connection,
        conn: ConnId,
        now: Now,
        settings: &Settings,
    ) {
        if connection.session.take_needs_auth() {
            self.set_auth_deadline(connection, conn, now, settings);
        }
    }

    fn set_auth_deadline(
        &mut self,
        connection: &mut Connection,
        conn: ConnId,
        now: Now,
        settings: &Settings,
    ) {
        let most_ms = match connection.session {
            Session::Node(_) => settings.limits.guest_ms_max.min(NODE_GUEST_MS_MAX),
            _ => settings.limits.guest_ms_max,
        };
        let due_ns = now.monotonic_ns + most_ms * 1_000_000;
        connection.auth_deadline_ns = due_ns;
        // At most one entry for each connection, so that a client cannot make the list grow by RESET.
        if !std::mem::replace(&mut connection.in_auth_deadlines, true) {
            self.auth_deadlines.add(due_ns, conn, connection.client);
        }
    }

    /// Rounds up to a step, so that many are due at once and a shard with thousands of them is seldom woken.
    fn set_web_timer(&mut self, conn: ConnId, client: ClientId, now: Now) {
        let step_ns = WEB_LOOK_STEP_MS * 1_000_000;
        let due_ns = now.monotonic_ns + WEB_LOOK_MS * 1_000_000;
        let due_ns = due_ns.div_ceil(step_ns) * step_ns;
        self.web_timers.add(due_ns, conn, client);
    }

    /// Handles the timers that are due, until a connection is to be closed; its client has been told why. Call it until
    /// it gives none.
    pub(crate) fn poll_overdue(
        &mut self,
        now: Now,
        connections: &mut Connections,
        settings: &Settings,
        outboxes: &mut Outboxes,
    ) -> Option<(ConnId, CloseReason)> {
        let overdue = self.poll_auth_deadlines(now, connections);
        let overdue = overdue.or_else(|| self.poll_pings(now, connections, settings, outboxes));
        let overdue =
            overdue.or_else(|| self.poll_web_timers(now, connections, settings, outboxes));
        let (conn, reason) = overdue?;
        let session = &connections.get(conn)?.session;
        session.say_why(reason, conn, outboxes);
        Some((conn, reason))
    }

    fn poll_auth_deadlines(
        &mut self,
        now: Now,
        connections: &mut Connections,
    ) -> Option<(ConnId, CloseReason)> {
        while let Some((conn, client)) = self.auth_deadlines.take_due(now.monotonic_ns, connections)
        {
            let Some(connection) = connections.get_mut(conn) else {
                continue;
            };
            connection.in_auth_deadlines = false;
            // A closing connection was told why, and nothing may follow that.
            if !connection.session.awaits_auth() || connection.closing {
                continue;
            }
            let due_ns = connection.auth_deadline_ns;
            if due_ns <= now.monotonic_ns {
                return Some((conn, CloseReason::AuthTimeout));
            }
            // It was let in, and must authenticate again after RESET.
            connection.in_auth_deadlines = true;
            self.auth_deadlines.add(due_ns, conn, client);
        }
        None
    }

    /// Pings silent NATS clients, and finds those that left too many pings unanswered.
    fn poll_pings(
        &mut self,
        now: Now,
        connections: &mut Connections,
        settings: &Settings,
        outboxes: &mut Outboxes,
    ) -> Option<(ConnId, CloseReason)> {
        let every_ns = settings.limits.ping_ms * 1_000_000;
        while let Some((conn, client)) = self.pings.take_due(now.monotonic_ns, connections) {
            // It stays in the list until the connection is gone, closing or not.
            self.pings.add(now.monotonic_ns + every_ns, conn, client);
            let Some(connection) = connections.get_mut(conn) else {
                continue;
            };
            let is_silent = connection.active_ns + every_ns <= now.monotonic_ns;
            let Session::Nats(session) = &mut connection.session else {
                continue;
            };
            if !connection.closing && is_silent && !session.ping(conn, outboxes) {
                return Some((conn, CloseReason::Stale));
            }
        }
        None
    }

    /// Sends heartbeats and pings to web connections, and finds those that are late or do not answer.
    fn poll_web_timers(
        &mut self,
        now: Now,
        connections: &mut Connections,
        settings: &Settings,
        outboxes: &mut Outboxes,
    ) -> Option<(ConnId, CloseReason)> {
        while let Some((conn, client)) = self.web_timers.take_due(now.monotonic_ns, connections) {
            self.set_web_timer(conn, client, now);
            let Some(connection) = connections.get_mut(conn) else {
                continue;
            };
            let Session::Web(session) = &mut connection.session else {
                continue;
            };
            if connection.closing || connection.blocked.any() {
                continue;
            }
            let times = (connection.opened_ns, connection.active_ns);
            if let Some(reason) = session.run_timer(times, now, settings, conn, outboxes) {
                return Some((conn, reason));
            }
        }
        None
    }

    #[cfg(test)]
    pub(crate) fn auth_deadlines(&self) -> &Deadlines {
        &self.auth_deadlines
    }
}
