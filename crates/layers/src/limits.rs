//! Limits on what strangers send, each with its reason.

use crate::EntryPath;

/// The longest path inside a layer: the kernel's `PATH_MAX` less its terminator, beyond
/// which no program could open it.
pub const PATH_BYTES_MAX: usize = 4095;

/// The most components of a path: deeper trees exhaust stacks elsewhere, and no known
/// image has more than a few dozen.
pub const PATH_COMPONENTS_MAX: usize = 1024;

/// The longest name of one component: the kernel's `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;

/// The most extended attributes of one entry; the kernel's list of names is 64 KiB.
pub const XATTRS_MAX: usize = 1024;

/// The longest value of an extended attribute: the kernel's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_BYTES_MAX: usize = 1 << 16;

/// The most entries of one layer; the largest known images have about a million.
pub const ENTRIES_MAX: usize = 1 << 22;

/// The longest extended header or long name of a tar archive: what Go's reader takes.
pub const PAX_BYTES_MAX: usize = 1 << 20;

/// The most symbolic links followed on the way to one path.
pub const SYMLINKS_FOLLOWED_MAX: usize = 255;

/// Whether a path keeps to the limits on paths.
pub(crate) fn path_within_limits(path: &EntryPath) -> bool {
    path.as_bytes().len() <= PATH_BYTES_MAX
        && path.components().count() <= PATH_COMPONENTS_MAX
        && path.components().all(|name| name.len() <= NAME_BYTES_MAX)
}
