//! Trees of whole nodes under faults: see `sapwood_sim::nodes`.

use sapwood_sim::nodes::{Sabotage, Story, run};

fn play(story: &Story) {
    if let Err(failure) = run(story) {
        panic!("seed {}: {failure}", story.seed);
    }
}

#[test]
fn every_event_comes_once_and_in_order_after_the_last_fault() {
    let (from, to) = seeds(0, 6);
    for seed in from..to {
        play(&Story::of(seed));
    }
}

#[test]
fn without_faults_nodes_find_one_tree_within_two_seconds() {
    for seed in 1000..1003 {
        let story = Story {
            has_faults: false,
            steps: 60,
            ..Story::of(seed)
        };
        match run(&story) {
            Ok(sum) => assert!(sum.joined_ms <= 2_000, "seed {seed}: {} ms", sum.joined_ms),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
}

#[test]
fn broken_rules_are_noticed() {
    for sabotage in [Sabotage::LoseEvent, Sabotage::DoubleEvent] {
        let noticed = (0..10).any(|seed| {
            let story = Story {
                sabotage: Some(sabotage),
                has_faults: false,
                steps: 20,
                ..Story::of(seed)
            };
            run(&story).is_err()
        });
        assert!(noticed, "{sabotage:?}");
    }
}

/// Seeds from the environment, to look for more: `SAPWOOD_NODE_SEEDS=0..5000`.
fn seeds(from: u64, to: u64) -> (u64, u64) {
    let given = std::env::var("SAPWOOD_NODE_SEEDS").ok();
    let ends = given.as_deref().and_then(|given| given.split_once(".."));
    let ends = ends.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    ends.unwrap_or((from, to))
}
