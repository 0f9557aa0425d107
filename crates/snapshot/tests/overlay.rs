//! The snapshotter, by overlay and by copies: the conformance suite, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests are test code")]

#[path = "../../../tests/skip.rs"]
mod skip_or_fail;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use longshore_snapshot::{
    OverlaySnapshots, RootFs, SnapshotError, SnapshotId, Snapshotter as _, Stacking, conformance,
};
use skip_or_fail::skip;

/// Set in the copies of this test that play another process; names the store.
const OTHER_PROCESS: &str = "LONGSHORE_SNAPSHOT_TEST_STORE";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

fn id(name: &str) -> SnapshotId {
    SnapshotId::new(name).unwrap()
}

fn layers(store: &OverlaySnapshots, count: usize) -> Vec<SnapshotId> {
    let make = |n: usize| {
        let pending = store.begin(&id(&format!("layer{n}"))).unwrap();
        fs::write(pending.path().join(format!("file{n}")), "").unwrap();
        fs::write(pending.path().join("all"), n.to_string()).unwrap();
        pending.commit().unwrap().id().clone()
    };
    (0..count).map(make).collect()
}

#[test]
fn privileged_overlay_snapshots_conform() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(
        &|| {
            count.set(count.get() + 1);
            Box::new(OverlaySnapshots::open(temp.path().join(count.get().to_string())).unwrap())
        },
        &conformance::fill_directory,
    );
}

#[test]
fn copied_snapshots_conform() {
    let temp = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(
        &|| {
            count.set(count.get() + 1);
            let root = temp.path().join(count.get().to_string());
            Box::new(OverlaySnapshots::open_copying(root).unwrap())
        },
        &conformance::fill_directory,
    );
}

#[test]
fn privileged_overlay_is_chosen_where_it_can_be_mounted() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    assert_eq!(store.stacking().unwrap(), (Stacking::Overlay, None));
    // Upon an overlay there can be no other.
    layers(&store, 1);
    let mut active = store.prepare(&[id("layer0")]).unwrap();
    let RootFs::Mount(mount) = active.rootfs().unwrap() else {
        panic!("not mounted");
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&mount);
    let above = OverlaySnapshots::open(format!("/proc/self/fd/{fd}/store")).unwrap();
    let (stacking, why) = above.stacking().unwrap();
    assert!(stacking == Stacking::Copy && why.is_some(), "{stacking:?}");
    layers(&above, 2);
    let view = above.view(&[id("layer0"), id("layer1")]).unwrap();
    assert_eq!(fs::read_to_string(view.path().join("all")).unwrap(), "1");
}

#[test]
fn privileged_copies_keep_owners_modes_links_and_attributes() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open_copying(temp.path()).unwrap();
    let pending = store.begin(&id("base")).unwrap();
    let base = |name: &str| pending.path().join(name);
    fs::create_dir(base("dir")).unwrap();
    for name in ["program", "dir/file"] {
        fs::write(base(name), name).unwrap();
    }
    fs::hard_link(base("program"), base("dir/again")).unwrap();
    chown(base("dir"), Some(5), Some(6)).unwrap();
    chown(base("program"), Some(7), Some(8)).unwrap();
    fs::set_permissions(base("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(base("dir"), fs::Permissions::from_mode(0o1770)).unwrap();
    std::os::unix::fs::symlink("program", base("link")).unwrap();
    lchown(base("link"), Some(9), Some(9)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(base("program"), "user.note", b"kept", flags).unwrap();
    pending.commit().unwrap();

    let mut active = store.prepare(&[id("base")]).unwrap();
    let RootFs::Path(root) = active.rootfs().unwrap() else {
        panic!("not a copy");
    };
    let facts = |name: &str| {
        let found = fs::symlink_metadata(root.join(name)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(facts("dir"), (5, 6, 0o1770));
    assert_eq!(facts("program"), (7, 8, 0o6755));
    assert_eq!((facts("link").0, facts("link").1), (9, 9));
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("program"), inode("dir/again"));
    let original = store.get(&id("base")).unwrap().unwrap();
    let opened = original.open().unwrap();
    let copied = format!("/proc/self/fd/{}/program", opened.as_raw_fd());
    let copied = fs::metadata(copied).unwrap().ino();
    assert_ne!(inode("program"), copied, "nothing is shared with the layer");
    let mut value = [0; 8];
    let size = rustix::fs::getxattr(root.join("program"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..size], b"kept");
    // And so does what has changed.
    fs::write(root.join("dir/file"), "changed").unwrap();
    let upper = active.collect().unwrap();
    let found = fs::metadata(upper.join("dir")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (5, 0o1770));
    assert!(!upper.join("program").exists());
}

#[test]
fn privileged_300_layers_make_one_root_file_system() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    let ids = layers(&store, 300);
    let view = store.view(&ids).unwrap();
    assert_eq!(fs::read_to_string(view.path().join("all")).unwrap(), "299");
    assert_eq!(fs::read_dir(view.path()).unwrap().count(), 301);
    let mut active = store.prepare(&ids).unwrap();
    assert!(matches!(active.rootfs().unwrap(), RootFs::Mount(_)));
}

#[test]
fn more_layers_than_the_kernel_stacks_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    let error = store.prepare(&vec![id("a"); 501]).unwrap_err();
    assert!(
        matches!(
            error,
            SnapshotError::TooManyLayers {
                count: 501,
                max: 500
            }
        ),
        "{error}"
    );
}

#[test]
fn a_snapshot_of_an_earlier_boot_counts_only_if_synced() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    layers(&store, 2);
    assert_eq!(store.sync().unwrap(), 2);
    assert_eq!(store.sync().unwrap(), 0, "synced once is enough");
    store.begin(&id("later")).unwrap().commit().unwrap();
    store.begin(&id("torn")).unwrap().commit().unwrap();
    let state = |name: &str| temp.path().join(format!("snapshots/{name}/state"));
    fs::write(
        state("later"),
        "boot 00000000-0000-0000-0000-000000000000\n",
    )
    .unwrap();
    fs::write(state("torn"), "").unwrap();

    assert!(store.get(&id("layer0")).unwrap().is_some());
    assert!(store.get(&id("later")).unwrap().is_none());
    assert!(
        !temp.path().join("snapshots/later").exists(),
        "it is discarded at once"
    );
    assert!(store.prepare(&[id("torn")]).is_err());
    assert_eq!(store.sweep().unwrap().void, 1, "the torn one");
    let again = store.begin(&id("later")).unwrap().commit().unwrap();
    assert_eq!(store.get(&id("later")).unwrap(), Some(again));
}

#[test]
fn committing_over_a_void_snapshot_replaces_it() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    store.begin(&id("a")).unwrap().commit().unwrap();
    fs::write(temp.path().join("snapshots/a/state"), "boot before\n").unwrap();
    let pending = store.begin(&id("a")).unwrap();
    fs::write(pending.path().join("file"), "whole").unwrap();
    let committed = pending.commit().unwrap();
    let open = committed.open().unwrap();
    let file = format!("/proc/self/fd/{}/file", open.as_raw_fd());
    assert_eq!(fs::read_to_string(file).unwrap(), "whole");
}

#[test]
fn state_directories_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    OverlaySnapshots::open(&root).unwrap();
    assert_eq!(
        fs::metadata(&root).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn the_root_of_a_layer_is_open_to_all_whatever_the_mask() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let pending = store.begin(&id("a")).unwrap();
    let active = store.prepare(&[]).unwrap();
    rustix::process::umask(before);
    for root in [pending.path(), active.upper_path()] {
        let mode = fs::metadata(root).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}

/// Not a test of its own: what the tests below start as another process.
#[test]
fn other_process() {
    let Some(root) = std::env::var_os(OTHER_PROCESS) else {
        return;
    };
    let store = OverlaySnapshots::open(root).unwrap();
    let pending = store.begin(&id("pending")).unwrap();
    fs::write(pending.path().join("file"), "").unwrap();
    let mut active = store.prepare(&[id("base")]).unwrap();
    let _rootfs = active.rootfs();
    fs::write(active.upper_path().join("file"), "").unwrap();
    println!("\nready");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

fn start_other_process(store: &Path) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_process", "--nocapture"])
        .env(OTHER_PROCESS, store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line == "ready"),
        "the other process started"
    );
    child
}

#[test]
fn a_sweep_takes_what_a_killed_process_left_and_leaves_what_a_living_one_has() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    store.begin(&id("base")).unwrap().commit().unwrap();
    let mine = store.begin(&id("mine")).unwrap();
    let mut other = start_other_process(temp.path());
    let work = || fs::read_dir(temp.path().join("work")).unwrap().count();

    assert_eq!(work(), 3);
    assert_eq!(store.sweep().unwrap().abandoned, 0, "both processes live");
    assert!(matches!(
        store.remove(&id("base")),
        Err(SnapshotError::InUse { .. })
    ));

    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(store.sweep().unwrap().abandoned, 2);
    assert_eq!(work(), 1);
    assert!(mine.path().exists());
    assert!(store.remove(&id("base")).unwrap(), "its locks went with it");
    assert_eq!(fs::read_dir(temp.path().join("trash")).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*temp.path().to_string_lossy()));
}

#[test]
fn many_threads_commit_remove_and_sweep_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let store = OverlaySnapshots::open(temp.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..20 {
                    let name = id(&format!("shared{}", round % 3));
                    let pending = store.begin(&name).unwrap();
                    fs::create_dir_all(pending.path().join("a/b")).unwrap();
                    pending.commit().unwrap();
                    match thread % 4 {
                        0 => drop(store.remove(&name)),
                        1 => drop(store.sweep().unwrap()),
                        2 => drop(store.prepare(std::slice::from_ref(&name))),
                        _ => drop(store.get(&name).unwrap()),
                    }
                }
            });
        }
    });
    assert_eq!(store.sweep().unwrap().abandoned, 0);
    for folder in ["work", "trash"] {
        assert_eq!(
            fs::read_dir(temp.path().join(folder)).unwrap().count(),
            0,
            "{folder}"
        );
    }
}
