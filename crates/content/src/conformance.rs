//! What every [`ContentStore`] must do, as checks that each implementation runs.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = longshore_content::MemoryStore::new();
//! longshore_content::conformance::check(|| std::sync::Arc::new(store.clone())).await;
//! # });
//! ```

use std::sync::Arc;

use bytes::Bytes;
use longshore_oci::{Algorithm, Digest};

use crate::{BlobInfo, ByteRange, ContentError, ContentStore, Ingest, UploadId};

type Store = Arc<dyn ContentStore>;

/// Runs all checks. Every call of `open` must give a handle on the same content, and may close
/// the one before.
///
/// # Panics
/// When the store breaks the contract.
pub async fn check(open: impl Fn() -> Store) {
    absence_is_none(open()).await;
    nothing_is_visible_before_commit(open()).await;
    content_comes_back_whole(open()).await;
    ranges_are_cut_to_the_content(open()).await;
    empty_content_is_content(open()).await;
    every_algorithm_names_content(open()).await;
    wrong_digests_are_refused(open()).await;
    flushed_uploads_resume(&open).await;
    an_upload_has_one_ingest(open()).await;
    aborted_uploads_are_forgotten(open()).await;
    content_may_be_committed_again(open()).await;
    concurrent_commits_all_succeed(open()).await;
    open_readers_outlive_deletion(open()).await;
}

/// Content that no other check uses.
fn content(check: &str, size_bytes: usize) -> Bytes {
    let seed = Digest::sha256_of(check.as_bytes());
    let mut content = seed.as_bytes().iter().cycle().copied();
    (0..size_bytes)
        .map(|at| content.next().unwrap_or(0) ^ at.to_le_bytes()[1])
        .collect()
}

async fn begin(store: &Store, id: &UploadId) -> Box<dyn Ingest> {
    let opened = store.ingest(id, Algorithm::Sha256).await;
    opened.expect("an upload opens")
}

async fn store_content(store: &Store, content: &Bytes) -> BlobInfo {
    let mut ingest = begin(store, &UploadId::random()).await;
    let written = ingest.write(content.clone()).await;
    written.expect("a write succeeds");
    let committed = ingest.commit(Some(&Digest::sha256_of(content))).await;
    committed.expect("a commit succeeds")
}

async fn load(store: &Store, digest: &Digest, range: ByteRange) -> Option<Vec<u8>> {
    let opened = store.read(digest, range).await.expect("a read opens");
    let mut reader = opened?;
    let promised = reader.remaining_bytes();
    let mut content = Vec::new();
    while let Some(chunk) = reader.next().await.expect("a read succeeds") {
        assert!(!chunk.is_empty(), "an empty chunk would look like the end");
        content.extend_from_slice(&chunk);
    }
    assert_eq!(content.len() as u64, promised);
    Some(content)
}

async fn is_visible(store: &Store, digest: &Digest) -> bool {
    let stat = store.stat(digest).await.expect("a stat succeeds");
    let read = load(store, digest, ByteRange::ALL).await;
    assert_eq!(stat.is_some(), read.is_some(), "stat and read agree");
    stat.is_some()
}

async fn absence_is_none(store: Store) {
    let digest = Digest::sha256_of(b"absent");
    assert!(!is_visible(&store, &digest).await);
    assert!(!store.delete(&digest).await.expect("nothing to delete"));
}

async fn nothing_is_visible_before_commit(store: Store) {
    let content = content("before commit", 3000);
    let digest = Digest::sha256_of(&content);
    let mut ingest = begin(&store, &UploadId::random()).await;
    ingest.write(content.clone()).await.expect("write");
    assert!(!is_visible(&store, &digest).await);
    ingest.flush().await.expect("flush");
    assert!(!is_visible(&store, &digest).await);
    let info = ingest.commit(None).await.expect("commit");
    assert_eq!(info.digest, digest);
    assert!(is_visible(&store, &digest).await);
}

async fn content_comes_back_whole(store: Store) {
    let content = content("whole", 5 * 1024 * 1024 + 17);
    let digest = Digest::sha256_of(&content);
    let mut ingest = begin(&store, &UploadId::random()).await;
    let mut at = 0_usize;
    for size in [1, 0, 65_537, 1024 * 1024, 3, usize::MAX] {
        let end = content.len().min(at.saturating_add(size));
        ingest.write(content.slice(at..end)).await.expect("write");
        at = end;
        assert_eq!(ingest.offset(), at as u64);
    }
    let info = ingest.commit(Some(&digest)).await.expect("commit");
    assert_eq!(info.size_bytes, content.len() as u64);
    let stat = store.stat(&digest).await.expect("stat");
    assert_eq!(stat, Some(info));
    let loaded = load(&store, &digest, ByteRange::ALL).await;
    assert!(loaded.is_some_and(|loaded| loaded == content));
}

async fn ranges_are_cut_to_the_content(store: Store) {
    let content = content("ranges", 2_000_000);
    let digest = store_content(&store, &content).await.digest;
    for (start, end) in [
        (0, Some(1)),
        (1, Some(1_500_000)),
        (1_999_999, None),
        (5, Some(9_000_000)),
        (2_000_000, None),
        (3_000_000, Some(4_000_000)),
        (10, Some(3)),
    ] {
        let range = ByteRange { start, end };
        let first = usize::try_from(start).map_or(content.len(), |at| at.min(content.len()));
        let last = end.map_or(content.len(), |at| {
            usize::try_from(at).map_or(content.len(), |at| {
                at.clamp(first, content.len().max(first))
            })
        });
        let loaded = load(&store, &digest, range).await.expect("it is there");
        assert!(loaded == content[first..last], "{range:?}");
    }
}

async fn empty_content_is_content(store: Store) {
    let ingest = begin(&store, &UploadId::random()).await;
    let digest = Digest::sha256_of(b"");
    let info = ingest.commit(Some(&digest)).await.expect("commit");
    assert_eq!(info.size_bytes, 0);
    let loaded = load(&store, &digest, ByteRange::ALL).await;
    assert_eq!(loaded, Some(Vec::new()));
}

async fn every_algorithm_names_content(store: Store) {
    let content = content("algorithms", 100_000);
    let digests =
        [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| Digest::of(algorithm, &content));
    for expected in digests {
        for hint in digests {
            let id = UploadId::random();
            let opened = store.ingest(&id, hint.algorithm()).await;
            let mut ingest = opened.expect("an upload opens");
            ingest.write(content.clone()).await.expect("write");
            let info = ingest.commit(Some(&expected)).await.expect("commit");
            assert_eq!(info.digest, expected);
        }
        assert!(store.delete(&expected).await.expect("delete"));
        assert!(!is_visible(&store, &expected).await);
    }
    let id = UploadId::random();
    let opened = store.ingest(&id, Algorithm::Sha512).await;
    let mut ingest = opened.expect("an upload opens");
    ingest.write(content.clone()).await.expect("write");
    let info = ingest.commit(None).await.expect("commit");
    assert_eq!(
        info.digest, digests[1],
        "the hint decides where nothing is expected"
    );
}

async fn wrong_digests_are_refused(store: Store) {
    let content = content("wrong", 4000);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let wrong = Digest::of(algorithm, b"something else that nobody stored");
        let mut ingest = begin(&store, &UploadId::random()).await;
        ingest.write(content.clone()).await.expect("write");
        let refused = ingest.commit(Some(&wrong)).await;
        assert!(matches!(refused, Err(ContentError::DigestMismatch { .. })));
        assert!(!is_visible(&store, &wrong).await);
        assert!(!is_visible(&store, &Digest::of(algorithm, &content)).await);
    }
    store_content(&store, &content).await;
}

async fn flushed_uploads_resume(open: &impl Fn() -> Store) {
    let content = content("resume", 3_000_000);
    let digest = Digest::sha256_of(&content);
    let id = UploadId::random();
    let mut written = 0;
    for end in [1_000_000, 1_000_001, 2_500_000] {
        let store = open();
        let mut ingest = begin(&store, &id).await;
        assert_eq!(ingest.offset(), written as u64);
        ingest
            .write(content.slice(written..end))
            .await
            .expect("write");
        ingest.flush().await.expect("flush");
        written = end;
        assert!(!is_visible(&store, &digest).await);
    }
    let store = open();
    let mut ingest = begin(&store, &id).await;
    ingest.write(content.slice(written..)).await.expect("write");
    ingest.commit(Some(&digest)).await.expect("commit");
    let loaded = load(&store, &digest, ByteRange::ALL).await;
    assert!(loaded.is_some_and(|loaded| loaded == content));
    let again = begin(&store, &id).await;
    assert_eq!(again.offset(), 0, "a committed upload is used up");
    again.abort().await.expect("abort");
}

async fn an_upload_has_one_ingest(store: Store) {
    let id = UploadId::random();
    let ingest = begin(&store, &id).await;
    let second = store.ingest(&id, Algorithm::Sha256).await;
    assert!(matches!(second, Err(ContentError::UploadBusy(_))));
    drop(ingest);
    begin(&store, &id).await.abort().await.expect("abort");
}

async fn aborted_uploads_are_forgotten(store: Store) {
    let id = UploadId::random();
    let mut ingest = begin(&store, &id).await;
    ingest
        .write(Bytes::from_static(b"abc"))
        .await
        .expect("write");
    ingest.flush().await.expect("flush");
    ingest.abort().await.expect("abort");
    let ingest = begin(&store, &id).await;
    assert_eq!(ingest.offset(), 0);
    ingest.abort().await.expect("abort");
}

async fn content_may_be_committed_again(store: Store) {
    let content = content("again", 50_000);
    let first = store_content(&store, &content).await;
    let second = store_content(&store, &content).await;
    assert_eq!(first, second);
    assert!(store.delete(&first.digest).await.expect("delete"));
    assert!(!is_visible(&store, &first.digest).await);
    store_content(&store, &content).await;
    assert!(is_visible(&store, &first.digest).await);
}

async fn concurrent_commits_all_succeed(store: Store) {
    let content = content("concurrent", 300_000);
    let digest = Digest::sha256_of(&content);
    let mut commits = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, content) = (Arc::clone(&store), content.clone());
        commits.spawn(async move { store_content(&store, &content).await });
    }
    while let Some(committed) = commits.join_next().await {
        assert_eq!(committed.expect("no commit panics").digest, digest);
        let loaded = load(&store, &digest, ByteRange::ALL).await;
        assert!(loaded.is_some_and(|loaded| loaded == content));
    }
}

async fn open_readers_outlive_deletion(store: Store) {
    let content = content("deleted", 2_000_000);
    let digest = store_content(&store, &content).await.digest;
    let opened = store.read(&digest, ByteRange::ALL).await.expect("open");
    let mut reader = opened.expect("it is there");
    let mut loaded = Vec::new();
    loaded.extend(reader.next().await.expect("read").expect("more"));
    assert!(store.delete(&digest).await.expect("delete"));
    assert!(!is_visible(&store, &digest).await);
    while let Some(chunk) = reader.next().await.expect("read") {
        loaded.extend_from_slice(&chunk);
    }
    assert!(loaded == content);
}
