//! Build contexts: a directory of this machine, as its ignore file leaves it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_dockerfile::ignore::{Decision as Ignored, DirectoryState, IgnoreFile, Matcher};
use longshore_layers::EntryPath;
use longshore_layers::context::{
    ContextTree, Decision, IncludeAll, PathFilter, ScanNotice, ScanOptions, StatCacheFile,
};
use longshore_layers::copy::CopyError;
use longshore_solver::BoxError;

use crate::EngineError;

/// The largest ignore file that is read, bytes.
const IGNORE_BYTES_MAX: u64 = 4 << 20;

/// A scanned directory.
#[derive(Debug)]
pub(crate) struct LocalTree {
    directory: PathBuf,
    tree: ContextTree,
    cache: StatCacheFile,
}

impl LocalTree {
    /// Scans `directory` without what `ignore` excludes; digests that are still good are
    /// taken from `cache_directory`.
    pub(crate) fn scan(
        directory: &Path,
        ignore: Option<&Matcher>,
        options: &ScanOptions,
        cache_directory: &Path,
    ) -> Result<Self, EngineError> {
        let cache = StatCacheFile::load(cache_directory, directory);
        let tree = match ignore {
            Some(matcher) if !matcher.is_empty() => {
                ContextTree::scan(directory, &IgnoreFilter::new(matcher), &cache, options)
            }
            _ => ContextTree::scan(directory, &IncludeAll, &cache, options),
        };
        let tree = tree.map_err(EngineError::layer(format!(
            "context `{}`",
            directory.display()
        )))?;
        Ok(Self {
            directory: directory.to_owned(),
            tree,
            cache,
        })
    }

    /// The files.
    pub(crate) fn tree(&self) -> &ContextTree {
        &self.tree
    }

    /// Adds to the error of a file that is not found that it is in the directory all the
    /// same: the ignore file hides it.
    pub(crate) fn say_if_hidden(&self, error: BoxError) -> BoxError {
        let Some(CopyError::NotFound { path, .. }) = error.downcast_ref() else {
            return error;
        };
        let path = self.directory.join(path.trim_start_matches('/'));
        match path.symlink_metadata() {
            Ok(_) => format!("{error}: it is there, but .dockerignore excludes it").into(),
            Err(_) => error,
        }
    }

    /// What the scan left out or changed.
    pub(crate) fn notices(&self) -> &[ScanNotice] {
        self.tree.notices()
    }

    /// Keeps what was hashed for the next build; a cache that cannot be written is none.
    pub(crate) fn remember(&self) {
        if let Err(error) = self.cache.store(&self.tree) {
            tracing::warn!(%error, "cannot keep the digests of the context");
        }
    }
}

/// Excludes what an ignore file's patterns match.
struct IgnoreFilter<'a> {
    matcher: &'a Matcher,
    /// What matched at each directory that was asked about: a directory comes before what
    /// it contains.
    states: Mutex<HashMap<EntryPath, Arc<DirectoryState>>>,
}

impl<'a> IgnoreFilter<'a> {
    fn new(matcher: &'a Matcher) -> Self {
        let root = (EntryPath::root(), Arc::new(matcher.root()));
        Self {
            matcher,
            states: Mutex::new(HashMap::from([root])),
        }
    }

    /// The state of a directory: what matched at it and above it.
    fn state_of(&self, directory: &EntryPath) -> Arc<DirectoryState> {
        let known = self
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(directory)
            .cloned();
        known.unwrap_or_else(|| {
            let parent = self.state_of(&directory.parent().unwrap_or_default());
            self.remember(
                directory,
                self.matcher.decide(directory.as_bytes(), true, &parent).1,
            )
        })
    }

    fn remember(&self, directory: &EntryPath, state: DirectoryState) -> Arc<DirectoryState> {
        let state = Arc::new(state);
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(directory.clone(), Arc::clone(&state));
        state
    }
}

impl PathFilter for IgnoreFilter<'_> {
    fn decide(&self, path: &EntryPath, is_directory: bool) -> Decision {
        let parent = self.state_of(&path.parent().unwrap_or_default());
        let (decision, state) = self.matcher.decide(path.as_bytes(), is_directory, &parent);
        if is_directory {
            self.remember(path, state);
        }
        match decision {
            Ignored::Include => Decision::Include,
            Ignored::Exclude => Decision::Exclude,
            Ignored::ExcludePrune => Decision::Prune,
        }
    }
}

/// The ignore patterns of a context: those beside the Dockerfile before the context's own.
///
/// # Errors
/// When there is an ignore file and it cannot be read or understood.
pub(crate) fn ignore_patterns(
    context: Option<&Path>,
    dockerfile: Option<&Path>,
) -> Result<Option<(PathBuf, Matcher)>, EngineError> {
    let beside = dockerfile.map(|path| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".dockerignore");
        path.with_file_name(name)
    });
    let own = context.map(|folder| folder.join(".dockerignore"));
    for path in [beside, own].into_iter().flatten() {
        if let Some(matcher) = read_ignore_file(&path)? {
            return Ok(Some((path, matcher)));
        }
    }
    Ok(None)
}

fn read_ignore_file(path: &Path) -> Result<Option<Matcher>, EngineError> {
    let bytes = match crate::files::read_regular(path, IGNORE_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(EngineError::io("read", path))?,
    };
    let invalid = |error: &dyn std::fmt::Display| {
        EngineError::Invalid(format!("`{}`: {error}", path.display()))
    };
    let file = IgnoreFile::parse(&bytes).map_err(|error| invalid(&error))?;
    Matcher::new(&file.patterns)
        .map(Some)
        .map_err(|error| invalid(&error))
}
