//! This machine's cache and those elsewhere, asked in order.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{BoxError, CacheBackend, CacheKey, CacheRecord, Event, Group, Origin, PastStep, Trace};

/// After so many failures in a row a cache is not asked again in the same solve: a
/// registry that does not answer must not slow every step down.
const FAILURES_IN_A_ROW_MAX: u64 = 4;

/// The caches of a solver: this machine's first, then the others in order.
#[derive(Clone)]
pub struct CacheTiers {
    /// This machine's.
    pub local: Arc<dyn CacheBackend>,
    /// Those elsewhere, the nearest first.
    pub remotes: Vec<RemoteCache>,
}

/// A cache elsewhere.
#[derive(Clone)]
pub struct RemoteCache {
    /// Its name in events.
    pub name: String,
    /// The cache.
    pub backend: Arc<dyn CacheBackend>,
    /// Whether it is asked (`--cache-from`).
    pub read: bool,
    /// Whether it is told (`--cache-to`): keys, digests and outputs, no values.
    pub write: bool,
}

impl CacheTiers {
    /// This machine's cache alone.
    pub fn local(local: Arc<dyn CacheBackend>) -> Self {
        Self {
            local,
            remotes: Vec::new(),
        }
    }
}

impl fmt::Debug for CacheTiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheTiers")
            .field("remotes", &self.remotes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RemoteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCache")
            .field("name", &self.name)
            .field("read", &self.read)
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}

/// One cache, with its name.
pub(crate) struct Tier {
    pub(crate) origin: Origin,
    backend: Arc<dyn CacheBackend>,
}

/// A solve's way to the caches: failures are counted, and count as "nothing there".
pub(crate) struct CacheAccess {
    readers: Vec<Tier>,
    writers: Vec<Tier>,
    timeout: Duration,
    troubles: Mutex<BTreeMap<Origin, Trouble>>,
}

struct Trouble {
    operation: &'static str,
    error: String,
    failures: u64,
    in_a_row: u64,
}

/// An answer, or why there is none.
pub(crate) enum Answer<V> {
    Known(V),
    Failed,
}

impl CacheAccess {
    pub(crate) fn new(tiers: &CacheTiers, timeout: Duration) -> Self {
        let local = || Tier {
            origin: Origin::Local,
            backend: tiers.local.clone(),
        };
        let remote = |remote: &RemoteCache| Tier {
            origin: Origin::Remote(remote.name.clone()),
            backend: remote.backend.clone(),
        };
        let read = tiers.remotes.iter().filter(|remote| remote.read);
        let write = tiers.remotes.iter().filter(|remote| remote.write);
        Self {
            readers: std::iter::once(local()).chain(read.map(remote)).collect(),
            writers: std::iter::once(local()).chain(write.map(remote)).collect(),
            timeout,
            troubles: Mutex::default(),
        }
    }

    /// The caches that are asked, in order.
    pub(crate) fn readers(&self) -> &[Tier] {
        &self.readers
    }

    pub(crate) async fn lookup(&self, tier: &Tier, key: &CacheKey) -> Answer<Option<CacheRecord>> {
        self.ask(tier, "lookup", tier.backend.lookup(key)).await
    }

    /// The traces of the first cache that has any.
    pub(crate) async fn nearest(&self, groups: &[Group]) -> Vec<Trace> {
        let mut found = Vec::new();
        for tier in &self.readers {
            for group in groups {
                let nearest = self.ask(tier, "nearest", tier.backend.nearest(group));
                if let Answer::Known(traces) = nearest.await {
                    found.extend(traces);
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        found
    }

    /// What steps took, as far as this machine's cache knows: the others are far away.
    pub(crate) async fn costs(&self, steps: &[PastStep]) -> Vec<Option<u64>> {
        let Some(local) = self.readers.first() else {
            return Vec::new();
        };
        match self.ask(local, "costs", local.backend.costs(steps)).await {
            Answer::Known(costs) => costs,
            Answer::Failed => Vec::new(),
        }
    }

    /// Tells this machine's cache everything, and the others what may leave it.
    pub(crate) async fn record(&self, keys: &[CacheKey], record: &CacheRecord) {
        self.record_locally(keys, record).await;
        self.record_remotely(keys, record).await;
    }

    /// Tells this machine's cache.
    pub(crate) async fn record_locally(&self, keys: &[CacheKey], record: &CacheRecord) {
        if let Some(local) = self.writers.first() {
            self.record_in(local, keys, record).await;
        }
    }

    /// Tells the others what may leave this machine.
    pub(crate) async fn record_remotely(&self, keys: &[CacheKey], record: &CacheRecord) {
        for tier in self.writers.iter().skip(1) {
            self.record_in(tier, keys, record).await;
        }
    }

    async fn record_in(&self, tier: &Tier, keys: &[CacheKey], record: &CacheRecord) {
        let redacted;
        let record = if tier.origin == Origin::Local {
            record
        } else {
            redacted = record.redacted();
            &redacted
        };
        self.ask(tier, "record", tier.backend.record(keys, record))
            .await;
    }

    async fn ask<V>(
        &self,
        tier: &Tier,
        operation: &'static str,
        question: impl Future<Output = Result<V, BoxError>>,
    ) -> Answer<V> {
        if self.has_given_up(&tier.origin) {
            return Answer::Failed;
        }
        let error = match tokio::time::timeout(self.timeout, question).await {
            Ok(Ok(answer)) => {
                if let Some(trouble) = self.troubles().get_mut(&tier.origin) {
                    trouble.in_a_row = 0;
                }
                return Answer::Known(answer);
            }
            Ok(Err(error)) => crate::error::with_causes(&*error),
            Err(_) => format!("no answer within {} s", self.timeout.as_secs()),
        };
        self.trouble(&tier.origin, operation, error);
        Answer::Failed
    }

    /// Counts a failure.
    pub(crate) fn trouble(&self, origin: &Origin, operation: &'static str, error: String) {
        tracing::debug!(cache = %origin, operation, error, "the cache failed");
        let mut troubles = self.troubles();
        let trouble = troubles.entry(origin.clone()).or_insert(Trouble {
            operation,
            error,
            failures: 0,
            in_a_row: 0,
        });
        trouble.failures += 1;
        trouble.in_a_row += 1;
    }

    /// One event for each cache that failed.
    pub(crate) fn report(&self) -> Vec<Event> {
        let troubles = std::mem::take(&mut *self.troubles());
        let events = troubles
            .into_iter()
            .map(|(cache, trouble)| Event::CacheTrouble {
                cache,
                operation: trouble.operation,
                error: trouble.error,
                failures: trouble.failures,
            });
        events.collect()
    }

    fn has_given_up(&self, origin: &Origin) -> bool {
        let troubles = self.troubles();
        let trouble = troubles.get(origin);
        *origin != Origin::Local && trouble.is_some_and(|t| t.in_a_row >= FAILURES_IN_A_ROW_MAX)
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Origin, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
