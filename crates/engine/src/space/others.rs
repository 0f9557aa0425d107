//! What of the build cache lies beside the database: cache mounts and mirrors of repositories.

use std::path::Path;

use longshore_content::gc::{CacheItem, Candidate};

use crate::build::CacheMounts;
use crate::remote::{mirrors, remove_mirror};
use crate::{Engine, EngineError};

/// How a cache mount's name begins here.
const MOUNT: &str = "mount:";
/// How a mirror's name begins here.
const MIRROR: &str = "git:";
/// What is in these comes from other machines, with about so many bytes in a millisecond.
const FETCHED_BYTES_PER_MS: u64 = 10_000;

/// The sorts of what lies beside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Mount,
    Mirror,
}

/// What sort of thing has this name.
pub(super) fn sort_of(name: &str) -> Sort {
    match name.starts_with(MIRROR) {
        true => Sort::Mirror,
        false => Sort::Mount,
    }
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
    Ok(found)
}

/// Removes one, unless somebody uses it; whether it went.
pub(super) fn remove(engine: &Engine, name: &str) -> Result<bool, EngineError> {
    if let Some(mount) = name.strip_prefix(MOUNT) {
        return CacheMounts::new(engine).remove(mount);
    }
    let Some(mirror) = name.strip_prefix(MIRROR) else {
        return Ok(false);
    };
    let folder = engine.cache_directory("git");
    remove_mirror(&folder, Path::new(mirror)).map_err(EngineError::io("remove a mirror of", folder))
}
