//! Interest sync between shards, and the barrier: when a confirmation may be sent.
//!
//! A shard announces the number of members of each of its filters, by numbered changes; the counts are stored in the
//! filters' entries. Owns the sequence numbers, the acknowledgements, and the connections that wait for them. An
//! acknowledgement is queued behind the events sent before it, so a waiting connection has received those too. Must not
//! know protocols. Invariants: changes are numbered without gaps; a connection that waits for number n is released once
//! every other shard has acknowledged n, in the order of waiting. Start at [`Interest::wait`].

use crate::command::{ClientId, ConnId, FilterKind, ShardId};
use std::collections::VecDeque;

/// A change of interest: the number of members that one filter has on the announcing shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How the name is matched.
    pub kind: FilterKind,
    /// The filter's name.
    pub name: Box<[u8]>,
    /// The queue group of the members; empty for plain members.
    pub group: Box<[u8]>,
    /// Number of members; 0 when the last one left.
    pub listeners: u32,
}

/// Unacknowledged announcements at which very many changes wait.
const BEHIND_MAX: u64 = 4;

/// Sequence numbers and acknowledgements of the changes this shard announced.
#[derive(Debug)]
pub(crate) struct Interest {
    me: ShardId,
    /// Number of the last announced change.
    told: u64,
    /// Last number acknowledged by each shard.
    known: Vec<u64>,
    waiting: VecDeque<(u64, ConnId, ClientId)>,
}

impl Interest {
    pub(crate) fn new(me: ShardId, shards: u16) -> Interest {
        Interest {
            me,
            told: 0,
            known: vec![0; usize::from(shards)],
            waiting: VecDeque::new(),
        }
    }

    /// Whether there is no other shard.
    pub(crate) fn is_alone(&self) -> bool {
        self.known.len() == 1
    }

    /// Whether some shard is so far behind with the changes that very many more should wait.
    pub(crate) fn is_behind(&self) -> bool {
        let me = self.me.index();
        let mut others = self.known.iter().enumerate();
        others.any(|(shard, &known)| shard != me && self.told - known >= BEHIND_MAX)
    }

    /// The number under which the changes made until now will be announced.
    pub(crate) fn next_number(&self) -> u64 {
        self.told + 1
    }

    /// Marks the changes of this turn as announced. Returns their number.
    pub(crate) fn tell(&mut self) -> u64 {
        self.told += 1;
        self.told
    }

    /// Registers a connection that waits until all shards know the changes of this turn. Returns their number, which
    /// its release will name. A connection may wait for several numbers.
    pub(crate) fn wait(&mut self, conn: ConnId, client: ClientId) -> u64 {
        let number = self.next_number();
        let last = self.waiting.back().map_or(0, |&(last, ..)| last);
        assert!(last <= number, "changes are told in their order");
        self.waiting.push_back((number, conn, client));
        number
    }

    /// Whether a connection waits for changes that are not announced yet.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting
            .back()
            .is_some_and(|&(number, ..)| number > self.told)
    }

    /// Handles an acknowledgement from a shard. `release` is called for each connection whose wait has ended, with the
    /// number it waited for.
    pub(crate) fn acknowledged(
        &mut self,
        by: ShardId,
        number: u64,
        mut release: impl FnMut(u64, ConnId, ClientId),
    ) {
        assert!(
            number <= self.told,
            "{by:?} acknowledged {number} of {}",
            self.told
        );
        let known = &mut self.known[by.index()];
        assert!(
            number >= *known,
            "{by:?} knew of {known} and acknowledges {number}"
        );
        *known = number;
        let me = self.me.index();
        let others = self
            .known
            .iter()
            .enumerate()
            .filter(|&(shard, _)| shard != me);
        let known_to_all = others.map(|(_, &number)| number).min().unwrap_or(u64::MAX);
        while let Some(&(number, conn, client)) = self.waiting.front() {
            if number > known_to_all {
                break;
            }
            self.waiting.pop_front();
            release(number, conn, client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_for_every_other_shard() {
        let mut interest = Interest::new(ShardId(1), 3);
        interest.wait(ConnId(5), ClientId(50));
        assert!(interest.is_awaited());
        assert_eq!(interest.tell(), 1);
        interest.wait(ConnId(6), ClientId(60));
        assert_eq!(interest.tell(), 2);
        assert!(!interest.is_awaited());
        let mut released = Vec::new();
        interest.acknowledged(ShardId(0), 2, |_, conn, _| released.push(conn));
        assert!(released.is_empty(), "shard 2 does not know yet");
        interest.acknowledged(ShardId(2), 1, |_, conn, _| released.push(conn));
        assert_eq!(released, [ConnId(5)]);
        interest.acknowledged(ShardId(2), 2, |_, conn, _| released.push(conn));
        assert_eq!(released, [ConnId(5), ConnId(6)]);
    }
}
