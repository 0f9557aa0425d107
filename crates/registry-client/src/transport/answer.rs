//! An answer: its head, and its body read with a bound in size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;

use super::TransportError;
use crate::error::Refusal;
use crate::{Error, Result};

/// The most that is read of the body that comes with an error, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// The most characters of a registry's text that are shown.
const SHOWN_CHARS_MAX: usize = 512;

/// The head of an answer, and its body yet to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    response: reqwest::Response,
    host: String,
    at_home: bool,
    idle: Duration,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    /// Token services answer in OAuth2's form.
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Answer {
    pub(super) fn new(
        response: reqwest::Response,
        host: String,
        at_home: bool,
        idle: Duration,
    ) -> Self {
        Self {
            response,
            host,
            at_home,
            idle,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The host that answered, after redirects.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The URL that answered, after redirects.
    pub(crate) fn url(&self) -> &url::Url {
        self.response.url()
    }

    /// Whether the registry itself answered, not one it redirected to.
    pub(crate) fn at_home(&self) -> bool {
        self.at_home
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; `None` where it is absent or not text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// `Content-Length` as the peer wrote it, which `HEAD` answers have too.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// `Content-Type` without parameters.
    pub(crate) fn media_type(&self) -> Option<&str> {
        let value = self.header(&header::CONTENT_TYPE)?;
        let media_type = value.split(';').next().unwrap_or_default().trim();
        (!media_type.is_empty()).then_some(media_type)
    }

    /// The next piece of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(TransportError::from),
            Err(_) => Err(TransportError::timeout()),
        }
    }

    /// The whole body, at most `limit` bytes of it.
    pub(crate) async fn bytes(mut self, limit: usize, what: &str) -> Result<Bytes> {
        let too_large = |host: &str| Error::TooLarge {
            host: host.to_owned(),
            what: what.to_owned(),
            limit,
        };
        if self.content_length().is_some_and(|n| n > limit as u64) {
            return Err(too_large(&self.host));
        }
        let mut body = BytesMut::new();
        loop {
            let chunk = self.chunk().await.map_err(|failure| Error::Interrupted {
                host: self.host.clone(),
                what: what.to_owned(),
                failure,
            })?;
            let Some(chunk) = chunk else { break };
            if body.len() + chunk.len() > limit {
                return Err(too_large(&self.host));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// Lets the connection be used again where that costs little.
    pub(crate) async fn discard(mut self) {
        let mut read = 0;
        while read <= ERROR_BODY_BYTES_MAX {
            match self.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// What the registry said, for an answer that is a refusal.
    pub(crate) async fn into_refusal(mut self, what: &str) -> Refusal {
        let mut body = Vec::new();
        while body.len() < ERROR_BODY_BYTES_MAX {
            match self.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break,
            }
        }
        let (code, message) = read_error_body(&body);
        Refusal {
            host: self.host,
            what: what.to_owned(),
            status: self.response.status().as_u16(),
            code,
            message,
        }
    }

    /// The answer if its status is one of `expected`, else the refusal.
    pub(crate) async fn expect(self, expected: &[StatusCode], what: &str) -> Result<Self> {
        if expected.contains(&self.status()) {
            return Ok(self);
        }
        let unexpected = self.status();
        if unexpected.is_success() || unexpected.is_informational() {
            return Err(self.protocol(what, &format!("status {}", unexpected.as_u16())));
        }
        Err(Error::refused(self.into_refusal(what).await))
    }

    pub(crate) fn protocol(&self, what: &str, problem: &str) -> Error {
        Error::Protocol {
            host: self.host.clone(),
            what: what.to_owned(),
            problem: problem.to_owned(),
        }
    }
}

/// The first code and message of an error body (distribution-spec, "Error Codes").
fn read_error_body(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else {
        return (None, None);
    };
    let first = parsed.errors.into_iter().next();
    let (code, message) = match first {
        Some(entry) => (entry.code, entry.message),
        None => (parsed.error, parsed.error_description.or(parsed.details)),
    };
    let shown = |text: Option<String>| text.map(|text| clean(&text)).filter(|t| !t.is_empty());
    (shown(code), shown(message))
}

/// A stranger's text made fit to print: one line, no control characters, bounded.
pub(crate) fn clean(text: &str) -> String {
    let is_shown = |c: &char| !c.is_control() && !is_invisible(*c);
    let spaced = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c });
    let shown: String = spaced.filter(is_shown).take(SHOWN_CHARS_MAX).collect();
    shown.trim().to_owned()
}

/// Marks that reorder or hide text on a terminal.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn error_bodies_of_registries_and_token_services() {
        let told = |body: &str| read_error_body(body.as_bytes());
        assert_eq!(
            told(r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way\n","detail":1}]}"#),
            (Some("DENIED".into()), Some("no[31m way".into()))
        );
        assert_eq!(
            told(r#"{"error":"invalid_grant","error_description":"expired"}"#),
            (Some("invalid_grant".into()), Some("expired".into()))
        );
        assert_eq!(
            told(r#"{"details":"incorrect username or password"}"#),
            (None, Some("incorrect username or password".into()))
        );
        assert_eq!(told("<html>"), (None, None));
    }

    proptest! {
        #[test]
        fn nothing_shown_moves_the_cursor(body in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,2000}") {
            let _ = read_error_body(&body);
            let shown = clean(&text);
            prop_assert!(shown.chars().count() <= SHOWN_CHARS_MAX);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
