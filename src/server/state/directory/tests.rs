//! Directories: made, opened, refused.

use super::*;
use crate::state::files::FileFaults;
use crate::state::testing::{PARTITIONS, TempDirectory};
use crate::testing;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[track_caller]
fn open(temp: &TempDirectory) -> DataDirectory {
    match DataDirectory::open(&temp.data(), PARTITIONS, None) {
        Ok(directory) => directory,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn refusal(temp: &TempDirectory, partitions: u16) -> String {
    match DataDirectory::open(&temp.data(), partitions, None) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text} does not say {part}");
    }
}

#[test]
fn directory_is_the_same_when_it_is_opened_again() {
    let temp = TempDirectory::new();
    let first = open(&temp);
    let (lineage, fingerprint) = (first.lineage(), format!("{:?}", first.secret()));
    assert!(lineage.0 != 0);
    let secret = std::fs::read(temp.data().join(SECRET)).unwrap();
    drop(first);
    let again = open(&temp);
    assert_eq!(again.lineage(), lineage);
    assert_eq!(again.partitions(), PARTITIONS);
    assert_eq!(std::fs::read(temp.data().join(SECRET)).unwrap(), secret);
    assert_eq!(fingerprint, "Secret", "it is never shown");
    let other = TempDirectory::new();
    assert!(open(&other).lineage() != lineage);
    assert!(std::fs::read(other.data().join(SECRET)).unwrap() != secret);
}

#[test]
fn other_number_of_partitions_is_refused() {
    let temp = TempDirectory::new();
    drop(open(&temp));
    let text = refusal(&temp, 32);
    check_says(&text, &["64 partitions, not 32", "--partitions 64"]);
    drop(open(&temp));
}

#[test]
fn second_process_is_refused_by_the_name_of_the_first() {
    let path = "state::directory::tests::second_process_is_refused_by_the_name_of_the_first";
    let variable = "SAPWOOD_TEST_LOCK_DIRECTORY";
    if testing::is_alone(path) {
        let data = PathBuf::from(std::env::var_os(variable).unwrap());
        let _directory = DataDirectory::open(&data, PARTITIONS, None).unwrap();
        println!("opened");
        // Until it is killed, or its parent ends.
        let _ = io::stdin().lines().next();
        return;
    }
    let temp = TempDirectory::new();
    let mut command = testing::command(path);
    command.env(variable, temp.data());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = command.spawn().unwrap();
    let lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let mut opened = lines.map_while(Result::ok);
    assert!(opened.any(|line| line.contains("opened")));
    let text = refusal(&temp, PARTITIONS);
    let pid = format!("in use by process {} since 20", first.id());
    check_says(&text, &[&pid, " UTC", "--data"]);
    // By whatever way it is reached.
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(temp.data(), &link).unwrap();
    let by_link = DataDirectory::open(&link, PARTITIONS, None).unwrap_err();
    assert_eq!(by_link.to_string(), text);
    first.kill().unwrap();
    first.wait().unwrap();
    drop(open(&temp));
}

#[test]
fn directory_behind_a_link_stays_the_same_when_the_link_changes() {
    let temp = TempDirectory::new();
    let link = temp.path().join("link");
    std::fs::create_dir(temp.data()).unwrap();
    std::os::unix::fs::symlink(temp.data(), &link).unwrap();
    let directory = DataDirectory::open(&link, PARTITIONS, None).unwrap();
    assert_eq!(directory.path(), temp.data().canonicalize().unwrap());
}

#[test]
fn lock_file_that_was_removed_keeps_nobody_out_of_a_new_one() {
    let temp = TempDirectory::new();
    let directory = open(&temp);
    assert!(is_named(&directory.lock, &temp.data().join(LOCK)));
    std::fs::remove_file(temp.data().join(LOCK)).unwrap();
    assert!(!is_named(&directory.lock, &temp.data().join(LOCK)));
}

/// A change to a directory, and what is said then.
#[track_caller]
fn check_refused(change: impl FnOnce(&Path), parts: &[&str]) {
    let temp = TempDirectory::new();
    let directory = open(&temp);
    std::fs::write(directory.log_path().join("000001.log"), "data").unwrap();
    drop(directory);
    change(&temp.data());
    check_says(&refusal(&temp, PARTITIONS), parts);
}

fn flip(path: PathBuf, at: usize) {
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_files_of_a_directory_are_refused_by_name() {
    check_refused(
        |data| std::fs::remove_file(data.join(META)).unwrap(),
        &["meta is missing, but its directory holds data", "backup"],
    );
    check_refused(
        |data| std::fs::remove_file(data.join(SECRET)).unwrap(),
        &["secret is missing", "backup"],
    );
    for at in [0, 25, 40, 60] {
        check_refused(|data| flip(data.join(META), at), &["meta is damaged"]);
    }
    for at in [0, 9, 27] {
        check_refused(|data| flip(data.join(SECRET), at), &["secret is damaged"]);
    }
    check_refused(
        |data| {
            let body = "sapwood data directory\nversion 2\nwhatever\n";
            let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
            std::fs::write(data.join(META), text).unwrap();
        },
        &["meta is of version 2", "newer build"],
    );
}

#[test]
fn directory_that_cannot_be_made_is_said() {
    let temp = TempDirectory::new();
    std::fs::write(temp.data(), "a file").unwrap();
    check_says(
        &refusal(&temp, PARTITIONS),
        &["cannot make ", "data", "--data"],
    );
    let below = DataDirectory::open(&temp.data().join("below"), PARTITIONS, None).unwrap_err();
    check_says(
        &below.to_string(),
        &["cannot make ", "data/below", "--data"],
    );
    let nowhere = DataDirectory::open(Path::new("/proc/sapwood"), PARTITIONS, None);
    check_says(
        &nowhere.unwrap_err().to_string(),
        &["cannot make /proc/sapwood"],
    );
}

#[test]
fn directory_whose_making_broke_anywhere_is_made_again() {
    // Writes and syncs are those of two small files.
    for broken_at in 0..4 {
        for is_sync in [false, true] {
            let temp = TempDirectory::new();
            let at = Some((broken_at / 2, libc::EIO));
            let faults = FaultControl::new(FileFaults {
                holds: broken_at % 2 == 0,
                failing_write: at.filter(|_| !is_sync),
                failing_sync: at.filter(|_| is_sync),
                ..FileFaults::default()
            });
            let broken = DataDirectory::open(&temp.data(), PARTITIONS, Some(&faults));
            let text = broken.unwrap_err().to_string();
            check_says(&text, &["cannot write ", "look at the disk"]);
            assert!(!temp.data().join(META).exists());
            drop(open(&temp));
        }
    }
}

#[test]
fn lock_says_when_in_utc() {
    for (seconds, text) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_399, "2000-02-28 23:59:59 UTC"),
        (951_782_400, "2000-02-29 00:00:00 UTC"),
        (1_796_137_582, "2026-12-01 15:06:22 UTC"),
        (4_107_542_400, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(utc(seconds), text);
    }
}
