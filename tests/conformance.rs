//! The conformance suite of the native protocol, against the built broker and through every client library's agent.
//!
//! `tests/conformance/README.md` says what the suite is and what an agent must do. A new client library is one line in
//! [`agents`].

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::capture;

/// The suite takes about 15 s with one agent and 5 s more with each other one; a stuck one is not waited for for ever.
const SUITE_SECONDS_MAX: Duration = Duration::from_secs(600);

/// Each client library: its name in the table, and what starts its agent.
fn agents() -> Vec<(&'static str, String)> {
    vec![(
        "python",
        format!("python3 -B -X dev '{}'", suite("python/agent.py").display()),
    )]
}

#[test]
fn broker_and_client_libraries_conform() {
    let mut command = Command::new("python3");
    command
        .args(["-B", "-X", "dev"])
        .arg(suite("run.py"))
        .args(["--broker", env!("CARGO_BIN_EXE_sapwood")]);
    for (name, start) in agents() {
        command.args(["--agent", &format!("{name}={start}")]);
    }
    let (success, said) = run(&mut command);
    assert!(success, "{command:?}:\n{said}");
}

#[test]
fn suite_fails_against_what_is_no_broker() {
    let mut command = Command::new("python3");
    command
        .args(["-B", "-X", "dev"])
        .arg(suite("run.py"))
        .args(["--broker", "false", "--only", "PING with request 0"]);
    let (success, said) = run(&mut command);
    assert!(!success && said.contains("FAIL"), "{said}");
}

fn suite(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/conformance")
        .join(file)
}

/// Runs the command to its end, and returns whether it succeeded, and what it said.
fn run(command: &mut Command) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}: run tools/setup"));
    let stderr = capture(child.stderr.take().expect("stderr is piped"));
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (lines_tx, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // The receiver goes away when the suite took too long.
            let _ = lines_tx.send(line);
        }
    });
    let deadline = Instant::now() + SUITE_SECONDS_MAX;
    let mut said = String::new();
    let outcome = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => said = said + &line + "\n",
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                break child.wait().map_err(|error| error.to_string());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // Both fail only when it has ended in this moment, which is as good.
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("it did not end within {SUITE_SECONDS_MAX:?}"));
            }
        }
    };
    let success = matches!(&outcome, Ok(status) if status.success());
    let stderr = stderr.lock().expect("the reader thread does not panic");
    (success, format!("{outcome:?}\n{said}\n{stderr}"))
}
