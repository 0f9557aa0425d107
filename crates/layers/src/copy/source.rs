//! Trees that can be copied from.

use crate::context::{ContextNode, ContextTree};
use crate::copy::{LayerContent, SourceError};
use crate::{ContentHash, EntryPath, FileContent, Kind, Metadata, Node, TreeView};

/// A tree that can be copied from: a context, a stage, a layer that is being built. Any
/// directory of the host is a [`ContextTree`], scanned with its own owners.
///
/// Paths are canonical: no component of a path that is asked for is a symbolic link,
/// except the last, which is not followed. A path through something that is no directory
/// leads nowhere, which is no error.
pub trait CopySource: Sync {
    /// What stands at `path`.
    ///
    /// # Errors
    /// When the tree cannot be read.
    fn lookup(&self, path: &EntryPath) -> Result<Option<SourceNode>, SourceError>;

    /// What is in the directory at `path`, sorted by name; nothing for anything else.
    ///
    /// # Errors
    /// When the tree cannot be read.
    fn read_dir(&self, path: &EntryPath) -> Result<Vec<SourceChild>, SourceError>;

    /// Where the bytes of the file at `path` are.
    ///
    /// # Errors
    /// When there is no file, or it cannot be read.
    fn content(&self, path: &EntryPath) -> Result<FileContent, SourceError>;

    /// The hashes of files, in the order asked for.
    ///
    /// # Errors
    /// When one of them is no file or cannot be read.
    fn content_hashes(&self, paths: &[EntryPath]) -> Result<Vec<ContentHash>, SourceError>;
}

/// What stands at a path of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNode {
    /// A file, directory, symbolic link, device or pipe; never a hard link or whiteout.
    pub kind: Kind,
    /// Its metadata.
    pub metadata: Metadata,
    /// What it shares with the other names of the same file, if it may have any.
    pub link: Option<LinkIdentity>,
}

/// Tells whether two paths of one source are names of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkIdentity {
    /// A device, or a layer.
    pub group: u64,
    /// A number in it.
    pub number: u64,
}

/// A name in a directory of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChild {
    /// The name, one component.
    pub name: Vec<u8>,
    /// What it is.
    pub node: SourceNode,
}

impl SourceNode {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

impl CopySource for ContextTree {
    fn lookup(&self, path: &EntryPath) -> Result<Option<SourceNode>, SourceError> {
        Ok(self.node(path).map(Into::into))
    }

    fn read_dir(&self, path: &EntryPath) -> Result<Vec<SourceChild>, SourceError> {
        let child = |node: &ContextNode| SourceChild {
            name: node.path.name().to_vec(),
            node: node.into(),
        };
        Ok(self.children(path).map(child).collect())
    }

    fn content(&self, path: &EntryPath) -> Result<FileContent, SourceError> {
        let file = self.host_file(path)?;
        // An empty file needs no reading, and a socket, which counts as one, cannot be
        // read.
        Ok(match file.stamp.size {
            0 => FileContent::Empty,
            _ => FileContent::Host(file),
        })
    }

    fn content_hashes(&self, paths: &[EntryPath]) -> Result<Vec<ContentHash>, SourceError> {
        Ok(Self::content_hashes(self, paths)?)
    }
}

impl From<&ContextNode> for SourceNode {
    fn from(node: &ContextNode) -> Self {
        Self {
            kind: node.kind.clone(),
            metadata: node.metadata.clone(),
            link: node.linked.then_some(LinkIdentity {
                group: node.stamp.device,
                number: node.stamp.inode,
            }),
        }
    }
}

/// The merged view of layers as a source: what an image or a stage contains.
#[derive(Clone, Copy)]
pub struct TreeSource<'a> {
    /// What it contains.
    pub view: &'a TreeView,
    /// Where its files' bytes are.
    pub content: &'a dyn LayerContent,
}

impl std::fmt::Debug for TreeSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeSource")
            .field("layers", &self.view.layers().len())
            .finish_non_exhaustive()
    }
}

impl CopySource for TreeSource<'_> {
    fn lookup(&self, path: &EntryPath) -> Result<Option<SourceNode>, SourceError> {
        let node = self.view.lookup(path);
        Ok(node.and_then(|node| source_node(self.view, &node)))
    }

    fn read_dir(&self, path: &EntryPath) -> Result<Vec<SourceChild>, SourceError> {
        Ok(view_children(self.view, path))
    }

    fn content(&self, path: &EntryPath) -> Result<FileContent, SourceError> {
        view_content(self.view, self.content, path)
    }

    fn content_hashes(&self, paths: &[EntryPath]) -> Result<Vec<ContentHash>, SourceError> {
        paths
            .iter()
            .map(|path| view_hash(self.view, path).ok_or_else(|| no_file(path)))
            .collect()
    }
}

/// A node of a view as a copy sees it: a hard link is its file; one to nothing is
/// nothing.
pub(super) fn source_node(view: &TreeView, node: &Node<'_>) -> Option<SourceNode> {
    let inode = view.inode(node)?;
    let kind = match &inode.entry.kind {
        // What a directory hides in lower layers is no matter of a copy's.
        Kind::Directory { .. } => Kind::Directory { opaque: false },
        other => other.clone(),
    };
    let is_file = matches!(kind, Kind::File { .. });
    Some(SourceNode {
        kind,
        metadata: inode.entry.metadata.clone(),
        // The entry that names the bytes stands for the file.
        link: is_file.then(|| LinkIdentity {
            group: inode.layer as u64,
            number: std::ptr::from_ref(inode.entry).addr() as u64,
        }),
    })
}

pub(super) fn view_children(view: &TreeView, path: &EntryPath) -> Vec<SourceChild> {
    let children = view.read_dir(path).into_iter().flatten();
    children
        .filter_map(|(name, node)| {
            Some(SourceChild {
                name: name.to_vec(),
                node: source_node(view, &node)?,
            })
        })
        .collect()
}

pub(super) fn view_content(
    view: &TreeView,
    content: &dyn LayerContent,
    path: &EntryPath,
) -> Result<FileContent, SourceError> {
    let inode = view
        .lookup(path)
        .and_then(|node| view.inode(&node))
        .filter(|inode| matches!(inode.entry.kind, Kind::File { .. }))
        .ok_or_else(|| no_file(path))?;
    if inode.entry.kind == (Kind::File { size: 0 }) {
        return Ok(FileContent::Empty);
    }
    content.content(&inode).map_err(|source| SourceError::Read {
        path: path.clone(),
        source,
    })
}

pub(super) fn view_hash(view: &TreeView, path: &EntryPath) -> Option<ContentHash> {
    view.lookup(path)?.content
}

pub(super) fn no_file(path: &EntryPath) -> SourceError {
    SourceError::Read {
        path: path.clone(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}
