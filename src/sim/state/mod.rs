//! One node's state plane in one thread under a seed: a disk that lies, the log's thread, workers, a store, clients.
//!
//! The code under test is `sapwood_state`; this drives it as a server does, and plays the disk badly on purpose. Crashes
//! come at any step, during starts too. A model in plain maps says what must be answered and held; what was
//! acknowledged must survive. The same seed gives the same history. Start at [`run`], then `world.rs`.

mod check;
mod client;
mod disk;
mod history;
mod io;
mod log_thread;
mod model;
mod start;
mod worker;
mod world;

use crate::Failure;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// What a set of histories must reach: one that misses something is too small or too tame.
pub const SITUATIONS: &[&str] = &[
    "answer in parts",
    "applied before the sync",
    "batch refused",
    "batch stored",
    "call refused after a failure",
    "call refused at the door",
    "call refused",
    "calls in flight at a crash",
    "clock steps back",
    "clock steps forward",
    "crash during a flush",
    "crash with entries under way",
    "dead records behind the end",
    "dead rows compacted",
    "duplicate told",
    "entries replayed",
    "entry at its cap",
    "filters taken",
    "flipped bit refused",
    "gap read",
    "ids pruned",
    "kill",
    "log failed",
    "log gone on with other sizes",
    "log's mailbox full",
    "maintenance proposed",
    "mark",
    "message deleted",
    "message refused",
    "messages expired",
    "no segment: entries wait",
    "no space for a segment: tried again",
    "no space left",
    "nothing expired",
    "one sync for several entries",
    "page behind writes",
    "page of a worker",
    "page read",
    "power cut",
    "publish answered",
    "read after a failure",
    "replica compared",
    "run stored",
    "segment used again",
    "sequences raised",
    "several commands in an entry",
    "several entries in a batch",
    "several entries in an append",
    "shards told of filters",
    "short write",
    "slow sync",
    "start broken off",
    "store ahead of the log",
    "store flushed",
    "stream created again",
    "stream created",
    "stream deleted",
    "stream purged",
    "stream updated",
    "sync fails",
    "sync of several files",
    "topic that nobody keeps",
    "torn tail cut",
    "unknown call made again",
    "unsynced entries lost",
    "worker full",
    "worker's mailbox full",
    "write fails",
];

/// What is to be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    /// Determines everything.
    pub seed: u64,
    /// Steps before everything is to be answered.
    pub steps: usize,
    /// A rule that the driver breaks, for the checks to notice.
    pub sabotage: Option<Sabotage>,
}

impl Story {
    /// The usual history of a seed.
    pub fn of(seed: u64) -> Story {
        Story {
            seed,
            steps: 3_000,
            sabotage: None,
        }
    }
}

/// A rule that is broken. Each must be noticed: a check that cannot fail is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// What is only written is applied and acknowledged as if it were synced.
    AcknowledgeBeforeSync,
    /// An entry of the log is applied without its commands at a start.
    SkipEntry,
    /// A start forgets the ids that the store had.
    ForgetIds,
    /// A start does not tell the log which indexes the store has used beyond it.
    ReuseIndex,
    /// A compaction knows floors that no flush made durable.
    UnflushedFloor,
    /// Names of new files are not made durable.
    DirectoryNotSynced,
    /// Segments are used again before the flush that makes them needless is durable.
    FlushedTooEarly,
    /// After a sync that failed another one is tried.
    RetrySync,
    /// A start takes for durable what is in the page cache and no sync that is to come will write.
    PagesTrusted,
    /// A start gives sequences again that readers of `os` streams may have seen.
    NotRaised,
}

impl Sabotage {
    /// Each of them.
    pub const ALL: [Sabotage; 10] = [
        Sabotage::AcknowledgeBeforeSync,
        Sabotage::SkipEntry,
        Sabotage::ForgetIds,
        Sabotage::ReuseIndex,
        Sabotage::UnflushedFloor,
        Sabotage::DirectoryNotSynced,
        Sabotage::FlushedTooEarly,
        Sabotage::RetrySync,
        Sabotage::PagesTrusted,
        Sabotage::NotRaised,
    ];
}

/// What a history came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How often each situation came up.
    pub situations: BTreeMap<&'static str, u64>,
    /// A number for all answers: equal for equal histories.
    pub trace: u64,
}

/// Plays one history through. Fails with the first fault that a check finds; a panic is one too.
pub fn run(story: Story) -> Result<Sum, Failure> {
    let mut world = World::new(story);
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let outcome = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        crate::fail("panic", text.unwrap_or_default())
    });
    let step = world.steps();
    outcome.map_err(|failure| Failure { step, ..failure })
}
