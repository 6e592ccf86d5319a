//! Real brokers in network namespaces, with addresses of their own and cables that can be pulled: what a tree on loopback
//! cannot show.
//!
//! Needs root, `ip` and leave to make namespaces; where one is missing each test says in a line that it tests nothing. The
//! only times that count are those the broker promises. Start at `tree_namespaces/apart.rs`.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;
#[path = "tree/nodes.rs"]
mod nodes;

#[path = "tree_namespaces/apart.rs"]
mod apart;
#[path = "tree_namespaces/cables.rs"]
mod cables;
#[path = "tree_namespaces/network.rs"]
mod network;
#[path = "tree_namespaces/program.rs"]
mod program;
#[path = "tree_namespaces/strangers.rs"]
mod strangers;

use std::process::Command;
use std::time::{Duration, Instant};

use apart::{Apart, Listen, NODES, lines_with};
use common::{Broker, VALUE_SECONDS_MAX, script};
use load::alone;
use nats::{NatsClient, Said};
use network::Network;
use program::Program;

/// Within this time after the last node has started the tree stands.
const FORMED_MAX: Duration = Duration::from_secs(2);

fn redis_cli(node: &Broker, args: &[&str]) -> Program {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &node.port().to_string()]).args(args);
    Program::start(&mut command)
}

fn nats_py(node: &Broker, args: &[&str]) -> Program {
    let mut command = script::python("nats_tree.py");
    command.arg(node.nats_port().to_string()).args(args);
    Program::start(&mut command)
}

/// Asks again and again, until somebody takes the question.
fn until_one_is_taken(node: &Broker, subject: &str, text: &str) {
    let mut client = NatsClient::connect(node.nats_port());
    client.send("SUB inbox 1\r\n");
    let begun = Instant::now();
    while begun.elapsed() < VALUE_SECONDS_MAX {
        client.send(&format!(
            "PUB {subject} inbox {}\r\n{text}\r\nPING\r\n",
            text.len()
        ));
        // That nobody listens is said before PONG.
        match client.said() {
            Said::Message(message) if message.headers.starts_with("NATS/1.0 503") => {
                assert_eq!(client.line(), "PONG");
            }
            _ => return,
        }
    }
    panic!("nobody takes what is published to {subject}");
}

/// Each link stands in the logs of both its ends, with the address by which the other end is reached.
fn both_ends_say_who_is_linked(apart: &Apart) {
    let mut links = 0;
    for (number, node) in apart.tree.nodes.iter().enumerate() {
        for line in lines_with(node, 0, &["linked with node n", "the parent"]) {
            println!("n{number}: {line}");
            let is_parent = |other: &usize| {
                let reached = apart.listen.reached(&apart.network, *other);
                line.contains(&format!("node n{other} ("))
                    && line.contains(&format!(" at {reached},"))
            };
            let parent = (0..NODES).find(is_parent);
            let parent = parent.unwrap_or_else(|| panic!("an address of nobody: {line}"));
            let own = format!("linked with node n{number} (");
            let said = lines_with(apart.node(parent), 0, &[&own, "the child"]);
            assert!(!said.is_empty(), "n{parent} says nothing of n{number}");
            links += 1;
        }
    }
    assert!(links >= NODES - 1, "{links} links");
}

#[test]
fn five_nodes_with_addresses_of_their_own_are_a_tree_within_two_seconds() {
    let _alone = alone();
    for (listen, shards) in [
        (Listen::Own, &[1, 2][..]),
        (Listen::Any4, &[1]),
        (Listen::Any4, &[2]),
        (Listen::Any6, &[1, 2]),
        (Listen::Any6Join4, &[1, 2]),
    ] {
        let Some(network) = Network::new(NODES) else {
            return;
        };
        let (apart, formed) = Apart::start(network, listen, shards);
        let begun = Instant::now();
        apart.all_hear_all(&[0, 1, 2, 3, 4], "all");
        let took = formed + begun.elapsed();
        println!(
            "{listen:?}, {shards:?} shards: placed after {formed:?}, all hear all after {took:?}"
        );
        assert!(took < FORMED_MAX, "a tree after {took:?}");
        both_ends_say_who_is_linked(&apart);
    }
}

#[test]
fn redis_cli_on_a_leaf_hears_nats_py_on_another_and_questions_are_answered_across() {
    let _alone = alone();
    let Some(network) = Network::new(NODES) else {
        return;
    };
    let (apart, _) = Apart::start(network, Listen::Any4, &[1, 2]);
    let (one, other) = apart.leaves();
    let subscriber = apart.inside(one, |node| redis_cli(node, &["SUBSCRIBE", "news"]));
    subscriber.expect(&["subscribe", "news", "1"]);
    let service = apart.inside(one, |node| nats_py(node, &["answer", "service"]));
    service.expect(&["ready"]);
    // Other nodes hear of a subscription a moment later.
    apart.inside(other, |node| {
        until_one_is_taken(node, "news", "first words")
    });
    apart.inside(other, |node| {
        until_one_is_taken(node, "service", "first words")
    });
    subscriber.expect(&["message", "news", "first words"]);
    let publisher = apart.inside(other, |node| {
        nats_py(node, &["publish", "news", "hello there"])
    });
    publisher.end();
    subscriber.expect(&["message", "news", "hello there"]);
    let asker = apart.inside(other, |node| {
        nats_py(node, &["request", "service", "who is there?"])
    });
    asker.expect(&["WHO IS THERE?"]);
    asker.end();
}
