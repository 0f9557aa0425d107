//! Records of builds, running and finished. The record itself is the caller's JSON.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Row, params};

use crate::ContentError;
use crate::database::{Database, Durability, parse};
use crate::process::ProcessToken;
use crate::time::{from_ms, now_ms};

/// A build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Its id.
    pub id: String,
    /// The process that runs or ran it.
    pub process: ProcessToken,
    /// What there is to say of it, as JSON.
    pub record: String,
    /// Where its log is.
    pub log_path: Option<String>,
    /// When it started.
    pub started: SystemTime,
    /// When it finished; `None` while it runs, or if its process died.
    pub finished: Option<SystemTime>,
}

/// The builds of a state root.
#[derive(Clone, Debug)]
pub struct Builds {
    db: Arc<Database>,
    process: ProcessToken,
}

impl Builds {
    pub(crate) fn new(db: Arc<Database>, process: ProcessToken) -> Self {
        Self { db, process }
    }

    /// Notes that this process starts a build.
    ///
    /// # Errors
    /// When the id is taken, or the database fails.
    pub fn start(
        &self,
        id: &str,
        record: &str,
        log_path: Option<&str>,
    ) -> Result<(), ContentError> {
        self.db
            .write("record a build", Durability::Cache, |transaction| {
                transaction.execute(
                    "INSERT INTO builds (id, process, record, log_path, started_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![id, self.process.as_str(), record, log_path, now_ms()],
                )?;
                Ok(())
            })
    }

    /// Notes how a build ended; whether it is known.
    ///
    /// # Errors
    /// When the database fails.
    pub fn finish(&self, id: &str, record: &str) -> Result<bool, ContentError> {
        self.db
            .write("record a build", Durability::Cache, |transaction| {
                let changed = transaction.execute(
                    "UPDATE builds SET record = ?2, finished_at = ?3 WHERE id = ?1",
                    params![id, record, now_ms()],
                )?;
                Ok(changed > 0)
            })
    }

    /// A build.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, id: &str) -> Result<Option<Build>, ContentError> {
        Ok(self.select("WHERE id = ?1 LIMIT ?2", id, 1)?.pop())
    }

    /// The builds, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self, limit: usize) -> Result<Vec<Build>, ContentError> {
        let tail = "WHERE ?1 = '' ORDER BY started_at DESC, id DESC LIMIT ?2";
        self.select(tail, "", limit)
    }

    /// Forgets a build; what was known. Its log is the caller's to remove.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, id: &str) -> Result<Option<Build>, ContentError> {
        let found = self.get(id)?;
        self.db
            .write("forget a build", Durability::Cache, |transaction| {
                transaction.execute("DELETE FROM builds WHERE id = ?1", [id])?;
                Ok(())
            })?;
        Ok(found)
    }

    fn select(&self, tail: &str, argument: &str, limit: usize) -> Result<Vec<Build>, ContentError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT id, process, record, log_path, started_at, finished_at FROM builds {tail}"
        );
        self.db.read("list builds", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![argument, limit])?;
            let mut builds = Vec::new();
            while let Some(row) = rows.next()? {
                builds.push(build(row)?);
            }
            Ok(builds)
        })
    }
}

fn build(row: &Row<'_>) -> Result<Build, ContentError> {
    Ok(Build {
        id: row.get(0)?,
        process: parse("process token", &row.get::<_, String>(1)?)?,
        record: row.get(2)?,
        log_path: row.get(3)?,
        started: from_ms(row.get(4)?),
        finished: row.get::<_, Option<i64>>(5)?.map(from_ms),
    })
}
