//! A layer's table of contents: what stands where, the hash of every file, and where its
//! bytes are in the uncompressed tar stream.
//!
//! Invariants: entries are sorted by [`EntryPath`] and unique; every regular file has a
//! content hash. A hard link whose target is in the same layer has the target's hash.
//! A path that is both whited out and a directory is one opaque directory.

mod codec;
mod of_changes;

use longshore_oci::LayerId;

pub use codec::{INDEX_BYTES_MAX, IndexDecodeError};
pub use of_changes::IndexChangesError;

use crate::field_hasher::FieldHasher;
use crate::{ContentHash, Entry, EntryPath, Kind};

/// One line of a [`LayerIndex`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// What stands where.
    pub entry: Entry,
    /// The hash of the file's bytes: always for a regular file, for a hard link where its
    /// target is in the same layer, else never.
    pub content: Option<ContentHash>,
    /// Where the file's bytes start in the uncompressed tar stream, when they are there in
    /// one piece.
    pub data_offset: Option<u64>,
}

/// Why entries make no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Two entries have one path.
    #[error("`{0}` occurs twice in a layer")]
    Duplicate(EntryPath),
    /// A regular file has no content hash.
    #[error("`{0}` has no content hash")]
    ContentUnknown(EntryPath),
    /// The root is never an entry of a layer.
    #[error("a layer has no entry for its root")]
    Root,
}

/// The sorted entries of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerIndex {
    entries: Vec<IndexEntry>,
}

impl LayerIndex {
    /// Sorts `entries` and checks the index's invariants.
    ///
    /// # Errors
    /// When a path occurs twice or is the root, or a regular file has no hash.
    pub fn new(mut entries: Vec<IndexEntry>) -> Result<Self, IndexError> {
        entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        for entry in &entries {
            check(entry)?;
        }
        for pair in entries.windows(2) {
            if pair[0].entry.path == pair[1].entry.path {
                return Err(IndexError::Duplicate(pair[0].entry.path.clone()));
            }
        }
        let mut index = Self { entries };
        index.share_hashes_of_links();
        Ok(index)
    }

    /// The entries, sorted by path.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at `path`.
    pub fn find(&self, path: &EntryPath) -> Option<&IndexEntry> {
        let at = self
            .entries
            .binary_search_by(|probe| probe.entry.path.cmp(path))
            .ok()?;
        Some(&self.entries[at])
    }

    /// The identity of what this layer changes: paths, kinds, owners, modes, attributes and
    /// contents, but no modification times and no place in any tar stream.
    pub fn layer_id(&self) -> LayerId {
        let mut hasher = FieldHasher::new("longshore layer id 1");
        hasher.number(self.entries.len() as u64);
        for entry in &self.entries {
            hasher.bytes(entry.entry.path.as_bytes());
            hash_kind(&mut hasher, &entry.entry.kind);
            hasher.metadata(&entry.entry.metadata);
            match &entry.content {
                Some(hash) => hasher.bytes(&hash.0),
                None => hasher.bytes(&[]),
            }
        }
        LayerId(hasher.finish())
    }

    fn share_hashes_of_links(&mut self) {
        let found: Vec<(usize, Option<ContentHash>)> = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match &entry.entry.kind {
                Kind::Hardlink { target } => Some((at, self.file_hash(target))),
                _ => None,
            })
            .collect();
        for (at, hash) in found {
            self.entries[at].content = hash;
        }
    }

    fn file_hash(&self, path: &EntryPath) -> Option<ContentHash> {
        let entry = self.find(path)?;
        match entry.entry.kind {
            Kind::File { .. } => entry.content,
            _ => None,
        }
    }
}

fn check(entry: &IndexEntry) -> Result<(), IndexError> {
    if entry.entry.path.is_root() {
        return Err(IndexError::Root);
    }
    if matches!(entry.entry.kind, Kind::File { .. }) && entry.content.is_none() {
        return Err(IndexError::ContentUnknown(entry.entry.path.clone()));
    }
    Ok(())
}

fn hash_kind(hasher: &mut FieldHasher, kind: &Kind) {
    hasher.number(u64::from(codec::kind_tag(kind)));
    match kind {
        Kind::File { size } => hasher.number(*size),
        Kind::Directory { opaque } => hasher.number(u64::from(*opaque)),
        Kind::Symlink { target } => hasher.bytes(target),
        Kind::Hardlink { target } => hasher.bytes(target.as_bytes()),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            hasher.number(u64::from(*major));
            hasher.number(u64::from(*minor));
        }
        Kind::Fifo | Kind::Whiteout => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, Timestamp};

    fn file(path: &str, content: &[u8]) -> IndexEntry {
        IndexEntry {
            entry: Entry {
                path: EntryPath::new(path).unwrap(),
                kind: Kind::File {
                    size: content.len() as u64,
                },
                metadata: Metadata {
                    mode: 0o644,
                    ..Metadata::default()
                },
            },
            content: Some(ContentHash::of(content)),
            data_offset: Some(512),
        }
    }

    #[test]
    fn entries_are_sorted_and_found() {
        let index = LayerIndex::new(vec![file("b", b"2"), file("a", b"1")]).unwrap();
        assert_eq!(index.entries()[0].entry.path.as_bytes(), b"a");
        assert_eq!(
            index.find(&EntryPath::new("b").unwrap()).unwrap().content,
            Some(ContentHash::of(b"2"))
        );
        assert!(index.find(&EntryPath::new("c").unwrap()).is_none());
    }

    #[test]
    fn duplicates_and_unknown_contents_are_refused() {
        let twice = LayerIndex::new(vec![file("a", b"1"), file("a", b"1")]);
        assert!(matches!(twice, Err(IndexError::Duplicate(_))));
        let mut unknown = file("a", b"1");
        unknown.content = None;
        assert!(matches!(
            LayerIndex::new(vec![unknown]),
            Err(IndexError::ContentUnknown(_))
        ));
        let mut root = file("a", b"1");
        root.entry.path = EntryPath::root();
        assert_eq!(LayerIndex::new(vec![root]), Err(IndexError::Root));
    }

    #[test]
    fn hard_links_have_the_hash_of_their_file() {
        let mut link = file("z", b"");
        link.entry.kind = Kind::Hardlink {
            target: EntryPath::new("a").unwrap(),
        };
        link.content = None;
        let index = LayerIndex::new(vec![link, file("a", b"1")]).unwrap();
        assert_eq!(index.entries()[1].content, Some(ContentHash::of(b"1")));
    }

    #[test]
    fn the_layer_id_sees_every_field_but_times_and_offsets() {
        let base = file("a", b"1");
        let id = |entry: IndexEntry| LayerIndex::new(vec![entry]).unwrap().layer_id();
        let original = id(base.clone());
        let mut same = base.clone();
        same.entry.metadata.mtime = Timestamp {
            seconds: 7,
            nanoseconds: 1,
        };
        same.data_offset = None;
        assert_eq!(id(same), original);
        let changes: [fn(&mut IndexEntry); 6] = [
            |e| e.entry.path = EntryPath::new("b").unwrap(),
            |e| e.entry.metadata.mode = 0o600,
            |e| e.entry.metadata.uid = 1,
            |e| e.entry.metadata.gid = 1,
            |e| e.content = Some(ContentHash::of(b"2")),
            |e| {
                let xattrs = &mut e.entry.metadata.xattrs;
                xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(id(other), original, "field {number}");
        }
    }
}
