//! Taking away what was made only to mount something on it, so that it does not end up in a layer.
//!
//! A stub is removed only if it is still the same file or directory and still empty, by the
//! descriptor of the directory it was made in: no name is looked up again, so nothing that the
//! process put in the way can lead elsewhere (CVE-2024-23652).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;

use crate::plan::Stub;
use crate::rootpath::{Made, set_times, times_of};

impl Stub {
    pub(crate) fn of(made: &Made) -> Self {
        let [accessed, modified] = times_of(&made.parent_before);
        Self {
            name: made.name.as_bytes().to_vec(),
            directory: FileType::from_raw_mode(made.made.st_mode) == FileType::Directory,
            device: made.made.st_dev,
            inode: made.made.st_ino,
            accessed,
            modified,
        }
    }

    fn is(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }
}

/// Removes the stubs, the last one made first.
pub(crate) fn remove_all(stubs: Vec<(Stub, OwnedFd)>) -> io::Result<()> {
    let mut result = Ok(());
    for (stub, parent) in stubs.into_iter().rev() {
        let removed = remove(&stub, &parent);
        result = result.and(removed);
    }
    result
}

fn remove(stub: &Stub, parent: &OwnedFd) -> io::Result<()> {
    let name = OsStr::from_bytes(&stub.name);
    let before = match statat(parent, ".", AtFlags::empty()) {
        // The process removed the directory itself.
        Err(Errno::NOENT | Errno::STALE) => return Ok(()),
        other => times_of(&other?),
    };
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if !stub.is(&stat) || (!stub.directory && stat.st_size != 0) => return Ok(()),
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(other) => return Err(other.into()),
    }
    let flags = if stub.directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match unlinkat(parent, name, flags) {
        Ok(()) => {}
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => return Ok(()),
        Err(other) => return Err(other.into()),
    }
    // If the process changed the directory, its time is the process's; else it is as it was.
    let [accessed, modified] = before;
    let untouched = modified == stub.modified;
    let times = [if untouched { stub.accessed } else { accessed }, modified];
    set_times(parent.as_fd(), times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootpath::{Missing, Root};
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    fn make(root: &Path, target: &str) -> Vec<(Stub, OwnedFd)> {
        let fd = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut made = Vec::new();
        Root(fd.as_fd())
            .walk(target.as_bytes(), Missing::File, &mut made)
            .unwrap();
        made.into_iter()
            .map(|it| (Stub::of(&it), it.parent))
            .collect()
    }

    #[test]
    fn empty_stubs_go_and_leave_no_trace() {
        let temp = tempfile::tempdir().unwrap();
        let fd = openat(CWD, temp.path(), OFlags::PATH, Mode::empty()).unwrap();
        set_times(fd.as_fd(), [(10, 0), (20, 5)]).unwrap();
        let stubs = make(temp.path(), "/a/b/file");
        remove_all(stubs).unwrap();
        let after = fs::metadata(temp.path()).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (20, 5));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_the_process_used_stays() {
        let temp = tempfile::tempdir().unwrap();
        let stubs = make(temp.path(), "/a/b/file");
        fs::write(temp.path().join("a/other"), "").unwrap();
        fs::write(temp.path().join("a/b/file"), "written").unwrap();
        remove_all(stubs).unwrap();
        assert_eq!(
            fs::read_to_string(temp.path().join("a/b/file")).unwrap(),
            "written"
        );
        assert!(temp.path().join("a/other").exists());
    }

    #[test]
    fn cve_2024_23652_a_stub_swapped_for_a_link_leads_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let canary = temp.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::create_dir(canary.join("file")).unwrap();
        let root = temp.path().join("root");
        fs::create_dir(&root).unwrap();
        let stubs = make(&root, "/dir/file");
        fs::rename(root.join("dir"), root.join("moved")).unwrap();
        symlink(&canary, root.join("dir")).unwrap();
        fs::remove_file(root.join("moved/file")).unwrap();
        symlink(canary.join("file"), root.join("moved/file")).unwrap();
        remove_all(stubs).unwrap();
        assert!(canary.join("file").is_dir());
        assert!(root.join("dir").is_symlink() && root.join("moved/file").is_symlink());
    }
}
