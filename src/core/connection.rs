//! The connections of a shard, each at the place that its driver gave it.
//!
//! Owns what a shard keeps for a connection besides its output ([`Outboxes`](crate::outbox::Outboxes)) and its
//! subscriptions ([`Broker`](crate::routing::broker::Broker)). Start at [`Connections::get_mut`].

use crate::command::{ClientId, ConnId, Volume};
use crate::context::Blocked;
use crate::session::Session;
use crate::settings::Identity;
use core::net::SocketAddr;

/// State of one connection, except its output and subscriptions.
#[derive(Debug)]
pub(crate) struct Connection {
    pub client: ClientId,
    pub session: Session,
    pub blocked: Blocked,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub opened_ns: u64,
    pub active_ns: u64,
    /// What the client has published.
    pub published: Volume,
    /// Calls that are not answered.
    pub calls_waiting: u32,
    /// Bytes of unfinished input that count for it against the shard's cap.
    pub kept_bytes: usize,
    /// Deadline for authentication, by the monotonic clock; meaningless once authenticated.
    pub auth_deadline_ns: u64,
    /// It is listed among the authentication deadlines, perhaps authenticated since.
    pub in_auth_deadlines: bool,
    /// Its next password has waited for those of its address that were wrong.
    pub has_waited: bool,
    /// It was named in `Outputs::closing`: its input is not handled any more.
    pub closing: bool,
    /// It killed itself (CLIENT KILL): it is closed once that call is answered.
    pub kills_itself: bool,
}

impl Connection {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            client: self.client,
            peer: self.peer,
            local: self.local,
        }
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Box<Connection>>>,
}

impl Connections {
    /// The connection at a place, if there is one.
    pub(crate) fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.slots.get(conn.slot())?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.slots.get_mut(conn.slot())?.as_deref_mut()
    }

    /// The connection at a place, if it is still this client's.
    pub(crate) fn of_client(&mut self, conn: ConnId, client: ClientId) -> Option<&mut Connection> {
        self.get_mut(conn).filter(|there| there.client == client)
    }

    /// Whether a client's connection is still open.
    pub(crate) fn is_there(&self, conn: ConnId, client: ClientId) -> bool {
        self.get(conn).is_some_and(|there| there.client == client)
    }

    /// Takes a connection out of its place; [`put`](Connections::put) brings it back.
    pub(crate) fn take(&mut self, conn: ConnId) -> Option<Box<Connection>> {
        self.slots.get_mut(conn.slot())?.take()
    }

    /// Puts a connection at a place, which must be free.
    pub(crate) fn put(&mut self, conn: ConnId, connection: Box<Connection>) {
        if self.slots.len() <= conn.slot() {
            self.slots.resize_with(conn.slot() + 1, || None);
        }
        let slot = &mut self.slots[conn.slot()];
        assert!(slot.is_none(), "the place of {conn:?} is taken");
        *slot = Some(connection);
    }

    /// All places up to the last that was ever taken; some may be free.
    pub(crate) fn places(&self) -> impl Iterator<Item = ConnId> + use<> {
        (0..self.slots.len() as u32).map(ConnId)
    }

    /// The next `count` places from `from` on, and where the rest begins.
    pub(crate) fn places_from(
        &self,
        from: ConnId,
        count: usize,
    ) -> (impl Iterator<Item = ConnId> + use<>, Option<ConnId>) {
        let end = (from.slot() + count).min(self.slots.len());
        let next = (end < self.slots.len()).then_some(ConnId(end as u32));
        ((from.slot()..end).map(|slot| ConnId(slot as u32)), next)
    }

    /// The open connections, with their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        let places = self.slots.iter().enumerate();
        places.filter_map(|(slot, there)| Some((ConnId(slot as u32), there.as_deref()?)))
    }
}
