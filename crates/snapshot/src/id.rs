//! The name of a snapshot.

use std::fmt;
use std::str::FromStr;

/// The longest id: a file name of at most this many bytes exists everywhere.
pub const SNAPSHOT_ID_BYTES_MAX: usize = 128;

/// A snapshot's name: 1 to [`SNAPSHOT_ID_BYTES_MAX`] ASCII letters and digits, chosen by the caller
/// (a hash of what the snapshot holds). It is a file name, so nothing else is let in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

/// A string that is not a snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a snapshot id (1 to {SNAPSHOT_ID_BYTES_MAX} ASCII letters and digits)")]
pub struct InvalidSnapshotId(String);

impl SnapshotId {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character other than `0-9A-Za-z`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidSnapshotId> {
        let name = name.into();
        let length_fits = (1..=SNAPSHOT_ID_BYTES_MAX).contains(&name.len());
        if length_fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(Self(name));
        }
        Err(InvalidSnapshotId(
            name.chars().take(SNAPSHOT_ID_BYTES_MAX).collect(),
        ))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    fn from_str(name: &str) -> Result<Self, InvalidSnapshotId> {
        Self::new(name)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_letters_and_digits_name_a_snapshot() {
        for good in ["a", "0", "deadBEEF99", &"f".repeat(SNAPSHOT_ID_BYTES_MAX)] {
            assert_eq!(
                SnapshotId::new(good).map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
        let long = "f".repeat(SNAPSHOT_ID_BYTES_MAX + 1);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "a.b",
            "sha256:ab",
            "é",
            "a\0",
            "a b",
            &long,
        ] {
            assert!(SnapshotId::new(bad).is_err(), "{bad:?}");
        }
    }
}
