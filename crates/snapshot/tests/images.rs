//! Snapshots that are images: the conformance suite, and what is their own.
#![expect(clippy::unwrap_used, reason = "helpers of tests are test code")]

#[path = "../../../tests/skip.rs"]
mod skip_or_fail;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use longshore_layers::{
    Change, Entry, EntryPath, FileContent, ImageError, Kind, Metadata, NoLowerLayers,
    OverlayAttributes, image_of_changes,
};
use longshore_snapshot::{
    OverlaySnapshots, Pending, RootFs, SnapshotError, SnapshotId, Snapshotter as _, conformance,
    tried_changes,
};
use skip_or_fail::skip;

fn file(path: &str, content: &str) -> Change {
    let content: Vec<u8> = content.into();
    Change {
        entry: Entry {
            path: EntryPath::new(path).unwrap(),
            kind: Kind::File {
                size: content.len() as u64,
            },
            metadata: Metadata {
                mode: 0o644,
                ..Metadata::default()
            },
        },
        content: FileContent::Inline(content.into()),
    }
}

fn of_kind(path: &str, kind: Kind) -> Change {
    let mut change = file(path, "");
    change.entry.kind = kind;
    change.entry.metadata.mode = 0o755;
    change
}

fn write(changes: &[Change], image: &File) -> Result<(), ImageError> {
    image_of_changes(changes, image, OverlayAttributes::Trusted, &NoLowerLayers)
}

fn fill(pending: &Pending, files: &[(&str, &str)]) {
    let changes: Vec<_> = files
        .iter()
        .map(|(path, content)| match content.strip_prefix('=') {
            Some(target) => {
                let target = EntryPath::new(target).unwrap();
                of_kind(path, Kind::Hardlink { target })
            }
            None => file(path, content),
        })
        .collect();
    write(&changes, &pending.create_image().unwrap()).unwrap();
}

fn try_image(store: &OverlaySnapshots, changes: &[Change]) -> Result<(), SnapshotError> {
    store.try_image(|image| write(changes, image).map_err(io::Error::other))
}

/// A store in a temporary folder, where layers can be images.
fn store() -> Option<(tempfile::TempDir, OverlaySnapshots)> {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    match try_image(&store, &tried_changes()) {
        Ok(()) => Some((temp, store)),
        Err(error) => {
            skip(format_args!("layers cannot be images here: {error}"));
            None
        }
    }
}

fn image(store: &OverlaySnapshots, name: &str, changes: &[Change]) -> SnapshotId {
    let id = SnapshotId::new(name).unwrap();
    let pending = store.begin(&id).unwrap();
    write(changes, &pending.create_image().unwrap()).unwrap();
    pending.commit().unwrap();
    id
}

fn names(directory: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn privileged_an_image_without_its_attributes_stands_against_images() {
    let Some((_temp, store)) = store() else {
        return;
    };
    let refusal = |changes: &[Change]| try_image(&store, changes).unwrap_err().to_string();
    let mut changes = tried_changes();
    changes[0].entry.kind = Kind::Directory { opaque: false };
    let expected = "cannot read back from an image the attributes of `directory`";
    assert_eq!(refusal(&changes), expected);
    let file = &tried_changes()[1];
    for name in file.entry.metadata.xattrs.keys() {
        let expected = "cannot read back from an image the attributes of `file`";
        let mut changes = tried_changes();
        changes[1].entry.metadata.xattrs.remove(name);
        assert_eq!(refusal(&changes), expected);
        let value = b"another".to_vec();
        let attributes = &mut changes[1].entry.metadata.xattrs;
        attributes.insert(b"user.tried".to_vec(), value);
        assert_eq!(refusal(&changes), expected);
    }
}

#[test]
fn privileged_images_conform() {
    let Some((temp, _)) = store() else { return };
    let count = std::cell::Cell::new(0);
    conformance::run(
        &|| {
            count.set(count.get() + 1);
            let root = temp.path().join(count.get().to_string());
            Box::new(OverlaySnapshots::open(root).unwrap())
        },
        &fill,
    );
}

#[test]
fn privileged_copies_of_images_conform() {
    let Some((temp, _)) = store() else { return };
    let count = std::cell::Cell::new(0);
    conformance::run(
        &|| {
            count.set(count.get() + 1);
            let root = temp.path().join(count.get().to_string());
            Box::new(OverlaySnapshots::open_copying(root).unwrap())
        },
        &fill,
    );
}

#[test]
fn privileged_three_layers_hide_and_delete_what_is_below() {
    let Some((_temp, store)) = store() else {
        return;
    };
    let low = [
        file("dir/deleted", "1"),
        file("dir/kept", "1"),
        file("gone/a", "1"),
        file("opaque/hidden", "1"),
        file("opaque/sub/hidden", "1"),
    ];
    let middle = [
        of_kind("dir/deleted", Kind::Whiteout),
        of_kind("gone", Kind::Whiteout),
        of_kind("opaque", Kind::Directory { opaque: true }),
        file("opaque/new", "2"),
        file("opaque/sub/new", "2"),
    ];
    let high = [file("dir/deleted", "3"), file("gone", "3")];
    let layers = [("low", &low[..]), ("middle", &middle), ("high", &high)];
    let ids: Vec<_> = layers
        .iter()
        .map(|(name, changes)| image(&store, name, changes))
        .collect();

    let view = store.view(&ids[..2]).unwrap();
    let shown = |at: &str| names(view.path().join(at));
    assert_eq!(shown("."), ["dir", "opaque"]);
    assert_eq!(shown("dir"), ["kept"]);
    assert_eq!(shown("opaque"), ["new", "sub"]);
    assert_eq!(shown("opaque/sub"), ["new"]);

    let view = store.view(&ids).unwrap();
    assert_eq!(names(view.path()), ["dir", "gone", "opaque"]);
    assert_eq!(
        fs::read_to_string(view.path().join("dir/deleted")).unwrap(),
        "3"
    );
    assert!(view.path().join("gone").is_file());
}

#[test]
fn privileged_directories_and_images_stack_and_all_files_are_on_one_device() {
    let Some((_temp, store)) = store() else {
        return;
    };
    let low = image(&store, "low", &[file("a", "low"), file("b", "low")]);
    let id = SnapshotId::new("middle").unwrap();
    let middle = store.begin(&id).unwrap();
    conformance::fill_directory(&middle, &[("b", "middle"), ("c", "middle")]);
    middle.commit().unwrap();
    let high = image(&store, "high", &[file("d", "high")]);
    let mut active = store.prepare(&[low, id, high]).unwrap();
    let RootFs::Mount(mount) = active.rootfs().unwrap() else {
        panic!("layers make a mount")
    };
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    let before = fs::metadata(root.join("a")).unwrap();
    fs::write(root.join("a"), "changed").unwrap();
    let after = fs::metadata(root.join("a")).unwrap();
    assert_eq!(before.ino(), after.ino(), "a change keeps the number");
    let mut numbers = std::collections::BTreeSet::new();
    for (name, content) in [
        ("a", "changed"),
        ("b", "middle"),
        ("c", "middle"),
        ("d", "high"),
    ] {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), content);
        let stat = fs::metadata(root.join(name)).unwrap();
        assert_eq!(stat.dev(), fs::metadata(&root).unwrap().dev(), "{name}");
        assert!(numbers.insert(stat.ino()), "{name} has a number of its own");
    }
}

#[test]
fn privileged_300_images_make_one_root_file_system_and_leave_no_mount() {
    let Some((_temp, store)) = store() else {
        return;
    };
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ids: Vec<_> = (0..300)
        .map(|n| {
            image(
                &store,
                &format!("layer{n}"),
                &[file(&format!("{n:03}"), "")],
            )
        })
        .collect();
    let view = store.view(&ids).unwrap();
    assert_eq!(names(view.path()).len(), 300);
    let during = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(before, during, "nothing is mounted in sight");
}

#[test]
fn an_image_knows_what_it_takes_and_a_directory_is_none() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    let id = image(&store, "a", &[file("a", &"x".repeat(100_000))]);
    let found = store.get(&id).unwrap().unwrap();
    assert!(found.image_bytes().unwrap().unwrap() >= 100_000);
    let other = store.begin(&SnapshotId::new("b").unwrap()).unwrap();
    assert_eq!(other.commit().unwrap().image_bytes().unwrap(), None);
    assert!(store.remove(&id).unwrap());
}
