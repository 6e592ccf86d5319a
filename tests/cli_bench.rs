//! `sapwood bench`: its numbers add up, what it shows fits where it is shown, and it notices what is lost.

mod common;

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use common::Broker;
use common::cli::{Cli, Running, read_terminal, stderr};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// Runs a benchmark that has to succeed, and checks what is true of every result.
#[track_caller]
fn bench(cli: &Cli, args: &[&str]) -> Value {
    let args = [&["bench"], args, &["--json"]].concat();
    let text = cli.text(&args);
    assert_eq!(text.lines().count(), 1, "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    for name in ["missing", "misordered", "corrupt"] {
        assert_eq!(result[name], 0, "{args:?}: {result}");
    }
    assert_eq!(result["failure"], Value::Null, "{result}");
    assert_eq!(result["received"]["events"], result["expected"], "{result}");
    for flow in ["published", "received"] {
        let flow = &result[flow];
        let events = flow["events"].as_f64().unwrap();
        let seconds = flow["seconds"].as_f64().unwrap();
        if events > 0.0 {
            let rate = events / seconds;
            close(flow["events_per_second"].as_f64().unwrap(), rate);
            let bytes = rate * result["size_bytes"].as_f64().unwrap() / 1e6;
            close(flow["mb_per_second"].as_f64().unwrap(), bytes);
        }
    }
    let latency = &result["latency_us"];
    if result["expected"] == 0 {
        assert_eq!(*latency, Value::Null);
    } else {
        assert_eq!(latency["count"], result["expected"]);
        let times = ["min", "p50", "p90", "p99", "p99.9", "max"];
        let times = times.map(|name| latency[name].as_f64().unwrap());
        assert!(times.is_sorted(), "{latency}");
    }
    assert!(
        result["bench_cpu"]["seconds"].as_f64().unwrap() > 0.0,
        "{result}"
    );
    result
}

#[track_caller]
fn close(left: f64, right: f64) {
    assert!((left / right - 1.0).abs() < 1e-9, "{left} {right}");
}

fn with_brokers(test: impl Fn(&Cli)) {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        test(&Cli::of(&broker));
    }
}

#[test]
fn each_event_goes_to_the_one_subscriber_of_its_topic() {
    with_brokers(|cli| {
        let result = bench(cli, &["pub", "--count", "20001"]);
        assert_eq!(result["published"]["events"], 20_001);
        assert_eq!(result["expected"], 20_001);
        let many = [
            "--publishers",
            "3",
            "--subscribers",
            "2",
            "--topics",
            "7",
            "--size",
            "16",
        ];
        let result = bench(cli, &[&["pub", "--count", "10000"][..], &many].concat());
        assert_eq!(result["expected"], 10_000);
        let result = bench(cli, &["pub", "--count", "20", "--size", "2 MiB"]);
        assert_eq!(result["size_bytes"], 2 << 20);
    });
}

#[test]
fn without_subscribers_nothing_is_expected() {
    with_brokers(|cli| {
        let result = bench(cli, &["pub", "--count", "5000", "--subscribers", "0"]);
        assert_eq!(result["published"]["events"], 5_000);
        assert_eq!(result["expected"], 0);
    });
}

#[test]
fn fan_out_delivers_each_event_to_every_subscriber() {
    with_brokers(|cli| {
        let result = bench(cli, &["fanout", "--count", "3000"]);
        assert_eq!(result["expected"], 30_000);
        let more = [
            "--subscribers",
            "5",
            "--topics",
            "4",
            "--publishers",
            "2",
            "--size",
            "4KiB",
        ];
        let result = bench(cli, &[&["fanout", "--count", "1001"][..], &more].concat());
        assert_eq!(result["expected"], 5_005);
    });
}

#[test]
fn requests_are_all_answered() {
    with_brokers(|cli| {
        let args = [
            "request",
            "--count",
            "300",
            "--publishers",
            "3",
            "--subscribers",
            "2",
        ];
        let result = bench(cli, &args);
        assert_eq!(result["published"]["events"], 300);
    });
}

#[test]
fn rate_is_a_schedule_whose_lateness_is_told() {
    with_brokers(|cli| {
        for mode in ["pub", "request"] {
            let args = [
                mode,
                "--rate",
                "1000/s",
                "--count",
                "200",
                "--publishers",
                "2",
            ];
            let result = bench(cli, &args);
            assert_eq!(result["rate"], 1000.0);
            assert_eq!(result["lateness_us"]["count"], 200, "{result}");
            // The last one is due after 199 ms; it may be later, but not earlier.
            assert!(
                result["published"]["seconds"].as_f64().unwrap() >= 0.199,
                "{result}"
            );
        }
    });
}

#[test]
fn duration_ends_a_run() {
    with_brokers(|cli| {
        for mode in ["pub", "fanout", "request"] {
            let result = bench(cli, &[mode, "--duration", "500ms"]);
            assert!(
                result["published"]["events"].as_u64().unwrap() > 0,
                "{result}"
            );
            let result = bench(cli, &[mode, "--duration", "100ms", "--rate", "500/s"]);
            // Fifty are due, and none beyond the end.
            assert!(
                result["published"]["events"].as_u64().unwrap() <= 50,
                "{result}"
            );
        }
    });
}

#[test]
fn table_has_a_line_for_each_result_and_stderr_stays_empty_in_a_pipe() {
    with_brokers(|cli| {
        let output = cli.run(&["bench", "pub", "--count", "1000", "--rate", "10000"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stderr(&output), "");
        let text = String::from_utf8(output.stdout).unwrap();
        let starts = [
            "pub: 1 publisher, 1 subscriber, 1 topic, 128 B, 10,000/s due",
            "",
            "published  1,000",
            "received   1,000",
            "latency    p50 ",
            "late       p50 ",
            "checked    every event arrived, whole and in order",
            "bench CPU  ",
        ];
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), starts.len(), "{text}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{text}");
        }
    });
}

#[test]
fn signal_ends_a_run_early_and_prints_what_was_measured() {
    let broker = Broker::start(2, &[]);
    let cli = Cli::of(&broker);
    // Events that it hears itself are the sign that it runs.
    let mut sub = cli.listen(&["sub", "bench.>", "-n", "1"]);
    let bench = Running::start(
        cli.command(&["bench", "pub", "--duration", "1h", "--json"]),
        b"",
    );
    sub.line();
    bench.signal(Signal::INT);
    let output = bench.end();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["missing"], 0);
}

#[test]
fn broker_that_dies_is_a_failure_and_not_a_result() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::of(&broker);
    let mut sub = cli.listen(&["sub", "bench.>", "-n", "1"]);
    let args = ["bench", "pub", "--duration", "1h", "--json"];
    let bench = Running::start(cli.command(&args), b"");
    sub.line();
    drop(broker);
    let output = bench.end();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result["failure"].is_string(), "{result}");
}

/// A terminal: our end, and the end that a command gets.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (File::from(ours), theirs)
}

#[test]
fn progress_is_shown_on_a_terminal_and_taken_away() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::of(&broker);
    let (ours, theirs) = terminal();
    let mut command = cli.command(&["bench", "pub", "--rate", "100", "--count", "100"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(theirs);
    let child = command.spawn().unwrap();
    // The command keeps its end of the terminal open, and with it goes the last one.
    drop(command);
    let shown = read_terminal(ours);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let shown = shown.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(shown.contains(" of 100 published, "), "{shown:?}");
    // Four lines a second, not one for each event.
    assert!(shown.matches("published").count() < 50, "{shown:?}");
    assert!(shown.ends_with("\r\u{1b}[K"), "{shown:?}");
}

#[test]
fn message_is_asked_for_when_stdin_is_a_terminal() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::of(&broker);
    for command in ["pub", "request"] {
        let (_ours, theirs) = terminal();
        let output = cli.command(&[command, "t"]).stdin(theirs).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains("give a MESSAGE"),
            "{}",
            stderr(&output)
        );
    }
}
