//! A layer's tar stream ► its index, its DiffId and, if wanted, its files: one pass.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;

use longshore_oci::DiffId;

use crate::assembly::{Assembly, Located};
use crate::directory::{
    DirectoryError, DirectoryOptions, DirectoryWriter, FileBytes, LowerLayers, failed,
};
use crate::pool::WorkerFailed;
use crate::stream::{HashedStream, with_hashed_stream};
use crate::tar::{TarError, TarLimits, TarReader, TarReason};
use crate::{ContentHash, Entry, EntryPath, ImageError, IndexError, Kind, LayerIndex};

/// Files up to this size are handed to other threads whole; larger ones are written as they
/// are read.
pub(crate) const SMALL_FILE_BYTES_MAX: u64 = 256 << 10;

/// Why a layer could not be read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream could not be read or decompressed.
    #[error("cannot read the layer: {0}")]
    Stream(#[from] io::Error),
    /// The stream is no layer.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The image could not be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Files could not be created.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The entries make no index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A worker thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedTar {
    /// What is in the layer.
    pub index: LayerIndex,
    /// The digest of the whole stream.
    pub diff_id: DiffId,
    /// How long the stream is.
    pub size: u64,
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// What was read.
    pub tar: IndexedTar,
    /// Directories that were made because an entry needs them, without knowing their
    /// metadata; see [`settle_implied_directories`](crate::settle_implied_directories).
    pub implied_directories: Vec<EntryPath>,
}

/// Reads a layer's uncompressed tar stream to its end.
///
/// # Errors
/// When the stream fails, is no layer, or exceeds a limit.
pub fn index_of_tar(
    stream: impl Read + Send,
    limits: TarLimits,
) -> Result<IndexedTar, UnpackError> {
    let (index, diff_id, size) = with_hashed_stream(stream, |stream| {
        let mut reader = TarReader::new(stream, limits);
        let mut assembly = Assembly::default();
        while let Some(member) = reader.next_member()? {
            let located = assembly.locate(member);
            let Some(located) = located.map_err(|reason| reader.error(reason))? else {
                continue;
            };
            let entry = located.entry.clone();
            assembly.put(located);
            if matches!(entry.kind, Kind::File { .. }) {
                let hash = hash_rest(&mut reader)?;
                assembly.set_content(&entry.path, hash);
            }
        }
        Ok::<_, UnpackError>(assembly.finish()?)
    })?;
    Ok(IndexedTar {
        index,
        diff_id,
        size,
    })
}

/// Unpacks a layer's uncompressed tar stream below `directory` while reading it to its end.
/// For the overlay form, `directory` is empty before.
///
/// # Errors
/// When the stream fails, is no layer or exceeds a limit, or files cannot be created. What
/// was created until then is left.
pub fn unpack(
    stream: impl Read + Send,
    directory: impl AsFd,
    options: &DirectoryOptions,
    limits: TarLimits,
    lower: &dyn LowerLayers,
) -> Result<Unpacked, UnpackError> {
    let writer = DirectoryWriter::new(directory.as_fd(), options)?;
    let (unpacked, diff_id, size) = with_hashed_stream(stream, |stream| {
        let unpacking = Unpacking {
            reader: TarReader::new(stream, limits),
            assembly: Assembly::default(),
            writer,
            lower,
        };
        unpacking.run()
    })?;
    let (index, implied_directories) = unpacked;
    Ok(Unpacked {
        tar: IndexedTar {
            index,
            diff_id,
            size,
        },
        implied_directories,
    })
}

struct Unpacking<'a> {
    reader: TarReader<&'a mut HashedStream>,
    assembly: Assembly,
    writer: DirectoryWriter<'a>,
    lower: &'a dyn LowerLayers,
}

impl Unpacking<'_> {
    fn run(mut self) -> Result<(LayerIndex, Vec<EntryPath>), UnpackError> {
        while let Some(member) = self.reader.next_member()? {
            let located = self.assembly.locate(member);
            if let Some(located) = located.map_err(|reason| self.reader.error(reason))? {
                self.create(located)?;
            }
        }
        self.settle()?;
        let index = self.assembly.finish()?;
        let listing: Vec<&Entry> = index.entries().iter().map(|line| &line.entry).collect();
        for entry in &listing {
            // Marks come last: they hide lower layers' files, wherever in the stream they were.
            if matches!(
                entry.kind,
                Kind::Whiteout | Kind::Directory { opaque: true }
            ) {
                self.writer.create(entry, None)?;
            }
        }
        let implied = self.writer.finish(&listing, self.lower)?;
        Ok((index, implied))
    }

    fn create(&mut self, located: Located) -> Result<(), UnpackError> {
        let entry = located.entry.clone();
        if located.replaces {
            self.settle()?;
            self.writer.remove(&entry.path)?;
        }
        self.assembly.put(located);
        match entry.kind {
            Kind::File { size } if size > SMALL_FILE_BYTES_MAX => self.create_large(&entry),
            Kind::File { size } => {
                let bytes = self.read_small(size)?;
                Ok(self.writer.create(&entry, Some(bytes))?)
            }
            _ => Ok(self.writer.create(&entry, None)?),
        }
    }

    /// Waits until everything so far is on disk, and notes the hashes.
    fn settle(&mut self) -> Result<(), UnpackError> {
        for (path, hash) in self.writer.settle(self.lower)? {
            self.assembly.set_content(&path, hash);
        }
        Ok(())
    }

    fn read_small(&mut self, size: u64) -> Result<FileBytes, UnpackError> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = self.reader.read_exact(&mut bytes);
        read.map_err(|error| self.reader.error(read_failed(error)))?;
        Ok(FileBytes::Memory(bytes))
    }

    fn create_large(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let (file, finish) = self.writer.create_file(entry)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        let mut size = 0;
        loop {
            let count = self.reader.read(&mut buffer);
            let count = count.map_err(|error| self.reader.error(read_failed(error)))?;
            if count == 0 {
                break;
            }
            let bytes = &buffer[..count];
            hasher.update(bytes);
            // Zeros become holes: a sparse archive must not fill the disk.
            if bytes.iter().any(|byte| *byte != 0) {
                file.write_all_at(bytes, size)
                    .map_err(failed("write", &entry.path))?;
            }
            size += count as u64;
        }
        file.set_len(size).map_err(failed("write", &entry.path))?;
        finish.finish(&file, entry)?;
        self.assembly
            .set_content(&entry.path, hasher.finalize().into());
        Ok(())
    }
}

fn hash_rest<R: Read>(reader: &mut TarReader<R>) -> Result<ContentHash, TarError> {
    let mut hasher = blake3::Hasher::new();
    let copied = io::copy(reader, &mut hasher);
    copied.map_err(|error| reader.error(read_failed(error)))?;
    Ok(hasher.finalize().into())
}

pub(crate) fn read_failed(error: io::Error) -> TarReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarReason::Truncated,
        _ => TarReason::Io(error),
    }
}
