//! A chain of nodes, each with the one before it as its parent: Sapwood's, or nats-servers that are leaf nodes.
//!
//! Owns the processes. That its nodes have found each other is seen by clients, in [`crate::course`].

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::Who;
use crate::servers::{Server, Setting, free_port};

/// So many nodes: three hops from one end to the other.
pub const NODES: usize = 4;

/// A chain, until dropped.
pub struct Chain {
    /// Each node is the next one's parent.
    pub nodes: Vec<Server>,
}

impl Chain {
    /// Starts the nodes, all on the same CPUs; Sapwood's have a shard on each.
    pub fn start(who: Who, cpus: &[usize]) -> io::Result<Chain> {
        let mut nodes: Vec<Server> = Vec::new();
        let mut leaf_parent = None;
        for number in 0..NODES {
            let parent = nodes.last().and_then(|node| node.node).or(leaf_parent);
            let mut leaf = None;
            let arguments = match who.is_ours() {
                true => parent.map_or(Vec::new(), |at| vec!["--parent".into(), at.to_string()]),
                false => {
                    let at = SocketAddr::from(([127, 0, 0, 1], free_port()?));
                    leaf_parent = Some(at);
                    let file = leaf.insert(write_leaf(who, number, at, parent)?);
                    vec!["-c".to_string(), file.display().to_string()]
                }
            };
            let cpus = cpus.to_vec();
            let started = Server::start(&Setting {
                who,
                arguments,
                cpus,
            });
            // It has been read, or is of no use.
            leaf.map(fs::remove_file).transpose()?;
            nodes.push(started?);
        }
        Ok(Chain { nodes })
    }

    /// CPU time of each node so far.
    pub fn cpu(&self) -> io::Result<Vec<Duration>> {
        self.nodes.iter().map(Server::cpu).collect()
    }
}

/// Writes what makes a nats-server take leaf nodes in at an address, and be one of its parent.
fn write_leaf(
    who: Who,
    number: usize,
    at: SocketAddr,
    parent: Option<SocketAddr>,
) -> io::Result<PathBuf> {
    let name = format!("leaf-{}-{number}.conf", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // What a server of 2022 does not know and does not do: on one machine compressing only costs.
    let compression = match who {
        Who::NatsNow => "compression: off",
        _ => "",
    };
    let remotes = parent.map_or(String::new(), |parent| {
        format!("remotes: [{{\nurl: \"nats://{parent}\"\n{compression}\n}}]")
    });
    let text = format!("leafnodes {{\nlisten: \"{at}\"\n{compression}\n{remotes}\n}}\n");
    fs::write(&path, text)?;
    Ok(path)
}
