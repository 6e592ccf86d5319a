//! Address arithmetic compared with breadth-first search on a graph.

use super::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A tree as a graph: the path and the neighbours of each node.
#[derive(Debug)]
struct Tree {
    paths: Vec<Path>,
    neighbours: Vec<Vec<usize>>,
    parents: Vec<Option<usize>>,
}

impl Tree {
    /// Grows a tree of a root and one node for each pair: which earlier node is its parent, and the child number it
    /// prefers.
    fn grow(wishes: &[(usize, u8)]) -> Tree {
        let mut tree = Tree {
            paths: vec![Path::ROOT],
            neighbours: vec![Vec::new()],
            parents: vec![None],
        };
        let mut taken = BTreeSet::from([Path::ROOT]);
        for (parent, number) in wishes {
            let parent = parent % tree.paths.len();
            let Ok(path) = tree.paths[parent].child(*number) else {
                continue;
            };
            if taken.insert(path.clone()) {
                let node = tree.paths.len();
                tree.paths.push(path);
                tree.neighbours.push(vec![parent]);
                tree.neighbours[parent].push(node);
                tree.parents.push(Some(parent));
            }
        }
        tree
    }

    /// For each node, its predecessor on the shortest route from a start (breadth-first search).
    fn search(&self, start: usize) -> Vec<usize> {
        let mut before = vec![usize::MAX; self.paths.len()];
        before[start] = start;
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for next in &self.neighbours[node] {
                if before[*next] == usize::MAX {
                    before[*next] = node;
                    queue.push_back(*next);
                }
            }
        }
        before
    }

    fn shortest(&self, from: usize, to: usize) -> Vec<usize> {
        let before = self.search(from);
        let mut way = vec![to];
        while *way.last().unwrap() != from {
            way.push(before[*way.last().unwrap()]);
        }
        way.reverse();
        way
    }

    fn node_at(&self, path: &Path) -> usize {
        self.paths.iter().position(|other| other == path).unwrap()
    }

    fn children(&self, node: usize) -> impl Iterator<Item = u8> + '_ {
        let children = self.neighbours[node]
            .iter()
            .filter(move |next| self.parents[**next] == Some(node));
        children.map(|child| *self.paths[*child].numbers().last().unwrap())
    }

    /// The node that a hop leads to, and the opposite hop as seen from there.
    fn follow(&self, node: usize, hop: Hop) -> (usize, Hop) {
        let path = &self.paths[node];
        match hop {
            Hop::Here => (node, Hop::Here),
            Hop::Up => {
                let parent = self.parents[node].expect("no hop leads above the root");
                (parent, Hop::Down(*path.numbers().last().unwrap()))
            }
            Hop::Down(number) => (self.node_at(&path.child(number).unwrap()), Hop::Up),
        }
    }
}

/// Trees of all shapes: parents with small indexes make bushes, large ones chains.
fn trees() -> impl Strategy<Value = Tree> {
    let bush = vec((0..4usize, any::<u8>()), 0..60);
    let any_shape = vec((any::<usize>(), 0..6u8), 0..60);
    // A chain of up to 48 levels, so that paths outgrow their inline storage.
    let chain = vec(any::<u8>(), 0..48).prop_map(|numbers| {
        let wishes = numbers.into_iter().enumerate();
        wishes.collect::<Vec<(usize, u8)>>()
    });
    prop_oneof![bush, any_shape, chain].prop_map(|wishes| Tree::grow(&wishes))
}

fn paths() -> impl Strategy<Value = Path> {
    // Few distinct numbers, so that paths share long beginnings.
    let short = vec(prop_oneof![0..3u8, Just(255)], 0..8);
    let long = vec(0..2u8, 0..=PATH_NUMBERS_MAX);
    prop_oneof![4 => short, 1 => long].prop_map(|numbers| Path::new(&numbers).unwrap())
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

proptest! {
    #[test]
    fn a_route_is_the_shortest_way(tree in trees(), from in any::<usize>(), to in any::<usize>()) {
        let (from, to) = (from % tree.paths.len(), to % tree.paths.len());
        let (here, there) = (&tree.paths[from], &tree.paths[to]);
        let expected = tree.shortest(from, to);
        let route: Vec<_> = here.route(there).map(|path| tree.node_at(&path)).collect();
        prop_assert_eq!(&route, &expected);
        prop_assert_eq!(here.distance(there), expected.len() - 1);
        prop_assert_eq!(here.route(there).len(), expected.len());

        // Follows the route hop by hop, asking each node for the next.
        let mut way = vec![from];
        loop {
            let node = *way.last().unwrap();
            match tree.paths[node].next_hop(there) {
                Hop::Here => break,
                hop => way.push(tree.follow(node, hop).0),
            }
            prop_assert!(way.len() <= expected.len(), "{:?} goes astray", way);
        }
        prop_assert_eq!(way, expected);
    }

    #[test]
    fn the_common_ancestor_is_the_deepest_that_both_stand_below(tree in trees(), one in any::<usize>(), other in any::<usize>()) {
        let above = |node: usize| {
            let climb = std::iter::successors(Some(node), |node| tree.parents[*node]);
            climb.collect::<Vec<_>>()
        };
        let (one, other) = (one % tree.paths.len(), other % tree.paths.len());
        let above_other = above(other);
        let deepest = above(one).into_iter().find(|node| above_other.contains(node)).unwrap();
        let ancestor = tree.paths[one].common_ancestor(&tree.paths[other]);
        prop_assert_eq!(tree.node_at(&ancestor), deepest);
        prop_assert_eq!(tree.paths[one].is_ancestor_or_same(&tree.paths[other]), above_other.contains(&one));
        prop_assert_eq!(
            tree.paths[one].is_ancestor(&tree.paths[other]),
            one != other && above_other.contains(&one)
        );
        prop_assert_eq!(tree.paths[one].parent(), tree.parents[one].map(|parent| tree.paths[parent].clone()));
    }

    #[test]
    fn multicast_sends_one_copy_on_each_link_that_leads_to_a_target_and_reaches_each_once(
        tree in trees(),
        from in any::<usize>(),
        chosen in btree_set(any::<usize>(), 0..40),
    ) {
        let from = from % tree.paths.len();
        let targets: BTreeSet<_> = chosen.iter().map(|node| tree.paths[node % tree.paths.len()].clone()).collect();
        let mut expected = BTreeMap::new();
        for target in &targets {
            for hop in tree.shortest(from, tree.node_at(target)).windows(2) {
                expected.insert((hop[0], hop[1]), 1);
            }
        }

        // All copies together reach every target, and no copy goes back where it came from.
        let all: Vec<Path> = targets.iter().cloned().collect();
        let mut sent = BTreeMap::new();
        let mut reached = BTreeMap::new();
        let mut queue = VecDeque::from([(from, Hop::Here)]);
        while let Some((node, came_by)) = queue.pop_front() {
            let split = Split::of(&tree.paths[node], &all);
            if split.is_here() {
                *reached.entry(tree.paths[node].clone()).or_insert(0) += 1;
            }
            let up = split.goes_up().then_some(Hop::Up);
            let down = split.children().map(|(child, part)| {
                assert!(!part.is_empty());
                Hop::Down(child)
            });
            for hop in up.into_iter().chain(down).filter(|hop| *hop != came_by) {
                let next = tree.follow(node, hop);
                *sent.entry((node, next.0)).or_insert(0) += 1;
                queue.push_back(next);
            }
        }
        prop_assert_eq!(sent, expected);
        prop_assert_eq!(reached, targets.into_iter().map(|target| (target, 1)).collect());
    }

    #[test]
    fn broadcast_reaches_each_node_once(tree in trees(), from in any::<usize>()) {
        let mut reached = vec![0; tree.paths.len()];
        let mut queue = VecDeque::from([(from % tree.paths.len(), Hop::Here)]);
        let mut copies = 0;
        while let Some((node, came_by)) = queue.pop_front() {
            reached[node] += 1;
            prop_assert!(reached[node] == 1, "{} is reached twice", tree.paths[node]);
            let has_parent = tree.parents[node].is_some();
            for hop in broadcast(has_parent, tree.children(node), came_by) {
                copies += 1;
                queue.push_back(tree.follow(node, hop));
            }
        }
        prop_assert!(reached.iter().all(|count| *count == 1));
        prop_assert_eq!(copies, tree.paths.len() - 1);
    }

    #[test]
    fn text_is_read_back(path in paths()) {
        let text = path.to_string();
        prop_assert_eq!(text.parse::<Path>().unwrap(), path.clone());
        prop_assert_eq!(format!("{path:>9}"), format!("{text:>9}"));
    }

    #[test]
    fn text_that_is_no_path_never_panics(text in "[/0-9+a ]{0,24}") {
        if let Ok(path) = text.parse::<Path>() {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn paths_are_ordered_as_their_numbers(one in paths(), other in paths()) {
        prop_assert_eq!(one.cmp(&other), one.numbers().cmp(other.numbers()));
        prop_assert_eq!(one == other, one.numbers() == other.numbers());
    }
}

#[test]
fn text_has_one_form() {
    for (text, numbers) in [
        ("/", &[][..]),
        ("/0", &[0]),
        ("/3/1", &[3, 1]),
        ("/255/0/10", &[255, 0, 10]),
    ] {
        assert_eq!(path(text).numbers(), numbers);
        assert_eq!(Path::new(numbers).unwrap().to_string(), text);
    }
    for (text, error) in [
        ("", PathError::NoSlash),
        ("3/1", PathError::NoSlash),
        (" /3", PathError::NoSlash),
        ("//", PathError::Number(1)),
        ("/3/", PathError::Number(2)),
        ("/3//1", PathError::Number(2)),
        ("/03", PathError::Number(1)),
        ("/+3", PathError::Number(1)),
        ("/-0", PathError::Number(1)),
        ("/256", PathError::Number(1)),
        ("/3/1 ", PathError::Number(2)),
        ("/3/x", PathError::Number(2)),
        ("/\u{663}", PathError::Number(1)),
        ("/99999999999999999999", PathError::Number(1)),
    ] {
        assert_eq!(text.parse::<Path>(), Err(error), "{text:?}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_path_has_255_numbers_and_no_more() {
    let deepest = Path::new(&[7; PATH_NUMBERS_MAX]).unwrap();
    let text = "/7".repeat(PATH_NUMBERS_MAX);
    assert_eq!(path(&text), deepest);
    assert_eq!(deepest.child(0), Err(PathError::TooLong));
    assert_eq!(
        Path::new(&[7; PATH_NUMBERS_MAX + 1]),
        Err(PathError::TooLong)
    );
    assert_eq!((text + "/7").parse::<Path>(), Err(PathError::TooLong));
    let parent = deepest.parent().unwrap();
    assert_eq!(parent.child(7), Ok(deepest.clone()));
    let other = Path::new(&[8; PATH_NUMBERS_MAX]).unwrap();
    assert_eq!(deepest.distance(&other), 510);
    assert_eq!(deepest.route(&other).count(), 511);
}

#[test]
fn a_path_keeps_its_value_where_it_leaves_its_inline_room() {
    let mut path = Path::ROOT;
    for depth in 0..INLINE_NUMBERS + 4 {
        assert_eq!(path.depth(), depth);
        let child = path.child(depth as u8).unwrap();
        assert_eq!(child.parent(), Some(path));
        path = child;
    }
    assert_eq!(size_of::<Path>(), 40);
}

#[test]
fn next_hop_leads_down_to_descendants_and_up_to_all_others() {
    for (here, there, hop) in [
        ("/", "/", Hop::Here),
        ("/", "/3/1", Hop::Down(3)),
        ("/3", "/3/1", Hop::Down(1)),
        ("/3/1", "/3/1", Hop::Here),
        ("/3/1", "/3", Hop::Up),
        ("/3/1", "/3/2", Hop::Up),
        ("/3/1", "/", Hop::Up),
        ("/3", "/31", Hop::Up),
    ] {
        assert_eq!(path(here).next_hop(&path(there)), hop, "{here} to {there}");
    }
}

#[test]
fn targets_are_split_by_their_first_step() {
    let texts = [
        "/", "/2/9", "/3", "/3/0/5", "/3/1", "/3/1/0", "/3/1/255", "/4",
    ];
    let targets = texts.map(path);
    let split = Split::of(&path("/3"), &targets);
    let up: Vec<_> = split.up().map(Path::to_string).collect();
    assert_eq!(up, ["/", "/2/9", "/4"]);
    assert!(split.goes_up() && split.is_here());
    let children: Vec<_> = split.children().collect();
    assert_eq!(children, [(0, &targets[3..4]), (1, &targets[4..7])]);

    let split = Split::of(&path("/3/1/7"), &targets);
    assert_eq!(
        (split.up().count(), split.is_here()),
        (targets.len(), false)
    );
    assert_eq!(split.children().count(), 0);
    let split = Split::of(&Path::ROOT, &targets);
    assert!(split.is_here() && !split.goes_up());
    let numbers: Vec<_> = split.children().map(|(number, _)| number).collect();
    assert_eq!(numbers, [2, 3, 4]);
    let nobody = Split::of(&path("/3"), &[]);
    assert!(!nobody.goes_up() && !nobody.is_here() && nobody.children().count() == 0);
}

/// A full tree of so many nodes with so many children each, level by level; sorted.
fn full_tree(count: usize, fan_out: u8) -> Vec<Path> {
    let mut nodes = vec![Path::ROOT];
    let mut parent = 0;
    while nodes.len() < count {
        let children = (0..fan_out).map(|number| nodes[parent].child(number).unwrap());
        let children: Vec<_> = children.take(count - nodes.len()).collect();
        nodes.extend(children);
        parent += 1;
    }
    nodes.sort();
    nodes
}

/// Nodes in chains that end at this depth: as many chains from the root as it can have, each branching again below.
fn chains(count: usize, depth: usize) -> Vec<Path> {
    let mut nodes = BTreeSet::from([Path::ROOT]);
    for chain in 0.. {
        let mut path = Path::ROOT;
        for level in 0..depth {
            let number = match level {
                0 => chain % 256,
                1 => chain / 256,
                _ => 0,
            };
            path = path.child(number as u8).unwrap();
            nodes.insert(path.clone());
            if nodes.len() == count {
                return nodes.into_iter().collect();
            }
        }
    }
    unreachable!("the chains never end")
}

/// Prints the size of addresses; run it with `--nocapture`. Sizes are without the header that every frame has.
#[test]
fn an_address_takes_a_few_bytes_in_trees_that_place_themselves() {
    println!("                                unicast, bytes   broadcast,");
    println!("shape          nodes   depth    mean  greatest   bytes");
    for count in [10, 100, 1_000, 100_000] {
        let shapes = [
            ("fan-out 8", full_tree(count, 8)),
            ("chains of 32", chains(count, 32)),
        ];
        for (shape, nodes) in shapes {
            assert_eq!(nodes.len(), count);
            let depth = nodes.iter().map(Path::depth).max().unwrap();
            let lengths = nodes.iter().map(|node| format!("$to:{node}:").len());
            let (sum, greatest) = (lengths.clone().sum::<usize>(), lengths.max().unwrap());
            let mean = sum as f64 / count as f64;
            println!(
                "{shape:<12} {count:>7} {depth:>7} {mean:>7.1} {greatest:>9} {:>7}",
                0
            );
            assert!(depth <= 32 && greatest <= 5 + 4 * 32);
        }
    }
}
