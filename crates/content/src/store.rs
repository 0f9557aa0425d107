//! The contract of content stores: blobs by digest, uploads that survive interruption.
//!
//! Vocabulary: a *blob* is finished, verified, immutable content; an *upload* is content
//! that is still arriving under an [`UploadId`]; an *ingest* is the one open handle on an
//! upload. Every implementation runs [`crate::conformance`].

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use longshore_oci::{Algorithm, Digest};

use crate::{BlobReader, ContentError};

/// The longest upload id.
const UPLOAD_ID_BYTES_MAX: usize = 64;

/// A finished blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// When it was first stored here.
    pub created: SystemTime,
}

/// A part of a blob, in bytes from its start. What lies beyond the end is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte; `None` for the end.
    pub end: Option<u64>,
}

impl ByteRange {
    /// The whole blob.
    pub const ALL: Self = Self {
        start: 0,
        end: None,
    };

    /// The part of a blob of `size_bytes` that this names: start and one past the end.
    pub fn within(self, size_bytes: u64) -> (u64, u64) {
        let start = self.start.min(size_bytes);
        let end = self.end.unwrap_or(size_bytes).clamp(start, size_bytes);
        (start, end)
    }
}

/// Names an upload: 1 to 64 letters, digits, `-` and `_`, so that it is safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(String);

impl UploadId {
    /// An id that nobody can guess.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UploadId {
    type Err = ContentError;

    fn from_str(text: &str) -> Result<Self, ContentError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > UPLOAD_ID_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(ContentError::UploadId(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Blobs by digest.
///
/// All methods may be called from many tasks at once. Dropping a returned future leaves
/// no half state. `Ok(None)` and `Ok(false)` mean absence.
#[async_trait]
pub trait ContentStore: fmt::Debug + Send + Sync {
    /// The blob's size and age, if it is here, whole and may be read.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError>;

    /// Opens a part of the blob. A reader that was opened stays whole, even if the blob is
    /// deleted or replaced meanwhile.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn read(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Option<BlobReader>, ContentError>;

    /// Opens the upload, new or with what an earlier ingest of this id left, also one of a
    /// process that was killed. `algorithm` is a hint of what `commit` will ask for.
    ///
    /// # Errors
    /// [`ContentError::UploadBusy`] while another ingest of the id is open.
    async fn ingest(
        &self,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Ingest>, ContentError>;

    /// Removes the blob, whoever needs it; whether it was there.
    ///
    /// # Errors
    /// When it could not be removed.
    async fn delete(&self, digest: &Digest) -> Result<bool, ContentError>;
}

/// The one open handle on an upload.
///
/// Nothing of it can be read through the store before `commit`. Dropping it keeps what was
/// flushed for the next ingest of the same id.
#[async_trait]
pub trait Ingest: fmt::Debug + Send {
    /// How many bytes were accepted so far.
    fn offset(&self) -> u64;

    /// Appends. A failed write (the disk is full) takes back all that was not flushed, so that
    /// `offset` is again the truth and the upload can go on from there.
    ///
    /// # Errors
    /// When an earlier or this write failed.
    async fn write(&mut self, content: Bytes) -> Result<(), ContentError>;

    /// Makes all accepted bytes survive the death of the process.
    ///
    /// # Errors
    /// As `write`.
    async fn flush(&mut self) -> Result<(), ContentError>;

    /// Makes the content a blob: all of it durable, its digest verified, its name in place,
    /// in this order. The digest is `expected`'s if given, else by the hinted algorithm.
    ///
    /// Committing content that the store has already is fine, and replaces a damaged copy.
    /// After an error nothing is visible; the upload is as it was, or gone.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`] when the content is not `expected`.
    async fn commit(self: Box<Self>, expected: Option<&Digest>) -> Result<BlobInfo, ContentError>;

    /// Forgets the upload and its bytes.
    ///
    /// # Errors
    /// When it could not be removed.
    async fn abort(self: Box<Self>) -> Result<(), ContentError>;
}
