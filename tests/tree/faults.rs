//! Nodes that end, hang and come again: the others go on, and what they hear comes at most once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::Broker;
use crate::common::native::{Event, NativeClient};
use crate::load::{alone, signal, wait_until};
use crate::nodes::{Ear, MIXES, Tree, path, until_native_heard};

/// What a tree promises when its root ends, and when it hangs: that is noticed in three seconds, and then it is as gone.
const RESUMED_AFTER_END: Duration = Duration::from_secs(1);
const NOTICED: Duration = Duration::from_secs(3);
const RESUMED_AFTER_HANG: Duration = Duration::from_secs(4);

/// A node that gets no processor for a while gives the others as long, so one of three may be later where much else runs.
const LATE_MAX: u32 = 1;

/// A publisher of one numbered event each millisecond, and who hears it.
struct Traffic {
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    publisher: Option<thread::JoinHandle<()>>,
    ear: Ear,
    /// The number of the last event that came.
    last: Option<u64>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let publisher = self.publisher.take().into_iter();
        publisher.for_each(|thread| thread.join().expect("publishing does not panic"));
    }
}

impl Traffic {
    fn start(from: &Broker, to: &Broker) -> Traffic {
        let ear = Ear::native(to, "traffic");
        let mut client = NativeClient::connect(from.native_port());
        until_native_heard(&mut client, "traffic", [&ear]);
        let (published, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, ends) = (Arc::clone(&published), Arc::clone(&stop));
        let publisher = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let number = count.fetch_add(1, Ordering::Relaxed);
                client.publish(&Event::new("traffic", format!("{number}")));
                thread::sleep(Duration::from_millis(1));
            }
        });
        Traffic {
            published,
            stop,
            publisher: Some(publisher),
            ear,
            last: None,
        }
    }

    /// Listens until an event comes that is published from now on; gives how long that took.
    fn resumes(&mut self) -> Duration {
        let begun = Instant::now();
        let wanted = self.published.load(Ordering::Relaxed) + 5;
        loop {
            let event = self.ear.next();
            let text = String::from_utf8(event.payload).unwrap();
            let number: u64 = text.parse().unwrap();
            let is_later = self.last.is_none_or(|last| number > last);
            assert!(is_later, "{number} came behind {:?}", self.last);
            self.last = Some(number);
            if number > wanted {
                return begun.elapsed();
            }
        }
    }
}

/// The nodes of the tree hear each other, all of them.
fn all_hear_all(tree: &Tree, except: Option<usize>, topic: &str) {
    let nodes = (0..tree.nodes.len()).filter(|&number| Some(number) != except);
    let nodes: Vec<&Broker> = nodes.map(|number| &tree.nodes[number]).collect();
    let ears: Vec<Ear> = nodes.iter().map(|node| Ear::native(node, topic)).collect();
    let connect = |node: &&Broker| NativeClient::connect(node.native_port());
    let mut publishers: Vec<NativeClient> = nodes.iter().map(connect).collect();
    for publisher in &mut publishers {
        until_native_heard(publisher, topic, &ears);
    }
    for publisher in &mut publishers {
        publisher.publish(&Event::new(topic, "once"));
        for ear in &ears {
            assert_eq!(ear.next(), Event::new(topic, "once"));
        }
    }
    for ear in &ears {
        ear.hears_nothing();
    }
}

#[test]
fn traffic_goes_on_within_a_second_of_the_roots_end() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let [root, from, to] = ["", "/0/0", "/1/1"].map(|path| tree.at(path));
        let mut traffic = Traffic::start(&tree.nodes[from], &tree.nodes[to]);
        traffic.resumes();
        signal(&tree.nodes[root], Signal::KILL);
        let took = traffic.resumes();
        println!("the root of 7 killed, {shards:?} shards: {took:?}");
        assert!(took < RESUMED_AFTER_END, "it resumed after {took:?}");
        all_hear_all(&tree, Some(root), "after");
        traffic.resumes();
    }
}

#[test]
fn traffic_goes_on_beside_a_root_that_hangs_and_it_comes_back() {
    let _alone = alone();
    let mut late = 0;
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let [root, from, to] = ["", "/0/0", "/1/1"].map(|path| tree.at(path));
        let mut traffic = Traffic::start(&tree.nodes[from], &tree.nodes[to]);
        traffic.resumes();
        signal(&tree.nodes[root], Signal::STOP);
        let took = traffic.resumes();
        println!("the root of 7 stopped, {shards:?} shards: {took:?}");
        late += u32::from(took > RESUMED_AFTER_HANG);
        all_hear_all(&tree, Some(root), "meanwhile");
        signal(&tree.nodes[root], Signal::CONT);
        let begun = Instant::now();
        all_hear_all(&tree, None, "after");
        println!(
            "and part of the tree again {:?} after it goes on",
            begun.elapsed()
        );
        traffic.resumes();
    }
    assert!(late <= LATE_MAX, "{late} of 3 resumed later");
}

#[test]
fn a_node_that_is_restarted_joins_again_and_hears() {
    let _alone = alone();
    for shards in MIXES {
        // A leaf, one with children, and the root, which was told of nobody to join.
        for number in [3, 1, 0] {
            let mut tree = Tree::start(4, shards, &[]);
            all_hear_all(&tree, None, "before");
            tree.nodes[number].restart();
            let begun = Instant::now();
            all_hear_all(&tree, None, "after");
            println!(
                "node {number} restarted, {shards:?} shards: all hear all after {:?}",
                begun.elapsed()
            );
        }
    }
}

/// When the log of a node first says that it lost another one by its silence.
fn notices_silence(node: &Broker, since: Instant) -> Duration {
    wait_until("a link ended by silence", || {
        node.stderr().contains("it has been silent for too long")
    });
    since.elapsed()
}

#[test]
fn a_node_that_is_stopped_is_noticed_within_three_seconds_and_takes_its_place_again() {
    let _alone = alone();
    let mut late = 0;
    for shards in MIXES {
        let tree = Tree::start(3, shards, &[]);
        assert_eq!(tree.at(""), 0);
        signal(&tree.nodes[0], Signal::STOP);
        let begun = Instant::now();
        let took = tree.nodes[1..]
            .iter()
            .map(|child| notices_silence(child, begun))
            .max()
            .unwrap_or_default();
        println!("the root stopped, {shards:?} shards: noticed after {took:?}");
        late += u32::from(took > NOTICED);
        // Whoever is elected meanwhile gives way to the root that comes back.
        all_hear_all(&tree, Some(0), "meanwhile");
        signal(&tree.nodes[0], Signal::CONT);
        wait_until("the first root is the root again", || {
            let paths: Vec<Option<String>> = tree.nodes.iter().map(path).collect();
            let is_root = |path: &Option<String>| path.as_deref() == Some("");
            is_root(&paths[0])
                && paths[1..]
                    .iter()
                    .all(|path| path.is_some() && !is_root(path))
        });
        all_hear_all(&tree, None, "after");
        let lost: u64 = tree.counters("links_lost").iter().sum();
        assert!(lost >= 2, "{lost} links were lost");
    }
    assert!(late <= LATE_MAX, "{late} of 3 were noticed later");
}

#[test]
fn nodes_with_unlike_heartbeats_bear_with_each_other() {
    let _alone = alone();
    let heartbeats = ["100ms", "60s", "1s"];
    let own = |number: usize| vec!["--heartbeat".to_string(), heartbeats[number].to_string()];
    let tree = Tree::start_each(3, &[1, 2], &[], own);
    all_hear_all(&tree, None, "before");
    // The shortest patience is 0.8 s; the most patient node beats each 250 ms all the same.
    let until = Instant::now() + Duration::from_secs(3);
    let mut round = 0;
    while Instant::now() < until {
        round += 1;
        all_hear_all(&tree, None, &format!("round{round}"));
    }
    assert_eq!(tree.counters("links_lost"), [0; 3]);
    assert_eq!(tree.counters("link_reconnects"), [0; 3]);
}
