//! One event for very many subscriptions of one client: given in steps, with writes between.

use super::*;
use crate::limits::PUT_OFF_BYTES;

const MANY: usize = 3_000;

/// A client of NATS (connection 0 of shard 0) with its subscriptions, and a publisher (connection 1) on another shard or
/// the same.
fn with_subscriptions(shards: u16, publisher: usize, subscribe: impl Fn(usize) -> String) -> Node {
    let mut node = Node::new(shards, None, Limits::default());
    node.open_by(Protocol::Nats, 0, 0);
    node.open_by(Protocol::Nats, publisher, 1);
    let subscribe: String = (0..MANY).map(subscribe).collect();
    node.give_all(
        0,
        0,
        format!("CONNECT {{\"verbose\":false}}\r\n{subscribe}PING\r\n").as_bytes(),
    );
    node.give_all(publisher, 1, b"CONNECT {\"verbose\":false}\r\n");
    node.settle();
    assert!(node.write(0, 0).ends_with(b"PONG\r\n"));
    node.write(publisher, 1);
    node
}

fn publish(length: usize, mark: u8) -> Vec<u8> {
    let mut request = format!("PUB t {length}\r\n").into_bytes();
    request.extend(std::iter::repeat_n(mark, length));
    request.extend_from_slice(b"\r\n");
    request
}

impl Node {
    /// Writes all output of a connection; what others are given counts as written too.
    pub(super) fn write(&mut self, shard: usize, conn: u32) -> Vec<u8> {
        self.shards[shard].take_dirty(&mut Vec::new());
        self.take(shard, conn)
    }

    /// Lets time pass, handles what is due, and ends the turn.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.now.monotonic_ns += ms * 1_000_000;
        let due_ns = self.shards[0].next_deadline();
        if due_ns.is_some_and(|due_ns| due_ns <= self.now.monotonic_ns) {
            self.handle(0, Input::Tick);
        }
        self.end_turn(0);
    }

    /// Gives bytes until all are consumed, ending turns between.
    pub(super) fn give_all(&mut self, shard: usize, conn: u32, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..bytes.len() {
            rest = &rest[self.give(shard, conn, rest).consumed..];
            if rest.is_empty() {
                return;
            }
            self.settle();
            self.write(shard, conn);
        }
        panic!("{} bytes were not consumed", rest.len());
    }

    /// Carries a batch over, in as many turns as it takes, and writes what connection 0 of that shard gets. Gives it,
    /// and the most that stood unwritten.
    fn carry_in_steps(&mut self, from: usize, to: usize) -> (Vec<u8>, usize) {
        let (mut taken, mut most) = (Vec::new(), 0);
        let Some(mut batch) = self.shards[from].take_batch(ShardId(to as u16)) else {
            return (taken, most);
        };
        let mut cursor = BatchCursor::default();
        loop {
            let input = Input::Batch {
                from: ShardId(from as u16),
                batch: &mut batch,
                cursor: &mut cursor,
            };
            let next = self.handle(to, input).next;
            let written = self.write(to, 0);
            most = most.max(written.len());
            taken.extend(written);
            if next == Next::Done {
                let by = ShardId(to as u16);
                self.handle(from, Input::Returned { by, batch });
                return (taken, most);
            }
            self.end_turn(to);
        }
    }

    /// Ends turns until nothing is put off, and writes what connection 0 of shard 0 gets.
    fn take_in_steps(&mut self) -> (Vec<u8>, usize) {
        let (mut taken, mut most) = (Vec::new(), 0);
        for _ in 0..10_000 {
            let written = self.write(0, 0);
            most = most.max(written.len());
            taken.extend(written);
            if self.shards[0].delivery.put_off.is_empty() {
                return (taken, most);
            }
            self.end_turn(0);
        }
        panic!("it never ends");
    }
}

/// The subscriptions of the messages, in order, each with the first byte of its payload.
fn messages(bytes: &[u8]) -> Vec<(usize, u8)> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\r').expect("a line");
        let line = std::str::from_utf8(&rest[..end]).expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        let length: usize = words
            .last()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("no message: {line}"));
        found.push((words[2].parse().expect("a sid"), rest[end + 2]));
        rest = &rest[end + 2 + length + 2..];
    }
    found
}

#[test]
fn one_event_for_many_subscriptions_of_a_client_is_given_in_steps() {
    for length in [100, 2_000, 5_000, 16_383, 20_000] {
        let mut node = with_subscriptions(1, 0, |sid| format!("SUB t {sid}\r\n"));
        let bytes = [publish(length, b'a'), publish(length, b'b')].concat();
        let first = node.give(0, 1, &bytes);
        let (taken, most) = node.take_in_steps();
        let one = length + 30;
        assert!(
            most <= PUT_OFF_BYTES + one.max(64 * 1024),
            "{most} bytes at once"
        );
        let mut found = messages(&taken);
        if first.consumed < bytes.len() {
            assert_eq!(first.next, Next::Hold, "the publisher waits");
            assert_eq!(node.outputs[0].resumed, [ConnId(1)]);
            let second = node.give(0, 1, &bytes[first.consumed..]);
            assert_eq!(first.consumed + second.consumed, bytes.len());
            found.extend(messages(&node.take_in_steps().0));
        }
        assert_eq!(found.len(), 2 * MANY);
        for sid in 0..MANY {
            let marks = found.iter().filter(|(other, _)| *other == sid);
            let marks: Vec<u8> = marks.map(|&(_, mark)| mark).collect();
            assert_eq!(marks, b"ab", "{sid} of {length}");
        }
    }
}

#[test]
fn others_go_on_while_an_event_is_given_in_steps() {
    let mut node = with_subscriptions(1, 0, |sid| format!("SUB t {sid}\r\n"));
    node.open(0, 2);
    node.give(0, 1, &publish(16_383, b'a'));
    assert!(!node.shards[0].delivery.put_off.is_empty());
    node.shards[0].take_dirty(&mut Vec::new());
    assert_eq!(node.give(0, 2, b"PING\r\n").next, Next::Read { needed: 1 });
    assert_eq!(node.read(0, 2), "+PONG\r\n");
    // The publisher is gone: what it published is delivered all the same. Who is still to be given it goes on behind it.
    node.handle(0, Input::Closed { conn: ConnId(1) });
    let unsubscribe = format!("UNSUB {}\r\nPING\r\n", MANY - 1);
    assert_eq!(node.give(0, 0, unsubscribe.as_bytes()).next, Next::Hold);
    let found = messages(&node.take_in_steps().0);
    assert_eq!(found.len(), MANY);
    assert_eq!(node.outputs[0].resumed, [ConnId(0)]);
    node.give(0, 0, unsubscribe.as_bytes());
    assert_eq!(node.read(0, 0), "PONG\r\n");
}

#[test]
fn a_client_that_does_not_read_meets_its_policy_in_steps_too() {
    let mut node = with_subscriptions(1, 0, |sid| format!("SUB t {sid}\r\n"));
    node.give(0, 1, &publish(16_383, b'a'));
    node.shards[0].sent(ConnId(0), 1_000, true, &mut node.outputs[0]);
    let begun_ns = node.now.monotonic_ns;
    for _ in 0..1_000 {
        let waiting = node.shards[0].outboxes.outbox(ConnId(0)).len();
        assert!(waiting <= limits::OUTBOX_BYTES_MAX, "{waiting} bytes");
        let shared = node.shards[0].outboxes.gauge().bytes();
        assert!(shared <= 20_000, "one payload");
        node.pass_ms(1);
        if node.shards[0].delivery.put_off.is_empty() {
            break;
        }
    }
    let waited_ms = (node.now.monotonic_ns - begun_ns) / 1_000_000;
    assert!((20..25).contains(&waited_ms), "{waited_ms} ms");
    let closing = &node.outputs[0].closing;
    assert_eq!(closing[..], [(ConnId(0), CloseReason::OutboxFull)]);
}

#[test]
fn a_client_that_reads_is_waited_for_though_it_is_behind() {
    for shards in [1, 2] {
        let mut node = with_subscriptions(shards, usize::from(shards) - 1, |sid| {
            format!("SUB t {sid}\r\n")
        });
        let publisher = usize::from(shards) - 1;
        node.give_all(publisher, 1, &publish(16_383, b'a'));
        let batch = match publisher {
            0 => None,
            _ => {
                node.end_turn(1);
                node.shards[1].take_batch(ShardId(0))
            }
        };
        let (mut batch, mut cursor) = (batch, BatchCursor::default());
        let mut taken = 0;
        for turn in 0..2_000 {
            if let Some(batch) = &mut batch {
                let from = ShardId(1);
                let cursor = &mut cursor;
                node.handle(
                    0,
                    Input::Batch {
                        from,
                        batch,
                        cursor,
                    },
                );
            }
            // It takes a part of what there is, each fifth millisecond.
            let waiting = node.shards[0].outboxes.outbox(ConnId(0)).len();
            let part = if turn % 5 == 0 {
                waiting.min(3 << 20)
            } else {
                0
            };
            node.shards[0].take_dirty(&mut Vec::new());
            let is_blocked = part < waiting;
            node.shards[0].sent(ConnId(0), part, is_blocked, &mut node.outputs[0]);
            taken += part;
            node.pass_ms(1);
        }
        assert!(taken > MANY * 16_383, "{taken} bytes, more than the cap");
        assert!(node.outputs[0].closing.is_empty());
        assert!(node.shards[0].delivery.put_off.is_empty());
    }
}

#[test]
fn the_shard_that_publishes_waits_for_the_steps_of_another() {
    for length in [2_000, 16_383] {
        let mut node = with_subscriptions(2, 1, |sid| format!("SUB t {sid}\r\n"));
        let both = [publish(length, b'a'), publish(length, b'b')].concat();
        node.give_all(1, 1, &both);
        node.end_turn(1);
        let (taken, most) = node.carry_in_steps(1, 0);
        assert!(most <= PUT_OFF_BYTES + 64 * 1024, "{most} bytes at once");
        let found = messages(&taken);
        assert_eq!(found.len(), 2 * MANY);
        for sid in [0, 1, MANY / 2, MANY - 1] {
            let marks = found.iter().filter(|(other, _)| *other == sid);
            assert!(marks.map(|&(_, mark)| mark).eq(*b"ab"), "{sid}");
        }
    }
}

#[test]
fn turns_of_many_queue_groups_of_a_client_are_given_in_steps() {
    for (shards, publisher) in [(1, 0), (2, 1)] {
        let mut node =
            with_subscriptions(shards, publisher, |sid| format!("SUB t g{sid} {sid}\r\n"));
        node.give_all(publisher, 1, &publish(16_383, b'a'));
        let (taken, most) = match publisher {
            0 => node.take_in_steps(),
            _ => {
                node.end_turn(1);
                node.carry_in_steps(1, 0)
            }
        };
        assert!(most <= PUT_OFF_BYTES + 64 * 1024, "{most} bytes at once");
        let mut sids: Vec<usize> = messages(&taken).into_iter().map(|(sid, _)| sid).collect();
        sids.sort_unstable();
        assert!(sids.into_iter().eq(0..MANY));
    }
}

#[test]
fn one_event_for_many_patterns_of_a_client_is_given_in_steps() {
    let mut node = Node::new(1, None, Limits::default());
    node.open(0, 0);
    node.open(0, 1);
    for pattern in 0..MANY {
        let more = "?".repeat(pattern % 7);
        node.give(
            0,
            0,
            format!("PSUBSCRIBE topic{more}*{pattern:04}*\r\n").as_bytes(),
        );
    }
    node.take(0, 0);
    let all: String = (0..MANY).map(|pattern| format!("{pattern:04}")).collect();
    assert!(all.len() > 1_024, "no name holds them all");
    for pattern in 0..900 {
        node.give(
            0,
            0,
            format!("PSUBSCRIBE t{}*\r\n", "*".repeat(pattern)).as_bytes(),
        );
    }
    node.take(0, 0);
    let payload = "p".repeat(16_000);
    let publish = format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\nt....\r\n$16000\r\n{payload}\r\n");
    node.give(0, 1, publish.as_bytes());
    assert_eq!(node.read(0, 1), ":900\r\n");
    let (taken, most) = node.take_in_steps();
    assert!(most <= PUT_OFF_BYTES + 20_000, "{most} bytes at once");
    let text = String::from_utf8(taken).expect("text");
    assert_eq!(text.matches("pmessage").count(), 900);
    assert_eq!(text.matches(&payload).count(), 900);
}

#[test]
fn the_events_of_a_transaction_are_given_in_steps_one_after_the_other() {
    let mut node = with_subscriptions(1, 0, |sid| format!("SUB t {sid}\r\n"));
    node.open(0, 2);
    let publish = |mark: char| {
        let payload = String::from(mark).repeat(16_000);
        format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$16000\r\n{payload}\r\n")
    };
    let events: String = ['a', 'b', 'c'].map(publish).concat();
    let transaction = format!("MULTI\r\n{events}EXEC\r\n");
    let mut found = Vec::new();
    let mut rest = transaction.as_bytes();
    for _ in 0..5 {
        // Offered again when the connection is resumed, even if nothing is left.
        rest = &rest[node.give(0, 2, rest).consumed..];
        let (taken, most) = node.take_in_steps();
        assert!(most <= limits::OUTBOX_BYTES_MAX, "{most} bytes at once");
        found.extend(messages(&taken));
    }
    assert_eq!(found.len(), 3 * MANY);
    assert!(found.is_sorted_by_key(|&(_, mark)| mark));
}
