//! The one system call here that has no safe wrapper.
#![expect(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix because of CLONE_FILES"
)]

use rustix::io;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and it alone, a mount namespace and a working directory of its own.
///
/// JUSTIFICATION: rustix has no safe form of `unshare`, whatever the flags.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the danger of `unshare` is `CLONE_FILES`, which is not asked for: descriptors stay
    // shared by all threads. A mount namespace changes only what paths mean to this thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
}
