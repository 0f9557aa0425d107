//! Everything that keeps one blob, told in full.

use std::time::Duration;

use longshore_oci::Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{KeepReason, Window};
use crate::database::parse;
use crate::time::from_ms;
use crate::{ContentError, StateRoot};

impl StateRoot {
    /// All that keeps a blob from being collected now, were these the grace periods of
    /// [`GcOptions`](crate::GcOptions). Empty if the blob would go, or is not here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn why_kept(
        &self,
        digest: &Digest,
        grace: Duration,
        push_grace: Duration,
    ) -> Result<Vec<KeepReason>, ContentError> {
        let window = Window::new(grace, push_grace);
        self.db().read("ask why a blob is kept", |connection| {
            let mut reasons = Vec::new();
            let Some(created_ms) = created(connection, digest)? else {
                return Ok(reasons);
            };
            if created_ms >= window.cutoff_ms {
                reasons.push(KeepReason::New {
                    created: from_ms(created_ms),
                });
            }
            reasons.extend(images(connection, digest)?);
            reasons.extend(manifests(connection, digest)?);
            let parents = digests(connection, PARENTS, digest)?;
            reasons.extend(
                parents
                    .into_iter()
                    .map(|parent| KeepReason::Child { parent }),
            );
            reasons.extend(layers(connection, digest)?);
            reasons.extend(cache_records(connection, digest)?);
            reasons.extend(leases(connection, digest, &window)?);
            reasons.extend(links(connection, digest, &window)?);
            Ok(reasons)
        })
    }
}

const PARENTS: &str = "SELECT parent FROM edges WHERE child = ?1
    AND (EXISTS (SELECT 1 FROM blobs WHERE digest = parent)
      OR EXISTS (SELECT 1 FROM manifests WHERE digest = parent)
      OR EXISTS (SELECT 1 FROM images WHERE digest = parent))
    ORDER BY 1";

fn created(connection: &Connection, digest: &Digest) -> Result<Option<i64>, ContentError> {
    let mut statement =
        connection.prepare_cached("SELECT created_at FROM blobs WHERE digest = ?1")?;
    let created = statement.query_row([digest.to_string()], |row| row.get(0));
    Ok(created.optional()?)
}

/// Runs a query with the digest as `?1` and a time as `?2`.
fn each(
    connection: &Connection,
    sql: &str,
    digest: &Digest,
    since_ms: i64,
    read: impl Fn(&Row<'_>) -> Result<KeepReason, ContentError>,
) -> Result<Vec<KeepReason>, ContentError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![digest.to_string(), since_ms])?;
    let mut reasons = Vec::new();
    while let Some(row) = rows.next()? {
        reasons.push(read(row)?);
    }
    Ok(reasons)
}

fn images(connection: &Connection, digest: &Digest) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT reference FROM images WHERE digest = ?1 AND ?2 = 0 ORDER BY reference";
    each(connection, sql, digest, 0, |row| {
        Ok(KeepReason::Image(row.get(0)?))
    })
}

fn manifests(connection: &Connection, digest: &Digest) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT name FROM manifests JOIN repositories ON id = repository
        WHERE digest = ?1 AND ?2 = 0 ORDER BY name";
    each(connection, sql, digest, 0, |row| {
        Ok(KeepReason::Manifest {
            repository: row.get(0)?,
        })
    })
}

fn layers(connection: &Connection, digest: &Digest) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT layer_id FROM layers WHERE (blob = ?1 OR index_blob = ?1) AND ?2 = 0
        ORDER BY layer_id";
    each(connection, sql, digest, 0, |row| {
        let id: String = row.get(0)?;
        Ok(KeepReason::Layer(parse("layer id", &id)?))
    })
}

fn cache_records(
    connection: &Connection,
    digest: &Digest,
) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT key FROM cache_blobs WHERE digest = ?1 AND ?2 = 0 ORDER BY key";
    each(connection, sql, digest, 0, |row| {
        Ok(KeepReason::CacheRecord(row.get(0)?))
    })
}

fn leases(
    connection: &Connection,
    digest: &Digest,
    window: &Window,
) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT holder, expires_at FROM leases
        WHERE kind IN ('blob', 'placing') AND target = ?1 AND expires_at > ?2 ORDER BY holder";
    each(connection, sql, digest, window.now_ms, |row| {
        Ok(KeepReason::Lease {
            holder: row.get(0)?,
            expires: from_ms(row.get(1)?),
        })
    })
}

fn links(
    connection: &Connection,
    digest: &Digest,
    window: &Window,
) -> Result<Vec<KeepReason>, ContentError> {
    let sql = "SELECT name, touched_at FROM blob_links JOIN repositories ON id = repository
        WHERE digest = ?1 AND touched_at >= ?2 ORDER BY name";
    each(connection, sql, digest, window.push_cutoff_ms, |row| {
        Ok(KeepReason::Pushed {
            repository: row.get(0)?,
            touched: from_ms(row.get(1)?),
        })
    })
}

pub(super) fn digests(
    connection: &Connection,
    sql: &str,
    digest: &Digest,
) -> Result<Vec<Digest>, ContentError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([digest.to_string()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(parse("digest", &row.get::<_, String>(0)?)?);
    }
    Ok(found)
}
