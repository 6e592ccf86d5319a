//! Files of one directory, as the log needs them.
//!
//! Owns descriptors, permissions and what the system calls want. Must not know what stands in files. Invariants: files
//! are readable by their owner alone; no descriptor reaches a child process; nothing here tries a failed sync again.
//! [`RealFiles`] is the disk; [`FaultyFiles`] stands before it where tests inject faults. Start at [`Files`].

mod faulty;

pub use faulty::{FaultControl, FaultyFiles, FileFaults};

use rustix::fs::{StatVfs, fdatasync, fstatvfs};
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Permissions of files: the secret and clients' data are nobody else's business.
const FILE_MODE: u32 = 0o600;

/// Permissions of directories.
const DIRECTORY_MODE: u32 = 0o700;

/// The files of a directory. Paths in errors are the caller's business.
pub trait Files: Debug + Send + Sync {
    /// Names and sizes of its files, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a file, or empties the one that is there. Its name is durable after [`Files::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>>;

    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>>;

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that this process may still write to the file system.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait OpenFile: Debug + Send + Sync {
    /// Writes some of the bytes, and returns how many.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Reads some bytes, and returns how many; 0 at the end.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Makes what was written before durable. After an error nobody knows what is.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all bytes. An interrupted call wrote nothing and goes on; any other error ends it.
pub fn write_all(file: &dyn OpenFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    // Ends: each turn but an interrupted one writes at least a byte.
    while done < bytes.len() {
        match file.write(offset + done as u64, &bytes[done..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends, and returns how many bytes there were.
pub fn read_all(file: &dyn OpenFile, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    // Ends: each turn but an interrupted one reads at least a byte.
    while done < bytes.len() {
        match file.read(offset + done as u64, &mut bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Puts a small file in place, whole or not at all, and makes it durable. What a crash leaves of it is a file with
/// `.new` behind its name, which the next call writes over.
pub fn put_whole(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    let file = files.create(&new)?;
    write_all(&*file, 0, bytes)?;
    file.sync()?;
    files.rename(&new, name)?;
    files.sync_directory()
}

/// Whether an error says that there is no room, which may pass.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Makes a directory for its owner alone, with those above it, unless it is there; their names are durable then.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut missing = Vec::new();
    let mut above = parent;
    // Ends: each turn is one step up.
    while !above.exists() {
        missing.push(above);
        match above.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => above = parent,
            _ => break,
        }
    }
    for directory in missing.into_iter().rev().chain([path]) {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            // Another process may have been quicker.
            Err(error) if error.kind() != ErrorKind::AlreadyExists || !directory.is_dir() => {
                return Err(error);
            }
            _ => {}
        }
        // The umask may have taken bits that the owner needs.
        std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?;
        let parent = directory
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// The disk.
#[derive(Debug)]
pub struct RealFiles {
    path: PathBuf,
    directory: File,
}

impl RealFiles {
    /// The files of a directory that is there.
    pub fn new(path: &Path) -> io::Result<RealFiles> {
        Ok(RealFiles {
            path: path.to_path_buf(),
            directory: File::open(path)?,
        })
    }
}

/// What files are opened with. The standard library sets O_CLOEXEC.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

impl Files for RealFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            // Whatever has a name that is no text is not ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let about = std::fs::metadata(entry.path())?;
            if about.is_file() {
                found.push((name, about.len()));
            }
        }
        Ok(found)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let mut options = options();
        let file = options.create(true).truncate(true);
        let file = file.open(self.path.join(name))?;
        // The umask may have taken bits that the owner needs.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let file = options().open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let StatVfs {
            f_bavail, f_frsize, ..
        } = fstatvfs(&self.directory)?;
        Ok(f_bavail.saturating_mul(f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl OpenFile for RealFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // Not `File::sync_data`, which tries again when it was interrupted.
        Ok(fdatasync(&self.0)?)
    }
}

#[cfg(test)]
mod tests;
