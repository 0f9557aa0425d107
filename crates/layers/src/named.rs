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
    let mut first_names: HashMap<(usize, usize), EntryPath> = HashMap::new();
    let mut changes = Vec::new();
    for node in view.walk(&EntryPath::root()) {
        if !node.entry.path.is_root() {
            changes.extend(shown(view, content, &node, &mut first_names)?);
        }
    }
    Ok(changes)
}

fn shown(
    view: &TreeView,
    content: &dyn LayerContent,
    node: &Node<'_>,
    first_names: &mut HashMap<(usize, usize), EntryPath>,
) -> io::Result<Option<Change>> {
    let Some(inode) = view.inode(node) else {
        return Ok(None);
    };
    let path = node.entry.path.clone();
    let metadata = inode.entry.metadata.clone();
    let kind = match &inode.entry.kind {
        Kind::Directory { .. } => Kind::Directory { opaque: false },
        other => other.clone(),
    };
    let Kind::File { size } = kind else {
        return Ok(Some(Change::without_content(Entry {
            path,
            kind,
            metadata,
        })));
    };
    let identity = (inode.layer, std::ptr::from_ref(inode.entry).addr());
    if let Some(target) = first_names.get(&identity) {
        let kind = Kind::Hardlink {
            target: target.clone(),
        };
        return Ok(Some(Change::without_content(Entry {
            path,
            kind,
            metadata,
        })));
    }
    first_names.insert(identity, path.clone());
    let content = if size == 0 {
        FileContent::Empty
    } else {
        content.content(&inode)?
    };
    Ok(Some(Change {
        entry: Entry {
            path,
            kind,
            metadata,
        },
        content,
    }))
}
