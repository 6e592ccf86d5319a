//! Server-sent events, as a browser's `EventSource` reads them.

use serde_json::{Value as Json, json};

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::common::resp::RawClient;
use super::nats::NatsClient;
use super::web::{Answer, Asked, Events, Http, ask, request};

fn publish(broker: &Broker, topic: &str, payload: &[u8]) {
    let line = format!("POST /v1/topics/{topic}");
    assert_eq!(ask(broker.http_port(), &line, &[], payload).status, 200);
}

#[test]
fn the_stream_is_what_event_source_reads() {
    let broker = Broker::start(1, &[]);
    let mut events = Events::open(
        broker.http_port(),
        "/v1/topics/news.*",
        &["Accept: text/event-stream"],
    );
    let head = events.head.clone();
    assert!(
        matches!(head.header("Cache-Control"), Some(value) if value.contains("no-cache") || value.contains("no-store")),
        "what is kept on the way is no event: {head:?}"
    );
    assert_eq!(head.header("Content-Length"), None);
    publish(&broker, "news.today", b"it works");
    let fields = events.fields().expect("an event");
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "data"]);
    assert_eq!(fields[1].1, r#"{"topic":"news.today","data":"it works"}"#);
    assert!(fields[0].1.parse::<u64>().is_ok(), "{fields:?}");
}

/// The head of a stream's answer, and the connection behind it.
fn begun(port: u16) -> (Answer, Http) {
    let mut http = Http::dial(port);
    http.send(request(port, "GET /v1/topics/a", &[], b""));
    let head = http.try_head().unwrap().expect("an answer");
    (head, http)
}

#[test]
fn each_event_is_a_chunk_that_comes_at_once() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let (head, mut http) = begun(broker.http_port());
        assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
        assert_eq!(head.header("Content-Length"), None);
        let mut chunk = || http.try_chunk().unwrap().expect("the stream goes on");
        // A client that shows an answer only with the first byte of its body has that at once.
        assert_eq!(chunk(), b":\n\n");
        let long = "x".repeat(3_000_000);
        // Alone, as a run, longer than what is stored once for all, and escaped to twice its length.
        let mut payloads: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        payloads.extend(["".to_string(), "x".repeat(20_000), long, "\n".repeat(5_000)]);
        let mut publisher = NativeClient::connect(broker.native_port());
        publisher.publish(&Event::new("a", "alone"));
        assert!(chunk().ends_with(b"\"data\":\"alone\"}\n\n"));
        for payload in &payloads {
            publisher.publish(&Event::new("a", payload.clone()));
        }
        for payload in &payloads {
            let chunk = String::from_utf8(chunk()).unwrap();
            let data = chunk.strip_prefix("id: ").expect("an id first");
            let (id, data) = data.split_once("\ndata: ").expect("then the data");
            assert!(id.parse::<u64>().is_ok(), "{id}");
            let data = data.strip_suffix("\n\n").expect("a whole event");
            let data: Json = serde_json::from_str(data).unwrap();
            assert_eq!(data, json!({"topic": "a", "data": payload}));
        }
    }
}

#[test]
fn clients_of_http_1_0_get_the_same_events_without_chunks() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let port = broker.http_port();
        let away = ["Last-Event-ID: 7"];
        let mut streams: Vec<Events> = (0..4)
            .flat_map(|_| {
                let new = Events::open(port, "/v1/topics/a", &away);
                [new, Events::open_old(port, "/v1/topics/a", &away)]
            })
            .collect();
        let mut publisher = NativeClient::connect(broker.native_port());
        for number in 0..100 {
            publisher.publish(&Event::new(
                "a",
                format!("{number}{}", "x".repeat(300 * number)),
            ));
        }
        for (place, events) in streams.iter_mut().enumerate() {
            let coding = events.head.header("Transfer-Encoding");
            assert_eq!(coding.is_none(), place % 2 == 1, "{:?}", events.head);
            let gap = events.fields().expect("a gap");
            assert_eq!(gap[0].1, "gap");
        }
        for number in 0..100 {
            let text = format!("{number}{}", "x".repeat(300 * number));
            for events in &mut streams {
                assert_eq!(events.data(), json!({"topic": "a", "data": text}));
            }
        }
    }
}

#[test]
fn a_connection_may_speak_both_versions() {
    // A stream that is refused leaves the connection as it was, whatever version asks next.
    let broker = Broker::start(1, &[]);
    let mut http = Http::dial(broker.http_port());
    let refused = "GET /v1/topics/a.>.b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    http.send(refused);
    assert_eq!(http.answer().status, 400);
    http.send(request(broker.http_port(), "GET /v1/topics/a", &[], b""));
    let head = http.try_head().unwrap().expect("an answer");
    assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
    publish(&broker, "a", b"x");
    assert_eq!(http.try_chunk().unwrap().unwrap(), b":\n\n");
    let event = http.try_chunk().unwrap().unwrap();
    assert!(event.starts_with(b"id: ") && event.ends_with(b"\"x\"}\n\n"));
}

#[test]
fn a_stream_is_whole_when_the_broker_ends() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut streams: Vec<Http> = (0..4).map(|_| begun(broker.http_port()).1).collect();
        let mut old = Events::open_old(broker.http_port(), "/v1/topics/a", &[]);
        publish(&broker, "a", b"last");
        super::load::signal(&broker, rustix::process::Signal::TERM);
        for http in &mut streams {
            let chunks = std::iter::from_fn(|| http.try_chunk().unwrap()).take(3);
            let chunks: Vec<Vec<u8>> = chunks.collect();
            assert_eq!((chunks.len(), chunks[2].len()), (3, 0), "{chunks:?}");
            assert!(chunks[1].ends_with(b"\"last\"}\n\n"));
            http.expect_close();
        }
        assert_eq!(old.data()["data"], "last");
        assert_eq!(old.fields(), None);
    }
}

#[test]
fn ids_grow_also_from_stream_to_stream() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut last = 0;
        for round in 0..3 {
            let mut events = Events::open(broker.http_port(), "/v1/topics/n", &[]);
            let mut publisher = NativeClient::connect(broker.native_port());
            for number in 0..1_000u32 {
                publisher.publish(&Event::new("n", number.to_string()));
            }
            for number in 0..1_000u32 {
                let (id, data) = events.event();
                assert_eq!(data, json!({"topic": "n", "data": number.to_string()}));
                assert!(
                    number == 0 && round > 0 || id > last,
                    "{id:?} behind {last:?}"
                );
                last = id;
            }
        }
    }
}

/// A payload, and how it is written.
fn payloads() -> Vec<(Vec<u8>, Json)> {
    let text = |text: &str| {
        (
            text.as_bytes().to_vec(),
            json!({"topic": "p", "data": text}),
        )
    };
    let binary =
        |bytes: &[u8], base64: &str| (bytes.to_vec(), json!({"topic": "p", "data_b64": base64}));
    vec![
        text("plain"),
        text("quote \" backslash \\ slash /"),
        text("tab \t, LF \n, CR \r, CR LF \r\n, and two\n\n"),
        text("\ndata: {}\n\n: comment"),
        text("κόσμε 👍 \u{2028} \u{feff}"),
        text("</script>"),
        text("~ "),
        binary(b"\0", "AA=="),
        binary(b"a\x1f", "YR8="),
        binary(b"\x1b[0m", "G1swbQ=="),
        binary(b"\x08", "CA=="),
        binary(b"\x0b\x0c", "Cww="),
        binary(b"\xff\xfe\xfd", "//79"),
        binary(b"\xc3", "ww=="),
        binary(b"ab\xed\xa0\x80", "YWLtoIA="),
        binary(b"\xfb\xef\xbe", "++++"),
    ]
}

#[test]
fn payloads_are_text_where_they_can_be_and_base64_where_not() {
    let broker = Broker::start(1, &[]);
    let mut events = Events::open(broker.http_port(), "/v1/topics/p", &[]);
    for (payload, expected) in payloads() {
        publish(&broker, "p", &payload);
        assert_eq!(events.data(), expected);
    }
    // An empty one has neither or an empty text.
    publish(&broker, "p", b"");
    let data = events.data();
    assert!(
        data == json!({"topic": "p", "data": ""}) || data == json!({"topic": "p"}),
        "{data}"
    );
    let long = "x".repeat(3_000_000);
    publish(&broker, "p", long.as_bytes());
    assert_eq!(events.data()["data"], long);
}

#[test]
fn an_event_has_its_reply_headers_and_end_mark() {
    let broker = Broker::start(1, &[]);
    let mut events = Events::open(broker.http_port(), "/v1/topics/a", &[]);
    let mut native = NativeClient::connect(broker.native_port());
    let event = Event {
        reply: Some(b"back.1".to_vec()),
        headers: vec![
            (b"trace".to_vec(), b"7".to_vec()),
            (b"trace".to_vec(), "é \"8\"".as_bytes().to_vec()),
        ],
        is_end: true,
        ..Event::new("a", "x")
    };
    native.publish(&event);
    let expected = json!({
        "topic": "a",
        "data": "x",
        "reply": "back.1",
        "headers": [["trace", "7"], ["trace", "é \"8\""]],
        "last": true,
    });
    assert_eq!(events.data(), expected);
}

/// What is asked for, topics that come, and topics that do not.
const FILTERS: &[(&str, &[&str], &[&str])] = &[
    ("/v1/topics/a", &["a"], &["b", "a.b", "A"]),
    ("/v1/topics/a.*", &["a.b", "a."], &["a", "a.b.c"]),
    ("/v1/topics/a.%3E", &["a.b", "a.b.c"], &["a", "b.a"]),
    ("/v1/topics/a.>", &["a.b", "a.b.c"], &["a"]),
    ("/v1/topics/>", &["a", "b.c"], &[]),
    ("/v1/topics/*.b", &["a.b", "x.b"], &["a.b.c", "b"]),
    ("/v1/topics/a?topic=b&topic=c", &["a", "b", "c"], &["d"]),
    ("/v1/topics?topic=a", &["a"], &["b"]),
    ("/v1/topics?topic=a&topic=b.*", &["a", "b.c"], &["b"]),
    ("/v1/topics?topic=x%2Fy%26z", &["x/y&z"], &["x", "z"]),
    ("/v1/topics/x/y", &["x/y"], &["x"]),
    ("/v1/topics/a?topic=a&topic=*", &["a", "b"], &["a.b"]),
    ("/v1/topics?topic=caf%C3%A9", &["café"], &["cafe"]),
    // What is no `topic` is left out of account, wherever it stands.
    ("/v1/topics/a?_=1", &["a"], &["_", "1"]),
    ("/v1/topics?_&topic=a&&other=b&Topic=c", &["a"], &["b", "c"]),
    (
        "/v1/topics?topic=a&lastEventId=&topic=b",
        &["a", "b"],
        &["lastEventId"],
    ),
];

#[test]
fn several_topics_and_wildcards_come_in_one_stream_and_each_event_once() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut redis = RawClient::connect(broker.port());
        let mut nats = NatsClient::connect(broker.nats_port());
        let mut native = NativeClient::connect(broker.native_port());
        for (target, heard, unheard) in FILTERS {
            let mut events = Events::open(broker.http_port(), target, &[]);
            // Those that should not come are published first: they would stand before the others.
            for (place, topic) in unheard.iter().chain(*heard).enumerate() {
                match place % 3 {
                    0 => drop(redis.call(&["PUBLISH", topic, "x"])),
                    1 if *topic != "a." => {
                        nats.publish(topic, "x");
                        nats.sync();
                    }
                    _ => drop(native.publish_counted(&Event::new(topic, "x"))),
                }
            }
            let mut came: Vec<String> = heard
                .iter()
                .map(|_| events.data()["topic"].as_str().unwrap().to_string())
                .collect();
            came.sort();
            let mut expected = heard.to_vec();
            expected.sort_unstable();
            assert_eq!(came, expected, "{target}");
            events.wire().hears_nothing();
        }
    }
}

#[test]
fn events_of_all_protocols_come_to_a_stream_on_any_shard() {
    let broker = Broker::start(2, &[]);
    let mut streams: Vec<Events> = (0..8)
        .map(|_| Events::open(broker.http_port(), "/v1/topics/room", &[]))
        .collect();
    let mut redis = RawClient::connect(broker.port());
    let count = redis.call(&["PUBLISH", "room", "from redis"]);
    assert_eq!(count, super::common::resp::Value::Integer(8));
    let mut nats = NatsClient::connect(broker.nats_port());
    nats.send("HPUB room back 23 32\r\nNATS/1.0\r\nColour: b\r\n\r\nfrom nats\r\n");
    nats.sync();
    publish(&broker, "room", b"from HTTP");
    for events in &mut streams {
        let mut came = [events.data(), events.data(), events.data()];
        came.sort_by_key(|data| data["data"].to_string());
        assert_eq!(
            came,
            [
                json!({"topic": "room", "data": "from HTTP"}),
                json!({"topic": "room", "data": "from nats", "reply": "back", "headers": [["Colour", "b"]]}),
                json!({"topic": "room", "data": "from redis"}),
            ]
        );
    }
}

#[test]
fn who_comes_back_is_told_that_events_may_be_missing() {
    let broker = Broker::start(1, &[]);
    for id in ["1853284-0", "0-0", "abc"] {
        let header = format!("Last-Event-ID: {id}");
        let mut events = Events::open(broker.http_port(), "/v1/topics/a", &[&header]);
        let fields = events.fields().expect("a gap");
        let field = |name: &str| {
            let mut values = fields.iter().filter(|(other, _)| other == name);
            values.next().map(|(_, value)| value.as_str())
        };
        assert_eq!(field("event"), Some("gap"), "{fields:?}");
        assert_eq!(field("data"), Some(r#"{"events":null}"#), "{fields:?}");
        publish(&broker, "a", b"x");
        assert_eq!(events.data(), json!({"topic": "a", "data": "x"}));
    }
}

/// What a client sends that has heard nothing yet, and what one sends that has.
const NOT_AWAY: &[(&str, &[&str])] = &[
    ("", &[]),
    ("", &["Last-Event-ID:"]),
    ("", &["Last-Event-ID:   "]),
    ("?lastEventId=", &[]),
    ("?lastEventId", &["Last-Event-ID: "]),
    ("?last-event-id=7", &[]),
    ("?other=lastEventId", &[]),
];
const AWAY: &[(&str, &[&str])] = &[
    ("", &["Last-Event-ID: 7"]),
    ("?lastEventId=7", &[]),
    ("?_=1&lastEventId=1853284-0", &[]),
    ("?lastEventId=7", &["Last-Event-ID:"]),
    ("?lastEventId=", &["Last-Event-ID: 7"]),
];

#[test]
fn only_who_names_an_event_has_been_away() {
    let broker = Broker::start(1, &[]);
    for (cases, has_gap) in [(NOT_AWAY, false), (AWAY, true)] {
        for (query, headers) in cases {
            let target = format!("/v1/topics/a{query}");
            let mut events = Events::open(broker.http_port(), &target, headers);
            publish(&broker, "a", b"x");
            let first = events.fields().expect("an event");
            assert_eq!(first[0].1 == "gap", has_gap, "{target} {headers:?}");
        }
    }
}

#[test]
fn streams_that_ask_for_nothing_or_too_much_are_refused() {
    let broker = Broker::start(1, &[]);
    let mut http = Http::dial(broker.http_port());
    let long = format!("GET /v1/topics/{}", "t".repeat(1_025));
    for (line, code) in [
        ("GET /v1/topics", "request_invalid"),
        ("GET /v1/topics?other=a", "request_invalid"),
        ("GET /v1/topics?lastEventId=7&_=1", "request_invalid"),
        ("GET /v1/topics/a?_=%zz", "request_invalid"),
        ("GET /v1/topics/a.>.b", "topic_invalid"),
        ("GET /v1/topics/a?topic=%3E.a", "topic_invalid"),
        ("GET /v1/topics?topic=%zz", "request_invalid"),
        ("GET /v1/topics?topic=a%2", "request_invalid"),
        (&long, "topic_invalid"),
    ] {
        let answer = http.ask(line, &[], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{line}"
        );
    }
}

#[test]
fn topics_that_are_no_text_are_counted_and_left_out() {
    let broker = Broker::start(1, &[]);
    let mut redis = RawClient::connect(broker.port());
    let mut events = Events::open(broker.http_port(), "/v1/topics/>", &[]);
    let before = super::load::counter(&mut redis, "events_not_carried");
    for topic in [&b"\xff"[..], b"a\xc3", b"fine"] {
        let mut request = super::common::resp::request(&[b"PUBLISH", topic, b"x"]);
        redis.send(&std::mem::take(&mut request));
        redis.value();
    }
    assert_eq!(events.data(), json!({"topic": "fine", "data": "x"}));
    let after = super::load::counter(&mut redis, "events_not_carried");
    assert_eq!(after - before, 2);
}

#[test]
fn a_stream_that_is_left_is_forgotten() {
    let broker = Broker::start(2, &[]);
    let streams: Vec<Events> = (0..10)
        .map(|_| Events::open(broker.http_port(), "/v1/topics/a?topic=b", &[]))
        .collect();
    let mut redis = RawClient::connect(broker.port());
    let count = |redis: &mut RawClient| super::load::counter(redis, "subscriptions");
    assert_eq!(count(&mut redis), 20);
    drop(streams);
    super::load::wait_until("no subscription is left", || count(&mut redis) == 0);
}

/// Events of 10 kB each, twice as many as a stream that is not read may have waiting anywhere.
const FLOOD: u64 = 3_000;

fn flood(broker: &Broker) {
    let mut publisher = NativeClient::connect(broker.native_port());
    for number in 0..FLOOD {
        let payload = format!("{number:08}{}", "x".repeat(10_000));
        publisher.publish(&Event::new("flood", payload));
    }
    assert_eq!(publisher.ping(), []);
}

#[test]
fn who_reads_too_slowly_is_told_how_many_events_are_missing() {
    for policy in ["drop-oldest", "latest"] {
        let limits = super::load::File::new("[limits]\noutbox_bytes_max = \"1 MiB\"\n");
        let args = ["--http-policy", policy, "--config", limits.path()];
        let broker = Broker::start(1, &args);
        let target = "/v1/topics/flood";
        let new = Events::open(broker.http_port(), target, &[]);
        let old = Events::open_old(broker.http_port(), target, &[]);
        flood(&broker);
        for events in [new, old] {
            comes_with_gaps(events, &broker);
        }
    }
}

fn comes_with_gaps(mut events: Events, broker: &Broker) {
    let (mut came, mut dropped, mut next) = (0, 0, 0);
    while came + dropped < FLOOD {
        let fields = events.fields().expect("the stream goes on");
        let data = &fields.last().unwrap().1;
        let data: Json = serde_json::from_str(data).unwrap();
        if fields.iter().any(|field| field.1 == "gap") {
            let events = data["events"].as_u64().expect("a number of events");
            assert!(events > 0);
            dropped += events;
            next += events;
        } else {
            let number: u64 = data["data"].as_str().unwrap()[..8].parse().unwrap();
            assert_eq!(number, next, "behind {dropped} dropped");
            came += 1;
            next += 1;
        }
    }
    assert_eq!(came + dropped, FLOOD);
    assert!(dropped > 0, "the flood was too small to lose anything");
    publish(broker, "flood", b"after");
    assert_eq!(events.data()["data"], "after");
}

#[test]
fn who_reads_too_slowly_is_closed_where_nothing_else_was_said() {
    let (broker, _config) = super::load::broker_with_limits(1, "outbox_bytes_max = \"1 MiB\"");
    let mut events = Events::open(broker.http_port(), "/v1/topics/flood", &[]);
    flood(&broker);
    let mut came = 0;
    let rest = events.wire().try_rest().unwrap();
    for line in rest.split(|byte| *byte == b'\n') {
        came += u64::from(line.starts_with(b"data: "));
    }
    assert!(came < FLOOD, "all {came} events came");
    // Its client can tell that the stream is not whole.
    assert!(!rest.ends_with(b"\r\n0\r\n\r\n"));
}

#[test]
fn requests_behind_a_stream_are_not_answered_in_it() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut http = Http::dial(port);
    http.send(
        [
            request(port, "GET /health", &[], b""),
            request(port, "GET /v1/topics/a", &[], b""),
            request(port, "GET /health", &[], b""),
        ]
        .concat(),
    );
    assert_eq!(http.try_answer(Asked::Other).unwrap().unwrap().status, 200);
    let head = http.try_head().unwrap().expect("an answer");
    assert_eq!(head.status, 200);
    // A comment may come, but no answer.
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(50);
    while let Ok(true) = http.wire.fill(soon) {}
    assert!(
        !http
            .wire
            .unread()
            .windows(8)
            .any(|part| part == b"HTTP/1.1")
    );
}
