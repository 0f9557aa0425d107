//! Why no answer came: the connection, not the registry, failed.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportFailure {
    /// The name does not resolve.
    Dns,
    /// Nobody listens there.
    Refused,
    /// There is no way to the host.
    NoRoute,
    /// TLS could not be agreed on, or the certificate is not trusted.
    Tls,
    /// Nothing came for too long.
    Timeout,
    /// The connection ended in the middle.
    Closed,
    /// Anything else.
    Other,
}

/// A failed connection, told in one line without the URL (which may be a signed one).
#[derive(Debug)]
pub struct TransportError {
    kind: TransportFailure,
    connecting: bool,
    text: String,
    /// Kept for `Debug`; the line above already says what it says.
    source: Option<reqwest::Error>,
}

impl TransportError {
    pub(crate) fn timeout() -> Self {
        Self {
            kind: TransportFailure::Timeout,
            connecting: false,
            text: "timed out".to_owned(),
            source: None,
        }
    }

    /// The connection was closed where more was to come.
    pub fn closed_early() -> Self {
        Self {
            kind: TransportFailure::Closed,
            connecting: false,
            text: "connection closed before the end of the content".to_owned(),
            source: None,
        }
    }

    /// How it failed.
    pub fn kind(&self) -> TransportFailure {
        self.kind
    }

    /// The HTTP library's own error.
    pub fn http_error(&self) -> Option<&reqwest::Error> {
        self.source.as_ref()
    }

    /// Whether no connection was made at all.
    pub(crate) fn while_connecting(&self) -> bool {
        self.connecting
    }

    /// Whether the same may work in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        match self.kind {
            TransportFailure::Dns => self.text.contains("emporary"),
            TransportFailure::Tls => false,
            TransportFailure::Refused
            | TransportFailure::NoRoute
            | TransportFailure::Timeout
            | TransportFailure::Closed
            | TransportFailure::Other => true,
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for TransportError {}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let connecting = error.is_connect();
        let (kind, text) = explain(&error, connecting);
        Self {
            kind,
            connecting,
            text,
            source: Some(error),
        }
    }
}

fn explain(error: &reqwest::Error, connecting: bool) -> (TransportFailure, String) {
    if error.is_dns() {
        return (TransportFailure::Dns, dns_text(error));
    }
    let chain = std::iter::successors(Some(error as &(dyn StdError + 'static)), |link| {
        (*link).source()
    });
    for link in chain {
        if let Some(tls) = tls_error(link) {
            return (TransportFailure::Tls, tls_text(tls));
        }
        if let Some(told) = link.downcast_ref::<io::Error>().and_then(explain_io) {
            return told;
        }
    }
    if error.is_timeout() {
        return (TransportFailure::Timeout, "timed out".to_owned());
    }
    if connecting {
        return (TransportFailure::Other, innermost(error));
    }
    (
        TransportFailure::Closed,
        format!("connection broke: {}", innermost(error)),
    )
}

fn explain_io(error: &io::Error) -> Option<(TransportFailure, String)> {
    let (kind, text) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (TransportFailure::Refused, "connection refused"),
        io::ErrorKind::ConnectionReset => (TransportFailure::Closed, "connection reset"),
        io::ErrorKind::ConnectionAborted => (TransportFailure::Closed, "connection aborted"),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            (TransportFailure::Closed, "connection closed")
        }
        io::ErrorKind::TimedOut => (TransportFailure::Timeout, "timed out"),
        io::ErrorKind::NetworkUnreachable => (TransportFailure::NoRoute, "network unreachable"),
        io::ErrorKind::HostUnreachable => (TransportFailure::NoRoute, "no route to host"),
        _ => return None,
    };
    Some((kind, text.to_owned()))
}

/// A TLS error travels inside one or two [`io::Error`]s, whose `source` skips it.
fn tls_error<'a>(link: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut link = link;
    loop {
        if let Some(tls) = link.downcast_ref() {
            return Some(tls);
        }
        link = link.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

fn tls_text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(problem) => {
            format!("certificate is not trusted: {problem:?}")
        }
        rustls::Error::InvalidMessage(_) => "the host does not speak TLS".to_owned(),
        other => format!("TLS failed: {other}"),
    }
}

fn dns_text(error: &reqwest::Error) -> String {
    format!("host name does not resolve ({})", innermost(error))
}

fn innermost(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(Some(error as &(dyn StdError + 'static)), |link| {
        (*link).source()
    });
    let last = chain.last().map(ToString::to_string);
    super::clean(&last.unwrap_or_default())
}
