//! Counters of a shard. Plain numbers: a shard is asked for its own, and the asker sums them.

/// Declares each counter once: its name is the field, the key in INFO, and what `sapwood info` shows.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters and gauges of one shard since it started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Each counter's name and value, in the order of declaration.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Adds the counters of another shard.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections,
    /// Connections accepted, those refused at the cap included.
    connections_accepted,
    /// Connections refused at the cap, or closed there in a place kept for loopback that another needed.
    connections_refused,
    /// Connections let in beyond the cap, in the places kept for loopback.
    connections_kept,
    /// Commands carried out.
    commands,
    /// Commands answered with an error.
    errors,
    /// Bytes read from clients.
    bytes_in,
    /// Bytes written to clients.
    bytes_out,
    /// Commands a second of late.
    commands_per_s,
    /// Bytes read from clients a second of late.
    bytes_in_per_s,
    /// Bytes written to clients a second of late.
    bytes_out_per_s,
    /// Events published by this shard's clients.
    events_published,
    /// Events put into outboxes, once for each receiving subscription.
    events_delivered,
    /// Bytes of the payloads and headers of the published events.
    payload_bytes_in,
    /// Bytes of the payloads and headers of the delivered events.
    payload_bytes_out,
    /// Events put into batches for other shards, once for each shard.
    events_handed_over,
    /// Events that came in batches from other shards.
    events_received,
    /// Events that slow consumers lost by the policy `drop-oldest`.
    events_lost_drop_oldest,
    /// Events that slow consumers lost by the policy `latest`.
    events_lost_latest,
    /// Events that the receiver's protocol cannot carry, once for each subscription that they were for.
    events_not_carried,
    /// Turns of queue groups given to another shard because the first had no member left.
    turns_retried,
    /// Turns of queue groups that nobody could take because the last member had just left.
    turns_unheard,
    /// Events sent to an address of the tree where no node is.
    places_unheard,
    /// Questions to the node itself (`$info`, `$trace:`) that were not answered because there were too many.
    questions_unanswered,
    /// Subscriptions held now.
    subscriptions,
    /// Filters known now, those of other shards included: the same number on every shard.
    filters,
    /// Changes of interest told to the other shards.
    interest_changes,
    /// Times that a confirmation waited at the barrier for the other shards.
    barriers,
    /// Times that a publisher was not read because another shard was behind (back-pressure).
    stalled_publishers,
    /// Times that a publisher was not read because a subscriber was behind (back-pressure).
    stalled_for_subscribers,
    /// Times that a client was not read because it did not take its replies (back-pressure).
    stalled_readers,
    /// Unanswered calls of this shard's clients now, such as INFO and CLIENT LIST.
    calls_waiting,
    /// Calls refused because the output was at its cap for too long.
    calls_refused,
    /// Bytes of output waiting to be sent now, shared payloads not included.
    outbox_bytes,
    /// Bytes of shared payloads in memory now, on the whole node.
    shared_body_bytes,
    /// Bytes of unfinished requests now, including what may be read of them next.
    input_bytes,
    /// Batches sent to other shards.
    handovers,
    /// Bytes of events waiting for other shards now.
    handover_backlog_bytes,
    /// Events of other nodes dropped because the shard that they were for was too far behind.
    handover_events_lost,
    /// Events that a stream should have kept and does not: those of other nodes for which its worker had no room, and all
    /// once the worker has failed.
    events_not_stored,
    /// Slow consumers closed because their own output reached the cap.
    closed_outbox_full,
    /// Slow consumers closed because the shard's output reached the cap.
    closed_outboxes_full,
    /// Connections closed because the shard's unfinished input reached the cap.
    closed_inputs_full,
    /// Connections closed because they broke the protocol.
    closed_protocol,
    /// Connections closed because they did not authenticate in time.
    closed_guest_timeout,
    /// Connections closed because they did not answer pings or were silent or late for too long.
    closed_stale,
    /// Connections closed by another client.
    closed_killed,
    /// Attempts to authenticate with a wrong password.
    wrong_passwords,
    /// Attempts to authenticate that waited, because too many from their address were wrong.
    passwords_delayed,
    /// Links to other nodes that are branches of the tree now, once for each shard.
    links,
    /// Events sent to other nodes, once for each link.
    link_events_out,
    /// Events of other nodes that were not duplicates.
    link_events_in,
    /// Duplicate events, which had come by another way, dropped.
    link_events_twice,
    /// Events dropped because a link was full, or ended before the other node had acknowledged them.
    link_events_lost,
    /// Events that other nodes dropped on their way here.
    link_events_lost_before,
    /// Times that a lane of a link was connected again after its connection broke.
    link_reconnects,
    /// Links to other nodes that were lost: the connection broke for good, or the other node was silent for too long.
    links_lost,
    /// Bytes kept in lanes until the other node acknowledges them.
    link_bytes_kept,
    /// Shards of other nodes whose last event number is remembered to find duplicates.
    link_origins,
}

/// How fast some counters have grown: over a second, or since then if the shard had nothing to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    since_ns: u64,
    seen: [u64; 3],
    /// The growth of each in a second.
    pub per_s: [u64; 3],
}

impl Rates {
    /// Looks at the counters, if it has been a second.
    pub(crate) fn look(&mut self, now_ns: u64, totals: [u64; 3]) {
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        if elapsed_ns < 1_000_000_000 {
            return;
        }
        let seen = std::mem::replace(&mut self.seen, totals);
        self.since_ns = now_ns;
        for ((rate, total), before) in self.per_s.iter_mut().zip(totals).zip(seen) {
            let grown = u128::from(total - before) * 1_000_000_000;
            *rate = (grown / u128::from(elapsed_ns)) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_second_or_since() {
        let mut rates = Rates::default();
        let second = 1_000_000_000;
        rates.look(100 * second, [50, 0, 0]);
        rates.look(100 * second + second / 2, [80, 0, 0]);
        rates.look(101 * second, [250, 1_000, 10]);
        assert_eq!(rates.per_s, [200, 1_000, 10]);
        rates.look(101 * second + 1, [9_999, 9_999, 9_999]);
        assert_eq!(rates.per_s, [200, 1_000, 10]);
        // Nothing happened for ten seconds, then this was asked.
        rates.look(111 * second, [251, 1_200, 10]);
        assert_eq!(rates.per_s, [0, 20, 0]);
    }
}
