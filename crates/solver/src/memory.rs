//! A cache that lives as long as the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::{BoxError, CacheBackend, CacheKey, CacheRecord, Group, NEAREST_MAX, PastStep, Trace};

/// Remembers results in memory.
#[derive(Debug, Default)]
pub struct MemoryCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<CacheKey, Arc<CacheRecord>>,
    groups: HashMap<Group, Vec<Arc<CacheRecord>>>,
}

impl MemoryCache {
    /// Forgets every record; traces stay.
    pub fn forget_records(&self) {
        self.lock().records.clear();
    }

    /// How many keys have a record.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether no key has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CacheBackend for MemoryCache {
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError> {
        Ok(self
            .lock()
            .records
            .get(key)
            .map(|record| (**record).clone()))
    }

    async fn record(&self, keys: &[CacheKey], record: &CacheRecord) -> Result<(), BoxError> {
        let record = Arc::new(record.clone());
        let mut state = self.lock();
        for key in keys {
            state.records.insert(*key, record.clone());
        }
        for group in &record.trace.groups {
            let traces = state.groups.entry(*group).or_default();
            traces.retain(|known| known.trace.key != record.trace.key);
            traces.insert(0, record.clone());
            traces.truncate(NEAREST_MAX);
        }
        Ok(())
    }

    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError> {
        let state = self.lock();
        let traces = state.groups.get(group).into_iter().flatten();
        Ok(traces.map(|record| record.trace.clone()).collect())
    }

    async fn costs(&self, steps: &[PastStep]) -> Result<Vec<Option<u64>>, BoxError> {
        let state = self.lock();
        let cost = |step: &PastStep| {
            let exact = state.records.get(&step.key);
            let similar = || {
                let groups = step.groups.iter();
                groups
                    .flat_map(|group| state.groups.get(group)?.first())
                    .next()
            };
            Some(exact.or_else(similar)?.cost_ms)
        };
        Ok(steps.iter().map(cost).collect())
    }
}
