//! What a record's runs come to: rows, medians with their spread, and how numbers are written.
//!
//! Owns the arithmetic of the report, so that tables, verdicts, goals and plots cannot disagree. Knows nothing of what a
//! figure means for whom; that is in [`crate::verdicts`]. A figure that is not finite does not exist here.

use crate::record::{Kind, Record, Run, Who, Workload};

/// From this load on, the generator was the limit and not the server: one thread has little left above it.
pub const GENERATOR_LOAD_MAX: f64 = 0.9;

/// The median of some runs, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of one value a run. None without runs, or if a value is not finite.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
        Some(Spread {
            median: (values[low] + values[high]) / 2.0,
            min: values[0],
            max: values[values.len() - 1],
        })
    }

    /// The median, and the least and the most in parentheses.
    pub fn show(&self, show: impl Fn(f64) -> String) -> String {
        let shown = [self.median, self.min, self.max].map(show);
        let units = shown.each_ref().map(|shown| unit(shown));
        // A unit that all three have is said once.
        let same = units[0] == units[1] && units[0] == units[2];
        let bare = |index: usize| match same {
            true => shown[index].trim_end_matches(units[index]),
            false => &shown[index],
        };
        format!("{} ({} to {})", shown[0], bare(1), bare(2))
    }

    /// Whether a value can be in both spreads.
    pub fn overlaps(&self, other: &Spread) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Deliveries or operations a second.
    Rate,
    /// The server's CPU-seconds for a million of them.
    Cpu,
    /// The server's largest resident bytes.
    Memory,
    /// The generator's CPU-seconds a second.
    Load,
    /// Resident bytes for each idle connection.
    Connection,
    /// Nanoseconds that half stayed under.
    P50,
    /// Nanoseconds that 90 of 100 stayed under.
    P90,
    /// Nanoseconds that 99 of 100 stayed under.
    P99,
    /// Nanoseconds that 999 of 1,000 stayed under.
    P999,
}

impl Metric {
    /// The figure of one run, if it has it.
    pub fn of(self, run: &Run) -> Option<f64> {
        let latency = run.latency.as_ref();
        match self {
            Metric::Rate => Some(run.rate()),
            Metric::Cpu => Some(run.cpu_per_million()),
            Metric::Memory => Some(run.memory_peak as f64),
            Metric::Load => Some(run.generator_load()),
            Metric::Connection => Some(run.bytes_per_connection()),
            Metric::P50 => latency.map(|latency| latency.p50 as f64),
            Metric::P90 => latency.map(|latency| latency.p90 as f64),
            Metric::P99 => latency.map(|latency| latency.p99 as f64),
            Metric::P999 => latency.map(|latency| latency.p999 as f64),
        }
    }

    /// As a column is headed.
    pub fn title(self, kind: Kind) -> &'static str {
        match self {
            Metric::Rate if kind == Kind::Closed => "operations/s",
            Metric::Rate => "deliveries/s",
            Metric::Cpu => "s/M",
            Metric::Memory => "peak memory",
            Metric::Load => "generator load",
            Metric::Connection => "memory for each",
            Metric::P50 => "p50",
            Metric::P90 => "p90",
            Metric::P99 => "p99",
            Metric::P999 => "p99.9",
        }
    }

    /// In a sentence, and before a ratio.
    pub fn noun(self) -> &'static str {
        match self {
            Metric::Rate => "rate",
            Metric::Cpu => "CPU",
            Metric::Memory | Metric::Connection => "memory",
            Metric::Load => "load",
            Metric::P50 => "p50",
            Metric::P90 => "p90",
            Metric::P99 => "p99",
            Metric::P999 => "p99.9",
        }
    }

    /// Whether less of it is better, as of all but the rate.
    pub fn less_is_better(self) -> bool {
        self != Metric::Rate
    }

    /// With its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Metric::Rate => format!("{}/s", count(value)),
            Metric::Cpu | Metric::Load => number(value),
            Metric::Memory | Metric::Connection => bytes(value),
            Metric::P50 | Metric::P90 | Metric::P99 | Metric::P999 => duration(value),
        }
    }
}

/// A contender's runs of a workload in one variant.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Whose.
    pub who: Who,
    /// Empty for the usual one.
    pub variant: &'a str,
    /// One a round.
    pub runs: Vec<&'a Run>,
}

impl Row<'_> {
    /// The figure over all runs; none if one of them lacks it.
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        let values: Option<Vec<_>> = self.runs.iter().map(|run| metric.of(run)).collect();
        Spread::of(values?)
    }

    /// Median of the figure with its spread, as a table shows it.
    pub fn cell(&self, metric: Metric) -> String {
        let Some(spread) = self.spread(metric) else {
            return "-".to_string();
        };
        match self.runs.len() {
            1 => metric.show(spread.median),
            _ => spread.show(|value| metric.show(value)),
        }
    }

    /// Whether the generator had no more to give.
    pub fn is_generator_bound(&self) -> bool {
        self.spread(Metric::Load)
            .is_some_and(|load| load.median > GENERATOR_LOAD_MAX)
    }

    /// Contender and variant.
    pub fn title(&self) -> String {
        named(self.who.title(), self.variant)
    }
}

/// What follows a shown figure's number, but for thousands and millions of a rate: `/s`, ` us`.
fn unit(shown: &str) -> &str {
    let start = shown.find([' ', '/']).unwrap_or(shown.len());
    &shown[start..]
}

/// A contender's title with its variant, if it is not the usual one.
pub fn named(title: &str, variant: &str) -> String {
    match variant {
        "" => title.to_string(),
        variant => format!("{title}, {variant}"),
    }
}

/// Whether a contender's figures of this workload are worth nothing.
pub fn has_failed(workload: &Workload, who: Who) -> bool {
    workload.failures.iter().any(|failure| failure.who == who)
}

/// A workload's rows: contenders in the order of [`Who::ALL`], of each the usual variant first and the others as they
/// were run. Who failed a run has none.
pub fn rows(workload: &Workload) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for run in &workload.runs {
        let same = |row: &&mut Row<'_>| row.who == run.who && row.variant == run.variant;
        match rows.iter_mut().find(same) {
            Some(row) => row.runs.push(run),
            None if has_failed(workload, run.who) => {}
            None => rows.push(Row {
                who: run.who,
                variant: &run.variant,
                runs: vec![run],
            }),
        }
    }
    let place = |who| Who::ALL.iter().position(|other| *other == who);
    rows.sort_by_key(|row| (place(row.who), !row.variant.is_empty()));
    rows
}

/// A contender's row: the usual one, or, where every run is a variant, the first.
pub fn usual<'a, 'b>(rows: &'b [Row<'a>], who: Who) -> Option<&'b Row<'a>> {
    rows.iter().find(|row| row.who == who)
}

/// What to hold a row against: the other contender in the same variant, or as it usually is.
pub fn peer<'a, 'b>(rows: &'b [Row<'a>], of: &Row<'_>, who: Who) -> Option<&'b Row<'a>> {
    rows.iter()
        .find(|row| row.who == who && row.variant == of.variant)
        .or_else(|| usual(rows, who))
}

/// The record's workloads of a kind.
pub fn of_kind(record: &Record, kind: Kind) -> Vec<&Workload> {
    let of_kind = |workload: &&Workload| workload.kind == kind;
    record.workloads.iter().filter(of_kind).collect()
}

/// Three significant digits, without zeros at the end: `0.592`, `1.7`, `12300`.
pub fn number(value: f64) -> String {
    let rounded = rounded(value);
    let digits_before = rounded.abs().log10().floor();
    let decimals = (2.0 - digits_before).clamp(0.0, 12.0);
    if rounded == 0.0 {
        return "0".to_string();
    }
    let text = format!("{rounded:.*}", decimals as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// The value to three significant digits. Through the decimal form, so that it is what a reader would round to.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// In thousands, millions or billions: `1.7M`, `20k`, `950`.
pub fn count(value: f64) -> String {
    let (scaled, unit) = scaled(value, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")]);
    format!("{}{unit}", number(scaled))
}

/// Of nanoseconds: `950 ns`, `12.3 us`, `1.5 ms`.
pub fn duration(nanoseconds: f64) -> String {
    let units = [(1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s")];
    let (scaled, unit) = scaled(nanoseconds, &units);
    format!("{} {unit}", number(scaled))
}

/// Of bytes: `712 B`, `1.46 KiB`, `41 MiB`.
pub fn bytes(value: f64) -> String {
    let (ki, mi) = (1024.0, 1024.0 * 1024.0);
    let units = [(1.0, "B"), (ki, "KiB"), (mi, "MiB"), (mi * ki, "GiB")];
    let (scaled, unit) = scaled(value, &units);
    format!("{} {unit}", number(scaled))
}

/// The value in the largest unit that it reaches once rounded, so that 999,999 is 1M and not 1000k.
fn scaled<'a>(value: f64, units: &[(f64, &'a str)]) -> (f64, &'a str) {
    let reached = |unit: &&(f64, &str)| rounded(value.abs() / unit.0) >= 1.0;
    let (size, unit) = *units.iter().rev().find(reached).unwrap_or(&units[0]);
    (value / size, unit)
}

/// How many times as much: `4.1x`, `0.137x`. Always so, because a page that says it in two ways has to be read twice.
pub fn ratio(value: f64) -> String {
    format!("{}x", number(value))
}
