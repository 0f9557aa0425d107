//! Cache mounts: directories that outlive the build.
//!
//! ```text
//! cache/mounts/<hash of id and seed>/<n>/     the directory
//! cache/mounts/<hash of id and seed>/<n>.lock held while a step uses it
//! ```
//!
//! `shared` users hold the first directory's lock together; `locked` ones one after the
//! other; `private` ones take the first directory that nobody holds.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_graph::CacheSharing;
use longshore_layers::{DirectoryForm, NoLowerLayers, Ownership, changes_of_view, materialise};
use longshore_solver::BoxError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::content::StoredContent;
use crate::layer::Layer;
use crate::{Engine, EngineError};

/// How many directories of one private cache there may be.
const PRIVATE_MAX: usize = 256;
/// Between two tries to lock.
const RETRY: Duration = Duration::from_millis(50);

/// The cache mounts of an engine.
#[derive(Debug)]
pub(crate) struct CacheDirectories {
    engine: Engine,
    folder: PathBuf,
}

/// A cache directory that a step uses; let go when dropped.
#[derive(Debug)]
pub(crate) struct HeldCache {
    path: PathBuf,
    _lock: File,
}

impl HeldCache {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl CacheDirectories {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self {
            folder: engine.cache_directory("mounts"),
            engine: engine.clone(),
        }
    }

    /// Waits for the directory of `id`, made anew with `seed`'s files where there is none.
    pub(crate) async fn hold(
        &self,
        id: &str,
        sharing: CacheSharing,
        mode: u32,
        owner: (u32, u32),
        seed: Option<Vec<Arc<Layer>>>,
        cancel: &CancellationToken,
    ) -> Result<HeldCache, BoxError> {
        let folder = self
            .folder
            .join(directory_name(id, mode, owner, seed.as_deref()));
        fs::create_dir_all(&folder).map_err(EngineError::io("make", &folder))?;
        let (path, lock) = loop {
            if let Some(held) =
                try_hold(&folder, sharing).map_err(EngineError::io("lock", &folder))?
            {
                break held;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = cancel.cancelled() => return Err("canceled".into()),
            }
        };
        if !path.exists() {
            self.make(&path, mode, owner, seed).await?;
        }
        Ok(HeldCache { path, _lock: lock })
    }

    /// Made aside and renamed, so that a directory that is there is whole.
    async fn make(
        &self,
        path: &Path,
        mode: u32,
        owner: (u32, u32),
        seed: Option<Vec<Arc<Layer>>>,
    ) -> Result<(), BoxError> {
        let files = match seed {
            None => None,
            Some(layers) => {
                let view = self.engine.layers().view(&layers).await?;
                Some((
                    view,
                    StoredContent::open(self.engine.layers(), &layers).await?,
                ))
            }
        };
        let (path, parent) = (path.to_owned(), path.parent().unwrap_or(path).to_owned());
        let store = Arc::clone(self.engine.layers());
        spawn_blocking(move || {
            let fresh = tempfile::Builder::new()
                .prefix("new-")
                .tempdir_in(&parent)?;
            if let Some((view, content)) = files {
                let changes = changes_of_view(&view, &content)?;
                let options = store.directory_options(DirectoryForm::Merged);
                materialise(
                    &changes,
                    fs::File::open(fresh.path())?,
                    &options,
                    &NoLowerLayers,
                )?;
            }
            fs::set_permissions(fresh.path(), Permissions::from_mode(mode))?;
            if store.ownership() == Ownership::Restore {
                chown(fresh.path(), Some(owner.0), Some(owner.1))?;
            }
            match renameat_with(CWD, fresh.path(), CWD, &path, RenameFlags::NOREPLACE) {
                // Another shared user was faster, and is in its directory already.
                Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(()) => {
                    let _ = fresh.keep();
                    Ok(())
                }
            }
        })
        .await?
    }
}

fn directory_name(id: &str, mode: u32, owner: (u32, u32), seed: Option<&[Arc<Layer>]>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("longshore cache mount 1");
    hasher
        .update(&(id.len() as u64).to_le_bytes())
        .update(id.as_bytes());
    for number in [mode, owner.0, owner.1] {
        hasher.update(&number.to_le_bytes());
    }
    for layer in seed.into_iter().flatten() {
        layer.key.hash(&mut hasher);
    }
    hasher.finalize().to_hex().to_string()
}

fn try_hold(folder: &Path, sharing: CacheSharing) -> io::Result<Option<(PathBuf, File)>> {
    let count = if sharing == CacheSharing::Private {
        PRIVATE_MAX
    } else {
        1
    };
    for number in 0..count {
        let lock = open_lock(&folder.join(format!("{number}.lock")))?;
        let locked = match sharing {
            CacheSharing::Shared => lock.try_lock_shared(),
            CacheSharing::Private | CacheSharing::Locked => lock.try_lock(),
        };
        match locked {
            Ok(()) => return Ok(Some((folder.join(number.to_string()), lock))),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}
