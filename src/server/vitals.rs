//! What the process takes: measured once a second, for who asks the node about itself.

use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};
use sapwood_core::Vitals;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often it is measured.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Measures memory and CPU time into numbers that all shards read.
#[derive(Debug)]
pub(crate) struct Meter {
    vitals: Arc<Vitals>,
    /// When it was last measured, and the CPU time then.
    last: Option<(Instant, Duration)>,
}

impl Meter {
    pub(crate) fn new(vitals: Arc<Vitals>) -> Meter {
        Meter { vitals, last: None }
    }

    /// Measures, if it is time.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        if self.last.is_some_and(|(at, _)| now - at < EVERY) {
            return;
        }
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32);
        if let Some((at, before)) = self.last.replace((now, cpu)) {
            let permille = (cpu - before).as_micros() * 1_000 / (now - at).as_micros();
            let gauge = &self.vitals.cpu_permille;
            gauge.store(permille as u64, Ordering::Relaxed);
        }
        // Where there is no such file, nothing is said.
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        let bytes = pages.unwrap_or(0_u64) * page_size() as u64;
        self.vitals.memory_bytes.store(bytes, Ordering::Relaxed);
    }
}
