//! Real files: permissions, errors, small files put in place.

use super::*;
use crate::state::testing::TempDirectory;
use crate::testing;
use std::os::fd::AsRawFd;

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_umask(mask: libc::mode_t) {
    // SAFETY: it changes a number of the process, and cannot fail.
    unsafe { libc::umask(mask) };
}

#[test]
fn files_and_directories_are_their_owners_whatever_the_umask() {
    let path = "state::files::tests::files_and_directories_are_their_owners_whatever_the_umask";
    // The umask is the process's.
    testing::alone(path, || {
        for mask in [0, 0o777] {
            let temp = TempDirectory::new();
            set_umask(mask);
            let directory = temp.path().join("a/b");
            make_directory(&directory).unwrap();
            let files = RealFiles::new(&directory).unwrap();
            put_whole(&files, "file", b"content").unwrap();
            assert_eq!(mode_of(&temp.path().join("a")), 0o700);
            assert_eq!(mode_of(&directory), 0o700);
            assert_eq!(mode_of(&directory.join("file")), 0o600);
            set_umask(0o022);
        }
    });
}

#[test]
fn directory_that_is_there_keeps_its_permissions() {
    let temp = TempDirectory::new();
    let path = temp.path().join("theirs");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
    make_directory(&path).unwrap();
    assert_eq!(mode_of(&path), 0o750);
}

#[test]
fn children_inherit_no_descriptor() {
    let temp = TempDirectory::new();
    let files = RealFiles::new(temp.path()).unwrap();
    let file = RealFile(
        options()
            .create(true)
            .truncate(true)
            .open(temp.path().join("f"))
            .unwrap(),
    );
    for fd in [files.directory.as_raw_fd(), file.0.as_raw_fd()] {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i64::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        assert!(flags & i64::from(libc::O_CLOEXEC) != 0, "{info}");
    }
}

#[test]
fn small_file_is_put_in_place_over_what_a_crash_left() {
    let temp = TempDirectory::new();
    std::fs::write(
        temp.path().join("meta.new"),
        "much longer than what is written now",
    )
    .unwrap();
    let files = RealFiles::new(temp.path()).unwrap();
    put_whole(&files, "meta", b"one").unwrap();
    put_whole(&files, "meta", b"two").unwrap();
    let listed = files.list().unwrap();
    assert_eq!(listed, [("meta".to_string(), 3)]);
    assert_eq!(std::fs::read(temp.path().join("meta")).unwrap(), b"two");
}

#[test]
fn free_space_is_what_the_system_says() {
    let temp = TempDirectory::new();
    let files = RealFiles::new(temp.path()).unwrap();
    let free = files.free_bytes().unwrap();
    let output = std::process::Command::new("df")
        .args(["--output=avail", "-B1"])
        .arg(temp.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said: u64 = text.lines().last().unwrap().trim().parse().unwrap();
    // Others write meanwhile.
    assert!(free.abs_diff(said) < 1 << 30, "{free} and {said}");
}
