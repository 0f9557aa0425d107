//! The state root: one directory, opened by any number of processes.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_oci::Algorithm;

use crate::database::Database;
use crate::disk::{Disk, SystemDisk};
use crate::local::LocalStore;
use crate::process::{self, OwnProcess, ProcessToken, absent_is_fine};
use crate::{
    Builds, CacheRecords, ContentError, Durability, Images, Kv, Layers, Leases, Registry, leases,
};

const FORMAT: &str = "longshore-state 1\n";
/// The `format` file is one short line; more is of another program.
const FORMAT_BYTES_MAX: usize = 256;

/// An open state root. Clones share it; the process is taken as gone when the last is dropped.
#[derive(Clone, Debug)]
pub struct StateRoot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    db: Arc<Database>,
    blobs: LocalStore,
    process: Arc<OwnProcess>,
}

impl StateRoot {
    /// Opens the root, making it where there is none, and clears what dead processes left.
    ///
    /// # Errors
    /// [`ContentError::Format`] when the directory belongs to something else or to a newer
    /// version; else what the system says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ContentError> {
        Self::open_on(path, Arc::new(SystemDisk))
    }

    /// As [`StateRoot::open`], with another [`Disk`] below the blobs.
    ///
    /// # Errors
    /// As [`StateRoot::open`].
    pub fn open_on(path: impl AsRef<Path>, disk: Arc<dyn Disk>) -> Result<Self, ContentError> {
        let path = path.as_ref();
        make_dir(path)?;
        let path = fs::canonicalize(path).map_err(ContentError::io("resolve", path))?;
        let opening = lock_for_opening(&path)?;
        prepare(&path)?;
        let db = Arc::new(Database::open(&path.join("meta.db"))?);
        let tmp = path.join("tmp");
        process::sweep(&tmp)?;
        discard_uploads_of_other_boots(&path)?;
        let process = Arc::new(OwnProcess::register(&tmp)?);
        leases::sweep(&db, &tmp)?;
        drop(opening);
        let blobs = LocalStore::new(&path, Arc::clone(&db), Arc::clone(&process), disk)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                db,
                blobs,
                process,
            }),
        })
    }

    /// The root directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The blobs, written durably.
    pub fn blobs(&self) -> &LocalStore {
        &self.inner.blobs
    }

    /// The same blobs, written without syncing: for what can be made again.
    pub fn cache_blobs(&self) -> LocalStore {
        self.inner.blobs.with_durability(Durability::Cache)
    }

    /// Named images of the local store.
    pub fn images(&self) -> Images {
        Images::new(self.db(), self.inner.blobs.clone())
    }

    /// What is known of layers.
    pub fn layers(&self) -> Layers {
        Layers::new(self.db())
    }

    /// Build results.
    pub fn cache_records(&self) -> CacheRecords {
        CacheRecords::new(self.db())
    }

    /// The registry's repositories.
    pub fn registry(&self) -> Registry {
        Registry::new(self.db())
    }

    /// What running work needs.
    pub fn leases(&self) -> Leases {
        Leases::new(self.db(), self.inner.process.token.clone())
    }

    /// Records of builds.
    pub fn builds(&self) -> Builds {
        Builds::new(self.db(), self.inner.process.token.clone())
    }

    /// Small values of other crates.
    pub fn kv(&self) -> Kv {
        Kv::new(self.db())
    }

    /// Names this process to others that share the root.
    pub fn process(&self) -> &ProcessToken {
        &self.inner.process.token
    }

    /// Whether the process that is named so still runs.
    ///
    /// # Errors
    /// When its lock cannot be asked.
    pub fn is_alive(&self, process: &ProcessToken) -> Result<bool, ContentError> {
        process::is_alive(&self.inner.path.join("tmp"), process)
    }

    /// A directory for this process's unfinished files: removed when it ends, or by the next
    /// opening if it is killed.
    pub fn tmp_dir(&self) -> &Path {
        &self.inner.process.dir
    }

    pub(crate) fn db(&self) -> Arc<Database> {
        Arc::clone(&self.inner.db)
    }
}

fn make_dir(path: &Path) -> Result<(), ContentError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ContentError::io("create", path))
}

/// Only one process at a time makes, migrates and sweeps.
fn lock_for_opening(root: &Path) -> Result<File, ContentError> {
    let format = root.join("format");
    if !format.exists() && !is_empty(root)? {
        return Err(ContentError::Format {
            path: root.to_owned(),
            found: "a directory with other files".to_owned(),
        });
    }
    let path = root.join("lock");
    let file = File::create(&path).map_err(ContentError::io("create", &path))?;
    file.lock().map_err(ContentError::io("lock", &path))?;
    Ok(file)
}

/// Whether nothing is there but what an interrupted first opening may have made.
fn is_empty(root: &Path) -> Result<bool, ContentError> {
    let own = [
        "lock",
        "format.new",
        "blobs",
        "uploads",
        "tmp",
        "lost+found",
    ];
    for entry in fs::read_dir(root).map_err(ContentError::io("read", root))? {
        let entry = entry.map_err(ContentError::io("read", root))?;
        if !own.iter().any(|name| entry.file_name() == *name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the directories, then the `format` file that says they are there.
fn prepare(root: &Path) -> Result<(), ContentError> {
    let path = root.join("format");
    match fs::read(&path) {
        Ok(found) if found == FORMAT.as_bytes() => return Ok(()),
        Ok(found) => {
            let line = found
                .split(|byte| *byte == b'\n')
                .next()
                .unwrap_or_default();
            let line = &line[..line.len().min(FORMAT_BYTES_MAX)];
            return Err(ContentError::Format {
                path: root.to_owned(),
                found: String::from_utf8_lossy(line).into_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ContentError::io("read", &path)(error)),
    }
    make_dirs(root)?;
    write_whole(root, "format", FORMAT)
}

/// The shards are made once, so that no commit has to make or sync one.
fn make_dirs(root: &Path) -> Result<(), ContentError> {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let dir = root.join("blobs").join(algorithm.as_str());
        for shard in 0..=u8::MAX {
            make_dir(&dir.join(format!("{shard:02x}")))?;
        }
        sync_dir(&dir)?;
    }
    sync_dir(&root.join("blobs"))?;
    make_dir(&root.join("uploads"))?;
    make_dir(&root.join("tmp"))
}

fn sync_dir(path: &Path) -> Result<(), ContentError> {
    SystemDisk
        .sync_dir(path)
        .map_err(ContentError::io("sync", path))
}

fn write_whole(root: &Path, name: &str, content: &str) -> Result<(), ContentError> {
    let path = root.join(name);
    let new = root.join(format!("{name}.new"));
    fs::write(&new, content).map_err(ContentError::io("write", &new))?;
    File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(ContentError::io("sync", &new))?;
    fs::rename(&new, &path).map_err(ContentError::io("rename", &new))?;
    sync_dir(root)
}

pub(crate) fn boot_id() -> Result<String, ContentError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = fs::read_to_string(path).map_err(ContentError::io("read", path))?;
    Ok(id.trim().to_owned())
}

/// Uploads are not synced while they arrive, so a power cut may have torn them.
fn discard_uploads_of_other_boots(root: &Path) -> Result<(), ContentError> {
    let current = boot_id()?;
    let path = root.join("boot");
    if fs::read_to_string(&path).is_ok_and(|last| last == current) {
        return Ok(());
    }
    let uploads = root.join("uploads");
    for entry in fs::read_dir(&uploads).map_err(ContentError::io("read", &uploads))? {
        let upload = entry.map_err(ContentError::io("read", &uploads))?.path();
        absent_is_fine(fs::remove_file(&upload)).map_err(ContentError::io("remove", &upload))?;
    }
    write_whole(root, "boot", &current)
}
