//! The few file operations that crash safety rests on, behind a trait so that tests can let
//! the n-th of them fail.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// File operations of the commit path.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist yet.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Writes all bytes at the file's position.
    ///
    /// # Errors
    /// The system's; part of the bytes may be written.
    fn write(&self, file: &File, content: &[u8]) -> io::Result<()>;
    /// Returns once the file's content is on disk.
    ///
    /// # Errors
    /// The system's; the content must then be taken as lost.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Renames, replacing what is there.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns once the directory's entries are on disk.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
    }

    fn write(&self, mut file: &File, content: &[u8]) -> io::Result<()> {
        file.write_all(content)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Fails one operation, chosen by its number, and does all others. For tests.
#[derive(Debug)]
pub struct FaultyDisk {
    done: AtomicU64,
    fail_at: AtomicU64,
}

impl FaultyDisk {
    /// Never fails until [`FaultyDisk::fail_nth`] is called.
    pub fn new() -> Self {
        Self {
            done: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Lets the `n`-th operation from now on fail, counting from 0.
    pub fn fail_nth(&self, n: u64) {
        self.done.store(0, Ordering::SeqCst);
        self.fail_at.store(n, Ordering::SeqCst);
    }

    /// Whether the chosen operation was reached since [`FaultyDisk::fail_nth`].
    pub fn has_failed(&self) -> bool {
        self.done.load(Ordering::SeqCst) > self.fail_at.load(Ordering::SeqCst)
    }

    fn step(&self) -> io::Result<()> {
        let at = self.done.fetch_add(1, Ordering::SeqCst);
        if at == self.fail_at.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "injected fault"));
        }
        Ok(())
    }
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        SystemDisk.create(path)
    }

    /// A failing write leaves half of its bytes behind, as a full disk does.
    fn write(&self, file: &File, content: &[u8]) -> io::Result<()> {
        if let Err(fault) = self.step() {
            SystemDisk.write(file, &content[..content.len() / 2])?;
            return Err(fault);
        }
        SystemDisk.write(file, content)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        SystemDisk.sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        SystemDisk.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        SystemDisk.sync_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        SystemDisk.remove(path)
    }
}
