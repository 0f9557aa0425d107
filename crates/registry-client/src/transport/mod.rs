//! HTTP as registries need it: one exchange with its redirects, bounded in time.
//!
//! ```text
//! Client ──► Session (auth, retries) ──► Transport::exchange (redirects) ──► reqwest
//! ```
//! Redirects are followed here, not by the HTTP library, because `Range` must survive
//! them, credentials must not leave the registry's own origin, and HTTPS must not
//! become HTTP.

mod answer;
mod body;
mod clients;
mod error;
mod host;
mod redirect;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use url::Url;

use crate::config::RegistriesConfig;
use crate::{Error, Result, WebError};

pub(crate) use answer::{Answer, clean};
pub(crate) use body::{Body, SourceBody};
pub use clients::Proxy;
pub(crate) use clients::{Clients, Lane};
pub use error::{TransportError, TransportFailure};
pub(crate) use host::{Host, Hosts};
pub(crate) use redirect::target as redirect_target;

/// How many redirects one request follows.
const REDIRECTS_MAX: usize = 10;
/// How long finding out about a host's scheme may take, for each scheme.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long each part of an exchange may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Making a connection, TLS included.
    pub connect: Duration,
    /// From a request that was sent to the head of its answer.
    pub response: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle: Duration,
    /// From an upload's last byte to its answer: the registry checks the digest then.
    pub upload_finish: Duration,
}

impl Timeouts {
    /// Long enough for slow registries, short enough that a dead one is noticed.
    pub const STANDARD: Self = Self {
        connect: Duration::from_secs(15),
        response: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        upload_finish: Duration::from_secs(600),
    };
}

/// One request, repeatable as often as needed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) lane: Lane,
    /// What is wanted, for errors: ``blob `sha256:…` of `docker.io/library/debian` ``.
    pub(crate) what: String,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url, what: impl Into<String>) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
            lane: Lane::Api,
            what: what.into(),
        }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    #[must_use]
    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    #[must_use]
    pub(crate) fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }
}

/// Sends requests.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) clients: Clients,
    pub(crate) hosts: Hosts,
    pub(crate) timeouts: Timeouts,
    config: Arc<RegistriesConfig>,
}

impl Transport {
    pub(crate) fn new(
        clients: Clients,
        hosts: Hosts,
        timeouts: Timeouts,
        config: Arc<RegistriesConfig>,
    ) -> Self {
        Self {
            clients,
            hosts,
            timeouts,
            config,
        }
    }

    /// The URL of the host's API, `…/v2/`; decides between HTTPS and HTTP where both
    /// are allowed, and remembers.
    pub(crate) async fn base_url(&self, host: &Host) -> Result<Url> {
        if !host.may_be_plain() {
            return host.url("https");
        }
        let mut decided = host.scheme.lock().await;
        let scheme = match *decided {
            Some(scheme) => scheme,
            None => self.probe_scheme(host).await?,
        };
        *decided = Some(scheme);
        host.url(scheme)
    }

    /// Docker's rule for insecure registries: HTTPS first, HTTP when no TLS connection
    /// comes about. Nothing but a request without credentials is sent to find out.
    async fn probe_scheme(&self, host: &Host) -> Result<&'static str> {
        let unreachable = |failure| Error::Unreachable {
            host: host.authority.clone(),
            failure,
        };
        let secure = match self.probe(host, "https").await? {
            Ok(_) => return Ok("https"),
            // The connection was made: the scheme is right, whatever came of the request.
            // Silence tells nothing: a plain server may be waiting for the end of a line.
            Err(failure)
                if !failure.while_connecting() && failure.kind() != TransportFailure::Timeout =>
            {
                return Ok("https");
            }
            Err(failure) if failure.kind() == TransportFailure::Dns => {
                return Err(unreachable(failure));
            }
            Err(failure) => failure,
        };
        match self.probe(host, "http").await? {
            // So answers a server that does want TLS, only not ours.
            Ok(StatusCode::BAD_REQUEST) => Err(unreachable(secure)),
            Ok(_) => Ok("http"),
            Err(failure) if secure.kind() == TransportFailure::Tls => {
                tracing::debug!(host = host.authority, %failure, "plain http failed too");
                Err(unreachable(secure))
            }
            Err(failure) => Err(unreachable(failure)),
        }
    }

    async fn probe(&self, host: &Host, scheme: &str) -> Result<Result<StatusCode, TransportError>> {
        let request = Request::new(Method::GET, host.url(scheme)?, "the registry API");
        let client = self.client_for(host, &request.url, Lane::Api)?;
        let built = to_reqwest(&request, None);
        let delivery = self.deliver(&client, built, &request.body);
        Ok(match tokio::time::timeout(PROBE_TIMEOUT, delivery).await {
            Ok(Ok(response)) => Ok(response.status()),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(TransportError::timeout()),
        })
    }

    /// Sends a request and follows its redirects. `authorization` goes to `home`'s
    /// origin only.
    pub(crate) async fn exchange(
        &self,
        home: &Host,
        origin: &url::Origin,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer> {
        let mut request = request.clone();
        for _ in 0..=REDIRECTS_MAX {
            let at_home = request.url.origin() == *origin;
            let authorization = authorization.filter(|_| at_home);
            let answer = self.hop(home, &request, authorization, at_home).await?;
            match redirect::next(&request, &answer)? {
                None => return Ok(answer),
                Some(url) => request.url = url,
            }
        }
        Err(Error::Redirect {
            host: home.authority.clone(),
            what: request.what,
            problem: format!("more than {REDIRECTS_MAX} in a row"),
        })
    }

    async fn hop(
        &self,
        home: &Host,
        request: &Request,
        authorization: Option<&HeaderValue>,
        at_home: bool,
    ) -> Result<Answer> {
        let client = if at_home {
            self.client_for(home, &request.url, request.lane)?
        } else {
            self.client_abroad(&request.url, request.lane)?
        };
        let built = to_reqwest(request, authorization);
        let host = authority_of(&request.url);
        match self.deliver(&client, built, &request.body).await {
            Ok(response) => Ok(Answer::new(response, host, at_home, self.timeouts.idle)),
            Err(failure) if failure.while_connecting() => Err(Error::Unreachable { host, failure }),
            Err(failure) => Err(Error::Interrupted {
                host,
                what: request.what.clone(),
                failure,
            }),
        }
    }

    /// Sends one request to a host that is no registry; follows no redirect.
    pub(crate) async fn get_abroad(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, WebError> {
        let client =
            self.client_abroad(&request.url, request.lane)
                .map_err(|error| match error {
                    Error::Config(error) => WebError::Config(error),
                    _ => WebError::Url,
                })?;
        let host = authority_of(&request.url);
        let built = to_reqwest(request, authorization);
        match self.deliver(&client, built, &request.body).await {
            Ok(response) => Ok(Answer::new(response, host, true, self.timeouts.idle)),
            Err(failure) => Err(WebError::Unreachable { host, failure }),
        }
    }

    fn client_for(&self, home: &Host, url: &Url, lane: Lane) -> Result<reqwest::Client> {
        let trust = clients::Trust::of(url, &home.settings, home.unverified());
        Ok(self.clients.client(url, trust, lane)?)
    }

    /// For a host that was redirected to: its own settings, never those of `home`.
    fn client_abroad(&self, url: &Url, lane: Lane) -> Result<reqwest::Client> {
        let settings = self.config.host(&authority_of(url));
        let unverified = settings.insecure;
        let trust = clients::Trust::of(url, &settings, unverified);
        Ok(self.clients.client(url, trust, lane)?)
    }

    async fn deliver(
        &self,
        client: &reqwest::Client,
        request: reqwest::Request,
        body: &Body,
    ) -> Result<reqwest::Response, TransportError> {
        let sent = client.execute(request);
        let response = match body {
            Body::Source(source) => {
                let patience = (self.timeouts.idle, self.timeouts.upload_finish);
                source.watch(sent, patience.0, patience.1).await
            }
            Body::Empty | Body::Bytes(_) => tokio::time::timeout(self.timeouts.response, sent)
                .await
                .ok(),
        };
        match response {
            Some(response) => response.map_err(TransportError::from),
            None => Err(TransportError::timeout()),
        }
    }
}

fn to_reqwest(request: &Request, authorization: Option<&HeaderValue>) -> reqwest::Request {
    let mut built = reqwest::Request::new(request.method.clone(), request.url.clone());
    *built.headers_mut() = request.headers.clone();
    if let Some(value) = authorization {
        built
            .headers_mut()
            .insert(header::AUTHORIZATION, value.clone());
    }
    let carries_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    match &request.body {
        // Registries insist on a length where a body could be (distribution-spec, end-4).
        Body::Empty if carries_body => {
            built
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Body::Empty => {}
        Body::Bytes(bytes) => *built.body_mut() = Some(bytes.clone().into()),
        Body::Source(source) => *built.body_mut() = Some(source.to_body()),
    }
    built
}

/// `host[:port]` of a URL, the port only where it is not the scheme's own.
pub(crate) fn authority_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
