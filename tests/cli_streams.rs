//! `sapwood stream` as a user meets it: the real binary against a real broker, and each example of its help.

mod common;

use common::Broker;
use common::cli::{Cli, Directory, Running, stderr};
use rustix::process::Signal;
use serde_json::Value;

/// A broker that keeps its streams in a directory of its own.
fn keeping(directory: &Directory, shards: usize) -> Broker {
    let data = directory.path().join("data");
    let data = data.to_str().expect("a path of ASCII");
    Broker::start_restartable_with(shards, None, &["--data", data])
}

/// Runs a command line, which has to end with this code, say this on stdout, and have this in stderr.
#[track_caller]
fn check(cli: &Cli, line: &str, code: i32, stdout: &str, in_stderr: &str) {
    let output = Running::start(cli.shell(line), b"").end();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{line}: {complained}");
    assert_eq!(said, stdout, "{line}");
    assert!(complained.contains(in_stderr), "{line}: {complained}");
    assert!(!complained.contains("panicked"), "{line}: {complained}");
}

/// A command line, its exit code, what it prints, and what stands in stderr.
type Row = (&'static str, i32, &'static str, &'static str);

/// Before a restart.
const BEFORE: &[Row] = &[
    (
        "sapwood stream add orders 'orders.>'",
        0,
        "made orders\n",
        "",
    ),
    (
        "sapwood stream add orders 'orders.>'",
        0,
        "orders is there already, as asked for\n",
        "",
    ),
    (
        "sapwood stream add orders 'orders.*'",
        1,
        "",
        "stream_exists",
    ),
    (
        "sapwood stream add other orders.new",
        1,
        "",
        "filters_taken",
    ),
    (
        "sapwood stream publish orders.new 'one cup'",
        0,
        "orders 1\n",
        "",
    ),
    (
        "seq 3 | sapwood stream publish orders.paid --lines",
        0,
        "orders 2\norders 3\norders 4\n",
        "",
    ),
    ("sapwood stream publish elsewhere x", 1, "", "no_stream"),
    (
        "sapwood stream read orders",
        0,
        "1 orders.new one cup\n2 orders.paid 1\n3 orders.paid 2\n4 orders.paid 3\n",
        "",
    ),
    (
        "sapwood stream read orders orders.new",
        0,
        "1 orders.new one cup\n",
        "",
    ),
    (
        "sapwood stream read orders --start 3 --count 1",
        0,
        "3 orders.paid 2\n",
        "",
    ),
    (
        "sapwood stream read orders --start last --raw",
        0,
        "3\n",
        "",
    ),
    (
        "sapwood stream read orders --start last-of-each --raw",
        0,
        "one cup\n3\n",
        "",
    ),
    (
        "sapwood stream read orders --start nowhere",
        2,
        "",
        "is not one of",
    ),
    ("sapwood stream read nothing", 1, "", "no_stream"),
    (
        "sapwood stream purge orders --before 3",
        0,
        "removed 2 messages\n",
        "",
    ),
    (
        "sapwood stream read orders --start 1 --count 1",
        0,
        "3 orders.paid 2\n",
        "messages 1 to 2 are gone",
    ),
    (
        "sapwood stream info orders | grep '^messages'",
        0,
        "messages      2\n",
        "",
    ),
    (
        "sapwood stream add orders 'orders.>' --max-messages 10 --update",
        0,
        "changed orders\n",
        "",
    ),
    (
        "sapwood stream info orders --json | jq -c '[.max_messages, .last]'",
        0,
        "[10,4]\n",
        "",
    ),
];

/// Behind it.
const AFTER: &[Row] = &[
    ("sapwood stream read orders --raw", 0, "2\n3\n", ""),
    (
        "sapwood stream ls or --json | jq -r .stream",
        0,
        "orders\n",
        "",
    ),
    (
        "sapwood stream rm orders",
        0,
        "removed orders, which kept 2 messages\n",
        "",
    ),
    ("sapwood stream ls --json", 0, "", ""),
];

#[test]
fn streams_are_made_filled_read_and_removed() {
    for shards in [1, 2] {
        let directory = Directory::new();
        let mut broker = keeping(&directory, shards);
        let cli = Cli::of(&broker);
        for (line, code, stdout, in_stderr) in BEFORE {
            check(&cli, line, *code, stdout, in_stderr);
        }
        broker.restart();
        for (line, code, stdout, in_stderr) in AFTER {
            check(&cli, line, *code, stdout, in_stderr);
        }
    }
}

#[test]
fn a_token_goes_on_where_a_reader_ended() {
    let directory = Directory::new();
    let broker = keeping(&directory, 1);
    let cli = Cli::of(&broker);
    cli.text(&["stream", "add", "t", "t"]);
    for payload in ["a", "b", "c"] {
        cli.text(&["stream", "publish", "t", payload]);
    }
    let output = cli.run(&["stream", "read", "t", "--json", "--count", "2"]);
    let last = stderr(&output);
    let last: Value = serde_json::from_str(last.trim()).expect("a token");
    let token = last["token"].as_str().expect("a text");
    let rest = cli.text(&["stream", "read", "t", "--raw", "--start", token]);
    assert_eq!(rest, "c\n");
}

#[test]
fn a_reader_that_follows_prints_what_comes_and_ends_by_a_signal() {
    let directory = Directory::new();
    let mut broker = keeping(&directory, 2);
    let cli = Cli::of(&broker);
    cli.text(&["stream", "add", "t", "t.*"]);
    let read = ["stream", "read", "t", "--follow"];
    let mut running = Running::start(cli.command(&read), b"");
    for (payload, line) in [("a", "1 t.x a"), ("b", "2 t.x b")] {
        cli.text(&["stream", "publish", "t.x", payload]);
        assert_eq!(running.line(), line);
    }
    broker.restart();
    cli.text(&["stream", "publish", "t.x", "c", "--wait", "10s"]);
    assert_eq!(running.line(), "3 t.x c");
    running.signal(Signal::INT);
    assert_eq!(running.end().status.code(), Some(0));
}

#[test]
fn a_broker_that_keeps_nothing_says_how_it_would() {
    let broker = Broker::start(1, &["--data", "off"]);
    let cli = Cli::of(&broker);
    for line in [
        "sapwood stream ls",
        "sapwood stream add t t",
        "sapwood stream publish t x",
    ] {
        check(&cli, line, 1, "", "--data");
    }
}

#[test]
fn examples_of_the_help_are_what_the_broker_takes() {
    let directory = Directory::new();
    let broker = keeping(&directory, 1);
    let cli = Cli::of(&broker);
    let helps = [
        vec!["stream"],
        vec!["stream", "add"],
        vec!["stream", "read"],
    ];
    for mut command in helps {
        if command.len() > 1 {
            let _ = cli.run(&["stream", "add", "orders", "orders.>"]);
            cli.text(&["stream", "publish", "orders.new", "x"]);
        }
        command.push("--help");
        let help = cli.text(&command);
        let (_, examples) = help.split_once("\nExamples:\n").expect("examples");
        for line in examples.lines().take_while(|line| line.starts_with("  ")) {
            let example = line.trim_start().split("  ").next().unwrap_or_default();
            let running = Running::start(cli.shell(example), b"");
            if example.contains("--follow") {
                running.signal(Signal::TERM);
                continue;
            }
            let output = running.end();
            assert_eq!(
                output.status.code(),
                Some(0),
                "{example}: {}",
                stderr(&output)
            );
        }
    }
}
