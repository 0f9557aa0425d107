//! Why a step had to run.

use longshore_graph::VertexId;
use serde::{Deserialize, Serialize};

/// Why a step had to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MissReason {
    /// No such step has run before, as far as is remembered.
    FirstTime,
    /// The most similar step that ran before differs.
    Changed {
        /// What differs in the step itself.
        fields: Vec<FieldChange>,
        /// What differs in what it works on.
        inputs: Vec<InputChange>,
    },
    /// The same step ran before, but its record was pruned.
    Pruned,
    /// The same step ran before and is recorded, but its result is gone.
    Gone,
    /// The build asked for it to run.
    IgnoreCache,
    /// The cache failed, so that it is not known whether it ran before.
    CacheFailed,
}

/// A field of a step's key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Which: `argv`, `env VERSION`, `mount /cache`.
    pub name: String,
    /// Its value then; `None` where there was no such field.
    pub old: Option<String>,
    /// Its value now; `None` where there is no such field.
    pub new: Option<String>,
}

/// An input of a step that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputChange {
    /// Which of the step's inputs.
    pub input: usize,
    /// The vertex that it comes from.
    pub vertex: VertexId,
    /// That vertex's display name.
    pub name: String,
    /// The first of the files that differ, where that is known.
    pub paths: Vec<PathChange>,
    /// How many differ.
    pub paths_total: usize,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathChange {
    /// From the input's root; a directory ends with a slash when all below it was taken
    /// together.
    pub path: String,
    /// How it differs.
    pub kind: PathChangeKind,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its content, kind, mode or owner is another.
    Modified,
}
