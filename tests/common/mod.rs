//! What the end-to-end tests share: brokers as child processes, raw connections of its protocols, and real
//! clients' scripts. It knows the protocols' framing only, nothing of what the broker should answer.
//!
//! `Broker::start` runs the `sapwood` binary. With `SAPWOOD_TEST_AGAINST=redis` it runs `redis-server`
//! instead: a test that fails against the reference is itself wrong.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod cli;
pub mod native;
pub mod resp;
pub mod script;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to listen. A loaded machine with two cores needs a few seconds at worst.
const START_SECONDS_MAX: Duration = Duration::from_secs(20);
/// How long one awaited value may take before the test is declared failed.
pub const VALUE_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Captured output is for messages to people: more than this is not read by anyone.
const CAPTURED_BYTES_MAX: usize = 64 * 1024;

/// Whether the tests check themselves against `redis-server`.
pub fn against_redis() -> bool {
    match std::env::var("SAPWOOD_TEST_AGAINST") {
        Err(_) => false,
        Ok(value) if value == "redis" => true,
        Ok(value) => panic!("SAPWOOD_TEST_AGAINST is {value:?}; only \"redis\" is known"),
    }
}

/// Whether long tests are played whole, as `tools/test --all` has it.
pub fn plays_all() -> bool {
    match std::env::var("SAPWOOD_TEST_ALL") {
        Err(_) => false,
        Ok(value) if value == "1" => true,
        Ok(value) => panic!("SAPWOOD_TEST_ALL is {value:?}; only \"1\" is known"),
    }
}

/// Whether a combination of three choices is played: each in a long run, half of the eight in a short one, in which each
/// value of a choice still meets each value of any other.
pub fn is_played(choices: [bool; 3]) -> bool {
    plays_all() || choices.iter().filter(|chosen| **chosen).count() % 2 == 0
}

/// A server process that is killed when the value is dropped.
pub struct Server {
    child: Child,
    port: u16,
    /// Where Sapwood speaks its native protocol; 0 for another server.
    native_port: u16,
    /// Where it speaks that of NATS; 0 for another server.
    nats_port: u16,
    /// Where it speaks HTTP; 0 for another server.
    http_port: u16,
    /// Where it takes in other nodes; 0 for another server.
    node_port: u16,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn native_port(&self) -> u16 {
        self.native_port
    }

    pub fn nats_port(&self) -> u16 {
        self.nats_port
    }

    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    pub fn node_port(&self) -> u16 {
        self.node_port
    }

    fn ports(&self) -> Ports {
        Ports {
            redis: self.port,
            native: self.native_port,
            nats: self.nats_port,
            http: self.http_port,
            node: self.node_port,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the server has written to stderr so far, for messages.
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .expect("the reader thread does not panic")
            .clone()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.pid())
    }

    /// CPU time used so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid())
    }

    fn kill(&mut self) {
        // Both fail only when the process has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a broker listens; 0 is any free port.
#[derive(Clone, Copy, Default)]
struct Ports {
    redis: u16,
    native: u16,
    nats: u16,
    http: u16,
    node: u16,
}

impl Ports {
    /// Whether the start-up table has named them all.
    fn are_known(&self) -> bool {
        [self.redis, self.native, self.nats, self.http, self.node]
            .into_iter()
            .all(|port| port > 0)
    }
}

/// The broker under test.
pub struct Broker {
    server: Server,
    shards: usize,
    args: Vec<String>,
    password: Option<String>,
}

impl Broker {
    /// Starts `sapwood serve` on a free port of the loopback address.
    pub fn start(shards: usize, extra_args: &[&str]) -> Broker {
        Broker::start_at(Ports::default(), shards, None, extra_args)
    }

    /// As `start`, with a password that every connection has to give.
    pub fn start_with_password(shards: usize, password: &str) -> Broker {
        Broker::start_at(Ports::default(), shards, Some(password), &[])
    }

    /// As `start_with_password`, with more arguments.
    pub fn start_guarded(shards: usize, password: &str, extra_args: &[&str]) -> Broker {
        Broker::start_at(Ports::default(), shards, Some(password), extra_args)
    }

    /// Starts it on a port outside the kernel's range for outgoing connections, so that nobody takes
    /// the port, and no reconnecting client connects to itself, while the broker is restarted.
    pub fn start_restartable(shards: usize, password: Option<&str>) -> Broker {
        Broker::start_restartable_with(shards, password, &[])
    }

    /// As `start_restartable`, with more arguments.
    pub fn start_restartable_with(
        shards: usize,
        password: Option<&str>,
        extra_args: &[&str],
    ) -> Broker {
        let ports = Ports {
            redis: free_port(),
            native: free_port(),
            nats: free_port(),
            http: free_port(),
            node: free_port(),
        };
        Broker::start_at(ports, shards, password, extra_args)
    }

    fn start_at(
        ports: Ports,
        shards: usize,
        password: Option<&str>,
        extra_args: &[&str],
    ) -> Broker {
        let server = if against_redis() {
            let mut args = Vec::new();
            if let Some(password) = password {
                args.extend(["--requirepass", password]);
            }
            spawn_redis(ports.redis, &args)
        } else {
            spawn_sapwood(ports, shards, password, extra_args)
        };
        Broker {
            server,
            shards,
            args: extra_args.iter().map(ToString::to_string).collect(),
            password: password.map(str::to_string),
        }
    }

    /// Kills the broker at once, as a crash would, and starts it again on the same port.
    pub fn restart(&mut self) {
        self.server.kill();
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let again = Broker::start_at(
            self.server.ports(),
            self.shards,
            self.password.as_deref(),
            &args,
        );
        *self = again;
    }

    pub fn shards(&self) -> usize {
        self.shards
    }
}

impl std::ops::Deref for Broker {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl std::ops::DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// The real `redis-server`, the reference of the Redis protocol's behaviour.
pub struct Reference {
    server: Server,
}

impl Reference {
    pub fn start() -> Reference {
        Reference {
            server: spawn_redis(0, &[]),
        }
    }
}

impl std::ops::Deref for Reference {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The real `nats-server`, the reference of the NATS protocol's behaviour.
pub struct NatsReference {
    server: Server,
}

impl NatsReference {
    pub fn start(extra_args: &[&str]) -> NatsReference {
        NatsReference {
            server: spawn_nats(extra_args),
        }
    }

    pub fn nats_port(&self) -> u16 {
        self.server.nats_port
    }
}

fn spawn_sapwood(
    ports: Ports,
    shards: usize,
    password: Option<&str>,
    extra_args: &[&str],
) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    command
        .args(["serve", "--redis", &format!("127.0.0.1:{}", ports.redis)])
        .args(["--native", &format!("127.0.0.1:{}", ports.native)])
        .args(["--nats", &format!("127.0.0.1:{}", ports.nats)])
        .args(["--http", &format!("127.0.0.1:{}", ports.http)])
        .args(["--shards", &shards.to_string(), "--log-format", "json"])
        .args(extra_args)
        .env_remove("SAPWOOD_PASSWORD");
    if !extra_args.contains(&"--node") {
        command.args(["--node", &format!("127.0.0.1:{}", ports.node)]);
    }
    if let Some(password) = password {
        command.env("SAPWOOD_PASSWORD", password);
    }
    let mut child = spawn(&mut command);
    let stderr = capture(child.stderr.take().expect("stderr is piped"));
    let (lines_tx, lines) = mpsc::channel();
    let stdout = child.stdout.take().expect("stdout is piped");
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The receiver goes away once the port is known; the pipe is drained all the same.
            let _ = lines_tx.send(line);
        }
    });
    let mut server = Server {
        child,
        port: 0,
        native_port: 0,
        nats_port: 0,
        http_port: 0,
        node_port: 0,
        stderr,
    };
    let deadline = Instant::now() + START_SECONDS_MAX;
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                for (listener, port) in [
                    ("redis", &mut server.port),
                    ("native", &mut server.native_port),
                    ("nats", &mut server.nats_port),
                    ("http", &mut server.http_port),
                    ("node", &mut server.node_port),
                ] {
                    *port = listener_port(&line, listener).unwrap_or(*port);
                }
                if server.ports().are_known() {
                    return server;
                }
                seen.push(line);
            }
            Err(_) => {
                // The end of stdout may come a moment before the process' own end and last words.
                let ended = server.child.try_wait();
                panic!(
                    "sapwood printed no address of some listener ({ended:?})\nstdout: {seen:#?}\nstderr: {}",
                    server.stderr()
                );
            }
        }
    }
}

/// The port in a line of the start-up table such as `redis   127.0.0.1:43211`.
fn listener_port(line: &str, listener: &str) -> Option<u16> {
    let mut words = line.split_whitespace();
    if words.next() != Some(listener) {
        return None;
    }
    words.find_map(|word| word.rsplit_once(':')?.1.parse().ok())
}

/// `redis-server` cannot choose a free port by itself, so a lost race for one is tried again.
fn spawn_redis(port: u16, extra_args: &[&str]) -> Server {
    let mut last = String::new();
    for _ in 0..5 {
        let chosen = if port == 0 { free_port() } else { port };
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &chosen.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(extra_args);
        let mut child = spawn(&mut command);
        let stderr = capture(child.stderr.take().expect("stderr is piped"));
        let stdout = capture(child.stdout.take().expect("stdout is piped"));
        let mut server = Server {
            child,
            port: chosen,
            native_port: 0,
            nats_port: 0,
            http_port: 0,
            node_port: 0,
            stderr,
        };
        let deadline = Instant::now() + START_SECONDS_MAX;
        while Instant::now() < deadline && server.is_running() {
            if stdout
                .lock()
                .expect("no panic")
                .contains("Ready to accept connections")
                && TcpStream::connect(("127.0.0.1", chosen)).is_ok()
            {
                return server;
            }
            thread::sleep(Duration::from_millis(2));
        }
        last = format!("{}{}", stdout.lock().expect("no panic"), server.stderr());
    }
    panic!("redis-server does not start:\n{last}");
}

/// Debian puts it where only root looks by itself.
fn nats_server() -> &'static str {
    let places = ["/usr/sbin/nats-server", "/usr/bin/nats-server"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.expect("nats-server is missing: run tools/setup, or apt-get install nats-server")
}

/// As `redis-server`, it cannot choose a free port and say so before others take it.
fn spawn_nats(extra_args: &[&str]) -> Server {
    let mut last = String::new();
    for _ in 0..5 {
        let port = free_port();
        let mut command = Command::new(nats_server());
        command
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .args(extra_args);
        let mut child = spawn(&mut command);
        // It logs there, and nothing goes to stdout.
        let stderr = capture(child.stderr.take().expect("stderr is piped"));
        let mut server = Server {
            child,
            port: 0,
            native_port: 0,
            nats_port: port,
            http_port: 0,
            node_port: 0,
            stderr,
        };
        let deadline = Instant::now() + START_SECONDS_MAX;
        while Instant::now() < deadline && server.is_running() {
            if server.stderr().contains("Server is ready") {
                return server;
            }
            thread::sleep(Duration::from_millis(2));
        }
        last = server.stderr();
    }
    panic!("nats-server does not start:\n{last}");
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()))
}

/// Reads a pipe to its end in a thread and keeps its first part.
pub fn capture(mut pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&text);
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            let mut kept = kept.lock().expect("readers do not panic");
            if kept.len() < CAPTURED_BYTES_MAX {
                kept.push_str(&String::from_utf8_lossy(&chunk[..length]));
            }
        }
    });
    text
}

/// A port nobody listens on, below the kernel's range for outgoing connections (32768 and up).
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time begin at different places.
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start) % COUNT;
        if TcpListener::bind(("127.0.0.1", FIRST + offset)).is_ok() {
            return FIRST + offset;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_else(|error| panic!("cannot read the status of process {pid}: {error}"));
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("a live process has VmRSS")
}

/// CPU time of a process, user and system. Its unit in the kernel's answer is 1/100 s on Linux.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .unwrap_or_else(|error| panic!("cannot read the times of process {pid}: {error}"));
    // The second field, the name, may hold spaces: count from the parenthesis that ends it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .expect("stat has a name")
        .1
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number of ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
