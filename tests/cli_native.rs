//! `pub`, `sub`, `request`, `reply` and `ping` as a user meets them: the real binary against a real broker, with one shard and
//! with two.

mod common;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use common::Broker;
use common::cli::{Cli, Directory, Running, stderr};
use rustix::process::Signal;
use sapwood_client::Event;
use serde_json::{Value, json};

/// Every byte there is, and a newline at the end.
fn every_byte() -> Vec<u8> {
    (0..=255).chain([b'\n']).collect()
}

/// Runs a test against a broker of one shard, and one of two.
fn with_brokers(test: impl Fn(&Cli)) {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        test(&Cli::of(&broker));
    }
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn check_failed(cli: &Cli, args: &[&str], code: i32, parts: &[&str]) {
    let output = cli.run(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    for part in parts {
        assert!(
            message.contains(part),
            "{args:?}: no {part:?} in: {message}"
        );
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn payload_arrives_byte_for_byte_from_wherever_it_comes() {
    with_brokers(|cli| {
        let directory = Directory::new();
        let bytes = every_byte();
        let file = directory.file("payload", &bytes);
        let sub = cli.listen(&["sub", "t", "--raw", "--separator", "", "--count", "5"]);
        assert_eq!(cli.run_with(&["pub", "t"], &bytes).status.code(), Some(0));
        cli.text(&["pub", "t", "--file", &file]);
        assert_eq!(
            cli.run_with(&["pub", "t", "--file", "-"], &bytes)
                .status
                .code(),
            Some(0)
        );
        // An argument can be anything but a NUL.
        let mut command = cli.command(&["pub", "t"]);
        let argument = bytes[1..].to_vec();
        let published = command
            .arg(OsString::from_vec(argument.clone()))
            .output()
            .unwrap();
        assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
        cli.text(&["pub", "t", ""]);
        let output = sub.end();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let expected = [&bytes[..], &bytes, &bytes, &argument].concat();
        assert_eq!(output.stdout, expected);
    });
}

#[test]
fn each_line_is_an_event_as_soon_as_it_is_there() {
    with_brokers(|cli| {
        let mut sub = cli.listen(&["sub", "t", "--count", "4"]);
        let (publisher, mut stdin) = Running::start_open(cli.command(&["pub", "t", "--lines"]));
        for line in ["first", "second\r"] {
            use std::io::Write;
            stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
            // It comes although stdin goes on.
            assert_eq!(sub.line(), format!("t {}", line.replace('\r', "\\r")));
        }
        {
            use std::io::Write;
            stdin.write_all(b"\nlast").unwrap();
        }
        drop(stdin);
        assert_eq!(publisher.end().status.code(), Some(0));
        let output = sub.end();
        assert_eq!(output.stdout, b"t first\nt second\\r\nt \nt last\n");
        let directory = Directory::new();
        let file = directory.file("lines", b"a\nb\n");
        let sub = cli.listen(&[
            "sub",
            "t",
            "--raw",
            "--count",
            "2",
            "--separator",
            "\\0\\x01",
        ]);
        cli.text(&["pub", "t", "--lines", "--file", &file]);
        assert_eq!(sub.end().stdout, b"a\0\x01b\0\x01");
    });
}

#[test]
fn many_lines_arrive_all_and_in_order() {
    with_brokers(|cli| {
        let lines: String = (0..200_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        let sub = cli.listen(&["sub", "t", "--raw", "--count", "200000"]);
        let published = cli.run_with(&["pub", "t", "--lines"], lines.as_bytes());
        assert_eq!(published.status.code(), Some(0), "{}", stderr(&published));
        assert_eq!(sub.end().stdout, lines.as_bytes());
    });
}

#[test]
fn headers_and_reply_topic_travel_and_are_shown_if_asked() {
    with_brokers(|cli| {
        let text = cli.listen(&["sub", "a.*", "--headers", "-n", "1"]);
        let plain = cli.listen(&["sub", "a.*", "-n", "1"]);
        let json = cli.listen(&["sub", "a.*", "--json", "-n", "1"]);
        let args = [
            "pub", "a.b", "hi", "-H", "id: 7", "--header", "id:8: 9", "--reply", "r.1",
        ];
        cli.text(&args);
        let expected = "a.b hi\n  reply topic: r.1\n  id: 7\n  id: 8: 9\n";
        assert_eq!(String::from_utf8(text.end().stdout).unwrap(), expected);
        assert_eq!(plain.end().stdout, b"a.b hi\n");
        let mut lines = json_lines(&json.end().stdout);
        let time = lines[0].as_object_mut().unwrap().remove("time").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        let expected = json!({
            "topic": "a.b", "reply": "r.1", "data": "hi",
            "headers": [{"name": "id", "value": "7"}, {"name": "id", "value": "8: 9"}],
        });
        assert_eq!(lines, [expected]);
    });
}

#[test]
fn what_a_terminal_would_obey_is_escaped_unless_raw() {
    with_brokers(|cli| {
        let attack = "\x1b]0;owned\x07\u{9b}2J\u{202e}";
        let text = cli.listen(&["sub", "t", "-n", "1", "--timestamps"]);
        let json = cli.listen(&["sub", "t", "-n", "1", "--json"]);
        let raw = cli.listen(&["sub", "t", "-n", "1", "--raw"]);
        cli.text(&["pub", "t", attack]);
        let text = String::from_utf8(text.end().stdout).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{text}");
        assert_eq!(rest, "t \\x1b]0;owned\\x07\\u{9b}2J\\u{202e}\n");
        let json = json.end().stdout;
        assert!(
            !String::from_utf8(json.clone())
                .unwrap()
                .trim_end()
                .contains(char::is_control)
        );
        assert_eq!(json_lines(&json)[0]["data"], attack);
        assert_eq!(raw.end().stdout, format!("{attack}\n").as_bytes());
        let json = cli.listen(&["sub", "t", "-n", "1", "--json"]);
        assert_eq!(
            cli.run_with(&["pub", "t"], b"\xff\n").status.code(),
            Some(0)
        );
        assert_eq!(json_lines(&json.end().stdout)[0]["data_b64"], "/wo=");
    });
}

#[test]
fn wildcards_and_several_topics_are_heard() {
    with_brokers(|cli| {
        let sub = cli.listen(&["sub", "news.*", "jobs.>", "exact", "-n", "5"]);
        for topic in [
            "news.art", "news", "news.a.b", "jobs", "jobs.a", "jobs.a.b", "exact", "exac",
        ] {
            cli.text(&["pub", topic, "x"]);
        }
        // Two of the topics match this one, and it is printed for each.
        let both = cli.listen(&["sub", "both", "bo*", "*", "-n", "2"]);
        cli.text(&["pub", "both", "y"]);
        cli.text(&["pub", "news.last", "z"]);
        let output = sub.end();
        let mut lines: Vec<_> = std::str::from_utf8(&output.stdout)
            .unwrap()
            .lines()
            .collect();
        // Order holds for a topic, not between topics.
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "exact x",
                "jobs.a x",
                "jobs.a.b x",
                "news.art x",
                "news.last z"
            ]
        );
        assert_eq!(both.end().stdout, b"both y\nboth y\n");
    });
}

#[test]
fn members_of_a_group_take_turns() {
    with_brokers(|cli| {
        let args = ["sub", "jobs.>", "--group", "workers", "-n", "10"];
        let members = [cli.listen(&args), cli.listen(&args)];
        let alone = cli.listen(&["sub", "jobs.>", "-n", "20"]);
        let lines: String = (0..20).map(|number| format!("{number}\n")).collect();
        let published = cli.run_with(&["pub", "jobs.a", "--lines", "--confirm"], lines.as_bytes());
        // The group counts as one subscription.
        assert_eq!(
            String::from_utf8(published.stdout).unwrap(),
            "2\n".repeat(20)
        );
        let mut heard: Vec<String> = Vec::new();
        for member in members {
            let output = member.end();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.lines().count(), 10, "{text}");
            heard.extend(text.lines().map(str::to_string));
        }
        let mut expected: Vec<String> = (0..20).map(|number| format!("jobs.a {number}")).collect();
        let all = String::from_utf8(alone.end().stdout).unwrap();
        assert_eq!(all.lines().collect::<Vec<_>>(), expected);
        heard.sort_unstable();
        expected.sort_unstable();
        assert_eq!(heard, expected);
    });
}

#[test]
fn who_subscribes_to_an_address_for_publishers_is_told_the_topic() {
    with_brokers(|cli| {
        for (topic, plain) in [("$to:vos:orders", "orders"), ("$near:a:b", "a:b")] {
            let advice = format!("get it as {plain}, so subscribe to that");
            check_failed(cli, &["sub", topic, "--timeout", "10ms"], 4, &[&advice]);
        }
    });
}

#[test]
fn closed_stdout_ends_a_subscriber_although_nothing_is_published() {
    with_brokers(|cli| {
        let mut shell = Running::start(
            cli.shell("sapwood sub t | head -1; echo ${PIPESTATUS[0]}"),
            b"",
        );
        shell.wait_for_stderr(&["listening to"]);
        cli.text(&["pub", "t", "only"]);
        let output = shell.end();
        assert_eq!(output.stdout, b"t only\n0\n");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        // And one that prints more than a pipe holds.
        let mut shell = Running::start(
            cli.shell("sapwood sub t --quiet | head -c 10; echo; echo ${PIPESTATUS[0]} >&2"),
            b"",
        );
        let many = "x".repeat(100) + "\n";
        let until = Instant::now() + Duration::from_secs(30);
        // Nothing says that a quiet one listens, so it is published until somebody does.
        while cli
            .run_with(&["pub", "t", "--require-listeners"], many.as_bytes())
            .status
            .code()
            != Some(0)
        {
            assert!(Instant::now() < until, "nobody listens");
        }
        shell.wait_for_stderr(&["0"]);
        let output = shell.end();
        assert_eq!(output.stdout, b"t xxxxxxxx\n");
    });
}

#[test]
fn signals_end_a_subscriber_in_order() {
    with_brokers(|cli| {
        for signal in [Signal::TERM, Signal::INT] {
            let mut sub = cli.listen(&["sub", "t"]);
            cli.text(&["pub", "t", "a", "--count", "3"]);
            assert_eq!(sub.line(), "t a");
            sub.signal(signal);
            let output = sub.end();
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert_eq!(output.stdout, b"t a\nt a\nt a\n");
        }
    });
}

#[test]
fn subscriber_goes_on_after_a_restart_and_says_so() {
    for (shards, args) in [
        (1, &["sub", "t.>"][..]),
        (2, &["sub", "t.>", "u", "--json"]),
    ] {
        let mut broker = Broker::start_restartable(shards, None);
        let cli = Cli::of(&broker);
        let mut sub = cli.listen(args);
        cli.text(&["pub", "t.a", "before"]);
        assert!(sub.line().contains("before"));
        broker.restart();
        sub.wait_for_stderr(&["the connection is lost"]);
        let again = sub.wait_for_stderr(&["events may be missing here"]);
        if args.contains(&"--json") {
            let notice: Value = serde_json::from_str(&again).unwrap();
            assert_eq!(notice["notice"], "reconnected");
        } else {
            assert_eq!(
                again,
                "sapwood: subscribed again; events may be missing here"
            );
        }
        cli.text(&["pub", "t.a", "after"]);
        assert!(sub.line().contains("after"));
        sub.signal(Signal::TERM);
        let output = sub.end();
        assert_eq!(output.status.code(), Some(0));
        // With two subscriptions it is still one piece of news.
        assert_eq!(
            stderr(&output)
                .matches("events may be missing here")
                .count(),
            1
        );
    }
}

#[test]
fn slow_subscriber_is_told_how_many_events_are_missing() {
    let directory = Directory::new();
    let limits = b"[limits]\noutbox_bytes_max = \"256 KiB\"\n";
    let config = directory.file("broker.toml", limits);
    let payload = directory.file("payload", &[b'x'; 100_000]);
    let go = directory.path().join("go");
    let made = std::process::Command::new("mkfifo").arg(&go).status();
    assert!(made.unwrap().success());
    for shards in [1, 2] {
        let broker = Broker::start(shards, &["--config", &config]);
        let cli = Cli::of(&broker);
        // What reads its output begins only when it is told to.
        let line = format!(
            "sapwood sub t --policy drop-oldest --raw | (cat '{}' >&2; cat)",
            go.display()
        );
        let mut shell = cli.shell(&line);
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut running = Running::start(shell, b"");
        running.wait_for_stderr(&["listening to"]);
        // More than sockets, pipe, queue and outbox hold together.
        let published = cli.text(&[
            "pub",
            "t",
            "--file",
            &payload,
            "--count",
            "400",
            "--confirm",
        ]);
        assert_eq!(published, "1\n".repeat(400));
        std::fs::write(&go, "go\n").unwrap();
        cli.text(&["pub", "t", "end"]);
        let mut printed = 0;
        while running.line() != "end" {
            printed += 1;
        }
        let group = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
        rustix::process::kill_process_group(group, Signal::TERM).unwrap();
        let message = stderr(&running.end());
        let gaps = message.lines().filter_map(|line| {
            let rest = line.strip_prefix("sapwood: up to ")?;
            rest.split_once(" events are missing from t here")?
                .0
                .parse::<u64>()
                .ok()
        });
        let missing: u64 = gaps.sum();
        assert!(missing > 0, "{message}");
        assert_eq!(printed + missing, 400, "{message}");
    }
}

#[test]
fn publisher_tells_who_was_reached() {
    with_brokers(|cli| {
        assert_eq!(cli.text(&["pub", "t", "x", "--confirm"]), "0\n");
        check_failed(
            cli,
            &["pub", "t", "x", "--require-listeners"],
            3,
            &["nobody listens on t."],
        );
        let _subs = [cli.listen(&["sub", "t"]), cli.listen(&["sub", "*"])];
        assert_eq!(
            cli.text(&["pub", "t", "x", "--confirm", "--count", "2"]),
            "2\n2\n"
        );
        assert_eq!(cli.text(&["pub", "t", "x", "--require-listeners"]), "");
    });
}

#[test]
fn count_and_rate_repeat_an_event() {
    with_brokers(|cli| {
        let sub = cli.listen(&["sub", "t", "-n", "4"]);
        let since = Instant::now();
        cli.text(&["pub", "t", "x", "--count", "4", "--rate", "20/s"]);
        // The last of four is due after three fiftieths; it may be later, but not earlier.
        assert!(since.elapsed() >= Duration::from_millis(150));
        assert_eq!(sub.end().stdout, b"t x\nt x\nt x\nt x\n");
    });
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_would_be_right() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::of(&broker);
    for (args, part) in [
        (&["pub"][..], "TOPIC"),
        (
            &["pub", "t", "x", "--header", "no colon"],
            "write a header as 'name: value'",
        ),
        (&["pub", "t", "x", "--rate", "fast"], "1000/s"),
        (&["pub", "t", "x", "--count", "0"], "whole number from 1"),
        (&["pub", "t", "x", "--lines"], "cannot be used with"),
        (&["pub", "t", "x", "--file", "y"], "cannot be used with"),
        (&["pub", "$JS.x", "x"], "are the broker's own"),
        (
            &["pub", "a.>.b", "x", "--reply", "x\u{1}", "--native", "off"],
            "--native: there is no broker",
        ),
        (&["sub"], "TOPIC"),
        (&["sub", "a.>.b"], "cannot subscribe to a.>.b"),
        (&["sub", "a", "--raw", "--json"], "cannot be used with"),
        (&["sub", "a", "--separator", ","], "--raw"),
        (
            &["sub", "a", "--raw", "--separator", "\\q"],
            "means nothing here",
        ),
        (
            &["sub", "a", "--policy", "newest"],
            "close, drop-oldest, latest",
        ),
        (
            &["sub", "a", "--native", "127.0.0.1"],
            "write 127.0.0.1:7400",
        ),
        (&["request", "t", "x", "--replies", "0"], "Or say all."),
        (&["request", "t", "x", "--timeout", "soon"], "500ms"),
        (&["reply", "t"], "--echo"),
        (&["reply", "t", "x", "--echo"], "cannot be used with"),
        (
            &["reply", "t", "x", "--parallel", "2"],
            "cannot be used with",
        ),
        (&["ping", "--name", &"n".repeat(256)], "at most 255 bytes"),
        (&["bench", "disk"], "fanout"),
        (&["bench", "pub", "--size", "15"], "from 16 to"),
        (
            &["bench", "fanout", "--subscribers", "0"],
            "--subscribers 1",
        ),
        (
            &["bench", "pub", "--topics", "1", "--subscribers", "2"],
            "--topics 2 or more",
        ),
        (&["man", "nothing"], "there are: serve, pub, sub"),
        (&["completion", "cmd"], "fish"),
    ] {
        check_failed(&cli, args, 2, &[part]);
    }
}

#[test]
fn where_nobody_listens_a_command_fails_at_once_and_names_serve() {
    // Nothing can listen on port 1 without somebody having meant it.
    let cli = Cli::at("127.0.0.1:1");
    for args in [
        &["pub", "t", "x"][..],
        &["sub", "t"],
        &["request", "t", "x"],
        &["reply", "t", "x"],
        &["ping"],
        &["bench", "pub"],
        &["bench", "request"],
    ] {
        check_failed(
            &cli,
            args,
            1,
            &["nothing listens on 127.0.0.1:1", "sapwood serve", "--wait"],
        );
    }
    check_failed(
        &cli,
        &["pub", "t", "--file", "/nowhere"],
        1,
        &["cannot read /nowhere"],
    );
    // A name that has no address is not a broker that is away, but a broker all the same might be behind it later.
    check_failed(
        &cli,
        &["ping", "--native", "no-such-name.invalid:1"],
        1,
        &["no-such-name.invalid:1"],
    );
}

#[test]
fn port_of_another_protocol_is_refused_with_words() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::at(&format!("127.0.0.1:{}", broker.port()));
    check_failed(
        &cli,
        &["ping"],
        1,
        &["cannot connect to 127.0.0.1:", "--native"],
    );
}

#[test]
fn further_addresses_are_tried_in_turn() {
    with_brokers(|cli| {
        let dead_first = format!("127.0.0.1:1,{}", cli.native());
        cli.text(&["pub", "t", "x", "--native", &dead_first]);
        cli.text(&[
            "pub",
            "t",
            "x",
            "--native",
            "127.0.0.1:1",
            "--native",
            cli.native(),
        ]);
        let elsewhere = Cli::at(&dead_first);
        elsewhere.text(&["pub", "t", "x"]);
        let directory = Directory::new();
        let config = directory.file(
            "client.toml",
            format!("native = \"{dead_first}\"\n").as_bytes(),
        );
        let mut command = cli.command(&["ping", "-n", "1", "--config", &config]);
        let output = command.env_remove("SAPWOOD_NATIVE").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    });
}

#[test]
fn wait_goes_on_until_a_broker_is_there() {
    let broker = Broker::start_restartable(1, None);
    let (native, redis) = (broker.native_port(), broker.port());
    drop(broker);
    let cli = Cli::at(&format!("127.0.0.1:{native}"));
    check_failed(&cli, &["ping", "--wait", "1ms"], 1, &["--native"]);
    let ping = Running::start(cli.command(&["ping", "-n", "1", "--wait", "50s"]), b"");
    let serve = ["serve", "--shards", "1", "--redis", &redis.to_string()];
    let mut broker = Running::start(cli.command(&serve), b"");
    let output = ping.end();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    broker.line();
}

#[test]
fn password_is_shown_from_file_or_environment() {
    let directory = Directory::new();
    let right = directory.file("right", b"open sesame\n");
    let wrong = directory.file("wrong", b"open barley\n");
    for shards in [1, 2] {
        let broker = Broker::start_with_password(shards, "open sesame");
        let cli = Cli::of(&broker);
        check_failed(
            &cli,
            &["ping", "-n", "1"],
            1,
            &["wants a password", "--password-file FILE"],
        );
        let args = ["pub", "t", "x", "--password-file"];
        check_failed(
            &cli,
            &[&args[..], &[&wrong]].concat(),
            1,
            &["does not take this password"],
        );
        cli.text(&[&args[..], &[&right]].concat());
        let mut command = cli.command(&["ping", "-n", "1"]);
        let output = command
            .env("SAPWOOD_PASSWORD", "open sesame")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn silent_topic_ends_a_subscriber_with_a_time_out() {
    with_brokers(|cli| {
        check_failed(
            cli,
            &["sub", "t", "--timeout", "50ms"],
            4,
            &["no event came within 50ms."],
        );
        // Connected before, so that the event comes long before the time is over.
        let client = sapwood_client::blocking::Client::connect(cli.native()).unwrap();
        let mut sub = cli.listen(&["sub", "t", "--timeout", "3s", "-n", "9"]);
        client.publish("t", "x").unwrap();
        assert_eq!(sub.line(), "t x");
        let output = sub.end();
        assert_eq!(output.status.code(), Some(4));
        assert!(
            stderr(&output).contains("no further event came within 3s, after 1."),
            "{}",
            stderr(&output)
        );
    });
}

#[test]
fn request_is_answered_with_a_text_an_echo_or_a_command() {
    with_brokers(|cli| {
        let fixed = cli.listen(&[
            "reply",
            "fixed",
            "the answer",
            "-H",
            "kind: text",
            "-n",
            "3",
        ]);
        let echo = cli.listen(&["reply", "echo", "--echo", "-n", "2"]);
        let command = [
            "reply",
            "up.*",
            "--command",
            "tr a-z A-Z; printf %s $SAPWOOD_TOPIC",
            "-n",
            "1",
        ];
        let command = cli.listen(&command);
        assert_eq!(cli.text(&["request", "fixed", ""]), "the answer\n");
        let headers = cli.text(&["request", "fixed", "", "--headers"]);
        assert_eq!(headers, "the answer\n  kind: text\n  last reply\n");
        // An event that asks for no reply is not counted.
        cli.text(&["pub", "fixed", "no question"]);
        let json = cli.text(&["request", "fixed", "", "--json"]);
        assert_eq!(json_lines(json.as_bytes())[0]["data"], "the answer");
        assert_eq!(fixed.end().status.code(), Some(0));
        let bytes = every_byte();
        let args = ["request", "echo", "--raw", "--separator", ""];
        assert_eq!(cli.run_with(&args, &bytes).stdout, bytes);
        let asked = cli.text(&[
            "request",
            "echo",
            "x",
            "-H",
            "a: b",
            "--headers",
            "--replies",
            "all",
        ]);
        assert_eq!(asked, "x\n  a: b\n  last reply\n");
        assert_eq!(echo.end().status.code(), Some(0));
        assert_eq!(
            cli.text(&["request", "up.here", "shout "]),
            "SHOUT up.here\n"
        );
        assert_eq!(command.end().status.code(), Some(0));
    });
}

#[test]
fn request_without_answer_has_an_exit_code_of_its_own() {
    with_brokers(|cli| {
        // Were it the time-out, this would take an hour.
        check_failed(
            cli,
            &["request", "t", "x", "--timeout", "1h"],
            3,
            &["nobody listens on t", "sapwood reply t"],
        );
        let _deaf = cli.listen(&["sub", "t"]);
        check_failed(
            cli,
            &["request", "t", "x", "--timeout", "50ms"],
            4,
            &["no reply came from t within 50ms"],
        );
    });
}

#[test]
fn several_replies_are_printed_up_to_the_number_or_to_the_last() {
    with_brokers(|cli| {
        let client = sapwood_client::blocking::Client::connect(cli.native()).unwrap();
        let mut requests = client.subscribe("t").unwrap();
        let answering = std::thread::spawn(move || {
            for last in ["three", "", "three"] {
                let Some(Event::Message(request)) = requests.next() else {
                    panic!("no request");
                };
                client.reply_part(&request, "one").unwrap();
                client.reply_part(&request, "two").unwrap();
                client.reply(&request, last).unwrap();
            }
            client.flush().unwrap();
        });
        assert_eq!(
            cli.text(&["request", "t", "x", "--replies", "all"]),
            "one\ntwo\nthree\n"
        );
        // An empty reply that only marks the end is not printed.
        assert_eq!(
            cli.text(&["request", "t", "x", "--replies", "all"]),
            "one\ntwo\n"
        );
        assert_eq!(
            cli.text(&["request", "t", "x", "--replies", "2"]),
            "one\ntwo\n"
        );
        answering.join().unwrap();
    });
}

#[test]
fn failing_slow_or_loud_command_is_told_to_who_asked() {
    with_brokers(|cli| {
        let script =
            "case $(cat) in fail) echo partly; exit 3;; slow) sleep 1000;; *) echo fine;; esac";
        let mut reply = cli.listen(&[
            "reply",
            "t",
            "--command",
            script,
            "--timeout",
            "5s",
            "-n",
            "3",
        ]);
        let failed = cli.text(&["request", "t", "fail", "--headers"]);
        assert_eq!(
            failed,
            "partly\\n\n  error: the command failed: exit status: 3\n  last reply\n"
        );
        reply.wait_for_stderr(&["the command failed: exit status: 3"]);
        let slow = cli.text(&["request", "t", "slow", "--headers", "--timeout", "1m"]);
        assert_eq!(
            slow,
            "\n  error: the command took longer than 5s\n  last reply\n"
        );
        assert_eq!(cli.text(&["request", "t", "else"]), "fine\\n\n");
        assert_eq!(reply.end().status.code(), Some(0));
    });
}

#[test]
fn commands_run_at_a_time_up_to_the_cap_and_finish_at_a_signal() {
    with_brokers(|cli| {
        let directory = Directory::new();
        let names = ["a", "b", "c"];
        let fifos = names.map(|name| directory.path().join(name));
        for fifo in &fifos {
            let made = std::process::Command::new("mkfifo").arg(fifo).status();
            assert!(made.unwrap().success());
        }
        let script = format!(
            "echo started >&2; cat '{}'/$(cat)",
            directory.path().display()
        );
        let command = ["reply", "t", "--command", &script, "--parallel", "2"];
        let mut reply = cli.listen(&command);
        let asking = names.map(|name| {
            let request = ["request", "t", name, "--timeout", "50s"];
            Running::start(cli.command(&request), b"")
        });
        for _ in 0..2 {
            reply.wait_for_stderr(&["started"]);
        }
        // Told to end while two run and one waits, it answers all three.
        reply.signal(Signal::TERM);
        for fifo in fifos {
            // Opening waits for the command that reads it.
            std::thread::spawn(move || std::fs::write(fifo, "go"));
        }
        let answers: Vec<_> = asking.map(Running::end).to_vec();
        let answered = answers
            .iter()
            .filter(|output| output.status.code() == Some(0))
            .count();
        assert_eq!(answered, 3, "{answers:?}");
        let output = reply.end();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stderr(&output).matches("started").count(), 3);
    });
}

#[test]
fn groups_share_requests() {
    with_brokers(|cli| {
        let args = ["reply", "t", "x", "--group", "g", "-n", "2"];
        let members = [cli.listen(&args), cli.listen(&args)];
        for _ in 0..4 {
            assert_eq!(cli.text(&["request", "t", ""]), "x\n");
        }
        for member in members {
            assert_eq!(member.end().status.code(), Some(0));
        }
    });
}

#[test]
fn ping_prints_each_answer_and_a_summary() {
    with_brokers(|cli| {
        let text = cli.text(&[
            "ping",
            "--count",
            "3",
            "--interval",
            "1ms",
            "--name",
            "pinger",
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        for (index, line) in lines[..3].iter().enumerate() {
            assert!(
                line.starts_with(&format!("answer {}: ", index + 1)),
                "{text}"
            );
        }
        assert_eq!(lines[3], format!("--- {}", cli.native()));
        assert_eq!(lines[4], "3 pings, 3 answers, 0% lost");
        assert!(lines[5].starts_with("min/mean/p50/p99/max "), "{text}");
        let mut endless = Running::start(cli.command(&["ping", "--interval", "1h"]), b"");
        assert!(endless.line().starts_with("answer 1: "));
        endless.signal(Signal::INT);
        let output = endless.end();
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("1 pings, 1 answers")
        );
    });
}
