//! Broadcast: what is published to `$all` reaches every client whose protocol hears it unasked, and who has
//! subscribed to it.
//!
//! It goes to all shards, whatever they listen to, so that nobody has to be told who is there. Start at
//! [`Delivery::publish_to_all`].

use super::{Delivery, Egress, Frame, Published, part_of};
use crate::command::{ConnId, Event, FilterKind, Form};
use crate::form;
use crate::limits::SHARED_BODY_BYTES_MIN;
use crate::mailbox::Addressees;
use bytes::Bytes;

impl Delivery {
    /// Publishes an event whose route is the present one. Counts connections that hear it unasked, and matching
    /// subscriptions.
    pub(super) fn publish_to_all(
        &mut self,
        egress: &mut Egress<'_>,
        except: Option<ConnId>,
        event: Event<'_>,
    ) -> Published {
        let others: Vec<_> = egress.mailboxes.others().collect();
        if others
            .iter()
            .any(|&shard| !egress.mailboxes.has_room(shard))
        {
            return Published::NoRoom;
        }
        let is_long = event.payload.len() >= SHARED_BODY_BYTES_MIN;
        let lent = self.lent.as_ref().filter(|_| is_long);
        let body = lent.and_then(|lent| part_of(lent, event.payload));
        let share = || egress.outboxes.gauge().share(event.payload);
        let body = body.or_else(|| is_long.then(share));
        let has_groups = !self.route().groups.is_empty();
        for shard in others {
            if !has_groups || !self.route().targets.contains(&shard) {
                egress
                    .mailboxes
                    .push(shard, Addressees::all(), event, body.as_ref());
            }
        }
        self.turns.clear();
        if has_groups {
            self.take_turns(egress, except, event, body.as_ref());
        }
        self.send_remote(egress, &event);
        let asked = self.route().subscriptions - self.own_subscriptions(egress, except);
        let unasked = egress.outboxes.gauge().hearing();
        self.deliver(egress, except, &event, body.as_ref());
        self.named.end_sids(egress.broker);
        Published::To(unasked + asked)
    }

    /// Gives an event to all of this shard who hear it unasked; `once` names it, so that they do not get it again for
    /// a subscription.
    pub(super) fn deliver_to_all(
        &mut self,
        egress: &mut Egress<'_>,
        event: &Event<'_>,
        body: Option<&Bytes>,
        once: u64,
    ) {
        let hearing: Vec<ConnId> = egress.outboxes.all_hearing();
        for form in Form::ALL {
            let is_of_form = |conn: &&ConnId| egress.outboxes.outbox(**conn).form == form;
            let members: Vec<ConnId> = hearing.iter().filter(is_of_form).copied().collect();
            if members.is_empty() {
                continue;
            }
            let mut head = Vec::new();
            let (kind, topic) = (FilterKind::Topic, event.topic);
            form::encode_event_head(form, kind, topic, topic, &mut head);
            let frame = Frame {
                form,
                head: &head,
                event,
                body,
            };
            self.delivered += frame.offer_to(members.into_iter(), Some(once), egress.outboxes);
        }
    }
}
