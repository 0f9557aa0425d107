//! What a build does with a lock: it asks nobody for what is in it, and remembers what it found.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use longshore_graph::GitSource;
use longshore_oci::{Digest, Reference};

use super::{LockError, PinnedCommit, Pins, git_name};

/// What is done with names that a lock does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They are looked up.
    Asked,
    /// They are errors.
    Refused,
}

/// The lock of one build.
#[derive(Debug)]
pub(crate) struct Held {
    file: String,
    known: Pins,
    unknown: Unknown,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    pins: Pins,
    /// The first name that stood for two things.
    ambiguous: Option<LockError>,
}

impl Held {
    /// `known` is in the lock file `file`.
    pub(crate) fn new(file: String, known: Pins, unknown: Unknown) -> Self {
        Self {
            file,
            known,
            unknown,
            found: Mutex::default(),
        }
    }

    /// Nothing is known, and everything is looked up.
    pub(crate) fn nothing() -> Self {
        Self::new(String::new(), Pins::default(), Unknown::Asked)
    }

    /// What the build's names stood for.
    ///
    /// # Errors
    /// [`LockError::Ambiguous`].
    pub(crate) fn take_found(&self) -> Result<Pins, LockError> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match found.ambiguous.take() {
            Some(error) => Err(error),
            None => Ok(found.pins.clone()),
        }
    }

    /// What the build's names stood for, without those that stood for two things.
    pub(crate) fn pins(&self) -> Pins {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.pins.clone()
    }

    /// What an image's tag is held to; nothing where it is to be looked up, or has a digest.
    pub(crate) fn image(&self, reference: &Reference) -> Result<Option<Digest>, LockError> {
        if reference.digest().is_some() {
            return Ok(None);
        }
        self.value("image", &self.known.images, &reference.to_string())
    }

    /// As [`Self::image`], of an OCI layout.
    pub(crate) fn layout(&self, directory: &str, tag: &str) -> Result<Option<Digest>, LockError> {
        if is_digest(tag) {
            return Ok(None);
        }
        self.value("layout", &self.known.layouts, &layout_name(directory, tag))
    }

    /// What the file at a URL is held to.
    pub(crate) fn url(&self, shown: &str) -> Result<Option<Digest>, LockError> {
        self.value("URL", &self.known.urls, shown)
    }

    /// What a reference of a repository is held to.
    pub(crate) fn commit(&self, source: &GitSource) -> Result<Option<PinnedCommit>, LockError> {
        self.value("git reference", &self.known.commits, &git_name(source))
    }

    /// Whether the lock says what a reference of a repository is.
    pub(crate) fn holds_commit(&self, source: &GitSource) -> bool {
        self.known.commits.contains_key(&git_name(source))
    }

    /// Whether a frontend may be asked for: it is served by this program, whatever it is.
    pub(crate) fn syntax(&self, name: &str) -> Result<(), LockError> {
        if self.known.syntaxes.contains(name) || self.unknown == Unknown::Asked {
            return Ok(());
        }
        Err(self.not_locked("syntax", name))
    }

    fn value<V: Clone>(
        &self,
        sort: &'static str,
        entries: &BTreeMap<String, V>,
        name: &str,
    ) -> Result<Option<V>, LockError> {
        match (entries.get(name), self.unknown) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, Unknown::Asked) => Ok(None),
            (None, Unknown::Refused) => Err(self.not_locked(sort, name)),
        }
    }

    fn not_locked(&self, sort: &'static str, name: &str) -> LockError {
        LockError::NotLocked {
            sort,
            name: name.to_owned(),
            file: self.file.clone(),
        }
    }

    /// Why what a name is locked to is not to be had.
    pub(crate) fn gone(
        &self,
        sort: &'static str,
        name: String,
        value: String,
        source: crate::EngineError,
    ) -> LockError {
        LockError::Gone {
            sort,
            name,
            value,
            file: self.file.clone(),
            source: Box::new(source),
        }
    }

    /// That a URL has something else now.
    pub(crate) fn changed(&self, name: String, expected: Digest, actual: Digest) -> LockError {
        LockError::Changed {
            name,
            expected: Box::new(expected),
            actual: Box::new(actual),
            file: self.file.clone(),
        }
    }

    /// Remembers what an image's tag stood for.
    pub(crate) fn found_image(&self, reference: &Reference, digest: Digest) {
        if reference.digest().is_none() {
            self.found("image", reference.to_string(), digest, |pins| {
                &mut pins.images
            });
        }
    }

    /// Remembers what an OCI layout's tag stood for.
    pub(crate) fn found_layout(&self, directory: &str, tag: &str, digest: Digest) {
        if !is_digest(tag) {
            let name = layout_name(directory, tag);
            self.found("layout", name, digest, |pins| &mut pins.layouts);
        }
    }

    /// Remembers which file a URL had.
    pub(crate) fn found_url(&self, shown: String, digest: Digest) {
        self.found("URL", shown, digest, |pins| &mut pins.urls);
    }

    /// Remembers what a reference stood for.
    pub(crate) fn found_commit(&self, source: &GitSource, commit: PinnedCommit) {
        self.found("git reference", git_name(source), commit, |pins| {
            &mut pins.commits
        });
    }

    /// Remembers a frontend.
    pub(crate) fn found_syntax(&self, name: String) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.pins.syntaxes.insert(name);
    }

    fn found<V: Clone + PartialEq + Shown>(
        &self,
        sort: &'static str,
        name: String,
        value: V,
        entries: impl Fn(&mut Pins) -> &mut BTreeMap<String, V>,
    ) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries(&mut found.pins).insert(name.clone(), value.clone());
        if let Some(known) = known.filter(|known| *known != value) {
            let error = LockError::Ambiguous {
                sort,
                name: name.clone(),
                first: known.shown(),
                second: value.shown(),
            };
            entries(&mut found.pins).remove(&name);
            found.ambiguous.get_or_insert(error);
        }
    }
}

/// How a value is shown in errors.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Digest {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for PinnedCommit {
    fn shown(&self) -> String {
        self.commit.clone()
    }
}

fn layout_name(directory: &str, tag: &str) -> String {
    match tag {
        "" => directory.to_owned(),
        tag => format!("{directory}:{tag}"),
    }
}

fn is_digest(tag: &str) -> bool {
    tag.parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Reference {
        name.parse::<Reference>().unwrap().with_default_tag()
    }

    #[test]
    fn names_that_are_not_locked_are_refused_by_name_and_pinned_ones_never() {
        let digest = Digest::sha256_of(b"1");
        let known = Pins {
            images: [("docker.io/library/a:1".to_owned(), digest)].into(),
            ..Pins::default()
        };
        let held = Held::new("L".to_owned(), known, Unknown::Refused);
        assert_eq!(held.image(&reference("a:1")).unwrap(), Some(digest));
        let pinned = reference("b").with_digest(digest);
        assert_eq!(held.image(&pinned).unwrap(), None);
        let error = held.image(&reference("b")).unwrap_err().to_string();
        assert_eq!(
            error,
            "the image `docker.io/library/b:latest` is not in `L`: `longshore lock` adds it"
        );
        assert!(held.url("u").is_err() && held.syntax("s").is_err());
        assert_eq!(Held::nothing().image(&reference("b")).unwrap(), None);
    }

    #[test]
    fn a_name_that_stood_for_two_things_is_not_locked() {
        let held = Held::nothing();
        let (one, two) = (Digest::sha256_of(b"1"), Digest::sha256_of(b"2"));
        held.found_image(&reference("a"), one);
        held.found_image(&reference("a"), one);
        held.found_image(&reference("b").with_digest(two), two);
        assert_eq!(held.take_found().unwrap().names().len(), 1);
        held.found_image(&reference("a"), two);
        let error = held.take_found().unwrap_err().to_string();
        assert!(held.pins().names().is_empty());
        assert!(
            error.contains(&one.to_string()) && error.contains(&two.to_string()),
            "{error}"
        );
    }
}
