//! Files that no row speaks for: uploads that were given up, and what crashes left.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use longshore_oci::{Algorithm, Digest};
use rusqlite::Transaction;

use super::Collection;
use crate::database::Durability;
use crate::process::absent_is_fine;
use crate::time::to_ms;
use crate::{ContentError, UploadId, leases};

impl Collection<'_> {
    /// An upload that someone holds open has a lock on its file, and stays.
    pub(super) fn drop_uploads(&mut self) -> Result<(), ContentError> {
        let before = self.window.before(self.options.uploads_idle);
        for path in files(self.root.blobs().uploads_dir())? {
            if is_older(&path, before)? && remove_if_free(&path)? {
                self.report.uploads += 1;
            }
        }
        let db = self.root.db();
        let rows = db.write("drop idle uploads", Durability::Cache, |transaction| {
            self.drop_upload_rows(transaction, before)
        })?;
        self.report.uploads = self.report.uploads.max(rows);
        Ok(())
    }

    /// An upload whose file is there still is one, whatever its row's age.
    fn drop_upload_rows(
        &self,
        transaction: &Transaction<'_>,
        before_ms: i64,
    ) -> Result<usize, ContentError> {
        let mut statement =
            transaction.prepare_cached("SELECT id FROM uploads WHERE touched_at < ?1")?;
        let ids = statement.query_map([before_ms], |row| row.get::<_, String>(0))?;
        let mut dropped = 0;
        for id in ids.collect::<Result<Vec<_>, _>>()? {
            let id: UploadId = id.parse()?;
            if !self.root.blobs().upload_path(&id).exists() {
                dropped +=
                    transaction.execute("DELETE FROM uploads WHERE id = ?1", [id.as_str()])?;
            }
        }
        Ok(dropped)
    }

    /// A commit that did not get to its row leaves a file; while it is under way it has
    /// claimed the name.
    pub(super) fn drop_orphans(&mut self) -> Result<(), ContentError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.root.blobs().blobs_dir().join(algorithm.as_str());
            for shard in files(&dir)? {
                for path in files(&shard)? {
                    self.drop_if_orphan(algorithm, &path)?;
                }
            }
        }
        Ok(())
    }

    fn drop_if_orphan(&mut self, algorithm: Algorithm, path: &Path) -> Result<(), ContentError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
            tracing::warn!(path = %path.display(), "unknown file among the blobs");
            return Ok(());
        };
        let db = self.root.db();
        let claimed = db.read("look for a blob's row", |snapshot| {
            leases::is_claimed(snapshot, &digest)
        })?;
        if claimed {
            return Ok(());
        }
        let size_bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if self.root.blobs().sweep_file(&digest)? {
            self.report.removed_bytes += size_bytes;
            self.report.orphans += 1;
        }
        Ok(())
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, ContentError> {
    let entries = fs::read_dir(dir).map_err(ContentError::io("read", dir))?;
    entries
        .map(|entry| Ok(entry.map_err(ContentError::io("read", dir))?.path()))
        .collect()
}

fn is_older(path: &Path, before_ms: i64) -> Result<bool, ContentError> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => Ok(to_ms(modified) < before_ms),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ContentError::io("stat", path)(error)),
    }
}

/// Removes under the file's lock: whoever opened it meanwhile sees that it has no name.
fn remove_if_free(path: &Path) -> Result<bool, ContentError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(ContentError::io("open", path)(error)),
    };
    if file.try_lock().is_err() {
        return Ok(false);
    }
    absent_is_fine(fs::remove_file(path)).map_err(ContentError::io("remove", path))?;
    Ok(true)
}
