//! What a benchmark says: a line while it runs, and a table or a JSON object at its end.
//!
//! Rates are events a second, and MB/s are a million bytes of payload. Times in JSON are microseconds.

use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Mode, Outcome, Plan, Progress};
use crate::cli::connect;
use crate::cli::latency::{Latency, PERCENTILES, shown};

/// How often the line is written: often enough to see that it moves.
const LINE_INTERVAL: Duration = Duration::from_millis(250);

/// The part of all CPUs from which on the bench is likely to be what limits the rate.
const BUSY_PART: f64 = 0.5;

/// The line on a terminal's stderr while a benchmark runs. Nothing is written elsewhere.
pub struct ProgressLine {
    is_shown: bool,
    is_dirty: bool,
    next: Duration,
    total: Option<u64>,
}

impl ProgressLine {
    /// For a run of this plan.
    pub fn new(plan: &Plan) -> ProgressLine {
        ProgressLine {
            is_shown: io::stderr().is_terminal(),
            is_dirty: false,
            next: LINE_INTERVAL,
            total: match plan.limit {
                super::Limit::Events(events) => Some(events),
                super::Limit::Time(_) => None,
            },
        }
    }

    /// Writes how far it is, if that was not written just now.
    pub fn show(&mut self, progress: &Progress, now: Duration) {
        if !self.is_shown || now < self.next {
            return;
        }
        self.next = now + LINE_INTERVAL;
        self.is_dirty = true;
        let published = progress
            .published
            .load(std::sync::atomic::Ordering::Relaxed);
        let of = self.total.map(|total| format!(" of {}", grouped(total)));
        connect::say(&format!(
            "\r\x1b[K{:.1} s: {}{} published, {} received",
            now.as_secs_f64(),
            grouped(published),
            of.unwrap_or_default(),
            grouped(progress.received()),
        ));
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.is_dirty {
            connect::say("\r\x1b[K");
        }
    }
}

/// What is said at the end.
pub struct Report<'a> {
    plan: &'a Plan,
    outcome: &'a Outcome,
}

impl Report<'_> {
    /// About this run.
    pub fn new<'a>(plan: &'a Plan, outcome: &'a Outcome) -> Report<'a> {
        Report { plan, outcome }
    }

    fn missing(&self) -> u64 {
        self.outcome.expected.saturating_sub(self.outcome.received)
    }

    /// Whether everything arrived as it was sent, and nothing failed.
    pub fn is_intact(&self) -> bool {
        let outcome = self.outcome;
        self.missing() + outcome.misordered + outcome.corrupt == 0 && outcome.failure.is_none()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (plan, outcome) = (self.plan, self.outcome);
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_string(), value);
        put("mode", json!(plan.mode.name()));
        put("size_bytes", json!(plan.size));
        put("publishers", json!(plan.publishers));
        put("subscribers", json!(plan.subscribers));
        put("topics", json!(plan.topics));
        put("rate", json!(plan.rate.map(|rate| rate.0)));
        put(
            "published",
            self.json_flow(outcome.published, outcome.publishing),
        );
        put(
            "received",
            self.json_flow(outcome.received, outcome.receiving),
        );
        put("expected", json!(outcome.expected));
        put("missing", json!(self.missing()));
        put("misordered", json!(outcome.misordered));
        put("corrupt", json!(outcome.corrupt));
        put("failure", json!(outcome.failure));
        put("latency_us", json_latency(&outcome.latency));
        put("lateness_us", json_latency(&outcome.lateness));
        let cpu = json!({
            "seconds": outcome.cpu.as_secs_f64(),
            "cpus_used": self.cpus_used(),
            "cpus": cpus(),
        });
        put("bench_cpu", cpu);
        Value::Object(object)
    }

    fn json_flow(&self, events: u64, time: Duration) -> Value {
        json!({
            "events": events,
            "seconds": time.as_secs_f64(),
            "events_per_second": rate(events, time),
            "mb_per_second": rate(events, time) * self.plan.size as f64 / 1e6,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let outcome = self.outcome;
        let mut rows = vec![self.flow_row(self.sent_word(), outcome.published, outcome.publishing)];
        if outcome.expected > 0 {
            rows.push(self.flow_row("received", outcome.received, outcome.receiving));
        }
        let mut table = format!("{}\n\n", self.title());
        push_rows(&mut table, &rows);
        for (name, latency) in [("latency", &outcome.latency), ("late", &outcome.lateness)] {
            if latency.count() > 0 {
                table.push_str(&format!("{name:<10} {}\n", percentiles(latency)));
            }
        }
        table.push_str(&format!("checked    {}\n", self.verdict()));
        table.push_str(&format!("bench CPU  {}\n", self.cpu_words()));
        table
    }

    fn sent_word(&self) -> &'static str {
        match self.plan.mode {
            Mode::Request => "asked",
            Mode::Pub | Mode::Fanout => "published",
        }
    }

    fn title(&self) -> String {
        let plan = self.plan;
        let pace = match plan.rate {
            Some(rate) => format!("{}/s due", grouped(rate.0 as u64)),
            None => "as fast as possible".to_string(),
        };
        format!(
            "{}: {}, {}, {}, {} B, {pace}",
            plan.mode.name(),
            counted(plan.publishers, "publisher"),
            counted(plan.subscribers, "subscriber"),
            counted(plan.topics, "topic"),
            grouped(plan.size as u64),
        )
    }

    fn flow_row(&self, word: &'static str, events: u64, time: Duration) -> [String; 5] {
        let rate = rate(events, time);
        [
            format!("{word:<10}"),
            grouped(events),
            format!("in {:.2} s", time.as_secs_f64()),
            format!("{}/s", grouped(rate as u64)),
            format!("{:.1} MB/s", rate * self.plan.size as f64 / 1e6),
        ]
    }

    fn verdict(&self) -> String {
        let outcome = self.outcome;
        let mut words = match (self.is_intact(), outcome.expected) {
            (true, 0) => "nobody listened, so nothing was to arrive".to_string(),
            (true, _) if self.plan.mode == Mode::Request => {
                "every request got its answer".to_string()
            }
            (true, _) => "every event arrived, whole and in order".to_string(),
            (false, _) => format!(
                "{} missing, {} out of order, {} damaged",
                grouped(self.missing()),
                grouped(outcome.misordered),
                grouped(outcome.corrupt)
            ),
        };
        if let Some(failure) = &outcome.failure {
            words.push_str("; ");
            words.push_str(&crate::cli::text::printable(failure.as_bytes()));
        }
        words
    }

    /// How many CPUs the bench kept busy.
    fn cpus_used(&self) -> f64 {
        let time = self.outcome.publishing.max(self.outcome.receiving);
        self.outcome.cpu.as_secs_f64() / time.as_secs_f64().max(1e-9)
    }

    fn cpu_words(&self) -> String {
        let (used, cpus) = (self.cpus_used(), cpus());
        let words = format!("{used:.2} of {}", counted(cpus, "CPU"));
        match self.plan.rate.is_none() && used >= BUSY_PART * cpus as f64 {
            true => format!(
                "{words}; with a broker on the same machine, the bench is part of the limit"
            ),
            false => words,
        }
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn rate(events: u64, time: Duration) -> f64 {
    match time.is_zero() {
        true => 0.0,
        false => events as f64 / time.as_secs_f64(),
    }
}

fn json_latency(latency: &Latency) -> Value {
    if latency.count() == 0 {
        return Value::Null;
    }
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    let mut object = Map::new();
    object.insert("count".to_string(), json!(latency.count()));
    object.insert("min".to_string(), json!(micros(latency.min())));
    object.insert("mean".to_string(), json!(micros(latency.mean())));
    for (name, part) in PERCENTILES {
        object.insert(name.to_string(), json!(micros(latency.at(part))));
    }
    object.insert("max".to_string(), json!(micros(latency.max())));
    Value::Object(object)
}

fn percentiles(latency: &Latency) -> String {
    let parts = PERCENTILES.map(|(name, part)| (name, latency.at(part)));
    let all = parts.into_iter().chain([("max", latency.max())]);
    let words: Vec<_> = all
        .map(|(name, time)| format!("{name} {}", shown(time)))
        .collect();
    words.join("   ")
}

/// Appends rows whose columns, but for the first, end at the same place.
fn push_rows(table: &mut String, rows: &[[String; 5]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in rows {
        table.push_str(&row[0]);
        for (column, cell) in row.iter().enumerate().skip(1) {
            let space = if column == 1 { " " } else { "   " };
            table.push_str(&format!("{space}{cell:>width$}", width = width(column)));
        }
        table.push('\n');
    }
}

/// `1 publisher`, `2 publishers`.
fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", grouped(count as u64)),
    }
}

/// A number with a comma after each three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::Limit;
    use crate::cli::quantity::Rate;

    fn plan() -> Plan {
        Plan {
            mode: Mode::Pub,
            size: 100,
            limit: Limit::Events(2_000_000),
            publishers: 1,
            subscribers: 2,
            topics: 2,
            rate: None,
            run: 1,
        }
    }

    fn outcome() -> Outcome {
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(50));
        Outcome {
            published: 2_000_000,
            publishing: Duration::from_secs(1),
            received: 2_000_000,
            expected: 2_000_000,
            receiving: Duration::from_secs(2),
            latency,
            lateness: Latency::new(),
            misordered: 0,
            corrupt: 0,
            failure: None,
            cpu: Duration::from_millis(20),
        }
    }

    #[test]
    fn table_says_rates_and_that_all_is_well() {
        let (plan, outcome) = (plan(), outcome());
        let table = Report::new(&plan, &outcome).table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[0],
            "pub: 1 publisher, 2 subscribers, 2 topics, 100 B, as fast as possible"
        );
        assert_eq!(
            lines[2],
            "published  2,000,000   in 1.00 s   2,000,000/s   200.0 MB/s"
        );
        assert_eq!(
            lines[3],
            "received   2,000,000   in 2.00 s   1,000,000/s   100.0 MB/s"
        );
        assert!(
            lines[4].starts_with("latency    p50 50.0 us   p90 "),
            "{table}"
        );
        assert_eq!(
            lines[5],
            "checked    every event arrived, whole and in order"
        );
        assert!(lines[6].starts_with("bench CPU  0.01 of "), "{table}");
        assert_eq!(lines.len(), 7, "{table}");
    }

    #[test]
    fn what_is_missing_late_or_failed_is_said() {
        let mut outcome = outcome();
        outcome.received -= 1_234;
        outcome.misordered = 1;
        outcome.failure = Some("a\x1bb".to_string());
        outcome.lateness.record(Duration::from_millis(3));
        let plan = Plan {
            rate: Some(Rate(5_000.0)),
            ..plan()
        };
        let report = Report::new(&plan, &outcome);
        assert!(!report.is_intact());
        let table = report.table();
        assert!(
            table.contains("1,234 missing, 1 out of order, 0 damaged; a\\x1bb\n"),
            "{table}"
        );
        assert!(table.contains("\nlate       p50 3.00 ms"), "{table}");
        assert!(table.contains("5,000/s due"), "{table}");
        let json = report.json();
        assert_eq!(json["missing"], 1_234);
        assert_eq!(json["rate"], 5_000.0);
        assert_eq!(json["received"]["events"], 1_998_766);
        assert_eq!(json["published"]["mb_per_second"], 200.0);
        assert_eq!(json["latency_us"]["count"], 1);
    }

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
