//! Files with faults, for tests: of this package and, by the broker's configuration, of the real binary.
//!
//! Owns what a disk might have lost: with [`FileFaults::holds`] whatever was written and not synced stays in this
//! process's memory, so that a kill loses it as a power cut would. Reads see it, as they see the page cache. A sync that
//! fails leaves what it covered in memory for ever, as the system takes such pages for clean. Start at [`FaultyFiles`].

use super::{Files, OpenFile, read_all, write_all};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which faults there are. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFaults {
    /// What was written and not synced stays in memory.
    pub holds: bool,
    /// So many writes succeed, then all fail with this error of the system.
    pub failing_write: Option<(u64, i32)>,
    /// So many syncs succeed, then one fails with this error of the system. Those after it would succeed.
    pub failing_sync: Option<(u64, i32)>,
    /// Making a file fails with this error of the system.
    pub failing_create: Option<i32>,
    /// Each write of more than a byte takes half of it, and every other one is interrupted first.
    pub short_writes: bool,
    /// A sync takes so long.
    pub sync_takes: Duration,
    /// What is said of free space.
    pub free_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct Control {
    faults: FileFaults,
    writes: u64,
    syncs: u64,
    was_interrupted: bool,
    /// Syncs wait until it is open.
    is_gate_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    control: Mutex<Control>,
    gate: Condvar,
}

/// Sets faults, and counts what was asked for. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct FaultControl(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn system<T>(error: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(error))
}

impl FaultControl {
    /// With these faults from the beginning.
    pub fn new(faults: FileFaults) -> FaultControl {
        let control = FaultControl::default();
        control.set(faults);
        control
    }

    /// Other faults from now on; what they count begins anew.
    pub fn set(&self, faults: FileFaults) {
        *lock(&self.0.control) = Control {
            faults,
            ..Control::default()
        };
        self.0.gate.notify_all();
    }

    /// From now on syncs begin and do not end, until [`FaultControl::open_gate`].
    pub fn close_gate(&self) {
        lock(&self.0.control).is_gate_closed = true;
    }

    /// Lets syncs end.
    pub fn open_gate(&self) {
        lock(&self.0.control).is_gate_closed = false;
        self.0.gate.notify_all();
    }

    /// Syncs since faults were set, failed ones too.
    pub fn syncs(&self) -> u64 {
        lock(&self.0.control).syncs
    }

    /// Writes since faults were set, failed ones too.
    pub fn writes(&self) -> u64 {
        lock(&self.0.control).writes
    }

    fn holds(&self) -> bool {
        lock(&self.0.control).faults.holds
    }

    /// How many of so many bytes are written.
    fn begin_write(&self, bytes: usize) -> io::Result<usize> {
        let mut control = lock(&self.0.control);
        control.writes += 1;
        if let Some((good, error)) = control.faults.failing_write
            && control.writes > good
        {
            return system(error);
        }
        if !control.faults.short_writes || bytes < 2 {
            return Ok(bytes);
        }
        control.was_interrupted = !control.was_interrupted;
        match control.was_interrupted {
            true => Err(ErrorKind::Interrupted.into()),
            false => Ok(bytes / 2),
        }
    }

    fn begin_sync(&self) -> io::Result<()> {
        let mut control = lock(&self.0.control);
        control.syncs += 1;
        let takes = control.faults.sync_takes;
        let failing = control.faults.failing_sync;
        let error = failing.filter(|(good, _)| control.syncs == good + 1);
        while control.is_gate_closed {
            let woken = self.0.gate.wait(control);
            control = woken.unwrap_or_else(PoisonError::into_inner);
        }
        drop(control);
        std::thread::sleep(takes);
        error.map_or(Ok(()), |(_, error)| system(error))
    }
}

/// Faults before a directory.
#[derive(Debug)]
pub struct FaultyFiles {
    real: Arc<dyn Files>,
    control: FaultControl,
    names: Mutex<Names>,
}

/// What the process sees of names, where the directory has not been synced.
#[derive(Debug, Default)]
struct Names {
    /// Files by the name that the process sees.
    files: BTreeMap<String, Arc<Held>>,
    /// What the next sync of the directory does, in order.
    pending: Vec<NameChange>,
    /// The next number of a file that has no durable name.
    hidden: u64,
}

#[derive(Debug)]
enum NameChange {
    Name(Arc<Held>, String),
    Remove(String),
}

/// A file. Until its name is durable, the real one has a hidden name.
#[derive(Debug)]
struct Held {
    real: Arc<dyn OpenFile>,
    real_name: Mutex<String>,
    control: FaultControl,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// Size as the process sees it.
    bytes: u64,
    /// What the real file has of it; less where it was emptied and that is not synced.
    real_bytes: u64,
    /// Counts as clean after a failed sync, and no disk has it.
    lost: Vec<(u64, Vec<u8>)>,
    /// Waits for a sync.
    waiting: Vec<(u64, Vec<u8>)>,
}

/// Hidden names begin with this; a start of the process removes what is left of them.
const HIDDEN: &str = ".held-";

impl Names {
    /// The file takes no name at the next sync of the directory.
    fn forget(&mut self, file: Option<&Arc<Held>>) {
        let is_it = |change: &NameChange| match (change, file) {
            (NameChange::Name(of, _), Some(file)) => Arc::ptr_eq(of, file),
            _ => false,
        };
        self.pending.retain(|change| !is_it(change));
    }
}

impl FaultyFiles {
    /// Faults before these files.
    pub fn new(real: Arc<dyn Files>, control: FaultControl) -> io::Result<FaultyFiles> {
        for (name, _) in real.list()? {
            if name.starts_with(HIDDEN) {
                real.remove(&name)?;
            }
        }
        Ok(FaultyFiles {
            real,
            control,
            names: Mutex::default(),
        })
    }

    /// The file that the process sees under this name.
    fn held(&self, names: &mut Names, name: &str) -> io::Result<Arc<Held>> {
        if let Some(held) = names.files.get(name) {
            return Ok(Arc::clone(held));
        }
        let is_gone =
            |change: &NameChange| matches!(change, NameChange::Remove(gone) if gone == name);
        if names.pending.iter().any(is_gone) {
            return Err(ErrorKind::NotFound.into());
        }
        let real = self.real.open(name)?;
        let listed = self.real.list()?;
        let bytes = listed.iter().find(|(listed, _)| listed == name);
        let bytes = bytes.map_or(0, |(_, bytes)| *bytes);
        let held = Arc::new(Held {
            real,
            real_name: Mutex::new(name.to_string()),
            control: self.control.clone(),
            content: Mutex::new(Content {
                bytes,
                real_bytes: bytes,
                ..Content::default()
            }),
        });
        names.files.insert(name.to_string(), Arc::clone(&held));
        Ok(held)
    }
}

impl Files for FaultyFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let names = lock(&self.names);
        let mut found: BTreeMap<String, u64> = self.real.list()?.into_iter().collect();
        found.retain(|name, _| !name.starts_with(HIDDEN));
        for change in &names.pending {
            match change {
                NameChange::Remove(name) => found.remove(name),
                NameChange::Name(held, _) => found.remove(&*lock(&held.real_name)),
            };
        }
        let seen = names.files.iter();
        found.extend(seen.map(|(name, held)| (name.clone(), lock(&held.content).bytes)));
        Ok(found.into_iter().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        if let Some(error) = lock(&self.control.0.control).faults.failing_create {
            return system(error);
        }
        let mut names = lock(&self.names);
        let real_name = match self.control.holds() {
            true => format!("{HIDDEN}{}", names.hidden),
            false => name.to_string(),
        };
        names.hidden += 1;
        let held = Arc::new(Held {
            real: self.real.create(&real_name)?,
            real_name: Mutex::new(real_name),
            control: self.control.clone(),
            content: Mutex::default(),
        });
        // An older file of the name stays on the disk until this one takes its place.
        let before = names.files.insert(name.to_string(), Arc::clone(&held));
        names.forget(before.as_ref());
        let change = NameChange::Name(Arc::clone(&held), name.to_string());
        names.pending.push(change);
        Ok(held)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let mut names = lock(&self.names);
        Ok(self.held(&mut names, name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        let held = self.held(&mut names, from)?;
        names.files.remove(from);
        names.files.insert(to.to_string(), Arc::clone(&held));
        names.forget(Some(&held));
        names.pending.push(NameChange::Name(held, to.to_string()));
        drop(names);
        match self.control.holds() {
            true => Ok(()),
            false => self.sync_directory(),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        let held = self.held(&mut names, name)?;
        names.files.remove(name);
        let real_name = lock(&held.real_name).clone();
        names.pending.push(NameChange::Remove(real_name));
        drop(names);
        match self.control.holds() {
            true => Ok(()),
            false => self.sync_directory(),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut names = lock(&self.names);
        for change in std::mem::take(&mut names.pending) {
            match change {
                NameChange::Remove(name) => self.real.remove(&name)?,
                NameChange::Name(held, name) => {
                    let mut real_name = lock(&held.real_name);
                    if *real_name != name {
                        self.real.rename(&real_name, &name)?;
                        *real_name = name;
                    }
                }
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let said = lock(&self.control.0.control).faults.free_bytes;
        said.map_or_else(|| self.real.free_bytes(), Ok)
    }
}

impl OpenFile for Held {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let count = self.control.begin_write(bytes.len())?;
        let holds = self.control.holds();
        let mut content = lock(&self.content);
        let end = offset + count as u64;
        content.bytes = content.bytes.max(end);
        if holds {
            content.waiting.push((offset, bytes[..count].to_vec()));
        } else {
            write_all(&*self.real, offset, &bytes[..count])?;
            content.real_bytes = content.real_bytes.max(end);
        }
        Ok(count)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.content);
        let left = content.bytes.saturating_sub(offset);
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = &mut bytes[..count];
        bytes.fill(0);
        let real = content.real_bytes.saturating_sub(offset).min(count as u64);
        read_all(&*self.real, offset, &mut bytes[..real as usize])?;
        for (at, part) in content.lost.iter().chain(&content.waiting) {
            let from = (*at).max(offset);
            let to = (at + part.len() as u64).min(offset + count as u64);
            if from < to {
                let source = &part[(from - at) as usize..(to - at) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        // What is written from here on is not covered.
        let waiting = std::mem::take(&mut lock(&self.content).waiting);
        if let Err(error) = self.control.begin_sync() {
            lock(&self.content).lost.extend(waiting);
            return Err(error);
        }
        let mut content = lock(&self.content);
        for (at, part) in waiting {
            write_all(&*self.real, at, &part)?;
            content.real_bytes = content.real_bytes.max(at + part.len() as u64);
        }
        Ok(())
    }
}
