//! What can go wrong with stored content.

use std::io;
use std::path::{Path, PathBuf};

use longshore_oci::Digest;

/// Why content could not be stored or read. Absence is not an error: it is `None`.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A file operation failed.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was tried, as in "cannot … `path`".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The metadata database failed.
    #[error("cannot {doing} in the metadata database: {source}")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A stored row does not read back as what was written.
    #[error("the metadata database holds an invalid {what}: `{value}`")]
    Row {
        /// The value's meaning.
        what: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// The state root is of another program or a newer version.
    #[error("`{path}` is not a state directory of this version: its format is `{found}`")]
    Format {
        /// The state root.
        path: PathBuf,
        /// What its `format` file says, or what was found instead.
        found: String,
    },
    /// The content is not what it was said to be.
    #[error("content is {actual}, not {expected}")]
    DigestMismatch {
        /// The promised digest.
        expected: Box<Digest>,
        /// The digest of what arrived.
        actual: Box<Digest>,
    },
    /// A blob is larger than the caller allows to be read at once.
    #[error("blob {digest} is {size_bytes} bytes, more than {limit_bytes}")]
    TooLarge {
        /// The blob.
        digest: Box<Digest>,
        /// Its size.
        size_bytes: u64,
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// Another writer holds the upload.
    #[error("upload {0} is in use")]
    UploadBusy(String),
    /// A text is not an upload id.
    #[error("invalid upload id `{0}`")]
    UploadId(String),
    /// A collection is running already.
    #[error("a garbage collection is already running on `{0}`")]
    CollectionRunning(PathBuf),
    /// A background task was lost (a panic, or the runtime is shutting down).
    #[error("a storage task did not finish")]
    TaskLost(#[source] tokio::task::JoinError),
}

impl ContentError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn mismatch(expected: &Digest, actual: &Digest) -> Self {
        Self::DigestMismatch {
            expected: Box::new(*expected),
            actual: Box::new(*actual),
        }
    }

    /// Names what a database closure was doing when SQLite refused.
    pub(crate) fn while_doing(self, doing: &'static str) -> Self {
        match self {
            Self::Database { source, .. } => Self::Database { doing, source },
            other => other,
        }
    }

    /// Whether the device is full.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for ContentError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Database {
            doing: "read or write",
            source,
        }
    }
}

impl From<ContentError> for io::Error {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Io { source, .. } if source.raw_os_error().is_some() => source,
            ContentError::DigestMismatch { .. } => Self::new(io::ErrorKind::InvalidData, error),
            other => Self::other(other),
        }
    }
}
