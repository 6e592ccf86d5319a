//! The canary: a driver that breaks a rule must be noticed, whatever the rule.
//!
//! A program of its own, because it silences panics, which are findings here.

use sapwood_sim::{Options, Sabotage, run};

/// Within so many seeds each sabotage must be noticed. Most need one to four; reading a batch
/// again after a flush needs 24, because few batches are that large.
const SABOTAGE_SEEDS: u64 = 60;

#[test]
fn every_sabotage_is_noticed() {
    std::panic::set_hook(Box::new(|_| {}));
    let noticed = Sabotage::ALL.map(|sabotage| {
        let options = |seed| Options {
            sabotage: Some(sabotage),
            ..Options::of(seed)
        };
        let found = (0..SABOTAGE_SEEDS).find_map(|seed| Some((seed, run(options(seed)).err()?)));
        (sabotage, found)
    });
    let _ = std::panic::take_hook();
    for (sabotage, found) in noticed {
        let (seed, failure) = found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
        // Without it the same seed finds nothing, so that it is the sabotage that was noticed.
        run(Options::of(seed)).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        println!("{sabotage:?}: seed {seed}, {failure}");
    }
}
