//! Why a snapshot operation failed.

use std::io;
use std::path::{Path, PathBuf};

use crate::SnapshotId;

/// A failed snapshot operation.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no such snapshot (any more).
    #[error("snapshot `{id}` does not exist")]
    NotFound {
        /// Which.
        id: SnapshotId,
    },
    /// The snapshot is below a live root file system, of this process or another.
    #[error("snapshot `{id}` is in use")]
    InUse {
        /// Which.
        id: SnapshotId,
    },
    /// More layers than the kernel stacks.
    #[error("{count} layers are more than the {max} that can be mounted on one another")]
    TooManyLayers {
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The kernel refused the overlay mount.
    #[error("cannot mount {layers} layers as one file system")]
    Mount {
        /// How many layers.
        layers: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another process has its root file systems in this place.
    #[error("another build uses `{}` for its steps", path.display())]
    PlaceTaken {
        /// The place.
        path: PathBuf,
    },
    /// What is to be kept is no part of the place, or all of it.
    #[error("`{}` cannot be kept while `{}` is used for steps", path.display(), place.display())]
    NotBelowPlace {
        /// What is to be kept.
        path: PathBuf,
        /// The place.
        place: PathBuf,
    },
    /// Layers could not be copied together, or what changed in a copy could not be told.
    #[error("cannot {action}")]
    Copy {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused to mount a layer's image.
    #[error("cannot mount the image `{}`", path.display())]
    MountImage {
        /// The image.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Who can do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Whoever set up the machine.
    Environment,
    /// We.
    Internal,
}

impl SnapshotError {
    /// Who can do something about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::InUse { .. } => ErrorClass::Internal,
            Self::TooManyLayers { .. }
            | Self::Mount { .. }
            | Self::Copy { .. }
            | Self::PlaceTaken { .. }
            | Self::NotBelowPlace { .. }
            | Self::MountImage { .. }
            | Self::Io { .. } => ErrorClass::Environment,
        }
    }
}

/// Adds the action to a failed copy.
pub(crate) trait CopyContext<T> {
    fn copying(self, action: &'static str) -> Result<T, SnapshotError>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> CopyContext<T> for Result<T, E> {
    fn copying(self, action: &'static str) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Copy {
            action,
            source: source.into(),
        })
    }
}

/// Adds the action and the path to a failed file operation.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
