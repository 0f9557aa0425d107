//! Removing trees below a directory, without following links and with few open files.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::{DirectoryError, failed, is_no_directory};
use crate::fs_at::open_directory;
use crate::{Entry, EntryPath};

/// Removes what stands at `path`, with all below it; nothing there is fine.
pub(super) fn remove_tree(root: BorrowedFd<'_>, path: &EntryPath) -> Result<(), DirectoryError> {
    let mut pending = vec![path.clone()];
    while let Some(path) = pending.last().cloned() {
        let parent = path.parent().unwrap_or_default();
        let directory = match open_directory(root, &parent) {
            Ok(directory) => directory,
            Err(error) if is_no_directory(&error) => return Ok(()),
            Err(error) => return Err(failed("open the directory", &parent)(error)),
        };
        let name = path.name();
        let removed = match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR)
            }
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {
                pending.pop();
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => pending.extend(children(root, &path)?),
            Err(errno) => return Err(failed("remove", &path)(errno)),
        }
    }
    Ok(())
}

/// Removes everything below `path` that the layer does not list and does not need.
pub(super) fn remove_unlisted(
    root: BorrowedFd<'_>,
    path: &EntryPath,
    listing: &[&Entry],
) -> Result<(), DirectoryError> {
    let mut pending = vec![path.clone()];
    while let Some(directory) = pending.pop() {
        for child in children(root, &directory)? {
            let from = listing.partition_point(|own| own.path < child);
            match listing.get(from) {
                Some(own) if own.path == child => pending.push(child),
                Some(own) if own.path.starts_with(&child) => pending.push(child),
                _ => remove_tree(root, &child)?,
            }
        }
    }
    Ok(())
}

/// The paths directly below `path`; none when it is no directory.
pub(super) fn children(
    root: BorrowedFd<'_>,
    path: &EntryPath,
) -> Result<Vec<EntryPath>, DirectoryError> {
    let directory = match open_directory(root, path) {
        Ok(directory) => directory,
        Err(error) if is_no_directory(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed("open the directory", path)(error)),
    };
    let mut found = Vec::new();
    for entry in Dir::new(directory).map_err(failed("list", path))? {
        let entry = entry.map_err(failed("list", path))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let child = path.join(name).map_err(io::Error::other);
            found.push(child.map_err(failed("list", path))?);
        }
    }
    Ok(found)
}
