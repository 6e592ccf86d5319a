//! The conformance suite of the native protocol, against the built broker and through every client library's agent.
//!
//! `tests/conformance/README.md` says what the suite is and what an agent must do. A new client library is one line in
//! [`agents`].

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::capture;

/// The suite takes about a minute for each agent; a stuck one is not waited for much longer.
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
    let stdout = capture(child.stdout.take().expect("stdout is piped"));
    let stderr = capture(child.stderr.take().expect("stderr is piped"));
    let deadline = Instant::now() + SUITE_SECONDS_MAX;
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                // It may have ended in this moment, which is as good.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    let said = format!(
        "{status:?}\n{}\n{}",
        stdout.lock().expect("the reader thread does not panic"),
        stderr.lock().expect("the reader thread does not panic"),
    );
    (status.is_some_and(|status| status.success()), said)
}
