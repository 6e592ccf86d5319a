//! The links of a node as seen by one of its shards: its lanes to other nodes, and the frames sent on them.
//!
//! Every shard has the same links under the same numbers, and owns some lanes of each. The lane of an event follows
//! from the shard that published it, so that on every node one shard sees all events of a publisher, in order. Must not
//! know who listens, nor the node's position in the tree. Start at [`Links::send`].

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

/// The node at the other side of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node: NodeId,
    /// Its incarnation: which of its runs this is.
    pub incarnation: u64,
    /// Its number of shards.
    pub shards: u16,
    /// Its name.
    pub name: String,
    /// Its advertised address, if it can be dialed.
    pub address: Option<SocketAddr>,
}

/// One link, as seen by a shard.
#[derive(Debug)]
pub(crate) struct Link {
    /// Token chosen by the side that dialed; later connections of the same link carry it.
    pub token: u64,
    pub peer: Peer,
    /// The address to dial for its lanes. `None` if the other side dials.
    pub dial_to: Option<SocketAddr>,
    /// Whether the link is a branch of the tree, which carries events and interest.
    pub is_adopted: bool,
    /// Number of lanes on all shards.
    pub lanes_total: u16,
    /// The lanes of this shard.
    pub lanes: Vec<Lane>,
    /// Place messages that found no connection, kept for the next one.
    pub places_waiting: Vec<u8>,
    /// Sequence number of the last interest announced to the other side.
    pub told: u64,
    /// Whether the other side was asked to send everything.
    pub told_everything: bool,
    /// Whether filters are announced one by one, or are about to be again after everything was asked for.
    pub is_exact_again: bool,
    /// Events that the other side dropped on their way here, and that no notice has reported yet.
    pub lost_before: u64,
    /// Whether the lane for interest is over its cap: the link must be closed.
    pub is_stuck: bool,
    /// Sequence number of the last interest received from the other side, as known to this shard.
    pub known: u64,
    /// Events sent over this shard's lanes.
    pub events_out: u64,
    /// Events received on this shard's lanes, duplicates included.
    pub events_in: u64,
    /// Events dropped because a lane was full.
    pub events_lost: u64,
}

/// Counters of all links of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkCounters {
    pub events_out: u64,
    pub events_in: u64,
    pub events_twice: u64,
    pub events_lost: u64,
    pub events_lost_before: u64,
    pub reconnects: u64,
}

/// All links of a node, as seen by one shard.
#[derive(Debug)]
pub(crate) struct Links {
    shard: u16,
    shards: u16,
    me: NodeId,
    incarnation: u64,
    links: Vec<Option<Link>>,
    /// Number of links.
    count: usize,
    /// Number of the last event of this shard that left the node.
    sequence: u64,
    pub dedup: Dedup,
    /// Scratch buffer for a frame that goes to several links.
    frame: Vec<u8>,
    /// Lanes with something to send, each once: the link and the lane's index there.
    listed: Vec<(LinkId, usize)>,
    lane_bytes_max: usize,
    gauge: BodyGauge,
    pub counters: LinkCounters,
}

/// Bytes of an event in a frame besides its attributes and payload.
const EVENT_BYTES: usize = 9;

/// Bytes of a frame of events besides its events, topic and groups, rounded up.
const EVENTS_FRAME_BYTES: usize = 96;

/// The route for all plain subscribers behind a link, without groups.
pub(crate) fn to_all() -> Route<'static> {
    Route {
        plain: true,
        ..Route::default()
    }
}

/// Number of lanes of a link between nodes of `one` and `other` shards: the least common multiple, at most 64, so that
/// a publisher's events pass one shard on each side.
pub(crate) fn lanes_between(one: u16, other: u16) -> u16 {
    let (mut a, mut b) = (one, other);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let together = u32::from(one) * u32::from(other) / u32::from(a.max(1));
    together.min(SHARDS_MAX as u32) as u16
}

impl Links {
    /// No links yet.
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

    /// The lowest free link number.
    pub(crate) fn free_place(&self) -> LinkId {
        let free = self.links.iter().position(Option::is_none);
        LinkId(free.unwrap_or(self.links.len()) as u16)
    }

    /// Number of branches of the tree, and bytes kept by this shard's lanes.
    pub(crate) fn gauges(&self) -> (u64, u64) {
        let lanes = self.iter().flat_map(|(_, link)| &link.lanes);
        let kept: usize = lanes.map(Lane::len).sum();
        (self.adopted(None).count() as u64, kept as u64)
    }

    /// Number of links.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds a link, with this shard's lanes of it.
    pub(crate) fn open(&mut self, id: LinkId, token: u64, peer: Peer, dial_to: Option<SocketAddr>) {
        let lanes_total = lanes_between(self.shards, peer.shards);
        let own = (self.shard..lanes_total).step_by(usize::from(self.shards));
        let lanes = own.map(|number| Lane::new(number, self.lane_bytes_max));
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

    /// Removes a link. Returns the connections of its lanes on this shard, and how many events the other side has not
    /// acknowledged: some of them may have arrived.
    pub(crate) fn close(&mut self, id: LinkId) -> (Vec<ConnId>, u64) {
        let link = self.links.get_mut(id.index()).and_then(Option::take);
        self.count -= usize::from(link.is_some());
        self.listed.retain(|&(other, _)| other != id);
        let lanes = link.iter().flat_map(|link| &link.lanes);
        let lost = lanes.map(Lane::unacknowledged).sum::<u64>();
        self.counters.events_lost += lost;
        let lanes = link.into_iter().flat_map(|link| link.lanes);
        (lanes.filter_map(|lane| lane.conn).collect(), lost)
    }

    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.index())?.as_mut()
    }

    /// All links, in order of number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let places = self.links.iter().enumerate();
        places.filter_map(|(place, link)| Some((LinkId(place as u16), link.as_ref()?)))
    }

    /// The branches of the tree, except `except`.
    pub(crate) fn adopted(&self, except: Option<LinkId>) -> impl Iterator<Item = LinkId> {
        let adopted = self.iter().filter(|(_, link)| link.is_adopted);
        let ids = adopted.map(|(id, _)| id);
        ids.filter(move |&id| Some(id) != except)
    }

    /// The link with this token to this node.
    pub(crate) fn find(&self, token: u64, node: NodeId) -> Option<LinkId> {
        let mut links = self.iter();
        let found = links.find(|(_, link)| link.token == token && link.peer.node == node);
        found.map(|(id, _)| id)
    }

    /// A lane of this shard; `number` is its number on the link.
    pub(crate) fn lane_mut(&mut self, id: LinkId, number: u16) -> Option<&mut Lane> {
        let place = usize::from(number / self.shards.max(1));
        let lane = self.get_mut(id)?.lanes.get_mut(place)?;
        (lane.number == number).then_some(lane)
    }

    /// Whether any lane has something to send.
    pub(crate) fn has_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Takes the list of lanes with something to send, each once.
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

    /// Sends an event published on this shard over these links.
    pub(crate) fn publish(
        &mut self,
        links: impl Iterator<Item = LinkId> + Clone,
        route: Route<'_>,
        event: &Event<'_>,
    ) {
        let own = self.own_head(1, event.space, event.topic, route);
        self.send(links, &own, std::iter::once(parts(event)));
    }

    /// Like [`publish`](Links::publish), for a run: adjacent events of one topic whose payloads stand in `input`.
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

    /// Forwards an event of another node in a frame of its own, because this link gets only part of its route.
    pub(crate) fn pass_on(&mut self, link: LinkId, head: &EventsHead<'_>, event: &Event<'_>) {
        let links = std::iter::once(link);
        self.send(links, head, std::iter::once(parts(event)));
    }

    /// Forwards a frame unchanged.
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

    /// Writes a frame for these links: straight into the lane if there is one link, else once for all.
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

    /// Pushes the frame in the scratch buffer to each link's lane for this origin.
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

    /// Calls `push` with the lane that events of this origin take on a link, and counts the result.
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

    /// Puts a lane in the list of those with something to send.
    pub(crate) fn list(&mut self, id: LinkId, number: u16) {
        let place = usize::from(number / self.shards);
        let lane = self.lane_mut(id, number);
        if let Some(lane) = lane.filter(|lane| !lane.is_listed) {
            lane.is_listed = true;
            self.listed.push((id, place));
        }
    }

    /// Whether a frame's origin may have come to the numbers of its events.
    pub(crate) fn is_plausible(&self, head: &EventsHead<'_>, count: u64) -> bool {
        let last = head.first.saturating_add(count);
        head.origin == self.me
            || self
                .dedup
                .is_plausible(origin_of(head), head.incarnation, last)
    }

    /// How many of a frame's events are duplicates; all, if this node published them.
    pub(crate) fn known(&mut self, head: &EventsHead<'_>, count: u64) -> u64 {
        if head.origin == self.me {
            return count;
        }
        self.dedup
            .known(origin_of(head), head.incarnation, head.first, count)
    }

    /// Records an event of a frame as seen.
    pub(crate) fn note(&mut self, head: &EventsHead<'_>, place: u64) {
        self.dedup
            .note(origin_of(head), head.incarnation, head.first + place);
    }
}

/// The link, if there is exactly one.
fn only(mut links: impl Iterator<Item = LinkId>) -> Option<LinkId> {
    let first = links.next();
    first.filter(|_| links.next().is_none())
}

/// An event as encoded in a frame.
fn parts<'a>(event: &Event<'a>) -> events::Event<'a> {
    events::Event {
        flags: event.flags,
        attributes: event.attributes,
        payload: event.payload,
    }
}

fn origin_of(head: &EventsHead<'_>) -> Origin {
    Origin {
        node: head.origin,
        lane: head.lane,
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
