//! What is known of layers.
//!
//! Two kinds of rows. A [`LayerBlob`] says that a blob is one form of the tar stream with a
//! DiffId; it goes with the blob. A [`LayerRecord`] says where the forms of a layer are; it
//! keeps its blobs, until it is removed.

use std::sync::Arc;
use std::time::SystemTime;

use longshore_oci::{DiffId, Digest, LayerId};
use rusqlite::{Connection, Row, Transaction, params};

use crate::ContentError;
use crate::database::{Database, Durability, from_sql, parse, to_sql};
use crate::time::{from_ms, now_ms, to_ms};

/// A blob that is, possibly compressed, the tar stream with `diff_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// The uncompressed stream's digest.
    pub diff_id: DiffId,
    /// The blob's digest.
    pub blob: Digest,
    /// The blob's media type.
    pub media_type: String,
    /// How it is compressed, in the caller's words (`gzip`, `zstd`, `none`, with a level or an
    /// encoder's version where that matters).
    pub compression: String,
    /// The blob's size.
    pub size_bytes: u64,
}

/// A layer and where its forms are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRecord {
    /// The layer, by what it changes.
    pub layer_id: LayerId,
    /// Its tar stream, once that was made or read.
    pub diff_id: Option<DiffId>,
    /// The blob that it was read from or written to.
    pub blob: Option<Digest>,
    /// The blob that holds its index.
    pub index_blob: Option<Digest>,
    /// Its unpacked form.
    pub snapshot_id: Option<String>,
    /// The tar stream's size, 0 if it was not made.
    pub tar_bytes: u64,
    /// The unpacked form's size, 0 if there is none.
    pub snapshot_bytes: u64,
    /// When the record was first written.
    pub created: SystemTime,
    /// When it was last of use.
    pub last_used: SystemTime,
}

impl LayerRecord {
    /// A record of a layer that has no form yet.
    pub fn new(layer_id: LayerId) -> Self {
        let now = SystemTime::now();
        Self {
            layer_id,
            diff_id: None,
            blob: None,
            index_blob: None,
            snapshot_id: None,
            tar_bytes: 0,
            snapshot_bytes: 0,
            created: now,
            last_used: now,
        }
    }
}

/// The layers of a state root.
#[derive(Clone, Debug)]
pub struct Layers {
    db: Arc<Database>,
}

impl Layers {
    pub(crate) fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    /// Notes a form of a tar stream; noting it again updates it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_blob(&self, form: &LayerBlob) -> Result<(), ContentError> {
        self.db
            .write("note a layer's blob", Durability::Cache, |transaction| {
                transaction.execute(
                    "INSERT OR REPLACE INTO layer_blobs
                     (diff_id, blob, media_type, compression, size, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        form.diff_id.to_string(),
                        form.blob.to_string(),
                        form.media_type,
                        form.compression,
                        to_sql(form.size_bytes),
                        now_ms()
                    ],
                )?;
                Ok(())
            })
    }

    /// The known forms of a tar stream, newest first. They need not be stored here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn blobs_of(&self, diff_id: &DiffId) -> Result<Vec<LayerBlob>, ContentError> {
        self.layer_blobs("WHERE diff_id = ?1", &diff_id.to_string())
    }

    /// What tar stream a blob is a form of.
    ///
    /// # Errors
    /// When the database fails.
    pub fn form_of(&self, blob: &Digest) -> Result<Option<LayerBlob>, ContentError> {
        let mut forms = self.layer_blobs("WHERE blob = ?1", &blob.to_string())?;
        Ok(forms.pop())
    }

    fn layer_blobs(&self, filter: &str, argument: &str) -> Result<Vec<LayerBlob>, ContentError> {
        let sql = format!(
            "SELECT diff_id, blob, media_type, compression, size FROM layer_blobs
             {filter} ORDER BY created_at DESC, blob"
        );
        self.db.read("find a layer's blobs", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([argument])?;
            let mut forms = Vec::new();
            while let Some(row) = rows.next()? {
                forms.push(LayerBlob {
                    diff_id: DiffId(parse("diff id", &row.get::<_, String>(0)?)?),
                    blob: parse("digest", &row.get::<_, String>(1)?)?,
                    media_type: row.get(2)?,
                    compression: row.get(3)?,
                    size_bytes: from_sql(row.get(4)?),
                });
            }
            Ok(forms)
        })
    }

    /// Writes a layer's record; fields that are `None` or 0 keep what an earlier record said.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, record: &LayerRecord) -> Result<(), ContentError> {
        self.db
            .write("record a layer", Durability::Cache, |transaction| {
                insert(transaction, record)
            })
    }

    /// Changes a layer's record, if there is one, in one transaction; whether there was.
    ///
    /// # Errors
    /// When the database fails.
    pub fn update(
        &self,
        layer: &LayerId,
        change: impl FnOnce(&mut LayerRecord),
    ) -> Result<bool, ContentError> {
        self.db
            .write("change a layer", Durability::Cache, |transaction| {
                let mut found = select(transaction, "WHERE layer_id = ?1", &layer.to_string())?;
                let Some(mut record) = found.pop() else {
                    return Ok(false);
                };
                change(&mut record);
                record.layer_id = *layer;
                delete(transaction, layer)?;
                insert(transaction, &record)?;
                Ok(true)
            })
    }

    /// A layer's record.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, layer: &LayerId) -> Result<Option<LayerRecord>, ContentError> {
        Ok(self.find("WHERE layer_id = ?1", &layer.to_string())?.pop())
    }

    /// The layers with this tar stream, most recently used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_diff_id(&self, diff_id: &DiffId) -> Result<Vec<LayerRecord>, ContentError> {
        self.find(
            "WHERE diff_id = ?1 ORDER BY last_used_at DESC",
            &diff_id.to_string(),
        )
    }

    /// The layers with this unpacked form.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_snapshot(&self, snapshot_id: &str) -> Result<Vec<LayerRecord>, ContentError> {
        self.find("WHERE snapshot_id = ?1", snapshot_id)
    }

    /// All layers, least recently used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<LayerRecord>, ContentError> {
        self.find("WHERE ?1 = '' ORDER BY last_used_at, layer_id", "")
    }

    fn find(&self, filter: &str, argument: &str) -> Result<Vec<LayerRecord>, ContentError> {
        self.db.read("find layers", |connection| {
            select(connection, filter, argument)
        })
    }

    /// Notes that the layers were of use now.
    ///
    /// # Errors
    /// When the database fails.
    pub fn touch(&self, layers: &[LayerId]) -> Result<(), ContentError> {
        self.db
            .write("touch layers", Durability::Cache, |transaction| {
                let mut statement = transaction
                    .prepare_cached("UPDATE layers SET last_used_at = ?2 WHERE layer_id = ?1")?;
                for layer in layers {
                    statement.execute(params![layer.to_string(), now_ms()])?;
                }
                Ok(())
            })
    }

    /// Forgets a layer; whether it was known. Its blobs stay until they are collected.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, layer: &LayerId) -> Result<bool, ContentError> {
        self.db
            .write("forget a layer", Durability::Cache, |transaction| {
                delete(transaction, layer)
            })
    }
}

fn insert(transaction: &Transaction<'_>, record: &LayerRecord) -> Result<(), ContentError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO layers (layer_id, diff_id, blob, index_blob, snapshot_id, tar_bytes,
            snapshot_bytes, created_at, last_used_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (layer_id) DO UPDATE SET
            diff_id = coalesce(excluded.diff_id, diff_id),
            blob = coalesce(excluded.blob, blob),
            index_blob = coalesce(excluded.index_blob, index_blob),
            snapshot_id = coalesce(excluded.snapshot_id, snapshot_id),
            tar_bytes = iif(excluded.tar_bytes = 0, tar_bytes, excluded.tar_bytes),
            snapshot_bytes = iif(excluded.snapshot_bytes = 0, snapshot_bytes, excluded.snapshot_bytes),
            last_used_at = max(last_used_at, excluded.last_used_at)",
    )?;
    statement.execute(params![
        record.layer_id.to_string(),
        record.diff_id.map(|diff_id| diff_id.to_string()),
        record.blob.map(|blob| blob.to_string()),
        record.index_blob.map(|blob| blob.to_string()),
        record.snapshot_id,
        to_sql(record.tar_bytes),
        to_sql(record.snapshot_bytes),
        to_ms(record.created),
        to_ms(record.last_used)
    ])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, layer: &LayerId) -> Result<bool, ContentError> {
    let mut statement = transaction.prepare_cached("DELETE FROM layers WHERE layer_id = ?1")?;
    Ok(statement.execute([layer.to_string()])? > 0)
}

pub(crate) fn select(
    connection: &Connection,
    filter: &str,
    argument: &str,
) -> Result<Vec<LayerRecord>, ContentError> {
    let sql = format!(
        "SELECT layer_id, diff_id, blob, index_blob, snapshot_id, tar_bytes, snapshot_bytes,
            created_at, last_used_at FROM layers {filter}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([argument])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(layer_record(row)?);
    }
    Ok(records)
}

fn layer_record(row: &Row<'_>) -> Result<LayerRecord, ContentError> {
    let digest = |at: usize| -> Result<Option<Digest>, ContentError> {
        let text: Option<String> = row.get(at)?;
        text.map(|text| parse("digest", &text)).transpose()
    };
    Ok(LayerRecord {
        layer_id: parse("layer id", &row.get::<_, String>(0)?)?,
        diff_id: digest(1)?.map(DiffId),
        blob: digest(2)?,
        index_blob: digest(3)?,
        snapshot_id: row.get(4)?,
        tar_bytes: from_sql(row.get(5)?),
        snapshot_bytes: from_sql(row.get(6)?),
        created: from_ms(row.get(7)?),
        last_used: from_ms(row.get(8)?),
    })
}
