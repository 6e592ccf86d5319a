//! Streams over HTTP: made, written, read back behind a crash, and followed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value as Json, json};

use super::common::Broker;
use super::common::native::NativeClient;
use super::web::{Answer, Cut, Events, Http, ask, request};

/// A data directory of its own, removed at the end.
struct Data(PathBuf);

impl Data {
    fn new() -> Data {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sapwood-http-streams-{}-{number}", std::process::id());
        Data(std::env::temp_dir().join(name))
    }

    fn broker(&self, shards: usize) -> Broker {
        let data = self.0.to_str().expect("a plain path");
        Broker::start_restartable_with(shards, None, &["--data", data, "--state-workers", "2"])
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // What is left is in the directory for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn get(broker: &Broker, target: &str) -> Answer {
    ask(broker.http_port(), &format!("GET {target}"), &[], b"")
}

fn post(broker: &Broker, target: &str, body: &[u8]) -> Answer {
    ask(broker.http_port(), &format!("POST {target}"), &[], body)
}

fn delete(broker: &Broker, target: &str) -> Answer {
    ask(broker.http_port(), &format!("DELETE {target}"), &[], b"")
}

fn put(broker: &Broker, stream: &str, config: Json) -> Answer {
    let line = format!("PUT /v1/streams/{stream}");
    ask(
        broker.http_port(),
        &line,
        &[],
        config.to_string().as_bytes(),
    )
}

/// Makes a stream of these topics.
fn make(broker: &Broker, stream: &str, topics: &[&str]) {
    let answer = put(broker, stream, json!({"topics": topics}));
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

/// The lines of a read, and what its last line says.
fn lines(answer: &Answer) -> (Vec<Json>, Json) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = answer.header("Content-Type");
    assert_eq!(kind, Some("application/x-ndjson"));
    let text = std::str::from_utf8(&answer.body).expect("lines are UTF-8");
    let mut lines: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let end = lines.pop().expect("a last line");
    assert_eq!(end["event"], "end", "{end}");
    (lines, end)
}

fn read(broker: &Broker, stream: &str, query: &str) -> (Vec<Json>, Json) {
    lines(&get(
        broker,
        &format!("/v1/streams/{stream}/messages{query}"),
    ))
}

fn data(lines: &[Json]) -> Vec<&str> {
    let each = lines.iter();
    each.map(|line| line["data"].as_str().unwrap_or_else(|| panic!("{line}")))
        .collect()
}

#[test]
fn streams_are_made_shown_changed_listed_and_deleted() {
    for shards in [1, 2] {
        let data = Data::new();
        let broker = data.broker(shards);
        let config = json!({"topics": ["orders.>"], "max_messages": 5, "durability": "os"});
        let made = put(&broker, "orders", config.clone());
        assert_eq!(made.status, 201, "{made:?}");
        let made = made.json();
        assert_eq!(made["stream"], "orders");
        assert_eq!(made["config"]["topics"], json!(["orders.>"]));
        assert_eq!(made["config"]["max_messages"], 5);
        assert_eq!(made["config"]["durability"], "os");
        assert_eq!(made["state"]["messages"], 0);
        // The same again changes nothing, and another configuration is an update.
        let again = put(&broker, "orders", config);
        assert_eq!((again.status, again.json()), (200, made.clone()));
        let mut other = made["config"].clone();
        other["topics"] = json!(["orders.>", "audit"]);
        let changed = put(&broker, "orders", other);
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(
            changed.json()["config"]["topics"],
            json!(["orders.>", "audit"])
        );
        assert_eq!(get(&broker, "/v1/streams/orders").json(), changed.json());
        let taken = put(&broker, "others", json!({"topics": ["audit"]}));
        assert_eq!(refused(&taken), (409, "filters_taken".into()));
        // Pages of the list, over all workers.
        for number in 0..7 {
            make(&broker, &format!("s{number}"), &[]);
        }
        let mut names = Vec::new();
        let mut after = String::new();
        loop {
            let page = get(&broker, &format!("/v1/streams?limit=3&after={after}")).json();
            let streams = page["streams"].as_array().expect("a list");
            names.extend(
                streams
                    .iter()
                    .map(|one| one["stream"].as_str().unwrap().to_string()),
            );
            if page["more"] == false {
                break;
            }
            after = page["after"].as_str().expect("a name").to_string();
        }
        let wanted = ["orders", "s0", "s1", "s2", "s3", "s4", "s5", "s6"];
        assert_eq!(names, wanted);
        let some = get(&broker, "/v1/streams?prefix=s").json();
        assert_eq!(some["streams"].as_array().map(Vec::len), Some(7));
        post(&broker, "/v1/topics/audit?stored=1", b"x");
        let gone = delete(&broker, "/v1/streams/orders");
        assert_eq!(gone.json(), json!({"deleted": true, "messages": 1}));
        let missing = get(&broker, "/v1/streams/orders");
        assert_eq!(refused(&missing), (404, "no_stream".into()));
    }
}

#[test]
fn what_was_acknowledged_is_read_back_in_order_behind_a_kill() {
    for shards in [1, 2] {
        let data_of = Data::new();
        let mut broker = data_of.broker(shards);
        make(&broker, "orders", &["orders.>"]);
        make(&broker, "log", &[]);
        // Many under way on one connection, to a topic and to a stream by its name.
        let mut wanted = Vec::new();
        let mut http = Http::dial(broker.http_port());
        for number in 0..200 {
            let line = format!("POST /v1/topics/orders.new?stored=1&id=n{number}");
            let body = number.to_string();
            http.send(request(broker.http_port(), &line, &[], body.as_bytes()));
            let line = "POST /v1/streams/log?topic=any.thing";
            http.send(request(
                broker.http_port(),
                line,
                &["Sapwood-Header: k: v"],
                body.as_bytes(),
            ));
            wanted.push(body);
        }
        for number in 1..=200 {
            let stored = http.answer();
            assert_eq!(stored.status, 200, "{stored:?}");
            let expected = json!({"stream": "orders", "seq": number, "duplicate": false, "durability": "fsync",
                "count": 0, "beyond": true});
            assert_eq!(stored.json(), expected);
            let stored = http.answer().json();
            assert_eq!(
                (&stored["stream"], &stored["seq"]),
                (&json!("log"), &json!(number))
            );
        }
        broker.restart();
        let (messages, end) = read(&broker, "orders", "");
        assert_eq!(data(&messages), wanted);
        assert_eq!(end["at_head"], true);
        assert_eq!(messages[7]["seq"], 8);
        assert_eq!(messages[7]["topic"], "orders.new");
        assert_eq!(messages[7]["headers"], json!([["Nats-Msg-Id", "n7"]]));
        assert!(
            messages[7]["time_ms"]
                .as_u64()
                .is_some_and(|ms| ms > 1_600_000_000_000)
        );
        let (messages, _) = read(&broker, "log", "");
        assert_eq!(data(&messages), wanted);
        assert_eq!(messages[0]["headers"], json!([["k", "v"]]));
        assert_eq!(messages[0]["topic"], "any.thing");
        // The id is known behind the crash, and the sequence goes on.
        let again = post(&broker, "/v1/topics/orders.new?stored=1&id=n7", b"7").json();
        assert_eq!(
            (&again["seq"], &again["duplicate"]),
            (&json!(8), &json!(true))
        );
        let next = post(&broker, "/v1/topics/orders.new?stored=1", b"next").json();
        assert_eq!(
            (&next["seq"], &next["duplicate"]),
            (&json!(201), &json!(false))
        );
    }
}

#[test]
fn a_read_begins_where_it_is_told_to_and_goes_on_from_its_token() {
    let data_of = Data::new();
    let broker = data_of.broker(2);
    make(&broker, "s", &["a.*", "b"]);
    for (topic, body) in [
        ("a.1", "1"),
        ("b", "2"),
        ("a.2", "3"),
        ("a.1", "4"),
        ("b", "5"),
    ] {
        let stored = post(
            &broker,
            &format!("/v1/topics/{topic}?stored=1"),
            body.as_bytes(),
        );
        assert_eq!(stored.status, 200, "{stored:?}");
    }
    let time = read(&broker, "s", "?from=3").0[0]["time_ms"]
        .as_u64()
        .unwrap();
    let by_time = format!("?time_ms={}", time + 3_600_000);
    let cases: [(&str, &[&str]); 11] = [
        ("", &["1", "2", "3", "4", "5"]),
        ("?from=first&limit=2", &["1", "2"]),
        ("?from=last", &["5"]),
        ("?from=new", &[]),
        ("?from=4", &["4", "5"]),
        ("?from=99", &[]),
        ("?from=last-per-topic", &["4", "3", "5"]),
        ("?filter=a.*", &["1", "3", "4"]),
        ("?filter=b&filter=a.2", &["2", "3", "5"]),
        ("?time_ms=0", &["1", "2", "3", "4", "5"]),
        (&by_time, &[]),
    ];
    for (query, wanted) in cases {
        let (messages, end) = read(&broker, "s", query);
        assert_eq!(data(&messages), wanted, "{query}");
        assert_eq!(end["at_head"], !query.contains("limit"), "{query}: {end}");
        let token = end["resume"].as_str().expect("a token");
        let (rest, _) = read(&broker, "s", &format!("?after={token}&filter=b"));
        let left: &[&str] = if query.contains("limit") { &["5"] } else { &[] };
        assert_eq!(data(&rest), left, "{query}");
    }
    let wrong = [
        ("?from=never", 400, "request_invalid"),
        ("?after=1-2-3", 400, "token_invalid"),
        ("?limit=x", 400, "request_invalid"),
        ("?from=last-per-topic&limit=1", 400, "request_invalid"),
        ("?filter=a.>.b", 400, "filter_invalid"),
    ];
    for (query, status, code) in wrong {
        let answer = get(&broker, &format!("/v1/streams/s/messages{query}"));
        assert_eq!(refused(&answer), (status, code.to_string()), "{query}");
    }
    let missing = get(&broker, "/v1/streams/t/messages");
    assert_eq!(refused(&missing), (404, "no_stream".into()));
}

#[test]
fn single_messages_are_shown_and_removed_and_a_purge_is_a_gap() {
    let data_of = Data::new();
    let broker = data_of.broker(1);
    make(&broker, "s", &["a.*"]);
    for number in 1..=6 {
        let topic = if number % 2 == 0 { "a.even" } else { "a.odd" };
        let target = format!("/v1/topics/{topic}?stored=1");
        assert_eq!(
            post(&broker, &target, number.to_string().as_bytes()).status,
            200
        );
    }
    let one = get(&broker, "/v1/streams/s/messages/2").json();
    assert_eq!(
        (&one["data"], &one["topic"]),
        (&json!("2"), &json!("a.even"))
    );
    let last = get(&broker, "/v1/streams/s/messages/last?topic=a.odd").json();
    assert_eq!(last["seq"], 5);
    let gone = delete(&broker, "/v1/streams/s/messages/2");
    assert_eq!(gone.json(), json!({"deleted": true}));
    for target in ["messages/2", "messages/99", "messages/last?topic=a.none"] {
        let missing = get(&broker, &format!("/v1/streams/s/{target}"));
        assert_eq!(refused(&missing), (404, "no_message".into()), "{target}");
    }
    let purged = post(&broker, "/v1/streams/s/purge?filter=a.odd&keep=1", b"");
    assert_eq!(purged.json(), json!({"purged": 2}));
    assert_eq!(data(&read(&broker, "s", "").0), ["4", "5", "6"]);
    let purged = post(&broker, "/v1/streams/s/purge?before=6", b"");
    assert_eq!(purged.json(), json!({"purged": 2}));
    let (from, _) = read(&broker, "s", "?from=1");
    assert_eq!(from[0], json!({"event": "gap", "first": 1, "last": 5}));
    assert_eq!(from[1]["seq"], 6);
    let info = get(&broker, "/v1/streams/s").json();
    assert_eq!(info["state"]["messages"], 1);
    assert_eq!(
        (&info["state"]["first_seq"], &info["state"]["last_seq"]),
        (&json!(6), &json!(6))
    );
}

#[test]
fn what_cannot_be_stored_is_refused_by_its_code() {
    let data_of = Data::new();
    let broker = data_of.broker(1);
    make(&broker, "s", &["a.*"]);
    put(
        &broker,
        "small",
        json!({"max_messages": 1, "discard": "new", "max_message_bytes": 4}),
    );
    let stored = post(&broker, "/v1/streams/small", b"1");
    assert_eq!(stored.json()["seq"], 1);
    let long = vec![b'x'; 1_048_577];
    let cases: [(&str, &[u8], u16, &str); 10] = [
        ("/v1/topics/other?stored=1", b"x", 404, "no_stream"),
        ("/v1/topics/$SYS.a?stored=1", b"x", 404, "no_stream"),
        ("/v1/topics/a.1?stored=2", b"x", 400, "request_invalid"),
        ("/v1/topics/a.1?stored=1", &long, 413, "payload_too_long"),
        ("/v1/streams/none", b"x", 404, "no_stream"),
        ("/v1/streams/s", b"x", 400, "topic_not_kept"),
        (
            "/v1/streams/s?topic=a.1&expected_last=7",
            b"x",
            409,
            "wrong_last_sequence",
        ),
        ("/v1/streams/s?topic=a.1&ttl_ms=7", b"x", 400, "ttl_refused"),
        ("/v1/streams/small", b"12345", 413, "message_too_long"),
        ("/v1/streams/small", b"2", 507, "stream_full"),
    ];
    for (target, body, status, code) in cases {
        let answer = post(&broker, target, body);
        assert_eq!(refused(&answer), (status, code.to_string()), "{target}");
    }
    for (name, config) in [
        ("a.b", json!({})),
        ("t", json!({"topic": "a"})),
        ("t", json!([])),
    ] {
        let answer = put(&broker, name, config);
        assert_eq!(refused(&answer), (400, "config_invalid".into()), "{name}");
    }
    for (line, status) in [
        ("PATCH /v1/streams/s", 405),
        ("PUT /v1/streams", 405),
        ("GET /v1/streams/s/purge", 405),
        ("GET /v1/streams/s/none", 404),
        ("GET /v1/streamsx", 404),
        ("GET /v1/streams/s/messages/x", 400),
    ] {
        let answer = ask(broker.http_port(), line, &[], b"");
        assert_eq!(answer.status, status, "{line}: {answer:?}");
    }
    let kept = post(&broker, "/v1/streams/s?topic=a.1&expected_last=0", b"x");
    assert_eq!(kept.json()["seq"], 1, "nothing was stored before");
}

#[test]
fn a_broker_without_data_says_how_to_get_some() {
    let broker = Broker::start(1, &["--data", "off"]);
    let answers = [
        get(&broker, "/v1/streams"),
        get(&broker, "/v1/streams/s"),
        get(&broker, "/v1/streams/s/messages"),
        put(&broker, "s", json!({})),
        post(&broker, "/v1/streams/s", b"x"),
        post(&broker, "/v1/topics/s?stored=1", b"x"),
        delete(&broker, "/v1/streams/s"),
    ];
    for answer in answers {
        assert_eq!(refused(&answer), (503, "no_data".into()));
        assert!(
            answer.json()["error"]["text"]
                .to_string()
                .contains("--data")
        );
    }
    assert_eq!(
        post(&broker, "/v1/topics/s", b"x").json(),
        json!({"count": 0})
    );
}

#[test]
fn requests_in_pieces_are_the_same_requests() {
    let data_of = Data::new();
    let broker = data_of.broker(1);
    let port = broker.http_port();
    let config = br#"{"topics":["a"]}"#;
    let mut pipeline = request(port, "PUT /v1/streams/s", &[], config);
    pipeline.extend(request(port, "POST /v1/streams/s?topic=a", &[], b"one"));
    pipeline.extend(
        b"POST /v1/topics/a?stored=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n",
    );
    pipeline.extend(request(port, "GET /v1/streams/s/messages", &[], b""));
    pipeline.extend(request(port, "DELETE /v1/streams/s", &[], b""));
    for cut in [Cut::Whole, Cut::Pieces(1), Cut::Pieces(7)] {
        let mut http = Http::dial(port);
        http.wire.send_cut(&pipeline, cut);
        assert_eq!(http.answer().status, 201, "{cut:?}");
        assert_eq!(http.answer().json()["seq"], 1, "{cut:?}");
        assert_eq!(http.answer().json()["seq"], 2, "{cut:?}");
        let (messages, _) = lines(&http.answer());
        assert_eq!(data(&messages), ["one", "two"], "{cut:?}");
        assert_eq!(http.answer().json()["messages"], 2, "{cut:?}");
    }
}

#[test]
fn a_reader_that_does_not_read_costs_little_and_gets_everything() {
    let data_of = Data::new();
    let broker = data_of.broker(1);
    put(&broker, "s", json!({"durability": "os"}));
    let body = vec![b'x'; 256 * 1024];
    let mut http = Http::dial(broker.http_port());
    for _ in 0..200 {
        assert_eq!(http.ask("POST /v1/streams/s", &[], &body).status, 200);
    }
    let before = broker.resident_kib();
    let mut readers: Vec<Http> = (0..10)
        .map(|_| {
            let mut http = Http::dial(broker.http_port());
            http.send(request(
                broker.http_port(),
                "GET /v1/streams/s/messages",
                &[],
                b"",
            ));
            http.try_head().unwrap().expect("a head");
            http
        })
        .collect();
    // Others are served meanwhile.
    for _ in 0..20 {
        assert_eq!(read(&broker, "s", "?from=last").0.len(), 1);
    }
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 200 * 1024, "{grown} KiB for ten readers of 50 MiB");
    for reader in &mut readers {
        let mut bytes = 0;
        loop {
            let chunk = reader.try_chunk().unwrap().expect("the read goes on");
            if chunk.is_empty() {
                break;
            }
            bytes += chunk.len();
        }
        assert!(bytes > 200 * body.len(), "{bytes}");
    }
}

/// Id, kind and data of the next event.
fn next(events: &mut Events) -> (Option<String>, String, Json) {
    let fields = events.fields().expect("the stream goes on");
    let of = |name: &str| {
        let mut fields = fields.iter();
        let field = fields.find(|(other, _)| other == name);
        field.map(|(_, value)| value.clone())
    };
    let kind = of("event").unwrap_or("message".to_string());
    let data = of("data").map_or(Json::Null, |data| serde_json::from_str(&data).unwrap());
    (of("id"), kind, data)
}

fn follow(broker: &Broker, target: &str, headers: &[&str]) -> Events {
    let mut all = vec!["Accept: text/event-stream"];
    all.extend(headers);
    Events::open(broker.http_port(), target, &all)
}

#[test]
fn a_follower_catches_up_then_hears_what_is_stored_and_comes_back() {
    for shards in [1, 2] {
        let data_of = Data::new();
        let mut broker = data_of.broker(shards);
        make(&broker, "s", &["a"]);
        let store = |broker: &Broker, body: &str| {
            assert_eq!(
                post(broker, "/v1/topics/a?stored=1", body.as_bytes()).status,
                200
            );
        };
        (1..=3).for_each(|number| store(&broker, &number.to_string()));
        let mut events = follow(&broker, "/v1/streams/s/messages", &[]);
        let mut last = String::new();
        for number in 1..=3 {
            let (id, kind, data) = next(&mut events);
            assert_eq!((kind.as_str(), &data["seq"]), ("message", &json!(number)));
            last = id.expect("a token");
        }
        let (id, kind, data) = next(&mut events);
        assert_eq!((id.as_ref(), kind.as_str()), (Some(&last), "head"));
        assert_eq!(data["resume"], json!(last));
        for number in 4..=50 {
            store(&broker, &number.to_string());
            let (id, kind, data) = next(&mut events);
            assert_eq!(
                (kind.as_str(), &data["data"]),
                ("message", &json!(number.to_string()))
            );
            last = id.expect("a token");
        }
        drop(events);
        store(&broker, "51");
        broker.restart();
        store(&broker, "52");
        let came_back = format!("Last-Event-ID: {last}");
        let mut events = follow(&broker, "/v1/streams/s/messages?from=new", &[&came_back]);
        for number in 51..=52 {
            assert_eq!(next(&mut events).2["data"], json!(number.to_string()));
        }
        assert_eq!(next(&mut events).1, "head");
        // What is gone meanwhile is said, and so is another stream of the same name.
        post(&broker, "/v1/streams/s/purge?before=52", b"");
        let mut events = follow(&broker, "/v1/streams/s/messages", &[&came_back]);
        assert_eq!(
            next(&mut events),
            (None, "gap".into(), json!({"first": 51, "last": 51}))
        );
        assert_eq!(next(&mut events).2["seq"], 52);
        delete(&broker, "/v1/streams/s");
        make(&broker, "s", &["a"]);
        store(&broker, "new");
        let mut events = follow(&broker, "/v1/streams/s/messages", &[&came_back]);
        assert_eq!(next(&mut events).1, "reset");
        assert_eq!(next(&mut events).2["data"], "new");
    }
}

#[test]
fn many_followers_wait_without_holding_others_up() {
    let data_of = Data::new();
    let broker = data_of.broker(1);
    make(&broker, "s", &["a"]);
    make(&broker, "other", &["b"]);
    let mut followers: Vec<Events> = (0..200)
        .map(|_| {
            let mut events = follow(&broker, "/v1/streams/s/messages?from=new", &[]);
            assert_eq!(next(&mut events).1, "head");
            events
        })
        .collect();
    post(&broker, "/v1/topics/b?stored=1", b"x");
    assert_eq!(data(&read(&broker, "other", "").0), ["x"]);
    for number in 0..5 {
        let body = number.to_string();
        post(&broker, "/v1/topics/a?stored=1", body.as_bytes());
        for events in &mut followers {
            assert_eq!(next(events).2["data"], json!(body));
        }
    }
    // The end of the stream ends those that follow it, and says why.
    delete(&broker, "/v1/streams/s");
    for events in &mut followers {
        let (_, kind, data) = next(events);
        assert_eq!(
            (kind.as_str(), &data["code"]),
            ("error", &json!("no_stream"))
        );
        assert_eq!(events.fields(), None);
    }
}

#[test]
fn a_stored_publish_is_heard_at_once_too() {
    let data_of = Data::new();
    let broker = data_of.broker(2);
    make(&broker, "s", &["a"]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    let stored = post(&broker, "/v1/topics/a?stored=1", b"x").json();
    assert_eq!((&stored["count"], &stored["seq"]), (&json!(1), &json!(1)));
    assert_eq!(listener.message().payload, b"x");
}
