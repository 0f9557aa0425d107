//! The documents of a cache: image manifests with an artifact type.
//!
//! ```json
//! { "schemaVersion": 2,
//!   "mediaType": "application/vnd.oci.image.manifest.v1+json",
//!   "artifactType": "application/vnd.longshore.cache.record.v1+json",
//!   "config": the empty object,
//!   "layers": the blobs that the record needs, or the empty object,
//!   "annotations": { "dev.longshore.cache.record": the record as JSON } }
//! ```
//!
//! The record stands in the manifest itself, so that finding it is one request. Equal
//! records are equal bytes. A cache mount's document is made in the same way: its one layer
//! is what the mount holds.

use std::collections::BTreeMap;

use longshore_oci::{Descriptor, Manifest, media_type};
use longshore_solver::{BoxError, CacheKey, CacheRecord, Group, NEAREST_MAX, Trace};

use crate::build::cache_mount::PortableMount;

/// The type of a document that says that there is a cache.
pub(super) const MARKER_TYPE: &str = "application/vnd.longshore.cache.v1+json";
/// The type of a record.
pub(super) const RECORD_TYPE: &str = "application/vnd.longshore.cache.record.v1+json";
/// The type of a list of traces.
pub(super) const TRACES_TYPE: &str = "application/vnd.longshore.cache.traces.v1+json";
/// The type of a cache mount.
pub(super) const MOUNT_TYPE: &str = "application/vnd.longshore.cache.mount.v1+json";
/// The annotation that holds a record.
const RECORD_ANNOTATION: &str = "dev.longshore.cache.record";
/// The annotation that holds traces.
const TRACES_ANNOTATION: &str = "dev.longshore.cache.traces";
/// The annotation that says what a mount's blob does not.
const MOUNT_ANNOTATION: &str = "dev.longshore.cache.mount";
/// The content of the blob that every document names as its configuration.
pub(super) const EMPTY: &[u8] = b"{}";
/// How many digits of a key are in its name: 160 bits tell keys apart, and every registry
/// takes a tag of that length.
const NAME_DIGITS: usize = 40;
/// Registries are asked to take manifests of 4 MiB (distribution-spec, "Pushing Manifests").
const DOCUMENT_BYTES_MAX: usize = 3 << 20;

/// The name that a key's record has.
pub(super) fn record_name(key: &CacheKey) -> String {
    format!("k-{:.NAME_DIGITS$}", key.to_string())
}

/// The name that a group's traces have.
pub(super) fn traces_name(group: &Group) -> String {
    format!("g-{:.NAME_DIGITS$}", group.to_string())
}

/// The name that a cache mount has, whose own name is a hash of what tells it from others.
pub(super) fn mount_name(name: &str) -> String {
    format!("m-{name:.NAME_DIGITS$}")
}

/// The document that says that there is a cache.
pub(super) fn marker() -> Result<Vec<u8>, BoxError> {
    manifest(MARKER_TYPE, Vec::new(), BTreeMap::new())
}

/// A record with the blobs that it needs.
///
/// # Errors
/// When it is larger than a registry takes.
pub(super) fn record(record: &CacheRecord, blobs: Vec<Descriptor>) -> Result<Vec<u8>, BoxError> {
    let text = String::from_utf8(record.to_bytes())?;
    let annotations = BTreeMap::from([(RECORD_ANNOTATION.to_owned(), text)]);
    manifest(RECORD_TYPE, blobs, annotations)
}

/// Reads a record.
///
/// # Errors
/// When the bytes are no record.
pub(super) fn read_record(bytes: &[u8]) -> Result<CacheRecord, BoxError> {
    let text = annotation(bytes, RECORD_TYPE, RECORD_ANNOTATION)?;
    Ok(CacheRecord::from_bytes(text.as_bytes())?)
}

/// Traces, the newest first: as many as there is room for.
///
/// # Errors
/// When not even one has room.
pub(super) fn traces(traces: &[Trace]) -> Result<Vec<u8>, BoxError> {
    let mut kept = &traces[..traces.len().min(NEAREST_MAX)];
    loop {
        let text = serde_json::to_string(kept)?;
        let annotations = BTreeMap::from([(TRACES_ANNOTATION.to_owned(), text)]);
        match (manifest(TRACES_TYPE, Vec::new(), annotations), kept) {
            (Err(_), [newer @ .., _]) if !newer.is_empty() => kept = newer,
            (done, _) => return done,
        }
    }
}

/// Reads traces.
///
/// # Errors
/// When the bytes are no traces.
pub(super) fn read_traces(bytes: &[u8]) -> Result<Vec<Trace>, BoxError> {
    let text = annotation(bytes, TRACES_TYPE, TRACES_ANNOTATION)?;
    let mut traces: Vec<Trace> = serde_json::from_str(&text)?;
    traces.truncate(NEAREST_MAX);
    Ok(traces)
}

/// What a cache mount holds.
///
/// # Errors
/// When it cannot be written down.
pub(super) fn mount(mount: &PortableMount, blob: Descriptor) -> Result<Vec<u8>, BoxError> {
    let text = serde_json::to_string(mount)?;
    let annotations = BTreeMap::from([(MOUNT_ANNOTATION.to_owned(), text)]);
    manifest(MOUNT_TYPE, vec![blob], annotations)
}

/// Reads what a cache mount holds.
///
/// # Errors
/// When the bytes do not say it.
pub(super) fn read_mount(bytes: &[u8]) -> Result<(PortableMount, Descriptor), BoxError> {
    let text = annotation(bytes, MOUNT_TYPE, MOUNT_ANNOTATION)?;
    let mount = serde_json::from_str(&text)?;
    match parse(bytes)?.layers.pop() {
        Some(blob) => Ok((mount, blob)),
        None => Err("the cache's document names no blob".into()),
    }
}

/// The artifact type of a manifest, if it is one and has one.
pub(super) fn artifact_type(bytes: &[u8]) -> Option<String> {
    parse(bytes).ok()?.artifact_type
}

/// The blob that every document names.
pub(super) fn empty() -> Descriptor {
    Descriptor::of(media_type::OCI_EMPTY, EMPTY)
}

fn manifest(
    kind: &str,
    mut layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Vec<u8>, BoxError> {
    if layers.is_empty() {
        layers.push(empty());
    }
    let manifest = Manifest {
        artifact_type: Some(kind.to_owned()),
        annotations,
        ..Manifest::new(media_type::OCI_MANIFEST, empty(), layers)
    };
    let bytes = longshore_oci::json::to_vec(&manifest)?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("a cache record of {} bytes is too large", bytes.len()).into());
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Manifest, BoxError> {
    if bytes.len() > longshore_oci::DOCUMENT_BYTES_MAX {
        return Err("the cache's document is too large".into());
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn annotation(bytes: &[u8], kind: &str, name: &str) -> Result<String, BoxError> {
    let mut manifest = parse(bytes)?;
    if manifest.artifact_type.as_deref() != Some(kind) {
        return Err(format!("the cache's document is no {kind}").into());
    }
    let found = manifest.annotations.remove(name);
    found.ok_or_else(|| format!("the cache's document has no {name}").into())
}
