//! A data directory: who uses it, what it is, its secret.
//!
//! | name | what |
//! |---|---|
//! | `lock` | locked as long as a broker uses the directory; holds its pid and since when |
//! | `secret` | 16 random bytes that seal the log; readable by the owner alone |
//! | `meta` | version, number of partitions, lineage; text |
//! | `log/` | the log's segments |
//! | `store/` | the store |
//!
//! Must not know what stands in log and store. Invariants: `meta` is written last of what makes a directory, so without
//! it there is no data, and a start that was killed anywhere before is simply made again; the lock is held as long as
//! [`DataDirectory`] lives. Start at [`DataDirectory::open`].

use super::files::{
    FaultControl, FaultyFiles, Files, RealFiles, make_directory, put_whole, read_all,
};
use super::limits::SMALL_FILE_BYTES_MAX;
use super::{DirectoryFlaw, Holder, OpenError};
use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};
use sapwood_state::limits::PARTITIONS_MAX;
use sapwood_state::log::Secret;
use sapwood_wire::state::Lineage;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const META: &str = "meta";
const SECRET: &str = "secret";
const LOCK: &str = "lock";
const LOG: &str = "log";
const STORE: &str = "store";

/// The version of the directory's layout.
const VERSION: u32 = 1;

const META_TITLE: &str = "sapwood data directory";
const SECRET_MAGIC: &[u8; 8] = b"SwSecret";

/// A lock file may vanish between its opening and its locking; more often than this is no accident.
const LOCK_ATTEMPTS: u32 = 8;

/// What a directory is, as its `meta` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    partitions: u16,
    lineage: Lineage,
}

/// A data directory that this process alone uses.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    meta: Meta,
    secret: Secret,
    log: Arc<dyn Files>,
    /// Locked as long as it is open.
    lock: File,
}

fn system(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |error| OpenError::System { path, doing, error }
}

fn files_of(path: &Path, faults: Option<&FaultControl>) -> io::Result<Arc<dyn Files>> {
    let real: Arc<dyn Files> = Arc::new(RealFiles::new(path)?);
    Ok(match faults {
        None => real,
        Some(control) => Arc::new(FaultyFiles::new(real, control.clone())?),
    })
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked holds the lock until it executes its program.
        // Fails where nobody can hold it any more.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl DataDirectory {
    /// Opens a directory, or makes it with this number of partitions. `faults` is for tests.
    ///
    /// A link is followed once: what it says later does not matter.
    pub fn open(
        path: &Path,
        partitions: u16,
        faults: Option<&FaultControl>,
    ) -> Result<DataDirectory, OpenError> {
        let is_number = (1..=PARTITIONS_MAX).contains(&usize::from(partitions));
        assert!(is_number, "{partitions} partitions");
        make_directory(path).map_err(system(path, "make"))?;
        let path = path.canonicalize().map_err(system(path, "find"))?;
        let lock = lock(&path)?;
        let log_path = path.join(LOG);
        let files = files_of(&path, faults).map_err(system(&path, "open"))?;
        let (meta, secret) = match read_small(&*files, &path, META)? {
            Some(text) => {
                let meta = read_meta(&text).map_err(|flaw| flawed(&path, META, flaw))?;
                (meta, read_secret(&*files, &path)?)
            }
            None => make(&*files, &path, partitions)?,
        };
        if meta.partitions != partitions {
            return Err(OpenError::Partitions {
                path,
                found: meta.partitions,
                wanted: partitions,
            });
        }
        make_directory(&log_path).map_err(system(&log_path, "make"))?;
        let log = files_of(&log_path, faults).map_err(system(&log_path, "open"))?;
        Ok(DataDirectory {
            path,
            meta,
            secret,
            log,
            lock,
        })
    }

    /// Where it is, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store belongs; not made yet.
    pub fn store_path(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// Where the log is.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// With how many partitions it was made.
    pub fn partitions(&self) -> u16 {
        self.meta.partitions
    }

    /// Its lineage, which resume tokens carry.
    pub fn lineage(&self) -> Lineage {
        self.meta.lineage
    }

    pub(super) fn secret(&self) -> Secret {
        self.secret.clone()
    }

    pub(super) fn log_files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.log)
    }
}

fn flawed(path: &Path, name: &str, flaw: DirectoryFlaw) -> OpenError {
    let path = path.join(name);
    OpenError::Directory { path, flaw }
}

/// Takes the directory for this process.
fn lock(path: &Path) -> Result<File, OpenError> {
    let name = path.join(LOCK);
    for _ in 0..LOCK_ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let mut file = options.open(&name).map_err(system(&name, "open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let path = path.to_path_buf();
                let holder = read_holder(&mut file);
                return Err(OpenError::Locked { path, holder });
            }
            Err(error) => return Err(system(&name, "lock")(error.into())),
        }
        if is_named(&file, &name) {
            let wrote = write_holder(&mut file);
            return wrote.map(|()| file).map_err(system(&name, "write"));
        }
        // Somebody removed it meanwhile: a lock on a file without a name keeps nobody out.
    }
    let gone = io::ErrorKind::NotFound.into();
    Err(system(&name, "lock")(gone))
}

fn is_named(file: &File, name: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(name)) {
        (Ok(file), Ok(named)) => file.dev() == named.dev() && file.ino() == named.ino(),
        _ => false,
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = utc(now.map_or(0, |now| now.as_secs()));
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    writeln!(file, "pid {}\nsince {since}", std::process::id())
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    let mut file = file.take(SMALL_FILE_BYTES_MAX);
    file.read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.strip_prefix("pid ")?.parse().ok()?;
    let since = lines.next()?.strip_prefix("since ")?.to_string();
    Some(Holder { pid, since })
}

/// A time in UTC, by the rules of the Gregorian calendar.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; eras of 400 years are all the same.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// What a small file holds; nothing if it is not there.
fn read_small(files: &dyn Files, path: &Path, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
    let path = path.join(name);
    let file = match files.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(&path, "open")(error)),
    };
    let mut bytes = vec![0; SMALL_FILE_BYTES_MAX as usize];
    let count = read_all(&*file, 0, &mut bytes).map_err(system(&path, "read"))?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

/// Makes what an empty directory needs; the `meta` last.
fn make(files: &dyn Files, path: &Path, partitions: u16) -> Result<(Meta, Secret), OpenError> {
    let holds_something = |name: &str| match std::fs::read_dir(path.join(name)) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => false,
    };
    if holds_something(LOG) || holds_something(STORE) {
        return Err(flawed(path, META, DirectoryFlaw::Missing));
    }
    let mut random = [0; 24];
    let mut done = 0;
    // Ends: each turn draws at least a byte.
    while done < random.len() {
        let drawn = getrandom(&mut random[done..], GetRandomFlags::empty());
        done += drawn.map_err(|error| system(path, "draw random bytes for")(error.into()))?;
    }
    let (mut key, mut lineage) = ([0; 16], [0; 8]);
    key.copy_from_slice(&random[..16]);
    lineage.copy_from_slice(&random[16..]);
    let meta = Meta {
        partitions,
        lineage: Lineage(u64::from_be_bytes(lineage)),
    };
    let mut secret = SECRET_MAGIC.to_vec();
    secret.extend_from_slice(&key);
    secret.extend_from_slice(&crc32c::crc32c(&secret).to_be_bytes());
    for (name, bytes) in [(SECRET, secret), (META, write_meta(&meta).into_bytes())] {
        let path = path.join(name);
        put_whole(files, name, &bytes).map_err(system(&path, "write"))?;
    }
    Ok((meta, Secret::new(&key)))
}

fn read_secret(files: &dyn Files, path: &Path) -> Result<Secret, OpenError> {
    let flaw = |flaw| flawed(path, SECRET, flaw);
    let bytes = read_small(files, path, SECRET)?.ok_or(flaw(DirectoryFlaw::Missing))?;
    let damaged = || flaw(DirectoryFlaw::Damaged);
    let (sealed, checksum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    let key = sealed.strip_prefix(SECRET_MAGIC).ok_or_else(damaged)?;
    let key = <&[u8; 16]>::try_from(key).map_err(|_| damaged())?;
    match crc32c::crc32c(sealed) == u32::from_be_bytes(*checksum) {
        true => Ok(Secret::new(key)),
        false => Err(damaged()),
    }
}

fn write_meta(meta: &Meta) -> String {
    let text = format!(
        "{META_TITLE}\nversion {VERSION}\npartitions {}\nlineage {}\n",
        meta.partitions, meta.lineage
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {checksum:08x}\n")
}

/// Every version begins with the title and its number, and ends with the checksum.
fn read_meta(bytes: &[u8]) -> Result<Meta, DirectoryFlaw> {
    let damaged = DirectoryFlaw::Damaged;
    let text = std::str::from_utf8(bytes).map_err(|_| damaged)?;
    let (body, checksum) = text.rsplit_once("crc32c ").ok_or(damaged)?;
    let checksum = u32::from_str_radix(checksum.trim_end(), 16).map_err(|_| damaged)?;
    if crc32c::crc32c(body.as_bytes()) != checksum {
        return Err(damaged);
    }
    let mut lines = body.lines();
    if lines.next() != Some(META_TITLE) {
        return Err(damaged);
    }
    let mut field = |name: &str| {
        let value = lines.next().and_then(|line| line.strip_prefix(name));
        value.ok_or(damaged)
    };
    let version = field("version ")?.parse().map_err(|_| damaged)?;
    if version != VERSION {
        return Err(DirectoryFlaw::Version(version));
    }
    let partitions = field("partitions ")?.parse().map_err(|_| damaged)?;
    let lineage = u64::from_str_radix(field("lineage ")?, 16).map_err(|_| damaged)?;
    Ok(Meta {
        partitions,
        lineage: Lineage(lineage),
    })
}

#[cfg(test)]
mod tests;
