//! The checks of turns and losses, once all is at rest: what nobody has read must be accounted for.

use crate::check::{FRAME_BYTES_MAX, UNFLUSHED_BYTES_MAX};
use crate::client::End;
use crate::driver::Phase;
use crate::world::World;
use crate::{Failure, fail};
use sapwood_core::Policy;
use sapwood_core::command::ConnId;
use sapwood_core::limits::{CALLS_BEGUN_MAX, OUTBOX_CHUNK_BYTES, RUN_BYTES_MAX};

/// Most bytes of an answer to a client beside what it says of each client.
const REPLY_BYTES_MAX: usize = 2_000;

/// Most bytes of CLIENT LIST for each client.
const RECORD_BYTES_MAX: usize = 300;

impl World {
    /// The longest answer goes over a cap as a whole: that is CLIENT LIST.
    pub(crate) fn reply_max(&self) -> usize {
        REPLY_BYTES_MAX + RECORD_BYTES_MAX * self.clients.len()
    }

    /// All that one connection's output may take. Who was not behind may have gathered what was not
    /// flushed; who is keeps to the cap, beyond which one answer goes, since who is over it gets no
    /// further ones. With `latest` up to half the cap may wait aside in addition, or one event:
    /// each answer puts what waits aside into the stream, and so leaves room aside.
    fn output_bound(&self, policy: Policy) -> usize {
        let cap = self.limits.outbox_bytes_max;
        let aside = match policy {
            Policy::Latest => FRAME_BYTES_MAX.max(cap / 2),
            _ => 0,
        };
        let unflushed = UNFLUSHED_BYTES_MAX + 64 * FRAME_BYTES_MAX;
        cap + unflushed + aside + self.reply_max()
    }

    /// Whether a client may have been given something that it never read.
    fn is_dead(&self, key: usize) -> bool {
        let conn = self.model.conns.get(key).and_then(Option::as_ref);
        self.cut[key]
            || self.clients[key].link.end != End::Open
            || conn.is_none_or(|conn| !conn.open)
    }

    /// The memory of a shard's output, at each step: what stands to be written, of the piece that is
    /// being written all, and what waits aside or is held back.
    pub(crate) fn check_memory(&mut self, shard: usize) -> Result<(), Failure> {
        let node = &self.nodes[shard];
        let cap = self.limits.outbox_bytes_max;
        let mut bound = 0;
        for (slot, socket) in node.sockets.iter().enumerate() {
            let Some(socket) = socket else { continue };
            let Some(Some(conn)) = self.model.conns.get(socket.client) else {
                continue;
            };
            let conn_id = ConnId(slot as u32);
            let visible: usize = node.core().output(conn_id).map(<[u8]>::len).sum();
            if visible > 0 {
                let piece = match conn.stream.policy {
                    Policy::Close => OUTBOX_CHUNK_BYTES,
                    _ => OUTBOX_CHUNK_BYTES.min(cap / 16),
                };
                bound += visible + piece + RUN_BYTES_MAX + FRAME_BYTES_MAX;
            }
            let is_held = socket.held || socket.phase != Phase::Open;
            if is_held || !conn.executing.is_empty() {
                bound += self.output_bound(conn.stream.policy);
            } else if conn.stream.policy == Policy::Latest && socket.blocked.is_some() {
                bound += FRAME_BYTES_MAX.max(cap / 2);
            }
        }
        let counters = node.core().counters();
        let calls = counters.calls_waiting as usize;
        // Of those that have begun, a reply may wait for its end.
        bound += calls.min(CALLS_BEGUN_MAX) * self.output_bound(Policy::Close);
        let bytes = counters.outbox_bytes as usize;
        if bytes > bound {
            let text = format!("shard {shard} keeps {bytes} bytes of output, {bound} may be");
            return fail("outbox memory", text);
        }
        Ok(())
    }

    /// What CLIENT LIST says of one client: the memory of its output is bounded, and once all is at
    /// rest its losses are those that it saw.
    pub(crate) fn check_record(&mut self, key: usize, line: &str) -> Result<(), Failure> {
        let field = |name: &str| -> Option<u64> {
            let mut words = line.split(' ');
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value?.parse().ok()
        };
        let (Some(id), Some(bytes), Some(lost)) = (field("id"), field("omem"), field("lost"))
        else {
            return fail("clients", format!("client {key} read {line}"));
        };
        let other = id as usize - 1;
        let Some(Some(conn)) = self.model.conns.get(other) else {
            return fail("clients", format!("client {key} was told of {other}"));
        };
        let policy = conn.stream.policy;
        let bound = self.output_bound(policy) as u64;
        if bytes > bound {
            let text = format!("client {other}, {policy:?}, has {bytes} bytes, {bound} may be");
            return fail("outbox memory", text);
        }
        if self.audits && !self.is_dead(other) {
            self.coverage.hit("losses listed");
            if lost != conn.stream.lost {
                let seen = conn.stream.lost;
                let text = format!("client {other}, {policy:?}, lost {seen}, listed are {lost}");
                return fail("losses", text);
            }
        }
        Ok(())
    }

    /// Each turn was read by one member, or was lost by a policy, or with its member, or is counted as
    /// one that nobody could take. That none is read twice is seen when it is read.
    pub(crate) fn check_turns(&mut self) -> Result<(), Failure> {
        let of_the_dead = self.model.turns_of_the_dead(|key| self.is_dead(key));
        let untaken: Vec<_> = self.model.turns.untaken().collect();
        let excused = untaken.iter().filter(|id| of_the_dead.contains(id)).count() as u64;
        let conns = self.model.conns.iter().enumerate();
        let dead = conns.filter(|&(key, _)| self.is_dead(key));
        let dead = dead.filter_map(|(_, conn)| conn.as_ref());
        let excused = excused + dead.map(|conn| conn.stream.unsettled_turns()).sum::<u64>();
        let conns = self.model.conns.iter().flatten();
        let lost: u64 = conns.clone().map(|conn| conn.stream.turns_lost).sum();
        let slack: u64 = conns.map(|conn| conn.stream.slack).sum();
        let nodes = self.nodes.iter();
        let unheard: u64 = nodes.map(|node| node.core().counters().turns_unheard).sum();
        let count = untaken.len() as u64;
        if lost + unheard > count + slack || count > lost + unheard + excused + slack {
            let text = format!(
                "{count} turns were not read: {lost} lost by policies, {unheard} unheard, at most {excused} lost with their members"
            );
            return fail("turns", text);
        }
        Ok(())
    }

    /// What clients lost is what the shards count.
    pub(crate) fn check_losses(&mut self) -> Result<(), Failure> {
        for shard in 0..self.nodes.len() {
            let counters = self.nodes[shard].core().counters();
            let pairs = [
                (Policy::DropOldest, counters.events_lost_drop_oldest),
                (Policy::Latest, counters.events_lost_latest),
            ];
            for (policy, counted) in pairs {
                let conns = self.model.conns.iter().enumerate();
                let conns = conns.filter_map(|(key, conn)| Some((key, conn.as_ref()?)));
                let mut conns =
                    conns.filter(|(_, conn)| conn.shard == shard && conn.stream.policy == policy);
                let lost: u64 = conns.clone().map(|(_, conn)| conn.stream.lost).sum();
                // The dead may have lost more than they were told.
                let is_exact =
                    conns.all(|(key, conn)| !self.is_dead(key) || !conn.stream.was_behind);
                if counted < lost || (is_exact && counted > lost) {
                    let text = format!(
                        "shard {shard} counts {counted} events lost by {policy:?}, clients {lost}"
                    );
                    return fail("losses", text);
                }
            }
        }
        Ok(())
    }
}
