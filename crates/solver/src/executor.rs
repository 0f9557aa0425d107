//! What the solver needs of the one who does the work.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_graph::{Selection, Source, Vertex, VertexId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{ContentDigest, Event, EventSink, LogStream, Origin};

/// Any error of an executor or a cache; the solver keeps it as the source of its own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Does the work that the solver decides on.
///
/// Vocabulary: a *tree* is a result: some files, present or merely named. Trees are
/// cheap to clone and stay usable after the build that made them ended, because builds
/// that share a solver share results.
///
/// Contract:
/// - Every future may be dropped at any await point, and leaves nothing behind.
/// - `execute` watches [`StepContext::cancel`]: once it is cancelled, it winds down and
///   returns (an error, or its result if it had just finished). It is dropped when it
///   has not returned after [`crate::Limits::cancel_grace`].
/// - Whatever may change a result and is no part of the graph is in
///   [`key_extras`](Self::key_extras).
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// A result.
    type Tree: Clone + Send + Sync + 'static;

    /// Names what `selection` takes of a source, without fetching it where that is
    /// possible: the digest of the selected files of a local directory, or a pinned
    /// identity (manifest, commit, checksum). Must change whenever the selected content
    /// may have changed; may change more often. Called once per source and selection in
    /// a solve, before anything runs.
    ///
    /// # Errors
    /// When there is no such source, or `selection` names something that is not in it:
    /// the build fails before anything has run.
    async fn pin(
        &self,
        ctx: &StepContext,
        source: &Source,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError>;

    /// Does what `vertex` says to `inputs`, which stand in the order of
    /// [`Vertex::inputs`], and returns [`Vertex::output_count`] trees. A source's tree
    /// may merely name its content. Results must not depend on anything that is neither
    /// in the key nor in the inputs, except for what a build's author accepts (clocks,
    /// networks, cache mounts, secrets).
    ///
    /// # Errors
    /// When the step fails; the build fails with it.
    async fn execute(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[Self::Tree],
    ) -> Result<Vec<Self::Tree>, BoxError>;

    /// The digest of what `selection` takes of `tree`.
    ///
    /// [`Selection::Identity`]: the identity of the whole result; equal for results that
    /// no later step can tell apart (times of modification aside).
    /// [`Selection::Content`]: for each selector in order, the base name of every path
    /// that it matches and, below it, every name, kind, mode, owner, link target,
    /// extended attribute and content that `include` and `exclude` leave; not times, and
    /// not the directories above the match.
    ///
    /// # Errors
    /// When the content cannot be read, or a selected path does not exist.
    async fn digest_of(
        &self,
        ctx: &StepContext,
        tree: &Self::Tree,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError>;

    /// The paths that `selection` takes of `tree`, each with a digest, so that a miss can
    /// name the files that changed. Only what is cheap: empty where it is not known.
    async fn describe(
        &self,
        _ctx: &StepContext,
        _tree: &Self::Tree,
        _selection: &Selection,
    ) -> Vec<PathDigest> {
        Vec::new()
    }

    /// Makes `tree` durable and returns what [`restore`](Self::restore) needs to find it
    /// again; `None` where it cannot be kept, so that the step is not recorded.
    ///
    /// # Errors
    /// When it could not be made durable: the step counts, but is not recorded.
    async fn encode(
        &self,
        ctx: &StepContext,
        tree: &Self::Tree,
    ) -> Result<Option<Vec<u8>>, BoxError>;

    /// Finds a tree by what [`encode`](Self::encode) returned, here or elsewhere (see
    /// `origin`). Lazily: it only makes sure that the content can be had. `None` where it
    /// is gone: the step runs again and its record is replaced.
    ///
    /// # Errors
    /// When that could not be found out; counts as gone, and as trouble with the cache.
    async fn restore(
        &self,
        ctx: &StepContext,
        encoded: &[u8],
        origin: &Origin,
    ) -> Result<Option<Self::Tree>, BoxError>;

    /// What a vertex mostly uses while it runs.
    fn class(&self, vertex: &Vertex) -> ResourceClass;

    /// Settings of the executor's own that change the result of `vertex`, as
    /// (name, value): part of its keys. Say nothing of machines, paths or times.
    fn key_extras(&self, _vertex: &Vertex) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// A path and what is there, as far as it is part of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDigest {
    /// From the root of the tree, without a leading slash.
    pub path: String,
    /// Of its kind, and of what it holds or leads to.
    pub content: ContentDigest,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Of its extended attributes.
    pub attributes: ContentDigest,
}

/// What a step mostly uses, and so which limit it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceClass {
    /// Waits for other machines.
    Network,
    /// Reads, hashes, writes files.
    Cpu,
    /// Runs a process.
    Run,
    /// Costs nothing.
    None,
}

/// A step's view of the build that it runs in.
#[derive(Clone)]
pub struct StepContext {
    /// Which vertex the work is for.
    pub vertex: VertexId,
    /// Cancelled when the result is no longer wanted.
    pub cancel: CancellationToken,
    /// Who is told.
    pub events: Arc<dyn EventSink>,
}

impl StepContext {
    /// Reports output of the step.
    pub fn log(&self, stream: LogStream, bytes: impl Into<Vec<u8>>) {
        self.events.emit(Event::Log {
            vertex: self.vertex,
            stream,
            bytes: bytes.into(),
        });
    }

    /// Reports how far `what` has come.
    pub fn progress(&self, what: impl Into<String>, current: u64, total: Option<u64>) {
        self.events.emit(Event::Progress {
            vertex: self.vertex,
            what: what.into(),
            current,
            total,
        });
    }

    /// Reports something that its author should know.
    pub fn warn(&self, message: impl Into<String>) {
        self.events.emit(Event::Warning {
            vertex: Some(self.vertex),
            message: message.into(),
        });
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("vertex", &self.vertex)
            .field("canceled", &self.cancel.is_cancelled())
            .finish_non_exhaustive()
    }
}
