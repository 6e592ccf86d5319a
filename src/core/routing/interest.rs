//! Which shard listens to what, kept equal on all shards, and when a confirmation may leave.
//!
//! A shard tells the others how many members each of its filters has, by numbered changes; the
//! numbers they know stand in the filters' entries. Owns the numbering, the acknowledgements and
//! the connections that wait for them. An acknowledgement stands behind the events that were sent
//! before it, so that who waits has got those too. Must not know protocols. Invariants: changes are
//! numbered without gaps; a connection that waits for number n is released once every other shard has
//! acknowledged n, in the order they began to wait. Start at [`Interest::wait`].

use crate::command::{ClientId, ConnId, FilterKind, ShardId};
use std::collections::VecDeque;

/// How many members one filter has now on the shard that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How the name is matched.
    pub kind: FilterKind,
    /// The filter's name.
    pub name: Box<[u8]>,
    /// The group whose members are meant; empty for those without.
    pub group: Box<[u8]>,
    /// Its members; 0 when the last one left.
    pub listeners: u32,
}

/// The state of what this shard told the others.
#[derive(Debug)]
pub(crate) struct Interest {
    me: ShardId,
    /// Number of the last change that was told.
    told: u64,
    /// Per shard, the last number it acknowledged.
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

    /// Whether there is anyone to tell.
    pub(crate) fn is_alone(&self) -> bool {
        self.known.len() == 1
    }

    /// The number that the changes made until now will be told under.
    pub(crate) fn next_number(&self) -> u64 {
        self.told + 1
    }

    /// Takes note that the changes of this turn were told; gives their number.
    pub(crate) fn tell(&mut self) -> u64 {
        self.told += 1;
        self.told
    }

    /// Lets a connection wait until all shards know the changes of this turn; gives their number,
    /// which its release will name. It may wait for several.
    pub(crate) fn wait(&mut self, conn: ConnId, client: ClientId) -> u64 {
        let number = self.next_number();
        let last = self.waiting.back().map_or(0, |&(last, ..)| last);
        assert!(last <= number, "changes are told in their order");
        self.waiting.push_back((number, conn, client));
        number
    }

    /// Whether somebody waits for changes that were not told yet.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting
            .back()
            .is_some_and(|&(number, ..)| number > self.told)
    }

    /// Takes an acknowledgement; `release` gets each connection that need not wait any more for the
    /// changes of this number.
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
