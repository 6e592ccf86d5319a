//! What is published on one node is heard on all that want it, unharmed, and nowhere else.

use std::time::{Duration, Instant};

use crate::common::Broker;
use crate::common::native::{Event, NativeClient};
use crate::common::resp::{RawClient, Value, request};
use crate::load::alone;
use crate::nats::NatsClient;
use crate::nodes::{Ear, MIXES, Tree, until_heard, until_native_heard};

/// Within this time after the last node has started all hear each other.
const FORMED_MAX: Duration = Duration::from_secs(2);

#[test]
fn seven_nodes_that_join_through_one_are_a_tree_within_two_seconds() {
    let _alone = alone();
    for shards in MIXES {
        let begun = Instant::now();
        let tree = Tree::start(7, shards, &[]);
        let started = begun.elapsed();
        let ears = tree.ears("all");
        let mut publishers = tree.publishers();
        for publisher in &mut publishers {
            until_native_heard(publisher, "all", &ears);
        }
        let took = begun.elapsed();
        println!("7 nodes of {shards:?} shards: started in {started:?}, a tree after {took:?}");
        assert!(took - started < FORMED_MAX, "a tree after {took:?}");
        // No node has more than two children: a root and two levels.
        for path in ["", "/0", "/1", "/0/0", "/0/1", "/1/0", "/1/1"] {
            tree.at(path);
        }
        for (number, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&Event::new("all", format!("from {number}")));
            for ear in &ears {
                assert_eq!(ear.next(), Event::new("all", format!("from {number}")));
            }
        }
        for ear in &ears {
            ear.hears_nothing();
        }
        assert_eq!(tree.counters("link_events_twice"), [0; 7]);
        assert_eq!(tree.counters("link_events_lost"), [0; 7]);
    }
}

/// So many bytes of all values, of which some look like frames.
fn any_bytes(length: usize) -> Vec<u8> {
    let looks = b"\r\n$5\r\nMSG x 1 2\r\nSwSAPW\0\0\0\xff";
    let bytes = (0..length as u32).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8);
    let mut bytes: Vec<u8> = bytes.collect();
    let shown = looks.len().min(length);
    bytes[..shown].copy_from_slice(&looks[..shown]);
    bytes
}

/// One listener of each protocol but HTTP, on different nodes.
fn ears_of_three(tree: &Tree, nodes: [&str; 3], topic: &str) -> Vec<Ear> {
    let [native, redis, nats] = nodes.map(|path| &tree.nodes[tree.at(path)]);
    vec![
        Ear::native(native, topic),
        Ear::redis(redis, "SUBSCRIBE", topic),
        Ear::nats(nats, topic, ""),
    ]
}

fn publish_to_nats(client: &mut NatsClient, subject: &str, payload: &[u8]) {
    let mut bytes = format!("PUB {subject} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    client.send_bytes(&bytes);
}

#[test]
fn payloads_of_any_size_and_bytes_arrive_unharmed_in_every_protocol() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let leaf = &tree.nodes[tree.at("/0/0")];
        let ears = ears_of_three(&tree, ["/1/1", "/1/0", "/0/1"], "data");
        let mut native = NativeClient::connect(leaf.native_port());
        let mut redis = RawClient::connect(leaf.port());
        let mut nats = NatsClient::connect(leaf.nats_port());
        until_native_heard(&mut native, "data", &ears);
        until_heard(
            |probe| redis.send(&request(&[b"PUBLISH", b"data", probe])),
            &ears,
        );
        until_heard(|probe| publish_to_nats(&mut nats, "data", probe), &ears);
        for length in [0, 16, 100 * 1024, 8 * 1024 * 1024] {
            let payload = any_bytes(length);
            let wanted = Event::new("data", &payload);
            for publisher in 0..3 {
                match publisher {
                    0 => native.publish(&wanted),
                    1 => redis.send(&request(&[b"PUBLISH", b"data", &payload])),
                    _ => publish_to_nats(&mut nats, "data", &payload),
                }
                for (number, ear) in ears.iter().enumerate() {
                    let got = ear.next();
                    assert_eq!(got.topic, wanted.topic);
                    assert!(
                        got.payload == payload,
                        "{length} bytes of publisher {publisher} came as {} to listener {number}",
                        got.payload.len()
                    );
                }
            }
        }
        assert_eq!(tree.counters("link_events_lost"), [0; 7]);
    }
}

#[test]
fn curl_and_redis_and_native_clients_hear_nats_on_another_node() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let mut ears = ears_of_three(&tree, ["/1/1", "/1/0", "/0/1"], "mixed");
        ears.push(Ear::curl(&tree.nodes[tree.at("/1")], "mixed"));
        let mut publisher = NatsClient::connect(tree.nodes[tree.at("/0/0")].nats_port());
        until_heard(
            |probe| publish_to_nats(&mut publisher, "mixed", probe),
            &ears,
        );
        for number in 0..100 {
            publisher.publish("mixed", &format!("number {number}"));
        }
        for ear in &ears {
            for number in 0..100 {
                assert_eq!(ear.next(), Event::new("mixed", format!("number {number}")));
            }
            ear.hears_nothing();
        }
    }
}

#[test]
fn headers_and_reply_topics_survive_the_way_across() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(4, shards, &[]);
        let (near, far) = (&tree.nodes[0], &tree.nodes[3]);
        let ears = [Ear::native(far, "letter"), Ear::nats(far, "letter", "")];
        let mut native = NativeClient::connect(near.native_port());
        let mut nats = NatsClient::connect(near.nats_port());
        until_native_heard(&mut native, "letter", &ears);
        let wanted = Event {
            reply: Some(b"answers.here".to_vec()),
            headers: vec![
                (b"Colour".to_vec(), b"blue".to_vec()),
                (b"Colour".to_vec(), b"green".to_vec()),
            ],
            ..Event::new("letter", any_bytes(300))
        };
        native.publish(&wanted);
        let head = "NATS/1.0\r\nColour: blue\r\nColour: green\r\n\r\n";
        let total = head.len() + wanted.payload.len();
        let mut bytes =
            format!("HPUB letter answers.here {} {total}\r\n{head}", head.len()).into_bytes();
        bytes.extend_from_slice(&wanted.payload);
        bytes.extend_from_slice(b"\r\n");
        for ear in &ears {
            assert_eq!(ear.next(), wanted);
        }
        nats.send_bytes(&bytes);
        for ear in &ears {
            let mut got = ear.next();
            // The empty line behind NATS' first one is no header of either.
            got.headers.retain(|(name, _)| !name.is_empty());
            assert_eq!(got, wanted);
        }
    }
}

#[test]
fn a_broadcast_reaches_each_native_client_of_every_node_once() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let probed = tree.ears("formed");
        let mut publishers = tree.publishers();
        for publisher in &mut publishers {
            until_native_heard(publisher, "formed", &probed);
        }
        let twice = tree.nodes.iter().flat_map(|node| [node, node]);
        // They listen to nothing, and hear it unasked.
        let ears: Vec<Ear> = twice
            .map(|node| {
                let client = NativeClient::connect(node.native_port());
                Ear::of_native("anybody".to_string(), client)
            })
            .collect();
        for (number, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&Event::new("$all", format!("from {number}")));
            for ear in &ears {
                assert_eq!(ear.next(), Event::new("$all", format!("from {number}")));
            }
        }
        for ear in &ears {
            ear.hears_nothing();
        }
    }
}

#[test]
fn shard_channels_and_patterns_of_redis_work_across_nodes() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(4, shards, &[]);
        let (near, far) = (&tree.nodes[2], &tree.nodes[3]);
        let channel = Ear::redis(far, "SSUBSCRIBE", "news.art");
        let pattern = Ear::redis(far, "PSUBSCRIBE", "news.?rt");
        let wildcard = Ear::native(far, "news.>");
        let mut publisher = RawClient::connect(near.port());
        until_heard(
            |probe| {
                publisher.send(&request(&[b"SPUBLISH", b"news.art", probe]));
            },
            [&channel],
        );
        until_heard(
            |probe| publisher.send(&request(&[b"PUBLISH", b"news.art", probe])),
            [&pattern, &wildcard],
        );
        publisher.send(&request(&[b"SPUBLISH", b"news.art", b"to the channel"]));
        publisher.send(&request(&[b"PUBLISH", b"news.art", b"to the topic"]));
        publisher.send(&request(&[b"PUBLISH", b"news.cart", b"another"]));
        assert_eq!(channel.next(), Event::new("news.art", "to the channel"));
        assert_eq!(pattern.next(), Event::new("news.art", "to the topic"));
        assert_eq!(wildcard.next(), Event::new("news.art", "to the topic"));
        assert_eq!(wildcard.next(), Event::new("news.cart", "another"));
        for ear in [&channel, &pattern, &wildcard] {
            ear.hears_nothing();
        }
    }
}

/// Publishes so many, and waits until the node has dealt with them.
fn publish_all(node: &Broker, topic: &str, count: usize) {
    let mut publisher = RawClient::connect(node.port());
    let one = request(&[b"PUBLISH", topic.as_bytes(), b"0123456789"]);
    publisher.send(&one.repeat(count));
    for _ in 0..count {
        assert!(matches!(publisher.value(), Value::Integer(_)));
    }
}

#[test]
fn a_link_below_which_nobody_listens_carries_nothing() {
    const EVENTS: usize = 1_000;
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        for node in &tree.nodes {
            publish_all(node, "unheard", EVENTS);
        }
        assert_eq!(tree.counters("link_events_out"), [0; 7]);
        assert_eq!(tree.counters("link_events_in"), [0; 7]);
        let links: u64 = std::iter::zip(&tree.nodes, tree.counters("links"))
            .map(|(node, links)| links / node.shards() as u64)
            .sum();
        assert_eq!(links, 12, "six links, with two sides each");

        let [from, middle, to] = ["/0/0", "/0", "/0/1"].map(|path| tree.at(path));
        let ear = Ear::native(&tree.nodes[to], "heard");
        let mut publisher = NativeClient::connect(tree.nodes[from].native_port());
        until_native_heard(&mut publisher, "heard", [&ear]);
        // Of the events by which that was found out, some may be on their way still.
        let (before_out, before_in) = loop {
            let went = tree.counters("link_events_out");
            let came = tree.counters("link_events_in");
            if went[from] == came[middle] && went[middle] == came[to] && came[middle] == came[to] {
                break (went, came);
            }
        };
        publish_all(&tree.nodes[from], "heard", EVENTS);
        for _ in 0..EVENTS {
            ear.next();
        }
        let (after_out, after_in) = (
            tree.counters("link_events_out"),
            tree.counters("link_events_in"),
        );
        for node in 0..7 {
            let came = (after_in[node] - before_in[node]) as usize;
            let went = (after_out[node] - before_out[node]) as usize;
            let wanted = match node {
                _ if node == from => (0, EVENTS),
                _ if node == middle => (EVENTS, EVENTS),
                _ if node == to => (EVENTS, 0),
                _ => (0, 0),
            };
            assert_eq!(
                (came, went),
                wanted,
                "in and out of node {node} with {shards:?} shards"
            );
        }
        assert_eq!(tree.counters("link_events_twice"), [0; 7]);
    }
}
