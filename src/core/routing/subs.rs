//! The index of filters: finds those that match a topic.
//!
//! Each filter with interest on this node or behind a link has one entry, on every shard: the members on this shard,
//! and the number of listeners on each other shard. Exact names are found by hash, token wildcards in a trie, globs by
//! their literal prefix, those that share it by trying each. The members of a queue group have an entry of their own,
//! attached to the plain entry of the same filter, and only plain entries are looked up. Must not know protocols,
//! outboxes or how shards talk. Invariants: an entry exists exactly as long as it has listeners, a change of it has to
//! be announced, or a group's entry is attached to it; the order of members and filters depends on the history alone,
//! never on the hash seed. Start at [`Filters::matching`].

use crate::command::{Event, Filter, FilterId, FilterKind, Form, LinkId, Member, ShardId, Space};
use crate::limits::FILTER_GROUPS_MAX;
use crate::paged_slab::{PagedSlab, is_sparse};
use crate::routing::globs::Globs;
use crate::routing::groups::{GroupId, Groups, next_turn};
use crate::routing::trie::Trie;
use crate::split_table::SplitTable;
use sapwood_wire::{glob, scope, topic};
use std::hash::{BuildHasher, Hash, Hasher};

/// Cost of a node of the trie that a topic leads to, in steps of about a nanosecond.
const COST_NODE: u64 = 64;

/// What the names of inboxes begin with, which requesters make for their replies.
const INBOX: &[u8] = b"_INBOX.";

/// A filter and its listeners.
#[derive(Debug)]
pub(crate) struct Entry {
    pub kind: FilterKind,
    pub name: Box<[u8]>,
    /// The queue group of the members; `None` for plain members.
    pub group: Option<GroupId>,
    /// The groups' entries of the same filter.
    pub group_entries: Vec<FilterId>,
    /// Subscribers on this shard.
    pub members: Vec<Member>,
    /// Number of members that are leaving; they still receive events that are on their way.
    pub leaving: u32,
    /// Number of members by form.
    pub forms: [u32; Form::COUNT],
    /// Number of listeners on each other shard that has any.
    pub shards: Vec<(ShardId, u32)>,
    /// Interest behind links and of state workers, and interest announced to links. `None` for nearly all filters.
    pub remote: Option<Box<RemoteInterest>>,
    /// The number of members last announced to the other shards.
    pub announced: u32,
    /// The entry is in the list of changes to announce to shards.
    pub changed: bool,
    /// The entry is in the list of changes to announce to links.
    pub changed_for_links: bool,
    /// Index of a group's entry among those of its filter.
    group_place: u32,
    /// Credit of a group's entry in the round robin among the group's entries on this shard.
    credit: i64,
    /// Index of the group member that takes the next turn, modulo the number of members.
    next_member: usize,
}

/// The interest of others than clients of this node in a filter: of other nodes, and of state workers.
#[derive(Debug, Default)]
pub(crate) struct RemoteInterest {
    /// Workers that keep the events: one, but while a filter goes from one to another. They count in no number that is
    /// shown.
    pub workers: Vec<ShardId>,
    /// Number of listeners behind each link that has any.
    pub wanted: Vec<(LinkId, u32)>,
    /// The count last announced to each link, if not 0. Kept only on the shard that announces.
    pub told: Vec<(LinkId, u32)>,
}

impl Entry {
    /// Number of listeners behind each link that has any.
    pub(crate) fn wanted(&self) -> &[(LinkId, u32)] {
        self.remote.as_ref().map_or(&[], |remote| &remote.wanted)
    }

    /// The count last announced to each link, if not 0.
    pub(crate) fn told(&self) -> &[(LinkId, u32)] {
        self.remote.as_ref().map_or(&[], |remote| &remote.told)
    }

    /// Whether a worker keeps the events.
    pub(crate) fn is_kept(&self) -> bool {
        let mut remote = self.remote.iter();
        remote.any(|remote| !remote.workers.is_empty())
    }

    /// The worker that keeps an event of this topic. A name with `$` is kept by none, and one below `_INBOX` only where
    /// the filter says that too.
    pub(crate) fn keeper(&self, topic: &[u8]) -> Option<ShardId> {
        let &worker = self.remote.as_ref()?.workers.first()?;
        let is_inbox = topic.starts_with(INBOX) && !self.name.starts_with(INBOX);
        (!topic::is_reserved(topic) && !is_inbox).then_some(worker)
    }

    /// Changes the interest of other nodes and of workers.
    pub(crate) fn change_remote(&mut self, change: impl FnOnce(&mut RemoteInterest)) {
        let remote = self.remote.get_or_insert_default();
        change(remote);
        if remote.wanted.is_empty() && remote.told.is_empty() && remote.workers.is_empty() {
            self.remote = None;
        }
    }

    /// Number of members on all shards of the node.
    pub(crate) fn listeners(&self) -> u64 {
        let remote: u64 = self.shards.iter().map(|&(_, count)| u64::from(count)).sum();
        self.members.len() as u64 - u64::from(self.leaving) + remote
    }

    fn is_needless(&self) -> bool {
        let is_heard = !self.members.is_empty() || !self.shards.is_empty();
        let is_told = !self.changed && !self.changed_for_links && self.remote.is_none();
        !is_heard && is_told && self.group_entries.is_empty()
    }
}

/// All filters that a shard knows.
#[derive(Debug)]
pub(crate) struct Filters {
    entries: PagedSlab<Entry>,
    names: SplitTable<FilterId>,
    hasher: foldhash::fast::FixedState,
    globs: Globs,
    /// Number of entries by kind.
    counts: [usize; 5],
    /// Number of entries for names of nodes, including groups of nodes.
    node_names: usize,
    /// Those that are addresses where NATS clients can connect.
    nats_addresses: Vec<FilterId>,
    /// Number of changes of these.
    nats_addresses_version: u64,
    wildcards: Trie<FilterId>,
    pub groups: Groups,
    /// Number of entries removed since the start.
    removed: u64,
}

impl Filters {
    /// An empty index. The seed keeps outsiders from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Filters {
        Filters {
            entries: PagedSlab::default(),
            names: SplitTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            globs: Globs::new(seed),
            counts: [0; 5],
            node_names: 0,
            nats_addresses: Vec::new(),
            nats_addresses_version: 0,
            wildcards: Trie::new(seed),
            groups: Groups::new(seed),
            removed: 0,
        }
    }

    /// The names of nodes that are addresses where NATS clients can connect, and the number of their changes.
    pub(crate) fn nats_addresses(&self) -> (&[FilterId], u64) {
        (&self.nats_addresses, self.nats_addresses_version)
    }

    /// Number of filters that clients subscribed to, on this node or elsewhere.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.node_names
    }

    /// Number of all filters, including names of nodes.
    pub(crate) fn len_with_nodes(&self) -> usize {
        self.entries.len()
    }

    /// Number of entries removed since the start: as long as it is the same, no id has become another filter's.
    pub(crate) fn removed(&self) -> u64 {
        self.removed
    }

    /// Whether an entry matches an event, by its own name alone.
    pub(crate) fn matches(&self, id: FilterId, event: &Event<'_>) -> bool {
        let Entry { kind, name, .. } = self.entry(id);
        match kind {
            FilterKind::Topic => event.space == Space::Topic && **name == *event.topic,
            FilterKind::ShardChannel => {
                event.space == Space::ShardChannel && **name == *event.topic
            }
            FilterKind::Glob => glob::matches(name, event.topic),
            FilterKind::Wildcard => topic::wildcard_matches(name, event.topic),
            FilterKind::Node => false,
        }
    }

    pub(crate) fn glob_count(&self) -> usize {
        self.globs.len()
    }

    /// The most that all globs cost a look-up, in steps of about a nanosecond.
    pub(crate) fn globs_cost(&self) -> u64 {
        self.globs.cost()
    }

    /// The most nodes of wildcards that any topic leads to.
    pub(crate) fn wildcards_width(&self) -> u32 {
        self.wildcards.width()
    }

    /// Number of entries, and of the wildcards' nodes beyond two for each, which take as much memory.
    pub(crate) fn size(&self) -> usize {
        let usual = 2 * self.count(FilterKind::Wildcard);
        self.len() + self.wildcards.len().saturating_sub(usual)
    }

    pub(crate) fn entry(&self, id: FilterId) -> &Entry {
        &self.entries[id.key()]
    }

    pub(crate) fn entry_mut(&mut self, id: FilterId) -> &mut Entry {
        &mut self.entries[id.key()]
    }

    /// Number of listeners of a filter on all shards, including members of queue groups.
    pub(crate) fn listeners(&self, entry: &Entry) -> u64 {
        let in_groups = entry.group_entries.iter();
        let in_groups: u64 = in_groups.map(|&id| self.entry(id).listeners()).sum();
        entry.listeners() + in_groups
    }

    /// The entries of all globs.
    pub(crate) fn globs(&self) -> impl Iterator<Item = &Entry> {
        self.globs.ids().map(|id| self.entry(id))
    }

    /// Number of entries of this kind.
    pub(crate) fn count(&self, kind: FilterKind) -> usize {
        self.counts[kind as usize]
    }

    /// All plain filters from an index on, each with its index, in an order that depends on the history alone. The
    /// entries of groups are reached through them.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let entries = self.entries.iter_from(from);
        entries.filter(|(_, entry)| entry.group.is_none())
    }

    /// Whether this entry exists.
    pub(crate) fn has(&self, id: FilterId) -> bool {
        self.entries.get(id.key()).is_some()
    }

    /// The ids of all entries, including those of groups.
    pub(crate) fn ids(&self) -> Vec<FilterId> {
        let keys = self.entries.iter().map(|(key, _)| FilterId(key as u32));
        keys.collect()
    }

    pub(crate) fn find(&self, filter: Filter<'_>) -> Option<FilterId> {
        let group = match filter.group {
            [] => None,
            name => Some(self.groups.find(name)?),
        };
        self.find_in(filter.kind, filter.name, group)
    }

    fn find_in(&self, kind: FilterKind, name: &[u8], group: Option<GroupId>) -> Option<FilterId> {
        let hash = hash_key(&self.hasher, kind, name, group);
        let is_it = |id: &FilterId| {
            let entry = &self.entries[id.key()];
            entry.kind == kind && entry.group == group && *entry.name == *name
        };
        self.names.find(hash, is_it).copied()
    }

    /// Whether a filter has as many queue groups as it may, and this is not one of them.
    pub(crate) fn has_most_groups(&self, filter: Filter<'_>) -> bool {
        let plain = self.find_in(filter.kind, filter.name, None);
        let groups = plain.map_or(0, |plain| self.entry(plain).group_entries.len());
        groups >= FILTER_GROUPS_MAX && self.find(filter).is_none()
    }

    /// The entry of a filter, created if it is new.
    pub(crate) fn intern(&mut self, filter: Filter<'_>) -> FilterId {
        if let Some(id) = self.find(filter) {
            return id;
        }
        if filter.group.is_empty() {
            return self.insert(filter.kind, filter.name, None);
        }
        let plain = self.intern(Filter::plain(filter.kind, filter.name));
        let group = self.groups.enter(filter.group);
        let id = self.insert(filter.kind, filter.name, Some(group));
        let siblings = &mut self.entries[plain.key()].group_entries;
        siblings.push(id);
        let place = siblings.len() as u32 - 1;
        self.entries[id.key()].group_place = place;
        id
    }

    fn insert(&mut self, kind: FilterKind, name: &[u8], group: Option<GroupId>) -> FilterId {
        let hash = hash_key(&self.hasher, kind, name, group);
        let id = FilterId(self.entries.vacant_key() as u32);
        self.entries.insert(Entry {
            kind,
            name: name.into(),
            group,
            group_entries: Vec::new(),
            members: Vec::new(),
            leaving: 0,
            forms: [0; Form::COUNT],
            shards: Vec::new(),
            remote: None,
            announced: 0,
            changed: false,
            changed_for_links: false,
            group_place: 0,
            credit: 0,
            next_member: 0,
        });
        self.node_names += usize::from(kind == FilterKind::Node);
        if is_nats_address(kind, name) {
            self.nats_addresses.push(id);
            self.nats_addresses_version += 1;
        }
        if group.is_none() {
            self.counts[kind as usize] += 1;
            match kind {
                FilterKind::Wildcard => self.wildcards.insert(name, id),
                FilterKind::Glob => self.globs.insert(name, id),
                FilterKind::Topic | FilterKind::ShardChannel | FilterKind::Node => {}
            }
        }
        let Filters {
            entries,
            names,
            hasher,
            ..
        } = self;
        names.insert_unique(hash, id, |id| {
            let entry = &entries[id.key()];
            hash_key(hasher, entry.kind, &entry.name, entry.group)
        });
        id
    }

    /// Removes the entry if it has no listeners and nothing to announce.
    pub(crate) fn forget_if_needless(&mut self, id: FilterId) {
        if !self.entries[id.key()].is_needless() {
            return;
        }
        let entry = self.entries.remove(id.key());
        self.removed += 1;
        self.node_names -= usize::from(entry.kind == FilterKind::Node);
        if is_nats_address(entry.kind, &entry.name) {
            self.nats_addresses.retain(|&other| other != id);
            self.nats_addresses_version += 1;
        }
        let hash = hash_key(&self.hasher, entry.kind, &entry.name, entry.group);
        let Filters {
            entries,
            names,
            hasher,
            ..
        } = self;
        let is_it = |&other: &FilterId| other == id;
        names.remove(hash, is_it, |id| {
            let entry = &entries[id.key()];
            hash_key(hasher, entry.kind, &entry.name, entry.group)
        });
        if let Some(group) = entry.group {
            self.groups.leave(group);
            let plain = self.find_in(entry.kind, &entry.name, None);
            // invariant: a group's entry hangs on one without a group.
            let plain = plain.expect("a group's entry hangs on nothing");
            let siblings = &mut self.entries[plain.key()].group_entries;
            let place = entry.group_place as usize;
            siblings.swap_remove(place);
            let moved = siblings.get(place).copied();
            if siblings.is_empty() {
                *siblings = Vec::new();
            } else if is_sparse(siblings.len(), siblings.capacity()) {
                siblings.shrink_to(2 * siblings.len());
            }
            if let Some(moved) = moved {
                self.entries[moved.key()].group_place = place as u32;
            }
            return self.forget_if_needless(plain);
        }
        self.counts[entry.kind as usize] -= 1;
        match entry.kind {
            FilterKind::Wildcard => self.wildcards.remove(&entry.name),
            FilterKind::Glob => self.globs.remove(&entry.name, id),
            FilterKind::Topic | FilterKind::ShardChannel | FilterKind::Node => {}
        }
    }

    /// Bytes of the hash tables.
    #[cfg(test)]
    fn tables_bytes(&self) -> usize {
        let groups = self.groups.table_bytes();
        self.names.allocation_size() + groups + self.wildcards.tables_bytes()
    }

    /// Takes the turn of one event among these entries of one group, which all have members on this shard.
    pub(crate) fn take_turn(&mut self, entries: &[FilterId]) -> (FilterId, Member) {
        let id = match entries {
            [only] => *only,
            _ => {
                let (place, total) = next_turn(entries.len(), |place| {
                    let entry = &mut self.entries[entries[place].key()];
                    let weight = entry.members.len() as i64;
                    entry.credit += weight;
                    (weight, entry.credit)
                });
                self.entries[entries[place].key()].credit -= total;
                entries[place]
            }
        };
        let entry = &mut self.entries[id.key()];
        let place = entry.next_member % entry.members.len();
        entry.next_member = place + 1;
        (id, entry.members[place])
    }

    /// Calls `each` with every matching plain filter, the exact one first. Entries of groups are reached through them.
    ///
    /// Gives what it cost, in steps of about a nanosecond: one look-up, the matching part of the trie, and the globs that
    /// begin like the name.
    pub(crate) fn matching(
        &self,
        space: Space,
        name: &[u8],
        mut each: impl FnMut(FilterId),
    ) -> u64 {
        let kind = match space {
            Space::Topic => FilterKind::Topic,
            Space::ShardChannel => FilterKind::ShardChannel,
        };
        if let Some(id) = self.find_in(kind, name, None) {
            each(id);
        }
        if space == Space::ShardChannel {
            return 0;
        }
        let nodes = self.wildcards.matching(name, &mut each);
        nodes * COST_NODE + self.globs.matching(name, &mut each)
    }
}

fn is_nats_address(kind: FilterKind, name: &[u8]) -> bool {
    kind == FilterKind::Node && name.starts_with(scope::NATS_ADDRESS)
}

fn hash_key(
    state: &foldhash::fast::FixedState,
    kind: FilterKind,
    name: &[u8],
    group: Option<GroupId>,
) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(name);
    hasher.write_u8(kind as u8);
    if let Some(group) = group {
        group.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ConnId;
    use proptest::prelude::*;

    /// One step of a random history: a filter that gains or loses a listener.
    #[derive(Clone, Debug)]
    struct Step {
        kind: FilterKind,
        name: String,
        group: String,
        comes: bool,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![
            Just(FilterKind::Topic),
            Just(FilterKind::ShardChannel),
            Just(FilterKind::Glob),
            Just(FilterKind::Wildcard),
        ];
        let name = "(\\$|[ab])?(\\.([ab*]|)){0,3}(\\.>)?";
        let step = (kind, name, "[gh]?", any::<bool>());
        step.prop_map(|(kind, name, group, comes)| Step {
            kind,
            name,
            group,
            comes,
        })
    }

    fn oracle_matches(step: &Step, space: Space, name: &[u8]) -> bool {
        let filter = step.name.as_bytes();
        match (step.kind, space) {
            (FilterKind::Topic, Space::Topic) => filter == name,
            (FilterKind::ShardChannel, Space::ShardChannel) => filter == name,
            (FilterKind::Glob, Space::Topic) => glob::matches(filter, name),
            (FilterKind::Wildcard, Space::Topic) => topic::wildcard_matches(filter, name),
            _ => false,
        }
    }

    #[test]
    fn tables_shrink_with_what_they_hold() {
        const MANY: usize = 50_000;
        let mut filters = Filters::new(7);
        for kind in [FilterKind::Topic, FilterKind::Wildcard] {
            let of = |number: usize| (format!("a.{number}"), format!("g{number}"));
            let names: Vec<(String, String)> = (0..MANY).map(of).collect();
            let filter = |place: usize| Filter {
                kind,
                name: names[place].0.as_bytes(),
                group: names[place].1.as_bytes(),
            };
            (0..MANY).for_each(|place| {
                filters.intern(filter(place));
            });
            let full = filters.tables_bytes();
            for place in 10..MANY {
                let id = filters.find(filter(place)).expect("it is there");
                filters.forget_if_needless(id);
            }
            let left = filters.tables_bytes();
            assert!(left < full / 8, "{left} bytes are left of {full}");
            for place in 0..10 {
                let id = filters.find(filter(place)).expect("it stays");
                filters.forget_if_needless(id);
            }
        }
        assert_eq!(filters.len(), 0);
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_matching_one_by_one(
            steps in prop::collection::vec(any_step(), 0..40),
            names in prop::collection::vec("(\\$|[ab])?(\\.[ab]?){0,4}", 1..6),
        ) {
            let mut filters = Filters::new(7);
            let mut present: Vec<Step> = Vec::new();
            for step in steps {
                let filter = Filter {
                    kind: step.kind,
                    name: step.name.as_bytes(),
                    group: step.group.as_bytes(),
                };
                let same = |other: &Step| {
                    (other.kind, &other.name, &other.group) == (step.kind, &step.name, &step.group)
                };
                if step.comes {
                    let id = filters.intern(filter);
                    filters.entry_mut(id).members = vec![Member { conn: ConnId(1), number: 0 }];
                    if !present.iter().any(same) {
                        present.push(step.clone());
                    }
                } else if let Some(id) = filters.find(filter) {
                    filters.entry_mut(id).members.clear();
                    filters.forget_if_needless(id);
                    present.retain(|other| !same(other));
                }
                let mut anchors: Vec<(FilterKind, &str)> =
                    present.iter().map(|step| (step.kind, &step.name[..])).collect();
                anchors.sort();
                anchors.dedup();
                let in_groups = present.iter().filter(|step| !step.group.is_empty()).count();
                prop_assert_eq!(filters.len(), anchors.len() + in_groups);
                for name in &names {
                    for space in [Space::Topic, Space::ShardChannel] {
                        let mut found: Vec<(FilterKind, Vec<u8>, Vec<u8>)> = Vec::new();
                        filters.matching(space, name.as_bytes(), |id| {
                            let anchor = filters.entry(id);
                            for &id in std::iter::once(&id).chain(&anchor.group_entries) {
                                let entry = filters.entry(id);
                                if !entry.members.is_empty() {
                                    let group = entry.group.map(|group| filters.groups.name(group));
                                    let group = group.unwrap_or_default().to_vec();
                                    found.push((entry.kind, entry.name.to_vec(), group));
                                }
                            }
                        });
                        let mut expected: Vec<(FilterKind, Vec<u8>, Vec<u8>)> = present
                            .iter()
                            .filter(|step| oracle_matches(step, space, name.as_bytes()))
                            .map(|step| {
                                let name = step.name.clone().into_bytes();
                                (step.kind, name, step.group.clone().into_bytes())
                            })
                            .collect();
                        found.sort();
                        expected.sort();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
