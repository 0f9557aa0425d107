//! Names inside a root file system that strangers made.
//!
//! A name is walked component by component on descriptors: every link is read and followed by this
//! code, inside the root, so nothing leads out of it, and `/proc`'s magic links are only text.
//! Missing parts can be made on the way; what was made is known exactly, by parent descriptor.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fstat, mkdirat, openat,
    readlinkat, statat, utimensat,
};
use rustix::io::Errno;

/// As the kernel's `MAXSYMLINKS`.
const LINKS_MAX: usize = 40;
/// `PATH_MAX`
const PATH_BYTES_MAX: usize = 4096;

/// What to do about parts of a name that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Fail,
    /// Make directories.
    Directories,
    /// Make directories, and an empty file in the end.
    File,
}

/// A directory that names are resolved in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'fd>(pub(crate) BorrowedFd<'fd>);

/// Something made by [`Root::walk`].
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) parent: OwnedFd,
    pub(crate) name: OsString,
    /// The parent as it was before.
    pub(crate) parent_before: Stat,
    pub(crate) made: Stat,
}

/// Where a name leads.
#[derive(Debug)]
pub(crate) struct Found {
    /// Opened with `O_PATH`.
    pub(crate) fd: OwnedFd,
    pub(crate) kind: FileType,
}

impl Root<'_> {
    /// Resolves a name, following links inside the root.
    pub(crate) fn open(self, path: &[u8]) -> io::Result<Found> {
        self.walk(path, Missing::Fail, &mut Vec::new())
    }

    /// Resolves a name and makes what is missing, adding to `made`.
    pub(crate) fn walk(
        self,
        path: &[u8],
        missing: Missing,
        made: &mut Vec<Made>,
    ) -> io::Result<Found> {
        let mut walk = Walk {
            directories: vec![open_path(self.0, b".")?],
            todo: VecDeque::new(),
        };
        walk.push(path)?;
        let mut links = 0;
        while let Some(name) = walk.todo.pop_front() {
            if name == ".." {
                walk.up();
                continue;
            }
            let here = walk.here();
            let next = match open_path(here, name.as_bytes()) {
                Err(Errno::NOENT) if missing != Missing::Fail => {
                    let file = missing == Missing::File && walk.todo.is_empty();
                    made.push(make(here, &name, file)?);
                    open_path(here, name.as_bytes())?
                }
                other => other?,
            };
            let kind = FileType::from_raw_mode(fstat(&next)?.st_mode);
            match kind {
                FileType::Directory => walk.directories.push(next),
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = readlinkat(&next, "", Vec::new())?;
                    walk.follow(target.as_bytes())?;
                }
                _ if walk.todo.is_empty() => return Ok(Found { fd: next, kind }),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        let fd = walk.directories.pop().ok_or(Errno::NOENT)?;
        Ok(Found {
            fd,
            kind: FileType::Directory,
        })
    }
}

struct Walk {
    /// From the root to where we are; never empty.
    directories: Vec<OwnedFd>,
    todo: VecDeque<OsString>,
}

impl Walk {
    fn here(&self) -> BorrowedFd<'_> {
        self.directories[self.directories.len() - 1].as_fd()
    }

    /// The root is its own parent.
    fn up(&mut self) {
        if self.directories.len() > 1 {
            self.directories.pop();
        }
    }

    /// Puts a link's target in front of what is left.
    fn follow(&mut self, target: &[u8]) -> io::Result<()> {
        if target.starts_with(b"/") {
            self.directories.truncate(1);
        }
        let rest = std::mem::take(&mut self.todo);
        self.push(target)?;
        self.todo.extend(rest);
        Ok(())
    }

    fn push(&mut self, path: &[u8]) -> io::Result<()> {
        if path.len() >= PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let components = path.split(|byte| *byte == b'/');
        let components = components.filter(|it| !it.is_empty() && *it != b".");
        self.todo
            .extend(components.map(|it| OsString::from_vec(it.to_vec())));
        Ok(())
    }
}

fn open_path(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Makes one entry, and leaves the parent's times as they were.
fn make(parent: BorrowedFd<'_>, name: &OsString, file: bool) -> io::Result<Made> {
    let parent_before = statat(parent, ".", AtFlags::empty())?;
    if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
    } else {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    }
    let made = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    set_times(parent, times_of(&parent_before))?;
    let parent = open_path(parent, b".")?;
    Ok(Made {
        parent,
        name: name.clone(),
        parent_before,
        made,
    })
}

/// Access and modification time, in seconds and nanoseconds.
pub(crate) type Times = [(i64, i64); 2];

pub(crate) fn times_of(stat: &Stat) -> Times {
    let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
    [
        (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
    ]
}

pub(crate) fn set_times(directory: BorrowedFd<'_>, times: Times) -> io::Result<()> {
    let [last_access, last_modification] =
        times.map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
    let times = Timestamps {
        last_access,
        last_modification,
    };
    Ok(utimensat(directory, ".", &times, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    struct Tree {
        temp: tempfile::TempDir,
        root: OwnedFd,
    }

    fn tree() -> Tree {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("root/dir/sub")).unwrap();
        fs::write(temp.path().join("root/file"), "inside").unwrap();
        fs::write(temp.path().join("file"), "outside").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = openat(CWD, temp.path().join("root"), flags, Mode::empty()).unwrap();
        Tree { temp, root }
    }

    fn inode(tree: &Tree, path: &str) -> io::Result<u64> {
        Ok(fstat(Root(tree.root.as_fd()).open(path.as_bytes())?.fd)?.st_ino)
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let tree = tree();
        let inside = |name: &str| tree.temp.path().join("root").join(name);
        for (link, target) in [
            ("absolute", "/file"),
            ("up", "../../../../file"),
            ("dir/chain", "../up"),
            ("dir/sub/root", "../../../../.."),
        ] {
            symlink(target, inside(link)).unwrap();
        }
        let expected = fs::metadata(inside("file")).unwrap().ino();
        for path in [
            "/file",
            "file",
            "../file",
            "/absolute",
            "up",
            "dir/chain",
            "dir/../dir/sub/root/file",
        ] {
            assert_eq!(inode(&tree, path).unwrap(), expected, "{path}");
        }
        symlink("loop", inside("loop")).unwrap();
        assert_eq!(
            inode(&tree, "loop").unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        assert_eq!(
            inode(&tree, "file/x").unwrap_err().raw_os_error(),
            Some(libc::ENOTDIR)
        );
        assert_eq!(
            inode(&tree, "none").unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
    }

    #[test]
    fn what_is_missing_is_made_inside_and_the_parent_s_times_stay() {
        let tree = tree();
        let inside = |name: &str| tree.temp.path().join("root").join(name);
        symlink("/new/../../../elsewhere", inside("dangling")).unwrap();
        set_times(tree.root.as_fd(), [(1, 2), (3, 4)]).unwrap();
        let before = fs::metadata(inside("")).unwrap();
        let mut made = Vec::new();
        let root = Root(tree.root.as_fd());
        root.walk(b"/dangling/a/b", Missing::File, &mut made)
            .unwrap();
        let names: Vec<_> = made.iter().map(|it| it.name.to_str().unwrap()).collect();
        assert_eq!(names, ["new", "elsewhere", "a", "b"]);
        assert!(inside("elsewhere/a/b").is_file());
        assert!(!tree.temp.path().join("elsewhere").exists());
        let after = fs::metadata(inside("")).unwrap();
        assert_eq!(
            (after.mtime(), after.mtime_nsec()),
            (before.mtime(), before.mtime_nsec())
        );
    }
}
