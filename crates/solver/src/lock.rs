//! Keeps two processes from running the same step at the same time.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;

use crate::{BoxError, CacheKey};

/// Locks a content key across processes.
///
/// The solver locks a step when it has a place to run it in, asks the cache again once it has
/// the lock, and holds it until the step is recorded. Whoever holds a lock runs: it waits
/// neither for a place nor for another lock, so that none wait for one another in a ring, and
/// there are no more locks than places. Who does not get one gives its place back and waits.
#[async_trait]
pub trait FlightLock: Send + Sync + 'static {
    /// Locks `key`, if no other process has it.
    ///
    /// # Errors
    /// When it cannot be locked: the step runs without.
    async fn try_lock(&self, key: &CacheKey) -> Result<Locking, BoxError>;

    /// Waits until no other process has `key`, which another may have had again by then.
    ///
    /// # Errors
    /// When that cannot be found out: the step runs without a lock.
    async fn released(&self, key: &CacheKey) -> Result<(), BoxError>;
}

/// What came of locking.
#[derive(Debug)]
pub enum Locking {
    /// This process alone may run the step.
    Locked(FlightGuard),
    /// Another process has it.
    Taken,
    /// Nothing is locked here.
    None,
}

/// Holds a lock until dropped.
pub struct FlightGuard(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send>);

impl FlightGuard {
    /// A guard that drops `held` to unlock.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for FlightGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlightGuard")
    }
}

/// Locks nothing: for a cache that no other process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLock;

#[async_trait]
impl FlightLock for NoLock {
    async fn try_lock(&self, _key: &CacheKey) -> Result<Locking, BoxError> {
        Ok(Locking::None)
    }

    async fn released(&self, _key: &CacheKey) -> Result<(), BoxError> {
        Ok(())
    }
}
