//! The HTTP clients behind an exchange: one for each way of trusting and connecting.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use url::Url;

use super::Timeouts;
use crate::config::{ConfigError, HostConfig, is_loopback};

/// Whether proxies are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// As `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say. Loopback hosts
    /// are always reached directly.
    #[default]
    Environment,
    /// Never.
    Direct,
}

/// Which kind of connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Small requests, many on one HTTP/2 connection.
    Api,
    /// Blobs, each on an HTTP/1.1 connection of its own: one HTTP/2 connection's
    /// window would bound all of them together.
    Blob,
}

/// How a server's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// There is none: plain HTTP.
    Plain,
    /// By the platform's and the web's authorities.
    Verified,
    /// By those and these files.
    With(Vec<PathBuf>),
    /// Not at all.
    Unverified,
}

impl Trust {
    pub(super) fn of(url: &Url, settings: &HostConfig, unverified: bool) -> Self {
        match url.scheme() {
            "http" => Self::Plain,
            _ if unverified => Self::Unverified,
            _ if settings.ca_files.is_empty() => Self::Verified,
            _ => Self::With(settings.ca_files.clone()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Profile {
    trust: Trust,
    direct: bool,
    lane: Lane,
}

/// Makes clients when they are first needed: reading the trusted certificates takes
/// longer than a request to a local registry.
#[derive(Debug)]
pub(crate) struct Clients {
    made: Mutex<HashMap<Profile, reqwest::Client>>,
    user_agent: String,
    timeouts: Timeouts,
    proxy: Proxy,
}

impl Clients {
    pub(crate) fn new(user_agent: String, timeouts: Timeouts, proxy: Proxy) -> Self {
        Self {
            made: Mutex::new(HashMap::new()),
            user_agent,
            timeouts,
            proxy,
        }
    }

    pub(super) fn client(
        &self,
        url: &Url,
        trust: Trust,
        lane: Lane,
    ) -> Result<reqwest::Client, ConfigError> {
        let loopback = url.host_str().is_some_and(is_loopback);
        let profile = Profile {
            trust,
            direct: loopback || self.proxy == Proxy::Direct,
            lane,
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&profile) {
            return Ok(client.clone());
        }
        let client = self.build(&profile)?;
        made.insert(profile, client.clone());
        Ok(client)
    }

    fn build(&self, profile: &Profile) -> Result<reqwest::Client, ConfigError> {
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(self.timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true);
        if profile.direct {
            builder = builder.no_proxy();
        }
        if profile.lane == Lane::Blob {
            builder = builder.http1_only();
        }
        let builder = match &profile.trust {
            // No certificate is ever looked at: none need be read.
            Trust::Plain => builder.tls_certs_only([]),
            Trust::Unverified => builder.tls_danger_accept_invalid_certs(true),
            Trust::Verified => builder.tls_certs_merge(web_roots()?),
            Trust::With(files) => builder.tls_certs_merge(web_roots()?).tls_certs_merge(
                files
                    .iter()
                    .map(|file| read_authorities(file))
                    .collect::<Result<Vec<_>, _>>()?
                    .into_iter()
                    .flatten(),
            ),
        };
        builder
            .build()
            .map_err(|error| ConfigError::Tls(error.to_string()))
    }
}

/// rustls needs one process-wide provider; an embedding program's own choice stays.
fn install_crypto_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        if provider.install_default().is_err() {
            tracing::debug!("another TLS provider is installed already");
        }
    });
}

/// The authorities of the web, so that an image without `ca-certificates` can pull.
fn web_roots() -> Result<Vec<reqwest::Certificate>, ConfigError> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|der| reqwest::Certificate::from_der(der))
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::Tls(error.to_string()))
}

fn read_authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ConfigError> {
    let pem = std::fs::read(path).map_err(|error| ConfigError::CaFile {
        path: path.to_owned(),
        error,
    })?;
    let unusable = |problem: String| ConfigError::CaContent {
        path: path.to_owned(),
        problem,
    };
    let found = reqwest::Certificate::from_pem_bundle(&pem);
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() {
        return Err(unusable("no PEM certificate in it".to_owned()));
    }
    Ok(found)
}
