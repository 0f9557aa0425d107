//! Bytes on their way in and out.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use longshore_content::BlobReader;

use crate::error::{ApiError, Code};

/// What is read and dropped of a refused request's body, so that the client gets to read why.
const DRAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A request's body, as it arrives.
pub(crate) struct Incoming {
    chunks: Chunks,
    /// `Content-Length`, if the client said it.
    pub(crate) size_bytes: Option<u64>,
    idle_timeout: Duration,
}

impl Incoming {
    pub(crate) fn new(chunks: Chunks, size_bytes: Option<u64>, idle_timeout: Duration) -> Self {
        Self {
            chunks,
            size_bytes,
            idle_timeout,
        }
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        match tokio::time::timeout(self.idle_timeout, self.chunks.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => {
                let message = format!("the request broke off: {error}");
                Err(ApiError::new(Code::BlobUploadInvalid, message))
            }
            Err(_) => {
                let message = "the client sent nothing for too long";
                Err(ApiError::new(Code::BlobUploadInvalid, message).with_status(408))
            }
        }
    }

    /// All of it, if it is no more than `limit_bytes`.
    pub(crate) async fn collect(&mut self, limit_bytes: usize) -> Result<Bytes, ApiError> {
        let too_large = || {
            let message = format!("more than {limit_bytes} bytes");
            ApiError::new(Code::SizeInvalid, message).with_status(413)
        };
        if self
            .size_bytes
            .is_some_and(|size| size > limit_bytes as u64)
        {
            return Err(too_large());
        }
        let mut collected = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if collected.len() + chunk.len() > limit_bytes {
                return Err(too_large());
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(collected.freeze())
    }

    /// Reads some of what nobody wants: a client that still writes does not read.
    pub(crate) async fn drain(&mut self) {
        let draining = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = self.chunks.next().await {
                drained += chunk.len();
                if drained > DRAINED_BYTES_MAX {
                    break;
                }
            }
        };
        // A client that is too slow loses its connection instead of reading the answer.
        drop(tokio::time::timeout(DRAIN_TIMEOUT, draining).await);
    }
}

/// A blob's bytes as a response's body. Where reading fails the connection breaks off, so that
/// nobody takes a part for the whole.
pub(crate) fn outgoing(reader: BlobReader) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        Ok(chunk.map(|chunk| (chunk, reader)))
    })
}
