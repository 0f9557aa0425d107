//! Files that a person named, and what files take.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The content of a regular file of at most `limit_bytes`; a pipe or a device is refused
/// rather than waited for.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub(crate) fn read_regular(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    read_at_most(File::open(path)?, limit_bytes)
}

/// As [`read_regular`], below a directory that is taken for the root: no link leads out of it.
///
/// # Errors
/// As [`read_regular`].
pub(crate) fn read_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    limit_bytes: u64,
) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?);
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    read_at_most(file, limit_bytes)
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

fn read_at_most(file: File, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

/// What a tree takes on disk: blocks, of a file with several names once. What disappears
/// meanwhile does not count.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn disk_bytes(tree: &Path) -> io::Result<u64> {
    let mut links = HashSet::new();
    let mut open: Vec<PathBuf> = vec![tree.to_owned()];
    let mut bytes = block_bytes(&std::fs::symlink_metadata(tree)?);
    while let Some(directory) = open.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.nlink() > 1 && !links.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            bytes += block_bytes(&metadata);
        }
    }
    Ok(bytes)
}

fn block_bytes(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Whether this process may give files away.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
