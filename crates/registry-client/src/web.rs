//! Plain files of the web, fetched with the same trust, proxies and time limits as registries.
//!
//! Invariants: HTTPS never becomes HTTP, `Authorization` goes to the host that it is for
//! and nowhere else, and no error holds a URL (which may be a signed one).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::Url;

use crate::config::ConfigError;
use crate::retry::{is_transient_status, retry_after};
use crate::transport::{Answer, Lane, Request, TransportError, TransportFailure, redirect_target};
use crate::{Client, ErrorClass};

/// How many redirects one request follows.
const REDIRECTS_MAX: usize = 10;
/// Tries in all where nobody listens: that seldom passes within seconds.
const REFUSED_ATTEMPTS_MAX: u32 = 3;

/// Why a URL could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The URL is not one of `http` or `https`, or has no host.
    #[error("not an http or https URL")]
    Url,
    /// A header's value, a secret for example, has a line break in it or the like.
    #[error("a header's value has characters that cannot be sent")]
    Header,
    /// No answer came.
    #[error("cannot reach `{host}`: {failure}")]
    Unreachable {
        /// The host.
        host: String,
        /// What failed.
        failure: TransportError,
    },
    /// A redirect that must not be followed.
    #[error("redirect from `{host}` refused: {problem}")]
    Redirect {
        /// The host that redirected.
        host: String,
        /// Why it is not followed.
        problem: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl WebError {
    /// Who can do something about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Url | Self::Header => ErrorClass::User,
            Self::Unreachable { .. } | Self::Config(_) => ErrorClass::Environment,
            Self::Redirect { .. } => ErrorClass::Upstream,
        }
    }
}

/// The head of an answer, and its body yet to be read. Statuses are the caller's to judge.
#[derive(Debug)]
pub struct WebAnswer(Answer);

impl WebAnswer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// A header as text; `None` where it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        self.0.header(&name)
    }

    /// How long the body is, where the host says so.
    pub fn content_length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// The host that answered, after redirects.
    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// The next piece of the body; `None` at its end, which is an error where it comes early.
    ///
    /// # Errors
    /// When the connection breaks or stands still.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.0.chunk().await
    }
}

impl Client {
    /// Asks for a URL with `GET`, and follows redirects. What looks like a passing failure
    /// is tried again. Content is given as it is sent: no coding is asked for or undone.
    ///
    /// `authorization` is the header's value; without one, a user name and password in the
    /// URL are used. A host's certificate authorities and whether it is insecure are those
    /// of the registries configuration.
    ///
    /// # Errors
    /// When no answer comes, or a redirect must not be followed.
    pub async fn fetch_url(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
        authorization: Option<&str>,
    ) -> Result<WebAnswer, WebError> {
        let mut target = url.clone();
        let authorization = authorization.map(str::to_owned).or_else(|| basic(url));
        let authorization = authorization.as_deref().map(secret_header).transpose()?;
        // A URL that can have no host cannot lose its user either.
        target.set_username("").map_err(|()| WebError::Url)?;
        target.set_password(None).map_err(|()| WebError::Url)?;
        target.set_fragment(None);
        if !matches!(target.scheme(), "http" | "https") {
            return Err(WebError::Url);
        }
        let headers = header_map(headers)?;
        let mut attempt = 1;
        loop {
            let outcome =
                Box::pin(self.follow(target.clone(), &headers, authorization.as_ref())).await;
            let Some(wait) = self.web_wait(attempt, &outcome) else {
                return outcome.map(WebAnswer);
            };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    fn web_wait(
        &self,
        attempt: u32,
        outcome: &Result<Answer, WebError>,
    ) -> Option<std::time::Duration> {
        let retry = &self.inner.retry;
        let (asked, most) = match outcome {
            Ok(answer) if is_transient_status(answer.status()) => {
                (retry_after(answer.headers()), u32::MAX)
            }
            Err(WebError::Unreachable { failure, .. }) if failure.may_pass() => {
                let refused = failure.kind() == TransportFailure::Refused;
                (
                    None,
                    if refused {
                        REFUSED_ATTEMPTS_MAX
                    } else {
                        u32::MAX
                    },
                )
            }
            Ok(_) | Err(_) => return None,
        };
        let again = retry.allows_after(attempt) && attempt < most;
        again.then(|| retry.delay(attempt, asked))
    }

    async fn follow(
        &self,
        first: Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, WebError> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::new(Method::GET, url.clone(), "").lane(Lane::Blob);
            request.headers.clone_from(headers);
            let authorization = authorization.filter(|_| is_same_host(&first, &url));
            let answer = self
                .inner
                .transport
                .get_abroad(&request, authorization)
                .await?;
            match location(&answer, &url)? {
                None => return Ok(answer),
                Some(next) => url = next,
            }
        }
        Err(WebError::Redirect {
            host: url.host_str().unwrap_or_default().to_owned(),
            problem: format!("more than {REDIRECTS_MAX} in a row"),
        })
    }
}

/// Where an answer redirects to, if it does.
fn location(answer: &Answer, from: &Url) -> Result<Option<Url>, WebError> {
    let is_redirect = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !is_redirect {
        return Ok(None);
    }
    let refuse = |problem: &str| WebError::Redirect {
        host: answer.host().to_owned(),
        problem: problem.to_owned(),
    };
    let location = answer.header(&header::LOCATION);
    let location = location.ok_or_else(|| refuse("there is no `Location`"))?;
    redirect_target(from, location).map(Some).map_err(refuse)
}

/// Whether what is meant for `home` may be shown to `other`: the same origin, or the same
/// host's move to HTTPS.
fn is_same_host(home: &Url, other: &Url) -> bool {
    let is_upgrade = home.scheme() == "http"
        && other.scheme() == "https"
        && home.port().is_none()
        && other.port().is_none();
    home.origin() == other.origin() || (is_upgrade && home.host_str() == other.host_str())
}

/// The user and password in a URL, as `Authorization`.
fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let user = percent_decode(url.username());
    let password = percent_decode(url.password().unwrap_or_default());
    let pair = [user, password].join(&b':');
    Some(format!("Basic {}", BASE64.encode(pair)))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn secret_header(value: &str) -> Result<HeaderValue, WebError> {
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| WebError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

fn header_map(headers: &[(&'static str, String)]) -> Result<HeaderMap, WebError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|_| WebError::Header)?;
        map.append(HeaderName::from_static(name), value);
    }
    map.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn passwords_of_urls_become_a_header() {
        assert_eq!(
            basic(&url("https://us%40er:p%3Aw@h/")).unwrap(),
            format!("Basic {}", BASE64.encode("us@er:p:w"))
        );
        assert_eq!(basic(&url("https://h/")), None);
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let home = url("http://h/a");
        for (other, same) in [
            ("http://h/b", true),
            ("https://h/b", true),
            ("http://h:81/b", false),
            ("http://x.h/b", false),
            ("https://other/b", false),
        ] {
            assert_eq!(is_same_host(&home, &url(other)), same, "{other}");
        }
        assert!(!is_same_host(&url("https://h/"), &url("http://h/")));
    }
}
