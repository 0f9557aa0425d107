//! The solver: shared by builds, asked with requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_graph::{Graph, Input};
use tokio_util::sync::CancellationToken;

use crate::build::Build;
use crate::error::with_causes;
use crate::flight::Flights;
use crate::permit::Places;
use crate::plan::{PinFailure, Plan};
use crate::{CacheTiers, Event, EventSink, Executor, FlightLock, SolveError};

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
pub struct Solver<T> {
    shared: Arc<Shared<T>>,
}

/// What the builds of a solver share.
pub(crate) struct Shared<T> {
    pub(crate) cache: CacheTiers,
    pub(crate) lock: Arc<dyn FlightLock>,
    pub(crate) limits: Limits,
    pub(crate) places: Places,
    pub(crate) flights: Arc<Flights<T>>,
}

impl<T: Clone + Send + Sync + 'static> Solver<T> {
    /// A solver that remembers in `cache`.
    pub fn new(cache: CacheTiers, lock: Arc<dyn FlightLock>, limits: Limits) -> Self {
        Self::among(&Places::default(), cache, lock, limits)
    }

    /// A solver whose builds take turns with those of other solvers on the same `places`.
    pub fn among(
        places: &Places,
        cache: CacheTiers,
        lock: Arc<dyn FlightLock>,
        limits: Limits,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                cache,
                lock,
                limits,
                places: places.clone(),
                flights: Flights::new(),
            }),
        }
    }

    /// The wanted trees, in the order of the request's targets. Runs on a tokio runtime
    /// with time enabled.
    ///
    /// # Errors
    /// When a step failed, or the solve was cancelled; everything else that ran for this
    /// solve has stopped by then.
    pub async fn solve(&self, request: SolveRequest<T>) -> Result<Vec<T>, SolveError> {
        check_targets(&request)?;
        let stop = request.cancel.child_token();
        let planned = stop.run_until_cancelled(Box::pin(Plan::new(&request)));
        let plan = match planned.await {
            Some(Ok(plan)) => plan,
            Some(Err(PinFailure { vertex, error })) => {
                let text = with_causes(&error);
                let event = Event::Failed {
                    vertex,
                    error: text,
                };
                request.events.emit(event);
                return Err(error);
            }
            None => return Err(SolveError::Canceled),
        };
        let vertices = plan.len();
        request.events.emit(Event::Planned {
            vertices,
            definitions: plan.definitions(),
        });
        Build::new(self.shared.clone(), request, plan, stop)
            .run()
            .await
    }
}

fn check_targets<T>(request: &SolveRequest<T>) -> Result<(), SolveError> {
    for target in &request.targets {
        let graph = &request.graph;
        let known = target.vertex.index() < graph.len()
            && target.output < graph.vertex(target.vertex).output_count();
        if !known {
            return Err(SolveError::UnknownTarget {
                vertex: target.vertex,
                output: target.output,
            });
        }
    }
    Ok(())
}

impl<T> fmt::Debug for Solver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver")
            .field("cache", &self.shared.cache)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}
