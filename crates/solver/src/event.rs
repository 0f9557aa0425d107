//! What a solve reports while it goes on.

use std::fmt;
use std::time::Duration;

use longshore_graph::VertexId;
use serde::{Deserialize, Serialize};

use crate::{CacheKey, KeyFields, MissReason};

/// Is told what happens. Called from any task: must not block.
pub trait EventSink: Send + Sync + 'static {
    /// Takes note of `event`.
    fn emit(&self, event: Event);
}

/// Takes note of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn emit(&self, _event: Event) {}
}

/// Something that happened in a solve.
///
/// A vertex that has to be looked at reports one of: `Cached`, or [`Missed`, `Started`]
/// and then one of `Finished`, `Failed`, `Canceled`. Before that, it may report `Waiting`.
/// Sources report no `Missed`. A vertex below one that is cached reports nothing, nor does
/// one whose turn had not come when the build ended; one whose input cannot be read reports
/// `Failed` alone.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The sources are pinned; so many vertices are needed at most.
    Planned {
        /// The vertices that the targets reach.
        vertices: usize,
        /// The keys by which the results of those of them that are no sources can be
        /// found later, in no order: for who copies records to another cache.
        #[serde(skip)]
        definitions: Vec<(VertexId, CacheKey)>,
    },
    /// The work of a vertex begins.
    Started {
        /// Which.
        vertex: VertexId,
    },
    /// The work of a vertex is being done for another vertex or build: waits for that.
    Waiting {
        /// Which.
        vertex: VertexId,
    },
    /// Output of a step.
    Log {
        /// Whose.
        vertex: VertexId,
        /// Which of its streams.
        stream: LogStream,
        /// What it wrote, as it came.
        #[serde(serialize_with = "lossy_text")]
        bytes: Vec<u8>,
    },
    /// How far a step has come.
    Progress {
        /// Whose.
        vertex: VertexId,
        /// Of what: a layer's digest, `context`.
        what: String,
        /// How many bytes are done.
        current: u64,
        /// Of how many, where that is known.
        total: Option<u64>,
    },
    /// There is a result already.
    Cached {
        /// Of which vertex.
        vertex: VertexId,
        /// The key that was asked for.
        key: CacheKey,
        /// Which of its keys that is.
        by: HitKey,
        /// Who had it.
        from: Origin,
    },
    /// There is no result yet, so the vertex has to run.
    Missed {
        /// Which.
        vertex: VertexId,
        /// Its content key.
        key: CacheKey,
        /// Why.
        reason: MissReason,
        /// What the key is made of.
        fields: KeyFields,
    },
    /// The work of a vertex is done.
    Finished {
        /// Which.
        vertex: VertexId,
        /// How long it took.
        #[serde(serialize_with = "milliseconds", rename = "duration_ms")]
        duration: Duration,
    },
    /// The work of a vertex failed; so does the build.
    Failed {
        /// Which.
        vertex: VertexId,
        /// Why, with its causes.
        error: String,
    },
    /// The result of a vertex is no longer wanted.
    Canceled {
        /// Which.
        vertex: VertexId,
    },
    /// A cache failed; its answers counted as misses. Once per cache, at the end.
    CacheTrouble {
        /// Which cache.
        cache: Origin,
        /// What it was first asked to do when it failed.
        operation: &'static str,
        /// How it failed first.
        error: String,
        /// How often it failed.
        failures: u64,
    },
    /// Something that the build's author should know.
    Warning {
        /// Which vertex it is about.
        vertex: Option<VertexId>,
        /// What.
        message: String,
    },
}

/// Which stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// Which key of a vertex had a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HitKey {
    /// The key that is known before the inputs are.
    Definition,
    /// The key that follows from the inputs' content.
    Content,
}

/// Who had a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "where", content = "name", rename_all = "snake_case")]
pub enum Origin {
    /// This machine's cache.
    Local,
    /// A cache elsewhere, by its name.
    Remote(String),
    /// A build that runs, or the same build for another vertex.
    InFlight,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote(name) => write!(f, "remote `{name}`"),
            Self::InFlight => f.write_str("in flight"),
        }
    }
}

fn lossy_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn milliseconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
