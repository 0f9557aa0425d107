//! Why a copy cannot be made.

use std::io;

use crate::copy::ModeError;
use crate::{ContentError, EntryPath, TarError};

/// A copy, or another change, cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A path that was named literally is not in the source.
    #[error("\"{path}\": not found")]
    NotFound {
        /// The path, from the source's root.
        path: String,
        /// A path that is there and looks alike.
        suggestion: Option<String>,
    },
    /// A wildcard matches nothing.
    #[error("\"{pattern}\": not found")]
    NoMatch {
        /// The wildcard.
        pattern: String,
    },
    /// A wildcard is malformed.
    #[error("syntax error in pattern \"{pattern}\"")]
    BadPattern {
        /// The wildcard.
        pattern: String,
    },
    /// A path is not one: it holds a NUL or is too long.
    #[error("`{path}` is not a valid path")]
    InvalidPath {
        /// The path.
        path: String,
    },
    /// Symbolic links lead in circles.
    #[error("too many symbolic links on the way to `{path}`")]
    TooManyLinks {
        /// The path.
        path: String,
    },
    /// A directory is needed where something else is.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// What is in the way.
        path: EntryPath,
    },
    /// A directory of the source meets something else.
    #[error("cannot copy to non-directory: {path}")]
    DirectoryOverOther {
        /// The destination.
        path: EntryPath,
    },
    /// A file of the source meets a directory.
    #[error("cannot replace to directory {path} with file")]
    FileOverDirectory {
        /// The destination.
        path: EntryPath,
    },
    /// The destination's directory does not exist and must not be made.
    #[error("`{path}` does not exist")]
    Missing {
        /// What does not exist.
        path: EntryPath,
    },
    /// The root can neither be replaced nor removed.
    #[error("the root directory cannot be replaced or removed")]
    Root,
    /// A file's name would mean a removal in a layer.
    #[error("`{path}` cannot be in a layer: names that start with `.wh.` mark removals")]
    ReservedName {
        /// The destination.
        path: EntryPath,
    },
    /// A device that layers cannot hold.
    #[error("`{path}` cannot be in a layer: the character device 0:0 marks removals")]
    ReservedDevice {
        /// The destination.
        path: EntryPath,
    },
    /// An archive is malformed.
    #[error("cannot unpack `{path}`")]
    Archive {
        /// The archive.
        path: EntryPath,
        /// What is wrong with it.
        source: TarError,
    },
    /// An archive has a hard link to a directory.
    #[error("`{path}` is a directory and cannot have a hard link")]
    LinkToDirectory {
        /// The directory.
        path: EntryPath,
    },
    /// What an archive contains cannot be kept aside.
    #[error("cannot write a temporary file")]
    Spool(#[source] io::Error),
    /// A mode is malformed.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// Users or groups cannot be looked up by name.
    #[error("cannot look up names in `{path}`")]
    Names {
        /// `/etc/passwd` or `/etc/group`.
        path: EntryPath,
        /// Why not.
        source: io::Error,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// A tree that is copied from cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The bytes of a file.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Something else of the tree.
    #[error("cannot read `{path}`")]
    Read {
        /// The file, from the tree's root.
        path: EntryPath,
        /// Why not.
        source: io::Error,
    },
}
