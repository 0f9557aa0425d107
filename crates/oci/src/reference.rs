//! Image references, parsed and normalised as Go's `distribution/reference` does.
//!
//! `name[:tag][@digest]`; a name without a registry host is Docker Hub's, a single
//! word there is in `library/`. Errors carry the reference implementation's words.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

/// The registry that names without a host belong to.
const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// Why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not `name[:tag][@digest]`.
    #[error("invalid reference format")]
    Format,
    /// Nothing at all.
    #[error("repository name must have at least one component")]
    Empty,
    /// The name has upper-case letters.
    #[error("repository name must be lowercase")]
    Uppercase,
    /// The name has upper-case letters, said with the name.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    NameUppercase(String),
    /// A bare image id was given where a name is needed.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The name is too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The digest's algorithm is not known.
    #[error("unsupported digest algorithm")]
    UnsupportedDigest,
    /// The digest has the wrong length.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// The digest is not lower-case hexadecimal.
    #[error("invalid checksum digest format")]
    DigestFormat,
}

/// A normalised image reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry host, with its port where it has one: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `domain/path`.
    pub fn name(&self) -> String {
        if self.domain.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The tag, where one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name with `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same name with another tag and no digest.
    ///
    /// # Errors
    /// When the tag is not one.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same name and tag, held to a digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The name alone, without tag and digest.
    #[must_use]
    pub fn without_version(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// As Docker shows it: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.version())
    }

    /// The familiar form of the name alone.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    fn version(&self) -> String {
        let tag = self
            .tag
            .as_ref()
            .map(|tag| format!(":{tag}"))
            .unwrap_or_default();
        let digest = self
            .digest
            .as_ref()
            .map(|digest| format!("@{digest}"))
            .unwrap_or_default();
        tag + &digest
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn version_or_latest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name(), self.version())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.chars().any(char::is_uppercase) {
            return Err(ReferenceError::NameUppercase(remote.to_owned()));
        }
        parse_strict(&format!("{domain}/{remainder}"))
    }
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, remainder) = match text.split_once('/') {
        None => (DEFAULT_DOMAIN, text),
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((head, rest))
            if head == "localhost"
                || head.contains(['.', ':'])
                || head.chars().any(char::is_uppercase) =>
        {
            (head, rest)
        }
        Some(_) => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (domain.to_owned(), remainder.to_owned())
}

/// Parses without normalising: the grammar of `reference.Parse`.
fn parse_strict(text: &str) -> Result<Reference, ReferenceError> {
    if text.is_empty() {
        return Err(ReferenceError::Empty);
    }
    match split_grammar(text) {
        Some(parts) => parts.validate(),
        None if split_grammar(&text.to_lowercase()).is_some() => Err(ReferenceError::Uppercase),
        None => Err(ReferenceError::Format),
    }
}

struct Parts<'a> {
    domain: &'a str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl Parts<'_> {
    fn validate(&self) -> Result<Reference, ReferenceError> {
        if self.path.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong);
        }
        let digest = match self.digest {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| digest_error(text, &error))?),
        };
        Ok(Reference {
            domain: self.domain.to_owned(),
            path: self.path.to_owned(),
            tag: self.tag.map(str::to_owned),
            digest,
        })
    }
}

fn digest_error(text: &str, error: &DigestError) -> ReferenceError {
    match error {
        DigestError::UnsupportedAlgorithm(_) => ReferenceError::UnsupportedDigest,
        DigestError::Format(_) => ReferenceError::DigestFormat,
        DigestError::Encoding(_) => {
            let length = text.split_once(':').map_or(0, |(_, hex)| hex.len());
            let expected = if text.starts_with("sha512") { 128 } else { 64 };
            if length == expected {
                ReferenceError::DigestFormat
            } else {
                ReferenceError::DigestLength
            }
        }
    }
}

/// `[domain/]path[:tag][@digest]`, or nothing where the text has another form.
fn split_grammar(text: &str) -> Option<Parts<'_>> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
        Some(_) => return None,
        None => (text, None),
    };
    // A colon after the last slash can only begin a tag.
    let name_start = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[name_start..].split_once(':') {
        Some((_, tag)) if is_tag(tag) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        Some(_) => return None,
        None => (rest, None),
    };
    let (domain, path) = split_name(name)?;
    Some(Parts {
        domain,
        path,
        tag,
        digest,
    })
}

fn split_name(name: &str) -> Option<(&str, &str)> {
    if let Some((head, rest)) = name.split_once('/')
        && is_domain(head)
        && is_path(rest)
    {
        return Some((head, rest));
    }
    is_path(name).then_some(("", name))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(at) if !text.ends_with(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    let port_is_valid =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
        });
    port_is_valid && (is_ipv6 || host.split('.').all(is_domain_component))
}

fn is_domain_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_alphanumeric(*first) || !is_alphanumeric(*last) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

/// Whether `text` is a legal tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let is_component = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_component)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_familiar_names() {
        for (input, normalised, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("user/app:1", "docker.io/user/app:1", "user/app:1"),
            ("localhost/app", "localhost/app", "localhost/app"),
            (
                "localhost:5000/app",
                "localhost:5000/app",
                "localhost:5000/app",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian",
                "debian",
            ),
            ("[::1]:5000/a/b:t", "[::1]:5000/a/b:t", "[::1]:5000/a/b:t"),
            ("Foo/bar", "Foo/bar", "Foo/bar"),
        ] {
            let reference: Reference = input.parse().unwrap();
            assert_eq!(reference.to_string(), normalised);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn the_default_tag_yields_to_a_digest() {
        let plain: Reference = "debian".parse().unwrap();
        assert_eq!(plain.clone().with_default_tag().tag(), Some("latest"));
        let pinned = plain.with_digest(Digest::sha256_of(b"")).with_default_tag();
        assert_eq!(pinned.tag(), None);
    }

    /// Every case of the corpus that Go's implementation answered.
    #[test]
    fn agrees_with_the_reference_implementation() {
        let Some(cases) = crate::reference::corpus::cases() else {
            return;
        };
        let mut disagreements = Vec::new();
        for case in &cases {
            let input = case["input"].as_str().unwrap();
            let normalised = input.parse::<Reference>();
            let ours = match &normalised {
                Ok(reference) => reference.to_string(),
                Err(error) => format!("error: {error}"),
            };
            let theirs = case["normalized"].as_str().map_or_else(
                || format!("error: {}", case["error"].as_str().unwrap()),
                str::to_owned,
            );
            // The corpus was made without SHA-512 linked in.
            let sha512 = input.contains("sha512:") && theirs.contains("unsupported");
            if ours != theirs && !sha512 {
                disagreements.push(format!("{input}: ours {ours}, theirs {theirs}"));
            }
            if let (Ok(reference), Some(familiar)) = (&normalised, case["familiar"].as_str())
                && reference.familiar() != familiar
            {
                disagreements.push(format!("{input}: familiar {}", reference.familiar()));
            }
            let strict = match parse_strict(input) {
                Ok(reference) => reference.to_string(),
                Err(error) => format!("error: {error}"),
            };
            let theirs = case["strict"].as_str().map_or_else(
                || format!("error: {}", case["strict_error"].as_str().unwrap()),
                str::to_owned,
            );
            if strict != theirs && !(input.contains("sha512:") && theirs.contains("unsupported")) {
                disagreements.push(format!("{input}: strict {strict}, theirs {theirs}"));
            }
        }
        assert!(
            disagreements.is_empty(),
            "{} of {}:\n{}",
            disagreements.len(),
            cases.len(),
            disagreements.join("\n")
        );
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the corpus is read from disk, in tests only"
)]
mod corpus {
    use std::io::Read as _;

    pub(super) fn cases() -> Option<Vec<serde_json::Value>> {
        let folder = std::env::var("LONGSHORE_CORPORA").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpora").to_owned()
        });
        let Ok(file) = std::fs::File::open(format!("{folder}/reference.json.gz")) else {
            println!("skipped: no corpora at {folder}");
            return None;
        };
        let mut text = String::new();
        flate2::read::GzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        Some(document["cases"].as_array().unwrap().clone())
    }
}
