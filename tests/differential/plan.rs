//! Which histories a differential test plays, and how they are written.

use std::time::{SystemTime, UNIX_EPOCH};

/// How a history's steps are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delivery {
    /// Each step in a write of its own.
    Stepwise,
    /// Neighbouring steps of one connection in one write.
    Pipelined,
    /// As `Pipelined`, cut at random bytes.
    Split,
}

/// Names the seed when the run ends in a panic elsewhere, such as a broker that is gone.
pub struct ToldOnPanic(pub u64);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was seed {}", self.0);
        }
    }
}

/// The seeds of so many histories, behind those that once found a fault; or what the environment asks for.
pub fn seeds(histories: u64, found: &[u64]) -> Vec<u64> {
    if let Some(seed) = number_from("SAPWOOD_TEST_SEED") {
        return vec![seed];
    }
    // The same seeds each time, so that a change fails by itself; new ones where more are asked for.
    let (first, count) = match number_from("SAPWOOD_TEST_HISTORIES") {
        None => (1, histories),
        Some(count) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("the clock is past 1970");
            (now.as_secs() * 1_000_000, count)
        }
    };
    println!("seeds {first} to {}", first + count - 1);
    found.iter().copied().chain(first..first + count).collect()
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}
