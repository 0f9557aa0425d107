//! Everything in an upper directory, read on all cores, a level of directories at a time.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::DiffError;
use crate::change::mtime_of;
use crate::directory::OverlayAttributes;
use crate::fs_at::open_directory;
use crate::limits::path_within_limits;
use crate::{EntryPath, FileStamp, Kind, Metadata, xattr};

/// How many names one thread inspects before another may take the next ones.
const NAMES_PER_JOB: usize = 256;

/// What stands in the upper directory.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: FoundKind,
    pub(super) metadata: Metadata,
    pub(super) stamp: FileStamp,
    has_names: bool,
}

#[derive(Debug)]
pub(super) enum FoundKind {
    File,
    Directory {
        /// Whether it hides the lower one.
        opaque: bool,
    },
    /// A link, a device or a pipe.
    Other(Kind),
    /// A whiteout or a socket.
    Nothing,
}

impl Found {
    /// What identifies a regular file that has several names.
    pub(super) fn shared_inode(&self) -> Option<(u64, u64)> {
        let is_shared = self.has_names && matches!(self.kind, FoundKind::File);
        is_shared.then_some((self.stamp.device, self.stamp.inode))
    }
}

/// All entries below `upper`, by path.
pub(super) fn scan(
    upper: &OwnedFd,
    attributes: OverlayAttributes,
) -> Result<BTreeMap<EntryPath, Found>, DiffError> {
    let mut all = BTreeMap::new();
    let mut level = vec![EntryPath::root()];
    while !level.is_empty() {
        let listed: Result<Vec<Vec<(EntryPath, Found)>>, DiffError> = level
            .par_iter()
            .map(|path| scan_directory(upper, path, attributes))
            .collect();
        level.clear();
        for (path, found) in listed?.into_iter().flatten() {
            if matches!(found.kind, FoundKind::Directory { .. }) {
                level.push(path.clone());
            }
            all.insert(path, found);
        }
    }
    Ok(all)
}

pub(super) fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: &EntryPath,
) -> impl FnOnce(E) -> DiffError {
    let path = path.clone();
    move |source| DiffError::Io {
        doing,
        path,
        source: source.into(),
    }
}

fn scan_directory(
    upper: &OwnedFd,
    path: &EntryPath,
    attributes: OverlayAttributes,
) -> Result<Vec<(EntryPath, Found)>, DiffError> {
    let (directory, names) = names_in(upper, path)?;
    names
        .par_chunks(NAMES_PER_JOB)
        .flat_map_iter(|names| names.iter())
        .map(|name| {
            let path = path_of(path, name)?;
            let found = inspect(&directory, name, &path, Some(attributes))?;
            Ok((path, found))
        })
        .collect()
}

/// The directory at `path`, open, and the names in it.
pub(super) fn names_in(
    root: &OwnedFd,
    path: &EntryPath,
) -> Result<(OwnedFd, Vec<CString>), DiffError> {
    let directory = open_directory(root, path).map_err(failed("open the directory", path))?;
    let mut names = Vec::new();
    let list = Dir::read_from(&directory).map_err(failed("list", path))?;
    for entry in list {
        let entry = entry.map_err(failed("list", path))?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok((directory, names))
}

/// The path of a name in a directory. A path that no layer can hold is refused here, not when the
/// layer is written: whoever makes directories in directories would choose how much memory the
/// paths of all of them take.
pub(super) fn path_of(directory: &EntryPath, name: &CString) -> Result<EntryPath, DiffError> {
    let joined = directory.join(name.as_bytes()).map_err(io::Error::other);
    let path = joined.map_err(failed("list", directory))?;
    if !path_within_limits(&path) {
        return Err(DiffError::PathLimit(directory.clone()));
    }
    Ok(path)
}

/// Without `attributes`, marks mean nothing.
pub(super) fn inspect(
    directory: &OwnedFd,
    name: &CString,
    path: &EntryPath,
    attributes: Option<OverlayAttributes>,
) -> Result<Found, DiffError> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("inspect", path))?;
    let mut metadata = Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime_of(&stat),
        ..Metadata::default()
    };
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let mut found = Attributes::default();
    if matches!(file_type, FileType::RegularFile | FileType::Directory) {
        found = read_attributes(directory, name, path, attributes)?;
        metadata.xattrs = std::mem::take(&mut found.kept);
    }
    let kind = match found.whiteout && file_type == FileType::RegularFile {
        true => FoundKind::Nothing,
        false => kind_of(directory, name, path, &stat, found.opaque)?,
    };
    Ok(Found {
        kind,
        metadata,
        stamp: FileStamp::of(&stat),
        has_names: stat.st_nlink > 1,
    })
}

fn kind_of(
    directory: &OwnedFd,
    name: &CString,
    path: &EntryPath,
    stat: &Stat,
    opaque: bool,
) -> Result<FoundKind, DiffError> {
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FoundKind::File,
        FileType::Directory => FoundKind::Directory { opaque },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory.as_fd(), name, Vec::new())
                .map_err(failed("read the link", path))?;
            FoundKind::Other(Kind::Symlink {
                target: target.into_bytes(),
            })
        }
        FileType::CharacterDevice if (major, minor) == (0, 0) => FoundKind::Nothing,
        FileType::CharacterDevice => FoundKind::Other(Kind::CharDevice { major, minor }),
        FileType::BlockDevice => FoundKind::Other(Kind::BlockDevice { major, minor }),
        FileType::Fifo => FoundKind::Other(Kind::Fifo),
        FileType::Socket | FileType::Unknown => {
            tracing::warn!(path = %path, "a socket cannot be part of a layer");
            FoundKind::Nothing
        }
    })
}

#[derive(Default)]
struct Attributes {
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque: bool,
    whiteout: bool,
}

/// Reads through `/proc` instead of opening the file, which may lack permission.
fn read_attributes(
    directory: &OwnedFd,
    name: &CString,
    path: &EntryPath,
    marks: Option<OverlayAttributes>,
) -> Result<Attributes, DiffError> {
    let mut at = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    at.extend_from_slice(name.as_bytes());
    let names = match list_attributes(&at) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(Attributes::default()),
        Err(errno) => return Err(failed("list the extended attributes of", path)(errno)),
    };
    let mut found = Attributes::default();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let is = |attribute: &str| attribute.as_bytes() == name;
        if marks.is_some_and(|marks| is(marks.redirect()) || is(marks.metacopy())) {
            return Err(DiffError::Attribute {
                path: path.clone(),
                attribute: String::from_utf8_lossy(name).into_owned(),
            });
        }
        let is_opaque = marks.is_some_and(|marks| is(marks.opaque()));
        let is_whiteout = marks.and_then(OverlayAttributes::whiteout).is_some_and(is);
        if !is_opaque && !is_whiteout && !xattr::is_kept(name) {
            continue;
        }
        let value = attribute(&at, name).map_err(failed("read an extended attribute of", path))?;
        match (is_opaque, is_whiteout) {
            (true, _) => found.opaque = value == b"y",
            (_, true) => found.whiteout = value == b"y",
            _ => {
                found.kept.insert(name.to_vec(), value);
            }
        }
    }
    Ok(found)
}

fn list_attributes(at: &[u8]) -> Result<Vec<u8>, Errno> {
    xattr::sized(
        || rustix::fs::llistxattr_query(at),
        |buffer| rustix::fs::llistxattr(at, buffer),
    )
}

fn attribute(at: &[u8], name: &[u8]) -> Result<Vec<u8>, Errno> {
    xattr::sized(
        || rustix::fs::lgetxattr_query(at, name),
        |buffer| rustix::fs::lgetxattr(at, name, buffer),
    )
}
