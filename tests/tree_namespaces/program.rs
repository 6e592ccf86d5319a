//! Programs that run in the namespaces: clients that people use, and what carries slow cables. Start at [`Program::start`].

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{VALUE_SECONDS_MAX, capture};

/// A process, and what it prints, line by line; ended with the value.
pub struct Program {
    child: Child,
    /// An open end keeps it waiting.
    _stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it in this thread's namespace.
    pub fn start(command: &mut Command) -> Program {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!("cannot start {command:?}: {error}: run tools/setup");
        });
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = lines_tx.send(line);
            }
        });
        Program {
            stderr: capture(child.stderr.take().expect("stderr is piped")),
            _stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    fn stderr(&self) -> String {
        self.stderr.lock().expect("readers do not panic").clone()
    }

    pub fn expect(&self, wanted: &[&str]) {
        for (index, line) in wanted.iter().enumerate() {
            let got = self.lines.recv_timeout(VALUE_SECONDS_MAX);
            assert_eq!(
                got.as_deref(),
                Ok(*line),
                "line {index} of {wanted:?}; {}",
                self.stderr()
            );
        }
    }

    /// Waits until it has ended well.
    pub fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.stderr());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
