//! Vitals: memory and CPU time of the process, measured once a second, for questions to the node.

use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};
use sapwood_core::Vitals;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval of measuring.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Measures memory and CPU time, and stores them where all shards can read them.
#[derive(Debug)]
pub(crate) struct Meter {
    vitals: Arc<Vitals>,
    /// Time and CPU time of the last measuring.
    last: Option<(Instant, Duration)>,
}

impl Meter {
    pub(crate) fn new(vitals: Arc<Vitals>) -> Meter {
        Meter { vitals, last: None }
    }

    /// Measures if it is time.
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
        // On systems without this file, no memory is reported.
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        let bytes = pages.unwrap_or(0_u64) * page_size() as u64;
        self.vitals.memory_bytes.store(bytes, Ordering::Relaxed);
    }
}
