//! Content in memory, stricter than files: for tests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use longshore_oci::{Algorithm, Digest};

use crate::{BlobInfo, BlobReader, ByteRange, ContentError, ContentStore, Ingest, UploadId};

/// A [`ContentStore`] without files. What is not flushed is lost when an ingest is dropped,
/// even though a file might still have it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, (Bytes, SystemTime)>,
    uploads: HashMap<UploadId, Vec<u8>>,
    open: HashSet<UploadId>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn info(digest: &Digest, content: &Bytes, created: SystemTime) -> BlobInfo {
    BlobInfo {
        digest: *digest,
        size_bytes: content.len() as u64,
        created,
    }
}

#[async_trait]
impl ContentStore for MemoryStore {
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        let state = self.lock();
        let blob = state.blobs.get(digest);
        Ok(blob.map(|(content, created)| info(digest, content, *created)))
    }

    async fn read(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Option<BlobReader>, ContentError> {
        let state = self.lock();
        Ok(state.blobs.get(digest).map(|(content, created)| {
            BlobReader::of_bytes(content.clone(), info(digest, content, *created), range)
        }))
    }

    async fn ingest(
        &self,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Ingest>, ContentError> {
        let mut state = self.lock();
        if !state.open.insert(id.clone()) {
            return Err(ContentError::UploadBusy(id.to_string()));
        }
        let flushed = state.uploads.entry(id.clone()).or_default().clone();
        Ok(Box::new(MemoryIngest {
            store: self.clone(),
            id: id.clone(),
            algorithm,
            content: flushed,
        }))
    }

    async fn delete(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(self.lock().blobs.remove(digest).is_some())
    }
}

#[derive(Debug)]
struct MemoryIngest {
    store: MemoryStore,
    id: UploadId,
    algorithm: Algorithm,
    content: Vec<u8>,
}

#[async_trait]
impl Ingest for MemoryIngest {
    fn offset(&self) -> u64 {
        self.content.len() as u64
    }

    async fn write(&mut self, content: Bytes) -> Result<(), ContentError> {
        self.content.extend_from_slice(&content);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ContentError> {
        let mut state = self.store.lock();
        state.uploads.insert(self.id.clone(), self.content.clone());
        Ok(())
    }

    async fn commit(
        mut self: Box<Self>,
        expected: Option<&Digest>,
    ) -> Result<BlobInfo, ContentError> {
        self.flush().await?;
        let algorithm = expected.map_or(self.algorithm, Digest::algorithm);
        let actual = Digest::of(algorithm, &self.content);
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(ContentError::mismatch(expected, &actual));
        }
        let content = Bytes::from(std::mem::take(&mut self.content));
        let mut state = self.store.lock();
        state.uploads.remove(&self.id);
        let blob = state
            .blobs
            .entry(actual)
            .or_insert_with(|| (content, SystemTime::now()));
        Ok(info(&actual, &blob.0, blob.1))
    }

    async fn abort(self: Box<Self>) -> Result<(), ContentError> {
        self.store.lock().uploads.remove(&self.id);
        Ok(())
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        self.store.lock().open.remove(&self.id);
    }
}
