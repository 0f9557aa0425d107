//! What of the build cache lies beside the database: cache mounts, mirrors of repositories,
//! and what builds said.

use std::path::Path;

use longshore_content::gc::{CacheItem, Candidate};

use crate::build::CacheMounts;
use crate::remote::{mirrors, remove_mirror};
use crate::{Engine, EngineError};

/// How a cache mount's name begins here.
const MOUNT: &str = "mount:";
/// How a mirror's name begins here.
const MIRROR: &str = "git:";
/// How the name of a build's history begins here.
const BUILD: &str = "build:";
/// What is in these comes from other machines, with about so many bytes in a millisecond.
const FETCHED_BYTES_PER_MS: u64 = 10_000;

/// The sorts of what lies beside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Mount,
    Mirror,
    Build,
}

/// What sort of thing has this name.
pub(super) fn sort_of(name: &str) -> Sort {
    if name.starts_with(MIRROR) {
        Sort::Mirror
    } else if name.starts_with(BUILD) {
        Sort::Build
    } else {
        Sort::Mount
    }
}

/// The id of the build whose history has this name.
pub(super) fn build_id(name: &str) -> &str {
    name.strip_prefix(BUILD).unwrap_or(name)
}

/// The cache mount that has this name, for people.
pub(super) fn mount_id(engine: &Engine, name: &str) -> String {
    let name = name.strip_prefix(MOUNT).unwrap_or(name);
    CacheMounts::new(engine).id_of(name)
}

/// All of them.
pub(super) fn list(engine: &Engine) -> Result<Vec<Candidate>, EngineError> {
    let mut found = Vec::new();
    for mount in CacheMounts::new(engine).list()? {
        found.push(Candidate {
            item: CacheItem::Other(format!("{MOUNT}{}", mount.name)),
            bytes: mount.bytes,
            cost_ms: mount.bytes / FETCHED_BYTES_PER_MS + 1,
            last_used: mount.last_used,
        });
    }
    let folder = engine.cache_directory("git");
    let mirrors = mirrors(&folder).map_err(EngineError::io("list mirrors below", &folder))?;
    for mirror in mirrors {
        found.push(Candidate {
            item: CacheItem::Other(format!("{MIRROR}{}", mirror.name)),
            bytes: mirror.bytes,
            cost_ms: mirror.bytes / FETCHED_BYTES_PER_MS + 1,
            last_used: mirror.last_used,
        });
    }
    for build in engine.history().finished()? {
        found.push(Candidate {
            item: CacheItem::Other(format!("{BUILD}{}", build.id)),
            bytes: build.bytes,
            cost_ms: u64::try_from(build.took.as_millis()).unwrap_or(u64::MAX),
            last_used: build.ended,
        });
    }
    Ok(found)
}

/// Removes one, unless somebody uses it; whether it went.
pub(super) fn remove(engine: &Engine, name: &str) -> Result<bool, EngineError> {
    if let Some(mount) = name.strip_prefix(MOUNT) {
        return CacheMounts::new(engine).remove(mount);
    }
    if let Some(build) = name.strip_prefix(BUILD) {
        return engine.history().remove(build);
    }
    let Some(mirror) = name.strip_prefix(MIRROR) else {
        return Ok(false);
    };
    let folder = engine.cache_directory("git");
    remove_mirror(&folder, Path::new(mirror)).map_err(EngineError::io("remove a mirror of", folder))
}
