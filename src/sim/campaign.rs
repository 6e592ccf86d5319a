//! What the command line plays of the tree of nodes and of the state plane, and what it prints about that.
//!
//! Start at [`play`].

use sapwood_sim::{nodes, state, tree};
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

/// Messages of larger crowds are not encoded, which would take most of the time.
const ENCODED_NODES_MAX: usize = 10_000;

/// The crowds of the table.
const CROWDS: [usize; 4] = [10, 100, 1_000, 100_000];

/// Results are told apart by the number of nodes: up to so many.
const SIZES: [usize; 4] = [12, 99, 999, usize::MAX];

/// A campaign says how far it is about so often, in seconds.
const SAY_SECONDS: u64 = 30;

/// Plays the tree of nodes or the state plane, if that is asked for. Fails if what is asked for is not understood.
pub fn play(words: &[String]) -> Result<Option<ExitCode>, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_right = match words[..] {
        ["--crowds"] => play_crowds(&CROWDS),
        ["--crowd", count] => play_crowds(&[number(count)?]),
        ["--tree", seeds] => play_places(range(seeds)?),
        ["--state", seeds] => play_state(range(seeds)?),
        ["--nodes", seeds] => play_nodes(range(seeds)?, None),
        ["--nodes", seeds, "--size", size] => play_nodes(range(seeds)?, Some(number(size)?)),
        _ => return Ok(None),
    };
    Ok(Some(ExitCode::from(u8::from(!is_right))))
}

fn number(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| *number > 0);
    number.ok_or(format!("{word} is no number of nodes"))
}

fn range(word: &str) -> Result<Range<u64>, String> {
    let ends = word.split_once("..");
    let ends = ends.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.ok_or(format!("seeds are A..B, not {word}"))
}

/// The values below which so many of a hundred are.
fn shown(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |percent: usize| {
        let place = values.len().saturating_sub(1) * percent / 100;
        values.get(place).copied().unwrap_or_default()
    };
    format!(
        "median {}, 90 % {}, 99 % {}, most {}",
        at(50),
        at(90),
        at(99),
        at(100)
    )
}

fn play_crowds(counts: &[usize]) -> bool {
    println!(
        "  nodes  converged ms  depth  address bytes: mean  most  broadcast  messages by node  in quiet by node and s"
    );
    let mut is_right = true;
    for &count in counts {
        let started = Instant::now();
        match tree::crowd(count, count <= ENCODED_NODES_MAX) {
            Ok(crowd) => println!(
                "{:>7}  {:>12}  {:>5}  {:>19.1}  {:>4}  {:>9}  {:>16.1}  {:>22.1}  in {} s",
                crowd.nodes,
                crowd.took_ns / 1_000_000,
                crowd.depth,
                crowd.address_bytes,
                crowd.address_bytes_most,
                crowd.broadcast_bytes,
                crowd.messages_joining,
                crowd.messages,
                started.elapsed().as_secs(),
            ),
            Err(failure) => {
                println!("{count:>7}  fails: {failure}");
                is_right = false;
            }
        }
    }
    is_right
}

fn play_places(seeds: Range<u64>) -> bool {
    let mut times_ms = Vec::new();
    let mut is_right = true;
    for seed in seeds {
        match tree::play(tree::Story::of(seed)) {
            Ok(outcome) => times_ms.push(outcome.mended_ns / 1_000_000),
            Err(failure) => {
                println!("seed {seed} fails: {failure}");
                is_right = false;
            }
        }
    }
    println!("{} seeds found no fault", times_ms.len());
    println!(
        "ms until one tree after the last fault: {}",
        shown(&mut times_ms)
    );
    is_right
}

/// What the seeds of about one size came to.
#[derive(Default)]
struct Class {
    passed: u64,
    failed: u64,
    joined_ms: Vec<u64>,
    merged_ms: Vec<u64>,
    healed_ms: Vec<u64>,
    depth: usize,
    events: u64,
    final_events: u64,
    kept_bytes_most: u64,
}

impl Class {
    fn add(&mut self, sum: &nodes::Sum) {
        self.passed += 1;
        self.joined_ms.push(sum.joined_ms);
        self.merged_ms.extend(sum.merged_ms);
        self.healed_ms.push(sum.healed_ms);
        self.depth = self.depth.max(sum.depth);
        self.events += sum.events;
        self.final_events += sum.final_events;
        self.kept_bytes_most = self.kept_bytes_most.max(sum.kept_bytes_most);
    }

    fn print(&mut self, name: &str) {
        println!(
            "{name}: {} seeds passed, {} failed",
            self.passed, self.failed
        );
        println!("  ms until all had joined: {}", shown(&mut self.joined_ms));
        println!(
            "  ms until two trees were one ({}): {}",
            self.merged_ms.len(),
            shown(&mut self.merged_ms)
        );
        println!(
            "  ms until one tree after the last fault: {}",
            shown(&mut self.healed_ms)
        );
        println!(
            "  deepest {}, events read {}, {} of them in the last part, most bytes that a shard's links kept {}",
            self.depth, self.events, self.final_events, self.kept_bytes_most
        );
    }
}

fn play_nodes(seeds: Range<u64>, size: Option<usize>) -> bool {
    // A panic is a finding, and is shown as one.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut said_at = SAY_SECONDS;
    let mut classes = SIZES.map(|_| Class::default());
    let mut faults = BTreeMap::<&str, u64>::new();
    for seed in seeds {
        let story = match size {
            Some(size) => nodes::Story::of_size(seed, size),
            None => nodes::Story::of(seed),
        };
        let class = SIZES.iter().position(|&most| story.nodes <= most);
        let class = &mut classes[class.unwrap_or_default()];
        match nodes::run(&story) {
            Ok(sum) => {
                class.add(&sum);
                for (name, count) in sum.faults {
                    *faults.entry(name).or_default() += count;
                }
            }
            Err(failure) => {
                class.failed += 1;
                println!("seed {seed} of {} nodes fails: {failure}", story.nodes);
            }
        }
        if started.elapsed().as_secs() >= said_at {
            said_at = started.elapsed().as_secs() + SAY_SECONDS;
            println!("seed {seed} is done, {} s", started.elapsed().as_secs());
        }
    }
    for (name, count) in faults {
        println!("{count:>12}  {name}");
    }
    let names = [
        "1 to 12 nodes",
        "13 to 99 nodes",
        "100 to 999 nodes",
        "1,000 nodes",
    ];
    for (class, name) in classes.iter_mut().zip(names) {
        if class.passed + class.failed > 0 {
            class.print(name);
        }
    }
    println!("in {} s", started.elapsed().as_secs());
    classes.iter().all(|class| class.failed == 0)
}

fn play_state(seeds: Range<u64>) -> bool {
    // A panic is a finding, and is shown as one.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut said_at = SAY_SECONDS;
    let mut situations = BTreeMap::<&str, u64>::new();
    let (mut passed, mut failed) = (0, 0);
    for seed in seeds {
        match state::run(state::Story::of(seed)) {
            Ok(sum) => {
                passed += 1;
                for (name, count) in sum.situations {
                    *situations.entry(name).or_default() += count;
                }
            }
            Err(failure) => {
                failed += 1;
                println!("seed {seed} fails: {failure}");
            }
        }
        if started.elapsed().as_secs() >= said_at {
            said_at = started.elapsed().as_secs() + SAY_SECONDS;
            println!("seed {seed} is done, {} s", started.elapsed().as_secs());
        }
    }
    for name in state::SITUATIONS {
        let count = situations.get(name).copied().unwrap_or_default();
        println!("{count:>12}  {name}");
    }
    let seconds = started.elapsed().as_secs();
    println!("{passed} seeds passed, {failed} failed, in {seconds} s");
    failed == 0
}
