//! The course of a run: a publisher at one node, a subscriber at another, and events between them under a load.
//!
//! Every event is compared to the byte, in its order, and counted; a run in which one is lost, doubled, changed or out of
//! order has no figures. Knows no processes: what the nodes' CPUs did is asked of whoever calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::dialect::{Asked, Dialect, topic};
use crate::generator::{Generator, Sender, Trouble, Writing, open};
use crate::hops::{Load, Single};
use crate::measure::{Pace, SID, Times, drain, paced, pump};
use crate::script::{Cycle, Expect, Script, payload};
use crate::servers::{own_cpu, own_waited};

/// Bytes of a payload.
pub const PAYLOAD_BYTES: usize = 128;

/// Events a second at the paced load, and how many of them are due at once: a burst each millisecond. Four nats-servers on
/// one CPU can just do it.
pub const PACED: Pace = Pace {
    rate: 200_000,
    batch: 200,
};

/// Events a second of which each is alone on its way.
pub const SINGLE: Pace = Pace {
    rate: 1_000,
    batch: 1,
};

/// Events that may be on their way at full speed, and bytes of a write: as in the comparison of one broker.
pub const WINDOW: u64 = 16 * 1024;
const RUN_BYTES: usize = 64 * 1024;

/// Percentiles of so few events a second need longer than the other loads.
const SINGLE_TIMES: f64 = 2.0;

/// How long a probe may take before the next is sent, and how long nodes may take to hear of a subscription.
const PROBE_TIMEOUT: Duration = Duration::from_millis(5);
const HEARD_TIMEOUT: Duration = Duration::from_secs(20);

/// The publisher's number in probes, which no event has.
const PROBER: usize = 999;

/// What the nodes' CPUs did so far.
pub type Cpu<'a> = &'a dyn Fn() -> io::Result<Vec<Duration>>;

/// A publisher and a subscriber that hears it.
pub struct Way {
    generator: Generator,
}

/// What was measured.
pub struct Figures {
    /// From the first measured event to the last.
    pub seconds: f64,
    /// That arrived meanwhile.
    pub events: u64,
    /// Of each node.
    pub node_cpu_seconds: Vec<f64>,
    /// Of this process.
    pub generator_cpu_seconds: f64,
    /// For how long it could have run and another process had its CPU.
    pub generator_waited_seconds: f64,
    /// If each event was alone.
    pub latency: Option<Single>,
}

struct Mark {
    at: Instant,
    nodes: Vec<Duration>,
    generator: [Duration; 2],
    count: u64,
}

impl Way {
    /// Connects both, and waits until the subscriber hears the publisher. `number` is the topic's.
    pub fn open(
        publish_at: SocketAddr,
        hear_at: SocketAddr,
        dialect: Dialect,
        number: usize,
    ) -> Result<Way, Trouble> {
        let wanted = dialect.subscribe(&topic(number), &Asked::Exact, SID);
        let subscriber = open(hear_at, dialect, &wanted)?;
        let publisher = open(publish_at, dialect, b"")?;
        Way::between(publisher, subscriber, dialect, number)
    }

    /// As [`Way::open`], of connections that are there.
    pub fn between(
        mut publisher: TcpStream,
        mut subscriber: TcpStream,
        dialect: Dialect,
        number: usize,
    ) -> Result<Way, Trouble> {
        until_heard(&mut publisher, &mut subscriber, dialect, number)?;
        let script = Script::on_topic(0, number, PAYLOAD_BYTES);
        let places = script.topics.len();
        let sender = Sender::new(script.sent(dialect), places, Writing::Run(RUN_BYTES));
        let received = script.received(dialect, None, &Asked::Exact, SID);
        let expect = Expect::Cycle(Cycle::new(received, places));
        let mut generator = Generator::new(1, dialect.question())?;
        generator.add(subscriber, None, Some(expect), true)?;
        generator.add(publisher, Some(sender), None, false)?;
        Ok(Way { generator })
    }

    /// Measures a load for some seconds, after a warm-up of a third.
    pub fn run(&mut self, load: Load, seconds: f64, cpu: Cpu<'_>) -> Result<Figures, Trouble> {
        let seconds = match load {
            Load::Single => seconds * SINGLE_TIMES,
            _ => seconds,
        };
        let times = Times {
            warm_up: Duration::from_secs_f64(seconds / 3.0),
            measured: Duration::from_secs_f64(seconds),
        };
        let generator = &mut self.generator;
        let mark = |count| Mark::now(cpu, count);
        let pace = match load {
            Load::Paced => PACED,
            Load::Single => SINGLE,
            Load::Full => {
                pump(generator, WINDOW, Instant::now() + times.warm_up)?;
                let begin = mark(generator.delivered)?;
                pump(generator, WINDOW, begin.at + times.measured)?;
                let end = mark(generator.delivered)?;
                drain(generator)?;
                return Ok(end.since(&begin, None));
            }
        };
        let (begin, end, latencies) = paced(generator, pace, times, mark)?;
        let latency = (load == Load::Single).then(|| Single {
            p50: latencies.value_at_percentile(50.0),
            p99: latencies.value_at_percentile(99.0),
        });
        Ok(end.since(&begin, latency))
    }
}

impl Mark {
    fn now(cpu: Cpu<'_>, count: u64) -> Result<Mark, Trouble> {
        Ok(Mark {
            at: Instant::now(),
            nodes: cpu()?,
            generator: [own_cpu()?, own_waited()?],
            count,
        })
    }

    fn since(&self, before: &Mark, latency: Option<Single>) -> Figures {
        // A thread that ended meanwhile took its times with it.
        let between = |now: Duration, then| now.saturating_sub(then).as_secs_f64();
        let nodes = self.nodes.iter().zip(&before.nodes);
        let ([cpu, waited], [cpu_then, waited_then]) = (self.generator, before.generator);
        Figures {
            seconds: (self.at - before.at).as_secs_f64(),
            events: self.count - before.count,
            node_cpu_seconds: nodes.map(|(now, then)| between(*now, *then)).collect(),
            generator_cpu_seconds: between(cpu, cpu_then),
            generator_waited_seconds: between(waited, waited_then),
            latency,
        }
    }
}

/// Publishes probes until the subscriber has the last of them. They come in order, so none comes later.
fn until_heard(
    publisher: &mut TcpStream,
    subscriber: &mut TcpStream,
    dialect: Dialect,
    number: usize,
) -> Result<(), Trouble> {
    subscriber.set_nonblocking(false)?;
    subscriber.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let (begin, name) = (Instant::now(), topic(number));
    let (mut input, mut buffer) = (Vec::new(), [0; 4_096]);
    let mut probes = 0;
    while begin.elapsed() < HEARD_TIMEOUT {
        let probe = payload(PROBER, probes, PAYLOAD_BYTES);
        probes += 1;
        publisher.write_all(&dialect.publish(&name, &probe))?;
        let wanted = dialect.delivery(&name, &probe, &Asked::Exact, SID);
        // Ends: it reads what was sent before, and waits for no more.
        loop {
            match subscriber.read(&mut buffer) {
                Ok(0) => return Err(Trouble::Wrong("a node closed a subscriber".to_string())),
                Ok(count) => input.extend_from_slice(&buffer[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            if input.ends_with(&wanted) {
                subscriber.set_nonblocking(true)?;
                return Ok(());
            }
        }
    }
    Err(Trouble::Stuck(
        "nodes did not hear of a subscription in time".to_string(),
    ))
}
