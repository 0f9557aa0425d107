use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::{ContentHash, IndexEntry, LayerIndex};

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

/// What a lower layer lists: the same metadata as files made here have.
fn lower(folder: &Path, names: &[(&str, Kind)]) -> TreeView {
    use std::os::unix::fs::MetadataExt as _;
    let owner = fs::metadata(folder).unwrap();
    let lines = names.iter().map(|(name, kind)| {
        let mode = match kind {
            Kind::Directory { .. } => 0o755,
            Kind::Symlink { .. } => 0o777,
            _ => 0o644,
        };
        let mut metadata = Metadata {
            mode,
            uid: owner.uid(),
            gid: owner.gid(),
            ..Metadata::default()
        };
        metadata.mtime.seconds = 1_600_000_000;
        IndexEntry {
            entry: Entry {
                path: path(name),
                kind: kind.clone(),
                metadata,
            },
            content: matches!(kind, Kind::File { .. }).then(|| ContentHash::of(name.as_bytes())),
            data_offset: None,
        }
    });
    TreeView::new(&[Arc::new(LayerIndex::new(lines.collect()).unwrap())])
}

const DIRECTORY: Kind = Kind::Directory { opaque: false };

/// A file whose content is its name, as in [`lower`].
fn file(name: &str) -> Kind {
    let size = name.len() as u64;
    Kind::File { size }
}

fn put(folder: &Path, name: &str, content: &str) {
    let at = folder.join(name);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, content).unwrap();
    fs::set_permissions(&at, PermissionsExt::from_mode(0o644)).unwrap();
    set_time(&at);
}

fn set_time(at: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 77);
    fs::File::open(at).unwrap().set_modified(time).unwrap();
}

fn directories(folder: &Path, names: &[&str]) {
    for name in names {
        let at = folder.join(name);
        fs::create_dir_all(&at).unwrap();
        fs::set_permissions(&at, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

fn make_opaque(at: &Path) {
    rustix::fs::setxattr(
        at,
        "user.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

fn diff(folder: &Path, lower: &TreeView) -> Vec<String> {
    let upper = fs::File::open(folder).unwrap();
    let changes = diff_upper(upper, lower, OverlayAttributes::User).unwrap();
    changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    let kind = match &change.entry.kind {
        Kind::File { size } => format!("file {size}"),
        Kind::Directory { opaque: false } => "dir".to_owned(),
        Kind::Hardlink { target } => format!("= {target}"),
        Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
        Kind::Whiteout => "gone".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{} {kind}", change.entry.path)
}

/// Directories in one another, below `folder`; deeper than a single call could name.
fn nested(folder: &Path, name: &str, depth: usize) {
    let mut directory = std::os::fd::OwnedFd::from(fs::File::open(folder).unwrap());
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        let mode = rustix::fs::Mode::empty();
        directory = rustix::fs::openat(&directory, name, flags, mode).unwrap();
    }
}

#[test]
fn a_path_that_no_layer_can_hold_is_refused_where_it_begins() {
    let name = "n".repeat(255);
    let folder = tempfile::tempdir().unwrap();
    // 16 names and the slashes between them are the most that fits.
    nested(folder.path(), &name, 15);
    assert_eq!(diff(folder.path(), &TreeView::empty()).len(), 15);
    let folder = tempfile::tempdir().unwrap();
    nested(folder.path(), &name, 40);
    let upper = fs::File::open(folder.path()).unwrap();
    let refused = diff_upper(&upper, &TreeView::empty(), OverlayAttributes::User);
    let Err(DiffError::PathLimit(at)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(at.components().count(), 16);
    let refused = Listing::of(&upper);
    assert!(
        matches!(refused, Err(DiffError::PathLimit(_))),
        "{refused:?}"
    );
}

#[test]
fn what_was_only_copied_up_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let lower = lower(
        at,
        &[
            ("d", DIRECTORY),
            ("d/changed", file("d/changed")),
            ("d/same", file("d/same")),
            ("e", DIRECTORY),
            ("e/same", file("e/same")),
            ("m", DIRECTORY),
        ],
    );
    directories(at, &["d", "e", "m"]);
    put(at, "d/same", "d/same");
    put(at, "d/changed", "D/CHANGED");
    put(at, "e/same", "e/same");
    fs::set_permissions(at.join("m"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(diff(at, &lower), ["/d dir", "/d/changed file 9", "/m dir"]);
}

#[test]
fn an_opaque_directory_becomes_explicit_whiteouts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let lower = lower(
        at,
        &[
            ("d", DIRECTORY),
            ("d/old", file("d/old")),
            ("d/same", file("d/same")),
            ("d/sub", DIRECTORY),
            ("d/sub/deep", file("d/sub/deep")),
            ("d/tree", DIRECTORY),
            ("d/tree/x", file("d/tree/x")),
            ("file", file("file")),
        ],
    );
    directories(at, &["d", "d/sub", "file", "new"]);
    make_opaque(&at.join("d"));
    make_opaque(&at.join("new"));
    make_opaque(&at.join("file"));
    put(at, "d/same", "d/same");
    put(at, "d/new", "1");
    assert_eq!(
        diff(at, &lower),
        [
            "/d dir",
            "/d/new file 1",
            "/d/old gone",
            "/d/sub dir",
            "/d/sub/deep gone",
            "/d/tree gone",
            "/file dir",
            "/new dir",
        ]
    );
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "b/first", "x");
    directories(at, &["a", "b"]);
    fs::hard_link(at.join("b/first"), at.join("c")).unwrap();
    fs::hard_link(at.join("b/first"), at.join("b/zz")).unwrap();
    symlink("../../up", at.join("s")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    assert_eq!(
        diff(at, &TreeView::empty()),
        [
            "/a dir",
            "/b dir",
            "/b/first file 1",
            "/b/zz = /b/first",
            "/c = /b/first",
            "/p Fifo",
            "/s -> ../../up",
        ]
    );
}

#[test]
fn a_socket_hides_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let lower = lower(at, &[("run", file("run"))]);
    std::os::unix::net::UnixListener::bind(at.join("run")).unwrap();
    assert_eq!(diff(at, &lower), ["/run gone"]);
}

#[test]
fn links_that_stayed_the_same_are_no_change_and_others_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let link = |target: &str| Kind::Symlink {
        target: target.into(),
    };
    let lower = lower(at, &[("same", link("a")), ("other", link("a"))]);
    for (name, target) in [("same", "a"), ("other", "b")] {
        symlink(target, at.join(name)).unwrap();
        let time = rustix::fs::Timespec {
            tv_sec: 1_600_000_000,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, at.join(name), &times, nofollow).unwrap();
    }
    assert_eq!(diff(at, &lower), ["/other -> b"]);
}

#[test]
fn attributes_of_the_file_are_kept_and_those_of_the_mount_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "f", "x");
    let set = |name: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at.join("f"), name, b"v", flags).unwrap();
    };
    set("user.own");
    set("user.overlay.origin");
    let upper = fs::File::open(at).unwrap();
    let view = TreeView::empty();
    let changes = diff_upper(&upper, &view, OverlayAttributes::User).unwrap();
    let names: Vec<_> = changes[0].entry.metadata.xattrs.keys().collect();
    assert_eq!(names, [b"user.own"]);
    set("user.overlay.redirect");
    let error = diff_upper(&upper, &view, OverlayAttributes::User).unwrap_err();
    assert!(matches!(error, DiffError::Attribute { .. }), "{error}");
    assert!(diff_upper(&upper, &view, OverlayAttributes::Trusted).is_ok());
}

#[test]
fn privileged_whiteouts_of_what_never_existed_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let lower = lower(at, &[("d", DIRECTORY), ("d/x", file("d/x"))]);
    directories(at, &["d"]);
    for name in ["d/x", "d/never"] {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            at.join(name),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        );
        if made.is_err() {
            crate::skip::skip("may not create device files");
            return;
        }
    }
    assert_eq!(diff(at, &lower), ["/d dir", "/d/x gone"]);
}
