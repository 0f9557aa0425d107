//! The solver: shared by builds, asked with requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_graph::{Graph, Input};
use tokio_util::sync::CancellationToken;

use crate::{CacheTiers, EventSink, Executor, FlightLock, SolveError};

/// How much may happen at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps that wait for other machines.
    pub network_jobs: usize,
    /// Steps that read, hash and write files.
    pub cpu_jobs: usize,
    /// Steps that run a process (`--jobs`).
    pub run_jobs: usize,
    /// How long a cancelled step may take to wind down before it is dropped.
    pub cancel_grace: Duration,
    /// How long a cache may take to answer before it counts as failed.
    pub cache_timeout: Duration,
}

impl Limits {
    /// So many processes at the same time on a machine with so many processors.
    pub fn new(jobs: usize, processors: usize) -> Self {
        Self {
            network_jobs: 8,
            cpu_jobs: processors.max(1),
            run_jobs: jobs.max(1),
            cancel_grace: Duration::from_secs(10),
            cache_timeout: Duration::from_secs(30),
        }
    }
}

/// What is to be solved, for whom.
pub struct SolveRequest<T> {
    /// Does the work of this build.
    pub executor: Arc<dyn Executor<Tree = T>>,
    /// The build.
    pub graph: Arc<Graph>,
    /// The outputs that are wanted.
    pub targets: Vec<Input>,
    /// Tells projects apart when a miss looks for the step's last run: the Dockerfile's
    /// path, or any name that stays the same from build to build. Part of no key.
    pub scope: String,
    /// Who is told.
    pub events: Arc<dyn EventSink>,
    /// Cancels the solve.
    pub cancel: CancellationToken,
}

impl<T> fmt::Debug for SolveRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SolveRequest")
            .field("vertices", &self.graph.len())
            .field("targets", &self.targets)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Decides what must run. Shared by builds that run at the same time: what they have in
/// common runs once, and they take turns where there is not room for all.
#[derive(Debug)]
pub struct Solver<T> {
    cache: CacheTiers,
    limits: Limits,
    _tree: std::marker::PhantomData<fn() -> T>,
}

impl<T: Clone + Send + Sync + 'static> Solver<T> {
    /// A solver that remembers in `cache`.
    pub fn new(cache: CacheTiers, lock: Arc<dyn FlightLock>, limits: Limits) -> Self {
        let _ = lock;
        Self {
            cache,
            limits,
            _tree: std::marker::PhantomData,
        }
    }

    /// The wanted trees, in the order of the request's targets.
    ///
    /// # Errors
    /// When a step failed, or the solve was cancelled; everything else that ran for this
    /// solve has stopped by then.
    #[expect(clippy::todo, reason = "replaced by the next commit")]
    pub async fn solve(&self, request: SolveRequest<T>) -> Result<Vec<T>, SolveError> {
        let _ = (request, &self.cache, &self.limits);
        todo!("replaced by the next commit")
    }
}
