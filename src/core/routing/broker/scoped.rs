//! Routes of events whose topic names target nodes.
//!
//! Names, tags and groups of nodes are filters of a kind of their own, so they are announced to links like
//! subscriptions. Tree addresses need no table: the route follows from the address. Start at [`Broker::narrow`].

use super::remote::set;
use super::{Broker, GroupRoute, Route};
use crate::command::{Filter, FilterKind, LinkId, Target};
use crate::tree::position::Position;
use core::net::SocketAddr;
use sapwood_wire::scope::{self, Audience, Scope, Targets};

/// The links and turns that lead to the target nodes of an event.
#[derive(Default)]
struct ScopeReach {
    is_here: bool,
    is_lost: bool,
    links: Vec<LinkId>,
    turn: Option<GroupRoute>,
}

impl Broker {
    /// Registers the names of this node: its name, tags and groups as written in topics.
    pub(crate) fn call_node(&mut self, names: &[Box<[u8]>]) {
        for name in names {
            let group = match name.starts_with(scope::GROUP) {
                true => &name[..],
                false => &[],
            };
            let kind = FilterKind::Node;
            let id = self.filters.intern(Filter { kind, name, group });
            let entry = self.filters.entry_mut(id);
            entry.change_remote(|remote| set(&mut remote.wanted, LinkId::HERE, 1));
            self.note_change_for_links(id);
        }
        self.versions.all_changed();
    }

    /// Sets the node's position in the tree.
    pub(crate) fn set_position(&mut self, position: Position) {
        self.position = position;
        self.versions.all_changed();
    }

    /// The node's position in the tree.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Number of changes of the addresses where NATS clients can connect.
    pub(crate) fn nats_addresses_version(&self) -> u64 {
        self.filters.nats_addresses().1
    }

    /// The addresses of other nodes where NATS clients can connect, at most so many.
    pub(crate) fn nats_addresses(&self, most: usize) -> Vec<String> {
        let (ids, _) = self.filters.nats_addresses();
        let entries = ids.iter().map(|&id| self.filters.entry(id));
        let elsewhere = entries.filter(|entry| {
            let mut wanted = entry.wanted().iter();
            wanted.any(|&(link, _)| link != LinkId::HERE)
        });
        let addresses = elsewhere.filter_map(|entry| {
            let text = entry.name.strip_prefix(scope::NATS_ADDRESS)?;
            let address: SocketAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
            Some(address.to_string())
        });
        addresses.take(most).collect()
    }

    /// Narrows a topic's route, as found by its name, to the rest of the topic's scope.
    pub(super) fn narrow(&self, scope: &Scope<'_>, route: &mut Route) {
        route.scope.audience = scope.audience;
        route.scope.is_traced = scope.is_traced;
        if let Some(targets) = scope.to {
            self.narrow_to(targets, route);
        }
        if scope.is_near {
            for group in &mut route.groups {
                let is_here = |&(target, _): &(Target, u32)| matches!(target, Target::Shard(_));
                if group.weights.iter().any(is_here) {
                    group.weights.retain(is_here);
                }
            }
        }
        if scope.is_traced {
            count_members_as_listeners(route);
            leave_nobody_here(route);
        }
        if scope.audience == Audience::Node {
            leave_nobody_here(route);
        }
    }

    fn narrow_to(&self, targets: Targets<'_>, route: &mut Route) {
        let mut reach = self.reach(targets);
        let is_member = |turn: &GroupRoute| {
            let mut weights = turn.weights.iter();
            weights.any(|&(target, _)| matches!(target, Target::Shard(_)))
        };
        let is_here = reach.is_here || reach.turn.as_ref().is_some_and(is_member);
        route.scope.is_placed = true;
        route.scope.is_here = is_here;
        route.scope.is_lost = reach.is_lost;
        route.scope.turn = reach.turn.take();
        match route.scope.is_for_all() {
            true => route.links = reach.links,
            false => {
                count_members_as_listeners(route);
                route.links.retain(|link| reach.links.contains(link));
            }
        }
        if !is_here {
            route.subscriptions = 0;
            return leave_nobody_here(route);
        }
        for group in &mut route.groups {
            group
                .weights
                .retain(|(target, _)| matches!(target, Target::Shard(_)));
        }
        route.groups.retain(|group| !group.weights.is_empty());
        let places = route.groups.iter().enumerate();
        route.group_places = places.map(|(place, group)| (group.group, place)).collect();
    }

    fn reach(&self, targets: Targets<'_>) -> ScopeReach {
        let mut reach = ScopeReach::default();
        let mut places = Vec::new();
        for target in targets.iter() {
            match target {
                scope::Target::Every => {
                    reach.is_here = true;
                    reach.links.extend(self.position.links());
                }
                // Invalid addresses were refused at publish.
                scope::Target::Place(text) => places.extend(text.parse()),
                scope::Target::Named(name) => self.reach_named(name, &mut reach),
                scope::Target::OneOf(name) => reach.turn = self.turn_among_nodes(name),
            }
        }
        let ways = self.position.split(places);
        reach.is_here |= ways.is_here;
        reach.is_lost |= ways.is_lost;
        reach.links.extend(ways.links);
        reach.links.sort_unstable();
        reach.links.dedup();
        reach
    }

    fn reach_named(&self, name: &[u8], reach: &mut ScopeReach) {
        // Links that get everything announce no names, so a name may be behind any of them.
        reach.links.extend(&self.everything);
        let found = self.filters.find(Filter::plain(FilterKind::Node, name));
        let wanted = found.map_or(&[][..], |id| self.filters.entry(id).wanted());
        for &(link, _) in wanted {
            match link {
                LinkId::HERE => reach.is_here = true,
                link => reach.links.push(link),
            }
        }
    }

    /// The route to the nodes of a group. `None` if it has no nodes.
    fn turn_among_nodes(&self, name: &[u8]) -> Option<GroupRoute> {
        let id = self.filters.find(Filter {
            kind: FilterKind::Node,
            name,
            group: name,
        })?;
        let entry = self.filters.entry(id);
        let weights = entry.wanted().iter().map(|&(link, nodes)| match link {
            LinkId::HERE => (Target::Shard(self.me), nodes),
            link => (Target::Link(link), nodes),
        });
        Some(GroupRoute {
            group: entry.group?,
            entries: Vec::new(),
            weights: weights.collect(),
        })
    }
}

/// Adds the links with group members to the links with plain subscribers.
fn count_members_as_listeners(route: &mut Route) {
    for (target, _) in route.groups.iter().flat_map(|group| &group.weights) {
        if let Target::Link(link) = *target
            && !route.links.contains(&link)
        {
            route.links.push(link);
        }
    }
}

/// Removes all receivers on this node, but keeps their count in `subscriptions`.
fn leave_nobody_here(route: &mut Route) {
    route.filters.clear();
    route.shards.clear();
    route.keeper = None;
    route.receivers = 0;
    route.forget_groups();
}
