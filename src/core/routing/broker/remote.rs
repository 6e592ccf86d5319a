//! Interest behind links, and the interest of this side that is announced to them.
//!
//! The other side of a link announces which filters have listeners there; the counts are stored in the filters'
//! entries, on every shard. One shard announces to each link the interest on this side of it: this node's clients, and
//! the other links (split horizon). For groups the number of members is announced, because turns are weighted by it;
//! for all other filters only whether there are listeners. Invariant: a link's announced interest equals the real one,
//! except for the filters in the list of changes and, once a link counts as wanting everything, all filters without a
//! group.

use super::Broker;
use crate::command::FilterId;
use crate::command::{Filter, LinkId};
use crate::routing::interest::Change;
use crate::routing::subs::Entry;

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
        self.set_everything(link, everything);
    }

    fn apply_link_changes(&mut self, link: LinkId, changes: &[Change]) {
        for change in changes {
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
        if self.wanted_behind.len() <= link.index() {
            self.wanted_behind.resize(link.index() + 1, 0);
        }
        let count = &mut self.wanted_behind[link.index()];
        *count = *count + u32::from(is_wanted) - u32::from(was_wanted);
    }

    /// Number of filters wanted behind a link.
    pub(crate) fn wanted_behind(&self, link: LinkId) -> u32 {
        self.wanted_behind.get(link.index()).copied().unwrap_or(0)
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
        for id in self.filters.ids() {
            // A plain entry may have been removed with the last of its groups.
            if !self.filters.has(id) {
                continue;
            }
            let mut wanted = self.filters.entry(id).wanted().iter();
            if wanted.all(|&(other, _)| other != link) {
                continue;
            }
            self.set_wanted(id, link, 0);
            self.note_change_for_links(id);
            self.filters.forget_if_needless(id);
        }
        self.set_everything(link, false);
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
    let wanted = entry.listeners() + beyond;
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
