//! What refers to a manifest: signatures, bills of materials, attestations.
//!
//! Registries of the 1.1 specification list referrers themselves. For all others the
//! list is an index under a tag made from the subject's digest, which clients keep by
//! reading, adding and writing it back. Writers that race lose entries, so the list is
//! written only over the version that was read, where the registry can tell, and is
//! read again afterwards.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use longshore_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Index, json, media_type};

use crate::auth::Action;
use crate::client::Access;
use crate::listing::{PAGES_MAX, Page};
use crate::transport::{Body, Request};
use crate::{Client, Error, Repository, Result};

/// The most referrers that are listed.
const REFERRERS_MAX: usize = 100_000;
/// How often a fallback tag is written before giving up against other writers.
const FALLBACK_ATTEMPTS_MAX: u32 = 5;

/// A fallback list as it was read, and the version that was.
struct FallbackList {
    index: Index,
    etag: Option<HeaderValue>,
    exists: bool,
}

impl FallbackList {
    fn has(&self, digest: &Digest) -> bool {
        let mut entries = self.index.manifests.iter();
        entries.any(|entry| entry.digest == *digest)
    }
}

impl Client {
    /// The manifests that have `digest` as their subject, of the given artifact type
    /// where one is given. Empty when there are none.
    ///
    /// # Errors
    /// As [`Error`] lists.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let access = self.origin_access(repository, Action::Pull)?;
        let listed = self.listed_referrers(&access, repository, digest, artifact_type);
        let mut all = match Box::pin(listed).await {
            Ok(all) => all,
            Err(error) if is_unsupported(&error) => {
                let list = self.fallback_list(&access, repository, digest).await?;
                list.index.manifests
            }
            Err(error) => return Err(error),
        };
        // Registries may filter the list themselves, and need not.
        if let Some(wanted) = artifact_type {
            all.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
        }
        Ok(all)
    }

    async fn listed_referrers(
        &self,
        access: &Access,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let what = format!("referrers of `{repository}@{digest}`");
        let mut url = access
            .url(&self.inner, &format!("referrers/{digest}"))
            .await?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let page: Page<Index> = self
                .page(access, url, &what, Some(media_type::OCI_INDEX))
                .await?;
            all.extend(page.content.manifests);
            match page.next {
                Some(next) if all.len() < REFERRERS_MAX => url = next,
                Some(_) => break,
                None => return Ok(all),
            }
        }
        Err(Error::Protocol {
            host: access.host.authority.clone(),
            what,
            problem: format!("the list has no end after {} entries", all.len()),
        })
    }

    /// Enters a manifest in its subject's fallback tag.
    pub(crate) async fn add_to_fallback_tag(
        &self,
        repository: &Repository,
        subject: &Digest,
        entry: Descriptor,
    ) -> Result<()> {
        let access = self.origin_access(repository, Action::Push)?;
        for attempt in 1..=FALLBACK_ATTEMPTS_MAX {
            let mut list = self.fallback_list(&access, repository, subject).await?;
            if list.has(&entry.digest) {
                return Ok(());
            }
            list.index.manifests.push(entry.clone());
            let written = self
                .write_fallback(&access, repository, subject, &list)
                .await?;
            if !written {
                tokio::time::sleep(self.inner.retry.delay(attempt, None)).await;
            }
            // Read again even after success: another writer may not have looked.
        }
        let list = self.fallback_list(&access, repository, subject).await?;
        if list.has(&entry.digest) {
            return Ok(());
        }
        Err(Error::Protocol {
            host: access.host.authority.clone(),
            what: format!("referrers of `{repository}@{subject}`"),
            problem: "other writers kept replacing the list".to_owned(),
        })
    }

    async fn fallback_list(
        &self,
        access: &Access,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<FallbackList> {
        let what = fallback_name(repository, subject);
        let tail = format!("manifests/{}", subject.referrers_tag());
        let url = access.url(&self.inner, &tail).await?;
        let accept = HeaderValue::from_static(media_type::OCI_INDEX);
        let request = Request::new(Method::GET, url, what).header(header::ACCEPT, accept);
        let answer = self.inner.send(access, &request).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(FallbackList {
                index: Index::new(media_type::OCI_INDEX, Vec::new()),
                etag: None,
                exists: false,
            });
        }
        let answer = answer.expect(&[StatusCode::OK], &request.what).await?;
        let etag = answer.headers().get(header::ETAG).cloned();
        let host = answer.host().to_owned();
        let bytes = answer.bytes(DOCUMENT_BYTES_MAX, &request.what).await?;
        let index = serde_json::from_slice(&bytes).map_err(|_| Error::Protocol {
            host,
            what: request.what,
            problem: "the fallback tag is not an index".to_owned(),
        })?;
        Ok(FallbackList {
            index,
            etag,
            exists: true,
        })
    }

    /// Writes the list over the version that was read; `false` when another came between.
    async fn write_fallback(
        &self,
        access: &Access,
        repository: &Repository,
        subject: &Digest,
        list: &FallbackList,
    ) -> Result<bool> {
        let what = fallback_name(repository, subject);
        let text = json::to_vec(&list.index).map_err(|error| Error::Protocol {
            host: access.host.authority.clone(),
            what: what.clone(),
            problem: error.to_string(),
        })?;
        let tail = format!("manifests/{}", subject.referrers_tag());
        let url = access.url(&self.inner, &tail).await?;
        let index_type = HeaderValue::from_static(media_type::OCI_INDEX);
        let mut request = Request::new(Method::PUT, url, what)
            .header(header::CONTENT_TYPE, index_type)
            .body(Body::Bytes(Bytes::from(text)));
        request = match &list.etag {
            Some(etag) => request.header(header::IF_MATCH, etag.clone()),
            None if list.exists => request,
            None => request.header(header::IF_NONE_MATCH, HeaderValue::from_static("*")),
        };
        let answer = self.inner.send(access, &request).await?;
        if answer.status() == StatusCode::PRECONDITION_FAILED {
            return Ok(false);
        }
        let answer = answer.expect(&[StatusCode::CREATED], &request.what).await?;
        answer.discard().await;
        Ok(true)
    }
}

fn fallback_name(repository: &Repository, subject: &Digest) -> String {
    format!("manifest `{repository}:{}`", subject.referrers_tag())
}

/// Whether the registry does not list referrers: the path means nothing to it, or
/// something else.
fn is_unsupported(error: &Error) -> bool {
    match error {
        Error::Protocol { .. } => true,
        _ => {
            let status = error.refusal().map(|refusal| refusal.status);
            matches!(status, Some(400 | 404 | 405 | 501))
        }
    }
}
