//! What a stack of layers shows, with no file on disk and nothing mounted.
//!
//! ```text
//!   layer 2   /a/.wh.x          view   /      (implied)
//!   layer 1   /a/x  /a/y         ►     /a     from layer 0
//!   layer 0   /a  /b                   /a/y   from layer 1
//!                                      /b     from layer 0
//! ```
//!
//! Invariant: the view equals what applying the layers one after the other to an empty
//! directory gives (image-spec `layer.md#applying-changesets`). Directories are shared
//! between clones and copied when a pushed layer changes them, so that a view on one more
//! layer costs what that layer changes.

mod resolve;

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;

pub use resolve::{ResolveError, Resolved};

use crate::{ContentHash, Entry, EntryPath, IndexEntry, Kind, LayerIndex, Metadata};

/// The merged view of a stack of layers.
#[derive(Clone, Debug)]
pub struct TreeView {
    layers: Vec<Arc<LayerIndex>>,
    root: Slot,
}

/// What a [`TreeView`] shows at a path.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// The entry; never a whiteout. A directory that no layer lists but some entry needs
    /// has mode 0755 and belongs to root.
    pub entry: &'a Entry,
    /// The number of the layer that it comes from; 0 is the lowest.
    pub layer: usize,
    /// The hash of a file's bytes, hard links included.
    pub content: Option<ContentHash>,
    /// Where the file's bytes start in its layer's uncompressed tar stream, if known.
    pub data_offset: Option<u64>,
}

impl Node<'_> {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.entry.kind, Kind::Directory { .. })
    }
}

#[derive(Clone, Debug)]
struct Slot {
    layer: u32,
    origin: Origin,
    /// Some for directories alone.
    children: Option<Arc<Children>>,
}

#[derive(Clone, Debug)]
enum Origin {
    /// The number of the entry in its layer's index.
    Listed(u32),
    /// A directory that no layer lists.
    Implied(Arc<Entry>),
}

type Children = BTreeMap<Arc<[u8]>, Slot>;

impl TreeView {
    /// The view of `layers`, lowest first.
    pub fn new(layers: &[Arc<LayerIndex>]) -> Self {
        let mut view = Self::empty();
        for layer in layers {
            view.push(Arc::clone(layer));
        }
        view
    }

    /// The view of no layers: an empty root.
    pub fn empty() -> Self {
        Self {
            layers: Vec::new(),
            root: implied(EntryPath::root(), 0),
        }
    }

    /// Puts one more layer on top.
    pub fn push(&mut self, layer: Arc<LayerIndex>) {
        let number = u32::try_from(self.layers.len()).unwrap_or(u32::MAX);
        for (at, entry) in (0_u32..).zip(layer.entries()) {
            place(&mut self.root, number, at, &entry.entry);
        }
        self.layers.push(layer);
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Arc<LayerIndex>] {
        &self.layers
    }

    /// What stands at `path`, symbolic links not followed.
    pub fn lookup(&self, path: &EntryPath) -> Option<Node<'_>> {
        Some(self.node(self.slot(path)?))
    }

    /// The names in the directory at `path`, sorted, and what they are; `None` when there is
    /// no directory.
    pub fn read_dir(
        &self,
        path: &EntryPath,
    ) -> Option<impl Iterator<Item = (&[u8], Node<'_>)> + '_> {
        let children = self.slot(path)?.children.as_deref()?;
        Some(
            children
                .iter()
                .map(|(name, slot)| (&name[..], self.node(slot))),
        )
    }

    /// What stands at `path` and below it, in the order of [`EntryPath`].
    pub fn walk(&self, path: &EntryPath) -> Walk<'_> {
        Walk {
            view: self,
            first: self.slot(path),
            open: Vec::new(),
        }
    }

    /// The node that holds the bytes and the metadata of a file: the target for a hard link
    /// (in the link's own layer, else in a lower one), the node itself for all else; `None`
    /// for a hard link to nothing.
    pub fn inode<'a>(&'a self, node: &Node<'a>) -> Option<Node<'a>> {
        let Kind::Hardlink { target } = &node.entry.kind else {
            return Some(*node);
        };
        let layers = self.layers.get(..=node.layer)?;
        let (layer, found) = layers
            .iter()
            .enumerate()
            .rev()
            .find_map(|(number, layer)| {
                let found = layer.find(target)?;
                matches!(found.entry.kind, Kind::File { .. }).then_some((number, found))
            })?;
        Some(listed_node(layer, found))
    }

    fn slot(&self, path: &EntryPath) -> Option<&Slot> {
        path.components()
            .try_fold(&self.root, |slot, name| slot.children.as_ref()?.get(name))
    }

    fn node<'a>(&'a self, slot: &'a Slot) -> Node<'a> {
        let layer = slot.layer as usize;
        let listed = match &slot.origin {
            Origin::Listed(at) => &self.layers[layer].entries()[*at as usize],
            Origin::Implied(entry) => {
                return Node {
                    entry,
                    layer,
                    content: None,
                    data_offset: None,
                };
            }
        };
        let node = listed_node(layer, listed);
        match (&listed.entry.kind, listed.content) {
            (Kind::Hardlink { .. }, None) => Node {
                content: self.inode(&node).and_then(|inode| inode.content),
                ..node
            },
            _ => node,
        }
    }
}

fn listed_node(layer: usize, listed: &IndexEntry) -> Node<'_> {
    Node {
        entry: &listed.entry,
        layer,
        content: listed.content,
        data_offset: listed.data_offset,
    }
}

/// The metadata of a directory that no layer lists.
pub(crate) fn implied_metadata() -> Metadata {
    Metadata {
        mode: 0o755,
        ..Metadata::default()
    }
}

fn implied(path: EntryPath, layer: u32) -> Slot {
    let entry = Entry {
        path,
        kind: Kind::Directory { opaque: false },
        metadata: implied_metadata(),
    };
    Slot {
        layer,
        origin: Origin::Implied(Arc::new(entry)),
        children: Some(Arc::default()),
    }
}

fn place(root: &mut Slot, layer: u32, at: u32, entry: &Entry) {
    let mut slot = root;
    let mut end = 0;
    let path = entry.path.as_bytes();
    let parent_len = path.len() - entry.path.name().len();
    for name in entry.path.components() {
        if end >= parent_len {
            break;
        }
        end += name.len() + 1;
        slot = parent_slot(slot, name, layer, &path[..end - 1]);
    }
    let children = Arc::make_mut(slot.children.get_or_insert_default());
    put(children, entry, layer, at);
}

/// The directory `name` within `slot`: what lower layers have there, unless that is none.
fn parent_slot<'a>(slot: &'a mut Slot, name: &[u8], layer: u32, path: &[u8]) -> &'a mut Slot {
    let children = Arc::make_mut(slot.children.get_or_insert_default());
    let is_directory = |child: &Slot| child.children.is_some();
    if !children.get(name).is_some_and(is_directory) {
        let path = EntryPath::new(path).expect("a clean path's prefix is clean");
        children.insert(name.into(), implied(path, layer));
    }
    children
        .get_mut(name)
        .expect("it was there or was just put there")
}

fn put(children: &mut Children, entry: &Entry, layer: u32, at: u32) {
    let name = entry.path.name();
    let grandchildren = match entry.kind {
        Kind::Whiteout => {
            children.remove(name);
            return;
        }
        Kind::Directory { opaque: true } => Some(Arc::default()),
        Kind::Directory { opaque: false } => Some(
            children
                .remove(name)
                .and_then(|lower| lower.children)
                .unwrap_or_default(),
        ),
        _ => None,
    };
    let slot = Slot {
        layer,
        origin: Origin::Listed(at),
        children: grandchildren,
    };
    children.insert(name.into(), slot);
}

/// The nodes at and below a path; see [`TreeView::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    view: &'a TreeView,
    first: Option<&'a Slot>,
    open: Vec<btree_map::Values<'a, Arc<[u8]>, Slot>>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        let slot = self.first.take().or_else(|| self.next_slot())?;
        if let Some(children) = &slot.children {
            self.open.push(children.values());
        }
        Some(self.view.node(slot))
    }
}

impl<'a> Walk<'a> {
    fn next_slot(&mut self) -> Option<&'a Slot> {
        loop {
            let last = self.open.last_mut()?;
            match last.next() {
                Some(slot) => return Some(slot),
                None => self.open.pop(),
            };
        }
    }
}

#[cfg(test)]
mod tests;
