//! Whole histories: nodes come, faults happen, all is mended, and then there must be one tree.
//!
//! Start at [`play`].

use super::world::Vanishes;
use super::{Delay, Shape, TreeFailure, World, WorldOptions};
use crate::rng::Rng;
use sapwood_core::tree::address::Path;
use sapwood_core::tree::place::Broken;

const MS: u64 = 1_000_000;

/// After the last fault all nodes must stand in one tree within so long, in nanoseconds. A root of a part looks at two addresses
/// a second, of at most 16 seeds and 32 others, so that it has looked at all of them in 32 s; some merges follow each other.
pub const MEND_NS_MAX: u64 = 60_000 * MS;

/// Then it must stay so for so long.
const QUIET_NS: u64 = 4_000 * MS;

/// A history to be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    /// All its randomness.
    pub seed: u64,
    /// How many nodes; `None` leaves it to the seed, 1 to 30.
    pub nodes: Option<usize>,
    /// How many faults.
    pub faults: usize,
    /// A rule that is broken.
    pub broken: Option<Broken>,
}

impl Story {
    /// The history of a seed, of the usual length.
    pub fn of(seed: u64) -> Story {
        Story {
            seed,
            nodes: None,
            faults: 20,
            broken: None,
        }
    }
}

/// What a history without fault has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Equal for equal histories.
    pub trace: u64,
    /// From the last fault to one tree.
    pub mended_ns: u64,
    /// The tree at the end.
    pub shape: Shape,
}

/// Plays a history. Fails with the first fault that a check finds.
pub fn play(story: Story) -> Result<Outcome, TreeFailure> {
    let mut rng = Rng::new(story.seed ^ 0x7ee);
    let delay = rng.pick(&[
        Delay::fixed(MS),
        Delay {
            least_ns: MS / 5,
            pair_ns: 20 * MS,
            jitter_ns: 5 * MS,
        },
        Delay {
            least_ns: 10 * MS,
            pair_ns: 20 * MS,
            jitter_ns: 2 * MS,
        },
    ]);
    let mut world = World::new(WorldOptions {
        seed: story.seed,
        delay,
        broken: story.broken,
        encodes: true,
    });
    let count = story.nodes.unwrap_or_else(|| 1 + rng.below(30));
    populate(&mut world, count, &mut rng);
    for _ in 0..story.faults {
        let pause_ms = rng.pick(&[0, 1, 5, 50, 300, 1_000, 2_500]);
        let pause_ns = rng.below(1 + pause_ms * MS as usize) as u64;
        world.run_until(world.now_ns() + pause_ns)?;
        harm(&mut world, &mut rng);
    }
    mend(&mut world, &mut rng);
    let mended_ns = world.run_until_one(MEND_NS_MAX)?;
    world.run_until(world.now_ns() + QUIET_NS)?;
    let shape = world.shape().map_err(|wrong| TreeFailure {
        check: "stays",
        text: wrong,
        at_ns: world.now_ns(),
    })?;
    Ok(Outcome {
        trace: world.trace.0,
        mended_ns,
        shape,
    })
}

/// What a crowd that joins through one seed has to show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crowd {
    /// Nodes.
    pub nodes: usize,
    /// From the start to one tree.
    pub took_ns: u64,
    /// The longest path.
    pub depth: usize,
    /// What an event for a single node carries to find it, in bytes, by node: its path as text.
    pub address_bytes: f64,
    /// The most of them.
    pub address_bytes_most: usize,
    /// What an event for every node carries to find them, in bytes: where it goes follows from the link that it came by.
    pub broadcast_bytes: usize,
    /// Messages that were sent meanwhile, by node.
    pub messages_joining: f64,
    /// Messages in quiet, by node and second.
    pub messages: f64,
    /// Their bytes, headers included; none if they are not encoded.
    pub bytes: f64,
}

/// So many nodes of a crowd start at once: one that 100,000 ask at the same moment sends most of them away for a minute.
const WAVE_NODES: usize = 10_000;

/// So many nodes start at once, all but one with that one as their seed, or in waves, of which each is one tree before the next
/// comes. Messages travel 1 ms.
pub fn crowd(nodes: usize, encodes: bool) -> Result<Crowd, TreeFailure> {
    /// Quiet is measured for so long.
    const SECONDS: u64 = 4;
    let mut world = World::new(WorldOptions {
        seed: nodes as u64,
        delay: Delay::fixed(MS),
        broken: None,
        encodes,
    });
    world.start_crowd(nodes.min(WAVE_NODES));
    let mut took_ns = world.run_until_one(MEND_NS_MAX)?;
    while world.len() < nodes {
        world.start_wave(WAVE_NODES.min(nodes - world.len()));
        took_ns += world.run_until_one(MEND_NS_MAX)?;
    }
    let (joining, _) = world.traffic();
    world.run_until(world.now_ns() + 2_000 * MS)?;
    let before = world.traffic();
    world.run_until(world.now_ns() + SECONDS * 1_000 * MS)?;
    let after = world.traffic();
    let each = |count: u64| count as f64 / nodes as f64;
    let shape = world.shape().unwrap_or_default();
    let paths = (0..nodes).filter_map(|number| Path::new(world.place(number)?.path()?).ok());
    let addresses: Vec<usize> = paths.map(|path| path.to_string().len()).collect();
    Ok(Crowd {
        address_bytes: each(addresses.iter().sum::<usize>() as u64),
        address_bytes_most: addresses.iter().copied().max().unwrap_or_default(),
        broadcast_bytes: 0,
        nodes,
        took_ns,
        depth: shape.depth,
        messages_joining: each(joining),
        messages: each(after.0 - before.0) / SECONDS as f64,
        bytes: each(after.1 - before.1) / SECONDS as f64,
    })
}

/// Adds the nodes, with one tree at first or two, and few or many places for children.
fn populate(world: &mut World, count: usize, rng: &mut Rng) {
    let children_max = rng.pick(&[2, 2, 3, 8]);
    let roots = if count > 3 && rng.percent(30) { 2 } else { 1 };
    for number in 0..count {
        let mut seeds = Vec::new();
        if number >= roots {
            seeds.push(rng.below(roots));
            if rng.percent(50) {
                seeds.push(rng.below(count));
            }
        } else if number > 0 {
            // A tree that begins by itself where its seed is late, and meets the other one later.
            seeds.push(0);
        }
        world.add(&seeds, |config| config.children_max = children_max);
        let is_late = number == 0 && roots == 2;
        if !is_late && rng.percent(90) {
            world.start(number);
        }
    }
}

fn harm(world: &mut World, rng: &mut Rng) {
    let number = rng.below(world.len());
    let other = rng.below(world.len());
    match rng.below(12) {
        0 | 1 if world.is_running(number) => world.crash(number, Vanishes::No),
        2 if world.is_running(number) => world.crash(number, Vanishes::Yes),
        0..=3 if !world.is_running(number) => world.start(number),
        3 => {
            // Restarted at once, before anybody has noticed.
            world.crash(number, Vanishes::No);
            world.start(number);
        }
        4 => world.hang(number),
        5 if world.is_hung(number) => world.wake(number),
        5 | 6 => world.break_link(),
        7 => world.cut(number, other),
        8 => {
            world.cut(number, other);
            world.cut(other, number);
        }
        9 => part(world, rng),
        10 => world.heal(),
        _ => {
            // The root, which is the hardest to lose.
            let is_root = |number: &usize| {
                let place = world.place(*number);
                place.is_some_and(|place| place.is_root())
            };
            if let Some(root) = (0..world.len()).find(is_root) {
                match rng.below(3) {
                    0 => world.crash(root, Vanishes::No),
                    1 => world.crash(root, Vanishes::Yes),
                    _ => world.hang(root),
                }
            }
        }
    }
}

/// Cuts the nodes into two parts.
fn part(world: &mut World, rng: &mut Rng) {
    let sides: Vec<_> = (0..world.len()).map(|_| rng.percent(50)).collect();
    for from in 0..world.len() {
        for to in 0..world.len() {
            if sides[from] != sides[to] {
                world.cut(from, to);
            }
        }
    }
}

/// Ends all faults. All nodes run then, so that every seed is there.
fn mend(world: &mut World, rng: &mut Rng) {
    world.heal();
    let mut numbers: Vec<_> = (0..world.len()).collect();
    for index in (1..numbers.len()).rev() {
        numbers.swap(index, rng.below(index + 1));
    }
    for number in numbers {
        if world.is_hung(number) {
            world.wake(number);
        }
        if !world.is_running(number) {
            world.start(number);
        }
    }
}
