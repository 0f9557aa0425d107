//! Layers and trees that are on disk already, as changes that name their files.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, statat};

use crate::copy::LayerContent;
use crate::{
    Change, ContentHash, Entry, EntryPath, FileContent, FileStamp, HostFile, IndexEntry, Kind,
    LayerIndex, Node, TreeView,
};

/// The bytes of a file below `root`, as it looks now.
///
/// # Errors
/// When there is no such file.
pub fn host_content(
    root: &Arc<OwnedFd>,
    path: &EntryPath,
    hash: Option<ContentHash>,
) -> io::Result<FileContent> {
    let stat = statat(root.as_fd(), path.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
    let stamp = FileStamp::of(&stat);
    if stamp.size == 0 {
        return Ok(FileContent::Empty);
    }
    Ok(FileContent::Host(HostFile {
        root: Arc::clone(root),
        path: path.clone(),
        stamp,
        hash,
    }))
}

/// The changes of a layer whose directory (in overlay form) is `root`.
///
/// # Errors
/// When a file of the index is not there.
pub fn changes_of_directory(root: &Arc<OwnedFd>, index: &LayerIndex) -> io::Result<Vec<Change>> {
    let named = |indexed: &IndexEntry| {
        let entry = indexed.entry.clone();
        let content = match entry.kind {
            Kind::File { size } if size > 0 => host_content(root, &entry.path, indexed.content)?,
            _ => FileContent::Empty,
        };
        Ok(Change { entry, content })
    };
    index.entries().iter().map(named).collect()
}

/// Everything that a view shows, as the changes of one layer on nothing. Names of one
/// file stay names of one file.
///
/// # Errors
/// When the bytes of a file cannot be had.
pub fn changes_of_view(view: &TreeView, content: &dyn LayerContent) -> io::Result<Vec<Change>> {
    let mut first_names = FirstNames::default();
    let mut changes = Vec::new();
    for node in view.walk(&EntryPath::root()) {
        if !node.entry.path.is_root()
            && let Some((entry, file)) = shown(view, &node, &mut first_names)
        {
            changes.push(with_content(entry, file, content)?);
        }
    }
    Ok(changes)
}

/// The first shown name of each file, by what tells one file from another.
pub(crate) type FirstNames = HashMap<(usize, usize), EntryPath>;

/// What stands at a node's path when the view becomes one layer, and the file whose bytes
/// stand there; `None` for a link to nothing.
pub(crate) fn shown<'a>(
    view: &'a TreeView,
    node: &Node<'a>,
    first_names: &mut FirstNames,
) -> Option<(Entry, Option<Node<'a>>)> {
    let inode = view.inode(node)?;
    let mut entry = Entry {
        path: node.entry.path.clone(),
        kind: inode.entry.kind.clone(),
        metadata: inode.entry.metadata.clone(),
    };
    match entry.kind {
        Kind::Directory { .. } => entry.kind = Kind::Directory { opaque: false },
        Kind::File { .. } => {
            let identity = (inode.layer, std::ptr::from_ref(inode.entry).addr());
            if let Some(first) = first_names.get(&identity) {
                let target = first.clone();
                entry.kind = Kind::Hardlink { target };
            } else {
                first_names.insert(identity, entry.path.clone());
                return Some((entry, Some(inode)));
            }
        }
        _ => {}
    }
    Some((entry, None))
}

/// An entry as a change: with the bytes of `file`, where it has any.
pub(crate) fn with_content(
    entry: Entry,
    file: Option<Node<'_>>,
    content: &dyn LayerContent,
) -> io::Result<Change> {
    let content = match (&entry.kind, file) {
        (Kind::File { size }, Some(file)) if *size > 0 => content.content(&file)?,
        _ => FileContent::Empty,
    };
    Ok(Change { entry, content })
}
