//! Whether layers can be images here, found out with one that has what layers can have.
//!
//! ```text
//!  /file        with a capability and an attribute of its owner's
//!  /directory   opaque
//! ```
//!
//! A kernel may mount EROFS file systems and know nothing of attributes, or not of those of
//! security: files would lose their capabilities, and deleted ones come back, without an error.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use longshore_layers::{Change, Entry, EntryPath, Kind, Metadata};
use rustix::fs::{AtFlags, Mode, OFlags, fgetxattr, openat};
use rustix::io::Errno;

use crate::claim::Claim;
use crate::error::{IoContext as _, SnapshotError};
use crate::handles::{mount, open_dir};
use crate::overlay::OverlayMarks;
use crate::tree::Tree;

const FILE: &str = "file";
const DIRECTORY: &str = "directory";
/// `struct vfs_cap_data`, version 2 and effective: `cap_net_bind_service` is permitted.
const CAPABILITY: (&str, [u8; 20]) = (
    "security.capability",
    [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
);
const ATTRIBUTE: (&str, &[u8]) = ("user.tried", b"value");

/// What is in the image that [`OverlaySnapshots::try_image`](crate::OverlaySnapshots::try_image)
/// tries, sorted by path.
#[must_use]
pub fn tried_changes() -> [Change; 2] {
    let change = |path: &str, kind| {
        Change::without_content(Entry {
            path: EntryPath::new(path).unwrap_or_default(),
            kind,
            metadata: Metadata::default(),
        })
    };
    let directory = change(DIRECTORY, Kind::Directory { opaque: true });
    let mut file = change(FILE, Kind::File { size: 0 });
    for (name, value) in [(CAPABILITY.0, &CAPABILITY.1[..]), ATTRIBUTE] {
        let attributes = &mut file.entry.metadata.xattrs;
        attributes.insert(name.as_bytes().to_vec(), value.to_vec());
    }
    [directory, file]
}

/// Whether a layer can be this image, below a writable directory: the kernel shows its
/// attributes, and its file can be deleted.
pub(crate) fn try_image(
    claim: &Claim,
    image: &Tree,
    marks: OverlayMarks,
) -> Result<(), SnapshotError> {
    let opened = image.open()?;
    let root = opened.root.as_fd();
    try_attribute(root, FILE, (CAPABILITY.0, &CAPABILITY.1))?;
    try_attribute(root, FILE, ATTRIBUTE)?;
    try_attribute(root, DIRECTORY, (marks.opaque_xattr(), b"y"))?;

    let (upper, work) = (claim.fresh("upper")?, claim.fresh("work")?);
    let (upper, work) = (open_dir(&upper)?, open_dir(&work)?);
    let root = mount(&[opened], Some((upper.as_fd(), work.as_fd())), marks)?;
    let name = Path::new(FILE);
    rustix::fs::unlinkat(&root, name, AtFlags::empty()).at("delete from an image", name)?;
    match rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        other => other
            .and(Err(Errno::EXIST))
            .at("delete from an image", name),
    }
}

fn try_attribute(
    root: BorrowedFd<'_>,
    file: &str,
    (name, value): (&str, &[u8]),
) -> Result<(), SnapshotError> {
    let at = Path::new(file);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(root, at, flags, Mode::empty()).at("open in an image", at)?;
    // One byte more than expected: a longer value is another one.
    let mut found = vec![0; value.len() + 1];
    let read = fgetxattr(&file, name, &mut found[..]).and_then(|length| {
        let is_same = found[..length] == *value;
        is_same.then_some(()).ok_or(Errno::NODATA)
    });
    read.at("read back from an image the attributes of", at)
}
