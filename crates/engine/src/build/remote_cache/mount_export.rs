//! Writes what cache mounts hold to a cache.
//!
//! A mount's blob comes before the document that names it, which appears as a whole: of two who
//! write one mount at the same time, the last one's is there. What is there already is not
//! sent; a mount in which there is nothing leaves what is there alone.

use std::fmt;

use longshore_solver::BoxError;

use super::document;
use super::export::CacheExport;
use super::keyed::KeyedCache;
use crate::LayerCompression;
use crate::build::cache_mount::{CacheMounts, MountSpec, NotExported};
use crate::progress::ProgressEvent;

/// How many mounts were sent, of those in which there is something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentMounts {
    new: usize,
    all: usize,
}

impl fmt::Display for SentMounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} cache mounts new", self.new, self.all)
    }
}

impl CacheExport<'_> {
    /// Sends the mounts; how many, and the first failure.
    pub(super) async fn send_mounts(
        &self,
        cache: &KeyedCache,
        compression: LayerCompression,
        max_bytes: u64,
    ) -> (SentMounts, Option<BoxError>) {
        let (mut sent, mut failed) = (SentMounts::default(), None);
        for spec in self.mounts {
            match self.send_mount(cache, spec, compression, max_bytes).await {
                Ok(is_new) => {
                    sent.all += 1;
                    sent.new += usize::from(is_new);
                }
                Err(NotExported::Empty) => {}
                Err(NotExported::Failed(error)) => failed = failed.or(Some(error)),
                Err(why) => self.warn(spec, &why),
            }
        }
        (sent, failed)
    }

    /// Whether it was sent: it was not there just so.
    async fn send_mount(
        &self,
        cache: &KeyedCache,
        spec: &MountSpec,
        compression: LayerCompression,
        max_bytes: u64,
    ) -> Result<bool, NotExported> {
        let mounts = CacheMounts::new(self.engine);
        let mut contents = mounts.contents(spec, compression, max_bytes).await?;
        let name = document::mount_name(&contents.name);
        let bytes = document::mount(&contents.mount, contents.blob.clone())?;
        let is_there = cache.place.has(&name, &bytes).await?;
        if is_there && !self.import.is_damaged(&contents.name) {
            return Ok(false);
        }
        let file = contents.file(&mounts, compression, max_bytes).await?;
        cache.place.put_blob(file, &contents.blob, None).await?;
        let bytes = document::mount(&contents.mount, contents.blob.clone())?;
        cache.place.put(&name, bytes).await?;
        Ok(true)
    }

    fn warn(&self, spec: &MountSpec, why: &NotExported) {
        self.progress.emit(ProgressEvent::Note(format!(
            "warning: cache mount `{}` was not exported: {why}",
            spec.shown_id()
        )));
    }
}
