//! A repository: the part of an image reference that blobs and tokens belong to.

use std::fmt;
use std::str::FromStr;

use longshore_oci::{Digest, Reference, ReferenceError};

/// A repository on a registry, as references name it: `docker.io` and `library/debian`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Reference);

impl Repository {
    /// The repository that a reference names.
    pub fn of(reference: &Reference) -> Self {
        Self(reference.without_version())
    }

    /// The registry, with its port where it has one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        self.0.domain()
    }

    /// The name within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The reference to one manifest by its digest.
    pub fn at_digest(&self, digest: Digest) -> Reference {
        self.0.with_digest(digest)
    }

    /// The reference to a tag.
    ///
    /// # Errors
    /// When `tag` is not one.
    pub fn at_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        self.0.with_tag(tag)
    }
}

impl From<&Reference> for Repository {
    fn from(reference: &Reference) -> Self {
        Self::of(reference)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        text.parse().map(|reference| Self::of(&reference))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_tag_and_digest() {
        let repository: Repository = "debian:12".parse().unwrap();
        assert_eq!(repository.to_string(), "docker.io/library/debian");
        assert_eq!(repository.registry(), "docker.io");
        assert_eq!(repository.path(), "library/debian");
    }
}
