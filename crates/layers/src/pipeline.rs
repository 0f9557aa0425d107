//! Writing a layer: files ► tar ► DiffId ► compression ► blob digest, in one pass.
//!
//! ```text
//!  changes ─batches─► [read, hash, lay out] ─in order─┬─► DiffId            own thread
//!                        worker threads               └─► [compress] ─► digest ─► sink
//!                                                        worker threads
//! ```
//!
//! Invariants: the tar bytes depend on the changes and the bytes of their files alone;
//! memory is bounded by the batches under way, not by the layer; a file that is not what
//! it was when it was chosen is an error that names it.

mod batch;
mod hashing;

use std::collections::HashSet;
use std::io::Write;
use std::num::NonZeroUsize;

use longshore_oci::{DiffId, Digest};

use self::batch::{BATCH_BYTES_MAX, Batch, LargeFile, Packed, Work};
use self::hashing::HashingSink;
pub(crate) use self::hashing::StreamHasher;
use crate::compress::{Compression, Compressor};
use crate::pool::{InOrder, Pool, WorkerFailed, all_cores};
use crate::source::ContentError;
use crate::tar::{END_OF_ARCHIVE, HeaderError};
use crate::{Change, EntryPath, IndexEntry, IndexError, Kind, LayerIndex};

/// How a layer is written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// How many threads read and how many compress.
    pub threads: NonZeroUsize,
}

impl WriteOptions {
    /// On all cores.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            threads: all_cores(),
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// The digest of the tar stream.
    pub diff_id: DiffId,
    /// How long the tar stream is.
    pub uncompressed_size: u64,
    /// What is in it.
    pub index: LayerIndex,
    /// The digest of the blob.
    pub digest: Digest,
    /// How long the blob is.
    pub size: u64,
    /// The blob's OCI media type.
    pub media_type: &'static str,
}

/// Why a layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file's bytes could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// An entry has no form in a tar stream.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The changes are not sorted, or a path occurs twice.
    #[error("`{0}` is out of order in its layer")]
    Order(EntryPath),
    /// A hard link comes before its file, or its file is not in the layer.
    #[error("the hard link `{path}` has no file `{target}` before it in its layer")]
    HardlinkTarget {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// The entry says another size than its content has, or content was given to an entry
    /// that is no regular file.
    #[error("the content given for `{0}` does not fit its entry")]
    ContentSize(EntryPath),
    /// The entries make no index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The blob could not be compressed or written.
    #[error("cannot write the layer: {source}")]
    Sink {
        /// Why.
        source: std::io::Error,
    },
    /// A worker thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

fn sink_failed(source: std::io::Error) -> WriteError {
    WriteError::Sink { source }
}

/// Writes the layer that `changes` make, sorted by path, to `sink`.
///
/// # Errors
/// When a file cannot be read or has changed, changes are out of order, or the sink fails.
pub fn write_layer<W: Write>(
    changes: impl IntoIterator<Item = Change>,
    options: &WriteOptions,
    sink: W,
) -> Result<LayerSummary, WriteError> {
    let mut writer = LayerWriter::new(options, sink)?;
    for change in changes {
        writer.push(change)?;
    }
    Ok(writer.finish()?.0)
}

/// Writes a layer change by change; see [`write_layer`].
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    pool: Pool,
    under_way: InOrder<Work>,
    batch: Batch,
    last: Option<EntryPath>,
    /// The regular files so far, which hard links may name.
    files: HashSet<EntryPath>,
    entries: Vec<IndexEntry>,
    stream: Stream<W>,
    compression: Compression,
}

impl<W: Write> LayerWriter<W> {
    /// Starts a layer.
    ///
    /// # Errors
    /// When the compression level does not exist or the sink fails.
    pub fn new(options: &WriteOptions, sink: W) -> Result<Self, WriteError> {
        let pool = Pool::new(options.threads);
        Ok(Self {
            under_way: InOrder::new(pool.jobs_max()),
            pool,
            batch: Batch::default(),
            last: None,
            files: HashSet::new(),
            entries: Vec::new(),
            stream: Stream::new(options, sink)?,
            compression: options.compression,
        })
    }

    /// Adds the next change.
    ///
    /// # Errors
    /// See [`write_layer`]; an error may also be about an earlier change.
    pub fn push(&mut self, change: Change) -> Result<(), WriteError> {
        self.check(&change)?;
        if change.content.size() > BATCH_BYTES_MAX {
            self.start_batch()?;
            return self.push_large(&change);
        }
        self.batch.push(change);
        if self.batch.is_full() {
            self.start_batch()?;
        }
        Ok(())
    }

    /// Ends the layer; the sink is handed back.
    ///
    /// # Errors
    /// See [`write_layer`].
    pub fn finish(mut self) -> Result<(LayerSummary, W), WriteError> {
        self.start_batch()?;
        while let Some(work) = self.under_way.pop() {
            self.put(work)?;
        }
        self.stream.write(END_OF_ARCHIVE.to_vec())?;
        let index = LayerIndex::new(self.entries)?;
        let uncompressed_size = self.stream.offset;
        let (diff_id, digest, size, sink) = self.stream.finish()?;
        let summary = LayerSummary {
            diff_id,
            uncompressed_size,
            index,
            digest,
            size,
            media_type: self.compression.media_type(),
        };
        Ok((summary, sink))
    }

    fn check(&mut self, change: &Change) -> Result<(), WriteError> {
        let path = &change.entry.path;
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(WriteError::Order(path.clone()));
        }
        self.last = Some(path.clone());
        let size = match &change.entry.kind {
            Kind::File { size } => {
                self.files.insert(path.clone());
                *size
            }
            Kind::Hardlink { target } if !self.files.contains(target) => {
                return Err(WriteError::HardlinkTarget {
                    path: path.clone(),
                    target: target.clone(),
                });
            }
            _ => 0,
        };
        if change.content.size() != size {
            return Err(WriteError::ContentSize(path.clone()));
        }
        Ok(())
    }

    fn start_batch(&mut self) -> Result<(), WriteError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let work = Work::Batch(self.pool.run(move || batch.pack()));
        self.queue(work)
    }

    fn push_large(&mut self, change: &Change) -> Result<(), WriteError> {
        let (mut file, head) = LargeFile::open(change)?;
        self.queue(Work::Head(head))?;
        while let Some(piece) = file.next_piece() {
            let work = Work::Piece(self.pool.run(move || piece.read()));
            self.queue(work)?;
        }
        self.queue(Work::End(file))
    }

    fn queue(&mut self, work: Work) -> Result<(), WriteError> {
        match self.under_way.push(work) {
            Some(oldest) => self.put(oldest),
            None => Ok(()),
        }
    }

    /// Passes finished work on, in order.
    fn put(&mut self, work: Work) -> Result<(), WriteError> {
        match work {
            Work::Batch(pending) => {
                let packed = pending.wait()??;
                self.put_packed(packed)
            }
            Work::Head(packed) => self.put_packed(packed),
            Work::Piece(pending) => {
                let bytes = pending.wait()??;
                self.stream.large_file.update(&bytes);
                self.stream.write(bytes)
            }
            Work::End(file) => {
                let hash = self.stream.large_file.finalize().into();
                self.stream.large_file.reset();
                file.check(hash)?;
                if let Some(entry) = self.entries.last_mut() {
                    entry.content = Some(hash);
                }
                self.stream.write(file.padding())
            }
        }
    }

    fn put_packed(&mut self, packed: Packed) -> Result<(), WriteError> {
        for mut entry in packed.entries {
            entry.data_offset = entry.data_offset.map(|at| at + self.stream.offset);
            self.entries.push(entry);
        }
        self.stream.write(packed.bytes)
    }
}

/// The tar stream on its way to the sink.
#[derive(Debug)]
pub(crate) struct Stream<W: Write> {
    compressor: Compressor<HashingSink<W>>,
    hasher: Option<StreamHasher>,
    /// The hash of the large file whose pieces are passing.
    large_file: blake3::Hasher,
    offset: u64,
}

impl<W: Write> Stream<W> {
    pub(crate) fn new(options: &WriteOptions, sink: W) -> Result<Self, WriteError> {
        let sink = HashingSink::new(sink);
        let compressor = Compressor::new(options.compression, options.threads, sink);
        // Uncompressed, the blob is the tar stream: one digest is both.
        let hasher = match options.compression {
            Compression::None => None,
            _ => Some(StreamHasher::start()),
        };
        Ok(Self {
            compressor: compressor.map_err(sink_failed)?,
            hasher,
            large_file: blake3::Hasher::new(),
            offset: 0,
        })
    }

    pub(crate) fn write(&mut self, bytes: Vec<u8>) -> Result<(), WriteError> {
        self.offset += bytes.len() as u64;
        match &mut self.hasher {
            Some(hasher) => {
                let bytes = hasher.update(bytes)?;
                self.compressor.write_all(&bytes).map_err(sink_failed)
            }
            None => self.compressor.write_all(&bytes).map_err(sink_failed),
        }
    }

    /// How many bytes passed.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn finish(self) -> Result<(DiffId, Digest, u64, W), WriteError> {
        let sink = self.compressor.finish().map_err(sink_failed)?;
        let (digest, size, sink) = sink.finish().map_err(sink_failed)?;
        let diff_id = match self.hasher {
            Some(hasher) => DiffId(hasher.finish()?),
            None => DiffId(digest),
        };
        Ok((diff_id, digest, size, sink))
    }
}

#[cfg(test)]
mod tests;
