//! Why a solve failed.

use std::fmt;
use std::sync::Arc;

use longshore_graph::VertexId;

/// Why a solve failed. The executor's own error is the source, as it was given.
#[derive(Clone, Debug)]
pub enum SolveError {
    /// A source could not be pinned for a step that takes from it.
    Pin {
        /// The source.
        source_vertex: VertexId,
        /// The source's display name.
        source_name: String,
        /// The step that takes from it.
        vertex: VertexId,
        /// The step's display name.
        name: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// What a step takes from an input could not be read.
    Input {
        /// The step.
        vertex: VertexId,
        /// The step's display name.
        name: String,
        /// The input's display name.
        input_name: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A step failed.
    Step {
        /// The step.
        vertex: VertexId,
        /// The step's display name.
        name: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The executor returned too few or too many outputs.
    Outputs {
        /// The step.
        vertex: VertexId,
        /// The step's display name.
        name: String,
        /// How many it has.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// The executor panicked.
    Panicked {
        /// The step.
        vertex: VertexId,
        /// The step's display name.
        name: String,
        /// What it said.
        message: String,
    },
    /// A target is no output of any vertex of the graph.
    UnknownTarget {
        /// The vertex that was asked for.
        vertex: VertexId,
        /// The output that was asked for.
        output: u32,
    },
    /// The solve was cancelled.
    Canceled,
}

impl SolveError {
    /// The step that failed, where it was one.
    pub fn vertex(&self) -> Option<VertexId> {
        match self {
            Self::Pin { vertex, .. }
            | Self::Input { vertex, .. }
            | Self::Step { vertex, .. }
            | Self::Outputs { vertex, .. }
            | Self::Panicked { vertex, .. }
            | Self::UnknownTarget { vertex, .. } => Some(*vertex),
            Self::Canceled => None,
        }
    }
}

impl fmt::Display for SolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin {
                source_name, name, ..
            } => write!(f, "cannot read `{source_name}` for `{name}`"),
            Self::Input {
                name, input_name, ..
            } => write!(f, "cannot read what `{name}` takes from `{input_name}`"),
            Self::Step { name, .. } => write!(f, "`{name}` failed"),
            Self::Outputs {
                name,
                expected,
                found,
                ..
            } => write!(f, "`{name}` made {found} results instead of {expected}"),
            Self::Panicked { name, message, .. } => write!(f, "`{name}` panicked: {message}"),
            Self::UnknownTarget { vertex, output } => {
                write!(f, "the graph has no output {output} of vertex {}", vertex.0)
            }
            Self::Canceled => f.write_str("the build was canceled"),
        }
    }
}

impl std::error::Error for SolveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pin { source, .. } | Self::Input { source, .. } | Self::Step { source, .. } => {
                Some(&**source)
            }
            Self::Outputs { .. }
            | Self::Panicked { .. }
            | Self::UnknownTarget { .. }
            | Self::Canceled => None,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
