//! What a [`Snapshotter`](crate::Snapshotter) hands out.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use longshore_layers::Kept;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timestamps, Uid, chown, openat, utimensat};
use rustix::io::Errno;

use crate::claim::Claim;
use crate::copied::{self, CopiedRoot};
use crate::error::{IoContext as _, SnapshotError};
use crate::overlay::{LAYERS_MAX, OverlayMarks, Stack};
use crate::store::{OverlaySnapshots, Owners, Pinned};
use crate::tree::{Opened, Tree, create_image};
use crate::{RootFs, SnapshotId};

/// A committed snapshot: one layer, in the form overlay expects of an upper directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) id: SnapshotId,
    pub(crate) tree: Tree,
}

impl Snapshot {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// Opens the layer's root directory for reading. Deletions are character devices 0:0,
    /// directories that hide what is below carry the attribute [`OverlayMarks::opaque_xattr`].
    ///
    /// The files stay readable as long as this descriptor, or one that was reached from it, is
    /// open, whatever becomes of the snapshot's name.
    ///
    /// # Errors
    /// When it was removed, or the kernel refuses to mount its image.
    pub fn open(&self) -> Result<OwnedFd, SnapshotError> {
        self.tree.open_root()
    }

    /// How many bytes the layer's image takes; `None` for a directory.
    ///
    /// # Errors
    /// When the image cannot be inspected.
    pub fn image_bytes(&self) -> Result<Option<u64>, SnapshotError> {
        let Tree::Image(path) = &self.tree else {
            return Ok(None);
        };
        let stat = rustix::fs::stat(path).at("read", path)?;
        // stat(2): blocks of 512 bytes, whatever the file system's are.
        Ok(u64::try_from(stat.st_blocks)
            .ok()
            .map(|blocks| blocks * 512))
    }
}

/// A layer that is being unpacked. Nobody sees it before [`commit`](Self::commit); dropping it
/// deletes it.
#[derive(Debug)]
pub struct Pending {
    pub(crate) id: SnapshotId,
    pub(crate) claim: Claim,
    pub(crate) store: OverlaySnapshots,
    pub(crate) tree: PathBuf,
}

impl Pending {
    /// The name it will have.
    #[must_use]
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The empty directory to unpack into, on the file system the snapshot will be on.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.tree
    }

    /// Makes the layer an image instead: an empty file, open for reading and writing, to write
    /// an EROFS file system to. [`path`](Self::path) is gone then.
    ///
    /// # Errors
    /// When the directory is not empty any more, or no file can be made.
    pub fn create_image(&self) -> Result<File, SnapshotError> {
        create_image(&self.claim.snapshot())
    }

    /// Makes the layer visible under its name, all of it at once. If somebody was faster, theirs
    /// stays and this one is deleted.
    ///
    /// # Errors
    /// When a rename fails.
    pub fn commit(self) -> Result<Snapshot, SnapshotError> {
        self.store.publish(&self.claim, self.id)
    }
}

/// A root file system that can be written to: layers, and above them an empty directory that takes
/// the changes; or a copy of the layers, from which the changes are told. Dropping it deletes the
/// changes.
#[derive(Debug)]
pub struct ActiveSnapshot {
    pub(crate) claim: Claim,
    pub(crate) parents: Vec<Pinned>,
    pub(crate) marks: OverlayMarks,
    pub(crate) copied: Option<CopiedRoot>,
    /// The copy is in the store's place.
    pub(crate) in_place: bool,
    upper: PathBuf,
}

impl ActiveSnapshot {
    pub(crate) fn new(
        claim: Claim,
        parents: Vec<Pinned>,
        marks: OverlayMarks,
    ) -> Result<Self, SnapshotError> {
        let upper = claim.tree();
        if let Some(top) = parents.last() {
            copy_root_metadata(top.tree().open()?.root.as_fd(), &upper)?;
        }
        Ok(Self {
            claim,
            parents,
            marks,
            copied: None,
            in_place: false,
            upper,
        })
    }

    /// The same, around a copy of the layers.
    pub(crate) fn around_copy(
        claim: Claim,
        parents: Vec<Pinned>,
        marks: OverlayMarks,
        copied: CopiedRoot,
    ) -> Result<Self, SnapshotError> {
        let mut active = Self::new(claim, parents, marks)?;
        active.copied = Some(copied);
        Ok(active)
    }

    /// The layers below, lowest first.
    pub fn parents(&self) -> impl ExactSizeIterator<Item = &SnapshotId> {
        self.parents.iter().map(Pinned::id)
    }

    /// The paths at which layers have something that is not there, because something else is kept
    /// in the place that this root file system is in.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        self.copied.as_ref().map_or(&[], CopiedRoot::left_out)
    }

    /// The directory that takes the changes, in overlay's form. Around a copy it is empty before
    /// [`collect`](Self::collect).
    #[must_use]
    pub fn upper_path(&self) -> &Path {
        &self.upper
    }

    /// Brings all changes into the directory that takes them, and returns it. No process may run in
    /// the root file system any more.
    ///
    /// # Errors
    /// When the changes of a copy cannot be told, or copied.
    pub fn collect(&mut self) -> Result<&Path, SnapshotError> {
        if let Some(copied) = &mut self.copied {
            copied.collect(&self.claim)?;
        }
        Ok(&self.upper)
    }

    /// The root file system: a fresh detached mount, or, with no layers below or around a copy, a
    /// directory.
    ///
    /// Call it once per process to run, one after the other: what a mount that is still in use
    /// writes is undefined in the next.
    ///
    /// # Errors
    /// When the kernel refuses the mount.
    pub fn rootfs(&mut self) -> Result<RootFs, SnapshotError> {
        if let Some(copied) = &mut self.copied {
            return Ok(RootFs::Path(copied.hand_out().to_owned()));
        }
        if self.parents.is_empty() {
            return Ok(RootFs::Path(self.upper.clone()));
        }
        let work = self.claim.fresh("work")?;
        let (upper, work) = (open_dir(&self.upper)?, open_dir(&work)?);
        let lowers = open_trees(&self.parents)?;
        let mount = mount(&lowers, Some((upper.as_fd(), work.as_fd())), self.marks)?;
        Ok(RootFs::Mount(mount))
    }
}

/// Layers as one tree to read.
#[derive(Debug)]
pub struct View {
    parents: Vec<Pinned>,
    empty: PathBuf,
    marks: OverlayMarks,
    directory: OwnedFd,
    /// Where the copy is, if it is one.
    copy: Option<Claim>,
}

impl View {
    /// A copy of the layers, which goes with the view.
    pub(crate) fn copied(
        claim: Claim,
        parents: Vec<Pinned>,
        marks: OverlayMarks,
        owners: Owners,
    ) -> Result<Self, SnapshotError> {
        let tree = claim.tree();
        copied::apply(&parents, &tree, (marks, owners), &mut Kept::default())?;
        Ok(Self {
            parents,
            marks,
            directory: open_dir(&tree)?,
            empty: tree,
            copy: Some(claim),
        })
    }

    pub(crate) fn new(
        parents: Vec<Pinned>,
        empty: PathBuf,
        marks: OverlayMarks,
    ) -> Result<Self, SnapshotError> {
        let directory = match mount_view(&parents, &empty, marks)? {
            RootFs::Path(path) => open_dir(&path)?,
            // What `fsmount` returns cannot be listed; what is opened through it can.
            RootFs::Mount(mount) => open_at(mount.as_fd(), Path::new("."))?,
        };
        Ok(Self {
            parents,
            empty,
            marks,
            directory,
            copy: None,
        })
    }

    /// The root directory, open for reading.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A path to the root directory that this process can use as long as the view lives. Links
    /// inside the tree may lead out of it: resolve names from [`directory`](Self::directory) with
    /// `openat2` where that matters.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// A fresh detached read-only mount of the same tree, to be given away; with no layers, an
    /// empty directory, and of a copy, its directory.
    ///
    /// # Errors
    /// When the kernel refuses the mount.
    pub fn rootfs(&self) -> Result<RootFs, SnapshotError> {
        if let Some(claim) = &self.copy {
            return Ok(RootFs::Path(claim.tree()));
        }
        mount_view(&self.parents, &self.empty, self.marks)
    }
}

fn mount_view(
    parents: &[Pinned],
    empty: &Path,
    marks: OverlayMarks,
) -> Result<RootFs, SnapshotError> {
    if parents.is_empty() {
        return Ok(RootFs::Path(empty.to_owned()));
    }
    let mut lowers = open_trees(parents)?;
    if let [_] = lowers.as_slice() {
        // A read-only overlay of one layer is refused; of one layer and nothing it is not.
        lowers.push(Tree::Directory(empty.to_owned()).open()?);
    }
    mount(&lowers, None, marks).map(RootFs::Mount)
}

pub(crate) fn mount(
    lowers: &[Opened],
    upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    marks: OverlayMarks,
) -> Result<OwnedFd, SnapshotError> {
    if lowers.len() > LAYERS_MAX {
        return Err(SnapshotError::TooManyLayers {
            count: lowers.len(),
            max: LAYERS_MAX,
        });
    }
    let stack = Stack {
        lowers: lowers.iter().map(Opened::layer).collect(),
        upper,
        marks,
    };
    stack.mount().map_err(|source| SnapshotError::Mount {
        layers: lowers.len(),
        source,
    })
}

/// The layers' files, topmost first.
fn open_trees(parents: &[Pinned]) -> Result<Vec<Opened>, SnapshotError> {
    parents
        .iter()
        .rev()
        .map(|parent| parent.tree().open())
        .collect()
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, SnapshotError> {
    open_at(CWD, path)
}

pub(crate) fn open_at(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, path, flags, Mode::empty()).at("open", path)
}

/// The root directory is always the upper one's: without this, mode and owner of `/` would change
/// with every layer.
pub(crate) fn copy_root_metadata(from: BorrowedFd<'_>, to: &Path) -> Result<(), SnapshotError> {
    let stat = rustix::fs::fstat(from).at("read the layer below", to)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match chown(to, Some(uid), Some(gid)) {
        // A user namespace cannot give a directory to an owner it does not know.
        Err(Errno::PERM | Errno::INVAL) => {}
        other => other.at("change the owner of", to)?,
    }
    rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode)).at("change the mode of", to)?;
    let times = Timestamps {
        last_access: timespec(stat.st_atime, i64::try_from(stat.st_atime_nsec)),
        last_modification: timespec(stat.st_mtime, i64::try_from(stat.st_mtime_nsec)),
    };
    utimensat(CWD, to, &times, AtFlags::empty()).at("change the times of", to)
}

fn timespec<E>(seconds: i64, nanoseconds: Result<i64, E>) -> rustix::fs::Timespec {
    rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.unwrap_or_default(),
    }
}
