//! A layer that is being built, over the view of the layers below.
//!
//! ```text
//!   upper   a/            copied up: metadata of the base
//!           a/new         file
//!           a/old         removed
//!   base    a/  a/old  a/kept
//!   shown   a/  a/new  a/kept
//! ```
//!
//! Invariants: whatever is in the upper has all its directories there too; a directory
//! that was made where the base has another one, removed before, is opaque.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};

use crate::copy::resolve::{Step, join, resolve};
use crate::copy::source::{LinkIdentity, source_node, view_children};
use crate::copy::{CopyError, SourceChild, SourceNode};
use crate::limits::path_within_limits;
use crate::{Change, Entry, EntryPath, FileContent, Kind, Metadata, TreeView};

/// The group of [`LinkIdentity`]s that belong to no layer of the base.
const UPPER_LINKS: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) base: TreeView,
    root: UpperDirectory,
    links: u64,
}

#[derive(Debug)]
enum Upper {
    Directory(UpperDirectory),
    Leaf(Leaf),
    Whiteout,
}

#[derive(Debug)]
pub(super) struct UpperDirectory {
    pub(super) metadata: Metadata,
    opaque: bool,
    children: BTreeMap<Vec<u8>, Upper>,
}

/// Anything but a directory.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// Never a hard link.
    pub(super) kind: Kind,
    pub(super) metadata: Metadata,
    pub(super) content: FileContent,
    /// The names of one file have one number.
    pub(super) link: Option<u64>,
}

/// What is shown at a path.
pub(super) enum Shown<'o> {
    Directory(&'o Metadata),
    /// Of the layer.
    Leaf(&'o Leaf),
    /// Of the base, and no directory.
    Base(SourceNode),
}

impl Shown<'_> {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    pub(super) fn step(&self) -> Step {
        let kind = match self {
            Self::Directory(_) => return Step::Directory,
            Self::Leaf(leaf) => &leaf.kind,
            Self::Base(node) => &node.kind,
        };
        match kind {
            Kind::Symlink { target } => Step::Link(target.clone()),
            _ => Step::Other,
        }
    }

    pub(super) fn node(&self) -> SourceNode {
        match self {
            Self::Directory(metadata) => SourceNode {
                kind: Kind::Directory { opaque: false },
                metadata: (*metadata).clone(),
                link: None,
            },
            Self::Leaf(leaf) => leaf.node(),
            Self::Base(node) => node.clone(),
        }
    }
}

impl Leaf {
    fn node(&self) -> SourceNode {
        SourceNode {
            kind: self.kind.clone(),
            metadata: self.metadata.clone(),
            link: self.link.map(|number| LinkIdentity {
                group: UPPER_LINKS,
                number,
            }),
        }
    }
}

/// How far a path leads in the upper.
enum Way<'o> {
    Upper(&'o Upper),
    /// Only the base can have it, if that shows through.
    Base {
        shown: bool,
    },
}

impl Overlay {
    pub(super) fn new(base: TreeView) -> Self {
        let metadata = base
            .lookup(&EntryPath::root())
            .map(|root| root.entry.metadata.clone())
            .unwrap_or_default();
        Self {
            base,
            root: UpperDirectory {
                metadata,
                opaque: false,
                children: BTreeMap::new(),
            },
            links: 0,
        }
    }

    /// What stands at `path`, no symbolic link followed.
    pub(super) fn show(&self, path: &EntryPath) -> Option<Shown<'_>> {
        if path.is_root() {
            return Some(Shown::Directory(&self.root.metadata));
        }
        match self.way(path) {
            Way::Upper(Upper::Directory(directory)) => Some(Shown::Directory(&directory.metadata)),
            Way::Upper(Upper::Leaf(leaf)) => Some(Shown::Leaf(leaf)),
            Way::Upper(Upper::Whiteout) | Way::Base { shown: false } => None,
            Way::Base { shown: true } => self.base_shown(path),
        }
    }

    fn base_shown(&self, path: &EntryPath) -> Option<Shown<'_>> {
        let node = self.base.lookup(path)?;
        if node.is_directory() {
            return Some(Shown::Directory(&node.entry.metadata));
        }
        Some(Shown::Base(source_node(&self.base, &node)?))
    }

    fn way(&self, path: &EntryPath) -> Way<'_> {
        let mut directory = &self.root;
        let mut shown = true;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            shown &= !directory.opaque;
            match directory.children.get(name) {
                Some(upper) if names.peek().is_none() => return Way::Upper(upper),
                Some(Upper::Directory(next)) => directory = next,
                Some(Upper::Leaf(_) | Upper::Whiteout) => return Way::Base { shown: false },
                None => return Way::Base { shown },
            }
        }
        Way::Base { shown }
    }

    /// Follows a path; what comes after the last thing that exists is taken as written.
    pub(super) fn resolve(&self, path: &EntryPath) -> Result<EntryPath, CopyError> {
        let look = |path: &EntryPath| Ok(self.show(path).map_or(Step::Missing, |it| it.step()));
        resolve(path, true, look)
    }

    /// The directory in the layer, copied up from the base if it is not there yet.
    ///
    /// # Errors
    /// When something on the way is no directory, or missing.
    pub(super) fn directory(&mut self, path: &EntryPath) -> Result<&mut UpperDirectory, CopyError> {
        Ok(self.directory_shown(path)?.0)
    }

    /// The directory, and whether the base shows through it.
    fn directory_shown(
        &mut self,
        path: &EntryPath,
    ) -> Result<(&mut UpperDirectory, bool), CopyError> {
        let mut directory = &mut self.root;
        let mut shown = true;
        let mut at = EntryPath::root();
        for name in path.components() {
            shown &= !directory.opaque;
            at = join(&at, name)?;
            let slot = directory.children.entry(name.to_vec());
            let upper = match slot {
                Slot::Occupied(occupied) => occupied.into_mut(),
                Slot::Vacant(vacant) => {
                    let found = self.base.lookup(&at).filter(|_| shown);
                    let found = found.ok_or_else(|| CopyError::Missing { path: at.clone() })?;
                    if !found.is_directory() {
                        return Err(CopyError::NotADirectory { path: at });
                    }
                    vacant.insert(Upper::Directory(UpperDirectory {
                        metadata: found.entry.metadata.clone(),
                        opaque: false,
                        children: BTreeMap::new(),
                    }))
                }
            };
            directory = match upper {
                Upper::Directory(next) => next,
                Upper::Leaf(_) => return Err(CopyError::NotADirectory { path: at }),
                Upper::Whiteout => return Err(CopyError::Missing { path: at }),
            };
        }
        shown &= !directory.opaque;
        Ok((directory, shown))
    }

    /// Makes a directory where none is shown; what else is shown there is replaced.
    pub(super) fn make_directory(
        &mut self,
        path: &EntryPath,
        metadata: Metadata,
    ) -> Result<(), CopyError> {
        let below = self.base_has_directory(path);
        let (parent, shown) = self.parent(path)?;
        let directory = UpperDirectory {
            metadata,
            opaque: shown && below,
            children: BTreeMap::new(),
        };
        let name = path.name().to_vec();
        parent.children.insert(name, Upper::Directory(directory));
        Ok(())
    }

    /// Puts something that is no directory where no directory is shown.
    pub(super) fn put(&mut self, path: &EntryPath, leaf: Leaf) -> Result<(), CopyError> {
        if leaf.kind == (Kind::CharDevice { major: 0, minor: 0 }) {
            return Err(CopyError::ReservedDevice { path: path.clone() });
        }
        let (parent, _) = self.parent(path)?;
        let name = path.name().to_vec();
        parent.children.insert(name, Upper::Leaf(leaf));
        Ok(())
    }

    /// Makes `path` another name of the file that this layer has at `first`.
    pub(super) fn link(&mut self, first: &EntryPath, path: &EntryPath) -> Result<(), CopyError> {
        let next = self.links;
        let (parent, _) = self.parent(first)?;
        let Some(Upper::Leaf(leaf)) = parent.children.get_mut(first.name()) else {
            return Err(CopyError::Missing {
                path: first.clone(),
            });
        };
        let number = *leaf.link.get_or_insert(next);
        let leaf = leaf.clone();
        if number == next {
            self.links += 1;
        }
        self.put(path, leaf)
    }

    /// Removes whatever is shown at a path.
    pub(super) fn remove(&mut self, path: &EntryPath) -> Result<(), CopyError> {
        if path.is_root() {
            return Err(CopyError::Root);
        }
        let below = self.base.lookup(path).is_some();
        let (parent, shown) = self.parent(path)?;
        if shown && below {
            parent
                .children
                .insert(path.name().to_vec(), Upper::Whiteout);
        } else {
            parent.children.remove(path.name());
        }
        Ok(())
    }

    fn base_has_directory(&self, path: &EntryPath) -> bool {
        self.base
            .lookup(path)
            .is_some_and(|node| node.is_directory())
    }

    fn parent(&mut self, path: &EntryPath) -> Result<(&mut UpperDirectory, bool), CopyError> {
        let parent = path.parent().ok_or(CopyError::Root)?;
        if path.name().starts_with(b".wh.") {
            return Err(CopyError::ReservedName { path: path.clone() });
        }
        if !path_within_limits(path) {
            return Err(CopyError::InvalidPath {
                path: path.to_string(),
            });
        }
        self.directory_shown(&parent)
    }

    /// What is in a directory, sorted by name.
    pub(super) fn children(&self, path: &EntryPath) -> Vec<SourceChild> {
        let (upper, shown) = match self.way(path) {
            _ if path.is_root() => (Some(&self.root), !self.root.opaque),
            Way::Upper(Upper::Directory(directory)) => (Some(directory), !directory.opaque),
            Way::Upper(_) => return Vec::new(),
            Way::Base { shown } => (None, shown),
        };
        let mut names: BTreeMap<Vec<u8>, Option<SourceNode>> = BTreeMap::new();
        // What an ancestor hides does not show through here either.
        if shown && self.base_shows_through(path) {
            let below = view_children(&self.base, path).into_iter();
            names.extend(below.map(|child| (child.name, Some(child.node))));
        }
        for (name, upper) in upper.into_iter().flat_map(|upper| &upper.children) {
            names.insert(name.clone(), upper.node());
        }
        names
            .into_iter()
            .filter_map(|(name, node)| Some(SourceChild { name, node: node? }))
            .collect()
    }

    fn base_shows_through(&self, path: &EntryPath) -> bool {
        let mut directory = &self.root;
        for name in path.components() {
            if directory.opaque {
                return false;
            }
            match directory.children.get(name) {
                Some(Upper::Directory(next)) => directory = next,
                Some(_) => return false,
                None => return true,
            }
        }
        !directory.opaque
    }

    /// The layer: sorted, the root left out.
    pub(super) fn changes(self) -> Vec<Change> {
        let mut changes = Vec::new();
        flatten(
            self.root,
            &EntryPath::root(),
            &mut HashMap::new(),
            &mut changes,
        );
        changes
    }
}

impl Upper {
    fn node(&self) -> Option<SourceNode> {
        match self {
            Self::Directory(directory) => Some(Shown::Directory(&directory.metadata).node()),
            Self::Leaf(leaf) => Some(leaf.node()),
            Self::Whiteout => None,
        }
    }
}

/// Paths are bounded (`PATH_COMPONENTS_MAX`), and so is the depth.
fn flatten(
    directory: UpperDirectory,
    path: &EntryPath,
    first_names: &mut HashMap<u64, EntryPath>,
    changes: &mut Vec<Change>,
) {
    for (name, upper) in directory.children {
        let path = path.join(&name).expect("a name that was one component");
        match upper {
            Upper::Directory(directory) => {
                changes.push(Change::without_content(Entry {
                    path: path.clone(),
                    kind: Kind::Directory {
                        opaque: directory.opaque,
                    },
                    metadata: directory.metadata.clone(),
                }));
                flatten(directory, &path, first_names, changes);
            }
            Upper::Leaf(leaf) => changes.push(leaf_change(leaf, path, first_names)),
            Upper::Whiteout => changes.push(Change::without_content(Entry {
                path,
                kind: Kind::Whiteout,
                metadata: Metadata::default(),
            })),
        }
    }
}

/// The first name of a file has the content; the others link to it, so that a target
/// always comes before its links.
fn leaf_change(leaf: Leaf, path: EntryPath, first_names: &mut HashMap<u64, EntryPath>) -> Change {
    let first = leaf.link.and_then(|link| match first_names.get(&link) {
        Some(first) => Some(first.clone()),
        None => {
            first_names.insert(link, path.clone());
            None
        }
    });
    match first {
        Some(target) => Change::without_content(Entry {
            path,
            kind: Kind::Hardlink { target },
            metadata: leaf.metadata,
        }),
        None => Change {
            entry: Entry {
                path,
                kind: leaf.kind,
                metadata: leaf.metadata,
            },
            content: leaf.content,
        },
    }
}
