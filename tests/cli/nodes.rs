//! What the command line says about a tree of nodes: which settings go together, the secret, and the data directory.

use super::{Broker, Directory, check_refused, fs, run, sapwood, stderr};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

const REDIS: [&str; 2] = ["--redis", "127.0.0.1:0"];

/// A secret that is long enough.
const SECRET: &str = "0123456789abcdef0123456789abcdef\n";

/// How a secret is made, as every error that wants one says.
const MAKE: &str = "head -c 32 /dev/urandom | base64 > secret";

const TREE: &str = "[node.oslo]\naddress = \"127.0.0.1:17401\"\n\
                    [node.bergen]\naddress = \"127.0.0.1:17402\"\nparent = \"oslo\"\n";

#[test]
fn links_with_other_machines_want_a_secret() {
    for (flag, address, says) in [
        ("--node", "0.0.0.0:0", "so everybody could become a node"),
        ("--node", "[::]:0", "so everybody could become a node"),
        ("--join", "192.0.2.1:7401", "is on another machine"),
        ("--join", "7401,192.0.2.1:7401", "192.0.2.1:7401 is on"),
        ("--parent", "[2001:db8::1]:7401", "is on another machine"),
    ] {
        let start = format!("sapwood: {flag}: ");
        let parts = [&*start, says, MAKE, "--cluster-secret-file FILE"];
        check_refused(&[flag, address], &[("SAPWOOD_NODE", "")], &parts);
    }
}

#[test]
fn a_secret_opens_the_node_listener_and_is_never_shown() {
    let directory = Directory::new();
    let path = directory.file("secret", SECRET);
    // What is relative is relative to the file.
    let config = directory.file(
        "broker.toml",
        "node = \"0.0.0.0:0\"\ncluster_secret_file = \"secret\"\n",
    );
    let environment = [("SAPWOOD_NODE", "")];
    let args = [&REDIS[..], &["--config", &config]].concat();
    let broker = Broker::start(&args, &environment);
    let row = broker.table.last().unwrap();
    assert!(row.ends_with(" --cluster-secret-file FILE"), "{row}");
    assert!(row.contains("sapwood serve --join 127.0.0.1:"), "{row}");
    let (code, _, log) = broker.end_by("TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(
        !log.contains("can read") && !log.contains("0123456789abcdef"),
        "{log}"
    );

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, _, log) = Broker::start(&args, &environment).end_by("TERM");
    assert!(log.contains("can read the cluster secret file"), "{log}");
}

#[test]
fn what_is_no_secret_is_refused() {
    let directory = Directory::new();
    for (text, says) in [
        ("", "the secret is empty"),
        ("\r\n\n", "the secret is empty"),
        ("password\n", "the secret has 8 bytes"),
        (&*"x".repeat(70_000), "is it the right file?"),
    ] {
        let path = directory.file("secret", text);
        let start = "sapwood: --cluster-secret-file: ";
        check_refused(&["--cluster-secret-file", &path], &[], &[start, says]);
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_and_both_are_named() {
    let directory = Directory::new();
    let tree = directory.file("tree.toml", TREE);
    check_refused(
        &["--parent", "7401"],
        &[("SAPWOOD_JOIN", "7402")],
        &[
            "sapwood: --parent: SAPWOOD_JOIN in the environment is given too, and ",
            "leave one of the two out",
        ],
    );
    for [flag, value] in [
        ["--join", "7401"],
        ["--parent", "7401"],
        ["--children-max", "2"],
    ] {
        check_refused(
            &[flag, value, "--topology", &tree, "--node-name", "oslo"],
            &[],
            &[&format!(
                "sapwood: {flag}: --topology is given too, and the file says"
            )],
        );
    }
    check_refused(
        &["--advertise", "10.0.0.1:7401", "--node", "off"],
        &[],
        &[
            "sapwood: --advertise: this node takes in no others",
            "--node",
        ],
    );
}

#[test]
fn a_node_that_the_tree_s_file_does_not_name_is_refused_with_a_name() {
    let directory = Directory::new();
    let tree = directory.file("tree.toml", TREE);
    for (name, says) in [
        ("olso", "has no node \"olso\"; did you mean \"oslo\"?"),
        ("elsewhere", "such as its root \"oslo\""),
    ] {
        let parts = ["sapwood: --node-name: ", says];
        check_refused(&["--topology", &tree, "--node-name", name], &[], &parts);
    }
    // No host is called like this.
    let strange = directory.file(
        "strange.toml",
        "[node.\"oslo.._-\"]\naddress = \"127.0.0.1:1\"\n",
    );
    let parts = [
        "sapwood: --topology: ",
        "this machine's name",
        "--node-name oslo.._-.",
    ];
    check_refused(&["--topology", &strange], &[], &parts);
}

#[test]
fn a_tree_s_file_that_is_wrong_is_refused_by_its_lines() {
    let directory = Directory::new();
    let tree = directory.file("tree.toml", "[node.oslo]\naddress = \"oslo\"\n");
    let place = format!("sapwood: {tree}:2: node.oslo.address: ");
    check_refused(
        &["--topology", &tree, "--node-name", "oslo"],
        &[],
        &[&place],
    );
}

#[test]
fn a_tree_s_file_across_machines_wants_a_secret_too() {
    let directory = Directory::new();
    let tree = directory.file(
        "tree.toml",
        "[node.oslo]\naddress = \"192.0.2.1:7401\"\n\
         [node.bergen]\naddress = \"127.0.0.1:17402\"\nparent = \"oslo\"\n",
    );
    for (name, says) in [
        ("oslo", "192.0.2.1:7401 can be reached from other machines"),
        ("bergen", "192.0.2.1:7401 is on another machine"),
    ] {
        let args = ["--topology", &tree, "--node-name", name];
        let parts = ["sapwood: --topology: ", says, MAKE];
        check_refused(&args, &[("SAPWOOD_NODE", "")], &parts);
    }
}

/// Two nodes that a broker is started for, and what their logs must say.
fn check_linked(first: Broker, second: Broker) {
    // What one publishes reaches who listens to the other: the links carry it, whoever is whose parent.
    let native = first.listener("native");
    let args = [
        "sub",
        "x.>",
        "-n",
        "1",
        "--timeout",
        "20s",
        "--native",
        &native,
    ];
    let mut command = sapwood(&args, &[]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Killed(child.spawn().unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening to") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "sub ended");
    }
    let native = second.listener("native");
    // A link may need a moment to stand, and interest to cross it: until then nobody listens there.
    while child.0.try_wait().unwrap().is_none() {
        let output = run(&["pub", "x.y", "hello", "--native", &native], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let mut text = String::new();
    child
        .0
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "x.y hello\n");
    for broker in [second, first] {
        let (code, _, log) = broker.end_by("TERM");
        assert_eq!(code, Some(0), "{log}");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_command_of_the_table_joins_and_events_cross() {
    let directory = Directory::new();
    let secret = directory.file("secret", SECRET);
    for with_secret in [&[][..], &["--cluster-secret-file", &*secret]] {
        let args = [&REDIS[..], &["--shards", "1"], with_secret].concat();
        let first = Broker::start(&args, &[]);
        let row = first.table.last().unwrap().clone();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2..5], ["sapwood", "serve", "--join"], "{row}");
        let second = Broker::start(&[&args[..], &["--join", words[5]]].concat(), &[]);
        check_linked(first, second);
    }
}

#[test]
fn a_named_parent_and_a_tree_s_file_link_as_well() {
    let directory = Directory::new();
    let args = [&REDIS[..], &["--shards", "1"]].concat();
    let first = Broker::start(&args, &[]);
    let node = first.listener("node");
    let second = Broker::start(&[&args[..], &["--parent", &node]].concat(), &[]);
    check_linked(first, second);

    // The root listens where it likes, and the file says where that is.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let tree = TREE.replace("127.0.0.1:17401", &address.to_string());
    let tree = directory.file("tree.toml", &tree);
    let args = [&args[..], &["--topology", &tree]].concat();
    let root = [&args[..], &["--node-name", "oslo"]].concat();
    let root = Broker::start(&root, &[("SAPWOOD_NODE", "")]);
    assert_eq!(root.listener("node"), address.to_string());
    let child = Broker::start(&[&args[..], &["--node-name", "bergen"]].concat(), &[]);
    check_linked(root, child);
}

fn identity(data: &Path) -> (String, u64) {
    let text = fs::read_to_string(data.join("node")).unwrap();
    let (node, incarnation) = text.trim_end().split_once('\n').unwrap();
    let incarnation = incarnation.strip_prefix("incarnation ").unwrap();
    (node.to_string(), incarnation.parse().unwrap())
}

#[test]
fn a_killed_node_is_itself_again_and_its_start_a_later_one() {
    let directory = Directory::new();
    let data = directory.0.join("data");
    let args = [&REDIS[..], &["--data", data.to_str().unwrap()]].concat();
    let mut last = None;
    for _ in 0..3 {
        let broker = Broker::start(&args, &[]);
        let (node, incarnation) = identity(&data);
        if let Some((before, earlier)) = last {
            assert_eq!(node, before);
            assert!(incarnation > earlier, "{incarnation} after {earlier}");
        }
        last = Some((node, incarnation));
        // Killed at once, as by kill -9.
        drop(broker);
    }
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    // A clock that has gone back does not make a start an earlier one.
    let (node, _) = last.unwrap();
    let ahead = format!("{node}\nincarnation 9000000000000000000\n");
    fs::write(data.join("node"), ahead).unwrap();
    let _broker = Broker::start(&args, &[]);
    assert_eq!(identity(&data), (node, 9_000_000_000_000_000_001));
}

#[test]
fn a_data_directory_in_the_file_is_relative_to_the_file() {
    let directory = Directory::new();
    let config = directory.file("broker.toml", "data = \"kept\"\n");
    let _broker = Broker::start(&[&REDIS[..], &["--config", &config]].concat(), &[]);
    assert!(directory.0.join("kept/node").is_file());
}

/// Checks that `serve` does not start: exit code 1, nothing on stdout, and each of `parts` in the message.
fn check_failed(args: &[&str], parts: &[&str]) {
    let output = run(&[&["serve"], &REDIS[..], args].concat(), &[]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(output.stdout.is_empty());
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn two_brokers_cannot_have_one_data_directory() {
    let directory = Directory::new();
    let data = directory.0.join("data");
    let data_text = data.to_str().unwrap();
    let first = Broker::start(&[&REDIS[..], &["--data", data_text]].concat(), &[]);
    let before = identity(&data);
    let parts = [
        "sapwood: --data: another broker uses the directory ",
        data_text,
    ];
    check_failed(&["--data", data_text], &parts);
    assert_eq!(identity(&data), before);
    let (code, ..) = first.end_by("TERM");
    assert_eq!(code, Some(0));
    drop(Broker::start(
        &[&REDIS[..], &["--data", data_text]].concat(),
        &[],
    ));
}

#[test]
fn a_data_directory_that_says_something_else_is_left_alone() {
    let directory = Directory::new();
    let path = directory.file("node", "{\"id\": 7}\n");
    let data = directory.0.to_str().unwrap();
    let parts = [
        "sapwood: --data: ",
        &path,
        "does not say who this node is",
        "\"{\\\"id\\\": 7}\\n\"",
        "remove it",
    ];
    check_failed(&["--data", data], &parts);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"id\": 7}\n");
    check_failed(&["--data", &path], &["cannot make the directory "]);
}
