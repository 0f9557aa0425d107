//! A layer and its representations.
//!
//! ```text
//!            changes (named files) ─┐
//!   registry ──fetch──► blob ───────┼──► index     what stands where, with content hashes
//!                        ▲          ├──► directory a snapshot that overlay can mount, or an
//!                        │          │              image of one
//!                        └── write ─┘──► blob      tar, compressed, by digest
//! ```
//!
//! Each representation is made only when something asks for it, once, straight from the
//! cheapest one that exists. Invariant: all representations of a layer hold the same
//! changes; a layer made here is named by them ([`LayerKey::Made`]), an image's layer by
//! its place in the image's chain, because what its entries mean can depend on the layers
//! below it (parents that its archive leaves out).

mod archive;
mod blob;
mod dated;
mod directory;
mod form;
mod index;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use longshore_layers::{Change, LayerIndex};
use longshore_oci::{ChainId, Descriptor, DiffId, LayerId, Reference};
use longshore_snapshot::SnapshotId;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub(crate) use archive::LayerArchive;
pub(crate) use blob::LayerBlob;
pub(crate) use dated::{BlobForm, Dating, Epoch};
pub use form::{LayerForm, UnknownLayerForm, try_layer_images};
pub(crate) use store::LayerStore;

use crate::LayerCompression;

/// What a layer is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LayerKey {
    /// By what it changes: a layer that a step made.
    Made(LayerId),
    /// By its place in an image that came from elsewhere.
    Image {
        /// It and all layers below it.
        chain: ChainId,
        /// Its uncompressed archive.
        diff_id: DiffId,
    },
}

impl LayerKey {
    /// Adds the key to a hash, framed.
    pub(crate) fn hash(&self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Made(id) => {
                hasher.update(b"made").update(&id.0);
            }
            Self::Image { chain, .. } => {
                hasher.update(b"chain").update(chain.to_string().as_bytes());
            }
        }
    }

    /// The key as text, for tables and file names: letters and digits.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Made(id) => format!("m{}", id.hex()),
            Self::Image { chain, .. } => format!("c{}", chain.0.hex()),
        }
    }

    /// The name of the layer's directory.
    pub(crate) fn snapshot_id(&self) -> SnapshotId {
        self.text()
            .parse()
            .expect("a letter and hexadecimal digits are a snapshot's name")
    }
}

/// Where a layer's blob can be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteBlob {
    /// Who has it.
    pub(crate) place: BlobPlace,
    /// The blob.
    pub(crate) descriptor: Descriptor,
    /// What a build cache says of it; an image's layer is known by its image instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cached: Option<CachedForm>,
}

/// Who has a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BlobPlace {
    /// A repository: a reference whose tag and digest do not count.
    Registry(#[serde(with = "crate::text")] Reference),
    /// A directory with `blobs/<algorithm>/<digits>` in it.
    Directory(PathBuf),
}

/// What a build cache says of a blob: believed once the blob was read and is just that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedForm {
    /// The uncompressed archive.
    pub(crate) diff_id: DiffId,
    /// How it is compressed.
    pub(crate) compression: LayerCompression,
}

impl RemoteBlob {
    /// A blob of an image in a repository.
    pub(crate) fn of_image(repository: Reference, descriptor: Descriptor) -> Self {
        Self {
            place: BlobPlace::Registry(repository),
            descriptor,
            cached: None,
        }
    }
}

/// A layer: its key, and what this process knows of its representations.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) key: LayerKey,
    /// When it was made, in whole seconds; of a process's layer the second before that began,
    /// so that what is later was made by it. An image's layer takes its image's time.
    pub(crate) created: Timestamp,
    /// The named files, where a step of this process made the layer.
    changes: Option<Arc<Vec<Change>>>,
    remote: Mutex<Option<RemoteBlob>>,
    index: OnceCell<Arc<LayerIndex>>,
    directory: OnceCell<SnapshotId>,
    /// Held while the blob is fetched, so that it is fetched once.
    fetching: tokio::sync::Mutex<()>,
    /// By form, and whether another form is as good.
    blobs: tokio::sync::Mutex<BTreeMap<(LayerCompression, bool), LayerBlob>>,
    /// Blobs whose times are cut off, by the second.
    dated: tokio::sync::Mutex<BTreeMap<(i64, LayerCompression), LayerBlob>>,
}

impl Layer {
    fn new(key: LayerKey, created: Timestamp, changes: Option<Arc<Vec<Change>>>) -> Self {
        Self {
            key,
            created,
            changes,
            remote: Mutex::new(None),
            index: OnceCell::new(),
            directory: OnceCell::new(),
            fetching: tokio::sync::Mutex::default(),
            blobs: tokio::sync::Mutex::default(),
            dated: tokio::sync::Mutex::default(),
        }
    }

    /// When it was made, for an image with the times of an epoch, in seconds since 1970.
    pub(crate) fn created_at(&self, epoch_s: Option<i64>) -> Timestamp {
        match (self.key, epoch_s.map(Timestamp::from_second)) {
            (LayerKey::Made(_), Some(Ok(epoch))) => epoch,
            _ => self.created,
        }
    }

    /// Of a layer of an image in a registry, its blob there and the repository.
    pub(crate) fn origin(&self) -> Option<(LayerBlob, Reference)> {
        let remote = self.remote().filter(|remote| remote.cached.is_none())?;
        match (self.key, remote.place) {
            (LayerKey::Image { diff_id, .. }, BlobPlace::Registry(repository)) => {
                let descriptor = remote.descriptor;
                Some((
                    LayerBlob {
                        descriptor,
                        diff_id,
                    },
                    repository,
                ))
            }
            _ => None,
        }
    }

    /// Where the blob can be fetched from, where that is known.
    pub(crate) fn remote(&self) -> Option<RemoteBlob> {
        self.remote
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Remembers where the blob can be fetched from.
    pub(crate) fn set_remote(&self, remote: RemoteBlob) {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner) = Some(remote);
    }

    /// The named files, where a step of this process made the layer.
    pub(crate) fn changes(&self) -> Option<&Arc<Vec<Change>>> {
        self.changes.as_ref()
    }
}
