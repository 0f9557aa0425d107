//! What every [`Snapshotter`] must do: one suite, run by each implementation.
//!
//! Each check is a function over an empty store; it panics when the contract is broken. They need
//! what the implementation needs (for overlay: root).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::{ActiveSnapshot, RootFs, SnapshotDir, SnapshotError, SnapshotId, Snapshotter, View};

/// Runs the whole suite; `new_store` makes an empty store each time.
///
/// # Panics
/// When the contract is broken.
pub fn run(new_store: &dyn Fn() -> Box<dyn Snapshotter>) {
    let checks: [fn(&dyn Snapshotter); 10] = [
        pending_is_invisible_until_committed,
        dropped_work_leaves_nothing,
        committing_an_existing_id_keeps_the_first,
        layers_are_stacked_lowest_first,
        changes_go_to_the_upper_directory_only,
        a_committed_root_file_system_is_a_layer,
        no_parents_give_an_empty_root,
        a_root_file_system_can_be_used_again,
        what_is_in_use_cannot_be_removed,
        missing_parents_are_named,
    ];
    for check in checks {
        check(&*new_store());
    }
}

fn pending_is_invisible_until_committed(store: &dyn Snapshotter) {
    let pending = must(store.begin(&id("a1")));
    write(&pending.path().join("file"), "content");
    assert_eq!(
        must(store.get(&id("a1"))),
        None,
        "pending must not be visible"
    );
    let committed = must(pending.commit());
    assert_eq!(must(store.get(&id("a1"))), Some(committed.clone()));
    assert_eq!(read(&committed.path().join("file")), "content");
    assert!(must(store.remove(&id("a1"))));
    assert!(!must(store.remove(&id("a1"))), "absence is not an error");
    assert_eq!(must(store.get(&id("a1"))), None);
    assert!(!committed.path().exists());
}

fn dropped_work_leaves_nothing(store: &dyn Snapshotter) {
    let pending = must(store.begin(&id("a1")));
    let active = must(store.prepare(&[]));
    let paths = [pending.path().to_owned(), active.upper_path().to_owned()];
    drop((pending, active));
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    assert_eq!(must(store.sweep()).abandoned, 0, "nothing is left to sweep");
}

fn committing_an_existing_id_keeps_the_first(store: &dyn Snapshotter) {
    let [first, second] = ["first", "second"].map(|content| {
        let pending = must(store.begin(&id("a1")));
        write(&pending.path().join("file"), content);
        pending
    });
    must(first.commit());
    let kept = must(second.commit());
    assert_eq!(read(&kept.path().join("file")), "first");
}

fn layers_are_stacked_lowest_first(store: &dyn Snapshotter) {
    let low = layer(store, "low1", &[("a", "low"), ("b", "low")]);
    let high = layer(store, "high1", &[("b", "high"), ("c", "high")]);
    let view = must(store.view(&[low.id().clone(), high.id().clone()]));
    let contents = ["a", "b", "c"].map(|name| read(&view.path().join(name)));
    assert_eq!(contents, ["low", "high", "high"]);
    assert!(
        fs::write(view.path().join("a"), "").is_err(),
        "a view is read-only"
    );
    let view = must(store.view(&[low.id().clone()]));
    assert_eq!(names(&view.path()), ["a", "b"], "one layer is a view too");
}

fn changes_go_to_the_upper_directory_only(store: &dyn Snapshotter) {
    let base = layer(
        store,
        "base1",
        &[("kept", "1"), ("changed", "1"), ("deleted", "1")],
    );
    must(fs::create_dir(base.path().join("dir")));
    write(&base.path().join("dir/hidden"), "1");
    let mut active = must(store.prepare(&[base.id().clone()]));
    let root = Root::of(&mut active);
    write(&root.path("changed"), "2");
    write(&root.path("added"), "2");
    must(fs::remove_file(root.path("deleted")));
    must(fs::remove_dir_all(root.path("dir")));
    must(fs::create_dir(root.path("dir")));
    drop(root);

    let upper = active.upper_path();
    assert_eq!(names(upper), ["added", "changed", "deleted", "dir"]);
    let whiteout = must(fs::symlink_metadata(upper.join("deleted")));
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(
        read(&base.path().join("changed")),
        "1",
        "the layer below is untouched"
    );
    assert_eq!(names(base.path()), ["changed", "deleted", "dir", "kept"]);
}

fn a_committed_root_file_system_is_a_layer(store: &dyn Snapshotter) {
    let base = layer(store, "base1", &[("kept", "1"), ("deleted", "1")]);
    must(fs::set_permissions(
        base.path(),
        fs::Permissions::from_mode(0o711),
    ));
    let mut active = must(store.prepare(&[base.id().clone()]));
    let root = Root::of(&mut active);
    must(fs::remove_file(root.path("deleted")));
    write(&root.path("added"), "2");
    drop(root);
    let top = must(store.commit(active, &id("top1")));

    let view = must(store.view(&[base.id().clone(), top.id().clone()]));
    assert_eq!(names(&view.path()), ["added", "kept"]);
    let mode = must(fs::metadata(view.path())).permissions().mode() & 0o7777;
    assert_eq!(
        mode, 0o711,
        "the root directory keeps its mode through layers"
    );
    assert_eq!(
        must(store.sweep()).abandoned,
        0,
        "committing leaves nothing beside the layer"
    );
}

fn no_parents_give_an_empty_root(store: &dyn Snapshotter) {
    let mut active = must(store.prepare(&[]));
    write(&Root::of(&mut active).path("file"), "1");
    assert_eq!(names(active.upper_path()), ["file"]);
    let view: View = must(store.view(&[]));
    assert!(names(&view.path()).is_empty());
}

fn a_root_file_system_can_be_used_again(store: &dyn Snapshotter) {
    let base = layer(store, "base1", &[("a", "1")]);
    let mut active = must(store.prepare(&[base.id().clone()]));
    write(&Root::of(&mut active).path("b"), "2");
    let second = Root::of(&mut active);
    assert_eq!(read(&second.path("b")), "2");
    write(&second.path("c"), "3");
    drop(second);
    assert_eq!(names(active.upper_path()), ["b", "c"]);
}

fn what_is_in_use_cannot_be_removed(store: &dyn Snapshotter) {
    let base = layer(store, "base1", &[("a", "1")]);
    let active = must(store.prepare(&[base.id().clone()]));
    let in_use = |result| matches!(result, Err(SnapshotError::InUse { .. }));
    assert!(
        in_use(store.remove(base.id())),
        "below an active root file system"
    );
    drop(active);
    let view = must(store.view(&[base.id().clone()]));
    assert!(in_use(store.remove(base.id())), "below a view");
    drop(view);
    assert!(must(store.remove(base.id())));
}

fn missing_parents_are_named(store: &dyn Snapshotter) {
    let base = layer(store, "base1", &[]);
    let parents = [base.id().clone(), id("gone1")];
    let missing = |error: SnapshotError| error.to_string().contains("gone1");
    assert!(store.prepare(&parents).is_err_and(missing));
    assert!(store.view(&parents).is_err_and(missing));
}

/// A root file system that is reachable by path as long as this lives.
struct Root {
    directory: PathBuf,
    _mount: Option<std::os::fd::OwnedFd>,
}

impl Root {
    fn of(active: &mut ActiveSnapshot) -> Self {
        match must(active.rootfs()) {
            RootFs::Path(directory) => Self {
                directory,
                _mount: None,
            },
            RootFs::Mount(mount) => {
                let fd = std::os::fd::AsRawFd::as_raw_fd(&mount);
                let directory = PathBuf::from(format!("/proc/self/fd/{fd}"));
                Self {
                    directory,
                    _mount: Some(mount),
                }
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn layer(store: &dyn Snapshotter, name: &str, files: &[(&str, &str)]) -> SnapshotDir {
    let pending = must(store.begin(&id(name)));
    for (file, content) in files {
        write(&pending.path().join(file), content);
    }
    must(pending.commit())
}

fn id(name: &str) -> SnapshotId {
    must(SnapshotId::new(name))
}

fn write(path: &Path, content: &str) {
    must(fs::write(path, content));
}

fn read(path: &Path) -> String {
    must(fs::read_to_string(path))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = must(fs::read_dir(directory));
    let mut names: Vec<_> = entries
        .map(|entry| must(entry).file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store failed: {error:?}"),
    }
}
