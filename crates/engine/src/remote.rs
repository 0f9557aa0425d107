//! Sources from other machines: files by URL, git repositories.

use longshore_graph::{GitSource, HttpSource, Source};

use crate::tree::Tree;
use crate::{Engine, EngineError};

fn unsupported(what: &str, name: &str) -> EngineError {
    EngineError::Invalid(format!("`{name}`: {what} is not supported yet"))
}

/// One file from a URL, as a tree.
pub(crate) async fn http(_engine: &Engine, source: &HttpSource) -> Result<Tree, EngineError> {
    Err(unsupported("ADD from a URL", &source.url))
}

/// What identifies the file at a URL now.
pub(crate) async fn pin_http(_engine: &Engine, source: &HttpSource) -> Result<String, EngineError> {
    Err(unsupported("ADD from a URL", &source.url))
}

/// A repository's work tree.
pub(crate) async fn git(_engine: &Engine, source: &GitSource) -> Result<Tree, EngineError> {
    Err(unsupported("a git source", &source.remote))
}

/// The commit that a git source stands for now.
pub(crate) async fn pin_git(_engine: &Engine, source: &GitSource) -> Result<String, EngineError> {
    Err(unsupported("a git source", &source.remote))
}

/// When a source's content was made; nothing where it has no such time.
pub(crate) async fn source_time(_engine: &Engine, source: &Source) -> Result<Option<i64>, EngineError> {
    match source {
        Source::Git(git) => Err(unsupported("a git source", &git.remote)),
        Source::Http(http) => Err(unsupported("a source from a URL", &http.url)),
        _ => Ok(None),
    }
}
