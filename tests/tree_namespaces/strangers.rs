//! Nodes that join from another machine without the tree's secret, or without any.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
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
        thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// A stranger at the last place of the network joins by the root, which it reaches at the address that it dials; gives it
/// when both have said why not.
fn refused(apart: &Apart, dialed: &str, args: &[&str], why: Refusal) -> Broker {
    let marks = apart.marks();
    let own = apart.network.v4(NODES);
    let args = [args, &["--join", dialed]].concat();
    let node = apart.network.inside(NODES, || Broker::start(2, &args));
    let took = says(&node, 0, dialed, why.text());
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

/// Carries connections from a port of loopback to an address on another machine, until the test ends; gives the port's.
fn relay(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, to) = (listener.local_addr().unwrap().to_string(), to.to_string());
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(&to) else {
                continue;
            };
            for (mut from, mut to) in [
                (near.try_clone().unwrap(), far.try_clone().unwrap()),
                (far, near),
            ] {
                thread::spawn(move || {
                    // Either side may have gone.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    at
}

#[test]
fn a_node_with_another_secret_or_none_is_refused_within_a_second_and_nobody_else_is_touched() {
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
    let root = apart.listen.reached(&apart.network, 0);
    let other = File::new("quite another secret\n");
    let at = format!("{}:{NODE_PORT}", apart.network.v4(NODES));
    let args = ["--cluster-secret-file", other.path(), "--node", &at];
    let wrong = refused(&apart, &root, &args, Refusal::SecretWrong);
    // Without a secret it would not begin to join another machine, so it is led there.
    let relay = apart.network.inside(NODES, || relay(&root));
    let none = refused(&apart, &relay, &[], Refusal::SecretRequired);
    let listen = |node| apart.network.inside(NODES, || Ear::native(node, "quiet"));
    let outside = [&wrong, &none].map(listen);
    publisher.publish(&Event::new("quiet", "among us"));
    for ear in &ears {
        assert_eq!(ear.next(), Event::new("quiet", "among us"));
        ear.hears_nothing();
    }
    for ear in &outside {
        ear.hears_nothing();
    }
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
