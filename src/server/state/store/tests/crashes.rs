//! Crashes: what is there afterwards is what a flush made durable, of all families together.

use super::*;
use crate::testing;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Stdio};

/// Where a child process has its store.
const PLACE: &str = "SAPWOOD_STORE_PLACE";

/// Every writer's row of every family says which of its batches was the last.
fn batch(writer: u8, number: u64, padding: &[u8]) -> WriteBatch {
    let value = [&number.to_be_bytes()[..], padding].concat();
    let row = |family| put(family, &[writer], &value);
    WriteBatch {
        writes: Family::ALL.into_iter().map(row).collect(),
    }
}

/// The batch whose rows are there; all families must agree.
fn last_batch(store: &RocksStore, writer: u8) -> Option<u64> {
    let last = Family::ALL.map(|family| {
        let mut value = Vec::new();
        let is_there = store.get(family, &[writer], &mut value).unwrap();
        is_there.then(|| u64::from_be_bytes(*value.first_chunk().unwrap()))
    });
    assert_eq!(last, [last[0]; 7], "families are of different times");
    last[0]
}

fn child(path: &str, directory: &Directory) -> Child {
    let mut command = testing::command(path);
    command.env(PLACE, directory.0.join("store"));
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn place() -> PathBuf {
    PathBuf::from(std::env::var_os(PLACE).unwrap())
}

/// Reads what the child says up to a line that ends with this, and kills it.
fn kill_after(mut child: Child, wanted: &str) {
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    assert!(
        lines.any(|line| line.ends_with(wanted)),
        "the child never said {wanted:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

fn say(text: &str) {
    println!("{text}");
    std::io::stdout().flush().unwrap();
}

#[test]
fn kill_goes_back_to_the_last_flush() {
    const PATH: &str = "state::store::tests::crashes::kill_goes_back_to_the_last_flush";
    if testing::is_alone(PATH) {
        let mut store = RocksStore::open(&place()).unwrap();
        for number in 1..=30 {
            store.write(&batch(0, number, b"")).unwrap();
            if number == 20 {
                store.flush().unwrap();
            }
        }
        assert_eq!(last_batch(&store, 0), Some(30));
        say("written");
        loop {
            std::thread::park();
        }
    }
    let directory = Directory::new();
    kill_after(child(PATH, &directory), "written");
    assert_eq!(last_batch(&directory.open(), 0), Some(20));
}

#[test]
fn store_that_was_never_flushed_is_empty_after_a_kill() {
    const PATH: &str =
        "state::store::tests::crashes::store_that_was_never_flushed_is_empty_after_a_kill";
    if testing::is_alone(PATH) {
        let mut store = RocksStore::open(&place()).unwrap();
        store.write(&batch(0, 1, b"")).unwrap();
        say("written");
        loop {
            std::thread::park();
        }
    }
    let directory = Directory::new();
    kill_after(child(PATH, &directory), "written");
    assert_eq!(last_batch(&directory.open(), 0), None);
}

/// Two writers of as much as makes the store flush by itself, and flushes of ours in between.
#[test]
fn families_are_of_one_moment_whenever_it_is_killed() {
    const PATH: &str =
        "state::store::tests::crashes::families_are_of_one_moment_whenever_it_is_killed";
    if testing::is_alone(PATH) {
        let store = RocksStore::open(&place()).unwrap();
        for writer in 0..2 {
            let mut store = store.clone();
            let padding = vec![writer; 3_000];
            // The first flush has something, however late the threads begin.
            store.write(&batch(writer, 1, &padding)).unwrap();
            std::thread::spawn(move || {
                for number in 2.. {
                    store.write(&batch(writer, number, &padding)).unwrap();
                }
            });
        }
        for round in 0.. {
            store.flush().unwrap();
            say(&format!("flushed {round}"));
        }
    }
    for round in [1, 3, 8] {
        let directory = Directory::new();
        kill_after(child(PATH, &directory), &format!("flushed {round}"));
        let store = directory.open();
        let last = [0, 1].map(|writer| last_batch(&store, writer));
        println!("killed behind flush {round}: batches {last:?}");
        assert!(last.iter().any(Option::is_some));
    }
}

#[test]
fn what_was_written_before_a_flush_is_there_also_from_another_thread() {
    let directory = Directory::new();
    let mut store = directory.open();
    let other = store.clone();
    store.write(&batch(0, 7, b"")).unwrap();
    let flusher = std::thread::spawn(move || other.flush().unwrap());
    flusher.join().unwrap();
    store.write(&batch(0, 8, b"")).unwrap();
    let image = directory.crash_image();
    assert_eq!(last_batch(&image.open(), 0), Some(7));
}

#[test]
fn closing_in_good_order_keeps_all() {
    let directory = Directory::new();
    let mut store = directory.open();
    store.write(&batch(0, 9, b"")).unwrap();
    drop(store);
    assert_eq!(last_batch(&directory.open(), 0), Some(9));
}
