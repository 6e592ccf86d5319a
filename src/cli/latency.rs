//! Times of many operations: recorded exactly enough, read as percentiles, shown with a unit that fits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The percentiles that are reported, with their names.
pub const PERCENTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The longest time that is told apart from longer ones: an hour, above any time-out.
const NANOS_MAX: u64 = 3_600_000_000_000;

/// Three digits: a percentile is within a thousandth of the truth, at 340 KiB for a histogram at worst.
const DIGITS: u8 = 3;

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Nothing yet.
    pub fn new() -> Latency {
        // invariant: the bounds and the digits are within what the histogram documents.
        Latency(Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("constant bounds fit"))
    }

    /// Takes a time; one above an hour counts as an hour.
    pub fn record(&mut self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// As [`record`](Latency::record).
    pub fn record_nanos(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    /// Takes those of another.
    pub fn add(&mut self, other: &Latency) {
        // invariant: both have the same bounds.
        self.0.add(&other.0).expect("the bounds are the same");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The shortest; zero without any.
    pub fn min(&self) -> Duration {
        match self.0.len() {
            0 => Duration::ZERO,
            _ => Duration::from_nanos(self.0.min()),
        }
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.mean() as u64)
    }

    /// The time that this part of all did not exceed, from 0 to 1.
    pub fn at(&self, part: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(part))
    }
}

/// A time with three digits or so, and the unit that keeps it short.
pub fn shown(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    let (number, unit) = match time.as_nanos() {
        0..1_000 => (nanos, "ns"),
        1_000..1_000_000 => (nanos / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    match number {
        ..10.0 if unit != "ns" => format!("{number:.2} {unit}"),
        ..99.95 if unit != "ns" => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut all = Latency::new();
        let mut half = Latency::new();
        for micros in 1..=1_000 {
            let latency = if micros <= 500 { &mut all } else { &mut half };
            latency.record(Duration::from_micros(micros));
        }
        all.add(&half);
        assert_eq!(all.count(), 1_000);
        let expected = [500, 900, 990, 999];
        for ((name, part), micros) in PERCENTILES.into_iter().zip(expected) {
            let error = all.at(part).as_secs_f64() / (f64::from(micros) * 1e-6) - 1.0;
            assert!(error.abs() < 0.002, "{name}: {:?}", all.at(part));
        }
        assert!(all.max() >= Duration::from_millis(1) && all.min() <= Duration::from_micros(1));
        all.record(Duration::from_secs(100_000));
        assert!(all.max() >= Duration::from_secs(3_600) && all.max() < Duration::from_secs(3_700));
    }

    #[test]
    fn times_are_shown_with_a_unit_that_fits() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 us"),
            (41_234, "41.2 us"),
            (412_340, "412 us"),
            (1_500_000, "1.50 ms"),
            (2_000_000_000, "2.00 s"),
            (120_000_000_000, "120 s"),
        ] {
            assert_eq!(shown(Duration::from_nanos(nanos)), text);
        }
    }
}
