//! Plans: what is decided about an event before it is delivered, and the one function that carries it out.
//!
//! Events come from a client's publish, another shard's batch, another node's frame, or a group turn that came back.
//! These differ in how far the event goes from here, whether it is for all subscribers, and whose group turn it is.
//! That is the [`Plan`]. Start at [`Delivery::execute`]; for a run, where nothing is decided for each event, at
//! [`Delivery::execute_run`].

use super::{Delivery, Egress};
use crate::command::{ConnId, Event, LinkId, Member, ShardId, Target};
use crate::limits::SHARED_BODY_BYTES_MIN;
use crate::mailbox::{Addressees, HandedRun, Mailboxes};
use bytes::Bytes;
use sapwood_wire::node::events::EventsHead;

/// How far an event goes from here.
#[derive(Clone, Copy)]
pub(super) enum Reach<'a> {
    /// This shard only: another shard handed it over.
    Shard,
    /// All shards of this node: the event came from another node and was already forwarded, or is for this node alone.
    Node,
    /// All shards and all links: the event was published on this node.
    Tree,
    /// The same, but no worker keeps it: one published it.
    Emitted,
    /// All shards, and all links except the one it came by: the event was published on another node (split horizon).
    Onward(LinkId, &'a EventsHead<'a>),
}

impl Reach<'_> {
    /// Hands so many events to another shard of the node, or a worker, if they reach it. Events of other nodes have room of
    /// their own there, and false says that there was none; for those that are published here the caller has asked for
    /// room.
    fn hand_over(
        self,
        mailboxes: &mut Mailboxes,
        (shard, events): (ShardId, u64),
        push: impl FnOnce(&mut Mailboxes),
    ) -> bool {
        match self {
            Reach::Shard => {}
            Reach::Tree => push(mailboxes),
            Reach::Emitted if mailboxes.is_worker(shard) => {}
            Reach::Emitted => push(mailboxes),
            Reach::Node | Reach::Onward(..) => return mailboxes.push_arrived(shard, events, push),
        }
        true
    }
}

/// What is decided about an event, apart from its route and the group turns.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub reach: Reach<'a>,
    /// Whether all plain subscribers get it; false if it is only for the groups' turns.
    pub plain: bool,
    /// The publisher, if it must not receive its own events.
    pub except: Option<ConnId>,
    /// How many shards or nodes have failed to deliver this group turn, because no member was left.
    pub tries: u8,
    /// The payload, if it is stored once and shared.
    pub body: Option<&'a Bytes>,
}

impl<'a> Plan<'a> {
    /// A plan for all subscribers within reach.
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
    /// Delivers an event of the present topic by its plan and by the group turns already taken: to other shards, links,
    /// group members and plain subscribers. For events published here, the caller has checked that mailboxes have room;
    /// events of other nodes never wait: their own room in a mailbox is capped, and beyond it they are dropped and
    /// counted.
    pub(super) fn execute(&mut self, egress: &mut Egress<'_>, event: &Event<'_>, plan: Plan<'_>) {
        match plan.reach {
            Reach::Shard => {}
            Reach::Node => self.hand_out(egress, event, &plan),
            Reach::Tree | Reach::Emitted => {
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
        // Group turns, where no plain subscription has put off the event already.
        let shown = self.as_shown(event);
        self.put_off_rest(egress.broker, egress.outboxes, &shown, plan.body);
        self.named.end_sids(egress.broker);
    }

    /// Like [`execute`](Delivery::execute), for a run to all subscribers within reach. The topic's route must have no
    /// groups and at most one filter; `only` is that filter's only member, if it takes frames without the slow consumer
    /// policy.
    pub(super) fn execute_run(
        &mut self,
        egress: &mut Egress<'_>,
        run: &HandedRun<'_>,
        only: Option<Member>,
        reach: Reach<'_>,
    ) {
        for &shard in &self.route().shards {
            let events = run.payloads.len() as u64;
            reach.hand_over(egress.mailboxes, (shard, events), |mailboxes| {
                mailboxes.push_run(shard, *run);
            });
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

    /// The first shard, or worker, on the present topic's route whose mailbox is full.
    pub(super) fn full_shard(&self, egress: &Egress<'_>) -> Option<ShardId> {
        let mut targets = self.route().targets.iter().copied();
        targets.find(|&shard| !egress.mailboxes.has_room(shard))
    }

    /// The same among the shards.
    pub(super) fn full_shard_besides_workers(&self, egress: &Egress<'_>) -> Option<ShardId> {
        let mailboxes = &egress.mailboxes;
        let mut targets = self.route().targets.iter().copied();
        targets.find(|&shard| !mailboxes.is_worker(shard) && !mailboxes.has_room(shard))
    }

    /// Takes the turn of each group for an event that is published here. `except` must not receive it.
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
                // All members here belong to the publisher: the turn goes to another shard or link, if any has members.
                true => egress.broker.take_turn_again(group, me, 0),
                false => egress.broker.take_turn(group),
            }));
        }
    }

    /// Resets the turns: none is taken yet.
    pub(super) fn begin_turns(&mut self) {
        self.turns.clear();
        let groups = self.route().groups.len();
        self.turns.resize(groups, None);
    }

    /// Puts an event into the mailboxes of the other shards that it is for, and of the worker that keeps it.
    fn hand_out(&mut self, egress: &mut Egress<'_>, event: &Event<'_>, plan: &Plan<'_>) {
        let mut is_not_stored = false;
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
            let has_room = plan
                .reach
                .hand_over(egress.mailboxes, (shard, 1), |mailboxes| {
                    mailboxes.push(shard, addressees, *event, plan.body);
                });
            is_not_stored |= !has_room && egress.mailboxes.is_worker(shard);
        }
        if is_not_stored {
            self.note_not_stored(event);
        }
    }

    /// The payload as shared bytes, if it is long enough for several receivers to share it.
    pub(super) fn body_of(&self, egress: &Egress<'_>, event: &Event<'_>) -> Option<Bytes> {
        let route = self.route();
        let shares = match route.scope.is_for_all() {
            // Broadcast receivers are not counted in the route.
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

/// A payload as a slice of the buffer that contains it; `None` if it is not part of this buffer.
fn part_of(buffer: &Bytes, payload: &[u8]) -> Option<Bytes> {
    let range = buffer.as_ptr_range();
    let of_payload = payload.as_ptr_range();
    let is_part = range.start <= of_payload.start && of_payload.end <= range.end;
    is_part.then(|| buffer.slice_ref(payload))
}
