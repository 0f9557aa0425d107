//! Snapshots as directories, put together by overlay.
//!
//! ```text
//! <root>/                     0700
//!   lock                      shared: somebody makes a directory in work; exclusive: a sweep
//!   snapshots/<id>/           appears by rename, all at once; held shared (flock) while in use
//!     fs/                     the layer
//!     state                   see state.rs
//!   work/<random>/            see claim.rs
//!     lock
//!     snapshot/fs/            what is being unpacked, or takes the changes
//!     work/                   overlay's own
//!   trash/<random>/           see trash.rs
//!   empty/                    the layer that has nothing
//! ```
//!
//! What is on disk of a layer depends on who unpacked it: root of the machine (`snapshots`), root
//! of a user namespace with its own marks and ids (`snapshots-user`), or of one with a single id,
//! to whom all files belong (`snapshots-own`). Each sees its own, and never another's.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::claim::{self, Claim};
use crate::error::{IoContext as _, SnapshotError};
use crate::handles::{ActiveSnapshot, Pending, SnapshotDir, View, open_dir};
use crate::overlay::{LAYERS_MAX, OverlayMarks};
use crate::state::{Boot, State, mark_synced};
use crate::trash::Trash;
use crate::{SnapshotId, Snapshotter, Swept};

/// The overlay [`Snapshotter`]. Clones are the same store; several processes may have it open.
#[derive(Debug, Clone)]
pub struct OverlaySnapshots {
    root: PathBuf,
    trash: Arc<Trash>,
    boot: Boot,
    marks: OverlayMarks,
    owners: Owners,
}

/// Whom the files of a snapshot can belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whoever the layer says.
    All,
    /// This process's own user alone: there is no other id that it may use.
    OwnOnly,
}

/// A snapshot that cannot be removed while this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    id: SnapshotId,
    tree: PathBuf,
    _lock: File,
}

impl Pinned {
    pub(crate) fn id(&self) -> &SnapshotId {
        &self.id
    }

    pub(crate) fn tree(&self) -> &Path {
        &self.tree
    }
}

impl OverlaySnapshots {
    /// Opens the store in a directory, making it if need be.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        let root = root.into();
        let (marks, owners) = (OverlayMarks::of_this_process(), Owners::of_this_process());
        let snapshots = directory_of(marks, owners);
        for directory in ["", snapshots, "work", "trash", "empty"] {
            let directory = root.join(directory);
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .at("create", &directory)?;
        }
        let trash = Arc::new(Trash(root.join("trash")));
        Ok(Self {
            root,
            trash,
            boot: Boot::current()?,
            marks,
            owners,
        })
    }

    /// Whom the files of this store's layers can belong to.
    #[must_use]
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// How opaque directories are marked in this store's layers.
    #[must_use]
    pub fn marks(&self) -> OverlayMarks {
        self.marks
    }

    fn directory(&self) -> PathBuf {
        self.root.join(directory_of(self.marks, self.owners))
    }

    fn place(&self, id: &SnapshotId) -> PathBuf {
        self.directory().join(id.as_str())
    }

    fn found(&self, id: SnapshotId) -> SnapshotDir {
        let path = self.place(&id).join("fs");
        SnapshotDir { id, path }
    }

    /// Holds a snapshot in place. Whoever removes one takes its lock exclusively first.
    fn pin(&self, id: &SnapshotId) -> Result<Pinned, SnapshotError> {
        let place = self.place(id);
        let gone = || SnapshotError::NotFound { id: id.clone() };
        let lock = open_if_there(&place)?.ok_or_else(gone)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(gone()),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &place),
        }
        if !is_still_at(&lock, &place)? || self.boot.state_of(&place)? == State::Void {
            return Err(gone());
        }
        Ok(Pinned {
            id: id.clone(),
            tree: place.join("fs"),
            _lock: lock,
        })
    }

    fn pin_all(&self, parents: &[SnapshotId]) -> Result<Vec<Pinned>, SnapshotError> {
        if parents.len() > LAYERS_MAX {
            return Err(SnapshotError::TooManyLayers {
                count: parents.len(),
                max: LAYERS_MAX,
            });
        }
        parents.iter().map(|id| self.pin(id)).collect()
    }

    /// Renames a claimed directory into its place.
    pub(crate) fn publish(
        &self,
        claim: &Claim,
        id: SnapshotId,
    ) -> Result<SnapshotDir, SnapshotError> {
        self.boot.mark_unsynced(&claim.snapshot())?;
        let place = self.place(&id);
        loop {
            match rustix::fs::rename(claim.snapshot(), &place) {
                // What is there is as good, unless it did not survive a crash.
                Err(Errno::EXIST | Errno::NOTEMPTY) if self.get(&id)?.is_some() => break,
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                other => {
                    other.at("commit", &place)?;
                    break;
                }
            }
        }
        Ok(self.found(id))
    }

    fn each_snapshot_that_is(&self, state: State) -> Result<Vec<PathBuf>, SnapshotError> {
        let directory = self.directory();
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).at("list", &directory)? {
            let place = entry.at("list", &directory)?.path();
            if self.boot.state_of(&place)? == state {
                found.push(place);
            }
        }
        Ok(found)
    }
}

impl Snapshotter for OverlaySnapshots {
    fn begin(&self, id: &SnapshotId) -> Result<Pending, SnapshotError> {
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        let tree = claim.tree();
        Ok(Pending {
            id: id.clone(),
            claim,
            store: self.clone(),
            tree,
        })
    }

    fn get(&self, id: &SnapshotId) -> Result<Option<SnapshotDir>, SnapshotError> {
        let place = self.place(id);
        match self.boot.state_of(&place)? {
            State::Synced | State::Unsynced => Ok(Some(self.found(id.clone()))),
            State::Void => {
                if self.trash.delete(&place)? {
                    tracing::info!(snapshot = %id, "discarded: it was not synced before a restart");
                }
                Ok(None)
            }
        }
    }

    fn prepare(&self, parents: &[SnapshotId]) -> Result<ActiveSnapshot, SnapshotError> {
        let parents = self.pin_all(parents)?;
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        ActiveSnapshot::new(claim, parents, self.marks)
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<View, SnapshotError> {
        View::new(self.pin_all(parents)?, self.root.join("empty"), self.marks)
    }

    fn commit(
        &self,
        active: ActiveSnapshot,
        id: &SnapshotId,
    ) -> Result<SnapshotDir, SnapshotError> {
        self.publish(&active.claim, id.clone())
    }

    fn remove(&self, id: &SnapshotId) -> Result<bool, SnapshotError> {
        let place = self.place(id);
        let Some(lock) = open_if_there(&place)? else {
            return Ok(false);
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SnapshotError::InUse { id: id.clone() }),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &place),
        }
        // The one that was locked may have been removed, and another made, in between.
        Ok(is_still_at(&lock, &place)? && self.trash.delete(&place)?)
    }

    fn sync(&self) -> Result<usize, SnapshotError> {
        let unsynced = self.each_snapshot_that_is(State::Unsynced)?;
        if unsynced.is_empty() {
            return Ok(0);
        }
        rustix::fs::syncfs(open_dir(&self.root)?).at("sync", &self.root)?;
        for place in &unsynced {
            match mark_synced(place) {
                Err(SnapshotError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(unsynced.len())
    }

    fn sweep(&self) -> Result<Swept, SnapshotError> {
        let abandoned = claim::sweep(&self.root, &self.trash)?;
        let mut void = 0;
        for place in self.each_snapshot_that_is(State::Void)? {
            void += usize::from(self.trash.delete(&place)?);
        }
        self.trash.empty()?;
        Ok(Swept { abandoned, void })
    }
}

fn open_if_there(directory: &Path) -> Result<Option<File>, SnapshotError> {
    match open_dir(directory) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

fn is_still_at(open: &File, path: &Path) -> Result<bool, SnapshotError> {
    let held = open.metadata().at("read", path)?;
    Ok(fs::symlink_metadata(path)
        .is_ok_and(|now| now.ino() == held.ino() && now.dev() == held.dev()))
}

fn directory_of(marks: OverlayMarks, owners: Owners) -> &'static str {
    match (marks, owners) {
        (OverlayMarks::Trusted, _) => "snapshots",
        (OverlayMarks::User, Owners::All) => "snapshots-user",
        (OverlayMarks::User, Owners::OwnOnly) => "snapshots-own",
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Each line says where a range of ids begins here, where outside, and how long it is.
fn ids_mapped() -> String {
    fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

impl OverlayMarks {
    /// The kernel lets only root of the machine itself use `trusted.*`.
    fn of_this_process() -> Self {
        let whole = ids_mapped().split_whitespace().eq(["0", "0", "4294967295"]);
        if whole && is_root() {
            Self::Trusted
        } else {
            Self::User
        }
    }
}

impl Owners {
    fn of_this_process() -> Self {
        let own_only = ids_mapped().split_whitespace().skip(2).eq(["1"]);
        if own_only || !is_root() {
            Self::OwnOnly
        } else {
            Self::All
        }
    }
}
