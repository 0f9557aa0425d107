//! For tests: an executor that refuses what the contract forbids, caches that fail on
//! purpose, a sink that remembers, and the suite that every cache has to pass.

mod executor;
mod faulty;
mod random;
mod recorder;
mod suite;
mod tree;
mod world;

pub use executor::FakeExecutor;
pub use faulty::{Faults, FaultyCache};
pub use random::Random;
pub use recorder::Recorder;
pub use suite::cache_conformance;
pub use tree::{FakeTree, Files, evaluate};
pub use world::World;
