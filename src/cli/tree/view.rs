//! What two rounds of answers say together: who stands below whom, rates, and what is wanted where.
//!
//! Owns the arithmetic. The questions are events too, and so are the answers, which all go to the node that was asked: from
//! where it stands follows how many of them each link moved between the two rounds. And nodes tell each other how they are
//! called as they tell subscriptions, which is left out of what is wanted. Must not know how anything looks.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Asked;
use crate::cli::answers::{Gathered, Link, Node, numbers};
use crate::cli::drawing::{Placed, depth_first};

/// The node that this client is connected to.
#[derive(Debug)]
pub struct Local {
    pub id: String,
    /// None while it is adrift.
    pub place: Option<Vec<u64>>,
}

/// See the module.
pub struct View<'a> {
    pub now: &'a Gathered,
    before: &'a Gathered,
    /// Depth first.
    pub order: Vec<Placed<'a>>,
    local: Option<&'a Local>,
    /// Whether every node was asked.
    pub is_of_all: bool,
    parents: HashMap<&'a str, &'a str>,
    /// From when to when events were counted, for nodes that do not say it better.
    seconds: f64,
    below: HashMap<&'a str, Below>,
    /// Those of all nodes.
    shards: u64,
}

/// What the nodes from one on downwards are together.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    shards: u64,
    /// This client is connected to one of them.
    has_local: bool,
}

/// What a question itself adds to what a link counts.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    events_out: u64,
    events_in: u64,
    /// This client's own filters.
    filters: u64,
}

/// Events a second over a link, as one of its sides counts them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub events_out: f64,
    pub events_in: f64,
}

impl<'a> View<'a> {
    /// Puts the answers of two rounds together.
    pub fn new(
        now: &'a Asked,
        before: &'a Asked,
        local: Option<&'a Local>,
        is_of_all: bool,
    ) -> View<'a> {
        let nodes = &now.gathered.nodes;
        let parents = parents(&now.gathered);
        let mut view = View {
            now: &now.gathered,
            before: &before.gathered,
            order: order(&now.gathered, &parents),
            local,
            is_of_all,
            parents,
            seconds: (now.at - before.at).as_secs_f64(),
            below: HashMap::new(),
            shards: 0,
        };
        view.shards = nodes.values().map(|node| node.answered.len() as u64).sum();
        view.below = sum_up(nodes, &view.order, &view.parents, local);
        view
    }

    /// The node of this number.
    pub fn node(&self, id: &str) -> Option<&'a Node> {
        self.now.nodes.get(id)
    }

    /// The parent of a node, if anything is known of it.
    pub fn parent(&self, node: &Node) -> Option<&'a Node> {
        self.node(self.parents.get(node.id.as_str())?)
    }

    /// Whether this client is connected to a node.
    pub fn is_local(&self, node: &Node) -> bool {
        self.local.is_some_and(|local| local.id == node.id)
    }

    /// The name of the node that this client is connected to.
    pub fn local_name(&self) -> Option<String> {
        Some(self.node(&self.local?.id)?.shown())
    }

    /// Clients of a node, without this one.
    pub fn clients(&self, node: &Node) -> u64 {
        let own = u64::from(self.is_local(node));
        node.clients().saturating_sub(own)
    }

    /// Events a second that the clients of a node published, and that were delivered to them.
    pub fn pace(&self, node: &Node) -> Option<Pace> {
        let (before, seconds) = self.since(node)?;
        let (mut asked, mut answered) = (0, 0);
        if self.is_local(node) {
            (asked, answered) = (1, self.shards);
        }
        let rate = |name, own| {
            let events = node.counter(name).saturating_sub(before.counter(name));
            events.saturating_sub(own) as f64 / seconds
        };
        Some(Pace {
            events_in: rate("events_published", asked),
            events_out: rate("events_delivered", answered),
        })
    }

    /// Events a second over a link of a node's.
    pub fn link_pace(&self, node: &Node, link: &Link) -> Option<Pace> {
        let (before, seconds) = self.since(node)?;
        let same = |other: &&Link| other.node == link.node && other.is_up == link.is_up;
        let before = before.links.iter().find(same)?;
        let own = self.own(node, link);
        let rate = |now: u64, before: u64, own: u64| {
            now.saturating_sub(before).saturating_sub(own) as f64 / seconds
        };
        Some(Pace {
            events_out: rate(link.events_out, before.events_out, own.events_out),
            events_in: rate(link.events_in, before.events_in, own.events_in),
        })
    }

    /// How many filters somebody subscribed to behind a link; known only if all nodes were asked.
    pub fn wanted(&self, node: &Node, link: &Link) -> Option<u64> {
        let own = self.own(node, link).filters;
        self.is_of_all
            .then(|| link.filters_wanted.saturating_sub(own))
    }

    /// What a node said before, and the seconds since then; `None` if it cannot be compared.
    fn since(&self, node: &Node) -> Option<(&'a Node, f64)> {
        let before = self.before.nodes.get(&node.id)?;
        let is_same = node.uptime_ms >= before.uptime_ms && node.shards == before.shards;
        if !is_same || !node.is_whole() || !before.is_whole() {
            return None;
        }
        let passed = node.uptime_ms - before.uptime_ms;
        let seconds = match passed {
            0 => self.seconds,
            passed => passed as f64 / 1e3,
        };
        Some((before, seconds.max(1e-3)))
    }

    fn own(&self, node: &Node, link: &Link) -> Own {
        if !self.is_of_all {
            // Only the nodes that were asked sent something, and it went towards this client.
            let is_towards = !self.is_local(node) && self.is_towards_local(node, link);
            return Own {
                events_out: if is_towards { node.shards } else { 0 },
                events_in: u64::from(is_towards),
                filters: 0,
            };
        }
        let of = |id: &str| self.below.get(id).copied().unwrap_or_default();
        let side = match link.is_up {
            true => of(&node.id),
            false => of(&link.node),
        };
        // What stands above the link, and below it.
        let above = (self.shards - side.shards.min(self.shards), !side.has_local);
        let below = (side.shards, side.has_local);
        let (here, there) = match link.is_up {
            true => (below, above),
            false => (above, below),
        };
        let filters = u64::from(there.1);
        match there.1 {
            true => Own {
                events_out: here.0,
                events_in: 1,
                filters,
            },
            false => Own {
                events_out: 1,
                events_in: there.0,
                filters,
            },
        }
    }

    fn is_towards_local(&self, node: &Node, link: &Link) -> bool {
        let local = self.local.and_then(|local| local.place.as_deref());
        let (Some(local), Some(place)) = (local, node.place.as_deref()) else {
            return false;
        };
        let rest = local.strip_prefix(&numbers(place)[..]);
        match rest.and_then(|rest| rest.first()) {
            Some(child) => link.number == Some(*child),
            None => link.is_up,
        }
    }
}

/// Each node's parent, as it says itself.
fn parents(gathered: &Gathered) -> HashMap<&str, &str> {
    let pairs = gathered.nodes.values().filter_map(|node| {
        let up = node.links.iter().find(|link| link.is_up);
        let parent = node.parent.as_deref().or(up.map(|link| link.node.as_str()));
        let parent = parent.filter(|&parent| parent != node.id)?;
        let (parent, _) = gathered.nodes.get_key_value(parent)?;
        Some((node.id.as_str(), parent.as_str()))
    });
    pairs.collect()
}

/// All nodes, roots first.
fn order<'a>(gathered: &'a Gathered, parents: &HashMap<&'a str, &'a str>) -> Vec<Placed<'a>> {
    let key = |id: &str| {
        let node = gathered.nodes.get(id);
        let place = node.and_then(|node| node.place.as_deref());
        let name = node.map(|node| node.name.clone());
        (place.is_none(), place.map(numbers), name)
    };
    let mut children: HashMap<&str, Vec<&str>> = HashMap::new();
    for (&child, &parent) in parents {
        children.entry(parent).or_default().push(child);
    }
    for below in children.values_mut() {
        below.sort_by_cached_key(|id| (key(id), id.to_string()));
    }
    let ids = gathered.nodes.keys().map(String::as_str);
    let mut first: Vec<&str> = ids.filter(|id| !parents.contains_key(id)).collect();
    first.sort_by_cached_key(|id| (key(id), id.to_string()));
    let order = depth_first(&first, &children);
    if order.len() == gathered.nodes.len() {
        return order;
    }
    // Some say that they stand below themselves, which no tree of ours does.
    let seen: HashSet<&str> = order.iter().map(|placed| placed.id).collect();
    let ids = gathered.nodes.keys().map(String::as_str);
    first.extend(ids.filter(|id| !seen.contains(id)));
    depth_first(&first, &children)
}

/// What stands from each node on downwards.
fn sum_up<'a>(
    nodes: &'a BTreeMap<String, Node>,
    order: &[Placed<'a>],
    parents: &HashMap<&'a str, &'a str>,
    local: Option<&Local>,
) -> HashMap<&'a str, Below> {
    let mut all: HashMap<&str, Below> = HashMap::new();
    // Children stand behind their parents.
    for placed in order.iter().rev() {
        let Some(node) = nodes.get(placed.id) else {
            continue;
        };
        let below = all.entry(placed.id).or_default();
        below.shards += node.answered.len() as u64;
        below.has_local |= local.is_some_and(|local| local.id == node.id);
        let below = *below;
        if let Some(&parent) = parents.get(placed.id) {
            let sum = all.entry(parent).or_default();
            sum.shards += below.shards;
            sum.has_local |= below.has_local;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::time::{Duration, Instant};

    /// An answer of a node with one shard at a place, with links to these others, whose counters begin at `round` times 100.
    fn answer(name: &str, place: &str, parent: Option<&str>, below: &[&str], round: u64) -> Value {
        let link = |other: &str, role: &str| {
            json!({
                "node": other, "name": other, "role": role, "lanes": 1, "lanes_up": 1, "events_out": round * 100,
                "events_in": round * 100, "filters_wanted": 10,
            })
        };
        let up = parent.map(|parent| link(parent, "parent"));
        let links = up
            .into_iter()
            .chain(below.iter().map(|child| link(child, "child")));
        json!({
            "node": name, "name": name, "tags": ["all", name], "groups": [], "address": place, "shard": 0, "shards": 1,
            "uptime_ms": round * 1_000, "place": {"parent": parent, "subtree": 4}, "links": links.collect::<Value>(),
            "counters": {"events_published": round * 100, "events_delivered": round * 100, "connections": 9},
        })
    }

    /// A root with two children, the first of which has one itself, after so many seconds.
    fn asked(round: u64) -> Asked {
        let mut gathered = Gathered::default();
        for answer in [
            answer("a", "/", None, &["b", "c"], round),
            answer("b", "/0", Some("a"), &["d"], round),
            answer("c", "/1", Some("a"), &[], round),
            answer("d", "/0/0", Some("b"), &[], round),
        ] {
            gathered.take(&answer);
        }
        Asked {
            gathered,
            at: Instant::now() + Duration::from_secs(round),
        }
    }

    #[test]
    fn what_questions_move_themselves_is_left_out() {
        let local = Local {
            id: "b".to_string(),
            place: Some(vec![0]),
        };
        let (before, now) = (asked(1), asked(2));
        let view = View::new(&now, &before, Some(&local), true);
        let order: Vec<_> = view.order.iter().map(|placed| placed.id).collect();
        assert_eq!(order, ["a", "b", "d", "c"]);
        // By links: events out and in, and filters with subscribers, of 100, 100 and 10 that are counted.
        for (node, other, out, events_in, filters) in [
            // The question goes up, and the answers of two nodes come down. This client has a filter for them.
            ("b", "a", 99.0, 98.0, 10),
            ("a", "b", 98.0, 99.0, 10 - 1),
            ("a", "c", 99.0, 99.0, 10),
            ("c", "a", 99.0, 99.0, 10 - 1),
            ("b", "d", 99.0, 99.0, 10),
            ("d", "b", 99.0, 99.0, 10 - 1),
        ] {
            let node = view.node(node).unwrap();
            let link = node.links.iter().find(|link| link.node == other).unwrap();
            let pace = view.link_pace(node, link).unwrap();
            let found = (
                pace.events_out,
                pace.events_in,
                view.wanted(node, link).unwrap(),
            );
            assert_eq!(found, (out, events_in, filters), "{} to {other}", node.id);
        }
        let pace = |id| {
            let pace = view.pace(view.node(id).unwrap()).unwrap();
            (pace.events_in, pace.events_out)
        };
        assert_eq!((pace("b"), pace("c")), ((99.0, 96.0), (100.0, 100.0)));
        // Of nine connections: those of links, and this client's.
        let clients = |id| view.clients(view.node(id).unwrap());
        assert_eq!((clients("a"), clients("b"), clients("d")), (7, 6, 8));
    }

    #[test]
    fn a_node_that_was_started_again_has_no_rates() {
        let (before, now) = (asked(3), asked(2));
        let view = View::new(&now, &before, None, true);
        assert!(view.pace(view.node("a").unwrap()).is_none());
    }
}
