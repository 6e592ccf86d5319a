//! Native connections on shards driven by hand: queue groups, the barrier and drains.

use super::*;
use sapwood_wire::native::{
    self, BrokerFrame, Hello, Parsed, Parts, Subscription, When, kind, write_request,
};

impl Node {
    /// Opens a native connection that is let in.
    fn open_native(&mut self, shard: usize, conn: u32) {
        self.open_by(Protocol::Native, shard, conn);
        self.hello(shard, conn, &Hello::default());
        assert_eq!(self.frames(shard, conn), ["welcome"]);
    }

    fn hello(&mut self, shard: usize, conn: u32, hello: &Hello<'_>) {
        let mut bytes = Vec::new();
        native::write_hello(&mut bytes, hello);
        self.give(shard, conn, &bytes);
    }

    fn subscribe(&mut self, shard: usize, conn: u32, member: u32, group: &str, filter: &str) {
        let bytes = subscription(kind::SUBSCRIBE, member, group, filter);
        self.give(shard, conn, &bytes);
    }

    /// The frames that wait for a native connection, which takes them all.
    fn frames(&mut self, shard: usize, conn: u32) -> Vec<String> {
        let pieces: Vec<&[u8]> = self.shards[shard].output(ConnId(conn)).collect();
        let bytes = pieces.concat();
        self.shards[shard].sent(ConnId(conn), bytes.len(), false, &mut self.outputs[shard]);
        let (mut at, mut frames) = (0, Vec::new());
        while at < bytes.len() {
            let Ok(Parsed::Frame { frame, length }) = native::parse_from_broker(&bytes[at..])
            else {
                panic!("no whole frame at {at} of {bytes:?}");
            };
            at += length;
            let text = |message: native::Message<'_>| {
                let payload = &message.payload[..message.payload.len().min(8)];
                String::from_utf8_lossy(payload).into_owned()
            };
            frames.push(match frame {
                BrokerFrame::Welcome(_) => "welcome".to_string(),
                BrokerFrame::Ack { request, count } => format!("ack {request} {count}"),
                BrokerFrame::Message(message) => text(message),
                BrokerFrame::Turn { member, message } => format!("{member}: {}", text(message)),
                other => format!("{other:?}"),
            });
        }
        frames
    }
}

fn subscription(kind: u8, member: u32, group: &str, filter: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let subscription = Subscription {
        member,
        group: group.as_bytes(),
        filter: filter.as_bytes(),
    };
    native::write_subscription(&mut bytes, kind, 1, &subscription);
    bytes
}

/// A PUBLISH with a request, of a payload of this length that begins with this text.
fn publish(topic: &str, text: &str, length: usize) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    payload.resize(length.max(text.len()), b' ');
    let parts = Parts {
        topic: topic.as_bytes(),
        payload: &payload,
        ..Parts::default()
    };
    let mut message = Vec::new();
    parts.write(&mut message).expect("a message");
    let mut bytes = Vec::new();
    native::write_publish(&mut bytes, 9, When::Always, &message);
    bytes
}

fn request(kind: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_request(&mut bytes, kind, 2);
    bytes
}

#[test]
fn a_connection_with_several_members_of_one_filter_can_end() {
    for shards in [1, 2] {
        for ending in ["close", "drain", "unsubscribe"] {
            let mut node = Node::new(shards, None, Limits::default());
            for conn in 0..3 {
                node.open_native(0, conn);
            }
            for member in 1..=3 {
                for conn in 0..2 {
                    node.subscribe(0, conn, member, "g", "jobs");
                }
                node.subscribe(0, 0, member, "g", "jobs.*");
            }
            node.settle();
            match ending {
                "close" => drop(node.handle(0, Input::Closed { conn: ConnId(0) })),
                "drain" => drop(node.give(0, 0, &request(kind::DRAIN))),
                _ => {
                    for member in [2, 1, 3] {
                        for filter in ["jobs.*", "jobs"] {
                            let bytes = subscription(kind::UNSUBSCRIBE, member, "g", filter);
                            node.give(0, 0, &bytes);
                        }
                    }
                }
            }
            node.settle();
            assert_eq!(node.shards[0].counters().subscriptions, 3);
            node.frames(0, 1);
            for _ in 0..3 {
                node.give(0, 2, &publish("jobs", "x", 1));
            }
            let mut turns = node.frames(0, 1);
            turns.sort();
            assert_eq!(turns, ["1: x", "2: x", "3: x"], "{ending}");
        }
    }
}

#[test]
fn a_drain_is_answered_behind_events_that_waited_for_credit() {
    let limits = Limits {
        handover_window_bytes: 4 * 1024,
        ..Limits::default()
    };
    let mut node = Node::new(2, None, limits);
    node.open_native(0, 0);
    node.open_native(1, 0);
    node.subscribe(0, 0, 0, "", "t");
    node.settle();
    assert_eq!(node.frames(0, 0), ["ack 1 1"]);
    node.outputs[0].resumed.clear();
    // The first batch goes at once, the others wait until it comes back.
    for text in ["a", "b", "c"] {
        node.give(1, 0, &publish("t", text, 5_000));
        let batch = node.shards[1].take_batch(ShardId(0));
        assert_eq!(batch.is_some(), text == "a");
        node.late.extend(batch);
    }
    assert_eq!(node.frames(1, 0), ["ack 9 1"; 3]);
    let requests = [request(kind::DRAIN), request(kind::PING)].concat();
    let handled = node.give(0, 0, &requests);
    assert_eq!((handled.consumed, handled.next), (9, Next::Hold));
    node.end_turn(0);
    node.carry(0, 1);
    for batch in std::mem::take(&mut node.late) {
        node.deal_with(1, 0, batch);
    }
    node.settle();
    assert_eq!(node.outputs[0].resumed, [ConnId(0)]);
    node.give(0, 0, &request(kind::PING));
    let expected = ["a", "b", "c"].map(|text| format!("{text:<8}"));
    let expected = [
        &expected[..],
        &["ack 2 1".to_string(), "ack 2 0".to_string()],
    ]
    .concat();
    assert_eq!(node.frames(0, 0), expected);
    assert_eq!(node.shards[0].counters().subscriptions, 0);
}

#[test]
fn a_confirmation_waits_for_its_own_change_beside_an_earlier_one() {
    let mut node = Node::new(2, None, Limits::default());
    node.open_native(0, 0);
    node.subscribe(0, 0, 0, "", "a");
    node.end_turn(0);
    // Output was written in the middle of the input, whose rest is handled in the next turn.
    node.subscribe(0, 0, 0, "", "b");
    node.carry(0, 1);
    node.end_turn(0);
    node.carry(1, 0);
    assert_eq!(node.outputs[0].resumed, []);
    assert!(node.frames(0, 0).is_empty(), "shard 1 does not know of b");
    node.carry(0, 1);
    node.carry(1, 0);
    assert_eq!(node.outputs[0].resumed, [ConnId(0)]);
    assert_eq!(node.frames(0, 0), ["ack 1 1", "ack 1 2"]);
}

#[test]
fn a_turn_that_finds_no_member_goes_to_another_shard_once() {
    for others in [0, 1] {
        let mut node = Node::new(3, None, Limits::default());
        for shard in 0..3 {
            node.open_native(shard, 0);
        }
        node.subscribe(1, 0, 7, "g", "t");
        node.settle();
        node.frames(1, 0);
        node.give(0, 0, &publish("t", "x", 1));
        assert_eq!(node.frames(0, 0), ["ack 9 1"]);
        // The turn is on its way to shard 1 when that loses its member; shard 2 gets a member, or none.
        let batch = node.shards[0].take_batch(ShardId(1)).expect("a batch");
        node.give(1, 0, &subscription(kind::UNSUBSCRIBE, 7, "g", "t"));
        if others == 1 {
            node.subscribe(2, 0, 8, "g", "t");
        }
        for shard in [1, 2] {
            node.end_turn(shard);
            node.carry(shard, 0);
        }
        node.deal_with(0, 1, batch);
        node.settle();
        let heard = node.frames(2, 0);
        assert_eq!(
            heard.contains(&"8: x".to_string()),
            others == 1,
            "{heard:?}"
        );
        let counters = node.shards[0].counters();
        let counted = (counters.turns_retried, counters.turns_unheard);
        assert_eq!(counted, (others, 1 - others));
        assert_eq!(node.frames(1, 0), ["ack 1 0"]);
    }
}

#[test]
fn a_guest_that_is_being_closed_is_told_one_reason() {
    let mut node = Node::new(1, None, Limits::default());
    node.open_by(Protocol::Native, 0, 0);
    node.give(0, 0, &request(kind::PING));
    // It reads slowly, and its time for HELLO ends meanwhile.
    node.now.monotonic_ns = node.shards[0].next_deadline().expect("a guest");
    node.handle(0, Input::Tick);
    let frames = node.frames(0, 0);
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert!(frames[0].contains("code: 104"), "{frames:?}");
}

#[test]
fn a_wrong_password_is_counted_and_a_missing_one_is_not() {
    let mut node = Node::new(1, Some(b"secret"), Limits::default());
    let passwords = [None, Some(&b"guess"[..]), Some(b"secret")];
    for (conn, password) in passwords.into_iter().enumerate() {
        node.open_by(Protocol::Native, 0, conn as u32);
        let hello = Hello {
            password,
            ..Hello::default()
        };
        node.hello(0, conn as u32, &hello);
    }
    assert_eq!(node.shards[0].counters().wrong_passwords, 1);
}

/// A slow consumer at place 1: a native client that reads nothing from now on, but for one event that already waits.
/// The publisher is at place 0.
fn stalled(policy: Policy, subscriptions: &[(u32, &str)]) -> Node {
    let limits = Limits {
        outbox_bytes_max: 4_000,
        ..Limits::default()
    };
    let mut node = Node::new(1, None, limits);
    node.open_native(0, 0);
    node.open_by(Protocol::Native, 0, 1);
    let hello = Hello {
        policy: Some(policy),
        ..Hello::default()
    };
    node.hello(0, 1, &hello);
    for &(member, group) in subscriptions {
        node.subscribe(0, 1, member, group, "t");
    }
    node.frames(0, 1);
    node.give(0, 0, &publish("t", "event", 900));
    node.shards[0].sent(ConnId(1), 0, true, &mut node.outputs[0]);
    node
}

#[test]
fn a_turn_never_takes_the_place_of_an_event_for_all() {
    // The bytes of this member's number are those that a message on `t` begins with.
    let member = u32::from_le_bytes([kind::MESSAGE, 0, 1, 0]);
    let mut node = stalled(Policy::Latest, &[(0, ""), (member, "g")]);
    // Half the cap holds the newest of both.
    for _ in 0..10 {
        node.give(0, 0, &publish("t", "event", 600));
    }
    let mut frames = Vec::new();
    while node.shards[0].has_output(ConnId(1)) {
        frames.extend(node.frames(0, 1));
    }
    let newest = [format!("{member}: event   "), "event   ".to_string()];
    assert!(frames.ends_with(&newest), "{frames:?}");
    assert!(
        frames.iter().any(|frame| frame.starts_with("Gap")),
        "{frames:?}"
    );
}

#[test]
fn an_event_that_never_fits_drops_no_other() {
    let mut node = stalled(Policy::DropOldest, &[(0, "")]);
    for length in [900, 900, 5_000] {
        node.give(0, 0, &publish("t", "event", length));
    }
    assert_eq!(node.shards[0].counters().events_lost_drop_oldest, 1);
    assert_eq!(node.frames(0, 1), ["event   "; 3]);
    assert_eq!(node.frames(0, 1), ["Gap { events: 1 }"]);
}

#[test]
fn what_was_lent_arrives_as_what_was_copied_and_is_given_back() {
    for receivers in 0..4 {
        let mut node = Node::new(1, None, Limits::default());
        node.open_native(0, 0);
        for conn in 1..=receivers {
            node.open_native(0, conn);
            node.subscribe(0, conn, 0, "", "t");
            node.frames(0, conn);
        }
        // Two short messages around a long one, and the start of another.
        let input = [
            publish("t", "one", 3),
            publish("t", "two", 40_000),
            publish("t", "three", 5),
        ];
        let whole = input.concat();
        let input = [&whole[..], &publish("t", "four", 50_000)[..30]].concat();
        let lent = node.shards[0].lend(input);
        let bytes = Input::Lent {
            conn: ConnId(0),
            bytes: &lent,
            fresh: lent.len(),
        };
        let handled = node.handle(0, bytes);
        assert_eq!(handled.consumed, whole.len());
        drop(lent);
        let counters = node.shards[0].counters();
        let kept = if receivers > 0 { 40_000 } else { 0 };
        assert!(counters.shared_body_bytes >= kept);
        for conn in 1..=receivers {
            let expected = ["one", "two     ", "three"];
            assert_eq!(node.frames(0, conn), expected);
        }
        assert_eq!(node.frames(0, 0), vec![format!("ack 9 {receivers}"); 3]);
        let counters = node.shards[0].counters();
        assert_eq!((counters.outbox_bytes, counters.shared_body_bytes), (0, 0));
    }
}

#[test]
fn an_address_with_too_many_wrong_passwords_waits_and_others_do_not() {
    let mut node = Node::new(1, Some(b"secret"), Limits::default());
    node.now.monotonic_ns = 1_000_000_000;
    (0..3).for_each(|conn| node.open(0, conn));
    for _ in 0..5 {
        node.give(0, 0, b"AUTH wrong\r\n");
    }
    assert_eq!(node.read(0, 0).matches("WRONGPASS").count(), 5);
    // The sixth is answered; from then on each waits, in one connection and in the next, the right one too.
    node.give(0, 0, b"AUTH wrong\r\n");
    assert_eq!(node.read(0, 0).matches("WRONGPASS").count(), 1);
    for (conn, password) in [(0, "wrong"), (1, "secret"), (2, "wrong")] {
        let request = format!("AUTH {password}\r\nPING\r\n");
        let Handled { consumed, next } = node.give(0, conn, request.as_bytes());
        assert_eq!((consumed, next), (0, Next::Hold));
        assert_eq!(node.read(0, conn), "");
    }
    let due_ns = node.shards[0].next_deadline().expect("they wait");
    let wait_ms = limits::GUESS_WAIT_MS;
    assert_eq!(due_ns, node.now.monotonic_ns + wait_ms * 1_000_000);
    node.now.monotonic_ns = due_ns;
    node.handle(0, Input::Tick);
    let mut resumed = std::mem::take(&mut node.outputs[0].resumed);
    resumed.sort_by_key(|conn| conn.slot());
    assert_eq!(resumed, [0, 1, 2].map(ConnId));
    node.give(0, 1, b"AUTH secret\r\nPING\r\n");
    assert_eq!(node.read(0, 1), "+OK\r\n+PONG\r\n");
    node.give(0, 0, b"AUTH wrong\r\n");
    assert!(node.read(0, 0).starts_with("-WRONGPASS"));
    let counters = node.shards[0].counters();
    assert_eq!(
        (counters.wrong_passwords, counters.passwords_delayed),
        (7, 3)
    );
    let told = &node.outputs[0].notices[..];
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .to_string()
            .contains("wrong passwords came from 127.0.0.1")
    );
}
