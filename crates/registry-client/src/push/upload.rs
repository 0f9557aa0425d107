//! Sending a blob.
//!
//! ```text
//! mount? ──201──► done        POST ──► session ──► PUT all ──201──► done
//!   │ 202: session              ▲          │ broke
//! HEAD ──200──► done            │          ▼
//!   │ 404 ──────────────────────┘   GET session ──► PATCH the rest, PUT
//!                                          │ unknown: new session, from the start
//! ```
//! Invariant: success means that the registry answered 201 for this digest, or says
//! that it has a blob of this digest and size.

use std::num::NonZeroU64;
use std::sync::Arc;

use longshore_oci::{Descriptor, Digest};

use super::session::{Session, SessionStart};
use crate::auth::Action;
use crate::client::Access;
use crate::progress::{Direction, Transfer};
use crate::pull::blob_name;
use crate::source::BlobSource;
use crate::transport::{Body, SourceBody};
use crate::{Client, Error, Repository, Result};

/// How a blob is sent.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// A repository of the same registry that is known, or likely, to have the blob.
    pub mount_from: Option<Repository>,
    /// Sends the blob in requests of this size, for proxies that bound a request's body.
    /// `None` sends it in one.
    pub chunk_bytes: Option<NonZeroU64>,
}

/// How the registry came to have the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It had it before.
    Existed,
    /// It took it over from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Makes sure that the repository has a blob: asks for it, or mounts it, or sends
    /// it. A transfer that breaks is resumed where the registry can tell where it was,
    /// else begun again; one that is given up is cancelled at the registry, also when
    /// the returned future is dropped.
    ///
    /// # Errors
    /// [`Error::Source`] when the source fails or ends early, and as [`Error`] lists.
    pub async fn upload_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
        options: &UploadOptions,
    ) -> Result<Uploaded> {
        let access = self.origin_access(repository, Action::Push)?;
        let mut upload = Upload {
            client: self,
            access,
            repository,
            digest: descriptor.digest,
            size: descriptor.size,
            what: blob_name(repository, &descriptor.digest),
            source,
            chunk_bytes: options.chunk_bytes,
        };
        Box::pin(upload.run(options.mount_from.as_ref())).await
    }
}

struct Upload<'a> {
    client: &'a Client,
    access: Access,
    repository: &'a Repository,
    digest: Digest,
    size: u64,
    what: String,
    source: Arc<dyn BlobSource>,
    chunk_bytes: Option<NonZeroU64>,
}

impl Upload<'_> {
    async fn run(&mut self, mount_from: Option<&Repository>) -> Result<Uploaded> {
        let mut session = None;
        if let Some(from) = mount_from {
            match self.try_mount(from).await? {
                Some(SessionStart::Mounted) => return Ok(Uploaded::Mounted),
                Some(SessionStart::Session(opened)) => session = Some(opened),
                None => {}
            }
        }
        if self.exists().await? {
            if let Some(session) = session {
                session.cancel().await;
            }
            return Ok(Uploaded::Existed);
        }
        let host = Arc::clone(&self.access.host);
        // The semaphore is never closed.
        let _permit = host.uploads.acquire().await.ok();
        let session = match session {
            Some(session) => *session,
            None => self.begin().await?,
        };
        self.send(session).await
    }

    /// A refused mount is no reason not to send: the source may be out of our reach.
    async fn try_mount(&mut self, from: &Repository) -> Result<Option<SessionStart>> {
        let Some((access, path)) = self.client.mount_access(self.repository, from)? else {
            return Ok(None);
        };
        let mounting = self
            .client
            .begin_mount(&access, self.repository, &self.digest, &path);
        match mounting.await {
            Ok(start) => {
                // The same rights serve for what follows, with the same token.
                self.access = access;
                Ok(Some(start))
            }
            Err(error) if error.refusal().is_some() => {
                tracing::debug!(%error, digest = %self.digest, "not mounted");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the registry has the blob. One of another size is no such blob: some
    /// registries keep a truncated file and call it by its digest.
    async fn exists(&self) -> Result<bool> {
        let asked = self
            .client
            .blob_size(&self.access, self.repository, &self.digest);
        Ok(asked.await?.is_some_and(|told| told.may_be(self.size)))
    }

    async fn begin(&self) -> Result<Session> {
        Session::begin(self.client, &self.access, &self.what).await
    }

    async fn send(&self, mut session: Session) -> Result<Uploaded> {
        let policy = self.client.inner.retry;
        let (mut position, mut furthest) = (0, 0);
        let mut attempt = 1;
        loop {
            let resumed = position > 0;
            let error = match self.send_from(&mut session, &mut position).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(error) => error,
            };
            // A registry may take uploads and not take them up again.
            let repeat = may_be_repeated(&error) || (resumed && error.refusal().is_some());
            if position > furthest {
                (furthest, attempt) = (position, 1);
            }
            if !repeat || !policy.allows_after(attempt) {
                session.cancel().await;
                return Err(error);
            }
            tracing::debug!(%error, digest = %self.digest, position, attempt, "upload broke");
            tokio::time::sleep(policy.delay(attempt, None)).await;
            attempt += 1;
            match self.recover(session, &error).await? {
                None => return Ok(Uploaded::Sent),
                Some(recovered) => (session, position) = recovered,
            }
            // Only getting further than ever before makes the next failure a first one.
            if position > furthest {
                (furthest, attempt) = (position, 1);
            }
        }
    }

    /// Finds out what became of a broken upload: `None` when it had succeeded.
    async fn recover(&self, mut session: Session, error: &Error) -> Result<Option<(Session, u64)>> {
        // A registry that refused is not asked to go on from there.
        let broke = error.refusal().is_none_or(|refusal| refusal.status >= 416);
        let position = match session.position().await {
            Ok(position) => position.filter(|at| broke && *at <= self.size),
            Err(error) => {
                tracing::debug!(%error, "the upload cannot be asked for");
                None
            }
        };
        if let Some(position) = position {
            return Ok(Some((session, position)));
        }
        session.cancel().await;
        // The answer to the last request may have been lost, not the request.
        if self.exists().await? {
            return Ok(None);
        }
        Ok(Some((self.begin().await?, 0)))
    }

    /// Sends what is missing; keeps `position` at what the registry is known to have.
    async fn send_from(&self, session: &mut Session, position: &mut u64) -> Result<()> {
        let chunk = self.chunk_bytes.map_or(u64::MAX, NonZeroU64::get);
        let chunk = chunk.max(session.chunk_min.unwrap_or(1));
        if *position == 0 && chunk >= self.size {
            let body = self.body(0, self.size);
            let sent = session.put(body.clone(), &self.digest).await;
            return self.blame_source(&body, sent);
        }
        while *position < self.size {
            let end = self.size.min(position.saturating_add(chunk));
            let body = self.body(*position, end);
            let sent = session.patch(body.clone(), *position, end).await;
            let reached = self.blame_source(&body, sent)?;
            if reached <= *position || reached > end {
                return Err(self.out_of_step(reached));
            }
            *position = reached;
        }
        session.put(Body::Empty, &self.digest).await
    }

    fn body(&self, start: u64, end: u64) -> Body {
        if start == end {
            return Body::Empty;
        }
        let observer = self.client.observer.clone();
        let host = Arc::clone(&self.access.host);
        let (digest, size_bytes) = (self.digest, self.size);
        let tell = move |position_bytes| {
            if let Some(observer) = &observer {
                observer.transferred(Transfer {
                    direction: Direction::Upload,
                    host: &host.name,
                    digest,
                    position_bytes,
                    size_bytes,
                });
            }
        };
        Body::Source(SourceBody::new(Arc::clone(&self.source), start..end, tell))
    }

    /// When the source failed, that is the error, not the request that broke on it.
    fn blame_source<T>(&self, body: &Body, sent: Result<T>) -> Result<T> {
        let failure = match body {
            Body::Source(source) => source.take_failure(),
            Body::Empty | Body::Bytes(_) => None,
        };
        match (sent, failure) {
            (Err(_), Some(error)) => Err(Error::Source {
                digest: Box::new(self.digest),
                error,
            }),
            (sent, _) => sent,
        }
    }

    fn out_of_step(&self, reached: u64) -> Error {
        Error::Protocol {
            host: self.access.host.authority.clone(),
            what: self.what.clone(),
            problem: format!("it says that it has {reached} bytes, which were not sent"),
        }
    }
}

/// Whether an upload that ended so is worth another try: connections that broke, and
/// sessions that the registry lost (404) or sees at another offset (416).
fn may_be_repeated(error: &Error) -> bool {
    let status = error.refusal().map(|refusal| refusal.status);
    error.is_transient() || matches!(status, Some(404 | 416))
}
