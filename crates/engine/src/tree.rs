//! A step's result: some files, present or merely named.

use std::sync::Arc;

use longshore_oci::{ChainId, DiffId};
use longshore_solver::ContentDigest;
use serde::{Deserialize, Serialize};

use crate::context::LocalTree;
use crate::layer::{Layer, LayerKey, RemoteBlob};

/// A result of the solver's.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    /// Layers on one another, lowest first.
    Layers(Vec<Arc<Layer>>),
    /// A directory of this machine: a context.
    Local(Arc<LocalTree>),
}

impl Tree {
    /// No files.
    pub(crate) fn empty() -> Self {
        Self::Layers(Vec::new())
    }
}

/// What tells a stack of layers from others: the layers' keys.
pub(crate) fn identity(layers: &[Arc<Layer>]) -> ContentDigest {
    let mut hasher = blake3::Hasher::new_derive_key("longshore tree 1");
    for layer in layers {
        layer.key.hash(&mut hasher);
    }
    hasher.finalize().into()
}

/// A layer as a cache record names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordedLayer {
    pub(crate) key: RecordedKey,
    /// When it was made, seconds since 1970.
    pub(crate) created_s: i64,
    /// Where it can be fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<RemoteBlob>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordedKey {
    Made(longshore_oci::LayerId),
    Image { chain: ChainId, diff_id: DiffId },
}

impl From<LayerKey> for RecordedKey {
    fn from(key: LayerKey) -> Self {
        match key {
            LayerKey::Made(id) => Self::Made(id),
            LayerKey::Image { chain, diff_id } => Self::Image { chain, diff_id },
        }
    }
}

impl From<RecordedKey> for LayerKey {
    fn from(key: RecordedKey) -> Self {
        match key {
            RecordedKey::Made(id) => Self::Made(id),
            RecordedKey::Image { chain, diff_id } => Self::Image { chain, diff_id },
        }
    }
}
