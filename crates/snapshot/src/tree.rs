//! A layer's files: a directory, or an image of a file system in one file.
//!
//! An image is an EROFS file system, mounted read-only whenever its files are wanted. It is
//! mounted *detached*, as everything here: the mount goes with the last descriptor of it or of
//! a file in it, also after `kill -9`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::error::{IoContext as _, SnapshotError};
use crate::handles::{open_at, open_dir};
use crate::overlay::Lower;

/// Where, in a snapshot, its files are.
const DIRECTORY: &str = "fs";
const IMAGE: &str = "layer.erofs";

/// Where a layer's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    Directory(PathBuf),
    Image(PathBuf),
}

/// A layer's files, ready to be stacked.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The directory, or the image's mount.
    pub(crate) root: OwnedFd,
    pub(crate) is_image: bool,
}

impl Opened {
    /// As overlay takes it.
    pub(crate) fn layer(&self) -> Lower<'_> {
        Lower {
            root: self.root.as_fd(),
            is_image: self.is_image,
        }
    }
}

impl Tree {
    /// The files of the snapshot at `place`. A directory unless there is an image.
    pub(crate) fn of(place: &Path) -> Self {
        let image = place.join(IMAGE);
        if image.exists() {
            Self::Image(image)
        } else {
            Self::Directory(place.join(DIRECTORY))
        }
    }

    /// Opens the layer so that overlay takes it.
    pub(crate) fn open(&self) -> Result<Opened, SnapshotError> {
        Ok(match self {
            Self::Directory(path) => Opened {
                root: open_dir(path)?,
                is_image: false,
            },
            Self::Image(path) => Opened {
                root: mount_image(path)?,
                is_image: true,
            },
        })
    }

    /// Opens the layer's root directory for reading.
    pub(crate) fn open_root(&self) -> Result<OwnedFd, SnapshotError> {
        let opened = self.open()?;
        if opened.is_image {
            // What `fsmount` returns cannot be listed; what is opened through it can.
            return open_at(opened.root.as_fd(), Path::new("."));
        }
        Ok(opened.root)
    }
}

/// Makes the new empty image of a snapshot, in place of the directory.
pub(crate) fn create_image(snapshot: &Path) -> Result<File, SnapshotError> {
    let directory = snapshot.join(DIRECTORY);
    std::fs::remove_dir(&directory).at("remove", &directory)?;
    let path = snapshot.join(IMAGE);
    OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .at("create", &path)
}

fn mount_image(path: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let image = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .at("open", path)?;
    mount_erofs(&image).map_err(|source| SnapshotError::MountImage {
        path: path.to_owned(),
        source,
    })
}

fn mount_erofs(image: &File) -> io::Result<OwnedFd> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    // By descriptor: the kernel takes no longer name than 255 bytes.
    let source = format!("/proc/self/fd/{}", image.as_raw_fd());
    fsconfig_set_string(context, "source", source)?;
    fsconfig_create(context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
