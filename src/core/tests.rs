//! Shards driven by hand, where the order of what comes in matters and a seed would need luck.

use super::*;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native;

/// Shards of one node, and what each of them named.
struct Node {
    shards: Vec<Shard>,
    outputs: Vec<Outputs>,
    clients: u64,
    now: Now,
}

impl Node {
    fn new(shards: u16, password: Option<&[u8]>, limits: Limits) -> Node {
        let body_gauge = BodyGauge::default();
        let make = |shard| {
            Shard::new(Config {
                shard: ShardId(shard),
                shards,
                password: password.map(<[u8]>::to_vec),
                limits: limits.clone(),
                hash_seed: 1,
                body_gauge: body_gauge.clone(),
                run_id: "0".repeat(40),
                process_id: 1,
                started_wall_ms: 0,
            })
        };
        Node {
            shards: (0..shards).map(make).collect(),
            outputs: (0..shards).map(|_| Outputs::default()).collect(),
            clients: 0,
            now: Now {
                monotonic_ns: 0,
                wall_ms: 0,
            },
        }
    }

    fn handle(&mut self, shard: usize, input: Input<'_>) -> Handled {
        self.shards[shard].handle(input, self.now, &mut self.outputs[shard])
    }

    fn open(&mut self, shard: usize, conn: u32) {
        self.clients += 1;
        let input = Input::Opened {
            conn: ConnId(conn),
            client: ClientId(self.clients),
            protocol: Protocol::Redis,
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

    /// Carries the batch that stands ready, if there is one, and gives it back.
    fn carry(&mut self, from: usize, to: usize) {
        let Some(mut batch) = self.shards[from].take_handover(ShardId(to as u16)) else {
            return;
        };
        let input = Input::HandOver {
            from: ShardId(from as u16),
            batch: &mut batch,
            place: &mut Place::default(),
        };
        self.handle(to, input);
        let by = ShardId(to as u16);
        self.handle(from, Input::Returned { by, batch });
    }

    /// Ends turns and carries batches until nothing is left to say.
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

    /// What stands for a connection, which takes it all.
    fn read(&mut self, shard: usize, conn: u32) -> String {
        let conn = ConnId(conn);
        let pieces: Vec<&[u8]> = self.shards[shard].output(conn).collect();
        let bytes = pieces.concat();
        self.shards[shard].sent(conn, bytes.len(), false, &mut self.outputs[shard]);
        String::from_utf8(bytes).expect("text")
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

/// Events of others that come while EXEC waits follow its array, in the form of that time.
#[test]
fn events_of_others_follow_the_array_of_exec() {
    let cases = [
        // Own events stand inside.
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
        // Nothing is left but the answer that it waits for.
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
            // With a second subscriber here a large payload is shared.
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
    // The fifth reply reaches the cap; nobody gets another.
    assert_eq!(held, [4, 5, 0, 1, 2, 3, 4, 5]);
    let counters = node.shards[0].counters();
    assert_eq!(counters.stalled_readers, 8);
    assert!(counters.outbox_bytes < 4_000 + 1_000, "one reply over it");
    assert!(node.outputs[0].closing.is_empty());
    // Others are over the cap still: who has taken everything is read on all the same.
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
        assert!(node.shards[0].guests.len() <= 2 * 11);
        node.handle(0, Input::Closed { conn });
        assert!(node.shards[0].guests.len() <= 2 * 10);
    }
    // Those that stayed are still closed in time, but for the one that was let in.
    node.now.monotonic_ns = node.shards[0].next_deadline().expect("guests");
    node.handle(0, Input::Tick);
    let closed = std::mem::take(&mut node.outputs[0].closing);
    let closed: Vec<u32> = closed.into_iter().map(|(conn, _)| conn.0).collect();
    assert_eq!(closed, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(
        (node.shards[0].guests.len(), node.shards[0].guests_gone),
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
        // All shards know of the subscription; before they say so, its connection is killed.
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

impl Node {
    /// A native client that has said nothing yet.
    fn accept_native(&mut self, shard: usize, conn: u32, policy: Policy) {
        self.clients += 1;
        let input = Input::Opened {
            conn: ConnId(conn),
            client: ClientId(self.clients),
            protocol: Protocol::Native,
            policy,
            peer: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
        };
        self.handle(shard, input);
    }

    fn hello(&mut self, shard: usize, conn: u32, hello: &native::Hello<'_>) {
        let mut bytes = Vec::new();
        native::write_hello(&mut bytes, hello);
        self.give(shard, conn, &bytes);
    }

    /// A native client that was let in.
    fn open_native(&mut self, shard: usize, conn: u32, policy: Policy) {
        self.accept_native(shard, conn, policy);
        self.hello(shard, conn, &native::Hello::default());
        self.frames(shard, conn);
    }

    /// What stands for a native client, which takes it all: the kind of each frame, and its number if
    /// it has one.
    fn frames(&mut self, shard: usize, conn: u32) -> Vec<(u8, u32)> {
        let conn = ConnId(conn);
        let pieces: Vec<&[u8]> = self.shards[shard].output(conn).collect();
        let bytes = pieces.concat();
        self.shards[shard].sent(conn, bytes.len(), false, &mut self.outputs[shard]);
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let Ok(native::Parsed::Frame { frame, length }) =
                native::parse_from_broker(&bytes[at..])
            else {
                panic!("no whole frame");
            };
            at += length;
            frames.push(match frame {
                native::BrokerFrame::Ack { count, .. } => (native::kind::ACK, count),
                native::BrokerFrame::Error { code, .. } => (native::kind::ERROR, u32::from(code)),
                native::BrokerFrame::Turn { member, .. } => (native::kind::TURN, member),
                native::BrokerFrame::Message(_) => (native::kind::MESSAGE, 0),
                native::BrokerFrame::Gap { events } => (native::kind::GAP, events as u32),
                native::BrokerFrame::Welcome(_) => (native::kind::WELCOME, 0),
                other => panic!("{other:?}"),
            });
        }
        frames
    }

    /// Joins a group as this member.
    fn join(&mut self, shard: usize, conn: u32, member: u32) {
        self.subscribe(shard, conn, (b"g", member));
    }

    fn subscribe(&mut self, shard: usize, conn: u32, (group, member): (&[u8], u32)) {
        let mut bytes = Vec::new();
        let subscription = native::Subscription {
            member,
            group,
            filter: b"t",
        };
        native::write_subscription(&mut bytes, native::kind::SUBSCRIBE, 1, &subscription);
        self.give(shard, conn, &bytes);
    }
}

#[test]
fn a_connection_with_several_members_of_a_filter_leaves_as_a_whole() {
    for members in [2, 3, 5] {
        let mut node = Node::new(1, None, Limits::default());
        node.open_native(0, 0, Policy::Close);
        node.open_native(0, 1, Policy::Close);
        for member in 0..members {
            node.join(0, 0, member);
            node.join(0, 1, member);
        }
        let mut drain = Vec::new();
        native::write_request(&mut drain, native::kind::DRAIN, 2);
        node.give(0, 0, &drain);
        let drained = (native::kind::ACK, members);
        assert_eq!(node.frames(0, 0).last(), Some(&drained));
        assert_eq!(node.shards[0].counters().subscriptions, u64::from(members));
        // Nothing of it is left: it can join again, and counts anew.
        node.join(0, 0, 7);
        assert_eq!(node.frames(0, 0), [(native::kind::ACK, 1)]);
        node.handle(0, Input::Closed { conn: ConnId(0) });
        node.handle(0, Input::Closed { conn: ConnId(1) });
        node.end_turn(0);
        let counters = node.shards[0].counters();
        assert_eq!((counters.subscriptions, counters.filters), (0, 0));
    }
}

#[test]
fn a_native_guest_that_is_being_closed_is_told_one_reason() {
    let mut node = Node::new(1, None, Limits::default());
    node.accept_native(0, 0, Policy::Close);
    let mut ping = Vec::new();
    native::write_request(&mut ping, native::kind::PING, 1);
    node.give(0, 0, &ping);
    // It reads slowly, and the time for its HELLO ends meanwhile.
    node.now.monotonic_ns = node.shards[0].next_deadline().expect("a guest");
    node.handle(0, Input::Tick);
    let expected = ErrorCode::HelloExpected;
    let frames = node.frames(0, 0);
    assert_eq!(
        frames,
        [(native::kind::ERROR, u32::from(expected.number()))]
    );
}

#[test]
fn a_native_password_that_is_wrong_is_counted() {
    let mut node = Node::new(1, Some(b"secret"), Limits::default());
    for (conn, password) in [None, Some(&b"guess"[..]), Some(b"secret")]
        .into_iter()
        .enumerate()
    {
        node.accept_native(0, conn as u32, Policy::Close);
        let hello = native::Hello {
            password,
            ..native::Hello::default()
        };
        node.hello(0, conn as u32, &hello);
    }
    assert_eq!(node.shards[0].counters().wrong_passwords, 1);
}

#[test]
fn a_turn_that_comes_back_goes_to_another_shard() {
    let mut node = Node::new(3, None, Limits::default());
    node.open(0, 0);
    node.open_native(1, 0, Policy::Close);
    node.open_native(2, 0, Policy::Close);
    (0..5).for_each(|member| node.join(1, 0, member));
    node.join(2, 0, 9);
    node.settle();
    // The turn is that of the shard with most members, and so would be the next.
    node.give(0, 0, b"PUBLISH t event\r\n");
    node.handle(1, Input::Closed { conn: ConnId(0) });
    node.settle();
    let turns = node
        .frames(2, 0)
        .into_iter()
        .filter(|(kind, _)| *kind == native::kind::TURN);
    assert_eq!(turns.collect::<Vec<_>>(), [(native::kind::TURN, 9)]);
    let counters = node.shards[0].counters();
    assert_eq!((counters.turns_retried, counters.turns_unheard), (1, 0));
}

/// A client that reads nothing from now on, but for one event that waits already.
fn stalled(policy: Policy, subscriptions: &[(&[u8], u32)]) -> Node {
    let limits = Limits {
        outbox_bytes_max: 4_000,
        ..Limits::default()
    };
    let mut node = Node::new(1, None, limits);
    node.open(0, 0);
    node.open_native(0, 1, policy);
    for &subscription in subscriptions {
        node.subscribe(0, 1, subscription);
    }
    node.frames(0, 1);
    node.publish(900);
    node.shards[0].sent(ConnId(1), 0, true, &mut node.outputs[0]);
    node
}

impl Node {
    fn publish(&mut self, bytes: usize) {
        let publish = format!("PUBLISH t {}\r\n", "f".repeat(bytes));
        self.give(0, 0, publish.as_bytes());
        self.read(0, 0);
    }
}

#[test]
fn a_turn_never_takes_the_place_of_an_event_for_all() {
    // This member's number looks like what a message on `t` begins with.
    let member = u32::from_le_bytes([native::kind::MESSAGE, 0, 1, 0]);
    let mut node = stalled(Policy::Latest, &[(b"", 0), (b"g", member)]);
    (0..10).for_each(|_| node.publish(900));
    let kinds: Vec<u8> = std::iter::repeat_with(|| node.frames(0, 1))
        .take_while(|frames| !frames.is_empty())
        .flatten()
        .map(|(kind, _)| kind)
        .collect();
    let newest = [native::kind::TURN, native::kind::MESSAGE];
    assert!(
        kinds.contains(&native::kind::GAP) && kinds.ends_with(&newest),
        "{kinds:?}"
    );
}

#[test]
fn an_event_that_never_fits_drops_no_other() {
    let mut node = stalled(Policy::DropOldest, &[(b"", 0)]);
    (0..2).for_each(|_| node.publish(900));
    node.publish(5_000);
    assert_eq!(node.shards[0].counters().events_lost_drop_oldest, 1);
    let message = (native::kind::MESSAGE, 0);
    assert_eq!(node.frames(0, 1), [message; 3]);
    assert_eq!(node.frames(0, 1), [(native::kind::GAP, 1)]);
}
