//! `sapwood-sim`: plays seeds for as long as asked.
#![forbid(unsafe_code)]

mod campaign;

use sapwood_sim::{Coverage, Options, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Plays simulated histories of the broker, seed by seed, until one fails.

  sapwood-sim [--seeds A..B] [--minutes N] [--shards N] [--steps N]
  sapwood-sim --tree A..B       places in the tree of nodes: plays these seeds
  sapwood-sim --nodes A..B [--size N]
                                trees of whole nodes with clients: plays these seeds, of which each chooses
                                its number of nodes, 1 to 1,000, unless --size does
  sapwood-sim --state A..B      a node's state plane on a disk that tears, loses, fails and fills: plays these seeds
  sapwood-sim --crowd N         the tree of nodes: so many join through one seed
  sapwood-sim --crowds          a table of crowds of 10 to 100,000; takes minutes

  --seeds A..B   these seeds, B not included (default 0..300, or without end if --minutes is given)
  --minutes N    stop after so many minutes
  --shards N     1 to 8 (default: the seed chooses)
  --steps N      length of each workload (default 1500)
";

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
    match campaign::play(&words) {
        Ok(Some(code)) => return code,
        Ok(None) => {}
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
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
