//! A context as its scan found it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use rustix::fs::OFlags;

use crate::context::{ScanNotice, hash_reader, open_beneath, stamp};
use crate::{ContentHash, EntryPath, FileStamp, HostFile, Kind, Metadata};

/// The files of a context: paths, kinds and metadata, with digests made when asked for.
#[derive(Debug)]
pub struct ContextTree {
    pub(super) root: PathBuf,
    pub(super) directory: Arc<OwnedFd>,
    /// Sorted; the root comes first.
    pub(super) nodes: Vec<ContextNode>,
    pub(super) notices: Vec<ScanNotice>,
}

/// One path of a context.
#[derive(Debug)]
pub struct ContextNode {
    /// Where it is.
    pub path: EntryPath,
    /// What it is: a file, directory, symbolic link, device or pipe.
    pub kind: Kind,
    /// Its metadata, as the scan was told to see it.
    pub metadata: Metadata,
    /// What its file looked like.
    pub stamp: FileStamp,
    /// Whether the file has other names.
    pub linked: bool,
    /// The index after the last node below this one.
    pub(super) end: usize,
    pub(super) hash: OnceLock<KnownHash>,
}

/// A digest, and whether the file's stamp vouches for it from now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownHash {
    pub(super) hash: ContentHash,
    pub(super) settled: bool,
}

/// A file of the context could not be read as it was scanned.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Nothing stands at the path, or no regular file.
    #[error("`{path}` is not a file of the context")]
    NotAFile {
        /// The path.
        path: EntryPath,
    },
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file on the host.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is another one than the scan saw.
    #[error("`{}` changed while the context was being read", path.display())]
    Changed {
        /// The file on the host.
        path: PathBuf,
    },
}

impl ContextTree {
    /// The directory that was scanned.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every path, sorted: the root first, a directory right before what it contains.
    pub fn nodes(&self) -> &[ContextNode] {
        &self.nodes
    }

    /// What the scan left out or changed, sorted by path.
    pub fn notices(&self) -> &[ScanNotice] {
        &self.notices
    }

    /// What stands at a path.
    pub fn node(&self, path: &EntryPath) -> Option<&ContextNode> {
        self.index(path).map(|index| &self.nodes[index])
    }

    /// The direct children of a directory, sorted by name; none for anything else.
    pub fn children(&self, path: &EntryPath) -> impl Iterator<Item = &ContextNode> {
        let (mut next, end) = self
            .index(path)
            .map_or((0, 0), |index| (index + 1, self.nodes[index].end));
        std::iter::from_fn(move || {
            let node = (next < end).then(|| &self.nodes[next])?;
            next = node.end;
            Some(node)
        })
    }

    /// The digest of a file's content; read at most once.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or it changed since the scan.
    pub fn content_hash(&self, path: &EntryPath) -> Result<ContentHash, ContentError> {
        let node = self.file(path)?;
        match node.hash.get() {
            Some(known) => Ok(known.hash),
            None => self.hash_now(node),
        }
    }

    /// The digests of many files, in the order asked for, read on all cores.
    ///
    /// # Errors
    /// As [`Self::content_hash`], for the first path that fails.
    pub fn content_hashes(&self, paths: &[EntryPath]) -> Result<Vec<ContentHash>, ContentError> {
        let results: Vec<_> = paths
            .par_iter()
            .map(|path| self.content_hash(path))
            .collect();
        results.into_iter().collect()
    }

    /// Opens a file, which must still be the one that was scanned.
    ///
    /// # Errors
    /// As [`Self::content_hash`].
    pub fn open(&self, path: &EntryPath) -> Result<File, ContentError> {
        self.open_node(self.file(path)?)
    }

    /// A file for a layer to take: read again later, and only if it is still the same.
    ///
    /// # Errors
    /// When no file stands at the path.
    pub fn host_file(&self, path: &EntryPath) -> Result<HostFile, ContentError> {
        let node = self.file(path)?;
        Ok(HostFile {
            root: Arc::clone(&self.directory),
            path: node.path.clone(),
            stamp: node.stamp,
            hash: node.hash.get().map(|known| known.hash),
        })
    }

    /// Where the file or directory is on the host.
    pub fn host_path(&self, path: &EntryPath) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        if path.is_root() {
            return self.root.clone();
        }
        self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    fn index(&self, path: &EntryPath) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.path.cmp(path)).ok()
    }

    fn file(&self, path: &EntryPath) -> Result<&ContextNode, ContentError> {
        self.node(path)
            .filter(|node| matches!(node.kind, Kind::File { .. }))
            .ok_or_else(|| ContentError::NotAFile { path: path.clone() })
    }

    fn hash_now(&self, node: &ContextNode) -> Result<ContentHash, ContentError> {
        let began = stamp::now();
        let hash = if node.stamp.size == 0 {
            // A socket is an empty file here and cannot be opened.
            ContentHash::of_empty()
        } else {
            let file = self.open_node(node)?;
            let (hash, total) = hash_reader(&file, node.stamp.size)
                .map_err(|source| self.unreadable(node, source))?;
            if total != node.stamp.size {
                return Err(self.changed(node));
            }
            self.check_stamp(node, &file)?;
            hash
        };
        let settled = stamp::settled_before(&node.stamp, began);
        // Another thread may have been quicker; both read the same bytes.
        let known = node.hash.get_or_init(|| KnownHash { hash, settled });
        Ok(known.hash)
    }

    fn open_node(&self, node: &ContextNode) -> Result<File, ContentError> {
        // Non-blocking, so that a pipe that took the file's place cannot hold us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match open_beneath(self.directory.as_fd(), &node.path, flags) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Err(self.changed(node));
            }
            Err(errno) => return Err(self.unreadable(node, errno.into())),
        };
        self.check_stamp(node, &file)?;
        Ok(file)
    }

    fn check_stamp(&self, node: &ContextNode, file: &File) -> Result<(), ContentError> {
        let stat = rustix::fs::fstat(file).map_err(|errno| self.unreadable(node, errno.into()))?;
        if FileStamp::of(&stat) == node.stamp {
            Ok(())
        } else {
            Err(self.changed(node))
        }
    }

    fn unreadable(&self, node: &ContextNode, source: io::Error) -> ContentError {
        ContentError::Read {
            path: self.host_path(&node.path),
            source,
        }
    }

    fn changed(&self, node: &ContextNode) -> ContentError {
        ContentError::Changed {
            path: self.host_path(&node.path),
        }
    }
}
