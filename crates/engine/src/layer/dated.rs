//! A layer's blob whose files are no later than an epoch (`SOURCE_DATE_EPOCH`).
//!
//! Invariant: only times differ from the layer's other blobs, which a layer is not known by;
//! so a dated blob is as good a representation as any. Which one belongs to a layer and an
//! epoch is kept in a record of its own, beside the layer's.

use std::sync::Arc;

use longshore_content::layers::LayerRecord;
use longshore_layers::{
    Change, TarLimits, Timestamp, WriteOptions, clamp_changes, clamp_tar, latest_time_of_tar,
    write_layer,
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
    /// No file of a layer that was made here is later, seconds since 1970.
    pub(crate) epoch_s: Option<i64>,
}

impl LayerStore {
    /// The layer's blob in the wished form. What came with an image keeps its times: it is
    /// the same for all who build on it.
    pub(crate) async fn blob_as(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        form: BlobForm,
    ) -> Result<LayerBlob, EngineError> {
        match form.epoch_s {
            Some(epoch_s) if matches!(layer.key, LayerKey::Made(_)) => {
                self.dated_blob(layer, form.compression, epoch_s).await
            }
            _ => self.blob(layer, form.compression, form.force).await,
        }
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
        let (found, stored) = tokio::task::spawn_blocking(move || {
            let found = store.find_dated(&shared, wish, epoch_s)?;
            Ok::<_, EngineError>((found, store.stored_blob(&shared)?))
        })
        .await??;
        let from_files = layer.changes.is_some() || self.has_directory_only(layer)?;
        let blob = match (found, stored) {
            (Some(found), _) => found,
            (None, None) if from_files => self.date_files(layer, wish, epoch_s).await?,
            (None, _) => {
                let source = self.any_blob(layer).await?;
                let (store, layer) = (Arc::clone(self), Arc::clone(layer));
                tokio::task::spawn_blocking(move || store.date_blob(&layer, source, wish, epoch_s))
                    .await??
            }
        };
        dated.insert((epoch_s, wish), blob.clone());
        Ok(blob)
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
            None => self.changes_of_directory(layer).await?,
        };
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            clamp_changes(&mut changes, at(epoch_s));
            let mut writer = store.root.blobs().writer()?;
            let summary = write_layer(changes, &WriteOptions::new(wish.codec()), &mut writer)
                .map_err(EngineError::layer(layer.key.text()))?;
            let (digest, size_bytes) = writer.commit(Some(&summary.digest))?;
            let tar_bytes = summary.uncompressed_size;
            // The only blob of the layer: what a later build finds it by.
            let blob = store.keep(&layer, wish, summary.diff_id, tar_bytes, digest, size_bytes)?;
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
        if latest_s <= epoch_s
            && let Some(blob) = self.find_form(diff_id, Some(wish))?
        {
            self.note_dated(layer, epoch_s, &blob, 0)?;
            return Ok(blob);
        }
        let writer = self.root.blobs().writer()?;
        let options = WriteOptions::new(wish.codec());
        let clamped = clamp_tar(
            self.open_archive(layer, &source)?,
            at(epoch_s),
            TarLimits::LAYER,
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
        let (latest, diff_id) = latest_time_of_tar(input, TarLimits::LAYER)
            .map_err(EngineError::layer(layer.key.text()))?;
        // As the stream has it: whole seconds, or later than the second that it says.
        let seconds = latest.seconds + i64::from(latest.nanoseconds > 0);
        kv.put(LATEST_TIMES, &diff_id.to_string(), &seconds.to_be_bytes())?;
        Ok((seconds, diff_id))
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
