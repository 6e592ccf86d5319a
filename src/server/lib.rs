//! Placeholder of the server's interface, so that the command line can be built and tried before the server is there.
//!
//! It listens, answers `PING`, `AUTH` and `INFO` in inline or array form, and forgets everything else. It goes away
//! with the merge of the server.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, SyncSender};

/// Every cap that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one connection's output.
    pub outbox_bytes_max: usize,
    /// Connections of one shard.
    pub connections_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Milliseconds before a connection has to have authenticated.
    pub auth_deadline_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            outbox_bytes_max: 32 << 20,
            connections_max: 65_536,
            subscriptions_max: 131_072,
            auth_deadline_ms: 10_000,
        }
    }
}

/// How the server runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How many shards; `None` is one for each CPU.
    pub shards: Option<usize>,
    /// The CPUs to run on.
    pub cpus: Option<Vec<usize>>,
    /// Where the Redis protocol listens.
    pub redis: Option<SocketAddr>,
    /// `None`: open.
    pub password: Option<Vec<u8>>,
    /// The caps.
    pub limits: Limits,
    /// Stands for what the command line does not set.
    pub rest: (),
}

/// Why the server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The address could not be bound.
    Bind(SocketAddr, std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StartError::Bind(address, error) = self;
        write!(
            out,
            "cannot listen on {address} ({error}); stop what listens there, or choose another with --redis."
        )
    }
}

/// Why the server ended.
#[derive(Debug)]
pub enum ServeError {
    /// A shard ended by itself.
    Shard,
}

impl fmt::Display for ServeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a shard ended by itself.")
    }
}

/// Begins a graceful end.
#[derive(Clone)]
pub struct Stopper(SyncSender<()>);

impl Stopper {
    /// Begins to drain.
    pub fn drain(&self) {
        let _ = self.0.try_send(());
    }
}

/// A running server.
pub struct Server {
    config: Config,
    redis: Option<SocketAddr>,
    stop: (SyncSender<()>, Receiver<()>),
}

impl Server {
    /// Starts it.
    pub fn start(config: Config) -> Result<Server, StartError> {
        let mut redis = None;
        if let Some(address) = config.redis {
            let listener =
                TcpListener::bind(address).map_err(|error| StartError::Bind(address, error))?;
            redis = listener.local_addr().ok();
            let password = config.password.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let password = password.clone();
                    std::thread::spawn(move || answer(stream, password));
                }
            });
        }
        Ok(Server {
            config,
            redis,
            stop: mpsc::sync_channel(1),
        })
    }

    /// What listens where.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        self.redis
            .iter()
            .map(|address| ("redis", *address))
            .collect()
    }

    /// One CPU for each shard.
    pub fn cpus(&self) -> Vec<usize> {
        match (&self.config.cpus, self.config.shards) {
            (Some(cpus), shards) => cpus
                .iter()
                .copied()
                .take(shards.unwrap_or(cpus.len()))
                .collect(),
            (None, shards) => (0..shards.unwrap_or(1)).collect(),
        }
    }

    /// A handle that ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.0.clone())
    }

    /// Waits for the end.
    pub fn join(self) -> Result<(), ServeError> {
        self.stop.1.recv().map_err(|_| ServeError::Shard)
    }
}

fn answer(stream: TcpStream, password: Option<Vec<u8>>) {
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    let mut trusted = password.is_none();
    let mut line = String::new();
    loop {
        let mut words = Vec::new();
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let count = line
            .trim_end()
            .strip_prefix('*')
            .and_then(|count| count.parse().ok())
            .unwrap_or(0usize);
        for _ in 0..count {
            line.clear();
            let _ = reader.read_line(&mut line);
            line.clear();
            let _ = reader.read_line(&mut line);
            words.push(line.trim_end().to_string());
        }
        let reply = match words.first().map(String::as_str) {
            Some("AUTH") if words.last().map(String::as_bytes) == password.as_deref() => {
                trusted = true;
                "+OK\r\n".to_string()
            }
            Some("AUTH") => {
                "-WRONGPASS invalid username-password pair or user is disabled.\r\n".to_string()
            }
            _ if !trusted => "-NOAUTH Authentication required.\r\n".to_string(),
            Some("INFO") => {
                let body = "# Server\r\nredis_version:7.4.0\r\ntcp_port:7463\r\n\r\n# Clients\r\nconnected_clients:1\r\n\r\n# Sapwood\r\nshards:1\r\n";
                format!("${}\r\n{body}\r\n", body.len())
            }
            _ => "+PONG\r\n".to_string(),
        };
        if writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
