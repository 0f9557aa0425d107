//! The blocks of files: appended as they come, equal files once.
//!
//! A file's whole blocks are written where the data area ends. What is left of it, if it is not
//! too long, is put behind its inode later; until then these *tails* wait in memory, and when
//! they are too many, in the image's file far behind everything else, where they are cut off in
//! the end.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::format::BLOCK_BYTES;
use crate::ContentHash;

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;
/// In units of this, bytes that are all zero are not written but left as a hole: a sparse
/// archive must not fill the disk.
const HOLE_BYTES: usize = 64 << 10;
/// A longer rest of a file has a block of its own. Short enough that few inodes leave gaps.
pub(super) const TAIL_BYTES_MAX: usize = 3072;
/// How many bytes of tails wait in memory.
const TAILS_MEMORY_BYTES_MAX: usize = 8 << 20;
/// Where tails wait in the file. No image comes near; every file system's files may.
const TAILS_OFFSET: u64 = 1 << 40;

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The first block.
    pub(super) block: u32,
    /// The tail, unless all is in blocks.
    pub(super) tail: Option<u64>,
}

/// The part of the image that is written while the layer is read.
#[derive(Debug)]
pub(super) struct DataArea<'a> {
    image: &'a File,
    buffer: Vec<u8>,
    /// Where in the image the buffer begins.
    written: u64,
    /// Up to here bytes of files that were taken back may stand in the image.
    soiled: u64,
    tails: Tails<'a>,
    known: HashMap<ContentHash, Placement>,
}

/// A file that is added piece by piece.
#[derive(Debug)]
pub(super) struct GrowingFile<'a, 'image> {
    area: &'a mut DataArea<'image>,
    start: u64,
    size: u64,
    hasher: blake3::Hasher,
}

impl<'a> DataArea<'a> {
    pub(super) fn new(image: &'a File) -> Self {
        Self {
            image,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            // Block 0 is the super block's.
            written: BLOCK_BYTES as u64,
            soiled: 0,
            tails: Tails {
                image,
                memory: Vec::new(),
                spilled: 0,
            },
            known: HashMap::new(),
        }
    }

    /// Adds a file's bytes, unless they are there already.
    pub(super) fn add(&mut self, hash: ContentHash, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.known.contains_key(&hash) {
            return Ok(());
        }
        let start = self.end();
        let (blocks, tail) = bytes.split_at(whole_blocks(bytes.len()));
        self.append(blocks)?;
        let tail = (!tail.is_empty())
            .then(|| self.tails.add(tail))
            .transpose()?;
        self.pad()?;
        let block = block_at(start)?;
        self.known.insert(hash, Placement { block, tail });
        Ok(())
    }

    /// Begins to add a file whose hash is not known yet.
    pub(super) fn begin(&mut self) -> io::Result<GrowingFile<'_, 'a>> {
        let start = self.end();
        block_at(start)?;
        Ok(GrowingFile {
            area: self,
            start,
            size: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Where the bytes of that hash are; `None` when there never were such.
    pub(super) fn find(&self, hash: &ContentHash) -> Option<Placement> {
        self.known.get(hash).copied()
    }

    /// The image's file.
    pub(super) fn image(&self) -> &'a File {
        self.image
    }

    /// Ends the area: the first block behind it, and the tails.
    pub(super) fn finish(mut self) -> io::Result<(u32, Tails<'a>)> {
        self.flush()?;
        Ok((block_at(self.end())?, self.tails))
    }

    /// Where the next byte goes.
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Fills the last block.
    fn pad(&mut self) -> io::Result<()> {
        let rest = self.buffer.len() % BLOCK_BYTES;
        if rest > 0 {
            self.append(&[0; BLOCK_BYTES][rest..])?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let is_zero = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
        let mut from = 0;
        while from < self.buffer.len() {
            let mut to = from;
            let hole = is_zero(&self.buffer[from..self.buffer.len().min(from + HOLE_BYTES)]);
            while to < self.buffer.len() {
                let next = self.buffer.len().min(to + HOLE_BYTES);
                if is_zero(&self.buffer[to..next]) != hole {
                    break;
                }
                to = next;
            }
            let at = self.written + from as u64;
            if !hole || at < self.soiled {
                self.image.write_all_at(&self.buffer[from..to], at)?;
            }
            from = to;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Forgets what was added from `start` on.
    fn take_back(&mut self, start: u64) {
        match start.checked_sub(self.written) {
            Some(kept) => self.buffer.truncate(usize::try_from(kept).unwrap_or(0)),
            None => {
                self.buffer.clear();
                self.soiled = self.soiled.max(self.written);
                self.written = start;
            }
        }
    }
}

impl GrowingFile<'_, '_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.area.append(bytes)
    }

    /// Ends the file; it is taken back if its bytes were there already.
    pub(super) fn finish(self) -> io::Result<ContentHash> {
        let hash = self.hasher.finalize().into();
        if self.size == 0 {
            return Ok(hash);
        }
        if self.area.known.contains_key(&hash) {
            self.area.take_back(self.start);
            return Ok(hash);
        }
        self.area.pad()?;
        let placement = Placement {
            block: block_at(self.start)?,
            tail: None,
        };
        // The end must have a block's number too.
        block_at(self.area.end())?;
        self.area.known.insert(hash, placement);
        Ok(hash)
    }
}

/// The rests of files, until their inodes are written.
#[derive(Debug)]
pub(super) struct Tails<'a> {
    image: &'a File,
    memory: Vec<u8>,
    spilled: u64,
}

impl Tails<'_> {
    fn add(&mut self, bytes: &[u8]) -> io::Result<u64> {
        if self.memory.len() + bytes.len() > TAILS_MEMORY_BYTES_MAX {
            self.image
                .write_all_at(&self.memory, TAILS_OFFSET + self.spilled)?;
            self.spilled += self.memory.len() as u64;
            self.memory.clear();
        }
        let at = self.spilled + self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        Ok(at)
    }

    /// Adds the `length` bytes at `at` to `out`.
    pub(super) fn read(&self, at: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(at) = at.checked_sub(self.spilled) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = self.memory.get(at..at.saturating_add(length));
            out.extend_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            return Ok(());
        }
        let start = out.len();
        out.resize(start + length, 0);
        self.image
            .read_exact_at(&mut out[start..], TAILS_OFFSET + at)
    }
}

/// How many of a file's bytes are in blocks of their own.
pub(super) fn whole_blocks(size: usize) -> usize {
    let tail = size % BLOCK_BYTES;
    if tail > TAIL_BYTES_MAX {
        size
    } else {
        size - tail
    }
}

/// The block that begins at an offset of the image.
fn block_at(offset: u64) -> io::Result<u32> {
    if offset >= TAILS_OFFSET {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    u32::try_from(offset / BLOCK_BYTES as u64).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageError;

    /// A layer that has no room as an image becomes a directory, as one that is unfit otherwise.
    #[test]
    fn more_than_one_file_can_hold_is_unfit() {
        let file = tempfile::tempfile().unwrap();
        let mut area = DataArea::new(&file);
        area.written = TAILS_OFFSET;
        let mut errors = vec![area.begin().unwrap_err()];
        errors.push(area.add(ContentHash::of(b"1"), b"1").unwrap_err());
        errors.push(area.finish().unwrap_err());
        errors.push(rustix::io::Errno::FBIG.into());
        for error in errors {
            let error = ImageError::from(error);
            assert!(matches!(error, ImageError::Unfit { .. }), "{error}");
        }
        let other = ImageError::from(io::Error::from(rustix::io::Errno::NOSPC));
        assert!(matches!(other, ImageError::Io(_)), "{other}");
    }
}
