//! The registry's repositories: which manifests, tags and blobs each has.
//!
//! A blob is visible in a repository only through its link there. A manifest is a blob that
//! has a row here; it keeps what it needs. A link to a blob that no manifest needs keeps it
//! only for a while after it was last touched (a push in progress).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore_oci::{Algorithm, Digest};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::database::{Database, Durability, from_sql, parse, to_sql};
use crate::edges::{self, Edge};
use crate::time::{duration_ms, from_ms, now_ms};
use crate::{ContentError, UploadId};

/// A link is not touched again sooner, so that a `HEAD` seldom writes.
const TOUCH_INTERVAL: Duration = Duration::from_secs(300);

/// The repositories of a state root.
#[derive(Clone, Debug)]
pub struct Registry {
    db: Arc<Database>,
}

/// A manifest as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// The type it was pushed with.
    pub media_type: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A manifest to be stored; its bytes are a blob already.
#[derive(Clone, Debug)]
pub struct NewManifest<'a> {
    /// Its digest.
    pub digest: Digest,
    /// The type it was pushed with.
    pub media_type: &'a str,
    /// Its size.
    pub size_bytes: u64,
    /// What it refers to.
    pub subject: Option<Digest>,
    /// Its type as an artifact.
    pub artifact_type: Option<&'a str>,
    /// Its annotations, a JSON object.
    pub annotations: Option<&'a str>,
    /// Blobs that the repository must have.
    pub blobs: &'a [Digest],
    /// Manifests (or, in an index, blobs) that the repository must have.
    pub manifests: &'a [Digest],
    /// Blobs that are kept if they are here, but need not be (non-distributable layers).
    pub optional_blobs: &'a [Digest],
}

/// What became of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutManifest {
    /// It is stored and tagged.
    Stored,
    /// The repository lacks these; nothing was stored.
    Missing(Vec<Digest>),
}

/// What a manifest is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestName<'a> {
    /// By tag.
    Tag(&'a str),
    /// By digest.
    Digest(&'a Digest),
}

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// The type it was pushed with.
    pub media_type: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its type as an artifact.
    pub artifact_type: Option<String>,
    /// Its annotations, a JSON object.
    pub annotations: Option<String>,
}

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The repository that it is for.
    pub repository: String,
    /// What it is expected to be named by.
    pub algorithm: Algorithm,
    /// When something of it last arrived.
    pub touched: SystemTime,
}

impl Registry {
    pub(crate) fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    /// Whether the repository exists: something was pushed to it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_repository(&self, repository: &str) -> Result<bool, ContentError> {
        self.db.read("find a repository", |connection| {
            Ok(repository_id(connection, repository)?.is_some())
        })
    }

    /// The names of repositories that have a manifest, in order, after `last`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn repositories(
        &self,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, ContentError> {
        self.db.read("list repositories", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name FROM repositories WHERE name > ?1
                 AND EXISTS (SELECT 1 FROM manifests WHERE repository = repositories.id)
                 ORDER BY name LIMIT ?2",
            )?;
            let arguments = params![last.unwrap_or(""), limit_sql(limit)];
            let names = statement.query_map(arguments, |row| row.get(0))?;
            Ok(names.collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// The repository's tags, in order, after `last`; `None` if there is no such repository.
    ///
    /// # Errors
    /// When the database fails.
    pub fn tags(
        &self,
        repository: &str,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Option<Vec<String>>, ContentError> {
        self.db.read("list tags", |connection| {
            let Some(id) = repository_id(connection, repository)? else {
                return Ok(None);
            };
            let mut statement = connection.prepare_cached(
                "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3",
            )?;
            let arguments = params![id, last.unwrap_or(""), limit_sql(limit)];
            let tags = statement.query_map(arguments, |row| row.get(0))?;
            Ok(Some(tags.collect::<Result<Vec<_>, _>>()?))
        })
    }

    /// Links a stored blob into the repository; `false` if the blob is not stored.
    ///
    /// # Errors
    /// When the database fails.
    pub fn link_blob(&self, repository: &str, digest: &Digest) -> Result<bool, ContentError> {
        self.db
            .write("link a blob", Durability::Published, |transaction| {
                link(transaction, repository, digest)
            })
    }

    /// Links an upload's finished blob and forgets the upload, at once.
    ///
    /// # Errors
    /// When the database fails.
    pub fn finish_upload(
        &self,
        repository: &str,
        id: &UploadId,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        self.db
            .write("finish an upload", Durability::Published, |transaction| {
                forget_upload(transaction, id)?;
                link(transaction, repository, digest)
            })
    }

    /// Links a blob of another repository, or of any if `from` is `None`; whether one has it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn mount_blob(
        &self,
        repository: &str,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<bool, ContentError> {
        self.db
            .write("mount a blob", Durability::Published, |transaction| {
                let held = match from {
                    Some(from) => is_linked(transaction, from, digest)?,
                    None => is_linked_anywhere(transaction, digest)?,
                };
                Ok(held && link(transaction, repository, digest)?)
            })
    }

    /// The repositories that have the blob.
    ///
    /// # Errors
    /// When the database fails.
    pub fn holders(&self, digest: &Digest) -> Result<Vec<String>, ContentError> {
        self.db.read("find a blob's repositories", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name FROM repositories JOIN blob_links ON repository = id
                 WHERE digest = ?1 ORDER BY name",
            )?;
            let names = statement.query_map([digest.to_string()], |row| row.get(0))?;
            Ok(names.collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, ContentError> {
        self.db.read("find a blob's link", |connection| {
            is_linked(connection, repository, digest)
        })
    }

    /// As [`Registry::has_blob`], and lets the link keep the blob for a while: a client that is
    /// told that a blob is here will not push it before its manifest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn touch_blob(&self, repository: &str, digest: &Digest) -> Result<bool, ContentError> {
        let stale = now_ms().saturating_sub(duration_ms(TOUCH_INTERVAL));
        let touched = self.db.read("find a blob's link", |connection| {
            touched_at(connection, repository, digest)
        })?;
        match touched {
            None => Ok(false),
            Some(at) if at > stale => Ok(true),
            Some(_) => self
                .db
                .write("touch a blob's link", Durability::Cache, |transaction| {
                    let held = is_linked(transaction, repository, digest)?;
                    Ok(held && link(transaction, repository, digest)?)
                }),
        }
    }

    /// Removes the repository's link to the blob; whether there was one. Other repositories
    /// keep theirs.
    ///
    /// # Errors
    /// When the database fails.
    pub fn unlink_blob(&self, repository: &str, digest: &Digest) -> Result<bool, ContentError> {
        self.db
            .write("unlink a blob", Durability::Published, |transaction| {
                let removed = transaction.execute(
                    "DELETE FROM blob_links WHERE digest = ?2
                     AND repository = (SELECT id FROM repositories WHERE name = ?1)",
                    [repository, &digest.to_string()],
                )?;
                Ok(removed > 0)
            })
    }

    /// Stores a manifest and points the tags at it, if the repository has all that it needs.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_manifest(
        &self,
        repository: &str,
        manifest: &NewManifest<'_>,
        tags: &[&str],
    ) -> Result<PutManifest, ContentError> {
        self.db
            .write("store a manifest", Durability::Published, |transaction| {
                let missing = missing(transaction, repository, manifest)?;
                if !missing.is_empty() {
                    return Ok(PutManifest::Missing(missing));
                }
                let id = make_repository(transaction, repository)?;
                insert_manifest(transaction, id, manifest)?;
                for tag in tags {
                    set_tag(transaction, id, tag, &manifest.digest)?;
                }
                Ok(PutManifest::Stored)
            })
    }

    /// Finds a manifest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<Option<StoredManifest>, ContentError> {
        self.db.read("find a manifest", |connection| {
            let (sql, name) = match name {
                ManifestName::Digest(digest) => (
                    "SELECT m.digest, m.media_type, m.size FROM manifests m
                     JOIN repositories r ON r.id = m.repository
                     WHERE r.name = ?1 AND m.digest = ?2",
                    digest.to_string(),
                ),
                ManifestName::Tag(tag) => (
                    "SELECT m.digest, m.media_type, m.size FROM tags t
                     JOIN repositories r ON r.id = t.repository
                     JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
                     WHERE r.name = ?1 AND t.tag = ?2",
                    tag.to_owned(),
                ),
            };
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([repository, &name])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            Ok(Some(StoredManifest {
                digest: parse("digest", &row.get::<_, String>(0)?)?,
                media_type: row.get(1)?,
                size_bytes: from_sql(row.get(2)?),
            }))
        })
    }

    /// Removes a tag, and only that; whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_tag(&self, repository: &str, tag: &str) -> Result<bool, ContentError> {
        self.db
            .write("remove a tag", Durability::Published, |transaction| {
                let removed = transaction.execute(
                    "DELETE FROM tags WHERE tag = ?2
                     AND repository = (SELECT id FROM repositories WHERE name = ?1)",
                    [repository, tag],
                )?;
                Ok(removed > 0)
            })
    }

    /// Removes a manifest and all tags on it; whether it was there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_manifest(&self, repository: &str, digest: &Digest) -> Result<bool, ContentError> {
        self.db
            .write("remove a manifest", Durability::Published, |transaction| {
                let Some(id) = repository_id(transaction, repository)? else {
                    return Ok(false);
                };
                let digest = digest.to_string();
                transaction.execute(
                    "DELETE FROM tags WHERE repository = ?1 AND digest = ?2",
                    params![id, digest],
                )?;
                let removed = transaction.execute(
                    "DELETE FROM manifests WHERE repository = ?1 AND digest = ?2",
                    params![id, digest],
                )?;
                Ok(removed > 0)
            })
    }

    /// The manifests that refer to `subject`, by digest, after `last`, of one type or any.
    ///
    /// # Errors
    /// When the database fails.
    pub fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Referrer>, ContentError> {
        self.db.read("list referrers", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations
                 FROM manifests m JOIN repositories r ON r.id = m.repository
                 WHERE r.name = ?1 AND m.subject = ?2 AND m.digest > ?3
                   AND (?4 IS NULL OR m.artifact_type = ?4)
                 ORDER BY m.digest LIMIT ?5",
            )?;
            let mut rows = statement.query(params![
                repository,
                subject.to_string(),
                last.unwrap_or(""),
                artifact_type,
                limit_sql(limit)
            ])?;
            let mut referrers = Vec::new();
            while let Some(row) = rows.next()? {
                referrers.push(Referrer {
                    digest: parse("digest", &row.get::<_, String>(0)?)?,
                    media_type: row.get(1)?,
                    size_bytes: from_sql(row.get(2)?),
                    artifact_type: row.get(3)?,
                    annotations: row.get(4)?,
                });
            }
            Ok(referrers)
        })
    }

    /// Notes an upload that starts.
    ///
    /// # Errors
    /// When the id is taken, or the database fails.
    pub fn start_upload(
        &self,
        repository: &str,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<(), ContentError> {
        self.db
            .write("start an upload", Durability::Cache, |transaction| {
                let mut statement = transaction.prepare_cached(
                    "INSERT INTO uploads (id, repository, algorithm, created_at, touched_at)
                     VALUES (?1, ?2, ?3, ?4, ?4)",
                )?;
                let arguments = params![id.as_str(), repository, algorithm.as_str(), now_ms()];
                statement.execute(arguments)?;
                Ok(())
            })
    }

    /// Finds an upload.
    ///
    /// # Errors
    /// When the database fails.
    pub fn upload(&self, id: &UploadId) -> Result<Option<Upload>, ContentError> {
        self.db.read("find an upload", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT repository, algorithm, touched_at FROM uploads WHERE id = ?1",
            )?;
            let mut rows = statement.query([id.as_str()])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            Ok(Some(Upload {
                repository: row.get(0)?,
                algorithm: parse("digest algorithm", &row.get::<_, String>(1)?)?,
                touched: from_ms(row.get(2)?),
            }))
        })
    }

    /// Notes that something of the upload arrived.
    ///
    /// # Errors
    /// When the database fails.
    pub fn touch_upload(&self, id: &UploadId) -> Result<(), ContentError> {
        self.db
            .write("touch an upload", Durability::Cache, |transaction| {
                transaction.execute(
                    "UPDATE uploads SET touched_at = ?2 WHERE id = ?1",
                    params![id.as_str(), now_ms()],
                )?;
                Ok(())
            })
    }

    /// Forgets an upload; whether it was known. Its bytes are the content store's to drop.
    ///
    /// # Errors
    /// When the database fails.
    pub fn cancel_upload(&self, id: &UploadId) -> Result<bool, ContentError> {
        self.db
            .write("cancel an upload", Durability::Cache, |transaction| {
                forget_upload(transaction, id)
            })
    }
}

fn limit_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn repository_id(connection: &Connection, name: &str) -> Result<Option<i64>, ContentError> {
    let mut statement = connection.prepare_cached("SELECT id FROM repositories WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

fn make_repository(transaction: &Transaction<'_>, name: &str) -> Result<i64, ContentError> {
    if let Some(id) = repository_id(transaction, name)? {
        return Ok(id);
    }
    transaction.execute(
        "INSERT INTO repositories (name, created_at) VALUES (?1, ?2)",
        params![name, now_ms()],
    )?;
    Ok(transaction.last_insert_rowid())
}

/// Only a blob that is stored can be linked. A collection removes links in the transaction
/// that removes the blob; a blob that is found damaged keeps them, and is not visible
/// through them until its content is pushed again.
fn link(
    transaction: &Transaction<'_>,
    repository: &str,
    digest: &Digest,
) -> Result<bool, ContentError> {
    let digest = digest.to_string();
    if !is_stored(transaction, &digest)? {
        return Ok(false);
    }
    let id = make_repository(transaction, repository)?;
    let mut statement = transaction.prepare_cached(
        "INSERT INTO blob_links (repository, digest, touched_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET touched_at = excluded.touched_at",
    )?;
    statement.execute(params![id, digest, now_ms()])?;
    Ok(true)
}

fn is_stored(connection: &Connection, digest: &str) -> Result<bool, ContentError> {
    let mut statement =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?1)")?;
    Ok(statement.query_row([digest], |row| row.get(0))?)
}

fn touched_at(
    connection: &Connection,
    repository: &str,
    digest: &Digest,
) -> Result<Option<i64>, ContentError> {
    let mut statement = connection.prepare_cached(
        "SELECT touched_at FROM blob_links JOIN repositories ON id = repository
         WHERE name = ?1 AND digest = ?2",
    )?;
    let arguments = [repository, &digest.to_string()];
    Ok(statement
        .query_row(arguments, |row| row.get(0))
        .optional()?)
}

fn is_linked(
    connection: &Connection,
    repository: &str,
    digest: &Digest,
) -> Result<bool, ContentError> {
    Ok(touched_at(connection, repository, digest)?.is_some())
}

fn is_linked_anywhere(connection: &Connection, digest: &Digest) -> Result<bool, ContentError> {
    let mut statement =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM blob_links WHERE digest = ?1)")?;
    Ok(statement.query_row([digest.to_string()], |row| row.get(0))?)
}

fn forget_upload(transaction: &Transaction<'_>, id: &UploadId) -> Result<bool, ContentError> {
    let mut statement = transaction.prepare_cached("DELETE FROM uploads WHERE id = ?1")?;
    Ok(statement.execute([id.as_str()])? > 0)
}

/// What the manifest needs and the repository has not, and the manifest's own bytes if a
/// collection took them meanwhile.
fn missing(
    connection: &Connection,
    repository: &str,
    manifest: &NewManifest<'_>,
) -> Result<Vec<Digest>, ContentError> {
    let mut missing = Vec::new();
    if !is_stored(connection, &manifest.digest.to_string())? {
        missing.push(manifest.digest);
    }
    for digest in manifest.blobs {
        let held = is_linked(connection, repository, digest)?
            && is_stored(connection, &digest.to_string())?;
        if !held && !missing.contains(digest) {
            missing.push(*digest);
        }
    }
    // Some indexes list plain blobs (build caches do); those are linked, not manifests.
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM manifests JOIN repositories ON id = repository
            WHERE name = ?1 AND digest = ?2)
         OR EXISTS (SELECT 1 FROM blob_links JOIN repositories ON id = repository
            WHERE name = ?1 AND digest = ?2)",
    )?;
    for digest in manifest.manifests {
        let held: bool =
            statement.query_row([repository, &digest.to_string()], |row| row.get(0))?;
        if !held && !missing.contains(digest) {
            missing.push(*digest);
        }
    }
    Ok(missing)
}

fn insert_manifest(
    transaction: &Transaction<'_>,
    repository: i64,
    manifest: &NewManifest<'_>,
) -> Result<(), ContentError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO manifests (repository, digest, media_type, size, subject, artifact_type,
            annotations, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT DO UPDATE SET media_type = excluded.media_type, subject = excluded.subject,
            artifact_type = excluded.artifact_type, annotations = excluded.annotations",
    )?;
    statement.execute(params![
        repository,
        manifest.digest.to_string(),
        manifest.media_type,
        to_sql(manifest.size_bytes),
        manifest.subject.map(|subject| subject.to_string()),
        manifest.artifact_type,
        manifest.annotations,
        now_ms()
    ])?;
    let children = [manifest.blobs, manifest.manifests, manifest.optional_blobs];
    let edges: Vec<Edge> = children
        .into_iter()
        .flatten()
        .map(|child| Edge {
            parent: manifest.digest,
            child: *child,
        })
        .collect();
    edges::insert(transaction, &edges)
}

fn set_tag(
    transaction: &Transaction<'_>,
    repository: i64,
    tag: &str,
    digest: &Digest,
) -> Result<(), ContentError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO tags (repository, tag, digest, updated_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at",
    )?;
    statement.execute(params![repository, tag, digest.to_string(), now_ms()])?;
    Ok(())
}
