//! What NATS clients are told of other nodes: where else they can connect (`connect_urls` of INFO).
//!
//! Each node has the address of its NATS listener among its names, so all nodes know them as they know names. INFO holds
//! some when a client connects; when they change, it is sent again to clients that take it at any time, some in each
//! turn and at most once a second. Start at [`Shard::tell_connect_urls`].

use super::Shard;
use crate::command::{ConnId, Now};
use crate::limits::{CONNECT_URLS_MAX, CONNECT_URLS_MS, PLACES_TOLD_AT_ONCE};
use crate::settings::ConnectUrls;

/// How far clients have been told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// The place of the next connection that is told; `None` if all have been.
    next: Option<ConnId>,
    /// From when on a change may be told, by the monotonic clock.
    due_ns: u64,
}

impl Telling {
    /// Whether there is more to tell in the next turn.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_some()
    }
}

impl Shard {
    /// Tells the next clients, or begins with the first if the addresses have changed.
    pub(super) fn tell_connect_urls(&mut self, now: Now) {
        if self.has_new_urls() && now.monotonic_ns >= self.telling.due_ns {
            self.settings.connect_urls = ConnectUrls {
                list: self.broker.nats_addresses(CONNECT_URLS_MAX),
                version: self.broker.nats_addresses_version(),
            };
            self.telling = Telling {
                next: Some(ConnId(0)),
                due_ns: now.monotonic_ns + CONNECT_URLS_MS * 1_000_000,
            };
        }
        let Some(from) = self.telling.next else {
            return;
        };
        let (places, next) = self.connections.places_from(from, PLACES_TOLD_AT_ONCE);
        self.telling.next = next;
        for conn in places {
            if let Some(connection) = self.connections.get_mut(conn)
                && !connection.closing
            {
                let identity = connection.identity();
                let (settings, outboxes) = (&self.settings, &mut self.outboxes);
                connection
                    .session
                    .tell_urls(settings, identity, conn, outboxes);
            }
        }
    }

    /// When a change of the addresses may be told.
    pub(super) fn next_urls_deadline(&self) -> Option<u64> {
        self.has_new_urls().then_some(self.telling.due_ns)
    }

    fn has_new_urls(&self) -> bool {
        self.settings.connect_urls.version != self.broker.nats_addresses_version()
    }
}
