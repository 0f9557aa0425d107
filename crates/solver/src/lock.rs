//! Keeps two processes from running the same step at the same time.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;

use crate::{BoxError, CacheKey};

/// Locks a content key across processes.
///
/// The solver takes at most one lock per step, after the cache had no answer, asks the
/// cache again once it has it, and holds it until the step is recorded. While it holds
/// one it waits for no other step, so that locks cannot wait for one another in a ring.
#[async_trait]
pub trait FlightLock: Send + Sync + 'static {
    /// Waits until this process alone may run `key`; `None` where nothing is locked.
    ///
    /// # Errors
    /// When it cannot be locked: the step runs without.
    async fn lock(&self, key: &CacheKey) -> Result<Option<FlightGuard>, BoxError>;
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
    async fn lock(&self, _key: &CacheKey) -> Result<Option<FlightGuard>, BoxError> {
        Ok(None)
    }
}
