//! Interest behind links, and the interest of this side that is announced to them.
//!
//! The other side of a link announces which filters have listeners there; the counts are stored in the filters'
//! entries, on every shard. One shard announces to each link the interest on this side of it: this node's clients, and
//! the other links (split horizon). For groups the number of members is announced, because turns are weighted by it;
//! for all other filters only whether there are listeners, of which a state worker is one. Invariant: a link's announced interest equals the real one,
//! except for the filters in the list of changes and, once a link counts as wanting everything, all filters without a
//! group.

use super::{Behind, Broker};
use crate::command::{Filter, FilterId, FilterKind, LinkId};
use crate::limits::{LINK_GLOBS_COST_MAX, WILDCARDS_WIDTH_MAX};
use crate::routing::interest::Change;
use crate::routing::subs::Entry;
use sapwood_wire::glob;

/// A link that interest is announced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub link: LinkId,
    /// The link is to send everything, so filters without a group are not announced to it.
    pub everything: bool,
}

impl Broker {
    /// Starts or stops tracking changes to announce to links. On start, all filters count as changed.
    pub(crate) fn tell_links(&mut self, tells: bool) {
        self.tells_links = tells;
        if tells {
            return self.tell_all_again();
        }
        self.everything_changed = false;
        for id in std::mem::take(&mut self.changed_for_links) {
            self.filters.entry_mut(id).changed_for_links = false;
            self.filters.forget_if_needless(id);
        }
    }

    /// Marks every filter as changed, for a link that knows nothing yet. Cost: all filters.
    pub(crate) fn tell_all_again(&mut self) {
        for id in self.filters.ids() {
            self.note_change_for_links(id);
        }
    }

    /// Whether there are changes to announce to links.
    pub(crate) fn has_changes_for_links(&self) -> bool {
        !self.changed_for_links.is_empty() || self.everything_changed
    }

    /// Passes the changes for each of these links to `tell`. Handles at most `most` filters.
    pub(crate) fn take_link_changes(
        &mut self,
        listeners: &[Listener],
        most: usize,
        mut tell: impl FnMut(LinkId, Change),
    ) {
        self.everything_changed = false;
        let first = self.changed_for_links.len().saturating_sub(most);
        for id in self.changed_for_links.split_off(first) {
            self.filters.entry_mut(id).changed_for_links = false;
            for &listener in listeners {
                self.tell_link(id, listener, &mut tell);
            }
            self.filters.forget_if_needless(id);
        }
    }

    fn tell_link(
        &mut self,
        id: FilterId,
        Listener { link, everything }: Listener,
        tell: &mut impl FnMut(LinkId, Change),
    ) {
        let entry = self.filters.entry(id);
        let is_of_group = entry.group.is_some();
        let wanted = match everything && !is_of_group {
            true => 0,
            false => wanted_before(entry, link),
        };
        let told = entry.told().iter().find(|&&(other, _)| other == link);
        if told.map_or(0, |&(_, listeners)| listeners) == wanted {
            return;
        }
        let group = entry.group.map(|group| self.filters.groups.name(group));
        let change = Change {
            kind: entry.kind,
            name: entry.name.clone(),
            group: group.unwrap_or_default().into(),
            listeners: wanted,
        };
        self.filters
            .entry_mut(id)
            .change_remote(|remote| set(&mut remote.told, link, wanted));
        tell(link, change);
    }

    /// Applies the interest announced by a link's other side. `restart` voids everything announced before; `everything`
    /// says whether any event may be wanted there.
    pub(crate) fn apply_interest(
        &mut self,
        link: LinkId,
        (restart, everything): (bool, bool),
        changes: &[Change],
    ) {
        if restart {
            self.forget_wanted(link);
        }
        self.apply_link_changes(link, changes);
        let behind = self.behind_mut(link);
        if !behind.is_over && self.wants_too_much(link) {
            self.behind_mut(link).is_over = true;
            self.forget_wanted_if(link, |entry| entry.group.is_none());
        }
        let is_over = self.behind_mut(link).is_over;
        self.set_everything(link, everything || is_over);
    }

    fn behind_mut(&mut self, link: LinkId) -> &mut Behind {
        if self.behind.len() <= link.index() {
            self.behind.resize_with(link.index() + 1, Behind::default);
        }
        &mut self.behind[link.index()]
    }

    /// Whether the other side of a link wants more filters than are kept for it, whatever it was told to.
    fn wants_too_much(&mut self, link: LinkId) -> bool {
        let (filters_max, globs_max) = (self.link_filters_max, self.link_globs_max);
        let Behind {
            filters,
            globs,
            globs_cost,
            ..
        } = *self.behind_mut(link);
        let is_wide = self.filters.wildcards_width() > 2 * WILDCARDS_WIDTH_MAX;
        filters as usize > filters_max
            || globs as usize > globs_max
            || globs_cost > LINK_GLOBS_COST_MAX
            || is_wide
    }

    fn apply_link_changes(&mut self, link: LinkId, changes: &[Change]) {
        let is_over = self.behind_mut(link).is_over;
        for change in changes {
            if is_over && change.group.is_empty() {
                continue;
            }
            let id = self.filters.intern(Filter {
                kind: change.kind,
                name: &change.name,
                group: &change.group,
            });
            self.set_wanted(id, link, change.listeners);
            self.versions.filter_changed(change.kind, &change.name);
            self.note_change_for_links(id);
            self.filters.forget_if_needless(id);
        }
    }

    fn set_wanted(&mut self, id: FilterId, link: LinkId, listeners: u32) {
        let entry = self.filters.entry_mut(id);
        let is_wanted = |entry: &Entry| entry.wanted().iter().any(|&(other, _)| other == link);
        let was_wanted = is_wanted(entry);
        entry.change_remote(|remote| set(&mut remote.wanted, link, listeners));
        let is_wanted = is_wanted(entry);
        if is_wanted == was_wanted {
            return;
        }
        let is_glob = entry.kind == FilterKind::Glob;
        let is_name = entry.kind == FilterKind::Node;
        let cost = if is_glob { glob::cost(&entry.name) } else { 0 };
        self.behind_mut(link);
        for behind in [&mut self.behind[link.index()], &mut self.behind_all] {
            if is_wanted {
                behind.filters += 1;
                behind.names += u32::from(is_name);
                behind.globs += u32::from(is_glob);
                behind.globs_cost += cost;
            } else {
                behind.filters -= 1;
                behind.names -= u32::from(is_name);
                behind.globs -= u32::from(is_glob);
                behind.globs_cost -= cost;
            }
        }
    }

    /// Number of filters wanted behind a link, without the names of nodes.
    pub(crate) fn wanted_behind(&self, link: LinkId) -> u32 {
        let behind = self.behind.get(link.index());
        behind.map_or(0, |behind| behind.filters - behind.names)
    }

    /// Sets whether any event may be wanted behind a link.
    fn set_everything(&mut self, link: LinkId, is_wanted: bool) {
        if self.wants_everything(link) == is_wanted {
            return;
        }
        self.everything_changed |= self.tells_links;
        self.everything.retain(|&other| other != link);
        if is_wanted {
            self.everything.push(link);
        }
        self.versions.all_changed();
    }

    /// Whether any event may be wanted behind a link.
    pub(crate) fn wants_everything(&self, link: LinkId) -> bool {
        self.everything.contains(&link)
    }

    /// Removes the interest behind a link. Cost: all filters.
    pub(crate) fn forget_wanted(&mut self, link: LinkId) {
        self.forget_wanted_if(link, |_| true);
        self.behind_mut(link).is_over = false;
        self.set_everything(link, false);
        self.versions.all_changed();
    }

    fn forget_wanted_if(&mut self, link: LinkId, is_meant: impl Fn(&Entry) -> bool) {
        for id in self.filters.ids() {
            // A plain entry may have been removed with the last of its groups.
            if !self.filters.has(id) {
                continue;
            }
            let entry = self.filters.entry(id);
            let is_wanted = entry.wanted().iter().any(|&(other, _)| other == link);
            if !is_wanted || !is_meant(entry) {
                continue;
            }
            self.set_wanted(id, link, 0);
            self.note_change_for_links(id);
            self.filters.forget_if_needless(id);
        }
        self.versions.all_changed();
    }

    /// Forgets the interest announced to a link. Cost: all filters.
    pub(crate) fn forget_told(&mut self, link: LinkId) {
        for id in self.filters.ids() {
            if !self.filters.has(id) {
                continue;
            }
            let entry = self.filters.entry_mut(id);
            if entry.remote.is_some() {
                entry.change_remote(|remote| set(&mut remote.told, link, 0));
                self.filters.forget_if_needless(id);
            }
        }
    }

    /// Number of filters without a group that a link may be told of, and how many of them are globs.
    pub(crate) fn tellable(&self) -> (usize, usize) {
        (self.filters.len(), self.filters.glob_count())
    }
}

/// Listeners to a filter on this side of a link, as announced to the link.
fn wanted_before(entry: &Entry, link: LinkId) -> u32 {
    let beyond = entry.wanted().iter().filter(|&&(other, _)| other != link);
    let beyond: u64 = beyond.map(|&(_, listeners)| u64::from(listeners)).sum();
    let wanted = entry.listeners() + beyond + u64::from(entry.is_kept());
    match entry.group {
        Some(_) => u32::try_from(wanted).unwrap_or(u32::MAX),
        None => u32::from(wanted > 0),
    }
}

pub(super) fn set(counts: &mut Vec<(LinkId, u32)>, link: LinkId, listeners: u32) {
    let place = counts.iter().position(|&(other, _)| other == link);
    match (place, listeners) {
        (None, 0) => {}
        (Some(place), 0) => {
            counts.swap_remove(place);
        }
        (Some(place), _) => counts[place].1 = listeners,
        (None, _) => counts.push((link, listeners)),
    }
}
