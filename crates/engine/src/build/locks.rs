//! Keeps two processes that share a state root from running the same step at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use longshore_solver::{BoxError, CacheKey, FlightGuard, FlightLock};
use tokio::task::spawn_blocking;

/// Locks a file for each key.
#[derive(Debug)]
pub(crate) struct FileLocks {
    directory: PathBuf,
}

impl FileLocks {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

#[async_trait]
impl FlightLock for FileLocks {
    async fn lock(&self, key: &CacheKey) -> Result<Option<FlightGuard>, BoxError> {
        let path = self.directory.join(key.to_string());
        let lock = spawn_blocking(move || LockedFile::lock(path)).await??;
        Ok(Some(FlightGuard::new(lock)))
    }
}

/// A locked file, removed and unlocked when dropped.
#[derive(Debug)]
pub(crate) struct LockedFile {
    path: PathBuf,
    _file: File,
}

impl LockedFile {
    /// Waits for the lock.
    pub(crate) fn lock(path: PathBuf) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        loop {
            let file = open(&path)?;
            file.lock()?;
            if is_still(&path, &file)? {
                return Ok(Self { path, _file: file });
            }
        }
    }

    /// The lock, if nobody has it.
    pub(crate) fn try_lock(path: PathBuf) -> io::Result<Option<Self>> {
        let file = open(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        Ok(is_still(&path, &file)?.then_some(Self { path, _file: file }))
    }
}

/// Removes the lock files that killed processes left in a directory.
pub(crate) fn sweep(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        // Whoever holds one keeps it; any other goes when it is let go.
        drop(LockedFile::try_lock(entry?.path())?);
    }
    Ok(())
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Removed while it is locked: who waits for it sees that it is gone and begins again.
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}

/// Whether the path still names the file that was locked.
fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(meta) => {
            let held = file.metadata()?;
            Ok(meta.ino() == held.ino() && meta.dev() == held.dev())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = LockedFile::lock(folder.path().join("key")).unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        let path = folder.path().join("key");
        let held = LockedFile::lock(path.clone()).unwrap();
        assert!(LockedFile::try_lock(path.clone()).unwrap().is_none());
        drop(held);
        assert!(LockedFile::try_lock(path).unwrap().is_some());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_what_is_held_stays() {
        let folder = tempfile::tempdir().unwrap();
        let held = LockedFile::lock(folder.path().join("held")).unwrap();
        fs::write(folder.path().join("left"), "").unwrap();
        sweep(folder.path()).unwrap();
        let names = fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["held"]);
        drop(held);
        sweep(&folder.path().join("not there")).unwrap();
    }
}
