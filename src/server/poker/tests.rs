//! The poking thread against simulated shards: rings and inboxes that nobody reads stand for a shard that has parked
//! with something to do.

use super::*;
use crate::mesh::{Mesh, Woven, weave};
use crate::ring::{Ring, RingConfig, Token};
use sapwood_core::command::ShardId;
use sapwood_core::mailbox::Batch;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Time-out for something that must happen: generous, not a measure of speed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A doze that ends only by what the thread is told.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Time in which nothing may happen: a hundred looks.
const LONG: Duration = Duration::from_millis(500);

struct Scene {
    thread: PokingThread,
    doors: Arc<Doors>,
    meshes: Vec<Mesh>,
    rings: Vec<Ring>,
    poked: Vec<flume::Receiver<()>>,
}

impl Scene {
    /// Two shards that sleep with nothing to do, and a thread that dozes for at most an hour.
    fn new() -> Scene {
        let Woven {
            shards: meshes,
            doors,
            ..
        } = weave(2, 0).unwrap();
        let rings: Vec<Ring> = meshes.iter().map(|_| ring()).collect();
        let (pokes, poked): (Vec<_>, Vec<_>) = meshes.iter().map(|_| flume::bounded(1)).unzip();
        for mesh in &meshes {
            assert!(mesh.fall_asleep(false, false));
        }
        let sleepers = pokes.into_iter().zip(&rings).map(|(poke, ring)| Sleeper {
            poke,
            ring: ring.as_fd().try_clone_to_owned().unwrap(),
        });
        let sleepers = sleepers.collect();
        let thread = start_dozing(Arc::clone(&doors), sleepers, Arc::default(), FOR_EVER).unwrap();
        let scene = Scene {
            thread,
            doors,
            meshes,
            rings,
            poked,
        };
        scene.await_doze();
        scene
    }

    fn await_doze(&self) {
        let begin = Instant::now();
        while !self.doors.watch().is_dozing() {
            assert!(begin.elapsed() < DEADLINE, "the thread does not doze");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn expect_poke(&self, shard: usize) {
        let poke = self.poked[shard].recv_timeout(DEADLINE);
        poke.expect("the shard is poked");
        assert!(
            !self.doors.watch().is_dozing(),
            "it has not been helped yet"
        );
        let other = self.poked[1 - shard].try_recv();
        assert!(other.is_err(), "the other shard has nothing to do");
    }
}

fn ring() -> Ring {
    let config = RingConfig {
        submissions: 64,
        completions: 256,
        buffers: 8,
        buffer_bytes: 4096,
    };
    Ring::new(config).unwrap()
}

fn eventfd_in_blocking_mode() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

#[test]
fn shards_that_sleep_with_nothing_to_do_are_left_alone() {
    let scene = Scene::new();
    std::thread::sleep(LONG);
    assert!(scene.doors.watch().is_dozing());
    for poked in &scene.poked {
        assert!(poked.try_recv().is_err());
    }
    scene.thread.end();
}

#[test]
fn a_lost_ring_of_the_bell_rouses_the_thread() {
    let scene = Scene::new();
    let door = scene.doors.iter().nth(1).unwrap();
    door.swallow_next();
    door.wake();
    assert!(door.has_swallowed());
    scene.expect_poke(1);
    // The shard does its turn, and sleeps again.
    scene.meshes[1].note_turn();
    assert!(scene.meshes[1].fall_asleep(false, false));
    scene.await_doze();
    scene.thread.end();
}

#[test]
fn an_inbox_that_nobody_was_told_of_is_seen() {
    let scene = Scene::new();
    // As if the sender had found the shard awake, and the shard had not checked its inbox again before sleeping.
    scene.meshes[1].awake();
    scene.meshes[0].send(ShardId(1), Batch::default());
    assert!(
        !scene.meshes[1].fall_asleep(false, false),
        "it has not lost it"
    );
    scene.doors.iter().nth(1).unwrap().pretend_asleep();
    // It may have been poked while awake.
    let _ = scene.poked[1].try_recv();
    scene.expect_poke(1);
    assert!(scene.meshes[1].receive().is_some());
    scene.await_doze();
    scene.thread.end();
}

#[test]
fn completions_that_a_shard_sleeps_on_are_seen() {
    let mut scene = Scene::new();
    let counter = eventfd_in_blocking_mode();
    for place in [0, 1] {
        scene.rings[place].read_counter(counter.as_raw_fd(), Token(7));
        scene.rings[place].submit().unwrap();
        // glommio's wake-up wakes no task here.
        rustix::io::write(&counter, &1u64.to_ne_bytes()).unwrap();
        // The kernel posts the completion when this thread, which owns the ring, enters it.
        while !scene.rings[place].has_completions() {
            std::thread::yield_now();
        }
        scene.rings[place].submit().unwrap();
        scene.expect_poke(place);
        let mut done = Vec::new();
        scene.rings[place].completions(&mut done);
        assert_eq!(done.len(), 1);
        scene.await_doze();
        // It may have been poked once more before the completion was collected.
        let _ = scene.poked[place].try_recv();
    }
    scene.thread.end();
}

#[test]
fn returned_batches_count_for_who_waits_for_credit_alone() {
    let scene = Scene::new();
    scene.meshes[1].give_back(ShardId(0), Batch::default());
    std::thread::sleep(LONG);
    assert!(scene.doors.watch().is_dozing(), "nobody waits for it");
    assert!(
        !scene.meshes[0].fall_asleep(true, false),
        "it has not lost it"
    );
    let door = scene.doors.iter().next().unwrap();
    door.pretend_asleep();
    door.swallow_next();
    scene.meshes[1].give_back(ShardId(0), Batch::default());
    scene.expect_poke(0);
    scene.thread.end();
}
