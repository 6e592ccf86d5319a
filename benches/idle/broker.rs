//! A broker under measurement, told by what `/proc` says of it.

// Each user compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A running broker; killed with the value.
pub struct Broker {
    child: Child,
    redis: u16,
    pub nats: u16,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    /// Starts a broker of so many shards, and waits until it listens.
    pub fn start(binary: &str, shards: usize) -> Broker {
        let mut command = Command::new(binary);
        command.args(["serve", "--shards", &shards.to_string()]);
        for listener in ["--redis", "--native", "--nats", "--http", "--node"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(["--log-format", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the broker starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut broker = Broker {
            child,
            redis: 0,
            nats: 0,
        };
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let port = line.rsplit(':').next().unwrap_or_default();
            let port = port.split(|c: char| !c.is_ascii_digit()).next();
            let port = port.and_then(|digits| digits.parse().ok());
            match line.split_whitespace().next() {
                Some("redis") => broker.redis = port.unwrap_or(0),
                Some("nats") => broker.nats = port.unwrap_or(0),
                _ => {}
            }
            if broker.redis != 0 && broker.nats != 0 {
                return broker;
            }
        }
        panic!("{binary} does not say where it listens");
    }

    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let tasks = tasks.expect("the broker runs").flatten();
        let spent = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }

    /// Share of a core that it takes over so long, in percent.
    pub fn cpu_share(&self, over: Duration) -> f64 {
        let (before, begin) = (self.cpu(), Instant::now());
        sleep(over);
        100.0 * (self.cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the broker runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.expect("VmRSS in KiB")
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.resident_kib() as f64 / 1024.0
    }

    /// A client of the Redis protocol.
    pub fn redis(&self) -> TcpStream {
        connect(self.redis)
    }

    /// So many connections that listen to a topic each.
    pub fn idle_connections(&self, count: usize) -> Vec<TcpStream> {
        let connect = |number: usize| {
            let mut client = self.redis();
            let command = format!("SUBSCRIBE idle.{number}\r\n");
            ask(&mut client, command.as_bytes(), b":1\r\n", 1);
            client
        };
        (0..count).map(connect).collect()
    }
}

/// A connection to a listener.
pub fn connect(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
    client.set_nodelay(true).expect("a socket takes options");
    client
}

/// Writes, and reads until so many bytes of replies that end with `end` have come.
pub fn ask(client: &mut TcpStream, bytes: &[u8], end: &[u8], times: usize) {
    client.write_all(bytes).expect("the broker reads");
    let (mut seen, mut tail) = (0, Vec::new());
    let mut buffer = vec![0; 256 * 1024];
    while seen < times {
        let count = client.read(&mut buffer).expect("the broker answers");
        assert!(count > 0, "the broker has closed");
        tail.extend_from_slice(&buffer[..count]);
        seen += tail.windows(end.len()).filter(|part| *part == end).count();
        tail.drain(..tail.len() - (end.len() - 1).min(tail.len()));
    }
}

/// Measures each binary that the arguments name, or else the one that was built; `is_quick` if so little is wanted.
pub fn for_each_binary(measure: impl Fn(&str, bool)) -> ExitCode {
    let (mut is_quick, mut binaries) = (false, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says so.
            "--bench" => {}
            "--quick" => is_quick = true,
            "--binary" => binaries.extend(arguments.next()),
            _ => {
                eprintln!("unknown argument {argument}; known are --quick and --binary PATH");
                return ExitCode::from(2);
            }
        }
    }
    if binaries.is_empty() {
        binaries.push(env!("CARGO_BIN_EXE_sapwood").to_string());
    }
    for binary in &binaries {
        measure(binary, is_quick);
    }
    ExitCode::SUCCESS
}
