//! Publishing a manifest, and taking one back.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use longshore_oci::{Algorithm, DOCUMENT_BYTES_MAX, Descriptor, Digest, Reference};
use serde::Deserialize;

use crate::auth::Action;
use crate::pull::{manifest_name, stated_digest};
use crate::transport::{Body, Request};
use crate::{Client, Error, Repository, Result};

/// By this a registry says that it lists the manifest among its subject's referrers.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Client {
    /// Publishes a manifest or index under the reference's tag, or under its digest
    /// where it has no tag; without either, as `latest`. Returns its digest.
    ///
    /// A manifest with a `subject`, on a registry that does not list referrers itself,
    /// is also entered in the subject's fallback tag (distribution-spec, "Referrers
    /// Tag Schema").
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] when the reference has another digest than the content,
    /// or the registry states another one, and as [`Error`] lists.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest> {
        let what = manifest_name(reference);
        let digest = self.checked_digest(reference, &bytes, &what)?;
        let repository = Repository::of(reference);
        let access = self.origin_access(&repository, Action::Push)?;
        let version = match reference.tag() {
            Some(tag) => tag.to_owned(),
            None => reference.version_or_latest(),
        };
        let url = access
            .url(&self.inner, &format!("manifests/{version}"))
            .await?;
        let content_type = HeaderValue::from_str(media_type).map_err(|_| Error::Protocol {
            host: access.host.name.clone(),
            what: what.clone(),
            problem: "its media type cannot be sent".to_owned(),
        })?;
        let request = Request::new(Method::PUT, url, what)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::Bytes(bytes.clone()));
        let answer = self.inner.send(&access, &request).await?;
        let answer = answer.expect(&[StatusCode::CREATED], &request.what).await?;
        if let Some(stated) = stated_digest(&answer) {
            let actual = Digest::of(stated.algorithm(), &bytes);
            if stated != actual {
                return Err(mismatch(answer.host(), &request.what, actual, stated));
            }
        }
        let is_listed = answer.header(&OCI_SUBJECT).is_some();
        answer.discard().await;
        if !is_listed && let Some(subject) = subject_of(&bytes) {
            let entry = referrer_entry(media_type, digest, &bytes);
            let adding = self.add_to_fallback_tag(&repository, &subject, entry);
            Box::pin(adding).await?;
        }
        Ok(digest)
    }

    /// Takes back a tag, or, with a digest, the manifest and all its tags.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, and as [`Error`] lists; registries may
    /// refuse deletions altogether.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<()> {
        let access = self.origin_access(&Repository::of(reference), Action::Delete)?;
        let tail = format!("manifests/{}", reference.version_or_latest());
        let url = access.url(&self.inner, &tail).await?;
        let request = Request::new(Method::DELETE, url, manifest_name(reference));
        let answer = self.inner.send(&access, &request).await?;
        let done = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        answer.expect(&done, &request.what).await?;
        Ok(())
    }

    fn checked_digest(&self, reference: &Reference, bytes: &[u8], what: &str) -> Result<Digest> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge {
                host: reference.domain().to_owned(),
                what: what.to_owned(),
                limit: DOCUMENT_BYTES_MAX,
            });
        }
        let expected = reference.digest();
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let actual = Digest::of(algorithm, bytes);
        match expected {
            Some(expected) if expected != actual => {
                Err(mismatch(reference.domain(), what, expected, actual))
            }
            _ => Ok(actual),
        }
    }
}

fn mismatch(host: &str, what: &str, expected: Digest, actual: Digest) -> Error {
    Error::DigestMismatch {
        host: host.to_owned(),
        what: what.to_owned(),
        expected: Box::new(expected),
        actual: Box::new(actual),
    }
}

/// The parts of a manifest or index that a referrers list repeats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn subject_of(bytes: &[u8]) -> Option<Digest> {
    let parsed: Referring = serde_json::from_slice(bytes).ok()?;
    parsed.subject.map(|subject| subject.digest)
}

/// The entry by which a referrers list names a manifest (distribution-spec, end-12):
/// an image without an artifact type has its configuration's.
fn referrer_entry(media_type: &str, digest: Digest, bytes: &[u8]) -> Descriptor {
    let mut entry = Descriptor::new(media_type, digest, bytes.len() as u64);
    if let Ok(parsed) = serde_json::from_slice::<Referring>(bytes) {
        let named = parsed.artifact_type.filter(|text| !text.is_empty());
        let config_type = parsed.config.map(|config| config.media_type);
        entry.artifact_type = named.or(config_type).filter(|text| !text.is_empty());
        entry.annotations = parsed.annotations;
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_repeats_type_and_annotations() {
        let digest = Digest::sha256_of(b"");
        let entry = |text: &str| referrer_entry("m", digest, text.as_bytes());
        let config = format!(r#""config":{{"mediaType":"c","digest":"{digest}","size":0}}"#);
        let image = entry(&format!(r#"{{{config},"annotations":{{"a":"b"}}}}"#));
        assert_eq!(image.artifact_type.as_deref(), Some("c"));
        assert_eq!(image.annotations["a"], "b");
        let artifact = entry(&format!(r#"{{{config},"artifactType":"t"}}"#));
        assert_eq!(artifact.artifact_type.as_deref(), Some("t"));
        assert_eq!(entry(r#"{"manifests":[]}"#).artifact_type, None);
    }
}
