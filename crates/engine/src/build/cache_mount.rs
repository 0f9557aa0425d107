//! Cache mounts: directories that outlive the build.
//!
//! ```text
//! cache/mounts/<hash of id and seed>/about.json what it is
//! cache/mounts/<hash of id and seed>/<n>/       the directory
//! cache/mounts/<hash of id and seed>/<n>.lock   held while a step uses it; its time says when
//! cache/mounts/<hash of id and seed>/<n>.size   what it takes, where that is newer than the lock
//! cache/mounts/<hash of id and seed>/<n>.sent   the blob that it is, where that is newer than the lock
//! ```
//!
//! `shared` users hold the first directory's lock together; `locked` ones one after the
//! other; `private` ones take the first directory that nobody holds. What holds nothing may be
//! filled from a cache elsewhere, by one who holds its lock alone; such a cache gets what a
//! directory holds ([`export`]), read while nobody writes to it.

mod export;
mod pack;

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore_graph::CacheSharing;
use longshore_layers::{DirectoryForm, NoLowerLayers, Ownership, changes_of_view, materialise};
use longshore_solver::BoxError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub(crate) use self::export::{MountSpec, NotExported};
pub(crate) use self::pack::{PortableMount, unpack_mount};
use super::content::StoredContent;
use super::remote_cache::MountImport;
use crate::files::disk_bytes;
use crate::layer::Layer;
use crate::{Engine, EngineError};

/// How many directories of one private cache there may be.
const PRIVATE_MAX: usize = 256;
/// What a mount is.
const ABOUT: &str = "about.json";
/// Between two tries to lock.
const RETRY: Duration = Duration::from_millis(50);

/// The cache mounts of an engine.
#[derive(Debug)]
pub(crate) struct CacheMounts {
    engine: Engine,
    folder: PathBuf,
}

/// A cache directory that a step uses; let go when dropped.
#[derive(Debug)]
pub(crate) struct HeldCache {
    /// Which mount it is of.
    name: String,
    path: PathBuf,
    lock: File,
}

/// A cache mount as a step asks for it.
#[derive(Debug)]
pub(crate) struct MountWish<'a> {
    pub(crate) id: &'a str,
    pub(crate) sharing: CacheSharing,
    /// Of a new directory.
    pub(crate) mode: u32,
    /// Of a new directory.
    pub(crate) owner: (u32, u32),
    /// The files that a new directory has.
    pub(crate) seed: Option<Vec<Arc<Layer>>>,
}

/// What a cache mount is, beside its directories.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    id: String,
    /// What else tells mounts of one id apart; not known of those of older versions.
    #[serde(flatten)]
    rest: Option<AboutRest>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AboutRest {
    mode: u32,
    owner: (u32, u32),
    /// Whether it began with files.
    seeded: bool,
}

/// A directory of a cache mount, as it lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct StoredMount {
    /// Its place below the folder.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) last_used: SystemTime,
}

impl MountWish<'_> {
    fn name(&self) -> String {
        directory_name(self.id, self.mode, self.owner, self.seed.as_deref())
    }
}

impl HeldCache {
    /// Whether it is of the mount that is wished for: a step that mounts one twice has one
    /// directory of it, whatever the sharing, as in BuildKit.
    pub(crate) fn is(&self, wish: &MountWish<'_>) -> bool {
        self.name == wish.name()
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HeldCache {
    fn drop(&mut self) {
        // Where that fails, it seems to be older than it is.
        let _ = self.lock.set_modified(SystemTime::now());
    }
}

impl CacheMounts {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self {
            folder: engine.cache_directory("mounts"),
            engine: engine.clone(),
        }
    }

    /// Waits for the directory that is wished for. One that holds nothing is filled from a
    /// cache elsewhere; one that is not there is made with the seed's files else.
    pub(crate) async fn hold(
        &self,
        wish: MountWish<'_>,
        import: &MountImport,
        cancel: &CancellationToken,
    ) -> Result<HeldCache, BoxError> {
        let name = wish.name();
        let folder = self.folder.join(&name);
        fs::create_dir_all(&folder).map_err(EngineError::io("make", &folder))?;
        describe(&folder, &wish).map_err(EngineError::io("describe", &folder))?;
        tokio::select! {
            held = self.hold_in(&folder, &name, wish, import) => held,
            () = cancel.cancelled() => Err("canceled".into()),
        }
    }

    async fn hold_in(
        &self,
        folder: &Path,
        name: &str,
        wish: MountWish<'_>,
        import: &MountImport,
    ) -> Result<HeldCache, BoxError> {
        let failed = || EngineError::io("lock", folder);
        let is_shared = wish.sharing == CacheSharing::Shared;
        let first = folder.join("0");
        // Who comes meanwhile waits for the shared lock, and finds it filled.
        if is_shared
            && import.may_fill(&first)
            && let Some(_alone) = try_alone(&first).map_err(failed())?
        {
            self.fill(&first, name, wish.id, import).await?;
        }
        let (path, lock) = loop {
            if let Some(held) = try_hold(folder, wish.sharing).map_err(failed())? {
                break held;
            }
            tokio::time::sleep(RETRY).await;
        };
        if !is_shared {
            self.fill(&path, name, wish.id, import).await?;
        }
        if !path.exists() {
            self.make(&path, wish.mode, wish.owner, wish.seed).await?;
        }
        lock.set_modified(SystemTime::now())
            .map_err(EngineError::io("touch the lock of", &path))?;
        let name = name.to_owned();
        Ok(HeldCache { name, path, lock })
    }

    /// Fills a directory that nobody else uses from a cache elsewhere, if it holds nothing.
    async fn fill(
        &self,
        path: &Path,
        name: &str,
        id: &str,
        import: &MountImport,
    ) -> Result<(), EngineError> {
        let failed = || EngineError::io("list", path);
        let is_open = import.may_fill(path) && holds_nothing(path).map_err(failed())?;
        if !is_open {
            return Ok(());
        }
        let Some(fresh) = import.fetch(path, name, id).await else {
            return Ok(());
        };
        // In place of an empty directory too.
        fs::rename(fresh.path(), path).map_err(EngineError::io("make", path))?;
        let _ = fresh.keep();
        Ok(())
    }

    /// Every directory of every cache mount. One that was used since is measured.
    pub(crate) fn list(&self) -> Result<Vec<StoredMount>, EngineError> {
        let failed = || EngineError::io("list cache mounts below", &self.folder);
        let mut found = Vec::new();
        for folder in entries(&self.folder).map_err(failed())? {
            for path in entries(&folder).map_err(failed())? {
                let mount = stored(&folder, &path).map_err(EngineError::io("measure", &path))?;
                found.extend(mount);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The id of the mount of this name, as the Dockerfile has it.
    pub(crate) fn id_of(&self, name: &str) -> String {
        let folder = self.folder.join(name);
        let about = folder.parent().and_then(about);
        about.map_or_else(|| name.to_owned(), |about| about.id)
    }

    /// Removes a directory, unless a step uses it; whether it went.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, EngineError> {
        let path = self.folder.join(name);
        let Some(_alone) = try_alone(&path).map_err(EngineError::io("lock", &path))? else {
            return Ok(false);
        };
        Ok(self.engine.layers().snapshots().delete_tree(&path)?)
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
        let (path, tmp) = (path.to_owned(), self.engine.root().tmp_dir().to_owned());
        let store = Arc::clone(self.engine.layers());
        spawn_blocking(move || {
            let fresh = tempfile::Builder::new().prefix("mount-").tempdir_in(&tmp)?;
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

/// The directory at `path`, if it is one of a cache mount.
fn stored(folder: &Path, path: &Path) -> io::Result<Option<StoredMount>> {
    let numbered = path.file_name().and_then(|name| name.to_str());
    let Some(number) = numbered.filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
        return Ok(None);
    };
    let last_used = last_used(path);
    let bytes = match measured_since(path, last_used) {
        Some(bytes) => bytes,
        None => {
            let bytes = disk_bytes(path)?;
            fs::write(size_of(path), bytes.to_string())?;
            bytes
        }
    };
    let hash = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(StoredMount {
        name: format!("{hash}/{number}"),
        bytes,
        last_used,
    }))
}

/// When a step last used the directory.
fn last_used(path: &Path) -> SystemTime {
    let used = fs::metadata(lock_of(path)).and_then(|meta| meta.modified());
    used.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What the directory took when it was measured, if nobody used it since.
fn measured_since(path: &Path, last_used: SystemTime) -> Option<u64> {
    noted_since(&size_of(path), last_used)?.parse().ok()
}

/// What a file beside a directory says, if nobody used that since.
fn noted_since(note: &Path, last_used: SystemTime) -> Option<String> {
    let noted = fs::metadata(note).and_then(|meta| meta.modified()).ok()?;
    if noted <= last_used {
        return None;
    }
    fs::read_to_string(note).ok()
}

/// Says what the mount is, where that was not said yet.
fn describe(folder: &Path, wish: &MountWish<'_>) -> io::Result<()> {
    let path = folder.join(ABOUT);
    if about(folder).is_some_and(|about| about.rest.is_some()) {
        return Ok(());
    }
    let about = serde_json::to_vec(&About {
        id: wish.id.to_owned(),
        rest: Some(AboutRest {
            mode: wish.mode,
            owner: wish.owner,
            seeded: wish.seed.is_some(),
        }),
    })?;
    let mut file = tempfile::Builder::new()
        .prefix("new-")
        .tempfile_in(folder)?;
    file.write_all(&about)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What the mount of this folder is, where that was said.
fn about(folder: &Path) -> Option<About> {
    let text = fs::read(folder.join(ABOUT)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn lock_of(directory: &Path) -> PathBuf {
    directory.with_extension("lock")
}

fn size_of(directory: &Path) -> PathBuf {
    directory.with_extension("size")
}

/// A mount's id without the slash that parts it from a namespace that was not given.
pub(crate) fn shown_id(id: &str) -> &str {
    id.strip_prefix('/').unwrap_or(id)
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

/// The lock of a directory that nobody uses.
fn try_alone(directory: &Path) -> io::Result<Option<File>> {
    let lock = open_lock(&lock_of(directory))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether there is no such directory, or nothing in it.
fn holds_nothing(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => Ok(found?.next().transpose()?.is_none()),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}
