//! Broadcast: an event published to `$all` reaches every client whose protocol receives broadcasts without subscribing,
//! and every subscriber of `$all`.
//!
//! The route of `$all` leads to all shards, with or without listeners, so shards need not announce broadcast receivers.
//! Start at [`Delivery::deliver_to_all`].

use super::{Delivery, Egress, Frame};
use crate::command::{ConnId, Event, FilterKind, Form};
use crate::form;
use bytes::Bytes;

impl Delivery {
    /// Delivers an event to all connections of this shard that receive broadcasts without subscribing. `once` is the
    /// event's number, which prevents a second copy for a subscription.
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
            let conns: Vec<ConnId> = hearing.iter().filter(is_of_form).copied().collect();
            if conns.is_empty() {
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
            // Each once, whatever it is subscribed to: nothing to put off.
            let conns = conns.into_iter().map(|conn| (conn, None));
            self.delivered += frame.offer_to(conns, Some(once), egress.outboxes, &mut Vec::new());
        }
    }
}
