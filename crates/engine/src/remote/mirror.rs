//! Mirrors: what was fetched of a repository, kept for the next build.
//!
//! ```text
//! cache/git/<hash of the remote>        a bare repository, shallow where the server can do that
//! cache/git/<hash of the remote>.lock   held while it is used
//! ```
//! Invariant: a commit that a mirror has, it has with all of its files, because only whole
//! packs are ever added to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use longshore_graph::{GitSource, redacted_url};
use tokio::task::spawn_blocking;

use super::commit::Commit;
use super::git::{Call, Git};
use super::{RemoteError, Remotes};
use crate::EngineError;
use crate::build::LockedFile;
use crate::files::disk_bytes;

/// What servers say that do not give a commit by its name, or no part of a history.
const WAYS_MISSING: &[&str] = &[
    "not our ref",
    "unadvertised object",
    "shallow",
    "--depth",
    "dumb http",
];

/// A file in a mirror whose time says when it was last used.
const USED: &str = "longshore-used";

/// A repository's mirror, for this process alone while it lives.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
    _lock: LockedFile,
}

impl Remotes {
    /// The mirror of a source's repository, with the commit in it.
    pub(super) async fn mirror(
        &self,
        git: &Git,
        source: &GitSource,
        commit: &Commit,
    ) -> Result<Mirror, EngineError> {
        let mirror = self.open_mirror(source, commit).await?;
        let is_new = !mirror.path.join("HEAD").exists();
        if is_new {
            // Without HEAD, what is here is the rest of one that was not finished.
            remove_tree(&mirror.path).await?;
            create(git, &mirror.path, commit).await?;
        }
        match fetch(git, &mirror.path, source, commit).await {
            // What was fetched before may be damaged.
            Err(EngineError::Remote(error)) if !is_new && error.is_of_git() => {
                mirror.renew(git, source, commit).await?;
            }
            fetched => fetched?,
        }
        Ok(mirror)
    }

    async fn open_mirror(
        &self,
        source: &GitSource,
        commit: &Commit,
    ) -> Result<Mirror, EngineError> {
        let hash = blake3::hash(source.remote.as_bytes()).to_hex();
        // A repository has one of the two sorts of hashes; one that changed is another.
        let name = format!("{}-{}", &hash[..32], commit.object.len());
        let path = self.engine.cache_directory("git").join(name);
        let lock = lock_of(&path);
        spawn_blocking(move || {
            let lock = LockedFile::lock(lock.clone()).map_err(EngineError::io("lock", lock))?;
            remove_stale_locks(&path).map_err(EngineError::io("clean", &path))?;
            let used = fs::File::create(path.join(USED)).map(drop);
            absent_is_fine(used).map_err(EngineError::io("touch", &path))?;
            Ok(Mirror { path, _lock: lock })
        })
        .await?
    }
}

impl Mirror {
    /// The bare repository.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fetches the commit anew, and forgets what was fetched before.
    pub(super) async fn renew(
        &self,
        git: &Git,
        source: &GitSource,
        commit: &Commit,
    ) -> Result<(), EngineError> {
        tracing::warn!(
            remote = redacted_url(&source.remote),
            "the mirror is fetched again"
        );
        let fresh = self.path.with_extension("new");
        remove_tree(&fresh).await?;
        create(git, &fresh, commit).await?;
        fetch(git, &fresh, source, commit).await?;
        remove_tree(&self.path).await?;
        fs::rename(&fresh, &self.path).map_err(EngineError::io("rename", fresh))
    }
}

async fn create(git: &Git, path: &Path, commit: &Commit) -> Result<(), EngineError> {
    let format = if commit.object.len() == 64 {
        "sha256"
    } else {
        "sha1"
    };
    let mut call = Call::new("make a mirror of");
    call.args([
        "init",
        "--quiet",
        "--bare",
        &format!("--object-format={format}"),
        "--",
    ]);
    call.args([path]);
    Ok(git.run(call).await?)
}

async fn has(git: &Git, path: &Path, object: &str) -> Result<bool, RemoteError> {
    let mut call = Call::within("look into the mirror of", path);
    call.args(["cat-file", "-e", &format!("{object}^{{commit}}")]);
    git.succeeds(call).await
}

/// Fetches the commit in the least costly way that the server knows.
async fn fetch(
    git: &Git,
    path: &Path,
    source: &GitSource,
    commit: &Commit,
) -> Result<(), EngineError> {
    let object = commit.object.as_str();
    if has(git, path, object).await? {
        return Ok(());
    }
    let mut failed = None;
    for way in ways(source, commit) {
        let mut call = Call::within("fetch", path);
        call.protocols = git.protocols();
        call.args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--force",
        ]);
        if way.shallow {
            call.args(["--depth=1"]);
        } else if path.join("shallow").exists() {
            call.args(["--unshallow"]);
        }
        call.args(["--", &source.remote]);
        call.args(&way.refspecs);
        match git.run(call).await {
            Ok(()) if has(git, path, object).await? => return Ok(()),
            Ok(()) => {}
            Err(RemoteError::Git { said, .. }) if has_no_such_way(&said) => {
                failed.get_or_insert(said);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let reference = commit.reference.as_ref();
    let reference = reference.map_or_else(String::new, |name| format!(" ({name})"));
    let lacks = format!("the repository does not have commit {object}{reference}");
    let said = match failed {
        Some(said) => format!("{said}\n{lacks}"),
        None => lacks,
    };
    Err(EngineError::from(RemoteError::Git {
        doing: "fetch",
        remote: redacted_url(&source.remote),
        said,
    }))
}

/// A mirror as it lies below its folder.
pub(crate) struct StoredMirror {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) last_used: SystemTime,
}

/// The mirrors below a folder.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn mirrors(folder: &Path) -> io::Result<Vec<StoredMirror>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.is_dir() {
            let used = fs::metadata(path.join(USED)).and_then(|meta| meta.modified());
            found.push(StoredMirror {
                name: name.to_owned(),
                bytes: disk_bytes(&path)?,
                last_used: used.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
    }
    Ok(found)
}

/// Removes a mirror below a folder, unless somebody uses it now; whether it went.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove_mirror(folder: &Path, name: &Path) -> io::Result<bool> {
    let path = folder.join(name);
    let Some(_lock) = LockedFile::try_lock(lock_of(&path))? else {
        return Ok(false);
    };
    absent_is_fine(fs::remove_dir_all(&path))?;
    Ok(true)
}

/// The lock of a mirror, beside it.
fn lock_of(mirror: &Path) -> PathBuf {
    mirror.with_extension("lock")
}

/// A way to fetch a commit.
struct Way {
    shallow: bool,
    refspecs: Vec<String>,
}

/// The ways to fetch a commit: by its name; by the reference; with the whole history of the
/// reference, and of all others.
fn ways(source: &GitSource, commit: &Commit) -> Vec<Way> {
    // A reference of our own, so that the next fetch builds on this one.
    let name = blake3::hash(source.reference.as_bytes()).to_hex();
    let own = format!("refs/longshore/one/{}", &name[..32]);
    let mut ways = vec![Way {
        shallow: true,
        refspecs: vec![format!("+{}:{own}", commit.object)],
    }];
    for shallow in [true, false] {
        let named = commit.reference.iter();
        ways.extend(named.map(|name| Way {
            shallow,
            refspecs: vec![format!("+{name}:{own}")],
        }));
    }
    let all = ["heads", "tags"].map(|kind| format!("+refs/{kind}/*:refs/longshore/{kind}/*"));
    ways.push(Way {
        shallow: false,
        refspecs: all.to_vec(),
    });
    ways
}

fn has_no_such_way(said: &str) -> bool {
    WAYS_MISSING.iter().any(|phrase| said.contains(phrase))
}

/// The locks of a `git` that was killed: nobody else uses the mirror now.
fn remove_stale_locks(path: &Path) -> io::Result<()> {
    for name in [
        "shallow.lock",
        "packed-refs.lock",
        "config.lock",
        "HEAD.lock",
    ] {
        absent_is_fine(fs::remove_file(path.join(name)))?;
    }
    for kind in ["one", "heads", "tags"] {
        remove_locks_below(&path.join("refs/longshore").join(kind))?;
    }
    Ok(())
}

fn remove_locks_below(folder: &Path) -> io::Result<()> {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "lock") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

async fn remove_tree(path: &Path) -> Result<(), EngineError> {
    let path = path.to_owned();
    spawn_blocking(move || {
        absent_is_fine(fs::remove_dir_all(&path)).map_err(EngineError::io("remove", path))
    })
    .await?
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
