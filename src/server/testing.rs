//! Running a test in a process of its own: for tests that count the process's descriptors or
//! memory, or that take something away from it which cannot be given back.

use std::process::{Command, Output};

/// Set in the child process to the path of the test that it runs.
const ALONE: &str = "SAPWOOD_TEST_ALONE";

/// Whether this process was started for the test `path` (as in `ring::tests::name`) and nothing
/// else.
pub(crate) fn is_alone(path: &str) -> bool {
    std::env::var(ALONE).is_ok_and(|value| value == path)
}

/// The command that runs the test `path` in a new process, with its output passed through.
pub(crate) fn command(path: &str) -> Command {
    // invariant: a test binary that runs can find itself.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([path, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, path);
    command
}

/// The output of a test's process, which must have run exactly that test and passed it.
pub(crate) fn passed(output: Output) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}",
        output.status
    );
    text
}

/// Runs `body` as the test `path` in a process of its own.
pub(crate) fn alone(path: &str, body: impl FnOnce()) {
    if is_alone(path) {
        return body();
    }
    // invariant: a program that runs can be run again.
    passed(command(path).output().unwrap());
}
