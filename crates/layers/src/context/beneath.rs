//! Opening what is below a directory without ever following a symbolic link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::EntryPath;

/// Opens `path` below `root`; a symbolic link anywhere in it, the last component
/// included, is an error (`ELOOP` or `ENOTDIR`).
///
/// One `openat2` where the kernel has it and the path fits, else component by component.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &EntryPath,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if path.is_root() {
        return rustix::fs::openat(root, c".", flags, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path.as_bytes(), flags, Mode::empty(), resolve) {
        // Old kernels, sandboxes that forbid the call, and paths beyond PATH_MAX.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => by_component(root, path, flags),
        other => other,
    }
}

fn by_component(root: BorrowedFd<'_>, path: &EntryPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = path.components().peekable();
    let mut directory: Option<OwnedFd> = None;
    while let Some(name) = components.next() {
        let at = directory.as_ref().map_or(root, AsFd::as_fd);
        if components.peek().is_none() {
            return rustix::fs::openat(at, name, flags, Mode::empty());
        }
        directory = Some(rustix::fs::openat(at, name, through, Mode::empty())?);
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        fs::write(dir.path().join("real/sub/file"), "x").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("file", dir.path().join("real/sub/leaf")).unwrap();
        let root = File::open(dir.path()).unwrap();
        for open in [open_beneath, by_component] {
            let open = |path: &str| {
                open(
                    root.as_fd(),
                    &EntryPath::new(path).unwrap(),
                    OFlags::RDONLY | OFlags::NOFOLLOW,
                )
            };
            assert!(open("real/sub/file").is_ok());
            assert!(matches!(
                open("link/sub/file"),
                Err(Errno::LOOP | Errno::NOTDIR)
            ));
            assert!(matches!(open("real/sub/leaf"), Err(Errno::LOOP)));
            assert!(matches!(open("real/none"), Err(Errno::NOENT)));
        }
    }

    #[test]
    fn paths_beyond_path_max_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let name = "d".repeat(200);
        let mut path = EntryPath::root();
        let mut at: OwnedFd = root.try_clone().unwrap().into();
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
            path = path.join(&name).unwrap();
        }
        assert!(open_beneath(root.as_fd(), &path, OFlags::RDONLY).is_ok());
    }
}
