//! Requests with authentication and retries around them.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use url::Url;

use crate::auth::{self, Challenge, Found, Scopes, TokenKey, TokenRequest};
use crate::client::{Access, Inner};
use crate::credentials::Credentials;
use crate::retry::{is_transient_status, retry_after};
use crate::transport::{Answer, Host, Lane, Request, TransportFailure, authority_of};
use crate::{Error, Result};

/// The most that is read of a token service's answer, in bytes.
const TOKEN_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Tries in all where nobody listens: that seldom passes within seconds.
const REFUSED_ATTEMPTS_MAX: u32 = 3;
/// Tries in all on a mirror, behind which the registry itself stands.
const MIRROR_ATTEMPTS_MAX: u32 = 2;

impl Inner {
    /// Sends a request, again and again while failures look like passing ones.
    pub(crate) async fn send(&self, access: &Access, request: &Request) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            access.host.wait_for_pause().await;
            let outcome = Box::pin(self.send_once(access, request)).await;
            let is_mirror = access.mirror_of.is_some();
            match self.wait_after(&access.host, is_mirror, attempt, &outcome) {
                None => return outcome,
                Some(wait) => tokio::time::sleep(wait).await,
            }
            attempt += 1;
        }
    }

    /// Makes all requests wait where a host asked for it in an answer that [`Self::send`]
    /// did not see.
    pub(crate) fn heed(&self, host: &Host, answer: &Answer) {
        if is_transient_status(answer.status())
            && let Some(asked) = retry_after(answer.headers())
        {
            host.pause(self.retry.delay(1, Some(asked)));
        }
    }

    /// How long to wait before the next try; `None` when this outcome stands.
    fn wait_after(
        &self,
        host: &Host,
        is_mirror: bool,
        attempt: u32,
        outcome: &Result<Answer>,
    ) -> Option<Duration> {
        let asked = match outcome {
            Ok(answer) if is_transient_status(answer.status()) => retry_after(answer.headers()),
            Err(error) if error.is_transient() => None,
            Ok(_) | Err(_) => return None,
        };
        let most = match outcome {
            _ if is_mirror => MIRROR_ATTEMPTS_MAX,
            Err(error) if was_refused(error) => REFUSED_ATTEMPTS_MAX,
            _ => u32::MAX,
        };
        if !self.retry.allows_after(attempt) || attempt >= most || (is_mirror && asked.is_some()) {
            return None;
        }
        let wait = self.retry.delay(attempt, asked);
        if asked.is_some() {
            host.pause(wait);
        }
        tracing::debug!(
            host = host.authority,
            attempt,
            wait_ms = wait.as_millis(),
            "retrying"
        );
        Some(wait)
    }

    /// Sends a request once, and once more if the registry wants to know who asks.
    pub(crate) async fn send_once(&self, access: &Access, request: &Request) -> Result<Answer> {
        let base = self.transport.base_url(&access.host).await?;
        let advance = self.authorize_in_advance(access, &base).await?;
        let first = self
            .exchange(access, &base, request, advance.header())
            .await?;
        if first.status() != StatusCode::UNAUTHORIZED || !first.at_home() {
            return advance.explain(first);
        }
        let Some(challenge) = auth::choose(first.headers()) else {
            return advance.explain(first);
        };
        access.host.remember_challenge(&challenge);
        if let Some(rejected) = advance.header() {
            self.tokens.forget(rejected);
            self.identity.forget(&access.host.name);
        }
        let scopes = with_challenge_scope(&access.scopes, &challenge);
        let authorization = self.authorize(access, &base, &challenge, scopes).await?;
        // The same password again would only count as another wrong guess.
        if authorization.header() == advance.header() {
            return authorization.explain(first);
        }
        drop(first);
        let second = self
            .exchange(access, &base, request, authorization.header())
            .await?;
        authorization.explain(second)
    }

    async fn exchange(
        &self,
        access: &Access,
        base: &Url,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer> {
        let _permit = match request.lane {
            // Closed semaphores do not occur: nothing closes them.
            Lane::Api => access.host.requests.acquire().await.ok(),
            Lane::Blob => None,
        };
        let origin = base.origin();
        let sent = self
            .transport
            .exchange(&access.host, &origin, request, authorization);
        sent.await
    }

    /// Answers the challenge that the host made before, without waiting for the next.
    async fn authorize_in_advance(&self, access: &Access, base: &Url) -> Result<Authorization> {
        match access.host.challenge() {
            None => Ok(Authorization::default()),
            Some(challenge) => {
                let scopes = access.scopes.clone();
                self.authorize(access, base, &challenge, scopes).await
            }
        }
    }

    async fn authorize(
        &self,
        access: &Access,
        base: &Url,
        challenge: &Challenge,
        scopes: Scopes,
    ) -> Result<Authorization> {
        let found = self.find_credentials(access).await?;
        let header = match (challenge, &found.credentials) {
            (_, Some(Credentials::RegistryToken(token))) => auth::bearer(token.expose()),
            (Challenge::Basic, Some(Credentials::Password { username, password })) => {
                auth::basic(username, password.expose())
            }
            (Challenge::Basic, _) => None,
            (Challenge::Bearer { realm, service, .. }, credentials) => {
                let key = TokenKey {
                    realm: realm.clone(),
                    service: service.clone(),
                    scopes,
                    credentials: credentials.clone(),
                };
                match self.token(access, base, key).await {
                    Ok(header) => Some(header),
                    Err(error) => return Err(found.explain(error)),
                }
            }
        };
        Ok(Authorization { header, found })
    }

    async fn find_credentials(&self, access: &Access) -> Result<Found> {
        if let Some(login) = &access.login {
            return Ok(Found::given(login.clone()));
        }
        let found = self
            .identity
            .find(&access.host.name, access.path.as_deref());
        Ok(found.await?)
    }

    /// A token for `key`: a kept one, or one that is asked for by one caller at a time.
    async fn token(&self, access: &Access, base: &Url, key: TokenKey) -> Result<HeaderValue> {
        let kept = |key: &TokenKey| {
            let token = self.tokens.find(key)?;
            auth::bearer(token.value.expose())
        };
        if let Some(header) = kept(&key) {
            return Ok(header);
        }
        let flight = self.tokens.flight(&key);
        let _flying = flight.lock().await;
        if let Some(header) = kept(&key) {
            return Ok(header);
        }
        let token = Box::pin(self.request_token(access, base, &key)).await?;
        let header = auth::bearer(token.value.expose());
        self.tokens.keep(key, token);
        header.ok_or_else(|| token_problem(access, "its token service's token cannot be sent"))
    }

    async fn request_token(
        &self,
        access: &Access,
        base: &Url,
        key: &TokenKey,
    ) -> Result<auth::Token> {
        let realm = checked_realm(access, base, &key.realm)?;
        let first = TokenRequest::first_for(key.credentials.as_ref());
        let mut answer = self.ask_for_token(access, &realm, key, first).await?;
        let has_password = matches!(key.credentials, Some(Credentials::Password { .. }));
        let no_get = matches!(
            answer.status(),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
        );
        if first == TokenRequest::Get && has_password && no_get {
            let post = TokenRequest::Post;
            answer = self.ask_for_token(access, &realm, key, post).await?;
        }
        if answer.status() != StatusCode::OK {
            self.identity.forget(&access.host.name);
            let what = format!("a token for {}", access.name());
            return Err(Error::TokenRefused {
                registry: access.host.name.clone(),
                refusal: Box::new(answer.into_refusal(&what).await),
            });
        }
        let body = answer.bytes(TOKEN_BODY_BYTES_MAX, "a token").await?;
        auth::read_token(&body).map_err(|problem| {
            token_problem(access, &format!("its token service failed: {problem}"))
        })
    }

    async fn ask_for_token(
        &self,
        access: &Access,
        realm: &Url,
        key: &TokenKey,
        way: TokenRequest,
    ) -> Result<Answer> {
        let (request, authorization) = way.build(realm, key);
        let authority = authority_of(realm);
        let host = if authority == access.host.authority {
            std::sync::Arc::clone(&access.host)
        } else {
            self.transport.hosts.host(&authority, false)
        };
        let mut attempt = 1;
        loop {
            let origin = realm.origin();
            let sent = self
                .transport
                .exchange(&host, &origin, &request, authorization.as_ref());
            let outcome = Box::pin(sent).await;
            match self.wait_after(&host, access.mirror_of.is_some(), attempt, &outcome) {
                None => return outcome,
                Some(wait) => tokio::time::sleep(wait).await,
            }
            attempt += 1;
        }
    }
}

/// What is sent as authorization, and how its credentials were found.
#[derive(Debug)]
struct Authorization {
    header: Option<HeaderValue>,
    found: Found,
}

impl Default for Authorization {
    fn default() -> Self {
        Self {
            header: None,
            found: Found::nothing(),
        }
    }
}

impl Authorization {
    fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// The answer, unless access failed for want of credentials that a helper should
    /// have given: then the helper's failure is the one to tell.
    fn explain(self, answer: Answer) -> Result<Answer> {
        let is_access = matches!(
            answer.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        );
        match self.found.problem {
            Some(problem) if is_access && answer.at_home() => Err(Error::Credentials(problem)),
            _ => Ok(answer),
        }
    }
}

impl Found {
    fn explain(&self, error: Error) -> Error {
        match &self.problem {
            Some(problem) if error.is_access() => {
                Error::Credentials(std::sync::Arc::clone(problem))
            }
            _ => error,
        }
    }
}

fn was_refused(error: &Error) -> bool {
    match error {
        Error::Unreachable { failure, .. } => failure.kind() == TransportFailure::Refused,
        _ => false,
    }
}

fn with_challenge_scope(scopes: &Scopes, challenge: &Challenge) -> Scopes {
    match challenge {
        Challenge::Bearer {
            scope: Some(text), ..
        } => scopes.clone().and_text(text),
        _ => scopes.clone(),
    }
}

fn token_problem(access: &Access, problem: &str) -> Error {
    Error::Protocol {
        host: access.host.authority.clone(),
        what: access.name(),
        problem: problem.to_owned(),
    }
}

/// The token service's URL, if credentials may be sent there.
fn checked_realm(access: &Access, base: &Url, realm: &str) -> Result<Url> {
    let bad = |problem| token_problem(access, problem);
    let url = Url::parse(realm).map_err(|_| bad("its token service is not a URL"))?;
    let secure = url.scheme() == "https" || (url.scheme() == "http" && base.scheme() == "http");
    if !secure {
        return Err(bad("its token service is not on https"));
    }
    if url.host_str().is_none_or(str::is_empty) || !url.username().is_empty() {
        return Err(bad("its token service's URL has no host, or a user name"));
    }
    Ok(url)
}
