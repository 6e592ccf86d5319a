//! What nodes answer to `$info` and `$trace:`: asked for by publishing, gathered until all have answered or the time is over.
//!
//! Owns the fields that are read of an answer. They come from other machines, so each may be missing, wrong or made to
//! harm: a field that is not what it should be counts as missing, and no text of one reaches a terminal unescaped.
//! What is made of the answers stands in `tree` and `trace`. Start at [`ask`] and [`Gathered::take`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use sapwood_client::error::RequestError;
use sapwood_client::{Client, ErrorCode, Outgoing};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::trouble::Trouble;
use super::{Failure, connect, text};

/// How long to wait for answers unless told otherwise: many times what a message takes around the world.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// Topic of a trace whose first answer comes from the node that the client is connected to.
const HERE: &str = "$trace:sapwood.here";

/// How long to go on listening where it is not known how many nodes there are, once those that are known have answered.
const SETTLE: Duration = Duration::from_millis(100);

/// The most answers that are read to one question: those of 10,000 nodes with 16 shards. At some KiB each that is less
/// than 1 GiB at worst.
const ANSWERS_MAX: usize = 160_000;

/// The most of a name that is shown: names that nodes can be called by are no longer.
const NAME_CHARACTERS_MAX: usize = 64;

/// Whether more answers are awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Yes.
    More,
    /// Those that are known of are there; others may come in a moment.
    Stragglers,
    /// No.
    Nothing,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With all answers.
    All,
    /// With the time.
    Late,
    /// At once: no node is called so, or stands there.
    Nobody,
}

/// Publishes a question, and gives each answer with how long it took to `take`, until that wants no more or the time is over.
///
/// Errors: a topic that is none, exit code 2; a connection that broke or a broker that is too old, 1.
pub async fn ask(
    client: &Client,
    topic: &str,
    timeout: Duration,
    mut take: impl FnMut(&Value, Duration) -> Wanted,
) -> Result<End, Failure> {
    let begun = Instant::now();
    let (deadline, mut until) = (begun + timeout, begun + timeout);
    let message = Outgoing::new(topic, b"");
    let asked = client.request_message_many(&message, Some(timeout)).await;
    let mut replies = asked.map_err(|error| failed(topic, error))?;
    let mut answers = 0;
    // Ends at the deadline at the latest.
    while answers < ANSWERS_MAX {
        let reply = match timeout_at(until, replies.next()).await {
            Ok(Some(Ok(reply))) => reply,
            Ok(Some(Err(RequestError::NoResponders))) => return Ok(End::Nobody),
            Ok(Some(Err(error @ RequestError::Gap { .. }))) => {
                connect::say(&format!("sapwood: {error}\n"));
                continue;
            }
            Err(_) if until < deadline => return Ok(End::All),
            Err(_) | Ok(None) | Ok(Some(Err(RequestError::TimedOut(_)))) => return Ok(End::Late),
            Ok(Some(Err(error))) => return Err(failed(topic, error)),
        };
        let took = begun.elapsed();
        answers += 1;
        // Whoever sends something else is no node.
        let Ok(answer) = serde_json::from_slice(reply.payload()) else {
            continue;
        };
        until = match take(&answer, took) {
            Wanted::More => deadline,
            Wanted::Stragglers => deadline.min(Instant::now() + SETTLE),
            Wanted::Nothing => return Ok(End::All),
        };
    }
    Ok(End::Late)
}

/// Asks the node that the client is connected to who it is; none if it does not answer in time.
pub async fn here(client: &Client, timeout: Duration) -> Result<Option<Value>, Failure> {
    let mut here = None;
    ask(client, HERE, timeout, |answer, _| {
        if answer["from"].is_null() {
            here = Some(answer.clone());
            return Wanted::Nothing;
        }
        Wanted::More
    })
    .await?;
    Ok(here)
}

fn failed(topic: &str, error: RequestError) -> Failure {
    Failure::Client(match &error {
        RequestError::Refused(refusal) if refusal.code() == Some(ErrorCode::TopicReserved) => {
            Trouble::TooOld(topic.to_string())
        }
        _ => Trouble::Request(topic.to_string(), error, 0),
    })
}

/// One side of a link, summed over the shards of the node whose side it is.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub node: String,
    pub name: String,
    pub at: Option<String>,
    /// Whether it leads to the parent.
    pub is_up: bool,
    /// The child's number.
    pub number: Option<u64>,
    pub lanes: u64,
    pub lanes_up: u64,
    pub round_trip_us: Option<u64>,
    pub events_out: u64,
    pub events_in: u64,
    pub events_lost: u64,
    /// How often its lanes were connected again.
    pub reconnects: u64,
    pub bytes_kept: u64,
    pub filters_wanted: u64,
    pub everything_wanted: bool,
}

impl Link {
    fn read(link: &Value) -> Link {
        Link {
            node: string(link, "node"),
            name: string(link, "name"),
            at: link["at"].as_str().map(ToString::to_string),
            is_up: link["role"] == "parent",
            number: link["number"].as_u64(),
            lanes: number(link, "lanes"),
            lanes_up: number(link, "lanes_up"),
            round_trip_us: link["round_trip_us"].as_u64(),
            events_out: number(link, "events_out"),
            events_in: number(link, "events_in"),
            events_lost: number(link, "events_lost"),
            reconnects: number(link, "reconnects"),
            bytes_kept: number(link, "bytes_kept"),
            filters_wanted: number(link, "filters_wanted"),
            everything_wanted: link["everything_wanted"] == true,
        }
    }

    /// Adds what another shard says of the same link.
    fn add(&mut self, other: &Link) {
        let sums = [
            (&mut self.lanes, other.lanes),
            (&mut self.lanes_up, other.lanes_up),
            (&mut self.events_out, other.events_out),
            (&mut self.events_in, other.events_in),
            (&mut self.events_lost, other.events_lost),
            (&mut self.reconnects, other.reconnects),
            (&mut self.bytes_kept, other.bytes_kept),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        let times = [self.round_trip_us, other.round_trip_us];
        self.round_trip_us = times.into_iter().flatten().min();
        // Each shard knows all that is wanted; one may know it a moment earlier.
        self.filters_wanted = self.filters_wanted.max(other.filters_wanted);
        self.everything_wanted |= other.everything_wanted;
    }
}

/// What a node says about itself, summed over its shards.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub id: String,
    pub name: String,
    pub tags: Vec<String>,
    pub groups: Vec<String>,
    /// Such as `/3/1`; none while it is adrift.
    pub place: Option<String>,
    pub broker: String,
    pub uptime_ms: u64,
    pub shards: u64,
    /// Which of them have answered; none if only others speak of this node.
    pub answered: BTreeSet<u64>,
    pub parent: Option<String>,
    /// How many nodes there are from here on, if it takes part in a tree.
    pub subtree: Option<u64>,
    /// For how long it has known the root for one; of the root itself, how long it is that.
    pub root_for_ms: Option<u64>,
    pub links: Vec<Link>,
    pub counters: Map<String, Value>,
}

impl Node {
    /// Who an answer is of, without what it says of itself.
    fn of(answer: &Value) -> Node {
        Node {
            id: string(answer, "node"),
            name: string(answer, "name"),
            tags: strings(&answer["tags"]),
            groups: strings(&answer["groups"]),
            place: answer["address"].as_str().map(ToString::to_string),
            broker: string(answer, "broker"),
            shards: number(answer, "shards").max(1),
            ..Node::default()
        }
    }

    /// Whether all of its shards have answered.
    pub fn is_whole(&self) -> bool {
        !self.answered.is_empty() && self.answered.len() as u64 >= self.shards
    }

    /// A counter, summed over the shards.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// How many clients it has: connections without those of links.
    pub fn clients(&self) -> u64 {
        let lanes = self.links.iter().map(|link| link.lanes_up);
        let lanes = lanes.fold(0, u64::saturating_add);
        self.counter("connections").saturating_sub(lanes)
    }

    /// What people call it, fit for a terminal.
    pub fn shown(&self) -> String {
        shown_name(&self.name, &self.id)
    }

    fn add(&mut self, answer: &Value) {
        self.uptime_ms = self.uptime_ms.max(number(answer, "uptime_ms"));
        if let Some(place) = answer.get("place") {
            self.parent = place["parent"].as_str().map(ToString::to_string);
            self.subtree = place["subtree"].as_u64();
            self.root_for_ms = place["root_for_ms"].as_u64();
        }
        for link in answer["links"].as_array().into_iter().flatten() {
            let link = Link::read(link);
            let known = |other: &&mut Link| other.node == link.node && other.is_up == link.is_up;
            match self.links.iter_mut().find(known) {
                Some(sum) => sum.add(&link),
                None => self.links.push(link),
            }
        }
        for (name, value) in answer["counters"].as_object().into_iter().flatten() {
            let sum = self.counter(name);
            let sum = sum.saturating_add(value.as_u64().unwrap_or(0));
            self.counters.insert(name.clone(), sum.into());
        }
    }
}

/// A name for people: the number where there is no name, escaped, and no longer than names can be.
pub fn shown_name(name: &str, id: &str) -> String {
    let name = if name.is_empty() { id } else { name };
    let name: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
    text::printable(name.as_bytes())
}

/// The answers to one question about nodes.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// By their numbers, which nobody else has.
    pub nodes: BTreeMap<String, Node>,
    /// How many nodes the root counts.
    pub expected: Option<u64>,
    /// Those that others have links to, and that have not answered.
    unheard: HashSet<String>,
    /// How many nodes have shards that have not answered.
    in_parts: usize,
}

impl Gathered {
    /// Adds an answer.
    pub fn take(&mut self, answer: &Value) {
        let shard = number(answer, "shard");
        let id = string(answer, "node");
        if id.is_empty() {
            return;
        }
        self.unheard.remove(&id);
        if !self.nodes.contains_key(&id) {
            self.in_parts += 1;
        }
        let node = self.nodes.entry(id);
        let node = node.or_insert_with(|| Node::of(answer));
        // Twice the same would count twice.
        if node.is_whole() || shard >= node.shards || !node.answered.insert(shard) {
            return;
        }
        node.add(answer);
        if node.is_whole() {
            self.in_parts -= 1;
        }
        if shard == 0 && node.parent.is_none() {
            let subtree = node.subtree.unwrap_or(1);
            self.expected = Some(self.expected.unwrap_or(0).max(subtree));
        }
        let links = answer["links"].as_array().into_iter().flatten();
        for peer in links.filter_map(|link| link["node"].as_str()) {
            if !self.nodes.contains_key(peer) {
                self.unheard.insert(peer.to_string());
            }
        }
    }

    /// Whether every node of the tree has answered, as far as the root and the others know of them.
    pub fn is_whole(&self) -> bool {
        let expected = self.expected.is_some_and(|expected| self.len() >= expected);
        expected && self.in_parts == 0 && self.unheard.is_empty()
    }

    /// Whether those that have answered have done so with all of their shards.
    pub fn has_whole_nodes(&self) -> bool {
        self.in_parts == 0 && !self.nodes.is_empty()
    }

    /// How many nodes have answered.
    pub fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Adds those that others have links to, with what these say of them.
    pub fn add_unheard(&mut self) {
        let mut found = Vec::new();
        for node in self.nodes.values() {
            let links = node.links.iter();
            let unheard = links.filter(|link| self.unheard.contains(&link.node));
            found.extend(unheard.map(|link| {
                let place = node.place.as_deref();
                let (parent, place) = match (link.is_up, link.number) {
                    (true, _) => (None, place.and_then(above)),
                    (false, number) => {
                        let below = |place: &str| {
                            Some(format!("{}/{}", place.trim_end_matches('/'), number?))
                        };
                        (Some(node.id.clone()), place.and_then(below))
                    }
                };
                Node {
                    id: link.node.clone(),
                    name: link.name.clone(),
                    parent,
                    place,
                    ..Node::default()
                }
            }));
        }
        for node in found {
            self.nodes.entry(node.id.clone()).or_insert(node);
        }
    }
}

/// The place of the parent of who stands here.
fn above(place: &str) -> Option<String> {
    match place.rsplit_once('/')? {
        (_, "") => None,
        ("", _) => Some("/".to_string()),
        (above, _) => Some(above.to_string()),
    }
}

/// The child numbers of a place, by which places are sorted.
pub fn numbers(place: &str) -> Vec<u64> {
    let parts = place.split('/').filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// A field that is text.
pub fn string(of: &Value, name: &str) -> String {
    of[name].as_str().unwrap_or_default().to_string()
}

/// A field that is a number, or 0.
pub fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or(0)
}

/// What is text of a list.
pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    let texts = list.filter_map(Value::as_str);
    texts.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shard(node: &str, shard: u64, shards: u64, parent: Option<&str>, peers: &[&str]) -> Value {
        let link = |peer: &&str| {
            json!({
                "node": peer, "name": format!("name of {peer}"), "role": if parent == Some(peer) { "parent" } else { "child" },
                "number": 3, "lanes": 1, "lanes_up": 1, "round_trip_us": 100 + shard, "events_out": 5, "filters_wanted": 2,
            })
        };
        let links: Vec<_> = peers.iter().map(link).collect();
        let mut answer = json!({
            "node": node, "shard": shard, "shards": shards, "address": "/1", "links": links,
            "counters": {"connections": 4},
        });
        if shard == 0 {
            answer["place"] = json!({"parent": parent, "subtree": 3});
        }
        answer
    }

    #[test]
    fn a_tree_is_whole_when_each_shard_of_each_node_has_answered() {
        let mut gathered = Gathered::default();
        for answer in [
            shard("b", 1, 2, Some("a"), &["a"]),
            shard("a", 0, 1, None, &["b", "c"]),
            shard("c", 0, 1, Some("a"), &["a"]),
        ] {
            gathered.take(&answer);
            assert!(!gathered.is_whole());
        }
        // The same again is not another shard.
        gathered.take(&shard("b", 1, 2, Some("a"), &["a"]));
        assert!(!gathered.is_whole());
        gathered.take(&shard("b", 0, 2, Some("a"), &["a"]));
        assert!(gathered.is_whole());
        let b = &gathered.nodes["b"];
        assert_eq!((b.counter("connections"), b.clients()), (8, 6));
        assert_eq!((b.links.len(), b.links[0].events_out), (1, 10));
        assert_eq!(b.links[0].round_trip_us, Some(100));
    }

    #[test]
    fn those_that_did_not_answer_stand_where_others_say() {
        let mut gathered = Gathered::default();
        gathered.take(&shard("b", 0, 1, Some("a"), &["a", "c"]));
        assert!(!gathered.is_whole());
        gathered.add_unheard();
        let c = &gathered.nodes["c"];
        assert_eq!(
            (c.place.as_deref(), c.parent.as_deref()),
            (Some("/1/3"), Some("b"))
        );
        assert_eq!((c.name.as_str(), c.is_whole()), ("name of c", false));
        assert_eq!(gathered.nodes["a"].place.as_deref(), Some("/"));
    }

    #[test]
    fn a_broker_without_a_tree_is_whole_by_itself() {
        let mut gathered = Gathered::default();
        gathered.take(&json!({"node": "a", "shard": 0, "shards": 1, "links": []}));
        assert!(gathered.is_whole());
    }

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(shown_name("", "77"), "77");
        assert_eq!(shown_name("a\u{1b}[2J", "77"), "a\\x1b[2J");
        assert_eq!(shown_name(&"n".repeat(500), "77").len(), 64);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (u64::MAX - 3..=u64::MAX).prop_map(Value::from),
            ".{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            let name = "node|name|links|counters|place|shard|shards|parent|connections";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(name, inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_answers_is_taken(answers in proptest::collection::vec(any_json(), 0..6)) {
            let mut gathered = Gathered::default();
            for answer in &answers {
                gathered.take(answer);
            }
            gathered.add_unheard();
            for node in gathered.nodes.values() {
                prop_assert!(!node.shown().chars().any(char::is_control));
            }
        }
    }
}
