//! Content digests (image-spec `descriptor.md#digests`).
//!
//! A [`Digest`] is always well formed: a known algorithm and exactly as many bytes
//! as it yields, so that a path or URL made from one can name nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Longest parts of a referrers tag (distribution-spec, "Referrers tag schema").
const REFERRERS_TAG_ALGORITHM_CHARS_MAX: usize = 32;
const REFERRERS_TAG_ENCODED_CHARS_MAX: usize = 64;

/// A digest algorithm that the image specification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The identifier before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest's length in bytes.
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => Err(DigestError::UnsupportedAlgorithm(excerpt(other))),
        }
    }
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex` form.
    #[error("invalid digest `{0}`: expected `algorithm:hex`")]
    Format(String),
    /// The algorithm is not registered.
    #[error("unsupported digest algorithm `{0}`")]
    UnsupportedAlgorithm(String),
    /// The encoded part has the wrong length or characters.
    #[error(
        "invalid digest `{0}`: expected lower-case hexadecimal digits of the algorithm's length"
    )]
    Encoding(String),
}

fn excerpt(text: &str) -> String {
    text.chars().take(160).collect()
}

/// The digest of some content: an algorithm and its output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn sha256_of(content: &[u8]) -> Self {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(content);
        digester.finish()
    }

    /// The digest of `content` by `algorithm`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut digester = Digester::new(algorithm);
        digester.update(content);
        digester.finish()
    }

    /// A SHA-256 digest from its 32 bytes.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&hash);
        Self {
            algorithm: Algorithm::Sha256,
            bytes,
        }
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself, [`Algorithm::len_bytes`] long.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len_bytes()]
    }

    /// The encoded part: lower-case hexadecimal.
    pub fn hex(&self) -> String {
        encode_hex(self.as_bytes())
    }

    /// The tag under which clients keep an index of what refers to this digest, for registries
    /// that do not list it (distribution-spec, "Referrers tag schema").
    pub fn referrers_tag(&self) -> String {
        let part = |text: &str, chars_max| text.chars().take(chars_max).collect::<String>();
        let algorithm = part(self.algorithm.as_str(), REFERRERS_TAG_ALGORITHM_CHARS_MAX);
        let encoded = part(&self.hex(), REFERRERS_TAG_ENCODED_CHARS_MAX);
        format!("{algorithm}-{encoded}")
    }

    /// The first 12 hexadecimal digits, as tables show them.
    pub fn short(&self) -> String {
        encode_hex(&self.bytes[..6])
    }
}

pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(crate) fn decode_hex(text: &str, into: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != into.len() * 2 {
        return None;
    }
    for (byte, pair) in into.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text
            .split_once(':')
            .ok_or_else(|| DigestError::Format(excerpt(text)))?;
        let algorithm: Algorithm = algorithm.parse()?;
        let mut bytes = [0; 64];
        decode_hex(encoded, &mut bytes[..algorithm.len_bytes()])
            .ok_or_else(|| DigestError::Encoding(excerpt(text)))?;
        Ok(Self { algorithm, bytes })
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] from content that arrives in pieces.
#[derive(Clone, Debug)]
pub struct Digester(Hasher);

#[derive(Clone, Debug)]
enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Digester {
    /// Starts with no content.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds the next piece of content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            Hasher::Sha256(hasher) => hasher.update(content),
            Hasher::Sha512(hasher) => hasher.update(content),
        }
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            Hasher::Sha256(hasher) => {
                bytes[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Hasher::Sha512(hasher) => {
                bytes.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

/// The digest of a layer's uncompressed tar stream (image-spec `config.md`, `rootfs.diff_ids`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers (image-spec `config.md#layer-chainid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The chain id of a stack of layers, lowest first; `None` for no layers.
pub fn chain_id(diff_ids: &[DiffId]) -> Option<ChainId> {
    let (first, rest) = diff_ids.split_first()?;
    let chain = rest.iter().fold(first.0, |parent, diff_id| {
        Digest::sha256_of(format!("{parent} {diff_id}").as_bytes())
    });
    Some(ChainId(chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_canonical_digests() {
        let good = Digest::sha256_of(b"x").to_string();
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../x",
            "md5:00",
            &good.to_uppercase(),
            &good[..70],
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = format!("sha256:{}", good[7..].to_uppercase());
        assert!(upper == good || upper.parse::<Digest>().is_err());
    }

    #[test]
    fn sha512_is_carried_whole() {
        let digest = Digest::of(Algorithm::Sha512, b"abc");
        assert_eq!(digest.as_bytes().len(), 64);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn referrers_tags_are_cut_as_the_specification_says() {
        let sha256 = Digest::sha256_of(b"x");
        assert_eq!(sha256.referrers_tag(), format!("sha256-{}", sha256.hex()));
        let sha512 = Digest::of(Algorithm::Sha512, b"x");
        let tag = sha512.referrers_tag();
        assert_eq!(tag, format!("sha512-{}", &sha512.hex()[..64]));
        let reference: Result<crate::Reference, _> = format!("reg.example/a:{tag}").parse();
        assert!(reference.is_ok());
    }

    #[test]
    fn chain_id_folds_from_the_bottom() {
        let a = DiffId(Digest::sha256_of(b"a"));
        let b = DiffId(Digest::sha256_of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]).unwrap().0, a.0);
        let expected = Digest::sha256_of(format!("{} {}", a.0, b.0).as_bytes());
        assert_eq!(chain_id(&[a, b]).unwrap().0, expected);
    }
}
