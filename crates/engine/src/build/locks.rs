//! Keeps two processes that share a state root from running the same step at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use longshore_solver::{BoxError, CacheKey, FlightGuard, FlightLock, Locking};
use tokio::task::spawn_blocking;

/// How long to wait before it is looked again whether a lock is free: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// Locks a file for each key.
#[derive(Debug)]
pub(crate) struct FileLocks {
    directory: PathBuf,
}

impl FileLocks {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.directory.join(key.to_string())
    }
}

#[async_trait]
impl FlightLock for FileLocks {
    async fn try_lock(&self, key: &CacheKey) -> Result<Locking, BoxError> {
        let path = self.path(key);
        let lock = spawn_blocking(move || {
            create_parent(&path)?;
            LockedFile::try_lock(path)
        });
        let locked = lock.await??;
        Ok(locked.map_or(Locking::Taken, |lock| {
            Locking::Locked(FlightGuard::new(lock))
        }))
    }

    /// Looks again and again, and keeps no thread meanwhile: there may be as many to wait for
    /// as the build has steps.
    async fn released(&self, key: &CacheKey) -> Result<(), BoxError> {
        let mut pause = PAUSE_MIN;
        loop {
            let path = self.path(key);
            if spawn_blocking(move || is_free(&path)).await?? {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
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
        create_parent(&path)?;
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

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Whether nobody holds the lock.
fn is_free(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
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

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_take_no_thread_and_learn_that_it_was_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(folder.path().join("flights"));
        let key = CacheKey([7; 32]);
        let Locking::Locked(held) = locks.try_lock(&key).await.unwrap() else {
            panic!("the first has it");
        };
        // More than the runtime has threads for what blocks.
        let waiting: Vec<_> = (0..600).map(|_| locks.released(&key)).collect();
        let waiting = futures_util::future::join_all(waiting);
        let let_go = async {
            let second = locks.try_lock(&key).await.unwrap();
            assert!(matches!(second, Locking::Taken));
            drop(held);
        };
        let (released, ()) = tokio::join!(waiting, let_go);
        assert!(released.iter().all(Result::is_ok));
        let again = locks.try_lock(&key).await.unwrap();
        assert!(matches!(again, Locking::Locked(_)));
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
