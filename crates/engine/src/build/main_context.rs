//! The main context: where it is, and the Dockerfile in it.
//!
//! A Dockerfile must be read before anything else is known, so what holds it is fetched
//! first. What strangers wrote (archives, repositories) is read as if it were the root
//! directory: no link in it leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_dockerfile::TEXT_BYTES_MAX;
use longshore_frontend::{ContextSource, git_source};
use longshore_graph::{GitSource, HttpSource, redacted_url};
use tokio::task::spawn_blocking;

use super::inputs::{CONTEXT, not_a_main_context, unpack_archive};
use crate::files::{read_beneath, read_regular};
use crate::lock_file::{LOCK_BYTES_MAX, LockPlace, beside};
use crate::remote::{HttpContext, Remotes};
use crate::{BuildRequest, ContextSpec, DockerfileSpec, Engine, EngineError};

const DOCKERFILE: &str = "Dockerfile";
/// BuildKit falls back to the lower-case name.
const DOCKERFILE_LOWER: &str = "dockerfile";

/// Where the main context is.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere.
    Nothing,
    /// A directory of this machine.
    Directory(PathBuf),
    /// An archive of this machine, unpacked; removed with this.
    Unpacked(tempfile::TempDir),
    /// A repository, checked out.
    Git {
        source: GitSource,
        root: Arc<OwnedFd>,
    },
    /// An archive at a URL, unpacked to read the Dockerfile.
    HttpArchive {
        source: HttpSource,
        unpacked: tempfile::TempDir,
    },
    /// A Dockerfile at a URL.
    HttpText { source: HttpSource, text: Vec<u8> },
}

impl Place {
    /// What the project is likely to be called on other machines too: steps with the same words
    /// in another project explain no miss.
    pub(super) fn project(&self) -> String {
        match self {
            Self::Nothing | Self::Unpacked(_) => String::new(),
            Self::Directory(path) => {
                let whole = path.canonicalize();
                let path = whole.as_ref().unwrap_or(path);
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            Self::Git { source, .. } => {
                format!("{} {}", redacted_url(&source.remote), source.subdir)
            }
            Self::HttpArchive { source, .. } | Self::HttpText { source, .. } => {
                redacted_url(&source.url)
            }
        }
    }
}

/// A Dockerfile as it was read.
#[derive(Debug)]
pub(super) struct DockerfileText {
    pub(super) bytes: Vec<u8>,
    /// For messages.
    pub(super) name: String,
    /// Where it is a file of this machine.
    pub(super) path: Option<PathBuf>,
    pub(super) lock: LockPlace,
}

impl Place {
    /// Finds the context, and fetches it where its Dockerfile is not here.
    pub(super) async fn of(
        engine: &Engine,
        request: &BuildRequest,
        remotes: &Remotes,
    ) -> Result<Self, EngineError> {
        match &request.context {
            ContextSpec::Empty => Ok(Self::Nothing),
            ContextSpec::Directory(path) => Ok(Self::Directory(path.clone())),
            ContextSpec::Archive(path) => unpacked(engine, path).await.map(Self::Unpacked),
            ContextSpec::Git(url) => {
                let source = git_context(url)?;
                let root = remotes.git_directory(&source).await?;
                Ok(Self::Git { source, root })
            }
            ContextSpec::Http(url) => match remotes.http_context(url).await? {
                HttpContext::Archive(source, path) => {
                    let unpacked = unpacked(engine, &path).await?;
                    Ok(Self::HttpArchive { source, unpacked })
                }
                HttpContext::Dockerfile(source, text) => Ok(Self::HttpText { source, text }),
            },
            ContextSpec::Image(reference) => Err(not_a_main_context(&format!(
                "docker-image://{}",
                reference.familiar()
            ))),
            ContextSpec::OciLayout(layout) => {
                Err(not_a_main_context(&format!("oci-layout://{layout}")))
            }
        }
    }

    /// What the frontend is told of it.
    pub(super) fn source(&self) -> ContextSource {
        match self {
            Self::Nothing => ContextSource::Empty,
            Self::Directory(_) | Self::Unpacked(_) => ContextSource::Local {
                name: CONTEXT.to_owned(),
            },
            Self::Git { source, .. } => ContextSource::Git(source.clone()),
            Self::HttpArchive { source, .. } => ContextSource::Http {
                source: source.clone(),
                archive: true,
            },
            Self::HttpText { source, .. } => ContextSource::Http {
                source: source.clone(),
                archive: false,
            },
        }
    }

    /// What identifies a context on another machine; it was looked up before.
    pub(super) async fn identity(&self, remotes: &Remotes) -> Result<Option<String>, EngineError> {
        match self {
            Self::Git { source, .. } => remotes.pin_git(source).await.map(Some),
            Self::HttpArchive { source, .. } | Self::HttpText { source, .. } => {
                remotes.pin_http(source, None).await.map(Some)
            }
            Self::Nothing | Self::Directory(_) | Self::Unpacked(_) => Ok(None),
        }
    }

    /// The directory of this machine that it is.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Unpacked(folder) => Some(folder.path()),
            _ => None,
        }
    }

    /// The Dockerfile, here or elsewhere.
    pub(super) fn dockerfile(&self, spec: &DockerfileSpec) -> Result<DockerfileText, EngineError> {
        match spec {
            DockerfileSpec::Text(bytes) => Ok(DockerfileText {
                bytes: bytes.clone(),
                name: "-".to_owned(),
                path: None,
                lock: LockPlace::Nowhere("-".to_owned(), "it is no file"),
            }),
            DockerfileSpec::File(path) => from_file(path.clone(), path.display().to_string()),
            DockerfileSpec::InContext(name) => self.dockerfile_in(name),
        }
    }

    fn dockerfile_in(&self, name: &str) -> Result<DockerfileText, EngineError> {
        match self {
            Self::Nothing => Err(EngineError::Invalid(
                "there is neither a context nor a Dockerfile".to_owned(),
            )),
            Self::Directory(folder) => {
                let mut path = folder.join(name);
                if name == DOCKERFILE && !path.exists() && folder.join(DOCKERFILE_LOWER).exists() {
                    path = folder.join(DOCKERFILE_LOWER);
                }
                let shown = shown_name(&path, name);
                from_file(path, shown)
            }
            Self::Unpacked(folder) => from_unpacked(folder, name),
            Self::HttpArchive { unpacked, .. } => from_unpacked(unpacked, name),
            Self::Git { root, .. } => beneath(root.as_fd(), name),
            Self::HttpText { source, text } => {
                let name = redacted_url(&source.url);
                Ok(DockerfileText {
                    bytes: text.clone(),
                    lock: LockPlace::Nowhere(name.clone(), "it is no file of this machine"),
                    name,
                    path: None,
                })
            }
        }
    }
}

/// The repository of a context. `github.com/…` is short for its URL.
pub(super) fn git_context(url: &str) -> Result<GitSource, EngineError> {
    let url = whole_git_url(url);
    let shown = redacted_url(&url);
    let source = git_source(&url).ok_or_else(|| {
        EngineError::Invalid(format!("context `{shown}` is not a git repository's URL"))
    })?;
    source.map_err(|error| EngineError::Invalid(format!("context `{shown}`: {error}")))
}

/// A repository's URL with what may be left out of it.
pub(super) fn whole_git_url(url: &str) -> String {
    if !url.starts_with("github.com/") {
        return url.to_owned();
    }
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (path, rest) = url.split_at(end);
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    format!("https://{path}.git{rest}")
}

async fn unpacked(engine: &Engine, path: &Path) -> Result<tempfile::TempDir, EngineError> {
    let (engine, path) = (engine.clone(), path.to_owned());
    spawn_blocking(move || unpack_archive(&engine, &path)).await?
}

fn from_file(path: PathBuf, name: String) -> Result<DockerfileText, EngineError> {
    let bytes =
        read_regular(&path, TEXT_BYTES_MAX as u64).map_err(EngineError::io("read", &path))?;
    Ok(DockerfileText {
        bytes,
        name,
        lock: LockPlace::File(beside(&path)),
        path: Some(path),
    })
}

fn from_unpacked(folder: &tempfile::TempDir, name: &str) -> Result<DockerfileText, EngineError> {
    let root = File::open(folder.path()).map_err(EngineError::io("open", folder.path()))?;
    beneath(root.as_fd(), name)
}

fn beneath(root: BorrowedFd<'_>, name: &str) -> Result<DockerfileText, EngineError> {
    let limit = TEXT_BYTES_MAX as u64;
    let mut read = read_beneath(root, Path::new(name), limit);
    let mut name = name;
    if name == DOCKERFILE
        && read
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        // Its absence is told by the usual name.
        if let Ok(bytes) = read_beneath(root, Path::new(DOCKERFILE_LOWER), limit) {
            (read, name) = (Ok(bytes), DOCKERFILE_LOWER);
        }
    }
    let bytes = read.map_err(EngineError::io("read", name))?;
    Ok(DockerfileText {
        bytes,
        name: shown_name(Path::new(name), name),
        path: None,
        lock: lock_beneath(root, name)?,
    })
}

/// The lock file of a context that cannot be written to.
fn lock_beneath(root: BorrowedFd<'_>, dockerfile: &str) -> Result<LockPlace, EngineError> {
    let path = beside(Path::new(dockerfile));
    let name = path.display().to_string();
    match read_beneath(root, &path, LOCK_BYTES_MAX) {
        Ok(bytes) => Ok(LockPlace::InContext(name, Some(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(LockPlace::InContext(name, None))
        }
        Err(error) => Err(EngineError::io("read", path)(error)),
    }
}

fn shown_name(path: &Path, otherwise: &str) -> String {
    path.file_name().map_or_else(
        || otherwise.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn githubs_short_form_is_a_url() {
        for (short, url) in [
            ("github.com/a/b", "https://github.com/a/b.git"),
            ("github.com/a/b.git#v1:d", "https://github.com/a/b.git#v1:d"),
            ("github.com/a/b/?ref=x", "https://github.com/a/b.git?ref=x"),
            ("git@github.com:a/b", "git@github.com:a/b"),
        ] {
            assert_eq!(whole_git_url(short), url);
        }
    }

    #[test]
    fn passwords_of_contexts_are_not_told() {
        for url in ["https://u:secret@h/a.git?x=y", "https://u:secret@h/a"] {
            let error = git_context(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
