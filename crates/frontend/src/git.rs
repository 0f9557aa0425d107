//! Repositories as `ADD` and contexts name them: `https://host/path.git#ref:subdir`, the same with
//! `?tag=…&subdir=…`, or `git@host:path`.

use longshore_dockerfile::quote::quote;
use longshore_graph::GitSource;

use crate::paths::join;
use crate::url::{self, Url};

/// A repository reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitUrl {
    /// Without fragment and query.
    pub(crate) remote: String,
    /// Branch, tag or commit.
    pub(crate) reference: String,
    /// A prefix of the commit.
    pub(crate) checksum: Option<String>,
    /// The directory that counts.
    pub(crate) subdirectory: String,
    /// Keep `.git`, if said.
    pub(crate) keep_git_dir: Option<bool>,
    /// Check submodules out, if said.
    pub(crate) submodules: Option<bool>,
    /// Fetch the commit that the checksum names, wherever the reference points now.
    pub(crate) fetch_by_commit: bool,
}

/// What is wrong with a repository's query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// `?key=`.
    #[error("query {} has no value", quote(.0))]
    NoValue(String),
    /// `?key=a&key=b`.
    #[error("query {} has multiple values", quote(.0))]
    ManyValues(String),
    /// A key that there is not.
    #[error("unexpected query {}", quote(.0))]
    Unknown(String),
    /// A truth value or choice that cannot be read.
    #[error("invalid {key} value: {}", quote(.value))]
    Invalid {
        /// The key.
        key: String,
        /// What was written.
        value: String,
    },
    /// Two different values for the same thing.
    #[error("{what} conflicts: {} vs {}", quote(.first), quote(.second))]
    Conflict {
        /// `ref` or `subdir`.
        what: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Both `branch` and `tag`.
    #[error("branch conflicts with tag")]
    BranchAndTag,
}

/// The repository that a context's URL names; nothing if it is no repository.
///
/// # Errors
/// When its query says what there is not.
pub fn git_source(url: &str) -> Option<Result<GitSource, GitUrlError>> {
    Some(parse(url)?.map(GitUrl::into_source))
}

/// Reads a repository reference; nothing if it is no such thing but a path or URL of a file.
pub(crate) fn parse(text: &str) -> Option<Result<GitUrl, GitUrlError>> {
    if text.starts_with("./") || text.starts_with("../") {
        return None;
    }
    let (remote, query, fragment) = match url::scheme(text) {
        Some(scheme) => parse_url(text, &scheme)?,
        None => parse_scp(text)?,
    };
    let mut git = GitUrl {
        remote,
        ..GitUrl::default()
    };
    if let Some((reference, subdirectory)) = fragment.split_once(':') {
        git.reference = reference.to_owned();
        git.subdirectory = join("/", subdirectory).trim_start_matches('/').to_owned();
    } else {
        git.reference = fragment;
    }
    Some(git.read_query(&query).map(|()| git))
}

type Parts = (String, Vec<(String, String)>, String);

fn parse_url(text: &str, scheme: &str) -> Option<Parts> {
    if !matches!(scheme, "http" | "https" | "ssh" | "git") {
        return None;
    }
    let url = Url::parse(text)?;
    if scheme.starts_with("http") && !url.path.ends_with(".git") {
        return None;
    }
    Some((
        url.without_query(),
        url::query_pairs(url.query),
        url.fragment()?,
    ))
}

/// `user@host:path?query#fragment`.
fn parse_scp(text: &str) -> Option<Parts> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_host = |ch: char| ch.is_ascii_alphanumeric() || matches!(ch, '-' | '.');
    let is_user = |ch: char| ch.is_ascii_alphanumeric() || matches!(ch, '-' | '_');
    if user.is_empty()
        || host.is_empty()
        || !user.chars().all(is_user)
        || !host.chars().all(is_host)
    {
        return None;
    }
    let (path, fragment) = path.split_once('#').unwrap_or((path, ""));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path.contains('\n') || fragment.contains('\n') {
        return None;
    }
    Some((
        format!("{user}@{host}:{path}"),
        url::query_pairs(query),
        fragment.to_owned(),
    ))
}

impl GitUrl {
    fn read_query(&mut self, pairs: &[(String, String)]) -> Result<(), GitUrlError> {
        let (mut tag, mut branch) = (None, None);
        for (index, (key, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(GitUrlError::ManyValues(key.clone()));
            }
            let is_switch = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !is_switch {
                return Err(GitUrlError::NoValue(key.clone()));
            }
            match key.as_str() {
                "ref" => set_once("ref", &mut self.reference, value)?,
                "subdir" => set_once("subdir", &mut self.subdirectory, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => self.checksum = Some(value.clone()),
                "keep-git-dir" => self.keep_git_dir = Some(truth(key, value)?),
                "submodules" => self.submodules = Some(truth(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = truth(key, value)?,
                // Files always have the time of their commit.
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => {}
                "mtime" => {
                    return Err(GitUrlError::Invalid {
                        key: key.clone(),
                        value: value.clone(),
                    });
                }
                _ => return Err(GitUrlError::Unknown(key.clone())),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err(GitUrlError::BranchAndTag),
            (Some(tag), None) => {
                set_once("ref", &mut self.reference, &with_prefix("refs/tags/", tag))
            }
            (None, Some(name)) => set_once(
                "ref",
                &mut self.reference,
                &with_prefix("refs/heads/", name),
            ),
            (None, None) => Ok(()),
        }
    }

    /// The source that this names.
    pub(crate) fn into_source(self) -> GitSource {
        let whole = self.checksum.as_ref().filter(|sum| is_whole_commit(sum));
        let commit = whole.filter(|_| self.fetch_by_commit).cloned();
        GitSource {
            remote: self.remote,
            reference: commit.unwrap_or(self.reference),
            commit: None,
            checksum: self.checksum,
            subdir: self.subdirectory,
            keep_git_dir: self.keep_git_dir.unwrap_or(false),
            submodules: self.submodules.unwrap_or(true),
        }
    }
}

/// A commit's whole name, of SHA-1 or SHA-256.
fn is_whole_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn set_once(what: &'static str, field: &mut String, value: &str) -> Result<(), GitUrlError> {
    if !field.is_empty() && field != value {
        let (first, second) = (field.clone(), value.to_owned());
        return Err(GitUrlError::Conflict {
            what,
            first,
            second,
        });
    }
    value.clone_into(field);
    Ok(())
}

fn with_prefix(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

/// A switch; its name alone turns it on.
fn truth(key: &str, value: &str) -> Result<bool, GitUrlError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitUrlError::Invalid {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> GitUrl {
        parse(text).unwrap().unwrap()
    }

    #[test]
    fn fragments_name_reference_and_directory() {
        let git = good("https://github.com/foo/bar.git#baz/qux:quux/../quuz");
        assert_eq!(git.remote, "https://github.com/foo/bar.git");
        assert_eq!(
            (git.reference.as_str(), git.subdirectory.as_str()),
            ("baz/qux", "quuz")
        );
        let git = good("git@github.com:foo/bar.git#v1");
        assert_eq!(
            (git.remote.as_str(), git.reference.as_str()),
            ("git@github.com:foo/bar.git", "v1")
        );
    }

    #[test]
    fn queries_say_the_same() {
        let git = good("https://h/r.git?tag=v1&subdir=d&keep-git-dir&submodules=0&commit=abc");
        assert_eq!(
            (git.reference.as_str(), git.subdirectory.as_str()),
            ("refs/tags/v1", "d")
        );
        assert_eq!(
            (git.keep_git_dir, git.submodules),
            (Some(true), Some(false))
        );
        assert_eq!(git.checksum.as_deref(), Some("abc"));
        let error = |text: &str| parse(text).unwrap().unwrap_err().to_string();
        assert_eq!(error("https://h/r.git?x=1"), "unexpected query \"x\"");
        assert_eq!(error("https://h/r.git?ref="), "query \"ref\" has no value");
        assert_eq!(
            error("https://h/r.git?branch=a&tag=b"),
            "branch conflicts with tag"
        );
        assert_eq!(
            error("https://h/r.git?ref=b#a"),
            "ref conflicts: \"a\" vs \"b\""
        );
        assert_eq!(
            error("https://h/r.git?submodules=x"),
            "invalid submodules value: \"x\""
        );
    }

    #[test]
    fn a_commit_can_be_fetched_wherever_its_branch_is_now() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let url = format!("https://h/r.git?ref=main&checksum={commit}&fetch-by-commit=");
        let reference = |text: &str| good(text).into_source().reference;
        assert_eq!(reference(&url.replace("=main", "=v1")), commit);
        assert_eq!(reference(&format!("{url}0")), "main");
        assert_eq!(
            reference("https://h/r.git?ref=main&checksum=0123&fetch-by-commit"),
            "main"
        );
    }

    #[test]
    fn files_are_no_repositories() {
        for text in [
            "https://h/file",
            "./a.git",
            "a/b.git",
            "ftp://h/a.git",
            "a@b",
            "dir:x@y",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
