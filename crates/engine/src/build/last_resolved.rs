//! What a tag was when a registry was last asked: for when it cannot be asked.
//!
//! The record holds the documents themselves, a manifest's JSON and its configuration's, so
//! that a collection that removed the blobs takes nothing from it, and it keeps no layers.

use std::time::{Duration, SystemTime};

use longshore_content::StateRoot;
use longshore_content::cache_records::{CacheRecord, Key};
use longshore_oci::{Descriptor, Platform, Reference};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::image::ImageStore;
use crate::transfer::{self, Resolved};

/// A record that was of use so lately is not touched again.
const FRESH: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct Record {
    top: Descriptor,
    /// The index if there is one, the manifest and the configuration.
    documents: Vec<String>,
}

fn key(reference: &Reference, platform: &Platform) -> Key {
    let name = format!("{reference} {platform}");
    blake3::derive_key("longshore last resolved 1", name.as_bytes())
}

/// Remembers what the registry said.
pub(super) fn remember(
    root: &StateRoot,
    reference: &Reference,
    platform: &Platform,
    resolved: &Resolved,
) -> Result<(), EngineError> {
    let (records, key, now) = (
        root.cache_records(),
        key(reference, platform),
        SystemTime::now(),
    );
    if let Some(row) = records.get(&key)?
        && read(&row).is_some_and(|record| record.top.digest == resolved.top.digest)
    {
        if row.last_used.elapsed().is_ok_and(|age| age > FRESH) {
            records.touch(&[key])?;
        }
        return Ok(());
    }
    let (images, name) = (ImageStore::new(root.clone()), reference.familiar());
    let mut digests = vec![
        resolved.top.digest,
        resolved.descriptor.digest,
        resolved.manifest.config.digest,
    ];
    digests.dedup();
    let mut documents = Vec::new();
    for digest in digests {
        let limit = longshore_oci::DOCUMENT_BYTES_MAX as u64;
        let bytes = images.bytes(&name, "document", digest, limit)?;
        // What is not text is no JSON: it is not kept, and not missed.
        documents.extend(String::from_utf8(bytes));
    }
    let record = Record {
        top: resolved.top.clone(),
        documents,
    };
    let bytes = serde_json::to_vec(&record)
        .map_err(|error| EngineError::Invalid(format!("what `{name}` is: {error}")))?;
    Ok(records.put(&[CacheRecord {
        key,
        identity: blake3::hash(&bytes).as_bytes().to_vec(),
        record: bytes,
        fields: "[]".to_owned(),
        grouping: String::new(),
        cost_ms: 0,
        layers: Vec::new(),
        blobs: Vec::new(),
        created: now,
        last_used: now,
    }])?)
}

/// What the registry said last, and when that was first said; `None` where it never said.
pub(super) fn recall(
    root: &StateRoot,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<(Resolved, SystemTime)>, EngineError> {
    let (records, key) = (root.cache_records(), key(reference, platform));
    let Some(row) = records.get(&key)? else {
        return Ok(None);
    };
    let Some(record) = read(&row) else {
        return Ok(None);
    };
    records.touch(&[key])?;
    for document in &record.documents {
        root.blobs().put(document.as_bytes())?;
    }
    let resolved = transfer::resolve_stored(root, reference, record.top, platform)?;
    Ok(resolved.map(|resolved| (resolved, row.last_used)))
}

fn read(row: &CacheRecord) -> Option<Record> {
    serde_json::from_slice(&row.record).ok()
}
