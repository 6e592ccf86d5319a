//! The NATS listener by raw lines: what libraries never send, what they rely on, and what the other protocols make
//! of its messages. `tests/nats_clients.rs` runs the libraries themselves.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;

use std::time::{Duration, Instant};

use common::Broker;
use common::native::{Event, Frame, NativeClient};
use common::resp::{RawClient, Value};
use load::{File, broker_with_limits, counter, exit_code, signal, wait_until};
use nats::{CONNECT, Msg, NatsClient, Said, read_info};
use rustix::process::Signal;

/// Clients enough that some are on each of two shards.
const CLIENTS: usize = 12;

#[test]
fn info_says_what_libraries_look_for() {
    let broker = Broker::start(1, &["--max-payload", "1MiB"]);
    let mut client = NatsClient::dial(broker.nats_port());
    client.hears_nothing();
    let info = client.info.clone();
    let version = info["version"].as_str().unwrap();
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()));
    assert_eq!(version.split('.').count(), 3);
    assert_eq!(info["headers"], true);
    assert_eq!(info["proto"], 1);
    assert_eq!(info["max_payload"], 1024 * 1024);
    assert_eq!(info["client_ip"], "127.0.0.1");
    assert_eq!(info["port"], broker.nats_port());
    assert!(info["client_id"].is_u64() && info.get("auth_required").is_none());
}

#[test]
fn a_subscription_ends_with_its_last_message_on_whatever_shard_it_is_published() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscribers: Vec<NatsClient> = (0..CLIENTS)
            .map(|_| NatsClient::connect(broker.nats_port()))
            .collect();
        for (place, client) in subscribers.iter_mut().enumerate() {
            // All but the last take fewer than there are, and each its own number.
            client.send(&format!(
                "SUB load s{place}\r\nUNSUB s{place} {}\r\n",
                place + 1
            ));
            client.sync();
        }
        let mut publisher = NatsClient::connect(broker.nats_port());
        let all: String = (0..CLIENTS)
            .map(|n| format!("PUB load 2\r\n{n:02}\r\n"))
            .collect();
        publisher.send(&all);
        publisher.sync();
        for (place, client) in subscribers.iter_mut().enumerate() {
            let expected: Vec<Msg> = (0..=place)
                .map(|n| Msg::plain("load", &format!("s{place}"), &format!("{n:02}")))
                .collect();
            assert_eq!(client.messages(place + 1), expected);
            client.sync();
        }
        // Now nobody is there, and a request learns it at once.
        publisher.send("SUB inbox 1\r\nPUB load inbox 0\r\n\r\n");
        let unheard = publisher.message();
        assert_eq!(
            (unheard.sid.as_str(), &unheard.headers[..]),
            ("1", "NATS/1.0 503\r\n\r\n")
        );
        assert_eq!(unheard.payload, b"");
        let mut redis = RawClient::connect(broker.port());
        assert_eq!(redis.call(&["PUBSUB", "NUMSUB", "load"]), {
            Value::Array(vec![Value::bulk("load"), Value::Integer(0)])
        });
    }
}

#[test]
fn each_subscription_gets_its_own_copy_under_its_own_name() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut clients: Vec<NatsClient> = (0..CLIENTS)
            .map(|_| NatsClient::connect(broker.nats_port()))
            .collect();
        for (place, client) in clients.iter_mut().enumerate() {
            // Names of different lengths, and two subscriptions to the same on one connection.
            let name = "9".repeat(place + 1);
            client.send(&format!("SUB a.b {name}\r\nSUB a.b again\r\n"));
            client.sync();
        }
        let mut publisher = NatsClient::connect(broker.nats_port());
        let numbers = 0..500;
        let all: String = numbers
            .clone()
            .map(|n| format!("PUB a.b 3\r\n{n:03}\r\n"))
            .collect();
        publisher.send(&all);
        for (place, client) in clients.iter_mut().enumerate() {
            let came = client.messages(1_000);
            for name in ["9".repeat(place + 1), "again".to_string()] {
                let of_name: Vec<&Msg> = came.iter().filter(|msg| msg.sid == name).collect();
                let expected: Vec<Msg> = numbers
                    .clone()
                    .map(|n| Msg::plain("a.b", &name, &format!("{n:03}")))
                    .collect();
                assert_eq!(of_name, expected.iter().collect::<Vec<_>>());
            }
            client.sync();
        }
    }
}

#[test]
fn all_protocols_hear_each_other_on_one_topic() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut nats = NatsClient::connect(broker.nats_port());
        nats.send("SUB room.* 5\r\n");
        nats.sync();
        let mut redis = RawClient::connect(broker.port());
        redis.call(&["SUBSCRIBE", "room.1"]);
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("room.>");
        let redis_hears = |redis: &mut RawClient, payload: &str| {
            let words = [
                Value::bulk("message"),
                Value::bulk("room.1"),
                Value::bulk(payload),
            ];
            assert_eq!(redis.value(), Value::Array(words.to_vec()));
        };

        let mut publisher = RawClient::connect(broker.port());
        assert_eq!(
            publisher.call(&["PUBLISH", "room.1", "from redis"]),
            Value::Integer(3)
        );
        assert_eq!(nats.message(), Msg::plain("room.1", "5", "from redis"));
        redis_hears(&mut redis, "from redis");
        assert_eq!(native.message(), Event::new("room.1", "from redis"));

        let mut publisher = NatsClient::connect(broker.nats_port());
        publisher.send("HPUB room.1 back.1 23 32\r\nNATS/1.0\r\nColour: b\r\n\r\nfrom nats\r\n");
        let expected = Msg {
            reply: Some("back.1".to_string()),
            headers: "NATS/1.0\r\nColour: b\r\n\r\n".to_string(),
            ..Msg::plain("room.1", "5", "from nats")
        };
        assert_eq!(nats.message(), expected);
        redis_hears(&mut redis, "from nats");
        let heard = native.message();
        let headed = Event {
            reply: Some(b"back.1".to_vec()),
            headers: vec![(b"Colour".to_vec(), b"b".to_vec())],
            ..Event::new("room.1", "from nats")
        };
        assert_eq!(heard, headed);

        let mut publisher = NativeClient::connect(broker.native_port());
        publisher.publish(&headed);
        let again = Msg {
            payload: b"from nats".to_vec(),
            ..expected
        };
        assert_eq!(nats.message(), again);
    }
}

#[test]
fn a_group_of_nats_and_native_members_shares_turns() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut nats: Vec<NatsClient> = (0..2)
            .map(|_| {
                let mut client = NatsClient::connect(broker.nats_port());
                client.send("SUB work crew 1\r\n");
                client.sync();
                client
            })
            .collect();
        let mut native = NativeClient::connect(broker.native_port());
        native.join("crew", 1, "work");
        let mut publisher = NatsClient::connect(broker.nats_port());
        let all: String = (0..300)
            .map(|n| format!("PUB work 3\r\n{n:03}\r\n"))
            .collect();
        publisher.send(&all);
        publisher.sync();
        let mut seen: Vec<String> = Vec::new();
        for client in &mut nats {
            let came = client.messages(99);
            seen.extend(
                came.iter()
                    .map(|msg| String::from_utf8(msg.payload.clone()).unwrap()),
            );
            while let Some(Said::Message(msg)) = client.said_within(Duration::from_millis(100)) {
                seen.push(String::from_utf8(msg.payload).unwrap());
            }
        }
        let left = 300 - seen.len();
        assert!((99..=101).contains(&left), "{left} for the native member");
        for _ in 0..left {
            let Frame::Turn { event, .. } = native.frame() else {
                panic!("no turn")
            };
            seen.push(String::from_utf8(event.payload).unwrap());
        }
        seen.sort();
        assert_eq!(
            seen,
            (0..300).map(|n| format!("{n:03}")).collect::<Vec<_>>()
        );
    }
}

#[test]
fn topics_that_are_no_subjects_are_counted_and_not_delivered() {
    let broker = Broker::start(1, &[]);
    let mut nats = NatsClient::connect(broker.nats_port());
    nats.send("SUB > 1\r\n");
    nats.sync();
    let mut redis = RawClient::connect(broker.port());
    for topic in ["with blank", "", "line\r\nPING"] {
        redis.call(&["PUBLISH", topic, "x"]);
    }
    assert_eq!(redis.call(&["PUBLISH", "fine", "x"]), Value::Integer(1));
    assert_eq!(nats.message(), Msg::plain("fine", "1", "x"));
    assert_eq!(counter(&mut redis, "events_not_carried"), 3);
}

#[test]
fn the_end_of_several_replies_goes_both_ways() {
    let broker = Broker::start(1, &[]);
    let mut nats = NatsClient::connect(broker.nats_port());
    nats.send("SUB answers 1\r\n");
    nats.sync();
    let mut native = NativeClient::connect(broker.native_port());
    native.subscribe("answers");
    let mut publisher = NatsClient::connect(broker.nats_port());
    publisher.publish("answers", "one");
    publisher.publish("answers", "");
    assert!(!native.message().is_end);
    assert!(native.message().is_end);
    assert_eq!(nats.messages(2)[1], Msg::plain("answers", "1", ""));
    let mut publisher = NativeClient::connect(broker.native_port());
    publisher.publish(&Event {
        is_end: true,
        ..Event::new("answers", "last")
    });
    assert_eq!(nats.message(), Msg::plain("answers", "1", "last"));
    assert_eq!(nats.message(), Msg::plain("answers", "1", ""));
}

#[test]
fn reserved_subjects_are_refused_or_unheard() {
    let broker = Broker::start(1, &[]);
    let mut client = NatsClient::connect(broker.nats_port());
    client.publish("$JS.x", "x");
    let line = client.line();
    let expected = "-ERR 'Permissions Violation for Publish to \"$JS.x\": names that begin with";
    assert!(line.starts_with(expected), "{line}");
    client.send("SUB inbox.* 1\r\nPUB $JS.API.INFO inbox.7 0\r\n\r\n");
    let unheard = client.message();
    assert_eq!(
        (&unheard.subject[..], &unheard.headers[..]),
        ("inbox.7", "NATS/1.0 503\r\n\r\n")
    );
    client.sync();
}

#[test]
fn headers_pass_from_nats_to_nats_as_they_came() {
    let blocks = [
        ("NATS/1.0\r\nA:b\r\nA:  c \r\n\r\n", "A=b A= c "),
        ("NATS/1.0\r\nMy Name: x\r\nno colon\r\nZ: y\r\n\r\n", "Z=y"),
        (
            "NATS/1.0 404 No Messages\r\n\r\n",
            "NATS-Status=404 No Messages",
        ),
        ("no headers", ""),
    ];
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscribers: Vec<NatsClient> = (0..CLIENTS)
            .map(|_| NatsClient::connect(broker.nats_port()))
            .collect();
        for client in &mut subscribers {
            client.send("SUB a 1\r\n");
            client.sync();
        }
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("a");
        let mut member = NativeClient::connect(broker.native_port());
        member.join("crew", 1, "a");
        let mut publisher = NatsClient::connect(broker.nats_port());
        for (block, pairs) in blocks {
            let (length, total) = (block.len(), block.len() + 1);
            publisher.send(&format!("HPUB a r {length} {total}\r\n{block}x\r\n"));
            let expected = Msg {
                reply: Some("r".into()),
                headers: block.to_string(),
                ..Msg::plain("a", "1", "x")
            };
            for client in &mut subscribers {
                assert_eq!(client.message(), expected);
            }
            let event = native.message();
            let turn = Frame::Turn {
                member: 1,
                event: event.clone(),
            };
            assert_eq!(member.frame(), turn);
            let shown: Vec<String> = event
                .headers
                .iter()
                .map(|(name, value)| [&name[..], b"=", value].concat())
                .map(|header| String::from_utf8(header).unwrap())
                .collect();
            assert_eq!(shown.join(" "), pairs, "{block:?}");
            assert_eq!(
                (event.reply.as_deref(), &event.payload[..]),
                (Some(&b"r"[..]), &b"x"[..])
            );
        }
    }
}

#[test]
fn names_with_a_dollar_are_subjects_like_others() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut service = NatsClient::connect(broker.nats_port());
        service.send("SUB $SRV.PING 1\r\nSUB $SRV.PING.> 2\r\nSUB > 3\r\n");
        service.sync();
        let mut redis = RawClient::connect(broker.port());
        redis.call(&["SUBSCRIBE", "$SYS/a/heartbeat"]);
        let mut client = NatsClient::connect(broker.nats_port());
        client.send("SUB inbox 1\r\nPUB $SRV.PING inbox 0\r\n\r\nPUB $SRV.PING.a 1\r\nx\r\nPUB a 1\r\ny\r\n");
        let asked = service.message();
        assert_eq!(
            (&asked.subject[..], asked.reply.as_deref()),
            ("$SRV.PING", Some("inbox"))
        );
        assert_eq!(service.message(), Msg::plain("$SRV.PING.a", "2", "x"));
        assert_eq!(
            service.message(),
            Msg::plain("a", "3", "y"),
            "> sees no name with a dollar"
        );
        service.publish("inbox", "pong");
        assert_eq!(client.message(), Msg::plain("inbox", "1", "pong"));
        let mut other = RawClient::connect(broker.port());
        assert_eq!(
            other.call(&["PUBLISH", "$SYS/a/heartbeat", "1"]),
            Value::Integer(1)
        );
        assert_eq!(
            other.call(&["SPUBLISH", "$JS.x", "1"]),
            Value::Integer(0),
            "shard channels have a namespace of their own"
        );
    }
}

#[test]
fn names_that_are_too_long_are_refused() {
    let broker = Broker::start(1, &[]);
    let mut client = NatsClient::connect(broker.nats_port());
    client.send("CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n");
    let long = "x".repeat(256);
    let name = "x".repeat(1_025);
    let shown = &name[1..];
    let tokens = vec!["t"; 65].join(".");
    let many = "the name has 65 tokens separated by '.', at most 64 are allowed";
    let block = format!("NATS/1.0\r\nA: {}\r\n\r\n", "x".repeat(65_520));
    let length = block.len();
    for (text, error) in [
        (
            format!("SUB a {long}"),
            "Subscription to \"a\": its sid has 256 bytes, at most 255 may".into(),
        ),
        (
            format!("SUB a {long} 1"),
            format!(
                "Subscription to \"a\" using queue \"{long}\": its queue name has 256 bytes, at most 255 may"
            ),
        ),
        (
            format!("SUB {name} 1"),
            format!(
                "Subscription to \"{shown}\": the name has 1025 bytes, at most 1024 are allowed"
            ),
        ),
        (
            format!("PUB {name} 1\r\nx"),
            format!("Publish to \"{shown}\": the name has 1025 bytes, at most 1024 are allowed"),
        ),
        (
            format!("PUB {tokens} 0\r\n"),
            format!("Publish to \"{tokens}\": {many}"),
        ),
        (
            format!("PUB a {tokens} 0\r\n"),
            format!("Publish to \"a\": its reply subject: {many}"),
        ),
        (
            format!("HPUB a {length} {length}\r\n{block}"),
            "Publish to \"a\": its headers have 65537 bytes, at most 65535 may".into(),
        ),
    ] {
        client.send(&format!("{text}\r\n"));
        assert_eq!(
            client.line(),
            format!("-ERR 'Permissions Violation for {error}'")
        );
    }
    // One byte less is a name like others.
    client.send(&format!("SUB a {}\r\n", &long[1..]));
    client.publish("a", "x");
    assert_eq!(client.message(), Msg::plain("a", &long[1..], "x"));
}

#[test]
fn violations_close_and_say_why() {
    let (broker, _config) = broker_with_limits(1, "control_line_bytes_max = 200");
    let oversize = format!("PUB a {}\r\n", 64 * 1024 * 1024 + 1);
    let line = format!("SUB {} 1\r\n", "a".repeat(300));
    let cases = [
        ("HELLO\r\n", "Unknown Protocol Operation"),
        ("PUB a 1\r\nxyz\r\n", "Unknown Protocol Operation"),
        ("CONNECT nothing\r\n", "Unknown Protocol Operation"),
        (&oversize, "Maximum Payload Violation"),
        (&line, "maximum control line exceeded"),
    ];
    for (text, error) in cases {
        let mut client = NatsClient::connect(broker.nats_port());
        client.send(text);
        assert_eq!(client.line(), format!("-ERR '{error}'"), "{text:?}");
        assert_eq!(client.said(), Said::End);
    }
    let mut redis = RawClient::connect(broker.port());
    assert_eq!(counter(&mut redis, "closed_protocol"), cases.len() as u64);
}

#[test]
fn silent_clients_are_asked_and_then_closed() {
    let (broker, _config) = broker_with_limits(1, "ping_ms = 100");
    let begin = Instant::now();
    let mut deaf = NatsClient::connect(broker.nats_port());
    assert_eq!(deaf.line(), "PING");
    assert_eq!(deaf.line(), "PING");
    assert_eq!(deaf.line(), "-ERR 'Stale Connection'");
    assert_eq!(deaf.said(), Said::End);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    // This one answers, and stays for as long as it does so.
    let mut alive = NatsClient::connect(broker.nats_port());
    for _ in 0..8 {
        assert_eq!(alive.line(), "PING");
        alive.send("PONG\r\n");
    }
    let mut redis = RawClient::connect(broker.port());
    assert_eq!(counter(&mut redis, "closed_stale"), 1);
}

#[test]
fn passwords_users_and_tokens_are_asked_for() {
    for (user, right) in [(None, "default"), (Some("service"), "service")] {
        let config = File::new(&user.map_or(String::new(), |user| format!("user = \"{user}\"\n")));
        let broker = Broker::start_guarded(1, "secret", &["--config", config.path()]);
        let port = broker.nats_port();
        assert_eq!(NatsClient::dial(port).info["auth_required"], true);
        let let_in = [
            format!(r#"{{"verbose":false,"user":"{right}","pass":"secret"}}"#),
            r#"{"verbose":false,"auth_token":"secret"}"#.to_string(),
        ];
        for json in &let_in {
            NatsClient::connect_with(port, json).sync();
        }
        let kept_out = [
            r#"CONNECT {"verbose":false}"#.to_string(),
            r#"CONNECT {"user":"nobody","pass":"secret"}"#.to_string(),
            format!(r#"CONNECT {{"user":"{right}","pass":"wrong"}}"#),
            r#"CONNECT {"auth_token":"wrong"}"#.to_string(),
            "PING".to_string(),
            "PUB a 99999999".to_string(),
        ];
        for text in &kept_out {
            let mut client = NatsClient::dial(port);
            client.send(&format!("{text}\r\n"));
            assert_eq!(client.line(), "-ERR 'Authorization Violation'", "{text}");
            assert_eq!(client.said(), Said::End);
        }
    }
}

#[test]
fn a_lame_duck_says_so_and_sends_its_clients_away_bit_by_bit() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &["--lame-duck", "2"]);
        let mut clients: Vec<NatsClient> = (0..CLIENTS)
            .map(|_| NatsClient::connect(broker.nats_port()))
            .collect();
        // One that does not understand INFO at any time.
        let mut old = NatsClient::connect_with(broker.nats_port(), r#"{"verbose":false}"#);
        let begin = Instant::now();
        signal(&broker, Signal::USR2);
        for client in &mut clients {
            assert_eq!(read_info(&client.line())["ldm"], true);
        }
        wait_until("nobody is let in any more", || {
            std::net::TcpStream::connect(("127.0.0.1", broker.nats_port())).is_err()
        });
        clients[0].sync();
        let mut ends: Vec<Duration> = clients
            .iter_mut()
            .map(|client| {
                assert_eq!(client.said(), Said::End);
                begin.elapsed()
            })
            .collect();
        assert_eq!(old.said(), Said::End);
        ends.sort();
        assert!(
            ends[CLIENTS - 1] >= Duration::from_secs(1),
            "all at once: {ends:?}"
        );
        assert_eq!(exit_code(&broker, Duration::from_secs(10)), Some(0));
    }
}

#[test]
fn a_drain_says_so() {
    let broker = Broker::start(1, &[]);
    let mut client = NatsClient::connect(broker.nats_port());
    signal(&broker, Signal::TERM);
    assert_eq!(read_info(&client.line())["ldm"], true);
    assert_eq!(client.said(), Said::End);
    assert_eq!(exit_code(&broker, Duration::from_secs(10)), Some(0));
    assert!(CONNECT.contains("protocol"));
}
