//! Requests across nodes: an inbox subscribed in the same write as its request is known wherever the answer comes from,
//! and who asks where nobody answers is told at once.

use std::time::{Duration, Instant};

use sapwood_wire::native::{self, Subscription, When, kind};

use crate::common::Broker;
use crate::common::native::{Event, Frame, NativeClient};
use crate::load::alone;
use crate::nats::{NatsClient, Said};
use crate::nodes::{Ear, MIXES, PROBE, Tree, until_native_heard};

const REQUESTS: usize = 200;

/// That nobody answers is known without asking anybody.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A service that answers each request with its payload, in a thread, until its broker or its test ends.
fn answer(node: &Broker, group: &str) {
    let mut client = NativeClient::connect(node.native_port());
    match group {
        "" => client.subscribe("service"),
        group => client.join(group, 1, "service"),
    };
    std::thread::spawn(move || {
        loop {
            let mut answers = Vec::new();
            let is_open = client.read_each(|frame| {
                let (native::BrokerFrame::Message(message)
                | native::BrokerFrame::Turn { message, .. }) = frame
                else {
                    return;
                };
                let event = Event::of(&message);
                if let Some(reply) = event.reply {
                    let reply = String::from_utf8(reply).unwrap();
                    answers.push(Event::new(&reply, event.payload));
                }
            });
            for answer in &answers {
                client.publish(answer);
            }
            if !is_open {
                return;
            }
        }
    });
}

fn ask_by_nats(node: &Broker, number: usize, client: &mut NatsClient) {
    let inbox = format!("_INBOX.{}.{number}", node.nats_port());
    let text = format!("request {number}");
    let length = text.len();
    client.send(&format!(
        "SUB {inbox} {number}\r\nPUB service {inbox} {length}\r\n{text}\r\nUNSUB {number} 1\r\n"
    ));
    let said = client.said_within(Duration::from_secs(5));
    let Some(Said::Message(message)) = said else {
        panic!("request {number} at node {}: {said:?}", node.node_port());
    };
    let got = (message.subject, message.headers, message.payload);
    assert_eq!(got, (inbox, String::new(), text.into_bytes()));
}

/// Subscribes an inbox and asks in one write; gives what the request is numbered.
fn ask_by_native(client: &mut NativeClient, topic: &str, inbox: &str, text: &str) -> u32 {
    let (subscribe, ask) = (client.request(), client.request());
    let event = Event {
        reply: Some(inbox.into()),
        ..Event::new(topic, text)
    };
    client.write(|out| {
        let subscription = Subscription {
            member: 0,
            group: b"",
            filter: inbox.as_bytes(),
        };
        native::write_subscription(out, kind::SUBSCRIBE, subscribe, &subscription);
        native::write_publish(out, ask, When::Unheard, &event.message());
    });
    client.acknowledged(subscribe);
    ask
}

/// Waits until requests of this node find the service.
fn until_answered(node: &Broker) {
    let mut client = NatsClient::connect(node.nats_port());
    client.send("SUB ready 1\r\n");
    let begun = Instant::now();
    let probe = String::from_utf8(PROBE.to_vec()).unwrap();
    loop {
        client.send(&format!("PUB service ready {}\r\n{probe}\r\n", probe.len()));
        if let Said::Message(message) = client.said()
            && message.headers.is_empty()
        {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody answers");
    }
}

#[test]
fn every_request_with_a_fresh_inbox_is_answered_from_another_node() {
    let _alone = alone();
    for shards in MIXES {
        for group in ["", "workers"] {
            let tree = Tree::start(7, shards, &[]);
            answer(&tree.nodes[tree.at("/1/1")], group);
            if !group.is_empty() {
                answer(&tree.nodes[tree.at("/0/1")], group);
            }
            for path in ["/0/0", "", "/1/0"] {
                let node = &tree.nodes[tree.at(path)];
                println!("{shards:?} shards, group {group:?}, from {path:?}");
                until_answered(node);
                let mut nats = NatsClient::connect(node.nats_port());
                for number in 0..REQUESTS {
                    ask_by_nats(node, number + 1, &mut nats);
                }
                let mut native = NativeClient::connect(node.native_port());
                for number in 0..REQUESTS {
                    let inbox = format!("inbox.{}.{number}", node.native_port());
                    let text = format!("request {number}");
                    ask_by_native(&mut native, "service", &inbox, &text);
                    assert_eq!(native.message(), Event::new(&inbox, text));
                }
            }
        }
    }
}

#[test]
fn a_request_that_nobody_hears_fails_at_once_on_any_node() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        // The tree is one, and somebody listens to something else.
        let elsewhere = tree.ears("elsewhere");
        for (node, mut native) in tree.nodes.iter().zip(tree.publishers()) {
            until_native_heard(&mut native, "elsewhere", &elsewhere);
            let mut nats = NatsClient::connect(node.nats_port());
            let asked = Instant::now();
            nats.send("SUB inbox 1\r\nPUB nobody.there inbox 2\r\nhi\r\n");
            let message = nats.message();
            assert!(message.headers.starts_with("NATS/1.0 503"), "{message:?}");
            let request = ask_by_native(&mut native, "nobody.there", "inbox.native", "hi");
            let unheard = Frame::Ack { request, count: 0 };
            assert_eq!(native.frame(), unheard);
            let took = asked.elapsed();
            assert!(took < AT_ONCE, "told after {took:?}");
        }
    }
}

#[test]
fn a_request_fails_at_once_when_who_answered_has_left() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(4, shards, &[]);
        let service = Ear::nats(&tree.nodes[3], "gone", "workers");
        let mut publisher = NativeClient::connect(tree.nodes[2].native_port());
        until_native_heard(&mut publisher, "gone", [&service]);
        drop(service);
        let mut nats = NatsClient::connect(tree.nodes[2].nats_port());
        nats.send("SUB inbox 1\r\n");
        let begun = Instant::now();
        loop {
            nats.send("PUB gone inbox 2\r\nhi\r\n");
            if let Some(Said::Message(message)) = nats.said_within(Duration::from_millis(20)) {
                assert!(message.headers.starts_with("NATS/1.0 503"), "{message:?}");
                break;
            }
            assert!(begun.elapsed() < AT_ONCE, "its node still counts it");
        }
    }
}
