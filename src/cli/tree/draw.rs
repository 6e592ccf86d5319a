//! What `sapwood tree` prints: a line for each node, each link of a node, or JSON.
//!
//! Computes nothing but widths. All text of nodes is escaped here, because it may come from anybody.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::view::{Pace, View};
use crate::cli::answers::{Link, Node, shown_name};
use crate::cli::bench::grouped;
use crate::cli::drawing::{Branches, Side, Table, counted};
use crate::cli::{latency, text};

/// How many nodes are drawn unless told otherwise: some screens full.
const NODES_DRAWN: usize = 200;

/// From how many kept bytes on a link they are worth a word: what was sent a moment ago, such as the answers to these
/// questions, is kept too.
const KEPT_BYTES_SHOWN_MIN: u64 = 16 * 1024;

/// The characters of its number that tell a node from another one of the same name.
const ID_CHARACTERS: usize = 8;

const COLUMNS: [(&str, Side); 11] = [
    ("node", Side::Left),
    ("place", Side::Left),
    ("clients", Side::Right),
    ("in/s", Side::Right),
    ("out/s", Side::Right),
    ("round trip", Side::Right),
    ("up/s", Side::Right),
    ("down/s", Side::Right),
    ("above", Side::Right),
    ("below", Side::Right),
    ("", Side::Left),
];

/// Appends the tree, down to this depth or as deep as a few screens take, and a summary.
pub fn push_tree(out: &mut Vec<u8>, view: &View<'_>, depth: Option<u64>) {
    let depth = match depth {
        Some(depth) => usize::try_from(depth).unwrap_or(usize::MAX),
        None => depth_drawn(view),
    };
    let names = Names::new(view);
    let mut table = Table::new(&COLUMNS);
    let mut branches = Branches::default();
    let mut order = view.order.iter().peekable();
    while let Some(placed) = order.next() {
        let start = branches.start(placed.depth, placed.has_siblings);
        let Some(node) = view.node(placed.id) else {
            continue;
        };
        let mut cells = vec![format!("{start}{}", names.of(node))];
        push_cells(&mut cells, view, node, placed.depth == 0);
        table.push(cells);
        let mut hidden = 0;
        while order.next_if(|next| next.depth > depth).is_some() {
            hidden += 1;
        }
        if hidden > 0 {
            let start = branches.start(placed.depth + 1, false);
            let what = counted(hidden, "more node");
            table.push(vec![format!("{start}... {what} below")]);
        }
    }
    table.write(out);
    out.extend_from_slice(summary(view).as_bytes());
}

/// The deepest level down to which the nodes are few enough, but one below the first at least.
fn depth_drawn(view: &View<'_>) -> usize {
    let mut at: Vec<usize> = view.order.iter().map(|placed| placed.depth).collect();
    at.sort_unstable();
    match at.get(NODES_DRAWN) {
        None => usize::MAX,
        Some(&depth) => depth.saturating_sub(1).max(1),
    }
}

/// How nodes are called where two may have the same name.
struct Names(HashMap<String, usize>);

impl Names {
    fn new(view: &View<'_>) -> Names {
        let mut counts = HashMap::new();
        for node in view.now.nodes.values() {
            *counts.entry(node.shown()).or_default() += 1;
        }
        Names(counts)
    }

    fn of(&self, node: &Node) -> String {
        let name = node.shown();
        if self.0.get(&name).is_none_or(|&count| count < 2) {
            return name;
        }
        let id: String = node.id.chars().take(ID_CHARACTERS).collect();
        format!("{name} {}", text::printable(id.as_bytes()))
    }
}

/// Appends what stands behind a node's name.
fn push_cells(cells: &mut Vec<String>, view: &View<'_>, node: &Node, is_first: bool) {
    let place = node.place.as_deref().unwrap_or("-");
    cells.push(text::printable(place.as_bytes()));
    if node.answered.is_empty() {
        cells.extend(["?", "?", "?"].map(String::from));
    } else {
        let pace = view.pace(node);
        cells.push(grouped(view.clients(node)));
        cells.push(rate(pace.map(|pace| pace.events_in)));
        cells.push(rate(pace.map(|pace| pace.events_out)));
    }
    let up = node.links.iter().find(|link| link.is_up);
    let parent = view.parent(node);
    let down = parent.and_then(|parent| {
        let mut links = parent.links.iter();
        links.find(|link| !link.is_up && link.node == node.id)
    });
    if up.is_none() && down.is_none() {
        cells.extend(["-"; 5].map(String::from));
    } else {
        let pace = up.and_then(|up| view.link_pace(node, up));
        // The parent counts the same events, if the node itself says nothing.
        let pace = pace.or_else(|| {
            let Pace {
                events_out,
                events_in,
            } = view.link_pace(parent?, down?)?;
            Some(Pace {
                events_out: events_in,
                events_in: events_out,
            })
        });
        let times = [up, down].into_iter().flatten();
        let time = times.filter_map(|link| link.round_trip_us).next();
        cells.push(time.map_or("?".to_string(), micros));
        cells.push(rate(pace.map(|pace| pace.events_out)));
        cells.push(rate(pace.map(|pace| pace.events_in)));
        cells.push(up.map_or("?".to_string(), |up| wanted(view, node, up)));
        let below = parent.zip(down);
        cells.push(below.map_or("?".to_string(), |(parent, down)| wanted(view, parent, down)));
    }
    let mut notes = marks(node);
    notes.extend(reign(node));
    notes.extend(troubles(view, node, is_first));
    notes.extend(link_troubles(up, down));
    cells.push(notes.join("  "));
}

fn marks(node: &Node) -> Vec<String> {
    let lists = [("tags", &node.tags), ("groups", &node.groups)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let lists = lists.map(|(what, list)| format!("{what} {}", list.join(",")));
    lists.map(|list| text::printable(list.as_bytes())).collect()
}

/// How long a root is that.
fn reign(node: &Node) -> Option<String> {
    let root_for_ms = node
        .root_for_ms
        .filter(|_| node.place.as_deref() == Some("/"))?;
    Some(format!("root for {} s", grouped(root_for_ms / 1_000)))
}

/// What is not as it should be with a node itself.
fn troubles(view: &View<'_>, node: &Node, is_first: bool) -> Vec<String> {
    let mut troubles = Vec::new();
    let answered = node.answered.len();
    if answered == 0 {
        troubles.push("no answer".to_string());
    } else if !node.is_whole() {
        let shards = counted(usize::try_from(node.shards).unwrap_or(usize::MAX), "shard");
        troubles.push(format!("{answered} of {shards} answered"));
    }
    let lost = node.counter("links_lost");
    if lost > 0 {
        troubles.push(format!("{} links lost", grouped(lost)));
    }
    if answered == 0 || !is_first {
        return troubles;
    }
    let roots = view.order.iter().filter(|placed| placed.depth == 0);
    let is_only = roots.count() == 1;
    let what = match (&node.parent, node.place.as_deref(), node.subtree) {
        (Some(_), _, _) => "its parent did not answer",
        (None, Some("/"), _) if is_only => return troubles,
        (None, Some("/"), _) => "one of several roots",
        (None, _, None) => "takes part in no tree",
        (None, _, Some(_)) => "adrift",
    };
    troubles.push(what.to_string());
    troubles
}

/// What is not as it should be with a node's link to its parent, whichever side says so.
fn link_troubles(up: Option<&Link>, down: Option<&Link>) -> Vec<String> {
    let mut troubles = Vec::new();
    let sides = || [up, down].into_iter().flatten();
    if let Some(link) = sides().find(|link| link.lanes_up < link.lanes) {
        troubles.push(format!("{} of {} lanes up", link.lanes_up, link.lanes));
    }
    let sum = |count: fn(&Link) -> u64| sides().map(count).fold(0, u64::saturating_add);
    let lost = sum(|link| link.events_lost);
    if lost > 0 {
        troubles.push(format!("{} events lost", grouped(lost)));
    }
    let reconnects = sides().map(|link| link.reconnects).max().unwrap_or(0);
    if reconnects > 0 {
        troubles.push(format!("{} reconnects", grouped(reconnects)));
    }
    let kept = sum(|link| link.bytes_kept);
    if kept >= KEPT_BYTES_SHOWN_MIN {
        troubles.push(format!("{} KiB kept", grouped(kept / 1024)));
    }
    troubles
}

fn wanted(view: &View<'_>, node: &Node, link: &Link) -> String {
    match link.everything_wanted {
        true => "all".to_string(),
        false => view.wanted(node, link).map_or("?".to_string(), grouped),
    }
}

fn micros(time: u64) -> String {
    latency::shown(Duration::from_micros(time))
}

/// Events a second: whole ones from ten on.
fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "?".to_string(),
        Some(0.0) => "0".to_string(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => grouped(rate.round() as u64),
    }
}

fn summary(view: &View<'_>) -> String {
    let nodes = counted(view.now.nodes.len(), "node");
    let deepest = view.order.iter().map(|placed| placed.depth).max();
    let hops = counted(deepest.unwrap_or(0), "hop");
    let clients = view.now.nodes.values().map(|node| view.clients(node));
    let clients = clients.fold(0, u64::saturating_add);
    let clients = counted(usize::try_from(clients).unwrap_or(usize::MAX), "client");
    let paces: Vec<Pace> = view
        .now
        .nodes
        .values()
        .filter_map(|node| view.pace(node))
        .collect();
    let published = paces.iter().map(|pace| pace.events_in).sum();
    let delivered = paces.iter().map(|pace| pace.events_out).sum();
    let mut summary = format!(
        "{nodes}, the deepest {hops} from the root, {clients}, {} events/s published, {} delivered",
        rate(Some(published)),
        rate(Some(delivered)),
    );
    if let Some(name) = view.local_name() {
        summary.push_str(&format!("; asked at {name}"));
    }
    summary.push('\n');
    summary
}

/// Says which nodes have not answered, if any.
pub fn missing(view: &View<'_>, timeout: Duration) -> Option<String> {
    let nodes = view.now.nodes.values();
    let silent: Vec<_> = nodes.filter(|node| !node.is_whole()).collect();
    let expected = view.now.expected.filter(|_| view.is_of_all);
    let unknown = expected.unwrap_or(0).saturating_sub(view.now.len());
    let unknown = usize::try_from(unknown).unwrap_or(usize::MAX);
    if let Some(first) = silent.first() {
        let name = first.shown();
        let others = match silent.len() + unknown - 1 {
            0 => String::new(),
            others => format!(" and {}", counted(others, "other node")),
        };
        return Some(format!(
            "{name}{others} did not answer, or not with all shards, within {timeout:?}; --timeout waits longer."
        ));
    }
    (unknown > 0).then(|| {
        let nodes = counted(unknown, "node");
        format!(
            "the root counts {nodes} more, which did not answer within {timeout:?}: they may have just come or gone."
        )
    })
}

/// Appends each node by itself, with all of its links.
pub fn push_nodes(out: &mut Vec<u8>, view: &View<'_>) {
    for (index, placed) in view.order.iter().enumerate() {
        let Some(node) = view.node(placed.id) else {
            continue;
        };
        if index > 0 {
            out.push(b'\n');
        }
        push_facts(out, view, node);
        if !node.links.is_empty() {
            out.push(b'\n');
            push_links(out, view, node);
        }
    }
}

fn push_facts(out: &mut Vec<u8>, view: &View<'_>, node: &Node) {
    let or_none = |text: String| match text.is_empty() {
        true => "none".to_string(),
        false => text::printable(text.as_bytes()),
    };
    let pace = view.pace(node);
    let traffic = format!(
        "{} events/s published, {} delivered",
        rate(pace.map(|pace| pace.events_in)),
        rate(pace.map(|pace| pace.events_out)),
    );
    let shards = match node.is_whole() {
        true => node.shards.to_string(),
        false => format!("{}, {} answered", node.shards, node.answered.len()),
    };
    let rows = [
        ("node", node.shown()),
        ("number", or_none(node.id.clone())),
        ("place", or_none(node.place.clone().unwrap_or_default())),
        ("tags", or_none(node.tags.join(", "))),
        ("groups", or_none(node.groups.join(", "))),
        ("broker", or_none(node.broker.clone())),
        ("shards", shards),
        ("up for", format!("{} s", grouped(node.uptime_ms / 1_000))),
        ("clients", grouped(view.clients(node))),
        ("traffic", traffic),
    ];
    for (what, text) in rows {
        out.extend_from_slice(format!("{what:<8}  {text}\n").as_bytes());
    }
}

fn push_links(out: &mut Vec<u8>, view: &View<'_>, node: &Node) {
    let mut table = Table::new(&[
        ("link to", Side::Left),
        ("at", Side::Left),
        ("role", Side::Left),
        ("lanes up", Side::Right),
        ("round trip", Side::Right),
        ("out/s", Side::Right),
        ("in/s", Side::Right),
        ("out", Side::Right),
        ("in", Side::Right),
        ("lost", Side::Right),
        ("reconnects", Side::Right),
        ("bytes kept", Side::Right),
        ("filters", Side::Right),
    ]);
    let mut links: Vec<&Link> = node.links.iter().collect();
    links.sort_by_key(|link| (!link.is_up, link.number));
    for link in links {
        let pace = view.link_pace(node, link);
        let role = match (link.is_up, link.number) {
            (true, _) => "parent".to_string(),
            (false, Some(number)) => format!("child {number}"),
            (false, None) => "child".to_string(),
        };
        let filters = match link.everything_wanted {
            true => "all".to_string(),
            false => grouped(link.filters_wanted),
        };
        let at = link.at.as_deref().unwrap_or("-");
        table.push(vec![
            shown_name(&link.name, &link.node),
            text::printable(at.as_bytes()),
            role,
            format!("{}/{}", link.lanes_up, link.lanes),
            link.round_trip_us.map_or("?".to_string(), micros),
            rate(pace.map(|pace| pace.events_out)),
            rate(pace.map(|pace| pace.events_in)),
            grouped(link.events_out),
            grouped(link.events_in),
            grouped(link.events_lost),
            grouped(link.reconnects),
            grouped(link.bytes_kept),
            filters,
        ]);
    }
    table.write(out);
}

/// Appends a JSON object for each node on a line of its own, in the order of the drawing.
pub fn push_json(out: &mut Vec<u8>, view: &View<'_>) {
    for placed in &view.order {
        if let Some(node) = view.node(placed.id) {
            text::push_json_value(out, &node_value(view, node));
            out.push(b'\n');
        }
    }
}

fn node_value(view: &View<'_>, node: &Node) -> Value {
    let pace = view.pace(node);
    let mut object = Map::new();
    let mut say = |name: &str, value: Value| object.insert(name.to_string(), value);
    say("node", node.id.clone().into());
    say("name", node.name.clone().into());
    say("place", node.place.clone().into());
    say(
        "parent",
        view.parent(node).map(|parent| parent.id.clone()).into(),
    );
    say("tags", node.tags.clone().into());
    say("groups", node.groups.clone().into());
    say("broker", node.broker.clone().into());
    say("uptime_ms", node.uptime_ms.into());
    say("root_for_ms", node.root_for_ms.into());
    say("shards", node.shards.into());
    say("shards_answered", node.answered.len().into());
    say("is_asked_here", view.is_local(node).into());
    say("clients", view.clients(node).into());
    say(
        "events_in_per_s",
        pace.map(|pace| tenths(pace.events_in)).into(),
    );
    say(
        "events_out_per_s",
        pace.map(|pace| tenths(pace.events_out)).into(),
    );
    let links = node.links.iter().map(|link| link_value(view, node, link));
    say("links", links.collect());
    say("counters", Value::Object(node.counters.clone()));
    Value::Object(object)
}

fn link_value(view: &View<'_>, node: &Node, link: &Link) -> Value {
    let pace = view.link_pace(node, link);
    json!({
        "node": link.node,
        "name": link.name,
        "at": link.at,
        "role": if link.is_up { "parent" } else { "child" },
        "number": link.number,
        "lanes": link.lanes,
        "lanes_up": link.lanes_up,
        "round_trip_us": link.round_trip_us,
        "events_out_per_s": pace.map(|pace| tenths(pace.events_out)),
        "events_in_per_s": pace.map(|pace| tenths(pace.events_in)),
        "events_out": link.events_out,
        "events_in": link.events_in,
        "events_lost": link.events_lost,
        "reconnects": link.reconnects,
        "bytes_kept": link.bytes_kept,
        "filters_wanted": link.filters_wanted,
        "filters_subscribed": view.wanted(node, link),
        "everything_wanted": link.everything_wanted,
    })
}

/// More digits than these would be made up.
fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::answers::Gathered;
    use crate::cli::tree::Asked;
    use tokio::time::Instant;

    /// Nodes by number, place and parent.
    fn drawn(nodes: &[(String, Option<&str>, Option<String>)]) -> String {
        let mut gathered = Gathered::default();
        for (id, place, parent) in nodes {
            let links = parent.iter().map(
                |parent| json!({"node": parent, "name": "up\u{1b}[2J", "role": "parent", "lanes": 2, "lanes_up": 1, "events_lost": 7}),
            );
            gathered.take(&json!({
                "node": id, "name": id, "address": place, "shard": 0, "shards": 1,
                "place": {"parent": parent, "subtree": 1}, "links": links.collect::<Value>(),
            }));
        }
        gathered.add_unheard();
        let at = Instant::now();
        let asked = Asked { gathered, at };
        let mut out = Vec::new();
        push_tree(&mut out, &View::new(&asked, &asked, None, true), None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_large_tree_is_drawn_as_deep_as_fits() {
        let mut nodes = vec![("root".to_string(), Some("/"), None)];
        for child in 0..20 {
            nodes.push((format!("c{child}"), None, Some("root".to_string())));
            let leaves = 0..15;
            nodes.extend(leaves.map(|leaf| {
                let parent = format!("c{child}");
                (format!("{parent}-{leaf}"), None, Some(parent))
            }));
        }
        let shown = drawn(&nodes);
        assert_eq!(shown.lines().count(), 1 + 1 + 2 * 20 + 1, "{shown}");
        assert_eq!(
            shown.matches("... 15 more nodes below\n").count(),
            20,
            "{shown}"
        );
        assert!(
            shown.contains("\n321 nodes, the deepest 2 hops from the root, "),
            "{shown}"
        );
    }

    #[test]
    fn orphans_several_roots_and_nodes_adrift_are_shown_as_such() {
        let shown = drawn(&[
            ("a".to_string(), Some("/"), None),
            ("b".to_string(), Some("/"), None),
            ("c".to_string(), None, None),
            ("d".to_string(), Some("/4/2"), Some("gone".to_string())),
        ]);
        let line = |start: &str| {
            let mut lines = shown.lines();
            lines
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("{start}: {shown}"))
        };
        assert!(line("a ").ends_with("one of several roots"), "{shown}");
        assert!(line("b ").ends_with("one of several roots"), "{shown}");
        assert!(line("c ").ends_with("adrift"), "{shown}");
        // Its name is another node's word, and its place follows from that of the one below it.
        assert!(line("up\\x1b[2J ").ends_with("no answer"), "{shown}");
        assert!(line("up\\x1b[2J ").contains("  /4  "), "{shown}");
        assert!(
            line("└─ d ").ends_with("1 of 2 lanes up  7 events lost"),
            "{shown}"
        );
    }
}
