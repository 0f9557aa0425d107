//! Making room: measuring what the build cache takes, and letting go of the least valuable.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use longshore_content::gc::{CacheItem, CacheUsage, Candidate};
use longshore_content::{ContentError, Directories, GcOptions, GcReport};
use longshore_snapshot::{OverlaySnapshots, SnapshotError, Snapshotter as _};

use super::{CacheKind, Disk, SpaceLimits, others};
use crate::{Engine, EngineError};

/// How often what is left is looked at anew: leases may have spared what was chosen.
const ROUNDS_MAX: usize = 8;
/// As long as a blob that a push was told is here.
pub(super) const PUSH_GRACE: Duration = Duration::from_secs(3600);

/// What the build cache takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSpace {
    /// Blobs and layers' directories.
    pub layers: CacheUsage,
    /// Cache mounts, mirrors of repositories, and the history of builds.
    pub others: Vec<Candidate>,
}

impl CacheSpace {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        let others = self.others.iter().map(|other| other.bytes);
        self.layers.bytes() + others.sum::<u64>()
    }

    /// Those of the others that are of this sort.
    pub fn of_kind(&self, kind: CacheKind) -> Vec<&Candidate> {
        let of_kind = |other: &&Candidate| CacheKind::of(&other.item) == kind;
        self.others.iter().filter(of_kind).collect()
    }
}

/// How much there was, is, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) used_bytes: u64,
    pub(crate) keep_bytes: u64,
    /// Another process lets go of what it can right now.
    pub(crate) is_made_elsewhere: bool,
}

impl Room {
    /// There is more than there may be.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used_bytes > self.keep_bytes
    }
}

impl Directories for OverlayDirectories<'_> {
    fn discard(&self, snapshot_id: &str) -> io::Result<bool> {
        let Ok(id) = snapshot_id.parse() else {
            return Ok(true);
        };
        match self.0.discard(&id) {
            Ok(_) => Ok(true),
            Err(SnapshotError::InUse { .. }) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

struct OverlayDirectories<'a>(&'a OverlaySnapshots);

impl Engine {
    /// What the build cache takes. Cache mounts that were used since are measured.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cache_space(&self) -> Result<CacheSpace, EngineError> {
        Ok(CacheSpace {
            layers: self.root().cache_usage(PUSH_GRACE)?,
            others: others::list(self)?,
        })
    }

    /// Lets go of what is worth least until the limits hold, or nothing more can go. A
    /// collection that another process runs makes room already: it is not waited for.
    pub(crate) fn make_room(&self, limits: &SpaceLimits) -> Result<Room, EngineError> {
        let (mut room, _) = self.room(limits)?;
        if !room.is_exceeded() {
            return Ok(room);
        }
        match self.shrink(limits, &mut room) {
            Err(EngineError::Content(ContentError::CollectionRunning(_))) => Ok(Room {
                is_made_elsewhere: true,
                ..room
            }),
            shrunk => shrunk.map(|()| room),
        }
    }

    fn shrink(&self, limits: &SpaceLimits, room: &mut Room) -> Result<(), EngineError> {
        self.collect(&rubbish(false))?;
        for _ in 0..ROUNDS_MAX {
            let space;
            (*room, space) = self.room(limits)?;
            if !room.is_exceeded() {
                break;
            }
            let disk = Disk::of(self.root().path())?;
            let target = limits.target_bytes(room.keep_bytes, disk);
            let excess = room.used_bytes.saturating_sub(target);
            let plan = self
                .root()
                .plan_eviction(excess, &space.others, PUSH_GRACE, &|_| true)?;
            if plan.is_empty() {
                break;
            }
            tracing::debug!(
                used_bytes = room.used_bytes,
                keep_bytes = room.keep_bytes,
                items = plan.len(),
                "the build cache is made smaller"
            );
            self.evict(&plan, false)?;
        }
        Ok(())
    }

    fn room(&self, limits: &SpaceLimits) -> Result<(Room, CacheSpace), EngineError> {
        let space = self.cache_space()?;
        let used_bytes = space.bytes();
        let keep_bytes = limits.keep_bytes(used_bytes, Disk::of(self.root().path())?);
        let room = Room {
            used_bytes,
            keep_bytes,
            is_made_elsewhere: false,
        };
        Ok((room, space))
    }

    /// Lets go of what was chosen, as far as nobody needs it by now, and of what that leaves;
    /// `wait` for a collection that runs already.
    pub(super) fn evict(&self, plan: &[Candidate], wait: bool) -> Result<GcReport, EngineError> {
        let mut keys = Vec::new();
        for candidate in plan {
            match &candidate.item {
                CacheItem::Result(records) => keys.extend_from_slice(records),
                CacheItem::Directory(layer) => {
                    let snapshots = self.layers().snapshots();
                    self.root()
                        .drop_directory(layer, &OverlayDirectories(snapshots))?;
                }
                CacheItem::Other(name) => {
                    others::remove(self, name)?;
                }
            }
        }
        self.root().cache_records().remove(&keys)?;
        self.collect(&rubbish(wait))
    }

    /// Removes what nothing needs, layers with their directories.
    pub(crate) fn collect(&self, options: &GcOptions) -> Result<GcReport, EngineError> {
        let snapshots = self.layers().snapshots();
        let directories = OverlayDirectories(snapshots);
        let report = self
            .root()
            .collect_garbage(&HashSet::new(), options, &directories)?;
        if !options.dry_run {
            snapshots.empty_trash()?;
        }
        Ok(report)
    }
}

/// What no result, no name and no lease needs.
fn rubbish(wait: bool) -> GcOptions {
    GcOptions {
        unreferenced_layers: true,
        wait,
        ..GcOptions::blobs_only(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::mpsc;

    use super::*;
    use crate::space::Space;
    use crate::{EngineOptions, LayerForm, SandboxOptions};

    #[test]
    fn room_that_another_process_makes_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(EngineOptions {
            root: folder.path().to_owned(),
            registry: longshore_registry_client::ClientOptions::anonymous(),
            sandbox: SandboxOptions {
                isolation: longshore_runner::Isolation::Chroot,
                ..SandboxOptions::default()
            },
            layer_form: LayerForm::Directory,
            space: SpaceLimits::default(),
            unpack: longshore_layers::DecompressLimits::LAYER,
        })
        .unwrap();
        let mirror = engine.cache_directory("git").join("mirror");
        fs::create_dir_all(&mirror).unwrap();
        fs::write(mirror.join("pack"), vec![1; 1 << 20]).unwrap();
        let limits = SpaceLimits {
            reserved: Some(Space::Bytes(0)),
            max_used: Some(Space::Bytes(1)),
            min_free: Some(Space::Bytes(0)),
        };

        let lock = File::create(folder.path().join("gc.lock")).unwrap();
        lock.lock().unwrap();
        let (send, made) = mpsc::channel();
        let other = engine.clone();
        std::thread::spawn(move || send.send(other.make_room(&limits)));
        let room = made.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        assert!(room.is_exceeded() && room.is_made_elsewhere, "{room:?}");
        assert!(mirror.exists());

        drop(lock);
        let room = engine.make_room(&limits).unwrap();
        assert!(!room.is_exceeded() && !room.is_made_elsewhere, "{room:?}");
        assert!(!mirror.exists());
    }
}
