//! Processes that are killed, on files that lose what was not synced: what one of them said to be synced is there, in
//! order, once.

use super::*;
use crate::state::files::RealFiles;
use crate::state::testing::PATIENCE;
use crate::testing;
use sapwood_wire::state::Durability;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

/// Names the child's directory.
const DIRECTORY: &str = "SAPWOOD_TEST_KILL_DIRECTORY";

/// What the child does wrong, if it is set.
const SABOTAGE: &str = "SAPWOOD_TEST_KILL_SABOTAGE";

const WORKERS: u16 = 4;

/// Longest life of a child, ms: starts take some 10.
const LIFE_MS_MAX: u64 = 150;

fn rounds() -> u64 {
    match std::env::var("SAPWOOD_TEST_ALL") {
        Err(_) => 10,
        Ok(value) if value == "1" => 300,
        Ok(value) => panic!("SAPWOOD_TEST_ALL is {value:?}; only \"1\" is known"),
    }
}

/// A number that nobody chose; it is printed.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn child_settings() -> LogSettings {
    LogSettings {
        flush_bytes: 30_000,
        mark_after: Duration::from_millis(5),
        ..small_settings()
    }
}

fn store_of(directory: &Path) -> TestStore {
    TestStore::in_file(directory.join("store"))
}

fn start_on(directory: &Path) -> Node {
    let control = FaultControl::new(FileFaults {
        holds: true,
        ..FileFaults::default()
    });
    let data = directory.join("data");
    let store = store_of(directory);
    match Node::start(&data, &store, WORKERS, child_settings(), Some(&control)) {
        Ok(node) => node,
        Err(error) => panic!("{error}"),
    }
}

/// The child: proposes without end, and says what was synced.
fn propose_for_ever(directory: &Path) {
    let acknowledges_early = std::env::var(SABOTAGE).is_ok();
    let node = start_on(directory);
    std::thread::scope(|scope| {
        for (mut worker, place) in node.workers.into_iter().zip(0..WORKERS) {
            scope.spawn(move || {
                for turn in 0.. {
                    let partition = turn % 3 * WORKERS + place;
                    let durability = match acknowledges_early {
                        true => Durability::Os,
                        false => Durability::Fsync,
                    };
                    let number = worker.try_propose(partition, durability, usize::from(turn % 900));
                    let number = number.unwrap().unwrap();
                    worker.told.wait(|news| match acknowledges_early {
                        true => news.written >= number,
                        false => news.synced >= number,
                    });
                    let index = worker.next_index(partition).0 - 1;
                    let line = format!("acknowledged {partition} {index}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    worker.apply();
                }
            });
        }
    });
}

/// Starts a child and kills it after so long. Returns the last entry of each partition that it acknowledged.
fn kill_one(
    path: &str,
    directory: &Path,
    life: Duration,
    sabotage: Option<&str>,
) -> BTreeMap<u16, u64> {
    let mut command = testing::command(path);
    command.env(DIRECTORY, directory).stdout(Stdio::piped());
    if let Some(sabotage) = sabotage {
        command.env(SABOTAGE, sabotage);
    }
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap()
    });
    let mut acknowledged = BTreeMap::new();
    let mut said = String::new();
    for line in output.lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if words.next() != Some("acknowledged") {
            said.push_str(&line);
            continue;
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        // The last line may be torn.
        if let (Some(partition), Some(index)) = (number(), number()) {
            acknowledged.insert(partition as u16, index);
        }
    }
    let status = killer.join().unwrap();
    assert!(status.code().is_none(), "the child ended by itself: {said}");
    acknowledged
}

/// What is missing of that after a start.
fn missing(directory: &Path, acknowledged: &BTreeMap<u16, u64>) -> Vec<String> {
    let node = start_on(directory);
    let lacks = |(&partition, &index): (&u16, &u64)| {
        let last = last_stored(&node.store, partition);
        (last < index).then(|| format!("partition {partition}: {last} of {index}"))
    };
    let missing = acknowledged.iter().filter_map(lacks).collect();
    node.abandon();
    missing
}

#[test]
fn acknowledged_entries_survive_kills() {
    let path = "state::log::tests::kill::acknowledged_entries_survive_kills";
    if testing::is_alone(path) {
        return propose_for_ever(Path::new(&std::env::var_os(DIRECTORY).unwrap()));
    }
    let temp = TempDirectory::new();
    let mut acknowledged = BTreeMap::new();
    for round in 0..rounds() {
        let life = random() % LIFE_MS_MAX;
        println!("round {round}: killed after {life} ms");
        let new = kill_one(path, temp.path(), Duration::from_millis(life), None);
        acknowledged.extend(new);
        assert_eq!(missing(temp.path(), &acknowledged), Vec::<String>::new());
    }
    let entries: u64 = acknowledged.values().sum();
    println!("{entries} entries acknowledged");
    assert!(
        entries > 50,
        "children were killed before they did anything"
    );
}

#[test]
fn kills_notice_who_acknowledges_before_the_sync() {
    let path = "state::log::tests::kill::kills_notice_who_acknowledges_before_the_sync";
    if testing::is_alone(path) {
        return propose_for_ever(Path::new(&std::env::var_os(DIRECTORY).unwrap()));
    }
    let begun = Instant::now();
    // Ends: at the first loss, or by patience.
    while begun.elapsed() < PATIENCE {
        let temp = TempDirectory::new();
        let life = Duration::from_millis(100);
        let acknowledged = kill_one(path, temp.path(), life, Some("early"));
        if !missing(temp.path(), &acknowledged).is_empty() {
            return;
        }
    }
    panic!("nothing acknowledged was ever lost, though it was not synced");
}

#[test]
fn held_files_keep_what_is_not_synced_from_the_disk() {
    let temp = TempDirectory::new();
    let real: Arc<dyn Files> = Arc::new(RealFiles::new(temp.path()).unwrap());
    let control = FaultControl::new(FileFaults {
        holds: true,
        ..FileFaults::default()
    });
    let files = crate::state::files::FaultyFiles::new(real, control).unwrap();
    let file = files.create("one").unwrap();
    file.write(0, b"first").unwrap();
    assert!(!temp.path().join("one").exists());
    file.sync().unwrap();
    assert!(!temp.path().join("one").exists(), "its name is not durable");
    files.sync_directory().unwrap();
    let on_disk = || std::fs::read(temp.path().join("one")).unwrap();
    assert_eq!(on_disk(), b"first");
    file.write(5, b" second").unwrap();
    assert_eq!(on_disk(), b"first");
    let mut seen = [0; 20];
    assert_eq!(file.read(0, &mut seen).unwrap(), 12);
    assert_eq!(&seen[..12], b"first second");
    file.sync().unwrap();
    assert_eq!(on_disk(), b"first second");
}
