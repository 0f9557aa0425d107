//! Scans of real directories.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::{ContentError, ContentHash, EntryPath, FileStamp, Kind};

const AS_ROOT: ScanOptions = ScanOptions {
    owner: OwnerPolicy::Root,
    modes: ModePolicy::Host,
    times: TimePolicy::Host,
};

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

fn write(root: &Path, name: &str, content: &str) {
    let file = root.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

fn chmod(root: &Path, name: &str, mode: u32) {
    fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
}

fn scan(root: &Path) -> ContextTree {
    ContextTree::scan(root, &IncludeAll, &NoStatCache, &AS_ROOT).unwrap()
}

fn names(tree: &ContextTree) -> Vec<String> {
    tree.nodes()
        .iter()
        .map(|node| node.path.to_string())
        .collect()
}

fn hash(tree: &ContextTree, name: &str) -> Result<ContentHash, ContentError> {
    tree.content_hash(&path(name))
}

#[test]
fn a_scan_lists_everything_sorted_with_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b/z", "zz");
    write(dir.path(), "b-c", "");
    write(dir.path(), "a", "text");
    symlink("../nowhere", dir.path().join("b/link")).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("twin")).unwrap();
    chmod(dir.path(), "a", 0o4711);
    let tree = scan(dir.path());
    assert_eq!(
        names(&tree),
        ["/", "/a", "/b", "/b/link", "/b/z", "/b-c", "/twin"]
    );
    let node = |name: &str| tree.node(&path(name)).unwrap();
    assert_eq!(node("a").kind, Kind::File { size: 4 });
    assert_eq!(node("a").metadata.mode, 0o4711);
    let mtime = fs::metadata(dir.path().join("a")).unwrap().mtime();
    assert_eq!(node("a").metadata.mtime.seconds, mtime);
    assert!(node("a").linked && node("twin").linked && !node("b-c").linked);
    let target = b"../nowhere".to_vec();
    assert_eq!(node("b/link").kind, Kind::Symlink { target });
    assert_eq!(node("b/link").metadata.mode, 0o777);
    let children: Vec<_> = tree.children(&path("b")).map(|node| &node.path).collect();
    assert_eq!(children, [&path("b/link"), &path("b/z")]);
    assert_eq!(tree.children(&EntryPath::root()).count(), 4);
    assert_eq!(tree.children(&path("a")).count(), 0);
    assert_eq!(tree.children(&path("none")).count(), 0);
}

#[test]
fn owners_and_modes_are_seen_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "plain", "x");
    write(dir.path(), "run", "x");
    write(dir.path(), "sub/x", "x");
    chmod(dir.path(), "plain", 0o664);
    chmod(dir.path(), "run", 0o774);
    chmod(dir.path(), "sub", 0o2775);
    let host = ScanOptions {
        owner: OwnerPolicy::Host,
        modes: ModePolicy::Git,
        times: TimePolicy::Host,
    };
    let tree = ContextTree::scan(dir.path(), &IncludeAll, &NoStatCache, &host).unwrap();
    let mode = |name: &str| tree.node(&path(name)).unwrap().metadata.mode;
    assert_eq!(
        [mode("plain"), mode("run"), mode("sub"), mode("")],
        [0o644, 0o755, 0o755, 0o755]
    );
    let owner = fs::metadata(dir.path()).unwrap().uid();
    assert_eq!(tree.node(&path("run")).unwrap().metadata.uid, owner);
    let tree = scan(dir.path());
    assert!(tree.nodes().iter().all(|node| node.metadata.uid == 0));
    assert_eq!(tree.node(&path("sub")).unwrap().metadata.mode, 0o2775);
}

#[test]
fn privileged_owners_are_dropped_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "f", "x");
    let chowned = std::os::unix::fs::chown(dir.path().join("f"), Some(1234), Some(5678));
    if chowned.is_err() {
        crate::skip::skip("not allowed to change owners");
        return;
    }
    let host = ScanOptions {
        owner: OwnerPolicy::Host,
        ..AS_ROOT
    };
    let tree = ContextTree::scan(dir.path(), &IncludeAll, &NoStatCache, &host).unwrap();
    let metadata = &tree.node(&path("f")).unwrap().metadata;
    assert_eq!((metadata.uid, metadata.gid), (1234, 5678));
    let tree = scan(dir.path());
    let metadata = &tree.node(&path("f")).unwrap().metadata;
    assert_eq!((metadata.uid, metadata.gid), (0, 0));
}

#[test]
fn excluded_directories_stay_for_what_is_included_below() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "keep/a",
        "out/b",
        "out/deep/in",
        "out/other/c",
        "pruned/keep/x",
        "top",
    ] {
        write(dir.path(), name, "x");
    }
    let filter = |path: &EntryPath, is_directory: bool| {
        let text = path.to_string();
        assert_eq!(is_directory, dir.path().join(&text[1..]).is_dir());
        assert!(!text.starts_with("/pruned/"), "asked for {text}");
        match text.as_str() {
            "/out/deep/in" => Decision::Include,
            "/pruned" => Decision::Prune,
            text if text.starts_with("/out") => Decision::Exclude,
            _ => Decision::Include,
        }
    };
    let tree = ContextTree::scan(dir.path(), &filter, &NoStatCache, &AS_ROOT).unwrap();
    assert_eq!(
        names(&tree),
        [
            "/",
            "/keep",
            "/keep/a",
            "/out",
            "/out/deep",
            "/out/deep/in",
            "/top"
        ]
    );
    assert_eq!(tree.children(&path("out")).count(), 1);
    let nothing = |_: &EntryPath, _: bool| Decision::Exclude;
    let tree = ContextTree::scan(dir.path(), &nothing, &NoStatCache, &AS_ROOT).unwrap();
    assert_eq!(names(&tree), ["/"]);
}

#[test]
fn a_socket_is_an_empty_file_and_a_pipe_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), kind, mode, 0).unwrap();
    let tree = scan(dir.path());
    assert_eq!(
        tree.node(&path("socket")).unwrap().kind,
        Kind::File { size: 0 }
    );
    assert_eq!(tree.node(&path("pipe")).unwrap().kind, Kind::Fifo);
    let path = path("socket");
    assert_eq!(tree.notices(), [ScanNotice::Socket { path }]);
    assert_eq!(hash(&tree, "socket").unwrap(), ContentHash::of_empty());
    // Reading a pipe would wait for ever.
    assert!(hash(&tree, "pipe").is_err());
}

#[test]
fn digests_are_of_content() {
    let dir = tempfile::tempdir().unwrap();
    let large = "0123456789abcdef".repeat(100_000);
    write(dir.path(), "large", &large);
    write(dir.path(), "small", "x");
    write(dir.path(), "empty", "");
    let tree = scan(dir.path());
    let paths = ["large", "empty", "small"].map(path);
    assert_eq!(
        tree.content_hashes(&paths).unwrap(),
        [large.as_bytes(), b"", b"x"].map(ContentHash::of)
    );
    assert!(tree.content_hashes(&[path("small"), path("none")]).is_err());
}

#[test]
fn a_file_that_changed_since_the_scan_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["grown", "same-size", "replaced", "link", "gone", "d/f"] {
        write(dir.path(), name, "x");
    }
    write(dir.path(), "elsewhere/f", "x");
    let tree = scan(dir.path());
    let at = |name: &str| dir.path().join(name);
    write(dir.path(), "grown", "xy");
    std::thread::sleep(Duration::from_millis(20));
    write(dir.path(), "same-size", "y");
    fs::rename(at("elsewhere/f"), at("replaced")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("grown", at("link")).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    symlink("moved", at("d")).unwrap();
    for name in ["grown", "same-size", "replaced"] {
        let error = hash(&tree, name).unwrap_err();
        assert!(
            matches!(error, ContentError::Changed { .. }),
            "{name}: {error}"
        );
    }
    // A link that took a file's or a directory's place is not followed.
    for name in ["link", "gone", "d/f"] {
        assert!(hash(&tree, name).is_err(), "{name}");
    }
}

#[test]
fn unreadable_files_are_named_when_they_are_needed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "secret", "x");
    write(dir.path(), "closed/f", "x");
    chmod(dir.path(), "secret", 0);
    if fs::read(dir.path().join("secret")).is_ok() {
        crate::skip::skip("permissions do not bind this user");
        return;
    }
    let error = hash(&scan(dir.path()), "secret").unwrap_err();
    assert!(error.to_string().contains("/secret"), "{error}");
    chmod(dir.path(), "closed", 0);
    let scan = |filter: &dyn PathFilter| {
        ContextTree::scan(dir.path(), filter, &NoStatCache, &AS_ROOT).map(|tree| names(&tree))
    };
    let error = scan(&IncludeAll).unwrap_err();
    assert!(error.to_string().contains("/closed"), "{error}");
    let without = |path: &EntryPath, _: bool| match path.name() {
        b"closed" => Decision::Exclude,
        _ => Decision::Include,
    };
    assert_eq!(scan(&without).unwrap(), ["/", "/secret"]);
    chmod(dir.path(), "closed", 0o755);
}

#[test]
fn the_root_must_be_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "f", "x");
    for name in ["f", "none"] {
        let root = dir.path().join(name);
        let error = ContextTree::scan(&root, &IncludeAll, &NoStatCache, &AS_ROOT).unwrap_err();
        assert!(matches!(error, ScanError::Root { .. }), "{error}");
    }
    // A link to one will do.
    symlink(".", dir.path().join("self")).unwrap();
    assert_eq!(names(&scan(&dir.path().join("self"))), ["/", "/f", "/self"]);
}

#[test]
fn deep_trees_are_walked_and_too_deep_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 1000].join("/");
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    assert_eq!(scan(dir.path()).nodes().len(), 1001);
    fs::create_dir_all(dir.path().join(&deep).join(vec!["d"; 100].join("/"))).unwrap();
    let error = ContextTree::scan(dir.path(), &IncludeAll, &NoStatCache, &AS_ROOT).unwrap_err();
    assert!(matches!(error, ScanError::TooLong { .. }), "{error}");
}

struct Planted(FileStamp);

impl StatCache for Planted {
    fn lookup(&self, _path: &EntryPath, stamp: &FileStamp) -> Option<ContentHash> {
        (*stamp == self.0).then(|| ContentHash::of(b"planted"))
    }
}

#[test]
fn a_known_digest_is_taken_instead_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "one");
    write(dir.path(), "b", "two");
    let stamp = scan(dir.path()).node(&path("a")).unwrap().stamp;
    let tree = ContextTree::scan(dir.path(), &IncludeAll, &Planted(stamp), &AS_ROOT).unwrap();
    assert_eq!(hash(&tree, "a").unwrap(), ContentHash::of(b"planted"));
    assert_eq!(hash(&tree, "b").unwrap(), ContentHash::of(b"two"));
}

#[test]
fn fresh_files_are_racy_and_not_remembered() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(dir.path(), "f", "one");
    let tree = scan(dir.path());
    hash(&tree, "f").unwrap();
    StatCacheFile::load(cache.path(), dir.path())
        .store(&tree)
        .unwrap();
    assert!(StatCacheFile::load(cache.path(), dir.path()).is_empty());
}

#[test]
fn digests_are_remembered_until_the_file_changes() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["kept", "edited", "touched", "dropped", "unread"] {
        write(dir.path(), name, "one");
    }
    write(dir.path(), "empty", "");
    // Past the granularity of the coarsest file system clock, stamps are settled.
    std::thread::sleep(Duration::from_millis(3_200));
    let load = || StatCacheFile::load(cache.path(), dir.path());
    let rescan = || ContextTree::scan(dir.path(), &IncludeAll, &load(), &AS_ROOT).unwrap();

    let first = scan(dir.path());
    for name in ["kept", "edited", "touched", "dropped", "empty"] {
        hash(&first, name).unwrap();
    }
    load().store(&first).unwrap();
    assert_eq!(load().len(), 4);
    let known = |name: &str| {
        let node = first.node(&path(name)).unwrap();
        load().lookup(&node.path, &node.stamp)
    };
    assert_eq!(known("kept"), Some(ContentHash::of(b"one")));
    assert_eq!(known("unread"), None);

    // Same size, and the modification time put back: only ctime tells.
    let edited = dir.path().join("edited");
    let before = fs::metadata(&edited).unwrap();
    fs::write(&edited, "two").unwrap();
    let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
    fs::File::options()
        .write(true)
        .open(&edited)
        .unwrap()
        .set_times(times)
        .unwrap();
    let after = fs::metadata(&edited).unwrap();
    assert_eq!(
        (before.mtime_nsec(), before.size()),
        (after.mtime_nsec(), after.size())
    );
    write(dir.path(), "touched", "one");
    fs::remove_file(dir.path().join("dropped")).unwrap();

    let second = rescan();
    assert_eq!(hash(&second, "edited").unwrap(), ContentHash::of(b"two"));
    assert_eq!(hash(&second, "touched").unwrap(), ContentHash::of(b"one"));
    assert_eq!(hash(&second, "kept").unwrap(), ContentHash::of(b"one"));
    load().store(&second).unwrap();
    assert_eq!(known("kept"), Some(ContentHash::of(b"one")));
    assert_eq!(known("edited"), None);
    assert_eq!(known("touched"), None);
    // Perhaps another ignore file leaves it out: kept for some more builds.
    assert_eq!(known("dropped"), Some(ContentHash::of(b"one")));
    for _ in 0..20 {
        load().store(&second).unwrap();
    }
    assert_eq!(load().len(), 1);
}

#[test]
fn a_damaged_cache_is_ignored_and_replaced() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(dir.path(), "f", "one");
    let tree = scan(dir.path());
    std::thread::sleep(Duration::from_millis(3_200));
    hash(&tree, "f").unwrap();
    let load = || StatCacheFile::load(cache.path(), dir.path());
    load().store(&tree).unwrap();
    assert_eq!(load().len(), 1);
    let file = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap();
    fs::write(file.path(), "rubbish").unwrap();
    assert!(load().is_empty());
    load().store(&tree).unwrap();
    assert_eq!(load().len(), 1);
    let files = fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(files, 1, "no temporary file is left behind");
}
