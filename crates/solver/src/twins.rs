//! What one build has found or run, by content key: vertices that come to the same key
//! take turns, so that the second finds what the first left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::CacheKey;
use crate::flight::Landed;

/// The turns of a build.
pub(crate) struct Twins<T>(Mutex<HashMap<CacheKey, Arc<Twin<T>>>>);

/// Whose turn it is, and what the last left.
pub(crate) type Twin<T> = tokio::sync::Mutex<Option<Done<T>>>;

/// What a vertex left for its twins.
pub(crate) struct Done<T> {
    pub(crate) landed: Landed<T>,
    /// This build ran it; otherwise somebody else had.
    pub(crate) ran: bool,
}

impl<T> Default for Twins<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Twins<T> {
    pub(crate) fn of(&self, key: CacheKey) -> Arc<Twin<T>> {
        let mut twins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        twins.entry(key).or_default().clone()
    }
}
