//! Layers as EROFS images: what the kernel and `fsck.erofs` make of them is what the directory
//! form holds.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    any_layer, directory, entry, file, hardlink, is_root, listing, open, options, path, plain,
    symlink, whiteout, written,
};
use longshore_layers::{
    Change, ContentHash, DirectoryForm, EntryPath, Kind, LowerLayers, Metadata, NoLowerLayers,
    OverlayAttributes, TarLimits, Timestamp, UnpackError, image_of_changes, index_of_tar, unpack,
    unpack_image,
};
use proptest::prelude::*;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

const OVERLAY: OverlayAttributes = OverlayAttributes::Trusted;

/// An image in a temporary folder.
struct Image {
    _folder: tempfile::TempDir,
    at: PathBuf,
}

impl Image {
    fn new(write: impl FnOnce(&File)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("image");
        let image = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&at)
            .unwrap();
        write(&image);
        Self {
            _folder: folder,
            at,
        }
    }

    fn of_tar(tar: &[u8]) -> Self {
        Self::new(|image| {
            unpack_image(tar, image, OVERLAY, TarLimits::LAYER, &NoLowerLayers).unwrap();
        })
    }

    fn of_changes(changes: &[Change]) -> Self {
        Self::new(|image| image_of_changes(changes, image, OVERLAY, &NoLowerLayers).unwrap())
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.at).unwrap()
    }

    /// The image's tree as the kernel shows it; `None` when it cannot.
    fn mount(&self) -> Option<Mounted> {
        match mount(&self.at) {
            Ok(mounted) => Some(Mounted(mounted)),
            Err(error) if error.raw_os_error() == Some(117) => panic!("refused as corrupted"),
            Err(error) => {
                eprintln!("skipped: cannot mount EROFS images that are files: {error}");
                None
            }
        }
    }

    fn check(&self) {
        let Ok(done) = Command::new("fsck.erofs")
            .arg("--extract")
            .arg(&self.at)
            .output()
        else {
            eprintln!("skipped: no fsck.erofs here");
            return;
        };
        assert!(done.status.success(), "{done:?}");
    }
}

struct Mounted(OwnedFd);

impl Mounted {
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.0.as_raw_fd()))
    }
}

fn mount(image: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", image)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        flags,
        MountAttrFlags::empty(),
    )?)
}

/// What the overlay form of a tar stream holds on disk.
fn unpacked(tar: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let options = options(DirectoryForm::Overlay(OVERLAY));
    let to = open(folder.path());
    unpack(tar, to, &options, TarLimits::LAYER, &NoLowerLayers).unwrap();
    without_whiteout_times(listing(folder.path()))
}

/// The directory form gives whiteouts the time at which they were made.
fn without_whiteout_times(lines: Vec<String>) -> Vec<String> {
    let cut = |line: String| match line.contains(" char 0 0 ") {
        true => line.rsplit_once(' ').unwrap().0.to_owned(),
        false => line,
    };
    lines.into_iter().map(cut).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn privileged_the_kernel_shows_of_an_image_what_the_directory_form_holds(changes in any_layer()) {
        if !is_root() {
            eprintln!("skipped: needs root");
            return Ok(());
        }
        let (_, tar) = written(&changes);
        let expected = unpacked(&tar);
        let images = [Image::of_tar(&tar), Image::of_changes(&changes)];
        for image in &images {
            image.check();
            let Some(mounted) = image.mount() else { return Ok(()) };
            prop_assert_eq!(&without_whiteout_times(listing(&mounted.root())), &expected);
        }
        prop_assert_eq!(Image::of_tar(&tar).bytes(), images[0].bytes());
    }
}
