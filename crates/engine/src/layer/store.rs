//! Finds and makes layers; keeps in the database which representations there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use jiff::Timestamp;
use longshore_content::StateRoot;
use longshore_content::layers::LayerRecord;
use longshore_layers::{Change, DecompressLimits, LayerIndex, TarLimits};
use longshore_oci::{ChainId, DiffId, LayerId};
use longshore_registry_client::Client;
use longshore_snapshot::OverlaySnapshots;

use super::{Layer, LayerForm, LayerKey, RemoteBlob};
use crate::EngineError;

/// The layers of a state root.
#[derive(Debug)]
pub(crate) struct LayerStore {
    pub(super) root: StateRoot,
    pub(super) snapshots: Arc<OverlaySnapshots>,
    pub(super) registry: Client,
    /// For blobs of build caches: asked with less patience.
    pub(super) caches: Client,
    /// What could not be fetched from a build cache, and why: the builds that counted on
    /// it have to do without.
    lost: Mutex<Vec<String>>,
    pub(super) form: LayerForm,
    /// What a layer's blob may hold.
    pub(crate) limits: DecompressLimits,
    /// Whether layers can be images here, or why not.
    pub(super) images_work: OnceLock<Result<(), String>>,
    /// Bytes that were written to the state root since the start.
    written: AtomicU64,
    /// So that all users of a layer share its state, and make each representation once.
    known: Mutex<HashMap<LayerKey, Weak<Layer>>>,
}

impl LayerStore {
    pub(crate) fn new(
        root: StateRoot,
        snapshots: Arc<OverlaySnapshots>,
        registry: Client,
        caches: Client,
        form: LayerForm,
        limits: DecompressLimits,
    ) -> Self {
        Self {
            root,
            snapshots,
            registry,
            caches,
            lost: Mutex::default(),
            form,
            limits,
            images_work: OnceLock::new(),
            written: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// What the archive in a layer's blob may hold.
    pub(super) fn tar_limits(&self) -> TarLimits {
        TarLimits::within(&self.limits)
    }

    /// How registries are spoken to about build caches.
    pub(crate) fn cache_client(&self) -> &Client {
        &self.caches
    }

    /// The directories and images of layers.
    pub(crate) fn snapshots(&self) -> &Arc<OverlaySnapshots> {
        &self.snapshots
    }

    /// A layer that a step of this process made: so far it only names its files.
    pub(crate) fn made(&self, index: LayerIndex, changes: Vec<Change>) -> Arc<Layer> {
        self.made_at(index, changes, this_second())
    }

    /// The same, made at a time.
    pub(crate) fn made_at(
        &self,
        index: LayerIndex,
        changes: Vec<Change>,
        created: Timestamp,
    ) -> Arc<Layer> {
        let key = LayerKey::Made(index.layer_id());
        self.forget_promise(key);
        let layer = self.share(key, |key| Layer::new(key, created, Some(Arc::new(changes))));
        // An equal layer may be known already; its index is equal then.
        let _ = layer.index.set(Arc::new(index));
        layer
    }

    /// A layer whose directory is about to be kept, by its index. What is later than `before`
    /// was made by its step.
    pub(crate) fn indexed(&self, index: LayerIndex, before: Timestamp) -> Arc<Layer> {
        let key = LayerKey::Made(index.layer_id());
        self.forget_promise(key);
        let layer = self.recorded(key, before);
        let _ = layer.index.set(Arc::new(index));
        layer
    }

    /// A layer that some step made, now or earlier, by its key.
    pub(crate) fn recorded(&self, key: LayerKey, created: Timestamp) -> Arc<Layer> {
        self.share(key, |key| Layer::new(key, created, None))
    }

    /// The layers of an image, lowest first. `remotes` has for each where it can be fetched.
    pub(crate) fn image_layers(
        &self,
        diff_ids: &[DiffId],
        created: Timestamp,
        remotes: impl IntoIterator<Item = RemoteBlob>,
    ) -> Vec<Arc<Layer>> {
        let mut chain: Option<ChainId> = None;
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (diff_id, remote) in diff_ids.iter().zip(remotes) {
            let next = match chain {
                None => ChainId(diff_id.0),
                Some(parent) => extend_chain(parent, *diff_id),
            };
            chain = Some(next);
            let layer = self.recorded(
                LayerKey::Image {
                    chain: next,
                    diff_id: *diff_id,
                },
                created,
            );
            layer.set_remote(remote);
            layers.push(layer);
        }
        layers
    }

    /// Files that are here count more than a blob that a build cache may have.
    fn forget_promise(&self, key: LayerKey) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&key).and_then(Weak::upgrade);
        let is_promise = |layer: &Arc<Layer>| {
            layer.changes.is_none() && layer.remote().is_some_and(|remote| remote.cached.is_some())
        };
        if found.as_ref().is_some_and(is_promise) {
            known.remove(&key);
        }
    }

    fn share(&self, key: LayerKey, make: impl FnOnce(LayerKey) -> Layer) -> Arc<Layer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = known.get(&key).and_then(Weak::upgrade) {
            return layer;
        }
        known.retain(|_, layer| layer.strong_count() > 0);
        let layer = Arc::new(make(key));
        known.insert(key, Arc::downgrade(&layer));
        layer
    }

    /// What the database knows of the layer.
    pub(super) fn record(&self, key: LayerKey) -> Result<Option<LayerRecord>, EngineError> {
        Ok(self.root.layers().get(&key.record_id())?)
    }

    /// Adds to what the database knows of the layer.
    pub(super) fn note(
        &self,
        key: LayerKey,
        fill: impl FnOnce(&mut LayerRecord),
    ) -> Result<(), EngineError> {
        let mut record = LayerRecord::new(key.record_id());
        if let LayerKey::Image { diff_id, .. } = key {
            record.diff_id = Some(diff_id);
        }
        fill(&mut record);
        Ok(self.root.layers().put(&record)?)
    }

    /// Bytes that this process wrote to the state root: blobs and layers' directories.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a build cache did not keep its word.
    pub(super) fn note_lost(&self, what: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.push(what);
    }

    /// What build caches promised and did not have, since this was last asked.
    pub(crate) fn take_lost(&self) -> Vec<String> {
        std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether some representation of the layer is here, or can be fetched.
    pub(crate) fn is_available(&self, layer: &Layer) -> Result<bool, EngineError> {
        if layer.remote().is_some() || layer.changes.is_some() {
            return Ok(true);
        }
        self.is_stored(layer)
    }

    /// Whether the layer will be found here by a later build.
    pub(crate) fn is_stored(&self, layer: &Layer) -> Result<bool, EngineError> {
        // Whether an image can be mounted takes longer to tell than whether a blob is there.
        Ok(self.stored_blob(layer)?.is_some() || self.usable_snapshot(layer)?.is_some())
    }
}

impl LayerKey {
    /// The layer's name in the database.
    pub(crate) fn record_id(&self) -> LayerId {
        match self {
            Self::Made(id) => *id,
            Self::Image { chain, .. } => LayerId(blake3::derive_key(
                "longshore image layer 1",
                chain.to_string().as_bytes(),
            )),
        }
    }
}

fn extend_chain(parent: ChainId, diff_id: DiffId) -> ChainId {
    ChainId(longshore_oci::Digest::sha256_of(
        format!("{parent} {diff_id}").as_bytes(),
    ))
}

/// Now, in whole seconds: what records keep of a layer's time. A build from the cache then
/// makes the image that the build before made.
fn this_second() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}
