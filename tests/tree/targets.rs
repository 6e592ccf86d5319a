//! Events for some nodes: by name, place, tag and group, from any node and by any protocol; and what nodes answer
//! themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{self, When};
use serde_json::Value;

use crate::common::Broker;
use crate::common::native::{Event, NativeClient};
use crate::common::resp::RawClient;
use crate::load::{alone, wait_until};
use crate::nats::NatsClient;
use crate::nodes::{Ear, MIXES, Tree, path, until_heard, until_native_heard};

/// Seven nodes called n0 to n6; the odd ones are tagged `edge` and in the group `web`.
fn start(shards: &[usize]) -> Tree {
    Tree::start_each(7, shards, &[], |number| {
        let mut args = vec!["--node-name".to_string(), format!("n{number}")];
        if number % 2 == 1 {
            let odd = ["--node-tags", "edge,all", "--node-groups", "web"];
            args.extend(odd.map(str::to_string));
        }
        args
    })
}

fn publishers(tree: &Tree) -> [NativeClient; 3] {
    // The root, one between, and a leaf.
    ["", "/0", "/1/1"].map(|path| NativeClient::connect(tree.nodes[tree.at(path)].native_port()))
}

/// The ears that hear a payload, of which each hears nothing else.
fn hearing(ears: &[Ear], payload: &str, expected: usize) -> BTreeSet<usize> {
    let mut heard = BTreeSet::new();
    wait_until("all hear it", || {
        for (number, ear) in ears.iter().enumerate() {
            if let Some(event) = ear.within(Duration::from_millis(1)) {
                assert_eq!(event.payload, payload.as_bytes());
                assert_eq!(event.topic, b"news", "subscribers see the topic's name");
                assert!(heard.insert(number), "n{number} hears it twice");
            }
        }
        heard.len() >= expected
    });
    heard
}

#[test]
fn an_event_reaches_exactly_the_nodes_that_it_is_for() {
    let _alone = alone();
    for shards in MIXES {
        let tree = start(shards);
        let ears = tree.ears("news");
        let places: Vec<String> = tree
            .nodes
            .iter()
            .map(|node| path(node).unwrap_or_default())
            .collect();
        let at = |number: usize| match &places[number] {
            path if path.is_empty() => "/".to_string(),
            path => path.clone(),
        };
        let all: Vec<usize> = (0..7).collect();
        let cases: Vec<(String, Vec<usize>)> = vec![
            ("n4".into(), vec![4]),
            ("n0,n6".into(), vec![0, 6]),
            ("tag=edge".into(), vec![1, 3, 5]),
            ("tag=all,n1,n2".into(), vec![1, 2, 3, 5]),
            ("*".into(), all.clone()),
            (at(5), vec![5]),
            (at(0), vec![0]),
            (format!("{},{},{}", at(6), at(3), at(0)), vec![0, 3, 6]),
            (format!("tag=edge,{},n2", at(4)), vec![1, 2, 3, 4, 5]),
            (format!("nobody,{}", at(2)), vec![2]),
        ];
        for (from, publisher) in publishers(&tree).iter_mut().enumerate() {
            until_native_heard(publisher, "news", &ears);
            // Names and tags travel as subscriptions do.
            until_native_heard(publisher, "$to:tag=edge,n0,n2,n4,n6:news", &ears);
            for (targets, nodes) in &cases {
                let payload = format!("{targets} from {from}");
                publisher.publish(&Event::new(&format!("$to:{targets}:news"), &payload));
                let heard = hearing(&ears, &payload, nodes.len());
                assert_eq!(heard, nodes.iter().copied().collect(), "{payload}");
            }
        }
        ears.iter().for_each(Ear::hears_nothing);
    }
}

#[test]
fn links_that_targets_share_carry_one_copy_and_others_none() {
    let _alone = alone();
    let tree = start(&[1, 2]);
    let ears = tree.ears("news");
    let leaf = tree.at("/0/0");
    let mut publisher = NativeClient::connect(tree.nodes[leaf].native_port());
    until_native_heard(&mut publisher, "news", &ears);
    // Up to /0, up to the root, down to /1, down to each of its children.
    let ways = [
        ("$to:/1/0,/1/1:news", 5, vec!["/1/0", "/1/1"]),
        ("$to:/1:news", 3, vec!["/1"]),
        ("$to:/0/1:news", 2, vec!["/0/1"]),
        ("$to:/,/0:news", 2, vec!["", "/0"]),
        ("$to:/0/0:news", 0, vec!["/0/0"]),
    ];
    for (topic, hops, nodes) in ways {
        let before: u64 = tree.counters("link_events_out").iter().sum();
        publisher.publish(&Event::new(topic, topic));
        let expected: BTreeSet<usize> = nodes.iter().map(|path| tree.at(path)).collect();
        assert_eq!(hearing(&ears, topic, nodes.len()), expected);
        let after: u64 = tree.counters("link_events_out").iter().sum();
        assert_eq!(after - before, hops, "{topic}");
    }
}

#[test]
fn every_protocol_that_publishes_can_say_which_nodes() {
    let _alone = alone();
    let tree = start(&[2]);
    let ears = tree.ears("news");
    let node = &tree.nodes[tree.at("/1/0")];
    let mut redis = RawClient::connect(node.port());
    let topic = "$to:tag=edge:news";
    until_heard(
        |probe| drop(redis.call(&["PUBLISH", topic, &String::from_utf8_lossy(probe)])),
        ears.iter().skip(1).step_by(2),
    );
    let edge = BTreeSet::from([1, 3, 5]);
    redis.call(&["PUBLISH", topic, "by Redis"]);
    assert_eq!(hearing(&ears, "by Redis", 3), edge);
    let mut nats = NatsClient::connect(node.nats_port());
    nats.publish(topic, "by NATS");
    assert_eq!(hearing(&ears, "by NATS", 3), edge);
    let url = format!(
        "http://127.0.0.1:{}/v1/topics/$to:tag=edge:news",
        node.http_port()
    );
    let curl = std::process::Command::new("curl")
        .args(["--silent", "--fail", "--data", "by HTTP", &url])
        .output()
        .expect("curl is there");
    assert!(curl.status.success(), "{curl:?}");
    assert_eq!(hearing(&ears, "by HTTP", 3), edge);
}

#[test]
fn many_and_long_events_for_some_nodes_come_in_order() {
    let _alone = alone();
    let tree = start(&[1, 2]);
    let ears = tree.ears("news");
    let [_, mut publisher, _] = publishers(&tree);
    let topic = "$to:tag=edge:news";
    until_native_heard(&mut publisher, topic, ears.iter().skip(1).step_by(2));
    let payload = |number: usize| {
        let mut payload = format!("{number} ").into_bytes();
        payload.resize(
            if number.is_multiple_of(50) {
                100_000
            } else {
                200
            },
            b'.',
        );
        payload
    };
    let payloads: Vec<Vec<u8>> = (0..1_000).map(payload).collect();
    publisher.write(|out| {
        for payload in &payloads {
            native::write_message(out, &Event::new(topic, payload).message());
        }
    });
    for ear in ears.iter().skip(1).step_by(2) {
        for (number, payload) in payloads.iter().enumerate() {
            assert!(ear.next().payload == *payload, "event {number}");
        }
    }
    ears.iter().for_each(Ear::hears_nothing);
}

#[test]
fn nodes_of_a_group_take_turns_and_who_ends_is_left_out() {
    let _alone = alone();
    for shards in MIXES {
        let mut tree = start(shards);
        let ears = tree.ears("news");
        let topic = "$to:group=web:news";
        let [mut root, _, mut leaf] = publishers(&tree);
        for publisher in [&mut root, &mut leaf] {
            until_native_heard(publisher, topic, ears.iter().skip(1).step_by(2));
            let mut counts = [0; 7];
            for number in 0..300 {
                let payload = number.to_string();
                publisher.publish(&Event::new(topic, &payload));
                let heard = hearing(&ears, &payload, 1);
                heard.into_iter().for_each(|node| counts[node] += 1);
            }
            let is_fair = |&count: &i32| (99..=101).contains(&count);
            assert!(counts.iter().skip(1).step_by(2).all(is_fair), "{counts:?}");
            assert_eq!(counts.iter().step_by(2).sum::<i32>(), 0, "{counts:?}");
        }
        ears.iter().for_each(Ear::hears_nothing);
        drop(ears);
        // The next event goes to one of the others.
        drop(tree.nodes.remove(3));
        let is_gone = |node: &Broker| {
            let text = node.stderr();
            let begun = text.matches("linked with node n3 ").count();
            begun == text.matches("link with node n3 ").count()
        };
        wait_until("n3 is gone", || tree.nodes.iter().all(is_gone));
        tree.settle();
        let members = [1, 4].map(|node| Ear::native(&tree.nodes[node], "news"));
        let mut root = NativeClient::connect(tree.nodes[tree.at("")].native_port());
        until_native_heard(&mut root, topic, &members);
        // What was sent to it before all knew is lost.
        let mut in_a_row = 0;
        wait_until("each event has its node", || {
            root.publish(&Event::new(topic, "again"));
            in_a_row = if is_heard_soon(&members) {
                in_a_row + 1
            } else {
                0
            };
            in_a_row == 20
        });
    }
}

/// Whether one of them hears something soon.
fn is_heard_soon(ears: &[Ear]) -> bool {
    let mut rounds = 0..100;
    rounds.any(|_| {
        let mut heard = ears.iter().map(|ear| ear.within(Duration::from_millis(1)));
        heard.any(|event| event.is_some())
    })
}

#[test]
fn a_name_leads_to_whoever_is_called_so_now() {
    let _alone = alone();
    let mut tree = start(&[1]);
    let mut publisher = NativeClient::connect(tree.nodes[tree.at("")].native_port());
    let before = Ear::native(&tree.nodes[6], "news");
    until_native_heard(&mut publisher, "$to:n6:news", [&before]);
    drop(before);
    drop(tree.nodes.remove(6));
    tree.join(2, &["--children-max", "2", "--node-name", "n6"]);
    tree.settle();
    let ears = tree.ears("news");
    until_native_heard(&mut publisher, "$to:n6:news", [&ears[6]]);
    publisher.publish(&Event::new("$to:n6:news", "moved"));
    assert_eq!(hearing(&ears, "moved", 1), BTreeSet::from([6]));
    ears.iter().for_each(Ear::hears_nothing);
}

#[test]
fn groups_take_turns_of_their_own_on_each_node_that_an_event_is_for() {
    let _alone = alone();
    let tree = start(&[2]);
    let members = [2, 2, 5].map(|node| Ear::member(&tree.nodes[node], "crew", "work"));
    let mut publisher = NativeClient::connect(tree.nodes[tree.at("/0/1")].native_port());
    until_native_heard(&mut publisher, "work", &members);
    until_native_heard(&mut publisher, "$to:n2:work", &members[..2]);
    for number in 0..10 {
        publisher.publish(&Event::new("$to:n2:work", number.to_string()));
    }
    for member in &members[..2] {
        for _ in 0..5 {
            member.next();
        }
    }
    members.iter().for_each(Ear::hears_nothing);
}

#[test]
fn the_nearest_members_are_served_where_that_is_asked_for() {
    let _alone = alone();
    let tree = start(&[1, 2]);
    let (near, far) = (tree.at("/0/0"), tree.at("/1/1"));
    let [near, far] = [near, far].map(|node| &tree.nodes[node]);
    let members = [far, far, near].map(|node| Ear::member(node, "crew", "work"));
    let mut publisher = NativeClient::connect(near.native_port());
    until_native_heard(&mut publisher, "work", &members);
    for number in 0..10 {
        publisher.publish(&Event::new("$near:work", number.to_string()));
    }
    for number in 0..10 {
        let event = members[2].next();
        assert_eq!(event.payload, number.to_string().as_bytes());
        assert_eq!(event.topic, b"work");
    }
    let [first, second, last] = members;
    drop(last);
    let others = [first, second];
    until_native_heard(&mut publisher, "$near:work", &others);
    for number in 0..10 {
        publisher.publish(&Event::new("$near:work", number.to_string()));
    }
    for member in &others {
        for _ in 0..5 {
            member.next();
        }
        member.hears_nothing();
    }
}

#[test]
fn who_asks_where_nobody_stands_is_told_so() {
    let _alone = alone();
    let tree = start(&[1, 2]);
    for from in ["", "/0/0", "/1"] {
        let node = &tree.nodes[tree.at(from)];
        let mut nats = NatsClient::connect(node.nats_port());
        nats.send("SUB inbox.* 1\r\n");
        nats.sync();
        for (number, place) in ["/9", "/0/9", "/1/1/9", "/0/0/0/0"].iter().enumerate() {
            nats.send(&format!("PUB $to:{place}:news inbox.{number} 1\r\n?\r\n"));
            let message = nats.message();
            assert_eq!(message.subject, format!("inbox.{number}"), "{place}");
            let status = message.headers.lines().next().unwrap_or_default();
            assert!(status.starts_with("NATS/1.0 503"), "{}", message.headers);
            assert!(message.payload.is_empty());
        }
    }
}

#[test]
fn what_says_wrongly_whom_it_is_for_is_refused() {
    let _alone = alone();
    let tree = start(&[1]);
    let mut client = NativeClient::connect(tree.nodes[0].native_port());
    for (topic, code) in [
        ("$to:n1", ErrorCode::TopicInvalid),
        ("$to:n 1:news", ErrorCode::TopicInvalid),
        ("$to:group=a,group=b:news", ErrorCode::TopicInvalid),
        ("$to:n1:$KV.a", ErrorCode::TopicReserved),
        ("$near:$to:n1:news", ErrorCode::TopicReserved),
    ] {
        let request = client.request();
        client.write(|out| {
            let message = Event::new(topic, "x").message();
            native::write_publish(out, request, When::Always, &message);
        });
        assert_eq!(client.error(), (code.number(), request), "{topic}");
    }
}

/// What nodes answer to an event on this topic, once `is_whole` says that all is there.
fn answers(
    tree: &Tree,
    from: &str,
    topic: &str,
    is_whole: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let mut client = NativeClient::connect(tree.nodes[tree.at(from)].native_port());
    client.subscribe("inbox");
    client.publish(&Event {
        reply: Some("inbox".into()),
        ..Event::new(topic, "")
    });
    let mut answers = Vec::new();
    while !is_whole(&answers) {
        let event = client.message();
        answers.push(serde_json::from_slice(&event.payload).expect("JSON"));
    }
    assert!(client.ping().is_empty(), "more answers than expected");
    answers
}

#[test]
fn every_shard_of_every_node_says_who_it_is() {
    let _alone = alone();
    let tree = start(&[1, 2]);
    // Nodes 0, 2, 4 and 6 have one shard, the others two. How many there are comes to the root step by step.
    let mut all = Vec::new();
    wait_until("the root knows of all", || {
        all = answers(&tree, "/0/1", "$info", |answers| answers.len() == 10);
        all.iter().any(|node| node["place"]["subtree"] == 7)
    });
    let names: BTreeSet<&str> = all
        .iter()
        .filter_map(|node| node["name"].as_str())
        .collect();
    let expected = ["n0", "n1", "n2", "n3", "n4", "n5", "n6"];
    assert_eq!(names, expected.into_iter().collect());
    let root = all.iter().find(|node| node["place"]["subtree"] == 7);
    let root = root.expect("the root knows how many there are");
    assert_eq!(root["address"], "/");
    let links = root["links"].as_array().expect("links");
    assert_eq!(links.len(), 2, "{root}");
    assert!(links.iter().all(|link| link["role"] == "child"), "{root}");

    let edge = answers(&tree, "", "$to:tag=edge:$info", |answers| {
        answers.len() == 6
    });
    assert!(edge.iter().all(|node| node["tags"][0] == "edge"));
    let place = answers(&tree, "/1", "$to:/0/0:$info", |answers| {
        let shards = answers.first().and_then(|node| node["shards"].as_u64());
        shards == Some(answers.len() as u64)
    });
    assert_eq!(place[0]["address"], "/0/0");
}

#[test]
fn a_trace_names_the_nodes_on_an_events_way_and_reaches_nobody() {
    let _alone = alone();
    for shards in MIXES {
        let tree = start(shards);
        let ear = Ear::native(&tree.nodes[tree.at("/1/1")], "news");
        let member = Ear::member(&tree.nodes[tree.at("/1/0")], "crew", "news");
        let mut publisher = NativeClient::connect(tree.nodes[tree.at("/0/0")].native_port());
        until_native_heard(&mut publisher, "news", [&ear, &member]);
        let way = answers(&tree, "/0/0", "$trace:news", |answers| answers.len() == 6);
        let places: BTreeSet<&str> = way.iter().filter_map(|at| at["address"].as_str()).collect();
        let expected = ["/0/0", "/0", "/", "/1", "/1/0", "/1/1"];
        assert_eq!(places, expected.into_iter().collect());
        let heard: Vec<&Value> = way.iter().filter(|at| at["subscriptions"] == 1).collect();
        assert_eq!(heard.len(), 2, "{way:?}");
        let one = answers(&tree, "/0/0", "$trace:$to:/1:news", |answers| {
            answers.len() == 4
        });
        let meant: Vec<&Value> = one
            .iter()
            .filter(|at| at["is_for_this_node"] == true)
            .collect();
        assert_eq!(meant.len(), 1, "{one:?}");
        assert_eq!(meant[0]["address"], "/1");
        ear.hears_nothing();
        member.hears_nothing();
    }
}
