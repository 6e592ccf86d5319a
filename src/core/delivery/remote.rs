//! Events sent to other nodes, and events received from them.
//!
//! An event received on a link is delivered here and forwarded on every other link with interest in it. It keeps the
//! frame it came in, unless a link is to get it for only some of the frame's groups. Events for a shard that is behind
//! never wait: they have room of their own in its mailbox, and are dropped and counted beyond it. Owns nothing.
//! Start at [`Delivery::receive_events`].

use super::{Delivery, Egress, Plan, Reach};
use crate::command::{Event, LinkId, Space, Target};
use crate::limits::SHARED_BODY_BYTES_MIN;
use crate::mailbox::HandedRun;
use crate::tree::links::to_all;
use sapwood_wire::limits::NODE_GROUPS_BYTES_MAX;
use sapwood_wire::node::HEADER_BYTES;
use sapwood_wire::node::events::{self, Events, EventsHead, Groups, Route};
use sapwood_wire::run::Source;

/// A group turn is given up after this many nodes had no member for it.
const NODE_TRIES_MAX: u8 = 4;

/// A frame of events received on a link.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub link: LinkId,
    /// The whole frame as received, with its header.
    pub frame: &'a [u8],
    pub events: &'a Events<'a>,
}

/// How much of a frame of events was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    All,
    /// Not all: output must be flushed before the rest. Call again with the same frame.
    Part,
}

impl Delivery {
    /// Sends an event published on this node over the links that its plan and the group turns name.
    pub(super) fn send_own(&self, egress: &mut Egress<'_>, event: &Event<'_>, plan: &Plan<'_>) {
        let branches: Vec<LinkId>;
        let plain: &[LinkId] = match plan.plain {
            false => &[],
            true if self.goes_to_all_links() => {
                branches = egress.links.adopted(None).collect();
                &branches
            }
            true => &self.route().links,
        };
        let takes_turn = |turn: &Option<Target>| matches!(turn, Some(Target::Link(_)));
        if self.turns.iter().any(takes_turn) {
            self.send_each(egress, event, plain, plan.tries);
        } else if !plain.is_empty() {
            egress.links.publish(plain.iter().copied(), to_all(), event);
        }
    }

    /// Like `send_own`, with a frame of its own for each link, because their group turns differ.
    fn send_each(&self, egress: &mut Egress<'_>, event: &Event<'_>, plain: &[LinkId], tries: u8) {
        let with_turn = self.turns.iter().filter_map(|&turn| match turn {
            Some(Target::Link(link)) => Some(link),
            _ => None,
        });
        let mut links: Vec<LinkId> = plain.iter().copied().chain(with_turn).collect();
        links.sort_unstable();
        links.dedup();
        for link in links {
            let names = in_frames(self.names_in_turn(egress, Target::Link(link)));
            for (place, names) in names.iter().enumerate() {
                let route = Route {
                    plain: place == 0 && plain.contains(&link),
                    groups: Groups::new(names),
                    tries,
                };
                egress.links.publish(std::iter::once(link), route, event);
            }
        }
    }

    /// The names of the groups whose turn is this target's.
    fn names_in_turn<'a>(
        &'a self,
        egress: &'a Egress<'_>,
        target: Target,
    ) -> impl Iterator<Item = &'a [u8]> {
        let groups = self.route().groups.iter().zip(&self.turns);
        let groups = groups.filter(move |&(_, &turn)| turn == Some(target));
        groups.map(|(group, _)| egress.broker.group_name(group))
    }

    /// Forwards an event of another node to the links that its route and the group turns name, except the link it came
    /// by.
    pub(super) fn pass_on(
        &self,
        egress: &mut Egress<'_>,
        from: LinkId,
        head: &EventsHead<'_>,
        event: &Event<'_>,
    ) {
        let is_for_all = self.route().scope.is_for_all();
        let next: Vec<LinkId> = egress.links.adopted(Some(from)).collect();
        for link in next {
            // The names came in one frame, so they fit into one.
            let mut names = Vec::new();
            let in_turn = self.names_in_turn(egress, Target::Link(link));
            in_turn.for_each(|name| Groups::push(&mut names, name));
            let plain = head.route.plain && (is_for_all || self.route().links.contains(&link));
            if plain || !names.is_empty() {
                let route = Route {
                    plain,
                    groups: Groups::new(&names),
                    tries: head.route.tries,
                };
                let head = EventsHead { route, ..*head };
                egress.links.pass_on(link, &head, event);
            }
        }
    }

    /// Delivers the new events of a received frame, and forwards them. After [`Received::Part`], call again with the
    /// same frame: deduplication skips the events already handled.
    pub(crate) fn receive_events(
        &mut self,
        egress: &mut Egress<'_>,
        arrival: Arrival<'_>,
    ) -> Received {
        let head = arrival.events.head();
        let count = arrival.events.len() as u64;
        let known = egress.links.known(head, count);
        if known == count {
            // Duplicates of a whole frame only: events handled before [`Received::Part`] are not counted.
            egress.links.counters.events_twice += count;
            return Received::All;
        }
        let space = space_of(head);
        self.prepare(egress, space, head.topic);
        let has_own_way = self.has_own_way();
        if head.route.groups.is_empty() && head.route.plain && !has_own_way {
            return self.receive_plain(egress, arrival, known);
        }
        let to = match has_own_way && head.route.plain && known == 0 {
            true => self.forward(egress, arrival),
            false => Vec::new(),
        };
        for (place, placed) in arrival.events.iter().enumerate().skip(known as usize) {
            if self.must_pause(egress.outboxes) {
                return Received::Part;
            }
            egress.links.note(head, place as u64);
            egress.links.counters.events_in += 1;
            let first = head.first + place as u64;
            let head = EventsHead { first, ..*head };
            let event = event_of(&head, placed.event);
            match has_own_way {
                true => self.receive_scoped(egress, (arrival.link, &to), &head, &event),
                false => self.receive_turn(egress, arrival.link, &head, &event),
            }
        }
        Received::All
    }

    /// Handles events that are for all plain subscribers and no group.
    fn receive_plain(
        &mut self,
        egress: &mut Egress<'_>,
        arrival: Arrival<'_>,
        known: u64,
    ) -> Received {
        let head = arrival.events.head();
        let is_for_all = self.route().scope.is_for_all();
        // The whole frame is forwarded at once. If some of its events are known, it was forwarded before.
        let is_begun = known > 0;
        if !is_begun {
            self.forward(egress, arrival);
        }
        if !is_begun && !is_for_all && self.receive_run(egress, arrival) {
            return Received::All;
        }
        for (place, placed) in arrival.events.iter().enumerate().skip(known as usize) {
            if self.must_pause(egress.outboxes) {
                return Received::Part;
            }
            egress.links.note(head, place as u64);
            egress.links.counters.events_in += 1;
            let event = event_of(head, placed.event);
            let body = self.body_of(egress, &event);
            self.turns.clear();
            self.execute(egress, &event, Plan::for_all(Reach::Node, body.as_ref()));
        }
        Received::All
    }

    /// Forwards a frame unchanged to all links that want it, except the one it came by. Returns those links.
    fn forward(&self, egress: &mut Egress<'_>, arrival: Arrival<'_>) -> Vec<LinkId> {
        let next = |link: &LinkId| *link != arrival.link;
        let links: Vec<LinkId> = match self.goes_to_all_links() {
            true => egress.links.adopted(Some(arrival.link)).collect(),
            false => self.route().links.iter().copied().filter(next).collect(),
        };
        if !links.is_empty() {
            let lane = u16::from(arrival.events.head().lane);
            let count = arrival.events.len() as u64;
            egress
                .links
                .forward(links.iter().copied(), lane, count, arrival.frame);
        }
        links
    }

    /// Delivers all events of a frame as one run, if nothing has to be decided for each of them. Returns whether it
    /// did.
    fn receive_run(&mut self, egress: &mut Egress<'_>, arrival: Arrival<'_>) -> bool {
        let head = arrival.events.head();
        let route = self.route();
        // Group turns of the same topic are delivered at once, and a gathered run would fall behind them.
        let is_simple = route.filters.len() <= 1 && route.groups.is_empty();
        if space_of(head) != Space::Topic || !is_simple || route.scope.name_at > 0 {
            return false;
        }
        let only = self.only_receiver(egress);
        if only.is_some() && arrival.frame.len() > egress.outboxes.room_to_flush(self.pending()) {
            return false;
        }
        let is_plain = |event: &events::Event<'_>| {
            event.flags == 0 && event.payload.len() < SHARED_BODY_BYTES_MIN
        };
        if !arrival.events.iter().all(|placed| is_plain(&placed.event)) {
            return false;
        }
        let mut payloads = std::mem::take(&mut self.payloads);
        payloads.clear();
        payloads.extend(arrival.events.iter().map(|placed| {
            let start = (HEADER_BYTES + placed.payload_start) as u32;
            (start, start + placed.event.payload.len() as u32)
        }));
        let count = payloads.len() as u64;
        egress.links.note(head, count - 1);
        egress.links.counters.events_in += count;
        let run = HandedRun::new(Source::Node, head.topic, arrival.frame, &payloads);
        self.execute_run(egress, &run, only, Reach::Node);
        self.payloads = payloads;
        true
    }

    /// Handles an event that came as the turn of one or more groups: each turn goes to a shard here or on to a link.
    fn receive_turn(
        &mut self,
        egress: &mut Egress<'_>,
        from: LinkId,
        head: &EventsHead<'_>,
        event: &Event<'_>,
    ) {
        let body = self.body_of(egress, event);
        self.begin_turns();
        for name in head.route.groups {
            let place = self.route().place_of(egress.broker, name);
            let turn = place.and_then(|place| {
                let group = &self.route().groups[place];
                egress.broker.take_turn_besides(group, Target::Link(from))
            });
            match place.zip(turn) {
                Some((place, turn)) => self.turns[place] = Some(turn),
                None => self.turn_back(egress, from, head, name, event),
            }
        }
        let plan = Plan {
            plain: head.route.plain,
            ..Plan::for_all(Reach::Onward(from, head), body.as_ref())
        };
        self.execute(egress, event, plan);
    }

    /// Returns a group turn to the link it came by, because neither this node nor one beyond has a member.
    /// Deduplication has seen the event's number on its way here, so it is sent as an event published on this node.
    pub(super) fn turn_back(
        &mut self,
        egress: &mut Egress<'_>,
        from: LinkId,
        head: &EventsHead<'_>,
        name: &[u8],
        event: &Event<'_>,
    ) {
        let tries = head.route.tries.saturating_add(1);
        let route = self.route();
        let place = route.place_of(egress.broker, name);
        let group = place.map(|place| &route.groups[place]);
        let is_heard_there = group.or(route.scope.turn.as_ref()).is_some_and(|group| {
            let mut weights = group.weights.iter();
            weights.any(|&(target, _)| target == Target::Link(from))
        });
        if !is_heard_there || tries >= NODE_TRIES_MAX {
            self.turns_unheard += 1;
            return;
        }
        self.turns_retried += 1;
        send_turn(egress, from, name, tries, event);
    }
}

/// Sends an event over a link as a turn of this group alone. `tries` shards or nodes had no member left before.
pub(super) fn send_turn(
    egress: &mut Egress<'_>,
    link: LinkId,
    name: &[u8],
    tries: u8,
    event: &Event<'_>,
) {
    let mut names = Vec::new();
    Groups::push(&mut names, name);
    let route = Route {
        plain: false,
        groups: Groups::new(&names),
        tries,
    };
    egress.links.publish(std::iter::once(link), route, event);
}

/// Group names as encoded in frames: each frame is filled before the next begins. At least one frame.
fn in_frames<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut frames = vec![Vec::new()];
    for name in names {
        if frames
            .last()
            .is_some_and(|frame| frame.len() + 1 + name.len() > NODE_GROUPS_BYTES_MAX)
        {
            frames.push(Vec::new());
        }
        if let Some(frame) = frames.last_mut() {
            Groups::push(frame, name);
        }
    }
    frames
}

fn space_of(head: &EventsHead<'_>) -> Space {
    match head.space {
        events::Space::Topic => Space::Topic,
        events::Space::ShardChannel => Space::ShardChannel,
    }
}

fn event_of<'a>(head: &EventsHead<'a>, event: events::Event<'a>) -> Event<'a> {
    Event {
        space: space_of(head),
        topic: head.topic,
        flags: event.flags,
        attributes: event.attributes,
        payload: event.payload,
        number: 0,
    }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
