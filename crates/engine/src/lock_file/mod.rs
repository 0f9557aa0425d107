//! Lock files: what the names that a Dockerfile uses stand for.
//!
//! ```text
//! version = 1
//!
//! [[image]]                                       FROM, COPY --from, --mount=from=, contexts
//! name = "docker.io/library/debian:bookworm-slim"
//! digest = "sha256:…"                             of the index: the same on all platforms
//!
//! [[layout]]                                      contexts that are OCI layouts
//! name = "dir:tag"
//! digest = "sha256:…"
//!
//! [[git]]                                         ADD, contexts
//! name = "https://example.com/x.git#main"
//! reference = "refs/heads/main"
//! commit = "…"
//! tag = "…"                                       of an annotated tag, its own object
//!
//! [[url]]                                         ADD, contexts
//! name = "https://example.com/x.tar"
//! checksum = "sha256:…"
//!
//! [[syntax]]                                      `# syntax=`: served by the program itself
//! name = "docker/dockerfile:1"
//! built-in = true
//! ```
//!
//! Entries are sorted and have one value a line. What a Dockerfile pins itself (a digest, a
//! whole commit, a checksum) has no entry, nor have directories of the machine. Passwords in
//! URLs are left out. Invariant: a lock holds one value for each name, and what was read is
//! what was written, or an error that names the line.

mod error;
mod held;
mod place;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use longshore_graph::{GitSource, redacted_url};
use longshore_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};

pub use error::LockError;
pub(crate) use held::{Held, Unknown};
pub(crate) use place::{LOCK_BYTES_MAX, LockPlace, beside};

/// What is done with the lock file beside a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockUse {
    /// Nothing.
    Ignore,
    /// What the build's names stood for is written to it.
    Write,
    /// Names stand for what it says, and for nothing else.
    Hold,
    /// The file does not count: names stand for what they stood for in an earlier build.
    HoldTo(Box<Pins>),
}

/// Which names are looked up again when a lock file is written without a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockRefresh {
    /// Those that it lacks.
    Missing,
    /// All; what the Dockerfile does not use is left out.
    All,
    /// These, and those that it lacks.
    Names(Vec<String>),
}

/// What names stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// Images by their whole names with tags: the digest of the index, or of the manifest where
    /// there is none.
    pub(crate) images: BTreeMap<String, Digest>,
    /// Images of OCI layouts, by directory and tag as given.
    pub(crate) layouts: BTreeMap<String, Digest>,
    /// Commits by repository and reference.
    pub(crate) commits: BTreeMap<String, PinnedCommit>,
    /// Files by URL.
    pub(crate) urls: BTreeMap<String, Digest>,
    /// Frontends that Dockerfiles ask for.
    pub(crate) syntaxes: BTreeSet<String>,
}

/// What a reference of a repository stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinnedCommit {
    /// The whole name of the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// The commit.
    pub(crate) commit: String,
    /// The object of an annotated tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
}

/// A line of a lock for people: a sort, a name, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinnedName {
    /// `image`, `layout`, `git`, `url` or `syntax`.
    pub sort: &'static str,
    /// As in the lock file.
    pub name: String,
    /// A digest, a commit, or that it is built in.
    pub value: String,
}

/// What came of writing a lock file.
#[derive(Clone, Debug)]
pub struct Relocked {
    /// The file.
    pub path: std::path::PathBuf,
    /// What was in it.
    pub before: Pins,
    /// What is in it.
    pub after: Pins,
}

impl Pins {
    /// Every name, sorted.
    pub fn names(&self) -> Vec<PinnedName> {
        let of = |sort, name: &String, value: String| PinnedName {
            sort,
            name: name.clone(),
            value,
        };
        let digests = [
            ("image", &self.images),
            ("layout", &self.layouts),
            ("url", &self.urls),
        ];
        let digests = digests.into_iter().flat_map(|(sort, digests)| {
            digests
                .iter()
                .map(move |(name, digest)| of(sort, name, digest.to_string()))
        });
        let commits = self
            .commits
            .iter()
            .map(|(name, pinned)| of("git", name, pinned.commit.clone()));
        let syntaxes = self
            .syntaxes
            .iter()
            .map(|name| of("syntax", name, "built-in".to_owned()));
        let mut names: Vec<PinnedName> = digests.chain(commits).chain(syntaxes).collect();
        names.sort();
        names
    }

    /// The same with what `newer` says of the names that it knows.
    pub(crate) fn updated(mut self, newer: Self) -> Self {
        self.images.extend(newer.images);
        self.layouts.extend(newer.layouts);
        self.commits.extend(newer.commits);
        self.urls.extend(newer.urls);
        self.syntaxes.extend(newer.syntaxes);
        self
    }

    /// Forgets what a person means by `name`; whether there was such a thing. An image without
    /// a tag means all its tags.
    pub(crate) fn forget(&mut self, name: &str) -> bool {
        let before = self.names().len();
        let url = redacted_url(name);
        self.layouts.remove(name);
        self.commits.remove(&url);
        self.urls.remove(&url);
        self.syntaxes.remove(name);
        if let Ok(reference) = name.parse::<Reference>() {
            let whole = reference.to_string();
            let is_meant = |known: &str| match reference.tag() {
                Some(_) => known == whole,
                None => known
                    .strip_prefix(&whole)
                    .is_some_and(|tag| tag.starts_with(':')),
            };
            self.images.retain(|known, _| !is_meant(known));
        }
        self.names().len() < before
    }
}

/// How a repository's reference is called in a lock.
pub(crate) fn git_name(source: &GitSource) -> String {
    let remote = redacted_url(&source.remote);
    match source.reference.as_str() {
        "" => remote,
        reference => format!("{remote}#{reference}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_all_tags_and_no_other_image() {
        let digest = Digest::sha256_of(b"");
        let pins = || Pins {
            images: [
                "docker.io/library/debian:12",
                "docker.io/library/debian:13",
                "docker.io/library/debian-slim:12",
            ]
            .map(|name| (name.to_owned(), digest))
            .into(),
            urls: [("https://xxxxx:xxxxx@h/a".to_owned(), digest)].into(),
            ..Pins::default()
        };
        for (name, left) in [("debian", 2), ("debian:12", 3), ("https://u:p@h/a", 3)] {
            let mut pins = pins();
            assert!(pins.forget(name), "{name}");
            assert_eq!(pins.names().len(), left, "{name}");
        }
        for unknown in ["debian:11", "deb", "https://h/b", ""] {
            assert!(!pins().forget(unknown), "{unknown}");
        }
    }
}
