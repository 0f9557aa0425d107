//! Manifests that refer to another (distribution-spec, "Listing referrers").
//!
//! Clients that once pushed to a registry without this list kept an index of their own under a
//! tag made from the subject's digest (the *referrers tag schema*); its entries are listed too.

use std::collections::HashSet;

use longshore_content::registry::{ManifestName, Referrer};
use longshore_oci::{Descriptor, Digest, media_type};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::RepositoryName;
use crate::error::{ApiError, Code};
use crate::listings::{self, Listed};
use crate::route::Page;
use crate::service::Service;

/// Entries of a page; with their annotations they fit into what clients read.
const ENTRIES_MAX: usize = 1000;
/// An index is as large as a manifest may be; a page stays below that.
const PAGE_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The list, an image index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrers {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Entry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Box<RawValue>>,
}

/// An index under a fallback tag, as far as it matters here.
#[derive(Deserialize)]
struct Fallback {
    manifests: Option<Vec<Descriptor>>,
}

impl Service {
    /// Never fails for want of the subject or its repository: the list is then empty.
    pub(crate) async fn list_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &Page,
    ) -> Result<Listed<Referrers>, ApiError> {
        let size = listings::size(page).min(ENTRIES_MAX);
        let last = page.last.as_deref();
        let mut entries = self
            .stored_referrers(repository, subject, artifact_type, last, size + 1)
            .await?;
        entries.extend(
            self.fallback_referrers(repository, subject)
                .await?
                .into_iter()
                .filter(|entry| last.is_none_or(|last| entry.digest.as_str() > last))
                .filter(|entry| {
                    artifact_type
                        .is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
                }),
        );
        // Of two entries for one manifest the stored one comes first, and stays.
        let mut seen = HashSet::new();
        entries.retain(|entry| seen.insert(entry.digest.clone()));
        entries.sort_by(|a, b| a.digest.cmp(&b.digest));
        let size = size.min(entries_that_fit(&entries));
        let next = listings::next(&mut entries, size, |entry| entry.digest.as_str());
        Ok(Listed {
            entries: Referrers {
                schema_version: 2,
                media_type: media_type::OCI_INDEX,
                manifests: entries,
            },
            next,
        })
    }

    async fn stored_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, ApiError> {
        let (name, subject) = (repository.clone(), *subject);
        let artifact_type = artifact_type.map(str::to_owned);
        let last = last.map(str::to_owned);
        let referrers = self
            .ask(move |db| {
                let (wanted, last) = (artifact_type.as_deref(), last.as_deref());
                db.referrers(name.as_str(), &subject, wanted, last, limit)
            })
            .await?;
        referrers.into_iter().map(entry_of_row).collect()
    }

    /// The entries of the index under the subject's fallback tag, if it is one.
    async fn fallback_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Entry>, ApiError> {
        let (name, tag) = (repository.clone(), subject.referrers_tag());
        let found = self
            .ask(move |db| db.manifest(name.as_str(), ManifestName::Tag(&tag)))
            .await?;
        let Some(manifest) = found.filter(|found| media_type::is_index(&found.media_type)) else {
            return Ok(Vec::new());
        };
        let Some(document) = self.load_manifest(&manifest.digest).await? else {
            return Ok(Vec::new());
        };
        match serde_json::from_slice::<Fallback>(&document) {
            Ok(index) => index
                .manifests
                .into_iter()
                .flatten()
                .map(entry_of_descriptor)
                .collect(),
            Err(error) => {
                tracing::warn!(%repository, %subject, %error, "unreadable fallback index");
                Ok(Vec::new())
            }
        }
    }
}

fn entry_of_row(row: Referrer) -> Result<Entry, ApiError> {
    Ok(Entry {
        media_type: row.media_type,
        digest: row.digest.to_string(),
        size: row.size_bytes,
        artifact_type: row.artifact_type,
        annotations: row
            .annotations
            .map(RawValue::from_string)
            .transpose()
            .map_err(|error| unlistable(&error))?,
    })
}

fn entry_of_descriptor(descriptor: Descriptor) -> Result<Entry, ApiError> {
    let annotations = (!descriptor.annotations.is_empty())
        .then(|| serde_json::value::to_raw_value(&descriptor.annotations))
        .transpose()
        .map_err(|error| unlistable(&error))?;
    Ok(Entry {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        artifact_type: descriptor.artifact_type,
        annotations,
    })
}

fn unlistable(error: &serde_json::Error) -> ApiError {
    tracing::error!(%error, "unreadable annotations of a referrer");
    ApiError::new(Code::Unknown, "a referrer's annotations cannot be read")
}

/// How many of the first entries a page has room for; one at least.
fn entries_that_fit(entries: &[Entry]) -> usize {
    let mut room = PAGE_BYTES_MAX;
    let fit = entries.iter().take_while(|entry| {
        let size = 512
            + entry
                .annotations
                .as_ref()
                .map_or(0, |json| json.get().len());
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    });
    fit.count().max(1)
}
