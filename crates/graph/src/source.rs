//! Where content comes from.

use longshore_oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

/// Content from outside the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// No files at all.
    Scratch,
    /// An image's root file system.
    Image(ImageSource),
    /// A directory of the client's: the build context or a named one.
    Local(LocalSource),
    /// A git repository's work tree at a commit.
    Git(GitSource),
    /// One file from a URL.
    Http(HttpSource),
    /// An image in an OCI layout directory.
    OciLayout(OciLayoutSource),
}

/// An image in the local store or a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSource {
    /// The normalised reference, as a string.
    #[serde(with = "reference_text")]
    pub reference: Reference,
    /// The manifest's digest, once pinned: of the platform's own manifest.
    pub manifest: Option<Digest>,
    /// For which platform.
    pub platform: Platform,
}

/// A directory of the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSource {
    /// Its name: `context`, or the name of a `--build-context`.
    pub name: String,
}

/// A git repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSource {
    /// The remote, without fragment or query.
    pub remote: String,
    /// Branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// The commit, once pinned.
    pub commit: Option<String>,
    /// A prefix that the commit must have.
    pub checksum: Option<String>,
    /// The directory within the repository.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Check submodules out too.
    pub submodules: bool,
}

/// One file from a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// The digest that the response must have, or had when pinned.
    pub checksum: Option<Digest>,
    /// The file's name in the result.
    pub filename: String,
    /// The file's mode; `None` is 0600.
    pub mode: Option<u32>,
    /// The file's owner.
    pub owner: Option<(u32, u32)>,
}

/// An image in an OCI layout directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciLayoutSource {
    /// The directory, as the client named it.
    pub directory: String,
    /// Tag (`org.opencontainers.image.ref.name`) or digest; empty for the only image.
    pub reference: String,
    /// The manifest's digest, once pinned.
    pub manifest: Option<Digest>,
    /// For which platform.
    pub platform: Platform,
}

mod reference_text {
    use longshore_oci::Reference;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Reference,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Reference, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
