//! Messages over the native protocol: bytes, replies to requests, and what clients of the Redis protocol hear.
//!
//! Every test runs with one shard and with two.

mod common;
#[path = "common/load.rs"]
mod load;

use std::io::Write;
use std::thread;

use common::Broker;
use common::native::{Event, Frame, NativeClient};
use common::resp::{RawClient, Value, request};
use load::{alone, connect_to_shard};
use sapwood_wire::native::{self, Policy, When};

const PAYLOAD_MAX: usize = 64 * 1024 * 1024;

fn connect(broker: &Broker, shard: usize) -> NativeClient {
    NativeClient::connect_to_shard(broker, shard % broker.shards(), Policy::Close)
}

/// Every byte value, again and again from another start.
fn all_bytes(size: usize, start: u8) -> Vec<u8> {
    (0..=255)
        .cycle()
        .skip(usize::from(start))
        .take(size)
        .collect()
}

/// Messages of every form, with payloads of this size.
fn events(topic: &str, size: usize) -> Vec<Event> {
    let header = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let mut legal: Vec<u8> = (0..=255).collect();
    legal.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    let headers = vec![
        header("Trace-Id", b"7"),
        header("trace-id", &legal),
        header("!#$%&'*+-.^_`|~", b""),
        header("Trace-Id", b"again"),
    ];
    let mut events = Vec::new();
    for flags in 0..8u8 {
        events.push(Event {
            reply: (flags & 1 != 0).then(|| b"_INBOX.\x00\xff.1".to_vec()),
            headers: if flags & 2 != 0 {
                headers.clone()
            } else {
                Vec::new()
            },
            is_end: flags & 4 != 0,
            ..Event::new(topic, all_bytes(size, flags))
        });
    }
    events
}

#[test]
fn every_message_arrives_byte_for_byte_on_every_shard() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut publisher = connect(&broker, 0);
        let mut plain = [connect(&broker, 0), connect(&broker, 1)];
        let mut members = [connect(&broker, 0), connect(&broker, 1)];
        let mut redis = [
            connect_to_shard(broker.port(), 0),
            connect_to_shard(broker.port(), shards - 1),
        ];
        plain[0].subscribe("bytes.>");
        plain[1].subscribe("bytes.a");
        for (number, member) in members.iter_mut().enumerate() {
            // Each alone in its group: every event is its turn.
            member.join(&format!("g{number}"), u32::MAX, "*.a");
        }
        for subscriber in &mut redis {
            subscriber.call(&["SUBSCRIBE", "bytes.a"]);
        }
        // Empty and small; around the size from which payloads are shared; large.
        let sizes = [0, 1, 16, 256, 16_383, 16_384, 20_000, 1 << 20, PAYLOAD_MAX];
        for size in sizes {
            let mut events = events("bytes.a", size);
            if size == PAYLOAD_MAX {
                // The fullest one is enough, where it also crosses shards.
                events.drain(..if shards > 1 { 7 } else { 8 });
            }
            for event in events {
                // Two plain ones, two groups, two by the Redis protocol.
                let count = publisher.publish_counted(&event);
                assert_eq!(count, 6);
                for client in &mut plain {
                    assert!(client.message() == event, "{size} bytes: changed");
                }
                for client in &mut members {
                    match client.frame() {
                        Frame::Turn {
                            member,
                            event: other,
                        } => {
                            assert!(
                                member == u32::MAX && other == event,
                                "{size} bytes: changed"
                            );
                        }
                        other => panic!("{other:?} is no turn"),
                    }
                }
                for subscriber in &mut redis {
                    let Value::Array(words) = subscriber.value() else {
                        panic!("no array");
                    };
                    let head = ["message", "bytes.a"].map(Value::bulk);
                    assert_eq!(words[..2], head);
                    assert!(
                        words[2] == Value::Bulk(event.payload.clone()),
                        "{size} bytes: changed"
                    );
                }
            }
        }
    }
}

#[test]
fn topics_of_any_bytes_reach_exactly_their_filters() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut publisher = connect(&broker, 0);
        let mut client = connect(&broker, 1);
        // A wildcard's token that is only part of one is an ordinary byte.
        let longest = "t".repeat(1_024);
        let deepest = vec!["x"; 64].join(".");
        let names = [
            "a b",
            "a*",
            ">a",
            "a..b",
            "\u{0}\r\n",
            "ä.ö",
            &longest,
            &deepest,
        ];
        for (count, name) in names.iter().enumerate() {
            assert_eq!(client.subscribe(name), count as u32 + 1);
        }
        for name in names {
            let event = Event::new(name, "1");
            assert_eq!(publisher.publish_counted(&event), 1, "{name:?}");
            assert_eq!(client.message(), event);
        }
        for name in ["a", "ab", "A B", "aa", "a.b", "a..B", ".", ""] {
            assert_eq!(
                publisher.publish_counted(&Event::new(name, "1")),
                0,
                "{name:?}"
            );
        }
        assert_eq!(client.ping(), []);
    }
}

const REQUESTS: u32 = 20;
const REPLIES: u32 = 3;

#[test]
fn a_hundred_requesters_get_all_their_replies_in_order() {
    const REQUESTERS: usize = 100;
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut requesters: Vec<NativeClient> = (0..REQUESTERS)
            .map(|_| NativeClient::connect(broker.native_port()))
            .collect();
        for (number, client) in requesters.iter_mut().enumerate() {
            assert_eq!(client.subscribe(&format!("_INBOX.{number}.*")), 1);
        }
        // Three who share the requests, on both shards.
        let responders: Vec<_> = (0..3)
            .map(|place| {
                let mut client = connect(&broker, place);
                client.join("workers", place as u32, "svc.*");
                client.subscribe("stop");
                thread::spawn(move || respond(&mut client))
            })
            .collect();
        for (number, client) in requesters.iter_mut().enumerate() {
            // All at once, and behind them one that nobody hears: its ACK is the only one.
            let mut bytes = Vec::new();
            for request in 0..REQUESTS {
                let event = Event {
                    reply: Some(format!("_INBOX.{number}.{request}").into()),
                    ..Event::new("svc.add", request.to_le_bytes())
                };
                native::write_publish(&mut bytes, 1 + request, When::Unheard, &event.message());
            }
            client.send(&bytes);
        }
        for (number, client) in requesters.iter_mut().enumerate() {
            check_replies(client, number);
        }
        let mut stopper = connect(&broker, 0);
        stopper.publish(&Event::new("stop", ""));
        let handled: Vec<u32> = responders
            .into_iter()
            .map(|responder| responder.join().expect("a responder responds"))
            .collect();
        println!("{shards} shards: the responders handled {handled:?} requests");
        let all = REQUESTS * REQUESTERS as u32;
        assert_eq!(handled.iter().sum::<u32>(), all);
        // Each shard that publishes takes its own turns.
        let fair = all / 3;
        assert!(
            handled
                .iter()
                .all(|count| count.abs_diff(fair) <= shards as u32),
            "{handled:?}"
        );
    }
}

/// Answers each request by several replies, the last of them with the end mark; gives how many it was asked.
fn respond(client: &mut NativeClient) -> u32 {
    let mut handled = 0;
    loop {
        let event = match client.frame() {
            Frame::Turn { event, .. } => event,
            Frame::Message(_) => return handled,
            other => panic!("{other:?}"),
        };
        let topic = event.reply.expect("a request says where to reply");
        let topic = String::from_utf8(topic).expect("an inbox is text");
        for reply in 0..REPLIES {
            let mut payload = event.payload.clone();
            payload.extend_from_slice(&reply.to_le_bytes());
            client.publish(&Event::new(&topic, payload));
        }
        client.publish(&Event {
            is_end: true,
            ..Event::new(&topic, "")
        });
        handled += 1;
    }
}

/// Reads the replies to all requests of one requester, in whatever order the requests are answered.
fn check_replies(client: &mut NativeClient, number: usize) {
    let mut next = [0; REQUESTS as usize];
    let mut missing = REQUESTS * (REPLIES + 1);
    while missing > 0 {
        let event = client.message();
        let topic = String::from_utf8(event.topic.clone()).expect("an inbox is text");
        let request = topic.strip_prefix(&format!("_INBOX.{number}."));
        let request: u32 = request.expect("another's inbox").parse().expect("a number");
        let reply = &mut next[request as usize];
        if *reply == REPLIES {
            assert!(event.is_end && event.payload.is_empty(), "{event:?}");
        } else {
            let expected = [request.to_le_bytes(), reply.to_le_bytes()].concat();
            assert!(!event.is_end && event.payload == expected, "{event:?}");
        }
        *reply += 1;
        missing -= 1;
    }
    assert_eq!(next, [REPLIES + 1; REQUESTS as usize]);
    assert_eq!(
        client.ping(),
        [],
        "somebody listened, so that no request was to be answered"
    );
}

#[test]
fn a_request_that_nobody_hears_is_answered_at_once() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut requester = connect(&broker, 0);
        requester.subscribe("_INBOX.u.*");
        let event = Event {
            reply: Some(b"_INBOX.u.1".to_vec()),
            ..Event::new("svc.add", "?")
        };
        let ask = |requester: &mut NativeClient| {
            let request = requester.request();
            let message = event.message();
            requester.write(|out| native::write_publish(out, request, When::Unheard, &message));
            request
        };
        // The ACK is the next frame, round after round; nothing waits for a time to pass.
        for _ in 0..100 {
            let request = ask(&mut requester);
            assert_eq!(requester.acknowledged(request), 0);
        }
        for place in [0, 1] {
            let mut responder = connect(&broker, place);
            responder.join("workers", 1, "svc.add");
            ask(&mut requester);
            assert_eq!(requester.ping(), [], "somebody listens");
            assert!(matches!(responder.frame(), Frame::Turn { .. }));
            let leaving = responder.send_request(native::kind::DRAIN);
            assert_eq!(responder.acknowledged(leaving), 1);
            let request = ask(&mut requester);
            assert_eq!(requester.acknowledged(request), 0, "he has left");
        }
        // Somebody by the Redis protocol hears it as well.
        let mut listener = RawClient::connect(broker.port());
        listener.call(&["PSUBSCRIBE", "svc*"]);
        ask(&mut requester);
        assert_eq!(requester.ping(), []);
    }
}

#[test]
fn clients_of_both_protocols_hear_each_other() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for (redis_shard, native_shard) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut native = connect(&broker, native_shard);
            let mut talker = connect_to_shard(broker.port(), redis_shard % shards);
            let mut listener = connect_to_shard(broker.port(), redis_shard % shards);
            native.subscribe("room.*");
            native.join("g", 5, "room.1");
            listener.call(&["SUBSCRIBE", "room.1"]);
            for round in 0..50u32 {
                let payload = all_bytes(round as usize * 7, round as u8);
                talker.send(&request(&[b"PUBLISH", b"room.1", &payload]));
                // One by name, one by wildcard, one group.
                assert_eq!(talker.value(), Value::Integer(3));
                let event = Event::new("room.1", &payload);
                let heard = [native.frame(), native.frame()];
                let turn = Frame::Turn {
                    member: 5,
                    event: event.clone(),
                };
                assert!(heard.contains(&turn), "{heard:?}");
                assert!(heard.contains(&Frame::Message(event)), "{heard:?}");
                let said = Event {
                    reply: Some(b"room.reply".to_vec()),
                    is_end: true,
                    ..Event::new("room.1", &payload)
                };
                // The talker hears itself.
                native.publish(&said);
                let heard = [native.frame(), native.frame()];
                assert!(heard.contains(&Frame::Message(said)), "{heard:?}");
                for _ in 0..2 {
                    let mut words = ["message", "room.1"].map(Value::bulk).to_vec();
                    words.push(Value::bulk(&payload));
                    assert_eq!(listener.value(), Value::Array(words));
                }
            }
            assert_eq!(talker.call(&["PUBSUB", "NUMSUB", "room.1"]), {
                let words = [Value::bulk("room.1"), Value::Integer(2)];
                Value::Array(words.to_vec())
            });
            native.send_request(native::kind::DRAIN);
            assert!(matches!(native.frame(), Frame::Ack { count: 2, .. }));
            assert_eq!(listener.call(&["QUIT"]), Value::ok());
            listener.expect_close();
        }
    }
}

#[test]
fn a_message_cut_anywhere_is_published_whole_once_its_rest_comes() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscriber = connect(&broker, 1);
        subscriber.subscribe("cut");
        let mut publisher = connect(&broker, 0);
        let event = &events("cut", 40)[7];
        let mut bytes = Vec::new();
        native::write_publish(&mut bytes, 9, When::Always, &event.message());
        for cut in 1..bytes.len() {
            let (first, rest) = bytes.split_at(cut);
            publisher.stream().write_all(first).unwrap();
            // A round trip on which the broker may read the first part alone.
            assert_eq!(subscriber.ping(), []);
            publisher.stream().write_all(rest).unwrap();
            assert_eq!(publisher.acknowledged(9), 1);
            assert_eq!(subscriber.message(), *event);
        }
    }
}
