//! What can go wrong, and whose business it is.

use std::path::PathBuf;

use longshore_content::ContentError;
use longshore_oci::{Digest, DocumentError, Platform, Reference};

/// Whose business an error is: decides exit codes and advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The input is wrong.
    User,
    /// This machine lacks something.
    Environment,
    /// Somebody else's service failed.
    Upstream,
    /// A bug of ours.
    Internal,
}

/// A layer's blob, what it holds, and what its image says that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffIdMismatch {
    /// The blob.
    pub blob: Digest,
    /// What it holds.
    pub actual: Digest,
    /// What it should.
    pub expected: Digest,
}

/// Any failure of the engine but a failed build step, which is a [`BuildError`](crate::BuildError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store failed.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] longshore_registry_client::Error),
    /// A layer's directory failed.
    #[error(transparent)]
    Snapshot(#[from] longshore_snapshot::SnapshotError),
    /// Layers were to be images, which this machine cannot mount.
    #[error("layers cannot be EROFS images here: {0}")]
    NoLayerImages(String),
    /// A file or repository cannot be fetched.
    #[error(transparent)]
    Remote(Box<crate::RemoteError>),
    /// A file failed.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There is no such image here.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// A short id fits several images.
    #[error("`{prefix}` is the beginning of several images' ids")]
    AmbiguousId {
        /// What was given.
        prefix: String,
    },
    /// The image has no manifest for the platform.
    #[error("`{image}` has no manifest for {platform}; it has: {available}")]
    NoPlatform {
        /// The image.
        image: String,
        /// What was wanted.
        platform: Box<Platform>,
        /// What there is.
        available: String,
    },
    /// A part of an image is not here.
    #[error("{what} {digest} of `{image}` is not in the store")]
    Missing {
        /// The image.
        image: String,
        /// Manifest, configuration or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// A document is malformed.
    #[error("{what} of `{image}`: {source}")]
    Document {
        /// The image.
        image: String,
        /// Manifest or configuration.
        what: &'static str,
        /// Why.
        source: DocumentError,
    },
    /// A configuration is malformed.
    #[error("configuration of `{image}` is not valid: {source}")]
    Config {
        /// The image.
        image: String,
        /// Why.
        source: serde_json::Error,
    },
    /// An image's configuration and manifest do not agree.
    #[error("`{image}` has {layers} layers but {diff_ids} diff ids")]
    LayerCount {
        /// The image.
        image: String,
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A layer's content is not what its configuration says.
    #[error("layer {} unpacks to {}, but the image says {}", .0.blob, .0.actual, .0.expected)]
    DiffId(Box<DiffIdMismatch>),
    /// Reading or writing a layer failed.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Which.
        layer: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An archive is none of the known kinds, or is damaged.
    #[error("archive: {0}")]
    Archive(String),
    /// A blob is not as large as its descriptor says: which, of what, and both sizes.
    #[error("{0}")]
    BlobSize(String),
    /// A file of an archive cannot be read.
    #[error("archive: `{name}`: {source}")]
    ArchiveFile {
        /// Its name in the archive.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// An archive cannot be read.
    #[error("archive: {0}")]
    ArchiveRead(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A push needs a name with a registry.
    #[error("`{}` cannot be pushed: {reason}", reference.familiar())]
    NotPushable {
        /// What was to be pushed.
        reference: Box<Reference>,
        /// Why not.
        reason: String,
    },
    /// An instruction given to `import` or `run` is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A process could not be run.
    #[error(transparent)]
    Run(#[from] longshore_runner::RunError),
    /// A lock file does not hold.
    #[error(transparent)]
    Lock(Box<crate::LockError>),
    /// A build cache failed that the build was asked to insist on.
    #[error("build cache: {0}")]
    Cache(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An own task panicked or was cancelled.
    #[error("a task of the engine did not finish")]
    TaskLost(#[from] tokio::task::JoinError),
}

/// An error and its causes on one line, none said twice.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

impl EngineError {
    pub(crate) fn diff_id(blob: Digest, actual: Digest, expected: Digest) -> Self {
        Self::DiffId(Box::new(DiffIdMismatch {
            blob,
            actual,
            expected,
        }))
    }

    /// Whose business it is.
    pub fn class(&self) -> ErrorClass {
        use longshore_registry_client::ErrorClass as Registry;
        match self {
            Self::Registry(error) => match error.class() {
                Registry::User => ErrorClass::User,
                Registry::Environment => ErrorClass::Environment,
                Registry::Upstream => ErrorClass::Upstream,
            },
            // What was given is not there, or not what it claims to be.
            Self::Content(ContentError::DigestMismatch { .. }) => ErrorClass::User,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorClass::User
            }
            Self::Run(error) => match error.class() {
                longshore_runner::ErrorClass::User => ErrorClass::User,
                longshore_runner::ErrorClass::Environment => ErrorClass::Environment,
                longshore_runner::ErrorClass::Internal => ErrorClass::Internal,
            },
            Self::Content(_) | Self::Io { .. } | Self::Snapshot(_) | Self::NoLayerImages(_) => {
                ErrorClass::Environment
            }
            Self::Remote(error) => error.class(),
            Self::Lock(error) => match &**error {
                crate::LockError::Gone { source, .. } => source.class(),
                _ => ErrorClass::User,
            },
            Self::Cache(_) => ErrorClass::Upstream,
            Self::TaskLost(_) => ErrorClass::Internal,
            _ => ErrorClass::User,
        }
    }

    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn layer<E: std::error::Error + Send + Sync + 'static>(
        layer: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        let layer = layer.to_string();
        move |source| Self::Layer {
            layer,
            source: Box::new(source),
        }
    }
}

impl From<crate::LockError> for EngineError {
    fn from(error: crate::LockError) -> Self {
        Self::Lock(Box::new(error))
    }
}

impl From<crate::RemoteError> for EngineError {
    fn from(error: crate::RemoteError) -> Self {
        Self::Remote(Box::new(error))
    }
}
