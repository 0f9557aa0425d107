//! Layers as EROFS images: what the kernel and `fsck.erofs` make of them is what the directory
//! form holds.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
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
                common::skip(format_args!(
                    "cannot mount EROFS images that are files: {error}"
                ));
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
            common::skip("no fsck.erofs here");
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
            common::skip("needs root");
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

/// A layer with everything that an image can hold.
fn everything() -> Vec<Change> {
    let attributes = |change: &mut Change, all: &[(&str, &[u8])]| {
        let all = all
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
        change.entry.metadata.xattrs.extend(all);
    };
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut changes = vec![
        plain("dev/char", Kind::CharDevice { major: 1, minor: 3 }),
        plain(
            "dev/block",
            Kind::BlockDevice {
                major: 259,
                minor: 70_000,
            },
        ),
        plain("dev/pipe", Kind::Fifo),
        file("sizes/empty", b""),
        plain("opaque", Kind::Directory { opaque: true }),
        file("opaque/implied/file", b"x"),
        whiteout("gone"),
        symlink("links/short", "../target"),
        symlink("links/long", &"long/".repeat(700)),
        file("links/a", b"one file"),
        hardlink("links/b", "links/a"),
        hardlink("zz", "links/a"),
        // Names on both sides of `.` and `..`.
        file("names/!", b"1"),
        file("names/-", b"2"),
        file("names/...", b"3"),
        file("names/é", b"4"),
        file(&format!("names/{}", "n".repeat(255)), b"5"),
    ];
    for size in [
        1,
        3071,
        3072,
        3073,
        4095,
        4096,
        4097,
        8192 + 3072,
        300_000,
        2 << 20,
    ] {
        let bytes: Vec<u8> = (0..u32::MAX)
            .flat_map(u32::to_le_bytes)
            .take(size)
            .collect();
        changes.push(file(&format!("sizes/{size}"), &bytes));
    }
    // Equal to another, and to a hole.
    changes.push(file("sizes/again", &vec![0; 1 << 20]));
    changes.push(file("sizes/hole", &vec![0; 1 << 20]));
    for number in 0..700 {
        changes.push(file(
            &format!("many/{number:04}-{}", "x".repeat(30)),
            &[1, 2, 3],
        ));
    }
    let mut owned = file("owned", b"mine");
    (owned.entry.metadata.uid, owned.entry.metadata.gid) = (70_000, 1 << 31);
    owned.entry.metadata.mode = 0o6755;
    owned.entry.metadata.mtime = Timestamp {
        seconds: -86_400,
        nanoseconds: 0,
    };
    changes.push(owned);
    let mut own = file("attributes/own", b"1");
    let large = vec![b'v'; 3000];
    attributes(&mut own, &[("user.large", &large), ("user.x", b"")]);
    let mut shared = file("attributes/shared", b"2");
    attributes(&mut shared, &[("security.capability", capability)]);
    let mut again = file("attributes/again", &[7; 2000]);
    attributes(
        &mut again,
        &[("security.capability", capability), ("user.only", b"1")],
    );
    changes.extend([own, shared, again]);
    changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    changes
}

#[test]
fn privileged_everything_that_a_layer_can_hold_is_in_its_image() {
    if !is_root() {
        common::skip("needs root");
        return;
    }
    let changes = everything();
    let (_, tar) = written(&changes);
    let expected = unpacked(&tar);
    assert!(expected.len() > 700);
    for image in [Image::of_tar(&tar), Image::of_changes(&changes)] {
        image.check();
        let Some(mounted) = image.mount() else { return };
        let shown = without_whiteout_times(listing(&mounted.root()));
        for (shown, expected) in shown.iter().zip(&expected) {
            assert_eq!(shown, expected);
        }
        assert_eq!(shown.len(), expected.len());
        let block = std::fs::metadata(mounted.root().join("dev/block")).unwrap();
        assert_eq!(rustix::fs::major(block.rdev()), 259);
        assert_eq!(rustix::fs::minor(block.rdev()), 70_000);
    }
}

/// The on-disk format and the order in it are part of what stores hold: a change of either needs
/// a reason.
#[test]
fn an_image_has_always_the_same_bytes() {
    let changes = everything();
    let (_, tar) = written(&changes);
    let digest = |image: &Image| ContentHash::of(&image.bytes()).to_string();
    let by_tar = Image::of_tar(&tar);
    assert_eq!(digest(&by_tar), digest(&Image::of_changes(&changes)));
    expect_test::expect!["62b07f62ab1384e983a624070aa7562d04dd309be3aaa0ffc5fd6626eea75339"]
        .assert_eq(&digest(&by_tar));
}

#[test]
fn equal_files_take_room_once_and_holes_none() {
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let once = Image::of_changes(&[file("a", &bytes)]);
    let twice = Image::of_changes(&[file("a", &bytes), file("b", &bytes)]);
    assert_eq!(once.bytes().len(), twice.bytes().len());
    // What was taken back is nowhere in what comes after it.
    let hole = vec![0; 1_000_000];
    let after = Image::of_changes(&[file("a", &bytes), file("b", &bytes), file("c", &hole)]);
    let alone = Image::of_changes(&[file("a", &bytes), file("c", &hole)]);
    let data = |image: &Image| image.bytes()[4096..2_200_000].to_vec();
    assert!(data(&after) == data(&alone));
    let hole = Image::of_changes(&[file("a", &vec![0; 32 << 20])]);
    let stat = std::fs::metadata(&hole.at).unwrap();
    assert!(stat.len() > 32 << 20);
    assert!(stat.blocks() * 512 < 1 << 20, "{} blocks", stat.blocks());
}

#[test]
fn the_ends_of_many_files_wait_outside_of_memory_and_come_back() {
    // More than may wait in memory.
    let changes: Vec<_> = (0..4000_u32)
        .map(|number| {
            let bytes: Vec<u8> = number.to_le_bytes().repeat(750);
            file(&format!("{number:05}"), &bytes)
        })
        .collect();
    let image = Image::of_changes(&changes);
    image.check();
    assert!(image.bytes().len() < 20 << 20);
    let Some(mounted) = image.mount() else { return };
    for number in [0_u32, 1, 1999, 2700, 2800, 3999] {
        let read = std::fs::read(mounted.root().join(format!("{number:05}"))).unwrap();
        assert_eq!(read, number.to_le_bytes().repeat(750), "{number}");
    }
}

/// Below is one file.
struct OneFileBelow(PathBuf);

impl LowerLayers for OneFileBelow {
    fn directory(&self, at: &EntryPath) -> Option<Metadata> {
        (*at == path("known")).then(|| entry("known", Kind::Fifo).metadata)
    }

    fn file(&self, at: &EntryPath) -> io::Result<Option<(OwnedFd, Metadata)>> {
        if *at != path("below") {
            return Ok(None);
        }
        let metadata = entry("below", Kind::Fifo).metadata;
        Ok(Some((File::open(&self.0)?.into(), metadata)))
    }
}

#[test]
fn links_to_files_below_bring_them_and_directories_look_as_below() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::write(&below, "from below").unwrap();
    let changes = [
        hardlink("first", "below"),
        file("known/file", b"1"),
        hardlink("second", "below"),
        file("unknown/file", b"1"),
    ];
    let lower = OneFileBelow(below);
    let image = Image::new(|image| image_of_changes(&changes, image, OVERLAY, &lower).unwrap());
    image.check();
    let Some(mounted) = image.mount() else { return };
    let shown: Vec<_> = listing(&mounted.root())
        .into_iter()
        .filter(|line| !line.contains("/file"))
        .collect();
    let hash = ContentHash::of(b"from below").to_string()[..12].to_owned();
    assert_eq!(
        shown,
        [
            format!("/first {hash} 755 0:0 1500000000"),
            "/known dir 755 0:0 1500000000".to_owned(),
            "/second = /first 755 0:0 1500000000".to_owned(),
            "/unknown dir 755 0:0 0".to_owned(),
        ]
    );
}

#[test]
fn privileged_a_link_to_what_its_layer_deletes_is_the_file_below_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::write(&below, "from below").unwrap();
    let lower = OneFileBelow(below);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    tar.append_link(&mut header, "link", "below").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, ".wh.below", io::empty())
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let image = Image::new(|image| {
        unpack_image(&tar[..], image, OVERLAY, TarLimits::LAYER, &lower).unwrap();
    });
    image.check();
    let Some(mounted) = image.mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = options(DirectoryForm::Overlay(OVERLAY));
    let to = open(folder.path());
    unpack(&tar[..], to, &options, TarLimits::LAYER, &lower).unwrap();
    for root in [mounted.root().as_path(), folder.path()] {
        let below = std::fs::symlink_metadata(root.join("below")).unwrap();
        assert!(!below.is_file(), "a whiteout");
        let link = std::fs::read_to_string(root.join("link"));
        assert_eq!(link.unwrap(), "from below");
    }
}

#[test]
fn what_an_image_cannot_hold_is_refused_by_name() {
    let mut long = file("long", b"");
    let value = vec![0; 1 << 16];
    long.entry.metadata.xattrs.insert(b"user.x".to_vec(), value);
    let mut much = file("much", b"");
    for number in 0..6 {
        let name = format!("user.{number}").into_bytes();
        much.entry
            .metadata
            .xattrs
            .insert(name, vec![number; 60_000]);
    }
    let mut unknown = file("unknown", b"");
    let name = b"system.other".to_vec();
    unknown.entry.metadata.xattrs.insert(name, Vec::new());
    let (major, minor) = (1 << 12, 0);
    let mut shorter = file("shorter", b"1");
    shorter.entry.kind = Kind::File { size: 2 };
    let refused = [
        (
            vec![shorter],
            "the content given for `/shorter` does not fit its entry",
        ),
        (
            vec![long],
            "`/long` does not fit an EROFS image: an extended attribute that is too long",
        ),
        (
            vec![much],
            "`/much` does not fit an EROFS image: too many bytes of extended attributes",
        ),
        (
            vec![unknown],
            "`/unknown` does not fit an EROFS image: an extended attribute of unknown kind",
        ),
        (
            vec![plain("device", Kind::CharDevice { major, minor })],
            "`/device` does not fit an EROFS image: a device's number is too large",
        ),
        (
            vec![hardlink("link", "nothing")],
            "the hard link `/link` names `/nothing`, which does not exist",
        ),
        (
            vec![directory("a"), hardlink("link", "a")],
            "the hard link `/link` names `/a`, which does not exist",
        ),
        (
            vec![file("a", b""), file("a/b", b"")],
            "`/a` is in the way and no directory",
        ),
        (
            vec![file("b", b""), file("a", b"")],
            "`/a` is in the way and no directory",
        ),
    ];
    for (changes, expected) in refused {
        let image = tempfile::tempfile().unwrap();
        let error = image_of_changes(&changes, &image, OVERLAY, &NoLowerLayers).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn hostile_streams_are_refused_as_the_index_refuses_them() {
    let (_, tar) = written(&[file("a", &[1; 5000]), file("b", &[2; 300_000])]);
    let limits = TarLimits {
        entries_max: 10,
        content_bytes_max: 200_000,
    };
    let image = || tempfile::tempfile().unwrap();
    let refused = |tar: &[u8], limits| -> UnpackError {
        unpack_image(tar, &image(), OVERLAY, limits, &NoLowerLayers).unwrap_err()
    };
    let message = |tar: &[u8], limits: TarLimits| {
        let by_index = index_of_tar(tar, limits).unwrap_err().to_string();
        assert_eq!(refused(tar, limits).to_string(), by_index);
        by_index
    };
    assert!(message(&tar, limits).contains("more"));
    for end in [100, 700, 5000, 6700, 100_000] {
        let why = message(&tar[..end], TarLimits::LAYER);
        assert!(
            why.contains("truncated") || why.contains("header"),
            "{end}: {why}"
        );
    }
    let mut damaged = tar.clone();
    damaged[5] ^= 1;
    message(&damaged, TarLimits::LAYER);
    // What has the right form is in the index as it is without an image.
    let read = unpack_image(
        &tar[..],
        &image(),
        OVERLAY,
        TarLimits::LAYER,
        &NoLowerLayers,
    )
    .unwrap();
    assert_eq!(read, index_of_tar(&tar[..], TarLimits::LAYER).unwrap());
}

#[test]
fn privileged_a_debian_base_is_the_same_in_both_forms() {
    let Some(base) = std::env::var_os("LONGSHORE_TEST_BASE") else {
        common::skip("LONGSHORE_TEST_BASE names no tar archive");
        return;
    };
    if !is_root() {
        common::skip("needs root");
        return;
    }
    let image = Image::new(|image| {
        let tar = File::open(&base).unwrap();
        unpack_image(tar, image, OVERLAY, TarLimits::LAYER, &NoLowerLayers).unwrap();
    });
    image.check();
    let Some(mounted) = image.mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = options(DirectoryForm::Overlay(OVERLAY));
    let (tar, to) = (File::open(&base).unwrap(), open(folder.path()));
    unpack(tar, to, &options, TarLimits::LAYER, &NoLowerLayers).unwrap();
    let (shown, expected) = (listing(&mounted.root()), listing(folder.path()));
    assert!(expected.len() > 1000);
    for (shown, expected) in shown.iter().zip(&expected) {
        assert_eq!(shown, expected);
    }
    assert_eq!(shown.len(), expected.len());
}
