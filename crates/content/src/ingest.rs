//! The local store's side of the asynchronous contract.
//!
//! Hashing and writing happen on blocking threads, a chunk at a time, while the next chunk
//! arrives: at most two chunks are in memory for each ingest.

use async_trait::async_trait;
use bytes::Bytes;
use longshore_oci::{Algorithm, Digest};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::upload::UploadFile;
use crate::{
    BlobInfo, BlobReader, ByteRange, ContentError, ContentStore, Ingest, LocalStore, UploadId,
};

/// What is gathered before a blocking thread is bothered with it.
const CHUNK_BYTES: usize = 256 * 1024;

#[async_trait]
impl ContentStore for LocalStore {
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.info(&digest)).await
    }

    async fn read(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Option<BlobReader>, ContentError> {
        let (store, digest) = (self.clone(), *digest);
        let opened = blocking(move || store.open_with_info(&digest)).await?;
        Ok(opened.map(|(file, info)| BlobReader::of_file(file, info, range)))
    }

    async fn ingest(
        &self,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<Box<dyn Ingest>, ContentError> {
        let (store, id) = (self.clone(), id.clone());
        let upload = blocking(move || UploadFile::open(store, &id, algorithm)).await?;
        Ok(Box::new(LocalIngest {
            offset: upload.offset(),
            state: State::Idle(Box::new(upload)),
            gathered: Vec::new(),
            gathered_bytes: 0,
        }))
    }

    async fn delete(&self, digest: &Digest) -> Result<bool, ContentError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.remove(&digest)).await
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    spawn_blocking(work).await.map_err(ContentError::TaskLost)?
}

#[derive(Debug)]
struct LocalIngest {
    state: State,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    offset: u64,
}

type Appended = (Box<UploadFile>, Result<(), ContentError>);

#[derive(Debug)]
enum State {
    Idle(Box<UploadFile>),
    Writing(JoinHandle<Appended>),
    /// The task that had the file panicked or was cancelled by the runtime's end.
    Lost,
}

impl LocalIngest {
    /// Waits for the chunk that is being written. Safe to cancel.
    async fn settle(&mut self) -> Result<(), ContentError> {
        let State::Writing(task) = &mut self.state else {
            return Ok(());
        };
        match task.await {
            Ok((upload, result)) => {
                if result.is_err() {
                    self.gathered.clear();
                    self.gathered_bytes = 0;
                    self.offset = upload.offset();
                }
                self.state = State::Idle(upload);
                result
            }
            Err(error) => {
                self.state = State::Lost;
                Err(ContentError::TaskLost(error))
            }
        }
    }

    /// Hands what was gathered to a blocking thread.
    async fn dispatch(&mut self) -> Result<(), ContentError> {
        self.settle().await?;
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut upload = self.take_upload()?;
        let chunk = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        self.state = State::Writing(spawn_blocking(move || {
            let result = chunk.iter().try_for_each(|part| upload.append(part));
            (upload, result)
        }));
        Ok(())
    }

    fn take_upload(&mut self) -> Result<Box<UploadFile>, ContentError> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(upload) => Ok(upload),
            other => {
                self.state = other;
                Err(ContentError::UploadBusy("(lost)".to_owned()))
            }
        }
    }
}

#[async_trait]
impl Ingest for LocalIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, content: Bytes) -> Result<(), ContentError> {
        if content.is_empty() {
            return Ok(());
        }
        self.offset += content.len() as u64;
        self.gathered_bytes += content.len();
        self.gathered.push(content);
        if self.gathered_bytes >= CHUNK_BYTES {
            self.dispatch().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ContentError> {
        self.dispatch().await?;
        self.settle().await
    }

    async fn commit(
        mut self: Box<Self>,
        expected: Option<&Digest>,
    ) -> Result<BlobInfo, ContentError> {
        self.flush().await?;
        let upload = self.take_upload()?;
        let expected = expected.copied();
        blocking(move || upload.commit(expected.as_ref())).await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), ContentError> {
        // The outcome of a write does not matter for what is thrown away.
        drop(self.settle().await);
        let upload = self.take_upload()?;
        blocking(move || upload.abort()).await
    }
}
