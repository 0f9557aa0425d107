//! Where the bytes of an upload come from.
//!
//! A source can be opened more than once and at any offset, because an upload that
//! broke is resumed where the registry stopped, or begun again.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncSeekExt as _};

/// A stream of a blob's bytes.
pub type BlobReader = Pin<Box<dyn AsyncRead + Send>>;

/// The bytes of one blob, readable again from any offset.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Opens the bytes from `offset` to the end. The content is the same at every call.
    async fn open(&self, offset: u64) -> io::Result<BlobReader>;
}

#[async_trait]
impl BlobSource for Bytes {
    async fn open(&self, offset: u64) -> io::Result<BlobReader> {
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| *start <= self.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(Box::pin(io::Cursor::new(self.slice(start..))))
    }
}

/// A blob that is a whole file.
#[derive(Clone, Debug)]
pub struct FileSource(PathBuf);

impl FileSource {
    /// The file at `path`, opened when the upload needs it.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(path.as_ref().to_owned())
    }
}

#[async_trait]
impl BlobSource for FileSource {
    async fn open(&self, offset: u64) -> io::Result<BlobReader> {
        let mut file = tokio::fs::File::open(&self.0).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(Box::pin(file))
    }
}
