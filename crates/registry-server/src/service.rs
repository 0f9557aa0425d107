//! What the registry does, without HTTP: the shared state of its operations.

use std::sync::Arc;

use longshore_content::{ContentError, ContentStore, Durability, Registry, StateRoot};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use crate::error::{ApiError, Code};
use crate::manifest_cache::ManifestCache;
use crate::sessions::Sessions;
use crate::{Options, RepositoryName};

/// Manifests up to this size are held in memory without asking; larger ones wait their turn.
const SMALL_MANIFEST_BYTES: u64 = 64 * 1024;
/// Large manifests that are held in memory at once.
const LARGE_MANIFESTS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) sessions: Sessions,
    pub(crate) manifests: ManifestCache,
    pub(crate) options: Options,
    registry: Registry,
    large_manifests: Semaphore,
}

impl Service {
    pub(crate) fn new(root: &StateRoot, options: Options) -> Self {
        // Each blob that is stored here is linked right after, in a published transaction.
        let blobs = root.blobs().with_durability(Durability::PublishedByNext);
        Self {
            content: Arc::new(blobs),
            sessions: Sessions::default(),
            manifests: ManifestCache::default(),
            options,
            registry: root.registry(),
            large_manifests: Semaphore::new(LARGE_MANIFESTS_MAX),
        }
    }

    /// Room in memory for a manifest that is about to be received.
    pub(crate) async fn room_for_manifest(
        &self,
        size_bytes: Option<u64>,
    ) -> Option<SemaphorePermit<'_>> {
        if size_bytes.is_some_and(|size| size <= SMALL_MANIFEST_BYTES) {
            return None;
        }
        self.large_manifests.acquire().await.ok()
    }

    /// Asks the database on a thread that may wait.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Registry) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let registry = self.registry.clone();
        let answer = spawn_blocking(move || question(&registry)).await;
        Ok(answer.map_err(ContentError::TaskLost)??)
    }

    /// That something is not there: the repository, or `code` within it.
    pub(crate) async fn not_found(
        &self,
        repository: &RepositoryName,
        code: Code,
        message: &str,
    ) -> ApiError {
        let name = repository.clone();
        match self.ask(move |db| db.has_repository(name.as_str())).await {
            Ok(true) => ApiError::new(code, message),
            Ok(false) => {
                let message = format!("repository `{repository}` is not known to the registry");
                ApiError::new(Code::NameUnknown, message)
            }
            Err(error) => error,
        }
    }
}
