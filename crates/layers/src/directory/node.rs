//! Creating one file of any kind and giving it its metadata.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::fs::{XattrFlags, makedev};
use rustix::io::Errno;

use super::{Created, DirectoryError, Ownership, failed};
use crate::source::OpenContent;
use crate::{ContentHash, Entry, EntryPath, FileContent, Kind, Metadata, Timestamp, xattr};

/// The bytes of a file that is created.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Empty,
    Memory(Vec<u8>),
    /// Copied by the kernel where it can.
    Named(FileContent),
}

/// Creates one file.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) parent: Arc<OwnedFd>,
    pub(super) path: EntryPath,
    pub(super) metadata: Metadata,
    pub(super) ownership: Ownership,
    pub(super) bytes: FileBytes,
}

impl FileJob {
    pub(super) fn run(self) -> Created {
        let file = create_file(self.parent.as_fd(), &self.path)?;
        let hash = self.write(&file)?;
        apply_metadata(file.as_fd(), &self.path, &self.metadata, self.ownership)?;
        Ok((self.path, hash))
    }

    fn write(&self, mut file: &File) -> Result<Option<ContentHash>, DirectoryError> {
        match &self.bytes {
            FileBytes::Empty => Ok(Some(ContentHash::of_empty())),
            FileBytes::Memory(bytes) => {
                file.write_all(bytes).map_err(failed("write", &self.path))?;
                Ok(Some(ContentHash::of(bytes)))
            }
            FileBytes::Named(content) => {
                let content = OpenContent::open(&self.path, content)?;
                copy_content(&content, file, &self.path)?;
                Ok(None)
            }
        }
    }
}

/// Creates a regular file that did not exist, for nobody else yet.
pub(super) fn create_file(
    parent: BorrowedFd<'_>,
    path: &EntryPath,
) -> Result<File, DirectoryError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(parent, path.name(), flags, mode)
        .map_err(failed("create the file", path))?;
    Ok(File::from(file))
}

fn copy_content(
    content: &OpenContent,
    mut to: &File,
    path: &EntryPath,
) -> Result<(), DirectoryError> {
    let size = content.size();
    match content.file() {
        Some((from, offset)) => copy_bytes(from, offset, to, size, path)?,
        None => {
            let mut bytes = Vec::new();
            content.read_into(&mut bytes)?;
            to.write_all(&bytes).map_err(failed("write", path))?;
        }
    }
    let length = to.metadata().map_err(failed("inspect", path))?.len();
    if length != size {
        return Err(content.changed().into());
    }
    Ok(content.check_stamp()?)
}

/// Copies without passing the bytes through memory where the file system can, sharing them
/// where it can even do that.
fn copy_bytes(
    from: &File,
    offset: u64,
    to: &File,
    size: u64,
    path: &EntryPath,
) -> Result<(), DirectoryError> {
    let is_whole = offset == 0 && from.metadata().is_ok_and(|stat| stat.len() == size);
    if is_whole && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let (mut at, mut copied) = (offset, 0);
    while copied < size {
        let left = usize::try_from(size - copied).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut copied), left) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) if copied == 0 => return copy_through_memory(from, offset, to, size, path),
            Err(errno) => return Err(failed("copy", path)(errno)),
        }
    }
    Ok(())
}

fn copy_through_memory(
    mut from: &File,
    offset: u64,
    mut to: &File,
    size: u64,
    path: &EntryPath,
) -> Result<(), DirectoryError> {
    if offset == 0 {
        from.seek(SeekFrom::Start(0))
            .map_err(failed("read", path))?;
        io::copy(&mut from.take(size), &mut to).map_err(failed("copy", path))?;
        return Ok(());
    }
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; 1 << 17];
    let mut done = 0;
    while done < size {
        let length = buffer
            .len()
            .min(usize::try_from(size - done).unwrap_or(usize::MAX));
        let count = from.read_at(&mut buffer[..length], offset + done);
        match count.map_err(failed("read", path))? {
            0 => break,
            count => {
                to.write_all(&buffer[..count])
                    .map_err(failed("write", path))?;
                done += count as u64;
            }
        }
    }
    Ok(())
}

/// Copies a file of a lower layer, for a hard link to it.
pub(super) fn copy_file(
    parent: BorrowedFd<'_>,
    path: &EntryPath,
    from: OwnedFd,
    metadata: &Metadata,
    ownership: Ownership,
) -> Result<(), DirectoryError> {
    let from = File::from(from);
    let size = from.metadata().map_err(failed("inspect", path))?.len();
    let to = create_file(parent, path)?;
    copy_bytes(&from, 0, &to, size, path)?;
    apply_metadata(to.as_fd(), path, metadata, ownership)
}

/// Creates a symbolic link, a device or a pipe.
pub(super) fn create_special(parent: BorrowedFd<'_>, entry: &Entry) -> Result<(), DirectoryError> {
    let path = &entry.path;
    let node = |kind, major, minor| {
        let device = makedev(major, minor);
        rustix::fs::mknodat(parent, path.name(), kind, Mode::RUSR, device)
    };
    match &entry.kind {
        Kind::Symlink { target } => rustix::fs::symlinkat(&target[..], parent, path.name()),
        Kind::CharDevice { major, minor } => node(FileType::CharacterDevice, *major, *minor),
        Kind::BlockDevice { major, minor } => node(FileType::BlockDevice, *major, *minor),
        Kind::Fifo => node(FileType::Fifo, 0, 0),
        Kind::File { .. } | Kind::Directory { .. } | Kind::Hardlink { .. } | Kind::Whiteout => {
            Ok(())
        }
    }
    .map_err(failed("create", path))
}

/// Owner, mode and time of something that cannot be opened without an effect.
pub(super) fn set_link_metadata(
    parent: BorrowedFd<'_>,
    entry: &Entry,
    ownership: Ownership,
) -> Result<(), DirectoryError> {
    let (path, metadata) = (&entry.path, &entry.metadata);
    let name = path.name();
    if ownership == Ownership::Restore {
        let (owner, group) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(owner), Some(group), nofollow)
            .map_err(failed("change the owner of", path))?;
    }
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        set_mode(parent, path, metadata.mode).map_err(failed("change the mode of", path))?;
    }
    let times = times(metadata.mtime);
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the time of", path))
}

/// Sets the mode of a device or a pipe, which must not be opened. By name, the call would
/// follow a link that somebody put there meanwhile; this way it changes what was found.
fn set_mode(parent: BorrowedFd<'_>, path: &EntryPath, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, path.name(), flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    let at = format!("/proc/self/fd/{}", node.as_raw_fd());
    Ok(rustix::fs::chmod(at, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Owner, then mode (a change of owner clears set-id bits), then attributes (it clears
/// capabilities too), then time.
pub(super) fn apply_metadata(
    file: BorrowedFd<'_>,
    path: &EntryPath,
    metadata: &Metadata,
    ownership: Ownership,
) -> Result<(), DirectoryError> {
    if ownership == Ownership::Restore {
        let (owner, group) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        rustix::fs::fchown(file, Some(owner), Some(group))
            .map_err(failed("change the owner of", path))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode & 0o7777))
        .map_err(failed("change the mode of", path))?;
    for (name, value) in &metadata.xattrs {
        set_attribute(file, path, (name, value), ownership)?;
    }
    rustix::fs::futimens(file, &times(metadata.mtime)).map_err(failed("set the time of", path))
}

fn set_attribute(
    file: BorrowedFd<'_>,
    path: &EntryPath,
    (name, value): (&[u8], &[u8]),
    ownership: Ownership,
) -> Result<(), DirectoryError> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        // As containerd does: a file system without attributes still serves.
        Err(Errno::OPNOTSUPP) => {
            left_out(path, name);
            Ok(())
        }
        Err(Errno::PERM) if ownership == Ownership::Ignore => {
            left_out(path, name);
            Ok(())
        }
        Err(errno) => Err(failed("set an extended attribute of", path)(errno)),
    }
}

/// Removes the attributes that belong to a layer and that `metadata` does not have.
pub(super) fn remove_other_attributes(
    file: BorrowedFd<'_>,
    path: &EntryPath,
    metadata: &Metadata,
) -> Result<(), DirectoryError> {
    let names = xattr::sized(
        || rustix::fs::flistxattr_query(file),
        |buffer| rustix::fs::flistxattr(file, buffer),
    );
    let names = match names {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(failed("list the extended attributes of", path)(errno)),
    };
    let names = names.split(|byte| *byte == 0);
    for name in names.filter(|name| xattr::is_kept(name)) {
        if metadata.xattrs.contains_key(name) {
            continue;
        }
        rustix::fs::fremovexattr(file, name)
            .map_err(failed("remove an extended attribute of", path))?;
    }
    Ok(())
}

fn left_out(path: &EntryPath, name: &[u8]) {
    let name = String::from_utf8_lossy(name);
    tracing::warn!(path = %path, %name, "extended attribute left out");
}

/// A modification time, the access time left alone.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    }
}
