//! Where the lock file of a Dockerfile is: beside it, with `.lock` behind its name.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{LockError, Pins, text};
use crate::EngineError;
use crate::files::read_regular;

/// The largest lock file that is read, bytes: more than any Dockerfile can need.
pub(crate) const LOCK_BYTES_MAX: u64 = 16 << 20;

/// The lock file of a Dockerfile.
#[derive(Debug)]
pub(crate) enum LockPlace {
    /// A file of this machine, there or not.
    File(PathBuf),
    /// In a context that cannot be written to: its name, and what is in it.
    InContext(String, Option<Vec<u8>>),
    /// Nowhere: what the Dockerfile is, and why.
    Nowhere(String, &'static str),
}

/// The path of a Dockerfile's lock file.
pub(crate) fn beside(dockerfile: &Path) -> PathBuf {
    let mut name = dockerfile.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

impl LockPlace {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::InContext(name, _) | Self::Nowhere(name, _) => name.clone(),
        }
    }

    /// What is in it; nothing where there is no such file.
    pub(crate) fn read(&self) -> Result<Option<Pins>, EngineError> {
        let bytes = match self {
            Self::File(path) => match read_regular(path, LOCK_BYTES_MAX) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                read => Some(read.map_err(EngineError::io("read", path))?),
            },
            Self::InContext(_, bytes) => bytes.clone(),
            Self::Nowhere(what, why) => return Err(no_place(what, why)),
        };
        let read = bytes.map(|bytes| text::read(&self.name(), &bytes));
        read.transpose().map_err(EngineError::from)
    }

    /// The file to write to.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn path(&self) -> Result<&Path, EngineError> {
        match self {
            Self::File(path) => Ok(path),
            Self::InContext(name, _) => Err(no_place(
                name,
                "the context is not a directory of this machine",
            )),
            Self::Nowhere(what, why) => Err(no_place(what, why)),
        }
    }

    /// Writes the file: the old one or the new one is there at any moment. A link in its place
    /// is replaced, not followed: the context may be a stranger's. What would be the same is not
    /// written.
    pub(crate) fn write(&self, pins: &Pins) -> Result<(), EngineError> {
        let path = self.path()?;
        let dockerfile = path.with_extension("");
        let dockerfile = dockerfile.file_name().unwrap_or_default().to_string_lossy();
        let text = text::write(pins, &dockerfile)
            .map_err(|error| EngineError::Invalid(format!("`{}`: {error}", path.display())))?;
        let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        if !is_link && read_regular(path, LOCK_BYTES_MAX).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        replace(path, text.as_bytes()).map_err(EngineError::io("write", path))
    }
}

fn no_place(what: &str, why: &'static str) -> EngineError {
    let what = format!("`{what}`");
    LockError::NoPlace { what, why }.into()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or_else(|| Path::new(".")))?;
    file.write_all(bytes)?;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn the_lock_is_beside_the_dockerfile_whatever_that_is_called() {
        for (dockerfile, lock) in [
            ("Dockerfile", "Dockerfile.lock"),
            ("d/app.Dockerfile", "d/app.Dockerfile.lock"),
            ("d.x/app", "d.x/app.lock"),
        ] {
            assert_eq!(beside(Path::new(dockerfile)), Path::new(lock));
        }
    }

    #[test]
    fn a_lock_is_replaced_as_a_whole_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, outside) = (
            folder.path().join("Dockerfile.lock"),
            folder.path().join("passwd"),
        );
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, &path).unwrap();
        let place = LockPlace::File(path.clone());
        place.write(&Pins::default()).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        assert_eq!(place.read().unwrap(), Some(Pins::default()));
        let meta = path.symlink_metadata().unwrap();
        assert!(meta.is_file() && meta.mode() & 0o777 == 0o644);

        // The same again writes nothing.
        let inode = meta.ino();
        place.write(&Pins::default()).unwrap();
        assert_eq!(path.metadata().unwrap().ino(), inode);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn what_is_in_the_way_or_nowhere_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Dockerfile.lock");
        fs::create_dir(&path).unwrap();
        let place = LockPlace::File(path);
        for error in [
            place.read().unwrap_err(),
            place.write(&Pins::default()).unwrap_err(),
        ] {
            assert!(error.to_string().contains("Dockerfile.lock"), "{error}");
        }
        let context = LockPlace::InContext("Dockerfile.lock".to_owned(), None);
        assert_eq!(context.read().unwrap(), None);
        let error = context.write(&Pins::default()).unwrap_err().to_string();
        assert!(error.contains("not a directory of this machine"), "{error}");
    }
}
