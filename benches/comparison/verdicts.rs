//! What may be said of two rows, by rule.
//!
//! Owns when Sapwood is ahead, behind or neither, and the sentences that say so. The rules:
//!
//! - Medians compare. Where the spreads overlap, or the medians are within [`EVEN_WITHIN`], there is no difference.
//! - Where either side's generator was busier than [`crate::figures::GENERATOR_LOAD_MAX`], neither rates nor closed-loop
//!   latencies compare; CPU still does.
//! - A loss is stated as one. The relay is a floor and no rival, so above it is neither.

use crate::figures::{Metric, Row, named, peer, ratio, usual};
use crate::record::{Kind, Who};

/// Medians this near to each other are even, however narrow the spreads: a ratio would be written as 1x.
pub const EVEN_WITHIN: f64 = 0.005;

/// Who is held against whom: first those that speak the same protocol, or come nearest to it.
pub const PAIRS: [(Who, Who); 6] = [
    (Who::SapwoodRedis, Who::Redis),
    (Who::SapwoodNats, Who::Nats),
    (Who::SapwoodNats, Who::NatsNow),
    (Who::SapwoodNative, Who::Nats),
    (Who::SapwoodNative, Who::Relay),
    (Who::SapwoodRedis, Who::Nats),
];

/// How two figures stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sapwood's is better, beyond the spread.
    Better,
    /// Sapwood's is worse, beyond the spread.
    Worse,
    /// No difference beyond the spread.
    Even,
    /// The generator was the limit, so nobody knows.
    GeneratorLimit,
}

/// One figure of two rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Which.
    pub metric: Metric,
    /// Sapwood's median divided by the other's.
    pub ratio: f64,
    /// What that means.
    pub outcome: Outcome,
}

/// What Sapwood's row is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against<'a> {
    /// Another contender.
    Peer(Who),
    /// Sapwood itself in another variant; empty for the usual one.
    Variant(&'a str),
}

/// How two rows stand.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// Sapwood's, with its variant.
    pub who: Who,
    /// Empty for the usual one.
    pub variant: &'a str,
    /// The other's.
    pub against: Against<'a>,
    /// Figures that both have; never empty.
    pub comparisons: Vec<Comparison>,
    /// The larger of both generators' loads, if it matters.
    pub load: f64,
    kind: Kind,
}

/// How Sapwood stands over all figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Better in some, worse in none.
    Ahead,
    /// Worse in some, better in none.
    Behind,
    /// Both.
    Mixed,
    /// No difference.
    Even,
}

/// Figures that a kind of workload is judged by.
pub fn judged(kind: Kind) -> &'static [Metric] {
    match kind {
        Kind::Throughput => &[Metric::Cpu, Metric::Rate],
        Kind::Closed => &[Metric::Rate, Metric::P50, Metric::P99, Metric::Cpu],
        Kind::Latency => &[Metric::P50, Metric::P99, Metric::Cpu],
        Kind::Idle => &[Metric::Connection],
    }
}

/// Whether a row's figure is the generator's and not the server's.
pub fn is_generators(row: &Row<'_>, metric: Metric, kind: Kind) -> bool {
    // At a fixed rate a generator may wait by spinning, which is a full load and no limit.
    let may_be = matches!(kind, Kind::Throughput | Kind::Closed);
    let is_servers = matches!(metric, Metric::Cpu | Metric::Memory | Metric::Connection);
    may_be && !is_servers && row.is_generator_bound()
}

/// One figure of two rows, if both have it.
pub fn compare(ours: &Row<'_>, theirs: &Row<'_>, metric: Metric, kind: Kind) -> Option<Comparison> {
    let (our, their) = (ours.spread(metric)?, theirs.spread(metric)?);
    let ratio = our.median / their.median;
    if !ratio.is_finite() {
        return None;
    }
    let is_even = our.overlaps(&their) || (ratio - 1.0).abs() < EVEN_WITHIN;
    let outcome = if is_generators(ours, metric, kind) || is_generators(theirs, metric, kind) {
        Outcome::GeneratorLimit
    } else if is_even {
        Outcome::Even
    } else if (ratio < 1.0) == metric.less_is_better() {
        Outcome::Better
    } else {
        Outcome::Worse
    };
    Some(Comparison {
        metric,
        ratio,
        outcome,
    })
}

/// Everything that is to be said of a workload: each of Sapwood's rows against its peers, and each of its variants
/// against its usual row.
pub fn verdicts<'a>(rows: &[Row<'a>], kind: Kind) -> Vec<Verdict<'a>> {
    let mut verdicts = Vec::new();
    for (who, other) in PAIRS {
        // Redis clients are no reason to look at nats-server more than once.
        let most = if other == Who::Nats && who == Who::SapwoodRedis {
            1
        } else {
            usize::MAX
        };
        for row in rows.iter().filter(|row| row.who == who).take(most) {
            let theirs = peer(rows, row, other);
            verdicts.extend(theirs.and_then(|theirs| judge(row, theirs, kind)));
        }
    }
    for who in Who::ALL.into_iter().filter(|who| who.is_ours()) {
        let base = usual(rows, who);
        for row in rows.iter().filter(|row| row.who == who).skip(1) {
            verdicts.extend(base.and_then(|base| judge(row, base, kind)));
        }
    }
    verdicts
}

/// One of Sapwood's rows against another row, if they have a figure in common.
fn judge<'a>(ours: &Row<'a>, theirs: &Row<'a>, kind: Kind) -> Option<Verdict<'a>> {
    let comparisons: Vec<_> = judged(kind)
        .iter()
        .filter_map(|metric| compare(ours, theirs, *metric, kind))
        .collect();
    let load = |row: &Row<'_>| row.spread(Metric::Load).map_or(0.0, |load| load.median);
    let against = match ours.who == theirs.who {
        true => Against::Variant(theirs.variant),
        false => Against::Peer(theirs.who),
    };
    (!comparisons.is_empty()).then(|| Verdict {
        who: ours.who,
        variant: ours.variant,
        against,
        comparisons,
        load: load(ours).max(load(theirs)),
        kind,
    })
}

impl Comparison {
    /// `CPU 0.137x`; without a number where that would be the generator's.
    pub fn short(&self) -> String {
        let noun = self.metric.noun();
        match self.outcome {
            Outcome::GeneratorLimit => format!("{noun} not comparable"),
            _ => format!("{noun} {}", ratio(self.ratio)),
        }
    }
}

impl Against<'_> {
    /// For people.
    pub fn title(self) -> String {
        match self {
            Against::Peer(Who::Relay) => "the floor".to_string(),
            Against::Peer(who) => who.title().to_string(),
            Against::Variant("") => "its usual run".to_string(),
            Against::Variant(variant) => variant.to_string(),
        }
    }

    /// `redis-server's CPU`.
    fn of(self, noun: &str) -> String {
        match self {
            Against::Variant("") => format!("the usual {noun}"),
            Against::Variant(variant) => format!("the {noun} of {variant}"),
            Against::Peer(_) => format!("{}'s {noun}", self.title()),
        }
    }
}

impl Verdict<'_> {
    /// Over all figures.
    pub fn standing(&self) -> Standing {
        let has = |outcome| !self.with(outcome).is_empty();
        match (has(Outcome::Better), has(Outcome::Worse)) {
            (true, true) => Standing::Mixed,
            (true, false) => Standing::Ahead,
            (false, true) => Standing::Behind,
            (false, false) => Standing::Even,
        }
    }

    /// In whole sentences.
    pub fn sentences(&self) -> String {
        let mut sentences = Vec::new();
        let phrases = |outcomes: &[Outcome]| {
            let found = self
                .comparisons
                .iter()
                .filter(|found| outcomes.contains(&found.outcome));
            let mut phrases: Vec<_> = found.map(|found| self.phrase(found)).collect();
            // Two percentiles share their verb.
            for index in (1..phrases.len()).rev() {
                if phrases[index - 1].starts_with("has ") && phrases[index].starts_with("has ") {
                    phrases[index].drain(.."has ".len());
                }
            }
            phrases
        };
        if self.against == Against::Peer(Who::Relay) {
            let apart = phrases(&[Outcome::Better, Outcome::Worse]);
            sentences.extend(listed(&apart).map(|list| format!("Sapwood {list}.")));
        } else {
            let better = phrases(&[Outcome::Better]);
            sentences.extend(listed(&better).map(|list| format!("Sapwood {list}.")));
            let worse = phrases(&[Outcome::Worse]);
            let loss = self.loss();
            sentences.extend(listed(&worse).map(|list| format!("Sapwood {loss} here: it {list}.")));
        }
        let even = listed(&self.nouns(Outcome::Even));
        sentences.extend(even.map(|nouns| format!("No difference beyond the spread in {nouns}.")));
        if let Some(nouns) = listed(&self.nouns(Outcome::GeneratorLimit)) {
            let load = crate::figures::number(self.load);
            sentences.push(format!(
                "Only CPU compares: in {nouns} the generator was the limit (load {load}) and not the server."
            ));
        }
        sentences.join(" ")
    }

    /// For the line of a table: how it stands, and the figures in which there is a difference.
    pub fn short(&self) -> String {
        let different =
            |found: &&Comparison| matches!(found.outcome, Outcome::Better | Outcome::Worse);
        let figures: Vec<_> = self
            .comparisons
            .iter()
            .filter(different)
            .map(Comparison::short)
            .collect();
        let (figures, title) = (figures.join(", "), self.against.title());
        if figures.is_empty() {
            return match self.against {
                Against::Variant(_) => format!("{}: as {title}", self.titled()),
                Against::Peer(_) => format!("**even** with {title}"),
            };
        }
        match (self.against, self.standing()) {
            (Against::Variant(_), _) => format!("{}, against {title}: {figures}", self.titled()),
            (Against::Peer(Who::Relay), _) => format!("against {title}: {figures}"),
            (_, Standing::Behind) => format!("**behind** {title}: {figures}"),
            (_, Standing::Mixed) => format!("**mixed** against {title}: {figures}"),
            (_, Standing::Ahead | Standing::Even) => format!("**ahead** of {title}: {figures}"),
        }
    }

    fn titled(&self) -> String {
        named(self.who.title(), self.variant)
    }

    fn with(&self, outcome: Outcome) -> Vec<&Comparison> {
        let found = self.comparisons.iter();
        found.filter(|found| found.outcome == outcome).collect()
    }

    fn nouns(&self, outcome: Outcome) -> Vec<String> {
        let found = self.with(outcome).into_iter();
        found.map(|found| found.metric.noun().to_string()).collect()
    }

    /// `needs 0.137x redis-server's CPU`.
    fn phrase(&self, found: &Comparison) -> String {
        let ratio = ratio(found.ratio);
        let whose = self.against.of(found.metric.noun());
        match found.metric {
            Metric::Rate if self.kind == Kind::Closed => format!("answers {ratio} as many"),
            Metric::Rate => format!("delivers {ratio} as much"),
            Metric::Cpu => format!("needs {ratio} {whose}"),
            Metric::Memory | Metric::Connection => format!("takes {ratio} {whose}"),
            _ => format!("has {ratio} {whose}"),
        }
    }

    /// Slower, or as fast for more.
    fn loss(&self) -> &'static str {
        let is_cost = |found: &&Comparison| {
            matches!(
                found.metric,
                Metric::Cpu | Metric::Memory | Metric::Connection
            )
        };
        match self.with(Outcome::Worse).iter().all(is_cost) {
            true => "costs more",
            false => "is slower",
        }
    }
}

/// `a, b and c`; none of nothing.
fn listed(parts: &[String]) -> Option<String> {
    match parts {
        [] => None,
        [only] => Some(only.clone()),
        [first @ .., last] => Some(format!("{} and {last}", first.join(", "))),
    }
}
