//! What a manifest or index needs, read leniently: whatever the media type, a document's
//! `config`, `layers`, `blobs` and `manifests` are its children.
//!
//! `subject` is not: a referrer does not keep what it refers to.

use longshore_oci::Digest;
use rusqlite::{Transaction, params};
use serde::Deserialize;

use crate::ContentError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) parent: Digest,
    pub(crate) child: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) digest: Digest,
    pub(crate) is_manifest: bool,
}

#[derive(Default, Deserialize)]
struct Shape {
    #[serde(default)]
    config: Option<Target>,
    #[serde(default)]
    layers: Vec<Target>,
    #[serde(default)]
    blobs: Vec<Target>,
    #[serde(default)]
    manifests: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    digest: Digest,
}

/// A document's children; none for what is not a manifest.
pub(crate) fn children(document: &[u8]) -> Vec<Child> {
    let shape: Shape = serde_json::from_slice(document).unwrap_or_default();
    let content = shape.config.iter().chain(&shape.layers).chain(&shape.blobs);
    let content = content.map(|target| (target, false));
    let manifests = shape.manifests.iter().map(|target| (target, true));
    content
        .chain(manifests)
        .map(|(target, is_manifest)| Child {
            digest: target.digest,
            is_manifest,
        })
        .collect()
}

pub(crate) fn insert(transaction: &Transaction<'_>, edges: &[Edge]) -> Result<(), ContentError> {
    let mut statement = transaction
        .prepare_cached("INSERT OR IGNORE INTO edges (parent, child) VALUES (?1, ?2)")?;
    for edge in edges {
        statement.execute(params![edge.parent.to_string(), edge.child.to_string()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_no_child_but_all_content_is() {
        let digest = |byte: &[u8]| Digest::sha256_of(byte);
        let document = format!(
            r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"{}"}}],"blobs":[{{"digest":"{}"}}],
                "manifests":[{{"digest":"{}"}}],"subject":{{"digest":"{}"}}}}"#,
            digest(b"config"),
            digest(b"layer"),
            digest(b"blob"),
            digest(b"manifest"),
            digest(b"subject"),
        );
        let found: Vec<_> = children(document.as_bytes())
            .into_iter()
            .map(|child| (child.digest, child.is_manifest))
            .collect();
        let expected = [
            (digest(b"config"), false),
            (digest(b"layer"), false),
            (digest(b"blob"), false),
            (digest(b"manifest"), true),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn content_that_is_no_manifest_has_no_children() {
        assert!(children(b"\x1f\x8b").is_empty());
        assert!(children(b"[1,2]").is_empty());
        assert!(children(br#"{"manifests":[{"digest":"sha256:zz"}]}"#).is_empty());
    }
}
