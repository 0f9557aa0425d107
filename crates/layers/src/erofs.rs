//! A layer as an EROFS image: one file, written in one pass over the layer's tar stream.
//!
//! ```text
//!  block 0             1024 bytes of nothing, the super block
//!  data                whole blocks of files, in the stream's order, equal files once
//!  directory blocks    of directories that fill whole blocks
//!  shared attributes   extended attributes that occur more than once
//!  inodes              root first, then by path; each with its own attributes and behind
//!                      them the rest of its data that fills no block
//! ```
//!
//! The kernel mounts such an image as a layer of an overlay file system: whiteouts are character
//! devices 0:0, opaque directories carry the overlay's attribute. Nothing is compressed.
//!
//! Invariants: equal entries and contents in equal order make equal bytes, on any host. Memory
//! grows with the number of entries, never with their size. What an image cannot hold
//! ([`ImageError::Unfit`]) a directory may.
//!
//! The format: the kernel's `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

mod attributes;
mod data;
mod directory;
mod format;
mod metadata;
mod tree;

use std::fs::File;
use std::io::{self, Read};

use self::data::DataArea;
use crate::assembly::{Assembly, Located};
use crate::directory::{LowerLayers, OverlayAttributes};
use crate::source::{ContentError, OpenContent};
use crate::stream::{HashedStream, with_hashed_stream};
use crate::tar::TarReader;
use crate::unpack::{SMALL_FILE_BYTES_MAX, read_failed};
use crate::{
    Change, ContentHash, Entry, EntryPath, FileContent, IndexedTar, Kind, LayerIndex, TarLimits,
    UnpackError,
};

/// How much of a large file is read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why no image could be written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image's file could not be written or read.
    #[error("cannot write the layer's image: {0}")]
    Io(#[source] io::Error),
    /// The bytes of a file could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The entry says another size than its content has.
    #[error("the content given for `{0}` does not fit its entry")]
    ContentSize(EntryPath),
    /// A hard link names nothing in the layer or below it that can have one.
    #[error("the hard link `{path}` names `{target}`, which does not exist")]
    LinkTarget {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// An entry lies below something that is no directory.
    #[error("`{0}` is in the way and no directory")]
    NotADirectory(EntryPath),
    /// The format has no room for it; a directory may.
    #[error("`{path}` does not fit an EROFS image: {what}")]
    Unfit {
        /// The entry.
        path: EntryPath,
        /// What is too much.
        what: &'static str,
    },
}

impl From<io::Error> for ImageError {
    /// More than the format, or the file system that the image is on, has room for in one file
    /// fits a directory.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Self::Unfit {
                path: EntryPath::root(),
                what: "more bytes than one file can hold",
            },
            _ => Self::Io(error),
        }
    }
}

/// Writes a layer's uncompressed tar stream as an image while reading it to its end. `image` is
/// empty, and open for reading and writing.
///
/// # Errors
/// When the stream fails, is no layer or exceeds a limit, or the image cannot be written or does
/// not hold the layer. What was written until then is left.
pub fn unpack_image(
    stream: impl Read + Send,
    image: &File,
    attributes: OverlayAttributes,
    limits: TarLimits,
    lower: &dyn LowerLayers,
) -> Result<IndexedTar, UnpackError> {
    let (index, diff_id, size) = with_hashed_stream(stream, |stream| {
        let imaging = Imaging {
            reader: TarReader::new(stream, limits),
            assembly: Assembly::default(),
            data: DataArea::new(image),
            buffer: Vec::new(),
        };
        imaging.run(attributes, lower)
    })?;
    Ok(IndexedTar {
        index,
        diff_id,
        size,
    })
}

/// Writes the layer that `changes` make, sorted by path, as an image. `image` is empty, and open
/// for reading and writing.
///
/// # Errors
/// When a file cannot be read or has changed since it was chosen, or the image cannot be written
/// or does not hold the layer. What was written until then is left.
pub fn image_of_changes(
    changes: &[Change],
    image: &File,
    attributes: OverlayAttributes,
    lower: &dyn LowerLayers,
) -> Result<(), ImageError> {
    let mut data = DataArea::new(image);
    let mut contents = Vec::with_capacity(changes.len());
    for change in changes {
        let content = match change.entry.kind {
            Kind::File { size } if size != change.content.size() => {
                return Err(ImageError::ContentSize(change.entry.path.clone()));
            }
            Kind::File { .. } => Some(add_content(&mut data, &change.entry, &change.content)?),
            _ => None,
        };
        contents.push(content);
    }
    let listing: Vec<_> = changes
        .iter()
        .zip(contents)
        .map(|(change, content)| (&change.entry, content))
        .collect();
    metadata::write(data, &listing, attributes, lower)
}

fn add_content(
    data: &mut DataArea<'_>,
    entry: &Entry,
    content: &FileContent,
) -> Result<ContentHash, ImageError> {
    let content = OpenContent::open(&entry.path, content)?;
    if content.size() <= SMALL_FILE_BYTES_MAX {
        let mut bytes = Vec::new();
        let hash = content.read_into(&mut bytes)?;
        data.add(hash, &bytes)?;
        return Ok(hash);
    }
    let mut file = data.begin()?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < content.size() {
        let left = usize::try_from(content.size() - offset).unwrap_or(usize::MAX);
        let piece = &mut buffer[..left.min(PIECE_BYTES)];
        content.read_at(piece, offset)?;
        file.write(piece)?;
        offset += piece.len() as u64;
    }
    let hash = file.finish()?;
    content.check(hash)?;
    Ok(hash)
}

struct Imaging<'a> {
    reader: TarReader<&'a mut HashedStream>,
    assembly: Assembly,
    data: DataArea<'a>,
    buffer: Vec<u8>,
}

impl Imaging<'_> {
    fn run(
        mut self,
        attributes: OverlayAttributes,
        lower: &dyn LowerLayers,
    ) -> Result<LayerIndex, UnpackError> {
        while let Some(member) = self.reader.next_member()? {
            let located = self.assembly.locate(member);
            if let Some(located) = located.map_err(|reason| self.reader.error(reason))? {
                self.place(located)?;
            }
        }
        let index = self.assembly.finish()?;
        let listing: Vec<_> = index
            .entries()
            .iter()
            .map(|line| (&line.entry, line.content))
            .collect();
        metadata::write(self.data, &listing, attributes, lower)?;
        Ok(index)
    }

    fn place(&mut self, located: Located) -> Result<(), UnpackError> {
        let Kind::File { size } = located.entry.kind else {
            self.assembly.put(located);
            return Ok(());
        };
        let path = located.entry.path.clone();
        self.assembly.put(located);
        let hash = if size > SMALL_FILE_BYTES_MAX {
            self.add_large()?
        } else {
            self.add_small(usize::try_from(size).unwrap_or(0))?
        };
        self.assembly.set_content(&path, hash);
        Ok(())
    }

    fn add_small(&mut self, size: usize) -> Result<ContentHash, UnpackError> {
        self.buffer.resize(size, 0);
        let read = self.reader.read_exact(&mut self.buffer);
        read.map_err(|error| self.reader.error(read_failed(error)))?;
        let hash = ContentHash::of(&self.buffer);
        self.data
            .add(hash, &self.buffer)
            .map_err(ImageError::from)?;
        Ok(hash)
    }

    fn add_large(&mut self) -> Result<ContentHash, UnpackError> {
        let mut file = self.data.begin().map_err(ImageError::from)?;
        self.buffer.resize(PIECE_BYTES, 0);
        loop {
            let count = self.reader.read(&mut self.buffer);
            let count = count.map_err(|error| self.reader.error(read_failed(error)))?;
            if count == 0 {
                return Ok(file.finish().map_err(ImageError::from)?);
            }
            file.write(&self.buffer[..count])
                .map_err(ImageError::from)?;
        }
    }
}
