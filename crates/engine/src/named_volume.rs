//! Named volumes: directories below the state root that outlive the containers which mount them.
//!
//! ```text
//! volumes/NAME/_data      what a container sees
//! volumes/.new-XXXXXX     one that is being filled
//! ```
//! A new volume gets what the image has in its place, in a directory of its own that is then renamed:
//! a volume that can be seen is whole, and of two containers that make one, one wins.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::EngineError;
use crate::volume::copy_tree;

const FOLDER: &str = "volumes";
const DATA: &str = "_data";
const NAME_BYTES_MAX: usize = 128;

/// The name of a volume: letters, digits, `_`, `.` and `-`, the first of them a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName(String);

/// What is no name of a volume.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no name of a volume (letters, digits, `_`, `.` and `-`, the first a letter or digit); \
     a path begins with / or ."
)]
pub struct NoVolumeName(String);

impl FromStr for VolumeName {
    type Err = NoVolumeName;

    fn from_str(text: &str) -> Result<Self, NoVolumeName> {
        let is_inner = |it: char| it.is_ascii_alphanumeric() || "_.-".contains(it);
        let begins = text.starts_with(|it: char| it.is_ascii_alphanumeric());
        match begins && text.len() <= NAME_BYTES_MAX && text.chars().all(is_inner) {
            true => Ok(Self(text.to_owned())),
            false => Err(NoVolumeName(text.to_owned())),
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of a volume, made and filled with what `rootfs` has at `target` if it is new.
pub(crate) fn directory(
    state_root: &Path,
    name: &VolumeName,
    rootfs: &OwnedFd,
    target: &str,
) -> Result<PathBuf, EngineError> {
    let folder = state_root.join(FOLDER);
    let place = folder.join(&name.0);
    let data = place.join(DATA);
    if data.is_dir() {
        return Ok(data);
    }
    let make = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        let new = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&folder)?;
        fill(&new.path().join(DATA), rootfs, target)?;
        match fs::rename(new.path(), &place) {
            // Somebody else was faster.
            Err(_) if data.is_dir() => Ok(()),
            other => other,
        }
    };
    make().map_err(EngineError::io("make the volume", &place))?;
    Ok(data)
}

/// Empty, or as the image has it: names of the image's lead nowhere out of it.
fn fill(data: &Path, rootfs: &OwnedFd, target: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(rootfs.as_fd(), target, flags, Mode::empty(), resolve) {
        Ok(source) => copy_tree(&File::from(source), data),
        Err(Errno::NOENT) => fs::create_dir(data),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn names_are_never_paths() {
        for good in ["a", "data-1", "A.b_c"] {
            assert_eq!(good.parse::<VolumeName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a\0",
            ".new-x",
            "ä",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_new_volume_has_what_the_image_has_and_an_old_one_what_it_had() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        fs::create_dir_all(root.join("srv/data")).unwrap();
        fs::write(root.join("srv/data/file"), "image").unwrap();
        fs::set_permissions(root.join("srv/data"), fs::Permissions::from_mode(0o750)).unwrap();
        // A link of the image's stays in the image.
        symlink("/srv/data", root.join("link")).unwrap();
        let rootfs = OwnedFd::from(File::open(&root).unwrap());
        let name = "v".parse().unwrap();
        let state = temp.path().join("state");
        let data = directory(&state, &name, &rootfs, "/link").unwrap();
        assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "image");
        let mode = fs::metadata(&data).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
        fs::write(data.join("file"), "container").unwrap();
        let again = directory(&state, &name, &rootfs, "/srv/data").unwrap();
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "container");
        let empty = directory(&state, &"w".parse().unwrap(), &rootfs, "/absent").unwrap();
        assert_eq!(fs::read_dir(empty).unwrap().count(), 0);
        let left = fs::read_dir(state.join(FOLDER)).unwrap().count();
        assert_eq!(left, 2, "nothing half made is left");
    }
}
