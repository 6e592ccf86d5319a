//! Trees of whole nodes in one thread: shards, lanes, places, interest and clients, under a network's faults.
//!
//! A history has four parts: nodes join through one another, sometimes in two trees that meet; clients publish and subscribe
//! while nodes crash, hang, flap and leave and the network loses, delays and cuts; all faults end and the nodes must find one tree; then every event must
//! reach everyone who wants it, once and in order. The same seed gives the same history. Start at [`run`].

mod check;
mod client;
mod faults;
mod finale;
mod network;
mod patience;
mod world;

pub use patience::{starve, stop};
pub use world::{Sabotage, Story, Sum};

use crate::Failure;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// Plays one history. A failure says what was wrong, and the last lines of the nodes' logs.
pub fn run(story: &Story) -> Result<Sum, Failure> {
    let mut world = World::new(story.clone());
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let outcome = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        crate::fail("panic", text.unwrap_or_default())
    });
    outcome.map_err(|failure| world.explain(failure))
}
