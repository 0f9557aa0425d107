//! What a tag was when a registry was last asked: for when it cannot be asked.
//!
//! The record holds the documents themselves, a manifest's JSON and its configuration's, so
//! that a collection that removed the blobs takes nothing from it, and it keeps no layers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore_content::StateRoot;
use longshore_content::cache_records::{CacheRecord, Key};
use longshore_oci::{Descriptor, Platform, Reference};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::image::ImageStore;
use crate::transfer::{self, Resolved};

/// What was said again so soon is not written again.
const FRESH: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Record {
    top: Descriptor,
    /// When the registry last said so, milliseconds since 1970.
    said_ms: u64,
    /// The index if there is one, the manifest and the configuration.
    documents: Vec<String>,
}

impl Record {
    fn said(&self) -> SystemTime {
        let since = Duration::from_millis(self.said_ms);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

fn key(reference: &Reference, platform: &Platform) -> Key {
    let name = format!("{reference} {platform}");
    blake3::derive_key("longshore last resolved 2", name.as_bytes())
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
        && let Some(record) = read(&row)
        && record.top.digest == resolved.top.digest
        && record.said().elapsed().is_ok_and(|age| age < FRESH)
    {
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
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record {
        top: resolved.top.clone(),
        said_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
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

/// What the registry said last, and when that was; `None` where it never said.
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
    let said = record.said();
    let resolved = transfer::resolve_stored(root, reference, record.top, platform)?;
    Ok(resolved.map(|resolved| (resolved, said)))
}

fn read(row: &CacheRecord) -> Option<Record> {
    serde_json::from_slice(&row.record).ok()
}

#[cfg(test)]
mod tests {
    use longshore_oci::Digest;
    use serde_json::json;

    use super::*;

    /// A stored image without layers.
    fn image(root: &StateRoot, reference: &Reference, platform: &Platform) -> Resolved {
        let config = json!({
            "architecture": platform.architecture, "os": platform.os,
            "rootfs": {"type": "layers", "diff_ids": []}
        });
        let stored = |document: &serde_json::Value, media_type: &str| {
            let bytes = document.to_string();
            root.blobs().put(bytes.as_bytes()).unwrap();
            json!({
                "mediaType": media_type, "size": bytes.len(),
                "digest": Digest::sha256_of(bytes.as_bytes()).to_string()
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": stored(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": []
        });
        let top = stored(&manifest, "application/vnd.oci.image.manifest.v1+json");
        let top = serde_json::from_value(top).unwrap();
        let resolved = transfer::resolve_stored(root, reference, top, platform);
        resolved.unwrap().unwrap()
    }

    #[test]
    fn what_was_said_is_as_old_as_when_it_was_said_however_often_it_is_recalled() {
        let folder = tempfile::tempdir().unwrap();
        let root = StateRoot::open(folder.path()).unwrap();
        let reference: Reference = "registry.example/base:1".parse().unwrap();
        let platform = Platform::host();
        let resolved = image(&root, &reference, &platform);
        remember(&root, &reference, &platform, &resolved).unwrap();

        // It was two hours ago.
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let key = key(&reference, &platform);
        let mut row = root.cache_records().get(&key).unwrap().unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&row.record).unwrap();
        let ms = long_ago.duration_since(UNIX_EPOCH).unwrap().as_millis();
        record["said_ms"] = json!(u64::try_from(ms).unwrap());
        row.record = serde_json::to_vec(&record).unwrap();
        row.last_used = long_ago;
        root.cache_records().put(&[row]).unwrap();
        let said = || {
            let recalled = recall(&root, &reference, &platform).unwrap();
            let (again, said) = recalled.unwrap();
            assert_eq!(again.top.digest, resolved.top.digest);
            said
        };
        for _ in 0..2 {
            assert!(said() <= long_ago);
        }

        // The registry says the same again.
        remember(&root, &reference, &platform, &resolved).unwrap();
        assert!(said() > long_ago + Duration::from_secs(3600));
    }
}
