//! What a hop between nodes costs, as it is kept in `benches/results/tree.json`, and the section of the report about it.
//!
//! Owns the shapes, which `benches/tree` fills, and the words around the figures. Every run is kept, not only medians, so
//! that the section can be made again. Goals are judged here, from the runs alone. Start at [`section`].

use serde::{Deserialize, Serialize};

use crate::figures::{Spread, bytes, count, duration, number, ratio};
use crate::pieces::{one_line, table, text};
use crate::record::{Contender, Machine, RunFailure, Who};

/// Where the record is kept, from the repository's root.
pub const RECORD: &str = "benches/results/tree.json";

/// A node's CPU for an event, divided by a local delivery's of the same round.
const CPU_RATIO_MAX: f64 = 1.5;

/// Nanoseconds that a hop may add to the median latency.
const HOP_P50_MAX: f64 = 60_000.0;

/// A generator that waited for its CPU for more of the time than this saw others' work as latency.
const WAITED_MAX: f64 = 0.1;

/// Contenders that are held against each other: the same protocol first.
const PAIRS: [(Who, Who); 4] = [
    (Who::SapwoodNats, Who::Nats),
    (Who::SapwoodNats, Who::NatsNow),
    (Who::SapwoodNative, Who::Nats),
    (Who::SapwoodNative, Who::NatsNow),
];

/// One invocation of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hops {
    /// What measures it again.
    pub command: String,
    /// UTC, as `2026-11-21`.
    pub date: String,
    /// As in the comparison's record.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// Bytes of an event's payload.
    pub payload_bytes: u64,
    /// Events a second at [`Load::Paced`], and how many of them are due at once.
    pub paced_per_second: u64,
    /// See above.
    pub paced_batch: u64,
    /// Events that may be on their way at [`Load::Full`].
    pub window: u64,
    /// Events a second at [`Load::Single`].
    pub single_per_second: u64,
    /// Of the machine at the start of each round, over a minute.
    pub load_averages: Vec<f64>,
    /// Who took part and who could not.
    pub contenders: Vec<Contender>,
    /// Every run that was not cut off.
    pub runs: Vec<Run>,
    /// Runs that failed, and what was wrong: such a contender has no figure.
    pub failures: Vec<RunFailure>,
}

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// A steady rate, many at once.
    Paced,
    /// As many as get through.
    Full,
    /// A low rate, each alone.
    Single,
}

/// One load on one way through one contender's chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Whose.
    pub who: Who,
    /// From 1.
    pub round: u32,
    /// From the publisher's node, which is the chain's first, to the subscriber's.
    pub hops: usize,
    /// How events were sent.
    pub load: Load,
    /// How long was measured, after warming up.
    pub seconds: f64,
    /// That arrived in that time and were right.
    pub events: u64,
    /// CPU time of each node of the chain meanwhile.
    pub node_cpu_seconds: Vec<f64>,
    /// The generator's.
    pub generator_cpu_seconds: f64,
    /// For how long the generator could have run and another process had its CPU.
    pub generator_waited_seconds: f64,
    /// For [`Load::Single`].
    pub latency: Option<Single>,
}

/// Latencies of events that are alone, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Single {
    /// Half were faster.
    pub p50: u64,
    /// 99 of 100 were.
    pub p99: u64,
}

/// Which latency.
type Percentile = fn(&Single) -> u64;

const P50: Percentile = |single| single.p50;
const P99: Percentile = |single| single.p99;

impl Load {
    /// All, in the order in which they run.
    pub const ALL: [Load; 3] = [Load::Paced, Load::Full, Load::Single];

    fn title(self) -> &'static str {
        match self {
            Load::Paced => "paced",
            Load::Full => "full speed",
            Load::Single => "one at a time",
        }
    }
}

impl Run {
    /// CPU-seconds of a node for a million events.
    fn cpu_per_million(&self, node: usize) -> Option<f64> {
        Some(self.node_cpu_seconds.get(node)? * 1e6 / self.events as f64)
    }

    /// The same of all nodes that an event passes.
    fn path_cpu_per_million(&self) -> Option<f64> {
        (0..=self.hops).map(|node| self.cpu_per_million(node)).sum()
    }

    /// The same of the node that has most to do of those that an event does not pass.
    fn idle_cpu_per_million(&self) -> Option<f64> {
        let idle = self.hops + 1..self.node_cpu_seconds.len();
        let costs = idle.filter_map(|node| self.cpu_per_million(node));
        costs.max_by(f64::total_cmp)
    }
}

impl Hops {
    /// Contenders with figures.
    fn shown(&self) -> Vec<Who> {
        let is_shown = |who: &Who| self.figures().any(|run| run.who == *who);
        Who::ALL.into_iter().filter(is_shown).collect()
    }

    /// Runs of those that had no failure.
    fn figures(&self) -> impl Iterator<Item = &Run> {
        let has_failed = |who| self.failures.iter().any(|failure| failure.who == who);
        self.runs.iter().filter(move |run| !has_failed(run.who))
    }

    fn runs(&self, who: Who, load: Load, hops: usize) -> impl Iterator<Item = &Run> {
        let is_one = move |run: &&Run| (run.who, run.load, run.hops) == (who, load, hops);
        self.figures().filter(is_one)
    }

    /// Numbers of hops that were measured, rising.
    fn ways(&self) -> Vec<usize> {
        let mut ways: Vec<usize> = self.runs.iter().map(|run| run.hops).collect();
        ways.sort_unstable();
        ways.dedup();
        ways
    }

    /// A figure of each run; none if a run lacks it.
    fn spread(
        &self,
        (who, load, hops): (Who, Load, usize),
        of: impl Fn(&Run) -> Option<f64>,
    ) -> Option<Spread> {
        let values: Option<Vec<f64>> = self.runs(who, load, hops).map(of).collect();
        Spread::of(values?)
    }

    /// A figure of each run beside that of the local delivery of the same round.
    fn beside_local(
        &self,
        (who, load, hops): (Who, Load, usize),
        of: impl Fn(&Run, &Run) -> Option<f64>,
    ) -> Option<Spread> {
        self.spread((who, load, hops), |run| {
            let mut locals = self.runs(who, load, 0);
            of(run, locals.find(|local| local.round == run.round)?)
        })
    }

    /// The part of the time for which the generator waited while it measured latencies.
    fn waited(&self) -> Option<Spread> {
        let singles = self.figures().filter(|run| run.load == Load::Single);
        Spread::of(
            singles
                .map(|run| run.generator_waited_seconds / run.seconds)
                .collect(),
        )
    }

    /// Whether others kept the machine from showing latencies.
    fn is_noisy(&self) -> bool {
        self.waited()
            .is_some_and(|waited| waited.median > WAITED_MAX)
    }

    /// A node's CPU divided by that of a local delivery.
    fn cpu_ratio(&self, way: (Who, Load, usize), node: usize) -> Option<Spread> {
        self.beside_local(way, |run, local| {
            Some(run.cpu_per_million(node)? / local.cpu_per_million(0)?)
        })
    }

    /// Nanoseconds more than a local delivery takes.
    fn more(&self, who: Who, hops: usize, which: Percentile) -> Option<Spread> {
        self.beside_local((who, Load::Single, hops), |run, local| {
            let at = |run: &Run| run.latency.as_ref().map(|single| which(single) as f64);
            Some(at(run)? - at(local)?)
        })
    }
}

/// The section about it.
pub fn section(hops: &Hops) -> String {
    let mut parts = vec![
        "## A hop between nodes".to_string(),
        how(hops),
        goals(hops),
        format!("### CPU, paced\n\n{}", cpu_table(hops, Load::Paced)),
        format!("### CPU, at full speed\n\n{}", cpu_table(hops, Load::Full)),
        format!("### Latency\n\n{}", latency_table(hops)),
        findings(hops),
    ];
    parts.push(format!(
        "Measured on {} with Sapwood {} on {} CPUs of {}, Linux {}, at load averages of {}. To measure again, and to \
         write this page:\n\n```console\n{}\ncargo bench --bench comparison -- --report\n```",
        text(&hops.date),
        text(&hops.commit),
        hops.machine.cpus,
        text(&hops.machine.cpu),
        text(&hops.machine.kernel),
        shown(Spread::of(hops.load_averages.clone()), number),
        hops.command.trim()
    ));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn how(hops: &Hops) -> String {
    format!(
        "Four nodes in a chain, each the parent of the next; those of nats-server are leaf nodes. All nodes run on one \
         CPU, each Sapwood with one shard, and the generator on the other. A publisher at the first node sends events of \
         {} to one subscriber: at the same node (0 hops, *local*), at the next (1), at the last (3). The generator, one \
         thread and so one clock, compares every byte that arrives: a run in which an event is missing, doubled, changed \
         or out of order has no figures. *Paced*: {} events a second, {} at once. *Full speed*: at most {} events on \
         their way. *Latency*: {} events a second, each alone on its way.\n\n\
         s/M is a node's CPU-seconds, user and system, for a million events. In parentheses stand the least and the most \
         of {} rounds, each with a chain of its own for each contender; ratios and differences are to the local delivery of \
         the same round.",
        bytes(hops.payload_bytes as f64),
        count(hops.paced_per_second as f64),
        hops.paced_batch,
        count(hops.window as f64),
        count(hops.single_per_second as f64),
        hops.load_averages.len(),
    )
}

/// A goal, and what was measured.
struct Judged {
    what: String,
    goal: String,
    measured: Option<(String, Spread)>,
    most: f64,
}

impl Judged {
    fn is_met(&self) -> Option<bool> {
        let (_, spread) = self.measured.as_ref()?;
        Some(spread.median <= self.most)
    }

    fn line(&self, who: Who) -> Vec<String> {
        let result = match (self.is_met(), &self.measured) {
            (Some(is_met), Some((_, spread))) => {
                let word = if is_met { "met" } else { "**not met**" };
                let may_change = spread.min <= self.most && self.most < spread.max;
                format!(
                    "{word}{}",
                    if may_change {
                        ", within the spread"
                    } else {
                        ""
                    }
                )
            }
            _ => "not measured".to_string(),
        };
        let measured = self.measured.as_ref();
        vec![
            who.title().to_string(),
            self.what.clone(),
            self.goal.clone(),
            measured.map_or("-".to_string(), |(shown, _)| shown.clone()),
            result,
        ]
    }
}

fn judged(hops: &Hops, who: Who, far: usize) -> Vec<Judged> {
    let mut all = Vec::new();
    let plural = if far == 1 { "hop" } else { "hops" };
    for load in [Load::Paced, Load::Full] {
        let nodes = 0..=far;
        let ratios = nodes.map(|node| Some((node, hops.cpu_ratio((who, load, far), node)?)));
        let ratios: Option<Vec<_>> = ratios.collect();
        let worst = ratios.and_then(|ratios| {
            let median = |(_, ratio): &(usize, Spread)| ratio.median;
            ratios
                .into_iter()
                .max_by(|a, b| median(a).total_cmp(&median(b)))
        });
        all.push(Judged {
            what: format!("{far} {plural}, {}: each node's CPU", load.title()),
            goal: format!("at most {CPU_RATIO_MAX}x"),
            measured: worst.map(|(node, spread)| {
                (
                    format!("node {}: {}", node + 1, times(Some(spread))),
                    spread,
                )
            }),
            most: CPU_RATIO_MAX,
        });
    }
    let most = HOP_P50_MAX * far as f64;
    all.push(Judged {
        what: format!("{far} {plural}: p50 more than local"),
        goal: match far {
            1 => format!("at most {}", duration(most)),
            _ => format!(
                "at most {} a hop: {}",
                duration(HOP_P50_MAX),
                duration(most)
            ),
        },
        measured: hops
            .more(who, far, P50)
            .filter(|_| !hops.is_noisy())
            .map(|spread| (shown(Some(spread), duration), spread)),
        most,
    });
    all
}

fn goals(hops: &Hops) -> String {
    let (mut lines, mut met, mut not_met) = (Vec::new(), 0, 0);
    for who in Who::ALL.into_iter().filter(|who| who.is_ours()) {
        if !hops.contenders.iter().any(|contender| contender.id == who) {
            continue;
        }
        for far in [1, 3] {
            for one in judged(hops, who, far) {
                met += usize::from(one.is_met() == Some(true));
                not_met += usize::from(one.is_met() == Some(false));
                lines.push(one.line(who));
            }
        }
    }
    format!(
        "Of {} goals, set before measuring and judged by medians, **{met} are met and {not_met} are not**. Of CPU the node \
         that is worst off is shown.\n\n{}",
        lines.len(),
        table(&["who", "what", "goal", "measured", "result"], lines)
    )
}

fn cpu_table(hops: &Hops, load: Load) -> String {
    let nodes = hops.ways().last().map_or(0, |far| far + 1);
    let mut lines = Vec::new();
    for who in hops.shown() {
        for far in hops.ways() {
            let way = (who, load, far);
            let mut line = vec![who.title().to_string(), far.to_string()];
            line.extend((0..nodes).map(|node| match node <= far {
                true => node_cell(hops, way, node),
                false => "-".to_string(),
            }));
            line.push(shown(hops.spread(way, Run::path_cpu_per_million), number));
            let rate = |run: &Run| Some(run.events as f64 / run.seconds);
            line.push(shown(hops.spread(way, rate), count));
            lines.push(line);
        }
    }
    let heads: Vec<String> = (1..=nodes)
        .map(|node| format!("node {node}, s/M"))
        .collect();
    let mut header = vec!["contender", "hops"];
    header.extend(heads.iter().map(String::as_str));
    header.extend(["together, s/M", "events/s"]);
    table(&header, lines)
}

/// What a node needs, and how much that is beside a local delivery.
fn node_cell(hops: &Hops, way: (Who, Load, usize), node: usize) -> String {
    let cost = shown(hops.spread(way, |run| run.cpu_per_million(node)), number);
    match way.2 {
        0 => cost,
        _ => format!("{cost}: {}", times(hops.cpu_ratio(way, node))),
    }
}

fn latency_table(hops: &Hops) -> String {
    let mut lines = Vec::new();
    for who in hops.shown() {
        for far in hops.ways() {
            let mut line = vec![who.title().to_string(), far.to_string()];
            for which in [P50, P99] {
                let at = |run: &Run| run.latency.as_ref().map(|single| which(single) as f64);
                let way = (who, Load::Single, far);
                line.push(shown(hops.spread(way, at), duration));
                line.push(match far {
                    0 => "-".to_string(),
                    _ => shown(hops.more(who, far, which), duration),
                });
            }
            lines.push(line);
        }
    }
    let header = [
        "contender",
        "hops",
        "p50",
        "more than local",
        "p99",
        "more than local",
    ];
    table(&header, lines)
}

fn findings(hops: &Hops) -> String {
    let shown = hops.shown();
    let far = hops.ways().last().copied().unwrap_or(0);
    let mut lines = Vec::new();
    for (who, peer) in PAIRS {
        if !shown.contains(&who) || !shown.contains(&peer) {
            continue;
        }
        let cpu = |load| against(hops, (who, peer), (load, far), Run::path_cpu_per_million);
        let p50 = |run: &Run| run.latency.as_ref().map(|single| single.p50 as f64);
        lines.push(format!(
            "- **{}, against {}, {far} hops:** the CPU of all nodes together is {} when paced and {} at full speed, p50 \
             is {}.",
            who.title(),
            peer.title(),
            cpu(Load::Paced),
            cpu(Load::Full),
            against(hops, (who, peer), (Load::Single, far), p50),
        ));
    }
    let ours = |run: &&Run| run.who.is_ours() && run.load != Load::Single;
    let idle = hops
        .figures()
        .filter(ours)
        .filter_map(Run::idle_cpu_per_million);
    let idle = idle.filter(|cost| cost.is_finite()).max_by(f64::total_cmp);
    lines.extend(idle.map(|idle| {
        format!(
            "- A node of Sapwood that the events do not pass needed at most {} s/M meanwhile.",
            number(idle)
        )
    }));
    lines.extend(noise(hops));
    for contender in &hops.contenders {
        let title = contender.id.title();
        lines.extend(contender.missing.as_ref().map(|reason| {
            format!(
                "- {title} **did not take part**, so nothing is said of it: {}",
                text(reason)
            )
        }));
    }
    for failure in &hops.failures {
        // A code span ends at a backtick, and shows all else as it is.
        let error = one_line(&failure.error).replace('`', "'");
        lines.push(format!(
            "- **{} failed in round {}, so it has no figure:** `{error}`",
            failure.who.title(),
            failure.round
        ));
    }
    lines.join("\n")
}

/// What others did to the latencies.
fn noise(hops: &Hops) -> Option<String> {
    let percent = |value: f64| format!("{} %", number(value * 100.0));
    let meaning = match hops.is_noisy() {
        true => {
            " **So the latencies are others' as much as the brokers'**, and no goal is judged by them."
        }
        false => "",
    };
    Some(format!(
        "- While latencies were measured, other work on the machine made the generator wait for its CPU for {} of the \
         time.{meaning}",
        shown(Some(hops.waited()?), percent)
    ))
}

/// One contender's figure divided by another's, or that it does not differ.
fn against(
    hops: &Hops,
    (who, peer): (Who, Who),
    (load, far): (Load, usize),
    of: impl Fn(&Run) -> Option<f64>,
) -> String {
    let ours = hops.spread((who, load, far), &of);
    match ours.zip(hops.spread((peer, load, far), &of)) {
        None => "not measured".to_string(),
        Some((ours, theirs)) if ours.overlaps(&theirs) => "the same within the spread".to_string(),
        Some((ours, theirs)) => ratio(ours.median / theirs.median),
    }
}

fn shown(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    match spread {
        None => "-".to_string(),
        // One run, as of a quick look.
        Some(one) if one.min == one.max => show(one.median),
        Some(spread) => spread.show(show),
    }
}

/// As a number also well below one: columns of these are compared with a limit.
fn times(spread: Option<Spread>) -> String {
    let shown = shown(spread, number);
    match shown.split_once(' ') {
        Some((median, range)) => format!("{median}x {range}"),
        None if spread.is_none() => shown,
        None => format!("{shown}x"),
    }
}
