//! The upper directory of an overlay mount ► the changes that its layer makes.
//!
//! ```text
//!  upper                         lower view            changes
//!  character device 0:0          something / nothing   whiteout / none
//!  opaque directory              directory             explicit whiteouts of what is not in it
//!  directory, same metadata      directory             none, unless something below changes
//!  file, same in every respect   file                  none (it was only copied up)
//!  anything else                 any                   the entry
//! ```
//!
//! Invariants: only the upper directory is read, on all cores; applying the changes to the
//! lower view gives what the mount showed; the result is sorted, and the same each time.
//! Directories above changes are part of the result, as containerd has them.

mod listing;
mod scan;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub use self::listing::{Listing, changes_since};
use self::scan::{Found, FoundKind, scan};
use crate::directory::OverlayAttributes;
use crate::fs_at::open_directory;
use crate::limits::{PATH_BYTES_MAX, PATH_COMPONENTS_MAX};
use crate::source::{ContentError, OpenContent};
use crate::tree::Node;
use crate::{
    Change, ContentHash, Entry, EntryPath, FileContent, HostFile, Kind, Metadata, TreeView,
};

/// Why an upper directory has no diff.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// Reading the directory failed.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: EntryPath,
        /// Why it was not.
        source: io::Error,
    },
    /// A file could not be read, or something still writes to the directory.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A path is longer than any in a layer may be.
    #[error(
        "`{0}` holds a path of more than {PATH_BYTES_MAX} bytes or {PATH_COMPONENTS_MAX} \
         components: no layer can hold it"
    )]
    PathLimit(EntryPath),
    /// The mount had an option that leaves content elsewhere (`redirect_dir`, `metacopy`).
    #[error("`{path}` has the attribute `{attribute}`: its content is not in this directory")]
    Attribute {
        /// Where.
        path: EntryPath,
        /// Which.
        attribute: String,
    },
}

/// The changes that `upper`, mounted over `lower`, makes. Nothing may write to it meanwhile.
///
/// # Errors
/// When the directory cannot be read or was mounted with options that it does not support.
pub fn diff_upper(
    upper: impl AsFd,
    lower: &TreeView,
    attributes: OverlayAttributes,
) -> Result<Vec<Change>, DiffError> {
    let root = EntryPath::root();
    let upper = open_directory(upper, &root).map_err(scan::failed("open", &root))?;
    let upper = Arc::new(upper);
    let found = scan(&upper, attributes)?;
    let mut diff = Diff {
        first_names: first_names(&found),
        found: &found,
        upper,
        lower,
        changes: BTreeMap::new(),
    };
    diff.run()?;
    Ok(diff.changes.into_values().collect())
}

/// All that a layer's directory in overlay form says, marks and deletions included, so that
/// the layer can be applied to a tree without being mounted.
///
/// # Errors
/// When the directory cannot be read or was mounted with options that it does not support.
pub fn changes_of_overlay(
    directory: impl AsFd,
    attributes: OverlayAttributes,
) -> Result<Vec<Change>, DiffError> {
    let root = EntryPath::root();
    let directory = open_directory(directory, &root).map_err(scan::failed("open", &root))?;
    let directory = Arc::new(directory);
    let found = scan(&directory, attributes)?;
    Ok(changes_of(&found, &directory, |_| true))
}

/// What was found, as changes; where nothing stands, `is_whiteout` decides.
fn changes_of(
    found: &BTreeMap<EntryPath, Found>,
    root: &Arc<OwnedFd>,
    is_whiteout: impl Fn(&EntryPath) -> bool,
) -> Vec<Change> {
    let nothing = TreeView::empty();
    let diff = Diff {
        first_names: first_names(found),
        found,
        upper: Arc::clone(root),
        lower: &nothing,
        changes: BTreeMap::new(),
    };
    let mut changes = Vec::with_capacity(found.len());
    for (path, found) in found {
        let kind = match found.kind {
            FoundKind::Directory { opaque } => Kind::Directory { opaque },
            _ => match diff.kind_of(path, found) {
                Some(kind) => kind,
                None if is_whiteout(path) => Kind::Whiteout,
                None => continue,
            },
        };
        let entry = Entry {
            path: path.clone(),
            kind,
            metadata: found.metadata.clone(),
        };
        let content = diff.content_of(path, found);
        changes.push(Change { entry, content });
    }
    changes
}

/// The first name of each file that has several in the upper directory.
fn first_names(found: &BTreeMap<EntryPath, Found>) -> HashMap<(u64, u64), &EntryPath> {
    let mut names = HashMap::new();
    for (path, found) in found {
        if let Some(inode) = found.shared_inode() {
            names.entry(inode).or_insert(path);
        }
    }
    names
}

struct Diff<'a> {
    found: &'a BTreeMap<EntryPath, Found>,
    first_names: HashMap<(u64, u64), &'a EntryPath>,
    upper: Arc<OwnedFd>,
    lower: &'a TreeView,
    changes: BTreeMap<EntryPath, Change>,
}

impl<'a> Diff<'a> {
    fn run(&mut self) -> Result<(), DiffError> {
        // Directories that show nothing of the lower layers, and so does all below them.
        let mut fresh: HashSet<&EntryPath> = HashSet::new();
        for (path, found) in self.found {
            let is_below_fresh = path.parent().is_some_and(|parent| fresh.contains(&parent));
            if let FoundKind::Directory { opaque } = found.kind
                && (opaque || is_below_fresh)
            {
                fresh.insert(path);
                self.hide_lower_names(path);
            }
            self.compare(path, found)?;
        }
        self.add_parents();
        Ok(())
    }

    /// Whiteouts for what the lower directory has and the upper one, which hides it, has not.
    fn hide_lower_names(&mut self, path: &EntryPath) {
        let names = self.lower.read_dir(path).into_iter().flatten();
        let paths = names.map(|(_, node)| node.entry.path.clone());
        let hidden: Vec<_> = paths
            .filter(|path| !self.found.contains_key(path))
            .collect();
        for path in hidden {
            self.add_whiteout(path);
        }
    }

    fn compare(&mut self, path: &EntryPath, found: &Found) -> Result<(), DiffError> {
        let below = self.lower.lookup(path);
        let Some(kind) = self.kind_of(path, found) else {
            if below.is_some() {
                self.add_whiteout(path.clone());
            }
            return Ok(());
        };
        let entry = Entry {
            path: path.clone(),
            kind,
            metadata: found.metadata.clone(),
        };
        let mut content = self.content_of(path, found);
        if let Some(below) = below
            && found.shared_inode().is_none()
            && self.is_unchanged(&entry, &mut content, &below)?
        {
            return Ok(());
        }
        self.changes.insert(path.clone(), Change { entry, content });
        Ok(())
    }

    /// What the entry's kind is in a layer; `None` for what is nothing there: a whiteout, and
    /// a socket, which no tar stream can hold.
    fn kind_of(&self, path: &EntryPath, found: &Found) -> Option<Kind> {
        let inode = found.shared_inode();
        let first = inode.and_then(|inode| self.first_names.get(&inode).copied());
        Some(match &found.kind {
            FoundKind::File if first.is_some_and(|first| first != path) => Kind::Hardlink {
                target: first.cloned().unwrap_or_default(),
            },
            FoundKind::File => Kind::File {
                size: found.stamp.size,
            },
            FoundKind::Directory { .. } => Kind::Directory { opaque: false },
            FoundKind::Other(kind) => kind.clone(),
            FoundKind::Nothing => return None,
        })
    }

    fn content_of(&self, path: &EntryPath, found: &Found) -> FileContent {
        let is_first = |inode| {
            self.first_names
                .get(&inode)
                .is_none_or(|first| *first == path)
        };
        let has_bytes = found.stamp.size > 0
            && matches!(found.kind, FoundKind::File)
            && found.shared_inode().is_none_or(is_first);
        if !has_bytes {
            return FileContent::Empty;
        }
        FileContent::Host(HostFile {
            root: Arc::clone(&self.upper),
            path: path.clone(),
            stamp: found.stamp,
            hash: None,
        })
    }

    /// Whether the layer would be the same without the entry, which has one name. A file's bytes are compared
    /// when all else is equal; then its hash is known.
    fn is_unchanged(
        &self,
        entry: &Entry,
        content: &mut FileContent,
        below: &Node<'_>,
    ) -> Result<bool, DiffError> {
        let Some(inode) = self.lower.inode(below) else {
            return Ok(false);
        };
        let (ours, theirs) = (&entry.metadata, &inode.entry.metadata);
        if !same_metadata(ours, theirs) {
            return Ok(false);
        }
        let same_time = ours.mtime.seconds == theirs.mtime.seconds;
        Ok(match (&entry.kind, &inode.entry.kind) {
            // A directory's time changes with what is in it, and that is in the layer.
            (Kind::Directory { .. }, Kind::Directory { .. }) => true,
            (Kind::File { size }, Kind::File { size: below }) => {
                same_time
                    && size == below
                    && Some(hash_into(&entry.path, content)?) == inode.content
            }
            (Kind::Hardlink { .. } | Kind::File { .. }, _) => false,
            (ours, theirs) => same_time && ours == theirs,
        })
    }

    fn add_whiteout(&mut self, path: EntryPath) {
        let entry = Entry {
            path: path.clone(),
            kind: Kind::Whiteout,
            metadata: Metadata::default(),
        };
        self.changes.insert(path, Change::without_content(entry));
    }

    /// Directories above changes.
    fn add_parents(&mut self) {
        let mut parents: HashSet<EntryPath> = HashSet::new();
        for path in self.changes.keys() {
            let mut above = path.parent();
            while let Some(path) = above {
                above = path.parent();
                if path.is_root() || !parents.insert(path) {
                    break;
                }
            }
        }
        for path in parents {
            let Some(found) = self.found.get(&path) else {
                continue;
            };
            let entry = Entry {
                path: path.clone(),
                kind: Kind::Directory { opaque: false },
                metadata: found.metadata.clone(),
            };
            let change = Change::without_content(entry);
            self.changes.entry(path).or_insert(change);
        }
    }
}

fn same_metadata(a: &Metadata, b: &Metadata) -> bool {
    (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && a.xattrs == b.xattrs
}

/// Hashes a file's bytes and notes the hash with them.
fn hash_into(path: &EntryPath, content: &mut FileContent) -> Result<ContentHash, ContentError> {
    let hash = OpenContent::open(path, content)?.hash()?;
    if let FileContent::Host(file) = content {
        file.hash = Some(hash);
    }
    Ok(hash)
}

#[cfg(test)]
mod tests;
