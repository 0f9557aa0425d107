//! The text of a lock file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use longshore_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{LockError, PinnedCommit, Pins};
use crate::remote::{is_reference, is_whole_hash};

/// The version of the format that is written, and the only one that is read.
const VERSION: i64 = 1;

/// The part that every version has.
#[derive(Deserialize)]
struct Head {
    version: Spanned<i64>,
}

/// What is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "version")]
    _version: i64,
    #[serde(default)]
    image: Vec<ImageEntry<Spanned<String>>>,
    #[serde(default)]
    layout: Vec<ImageEntry<Spanned<String>>>,
    #[serde(default)]
    git: Vec<GitEntry<Spanned<String>>>,
    #[serde(default)]
    url: Vec<UrlEntry<Spanned<String>>>,
    #[serde(default)]
    syntax: Vec<SyntaxEntry<Spanned<String>>>,
}

/// What is written.
#[derive(Serialize)]
struct Written<'a> {
    version: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image: Vec<ImageEntry<&'a str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layout: Vec<ImageEntry<&'a str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    git: Vec<GitEntry<&'a str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    url: Vec<UrlEntry<&'a str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    syntax: Vec<SyntaxEntry<&'a str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageEntry<S> {
    name: S,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GitEntry<S> {
    name: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<S>,
    commit: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<S>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlEntry<S> {
    name: S,
    checksum: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SyntaxEntry<S> {
    name: S,
    built_in: bool,
}

/// The lock file's text; `dockerfile` is what it is of.
pub(super) fn write(pins: &Pins, dockerfile: &str) -> Result<String, toml::ser::Error> {
    let written = Written {
        version: VERSION,
        image: image_entries(&pins.images),
        layout: image_entries(&pins.layouts),
        git: pins.commits.iter().map(git_entry).collect(),
        url: pins
            .urls
            .iter()
            .map(|(name, digest)| UrlEntry {
                name: name.as_str(),
                checksum: *digest,
            })
            .collect(),
        syntax: pins
            .syntaxes
            .iter()
            .map(|name| SyntaxEntry {
                name: name.as_str(),
                built_in: true,
            })
            .collect(),
    };
    Ok(format!(
        "# What the names in {dockerfile:?} stand for. `longshore lock` writes this file.\n{}",
        toml::to_string(&written)?
    ))
}

fn image_entries(digests: &BTreeMap<String, Digest>) -> Vec<ImageEntry<&str>> {
    let entries = digests.iter().map(|(name, digest)| ImageEntry {
        name: name.as_str(),
        digest: *digest,
    });
    entries.collect()
}

fn git_entry<'a>((name, pinned): (&'a String, &'a PinnedCommit)) -> GitEntry<&'a str> {
    GitEntry {
        name: name.as_str(),
        reference: pinned.reference.as_deref(),
        commit: pinned.commit.as_str(),
        tag: pinned.tag.as_deref(),
    }
}

/// What the text of the lock file `file` says.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Pins, LockError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_of(bytes, error.valid_up_to());
        malformed(file, line, "not UTF-8 text".to_owned())
    })?;
    let reader = Reader { file, text };
    let head: Head = reader.toml()?;
    if *head.version.get_ref() != VERSION {
        let version = head.version.get_ref();
        let message =
            format!("version {version} is not known: this program reads version {VERSION}");
        return Err(reader.at(head.version.span(), message));
    }
    let read: Read = reader.toml()?;
    reader.pins(read)
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn toml<T: serde::de::DeserializeOwned>(&self) -> Result<T, LockError> {
        toml::from_str(self.text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            self.at(span, error.message().to_owned())
        })
    }

    fn pins(&self, read: Read) -> Result<Pins, LockError> {
        let mut pins = Pins::default();
        for entry in read.image {
            self.check_image_name(&entry.name)?;
            self.insert(&mut pins.images, "image", entry.name, entry.digest)?;
        }
        for entry in read.layout {
            self.insert(&mut pins.layouts, "layout", entry.name, entry.digest)?;
        }
        for entry in read.git {
            let pinned = self.commit(&entry)?;
            self.insert(&mut pins.commits, "git", entry.name, pinned)?;
        }
        for entry in read.url {
            self.insert(&mut pins.urls, "url", entry.name, entry.checksum)?;
        }
        for entry in read.syntax {
            let span = entry.name.span();
            if !entry.built_in {
                let message = "a syntax that is not built in is not known".to_owned();
                return Err(self.at(span, message));
            }
            if !pins.syntaxes.insert(entry.name.into_inner()) {
                return Err(self.at(span, "the same syntax twice".to_owned()));
            }
        }
        Ok(pins)
    }

    fn insert<V>(
        &self,
        entries: &mut BTreeMap<String, V>,
        sort: &str,
        name: Spanned<String>,
        value: V,
    ) -> Result<(), LockError> {
        let span = name.span();
        match entries.insert(name.into_inner(), value) {
            None => Ok(()),
            Some(_) => Err(self.at(span, format!("the same {sort} twice"))),
        }
    }

    /// That a name is whole: with its registry and tag, and without a digest.
    fn check_image_name(&self, name: &Spanned<String>) -> Result<(), LockError> {
        let reference = name.get_ref().parse::<Reference>();
        let is_whole = reference.is_ok_and(|reference| {
            reference.tag().is_some()
                && reference.digest().is_none()
                && reference.to_string() == *name.get_ref()
        });
        if is_whole {
            return Ok(());
        }
        let shown = name.get_ref().escape_debug();
        let message = format!("`{shown}` is not an image's whole name with a tag");
        Err(self.at(name.span(), message))
    }

    fn commit(&self, entry: &GitEntry<Spanned<String>>) -> Result<PinnedCommit, LockError> {
        for hash in [Some(&entry.commit), entry.tag.as_ref()]
            .into_iter()
            .flatten()
        {
            if !is_whole_hash(hash.get_ref()) {
                let shown = hash.get_ref().escape_debug();
                return Err(self.at(hash.span(), format!("`{shown}` is not a whole git hash")));
            }
        }
        if let Some(reference) = &entry.reference
            && !(reference.get_ref().starts_with("refs/") && is_reference(reference.get_ref()))
        {
            let shown = reference.get_ref().escape_debug();
            let message = format!("`{shown}` is not a git reference's whole name");
            return Err(self.at(reference.span(), message));
        }
        let owned = |text: &Spanned<String>| text.get_ref().clone();
        Ok(PinnedCommit {
            reference: entry.reference.as_ref().map(owned),
            commit: entry.commit.get_ref().to_ascii_lowercase(),
            tag: entry
                .tag
                .as_ref()
                .map(|tag| tag.get_ref().to_ascii_lowercase()),
        })
    }

    fn at(&self, span: Range<usize>, message: String) -> LockError {
        malformed(
            self.file,
            line_of(self.text.as_bytes(), span.start),
            message,
        )
    }
}

fn malformed(file: &str, line: usize, message: String) -> LockError {
    let mut one_line = String::new();
    for part in message.lines() {
        let separator = if one_line.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(one_line, "{separator}{part}");
    }
    LockError::Malformed {
        file: file.to_owned(),
        line,
        message: one_line,
    }
}

/// The line of a byte, from 1.
fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = &bytes[..offset.min(bytes.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn pins() -> Pins {
        let (one, two) = (Digest::sha256_of(b"1"), Digest::sha256_of(b"2"));
        let commit = |reference: Option<&str>, tag: Option<&str>| PinnedCommit {
            reference: reference.map(str::to_owned),
            commit: COMMIT.to_owned(),
            tag: tag.map(str::to_owned),
        };
        Pins {
            images: [
                ("docker.io/library/debian:bookworm-slim".to_owned(), one),
                ("docker.io/library/alpine:3".to_owned(), two),
            ]
            .into(),
            layouts: [("base:1".to_owned(), one)].into(),
            commits: [
                (
                    "https://h/x.git#v1".to_owned(),
                    commit(Some("refs/tags/v1"), Some(COMMIT)),
                ),
                ("https://h/x.git".to_owned(), commit(None, None)),
            ]
            .into(),
            urls: [("https://h/\"a\".tar".to_owned(), two)].into(),
            syntaxes: ["docker/dockerfile:1".to_owned()].into(),
        }
    }

    const GOLDEN: &str = r#"# What the names in "Dockerfile" stand for. `longshore lock` writes this file.
version = 1

[[image]]
name = "docker.io/library/alpine:3"
digest = "sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"

[[image]]
name = "docker.io/library/debian:bookworm-slim"
digest = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

[[layout]]
name = "base:1"
digest = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

[[git]]
name = "https://h/x.git"
commit = "0123456789abcdef0123456789abcdef01234567"

[[git]]
name = "https://h/x.git#v1"
reference = "refs/tags/v1"
commit = "0123456789abcdef0123456789abcdef01234567"
tag = "0123456789abcdef0123456789abcdef01234567"

[[url]]
name = 'https://h/"a".tar'
checksum = "sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"

[[syntax]]
name = "docker/dockerfile:1"
built-in = true
"#;

    #[test]
    fn the_format_is_pinned_and_read_back() {
        assert_eq!(write(&pins(), "Dockerfile").unwrap(), GOLDEN);
        assert_eq!(read("Dockerfile.lock", GOLDEN.as_bytes()).unwrap(), pins());
        let windows = GOLDEN.replace('\n', "\r\n");
        assert_eq!(read("Dockerfile.lock", windows.as_bytes()).unwrap(), pins());
        let none = write(&Pins::default(), "a\nb").unwrap();
        assert_eq!(read("x", none.as_bytes()).unwrap(), Pins::default());
    }

    #[test]
    fn a_file_that_is_no_lock_is_an_error_with_its_line() {
        let digest = Digest::sha256_of(b"1");
        let image = |name: &str| format!("[[image]]\nname = \"{name}\"\ndigest = \"{digest}\"\n");
        let git =
            |rest: &str| format!("version = 1\n[[git]]\nname = \"https://h/x.git\"\n{rest}\n");
        let debian = image("docker.io/library/debian:12");
        for (text, line, part) in [
            (String::new(), 1, "version"),
            ("version = 2\nnews = 1\n".to_owned(), 1, "version 2 is not known"),
            ("version = \"1\"\n".to_owned(), 1, "invalid type"),
            ("version = 1\n<<<<<<< HEAD\n".to_owned(), 2, ""),
            ("version = 1\n\nimages = 1\n".to_owned(), 3, "images"),
            (format!("version = 1\n{debian}{debian}"), 6, "the same image twice"),
            (format!("version = 1\n{}", image("debian:12")), 3, "whole name"),
            (format!("version = 1\n{}", image("../x\\u001b")), 3, "whole name"),
            (format!("version = 1\n{debian}x = 1\n"), 5, "x"),
            ("version = 1\n[[image]]\nname = \"docker.io/library/a:1\"\ndigest = \"sha256:12\"\n".to_owned(), 4, ""),
            ("version = 1\n[[url]]\nname = \"u\"\n".to_owned(), 2, "checksum"),
            (git("commit = \"--upload-pack=x\""), 4, "not a whole git hash"),
            (git(&format!("commit = \"{COMMIT}\"\nreference = \"-x\"")), 5, "whole name"),
            (git(&format!("commit = \"{COMMIT}\"\nreference = \"refs/heads/a..b\"")), 5, "whole name"),
            ("version = 1\n[[syntax]]\nname = \"a\"\nbuilt-in = false\n".to_owned(), 3, "built in"),
        ] {
            let error = read("Dockerfile.lock", text.as_bytes()).unwrap_err().to_string();
            let place = format!("`Dockerfile.lock`, line {line}: ");
            assert!(error.starts_with(&place) && error.contains(part), "{text}\n{error}");
            assert!(!error.contains(['\n', '\u{1b}']), "{error:?}");
        }
        let error = read("x", b"version = 1\n# \xff\n").unwrap_err().to_string();
        assert_eq!(error, "`x`, line 2: not UTF-8 text");
    }
}
