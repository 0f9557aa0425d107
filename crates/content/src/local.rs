//! Blobs as files, for pipelines within this process: synchronous, no copies.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_oci::{Algorithm, Digest, Digester};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::database::{Database, Durability, from_sql, to_sql};
use crate::disk::Disk;
use crate::leases;
use crate::process::OwnProcess;
use crate::root::boot_id;
use crate::time::{from_ms, now_ms};
use crate::{BlobInfo, ContentError, LocalWriter, UploadId};

/// How much is read at once to hash a file.
const HASH_CHUNK_BYTES: usize = 1024 * 1024;

/// What [`LocalStore::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soundness {
    /// The content has its digest.
    Sound,
    /// It had not, and was removed; writing it again restores it.
    Removed,
}

/// The blobs of a state root. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalStore {
    pub(crate) inner: Arc<Inner>,
    pub(crate) durability: Durability,
}

#[derive(Debug)]
pub(crate) struct Inner {
    blobs: PathBuf,
    uploads: PathBuf,
    process: Arc<OwnProcess>,
    boot: String,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) db: Arc<Database>,
}

/// A row of `blobs`.
struct Row {
    size_bytes: u64,
    created_ms: i64,
    stamp: String,
    boot: Option<String>,
}

impl LocalStore {
    pub(crate) fn new(
        root: &Path,
        db: Arc<Database>,
        process: Arc<OwnProcess>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, ContentError> {
        Ok(Self {
            inner: Arc::new(Inner {
                blobs: root.join("blobs"),
                uploads: root.join("uploads"),
                process,
                boot: boot_id()?,
                disk,
                db,
            }),
            durability: Durability::Published,
        })
    }

    /// The same blobs, written with another durability.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            durability,
        }
    }

    /// Where the blob's file is, or would be. To read, use [`LocalStore::open`], which makes
    /// sure that the blob is whole; never write there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shard(digest).join(digest.hex())
    }

    fn shard(&self, digest: &Digest) -> PathBuf {
        let shard = format!("{:02x}", digest.as_bytes()[0]);
        let algorithm = self.inner.blobs.join(digest.algorithm().as_str());
        algorithm.join(shard)
    }

    pub(crate) fn upload_path(&self, id: &UploadId) -> PathBuf {
        self.inner.uploads.join(id.as_str())
    }

    pub(crate) fn uploads_dir(&self) -> &Path {
        &self.inner.uploads
    }

    pub(crate) fn blobs_dir(&self) -> &Path {
        &self.inner.blobs
    }

    pub(crate) fn tmp_path(&self) -> PathBuf {
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.inner.process.dir.join(name)
    }

    /// Starts a new blob. SHA-256 names it.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn writer(&self) -> Result<LocalWriter, ContentError> {
        self.writer_by(Algorithm::Sha256)
    }

    /// Starts a new blob that `algorithm` names.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn writer_by(&self, algorithm: Algorithm) -> Result<LocalWriter, ContentError> {
        LocalWriter::create(self.clone(), algorithm)
    }

    /// Stores `content`, unless it is here already.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn put(&self, content: &[u8]) -> Result<Digest, ContentError> {
        self.put_as(content, &Digest::sha256_of(content))
    }

    /// Stores `content` under `expected`, unless it is here already.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`] when it is not that content.
    pub fn put_as(&self, content: &[u8], expected: &Digest) -> Result<Digest, ContentError> {
        let actual = Digest::of(expected.algorithm(), content);
        if actual != *expected {
            return Err(ContentError::mismatch(expected, &actual));
        }
        let here = self.hold_if_here(expected)?.is_some();
        if here && self.holds(content, expected)? && self.publish(expected)? {
            return Ok(actual);
        }
        let mut writer = self.writer_by(expected.algorithm())?;
        io::Write::write_all(&mut writer, content)
            .map_err(ContentError::io("write", writer.path()))?;
        writer.commit(Some(expected))?;
        Ok(actual)
    }

    fn holds(&self, content: &[u8], digest: &Digest) -> Result<bool, ContentError> {
        match self.read_all(digest, content.len() as u64) {
            Ok(held) => Ok(held.is_some_and(|held| held == content)),
            Err(ContentError::TooLarge { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The blob's size and age, if it may be read.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        Ok(self.open_with_info(digest)?.map(|(_, info)| info))
    }

    /// Opens the blob's file for reading, if it is here and whole.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub fn open(&self, digest: &Digest) -> Result<Option<File>, ContentError> {
        Ok(self.open_with_info(digest)?.map(|(file, _)| file))
    }

    /// The blob's bytes, at most `limit_bytes` of them.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] when it has more.
    pub fn read_all(
        &self,
        digest: &Digest,
        limit_bytes: u64,
    ) -> Result<Option<Vec<u8>>, ContentError> {
        let Some((mut file, info)) = self.open_with_info(digest)? else {
            return Ok(None);
        };
        if info.size_bytes > limit_bytes {
            return Err(ContentError::TooLarge {
                digest: Box::new(*digest),
                size_bytes: info.size_bytes,
                limit_bytes,
            });
        }
        let mut content = Vec::with_capacity(usize::try_from(info.size_bytes).unwrap_or(0));
        file.read_to_end(&mut content)
            .map_err(ContentError::io("read", &self.blob_path(digest)))?;
        Ok(Some(content))
    }

    pub(crate) fn open_with_info(
        &self,
        digest: &Digest,
    ) -> Result<Option<(File, BlobInfo)>, ContentError> {
        let row = self
            .inner
            .db
            .read("find a blob", |connection| find(connection, digest))?;
        let Some(row) = row else {
            return Ok(None);
        };
        let info = BlobInfo {
            digest: *digest,
            size_bytes: row.size_bytes,
            created: from_ms(row.created_ms),
        };
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.remove_damaged(digest, None)?;
                return Ok(None);
            }
            Err(error) => return Err(ContentError::io("open", &path)(error)),
        };
        let stamp = stamp_of(&file, &path)?;
        let trusted = row
            .boot
            .as_ref()
            .is_none_or(|boot| *boot == self.inner.boot);
        if stamp == row.stamp && trusted {
            return Ok(Some((file, info)));
        }
        let sound = self.verify_file(&file, digest, &stamp)? == Soundness::Sound;
        rewind(&file, &path)?;
        Ok(sound.then_some((file, info)))
    }

    /// Hashes the blob again, and removes it if it is damaged; `None` if it is not here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn verify(&self, digest: &Digest) -> Result<Option<Soundness>, ContentError> {
        let row = self
            .inner
            .db
            .read("find a blob", |connection| find(connection, digest))?;
        if row.is_none() {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let stamp = stamp_of(&file, &path)?;
                self.verify_file(&file, digest, &stamp).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.remove_damaged(digest, None)?;
                Ok(Some(Soundness::Removed))
            }
            Err(error) => Err(ContentError::io("open", &path)(error)),
        }
    }

    fn verify_file(
        &self,
        file: &File,
        digest: &Digest,
        stamp: &str,
    ) -> Result<Soundness, ContentError> {
        let path = self.blob_path(digest);
        let actual =
            hash_file(file, digest.algorithm()).map_err(ContentError::io("read", &path))?;
        if actual == *digest {
            self.remember_sound(digest, stamp)?;
            return Ok(Soundness::Sound);
        }
        tracing::warn!(%digest, %actual, "removing a damaged blob");
        self.remove_damaged(digest, Some(stamp))?;
        Ok(Soundness::Removed)
    }

    /// The stamp is only taken over if the file is still the one that was hashed.
    fn remember_sound(&self, digest: &Digest, stamp: &str) -> Result<(), ContentError> {
        let path = self.blob_path(digest);
        self.inner
            .db
            .write("note a verified blob", Durability::Cache, |transaction| {
                if stamp_at(&path)?.as_deref() == Some(stamp) {
                    transaction.execute(
                        "UPDATE blobs SET stamp = ?2, boot = iif(boot IS NULL, NULL, ?3) WHERE digest = ?1",
                        params![digest.to_string(), stamp, self.inner.boot],
                    )?;
                }
                Ok(())
            })
    }

    /// Removes row and file if the file is (still) the one with `stamp`; `None` for no file.
    /// What refers to the blob stays: when the content is written again, all is well again.
    fn remove_damaged(&self, digest: &Digest, stamp: Option<&str>) -> Result<(), ContentError> {
        let path = self.blob_path(digest);
        let db = &self.inner.db;
        db.write(
            "drop a damaged blob",
            Durability::Published,
            |transaction| {
                if stamp_at(&path)?.as_deref() == stamp {
                    hide(transaction, digest)?;
                }
                Ok(())
            },
        )?;
        self.sweep_file(digest)?;
        Ok(())
    }

    /// Makes a blob durable that was written with [`Durability::Cache`]; whether it is here.
    ///
    /// With a store of that durability nothing is to be done.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn publish(&self, digest: &Digest) -> Result<bool, ContentError> {
        let Some((file, info)) = self.open_with_info(digest)? else {
            return Ok(false);
        };
        let db = &self.inner.db;
        let row = db.read("find a blob", |connection| find(connection, digest))?;
        let published = row.is_some_and(|row| row.boot.is_none());
        if published || self.durability == Durability::Cache {
            return Ok(true);
        }
        let path = self.blob_path(digest);
        let disk = &self.inner.disk;
        disk.sync(&file).map_err(ContentError::io("sync", &path))?;
        self.sync_shard(digest)?;
        let stamp = stamp_of(&file, &path)?;
        db.write("publish a blob", Durability::Published, |transaction| {
            let same = stamp_at(&path)?.as_deref() == Some(stamp.as_str());
            if same {
                record(transaction, digest, info.size_bytes, &stamp, None)?;
            }
            Ok(same)
        })
    }

    /// Removes the blob, whoever needs it; whether it was here.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<bool, ContentError> {
        let db = &self.inner.db;
        let known = db.write("remove a blob", Durability::Published, |transaction| {
            forget(transaction, digest)
        })?;
        self.sweep_file(digest)?;
        Ok(known)
    }

    /// Removes a file that has no row; whether there was one.
    ///
    /// Rows go first and files after, so that a crash in between leaves a file that nobody
    /// sees, never a row without its file. A commit claims the name before its file appears;
    /// here that is asked in a write transaction, so it is never the new file that goes.
    pub(crate) fn sweep_file(&self, digest: &Digest) -> Result<bool, ContentError> {
        let path = self.blob_path(digest);
        let aside = self.tmp_path();
        let db = &self.inner.db;
        let moved = db.write("drop a blob's file", Durability::Cache, |transaction| {
            Ok(!leases::is_claimed(transaction, digest)? && self.move_aside(&path, &aside)?)
        })?;
        if moved && let Err(error) = self.inner.disk.remove(&aside) {
            // It is in this process's own directory, which is swept when the process is gone.
            tracing::warn!(path = %aside.display(), %error, "cannot remove a deleted blob yet");
        }
        Ok(moved)
    }

    fn move_aside(&self, path: &Path, aside: &Path) -> Result<bool, ContentError> {
        match self.inner.disk.rename(path, aside) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ContentError::io("move", path)(error)),
        }
    }

    /// Gives a complete, verified file its name and its row. See the crate's invariants.
    pub(crate) fn place(
        &self,
        file: &File,
        from: &Path,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<BlobInfo, ContentError> {
        let holder = uuid::Uuid::new_v4().simple().to_string();
        let process = &self.inner.process.token;
        let db = &self.inner.db;
        db.write("claim a blob's name", Durability::Cache, |transaction| {
            leases::claim(transaction, process, &holder, digest)
        })?;
        let placed = self.place_claimed(file, from, digest, size_bytes);
        let released = db.write("release a blob's name", Durability::Cache, |transaction| {
            leases::release_claim(transaction, process, &holder, digest)
        });
        let info = placed?;
        released?;
        Ok(info)
    }

    fn place_claimed(
        &self,
        file: &File,
        from: &Path,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<BlobInfo, ContentError> {
        if self.durability == Durability::Cache
            && let Some(info) = self.hold_if_here(digest)?
        {
            // A synced copy must not give way to one that is not.
            let disk = &self.inner.disk;
            disk.remove(from)
                .map_err(ContentError::io("remove", from))?;
            return Ok(info);
        }
        self.name_file(file, from, digest)?;
        self.record_placed(digest, size_bytes)
    }

    fn name_file(&self, file: &File, from: &Path, digest: &Digest) -> Result<(), ContentError> {
        let disk = &self.inner.disk;
        if self.durability != Durability::Cache {
            disk.sync(file).map_err(ContentError::io("sync", from))?;
        }
        let path = self.blob_path(digest);
        disk.rename(from, &path)
            .map_err(ContentError::io("rename", from))?;
        if self.durability != Durability::Cache {
            self.sync_shard(digest)?;
        }
        Ok(())
    }

    /// The lease comes first: a collection either sees it, or took the blob before we look.
    fn hold_if_here(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        let process = &self.inner.process.token;
        let db = &self.inner.db;
        db.write("lease a blob", Durability::Cache, |transaction| {
            leases::hold_new_blob(transaction, process, digest)
        })?;
        self.info(digest)
    }

    fn record_placed(&self, digest: &Digest, size_bytes: u64) -> Result<BlobInfo, ContentError> {
        let path = self.blob_path(digest);
        let boot = match self.durability {
            Durability::Published | Durability::PublishedByNext => None,
            Durability::Cache => Some(self.inner.boot.as_str()),
        };
        let process = &self.inner.process.token;
        let db = &self.inner.db;
        let created_ms = db.write("record a blob", self.durability, |transaction| {
            // Another commit of the same content may have replaced the file: its stamp counts.
            let stamp = stamp_at(&path)?.ok_or_else(|| ContentError::Io {
                doing: "find",
                path: path.clone(),
                source: io::ErrorKind::NotFound.into(),
            })?;
            leases::hold_new_blob(transaction, process, digest)?;
            record(transaction, digest, size_bytes, &stamp, boot)
        })?;
        Ok(BlobInfo {
            digest: *digest,
            size_bytes,
            created: from_ms(created_ms),
        })
    }

    fn sync_shard(&self, digest: &Digest) -> Result<(), ContentError> {
        let shard = self.shard(digest);
        self.inner
            .disk
            .sync_dir(&shard)
            .map_err(ContentError::io("sync", &shard))
    }
}

fn find(connection: &Connection, digest: &Digest) -> Result<Option<Row>, ContentError> {
    let mut statement = connection
        .prepare_cached("SELECT size, created_at, stamp, boot FROM blobs WHERE digest = ?1")?;
    let row = statement.query_row([digest.to_string()], |row| {
        Ok(Row {
            size_bytes: from_sql(row.get(0)?),
            created_ms: row.get(1)?,
            stamp: row.get(2)?,
            boot: row.get(3)?,
        })
    });
    Ok(row.optional()?)
}

/// Writes the row; returns when the blob was first stored.
fn record(
    transaction: &Transaction<'_>,
    digest: &Digest,
    size_bytes: u64,
    stamp: &str,
    boot: Option<&str>,
) -> Result<i64, ContentError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO blobs (digest, size, created_at, stamp, boot) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (digest) DO UPDATE SET
            size = excluded.size, stamp = excluded.stamp, boot = iif(boot IS NULL, NULL, excluded.boot)
         RETURNING created_at",
    )?;
    let values = params![
        digest.to_string(),
        to_sql(size_bytes),
        now_ms(),
        stamp,
        boot
    ];
    Ok(statement.query_row(values, |row| row.get(0))?)
}

/// Drops a blob's row with all that was only said of it; whether it was here.
pub(crate) fn forget(transaction: &Transaction<'_>, digest: &Digest) -> Result<bool, ContentError> {
    let text = digest.to_string();
    for table in [
        "DELETE FROM edges WHERE parent = ?1",
        "DELETE FROM layer_blobs WHERE blob = ?1",
        "DELETE FROM blob_links WHERE digest = ?1",
    ] {
        transaction.prepare_cached(table)?.execute([&text])?;
    }
    hide(transaction, digest)
}

/// Drops a blob's row alone; whether it was here.
fn hide(transaction: &Transaction<'_>, digest: &Digest) -> Result<bool, ContentError> {
    let mut statement = transaction.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?;
    Ok(statement.execute([digest.to_string()])? > 0)
}

fn stamp_of(file: &File, path: &Path) -> Result<String, ContentError> {
    let metadata = file.metadata().map_err(ContentError::io("stat", path))?;
    Ok(stamp(&metadata))
}

fn stamp_at(path: &Path) -> Result<Option<String>, ContentError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(stamp(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ContentError::io("stat", path)(error)),
    }
}

/// What changes whenever a file's content does, short of tampering and disk rot.
fn stamp(metadata: &fs::Metadata) -> String {
    format!(
        "{}:{}:{}.{}:{}.{}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// Hashes from the file's start, wherever it stands.
pub(crate) fn hash_file(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    use std::os::unix::fs::FileExt as _;
    let mut digester = Digester::new(algorithm);
    let mut buffer = vec![0; HASH_CHUNK_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(digester.finish());
        }
        digester.update(&buffer[..count]);
        at += count as u64;
    }
}

fn rewind(mut file: &File, path: &Path) -> Result<(), ContentError> {
    io::Seek::rewind(&mut file).map_err(ContentError::io("seek", path))
}
