//! The commands of the binary that are clients, as child processes: what they print is read as it comes, and no test waits
//! for ever.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Broker;

/// How long a command may take before a test fails instead of hanging: a loaded machine needs seconds at worst.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs commands against one broker.
pub struct Cli {
    native: String,
}

impl Cli {
    /// Against this broker.
    pub fn of(broker: &Broker) -> Cli {
        Cli::at(&format!("127.0.0.1:{}", broker.native_port()))
    }

    /// Against whatever is at this address.
    pub fn at(native: &str) -> Cli {
        Cli {
            native: native.to_string(),
        }
    }

    /// The address.
    pub fn native(&self) -> &str {
        &self.native
    }

    /// The binary with these arguments, and none of the caller's settings.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
        command.args(args);
        self.prepare(command)
    }

    /// A line for the shell in which `sapwood` is the binary.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", line]);
        self.prepare(command)
    }

    fn prepare(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"SAPWOOD_") {
                command.env_remove(name);
            }
        }
        let directory = Path::new(env!("CARGO_BIN_EXE_sapwood")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("SAPWOOD_NATIVE", &self.native)
            // The default port would let two tests at a time disturb each other.
            .env("SAPWOOD_NATS", "127.0.0.1:0")
            .env("SAPWOOD_HTTP", "127.0.0.1:0")
            .env("SAPWOOD_NODE", "127.0.0.1:0")
            .env("PATH", format!("{}:{path}", directory.display()));
        command
    }

    /// Runs a command to its end, with this on stdin.
    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Output {
        Running::start(self.command(args), stdin).end()
    }

    /// Runs a command to its end, with nothing on stdin.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, b"")
    }

    /// Runs a command that has to succeed, and returns what it printed.
    #[track_caller]
    pub fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a command, and waits until it says on stderr that it listens.
    #[track_caller]
    pub fn listen(&self, args: &[&str]) -> Running {
        let mut running = Running::start(self.command(args), b"");
        running.wait_for_stderr(&["listening to", "answering requests to", "\"subscribed\""]);
        running
    }
}

/// What a command wrote to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running command, killed when dropped.
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stdout_lines: Receiver<String>,
    stderr: Receiver<String>,
    stderr_seen: String,
}

impl Running {
    /// Starts it with this on stdin.
    pub fn start(command: Command, stdin: &[u8]) -> Running {
        let (running, pipe) = Running::start_open(command);
        let stdin = stdin.to_vec();
        thread::spawn(move || {
            let mut pipe = pipe;
            // A command need not read what it is given.
            let _ = pipe.write_all(&stdin);
        });
        running
    }

    /// Starts it, and gives its stdin.
    pub fn start_open(mut command: Command) -> (Running, ChildStdin) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = child.stdin.take().unwrap();
        let (lines_sender, stdout_lines) = channel();
        let (whole_sender, stdout) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let mut whole = Vec::new();
            let mut line = Vec::new();
            while let Ok(1..) = out.read_until(b'\n', &mut line) {
                whole.extend_from_slice(&line);
                let _ = lines_sender.send(String::from_utf8_lossy(&line).trim_end().to_string());
                line.clear();
            }
            let _ = whole_sender.send(whole);
        });
        let (stderr_sender, stderr) = channel();
        let err = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                let _ = stderr_sender.send(line);
            }
        });
        let running = Running {
            child,
            stdout,
            stdout_lines,
            stderr,
            stderr_seen: String::new(),
        };
        (running, pipe)
    }

    /// The next line of stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.stdout_lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(error) => {
                self.stderr_seen.extend(self.stderr.try_iter());
                panic!("no line on stdout ({error}); stderr: {}", self.stderr_seen);
            }
        }
    }

    /// Waits for a line of stderr that has one of these parts, and returns it.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, parts: &[&str]) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.stderr.recv_timeout(left) else {
                panic!("none of {parts:?} on stderr: {}", self.stderr_seen);
            };
            self.stderr_seen.push_str(&line);
            self.stderr_seen.push('\n');
            if parts.iter().any(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end. Lines that were taken before are in its stdout too.
    #[track_caller]
    pub fn end(mut self) -> Output {
        let whole = self.stdout.recv_timeout(DEADLINE);
        let Ok(stdout) = whole else {
            panic!("it does not end; stderr: {}", self.stderr_seen);
        };
        // Stderr ends with the process, which may be a moment later.
        loop {
            match self.stderr.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.stderr_seen.push_str(&line);
                    self.stderr_seen.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {}", self.stderr_seen),
            }
        }
        Output {
            status: self.child.wait().unwrap(),
            stdout,
            stderr: std::mem::take(&mut self.stderr_seen).into_bytes(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of its own for a test, gone with it.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("client-{}-{count}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only its owner can read, and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads to the end of what a terminal shows.
pub fn read_terminal(mut terminal: std::fs::File) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut shown = Vec::new();
        let mut chunk = [0; 4096];
        // The end of a terminal is an error, EIO.
        while let Ok(length @ 1..) = terminal.read(&mut chunk) {
            shown.extend_from_slice(&chunk[..length]);
        }
        let _ = sender.send(String::from_utf8_lossy(&shown).into_owned());
    });
    receiver
}
