//! What of a context counts.

use crate::EntryPath;

/// What becomes of one path of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is part of the context.
    Include,
    /// It is not, but something below it may be.
    Exclude,
    /// Neither it nor anything below it is part of the context.
    Prune,
}

/// Decides which paths of a directory are part of the context (`.dockerignore`).
///
/// Asked once for every path but the root, a directory before what it contains, from
/// several threads, in any order of siblings. A directory that is excluded stays part of
/// the context as soon as something below it is included.
pub trait PathFilter: Sync {
    /// What becomes of `path`.
    fn decide(&self, path: &EntryPath, is_directory: bool) -> Decision;
}

/// Every path is part of the context.
#[derive(Clone, Copy, Debug)]
pub struct IncludeAll;

impl PathFilter for IncludeAll {
    fn decide(&self, _path: &EntryPath, _is_directory: bool) -> Decision {
        Decision::Include
    }
}

impl<F: Fn(&EntryPath, bool) -> Decision + Sync> PathFilter for F {
    fn decide(&self, path: &EntryPath, is_directory: bool) -> Decision {
        self(path, is_directory)
    }
}
