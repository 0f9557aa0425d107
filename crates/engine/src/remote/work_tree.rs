//! When the commit of a clean work tree was made.
//!
//! Whoever made a directory may have written its `.git` as well, and a repository's settings
//! can name programs to run. So git gets a repository of ours, which has the other's objects
//! and index, and none of its settings or hooks. What cannot be told that way, or only by
//! looking into another repository (submodules), is not clean: the answer decides no more
//! than the times of a build.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use tokio::task::spawn_blocking;

use super::checkout::TIME_S_MAX;
use super::commit::is_whole_hash;
use super::git::{Call, Git};
use crate::files::read_regular;
use crate::{Engine, EngineError};

/// The largest `HEAD`, reference or `.git` file.
const POINTER_BYTES_MAX: u64 = 4096;
/// The largest `packed-refs`.
const PACKED_BYTES_MAX: u64 = 64 << 20;

/// A work tree of this machine and the repository that it belongs to.
#[derive(Debug, PartialEq, Eq)]
struct WorkTree {
    path: PathBuf,
    /// What belongs to this work tree alone: `HEAD`, the index.
    own: PathBuf,
    /// What its repository's work trees share: references, objects.
    common: PathBuf,
    /// The commit that is checked out.
    head: String,
}

/// When the commit of the clean work tree that `directory` is in was made, seconds since
/// 1970. `None` where there is none, or no `git`, or a file in it is not as committed.
pub(crate) async fn commit_time(engine: &Engine, directory: &Path) -> Option<i64> {
    let directory = directory.to_owned();
    let found = spawn_blocking(move || WorkTree::around(&directory)).await;
    let work_tree = found.ok()??;
    match work_tree.commit_time(engine.root().tmp_dir()).await {
        Ok(time) => time,
        Err(error) => {
            tracing::debug!(%error, "the work tree is taken for changed");
            None
        }
    }
}

impl WorkTree {
    /// The work tree that a directory is in.
    fn around(directory: &Path) -> Option<Self> {
        let directory = fs::canonicalize(directory).ok()?;
        let path = directory
            .ancestors()
            .find(|above| above.join(".git").symlink_metadata().is_ok())?;
        let own = git_directory(path)?;
        let common = match read_pointer(&own.join("commondir")) {
            Ok(common) => own.join(common),
            Err(error) if error.kind() == io::ErrorKind::NotFound => own.clone(),
            Err(_) => return None,
        };
        let head = head(&own, &common)?;
        Some(Self {
            path: path.to_owned(),
            own,
            common,
            head,
        })
    }

    async fn commit_time(&self, tmp: &Path) -> Result<Option<i64>, EngineError> {
        if self.path.join(".gitmodules").symlink_metadata().is_ok() {
            return Ok(None);
        }
        let git = Git::of_this_machine(tmp, &self.common.join("info/exclude"))?;
        let (repository, index, objects) = (
            git.home().join("repository"),
            self.own.join("index"),
            self.common.join("objects"),
        );
        make_repository(&repository, &self.head).map_err(EngineError::io("make", &repository))?;
        let call = |doing| {
            let mut call = Call::within(doing, &repository);
            call.work_tree = Some(&self.path);
            call.index = Some(&index);
            call.objects = Some(&objects);
            call
        };
        let mut status = call("compare the work tree of");
        status.args([
            "status",
            "--porcelain",
            "-z",
            "--no-renames",
            "--untracked-files=normal",
            "--ignore-submodules=all",
        ]);
        if !git.text(status).await?.is_empty() {
            return Ok(None);
        }
        let mut log = call("read the commit of");
        log.args(["log", "-1", "--format=%ct", &self.head]);
        let time = git.text(log).await?.trim().parse().ok();
        Ok(time.map(|time: i64| time.clamp(0, TIME_S_MAX)))
    }
}

/// A repository without objects, settings and hooks, at a commit.
fn make_repository(path: &Path, head: &str) -> io::Result<()> {
    fs::create_dir_all(path.join("refs"))?;
    fs::write(path.join("HEAD"), format!("{head}\n"))
}

/// `.git`, or the directory that the file `.git` names.
fn git_directory(work_tree: &Path) -> Option<PathBuf> {
    let path = work_tree.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    let text = read_pointer(&path).ok()?;
    Some(work_tree.join(text.strip_prefix("gitdir: ")?))
}

/// The commit that `HEAD` leads to.
fn head(own: &Path, common: &Path) -> Option<String> {
    let head = read_pointer(&own.join("HEAD")).ok()?;
    let Some(reference) = head.strip_prefix("ref: ") else {
        return is_whole_hash(&head).then_some(head);
    };
    let is_plain = |part| matches!(part, Component::Normal(_));
    if !reference.starts_with("refs/") || !Path::new(reference).components().all(is_plain) {
        return None;
    }
    let loose = read_pointer(&common.join(reference)).ok();
    let hash = loose.or_else(|| packed(common, reference))?;
    is_whole_hash(&hash).then_some(hash)
}

/// What `packed-refs` says of a reference: lines of `HASH NAME`.
fn packed(common: &Path, reference: &str) -> Option<String> {
    let bytes = read_regular(&common.join("packed-refs"), PACKED_BYTES_MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut named = text.lines().filter_map(|line| line.split_once(' '));
    let (hash, _) = named.find(|(_, name)| *name == reference)?;
    Some(hash.to_owned())
}

fn read_pointer(path: &Path) -> io::Result<String> {
    let bytes = read_regular(path, POINTER_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| io::Error::other(error.utf8_error()))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn heads_are_found_loose_packed_detached_and_in_further_work_trees() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let git = top.join("r/.git");
        let found = |path: &str| WorkTree::around(&top.join(path));
        fs::create_dir_all(top.join("r/a/b")).unwrap();
        assert_eq!(found("r/a/b"), None);

        write(git.join("HEAD"), "ref: refs/heads/main\n");
        assert_eq!(found("r"), None, "no commit yet");
        let packed = format!("# pack-refs\n{HASH} refs/heads/main\n");
        write(git.join("packed-refs"), &packed);
        let at = found("r/a/b").unwrap();
        assert_eq!((at.path, at.head.as_str()), (top.join("r"), HASH));

        let loose = HASH.replace('0', "f");
        write(git.join("refs/heads/main"), &loose);
        assert_eq!(found("r").unwrap().head, loose);
        write(git.join("HEAD"), HASH);
        assert_eq!(found("r").unwrap().head, HASH);

        write(git.join("worktrees/w/HEAD"), "ref: refs/heads/main\n");
        write(git.join("worktrees/w/commondir"), "../..\n");
        let pointer = format!("gitdir: {}\n", git.join("worktrees/w").display());
        write(top.join("w/.git"), &pointer);
        let at = found("w").unwrap();
        assert_eq!((at.head, at.own), (loose, git.join("worktrees/w")));
    }

    #[test]
    fn a_head_names_nothing_outside_the_repository() {
        let folder = tempfile::tempdir().unwrap();
        let git = folder.path().join("r/.git");
        write(folder.path().join("r/refs/x"), HASH);
        for head in [
            "ref: refs/../../refs/x",
            "ref: /etc/hostname",
            "ref: HEAD",
            "zz",
        ] {
            write(git.join("HEAD"), head);
            assert_eq!(WorkTree::around(&folder.path().join("r")), None, "{head}");
        }
    }
}
