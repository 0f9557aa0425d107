//! What a cache remembers of a step, and what the solver needs of a cache.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{BoxError, CacheKey, ContentDigest, Group, KeyFields};

/// How many traces of a group a cache keeps: enough for a step that is built for several
/// platforms or branches in turn to find the one that it resembles most.
pub const NEAREST_MAX: usize = 8;

/// The longest encoded record that is read: one step's fields, paths and outputs.
pub const RECORD_BYTES_MAX: usize = 8 << 20;

/// Remembers results by key.
///
/// Contract: `record` replaces what stood under the keys, atomically and durably once it
/// returned; what is looked up is what was recorded last, or nothing, never half of it.
/// Records may be forgotten at any time. Errors never fail a build.
#[async_trait]
pub trait CacheBackend: Send + Sync + 'static {
    /// The record that stands under `key`.
    ///
    /// # Errors
    /// When that cannot be found out; counts as a miss.
    async fn lookup(&self, key: &CacheKey) -> Result<Option<CacheRecord>, BoxError>;

    /// Lets `record` stand under each of `keys`, and its trace in each of its groups.
    ///
    /// # Errors
    /// When nothing could be recorded.
    async fn record(&self, keys: &[CacheKey], record: &CacheRecord) -> Result<(), BoxError>;

    /// The latest traces of `group`, newest first, at most [`NEAREST_MAX`]. A cache may
    /// keep traces for longer than records.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn nearest(&self, group: &Group) -> Result<Vec<Trace>, BoxError>;

    /// How long each of `steps` took, in milliseconds, as far as that is known: by the record
    /// under its key, else by the last one in the first of its groups that has any. This
    /// machine's cache is asked, once in a solve at the most, when steps have to wait for one
    /// another.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn costs(&self, steps: &[PastStep]) -> Result<Vec<Option<u64>>, BoxError> {
        Ok(vec![None; steps.len()])
    }
}

/// How to find what a step took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastStep {
    /// Its definition key.
    pub key: CacheKey,
    /// Where similar ones are found, the most similar first.
    pub groups: Vec<Group>,
}

/// A step that ran: what it was and what came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// What it was.
    pub trace: Trace,
    /// What came out, one per output.
    pub outputs: Vec<RecordedOutput>,
    /// How long it took.
    pub cost_ms: u64,
}

/// What a step was when it ran: enough to tell later why another one is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The step's display name.
    pub step: String,
    /// The content key that it ran under.
    pub key: CacheKey,
    /// Where to look for it when a similar step misses.
    pub groups: Vec<Group>,
    /// What the key is made of.
    pub fields: KeyFields,
    /// For each input, the files that were selected of it, as far as they are known.
    pub paths: Vec<RecordedPaths>,
    /// When it ran, in seconds since 1970.
    pub created_s: u64,
}

/// The files that were selected of an input; empty where they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPaths {
    /// How many components deep single files are told apart; `None` when all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// The files, by path.
    pub entries: Vec<RecordedPath>,
}

/// A file, or a directory (with a slash at the end) with all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPath {
    /// From the tree's root.
    pub path: String,
    /// The first eight bytes of its digest: enough to see a change, too few to name content.
    pub mark: u64,
    /// Marks of single aspects of a file, as [`crate::PathAspect::ALL`] has them; unknown of a
    /// directory with all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aspects: Option<[u32; 4]>,
}

/// One output of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedOutput {
    /// The identity of the result.
    pub identity: ContentDigest,
    /// Where to find it: the executor's own words.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub encoded: Vec<u8>,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// More bytes than any record has.
    #[error("a cache record of {size_bytes} bytes is longer than {RECORD_BYTES_MAX}")]
    TooLong {
        /// How many there are.
        size_bytes: usize,
    },
    /// Not the JSON of a record of this version.
    #[error("not a cache record")]
    Format(#[source] serde_json::Error),
}

impl CacheRecord {
    /// The record as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always serialise")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// When `bytes` are too many or no record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong {
                size_bytes: bytes.len(),
            });
        }
        serde_json::from_slice(bytes).map_err(RecordError::Format)
    }

    /// The record without values, fit to leave the machine: build arguments, commands
    /// and file names stay here, digests go.
    pub fn redacted(&self) -> Self {
        let mut record = self.clone();
        record.trace.step = String::new();
        record.trace.fields = record.trace.fields.redacted();
        record.trace.paths.clear();
        record
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD
        .decode(text.as_bytes())
        .map_err(serde::de::Error::custom)
}
