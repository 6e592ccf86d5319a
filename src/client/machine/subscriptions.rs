//! The client's own subscriptions, and which of them an event is for.
//!
//! Owns the filters and the queue of each. Must not know frames, nor how the broker is told. The broker sends an event
//! once to a connection, so this table finds every subscription that it matches. Invariants: only subscriptions
//! confirmed by the broker are in the index; a place in the table is reused only after the index has forgotten it. The
//! index finds exact filters by hash, wildcards by trying each, and group members by number; the last topic's matches
//! are cached, so a run of one topic is looked up once. Start at [`Subscriptions::route_topic`].

use super::Token;
use super::queue::{Gauge, Queue};
use crate::error::Refusal;
use sapwood_wire::native;
use sapwood_wire::topic;
use std::collections::HashMap;
use std::time::Duration;

/// Id of a subscription of a machine, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId {
    pub(super) place: u32,
    serial: u32,
}

/// The state of a subscription at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not confirmed yet. Holds the caller that waits for it, if any, and since when.
    Asked(Option<(Token, Duration)>),
    /// Confirmed: events arrive.
    Active,
    /// Ended: it was drained, or the client was closed.
    Ended,
    /// The broker refused it after a reconnect, and the consumer has not been told yet.
    Refused(Refusal),
}

/// One subscription of this client.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) id: SubscriptionId,
    pub(super) filter: Box<[u8]>,
    group: Box<[u8]>,
    member: u32,
    pub(super) standing: Standing,
    pub(super) queue: Queue,
    /// Whether its consumer has seen the end.
    pub(super) is_finished: bool,
}

impl Local {
    /// The fields that identify the subscription at the broker.
    pub(super) fn key(&self) -> native::Subscription<'_> {
        native::Subscription {
            member: self.member,
            group: &self.group,
            filter: &self.filter,
        }
    }

    fn is_plain(&self) -> bool {
        self.group.is_empty()
    }
}

/// The table of subscriptions, see the module.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    locals: Vec<Option<Local>>,
    free: Vec<u32>,
    serial: u32,
    last_member: u32,
    /// Number of plain subscriptions with the same filter, confirmed or not.
    shares: HashMap<Box<[u8]>, usize>,
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    wildcards: Vec<u32>,
    members: HashMap<u32, u32>,
    /// The last topic that was looked up; `None` after a change. The next field holds its matches.
    last: Option<Box<[u8]>>,
    pub(super) last_places: Vec<u32>,
}

impl Subscriptions {
    /// Adds a subscription that the broker has not confirmed.
    pub(super) fn insert(
        &mut self,
        filter: &[u8],
        group: &[u8],
        standing: Standing,
        queue: Queue,
    ) -> SubscriptionId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.locals.push(None);
            // 2^32 subscriptions do not fit into memory.
            (self.locals.len() - 1) as u32
        });
        self.serial = self.serial.wrapping_add(1);
        let id = SubscriptionId {
            place,
            serial: self.serial,
        };
        let member = if group.is_empty() {
            *self.shares.entry(filter.into()).or_default() += 1;
            0
        } else {
            self.last_member = self.last_member.wrapping_add(1).max(1);
            self.last_member
        };
        self.locals[place as usize] = Some(Local {
            id,
            filter: filter.into(),
            group: group.into(),
            member,
            standing,
            queue,
            is_finished: false,
        });
        id
    }

    pub(super) fn find(&mut self, id: SubscriptionId) -> Option<&mut Local> {
        let local = self.locals.get_mut(id.place as usize)?.as_mut()?;
        (local.id == id).then_some(local)
    }

    /// The subscription at a place returned by a route.
    pub(super) fn at(&mut self, place: u32) -> Option<&mut Local> {
        self.locals.get_mut(place as usize)?.as_mut()
    }

    /// All subscriptions, in an order that does not depend on hashes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Local> {
        self.locals.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Local> {
        self.locals.iter_mut().flatten()
    }

    /// Adds a confirmed subscription to the index.
    pub(super) fn activate(&mut self, id: SubscriptionId) {
        let Some(local) = self.find(id) else { return };
        if local.standing == Standing::Active {
            return;
        }
        local.standing = Standing::Active;
        let member = local.member;
        let is_wildcard = topic::is_wildcard(&local.filter);
        if member > 0 {
            self.members.insert(member, id.place);
        } else if is_wildcard {
            self.wildcards.push(id.place);
        } else {
            let filter = local.filter.clone();
            self.exact.entry(filter).or_default().push(id.place);
        }
        self.last = None;
    }

    /// Removes a subscription from the index: it receives no more events.
    pub(super) fn deactivate(&mut self, id: SubscriptionId) {
        let Some(local) = self.find(id) else { return };
        let member = local.member;
        let filter = std::mem::take(&mut local.filter);
        if member > 0 {
            self.members.remove(&member);
        } else {
            self.wildcards.retain(|place| *place != id.place);
            if let Some(places) = self.exact.get_mut(&filter) {
                places.retain(|place| *place != id.place);
                if places.is_empty() {
                    self.exact.remove(&filter);
                }
            }
        }
        self.last = None;
        if let Some(local) = self.find(id) {
            local.filter = filter;
        }
    }

    /// Removes a subscription. Returns whether the broker must be told, which it must not if another subscription has
    /// the same filter.
    pub(super) fn remove(
        &mut self,
        id: SubscriptionId,
        gauge: &mut Gauge,
    ) -> Option<(Local, IsLast)> {
        self.deactivate(id);
        let mut local = match self.locals.get_mut(id.place as usize) {
            Some(slot) if slot.as_ref().is_some_and(|local| local.id == id) => slot.take()?,
            _ => return None,
        };
        local.queue.clear(gauge);
        self.free.push(id.place);
        let is_last = if local.is_plain() {
            match self.shares.get_mut(&local.filter) {
                Some(shares) if *shares > 1 => {
                    *shares -= 1;
                    IsLast::No
                }
                _ => {
                    self.shares.remove(&local.filter);
                    IsLast::Yes
                }
            }
        } else {
            IsLast::Yes
        };
        Some((local, is_last))
    }

    /// The places of the subscriptions that match this topic. Cost: one comparison if the topic is the previous one,
    /// else one hash and one match for each wildcard.
    pub(super) fn route_topic(&mut self, topic: &[u8]) -> &[u32] {
        if self.last.as_deref() != Some(topic) {
            self.last_places.clear();
            if let Some(places) = self.exact.get(topic) {
                self.last_places.extend(places);
            }
            for place in &self.wildcards {
                let local = self.locals[*place as usize].as_ref();
                if local.is_some_and(|local| topic::wildcard_matches(&local.filter, topic)) {
                    self.last_places.push(*place);
                }
            }
            match &mut self.last {
                Some(last) if last.len() == topic.len() => last.copy_from_slice(topic),
                last => *last = Some(topic.into()),
            }
        }
        &self.last_places
    }

    /// The place of the subscription with this member number.
    pub(super) fn route_member(&self, member: u32) -> Option<u32> {
        self.members.get(&member).copied()
    }
}

/// Whether a subscription was the last one with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsLast {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overflow;
    use proptest::prelude::*;

    fn add(table: &mut Subscriptions, filter: &str, group: &str) -> SubscriptionId {
        let queue = Queue::new(1024, Overflow::Wait);
        let id = table.insert(
            filter.as_bytes(),
            group.as_bytes(),
            Standing::Asked(None),
            queue,
        );
        table.activate(id);
        id
    }

    fn places(ids: &[SubscriptionId]) -> Vec<u32> {
        ids.iter().map(|id| id.place).collect()
    }

    #[test]
    fn every_matching_subscription_is_found_and_no_other() {
        let mut table = Subscriptions::default();
        let exact = add(&mut table, "a.b", "");
        let twin = add(&mut table, "a.b", "");
        let star = add(&mut table, "a.*", "");
        let other = add(&mut table, "b.>", "");
        let member = add(&mut table, "a.b", "group");
        assert_eq!(table.route_topic(b"a.b"), places(&[exact, twin, star]));
        assert_eq!(table.route_topic(b"b.c.d"), places(&[other]));
        assert_eq!(table.route_topic(b"c"), places(&[]));
        assert_eq!(table.route_member(1), Some(member.place));
        assert_eq!(table.route_member(2), None);
    }

    #[test]
    fn remembered_route_does_not_outlive_a_change() {
        let (mut table, mut gauge) = (Subscriptions::default(), Gauge::default());
        let first = add(&mut table, "a", "");
        assert_eq!(table.route_topic(b"a"), places(&[first]));
        let second = add(&mut table, ">", "");
        assert_eq!(table.route_topic(b"a"), places(&[first, second]));
        table.remove(first, &mut gauge);
        assert_eq!(table.route_topic(b"a"), places(&[second]));
    }

    #[test]
    fn broker_is_told_only_of_the_last_with_a_filter() {
        let (mut table, mut gauge) = (Subscriptions::default(), Gauge::default());
        let ids = [
            add(&mut table, "a", ""),
            add(&mut table, "a", ""),
            add(&mut table, "a", "g"),
        ];
        let told = ids.map(|id| table.remove(id, &mut gauge).map(|(_, is_last)| is_last));
        assert_eq!(
            told,
            [Some(IsLast::No), Some(IsLast::Yes), Some(IsLast::Yes)]
        );
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn id_of_a_removed_subscription_names_nothing() {
        let (mut table, mut gauge) = (Subscriptions::default(), Gauge::default());
        let old = add(&mut table, "a", "");
        table.remove(old, &mut gauge);
        let new = add(&mut table, "b", "");
        assert_eq!(old.place, new.place);
        assert!(table.find(old).is_none());
        assert!(table.remove(old, &mut gauge).is_none());
        assert!(table.find(new).is_some());
    }

    proptest! {
        #[test]
        fn index_agrees_with_trying_every_filter(
            filters in proptest::collection::vec("[ab*>](\\.[ab*>]){0,2}", 0..12),
            removed in proptest::collection::vec(any::<bool>(), 12),
            topics in proptest::collection::vec("[ab](\\.[ab]){0,2}", 1..8),
        ) {
            let (mut table, mut gauge) = (Subscriptions::default(), Gauge::default());
            let mut live = Vec::new();
            for (filter, is_removed) in filters.iter().zip(&removed) {
                if topic::check_wildcard(filter.as_bytes()).is_err() { continue; }
                let id = add(&mut table, filter, "");
                if *is_removed { table.remove(id, &mut gauge); } else { live.push((filter, id.place)); }
            }
            for topic in &topics {
                let mut expected: Vec<u32> = live.iter()
                    .filter(|(filter, _)| topic::wildcard_matches(filter.as_bytes(), topic.as_bytes()))
                    .map(|(_, place)| *place)
                    .collect();
                let mut found = table.route_topic(topic.as_bytes()).to_vec();
                expected.sort_unstable();
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
