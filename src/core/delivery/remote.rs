//! Events that leave for other nodes, and those that come from them.
//!
//! An event that comes over a link is delivered here and goes on over every other link behind which somebody wants it, in
//! the frame it came in unless it is not for all of them that it was for. Owns nothing. Start at
//! [`Delivery::receive_events`].

use super::{Delivery, Egress, Plan, Reach};
use crate::command::{Event, LinkId, Space, Target};
use crate::limits::SHARED_BODY_BYTES_MIN;
use crate::mailbox::HandedRun;
use crate::tree::links::to_all;
use sapwood_wire::limits::NODE_GROUPS_BYTES_MAX;
use sapwood_wire::node::HEADER_BYTES;
use sapwood_wire::node::events::{self, Events, EventsHead, Groups, Route};
use sapwood_wire::run::Source;

/// At how many nodes a turn may find no member before it is given up.
const NODE_TRIES_MAX: u8 = 4;

/// A frame of events that came over a link.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub link: LinkId,
    /// The frame as it came, header and all.
    pub frame: &'a [u8],
    pub events: &'a Events<'a>,
}

/// How far a frame of events was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    All,
    /// Output is to be written before the rest.
    Part,
}

impl Delivery {
    /// Sends an event to the links that it is for by its plan and the turns that were taken, as one of this node's own.
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

    /// The same where what is behind one link is not what is behind the other.
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

    /// The groups whose turn is this target's.
    fn names_in_turn<'a>(
        &'a self,
        egress: &'a Egress<'_>,
        target: Target,
    ) -> impl Iterator<Item = &'a [u8]> {
        let groups = self.route().groups.iter().zip(&self.turns);
        let groups = groups.filter(move |&(_, &turn)| turn == Some(target));
        groups.map(|(group, _)| egress.broker.group_name(group))
    }

    /// Sends an event of another node on to the links that it is for, by what it came as and the turns that were taken.
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
            // They came in one frame, so they fit into one.
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

    /// Delivers what came over a link and is new here, and passes it on. Call again with the same frame if it could
    /// not be dealt with as a whole: events that were are known then.
    pub(crate) fn receive_events(
        &mut self,
        egress: &mut Egress<'_>,
        arrival: Arrival<'_>,
    ) -> Received {
        let head = arrival.events.head();
        let count = arrival.events.len() as u64;
        let known = egress.links.known(head, count);
        if known == count {
            // Counted once, not again for what was dealt with in parts.
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
            if egress.outboxes.should_flush(self.pending()) {
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

    /// Deals with events for everybody who gets every event.
    fn receive_plain(
        &mut self,
        egress: &mut Egress<'_>,
        arrival: Arrival<'_>,
        known: u64,
    ) -> Received {
        let head = arrival.events.head();
        let is_for_all = self.route().scope.is_for_all();
        // Those that go on go on at once, all together; if some were here before, the others are so everywhere behind.
        let is_begun = known > 0;
        if !is_begun {
            self.forward(egress, arrival);
        }
        if !is_begun && !is_for_all && self.receive_run(egress, arrival) {
            return Received::All;
        }
        for (place, placed) in arrival.events.iter().enumerate().skip(known as usize) {
            if egress.outboxes.should_flush(self.pending()) {
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

    /// Sends a frame on as it came, to all that it is for but where it came from; gives those links.
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

    /// Delivers all events of a frame as one run, where nothing is to be decided for each; whether that was so.
    fn receive_run(&mut self, egress: &mut Egress<'_>, arrival: Arrival<'_>) -> bool {
        let head = arrival.events.head();
        let route = self.route();
        // Turns of the same topic are given at once, which what gathers must not fall behind.
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
        let run = HandedRun {
            source: Source::Node,
            topic: head.topic,
            frames: arrival.frame,
            payloads: &payloads,
        };
        self.execute_run(egress, &run, only, Reach::Node);
        self.payloads = payloads;
        true
    }

    /// Deals with one event that is a group's turn behind the link it came by.
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
                None => self.turn_back(egress, from, head.route.tries + 1, name, event),
            }
        }
        let plan = Plan {
            plain: head.route.plain,
            ..Plan::for_all(Reach::Onward(from, head), body.as_ref())
        };
        self.execute(egress, event, plan);
    }

    /// Gives a turn that nobody here or further on can take back to where the others of the group are. The event was noted
    /// as seen on its way here, so it goes as one of this node's own.
    pub(super) fn turn_back(
        &mut self,
        egress: &mut Egress<'_>,
        from: LinkId,
        tries: u8,
        name: &[u8],
        event: &Event<'_>,
    ) {
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

/// Sends an event over a link as the turn of this group alone; `tries` shards or nodes had no member left before.
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

/// Names of groups as they stand in frames: as many as fit into the first, then into the next. One frame at least.
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
