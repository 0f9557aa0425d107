//! What is known about each host while the client lives: scheme, challenge, limits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use crate::auth::Challenge;
use crate::config::{ConfigError, HostConfig, RegistriesConfig, is_loopback, network_authority};
use crate::{Error, Result};

/// How long a mirror that could not be reached is not asked again.
const MIRROR_REST: Duration = Duration::from_secs(60);
/// Small requests at a time for each blob transfer that a host allows.
const REQUESTS_PER_TRANSFER: usize = 2;

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    /// As references and settings name it.
    pub(crate) name: String,
    /// What is connected to.
    pub(crate) authority: String,
    pub(crate) settings: HostConfig,
    insecure: bool,
    pub(super) scheme: tokio::sync::Mutex<Option<&'static str>>,
    challenge: Mutex<Option<Challenge>>,
    paused_until: Mutex<Option<Instant>>,
    resting_until: Mutex<Option<Instant>>,
    /// Small requests, downloads and uploads are bounded apart: an upload may wait for
    /// the download that feeds it, and both for a token.
    pub(crate) requests: Semaphore,
    pub(crate) downloads: Arc<Semaphore>,
    pub(crate) uploads: Semaphore,
}

impl Host {
    fn new(name: &str, settings: HostConfig, insecure: bool, transfers: usize) -> Self {
        let transfers = settings.max_concurrency.unwrap_or(transfers).max(1);
        Self {
            name: name.to_owned(),
            authority: network_authority(name).to_owned(),
            insecure: insecure || settings.insecure,
            settings,
            scheme: tokio::sync::Mutex::new(None),
            challenge: Mutex::new(None),
            paused_until: Mutex::new(None),
            resting_until: Mutex::new(None),
            requests: Semaphore::new(transfers * REQUESTS_PER_TRANSFER),
            downloads: Arc::new(Semaphore::new(transfers)),
            uploads: Semaphore::new(transfers),
        }
    }

    /// Plain HTTP is for hosts that were said to be insecure, and for this machine
    /// unless an authority is configured for it.
    pub(super) fn may_be_plain(&self) -> bool {
        self.unverified()
    }

    /// Whether certificates are not verified; the same hosts as for plain HTTP.
    pub(super) fn unverified(&self) -> bool {
        self.insecure || (is_loopback(&self.authority) && self.settings.ca_files.is_empty())
    }

    pub(super) fn url(&self, scheme: &str) -> Result<Url> {
        let text = format!("{scheme}://{}/v2/", self.authority);
        Url::parse(&text).map_err(|_| {
            Error::Config(ConfigError::Location {
                text: self.authority.clone(),
                problem: "it is not a host name",
            })
        })
    }

    /// The challenge that the host made last, so that the next request can answer it
    /// in advance.
    pub(crate) fn challenge(&self) -> Option<Challenge> {
        let slot = self.challenge.lock();
        slot.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remember_challenge(&self, challenge: &Challenge) {
        let slot = self.challenge.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(challenge.clone());
    }

    /// Makes all requests wait: the host said that there are too many.
    pub(crate) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let slot = self.paused_until.lock();
        let mut slot = slot.unwrap_or_else(PoisonError::into_inner);
        *slot = Some(slot.map_or(until, |old| old.max(until)));
    }

    /// Waits out the pause that the host asked for.
    pub(crate) async fn wait_for_pause(&self) {
        let until = *self
            .paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Notes that the mirror could not be reached.
    pub(crate) fn rest(&self) {
        let slot = self.resting_until.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + MIRROR_REST);
    }

    /// Whether the mirror was found unreachable a moment ago.
    pub(crate) fn is_resting(&self) -> bool {
        let slot = self.resting_until.lock();
        let until = *slot.unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// All hosts that were spoken to.
#[derive(Debug)]
pub(crate) struct Hosts {
    known: Mutex<HashMap<(String, bool), Arc<Host>>>,
    config: Arc<RegistriesConfig>,
    transfers: usize,
}

impl Hosts {
    pub(crate) fn new(config: Arc<RegistriesConfig>, transfers: usize) -> Self {
        Self {
            known: Mutex::new(HashMap::new()),
            config,
            transfers,
        }
    }

    /// The host of that name; `insecure` where the rule that led to it says so.
    pub(crate) fn host(&self, name: &str, insecure: bool) -> Arc<Host> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let host = known.entry((name.to_owned(), insecure)).or_insert_with(|| {
            let settings = self.config.host(name);
            Arc::new(Host::new(name, settings, insecure, self.transfers))
        });
        Arc::clone(host)
    }
}
