//! `meta.db`: one SQLite file that several processes use at once.
//!
//! WAL mode, so readers never wait for a writer. Writes are `BEGIN IMMEDIATE`, so a
//! transaction never fails halfway for want of the lock. Within a process one connection
//! writes, behind a mutex (SQLite's own waiting polls, a mutex does not), and a few read.
//!
//! SQLite's `synchronous` belongs to a connection, not to a table, so it is switched for
//! each transaction: [`Durability::Published`] commits with `FULL` (the write-ahead log is
//! synced before the commit returns), the others with `NORMAL` (a power cut may lose the
//! last commits, never consistency). A published commit also makes every earlier one
//! durable, because all are in the same log.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::ContentError;
use crate::schema;

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle reading connections that are kept.
const READERS_MAX: usize = 8;
const STATEMENTS_CACHED: usize = 128;

/// What must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On disk before the call returns: what someone else is told exists.
    Published,
    /// Files are on disk before the call returns, rows with the next published transaction:
    /// for a caller that publishes something about them right after.
    PublishedByNext,
    /// May be lost with the power: what can be made again.
    Cache,
}

#[derive(Debug)]
pub(crate) struct Database {
    path: std::path::PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    durability: Durability,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave a half transaction behind: dropping one rolls it back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    /// Opens, and creates or migrates where needed. The caller holds the root's lock.
    pub(crate) fn open(path: &Path) -> Result<Self, ContentError> {
        let mut connection = connect(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        schema::migrate(&mut connection, path)?;
        Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(Writer {
                connection,
                durability: Durability::Published,
            }),
            readers: Mutex::new(Vec::new()),
        })
    }

    /// Runs `body` in a write transaction, committed if it succeeds.
    pub(crate) fn write<T>(
        &self,
        doing: &'static str,
        durability: Durability,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, ContentError>,
    ) -> Result<T, ContentError> {
        let mut writer = lock(&self.writer);
        writer
            .transact(durability, body)
            .map_err(|error| error.while_doing(doing))
    }

    /// Runs `body` in a write transaction that is always rolled back.
    pub(crate) fn rehearse<T>(
        &self,
        doing: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, ContentError>,
    ) -> Result<T, ContentError> {
        let mut writer = lock(&self.writer);
        rehearse(&mut writer.connection, body).map_err(|error| error.while_doing(doing))
    }

    /// Runs `body` on one consistent snapshot of the database.
    pub(crate) fn read<T>(
        &self,
        doing: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, ContentError>,
    ) -> Result<T, ContentError> {
        let pooled = lock(&self.readers).pop();
        let mut connection = pooled.map_or_else(|| connect(&self.path), Ok)?;
        let result = snapshot(&mut connection, body).map_err(|error| error.while_doing(doing));
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_MAX {
            readers.push(connection);
        }
        result
    }
}

fn snapshot<T>(
    connection: &mut Connection,
    body: impl FnOnce(&Connection) -> Result<T, ContentError>,
) -> Result<T, ContentError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let value = body(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn rehearse<T>(
    connection: &mut Connection,
    body: impl FnOnce(&Transaction<'_>) -> Result<T, ContentError>,
) -> Result<T, ContentError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = body(&transaction)?;
    transaction.rollback()?;
    Ok(value)
}

impl Writer {
    fn transact<T>(
        &mut self,
        durability: Durability,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, ContentError>,
    ) -> Result<T, ContentError> {
        if self.durability != durability {
            let level = match durability {
                Durability::Published => "full",
                Durability::PublishedByNext | Durability::Cache => "normal",
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.durability = durability;
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = body(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

fn connect(path: &Path) -> Result<Connection, ContentError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|source| ContentError::Database {
            doing: "open",
            source,
        })?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.pragma_update(None, "foreign_keys", "on")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// SQLite's integers are signed; sizes beyond 2^63 do not occur.
pub(crate) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Reads a column that was written from a value's text form.
pub(crate) fn parse<T: std::str::FromStr>(
    what: &'static str,
    text: &str,
) -> Result<T, ContentError> {
    text.parse().map_err(|_| ContentError::Row {
        what,
        value: text.chars().take(160).collect(),
    })
}
