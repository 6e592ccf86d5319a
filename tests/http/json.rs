//! The JSON protocol, as JSON.md says it, over plain TCP and over WebSocket.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value as Json, json};

use super::common::Broker;
use super::common::native::{Event, Frame, NativeClient};
use super::common::resp::{self, RawClient};
use super::frames::Said;
use super::json_cases::{Case, IN_ORDER, INVALID, REFUSED};
use super::load::{File, broker_with_limits, counter, exit_code, signal};
use super::web::{Cut, WebSocket, Wire, check_all, cuts};

/// A client of the protocol, whichever way it travels.
pub enum JsonClient {
    Tcp(Wire),
    Web(WebSocket),
}

impl JsonClient {
    pub fn tcp(broker: &Broker) -> JsonClient {
        JsonClient::Tcp(Wire::dial(broker.http_port()))
    }

    pub fn web(broker: &Broker) -> JsonClient {
        JsonClient::Web(WebSocket::speaking(broker.http_port(), "sapwood.json"))
    }

    pub fn both(broker: &Broker) -> [JsonClient; 2] {
        [JsonClient::tcp(broker), JsonClient::web(broker)]
    }

    pub fn send(&mut self, frame: &str) {
        match self {
            JsonClient::Tcp(wire) => wire.send(format!("{frame}\n")),
            JsonClient::Web(socket) => socket.send_text(frame),
        }
    }

    /// The next frame's text; `None` if the broker has closed instead.
    pub fn text(&mut self) -> Option<String> {
        match self {
            JsonClient::Tcp(wire) => {
                let line = wire.try_until(|bytes| {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    Ok(end.map(|end| (bytes[..end].to_vec(), end + 1)))
                });
                let line = line.unwrap_or_else(|error| panic!("{error}"));
                line.map(|line| String::from_utf8(line).expect("a frame is UTF-8"))
            }
            JsonClient::Web(socket) => match socket.said() {
                Said::Text(text) => Some(text),
                Said::Close(_) => None,
                other => panic!("{other:?}"),
            },
        }
    }

    /// The next frame, which must come.
    pub fn frame(&mut self) -> Json {
        let text = self.text().expect("the broker closed");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn expect_close(&mut self) {
        if let Some(text) = self.text() {
            panic!("{text} instead of the close");
        }
    }

    /// Sends a request, and gives what stands before its answer and the answer's count.
    pub fn call(&mut self, request: &str) -> (Vec<Json>, u64) {
        let id = serde_json::from_str::<Json>(request).unwrap()["id"].clone();
        self.send(request);
        let mut before = Vec::new();
        loop {
            let frame = self.frame();
            if frame["op"] == "ok" && frame["id"] == id {
                let count = frame["count"].as_u64().expect("a count is a number");
                assert_eq!(frame, json!({"op": "ok", "id": id, "count": count}));
                return (before, count);
            }
            before.push(frame);
        }
    }

    /// Waits until the broker has dealt with all that was sent; gives what came before.
    pub fn sync(&mut self) -> Vec<Json> {
        let (before, count) = self.call(r#"{"op":"ping","id":9007199254740991}"#);
        assert_eq!(count, 0);
        before
    }
}

/// What a frame that comes says in that form; an error's text is for people, but there has to be one.
fn said(frame: &Json) -> String {
    let id = match &frame["id"] {
        Json::Null => "-".to_string(),
        id => id.to_string(),
    };
    match frame["op"].as_str() {
        Some("ok") => format!("ok {id} {}", frame["count"]),
        Some("error") => {
            assert!(
                frame["text"].as_str().is_some_and(|text| !text.is_empty()),
                "{frame}"
            );
            format!("error {id} {}", frame["code"].as_str().unwrap_or("?"))
        }
        _ => frame.to_string(),
    }
}

fn run(client: &mut JsonClient, cases: &[Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (frame, expected) in cases {
        client.send(frame);
        let came: Vec<String> = client.sync().iter().map(said).collect();
        if came != *expected {
            wrong.push(format!("{frame}: {came:?} instead of {expected:?}"));
        }
    }
    wrong
}

#[test]
fn requests_are_answered_and_refused_as_the_page_says() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut listener = NativeClient::connect(broker.native_port());
        listener.subscribe("cases");
        for mut client in JsonClient::both(&broker) {
            let mut wrong = run(&mut client, IN_ORDER);
            wrong.extend(run(&mut client, INVALID));
            wrong.extend(run(&mut client, REFUSED));
            assert!(wrong.is_empty(), "{shards} shards:\n{}", wrong.join("\n"));
        }
        // Nothing that was refused was done.
        assert_eq!(listener.ping(), []);
    }
}

#[test]
fn names_that_are_too_long_or_deep_are_refused() {
    let broker = Broker::start(1, &[]);
    let longest = "t".repeat(1_024);
    let deepest = vec!["x"; 64].join(".");
    for mut client in JsonClient::both(&broker) {
        for (name, is_right) in [
            (longest.clone(), true),
            (format!("{longest}t"), false),
            (deepest.clone(), true),
            (format!("{deepest}.x"), false),
        ] {
            for (frame, count) in [
                (json!({"op": "publish", "topic": name, "id": 1}), 0),
                (
                    json!({"op": "publish", "topic": "a", "reply": name, "id": 1}),
                    0,
                ),
                (json!({"op": "subscribe", "filter": name, "id": 1}), 1),
            ] {
                client.send(&frame.to_string());
                let came: Vec<String> = client.sync().iter().map(said).collect();
                let expected = match is_right {
                    true => format!("ok 1 {count}"),
                    false => "error 1 topic_invalid".to_string(),
                };
                assert_eq!(came, [expected], "{}", &frame.to_string()[..60]);
            }
            client.send(r#"{"op":"drain"}"#);
        }
    }
}

#[test]
fn the_example_of_the_page_is_answered_to_the_letter() {
    let broker = Broker::start(1, &[]);
    let page = include_str!("../../src/wire/JSON.md");
    let (_, example) = page
        .split_once("```json\n")
        .expect("the page has an example");
    let (example, _) = example.split_once("```").expect("it ends");
    for mut client in JsonClient::both(&broker) {
        let mut expected = Vec::new();
        for line in example.lines().chain(["> end"]) {
            match line.split_at(2) {
                ("< ", answer) => expected.push(answer.to_string()),
                (_, request) => {
                    let mut came: Vec<String> = expected
                        .iter()
                        .map(|_| client.text().expect("an answer"))
                        .collect();
                    // Whether the answer or the message stands first is not promised.
                    came.sort();
                    expected.sort();
                    assert_eq!(came, expected);
                    expected.clear();
                    client.send(request);
                }
            }
        }
        // "end" was no frame; the next client must not find this one's subscription.
        assert_eq!(said(&client.frame()), "error - request_invalid");
        client.send(r#"{"op":"drain"}"#);
        client.sync();
    }
}

#[test]
fn lines_are_read_wherever_they_are_cut() {
    let broker = Broker::start(1, &[]);
    let lines = "{\"op\":\"ping\",\"id\":1}\n{\"op\":\"publish\",\"topic\":\"é\",\"data\":\"👍\",\"id\":2}\r\n{\"op\":\"x\"}\n{\"op\":\"ping\",\"id\":3}\r\n";
    let mut runs = cuts(lines.len());
    runs.push(Cut::Pieces(7));
    check_all(&runs, |cut| {
        let mut client = JsonClient::tcp(&broker);
        if let JsonClient::Tcp(wire) = &mut client {
            wire.send_cut(lines.as_bytes(), *cut);
            wire.finish();
        }
        let mut came = Vec::new();
        while let Some(text) = client.text() {
            came.push(said(&serde_json::from_str(&text).unwrap()));
        }
        match came == ["ok 1 0", "ok 2 0", "error - request_invalid", "ok 3 0"] {
            true => Ok(()),
            false => Err(format!("{cut:?}: {came:?}")),
        }
    });
}

#[test]
fn bytes_that_are_no_utf8_are_refused_on_tcp_and_the_connection_goes_on() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("cases");
    for bad in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
    ] {
        let mut client = JsonClient::tcp(&broker);
        let JsonClient::Tcp(wire) = &mut client else {
            unreachable!()
        };
        wire.send(b"{\"op\":\"publish\",\"topic\":\"cases\",\"data\":\"a");
        wire.send(bad);
        wire.send(b"\"}\n");
        let came: Vec<String> = client.sync().iter().map(said).collect();
        assert_eq!(came, ["error - request_invalid"], "{bad:?}");
    }
    assert_eq!(listener.ping(), []);
}

#[test]
fn a_line_that_does_not_end_is_not_done_and_one_too_long_closes() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("cases");
    let mut client = JsonClient::tcp(&broker);
    if let JsonClient::Tcp(wire) = &mut client {
        wire.send(r#"{"op":"publish","topic":"cases"}"#);
        wire.finish();
    }
    client.expect_close();
    let start = r#"{"op":"publish","topic":"cases","data":""#;
    for (blanks, closes) in [
        (86 * 1024 * 1024 - start.len() - 2, false),
        (86 * 1024 * 1024, true),
    ] {
        let mut client = JsonClient::tcp(&broker);
        if let JsonClient::Tcp(wire) = &mut client {
            wire.send(format!("{start}\"{}", " ".repeat(blanks)));
            wire.send("}\n");
        }
        if closes {
            assert_eq!(said(&client.frame()), "error - frame_too_long");
            client.expect_close();
        } else {
            assert_eq!(client.sync(), Vec::<Json>::new());
            assert_eq!(listener.message(), Event::new("cases", ""));
        }
    }
    assert_eq!(listener.ping(), []);
}

#[test]
fn payloads_have_a_longest() {
    let broker = Broker::start(1, &[]);
    let longest = 64 * 1024 * 1024;
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("cases");
    let mut client = JsonClient::tcp(&broker);
    let publish = |length: usize| {
        let data = "x".repeat(length);
        format!(r#"{{"op":"publish","topic":"cases","data":"{data}","id":1}}"#)
    };
    client.send(&publish(longest));
    assert_eq!(said(&client.frame()), "ok 1 1");
    assert_eq!(listener.message().payload.len(), longest);
    client.send(&publish(longest + 1));
    assert_eq!(said(&client.frame()), "error 1 payload_too_long");
    // In base64 a third more comes for as many bytes.
    let base64 = "AAAA".repeat(longest / 3 + 1);
    client.send(&format!(
        r#"{{"op":"publish","topic":"cases","data_b64":"{base64}","id":2}}"#
    ));
    assert_eq!(said(&client.frame()), "error 2 payload_too_long");
    let base64 = format!("{}AA==", "AAAA".repeat(longest / 3));
    client.send(&format!(
        r#"{{"op":"publish","topic":"cases","data_b64":"{base64}","id":3}}"#
    ));
    assert_eq!(said(&client.frame()), "ok 3 1");
    assert_eq!(listener.message().payload, vec![0; longest]);
    assert_eq!(listener.ping(), []);
}

#[test]
fn deep_nesting_is_refused_and_nothing_else() {
    let broker = Broker::start(1, &[]);
    for mut client in JsonClient::both(&broker) {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            let deep = open.repeat(100_000);
            client.send(&format!(r#"{{"op":"ping","id":7,"x":{deep}"#));
            client.send(&format!(r#"{{"headers":{deep}"#));
            let came: Vec<String> = client.sync().iter().map(said).collect();
            assert_eq!(came.len(), 2, "{came:?}");
            assert!(came.iter().all(|said| said.ends_with("request_invalid")));
        }
    }
}

#[test]
fn hello_opens_the_connection_once() {
    let broker = Broker::start(1, &[]);
    let run = {
        let mut http = super::web::Http::dial(broker.http_port());
        http.ask("GET /info", &[], b"").json()["run"].clone()
    };
    for hello in [
        r#"{"op":"hello"}"#,
        r#"{"op":"hello","version":1}"#,
        r#"{"op":"hello","user":"anyone","password":"any","name":"me","library":"test/1","policy":"latest","version":1}"#,
        r#"{"op":"hello","policy":"close"}"#,
        r#"{"op":"hello","policy":"drop-oldest"}"#,
    ] {
        for mut client in JsonClient::both(&broker) {
            client.send(hello);
            let welcome = client.frame();
            let mut redis = RawClient::connect(broker.port());
            let id = welcome["client"].as_u64().expect("a number");
            let name = welcome["broker"].as_str().expect("a name").to_string();
            assert!(name.starts_with("sapwood/"), "{name}");
            let expected = json!({
                "op": "welcome",
                "version": 1,
                "broker": name,
                "client": id,
                "run": run,
                "payload_max": 64 * 1024 * 1024,
            });
            assert_eq!(welcome, expected, "{hello}");
            let list = redis
                .call(&["CLIENT", "LIST", "ID", &id.to_string()])
                .text();
            assert!(list.starts_with(&format!("id={id} ")), "{list}");
            assert_eq!(list.contains(" name=me "), hello.contains("me\",\"library"));
            client.send(r#"{"op":"ping","id":1}"#);
            assert_eq!(said(&client.frame()), "ok 1 0");
            client.send(hello);
            assert_eq!(said(&client.frame()), "error - hello_expected");
            client.expect_close();
        }
    }
}

/// A first frame, and what it is answered by; a code below 200 closes.
const FIRST: &[(&str, &str)] = &[
    (r#"{"op":"hello","version":2}"#, "error - version"),
    (r#"{"op":"hello","version":0}"#, "error - version"),
    (r#"{"op":"hello","version":"1"}"#, "error - request_invalid"),
    (
        r#"{"op":"hello","policy":"open"}"#,
        "error - request_invalid",
    ),
    (r#"{"op":"hello","policy":1}"#, "error - request_invalid"),
    (r#"{"op":"hello","name":1}"#, "error - request_invalid"),
    (r#"{"op":"hello","user":null}"#, "error - request_invalid"),
    (r#"{"op":"hello","topic":"a"}"#, "error - request_invalid"),
    (r#"{"op":"Hello"}"#, "error - request_invalid"),
];

#[test]
fn a_hello_that_is_wrong_is_refused() {
    let broker = Broker::start(1, &[]);
    for (hello, expected) in FIRST {
        for mut client in JsonClient::both(&broker) {
            client.send(hello);
            assert_eq!(said(&client.frame()), *expected, "{hello}");
            if expected.ends_with("version") {
                client.expect_close();
            } else {
                client.sync();
            }
        }
    }
}

#[test]
fn a_password_has_to_come_first() {
    let broker = Broker::start_guarded(2, "secret", &[]);
    let mut listener = NativeClient::connect_with(
        broker.native_port(),
        &sapwood_wire::native::Hello {
            password: Some(b"secret"),
            ..Default::default()
        },
    );
    listener.subscribe("cases");
    let publish = r#"{"op":"publish","topic":"cases"}"#;
    for (first, expected) in [
        (r#"{"op":"hello"}"#, "error - authentication"),
        (r#"{"op":"hello","password":""}"#, "error - authentication"),
        (
            r#"{"op":"hello","password":"Secret"}"#,
            "error - authentication",
        ),
        (
            r#"{"op":"hello","user":"other","password":"secret"}"#,
            "error - authentication",
        ),
        (r#"{"op":"ping","id":5}"#, "error 5 authentication"),
        (publish, "error - authentication"),
        (
            r#"{"op":"subscribe","filter":">"}"#,
            "error - authentication",
        ),
    ] {
        for mut client in JsonClient::both(&broker) {
            client.send(first);
            client.send(publish);
            assert_eq!(said(&client.frame()), expected, "{first}");
            client.expect_close();
        }
    }
    for hello in [
        r#"{"op":"hello","password":"secret"}"#,
        r#"{"op":"hello","user":"default","password":"secret"}"#,
        r#"{"op":"hello","password":"s\u0065cret"}"#,
    ] {
        for mut client in JsonClient::both(&broker) {
            // What stands behind it need not wait for the welcome.
            client.send(hello);
            client.send(r#"{"op":"ping","id":2}"#);
            assert_eq!(client.frame()["op"], "welcome", "{hello}");
            assert_eq!(said(&client.frame()), "ok 2 0");
        }
    }
    assert_eq!(listener.ping(), []);
}

#[test]
fn a_hello_with_an_id_is_answered_with_it() {
    let broker = Broker::start(1, &[]);
    for mut client in JsonClient::both(&broker) {
        client.send(r#"{"op":"hello","id":9007199254740991}"#);
        let welcome = client.frame();
        assert_eq!(
            (&welcome["op"], &welcome["id"]),
            (&json!("welcome"), &json!(9_007_199_254_740_991_u64))
        );
        client.send(r#"{"op":"hello","id":5}"#);
        assert_eq!(said(&client.frame()), "error 5 hello_expected");
        client.expect_close();
    }
}

#[test]
fn before_the_password_a_frame_is_short() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let hello = |length: usize| {
        let (start, end) = (r#"{"op":"hello","password":"secret""#, "}");
        let blanks = " ".repeat(length - start.len() - end.len());
        format!("{start}{blanks}{end}")
    };
    for mut client in JsonClient::both(&broker) {
        client.send(&hello(16 * 1024));
        assert_eq!(client.frame()["op"], "welcome");
        // Once it is let in, it may send long ones.
        let long = "x".repeat(1_000_000);
        let publish = json!({"op": "publish", "topic": "a", "data": long, "id": 1});
        assert_eq!(client.call(&publish.to_string()), (vec![], 0));
    }
    let mut client = JsonClient::tcp(&broker);
    // A CR and a LF have room beside it.
    client.send(&hello(16 * 1024 + 3));
    assert_eq!(said(&client.frame()), "error - frame_too_long");
    client.expect_close();
    let mut socket = WebSocket::speaking(broker.http_port(), "sapwood.json");
    socket.send_text(&hello(16 * 1024 + 1));
    socket.expect_close(1009);
}

#[test]
fn a_hello_has_to_come_in_time() {
    let config = File::new("[limits]\nguest_ms_max = 300\n");
    let broker = Broker::start_guarded(1, "secret", &["--config", config.path()]);
    for mut client in JsonClient::both(&broker) {
        if let JsonClient::Tcp(wire) = &mut client {
            wire.send("{");
        }
        assert_eq!(said(&client.frame()), "error - hello_late");
        client.expect_close();
    }
}

#[test]
fn a_message_carries_what_was_published() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("m.>");
        for mut client in JsonClient::both(&broker) {
            assert_eq!(
                client.call(r#"{"op":"subscribe","filter":"m.*","id":1}"#).1,
                1
            );
            let event = Event {
                reply: Some(b"back".to_vec()),
                headers: vec![
                    (b"trace".to_vec(), b"7".to_vec()),
                    (b"Trace".to_vec(), b"".to_vec()),
                ],
                is_end: true,
                ..Event::new("m.full", "é \"quoted\" \\ \n\t\r/")
            };
            native.publish(&event);
            let full = json!({
                "op": "message",
                "topic": "m.full",
                "data": "é \"quoted\" \\ \n\t\r/",
                "reply": "back",
                "headers": [["trace", "7"], ["Trace", ""]],
                "last": true,
            });
            assert_eq!(client.frame(), full);
            assert_eq!(native.message(), event);
            // The other way.
            let mut publish = full.clone();
            publish["op"] = json!("publish");
            publish["id"] = json!(2);
            publish["when"] = json!("always");
            assert_eq!(client.call(&publish.to_string()), (vec![full], 2));
            assert_eq!(native.message(), event);
            let binary = r#"{"op":"publish","topic":"m.\u0000","data_b64":"//79AA==","id":3}"#;
            let message = json!({"op": "message", "topic": "m.\0", "data_b64": "//79AA=="});
            assert_eq!(client.call(binary), (vec![message], 2));
            assert_eq!(native.message(), Event::new("m.\0", b"\xff\xfe\xfd\0"));
        }
    }
}

/// Bytes of a payload, and the fields that they come in.
const PAYLOADS: &[(&[u8], &str, &str)] = &[
    (b"plain", "data", "plain"),
    (b"\t\r\n", "data", "\t\r\n"),
    ("κ👍\u{2028}".as_bytes(), "data", "κ👍\u{2028}"),
    (b"\"\\/", "data", "\"\\/"),
    (b"\0", "data_b64", "AA=="),
    (b"\x08", "data_b64", "CA=="),
    (b"\x0b", "data_b64", "Cw=="),
    (b"\x0c", "data_b64", "DA=="),
    (b"a\x1b[0m", "data_b64", "YRtbMG0="),
    (b"\x1f", "data_b64", "Hw=="),
    (b"\xff", "data_b64", "/w=="),
    (b"ab\xc3", "data_b64", "YWLD"),
    (b"\xed\xa0\x80", "data_b64", "7aCA"),
    (b"\xfb\xff\xbf", "data_b64", "+/+/"),
];

#[test]
fn payloads_come_as_text_or_base64() {
    let broker = Broker::start(1, &[]);
    let mut native = NativeClient::connect(broker.native_port());
    for mut client in JsonClient::both(&broker) {
        client.call(r#"{"op":"subscribe","filter":"p","id":1}"#);
        for (payload, field, value) in PAYLOADS {
            native.publish(&Event::new("p", payload));
            let expected = json!({"op": "message", "topic": "p", *field: value});
            assert_eq!(client.frame(), expected, "{payload:?}");
        }
        native.publish(&Event::new("p", ""));
        let empty = client.frame();
        assert!(
            empty == json!({"op": "message", "topic": "p"})
                || empty == json!({"op": "message", "topic": "p", "data": ""}),
            "{empty}"
        );
    }
}

#[test]
fn every_byte_of_a_payload_survives() {
    let broker = Broker::start(1, &[]);
    let mut native = NativeClient::connect(broker.native_port());
    native.subscribe("in");
    let mut client = JsonClient::tcp(&broker);
    client.call(r#"{"op":"subscribe","filter":"out","id":1}"#);
    // Every length that base64 pads in its own way, and every byte.
    for length in 0..=260usize {
        let payload: Vec<u8> = (0..length)
            .map(|place| (place * 7 + length) as u8)
            .collect();
        native.publish(&Event::new("out", &payload));
        let mut message = client.frame();
        message["op"] = json!("publish");
        message["topic"] = json!("in");
        client.send(&message.to_string());
        assert_eq!(native.message(), Event::new("in", &payload), "{length}");
    }
    // Every character below U+0800 as data, escaped or not, and some above.
    let characters = (0..0x800)
        .chain([0x800, 0xd7ff, 0xe000, 0xffff, 0x1_0000, 0x10_ffff])
        .filter_map(char::from_u32);
    for character in characters {
        let mut buffer = [0; 2];
        let units = character.encode_utf16(&mut buffer);
        let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        client.send(&format!(
            r#"{{"op":"publish","topic":"in","data":"{escaped}"}}"#
        ));
        let expected = Event::new("in", character.to_string());
        assert_eq!(native.message(), expected, "{escaped}");
        if character >= ' ' && !matches!(character, '"' | '\\') {
            client.send(&format!(
                r#"{{"op":"publish","topic":"in","data":"{character}"}}"#
            ));
            assert_eq!(native.message(), expected, "{escaped}, as it is");
        }
    }
}

#[test]
fn an_event_comes_once_and_members_of_a_group_take_turns() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut native = NativeClient::connect(broker.native_port());
        native.join("crew", 1, "work");
        for mut client in JsonClient::both(&broker) {
            for (id, filter) in ["work", "*", ">"].iter().enumerate() {
                let frame = json!({"op": "subscribe", "filter": filter, "id": id + 1});
                assert_eq!(client.call(&frame.to_string()).1, id as u64 + 1);
            }
            let join = r#"{"op":"subscribe","filter":"work","group":"crew","member":7,"id":9}"#;
            assert_eq!(client.call(join).1, 4);
            for number in 0..40 {
                let data = number.to_string();
                let publish = json!({"op": "publish", "topic": "work", "data": data});
                client.send(&publish.to_string());
            }
            // Forty messages, and every other turn; the rest of the turns is the other member's.
            let (mut messages, mut turns) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                let mut frame = client.frame();
                let number: u32 = frame["data"].as_str().unwrap().parse().unwrap();
                frame["data"] = json!("");
                if frame["op"] == "turn" {
                    let expected = json!({"op": "turn", "member": 7, "topic": "work", "data": ""});
                    assert_eq!(frame, expected);
                    turns.push(number);
                } else {
                    let expected = json!({"op": "message", "topic": "work", "data": ""});
                    assert_eq!(frame, expected);
                    messages.push(number);
                }
            }
            for _ in 0..20 {
                match native.frame() {
                    Frame::Turn { member: 1, event } => {
                        turns.push(String::from_utf8(event.payload).unwrap().parse().unwrap());
                    }
                    other => panic!("{other:?}"),
                }
            }
            turns.sort_unstable();
            let all: Vec<u32> = (0..40).collect();
            assert_eq!((&messages, &turns), (&all, &all));
            assert_eq!(client.sync(), Vec::<Json>::new());
            assert_eq!(native.ping(), []);
            // An end of its subscriptions leaves the group's turns to the other.
            let drained = client.call(r#"{"op":"drain","id":11}"#);
            assert_eq!(drained, (vec![], 4));
            client.send(r#"{"op":"publish","topic":"work"}"#);
            assert_eq!(client.sync(), Vec::<Json>::new());
            assert!(matches!(native.frame(), Frame::Turn { member: 1, .. }));
        }
    }
}

#[test]
fn a_request_for_a_reply_learns_that_nobody_listens() {
    let broker = Broker::start(2, &[]);
    let mut responder = NativeClient::connect(broker.native_port());
    for mut client in JsonClient::both(&broker) {
        client.call(r#"{"op":"subscribe","filter":"_INBOX.u.*","id":1}"#);
        let ask = r#"{"op":"publish","topic":"svc","reply":"_INBOX.u.1","when":"unheard","id":2}"#;
        client.send(ask);
        assert_eq!(said(&client.frame()), "ok 2 0");
        responder.subscribe("svc");
        client.send(ask);
        assert_eq!(client.sync(), Vec::<Json>::new());
        let question = responder.message();
        assert_eq!(question.reply.as_deref(), Some(&b"_INBOX.u.1"[..]));
        for (data, is_end) in [("one", false), ("two", true)] {
            responder.publish(&Event {
                is_end,
                ..Event::new("_INBOX.u.1", data)
            });
        }
        let one = json!({"op": "message", "topic": "_INBOX.u.1", "data": "one"});
        let two = json!({"op": "message", "topic": "_INBOX.u.1", "data": "two", "last": true});
        assert_eq!([client.frame(), client.frame()], [one, two]);
        let request =
            responder.send_subscription(sapwood_wire::native::kind::UNSUBSCRIBE, "", 0, "svc");
        responder.acknowledged(request);
    }
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let broker = Broker::start(2, &[]);
    for mut client in JsonClient::both(&broker) {
        let mut expected = Vec::new();
        let mut subscribed = 0;
        for id in 1..=2_000u64 {
            let (frame, answer) = match id % 5 {
                0 => (json!({"op": "ping", "id": id}), format!("ok {id} 0")),
                1 => {
                    subscribed += 1;
                    let frame = json!({"op": "subscribe", "filter": format!("f.{id}"), "id": id});
                    (frame, format!("ok {id} {subscribed}"))
                }
                2 => {
                    let frame = json!({"op": "publish", "topic": "nobody", "id": id});
                    (frame, format!("ok {id} 0"))
                }
                3 => {
                    let frame = json!({"op": "publish", "topic": "$JS.x", "id": id});
                    (frame, format!("error {id} topic_reserved"))
                }
                _ => {
                    let frame = json!({"op": "nothing", "id": id});
                    (frame, format!("error {id} request_invalid"))
                }
            };
            client.send(&frame.to_string());
            expected.push(answer);
        }
        let came: Vec<String> = expected.iter().map(|_| said(&client.frame())).collect();
        assert_eq!(came, expected);
    }
}

#[test]
fn topics_and_headers_that_are_no_text_are_counted_and_left_out() {
    let broker = Broker::start(1, &[]);
    let mut redis = RawClient::connect(broker.port());
    for mut client in JsonClient::both(&broker) {
        client.call(r#"{"op":"subscribe","filter":">","id":1}"#);
        let before = counter(&mut redis, "events_not_carried");
        for topic in [&b"\xff"[..], b"a.\xc3", b"fine"] {
            redis.send(&resp::request(&[b"PUBLISH", topic, b"x"]));
            assert_eq!(redis.value(), resp::Value::Integer(1));
        }
        let fine = json!({"op": "message", "topic": "fine", "data": "x"});
        assert_eq!(client.frame(), fine);
        assert_eq!(counter(&mut redis, "events_not_carried") - before, 2);
        client.call(r#"{"op":"drain","id":2}"#);
    }
}

#[test]
fn who_reads_too_slowly_is_told_how_many_events_are_missing() {
    const FLOOD: u64 = 3_000;
    let (broker, _config) = broker_with_limits(1, "outbox_bytes_max = \"1 MiB\"");
    for mut client in JsonClient::both(&broker) {
        client.send(r#"{"op":"hello","policy":"drop-oldest"}"#);
        assert_eq!(client.frame()["op"], "welcome");
        client.call(r#"{"op":"subscribe","filter":"flood","id":1}"#);
        let mut publisher = NativeClient::connect(broker.native_port());
        for number in 0..FLOOD {
            let payload = format!("{number:08}{}", "x".repeat(10_000));
            publisher.publish(&Event::new("flood", payload));
        }
        assert_eq!(publisher.ping(), []);
        let (mut came, mut dropped) = (0, 0);
        while came + dropped < FLOOD {
            let frame = client.frame();
            if frame["op"] == "gap" {
                let events = frame["events"].as_u64().expect("a number");
                assert_eq!(frame, json!({"op": "gap", "events": events}));
                dropped += events;
            } else {
                let number: u64 = frame["data"].as_str().unwrap()[..8].parse().unwrap();
                assert_eq!(number, came + dropped);
                came += 1;
            }
        }
        assert!(dropped > 0, "the flood was too small to lose anything");
        assert_eq!(client.sync(), Vec::<Json>::new());
    }
}

#[test]
fn the_end_of_the_broker_is_told_beforehand() {
    let broker = Broker::start(2, &[]);
    let mut clients: Vec<JsonClient> = (0..4)
        .map(|_| JsonClient::tcp(&broker))
        .chain((0..4).map(|_| JsonClient::web(&broker)))
        .collect();
    for client in &mut clients {
        client.sync();
    }
    signal(&broker, Signal::TERM);
    for client in &mut clients {
        let frame = client.frame();
        let ms = frame["ms"].as_u64().expect("milliseconds");
        assert_eq!(frame, json!({"op": "draining", "ms": ms}));
        assert!(ms > 0);
        client.expect_close();
    }
    assert_eq!(exit_code(&broker, Duration::from_secs(10)), Some(0));
}
