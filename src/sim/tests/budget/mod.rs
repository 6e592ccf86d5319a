//! How many seeds a test plays: a stated number of them always, then as many more as its time allows.
//!
//! With `SAPWOOD_TEST_ALL=1`, which `tools/test --all` sets, all of them, however long that takes. They come in the same
//! order each time, so that a seed that fails here fails anywhere.

use std::ops::Range;
use std::time::{Duration, Instant};

/// The seeds of a range: the first `least`, then those that begin before so many seconds have passed.
pub fn seeds(range: Range<u64>, least: u64, seconds: u64) -> impl Iterator<Item = u64> {
    let plays_all = match std::env::var("SAPWOOD_TEST_ALL") {
        Err(_) => false,
        Ok(value) if value == "1" => true,
        Ok(value) => panic!("SAPWOOD_TEST_ALL is {value:?}; only \"1\" is known"),
    };
    let least_end = range.start + least;
    assert!(least_end <= range.end, "no {least} seeds are in {range:?}");
    let begin = Instant::now();
    let budget = Duration::from_secs(seconds);
    range.take_while(move |seed| plays_all || *seed < least_end || begin.elapsed() < budget)
}
