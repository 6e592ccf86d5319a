//! Whom an event reaches: all who get every event, and one member of each group.
//!
//! Which member that is, the broker chooses; the model notes for each turn where it may have gone,
//! and whoever reads it settles it. A turn that found no member comes back with its batch.

use super::{HandedOver, Model, ShardModel, Table, listeners, matches};
use crate::command::NO_GROUP;
use crate::command::{Event, Name};
use crate::expect::{Owed, What};
use crate::turns::TurnId;
use crate::{Failure, fail};
use sapwood_core::Protocol;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The groups with a member for an event.
fn groups_of(table: &Table, event: &Event) -> BTreeSet<Name> {
    let matching = table.keys().filter(|&&filter| matches(filter, event));
    let groups = matching.map(|filter| filter.2);
    groups.filter(|&group| group != NO_GROUP).collect()
}

/// How turns that came back were dealt with, as the broker counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retries {
    pub retried: u64,
    pub unheard: u64,
}

/// A turn that perhaps nobody could take, and how many shards it had gone to before.
pub(crate) type Unheard = (TurnId, u8);

/// To how many shards a turn goes at most.
pub(crate) const TRIES_MAX: u8 = 4;

impl Model {
    /// Publishes an event of a client; gives how many subscriptions it matches.
    pub(super) fn publish(&mut self, key: usize, event: &Rc<Event>) -> Result<u64, Failure> {
        let shard = self.conn(key).shard;
        self.shards[shard].published += 1;
        if self.watched.contains(&key) {
            *self.reached.entry(event.payload.clone()).or_default() += 1;
        }
        let mut count: u64 = self
            .tables_of(shard)
            .map(|table| listeners(table, event))
            .sum();
        let groups = self.tables_of(shard).map(|table| groups_of(table, event));
        let groups: BTreeSet<Name> = groups.flatten().collect();
        count += groups.len() as u64;
        let groups = groups.into_iter();
        let turns: Vec<TurnId> = groups
            .map(|group| self.turns.open(shard, event, group))
            .collect();
        for other in (0..self.shards.len()).filter(|&other| other != shard) {
            self.check_barrier(shard, other, event)?;
            let known = &self.shards[shard].known[other];
            let plain = listeners(known, event) > 0;
            let turns = self.turns_for(known, event, &turns);
            if plain || !turns.is_empty() {
                self.shards[shard].pending[other].push_back(HandedOver {
                    event: Rc::clone(event),
                    plain,
                    turns,
                    tries: 0,
                });
            }
        }
        self.deliver(shard, event, (Some(key), true), &turns);
        Ok(count)
    }

    /// What a shard knows: its own table, and those of the others.
    fn tables_of(&self, shard: usize) -> impl Iterator<Item = &Table> {
        let ShardModel { table, known, .. } = &self.shards[shard];
        std::iter::once(table).chain(known.iter().map(|table| &**table))
    }

    /// Those turns of an event that a member in this table may take.
    fn turns_for(&self, table: &Table, event: &Event, turns: &[TurnId]) -> Vec<TurnId> {
        if turns.is_empty() {
            return Vec::new();
        }
        let known = groups_of(table, event);
        let turns = turns.iter().copied();
        turns
            .filter(|&id| known.contains(self.turns.group(id)))
            .collect()
    }

    /// An event reaches the subscribers of a shard, `plain` those who get every event; its
    /// publisher's connection is given if that is here. Gives the turns that nobody here can take.
    pub(crate) fn deliver(
        &mut self,
        shard: usize,
        event: &Rc<Event>,
        (publisher, plain): (Option<usize>, bool),
        turns: &[TurnId],
    ) -> Vec<TurnId> {
        let mut unheard = turns.to_vec();
        let ShardModel {
            open,
            table,
            leaving,
            delivered,
            ..
        } = &mut self.shards[shard];
        if !table
            .keys()
            .chain(leaving.keys())
            .any(|&filter| matches(filter, event))
        {
            return unheard;
        }
        for &key in open.iter() {
            let Some(conn) = &mut self.conns[key] else {
                continue;
            };
            let matching = conn.subscriptions.iter();
            let matching: Vec<_> = matching.filter(|sub| matches(sub.filter, event)).collect();
            let mut filters: Vec<_> = matching.iter().map(|sub| sub.filter).collect();
            filters.retain(|filter| filter.2 == NO_GROUP && plain);
            if conn.protocol == Protocol::Native {
                let numbers = |id: TurnId| -> Vec<u32> {
                    let group = self.turns.group(id);
                    let members = matching.iter().filter(|sub| sub.filter.2 == group);
                    members.map(|sub| sub.number).collect()
                };
                let mine = turns.iter().map(|&id| (id, numbers(id)));
                let mine: Vec<_> = mine.filter(|(_, numbers)| !numbers.is_empty()).collect();
                unheard.retain(|&id| mine.iter().all(|&(other, _)| other != id));
                if filters.is_empty() && mine.is_empty() {
                    continue;
                }
                *delivered += u64::from(!filters.is_empty());
                conn.stream.owed.push_back(Owed {
                    version: 0,
                    floats: false,
                    inside: false,
                    what: What::Native {
                        event: Rc::clone(event),
                        plain: !filters.is_empty(),
                        turns: mine,
                    },
                });
                continue;
            }
            if filters.is_empty() {
                continue;
            }
            *delivered += filters.len() as u64;
            conn.deferred.push_back((Rc::clone(event), filters));
            if publisher == Some(key) {
                // Its own are read where it published them.
                conn.owe_last_event();
            } else {
                conn.owe_deferred();
                self.kept_for_exec += u64::from(!conn.deferred.is_empty());
            }
        }
        unheard
    }

    /// A batch came back with turns that perhaps nobody could take, `counted` being what the shard
    /// did about them: those with members elsewhere go there, once.
    pub(crate) fn came_back(
        &mut self,
        shard: usize,
        unheard: &[Unheard],
        counted: Retries,
    ) -> Result<(), Failure> {
        let open = unheard.iter().copied();
        let open: Vec<Unheard> = open.filter(|&(id, _)| !self.turns.is_taken(id)).collect();
        let has_members = |&(id, _): &Unheard| {
            let event = self.turns.event(id);
            let mut tables = self.tables_of(shard);
            tables.any(|table| !self.turns_for(table, event, &[id]).is_empty())
        };
        let (again, lost): (Vec<Unheard>, Vec<Unheard>) = open.into_iter().partition(has_members);
        if counted.retried > again.len() as u64 || counted.unheard > lost.len() as u64 {
            let text = format!(
                "shard {shard} counts {counted:?}, and {} with members and {} without may be",
                again.len(),
                lost.len()
            );
            return fail("turns", text);
        }
        if counted.retried == 0 {
            return Ok(());
        }
        let is_certain = counted.retried == again.len() as u64;
        for &(id, tries) in &again {
            if is_certain {
                // Nobody has had it, and no batch that is still on its way brings it.
                self.withdraw(id);
                self.turns.come_back(id, tries);
            } else {
                self.turns.doubt(id);
            }
        }
        // The turns of one event come back together, and go on in any order.
        let is_one = |&(a, tries): &Unheard, &(b, others): &Unheard| {
            tries == others && self.turns.is_of_same_event(a, b)
        };
        let runs = again.chunk_by(is_one);
        let runs: Vec<(Vec<TurnId>, u8)> = runs
            .map(|run| (run.iter().map(|&(id, _)| id).collect(), run[0].1))
            .collect();
        for (turns, tries) in runs {
            let event = Rc::clone(self.turns.event(turns[0]));
            for other in (0..self.shards.len()).filter(|&other| other != shard) {
                let known = &self.shards[shard].known[other];
                let turns = self.turns_for(known, &event, &turns);
                if !turns.is_empty() {
                    self.shards[shard].pending[other].push_back(HandedOver {
                        event: Rc::clone(&event),
                        plain: false,
                        turns,
                        tries: tries + 1,
                    });
                }
            }
            self.deliver(shard, &event, (None, false), &turns);
        }
        Ok(())
    }

    /// A turn was not given to anybody so far.
    fn withdraw(&mut self, id: TurnId) {
        let owed = self.conns.iter_mut().flatten();
        for owed in owed.flat_map(|conn| &mut conn.stream.owed) {
            if let What::Native { turns, .. } = &mut owed.what {
                turns.retain(|&(other, _)| other != id);
            }
        }
    }

    /// Turns that may have been given to connections that are gone.
    pub(crate) fn turns_of_the_dead(&self, is_dead: impl Fn(usize) -> bool) -> BTreeSet<TurnId> {
        let conns = self.conns.iter().enumerate();
        let dead = conns.filter(|&(key, _)| is_dead(key));
        let owed = dead.flat_map(|(_, conn)| conn.iter().flat_map(|conn| &conn.stream.owed));
        let turns = owed.flat_map(|owed| match &owed.what {
            What::Native { turns, .. } => &turns[..],
            _ => &[],
        });
        turns.map(|&(id, _)| id).collect()
    }
}
