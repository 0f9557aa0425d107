//! Jobs that turn changes into pieces of a tar stream.
//!
//! Small files go many to a batch, which one thread reads, hashes and lays out. A large
//! file is read in pieces by many threads.

use std::sync::Arc;

use super::WriteError;
use crate::pool::Pending;
use crate::source::{ContentError, OpenContent};
use crate::tar::{encode_headers, padding_of};
use crate::{Change, ContentHash, Entry, IndexEntry, Kind};

/// The most content of a batch, and the size of a large file's pieces.
pub(super) const BATCH_BYTES_MAX: u64 = 512 << 10;
/// The most changes of a batch: enough that handing it over costs nothing in comparison.
const BATCH_CHANGES_MAX: usize = 128;

/// A step of the layer that is under way.
#[derive(Debug)]
pub(super) enum Work {
    Batch(Pending<Result<Packed, WriteError>>),
    /// The headers of a large file.
    Head(Packed),
    /// Some of its content.
    Piece(Pending<Result<Vec<u8>, ContentError>>),
    /// Its content has passed.
    End(LargeFile),
}

/// A piece of the tar stream and what is in it; offsets count from the piece's start.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<IndexEntry>,
}

/// Changes that are packed together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    content_bytes: u64,
}

impl Batch {
    pub(super) fn push(&mut self, change: Change) {
        self.content_bytes += change.content.size();
        self.changes.push(change);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES_MAX || self.content_bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn pack(self) -> Result<Packed, WriteError> {
        let room = self.content_bytes + self.changes.len() as u64 * 1024;
        let mut packed = Packed {
            bytes: Vec::with_capacity(usize::try_from(room).unwrap_or(0)),
            entries: Vec::with_capacity(self.changes.len()),
        };
        for change in self.changes {
            packed.add(change)?;
        }
        Ok(packed)
    }
}

impl Packed {
    fn add(&mut self, change: Change) -> Result<(), WriteError> {
        let content = match change.entry.kind {
            Kind::File { .. } => Some(OpenContent::open(&change.entry.path, &change.content)?),
            _ => None,
        };
        self.add_headers(change.entry)?;
        if let Some(content) = content {
            let hash = content.read_into(&mut self.bytes)?;
            let padded = self.bytes.len() + padding_of(content.size());
            self.bytes.resize(padded, 0);
            if let Some(entry) = self.entries.last_mut() {
                entry.content = Some(hash);
            }
        }
        Ok(())
    }

    fn add_headers(&mut self, mut entry: Entry) -> Result<(), WriteError> {
        encode_headers(&entry, &mut self.bytes)?;
        // The index says what the tar says, and that has whole seconds.
        entry.metadata.mtime.nanoseconds = 0;
        entry.metadata.mode &= 0o7777;
        let is_file = matches!(entry.kind, Kind::File { .. });
        self.entries.push(IndexEntry {
            entry,
            content: None,
            data_offset: is_file.then_some(self.bytes.len() as u64),
        });
        Ok(())
    }
}

/// A file that is read in pieces.
#[derive(Debug)]
pub(super) struct LargeFile {
    content: Arc<OpenContent>,
    offset: u64,
}

/// A part of a large file.
#[derive(Debug)]
pub(super) struct Piece {
    content: Arc<OpenContent>,
    offset: u64,
    length: usize,
}

impl LargeFile {
    /// Opens the file and lays out its headers.
    pub(super) fn open(change: &Change) -> Result<(Self, Packed), WriteError> {
        let content = OpenContent::open(&change.entry.path, &change.content)?;
        let mut head = Packed {
            bytes: Vec::new(),
            entries: Vec::new(),
        };
        head.add_headers(change.entry.clone())?;
        let file = Self {
            content: Arc::new(content),
            offset: 0,
        };
        Ok((file, head))
    }

    pub(super) fn next_piece(&mut self) -> Option<Piece> {
        let length = (self.content.size() - self.offset).min(BATCH_BYTES_MAX);
        if length == 0 {
            return None;
        }
        let piece = Piece {
            content: Arc::clone(&self.content),
            offset: self.offset,
            length: usize::try_from(length).unwrap_or(0),
        };
        self.offset += length;
        Some(piece)
    }

    pub(super) fn check(&self, hash: ContentHash) -> Result<(), ContentError> {
        self.content.check(hash)
    }

    pub(super) fn padding(&self) -> Vec<u8> {
        vec![0; padding_of(self.content.size())]
    }
}

impl Piece {
    pub(super) fn read(&self) -> Result<Vec<u8>, ContentError> {
        let mut bytes = vec![0; self.length];
        self.content.read_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}
