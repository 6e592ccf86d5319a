//! NATS clients learn where else they can connect, and go there when their node ends.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::common::{Broker, VALUE_SECONDS_MAX, script};
use super::nats::NatsClient;
use super::nodes::{MIXES, Tree};

/// Waits until a client, connected already, was told exactly these.
#[track_caller]
fn until_told(client: &mut NatsClient, expected: &[&str]) {
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    loop {
        client.sync();
        let urls = client.connect_urls();
        if urls == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{urls:?}, not {expected:?}");
    }
}

fn url(node: &Broker) -> String {
    format!("127.0.0.1:{}", node.nats_port())
}

#[test]
fn clients_are_told_of_nodes_that_come_and_go() {
    for shards in MIXES {
        let mut tree = Tree::start(2, shards, &[]);
        // Several, so that some are on each shard.
        let mut clients: Vec<NatsClient> = (0..6)
            .map(|_| NatsClient::connect(tree.nodes[0].nats_port()))
            .collect();
        let second = url(&tree.nodes[1]);
        for client in &mut clients {
            until_told(client, &[&second]);
        }
        tree.join(shards[0], &["--nats-advertise", "10.1.2.3:4222"]);
        tree.settle();
        for client in &mut clients {
            until_told(client, &["10.1.2.3:4222", &second]);
        }
        let mut late = NatsClient::connect(tree.nodes[1].nats_port());
        until_told(&mut late, &["10.1.2.3:4222", &url(&tree.nodes[0])]);
        tree.nodes.pop();
        for client in &mut clients {
            until_told(client, &[&second]);
        }
        // Who takes INFO only at the start gets no other.
        let json = r#"{"verbose":false,"protocol":0}"#;
        let mut old = NatsClient::connect_with(tree.nodes[0].nats_port(), json);
        let before = old.connect_urls();
        tree.nodes.pop();
        for client in &mut clients {
            until_told(client, &[]);
        }
        old.sync();
        assert_eq!(old.connect_urls(), before);
    }
}

#[test]
fn a_broker_alone_tells_of_nobody() {
    let broker = Broker::start(1, &[]);
    let client = NatsClient::connect(broker.nats_port());
    assert!(client.info.get("connect_urls").is_none());
}

#[test]
fn a_client_that_knew_one_node_goes_to_another() {
    for shards in MIXES {
        let mut tree = Tree::start(2, shards, &[]);
        let mut command = script::python("nats_reconnect.py");
        command
            .args([url(&tree.nodes[1]), url(&tree.nodes[0])])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut watched = Watched::start(&mut command);
        assert_eq!(watched.line(), "knows both");
        tree.nodes.pop();
        assert_eq!(watched.line(), "is there and hears itself");
    }
}

struct Watched {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Watched {
    fn start(command: &mut Command) -> Watched {
        use std::io::BufRead;
        let mut child = command.spawn().expect("run tools/setup");
        let stdout = child.stdout.take().expect("stdout is piped");
        let lines = std::io::BufReader::new(stdout).lines();
        Watched { child, lines }
    }

    /// The script ends by itself when something does not come in time.
    fn line(&mut self) -> String {
        let line = self.lines.next();
        line.expect("a line").expect("text")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
