//! A layer's index: found, or made in one pass over the cheapest representation.

use std::io::Write as _;
use std::sync::Arc;

use longshore_content::StateRoot;
use longshore_layers::{INDEX_BYTES_MAX, LayerIndex, TreeView, index_of_tar};
use longshore_oci::{Digest, LayerId};

use super::{Layer, LayerKey, LayerStore};
use crate::EngineError;

impl LayerStore {
    /// The layer's index.
    pub(crate) async fn index(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
    ) -> Result<Arc<LayerIndex>, EngineError> {
        let index = layer.index.get_or_try_init(|| async {
            let (store, shared) = (Arc::clone(self), Arc::clone(layer));
            let kept =
                tokio::task::spawn_blocking(move || store.kept_index(&shared.key.record_id()))
                    .await??;
            match kept {
                Some(index) => Ok(Arc::new(index)),
                None => self.make_index(layer).await,
            }
        });
        index.await.cloned()
    }

    /// What a stack of layers shows.
    pub(crate) async fn view(
        self: &Arc<Self>,
        layers: &[Arc<Layer>],
    ) -> Result<TreeView, EngineError> {
        let indexes =
            futures_util::future::try_join_all(layers.iter().map(|layer| self.index(layer)))
                .await?;
        Ok(TreeView::new(&indexes))
    }

    pub(super) fn kept_index(&self, id: &LayerId) -> Result<Option<LayerIndex>, EngineError> {
        let record = self.root.layers().get(id)?;
        let Some(digest) = record.and_then(|record| record.index_blob) else {
            return Ok(None);
        };
        let Some(bytes) = self
            .root
            .blobs()
            .read_all(&digest, INDEX_BYTES_MAX as u64)?
        else {
            return Ok(None);
        };
        // A damaged index is made again.
        Ok(LayerIndex::decode(&bytes).ok())
    }

    async fn make_index(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
    ) -> Result<Arc<LayerIndex>, EngineError> {
        let blob = self.any_blob(layer).await?;
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let input = store.open_archive(&layer, &blob)?;
            let read = index_of_tar(input, store.tar_limits())
                .map_err(EngineError::layer(layer.key.text()))?;
            store.check_diff_id(&layer, blob, read.diff_id)?;
            store.keep_index(&layer, &read.index)?;
            Ok(Arc::new(read.index))
        })
        .await?
    }

    /// That a blob unpacked to what its image says.
    pub(super) fn check_diff_id(
        &self,
        layer: &Layer,
        blob: Digest,
        actual: longshore_oci::DiffId,
    ) -> Result<(), EngineError> {
        match layer.key {
            LayerKey::Image { diff_id, .. } if diff_id != actual => {
                Err(EngineError::diff_id(blob, actual.0, diff_id.0))
            }
            _ => Ok(()),
        }
    }

    /// Stores an index beside the layer's record.
    pub(crate) fn keep_index(&self, layer: &Layer, index: &LayerIndex) -> Result<(), EngineError> {
        let digest = self.put_index(index)?;
        self.note(layer.key, |record| record.index_blob = Some(digest))
    }

    pub(super) fn put_index(&self, index: &LayerIndex) -> Result<Digest, EngineError> {
        put_cached(&self.root, &index.encode())
    }
}

/// Stores what can be made again.
fn put_cached(root: &StateRoot, bytes: &[u8]) -> Result<Digest, EngineError> {
    let mut writer = root.cache_blobs().writer()?;
    writer
        .write_all(bytes)
        .map_err(EngineError::io("write", root.path()))?;
    Ok(writer.commit(None)?.0)
}
