//! Deleting trees that strangers made.
//!
//! A tree is first renamed into the trash, so that it is gone at once for everybody else, and then
//! deleted from there. Deletion works on descriptors, never follows a link, and needs a bounded
//! number of descriptors however deep the tree is: what lies deeper than [`DEPTH_MAX`] is renamed
//! up into the trash and deleted on its own.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::{IoContext as _, SnapshotError};

/// How many descriptors a deletion holds at most.
const DEPTH_MAX: usize = 32;

/// The folder in which trees wait for deletion.
#[derive(Debug)]
pub(crate) struct Trash(pub(crate) PathBuf);

impl Trash {
    /// Moves a tree out of everybody's sight and deletes it. `false` when there was none.
    pub(crate) fn delete(&self, tree: &Path) -> Result<bool, SnapshotError> {
        let was_there = self.take(tree)?;
        if was_there {
            self.empty()?;
        }
        Ok(was_there)
    }

    /// Moves a tree out of everybody's sight. `false` when there was none.
    pub(crate) fn take(&self, tree: &Path) -> Result<bool, SnapshotError> {
        let grave = self.0.join(Uuid::new_v4().simple().to_string());
        match std::fs::rename(tree, &grave) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.at("move to the trash", tree)?,
        }
        Ok(true)
    }

    /// Deletes whatever lies in the trash. Several may do so at once.
    pub(crate) fn empty(&self) -> Result<(), SnapshotError> {
        let trash = open_directory(CWD, &self.0).at("open", &self.0)?;
        while delete_entries(trash.as_fd(), trash.as_fd(), 0).at("empty", &self.0)? {}
        Ok(())
    }
}

/// Deletes all entries of `directory`. `true` when some went up into the trash instead.
fn delete_entries(
    trash: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
) -> io::Result<bool> {
    let mut raised = false;
    for (name, kind) in entries(directory)? {
        raised |= delete_entry(trash, directory, &name, kind, depth)?;
    }
    Ok(raised)
}

fn delete_entry(
    trash: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    depth: usize,
) -> io::Result<bool> {
    if kind != FileType::Directory {
        gone(unlinkat(directory, name, AtFlags::empty()))?;
        return Ok(false);
    }
    if depth == DEPTH_MAX {
        gone(renameat(
            directory,
            name,
            trash,
            Uuid::new_v4().simple().to_string(),
        ))?;
        return Ok(true);
    }
    let Some(child) = open_to_empty(directory, name)? else {
        return Ok(false);
    };
    let raised = delete_entries(trash, child.as_fd(), depth + 1)?;
    gone(unlinkat(directory, name, AtFlags::REMOVEDIR))?;
    Ok(raised)
}

/// Opens a directory so that its entries can be deleted, whatever its mode; `None` if it is gone.
fn open_to_empty(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    if !rustix::process::geteuid().is_root() {
        gone(chmodat(parent, name, Mode::RWXU, AtFlags::empty()))?;
    }
    match open_directory(parent, name) {
        Err(Errno::NOENT) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn open_directory<P: rustix::path::Arg>(
    parent: BorrowedFd<'_>,
    name: P,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn entries(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => FileType::Unknown,
            },
            known => known,
        };
        found.push((name.to_owned(), kind));
    }
    Ok(found)
}

/// Somebody else emptying the same trash is no failure.
fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_deeper_than_any_descriptor_limit_goes_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let canary = temp.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("kept"), "").unwrap();
        let trash = Trash(temp.path().join("trash"));
        fs::create_dir(&trash.0).unwrap();

        let tree = temp.path().join("tree");
        fs::create_dir(&tree).unwrap();
        symlink(&canary, tree.join("link")).unwrap();
        let mut here = open_directory(CWD, &tree).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&canary, &here, "l").unwrap();
            here = open_directory(here.as_fd(), "d").unwrap();
        }
        drop(here);

        assert!(trash.delete(&tree).unwrap());
        assert!(!tree.exists());
        assert_eq!(fs::read_dir(&trash.0).unwrap().count(), 0);
        assert!(canary.join("kept").exists());
        assert!(!trash.delete(&tree).unwrap(), "absent is not an error");
    }
}
