//! The state plane of a node: opened when there is something to keep, shared by its workers, ended last.
//!
//! Owns when the data directory is opened: at the start if there is data in it, else when the first stream is created, so
//! that a node that keeps nothing has no files. Must not know what is kept, nor who asks. Invariants: it is opened once,
//! by whichever worker comes first; all workers get their partitions from that; the mark of a run stands in the directory
//! from before the first entry until all is durable. Start at [`Plane::open`].

use super::directory::DataDirectory;
use super::error::OpenError;
use super::files::FaultControl;
use super::log::{LogHandle, LogSettings, LogThread, Tell};
use super::start::{self, StartReport};
use super::store::RocksStore;
use crate::mesh::Doors;
use sapwood_core::limits::WORKERS_MAX;
use sapwood_state::limits::ENTRY_COMMAND_BYTES_MAX;
use sapwood_state::worker::{LastStop, LogNews, Setup, SharedFilters};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a node keeps its streams, and how.
#[derive(Clone, Debug)]
pub struct StateSettings {
    /// The data directory; the state plane has a directory in it.
    pub directory: PathBuf,
    /// Whether the operator named it. One that is a default may be another broker's: then this one keeps nothing.
    pub is_chosen: bool,
    /// Number of partitions.
    pub partitions: u16,
    /// Number of state workers; `None` is one for two shards, and at least one.
    pub workers: Option<u16>,
    /// Faults of the disk, for tests.
    pub faults: Option<FaultControl>,
}

impl StateSettings {
    /// Number of state workers of a node with so many shards.
    pub(crate) fn workers_of(&self, shards: u16) -> u16 {
        self.workers.unwrap_or((shards / 2).max(1))
    }
}

/// The state plane's directory in the data directory.
const DIRECTORY: &str = "state";

/// This file stands in the directory while a node runs, or after one ended otherwise than in order.
const RUNNING: &str = "running";

/// The wall clock, ms since 1970.
pub(super) fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

/// News of the log for one worker. What is newer says all that was said before.
#[derive(Debug, Default)]
pub(super) struct NewsBox {
    written: AtomicU64,
    synced: AtomicU64,
    is_new: AtomicBool,
}

impl NewsBox {
    fn put(&self, news: LogNews) {
        self.written.fetch_max(news.written, Ordering::AcqRel);
        self.synced.fetch_max(news.synced, Ordering::AcqRel);
        self.is_new.store(true, Ordering::Release);
    }

    pub fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Acquire)
    }

    /// The news, if there are any since they were last taken.
    pub fn take(&self) -> Option<LogNews> {
        if !self.is_new.swap(false, Ordering::AcqRel) {
            return None;
        }
        let synced = self.synced.load(Ordering::Acquire);
        let written = self.written.load(Ordering::Acquire).max(synced);
        Some(LogNews { written, synced })
    }
}

/// What a worker gets when the plane is opened.
pub(super) struct Share {
    pub setup: Setup,
    pub store: RocksStore,
    pub log: LogHandle,
    pub news: Arc<NewsBox>,
}

/// How far the plane is.
enum Stage {
    Closed,
    Open {
        /// Those that were not taken yet, by worker.
        shares: Vec<Option<Share>>,
        log: LogThread,
        directory: DataDirectory,
    },
    /// It could not be opened, and is not tried again.
    Refused(String),
    Ended,
}

/// A worker's share, or why there is none.
pub(super) enum Opening {
    Open(Box<Share>),
    /// The reason, for the operator and for who asked.
    Refused(String),
}

/// See the module.
pub struct Plane {
    settings: StateSettings,
    workers: u16,
    doors: Arc<Doors>,
    stage: Mutex<Stage>,
    /// Workers are to end: no shard is left.
    is_ending: AtomicBool,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plane({})", self.settings.directory.display())
    }
}

impl Plane {
    /// The plane of a node, closed.
    pub(crate) fn new(settings: StateSettings, workers: u16, doors: Arc<Doors>) -> Plane {
        assert!((1..=WORKERS_MAX).contains(&usize::from(workers)));
        Plane {
            settings,
            workers,
            doors,
            stage: Mutex::new(Stage::Closed),
            is_ending: AtomicBool::new(false),
        }
    }

    /// Number of state workers and of partitions.
    pub(crate) fn place(&self) -> (u16, u16) {
        (self.workers, self.settings.partitions)
    }

    /// The state plane's own directory.
    fn path(&self) -> PathBuf {
        self.settings.directory.join(DIRECTORY)
    }

    /// Whether there is data from before.
    pub(crate) fn has_data(&self) -> bool {
        self.path().join("meta").exists()
    }

    /// Opens the directory, unless that was done before.
    ///
    /// A directory that the operator did not name and that another broker uses is no error: this one keeps nothing then.
    pub(crate) fn open(&self) -> Result<(), OpenError> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*stage, Stage::Closed) {
            return Ok(());
        }
        match self.open_directory() {
            Ok(open) => {
                *stage = open;
                Ok(())
            }
            Err(error @ OpenError::Locked { .. }) if !self.settings.is_chosen => {
                tracing::warn!("this broker keeps nothing: {error}");
                *stage = Stage::Refused(error.to_string());
                Ok(())
            }
            Err(error) => {
                *stage = Stage::Refused(error.to_string());
                Err(error)
            }
        }
    }

    /// A worker's share of an open plane, which is given once; opens it if that was not done.
    pub(super) fn share(&self, worker: u16) -> Opening {
        if let Err(error) = self.open() {
            tracing::error!("nothing can be kept: {error}");
        }
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stage {
            Stage::Open { shares, .. } => match shares[usize::from(worker)].take() {
                Some(share) => Opening::Open(Box::new(share)),
                None => unreachable!("worker {worker} took its share before"),
            },
            Stage::Refused(why) => Opening::Refused(why.clone()),
            Stage::Closed | Stage::Ended => Opening::Refused("the broker ends".into()),
        }
    }

    /// Whether it is open, so that a worker has a share.
    pub(super) fn is_open(&self) -> bool {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*stage, Stage::Open { .. })
    }

    fn open_directory(&self) -> Result<Stage, OpenError> {
        let workers = self.workers;
        let StateSettings {
            partitions,
            ref faults,
            ..
        } = self.settings;
        let directory = DataDirectory::open(&self.path(), partitions, faults.as_ref())?;
        let store = RocksStore::open(&directory.store_path());
        let mut store = store.map_err(OpenError::Store)?;
        let opened = start::open(&directory, &mut store, LogSettings::default())?;
        let last_stop = mark_running(directory.path())?;
        log_start(directory.path(), &opened.report);
        let boxes: Vec<Arc<NewsBox>> = (0..workers).map(|_| Arc::default()).collect();
        let tells = boxes.iter().zip(0..workers).map(|(news, worker)| {
            let (news, doors) = (Arc::clone(news), Arc::clone(&self.doors));
            let tell = move |log_news| {
                news.put(log_news);
                doors.of_worker(worker).wake();
            };
            Box::new(tell) as Tell
        });
        let log = LogThread::start(opened.log, store.clone(), tells.collect());
        let log = log.map_err(|error| OpenError::System {
            path: directory.path().to_path_buf(),
            doing: "start the log thread of",
            error,
        })?;
        let mut owned: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let all = opened.partitions.into_iter().zip(opened.next_indexes);
        for (partition, next) in all {
            owned[usize::from(partition.id().0 % workers)].push((partition, next));
        }
        let filters = SharedFilters::default();
        let each = owned.into_iter().zip(boxes).zip(0..workers);
        let shares = each.map(|((owned, news), worker)| {
            let setup = Setup {
                worker,
                lineage: directory.lineage(),
                partitions,
                owned,
                filters: filters.clone(),
                last_stop,
                entry_bytes_max: ENTRY_COMMAND_BYTES_MAX,
                wall_ms: wall_ms(),
            };
            Some(Share {
                setup,
                store: store.clone(),
                log: log.handle(),
                news,
            })
        });
        Ok(Stage::Open {
            shares: shares.collect(),
            log,
            directory,
        })
    }

    /// Whether workers are to end.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Has the workers end, once they have done what they were given.
    pub(crate) fn end_workers(&self) {
        self.is_ending.store(true, Ordering::Release);
        for worker in 0..self.workers {
            self.doors.of_worker(worker).ring_bell();
        }
    }

    /// Makes everything durable and closes the directory. The workers have ended.
    pub(crate) fn close(&self) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Stage::Open { log, directory, .. } = std::mem::replace(&mut *stage, Stage::Ended)
        else {
            return;
        };
        match log.end() {
            Ok(()) => {
                // Without this the next start only raises the sequences of `os` streams.
                let removed = std::fs::remove_file(directory.path().join(RUNNING));
                let synced = removed.and_then(|()| sync(directory.path()));
                synced
                    .unwrap_or_else(|error| tracing::warn!("the mark of this run stays: {error}"));
            }
            Err(failure) => tracing::error!("the state plane had stopped: {failure}"),
        }
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Marks the directory as in use by a run, and says whether the last one took its mark away.
fn mark_running(directory: &Path) -> Result<LastStop, OpenError> {
    let path = directory.join(RUNNING);
    let made = File::create_new(&path).and_then(|file| {
        file.sync_all()?;
        sync(directory)
    });
    match made {
        Ok(()) => Ok(LastStop::Clean),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(LastStop::Unclean),
        Err(error) => Err(OpenError::System {
            path,
            doing: "make",
            error,
        }),
    }
}

fn log_start(path: &Path, report: &StartReport) {
    tracing::info!(
        directory = %path.display(),
        replayed = report.replayed,
        milliseconds = report.took.as_millis() as u64,
        "streams are kept here"
    );
    if let Some((position, flaw)) = report.cut {
        tracing::info!(%position, ?flaw, "the log ended in a write that nobody was told of; it was cut off");
    }
}
