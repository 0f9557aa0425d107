//! Files that a person named, and what files take.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, statat};
use rustix::io::Errno;

/// The content of a regular file of at most `limit_bytes`; a pipe or a device is refused
/// rather than waited for.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub(crate) fn read_regular(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    read_at_most(open_regular(path)?, limit_bytes)
}

/// A regular file; a pipe or a device is refused rather than waited for.
///
/// # Errors
/// When it cannot be opened or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    File::open(path)
}

/// As [`read_regular`], below a directory that is taken for the root: no link leads out of it.
///
/// # Errors
/// As [`read_regular`].
pub(crate) fn read_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    limit_bytes: u64,
) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?);
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    read_at_most(file, limit_bytes)
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

fn read_at_most(file: File, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

/// What a tree takes on disk: blocks, of a file with several names once. What disappears
/// meanwhile does not count, nor what lies deeper than a path can say; no link is followed,
/// also none that is put in the way of a directory while the tree is measured.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn disk_bytes(tree: &Path) -> io::Result<u64> {
    let Some(root) = open_directory(CWD, tree, ResolveFlags::empty())? else {
        return Ok(0);
    };
    let mut links = HashSet::new();
    let mut open = vec![PathBuf::new()];
    let mut bytes = block_bytes(&rustix::fs::fstat(&root)?);
    while let Some(path) = open.pop() {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Some(directory) = open_directory(root.as_fd(), &Path::new(".").join(&path), beneath)?
        else {
            continue;
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                open.push(path.join(OsStr::from_bytes(name.to_bytes())));
            } else if stat.st_nlink > 1 && !links.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            bytes += block_bytes(&stat);
        }
    }
    Ok(bytes)
}

/// The directory that is at `path` itself; `None` where there is none any more.
fn open_directory(
    parent: BorrowedFd<'_>,
    path: &Path,
    resolve: ResolveFlags,
) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// stat(2): blocks of 512 bytes, whatever the file system's are.
fn block_bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// Whether this process may give files away.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_is_measured_without_what_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("second")).unwrap();
        fs::write(outside.join("large"), vec![1; 4 << 20]).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        let bytes = disk_bytes(&tree).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");

        // In the place of a tree, as a step may put one in the place of a directory in it.
        assert_eq!(disk_bytes(&tree.join("link")).unwrap(), 0);
        let root = open_directory(CWD, &tree, ResolveFlags::empty()).unwrap();
        let root = root.unwrap();
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        for path in ["link", "link/.", "second", "gone"] {
            let opened = open_directory(root.as_fd(), Path::new(path), beneath).unwrap();
            assert!(opened.is_none(), "{path}");
        }
    }

    #[test]
    fn a_tree_that_is_gone_or_deeper_than_paths_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(disk_bytes(&folder.path().join("gone")).unwrap(), 0);
        let name = "d".repeat(250);
        let mut here = open_directory(CWD, folder.path(), ResolveFlags::empty()).unwrap();
        for _ in 0..20 {
            let parent = here.unwrap();
            rustix::fs::mkdirat(&parent, &name, Mode::RWXU).unwrap();
            here = open_directory(parent.as_fd(), Path::new(&name), ResolveFlags::empty()).unwrap();
        }
        disk_bytes(folder.path()).unwrap();
    }
}
