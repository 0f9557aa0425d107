//! User namespaces: being root of one's own files without being root of the machine.

use std::fs;
use std::io;

use rustix::process::{getegid, geteuid};

use crate::sys;

/// Whether this process's ids are the machine's.
pub(crate) fn is_initial() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes a user namespace in which this process's own user is root, and there is no other. Only for
/// single-threaded processes.
pub(crate) fn enter_with_own_id() -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(libc::CLONE_NEWUSER)?;
    // Else a group that is denied something could be dropped to get it; the kernel insists.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
