//! Root file systems from layers, as late as possible.
//!
//! A *snapshot* is one layer in the form overlay gives its upper directory: a directory, or an
//! image of one in a single file. A *root file system* is a list of snapshots, mounted on one
//! another when a process needs it, and not before. Mounts are detached: none is ever visible in
//! the file system tree. Where no overlay can be mounted, a root file system is a copy of its layers,
//! and its changes are what differs from them afterwards.
//!
//! ```no_run
//! use longshore_snapshot::{OverlaySnapshots, SnapshotId, Snapshotter as _};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = OverlaySnapshots::open("/var/lib/longshore/snapshots")?;
//! store.sweep()?;
//! let base = SnapshotId::new("5f70bf18a086")?;
//! if store.get(&base)?.is_none() {
//!     let pending = store.begin(&base)?;
//!     std::fs::write(pending.path().join("file"), "from a layer")?;
//!     pending.commit()?;
//! }
//! let mut active = store.prepare(&[base])?;
//! let root = active.rootfs()?; // goes to a sandbox
//! # drop(root);
//! store.commit(active, &SnapshotId::new("8a7d1f")?)?;
//! # Ok(()) }
//! ```

mod claim;
pub mod conformance;
mod copied;
mod error;
mod handles;
mod id;
mod in_place;
mod overlay;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
mod state;
mod store;
mod sys;
mod trash;
mod tree;
mod tried;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use error::{ErrorClass, SnapshotError};
pub use handles::{ActiveSnapshot, Pending, Snapshot, View};
pub use id::{InvalidSnapshotId, SNAPSHOT_ID_BYTES_MAX, SnapshotId};
pub use overlay::OverlayMarks;
pub use store::{OverlaySnapshots, Owners, Stacking};
pub use tried::tried_changes;

/// Keeps layers as directories or images and makes root file systems of them.
///
/// # Contract
/// - A snapshot is visible under its id either whole or not at all, to every process, and never
///   changes while it is. Equal ids mean equal layers: committing one that exists keeps the old.
/// - Lists of parents go from the lowest layer to the topmost.
/// - What is pending, active or viewed belongs to the process that asked for it; dropping the
///   handle deletes what was not committed. After `kill -9` the next [`sweep`](Self::sweep), by any
///   process, does; it leaves alone what a living process holds.
/// - A snapshot that lies below a live root file system or view cannot be removed.
/// - Snapshots are not durable before [`sync`](Self::sync). One that was not, when the machine
///   went down, is treated as if it had never been.
/// - Nothing is ever mounted where anybody could see it.
///
/// All operations are safe to call from many threads and processes at once.
pub trait Snapshotter: Send + Sync {
    /// Starts a layer that the caller fills.
    ///
    /// # Errors
    /// When no directory can be made.
    fn begin(&self, id: &SnapshotId) -> Result<Pending, SnapshotError>;

    /// The snapshot of that name, if there is one.
    ///
    /// # Errors
    /// When a snapshot that did not survive a restart cannot be discarded.
    fn get(&self, id: &SnapshotId) -> Result<Option<Snapshot>, SnapshotError>;

    /// A writable root file system on these layers; on none, an empty directory.
    ///
    /// # Errors
    /// When a parent does not exist, there are too many, or they cannot be copied.
    fn prepare(&self, parents: &[SnapshotId]) -> Result<ActiveSnapshot, SnapshotError>;

    /// These layers as one tree, to read: read-only, or a copy that is nobody else's.
    ///
    /// # Errors
    /// When a parent does not exist, there are too many, or the kernel refuses the mount.
    fn view(&self, parents: &[SnapshotId]) -> Result<View, SnapshotError>;

    /// Keeps the changes of a root file system as a snapshot. No process may run in it any more.
    ///
    /// # Errors
    /// When a rename fails, or the changes cannot be told; they are lost then.
    fn commit(&self, active: ActiveSnapshot, id: &SnapshotId) -> Result<Snapshot, SnapshotError>;

    /// Removes a snapshot; `false` when there was none.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] while it is below a live root file system or view.
    fn remove(&self, id: &SnapshotId) -> Result<bool, SnapshotError>;

    /// As [`remove`](Self::remove), at the price of a rename: nobody finds the snapshot any more,
    /// and [`empty_trash`](Self::empty_trash) deletes it.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] while it is below a live root file system or view.
    fn discard(&self, id: &SnapshotId) -> Result<bool, SnapshotError>;

    /// Deletes what was discarded.
    ///
    /// # Errors
    /// When something cannot be deleted.
    fn empty_trash(&self) -> Result<(), SnapshotError>;

    /// Makes every snapshot committed so far durable; returns how many were not before. One call
    /// per finished build is enough.
    ///
    /// # Errors
    /// When the file system cannot be synced.
    fn sync(&self) -> Result<usize, SnapshotError>;

    /// Clears what dead processes and an earlier boot left behind. Call it once at start.
    ///
    /// # Errors
    /// When something cannot be deleted.
    fn sweep(&self) -> Result<Swept, SnapshotError>;
}

/// A root file system, as a sandbox takes it.
#[derive(Debug)]
pub enum RootFs {
    /// A directory.
    Path(PathBuf),
    /// A detached mount, to be moved into a mount namespace. Closing it unmounts it.
    Mount(OwnedFd),
}

/// What a [`Snapshotter::sweep`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Directories of processes that are gone.
    pub abandoned: usize,
    /// Snapshots of an earlier boot that had not been synced.
    pub void: usize,
}
