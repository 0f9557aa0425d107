//! Patterns that include and exclude what is below a source.

use std::convert::Infallible;

use crate::EntryPath;

/// A list of patterns with the rules of `.dockerignore`: the last one that matches decides,
/// one that starts with `!` takes back, and what matches a directory matches everything
/// below it.
pub trait PathPatterns {
    /// What matched at a directory and counts for everything in it.
    type State: Clone;

    /// The state of the directory that paths are relative to.
    fn root(&self) -> Self::State;

    /// Whether `path` matches, given the state of its directory; and its own state.
    fn matches(&self, path: &EntryPath, parent: &Self::State) -> (bool, Self::State);

    /// Whether any pattern takes back (`!`), so that something below a directory that
    /// matches may not match.
    fn takes_back(&self) -> bool;

    /// Whether something below `directory`, which does not match, may match; `true` is
    /// always right and merely slower.
    fn may_match_below(&self, _directory: &EntryPath) -> bool {
        true
    }
}

/// No patterns; has no value, so that it can only be left out.
#[derive(Clone, Copy, Debug)]
pub enum NoPatterns {}

impl PathPatterns for NoPatterns {
    type State = Infallible;

    fn root(&self) -> Infallible {
        match *self {}
    }

    fn matches(&self, _path: &EntryPath, _parent: &Infallible) -> (bool, Infallible) {
        match *self {}
    }

    fn takes_back(&self) -> bool {
        match *self {}
    }
}
