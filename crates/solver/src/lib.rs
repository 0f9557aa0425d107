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

mod build;
mod cache;
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
    CacheBackend, CacheRecord, NEAREST_MAX, RECORD_BYTES_MAX, RecordError, RecordedOutput,
    RecordedPath, RecordedPaths, Trace,
};
pub use digest::{CacheKey, ContentDigest, Group};
pub use error::SolveError;
pub use event::{Event, EventSink, HitKey, LogStream, NoEvents, Origin};
pub use executor::{BoxError, Executor, PathDigest, ResourceClass, StepContext};
pub use key::{Field, KeyFields};
pub use lock::{FlightGuard, FlightLock, NoLock};
pub use memory::MemoryCache;
pub use miss::{FieldChange, InputChange, MissReason, PathChange, PathChangeKind};
pub use solver::{Limits, SolveRequest, Solver};
pub use tiers::{CacheTiers, RemoteCache};
