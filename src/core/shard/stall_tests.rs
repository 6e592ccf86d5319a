//! Publishers that are faster than a subscriber: how long they wait, and for whom.

use super::*;

const CAP: usize = 1024 * 1024;
const SUBSCRIBER: ConnId = ConnId(0);

/// A subscriber of NATS (connection 0 of shard 0) and a publisher on the same shard, which is itself if its place is 0.
fn with_subscriber(publisher: u32) -> Node {
    let limits = Limits {
        outbox_bytes_max: CAP,
        ..Limits::default()
    };
    let mut node = Node::new(1, None, limits);
    for conn in 0..=publisher {
        node.open_by(Protocol::Nats, 0, conn);
        node.give_all(0, conn, b"CONNECT {\"verbose\":false}\r\n");
        node.write(0, conn);
    }
    node.give_all(0, 0, b"SUB t 1\r\n");
    node
}

/// What came of it.
#[derive(Debug, Default)]
struct Course {
    /// Bytes that the subscriber took, and the most that waited for it.
    taken: usize,
    most: usize,
    /// Milliseconds in which the publisher was not read, and how often that began.
    held_ms: u64,
    stalls: u64,
}

/// The publisher sends so many messages of 1 KiB as fast as it is read; the subscriber takes up to so many bytes in each
/// millisecond. Ends when all is done, or the subscriber is closed.
fn run(
    node: &mut Node,
    publisher: u32,
    messages: usize,
    bytes_each_ms: impl Fn(u64) -> usize,
) -> Course {
    let one = [&b"PUB t 1024\r\n"[..], &[b'x'; 1024], b"\r\n"].concat();
    let input = one.repeat(64);
    let (mut sent, mut at, mut is_held, mut course) = (0, 0, false, Course::default());
    for ms in 0..60_000 {
        for _ in 0..8 {
            if is_held || sent == messages / 64 {
                break;
            }
            let handled = node.give(0, publisher, &input[at..]);
            at += handled.consumed;
            if at == input.len() {
                (sent, at) = (sent + 1, 0);
            }
            is_held = handled.next == Next::Hold;
            let waiting = node.shards[0].outboxes.outbox(SUBSCRIBER).len();
            course.most = course.most.max(waiting);
            node.shards[0].take_dirty(&mut Vec::new());
            node.shards[0].sent(SUBSCRIBER, 0, waiting > 0, &mut node.outputs[0]);
        }
        let waiting = node.shards[0].outboxes.outbox(SUBSCRIBER).len();
        let part = waiting.min(bytes_each_ms(ms));
        node.shards[0].take_dirty(&mut Vec::new());
        node.shards[0].sent(SUBSCRIBER, part, part < waiting, &mut node.outputs[0]);
        course.taken += part;
        course.held_ms += u64::from(is_held);
        node.pass_ms(1);
        let resumed = std::mem::take(&mut node.outputs[0].resumed);
        is_held &= !resumed.contains(&ConnId(publisher));
        let is_closed = !node.outputs[0].closing.is_empty();
        if is_closed || (sent == messages / 64 && part == waiting) {
            break;
        }
    }
    course.stalls = node.shards[0].counters.stalled_for_subscribers;
    course
}

#[test]
fn a_publisher_waits_for_subscribers_that_read() {
    // For its own connection at any speed, even with long pauses; for others at one that gets them down in time.
    let steady = |_| 16 * 1024;
    let slow = |_| 1024;
    let in_bursts = |ms: u64| {
        if ms.is_multiple_of(500) {
            512 * 1024
        } else {
            0
        }
    };
    let speeds: [(u32, &dyn Fn(u64) -> usize); 4] =
        [(1, &steady), (0, &steady), (0, &slow), (0, &in_bursts)];
    for (publisher, bytes_each_ms) in speeds {
        let mut node = with_subscriber(publisher);
        let course = run(&mut node, publisher, 8 * 1024, bytes_each_ms);
        assert!(node.outputs[0].closing.is_empty(), "{course:?}");
        assert!(course.taken > 8 * CAP, "{course:?}");
        assert!(course.most < CAP / 2 + 128 * 1024, "{course:?}");
        assert!(course.stalls > 1, "{course:?}");
    }
}

#[test]
fn a_subscriber_that_does_not_read_holds_a_publisher_once_and_not_for_long() {
    for (publisher, longest_ms) in [(1, 20), (0, 10_000)] {
        let mut node = with_subscriber(publisher);
        let course = run(&mut node, publisher, 8 * 1024, |_| 0);
        let closing = &node.outputs[0].closing;
        assert_eq!(closing[..], [(SUBSCRIBER, CloseReason::OutboxFull)]);
        assert_eq!(course.stalls, 1);
        assert!(course.held_ms.abs_diff(longest_ms) <= 2, "{course:?}");
        assert!(
            course.most > CAP - 96 * 1024,
            "its policy decides at the cap"
        );
    }
}

#[test]
fn a_subscriber_that_reads_too_slowly_holds_a_publisher_once_and_not_for_long() {
    let mut node = with_subscriber(1);
    let course = run(&mut node, 1, 8 * 1024, |_| 512);
    let closing = &node.outputs[0].closing;
    assert_eq!(closing[..], [(SUBSCRIBER, CloseReason::OutboxFull)]);
    assert_eq!(course.stalls, 1);
    assert!(course.held_ms.abs_diff(100) <= 2, "{course:?}");
}

#[test]
fn a_publisher_whose_subscriber_leaves_goes_on() {
    let mut node = with_subscriber(1);
    let course = run(&mut node, 1, 600, |_| 0);
    assert_eq!(course.stalls, 1);
    let mut node = with_subscriber(1);
    let one = [&b"PUB t 1024\r\n"[..], &[b'x'; 1024], b"\r\n"].concat();
    let input = one.repeat(64);
    let mut handled = node.give(0, 1, &input);
    while handled.next != Next::Hold {
        let waiting = node.shards[0].outboxes.outbox(SUBSCRIBER).len();
        node.shards[0].take_dirty(&mut Vec::new());
        node.shards[0].sent(SUBSCRIBER, 0, waiting > 0, &mut node.outputs[0]);
        handled = node.give(0, 1, &input);
    }
    node.handle(0, Input::Closed { conn: SUBSCRIBER });
    node.pass_ms(20);
    assert_eq!(node.outputs[0].resumed, [ConnId(1)]);
    assert!(node.shards[0].delivery.put_off.is_empty());
}

#[test]
fn a_publisher_that_is_closed_waits_for_nobody() {
    let one = [&b"PUB t 1024\r\n"[..], &[b'x'; 1024], b"\r\n"].concat();
    let input = one.repeat(64);
    for is_gone in [true, false] {
        let mut node = with_subscriber(0);
        let mut handled = node.give(0, 0, &input);
        while handled.next != Next::Hold {
            let waiting = node.shards[0].outboxes.outbox(SUBSCRIBER).len();
            node.shards[0].take_dirty(&mut Vec::new());
            node.shards[0].sent(SUBSCRIBER, 0, waiting > 0, &mut node.outputs[0]);
            handled = node.give(0, 0, &input);
        }
        assert!(!node.shards[0].is_settled(), "it waits for itself");
        if is_gone {
            node.handle(0, Input::Closed { conn: SUBSCRIBER });
        } else {
            // Another client asks for its end.
            node.open_by(Protocol::Redis, 0, 1);
            node.give_all(0, 1, b"CLIENT KILL ID 1\r\n");
            node.pass_ms(1);
            let closing = &node.outputs[0].closing;
            assert_eq!(closing[..], [(SUBSCRIBER, CloseReason::Killed)]);
        }
        assert!(node.shards[0].is_settled(), "gone: {is_gone}");
    }
}
