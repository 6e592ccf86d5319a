//! How long nodes bear with others that are silent: those that get little CPU keep their links, those that stop lose them.
//!
//! Start at [`starve`] and [`stop`].

use super::network::Health;
use super::world::{MS, Story, World};
use crate::{Failure, fail};

/// Nodes of these histories.
const NODES: usize = 4;

/// A world of nodes that stand in one tree, without clients and faults.
fn quiet(seed: u64) -> Result<World, Failure> {
    let mut world = World::new(Story {
        has_faults: false,
        ..Story::of_size(seed, NODES)
    });
    world.stand()?;
    Ok(world)
}

/// Lets the first nodes do only one turn in about this many milliseconds, for so many seconds. Gives how many links were
/// lost.
pub fn starve(seed: u64, nodes: usize, pause_ms: u64, seconds: u64) -> Result<u64, Failure> {
    let mut world = quiet(seed)?;
    let root = world.network.root(0);
    let until = world.network.now_ns + seconds * 1_000 * MS;
    while world.network.now_ns < until {
        for node in 0..nodes.min(NODES) {
            if world.network.nodes[node].health == Health::Runs {
                let now_ns = world.network.now_ns;
                let pause_ms = pause_ms / 2 + world.network.rng.below(pause_ms as usize / 2) as u64;
                world.network.hang(node, now_ns + pause_ms * MS);
            }
        }
        world.tick(1)?;
    }
    if world.network.root(0) != root {
        return fail("root", "another root was elected".into());
    }
    Ok(world.network.counters().links_lost)
}

/// Stops a node for good. Gives how many milliseconds pass until none of the others has a link to it.
pub fn stop(seed: u64, node: usize) -> Result<u64, Failure> {
    let mut world = quiet(seed)?;
    let begun_ns = world.network.now_ns;
    world.network.hang(node, u64::MAX);
    while world.network.is_linked_to(node) {
        if world.network.now_ns > begun_ns + 60_000 * MS {
            return fail("stopped", "it has links still".into());
        }
        world.tick(1)?;
    }
    Ok((world.network.now_ns - begun_ns) / MS)
}
