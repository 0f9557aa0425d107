//! Unpacking an archive where it would otherwise be copied (`ADD`).
//!
//! ```text
//!  archive ► decompress ► entries ► overlay
//!                            │ bytes of files
//!                            ├► stay where they are, in an uncompressed archive
//!                            └► spool file without a name, else
//! ```
//!
//! What is an archive is told by content: a compressed or plain stream that begins with a
//! valid tar header. Everything else is copied as it is.
//!
//! The destination is the archive's root: neither its names nor symbolic links, its own or
//! those that are there already, lead out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::copy::overlay::{Leaf, Shown};
use crate::copy::resolve::{Step, join, resolve};
use crate::copy::source::view_content;
use crate::copy::{CopyError, LayerBuilder};
use crate::source::OpenContent;
use crate::tar::{Member, TarError, TarLimits, TarReader, TarReason};
use crate::{
    ContentError, ContentHash, DecompressLimits, Decompressor, Entry, EntryPath, FileContent,
    FileRange, HostFile, Kind, Metadata, StreamFormat, xattr,
};

/// One read of an archive's file.
const PIECE_BYTES: usize = 128 << 10;

/// Where an archive goes, and whose its files become.
pub(super) struct Unpacking {
    /// The destination, resolved: a directory.
    pub(super) root: EntryPath,
    /// `None` keeps the archive's owners.
    pub(super) owner: Option<(u32, u32)>,
}

/// A file that turned out to be an archive, with its first entry read.
pub(super) struct Archive {
    path: EntryPath,
    open: OpenContent,
    reader: TarReader<Decompressor<ContentReader>>,
    first: Option<Member>,
    /// Where the bytes of the archive are, when it is not compressed.
    plain: Option<Plain>,
}

enum Plain {
    Memory(Arc<[u8]>),
    File { file: Arc<File>, offset: u64 },
}

/// Reads content from its start to its end.
struct ContentReader {
    open: OpenContent,
    at: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.open.size() - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        self.open
            .read_at(&mut buffer[..length], self.at)
            .map_err(io::Error::other)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Archive {
    /// Looks at a file; `None` when it is no archive.
    pub(super) fn open(
        path: &EntryPath,
        content: &FileContent,
        limits: DecompressLimits,
    ) -> Result<Option<Self>, CopyError> {
        if content.size() == 0 {
            return Ok(None);
        }
        let open = OpenContent::open(path, &unhashed(content)).map_err(from_content)?;
        let stream = ContentReader {
            open: open.clone(),
            at: 0,
        };
        let Ok(stream) = Decompressor::new(stream, limits) else {
            return Ok(None);
        };
        let plain = match stream.format() {
            StreamFormat::Plain => plain(content, &open),
            _ => None,
        };
        let mut reader = TarReader::new(stream, TarLimits::within(&limits));
        let first = match reader.next_member() {
            Ok(Some(first)) => Some(first),
            Ok(None) => return Ok(None),
            Err(error) if is_no_archive(&error.reason) => return Ok(None),
            Err(error) => return Err(malformed(path, error)),
        };
        Ok(Some(Self {
            path: path.clone(),
            open,
            reader,
            first,
            plain,
        }))
    }

    fn next(&mut self) -> Result<Option<Member>, CopyError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self
                .reader
                .next_member()
                .map_err(|error| malformed(&self.path, error)),
        }
    }

    /// The bytes of the current entry, which have to be read to be known.
    fn content(
        &mut self,
        size: u64,
        offset: Option<u64>,
        spool: &mut Spool,
    ) -> Result<FileContent, CopyError> {
        if size == 0 {
            return Ok(FileContent::Empty);
        }
        match (&self.plain, offset) {
            (Some(Plain::Memory(bytes)), Some(offset)) => {
                let part = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
                let part = part.and_then(|(start, size)| bytes.get(start..start + size));
                part.map(|part| FileContent::Inline(part.into()))
                    .ok_or_else(|| malformed(&self.path, self.reader.error(TarReason::Truncated)))
            }
            (
                Some(Plain::File {
                    file,
                    offset: start,
                }),
                Some(offset),
            ) => {
                let (file, offset) = (Arc::clone(file), start + offset);
                let hash = self.read(size, |_, _| Ok(()))?;
                Ok(FileContent::Range(FileRange {
                    file,
                    offset,
                    size,
                    hash: Some(hash),
                }))
            }
            _ => {
                let (file, start) = spool.reserve(size).map_err(CopyError::Spool)?;
                let hash = self.read(size, |piece, at| file.write_all_at(piece, start + at))?;
                Ok(FileContent::Range(FileRange {
                    file,
                    offset: start,
                    size,
                    hash: Some(hash),
                }))
            }
        }
    }

    fn read(
        &mut self,
        size: u64,
        mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<ContentHash, CopyError> {
        let wanted = usize::try_from(size).unwrap_or(usize::MAX);
        let mut buffer = vec![0; wanted.min(PIECE_BYTES)];
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let count = match self.reader.read(&mut buffer) {
                Ok(0) => return Err(self.broken(TarReason::Truncated)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(TarReason::Io(error))),
            };
            hasher.update(&buffer[..count]);
            take(&buffer[..count], at).map_err(CopyError::Spool)?;
            at += count as u64;
        }
        Ok(hasher.finalize().into())
    }

    fn broken(&self, reason: TarReason) -> CopyError {
        malformed(&self.path, self.reader.error(reason))
    }
}

/// The hash is of the whole archive, and it is not read as a whole.
fn unhashed(content: &FileContent) -> FileContent {
    match content {
        FileContent::Host(host) => FileContent::Host(HostFile {
            hash: None,
            ..host.clone()
        }),
        other => other.clone(),
    }
}

fn plain(content: &FileContent, open: &OpenContent) -> Option<Plain> {
    if let FileContent::Inline(bytes) = content {
        return Some(Plain::Memory(Arc::clone(bytes)));
    }
    let (file, offset) = open.file()?;
    // Without a descriptor of its own, the bytes go through the spool file.
    let file = Arc::new(file.try_clone().ok()?);
    Some(Plain::File { file, offset })
}

/// Whether the stream is something else than a tar archive, rather than a bad one.
fn is_no_archive(reason: &TarReason) -> bool {
    matches!(
        reason,
        TarReason::Io(_)
            | TarReason::Truncated
            | TarReason::Header
            | TarReason::Number(_)
            | TarReason::Extended
    )
}

fn malformed(path: &EntryPath, source: TarError) -> CopyError {
    CopyError::Archive {
        path: path.clone(),
        source,
    }
}

fn from_content(error: ContentError) -> CopyError {
    CopyError::Source(error.into())
}

impl LayerBuilder<'_> {
    /// Puts everything of an archive into the layer.
    pub(super) fn unpack(
        &mut self,
        mut archive: Archive,
        unpacking: &Unpacking,
    ) -> Result<(), CopyError> {
        while let Some(member) = archive.next()? {
            self.unpack_member(&mut archive, unpacking, member)?;
        }
        // The file must still be the one that was opened; its hash is not at hand.
        let unchecked = ContentHash::of_empty();
        archive.open.check(unchecked).map_err(from_content)
    }

    fn unpack_member(
        &mut self,
        archive: &mut Archive,
        unpacking: &Unpacking,
        member: Member,
    ) -> Result<(), CopyError> {
        let Member { entry, data_offset } = member;
        let Some(parent) = entry.path.parent() else {
            // The archive's `./`, and a member without a name, say nothing about the destination.
            return Ok(());
        };
        let metadata = unpacking.metadata(&entry);
        let parent = self.inside(unpacking, &parent)?;
        // As BuildKit makes them: whoever the archive or `--chown` says.
        let implied = Metadata {
            mode: 0o755,
            mtime: metadata.mtime,
            ..Metadata::default()
        };
        self.make_directories(&parent, &implied)?;
        let path = join(&parent, entry.path.name())?;
        let is_directory = matches!(entry.kind, Kind::Directory { .. });
        match self.overlay.show(&path).map(|shown| shown.is_directory()) {
            Some(true) if is_directory => return self.merge(&path, metadata),
            // Replacing a file by its own hard link would lose it.
            Some(_) if self.is_link_to_itself(unpacking, &entry.kind, &path)? => return Ok(()),
            Some(_) => self.overlay.remove(&path)?,
            None => {}
        }
        match entry.kind {
            Kind::Directory { .. } => self.overlay.make_directory(&path, metadata),
            Kind::Hardlink { target } => self.unpack_link(unpacking, &target, &path),
            kind => {
                let content = match kind {
                    Kind::File { size } => archive.content(size, data_offset, &mut self.spool)?,
                    _ => FileContent::Empty,
                };
                let leaf = Leaf {
                    kind,
                    metadata,
                    content,
                    link: None,
                };
                self.overlay.put(&path, leaf)
            }
        }
    }

    /// Follows a path of the archive's, whose root is the destination.
    fn inside(&self, unpacking: &Unpacking, path: &EntryPath) -> Result<EntryPath, CopyError> {
        let look = |path: &EntryPath| {
            let shown = self.overlay.show(&join(&unpacking.root, path.as_bytes())?);
            Ok(shown.map_or(Step::Missing, |shown| shown.step()))
        };
        join(&unpacking.root, resolve(path, true, look)?.as_bytes())
    }

    /// Where a hard link leads; its last component is not followed.
    fn link_target(
        &self,
        unpacking: &Unpacking,
        target: &EntryPath,
    ) -> Result<EntryPath, CopyError> {
        let parent = target.parent().ok_or(CopyError::Root)?;
        join(&self.inside(unpacking, &parent)?, target.name())
    }

    fn is_link_to_itself(
        &self,
        unpacking: &Unpacking,
        kind: &Kind,
        path: &EntryPath,
    ) -> Result<bool, CopyError> {
        match kind {
            Kind::Hardlink { target } => Ok(self.link_target(unpacking, target)? == *path),
            _ => Ok(false),
        }
    }

    fn unpack_link(
        &mut self,
        unpacking: &Unpacking,
        target: &EntryPath,
        path: &EntryPath,
    ) -> Result<(), CopyError> {
        let target = self.link_target(unpacking, target)?;
        let (leaf, is_new) = match self.overlay.show(&target) {
            None => return Err(CopyError::Missing { path: target }),
            Some(Shown::Directory(_)) => return Err(CopyError::LinkToDirectory { path: target }),
            Some(Shown::Leaf(leaf)) => (leaf.clone(), false),
            Some(Shown::Base(node)) => (self.base_leaf(&target, node)?, true),
        };
        // Other kinds of files are as good as links when they are made twice.
        if !matches!(leaf.kind, Kind::File { .. }) {
            let link = None;
            return self.overlay.put(path, Leaf { link, ..leaf });
        }
        if is_new {
            // A layer's link cannot lead to another layer: the file comes along.
            self.overlay.put(&target, leaf)?;
        }
        self.overlay.link(&target, path)
    }

    fn base_leaf(
        &self,
        path: &EntryPath,
        node: crate::copy::SourceNode,
    ) -> Result<Leaf, CopyError> {
        let content = match node.kind {
            Kind::File { .. } => view_content(&self.overlay.base, self.content, path)?,
            _ => FileContent::Empty,
        };
        Ok(Leaf {
            kind: node.kind,
            metadata: node.metadata,
            content,
            link: None,
        })
    }

    fn merge(&mut self, path: &EntryPath, mut metadata: Metadata) -> Result<(), CopyError> {
        let existing = &mut self.overlay.directory(path)?.metadata;
        for (name, value) in std::mem::take(&mut existing.xattrs) {
            metadata.xattrs.entry(name).or_insert(value);
        }
        *existing = metadata;
        Ok(())
    }
}

impl Unpacking {
    fn metadata(&self, entry: &Entry) -> Metadata {
        let mut metadata = entry.metadata.clone();
        metadata.xattrs.retain(|name, _| xattr::is_kept(name));
        if let Some((uid, gid)) = self.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        if matches!(entry.kind, Kind::Symlink { .. }) {
            // Links have no mode of their own, whatever the archive says.
            metadata.mode = 0o777;
        }
        metadata
    }
}

/// A file without a name that the bytes of compressed archives go to, made when the first
/// of them come.
#[derive(Debug, Default)]
pub(super) struct Spool {
    pub(super) directory: Option<PathBuf>,
    file: Option<Arc<File>>,
    end: u64,
}

impl Spool {
    /// A place for `size` bytes.
    fn reserve(&mut self, size: u64) -> io::Result<(Arc<File>, u64)> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = match &self.directory {
                    Some(directory) => tempfile::tempfile_in(directory)?,
                    None => tempfile::tempfile()?,
                };
                Arc::clone(self.file.insert(Arc::new(file)))
            }
        };
        let start = self.end;
        self.end += size;
        Ok((file, start))
    }
}
