//! Events whose topic names target nodes, and events that nodes answer themselves.
//!
//! On its target nodes, such an event is delivered as if published there, without going further. Questions to nodes
//! (`$info`, `$trace:`) are queued here and answered at the end of the turn (`shard/answers`), by an ordinary event.
//! Start at [`Delivery::publish_scoped`] and [`Delivery::receive_scoped`].

use super::remote::send_turn;
use super::{Delivery, Egress, Plan, Published, Reach};
use crate::command::{ConnId, Event, LinkId, Target};
use crate::limits::{ANSWERS_A_SECOND_MAX, NOT_STORED_TOLD_AT_ONCE, QUESTIONS_MAX};
use sapwood_wire::native;
use sapwood_wire::node::events::EventsHead;
use sapwood_wire::scope::Audience;

const SECOND_NS: u64 = 1_000_000_000;

/// A question that this node answers, on the reply topic of the event that asked.
#[derive(Debug)]
pub(crate) struct Question {
    pub reply: Box<[u8]>,
    pub subject: Subject,
}

/// What a question asks for.
#[derive(Debug)]
pub(crate) enum Subject {
    /// The node's description and state.
    Node,
    /// The path of an event: its topic, the link it came by (`None` if published here), and the links it left by.
    Trace {
        topic: Box<[u8]>,
        from: Option<LinkId>,
        to: Vec<LinkId>,
    },
    /// An event was sent to a tree address where no node stands.
    Lost { topic: Box<[u8]> },
    /// An event of another node was not stored, because the worker that keeps its topic is behind.
    NotStored,
}

impl Subject {
    /// Most questions that wait when one of these is added.
    fn waiting_max(&self) -> usize {
        match self {
            Subject::NotStored => NOT_STORED_TOLD_AT_ONCE,
            Subject::Node | Subject::Trace { .. } | Subject::Lost { .. } => QUESTIONS_MAX,
        }
    }
}

/// Questions waiting for an answer, and the answer rate.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: Vec<Question>,
    /// Start of the present second, and answers given in it.
    second: (u64, usize),
    /// Questions dropped at the cap on waiting questions or on answers a second.
    pub unanswered: u64,
}

impl Questions {
    /// Whether no question waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn ask(&mut self, question: Question) {
        match self.waiting.len() < question.subject.waiting_max() {
            true => self.waiting.push(question),
            false => self.unanswered += 1,
        }
    }

    /// Takes the questions to answer now; those beyond the rate limit are dropped and counted.
    pub(crate) fn take(&mut self, now_ns: u64) -> Vec<Question> {
        let mut questions = std::mem::take(&mut self.waiting);
        if now_ns.saturating_sub(self.second.0) >= SECOND_NS {
            self.second = (now_ns, 0);
        }
        questions.retain(|question| {
            // Exempt from the rate limit: the answer is short, and a requester waits for it.
            if matches!(question.subject, Subject::Lost { .. } | Subject::NotStored) {
                return true;
            }
            self.second.1 += 1;
            let is_too_much = self.second.1 > ANSWERS_A_SECOND_MAX;
            self.unanswered += u64::from(is_too_much);
            !is_too_much
        });
        questions
    }

    /// Puts back questions whose answers found no room.
    pub(crate) fn put_back(&mut self, questions: impl Iterator<Item = Question>) {
        questions.for_each(|question| self.ask(question));
    }
}

impl Delivery {
    /// Whether the present topic has a scope beside its name.
    pub(super) fn is_scoped(&self) -> bool {
        let scope = &self.route().scope;
        scope.name_at > 0 || scope.is_for_all()
    }

    /// Whether received events of the present topic are handled by [`receive_scoped`](Delivery::receive_scoped).
    pub(super) fn has_own_way(&self) -> bool {
        let scope = &self.route().scope;
        scope.is_placed || scope.is_traced || scope.audience == Audience::Node
    }

    /// Whether events of the present topic go over all links, with or without interest behind them.
    pub(super) fn goes_to_all_links(&self) -> bool {
        let scope = &self.route().scope;
        scope.is_for_all() && !scope.is_placed
    }

    /// The event under the topic that subscribers see, without the scope.
    pub(super) fn as_shown<'a>(&self, event: &Event<'a>) -> Event<'a> {
        Event {
            topic: &event.topic[self.route().scope.name_at..],
            ..*event
        }
    }

    /// Publishes an event that is not delivered on this node. Returns `None` if it is to be delivered here as usual.
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

    /// The subscription count that a publish of the present topic returns: matching subscriptions on this node without
    /// those of a publisher that must not receive its own events; plus broadcast receivers for a broadcast; or the
    /// number of shards that answer.
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

    /// Handles a received event for target nodes, or a trace. It came from one link and was forwarded to others.
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

    /// Takes a turn among the nodes of a group. True if the turn is this node's; else the event was passed on.
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
            None => self.turn_back(egress, from, head, name, event),
        }
        false
    }

    /// Delivers an event on this node as if published here, without sending it further.
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

    /// Whether the node answers this event instead of its clients; if so, the question is queued.
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

    /// Notes that who published an event is to hear that it was not stored.
    pub(crate) fn note_not_stored(&mut self, event: &Event<'_>) {
        self.note_question(event, Subject::NotStored);
    }

    fn note_question(&mut self, event: &Event<'_>, subject: Subject) {
        if let Some(reply) = native::attributes_reply(event.flags, event.attributes) {
            let reply = reply.into();
            self.questions.ask(Question { reply, subject });
        }
    }
}
