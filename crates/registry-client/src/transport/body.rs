//! Request bodies that can be sent again.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use crate::source::BlobSource;

/// How much is read from a source at once, in bytes.
const PIECE_BYTES: usize = 128 * 1024;

/// What a request carries.
#[derive(Clone)]
pub(crate) enum Body {
    Empty,
    Bytes(Bytes),
    Source(SourceBody),
}

/// Shows no content: a token request's form holds secrets.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Source(source) => source.fmt(f),
        }
    }
}

/// A range of a blob's source, opened anew each time the request is sent.
#[derive(Clone)]
pub(crate) struct SourceBody(Arc<Shared>);

/// Is told of each position that was reached.
type OnProgress = Box<dyn Fn(u64) + Send + Sync>;

struct Shared {
    source: Arc<dyn BlobSource>,
    start: u64,
    end: u64,
    on_progress: OnProgress,
    /// Counts pieces that were handed to the connection, so that a stall shows.
    pieces: AtomicU64,
    finished: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl fmt::Debug for SourceBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceBody({}..{})", self.0.start, self.0.end)
    }
}

impl SourceBody {
    /// The bytes from `start` to `end` of the source.
    pub(crate) fn new(
        source: Arc<dyn BlobSource>,
        range: std::ops::Range<u64>,
        on_progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            source,
            start: range.start,
            end: range.end,
            on_progress: Box::new(on_progress),
            pieces: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            failure: Mutex::new(None),
        }))
    }

    /// The error that the source itself ended with, if it did.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        let mut slot = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        slot.take()
    }

    pub(super) fn to_body(&self) -> reqwest::Body {
        self.0.finished.store(false, Ordering::Relaxed);
        reqwest::Body::wrap(Sending {
            pieces: Mutex::new(open(Arc::clone(&self.0))),
            left: self.0.end - self.0.start,
            shared: Arc::clone(&self.0),
        })
    }

    /// Waits for `sent`; gives up when no piece moves for `idle`, or, once all did,
    /// when no answer comes for `finish`.
    pub(super) async fn watch<T>(
        &self,
        sent: impl Future<Output = T>,
        idle: Duration,
        finish: Duration,
    ) -> Option<T> {
        tokio::pin!(sent);
        let mut seen = self.0.pieces.load(Ordering::Relaxed);
        let mut since = Instant::now();
        loop {
            let finished = self.0.finished.load(Ordering::Relaxed);
            let deadline = since + if finished { finish } else { idle };
            // Looked at in between, because the limit changes once the last piece went.
            let look = deadline.min(Instant::now() + idle);
            if let Ok(done) = tokio::time::timeout_at(look, &mut sent).await {
                return Some(done);
            }
            let now = self.0.pieces.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if Instant::now() >= deadline
                && finished == self.0.finished.load(Ordering::Relaxed)
            {
                return None;
            }
        }
    }
}

/// The source's pieces from the start, opened when the first one is wanted.
fn open(shared: Arc<Shared>) -> BoxStream<'static, io::Result<Bytes>> {
    let opening = async move {
        let reader = shared.source.open(shared.start).await?;
        Ok::<_, io::Error>(ReaderStream::with_capacity(reader, PIECE_BYTES))
    };
    futures_util::stream::once(opening).try_flatten().boxed()
}

/// The body as it is sent: exactly the range, with its length known in advance.
struct Sending {
    /// The lock makes the body `Sync`; it is only ever reached through `&mut`.
    pieces: Mutex<BoxStream<'static, io::Result<Bytes>>>,
    left: u64,
    shared: Arc<Shared>,
}

impl Sending {
    fn record(&self, error: &io::Error) {
        let copy = io::Error::new(error.kind(), error.to_string());
        let mut slot = self
            .shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(copy);
    }

    /// Cuts a piece to the range and counts it.
    fn advance(&mut self, mut piece: Bytes) -> Bytes {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        piece.truncate(left);
        self.left -= piece.len() as u64;
        self.shared.pieces.fetch_add(1, Ordering::Relaxed);
        (self.shared.on_progress)(self.shared.end - self.left);
        if self.left == 0 {
            self.shared.finished.store(true, Ordering::Relaxed);
        }
        piece
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let pieces = self
            .pieces
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let next = std::task::ready!(pieces.poll_next_unpin(context));
        let piece = next.unwrap_or_else(|| Err(ended_early()));
        Poll::Ready(Some(match piece {
            Ok(piece) => Ok(http_body::Frame::data(self.advance(piece))),
            Err(error) => {
                self.record(&error);
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

fn ended_early() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the source ended before the described size",
    )
}
