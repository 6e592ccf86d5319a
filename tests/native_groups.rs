//! Groups over the native protocol: who takes an event's turn, and that none is lost or doubled while members come and
//! go.
//!
//! Every test runs with one shard and with two, and knows on which shard each connection is. Events are numbered; a
//! stream is read up to an event that its publisher published last, so nothing is waited for by time.

mod common;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::Broker;
use common::native::{Event, Frame, NativeClient};
use common::resp::{RawClient, Value};
use load::{alone, connect_to_shard, counter, wait_until};
use sapwood_wire::native::{Policy, kind};

const EVENTS: u32 = 3_000;

/// Who published an event, and its number.
type Number = (u32, u32);

/// A broker, and what of it must be asked by the Redis protocol.
struct Node {
    broker: Broker,
    asker: RawClient,
    groups: u32,
}

impl Node {
    fn start(shards: usize) -> Node {
        let broker = Broker::start(shards, &[]);
        let asker = RawClient::connect(broker.port());
        Node {
            broker,
            asker,
            groups: 0,
        }
    }

    /// A connection to this shard, or to the one there is.
    fn connect(&self, shard: usize) -> NativeClient {
        let shard = shard % self.broker.shards();
        NativeClient::connect_to_shard(&self.broker, shard, Policy::Close)
    }

    /// A connection that also hears [`Node::end`].
    fn reader(&self, shard: usize) -> NativeClient {
        let mut client = self.connect(shard);
        client.subscribe("end");
        client
    }

    /// A name that no group had before.
    fn group(&mut self) -> String {
        self.groups += 1;
        format!("g{}", self.groups)
    }

    /// Closes a publisher's stream, for who reads up to there.
    fn end(publisher: &mut NativeClient) {
        publisher.publish(&Event::new("end", ""));
    }

    fn counter(&mut self, name: &str) -> u64 {
        counter(&mut self.asker, name)
    }
}

fn numbered(topic: &str, (publisher, number): Number) -> Event {
    let payload = [publisher.to_le_bytes(), number.to_le_bytes()].concat();
    Event::new(topic, payload)
}

fn number_of(event: &Event) -> Number {
    let (publisher, number) = event.payload.split_at(4);
    (
        u32::from_le_bytes(publisher.try_into().unwrap()),
        u32::from_le_bytes(number.try_into().unwrap()),
    )
}

/// Publishes these events in one write.
fn publish_all(client: &mut NativeClient, events: impl Iterator<Item = Event>) {
    let mut bytes = Vec::new();
    for event in events {
        sapwood_wire::native::write_message(&mut bytes, &event.message());
    }
    client.send(&bytes);
}

/// Reads until so many publishers' streams have ended; gives what came but for that.
fn read_to_end(client: &mut NativeClient, publishers: usize) -> Vec<Frame> {
    let is_end = |frame: &Frame| matches!(frame, Frame::Message(event) if event.topic == b"end");
    (0..publishers).flat_map(|_| client.until(is_end)).collect()
}

/// The numbers of the turns among frames, by member.
fn turns(frames: &[Frame]) -> Vec<(u32, Number)> {
    let turns = frames.iter().filter_map(|frame| match frame {
        Frame::Turn { member, event } => Some((*member, number_of(event))),
        _ => None,
    });
    turns.collect()
}

/// The numbers of the messages among frames.
fn messages(frames: &[Frame]) -> Vec<Number> {
    let messages = frames.iter().filter_map(|frame| match frame {
        Frame::Message(event) => Some(number_of(event)),
        _ => None,
    });
    messages.collect()
}

/// Checks that every event of these publishers stands there once.
fn check_once(what: &str, mut numbers: Vec<Number>, publishers: u32, events: u32) {
    numbers.sort_unstable();
    let twice = numbers.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "{what}: an event came twice");
    let all =
        (0..publishers).flat_map(|publisher| (0..events).map(move |number| (publisher, number)));
    let missing: Vec<Number> = all
        .filter(|number| numbers.binary_search(number).is_err())
        .collect();
    assert!(
        missing.is_empty(),
        "{what}: {} events never came, the first {:?}",
        missing.len(),
        missing[0]
    );
    assert_eq!(numbers.len() as u32, publishers * events, "{what}");
}

/// Checks that no publisher's events changed their order.
fn check_order(what: &str, numbers: impl Iterator<Item = Number>) {
    let mut last = BTreeMap::new();
    for (publisher, number) in numbers {
        let before = last.insert(publisher, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{what}: {number} of publisher {publisher} comes behind {before:?}"
        );
    }
}

/// A group of three, and who publishes to it.
struct Case {
    what: &'static str,
    /// The shard of each publisher.
    publishers: &'static [usize],
    /// The shard of each connection that members are on.
    connections: &'static [usize],
    /// Each member's connection and filter.
    members: [(usize, &'static str); 3],
}

const EXACT: [(usize, &str); 3] = [(0, "jobs.a"), (1, "jobs.a"), (2, "jobs.a")];
const FILTERS: [(usize, &str); 3] = [(0, "jobs.a"), (1, "jobs.*"), (2, "jobs.>")];

const CASES: &[Case] = &[
    Case {
        what: "members on the publisher's shard",
        publishers: &[0],
        connections: &[0, 0, 0],
        members: EXACT,
    },
    Case {
        what: "members on the other shard",
        publishers: &[1],
        connections: &[0, 0, 0],
        members: EXACT,
    },
    Case {
        what: "most members on the publisher's shard",
        publishers: &[0],
        connections: &[0, 0, 1],
        members: EXACT,
    },
    Case {
        what: "most members on the other shard",
        publishers: &[1],
        connections: &[0, 1, 0],
        members: EXACT,
    },
    Case {
        what: "different filters on one shard",
        publishers: &[0],
        connections: &[0, 0, 0],
        members: FILTERS,
    },
    Case {
        what: "different filters on two shards",
        publishers: &[0],
        connections: &[0, 1, 1],
        members: FILTERS,
    },
    Case {
        what: "the exact filter on the other shard",
        publishers: &[0],
        connections: &[1, 0, 0],
        members: FILTERS,
    },
    Case {
        what: "three members on one connection",
        publishers: &[0],
        connections: &[1],
        members: [(0, "jobs.a"), (0, "jobs.a"), (0, "jobs.a")],
    },
    Case {
        what: "two members on one connection by different filters",
        publishers: &[1],
        connections: &[1, 0],
        members: [(0, "jobs.a"), (0, "jobs.>"), (1, "*.a")],
    },
    Case {
        what: "a publisher on each shard",
        publishers: &[0, 1],
        connections: &[0, 1, 1],
        members: FILTERS,
    },
    Case {
        what: "two publishers on each shard",
        publishers: &[0, 1, 0, 1],
        connections: &[0, 0, 1],
        members: EXACT,
    },
];

#[test]
fn members_of_a_group_get_each_event_once_and_equal_shares() {
    let _alone = alone();
    for shards in [1, 2] {
        let mut node = Node::start(shards);
        for case in CASES {
            share(&mut node, case);
        }
    }
}

fn share(node: &mut Node, case: &Case) {
    let group = node.group();
    let shards = case.connections.iter();
    let mut connections: Vec<NativeClient> = shards.map(|&shard| node.reader(shard)).collect();
    for (place, &(connection, filter)) in case.members.iter().enumerate() {
        connections[connection].join(&group, place as u32 + 1, filter);
    }
    for (publisher, &shard) in case.publishers.iter().enumerate() {
        let mut client = node.connect(shard);
        assert_eq!(client.publish_counted(&Event::new("jobs.nobody", "")), {
            // A group counts as one, whichever of its members it reaches.
            u32::from(
                case.members
                    .iter()
                    .any(|(_, filter)| filter.ends_with(['*', '>'])),
            )
        });
        let numbers = (0..EVENTS).map(|number| (publisher as u32, number));
        publish_all(
            &mut client,
            numbers.map(|number| numbered("jobs.a", number)),
        );
        Node::end(&mut client);
        assert!(client.ping().is_empty());
    }
    let mut all = Vec::new();
    for client in &mut connections {
        let mut frames = read_to_end(client, case.publishers.len());
        frames.retain(
            |frame| !matches!(frame, Frame::Turn { event, .. } if event.topic == b"jobs.nobody"),
        );
        let turns = turns(&frames);
        assert_eq!(turns.len(), frames.len(), "{}: not only turns", case.what);
        for member in 1..=3 {
            let own = turns.iter().filter(|(other, _)| *other == member);
            check_order(case.what, own.map(|&(_, number)| number));
        }
        all.extend(turns);
    }
    let numbers = all.iter().map(|&(_, number)| number).collect();
    check_once(case.what, numbers, case.publishers.len() as u32, EVENTS);
    let mut publishing: Vec<usize> = case.publishers.to_vec();
    publishing
        .iter_mut()
        .for_each(|shard| *shard %= node.broker.shards());
    publishing.sort_unstable();
    publishing.dedup();
    // What stands before the first event of the stream: one turn of another topic.
    let uneven = publishing.len() as i64 + 1;
    let fair = i64::from(EVENTS) * case.publishers.len() as i64 / 3;
    for member in 1..=3 {
        let count = all.iter().filter(|(other, _)| *other == member).count() as i64;
        assert!(
            (count - fair).abs() <= uneven,
            "{}: member {member} got {count}, its share is {fair}",
            case.what
        );
    }
}

#[test]
fn a_topic_that_few_members_asked_for_goes_to_those_alone() {
    let _alone = alone();
    for shards in [1, 2] {
        for (publishing, others) in [(0, 1), (1, 1), (0, 0)] {
            let node = Node::start(shards);
            let mut narrow = node.reader(others);
            let mut wide = node.reader(0);
            narrow.join("g", 1, "jobs.a");
            wide.join("g", 2, "jobs.>");
            let mut publisher = node.connect(publishing);
            // Both topics in turn: one for the wide filter alone, one for both.
            let numbers = (0..EVENTS).map(|number| {
                let topic = if number % 2 == 0 {
                    "jobs.a"
                } else {
                    "jobs.b.c"
                };
                numbered(topic, (0, number))
            });
            publish_all(&mut publisher, numbers);
            Node::end(&mut publisher);
            let narrow = turns(&read_to_end(&mut narrow, 1));
            let wide = turns(&read_to_end(&mut wide, 1));
            assert!(narrow.iter().all(|(_, (_, number))| number % 2 == 0));
            // Who alone can take half of the events is owed no more of the others than its share of them.
            let shared = i64::from(EVENTS / 2);
            assert!(
                (narrow.len() as i64 - shared / 2).abs() <= 2,
                "{}",
                narrow.len()
            );
            let numbers = narrow.iter().chain(&wide).map(|&(_, number)| number);
            check_once("few members", numbers.collect(), 1, EVENTS);
        }
    }
}

/// Everyone who gets every event, beside two groups.
#[test]
fn groups_and_plain_subscribers_get_their_full_streams_side_by_side() {
    let _alone = alone();
    for shards in [1, 2] {
        for publishing in 0..shards {
            let node = Node::start(shards);
            let mut members: Vec<NativeClient> =
                (0..5).map(|place| node.reader(place % 2)).collect();
            for (place, member) in members.iter_mut().enumerate() {
                let group = if place < 2 { "pair" } else { "three" };
                member.join(group, place as u32, "jobs.*");
            }
            // One that is a plain subscriber and a member of both groups.
            let mut all_at_once = node.reader(1);
            all_at_once.subscribe("jobs.a");
            all_at_once.join("pair", 10, "jobs.a");
            all_at_once.join("three", 11, "*.a");
            let mut plain = [node.reader(0), node.reader(1)];
            for client in &mut plain {
                client.subscribe("jobs.>");
                client.subscribe("jobs.a");
                client.subscribe("*.*");
            }
            let mut redis = redis_subscribers(&node);
            let mut publisher = node.connect(publishing);
            // Plain: three natively by three filters each but one, four by the Redis protocol; and two groups.
            assert_eq!(
                publisher.publish_counted(&numbered("jobs.a", (0, 0))),
                7 + 4 + 2
            );
            publish_all(
                &mut publisher,
                (1..EVENTS).map(|number| numbered("jobs.a", (0, number))),
            );
            Node::end(&mut publisher);
            let whole: Vec<Number> = (0..EVENTS).map(|number| (0, number)).collect();
            let mut of_groups: [Vec<Number>; 2] = Default::default();
            for client in &mut plain {
                let frames = read_to_end(client, 1);
                assert_eq!(messages(&frames), whole);
                assert_eq!(frames.len(), whole.len(), "turns for nobody in a group");
            }
            let frames = read_to_end(&mut all_at_once, 1);
            assert_eq!(messages(&frames), whole);
            for (member, number) in turns(&frames) {
                of_groups[usize::from(member == 11)].push(number);
            }
            for (place, client) in members.iter_mut().enumerate() {
                let frames = read_to_end(client, 1);
                assert!(messages(&frames).is_empty());
                let numbers = turns(&frames).into_iter().map(|(_, number)| number);
                of_groups[usize::from(place >= 2)].extend(numbers);
            }
            for numbers in of_groups {
                check_once("one of two groups", numbers, 1, EVENTS);
            }
            for (subscriber, head) in &mut redis {
                check_redis(subscriber, head, &whole);
            }
        }
    }
}

/// Two subscribers by the Redis protocol on each shard, and what their events begin with.
fn redis_subscribers(node: &Node) -> Vec<(RawClient, Vec<Value>)> {
    let mut subscribers = Vec::new();
    for shard in [0, 1] {
        let shard = shard % node.broker.shards();
        let mut exact = connect_to_shard(node.broker.port(), shard);
        exact.call(&["SUBSCRIBE", "jobs.a"]);
        let head = ["message", "jobs.a"].map(Value::bulk);
        subscribers.push((exact, head.to_vec()));
        let mut pattern = connect_to_shard(node.broker.port(), shard);
        pattern.call(&["PSUBSCRIBE", "jobs.*"]);
        let head = ["pmessage", "jobs.*", "jobs.a"].map(Value::bulk);
        subscribers.push((pattern, head.to_vec()));
    }
    subscribers
}

fn check_redis(subscriber: &mut RawClient, head: &[Value], whole: &[Number]) {
    for &number in whole {
        let mut words = head.to_vec();
        words.push(Value::bulk(numbered("jobs.a", number).payload));
        assert_eq!(subscriber.value(), Value::Array(words));
    }
    subscriber.send(b"PING\r\n");
    let pong = Value::Array(["pong", ""].map(Value::bulk).to_vec());
    assert_eq!(subscriber.value(), pong, "something between the events");
}

#[test]
fn the_others_share_what_is_published_after_a_member_was_killed() {
    let _alone = alone();
    for shards in [1, 2] {
        // The publisher's shard, and the members' shards; the last member is killed.
        for (publishing, places) in [
            (0, [0, 0, 1]),
            (0, [0, 1, 1]),
            (1, [0, 0, 0]),
            (0, [1, 0, 0]),
        ] {
            let mut node = Node::start(shards);
            let mut members: Vec<NativeClient> =
                places.iter().map(|&shard| node.reader(shard)).collect();
            for (place, member) in members.iter_mut().enumerate() {
                member.join("g", place as u32, "jobs");
            }
            let mut publisher = node.connect(publishing);
            publish_all(
                &mut publisher,
                (0..EVENTS).map(|number| numbered("jobs", (0, number))),
            );
            // Its events stand unread in its socket, so this is a reset.
            let killed = members.pop().expect("three members");
            killed.stream().shutdown(std::net::Shutdown::Both).unwrap();
            publish_all(
                &mut publisher,
                (EVENTS..2 * EVENTS).map(|number| numbered("jobs", (0, number))),
            );
            let asker = &mut node.asker;
            wait_until("the broker has noticed", || {
                killed.field(asker, "shard").is_none()
            });
            assert_eq!(publisher.ping(), []);
            let numbers = 2 * EVENTS..3 * EVENTS;
            publish_all(
                &mut publisher,
                numbers.map(|number| numbered("jobs", (0, number))),
            );
            Node::end(&mut publisher);
            let mut after = Vec::new();
            let mut all = Vec::new();
            for client in &mut members {
                let turns = turns(&read_to_end(client, 1));
                let own = turns.into_iter().map(|(_, number)| number);
                let own: Vec<Number> = own.collect();
                let late: Vec<Number> = own
                    .iter()
                    .filter(|(_, number)| *number >= 2 * EVENTS)
                    .copied()
                    .collect();
                let fair = i64::from(EVENTS) / 2;
                assert!((late.len() as i64 - fair).abs() <= 3, "{}", late.len());
                after.extend(late.iter().map(|&(_, number)| (0, number - 2 * EVENTS)));
                all.extend(own);
            }
            check_once("after the kill", after, 1, EVENTS);
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "an event came twice");
            assert_eq!(node.counter("turns_unheard"), 0);
        }
    }
}

#[test]
fn nothing_is_lost_while_members_leave_and_come_back() {
    const ROUNDS: usize = 100;
    let _alone = alone();
    for shards in [1, 2] {
        // The publisher's shard, and those of the members, who leave and come back one after the other.
        let cases: &[(usize, &[usize])] = &[
            (0, &[0, 1]),
            (0, &[1, 0]),
            (0, &[1, 1]),
            (0, &[0, 0]),
            (0, &[0, 1, 1]),
            (1, &[0, 1, 0, 1]),
        ];
        for &(publishing, places) in cases {
            leave_and_come_back(shards, publishing, places, ROUNDS);
        }
    }
}

fn leave_and_come_back(shards: usize, publishing: usize, places: &[usize], rounds: usize) {
    let mut node = Node::start(shards);
    let mut members: Vec<NativeClient> = places.iter().map(|&shard| node.reader(shard)).collect();
    for client in &mut members {
        client.join("g", 1, "jobs.*");
    }
    let mut publisher = node.connect(publishing);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let publishing_thread = thread::spawn(move || {
        let mut published = 0;
        while !stopped.load(Ordering::Relaxed) {
            let numbers = published..published + 64;
            publish_all(
                &mut publisher,
                numbers.map(|number| numbered("jobs.a", (0, number))),
            );
            published += 64;
            assert_eq!(publisher.ping(), [], "something was refused");
        }
        Node::end(&mut publisher);
        published
    });
    let mut numbers = Vec::new();
    let mut take = |frames: &[Frame]| {
        numbers.extend(turns(frames).into_iter().map(|(_, number)| number));
    };
    for _ in 0..rounds {
        for client in &mut members {
            let request = client.send_subscription(kind::UNSUBSCRIBE, "g", 1, "jobs.*");
            let is_ack = |frame: &Frame| matches!(frame, Frame::Ack { request: other, .. } if *other == request);
            take(&client.until(is_ack));
            assert_eq!(client.ping(), [], "an event behind the ACK of UNSUBSCRIBE");
            client.join("g", 1, "jobs.*");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in &mut members {
        take(&read_to_end(client, 1));
    }
    let published = publishing_thread.join().expect("the publisher publishes");
    let what = format!("{shards} shards, published on {publishing}, members on {places:?}");
    println!(
        "{what}: {published} events, {} turns retried",
        node.counter("turns_retried")
    );
    assert_eq!(node.counter("turns_unheard"), 0, "{what}");
    check_once(&what, numbers, 1, published);
}

#[test]
fn a_drain_ends_every_subscription_and_no_event_comes_behind_its_answer() {
    const ROUNDS: u32 = 200;
    let _alone = alone();
    for shards in [1, 2] {
        for (publishing, listening) in [(0, 0), (0, 1)] {
            let node = Node::start(shards);
            let mut client = node.connect(listening);
            let mut publisher = node.connect(publishing);
            for round in 0..ROUNDS {
                client.subscribe("a.*");
                client.join("g", 7, "a.b");
                assert_eq!(client.join("g", 8, "a.>"), 3);
                let event = numbered("a.b", (0, round));
                assert_eq!(publisher.publish_counted(&event), 2);
                let request = client.send_request(kind::DRAIN);
                let ack = Frame::Ack { request, count: 3 };
                let before = client.until(|frame| *frame == ack);
                for frame in &before {
                    match frame {
                        Frame::Message(other) => assert_eq!(*other, event),
                        Frame::Turn {
                            member,
                            event: other,
                        } => {
                            assert!([7, 8].contains(member) && *other == event);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                // From the same shard all of it is in the outbox already; from another it may be on its way.
                if publishing % shards == listening % shards {
                    assert_eq!(before.len(), 2, "round {round}: {before:?}");
                }
                assert!(before.len() <= 2);
                assert_eq!(publisher.publish_counted(&event), 0);
                assert_eq!(client.ping(), []);
            }
        }
    }
}
