//! The tree that a layer's entries make: directories that entries need but do not list are
//! added, hard links find their file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;

use super::data::{DataArea, Placement};
use super::format::{self, FileType};
use super::{ImageError, PIECE_BYTES};
use crate::directory::LowerLayers;
use crate::tree::implied_metadata;
use crate::{ContentHash, Entry, EntryPath, Kind, Metadata};

/// The place of a node among all nodes. The root is the first.
pub(super) type NodeId = u32;

/// An inode to be.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) kind: FileType,
    pub(super) metadata: Cow<'a, Metadata>,
    pub(super) path: &'a [u8],
    pub(super) content: Content<'a>,
    pub(super) links: u32,
    pub(super) opaque: bool,
}

/// What is in a node.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Nothing,
    Device(u32),
    File {
        size: u64,
        placement: Placement,
    },
    Symlink(&'a [u8]),
    /// The children, sorted by name.
    Directory {
        parent: NodeId,
        children: Vec<(&'a [u8], NodeId)>,
    },
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Node<'a> {
    /// The attributes that a file of this kind can have.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let can_have = matches!(self.kind, FileType::File | FileType::Directory);
        let all = self.metadata.xattrs.iter().filter(move |_| can_have);
        all.map(|(name, value)| (&name[..], &value[..]))
    }

    pub(super) fn unfit(&self, what: &'static str) -> ImageError {
        unfit(self.path, what)
    }

    fn directory(
        path: &'a [u8],
        parent: NodeId,
        metadata: Cow<'a, Metadata>,
        opaque: bool,
    ) -> Self {
        Self {
            kind: FileType::Directory,
            metadata,
            path,
            content: Content::Directory {
                parent,
                children: Vec::new(),
            },
            links: 2,
            opaque,
        }
    }
}

impl<'a> Tree<'a> {
    /// The tree of a sorted listing: entries, and for files the hashes under which `data` knows
    /// their bytes. Files of lower layers that hard links name are added to `data`.
    pub(super) fn build(
        listing: &[(&'a Entry, Option<ContentHash>)],
        data: &mut DataArea<'_>,
        lower: &dyn LowerLayers,
    ) -> Result<Self, ImageError> {
        let root = Node::directory(b"", 0, Cow::Owned(implied_metadata()), false);
        let mut builder = Builder {
            nodes: vec![root],
            open: vec![Open {
                node: 0,
                path: b"",
                hides_lower: false,
            }],
            links: Vec::new(),
            lower,
        };
        let mut of_line = Vec::with_capacity(listing.len());
        for (entry, hash) in listing {
            of_line.push(builder.add(entry, *hash, data)?);
        }
        let find = |target: &EntryPath| {
            let at = listing.binary_search_by(|(entry, _)| entry.path.cmp(target));
            at.ok().and_then(|at| of_line[at])
        };
        builder.settle_links(find, data)?;
        Ok(Self {
            nodes: builder.nodes,
        })
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    pub(super) fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }
}

/// A directory that the next entry may lie in.
#[derive(Clone, Copy)]
struct Open<'a> {
    node: NodeId,
    path: &'a [u8],
    /// Itself or one above it is opaque.
    hides_lower: bool,
}

/// A name whose file is not known yet.
struct Link<'a> {
    directory: NodeId,
    at: usize,
    path: &'a EntryPath,
    target: &'a EntryPath,
}

struct Builder<'a, 'l> {
    nodes: Vec<Node<'a>>,
    open: Vec<Open<'a>>,
    links: Vec<Link<'a>>,
    lower: &'l dyn LowerLayers,
}

impl<'a> Builder<'a, '_> {
    /// Adds what an entry says, and gives what a hard link to it names: nothing when it is a link
    /// itself, or says that nothing is there.
    fn add(
        &mut self,
        entry: &'a Entry,
        hash: Option<ContentHash>,
        data: &DataArea<'_>,
    ) -> Result<Option<NodeId>, ImageError> {
        let parent = self.parent_of(entry.path.as_bytes())?;
        let (kind, content) = match &entry.kind {
            Kind::Directory { opaque } => {
                let metadata = Cow::Borrowed(&entry.metadata);
                return self
                    .open_directory(parent, entry.path.as_bytes(), metadata, *opaque)
                    .map(Some);
            }
            Kind::Hardlink { target } => {
                let at = self.add_child(parent.node, &entry.path, NodeId::MAX)?;
                self.links.push(Link {
                    directory: parent.node,
                    at,
                    path: &entry.path,
                    target,
                });
                return Ok(None);
            }
            Kind::File { size } => (FileType::File, file(*size, hash, data)),
            Kind::Symlink { target } => (FileType::Symlink, Content::Symlink(target)),
            Kind::CharDevice { major, minor } => {
                (FileType::CharDevice, device(entry, *major, *minor)?)
            }
            Kind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, device(entry, *major, *minor)?)
            }
            Kind::Fifo => (FileType::Fifo, Content::Nothing),
            Kind::Whiteout => (FileType::CharDevice, Content::Device(0)),
        };
        let node = self.push(Node {
            kind,
            metadata: Cow::Borrowed(&entry.metadata),
            path: entry.path.as_bytes(),
            content,
            links: 1,
            opaque: false,
        })?;
        self.add_child(parent.node, &entry.path, node)?;
        Ok((entry.kind != Kind::Whiteout).then_some(node))
    }

    /// The directory that `path` lies in, with those on the way to it that no entry lists.
    fn parent_of(&mut self, path: &'a [u8]) -> Result<Open<'a>, ImageError> {
        while !is_below(path, self.innermost().path) {
            self.open.pop();
        }
        loop {
            let open = self.innermost();
            let from = if open.path.is_empty() {
                0
            } else {
                open.path.len() + 1
            };
            let Some(length) = path[from..].iter().position(|byte| *byte == b'/') else {
                return Ok(open);
            };
            let implied = &path[..from + length];
            let metadata = self.implied_metadata(implied, open.hides_lower);
            self.open_directory(open, implied, Cow::Owned(metadata), false)?;
        }
    }

    /// A directory that no entry lists looks as it does below, unless that is hidden.
    fn implied_metadata(&self, path: &[u8], hides_lower: bool) -> Metadata {
        let known = EntryPath::new(path)
            .ok()
            .filter(|_| !hides_lower)
            .and_then(|path| self.lower.directory(&path));
        known.unwrap_or_else(implied_metadata)
    }

    fn innermost(&self) -> Open<'a> {
        // The root is below every path and stays.
        self.open.last().copied().unwrap_or(Open {
            node: 0,
            path: b"",
            hides_lower: false,
        })
    }

    fn open_directory(
        &mut self,
        parent: Open<'a>,
        path: &'a [u8],
        metadata: Cow<'a, Metadata>,
        opaque: bool,
    ) -> Result<NodeId, ImageError> {
        let node = self.push(Node::directory(path, parent.node, metadata, opaque))?;
        let name = name_of(path);
        self.push_child(parent.node, name, node)
            .ok_or_else(|| in_the_way(path))?;
        let above = &mut self.nodes[parent.node as usize];
        above.links = above.links.saturating_add(1);
        self.open.push(Open {
            node,
            path,
            hides_lower: parent.hides_lower || opaque,
        });
        Ok(node)
    }

    fn push(&mut self, node: Node<'a>) -> Result<NodeId, ImageError> {
        let id = NodeId::try_from(self.nodes.len())
            .ok()
            .filter(|id| *id < NodeId::MAX)
            .ok_or_else(|| node.unfit("too many entries"))?;
        self.nodes.push(node);
        Ok(id)
    }

    fn add_child(
        &mut self,
        parent: NodeId,
        path: &'a EntryPath,
        node: NodeId,
    ) -> Result<usize, ImageError> {
        self.push_child(parent, name_of(path.as_bytes()), node)
            .ok_or_else(|| in_the_way(path.as_bytes()))
    }

    /// The child's place; `None` when the name does not come after those that are there.
    fn push_child(&mut self, parent: NodeId, name: &'a [u8], node: NodeId) -> Option<usize> {
        let Content::Directory { children, .. } = &mut self.nodes[parent as usize].content else {
            return None;
        };
        if children.last().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        children.push((name, node));
        Some(children.len() - 1)
    }

    fn settle_links(
        &mut self,
        find: impl Fn(&EntryPath) -> Option<NodeId>,
        data: &mut DataArea<'_>,
    ) -> Result<(), ImageError> {
        let mut from_below: HashMap<&EntryPath, NodeId> = HashMap::new();
        for link in std::mem::take(&mut self.links) {
            let node = match (find(link.target), from_below.get(link.target)) {
                (Some(node), _) | (None, Some(&node)) => {
                    let found = &mut self.nodes[node as usize];
                    if found.kind == FileType::Directory {
                        return Err(no_target(&link));
                    }
                    found.links = found.links.saturating_add(1);
                    node
                }
                (None, None) => {
                    let node = self.copy_from_below(&link, data)?;
                    from_below.insert(link.target, node);
                    node
                }
            };
            if let Content::Directory { children, .. } =
                &mut self.nodes[link.directory as usize].content
            {
                children[link.at].1 = node;
            }
        }
        Ok(())
    }

    fn copy_from_below(
        &mut self,
        link: &Link<'a>,
        data: &mut DataArea<'_>,
    ) -> Result<NodeId, ImageError> {
        let below = self.lower.file(link.target)?;
        let (from, metadata) = below.ok_or_else(|| no_target(link))?;
        let mut from = File::from(from);
        let mut to = data.begin()?;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut size = 0;
        loop {
            match from.read(&mut buffer)? {
                0 => break,
                count => {
                    to.write(&buffer[..count])?;
                    size += count as u64;
                }
            }
        }
        let hash = to.finish()?;
        self.push(Node {
            kind: FileType::File,
            metadata: Cow::Owned(metadata),
            path: link.path.as_bytes(),
            content: file(size, Some(hash), data),
            links: 1,
            opaque: false,
        })
    }
}

fn file<'a>(size: u64, hash: Option<ContentHash>, data: &DataArea<'_>) -> Content<'a> {
    match hash.and_then(|hash| data.find(&hash)) {
        Some(placement) if size > 0 => Content::File { size, placement },
        _ => Content::Nothing,
    }
}

fn device<'a>(entry: &Entry, major: u32, minor: u32) -> Result<Content<'a>, ImageError> {
    let number = format::device(major, minor)
        .ok_or_else(|| unfit(entry.path.as_bytes(), "a device's number is too large"))?;
    Ok(Content::Device(number))
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn unfit(path: &[u8], what: &'static str) -> ImageError {
    ImageError::Unfit {
        path: EntryPath::new(path).unwrap_or_default(),
        what,
    }
}

fn in_the_way(path: &[u8]) -> ImageError {
    ImageError::NotADirectory(EntryPath::new(path).unwrap_or_default())
}

fn no_target(link: &Link<'_>) -> ImageError {
    ImageError::LinkTarget {
        path: link.path.clone(),
        target: link.target.clone(),
    }
}
