//! How many seeds a test plays: a stated number of them always, then as many more as its time allows.
//!
//! With `SAPWOOD_TEST_ALL=1`, which `tools/test --all` sets, all of them, however long that takes. They come in the same
//! order each time, so a seed that fails in one place fails in any.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

/// The seeds of one test.
pub struct Budget {
    /// So many are played whatever the time.
    least: u64,
    /// Until then others begin; always, if there is no end.
    end: Option<Instant>,
}

impl Budget {
    /// From now on.
    pub fn new(least: u64, seconds: u64) -> Budget {
        let plays_all = match std::env::var("SAPWOOD_TEST_ALL") {
            Err(_) => false,
            Ok(value) if value == "1" => true,
            Ok(value) => panic!("SAPWOOD_TEST_ALL is {value:?}; only \"1\" is known"),
        };
        Budget {
            least,
            end: (!plays_all).then(|| Instant::now() + Duration::from_secs(seconds)),
        }
    }

    /// Whether another seed is played after so many.
    pub fn allows(&self, played: u64) -> bool {
        played < self.least || self.end.is_none_or(|end| Instant::now() < end)
    }
}

/// The seeds of a range: the first `least`, then those that begin before so many seconds have passed.
pub fn seeds(range: Range<u64>, least: u64, seconds: u64) -> impl Iterator<Item = u64> {
    assert!(
        least <= range.end - range.start,
        "{range:?} has no {least} seeds"
    );
    let budget = Budget::new(least, seconds);
    range
        .enumerate()
        .take_while(move |(played, _)| budget.allows(*played as u64))
        .map(|(_, seed)| seed)
}
