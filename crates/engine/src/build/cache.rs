//! The solver's cache in the state root's database.

use std::collections::BTreeSet;
use std::time::SystemTime;

use async_trait::async_trait;
use longshore_content::StateRoot;
use longshore_content::cache_records::{CacheRecord as Row, CostQuestion};
use longshore_oci::LayerId;
use longshore_solver::{
    BoxError, CacheBackend, CacheKey, CacheRecord, Group, NEAREST_MAX, PastStep, Trace,
};
use tokio::task::spawn_blocking;

use crate::layer::LayerKey;
use crate::tree::RecordedLayer;

/// Remembers results in the state root, for every process that uses it.
#[derive(Debug)]
pub(crate) struct StoredCache {
    root: StateRoot,
}

impl StoredCache {
    pub(crate) fn new(root: StateRoot) -> Self {
        Self { root }
    }
}

#[async_trait]
impl CacheBackend for StoredCache {
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError> {
        let (records, key) = (self.root.cache_records(), key.0);
        let row = spawn_blocking(move || {
            let row = records.get(&key)?;
            if row.is_some() {
                records.touch(&[key])?;
            }
            Ok::<_, BoxError>(row)
        })
        .await??;
        row.map(|row| CacheRecord::from_bytes(&row.record).map_err(Into::into))
            .transpose()
    }

    async fn record(&self, keys: &[CacheKey], record: &CacheRecord) -> Result<(), BoxError> {
        let rows = rows(keys, record)?;
        let records = self.root.cache_records();
        Ok(spawn_blocking(move || records.put(&rows)).await??)
    }

    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError> {
        let (records, group) = (self.root.cache_records(), group.to_string());
        let rows = spawn_blocking(move || records.in_group(&group, NEAREST_MAX)).await??;
        let mut traces: Vec<Trace> = Vec::new();
        for row in rows {
            let trace = CacheRecord::from_bytes(&row.record)?.trace;
            if !traces.iter().any(|known| known.key == trace.key) {
                traces.push(trace);
            }
        }
        traces.sort_by_key(|trace| std::cmp::Reverse(trace.created_s));
        Ok(traces)
    }

    async fn costs(&self, steps: &[PastStep]) -> Result<Vec<Option<u64>>, BoxError> {
        let question = |step: &PastStep| CostQuestion {
            key: step.key.0,
            groupings: step.groups.iter().map(ToString::to_string).collect(),
        };
        let questions: Vec<_> = steps.iter().map(question).collect();
        let records = self.root.cache_records();
        Ok(spawn_blocking(move || records.costs_ms(&questions)).await??)
    }
}

/// A row for each key. A step has as many groups as keys at the most, so that each group
/// finds the record through one of them.
fn rows(keys: &[CacheKey], record: &CacheRecord) -> Result<Vec<Row>, BoxError> {
    let bytes = record.to_bytes();
    let layers = layers_of(record)?;
    let identity: Vec<u8> = record
        .outputs
        .iter()
        .flat_map(|output| output.identity.0)
        .collect();
    let fields = serde_json::to_string(&record.trace.fields)?;
    let now = SystemTime::now();
    let row = |(at, key): (usize, &CacheKey)| Row {
        key: key.0,
        record: bytes.clone(),
        identity: identity.clone(),
        fields: fields.clone(),
        grouping: record
            .trace
            .groups
            .get(at)
            .map(ToString::to_string)
            .unwrap_or_default(),
        cost_ms: record.cost_ms,
        layers: layers.iter().copied().collect(),
        blobs: Vec::new(),
        created: now,
        last_used: now,
    };
    Ok(keys.iter().enumerate().map(row).collect())
}

fn layers_of(record: &CacheRecord) -> Result<BTreeSet<LayerId>, BoxError> {
    let mut layers = BTreeSet::new();
    for output in &record.outputs {
        let recorded: Vec<RecordedLayer> = serde_json::from_slice(&output.encoded)?;
        layers.extend(
            recorded
                .into_iter()
                .map(|layer| LayerKey::from(layer.key).record_id()),
        );
    }
    Ok(layers)
}
