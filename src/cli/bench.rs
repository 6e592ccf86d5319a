//! `sapwood bench`: how many events a broker moves, and how long each takes.
//!
//! Owns the plan of a run (who publishes what to whom) and its limits. Publishers are threads, because they keep a schedule
//! finer than a runtime's timers; subscribers are tasks, because there may be thousands. Both are clients like any other.
//!
//! Two kinds of run. Without `--rate`, each publisher goes as fast as its slowest subscriber takes its events, with a bounded
//! number on their way: this finds the highest rate that lasts. With `--rate` each event has a time at which it is due, and its
//! latency counts from then on, whether or not it could be sent then: a broker that stalls is not asked less.
//!
//! Read on in `event.rs` (what is sent and checked), `flow.rs` (pub, fanout), `asking.rs` (request), `report.rs`.

mod asking;
mod event;
mod flow;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::time::{ClockId, clock_gettime};
use sapwood_client::{Builder, Client, Policy};

use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector};
use super::latency::Latency;
use super::output::Output;
use super::quantity::{self, Rate};
use super::stop::Stop;
use super::trouble::Trouble;
use super::{Failure, value};
use event::HEAD_BYTES;
use report::Report;
pub use report::grouped;

/// The most of each kind of client: beyond it the machine that runs the benchmark is what is measured. Worst memory: some
/// 300 KiB a client, 3 GiB.
const CLIENTS_MAX: u64 = 10_000;

/// The most publishers, each of which is a thread.
const PUBLISHERS_MAX: u64 = 1_024;

/// The most topics.
const TOPICS_MAX: u64 = 100_000;

/// The most numbers that are kept to know which event comes next: 4 bytes for each publisher, topic and subscriber that
/// hears it, so 256 MiB.
const EXPECTED_MAX: u64 = 64 << 20;

/// Bytes that may be on their way to one subscriber without `--rate`: a quarter of what a broker keeps for it, so that it is
/// never taken for one that reads too slowly.
const SUBSCRIBER_WINDOW_BYTES: u64 = 8 << 20;

/// Bytes that may be on their way to all of them: a quarter of what a shard of the broker keeps for all.
const ALL_WINDOW_BYTES: u64 = 256 << 20;

/// What an event is counted as beyond its payload: the frame, the topic, and what a queue adds.
const EVENT_OVERHEAD_BYTES: u64 = 64;

/// The most events of one publisher on their way: with more, latency grows and the rate does not.
const WINDOW_EVENTS_MAX: u64 = 16_384;

/// The most events of one publisher, by the size of their number. A run that is limited by time ends there.
const EVENTS_MAX: u64 = u32::MAX as u64;

/// How long a run takes if neither its events nor its time are given.
const DURATION: Duration = Duration::from_secs(5);

/// How long nothing may arrive before what is missing counts as lost.
const STALL_TIME: Duration = Duration::from_secs(5);

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood bench pub                                    as fast as possible for five seconds
  sapwood bench pub --size 16 --count 1000000          a million small events
  sapwood bench pub --publishers 4 --topics 100        four connections, a hundred topics
  sapwood bench pub --subscribers 0                    publish to nobody
  sapwood bench pub --rate 10000/s --duration 10s      latency at a steady rate
  sapwood bench fanout --subscribers 100               each event to a hundred subscribers
  sapwood bench request --publishers 8 --json          eight who ask, one who answers

What arrives is checked: every event, its bytes and its order. Without --rate, publishers wait for \
their subscribers, and latencies are those of a full load. With --rate, the latency of an event counts \
from the moment it was due, also if the broker or the bench was late; the table says how late the \
bench was. It also says how much CPU the bench took: where it takes all there is, it measures itself.

Exit codes: 0 done, 1 failed, or something did not arrive as it was sent, 2 wrong usage.";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// each event goes to one subscriber; subscribers share out the topics
    Pub,
    /// each event goes to every subscriber
    Fanout,
    /// Each publisher asks, and one of the subscribers answers
    Request,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Pub => "pub",
            Mode::Fanout => "fanout",
            Mode::Request => "request",
        }
    }
}

/// The flags of `sapwood bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure
    mode: Mode,
    /// Bytes of a payload, such as 128 or 64KiB; at least 16 [default: 128]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// End after so many events in all
    #[arg(short = 'n', long, value_name = "N", value_parser = quantity::count, conflicts_with = "duration")]
    count: Option<u64>,
    /// End after so long [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    duration: Option<Duration>,
    /// How many connections publish, or ask [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_publishers)]
    publishers: Option<u64>,
    /// How many connections listen, or answer [default: 1, for fanout 10]
    #[arg(long, value_name = "N", value_parser = parse_subscribers)]
    subscribers: Option<u64>,
    /// How many topics, in turn [default: as many as it takes to give each subscriber one]
    #[arg(long, value_name = "N", value_parser = parse_topics)]
    topics: Option<u64>,
    /// How many events are due, of all publishers together, such as 10000/s [default: as many as arrive]
    #[arg(long, value_name = "RATE", value_parser = quantity::flag(quantity::parse_rate))]
    rate: Option<Rate>,
    /// What the broker does with a subscriber that is too slow: close, drop-oldest or latest
    #[arg(long, value_parser = connect::parse_policy)]
    policy: Option<Policy>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let rule =
        |text: &str| value::parse_size(text, HEAD_BYTES as u64, super::payload::PAYLOAD_BYTES_MAX);
    quantity::flag(rule)(text)
}

fn parse_publishers(text: &str) -> Result<u64, String> {
    quantity::flag(|text: &str| value::parse_count(text, 1, PUBLISHERS_MAX))(text)
}

fn parse_subscribers(text: &str) -> Result<u64, String> {
    quantity::flag(|text: &str| value::parse_count(text, 0, CLIENTS_MAX))(text)
}

fn parse_topics(text: &str) -> Result<u64, String> {
    quantity::flag(|text: &str| value::parse_count(text, 1, TOPICS_MAX))(text)
}

/// A run as it was asked for, with nothing left open.
#[derive(Clone, Debug)]
pub struct Plan {
    mode: Mode,
    size: usize,
    limit: Limit,
    publishers: usize,
    subscribers: usize,
    topics: usize,
    rate: Option<Rate>,
    /// Distinguishes this run's topics and events from those of others.
    run: u32,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Events(u64),
    Time(Duration),
}

impl Plan {
    fn new(args: &BenchArgs) -> Result<Plan, Trouble> {
        let subscribers = args.subscribers.unwrap_or(match args.mode {
            Mode::Fanout => 10,
            Mode::Pub | Mode::Request => 1,
        });
        let topics = args.topics.unwrap_or(match args.mode {
            Mode::Pub => subscribers.max(1),
            Mode::Fanout | Mode::Request => 1,
        });
        let plan = Plan {
            mode: args.mode,
            size: args.size.unwrap_or(128) as usize,
            limit: match args.count {
                Some(count) => Limit::Events(count),
                None => Limit::Time(args.duration.unwrap_or(DURATION)),
            },
            publishers: args.publishers.unwrap_or(1) as usize,
            subscribers: subscribers as usize,
            topics: topics as usize,
            rate: args.rate,
            run: std::process::id().rotate_left(16) ^ wall_nanos(),
        };
        plan.check().map_err(Trouble::Plan)?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), String> {
        if self.subscribers == 0 && self.mode != Mode::Pub {
            return Err(format!(
                "bench {} needs somebody who listens; give --subscribers 1 or more.",
                self.mode.name()
            ));
        }
        if self.mode == Mode::Pub && self.subscribers > self.topics {
            return Err(format!(
                "in bench pub the subscribers share out the topics, so {} topics are too few for {} subscribers; give \
                 --topics {2} or more, or measure fanout.",
                self.topics, self.subscribers, self.subscribers
            ));
        }
        if self.mode == Mode::Request && self.topics > 1 {
            return Err("bench request has one topic; leave --topics out.".to_string());
        }
        if self.share(0) > EVENTS_MAX {
            return Err(format!(
                "one publisher can publish {EVENTS_MAX} events in a run; give a smaller --count, or more --publishers."
            ));
        }
        let hearers = match self.mode {
            Mode::Fanout => self.subscribers,
            Mode::Pub | Mode::Request => 1,
        };
        let expected = (self.publishers * self.topics) as u64 * hearers as u64;
        if expected > EXPECTED_MAX {
            return Err(format!(
                "{} publishers, {} topics and {} subscribers are too many to check the order of what arrives; their product \
                 may be {EXPECTED_MAX}.",
                self.publishers, self.topics, self.subscribers
            ));
        }
        Ok(())
    }

    /// How many events of one publisher may be on their way.
    fn window(&self) -> u64 {
        let bytes = self.size as u64 + EVENT_OVERHEAD_BYTES;
        let publishers = self.publishers as u64;
        let to_one = SUBSCRIBER_WINDOW_BYTES / publishers / bytes;
        let to_all = ALL_WINDOW_BYTES / publishers / self.subscribers.max(1) as u64 / bytes;
        to_one.min(to_all).clamp(1, WINDOW_EVENTS_MAX)
    }

    /// How many events this publisher has to publish, if that is how the run ends.
    fn share(&self, publisher: usize) -> u64 {
        match self.limit {
            Limit::Time(_) => EVENTS_MAX,
            Limit::Events(events) => {
                let publishers = self.publishers as u64;
                events / publishers + u64::from((publisher as u64) < events % publishers)
            }
        }
    }

    /// The subscriber whose topic this is; all are nobody's alone in a fan-out.
    fn owner(&self, topic: usize) -> usize {
        match self.mode {
            Mode::Pub => topic % self.subscribers.max(1),
            Mode::Fanout | Mode::Request => 0,
        }
    }

    fn topic(&self, topic: usize) -> String {
        format!("bench.{:08x}.{}.{topic}", self.run, self.owner(topic))
    }

    /// What a subscriber listens to.
    fn filter(&self, subscriber: usize) -> String {
        let owner = match self.mode {
            Mode::Pub => subscriber,
            Mode::Fanout | Mode::Request => 0,
        };
        match self.topics {
            1 => self.topic(0),
            _ => format!("bench.{:08x}.{owner}.*", self.run),
        }
    }
}

/// Something that differs between two runs of one process number.
fn wall_nanos() -> u32 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_nanos() as u32)
}

/// How far a run is, for the progress line and for its end.
#[derive(Debug, Default)]
struct Progress {
    published: AtomicU64,
    received: AtomicU64,
}

impl Progress {
    fn add_published(&self, events: u64) {
        self.published.fetch_add(events, Ordering::Relaxed);
    }

    fn add_received(&self, events: u64) {
        self.received.fetch_add(events, Ordering::Relaxed);
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// What a run found, before it is told.
#[derive(Debug)]
struct Outcome {
    /// Events published, or requests made.
    published: u64,
    /// From the start until the broker had all of them.
    publishing: Duration,
    /// Events that arrived, or replies.
    received: u64,
    /// How many of them had to arrive.
    expected: u64,
    /// From the start until the last one arrived.
    receiving: Duration,
    latency: Latency,
    /// How late the bench itself was.
    lateness: Latency,
    /// Events that came twice or out of order.
    misordered: u64,
    /// Events whose bytes are not those that were sent.
    corrupt: u64,
    /// The first thing that failed, in words.
    failure: Option<String>,
    /// CPU time of this process while it ran.
    cpu: Duration,
}

/// Measures and prints.
///
/// Errors: wrong settings or a plan that cannot be run, exit code 2; a broker that is not there, or events that did not arrive
/// as they were sent, 1. A signal ends the run early, and what was measured is printed.
pub fn run(args: &BenchArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?.policy(args.policy);
    let plan = Plan::new(args).map_err(Failure::Client)?;
    let stop = Stop::on_signal()?;
    let outcome = match plan.mode {
        Mode::Pub | Mode::Fanout => flow::run(&plan, &connector, &stop)?,
        Mode::Request => asking::run(&plan, &connector, &stop)?,
    };
    let report = Report::new(&plan, &outcome);
    let text = match args.json {
        true => format!("{}\n", report.json()),
        false => report.table(),
    };
    let mut output = Output::new()?;
    output.buffer.extend_from_slice(text.as_bytes());
    let _ = output.flush()?;
    match report.is_intact() {
        true => Ok(()),
        false => Err(Failure::Client(Trouble::NotIntact)),
    }
}

/// The settings of every client of a run: a broker that is silent for long has failed.
fn builder(connector: &Connector) -> Builder<Client> {
    connector.builder().answer_timeout(STALL_TIME)
}

/// CPU time of this process so far, in all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mode: Mode) -> Plan {
        Plan {
            mode,
            size: 128,
            limit: Limit::Events(10),
            publishers: 3,
            subscribers: 2,
            topics: 5,
            rate: None,
            run: 0xabc,
        }
    }

    #[test]
    fn publishers_share_out_the_events() {
        let plan = plan(Mode::Pub);
        let shares: Vec<_> = (0..3).map(|publisher| plan.share(publisher)).collect();
        assert_eq!(shares, [4, 3, 3]);
    }

    #[test]
    fn subscribers_share_out_the_topics_or_hear_all() {
        let shared = plan(Mode::Pub);
        assert_eq!(shared.topic(3), "bench.00000abc.1.3");
        assert_eq!(shared.filter(1), "bench.00000abc.1.*");
        let all = plan(Mode::Fanout);
        assert_eq!(all.topic(3), "bench.00000abc.0.3");
        assert_eq!(all.filter(1), "bench.00000abc.0.*");
        let one = Plan { topics: 1, ..all };
        assert_eq!(one.filter(1), one.topic(0));
    }

    #[test]
    fn window_stays_below_what_a_broker_keeps() {
        for (size, publishers, subscribers) in [(16, 1, 1), (65_536, 10, 1), (128, 1, 10_000)] {
            let plan = Plan {
                size,
                publishers,
                subscribers,
                ..plan(Mode::Fanout)
            };
            let bytes = plan.window() * (size as u64 + EVENT_OVERHEAD_BYTES) * publishers as u64;
            assert!(bytes <= SUBSCRIBER_WINDOW_BYTES, "{plan:?}: {bytes}");
            assert!(
                bytes * subscribers as u64 <= ALL_WINDOW_BYTES,
                "{plan:?}: {bytes}"
            );
        }
        let huge = Plan {
            size: 64 << 20,
            ..plan(Mode::Pub)
        };
        assert_eq!(huge.window(), 1);
    }

    #[test]
    fn plan_that_cannot_be_run_says_what_would_be_right() {
        for (plan, part) in [
            (
                Plan {
                    subscribers: 0,
                    ..plan(Mode::Fanout)
                },
                "--subscribers 1",
            ),
            (
                Plan {
                    subscribers: 6,
                    ..plan(Mode::Pub)
                },
                "--topics 6 or more",
            ),
            (plan(Mode::Request), "leave --topics out"),
            (
                Plan {
                    publishers: 1_024,
                    subscribers: 10_000,
                    topics: 100,
                    ..plan(Mode::Fanout)
                },
                "too many",
            ),
        ] {
            let message = plan.check().unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(plan(Mode::Pub).check(), Ok(()));
    }
}
