//! Damaged blobs are never served, and writing the content again restores them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::SystemTime;

use longshore_content::{Durability, Soundness, StateRoot};
use longshore_oci::{Algorithm, Digest};

fn flip_a_byte(path: &Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
}

fn root() -> (tempfile::TempDir, StateRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = StateRoot::open(dir.path()).unwrap();
    (dir, root)
}

#[test]
fn a_flipped_byte_hides_the_blob_until_it_is_written_again() {
    let (_dir, root) = root();
    let blobs = root.blobs();
    let digest = blobs.put(b"some content").unwrap();
    flip_a_byte(&blobs.blob_path(&digest));
    assert!(blobs.open(&digest).unwrap().is_none());
    assert!(!blobs.blob_path(&digest).exists());
    blobs.put(b"some content").unwrap();
    assert_eq!(
        blobs.read_all(&digest, 100).unwrap().unwrap(),
        b"some content"
    );
}

#[test]
fn a_truncated_or_lost_file_hides_the_blob_until_it_is_written_again() {
    let (_dir, root) = root();
    let blobs = root.blobs();
    let digest = blobs.put(b"some content").unwrap();
    File::create(blobs.blob_path(&digest)).unwrap();
    assert_eq!(blobs.info(&digest).unwrap(), None);
    blobs.put(b"some content").unwrap();
    assert!(blobs.info(&digest).unwrap().is_some());
    fs::remove_file(blobs.blob_path(&digest)).unwrap();
    assert_eq!(blobs.info(&digest).unwrap(), None);
    blobs.put(b"some content").unwrap();
    assert!(blobs.info(&digest).unwrap().is_some());
}

/// What a disk does to content without telling: the times stay.
#[test]
fn rot_is_found_by_verifying_and_healed_by_writing_again() {
    let (_dir, root) = root();
    let blobs = root.blobs();
    let digest = blobs.put(b"some content").unwrap();
    let path = blobs.blob_path(&digest);
    assert_eq!(blobs.verify(&digest).unwrap(), Some(Soundness::Sound));
    flip_a_byte(&path);
    assert_eq!(blobs.verify(&digest).unwrap(), Some(Soundness::Removed));
    assert_eq!(blobs.verify(&digest).unwrap(), None);
    let absent = Digest::of(Algorithm::Sha512, b"absent");
    assert_eq!(blobs.verify(&absent).unwrap(), None);
    blobs.put(b"some content").unwrap();
    assert_eq!(blobs.verify(&digest).unwrap(), Some(Soundness::Sound));
}

#[test]
fn a_push_replaces_a_copy_whose_damage_nobody_saw() {
    let (_dir, root) = root();
    let blobs = root.blobs();
    let digest = blobs.put(b"some content").unwrap();
    flip_a_byte(&blobs.blob_path(&digest));
    let mut writer = blobs.writer().unwrap();
    std::io::Write::write_all(&mut writer, b"some content").unwrap();
    writer.commit(Some(&digest)).unwrap();
    assert_eq!(blobs.verify(&digest).unwrap(), Some(Soundness::Sound));
}

#[test]
fn a_sound_file_with_other_times_is_believed_after_hashing() {
    let (_dir, root) = root();
    let blobs = root.blobs();
    let digest = blobs.put(b"some content").unwrap();
    let file = File::options()
        .write(true)
        .open(blobs.blob_path(&digest))
        .unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(
        blobs.read_all(&digest, 100).unwrap().unwrap(),
        b"some content"
    );
}

#[test]
fn cached_content_is_hashed_again_after_a_reboot() {
    let (dir, root) = root();
    let cache = root.cache_blobs();
    let whole = cache.put(b"whole after the power cut").unwrap();
    let torn = cache.put(b"torn by the power cut").unwrap();
    let published = root
        .blobs()
        .put(b"torn but synced, so it cannot be")
        .unwrap();
    let database = rusqlite::Connection::open(dir.path().join("meta.db")).unwrap();
    // The same as another boot: rows of cached content name the one that wrote them.
    let rows = database
        .execute(
            "UPDATE blobs SET boot = 'earlier' WHERE boot IS NOT NULL",
            [],
        )
        .unwrap();
    assert_eq!(rows, 2);
    let path = cache.blob_path(&torn);
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    flip_a_byte(&path);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(times)
        .unwrap();
    assert!(cache.info(&whole).unwrap().is_some());
    assert_eq!(cache.info(&torn).unwrap(), None);
    assert!(cache.info(&published).unwrap().is_some());
}

#[test]
fn publishing_makes_cached_content_durable_and_writing_it_to_the_cache_again_does_not_undo_it() {
    let (dir, root) = root();
    let digest = root.cache_blobs().put(b"result").unwrap();
    let boot = || -> Option<String> {
        let database = rusqlite::Connection::open(dir.path().join("meta.db")).unwrap();
        let sql = "SELECT boot FROM blobs WHERE digest = ?1";
        database
            .query_row(sql, [digest.to_string()], |row| row.get(0))
            .unwrap()
    };
    assert!(boot().is_some());
    assert!(root.blobs().publish(&digest).unwrap());
    assert_eq!(boot(), None);
    let inode = |root: &StateRoot| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(root.blobs().blob_path(&digest)).unwrap().ino()
    };
    let before = inode(&root);
    let mut writer = root.cache_blobs().writer().unwrap();
    std::io::Write::write_all(&mut writer, b"result").unwrap();
    writer.commit(None).unwrap();
    assert_eq!((boot(), inode(&root)), (None, before));
    let absent = Digest::sha256_of(b"absent");
    assert!(!root.blobs().publish(&absent).unwrap());
    assert_eq!(
        root.blobs()
            .with_durability(Durability::Cache)
            .put(b"result")
            .unwrap(),
        digest
    );
}
