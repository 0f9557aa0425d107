//! Blobs of a repository: reading, removing, mounting.

use longshore_content::{BlobInfo, BlobReader, ByteRange};
use longshore_oci::Digest;

use crate::RepositoryName;
use crate::error::{ApiError, Code};
use crate::service::Service;

impl Service {
    /// The blob's facts. Whoever was told that it is here will not push it before its manifest,
    /// so from now it stays for a while.
    pub(crate) async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<BlobInfo, ApiError> {
        let (name, blob) = (repository.clone(), *digest);
        if self
            .ask(move |db| db.touch_blob(name.as_str(), &blob))
            .await?
            && let Some(info) = self.content.stat(digest).await?
        {
            return Ok(info);
        }
        Err(self.blob_unknown(repository).await)
    }

    pub(crate) async fn read_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<BlobReader, ApiError> {
        let (name, blob) = (repository.clone(), *digest);
        if self
            .ask(move |db| db.has_blob(name.as_str(), &blob))
            .await?
            && let Some(reader) = self.content.read(digest, ByteRange::ALL).await?
        {
            return Ok(reader);
        }
        Err(self.blob_unknown(repository).await)
    }

    /// Takes the blob out of this repository. Its bytes go when nobody needs them.
    pub(crate) async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), ApiError> {
        let (name, blob) = (repository.clone(), *digest);
        if self
            .ask(move |db| db.unlink_blob(name.as_str(), &blob))
            .await?
        {
            return Ok(());
        }
        Err(self.blob_unknown(repository).await)
    }

    /// The repositories that a blob could be mounted from.
    pub(crate) async fn holders(&self, digest: &Digest) -> Result<Vec<RepositoryName>, ApiError> {
        let blob = *digest;
        let names = self.ask(move |db| db.holders(&blob)).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Links `from`'s blob into the repository; whether `from` has it, whole.
    pub(crate) async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<bool, ApiError> {
        if self.content.stat(digest).await?.is_none() {
            return Ok(false);
        }
        let (name, blob, from) = (repository.clone(), *digest, from.clone());
        self.ask(move |db| db.mount_blob(name.as_str(), &blob, Some(from.as_str())))
            .await
    }

    async fn blob_unknown(&self, repository: &RepositoryName) -> ApiError {
        let message = "the blob is not in the repository";
        self.not_found(repository, Code::BlobUnknown, message).await
    }
}
