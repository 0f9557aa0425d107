//! The local store's images: what a name stands for.
//!
//! A name that moves to other content leaves its old image behind without a name
//! (*dangling*, Docker's `<none>`), until it is removed. An image keeps its whole tree of
//! manifests, configurations and layers from being collected.

use std::sync::Arc;
use std::time::SystemTime;

use longshore_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest};
use rusqlite::{Row, Transaction, params};

use crate::database::{Database, Durability};
use crate::edges::{self, Edge};
use crate::time::{from_ms, now_ms};
use crate::{ContentError, LocalStore};

/// Manifests that one image may have: an index of indexes of every platform is far below.
const MANIFESTS_MAX: usize = 4096;

/// A stored image.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Its normalised name; `None` for a dangling image.
    pub reference: Option<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When the name was given.
    pub created: SystemTime,
}

/// The images of a state root.
#[derive(Clone, Debug)]
pub struct Images {
    db: Arc<Database>,
    blobs: LocalStore,
}

impl Images {
    pub(crate) fn new(db: Arc<Database>, blobs: LocalStore) -> Self {
        Self { db, blobs }
    }

    /// Names an image; its manifests must be stored already, its other content may be missing.
    /// The name's old image becomes dangling, unless it has another name.
    ///
    /// # Errors
    /// When a manifest cannot be read, or the database fails.
    pub fn set(&self, reference: &str, descriptor: &Descriptor) -> Result<(), ContentError> {
        let edges = self.tree(descriptor)?;
        self.db
            .write("name an image", Durability::Published, |transaction| {
                edges::insert(transaction, &edges)?;
                leave_dangling(transaction, reference, &descriptor.digest)?;
                insert(transaction, Some(reference), descriptor)
            })
    }

    /// Keeps an image without naming it.
    ///
    /// # Errors
    /// As [`Images::set`].
    pub fn add_dangling(&self, descriptor: &Descriptor) -> Result<(), ContentError> {
        let edges = self.tree(descriptor)?;
        self.db
            .write("keep an image", Durability::Published, |transaction| {
                edges::insert(transaction, &edges)?;
                if !is_held(transaction, &descriptor.digest)? {
                    insert(transaction, None, descriptor)?;
                }
                Ok(())
            })
    }

    /// What the name stands for.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ContentError> {
        Ok(self.select("WHERE reference = ?1", reference)?.pop())
    }

    /// All names of the image with this digest, dangling last.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_digest(&self, digest: &Digest) -> Result<Vec<Image>, ContentError> {
        self.select(
            "WHERE digest = ?1 ORDER BY reference NULLS LAST",
            &digest.to_string(),
        )
    }

    /// All images: by name, then the dangling ones from old to new.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(&self) -> Result<Vec<Image>, ContentError> {
        self.select("WHERE ?1 = '' ORDER BY reference NULLS LAST, id", "")
    }

    /// The images without a name, from old to new.
    ///
    /// # Errors
    /// When the database fails.
    pub fn dangling(&self) -> Result<Vec<Image>, ContentError> {
        self.select("WHERE ?1 = '' AND reference IS NULL ORDER BY id", "")
    }

    /// Takes the name away, and with its last name the image; what it stood for.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, reference: &str) -> Result<Option<Image>, ContentError> {
        self.delete(
            "DELETE FROM images WHERE reference = ?1 RETURNING",
            reference,
        )
    }

    /// Removes a dangling image; whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_dangling(&self, digest: &Digest) -> Result<bool, ContentError> {
        let sql = "DELETE FROM images WHERE reference IS NULL AND digest = ?1 RETURNING";
        Ok(self.delete(sql, &digest.to_string())?.is_some())
    }

    fn select(&self, tail: &str, argument: &str) -> Result<Vec<Image>, ContentError> {
        let sql = format!("SELECT {COLUMNS} FROM images {tail}");
        self.db.read("list images", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([argument])?;
            let mut images = Vec::new();
            while let Some(row) = rows.next()? {
                images.push(image(row)?);
            }
            Ok(images)
        })
    }

    fn delete(&self, head: &str, argument: &str) -> Result<Option<Image>, ContentError> {
        let sql = format!("{head} {COLUMNS}");
        self.db
            .write("remove an image", Durability::Published, |transaction| {
                let mut statement = transaction.prepare_cached(&sql)?;
                let mut rows = statement.query([argument])?;
                let mut removed = None;
                while let Some(row) = rows.next()? {
                    removed = Some(image(row)?);
                }
                Ok(removed)
            })
    }

    /// Which manifest needs what, from the image's root down. What is not stored has no
    /// children yet.
    fn tree(&self, root: &Descriptor) -> Result<Vec<Edge>, ContentError> {
        let mut edges = Vec::new();
        let mut manifests = vec![root.digest];
        let mut at = 0;
        while let Some(parent) = manifests.get(at).copied() {
            at += 1;
            let Some(document) = self.blobs.read_all(&parent, DOCUMENT_BYTES_MAX as u64)? else {
                continue;
            };
            for child in edges::children(&document) {
                if child.is_manifest
                    && !manifests.contains(&child.digest)
                    && manifests.len() < MANIFESTS_MAX
                {
                    manifests.push(child.digest);
                }
                edges.push(Edge {
                    parent,
                    child: child.digest,
                });
            }
        }
        Ok(edges)
    }
}

const COLUMNS: &str = "reference, descriptor, created_at";

fn image(row: &Row<'_>) -> Result<Image, ContentError> {
    let descriptor: String = row.get(1)?;
    Ok(Image {
        reference: row.get(0)?,
        descriptor: serde_json::from_str(&descriptor).map_err(|_| ContentError::Row {
            what: "descriptor",
            value: descriptor.chars().take(160).collect(),
        })?,
        created: from_ms(row.get(2)?),
    })
}

fn is_held(transaction: &Transaction<'_>, digest: &Digest) -> Result<bool, ContentError> {
    let mut statement =
        transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM images WHERE digest = ?1)")?;
    Ok(statement.query_row([digest.to_string()], |row| row.get(0))?)
}

/// The name's old image stays without a name if it was its only one; the new image needs no
/// nameless row any more.
fn leave_dangling(
    transaction: &Transaction<'_>,
    reference: &str,
    new: &Digest,
) -> Result<(), ContentError> {
    let new = new.to_string();
    transaction.execute(
        "UPDATE images SET reference = NULL WHERE reference = ?1 AND digest <> ?2
         AND (SELECT count(*) FROM images AS other WHERE other.digest = images.digest) = 1",
        [reference, &new],
    )?;
    transaction.execute("DELETE FROM images WHERE reference = ?1", [reference])?;
    transaction.execute(
        "DELETE FROM images WHERE reference IS NULL AND digest = ?1",
        [&new],
    )?;
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    reference: Option<&str>,
    descriptor: &Descriptor,
) -> Result<(), ContentError> {
    let json = serde_json::to_string(descriptor).map_err(|error| ContentError::Row {
        what: "descriptor",
        value: error.to_string(),
    })?;
    transaction.execute(
        "INSERT INTO images (reference, digest, descriptor, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![reference, descriptor.digest.to_string(), json, now_ms()],
    )?;
    Ok(())
}
