//! The stage's program, out of reach of what it runs.
//!
//! A process in a sandbox can open its own program file through `/proc/self/exe`; for a moment that
//! is the stage's, on the host (CVE-2019-5736). So the stage is executed from a read-only mount of
//! that one file, mounted nowhere, or, where that cannot be had, from a sealed copy in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mountfd::{clone_tree, restrict};

/// A program that can be executed but not written.
#[derive(Debug)]
pub(crate) struct Executable(OwnedFd);

impl Executable {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        readonly_mount(path)
            .or_else(|_| readonly_mount(&current_path(path)?))
            .or_else(|_| sealed_copy(path))
            .map(Self)
    }

    /// Where this process can execute it. The descriptor is closed by executing.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// `/proc/self/exe` leads to the mount that the program was started from, which is not one of this
/// mount namespace if the process has moved into another since. The path is the same file here.
fn current_path(path: &Path) -> io::Result<PathBuf> {
    let target = std::fs::read_link(path)?;
    let (before, now) = (std::fs::metadata(path)?, std::fs::metadata(&target)?);
    if (before.dev(), before.ino()) == (now.dev(), now.ino()) {
        return Ok(target);
    }
    Err(Errno::STALE.into())
}

fn readonly_mount(path: &Path) -> io::Result<OwnedFd> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mount = clone_tree(file.as_fd(), false)?;
    restrict(mount.as_fd(), false, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(mount)
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 there is no flag that asks for what was the default then.
    let copy = match memfd_create("longshore", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("longshore", flags)?,
        other => other?,
    };
    let mut copy = File::from(copy);
    io::copy(&mut File::open(path)?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    // What is open for writing anywhere cannot be executed.
    Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_run_and_neither_can_be_written() {
        let program = Path::new("/bin/true");
        let copies = [readonly_mount(program).ok(), sealed_copy(program).ok()];
        assert!(copies[1].is_some(), "a copy is always possible");
        for executable in copies.into_iter().flatten().map(Executable) {
            let status = std::process::Command::new(executable.path())
                .status()
                .unwrap();
            assert!(status.success());
            let written = File::options()
                .write(true)
                .open(executable.path())
                .and_then(|mut file| io::Write::write_all(&mut file, b"#"));
            assert!(written.is_err());
        }
    }
}
