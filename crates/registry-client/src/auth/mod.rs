//! Answering a registry's challenge (distribution's token and OAuth2 flows, RFC 6750, 7617).
//!
//! The registry says in `WWW-Authenticate` whom to ask ([`challenge`]); what is asked
//! for is a set of rights ([`scope`]); tokens are kept until shortly before they end
//! ([`token`]). Nothing here is ever sent to a host that the registry did not name,
//! and nothing at all over plain HTTP when the registry itself is on HTTPS.

mod challenge;
mod scope;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

pub(crate) use challenge::{Challenge, choose};
pub(crate) use scope::{Action, Scopes};
pub(crate) use token::{Token, TokenCache, TokenKey, TokenRequest, read_token};

use crate::credentials::{CredentialError, CredentialSource, Credentials};

/// How long looked-up credentials are used without asking the source again.
const CREDENTIALS_KEPT: Duration = Duration::from_secs(300);
/// How long a helper that failed is not asked again.
const FAILURE_KEPT: Duration = Duration::from_secs(5);
/// The most registries and repositories whose credentials are kept at a time.
const CREDENTIALS_KEPT_MAX: usize = 1024;

/// Finds credentials, and remembers for a while what was found.
#[derive(Debug)]
pub(crate) struct Identity {
    source: Arc<dyn CredentialSource>,
    found: Mutex<HashMap<(String, Option<String>), Found>>,
}

/// What was found for a registry.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) credentials: Option<Credentials>,
    /// Why a helper could not be asked; told only if doing without it did not work.
    pub(crate) problem: Option<Arc<CredentialError>>,
    at: Instant,
}

impl Found {
    pub(crate) fn nothing() -> Self {
        Self {
            credentials: None,
            problem: None,
            at: Instant::now(),
        }
    }

    pub(crate) fn given(credentials: Credentials) -> Self {
        Self {
            credentials: Some(credentials),
            problem: None,
            at: Instant::now(),
        }
    }
}

impl Identity {
    pub(crate) fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self {
            source,
            found: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) async fn find(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Found, CredentialError> {
        let key = (registry.to_owned(), repository.map(str::to_owned));
        if let Some(found) = self.remembered(&key) {
            return Ok(found);
        }
        let (credentials, problem) = match self.source.credentials(registry, repository).await {
            Ok(credentials) => (credentials, None),
            Err(problem) if problem.is_helper() => (None, Some(Arc::new(problem))),
            Err(problem) => return Err(problem),
        };
        let found = Found {
            credentials,
            problem,
            at: Instant::now(),
        };
        self.remember(key, found.clone());
        Ok(found)
    }

    fn remember(&self, key: (String, Option<String>), entry: Found) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= CREDENTIALS_KEPT_MAX {
            found.clear();
        }
        found.insert(key, entry);
    }

    /// Forgets what was found for a registry: it was not accepted.
    pub(crate) fn forget(&self, registry: &str) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|(known, _), _| known != registry);
    }

    fn remembered(&self, key: &(String, Option<String>)) -> Option<Found> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = found.get(key)?;
        let kept = match entry.problem {
            Some(_) => FAILURE_KEPT,
            None => CREDENTIALS_KEPT,
        };
        (entry.at.elapsed() < kept).then(|| entry.clone())
    }
}

/// `Authorization: Basic …`, `None` where it cannot be a header.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    sensitive(&format!("Basic {encoded}"))
}

/// `Authorization: Bearer …`, `None` where it cannot be a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_is_not_shown() {
        let value = basic("me", "hunter2").unwrap();
        assert_eq!(value, "Basic bWU6aHVudGVyMg==");
        assert!(!format!("{value:?}").contains("bWU6"));
        assert!(bearer("a\nb").is_none());
    }
}
