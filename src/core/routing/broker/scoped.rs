//! Routes of events whose topic says which nodes they are for.
//!
//! How nodes are called stands among the filters, as a kind of its own, so that links are told of it and of every change
//! as they are of subscriptions; where a node stands is arithmetic on addresses. Start at [`Broker::narrow`].

use super::remote::set;
use super::{Broker, GroupRoute, Route};
use crate::command::{Filter, FilterKind, LinkId, Target};
use crate::tree::position::Position;
use sapwood_wire::scope::{self, Audience, Scope, Targets};

/// Which ways lead to the targets of an event.
#[derive(Default)]
struct ScopeReach {
    is_here: bool,
    is_lost: bool,
    links: Vec<LinkId>,
    turn: Option<GroupRoute>,
}

impl Broker {
    /// Takes note of how this node is called: names, and tags and groups as topics have them.
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

    /// Takes note of where this node stands now.
    pub(crate) fn set_position(&mut self, position: Position) {
        self.position = position;
        self.versions.all_changed();
    }

    /// Where this node stands.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Takes from a topic's route, which is that of its name, what the rest of the topic rules out.
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
                // One that is none was refused.
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
        // Links that are to be sent everything do not say who is called how.
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

    /// What leads to the nodes of a group; `None` if there are none.
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

/// Lets links behind which there are only members of groups be such as lead to somebody who gets every event.
fn count_members_as_listeners(route: &mut Route) {
    for (target, _) in route.groups.iter().flat_map(|group| &group.weights) {
        if let Target::Link(link) = *target
            && !route.links.contains(&link)
        {
            route.links.push(link);
        }
    }
}

/// Takes all receivers of this node away, but not their number.
fn leave_nobody_here(route: &mut Route) {
    route.filters.clear();
    route.shards.clear();
    route.receivers = 0;
    route.forget_groups();
}
