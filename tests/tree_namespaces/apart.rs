//! Five brokers in five namespaces that are one tree, and clients beside each.
//!
//! Clients connect to loopback, as `sapwood serve` has it; only the links use the namespaces' addresses. What a node hears
//! and says of others is looked for in its log. Start at [`Apart::start`].

use std::thread;
use std::time::{Duration, Instant};

use crate::common::Broker;
use crate::common::native::NativeClient;
use crate::load::File;
use crate::network::Network;
use crate::nodes::{Ear, Tree, path, until_native_heard};

/// How many namespaces there are.
pub const NODES: usize = 5;

/// Where nodes listen for others; any would do, for the port is theirs alone.
pub const NODE_PORT: u16 = 7401;

/// How a node is told where it listens for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At its own address.
    Own,
    /// At all that it has, of version 4; others find out by which they reach it.
    Any4,
    /// At all that it has, of either version; it joins by version 6.
    Any6,
    /// The same, and it joins by version 4.
    Any6Join4,
}

impl Listen {
    fn at(self, network: &Network, number: usize) -> String {
        match self {
            Listen::Own => format!("{}:{NODE_PORT}", network.v4(number)),
            Listen::Any4 => format!("0.0.0.0:{NODE_PORT}"),
            Listen::Any6 | Listen::Any6Join4 => format!("[::]:{NODE_PORT}"),
        }
    }

    /// Where others reach it.
    pub fn reached(self, network: &Network, number: usize) -> String {
        match self {
            Listen::Any6 => format!("[{}]:{NODE_PORT}", network.v6(number)),
            _ => format!("{}:{NODE_PORT}", network.v4(number)),
        }
    }
}

/// Nodes in namespaces. Brokers end before their namespaces.
pub struct Apart {
    pub tree: Tree,
    pub listen: Listen,
    /// Read once by each, and gone with the value.
    _secret: File,
    pub network: Network,
}

impl Apart {
    /// Starts five at once, of which all but the first are told to join the first; waits until each has its place. Gives
    /// also how long that took from the moment at which all ran.
    pub fn start(network: Network, listen: Listen, shards: &[usize]) -> (Apart, Duration) {
        let secret = File::new("correct horse battery staple\n");
        let join = listen.reached(&network, 0);
        let start = |number: usize| {
            let mut args = vec!["--cluster-secret-file", secret.path()];
            if number > 0 {
                args.extend(["--join", &*join]);
            }
            start_node(
                &network,
                listen,
                number,
                shards[number % shards.len()],
                &args,
            )
        };
        let nodes = thread::scope(|scope| {
            let starting = [0, 1, 2, 3, 4].map(|number| scope.spawn(move || start(number)));
            starting.map(|node| node.join().unwrap())
        });
        let begun = Instant::now();
        let tree = Tree {
            nodes: nodes.into(),
        };
        tree.settle();
        let apart = Apart {
            tree,
            listen,
            _secret: secret,
            network,
        };
        (apart, begun.elapsed())
    }

    pub fn node(&self, number: usize) -> &Broker {
        &self.tree.nodes[number]
    }

    pub fn inside<T: Send>(&self, number: usize, work: impl FnOnce(&Broker) -> T + Send) -> T {
        let node = self.node(number);
        self.network.inside(number, || work(node))
    }

    /// A native listener on a node.
    pub fn ear(&self, number: usize, topic: &str) -> Ear {
        self.inside(number, |node| Ear::native(node, topic))
    }

    /// A native publisher on a node.
    pub fn publisher(&self, number: usize) -> NativeClient {
        self.inside(number, |node| NativeClient::connect(node.native_port()))
    }

    /// Waits until each of these nodes hears each.
    pub fn all_hear_all(&self, numbers: &[usize], topic: &str) {
        let ears: Vec<Ear> = numbers.iter().map(|&node| self.ear(node, topic)).collect();
        for &number in numbers {
            until_native_heard(&mut self.publisher(number), topic, &ears);
        }
    }

    /// Who has this node as its parent.
    pub fn children(&self, number: usize) -> Vec<usize> {
        let above = path(self.node(number)).expect("the tree stands") + "/";
        let is_child = |other: &usize| {
            let path = path(self.node(*other)).expect("the tree stands");
            path.strip_prefix(&above)
                .is_some_and(|rest| !rest.contains('/'))
        };
        (0..NODES).filter(is_child).collect()
    }

    /// Who has a link with this node: its parent and its children.
    pub fn neighbours(&self, number: usize) -> Vec<usize> {
        let is_parent = |other: &usize| self.children(*other).contains(&number);
        let parent = (0..NODES).find(is_parent).into_iter();
        parent.chain(self.children(number)).collect()
    }

    /// Two nodes that nobody has as a parent, in different branches below the root if there are.
    pub fn leaves(&self) -> (usize, usize) {
        let paths = self.tree.nodes.iter().map(|node| path(node).unwrap());
        let paths: Vec<String> = paths.collect();
        let is_leaf = |number: &usize| {
            let below = format!("{}/", paths[*number]);
            !paths.iter().any(|path| path.starts_with(&below))
        };
        let mut leaves: Vec<usize> = (0..NODES).filter(is_leaf).collect();
        leaves.sort_by_key(|&number| paths[number].clone());
        (leaves[0], leaves[leaves.len() - 1])
    }

    /// Where each node's log ends now.
    pub fn marks(&self) -> Vec<usize> {
        let nodes = self.tree.nodes.iter();
        nodes.map(|node| node.stderr().len()).collect()
    }
}

/// A broker in a namespace, called `n` and its number.
pub fn start_node(
    network: &Network,
    listen: Listen,
    number: usize,
    shards: usize,
    args: &[&str],
) -> Broker {
    let (at, name) = (listen.at(network, number), format!("n{number}"));
    let mut all = vec!["--node", &*at, "--node-name", &*name];
    all.extend(["--children-max", "2"]);
    all.extend_from_slice(args);
    network.inside(number, || {
        Broker::start_restartable_with(shards, None, &all)
    })
}

/// The lines of a node's log behind a mark that hold all of this.
pub fn lines_with(node: &Broker, mark: usize, parts: &[&str]) -> Vec<String> {
    let text = node.stderr();
    let lines = text[mark..].lines();
    let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.map(str::to_string).collect()
}
