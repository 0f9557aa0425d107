//! Mounts as descriptors: made detached, changed, and put in place by descriptor.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

pub(crate) const NOSUID_NODEV_NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A new file system that is mounted nowhere yet. Options without a value are flags.
pub(crate) fn new_file_system(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", kind)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(context, *key)?,
            value => fsconfig_set_string(context, *key, value)?,
        }
    }
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached clone of what is mounted at `tree`, and with `recursive` of everything below it.
pub(crate) fn clone_tree(tree: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let clone = open_tree(tree, "", flags)?;
    // Else what is mounted on the clone would show up at the original, if that is shared.
    sys::mount_setattr(
        clone.as_fd(),
        recursive,
        MountAttrFlags::empty(),
        MountAttrFlags::empty(),
    )?;
    Ok(clone)
}

/// Puts a detached mount on `target`.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Adds attributes to a mount (and, with `recursive`, to those below it).
pub(crate) fn restrict(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttrFlags,
) -> io::Result<()> {
    sys::mount_setattr(mount, recursive, attributes, MountAttrFlags::empty())
}
