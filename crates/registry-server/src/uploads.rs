//! Uploads: content that arrives in one or many requests.
//!
//! An upload's id is its only key: anyone who has it can go on, also after the server was
//! killed and started again. What was acknowledged as received is in the file by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_content::{BlobInfo, ContentError, Ingest, UploadId};
use longshore_oci::{Algorithm, Digest};

use crate::body::Incoming;
use crate::error::{ApiError, Code};
use crate::service::Service;
use crate::sessions::HeldSession;
use crate::{ContentRange, RepositoryName};

impl Service {
    pub(crate) async fn start_upload(
        &self,
        repository: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<UploadId, ApiError> {
        self.sessions.close_idle();
        let id = UploadId::random();
        let (name, new) = (repository.clone(), id.clone());
        self.ask(move |db| db.start_upload(name.as_str(), &new, algorithm))
            .await?;
        Ok(id)
    }

    /// How many bytes the upload has.
    pub(crate) async fn upload_status(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
    ) -> Result<u64, ApiError> {
        self.find_upload(repository, id).await?;
        if let Some(offset) = self.sessions.offset_while_busy(id) {
            return Ok(offset);
        }
        let mut session = self.hold(repository, id).await?;
        Ok(opened(&mut session)?.offset())
    }

    /// Appends a chunk; the upload's new size.
    pub(crate) async fn append(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        range: Option<ContentRange>,
        body: &mut Incoming,
    ) -> Result<u64, ApiError> {
        let mut session = self.hold(repository, id).await?;
        self.receive_chunk(&mut session, range, body).await?;
        let touched = id.clone();
        self.ask(move |db| db.touch_upload(&touched)).await?;
        Ok(opened(&mut session)?.offset())
    }

    /// Appends the last chunk and makes the upload a blob of the repository.
    pub(crate) async fn finish(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        digest: &Digest,
        range: Option<ContentRange>,
        body: &mut Incoming,
    ) -> Result<BlobInfo, ApiError> {
        let mut session = self.hold(repository, id).await?;
        self.receive_chunk(&mut session, range, body).await?;
        let Some(ingest) = session.ingest.take() else {
            return Err(lost());
        };
        let info = match ingest.commit(Some(digest)).await {
            Ok(info) => info,
            Err(error @ ContentError::DigestMismatch { .. }) => {
                self.discard(id).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        let (name, done, blob) = (repository.clone(), id.clone(), info.digest);
        let linked = self
            .ask(move |db| db.finish_upload(name.as_str(), &done, &blob))
            .await?;
        self.sessions.remove(id);
        if linked { Ok(info) } else { Err(lost()) }
    }

    pub(crate) async fn cancel_upload(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
    ) -> Result<(), ApiError> {
        let mut session = self.hold(repository, id).await?;
        session.ingest.take();
        self.discard(id).await
    }

    /// Receives a whole blob in one request.
    pub(crate) async fn push_whole(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        body: &mut Incoming,
    ) -> Result<BlobInfo, ApiError> {
        let id = UploadId::random();
        let mut ingest = self.content.ingest(&id, digest.algorithm()).await?;
        let progress = AtomicU64::default();
        if let Err(error) = self.receive(ingest.as_mut(), None, body, &progress).await {
            ingest.abort().await?;
            return Err(error);
        }
        let info = match ingest.commit(Some(digest)).await {
            Ok(info) => info,
            Err(error) => {
                let left = self.content.ingest(&id, digest.algorithm()).await?;
                left.abort().await?;
                return Err(error.into());
            }
        };
        let (name, blob) = (repository.clone(), info.digest);
        if self
            .ask(move |db| db.link_blob(name.as_str(), &blob))
            .await?
        {
            return Ok(info);
        }
        Err(lost())
    }

    async fn find_upload(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
    ) -> Result<Algorithm, ApiError> {
        let wanted = id.clone();
        let upload = self.ask(move |db| db.upload(&wanted)).await?;
        match upload {
            Some(upload) if upload.repository == repository.as_str() => Ok(upload.algorithm),
            _ => Err(ApiError::new(
                Code::BlobUploadUnknown,
                "the upload is not known to the registry",
            )),
        }
    }

    /// Takes the upload for this request, opened. It is looked up again once it is held: the
    /// request before may have finished it.
    async fn hold(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
    ) -> Result<HeldSession, ApiError> {
        self.find_upload(repository, id).await?;
        let Some(mut session) = self.sessions.hold(id).await else {
            return Err(ContentError::UploadBusy(id.to_string()).into());
        };
        let algorithm = match self.find_upload(repository, id).await {
            Ok(algorithm) => algorithm,
            Err(error) => {
                self.sessions.remove(id);
                return Err(error);
            }
        };
        if session.ingest.is_none() {
            *session.ingest = Some(self.content.ingest(id, algorithm).await?);
        }
        let offset = opened(&mut session)?.offset();
        session.offset.store(offset, Ordering::Release);
        Ok(session)
    }

    /// Forgets the upload and its bytes; its session is held and empty.
    async fn discard(&self, id: &UploadId) -> Result<(), ApiError> {
        let ingest = self.content.ingest(id, Algorithm::Sha256).await?;
        ingest.abort().await?;
        let gone = id.clone();
        self.ask(move |db| db.cancel_upload(&gone)).await?;
        self.sessions.remove(id);
        Ok(())
    }

    /// Receives a chunk if it belongs where the upload ends; else the upload stays as it is.
    async fn receive_chunk(
        &self,
        session: &mut HeldSession,
        range: Option<ContentRange>,
        body: &mut Incoming,
    ) -> Result<(), ApiError> {
        let Some(mut ingest) = session.ingest.take() else {
            return Err(lost());
        };
        let received = match check_range(range, ingest.offset(), body.size_bytes) {
            Ok(()) => {
                let size = range.map(ContentRange::size_bytes);
                let progress = Arc::clone(&session.offset);
                self.receive(ingest.as_mut(), size, body, &progress).await
            }
            Err(error) => Err(error),
        };
        session.offset.store(ingest.offset(), Ordering::Release);
        *session.ingest = Some(ingest);
        received
    }

    /// Receives a body. Whatever comes in between, what was accepted is flushed in the end.
    async fn receive(
        &self,
        ingest: &mut dyn Ingest,
        size_bytes: Option<u64>,
        body: &mut Incoming,
        progress: &AtomicU64,
    ) -> Result<(), ApiError> {
        let outcome = self.pump(ingest, size_bytes, body, progress).await;
        ingest.flush().await?;
        outcome
    }

    async fn pump(
        &self,
        ingest: &mut dyn Ingest,
        size_bytes: Option<u64>,
        body: &mut Incoming,
        progress: &AtomicU64,
    ) -> Result<(), ApiError> {
        let end = size_bytes.map(|size| ingest.offset().saturating_add(size));
        while let Some(chunk) = body.next().await? {
            let after = ingest.offset() + chunk.len() as u64;
            if end.is_some_and(|end| after > end) {
                return Err(size_invalid("the chunk is longer than its Content-Range"));
            }
            if self.options.blob_bytes_max.is_some_and(|max| after > max) {
                return Err(size_invalid("the blob is too large").with_status(413));
            }
            ingest.write(chunk).await?;
            progress.store(ingest.offset(), Ordering::Release);
        }
        if end.is_some_and(|end| ingest.offset() < end) {
            return Err(size_invalid("the chunk is shorter than its Content-Range"));
        }
        Ok(())
    }
}

fn opened(session: &mut HeldSession) -> Result<&mut Box<dyn Ingest>, ApiError> {
    session.ingest.as_mut().ok_or_else(lost)
}

fn lost() -> ApiError {
    ApiError::new(
        Code::Unknown,
        "the upload was lost while it was being stored",
    )
}

fn size_invalid(message: &str) -> ApiError {
    ApiError::new(Code::SizeInvalid, message)
}

/// A chunk must start where the upload ends (416 otherwise) and be as long as it says.
/// Without a range the body is appended, as Docker does.
fn check_range(
    range: Option<ContentRange>,
    offset: u64,
    size_bytes: Option<u64>,
) -> Result<(), ApiError> {
    let Some(range) = range else {
        return Ok(());
    };
    if range.first != offset {
        let message = format!("the upload goes on at byte {offset}, not {}", range.first);
        return Err(
            ApiError::new(Code::RangeInvalid, message).with_header("range", uploaded_range(offset))
        );
    }
    if size_bytes.is_some_and(|size| size != range.size_bytes()) {
        return Err(size_invalid(
            "Content-Range and Content-Length do not agree",
        ));
    }
    Ok(())
}

/// What was received, as the `Range` header says it: both ends included, so that nothing and
/// one byte look the same.
pub(crate) fn uploaded_range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}
