//! Reads a part of a blob in large chunks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{BlobInfo, ByteRange};

/// How much is read at once; at most two chunks are in memory for each reader.
const CHUNK_BYTES: u64 = 256 * 1024;

/// An open part of a blob. It stays readable when the blob is deleted or replaced.
#[derive(Debug)]
pub struct BlobReader {
    info: BlobInfo,
    at: u64,
    end: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File {
        file: Arc<File>,
        ahead: Option<JoinHandle<io::Result<Bytes>>>,
    },
    Memory(Bytes),
}

impl BlobReader {
    pub(crate) fn of_file(file: File, info: BlobInfo, range: ByteRange) -> Self {
        let (at, end) = range.within(info.size_bytes);
        Self {
            info,
            at,
            end,
            source: Source::File {
                file: Arc::new(file),
                ahead: None,
            },
        }
    }

    pub(crate) fn of_bytes(content: Bytes, info: BlobInfo, range: ByteRange) -> Self {
        let (at, end) = range.within(info.size_bytes);
        Self {
            info,
            at,
            end,
            source: Source::Memory(content),
        }
    }

    /// The whole blob's facts.
    pub fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// Takes a part of what is still to come; `range` counts from the blob's start.
    #[must_use]
    pub fn restricted_to(mut self, range: ByteRange) -> Self {
        let (start, end) = range.within(self.info.size_bytes);
        self.at = start.clamp(self.at, self.end);
        self.end = end.clamp(self.at, self.end);
        if let Source::File { ahead, .. } = &mut self.source {
            *ahead = None;
        }
        self
    }

    /// How many bytes are still to come.
    pub fn remaining_bytes(&self) -> u64 {
        self.end - self.at
    }

    /// The next bytes; `None` after the last. Safe to cancel: nothing is lost.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter than the blob.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.at == self.end {
            return Ok(None);
        }
        let (at, end) = (self.at, self.end);
        let chunk = match &mut self.source {
            Source::Memory(content) => {
                let until = (at + CHUNK_BYTES).min(end);
                content.slice(index(at)..index(until))
            }
            Source::File { file, ahead } => {
                let task = ahead.get_or_insert_with(|| read_ahead(file, at, end));
                let chunk = task.await.map_err(io::Error::other);
                *ahead = None;
                let chunk = chunk??;
                let next = at + chunk.len() as u64;
                if next < end {
                    *ahead = Some(read_ahead(file, next, end));
                }
                chunk
            }
        };
        self.at += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn read_ahead(file: &Arc<File>, at: u64, end: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    spawn_blocking(move || {
        let mut chunk = vec![0; index(CHUNK_BYTES.min(end - at))];
        file.read_exact_at(&mut chunk, at)?;
        Ok(Bytes::from(chunk))
    })
}
