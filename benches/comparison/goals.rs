//! What Sapwood set out to reach against its peers, and whether the record shows it.
//!
//! Owns the goals alone; they were set before the comparison ran. Each is a bound on one figure's ratio, or on the
//! figure itself, and holds for medians of the usual run: one shard, one generator.

use crate::figures::{Metric, has_failed, peer, ratio, rows};
use crate::record::{Record, Who, Workload};
use crate::verdicts::is_generators;

/// A bound on Sapwood's figure divided by the other's, or on the figure itself where there is no other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// A bound that holds for some workloads.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Their ids.
    pub workloads: &'static [&'static str],
    /// Whose figure.
    pub who: Who,
    /// In which variant; usually empty.
    pub variant: &'static str,
    /// Divided by whose; none where the figure itself is bounded.
    pub against: Option<Who>,
    /// Which figure.
    pub metric: Metric,
    /// By how much.
    pub bound: Bound,
}

/// Whether a goal is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// By the medians.
    Met,
    /// By the medians.
    NotMet,
    /// The generator was the limit on the side that would have to be faster to decide it.
    NotShown,
    /// There are no figures, and why.
    NotMeasured(String),
}

/// A goal in one workload, held against the record.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The goal.
    pub goal: Goal,
    /// One of the goal's workloads.
    pub workload: &'static str,
    /// Sapwood's median.
    pub ours: Option<f64>,
    /// The other's median.
    pub theirs: Option<f64>,
    /// What the bound is on.
    pub measured: Option<f64>,
    /// Whether the two spreads overlap.
    pub within_spread: bool,
    /// What follows.
    pub reached: Reached,
}

/// As much more as still counts as no worse.
const NO_WORSE: f64 = 0.05;

const CLOSED: &[&str] = &["closed-1", "closed-50", "closed-50-p16", "closed-flood"];
const REQUESTS: &[&str] = &["request-1", "request-50"];
const RATES: &[&str] = &["latency-10k", "latency-50k"];

/// All, in the order of the table.
pub fn goals() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Metric::{Connection, Cpu, P50, P99, Rate};
    let many: &[&str] = &["pairs-100", "interleaved"];
    let mut goals = vec![
        redis(&["pipelined-128"], Cpu, AtMost(1.0 / 7.0)),
        redis(&["pipelined-128"], Rate, AtLeast(4.0)),
        floor(&["pipelined-128"], 1.5),
        redis(&["pipelined-64k"], Cpu, AtMost(1.0 / 1.6)),
        floor(&["pipelined-64k"], 1.35),
        redis(&["fanout-100"], Cpu, AtMost(1.0 / 4.0)),
        floor(&["fanout-100"], 2.0),
        redis(many, Cpu, AtMost(1.0 / 7.0)),
        floor(many, 2.0),
        redis(&["single-1"], Cpu, AtMost(1.0 / 3.0)),
        redis(&["single-1"], Rate, AtLeast(1.5)),
        redis(&["single-100"], Cpu, AtMost(1.0)),
        redis(CLOSED, Rate, AtLeast(1.0 - NO_WORSE)),
        redis(CLOSED, P50, AtMost(1.0 + NO_WORSE)),
    ];
    let against_nats = |metric, bound| Goal {
        who: Who::SapwoodNative,
        against: Some(Who::Nats),
        ..redis(REQUESTS, metric, bound)
    };
    // Against the better of two versions: so against each.
    for other in [Who::Nats, Who::NatsNow] {
        let nats = |workloads, metric, bound| Goal {
            who: Who::SapwoodNats,
            against: Some(other),
            ..redis(workloads, metric, bound)
        };
        goals.extend([
            nats(&["pipelined-128"], Cpu, AtMost(1.0 / 3.0)),
            nats(&["fanout-100", "pairs-100"], Cpu, AtMost(1.0 / 2.5)),
            nats(&["interleaved", "single-1"], Cpu, AtMost(1.0 / 2.0)),
            nats(&["latency-10k"], P50, AtMost(1.0 + NO_WORSE)),
            nats(&["latency-10k"], P99, AtMost(1.0)),
            nats(&["idle-10000"], Connection, AtMost(1.0 / 10.0)),
            nats(REQUESTS, Rate, AtLeast(1.0 - NO_WORSE)),
        ]);
    }
    goals.extend([
        against_nats(Rate, AtLeast(1.0 - NO_WORSE)),
        against_nats(P50, AtMost(1.0 + NO_WORSE)),
        redis(RATES, P50, AtMost(1.1)),
        redis(RATES, P99, AtMost(1.0)),
        Goal {
            variant: "--latency spin",
            ..redis(RATES, P50, AtMost(0.5))
        },
        redis(&["idle-10000"], Connection, AtMost(1.0 / 6.0)),
        Goal {
            who: Who::SapwoodNative,
            against: None,
            ..redis(&["idle-10000"], Connection, AtMost(1.5 * 1024.0))
        },
    ]);
    goals
}

/// Of Sapwood, spoken to as redis-server is, against it.
fn redis(workloads: &'static [&'static str], metric: Metric, bound: Bound) -> Goal {
    Goal {
        workloads,
        who: Who::SapwoodRedis,
        variant: "",
        against: Some(Who::Redis),
        metric,
        bound,
    }
}

/// Of native Sapwood's CPU against the floor's.
fn floor(workloads: &'static [&'static str], most: f64) -> Goal {
    Goal {
        who: Who::SapwoodNative,
        against: Some(Who::Relay),
        ..redis(workloads, Metric::Cpu, Bound::AtMost(most))
    }
}

/// Every goal in each of its workloads.
pub fn findings(record: &Record) -> Vec<Finding> {
    let each = |goal: Goal| {
        let workloads = goal.workloads.iter();
        workloads.map(move |workload| finding(record, goal, workload))
    };
    goals().into_iter().flat_map(each).collect()
}

fn finding(record: &Record, goal: Goal, id: &'static str) -> Finding {
    let mut finding = Finding {
        goal,
        workload: id,
        ours: None,
        theirs: None,
        measured: None,
        within_spread: false,
        reached: Reached::NotMeasured("not run".to_string()),
    };
    let workload = record.workloads.iter().find(|workload| workload.id == id);
    if let Some(workload) = workload
        && let Err(why) = fill(&mut finding, record, workload)
    {
        finding.reached = Reached::NotMeasured(why);
    }
    finding
}

/// Puts the figures in, or says why there are none.
fn fill(finding: &mut Finding, record: &Record, workload: &Workload) -> Result<(), String> {
    let (goal, rows) = (finding.goal, rows(workload));
    let absent = |who: Who| why_absent(record, workload, who);
    let ours = rows
        .iter()
        .find(|row| row.who == goal.who && row.variant == goal.variant);
    let ours = ours.ok_or_else(|| absent(goal.who))?;
    let our = ours.spread(goal.metric).ok_or_else(|| absent(goal.who))?;
    finding.ours = Some(our.median);
    let mut measured = our.median;
    let mut theirs_is_generators = false;
    if let Some(who) = goal.against {
        let theirs = peer(&rows, ours, who).ok_or_else(|| absent(who))?;
        let their = theirs.spread(goal.metric).ok_or_else(|| absent(who))?;
        finding.theirs = Some(their.median);
        finding.within_spread = our.overlaps(&their);
        measured /= their.median;
        theirs_is_generators = is_generators(theirs, goal.metric, workload.kind);
    }
    if !measured.is_finite() {
        return Err("no ratio to nothing".to_string());
    }
    finding.measured = Some(measured);
    // A side whose generator was the limit may be faster than it looks, which can only help that side.
    let ours_is_generators = is_generators(ours, goal.metric, workload.kind);
    finding.reached = match goal.bound.holds(measured) {
        true if !theirs_is_generators => Reached::Met,
        false if !ours_is_generators => Reached::NotMet,
        _ => Reached::NotShown,
    };
    Ok(())
}

fn why_absent(record: &Record, workload: &Workload, who: Who) -> String {
    let contender = record.contenders.iter().find(|found| found.id == who);
    let is_missing = contender.is_some_and(|found| found.missing.is_some());
    let why = match (has_failed(workload, who), is_missing) {
        (true, _) => "failed",
        (_, true) => "did not take part",
        _ => "was not run here",
    };
    format!("{} {why}", who.title())
}

impl Bound {
    /// Whether a value is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }
}

impl Goal {
    /// In words: `CPU at most 0.143x`.
    pub fn words(&self) -> String {
        let show = |value: f64| match self.against {
            Some(_) => ratio(value),
            None => self.metric.show(value),
        };
        let noun = self.metric.noun();
        match self.bound {
            Bound::AtMost(1.0) => format!("{noun} no higher"),
            Bound::AtMost(most) => format!("{noun} at most {}", show(most)),
            Bound::AtLeast(least) => format!("{noun} at least {}", show(least)),
        }
    }
}

impl Finding {
    /// In words, with what the reader has to know beside it.
    pub fn words(&self) -> String {
        let spread = match self.within_spread {
            true => ", within the spread",
            false => "",
        };
        match &self.reached {
            Reached::Met => format!("met{spread}"),
            Reached::NotMet => format!("**not met**{spread}"),
            Reached::NotShown => "not shown: the generator was the limit".to_string(),
            Reached::NotMeasured(why) => format!("not measured: {why}"),
        }
    }

    /// The bounded figure as measured.
    pub fn measured_words(&self) -> String {
        let Some(measured) = self.measured else {
            return "-".to_string();
        };
        match self.goal.against {
            Some(_) => ratio(measured),
            None => self.goal.metric.show(measured),
        }
    }

    /// A figure in the metric's unit.
    pub fn figure(&self, value: Option<f64>) -> String {
        value.map_or("-".to_string(), |value| {
            let shown = self.goal.metric.show(value);
            match self.goal.metric {
                Metric::Cpu => format!("{shown} s/M"),
                _ => shown,
            }
        })
    }
}
