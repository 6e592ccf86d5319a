//! Answers of a node about itself and about the way of an event, to clients that publish to `$info` or `$trace:`.
//!
//! Each shard answers for itself, by an event on the reply topic (request/reply): so a client needs no right but to
//! publish, on any node and by any protocol. PROTOCOLS.md lists the fields. Start at [`Shard::answer_questions`].

use super::Shard;
use crate::command::{Event, LinkId, Now, Space, Target};
use crate::delivery::{Egress, Published, Question, Subject};
use crate::routing::broker::{GroupRoute, Route};
use crate::session::BROKER;
use crate::tree::lane::Lane;
use crate::tree::links::Link;
use crate::tree::place::Place;
use sapwood_wire::headers;
use sapwood_wire::native::Parts;
use sapwood_wire::scope;
use serde_json::{Map, Value, json};

impl Shard {
    /// Answers the questions of this turn, as far as there is room for the answers.
    pub(crate) fn answer_questions(&mut self, now: Now) {
        let mut questions = self.delivery.questions.take(now.monotonic_ns).into_iter();
        // Ends at the first answer that finds no room; an answer asks nothing itself.
        while let Some(question) = questions.next() {
            let is_sent = match &question.subject {
                Subject::Node => self.publish_json(&question, &self.describe_shard(now)),
                Subject::Trace { topic, from, to } => {
                    self.publish_json(&question, &self.describe_step(topic, *from, to))
                }
                Subject::Lost { topic } => self.say_lost(&question, topic),
                Subject::NotStored => self.say_not_stored(&question),
            };
            if !is_sent {
                let rest = std::iter::once(question).chain(questions);
                return self.delivery.questions.put_back(rest);
            }
        }
    }

    fn publish_json(&mut self, question: &Question, answer: &Value) -> bool {
        let payload = answer.to_string();
        let parts = Parts {
            payload: payload.as_bytes(),
            ..Parts::default()
        };
        self.publish_answer(&question.reply, &parts)
    }

    /// Answers that no node is at the address that an event was sent to, as a no-responders message of NATS.
    fn say_lost(&mut self, question: &Question, topic: &[u8]) -> bool {
        let text = format!(
            "nobody stands at that place of the tree: {}",
            topic.escape_ascii()
        );
        let parts = Parts {
            headers: &[
                (headers::STATUS, headers::NO_RESPONDERS),
                (b"Description", text.as_bytes()),
            ],
            is_end: true,
            ..Parts::default()
        };
        self.publish_answer(&question.reply, &parts)
    }

    /// Answers that an event was not stored, as an acknowledgement of JetStream does: "insufficient resources", which
    /// libraries take for an error that may pass.
    fn say_not_stored(&mut self, question: &Question) -> bool {
        let answer = json!({
            "error": {
                "code": 503,
                "err_code": 10_023,
                "description": "not stored: the broker is behind with storing; publish again later",
            },
        });
        self.publish_json(question, &answer)
    }

    /// Publishes an answer; false if a shard that listens is behind, and nothing was published.
    fn publish_answer(&mut self, reply: &[u8], parts: &Parts<'_>) -> bool {
        let mut attributes = Vec::new();
        // invariant: the headers are the broker's own, and short.
        let flags = parts.write_attributes(&mut attributes).expect("headers");
        let event = Event {
            flags,
            attributes: &attributes,
            ..Event::plain(Space::Topic, reply, parts.payload)
        };
        let mut egress = Egress {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            mailboxes: &mut self.mailboxes,
            links: &mut self.links,
        };
        // Nobody keeps what the broker itself says.
        let published = self.delivery.emit(&mut egress, event);
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        !matches!(published, Published::NoRoom(_))
    }

    /// Identity and address of this node, for people and programs.
    fn describe_node(&self) -> Map<String, Value> {
        let path = self.broker.position().path.as_ref();
        let mut node = Map::new();
        let mut say = |name: &str, value: Value| node.insert(name.into(), value);
        match &self.tree {
            Some(tree) => {
                say("node", tree.node().to_string().into());
                say("name", tree.config.place.name.clone().into());
                say("tags", tree.config.tags.clone().into());
                say("groups", tree.config.groups.clone().into());
            }
            None => {
                say("node", self.settings.run_id.get(..16).into());
                say("name", "".into());
            }
        }
        say("address", path.map(ToString::to_string).into());
        say("shard", self.settings.shard.0.into());
        say("shards", self.settings.shards.into());
        node
    }

    /// This shard, its links and its counters; on shard 0 also the node's place in the tree.
    fn describe_shard(&self, now: Now) -> Value {
        let mut shard = self.describe_node();
        let mut say = |name: &str, value: Value| shard.insert(name.into(), value);
        let uptime_ms = now.wall_ms.saturating_sub(self.settings.started_wall_ms);
        say("broker", BROKER.into());
        say("uptime_ms", uptime_ms.into());
        if let Some(place) = self.place() {
            say("place", describe_place(place, now));
        }
        let links = self.links.iter().filter(|(_, link)| link.is_adopted);
        let links = links.map(|(id, link)| self.describe_link(id, link));
        say("links", links.collect());
        let counters = self.counters();
        let entries = counters.entries().into_iter();
        let counters = entries.map(|(name, value)| (name.to_string(), value.into()));
        say("counters", Value::Object(counters.collect()));
        Value::Object(shard)
    }

    fn describe_link(&self, id: LinkId, link: &Link) -> Value {
        let position = self.broker.position();
        let child = position.down.iter().find(|&&(_, other)| other == id);
        let round_trips = link.lanes.iter().filter_map(|lane| lane.round_trip_ns);
        json!({
            "node": link.peer.node.to_string(),
            "name": link.peer.name,
            "at": link.peer.address.map(|address| address.to_string()),
            "role": if position.up == Some(id) { "parent" } else { "child" },
            "number": child.map(|&(number, _)| number),
            "lanes": link.lanes.len(),
            "lanes_up": link.lanes.iter().filter(|lane| lane.conn.is_some()).count(),
            "round_trip_us": round_trips.min().map(|ns| ns / 1_000),
            "events_out": link.events_out,
            "events_in": link.events_in,
            "events_lost": link.events_lost,
            "reconnects": link.lanes.iter().map(Lane::reconnects).sum::<u64>(),
            "bytes_kept": link.lanes.iter().map(|lane| lane.len()).sum::<usize>(),
            "filters_wanted": self.broker.wanted_behind(id),
            "everything_wanted": self.broker.wants_everything(id),
        })
    }

    /// What this node did with a traced event.
    fn describe_step(&self, topic: &[u8], from: Option<LinkId>, to: &[LinkId]) -> Value {
        let name = topic.strip_prefix(scope::TRACE).unwrap_or(topic);
        let mut route = Route::default();
        self.broker.route(Space::Topic, name, &mut route);
        let mut step = self.describe_node();
        let mut say = |name: &str, value: Value| step.insert(name.into(), value);
        let link = from.and_then(|from| self.links.get(from));
        let lanes = link.into_iter().flat_map(|link| &link.lanes);
        let round_trip_ns = lanes.filter_map(|lane| lane.round_trip_ns).min();
        let node = |link: &LinkId| {
            let link = self.links.get(*link)?;
            Some(link.peer.node.to_string())
        };
        say("from", link.map(|link| link.peer.node.to_string()).into());
        say("to", to.iter().filter_map(node).collect());
        say("round_trip_us", round_trip_ns.map(|ns| ns / 1_000).into());
        say("is_for_this_node", route.scope.is_here.into());
        say("subscriptions", route.subscriptions.into());
        let groups = route.groups.iter().map(|group| self.describe_group(group));
        say("members", groups.collect());
        Value::Object(step)
    }

    fn describe_group(&self, group: &GroupRoute) -> Value {
        let members = |is_here: bool| -> u64 {
            let weights = group.weights.iter();
            let weights =
                weights.filter(|(target, _)| matches!(target, Target::Shard(_)) == is_here);
            weights.map(|&(_, members)| u64::from(members)).sum()
        };
        json!({
            "group": String::from_utf8_lossy(self.broker.group_name(group)),
            "here": members(true),
            "beyond": members(false),
        })
    }
}

fn describe_place(place: &Place, now: Now) -> Value {
    let root_for_ns = now.monotonic_ns.saturating_sub(place.reign_since_ns());
    let reign = place.reign();
    json!({
        "term": reign.term,
        "root": reign.root().to_string(),
        "root_for_ms": root_for_ns / 1_000_000,
        "parent": place.parent().map(|parent| parent.contact.node().to_string()),
        "subtree": place.subtree(),
        "below": place.below(),
    })
}
