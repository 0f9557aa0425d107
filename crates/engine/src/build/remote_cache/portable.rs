//! A step's result as it is said to other machines: its layers, and the blobs of those
//! that a step made.
//!
//! An image's layers are named but not kept: whoever finds the record has the same image
//! in its own build, and fetches them from there.

use std::collections::HashSet;

use longshore_oci::{Descriptor, Digest};
use longshore_solver::{BoxError, CacheRecord};
use serde::{Deserialize, Serialize};

use crate::layer::{BlobPlace, CachedForm, RemoteBlob};
use crate::tree::{RecordedKey, RecordedLayer};

/// How many layers a record may name: overlay stacks end far below.
const LAYERS_MAX: usize = 4096;

/// A layer as a record elsewhere names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PortableLayer {
    pub(super) key: RecordedKey,
    pub(super) created_s: i64,
    /// The blob of a layer that a step made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<PortableBlob>,
}

impl PortableLayer {
    /// Whether the layer's blob, if it has one, is among `blobs`.
    pub(super) fn is_among(&self, blobs: &HashSet<Digest>) -> bool {
        let blob = self.blob.as_ref();
        blob.is_none_or(|blob| blobs.contains(&blob.descriptor.digest))
    }
}

/// A blob and what it holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PortableBlob {
    pub(super) descriptor: Descriptor,
    #[serde(flatten)]
    pub(super) form: CachedForm,
}

/// The layers of each of a record's outputs.
pub(super) fn layers_of(record: &CacheRecord) -> Result<Vec<Vec<RecordedLayer>>, BoxError> {
    let outputs = record.outputs.iter();
    let layers = outputs.map(|output| serde_json::from_slice(&output.encoded));
    Ok(layers.collect::<Result<_, _>>()?)
}

/// The record as other machines may have it; `blob_of` has the blobs of the layers that
/// steps made, and the times of their steps. `None` where one of them has none.
pub(super) fn export(
    record: &CacheRecord,
    blob_of: impl Fn(&RecordedKey) -> Option<(PortableBlob, i64)>,
) -> Result<Option<CacheRecord>, BoxError> {
    let mut portable = record.redacted();
    for (output, layers) in portable.outputs.iter_mut().zip(layers_of(record)?) {
        let mut named = Vec::with_capacity(layers.len());
        for layer in layers {
            let (blob, created_s) = match &layer.key {
                RecordedKey::Image { .. } => (None, layer.created_s),
                made @ RecordedKey::Made(_) => match blob_of(made) {
                    Some((blob, created_s)) => (Some(blob), created_s),
                    None => return Ok(None),
                },
            };
            named.push(PortableLayer {
                key: layer.key,
                created_s,
                blob,
            });
        }
        output.encoded = serde_json::to_vec(&named)?;
    }
    Ok(Some(portable))
}

/// The record as this machine keeps it: with where the blobs are. What is no list of
/// layers stays as it is.
pub(super) fn import(mut record: CacheRecord, place: &BlobPlace) -> Result<CacheRecord, BoxError> {
    for output in &mut record.outputs {
        let Ok(layers) = serde_json::from_slice::<Vec<PortableLayer>>(&output.encoded) else {
            continue;
        };
        if layers.len() > LAYERS_MAX {
            return Err("the cache's record names too many layers".into());
        }
        let layers = layers.into_iter().map(|layer| imported(layer, place));
        let layers: Vec<RecordedLayer> = layers.collect::<Result<_, _>>()?;
        output.encoded = serde_json::to_vec(&layers)?;
    }
    Ok(record)
}

fn imported(layer: PortableLayer, place: &BlobPlace) -> Result<RecordedLayer, BoxError> {
    if matches!(layer.key, RecordedKey::Made(_)) != layer.blob.is_some() {
        return Err("the cache's record has a layer without a blob".into());
    }
    let remote = layer.blob.map(|blob| RemoteBlob {
        place: place.clone(),
        // In our own words: what else the descriptor says does not count.
        descriptor: Descriptor::new(
            blob.form.compression.media_type(),
            blob.descriptor.digest,
            blob.descriptor.size,
        ),
        cached: Some(blob.form),
    });
    Ok(RecordedLayer {
        key: layer.key,
        created_s: layer.created_s,
        remote,
    })
}
