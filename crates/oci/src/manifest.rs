//! Image manifests and indexes (image-spec `manifest.md`, `image-index.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Descriptor, media_type};

/// The largest manifest or index that is read, in bytes. The distribution
/// specification asks registries to accept at least 4 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// `schemaVersion` of every document that is written today.
const SCHEMA_VERSION: u32 = 2;

/// An image manifest: one configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// This document's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact's type, for artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of a configuration and layers, lowest first, in the dialect that
    /// `media_type` names.
    pub fn new(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(media_type.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// An index of manifests, one for each platform or artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// This document's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact's type, for artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of `manifests`, in the dialect that `media_type` names.
    pub fn new(media_type: &str, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(media_type.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`DOCUMENT_BYTES_MAX`].
    #[error("manifest is {size_bytes} bytes, more than {DOCUMENT_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// Not JSON of the expected shape.
    #[error("manifest is not valid")]
    Json(#[from] serde_json::Error),
    /// Has both `manifests` and `layers` or `config` (CVE-2021-41190).
    #[error("manifest is ambiguous: it has both `manifests` and `layers` or `config`")]
    Ambiguous,
    /// The media type inside differs from the one it was served with.
    #[error("manifest says it is `{inside}` but was described as `{outside}`")]
    MediaTypeMismatch {
        /// The document's own `mediaType`.
        inside: String,
        /// The type it was described with.
        outside: String,
    },
    /// Neither a manifest nor an index.
    #[error("unknown manifest type `{0}`")]
    UnknownType(String),
}

/// A parsed manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one document at a time, and it is taken apart at once"
)]
pub enum Document {
    /// An image (or artifact) manifest.
    Manifest(Manifest),
    /// An index.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index; `described` is the media type that a descriptor or
    /// a `Content-Type` gave, empty where there was none.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse(bytes: &[u8], described: &str) -> Result<Self, DocumentError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge {
                size_bytes: bytes.len(),
            });
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        let media_type = declared_type(&shape, described)?;
        if media_type::is_index(&media_type) {
            return Ok(Self::Index(serde_json::from_slice(bytes)?));
        }
        if media_type::is_manifest(&media_type) {
            return Ok(Self::Manifest(serde_json::from_slice(bytes)?));
        }
        Err(DocumentError::UnknownType(media_type))
    }
}

fn declared_type(shape: &Shape, described: &str) -> Result<String, DocumentError> {
    let described = described.split(';').next().unwrap_or_default().trim();
    match &shape.media_type {
        Some(inside) if !described.is_empty() && inside != described => {
            Err(DocumentError::MediaTypeMismatch {
                inside: inside.clone(),
                outside: described.to_owned(),
            })
        }
        Some(inside) if !inside.is_empty() => Ok(inside.clone()),
        _ if !described.is_empty() => Ok(described.to_owned()),
        _ if shape.manifests.is_some() => Ok(media_type::OCI_INDEX.to_owned()),
        _ => Ok(media_type::OCI_MANIFEST.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_with_manifests_and_layers_is_refused() {
        let bytes = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(
            Document::parse(bytes, ""),
            Err(DocumentError::Ambiguous)
        ));
    }

    #[test]
    fn the_served_type_must_match_the_inner_one() {
        let bytes = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::OCI_INDEX
        );
        assert!(Document::parse(bytes.as_bytes(), media_type::OCI_INDEX).is_ok());
        assert!(matches!(
            Document::parse(bytes.as_bytes(), media_type::DOCKER_INDEX),
            Err(DocumentError::MediaTypeMismatch { .. })
        ));
    }
}
