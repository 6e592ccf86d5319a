//! Nodes that end in order, or whose links end by silence: what they took before goes on, and what is lost is counted.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::Broker;
use crate::common::native::{Event, NativeClient};
use crate::common::resp::RawClient;
use crate::load::{alone, counter, exit_code, signal, wait_until};
use crate::nodes::{Ear, MIXES, Tree, path, until_native_heard};

/// How long a node may take to end.
const ENDED: Duration = Duration::from_secs(2);

/// Three nodes in a line: the root, the one below it, and the one below that.
fn line(shards: &[usize]) -> Tree {
    let mut tree = Tree::start(2, shards, &[]);
    let middle = format!("127.0.0.1:{}", tree.nodes[1].node_port());
    let last = Broker::start_restartable_with(shards[2 % shards.len()], None, &["--join", &middle]);
    tree.nodes.push(last);
    tree.settle();
    assert_eq!(path(&tree.nodes[2]).as_deref(), Some("/0/0"));
    tree
}

/// The numbers of the events that an ear has heard, in order and each once.
struct Heard {
    ear: Ear,
    numbers: BTreeSet<u64>,
}

impl Heard {
    /// Hears one more event; gives its number.
    fn next(&mut self) -> u64 {
        let event = self.ear.next();
        let number = std::str::from_utf8(&event.payload)
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            self.numbers.last().is_none_or(|&last| number > last),
            "{number} came late"
        );
        self.numbers.insert(number);
        number
    }

    fn until(&mut self, number: u64) {
        while self.next() < number {}
    }
}

/// A thread that publishes ten numbered events each millisecond.
struct Publishing {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Publishing {
    fn start(mut publisher: NativeClient) -> Publishing {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    publisher.publish(&Event::new("steady", format!("{number}")));
                    number += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            number
        });
        Publishing { stop, thread }
    }

    /// Ends it, and gives how many it has published.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("publishing does not panic")
    }
}

/// A steady stream from one end of a line to the other, while the middle ends by SIGTERM.
fn middle_ends(shards: &[usize], is_downward: bool) {
    let tree = line(shards);
    let (from, to) = if is_downward { (0, 2) } else { (2, 0) };
    let ears = [1, to].map(|node| Ear::native(&tree.nodes[node], "steady"));
    let mut publisher = NativeClient::connect(tree.nodes[from].native_port());
    until_native_heard(&mut publisher, "steady", &ears);
    let [mut middle, mut end] = ears.map(|ear| Heard {
        ear,
        numbers: BTreeSet::new(),
    });
    let publishing = Publishing::start(publisher);
    middle.until(2_000);
    signal(&tree.nodes[1], Signal::TERM);
    let taken = middle.numbers.last().copied().unwrap();
    let code = exit_code(&tree.nodes[1], ENDED);
    assert_eq!(code, Some(0));
    let also_taken = middle.ear.rest();
    // Until some come by the new way.
    let before = end.next();
    end.until(before.max(taken) + 20_000);
    let published = publishing.stop();
    end.until(published - 1);
    let missing: Vec<u64> = (0..published)
        .filter(|number| !end.numbers.contains(number))
        .collect();
    let first = missing.first().copied();
    assert!(
        first.is_none_or(|first| first > taken),
        "{first:?} was taken before the end: {taken}"
    );
    for event in also_taken {
        let number = std::str::from_utf8(&event.payload)
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            end.numbers.contains(&number),
            "{number} was taken and not passed on"
        );
    }
    let lost: u64 = [0, 2]
        .map(|node| {
            counter(
                &mut RawClient::connect(tree.nodes[node].port()),
                "link_events_lost",
            )
        })
        .iter()
        .sum();
    println!(
        "{shards:?} shards, downward {is_downward}: {} of {published} missing, {lost} counted, the middle had {taken}",
        missing.len()
    );
    if is_downward {
        assert!(
            missing.len() as u64 <= lost,
            "{} are missing and {lost} counted",
            missing.len()
        );
    }
}

#[test]
fn a_middle_node_that_ends_hands_over_what_it_has_taken() {
    let _alone = alone();
    for shards in MIXES {
        for is_downward in [true, false] {
            middle_ends(shards, is_downward);
        }
    }
}

#[test]
fn a_lame_duck_stays_in_the_tree_for_its_clients() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(2, shards, &["--lame-duck", "60"]);
        let ear = Ear::native(&tree.nodes[1], "still");
        let mut publisher = NativeClient::connect(tree.nodes[0].native_port());
        until_native_heard(&mut publisher, "still", [&ear]);
        signal(&tree.nodes[1], Signal::USR2);
        let port = tree.nodes[1].native_port();
        wait_until("it takes nobody in", || {
            TcpStream::connect(("127.0.0.1", port)).is_err()
        });
        let event = Event::new("still", "here");
        publisher.publish(&event);
        assert_eq!(ear.next(), event);
    }
}

#[test]
fn what_a_silent_link_keeps_is_counted_as_lost_when_it_ends() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(2, shards, &[]);
        let ear = Ear::native(&tree.nodes[1], "kept");
        let mut publisher = NativeClient::connect(tree.nodes[0].native_port());
        until_native_heard(&mut publisher, "kept", [&ear]);
        let mut info = RawClient::connect(tree.nodes[0].port());
        assert_eq!(counter(&mut info, "link_events_lost"), 0);
        wait_until("all is acknowledged", || {
            counter(&mut info, "link_bytes_kept") == 0
        });
        signal(&tree.nodes[1], Signal::STOP);
        for number in 0..100 {
            publisher.publish(&Event::new("kept", format!("{number}")));
        }
        wait_until("the link has ended", || counter(&mut info, "links") == 0);
        assert_eq!(counter(&mut info, "link_events_lost"), 100);
        wait_until("it is said", || {
            tree.nodes[0]
                .stderr()
                .contains("events were acknowledged: they are lost")
        });
        signal(&tree.nodes[1], Signal::CONT);
    }
}
