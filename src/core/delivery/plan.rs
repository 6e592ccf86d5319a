//! How an event reaches all whom it is for, whatever brought it here: it is decided once, and carried out by one function.
//!
//! What differs between a client's publish, a batch of another shard, a frame of another node and a turn that came back is
//! how far the event goes from here, whether it is for everyone, and whose turn it is. That is the [`Plan`]. Start at
//! [`Delivery::execute`]; for a run, of which nothing is to be decided for each event, at [`Delivery::execute_run`].

use super::{Delivery, Egress};
use crate::command::{ConnId, Event, LinkId, Member, ShardId, Target};
use crate::limits::SHARED_BODY_BYTES_MIN;
use crate::mailbox::{Addressees, HandedRun};
use bytes::Bytes;
use sapwood_wire::node::events::EventsHead;

/// How far an event goes from here.
#[derive(Clone, Copy)]
pub(super) enum Reach<'a> {
    /// Not beyond this shard: another one handed it over.
    Shard,
    /// To all shards of this node, from another one: what goes on to other nodes has gone, or it is for this one alone.
    Node,
    /// Over links as well, as an event of this node's own.
    Tree,
    /// Over all links but the one that it came by, as the event of another node that it is.
    Onward(LinkId, &'a EventsHead<'a>),
}

/// What is decided about an event, beside its route and the groups' turns.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub reach: Reach<'a>,
    /// Whether it is for everyone who gets every event; else only for those whose turn it is.
    pub plain: bool,
    /// The publisher, if it must not hear itself.
    pub except: Option<ConnId>,
    /// How many shards or nodes had no member left for the turns before.
    pub tries: u8,
    /// The payload, if it is kept once for all.
    pub body: Option<&'a Bytes>,
}

impl<'a> Plan<'a> {
    /// For everyone within reach.
    pub(super) fn for_all(reach: Reach<'a>, body: Option<&'a Bytes>) -> Plan<'a> {
        Plan {
            reach,
            plain: true,
            except: None,
            tries: 0,
            body,
        }
    }
}

impl Delivery {
    /// Gives an event of the present topic to all whom it is for by its plan, and by the groups' turns that were taken:
    /// other shards, links, members in turn, and who gets every event. For what is published here, the caller has asked for
    /// room; what other nodes have sent waits for nobody.
    pub(super) fn execute(&mut self, egress: &mut Egress<'_>, event: &Event<'_>, plan: Plan<'_>) {
        match plan.reach {
            Reach::Shard => {}
            Reach::Node => self.hand_out(egress, event, &plan),
            Reach::Tree => {
                self.hand_out(egress, event, &plan);
                self.send_own(egress, event, &plan);
            }
            Reach::Onward(from, head) => {
                self.hand_out(egress, event, &plan);
                self.pass_on(egress, from, head, event);
            }
        }
        let here = Some(Target::Shard(egress.broker.me()));
        for place in 0..self.turns.len() {
            if self.turns[place] == here {
                self.deliver_turn(egress, place, plan.except, event, plan.body);
            }
        }
        if plan.plain {
            self.deliver(egress, plan.except, event, plan.body);
        }
        self.named.end_sids(egress.broker);
    }

    /// The same for a run, for everyone within reach. The topic's route has no groups, and one filter at most; `only` is
    /// the only member of that, if it takes all.
    pub(super) fn execute_run(
        &mut self,
        egress: &mut Egress<'_>,
        run: &HandedRun<'_>,
        only: Option<Member>,
        reach: Reach<'_>,
    ) {
        for &shard in &self.route().shards {
            match reach {
                Reach::Shard => {}
                Reach::Tree => egress.mailboxes.push_run(shard, *run),
                Reach::Node | Reach::Onward(..) => {
                    let events = run.payloads.len() as u64;
                    egress
                        .mailboxes
                        .push_arrived(shard, events, |mailboxes| mailboxes.push_run(shard, *run));
                }
            }
        }
        if matches!(reach, Reach::Tree) && !self.route().links.is_empty() {
            let links = self.route().links.iter().copied();
            let links_out = &mut egress.links;
            links_out.publish_run(links, run.topic, run.frames, run.payloads);
        }
        if !self.route().filters.is_empty() {
            self.deliver_run(egress, run, only);
        }
    }

    /// The first of the shards that an event of the present topic may go to whose mailbox has no room for it.
    pub(super) fn full_shard(&self, egress: &Egress<'_>) -> Option<ShardId> {
        let mut targets = self.route().targets.iter().copied();
        targets.find(|&shard| !egress.mailboxes.has_room(shard))
    }

    /// Takes the turn of each group for an event that is published here; `except` must not hear it.
    pub(super) fn take_turns(&mut self, egress: &mut Egress<'_>, except: Option<ConnId>) {
        self.turns.clear();
        let Delivery {
            cached,
            present,
            turns,
            ..
        } = self;
        for group in &cached[*present].route.groups {
            let me = Target::Shard(egress.broker.me());
            let must_not = |publisher| egress.broker.are_members_of(group, publisher);
            turns.push(Some(match except.is_some_and(must_not) {
                // Nobody here may hear it: it is another shard's, if there is one.
                true => egress.broker.take_turn_again(group, me, 0),
                false => egress.broker.take_turn(group),
            }));
        }
    }

    /// Forgets the turns: nobody's is taken yet.
    pub(super) fn begin_turns(&mut self) {
        self.turns.clear();
        let groups = self.route().groups.len();
        self.turns.resize(groups, None);
    }

    /// Hands an event to the shards that it is for.
    fn hand_out(&self, egress: &mut Egress<'_>, event: &Event<'_>, plan: &Plan<'_>) {
        for &shard in &self.route().targets {
            let plain = plan.plain && self.route().shards.contains(&shard);
            let target = Some(Target::Shard(shard));
            if !plain && !self.turns.contains(&target) {
                continue;
            }
            let groups = self.route().groups.iter().zip(&self.turns);
            let groups = groups.filter(|&(_, &turn)| turn == target);
            let addressees = Addressees {
                plain,
                groups: groups.map(|(group, _)| egress.broker.group_name(group)),
                tries: plan.tries,
            };
            match plan.reach {
                Reach::Node | Reach::Onward(..) => {
                    egress.mailboxes.push_arrived(shard, 1, |mailboxes| {
                        mailboxes.push(shard, addressees, *event, plan.body);
                    });
                }
                _ => egress.mailboxes.push(shard, addressees, *event, plan.body),
            }
        }
    }

    /// The payload as it is shared by several receivers, if it is long.
    pub(super) fn body_of(&self, egress: &Egress<'_>, event: &Event<'_>) -> Option<Bytes> {
        let route = self.route();
        let shares = match route.scope.is_for_all() {
            // Who hears it unasked is not counted.
            true => usize::MAX,
            false => route.receivers + route.groups.len() + route.shards.len(),
        };
        if event.payload.len() < SHARED_BODY_BYTES_MIN || shares == 0 {
            return None;
        }
        let lent = self.lent.as_ref();
        let part = lent.and_then(|lent| part_of(lent, event.payload));
        part.or_else(|| (shares > 1).then(|| egress.outboxes.gauge().share(event.payload)))
    }
}

/// A payload as a part of the buffer that it stands in; `None` if it stands elsewhere.
fn part_of(buffer: &Bytes, payload: &[u8]) -> Option<Bytes> {
    let range = buffer.as_ptr_range();
    let of_payload = payload.as_ptr_range();
    let is_part = range.start <= of_payload.start && of_payload.end <= range.end;
    is_part.then(|| buffer.slice_ref(payload))
}
