//! What the web's crowd came to, as it is kept in `benches/results/web.json`, and the section of the report about it.
//!
//! Owns the shapes, which `benches/web` fills, and the words around the figures. Every event of every run is kept, not
//! only medians, so that the section can be made again. Start at [`section`].

use serde::{Deserialize, Serialize};

use crate::figures::{Spread, bytes, duration, number, ratio};
use crate::pieces::{table, text};
use crate::record::Machine;

/// Where the record is kept, from the repository's root.
pub const RECORD: &str = "benches/results/web.json";

/// Medians this near to each other are even, as in the comparison's verdicts.
const EVEN_WITHIN: f64 = 0.005;

/// A broker that waited for its CPU for more of the time than this was slowed by others as much as by its work.
const WAITED_MAX: f64 = 0.1;

/// One invocation of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crowd {
    /// What measures it again.
    pub command: String,
    /// UTC, as `2026-11-21`.
    pub date: String,
    /// As in the comparison's record.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// Subscribers of each kind.
    pub subscribers: u64,
    /// Events that were published in a second.
    pub events_per_second: u64,
    /// Seconds of each phase of a run that are measured.
    pub seconds: u64,
    /// Seconds of a phase, with those at its start that are not measured.
    pub phase_seconds: u64,
    /// Bytes of an event's payload.
    pub payload_bytes: u64,
    /// Bytes of a payload of the flood that the stalled subscriber gets, and of all of them.
    pub flood_payload_bytes: u64,
    /// See above.
    pub flood_bytes: u64,
    /// Each with a broker of its own.
    pub rounds: Vec<Round>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Of the machine at the start, over a minute.
    pub load_average: f64,
    /// The broker's resident bytes before the crowd came.
    pub memory_before: u64,
    /// The same with all WebSockets.
    pub memory_with_sockets: u64,
    /// The same with all event streams too.
    pub memory_with_streams: u64,
    /// With subscribers that read.
    pub alone: Phase,
    /// With one more that never does.
    pub beside_stalled: Phase,
    /// Seconds of the second phase, warm-up included, until the broker closed that one.
    pub stalled_closed_after: f64,
}

/// What was measured while events were published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// From the first measured publish until all had the last event.
    pub seconds: f64,
    /// Of the crowd's topic, all checked.
    pub deliveries: u64,
    /// The broker's CPU time meanwhile.
    pub broker_cpu_seconds: f64,
    /// How long its shard could have run and another process had the CPU.
    pub broker_waited_seconds: f64,
    /// The generator's CPU time.
    pub generator_cpu_seconds: f64,
    /// As of the broker.
    pub generator_waited_seconds: f64,
    /// Each event, to the WebSockets.
    pub sockets: Vec<Arrival>,
    /// Each event, to the event streams.
    pub streams: Vec<Arrival>,
}

/// When an event arrived: nanoseconds from its publish to the first and to the last subscriber of a kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Arrival(pub u64, pub u64);

/// What is read from the arrivals of a phase.
type Figure = fn(&Arrival) -> u64;

const FIRST: Figure = |arrival| arrival.0;
const LAST: Figure = |arrival| arrival.1;
const SPREAD: Figure = |arrival| arrival.1 - arrival.0;

/// How the events of a phase become one number.
type Over = fn(Vec<u64>) -> f64;

const P50: Over = |mut values| {
    values.sort_unstable();
    values
        .get(values.len() / 2)
        .map_or(f64::NAN, |&it| it as f64)
};
const WORST: Over = |values| values.into_iter().max().map_or(f64::NAN, |it| it as f64);

/// Which arrivals.
type Which = fn(&Round) -> &[Arrival];

const SOCKETS: Which = |round| &round.alone.sockets;
const STREAMS: Which = |round| &round.alone.streams;
const SOCKETS_STALLED: Which = |round| &round.beside_stalled.sockets;
const STREAMS_STALLED: Which = |round| &round.beside_stalled.streams;

impl Crowd {
    /// The figure in every run.
    fn spread(&self, of: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(of).collect())
    }

    /// A figure of arrivals.
    fn arrivals(&self, which: Which, figure: Figure, over: Over) -> Option<Spread> {
        self.spread(|round| over(which(round).iter().map(figure).collect()))
    }

    fn shown(&self, of: impl Fn(&Round) -> f64, show: impl Fn(f64) -> String) -> String {
        self.spread(of)
            .map_or("-".to_string(), |spread| spread.show(show))
    }
}

/// The section about it.
pub fn section(crowd: &Crowd) -> String {
    let subscribers = thousands(crowd.subscribers);
    let parts = [
        format!("## The web: {subscribers} WebSockets and {subscribers} event streams"),
        how(crowd),
        figures(crowd),
        findings(crowd),
        format!(
            "Measured on {} with Sapwood {} on {} CPUs of {}, Linux {}. To measure again, and to write this page:\n\n\
             ```console\n{}\ncargo bench --bench comparison -- --report\n```",
            text(&crowd.date),
            text(&crowd.commit),
            crowd.machine.cpus,
            text(&crowd.machine.cpu),
            text(&crowd.machine.kernel),
            crowd.command.trim()
        ),
    ];
    parts.join("\n\n")
}

fn how(crowd: &Crowd) -> String {
    let subscribers = thousands(crowd.subscribers);
    format!(
        "One broker with one shard on one CPU. {subscribers} WebSockets that speak `sapwood.json` and {subscribers} \
         streams of server-sent events hear one topic, to which a Redis client publishes {} events of {} a second for \
         {} s. The generator, one thread on the other CPU, compares every byte that arrives: a run in which an event is \
         missing, doubled or wrong has no figures. **First** and **last** are the times from the publish to the first \
         and to the last subscriber of a kind, the **spread** of an event is the difference. p50 is the middle one of \
         a run's events, worst the largest. A cell is the median of {} runs, with the least and the most in \
         parentheses. The generator's own reads, {} for each event, are within these times.\n\n\
         *Beside a stalled reader* is the same with one WebSocket more, which hears the topic too and never reads. A \
         topic of its own brings it {} in events of {}, so that it reaches the broker's cap and is closed.",
        crowd.events_per_second,
        bytes(crowd.payload_bytes as f64),
        crowd.seconds,
        crowd.rounds.len(),
        thousands(2 * crowd.subscribers),
        bytes(crowd.flood_bytes as f64),
        bytes(crowd.flood_payload_bytes as f64),
    )
}

fn figures(crowd: &Crowd) -> String {
    let each = crowd.subscribers as f64;
    let grown = |from: u64, to: u64| to.saturating_sub(from) as f64 / each;
    let mut lines = vec![vec![
        "memory for each, idle".to_string(),
        crowd.shown(
            |round| grown(round.memory_before, round.memory_with_sockets),
            bytes,
        ),
        crowd.shown(
            |round| grown(round.memory_with_sockets, round.memory_with_streams),
            bytes,
        ),
        "-".to_string(),
        "-".to_string(),
    ]];
    for (name, figure) in [("first", FIRST), ("last", LAST), ("spread", SPREAD)] {
        for (kind, over) in [("p50", P50), ("worst", WORST)] {
            let mut line = vec![format!("{name}, {kind}")];
            for which in [SOCKETS, STREAMS, SOCKETS_STALLED, STREAMS_STALLED] {
                let spread = crowd.arrivals(which, figure, over);
                line.push(spread.map_or("-".to_string(), |spread| spread.show(duration)));
            }
            lines.push(line);
        }
    }
    let header = [
        "",
        "WebSockets",
        "event streams",
        "WebSockets beside a stalled reader",
        "event streams beside a stalled reader",
    ];
    table(&header, lines)
}

fn findings(crowd: &Crowd) -> String {
    let percent = |value: f64| format!("{} %", number(value * 100.0));
    let seconds = |value: f64| format!("{} s", number(value));
    let cpu = |phase: fn(&Round) -> &Phase| {
        let of_cpu = |round: &Round| phase(round).broker_cpu_seconds / phase(round).seconds;
        let per_million = |round: &Round| {
            let phase = phase(round);
            phase.broker_cpu_seconds * 1e6 / phase.deliveries as f64
        };
        (
            crowd.shown(of_cpu, percent),
            crowd.shown(per_million, number),
        )
    };
    let alone: fn(&Round) -> &Phase = |round| &round.alone;
    let beside: fn(&Round) -> &Phase = |round| &round.beside_stalled;
    let ((of_cpu, million), (of_cpu_beside, million_beside)) = (cpu(alone), cpu(beside));
    let generator = |round: &Round| round.alone.generator_cpu_seconds / round.alone.seconds;
    let broker_waited = |round: &Round| round.alone.broker_waited_seconds / round.alone.seconds;
    let generator_waited =
        |round: &Round| round.alone.generator_waited_seconds / round.alone.seconds;
    let mut lines = vec![
        format!(
            "- The broker closed nobody but the stalled reader, that one after {} of {} s. {} {}",
            crowd.shown(|round| round.stalled_closed_after, seconds),
            crowd.phase_seconds,
            change(crowd, "the WebSockets", SOCKETS, SOCKETS_STALLED),
            change(crowd, "the event streams", STREAMS, STREAMS_STALLED),
        ),
        format!(
            "- The broker used {of_cpu} of its CPU, {million} s for a million deliveries; beside the stalled reader \
             {of_cpu_beside} and {million_beside} s, the flood included."
        ),
        format!(
            "- The generator used {} of its CPU. Other work on the machine made the broker wait for its CPU for {} of the \
             time, and the generator for {}.{}",
            crowd.shown(generator, percent),
            crowd.shown(broker_waited, percent),
            crowd.shown(generator_waited, percent),
            crowd.spread(broker_waited).map_or("", noise),
        ),
    ];
    lines.extend(order(crowd));
    lines.join("\n")
}

/// What a broker that had to wait for its CPU means for the times.
fn noise(waited: Spread) -> &'static str {
    match waited.median > WAITED_MAX {
        true => {
            " **So these times are longer than on a machine of its own**: they bound them from above, and a small effect \
             of the stalled reader would not show. The CPU for a million deliveries holds better."
        }
        false => "",
    }
}

/// Which kind is written to first, if one had to wait for the other.
fn order(crowd: &Crowd) -> Option<String> {
    let median = |which, figure| Some(crowd.arrivals(which, figure, P50)?.median);
    let begins_later = |earlier, later| {
        let (end, begin) = (median(earlier, LAST)?, median(later, FIRST)?);
        // The last of one and the first of the other are read within the same batch.
        Some(begin >= 0.9 * end)
    };
    let (first, second) = match begins_later(STREAMS, SOCKETS)? {
        true => ("event streams", "WebSockets"),
        false if begins_later(SOCKETS, STREAMS)? => ("WebSockets", "event streams"),
        false => return None,
    };
    Some(format!(
        "- The broker writes an event to all {first} before the {second}, so the first of these has it when the last \
         of those does."
    ))
}

/// Whether the stalled reader changed the others' spread, by the rule of the comparison's verdicts.
fn change(crowd: &Crowd, whose: &str, before: Which, after: Which) -> String {
    let spreads = |which| crowd.arrivals(which, SPREAD, P50);
    let Some((before, after)) = spreads(before).zip(spreads(after)) else {
        return String::new();
    };
    let times = after.median / before.median;
    match before.overlaps(&after) || (times - 1.0).abs() < EVEN_WITHIN {
        true => format!("The spread of {whose} did not change by more than between runs."),
        false => format!(
            "The spread of {whose} is {} what it is without it.",
            ratio(times)
        ),
    }
}

/// A number as people write it: `5,000`.
fn thousands(value: u64) -> String {
    match value {
        0..1_000 => value.to_string(),
        _ => format!("{},{:03}", thousands(value / 1_000), value % 1_000),
    }
}
