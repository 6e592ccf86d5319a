//! Calls on shards driven by hand: their order, their parts, clients that do not read, and clients that leave.

use super::*;
use crate::command::FilterKind;
use crate::limits::{CALL_MS_MAX, CALLS_MAX, STREAMED_BYTES_MAX};
use sapwood_wire::resp;
use serde_json::Value;

impl Node {
    /// Gives input until all of it is handled, and gives the output.
    fn ask(&mut self, shard: usize, conn: u32, input: &str) -> String {
        let (mut at, mut answer) = (0, String::new());
        for _ in 0..20_000 {
            let rest = &input.as_bytes()[at..];
            at += self.give(shard, conn, rest).consumed;
            self.settle();
            let more = self.read(shard, conn);
            answer += &more;
            if at == input.len() && more.is_empty() && self.shards[shard].calls.is_empty() {
                return answer;
            }
        }
        panic!("not dealt with: {:?}", &input[at..]);
    }

    /// This many connections on each shard, from place 100 on, each subscribed to a name of its own.
    fn with_subscribers(shards: u16, each: u32) -> Node {
        let mut node = Node::new(shards, None, Limits::default());
        for shard in 0..usize::from(shards) {
            for conn in 100..100 + each {
                node.open(shard, conn);
                node.give(
                    shard,
                    conn,
                    format!("SUBSCRIBE s{shard}.{conn}\r\n").as_bytes(),
                );
            }
        }
        node.settle();
        node
    }

    fn web(&mut self, shard: usize, conn: u32) {
        self.open_by(Protocol::Web, shard, conn);
    }

    fn calls_waiting(&self, shard: usize, conn: u32) -> u32 {
        let connection = self.shards[shard].connections.get(ConnId(conn));
        connection.expect("it is open").calls_waiting
    }
}

/// A request with these arguments.
fn request(command: &str, arguments: &[String]) -> String {
    let mut bytes = Vec::new();
    resp::array(&mut bytes, 1 + arguments.len());
    let words = std::iter::once(command).chain(arguments.iter().map(String::as_str));
    words.for_each(|word| resp::bulk(&mut bytes, word.as_bytes()));
    String::from_utf8(bytes).expect("text")
}

/// The body of a chunked response.
fn unchunked(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    let mut body = String::new();
    loop {
        let (size, more) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal digits");
        body += &more[..size];
        rest = more[size..].strip_prefix("\r\n").expect("a chunk's end");
        if size == 0 {
            assert_eq!(rest, "", "behind the last chunk");
            return body;
        }
    }
}

#[test]
fn a_pipeline_of_calls_goes_out_at_once_and_keeps_its_order() {
    for hello in ["HELLO 2\r\n", "HELLO 3\r\n"] {
        let mut node = Node::with_subscribers(2, 150);
        node.open(0, 0);
        node.ask(0, 0, hello);
        let calls = "CLIENT LIST\r\nINFO server\r\nPUBSUB CHANNELS s1.10*\r\nCLIENT INFO\r\n";
        let handled = node.give(0, 0, calls.as_bytes());
        assert_eq!(handled.consumed, calls.len(), "nothing is held");
        assert_eq!(
            node.calls_waiting(0, 0),
            2,
            "the others need no other shard"
        );
        let answer = node.ask(0, 0, "BOGUS\r\nPING end\r\n");
        let (list, rest) = answer.split_once("# Server").expect("INFO");
        assert_eq!(list.matches(" addr=").count(), 301);
        assert_eq!(list.matches(" sub=1 ").count(), 300);
        let order = [
            "redis_version",
            "s1.109\r\n",
            "id=301 ",
            "ERR unknown",
            "end",
        ];
        let places: Vec<usize> = order.map(|part| rest.find(part).expect(part)).into();
        assert!(places.is_sorted(), "{rest}");
        assert!(rest.contains("*10\r\n"), "{rest}");
    }
}

#[test]
fn what_others_can_see_waits_for_the_calls_before_it() {
    let mut node = Node::with_subscribers(2, 300);
    node.open(0, 0);
    node.take(0, 100);
    let input = "CLIENT LIST\r\nPUBLISH s0.100 hello\r\n";
    let handled = node.give(0, 0, input.as_bytes());
    assert_eq!((handled.consumed, handled.next), (LIST.len(), Next::Hold));
    assert_eq!(node.take(0, 100), b"", "not published yet");
    let answer = node.ask(0, 0, &input[LIST.len()..]);
    assert!(answer.ends_with(":1\r\n"), "{answer}");
    assert!(node.read(0, 100).contains("hello"));
}

#[test]
fn http_streams_its_lists_and_keeps_the_order_of_requests() {
    let mut node = Node::with_subscribers(2, 300);
    let many: Vec<String> = (0..5_000).map(|name| format!("{name:0>40}")).collect();
    node.open(1, 0);
    node.ask(1, 0, &request("SUBSCRIBE", &many));
    node.web(0, 0);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let names = node.ask(0, 0, &get("/connz?all=1&subs=1&limit=1000"));
    let names: Value = serde_json::from_str(&unchunked(&names)).expect("JSON");
    let list = names["connections"].as_array().expect("a list");
    assert_eq!((list.len(), &names["total"]), (602, &Value::from(602)));
    let last = |at: &str| list[600][at].as_array().expect("names");
    assert_eq!(list[600]["subscriptions"], 5_000);
    let last = last("subscriptions_list").iter().filter_map(Value::as_str);
    assert_eq!(last.collect::<Vec<&str>>(), many);

    let ids = |answer: &str| -> Vec<u64> {
        let value: Value = serde_json::from_str(&unchunked(answer)).expect("JSON");
        assert_eq!(value["total"], 602);
        let list = value["connections"].as_array().expect("a list");
        assert_eq!(value["num_connections"], list.len());
        list.iter().filter_map(|one| one["cid"].as_u64()).collect()
    };
    let page = node.ask(0, 0, &get("/connz?all=1&offset=590&limit=5"));
    assert_eq!(ids(&page), [591, 592, 593, 594, 595]);
    let largest = node.ask(0, 0, &get("/connz?all=1&sort=subs&limit=2"));
    assert_eq!(ids(&largest), [601, 1]);

    let pipeline = [get("/varz"), get("/connz"), get("/subsz"), get("/health")].concat();
    let answer = node.ask(0, 0, &pipeline);
    let order = [
        "\"server_name\"",
        "\"connections\":[",
        "num_filters",
        "\"ok\"",
    ];
    let places: Vec<usize> = order.map(|part| answer.find(part).expect(part)).into();
    assert!(places.is_sorted(), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4);
    // HTTP/1.0 has no chunked bodies: the body ends with the connection.
    node.web(0, 1);
    let answer = node.ask(0, 1, "GET /connz?all=1 HTTP/1.0\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Connection: close") && !head.contains("Transfer-Encoding"));
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["num_connections"], 603);
    assert_eq!(node.outputs[0].closing, [(ConnId(1), CloseReason::Quit)]);
}

#[test]
fn lists_that_nobody_reads_stay_small_and_stop_nobody() {
    let mut node = Node::with_subscribers(2, 2_000);
    let get = b"GET /connz?all=1&limit=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for conn in 0..50 {
        node.web(0, conn);
        node.give(0, conn, get);
    }
    (0..60).for_each(|_| node.settle());
    let shard = &node.shards[0];
    for conn in 0..50 {
        let waiting = shard.outboxes.outbox(ConnId(conn)).len();
        assert!(waiting > STREAMED_BYTES_MAX, "{conn} is not answered");
        // One part more than the cap, and what the call has gathered.
        assert!(
            waiting < 5 * STREAMED_BYTES_MAX,
            "{waiting} bytes for {conn}"
        );
    }
    assert!(!shard.is_turn_due(), "nothing to do until they read");
    node.open(0, 60);
    assert!(node.ask_redis_list(60).contains("id=4051 "));
    // A client that reads at last gets the whole list.
    let mut answer = String::new();
    for _ in 0..200 {
        answer += &node.read(0, 7);
        node.settle();
    }
    let list: Value = serde_json::from_str(&unchunked(&answer)).expect("JSON");
    assert!(list["num_connections"].as_u64() >= Some(4_000));
}

impl Node {
    /// Asks for the list of clients, while calls of others wait.
    fn ask_redis_list(&mut self, conn: u32) -> String {
        self.give(0, conn, LIST.as_bytes());
        for _ in 0..400 {
            self.settle();
            if self.calls_waiting(0, conn) == 0 {
                return self.read(0, conn);
            }
        }
        panic!("no answer");
    }
}

#[test]
fn a_turn_does_a_bounded_part_of_many_lists() {
    let mut node = Node::with_subscribers(1, 3_000);
    for conn in 3_200..3_400 {
        node.open(0, conn);
        node.give(0, conn, LIST.repeat(3).as_bytes());
    }
    let (mut before, mut most, mut turns) = (node.shards[0].outboxes.bytes(), 0, 0);
    while !node.shards[0].calls.is_empty() {
        node.end_turn(0);
        let now = node.shards[0].outboxes.bytes();
        (before, most, turns) = (now, most.max(now.saturating_sub(before)), turns + 1);
    }
    // Eight rounds of 128 lines, or of what is kept of 3,200 clients.
    assert!(most < 8 * 4_096 * 32, "{most} bytes in a turn");
    assert!(turns > 600 * 3_200 / 128 / 8, "{turns} turns");
    let answer = node.read(0, 3_399);
    assert_eq!(answer.matches("\nid=").count(), 3 * 3_200);
}

#[test]
fn killing_goes_in_parts_and_takes_the_killer_last() {
    let mut node = Node::with_subscribers(2, 400);
    node.open(0, 0);
    assert_eq!(node.ask(0, 0, "CLIENT KILL TYPE pubsub\r\n"), ":800\r\n");
    for shard in [0, 1] {
        assert_eq!(node.outputs[shard].closing.len(), 400, "of shard {shard}");
    }
    node.open(0, 1);
    node.give(0, 1, b"CLIENT KILL SKIPME no\r\nPING\r\n");
    node.settle();
    assert_eq!(node.read(0, 1), ":2\r\n", "what follows is not carried out");
    let last = node.outputs[0].closing.last();
    assert_eq!(last, Some(&(ConnId(1), CloseReason::Killed)));
}

#[test]
fn an_answer_without_room_is_refused_and_the_rest_goes_on() {
    let limits = Limits {
        outbox_bytes_max: 20_000,
        outboxes_bytes_max: 50_000,
        ..Limits::default()
    };
    let mut node = Node::new(2, None, limits);
    for conn in 0..200 {
        node.open(1, conn);
    }
    node.settle();
    node.open(0, 0);
    let answer = node.ask(0, 0, "CLIENT LIST\r\nPING\r\n");
    assert!(
        answer.starts_with("-ERR the reply is longer than 20000 bytes"),
        "{answer}"
    );
    assert!(answer.ends_with("+PONG\r\n"));
    // Other clients read nothing, so that the shard's output is at its cap.
    for conn in 1..4 {
        node.open(0, conn);
        node.give(
            0,
            conn,
            format!("ECHO {}\r\n", "x".repeat(19_000)).as_bytes(),
        );
    }
    node.give(0, 0, b"INFO\r\n");
    node.settle();
    assert!(!node.shards[0].is_turn_due(), "it waits, and does not turn");
    assert_eq!(node.read(0, 0), "");
    let due_ns = node.shards[0]
        .next_deadline()
        .expect("it waits for no longer than this");
    assert_eq!(due_ns, CALL_MS_MAX * 1_000_000);
    node.now.monotonic_ns = due_ns;
    node.handle(0, Input::Tick);
    let answer = node.read(0, 0);
    assert!(
        answer.starts_with("-ERR no room for the answer"),
        "{answer}"
    );
    assert_eq!(node.shards[0].counters().calls_refused, 1);
    // Once they have read, the call is answered.
    (1..4).for_each(|conn| drop(node.take(0, conn)));
    assert!(node.ask(0, 0, "INFO\r\n").contains("# Server"));
}

#[test]
fn a_connection_has_so_many_calls_and_its_input_is_held_beyond() {
    let mut node = Node::new(2, None, Limits::default());
    node.open(0, 0);
    let info = "INFO server\r\n";
    let input = info.repeat(3_000);
    let handled = node.give(0, 0, input.as_bytes());
    assert_eq!(handled.next, Next::Hold);
    assert!(node.calls_waiting(0, 0) <= CALLS_MAX);
    assert!(handled.consumed >= CALLS_MAX as usize * info.len());
    let answer = node.ask(0, 0, &input[handled.consumed..]);
    assert_eq!(answer.matches("# Server").count(), 3_000);
}

#[test]
fn who_leaves_with_calls_under_way_is_missed_by_nobody() {
    let mut node = Node::with_subscribers(2, 300);
    let unread = node.shards[0].outboxes.bytes();
    for conn in 0..40 {
        node.open(0, conn);
        node.give(0, conn, LIST.repeat(2).as_bytes());
    }
    node.end_turn(0);
    let batch = node.shards[0].take_batch(ShardId(1)).expect("rounds");
    for conn in 0..39 {
        node.handle(0, Input::Closed { conn: ConnId(conn) });
    }
    // Another client has its place when the answers come.
    node.open(0, 0);
    node.give(0, 0, LIST.as_bytes());
    node.deal_with(0, 1, batch);
    (0..200).for_each(|_| node.settle());
    for conn in [0, 39] {
        assert!(node.read(0, conn).contains("\nid="), "{conn}");
    }
    assert!(node.shards[0].calls.is_empty());
    assert_eq!(node.shards[0].outboxes.bytes(), unread);
}

#[test]
fn who_is_killed_reads_nothing_behind_a_call_that_is_not_answered() {
    let mut node = Node::new(2, None, Limits::default());
    (0..2).for_each(|conn| node.open(0, conn));
    node.give(0, 0, format!("PING\r\n{LIST}BOGUS\r\n").as_bytes());
    assert_eq!(node.calls_waiting(0, 0), 1);
    node.give(0, 1, b"CLIENT KILL ID 1\r\n");
    node.settle();
    assert_eq!(
        node.read(0, 0),
        "+PONG\r\n",
        "an error would be taken for the list"
    );
    assert_eq!(node.read(0, 1), ":1\r\n");
    assert_eq!(node.shards[0].counters().outbox_bytes, 0);
}

#[test]
fn replies_that_are_skipped_leave_no_gap() {
    let mut node = Node::new(2, None, Limits::default());
    node.open(0, 0);
    let skip = "CLIENT REPLY SKIP\r\n";
    let input = format!("{skip}CLIENT LIST\r\nPING 1\r\n{skip}INFO\r\nPING 2\r\n");
    assert_eq!(node.ask(0, 0, &input), "$1\r\n1\r\n$1\r\n2\r\n");
}

#[test]
fn names_come_in_parts_whatever_else_is_subscribed() {
    let mut node = Node::new(2, None, Limits::default());
    node.open(1, 0);
    let names: Vec<String> = (0..20_000).map(|name| format!("n{name}")).collect();
    node.ask(1, 0, &request("SUBSCRIBE", &names));
    node.ask(1, 0, &request("PSUBSCRIBE", &names[..100]));
    node.open(0, 0);
    let answer = node.ask(0, 0, "PUBSUB CHANNELS\r\n");
    let (head, rest) = answer.split_once("\r\n").expect("a head");
    assert_eq!(head, "*20000");
    let mut listed: Vec<&str> = rest.lines().filter(|line| line.starts_with('n')).collect();
    let mut expected: Vec<&str> = names.iter().map(String::as_str).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let answer = node.ask(0, 0, "PUBSUB CHANNELS n1999?\r\n");
    assert!(answer.starts_with("*10\r\n"), "{answer}");
    assert_eq!(
        node.shards[0].broker.filters().count(FilterKind::Topic),
        20_000
    );
}

#[test]
fn who_waited_long_for_their_turn_are_answered_where_there_is_room() {
    let mut node = Node::new(2, None, Limits::default());
    for conn in 0..100 {
        node.open(0, conn);
        node.give(0, conn, b"INFO server\r\n");
    }
    // Others were in front for longer than anyone waits for room.
    node.now.monotonic_ns += 2 * CALL_MS_MAX * 1_000_000;
    node.handle(0, Input::Tick);
    for _ in 0..20 {
        node.settle();
        node.handle(0, Input::Tick);
    }
    for conn in 0..100 {
        let answer = node.read(0, conn);
        assert!(answer.contains("# Server"), "{conn} is answered {answer}");
    }
    assert_eq!(node.shards[0].counters().calls_refused, 0);
}

#[test]
fn who_waits_for_fewer_calls_goes_on_when_the_others_leave() {
    let mut node = Node::new(2, None, Limits::default());
    let info = b"INFO server\r\n";
    for conn in 0..66 {
        node.open(0, conn);
        node.give(0, conn, &info.repeat(CALLS_MAX as usize));
    }
    node.open(0, 70);
    assert_eq!(
        node.give(0, 70, info).next,
        Next::Hold,
        "the shard has as many as it may"
    );
    for conn in 0..66 {
        node.handle(0, Input::Closed { conn: ConnId(conn) });
    }
    assert!(node.shards[0].is_turn_due());
    node.end_turn(0);
    assert_eq!(node.outputs[0].resumed, [ConnId(70)]);
    assert!(node.ask(0, 70, "INFO server\r\n").contains("# Server"));
}
