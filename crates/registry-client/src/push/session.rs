//! An upload session: the place at the registry that collects one blob's bytes.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use longshore_oci::Digest;
use url::Url;

use super::resume::{parse_upload_range, received};
use crate::client::Access;
use crate::transport::{Answer, Body, Lane, Request, redirect_target};
use crate::{Client, Error, Result};

/// The least that a registry wants in one chunk (distribution-spec, end-4a).
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// How long cancelling may take; nobody waits for its result.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What asking for a session led to.
#[derive(Debug)]
pub(super) enum SessionStart {
    /// The blob is there already: mounted from another repository.
    Mounted,
    /// The bytes are to be sent.
    Session(Box<Session>),
}

/// An open session. When dropped unfinished, it is cancelled in the background.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    access: Access,
    what: String,
    location: Url,
    /// The least bytes of a chunk that is not the last.
    pub(super) chunk_min: Option<u64>,
    finished: bool,
}

impl Session {
    /// Asks for a session.
    pub(super) async fn begin(client: &Client, access: &Access, what: &str) -> Result<Self> {
        let url = access.url(&client.inner, "blobs/uploads/").await?;
        let request = Request::new(Method::POST, url, what);
        let answer = client.inner.send(access, &request).await?;
        let answer = answer.expect(&[StatusCode::ACCEPTED], what).await?;
        match Self::opened(client, access, &answer, what.to_owned()).await? {
            SessionStart::Session(session) => Ok(*session),
            SessionStart::Mounted => Err(answer.protocol(what, "it mounted what was not asked")),
        }
    }

    /// The session that an answer with status 202 opened.
    pub(super) async fn opened(
        client: &Client,
        access: &Access,
        answer: &Answer,
        what: String,
    ) -> Result<SessionStart> {
        let location = next_location(client, access, answer, &what).await?;
        let location = location.ok_or_else(|| answer.protocol(&what, "no `Location`"))?;
        let chunk_min = answer.header(&CHUNK_MIN).and_then(|text| text.parse().ok());
        Ok(SessionStart::Session(Box::new(Self {
            client: client.clone(),
            access: access.clone(),
            what,
            location,
            chunk_min,
            finished: false,
        })))
    }

    /// Sends the bytes `start..end` of the blob; returns how many the registry now has.
    pub(super) async fn patch(&mut self, body: Body, start: u64, end: u64) -> Result<u64> {
        let request = self.request(Method::PATCH, self.location.clone(), body);
        let request = request.header(header::CONTENT_RANGE, chunk_range(start, end));
        let answer = self.send_once(&request).await?;
        let expected = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT];
        let answer = answer.expect(&expected, &self.what).await?;
        self.follow(&answer).await?;
        Ok(match answer.header(&header::RANGE) {
            Some(range) => received(range).unwrap_or(end),
            None => end,
        })
    }

    /// Ends the session with `body` as its last, or only, bytes.
    pub(super) async fn put(&mut self, body: Body, digest: &Digest) -> Result<()> {
        let mut url = self.location.clone();
        // The location may have a query of its own, which stays.
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let request = self.request(Method::PUT, url, body);
        let answer = self.send_once(&request).await?;
        let answer = answer
            .expect(&[StatusCode::CREATED, StatusCode::NO_CONTENT], &self.what)
            .await?;
        self.finished = true;
        check_stated(&answer, digest, &self.what)
    }

    /// How many bytes the registry has of the blob, from its start. `None` when it
    /// does not know the session any more, or cannot tell whether it is none or one.
    pub(super) async fn position(&mut self) -> Result<Option<u64>> {
        let request = self.request(Method::GET, self.location.clone(), Body::Empty);
        let answer = self.client.inner.send(&self.access, &request).await?;
        let known = [StatusCode::NO_CONTENT, StatusCode::ACCEPTED, StatusCode::OK];
        if answer.status().is_client_error() {
            return Ok(None);
        }
        let answer = answer.expect(&known, &self.what).await?;
        self.follow(&answer).await?;
        let range = answer.header(&header::RANGE).and_then(parse_upload_range);
        // An empty session says `0-0`, and so does one with a single byte.
        Ok(range
            .filter(|range| range.last > 0)
            .map(|range| range.last + 1))
    }

    /// Tells the registry that no more will come.
    pub(super) async fn cancel(mut self) {
        self.finished = true;
        delete(&self.client, &self.access, self.location.clone()).await;
    }

    /// Sends a part of the blob. It is not simply sent again when that fails: what the
    /// registry took of it must be asked for first.
    async fn send_once(&self, request: &Request) -> Result<Answer> {
        let answer = self.client.inner.send_once(&self.access, request).await?;
        self.client.inner.heed(&self.access.host, &answer);
        Ok(answer)
    }

    fn request(&self, method: Method, url: Url, body: Body) -> Request {
        let octets = HeaderValue::from_static("application/octet-stream");
        let request = Request::new(method, url, self.what.clone());
        let request = match &body {
            Body::Empty => request,
            Body::Bytes(_) | Body::Source(_) => request
                .header(header::CONTENT_TYPE, octets)
                .lane(Lane::Blob),
        };
        request.body(body)
    }

    /// Each answer may move the session.
    async fn follow(&mut self, answer: &Answer) -> Result<()> {
        let next = next_location(&self.client, &self.access, answer, &self.what).await?;
        if let Some(location) = next {
            self.location = location;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (client, access) = (self.client.clone(), self.access.clone());
        let location = self.location.clone();
        runtime.spawn(async move { delete(&client, &access, location).await });
    }
}

/// Registries clean up forgotten sessions themselves: failing here changes nothing.
async fn delete(client: &Client, access: &Access, location: Url) {
    let request = Request::new(Method::DELETE, location, "an upload");
    let sent = Box::pin(client.inner.send_once(access, &request));
    match tokio::time::timeout(CANCEL_TIMEOUT, sent).await {
        Ok(Ok(answer)) => tracing::debug!(status = answer.status().as_u16(), "upload cancelled"),
        Ok(Err(error)) => tracing::debug!(%error, "upload not cancelled"),
        Err(_) => tracing::debug!("upload not cancelled in time"),
    }
}

/// Where an answer says that the session goes on.
///
/// A registry behind a proxy may call itself `http` although it was reached over
/// HTTPS; on the same host that is corrected, anywhere else it is refused.
async fn next_location(
    client: &Client,
    access: &Access,
    answer: &Answer,
    what: &str,
) -> Result<Option<Url>> {
    let Some(location) = answer.header(&header::LOCATION) else {
        return Ok(None);
    };
    let base = client.inner.transport.base_url(&access.host).await?;
    let corrected = corrected_scheme(&base, location);
    let target = redirect_target(answer.url(), corrected.as_deref().unwrap_or(location));
    target.map(Some).map_err(|problem| Error::Redirect {
        host: answer.host().to_owned(),
        what: what.to_owned(),
        problem: problem.to_owned(),
    })
}

/// `location` on the registry's own origin, where only its scheme (and port) is wrong.
fn corrected_scheme(base: &Url, location: &str) -> Option<String> {
    let mut url = Url::parse(location).ok()?;
    let same_host = url.host_str() == base.host_str();
    if !same_host || url.scheme() != "http" || base.scheme() != "https" {
        return None;
    }
    url.set_scheme("https").ok()?;
    url.set_port(base.port()).ok()?;
    Some(url.into())
}

/// `Content-Range` as uploads have it: without `bytes` (distribution-spec, end-5).
fn chunk_range(start: u64, end: u64) -> HeaderValue {
    let text = format!("{start}-{}", end.saturating_sub(1));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0-0"))
}

/// A registry that states the digest of what it took must state the right one. Another
/// algorithm's digest may be right and is not judged.
fn check_stated(answer: &Answer, digest: &Digest, what: &str) -> Result<()> {
    match crate::pull::stated_digest(answer) {
        Some(stated) if stated.algorithm() == digest.algorithm() && stated != *digest => {
            Err(Error::DigestMismatch {
                host: answer.host().to_owned(),
                what: what.to_owned(),
                expected: Box::new(*digest),
                actual: Box::new(stated),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_host_is_corrected_to_https() {
        let base: Url = "https://reg.example:8443/v2/".parse().unwrap();
        let corrected = |location| corrected_scheme(&base, location);
        assert_eq!(
            corrected("http://reg.example/v2/a/blobs/uploads/1?s=2").as_deref(),
            Some("https://reg.example:8443/v2/a/blobs/uploads/1?s=2")
        );
        assert_eq!(corrected("http://other.example/v2/"), None);
        assert_eq!(corrected("https://reg.example/v2/"), None);
        assert_eq!(corrected("/v2/a"), None);
    }

    #[test]
    fn chunk_ranges_are_inclusive_and_bare() {
        assert_eq!(chunk_range(10, 20), "10-19");
    }
}
