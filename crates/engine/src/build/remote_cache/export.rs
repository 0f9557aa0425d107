//! Writes a build's records to a cache, when the build is done.
//!
//! The records are those of this machine's cache: also those of steps that did not run or
//! were not even looked at, because the build was warm. Blobs come before the records that
//! name them; what is there already is not sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use longshore_graph::VertexId;
use longshore_oci::{Descriptor, Digest, LayerId};
use longshore_solver::{
    BoxError, CacheBackend as _, CacheKey, CacheRecord, Event, EventSink, Group, HitKey, Trace,
};

use super::keyed::KeyedCache;
use super::mount_import::MountImport;
use super::place::Place;
use super::portable::{self, PortableBlob};
use super::{CacheMode, CachePlace, CacheTarget, document};
use crate::Engine;
use crate::build::cache::StoredCache;
use crate::build::cache_mount::MountSpec;
use crate::layer::{BlobForm, BlobPlace, CachedForm, Epoch, Layer, LayerKey};
use crate::progress::{ProgressEvent, ProgressSink};
use crate::tree::{RecordedKey, RecordedLayer};

/// How many layers are compressed at the same time; each uses several threads.
const COMPRESSED_AT_ONCE: usize = 2;
/// How many requests wait for answers at the same time.
const REQUESTS_AT_ONCE: usize = 8;

/// Passes a solve's events on, and keeps by which keys its steps can be found.
pub(crate) struct Plans {
    sink: Arc<dyn EventSink>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    definitions: Vec<(VertexId, CacheKey)>,
    contents: HashMap<VertexId, CacheKey>,
    /// The content keys of the steps that had to run.
    missed: HashSet<CacheKey>,
}

impl Plans {
    pub(crate) fn new(sink: Arc<dyn EventSink>) -> Self {
        Self {
            sink,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a step that one of these keys finds had to run: no cache had all of it.
    fn has_run(&self, keys: &[CacheKey]) -> bool {
        let known = self.known();
        keys.iter().any(|key| known.missed.contains(key))
    }

    /// What this machine's cache has of the steps, or of some of them: each record with
    /// all its keys, by the steps' places in the build.
    pub(crate) async fn records(
        &self,
        engine: &Engine,
        only: Option<&HashSet<VertexId>>,
    ) -> Result<Vec<(Vec<CacheKey>, CacheRecord)>, BoxError> {
        let steps: Vec<(VertexId, CacheKey, Option<CacheKey>)> = {
            let known = self.known();
            let content = |vertex| known.contents.get(vertex).copied();
            let steps = known.definitions.iter();
            steps
                .filter(|(vertex, _)| only.is_none_or(|only| only.contains(vertex)))
                .map(|(vertex, definition)| (*vertex, *definition, content(vertex)))
                .collect()
        };
        let cache = StoredCache::new(engine.root().clone());
        let mut found = Vec::new();
        for (_, definition, content) in steps {
            let mut record = readable(&cache, &definition).await;
            if record.is_none()
                && let Some(content) = content
            {
                record = readable(&cache, &content).await;
            }
            let Some(record) = record else { continue };
            let mut keys = vec![definition, record.trace.key];
            keys.dedup();
            found.push((keys, record));
        }
        Ok(found)
    }
}

/// A record, unless it cannot be read: the others are exported all the same.
async fn readable(cache: &StoredCache, key: &CacheKey) -> Option<CacheRecord> {
    let found = cache.lookup(key).await;
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, %key, "a record that cannot be read is not exported");
        None
    })
}

impl EventSink for Plans {
    fn emit(&self, event: Event) {
        if let Event::Missed { key, .. } = &event {
            self.known().missed.insert(*key);
        }
        match &event {
            Event::Planned { definitions, .. } => {
                self.known().definitions.clone_from(definitions);
            }
            Event::Missed { vertex, key, .. }
            | Event::Cached {
                vertex,
                key,
                by: HitKey::Content,
                ..
            } => {
                self.known().contents.insert(*vertex, *key);
            }
            _ => {}
        }
        self.sink.emit(event);
    }
}

/// An export to one cache.
pub(crate) struct CacheExport<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) plans: &'a Plans,
    /// The steps whose layers are in the result.
    pub(crate) chain: &'a HashSet<VertexId>,
    pub(crate) lease: &'a longshore_content::Lease,
    pub(crate) progress: &'a dyn ProgressSink,
    /// The cache mounts of the Dockerfile's steps.
    pub(crate) mounts: &'a [MountSpec],
    /// What of them could not be taken from elsewhere.
    pub(crate) import: &'a MountImport,
    /// The time of what is new in a reproducible build: layers are sent as its image has them.
    pub(crate) epoch: Option<Epoch>,
}

/// A record that is to stand under names.
struct Entry {
    names: Vec<String>,
    /// Whether its step had to run: a record that is there just so may have lost its blobs.
    has_run: bool,
    bytes: Vec<u8>,
    blobs: Vec<Descriptor>,
    record: CacheRecord,
}

/// The blob of a layer, and who else has it.
#[derive(Clone)]
struct Source {
    blob: PortableBlob,
    /// What is later in the blob was made by the layer's step, seconds since 1970.
    created_s: i64,
    /// A place that has the blob; the store has it where this is not the cache itself.
    place: Option<BlobPlace>,
}

impl CacheExport<'_> {
    /// Writes what `target` asks for to `place`.
    ///
    /// # Errors
    /// When the cache cannot be written, or a record of the build could not be sent; the
    /// others were.
    pub(crate) async fn run(
        &self,
        target: &CacheTarget,
        place: &CachePlace,
    ) -> Result<(), BoxError> {
        let client = self.engine.layers().cache_client().clone();
        let cache = KeyedCache::new(Place::new(client, place));
        cache.prepare().await?;
        cache.place.mark().await?;
        let only = (target.mode == CacheMode::Min).then_some(self.chain);
        let records = self.plans.records(self.engine, only).await?;
        let (sources, mut failed) = self.sources(&records, target, &cache).await?;
        let entries = entries(records, &sources, self.plans)?;
        let all = entries.len();
        let to_send = self.entries_to_send(&cache, entries).await?;
        let sent = self.send_blobs(&cache, &to_send, &sources).await?;
        failed = failed.or(self.send_records(&cache, &to_send).await);
        let new = to_send.iter().filter(|entry| !entry.names.is_empty());
        let mut said = format!(
            "cache exported to {place}: {} of {all} records new, {sent} layers",
            new.count()
        );
        if let Some(max_bytes) = target.mounts_max_bytes {
            let mounts = self.send_mounts(&cache, target.compression, max_bytes);
            let (mounts, failed_mount) = mounts.await;
            said = format!("{said}, {mounts}");
            failed = failed.or(failed_mount);
        }
        self.progress.emit(ProgressEvent::Note(said));
        failed.map_or(Ok(()), Err)
    }

    /// A blob of each layer that a step made. A layer that is not here any more is left out,
    /// with the records that name it; so is one whose blob cannot be made, and the first
    /// reason is returned beside the rest.
    async fn sources(
        &self,
        records: &[(Vec<CacheKey>, CacheRecord)],
        target: &CacheTarget,
        cache: &KeyedCache,
    ) -> Result<(HashMap<LayerId, Source>, Option<BoxError>), BoxError> {
        let mut layers: BTreeMap<LayerId, RecordedLayer> = BTreeMap::new();
        for (_, record) in records {
            for layer in portable::layers_of(record)?.into_iter().flatten() {
                if let RecordedKey::Made(id) = layer.key {
                    layers.insert(id, layer);
                }
            }
        }
        let own = cache.place.of_blobs();
        let made: Vec<(LayerId, Result<Option<Source>, BoxError>)> = stream::iter(layers)
            .map(|(id, layer)| {
                let own = &own;
                async move { (id, self.source(&layer, target, own).await) }
            })
            .buffer_unordered(COMPRESSED_AT_ONCE)
            .collect()
            .await;
        let (mut sources, mut failed) = (HashMap::new(), None);
        for (id, source) in made {
            match source {
                Ok(source) => {
                    sources.extend(source.map(|source| (id, source)));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Ok((sources, failed))
    }

    async fn source(
        &self,
        recorded: &RecordedLayer,
        target: &CacheTarget,
        own: &BlobPlace,
    ) -> Result<Option<Source>, BoxError> {
        let remote = recorded.remote.clone();
        if let Some(remote) = &remote
            && let Some(form) = remote.cached
            && remote.place == *own
            && (!target.force_compression || form.compression == target.compression)
        {
            // It came from there: it is not fetched to be sent back.
            return Ok(Some(Source {
                blob: PortableBlob {
                    descriptor: remote.descriptor.clone(),
                    form,
                },
                created_s: recorded.created_s,
                place: Some(remote.place.clone()),
            }));
        }
        let store = self.engine.layers();
        let layer = self.layer(recorded);
        // Of a copy that nothing needed as files or as a blob, an earlier build kept none.
        if !store.is_available(&layer)? {
            return Ok(None);
        }
        let form = BlobForm {
            compression: target.compression,
            force: false,
            epoch: self.epoch,
        };
        let blob = store.blob_as(&layer, form).await?;
        let digest = blob.descriptor.digest;
        self.lease.add_blobs([&digest])?;
        let created_s = match self.epoch {
            // What has the very epoch was made by the step.
            Some(epoch) if store.is_dated(&layer, &blob, epoch.seconds)? => epoch.seconds - 1,
            _ => layer.created.as_second(),
        };
        Ok(Some(Source {
            blob: PortableBlob {
                descriptor: blob.descriptor,
                form: CachedForm {
                    diff_id: blob.diff_id,
                    compression: target.compression,
                },
            },
            created_s,
            // Nobody else has what was compressed anew.
            place: remote
                .filter(|remote| remote.descriptor.digest == digest)
                .map(|remote| remote.place),
        }))
    }

    fn layer(&self, recorded: &RecordedLayer) -> Arc<Layer> {
        let created = Timestamp::from_second(recorded.created_s).unwrap_or(Timestamp::UNIX_EPOCH);
        let key = LayerKey::from(recorded.key.clone());
        let layer = self.engine.layers().recorded(key, created);
        if let Some(remote) = recorded.remote.clone()
            && layer.remote().is_none()
        {
            layer.set_remote(remote);
        }
        layer
    }

    /// The entries that the cache does not have just so, or not for certain with their blobs.
    async fn entries_to_send(
        &self,
        cache: &KeyedCache,
        entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, BoxError> {
        let asked = stream::iter(entries).map(|mut entry| async move {
            let mut missing = Vec::new();
            for name in std::mem::take(&mut entry.names) {
                if !cache.place.has(&name, &entry.bytes).await? {
                    missing.push(name);
                }
            }
            entry.names = missing;
            Ok::<_, BoxError>(entry)
        });
        let asked: Vec<Entry> = asked
            .buffer_unordered(REQUESTS_AT_ONCE)
            .try_collect()
            .await?;
        let to_send = asked.into_iter();
        Ok(to_send
            .filter(|entry| !entry.names.is_empty() || entry.has_run)
            .collect())
    }

    async fn send_blobs(
        &self,
        cache: &KeyedCache,
        entries: &[Entry],
        sources: &HashMap<LayerId, Source>,
    ) -> Result<usize, BoxError> {
        let needed: BTreeMap<Digest, &Descriptor> = entries
            .iter()
            .flat_map(|entry| &entry.blobs)
            .map(|blob| (blob.digest, blob))
            .collect();
        let places: HashMap<Digest, Option<&BlobPlace>> = sources
            .values()
            .map(|source| (source.blob.descriptor.digest, source.place.as_ref()))
            .collect();
        let own = cache.place.of_blobs();
        let from = |digest: &Digest| places.get(digest).copied().flatten();
        let to_send: Vec<(&Descriptor, Option<&BlobPlace>)> = needed
            .values()
            .map(|blob| (*blob, from(&blob.digest)))
            .filter(|(_, from)| *from != Some(&own))
            .collect();
        let count = to_send.len();
        stream::iter(to_send)
            .map(|(blob, from)| {
                let stored = self.engine.root().blobs().blob_path(&blob.digest);
                cache.place.put_blob(stored, blob, from)
            })
            .buffer_unordered(REQUESTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(count)
    }

    /// Sends records, then their traces; the first failure.
    async fn send_records(&self, cache: &KeyedCache, entries: &[Entry]) -> Option<BoxError> {
        let sent: Vec<Result<(), BoxError>> = stream::iter(entries)
            .map(|entry| async move {
                for name in &entry.names {
                    cache.place.put(name, entry.bytes.clone()).await?;
                }
                Ok(())
            })
            .buffer_unordered(REQUESTS_AT_ONCE)
            .collect()
            .await;
        let failed = sent.into_iter().find_map(Result::err);
        failed.or(self.send_traces(cache, entries).await)
    }

    /// Each group is read and written once, whichever steps are in it.
    async fn send_traces(&self, cache: &KeyedCache, entries: &[Entry]) -> Option<BoxError> {
        let mut groups: BTreeMap<Group, Vec<&Trace>> = BTreeMap::new();
        for trace in entries.iter().map(|entry| &entry.record.trace) {
            for group in &trace.groups {
                groups.entry(*group).or_default().push(trace);
            }
        }
        let sent: Vec<Result<(), BoxError>> = stream::iter(groups)
            .map(|(group, traces)| async move { cache.add_traces(&group, &traces).await })
            .buffer_unordered(REQUESTS_AT_ONCE)
            .collect()
            .await;
        sent.into_iter().find_map(Result::err)
    }
}

/// The documents of the records whose layers all have a blob.
fn entries(
    records: Vec<(Vec<CacheKey>, CacheRecord)>,
    sources: &HashMap<LayerId, Source>,
    plans: &Plans,
) -> Result<Vec<Entry>, BoxError> {
    let blob_of = |key: &RecordedKey| match key {
        RecordedKey::Made(id) => {
            let source = sources.get(id)?;
            Some((source.blob.clone(), source.created_s))
        }
        RecordedKey::Image { .. } => None,
    };
    let mut entries = Vec::with_capacity(records.len());
    for (keys, record) in records {
        let Some(portable) = portable::export(&record, blob_of)? else {
            continue;
        };
        let blobs = blobs_of(&record, &blob_of)?;
        entries.push(Entry {
            has_run: plans.has_run(&keys),
            names: keys.iter().map(document::record_name).collect(),
            bytes: document::record(&portable, blobs.clone())?,
            blobs,
            record: portable,
        });
    }
    Ok(entries)
}

/// The blobs that a record needs, each once.
fn blobs_of(
    record: &CacheRecord,
    blob_of: &impl Fn(&RecordedKey) -> Option<(PortableBlob, i64)>,
) -> Result<Vec<Descriptor>, BoxError> {
    let mut blobs: Vec<Descriptor> = Vec::new();
    for layer in portable::layers_of(record)?.into_iter().flatten() {
        if let Some((blob, _)) = blob_of(&layer.key)
            && !blobs
                .iter()
                .any(|known| known.digest == blob.descriptor.digest)
        {
            blobs.push(blob.descriptor);
        }
    }
    Ok(blobs)
}
