//! Opening files below a directory descriptor.
//!
//! Invariant: nothing here follows a symbolic link or leaves the directory, whoever renames
//! things meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::EntryPath;

/// How often an `openat2` is repeated that lost a race with a rename.
const RACES_MAX: usize = 16;

/// Opens `path` below `root`; the root itself for the empty path.
pub(crate) fn open_beneath(
    root: impl AsFd,
    path: &EntryPath,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    if path.is_root() {
        return Ok(rustix::fs::openat(root, c".", flags, Mode::empty())?);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACES_MAX {
        match rustix::fs::openat2(root, path.as_bytes(), flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6, filters that do not know the call, and long paths.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => {
                return open_step_by_step(root, path, flags);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a directory below `root`.
pub(crate) fn open_directory(root: impl AsFd, path: &EntryPath) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn open_step_by_step(root: BorrowedFd<'_>, path: &EntryPath, flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = path.parent().unwrap_or_default();
    let mut directory: Option<OwnedFd> = None;
    for name in parent.components() {
        let from = directory.as_ref().map_or(root, AsFd::as_fd);
        directory = Some(rustix::fs::openat(from, name, step, Mode::empty())?);
    }
    let from = directory.as_ref().map_or(root, AsFd::as_fd);
    Ok(rustix::fs::openat(from, path.name(), flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_not_followed_either_way() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/f"), b"x").unwrap();
        symlink("d", folder.path().join("l")).unwrap();
        symlink("f", folder.path().join("d/m")).unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        for (path, opens) in [
            ("d/f", true),
            ("l/f", false),
            ("d/m", false),
            ("d/x", false),
        ] {
            let path = EntryPath::new(path).unwrap();
            assert_eq!(open_beneath(&root, &path, flags).is_ok(), opens, "{path}");
            let steps = open_step_by_step(root.as_fd(), &path, flags);
            assert_eq!(steps.is_ok(), opens, "{path}");
        }
    }
}
