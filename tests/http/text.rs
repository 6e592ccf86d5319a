//! Text commands over a WebSocket.

use std::time::{Duration, Instant};

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::common::resp::RawClient;
use super::frames::Said;
use super::nats::NatsClient;
use super::web::{WebSocket, ask};

fn open(broker: &Broker) -> WebSocket {
    WebSocket::open(broker.http_port(), "/ws", &[])
}

/// Waits until the broker has dealt with all that was sent; gives what came before.
fn sync(socket: &mut WebSocket) -> Vec<Said> {
    socket.send_text("PING done");
    let mut before = Vec::new();
    loop {
        match socket.said() {
            Said::Text(text) if text == "PONG done" => return before,
            Said::End => panic!("the end, behind {before:?}"),
            said => before.push(said),
        }
    }
}

/// Commands, topics of which an event has to come then, and topics of which none may.
type Case = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const SUBSCRIPTIONS: &[Case] = &[
    (&["SUBSCRIBE a"], &["a"], &["b", "a.b", "A", ""]),
    (&["SUBSCRIBE a b c"], &["a", "b", "c"], &["d", "a b c"]),
    (&["subscribe a", "Subscribe b"], &["a", "b"], &["subscribe"]),
    (&["SUBSCRIBE a.*"], &["a.*"], &["a.b", "a"]),
    (&["SUBSCRIBE >"], &[">"], &["a"]),
    (&["SUBSCRIBE é👍"], &["é👍"], &["é"]),
    (&["PSUBSCRIBE a*"], &["a", "ab", "a.b.c"], &["b", "ba"]),
    (
        &["PSUBSCRIBE a? b[xy]"],
        &["ab", "bx", "by"],
        &["a", "abc", "bz"],
    ),
    (&["psubscribe *"], &["a", "b.c"], &[]),
    (&["PSUBSCRIBE a.>"], &["a.>"], &["a.b"]),
    (
        &["SUBSCRIBE a", "PSUBSCRIBE a*", "PSUBSCRIBE *"],
        &["a"],
        &[],
    ),
    (&["SUBSCRIBE a b", "UNSUBSCRIBE a"], &["b"], &["a"]),
    (&["SUBSCRIBE a b", "UNSUBSCRIBE b a c"], &[], &["a", "b"]),
    (
        &["SUBSCRIBE a b", "PSUBSCRIBE c*", "UNSUBSCRIBE"],
        &["cc"],
        &["a", "b"],
    ),
    (
        &["SUBSCRIBE a", "PSUBSCRIBE b* c*", "PUNSUBSCRIBE b*"],
        &["a", "cc"],
        &["bb"],
    ),
    (
        &["SUBSCRIBE a", "PSUBSCRIBE b* c*", "PUNSUBSCRIBE"],
        &["a"],
        &["bb", "cc"],
    ),
    (&["SUBSCRIBE a", "unsubscribe", "punsubscribe"], &[], &["a"]),
    (
        &["SUBSCRIBE a", "SUBSCRIBE a", "UNSUBSCRIBE a"],
        &[],
        &["a"],
    ),
    (
        &["UNSUBSCRIBE", "PUNSUBSCRIBE x", "SUBSCRIBE a"],
        &["a"],
        &["x"],
    ),
];

#[test]
fn subscriptions_are_those_of_redis_and_each_event_comes_once() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut publisher = NativeClient::connect(broker.native_port());
        for binary in [false, true] {
            for (commands, heard, unheard) in SUBSCRIPTIONS {
                let mut socket = open(&broker);
                for command in *commands {
                    // A command may come in either kind of message.
                    match binary {
                        true => socket.send_binary(command.as_bytes()),
                        false => socket.send_text(command),
                    }
                }
                assert_eq!(sync(&mut socket), [], "{commands:?} is not answered");
                for topic in unheard.iter().chain(*heard) {
                    let event = Event::new(topic, format!("about {topic}"));
                    let count = publisher.publish_counted(&event);
                    assert_eq!(count > 0, heard.contains(topic), "{commands:?}, {topic}");
                    if count > 0 {
                        let text = format!("about {topic}");
                        assert_eq!(socket.text(), text, "{commands:?}");
                    }
                }
                assert_eq!(sync(&mut socket), [], "{commands:?}: an event comes once");
                // The next must not find what this one leaves behind.
                drop(socket);
                let deadline = Instant::now() + Duration::from_secs(60);
                for topic in *heard {
                    while publisher.publish_counted(&Event::new(topic, "late")) > 0 {
                        assert!(Instant::now() < deadline, "{commands:?} stay for ever");
                    }
                }
            }
        }
    }
}

/// A command, the topic that an event comes to, and its payload.
const PUBLISHED: &[(&str, &str, &[u8])] = &[
    ("PUBLISH a hello", "a", b"hello"),
    ("publish a hello", "a", b"hello"),
    ("PUBLISH a hello there", "a", b"hello there"),
    ("PUBLISH a  two blanks", "a", b" two blanks"),
    ("PUBLISH a ends in blanks  ", "a", b"ends in blanks  "),
    ("PUBLISH a ", "a", b""),
    ("PUBLISH a  ", "a", b" "),
    ("PUBLISH a line\nline\r\n", "a", b"line\nline\r\n"),
    ("PUBLISH a \n", "a", b"\n"),
    ("PUBLISH a {\"json\": [1, 2]}", "a", b"{\"json\": [1, 2]}"),
    ("PUBLISH a \"quoted\"", "a", b"\"quoted\""),
    ("PUBLISH é 👍", "é", "👍".as_bytes()),
    ("PUBLISH a.b.c PUBLISH d e", "a.b.c", b"PUBLISH d e"),
];

#[test]
fn a_publish_takes_all_that_stands_behind_the_blank() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe(">");
    let mut socket = open(&broker);
    for (command, topic, payload) in PUBLISHED {
        socket.send_text(command);
        let heard = listener.message();
        assert_eq!(
            (&heard.topic[..], &heard.payload[..]),
            (topic.as_bytes(), *payload),
            "{command:?}"
        );
    }
    // Any bytes in a binary message.
    socket.send_binary(b"PUBLISH raw \xff\0\xfe");
    assert_eq!(listener.message(), Event::new("raw", b"\xff\0\xfe"));
    let long = "x".repeat(3_000_000);
    socket.send_text(&format!("PUBLISH long {long}"));
    assert_eq!(listener.message(), Event::new("long", long));
    // In fragments, with a ping between.
    socket.send("text-:PUBL cont-:ISH<20>a<20>b ping:p cont:c");
    assert_eq!(socket.said(), Said::Pong(b"p".to_vec()));
    assert_eq!(listener.message(), Event::new("a", "bc"));
    assert_eq!(sync(&mut socket), []);
}

#[test]
fn ping_is_answered_behind_everything_before_it() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut socket = open(&broker);
        for (ping, pong) in [
            ("PING", "PONG"),
            ("ping", "PONG"),
            ("PING text", "PONG text"),
            ("Ping two words", "PONG two words"),
            ("PING é👍", "PONG é👍"),
        ] {
            socket.send_text(ping);
            assert_eq!(socket.text(), pong);
        }
        socket.send_text("SUBSCRIBE a");
        for number in 0..100 {
            socket.send_text(&format!("PUBLISH a {number}"));
            socket.send_text("NOTHING");
            socket.send_text(&format!("PING {number}"));
        }
        for number in 0..100 {
            let mut came = [socket.text(), socket.text()];
            came.sort();
            assert_eq!(came[0], number.to_string());
            assert!(came[1].starts_with("ERR "), "{came:?}");
            assert_eq!(socket.text(), format!("PONG {number}"));
        }
    }
}

/// What is refused. The connection goes on, and nothing is done.
const REFUSED: &[&str] = &[
    "",
    " ",
    "NOTHING",
    "NOTHING a b",
    "SUBSCRIBE",
    "SUBSCRIBE ",
    "PSUBSCRIBE",
    "PUBLISH",
    "PUBLISH ",
    "PINGX",
    "SUBSCRIBED a",
    "PUBLISH $JS.x x",
    "PUBLISH $to: x",
    "*1\r\n$4\r\nPING\r\n",
    "{\"op\":\"ping\",\"id\":1}",
    "GET / HTTP/1.1\r\n\r\n",
    "\0",
    "HELLO 3",
    "SSUBSCRIBE a",
];

#[test]
fn what_is_refused_is_answered_by_err_and_the_connection_goes_on() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe(">");
    listener.subscribe("");
    let mut socket = open(&broker);
    let long = format!("SUBSCRIBE {}", "t".repeat(1_025));
    let deep = format!("PUBLISH {} x", vec!["x"; 65].join("."));
    for command in REFUSED.iter().copied().chain([&*long, &*deep]) {
        for binary in [false, true] {
            match binary {
                true => socket.send_binary(command.as_bytes()),
                false => socket.send_text(command),
            }
            let came = sync(&mut socket);
            let is_err = matches!(&came[..], [Said::Text(text)] if text.len() > 4 && text.starts_with("ERR "));
            assert!(is_err, "{command:?}: {came:?}");
        }
    }
    assert_eq!(listener.ping(), []);
    let answer = ask(broker.http_port(), "GET /subsz", &[], b"");
    assert_eq!(answer.json()["num_subscriptions"], 2);
}

#[test]
fn an_event_is_its_payload_as_text_or_binary() {
    let broker = Broker::start(2, &[]);
    let mut socket = open(&broker);
    socket.send_text("SUBSCRIBE a");
    assert_eq!(sync(&mut socket), []);
    let mut redis = RawClient::connect(broker.port());
    let mut nats = NatsClient::connect(broker.nats_port());
    let mut native = NativeClient::connect(broker.native_port());
    redis.call(&["PUBLISH", "a", "from redis"]);
    assert_eq!(socket.text(), "from redis");
    nats.send("HPUB a back 12 16\r\nNATS/1.0\r\n\r\nnats\r\n");
    assert_eq!(socket.text(), "nats");
    native.publish(&Event {
        reply: Some(b"r".to_vec()),
        headers: vec![(b"h".to_vec(), b"v".to_vec())],
        ..Event::new("a", "from native")
    });
    assert_eq!(socket.text(), "from native");
    for text in ["", " ", "\0\x1b\n", "κ👍\u{10ffff}", "ERR x", "PONG"] {
        native.publish(&Event::new("a", text));
        assert_eq!(socket.text(), text);
    }
    for bytes in [
        &b"\xff"[..],
        b"a\xc3",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
    ] {
        native.publish(&Event::new("a", bytes));
        assert_eq!(socket.binary(), bytes);
    }
    let long = "é".repeat(1_000_000);
    native.publish(&Event::new("a", &long));
    assert_eq!(socket.text(), long);
}

#[test]
fn before_the_password_nothing_is_done() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let hello = sapwood_wire::native::Hello {
        password: Some(b"secret"),
        ..Default::default()
    };
    let mut listener = NativeClient::connect_with(broker.native_port(), &hello);
    listener.subscribe("a");
    for command in ["SUBSCRIBE a", "PUBLISH a x", "UNSUBSCRIBE", "PSUBSCRIBE *"] {
        let mut socket = open(&broker);
        socket.send_text(command);
        // It is refused, and whether the connection goes on is not said.
        match socket.said() {
            Said::Text(text) => assert!(text.starts_with("ERR "), "{text}"),
            other => assert_eq!(other, Said::Close(Some(1008)), "{command}"),
        }
    }
    assert_eq!(listener.ping(), []);
    let mut socket = open(&broker);
    socket.send_text("AUTH secret");
    socket.send_text("SUBSCRIBE a");
    assert_eq!(sync(&mut socket), []);
    listener.publish(&Event::new("a", "x"));
    assert_eq!(socket.text(), "x");
}

#[test]
fn many_events_come_in_order_to_all() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut sockets: Vec<WebSocket> = (0..10)
            .map(|_| {
                let mut socket = open(&broker);
                socket.send_text("SUBSCRIBE n");
                assert_eq!(sync(&mut socket), []);
                socket
            })
            .collect();
        let mut publisher = open(&broker);
        for number in 0..5_000 {
            publisher.send_text(&format!("PUBLISH n {number}"));
        }
        for socket in &mut sockets {
            for number in 0..5_000 {
                assert_eq!(socket.text(), number.to_string());
            }
            assert_eq!(sync(socket), []);
        }
    }
}
