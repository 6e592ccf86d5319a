//! Runs a real client's script against a broker.
//!
//! A script gets the port of its protocol as its first argument, asserts, and exits with 0 or a message on stderr.
//! It talks to this side over its own stdin and stdout: the line `@restart` asks for a restart of
//! the broker on the same port, `@done` on its stdin says that the broker listens again.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Broker, capture};

/// The longest script, that of the page's tree, waits for several rounds of 2 s and takes about 30 s, the others about 5 s; a stuck
/// one is not waited for much longer.
const SCRIPT_SECONDS_MAX: Duration = Duration::from_secs(90);

/// Where `tools/setup` puts what the tests need from package registries.
pub fn cache() -> PathBuf {
    match std::env::var_os("SAPWOOD_CACHE") {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/sapwood")
        }
    }
}

fn clients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A Python with the packages of `tests/clients/requirements.txt`.
pub fn python(script: &str) -> Command {
    let python = cache().join("python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run tools/setup",
        python.display()
    );
    let mut command = Command::new(python);
    // -X dev shows never-awaited coroutines and unclosed sockets; a bytecode cache would litter the tree.
    command
        .args(["-B", "-X", "dev"])
        .arg(clients().join(script));
    command
}

/// Node, with the modules of `tests/clients/package-lock.json` at `SAPWOOD_NODE_MODULES`.
pub fn node(script: &str) -> Command {
    let modules = cache().join("node/node_modules");
    assert!(
        modules.exists(),
        "{} is missing: run tools/setup",
        modules.display()
    );
    let mut command = Command::new("node");
    command
        .arg(clients().join(script))
        .env("SAPWOOD_NODE_MODULES", modules);
    command
}

/// A C program of `tests/clients`, compiled with these arguments for the linker.
pub fn c(source: &str, link: &[&str]) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(source.trim_end_matches(".c"));
    let output = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(clients().join(source))
        .args(link)
        .output()
        .unwrap_or_else(|error| panic!("cc: {error}: run tools/setup"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cc {source}: {said}");
    program
}

/// A browser, where Debian puts it.
pub fn chromium() -> &'static str {
    let path = "/usr/bin/chromium";
    assert!(
        std::path::Path::new(path).exists(),
        "{path} is missing: run tools/setup, or apt-get install chromium"
    );
    path
}

/// Runs the script of a Redis client to its end and panics with all it said when it fails.
pub fn run(command: Command, broker: &mut Broker, args: &[&str]) {
    let port = broker.port();
    run_at(port, command, broker, args);
}

/// As `run`, for a client of the protocol that the broker speaks at this port.
pub fn run_at(port: u16, mut command: Command, broker: &mut Broker, args: &[&str]) {
    let mut child = command
        .arg(port.to_string())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}: run tools/setup"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stderr = capture(child.stderr.take().expect("stderr is piped"));
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (lines_tx, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = lines_tx.send(line);
        }
    });
    let deadline = Instant::now() + SCRIPT_SECONDS_MAX;
    let mut said = String::new();
    let outcome = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line == "@restart" => {
                broker.restart();
                // A script that has ended meanwhile is judged by its exit status below.
                let _ = stdin.write_all(b"@done\n");
            }
            Ok(line) => said = said + &line + "\n",
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                break child.wait().map_err(|e| e.to_string());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("it did not end within {SCRIPT_SECONDS_MAX:?}"));
            }
        }
    };
    let success = matches!(&outcome, Ok(status) if status.success());
    assert!(
        success,
        "{command:?} with {} shards: {outcome:?}\nstdout: {said}\nstderr: {}\nbroker: {}",
        broker.shards(),
        stderr.lock().expect("the reader thread does not panic"),
        broker.stderr(),
    );
}
