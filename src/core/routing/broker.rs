//! The broker's table of subscriptions: applies changes to it, and finds the receivers of an event.
//!
//! Owns the filters, the groups' turns, each connection's subscriptions, and the changes to announce to the other
//! shards. Must not know protocols, outboxes or time. Invariant: a connection is among a filter's members exactly once
//! if the filter is among its subscriptions, at the index stored there; so removing a connection costs as much as its
//! own subscriptions, however many others there are. Start at [`Broker::subscribe`] and [`Broker::route`].

mod remote;
mod scoped;

pub(crate) use remote::Listener;

use crate::command::FilterId;
use crate::command::{
    ConnId, Filter, FilterKind, Form, LinkId, Member, Refusal, ShardId, Space, Target,
};
use crate::limits::{
    FILTER_GROUPS_MAX, GLOBS_COST_MAX, Limits, ROUTE_GROUPS_KEPT, WILDCARDS_WIDTH_MAX,
};
use crate::paged_slab::is_sparse;
use crate::routing::groups::GroupId;
use crate::routing::interest::Change;
use crate::routing::places::{Key, Places};
use crate::routing::subs::{Entry, Filters};
use crate::routing::versions::{Version, Versions};
use crate::tree::position::Position;
use hashbrown::HashMap;
use sapwood_wire::scope::{Audience, Scope};
use sapwood_wire::topic;

/// Cost of a queue group on a route, in steps of about a nanosecond.
const COST_GROUP: u64 = 256;

/// A connection's subscriptions, each with its index among the filter's members.
#[derive(Debug, Default)]
struct Membership {
    places: Places,
    topics: u32,
    globs: u32,
    shard_channels: u32,
    wildcards: u32,
    /// The connection is leaving: the end of these subscriptions is being announced to the other shards.
    leaving: bool,
}

impl Membership {
    fn counter(&mut self, kind: FilterKind) -> &mut u32 {
        match kind {
            FilterKind::Topic => &mut self.topics,
            FilterKind::Glob => &mut self.globs,
            FilterKind::ShardChannel => &mut self.shard_channels,
            FilterKind::Wildcard => &mut self.wildcards,
            FilterKind::Node => unreachable!("nobody subscribes to nodes"),
        }
    }
}

/// The receivers of a topic's events. Valid while `version` is current.
#[derive(Debug, Default)]
pub(crate) struct Route {
    version: Version,
    space: Option<Space>,
    topic: Vec<u8>,
    /// Matching filters with plain members (no group) on this shard.
    pub filters: Vec<FilterId>,
    /// Number of members of those filters.
    pub receivers: usize,
    /// Other shards with plain subscribers, each once; then `keeper`.
    pub shards: Vec<ShardId>,
    /// The state worker that keeps the topic's events.
    pub keeper: Option<ShardId>,
    /// Links with plain subscribers behind them, each once.
    pub links: Vec<LinkId>,
    /// Groups with a member on any shard or behind any link, each once.
    pub groups: Vec<GroupRoute>,
    /// Index of each group in `groups`.
    group_places: HashMap<GroupId, usize, foldhash::fast::FixedState>,
    /// Group routes of earlier topics, kept for their memory.
    spare_groups: Vec<GroupRoute>,
    /// Other shards that an event may go to: those of `shards`, and those of the groups.
    pub targets: Vec<ShardId>,
    /// Matching subscriptions on all shards of this node, a group counting as one: what PUBLISH returns.
    pub subscriptions: u64,
    /// The scope that the topic has beside its name.
    pub scope: RouteScope,
}

/// The scope of a topic: what it says beside its name. Usually nothing.
#[derive(Debug)]
pub(crate) struct RouteScope {
    /// Offset in the topic of the name that subscribers see.
    pub name_at: usize,
    /// Who receives the events.
    pub audience: Audience,
    /// Trace: nobody receives the events, and nodes report their path.
    pub is_traced: bool,
    /// The topic names target nodes, and on each of them groups take turns of their own.
    pub is_placed: bool,
    /// This node is a target.
    pub is_here: bool,
    /// A target address would be below this node, and no node stands there.
    pub is_lost: bool,
    /// The targets are one node of a group: the route to the nodes of that group.
    pub turn: Option<GroupRoute>,
}

impl Default for RouteScope {
    fn default() -> RouteScope {
        RouteScope {
            name_at: 0,
            audience: Audience::Subscribers,
            is_traced: false,
            is_placed: false,
            is_here: true,
            is_lost: false,
            turn: None,
        }
    }
}

impl RouteScope {
    /// Whether events go to all links and shards, with or without subscribers there.
    pub(crate) fn is_for_all(&self) -> bool {
        self.audience != Audience::Subscribers
    }
}

/// The route of a topic's events to one group.
#[derive(Debug)]
pub(crate) struct GroupRoute {
    pub group: GroupId,
    /// Entries of the group with members on this shard.
    pub entries: Vec<FilterId>,
    /// Number of members on each shard that has any, this one included, and behind each link.
    pub weights: Vec<(Target, u32)>,
}

impl GroupRoute {
    fn add(&mut self, target: Target, members: u32) {
        match self.weights.iter_mut().find(|(other, _)| *other == target) {
            Some((_, weight)) => *weight = weight.saturating_add(members),
            None => self.weights.push((target, members)),
        }
    }
}

impl Route {
    /// The route to this group; a new one is empty.
    fn group_mut(&mut self, group: GroupId) -> &mut GroupRoute {
        let next = self.groups.len();
        let place = *self.group_places.entry(group).or_insert(next);
        if place == next {
            let spare = self.spare_groups.pop();
            let (entries, weights) =
                spare.map_or_else(Default::default, |spare| (spare.entries, spare.weights));
            self.groups.push(GroupRoute {
                group,
                entries,
                weights,
            });
        }
        &mut self.groups[place]
    }

    /// Removes all groups, and keeps the memory of some for reuse.
    fn forget_groups(&mut self) {
        self.group_places.clear();
        for mut route in self.groups.drain(..) {
            if self.spare_groups.len() < ROUTE_GROUPS_KEPT {
                route.entries.clear();
                route.weights.clear();
                self.spare_groups.push(route);
            }
        }
    }

    /// Makes the route lead to all these shards, with or without subscribers there.
    pub(crate) fn lead_to_shards(&mut self, shards: impl Iterator<Item = ShardId>) {
        self.shards.clear();
        self.shards.extend(shards);
        self.targets.clone_from(&self.shards);
    }

    /// Index in `groups` of the group with this name.
    pub(crate) fn place_of(&self, broker: &Broker, name: &[u8]) -> Option<usize> {
        let group = broker.filters.groups.find(name)?;
        self.group_places.get(&group).copied()
    }

    /// Whether the topic's events may have listeners that are not counted: on another node, or a worker that keeps them.
    pub(crate) fn is_heard_beyond(&self) -> bool {
        let groups = self.groups.iter().chain(&self.scope.turn);
        let weights = groups.flat_map(|group| &group.weights);
        let mut targets = weights.map(|(target, _)| target);
        self.keeper.is_some()
            || !self.links.is_empty()
            || targets.any(|target| matches!(target, Target::Link(_)))
    }

    /// Whether no change since the look-up may concern this route.
    pub(crate) fn is_current(&self, broker: &Broker) -> bool {
        broker.versions.is_current(self.version)
    }

    /// Whether this is a current route of this topic.
    pub(crate) fn fits(&self, broker: &Broker, space: Space, topic: &[u8]) -> bool {
        self.is_current(broker) && self.space == Some(space) && self.topic == topic
    }
}

/// Filters that are wanted behind a link.
#[derive(Clone, Copy, Debug, Default)]
struct Behind {
    filters: u32,
    /// Names of nodes among them.
    names: u32,
    /// Globs among them, and the most that they cost a look-up, in steps of about a nanosecond.
    globs: u32,
    globs_cost: u64,
    /// They were more than a link may want: it is sent everything instead, and only its queue groups are kept.
    is_over: bool,
}

/// The subscriptions of a shard's connections, and the interest of other shards and links.
#[derive(Debug)]
pub(crate) struct Broker {
    me: ShardId,
    filters: Filters,
    memberships: Vec<Membership>,
    changed: Vec<FilterId>,
    versions: Versions,
    subscriptions: u64,
    subscriptions_max: usize,
    filters_max: usize,
    globs_max: usize,
    /// Links behind which any event may be wanted.
    everything: Vec<LinkId>,
    /// Whether this shard announces interest to links.
    tells_links: bool,
    /// `everything` has changed since links were last told.
    everything_changed: bool,
    changed_for_links: Vec<FilterId>,
    /// What is wanted behind each link.
    behind: Vec<Behind>,
    /// The sum over all links.
    behind_all: Behind,
    link_filters_max: usize,
    link_globs_max: usize,
    /// The node's position in the tree.
    position: Position,
}

impl Broker {
    pub(crate) fn new(me: ShardId, seed: u64, limits: &Limits) -> Broker {
        Broker {
            me,
            filters: Filters::new(seed),
            memberships: Vec::new(),
            changed: Vec::new(),
            versions: Versions::new(seed),
            subscriptions: 0,
            subscriptions_max: limits.subscriptions_max,
            filters_max: limits.filters_max,
            globs_max: limits.globs_max,
            everything: Vec::new(),
            tells_links: false,
            everything_changed: false,
            changed_for_links: Vec::new(),
            behind: Vec::new(),
            behind_all: Behind::default(),
            link_filters_max: limits.link_filters_max,
            link_globs_max: limits.link_globs_max,
            position: Position::default(),
        }
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Number of subscriptions of all connections of this shard.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// Number of a connection's subscriptions of this kind.
    pub(crate) fn count(&self, conn: ConnId, kind: FilterKind) -> usize {
        self.memberships.get(conn.slot()).map_or(0, |membership| {
            let count = match kind {
                FilterKind::Topic => membership.topics,
                FilterKind::Glob => membership.globs,
                FilterKind::ShardChannel => membership.shard_channels,
                FilterKind::Wildcard => membership.wildcards,
                FilterKind::Node => 0,
            };
            count as usize
        })
    }

    /// Whether a connection has any subscription.
    pub(crate) fn listens(&self, conn: ConnId) -> bool {
        self.memberships
            .get(conn.slot())
            .is_some_and(|membership| !membership.places.is_empty())
    }

    /// Number of a connection's subscriptions of all kinds.
    pub(crate) fn count_all(&self, conn: ConnId) -> usize {
        let membership = self.memberships.get(conn.slot());
        membership.map_or(0, |membership| membership.places.len())
    }

    /// Adds a subscription. `Ok(false)` if the connection had it already.
    pub(crate) fn subscribe(
        &mut self,
        member: Member,
        form: Form,
        filter: Filter<'_>,
    ) -> Result<bool, Refusal> {
        let Member { conn, number } = member;
        let checked = match filter.kind {
            FilterKind::Wildcard => topic::check_wildcard(filter.name),
            _ => topic::check_name(filter.name),
        };
        checked.map_err(Refusal::Name)?;
        if self.memberships.len() <= conn.slot() {
            self.memberships
                .resize_with(conn.slot() + 1, Membership::default);
        }
        assert!(
            !self.memberships[conn.slot()].leaving,
            "who is leaving subscribes to nothing"
        );
        match self.filters.find(filter) {
            Some(id) if self.memberships[conn.slot()].places.has((id, number)) => {
                return Ok(false);
            }
            Some(_) => {}
            None if self.filters.size() >= self.filters_max => {
                return Err(Refusal::TooManyFilters(self.filters_max));
            }
            // What other nodes want does not count against this node's clients.
            None if filter.kind == FilterKind::Glob
                && self.filters.glob_count() >= self.globs_max + self.behind_all.globs as usize =>
            {
                return Err(Refusal::TooManyGlobs(self.globs_max));
            }
            None => {}
        }
        if !filter.group.is_empty() && self.filters.has_most_groups(filter) {
            return Err(Refusal::TooManyGroups(FILTER_GROUPS_MAX));
        }
        if self.memberships[conn.slot()].places.len() >= self.subscriptions_max {
            return Err(Refusal::TooManySubscriptions(self.subscriptions_max));
        }
        let id = self.filters.intern(filter);
        if let Some(refusal) = self.costs_too_much(filter.kind) {
            self.filters.forget_if_needless(id);
            // It was there before, or another shard wants it: then it costs nothing more.
            if !self.filters.has(id) {
                return Err(refusal);
            }
        }
        let entry = self.filters.entry_mut(id);
        let membership = &mut self.memberships[conn.slot()];
        membership
            .places
            .set((id, number), entry.members.len() as u32);
        *membership.counter(filter.kind) += 1;
        entry.members.push(member);
        entry.forms[form.index()] += 1;
        self.subscriptions += 1;
        self.note_change(id);
        Ok(true)
    }

    /// Whether patterns of this kind make the look-up of some topic cost more than is allowed.
    fn costs_too_much(&self, kind: FilterKind) -> Option<Refusal> {
        match kind {
            FilterKind::Glob
                if self.filters.globs_cost() > GLOBS_COST_MAX + self.behind_all.globs_cost =>
            {
                Some(Refusal::GlobsTooCostly)
            }
            FilterKind::Wildcard if self.filters.wildcards_width() > WILDCARDS_WIDTH_MAX => {
                Some(Refusal::WildcardsTooWide)
            }
            _ => None,
        }
    }

    /// Removes a subscription. False if there was none.
    pub(crate) fn unsubscribe(&mut self, member: Member, form: Form, filter: Filter<'_>) -> bool {
        let Some(id) = self.filters.find(filter) else {
            return false;
        };
        self.remove_member(member, form, id)
    }

    /// Whether this member is among those of a filter.
    pub(crate) fn is_member(&self, filter: FilterId, Member { conn, number }: Member) -> bool {
        let membership = self.memberships.get(conn.slot());
        membership.is_some_and(|there| there.places.has((filter, number)))
    }

    /// The filters that a connection is subscribed to from an index on, each with its index and the member's number.
    pub(crate) fn subscribed_from(
        &self,
        conn: ConnId,
        from: usize,
    ) -> impl Iterator<Item = (usize, (u32, &Entry))> {
        let membership = self.memberships.get(conn.slot());
        let keys = membership
            .into_iter()
            .flat_map(move |membership| membership.places.keys_from(from));
        let entries = keys.map(|(id, number)| (number, self.filters.entry(id)));
        entries
            .enumerate()
            .map(move |(place, entry)| (from + place, entry))
    }

    /// The names that a connection is subscribed to, in an order that depends on the history alone.
    pub(crate) fn names(&self, conn: ConnId, kind: FilterKind) -> Vec<Box<[u8]>> {
        let Some(membership) = self.memberships.get(conn.slot()) else {
            return Vec::new();
        };
        let keys = membership.places.keys_from(0);
        let entries = keys.map(|(id, _)| self.filters.entry(id));
        entries
            .filter(|entry| entry.kind == kind)
            .map(|entry| entry.name.clone())
            .collect()
    }

    /// Names of this kind among a connection's subscriptions before an index, from the last on: at most `most`, among
    /// at most four times as many that are looked at. Gives the index before which the rest is.
    pub(crate) fn names_before(
        &self,
        conn: ConnId,
        from: usize,
        kind: FilterKind,
        most: usize,
    ) -> (Vec<Box<[u8]>>, usize) {
        let mut names = Vec::new();
        let Some(membership) = self.memberships.get(conn.slot()) else {
            return (names, 0);
        };
        let from = from.min(membership.places.len());
        let end = from.saturating_sub(4 * most);
        let keys = membership.places.keys_from(end).take(from - end);
        let keys: Vec<Key> = keys.collect();
        for (place, &(id, _)) in (end..from).zip(&keys).rev() {
            let entry = self.filters.entry(id);
            if entry.kind == kind {
                names.push(entry.name.clone());
                if names.len() == most {
                    return (names, place);
                }
            }
        }
        (names, end)
    }

    /// Removes all subscriptions of a connection.
    pub(crate) fn leave(&mut self, conn: ConnId, form: Form) {
        self.leave_some(conn, form, usize::MAX, |_| {});
    }

    /// Removes at most so many subscriptions of a connection; `each` gets their numbers. Gives whether none is left.
    pub(crate) fn leave_some(
        &mut self,
        conn: ConnId,
        form: Form,
        most: usize,
        mut each: impl FnMut(u32),
    ) -> bool {
        // One at a time, because removing one may move another of the same connection.
        for _ in 0..most {
            let Some(membership) = self.memberships.get_mut(conn.slot()) else {
                return true;
            };
            let Some(((id, number), place)) = membership.places.pop() else {
                break;
            };
            let entry = self.filters.entry_mut(id);
            entry.leaving -= u32::from(membership.leaving);
            self.take_from_filter(Member { conn, number }, form, id, place);
            each(number);
        }
        let Some(membership) = self.memberships.get_mut(conn.slot()) else {
            return true;
        };
        let has_left = membership.places.is_empty();
        if has_left {
            *membership = Membership::default();
        }
        has_left
    }

    /// Frees the table entries behind the last connection that has subscriptions. Not done whenever a connection
    /// leaves: if the last one comes and goes, the table would be reallocated each time.
    pub(crate) fn release_spares(&mut self) {
        let memberships = &mut self.memberships;
        while memberships.pop_if(|last| last.places.is_empty()).is_some() {}
        memberships.shrink_to_fit();
    }

    /// Begins to remove all subscriptions of a connection. Those in groups end at once, because the other members take
    /// over their turns. The end of the rest is announced to the other shards, and events on their way still arrive
    /// until [`leave`](Broker::leave).
    pub(crate) fn begin_to_leave(&mut self, conn: ConnId, form: Form) {
        let Some(membership) = self.memberships.get_mut(conn.slot()) else {
            return;
        };
        let keys: Vec<Key> = membership.places.keys_from(0).collect();
        for &(id, number) in &keys {
            if self.filters.entry(id).group.is_some() {
                self.remove_member(Member { conn, number }, form, id);
            } else {
                self.filters.entry_mut(id).leaving += 1;
                self.note_change(id);
            }
        }
        let membership = &mut self.memberships[conn.slot()];
        membership.leaving = !membership.places.is_empty();
    }

    /// Updates the counts of forms when a connection changes its form.
    pub(crate) fn change_form(&mut self, conn: ConnId, from: Form, to: Form) {
        let Some(membership) = self.memberships.get(conn.slot()) else {
            return;
        };
        for (id, _) in membership.places.keys_from(0) {
            let entry = self.filters.entry_mut(id);
            entry.forms[from.index()] -= 1;
            entry.forms[to.index()] += 1;
        }
    }

    /// Removes a member from a filter. False if it was none.
    pub(crate) fn remove_member(&mut self, member: Member, form: Form, id: FilterId) -> bool {
        let Some(membership) = self.memberships.get_mut(member.conn.slot()) else {
            return false;
        };
        let Some(place) = membership.places.remove((id, member.number)) else {
            return false;
        };
        assert!(!membership.leaving, "who is leaving has ended them all");
        let kind = self.filters.entry(id).kind;
        let counter = membership.counter(kind);
        assert!(*counter > 0, "a subscription that was not counted");
        *counter -= 1;
        if membership.places.is_empty() {
            // An idle connection keeps no memory of earlier subscriptions.
            *membership = Membership::default();
        }
        self.take_from_filter(member, form, id, place);
        true
    }

    fn take_from_filter(&mut self, member: Member, form: Form, id: FilterId, place: u32) {
        let entry = self.filters.entry_mut(id);
        let removed = entry.members.swap_remove(place as usize);
        assert_eq!(
            removed, member,
            "a filter's members and its members' places differ"
        );
        entry.forms[form.index()] -= 1;
        if let Some(&moved) = entry.members.get(place as usize) {
            let places = &mut self.memberships[moved.conn.slot()].places;
            places.set((id, moved.number), place);
        }
        if entry.members.is_empty() {
            entry.members = Vec::new();
        } else if is_sparse(entry.members.len(), entry.members.capacity()) {
            entry.members.shrink_to(2 * entry.members.len());
        }
        self.subscriptions -= 1;
        self.note_change(id);
    }

    fn note_change(&mut self, id: FilterId) {
        self.note_change_for_links(id);
        let entry = self.filters.entry_mut(id);
        self.versions.filter_changed(entry.kind, &entry.name);
        if !entry.changed {
            entry.changed = true;
            self.changed.push(id);
        }
    }

    fn note_change_for_links(&mut self, id: FilterId) {
        let entry = self.filters.entry_mut(id);
        if self.tells_links && !entry.changed_for_links {
            entry.changed_for_links = true;
            self.changed_for_links.push(id);
        }
    }

    /// Whether there are changes to announce to the other shards.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes the changes to announce to the other shards since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in std::mem::take(&mut self.changed) {
            let entry = self.filters.entry_mut(id);
            entry.changed = false;
            let listeners = entry.members.len() as u32 - entry.leaving;
            if listeners != entry.announced {
                entry.announced = listeners;
                let entry = self.filters.entry(id);
                let group = entry.group.map(|group| self.filters.groups.name(group));
                changes.push(Change {
                    kind: entry.kind,
                    name: entry.name.clone(),
                    group: group.unwrap_or_default().into(),
                    listeners,
                });
            }
            self.filters.forget_if_needless(id);
        }
        changes
    }

    /// Applies the changes that another shard announced.
    pub(crate) fn apply_changes(&mut self, from: ShardId, changes: &[Change]) {
        for change in changes {
            let id = self.filters.intern(Filter {
                kind: change.kind,
                name: &change.name,
                group: &change.group,
            });
            let entry = self.filters.entry_mut(id);
            entry.shards.retain(|&(shard, _)| shard != from);
            if change.listeners > 0 {
                entry.shards.push((from, change.listeners));
            }
            if entry.shards.is_empty() {
                entry.shards = Vec::new();
            }
            self.versions.filter_changed(change.kind, &change.name);
            self.note_change_for_links(id);
            self.filters.forget_if_needless(id);
        }
    }

    /// Applies the changes of what a state worker keeps.
    pub(crate) fn apply_keeping(&mut self, worker: ShardId, changes: &[Change]) {
        for change in changes {
            let is_topic = matches!(change.kind, FilterKind::Topic | FilterKind::Wildcard);
            assert!(
                is_topic && change.group.is_empty(),
                "none of a stream's: {change:?}"
            );
            let id = self
                .filters
                .intern(Filter::plain(change.kind, &change.name));
            self.filters.entry_mut(id).change_remote(|remote| {
                remote.workers.retain(|&other| other != worker);
                if change.listeners > 0 {
                    remote.workers.push(worker);
                }
            });
            self.versions.filter_changed(change.kind, &change.name);
            self.note_change_for_links(id);
            self.filters.forget_if_needless(id);
        }
    }

    /// Finds the receivers of a topic's events. `route` is overwritten, and its memory reused. Gives what it cost, in
    /// steps of about a nanosecond.
    pub(crate) fn route(&self, space: Space, name: &[u8], route: &mut Route) -> u64 {
        route.space = Some(space);
        route.topic.clear();
        route.topic.extend_from_slice(name);
        route.filters.clear();
        route.shards.clear();
        route.links.clear();
        route.links.extend_from_slice(&self.everything);
        route.forget_groups();
        route.receivers = 0;
        route.subscriptions = 0;
        route.keeper = None;
        let scope = match space {
            Space::Topic => Scope::parse(name).ok(),
            Space::ShardChannel => None,
        };
        let shown = scope.map_or(name, |scope| scope.name);
        route.version = self.versions.of(space, shown);
        route.scope = RouteScope {
            name_at: name.len() - shown.len(),
            ..RouteScope::default()
        };
        let mut groups = 0;
        let cost = self.filters.matching(space, shown, |id| {
            let entry = self.filters.entry(id);
            route.subscriptions += entry.listeners();
            if !entry.members.is_empty() {
                route.filters.push(id);
                route.receivers += entry.members.len();
            }
            for &(shard, _) in &entry.shards {
                if !route.shards.contains(&shard) {
                    route.shards.push(shard);
                }
            }
            for &(link, _) in entry.wanted() {
                if !route.links.contains(&link) {
                    route.links.push(link);
                }
            }
            route.keeper = route.keeper.or_else(|| entry.keeper(shown));
            groups += entry.group_entries.len() as u64;
            for &id in &entry.group_entries {
                self.route_to_group(id, route);
            }
        });
        let cost = cost + groups * COST_GROUP;
        // PUBLISH counts subscriptions of this node only, so groups of other nodes are not counted.
        let is_here = |&(target, _): &(Target, u32)| matches!(target, Target::Shard(_));
        let groups_here = route.groups.iter();
        let groups_here = groups_here.filter(|group| group.weights.iter().any(is_here));
        route.subscriptions += groups_here.count() as u64;
        if let Some(scope) = scope.filter(|_| topic::is_reserved(name)) {
            self.narrow(&scope, route);
        }
        route.shards.extend(route.keeper);
        route.targets.clear();
        route.targets.extend_from_slice(&route.shards);
        for (target, _) in route.groups.iter().flat_map(|group| &group.weights) {
            if let Target::Shard(shard) = *target
                && shard != self.me
                && !route.targets.contains(&shard)
            {
                route.targets.push(shard);
            }
        }
        cost
    }

    fn route_to_group(&self, id: FilterId, route: &mut Route) {
        let entry = self.filters.entry(id);
        let is_heard = entry.listeners() > 0 || !entry.wanted().is_empty();
        let Some(group) = entry.group.filter(|_| is_heard) else {
            return;
        };
        let route = route.group_mut(group);
        if !entry.members.is_empty() {
            route.entries.push(id);
            route.add(Target::Shard(self.me), entry.members.len() as u32);
        }
        for &(shard, members) in &entry.shards {
            route.add(Target::Shard(shard), members);
        }
        for &(link, members) in entry.wanted() {
            route.add(Target::Link(link), members);
        }
    }

    /// Takes a group's turn for one event, among the shards and links that have members.
    pub(crate) fn take_turn(&mut self, route: &GroupRoute) -> Target {
        self.filters.groups.take_turn(route.group, &route.weights)
    }

    /// Takes a group's turn again, after `tries` shards or links, the last of them `by`, had no member left. Avoids
    /// `by` if another has members. From the second try on, this shard is chosen if it has members, because they are
    /// known for sure.
    pub(crate) fn take_turn_again(&mut self, route: &GroupRoute, by: Target, tries: u8) -> Target {
        if tries > 1 && !route.entries.is_empty() {
            return Target::Shard(self.me);
        }
        let weights = route.weights.iter().copied();
        let others: Vec<_> = weights.filter(|&(target, _)| target != by).collect();
        let weights = if others.is_empty() {
            &route.weights
        } else {
            &others
        };
        self.filters.groups.take_turn(route.group, weights)
    }

    /// Takes a group's turn among all shards and links with members except `but`. `None` if there is no other.
    pub(crate) fn take_turn_besides(&mut self, route: &GroupRoute, but: Target) -> Option<Target> {
        let weights = route.weights.iter().copied();
        let others: Vec<_> = weights.filter(|&(target, _)| target != but).collect();
        let group = route.group;
        (!others.is_empty()).then(|| self.filters.groups.take_turn(group, &others))
    }

    /// Takes a group's turn among this shard's members. `None` if there are none.
    pub(crate) fn take_member_turn(&mut self, route: &GroupRoute) -> Option<(FilterId, Member)> {
        match &route.entries[..] {
            [] => None,
            entries => Some(self.filters.take_turn(entries)),
        }
    }

    /// Whether a group has members on this shard and all of them belong to this connection.
    pub(crate) fn are_members_of(&self, route: &GroupRoute, conn: ConnId) -> bool {
        !route.entries.is_empty() && self.member_besides(route, conn).is_none()
    }

    /// A group member on this shard that belongs to another connection.
    pub(crate) fn member_besides(
        &self,
        route: &GroupRoute,
        conn: ConnId,
    ) -> Option<(FilterId, Member)> {
        let members = route.entries.iter().flat_map(|&id| {
            let members = self.filters.entry(id).members.iter();
            members.map(move |&member| (id, member))
        });
        let mut others = members.filter(|(_, member)| member.conn != conn);
        others.next()
    }

    pub(crate) fn group_name(&self, route: &GroupRoute) -> &[u8] {
        self.filters.groups.name(route.group)
    }

    /// This shard's id.
    pub(crate) fn me(&self) -> ShardId {
        self.me
    }

    /// Number of subscribers to exactly this filter, on all shards.
    pub(crate) fn listeners(&self, filter: Filter<'_>) -> u64 {
        self.filters
            .find(filter)
            .map_or(0, |id| self.filters.listeners(self.filters.entry(id)))
    }

    /// Number of distinct globs that have listeners.
    pub(crate) fn active_globs(&self) -> usize {
        let globs = self.filters.globs();
        globs.filter(|entry| entry.listeners() > 0).count()
    }
}

#[cfg(test)]
mod tests;
