//! Shards driven by hand, for cases that depend on the order of inputs and that a seed would hardly find.

#[path = "call_tests.rs"]
mod call_shards;
#[path = "kept_tests.rs"]
mod kept_shards;
#[path = "leaving_tests.rs"]
mod leaving_shards;
#[path = "native_tests.rs"]
mod native_shards;
#[path = "put_off_tests.rs"]
mod put_off_shards;
#[path = "sse_tests.rs"]
mod sse_shards;
#[path = "stall_tests.rs"]
mod stall_shards;
#[path = "worker_tests.rs"]
mod worker_shards;

use super::*;
use crate::limits::Limits;
use crate::{BodyGauge, Capacity, PAYLOAD_BYTES_MAX, Policy};
use sapwood_wire::native;

/// Shards of one node, and the outputs of each.
struct Node {
    shards: Vec<Shard>,
    outputs: Vec<Outputs>,
    clients: u64,
    now: Now,
    /// Batches that a test delivers later.
    late: Vec<Batch>,
}

impl Node {
    fn new(shards: u16, password: Option<&[u8]>, limits: Limits) -> Node {
        Node::make((shards, 0), password, limits, Capacity::default())
    }

    /// On a machine that allows so many connections.
    fn on_machine(shards: u16, limits: Limits, connections_max: u64) -> Node {
        Node::make((shards, 0), None, limits, Capacity::of(connections_max))
    }

    fn make(
        (shards, workers): (u16, u16),
        password: Option<&[u8]>,
        limits: Limits,
        capacity: Capacity,
    ) -> Node {
        let body_gauge = BodyGauge::default();
        let capacity = std::sync::Arc::new(capacity);
        let make = |shard| {
            let config = Config {
                shard: ShardId(shard),
                shards,
                user: None,
                password: password.map(<[u8]>::to_vec),
                nats_payload_max: PAYLOAD_BYTES_MAX,
                web: Default::default(),
                may_broadcast: true,
                tree: None,
                vitals: Default::default(),
                limits: limits.clone(),
                hash_seed: 1,
                capacity: capacity.clone(),
                body_gauge: body_gauge.clone(),
                run_id: "0".repeat(40),
                process_id: 1,
                started_wall_ms: 0,
            };
            Shard::with_workers(config, workers, 4)
        };
        Node {
            shards: (0..shards).map(make).collect(),
            outputs: (0..shards).map(|_| Outputs::default()).collect(),
            clients: 0,
            now: Now {
                monotonic_ns: 0,
                wall_ms: 0,
            },
            late: Vec::new(),
        }
    }

    fn handle(&mut self, shard: usize, input: Input<'_>) -> Handled {
        self.shards[shard].handle(input, self.now, &mut self.outputs[shard])
    }

    fn open(&mut self, shard: usize, conn: u32) {
        self.open_by(Protocol::Redis, shard, conn);
    }

    fn open_by(&mut self, protocol: Protocol, shard: usize, conn: u32) {
        self.clients += 1;
        let input = Input::Opened {
            conn: ConnId(conn),
            client: ClientId(self.clients),
            protocol,
            policy: Policy::Close,
            peer: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
        };
        self.handle(shard, input);
    }

    fn give(&mut self, shard: usize, conn: u32, bytes: &[u8]) -> Handled {
        let input = Input::Bytes {
            conn: ConnId(conn),
            bytes,
            fresh: bytes.len(),
        };
        self.handle(shard, input)
    }

    fn end_turn(&mut self, shard: usize) {
        self.handle(shard, Input::TurnEnd);
    }

    /// Delivers the batch that is ready, if there is one, and gives it back.
    fn carry(&mut self, from: usize, to: usize) {
        if let Some(batch) = self.shards[from].take_batch(ShardId(to as u16)) {
            self.deal_with(from, to, batch);
        }
    }

    /// Delivers a batch to its shard, and gives it back.
    fn deal_with(&mut self, from: usize, to: usize, batch: Batch) {
        let mut batch = batch;
        let input = Input::Batch {
            from: ShardId(from as u16),
            batch: &mut batch,
            cursor: &mut BatchCursor::default(),
        };
        self.handle(to, input);
        let by = ShardId(to as u16);
        self.handle(from, Input::Returned { by, batch });
    }

    /// Ends turns and delivers batches until nothing is left.
    fn settle(&mut self) {
        let count = self.shards.len();
        for _ in 0..4 {
            (0..count).for_each(|shard| self.end_turn(shard));
            for from in 0..count {
                (0..count)
                    .filter(|&to| to != from)
                    .for_each(|to| self.carry(from, to));
            }
        }
    }

    /// Takes all output of a connection.
    fn take(&mut self, shard: usize, conn: u32) -> Vec<u8> {
        let conn = ConnId(conn);
        let pieces: Vec<&[u8]> = self.shards[shard].output(conn).collect();
        let bytes = pieces.concat();
        self.shards[shard].sent(conn, bytes.len(), false, &mut self.outputs[shard]);
        bytes
    }

    fn read(&mut self, shard: usize, conn: u32) -> String {
        String::from_utf8(self.take(shard, conn)).expect("text")
    }

    /// A client of the native protocol at place 0 of each shard, in the group `g` for `jobs` where
    /// it is one of the `members`.
    fn with_group(members: &[usize], shards: u16) -> Node {
        let mut node = Node::new(shards, None, Limits::default());
        for shard in 0..usize::from(shards) {
            node.open_by(Protocol::Native, shard, 0);
            let mut bytes = Vec::new();
            native::write_hello(&mut bytes, &native::Hello::default());
            node.give(shard, 0, &bytes);
        }
        for &shard in members {
            node.change_membership(shard, native::kind::SUBSCRIBE);
        }
        node.settle();
        for shard in 0..usize::from(shards) {
            node.take(shard, 0);
        }
        node
    }

    fn change_membership(&mut self, shard: usize, kind: u8) {
        let subscription = native::Subscription {
            member: 1,
            group: b"g",
            filter: b"jobs",
        };
        let mut bytes = Vec::new();
        native::write_subscription(&mut bytes, kind, 1, &subscription);
        self.give(shard, 0, &bytes);
    }

    /// Takes the output of a shard's native client; counts the turns in it.
    fn take_turns(&mut self, shard: usize) -> usize {
        let bytes = self.take(shard, 0);
        let (mut at, mut turns) = (0, 0);
        while let Ok(native::Parsed::Frame { frame, length }) =
            native::parse_from_broker(&bytes[at..])
        {
            turns += usize::from(matches!(frame, native::BrokerFrame::Turn { .. }));
            at += length;
        }
        assert_eq!(at, bytes.len(), "a broken frame");
        turns
    }

    /// A subscriber of `t` at place 0 of shard 0, whose EXEC of `commands` waits for shard 1, and a
    /// publisher at place 1.
    fn suspended_in_exec(limits: Limits, hello: &str, commands: &str) -> Node {
        let mut node = Node::new(2, None, limits);
        node.open(0, 0);
        node.open(0, 1);
        node.give(0, 0, format!("{hello}\r\nMULTI\r\n{commands}").as_bytes());
        node.read(0, 0);
        assert_eq!(node.give(0, 0, b"EXEC\r\n").next, Next::Hold);
        node
    }
}

const LIST: &str = "CLIENT LIST\r\n";

#[test]
fn a_publisher_waits_for_room_at_the_shard_that_was_full_alone() {
    let limits = Limits {
        handover_backlog_bytes: 1_000,
        ..Limits::default()
    };
    let mut node = Node::new(3, None, limits);
    for (shard, topic) in [(1, "one"), (2, "two")] {
        node.open(shard, 0);
        node.give(shard, 0, format!("SUBSCRIBE {topic}\r\n").as_bytes());
    }
    node.settle();
    // Each publisher fills another shard's mailbox, and is held.
    for (conn, topic) in [(0, "one"), (1, "two")] {
        node.open(0, conn);
        let publish = format!("PUBLISH {topic} {}\r\n", "x".repeat(2_000));
        assert_ne!(node.give(0, conn, publish.as_bytes()).next, Next::Hold);
        assert_eq!(node.give(0, conn, publish.as_bytes()).next, Next::Hold);
    }
    node.end_turn(0);
    assert_eq!(node.outputs[0].resumed, []);
    node.carry(0, 1);
    node.end_turn(0);
    assert_eq!(node.outputs[0].resumed, [ConnId(0)], "the other is full");
    node.outputs[0].resumed.clear();
    node.carry(0, 2);
    node.end_turn(0);
    assert_eq!(node.outputs[0].resumed, [ConnId(1)]);
}

/// Events of other clients that come while EXEC waits follow its array, in the form of that time.
#[test]
fn events_of_others_follow_the_array_of_exec() {
    let cases = [
        // The client's own events are inside the array.
        (
            "HELLO 3",
            "",
            "PUBLISH t own\r\n",
            "own",
            ">3\r\n$7\r\nmessage",
        ),
        ("HELLO 3", "", "PING end\r\n", "end", ">3\r\n$7\r\nmessage"),
        // The form changes while they wait.
        (
            "HELLO 3",
            "",
            "HELLO 2\r\n",
            "modules",
            "*3\r\n$7\r\nmessage",
        ),
        (
            "HELLO 2",
            "",
            "HELLO 3\r\n",
            "modules",
            ">3\r\n$7\r\nmessage",
        ),
        // Only the answer that EXEC waits for is left.
        (
            "HELLO 3",
            "PING end\r\n",
            "",
            "name=",
            ">3\r\n$7\r\nmessage",
        ),
    ];
    for (hello, before, after, last, head) in cases {
        for length in [3, 20_000] {
            let commands = format!("{before}SUBSCRIBE t\r\n{LIST}{after}");
            let mut node = Node::suspended_in_exec(Limits::default(), hello, &commands);
            // With a second subscriber on this shard, a large payload is shared.
            node.open(0, 2);
            node.give(0, 2, b"SUBSCRIBE t\r\n");
            let payload = "f".repeat(length);
            for _ in 0..2 {
                let publish =
                    format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n${length}\r\n{payload}\r\n");
                node.give(0, 1, publish.as_bytes());
            }
            node.settle();
            assert!(node.outputs[0].resumed.contains(&ConnId(0)));
            node.give(0, 0, b"");
            let read = node.read(0, 0);
            let event = format!("{head}\r\n$1\r\nt\r\n${length}\r\n{payload}\r\n");
            let (array, events) = read.split_at(read.len() - 2 * event.len());
            assert_eq!(events, event.repeat(2), "{hello}, {after:?}");
            assert!(array.contains(last) && !array.contains(&payload), "{array}");
            assert_eq!(node.read(0, 2).matches(&event[1..]).count(), 2);
            node.read(0, 1);
            let counters = node.shards[0].counters();
            assert_eq!((counters.outbox_bytes, counters.shared_body_bytes), (0, 0));
        }
    }
}

#[test]
fn events_kept_for_the_end_of_exec_count_in_the_caps() {
    let limits = [
        (6_000, 1 << 30, CloseReason::OutboxFull),
        (1 << 20, 6_000, CloseReason::OutboxesFull),
    ];
    for (outbox_bytes_max, outboxes_bytes_max, reason) in limits {
        let limits = Limits {
            outbox_bytes_max,
            outboxes_bytes_max,
            ..Limits::default()
        };
        let commands = format!("SUBSCRIBE t\r\n{LIST}");
        let mut node = Node::suspended_in_exec(limits, "HELLO 3", &commands);
        let publish = format!("PUBLISH t {}\r\n", "f".repeat(2_500));
        for closing in [vec![], vec![], vec![(ConnId(0), reason)]] {
            assert!(node.shards[0].counters().outbox_bytes < 6_000);
            node.give(0, 1, publish.as_bytes());
            node.read(0, 1);
            assert_eq!(std::mem::take(&mut node.outputs[0].closing), closing);
        }
        assert_eq!(node.shards[0].counters().outbox_bytes, 0);
    }
}

#[test]
fn events_kept_for_an_exec_that_is_killed_are_dropped() {
    let commands = format!("SUBSCRIBE t\r\n{LIST}");
    let mut node = Node::suspended_in_exec(Limits::default(), "HELLO 3", &commands);
    node.give(0, 1, b"PUBLISH t foreign\r\nCLIENT KILL ID 1\r\n");
    node.settle();
    let read = node.read(0, 0);
    assert!(read.starts_with("*2\r\n") && !read.contains("foreign"));
    node.read(0, 1);
    assert_eq!(node.shards[0].counters().outbox_bytes, 0);
}

#[test]
fn clients_that_read_no_replies_are_not_read_on_at_the_cap_of_all() {
    let limits = Limits {
        outboxes_bytes_max: 4_000,
        ..Limits::default()
    };
    let mut node = Node::new(1, None, limits);
    let echo = format!("ECHO {}\r\n", "e".repeat(900));
    for conn in 0..6 {
        node.open(0, conn);
        node.give(0, conn, b"PING\r\n");
        node.shards[0].sent(ConnId(conn), 0, true, &mut node.outputs[0]);
    }
    let mut held = Vec::new();
    for conn in (0..6).chain(0..6) {
        if node.give(0, conn, echo.as_bytes()).next == Next::Hold {
            held.push(conn);
        }
    }
    // The fifth reply reaches the cap; after that no client gets another.
    assert_eq!(held, [4, 5, 0, 1, 2, 3, 4, 5]);
    let counters = node.shards[0].counters();
    assert_eq!(counters.stalled_readers, 8);
    assert!(counters.outbox_bytes < 4_000 + 1_000, "one reply over it");
    assert!(node.outputs[0].closing.is_empty());
    // Others are still over the cap: a client that has taken all its output is read nevertheless.
    node.open(0, 6);
    assert_ne!(node.give(0, 6, echo.as_bytes()).next, Next::Hold);
    node.shards[0].sent(ConnId(0), 10, true, &mut node.outputs[0]);
    assert_eq!(node.outputs[0].resumed, []);
    node.read(0, 0);
    assert_eq!(node.outputs[0].resumed, [ConnId(0)]);
    assert_ne!(node.give(0, 0, echo.as_bytes()).next, Next::Hold);
}

#[test]
fn guests_that_left_do_not_make_the_list_of_guests_grow() {
    let mut node = Node::new(1, Some(b"secret"), Limits::default());
    for conn in 0..10 {
        node.open(0, conn);
    }
    node.give(0, 3, b"AUTH secret\r\n");
    for round in 0..1_000 {
        let conn = ConnId(10 + round % 3);
        node.open(0, conn.0);
        assert!(node.shards[0].liveness.auth_deadlines().len() <= 2 * 11);
        node.handle(0, Input::Closed { conn });
        assert!(node.shards[0].liveness.auth_deadlines().len() <= 2 * 10);
    }
    // The connections that stayed are closed at their deadline, except the one that was let in.
    node.now.monotonic_ns = node.shards[0].next_deadline().expect("guests");
    node.handle(0, Input::Tick);
    let closed = std::mem::take(&mut node.outputs[0].closing);
    let closed: Vec<u32> = closed.into_iter().map(|(conn, _)| conn.0).collect();
    assert_eq!(closed, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(
        (
            node.shards[0].liveness.auth_deadlines().len(),
            node.shards[0].liveness.auth_deadlines().gone
        ),
        (0, 0)
    );
}

#[test]
fn an_end_is_not_released_by_an_earlier_barrier() {
    for shards in [2, 3] {
        let mut node = Node::new(shards, None, Limits::default());
        node.open(0, 0);
        node.open(0, 1);
        let others = 1..usize::from(shards);
        assert_eq!(node.give(0, 0, b"SUBSCRIBE t\r\n").next, Next::Hold);
        node.end_turn(0);
        others.clone().for_each(|other| node.carry(0, other));
        // All shards know of the subscription; before they acknowledge it, its connection is killed.
        node.give(0, 1, b"CLIENT KILL ID 1\r\n");
        assert_eq!(node.outputs[0].closing, [(ConnId(0), CloseReason::Killed)]);
        for other in others.clone() {
            node.end_turn(other);
            node.carry(other, 0);
        }
        assert!(node.shards[0].has_output(ConnId(0)));
        assert_eq!(node.read(0, 0), "");
        node.settle();
        assert!(node.read(0, 0).contains("subscribe"));
        assert!(!node.shards[0].has_output(ConnId(0)));
        assert_eq!(node.outputs[0].resumed, [ConnId(1)]);
    }
}

/// A shard gives a batch back at once and tells its changes at the end of its turn, so a shard that hands it a turn
/// does not know yet that the members are gone.
#[test]
fn a_turn_whose_member_has_just_left_goes_to_one_who_is_there() {
    // The members of the group, and those that leave; shard 0 publishes.
    let cases: &[(u16, &[usize], &[usize])] = &[
        (2, &[0, 1], &[1]),
        (3, &[1, 2], &[1]),
        (3, &[1, 2], &[2]),
        (3, &[0, 1, 2], &[1, 2]),
        (4, &[1, 2, 3], &[1, 2]),
        (4, &[1, 2, 3], &[1, 3]),
    ];
    for &(shards, members, leaving) in cases {
        let mut node = Node::with_group(members, shards);
        const EVENTS: usize = 12;
        let mut message = Vec::new();
        let parts = native::Parts {
            topic: b"jobs",
            ..native::Parts::default()
        };
        parts.write(&mut message).expect("a legal message");
        let mut bytes = Vec::new();
        for _ in 0..EVENTS {
            native::write_message(&mut bytes, &message);
        }
        node.give(0, 0, &bytes);
        for &shard in leaving {
            node.change_membership(shard, native::kind::UNSUBSCRIBE);
        }
        for _ in 0..6 {
            node.end_turn(0);
            (1..usize::from(shards)).for_each(|to| node.carry(0, to));
            // The returned batches are handled by now; only the next batches tell of the change.
            for from in 1..usize::from(shards) {
                node.end_turn(from);
                node.carry(from, 0);
            }
        }
        let turns: Vec<usize> = (0..usize::from(shards))
            .map(|shard| node.take_turns(shard))
            .collect();
        assert_eq!(
            turns.iter().sum::<usize>(),
            EVENTS,
            "{members:?} but {leaving:?}: {turns:?}"
        );
        assert!(leaving.iter().all(|&shard| turns[shard] == 0));
    }
}

#[test]
fn a_turn_that_nobody_can_take_is_given_up_and_counted() {
    let mut node = Node::with_group(&[1], 2);
    let mut bytes = Vec::new();
    // No flags, topic, no payload.
    native::write_message(&mut bytes, b"\0\x04\0jobs");
    node.give(0, 0, &bytes);
    node.change_membership(1, native::kind::UNSUBSCRIBE);
    // As often as a turn is tried, and once more, when nothing may be left to deliver.
    for _ in 0..=crate::mailbox::TURN_TRIES_MAX {
        node.end_turn(0);
        node.carry(0, 1);
    }
    assert_eq!(
        node.shards[0].counters().handovers,
        1 + u64::from(crate::mailbox::TURN_TRIES_MAX)
    );
    assert_eq!(node.shards[1].counters().turns_unheard, 1);
    assert_eq!(node.take_turns(1), 0);
}

/// What a subscriber on the publisher's shard and one on the other shard get of the same publishes.
fn given_on_both_shards(
    protocol: Protocol,
    (opening, subscriptions): (&str, &str),
    publishes: &[u8],
) -> [Vec<u8>; 2] {
    let mut node = Node::new(2, None, Limits::default());
    for shard in 0..2 {
        node.open_by(protocol, shard, 0);
        node.give(shard, 0, opening.as_bytes());
        node.give(shard, 0, subscriptions.as_bytes());
    }
    node.settle();
    (0..2).for_each(|shard| drop(node.take(shard, 0)));
    node.open(0, 1);
    node.give(0, 1, publishes);
    node.settle();
    let before = node.shards[1].counters().events_received;
    assert_eq!(before, 5, "events across shards");
    [node.take(0, 0), node.take(1, 0)]
}

#[test]
fn a_run_is_the_same_on_another_shard() {
    let publish = |payload: &str| {
        let length = payload.len();
        format!("*3\r\n$7\r\nPUBLISH\r\n$3\r\na.b\r\n${length}\r\n{payload}\r\n")
    };
    let payloads = ["one", "two", "", "four", "a fifth"];
    let publishes = payloads.map(publish).concat();
    let cases = [
        (Protocol::Redis, "", "SUBSCRIBE a.b\r\n"),
        (Protocol::Redis, "HELLO 3\r\n", "SUBSCRIBE a.b\r\n"),
        (Protocol::Redis, "", "PSUBSCRIBE a.*\r\n"),
        (Protocol::Redis, "", "SUBSCRIBE a.b\r\nPSUBSCRIBE a.*\r\n"),
        (
            Protocol::Nats,
            "CONNECT {\"verbose\":false}\r\n",
            "SUB a.b 7\r\n",
        ),
        (
            Protocol::Nats,
            "CONNECT {\"verbose\":false}\r\n",
            "SUB a.* 7\r\nUNSUB 7 3\r\n",
        ),
        (
            Protocol::Nats,
            "CONNECT {\"verbose\":false}\r\n",
            "SUB a.* 7\r\nSUB a.b 8\r\n",
        ),
    ];
    for (protocol, opening, subscriptions) in cases {
        let [here, there] =
            given_on_both_shards(protocol, (opening, subscriptions), publishes.as_bytes());
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        assert_eq!(shown(&there), shown(&here), "{subscriptions}");
        assert!(shown(&here).contains("one"), "{subscriptions}");
    }
}

#[test]
fn buffers_that_are_given_back_are_made_again() {
    const EACH: usize = 100;
    let mut node = Node::new(2, None, Limits::default());
    let payload = "x".repeat(8 * 1024);
    let publish = format!("PUBLISH topic {payload}\r\n");
    let event = format!("*3\r\n$7\r\nmessage\r\n$5\r\ntopic\r\n$8192\r\n{payload}\r\n");
    for round in 0..3 {
        // The connections of the round before are gone, and others have their places.
        for conn in 1..=EACH as u32 {
            node.open(1, conn);
            node.give(1, conn, b"SUBSCRIBE topic\r\n");
        }
        node.settle();
        for conn in 1..=EACH as u32 {
            assert!(node.read(1, conn).starts_with("*3"), "round {round}");
        }
        node.open(0, round);
        node.give(0, round, publish.as_bytes());
        node.settle();
        assert_eq!(node.read(0, round), format!(":{EACH}\r\n"));
        for conn in 1..=EACH as u32 {
            assert_eq!(node.read(1, conn), event);
        }
        assert!(node.shards[0].spare_bytes() > 0 && node.shards[1].spare_bytes() > 0);
        for conn in 1..=EACH as u32 {
            node.handle(1, Input::Closed { conn: ConnId(conn) });
        }
        node.settle();
        for shard in &mut node.shards {
            shard.take_dirty(&mut Vec::new());
            shard.release_spares();
            assert_eq!(shard.spare_bytes(), 0);
        }
    }
}
