//! `sapwood check`: a file that describes a tree of nodes, drawn where it is right, and refused with line and reason where it
//! is not.

mod common;

use common::cli::{Cli, Directory, Running, stderr};

/// The file of the help text, and what makes a tree of it that is worth drawing.
const RIGHT: &str = r#"
[node.oslo]
address = "10.0.0.1:7401"
tags = ["edge"]

[node.bergen]
address = "10.0.0.2:7401"
parent = "oslo"
groups = ["workers"]

[node.voss]
address = "10.0.0.3:7401"
parent = "bergen"
tags = ["edge", "eu"]
groups = ["workers"]

[node."no.geilo"]
address = "[fd00::1]:7401"
parent = "oslo"

[node.hol]
address = "10.0.0.13:7401"
parent = "no.geilo"
"#;

fn cli() -> Cli {
    Cli::at("127.0.0.1:1")
}

/// Checks that a file is refused: exit code 2, nothing on stdout, and exactly these problems, each a line of the file and how
/// it goes on.
#[track_caller]
fn check_refused(text: &str, problems: &[(usize, &str)]) {
    let directory = Directory::new();
    let path = directory.file("tree.toml", text.as_bytes());
    let output = cli().run(&["check", "--topology", &path]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}\n{message}");
    assert!(output.stdout.is_empty(), "{text}");
    let message = message.strip_prefix("sapwood: ").unwrap();
    let lines: Vec<_> = match problems {
        [_] => message.lines().collect(),
        _ => {
            let heading = format!("{} things in the configuration are wrong:", problems.len());
            let mut lines = message.lines();
            assert_eq!(lines.next(), Some(&*heading), "{text}\n{message}");
            lines.map(|line| line.trim_start()).collect()
        }
    };
    assert_eq!(lines.len(), problems.len(), "{text}\n{message}");
    for (line, (number, problem)) in lines.iter().zip(problems) {
        let expected = format!("{path}:{number}: {problem}");
        assert!(line.starts_with(&expected), "no {expected}\nin {message}");
        assert!(line.ends_with(['.', '?']), "{line}");
    }
}

#[test]
fn a_right_file_is_drawn() {
    let directory = Directory::new();
    let path = directory.file("tree.toml", RIGHT.as_bytes());
    let expected = "\
oslo         10.0.0.1:7401   tags edge
├─ bergen    10.0.0.2:7401   groups workers
│  └─ voss   10.0.0.3:7401   tags edge,eu  groups workers
└─ no.geilo  [fd00::1]:7401
   └─ hol    10.0.0.13:7401
5 nodes, the deepest 2 hops from the root
";
    assert_eq!(cli().text(&["check", "--topology", &path]), expected);
    let alone = directory.file("alone.toml", b"node.a.address = \"[::1]:1\"");
    let expected = "a  [::1]:1\n1 node, the deepest 0 hops from the root\n";
    assert_eq!(cli().text(&["check", "--topology", &alone]), expected);
}

#[test]
fn a_nodes_place_is_printed() {
    let directory = Directory::new();
    let path = directory.file("tree.toml", RIGHT.as_bytes());
    let place = |node| cli().text(&["check", "--topology", &path, "--node", node]);
    let expected = "\
node      voss
address   10.0.0.3:7401
path      /0/0
parent    bergen at 10.0.0.2:7401
children  none
tags      edge, eu
groups    workers
";
    assert_eq!(place("voss"), expected);
    let root = place("oslo");
    for line in [
        "path      /\n",
        "parent    none, it is the root\n",
        "children  bergen, no.geilo\n",
    ] {
        assert!(root.contains(line), "{root}");
    }
    for (node, hint) in [("vos", "did you mean \"voss\"?"), ("paris", "--node")] {
        let output = cli().run(&["check", "--topology", &path, "--node", node]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
}

#[test]
fn what_is_wrong_with_one_node_is_said_with_line_and_key() {
    let root = |line: &str| format!("[node.oslo]\naddress = \"10.0.0.1:7401\"\n{line}\n");
    for (line, problem) in [
        (
            "adress = 1",
            "node.oslo.adress: there is no such key; did you mean \"address\"?",
        ),
        (
            "colour = 1",
            "node.oslo.colour: there is no such key; the keys here are: address, parent, tags, groups.",
        ),
        (
            "parent = 1",
            "node.oslo.parent: an integer does not fit here; write a string",
        ),
        (
            "tags = \"x\"",
            "node.oslo.tags: a string does not fit here; write a list of strings",
        ),
        (
            "groups = [1]",
            "node.oslo.groups: an integer does not fit here; write a list of strings",
        ),
        (
            "tags = [\"a b\"]",
            "node.oslo.tags: \"a b\" is not a name; write letters, digits, ",
        ),
        ("groups = [\"\"]", "node.oslo.groups: \"\" is not a name; "),
        (
            "tags = [\"x\", \"x\"]",
            "node.oslo.tags: \"x\" is in the list twice; remove one",
        ),
        (
            "parent = \"oslo\"\n",
            "node.oslo.parent: oslo is its own parent; ",
        ),
        (
            "address = \"10.0.0.1:7401\"",
            "node.oslo.address: the key is there twice; keep one of them.",
        ),
        ("parent = ", "this is not TOML: "),
        (
            "[nodes.x]",
            "nodes: there is no such key; did you mean [node.NAME]?",
        ),
        (
            "[server]",
            "server: there is no such key; did you mean [node.NAME]?",
        ),
        (
            "[node.eu.voss]",
            "node.eu.voss: a table within a node means nothing; a name that has a dot stands in quotes: [node.\"eu.voss\"].",
        ),
        (
            "[node.voss]\nparent = \"oslo\"",
            "node.voss: the node has no address; say where",
        ),
        (
            "node.voss = 1",
            "node.oslo.node: a table within a node means nothing; ",
        ),
    ] {
        let text = root(line);
        // A node that is its own parent leaves the tree without a root.
        match line.starts_with("parent = \"oslo\"") {
            true => check_refused(&text, &[(1, "node: every node has a parent"), (3, problem)]),
            false => check_refused(&text, &[(3, problem)]),
        }
    }
}

#[test]
fn an_address_that_nodes_cannot_connect_to_is_refused() {
    for (address, reason) in [
        (
            "oslo.example:7401",
            "is not an IP address with a port; write one such as",
        ),
        ("", "is not an IP address with a port; "),
        ("7401", "is not an IP address with a port; "),
        ("10.0.0.1:65536", "is not an IP address with a port; "),
        ("10.0.0.1", "has no port; write 10.0.0.1:7401."),
        ("fd00::1", "has no port; write [fd00::1]:7401."),
        ("10.0.0.1:0", "has port 0, to which nobody can connect; "),
        ("0.0.0.0:7401", "means every network of a machine, "),
        ("[::]:7401", "means every network of a machine, "),
        ("224.0.0.1:7401", "is an address of many machines; "),
        ("\\u001b[2J", "is not an IP address with a port; "),
    ] {
        let shown = address.replace("\\u001b", "\\u{1b}");
        let problem = format!("node.a.address: \"{shown}\" {reason}");
        check_refused(&format!("node.a.address = \"{address}\""), &[(1, &problem)]);
    }
    let problem =
        "node.a.address: a list does not fit here; write a string such as \"10.0.0.1:7401\".";
    check_refused("node.a.address = []", &[(1, problem)]);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let check = |name: &str, key: &str, problem: &str| {
        let text = format!("[node.{name}]\naddress = \"10.0.0.1:7401\"\n");
        check_refused(&text, &[(1, &format!("node.{key}: {problem}"))]);
    };
    check(
        "\"a b\"",
        "\"a b\"",
        "\"a b\" is not a name; write letters, ",
    );
    check("\"\"", "\"\"", "\"\" is not a name; ");
    check("\"\u{f8}\"", "\"\u{f8}\"", "\"\u{f8}\" is not a name; ");
    check("\"\\u001b\"", "\"\\x1b\"", "\"\\u{1b}\" is not a name; ");
    let long = "n".repeat(65);
    check(
        &long,
        &long,
        "the name has 65 bytes, at most 64 are allowed; ",
    );
    let directory = Directory::new();
    let text = format!("[node.{}]\naddress = \"10.0.0.1:7401\"\n", &long[1..]);
    let path = directory.file("tree.toml", text.as_bytes());
    cli().text(&["check", "--topology", &path]);
}

/// A file of nodes with a name, an address and perhaps a parent, three or four lines each with the empty one.
fn file(nodes: &[(&str, u8, &str)]) -> String {
    let node = |(name, address, parent): &(&str, u8, &str)| {
        let parent = match *parent {
            "" => String::new(),
            parent => format!("parent = \"{parent}\"\n"),
        };
        format!("[node.{name}]\naddress = \"10.0.0.{address}:7401\"\n{parent}\n")
    };
    nodes.iter().map(node).collect()
}

#[test]
fn what_is_wrong_between_nodes_is_said_with_line_and_key() {
    let tree = file(&[("oslo", 1, ""), ("bergen", 2, "olso")]);
    let problem = "node.bergen.parent: no node is called \"olso\"; did you mean \"oslo\"?";
    check_refused(&tree, &[(6, problem)]);
    let tree = file(&[("oslo", 1, ""), ("bergen", 2, "paris")]);
    let problem = "node.bergen.parent: no node is called \"paris\"; write the name of another node of this file.";
    check_refused(&tree, &[(6, problem)]);

    let tree = file(&[("oslo", 1, ""), ("bergen", 1, "oslo"), ("voss", 1, "oslo")]);
    let same = "is also the address of oslo (line 2); each node has one of its own";
    let first = format!("node.bergen.address: 10.0.0.1:7401 {same}");
    let second = format!("node.voss.address: 10.0.0.1:7401 {same}");
    check_refused(&tree, &[(5, &first), (9, &second)]);

    let tree = file(&[("oslo", 1, ""), ("bergen", 2, ""), ("voss", 3, "")]);
    let root = "the node has no parent, but oslo (line 1) is the root already; give one of them a parent, \
                such as parent = \"oslo\" here.";
    let problems = [format!("node.bergen: {root}"), format!("node.voss: {root}")];
    check_refused(&tree, &[(4, &problems[0]), (7, &problems[1])]);

    let tree = file(&[
        ("oslo", 1, ""),
        ("bergen", 2, "oslo"),
        ("oslo", 3, "bergen"),
    ]);
    let problem = "node.oslo: this is there twice, first in line 1; give one of the nodes another name, or join the two.";
    check_refused(&tree, &[(8, problem)]);
    // The first counts where the nodes are judged together.
    let tree = file(&[("oslo", 1, ""), ("oslo", 3, "paris"), ("bergen", 1, "olso")]);
    let parent = "node.bergen.parent: no node is called \"olso\"; did you mean \"oslo\"?";
    let address = "node.bergen.address: 10.0.0.1:7401 is also the address of oslo (line 2); ";
    check_refused(&tree, &[(4, problem), (9, address), (10, parent)]);
}

#[test]
fn circles_are_said_once_and_by_name() {
    let none = "node: every node has a parent, so there is no root; remove the parent of the node that is to be the root.";
    let tree = file(&[("c", 4, "a"), ("a", 1, "b"), ("b", 2, "a")]);
    let circle = "node.a.parent: the parents go round in a circle: a, b, and a again; give one of them a parent outside \
                  of it, or none if it is the root.";
    check_refused(&tree, &[(1, none), (7, circle)]);
    let tree = file(&[
        ("r", 5, ""),
        ("c", 4, "a"),
        ("a", 1, "b"),
        ("b", 2, "a"),
        ("d", 6, "d"),
    ]);
    let own = "node.d.parent: d is its own parent; name another node, or none if it is the root.";
    check_refused(&tree, &[(10, circle), (18, own)]);
    let names: Vec<_> = (0..12).map(|number| format!("n{number}")).collect();
    let mut nodes = vec![("r", 0, "")];
    nodes.extend((0..12).map(|node| (&*names[node], 1 + node as u8, &*names[(node + 1) % 12])));
    let circle = "node.n0.parent: the parents go round in a circle: n0, n1, n2, n3, n4, n5, n6, n7, 4 more, and n0 again; ";
    check_refused(&file(&nodes), &[(6, circle)]);
}

#[test]
fn a_file_without_nodes_is_refused() {
    for text in ["", "# nothing\n", "[node]\n"] {
        let problem = "node: the file has no node; begin with the root: [node.NAME], ";
        check_refused(text, &[(1, problem)]);
    }
    check_refused(
        "[[node]]\n",
        &[(
            1,
            "node: a list does not fit here; write a table for each node: [node.NAME].",
        )],
    );
    check_refused(
        "node.a = 1\n",
        &[(
            1,
            "node.a: an integer does not fit here; write a table: [node.NAME].",
        )],
    );
}

#[test]
fn twenty_problems_are_listed_and_the_others_counted() {
    let directory = Directory::new();
    let keys: String = (0..33)
        .map(|number| format!("unheard{number} = 1\n"))
        .collect();
    let text = format!("[node.a]\naddress = \"10.0.0.1:1\"\n{keys}");
    let path = directory.file("tree.toml", text.as_bytes());
    let output = cli().run(&["check", "--topology", &path]);
    let message = stderr(&output);
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(
        (output.status.code(), lines.len()),
        (Some(2), 22),
        "{message}"
    );
    assert!(lines[0].starts_with("sapwood: 33 things "), "{message}");
    assert_eq!(
        lines[21],
        "  --topology: 13 more not listed; check again when these are right."
    );
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let directory = Directory::new();
    let check = |path: &str, reason: &str| {
        let output = cli().run(&["check", "--topology", path]);
        assert_eq!(output.status.code(), Some(2));
        let message = stderr(&output);
        assert!(message.starts_with("sapwood: --topology: "), "{message}");
        assert!(message.contains(reason), "{message}");
    };
    check("/nowhere.toml", "cannot read /nowhere.toml: ");
    check(&directory.file("bytes", b"\xff"), "it is not UTF-8 text");
    check(
        &directory.file("long", &vec![b'#'; (16 << 20) + 1]),
        "is it the right file?",
    );
    assert_eq!(cli().run(&["check"]).status.code(), Some(2));
}

#[test]
fn examples_of_the_help_and_the_page_are_right() {
    let directory = Directory::new();
    let help = cli().text(&["check", "--help"]);
    // The file in the help is set off by two spaces.
    let (_, file) = help.split_once("the root:\n").unwrap();
    let (file, _) = file.split_once("\nAn address").unwrap();
    let file: String = file
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    directory.file("tree.toml", file.as_bytes());
    let (_, examples) = help.split_once("\nExamples:\n").unwrap();
    let mut count = 0;
    for line in examples.lines().take_while(|line| line.starts_with("  ")) {
        let example = line.trim().split("  ").next().unwrap();
        let mut shell = cli().shell(example);
        shell.current_dir(directory.path());
        let output = Running::start(shell, b"").end();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{example}: {}",
            stderr(&output)
        );
        count += 1;
    }
    assert_eq!(count, 2);

    let page = include_str!("../src/docs/tree.md");
    let (_, section) = page.split_once("\n## A tree of nodes in a file\n").unwrap();
    let block = |kind: &str| {
        let (_, rest) = section.split_once(&format!("```{kind}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_string()
    };
    directory.file("tree.toml", block("toml").as_bytes());
    let shown = block("console");
    let (command, rest) = shown.split_once('\n').unwrap();
    // What follows is another command, which would run on.
    let (printed, _) = rest.split_once("$ ").unwrap();
    let mut shell = cli().shell(command.strip_prefix("$ ").unwrap());
    shell.current_dir(directory.path());
    let output = Running::start(shell, b"").end();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), printed);
}
