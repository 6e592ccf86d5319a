//! A real application: Socket.IO on two Node servers, joined by `@socket.io/redis-adapter` through the broker.
//!
//! `tests/clients/socketio.mjs` starts the two server processes and connects sockets to each: one room,
//! messages both ways, server to server, and rooms managed from the other server. Of the adapter, the protocol and the number
//! of shards any two are tried together, and all three with `tools/test --all`.

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
