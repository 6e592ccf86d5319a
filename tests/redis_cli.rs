//! Redis's own command line tools against the broker.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use common::{Broker, VALUE_SECONDS_MAX};

#[test]
fn a_subscriber_hears_a_publisher() {
    for shards in [1, 2] {
        for protocol in ["-2", "-3"] {
            let broker = Broker::start(shards, &[]);
            let subscriber = Subscriber::start(&broker, &[protocol, "SUBSCRIBE", "news"]);
            // Piped output is raw: one line for each item of a push.
            subscriber.expect(&["subscribe", "news", "1"]);
            let publish = ok(cli(&broker, &[protocol, "PUBLISH", "news", "hello there"]));
            assert_eq!(publish, "1\n", "receivers");
            subscriber.expect(&["message", "news", "hello there"]);
        }
    }
}

#[test]
fn a_pattern_subscriber_hears_a_publisher() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let subscriber = Subscriber::start(&broker, &["PSUBSCRIBE", "n*", "w?"]);
        subscriber.expect(&["psubscribe", "n*", "1", "psubscribe", "w?", "2"]);
        assert_eq!(ok(cli(&broker, &["PUBLISH", "news", "hello there"])), "1\n");
        subscriber.expect(&["pmessage", "n*", "news", "hello there"]);
    }
}

#[test]
fn introspection_does_not_fail() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for protocol in ["-2", "-3"] {
            assert_eq!(ok(cli(&broker, &[protocol, "PING"])), "PONG\n");
            let info = ok(cli(&broker, &[protocol, "INFO"]));
            for field in ["redis_version:", "connected_clients:", "# Server"] {
                assert!(info.contains(field), "INFO has no {field:?}: {info}");
            }
            let save = ok(cli(&broker, &[protocol, "CONFIG", "GET", "save"]));
            assert!(save.starts_with("save"), "CONFIG GET save: {save:?}");
            let count: u32 = ok(cli(&broker, &[protocol, "COMMAND", "COUNT"]))
                .trim()
                .parse()
                .expect("COMMAND COUNT is a number");
            assert!(count > 0, "COMMAND COUNT is 0");
            ok(cli(&broker, &[protocol, "COMMAND", "DOCS"]));
            ok(cli(&broker, &[protocol, "COMMAND"]));
            assert!(ok(cli(&broker, &[protocol, "CLIENT", "LIST"])).contains("id="));
        }
    }
}

#[test]
fn an_error_is_shown() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let output = cli(&broker, &["NOSUCH", "x"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.starts_with("ERR unknown command 'NOSUCH'"),
            "{output:?}"
        );
    }
}

#[test]
fn the_user_has_the_name_that_it_was_given() {
    let broker = Broker::start_guarded(2, "secret", &["--user", "service"]);
    let with = ["-a", "secret", "--no-auth-warning"];
    let guarded = |args: &[&str]| cli(&broker, &[&with, args].concat());
    assert_eq!(ok(guarded(&["--user", "service", "PING"])), "PONG\n");
    let refused = guarded(&["--user", "default", "PING"]);
    let text = [&refused.stdout[..], &refused.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("WRONGPASS"), "{text}");
    // A client that knows no names gives the password alone.
    assert!(ok(guarded(&["CLIENT", "LIST"])).contains(" user=service "));
    let killed = guarded(&["CLIENT", "KILL", "USER", "service"]);
    assert_eq!(ok(killed), "0\n");
    let unknown = guarded(&["CLIENT", "KILL", "USER", "default"]);
    let text = String::from_utf8_lossy(&unknown.stdout);
    assert!(text.starts_with("ERR No such user 'default'"), "{text}");
}

#[test]
fn a_script_on_stdin_runs() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut child = command("redis-cli", &broker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        std::io::Write::write_all(
            &mut stdin,
            b"MULTI\nPUBLISH a \"x y\"\nECHO hello\nEXEC\nPUBSUB NUMSUB a\n",
        )
        .expect("redis-cli reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(ok(output), "OK\nQUEUED\nQUEUED\n0\nhello\na\n0\n");
    }
}

#[test]
fn redis_benchmark_publishes() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let port = broker.port().to_string();
        let benchmark = |args: &[&str]| {
            let output = Command::new("redis-benchmark")
                .args(["-h", "127.0.0.1", "-p", &port, "-q", "-n", "1000"])
                .args(args)
                .output()
                .expect("redis-benchmark is installed");
            let text = ok(output);
            assert!(text.contains("requests per second"), "{args:?}: {text}");
        };
        benchmark(&["PUBLISH", "news", "hello"]);
        benchmark(&["-c", "1", "PUBLISH", "news", "hello"]);
        benchmark(&["-P", "16", "PUBLISH", "news", "hello"]);
        benchmark(&["-3", "PUBLISH", "news", "hello"]);
        benchmark(&["-t", "ping"]);
    }
}

fn command(program: &str, broker: &Broker) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &broker.port().to_string()]);
    command
}

fn cli(broker: &Broker, args: &[&str]) -> Output {
    command("redis-cli", broker)
        .args(args)
        .output()
        .expect("redis-cli is installed")
}

/// What it printed, when it went well. redis-cli exits with 0 after errors of the server, so those are looked for.
fn ok(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let refused = ["ERR ", "(error)", "WRONGPASS"]
        .iter()
        .any(|word| text.starts_with(word));
    assert!(
        output.status.success() && !refused && errors.is_empty(),
        "{output:?}"
    );
    text
}

/// A redis-cli that stays.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
}

impl Subscriber {
    fn start(broker: &Broker, args: &[&str]) -> Subscriber {
        let mut child = command("redis-cli", broker)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines_tx.send(line);
            }
        });
        Subscriber { child, lines }
    }

    fn expect(&self, wanted: &[&str]) {
        for (index, line) in wanted.iter().enumerate() {
            let got = self.lines.recv_timeout(VALUE_SECONDS_MAX);
            assert_eq!(got.as_deref(), Ok(*line), "line {index} of {wanted:?}");
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
