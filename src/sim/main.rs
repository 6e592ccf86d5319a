//! `sapwood-sim`: plays seeds for as long as asked.
#![forbid(unsafe_code)]

use sapwood_sim::{Coverage, Options, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Plays simulated histories of the broker, seed by seed, until one fails.

  sapwood-sim [--seeds A..B] [--minutes N] [--shards N] [--steps N]
  sapwood-sim --tree A..B       places in the tree of nodes: plays these seeds
  sapwood-sim --nodes A..B      trees of whole nodes with clients: plays these seeds
  sapwood-sim --crowd N         the tree of nodes: so many join through one seed

  --seeds A..B   these seeds, B not included (default 0..300, or without end if --minutes is given)
  --minutes N    stop after so many minutes
  --shards N     1 to 8 (default: the seed chooses)
  --steps N      length of each workload (default 1500)
";

/// Messages of larger crowds are not encoded, which would take most of the time.
const ENCODED_NODES_MAX: usize = 10_000;

/// Plays the tree of nodes, if that is asked for.
fn play_tree(words: &[String]) -> Option<ExitCode> {
    let (word, value) = match words {
        [word, value] if ["--tree", "--nodes", "--crowd"].contains(&&word[..]) => (word, value),
        _ => return None,
    };
    if word == "--crowd" {
        let nodes: usize = value.parse().ok()?;
        let started = Instant::now();
        let crowd = sapwood_sim::tree::crowd(nodes, nodes <= ENCODED_NODES_MAX);
        println!("{crowd:?} in {} s", started.elapsed().as_secs());
        return Some(ExitCode::from(u8::from(crowd.is_err())));
    }
    let (from, to) = value.split_once("..")?;
    let seeds: std::ops::Range<u64> = from.parse().ok()?..to.parse().ok()?;
    let mut times_ms = Vec::new();
    let mut code = ExitCode::SUCCESS;
    let place = |seed| {
        let outcome = sapwood_sim::tree::play(sapwood_sim::tree::Story::of(seed));
        outcome.map(|outcome| outcome.mended_ns / 1_000_000)
    };
    let nodes = |seed| {
        let sum = sapwood_sim::nodes::run(&sapwood_sim::nodes::Story::of(seed));
        sum.map(|sum| sum.healed_ms)
            .map_err(|failure| failure.to_string())
    };
    for seed in seeds {
        let outcome = match word == "--tree" {
            true => place(seed).map_err(|failure| failure.to_string()),
            false => nodes(seed),
        };
        match outcome {
            Ok(time_ms) => times_ms.push(time_ms),
            Err(failure) => {
                println!("seed {seed} fails: {failure}");
                code = ExitCode::FAILURE;
            }
        }
    }
    times_ms.sort_unstable();
    for percent in [50, 90, 99, 100] {
        let at = times_ms.len().saturating_sub(1) * percent / 100;
        let time_ms = times_ms.get(at).copied().unwrap_or_default();
        println!("{percent} % in one tree within {time_ms} ms");
    }
    Some(code)
}

/// What the command line asks for.
struct Asked {
    seeds: std::ops::Range<u64>,
    time: Option<Duration>,
    shards: Option<u16>,
    steps: u64,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut seeds = None;
    let mut asked = Asked {
        seeds: 0..300,
        time: None,
        shards: None,
        steps: Options::of(0).steps,
    };
    while let Some(word) = words.next() {
        if word == "--help" {
            return Err(String::new());
        }
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} takes a number, not {value}"))
        };
        match word.as_str() {
            "--seeds" => {
                let ends = value
                    .split_once("..")
                    .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                let (from, to): (u64, u64) =
                    ends.ok_or(format!("--seeds takes A..B, not {value}"))?;
                seeds = Some(from..to);
            }
            "--minutes" => asked.time = Some(Duration::from_secs(60 * number()?)),
            "--shards" => {
                let count = number()?;
                if !(1..=8).contains(&count) {
                    return Err(format!("--shards takes 1 to 8, not {count}"));
                }
                asked.shards = Some(count as u16);
            }
            "--steps" => asked.steps = number()?,
            other => return Err(format!("{other} is not known")),
        }
    }
    let all = if asked.time.is_some() {
        0..u64::MAX
    } else {
        0..300
    };
    asked.seeds = seeds.unwrap_or(all);
    Ok(asked)
}

/// The shortest history of a seed that fails, found by halving: how many steps.
fn shortest(options: Options, failed_at: u64) -> u64 {
    let fails = |steps| run(Options { steps, ..options }).is_err();
    let (mut passes, mut long) = (0, failed_at.min(options.steps));
    if !fails(long) {
        return options.steps;
    }
    while passes + 1 < long {
        let middle = passes + (long - passes) / 2;
        if fails(middle) {
            long = middle;
        } else {
            passes = middle;
        }
    }
    long
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if let Some(code) = play_tree(&words) {
        return code;
    }
    let asked = match parse(words.into_iter()) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic is a finding, and is shown as one.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut said = started;
    let (mut coverage, mut seeds, mut steps) = (Coverage::default(), 0, 0);
    for seed in asked.seeds {
        let options = Options {
            shards: asked.shards,
            steps: asked.steps,
            ..Options::of(seed)
        };
        match run(options) {
            Ok(report) => {
                coverage.add(&report.coverage);
                seeds += 1;
                steps += report.steps;
            }
            Err(failure) => {
                println!("seed {seed} fails: {failure}");
                let steps = shortest(options, failure.step);
                let shards = asked
                    .shards
                    .map_or(String::new(), |shards| format!(" --shards {shards}"));
                println!(
                    "play it again: sapwood-sim --seeds {seed}..{}{shards} --steps {steps}",
                    seed + 1
                );
                return ExitCode::FAILURE;
            }
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!(
                "{seeds} seeds, {steps} steps, {} s",
                started.elapsed().as_secs()
            );
        }
        if asked.time.is_some_and(|time| started.elapsed() >= time) {
            break;
        }
    }
    println!(
        "{coverage}{seeds} seeds and {steps} steps in {} s found no fault",
        started.elapsed().as_secs()
    );
    ExitCode::SUCCESS
}
