//! Opening, refusing and sweeping state roots.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use longshore_content::{ContentError, StateRoot};
use longshore_oci::Digest;

#[test]
fn a_new_root_is_private_and_says_its_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let root = StateRoot::open(&path).unwrap();
    let mode = fs::metadata(root.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let format = fs::read_to_string(root.path().join("format")).unwrap();
    assert_eq!(format, "longshore-state 1\n");
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    let refused = StateRoot::open(dir.path());
    assert!(matches!(refused, Err(ContentError::Format { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    fs::write(dir.path().join("format"), "longshore-state 2\n").unwrap();
    match StateRoot::open(dir.path()) {
        Err(ContentError::Format { found, .. }) => assert_eq!(found, "longshore-state 2"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_newer_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    let database = rusqlite::Connection::open(dir.path().join("meta.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    let refused = StateRoot::open(dir.path());
    assert!(matches!(refused, Err(ContentError::Format { .. })));
}

#[test]
fn only_the_leftovers_of_dead_processes_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let living = StateRoot::open(dir.path()).unwrap();
    let mut writer = living.blobs().writer().unwrap();
    writer.write_all(b"unfinished").unwrap();
    let dead = "0123456789abcdef0123456789abcdef";
    let tmp = dir.path().join("tmp");
    fs::create_dir(tmp.join(dead)).unwrap();
    fs::write(tmp.join(dead).join("half"), "x").unwrap();
    fs::write(tmp.join(format!("{dead}.lock")), "").unwrap();

    let second = StateRoot::open(dir.path()).unwrap();
    assert!(!tmp.join(dead).exists());
    assert!(!tmp.join(format!("{dead}.lock")).exists());
    assert!(second.is_alive(living.process()).unwrap());
    writer.write_all(b" and finished").unwrap();
    let (digest, _) = writer.commit(None).unwrap();
    assert_eq!(
        second.blobs().read_all(&digest, 100).unwrap().unwrap(),
        b"unfinished and finished"
    );
}

#[test]
fn a_dropped_root_leaves_nothing_temporary_and_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let root = StateRoot::open(dir.path()).unwrap();
    let token = root.process().clone();
    let lease = root.leases().start("build", Duration::from_secs(3600));
    lease.add_blobs([&Digest::sha256_of(b"x")]).unwrap();
    std::mem::forget(lease);
    root.blobs().put(b"x").unwrap();
    assert_eq!(root.leases().list().unwrap().len(), 2);
    drop(root);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    let next = StateRoot::open(dir.path()).unwrap();
    assert!(!next.is_alive(&token).unwrap());
    assert!(next.leases().list().unwrap().is_empty());
}

#[test]
fn uploads_of_another_boot_are_discarded() {
    let dir = tempfile::tempdir().unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    let upload = dir.path().join("uploads/some-id");
    fs::write(&upload, "half").unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    assert!(upload.exists(), "same boot");
    fs::write(dir.path().join("boot"), "another").unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    assert!(!upload.exists());
}

#[test]
fn many_processes_may_open_a_new_root_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number: u8| {
                let path = &path;
                scope.spawn(move || {
                    let root = StateRoot::open(path).unwrap();
                    root.blobs().put(&[number]).unwrap()
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let root = StateRoot::open(&path).unwrap();
    for number in 0..8_u8 {
        assert!(
            root.blobs()
                .info(&Digest::sha256_of(&[number]))
                .unwrap()
                .is_some()
        );
    }
}
