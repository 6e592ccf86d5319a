//! Topology files that are right, random ones, and garbage. What a user reads of wrong ones is tested with the real binary, in
//! `tests/topology.rs`.

use super::*;
use proptest::prelude::*;
use std::fmt::Write as _;

fn parse(text: &str) -> Result<Topology, Vec<Problem>> {
    let asked_by = Source::Flag("--topology".to_string());
    Topology::parse(Path::new("tree.toml"), text, asked_by)
}

/// A file in which node i is called ni and has the parent that is listed for it, if it is less than i; else the one before.
fn file_of(parents: &[usize]) -> String {
    let mut text = String::new();
    for (node, parent) in (0..=parents.len()).zip([&0].into_iter().chain(parents)) {
        let [_, high, middle, low] = (node as u32).to_be_bytes();
        let address = format!("10.{high}.{middle}.{low}:7401");
        writeln!(text, "[node.n{node}]\naddress = \"{address}\"").unwrap();
        if node > 0 {
            let parent = if *parent < node { *parent } else { node - 1 };
            writeln!(text, "parent = \"n{parent}\"").unwrap();
        }
    }
    text
}

#[test]
fn a_node_finds_its_place() {
    let topology = parse(
        "node.oslo = { address = \"10.0.0.1:7401\", tags = [\"edge\"] }\n\
         [node.bergen]\naddress = \"10.0.0.2:7401\"\nparent = \"oslo\"\n\
         [node.\"eu.voss\"]\nparent = \"geilo\"\naddress = \"[fd00::4]:7401\"\ngroups = [\"a\", \"b\"]\n\
         [node.geilo]\naddress = \"10.0.0.3:7401\"\nparent = \"oslo\"\n",
    )
    .unwrap();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(topology.root(), "oslo");
    let names: Vec<_> = topology.names().collect();
    assert_eq!(names, ["oslo", "bergen", "eu.voss", "geilo"]);
    let edge = ["edge".to_string()];
    let oslo = Seat {
        address: address("10.0.0.1:7401"),
        parent: None,
        children: vec!["bergen", "geilo"],
        path: vec![],
        tags: &edge,
        groups: &[],
    };
    assert_eq!(topology.place_of("oslo"), Some(oslo));
    let groups = ["a".to_string(), "b".to_string()];
    let voss = Seat {
        address: address("[fd00::4]:7401"),
        parent: Some(("geilo", address("10.0.0.3:7401"))),
        children: vec![],
        path: vec![1, 0],
        tags: &[],
        groups: &groups,
    };
    assert_eq!(topology.place_of("eu.voss"), Some(voss));
    assert_eq!(topology.place_of("voss"), None);
}

#[test]
fn paths_are_as_deep_as_core_allows() {
    assert_eq!(DEPTH_MAX, sapwood_wire::limits::PATH_NUMBERS_MAX);
    let chain: Vec<usize> = (0..DEPTH_MAX).collect();
    let topology = parse(&file_of(&chain)).unwrap();
    assert_eq!(topology.place_of("n255").unwrap().path, [0; DEPTH_MAX]);
    let longer: Vec<usize> = (0..DEPTH_MAX + 3).collect();
    let problems = parse(&file_of(&longer)).unwrap_err();
    assert_eq!(problems.len(), 1, "those below only repeat it");
}

#[test]
fn a_node_has_as_many_children_as_a_byte_numbers() {
    let topology = parse(&file_of(&[0; CHILDREN_MAX])).unwrap();
    assert_eq!(topology.place_of("n256").unwrap().path, [255]);
    let problems = parse(&file_of(&[0; CHILDREN_MAX + 1])).unwrap_err();
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(
        text.contains("node.n257.parent: n0 has 257 children"),
        "{text}"
    );
}

#[test]
fn a_hundred_thousand_nodes_fit_in_a_file() {
    let parents: Vec<usize> = (1..100_000).map(|node| node / 8).collect();
    let text = file_of(&parents);
    assert!((text.len() as u64) < TOPOLOGY_FILE_BYTES_MAX);
    assert_eq!(parse(&text).unwrap().names().count(), 100_000);
}

#[test]
fn a_near_name_is_suggested_and_another_is_not() {
    let names = ["oslo", "bergen", "a"];
    for (given, expected) in [
        ("olso", Some("oslo")),
        ("oslo2", Some("oslo")),
        ("brgen", Some("bergen")),
        ("voss", None),
        ("b", None),
        ("", None),
    ] {
        assert_eq!(nearest(given, names.into_iter()), expected, "{given:?}");
    }
}

proptest! {
    #[test]
    fn every_seat_agrees_with_those_beside_it(parents in proptest::collection::vec(0..40usize, 0..40)) {
        let topology = parse(&file_of(&parents)).unwrap();
        let mut paths = BTreeSet::new();
        for name in topology.names() {
            let seat = topology.place_of(name).unwrap();
            prop_assert_eq!(seat.parent.is_none(), name == topology.root());
            for (number, child) in seat.children.iter().enumerate() {
                let below = topology.place_of(child).unwrap();
                prop_assert_eq!(below.parent, Some((name, seat.address)));
                prop_assert_eq!(below.path, [&seat.path[..], &[number as u8]].concat());
            }
            prop_assert!(paths.insert(seat.path), "a path is there twice");
        }
        prop_assert_eq!(paths.len(), parents.len() + 1);
    }

    #[test]
    fn a_parent_turned_round_anywhere_is_noticed(
        parents in proptest::collection::vec(0..40usize, 1..40),
        turned in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let right = parse(&file_of(&parents)).unwrap();
        let names: Vec<&str> = right.names().collect();
        let (turned, to) = (turned.index(names.len()), to.index(names.len()));
        // Now it hangs below that one, which is below it or not.
        let mut text = String::new();
        for (node, name) in names.iter().enumerate() {
            let parent = right.place_of(name).unwrap().parent.map(|(parent, _)| parent);
            let parent = if node == turned { Some(names[to]) } else { parent };
            writeln!(text, "[node.{name}]\naddress = \"10.0.0.1:{}\"", node + 1).unwrap();
            if let Some(parent) = parent {
                writeln!(text, "parent = \"{parent}\"").unwrap();
            }
        }
        let path_of = |node: usize| right.place_of(names[node]).unwrap().path;
        let is_circle = path_of(to).starts_with(&path_of(turned));
        match parse(&text) {
            Ok(_) => prop_assert!(!is_circle),
            Err(problems) => {
                let circles = problems.iter().filter(|problem| {
                    matches!(problem.wrong, Wrong::Topology(WrongTopology::Circle { .. }))
                });
                prop_assert_eq!((circles.count(), is_circle), (1, true));
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_right_or_refused_with_a_line(
        parents in proptest::collection::vec(0..9usize, 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = file_of(&parents);
        let lines = text.lines().count();
        if let Err(problems) = parse(&text[..cut.index(text.len())]) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!((1..=lines).contains(&problem.source.line()), "{problem}");
            }
        }
    }

    #[test]
    fn garbage_never_panics_and_is_refused_in_at_most_21_lines(
        parts in proptest::collection::vec(prop_oneof![
            Just("[node.a]\n"), Just("[node.b]\n"), Just("[node.c.d]\n"), Just("[[node.a]]\n"), Just("[node]\n"), Just("["),
            Just("address = \"10.0.0.1:1\"\n"), Just("address = \"10.0.0.2:1\"\n"), Just("address = 3\n"), Just("a = {}\n"),
            Just("parent = \"a\"\n"), Just("parent = \"b\"\n"), Just("parent = []\n"), Just("tags = [\"x\", 'x', \"\\u001b\"]\n"),
            Just("groups = 1979-05-27\n"), Just("\"\u{1f44b}\" = "), Just("\r\n"), Just("\n"), Just("=\""), Just("\0"),
        ], 0..40),
        other in "\\PC{0,8}",
    ) {
        let text = parts.concat() + &other;
        if let Err(problems) = parse(&text) {
            prop_assert!((1..=PROBLEMS_MAX + 1).contains(&problems.len()));
            for problem in problems {
                let shown = problem.to_string();
                prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
            }
        }
    }
}
