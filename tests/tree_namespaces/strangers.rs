//! Nodes that join from another machine without the tree's secret, or without any.

use std::time::{Duration, Instant};

use sapwood_wire::node::hello::Refusal;

use crate::apart::{Apart, Listen, NODE_PORT, NODES, lines_with, start_node};
use crate::common::Broker;
use crate::common::native::Event;
use crate::load::{File, alone};
use crate::network::Network;
use crate::nodes::{Ear, until_native_heard};

/// Within this time a stranger is refused.
const REFUSED: Duration = Duration::from_secs(1);

/// Waits until a node says that it has no link with an address for this reason.
fn says(node: &Broker, mark: usize, address: &str, why: &str) -> Duration {
    let begun = Instant::now();
    let part = format!("no link with {address}:");
    while lines_with(node, mark, &[&part, why]).is_empty() {
        assert!(
            begun.elapsed() < REFUSED,
            "no {why:?} in:\n{}",
            node.stderr()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// A stranger at the last place of the network joins by the root; gives it when both have said why not.
fn refused(apart: &Apart, args: &[&str], why: Refusal) -> Broker {
    let stranger = NODES;
    let root = apart.listen.reached(&apart.network, 0);
    let marks = apart.marks();
    let own = apart.network.v4(stranger);
    let args = [args, &["--join", &root]].concat();
    let node = start_node(&apart.network, apart.listen, stranger, 2, &args);
    let took = says(&node, 0, &root, why.text());
    // By the port that it dialed from.
    says(apart.node(0), marks[0], &own, why.text());
    println!("{why:?}: refused within {took:?}");
    // Nobody else was asked, and no link has ended.
    for (number, mark) in marks.into_iter().enumerate() {
        let wanted = if number == 0 {
            "link with node"
        } else {
            "link"
        };
        let lines = lines_with(apart.node(number), mark, &[wanted]);
        assert_eq!(lines, Vec::<String>::new(), "n{number}");
    }
    node
}

#[test]
fn a_node_with_another_secret_is_refused_within_a_second_and_nobody_else_is_touched() {
    let _alone = alone();
    let Some(network) = Network::new(NODES + 1) else {
        return;
    };
    let (apart, _) = Apart::start(network, Listen::Own, &[1, 2]);
    let ears: Vec<Ear> = (0..NODES)
        .map(|number| apart.ear(number, "quiet"))
        .collect();
    let mut publisher = apart.publisher(NODES - 1);
    until_native_heard(&mut publisher, "quiet", &ears);
    let other = File::new("quite another secret\n");
    let stranger = refused(
        &apart,
        &["--cluster-secret-file", other.path()],
        Refusal::SecretWrong,
    );
    let outside = apart
        .network
        .inside(NODES, || Ear::native(&stranger, "quiet"));
    publisher.publish(&Event::new("quiet", "among us"));
    for ear in &ears {
        assert_eq!(ear.next(), Event::new("quiet", "among us"));
        ear.hears_nothing();
    }
    outside.hears_nothing();
}

#[test]
fn a_node_without_a_secret_neither_joins_other_machines_nor_lets_them_join() {
    let _alone = alone();
    let Some(network) = Network::new(1) else {
        return;
    };
    let secret = File::new("correct horse battery staple\n");
    let at = format!("{}:{NODE_PORT}", network.v4(0));
    let guarded = ["--cluster-secret-file", secret.path()];
    let node = start_node(&network, Listen::Own, 0, 1, &guarded);
    for args in [["--node", &*at], ["--join", &*at]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sapwood"));
        command.args([
            "serve", "--redis", "off", "--native", "off", "--nats", "off",
        ]);
        command.args(["--http", "off"]).args(args);
        let output = network.inside(0, || command.output().unwrap());
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("cluster-secret-file"), "{said}");
    }
    assert_eq!(lines_with(&node, 0, &["no link"]), Vec::<String>::new());
}
