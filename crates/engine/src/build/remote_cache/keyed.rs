//! A cache with a document for each key.

use async_trait::async_trait;
use bytes::Bytes;
use longshore_oci::Descriptor;
use longshore_solver::{BoxError, CacheBackend, CacheKey, CacheRecord, Group, Trace};
use tokio::sync::{Mutex, OnceCell};

use super::place::Place;
use super::{document, portable};

/// Records by key, at a place.
#[derive(Debug)]
pub(super) struct KeyedCache {
    pub(super) place: Place,
    /// That the blob that every document names is there.
    has_empty: OnceCell<()>,
    /// Traces of one group are read, added to and written by one at a time.
    adding: Mutex<()>,
}

impl KeyedCache {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            has_empty: OnceCell::new(),
            adding: Mutex::default(),
        }
    }

    /// Makes sure that documents can be written.
    pub(super) async fn prepare(&self) -> Result<(), BoxError> {
        let place = &self.place;
        self.has_empty
            .get_or_try_init(|| place.put_empty())
            .await
            .copied()
    }

    /// Adds traces to a group that nobody else of this process adds to. What another machine
    /// adds at the same moment may be lost: traces explain, and decide nothing.
    pub(super) async fn add_traces(&self, group: &Group, added: &[&Trace]) -> Result<(), BoxError> {
        let name = document::traces_name(group);
        let mut traces = self.traces(&name).await.unwrap_or_default();
        for trace in added {
            traces.retain(|known| known.key != trace.key);
            traces.insert(0, Trace::clone(trace));
        }
        self.place.put(&name, document::traces(&traces)?).await
    }

    async fn traces(&self, name: &str) -> Result<Vec<Trace>, BoxError> {
        match self.place.get(name).await? {
            Some(bytes) => document::read_traces(&bytes),
            None => Ok(Vec::new()),
        }
    }

    fn read(&self, bytes: &Bytes) -> Result<CacheRecord, BoxError> {
        portable::import(document::read_record(bytes)?, &self.place.of_blobs())
    }

    /// Lets a record stand under keys; its blobs are there.
    async fn put(
        &self,
        keys: &[CacheKey],
        record: &CacheRecord,
        blobs: Vec<Descriptor>,
    ) -> Result<(), BoxError> {
        self.prepare().await?;
        let bytes = document::record(record, blobs)?;
        for key in keys {
            let name = document::record_name(key);
            self.place.put(&name, bytes.clone()).await?;
        }
        let _alone = self.adding.lock().await;
        for group in &record.trace.groups {
            self.add_traces(group, &[&record.trace]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl CacheBackend for KeyedCache {
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError> {
        let found = self.place.get(&document::record_name(key)).await?;
        found.map(|bytes| self.read(&bytes)).transpose()
    }

    async fn record(&self, keys: &[CacheKey], record: &CacheRecord) -> Result<(), BoxError> {
        self.put(keys, record, Vec::new()).await
    }

    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError> {
        self.traces(&document::traces_name(group)).await
    }
}
