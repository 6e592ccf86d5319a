//! A real application: Socket.IO on two Node servers, joined by `@socket.io/redis-adapter` through the broker.
//!
//! `tests/clients/socketio.mjs` starts the two server processes and connects sockets to each: one room,
//! messages both ways, server to server, and rooms managed from the other server.

mod common;

use common::{Broker, script};

#[test]
fn a_room_spans_two_servers() {
    check("plain");
}

#[test]
fn a_room_spans_two_servers_over_shard_channels() {
    check("sharded");
}

fn check(adapter: &str) {
    for shards in [1, 2] {
        for protocol in ["2", "3"] {
            let mut broker = Broker::start(shards, &[]);
            script::run(
                script::node("socketio.mjs"),
                &mut broker,
                &[protocol, adapter],
            );
        }
    }
}
