//! Making room: measuring what the build cache takes, and letting go of the least valuable.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use longshore_content::gc::{CacheItem, CacheUsage, Candidate};
use longshore_content::{Directories, GcOptions, GcReport};
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
    /// Cache mounts, and mirrors of repositories.
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
}

impl Room {
    /// There is more than there may be, and it cannot go now.
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

    /// Lets go of what is worth least until the limits hold, or nothing more can go.
    pub(crate) fn make_room(&self, limits: &SpaceLimits) -> Result<Room, EngineError> {
        let (mut room, _) = self.room(limits)?;
        if !room.is_exceeded() {
            return Ok(room);
        }
        self.collect(&rubbish())?;
        for _ in 0..ROUNDS_MAX {
            let space;
            (room, space) = self.room(limits)?;
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
            self.evict(&plan)?;
        }
        Ok(room)
    }

    fn room(&self, limits: &SpaceLimits) -> Result<(Room, CacheSpace), EngineError> {
        let space = self.cache_space()?;
        let used_bytes = space.bytes();
        let keep_bytes = limits.keep_bytes(used_bytes, Disk::of(self.root().path())?);
        let room = Room {
            used_bytes,
            keep_bytes,
        };
        Ok((room, space))
    }

    /// Lets go of what was chosen, as far as nobody needs it by now, and of what that leaves.
    pub(super) fn evict(&self, plan: &[Candidate]) -> Result<GcReport, EngineError> {
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
        self.collect(&rubbish())
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
fn rubbish() -> GcOptions {
    GcOptions {
        unreferenced_layers: true,
        wait: true,
        ..GcOptions::blobs_only(Duration::ZERO)
    }
}
