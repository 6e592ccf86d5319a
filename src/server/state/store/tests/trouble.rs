//! Trouble: a second user, a disk that is full.

use super::*;
use crate::testing;

/// Where a child process has its store.
const PLACE: &str = "SAPWOOD_STORE_PLACE";

fn said(result: Result<impl fmt::Debug, StoreError>) -> String {
    match result {
        Err(StoreError::Failed(said)) => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn store_is_opened_once() {
    let directory = Directory::new();
    let store = directory.open();
    let second = said(RocksStore::open(&directory.0.join("store")));
    assert!(second.contains("LOCK"), "{second}");
    drop(store.clone());
    said(RocksStore::open(&directory.0.join("store")));
    drop(store);
    directory.open();
}

#[test]
fn store_of_another_process_is_not_opened() {
    const PATH: &str = "state::store::tests::trouble::store_of_another_process_is_not_opened";
    if testing::is_alone(PATH) {
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        let second = said(RocksStore::open(&place));
        assert!(second.contains("LOCK"), "{second}");
        return;
    }
    let directory = Directory::new();
    let _store = directory.open();
    let mut command = testing::command(PATH);
    command.env(PLACE, directory.0.join("store"));
    testing::passed(command.output().unwrap());
}

#[test]
fn place_where_no_store_can_be_is_refused() {
    let directory = Directory::new();
    let file = directory.0.join("file");
    std::fs::write(&file, "no directory").unwrap();
    let refused = said(RocksStore::open(&file.join("store")));
    assert!(refused.contains("file"), "{refused}");
}

fn write(store: &mut RocksStore, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let writes = vec![
        put(Family::Meta, b"\0\0\0number", &number.to_be_bytes()),
        put(Family::Msgs, &number.to_be_bytes(), bytes),
    ];
    store.write(&WriteBatch { writes })
}

fn number(store: &RocksStore) -> u64 {
    let mut value = Vec::new();
    store
        .get(Family::Meta, b"\0\0\0number", &mut value)
        .unwrap();
    u64::from_be_bytes(*value.first_chunk().unwrap())
}

fn resize(place: &std::path::Path, size: &str) {
    let mut command = std::process::Command::new("mount");
    command
        .args(["-o", &format!("remount,size={size}")])
        .arg(place);
    assert!(command.status().unwrap().success());
}

/// On a disk of 4 MiB, in a mount namespace of its own.
#[test]
fn full_disk_is_final_until_the_store_is_opened_again() {
    const PATH: &str =
        "state::store::tests::trouble::full_disk_is_final_until_the_store_is_opened_again";
    if testing::is_alone(PATH) {
        let disk = PathBuf::from(std::env::var_os(PLACE).unwrap());
        let mut store = RocksStore::open(&disk.join("store")).unwrap();
        let mut random = Random(1);
        let mut flushed = 0;
        // Ends: the disk has room for a few.
        let full = loop {
            let written = write(&mut store, flushed + 1, &random.bytes(300_000));
            match written.and_then(|()| store.flush()) {
                Ok(()) => flushed += 1,
                Err(error) => break error,
            }
            assert!(flushed < 100, "the disk is never full");
        };
        let StoreError::Failed(full) = full else {
            panic!("{full:?}")
        };
        assert!(full.contains("No space left on device"), "{full}");
        assert!(flushed > 3);
        resize(&disk, "64m");
        // There is room again, but what was lost is not written by itself.
        assert_eq!(said(write(&mut store, 0, b"")), full);
        assert_eq!(said(store.flush()), full);
        drop(store);
        let mut store = RocksStore::open(&disk.join("store")).unwrap();
        let reached = number(&store);
        println!("{flushed} flushes, then {full}; reopened at {reached}");
        assert_eq!(reached, flushed);
        write(&mut store, reached + 1, b"").unwrap();
        store.flush().unwrap();
        return;
    }
    let directory = Directory::new();
    let plain = testing::command(PATH);
    let mut command = std::process::Command::new("unshare");
    // Without root, as the root of a namespace of users.
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=4m tmpfs \"$0\" && exec \"$@\"");
    command.arg(&directory.0).arg(plain.get_program());
    command.args(plain.get_args());
    let set = plain
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    command.envs(set).env(PLACE, &directory.0);
    print!("{}", testing::passed(command.output().unwrap()));
}
