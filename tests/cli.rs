//! The command line as a user meets it: the real binary, its messages, its exit codes, and its end on a signal.

#[path = "cli/full.rs"]
mod full;
#[path = "cli/nodes.rs"]
mod nodes;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long a started or ending broker may take before a test fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(20);

/// The binary with none of the caller's settings in its environment.
fn sapwood(args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"SAPWOOD_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("RUST_LOG")
        // The default port would let two tests at a time disturb each other.
        .env("SAPWOOD_NATIVE", "127.0.0.1:0")
        .env("SAPWOOD_NATS", "127.0.0.1:0")
        .env("SAPWOOD_HTTP", "127.0.0.1:0")
        .env("SAPWOOD_NODE", "127.0.0.1:0")
        .args(args)
        .envs(environment.iter().copied());
    command
}

fn run(args: &[&str], environment: &[(&str, &str)]) -> Output {
    sapwood(args, environment)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A directory of its own for a test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cli-{}-{count}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running broker, killed when dropped.
struct Broker {
    child: Child,
    table: Vec<String>,
    stdout_rest: Receiver<String>,
    stderr: Receiver<String>,
}

impl Broker {
    /// Starts a broker and reads its table, which ends with the line of the listener for nodes.
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Broker {
        Broker::start_by(sapwood(&[&["serve"], args].concat(), environment))
    }

    /// Starts it by a command that is made ready.
    fn start_by(mut command: Command) -> Broker {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = read_to_end(BufReader::new(child.stderr.take().unwrap()));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        let (rest_sender, stdout_rest) = channel();
        thread::spawn(move || {
            loop {
                let mut line = String::new();
                let count = stdout.read_line(&mut line).unwrap();
                let is_last = count == 0 || line.starts_with("node");
                let _ = sender.send(line.trim_end().to_string());
                if is_last {
                    break;
                }
            }
            let mut rest = String::new();
            let _ = stdout.read_to_string(&mut rest);
            let _ = rest_sender.send(rest);
        });
        let mut broker = Broker {
            child,
            table: Vec::new(),
            stdout_rest,
            stderr,
        };
        loop {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) if line.starts_with("node") => {
                    broker.table.push(line);
                    return broker;
                }
                Ok(line) if !line.is_empty() => broker.table.push(line),
                _ => {
                    let _ = broker.child.kill();
                    panic!(
                        "no table: {}",
                        broker.stderr.recv_timeout(DEADLINE).unwrap_or_default()
                    );
                }
            }
        }
    }

    /// The address in the line of the Redis listener.
    fn address(&self) -> String {
        self.listener("redis")
    }

    /// The address in the line of this listener.
    fn listener(&self, name: &str) -> String {
        let mut lines = self.table.iter();
        let line = lines.find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_string()
    }

    /// Sends a signal, and returns the exit code, what else stood on stdout, and all of stderr.
    fn end_by(mut self, signal: &str) -> (Option<i32>, String, String) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let stderr = self
            .stderr
            .recv_timeout(DEADLINE)
            .expect("the broker ends on a signal");
        let rest = self.stdout_rest.recv_timeout(DEADLINE).unwrap();
        (self.child.wait().unwrap().code(), rest, stderr)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_to_end(mut reader: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = reader.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    receiver
}

/// Checks that `serve` refuses: exit code 2, nothing on stdout, and each of `parts` in the message.
fn check_refused(args: &[&str], environment: &[(&str, &str)], parts: &[&str]) {
    let output = run(&[&["serve"], args].concat(), environment);
    let message = stderr(&output);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{args:?} {environment:?}: {message}"
    );
    assert!(output.stdout.is_empty(), "{args:?}");
    for part in parts {
        assert!(
            message.contains(part),
            "{args:?} {environment:?}: no {part:?} in: {message}"
        );
    }
}

/// Wrong values of settings, and what is said about each.
const WRONG_VALUES: &[(&str, &str, &str)] = &[
    ("redis", "127.0.0.1", "has no port; write 127.0.0.1:7463"),
    ("redis", ":7463", "127.0.0.1:7463 for this machine alone"),
    ("redis", "127.0.0.1:99999", "a port from 0 to 65535"),
    ("redis", "0.0.0.0:7463", "(--redis 127.0.0.1:7463)"),
    ("native", "127.0.0.1", "has no port; write 127.0.0.1:7400"),
    ("native", "0.0.0.0:7400", "(--native 127.0.0.1:7400)"),
    (
        "redis-policy",
        "drop",
        "is not one of: close, drop-oldest, latest",
    ),
    (
        "native-policy",
        "newest",
        "is not one of: close, drop-oldest, latest",
    ),
    ("http", "127.0.0.1", "has no port; write 127.0.0.1:7480"),
    ("http", "0.0.0.0:7480", "(--http 127.0.0.1:7480)"),
    (
        "http-policy",
        "drop",
        "is not one of: close, drop-oldest, latest",
    ),
    (
        "http-origin",
        "https://a.example,example.org/path",
        "is no origin; write https://example.org",
    ),
    ("broadcast", "me", "is not one of: anyone, nobody"),
    ("nats", "127.0.0.1", "has no port; write 127.0.0.1:7422"),
    ("nats", "0.0.0.0:7422", "(--nats 127.0.0.1:7422)"),
    (
        "nats-policy",
        "drop",
        "is not one of: close, drop-oldest, latest",
    ),
    ("lame-duck", "0", "is not a whole number from 1"),
    ("max-payload", "65 MiB", "from 1 to"),
    ("user", "service", "no use without a password"),
    ("node", "127.0.0.1", "has no port; write 127.0.0.1:7401"),
    ("node", "0.0.0.0:7401", "(--node 127.0.0.1:7401)"),
    ("join", "127.0.0.1", "has no port; write 127.0.0.1:7401."),
    ("join", "7401,127.0.0.1:0", "\"127.0.0.1:0\" has port 0"),
    (
        "join",
        "192.0.2.1:7401",
        "192.0.2.1:7401 is on another machine",
    ),
    ("parent", "127.0.0.1", "has no port; write 127.0.0.1:7401."),
    (
        "parent",
        "192.0.2.1:7401",
        "192.0.2.1:7401 is on another machine",
    ),
    ("advertise", "127.0.0.1:0", "has port 0"),
    (
        "node-name",
        "eu/oslo",
        "is not a name; write letters, digits",
    ),
    ("children-max", "0", "is not a whole number from 1 to 255"),
    ("children-max", "256", "is not a whole number from 1 to 255"),
    ("heartbeat", "99", "is not a time from 100ms to 60s"),
    ("heartbeat", "61s", "is not a time from 100ms to 60s"),
    ("topology", "/nowhere.toml", "cannot read /nowhere.toml"),
    ("cluster-secret-file", "/nowhere", "cannot read /nowhere"),
    ("partitions", "257", "is not a whole number from 1 to 256"),
    ("state-workers", "0", "is not a whole number from 1 to 64"),
    ("shards", "0", "is not a whole number from 1 to 64"),
    ("shards", "two", "is not a whole number from 1"),
    ("cpus", "0-", "write for example 0-3,6"),
    ("cpus", "1-0", "1-0 runs backwards"),
    ("pin", "maybe", "\"maybe\" is not one of: on, off"),
    ("log-format", "xml", "is not one of: text, json"),
    (
        "password-file",
        "/nowhere/password",
        "cannot read /nowhere/password",
    ),
];

#[test]
fn wrong_flag_and_wrong_variable_are_refused_by_name() {
    for (name, value, part) in WRONG_VALUES {
        let flag = format!("--{name}");
        check_refused(&[&flag, value], &[], &[&format!("sapwood: {flag}: "), part]);
        let variable = format!("SAPWOOD_{}", name.to_uppercase().replace('-', "_"));
        let place = format!("sapwood: {variable} in the environment: ");
        check_refused(&[], &[(&variable, value)], &[&place, part]);
    }
}

/// Wrong lines of a configuration file, and what is said about each.
const WRONG_LINES: &[(&str, &str)] = &[
    (
        "redis = \"127.0.0.1\"",
        "redis: \"127.0.0.1\" has no port; write 127.0.0.1:7463",
    ),
    (
        "redis = true",
        "redis: true or false does not fit here; write \"127.0.0.1:7463\"",
    ),
    (
        "reddis = 7463",
        "reddis: there is no such key; did you mean \"redis\"?",
    ),
    (
        "password-file = \"x\"",
        "password-file: there is no such key; did you mean \"password_file\"?",
    ),
    (
        "colour = 1",
        "colour: there is no such key; the keys here are: redis, redis_policy, native",
    ),
    (
        "native = \"127.0.0.1\"",
        "native: \"127.0.0.1\" has no port",
    ),
    (
        "native_policy = \"keep\"",
        "native_policy: \"keep\" is not one of: close",
    ),
    ("http = \"127.0.0.1\"", "http: \"127.0.0.1\" has no port"),
    ("http_policy = \"x\"", "http_policy: \"x\" is not one of"),
    ("http_origin = \"x\"", "http_origin: \"x\" is no origin"),
    ("echo = \"yes\"", "echo: \"yes\" is not one of: on, off"),
    ("broadcast = \"x\"", "broadcast: \"x\" is not one of"),
    ("nats = \"127.0.0.1\"", "nats: \"127.0.0.1\" has no port"),
    ("max_payload = 0", "max_payload: \"0\" is not"),
    ("user = \"x\"", "user: a user is of no use"),
    (
        "data = 1",
        "data: an integer does not fit here; write a string",
    ),
    ("node = \"127.0.0.1\"", "node: \"127.0.0.1\" has no port"),
    (
        "join = true",
        "join: true or false does not fit here; write \"10.",
    ),
    ("parent = 0", "parent: \"0\" has port 0"),
    ("advertise = 0", "advertise: \"0\" has port 0"),
    ("node_name = 1", "node_name: an integer does not fit here"),
    (
        "children_max = 300",
        "children_max: \"300\" is not a whole number",
    ),
    ("heartbeat = 50", "heartbeat: \"50\" is not a time from"),
    ("topology = \"nowhere\"", "topology: cannot read "),
    (
        "cluster_secret_file = \"nowhere\"",
        "cluster_secret_file: cannot read ",
    ),
    ("shards = 0", "shards: \"0\" is not a whole number from 1"),
    (
        "shards = 1.5",
        "shards: a number with a fraction does not fit here",
    ),
    (
        "cpus = [0, \"1\"]",
        "cpus: a list does not fit here; write \"0-3,6\" or [0, 1",
    ),
    (
        "cpus = [0, 0]",
        "cpus: \"0,0\" is not a list of CPUs: 0 is there twice",
    ),
    (
        "latency = \"low\"",
        "latency: \"low\" is not one of: park, spin",
    ),
    (
        "log_format = \"xml\"",
        "log_format: \"xml\" is not one of: text, json",
    ),
    ("password_file = \"nowhere\"", "password_file: cannot read "),
    (
        "limits = 1",
        "limits: an integer does not fit here; write a table: [limits]",
    ),
    (
        "limit.x = 1",
        "limit: there is no such key; did you mean [limits]?",
    ),
    (
        "limits.colour = 1",
        "limits.colour: there is no such key; the keys here are: ",
    ),
    ("redis = ", "this is not TOML: "),
    ("redis = 1\nredis = 2", "this is not TOML: "),
];

#[test]
fn wrong_line_of_the_file_is_refused_with_file_line_and_key() {
    let directory = Directory::new();
    for (line, part) in WRONG_LINES {
        let path = directory.file("wrong.toml", &format!("# first\n\n{line}\n"));
        // A doubled key is wrong where it stands for the second time.
        let number = 2 + line.lines().count();
        let place = format!("sapwood: {path}:{number}: ");
        check_refused(&["--config", &path], &[], &[&place, part]);
        check_refused(&[], &[("SAPWOOD_CONFIG", &path)], &[&place, part]);
    }
}

#[test]
fn everything_wrong_is_reported_at_once_in_the_order_of_lines() {
    let directory = Directory::new();
    let path = directory.file(
        "wrong.toml",
        "redis = \"x\"\nshard = 2\n[limits]\ncolour = 1\n",
    );
    let output = run(&["serve", "--config", &path, "--cpus", "x"], &[]);
    let message = stderr(&output);
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(
        lines[0],
        "sapwood: 4 things in the configuration are wrong:"
    );
    assert!(lines[1].starts_with("  --cpus: "), "{message}");
    for (line, number) in lines[2..].iter().zip([1, 2, 4]) {
        assert!(
            line.starts_with(&format!("  {path}:{number}: ")),
            "{message}"
        );
    }
    assert_eq!(lines.len(), 5, "{message}");
}

#[test]
fn unreadable_file_and_unknown_flag_are_refused() {
    check_refused(
        &["--config", "/nowhere.toml"],
        &[],
        &["--config: cannot read /nowhere.toml: "],
    );
    check_refused(
        &[],
        &[("SAPWOOD_CONFIG", "/nowhere.toml")],
        &["SAPWOOD_CONFIG in the environment: "],
    );
    check_refused(&["--reddis", "7463"], &[], &["--reddis", "--redis"]);
    check_refused(&["--password", "secret"], &[], &["--password"]);
    check_refused(
        &[],
        &[("RUST_LOG", "sapwood=loud")],
        &["RUST_LOG in the environment: "],
    );
    assert_eq!(run(&[], &[]).status.code(), Some(2));
}

#[test]
fn shards_and_cpus_that_the_machine_does_not_have_are_refused() {
    check_refused(
        &["--shards", "300"],
        &[],
        &["\"300\" is not a whole number from 1 to 64"],
    );
    check_refused(&["--cpus", "8191"], &[], &["8191"]);
}

#[test]
fn what_must_not_be_run_is_said_together_with_what_cannot_be_read() {
    check_refused(
        &[
            "--redis",
            "0.0.0.0:7463",
            "--nats",
            "nowhere",
            "--heartbeat",
            "5ms",
        ],
        &[("SAPWOOD_SHARDS", "65")],
        &[
            "--redis: 0.0.0.0:7463 can be reached from other machines",
            "--nats: \"nowhere\" has no port; write nowhere:7422",
            "--heartbeat: \"5ms\" is not a time from 100ms to 60s",
            "SAPWOOD_SHARDS in the environment: \"65\" is not a whole number from 1 to 64",
        ],
    );
}

#[test]
fn a_broker_that_listens_nowhere_is_refused() {
    let nowhere = [
        ("SAPWOOD_REDIS", "off"),
        ("SAPWOOD_NATIVE", "off"),
        ("SAPWOOD_NATS", "off"),
        ("SAPWOOD_HTTP", "off"),
        ("SAPWOOD_NODE", "off"),
    ];
    check_refused(&[], &nowhere, &["every listener is off"]);
}

#[test]
fn address_others_reach_is_refused_without_a_password() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7463"] {
        let ways = [
            "no password is set",
            "--redis 127.0.0.1:",
            "--password-file FILE",
            "SAPWOOD_PASSWORD",
        ];
        check_refused(&["--redis", address], &[], &ways);
    }
}

#[test]
fn empty_or_doubled_password_is_refused() {
    let directory = Directory::new();
    for text in ["", "\n", "\r\n"] {
        let path = directory.file("password", text);
        check_refused(
            &["--password-file", &path],
            &[],
            &["--password-file: the password is empty"],
        );
    }
    check_refused(&[], &[("SAPWOOD_PASSWORD", "")], &["the password is empty"]);
    let path = directory.file("password", "secret\n");
    let both = [
        ("SAPWOOD_PASSWORD", "secret"),
        ("SAPWOOD_PASSWORD_FILE", &*path),
    ];
    check_refused(&[], &both, &["SAPWOOD_PASSWORD_FILE is set too"]);
    let long = directory.file("password", &"x".repeat(2_000));
    check_refused(&["--password-file", &long], &[], &["is it the right file?"]);
}

#[test]
fn flag_wins_over_environment_and_environment_over_file() {
    let directory = Directory::new();
    let path = directory.file("right.toml", "redis = \"127.0.0.4:0\"\n");
    let file = ["--config", &*path];
    let environment = [("SAPWOOD_REDIS", "127.0.0.3:0")];
    let flag = [&file[..], &["--redis", "127.0.0.2:0"]].concat();
    for (args, environment, host) in [
        (&file[..], &[][..], "127.0.0.4:"),
        (&file, &environment, "127.0.0.3:"),
        (&flag, &environment, "127.0.0.2:"),
    ] {
        let broker = Broker::start(args, environment);
        assert!(broker.address().starts_with(host), "{:?}", broker.table);
    }
}

#[test]
fn table_names_version_shards_and_each_listener_and_stdout_has_nothing_else() {
    let broker = Broker::start(
        &["--redis", "127.0.0.1:0", "--shards", "1", "--cpus", "0"],
        &[],
    );
    let words: Vec<Vec<&str>> = broker
        .table
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let address = broker.address();
    let port = address.strip_prefix("127.0.0.1:").unwrap();
    assert_ne!(port, "0");
    let native = broker.listener("native");
    let nats = broker.listener("nats");
    let url = format!("nats://{nats}");
    let http = broker.listener("http");
    let page = format!("http://{http}/");
    let node = broker.listener("node");
    let expected = [
        vec!["sapwood", env!("CARGO_PKG_VERSION")],
        vec!["shards", "1", "on", "CPUs", "0"],
        vec!["redis", &address, "redis-cli", "-p", port],
        vec![
            "native", &native, "sapwood", "sub", "--native", &native, "'>'",
        ],
        vec!["nats", &nats, "nats", "-s", &url, "sub", "'>'"],
        vec!["http", &http, &page],
        vec!["node", &node, "sapwood", "serve", "--join", &node],
    ];
    assert_eq!(words, expected);
    TcpStream::connect(&address).unwrap();
    let (code, rest, stderr) = broker.end_by("TERM");
    assert_eq!((code, rest.as_str()), (Some(0), ""), "{stderr}");
}

#[test]
fn either_signal_drains_and_exits_with_0_while_clients_are_connected() {
    for signal in ["TERM", "INT"] {
        let broker = Broker::start(&["--redis", "127.0.0.1:0"], &[]);
        let mut client = TcpStream::connect(broker.address()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
        let (code, _, stderr) = broker.end_by(signal);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains(&format!("SIG{signal}")), "{stderr}");
    }
}

#[test]
fn json_logs_are_one_object_a_line() {
    let broker = Broker::start(&["--redis", "127.0.0.1:0", "--log-format", "json"], &[]);
    let (_, _, stderr) = broker.end_by("TERM");
    assert!(stderr.lines().count() >= 2, "{stderr}");
    for line in stderr.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            value["level"].is_string() && value["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn log_filter_is_obeyed() {
    let broker = Broker::start(&["--redis", "127.0.0.1:0"], &[("RUST_LOG", "off")]);
    let (code, _, stderr) = broker.end_by("TERM");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn password_file_guards_the_broker_and_opens_it() {
    let directory = Directory::new();
    let path = directory.file("password", "open sesame\n");
    // The file's own place is what a relative path in a configuration file is relative to.
    let config = directory.file(
        "broker.toml",
        "redis = \"0.0.0.0:0\"\npassword_file = \"password\"\n",
    );
    let broker = Broker::start(&["--config", &config], &[]);
    assert!(
        broker.table.iter().any(|line| line.ends_with("--askpass")),
        "{:?}",
        broker.table
    );
    let address = broker.address();

    let output = run(&["info", "--redis", &address], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("wants a password"),
        "{}",
        stderr(&output)
    );
    let output = run(
        &["info", "--redis", &address],
        &[("SAPWOOD_PASSWORD", "open barley")],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("does not take this password"),
        "{}",
        stderr(&output)
    );
    let output = run(
        &["info", "--redis", &address],
        &[("SAPWOOD_PASSWORD", "open sesame")],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run(
        &["info", "--redis", &address, "--password-file", &path],
        &[],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let (_, _, log) = broker.end_by("TERM");
    assert!(!log.contains("can read the password file"), "{log}");
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn password_file_that_everybody_can_read_is_warned_of() {
    let directory = Directory::new();
    let path = directory.file("password", "secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let broker = Broker::start(&["--redis", "127.0.0.1:0", "--password-file", &path], &[]);
    let (code, _, log) = broker.end_by("TERM");
    assert_eq!(code, Some(0));
    assert!(log.contains("can read the password file"), "{log}");
}

#[test]
fn info_prints_sections_for_people_and_for_programs() {
    let broker = Broker::start(&["--redis", "127.0.0.1:0"], &[]);
    let address = broker.address();
    let output = run(&["info", "--redis", &address], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line == "Server"), "{text}");
    assert!(
        text.lines()
            .any(|line| line.starts_with("  redis_version ")),
        "{text}"
    );
    // The address may also come from where the broker got it.
    let output = run(
        &["info", "--json", "server"],
        &[("SAPWOOD_REDIS", &address)],
    );
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["server"]["redis_version"].is_string(), "{value}");
    assert_eq!(value.as_object().unwrap().len(), 1);
    let output = run(&["info", "no-such-section", "--redis", &address], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("there are: server, "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn info_says_how_to_start_a_broker_where_none_listens() {
    // Nothing can listen on port 1 without somebody having meant it.
    let output = run(&["info", "--redis", "127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("sapwood serve"),
        "{}",
        stderr(&output)
    );
    let output = run(&["info", "--redis", "off"], &[]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn info_asks_over_the_native_protocol_too() {
    for shards in ["1", "2"] {
        let args = ["--redis", "off", "--shards", shards, "--node-name", "oslo"];
        let broker = Broker::start(&args, &[("SAPWOOD_PASSWORD", "sesame")]);
        let native = broker.listener("native");
        let ask = |args: &[&str]| {
            let args = [&["info", "--native", &native], args].concat();
            let output = run(&args, &[("SAPWOOD_PASSWORD", "sesame")]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        let text = ask(&[]);
        assert!(text.starts_with("Server\n  broker "), "{text}");
        assert!(text.contains("\n\nSapwood\n  shards "), "{text}");
        let value: serde_json::Value = serde_json::from_str(&ask(&["--json"])).unwrap();
        assert_eq!(value["server"]["name"], "oslo");
        assert_eq!(value["sapwood"]["shards"].to_string(), shards);
        assert_eq!(value["sapwood"]["connections"], 1);
        let last = shards.parse::<u32>().unwrap() - 1;
        assert!(value["sapwood"][format!("shard{last}")].is_string());
        assert!(!ask(&["sapwood"]).contains("Server"));
        let output = run(&["info", "--native", &native], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("wants a password"),
            "{}",
            stderr(&output)
        );
    }
    let output = run(&["info", "--native", "127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("sapwood serve"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn info_over_the_native_protocol_is_of_the_node_it_asks_alone() {
    let root = Broker::start(&["--redis", "127.0.0.1:0", "--node-name", "oslo"], &[]);
    let join = root.listener("node");
    let args = [
        "--redis",
        "127.0.0.1:0",
        "--node-name",
        "rana",
        "--join",
        &join,
    ];
    let child = Broker::start(&args, &[]);
    for (broker, name) in [(&root, "oslo"), (&child, "rana")] {
        let native = broker.listener("native");
        let output = run(&["info", "server", "--json", "--native", &native], &[]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["server"]["name"], name, "{}", stderr(&output));
    }
}

#[test]
fn a_misspelt_variable_is_warned_of_with_the_right_one() {
    let misspelt = [("SAPWOOD_SHARD", "1"), ("SAPWOOD_TEST_ALL", "1")];
    let warning = "SAPWOOD_SHARD in the environment is no setting and does nothing; did you mean SAPWOOD_SHARDS?";
    let broker = Broker::start(&["--redis", "127.0.0.1:0"], &misspelt);
    let output = run(&["info", "--redis", &broker.address()], &misspelt);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), format!("sapwood: {warning}\n"));
    let native = broker.listener("native");
    let output = run(&["pub", "a", "b", "--native", &native], &misspelt);
    assert_eq!(stderr(&output), format!("sapwood: {warning}\n"));
    let (code, _, log) = broker.end_by("TERM");
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    assert!(!log.contains("SAPWOOD_TEST_ALL"), "{log}");
}

#[test]
fn help_names_every_protocol_and_its_port() {
    for args in [&["--help"][..], &["serve", "--help"]] {
        let help = String::from_utf8(run(args, &[]).stdout).unwrap();
        for word in [
            "7463",
            "Redis",
            "7422",
            "NATS",
            "7400",
            "native",
            "7480",
            "HTTP",
            "WebSocket",
            "JSON",
            "server-sent events",
            "7401",
            "nodes",
        ] {
            assert!(help.contains(word), "{args:?}: {word}: {help}");
        }
    }
}

#[test]
fn help_shows_examples_and_every_setting() {
    let output = run(&["serve", "--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for word in [
        "Examples:",
        "--redis",
        "--password-file",
        "SAPWOOD_PASSWORD",
        "RUST_LOG",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word}");
    }
}
