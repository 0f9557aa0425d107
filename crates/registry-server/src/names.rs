//! Names of repositories and tags (distribution-spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

/// Many clients limit host and name together to this.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A repository's name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// The text is not such a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid name")]
pub struct InvalidName;

impl RepositoryName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > NAME_BYTES_MAX || !text.split('/').all(is_component) {
            return Err(InvalidName);
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .split(alphanumeric)
            .filter(|between| !between.is_empty())
            .all(is_separator)
}

fn is_separator(bytes: &[u8]) -> bool {
    matches!(bytes, b"." | b"_" | b"__") || bytes.iter().all(|byte| *byte == b'-')
}

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let valid = text.len() <= TAG_BYTES_MAX
            && text.bytes().next().is_some_and(word)
            && text
                .bytes()
                .all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
        if !valid {
            return Err(InvalidName);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        let longest = "a".repeat(255);
        for good in ["a", "a/b/c", "a.b_c__d-e---f/0", "library/debian", &longest] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", "a.", "_a",
            "a b", "ä", "a/../b", "a:b", "a@b", &too_long,
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "t".repeat(128);
        for good in ["latest", "V1.0-rc_1", "_", "0", &longest] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let too_long = "t".repeat(129);
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", &too_long] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
