//! Downloads: the file at a URL, as a blob of the content store.
//!
//! What was downloaded before is asked for with its validators, and not downloaded again
//! where the host says that it is still the same. One whose connection broke goes on where it
//! ended, where the host says that the content is still the same.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longshore_content::{LocalWriter, StateRoot};
use longshore_graph::redacted_url;
use longshore_oci::{Algorithm, Digest, Digester};
use longshore_registry_client::{TransportError, WebAnswer};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use url::Url;

use super::record::{self, Sort};
use super::resume::{Failures, Partial};
use super::{RemoteError, Remotes, Watcher};
use crate::EngineError;

/// The largest file that is downloaded: as large as a layer's content may be.
const DOWNLOAD_BYTES_MAX: u64 = 256 << 30;
/// The longest validator that is sent back.
const VALIDATOR_BYTES_MAX: usize = 4096;
/// How many pieces may wait to be written.
const PIECES_AHEAD: usize = 16;
/// After how many bytes progress is reported.
const REPORT_BYTES: u64 = 4 << 20;
/// `Last-Modified` has a resolution of a second, so it validates only what was older than
/// that for sure when it was sent (RFC 9110 section 8.8.2.2).
const SETTLED: Duration = Duration::from_secs(60);

/// A file that was downloaded.
#[derive(Debug)]
pub(super) struct Download {
    /// Its SHA-256.
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    /// When its host says it last changed, seconds since 1970.
    pub(super) modified_s: Option<i64>,
    pub(super) file: Arc<File>,
}

/// What is remembered of a download.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    digest: Digest,
    etag: Option<String>,
    modified: Option<String>,
    /// Whether `modified` tells this content from any other.
    modified_validates: bool,
}

impl Remotes {
    /// The file at a URL. It is asked for once.
    pub(super) async fn download(
        &self,
        url: &str,
        watcher: Watcher<'_>,
    ) -> Result<Arc<Download>, EngineError> {
        let cell = self.downloads.cell(url);
        let made = cell.get_or_try_init(|| async {
            let download = Box::pin(self.fetch(url, watcher)).await?;
            self.lease.add_blobs([&download.digest])?;
            Ok::<_, EngineError>(Arc::new(download))
        });
        made.await.cloned()
    }

    /// The file at a URL, which must have this digest. One that is here is not asked for.
    pub(super) async fn download_of(
        &self,
        url: &str,
        expected: &Digest,
        watcher: Watcher<'_>,
    ) -> Result<Arc<Download>, EngineError> {
        if let Some((_, download)) = self.known(url).await?
            && actual_digest(&download, expected.algorithm()).await? == *expected
        {
            return Ok(Arc::new(download));
        }
        let download = self.download(url, watcher).await?;
        let actual = actual_digest(&download, expected.algorithm()).await?;
        if actual == *expected {
            return Ok(download);
        }
        Err(EngineError::from(RemoteError::Checksum {
            url: redacted_url(url),
            actual: Box::new(actual),
            expected: Box::new(*expected),
        }))
    }

    async fn fetch(&self, url: &str, watcher: Watcher<'_>) -> Result<Download, EngineError> {
        let shown = redacted_url(url);
        let target: Url = url.parse().map_err(|_| RemoteError::Web {
            url: shown.clone(),
            source: longshore_registry_client::WebError::Url,
        })?;
        let authorization = self.authorization(&target).await?;
        let mut known = self.known(url).await?;
        let mut begun: Option<Partial> = None;
        let mut failures = Failures::default();
        loop {
            let headers = match (&begun, &known) {
                (Some(begun), _) => begun.conditions(),
                (None, Some((record, _))) => record.conditions(),
                (None, None) => Vec::new(),
            };
            let client = self.engine.registry();
            let answer = client.fetch_url(&target, &headers, authorization.as_deref());
            let answer = answer.await.map_err(|source| RemoteError::Web {
                url: shown.clone(),
                source,
            })?;
            let asked_for_rest = begun.is_some();
            let is_still = |(record, _): &mut (Record, _)| record.is_still(&answer);
            if let Some((_, download)) = known.take_if(|known| !asked_for_rest && is_still(known)) {
                return Ok(download);
            }
            begun = begun.and_then(|begun| begun.going_on_with(&answer));
            match answer.status() {
                206 if begun.is_some() => {}
                // Not the rest that was asked for: the whole is asked for again.
                206 | 416 if asked_for_rest => continue,
                200..=205 | 207..=299 => {}
                status => {
                    return Err(EngineError::from(RemoteError::Status {
                        url: shown,
                        host: answer.host().to_owned(),
                        status,
                    }));
                }
            }
            match self.store(url, answer, begun.take(), watcher).await? {
                Stored::Whole(download) => return Ok(download),
                Stored::Broken { partial, .. } if failures.may_go_on(partial.size_bytes()) => {
                    begun = Some(*partial).filter(Partial::can_go_on);
                }
                Stored::Broken { source, .. } => {
                    return Err(RemoteError::Interrupted { url: shown, source }.into());
                }
            }
        }
    }

    /// The `Authorization` that the build's secrets have for a host.
    async fn authorization(&self, url: &Url) -> Result<Option<String>, EngineError> {
        let Some(host) = url.host_str() else {
            return Ok(None);
        };
        let ids = [
            format!("HTTP_AUTH_TOKEN_{host}"),
            format!("HTTP_AUTH_HEADER_{host}"),
        ];
        Ok(self.secret(&ids).await?.map(|(at, value)| match at {
            0 => format!("Bearer {value}"),
            _ => value,
        }))
    }

    /// What an earlier build downloaded from the URL, if it is still here.
    async fn known(&self, url: &str) -> Result<Option<(Record, Download)>, EngineError> {
        let (root, key) = (self.engine.root().clone(), Sort::Download.key(url));
        spawn_blocking(move || {
            let Some(record) = record::find::<Record>(&root, key)? else {
                return Ok(None);
            };
            let Some(download) = open(&root, &record)? else {
                return Ok(None);
            };
            Ok(Some((record, download)))
        })
        .await?
    }

    /// Keeps the body of an answer, behind what was `begun`, as a blob.
    async fn store(
        &self,
        url: &str,
        mut answer: WebAnswer,
        begun: Option<Partial>,
        watcher: Watcher<'_>,
    ) -> Result<Stored, EngineError> {
        let too_large = || RemoteError::TooLarge {
            url: redacted_url(url),
            limit: DOWNLOAD_BYTES_MAX,
        };
        let (writer, validators, total) = match begun {
            Some(begun) => (Some(begun.writer), begun.validators, begun.whole_bytes),
            None => (None, Validators::of(&answer), answer.content_length()),
        };
        let arrived = writer.as_ref().map_or(0, LocalWriter::size_bytes);
        if total.is_some_and(|total| total > DOWNLOAD_BYTES_MAX) {
            return Err(too_large().into());
        }
        let (pieces, mut arriving) = tokio::sync::mpsc::channel::<Bytes>(PIECES_AHEAD);
        let root = self.engine.root().clone();
        let written = spawn_blocking(move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => root.cache_blobs().writer()?,
            };
            while let Some(piece) = arriving.blocking_recv() {
                writer
                    .write_all(&piece)
                    .map_err(EngineError::io("write below", root.path()))?;
            }
            Ok::<_, EngineError>(writer)
        });
        let mut report = Report::new(url, arrived, total, watcher);
        let mut broke = None;
        loop {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    report.add(piece.len());
                    if report.bytes > DOWNLOAD_BYTES_MAX {
                        return Err(too_large().into());
                    }
                    // Where the writer ended early, its own error says why.
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    broke = Some(error);
                    break;
                }
            }
        }
        drop(pieces);
        let writer = written.await??;
        let partial = Partial {
            writer,
            validators,
            whole_bytes: total,
        };
        // Without a length of its own, an answer ends wherever the connection does.
        let broke = broke.or_else(|| (!partial.is_whole()).then(TransportError::closed_early));
        if let Some(source) = broke {
            let partial = Box::new(partial);
            return Ok(Stored::Broken { source, partial });
        }
        report.end();
        let (root, key) = (self.engine.root().clone(), Sort::Download.key(url));
        spawn_blocking(move || commit(&root, partial, key).map(Stored::Whole)).await?
    }
}

/// What came of an answer's body.
enum Stored {
    Whole(Download),
    /// The connection broke.
    Broken {
        source: TransportError,
        partial: Box<Partial>,
    },
}

/// Makes what was written a blob, and remembers it.
fn commit(
    root: &StateRoot,
    whole: Partial,
    key: longshore_content::cache_records::Key,
) -> Result<Download, EngineError> {
    let Partial {
        writer, validators, ..
    } = whole;
    let (digest, _) = writer.commit(None)?;
    let record = Record {
        digest,
        etag: validators.etag,
        modified: validators.modified,
        modified_validates: validators.modified_validates,
    };
    record::keep(root, key, &record, vec![digest], Vec::new())?;
    let opened = open(root, &record)?;
    opened.ok_or_else(|| EngineError::Invalid(format!("{digest} is gone from the store already")))
}

fn open(root: &StateRoot, record: &Record) -> Result<Option<Download>, EngineError> {
    let Some(file) = root.blobs().open(&record.digest)? else {
        return Ok(None);
    };
    let meta = file
        .metadata()
        .map_err(EngineError::io("look at", root.path()))?;
    Ok(Some(Download {
        digest: record.digest,
        size_bytes: meta.len(),
        modified_s: record.modified.as_deref().and_then(seconds),
        file: Arc::new(file),
    }))
}

/// The digest of the file by an algorithm.
async fn actual_digest(download: &Download, algorithm: Algorithm) -> Result<Digest, EngineError> {
    if download.digest.algorithm() == algorithm {
        return Ok(download.digest);
    }
    let (file, name) = (Arc::clone(&download.file), download.digest.to_string());
    spawn_blocking(move || {
        use std::os::unix::fs::FileExt as _;
        let mut digester = Digester::new(algorithm);
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            let count = file
                .read_at(&mut buffer, offset)
                .map_err(EngineError::io("read blob", name.clone()))?;
            if count == 0 {
                return Ok(digester.finish());
            }
            digester.update(&buffer[..count]);
            offset += count as u64;
        }
    })
    .await?
}

/// Seconds since 1970 of an HTTP date.
fn seconds(date: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(date).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// What an answer says of its content.
pub(super) struct Validators {
    etag: Option<String>,
    modified: Option<String>,
    modified_validates: bool,
}

impl Validators {
    fn of(answer: &WebAnswer) -> Self {
        let header = |name: &str| {
            let value = answer.header(name)?.trim();
            let fits = !value.is_empty() && value.len() <= VALIDATOR_BYTES_MAX;
            fits.then(|| value.to_owned())
        };
        let modified = header("last-modified").filter(|date| seconds(date).is_some());
        let sent = header("date").and_then(|date| httpdate::parse_http_date(&date).ok());
        Self {
            etag: header("etag"),
            modified_validates: modified
                .as_deref()
                .is_some_and(|date| is_settled(date, sent)),
            modified,
        }
    }

    /// The tag, where it tells these bytes from all others.
    pub(super) fn strong_tag(&self) -> Option<&str> {
        strong(self.etag.as_deref())
    }
}

/// A tag, where it is a strong one (RFC 9110 section 8.8.3).
fn strong(tag: Option<&str>) -> Option<&str> {
    tag.filter(|tag| tag.starts_with('"'))
}

/// Whether content that was last changed at `modified` cannot have changed again within the
/// same second, after it was sent.
fn is_settled(modified: &str, sent: Option<SystemTime>) -> bool {
    let modified = httpdate::parse_http_date(modified).ok();
    let age = sent
        .zip(modified)
        .and_then(|(sent, modified)| sent.duration_since(modified).ok());
    age.is_some_and(|age| age >= SETTLED)
}

impl Record {
    /// The headers that ask whether the content is still the same.
    fn conditions(&self) -> Vec<(&'static str, String)> {
        let etag = self.etag.clone().map(|etag| ("if-none-match", etag));
        let modified = self
            .modified
            .clone()
            .filter(|_| self.modified_validates && self.etag.is_none());
        etag.into_iter()
            .chain(modified.map(|date| ("if-modified-since", date)))
            .collect()
    }

    /// Whether an answer to them says that it is; also where the host does not know how to
    /// say so, but sends the same strong tag.
    fn is_still(&self, answer: &WebAnswer) -> bool {
        let asked = self.etag.is_some() || self.modified_validates;
        let strong = strong(self.etag.as_deref());
        match answer.status() {
            304 => asked,
            200 => strong.is_some() && answer.header("etag").map(str::trim) == strong,
            _ => false,
        }
    }
}

/// Tells how far a download has come.
struct Report<'a> {
    what: String,
    bytes: u64,
    told: u64,
    total: Option<u64>,
    watcher: Watcher<'a>,
}

impl<'a> Report<'a> {
    fn new(url: &str, arrived: u64, total: Option<u64>, watcher: Watcher<'a>) -> Self {
        Self {
            what: redacted_url(url),
            bytes: arrived,
            told: arrived,
            total,
            watcher,
        }
    }

    fn add(&mut self, count: usize) {
        self.bytes += count as u64;
        if self.bytes - self.told >= REPORT_BYTES {
            self.tell();
        }
    }

    fn end(&mut self) {
        self.tell();
    }

    fn tell(&mut self) {
        self.told = self.bytes;
        if let Some(step) = self.watcher {
            step.progress(format!("downloading {}", self.what), self.bytes, self.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_validates_only_what_was_old_when_it_was_sent() {
        let sent = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").ok();
        assert!(is_settled("Sun, 06 Nov 1994 08:48:37 GMT", sent));
        assert!(!is_settled("Sun, 06 Nov 1994 08:48:38 GMT", sent));
        assert!(!is_settled("Sun, 06 Nov 1994 08:50:00 GMT", sent));
        assert!(!is_settled("Sun, 06 Nov 1994 08:48:37 GMT", None));
        assert!(!is_settled("yesterday", sent));
    }

    #[test]
    fn tags_go_before_dates() {
        let record = |etag: Option<&str>, modified_validates| Record {
            digest: Digest::sha256_of(b""),
            etag: etag.map(str::to_owned),
            modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
            modified_validates,
        };
        let names = |record: Record| {
            record
                .conditions()
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(record(Some("\"a\""), true)), ["if-none-match"]);
        assert_eq!(names(record(None, true)), ["if-modified-since"]);
        assert!(names(record(None, false)).is_empty());
    }

    #[test]
    fn http_dates_are_seconds() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(seconds("Thursday"), None);
    }
}
