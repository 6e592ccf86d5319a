//! Why a data directory cannot be used, and why the plane stopped.
//!
//! Each says which file, what was wrong, and what to do. Nothing of a client's data stands in them.

use sapwood_state::log::RecoveryError;
use sapwood_state::partition::ApplyError;
use sapwood_state::store::StoreError;
use sapwood_wire::state::PartitionId;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What every message about damage ends with.
const RESTORE: &str = "Nothing was changed. Restore the directory from a backup, or move it away to begin with an empty one; \
     keep the damaged one for whoever looks into it.";

/// Who holds a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, in its own pid namespace.
    pub pid: u32,
    /// Since when, in UTC, as text.
    pub since: String,
}

/// What is wrong with a directory's own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryFlaw {
    /// The file is not there, though the directory holds data.
    Missing,
    /// It is not as it was written.
    Damaged,
    /// A newer build wrote it.
    Version(u32),
}

/// Why the state plane did not start. Nothing was lost: what was there is there.
#[derive(Debug)]
pub enum OpenError {
    /// A call of the system failed.
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was being done, such as `make`.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Another process uses the directory.
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who; nobody knows where its file cannot be read.
        holder: Option<Holder>,
    },
    /// One of the directory's own files cannot be used.
    Directory {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: DirectoryFlaw,
    },
    /// The directory was made with another number of partitions.
    Partitions {
        /// The directory.
        path: PathBuf,
        /// With how many it was made.
        found: u16,
        /// How many were asked for.
        wanted: u16,
    },
    /// The log is damaged.
    Log {
        /// The log's directory.
        path: PathBuf,
        /// Where and how.
        error: RecoveryError,
    },
    /// The log holds an entry of a partition that there is not.
    ForeignPartition {
        /// The log's directory.
        path: PathBuf,
        /// Which.
        partition: PartitionId,
    },
    /// The store failed or is damaged.
    Store(StoreError),
    /// An entry cannot be applied.
    Apply(PartitionId, ApplyError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        OpenError::Store(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::System { path, doing, error } => {
                let advice = advice(error);
                write!(f, "cannot {doing} {} ({error}); {advice}", path.display())
            }
            OpenError::Locked { path, holder } => {
                write!(f, "{} is in use by ", path.display())?;
                match holder {
                    Some(Holder { pid, since }) => write!(f, "process {pid} since {since}")?,
                    None => write!(f, "another process")?,
                }
                write!(f, "; stop that one, or name another directory with --data.")
            }
            OpenError::Directory { path, flaw } => {
                let path = path.display();
                match flaw {
                    DirectoryFlaw::Missing => {
                        write!(
                            f,
                            "{path} is missing, but its directory holds data. {RESTORE}"
                        )
                    }
                    DirectoryFlaw::Damaged => write!(f, "{path} is damaged. {RESTORE}"),
                    DirectoryFlaw::Version(version) => write!(
                        f,
                        "{path} is of version {version}, which this build does not know; start a newer build."
                    ),
                }
            }
            OpenError::Partitions {
                path,
                found,
                wanted,
            } => write!(
                f,
                "{} was made with {found} partitions, not {wanted}, and keeps that number; \
                 start with --partitions {found}, or name an empty directory with --data.",
                path.display()
            ),
            OpenError::Log { path, error } => {
                write!(
                    f,
                    "the log in {} is refused: {error}. {RESTORE}",
                    path.display()
                )
            }
            OpenError::ForeignPartition { path, partition } => write!(
                f,
                "the log in {} has entries of partition {partition}, which the directory does not have. {RESTORE}",
                path.display()
            ),
            OpenError::Store(error) => write!(f, "{error}. {RESTORE}"),
            OpenError::Apply(partition, error) => {
                write!(
                    f,
                    "partition {partition} cannot be replayed: {error}. {RESTORE}"
                )
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// What to do about an error of the system.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::PermissionDenied => {
            "give the broker's user the directory, or name another with --data."
        }
        Kind::ReadOnlyFilesystem => {
            "the file system is read-only: look at the kernel's log for why, or name another directory with --data."
        }
        Kind::StorageFull | Kind::QuotaExceeded => {
            "free space on the disk, or name a directory on another with --data."
        }
        Kind::NotADirectory | Kind::AlreadyExists | Kind::IsADirectory => {
            "something else is in the way: name another directory with --data."
        }
        _ => "look at the disk and the kernel's log, or name another directory with --data.",
    }
}

/// Why the plane stopped, for ever. What was acknowledged is on the disk; what was under way may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write, sync or preparation of the log failed.
    File {
        /// The file.
        path: PathBuf,
        /// What was being done: `write`, `sync`, `prepare`, `open`.
        doing: &'static str,
        /// What the system said.
        error: String,
        /// What to do.
        advice: &'static str,
    },
    /// The store could not be flushed.
    Store(StoreError),
    /// A thread ended by a bug; holds its name.
    Bug(&'static str),
}

impl Failure {
    /// A call of the system on a file failed.
    pub(super) fn file(path: PathBuf, doing: &'static str, error: &io::Error) -> Failure {
        use io::ErrorKind as Kind;
        let advice = match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => "free space on the disk",
            Kind::ReadOnlyFilesystem => {
                "the file system became read-only: look at the kernel's log, and repair it"
            }
            _ => "look at the disk and the kernel's log",
        };
        Failure::File {
            path,
            doing,
            error: error.to_string(),
            advice,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::File {
                path,
                doing,
                error,
                advice,
            } => write!(
                f,
                "cannot {doing} {} ({error}), so nothing is stored any more; {advice}, then start the broker again.",
                path.display()
            ),
            Failure::Store(error) => write!(
                f,
                "{error}, so nothing is stored any more; look at the disk and its free space, then start the broker again."
            ),
            Failure::Bug(thread) => write!(
                f,
                "thread {thread} ended by a bug, so nothing is stored any more; start the broker again, and report what it \
                 printed."
            ),
        }
    }
}

impl std::error::Error for Failure {}
