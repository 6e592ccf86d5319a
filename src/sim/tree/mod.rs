//! Many nodes that look for their places in the tree, in one thread under a seed.
//!
//! Only the machine of `core::tree::place` runs on each node. `world` owns nodes, connections and the clock; `check` says
//! what must hold; `story` plays faults. Start at [`play`] for a whole history and at [`World`] for a single scene.

mod check;
mod queue;
mod story;
mod world;

pub use check::Shape;
pub use sapwood_core::tree::place::Broken;
pub use story::{Crowd, Outcome, Story, crowd, play};
pub use world::{Delay, Vanishes, World, WorldOptions};

/// A fault that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFailure {
    /// The check's name.
    pub check: &'static str,
    /// What was found, for people to read.
    pub text: String,
    /// The simulated time.
    pub at_ns: u64,
}

impl std::fmt::Display for TreeFailure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_ms = self.at_ns / 1_000_000;
        write!(out, "{} (at {at_ms} ms): {}", self.check, self.text)
    }
}

impl std::error::Error for TreeFailure {}
