//! A blob as it arrives.
//!
//! ```text
//!            ┌── broke: wait, same host with Range: bytes=<position>- ──┐
//! open ──► pieces ──► position = size: end          hosts used up: error
//!            └── host failed for good: next host, same position ────────┘
//! ```
//! Invariant: the pieces, in order, are the blob's bytes from the offset that was asked
//! for, each exactly once, and never more than the described size.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, try_unfold};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Method, StatusCode, header};
use longshore_oci::{Descriptor, Digest, Digester};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::StreamReader;

use super::Walk;
use crate::client::Access;
use crate::progress::{Direction, Transfer};
use crate::source::BlobReader;
use crate::transport::{Answer, Lane, Request, TransportError};
use crate::{Client, Error, Result};

/// How often one download may break in all, however much came in between.
const BREAKS_MAX: u32 = 100;

/// The bytes of a blob. Ends without an error only when all of them came.
pub struct BlobStream {
    pieces: BoxStream<'static, Result<Bytes>>,
    what: String,
    host: String,
    digest: Digest,
    size: u64,
    position: u64,
    /// The hash of everything so far, where the digest is verified.
    digester: Option<Digester>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("position", &self.position)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl BlobStream {
    pub(super) fn new(download: Download) -> Self {
        Self {
            what: download.what.clone(),
            host: download.host.clone(),
            digest: download.digest,
            size: download.size,
            position: download.position,
            digester: None,
            pieces: try_unfold(download, |mut download| async move {
                let piece = Box::pin(download.next_piece()).await?;
                Ok(piece.map(|piece| (piece, download)))
            })
            .boxed(),
        }
    }

    /// The blob's described size; the stream yields this less the offset it began at.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The host that the stream began with: the registry, or one of its mirrors.
    pub fn from(&self) -> &str {
        &self.host
    }

    /// Verifies the digest too: the stream then ends with [`Error::DigestMismatch`]
    /// instead of plainly when the content is another. Until it has ended, nothing of
    /// it is to be trusted. For a stream from the blob's start only; one that began
    /// later wants [`BlobStream::verified_after`].
    #[must_use]
    pub fn verified(self) -> Self {
        let digester = Digester::new(self.digest.algorithm());
        self.verified_after(digester)
    }

    /// As [`BlobStream::verified`], where `before` has hashed the bytes up to the
    /// stream's offset.
    #[must_use]
    pub fn verified_after(mut self, before: Digester) -> Self {
        self.digester = Some(before);
        self
    }

    /// The stream as a reader. Its errors are [`Error`]s: see [`Error::in_io`].
    pub fn into_reader(self) -> BlobReader {
        Box::pin(StreamReader::new(self.map_err(std::io::Error::other)))
    }

    fn check_digest(&mut self) -> Result<()> {
        let Some(digester) = self.digester.take() else {
            return Ok(());
        };
        let actual = digester.finish();
        if actual == self.digest {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            host: self.host.clone(),
            what: self.what.clone(),
            expected: Box::new(self.digest),
            actual: Box::new(actual),
        })
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.pieces.poll_next_unpin(context));
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.position += piece.len() as u64;
                if let Some(digester) = &mut self.digester {
                    digester.update(&piece);
                }
                Some(Ok(piece))
            }
            Some(Err(error)) => {
                // What follows an error is not the blob's end: nothing is verified.
                self.digester = None;
                Some(Err(error))
            }
            None => self.check_digest().err().map(Err),
        })
    }
}

/// A download in progress.
pub(super) struct Download {
    client: Client,
    walk: Walk,
    what: String,
    host: String,
    digest: Digest,
    size: u64,
    position: u64,
    current: Option<Open>,
    /// Breaks since a piece last came, and in all.
    breaks: u32,
    breaks_total: u32,
}

/// A response whose body is the blob from `skip` bytes before the position.
struct Open {
    answer: Answer,
    access: Access,
    skip: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Download {
    pub(super) fn new(
        client: Client,
        walk: Walk,
        what: String,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Self {
        Self {
            client,
            walk,
            what,
            host: String::new(),
            digest: descriptor.digest,
            size: descriptor.size,
            position: offset,
            current: None,
            breaks: 0,
            breaks_total: 0,
        }
    }

    /// Connects to the first host that has the blob.
    pub(super) async fn open(&mut self) -> Result<()> {
        if self.position > self.size {
            return Err(self.wrong_size(self.walk.access(&self.client).host.name.clone()));
        }
        if self.position == self.size {
            return Ok(());
        }
        loop {
            let access = self.walk.access(&self.client);
            match self.open_at(access.clone()).await {
                Ok(open) => {
                    self.host.clone_from(&access.host.name);
                    self.current = Some(open);
                    return Ok(());
                }
                Err(error) => self.walk.next_after(&access, error)?,
            }
        }
    }

    async fn open_at(&self, access: Access) -> Result<Open> {
        let permit = Arc::clone(&access.host.downloads).acquire_owned().await;
        let tail = format!("blobs/{}", self.digest);
        let url = access.url(&self.client.inner, &tail).await?;
        let mut request = Request::new(Method::GET, url, self.what.clone()).lane(Lane::Blob);
        if self.position > 0 {
            let range = format!("bytes={}-", self.position);
            if let Ok(range) = HeaderValue::from_str(&range) {
                request = request.header(header::RANGE, range);
            }
        }
        let answer = self.client.inner.send(&access, &request).await?;
        let expected = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        let answer = answer.expect(&expected, &self.what).await?;
        let skip = self.check_head(&answer)?;
        Ok(Open {
            answer,
            access,
            skip,
            _permit: permit.ok(),
        })
    }

    /// Checks that the answer is the part of the blob that was asked for; returns how
    /// many bytes come before it.
    fn check_head(&self, answer: &Answer) -> Result<u64> {
        if answer.status() == StatusCode::OK {
            // The whole blob, whether or not a part was asked for.
            return match answer.content_length() {
                Some(length) if length != self.size => Err(Error::SizeMismatch {
                    host: answer.host().to_owned(),
                    what: self.what.clone(),
                    expected: self.size,
                    actual: length,
                }),
                _ => Ok(self.position),
            };
        }
        let range = answer.header(&header::CONTENT_RANGE);
        match range.and_then(parse_content_range) {
            Some(range) if range.start == self.position && range.fits(self.size) => Ok(0),
            _ => Err(answer.protocol(&self.what, "another range than asked for")),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.size {
            if self.current.is_none() {
                self.open().await?;
            }
            let Some(open) = &mut self.current else {
                continue;
            };
            match open.answer.chunk().await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.accept(piece)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => self.broke(TransportError::closed_early()).await?,
                Err(failure) => self.broke(failure).await?,
            }
        }
        self.current = None;
        Ok(None)
    }

    /// Takes a piece of the body; `None` where it lies before the position.
    fn accept(&mut self, mut piece: Bytes) -> Result<Option<Bytes>> {
        let Some(open) = &mut self.current else {
            return Ok(None);
        };
        let skipped = usize::try_from(open.skip)
            .unwrap_or(usize::MAX)
            .min(piece.len());
        let _before = piece.split_to(skipped);
        open.skip -= skipped as u64;
        if piece.is_empty() {
            return Ok(None);
        }
        if piece.len() as u64 > self.size - self.position {
            let host = open.answer.host().to_owned();
            self.current = None;
            self.position += piece.len() as u64;
            return Err(self.wrong_size(host));
        }
        self.position += piece.len() as u64;
        self.breaks = 0;
        self.tell();
        Ok(Some(piece))
    }

    /// Waits before the next try at the same host, or goes on to the next host.
    async fn broke(&mut self, failure: TransportError) -> Result<()> {
        let Some(open) = self.current.take() else {
            return Ok(());
        };
        self.breaks += 1;
        self.breaks_total += 1;
        tracing::debug!(
            host = open.answer.host(), digest = %self.digest, position = self.position,
            %failure, "download broke"
        );
        let policy = self.client.inner.retry;
        if policy.allows_after(self.breaks) && self.breaks_total < BREAKS_MAX {
            drop(open.answer);
            tokio::time::sleep(policy.delay(self.breaks, None)).await;
            return Ok(());
        }
        let error = Error::Interrupted {
            host: open.answer.host().to_owned(),
            what: self.what.clone(),
            failure,
        };
        self.walk.next_after(&open.access, error)?;
        (self.breaks, self.breaks_total) = (0, 0);
        Ok(())
    }

    fn wrong_size(&self, host: String) -> Error {
        Error::SizeMismatch {
            host,
            what: self.what.clone(),
            expected: self.size,
            actual: self.position,
        }
    }

    fn tell(&self) {
        if let Some(observer) = &self.client.observer {
            observer.transferred(Transfer {
                direction: Direction::Download,
                host: &self.host,
                digest: self.digest,
                position_bytes: self.position,
                size_bytes: self.size,
            });
        }
    }
}

/// `bytes <start>-<end>/<size or *>` (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    start: u64,
    end: u64,
    size: Option<u64>,
}

impl ContentRange {
    fn fits(self, size: u64) -> bool {
        self.start <= self.end && self.end < size && self.size.is_none_or(|told| told == size)
    }
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let size = match size {
        "*" => None,
        told => Some(number(told)?),
    };
    Some(ContentRange {
        start: number(start)?,
        end: number(end)?,
        size,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges() {
        let range = |start, end, size| Some(ContentRange { start, end, size });
        for (text, expected) in [
            ("bytes 0-9/10", range(0, 9, Some(10))),
            ("bytes 5-9/*", range(5, 9, None)),
            ("bytes */10", None),
            ("0-9/10", None),
            ("bytes +1-9/10", None),
            ("bytes 1-/10", None),
            ("bytes 1-99999999999999999999/10", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
        assert!(parse_content_range("bytes 0-9/10").unwrap().fits(10));
        assert!(!parse_content_range("bytes 0-10/*").unwrap().fits(10));
        assert!(!parse_content_range("bytes 0-9/11").unwrap().fits(10));
    }

    proptest! {
        #[test]
        fn content_range_is_total(text in ".{0,60}") {
            let _ = parse_content_range(&text);
        }
    }
}
