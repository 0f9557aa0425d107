//! A cache that a build reads: what it is shows when it is first asked.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use longshore_oci::{Document, Index, Manifest};
use longshore_registry_client::{MANIFEST_ACCEPT, Repository};
use longshore_solver::{BoxError, CacheBackend, CacheKey, CacheRecord, Group, Trace};
use tokio::sync::Mutex;

use super::keyed::KeyedCache;
use super::place::{Found, Place};
use super::{document, inline};
use crate::progress::{ProgressEvent, ProgressSink};

/// How long an answer may take: waiting longer costs more than most steps.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many platforms of an image are looked at for records.
const PLATFORMS_MAX: usize = 16;

/// A cache that is read.
pub(super) struct CacheReader {
    keyed: KeyedCache,
    state: Mutex<State>,
    progress: Arc<dyn ProgressSink>,
}

/// What is known of the cache.
#[derive(Clone, Debug)]
enum State {
    /// It was not asked yet.
    Unknown,
    /// It could not be asked, and is not asked again in this build.
    Failed(String),
    /// There is nothing in it.
    Empty,
    /// It has a document for each key.
    Keyed,
    /// An image with the records of its layers.
    Inline(Arc<HashMap<CacheKey, CacheRecord>>),
}

impl CacheReader {
    pub(super) fn new(place: Place, progress: Arc<dyn ProgressSink>) -> Self {
        Self {
            keyed: KeyedCache::new(place),
            state: Mutex::new(State::Unknown),
            progress,
        }
    }

    async fn state(&self) -> Result<State, BoxError> {
        let mut state = self.state.lock().await;
        if matches!(*state, State::Unknown) {
            // Where the question itself is given up, it is not asked again either.
            *state = State::Failed("it did not answer".to_owned());
            *state = match in_time(self.open()).await {
                Ok(found) => found,
                Err(error) => State::Failed(error.to_string()),
            };
        }
        match &*state {
            State::Failed(error) => Err(error.clone().into()),
            known => Ok(known.clone()),
        }
    }

    async fn open(&self) -> Result<State, BoxError> {
        let (bytes, media_type) = match self.keyed.place.find().await? {
            Found::Nothing => return Ok(State::Empty),
            Found::Document(bytes, media_type) => (bytes, media_type),
        };
        if document::artifact_type(&bytes).as_deref() == Some(document::MARKER_TYPE) {
            return Ok(State::Keyed);
        }
        let records = match Document::parse(&bytes, &media_type) {
            Ok(Document::Manifest(manifest)) => self.records_of(&manifest)?,
            Ok(Document::Index(index)) => self.records_of_index(&index).await?,
            Err(_) => HashMap::new(),
        };
        if records.is_empty() {
            self.warn_of_nothing();
            return Ok(State::Empty);
        }
        Ok(State::Inline(Arc::new(records)))
    }

    fn records_of(&self, manifest: &Manifest) -> Result<HashMap<CacheKey, CacheRecord>, BoxError> {
        inline::read(manifest, &self.keyed.place.of_blobs())
    }

    async fn records_of_index(
        &self,
        index: &Index,
    ) -> Result<HashMap<CacheKey, CacheRecord>, BoxError> {
        let Place::Registry { client, reference } = &self.keyed.place else {
            return Ok(HashMap::new());
        };
        let mut records = HashMap::new();
        for child in index.manifests.iter().take(PLATFORMS_MAX) {
            let child = Repository::of(reference).at_digest(child.digest);
            let (_, bytes): (_, Bytes) = client.fetch_manifest(&child, MANIFEST_ACCEPT).await?;
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
                records.extend(self.records_of(&manifest)?);
            }
        }
        Ok(records)
    }

    /// The place, if it has a document for each cache mount too; `None` also where the cache
    /// is known to have failed, and was said to.
    pub(super) async fn of_mounts(&self) -> Result<Option<&Place>, BoxError> {
        if matches!(*self.state.lock().await, State::Failed(_)) {
            return Ok(None);
        }
        match self.state().await? {
            State::Keyed => Ok(Some(&self.keyed.place)),
            State::Inline(_) => Err("an image carries no cache mounts".into()),
            State::Unknown | State::Failed(_) | State::Empty => Ok(None),
        }
    }

    fn warn_of_nothing(&self) {
        let place = match &self.keyed.place {
            Place::Registry { reference, .. } => reference.familiar(),
            Place::Directory(path) => path.display().to_string(),
        };
        self.progress.emit(ProgressEvent::Note(format!(
            "warning: `{place}` holds no build cache: nothing is taken from it"
        )));
    }
}

#[async_trait]
impl CacheBackend for CacheReader {
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError> {
        match self.state().await? {
            State::Keyed => in_time(self.keyed.lookup(key)).await,
            State::Inline(records) => Ok(records.get(key).cloned()),
            State::Unknown | State::Failed(_) | State::Empty => Ok(None),
        }
    }

    /// Caches that are read are not written: an export writes when the build is done.
    async fn record(&self, _keys: &[CacheKey], _record: &CacheRecord) -> Result<(), BoxError> {
        Ok(())
    }

    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError> {
        match self.state().await? {
            State::Keyed => in_time(self.keyed.nearest(group)).await,
            _ => Ok(Vec::new()),
        }
    }
}

pub(super) async fn in_time<V>(
    answer: impl Future<Output = Result<V, BoxError>>,
) -> Result<V, BoxError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()).into()),
    }
}
