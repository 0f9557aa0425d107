//! Fills cache mounts from caches elsewhere, when a step that needs them runs.
//!
//! Invariant: what cannot be had is a miss. Each mount that is damaged is warned of once, and a
//! cache that cannot be asked once.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_layers::DirectoryForm;
use longshore_solver::BoxError;
use tempfile::TempDir;

use super::place::Place;
use super::source::in_time;
use super::{Reader, document};
use crate::Engine;
use crate::build::cache_mount::{NotExported, shown_id, unpack_mount};
use crate::progress::{ProgressEvent, ProgressSink};
use crate::with_causes;

/// The caches that a build's cache mounts are filled from.
pub(crate) struct MountImport {
    engine: Engine,
    sources: Vec<Source>,
    progress: Arc<dyn ProgressSink>,
    known: Mutex<Known>,
}

struct Source {
    reader: Reader,
    max_bytes: u64,
    /// It could not be asked, which was said.
    is_useless: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// The directories that the caches were asked for already.
    asked: HashSet<PathBuf>,
    /// The names of the mounts that a cache has, but damaged.
    damaged: HashSet<String>,
}

impl fmt::Debug for MountImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountImport").finish_non_exhaustive()
    }
}

impl MountImport {
    pub(crate) fn new(
        engine: &Engine,
        readers: &[Reader],
        progress: &Arc<dyn ProgressSink>,
    ) -> Self {
        let source = |reader: &Reader| {
            Some(Source {
                reader: reader.clone(),
                max_bytes: reader.mounts_max_bytes?,
                is_useless: AtomicBool::new(false),
            })
        };
        Self {
            engine: engine.clone(),
            sources: readers.iter().filter_map(source).collect(),
            progress: Arc::clone(progress),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a directory may be filled: the caches were not asked for it yet.
    pub(crate) fn may_fill(&self, directory: &Path) -> bool {
        !self.sources.is_empty() && !self.known().asked.contains(directory)
    }

    /// Whether a cache has the mount of this name, but damaged.
    pub(super) fn is_damaged(&self, name: &str) -> bool {
        self.known().damaged.contains(name)
    }

    /// What the first cache that has the mount of this name says that it holds, to become
    /// `directory`.
    pub(crate) async fn fetch(&self, directory: &Path, name: &str, id: &str) -> Option<TempDir> {
        self.known().asked.insert(directory.to_owned());
        for source in &self.sources {
            let Some(place) = self.place(source).await else {
                continue;
            };
            match self.fetch_from(place, name, source.max_bytes).await {
                Ok(None) => {}
                Ok(Some(fresh)) => {
                    let (id, from) = (shown_id(id), &source.reader.name);
                    self.note(format!("cache mount `{id}` taken from {from}"));
                    return Some(fresh);
                }
                Err(error) => {
                    self.known().damaged.insert(name.to_owned());
                    let what = format!("cache mount `{}` was not", shown_id(id));
                    self.warn(&what, source, &error);
                }
            }
        }
        None
    }

    async fn place<'a>(&self, source: &'a Source) -> Option<&'a Place> {
        if source.is_useless.load(Ordering::Relaxed) {
            return None;
        }
        match source.reader.reader.of_mounts().await {
            Ok(place) => place,
            Err(error) => {
                if !source.is_useless.swap(true, Ordering::Relaxed) {
                    self.warn("no cache mount was", source, &error);
                }
                None
            }
        }
    }

    async fn fetch_from(
        &self,
        place: &Place,
        name: &str,
        max_bytes: u64,
    ) -> Result<Option<TempDir>, BoxError> {
        let Some(bytes) = in_time(place.get(&document::mount_name(name))).await? else {
            return Ok(None);
        };
        let (mount, blob) = document::read_mount(&bytes)?;
        if mount.tar_bytes > max_bytes {
            return Err(NotExported::TooLarge(mount.tar_bytes).into());
        }
        let options = self
            .engine
            .layers()
            .directory_options(DirectoryForm::Merged);
        let (tmp, digest) = (self.engine.root().tmp_dir().to_owned(), blob.digest);
        let limits = self.engine.unpack_limits();
        let unpack = move |stream| unpack_mount(stream, digest, mount, options, &tmp, limits);
        place.read_blob(&blob, unpack).await.map(Some)
    }

    fn warn(&self, what: &str, source: &Source, error: &BoxError) {
        let (from, why) = (&source.reader.name, with_causes(&**error));
        self.note(format!("warning: {what} taken from {from}: {why}"));
    }

    fn note(&self, text: String) {
        self.progress.emit(ProgressEvent::Note(text));
    }
}
