//! Extended attributes that travel with a file.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use crate::xattr::is_kept;

/// The kernel's own limits: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const LIST_BYTES_MAX: usize = 64 * 1024;
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Most files have no attributes, and those that do have a short list.
const LIST_BYTES: usize = 512;

/// The attributes of `name` in `directory`, itself where it is a symbolic link. Best
/// effort: a file system without attributes, or one that does not let us read them, has
/// none.
pub(super) fn read_xattrs(directory: BorrowedFd<'_>, name: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    // There is no `listxattrat` before Linux 6.13: the directory's own link in /proc
    // stands for its descriptor, so that a directory that is moved or replaced meanwhile
    // cannot lead elsewhere.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut xattrs = BTreeMap::new();
    for attribute in list(&path).split(|byte| *byte == 0) {
        if is_kept(attribute)
            && let Some(value) = value(&path, attribute)
        {
            xattrs.insert(attribute.to_vec(), value);
        }
    }
    xattrs
}

fn list(path: &[u8]) -> Vec<u8> {
    let read = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        let length = rustix::fs::llistxattr(path, &mut buffer[..])?;
        buffer.truncate(length);
        Ok(buffer)
    };
    match read(LIST_BYTES) {
        Err(Errno::RANGE) => read(LIST_BYTES_MAX),
        other => other,
    }
    .unwrap_or_default()
}

fn value(path: &[u8], attribute: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = vec![0; VALUE_BYTES_MAX];
    let length = rustix::fs::lgetxattr(path, attribute, &mut buffer[..]).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use rustix::fs::XattrFlags;

    use super::*;

    #[test]
    fn user_attributes_travel_and_overlay_markers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&file, name, value, XattrFlags::empty())
        };
        if set("user.note", b"kept").is_err() {
            crate::skip::skip("no user attributes on this file system");
            return;
        }
        set("user.overlay.opaque", b"y").unwrap();
        set(&format!("user.{}", "long".repeat(50)), &[9; 3000]).unwrap();
        set(&format!("user.{}", "more".repeat(60)), b"").unwrap();
        set(&format!("user.{}", "most".repeat(60)), b"").unwrap();
        let root = File::open(dir.path()).unwrap();
        let read = read_xattrs(root.as_fd(), b"file");
        assert_eq!(read.len(), 4);
        assert_eq!(read[&b"user.note"[..]], b"kept");
        assert!(read.values().any(|value| value == &[9; 3000]));
    }
}
