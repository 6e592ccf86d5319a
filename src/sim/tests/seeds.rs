//! The fixed seeds. A seed that found a fault stays in the set.

mod budget;

use budget::{Budget, seeds};
use sapwood_sim::{Coverage, Options, run};

/// Seeds of which a run plays as many as its time allows.
const SEEDS: std::ops::Range<u64> = 0..200;
const SEEDS_LEAST: u64 = 60;
const SEEDS_SECONDS: u64 = 20;

/// Seeds beyond those that found a fault, or that reach what the others do not: every run plays them.
const FINDERS: &[u64] = &[335, 581, 964, 2081, 32191, 42116, 1_796_142_445];

fn play(options: Options) -> sapwood_sim::Report {
    run(options).unwrap_or_else(|failure| panic!("{options:?} fails: {failure}"))
}

#[test]
fn fixed_seeds_find_no_fault_and_reach_every_situation() {
    let mut coverage = Coverage::default();
    for seed in FINDERS {
        coverage.add(&play(Options::of(*seed)).coverage);
    }
    let budget = Budget::new(SEEDS_LEAST, SEEDS_SECONDS);
    for seed in SEEDS {
        // What is still to come up is worth more time.
        if !budget.allows(seed) && coverage.missing().is_empty() {
            break;
        }
        coverage.add(&play(Options::of(seed)).coverage);
    }
    println!("{coverage}");
    assert_eq!(coverage.missing(), Vec::<&str>::new());
}

#[test]
fn every_number_of_shards_finds_no_fault() {
    for shards in 1..=8 {
        for seed in seeds(1_000..1_005, 2, 1) {
            play(Options {
                shards: Some(shards),
                ..Options::of(seed)
            });
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in seeds(0..20, 8, 4) {
        assert_eq!(
            play(Options::of(seed)),
            play(Options::of(seed)),
            "seed {seed}"
        );
    }
}

#[test]
fn nothing_visible_depends_on_the_hash_seed() {
    for seed in seeds(0..40, 15, 8) {
        let other = Options {
            hash_seed: 0xDEAD_BEEF ^ seed,
            ..Options::of(seed)
        };
        assert_eq!(play(Options::of(seed)), play(other), "seed {seed}");
    }
}
