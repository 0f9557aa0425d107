//! Bearer tokens: how they are asked for, read and kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde::Deserialize;
use url::Url;

use super::{Scopes, basic};
use crate::Secret;
use crate::credentials::Credentials;
use crate::transport::{Body, Request};

/// The name by which token services know this client.
const CLIENT_ID: &str = "longshore";
/// A token lives at least this long, whatever its service says (distribution's token.md).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
/// The longest that a token is believed to live.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is not used in its last tenth, and not in its last ten seconds.
const MARGIN: Duration = Duration::from_secs(10);
/// The most tokens that are kept.
const TOKENS_KEPT_MAX: usize = 1024;

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scopes: Scopes,
    pub(crate) credentials: Option<Credentials>,
}

impl TokenKey {
    /// Whether a token for `self` serves where `wanted` is asked for.
    fn serves(&self, wanted: &Self) -> bool {
        self.realm == wanted.realm
            && self.service == wanted.service
            && self.credentials == wanted.credentials
            && self.scopes.cover(&wanted.scopes)
    }
}

/// A token and when to stop using it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) value: Secret,
    use_until: Instant,
}

/// Tokens by what they are for, and who is asking for one right now.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    kept: Mutex<Vec<(TokenKey, Token)>>,
    flights: Mutex<Vec<(TokenKey, Flight)>>,
}

/// Held by whoever asks for a token, so that others wait for it instead of asking too.
pub(crate) type Flight = Arc<tokio::sync::Mutex<()>>;

impl TokenCache {
    pub(crate) fn find(&self, wanted: &TokenKey) -> Option<Token> {
        let now = Instant::now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.iter().filter(|(_, token)| token.use_until > now);
        let mut serving = fresh.filter(|(key, _)| key.serves(wanted));
        serving.next().map(|(_, token)| token.clone())
    }

    pub(crate) fn keep(&self, key: TokenKey, token: Token) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, old)| old.use_until > now && *other != key);
        if kept.len() >= TOKENS_KEPT_MAX {
            kept.remove(0);
        }
        kept.push((key, token));
    }

    /// Drops a token that the registry did not accept.
    pub(crate) fn forget(&self, rejected: &HeaderValue) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, token)| {
            super::bearer(token.value.expose()).is_none_or(|value| value != *rejected)
        });
    }

    /// The lock under which a token for `key` is asked for.
    pub(crate) fn flight(&self, key: &TokenKey) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // A flight that nobody else holds has landed.
        flights.retain(|(_, flight)| Arc::strong_count(flight) > 1);
        if let Some((_, flight)) = flights.iter().find(|(other, _)| other == key) {
            return Arc::clone(flight);
        }
        let flight = Flight::default();
        flights.push((key.clone(), Arc::clone(&flight)));
        flight
    }
}

/// The ways of asking for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRequest {
    /// `GET`, with a password as Basic authorization (distribution's token.md).
    Get,
    /// `POST` of a form (distribution's oauth.md); the only way for identity tokens.
    Post,
}

impl TokenRequest {
    /// The way to try first.
    pub(crate) fn first_for(credentials: Option<&Credentials>) -> Self {
        match credentials {
            Some(Credentials::IdentityToken(_)) => Self::Post,
            _ => Self::Get,
        }
    }

    /// The request, and the authorization to send with it.
    pub(crate) fn build(self, realm: &Url, key: &TokenKey) -> (Request, Option<HeaderValue>) {
        match self {
            Self::Get => get(realm, key),
            Self::Post => (post(realm, key), None),
        }
    }
}

fn what(key: &TokenKey) -> String {
    match key.scopes.to_string().as_str() {
        "" => "a token".to_owned(),
        scopes => format!("a token for `{scopes}`"),
    }
}

fn get(realm: &Url, key: &TokenKey) -> (Request, Option<HeaderValue>) {
    let mut url = realm.clone();
    let mut authorization = None;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        for scope in key.scopes.texts() {
            query.append_pair("scope", &scope);
        }
        if let Some(Credentials::Password { username, password }) = &key.credentials {
            query.append_pair("account", username);
            query.append_pair("client_id", CLIENT_ID);
            authorization = basic(username, password.expose());
        }
    }
    if url.query() == Some("") {
        url.set_query(None);
    }
    (Request::new(Method::GET, url, what(key)), authorization)
}

fn post(realm: &Url, key: &TokenKey) -> Request {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", CLIENT_ID);
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    let scopes = key.scopes.to_string();
    if !scopes.is_empty() {
        form.append_pair("scope", &scopes);
    }
    match &key.credentials {
        Some(Credentials::IdentityToken(token)) => {
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("refresh_token", token.expose());
        }
        Some(Credentials::Password { username, password }) => {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username);
            form.append_pair("password", password.expose());
        }
        Some(Credentials::RegistryToken(_)) | None => {}
    }
    let body = Body::Bytes(Bytes::from(form.finish()));
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    Request::new(Method::POST, realm.clone(), what(key))
        .header(header::CONTENT_TYPE, form_type)
        .body(body)
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Reads a token service's answer. The lifetime counts from now on our own clock, so
/// that clocks may differ.
pub(crate) fn read_token(body: &[u8]) -> Result<Token, &'static str> {
    let parsed: TokenBody =
        serde_json::from_slice(body).map_err(|_| "the answer is not the expected JSON")?;
    let value = [parsed.token, parsed.access_token]
        .into_iter()
        .flatten()
        .find(|value| !value.is_empty())
        .ok_or("there is no token in the answer")?;
    if super::bearer(&value).is_none() {
        return Err("the token has characters that no header can carry");
    }
    let use_until = Instant::now() + usable(parsed.expires_in);
    Ok(Token {
        value: Secret::new(value),
        use_until,
    })
}

fn usable(expires_in: Option<f64>) -> Duration {
    let lifetime = expires_in
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or_default()
        .clamp(LIFETIME_DEFAULT, LIFETIME_MAX);
    lifetime - MARGIN.max(lifetime / 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Action;
    use super::*;

    fn key(action: Action, credentials: Option<Credentials>) -> TokenKey {
        TokenKey {
            realm: "https://auth.example/token?x=1".to_owned(),
            service: Some("reg".to_owned()),
            scopes: Scopes::repository("a/b", action),
            credentials,
        }
    }

    fn token(value: &str) -> Token {
        read_token(format!(r#"{{"token":"{value}"}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn a_get_carries_the_password_in_a_header_only() {
        let key = key(Action::Push, Some(Credentials::password("me", "hunter2")));
        let realm: Url = key.realm.parse().unwrap();
        let (request, authorization) = TokenRequest::Get.build(&realm, &key);
        assert_eq!(
            request.url.as_str(),
            "https://auth.example/token?x=1&service=reg&scope=repository%3Aa%2Fb%3Apull%2Cpush\
             &account=me&client_id=longshore"
        );
        assert!(authorization.unwrap().is_sensitive());
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    #[test]
    fn an_identity_token_goes_into_a_form() {
        let credentials = Credentials::IdentityToken(Secret::new("it"));
        assert_eq!(
            TokenRequest::first_for(Some(&credentials)),
            TokenRequest::Post
        );
        let key = key(Action::Pull, Some(credentials));
        let (request, authorization) = TokenRequest::Post.build(&key.realm.parse().unwrap(), &key);
        assert!(authorization.is_none());
        let Body::Bytes(form) = &request.body else {
            panic!("no form");
        };
        assert_eq!(
            form,
            "client_id=longshore&service=reg&scope=repository%3Aa%2Fb%3Apull\
             &grant_type=refresh_token&refresh_token=it"
        );
    }

    #[test]
    fn the_cache_serves_weaker_requests_of_the_same_user_only() {
        let cache = TokenCache::default();
        let me = Some(Credentials::password("me", "pw"));
        cache.keep(key(Action::Push, me.clone()), token("t"));
        let found = |key: &TokenKey| cache.find(key).map(|t| t.value);
        assert_eq!(
            found(&key(Action::Pull, me.clone())),
            Some(Secret::new("t"))
        );
        assert_eq!(found(&key(Action::Delete, me.clone())), None);
        assert_eq!(found(&key(Action::Pull, None)), None);
        cache.forget(&super::super::bearer("t").unwrap());
        assert_eq!(found(&key(Action::Pull, me)), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = TokenCache::default();
        for n in 0..TOKENS_KEPT_MAX + 10 {
            let key = TokenKey {
                service: Some(n.to_string()),
                ..key(Action::Pull, None)
            };
            cache.keep(key, token("t"));
        }
        assert_eq!(cache.kept.lock().unwrap().len(), TOKENS_KEPT_MAX);
    }

    #[test]
    fn lifetimes_are_believed_within_reason() {
        assert_eq!(usable(None), Duration::from_secs(50));
        assert_eq!(usable(Some(1.0)), Duration::from_secs(50));
        assert_eq!(usable(Some(300.0)), Duration::from_secs(270));
        assert_eq!(usable(Some(-5.0)), Duration::from_secs(50));
        assert!(usable(Some(1e300)) <= LIFETIME_MAX);
    }

    proptest! {
        #[test]
        fn answers_are_total(body in proptest::collection::vec(any::<u8>(), 0..200), expires: f64) {
            let _ = read_token(&body);
            let _ = usable(Some(expires));
        }
    }
}
