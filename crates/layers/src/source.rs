//! Reading the bytes that a [`FileContent`] names, and noticing when they are not the ones
//! that were meant.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};

use crate::fs_at::open_beneath;
use crate::{ContentHash, EntryPath, FileContent, FileStamp, HostFile};

/// Why a file's bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Opening or reading failed.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file: below its root for a file of the host, else the entry.
        path: EntryPath,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it was when it was chosen, or changed while it was read.
    #[error("`{path}` changed while it was being read")]
    Changed {
        /// The file.
        path: EntryPath,
    },
}

/// The opened bytes of one file. Reads at any place, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct OpenContent {
    path: EntryPath,
    bytes: Bytes,
    size: u64,
    expected: Option<ContentHash>,
}

#[derive(Clone, Debug)]
enum Bytes {
    Memory(Arc<[u8]>),
    /// A part of a file that nobody writes to.
    Part {
        file: Arc<File>,
        offset: u64,
    },
    /// A file of the host, which anybody may write to.
    Watched {
        file: Arc<File>,
        stamp: FileStamp,
    },
}

impl OpenContent {
    /// Opens the bytes of the entry at `path`.
    pub(crate) fn open(path: &EntryPath, content: &FileContent) -> Result<Self, ContentError> {
        let (path, bytes, expected) = match content {
            FileContent::Empty => (path.clone(), Bytes::Memory(Arc::default()), None),
            FileContent::Inline(bytes) => (path.clone(), Bytes::Memory(Arc::clone(bytes)), None),
            FileContent::Range(range) => {
                let file = Arc::clone(&range.file);
                let offset = range.offset;
                (path.clone(), Bytes::Part { file, offset }, range.hash)
            }
            FileContent::Host(host) => (host.path.clone(), watch(host)?, host.hash),
        };
        Ok(Self {
            path,
            bytes,
            size: content.size(),
            expected,
        })
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ContentError> {
        let (file, start) = match &self.bytes {
            Bytes::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(buffer.len());
                let part = bytes.get(start..end).ok_or_else(|| self.changed())?;
                buffer.copy_from_slice(part);
                return Ok(());
            }
            Bytes::Part { file, offset } => (file, *offset),
            Bytes::Watched { file, .. } => (file, 0),
        };
        let at = start.saturating_add(offset);
        file.read_exact_at(buffer, at)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => self.changed(),
                _ => self.cannot_read(source),
            })
    }

    /// The whole content and its hash, checked.
    pub(crate) fn read_into(&self, out: &mut Vec<u8>) -> Result<ContentHash, ContentError> {
        let start = out.len();
        let size = usize::try_from(self.size).map_err(|_| self.changed())?;
        out.resize(start + size, 0);
        self.read_at(&mut out[start..], 0)?;
        let hash = ContentHash::of(&out[start..]);
        self.check(hash)?;
        Ok(hash)
    }

    /// Hashes the content piece by piece, checked.
    pub(crate) fn hash(&self) -> Result<ContentHash, ContentError> {
        const PIECE: u64 = 1 << 18;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; usize::try_from(self.size.min(PIECE)).unwrap_or(0)];
        let mut offset = 0;
        while offset < self.size {
            let length = usize::try_from((self.size - offset).min(PIECE)).unwrap_or(0);
            self.read_at(&mut buffer[..length], offset)?;
            hasher.update(&buffer[..length]);
            offset += length as u64;
        }
        let hash = hasher.finalize().into();
        self.check(hash)?;
        Ok(hash)
    }

    /// Call when everything was read: `hash` is of what was read.
    pub(crate) fn check(&self, hash: ContentHash) -> Result<(), ContentError> {
        if self.expected.is_some_and(|expected| expected != hash) {
            return Err(self.changed());
        }
        self.check_stamp()
    }

    /// Call when everything was copied without being seen.
    pub(crate) fn check_stamp(&self) -> Result<(), ContentError> {
        let Bytes::Watched { file, stamp } = &self.bytes else {
            return Ok(());
        };
        let now = rustix::fs::fstat(file).map_err(|errno| self.cannot_read(errno.into()))?;
        if FileStamp::of(&now) != *stamp {
            return Err(self.changed());
        }
        Ok(())
    }

    /// The open file, for copying inside the kernel, and where its part starts.
    pub(crate) fn file(&self) -> Option<(&File, u64)> {
        match &self.bytes {
            Bytes::Memory(_) => None,
            Bytes::Part { file, offset } => Some((file, *offset)),
            Bytes::Watched { file, .. } => Some((file, 0)),
        }
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn changed(&self) -> ContentError {
        ContentError::Changed {
            path: self.path.clone(),
        }
    }

    fn cannot_read(&self, source: io::Error) -> ContentError {
        ContentError::Read {
            path: self.path.clone(),
            source,
        }
    }
}

fn watch(host: &HostFile) -> Result<Bytes, ContentError> {
    let cannot_read = |source| ContentError::Read {
        path: host.path.clone(),
        source,
    };
    // Non-blocking: should a pipe stand there now, opening it must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(open_beneath(&host.root, &host.path, flags).map_err(cannot_read)?);
    let stat = rustix::fs::fstat(&file).map_err(|errno| cannot_read(errno.into()))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || FileStamp::of(&stat) != host.stamp {
        return Err(ContentError::Changed {
            path: host.path.clone(),
        });
    }
    Ok(Bytes::Watched {
        file: Arc::new(file),
        stamp: host.stamp,
    })
}
