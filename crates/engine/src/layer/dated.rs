//! A layer's blob with the times of an epoch (`SOURCE_DATE_EPOCH`).
//!
//! What the layer's step made (its time is later than that of the layer) has the epoch, and
//! nothing is later. So the blob depends on what the layer holds and on the epoch, whoever ran
//! the step and when, and the step need not run again.
//!
//! Invariant: only times differ from the layer's other blobs, which a layer is not known by;
//! so a dated blob is as good a representation as any. Which one belongs to a layer and an
//! epoch is kept in a record of its own, beside the layer's.

use std::sync::Arc;

use longshore_content::layers::LayerRecord;
use longshore_layers::{
    Change, LayerIndex, TimeLimit, Timestamp, TreeView, WriteOptions, clamp_changes, clamp_tar,
    latest_time_of_tar, write_layer,
};
use longshore_oci::{DiffId, Digest, LayerId};

use super::{Layer, LayerBlob, LayerKey, LayerStore};
use crate::{EngineError, LayerCompression};

/// Where the database keeps the latest time in a tar stream, seconds since 1970.
const LATEST_TIMES: &str = "layer latest time";

/// What a layer's blob is wished to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlobForm {
    /// Of layers that were made here.
    pub(crate) compression: LayerCompression,
    /// Of the layers of images too.
    pub(crate) force: bool,
    /// What dates the layers that were made here.
    pub(crate) epoch: Option<Epoch>,
}

/// No file of a layer is later, and what its step made has this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Epoch {
    /// Since 1970.
    pub(crate) seconds: i64,
    pub(crate) dating: Dating,
}

/// Which layers an epoch dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dating {
    /// Those that have no blob in the wished form yet: the others stay as they are.
    FirstWritten,
    /// Every one, whenever it was made.
    Every,
}

impl LayerStore {
    /// The layer's blob in the wished form. What came with an image keeps its times: it is
    /// the same for all who build on it.
    pub(crate) async fn blob_as(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        form: BlobForm,
    ) -> Result<LayerBlob, EngineError> {
        let Some(epoch) = form
            .epoch
            .filter(|_| matches!(layer.key, LayerKey::Made(_)))
        else {
            return self.blob(layer, form.compression, form.force).await;
        };
        if epoch.dating == Dating::FirstWritten && self.is_written(layer, form.compression).await? {
            return self.blob(layer, form.compression, form.force).await;
        }
        self.dated_blob(layer, form.compression, epoch.seconds)
            .await
    }

    /// Whether a blob is the layer with the times of an epoch.
    pub(crate) fn is_dated(
        &self,
        layer: &Layer,
        blob: &LayerBlob,
        epoch_s: i64,
    ) -> Result<bool, EngineError> {
        let record = self.root.layers().get(&dated_id(layer.key, epoch_s))?;
        Ok(record.and_then(|record| record.diff_id) == Some(blob.diff_id))
    }

    /// Whether the layer has a blob in the wished form, here or in the cache that it is from.
    async fn is_written(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
    ) -> Result<bool, EngineError> {
        let cached = layer.remote().and_then(|remote| remote.cached);
        if layer.changes.is_none() && cached.is_some_and(|cached| cached.compression == wish) {
            return Ok(true);
        }
        Ok(self.find_blob(layer, wish, false).await?.is_some())
    }

    async fn dated_blob(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
        epoch_s: i64,
    ) -> Result<LayerBlob, EngineError> {
        let mut dated = layer.dated.lock().await;
        if let Some(blob) = dated.get(&(epoch_s, wish)) {
            return Ok(blob.clone());
        }
        let (store, shared) = (Arc::clone(self), Arc::clone(layer));
        let (found, from_files) = tokio::task::spawn_blocking(move || {
            let found = store.find_dated(&shared, wish, epoch_s)?;
            Ok::<_, EngineError>((found, store.has_files(&shared)?))
        })
        .await??;
        let blob = match found {
            Some(found) => found,
            // Rather than from a blob, which may have the times of another epoch.
            None if from_files => self.date_files(layer, wish, epoch_s).await?,
            None => {
                let source = self.any_blob(layer).await?;
                let (store, layer) = (Arc::clone(self), Arc::clone(layer));
                tokio::task::spawn_blocking(move || store.date_blob(&layer, source, wish, epoch_s))
                    .await??
            }
        };
        dated.insert((epoch_s, wish), blob.clone());
        Ok(blob)
    }

    /// Whether the layer's files are here, with the times that they had.
    fn has_files(&self, layer: &Layer) -> Result<bool, EngineError> {
        Ok(layer.changes.is_some() || self.usable_snapshot(layer)?.is_some())
    }

    fn find_dated(
        &self,
        layer: &Layer,
        wish: LayerCompression,
        epoch_s: i64,
    ) -> Result<Option<LayerBlob>, EngineError> {
        let record = self.root.layers().get(&dated_id(layer.key, epoch_s))?;
        match record.and_then(|record| record.diff_id) {
            Some(diff_id) => self.find_form(diff_id, Some(wish)),
            None => Ok(None),
        }
    }

    /// From files that no blob holds yet.
    async fn date_files(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
        epoch_s: i64,
    ) -> Result<LayerBlob, EngineError> {
        let mut changes: Vec<Change> = match layer.changes() {
            Some(changes) => changes.to_vec(),
            None => {
                let index = self.index_at(layer, Some(epoch_s)).await?;
                self.changes_of_directory(layer, index).await?
            }
        };
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            clamp_changes(&mut changes, limit(&layer, epoch_s));
            let mut writer = store.root.blobs().writer()?;
            let summary = write_layer(changes, &WriteOptions::new(wish.codec()), &mut writer)
                .map_err(EngineError::layer(layer.key.text()))?;
            let (digest, size_bytes) = writer.commit(Some(&summary.digest))?;
            let tar_bytes = summary.uncompressed_size;
            let blob = match store.stored_blob(&layer)?.is_none() {
                // What a later build finds the layer by.
                true => store.keep(&layer, wish, summary.diff_id, tar_bytes, digest, size_bytes)?,
                false => store.keep_form(wish, summary.diff_id, digest, size_bytes)?,
            };
            store.note_dated(&layer, epoch_s, &blob, tar_bytes)?;
            Ok(blob)
        })
        .await?
    }

    /// From another blob of the layer, in one pass; none where that is early enough.
    fn date_blob(
        &self,
        layer: &Layer,
        source: Digest,
        wish: LayerCompression,
        epoch_s: i64,
    ) -> Result<LayerBlob, EngineError> {
        let (latest_s, diff_id) = self.latest_time(layer, source)?;
        let limit = limit(layer, epoch_s);
        if limit.keeps_until(at(latest_s))
            && let Some(blob) = self.find_form(diff_id, Some(wish))?
        {
            self.note_dated(layer, epoch_s, &blob, 0)?;
            return Ok(blob);
        }
        let writer = self.root.blobs().writer()?;
        let options = WriteOptions::new(wish.codec());
        let clamped = clamp_tar(
            self.open_archive(layer, &source)?,
            limit,
            self.tar_limits(),
            &options,
            writer,
        );
        let (made, writer) = clamped.map_err(EngineError::layer(layer.key.text()))?;
        if made.source_diff_id != diff_id {
            return Err(EngineError::diff_id(
                source,
                made.source_diff_id.0,
                diff_id.0,
            ));
        }
        let (digest, size_bytes) = writer.commit(Some(&made.digest))?;
        let blob = self.keep_form(wish, made.diff_id, digest, size_bytes)?;
        self.note_dated(layer, epoch_s, &blob, made.uncompressed_size)?;
        Ok(blob)
    }

    /// The latest time in a blob's tar stream, which is looked for once.
    fn latest_time(&self, layer: &Layer, blob: Digest) -> Result<(i64, DiffId), EngineError> {
        let kv = self.root.kv();
        let known = self.root.layers().form_of(&blob)?.map(|form| form.diff_id);
        if let Some(diff_id) = known
            && let Some(kept) = kv.get(LATEST_TIMES, &diff_id.to_string())?
            && let Ok(seconds) = kept.try_into()
        {
            return Ok((i64::from_be_bytes(seconds), diff_id));
        }
        let input = self.open_archive(layer, &blob)?;
        let (latest, diff_id) = latest_time_of_tar(input, self.tar_limits())
            .map_err(EngineError::layer(layer.key.text()))?;
        // As the stream has it: whole seconds, or later than the second that it says.
        let seconds = latest
            .seconds
            .saturating_add(i64::from(latest.nanoseconds > 0));
        kv.put(LATEST_TIMES, &diff_id.to_string(), &seconds.to_be_bytes())?;
        Ok((seconds, diff_id))
    }

    /// Keeps the index of a copy that was made for an epoch: an equal layer of another build
    /// may be here, with other times.
    pub(crate) fn keep_dated_index(
        &self,
        index: &LayerIndex,
        epoch_s: i64,
    ) -> Result<(), EngineError> {
        let key = LayerKey::Made(index.layer_id());
        let mut record = LayerRecord::new(dated_id(key, epoch_s));
        record.index_blob = Some(self.put_index(index)?);
        Ok(self.root.layers().put(&record)?)
    }

    /// What a stack of layers shows, with the times of `epoch_s` where there is one.
    pub(crate) async fn view_at(
        self: &Arc<Self>,
        layers: &[Arc<Layer>],
        epoch_s: Option<i64>,
    ) -> Result<TreeView, EngineError> {
        let indexes = layers.iter().map(|layer| self.index_at(layer, epoch_s));
        let indexes = futures_util::future::try_join_all(indexes).await?;
        Ok(TreeView::new(&indexes))
    }

    async fn index_at(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        epoch_s: Option<i64>,
    ) -> Result<Arc<LayerIndex>, EngineError> {
        let (Some(epoch_s), LayerKey::Made(_)) = (epoch_s, layer.key) else {
            return self.index(layer).await;
        };
        let mut kept = None;
        if layer.changes.is_none() {
            let (store, id) = (Arc::clone(self), dated_id(layer.key, epoch_s));
            kept = tokio::task::spawn_blocking(move || store.kept_index(&id)).await??;
        }
        let index = match kept {
            Some(kept) => Arc::new(kept),
            None => self.index(layer).await?,
        };
        let limit = limit(layer, epoch_s);
        let entries = index.entries().iter().cloned().map(|mut entry| {
            let mtime = &mut entry.entry.metadata.mtime;
            *mtime = limit.apply(*mtime);
            entry
        });
        let dated = LayerIndex::new(entries.collect());
        Ok(Arc::new(
            dated.map_err(EngineError::layer(layer.key.text()))?,
        ))
    }

    fn note_dated(
        &self,
        layer: &Layer,
        epoch_s: i64,
        blob: &LayerBlob,
        tar_bytes: u64,
    ) -> Result<(), EngineError> {
        let mut record = LayerRecord::new(dated_id(layer.key, epoch_s));
        record.diff_id = Some(blob.diff_id);
        record.blob = Some(blob.descriptor.digest);
        record.tar_bytes = tar_bytes;
        Ok(self.root.layers().put(&record)?)
    }
}

fn limit(layer: &Layer, epoch_s: i64) -> TimeLimit {
    TimeLimit {
        latest: at(epoch_s),
        made: at(layer.created.as_second().saturating_add(1)),
    }
}

fn at(epoch_s: i64) -> Timestamp {
    Timestamp {
        seconds: epoch_s,
        nanoseconds: 0,
    }
}

/// The name of a layer's dated blob in the database.
fn dated_id(key: LayerKey, epoch_s: i64) -> LayerId {
    let text = format!("{} {epoch_s}", key.text());
    LayerId(blake3::derive_key(
        "longshore dated layer 1",
        text.as_bytes(),
    ))
}
