//! What a registry must know of a manifest, read from its bytes.
//!
//! Any JSON object with any media type is a manifest; what it needs is in `config`, `layers`,
//! `blobs` and `manifests`. Types of the image specification and of Docker's schema 2 are held
//! to their form. A list that is `null` counts as empty: some tools write it so.

use std::collections::BTreeMap;

use longshore_oci::{Descriptor, Digest, media_type};
use serde::Deserialize;

use crate::error::{ApiError, Code};

/// JSON that nests deeper than serde's own limit is refused by it; this bounds the lists.
const CHILDREN_MAX: usize = 16 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ManifestFacts {
    pub(crate) media_type: String,
    pub(crate) subject: Option<Digest>,
    pub(crate) artifact_type: Option<String>,
    /// A JSON object, if there are any.
    pub(crate) annotations: Option<String>,
    pub(crate) blobs: Vec<Digest>,
    pub(crate) manifests: Vec<Digest>,
    /// Layers that need not be distributed.
    pub(crate) optional_blobs: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a manifest that was sent with `content_type`, which may be empty.
pub(crate) fn read(document: &[u8], content_type: &str) -> Result<ManifestFacts, ApiError> {
    let shape: Shape = serde_json::from_slice(document)
        .map_err(|error| invalid(&format!("the manifest cannot be read: {error}")))?;
    let media_type = media_type_of(&shape, content_type)?;
    check_form(&shape, &media_type)?;
    let children = children(&shape)?;
    let artifact_type = artifact_type(&shape, &media_type);
    Ok(ManifestFacts {
        media_type,
        subject: shape.subject.map(|subject| subject.digest),
        artifact_type,
        annotations: annotations(shape.annotations.as_ref())?,
        ..children
    })
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(Code::ManifestInvalid, message)
}

/// The header's type without parameters; it and the document's own must agree.
fn media_type_of(shape: &Shape, content_type: &str) -> Result<String, ApiError> {
    let sent = content_type.split(';').next().unwrap_or_default().trim();
    let inside = shape.media_type.as_deref().unwrap_or_default();
    match (sent, inside) {
        ("", "") if shape.manifests.is_some() => Ok(media_type::OCI_INDEX.to_owned()),
        ("", "") => Ok(media_type::OCI_MANIFEST.to_owned()),
        (one, "") | ("", one) => Ok(one.to_owned()),
        (sent, inside) if sent == inside => Ok(sent.to_owned()),
        (sent, inside) => Err(invalid(&format!(
            "the manifest says it is `{inside}` but was sent as `{sent}`"
        ))),
    }
}

fn check_form(shape: &Shape, media_type: &str) -> Result<(), ApiError> {
    let is_image = media_type::is_manifest(media_type);
    let is_index = media_type::is_index(media_type);
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
        // CVE-2021-41190: readers would disagree about what it is.
        return Err(invalid(
            "the manifest has both `manifests` and `layers` or `config`",
        ));
    }
    if (is_image || is_index) && shape.schema_version != Some(2) {
        return Err(invalid("`schemaVersion` is not 2"));
    }
    if shape.schema_version == Some(1) {
        return Err(invalid("schema 1 manifests are not supported"));
    }
    if is_image && shape.config.is_none() {
        return Err(invalid("the image manifest has no `config`"));
    }
    if is_index && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(invalid("the index has `layers` or `config`"));
    }
    Ok(())
}

fn children(shape: &Shape) -> Result<ManifestFacts, ApiError> {
    let list = |list: &Option<Vec<Descriptor>>| list.iter().flatten().cloned().collect::<Vec<_>>();
    let content: Vec<Descriptor> = shape
        .config
        .iter()
        .cloned()
        .chain(list(&shape.layers))
        .chain(list(&shape.blobs))
        .collect();
    let manifests = list(&shape.manifests);
    if content.len() + manifests.len() > CHILDREN_MAX {
        return Err(invalid("the manifest has too many entries"));
    }
    let (optional, required): (Vec<_>, Vec<_>) = content
        .into_iter()
        .partition(|descriptor| media_type::is_foreign_layer(&descriptor.media_type));
    let digests = |descriptors: Vec<Descriptor>| descriptors.iter().map(|d| d.digest).collect();
    Ok(ManifestFacts {
        media_type: String::new(),
        subject: None,
        artifact_type: None,
        annotations: None,
        blobs: digests(required),
        manifests: digests(manifests),
        optional_blobs: digests(optional),
    })
}

/// distribution-spec, "Listing referrers": an image's configuration stands in for its type, an
/// index has one only if it says so.
fn artifact_type(shape: &Shape, media_type: &str) -> Option<String> {
    let own = shape.artifact_type.clone().filter(|own| !own.is_empty());
    let config = || {
        let config = shape.config.as_ref()?;
        let named = !config.media_type.is_empty();
        (named && !media_type::is_index(media_type)).then(|| config.media_type.clone())
    };
    own.or_else(config)
}

fn annotations(annotations: Option<&BTreeMap<String, String>>) -> Result<Option<String>, ApiError> {
    annotations
        .filter(|annotations| !annotations.is_empty())
        .map(|annotations| {
            serde_json::to_string(annotations).map_err(|error| invalid(&error.to_string()))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256_of(name.as_bytes())
    }

    fn descriptor(name: &str, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": digest(name), "size": 1, "data": "AA==" })
    }

    fn read_json(
        document: &serde_json::Value,
        content_type: &str,
    ) -> Result<ManifestFacts, ApiError> {
        read(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn an_image_needs_its_config_and_distributable_layers() {
        let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        let image = json!({
            "schemaVersion": 2, "unknown": [1],
            "config": descriptor("c", media_type::OCI_CONFIG),
            "layers": [descriptor("l", media_type::OCI_LAYER_GZIP), descriptor("f", foreign)],
            "subject": descriptor("s", media_type::OCI_MANIFEST),
            "annotations": { "a": "b" },
        });
        let facts = read_json(
            &image,
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
        );
        let facts = facts.unwrap();
        assert_eq!(facts.media_type, media_type::OCI_MANIFEST);
        assert_eq!(facts.blobs, [digest("c"), digest("l")]);
        assert_eq!(facts.optional_blobs, [digest("f")]);
        assert_eq!(facts.subject, Some(digest("s")));
        assert_eq!(facts.artifact_type.as_deref(), Some(media_type::OCI_CONFIG));
        assert_eq!(facts.annotations.as_deref(), Some(r#"{"a":"b"}"#));
    }

    #[test]
    fn the_artifact_type_comes_from_the_manifest_first_and_never_from_an_index_config() {
        let artifact = json!({
            "schemaVersion": 2, "artifactType": "x/y",
            "config": descriptor("c", media_type::OCI_EMPTY), "layers": null,
        });
        let facts = read_json(&artifact, media_type::OCI_MANIFEST).unwrap();
        assert_eq!(facts.artifact_type.as_deref(), Some("x/y"));
        let index = json!({ "schemaVersion": 2, "artifactType": "", "manifests": [] });
        let facts = read_json(&index, media_type::OCI_INDEX).unwrap();
        assert_eq!(facts.artifact_type, None);
    }

    #[test]
    fn types_are_taken_from_wherever_they_are_and_must_agree() {
        let index =
            json!({ "schemaVersion": 2, "manifests": [descriptor("m", media_type::OCI_MANIFEST)] });
        let facts = read_json(&index, "").unwrap();
        assert_eq!(facts.media_type, media_type::OCI_INDEX);
        assert_eq!(facts.manifests, [digest("m")]);
        let typed =
            json!({ "schemaVersion": 2, "mediaType": media_type::DOCKER_INDEX, "manifests": [] });
        assert_eq!(
            read_json(&typed, "").unwrap().media_type,
            media_type::DOCKER_INDEX
        );
        assert!(read_json(&typed, media_type::OCI_INDEX).is_err());
    }

    #[test]
    fn other_types_are_manifests_too() {
        let other = json!({ "blobs": [descriptor("b", "x")], "anything": {} });
        let facts = read_json(&other, "application/vnd.example+json").unwrap();
        assert_eq!(facts.blobs, [digest("b")]);
        assert_eq!(facts.artifact_type, None);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let config = descriptor("c", media_type::OCI_CONFIG);
        for document in [
            "",
            "[]",
            "1",
            "null",
            "{",
            "\u{1f}",
            &json!({ "schemaVersion": 1, "fsLayers": [] }).to_string(),
            &json!({ "schemaVersion": 2, "layers": [] }).to_string(),
            &json!({ "schemaVersion": 2, "manifests": [], "config": config }).to_string(),
            &json!({ "config": config }).to_string(),
            &json!({ "schemaVersion": 2, "config": { "digest": "sha256:xx", "size": 1 } })
                .to_string(),
        ] {
            let error = read(document.as_bytes(), media_type::OCI_MANIFEST).unwrap_err();
            assert_eq!(error.status, 400, "{document}");
        }
        let signed = json!({ "schemaVersion": 1 });
        let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(read_json(&signed, schema_1).is_err());
    }
}
