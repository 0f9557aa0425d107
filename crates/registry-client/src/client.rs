//! The client: one value for all registries, cheap to clone.

use std::fmt;
use std::sync::Arc;

use url::Url;

use crate::auth::{Action, Identity, Scopes, TokenCache};
use crate::config::{RegistriesConfig, Remote};
use crate::credentials::{Anonymous, CredentialSource, Credentials};
use crate::progress::TransferObserver;
use crate::retry::RetryPolicy;
use crate::transport::{Clients, Host, Hosts, Proxy, Timeouts, Transport};
use crate::{Error, Repository, Result};

/// Blob transfers with one host at a time, in each direction, where nothing else is set.
pub const MAX_CONCURRENCY_DEFAULT: usize = 6;

/// What a [`Client`] is made of.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Who we are.
    pub credentials: Arc<dyn CredentialSource>,
    /// Mirrors, certificate authorities and other settings by host.
    pub registries: RegistriesConfig,
    /// How we call ourselves to registries.
    pub user_agent: String,
    /// When failed requests are repeated.
    pub retry: RetryPolicy,
    /// How long the parts of an exchange may take.
    pub timeouts: Timeouts,
    /// Whether proxies are used.
    pub proxy: Proxy,
    /// Blob transfers with one host at a time, in each direction.
    pub max_concurrency: usize,
}

impl ClientOptions {
    /// No credentials, no mirrors, and the standard policies.
    pub fn anonymous() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            registries: RegistriesConfig::default(),
            user_agent: concat!("longshore/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::STANDARD,
            timeouts: Timeouts::STANDARD,
            proxy: Proxy::Environment,
            max_concurrency: MAX_CONCURRENCY_DEFAULT,
        }
    }
}

/// Speaks to registries. Clones share connections, tokens and limits.
///
/// HTTPS is used, except that for this machine's own addresses and for hosts marked
/// insecure, certificates are not verified and plain HTTP is used when no TLS
/// connection comes about (Docker's rule). A host is asked once which it speaks. A
/// loopback host with a configured authority is held to verified HTTPS.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) observer: Option<Arc<dyn TransferObserver>>,
}

pub(crate) struct Inner {
    pub(crate) transport: Transport,
    pub(crate) identity: Identity,
    pub(crate) tokens: TokenCache,
    pub(crate) retry: RetryPolicy,
    pub(crate) registries: Arc<RegistriesConfig>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A host, and who wants to do what there.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) host: Arc<Host>,
    /// The repository on that host; `None` for the registry as a whole.
    pub(crate) path: Option<String>,
    pub(crate) scopes: Scopes,
    /// Credentials to use instead of the stored ones.
    pub(crate) login: Option<Credentials>,
    /// The registry that the host mirrors.
    pub(crate) mirror_of: Option<String>,
}

impl Client {
    /// Makes a client. Nothing is read or connected to before the first request.
    pub fn new(options: ClientOptions) -> Self {
        let registries = Arc::new(options.registries);
        let hosts = Hosts::new(Arc::clone(&registries), options.max_concurrency);
        let clients = Clients::new(options.user_agent, options.timeouts, options.proxy);
        let transport = Transport::new(clients, hosts, options.timeouts, Arc::clone(&registries));
        Self {
            inner: Arc::new(Inner {
                transport,
                identity: Identity::new(options.credentials),
                tokens: TokenCache::default(),
                retry: options.retry,
                registries,
            }),
            observer: None,
        }
    }

    /// The same client, telling `observer` of its blob transfers.
    #[must_use]
    pub fn with_observer(&self, observer: Arc<dyn TransferObserver>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            observer: Some(observer),
        }
    }

    /// Access to the registry as a whole.
    pub(crate) fn registry_access(&self, registry: &str, scopes: Scopes) -> Access {
        let insecure = self.inner.registries.is_insecure(registry);
        Access {
            host: self.inner.transport.hosts.host(registry, insecure),
            path: None,
            scopes,
            login: None,
            mirror_of: None,
        }
    }

    /// Access to where a repository really is, for anything but pulling.
    pub(crate) fn origin_access(&self, repository: &Repository, action: Action) -> Result<Access> {
        let remote = self.inner.registries.push_remote(repository)?;
        Ok(self.remote_access(&remote, action))
    }

    pub(crate) fn remote_access(&self, remote: &Remote, action: Action) -> Access {
        Access {
            host: self
                .inner
                .transport
                .hosts
                .host(&remote.host, remote.insecure),
            path: Some(remote.path.clone()),
            scopes: Scopes::repository(&remote.path, action),
            login: None,
            mirror_of: remote.mirror_of.clone(),
        }
    }
}

impl Access {
    /// The host and repository, for messages.
    pub(crate) fn name(&self) -> String {
        match &self.path {
            Some(path) => format!("{}/{path}", self.host.name),
            None => self.host.name.clone(),
        }
    }

    /// The URL of something in the repository: `…/v2/<path>/<tail>`.
    ///
    /// A mirror may serve several registries, and is told which one is meant
    /// (distribution-spec, "Registry Proxying").
    pub(crate) async fn url(&self, inner: &Inner, tail: &str) -> Result<Url> {
        let base = inner.transport.base_url(&self.host).await?;
        let path = self.path.as_deref().unwrap_or_default();
        let mut url = base
            .join(&format!("{path}/{tail}"))
            .map_err(|_| Error::Protocol {
                host: self.host.authority.clone(),
                what: self.name(),
                problem: "the repository's name is not a URL path".to_owned(),
            })?;
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }
}
