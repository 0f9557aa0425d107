//! Which commit a reference of a repository stands for.

use longshore_graph::{GitSource, redacted_url};

use super::git::Call;
use super::{RemoteError, Remotes};
use crate::EngineError;
use crate::lock_file::PinnedCommit;

/// The longest reference: what file systems of servers take.
const REFERENCE_BYTES_MAX: usize = 1024;

/// What a reference stood for when it was first asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// The commit, or the annotated tag.
    pub(super) object: String,
    /// The commit of an annotated tag.
    pub(super) peeled: Option<String>,
    /// The whole name of the reference; nothing for a commit that was named itself.
    pub(super) reference: Option<String>,
}

impl Remotes {
    /// The commit of a git source; the same throughout the build.
    pub(super) async fn commit(&self, source: &GitSource) -> Result<Commit, EngineError> {
        check_reference(&source.reference)?;
        if let Some(checksum) = &source.checksum {
            check_commit_prefix(checksum)?;
        }
        let commit = if is_whole_hash(&source.reference) {
            Commit {
                object: source.reference.to_ascii_lowercase(),
                peeled: None,
                reference: None,
            }
        } else {
            let cell = self
                .commits
                .cell(&format!("{}\0{}", source.remote, source.reference));
            cell.get_or_try_init(|| Box::pin(self.resolve_commit(source)))
                .await?
                .clone()
        };
        commit.check(source.checksum.as_deref())?;
        Ok(commit)
    }

    /// What identifies a git source's tree.
    pub(crate) async fn pin_git(&self, source: &GitSource) -> Result<String, EngineError> {
        let commit = self.commit(source).await?;
        Ok(identity(source, &commit))
    }

    /// That the lock, where there is one to be held to, knows a reference; the main context's was
    /// looked up before.
    pub(super) fn is_commit_locked(&self, source: &GitSource) -> Result<(), EngineError> {
        let cell = self
            .commits
            .cell(&format!("{}\0{}", source.remote, source.reference));
        let is_known = is_whole_hash(&source.reference) || cell.initialized();
        if let (Some(held), false) = (self.held.get(), is_known) {
            held.commit(source)?;
        }
        Ok(())
    }

    /// What the lock says, else the repository.
    async fn resolve_commit(&self, source: &GitSource) -> Result<Commit, EngineError> {
        let Some(held) = self.held.get() else {
            return self.ask(source).await;
        };
        let commit = match held.commit(source)? {
            Some(pinned) => Commit::from(pinned),
            None => self.ask(source).await?,
        };
        held.found_commit(source, commit.pinned());
        Ok(commit)
    }

    async fn ask(&self, source: &GitSource) -> Result<Commit, EngineError> {
        let git = self.git(source).await?;
        let reference = source.reference.as_str();
        let mut call = Call::new("look up references of");
        call.protocols = git.protocols();
        if reference.is_empty() {
            call.args(["ls-remote", "--symref", "--", &source.remote, "HEAD"]);
        } else {
            let peeled = format!("{reference}^{{}}");
            call.args(["ls-remote", "--", &source.remote, reference, &peeled]);
        }
        let answer = git.text(call).await?;
        let found = if reference.is_empty() {
            head(&answer)
        } else {
            find(&answer, reference)
        };
        found.ok_or_else(|| {
            let reference = if reference.is_empty() {
                "HEAD"
            } else {
                reference
            };
            EngineError::from(RemoteError::NoReference {
                remote: redacted_url(&source.remote),
                reference: reference.to_owned(),
            })
        })
    }
}

impl From<PinnedCommit> for Commit {
    fn from(pinned: PinnedCommit) -> Self {
        let PinnedCommit {
            reference,
            commit,
            tag,
        } = pinned;
        match tag {
            Some(object) => Self {
                object,
                peeled: Some(commit),
                reference,
            },
            None => Self {
                object: commit,
                peeled: None,
                reference,
            },
        }
    }
}

impl Commit {
    /// As it stands in a lock.
    fn pinned(&self) -> PinnedCommit {
        PinnedCommit {
            reference: self.reference.clone(),
            commit: self.commit().to_owned(),
            tag: self.peeled.is_some().then(|| self.object.clone()),
        }
    }

    /// The commit that is checked out, as far as it is known.
    pub(super) fn commit(&self) -> &str {
        self.peeled.as_deref().unwrap_or(&self.object)
    }

    /// That the commit, or the tag, begins with a checksum.
    fn check(&self, expected: Option<&str>) -> Result<(), RemoteError> {
        let Some(expected) = expected else {
            return Ok(());
        };
        let prefix = expected.to_ascii_lowercase();
        if self.object.starts_with(&prefix) || self.commit().starts_with(&prefix) {
            return Ok(());
        }
        let actual = match &self.peeled {
            Some(peeled) => format!("{} or {peeled}", self.object),
            None => self.object.clone(),
        };
        Err(RemoteError::CommitChecksum {
            expected: expected.to_owned(),
            actual,
        })
    }
}

/// What the tree of a source depends on. A commit's files are the same wherever it came
/// from; `.git` has the names of reference and repository in it.
pub(super) fn identity(source: &GitSource, commit: &Commit) -> String {
    let subdir = subdirectory(&source.subdir);
    let git_dir = keeps_git_dir(source).then(|| {
        (
            &commit.object,
            &commit.reference,
            redacted_url(&source.remote),
        )
    });
    format!(
        "git 1 {} {subdir:?} {} {git_dir:?}",
        commit.commit(),
        source.submodules
    )
}

/// Whether `.git` stays: only that of a whole repository.
pub(super) fn keeps_git_dir(source: &GitSource) -> bool {
    source.keep_git_dir && subdirectory(&source.subdir).is_empty()
}

/// The directory of a repository as a clean path: `..` ends at the root.
pub(super) fn subdirectory(path: &str) -> String {
    let mut clean: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(clean.pop()),
            name => clean.push(name),
        }
    }
    clean.join("/")
}

/// A whole SHA-1 or SHA-256.
pub(crate) fn is_whole_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check_commit_prefix(checksum: &str) -> Result<(), RemoteError> {
    let is_hash =
        (1..=64).contains(&checksum.len()) && checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash {
        Ok(())
    } else {
        Err(RemoteError::CommitForm(checksum.to_owned()))
    }
}

/// That a reference can be one.
fn check_reference(reference: &str) -> Result<(), RemoteError> {
    match is_reference(reference) {
        true => Ok(()),
        false => Err(RemoteError::Reference(reference.to_owned())),
    }
}

/// Whether a reference can be one (git-check-ref-format), and is no option or pattern.
pub(crate) fn is_reference(reference: &str) -> bool {
    let is_forbidden = |ch: char| ch.is_control() || " ~^:?*[\\".contains(ch);
    let is_odd_part =
        |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    !(reference.starts_with('-')
        || reference.len() > REFERENCE_BYTES_MAX
        || reference.contains(is_forbidden)
        || reference.contains("..")
        || reference.contains("@{")
        || reference.ends_with('.')
        || (!reference.is_empty() && reference.split('/').any(is_odd_part)))
}

/// The lines of `ls-remote`: (hash, name).
fn lines(answer: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = answer.lines().filter_map(|line| line.split_once('\t'));
    pairs.filter(|(hash, _)| is_whole_hash(hash))
}

/// What HEAD stands for, and the branch that it is on.
fn head(answer: &str) -> Option<Commit> {
    let (object, _) = lines(answer).find(|(_, name)| *name == "HEAD")?;
    let branch = answer
        .lines()
        .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
    let branch = branch.filter(|name| name.starts_with("refs/") && check_reference(name).is_ok());
    Some(Commit {
        object: object.to_owned(),
        peeled: None,
        reference: branch.map(str::to_owned),
    })
}

/// What a reference stands for: below `refs/`, a branch, a tag; in this order.
fn find(answer: &str, reference: &str) -> Option<Commit> {
    let hash_of = |name: &str| {
        let mut lines = lines(answer);
        let (hash, _) = lines.find(|(_, found)| *found == name)?;
        Some(hash.to_owned())
    };
    ["refs/", "refs/heads/", "refs/tags/"]
        .iter()
        .find_map(|prefix| {
            let rest = reference.strip_prefix(prefix).unwrap_or(reference);
            let name = format!("{prefix}{rest}");
            Some(Commit {
                object: hash_of(&name)?,
                peeled: hash_of(&format!("{name}^{{}}")),
                reference: Some(name),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn branches_go_before_tags_and_tags_are_peeled() {
        let both = format!("{A}\trefs/tags/v1\n{B}\trefs/heads/v1\n{A}\trefs/heads/x/v1\n");
        let found = find(&both, "v1").unwrap();
        assert_eq!(
            (found.object.as_str(), found.reference.as_deref()),
            (B, Some("refs/heads/v1"))
        );
        let tag = format!("{A}\trefs/tags/v1\n{B}\trefs/tags/v1^{{}}\n");
        for reference in ["v1", "tags/v1", "refs/tags/v1"] {
            let found = find(&tag, reference);
            let Some(found) = found else {
                panic!("{reference}")
            };
            assert_eq!(
                (found.object.as_str(), found.commit()),
                (A, B),
                "{reference}"
            );
        }
        let pull = format!("{A}\trefs/pull/1/head\n");
        assert_eq!(find(&pull, "pull/1/head").unwrap().object, A);
        assert_eq!(find(&both, "v2"), None);
        assert_eq!(find("-x\trefs/heads/v1\n", "v1"), None);
    }

    #[test]
    fn head_is_followed_but_not_believed() {
        let answer =
            format!("ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{B}\trefs/remotes/origin/HEAD\n");
        assert_eq!(
            head(&answer).unwrap().reference.as_deref(),
            Some("refs/heads/main")
        );
        let hostile = format!("ref: --upload-pack=x\tHEAD\n{A}\tHEAD\n");
        assert_eq!(head(&hostile).unwrap().reference, None);
        assert_eq!(head(&format!("{A}\tHEAD\n")).unwrap().object, A);
        assert_eq!(head(""), None);
    }

    #[test]
    fn references_are_no_options_and_no_patterns() {
        for good in ["", "main", "v1.0", "feature/x-1", "refs/pull/3/head"] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        for bad in [
            "-x",
            "--upload-pack=x",
            "a b",
            "a*",
            "a:b",
            "a^{}",
            "a..b",
            "/a",
            "a//b",
            "a.lock",
            ".a",
            "a\nb",
            "@{u}",
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn checksums_are_beginnings_of_commit_or_tag() {
        let tag = Commit {
            object: A.to_owned(),
            peeled: Some(B.to_owned()),
            reference: None,
        };
        for good in ["aaa", "BBBB", A] {
            assert!(tag.check(Some(good)).is_ok(), "{good}");
        }
        let error = tag.check(Some("abc")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("expected checksum to match abc, got {A} or {B}")
        );
        assert!(check_commit_prefix("main").is_err() && check_commit_prefix("").is_err());
    }

    #[test]
    fn subdirectories_stay_in_the_repository() {
        for (path, clean) in [
            ("", ""),
            ("/", ""),
            ("a/./b/", "a/b"),
            ("../../a", "a"),
            ("a/../..", ""),
        ] {
            assert_eq!(subdirectory(path), clean);
        }
    }
}
