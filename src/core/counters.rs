//! What a shard counts. Plain numbers: read by asking the shard, summed by who asks.

/// Declares the counters once: their names are their fields, what INFO prints, and what
/// `sapwood info` shows.
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

            /// Adds another shard's.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections,
    /// Connections accepted.
    connections_accepted,
    /// Connections refused at the cap.
    connections_refused,
    /// Commands carried out.
    commands,
    /// Commands answered with an error.
    errors,
    /// Bytes read from clients.
    bytes_in,
    /// Bytes written to clients.
    bytes_out,
    /// Events published by this shard's clients.
    events_published,
    /// Events put into outboxes, once for each receiving subscription.
    events_delivered,
    /// Events put into hand-overs for other shards.
    events_handed_over,
    /// Events that came in hand-overs.
    events_received,
    /// Events that clients lost by the policy `drop-oldest`.
    events_lost_drop_oldest,
    /// Events that clients lost by the policy `latest`.
    events_lost_latest,
    /// Events that a protocol has no form for, once for each of its subscriptions that they were for.
    events_not_carried,
    /// Turns of groups given to another shard because the first had no member left.
    turns_retried,
    /// Turns of groups that nobody could take, because the last member had just left.
    turns_unheard,
    /// Events sent to a place in the tree where nobody stands.
    places_unheard,
    /// Questions to the node itself that were not answered, because there were too many.
    questions_unanswered,
    /// Subscriptions held now.
    subscriptions,
    /// Filters known now, those of other shards included.
    filters,
    /// Changes of interest told to the other shards.
    interest_changes,
    /// Times that a confirmation waited for the other shards.
    barriers,
    /// Times that a publisher was not read on because another shard was behind.
    stalled_publishers,
    /// Times that a client was not read on because it did not take its replies.
    stalled_readers,
    /// Calls of this shard's clients that are not answered now, such as INFO and CLIENT LIST.
    calls_waiting,
    /// Calls refused because the output was at its cap for too long.
    calls_refused,
    /// Bytes that wait to be sent now.
    outbox_bytes,
    /// Bytes of shared payloads that are kept now, on the whole node.
    shared_body_bytes,
    /// Bytes that unfinished requests take now, with what is read next of them.
    input_bytes,
    /// Hand-overs sent.
    handovers,
    /// Bytes that wait for other shards now.
    handover_backlog_bytes,
    /// Events of other nodes dropped because the shard that they were for was too far behind.
    handover_events_lost,
    /// Connections closed because their output reached the cap.
    closed_outbox_full,
    /// Connections closed because the shard's output reached the cap.
    closed_outboxes_full,
    /// Connections closed because the shard's unfinished input reached the cap.
    closed_inputs_full,
    /// Connections closed because they broke the protocol.
    closed_protocol,
    /// Connections closed because they did not authenticate in time.
    closed_guest_timeout,
    /// Connections closed because they did not answer when asked whether they are there.
    closed_stale,
    /// Connections closed by another client.
    closed_killed,
    /// Wrong passwords.
    wrong_passwords,
    /// Links to other nodes that are branches of the tree now, once for each shard.
    links,
    /// Events sent to other nodes, once for each link.
    link_events_out,
    /// Events of other nodes that were new here.
    link_events_in,
    /// Events that had come before, by another way, and were dropped.
    link_events_twice,
    /// Events dropped because a link was full.
    link_events_lost,
    /// Events that other nodes dropped on their way here.
    link_events_lost_before,
    /// Bytes that are kept until other nodes have them.
    link_bytes_kept,
    /// Shards of other nodes whose last event is remembered.
    link_origins,
}
