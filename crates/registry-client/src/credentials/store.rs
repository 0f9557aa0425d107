//! Credentials on this machine: files in order of precedence, and helpers.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::file::{AuthFile, HelperEntry, encode_entry};
use super::helper::Helper;
use super::{CREDENTIAL_FILE_BYTES_MAX, CredentialError, CredentialSource, Credentials};

/// Reads credentials from files and helpers, and keeps them there.
///
/// Files are read anew at each question, so that a login by another program counts.
/// A file that does not exist is empty.
#[derive(Clone, Debug, Default)]
pub struct CredentialStore {
    files: Vec<PathBuf>,
    helper_directories: Vec<PathBuf>,
}

impl CredentialStore {
    /// Reads `files` in this order; the first that knows a registry wins. Helpers are
    /// searched in `helper_directories` (what `$PATH` lists).
    pub fn new(files: Vec<PathBuf>, helper_directories: Vec<PathBuf>) -> Self {
        Self {
            files,
            helper_directories,
        }
    }

    /// Keeps credentials for a registry: in the helper that `file` names for it, else
    /// in `file` itself, which is replaced atomically and readable by its owner only.
    ///
    /// # Errors
    /// When the file or helper fails, or cannot hold this kind of credentials.
    pub async fn login(
        &self,
        file: &Path,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<(), CredentialError> {
        let mut content = load(file).await?;
        let entry = match content.helper(registry) {
            Some(helper) => {
                self.store_in_helper(&helper, registry, credentials).await?;
                // Docker lists the registry with an empty entry, and so does every reader.
                serde_json::json!({})
            }
            None => encode_entry(credentials),
        };
        let edited = content.store(registry, &entry);
        edited.map_err(|problem| invalid(file, problem))?;
        save(file, content.to_text()).await
    }

    /// Forgets the credentials for a registry in `file` and its helper; tells whether
    /// the file listed the registry.
    ///
    /// # Errors
    /// When the file or helper fails.
    pub async fn logout(&self, file: &Path, registry: &str) -> Result<bool, CredentialError> {
        let mut content = load(file).await?;
        if let Some(entry) = content.helper(registry) {
            let helper = Helper::find(&entry.helper, &self.helper_directories)?;
            helper.erase(&entry.server).await?;
        }
        let erased = content.erase(registry);
        let erased = erased.map_err(|problem| invalid(file, problem))?;
        if erased {
            save(file, content.to_text()).await?;
        }
        Ok(erased)
    }

    async fn store_in_helper(
        &self,
        entry: &HelperEntry,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<(), CredentialError> {
        let helper = Helper::find(&entry.helper, &self.helper_directories)?;
        let (username, secret) = match credentials {
            Credentials::Password { username, password } => (username.as_str(), password),
            Credentials::IdentityToken(token) => ("<token>", token),
            Credentials::RegistryToken(_) => {
                return Err(CredentialError::NotStorable {
                    registry: registry.to_owned(),
                    problem: "a credential helper cannot hold a registry token",
                });
            }
        };
        helper.store(&entry.server, username, secret).await
    }

    async fn lookup_in(
        &self,
        file: &Path,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialError> {
        let content = load(file).await?;
        if let Some(entry) = content.helper(registry) {
            let helper = Helper::find(&entry.helper, &self.helper_directories)?;
            if let Some(found) = helper.get(&entry.server).await? {
                return Ok(Some(found));
            }
        }
        let found = content.lookup(registry, repository);
        found.map_err(|problem| invalid(file, problem))
    }
}

#[async_trait]
impl CredentialSource for CredentialStore {
    async fn credentials(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>, CredentialError> {
        for file in &self.files {
            if let Some(found) = self.lookup_in(file, registry, repository).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn invalid(path: &Path, problem: String) -> CredentialError {
    CredentialError::Content {
        path: path.to_owned(),
        problem,
    }
}

async fn load(path: &Path) -> Result<AuthFile, CredentialError> {
    let owned = path.to_owned();
    let text = blocking(move || read_bounded(&owned))
        .await
        .map_err(|error| CredentialError::File {
            action: "read",
            path: path.to_owned(),
            error,
        })?;
    match text {
        None => Err(CredentialError::TooLarge {
            path: path.to_owned(),
        }),
        Some(text) => AuthFile::parse(&text).map_err(|problem| invalid(path, problem)),
    }
}

/// The file's text, empty where there is no file, `None` where there is too much.
fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(String::new())),
        other => other?,
    };
    let mut text = String::new();
    let read = file
        .take(CREDENTIAL_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    Ok((read as u64 <= CREDENTIAL_FILE_BYTES_MAX).then_some(text))
}

async fn save(path: &Path, text: String) -> Result<(), CredentialError> {
    let owned = path.to_owned();
    blocking(move || replace(&owned, &text))
        .await
        .map_err(|error| CredentialError::File {
            action: "write",
            path: path.to_owned(),
            error,
        })
}

/// Replaces the file's content: a reader sees the old or the new text, never a part,
/// and the temporary file (created 0600) is never wider than the result.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A linked file stays linked: its target is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}
