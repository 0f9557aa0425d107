//! Blobs: whether they are there, and their content in one piece.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::{Method, StatusCode};
use longshore_oci::{Descriptor, Digest};

use super::Walk;
use super::stream::{BlobStream, Download};
use crate::auth::Action;
use crate::client::Access;
use crate::transport::Request;
use crate::{Client, Error, Repository, Result};

impl Client {
    /// Streams a blob from `offset` on. The connection is made before this returns;
    /// when it breaks later, the stream resumes where it was, if need be from the next
    /// host. The described size is enforced, the digest only through
    /// [`BlobStream::verified`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when no host has the blob, and as [`Error`] lists.
    pub async fn fetch_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream> {
        let walk = Walk::new(self, repository, true)?;
        let what = blob_name(repository, &descriptor.digest);
        let mut download = Download::new(self.clone(), walk, what, descriptor, offset);
        download.open().await?;
        Ok(BlobStream::new(download))
    }

    /// Fetches a small blob whole, verified by size and digest.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it is described with more than `limit` bytes, and as
    /// for [`Client::fetch_blob`].
    pub async fn fetch_blob_bytes(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: usize,
    ) -> Result<Bytes> {
        if descriptor.size > limit as u64 {
            return Err(Error::TooLarge {
                host: repository.registry().to_owned(),
                what: blob_name(repository, &descriptor.digest),
                limit,
            });
        }
        let stream = self.fetch_blob(repository, descriptor, 0).await?;
        let collected = stream
            .verified()
            .try_fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(&piece);
                std::future::ready(Ok(all))
            });
        Ok(collected.await?.freeze())
    }

    /// Whether the repository itself, not a mirror of it, has the blob.
    ///
    /// # Errors
    /// As [`Error`] lists; a blob that is not there is no error.
    pub async fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let access = self.origin_access(repository, Action::Pull)?;
        Ok(self.blob_size(&access, repository, digest).await?.is_some())
    }

    /// The size of a blob that is there; `None` when it is not. A registry that does
    /// not tell the size is believed to have all of it.
    pub(crate) async fn blob_size(
        &self,
        access: &Access,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<BlobSize>> {
        let url = access.url(&self.inner, &format!("blobs/{digest}")).await?;
        let what = blob_name(repository, digest);
        let request = Request::new(Method::HEAD, url, what);
        let answer = self.inner.send(access, &request).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(match answer.content_length() {
                Some(size) => BlobSize::Known(size),
                None => BlobSize::Untold,
            })),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(Error::refused(answer.into_refusal(&request.what).await)),
        }
    }
}

/// What a registry says of the size of a blob it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobSize {
    Known(u64),
    Untold,
}

impl BlobSize {
    pub(crate) fn may_be(self, size: u64) -> bool {
        match self {
            Self::Known(known) => known == size,
            Self::Untold => true,
        }
    }
}

pub(crate) fn blob_name(repository: &Repository, digest: &Digest) -> String {
    format!("blob `{digest}` of `{repository}`")
}
