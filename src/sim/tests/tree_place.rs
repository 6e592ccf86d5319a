//! Nodes find their places in the tree, whatever happens to them.

use sapwood_sim::tree::{Broken, Delay, Story, Vanishes, World, WorldOptions, crowd, play};

const MS: u64 = 1_000_000;

/// Histories that every run plays.
const SEEDS: std::ops::Range<u64> = 0..300;

fn world(seed: u64) -> World {
    World::new(WorldOptions {
        seed,
        delay: Delay::fixed(MS),
        broken: None,
        encodes: true,
    })
}

#[test]
fn seven_nodes_stand_within_two_seconds() {
    for seed in 0..20 {
        let mut world = world(seed);
        world.start_crowd(7);
        let took_ns = world.run_until_one(2_000 * MS).unwrap();
        println!("seed {seed}: {} ms, {:?}", took_ns / MS, world.shape());
    }
}

#[test]
fn root_killed_among_seven_is_replaced_within_a_second() {
    for seed in 0..20 {
        for vanishes in [Vanishes::No, Vanishes::Yes] {
            let mut world = world(seed);
            world.start_crowd(7);
            world.run_until_one(2_000 * MS).unwrap();
            world.run_until(world.now_ns() + 2_000 * MS).unwrap();
            world.crash(0, vanishes);
            let silence_ns = if vanishes == Vanishes::Yes {
                2_250 * MS
            } else {
                0
            };
            let took_ns = world.run_until_one(silence_ns + 1_000 * MS).unwrap();
            println!(
                "seed {seed} {vanishes:?}: {} ms, {:?}",
                took_ns / MS,
                world.shape()
            );
        }
    }
}

#[test]
fn histories_of_faults_end_in_one_tree() {
    let mut times = Vec::new();
    let mut failures = Vec::new();
    for seed in SEEDS {
        match play(Story::of(seed)) {
            Ok(outcome) => times.push(outcome.mended_ns / MS),
            Err(failure) => failures.push(format!("seed {seed}: {failure}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "ms until one tree: median {}, 90 % {}, 99 % {}, most {}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        assert_eq!(play(Story::of(seed)), play(Story::of(seed)), "seed {seed}");
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    for broken in [
        Broken::PathVector,
        Broken::AcceptAdrift,
        Broken::Rank,
        Broken::Silence,
    ] {
        let story = |seed| Story {
            broken: Some(broken),
            ..Story::of(seed)
        };
        let noticed = SEEDS
            .clone()
            .find_map(|seed| Some((seed, play(story(seed)).err()?)));
        let (seed, failure) = noticed.unwrap_or_else(|| panic!("{broken:?} was not noticed"));
        println!("{broken:?}: seed {seed}, {failure}");
    }
}

#[test]
fn hang_of_any_of_seven_is_mended_within_silence_and_a_second() {
    for seed in 0..20 {
        let mut world = world(seed);
        world.start_crowd(7);
        world.run_until_one(2_000 * MS).unwrap();
        world.run_until(world.now_ns() + 2_000 * MS).unwrap();
        let hung = seed as usize % 7;
        world.hang(hung);
        // The hung one counts as running, so the others are judged without it.
        world.run_until(world.now_ns() + 3_250 * MS).unwrap();
        let roots: Vec<_> = (0..7)
            .filter(|number| *number != hung)
            .map(|number| world.place(number).unwrap().reign())
            .collect();
        assert!(
            roots
                .iter()
                .all(|reign| reign.settled && *reign == roots[0])
        );
        world.wake(hung);
        let took_ns = world.run_until_one(5_000 * MS).unwrap();
        println!("node {hung} is back after {} ms", took_ns / MS);
    }
}

#[test]
fn a_tree_of_two_levels_is_whole_again_within_a_second_of_any_death() {
    for dead in 0..40 {
        let mut world = world(dead as u64);
        world.start_crowd(40);
        world.run_until_one(5_000 * MS).unwrap();
        world.run_until(world.now_ns() + 2_000 * MS).unwrap();
        world.crash(dead, Vanishes::No);
        let took_ns = world.run_until_one(1_000 * MS).unwrap();
        assert!(world.shape().unwrap().nodes == 39, "{took_ns}");
    }
}

#[test]
fn draining_node_leaves_without_anybody_adrift() {
    for seed in 0..20 {
        let mut world = world(seed);
        for number in 0..20 {
            let seeds: &[usize] = if number == 0 { &[] } else { &[0] };
            world.add(seeds, |config| config.children_max = 3);
            world.start(number);
        }
        world.run_until_one(5_000 * MS).unwrap();
        world.run_until(world.now_ns() + 2_000 * MS).unwrap();
        let leaving = seed as usize % 4;
        world.drain(leaving);
        // Ends: after a second at most a draining node gives up on its children.
        while !world.place(leaving).unwrap().is_drained() {
            world.run_until(world.now_ns() + MS).unwrap();
            for number in (0..20).filter(|number| *number != leaving) {
                let place = world.place(number).unwrap();
                assert!(
                    place.path().is_some(),
                    "seed {seed}: node {number} is adrift"
                );
            }
        }
        world.crash(leaving, Vanishes::No);
        let took_ns = world.run_until_one(3_000 * MS).unwrap();
        println!("seed {seed}: {} ms after it left", took_ns / MS);
    }
}

#[test]
fn trees_that_meet_become_one_though_every_place_is_taken() {
    let mut world = world(1);
    // Two chains of full nodes: the second begins by itself, because its seed is late.
    for number in 0..16 {
        let seeds: &[usize] = match number {
            0 => &[],
            1..8 => &[0],
            8 => &[0],
            _ => &[8],
        };
        world.add(seeds, |config| config.children_max = 2);
    }
    (8..16).for_each(|number| world.start(number));
    world.run_until_one(5_000 * MS).unwrap();
    (0..8).for_each(|number| world.start(number));
    let took_ns = world.run_until_one(10_000 * MS).unwrap();
    println!("met after {} ms: {:?}", took_ns / MS, world.shape());
    assert_eq!(world.shape().unwrap().root, 0);
}

#[test]
fn static_tree_stands_as_its_file_says_and_elects_nobody() {
    let mut world = world(1);
    let names = |children: &[usize]| {
        let names = children.iter().map(|child| format!("node{child}"));
        Some(names.collect::<Vec<_>>())
    };
    // Node 0 has 1 and 2, node 1 has 3; node 4 is not in the file.
    let parents = [None, Some(0), Some(0), Some(1), Some(0)];
    let children = [
        names(&[1, 2]),
        names(&[3]),
        names(&[]),
        names(&[]),
        names(&[]),
    ];
    for (parent, children) in parents.into_iter().zip(children) {
        let number = world.add(&[], |config| {
            config.is_static = true;
            config.parent = parent.map(World::address);
            config.allowed_children = children;
        });
        world.start(number);
    }
    world.run_until(world.now_ns() + 3_000 * MS).unwrap();
    let paths: Vec<_> = (0..5)
        .map(|number| world.place(number).unwrap().path().map(<[u8]>::to_vec))
        .collect();
    let wanted = [
        Some(vec![]),
        Some(vec![0]),
        Some(vec![1]),
        Some(vec![0, 0]),
        None,
    ];
    assert_eq!(paths, wanted);
    world.crash(0, Vanishes::No);
    world.run_until(world.now_ns() + 5_000 * MS).unwrap();
    for number in 1..4 {
        assert_eq!(world.place(number).unwrap().path(), None, "node {number}");
    }
    world.start(0);
    world.run_until(world.now_ns() + 3_000 * MS).unwrap();
    assert_eq!(world.place(3).unwrap().path(), Some(&[0, 0][..]));
}

#[test]
fn crowds_join_through_one_seed() {
    for nodes in [10, 100, 1_000] {
        println!("{:?}", crowd(nodes, true).unwrap());
    }
}

#[test]
fn histories_of_large_trees_end_in_one_tree() {
    for seed in 0..6 {
        let story = Story {
            nodes: Some(250),
            ..Story::of(seed)
        };
        let outcome = play(story).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        println!("{} ms, {:?}", outcome.mended_ns / MS, outcome.shape);
    }
}

#[test]
fn each_part_of_a_cut_network_is_a_tree_and_both_become_one_when_it_is_mended() {
    for seed in 0..20 {
        let mut world = world(seed);
        for number in 0..24 {
            let seeds: &[usize] = if number == 0 { &[] } else { &[0] };
            world.add(seeds, |config| config.children_max = 3);
            world.start(number);
        }
        world.run_until_one(5_000 * MS).unwrap();
        world.run_until(world.now_ns() + 2_000 * MS).unwrap();
        let is_left = |number: usize| (number as u64 + seed).is_multiple_of(3);
        for from in 0..24 {
            for to in (0..24).filter(|to| is_left(*to) != is_left(from)) {
                world.cut(from, to);
            }
        }
        world.run_until(world.now_ns() + 30_000 * MS).unwrap();
        for side in [true, false] {
            let here = (0..24).filter(|number| is_left(*number) == side);
            let reigns: Vec<_> = here
                .map(|number| world.place(number).unwrap().reign())
                .collect();
            let agree = reigns
                .iter()
                .all(|reign| reign.settled && *reign == reigns[0]);
            assert!(agree, "seed {seed}: {}", world.describe());
        }
        world.heal();
        let took_ns = world.run_until_one(35_000 * MS).unwrap();
        println!("seed {seed}: one tree after {} ms", took_ns / MS);
    }
}
