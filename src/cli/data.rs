//! The data directory: who this node is, kept from one start to the next.
//!
//! Owns the directory's lock, which two brokers cannot have at once, and the file `node` in it: the node's number and that of
//! its last start. Must not know what the numbers are for. Invariants: a start's number is above all earlier ones before
//! anybody is told of it, and a file that is not understood is never replaced. Start at [`Data::open`].

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use sapwood_server::NodeId;

use super::file;
use super::problem::Wrong;

/// The longest file `node`: what one has at most, 62 bytes, and room for what editors leave behind.
const NODE_FILE_BYTES_MAX: u64 = 256;

/// How much of a wrong file is shown: enough to see what it is.
const SHOWN_CHARS_MAX: usize = 60;

/// A data directory that is this process's until the value is dropped.
#[derive(Debug)]
pub struct Data {
    /// Who this node is.
    pub node: NodeId,
    /// Which of its starts this is; higher than any before.
    pub incarnation: u64,
    /// The lock goes with it.
    _lock: File,
}

/// Why a data directory cannot be used. Nothing in it was changed, but for the lock and an unfinished `node.new`.
#[derive(Debug)]
pub enum DataError {
    /// The system refused something; holds what, and on which path.
    System(&'static str, PathBuf, io::Error),
    /// Another broker has the directory.
    InUse(PathBuf),
    /// The file cannot be read.
    Unreadable(Wrong),
    /// The file says something else than who this node is; holds what it begins with.
    NotANode(PathBuf, String),
}

impl fmt::Display for DataError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::System(what, path, error) => write!(
                out,
                "cannot {what} {} ({error}); let this user have a directory on a disk that works, or choose another one.",
                path.display()
            ),
            DataError::InUse(path) => write!(
                out,
                "another broker uses the directory {}; stop that one, or give each a directory of its own.",
                path.display()
            ),
            DataError::Unreadable(wrong) => wrong.fmt(out),
            DataError::NotANode(path, shown) => write!(
                out,
                "{path} does not say who this node is: it begins with {shown:?}, where \"node 0123456789abcdef\" and \
                 \"incarnation 1\" should stand in two lines. Put the right file back; or remove it, and this \
                 is a new node to the others.",
                path = path.display()
            ),
        }
    }
}

impl Data {
    /// Makes the directory if it is missing, locks it, and counts this start.
    ///
    /// Cost: two writes that wait for the disk. Errors: see [`DataError`].
    pub fn open(directory: &Path) -> Result<Data, DataError> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Data::open_at(directory, wall.unwrap_or_default().as_millis() as u64)
    }

    fn open_at(directory: &Path, wall_ms: u64) -> Result<Data, DataError> {
        create(directory)?;
        let lock = lock(directory)?;
        let path = directory.join("node");
        let (node, incarnation) = match read(&path)? {
            Some((node, last)) => (node, wall_ms.max(last + 1)),
            None => (draw(&path)?, wall_ms),
        };
        write(directory, &path, node, incarnation)?;
        Ok(Data {
            node,
            incarnation,
            _lock: lock,
        })
    }
}

/// Makes a directory, and those above it, for this user alone.
fn create(directory: &Path) -> Result<(), DataError> {
    if directory.is_dir() {
        return Ok(());
    }
    let failed = |error| DataError::System("make the directory", directory.to_path_buf(), error);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed)?;
    // A directory's own name stands in the one above it.
    match directory.parent() {
        Some(above) if !above.as_os_str().is_empty() => sync(above),
        _ => sync(Path::new(".")),
    }
}

fn sync(directory: &Path) -> Result<(), DataError> {
    let synced = File::open(directory).and_then(|open| open.sync_all());
    synced.map_err(|error| DataError::System("write to", directory.to_path_buf(), error))
}

/// Takes the lock, which the system takes back when the process ends, however it does.
fn lock(directory: &Path) -> Result<File, DataError> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let opened = options.open(&path);
    let file = opened.map_err(|error| DataError::System("open", path.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(DataError::System("lock", path, error)),
    }
}

fn read(path: &Path) -> Result<Option<(NodeId, u64)>, DataError> {
    let bytes = match file::read_capped(path, NODE_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(Wrong::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(wrong) => return Err(DataError::Unreadable(wrong)),
    };
    match parse(&bytes) {
        Some(found) => Ok(Some(found)),
        None => {
            let shown = String::from_utf8_lossy(&bytes);
            let shown = shown.chars().take(SHOWN_CHARS_MAX).collect();
            Err(DataError::NotANode(path.to_path_buf(), shown))
        }
    }
}

/// Reads what [`text`] writes; `None` is anything else, or a start after which there can be no other.
fn parse(bytes: &[u8]) -> Option<(NodeId, u64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (node, incarnation) = text.strip_suffix('\n')?.split_once('\n')?;
    let node = node.strip_prefix("node ")?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if node.len() != 16 || !node.bytes().all(is_digit) {
        return None;
    }
    let node = u64::from_str_radix(node, 16)
        .ok()
        .filter(|node| *node > 0)?;
    let incarnation = incarnation.strip_prefix("incarnation ")?;
    if !incarnation.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let incarnation = incarnation.parse().ok().filter(|last| *last < u64::MAX)?;
    Some((NodeId(node), incarnation))
}

fn text(node: NodeId, incarnation: u64) -> String {
    format!("node {:016x}\nincarnation {incarnation}\n", node.0)
}

fn draw(path: &Path) -> Result<NodeId, DataError> {
    let mut random = [0; 8];
    // Fewer bytes than the kernel ever gives in parts.
    let drawn = getrandom(&mut random, GetRandomFlags::empty());
    drawn.map_err(|error| {
        DataError::System("draw a number for", path.to_path_buf(), error.into())
    })?;
    // 0 stands for no node at all.
    Ok(NodeId(u64::from_le_bytes(random).max(1)))
}

/// Replaces the file as a whole: after a crash the old one is there, or the new one.
fn write(directory: &Path, path: &Path, node: NodeId, incarnation: u64) -> Result<(), DataError> {
    let new = directory.join("node.new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(text(node, incarnation).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| DataError::System("write", path.to_path_buf(), error))?;
    sync(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that is not there yet, gone with the value.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("sapwood-data-{}-{count}", std::process::id());
            Place(std::env::temp_dir().join(name))
        }

        fn with(text: &[u8]) -> Place {
            let place = Place::new();
            fs::create_dir(&place.0).unwrap();
            fs::write(place.0.join("node"), text).unwrap();
            place
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_node_stays_itself_and_each_start_is_later_than_all_before() {
        let place = Place::new();
        let mut last: Option<Data> = None;
        // Of the second start on the clock stands still, then it goes back.
        for (wall_ms, incarnation) in [(1_000, 1_000), (1_000, 1_001), (5, 1_002), (9_000, 9_000)] {
            let node = last.take().map(|last| last.node);
            let data = Data::open_at(&place.0, wall_ms).unwrap();
            assert_eq!(data.incarnation, incarnation);
            assert_eq!(data.node, node.unwrap_or(data.node));
            last = Some(data);
        }
    }

    #[test]
    fn nodes_are_different() {
        let (one, other) = (Place::new(), Place::new());
        let one = Data::open(&one.0).unwrap();
        assert_ne!(one.node, Data::open(&other.0).unwrap().node);
    }

    #[test]
    fn missing_directories_are_made_for_this_user_alone() {
        let place = Place::new();
        let below = place.0.join("below");
        let _data = Data::open(&below).unwrap();
        for (path, mode) in [
            (place.0.clone(), 0o700),
            (below.clone(), 0o700),
            (below.join("lock"), 0o600),
            (below.join("node"), 0o600),
        ] {
            let permissions = path.metadata().unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{}", path.display());
        }
        assert!(!below.join("node.new").exists());
    }

    #[test]
    fn a_directory_is_had_by_one_until_it_goes() {
        let place = Place::new();
        let data = Data::open(&place.0).unwrap();
        let before = fs::read(place.0.join("node")).unwrap();
        let message = Data::open(&place.0).unwrap_err().to_string();
        assert!(message.contains("another broker uses"), "{message}");
        assert!(message.contains(place.0.to_str().unwrap()), "{message}");
        assert_eq!(fs::read(place.0.join("node")).unwrap(), before);
        drop(data);
        Data::open(&place.0).unwrap();
    }

    #[test]
    fn what_is_not_understood_is_shown_and_left_alone() {
        for wrong in [
            &b""[..],
            b"hello\n",
            b"node 0123456789abcdef\n",
            b"node 0123456789abcdef\nincarnation 1",
            b"node 0123456789abcdef\nincarnation 1\n\n",
            b"node 0123456789abcdef\nincarnation +1\n",
            b"node 0123456789abcdef\nincarnation \n",
            b"node 0123456789abcdef\nincarnation 18446744073709551615\n",
            b"node 0123456789abcdef\nincarnation 18446744073709551616\n",
            b"node 0123456789ABCDEF\nincarnation 1\n",
            b"node 0000000000000000\nincarnation 1\n",
            b"node 123456789abcdef\nincarnation 1\n",
            b"node +123456789abcdef\nincarnation 1\n",
            b"incarnation 1\nnode 0123456789abcdef\n",
            b"\xff\x00\x1b[31m",
            &[b'x'; 200],
        ] {
            let place = Place::with(wrong);
            let message = Data::open(&place.0).unwrap_err().to_string();
            for part in [
                "does not say who",
                "begins with \"",
                "Put the right file back",
            ] {
                assert!(message.contains(part), "{wrong:?}: {message}");
            }
            assert!(
                !message.contains('\x1b') && message.len() < 600,
                "{message}"
            );
            assert_eq!(fs::read(place.0.join("node")).unwrap(), wrong);
        }
        let place = Place::with(&[b'x'; 300]);
        let message = Data::open(&place.0).unwrap_err().to_string();
        assert!(message.contains("is it the right file?"), "{message}");
    }

    #[test]
    fn what_a_crash_left_unfinished_does_not_count() {
        let place = Place::with(b"node 0123456789abcdef\nincarnation 7\n");
        fs::write(place.0.join("node.new"), b"node 01").unwrap();
        let data = Data::open_at(&place.0, 0).unwrap();
        assert_eq!(
            (data.node, data.incarnation),
            (NodeId(0x0123_4567_89ab_cdef), 8)
        );
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_refused() {
        let place = Place::with(b"");
        let message = Data::open(&place.0.join("node")).unwrap_err().to_string();
        assert!(
            message.starts_with("cannot make the directory "),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn every_node_is_read_as_it_was_written_and_no_part_of_it_is(node in 1..=u64::MAX, incarnation in 0..u64::MAX) {
            let written = text(NodeId(node), incarnation);
            prop_assert!(written.len() as u64 <= NODE_FILE_BYTES_MAX);
            prop_assert_eq!(parse(written.as_bytes()), Some((NodeId(node), incarnation)));
            for cut in 0..written.len() {
                prop_assert_eq!(parse(&written.as_bytes()[..cut]), None);
            }
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_refused(bytes: Vec<u8>) {
            prop_assert!(parse(&bytes).is_none());
        }
    }
}
