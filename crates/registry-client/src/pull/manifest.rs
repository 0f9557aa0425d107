//! Manifests and indexes: what a name stands for, and the document itself.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use longshore_oci::{Algorithm, DOCUMENT_BYTES_MAX, Descriptor, Digest, Reference, media_type};
use serde::Deserialize;

use super::Walk;
use crate::client::Access;
use crate::transport::{Answer, Request};
use crate::{Client, Error, Repository, Result};

/// The types of document that are asked for, preferred ones first.
pub const MANIFEST_ACCEPT: &[&str] = &[
    media_type::OCI_INDEX,
    media_type::OCI_MANIFEST,
    media_type::DOCKER_INDEX,
    media_type::DOCKER_MANIFEST,
];

/// The header in which registries state the digest of what they serve.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a reference stands for at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The host that said so: the registry, or one of its mirrors.
    pub from: String,
}

/// A document and where it came from.
struct Fetched {
    descriptor: Descriptor,
    bytes: Bytes,
    from: String,
}

impl Client {
    /// Asks what a reference stands for, without fetching it where the registry can
    /// tell. A reference with a digest is held to it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such manifest, and as [`Error`] lists.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved> {
        let mut walk = self.walk(reference)?;
        loop {
            let access = walk.access(self);
            match self.resolve_at(&access, reference).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => walk.next_after(&access, error)?,
            }
        }
    }

    /// Fetches a manifest or index, of one of the `accept`ed types where the registry
    /// has a choice. Its digest is the reference's, or else the one that the registry
    /// states, or else its SHA-256; in each case the content was verified against it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such manifest, and as [`Error`] lists.
    pub async fn fetch_manifest(
        &self,
        reference: &Reference,
        accept: &[&str],
    ) -> Result<(Descriptor, Bytes)> {
        let mut walk = self.walk(reference)?;
        loop {
            let access = walk.access(self);
            match self.fetch_at(&access, reference, accept).await {
                Ok(fetched) => return Ok((fetched.descriptor, fetched.bytes)),
                Err(error) => walk.next_after(&access, error)?,
            }
        }
    }

    fn walk(&self, reference: &Reference) -> Result<Walk> {
        let repository = Repository::of(reference);
        Walk::new(self, &repository, reference.digest().is_some())
    }

    async fn resolve_at(&self, access: &Access, reference: &Reference) -> Result<Resolved> {
        let request = self
            .manifest_request(access, Method::HEAD, reference, MANIFEST_ACCEPT)
            .await?;
        let answer = self.inner.send(access, &request).await?;
        let status = answer.status();
        if status == StatusCode::OK {
            if let Some(descriptor) = described_by_head(&answer, reference, &request.what)? {
                let from = access.host.name.clone();
                return Ok(Resolved { descriptor, from });
            }
        } else if !is_head_unsupported(status) {
            return Err(Error::refused(answer.into_refusal(&request.what).await));
        }
        drop(answer);
        let fetched = self.fetch_at(access, reference, MANIFEST_ACCEPT).await?;
        Ok(Resolved {
            descriptor: fetched.descriptor,
            from: fetched.from,
        })
    }

    async fn fetch_at(
        &self,
        access: &Access,
        reference: &Reference,
        accept: &[&str],
    ) -> Result<Fetched> {
        let request = self
            .manifest_request(access, Method::GET, reference, accept)
            .await?;
        let mut attempt = 1;
        loop {
            match self.fetch_once(access, reference, &request).await {
                // The head came and the body broke off: `send` has not seen that.
                Err(error @ Error::Interrupted { .. })
                    if self.inner.retry.allows_after(attempt) =>
                {
                    tracing::debug!(%error, attempt, "fetching the manifest again");
                    tokio::time::sleep(self.inner.retry.delay(attempt, None)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn fetch_once(
        &self,
        access: &Access,
        reference: &Reference,
        request: &Request,
    ) -> Result<Fetched> {
        let answer = self.inner.send(access, request).await?;
        let answer = answer.expect(&[StatusCode::OK], &request.what).await?;
        let served_type = answer.media_type().map(str::to_owned);
        let stated = stated_digest(&answer);
        let host = answer.host().to_owned();
        let bytes = answer.bytes(DOCUMENT_BYTES_MAX, &request.what).await?;
        let expected = reference.digest().or(stated);
        let digest = digest_like(expected, &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Error::DigestMismatch {
                host,
                what: request.what.clone(),
                expected: Box::new(expected),
                actual: Box::new(digest),
            });
        }
        let media_type = document_type(served_type, &bytes);
        Ok(Fetched {
            descriptor: Descriptor::new(media_type, digest, bytes.len() as u64),
            bytes,
            from: access.host.name.clone(),
        })
    }

    async fn manifest_request(
        &self,
        access: &Access,
        method: Method,
        reference: &Reference,
        accept: &[&str],
    ) -> Result<Request> {
        let tail = format!("manifests/{}", reference.version_or_latest());
        let url = access.url(&self.inner, &tail).await?;
        let what = manifest_name(reference);
        let mut request = Request::new(method, url, what);
        // One line for each type: some registries do not read lists.
        for accepted in accept {
            if let Ok(value) = HeaderValue::from_str(accepted) {
                request = request.header(header::ACCEPT, value);
            }
        }
        Ok(request)
    }
}

pub(crate) fn manifest_name(reference: &Reference) -> String {
    let shown = reference.clone().with_default_tag();
    format!("manifest `{shown}`")
}

/// The digest that the registry states, where it states a readable one.
pub(crate) fn stated_digest(answer: &Answer) -> Option<Digest> {
    answer.header(&CONTENT_DIGEST)?.trim().parse().ok()
}

/// Statuses by which registries say that they do not answer `HEAD` here.
fn is_head_unsupported(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
    )
}

/// The descriptor that a `HEAD` answer amounts to, `None` where something is missing.
fn described_by_head(
    answer: &Answer,
    reference: &Reference,
    what: &str,
) -> Result<Option<Descriptor>> {
    let stated = stated_digest(answer);
    if let (Some(expected), Some(actual)) = (reference.digest(), stated)
        && expected.algorithm() == actual.algorithm()
        && expected != actual
    {
        return Err(Error::DigestMismatch {
            host: answer.host().to_owned(),
            what: what.to_owned(),
            expected: Box::new(expected),
            actual: Box::new(actual),
        });
    }
    let known_type = answer.media_type().filter(|served| is_specific(served));
    let parts = (
        known_type,
        reference.digest().or(stated),
        answer.content_length(),
    );
    Ok(match parts {
        (Some(media_type), Some(digest), Some(size)) if size > 0 => {
            Some(Descriptor::new(media_type, digest, size))
        }
        _ => None,
    })
}

/// The digest of content that should have the `expected` one, where one is expected.
fn digest_like(expected: Option<Digest>, bytes: &[u8]) -> Digest {
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    Digest::of(algorithm, bytes)
}

/// Whether a served type says more than "some text" or "some JSON".
fn is_specific(media_type: &str) -> bool {
    !matches!(
        media_type,
        "application/json" | "text/plain" | "application/octet-stream" | "text/html"
    )
}

/// The type that a document was served with, or else the one it states itself.
fn document_type(served: Option<String>, bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stated {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    if let Some(served) = served.filter(|served| is_specific(served)) {
        return served;
    }
    match serde_json::from_slice::<Stated>(bytes) {
        Ok(Stated {
            media_type: Some(stated),
            ..
        }) if !stated.is_empty() => stated,
        Ok(Stated {
            manifests: Some(_), ..
        }) => media_type::OCI_INDEX.to_owned(),
        _ => media_type::OCI_MANIFEST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_types_yield_to_the_document() {
        let docker = br#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#;
        let index = br#"{"manifests":[]}"#;
        let vague = || Some("application/json".to_owned());
        assert_eq!(document_type(vague(), docker), media_type::DOCKER_MANIFEST);
        assert_eq!(document_type(None, index), media_type::OCI_INDEX);
        assert_eq!(document_type(None, b"{}"), media_type::OCI_MANIFEST);
        let served = Some(media_type::OCI_MANIFEST.to_owned());
        assert_eq!(document_type(served, docker), media_type::OCI_MANIFEST);
    }
}
