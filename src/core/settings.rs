//! Settings of a shard, the same for all its connections.
//!
//! Start at [`Settings::is_let_in`].

use crate::command::{ClientId, ShardId};
use crate::limits::Limits;
use core::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory and CPU use of the node's process, as its driver last measured them; 0 before that.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Resident memory, in bytes.
    pub memory_bytes: AtomicU64,
    /// CPU use since the measurement before, in thousandths of one CPU.
    pub cpu_permille: AtomicU64,
    /// CPU time in user mode since the start, in microseconds.
    pub cpu_user_us: AtomicU64,
    /// CPU time in the kernel since the start, in microseconds.
    pub cpu_system_us: AtomicU64,
}

/// Connections of the whole node: how many there are, and how many the machine allows, which may be fewer than the caps of
/// the shards together.
#[derive(Debug)]
pub struct Capacity {
    connections_max: u64,
    connections: AtomicU64,
}

impl Default for Capacity {
    /// As many as the shards' caps allow.
    fn default() -> Capacity {
        Capacity::of(u64::MAX)
    }
}

impl Capacity {
    /// Of a machine that allows so many connections.
    pub fn of(connections_max: u64) -> Capacity {
        Capacity {
            connections_max,
            connections: AtomicU64::new(0),
        }
    }

    /// Whether there is room for another connection, if `kept` of those that are open do not count.
    pub(crate) fn has_room(&self, kept: u64) -> bool {
        let connections = self.connections.load(Ordering::Relaxed);
        connections < self.connections_max.saturating_add(kept)
    }

    pub(crate) fn note_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Settings of HTTP and WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebSettings {
    /// Origins whose scripts may use the broker, besides that of its own page, such as `https://example.org`; `*` is
    /// any.
    pub origins: Vec<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Files of the page at `/`.
    pub page: &'static [Asset],
}

/// A static file that is served over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// The path it is served at, from `/` on.
    pub path: &'static str,
    /// The value of `Content-Type`.
    pub media_type: &'static str,
    /// Its contents.
    pub bytes: &'static [u8],
}

/// The addresses of other nodes that NATS clients are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectUrls {
    pub list: Vec<String>,
    /// Number of the changes up to these.
    pub version: u64,
}

/// Settings of a shard, the same for all its connections.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub shard: ShardId,
    pub shards: u16,
    /// Number of state workers; 0 if the node keeps nothing.
    pub workers: u16,
    /// Number of partitions of what it keeps.
    pub partitions: u16,
    pub user: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub nats_payload_max: usize,
    pub web: WebSettings,
    pub may_broadcast: bool,
    pub connect_urls: ConnectUrls,
    pub vitals: Arc<Vitals>,
    /// The node has announced its shutdown.
    pub is_ending: bool,
    pub run_id: String,
    pub process_id: u32,
    pub started_wall_ms: u64,
    pub capacity: Arc<Capacity>,
    pub limits: Limits,
}

/// Name of the only user if none is configured.
const USER: &[u8] = b"default";

impl Settings {
    /// The name of the only user.
    pub(crate) fn user(&self) -> &[u8] {
        self.user.as_deref().unwrap_or(USER)
    }

    /// Most connections of the node: as many as its shards may have, and as the machine allows.
    pub(crate) fn connections_max(&self) -> u64 {
        let most = self.limits.connections_max as u64 * u64::from(self.shards);
        most.min(self.capacity.connections_max)
    }

    pub(crate) fn is_user(&self, name: &[u8]) -> bool {
        name == self.user()
    }

    /// Whether a client with this user and password is let in. Without a user, the password alone decides.
    pub(crate) fn is_let_in(&self, user: Option<&[u8]>, given: Option<&[u8]>) -> bool {
        let Some(password) = &self.password else {
            return true;
        };
        let is_user = user.is_none_or(|user| self.is_user(user));
        given.is_some_and(|given| is_equal(given, password)) && is_user
    }
}

/// Identity of a connection, as far as it does not come from its protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub client: ClientId,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// Compares passwords so that the time shows their lengths, but not where they differ.
pub(crate) fn is_equal(given: &[u8], wanted: &[u8]) -> bool {
    let pairs = given.iter().zip(wanted);
    let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
    given.len() == wanted.len() && difference == 0
}
