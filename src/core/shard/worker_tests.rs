//! Shards and state workers driven by hand: what workers are given, what they say, and who waits for them.

use super::*;
use crate::calls::Calls;
use crate::command::{Answer, Answers, CallError, CallId, Event, Extent, Query, Space, Written};
use crate::context::Stored;
use crate::limits::{
    CALLS_BEGUN_MAX, HANDOVER_BACKLOG_BYTES, STATE_ANSWER_BYTES_MAX, STATE_ANSWERS_BYTES,
};
use crate::session::native::NativeSession;
use crate::worker::{Asker, Heard, WorkerPort};
use sapwood_wire::native::{self, Hello, Parts, When};
use sapwood_wire::run::Head;

#[path = "worker_native_tests.rs"]
mod frames;
#[path = "worker_random_tests.rs"]
mod random;

/// Who asks is a native session, which keeps the answers for the test.
impl NativeSession {
    pub(crate) fn heard_by_test(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        if let Ok(round) = &answers
            && let [(worker, Answer::State { bytes, extent })] = &round[..]
            && *extent == Extent::More
        {
            cx.ask_on(call, vec![(*worker, Query::State(bytes.clone()))]);
        }
        self.heard.push((call, answers));
    }
}

/// What a worker took in: its events as text, or a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Took {
    Events {
        topic: String,
        reply: Option<String>,
        payloads: Vec<String>,
        is_acked: bool,
    },
    Asked(String),
}

/// Shards and workers.
struct Stateful {
    node: Node,
    ports: Vec<WorkerPort>,
    /// What each worker took in, and who waits for its answers.
    took: Vec<Vec<Took>>,
    askers: Vec<Vec<Asker>>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Events as a worker takes them in.
fn kept(topic: &str, payloads: &[&str]) -> Took {
    Took::Events {
        topic: topic.into(),
        reply: None,
        payloads: payloads.iter().map(|payload| payload.to_string()).collect(),
        is_acked: false,
    }
}

impl Stateful {
    fn new(shards: u16, workers: u16, limits: Limits) -> Stateful {
        let port = |worker| WorkerPort::new(worker, shards, &limits);
        Stateful {
            ports: (0..workers).map(port).collect(),
            took: vec![Vec::new(); usize::from(workers)],
            askers: vec![Vec::new(); usize::from(workers)],
            node: Node::make((shards, workers), None, limits, Capacity::default()),
        }
    }

    /// Each worker keeps the filters of its place.
    fn keeping(shards: u16, filters: &[&[&[u8]]], limits: Limits) -> Stateful {
        let mut all = Stateful::new(shards, filters.len() as u16, limits);
        for (port, filters) in all.ports.iter_mut().zip(filters) {
            let change = port.set_filters(filters, &[]);
            assert!(!port.is_known(change));
        }
        all.settle();
        assert!(all.ports.iter().all(|port| port.is_known(1)));
        all
    }

    fn peer(&self, worker: usize) -> ShardId {
        self.ports[worker].peer()
    }

    /// Takes in the batch that is ready for a worker, if there is one, and gives it back. Gives whether there was.
    fn take_in(&mut self, from: usize, worker: usize) -> bool {
        let peer = self.peer(worker);
        let Some(batch) = self.node.shards[from].take_batch(peer) else {
            return false;
        };
        let mut cursor = BatchCursor::default();
        let by = ShardId(from as u16);
        let reading = self.ports[worker].handle_batch(by, &batch, &mut cursor);
        for heard in reading {
            let took = match heard {
                Heard::Asked { asker, request, .. } => {
                    self.askers[worker].push(asker);
                    Took::Asked(text(request))
                }
                Heard::Events(kept) => {
                    self.askers[worker].extend(kept.ack);
                    let payloads: Vec<&[u8]> = kept.payloads().collect();
                    let bytes: usize = payloads.iter().map(|payload| payload.len()).sum();
                    assert_eq!(kept.volume.events, payloads.len() as u64);
                    assert_eq!(kept.volume.bytes, bytes as u64);
                    Took::Events {
                        topic: text(kept.topic),
                        reply: kept.reply().map(text),
                        payloads: payloads.into_iter().map(text).collect(),
                        is_acked: kept.ack.is_some(),
                    }
                }
            };
            self.took[worker].push(took);
        }
        self.node.handle(from, Input::Returned { by: peer, batch });
        true
    }

    /// Hands a shard what a worker says to it, and gives the batch back. Gives whether there was anything.
    fn hear(&mut self, worker: usize, to: usize) -> bool {
        let by = ShardId(to as u16);
        let Some(mut batch) = self.ports[worker].take_batch(by) else {
            return false;
        };
        let from = self.peer(worker);
        let mut cursor = BatchCursor::default();
        loop {
            let input = Input::Batch {
                from,
                batch: &mut batch,
                cursor: &mut cursor,
            };
            match self.node.handle(to, input).next {
                Next::Done => break,
                next => assert_eq!(next, Next::Flush, "there is room"),
            }
        }
        self.ports[worker].handle_returned(by, batch);
        true
    }

    /// Carries everything between shards and workers.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.node.settle();
            for (shard, worker) in self.pairs() {
                self.take_in(shard, worker);
                self.hear(worker, shard);
            }
        }
        self.node.settle();
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let shards = 0..self.node.shards.len();
        let workers = self.ports.len();
        let pairs = shards.flat_map(|shard| (0..workers).map(move |worker| (shard, worker)));
        pairs.collect()
    }

    /// What a worker took in since it was last asked.
    fn took(&mut self, worker: usize) -> Vec<Took> {
        std::mem::take(&mut self.took[worker])
    }

    /// Opens a connection and ends its opening.
    fn open(&mut self, protocol: Protocol, shard: usize, conn: u32) {
        self.node.open_by(protocol, shard, conn);
        match protocol {
            Protocol::Native => {
                let mut bytes = Vec::new();
                native::write_hello(&mut bytes, &Hello::default());
                self.node.give(shard, conn, &bytes);
            }
            Protocol::Nats => {
                let json = r#"{"verbose":false,"headers":true,"no_responders":true}"#;
                let connect = format!("CONNECT {json}\r\n");
                self.node.give(shard, conn, connect.as_bytes());
            }
            _ => {}
        }
        self.node.take(shard, conn);
    }

    /// Uses the verbs of a native connection's context, as its session would.
    fn with<T>(&mut self, shard: usize, conn: u32, verbs: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let (conn, now) = (ConnId(conn), self.node.now);
        let there = &mut self.node.shards[shard];
        let mut connection = there.connections.take(conn).expect("a connection");
        let (_, mut cx) = split(there, &mut connection, conn, now);
        let done = verbs(&mut cx);
        cx.settle();
        let is_held = connection.blocked.any();
        there.connections.put(conn, connection);
        there.run_calls(now, &mut self.node.outputs[shard]);
        if is_held {
            there.follow_held(conn);
        }
        done
    }

    /// The answers that a native connection has had, as text.
    fn heard(&mut self, shard: usize, conn: u32) -> Vec<(CallId, Result<String, CallError>)> {
        let connections = &mut self.node.shards[shard].connections;
        let connection = connections.get_mut(ConnId(conn)).expect("a connection");
        let Session::Native(session) = &mut connection.session else {
            panic!("no native connection");
        };
        let each = std::mem::take(&mut session.heard).into_iter();
        let each = each.map(|(call, answers)| {
            let bytes = answers.map(|answers| match &answers[..] {
                [(_, Answer::State { bytes, .. })] => text(bytes),
                other => panic!("{other:?}"),
            });
            (call, bytes)
        });
        each.collect()
    }

    fn answer(&mut self, worker: usize, asker: Asker, answer: &str, extent: Extent) {
        let bytes = Bytes::copy_from_slice(answer.as_bytes());
        self.ports[worker].answer(asker, bytes, extent);
    }

    fn calls(&self, shard: usize) -> &Calls {
        &self.node.shards[shard].calls
    }
}

impl Shard {
    /// Notes that a connection is held, as the end of its input does.
    fn follow_held(&mut self, conn: ConnId) {
        let connection = self.connections.get(conn).expect("a connection");
        if let Some(peer) = connection.blocked.room {
            self.stalled[peer.index()].push((conn, connection.client));
        }
    }
}

fn redis_publish(topic: &str, payload: &str) -> String {
    let words = ["PUBLISH", topic, payload];
    let words = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*3\r\n{}", words.concat())
}

fn native_message(topic: &str, payload: &str) -> Vec<u8> {
    let parts = Parts {
        topic: topic.as_bytes(),
        payload: payload.as_bytes(),
        ..Parts::default()
    };
    let (mut message, mut bytes) = (Vec::new(), Vec::new());
    parts.write(&mut message).expect("a legal message");
    native::write_message(&mut bytes, &message);
    bytes
}

#[test]
fn runs_of_all_protocols_arrive_as_runs_in_order() {
    for shards in [1, 2] {
        let mut all = Stateful::keeping(shards, &[&[b"t.*"]], Limits::default());
        for shard in 0..usize::from(shards) {
            all.open(Protocol::Redis, shard, 9);
            all.node.give(shard, 9, b"SUBSCRIBE t.a\r\n");
        }
        all.settle();
        let listeners = all.node.shards.len();
        (0..listeners).for_each(|shard| drop(all.node.take(shard, 9)));
        let numbers = |from: usize| [from, from + 1, from + 2].map(|number| number.to_string());
        all.open(Protocol::Redis, 0, 0);
        all.open(Protocol::Nats, 0, 1);
        all.open(Protocol::Native, 0, 2);
        let of_redis = numbers(10).map(|number| redis_publish("t.a", &number));
        all.node.give(0, 0, of_redis.concat().as_bytes());
        let of_nats = numbers(20).map(|number| format!("PUB t.a 2\r\n{number}\r\n"));
        all.node.give(0, 1, of_nats.concat().as_bytes());
        let of_native = numbers(30).map(|number| native_message("t.a", &number));
        all.node.give(0, 2, &of_native.concat());
        all.settle();
        let expected = [10, 20, 30].map(|from| {
            let payloads = numbers(from);
            kept("t.a", &[&payloads[0], &payloads[1], &payloads[2]])
        });
        assert_eq!(all.took(0), expected, "{shards} shards");
        assert_eq!(all.node.read(0, 0), format!(":{listeners}\r\n").repeat(3));
        for shard in 0..listeners {
            let live = all.node.read(shard, 9);
            assert_eq!(live.matches("message\r\n").count(), 9, "{live}");
        }
    }
}

#[test]
fn what_is_kept_counts_in_no_number_but_somebody_listens() {
    let mut all = Stateful::keeping(2, &[&[b"kept", b"all.>"]], Limits::default());
    all.open(Protocol::Redis, 0, 0);
    let asked = [
        ("PUBLISH kept 1\r\n", ":0\r\n"),
        ("PUBSUB NUMSUB kept\r\n", "*2\r\n$4\r\nkept\r\n:0\r\n"),
        ("PUBSUB NUMPAT\r\n", ":0\r\n"),
        ("PUBSUB CHANNELS\r\n", "*0\r\n"),
    ];
    for (request, reply) in asked {
        all.node.give(0, 0, request.as_bytes());
        all.settle();
        assert_eq!(all.node.read(0, 0), reply, "{request}");
    }
    assert_eq!(all.took(0), [kept("kept", &["1"])]);
    // A requester whose request is kept is not told that nobody listens.
    all.open(Protocol::Nats, 0, 1);
    all.node
        .give(0, 1, b"SUB _INBOX.> 1\r\nPUB all.x _INBOX.1 2\r\nhi\r\n");
    all.settle();
    all.node.give(
        0,
        1,
        b"PUB all.x _INBOX.1 2\r\nhi\r\nPUB other _INBOX.2 2\r\nhi\r\n",
    );
    all.settle();
    let read = all.node.read(0, 1);
    assert!(
        read.contains("_INBOX.2") && !read.contains("_INBOX.1"),
        "{read}"
    );
    assert!(all.took(0).contains(&Took::Events {
        topic: "all.x".into(),
        reply: Some("_INBOX.1".into()),
        payloads: vec!["hi".into()],
        is_acked: false,
    }));
    all.open(Protocol::Native, 0, 2);
    for (topic, reply) in [("all.x", 0), ("other", 1)] {
        let mut bytes = Vec::new();
        let message = native_message(topic, "hi");
        // The message of a MESSAGE frame stands behind its length and kind.
        native::write_publish(&mut bytes, 7, When::Unheard, &message[5..]);
        all.node.give(0, 2, &bytes);
        let replies = all.node.take(0, 2);
        assert_eq!(usize::from(!replies.is_empty()), reply, "{topic}");
    }
}

#[test]
fn names_with_a_dollar_are_not_kept_and_inboxes_where_named_alone() {
    let cases: [(&[u8], &[&str]); 4] = [
        (b">", &["a", "near", "to"]),
        (b"*.*", &[]),
        (b"_INBOX.>", &["_INBOX.x"]),
        (b"$SYS.>", &[]),
    ];
    for (filter, expected) in cases {
        let mut all = Stateful::keeping(2, &[&[filter]], Limits::default());
        all.open(Protocol::Redis, 0, 0);
        let names = [
            "a",
            "$SYS.x",
            "$KV.t.k",
            "$all",
            "_INBOX.x",
            "$near:near",
            "$to:*:to",
            "$trace:a",
            "$info",
        ];
        for name in names {
            all.node.give(0, 0, redis_publish(name, "1").as_bytes());
            all.settle();
        }
        let topics = all.took(0).into_iter().map(|took| match took {
            Took::Events { topic, .. } => topic,
            asked => panic!("{asked:?}"),
        });
        assert_eq!(topics.collect::<Vec<_>>(), expected, "{}", text(filter));
    }
}

#[test]
fn a_filter_is_known_once_all_shards_hand_over_its_events() {
    let mut all = Stateful::new(2, 1, Limits::default());
    all.open(Protocol::Redis, 1, 0);
    let added = all.ports[0].set_filters(&[b"t"], &[]);
    assert!(all.hear(0, 0), "shard 0 is told");
    assert!(all.take_in(0, 0), "and acknowledges");
    assert!(!all.ports[0].is_known(added), "shard 1 does not know");
    all.node.give(1, 0, redis_publish("t", "before").as_bytes());
    assert!(all.hear(0, 1) && all.take_in(1, 0));
    assert!(all.ports[0].is_known(added));
    all.node.give(1, 0, redis_publish("t", "kept").as_bytes());
    let removed = all.ports[0].set_filters(&[], &[b"t"]);
    assert!(all.hear(0, 1));
    all.node.give(1, 0, redis_publish("t", "after").as_bytes());
    all.settle();
    assert!(all.ports[0].is_known(removed));
    assert_eq!(all.took(0), [kept("t", &["kept"])]);
    assert_eq!(all.node.shards[0].counters().filters, 0);
    assert!(all.ports[0].is_idle() && all.node.shards.iter().all(Shard::is_settled));
}

#[test]
fn a_full_worker_stalls_those_who_publish_what_it_keeps_alone() {
    let limits = Limits {
        handover_backlog_bytes: 1_000,
        ..Limits::default()
    };
    let mut all = Stateful::keeping(2, &[&[b"slow"], &[b"quick"]], limits);
    all.open(Protocol::Redis, 1, 9);
    all.node.give(1, 9, b"SUBSCRIBE slow live\r\n");
    all.settle();
    all.node.take(1, 9);
    (0..4).for_each(|conn| all.open(Protocol::Redis, 0, conn));
    let long = "x".repeat(1_000);
    let slow = redis_publish("slow", &long);
    assert_ne!(all.node.give(0, 0, slow.as_bytes()).next, Next::Hold);
    all.node.end_turn(0);
    all.node.carry(0, 1);
    // Both mailboxes had the event; only the worker did not take its batch.
    for conn in [0, 1] {
        let handled = all.node.give(0, conn, slow.as_bytes());
        assert_eq!((handled.consumed, handled.next), (0, Next::Hold), "{conn}");
    }
    for (conn, topic) in [(2, "quick"), (3, "live"), (2, "nobody"), (3, "live")] {
        let publish = redis_publish(topic, "1");
        let handled = all.node.give(0, conn, publish.as_bytes());
        assert_eq!(handled.consumed, publish.len(), "{topic}");
        assert_ne!(handled.next, Next::Hold, "{topic}");
        all.node.end_turn(0);
    }
    assert_eq!(all.node.outputs[0].resumed, []);
    assert!(all.take_in(0, 0));
    all.node.end_turn(0);
    assert_eq!(all.node.outputs[0].resumed, [ConnId(0), ConnId(1)]);
    for conn in [0, 1] {
        all.node.give(0, conn, slow.as_bytes());
        all.settle();
    }
    assert_eq!(all.took(0), vec![kept("slow", &[&long]); 3]);
    assert_eq!(all.took(1), [kept("quick", &["1"])]);
    let live = all.node.read(1, 9);
    assert_eq!(live.matches("message\r\n").count(), 5, "{live}");
    assert_eq!(all.node.shards[0].counters().events_not_stored, 0);
}

#[test]
fn a_worker_sees_what_a_connection_did_in_its_order_and_answers_it() {
    let mut all = Stateful::keeping(2, &[&[b"t"]], Limits::default());
    let worker = all.peer(0);
    all.open(Protocol::Native, 0, 0);
    let publish = |payload| Event::plain(Space::Topic, b"t", payload);
    let calls: Vec<CallId> = [&b"one"[..], b"two"]
        .map(|request| {
            all.with(0, 0, |cx| {
                assert_eq!(cx.publish(publish(b"before")), Some(0));
                let request = Bytes::from_static(request);
                cx.ask_state(worker, request, Written::Short)
            })
        })
        .map(|call| call.expect("room for a call"))
        .into();
    let stored = all.with(0, 0, |cx| cx.publish_stored(publish(b"stored")));
    let Stored::Asked(last, 0) = stored else {
        panic!("{stored:?}");
    };
    all.settle();
    let asked = |request: &str| Took::Asked(request.into());
    let mut acked = kept("t", &["stored"]);
    if let Took::Events { is_acked, .. } = &mut acked {
        *is_acked = true;
    }
    let before = kept("t", &["before"]);
    let expected = [before.clone(), asked("one"), before, asked("two"), acked];
    assert_eq!(all.took(0), expected);
    // They may be answered in any order.
    let askers = std::mem::take(&mut all.askers[0]);
    for (asker, answer) in askers.iter().zip(["1", "2", "3"]).rev() {
        all.answer(0, *asker, answer, Extent::Done);
    }
    all.settle();
    let done = |call: CallId, answer: &str| (call, Ok(answer.to_string()));
    let expected = [done(last, "3"), done(calls[1], "2"), done(calls[0], "1")];
    assert_eq!(all.heard(0, 0), expected);
    assert!(all.calls(0).is_empty());
}

#[test]
fn an_answer_comes_in_parts_as_its_asker_asks_on() {
    let mut all = Stateful::keeping(1, &[&[]], Limits::default());
    let worker = all.peer(0);
    all.open(Protocol::Native, 0, 0);
    for written in [Written::Short, Written::Streamed] {
        let call = all.with(0, 0, |cx| {
            cx.ask_state(worker, Bytes::from_static(b"from 0"), written)
        });
        let call = call.expect("room for a call");
        for (from, extent) in [(1, Extent::More), (2, Extent::More), (3, Extent::Done)] {
            all.settle();
            assert_eq!(all.took(0), [Took::Asked(format!("from {}", from - 1))]);
            let asker = all.askers[0].pop().expect("somebody asks");
            assert_eq!(asker.call, call);
            all.answer(0, asker, &format!("from {from}"), extent);
        }
        all.settle();
        let answers = all.heard(0, 0);
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[2], (call, Ok("from 3".to_string())));
        assert!(all.calls(0).is_empty() && all.took(0).is_empty());
    }
}

#[test]
fn many_wait_for_workers_and_no_call_to_shards_waits_for_them() {
    let mut all = Stateful::keeping(2, &[&[]], Limits::default());
    let worker = all.peer(0);
    let count = 500;
    for conn in 0..count {
        all.open(Protocol::Native, 0, conn);
        // Half of them read, part by part.
        let written = match conn % 2 {
            0 => Written::Short,
            _ => Written::Streamed,
        };
        let asked = all.with(0, conn, |cx| {
            cx.ask_state(worker, Bytes::from_static(b"?"), written)
        });
        assert!(asked.is_some());
    }
    all.settle();
    let begun = all.took(0).len();
    assert!(begun >= count as usize / 2 + CALLS_BEGUN_MAX, "{begun}");
    assert!(begun < count as usize, "readers take turns");
    all.open(Protocol::Redis, 0, count);
    all.node.give(0, count, b"INFO server\r\n");
    all.settle();
    assert!(all.node.read(0, count).contains("# Server"));
    for _ in 0..count {
        if all.calls(0).is_empty() {
            break;
        }
        for asker in std::mem::take(&mut all.askers[0]) {
            all.answer(0, asker, "!", Extent::Done);
        }
        all.settle();
    }
    assert!(all.calls(0).is_empty());
    for conn in 0..count {
        assert_eq!(all.heard(0, conn).len(), 1, "{conn}");
    }
}

#[test]
fn bytes_of_requests_take_room_like_events() {
    let mut all = Stateful::keeping(1, &[&[b"t"], &[]], Limits::default());
    let (worker, other) = (all.peer(0), all.peer(1));
    let request = Bytes::from(vec![b'r'; HANDOVER_BACKLOG_BYTES]);
    for conn in 0..4 {
        all.open(Protocol::Native, 0, conn);
    }
    let ask = |all: &mut Stateful, conn, worker| {
        let request = request.clone();
        let call = all.with(0, conn, |cx| cx.ask_state(worker, request, Written::Short));
        call.is_some()
    };
    assert!(ask(&mut all, 0, worker));
    assert!(!ask(&mut all, 1, worker), "the first fills the mailbox");
    let event = Event::plain(Space::Topic, b"t", b"");
    assert_eq!(all.with(0, 2, |cx| cx.publish(event)), None);
    assert_eq!(all.with(0, 3, |cx| cx.publish_stored(event)), Stored::Held);
    assert_eq!(all.calls(0).len(), 1, "who is held has no call");
    all.open(Protocol::Native, 0, 5);
    assert!(ask(&mut all, 5, other), "another worker has room");
    all.node.outputs[0].resumed.clear();
    assert!(all.take_in(0, 0));
    all.node.end_turn(0);
    let expected = [1, 2, 3].map(ConnId);
    assert_eq!(all.node.outputs[0].resumed, expected);
    assert!(ask(&mut all, 1, worker));
}

#[test]
fn what_no_stream_keeps_is_not_published_as_stored() {
    let mut all = Stateful::keeping(2, &[&[b"t.>"]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    all.open(Protocol::Redis, 0, 1);
    all.node.give(0, 1, b"PSUBSCRIBE *\r\n");
    all.settle();
    all.node.take(0, 1);
    for name in ["other", "$SYS.t", "$to:*:t.a", "$all", "_INBOX.t"] {
        let event = Event::plain(Space::Topic, name.as_bytes(), b"1");
        let stored = all.with(0, 0, |cx| cx.publish_stored(event));
        assert_eq!(stored, Stored::NoStream, "{name}");
    }
    let event = Event::plain(Space::ShardChannel, b"t.a", b"1");
    let stored = all.with(0, 0, |cx| cx.publish_stored(event));
    assert_eq!(stored, Stored::NoStream, "shard channels are no topics");
    all.settle();
    assert_eq!((all.took(0), all.node.read(0, 1)), (vec![], String::new()));
    assert!(all.calls(0).is_empty());
}

#[test]
fn a_run_that_is_to_be_stored_is_one_call_and_one_record() {
    let mut all = Stateful::keeping(2, &[&[b"t"]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    all.open(Protocol::Redis, 1, 1);
    all.node.give(1, 1, b"SUBSCRIBE t\r\n");
    all.settle();
    all.node.take(1, 1);
    let input = ["a", "b", "c"].map(|payload| native_message("t", payload));
    let input = input.concat();
    let head = Head::of_native(&input).expect("a run");
    let run = all.with(0, 0, |cx| cx.publish_stored_run(&head, &input, usize::MAX));
    let (run, call) = run.expect("it is kept");
    assert_eq!((run.bytes, run.volume.events), (input.len(), 3));
    all.settle();
    let mut expected = kept("t", &["a", "b", "c"]);
    if let Took::Events { is_acked, .. } = &mut expected {
        *is_acked = true;
    }
    assert_eq!(all.took(0), [expected]);
    assert_eq!(all.node.read(1, 1).matches("message\r\n").count(), 3);
    let asker = all.askers[0].pop().expect("one waits");
    assert!(all.askers[0].is_empty());
    all.answer(0, asker, "1 to 3", Extent::Done);
    all.settle();
    assert_eq!(all.heard(0, 0), [(call, Ok("1 to 3".to_string()))]);
    // What is no run, because a group takes turns, leaves nothing behind.
    all.open(Protocol::Nats, 1, 2);
    all.node.give(1, 2, b"SUB t g 1\r\n");
    all.settle();
    let run = all.with(0, 0, |cx| cx.publish_stored_run(&head, &input, usize::MAX));
    assert!(run.is_none());
    let event = Event::plain(Space::Topic, b"t", b"d");
    let stored = all.with(0, 0, |cx| cx.publish_stored(event));
    assert!(matches!(stored, Stored::Asked(_, 2)), "{stored:?}");
    all.settle();
    assert_eq!(all.took(0).len(), 1);
    assert_eq!(all.askers[0].len(), 1);
}

#[test]
fn what_a_worker_publishes_reaches_everybody_and_no_worker_keeps_it() {
    for by in [0, 1] {
        let mut all = Stateful::keeping(2, &[&[b"t"], &[b"acks.>"]], Limits::default());
        for shard in [0, 1] {
            all.open(Protocol::Redis, shard, 0);
            all.node.give(shard, 0, b"SUBSCRIBE acks.1\r\n");
        }
        all.settle();
        for shard in [0, 1] {
            all.node.take(shard, 0);
        }
        for payload in [&b"first"[..], b"second"] {
            assert!(all.ports[0].may_publish(ShardId(by)));
            let event = Event::plain(Space::Topic, b"acks.1", payload);
            all.ports[0].publish(ShardId(by), event);
        }
        all.settle();
        for shard in [0, 1] {
            let read = all.node.read(shard, 0);
            let (first, second) = read.split_once("first").expect("the first");
            assert!(
                !first.contains("second") && second.contains("second"),
                "{read}"
            );
        }
        assert_eq!((all.took(0), all.took(1)), (vec![], vec![]));
    }
}

#[test]
fn a_shard_hears_workers_only_while_other_shards_have_room() {
    let limits = Limits {
        handover_backlog_bytes: 1_000,
        ..Limits::default()
    };
    let mut all = Stateful::keeping(2, &[&[]], limits);
    all.open(Protocol::Redis, 1, 0);
    all.node.give(1, 0, b"SUBSCRIBE t\r\n");
    all.settle();
    all.node.take(1, 0);
    let long = [b'x'; 1_000];
    for payload in [&long[..], b"last"] {
        all.ports[0].publish(ShardId(0), Event::plain(Space::Topic, b"t", payload));
    }
    let mut batch = all.ports[0].take_batch(ShardId(0)).expect("two events");
    let mut cursor = BatchCursor::default();
    let from = all.peer(0);
    for (is_heard, next) in [(true, Next::Hold), (false, Next::Hold), (true, Next::Done)] {
        assert_eq!(all.node.shards[0].hears_workers(), is_heard);
        let input = Input::Batch {
            from,
            batch: &mut batch,
            cursor: &mut cursor,
        };
        assert_eq!(all.node.handle(0, input).next, next);
        if !is_heard {
            // A driver would not have offered it. The other shard handles what it was sent.
            all.node.carry(0, 1);
        }
    }
    all.ports[0].handle_returned(ShardId(0), batch);
    all.settle();
    let read = all.node.read(1, 0);
    assert_eq!(read.matches("message\r\n").count(), 2, "each once");
    assert!(read.ends_with("last\r\n"));
}

#[test]
fn whoever_waits_for_a_worker_that_is_gone_is_told_and_goes_on() {
    let limits = Limits {
        handover_backlog_bytes: 1_000,
        ..Limits::default()
    };
    let mut all = Stateful::keeping(2, &[&[b"t"], &[]], limits);
    let (worker, other) = (all.peer(0), all.peer(1));
    (0..5).for_each(|conn| all.open(Protocol::Native, 0, conn));
    all.open(Protocol::Redis, 1, 9);
    all.node.give(1, 9, b"SUBSCRIBE t\r\n");
    all.settle();
    all.node.take(1, 9);
    let event = |payload| Event::plain(Space::Topic, b"t", payload);
    let ask = |cx: &mut Context<'_>, worker, written| {
        cx.ask_state(worker, Bytes::from_static(b"?"), written)
            .expect("room")
    };
    let short = all.with(0, 0, |cx| ask(cx, worker, Written::Short));
    let read = all.with(0, 1, |cx| ask(cx, worker, Written::Streamed));
    let elsewhere = all.with(0, 2, |cx| ask(cx, other, Written::Short));
    all.node.end_turn(0);
    let batch = all.node.shards[0].take_batch(worker).expect("the requests");
    let long = [b'x'; 1_000];
    assert_eq!(all.with(0, 3, |cx| cx.publish(event(&long))), Some(1));
    all.node.carry(0, 1);
    assert_eq!(all.with(0, 3, |cx| cx.publish(event(&long))), None);
    for shard in [0, 1] {
        all.node.handle(shard, Input::WorkerGone { worker });
    }
    assert_eq!(all.heard(0, 0), [(short, Err(CallError::Unknown))]);
    assert_eq!(all.heard(0, 1), [(read, Err(CallError::Unknown))]);
    all.node.outputs[0].resumed.clear();
    all.node.end_turn(0);
    assert_eq!(all.node.outputs[0].resumed, [ConnId(3)]);
    // What comes late is of no account.
    all.node.handle(0, Input::Returned { by: worker, batch });
    for _ in 0..5 {
        assert_eq!(all.with(0, 3, |cx| cx.publish(event(&long))), Some(1));
        all.node.settle();
        // A driver asks each turn.
        assert!(!all.take_in(0, 0));
    }
    let stored = all.with(0, 3, |cx| cx.publish_stored(event(b"last")));
    let Stored::Asked(call, 1) = stored else {
        panic!("{stored:?}");
    };
    assert_eq!(all.heard(0, 3), [(call, Err(CallError::NoWorker))]);
    for written in [Written::Short, Written::Streamed] {
        let call = all.with(0, 4, |cx| ask(cx, worker, written));
        assert_eq!(all.heard(0, 4), [(call, Err(CallError::NoWorker))]);
    }
    all.node.settle();
    assert!(!all.take_in(0, 0));
    assert_eq!(all.node.read(1, 9).matches("message\r\n").count(), 7);
    assert_eq!(all.node.shards[0].counters().events_not_stored, 7);
    assert_eq!(all.calls(0).len(), 1, "the other worker's");
    let asker = {
        assert!(all.take_in(0, 1));
        all.askers[1].pop().expect("it was asked")
    };
    all.answer(1, asker, "!", Extent::Done);
    assert!(all.hear(1, 0));
    assert_eq!(all.heard(0, 2), [(elsewhere, Ok("!".to_string()))]);
    assert!(all.node.shards[0].is_settled());
}

#[test]
fn answers_to_who_left_are_dropped() {
    let mut all = Stateful::keeping(1, &[&[b"t"]], Limits::default());
    let worker = all.peer(0);
    all.open(Protocol::Native, 0, 0);
    let event = Event::plain(Space::Topic, b"t", b"1");
    let call = all.with(0, 0, |cx| {
        assert!(matches!(cx.publish_stored(event), Stored::Asked(..)));
        cx.ask_state(worker, Bytes::from_static(b"?"), Written::Streamed)
    });
    assert!(call.is_some());
    all.settle();
    all.node.handle(0, Input::Closed { conn: ConnId(0) });
    all.open(Protocol::Native, 0, 0);
    for asker in std::mem::take(&mut all.askers[0]) {
        all.answer(0, asker, "!", Extent::More);
    }
    all.settle();
    assert_eq!(all.heard(0, 0), []);
    assert!(all.node.shards[0].is_settled() && all.ports[0].is_idle());
}

#[test]
fn reads_wait_while_a_shard_does_not_take_the_answers() {
    let mut all = Stateful::keeping(1, &[&[]], Limits::default());
    let worker = all.peer(0);
    let count = 40;
    for conn in 0..count {
        all.open(Protocol::Native, 0, conn);
        let request = Bytes::from_static(b"?");
        all.with(0, conn, |cx| cx.ask_state(worker, request, Written::Short));
    }
    assert!(all.take_in(0, 0));
    let page = "x".repeat(STATE_ANSWER_BYTES_MAX);
    let askers = std::mem::take(&mut all.askers[0]);
    let may_read = |all: &Stateful| all.ports[0].may_read(ShardId(0));
    let mut answered = 0;
    while may_read(&all) {
        all.answer(0, askers[answered], &page, Extent::Done);
        answered += 1;
    }
    assert_eq!(answered, STATE_ANSWERS_BYTES / STATE_ANSWER_BYTES_MAX);
    let mut batch = all.ports[0].take_batch(ShardId(0)).expect("answers");
    assert!(!may_read(&all), "they are on their way");
    let input = Input::Batch {
        from: worker,
        batch: &mut batch,
        cursor: &mut BatchCursor::default(),
    };
    all.node.handle(0, input);
    all.ports[0].handle_returned(ShardId(0), batch);
    assert!(may_read(&all));
    assert_eq!(all.heard(0, 0).len(), 1);
}

#[test]
fn who_published_on_another_node_hears_that_it_is_not_stored() {
    let mut all = Stateful::keeping(2, &[&[b">", b"_INBOX.>"]], Limits::default());
    all.open(Protocol::Redis, 1, 0);
    all.node.give(1, 0, b"SUBSCRIBE _INBOX.1\r\n");
    all.settle();
    all.node.take(1, 0);
    let parts = Parts {
        reply: Some(b"_INBOX.1"),
        ..Parts::default()
    };
    let mut attributes = Vec::new();
    let flags = parts.write_attributes(&mut attributes).expect("attributes");
    let event = Event {
        flags,
        attributes: &attributes,
        ..Event::plain(Space::Topic, b"t", b"1")
    };
    all.node.shards[0].delivery.note_not_stored(&event);
    all.settle();
    let read = all.node.read(1, 0);
    assert!(read.contains("\"err_code\":10023"), "{read}");
    assert_eq!(all.took(0), [], "what the broker says is not kept");
}

#[test]
fn every_partition_has_a_worker_where_there_is_one() {
    let mut all = Stateful::new(2, 3, Limits::default());
    all.open(Protocol::Native, 0, 0);
    let workers = [0, 1, 5, 255].map(|partition| all.with(0, 0, |cx| cx.worker_of(partition)));
    assert_eq!(workers, [2, 3, 4, 2].map(|peer| Some(ShardId(peer))));
    let mut none = Stateful::new(2, 0, Limits::default());
    none.open(Protocol::Native, 0, 0);
    assert_eq!(none.with(0, 0, |cx| cx.worker_of(0)), None);
    assert!(!none.node.shards[0].hears_workers());
}
