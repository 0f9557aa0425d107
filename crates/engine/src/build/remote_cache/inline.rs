//! The records of an image's own layers, in an annotation of its manifest.
//!
//! ```json
//! { "layers":  [ every layer of the image, as other records name them ],
//!   "records": [ { "keys": […], "identity": "…", "layers": 3 } ] }
//! ```
//!
//! The result of each step that an image stands on is a beginning of its layers, so that
//! a record only says how many. Nothing in it depends on when or where the build ran: an
//! image that is built again from the cache is the same.

use std::collections::{HashMap, HashSet};

use longshore_oci::{Digest, Manifest};
use longshore_solver::{
    BoxError, CacheKey, CacheRecord, ContentDigest, KeyFields, RecordedOutput, Trace,
};
use serde::{Deserialize, Serialize};

use super::portable::{self, PortableBlob, PortableLayer};
use crate::build::ImageLayer;
use crate::layer::{BlobPlace, CachedForm, Layer, LayerKey};
use crate::{EngineError, LayerCompression};

/// The annotation.
pub(crate) const INLINE_ANNOTATION: &str = "dev.longshore.cache.inline";

#[derive(Debug, Serialize, Deserialize)]
struct Inline {
    layers: Vec<PortableLayer>,
    records: Vec<InlineRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct InlineRecord {
    keys: Vec<CacheKey>,
    identity: ContentDigest,
    /// How many of the layers, from the lowest.
    layers: usize,
}

/// What the annotation says of an image of these layers, made by steps with these records;
/// `None` where no record's result is a beginning of them.
pub(crate) fn inline_records(
    layers: &[std::sync::Arc<Layer>],
    blobs: &[ImageLayer],
    compression: LayerCompression,
    steps: &[(Vec<CacheKey>, CacheRecord)],
) -> Result<Option<String>, EngineError> {
    let keys: Vec<LayerKey> = layers.iter().map(|layer| layer.key).collect();
    let records: Vec<InlineRecord> = steps
        .iter()
        .filter_map(|(names, record)| inline_record(&keys, names, record))
        .collect();
    if records.is_empty() {
        return Ok(None);
    }
    let layers = layers.iter().zip(blobs).map(|(layer, blob)| {
        let form = CachedForm {
            diff_id: blob.diff_id,
            compression,
        };
        let made = matches!(layer.key, LayerKey::Made(_));
        PortableLayer {
            key: layer.key.into(),
            // What has the very epoch of a dated blob was made by the step.
            created_s: blob.created.as_second() - i64::from(blob.created != layer.created),
            blob: made.then(|| PortableBlob {
                descriptor: blob.descriptor.clone(),
                form,
            }),
        }
    });
    let inline = Inline {
        layers: layers.collect(),
        records,
    };
    let text = serde_json::to_string(&inline);
    text.map(Some)
        .map_err(|source| EngineError::ArchiveRead(Box::new(source)))
}

fn inline_record(
    image: &[LayerKey],
    keys: &[CacheKey],
    record: &CacheRecord,
) -> Option<InlineRecord> {
    let [output] = &record.outputs[..] else {
        return None;
    };
    let layers = portable::layers_of(record).ok()?.pop()?;
    let own: Vec<LayerKey> = layers.into_iter().map(|layer| layer.key.into()).collect();
    image.starts_with(&own).then(|| InlineRecord {
        keys: keys.to_vec(),
        identity: output.identity,
        layers: own.len(),
    })
}

/// The records that a manifest carries, as this machine keeps them; none where it carries
/// none, or they are not of these layers.
pub(super) fn read(
    manifest: &Manifest,
    place: &BlobPlace,
) -> Result<HashMap<CacheKey, CacheRecord>, BoxError> {
    let Some(text) = manifest.annotations.get(INLINE_ANNOTATION) else {
        return Ok(HashMap::new());
    };
    let inline: Inline = serde_json::from_str(text)?;
    let there: HashSet<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    let mut records = HashMap::new();
    for inline_record in inline.records {
        let Some(layers) = inline.layers.get(..inline_record.layers) else {
            continue;
        };
        if !layers.iter().all(|layer| layer.is_among(&there)) {
            continue;
        }
        let encoded = serde_json::to_vec(layers)?;
        for key in &inline_record.keys {
            let record = minimal(*key, inline_record.identity, encoded.clone());
            records.insert(*key, portable::import(record, place)?);
        }
    }
    Ok(records)
}

/// A record that says what came out, and nothing of what went in.
fn minimal(key: CacheKey, identity: ContentDigest, encoded: Vec<u8>) -> CacheRecord {
    CacheRecord {
        trace: Trace {
            step: String::new(),
            key,
            groups: Vec::new(),
            fields: KeyFields::default(),
            paths: Vec::new(),
            created_s: 0,
        },
        outputs: vec![RecordedOutput { identity, encoded }],
        cost_ms: 0,
    }
}
