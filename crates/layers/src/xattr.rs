//! Which extended attributes belong to a layer, and reading them.
//!
//! Kept: `security.capability` and `user.*`. Everything else describes the machine that the
//! layer was made or is used on: `trusted.*` and `user.overlay.*` steer overlay file systems,
//! `user.longshore.*` marks what is deleted in a layer's directory,
//! labels and access lists come from the host's policy. A layer from a stranger that could
//! set `trusted.overlay.redirect` would choose what a directory shows.

use rustix::io::Errno;

/// Whether the attribute is part of a layer.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let is_overlay = |prefix: &[u8]| name.starts_with(prefix);
    name == b"security.capability"
        || (name.starts_with(b"user.")
            && !is_overlay(b"user.overlay.")
            && !is_overlay(b"user.longshore.")
            && !is_overlay(b"user.fuseoverlayfs.")
            && !is_overlay(b"user.containers."))
}

/// Asks for the size, then reads; again when it has grown in between.
pub(crate) fn sized(
    size: impl Fn() -> Result<usize, Errno>,
    read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    loop {
        let size = size()?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Err(Errno::RANGE) => {}
            read => {
                buffer.truncate(read?);
                return Ok(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_s_own_attributes_are_kept() {
        for name in ["security.capability", "user.a", "user.overlayx"] {
            assert!(is_kept(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.opaque",
            "trusted.x",
            "user.overlay.redirect",
            "user.longshore.whiteout",
            "user.fuseoverlayfs.opaque",
            "security.selinux",
            "system.posix_acl_access",
        ] {
            assert!(!is_kept(name.as_bytes()), "{name}");
        }
    }
}
