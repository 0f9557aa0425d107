//! Volumes where nothing can be mounted: the container has a copy, and what it changed in it is
//! brought back when it has ended.
//!
//! What others change in a volume meanwhile the container does not see, and of a file that both
//! change the container's stays. After `kill -9` nothing is brought back.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_layers::{
    DirectoryForm, DirectoryOptions, Listing, NoLowerLayers, changes_since, materialise,
};
use longshore_runner::{BindSource, Mount, MountSource};

use crate::EngineError;
use crate::container::Volume;

/// Longer than a tick of any file system's clock (FAT: 2 s).
const CLOCK_TICK_MAX: Duration = Duration::from_secs(3);

/// A volume's copy. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct CopiedVolume {
    /// A directory with the copy in it.
    holder: tempfile::TempDir,
    volume: Volume,
    before: Before,
}

#[derive(Debug)]
enum Before {
    Directory(Listing),
    File(Vec<u8>),
}

impl CopiedVolume {
    /// Copies a directory or a file, to a directory of `scratch`.
    pub(crate) fn make(volume: Volume, scratch: &Path) -> Result<Self, EngineError> {
        let failed = |error| EngineError::io("copy the volume", &volume.source)(error);
        let holder = tempfile::Builder::new()
            .prefix("volume-")
            .tempdir_in(scratch)
            .map_err(failed)?;
        let copy = holder.path().join("copy");
        let source = volume.source.canonicalize().map_err(failed)?;
        let kind = fs::metadata(&source).map_err(failed)?;
        let before = if kind.is_dir() {
            Before::Directory(copy_directory(&source, &copy).map_err(failed)?)
        } else if kind.is_file() {
            fs::copy(&source, &copy).map_err(failed)?;
            chown(&copy, Some(kind.uid()), Some(kind.gid())).map_err(failed)?;
            Before::File(fs::read(&copy).map_err(failed)?)
        } else {
            return Err(EngineError::Invalid(format!(
                "volume `{}`: only directories and files can be shown without mounts",
                source.display()
            )));
        };
        let volume = Volume { source, ..volume };
        Ok(Self {
            holder,
            volume,
            before,
        })
    }

    /// What the runner puts in its place.
    pub(crate) fn mount(&self) -> Mount {
        Mount {
            target: self.volume.target.clone(),
            source: MountSource::Bind {
                source: BindSource::Loan(self.copy()),
                subpath: None,
                readonly: self.volume.readonly,
                recursive: false,
            },
        }
    }

    fn copy(&self) -> PathBuf {
        self.holder.path().join("copy")
    }

    /// Brings back what has changed. The container is gone.
    pub(crate) fn bring_back(self) -> Result<(), EngineError> {
        if self.volume.readonly {
            return Ok(());
        }
        let brought = match &self.before {
            Before::Directory(before) => self.bring_back_directory(before),
            Before::File(before) => self.bring_back_file(before),
        };
        brought.map_err(EngineError::io(
            "bring back the changes of the volume",
            &self.volume.source,
        ))
    }

    fn bring_back_directory(&self, before: &Listing) -> io::Result<()> {
        let copy = self.copy();
        // The container may have deleted it.
        if !copy.is_dir() {
            return Ok(());
        }
        let (changes, _) = changes_since(open(&copy)?, before).map_err(io::Error::other)?;
        let options = DirectoryOptions::new(DirectoryForm::Merged);
        let source = open(&self.volume.source)?;
        materialise(&changes, source, &options, &NoLowerLayers).map_err(io::Error::other)?;
        Ok(())
    }

    /// Into the file that is there: it may have other names.
    fn bring_back_file(&self, before: &[u8]) -> io::Result<()> {
        let copy = self.copy();
        if !copy.is_file() {
            return Ok(());
        }
        let now = fs::read(&copy)?;
        if now != before {
            fs::write(&self.volume.source, now)?;
        }
        Ok(())
    }
}

fn copy_directory(source: &Path, copy: &Path) -> io::Result<Listing> {
    copy_tree(&File::open(source)?, copy)?;
    let before = Listing::of(open(copy)?).map_err(io::Error::other)?;
    wait_until_after(&before, &copy.with_extension("clock"))?;
    Ok(before)
}

/// Makes a directory that is as another one is, with all in it.
pub(crate) fn copy_tree(source: &File, copy: &Path) -> io::Result<()> {
    fs::create_dir(copy)?;
    let (all, _) = changes_since(source, &Listing::default()).map_err(io::Error::other)?;
    let options = DirectoryOptions::new(DirectoryForm::Merged);
    materialise(&all, open(copy)?, &options, &NoLowerLayers).map_err(io::Error::other)?;
    let root = source.metadata()?;
    chown(copy, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(copy, root.permissions())
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(directory)?.into())
}

/// Waits until whatever changes from now on carries a later time.
fn wait_until_after(before: &Listing, probe: &Path) -> io::Result<()> {
    let Some(newest) = before.newest_change() else {
        return Ok(());
    };
    let deadline = Instant::now() + CLOCK_TICK_MAX;
    while Instant::now() < deadline {
        fs::write(probe, "")?;
        let now = fs::metadata(probe)?;
        if (now.ctime(), now.ctime_nsec()) > (newest.seconds, i64::from(newest.nanoseconds)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Fixture {
        temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            for folder in ["volume/dir", "scratch"] {
                fs::create_dir_all(temp.path().join(folder)).unwrap();
            }
            for file in ["volume/kept", "volume/dir/gone", "volume/edited"] {
                fs::write(temp.path().join(file), "before").unwrap();
            }
            Self { temp }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.temp.path().join(name)
        }

        fn copied(&self, source: &str, readonly: bool) -> CopiedVolume {
            let volume = Volume {
                source: self.path(source),
                target: "/v".to_owned(),
                readonly,
            };
            CopiedVolume::make(volume, &self.path("scratch")).unwrap()
        }
    }

    #[test]
    fn what_the_container_changed_is_brought_back_and_nothing_else() {
        let it = Fixture::new();
        let copied = it.copied("volume", false);
        let copy = copied.copy();
        fs::remove_file(copy.join("dir/gone")).unwrap();
        fs::write(copy.join("edited"), "inside").unwrap();
        fs::write(copy.join("dir/new"), "new").unwrap();
        fs::set_permissions(copy.join("dir/new"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("new", copy.join("dir/link")).unwrap();
        // Meanwhile, outside.
        fs::write(it.path("volume/kept"), "outside").unwrap();
        copied.bring_back().unwrap();
        let read = |name: &str| fs::read_to_string(it.path(name)).unwrap();
        assert_eq!(read("volume/edited"), "inside");
        assert_eq!(read("volume/dir/link"), "new");
        assert_eq!(read("volume/kept"), "outside");
        assert!(!it.path("volume/dir/gone").exists());
        let mode = fs::metadata(it.path("volume/dir/new")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o640);
        let left = fs::read_dir(it.path("scratch")).unwrap().count();
        assert_eq!(left, 0, "the copy is gone");
    }

    #[test]
    fn a_read_only_volume_stays_as_it_is() {
        let it = Fixture::new();
        let copied = it.copied("volume", true);
        fs::write(copied.copy().join("edited"), "inside").unwrap();
        copied.bring_back().unwrap();
        let text = fs::read_to_string(it.path("volume/edited")).unwrap();
        assert_eq!(text, "before");
    }

    #[test]
    fn a_file_is_written_to_and_not_replaced() {
        let it = Fixture::new();
        fs::hard_link(it.path("volume/edited"), it.path("other-name")).unwrap();
        let copied = it.copied("volume/edited", false);
        fs::write(copied.copy(), "inside").unwrap();
        copied.bring_back().unwrap();
        let text = fs::read_to_string(it.path("other-name")).unwrap();
        assert_eq!(text, "inside");
    }
}
