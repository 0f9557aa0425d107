//! The n-th file operation fails, for each n: nothing half-written is visible, and a retry works.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use longshore_content::disk::FaultyDisk;
use longshore_content::{
    ByteRange, ContentError, ContentStore as _, Durability, LocalStore, StateRoot, UploadId,
};
use longshore_oci::{Algorithm, Digest};

const STEPS_MAX: u64 = 50;

struct Bench {
    _dir: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    root: StateRoot,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::new());
    let root = StateRoot::open_on(dir.path(), disk.clone()).unwrap();
    Bench {
        _dir: dir,
        disk,
        root,
    }
}

fn write(store: &LocalStore, content: &[u8]) -> Result<Digest, ContentError> {
    let mut writer = store.writer()?;
    for part in content.chunks(7) {
        writer.write_all(part).map_err(|source| ContentError::Io {
            doing: "write",
            path: "blob".into(),
            source,
        })?;
    }
    Ok(writer.commit(Some(&Digest::sha256_of(content)))?.0)
}

fn every_fault(durability: Durability) -> u64 {
    let bench = bench();
    let store = bench.root.blobs().with_durability(durability);
    for n in 0..STEPS_MAX {
        let content = format!("content number {n}");
        let digest = Digest::sha256_of(content.as_bytes());
        bench.disk.fail_nth(n);
        let result = write(&store, content.as_bytes());
        let failed = bench.disk.has_failed();
        bench.disk.fail_nth(u64::MAX);
        if !failed {
            result.unwrap();
            return n;
        }
        assert!(result.is_err(), "step {n} failed and nobody was told");
        assert_eq!(store.info(&digest).unwrap(), None, "step {n}");
        write(&store, content.as_bytes()).unwrap();
        assert_eq!(
            store.read_all(&digest, 100).unwrap().unwrap(),
            content.as_bytes()
        );
        let mine = std::fs::read_dir(bench.root.tmp_dir()).unwrap().count();
        assert_eq!(mine, 0, "step {n} left a file");
    }
    panic!("a commit takes more than {STEPS_MAX} steps");
}

#[test]
fn every_fault_of_a_commit_is_reported_and_nothing_is_visible() {
    // Create, three writes, sync, rename, sync of the directory.
    assert_eq!(every_fault(Durability::Published), 7);
}

#[test]
fn every_fault_of_a_cache_commit_is_reported_and_nothing_is_visible() {
    assert_eq!(every_fault(Durability::Cache), 5);
}

#[test]
fn a_failed_commit_leaves_an_existing_copy_readable() {
    let bench = bench();
    let digest = write(bench.root.blobs(), b"precious").unwrap();
    for n in 0..STEPS_MAX {
        bench.disk.fail_nth(n);
        let result = write(bench.root.blobs(), b"precious");
        let failed = bench.disk.has_failed();
        bench.disk.fail_nth(u64::MAX);
        let held = bench.root.blobs().read_all(&digest, 100).unwrap();
        assert_eq!(held.unwrap(), b"precious", "step {n}");
        if !failed {
            result.unwrap();
            return;
        }
    }
    panic!("no commit got through");
}

#[tokio::test]
async fn a_full_disk_takes_back_a_write_and_the_upload_goes_on() {
    let bench = bench();
    let store = bench.root.blobs().clone();
    let id = UploadId::random();
    let mut ingest = store.ingest(&id, Algorithm::Sha256).await.unwrap();
    ingest.write(Bytes::from_static(b"first,")).await.unwrap();
    ingest.flush().await.unwrap();
    bench.disk.fail_nth(0);
    ingest.write(Bytes::from_static(b"second,")).await.unwrap();
    let refused = ingest.flush().await.unwrap_err();
    assert!(refused.is_out_of_space(), "{refused}");
    assert_eq!(ingest.offset(), 6);
    drop(ingest);
    let mut ingest = store.ingest(&id, Algorithm::Sha256).await.unwrap();
    assert_eq!(
        ingest.offset(),
        6,
        "half of a write was taken back on disk too"
    );
    ingest.write(Bytes::from_static(b"third")).await.unwrap();
    let digest = Digest::sha256_of(b"first,third");
    ingest.commit(Some(&digest)).await.unwrap();
    assert!(store.stat(&digest).await.unwrap().is_some());
}

#[tokio::test]
async fn every_fault_of_an_upload_leaves_nothing_visible() {
    let bench = bench();
    let store = bench.root.blobs().clone();
    for n in 0..STEPS_MAX {
        let content = Bytes::from(format!("upload number {n}"));
        let digest = Digest::sha256_of(&content);
        let attempt = || async {
            let id = UploadId::random();
            let mut ingest = store.ingest(&id, Algorithm::Sha256).await?;
            ingest.write(content.clone()).await?;
            ingest.commit(Some(&digest)).await
        };
        bench.disk.fail_nth(n);
        let result = attempt().await;
        let failed = bench.disk.has_failed();
        bench.disk.fail_nth(u64::MAX);
        if !failed {
            result.unwrap();
            assert_eq!(n, 4, "write, sync, rename, sync of the directory");
            return;
        }
        assert!(result.is_err(), "step {n}");
        assert!(store.stat(&digest).await.unwrap().is_none(), "step {n}");
        assert!(store.read(&digest, ByteRange::ALL).await.unwrap().is_none());
        attempt().await.unwrap();
        assert!(store.stat(&digest).await.unwrap().is_some());
    }
    panic!("no upload got through");
}
