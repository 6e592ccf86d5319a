//! Connections at the caps: who is refused, who gets one of the places kept for loopback, and who has to leave it.

use super::*;
use crate::limits::CONNECTIONS_KEPT;

const AWAY: &str = "10.0.0.7:5000";

/// Opens a connection of this peer, and gives who is being closed because of it.
fn open_from(node: &mut Node, protocol: Protocol, shard: usize, conn: u32, peer: &str) -> Vec<u32> {
    node.clients += 1;
    let input = Input::Opened {
        conn: ConnId(conn),
        client: ClientId(node.clients),
        protocol,
        policy: Policy::Close,
        peer: peer.parse().expect("an address"),
        local: ([127, 0, 0, 1], 2).into(),
    };
    node.handle(shard, input);
    let closing = std::mem::take(&mut node.outputs[shard].closing);
    let closing = closing.into_iter().map(|(conn, reason)| {
        assert_eq!(reason, CloseReason::TooManyConnections);
        conn.0
    });
    closing.collect()
}

fn close(node: &mut Node, shard: usize, conn: u32) {
    let conn = ConnId(conn);
    node.handle(shard, Input::Closed { conn });
}

fn limits(connections_max: usize) -> Limits {
    Limits {
        connections_max,
        ..Limits::default()
    }
}

#[test]
fn beyond_the_cap_only_the_newest_from_loopback_stay() {
    let mut node = Node::new(1, None, limits(3));
    let open = |node: &mut Node, conn, peer| open_from(node, Protocol::Redis, 0, conn, peer);
    for conn in 0..3 {
        assert_eq!(open(&mut node, conn, AWAY), [0; 0]);
    }
    assert_eq!(open(&mut node, 3, AWAY), [3]);
    assert_eq!(node.read(0, 3), "-ERR max number of clients reached\r\n");
    let peers = [
        "127.0.0.1:9",
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "127.8.0.9:9",
    ];
    assert_eq!(peers.len(), CONNECTIONS_KEPT);
    for (conn, peer) in (4..).zip(peers) {
        assert_eq!(open(&mut node, conn, peer), [0; 0], "{peer}");
    }
    // An attacker on loopback gets no more places, and others none of these.
    assert_eq!(open(&mut node, 8, AWAY), [8]);
    assert_eq!(open(&mut node, 9, "127.0.0.1:9"), [4]);
    assert_eq!(node.read(0, 4), "-ERR max number of clients reached\r\n");
    assert_eq!(open(&mut node, 10, "127.0.0.1:9"), [5]);
    node.give(0, 10, b"PING\r\n");
    assert_eq!(node.read(0, 10), "+PONG\r\n");
    let counters = node.shards[0].counters();
    let counted = (counters.connections_refused, counters.connections_kept);
    assert_eq!(counted, (4, 6));
}

#[test]
fn who_has_room_by_now_does_not_have_to_leave() {
    let mut node = Node::new(1, None, limits(2));
    let open = |node: &mut Node, conn, peer| open_from(node, Protocol::Redis, 0, conn, peer);
    for conn in 0..6 {
        assert_eq!(open(&mut node, conn, "127.0.0.1:9"), [0; 0]);
    }
    // Two places became free; those who have waited longest in the kept ones have them.
    close(&mut node, 0, 0);
    close(&mut node, 0, 1);
    for conn in [6, 7] {
        assert_eq!(open(&mut node, conn, "127.0.0.1:9"), [0; 0]);
    }
    assert_eq!(open(&mut node, 8, "127.0.0.1:9"), [4]);
    // One that left by itself is not closed in another's stead.
    close(&mut node, 0, 5);
    assert_eq!(open(&mut node, 5, "127.0.0.1:9"), [0; 0]);
}

#[test]
fn links_with_other_nodes_have_no_kept_places() {
    let mut node = Node::new(1, None, limits(1));
    open_from(&mut node, Protocol::Redis, 0, 0, AWAY);
    for protocol in [Protocol::Native, Protocol::Nats, Protocol::Web] {
        let mut node = Node::new(1, None, limits(1));
        open_from(&mut node, Protocol::Redis, 0, 0, AWAY);
        let closing = open_from(&mut node, protocol, 0, 1, "127.0.0.1:9");
        assert_eq!(closing, [0; 0], "{protocol:?}");
    }
    let closing = open_from(&mut node, Protocol::Node, 0, 1, "127.0.0.1:9");
    assert_eq!(closing, [1]);
}

#[test]
fn what_the_machine_grants_counts_for_all_shards_together() {
    let mut node = Node::on_machine(2, limits(10), 3);
    assert_eq!(open_from(&mut node, Protocol::Redis, 0, 0, AWAY), [0; 0]);
    assert_eq!(open_from(&mut node, Protocol::Redis, 0, 1, AWAY), [0; 0]);
    assert_eq!(open_from(&mut node, Protocol::Redis, 1, 0, AWAY), [0; 0]);
    for shard in 0..2 {
        assert_eq!(open_from(&mut node, Protocol::Redis, shard, 7, AWAY), [7]);
        close(&mut node, shard, 7);
        let closing = open_from(&mut node, Protocol::Redis, shard, 8, "127.0.0.1:9");
        assert_eq!(closing, [0; 0]);
    }
    node.give(1, 8, b"CONFIG GET maxclients\r\n");
    assert!(node.read(1, 8).ends_with("$1\r\n3\r\n"));
}
