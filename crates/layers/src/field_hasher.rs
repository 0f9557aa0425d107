//! Hashing of fields: each with its length, so that no two lists of fields hash alike.

use crate::Metadata;

/// Hashes one field after the other.
pub(crate) struct FieldHasher(blake3::Hasher);

impl FieldHasher {
    /// Starts with no field. Hashes for one `context` are never those for another.
    pub(crate) fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    /// Adds a number, always eight bytes.
    pub(crate) fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    /// Adds bytes, their count first.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// Adds the metadata without the modification time.
    pub(crate) fn metadata(&mut self, metadata: &Metadata) {
        self.number(u64::from(metadata.mode));
        self.number(u64::from(metadata.uid));
        self.number(u64::from(metadata.gid));
        self.number(metadata.xattrs.len() as u64);
        for (name, value) in &metadata.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }

    /// The hash of all fields.
    pub(crate) fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
