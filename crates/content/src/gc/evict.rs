//! What of the build cache is worth least: which results and directories to let go first.
//!
//! A result (the records of one step's outcome) frees the layers that no other result needs.
//! So what other results stand on goes after them: it frees nothing before. A layer's
//! directory whose blob is here can be unpacked again, which is cheap; it is on offer apart.
//!
//! Worth is the time that it takes to make again, for each byte, less the longer ago it was
//! last of use. A result was last of use when the latest of those that stand on it was.
//!
//! This is a plan on one look at the database. Leases are asked again when things go.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use longshore_oci::{Digest, LayerId};
use rusqlite::{Connection, params};

use crate::cache_records::Key;
use crate::database::{from_sql, parse};
use crate::leases::KIND_LAYER;
use crate::time::{from_ms, now_ms};
use crate::{ContentError, StateRoot, layers};

/// A layer is unpacked, and a blob read, with so many bytes in a millisecond.
const UNPACKED_BYTES_PER_MS: u64 = 200_000;
/// A file comes from another machine with so many bytes in a millisecond.
const FETCHED_BYTES_PER_MS: u64 = 10_000;
/// What was of use within this time counts as of use so long ago.
const RECENT: Duration = Duration::from_millis(100);

/// What can be let go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheItem {
    /// A step's outcome: the keys of its records.
    Result(Vec<Key>),
    /// A layer's directory; its blob stays.
    Directory(LayerId),
    /// Something beside the database that the caller offered, by its name.
    Other(String),
}

/// Something to let go, and why it is worth what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What.
    pub item: CacheItem,
    /// What that frees, if all that was planned before it goes too.
    pub bytes: u64,
    /// What it takes to make it again.
    pub cost_ms: u64,
    /// When it was last of use.
    pub last_used: SystemTime,
}

/// What the build cache takes: bytes that no image, registry repository or push needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// How many layers' directories.
    pub directories: u64,
    /// Their bytes.
    pub directory_bytes: u64,
}

impl CacheUsage {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.blob_bytes + self.directory_bytes
    }
}

/// Blobs that names keep, with all that they need: not the build cache's. `?1` is since when a
/// push may still be going on.
const KEPT: &str = "WITH RECURSIVE kept(digest) AS (
        SELECT digest FROM images UNION SELECT digest FROM manifests
        UNION SELECT digest FROM blob_links WHERE touched_at >= ?1
        UNION SELECT child FROM edges JOIN kept ON edges.parent = kept.digest)";

impl StateRoot {
    /// What the build cache takes.
    ///
    /// # Errors
    /// When the database fails.
    pub fn cache_usage(&self, push_grace: Duration) -> Result<CacheUsage, ContentError> {
        let pushed_ms = now_ms().saturating_sub(crate::time::duration_ms(push_grace));
        self.db().read("measure the build cache", |connection| {
            let sql = format!(
                "{KEPT} SELECT count(*), coalesce(sum(size), 0) FROM blobs
                 WHERE digest NOT IN kept"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let (blobs, blob_bytes) =
                statement.query_row([pushed_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut statement = connection.prepare_cached(
                "SELECT count(*), coalesce(sum(snapshot_bytes), 0) FROM layers
                 WHERE snapshot_id IS NOT NULL",
            )?;
            let (directories, directory_bytes) =
                statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(CacheUsage {
                blobs: from_sql(blobs),
                blob_bytes: from_sql(blob_bytes),
                directories: from_sql(directories),
                directory_bytes: from_sql(directory_bytes),
            })
        })
    }

    /// What to let go until `free_bytes` are free, the least valuable first; all that there is
    /// where it is not enough. `others` are on offer too; only what `is_meant` goes.
    ///
    /// # Errors
    /// When the database fails.
    pub fn plan_eviction(
        &self,
        free_bytes: u64,
        others: &[Candidate],
        push_grace: Duration,
        is_meant: &dyn Fn(&Candidate) -> bool,
    ) -> Result<Vec<Candidate>, ContentError> {
        let pushed_ms = now_ms().saturating_sub(crate::time::duration_ms(push_grace));
        let mut offer = self
            .db()
            .read("look for what is worth least", |connection| {
                Offer::read(connection, pushed_ms)
            })?;
        Ok(offer.choose(free_bytes, others, is_meant))
    }
}

/// A layer that results need.
#[derive(Debug)]
struct OfferedLayer {
    /// Bytes that go with the row: of its blobs, where nothing else needs them.
    blob_bytes: u64,
    directory_bytes: u64,
    /// The directory can be made again from a blob that is here.
    is_unpackable: bool,
    /// It stays, whatever is let go.
    is_held: bool,
    last_used: SystemTime,
    /// The results that need it and were not let go.
    needed_by: HashSet<usize>,
}

/// The records of one outcome.
#[derive(Debug)]
struct OfferedResult {
    keys: Vec<Key>,
    layers: HashSet<LayerId>,
    own_blob_bytes: u64,
    cost_ms: u64,
    last_used: SystemTime,
    is_gone: bool,
}

#[derive(Debug, Default)]
struct Offer {
    layers: BTreeMap<LayerId, OfferedLayer>,
    results: Vec<OfferedResult>,
}

impl Offer {
    fn read(connection: &Connection, pushed_ms: i64) -> Result<Self, ContentError> {
        let free = free_blobs(connection, pushed_ms)?;
        let held = held_layers(connection)?;
        let mut offer = Self::default();
        for record in layers::select(connection, "WHERE ?1 = ''", "")? {
            let id = record.layer_id;
            let forms = forms_of(connection, &record)?;
            let is_unpackable = is_stored(connection, record.blob.as_ref())?;
            offer.layers.insert(
                id,
                OfferedLayer {
                    // The row stays, with all that it names, while an image needs its blob.
                    blob_bytes: forms.iter().filter_map(|blob| free.get(blob)).sum(),
                    directory_bytes: record.snapshot_bytes,
                    is_unpackable: is_unpackable && record.snapshot_id.is_some(),
                    is_held: held.contains(&id),
                    last_used: record.last_used,
                    needed_by: HashSet::new(),
                },
            );
        }
        offer.read_results(connection, &free)?;
        offer.inherit_use();
        Ok(offer)
    }

    fn read_results(
        &mut self,
        connection: &Connection,
        free: &HashMap<Digest, u64>,
    ) -> Result<(), ContentError> {
        let mut by_identity: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut statement = connection.prepare_cached(
            "SELECT key, identity, cost_ms, last_used_at FROM cache_records ORDER BY key",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key: Key = row.get(0)?;
            let at = *by_identity.entry(row.get(1)?).or_insert_with(|| {
                self.results.push(OfferedResult {
                    keys: Vec::new(),
                    layers: HashSet::new(),
                    own_blob_bytes: 0,
                    cost_ms: 0,
                    last_used: SystemTime::UNIX_EPOCH,
                    is_gone: false,
                });
                self.results.len() - 1
            });
            let result = &mut self.results[at];
            result.keys.push(key);
            result.cost_ms = result.cost_ms.max(from_sql(row.get(2)?));
            result.last_used = result.last_used.max(from_ms(row.get(3)?));
            for layer in texts(
                connection,
                "SELECT layer_id FROM cache_layers WHERE key = ?1",
                &key,
            )? {
                let id: LayerId = parse("layer id", &layer)?;
                if let Some(layer) = self.layers.get_mut(&id) {
                    layer.needed_by.insert(at);
                    result.layers.insert(id);
                }
            }
            let mut own = 0;
            for digest in texts(
                connection,
                "SELECT digest FROM cache_blobs WHERE key = ?1",
                &key,
            )? {
                own += free.get(&parse("digest", &digest)?).copied().unwrap_or(0);
            }
            result.own_blob_bytes = result.own_blob_bytes.max(own);
        }
        Ok(())
    }

    /// What others stand on was of use when the latest of them was.
    fn inherit_use(&mut self) {
        for layer in self.layers.values_mut() {
            let users = layer.needed_by.iter();
            let latest = users.map(|at| self.results[*at].last_used).max();
            layer.last_used = layer.last_used.max(latest.unwrap_or(layer.last_used));
        }
        let latest_above = |id: &LayerId| {
            let users = self.layers[id].needed_by.iter();
            users.map(|at| self.results[*at].last_used).max()
        };
        // Whoever stands on a result needs all of its layers.
        let inherited: Vec<_> = self
            .results
            .iter()
            .map(|result| result.layers.iter().filter_map(latest_above).min())
            .collect();
        for (result, inherited) in self.results.iter_mut().zip(inherited) {
            result.last_used = result.last_used.max(inherited.unwrap_or(result.last_used));
        }
    }

    fn choose(
        &mut self,
        free_bytes: u64,
        others: &[Candidate],
        is_meant: &dyn Fn(&Candidate) -> bool,
    ) -> Vec<Candidate> {
        let now = SystemTime::now();
        let entry = |candidate, at| is_meant(&candidate).then(|| Entry::new(candidate, at, now));
        let mut queue = BinaryHeap::new();
        let directories = self.layers.iter().filter_map(directory_of);
        let offered = directories.chain(others.iter().cloned());
        queue.extend(offered.filter_map(|candidate| entry(candidate, None)));
        let results = 0..self.results.len();
        queue.extend(results.filter_map(|at| entry(self.result(at)?, Some(at))));
        let (mut chosen, mut freed) = (Vec::new(), 0);
        while freed < free_bytes
            && let Some(Entry { candidate, at, .. }) = queue.pop()
        {
            // What it frees may have changed since it was put on offer.
            let now_offered = match (&candidate.item, at) {
                (_, Some(at)) => self.result(at),
                (CacheItem::Directory(id), None) => {
                    self.layers.get_key_value(id).and_then(directory_of)
                }
                (_, None) => Some(candidate.clone()),
            };
            if now_offered.as_ref() != Some(&candidate) {
                continue;
            }
            freed += candidate.bytes;
            let touched = self.let_go(&candidate.item, at);
            chosen.push(candidate);
            let renewed = touched.into_iter();
            queue.extend(renewed.filter_map(|at| entry(self.result(at)?, Some(at))));
        }
        chosen
    }

    /// The result as it is on offer now; `None` where letting it go frees nothing.
    fn result(&self, at: usize) -> Option<Candidate> {
        let result = &self.results[at];
        let only_here = |id: &&LayerId| {
            let layer = &self.layers[*id];
            !layer.is_held && layer.needed_by.len() == 1
        };
        let of_layer = |id: &LayerId| {
            let layer = &self.layers[id];
            layer.blob_bytes + layer.directory_bytes
        };
        let layers = result.layers.iter().filter(only_here).map(of_layer);
        let bytes = layers.sum::<u64>() + result.own_blob_bytes;
        (bytes > 0 && !result.is_gone).then(|| Candidate {
            item: CacheItem::Result(result.keys.clone()),
            bytes,
            // What was fetched has no cost of its own.
            cost_ms: match result.cost_ms {
                0 => bytes / FETCHED_BYTES_PER_MS + 1,
                known => known,
            },
            last_used: result.last_used,
        })
    }

    /// Notes that it goes; the results that free something else than before.
    fn let_go(&mut self, item: &CacheItem, at: Option<usize>) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        match (item, at) {
            (CacheItem::Directory(id), _) => {
                if let Some(layer) = self.layers.get_mut(id) {
                    layer.directory_bytes = 0;
                    touched.extend(layer.needed_by.iter().copied());
                }
            }
            (_, Some(at)) => {
                self.results[at].is_gone = true;
                for id in std::mem::take(&mut self.results[at].layers) {
                    if let Some(layer) = self.layers.get_mut(&id) {
                        layer.needed_by.remove(&at);
                        if layer.needed_by.is_empty() {
                            // It goes with the last result, and all that it is.
                            layer.directory_bytes = 0;
                        }
                        touched.extend(layer.needed_by.iter().copied());
                    }
                }
            }
            _ => {}
        }
        touched
    }
}

/// A layer's directory, where letting it go frees something and loses nothing.
fn directory_of((id, layer): (&LayerId, &OfferedLayer)) -> Option<Candidate> {
    let can_go = layer.is_unpackable && !layer.is_held && layer.directory_bytes > 0;
    can_go.then(|| Candidate {
        item: CacheItem::Directory(*id),
        bytes: layer.directory_bytes,
        cost_ms: layer.directory_bytes / UNPACKED_BYTES_PER_MS + 1,
        last_used: layer.last_used,
    })
}

/// A candidate in the queue: the least valuable comes out first.
struct Entry {
    candidate: Candidate,
    /// Which result it is.
    at: Option<usize>,
    worth: f64,
}

impl Entry {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes and times are compared roughly"
    )]
    fn new(candidate: Candidate, at: Option<usize>, now: SystemTime) -> Self {
        let age = now.duration_since(candidate.last_used).unwrap_or_default();
        let worth = candidate.cost_ms.max(1) as f64
            / candidate.bytes.max(1) as f64
            / age.max(RECENT).as_secs_f64();
        Self {
            candidate,
            at,
            worth,
        }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let worth = other.worth.total_cmp(&self.worth);
        worth.then_with(|| other.candidate.item.cmp(&self.candidate.item))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// The sizes of the blobs that only the build cache needs, and nobody has leased.
fn free_blobs(
    connection: &Connection,
    pushed_ms: i64,
) -> Result<HashMap<Digest, u64>, ContentError> {
    let sql = format!(
        "{KEPT} SELECT digest, size FROM blobs WHERE digest NOT IN kept
         AND NOT EXISTS (SELECT 1 FROM leases WHERE kind IN ('blob', 'placing')
            AND target = digest AND expires_at > ?2)"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![pushed_ms, now_ms()])?;
    let mut free = HashMap::new();
    while let Some(row) = rows.next()? {
        let digest = parse("digest", &row.get::<_, String>(0)?)?;
        free.insert(digest, from_sql(row.get(1)?));
    }
    Ok(free)
}

fn held_layers(connection: &Connection) -> Result<HashSet<LayerId>, ContentError> {
    let mut statement = connection
        .prepare_cached("SELECT target FROM leases WHERE kind = ?1 AND expires_at > ?2")?;
    let held = statement.query_map(params![KIND_LAYER, now_ms()], |row| row.get::<_, String>(0))?;
    held.map(|text| parse("layer id", &text?)).collect()
}

/// All blobs that hold the layer or its index.
fn forms_of(
    connection: &Connection,
    record: &layers::LayerRecord,
) -> Result<HashSet<Digest>, ContentError> {
    let mut forms: HashSet<Digest> = record.blob.into_iter().chain(record.index_blob).collect();
    if let Some(diff_id) = &record.diff_id {
        let mut statement =
            connection.prepare_cached("SELECT blob FROM layer_blobs WHERE diff_id = ?1")?;
        let blobs = statement.query_map([diff_id.to_string()], |row| row.get::<_, String>(0))?;
        for blob in blobs {
            forms.insert(parse("digest", &blob?)?);
        }
    }
    Ok(forms)
}

fn is_stored(connection: &Connection, blob: Option<&Digest>) -> Result<bool, ContentError> {
    let Some(blob) = blob else { return Ok(false) };
    let mut statement =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?1)")?;
    Ok(statement.query_row([blob.to_string()], |row| row.get(0))?)
}

fn texts(connection: &Connection, sql: &str, key: &Key) -> Result<Vec<String>, ContentError> {
    let mut statement = connection.prepare_cached(sql)?;
    let texts = statement.query_map([key.as_slice()], |row| row.get(0))?;
    Ok(texts.collect::<Result<Vec<_>, _>>()?)
}
