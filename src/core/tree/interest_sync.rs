//! Interest sync with other nodes: announces to each link the interest on this side of it. Only shard 0 does this.
//!
//! Start at [`tell`].

use super::links::Links;
use super::news::TreeNews;
use crate::command::{FilterKind, LinkId};
use crate::limits::{LINK_CHANGES_AT_ONCE, Limits};
use crate::mailbox::{Control, Mailboxes};
use crate::routing::broker::{Broker, Listener};
use crate::routing::interest::Change;
use sapwood_wire::node::VERSIONS;
use sapwood_wire::node::interest::{self, InterestHead, changes_that_fit, write_interest};

/// Announces changed interest to all links of the tree, and tells the other shards its sequence number. Called before
/// events that follow it are sent, including those of other shards.
///
/// Cost: nothing if nothing changed; else each change, for each link. Large numbers of changes are announced in parts.
pub(crate) fn tell(
    broker: &mut Broker,
    links: &mut Links,
    mailboxes: &mut Mailboxes,
    limits: &Limits,
) {
    if !broker.has_changes_for_links() {
        return;
    }
    let listeners = listeners(broker, links, limits);
    let mut told: Vec<(Listener, Vec<Change>)> = Vec::new();
    for &listener in &listeners {
        told.push((listener, Vec::new()));
    }
    broker.take_link_changes(&listeners, LINK_CHANGES_AT_ONCE, |link, change| {
        let mut there = told.iter_mut();
        let there = there.find(|(listener, _)| listener.link == link);
        there
            .into_iter()
            .for_each(|(_, changes)| changes.push(change.clone()));
    });
    let is_whole = !broker.has_changes_for_links();
    for (listener, changes) in told {
        // Keep asking for everything until all filters have been announced again.
        let was_everything = links
            .get(listener.link)
            .is_some_and(|link| link.told_everything);
        let everything = listener.everything || (was_everything && !is_whole);
        if tell_link(links, listener.link, everything, &changes) {
            let number = links.get(listener.link).map_or(0, |link| link.told);
            for shard in mailboxes.others() {
                let link = listener.link;
                let news = TreeNews::Told { link, number };
                mailboxes.push_control(shard, Control::Tree(news));
            }
        }
    }
}

/// All links of the tree, each with whether it must send everything because there is too much interest to announce.
fn listeners(broker: &mut Broker, links: &mut Links, limits: &Limits) -> Vec<Listener> {
    let branches: Vec<LinkId> = links.adopted(None).collect();
    let mut listeners = Vec::with_capacity(branches.len());
    for &link in &branches {
        let mut others = branches.iter().filter(|&&other| other != link);
        let is_wanted_beyond = others.any(|&other| broker.wants_everything(other));
        let Some(there) = links.get_mut(link) else {
            continue;
        };
        // Hysteresis: a link that sends everything goes back to single filters only below half the cap.
        let part = if there.told_everything { 2 } else { 1 };
        let (filters, globs) = broker.tellable();
        let is_too_much =
            filters > limits.link_filters_max / part || globs > limits.link_globs_max / part;
        let everything = is_too_much || is_wanted_beyond;
        if there.told_everything && !everything && !there.is_exact_again {
            broker.tell_all_again();
        }
        there.is_exact_again = !everything;
        listeners.push(Listener { link, everything });
    }
    listeners
}

/// Announces changes to one link. Returns whether anything was announced.
fn tell_link(links: &mut Links, id: LinkId, everything: bool, changes: &[Change]) -> bool {
    let Some(link) = links.get_mut(id) else {
        return false;
    };
    let had_everything = std::mem::replace(&mut link.told_everything, everything);
    if changes.is_empty() && had_everything == everything {
        return false;
    }
    let mut rest: Vec<interest::Change<'_>> = changes.iter().map(as_told).collect();
    loop {
        let fitting = changes_that_fit(rest.iter().copied());
        let behind = rest.split_off(fitting);
        let Some(link) = links.get_mut(id) else {
            return false;
        };
        link.told += 1;
        let head = InterestHead {
            sequence: link.told,
            everything,
            restart: false,
        };
        let Some(lane) = link.lanes.first_mut() else {
            return false;
        };
        let has_room = lane.push_interest(|out| {
            write_interest(out, VERSIONS.1, head, rest.iter().copied());
        });
        link.is_stuck |= !has_room;
        links.list(id, 0);
        if behind.is_empty() {
            return true;
        }
        rest = behind;
    }
}

fn as_told(change: &Change) -> interest::Change<'_> {
    interest::Change {
        kind: match change.kind {
            FilterKind::Topic => interest::FilterKind::Topic,
            FilterKind::ShardChannel => interest::FilterKind::ShardChannel,
            FilterKind::Glob => interest::FilterKind::Glob,
            FilterKind::Wildcard => interest::FilterKind::Wildcard,
            FilterKind::Node => interest::FilterKind::Node,
        },
        name: &change.name,
        group: &change.group,
        listeners: change.listeners,
    }
}
