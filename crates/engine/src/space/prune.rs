//! Pruning: letting go on request what the limits would let go later.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use longshore_content::gc::{CacheItem, Candidate};
use longshore_content::{GcOptions, GcReport};
use longshore_oci::Digest;
use longshore_solver::CacheRecord;

use super::others::{self, Sort};
use super::room::PUSH_GRACE;
use super::{Disk, SpaceLimits};
use crate::{Engine, EngineError};

/// How long content that nothing names yet is left alone by a collection.
const GRACE: Duration = Duration::from_secs(600);

/// What to remove.
#[derive(Clone, Debug, Default)]
pub struct PruneRequest {
    /// The build cache too, and images without a name.
    pub all: bool,
    /// Of the build cache, only what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Of the build cache, only these sorts; empty for any.
    pub kinds: BTreeSet<CacheKind>,
    /// Of the build cache, only what is worth least, until it is no larger than these limits.
    pub keep: Option<SpaceLimits>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// The sorts of what is in the build cache; BuildKit's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    /// Results of steps: `regular`.
    Regular,
    /// Cache mounts: `exec.cachemount`.
    CacheMount,
    /// Mirrors of git repositories: `source.git.checkout`.
    GitCheckout,
    /// Unpacked layers whose blob is here: `internal`.
    Internal,
    /// What builds did and said: `build.history`. Only limits, or who asks for it, take it.
    BuildHistory,
}

impl CacheKind {
    /// Every sort.
    pub const ALL: [Self; 5] = [
        Self::Regular,
        Self::CacheMount,
        Self::GitCheckout,
        Self::Internal,
        Self::BuildHistory,
    ];

    /// BuildKit's word; it has none for the history of builds.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::CacheMount => "exec.cachemount",
            Self::GitCheckout => "source.git.checkout",
            Self::Internal => "internal",
            Self::BuildHistory => "build.history",
        }
    }

    pub(super) fn of(item: &CacheItem) -> Self {
        match item {
            CacheItem::Result(_) => Self::Regular,
            CacheItem::Directory(_) => Self::Internal,
            CacheItem::Other(name) => match others::sort_of(name) {
                Sort::Mount => Self::CacheMount,
                Sort::Mirror => Self::GitCheckout,
                Sort::Build => Self::BuildHistory,
            },
        }
    }
}

/// Something of the build cache that was removed, or would be.
#[derive(Clone, Debug)]
pub struct PrunedItem {
    /// Its sort.
    pub kind: CacheKind,
    /// What it is, for people.
    pub name: String,
    /// Bytes that it took for itself alone.
    pub bytes: u64,
    /// What it took to make, as far as that is known.
    pub cost_ms: u64,
    /// When it was last of use.
    pub last_used: SystemTime,
}

/// What a collection removed, or would.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Images that had no name.
    pub images: Vec<Digest>,
    /// Blobs and their sizes.
    pub blobs: Vec<(Digest, u64)>,
    /// What of the build cache was chosen, in this order.
    pub items: Vec<PrunedItem>,
    /// How many layers' directories.
    pub directories: usize,
    /// Bytes of all that.
    pub bytes: u64,
    /// What is kept: why, how many blobs, how many bytes.
    pub kept: Vec<(String, u64, u64)>,
}

impl Engine {
    /// Removes what nothing needs, and of the build cache what `request` says. What a name, a
    /// running build or a push needs stays.
    ///
    /// # Errors
    /// When the store fails.
    pub fn prune(&self, request: &PruneRequest) -> Result<Pruned, EngineError> {
        if request.keep.is_some() || !request.kinds.is_empty() {
            return self.prune_chosen(request);
        }
        self.prune_unused(request)
    }

    /// Chooses among the build cache, the least valuable first.
    fn prune_chosen(&self, request: &PruneRequest) -> Result<Pruned, EngineError> {
        let space = self.cache_space()?;
        let free_bytes = match &request.keep {
            None => u64::MAX,
            Some(limits) => {
                let disk = Disk::of(self.root().path())?;
                let used = space.bytes();
                used.saturating_sub(limits.keep_bytes(used, disk))
            }
        };
        let oldest = SystemTime::now()
            .checked_sub(request.unused_for.unwrap_or_default())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let is_meant = |candidate: &Candidate| {
            let kind = CacheKind::of(&candidate.item);
            (request.kinds.is_empty() || request.kinds.contains(&kind))
                && candidate.last_used <= oldest
        };
        let plan = self
            .root()
            .plan_eviction(free_bytes, &space.others, PUSH_GRACE, &is_meant)?;
        let items = plan.iter().map(|candidate| self.describe(candidate));
        let items: Vec<PrunedItem> = items.collect::<Result<_, _>>()?;
        if request.dry_run {
            return Ok(Pruned {
                bytes: items.iter().map(|item| item.bytes).sum(),
                items,
                ..Pruned::default()
            });
        }
        let before = space.bytes();
        let report = self.evict(&plan, true)?;
        let mut pruned = pruned(report, items);
        pruned.bytes = before.saturating_sub(self.cache_space()?.bytes());
        Ok(pruned)
    }

    /// Removes what nothing needs; with `all` or a time, of the build cache too.
    fn prune_unused(&self, request: &PruneRequest) -> Result<Pruned, EngineError> {
        let (all, unused_for) = (request.all, request.unused_for);
        let options = GcOptions {
            dangling_images: all,
            unreferenced_layers: true,
            cache_unused_for: unused_for.or_else(|| all.then_some(Duration::ZERO)),
            dry_run: request.dry_run,
            wait: true,
            ..GcOptions::blobs_only(match (all, unused_for) {
                (true, None) => Duration::ZERO,
                (true, Some(unused_for)) => unused_for.min(GRACE),
                (false, _) => GRACE,
            })
        };
        let others = match options.cache_unused_for {
            Some(unused_for) => self.others_unused_for(unused_for)?,
            None => Vec::new(),
        };
        let mut items = Vec::new();
        for other in &others {
            let CacheItem::Other(name) = &other.item else {
                continue;
            };
            let item = self.describe(other)?;
            if request.dry_run || others::remove(self, name)? {
                items.push(item);
            }
        }
        Ok(pruned(self.collect(&options)?, items))
    }

    fn others_unused_for(&self, unused_for: Duration) -> Result<Vec<Candidate>, EngineError> {
        let mut others = others::list(self)?;
        others.retain(|other| {
            let age = other.last_used.elapsed().unwrap_or_default();
            age >= unused_for && CacheKind::of(&other.item) != CacheKind::BuildHistory
        });
        Ok(others)
    }

    fn describe(&self, candidate: &Candidate) -> Result<PrunedItem, EngineError> {
        let name = match &candidate.item {
            CacheItem::Result(keys) => {
                let mut name = None;
                for key in keys {
                    let row = self.root().cache_records().get(key)?;
                    let record = row.and_then(|row| CacheRecord::from_bytes(&row.record).ok());
                    name = name.or_else(|| record.map(|record| record.trace.step));
                }
                name.unwrap_or_else(|| "something fetched".to_owned())
            }
            CacheItem::Directory(layer) => format!("the directory of layer {layer}"),
            CacheItem::Other(name) => match others::sort_of(name) {
                Sort::Mount => others::mount_id(self, name),
                Sort::Mirror => "a mirror of a repository".to_owned(),
                Sort::Build => format!("build {}", others::build_id(name)),
            },
        };
        Ok(PrunedItem {
            kind: CacheKind::of(&candidate.item),
            name,
            bytes: candidate.bytes,
            cost_ms: candidate.cost_ms,
            last_used: candidate.last_used,
        })
    }
}

fn pruned(report: GcReport, items: Vec<PrunedItem>) -> Pruned {
    let directories = report.layers.iter().map(|layer| layer.snapshot_bytes);
    let others = items.iter().filter(|item| is_beside(item.kind));
    let others = others.map(|item| item.bytes);
    Pruned {
        bytes: report.removed_bytes + directories.sum::<u64>() + others.sum::<u64>(),
        directories: report
            .layers
            .iter()
            .filter(|layer| layer.snapshot_id.is_some())
            .count(),
        images: report.images,
        blobs: report.removed,
        items,
        kept: report
            .kept
            .into_iter()
            .map(|(why, (count, bytes))| (why, count, bytes))
            .collect(),
    }
}

fn is_beside(kind: CacheKind) -> bool {
    matches!(
        kind,
        CacheKind::CacheMount | CacheKind::GitCheckout | CacheKind::BuildHistory
    )
}
