//! The workloads, as data.
//!
//! Owns who sends what to whom. How that is measured is [`crate::measure`]'s.

use std::time::Duration;

use crate::dialect::Asked;
use crate::generator::{Trouble, Writing};
use crate::measure::{self, Closed, Figures, Throughput, Times};
use crate::record::{Kind, Who};
use crate::script::Script;
use crate::servers::{Server, dialect};

/// Bytes that publishers may have on their way in all, whatever their messages' size.
const WINDOW_BYTES: usize = 2 * 1024 * 1024;

/// For deliveries by the hundred: what waits for all subscribers together stays far below every server's cap.
const FAN_OUT_WINDOW_BYTES: usize = 128 * 1024;

/// Bytes that a pipelining publisher writes at once.
const RUN_BYTES: usize = 64 * 1024;

/// Messages on their way from publishers that write each by itself.
const SINGLE_WINDOW: u64 = 1_024;

/// What is done.
#[derive(Clone, Debug)]
pub enum Work {
    /// See [`measure::throughput`].
    Throughput(Throughput),
    /// See [`measure::closed`].
    Closed(Closed),
    /// See [`measure::requests`].
    Requests(usize),
    /// Messages a second; see [`measure::latency`].
    Latency(u64),
    /// Connections; see [`measure::idle`].
    Idle(usize),
}

/// A way to start a contender: its name in the record, arguments, and CPUs.
pub type Variant = (&'static str, &'static [&'static str], usize);

/// The usual way.
const USUAL: &[Variant] = &[("", &[], 1)];

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// See [`crate::record::Workload`].
    pub id: &'static str,
    /// See there.
    pub title: &'static str,
    /// See there.
    pub about: &'static str,
    /// Who takes part.
    pub who: &'static [Who],
    /// How Sapwood is started; others always in the usual way.
    pub variants: &'static [Variant],
    /// Part of a quick look.
    pub quick: bool,
    /// What is done.
    pub work: Work,
}

const ALL: &[Who] = &Who::ALL;
const SERVERS: &[Who] = &[
    Who::Redis,
    Who::Nats,
    Who::NatsNow,
    Who::SapwoodRedis,
    Who::SapwoodNats,
    Who::SapwoodNative,
];
const OURS: &[Who] = &[Who::SapwoodRedis, Who::SapwoodNats, Who::SapwoodNative];
const WITH_GROUPS: &[Who] = &[
    Who::Nats,
    Who::NatsNow,
    Who::SapwoodNats,
    Who::SapwoodNative,
];
const TWO_SHARDS: &[Variant] = &[("1 shard", &[], 1), ("2 shards", &[], 2)];

const SIZE: usize = 128;

impl Work {
    /// Which figures it has.
    pub fn kind(&self) -> Kind {
        match self {
            Work::Throughput(_) => Kind::Throughput,
            Work::Closed(_) | Work::Requests(_) => Kind::Closed,
            Work::Latency(_) => Kind::Latency,
            Work::Idle(_) => Kind::Idle,
        }
    }

    /// Does it once.
    pub fn run(
        &self,
        server: &Server,
        who: Who,
        times: Times,
    ) -> Result<(Figures, Option<(u64, u64)>), Trouble> {
        let dialect = dialect(who);
        let figures = match self {
            Work::Throughput(plan) => measure::throughput(server, dialect, plan, times)?,
            Work::Closed(plan) => measure::closed(server, dialect, *plan, times)?,
            Work::Requests(clients) => measure::requests(server, dialect, *clients, SIZE, times)?,
            Work::Latency(rate) => {
                // Percentiles of a low rate need longer.
                let times = Times {
                    measured: times.measured.max(Duration::from_secs(2)),
                    ..times
                };
                measure::latency(server, dialect, *rate, SIZE, times)?
            }
            Work::Idle(connections) => {
                let (figures, before, after) = measure::idle(server, dialect, *connections)?;
                return Ok((figures, Some((before, after))));
            }
        };
        Ok((figures, None))
    }
}

fn pipelined(size: usize) -> Work {
    Work::Throughput(Throughput {
        scripts: vec![Script::on_topic(0, 0, size)],
        subscribers: vec![(Some(0), Asked::Exact)],
        fan_out: 1,
        writing: Writing::Run(RUN_BYTES.max(size)),
        window: (WINDOW_BYTES / size).min(32 * 1024) as u64,
    })
}

fn pairs(count: usize, writing: Writing, window: u64) -> Work {
    Work::Throughput(Throughput {
        scripts: (0..count)
            .map(|number| Script::on_topic(number, number, SIZE))
            .collect(),
        subscribers: (0..count)
            .map(|number| (Some(number), Asked::Exact))
            .collect(),
        fan_out: 1,
        writing,
        window,
    })
}

fn one_publisher(
    script: Script,
    subscribers: Vec<(Option<usize>, Asked)>,
    fan_out: u64,
    bytes: usize,
) -> Work {
    Work::Throughput(Throughput {
        scripts: vec![script],
        subscribers,
        fan_out,
        writing: Writing::Run(RUN_BYTES),
        window: (bytes / SIZE) as u64,
    })
}

fn interleaved() -> Work {
    Work::Throughput(Throughput {
        scripts: (0..10)
            .map(|number| Script::interleaved(number, 100, SIZE))
            .collect(),
        subscribers: (0..100)
            .map(|number| (Some(number), Asked::Exact))
            .collect(),
        fan_out: 1,
        writing: Writing::Run(RUN_BYTES),
        window: (WINDOW_BYTES / SIZE) as u64,
    })
}

fn closed(clients: usize, batch: usize, flood: bool) -> Work {
    Work::Closed(Closed {
        clients,
        batch,
        flood,
        size: SIZE,
    })
}

fn workload(
    id: &'static str,
    title: &'static str,
    about: &'static str,
    who: &'static [Who],
    work: Work,
) -> Workload {
    Workload {
        id,
        title,
        about,
        who,
        variants: USUAL,
        quick: false,
        work,
    }
}

/// All, in the order in which they are run.
pub fn all() -> Vec<Workload> {
    let parts = [on_one_topic, on_many_topics, in_other_ways, waiting];
    let mut all: Vec<Workload> = parts.iter().flat_map(|part| part()).collect();
    for workload in &mut all {
        workload.quick =
            ["pipelined-128", "fanout-100", "closed-50", "latency-10k"].contains(&workload.id);
    }
    all
}

fn on_one_topic() -> Vec<Workload> {
    vec![
        workload(
            "pipelined-16",
            "1 -> 1, 16 B",
            "One publisher writes as much as the socket takes, one subscriber.",
            ALL,
            pipelined(16),
        ),
        workload(
            "pipelined-128",
            "1 -> 1, 128 B",
            "The same with 128 B.",
            ALL,
            pipelined(SIZE),
        ),
        workload(
            "pipelined-1k",
            "1 -> 1, 1 KiB",
            "The same with 1 KiB.",
            ALL,
            pipelined(1024),
        ),
        workload(
            "pipelined-64k",
            "1 -> 1, 64 KiB",
            "The same with 64 KiB.",
            ALL,
            pipelined(64 * 1024),
        ),
        workload(
            "fanout-100",
            "1 -> 100",
            "One publisher, 100 subscribers of its topic.",
            ALL,
            one_publisher(
                Script::on_topic(0, 0, SIZE),
                vec![(Some(0), Asked::Exact); 100],
                100,
                FAN_OUT_WINDOW_BYTES,
            ),
        ),
    ]
}

fn on_many_topics() -> Vec<Workload> {
    vec![
        workload(
            "pairs-100",
            "100 publishers, 100 topics",
            "100 publishers, each to a topic of its own with one subscriber.",
            ALL,
            pairs(
                100,
                Writing::Run(16 * 1024),
                (2 * WINDOW_BYTES / SIZE) as u64,
            ),
        ),
        workload(
            "interleaved",
            "10 publishers over 100 topics",
            "10 publishers, each message to another of 100 topics, one subscriber each.",
            ALL,
            interleaved(),
        ),
        workload(
            "single-1",
            "one message a write, 1 publisher",
            "One publisher that does not pipeline and waits for nothing.",
            ALL,
            pairs(1, Writing::Single(16), SINGLE_WINDOW),
        ),
        workload(
            "single-100",
            "one message a write, 100 publishers",
            "100 such publishers, each to a topic of its own.",
            ALL,
            pairs(100, Writing::Single(1), SINGLE_WINDOW),
        ),
    ]
}

fn in_other_ways() -> Vec<Workload> {
    vec![
        workload(
            "groups-3",
            "1 -> a group of 3",
            "One publisher, three members of one group (a queue group in NATS).",
            WITH_GROUPS,
            one_publisher(
                Script::on_topic(0, 0, SIZE),
                vec![(Some(0), Asked::Group); 3],
                1,
                WINDOW_BYTES,
            ),
        ),
        workload(
            "wildcard",
            "100 topics -> 1 wildcard",
            "One publisher to 100 topics in turn, one subscriber to all by `bench.topic.>` (Redis: a glob).",
            SERVERS,
            one_publisher(
                Script::interleaved(0, 100, SIZE),
                vec![(None, Asked::Pattern)],
                1,
                WINDOW_BYTES,
            ),
        ),
        Workload {
            variants: TWO_SHARDS,
            ..workload(
                "shards-pairs",
                "100 publishers, 100 topics, 2 shards",
                "As above; the second shard shares its CPU with the generator.",
                OURS,
                pairs(
                    100,
                    Writing::Run(16 * 1024),
                    (2 * WINDOW_BYTES / SIZE) as u64,
                ),
            )
        },
        Workload {
            variants: TWO_SHARDS,
            ..workload(
                "shards-interleaved",
                "10 publishers over 100 topics, 2 shards",
                "The same.",
                OURS,
                interleaved(),
            )
        },
    ]
}

fn waiting() -> Vec<Workload> {
    const SPIN: &[Variant] = &[("", &[], 1), ("--latency spin", &["--latency", "spin"], 1)];
    let rate = |id, title, rate| Workload {
        variants: SPIN,
        ..workload(
            id,
            title,
            "One publisher at a fixed rate, one subscriber; latency from the scheduled moment.",
            ALL,
            Work::Latency(rate),
        )
    };
    vec![
        workload(
            "closed-1",
            "1 client waits for each answer",
            "One publisher sends when its last publish was answered (NATS: by PONG).",
            SERVERS,
            closed(1, 1, false),
        ),
        workload(
            "closed-50",
            "50 clients wait for each answer",
            "The same with 50, on one topic with one subscriber.",
            SERVERS,
            closed(50, 1, false),
        ),
        workload(
            "closed-50-p16",
            "50 clients, 16 publishes at once",
            "The same, 16 at a time.",
            SERVERS,
            closed(50, 16, false),
        ),
        workload(
            "closed-flood",
            "1 waiting client beside a flood",
            "One waiting client; another publishes to another topic without end.",
            SERVERS,
            closed(1, 1, true),
        ),
        workload(
            "request-1",
            "1 requester, 1 responder",
            "A request and its reply, both through the broker.",
            WITH_GROUPS,
            Work::Requests(1),
        ),
        workload(
            "request-50",
            "50 requesters, 1 responder",
            "The same with 50.",
            WITH_GROUPS,
            Work::Requests(50),
        ),
        rate("latency-10k", "latency at 10,000/s", 10_000),
        rate("latency-50k", "latency at 50,000/s", 50_000),
        workload(
            "idle-10000",
            "10,000 idle connections",
            "Each subscribed to a topic of its own.",
            SERVERS,
            Work::Idle(10_000),
        ),
    ]
}
