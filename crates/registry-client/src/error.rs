//! What can go wrong, said with the host and the thing that was wanted.
//!
//! Each message is complete in itself: it names the registry, the manifest, blob or
//! repository, and carries what the registry answered, bounded and stripped of
//! control characters. No message holds a credential, a token or a signed URL.

use std::fmt;
use std::io;
use std::sync::Arc;

use longshore_oci::Digest;

use crate::config::ConfigError;
use crate::credentials::CredentialError;
use crate::transport::TransportError;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request was wrong: a name that does not exist, missing rights.
    User,
    /// This machine or its network: no route, a certificate that is not trusted, a file.
    Environment,
    /// The registry broke, overloaded or against the specification.
    Upstream,
}

/// What a registry said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The host that answered.
    pub host: String,
    /// What was wanted: ``manifest `docker.io/library/debian:12` ``.
    pub what: String,
    /// The HTTP status.
    pub status: u16,
    /// The first error code of the body, as the distribution specification lists them.
    pub code: Option<String>,
    /// The message beside it.
    pub message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

/// A mirror that could not serve what its registry was then asked for.
#[derive(Debug)]
pub struct MirrorFailure {
    /// The mirror's host.
    pub host: String,
    /// Why it could not.
    pub error: Error,
}

/// Why an operation on a registry failed.
#[expect(
    clippy::error_impl_error,
    reason = "the crate's one error, named with the crate wherever it is used"
)]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection to the host could be made.
    #[error("cannot reach registry `{host}`: {failure}")]
    Unreachable {
        /// The host.
        host: String,
        /// What failed.
        failure: TransportError,
    },
    /// A connection was made and broke, more often than the retry policy forgives.
    #[error("{what}: connection to `{host}` failed: {failure}")]
    Interrupted {
        /// The host.
        host: String,
        /// What was wanted.
        what: String,
        /// What failed.
        failure: TransportError,
    },
    /// The registry does not have it.
    #[error("{} not found on `{}` ({_0})", _0.what, _0.host)]
    NotFound(Box<Refusal>),
    /// The registry wants to know who asks, or did not accept the credentials.
    #[error("not authorized for {} on registry `{}` ({_0})", _0.what, _0.host)]
    Unauthorized(Box<Refusal>),
    /// The registry knows who asks and does not allow it.
    #[error("registry `{}` denies access to {} ({_0})", _0.host, _0.what)]
    Denied(Box<Refusal>),
    /// The registry is asked too often, also after waiting.
    #[error("registry `{}` limits requests for {} ({_0})", _0.host, _0.what)]
    RateLimited(Box<Refusal>),
    /// Any other status that is not success.
    #[error("registry `{}` refused {} ({_0})", _0.host, _0.what)]
    Refused(Box<Refusal>),
    /// The token service of a registry refused.
    #[error("token service of registry `{registry}` refused {} ({refusal})", refusal.what)]
    TokenRefused {
        /// The registry that named the service.
        registry: String,
        /// What the service said; its `host` is the service's.
        refusal: Box<Refusal>,
    },
    /// Content with another digest than asked for.
    #[error("{what} from `{host}` has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// The host that sent it.
        host: String,
        /// What was wanted.
        what: String,
        /// The digest asked for.
        expected: Box<Digest>,
        /// The digest of what came.
        actual: Box<Digest>,
    },
    /// Content of another size than described.
    #[error("{what} from `{host}` has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// The host that sent it.
        host: String,
        /// What was wanted.
        what: String,
        /// The described size.
        expected: u64,
        /// The size of what came, as far as it was read.
        actual: u64,
    },
    /// An answer larger than is read.
    #[error("{what} from `{host}` is larger than {limit} bytes")]
    TooLarge {
        /// The host that sent it.
        host: String,
        /// What was wanted.
        what: String,
        /// The most bytes that are read.
        limit: usize,
    },
    /// An answer that the distribution specification does not allow.
    #[error("{what}: registry `{host}` answered against the specification: {problem}")]
    Protocol {
        /// The host that answered.
        host: String,
        /// What was wanted.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A redirect that must not be followed.
    #[error("{what}: redirect from `{host}` refused: {problem}")]
    Redirect {
        /// The host that redirected.
        host: String,
        /// What was wanted.
        what: String,
        /// Why it is not followed.
        problem: String,
    },
    /// Stored credentials could not be read.
    #[error(transparent)]
    Credentials(Arc<CredentialError>),
    /// The source of an upload failed.
    #[error("cannot read blob {digest} for upload: {error}")]
    Source {
        /// The blob.
        digest: Box<Digest>,
        /// What failed.
        error: io::Error,
    },
    /// The registries configuration forbids the name.
    #[error("`{name}` is blocked by the registries configuration")]
    Blocked {
        /// The repository.
        name: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry failed after each of its mirrors had.
    #[error("{upstream}{}", mirrors_suffix(mirrors))]
    AfterMirrors {
        /// The registry's own failure.
        upstream: Box<Self>,
        /// The mirrors' failures, in the order they were asked.
        mirrors: Vec<MirrorFailure>,
    },
}

fn mirrors_suffix(mirrors: &[MirrorFailure]) -> String {
    mirrors
        .iter()
        .map(|failure| format!("; mirror `{}`: {}", failure.host, failure.error))
        .collect()
}

impl From<CredentialError> for Error {
    fn from(error: CredentialError) -> Self {
        Self::Credentials(Arc::new(error))
    }
}

impl Error {
    /// Whether the registry answered that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) => true,
            Self::AfterMirrors { upstream, .. } => upstream.is_not_found(),
            _ => false,
        }
    }

    /// Whether credentials are missing, wrong or too weak.
    pub fn is_access(&self) -> bool {
        match self {
            Self::Unauthorized(_) | Self::Denied(_) => true,
            Self::TokenRefused { refusal, .. } => matches!(refusal.status, 400 | 401 | 403),
            Self::AfterMirrors { upstream, .. } => upstream.is_access(),
            _ => false,
        }
    }

    /// Who can do something about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_)
            | Self::Unauthorized(_)
            | Self::Denied(_)
            | Self::Blocked { .. }
            | Self::Config(_) => ErrorClass::User,
            Self::TokenRefused { refusal, .. } | Self::Refused(refusal) => {
                class_of_status(refusal.status)
            }
            Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::Credentials(_)
            | Self::Source { .. } => ErrorClass::Environment,
            Self::RateLimited(_)
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Protocol { .. }
            | Self::Redirect { .. } => ErrorClass::Upstream,
            Self::AfterMirrors { upstream, .. } => upstream.class(),
        }
    }

    /// Whether the registry gave no answer to go by: it cannot be reached, it is broken, or it
    /// turns everybody away for now.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::RateLimited(_) => true,
            Self::TokenRefused { refusal, .. } | Self::Refused(refusal) => refusal.status >= 500,
            Self::AfterMirrors { upstream, .. } => upstream.is_unavailable(),
            _ => false,
        }
    }

    /// The status and code that a registry refused with.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotFound(refusal)
            | Self::Unauthorized(refusal)
            | Self::Denied(refusal)
            | Self::RateLimited(refusal)
            | Self::Refused(refusal)
            | Self::TokenRefused { refusal, .. } => Some(refusal),
            Self::AfterMirrors { upstream, .. } => upstream.refusal(),
            _ => None,
        }
    }

    /// Finds the error that travelled through an [`io::Error`], as readers of a
    /// [`BlobStream`](crate::BlobStream) meet it.
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let refusal = Box::new(refusal);
        match refusal.status {
            401 => Self::Unauthorized(refusal),
            403 => Self::Denied(refusal),
            404 => Self::NotFound(refusal),
            429 => Self::RateLimited(refusal),
            _ => Self::Refused(refusal),
        }
    }

    /// Whether the same request may succeed when repeated at once or soon.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            Self::Unreachable { failure, .. } => failure.may_pass(),
            Self::RateLimited(_) => true,
            Self::Refused(refusal) => matches!(refusal.status, 408 | 425 | 500 | 502..=599),
            _ => false,
        }
    }
}

fn class_of_status(status: u16) -> ErrorClass {
    if (400..500).contains(&status) {
        ErrorClass::User
    } else {
        ErrorClass::Upstream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16) -> Refusal {
        Refusal {
            host: "reg.example".to_owned(),
            what: "manifest `reg.example/a:1`".to_owned(),
            status,
            code: Some("MANIFEST_UNKNOWN".to_owned()),
            message: Some("no such tag".to_owned()),
        }
    }

    #[test]
    fn a_message_names_thing_host_and_answer() {
        assert_eq!(
            Error::refused(refusal(404)).to_string(),
            "manifest `reg.example/a:1` not found on `reg.example` \
             (404 MANIFEST_UNKNOWN: no such tag)"
        );
    }

    #[test]
    fn classes_follow_the_status() {
        for (status, class) in [
            (404, ErrorClass::User),
            (401, ErrorClass::User),
            (400, ErrorClass::User),
            (429, ErrorClass::Upstream),
            (503, ErrorClass::Upstream),
        ] {
            assert_eq!(Error::refused(refusal(status)).class(), class, "{status}");
        }
    }

    #[test]
    fn mirrors_are_told_after_the_upstream() {
        let error = Error::AfterMirrors {
            upstream: Box::new(Error::refused(refusal(404))),
            mirrors: vec![MirrorFailure {
                host: "mirror".to_owned(),
                error: Error::Blocked {
                    name: "x".to_owned(),
                },
            }],
        };
        assert!(error.is_not_found());
        assert!(
            error
                .to_string()
                .contains("; mirror `mirror`: `x` is blocked")
        );
    }
}
