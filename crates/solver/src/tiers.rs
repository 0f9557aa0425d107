//! This machine's cache and those elsewhere, asked in order.

use std::fmt;
use std::sync::Arc;

use crate::CacheBackend;

/// The caches of a solver: this machine's first, then the others in order.
#[derive(Clone)]
pub struct CacheTiers {
    /// This machine's.
    pub local: Arc<dyn CacheBackend>,
    /// Those elsewhere, the nearest first.
    pub remotes: Vec<RemoteCache>,
}

/// A cache elsewhere.
#[derive(Clone)]
pub struct RemoteCache {
    /// Its name in events.
    pub name: String,
    /// The cache.
    pub backend: Arc<dyn CacheBackend>,
    /// Whether it is asked (`--cache-from`).
    pub read: bool,
    /// Whether it is told (`--cache-to`).
    pub write: bool,
}

impl CacheTiers {
    /// This machine's cache alone.
    pub fn local(local: Arc<dyn CacheBackend>) -> Self {
        Self {
            local,
            remotes: Vec::new(),
        }
    }
}

impl fmt::Debug for CacheTiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheTiers")
            .field("remotes", &self.remotes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RemoteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCache")
            .field("name", &self.name)
            .field("read", &self.read)
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}
