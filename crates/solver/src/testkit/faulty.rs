//! A cache that fails when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::Random;
use crate::{BoxError, CacheBackend, CacheKey, CacheRecord, Group, PastStep, Trace};

/// When a [`FaultyCache`] fails.
#[derive(Debug)]
pub enum Faults {
    /// Never.
    Never,
    /// At the call with this number, from 0.
    Nth(u64),
    /// At each call whose number this divides.
    Every(u64),
    /// Once in so many calls, by chance.
    OneIn(usize, Mutex<Random>),
    /// Never answers.
    Hang,
}

/// Passes every call on to another cache, or fails: before the call reached the other
/// or after, by turns.
#[derive(Debug)]
pub struct FaultyCache<C> {
    inner: Arc<C>,
    faults: Faults,
    calls: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
#[error("fault {0} on purpose")]
struct Fault(u64);

impl<C: CacheBackend> FaultyCache<C> {
    /// A cache in front of `inner`.
    pub fn new(inner: Arc<C>, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// How often it was called.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// How often it failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    async fn call<V>(
        &self,
        inner: impl Future<Output = Result<V, BoxError>>,
    ) -> Result<V, BoxError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let fails = match &self.faults {
            Faults::Never => false,
            Faults::Nth(nth) => number == *nth,
            Faults::Every(every) => number.is_multiple_of(*every),
            Faults::OneIn(times, random) => random
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .one_in(*times),
            Faults::Hang => std::future::pending().await,
        };
        if !fails {
            return inner.await;
        }
        let failure = self.failures.fetch_add(1, Ordering::SeqCst);
        if failure % 2 == 1 {
            inner.await?;
        }
        Err(Fault(number).into())
    }
}

#[async_trait]
impl<C: CacheBackend> CacheBackend for FaultyCache<C> {
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError> {
        self.call(self.inner.lookup(key)).await
    }

    async fn record(&self, keys: &[CacheKey], record: &CacheRecord) -> Result<(), BoxError> {
        self.call(self.inner.record(keys, record)).await
    }

    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError> {
        self.call(self.inner.nearest(group)).await
    }

    async fn costs(&self, steps: &[PastStep]) -> Result<Vec<Option<u64>>, BoxError> {
        self.call(self.inner.costs(steps)).await
    }
}
