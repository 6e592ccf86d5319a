//! Events whose topic says which nodes they are for, and those that nodes answer themselves.
//!
//! On the nodes that such an event is for it is delivered as if it had been published there, and went no further. What
//! nodes are asked (`$info`, `$trace:`) is noted here and answered when the turn ends (`tree/answers`), by an event like any
//! other. Start at [`Delivery::publish_scoped`] and [`Delivery::receive_scoped`].

use super::remote::send_turn;
use super::{Delivery, Egress, Plan, Published, Reach};
use crate::command::{ConnId, Event, LinkId, Target};
use crate::limits::{ANSWERS_A_SECOND_MAX, QUESTIONS_MAX};
use sapwood_wire::native;
use sapwood_wire::node::events::EventsHead;
use sapwood_wire::scope::Audience;

const SECOND_NS: u64 = 1_000_000_000;

/// Something that a node is to answer, on the reply topic of the event that asked.
#[derive(Debug)]
pub(crate) struct Question {
    pub reply: Box<[u8]>,
    pub subject: Subject,
}

/// What is asked.
#[derive(Debug)]
pub(crate) enum Subject {
    /// Who the node is, and how it does.
    Node,
    /// Which way an event took: the topic, the link it came by, unless it was published here, and those it left by.
    Trace {
        topic: Box<[u8]>,
        from: Option<LinkId>,
        to: Vec<LinkId>,
    },
    /// Nobody stands where an event was sent.
    Lost { topic: Box<[u8]> },
}

/// What waits to be answered, and how much was lately.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: Vec<Question>,
    /// When the present second began, and how many answers it had.
    second: (u64, usize),
    /// Questions that were not answered, because there were too many.
    pub unanswered: u64,
}

impl Questions {
    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn ask(&mut self, question: Question) {
        match self.waiting.len() < QUESTIONS_MAX {
            true => self.waiting.push(question),
            false => self.unanswered += 1,
        }
    }

    /// Takes those that are to be answered now.
    pub(crate) fn take(&mut self, now_ns: u64) -> Vec<Question> {
        let mut questions = std::mem::take(&mut self.waiting);
        if now_ns.saturating_sub(self.second.0) >= SECOND_NS {
            self.second = (now_ns, 0);
        }
        questions.retain(|question| {
            // Short, and a request waits for it.
            if matches!(question.subject, Subject::Lost { .. }) {
                return true;
            }
            self.second.1 += 1;
            let is_too_much = self.second.1 > ANSWERS_A_SECOND_MAX;
            self.unanswered += u64::from(is_too_much);
            !is_too_much
        });
        questions
    }

    /// Puts back what found no room.
    pub(crate) fn put_back(&mut self, questions: impl Iterator<Item = Question>) {
        questions.for_each(|question| self.ask(question));
    }
}

impl Delivery {
    /// Whether the present topic says more than a name.
    pub(super) fn is_scoped(&self) -> bool {
        let scope = &self.route().scope;
        scope.name_at > 0 || scope.is_for_all()
    }

    /// Whether events of the present topic that come over links are not dealt with as others are.
    pub(super) fn has_own_way(&self) -> bool {
        let scope = &self.route().scope;
        scope.is_placed || scope.is_traced || scope.audience == Audience::Node
    }

    /// Whether events of the present topic go over all links, whoever listens there.
    pub(super) fn goes_to_all_links(&self) -> bool {
        let scope = &self.route().scope;
        scope.is_for_all() && !scope.is_placed
    }

    /// An event under the topic that subscribers see.
    pub(super) fn as_shown<'a>(&self, event: &Event<'a>) -> Event<'a> {
        Event {
            topic: &event.topic[self.route().scope.name_at..],
            ..*event
        }
    }

    /// Publishes what is not delivered here; `None` if it is to be delivered as usual.
    pub(super) fn publish_scoped(
        &mut self,
        egress: &mut Egress<'_>,
        event: &Event<'_>,
    ) -> Option<Published> {
        self.turns.clear();
        let plan = Plan::for_all(Reach::Tree, None);
        if self.route().scope.is_traced {
            let to = match self.goes_to_all_links() {
                true => egress.links.adopted(None).collect(),
                false => self.route().links.clone(),
            };
            self.note_trace(event, None, to);
            self.send_own(egress, event, &plan);
            return Some(Published::To(1));
        }
        if let Some(turn) = &self.route().scope.turn
            && let Target::Link(link) = egress.broker.take_turn(turn)
        {
            let name = egress.broker.group_name(turn).to_vec();
            send_turn(egress, link, &name, 0, event);
            return Some(Published::To(0));
        }
        let scope = &self.route().scope;
        if scope.is_lost {
            self.lost_places += 1;
        }
        if !self.route().scope.is_here {
            self.send_own(egress, event, &plan);
            return Some(Published::To(0));
        }
        None
    }

    /// What a publish of the present topic is answered: matching subscriptions on this node but those of a publisher that
    /// must not hear itself, connections that hear it unasked, or the shards that answer.
    pub(super) fn matching_subscriptions(
        &self,
        egress: &Egress<'_>,
        except: Option<ConnId>,
    ) -> u64 {
        let asked = self.route().subscriptions - self.own_subscriptions(egress, except);
        match self.route().scope.audience {
            Audience::Subscribers => asked,
            Audience::All => asked + egress.outboxes.gauge().hearing(),
            Audience::Node => 1 + self.route().shards.len() as u64,
        }
    }

    /// Deals with an event for some nodes, or for nobody, that came from one link and went on to others.
    pub(super) fn receive_scoped(
        &mut self,
        egress: &mut Egress<'_>,
        (from, to): (LinkId, &[LinkId]),
        head: &EventsHead<'_>,
        event: &Event<'_>,
    ) {
        if self.route().scope.is_traced {
            self.note_trace(event, Some(from), to.to_vec());
        } else if head.route.plain || self.is_turn_here(egress, from, head, event) {
            self.deliver_here(egress, event);
        }
    }

    /// Takes a turn among the nodes of a group; true if it is this node's, else it was passed on.
    fn is_turn_here(
        &mut self,
        egress: &mut Egress<'_>,
        from: LinkId,
        head: &EventsHead<'_>,
        event: &Event<'_>,
    ) -> bool {
        let Some(name) = head.route.groups.clone().next() else {
            return false;
        };
        let turn = self.route().scope.turn.as_ref();
        match turn.and_then(|turn| egress.broker.take_turn_besides(turn, Target::Link(from))) {
            Some(Target::Shard(_)) => return true,
            Some(Target::Link(link)) => egress.links.pass_on(link, head, event),
            None => self.turn_back(egress, from, head.route.tries + 1, name, event),
        }
        false
    }

    /// Delivers an event on this node, as if it had been published here and went no further.
    fn deliver_here(&mut self, egress: &mut Egress<'_>, event: &Event<'_>) {
        if self.route().scope.is_lost {
            self.lost_places += 1;
            let topic = event.topic.into();
            self.note_question(event, Subject::Lost { topic });
        }
        if !self.route().scope.is_here {
            return;
        }
        let body = self.body_of(egress, event);
        self.take_turns(egress, None);
        self.execute(egress, event, Plan::for_all(Reach::Node, body.as_ref()));
    }

    /// Whether it is this node that answers an event, not its clients: then that is noted.
    pub(super) fn is_answered_here(&mut self, event: &Event<'_>) -> bool {
        let is_asked = self.route().scope.audience == Audience::Node;
        if is_asked {
            self.note_question(event, Subject::Node);
        }
        is_asked
    }

    fn note_trace(&mut self, event: &Event<'_>, from: Option<LinkId>, to: Vec<LinkId>) {
        let topic = event.topic.into();
        self.note_question(event, Subject::Trace { topic, from, to });
    }

    fn note_question(&mut self, event: &Event<'_>, subject: Subject) {
        if let Some(reply) = native::attributes_reply(event.flags, event.attributes) {
            let reply = reply.into();
            self.questions.ask(Question { reply, subject });
        }
    }
}
