//! Sources from other machines: files by URL, git repositories.
//!
//! ```text
//!   URL ──GET, revalidated──► blob ──► layer of one file
//!   git ──ls-remote──► commit ──fetch──► mirror ──checkout──► layer's directory
//! ```
//! Invariant: within one build a URL has one content and a reference one commit, whoever
//! asks and how often; what a step is keyed by is what it gets.

mod checkout;
mod commit;
mod download;
mod error;
mod git;
mod http;
mod mirror;
mod record;
mod resume;
mod shown;
mod work_tree;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use longshore_content::Lease;
use longshore_graph::Source;
use longshore_solver::StepContext;
use tokio::sync::OnceCell;

pub(crate) use commit::{is_reference, is_whole_hash};
pub use error::RemoteError;
pub(crate) use http::HttpContext;
pub(crate) use mirror::{mirrors, remove_mirror};
pub(crate) use work_tree::commit_time;

use self::checkout::Checkout;
use self::commit::Commit;
use self::download::Download;
use crate::lock_file::Held;
use crate::{BuildRequest, Engine, EngineError, SecretSource};

/// The sources of one build.
pub(crate) struct Remotes {
    engine: Engine,
    lease: Arc<Lease>,
    secrets: BTreeMap<String, SecretSource>,
    ssh_agents: BTreeMap<String, PathBuf>,
    downloads: Memo<Arc<Download>>,
    commits: Memo<Commit>,
    checkouts: Memo<Checkout>,
    /// The URL of the main context, where it is an archive.
    context_archive: OnceLock<String>,
    /// What everything but the main context is held to: that is fetched before its lock is read.
    held: OnceLock<Arc<Held>>,
}

impl fmt::Debug for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remotes").finish_non_exhaustive()
    }
}

impl Remotes {
    /// Nothing was asked for yet. What comes is kept by `lease`.
    pub(crate) fn new(engine: Engine, request: &BuildRequest, lease: Arc<Lease>) -> Self {
        Self {
            engine,
            lease,
            secrets: request.secrets.clone(),
            ssh_agents: request.ssh_agents.clone(),
            downloads: Memo::default(),
            commits: Memo::default(),
            checkouts: Memo::default(),
            context_archive: OnceLock::new(),
            held: OnceLock::new(),
        }
    }

    /// Holds what is asked for from now on to a lock.
    pub(crate) fn hold(&self, held: Arc<Held>) {
        // A build has one lock.
        let _ = self.held.set(held);
    }

    /// What a source's name stands for, looked up; a directory and an image have none here.
    pub(crate) async fn look_up(&self, source: &Source) -> Result<(), EngineError> {
        match source {
            Source::Git(git) => drop(self.pin_git(git).await?),
            Source::Http(http) => drop(self.pin_http(http, None).await?),
            _ => {}
        }
        Ok(())
    }

    /// That a source's name is in the lock, where there is one to be held to.
    pub(crate) fn is_locked(&self, source: &Source) -> Result<(), EngineError> {
        match source {
            Source::Git(git) => self.is_commit_locked(git),
            Source::Http(http) => self.expected(http).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// When a source's content was made, seconds since 1970; nothing where it has no such time.
    pub(crate) async fn time_of(&self, source: &Source) -> Result<Option<i64>, EngineError> {
        match source {
            Source::Git(git) => Ok(Some(self.checkout(git).await?.time_s)),
            Source::Http(http) => self.time_of_download(http).await,
            _ => Ok(None),
        }
    }

    /// The value of the first of these secrets that there is.
    async fn secret(&self, ids: &[String]) -> Result<Option<(usize, String)>, EngineError> {
        for (at, id) in ids.iter().enumerate() {
            if let Some(secret) = self.secrets.get(id) {
                let value = String::from_utf8(secret.read().await?);
                let value =
                    value.map_err(|_| EngineError::Invalid(format!("secret {id}: not text")))?;
                return Ok(Some((at, value.trim().to_owned())));
            }
        }
        Ok(None)
    }
}

/// Who is told how far a source has come: the step that wants it, where it is for one.
pub(crate) type Watcher<'a> = Option<&'a StepContext>;

/// Makes each value once.
struct Memo<V>(Mutex<HashMap<String, Arc<OnceCell<V>>>>);

impl<V> Default for Memo<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V> Memo<V> {
    /// The place of a key's value.
    fn cell(&self, key: &str) -> Arc<OnceCell<V>> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cells.entry(key.to_owned()).or_default())
    }
}
