//! A layer as a blob: fetched, found, or written.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use longshore_content::LocalWriter;
use longshore_layers::{
    Compression, Decompressor, StreamFormat, WriteOptions, index_of_tar, write_layer,
};
use longshore_oci::{Descriptor, DiffId, Digest, media_type};
use longshore_registry_client::Client;

use super::{BlobPlace, CachedForm, Layer, LayerKey, LayerStore, RemoteBlob};
use crate::{EngineError, LayerCompression};

/// A blob that holds a layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerBlob {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
}

impl LayerCompression {
    /// The name under which the database keeps blobs of this form.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Gzip(level) => format!("gzip-{level}"),
            Self::Zstd(level) => format!("zstd-{level}"),
            Self::Uncompressed => "none".to_owned(),
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Gzip(_) => media_type::OCI_LAYER_GZIP,
            Self::Zstd(_) => media_type::OCI_LAYER_ZSTD,
            Self::Uncompressed => media_type::OCI_LAYER_TAR,
        }
    }

    fn format(self) -> StreamFormat {
        match self {
            Self::Gzip(_) => StreamFormat::Gzip,
            Self::Zstd(_) => StreamFormat::Zstd,
            Self::Uncompressed => StreamFormat::Plain,
        }
    }

    pub(crate) fn codec(self) -> Compression {
        match self {
            Self::Gzip(level) => Compression::Gzip { level },
            Self::Zstd(level) => Compression::Zstd {
                level: i32::try_from(level).unwrap_or(i32::MAX),
            },
            Self::Uncompressed => Compression::None,
        }
    }
}

impl LayerStore {
    /// The layer's blob in the wished form. An image's layer keeps the form that it came in
    /// unless `force` asks otherwise.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
        force: bool,
    ) -> Result<LayerBlob, EngineError> {
        let keeps_form = matches!(layer.key, LayerKey::Image { .. }) && !force;
        let mut blobs = layer.blobs.lock().await;
        if let Some(blob) = blobs.get(&(wish, keeps_form)) {
            return Ok(blob.clone());
        }
        let cached = layer.remote().and_then(|remote| remote.cached);
        let is_cached_so = cached.is_some_and(|cached| cached.compression == wish);
        let can_fetch =
            (keeps_form && layer.remote().is_some()) || (is_cached_so && layer.changes.is_none());
        let blob = match self.find_blob(layer, wish, keeps_form).await? {
            Some(blob) => blob,
            None if can_fetch => self.fetch(layer).await?,
            None => self.write_blob(layer, wish).await?,
        };
        blobs.insert((wish, keeps_form), blob.clone());
        Ok(blob)
    }

    pub(super) async fn find_blob(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
        any_form: bool,
    ) -> Result<Option<LayerBlob>, EngineError> {
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let Some(diff_id) = store.diff_id(&layer)? else {
                return Ok(None);
            };
            if any_form && let Some(remote) = layer.remote() {
                // The image's own blob before any other form of the layer.
                let here = store
                    .root
                    .blobs()
                    .info(&remote.descriptor.digest)?
                    .is_some();
                if here {
                    return Ok(Some(LayerBlob {
                        descriptor: remote.descriptor,
                        diff_id,
                    }));
                }
            }
            store.find_form(diff_id, (!any_form).then_some(wish))
        })
        .await?
    }

    /// A blob with this tar stream that is here, in the wished form.
    pub(super) fn find_form(
        &self,
        diff_id: DiffId,
        wish: Option<LayerCompression>,
    ) -> Result<Option<LayerBlob>, EngineError> {
        let label = wish.map(LayerCompression::label);
        for form in self.root.layers().blobs_of(&diff_id)? {
            let fits = label
                .as_ref()
                .is_none_or(|label| form.compression == *label);
            if fits && self.root.blobs().publish(&form.blob)? {
                let descriptor = Descriptor::new(form.media_type, form.blob, form.size_bytes);
                return Ok(Some(LayerBlob {
                    descriptor,
                    diff_id,
                }));
            }
        }
        Ok(None)
    }

    fn diff_id(&self, layer: &Layer) -> Result<Option<DiffId>, EngineError> {
        if let LayerKey::Image { diff_id, .. } = layer.key {
            return Ok(Some(diff_id));
        }
        Ok(self.record(layer.key)?.and_then(|record| record.diff_id))
    }

    /// A blob of the layer in any form that is here.
    pub(super) fn stored_blob(&self, layer: &Layer) -> Result<Option<Digest>, EngineError> {
        // What a build cache says of a blob is not believed before the blob was read.
        let own = layer.remote().filter(|remote| remote.cached.is_none());
        if let Some(remote) = own
            && self.root.blobs().info(&remote.descriptor.digest)?.is_some()
        {
            return Ok(Some(remote.descriptor.digest));
        }
        let Some(diff_id) = self.diff_id(layer)? else {
            return Ok(None);
        };
        for form in self.root.layers().blobs_of(&diff_id)? {
            if self.root.blobs().info(&form.blob)?.is_some() {
                return Ok(Some(form.blob));
            }
        }
        Ok(None)
    }

    /// Fetches the layer's blob from where it can be had.
    async fn fetch(self: &Arc<Self>, layer: &Arc<Layer>) -> Result<LayerBlob, EngineError> {
        let _alone = layer.fetching.lock().await;
        let remote = layer.remote().ok_or_else(|| lost(layer))?;
        match (layer.key, remote.cached) {
            (LayerKey::Image { diff_id, .. }, _) => {
                self.download(&self.registry, &remote).await?;
                self.keep_blob(remote.descriptor, diff_id, "as pulled".to_owned())
            }
            (LayerKey::Made(_), Some(cached)) => {
                let fetched = self.fetch_cached(layer, &remote, cached).await;
                if let Err(error) = &fetched {
                    self.note_lost(error.to_string());
                }
                fetched
            }
            (LayerKey::Made(_), None) => Err(lost(layer)),
        }
    }

    fn keep_blob(
        &self,
        descriptor: Descriptor,
        diff_id: DiffId,
        compression: String,
    ) -> Result<LayerBlob, EngineError> {
        self.count_written(descriptor.size);
        let form = longshore_content::layers::LayerBlob {
            diff_id,
            blob: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            compression,
            size_bytes: descriptor.size,
        };
        self.root.layers().put_blob(&form)?;
        Ok(LayerBlob {
            descriptor,
            diff_id,
        })
    }

    async fn download(&self, client: &Client, remote: &RemoteBlob) -> Result<(), EngineError> {
        match &remote.place {
            BlobPlace::Registry(repository) => {
                let descriptor = &remote.descriptor;
                crate::transfer::fetch_blob(&self.root, client, repository, descriptor).await?;
                Ok(())
            }
            BlobPlace::Directory(directory) => {
                let (root, directory) = (self.root.clone(), directory.clone());
                let descriptor = remote.descriptor.clone();
                tokio::task::spawn_blocking(move || {
                    crate::layout::copy_blob(&root, &directory, &descriptor)
                })
                .await?
            }
        }
    }

    /// Fetches the blob of a layer that a build cache names, and takes it only when it is
    /// what the cache says: the same archive, the same changes.
    async fn fetch_cached(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        remote: &RemoteBlob,
        cached: CachedForm,
    ) -> Result<LayerBlob, EngineError> {
        let (descriptor, label) = (remote.descriptor.clone(), cached.compression.label());
        let (store, shared) = (Arc::clone(self), Arc::clone(layer));
        let stored = tokio::task::spawn_blocking(move || store.stored_blob(&shared)).await??;
        if stored != Some(descriptor.digest) {
            self.download(&self.caches, remote).await?;
            let (store, shared) = (Arc::clone(self), Arc::clone(layer));
            let blob = descriptor.digest;
            tokio::task::spawn_blocking(move || store.verify_cached(&shared, blob, cached))
                .await??;
        }
        self.keep_blob(descriptor, cached.diff_id, label)
    }

    fn verify_cached(
        &self,
        layer: &Layer,
        blob: Digest,
        cached: CachedForm,
    ) -> Result<(), EngineError> {
        let input = self.open_archive(layer, &blob)?;
        let format = input.format();
        let read =
            index_of_tar(input, self.tar_limits()).map_err(EngineError::layer(layer.key.text()))?;
        if read.diff_id != cached.diff_id {
            return Err(EngineError::diff_id(blob, read.diff_id.0, cached.diff_id.0));
        }
        let is_so = LayerKey::Made(read.index.layer_id()) == layer.key
            && format == cached.compression.format();
        if !is_so {
            let other = format!("the cache's blob {blob} is another layer");
            let other = io::Error::new(io::ErrorKind::InvalidData, other);
            return Err(EngineError::layer(layer.key.text())(other));
        }
        self.keep_index(layer, &read.index)?;
        let _ = layer.index.set(Arc::new(read.index));
        self.note(layer.key, |record| {
            record.diff_id = Some(cached.diff_id);
            record.blob = Some(blob);
        })
    }

    /// Whether a blob is here.
    pub(crate) fn has_blob(&self, digest: &Digest) -> Result<bool, EngineError> {
        Ok(self.root.blobs().info(digest)?.is_some())
    }

    /// Fetches the blob unless it is here: an image that is kept is kept whole.
    pub(crate) async fn ensure_stored(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        blob: &LayerBlob,
    ) -> Result<(), EngineError> {
        if self.root.blobs().publish(&blob.descriptor.digest)? {
            return Ok(());
        }
        self.fetch(layer).await.map(|_| ())
    }

    /// Some blob of the layer, fetched where it is not here.
    pub(super) async fn any_blob(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
    ) -> Result<Digest, EngineError> {
        let (store, shared) = (Arc::clone(self), Arc::clone(layer));
        let found = tokio::task::spawn_blocking(move || store.stored_blob(&shared)).await??;
        match found {
            Some(digest) => Ok(digest),
            None => Ok(self.fetch(layer).await?.descriptor.digest),
        }
    }

    /// The archive in a blob of the layer.
    pub(super) fn open_archive(
        &self,
        layer: &Layer,
        blob: &Digest,
    ) -> Result<Decompressor<File>, EngineError> {
        let file = self.root.blobs().open(blob)?.ok_or_else(|| lost(layer))?;
        Decompressor::new(file, self.limits).map_err(EngineError::layer(layer.key.text()))
    }

    async fn write_blob(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
    ) -> Result<LayerBlob, EngineError> {
        // From files where they are known; else from another form of the same archive,
        // which must stay the same archive: its bytes are copied, not made again.
        let from_files = layer.changes.is_some() || self.has_directory_only(layer)?;
        if from_files {
            return self.write_from_files(layer, wish).await;
        }
        let source = self.any_blob(layer).await?;
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || store.recompress(&layer, source, wish)).await?
    }

    pub(super) fn has_directory_only(&self, layer: &Layer) -> Result<bool, EngineError> {
        Ok(matches!(layer.key, LayerKey::Made(_))
            && self.stored_blob(layer)?.is_none()
            && self.usable_snapshot(layer)?.is_some())
    }

    async fn write_from_files(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        wish: LayerCompression,
    ) -> Result<LayerBlob, EngineError> {
        let changes = match layer.changes() {
            Some(changes) => Arc::clone(changes),
            None => {
                let index = self.index(layer).await?;
                Arc::new(self.changes_of_directory(layer, index).await?)
            }
        };
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let options = WriteOptions::new(wish.codec());
            let mut writer = store.root.blobs().writer()?;
            let summary = write_layer(changes.iter().cloned(), &options, &mut writer)
                .map_err(EngineError::layer(layer.key.text()))?;
            let (digest, size_bytes) = writer.commit(Some(&summary.digest))?;
            store.keep(
                &layer,
                wish,
                summary.diff_id,
                summary.uncompressed_size,
                digest,
                size_bytes,
            )
        })
        .await?
    }

    fn recompress(
        &self,
        layer: &Layer,
        source: Digest,
        wish: LayerCompression,
    ) -> Result<LayerBlob, EngineError> {
        let mut input = self.open_archive(layer, &source)?;
        let mut writer = self.root.blobs().writer()?;
        let (diff_id, tar_bytes) = copy_compressed(&mut input, wish.codec(), &mut writer)
            .map_err(EngineError::layer(layer.key.text()))?;
        let (digest, size_bytes) = writer.commit(None)?;
        self.keep(layer, wish, diff_id, tar_bytes, digest, size_bytes)
    }

    pub(super) fn keep(
        &self,
        layer: &Layer,
        form: LayerCompression,
        diff_id: DiffId,
        tar_bytes: u64,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<LayerBlob, EngineError> {
        if let LayerKey::Image {
            diff_id: expected, ..
        } = layer.key
            && expected != diff_id
        {
            return Err(EngineError::diff_id(digest, diff_id.0, expected.0));
        }
        let blob = self.keep_form(form, diff_id, digest, size_bytes)?;
        self.note(layer.key, |record| {
            record.diff_id = Some(diff_id);
            record.blob = Some(digest);
            record.tar_bytes = tar_bytes;
        })?;
        Ok(blob)
    }

    /// Notes that a blob is a form of a tar stream.
    pub(super) fn keep_form(
        &self,
        form: LayerCompression,
        diff_id: DiffId,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<LayerBlob, EngineError> {
        let descriptor = Descriptor::new(form.media_type(), digest, size_bytes);
        self.keep_blob(descriptor, diff_id, form.label())
    }
}

fn copy_compressed(
    input: &mut impl io::Read,
    compression: Compression,
    sink: &mut LocalWriter,
) -> io::Result<(DiffId, u64)> {
    let mut digester = longshore_oci::Digester::new(longshore_oci::Algorithm::Sha256);
    let mut encoder =
        longshore_layers::Compressor::new(compression, longshore_layers::all_cores(), sink)?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digester.update(&buffer[..count]);
        encoder.write_all(&buffer[..count])?;
        total += count as u64;
    }
    encoder.finish()?;
    Ok((DiffId(digester.finish()), total))
}

/// No representation of the layer is left.
pub(super) fn lost(layer: &Layer) -> EngineError {
    EngineError::layer(layer.key.text())(io::Error::new(
        io::ErrorKind::NotFound,
        "no copy of it is left here",
    ))
}
