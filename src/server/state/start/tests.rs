//! Starts: after kills and power cuts, on damaged logs, broken off anywhere.

use super::*;
use crate::state::files::{FaultControl, FileFaults};
use crate::state::testing::{
    Node, PARTITIONS, TempDirectory, TestStore, last_stored, settings, small_sizes,
};
use crate::testing;
use sapwood_wire::state::Durability::{Fsync, Os};
use std::process::Stdio;

/// Files that hold what is not synced.
fn holding() -> FileFaults {
    FileFaults {
        holds: true,
        ..FileFaults::default()
    }
}

fn start(temp: &TempDirectory, store: &TestStore) -> Result<Node, OpenError> {
    Node::start(&temp.data(), store, 1, settings(), None)
}

/// A log of so many entries, each synced for itself, none flushed. Returns the store, and the log's first file.
fn log_of(temp: &TempDirectory, entries: u64) -> (TestStore, PathBuf) {
    let mut node = start(temp, &TestStore::default()).unwrap();
    for _ in 0..entries {
        node.workers[0].propose_synced(0);
    }
    let file = node.directory.log_path().join("000001.log");
    (node.abandon(), file)
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

/// Where records stand in a file.
fn records(file: &Path) -> Vec<usize> {
    let bytes = std::fs::read(file).unwrap();
    let begins = (4096..bytes.len() - 4).step_by(8);
    begins
        .filter(|at| bytes[*at..].starts_with(b"SwRc"))
        .collect()
}

#[test]
fn start_on_an_empty_directory_is_ready() {
    let temp = TempDirectory::new();
    let mut node = start(&temp, &TestStore::default()).unwrap();
    assert_eq!(node.report.replayed, 0);
    assert_eq!(node.report.cut, None);
    assert_eq!(node.workers[0].propose_synced(PARTITIONS - 1), Index(1));
    node.end();
}

#[test]
fn killed_node_comes_up_with_all_entries_and_goes_on_behind_them() {
    let temp = TempDirectory::new();
    let (mut store, _) = log_of(&temp, 30);
    for round in 0..4 {
        let mut node = start(&temp, &store).unwrap();
        assert_eq!(node.report.replayed, 30 + round);
        assert_eq!(last_stored(&node.store, 0), 30 + round);
        assert_eq!(node.workers[0].propose_synced(0), Index(31 + round));
        store = node.abandon();
    }
}

#[test]
fn torn_last_record_is_cut_off_and_its_index_is_used_for_another() {
    let temp = TempDirectory::new();
    let (store, file) = log_of(&temp, 10);
    let last = *records(&file).last().unwrap();
    change(&file, |bytes| bytes[last + 80..last + 100].fill(0));
    let mut node = start(&temp, &store).unwrap();
    let (position, flaw) = node.report.cut.unwrap();
    assert_eq!((position.offset as usize, flaw), (last, Flaw::Checksum));
    assert_eq!(last_stored(&node.store, 0), 9);
    assert_eq!(node.workers[0].propose_synced(0), Index(10));
    let store = node.abandon();
    let node = start(&temp, &store).unwrap();
    assert_eq!(last_stored(&node.store, 0), 10);
    node.end();
}

#[test]
fn flipped_bit_below_what_was_synced_is_refused_with_file_and_offset() {
    let temp = TempDirectory::new();
    let (store, file) = log_of(&temp, 10);
    let good = std::fs::read(&file).unwrap();
    let records = records(&file);
    assert_eq!(records.len(), 11, "a start record and ten");
    for &record in &records[..10] {
        // The start record has no body.
        let body = (record != records[0]).then_some(80);
        for byte in [0, 4, 20, 60, 64, 71].into_iter().chain(body) {
            change(&file, |bytes| bytes[record + byte] ^= 4);
            let error = start(&temp, &store).err();
            let text = error.map(|error| error.to_string());
            let text = text.unwrap_or_else(|| panic!("byte {byte} of {record} went unnoticed"));
            let place = format!("000001.log is damaged at offset {record} ");
            let path = temp.data().canonicalize().unwrap().join("log");
            for part in [&*place, path.to_str().unwrap(), "backup"] {
                assert!(text.contains(part), "{text} does not say {part}");
            }
            std::fs::write(&file, &good).unwrap();
        }
    }
    let node = start(&temp, &store).unwrap();
    assert_eq!(last_stored(&node.store, 0), 10, "nothing was changed");
    node.end();
}

#[test]
fn store_that_is_behind_the_log_by_a_gap_is_refused() {
    let temp = TempDirectory::new();
    let settings = LogSettings {
        sizes: small_sizes(),
        flush_bytes: 10_000,
        ..settings()
    };
    let mut node = Node::start(&temp.data(), &TestStore::default(), 1, settings, None).unwrap();
    for _ in 0..100 {
        let number = node.workers[0]
            .try_propose(0, Fsync, 1_000)
            .unwrap()
            .unwrap();
        node.workers[0].told.wait(|news| news.synced == number);
        node.workers[0].apply();
    }
    node.end();
    // The store was lost, the log was not.
    let error = Node::start(&temp.data(), &TestStore::default(), 1, settings, None).err();
    let text = error.unwrap().to_string();
    assert!(
        text.contains("missing") || text.contains("the log begins at"),
        "{text}"
    );
}

#[test]
fn log_of_another_directory_is_refused() {
    let (one, other) = (TempDirectory::new(), TempDirectory::new());
    let (_, theirs) = log_of(&one, 3);
    let (store, ours) = log_of(&other, 3);
    std::fs::copy(theirs, ours).unwrap();
    let text = start(&other, &store).err().unwrap().to_string();
    assert!(
        text.contains("000001.log") && text.contains("secret"),
        "{text}"
    );
}

#[test]
fn what_a_failed_sync_left_in_memory_alone_is_written_again() {
    let temp = TempDirectory::new();
    let control = FaultControl::new(holding());
    let directory = DataDirectory::open(&temp.data(), PARTITIONS, Some(&control)).unwrap();
    let store = TestStore::default();
    let mut node = Node::start_in(directory, &store, 1, settings()).unwrap();
    node.workers[0].propose_synced(0);
    control.set(FileFaults {
        failing_sync: Some((0, libc::EIO)),
        ..holding()
    });
    node.workers[0].propose(0, Fsync);
    node.wait_failed();
    assert!(node.log.end().is_err());
    control.set(holding());
    // The process starts again, the machine does not: the files are as it sees them.
    let node = Node::start_in(node.directory, &store, 1, settings()).unwrap();
    assert_eq!(last_stored(&node.store, 0), 2, "it can be read");
    // Now the power goes.
    let store = node.abandon();
    let node = start(&temp, &store).unwrap();
    assert_eq!(
        last_stored(&node.store, 0),
        2,
        "it was told of, so it is on the disk"
    );
    node.end();
}

#[test]
fn unsynced_os_entries_may_be_lost_and_their_indexes_are_not_used_again() {
    let temp = TempDirectory::new();
    let control = FaultControl::new(holding());
    let settings = LogSettings {
        os_sync_after: Duration::from_secs(3_600),
        ..settings()
    };
    let store = TestStore::default();
    let mut node = Node::start(&temp.data(), &store, 1, settings, Some(&control)).unwrap();
    node.workers[0].propose_synced(0);
    let number = node.workers[0].propose(0, Os);
    node.workers[0].told.wait(|news| news.written == number);
    // The store has what the log may lose: a worker applies `os` entries when they are written.
    node.workers[0].apply_written();
    node.store.flush().unwrap();
    let store = node.abandon();
    let mut node = start(&temp, &store).unwrap();
    assert_eq!(node.workers[0].next_index(0), Index(3));
    assert_eq!(node.workers[0].propose_synced(0), Index(3));
    let store = node.abandon();
    let node = start(&temp, &store).unwrap();
    assert_eq!(last_stored(&node.store, 0), 3);
    node.end();
}

/// Whatever call of the disk breaks a start, the next one comes up with what was acknowledged.
#[track_caller]
fn check_broken_starts(entries: u64) {
    let mut broken = 0;
    for fails_sync in [false, true] {
        for at in 0.. {
            let temp = TempDirectory::new();
            let store = match entries {
                0 => TestStore::default(),
                _ => log_of(&temp, entries).0,
            };
            let place = Some((at, libc::EIO));
            let control = FaultControl::new(FileFaults {
                failing_write: place.filter(|_| !fails_sync),
                failing_sync: place.filter(|_| fails_sync),
                ..holding()
            });
            let settings = LogSettings {
                sizes: small_sizes(),
                ..settings()
            };
            let first = Node::start(&temp.data(), &store, 1, settings, Some(&control));
            match first {
                // The fault comes behind the start.
                Ok(node) => {
                    node.handle.fail(crate::state::Failure::Bug("none"));
                    let _ = node.log.end();
                    break;
                }
                Err(OpenError::System { .. }) => broken += 1,
                Err(error) => panic!("{at}: {error}"),
            }
            store.crash();
            let node = match Node::start(&temp.data(), &store, 1, settings, None) {
                Ok(node) => node,
                Err(error) => panic!("write {at} broke ({fails_sync}): {error}"),
            };
            assert_eq!(last_stored(&node.store, 0), entries);
            node.end();
        }
    }
    assert!(broken >= 4, "only {broken} starts broke");
}

#[test]
fn first_start_that_broke_anywhere_does_not_make_the_next_one_refuse() {
    check_broken_starts(0);
}

#[test]
fn start_that_broke_anywhere_loses_nothing() {
    check_broken_starts(5);
}

#[test]
fn first_start_that_was_killed_at_any_time_does_not_make_the_next_one_refuse() {
    let path = "state::start::tests::first_start_that_was_killed_at_any_time_does_not_make_the_next_one_refuse";
    let variable = "SAPWOOD_TEST_START_DIRECTORY";
    let big = LogSettings::default();
    if testing::is_alone(path) {
        let data = PathBuf::from(std::env::var_os(variable).unwrap());
        let node = Node::start(&data, &TestStore::default(), 1, big, None).unwrap();
        std::thread::sleep(Duration::from_secs(10));
        return node.end();
    }
    for round in 0..12 {
        let temp = TempDirectory::new();
        let mut command = testing::command(path);
        let command = command.env(variable, temp.data()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(2 + 3 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        match Node::start(&temp.data(), &TestStore::default(), 1, big, None) {
            Ok(node) => node.end(),
            Err(error) => panic!("round {round}: {error}"),
        }
    }
}

#[test]
fn files_that_are_not_the_logs_are_left_alone() {
    let temp = TempDirectory::new();
    let (store, file) = log_of(&temp, 2);
    for name in [
        "7.log",
        "0000001.log",
        "000000.log",
        "notes.txt",
        "000001.log.bak",
    ] {
        std::fs::write(file.with_file_name(name), "not ours").unwrap();
        assert_eq!(file_of(name), None);
    }
    assert_eq!(file_of("000001.log"), Some(FileId(1)));
    assert_eq!(file_of("1234567.log"), Some(FileId(1_234_567)));
    let node = start(&temp, &store).unwrap();
    assert_eq!(last_stored(&node.store, 0), 2);
    node.end();
}
