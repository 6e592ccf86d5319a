//! Nodes on a machine whose CPUs are all taken: none is taken for dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::plays_all;
use crate::load::alone;
use crate::nodes::{Tree, path};

/// Threads for each CPU that never sleep.
const BUSY_THREADS: usize = 4;

/// Takes all CPUs until it is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    fn start() -> Busy {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..BUSY_THREADS * cpus).map(spin).collect();
        Busy { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.drain(..);
        threads.for_each(|thread| thread.join().expect("spinning does not panic"));
    }
}

/// `SAPWOOD_BUSY_SECONDS` says for how long.
#[test]
fn three_nodes_keep_their_links_while_all_cpus_are_taken() {
    let _alone = alone();
    let usual = if plays_all() { 600 } else { 8 };
    let seconds = std::env::var("SAPWOOD_BUSY_SECONDS").map_or(usual, |text| {
        text.parse().expect("SAPWOOD_BUSY_SECONDS is a number")
    });
    let tree = Tree::start(3, &[2, 1], &[]);
    let places: Vec<_> = tree.nodes.iter().map(path).collect();
    let busy = Busy::start();
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        thread::sleep(Duration::from_secs(1).min(until - Instant::now()));
        let lost = tree.counters("links_lost");
        assert_eq!(lost, [0; 3], "{:?} before the end", until - Instant::now());
    }
    drop(busy);
    println!(
        "{seconds} s: {:?} links lost, {:?} lanes connected again",
        tree.counters("links_lost"),
        tree.counters("link_reconnects")
    );
    assert_eq!(places, tree.nodes.iter().map(path).collect::<Vec<_>>());
}
