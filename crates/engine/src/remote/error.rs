//! Why a source from another machine cannot be had.

use longshore_oci::Digest;
use longshore_registry_client::{TransportError, WebError};

use crate::ErrorClass;

/// Why a file or repository cannot be fetched. URLs are shown without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The URL could not be asked.
    #[error("`{url}`: {source}")]
    Web {
        /// The URL.
        url: String,
        /// Why not.
        source: WebError,
    },
    /// The host does not give the file.
    #[error("`{url}`: `{host}` answers with status {status}")]
    Status {
        /// The URL.
        url: String,
        /// Who answered, after redirects.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection broke, again and again.
    #[error("`{url}`: connection failed: {source}")]
    Interrupted {
        /// The URL.
        url: String,
        /// How.
        source: TransportError,
    },
    /// The file is larger than any that is taken.
    #[error("`{url}` is larger than {limit} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The most bytes that are taken.
        limit: u64,
    },
    /// The file is not the one that was asked for.
    #[error("digest mismatch for `{url}`: {actual} (expected: {expected})")]
    Checksum {
        /// The URL.
        url: String,
        /// What came.
        actual: Box<Digest>,
        /// What was asked for.
        expected: Box<Digest>,
    },
    /// The URL's end cannot be a file's name.
    #[error("`{url}`: `{}` cannot be a file's name", name.escape_debug())]
    FileName {
        /// The URL.
        url: String,
        /// The name.
        name: String,
    },
    /// There is no `git`.
    #[error("cannot run `git`, which sources from repositories need: {0}")]
    NoGit(#[source] std::io::Error),
    /// `git` failed.
    #[error("cannot {doing} `{remote}`:\n{said}")]
    Git {
        /// What was tried.
        doing: &'static str,
        /// The repository.
        remote: String,
        /// What `git` said.
        said: String,
    },
    /// `git` said more than is read.
    #[error("cannot {doing} `{remote}`: git says more than {limit} bytes")]
    TooMuch {
        /// What was tried.
        doing: &'static str,
        /// The repository.
        remote: String,
        /// The most bytes that are read.
        limit: usize,
    },
    /// The repository's URL is of no kind that is fetched from.
    #[error("`{0}` is not a repository that can be fetched: http, https, ssh and git are known")]
    Transport(String),
    /// The reference cannot be one.
    #[error("invalid git ref `{}`", .0.escape_debug())]
    Reference(String),
    /// The repository has no such reference.
    #[error("repository `{remote}` does not contain ref `{reference}`")]
    NoReference {
        /// The repository.
        remote: String,
        /// The reference.
        reference: String,
    },
    /// The checksum is no beginning of a commit.
    #[error("invalid checksum `{}` for a git source: expected a commit hash", .0.escape_debug())]
    CommitForm(String),
    /// The reference stands for another commit.
    #[error("expected checksum to match {expected}, got {actual}")]
    CommitChecksum {
        /// What was asked for.
        expected: String,
        /// What there is.
        actual: String,
    },
    /// A directory of the repository that is none.
    #[error("`{subdir}` is not a directory of the repository: {source}")]
    Subdir {
        /// The directory.
        subdir: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A commit with more files than any that is checked out.
    #[error("the commit has more than {0}")]
    TooManyFiles(String),
}

impl RemoteError {
    /// Whether `git` said it.
    pub(crate) fn is_of_git(&self) -> bool {
        matches!(self, Self::Git { .. })
    }

    /// Whose business it is.
    pub fn class(&self) -> ErrorClass {
        use longshore_registry_client::ErrorClass as Web;
        match self {
            Self::Web { source, .. } => match source.class() {
                Web::User => ErrorClass::User,
                Web::Environment => ErrorClass::Environment,
                Web::Upstream => ErrorClass::Upstream,
            },
            Self::Status { status, .. } if *status < 500 => ErrorClass::User,
            Self::Status { .. } | Self::Interrupted { .. } => ErrorClass::Upstream,
            Self::NoGit(_) => ErrorClass::Environment,
            Self::Git { .. } => ErrorClass::Upstream,
            _ => ErrorClass::User,
        }
    }
}
