//! The links of a node, as one of its shards sees them: its lanes to other nodes, and what goes out on them.
//!
//! Every shard has the same links under the same numbers, and of each the lanes that are its own. Which lane an event takes
//! follows from the shard that it was published on, so that on every node one shard sees all events of a publisher,
//! in order. Must not know who listens nor where a node stands in the tree. Start at [`Links::send`].

use super::dedup::{Dedup, Origin};
use super::lane::{Lane, Pushed};
use crate::command::{ConnId, Event, LinkId, Space};
use crate::limits::{Limits, SHARDS_MAX, SHARED_RUN_BYTES_MIN};
use crate::outbox::BodyGauge;
use core::net::SocketAddr;
use sapwood_wire::limits::NODE_EVENTS_MAX;
use sapwood_wire::node::events::{EventsHead, Route};
use sapwood_wire::node::interest::Needs;
use sapwood_wire::node::{NodeId, VERSIONS, events};
use sapwood_wire::run::Span;

/// Who is at the other side of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// Its run.
    pub incarnation: u64,
    /// How many shards it has.
    pub shards: u16,
    /// How it calls itself.
    pub name: String,
    /// Where it can be dialed, if it can.
    pub address: Option<SocketAddr>,
}

/// One link, as a shard sees it.
#[derive(Debug)]
pub(crate) struct Link {
    /// The number that who dialed gave it, for later connections of the same link.
    pub token: u64,
    pub peer: Peer,
    /// Where its lanes are to be dialed; nowhere, if the other side dials.
    pub dial_to: Option<SocketAddr>,
    /// It is a branch of the tree: events and interest go over it.
    pub is_adopted: bool,
    /// How many lanes it has in all.
    pub lanes_total: u16,
    /// This shard's.
    pub lanes: Vec<Lane>,
    /// Messages about places that found no connection, for the next one.
    pub places_waiting: Vec<u8>,
    /// The number of the last interest that the other side was told.
    pub told: u64,
    /// It was told that everything is wanted here.
    pub told_everything: bool,
    /// It is being told, or was, of single filters.
    pub is_exact_again: bool,
    /// Events that the other side lost before they came here, and that no operator was told of.
    pub lost_before: u64,
    /// Its lane for interest is full: the link cannot go on.
    pub is_stuck: bool,
    /// The number of the last interest of the other side that this shard knows.
    pub known: u64,
    /// Events that went over this shard's lanes.
    pub events_out: u64,
    /// Events that came over them, those among them that had come before by another way.
    pub events_in: u64,
    /// Events that were dropped because they were full.
    pub events_lost: u64,
}

/// What links count.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkCounters {
    pub events_out: u64,
    pub events_in: u64,
    pub events_twice: u64,
    pub events_lost: u64,
    pub events_lost_before: u64,
}

/// All links of a node, as one shard sees them.
#[derive(Debug)]
pub(crate) struct Links {
    shard: u16,
    shards: u16,
    me: NodeId,
    incarnation: u64,
    links: Vec<Option<Link>>,
    /// How many of them there are.
    count: usize,
    /// The number of the last event that was published here and left the node.
    sequence: u64,
    pub dedup: Dedup,
    /// For a frame, before it is known how many take it.
    frame: Vec<u8>,
    /// Lanes with something to send, each once.
    listed: Vec<(LinkId, usize)>,
    lane_bytes_max: usize,
    gauge: BodyGauge,
    pub counters: LinkCounters,
}

/// What an event takes in a frame beside its attributes and payload.
const EVENT_BYTES: usize = 9;

/// What a frame of events takes beside those and its topic and groups, or a little more.
const EVENTS_FRAME_BYTES: usize = 96;

/// The route of what everybody behind a link gets who gets every event, and no group.
pub(crate) fn to_all() -> Route<'static> {
    Route {
        plain: true,
        ..Route::default()
    }
}

/// How many lanes a link between nodes of so many shards has: so many that each shard of the one has one to each shard
/// of the other that the same publishers' events pass.
pub(crate) fn lanes_between(one: u16, other: u16) -> u16 {
    let (mut a, mut b) = (one, other);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let together = u32::from(one) * u32::from(other) / u32::from(a.max(1));
    together.min(SHARDS_MAX as u32) as u16
}

impl Links {
    /// Without a link.
    pub(crate) fn new(
        (shard, shards): (u16, u16),
        (me, incarnation): (NodeId, u64),
        limits: &Limits,
        gauge: BodyGauge,
        hash_seed: u64,
    ) -> Links {
        Links {
            shard,
            shards,
            me,
            incarnation,
            links: Vec::new(),
            count: 0,
            sequence: 0,
            dedup: Dedup::new(limits.origins_max, hash_seed),
            frame: Vec::new(),
            listed: Vec::new(),
            lane_bytes_max: limits.lane_bytes_max,
            gauge,
            counters: LinkCounters::default(),
        }
    }

    /// A place for a link.
    pub(crate) fn free_place(&self) -> LinkId {
        let free = self.links.iter().position(Option::is_none);
        LinkId(free.unwrap_or(self.links.len()) as u16)
    }

    /// Branches of the tree, and bytes that this shard's lanes keep.
    pub(crate) fn gauges(&self) -> (u64, u64) {
        let lanes = self.iter().flat_map(|(_, link)| &link.lanes);
        let kept: usize = lanes.map(Lane::len).sum();
        (self.adopted(None).count() as u64, kept as u64)
    }

    /// How many links there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Takes a link in, with this shard's lanes of it.
    pub(crate) fn open(
        &mut self,
        id: LinkId,
        token: u64,
        peer: Peer,
        dial_to: Option<SocketAddr>,
        now_ns: u64,
    ) {
        let lanes_total = lanes_between(self.shards, peer.shards);
        let own = (self.shard..lanes_total).step_by(usize::from(self.shards));
        let lanes = own.map(|number| Lane::new(number, self.lane_bytes_max, now_ns));
        let link = Link {
            token,
            peer,
            dial_to,
            is_adopted: false,
            lanes_total,
            lanes: lanes.collect(),
            places_waiting: Vec::new(),
            told: 0,
            told_everything: false,
            is_exact_again: true,
            lost_before: 0,
            is_stuck: false,
            known: 0,
            events_out: 0,
            events_in: 0,
            events_lost: 0,
        };
        if self.links.len() <= id.index() {
            self.links.resize_with(id.index() + 1, || None);
        }
        assert!(
            self.links[id.index()].is_none(),
            "the place of {id:?} is taken"
        );
        self.links[id.index()] = Some(link);
        self.count += 1;
    }

    /// Forgets a link; gives the connections that its lanes here had.
    pub(crate) fn close(&mut self, id: LinkId) -> Vec<ConnId> {
        let link = self.links.get_mut(id.index()).and_then(Option::take);
        self.count -= usize::from(link.is_some());
        self.listed.retain(|&(other, _)| other != id);
        let lanes = link.into_iter().flat_map(|link| link.lanes);
        lanes.filter_map(|lane| lane.conn).collect()
    }

    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.index())?.as_mut()
    }

    /// All links, by their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let places = self.links.iter().enumerate();
        places.filter_map(|(place, link)| Some((LinkId(place as u16), link.as_ref()?)))
    }

    /// The branches of the tree, all or all but one.
    pub(crate) fn adopted(&self, except: Option<LinkId>) -> impl Iterator<Item = LinkId> {
        let adopted = self.iter().filter(|(_, link)| link.is_adopted);
        let ids = adopted.map(|(id, _)| id);
        ids.filter(move |&id| Some(id) != except)
    }

    /// The link that has this token and leads to this node.
    pub(crate) fn find(&self, token: u64, node: NodeId) -> Option<LinkId> {
        let mut links = self.iter();
        let found = links.find(|(_, link)| link.token == token && link.peer.node == node);
        found.map(|(id, _)| id)
    }

    /// One of this shard's lanes; `number` is that on the link.
    pub(crate) fn lane_mut(&mut self, id: LinkId, number: u16) -> Option<&mut Lane> {
        let place = usize::from(number / self.shards.max(1));
        let lane = self.get_mut(id)?.lanes.get_mut(place)?;
        (lane.number == number).then_some(lane)
    }

    /// Whether a lane has something to send.
    pub(crate) fn has_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// The lanes that have something to send, each once.
    pub(crate) fn take_listed(&mut self) -> Vec<(LinkId, u16)> {
        let listed = std::mem::take(&mut self.listed);
        let mut lanes = Vec::with_capacity(listed.len());
        for (id, place) in listed {
            if let Some(link) = self.get_mut(id) {
                link.lanes[place].is_listed = false;
                lanes.push((id, link.lanes[place].number));
            }
        }
        lanes
    }

    /// Sends an event that was published on this shard over these links.
    pub(crate) fn publish(
        &mut self,
        links: impl Iterator<Item = LinkId> + Clone,
        route: Route<'_>,
        event: &Event<'_>,
    ) {
        let own = self.own_head(1, event.space, event.topic, route);
        self.send(links, &own, std::iter::once(parts(event)));
    }

    /// The same for adjacent events of one topic, of which the payloads stand in `input`.
    pub(crate) fn publish_run(
        &mut self,
        links: impl Iterator<Item = LinkId> + Clone,
        topic: &[u8],
        input: &[u8],
        payloads: &[Span],
    ) {
        for payloads in payloads.chunks(NODE_EVENTS_MAX) {
            let parts = payloads.iter().map(|&(start, end)| events::Event {
                flags: 0,
                attributes: &[],
                payload: &input[start as usize..end as usize],
            });
            let own = self.own_head(payloads.len() as u64, Space::Topic, topic, to_all());
            self.send(links.clone(), &own, parts);
        }
    }

    /// Sends an event that came from another node on, in a frame of its own: over these links it is not for all that it
    /// was for.
    pub(crate) fn pass_on(&mut self, link: LinkId, head: &EventsHead<'_>, event: &Event<'_>) {
        let links = std::iter::once(link);
        self.send(links, head, std::iter::once(parts(event)));
    }

    /// Sends a frame on as it came.
    pub(crate) fn forward(
        &mut self,
        links: impl Iterator<Item = LinkId> + Clone,
        lane: u16,
        events: u64,
        frame: &[u8],
    ) {
        match only(links.clone()) {
            Some(link) => {
                let push = |lane: &mut Lane, needs| lane.push(frame, events, needs);
                self.push(link, lane, events, push);
            }
            None => {
                self.frame.clear();
                self.frame.extend_from_slice(frame);
                self.spread(lane, links, events);
            }
        }
    }

    fn own_head<'a>(
        &mut self,
        count: u64,
        space: Space,
        topic: &'a [u8],
        route: Route<'a>,
    ) -> EventsHead<'a> {
        let first = self.sequence + 1;
        self.sequence += count;
        EventsHead {
            origin: self.me,
            incarnation: self.incarnation,
            lane: self.shard as u8,
            first,
            topic,
            space: match space {
                Space::Topic => events::Space::Topic,
                Space::ShardChannel => events::Space::ShardChannel,
            },
            route,
        }
    }

    /// Writes a frame for these links: to its lane if there is one, else once for all of them.
    fn send<'a>(
        &mut self,
        links: impl Iterator<Item = LinkId> + Clone,
        head: &EventsHead<'_>,
        parts: impl ExactSizeIterator<Item = events::Event<'a>> + Clone,
    ) {
        let (lane, count) = (u16::from(head.lane), parts.len() as u64);
        let Some(link) = only(links.clone()) else {
            self.frame.clear();
            events::write_events(&mut self.frame, VERSIONS.1, head, parts);
            return self.spread(lane, links, count);
        };
        let bytes = parts
            .clone()
            .map(|event| EVENT_BYTES + event.attributes.len() + event.payload.len());
        let bytes = bytes.sum::<usize>() + EVENTS_FRAME_BYTES + head.topic.len();
        let write = |tail: &mut Vec<u8>| events::write_events(tail, VERSIONS.1, head, parts);
        let push = |lane: &mut Lane, needs| lane.push_with(bytes, count, needs, write);
        self.push(link, lane, count, push);
    }

    /// Gives the frame that was just written to the lane of each link that events of this origin's lane take.
    fn spread(&mut self, lane: u16, links: impl Iterator<Item = LinkId> + Clone, events: u64) {
        let frame = std::mem::take(&mut self.frame);
        if frame.len() < SHARED_RUN_BYTES_MIN {
            for id in links {
                self.push(id, lane, events, |lane, needs| {
                    lane.push(&frame, events, needs)
                });
            }
            self.frame = frame;
            return;
        }
        let shared = self.gauge.adopt(frame);
        for id in links {
            self.push(id, lane, events, |lane, needs| {
                lane.push_shared(&shared, events, needs)
            });
        }
    }

    /// Gives events to the lane that those of this origin's lane take on a link, by `push`.
    fn push(
        &mut self,
        id: LinkId,
        lane: u16,
        events: u64,
        push: impl FnOnce(&mut Lane, Needs) -> Pushed,
    ) {
        let Links {
            links,
            listed,
            shards,
            counters,
            ..
        } = self;
        let Some(Some(link)) = links.get_mut(id.index()) else {
            return;
        };
        let place = usize::from(lane % link.lanes_total / *shards);
        let Some(lane) = link.lanes.get_mut(place) else {
            return;
        };
        let needs = Needs {
            sequence: link.told,
            known: link.known,
        };
        match push(lane, needs) {
            Pushed::Kept => {
                link.events_out += events;
                counters.events_out += events;
            }
            Pushed::Dropped => {
                link.events_lost += events;
                counters.events_lost += events;
            }
        }
        if !lane.is_listed {
            lane.is_listed = true;
            listed.push((id, place));
        }
    }

    /// Notes that a lane has something to send.
    pub(crate) fn list(&mut self, id: LinkId, number: u16) {
        let place = usize::from(number / self.shards);
        let lane = self.lane_mut(id, number);
        if let Some(lane) = lane.filter(|lane| !lane.is_listed) {
            lane.is_listed = true;
            self.listed.push((id, place));
        }
    }

    /// How many of a frame's events were here before; all, if this node published them.
    pub(crate) fn known(&mut self, head: &EventsHead<'_>, count: u64) -> u64 {
        if head.origin == self.me {
            return count;
        }
        let origin = Origin {
            node: head.origin,
            lane: head.lane,
        };
        self.dedup
            .known(origin, head.incarnation, head.first, count)
    }

    /// Takes note that an event of a frame was dealt with.
    pub(crate) fn note(&mut self, head: &EventsHead<'_>, place: u64) {
        let origin = Origin {
            node: head.origin,
            lane: head.lane,
        };
        self.dedup
            .note(origin, head.incarnation, head.first + place);
    }
}

/// The only one of some links.
fn only(mut links: impl Iterator<Item = LinkId>) -> Option<LinkId> {
    let first = links.next();
    first.filter(|_| links.next().is_none())
}

/// An event as it stands in a frame.
fn parts<'a>(event: &Event<'a>) -> events::Event<'a> {
    events::Event {
        flags: event.flags,
        attributes: event.attributes,
        payload: event.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publishers_lane_passes_the_same_shard_of_a_node_on_every_link() {
        for one in 1..=16u16 {
            for other in 1..=16u16 {
                let lanes = lanes_between(one, other);
                assert_eq!(lanes, lanes_between(other, one));
                assert!(lanes >= one.max(other));
                if one % other == 0 || other % one == 0 {
                    assert_eq!(lanes, one.max(other));
                }
                for origin in 0..SHARDS_MAX as u16 {
                    let lane = origin % lanes;
                    assert_eq!(lane % one, origin % one, "{one} and {other} shards");
                    assert_eq!(lane % other, origin % other, "{one} and {other} shards");
                }
            }
        }
    }
}
