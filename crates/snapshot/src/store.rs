//! Snapshots as directories and images, put together by overlay.
//!
//! ```text
//! <root>/                     0700
//!   lock                      shared: somebody makes a directory in work; exclusive: a sweep
//!   snapshots/<id>/           appears by rename, all at once; held shared (flock) while in use
//!     fs/                     the layer, as a directory
//!     layer.erofs             the layer, as an image: one of both
//!     state                   see state.rs
//!   work/<random>/            see claim.rs
//!     lock
//!     snapshot/fs/            what is being unpacked, or takes the changes
//!     work/                   overlay's own
//!     root/                   a copy of the layers, see copied.rs
//!   trash/<random>/           see trash.rs
//!   empty/                    the layer that has nothing
//! ```
//!
//! What is on disk of a layer depends on who unpacked it: root of the machine (`snapshots`), root
//! of a user namespace with its own ids (`snapshots-user`), or of one with a single id, to whom all
//! files belong (`snapshots-own`); and where the kernel's marks cannot be made, on our own
//! (`snapshots-copied…`). Root that may make no device files leaves them out of its layers
//! (`…-without-devices`). Each sees its own, and never another's.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::claim::{self, Claim};
use crate::copied::{CopiedRoot, Warm};
use crate::error::{IoContext as _, SnapshotError};
use crate::handles::{ActiveSnapshot, Pending, Snapshot, View, mount, open_dir};
use crate::in_place::Place;
use crate::overlay::{self, LAYERS_MAX, OverlayMarks};
use crate::state::{Boot, State, mark_synced};
use crate::trash::Trash;
use crate::tree::{Tree, create_image};
use crate::tried::try_image;
use crate::{SnapshotId, Snapshotter, Swept};

/// linux/magic.h
const OVERLAYFS_SUPER_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// The overlay [`Snapshotter`]. Clones are the same store; several processes may have it open.
#[derive(Debug, Clone)]
pub struct OverlaySnapshots {
    root: PathBuf,
    trash: Arc<Trash>,
    boot: Boot,
    marks: OverlayMarks,
    owners: Owners,
    devices: bool,
    stacking: Arc<OnceLock<(Stacking, Option<String>)>>,
    warm: Arc<Mutex<Vec<Warm>>>,
    place: Option<Arc<Place>>,
}

/// How root file systems are made of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacking {
    /// Overlay mounts them on one another.
    Overlay,
    /// They are copied into one directory.
    Copy,
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
    tree: Tree,
    _lock: File,
}

impl Pinned {
    pub(crate) fn id(&self) -> &SnapshotId {
        &self.id
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl OverlaySnapshots {
    /// The same store, whose root file systems are copies even where overlay could be mounted.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open_copying(root: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        let store = Self::open(root)?;
        store.copy_only();
        Ok(store)
    }

    /// From here on root file systems are copies, unless it was found out already how they are made.
    pub fn copy_only(&self) {
        let _known = self.stacking.set((Stacking::Copy, None));
    }

    /// The same store, whose steps have their root file systems in `place`, one after the other:
    /// all that is there, but for what is `kept`, is removed when the first one is prepared. The
    /// store itself is kept.
    ///
    /// # Errors
    /// When another process uses the place, all of it is to be kept, or the directory cannot be
    /// made.
    pub fn open_in_place(
        root: impl Into<PathBuf>,
        place: &Path,
        kept: &[PathBuf],
    ) -> Result<Self, SnapshotError> {
        let mut store = Self::open_copying(root)?;
        let own = store.root.canonicalize().at("find", &store.root)?;
        // A store that lies elsewhere needs no keeping.
        let own = own.starts_with(place).then_some(own);
        let kept: Vec<PathBuf> = kept.iter().cloned().chain(own).collect();
        store.place = Some(Arc::new(Place::take(place, &kept)?));
        Ok(store)
    }

    /// A root file system for a step: as [`prepare`](Snapshotter::prepare) makes it, or in the
    /// place that the store was opened with. There, one may live at a time.
    ///
    /// # Errors
    /// As those of [`prepare`](Snapshotter::prepare); when something cannot be removed.
    pub fn prepare_root(&self, parents: &[SnapshotId]) -> Result<ActiveSnapshot, SnapshotError> {
        let Some(place) = &self.place else {
            return self.prepare(parents);
        };
        let parents = self.pin_all(parents)?;
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        let who = (self.marks, self.owners);
        let copied = CopiedRoot::make_in_place(place, &claim, &parents, who)?;
        let mut active = ActiveSnapshot::around_copy(claim, parents, self.marks, copied)?;
        active.in_place = true;
        Ok(active)
    }

    /// Opens the store in a directory, making it if need be. Whether overlay can be mounted there
    /// is found out when the first root file system is wanted.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        let root = root.into();
        let owners = Owners::of_this_process();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&root).at("create", &root)?;
        let marks = OverlayMarks::of_this_process(&root)?;
        Self::open_with(root, marks, owners, makes_devices())
    }

    fn open_with(
        root: PathBuf,
        marks: OverlayMarks,
        owners: Owners,
        devices: bool,
    ) -> Result<Self, SnapshotError> {
        let snapshots = directory_of(marks, owners, devices);
        for directory in ["", &snapshots, "work", "trash", "empty"] {
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
            devices,
            stacking: Arc::default(),
            warm: Arc::default(),
            place: None,
        })
    }

    /// How root file systems are made here, and why they are copies if overlay was tried.
    ///
    /// # Errors
    /// When nothing can be made in the store.
    pub fn stacking(&self) -> Result<(Stacking, Option<&str>), SnapshotError> {
        if self.stacking.get().is_none() {
            let found = match self.try_overlay() {
                Ok(()) => (Stacking::Overlay, None),
                Err(SnapshotError::Mount { source, .. }) if overlay::is_unavailable(&source) => {
                    tracing::info!(%source, "root file systems will be copies");
                    (Stacking::Copy, Some(source.to_string()))
                }
                Err(other) => return Err(other),
            };
            // Whoever was faster found the same.
            let _known = self.stacking.set(found);
        }
        let found = self.stacking.get();
        Ok(found.map_or((Stacking::Overlay, None), |(stacking, why)| {
            (*stacking, why.as_deref())
        }))
    }

    fn try_overlay(&self) -> Result<(), SnapshotError> {
        if self.marks == OverlayMarks::Own {
            let source = Errno::OPNOTSUPP.into();
            return Err(SnapshotError::Mount { layers: 1, source });
        }
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        let (upper, work) = (open_dir(&claim.tree())?, open_dir(&claim.fresh("work")?)?);
        let empty = Tree::Directory(self.root.join("empty")).open()?;
        let dirs = Some((upper.as_fd(), work.as_fd()));
        mount(&[empty], dirs, self.marks).map(drop)
    }

    /// A copy of the layers: one that this process made before and that lacks some of them at the
    /// most, or a new one.
    fn prepare_copy(&self, parents: Vec<Pinned>) -> Result<ActiveSnapshot, SnapshotError> {
        let ids: Vec<SnapshotId> = parents.iter().map(|it| it.id().clone()).collect();
        let warm = {
            let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
            Warm::take_longest(&mut warm, &ids)
        };
        let (claim, have) = match warm {
            Some(warm) => (warm.claim, warm.layers.len()),
            None => (Claim::new(&self.root, Arc::clone(&self.trash))?, 0),
        };
        claim.empty_tree()?;
        let copied = CopiedRoot::make(&claim, &parents, have, self.marks, self.owners)?;
        ActiveSnapshot::around_copy(claim, parents, self.marks, copied)
    }

    /// Keeps a copy whose changes have become a layer: the next step often stands on just that.
    fn keep_warm(&self, active: ActiveSnapshot, id: &SnapshotId) {
        let mut layers: Vec<SnapshotId> = active.parents().cloned().collect();
        layers.push(id.clone());
        if let (true, Some(place), Some(copied)) = (active.in_place, &self.place, &active.copied) {
            return place.now_shows(layers, copied.kept().clone());
        }
        let warm = Warm {
            layers,
            claim: active.claim,
        };
        let oldest = {
            let mut kept = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
            Warm::keep(&mut kept, warm)
        };
        drop(oldest);
    }

    /// Whether layers can hold device nodes here.
    #[must_use]
    pub fn makes_devices(&self) -> bool {
        self.devices
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

    /// Whether layers can be images here, tried out with one that `write` makes: an EROFS file
    /// system that holds [`tried_changes`](crate::tried_changes).
    ///
    /// # Errors
    /// What stands against it: the kernel, the file system that the store is on, or that this
    /// process is not root of the machine.
    pub fn try_image<E: Into<io::Error>>(
        &self,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), SnapshotError> {
        if self.marks != OverlayMarks::Trusted || self.stacking()?.0 == Stacking::Copy {
            return Err(Errno::PERM).at("mount an image on", &self.root);
        }
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        let image = create_image(&claim.snapshot())?;
        write(&image).at("write an image below", &self.root)?;
        try_image(&claim, &Tree::of(&claim.snapshot()), self.marks)
    }

    /// Deletes a tree of files beside the snapshots, on the same file system: out of sight at
    /// once, whatever is in it. `false` when there was none.
    ///
    /// # Errors
    /// When it cannot be moved or deleted.
    pub fn delete_tree(&self, tree: &Path) -> Result<bool, SnapshotError> {
        self.trash.delete(tree)
    }

    fn directory(&self) -> PathBuf {
        self.root
            .join(directory_of(self.marks, self.owners, self.devices))
    }

    fn place(&self, id: &SnapshotId) -> PathBuf {
        self.directory().join(id.as_str())
    }

    fn found(&self, id: SnapshotId) -> Snapshot {
        let tree = Tree::of(&self.place(&id));
        Snapshot { id, tree }
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
            tree: Tree::of(&place),
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
    pub(crate) fn publish(&self, claim: &Claim, id: SnapshotId) -> Result<Snapshot, SnapshotError> {
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

    fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>, SnapshotError> {
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
        if !parents.is_empty() && self.stacking()?.0 == Stacking::Copy {
            return self.prepare_copy(parents);
        }
        let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
        ActiveSnapshot::new(claim, parents, self.marks)
    }

    fn view(&self, parents: &[SnapshotId]) -> Result<View, SnapshotError> {
        if self.stacking()?.0 == Stacking::Copy {
            let claim = Claim::new(&self.root, Arc::clone(&self.trash))?;
            return View::copied(claim, self.pin_all(parents)?, self.marks, self.owners);
        }
        View::new(self.pin_all(parents)?, self.root.join("empty"), self.marks)
    }

    fn commit(
        &self,
        mut active: ActiveSnapshot,
        id: &SnapshotId,
    ) -> Result<Snapshot, SnapshotError> {
        active.collect()?;
        let committed = self.publish(&active.claim, id.clone())?;
        if active.copied.is_some() {
            self.keep_warm(active, id);
        }
        Ok(committed)
    }

    fn remove(&self, id: &SnapshotId) -> Result<bool, SnapshotError> {
        let was_there = self.discard(id)?;
        self.empty_trash()?;
        Ok(was_there)
    }

    fn discard(&self, id: &SnapshotId) -> Result<bool, SnapshotError> {
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
        Ok(is_still_at(&lock, &place)? && self.trash.take(&place)?)
    }

    fn empty_trash(&self) -> Result<(), SnapshotError> {
        self.trash.empty()
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

fn directory_of(marks: OverlayMarks, owners: Owners, devices: bool) -> String {
    let (name, has_devices) = match (marks, owners) {
        (OverlayMarks::Trusted, _) => ("snapshots", true),
        (OverlayMarks::User, Owners::All) => ("snapshots-user", false),
        (OverlayMarks::User, Owners::OwnOnly) => ("snapshots-own", false),
        (OverlayMarks::Own, Owners::All) if has_all_ids() => ("snapshots-copied", true),
        (OverlayMarks::Own, Owners::All) => ("snapshots-copied-user", false),
        (OverlayMarks::Own, Owners::OwnOnly) => ("snapshots-copied-own", false),
    };
    match (has_devices, devices) {
        (true, false) => format!("{name}-without-devices"),
        (false, true) => format!("{name}-with-devices"),
        _ => name.to_owned(),
    }
}

pub(crate) fn makes_devices() -> bool {
    has_all_ids() && has_capability(CapabilitySet::MKNOD)
}

fn has_capability(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|it| it.effective.contains(capability))
}

/// Whether ids here are those of the machine (or of a container that has all of them).
fn has_all_ids() -> bool {
    ids_mapped().split_whitespace().eq(["0", "0", "4294967295"])
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Each line says where a range of ids begins here, where outside, and how long it is.
fn ids_mapped() -> String {
    fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

impl OverlayMarks {
    /// The kernel lets only root of the machine itself use `trusted.*`, and in a container only one
    /// that may administer the system. An overlay file system takes no marks of another.
    fn of_this_process(root: &Path) -> Result<Self, SnapshotError> {
        let file_system = rustix::fs::statfs(root).at("read the file system of", root)?;
        let administers = has_capability(CapabilitySet::SYS_ADMIN);
        Ok(match has_all_ids() && is_root() {
            _ if file_system.f_type == OVERLAYFS_SUPER_MAGIC => Self::Own,
            true if administers => Self::Trusted,
            true => Self::Own,
            false => Self::User,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_our_own_marks_conform() {
        let temp = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        crate::conformance::run(
            &|| {
                count.set(count.get() + 1);
                let root = temp.path().join(count.get().to_string());
                let owners = Owners::of_this_process();
                let store =
                    OverlaySnapshots::open_with(root, OverlayMarks::Own, owners, makes_devices());
                let store = store.unwrap();
                assert_eq!(store.stacking().unwrap().0, Stacking::Copy);
                Box::new(store)
            },
            &crate::conformance::fill_directory,
        );
    }

    #[test]
    fn who_makes_no_devices_sees_no_layer_of_who_does() {
        let temp = tempfile::tempdir().unwrap();
        let id = SnapshotId::new("layer".to_owned()).unwrap();
        for marks in [OverlayMarks::Trusted, OverlayMarks::User, OverlayMarks::Own] {
            for owners in [Owners::All, Owners::OwnOnly] {
                let root = temp.path().join(format!("{marks:?}-{owners:?}"));
                fs::create_dir(&root).unwrap();
                let open = |devices| {
                    OverlaySnapshots::open_with(root.clone(), marks, owners, devices).unwrap()
                };
                open(true).begin(&id).unwrap().commit().unwrap();
                assert!(open(true).get(&id).unwrap().is_some());
                let others = open(false).get(&id).unwrap();
                assert!(others.is_none(), "{marks:?} {owners:?}");
            }
        }
    }
}
