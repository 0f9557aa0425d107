//! Directories that belong to a living process.
//!
//! What is being unpacked or written to lies in `work/<random>/`, with a `lock` file beside it that
//! its owner holds with `flock`. The kernel drops the lock when the owner dies, however it dies;
//! what is then not locked is nobody's, and a sweep may take it. Making a directory and locking it
//! are two steps, so makers hold the store's own lock shared while they do, and a sweep holds it
//! exclusively.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::error::{IoContext as _, SnapshotError};
use crate::trash::Trash;

/// The mode of `/` where no layer says one.
const ROOT_MODE: u32 = 0o755;

/// A directory of our own. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Claim {
    directory: PathBuf,
    trash: Arc<Trash>,
    _lock: File,
}

impl Claim {
    /// Makes `work/<random>/snapshot/fs/`.
    pub(crate) fn new(store: &Path, trash: Arc<Trash>) -> Result<Self, SnapshotError> {
        let _no_sweep = store_lock(store, FlockOperation::LockShared)?;
        let directory = store.join("work").join(Uuid::new_v4().simple().to_string());
        fs::create_dir(&directory).at("create", &directory)?;
        let path = directory.join("lock");
        let lock = File::create(&path).at("create", &path)?;
        lock.lock().at("lock", &path)?;
        let claim = Self {
            directory,
            trash,
            _lock: lock,
        };
        make_root(&claim.tree())?;
        Ok(claim)
    }

    /// What becomes the snapshot when it is committed: `fs/` and its `state`.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.directory.join("snapshot")
    }

    /// The tree of files.
    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.join("snapshot/fs")
    }

    /// A directory beside the snapshot that may be there or not.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An empty tree in place of the one there was.
    pub(crate) fn empty_tree(&self) -> Result<(), SnapshotError> {
        let tree = self.tree();
        self.trash.delete(&tree)?;
        make_root(&tree)
    }

    /// A new empty directory beside the snapshot, on the same file system.
    ///
    /// A `volatile` overlay marks its work directory, and refuses one that is marked: after a crash
    /// its files may be torn. A second mount in the same process therefore takes a new one.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf, SnapshotError> {
        let directory = self.directory.join(name);
        self.trash.delete(&directory)?;
        fs::create_dir(&directory).at("create", &directory)?;
        Ok(directory)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.trash.delete(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "left for the next sweep");
        }
    }
}

/// Makes the root directory of a layer, with the mode that it has in an image, whatever the mask
/// of this process is: no other user could do anything below a `/` that is root's alone.
fn make_root(tree: &Path) -> Result<(), SnapshotError> {
    fs::create_dir_all(tree).at("create", tree)?;
    let mode = fs::Permissions::from_mode(ROOT_MODE);
    fs::set_permissions(tree, mode).at("change the mode of", tree)
}

/// Takes the store's lock; it is held until the file is dropped.
fn store_lock(store: &Path, how: FlockOperation) -> Result<File, SnapshotError> {
    let path = store.join("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .at("open", &path)?;
    flock(&file, how).at("lock", &path)?;
    Ok(file)
}

/// Deletes the directories whose owner is gone; returns how many.
pub(crate) fn sweep(store: &Path, trash: &Trash) -> Result<usize, SnapshotError> {
    let _no_maker = store_lock(store, FlockOperation::LockExclusive)?;
    let work = store.join("work");
    let mut swept = 0;
    for entry in fs::read_dir(&work).at("list", &work)? {
        let directory = entry.at("list", &work)?.path();
        if !is_owned(&directory)? && trash.delete(&directory)? {
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_owned(directory: &Path) -> Result<bool, SnapshotError> {
    let path = directory.join("lock");
    let lock = match File::open(&path) {
        // No lock file: its maker died before the second step, or it is being deleted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.at("open", &path)?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).at("lock", &path),
    }
}
