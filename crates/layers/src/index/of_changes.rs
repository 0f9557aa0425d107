//! The index of changes that were not written yet.

use rayon::prelude::*;

use crate::source::{ContentError, OpenContent};
use crate::{Change, ContentHash, FileContent, HostFile, IndexEntry, IndexError, Kind, LayerIndex};

/// Why changes make no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexChangesError {
    /// The bytes of a file could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The changes are no layer.
    #[error(transparent)]
    Entries(#[from] IndexError),
}

impl LayerIndex {
    /// The index that writing `changes` as a layer will give, except for where the bytes are.
    /// Files whose hash is not known yet are read, on all cores.
    ///
    /// # Errors
    /// When a file cannot be read or changed since it was chosen, or a path occurs twice.
    pub fn of_changes(changes: &[Change]) -> Result<Self, IndexChangesError> {
        let entries: Result<Vec<IndexEntry>, ContentError> =
            changes.par_iter().map(index_entry).collect();
        Ok(Self::new(entries?)?)
    }
}

fn index_entry(change: &Change) -> Result<IndexEntry, ContentError> {
    let mut entry = change.entry.clone();
    // As the tar stream will have it.
    entry.metadata.mtime.nanoseconds = 0;
    entry.metadata.mode &= 0o7777;
    let is_file = matches!(entry.kind, Kind::File { .. });
    Ok(IndexEntry {
        entry,
        content: is_file.then(|| content_hash(change)).transpose()?,
        data_offset: None,
    })
}

fn content_hash(change: &Change) -> Result<ContentHash, ContentError> {
    match &change.content {
        FileContent::Empty => Ok(ContentHash::of_empty()),
        FileContent::Inline(bytes) => Ok(ContentHash::of(bytes)),
        FileContent::Host(HostFile {
            hash: Some(hash), ..
        }) => Ok(*hash),
        other => OpenContent::open(&change.entry.path, other)?.hash(),
    }
}
