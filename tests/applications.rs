//! Real applications: clusters of servers that are joined through the broker.
//!
//! Socket.IO on two Node servers, joined by `@socket.io/redis-adapter`: `tests/clients/socketio.mjs` starts the two server processes and connects sockets to each: one room,
//! messages both ways, server to server, and rooms managed from the other server. Of the adapter, the protocol and the number
//! of shards any two are tried together, and all three with `tools/test --all`.
//! Aedes, an MQTT broker, joined by `mqemitter-redis`: `tests/clients/aedes.mjs` has two of them in one process.

mod common;

use common::{Broker, is_played, script};

#[test]
fn a_room_spans_two_servers() {
    check("plain");
}

#[test]
fn a_room_spans_two_servers_over_shard_channels() {
    check("sharded");
}

#[test]
fn a_cluster_of_mqtt_brokers_shares_topics_and_heartbeats() {
    for shards in [1, 2] {
        let mut broker = Broker::start(shards, &[]);
        script::run(script::node("aedes.mjs"), &mut broker, &["2"]);
    }
}

fn check(adapter: &str) {
    for shards in [1, 2] {
        for protocol in ["2", "3"] {
            if is_played([adapter == "sharded", shards == 2, protocol == "3"]) {
                let mut broker = Broker::start(shards, &[]);
                script::run(
                    script::node("socketio.mjs"),
                    &mut broker,
                    &[protocol, adapter],
                );
            }
        }
    }
}
