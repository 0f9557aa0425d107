//! Decides what must run, once, and explains every cache miss.
//!
//! ```text
//!            SolveRequest { executor, graph, targets, events, cancel }
//!                                   │ pin every source, compute definition keys
//!                                   ▼
//!   definition key ──hit──────────────────────────────────────► Tree (lazy)
//!        │ miss: solve the inputs, each in its own task
//!        ▼
//!   content key ──in flight, or hit───────► alias stored ─────► Tree
//!        │ miss: why? (MissReason)
//!        ▼
//!   Executor::execute ──► recorded under both keys ───────────► Tree
//! ```
//!
//! The crate does no I/O: an [`Executor`] runs steps, a [`CacheBackend`] remembers them
//! and an [`EventSink`] is told. A [`Solver`] is shared by builds that run at the same
//! time; what they have in common runs once. The invariants:
//!
//! - one content key is never run twice at the same time, nor twice within a build;
//! - nothing below a vertex whose definition key hits is touched;
//! - a failing cache costs time, never a build;
//! - dropping a solve stops everything that it alone needed.
//!
//! What is in a key and what is not stands in [`key`].
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use longshore_graph::{Graph, Input, Op, Selection, Source, Vertex};
//! use longshore_solver::{
//!     BoxError, CacheTiers, ContentDigest, Executor, Limits, MemoryCache, NoEvents, NoLock,
//!     Origin, ResourceClass, SolveRequest, Solver, StepContext,
//! };
//!
//! /// Counts: a source is 1, a merge the sum of its inputs.
//! struct Counter;
//!
//! #[async_trait]
//! impl Executor for Counter {
//!     type Tree = u8;
//!     async fn pin(&self, _: &StepContext, _: &Source, _: &Selection) -> Result<ContentDigest, BoxError> {
//!         Ok(ContentDigest([1; 32]))
//!     }
//!     async fn execute(&self, _: &StepContext, vertex: &Vertex, inputs: &[u8]) -> Result<Vec<u8>, BoxError> {
//!         Ok(vec![if vertex.op == Op::Merge { inputs.iter().sum() } else { 1 }])
//!     }
//!     async fn digest_of(&self, _: &StepContext, tree: &u8, _: &Selection) -> Result<ContentDigest, BoxError> {
//!         Ok(ContentDigest([*tree; 32]))
//!     }
//!     async fn encode(&self, _: &StepContext, tree: &u8) -> Result<Option<Vec<u8>>, BoxError> {
//!         Ok(Some(vec![*tree]))
//!     }
//!     async fn restore(&self, _: &StepContext, encoded: &[u8], _: &Origin) -> Result<Option<u8>, BoxError> {
//!         Ok(encoded.first().copied())
//!     }
//!     fn class(&self, _: &Vertex) -> ResourceClass {
//!         ResourceClass::Cpu
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut graph = Graph::default();
//! let one = graph.push(Vertex::new("one", Op::Source(Source::Scratch), vec![])).unwrap();
//! let inputs = vec![Input::first(one), Input::first(one)];
//! let two = graph.push(Vertex::new("two", Op::Merge, inputs)).unwrap();
//! let cache = CacheTiers::local(Arc::new(MemoryCache::default()));
//! let solver = Solver::new(cache, Arc::new(NoLock), Limits::new(4, 4));
//! let request = SolveRequest {
//!     executor: Arc::new(Counter),
//!     graph: Arc::new(graph),
//!     targets: vec![Input::first(two)],
//!     scope: "Dockerfile".to_owned(),
//!     events: Arc::new(NoEvents),
//!     cancel: Default::default(),
//! };
//! assert_eq!(solver.solve(request).await.unwrap(), [2]);
//! # });
//! ```

mod build;
mod cache;
mod cost;
mod digest;
mod error;
mod event;
mod executor;
mod flight;
pub mod key;
mod lock;
mod memory;
mod miss;
mod paths;
mod permit;
mod plan;
mod slot;
mod solver;
mod step;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(test)]
mod tests;
mod tiers;
mod twins;

pub use cache::{
    CacheBackend, CacheRecord, NEAREST_MAX, PastStep, RECORD_BYTES_MAX, RecordError,
    RecordedOutput, RecordedPath, RecordedPaths, Trace,
};
pub use digest::{CacheKey, ContentDigest, Group};
pub use error::SolveError;
pub use event::{Event, EventSink, HitKey, LogStream, NoEvents, Origin};
pub use executor::{BoxError, Executor, PathDigest, ResourceClass, StepContext};
pub use key::{Field, KeyFields};
pub use lock::{FlightGuard, FlightLock, Locking, NoLock};
pub use memory::MemoryCache;
pub use miss::{FieldChange, InputChange, MissReason, PathAspect, PathChange, PathChangeKind};
pub use permit::Places;
pub use solver::{Limits, SolveRequest, Solver};
pub use tiers::{CacheTiers, RemoteCache};
