//! Manifests of a repository, stored byte for byte as they came.

use bytes::Bytes;
use longshore_content::registry::{ManifestName, NewManifest, PutManifest, StoredManifest};
use longshore_content::{ByteRange, UploadId};
use longshore_oci::{Algorithm, Digest};

use crate::error::{ApiError, Code};
use crate::manifest_facts::{self, ManifestFacts};
use crate::route::ManifestReference;
use crate::service::Service;
use crate::{RepositoryName, Tag};

/// A manifest that was stored.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
}

impl Service {
    pub(crate) async fn find_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<StoredManifest, ApiError> {
        let (name, wanted) = (repository.clone(), reference.clone());
        let found = self
            .ask(move |db| {
                let wanted = match &wanted {
                    ManifestReference::Tag(tag) => ManifestName::Tag(tag.as_str()),
                    ManifestReference::Digest(digest) => ManifestName::Digest(digest),
                };
                db.manifest(name.as_str(), wanted)
            })
            .await?;
        match found {
            Some(manifest) => Ok(manifest),
            None => Err(self.manifest_unknown(repository).await),
        }
    }

    /// A manifest's bytes; not found if they were damaged, until they are pushed again.
    pub(crate) async fn manifest_bytes(
        &self,
        repository: &RepositoryName,
        manifest: &StoredManifest,
    ) -> Result<Bytes, ApiError> {
        match self.load_manifest(&manifest.digest).await? {
            Some(document) => Ok(document),
            None => Err(self.manifest_unknown(repository).await),
        }
    }

    pub(crate) async fn load_manifest(&self, digest: &Digest) -> Result<Option<Bytes>, ApiError> {
        if let Some(document) = self.manifests.get(digest) {
            return Ok(Some(document));
        }
        let Some(mut reader) = self.content.read(digest, ByteRange::ALL).await? else {
            return Ok(None);
        };
        let mut document = Vec::new();
        while let Some(chunk) = reader.next().await.map_err(unreadable)? {
            document.extend_from_slice(&chunk);
        }
        let document = Bytes::from(document);
        self.manifests.put(digest, &document);
        Ok(Some(document))
    }

    /// Stores a manifest, and points the tags at it.
    pub(crate) async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        tags: &[Tag],
        content_type: &str,
        document: Bytes,
    ) -> Result<Accepted, ApiError> {
        let digest = named_digest(reference, &document)?;
        let facts = manifest_facts::read(&document, content_type)?;
        let mut all_tags = tags.to_vec();
        if let ManifestReference::Tag(tag) = reference {
            all_tags.push(tag.clone());
        }
        let subject = facts.subject;
        self.store_manifest(&digest, document.clone()).await?;
        let size_bytes = document.len() as u64;
        self.link_manifest(repository, &digest, size_bytes, facts, all_tags)
            .await?;
        self.manifests.put(&digest, &document);
        Ok(Accepted { digest, subject })
    }

    async fn store_manifest(&self, digest: &Digest, document: Bytes) -> Result<(), ApiError> {
        let id = UploadId::random();
        let mut ingest = self.content.ingest(&id, digest.algorithm()).await?;
        ingest.write(document).await?;
        ingest.commit(Some(digest)).await?;
        Ok(())
    }

    /// Checks what the manifest needs and stores its row in one transaction.
    async fn link_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        facts: ManifestFacts,
        tags: Vec<Tag>,
    ) -> Result<(), ApiError> {
        let (name, digest) = (repository.clone(), *digest);
        let outcome = self
            .ask(move |db| {
                let manifest = NewManifest {
                    digest,
                    media_type: &facts.media_type,
                    size_bytes,
                    subject: facts.subject,
                    artifact_type: facts.artifact_type.as_deref(),
                    annotations: facts.annotations.as_deref(),
                    blobs: &facts.blobs,
                    manifests: &facts.manifests,
                    optional_blobs: &facts.optional_blobs,
                };
                let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
                db.put_manifest(name.as_str(), &manifest, &tags)
            })
            .await?;
        match outcome {
            PutManifest::Stored => Ok(()),
            PutManifest::Missing(digests) => Err(ApiError::missing(&digests)),
        }
    }

    /// Removes a tag, or a manifest with all its tags.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<(), ApiError> {
        let (name, unwanted) = (repository.clone(), reference.clone());
        let removed = self
            .ask(move |db| match &unwanted {
                ManifestReference::Tag(tag) => db.remove_tag(name.as_str(), tag.as_str()),
                ManifestReference::Digest(digest) => db.remove_manifest(name.as_str(), digest),
            })
            .await?;
        if removed {
            return Ok(());
        }
        Err(self.manifest_unknown(repository).await)
    }

    async fn manifest_unknown(&self, repository: &RepositoryName) -> ApiError {
        let message = "the manifest is not in the repository";
        self.not_found(repository, Code::ManifestUnknown, message)
            .await
    }
}

/// The digest by the algorithm that the client named it with, which must be the same.
fn named_digest(reference: &ManifestReference, document: &[u8]) -> Result<Digest, ApiError> {
    match reference {
        ManifestReference::Tag(_) => Ok(Digest::of(Algorithm::Sha256, document)),
        ManifestReference::Digest(expected) => {
            let actual = Digest::of(expected.algorithm(), document);
            if actual == *expected {
                return Ok(actual);
            }
            let message = format!("the manifest is {actual}, not {expected}");
            Err(ApiError::new(Code::DigestInvalid, message))
        }
    }
}

fn unreadable(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "cannot read a manifest");
    ApiError::new(Code::Unknown, "the manifest cannot be read")
}
