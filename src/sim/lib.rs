//! The simulator: 1 to 8 shards of the broker in one thread, driven from a seed.
//!
//! It owns what a server owns (sockets, the mesh between shards, the clock) and plays it badly on
//! purpose: batches come late, sockets take a part, clients stall, vanish and break the protocol,
//! limits are so small that they are reached. A model derives what every client must read, to the
//! byte and in order, and every cap is checked. The same seed gives the same history, so a seed
//! that found a fault plays it again.
//!
//! It must not know how the broker works inside: only the door of `sapwood_core::Shard`. Where to
//! start reading: [`run`], then `driver` (how a shard is driven), `model` (what must happen) and
//! `check` (how that is compared). Three others stand beside it: [`tree`], [`nodes`] and [`state`].
#![forbid(unsafe_code)]

mod check;
mod check_losses;
mod client;
mod command;
mod coverage;
mod driver;
mod expect;
mod finale;
mod machines;
mod model;
mod native;
pub mod nodes;
mod reader;
mod rng;
pub mod state;
mod stream;
pub mod tree;
mod turns;
mod world;

pub use coverage::Coverage;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// What is to be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Determines everything.
    pub seed: u64,
    /// Number of shards, 1 to 8; the seed chooses if there is none.
    pub shards: Option<u16>,
    /// How many steps the workload takes, before it drains.
    pub steps: u64,
    /// The hash seed that the shards are given; nothing visible may depend on it.
    pub hash_seed: u64,
    /// A rule that the driver breaks, for the checks to notice.
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// The workload of a seed, of the usual length.
    pub fn of(seed: u64) -> Options {
        Options {
            seed,
            shards: None,
            steps: 1_500,
            hash_seed: 1,
            sabotage: None,
        }
    }
}

/// A rule that the driver can break. Each must be noticed: a check that cannot fail is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A batch is given back without having been dealt with.
    DropBatch,
    /// A batch is dealt with twice.
    DoubleBatch,
    /// Two batches of a pair arrive in the wrong order.
    SwapBatches,
    /// A batch never comes back to its sender, and with it the credit.
    LoseReturn,
    /// A batch is said to come from another shard.
    WrongSender,
    /// After `Next::Flush` a batch is read from its beginning again.
    Reread,
    /// A connection that may be read again is not.
    ForgetResumed,
    /// A connection is read on although it is held, past its unconsumed input.
    SkipInput,
    /// More is reported as sent than was.
    SentTooMuch,
    /// Less is reported as sent than was.
    SentTooLittle,
    /// A connection's end is not reported.
    ForgetClosed,
    /// A turn's end is not reported, ever again.
    ForgetTurnEnd,
    /// A write that would have blocked is reported as one that would not.
    SentUnblocked,
    /// Two turns of a member's connection come in the wrong order.
    SwapTurns,
    /// A turn comes twice.
    DoubleTurn,
    /// A turn does not come.
    LoseTurn,
    /// A gap does not come.
    LoseGap,
    /// An event does not come, and no gap says so.
    LoseEvent,
    /// What a machine's connection brought is kept from the machine.
    HideEvent,
    /// What a machine's connection took is not reported, and then the connection breaks.
    WriteAgain,
}

impl Sabotage {
    /// Each of them.
    pub const ALL: [Sabotage; 20] = [
        Sabotage::DropBatch,
        Sabotage::DoubleBatch,
        Sabotage::SwapBatches,
        Sabotage::LoseReturn,
        Sabotage::WrongSender,
        Sabotage::Reread,
        Sabotage::ForgetResumed,
        Sabotage::SkipInput,
        Sabotage::SentTooMuch,
        Sabotage::SentTooLittle,
        Sabotage::ForgetClosed,
        Sabotage::ForgetTurnEnd,
        Sabotage::SentUnblocked,
        Sabotage::SwapTurns,
        Sabotage::DoubleTurn,
        Sabotage::LoseTurn,
        Sabotage::LoseGap,
        Sabotage::LoseEvent,
        Sabotage::HideEvent,
        Sabotage::WriteAgain,
    ];
}

/// What a run that found no fault has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A number for all that was visible: equal for equal histories.
    pub trace: u64,
    /// How often each situation came up.
    pub coverage: Coverage,
    /// Steps taken, those of the drain included.
    pub steps: u64,
}

/// A fault that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The check's name.
    pub check: &'static str,
    /// What was found, for people to read.
    pub text: String,
    /// The step it was found at.
    pub step: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (step {}): {}", self.check, self.step, self.text)
    }
}

impl std::error::Error for Failure {}

fn fail<T>(check: &'static str, text: String) -> Result<T, Failure> {
    Err(Failure {
        check,
        text,
        step: 0,
    })
}

/// Plays one history through, from nothing to a node that everybody has left.
///
/// Fails with the first fault that a check finds. A panic of the broker is a fault too.
///
/// ```
/// let options = sapwood_sim::Options { steps: 200, ..sapwood_sim::Options::of(7) };
/// let report = sapwood_sim::run(options).unwrap();
/// assert_eq!(report.trace, sapwood_sim::run(options).unwrap().trace);
/// ```
pub fn run(options: Options) -> Result<Report, Failure> {
    let mut world = World::new(options);
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let step = world.steps();
    match played {
        Ok(Ok(())) => Ok(world.report()),
        Ok(Err(failure)) => Err(Failure { step, ..failure }),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(Failure {
                check: "panic",
                text: text.unwrap_or_default(),
                step,
            })
        }
    }
}
