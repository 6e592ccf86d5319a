//! Subscriptions that their clients name and that may end after some messages: sids of NATS.
//!
//! Owns each subscription's name and how many messages it has been given; its number is what the broker's
//! [`Member`](crate::command::Member) carries. Must not know protocols. Invariant: a number is that of one subscription
//! until [`Sids::forget`]; a subscription that has ended is given nothing more, and is forgotten before the next event
//! is routed. Start at [`Sids::take`].

use crate::command::ConnId;
use crate::command::FilterId;
use crate::paged_slab::PagedSlab;
use crate::split_table::SplitTable;
use core::hash::BuildHasher;

/// One named subscription.
#[derive(Debug)]
pub(crate) struct Sid {
    pub conn: ConnId,
    /// The client's name for it.
    pub name: Box<[u8]>,
    /// Its filter.
    pub filter: FilterId,
    /// Whether its client takes headers.
    pub takes_headers: bool,
    /// Number of messages it has been given.
    pub delivered: u64,
    /// Number of messages after which it ends; 0 if it does not.
    pub after: u64,
}

impl Sid {
    /// A subscription that has been given no message yet.
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

/// The named subscriptions of all connections of a shard.
#[derive(Debug)]
pub(crate) struct Sids {
    sids: PagedSlab<Sid>,
    numbers: SplitTable<u32>,
    hasher: foldhash::fast::FixedState,
    /// Subscriptions that have just been given their last message.
    ended: Vec<u32>,
}

impl Sids {
    /// An empty table; the seed keeps outsiders from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Sids {
        Sids {
            sids: PagedSlab::default(),
            numbers: SplitTable::new(),
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

    /// Number of the next subscription.
    pub(crate) fn next_number(&self) -> u32 {
        self.sids.vacant_key() as u32
    }

    /// Inserts a new subscription under [`next_number`](Sids::next_number).
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

    /// Ends a subscription after `messages` messages, counted from its first; false if it has had as many already.
    pub(crate) fn end_after(&mut self, number: u32, messages: u64) -> bool {
        let sid = &mut self.sids[number as usize];
        sid.after = messages;
        sid.delivered < messages
    }

    /// Counts messages given to a subscription; gives how many of them it may have.
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

    /// Takes the subscriptions that were given their last message since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Forgets a subscription that has ended; its number may be reused.
    pub(crate) fn forget(&mut self, number: u32) {
        let sid = self.sids.remove(number as usize);
        let hash = Sids::hash(&self.hasher, sid.conn, &sid.name);
        let Sids {
            sids,
            numbers,
            hasher,
            ..
        } = self;
        let is_it = |&other: &u32| other == number;
        numbers.remove(hash, is_it, |number| {
            let sid = &sids[*number as usize];
            Sids::hash(hasher, sid.conn, &sid.name)
        });
    }

    /// Number of subscriptions.
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
