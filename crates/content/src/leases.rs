//! What running work needs, so that a collection in another process leaves it alone.
//!
//! A lease names a blob or a layer, belongs to a holder within a process, and ends when it
//! is dropped, when it expires, or when the process is dead, whichever comes first. A lease
//! does not need its target to exist yet: take it first, then look whether the target is here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore_oci::{Digest, LayerId};
use rusqlite::{Connection, Transaction, params};

use crate::ContentError;
use crate::database::{Database, Durability, parse};
use crate::process::{self, ProcessToken};
use crate::time::{duration_ms, from_ms, now_ms};

/// How long a blob that was just stored is kept for whoever stored it to refer to it.
const NEW_BLOB_TTL: Duration = Duration::from_secs(3600);
const NEW_BLOB_HOLDER: &str = "new";

const KIND_BLOB: &str = "blob";
pub(crate) const KIND_LAYER: &str = "layer";
/// A blob whose file is about to get its name, and has no row yet.
const KIND_PLACING: &str = "placing";

/// The leases of a state root, on behalf of this process.
#[derive(Clone, Debug)]
pub struct Leases {
    db: Arc<Database>,
    process: ProcessToken,
}

/// A lease as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Whose it is.
    pub process: ProcessToken,
    /// What the process calls it.
    pub holder: String,
    /// `blob` or `layer`.
    pub kind: String,
    /// The digest or layer id.
    pub target: String,
    /// When it ends by itself.
    pub expires: SystemTime,
}

impl Leases {
    pub(crate) fn new(db: Arc<Database>, process: ProcessToken) -> Self {
        Self { db, process }
    }

    /// Starts an empty lease. `purpose` is for people (`build 01J…`).
    pub fn start(&self, purpose: &str, ttl: Duration) -> Lease {
        let unique = uuid::Uuid::new_v4().simple();
        Lease {
            db: Arc::clone(&self.db),
            process: self.process.clone(),
            holder: format!("{purpose}#{unique}"),
            ttl,
        }
    }

    /// Lets go of blobs that this process stored and that are held because they are new: for
    /// when nothing here is about to refer to one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_new(&self) -> Result<(), ContentError> {
        self.db
            .write("forget what is new", Durability::Cache, |transaction| {
                transaction.execute(
                    "DELETE FROM leases WHERE process = ?1 AND holder = ?2 AND kind = ?3",
                    params![self.process.as_str(), NEW_BLOB_HOLDER, KIND_BLOB],
                )?;
                Ok(())
            })
    }

    /// All leases that have not expired.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<LeaseInfo>, ContentError> {
        self.db.read("list leases", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT process, holder, kind, target, expires_at FROM leases
                 WHERE expires_at > ?1 ORDER BY process, holder, kind, target",
            )?;
            let mut rows = statement.query([now_ms()])?;
            let mut leases = Vec::new();
            while let Some(row) = rows.next()? {
                leases.push(LeaseInfo {
                    process: parse("process token", &row.get::<_, String>(0)?)?,
                    holder: row.get(1)?,
                    kind: row.get(2)?,
                    target: row.get(3)?,
                    expires: from_ms(row.get(4)?),
                });
            }
            Ok(leases)
        })
    }
}

/// Keeps what was added to it until it is dropped.
#[derive(Debug)]
pub struct Lease {
    db: Arc<Database>,
    process: ProcessToken,
    holder: String,
    ttl: Duration,
}

impl Lease {
    /// Keeps the blobs, and what they are manifests of.
    ///
    /// # Errors
    /// When the database fails.
    pub fn add_blobs<'a>(
        &self,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<(), ContentError> {
        self.add(KIND_BLOB, digests.into_iter().map(Digest::to_string))
    }

    /// Keeps the layers and their blobs.
    ///
    /// # Errors
    /// When the database fails.
    pub fn add_layers<'a>(
        &self,
        layers: impl IntoIterator<Item = &'a LayerId>,
    ) -> Result<(), ContentError> {
        self.add(KIND_LAYER, layers.into_iter().map(LayerId::to_string))
    }

    fn add(&self, kind: &str, targets: impl Iterator<Item = String>) -> Result<(), ContentError> {
        let until = now_ms().saturating_add(duration_ms(self.ttl));
        self.db
            .write("take a lease", Durability::Cache, |transaction| {
                for target in targets {
                    hold(
                        transaction,
                        &self.process,
                        &self.holder,
                        kind,
                        &target,
                        until,
                    )?;
                }
                Ok(())
            })
    }

    /// Lets everything in it last its full time again, from now.
    ///
    /// # Errors
    /// When the database fails.
    pub fn renew(&self) -> Result<(), ContentError> {
        let until = now_ms().saturating_add(duration_ms(self.ttl));
        self.db
            .write("renew a lease", Durability::Cache, |transaction| {
                transaction.execute(
                    "UPDATE leases SET expires_at = ?3 WHERE process = ?1 AND holder = ?2",
                    params![self.process.as_str(), self.holder, until],
                )?;
                Ok(())
            })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let dropped = self
            .db
            .write("drop a lease", Durability::Cache, |transaction| {
                transaction.execute(
                    "DELETE FROM leases WHERE process = ?1 AND holder = ?2",
                    params![self.process.as_str(), self.holder],
                )?;
                Ok(())
            });
        if let Err(error) = dropped {
            tracing::warn!(holder = self.holder, %error, "a lease stays until it expires");
        }
    }
}

fn hold(
    transaction: &Transaction<'_>,
    process: &ProcessToken,
    holder: &str,
    kind: &str,
    target: &str,
    until_ms: i64,
) -> Result<(), ContentError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO leases (process, holder, kind, target, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
    )?;
    statement.execute(params![process.as_str(), holder, kind, target, until_ms])?;
    Ok(())
}

fn new_blob_until() -> i64 {
    now_ms().saturating_add(duration_ms(NEW_BLOB_TTL))
}

/// Keeps a blob for whoever just stored it, or would have if it were not here already.
pub(crate) fn hold_new_blob(
    transaction: &Transaction<'_>,
    process: &ProcessToken,
    digest: &Digest,
) -> Result<(), ContentError> {
    let (target, until) = (digest.to_string(), new_blob_until());
    hold(
        transaction,
        process,
        NEW_BLOB_HOLDER,
        KIND_BLOB,
        &target,
        until,
    )
}

/// Claims a blob's name for a file that is about to get it. `holder` tells this commit from
/// others of the same content.
pub(crate) fn claim(
    transaction: &Transaction<'_>,
    process: &ProcessToken,
    holder: &str,
    digest: &Digest,
) -> Result<(), ContentError> {
    let (target, until) = (digest.to_string(), new_blob_until());
    hold(transaction, process, holder, KIND_PLACING, &target, until)
}

/// Ends a claim.
pub(crate) fn release_claim(
    transaction: &Transaction<'_>,
    process: &ProcessToken,
    holder: &str,
    digest: &Digest,
) -> Result<(), ContentError> {
    let mut statement = transaction.prepare_cached(
        "DELETE FROM leases WHERE process = ?1 AND holder = ?2 AND kind = ?3 AND target = ?4",
    )?;
    let target = digest.to_string();
    statement.execute(params![process.as_str(), holder, KIND_PLACING, target])?;
    Ok(())
}

/// Whether a file of this name is, or is about to be, a blob's.
pub(crate) fn is_claimed(connection: &Connection, digest: &Digest) -> Result<bool, ContentError> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?1)
         OR EXISTS (SELECT 1 FROM leases WHERE kind = ?2 AND target = ?1 AND expires_at > ?3)",
    )?;
    let arguments = params![digest.to_string(), KIND_PLACING, now_ms()];
    Ok(statement.query_row(arguments, |row| row.get(0))?)
}

/// Drops the leases that expired or whose process is dead.
pub(crate) fn sweep(db: &Database, tmp: &Path) -> Result<(), ContentError> {
    let holders = db.read("list lease holders", |connection| {
        let mut statement = connection.prepare_cached("SELECT DISTINCT process FROM leases")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(names.collect::<Result<Vec<_>, _>>()?)
    })?;
    let mut dead = Vec::new();
    for name in holders {
        if !process::is_alive(tmp, &parse("process token", &name)?)? {
            dead.push(name);
        }
    }
    db.write("sweep leases", Durability::Cache, |transaction| {
        for process in &dead {
            transaction.execute("DELETE FROM leases WHERE process = ?1", [process])?;
        }
        transaction.execute("DELETE FROM leases WHERE expires_at <= ?1", [now_ms()])?;
        Ok(())
    })
}
