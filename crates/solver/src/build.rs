//! One solve: a task for each vertex that is asked for, and how they all end.
//!
//! A task starts when its vertex's result is first asked for, and publishes it in the
//! vertex's slot; whoever needs it waits there. No task waits within another, so depth
//! costs no stack. The first failure stops the others; the solve returns once every task
//! has ended. When the solve itself is dropped, every task is aborted.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use longshore_graph::VertexId;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::flight::{Flight, Outputs};
use crate::permit::{Permit, Seat, Taken};
use crate::plan::Plan;
use crate::slot::{Publisher, Slot, slot};
use crate::solver::Shared;
use crate::tiers::CacheAccess;
use crate::twins::Twins;
use crate::{Event, SolveError, SolveRequest, StepContext};

/// One solve while it runs.
pub(crate) struct Build<T> {
    pub(crate) shared: Arc<Shared<T>>,
    pub(crate) request: SolveRequest<T>,
    pub(crate) plan: Plan,
    pub(crate) cache: CacheAccess,
    /// Cancelled by the request, by the first failure, and at the end.
    pub(crate) stop: CancellationToken,
    /// Its way to the places that steps run in.
    seat: Seat,
    /// How long the way from each vertex to a target is; asked for when steps have to wait
    /// for one another.
    priorities: OnceCell<Vec<u64>>,
    failure: Mutex<Option<SolveError>>,
    tasks: Mutex<Tasks<T>>,
    tracker: TaskTracker,
    /// What this build has found or run, by content key.
    pub(crate) twins: Twins<T>,
    /// Keeps what this build joined, for the builds beside it.
    flights: Mutex<Vec<Arc<Flight<T>>>>,
}

struct Tasks<T> {
    closed: bool,
    slots: HashMap<VertexId, Slot<T>>,
    aborts: Vec<AbortHandle>,
}

/// Why a task ends without a result.
pub(crate) enum Stop {
    /// The result is no longer wanted.
    Canceled,
    /// The build fails.
    Failed(Box<SolveError>),
}

impl<T: Clone + Send + Sync + 'static> Build<T> {
    pub(crate) fn new(
        shared: Arc<Shared<T>>,
        request: SolveRequest<T>,
        plan: Plan,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let cache = CacheAccess::new(&shared.cache, shared.limits.cache_timeout);
        let seat = shared.places.enter(&shared.limits);
        Arc::new(Self {
            seat,
            priorities: OnceCell::new(),
            shared,
            request,
            plan,
            cache,
            stop,
            failure: Mutex::default(),
            tasks: Mutex::new(Tasks {
                closed: false,
                slots: HashMap::new(),
                aborts: Vec::new(),
            }),
            tracker: TaskTracker::new(),
            twins: Twins::default(),
            flights: Mutex::default(),
        })
    }

    /// Solves the targets. Every task has ended when this returns.
    pub(crate) async fn run(self: Arc<Self>) -> Result<Vec<T>, SolveError> {
        let on_drop = AbortTasks(self.clone());
        let targets = self.request.targets.iter();
        let slots: Vec<_> = targets.map(|target| self.demand(target.vertex)).collect();
        let results = self.targets(slots).await;
        if results.is_none() {
            self.stop.cancel();
        }
        self.tracker.close();
        self.tracker.wait().await;
        drop(on_drop);
        for event in self.cache.report() {
            self.emit(event);
        }
        let failure = lock(&self.failure).take();
        match results {
            Some(trees) => {
                // Only a panic while recording can come this late.
                if let Some(error) = failure {
                    let (vertex, message) = (error.vertex(), error.to_string());
                    self.emit(Event::Warning { vertex, message });
                }
                Ok(trees)
            }
            None => Err(failure.unwrap_or(SolveError::Canceled)),
        }
    }

    async fn targets(&self, slots: Vec<Slot<T>>) -> Option<Vec<T>> {
        let mut trees = Vec::with_capacity(slots.len());
        for (target, slot) in self.request.targets.iter().zip(slots) {
            let outputs = slot.result().await?;
            let output = usize::try_from(target.output).ok()?;
            trees.push(outputs.get(output)?.clone());
        }
        Some(trees)
    }

    /// Where the result of `vertex` will stand; starts its task when nobody asked before.
    pub(crate) fn demand(self: &Arc<Self>, vertex: VertexId) -> Slot<T> {
        let mut tasks = lock(&self.tasks);
        if let Some(slot) = tasks.slots.get(&vertex) {
            return slot.clone();
        }
        let (publisher, slot) = slot();
        tasks.slots.insert(vertex, slot.clone());
        if !tasks.closed {
            let task = self.clone().task(vertex, publisher);
            #[cfg(test)]
            let task = crate::tests::shake::shaken(task);
            tasks.aborts.push(self.tracker.spawn(task).abort_handle());
        }
        slot
    }

    async fn task(self: Arc<Self>, vertex: VertexId, slot: Publisher<T>) {
        let work = AssertUnwindSafe(self.solve_vertex(vertex, &slot)).catch_unwind();
        match work.await {
            Ok(Ok(()) | Err(Stop::Canceled)) => {}
            Ok(Err(Stop::Failed(error))) => self.fail(*error),
            Err(panic) => {
                let error = SolveError::Panicked {
                    vertex,
                    name: self.name(vertex),
                    message: panic_message(&*panic),
                };
                let text = error.to_string();
                self.emit(Event::Failed {
                    vertex,
                    error: text,
                });
                self.fail(error);
            }
        }
    }

    /// Waits for what `vertices` make; stops when one of them will not come.
    pub(crate) async fn demand_all(
        self: &Arc<Self>,
        vertices: impl Iterator<Item = VertexId>,
    ) -> Result<Vec<Outputs<T>>, Stop> {
        let slots: Vec<_> = vertices.map(|vertex| self.demand(vertex)).collect();
        let mut results = Vec::with_capacity(slots.len());
        for slot in slots {
            let result = self.unless_stopped(slot.result()).await?;
            results.push(result.ok_or(Stop::Canceled)?);
        }
        Ok(results)
    }

    /// Notes the failure if it is the first, and stops everything.
    fn fail(&self, error: SolveError) {
        if !self.stop.is_cancelled() {
            lock(&self.failure).get_or_insert(error);
        }
        self.stop.cancel();
    }

    /// Stops what is about to begin in a build that stops.
    pub(crate) fn go_on(&self) -> Result<(), Stop> {
        match self.stop.is_cancelled() {
            true => Err(Stop::Canceled),
            false => Ok(()),
        }
    }

    /// Waits for `work` unless the build stops first.
    pub(crate) async fn unless_stopped<V>(&self, work: impl Future<Output = V>) -> Result<V, Stop> {
        let done = self.stop.run_until_cancelled(work).await;
        done.ok_or(Stop::Canceled)
    }

    /// A place to do the work of a vertex in: at once, or when it is its turn.
    pub(crate) async fn place(&self, vertex: VertexId) -> Option<Permit> {
        let class = self.plan.get(vertex)?.class;
        if let Taken::Place(place) = self.seat.try_take(class) {
            return place;
        }
        let priorities = self.priorities.get_or_init(|| self.remaining_ms()).await;
        let priority = priorities.get(vertex.index()).copied().unwrap_or(0);
        self.seat.take(class, priority).await
    }

    /// How long the way from each vertex to a target takes, by what its steps took before.
    async fn remaining_ms(&self) -> Vec<u64> {
        let graph = &self.request.graph;
        let (steps, past) = self.plan.past(&self.request.scope, graph);
        let costs = self.cache.costs(&past).await;
        let known = steps.into_iter().zip(costs);
        let known = known.filter_map(|(step, cost_ms)| Some((step, cost_ms?)));
        self.plan.remaining_ms(graph, known)
    }

    pub(crate) fn keep(&self, flight: Arc<Flight<T>>) {
        lock(&self.flights).push(flight);
    }

    pub(crate) fn emit(&self, event: Event) {
        self.request.events.emit(event);
    }

    pub(crate) fn context(&self, vertex: VertexId) -> StepContext {
        StepContext {
            vertex,
            cancel: self.stop.clone(),
            events: self.request.events.clone(),
        }
    }

    /// The display name of a vertex.
    pub(crate) fn name(&self, vertex: VertexId) -> String {
        self.request.graph.vertex(vertex).meta.name.clone()
    }

    fn abort(&self) {
        self.stop.cancel();
        let mut tasks = lock(&self.tasks);
        tasks.closed = true;
        let aborts = std::mem::take(&mut tasks.aborts);
        drop(tasks);
        for task in aborts {
            task.abort();
        }
    }
}

/// Aborts a build's tasks when the solve is dropped.
struct AbortTasks<T: Clone + Send + Sync + 'static>(Arc<Build<T>>);

impl<T: Clone + Send + Sync + 'static> Drop for AbortTasks<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
