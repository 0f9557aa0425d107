//! Records that the options let go before blobs are looked at.

use longshore_oci::{Digest, LayerId};
use rusqlite::{Transaction, params};

use super::{Collection, directories};
use crate::ContentError;
use crate::database::parse;
use crate::layers::{self, LayerRecord};
use crate::leases::KIND_LAYER;

impl Collection<'_> {
    pub(super) fn drop_records(
        &mut self,
        transaction: &Transaction<'_>,
    ) -> Result<(), ContentError> {
        self.drop_dangling_images(transaction)?;
        self.drop_cache_records(transaction)?;
        self.drop_untagged(transaction)?;
        self.drop_layers(transaction)?;
        self.drop_hearsay(transaction)
    }

    /// What is said of blobs that are not here (any more), where nothing will ask for it.
    fn drop_hearsay(&self, transaction: &Transaction<'_>) -> Result<(), ContentError> {
        transaction.execute(
            "DELETE FROM edges WHERE parent NOT IN (SELECT digest FROM blobs)
             AND parent NOT IN (SELECT digest FROM manifests)
             AND parent NOT IN (SELECT digest FROM images)",
            [],
        )?;
        // A link to a damaged blob stays while a manifest there waits for it to be healed.
        transaction.execute(
            "DELETE FROM blob_links WHERE touched_at < ?1
             AND digest NOT IN (SELECT digest FROM blobs)
             AND NOT EXISTS (SELECT 1 FROM edges JOIN manifests ON manifests.digest = edges.parent
                WHERE edges.child = blob_links.digest
                AND manifests.repository = blob_links.repository)",
            [self.window.push_cutoff_ms],
        )?;
        if self.options.unreferenced_layers {
            transaction.execute(
                "DELETE FROM layer_blobs WHERE created_at < ?1
                 AND blob NOT IN (SELECT digest FROM blobs)
                 AND diff_id NOT IN (SELECT diff_id FROM layers WHERE diff_id IS NOT NULL)",
                [self.window.cutoff_ms],
            )?;
        }
        Ok(())
    }

    fn drop_dangling_images(&mut self, transaction: &Transaction<'_>) -> Result<(), ContentError> {
        if !self.options.dangling_images {
            return Ok(());
        }
        let mut statement = transaction
            .prepare_cached("DELETE FROM images WHERE reference IS NULL RETURNING digest")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let digest = parse("digest", &row.get::<_, String>(0)?)?;
            self.report.images.push(digest);
        }
        Ok(())
    }

    fn drop_cache_records(&mut self, transaction: &Transaction<'_>) -> Result<(), ContentError> {
        if let Some(age) = self.options.cache_unused_for {
            let before = self.window.before(age);
            self.report.cache_records += transaction.execute(
                "DELETE FROM cache_records WHERE last_used_at < ?1",
                [before],
            )?;
        }
        Ok(())
    }

    /// An index's manifest and a referrer are not untagged in this sense while the index or
    /// what is referred to is in the repository; when that goes, they may go after it.
    fn drop_untagged(&mut self, transaction: &Transaction<'_>) -> Result<(), ContentError> {
        let Some(age) = self.options.untagged_older_than else {
            return Ok(());
        };
        let before = self.window.before(age);
        loop {
            let untagged = untagged(transaction, before)?;
            if untagged.is_empty() {
                return Ok(());
            }
            for (id, name, digest) in untagged {
                transaction.execute(
                    "DELETE FROM manifests WHERE repository = ?1 AND digest = ?2",
                    params![id, digest.to_string()],
                )?;
                self.report.manifests.push((name, digest));
            }
        }
    }

    fn drop_layers(&mut self, transaction: &Transaction<'_>) -> Result<(), ContentError> {
        if !self.options.unreferenced_layers {
            return Ok(());
        }
        for id in unreferenced_layers(transaction, self.window.cutoff_ms, self.window.now_ms)? {
            if self.options.keep_layers.contains(&id) {
                continue;
            }
            let id = id.to_string();
            let found = layers::select(transaction, "WHERE layer_id = ?1", &id)?;
            if !self.options.dry_run && !self.discard(&found)? {
                continue;
            }
            self.report.layers.extend(found);
            transaction.execute("DELETE FROM layers WHERE layer_id = ?1", [&id])?;
        }
        Ok(())
    }

    /// Lets go of the directories; `false` while something stands on one.
    fn discard(&self, records: &[LayerRecord]) -> Result<bool, ContentError> {
        for snapshot_id in records
            .iter()
            .filter_map(|record| record.snapshot_id.as_ref())
        {
            if !directories::discard(self.directories, snapshot_id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn untagged(
    transaction: &Transaction<'_>,
    before_ms: i64,
) -> Result<Vec<(i64, String, Digest)>, ContentError> {
    let mut statement = transaction.prepare_cached(
        "SELECT m.repository, name, m.digest FROM manifests m JOIN repositories ON id = m.repository
         WHERE m.created_at < ?1
         AND NOT EXISTS (SELECT 1 FROM tags t
            WHERE t.repository = m.repository AND t.digest = m.digest)
         AND NOT EXISTS (SELECT 1 FROM edges JOIN manifests p ON p.digest = edges.parent
            WHERE p.repository = m.repository AND edges.child = m.digest)
         AND NOT EXISTS (SELECT 1 FROM manifests s
            WHERE s.repository = m.repository AND s.digest = m.subject)
         ORDER BY name, m.digest",
    )?;
    let mut rows = statement.query([before_ms])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let digest: String = row.get(2)?;
        found.push((row.get(0)?, row.get(1)?, parse("digest", &digest)?));
    }
    Ok(found)
}

fn unreferenced_layers(
    transaction: &Transaction<'_>,
    cutoff_ms: i64,
    now_ms: i64,
) -> Result<Vec<LayerId>, ContentError> {
    let mut statement = transaction.prepare_cached(
        "SELECT layer_id FROM layers WHERE last_used_at < ?1
         AND NOT EXISTS (SELECT 1 FROM cache_layers WHERE layer_id = layers.layer_id)
         AND NOT EXISTS (SELECT 1 FROM leases
            WHERE kind = ?3 AND target = layers.layer_id AND expires_at > ?2)
         AND NOT EXISTS (SELECT 1 FROM edges JOIN blobs ON blobs.digest = edges.parent
            WHERE edges.child = layers.blob)
         ORDER BY layer_id",
    )?;
    let mut rows = statement.query(params![cutoff_ms, now_ms, KIND_LAYER])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(parse("layer id", &row.get::<_, String>(0)?)?);
    }
    Ok(found)
}
