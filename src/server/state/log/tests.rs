//! The log thread on good and bad disks.

mod kill;

use super::*;
use crate::state::OpenError;
use crate::state::files::{FaultControl, FileFaults};
use crate::state::start;
use crate::state::testing::{
    Node, PARTITIONS, TempDirectory, TestStore, last_stored, settings, small_sizes,
};
use sapwood_wire::state::Durability::{Fsync, Os};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A node of one worker on a disk with these faults, which come once it runs.
fn node(temp: &TempDirectory, faults: &FaultControl, settings: LogSettings) -> Node {
    let store = TestStore::default();
    Node::start(&temp.data(), &store, 1, settings, Some(faults)).unwrap()
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < crate::state::testing::PATIENCE,
            "it never came"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts again on what the disk has, and returns the last entry of each partition. The node's process was killed: what
/// was held is lost with its files.
fn restart(temp: &TempDirectory, store: &TestStore) -> Result<Vec<u64>, OpenError> {
    let control = FaultControl::new(FileFaults {
        holds: true,
        ..FileFaults::default()
    });
    let node = Node::start(&temp.data(), store, 1, settings(), Some(&control))?;
    let last = (0..PARTITIONS).map(|partition| last_stored(&node.store, partition));
    let last = last.collect();
    node.end();
    Ok(last)
}

#[test]
fn one_sync_covers_what_all_wait_for() {
    const PROPOSERS: u16 = 50;
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let store = TestStore::default();
    let mut node =
        Node::start(&temp.data(), &store, PROPOSERS, settings(), Some(&control)).unwrap();
    control.set(FileFaults::default());
    control.close_gate();
    node.workers[0].propose(0, Fsync);
    wait_until(|| control.syncs() == 1);
    std::thread::scope(|scope| {
        for (worker, partition) in node.workers.iter_mut().zip(0..) {
            scope.spawn(move || worker.propose(partition, Fsync));
        }
    });
    control.open_gate();
    for (worker, place) in node.workers.iter_mut().zip(0..) {
        let number = if place == 0 { 2 } else { 1 };
        worker.told.wait(|news| news.synced == number);
    }
    assert_eq!(control.syncs(), 2, "one for the first, one for fifty");
    let summary = node.handle.summary();
    assert_eq!((summary.entries, summary.syncs), (51, 2));
    assert_eq!(summary.entries_a_sync.max, 50);
    node.end();
}

/// A disk that fails: one entry is good, then the fault.
#[track_caller]
fn check_failure(faults: FileFaults, said: &[&str]) {
    let temp = TempDirectory::new();
    let control = FaultControl::new(FileFaults {
        holds: true,
        ..FileFaults::default()
    });
    let mut node = node(&temp, &control, settings());
    let fails_sync = faults.failing_sync.is_some();
    control.set(FileFaults {
        holds: true,
        ..faults
    });
    let worker = &mut node.workers[0];
    worker.propose_synced(0);
    worker.propose_synced(0);
    let (syncs, told) = (control.syncs(), worker.told.times());
    let failed = worker.propose(0, Fsync);
    let news = worker.told.wait_times(told);
    assert!(
        node.handle.has_failed(),
        "the flag is set before workers are told"
    );
    assert!(news.synced < failed && news.written < failed, "{news:?}");
    let text = node.handle.failure().unwrap().to_string();
    for part in said {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    let path = node.directory.log_path();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert_eq!(worker.try_propose(0, Fsync, 0), Err(ProposeError::Failed));
    assert!(node.log.end().is_err());
    assert_eq!(
        control.syncs(),
        syncs + u64::from(fails_sync),
        "no sync is tried again"
    );
    assert_eq!(
        node.workers[0].told.news(),
        news,
        "nothing is told any more"
    );
    node.store.crash();
    drop(node.directory);
    let last = restart(&temp, &node.store).unwrap();
    assert_eq!(
        last[0], 2,
        "what was acknowledged is there, what was not is lost here"
    );
}

#[test]
fn first_failed_write_is_final() {
    for (error, part) in [
        (libc::EIO, "Input/output error"),
        (libc::ENOSPC, "free space on the disk"),
        (libc::EROFS, "became read-only"),
    ] {
        let faults = FileFaults {
            failing_write: Some((2, error)),
            ..FileFaults::default()
        };
        check_failure(
            faults,
            &[
                "cannot write ",
                "000001.log",
                part,
                "start the broker again",
            ],
        );
    }
}

#[test]
fn first_failed_sync_is_final_and_not_tried_again() {
    for (error, part) in [
        (libc::EIO, "look at the disk and the kernel's log"),
        (libc::ENOSPC, "free space on the disk"),
        (libc::EDQUOT, "free space on the disk"),
        (libc::EINTR, "Interrupted system call"),
    ] {
        let faults = FileFaults {
            failing_sync: Some((2, error)),
            ..FileFaults::default()
        };
        check_failure(faults, &["cannot sync ", "000001.log", part]);
    }
}

#[test]
fn short_and_interrupted_writes_go_on() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let mut node = node(&temp, &control, settings());
    control.set(FileFaults {
        holds: true,
        short_writes: true,
        ..FileFaults::default()
    });
    for index in 1..20 {
        assert_eq!(node.workers[0].propose_synced(3).0, index);
    }
    assert!(control.writes() > 100, "writes were in parts");
    let store = node.abandon();
    assert_eq!(restart(&temp, &store).unwrap()[3], 19);
}

#[test]
fn slow_sync_stops_nobody_and_fails_nothing() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let mut node = node(&temp, &control, settings());
    control.set(FileFaults::default());
    control.close_gate();
    let worker = &mut node.workers[0];
    let mut last = worker.propose(0, Fsync);
    wait_until(|| control.syncs() == 1);
    let mut taken = 0;
    // Ends: the inbox has a bound.
    while let Some(number) = worker.try_propose(1, Fsync, 100 * 1024).unwrap() {
        (last, taken) = (number, taken + 1);
    }
    let bound = crate::state::limits::INBOX_BYTES_MAX / (100 * 1024);
    assert!(
        (bound..=bound + 1).contains(&taken),
        "{taken} of {bound} were taken"
    );
    assert_eq!(worker.told.news(), LogNews::default());
    control.open_gate();
    let news = worker.told.wait(|news| news.synced == last);
    assert_eq!(news.written, last);
    let more = worker.try_propose(1, Fsync, 0).unwrap();
    assert_eq!(more, Some(last + 1), "there is room again");
    node.end();
}

#[test]
fn os_entries_are_told_when_written_and_synced_soon_by_themselves() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let mut node = node(&temp, &control, settings());
    control.set(FileFaults::default());
    control.close_gate();
    let worker = &mut node.workers[0];
    let begun = Instant::now();
    worker.propose(0, Os);
    worker.propose(1, Os);
    let news = worker.told.wait(|news| news.written == 2);
    assert_eq!(news.synced, 0);
    wait_until(|| control.syncs() == 1);
    assert!(
        begun.elapsed() >= crate::state::limits::OS_SYNC_AFTER,
        "they did not wait for others"
    );
    control.open_gate();
    worker.told.wait(|news| news.synced == 2);
    node.end();
}

#[test]
fn fsync_entry_brings_those_before_it_along() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let os_sync_after = Duration::from_secs(3_600);
    let mut node = node(
        &temp,
        &control,
        LogSettings {
            os_sync_after,
            ..settings()
        },
    );
    let worker = &mut node.workers[0];
    let os = worker.propose(0, Os);
    worker.told.wait(|news| news.written == os);
    let fsync = worker.propose(1, Fsync);
    worker.told.wait(|news| news.synced == fsync);
    node.end();
}

/// With small segments, so that one is wanted soon.
fn small_settings() -> LogSettings {
    LogSettings {
        sizes: small_sizes(),
        ..settings()
    }
}

#[test]
fn entries_wait_for_space_for_a_segment() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let settings = LogSettings {
        free_bytes_least: 1_000,
        ..small_settings()
    };
    let mut node = node(&temp, &control, settings);
    wait_until(|| node.handle.summary().segments_prepared == 1);
    control.set(FileFaults {
        failing_create: Some(libc::ENOSPC),
        free_bytes: Some(10),
        ..FileFaults::default()
    });
    let worker = &mut node.workers[0];
    let mut last = 0;
    for _ in 0..40 {
        last = worker.try_propose(0, Fsync, 1_000).unwrap().unwrap();
    }
    wait_until(|| node.handle.summary().segment_waits > 0);
    assert!(node.handle.is_low_on_space());
    assert!(!node.handle.has_failed());
    assert!(worker.told.news().synced < last);
    control.set(FileFaults::default());
    worker.told.wait(|news| news.synced == last);
    wait_until(|| !node.handle.is_low_on_space());
    worker.apply();
    let store = node.abandon();
    assert_eq!(restart(&temp, &store).unwrap()[0], 40);
}

#[test]
fn end_does_not_wait_for_space() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let mut node = node(&temp, &control, small_settings());
    control.set(FileFaults {
        failing_create: Some(libc::ENOSPC),
        ..FileFaults::default()
    });
    for _ in 0..60 {
        node.workers[0].try_propose(0, Fsync, 1_000).unwrap();
    }
    wait_until(|| node.handle.summary().segment_waits > 0);
    node.end();
}

#[test]
fn low_space_is_said_before_the_disk_is_full() {
    let temp = TempDirectory::new();
    let control = FaultControl::default();
    let settings = LogSettings {
        free_bytes_least: 5_000,
        ..settings()
    };
    let mut node = node(&temp, &control, settings);
    control.set(FileFaults {
        free_bytes: Some(4_999),
        ..FileFaults::default()
    });
    assert!(!node.handle.is_low_on_space(), "nobody looked yet");
    node.workers[0].propose_synced(0);
    assert!(node.handle.is_low_on_space());
    assert_eq!(node.handle.summary().free_bytes, 4_999);
    control.set(FileFaults {
        free_bytes: Some(5_000),
        ..FileFaults::default()
    });
    wait_until(|| !node.handle.is_low_on_space());
    node.end();
}

#[test]
fn segments_are_used_again_once_the_store_has_flushed_them() {
    let temp = TempDirectory::new();
    let settings = LogSettings {
        flush_bytes: 20_000,
        ..small_settings()
    };
    let store = TestStore::default();
    let mut node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
    for _ in 0..300 {
        node.workers[0].propose_synced(0);
        let number = node.workers[0]
            .try_propose(1, Fsync, 1_500)
            .unwrap()
            .unwrap();
        node.workers[0].told.wait(|news| news.synced == number);
        node.workers[0].apply();
    }
    let summary = node.handle.summary();
    assert!(
        summary.log_bytes > 400_000 && summary.flushes > 10,
        "{summary:?}"
    );
    let files = std::fs::read_dir(node.directory.log_path())
        .unwrap()
        .count();
    // Used once each, they would be more than thirty; how many are free at a time is up to how fast flushes come.
    assert!(files <= 20, "{files} files for {summary:?}");
    assert!(summary.page_bytes > summary.log_bytes);
    let store = node.abandon();
    let node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
    let last = [0, 1].map(|partition| last_stored(&node.store, partition));
    assert_eq!(last, [300, 300]);
    assert!(node.report.replayed < 100, "{:?}", node.report);
    node.end();
}

#[test]
fn nothing_is_taken_while_a_flush_is_far_behind() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let settings = LogSettings {
        flush_bytes: 10_000,
        ..settings()
    };
    let mut node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
    node.store.close_gate();
    let worker = &mut node.workers[0];
    let mut last = 0;
    // 8 times 10,000 bytes are let through.
    for _ in 0..90 {
        last = worker.try_propose(0, Fsync, 1_000).unwrap().unwrap();
        let is_held = || node.handle.summary().flush_waits > 0;
        wait_until(|| worker.told.news().synced == last || is_held());
        worker.apply();
    }
    wait_until(|| node.handle.summary().flush_waits == 1);
    assert!(worker.told.news().synced < last);
    node.store.open_gate();
    worker.told.wait(|news| news.synced == last);
    assert!(!node.handle.has_failed());
    node.end();
}

#[test]
fn store_is_flushed_when_a_start_would_take_too_long() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let mut node = Node::start(&temp.data(), &store, 1, settings(), None).unwrap();
    let index = node.workers[0].propose_synced(0);
    node.workers[0].apply();
    assert_eq!(node.store.flushes(), 0);
    let took = crate::state::limits::FLUSH_COST;
    node.handle.note_applied(PartitionId(0), index, took);
    node.workers[0].propose_synced(0);
    wait_until(|| node.handle.summary().flushes == 1);
    let most = took.as_micros() as u64;
    wait_until(|| node.handle.summary().unflushed_us < most);
    node.end();
}

#[test]
fn failed_flush_stops_the_plane() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let settings = LogSettings {
        flush_bytes: 1,
        ..settings()
    };
    let mut node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
    node.store.fail_flushes();
    let told = Arc::clone(&node.workers[0].told);
    node.workers[0].propose_synced(0);
    wait_until(|| node.handle.has_failed());
    told.wait_times(1);
    let text = node.log.end().unwrap_err().to_string();
    assert!(text.contains("no space left on device"), "{text}");
}

#[test]
fn orderly_end_leaves_nothing_to_replay() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let mut node = Node::start(&temp.data(), &store, 2, settings(), None).unwrap();
    node.workers[1].propose_synced(1);
    node.workers[1].apply();
    node.workers[0].propose(0, Os);
    let store = node.store.clone();
    node.end();
    store.crash();
    let node = Node::start(&temp.data(), &store, 2, settings(), None).unwrap();
    assert_eq!(node.report.replayed, 1, "what no worker had applied");
    assert_eq!([0, 1].map(|of| last_stored(&node.store, of)), [1, 1]);
    node.end();
}

#[test]
fn proposals_after_the_end_are_refused() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let mut node = Node::start(&temp.data(), &store, 1, settings(), None).unwrap();
    node.log.end().unwrap();
    assert_eq!(
        node.workers[0].try_propose(0, Fsync, 0),
        Err(ProposeError::Ended)
    );
}

#[test]
fn panic_of_the_log_thread_counts_as_a_failure() {
    let temp = TempDirectory::new();
    let directory =
        crate::state::directory::DataDirectory::open(&temp.data(), PARTITIONS, None).unwrap();
    let mut store = TestStore::default();
    let opened = start::open(&directory, &mut store, settings()).unwrap();
    let seen = Arc::new((OnceLock::<LogHandle>::new(), AtomicBool::new(false)));
    let of_tell = Arc::clone(&seen);
    let tells: Vec<Tell> = vec![Box::new(move |news| {
        let has_failed = of_tell.0.get().is_some_and(LogHandle::has_failed);
        of_tell.1.store(has_failed, Ordering::SeqCst);
        assert!(has_failed || news == LogNews::default(), "a bug");
    })];
    let log = LogThread::start(opened.log, store, tells).unwrap();
    let handle = log.handle();
    seen.0.set(handle.clone()).unwrap();
    let mut proposals = vec![Proposal {
        worker: 0,
        number: 1,
        partition: PartitionId(0),
        index: Index(1),
        wall_ms: 0,
        commands: Arc::new(Vec::new()),
        durability: Fsync,
    }];
    handle.propose(0, &mut proposals).unwrap();
    wait_until(|| handle.has_failed());
    let text = log.end().unwrap_err().to_string();
    assert!(text.contains("sapwood-log ended by a bug"), "{text}");
    assert!(seen.1.load(Ordering::SeqCst), "workers are told");
}

#[test]
#[should_panic(expected = "proposes number 3")]
fn proposal_that_is_missing_is_a_bug() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let node = Node::start(&temp.data(), &store, 1, settings(), None).unwrap();
    let mut proposals = vec![Proposal {
        worker: 0,
        number: 3,
        partition: PartitionId(0),
        index: Index(1),
        wall_ms: 0,
        commands: Arc::new(Vec::new()),
        durability: Fsync,
    }];
    let _ = node.handle.propose(0, &mut proposals);
}

#[test]
fn last_synced_entry_is_marked_so_that_damage_to_it_is_noticed() {
    let temp = TempDirectory::new();
    let store = TestStore::default();
    let settings = LogSettings {
        mark_after: Duration::from_millis(10),
        ..settings()
    };
    let mut node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
    node.workers[0].propose_synced(0);
    wait_until(|| node.handle.summary().syncs == 2);
    // The start record takes 72 bytes.
    let damaged = 4096 + 72 + 72 + 40;
    let name = node.directory.log_path().join("000001.log");
    let store = node.abandon();
    let mut bytes = std::fs::read(&name).unwrap();
    bytes[damaged] ^= 1;
    std::fs::write(&name, bytes).unwrap();
    let error = Node::start(&temp.data(), &store, 1, settings, None)
        .err()
        .unwrap();
    let text = error.to_string();
    let parts = ["000001.log is damaged at offset 4168", "checksum", "backup"];
    for part in parts {
        assert!(text.contains(part), "{text} does not say {part}");
    }
}

#[test]
fn idle_log_wakes_for_nothing() {
    crate::testing::alone("state::log::tests::idle_log_wakes_for_nothing", || {
        let temp = TempDirectory::new();
        let store = TestStore::default();
        let settings = LogSettings {
            mark_after: Duration::from_millis(10),
            flush_after: Duration::from_millis(20),
            ..settings()
        };
        let mut node = Node::start(&temp.data(), &store, 1, settings, None).unwrap();
        node.workers[0].propose_synced(0);
        node.workers[0].apply();
        node.workers[0].propose(0, Os);
        wait_until(|| node.handle.summary().flushes > 0);
        let mut before = switches();
        assert_eq!(before.len(), 3, "{before:?}");
        // What is due comes to an end.
        wait_until(|| {
            std::thread::sleep(Duration::from_millis(300));
            let now = switches();
            let is_at_rest = now == before;
            before = now;
            is_at_rest
        });
        node.end();
    });
}

/// How often each of the plane's threads gave up its CPU.
fn switches() -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.map(|task| {
        let status = task.unwrap().path().join("status");
        std::fs::read_to_string(status).unwrap()
    });
    let of = |status: String| {
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().to_string()
        };
        (field("Name:"), field("voluntary_ctxt_switches:"))
    };
    let names = ["sapwood-log", "sapwood-segment", "sapwood-flush"];
    let ours = statuses.map(of);
    ours.filter(|(name, _)| names.contains(&&name[..]))
        .collect()
}

#[test]
fn store_is_flushed_when_what_was_applied_last_took_long() {
    let temp = TempDirectory::new();
    let mut node = node(&temp, &FaultControl::default(), settings());
    for flushes in 1..=3 {
        let index = node.workers[0].propose_synced(0);
        node.workers[0].apply();
        // Nothing is proposed any more, and nothing is due by time.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(node.store.flushes(), flushes - 1);
        let took = LogSettings::default().flush_cost;
        node.handle.note_applied(PartitionId(0), index, took);
        wait_until(|| node.handle.summary().flushes == flushes);
        wait_until(|| node.store.given_back() == flushes);
    }
    node.end();
}
