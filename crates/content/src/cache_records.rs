//! Build results by their keys. Keys, records and fields are the callers' encodings.

use std::sync::Arc;
use std::time::SystemTime;

use longshore_oci::{Digest, LayerId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::ContentError;
use crate::database::{Database, Durability, from_sql, parse, to_sql};
use crate::time::{from_ms, now_ms, to_ms};

/// A result's key.
pub type Key = [u8; 32];

/// A result that was computed, and what it keeps from being collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// Its key.
    pub key: Key,
    /// The result.
    pub record: Vec<u8>,
    /// The identity of what was computed; equal results have equal ones.
    pub identity: Vec<u8>,
    /// What went into the key, as JSON, to explain a miss.
    pub fields: String,
    /// What to compare with when a key is missing (the same step of the same file, say).
    pub grouping: String,
    /// What it took to compute.
    pub cost_ms: u64,
    /// Layers that the result consists of.
    pub layers: Vec<LayerId>,
    /// Blobs that the result needs besides its layers'.
    pub blobs: Vec<Digest>,
    /// When it was computed.
    pub created: SystemTime,
    /// When it was last found.
    pub last_used: SystemTime,
}

/// Whose cost is asked for: of the result with this key, else of the last one in the first of
/// these groups that has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostQuestion {
    /// The result's key.
    pub key: Key,
    /// Groups of similar ones, the most similar first.
    pub groupings: Vec<String>,
}

/// The build results of a state root.
#[derive(Clone, Debug)]
pub struct CacheRecords {
    db: Arc<Database>,
}

impl CacheRecords {
    pub(crate) fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    /// Writes records, replacing those with the same keys; all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, records: &[CacheRecord]) -> Result<(), ContentError> {
        self.db
            .write("record a result", Durability::Cache, |transaction| {
                for record in records {
                    insert(transaction, record)?;
                }
                Ok(())
            })
    }

    /// The record with this key.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, key: &Key) -> Result<Option<CacheRecord>, ContentError> {
        self.db.read("find a result", |connection| {
            let sql = format!("SELECT {COLUMNS} FROM cache_records WHERE key = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_row([key.as_slice()], read).optional()?;
            found
                .map(|record| with_targets(connection, record))
                .transpose()
        })
    }

    /// The records of a group, most recently used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn in_group(&self, grouping: &str, limit: usize) -> Result<Vec<CacheRecord>, ContentError> {
        let tail = "WHERE grouping = ?1 ORDER BY last_used_at DESC LIMIT ?2";
        self.select(tail, grouping, limit)
    }

    /// What each of several results took to compute, in milliseconds, where that is known.
    ///
    /// # Errors
    /// When the database fails.
    pub fn costs_ms(&self, questions: &[CostQuestion]) -> Result<Vec<Option<u64>>, ContentError> {
        self.db.read("find what results cost", |connection| {
            let exact = "SELECT cost_ms FROM cache_records WHERE key = ?1";
            let last = "SELECT cost_ms FROM cache_records WHERE grouping = ?1
                        ORDER BY last_used_at DESC LIMIT 1";
            let mut exact = connection.prepare_cached(exact)?;
            let mut last = connection.prepare_cached(last)?;
            let mut costs = Vec::with_capacity(questions.len());
            for question in questions {
                let mut cost: Option<i64> = exact
                    .query_row([question.key.as_slice()], |row| row.get(0))
                    .optional()?;
                for grouping in &question.groupings {
                    if cost.is_none() {
                        cost = last.query_row([grouping], |row| row.get(0)).optional()?;
                    }
                }
                costs.push(cost.map(from_sql));
            }
            Ok(costs)
        })
    }

    /// All records, least recently used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<CacheRecord>, ContentError> {
        let tail = "WHERE ?1 = '' ORDER BY last_used_at, key LIMIT ?2";
        self.select(tail, "", usize::MAX)
    }

    fn select(
        &self,
        tail: &str,
        argument: &str,
        limit: usize,
    ) -> Result<Vec<CacheRecord>, ContentError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.db.read("list results", |connection| {
            let sql = format!("SELECT {COLUMNS} FROM cache_records {tail}");
            let mut statement = connection.prepare_cached(&sql)?;
            let records = statement
                .query_map(params![argument, limit], read)?
                .collect::<Result<Vec<_>, _>>()?;
            let complete = records
                .into_iter()
                .map(|record| with_targets(connection, record));
            complete.collect()
        })
    }

    /// Notes that the records were found now.
    ///
    /// # Errors
    /// When the database fails.
    pub fn touch(&self, keys: &[Key]) -> Result<(), ContentError> {
        self.db
            .write("touch results", Durability::Cache, |transaction| {
                let mut statement = transaction
                    .prepare_cached("UPDATE cache_records SET last_used_at = ?2 WHERE key = ?1")?;
                for key in keys {
                    statement.execute(params![key.as_slice(), now_ms()])?;
                }
                Ok(())
            })
    }

    /// Forgets records; how many were known. Their layers stay until they are collected.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, keys: &[Key]) -> Result<usize, ContentError> {
        self.db
            .write("forget results", Durability::Cache, |transaction| {
                let mut statement =
                    transaction.prepare_cached("DELETE FROM cache_records WHERE key = ?1")?;
                let mut removed = 0;
                for key in keys {
                    removed += statement.execute([key.as_slice()])?;
                }
                Ok(removed)
            })
    }
}

const COLUMNS: &str = "key, record, identity, fields, grouping, cost_ms, created_at, last_used_at";

fn read(row: &Row<'_>) -> Result<CacheRecord, rusqlite::Error> {
    Ok(CacheRecord {
        key: row.get(0)?,
        record: row.get(1)?,
        identity: row.get(2)?,
        fields: row.get(3)?,
        grouping: row.get(4)?,
        cost_ms: from_sql(row.get(5)?),
        layers: Vec::new(),
        blobs: Vec::new(),
        created: from_ms(row.get(6)?),
        last_used: from_ms(row.get(7)?),
    })
}

fn with_targets(
    connection: &Connection,
    mut record: CacheRecord,
) -> Result<CacheRecord, ContentError> {
    for text in texts(
        connection,
        "SELECT layer_id FROM cache_layers WHERE key = ?1",
        &record,
    )? {
        record.layers.push(parse("layer id", &text)?);
    }
    for text in texts(
        connection,
        "SELECT digest FROM cache_blobs WHERE key = ?1",
        &record,
    )? {
        record.blobs.push(parse("digest", &text)?);
    }
    Ok(record)
}

fn texts(
    connection: &Connection,
    sql: &str,
    record: &CacheRecord,
) -> Result<Vec<String>, ContentError> {
    let mut statement = connection.prepare_cached(sql)?;
    let texts = statement.query_map([record.key.as_slice()], |row| row.get(0))?;
    Ok(texts.collect::<Result<Vec<_>, _>>()?)
}

fn insert(transaction: &Transaction<'_>, record: &CacheRecord) -> Result<(), ContentError> {
    let key = record.key.as_slice();
    transaction
        .prepare_cached("DELETE FROM cache_records WHERE key = ?1")?
        .execute([key])?;
    let mut statement = transaction.prepare_cached(
        "INSERT INTO cache_records
         (key, record, identity, fields, grouping, cost_ms, created_at, last_used_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    statement.execute(params![
        key,
        record.record,
        record.identity,
        record.fields,
        record.grouping,
        to_sql(record.cost_ms),
        to_ms(record.created),
        to_ms(record.last_used)
    ])?;
    let mut layer = transaction
        .prepare_cached("INSERT OR IGNORE INTO cache_layers (key, layer_id) VALUES (?1, ?2)")?;
    for layer_id in &record.layers {
        layer.execute(params![key, layer_id.to_string()])?;
    }
    let mut blob = transaction
        .prepare_cached("INSERT OR IGNORE INTO cache_blobs (key, digest) VALUES (?1, ?2)")?;
    for digest in &record.blobs {
        blob.execute(params![key, digest.to_string()])?;
    }
    Ok(())
}
