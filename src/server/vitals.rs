//! Vitals: memory and CPU time of the process, measured at the start and once a second, for questions to the node.

use rustix::param::{clock_ticks_per_second, page_size};
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
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, which may hold anything, stands in parentheses before the third field.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let number = |field: usize| {
            let text = fields.split_ascii_whitespace().nth(field - 3);
            text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        let us = |ticks: u64| ticks * 1_000_000 / clock_ticks_per_second();
        let Vitals {
            memory_bytes,
            cpu_user_us,
            cpu_system_us,
            ..
        } = &*self.vitals;
        cpu_user_us.store(us(number(14)), Ordering::Relaxed);
        cpu_system_us.store(us(number(15)), Ordering::Relaxed);
        memory_bytes.store(number(24) * page_size() as u64, Ordering::Relaxed);
    }
}
