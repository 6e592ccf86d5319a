//! Clients that break the native protocol, by mistake or on purpose: they are told why, closed where the protocol says
//! so, and nobody else notices.

mod common;
#[path = "common/load.rs"]
mod load;

use std::io::Write;
use std::time::Duration;

use common::Broker;
use common::native::{Event, Frame, NativeClient};
use common::resp::{RawClient, Value};
use load::{
    alone, baseline_kib, broker_with_limits, check_peak, counter, exit_code, signal, wait_until,
    want_descriptors,
};
use rustix::process::Signal;
use sapwood_wire::native::{self, Hello, Policy, Subscription, When, kind};

/// Two who stay within the protocol, and look whether they are still served.
struct Bystanders {
    subscriber: NativeClient,
    publisher: NativeClient,
    asker: RawClient,
    events: u32,
}

impl Bystanders {
    fn new(broker: &Broker) -> Bystanders {
        let mut subscriber = NativeClient::connect(broker.native_port());
        subscriber.subscribe("quiet");
        Bystanders {
            subscriber,
            publisher: NativeClient::connect(broker.native_port()),
            asker: RawClient::connect(broker.port()),
            events: 0,
        }
    }

    fn notice_nothing(&mut self) {
        self.events += 1;
        let event = Event::new("quiet", self.events.to_le_bytes());
        assert_eq!(self.publisher.publish_counted(&event), 1);
        assert_eq!(self.subscriber.message(), event);
    }

    fn counter(&mut self, name: &str) -> u64 {
        counter(&mut self.asker, name)
    }
}

fn frame(kind: u8, fields: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    native::write_frame(&mut bytes, kind, |out| out.extend_from_slice(fields));
    bytes
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    native::write_hello(&mut bytes, &Hello::default());
    bytes
}

/// What it is, its bytes, and the code that the connection is closed with.
type ClosingCase = (&'static str, Vec<u8>, u16);

/// What a client must not begin with.
fn instead_of_hello() -> Vec<ClosingCase> {
    let hello = |fields: &[u8]| frame(kind::HELLO, fields);
    let gigabytes = [&u32::MAX.to_le_bytes()[..], b"\x01SAPW\x01\x01"].concat();
    let over_cap = [&16_385u32.to_le_bytes()[..], &[kind::HELLO]].concat();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    vec![
        ("a HELLO of four gigabytes", gigabytes, 101),
        ("a HELLO above its cap", over_cap, 101),
        ("an empty frame", vec![0; 4], 100),
        ("another magic", hello(b"SAPX\x01\x01"), 100),
        ("a short HELLO", hello(b"SAPW\x01"), 100),
        ("a cut option", hello(b"SAPW\x01\x01\x03\x09\0x"), 100),
        ("no such policy", hello(b"SAPW\x01\x01\x05\x01\0\x09"), 100),
        ("newer versions", hello(b"SAPW\x02\xff"), 103),
        ("no version at all", hello(b"SAPW\x02\x01"), 103),
        ("a PING", frame(kind::PING, &[1, 0, 0, 0]), 104),
        ("an unknown kind", frame(0x77, b""), 104),
        ("RESP", b"*1\r\n$4\r\nPING\r\n".to_vec(), 101),
        ("an inline command", b"PING\r\n".to_vec(), 101),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 101),
        ("TLS", tls.to_vec(), 101),
    ]
}

/// What a client must not send once it is let in.
fn behind_hello() -> Vec<ClosingCase> {
    let message = |fields: &[u8]| frame(kind::MESSAGE, fields);
    let over_cap = [&67_239_937u32.to_le_bytes()[..], &[kind::PUBLISH]].concat();
    let when = frame(kind::PUBLISH, b"\x01\0\0\0\x04\0\x01\0a");
    let member = frame(kind::SUBSCRIBE, b"\x01\0\0\0\x01\0\0\0\0a");
    vec![
        ("a frame above the cap", over_cap, 101),
        ("four gigabytes", vec![255; 4], 101),
        ("an empty frame", vec![0; 4], 100),
        ("a second HELLO", hello(), 104),
        ("an unknown kind", frame(0x77, b""), 102),
        ("the broker's kind", frame(kind::WELCOME, b"\x01"), 102),
        ("request 0", frame(kind::PING, &[0; 4]), 100),
        ("too much", frame(kind::PING, &[1, 0, 0, 0, 0]), 100),
        ("too little", frame(kind::PING, &[1, 0, 0]), 100),
        ("another when", when, 100),
        ("unknown flags", message(b"\x08\x01\0a"), 100),
        ("a cut topic", message(b"\0\x05\0a"), 100),
        ("cut headers", message(b"\x02\x01\0a\x03\0\x01xy"), 100),
        ("a member of no group", member, 100),
    ]
}

#[test]
fn who_breaks_the_protocol_is_told_and_closed() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut bystanders = Bystanders::new(&broker);
        let (before, behind) = (instead_of_hello(), behind_hello());
        let before = before.iter().map(|case| (case, false));
        let cases: Vec<_> = before
            .chain(behind.iter().map(|case| (case, true)))
            .collect();
        for &((what, bytes, code), is_welcome) in &cases {
            let mut client = match is_welcome {
                true => NativeClient::connect(broker.native_port()),
                false => NativeClient::dial(broker.native_port()),
            };
            // What stands behind it is not carried out.
            let event = Event::new("quiet", "not to be heard");
            client.write(|out| {
                out.extend_from_slice(bytes);
                native::write_message(out, &event.message());
            });
            assert_eq!(client.error(), (*code, 0), "{what}");
            client.expect_close();
            bystanders.notice_nothing();
        }
        assert_eq!(bystanders.counter("closed_protocol"), cases.len() as u64);
        assert_eq!(bystanders.counter("input_bytes"), 0);
    }
}

#[test]
fn another_protocol_s_client_is_asked_whether_it_meant_this_one() {
    let _alone = alone();
    let broker = Broker::start(1, &[]);
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = NativeClient::dial(broker.native_port());
        client.send(bytes);
        match client.frame() {
            Frame::Error { text, .. } => assert!(text.contains("native protocol?"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    // And the other way round.
    let mut client = RawClient::connect(broker.port());
    client.send(&hello());
    client.send(b"\r\n");
    assert!(matches!(client.value(), Value::Error(_)));
}

#[test]
fn what_is_refused_changes_nothing_and_the_connection_goes_on() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut bystanders = Bystanders::new(&broker);
        let mut client = NativeClient::connect(broker.native_port());
        let long = "t".repeat(1_025);
        let deep = vec!["x"; 65].join(".");
        let with_reply = |reply: &str| Event {
            reply: Some(reply.into()),
            ..Event::new("quiet", "not to be heard")
        };
        let bad_header = |name: &[u8], value: &[u8]| {
            let mut message = b"\x02\x05\0quiet".to_vec();
            let length = (3 + name.len() + value.len()) as u16;
            message.extend_from_slice(&length.to_le_bytes());
            message.push(name.len() as u8);
            message.extend_from_slice(name);
            native::write_text16(&mut message, value);
            message
        };
        let messages = [
            (Event::new("$JS.x", "x").message(), 201),
            (Event::new("$O.", "x").message(), 201),
            (Event::new("$SYS.REQ.a", "x").message(), 201),
            (Event::new(&long, "x").message(), 200),
            (Event::new(&deep, "x").message(), 200),
            (with_reply(&long).message(), 200),
            (with_reply(&deep).message(), 200),
            (bad_header(b"", b"x"), 203),
            (bad_header(b"a b", b"x"), 203),
            (bad_header(b"a:", b"x"), 203),
            (bad_header(b"a", b"x\r\nb: y"), 203),
            (bad_header(b"a", b"\0"), 203),
            (Event::new("quiet", vec![0; 64 * 1024 * 1024]).message(), 0),
        ];
        for (mut message, code) in messages {
            let mut code = code;
            if code == 0 {
                message.push(0);
                code = 202;
            }
            client.write(|out| native::write_message(out, &message));
            assert_eq!(client.error(), (code, 0));
            for when in [When::Always, When::Unheard] {
                client.write(|out| native::write_publish(out, 77, when, &message));
                assert_eq!(client.error(), (code, 77));
            }
        }
        let too_deep_wildcard = format!("{deep}.>");
        for filter in [&long, &deep, &too_deep_wildcard, "a.>.b", ">.a"] {
            let request = client.send_subscription(kind::SUBSCRIBE, "", 0, filter);
            assert_eq!(client.error(), (200, request), "{filter:?}");
            let request = client.send_subscription(kind::SUBSCRIBE, "g", 1, filter);
            assert_eq!(client.error(), (200, request), "{filter:?}");
        }
        assert_eq!(client.subscribe("a"), 1, "something was subscribed to");
        assert_eq!(client.ping(), []);
        bystanders.notice_nothing();
    }
}

#[test]
fn a_frame_cut_at_any_byte_by_the_end_of_its_connection_is_never_carried_out() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut bystanders = Bystanders::new(&broker);
        let mut bytes = hello();
        let whole_hello = bytes.len();
        let event = Event {
            reply: Some(b"r".to_vec()),
            headers: vec![(b"h".to_vec(), b"v".to_vec())],
            ..Event::new("quiet", "not to be heard")
        };
        native::write_publish(&mut bytes, 1, When::Always, &event.message());
        for cut in 0..bytes.len() {
            let mut client = NativeClient::dial(broker.native_port());
            client.send(&bytes[..cut]);
            client.stream().shutdown(std::net::Shutdown::Write).unwrap();
            let rest = client.rest();
            let is_welcome = matches!(rest[..], [Frame::Welcome { .. }]);
            assert!(if cut < whole_hello {
                rest.is_empty()
            } else {
                is_welcome
            });
        }
        bystanders.notice_nothing();
        assert_eq!(bystanders.counter("input_bytes"), 0);
        assert_eq!(bystanders.counter("connections"), 3);
    }
}

#[test]
fn promises_of_gigabytes_cost_less_than_a_mebibyte() {
    let _alone = alone();
    want_descriptors(1_500);
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut bystanders = Bystanders::new(&broker);
        let mut clients: Vec<NativeClient> = (0..500)
            .map(|_| NativeClient::connect(broker.native_port()))
            .collect();
        let baseline = baseline_kib(&broker);
        let promise = [&(64u32 << 20).to_le_bytes()[..], b"\x10\0\x05\0quiet"].concat();
        for client in &mut clients {
            client.send(&promise);
        }
        wait_until("all promises were read", || {
            bystanders.counter("input_bytes") >= 500 * promise.len() as u64
        });
        for _ in 0..500 {
            let mut liar = NativeClient::dial(broker.native_port());
            liar.send(&u32::MAX.to_le_bytes());
            assert_eq!(liar.error(), (101, 0));
            liar.expect_close();
        }
        check_peak(
            "500 promises of 64 MiB and 500 of 4 GiB",
            &broker,
            baseline,
            1024,
        );
        bystanders.notice_nothing();
    }
}

#[test]
fn ten_thousand_subscriptions_in_one_write_are_answered_in_order() {
    const COUNT: u32 = 10_000;
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut bystanders = Bystanders::new(&broker);
        let mut client = NativeClient::connect(broker.native_port());
        let mut bytes = Vec::new();
        for number in 1..=COUNT {
            let filter = format!("many.{number}.*");
            let subscription = Subscription {
                member: if number % 2 == 0 { number } else { 0 },
                group: if number % 2 == 0 { b"g" } else { b"" },
                filter: filter.as_bytes(),
            };
            native::write_subscription(&mut bytes, kind::SUBSCRIBE, number, &subscription);
        }
        client.send(&bytes);
        for number in 1..=COUNT {
            assert_eq!(client.acknowledged(number), number);
        }
        for number in (1..=COUNT).step_by(97) {
            let event = Event::new(&format!("many.{number}.x"), "");
            assert_eq!(bystanders.publisher.publish_counted(&event), 1);
            let expected = match number % 2 {
                0 => Frame::Turn {
                    member: number,
                    event,
                },
                _ => Frame::Message(event),
            };
            assert_eq!(client.frame(), expected);
        }
        // It hears what it publishes at once, in one write with the subscriptions' end.
        client.write(|out| {
            native::write_message(out, &Event::new("many.1.y", "last").message());
            native::write_request(out, kind::DRAIN, 5);
        });
        assert_eq!(client.message(), Event::new("many.1.y", "last"));
        assert_eq!(client.acknowledged(5), COUNT);
        bystanders.notice_nothing();
        assert_eq!(bystanders.counter("filters"), 1);
    }
}

#[test]
fn subscriptions_and_filters_past_their_caps_are_refused() {
    let _alone = alone();
    for shards in [1, 2] {
        let limits = "subscriptions_max = 3\nfilters_max = 5";
        let (broker, _config) = broker_with_limits(shards, limits);
        let mut bystanders = Bystanders::new(&broker);
        let mut client = NativeClient::connect(broker.native_port());
        client.subscribe("a");
        client.subscribe("b.*");
        client.subscribe("c");
        let request = client.send_subscription(kind::SUBSCRIBE, "", 0, "d");
        assert_eq!(client.error(), (204, request));
        let request = client.send_subscription(kind::SUBSCRIBE, "g", 1, "a");
        assert_eq!(client.error(), (204, request));
        assert_eq!(client.subscribe("a"), 3, "it has that already");
        let request = client.send_subscription(kind::UNSUBSCRIBE, "", 0, "a");
        assert_eq!(client.acknowledged(request), 2);
        // With `quiet` the node knows three filters now.
        let mut other = NativeClient::connect(broker.native_port());
        other.subscribe("e");
        other.subscribe("f");
        let request = other.send_subscription(kind::SUBSCRIBE, "", 0, "g");
        assert_eq!(other.error(), (205, request));
        assert_eq!(other.subscribe("b.*"), 3, "the node knows that already");
        bystanders.notice_nothing();
    }
}

#[test]
fn guests_who_send_no_hello_in_time_are_told_and_closed() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "guest_ms_max = 1000");
        let mut bystanders = Bystanders::new(&broker);
        let mut silent = NativeClient::dial(broker.native_port());
        let mut dawdling = NativeClient::dial(broker.native_port());
        dawdling.send(&hello()[..8]);
        assert_eq!(silent.error(), (107, 0));
        assert_eq!(dawdling.error(), (107, 0));
        silent.expect_close();
        dawdling.expect_close();
        assert_eq!(bystanders.counter("closed_guest_timeout"), 2);
        bystanders.notice_nothing();
    }
}

#[test]
fn connections_past_the_cap_are_told_and_closed() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "connections_max = 4");
        let mut bystanders = Bystanders::new(&broker);
        // The kernel chooses the shard: after so many attempts each is full. All come from loopback, so each gets in, and
        // those beyond the cap that came first make room for it.
        let mut clients = Vec::new();
        for _ in 0..60 {
            let mut client = NativeClient::dial(broker.native_port());
            client.send(&hello());
            assert!(matches!(client.frame(), Frame::Welcome { .. }));
            clients.push(client);
        }
        let (mut served, mut refused) = (0, 0);
        for client in &mut clients {
            client.write(|out| native::write_request(out, kind::PING, 1));
            match client.frame() {
                Frame::Ack { .. } => served += 1,
                Frame::Error { code, text, .. } => {
                    assert_eq!(code, 106, "{text}");
                    client.expect_close();
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        // Four of each shard, and four beyond its cap; the bystanders and this test's control are among the first.
        assert_eq!(served, 8 * shards - 3);
        assert_eq!(bystanders.counter("connections_refused"), refused);
        bystanders.notice_nothing();
    }
}

#[test]
fn only_the_right_password_lets_a_client_in() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start_with_password(shards, "secret");
        let with = |user, password| Hello {
            user,
            password,
            ..Hello::default()
        };
        type Given<'a> = Option<&'a [u8]>;
        let wrong: [(Given, Given); 6] = [
            (None, None),
            (None, Some(b"")),
            (None, Some(b"secre")),
            (None, Some(b"secret\0")),
            (Some(b"root"), Some(b"secret")),
            (Some(b""), Some(b"secret")),
        ];
        for (user, password) in wrong {
            let mut client = NativeClient::dial(broker.native_port());
            client.write(|out| {
                native::write_hello(out, &with(user, password));
                // None of what stands behind a HELLO that is refused is carried out.
                native::write_request(out, kind::PING, 1);
            });
            assert_eq!(client.error(), (105, 0), "{user:?}, {password:?}");
            client.expect_close();
        }
        let default: &[u8] = b"default";
        for user in [None, Some(default)] {
            let mut client =
                NativeClient::connect_with(broker.native_port(), &with(user, Some(b"secret")));
            assert_eq!(client.ping(), []);
        }
        let mut asker = RawClient::connect(broker.port());
        assert_eq!(asker.call(&["AUTH", "secret"]), Value::ok());
        assert_eq!(counter(&mut asker, "wrong_passwords"), 5);
    }
}

#[test]
fn a_name_cannot_forge_a_line_of_the_list_of_clients() {
    let _alone = alone();
    let broker = Broker::start(2, &[]);
    let hello = Hello {
        name: "ada\nid=1 addr=nobody lost=7 ü",
        library: "some lib/1 0\r\n",
        ..Hello::default()
    };
    let client = NativeClient::connect_with(broker.native_port(), &hello);
    let mut asker = RawClient::connect(broker.port());
    let list = asker.call(&["CLIENT", "LIST"]).text();
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(!list.contains("addr=nobody lost"), "{list}");
    let field = |name, asker: &mut RawClient| client.field(asker, name);
    let name = "ada_id=1_addr=nobody_lost=7_ü";
    assert_eq!(field("name", &mut asker).as_deref(), Some(name));
    assert_eq!(field("lib-name", &mut asker).as_deref(), Some("some_lib"));
    assert_eq!(field("lib-ver", &mut asker).as_deref(), Some("1_0__"));
    assert_eq!(field("lost", &mut asker).as_deref(), Some("0"));
}

#[test]
fn who_does_not_read_answers_is_not_read_on_and_has_them_all_later() {
    let _alone = alone();
    for shards in [1, 2] {
        for policy in Policy::ALL {
            let (broker, _config) = broker_with_limits(shards, "outbox_bytes_max = \"1MiB\"");
            let mut bystanders = Bystanders::new(&broker);
            let mut greedy = NativeClient::connect_with_policy(broker.native_port(), policy);
            let baseline = baseline_kib(&broker);
            let mut bytes = Vec::new();
            const AT_A_TIME: u32 = 10_000;
            let mut sent = 0;
            greedy.stream().set_nonblocking(true).unwrap();
            // Until the broker reads no more: its socket and ours are full.
            let mut unsent: Vec<u8> = Vec::new();
            wait_until("the broker does not read on", || {
                if unsent.is_empty() {
                    bytes.clear();
                    (1..=AT_A_TIME)
                        .for_each(|n| native::write_request(&mut bytes, kind::PING, sent + n));
                    sent += AT_A_TIME;
                    unsent.clone_from(&bytes);
                }
                while let Ok(count @ 1..) = greedy.stream().write(&unsent) {
                    unsent.drain(..count);
                    if unsent.is_empty() {
                        return false;
                    }
                }
                bystanders.counter("stalled_readers") > 0
            });
            bystanders.notice_nothing();
            check_peak("unread answers", &broker, baseline, 16 * 1024);
            greedy.stream().set_nonblocking(false).unwrap();
            let mut rest = greedy.stream().try_clone().unwrap();
            let writer = std::thread::spawn(move || rest.write_all(&unsent).unwrap());
            for request in 1..=sent {
                assert_eq!(greedy.acknowledged(request), 0);
            }
            writer.join().expect("the broker reads on");
            assert_eq!(greedy.ping(), []);
        }
    }
}

#[test]
fn a_broker_that_ends_says_so_behind_everything_published_before() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscribers: Vec<NativeClient> = (0..4)
            .map(|place| NativeClient::connect_to_shard(&broker, place % shards, Policy::Close))
            .collect();
        for client in &mut subscribers {
            client.subscribe("last.*");
        }
        let mut guest = NativeClient::dial(broker.native_port());
        let mut publisher = NativeClient::connect_to_shard(&broker, 0, Policy::Close);
        for number in 0..1_000u32 {
            publisher.publish(&Event::new("last.a", number.to_le_bytes()));
        }
        assert_eq!(publisher.ping(), []);
        signal(&broker, Signal::TERM);
        for client in &mut subscribers {
            let frames = client.rest();
            let mut numbers = 0..1_000u32;
            let mut draining = 0;
            for frame in &frames {
                match frame {
                    Frame::Draining(1..) => draining += 1,
                    Frame::Message(event) => {
                        let number = numbers.next().expect("a thousand");
                        assert_eq!(event.payload, number.to_le_bytes());
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(numbers.next(), None);
            assert_eq!((draining, frames.len()), (1, 1_001));
        }
        assert!(matches!(publisher.rest()[..], [Frame::Draining(1..)]));
        assert_eq!(guest.rest(), [], "a guest is told nothing");
        assert_eq!(exit_code(&broker, Duration::from_secs(10)), Some(0));
    }
}

#[test]
fn what_random_bytes_do_to_one_connection_stays_there() {
    let _alone = alone();
    let seed = std::env::var("SAPWOOD_SEED")
        .map_or(1, |text| text.parse().expect("SAPWOOD_SEED is a number"));
    println!("SAPWOOD_SEED={seed}");
    let broker = Broker::start(2, &[]);
    let mut bystanders = Bystanders::new(&broker);
    let mut state: u64 = seed;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let mut valid = Vec::new();
    let event = Event {
        reply: Some(b"noise.reply".to_vec()),
        headers: vec![(b"h".to_vec(), b"v".to_vec())],
        ..Event::new("noise.a", "x")
    };
    native::write_publish(&mut valid, 3, When::Unheard, &event.message());
    native::write_message(&mut valid, &event.message());
    for (group, member) in [(&b"g"[..], 4), (b"g", 5), (b"", 0)] {
        let subscription = Subscription {
            member,
            group,
            filter: b"noise.>",
        };
        native::write_subscription(&mut valid, kind::SUBSCRIBE, 6, &subscription);
        native::write_subscription(&mut valid, kind::UNSUBSCRIBE, 7, &subscription);
        native::write_subscription(&mut valid, kind::SUBSCRIBE, 8, &subscription);
    }
    native::write_message(&mut valid, &event.message());
    native::write_request(&mut valid, kind::DRAIN, 9);
    for round in 0..500 {
        let mut bytes = valid.clone();
        for _ in 0..below(4) {
            let place = below(bytes.len());
            bytes[place] = below(256) as u8;
        }
        bytes.truncate(below(bytes.len()) + 1);
        let mut client = NativeClient::dial(broker.native_port());
        if below(8) > 0 {
            client.send(&hello());
        }
        client.send(&bytes);
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        client.rest();
        if round % 50 == 0 {
            bystanders.notice_nothing();
        }
    }
    bystanders.notice_nothing();
    assert_eq!(bystanders.counter("connections"), 3);
    assert_eq!(bystanders.counter("input_bytes"), 0);
    assert_eq!(bystanders.counter("subscriptions"), 1);
}
