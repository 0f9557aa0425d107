//! A context as its scan found it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::context::{ScanNotice, stamp};
use crate::source::OpenContent;
use crate::{
    ContentError, ContentHash, EntryPath, FileContent, FileStamp, HostFile, Kind, Metadata,
};

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

    /// A file for a layer to take: read again later, and only if it is still the same.
    ///
    /// # Errors
    /// When no file stands at the path.
    pub fn host_file(&self, path: &EntryPath) -> Result<HostFile, ContentError> {
        Ok(self.host(self.file(path)?))
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
            .ok_or_else(|| ContentError::Read {
                path: path.clone(),
                source: io::ErrorKind::NotFound.into(),
            })
    }

    fn hash_now(&self, node: &ContextNode) -> Result<ContentHash, ContentError> {
        let began = stamp::now();
        let hash = match node.stamp.size {
            // A socket is an empty file here and cannot be opened.
            0 => ContentHash::of_empty(),
            _ => OpenContent::open(&node.path, &FileContent::Host(self.host(node)))?.hash()?,
        };
        let settled = stamp::settled_before(&node.stamp, began);
        // Another thread may have been quicker; both read the same bytes.
        let known = node.hash.get_or_init(|| KnownHash { hash, settled });
        Ok(known.hash)
    }

    fn host(&self, node: &ContextNode) -> HostFile {
        HostFile {
            root: Arc::clone(&self.directory),
            path: node.path.clone(),
            stamp: node.stamp,
            hash: node.hash.get().map(|known| known.hash),
        }
    }
}
