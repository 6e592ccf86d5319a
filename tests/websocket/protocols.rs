//! What the sub-protocols make of a WebSocket: kinds of messages, lengths, passwords, and how the broker ends one.

use std::time::Duration;

use rustix::process::Signal;
use sapwood_wire::native::{self, Hello, When};

use super::common::Broker;
use super::common::native::{Decoder, Event, NativeClient};
use super::frames::Said;
use super::load::{broker_with_limits, exit_code, signal};
use super::web::{WebSocket, ask, check_all, upgrade_headers};

const JSON_FRAME_BYTES_MAX: usize = 86 * 1024 * 1024;
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A sub-protocol, what is sent, and the code that the broker closes with.
const CLOSING: &[(&str, &str, u16)] = &[
    ("sapwood.json", "binary:{}", 1003),
    ("sapwood.json", "binary", 1003),
    ("sapwood.json", "binary-:{ cont:}", 1003),
    ("sapwood.json", "text:{<ff>}", 1007),
    ("sapwood.json", "claim=1000.text:{<c0>", 1007),
    ("sapwood.json", "claim=90177537.text:{", 1009),
    ("sapwood.json", "text-:{ claim=90177536.cont:a", 1009),
    ("sapwood.json", "claim=9223372036854775807.text:{", 1009),
    ("sapwood.native", "text:a", 1003),
    ("sapwood.native", "text", 1003),
    ("sapwood.native", "text-:a cont:b", 1003),
    ("sapwood.native", "claim=4611686018427387904.binary:a", 1009),
    (
        "sapwood.native",
        "binary-:a claim=9223372036854775807.cont:b",
        1009,
    ),
    ("sapwood.text", "text:PUBLISH<20>a<20><ed><a0>", 1007),
    ("sapwood.text", "claim=1000.text:PUBLISH<20>a<20><f5>", 1007),
    (
        "sapwood.text",
        "claim=1099511627776.text:PUBLISH<20>a<20>",
        1009,
    ),
    (
        "sapwood.text",
        "claim=1099511627776.binary:PUBLISH<20>a<20>",
        1009,
    ),
    (
        "sapwood.text",
        "text-:a claim=9223372036854775807.cont:b",
        1009,
    ),
];

#[test]
fn messages_of_the_wrong_kind_or_length_close_the_connection() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    check_all(CLOSING, |(protocol, sent, code)| {
        let header = format!("Sec-WebSocket-Protocol: {protocol}");
        let mut socket = WebSocket::try_open(port, "/ws", &[&header])?;
        socket.send(sent);
        let came = [socket.try_said(), socket.try_said()];
        match came == [Ok(Said::Close(Some(*code))), Ok(Said::End)] {
            true => Ok(()),
            false => Err(format!("{protocol}, {sent}: {came:?}")),
        }
    });
}

#[test]
fn an_echo_too_has_a_longest_message() {
    let broker = Broker::start(1, &["--echo"]);
    for sent in [
        "claim=1099511627776.binary:a",
        "claim=9223372036854775807.text",
        "text-:a claim=9223372036854775807.cont:b",
        "text-:a cont-:b claim=1099511627776.cont",
    ] {
        let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
        socket.send(sent);
        assert_eq!(socket.said(), Said::Close(Some(1009)), "{sent}");
        assert_eq!(socket.said(), Said::End, "{sent}");
    }
}

#[test]
fn the_longest_messages_are_taken_and_one_byte_more_is_not() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut json = WebSocket::speaking(port, "sapwood.json");
    let blanks = |length: usize| {
        let (start, end) = (r#"{"op":"ping","id":1"#, "}");
        let blanks = " ".repeat(length - start.len() - end.len());
        format!("{start}{blanks}{end}")
    };
    json.send_text(&blanks(JSON_FRAME_BYTES_MAX));
    assert_eq!(json.text(), r#"{"op":"ok","id":1,"count":0}"#);
    json.send_text(&blanks(JSON_FRAME_BYTES_MAX + 1));
    assert_eq!(json.said(), Said::Close(Some(1009)));

    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("long");
    let mut text = WebSocket::speaking(port, "sapwood.text");
    let longest = format!("PUBLISH long {}", "x".repeat(PAYLOAD_BYTES_MAX));
    text.send_text(&longest);
    assert_eq!(listener.message().payload.len(), PAYLOAD_BYTES_MAX);
    text.send_text("PING");
    assert_eq!(text.text(), "PONG");
}

fn native_frames(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(&mut bytes);
    bytes
}

#[test]
fn native_frames_travel_in_binary_messages() {
    let broker = Broker::start(1, &[]);
    let mut plain = NativeClient::connect(broker.native_port());
    let event = Event {
        reply: Some(b"back".to_vec()),
        headers: vec![(b"n".to_vec(), b"v".to_vec())],
        ..Event::new("deck", [0xff, 0x00, b'a'])
    };
    let mut socket = WebSocket::speaking(broker.http_port(), "sapwood.native");
    // Several frames in one message, and a message in fragments.
    let first = native_frames(|out| {
        native::write_hello(out, &Hello::default());
        let subscription = native::Subscription {
            member: 0,
            group: b"",
            filter: b"deck",
        };
        native::write_subscription(out, native::kind::SUBSCRIBE, 7, &subscription);
    });
    socket.send_binary(&first);
    let publish = native_frames(|out| {
        native::write_publish(out, 8, When::Always, &event.message());
        native::write_request(out, native::kind::PING, 9);
    });
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let (start, end) = publish.split_at(11);
    socket.send(&format!(
        "binary-:<{}> ping:p cont:<{}>",
        hex(start),
        hex(end)
    ));
    let (mut decoder, mut names, mut pongs) = (Decoder::default(), Vec::new(), 0);
    while names.len() < 5 {
        match socket.said() {
            Said::Pong(bytes) => {
                assert_eq!(bytes, b"p");
                pongs += 1;
            }
            Said::Binary(bytes) => {
                decoder.feed(&bytes, |frame| names.push(format!("{frame:?}")));
                assert!(decoder.is_between_frames(), "frames are whole in a message");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(names[0].starts_with("Welcome"), "{names:?}");
    assert!(names[1].contains("request: 7, count: 1"), "{names:?}");
    assert!(names[2..].iter().any(|name| name.starts_with("Message")));
    assert!(
        names[2..]
            .iter()
            .any(|name| name.contains("request: 8, count: 1"))
    );
    assert!(names[4].contains("request: 9, count: 0"), "{names:?}");
    assert_eq!(pongs, 1);
    // And what others publish comes byte for byte.
    plain.publish(&event);
    let expected = native_frames(|out| native::write_message(out, &event.message()));
    assert_eq!(socket.binary(), expected);
}

#[test]
fn a_native_frame_that_is_cut_by_the_end_of_its_message_is_refused() {
    let broker = Broker::start(1, &[]);
    let hello = native_frames(|out| native::write_hello(out, &Hello::default()));
    for cut in [1, 4, 5, hello.len() - 1] {
        let mut socket = WebSocket::speaking(broker.http_port(), "sapwood.native");
        socket.send_binary(&hello[..cut]);
        socket.send_binary(&hello[cut..]);
        let code = loop {
            match socket.said() {
                Said::Close(code) => break code,
                Said::Binary(bytes) => {
                    // An ERROR may say it too; it is the only frame that may come.
                    assert_eq!(bytes.get(4), Some(&0x83), "{bytes:?}");
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code, Some(1002), "cut at {cut}");
    }
}

#[test]
fn a_password_is_asked_for_in_the_request_or_by_the_protocol() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let port = broker.http_port();
    let right = [
        "Authorization: Bearer secret",
        "Authorization: Basic ZGVmYXVsdDpzZWNyZXQ=",
    ];
    for header in right {
        let mut socket = WebSocket::open(port, "/ws", &[header]);
        socket.send_text("PING");
        assert_eq!(socket.text(), "PONG");
        let json = [header, "Sec-WebSocket-Protocol: sapwood.json"];
        let mut socket = WebSocket::open(port, "/ws", &json);
        socket.send_text(r#"{"op":"ping","id":3}"#);
        assert_eq!(socket.text(), r#"{"op":"ok","id":3,"count":0}"#);
    }
    let wrong = [
        "Authorization: Bearer Secret",
        "Authorization: Bearer",
        "Authorization: Basic ZGVmYXVsdDpTZWNyZXQ=",
        "Authorization: Basic b3RoZXI6c2VjcmV0",
        "Authorization: Digest secret",
    ];
    for header in wrong {
        let fixed = upgrade_headers();
        let mut headers: Vec<&str> = fixed.iter().map(String::as_str).collect();
        headers.push(header);
        let answer = ask(port, "GET /ws", &headers, b"");
        let code = answer.code();
        assert_eq!((answer.status, code.as_str()), (401, "authentication"));
    }
    for auth in ["AUTH secret", "auth default secret"] {
        let mut socket = WebSocket::open(port, "/ws", &[]);
        socket.send_text(auth);
        socket.send_text("PING in");
        assert_eq!(socket.text(), "PONG in", "{auth}");
    }
    let mut socket = WebSocket::speaking(port, "sapwood.json");
    socket.send_text(r#"{"op":"hello","password":"secret"}"#);
    assert!(socket.text().starts_with(r#"{"op":"welcome","#));
}

/// A sub-protocol, and a first message with a wrong password.
const WRONG_PASSWORDS: &[(&str, &str)] = &[
    ("sapwood.text", "AUTH wrong"),
    ("sapwood.text", "AUTH other secret"),
    ("sapwood.text", "AUTH default secre"),
    ("sapwood.json", r#"{"op":"hello","password":"wrong"}"#),
    (
        "sapwood.json",
        r#"{"op":"hello","user":"other","password":"secret"}"#,
    ),
    ("sapwood.json", r#"{"op":"hello"}"#),
];

#[test]
fn a_wrong_password_closes_the_connection() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let mut listener = NativeClient::connect_with(
        broker.native_port(),
        &Hello {
            password: Some(b"secret"),
            ..Hello::default()
        },
    );
    listener.subscribe("in");
    for (protocol, first) in WRONG_PASSWORDS {
        let mut socket = WebSocket::speaking(broker.http_port(), protocol);
        socket.send_text(first);
        // Nothing behind it is done.
        socket.send_text("PUBLISH in x");
        socket.send_text(r#"{"op":"publish","topic":"in"}"#);
        let mut last = socket.said();
        if let Said::Text(text) = &last {
            assert!(
                text.starts_with("ERR ") || text.contains(r#""code":"authentication""#),
                "{text}"
            );
            last = socket.said();
        }
        assert_eq!(last, Said::Close(Some(1008)), "{first}");
        assert_eq!(socket.said(), Said::End, "{first}");
    }
    let hello = Hello {
        password: Some(b"wrong"),
        ..Hello::default()
    };
    let mut socket = WebSocket::speaking(broker.http_port(), "sapwood.native");
    socket.send_binary(&native_frames(|out| native::write_hello(out, &hello)));
    let error = socket.binary();
    assert_eq!((error[4], &error[9..11]), (0x83, &105u16.to_le_bytes()[..]));
    socket.expect_close(1008);
    let event = Event::new("in", "y");
    listener.publish(&event);
    assert_eq!(listener.message(), event);
}

#[test]
fn a_password_that_does_not_come_in_time_closes_the_connection() {
    let config = super::load::File::new("[limits]\nguest_ms_max = 300\n");
    let broker = Broker::start_guarded(1, "secret", &["--config", config.path()]);
    for protocol in ["sapwood.text", "sapwood.json", "sapwood.native"] {
        let mut socket = WebSocket::speaking(broker.http_port(), protocol);
        let mut last = socket.said();
        if matches!(last, Said::Text(_) | Said::Binary(_)) {
            last = socket.said();
        }
        assert_eq!(last, Said::Close(Some(1008)), "{protocol}");
    }
}

#[test]
fn the_end_of_the_broker_closes_with_1001() {
    let broker = Broker::start(2, &["--echo"]);
    let port = broker.http_port();
    let mut sockets: Vec<WebSocket> = ["sapwood.text", "sapwood.json", "sapwood.native"]
        .iter()
        .map(|protocol| WebSocket::speaking(port, protocol))
        .collect();
    sockets.push(WebSocket::open(port, "/echo", &[]));
    // All are known to their shards: each has been answered.
    for socket in &mut sockets {
        socket.send("ping:a");
        assert_eq!(socket.said(), Said::Pong(b"a".to_vec()));
    }
    signal(&broker, Signal::TERM);
    for (place, socket) in sockets.iter_mut().enumerate() {
        let mut said = socket.said();
        if let Said::Text(text) = &said {
            assert!(text.starts_with(r#"{"op":"draining","ms":"#), "{text}");
            said = socket.said();
        } else if place == 1 {
            panic!("JSON is told that the broker is draining, not {said:?}");
        }
        assert_eq!(said, Said::Close(Some(1001)), "{place}");
        socket.wire.finish();
        assert_eq!(socket.said(), Said::End);
    }
    assert_eq!(exit_code(&broker, Duration::from_secs(10)), Some(0));
}

#[test]
fn a_silent_client_is_asked_and_then_closed() {
    let (broker, _config) = broker_with_limits(1, "ping_ms = 200");
    let mut deaf = WebSocket::speaking(broker.http_port(), "sapwood.text");
    let mut alive = WebSocket::speaking(broker.http_port(), "sapwood.text");
    // The broker looks every few seconds.
    for _ in 0..2 {
        let Said::Ping(payload) = alive.said() else {
            panic!("no ping")
        };
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        alive.send(&match hex.as_str() {
            "" => "pong".to_string(),
            hex => format!("pong:<{hex}>"),
        });
    }
    let mut pings = 0;
    loop {
        match deaf.said() {
            Said::Ping(_) => pings += 1,
            Said::Close(code) => assert!(matches!(code, Some(1000..=1011)), "{code:?}"),
            Said::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(pings >= 1, "it was closed unasked");
    alive.send_text("PING still");
    loop {
        match alive.said() {
            Said::Ping(_) => {}
            other => {
                assert_eq!(other, Said::text("PONG still"));
                break;
            }
        }
    }
}
