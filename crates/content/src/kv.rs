//! Small values of other crates: bytes by bucket and key.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};

use crate::ContentError;
use crate::database::{Database, Durability};

/// The small values of a state root. They may be lost with the power.
#[derive(Clone, Debug)]
pub struct Kv {
    db: Arc<Database>,
}

impl Kv {
    pub(crate) fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    /// The value.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, ContentError> {
        self.db.read("find a value", |connection| {
            let mut statement =
                connection.prepare_cached("SELECT value FROM kv WHERE bucket = ?1 AND key = ?2")?;
            Ok(statement
                .query_row([bucket, key], |row| row.get(0))
                .optional()?)
        })
    }

    /// Sets the value.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, bucket: &str, key: &str, value: &[u8]) -> Result<(), ContentError> {
        self.put_all(bucket, [(key, value)])
    }

    /// Sets many values of a bucket; all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_all<'a>(
        &self,
        bucket: &str,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), ContentError> {
        self.db
            .write("keep a value", Durability::Cache, |transaction| {
                let mut statement = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO kv (bucket, key, value) VALUES (?1, ?2, ?3)",
                )?;
                for (key, value) in entries {
                    statement.execute(params![bucket, key, value])?;
                }
                Ok(())
            })
    }

    /// All entries of a bucket, by key.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self, bucket: &str) -> Result<Vec<(String, Vec<u8>)>, ContentError> {
        self.db.read("list values", |connection| {
            let mut statement = connection
                .prepare_cached("SELECT key, value FROM kv WHERE bucket = ?1 ORDER BY key")?;
            let entries = statement.query_map([bucket], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(entries.collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// Removes the value; whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, bucket: &str, key: &str) -> Result<bool, ContentError> {
        self.db
            .write("drop a value", Durability::Cache, |transaction| {
                let removed = transaction.execute(
                    "DELETE FROM kv WHERE bucket = ?1 AND key = ?2",
                    [bucket, key],
                )?;
                Ok(removed > 0)
            })
    }

    /// Removes a bucket with all its values.
    ///
    /// # Errors
    /// When the database fails.
    pub fn clear(&self, bucket: &str) -> Result<(), ContentError> {
        self.db
            .write("drop values", Durability::Cache, |transaction| {
                transaction.execute("DELETE FROM kv WHERE bucket = ?1", [bucket])?;
                Ok(())
            })
    }
}
