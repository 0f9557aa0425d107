//! Who we are to a registry: credentials, and where they are kept.
//!
//! [`CredentialStore`] reads Docker's `config.json` and `containers-auth.json(5)`,
//! asks `docker-credential-*` helpers, and writes for login and logout. It only
//! touches the files and helper directories that its caller names; which ones those
//! are (`$DOCKER_CONFIG`, `$REGISTRY_AUTH_FILE`, `$PATH`) is the front door's business.

mod file;
mod helper;
mod raw_object;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::Secret;

pub use store::CredentialStore;

/// The largest credential file that is read, in bytes.
pub const CREDENTIAL_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What proves who we are to one registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A user's name and password, or a token that stands in for the password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token (`identitytoken`), exchanged at the token service.
    IdentityToken(Secret),
    /// A bearer token for the registry itself (`registrytoken`), sent as it is.
    RegistryToken(Secret),
}

impl Credentials {
    /// A user's name and password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password {
            username: username.into(),
            password: Secret::new(password),
        }
    }

    /// The user, where the credentials name one.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Password { username, .. } => Some(username),
            Self::IdentityToken(_) | Self::RegistryToken(_) => None,
        }
    }
}

/// Where the client gets credentials from.
#[async_trait]
pub trait CredentialSource: fmt::Debug + Send + Sync {
    /// The credentials for a registry (`docker.io`, `localhost:5000`), or for one
    /// repository on it (`library/debian`); `None` to go on anonymously.
    async fn credentials(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialError>;
}

/// Has no credentials for anyone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl CredentialSource for Anonymous {
    async fn credentials(
        &self,
        _registry: &str,
        _repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialError> {
        Ok(None)
    }
}

/// Credentials given in advance, by registry.
#[derive(Clone, Debug, Default)]
pub struct StaticCredentials(BTreeMap<String, Credentials>);

impl StaticCredentials {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds those for `registry`.
    #[must_use]
    pub fn with(mut self, registry: impl Into<String>, credentials: Credentials) -> Self {
        self.0.insert(registry.into(), credentials);
        self
    }
}

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credentials(
        &self,
        registry: &str,
        _repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialError> {
        Ok(self.0.get(registry).cloned())
    }
}

/// Why credentials could not be read or kept. Nothing here shows a secret: what a
/// helper prints is never repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file could not be read or written.
    #[error("cannot {action} credential file `{path}`: {error}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// A file is larger than [`CREDENTIAL_FILE_BYTES_MAX`].
    #[error("credential file `{path}` is larger than {CREDENTIAL_FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not JSON of the expected shape.
    #[error("credential file `{path}` is not valid: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        problem: String,
    },
    /// A configured helper's name is not one.
    #[error("`{name}` is not a credential helper's name")]
    HelperName {
        /// The name.
        name: String,
    },
    /// A configured helper is not installed.
    #[error("credential helper `docker-credential-{name}` is not installed")]
    HelperMissing {
        /// The helper.
        name: String,
    },
    /// A helper could not be started or spoken to.
    #[error("cannot run credential helper `docker-credential-{name}`: {error}")]
    HelperRun {
        /// The helper.
        name: String,
        /// What failed.
        error: io::Error,
    },
    /// A helper failed or answered nonsense.
    #[error("credential helper `docker-credential-{name}` failed to {action}: {problem}")]
    HelperFailed {
        /// The helper.
        name: String,
        /// `get`, `store` or `erase`.
        action: &'static str,
        /// How, without what it printed.
        problem: String,
    },
    /// These credentials cannot be kept in this place.
    #[error("credentials for `{registry}` cannot be stored: {problem}")]
    NotStorable {
        /// The registry.
        registry: String,
        /// Why.
        problem: &'static str,
    },
}

impl CredentialError {
    /// Whether a helper, not a file, is at fault. What is public can then still be
    /// pulled: a configuration copied from elsewhere often names a helper that is not here.
    pub(crate) fn is_helper(&self) -> bool {
        matches!(
            self,
            Self::HelperMissing { .. } | Self::HelperRun { .. } | Self::HelperFailed { .. }
        )
    }
}
