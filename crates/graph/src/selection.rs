//! Which part of an input counts for a vertex's cache key.

use serde::{Deserialize, Serialize};

/// How an input enters the key of the vertex that takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Selection {
    /// By the identity of the whole result.
    Identity,
    /// By the content of the selected paths alone.
    Content(Vec<PathSelector>),
}

/// Selects paths of a tree as a copy does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PathSelector {
    /// The path, from the tree's root.
    pub path: String,
    /// `path` may hold wildcards (Go `filepath.Match`).
    pub wildcard: bool,
    /// A symbolic link at `path` itself is followed.
    pub follow_links: bool,
    /// Of a directory at `path`, only what is in it counts.
    pub directory_contents_only: bool,
    /// Only what matches one of these, where there are any.
    pub include: Vec<String>,
    /// Nothing that matches these.
    pub exclude: Vec<String>,
}
