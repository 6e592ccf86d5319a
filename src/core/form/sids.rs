//! Subscriptions that their clients name, and that may end after some messages: those of NATS.
//!
//! Owns each one's name and how many messages it has been given; its number is what the broker's
//! [`Member`](crate::command::Member) carries. Must not know protocols. Invariant: a number is that of one
//! subscription until [`Sids::forget`]; one that has ended is given nothing more, and is forgotten
//! before the next event is routed. Start at [`Sids::take`].

use crate::command::ConnId;
use crate::command::FilterId;
use crate::paged_slab::{PagedSlab, is_table_sparse};
use core::hash::BuildHasher;
use hashbrown::HashTable;

/// One subscription.
#[derive(Debug)]
pub(crate) struct Sid {
    pub conn: ConnId,
    /// The client's name for it.
    pub name: Box<[u8]>,
    /// What it listens to.
    pub filter: FilterId,
    /// Whether its client takes headers.
    pub takes_headers: bool,
    /// Messages that it has been given.
    delivered: u64,
    /// It ends with this message; 0 if it does not.
    after: u64,
}

impl Sid {
    /// One that nothing was given to yet.
    pub(crate) fn new(conn: ConnId, name: &[u8], filter: FilterId, takes_headers: bool) -> Sid {
        Sid {
            conn,
            name: name.into(),
            filter,
            takes_headers,
            delivered: 0,
            after: 0,
        }
    }
}

/// Those of all connections of a shard.
#[derive(Debug)]
pub(crate) struct Sids {
    sids: PagedSlab<Sid>,
    numbers: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    /// Those that have just been given their last message.
    ended: Vec<u32>,
}

impl Sids {
    /// None yet; the seed keeps outsiders from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Sids {
        Sids {
            sids: PagedSlab::default(),
            numbers: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            ended: Vec::new(),
        }
    }

    fn hash(hasher: &foldhash::fast::FixedState, conn: ConnId, name: &[u8]) -> u64 {
        hasher.hash_one((conn, name))
    }

    /// The number of a connection's subscription of this name.
    pub(crate) fn find(&self, conn: ConnId, name: &[u8]) -> Option<u32> {
        let is_it = |number: &u32| {
            let sid = &self.sids[*number as usize];
            sid.conn == conn && *sid.name == *name
        };
        let hash = Sids::hash(&self.hasher, conn, name);
        self.numbers.find(hash, is_it).copied()
    }

    /// The number that the next subscription gets.
    pub(crate) fn next_number(&self) -> u32 {
        self.sids.vacant_key() as u32
    }

    /// Takes a subscription in that has just been made, under [`next_number`](Sids::next_number).
    pub(crate) fn insert(&mut self, sid: Sid) {
        let Sids {
            sids,
            numbers,
            hasher,
            ..
        } = self;
        let hash = Sids::hash(hasher, sid.conn, &sid.name);
        let number = sids.insert(sid);
        numbers.insert_unique(hash, number as u32, |number| {
            let sid = &sids[*number as usize];
            Sids::hash(hasher, sid.conn, &sid.name)
        });
    }

    pub(crate) fn get(&self, number: u32) -> &Sid {
        &self.sids[number as usize]
    }

    /// Lets a subscription end with that message, counted from its first; false if it has had as many
    /// already.
    pub(crate) fn end_after(&mut self, number: u32, messages: u64) -> bool {
        let sid = &mut self.sids[number as usize];
        sid.after = messages;
        sid.delivered < messages
    }

    /// Takes note that a subscription is given messages; gives how many of them it may have.
    pub(crate) fn take(&mut self, number: u32, messages: u64) -> u64 {
        let sid = &mut self.sids[number as usize];
        let left = match sid.after {
            0 => u64::MAX,
            after => after.saturating_sub(sid.delivered),
        };
        let taken = messages.min(left);
        sid.delivered += taken;
        if taken > 0 && taken == left {
            self.ended.push(number);
        }
        taken
    }

    /// Those that were given their last message since this was last asked.
    pub(crate) fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Forgets a subscription that has ended; its number may be another's next.
    pub(crate) fn forget(&mut self, number: u32) {
        let sid = self.sids.remove(number as usize);
        let hash = Sids::hash(&self.hasher, sid.conn, &sid.name);
        if let Ok(found) = self.numbers.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        let Sids {
            sids,
            numbers,
            hasher,
            ..
        } = self;
        if is_table_sparse(numbers.len(), numbers.allocation_size(), size_of::<u32>()) {
            numbers.shrink_to(2 * numbers.len(), |number| {
                let sid = &sids[*number as usize];
                Sids::hash(hasher, sid.conn, &sid.name)
            });
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Filter, FilterKind};
    use crate::routing::subs::Filters;

    fn filter() -> FilterId {
        Filters::new(1).intern(Filter::plain(FilterKind::Topic, b"a"))
    }

    #[test]
    fn a_subscription_ends_with_the_message_it_was_told() {
        let mut sids = Sids::new(1);
        let number = sids.next_number();
        sids.insert(Sid::new(ConnId(3), b"7", filter(), true));
        assert_eq!(sids.take(number, 10), 10);
        assert!(!sids.end_after(number, 10), "it has had them");
        assert!(sids.end_after(number, 12));
        assert_eq!((sids.take(number, 1), sids.take_ended()), (1, vec![]));
        assert_eq!((sids.take(number, 5), sids.take_ended()), (1, vec![number]));
        assert_eq!((sids.take(number, 5), sids.take_ended()), (0, vec![]));
    }

    #[test]
    fn names_are_a_connections_own() {
        let mut sids = Sids::new(1);
        for conn in 0..100 {
            for name in [&b"1"[..], b"x", b""] {
                sids.insert(Sid::new(ConnId(conn), name, filter(), true));
            }
        }
        let number = sids.find(ConnId(40), b"x").unwrap();
        assert_eq!(sids.get(number).conn, ConnId(40));
        sids.forget(number);
        assert_eq!(sids.find(ConnId(40), b"x"), None);
        assert!(sids.find(ConnId(41), b"x").is_some());
        assert_eq!((sids.next_number(), sids.len()), (number, 299));
    }

    #[test]
    fn the_table_shrinks_with_what_it_holds() {
        let mut sids = Sids::new(1);
        for number in 0..50_000 {
            sids.insert(Sid::new(ConnId(number), b"1", filter(), true));
        }
        let full = sids.numbers.allocation_size();
        (10..50_000).for_each(|number| sids.forget(number));
        assert!(sids.numbers.allocation_size() < full / 8);
        assert_eq!(sids.find(ConnId(9), b"1"), Some(9));
    }
}
