//! Why a lock file does not hold.

use longshore_oci::Digest;

use crate::EngineError;

/// Why a lock file cannot be used, or an input is not what it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The file is not one.
    #[error("`{file}`, line {line}: {message}")]
    Malformed {
        /// The lock file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is none.
    #[error("there is no `{file}`: `longshore lock` writes it")]
    Absent {
        /// Where it was looked for.
        file: String,
    },
    /// The Dockerfile has no place that a lock file could be beside.
    #[error("{what} cannot have a lock file: {why}")]
    NoPlace {
        /// The Dockerfile.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// The Dockerfile uses a name that the lock file does not have.
    #[error("the {sort} `{name}` is not in `{file}`: `longshore lock` adds it")]
    NotLocked {
        /// Of which sort.
        sort: &'static str,
        /// The name.
        name: String,
        /// The lock file.
        file: String,
    },
    /// What a name is locked to cannot be had.
    #[error(
        "the {sort} `{name}` is locked to {value} by `{file}`, and that cannot be had: {source}; \
         `longshore lock --update {name}` takes what it is now"
    )]
    Gone {
        /// Of which sort.
        sort: &'static str,
        /// The name.
        name: String,
        /// The digest or commit.
        value: String,
        /// The lock file.
        file: String,
        /// Why not.
        source: Box<EngineError>,
    },
    /// A file by URL is another one.
    #[error(
        "`{name}` is locked to {expected} by `{file}`, but what is there is {actual}; \
         `longshore lock --update {name}` takes what it is now"
    )]
    Changed {
        /// The URL.
        name: String,
        /// What is in the lock file.
        expected: Box<Digest>,
        /// What there is.
        actual: Box<Digest>,
        /// The lock file.
        file: String,
    },
    /// A name stood for two things in one build.
    #[error(
        "the {sort} `{name}` cannot be locked: it stood for {first} and for {second} in the same \
         build; `--pull` asks the registry for every platform"
    )]
    Ambiguous {
        /// Of which sort.
        sort: &'static str,
        /// The name.
        name: String,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A name to be looked up again that is not in the lock file.
    #[error("`{name}` is not in `{file}`; it has: {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// The lock file.
        file: String,
        /// What it has.
        known: String,
    },
}
