//! What earlier builds fetched, kept as records of the build cache: a collection leaves
//! what they name alone, until the build cache itself is dropped.

use std::time::SystemTime;

use longshore_content::StateRoot;
use longshore_content::cache_records::{CacheRecord, Key};
use longshore_oci::{Digest, LayerId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::EngineError;

/// The sorts of records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sort {
    /// The file at a URL.
    Download,
    /// The work tree of a commit.
    Checkout,
}

impl Sort {
    /// The key of a record. What it is made from does not show: a URL may hold a password.
    pub(super) fn key(self, name: &str) -> Key {
        let context = match self {
            Self::Download => "longshore download 1",
            Self::Checkout => "longshore git checkout 1",
        };
        blake3::derive_key(context, name.as_bytes())
    }
}

/// The record with this key; one that cannot be understood is none.
pub(super) fn find<R: DeserializeOwned>(
    root: &StateRoot,
    key: Key,
) -> Result<Option<R>, EngineError> {
    let records = root.cache_records();
    let Some(row) = records.get(&key)? else {
        return Ok(None);
    };
    records.touch(&[key])?;
    Ok(serde_json::from_slice(&row.record).ok())
}

/// Writes a record, and what it keeps.
pub(super) fn keep<R: Serialize>(
    root: &StateRoot,
    key: Key,
    record: &R,
    blobs: Vec<Digest>,
    layers: Vec<LayerId>,
) -> Result<(), EngineError> {
    let now = SystemTime::now();
    let bytes = serde_json::to_vec(record)
        .map_err(|error| EngineError::Invalid(format!("a record of the build cache: {error}")))?;
    Ok(root.cache_records().put(&[CacheRecord {
        key,
        identity: blake3::hash(&bytes).as_bytes().to_vec(),
        record: bytes,
        fields: "[]".to_owned(),
        grouping: String::new(),
        cost_ms: 0,
        layers,
        blobs,
        created: now,
        last_used: now,
    }])?)
}
