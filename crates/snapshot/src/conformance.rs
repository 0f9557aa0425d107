//! What every [`Snapshotter`] must do: one suite, run by each implementation.
//!
//! Each check is a function over an empty store; it panics when the contract is broken. They need
//! what the implementation needs (for overlay: root). Layers are filled by the caller, so that
//! every form that a layer can have is put to the same checks.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::{
    ActiveSnapshot, Pending, RootFs, Snapshot, SnapshotError, SnapshotId, Snapshotter, View,
};

/// Fills a layer with files, sorted: their paths, the directories above them implied, and contents.
/// A content of `=path` is another name of the file there.
pub type Fill<'a> = &'a dyn Fn(&Pending, &[(&str, &str)]);

/// A store, and how its layers are filled.
struct Subject<'a> {
    store: &'a dyn Snapshotter,
    fill: Fill<'a>,
}

impl<'a> std::ops::Deref for Subject<'a> {
    type Target = dyn Snapshotter + 'a;

    fn deref(&self) -> &Self::Target {
        self.store
    }
}

/// Runs the whole suite; `new_store` makes an empty store each time.
///
/// # Panics
/// When the contract is broken.
pub fn run(new_store: &dyn Fn() -> Box<dyn Snapshotter>, fill: Fill<'_>) {
    let checks: [fn(&Subject<'_>); 12] = [
        pending_is_invisible_until_committed,
        dropped_work_leaves_nothing,
        committing_an_existing_id_keeps_the_first,
        layers_are_stacked_lowest_first,
        changes_go_to_the_upper_directory_only,
        a_committed_root_file_system_is_a_layer,
        steps_stand_on_one_another,
        no_parents_give_an_empty_root,
        a_root_file_system_can_be_used_again,
        what_is_in_use_cannot_be_removed,
        what_is_open_outlives_its_name,
        missing_parents_are_named,
    ];
    for check in checks {
        let store = &*new_store();
        check(&Subject { store, fill });
    }
}

/// Fills a layer that is a directory; its root has a mode of its own.
pub fn fill_directory(pending: &Pending, files: &[(&str, &str)]) {
    let root = pending.path();
    must(fs::set_permissions(root, fs::Permissions::from_mode(0o711)));
    let is_link = |content: &str| content.starts_with('=');
    for (file, content) in files.iter().filter(|(_, content)| !is_link(content)) {
        let path = root.join(file);
        must(fs::create_dir_all(path.parent().unwrap_or(root)));
        write(&path, content);
    }
    for (link, content) in files.iter().filter(|(_, content)| is_link(content)) {
        must(fs::hard_link(root.join(&content[1..]), root.join(link)));
    }
}

fn pending_is_invisible_until_committed(store: &Subject<'_>) {
    let pending = must(store.begin(&id("a1")));
    (store.fill)(&pending, &[("file", "content")]);
    assert_eq!(
        must(store.get(&id("a1"))),
        None,
        "pending must not be visible"
    );
    let committed = must(pending.commit());
    assert_eq!(must(store.get(&id("a1"))), Some(committed.clone()));
    assert_eq!(read(&Opened::of(&committed).path("file")), "content");
    assert!(must(store.remove(&id("a1"))));
    assert!(!must(store.remove(&id("a1"))), "absence is not an error");
    assert_eq!(must(store.get(&id("a1"))), None);
    assert!(committed.open().is_err());
}

fn dropped_work_leaves_nothing(store: &Subject<'_>) {
    let pending = must(store.begin(&id("a1")));
    let active = must(store.prepare(&[]));
    let paths = [pending.path().to_owned(), active.upper_path().to_owned()];
    drop((pending, active));
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    assert_eq!(must(store.sweep()).abandoned, 0, "nothing is left to sweep");
}

fn committing_an_existing_id_keeps_the_first(store: &Subject<'_>) {
    let [first, second] = ["first", "second"].map(|content| {
        let pending = must(store.begin(&id("a1")));
        (store.fill)(&pending, &[("file", content)]);
        pending
    });
    must(first.commit());
    let kept = must(second.commit());
    assert_eq!(read(&Opened::of(&kept).path("file")), "first");
}

fn layers_are_stacked_lowest_first(store: &Subject<'_>) {
    let low = layer(store, "low1", &[("a", "low"), ("b", "low")]);
    let high = layer(store, "high1", &[("b", "high"), ("c", "high")]);
    let view = must(store.view(&[low.id().clone(), high.id().clone()]));
    let contents = ["a", "b", "c"].map(|name| read(&view.path().join(name)));
    assert_eq!(contents, ["low", "high", "high"]);
    let written = fs::write(view.path().join("a"), "").is_ok();
    assert_eq!(
        read(&Opened::of(&low).path("a")),
        "low",
        "a view is read-only or a copy"
    );
    let other = must(store.view(&[low.id().clone()]));
    assert_eq!(read(&other.path().join("a")), "low", "written: {written}");
    let view = must(store.view(&[low.id().clone()]));
    assert_eq!(names(&view.path()), ["a", "b"], "one layer is a view too");
}

fn changes_go_to_the_upper_directory_only(store: &Subject<'_>) {
    let base = layer(
        store,
        "base1",
        &[
            ("changed", "1"),
            ("deleted", "1"),
            ("dir/hidden", "1"),
            ("kept", "1"),
        ],
    );
    let mut active = must(store.prepare(&[base.id().clone()]));
    let root = Root::of(&mut active);
    write(&root.path("changed"), "2");
    write(&root.path("added"), "2");
    must(fs::remove_file(root.path("deleted")));
    must(fs::remove_dir_all(root.path("dir")));
    must(fs::create_dir(root.path("dir")));
    drop(root);

    let upper = must(active.collect());
    assert_eq!(names(upper), ["added", "changed", "deleted", "dir"]);
    assert!(is_whiteout(&upper.join("deleted")));
    let base = Opened::of(&base);
    assert_eq!(
        read(&base.path("changed")),
        "1",
        "the layer below is untouched"
    );
    assert_eq!(
        names(&base.path(".")),
        ["changed", "deleted", "dir", "kept"]
    );
}

fn a_committed_root_file_system_is_a_layer(store: &Subject<'_>) {
    let base = layer(store, "base1", &[("deleted", "1"), ("kept", "1")]);
    let mut active = must(store.prepare(&[base.id().clone()]));
    let root = Root::of(&mut active);
    must(fs::remove_file(root.path("deleted")));
    write(&root.path("added"), "2");
    drop(root);
    let top = must(store.commit(active, &id("top1")));

    let view = must(store.view(&[base.id().clone(), top.id().clone()]));
    assert_eq!(names(&view.path()), ["added", "kept"]);
    let mode = |at: &Path| must(fs::metadata(at)).permissions().mode() & 0o7777;
    assert_eq!(
        mode(&view.path()),
        mode(&Opened::of(&base).path(".")),
        "the root directory keeps its mode through layers"
    );
    assert_eq!(
        must(store.sweep()).abandoned,
        0,
        "committing leaves nothing beside the layer"
    );
}

fn steps_stand_on_one_another(store: &Subject<'_>) {
    let base = layer(
        store,
        "base1",
        &[("count", "0"), ("link", "=linked"), ("linked", "0")],
    );
    let mut stack = vec![base.id().clone()];
    for step in 1..=3 {
        let mut active = must(store.prepare(&stack));
        let root = Root::of(&mut active);
        assert_eq!(read(&root.path("count")), (step - 1).to_string());
        write(&root.path("count"), &step.to_string());
        write(&root.path("linked"), &step.to_string());
        drop(root);
        let top = must(store.commit(active, &id(&format!("step{step}"))));
        stack.push(top.id().clone());
        // What comes between two steps is seen by the second.
        let copied = layer(store, &format!("copied{step}"), &[("between", "x")]);
        stack.push(copied.id().clone());
    }
    for (at, expected) in [(1, "0"), (3, "1"), (5, "2"), (7, "3")] {
        let view = must(store.view(&stack[..at]));
        let seen = ["count", "linked"].map(|name| read(&view.path().join(name)));
        assert_eq!(seen, [expected, expected], "{at} layers");
    }
    // An earlier stack again, while a later one may still be at hand.
    let mut active = must(store.prepare(&stack[..2]));
    let root = Root::of(&mut active);
    assert_eq!(read(&root.path("count")), "1");
    assert!(!root.path("between").exists());
}

fn no_parents_give_an_empty_root(store: &Subject<'_>) {
    let mut active = must(store.prepare(&[]));
    write(&Root::of(&mut active).path("file"), "1");
    assert_eq!(names(must(active.collect())), ["file"]);
    let view: View = must(store.view(&[]));
    assert!(names(&view.path()).is_empty());
}

fn a_root_file_system_can_be_used_again(store: &Subject<'_>) {
    let base = layer(store, "base1", &[("a", "1")]);
    let mut active = must(store.prepare(&[base.id().clone()]));
    write(&Root::of(&mut active).path("b"), "2");
    let second = Root::of(&mut active);
    assert_eq!(read(&second.path("b")), "2");
    write(&second.path("c"), "3");
    drop(second);
    assert_eq!(names(must(active.collect())), ["b", "c"]);
    must(fs::remove_file(Root::of(&mut active).path("b")));
    let upper = must(active.collect());
    let shown: Vec<_> = names(upper)
        .into_iter()
        .filter(|name| !is_whiteout(&upper.join(name)))
        .collect();
    assert_eq!(shown, ["c"], "also after it was collected once");
}

fn what_is_in_use_cannot_be_removed(store: &Subject<'_>) {
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

fn what_is_open_outlives_its_name(store: &Subject<'_>) {
    let opened = Opened::of(&layer(store, "base1", &[("dir/file", "1")]));
    let dir = must(fs::File::open(opened.path("dir")));
    let below = |fd: &dyn std::os::fd::AsRawFd| {
        PathBuf::from(format!("/proc/self/fd/{}/file", fd.as_raw_fd()))
    };
    assert_eq!(read(&below(&dir)), "1");
    let file = must(fs::File::open(opened.path("dir/file")));
    must(store.remove(&id("base1")));
    drop((opened, dir));
    assert_eq!(must(std::io::read_to_string(file)), "1");
}

fn missing_parents_are_named(store: &Subject<'_>) {
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

/// A layer's own files, reachable by path as long as this lives.
struct Opened(std::os::fd::OwnedFd);

impl Opened {
    fn of(snapshot: &Snapshot) -> Self {
        Self(must(snapshot.open()))
    }

    fn path(&self, name: &str) -> PathBuf {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.0);
        PathBuf::from(format!("/proc/self/fd/{fd}")).join(name)
    }
}

fn layer(store: &Subject<'_>, name: &str, files: &[(&str, &str)]) -> Snapshot {
    let pending = must(store.begin(&id(name)));
    (store.fill)(&pending, files);
    must(pending.commit())
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = must(fs::symlink_metadata(path));
    let marked = || {
        let mut value = [0; 8];
        rustix::fs::lgetxattr(path, "user.longshore.whiteout", &mut value).is_ok()
    };
    (metadata.file_type().is_char_device() && metadata.rdev() == 0)
        || (metadata.is_file() && metadata.len() == 0 && marked())
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
