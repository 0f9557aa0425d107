//! Layers' unpacked forms: kept outside of this crate, let go with the rows that name them.
//!
//! A directory goes inside the write transaction that found no lease on its layer. Whoever
//! needs a layer takes the lease first and looks for the directory then: it either stops the
//! removal, or finds that the directory is gone.

use std::io;

use longshore_oci::LayerId;
use rusqlite::{Transaction, params};

use crate::database::Durability;
use crate::leases::KIND_LAYER;
use crate::time::now_ms;
use crate::{ContentError, StateRoot, layers};

/// Where layers' directories are.
pub trait Directories {
    /// Makes a directory unfindable at once; deleting it may take until later. `false` while
    /// something stands on it. One that is not there is gone already: `true`.
    ///
    /// # Errors
    /// The system's.
    fn discard(&self, snapshot_id: &str) -> io::Result<bool>;
}

/// There are none.
#[derive(Clone, Copy, Debug)]
pub struct NoDirectories;

impl Directories for NoDirectories {
    fn discard(&self, _snapshot_id: &str) -> io::Result<bool> {
        Ok(true)
    }
}

impl StateRoot {
    /// Lets go of a layer's directory, and keeps its other forms; whether it went. It stays
    /// while the layer is leased or something stands on it.
    ///
    /// # Errors
    /// When the database or the removal fails.
    pub fn drop_directory(
        &self,
        layer: &LayerId,
        directories: &dyn Directories,
    ) -> Result<bool, ContentError> {
        self.db()
            .write("drop a directory", Durability::Cache, |transaction| {
                let name = layer.to_string();
                let found = layers::select(transaction, "WHERE layer_id = ?1", &name)?.pop();
                let Some(snapshot_id) = found.and_then(|record| record.snapshot_id) else {
                    return Ok(false);
                };
                if is_leased(transaction, &name)? || !discard(directories, &snapshot_id)? {
                    return Ok(false);
                }
                transaction.execute(
                    "UPDATE layers SET snapshot_id = NULL, snapshot_bytes = 0 WHERE layer_id = ?1",
                    [&name],
                )?;
                Ok(true)
            })
    }
}

pub(super) fn discard(
    directories: &dyn Directories,
    snapshot_id: &str,
) -> Result<bool, ContentError> {
    directories
        .discard(snapshot_id)
        .map_err(ContentError::io("discard", snapshot_id.as_ref()))
}

fn is_leased(transaction: &Transaction<'_>, layer: &str) -> Result<bool, ContentError> {
    let mut statement = transaction.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM leases WHERE kind = ?1 AND target = ?2 AND expires_at > ?3)",
    )?;
    let arguments = params![KIND_LAYER, layer, now_ms()];
    Ok(statement.query_row(arguments, |row| row.get(0))?)
}
