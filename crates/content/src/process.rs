//! Which Longshore processes are alive.
//!
//! Each process holds a lock on `tmp/<token>.lock` for as long as it runs; the kernel drops
//! the lock with the process, however it dies. The file appears and is locked while the
//! root's own lock is held, so nobody sees it in between.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::ContentError;

/// Names one opening of the state root by one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessToken(String);

impl ProcessToken {
    fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The token's text: letters and digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProcessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProcessToken {
    type Err = ContentError;

    fn from_str(text: &str) -> Result<Self, ContentError> {
        let valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !valid {
            return Err(ContentError::Row {
                what: "process token",
                value: text.chars().take(80).collect(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

/// This process's own lock and its directory for unfinished files; both go when dropped.
#[derive(Debug)]
pub(crate) struct OwnProcess {
    pub(crate) token: ProcessToken,
    pub(crate) dir: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl OwnProcess {
    /// Registers this process. The caller holds the root's lock.
    pub(crate) fn register(tmp: &Path) -> Result<Self, ContentError> {
        let token = ProcessToken::random();
        let lock_path = lock_path(tmp, &token);
        let dir = tmp.join(token.as_str());
        let lock = File::create_new(&lock_path).map_err(ContentError::io("create", &lock_path))?;
        lock.lock().map_err(ContentError::io("lock", &lock_path))?;
        fs::create_dir(&dir).map_err(ContentError::io("create", &dir))?;
        Ok(Self {
            token,
            dir,
            lock_path,
            _lock: lock,
        })
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        // Best effort: what stays is swept by the next opening.
        if fs::remove_dir_all(&self.dir).is_ok() {
            drop(fs::remove_file(&self.lock_path));
        }
    }
}

fn lock_path(tmp: &Path, token: &ProcessToken) -> PathBuf {
    tmp.join(format!("{token}.lock"))
}

/// Whether the process is still running.
pub(crate) fn is_alive(tmp: &Path, token: &ProcessToken) -> Result<bool, ContentError> {
    let path = lock_path(tmp, token);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(ContentError::io("open", &path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(ContentError::io("lock", &path)(error)),
    }
}

/// Removes the files of dead processes. The caller holds the root's lock.
pub(crate) fn sweep(tmp: &Path) -> Result<(), ContentError> {
    let entries = fs::read_dir(tmp).map_err(ContentError::io("read", tmp))?;
    for entry in entries {
        let entry = entry.map_err(ContentError::io("read", tmp))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stem = name.strip_suffix(".lock").unwrap_or(&name);
        let Ok(token) = stem.parse::<ProcessToken>() else {
            tracing::warn!(path = %entry.path().display(), "unknown file among the temporary ones");
            continue;
        };
        if !is_alive(tmp, &token)? {
            remove_leftovers(tmp, &token)?;
        }
    }
    Ok(())
}

/// The directory goes first: the lock file marks it until it is gone.
fn remove_leftovers(tmp: &Path, token: &ProcessToken) -> Result<(), ContentError> {
    let dir = tmp.join(token.as_str());
    absent_is_fine(fs::remove_dir_all(&dir)).map_err(ContentError::io("remove", &dir))?;
    let lock = lock_path(tmp, token);
    absent_is_fine(fs::remove_file(&lock)).map_err(ContentError::io("remove", &lock))
}

pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
