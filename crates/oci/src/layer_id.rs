//! The identity of a layer by what it changes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{DigestError, decode_hex, encode_hex};

/// Names a layer by its file changes: 32 bytes, the hash of its index.
///
/// Unlike a [`DiffId`](crate::DiffId) it leaves out modification times, so that a
/// step that produces the same files again yields the same identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub [u8; 32]);

impl LayerId {
    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        encode_hex(&self.0)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerId({})", self.hex())
    }
}

impl FromStr for LayerId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        decode_hex(text, &mut bytes)
            .ok_or_else(|| DigestError::Encoding(text.chars().take(160).collect()))?;
        Ok(Self(bytes))
    }
}

impl Serialize for LayerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LayerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
