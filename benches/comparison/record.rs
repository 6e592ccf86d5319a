//! What a comparison found, as it is kept in `benches/results/*.json`.
//!
//! Owns the shapes alone: who measures fills them ([`crate::measure`]), who reports reads them
//! ([`crate::report`]). Every run is kept, not only medians, so that a report can be made again.

use serde::{Deserialize, Serialize};

/// One invocation of the comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whether it was `--quick`: one run of few workloads, good for a look and no more.
    pub quick: bool,
    /// What it was called as, for who wants to do it again.
    pub command: String,
    /// UTC, as `2026-11-21`.
    pub date: String,
    /// Of the clone it was built from, shortened; ends in `+` if files were changed.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// Runs of each workload and contender, interleaved.
    pub rounds: u32,
    /// Who took part and who could not.
    pub contenders: Vec<Contender>,
    /// In the order they were run.
    pub workloads: Vec<Workload>,
}

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// `model name` of `/proc/cpuinfo`.
    pub cpu: String,
    /// CPUs that the comparison may use.
    pub cpus: u32,
    /// In bytes.
    pub memory: u64,
    /// `uname -r`.
    pub kernel: String,
    /// `rustc --version`.
    pub rustc: String,
}

/// A server in one of its protocols.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contender {
    /// Which.
    pub id: Who,
    /// What it says of its version.
    pub version: String,
    /// Why it did not take part, with what would help.
    pub missing: Option<String>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// redis-server, its own protocol.
    Redis,
    /// nats-server, its own protocol.
    Nats,
    /// A nats-server of this year, where the one above is a distribution's.
    NatsNow,
    /// Sapwood, spoken to as redis-server is.
    SapwoodRedis,
    /// Sapwood, spoken to as nats-server is.
    SapwoodNats,
    /// Sapwood, natively.
    SapwoodNative,
    /// The floor: bytes copied from socket to socket by one epoll thread, nothing looked at.
    Relay,
}

/// How a workload was measured, so which of a run's figures mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// As much as gets through: deliveries a second, CPU for a million of them, memory.
    Throughput,
    /// Each client waits for its answer: operations a second, their latency, CPU.
    Closed,
    /// A fixed rate, latency from the scheduled time.
    Latency,
    /// Connections that do nothing: memory for each.
    Idle,
}

/// A workload and all its runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Stable, for the command line: `pipelined-128`.
    pub id: String,
    /// For people: `1 -> 1, 128 B`.
    pub title: String,
    /// One sentence: who sends what to whom, and how.
    pub about: String,
    /// What its runs hold.
    pub kind: Kind,
    /// Every run that was not cut off.
    pub runs: Vec<Run>,
    /// Runs that failed, and what was wrong: such a contender has no figure.
    pub failures: Vec<RunFailure>,
}

/// A run that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFailure {
    /// Whose.
    pub who: Who,
    /// From 1.
    pub round: u32,
    /// What the checker or the server said.
    pub error: String,
}

/// One contender's run of one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Whose.
    pub who: Who,
    /// What sets this run apart from the contender's usual one: `2 shards`, `--latency spin`. Usually empty.
    #[serde(default)]
    pub variant: String,
    /// From 1.
    pub round: u32,
    /// How long was measured, after warming up.
    pub seconds: f64,
    /// What arrived in that time and was checked: deliveries, or operations that were answered.
    pub deliveries: u64,
    /// The server's CPU time meanwhile, user and system, all threads.
    pub broker_cpu_seconds: f64,
    /// The generator's, to be held beside the time: near it, the generator was the limit.
    pub generator_cpu_seconds: f64,
    /// The server's resident bytes before clients connected.
    pub memory_before: u64,
    /// Its largest resident bytes so far, at the end.
    pub memory_peak: u64,
    /// Connections that memory is divided by, for [`Kind::Idle`].
    #[serde(default)]
    pub connections: u64,
    /// For [`Kind::Closed`] and [`Kind::Latency`].
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// A run's latencies, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: u64,
    /// 90 of 100 were.
    pub p90: u64,
    /// 99 of 100 were.
    pub p99: u64,
    /// 999 of 1,000 were.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
    /// For plots: `(percentile, latency)`, rising.
    pub curve: Vec<(f64, u64)>,
}

impl Run {
    /// Deliveries a second.
    pub fn rate(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    /// The broker's CPU-seconds for a million deliveries.
    pub fn cpu_per_million(&self) -> f64 {
        self.broker_cpu_seconds * 1e6 / self.deliveries as f64
    }

    /// How busy the generator was, from 0 to 1.
    pub fn generator_load(&self) -> f64 {
        self.generator_cpu_seconds / self.seconds
    }

    /// Resident bytes for each idle connection.
    pub fn bytes_per_connection(&self) -> f64 {
        self.memory_peak.saturating_sub(self.memory_before) as f64 / self.connections as f64
    }
}

impl Who {
    /// Whether it is Sapwood.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Who::SapwoodRedis | Who::SapwoodNats | Who::SapwoodNative
        )
    }

    /// All, in the order in which a table shows them.
    pub const ALL: [Who; 7] = [
        Who::Redis,
        Who::Nats,
        Who::NatsNow,
        Who::SapwoodRedis,
        Who::SapwoodNats,
        Who::SapwoodNative,
        Who::Relay,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Who::Redis => "redis-server",
            Who::Nats => "nats-server",
            Who::NatsNow => "nats-server, current",
            Who::SapwoodRedis => "Sapwood, Redis protocol",
            Who::SapwoodNats => "Sapwood, NATS protocol",
            Who::SapwoodNative => "Sapwood, native",
            Who::Relay => "relay (floor)",
        }
    }
}
