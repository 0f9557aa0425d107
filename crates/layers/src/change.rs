//! A layer that only names its files: an ordered list of [`Change`]s.
//!
//! Nothing is copied until the layer is written to a tar stream or a directory. A file
//! on the host is named by its directory, its path below it and what it looked like when
//! it was chosen, so that a file that changes before or while it is read is noticed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use crate::{ContentHash, Entry, EntryPath, Timestamp};

/// One change of a layer and where its bytes are.
#[derive(Clone, Debug)]
pub struct Change {
    /// What stands where.
    pub entry: Entry,
    /// The bytes of a regular file; [`FileContent::Empty`] for every other kind.
    pub content: FileContent,
}

impl Change {
    /// A change that has no bytes: anything but a regular file that is not empty.
    pub fn without_content(entry: Entry) -> Self {
        Self {
            entry,
            content: FileContent::Empty,
        }
    }
}

/// Where the bytes of a regular file are.
#[derive(Clone, Debug)]
pub enum FileContent {
    /// There are none.
    Empty,
    /// In memory.
    Inline(Arc<[u8]>),
    /// A file of the host.
    Host(HostFile),
    /// A part of an open file, such as a file inside an uncompressed tar archive.
    Range(FileRange),
}

impl FileContent {
    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Host(file) => file.stamp.size,
            Self::Range(range) => range.size,
        }
    }
}

/// A file of the host, by its place and what it looked like.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// The open directory that `path` starts from.
    pub root: Arc<OwnedFd>,
    /// The file below `root`; no component of it is a symbolic link.
    pub path: EntryPath,
    /// What the file looked like when it was chosen.
    pub stamp: FileStamp,
    /// The hash of its bytes, where it is known already; reading other bytes is an error.
    pub hash: Option<ContentHash>,
}

/// `size` bytes at `offset` of an open file, which nobody else writes to.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The open file.
    pub file: Arc<File>,
    /// Where the bytes start.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
    /// Their hash, where it is known already.
    pub hash: Option<ContentHash>,
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// The file system.
    pub device: u64,
    /// The file's number in it.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When the content last changed, as the owner may set it.
    pub mtime: Timestamp,
    /// When content or metadata last changed; nobody can set it.
    pub ctime: Timestamp,
}

impl FileStamp {
    /// The stamp of a file with this status.
    pub fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: timestamp(stat.st_mtime, stat.st_mtime_nsec),
            ctime: timestamp(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The modification time of a file with this status.
pub(crate) fn mtime_of(stat: &Stat) -> Timestamp {
    timestamp(stat.st_mtime, stat.st_mtime_nsec)
}

fn timestamp(seconds: i64, nanoseconds: impl TryInto<u32>) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: nanoseconds.try_into().unwrap_or(0),
    }
}
