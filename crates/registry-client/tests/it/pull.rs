//! Pulling from a registry that misbehaves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use http::Method;
use longshore_oci::{Algorithm, Descriptor, Digest, media_type};
use longshore_registry_client::{
    BlobStream, Direction, Error, ErrorClass, MANIFEST_ACCEPT, Transfer, TransferObserver,
    TransportFailure,
};
use tokio::io::AsyncReadExt as _;

use crate::fake::{Fake, Fault};
use crate::{client, noise};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

async fn all(stream: BlobStream) -> Result<Vec<u8>, Error> {
    let collected = stream.try_fold(Vec::new(), |mut all, piece| {
        all.extend_from_slice(&piece);
        std::future::ready(Ok(all))
    });
    collected.await
}

#[tokio::test]
async fn resolves_by_head_alone() {
    let fake = Fake::start().await;
    let expected = fake.put_manifest("a/b", "t", MANIFEST);
    let resolved = client().resolve(&fake.reference("a/b:t")).await.unwrap();
    assert_eq!(resolved.descriptor, expected);
    assert_eq!(resolved.from, fake.host());
    assert!(fake.seen(&Method::GET, "/manifests/").is_empty());
}

#[tokio::test]
async fn resolves_by_get_where_head_does_not_tell() {
    let fake = Fake::start().await;
    let expected = fake.put_manifest("a", "t", MANIFEST);
    fake.state().no_digest_headers = true;
    let resolved = client().resolve(&fake.reference("a:t")).await.unwrap();
    assert_eq!(resolved.descriptor, expected);
    fake.state().no_digest_headers = false;
    fake.fault(Method::HEAD, "/manifests/", 1, Fault::Status(405, vec![]));
    let resolved = client().resolve(&fake.reference("a:t")).await.unwrap();
    assert_eq!(resolved.descriptor, expected);
    assert_eq!(fake.seen(&Method::GET, "/manifests/").len(), 2);
}

#[tokio::test]
async fn fetches_a_manifest_by_tag_and_digest() {
    let fake = Fake::start().await;
    let expected = fake.put_manifest("a", "latest", MANIFEST);
    let client = client();
    for reference in [
        fake.reference("a"),
        fake.reference("a").with_digest(expected.digest),
    ] {
        let (descriptor, bytes) = client
            .fetch_manifest(&reference, MANIFEST_ACCEPT)
            .await
            .unwrap();
        assert_eq!(descriptor, expected);
        assert_eq!(bytes, MANIFEST);
    }
    let seen = &fake.seen(&Method::GET, "/manifests/")[0];
    let accepted: Vec<_> = seen.headers.get_all("accept").iter().collect();
    assert_eq!(accepted, MANIFEST_ACCEPT);
    assert!(seen.header("user-agent").unwrap().starts_with("longshore/"));
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let fake = Fake::start().await;
    let expected = fake.put_manifest("a", "t", MANIFEST);
    fake.fault(Method::GET, "/manifests/", 2, Fault::Corrupt);
    let by_digest = fake.reference("a").with_digest(expected.digest);
    for reference in [by_digest, fake.reference("a:t")] {
        let error = client()
            .fetch_manifest(&reference, MANIFEST_ACCEPT)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Upstream);
    }
}

#[tokio::test]
async fn a_sha512_reference_is_held_to_sha512() {
    let fake = Fake::start().await;
    fake.put_manifest("a", "t", MANIFEST);
    let digest = Digest::of(Algorithm::Sha512, MANIFEST.as_bytes());
    let entry = fake.state().manifests[&("a".to_owned(), "t".to_owned())].clone();
    let key = ("a".to_owned(), digest.to_string());
    fake.state().manifests.insert(key, entry);
    let reference = fake.reference("a").with_digest(digest);
    let (descriptor, _) = client()
        .fetch_manifest(&reference, MANIFEST_ACCEPT)
        .await
        .unwrap();
    assert_eq!(descriptor.digest, digest);
}

#[tokio::test]
async fn an_oversized_manifest_is_not_read() {
    let fake = Fake::start().await;
    let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(9 * 1024 * 1024));
    fake.put_manifest("a", "t", &huge);
    let error = client()
        .fetch_manifest(&fake.reference("a:t"), MANIFEST_ACCEPT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_manifest_says_so() {
    let fake = Fake::start().await;
    let error = client()
        .fetch_manifest(&fake.reference("a:nope"), MANIFEST_ACCEPT)
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.class(), ErrorClass::User);
    let host = fake.host();
    assert_eq!(
        error.to_string(),
        format!(
            "manifest `{host}/a:nope` not found on `{host}` \
             (404 MANIFEST_UNKNOWN: told by the fake)"
        )
    );
    let error = client()
        .resolve(&fake.reference("a:nope"))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
}

#[tokio::test]
async fn a_dead_registry_is_told_plainly() {
    let address = Fake::start().await.stop().await;
    let reference = format!("{address}/a:t").parse().unwrap();
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot reach registry `{address}`: connection refused")
    );
    assert_eq!(error.class(), ErrorClass::Environment);
}

#[tokio::test]
async fn passing_failures_are_waited_out() {
    let fake = Fake::start().await;
    let expected = fake.put_manifest("a", "t", MANIFEST);
    for fault in [
        Fault::Status(503, vec![]),
        Fault::Status(408, vec![]),
        Fault::Close,
        Fault::CutBody(5),
    ] {
        fake.fault(Method::GET, "/manifests/", 2, fault.clone());
        let fetched = client()
            .fetch_manifest(&fake.reference("a:t"), MANIFEST_ACCEPT)
            .await;
        assert_eq!(fetched.unwrap().0, expected, "{fault:?}");
    }
    fake.fault(Method::GET, "/manifests/", 9, Fault::Status(500, vec![]));
    let error = client()
        .fetch_manifest(&fake.reference("a:t"), MANIFEST_ACCEPT)
        .await
        .unwrap_err();
    assert_eq!(error.refusal().unwrap().status, 500);
    assert_eq!(error.class(), ErrorClass::Upstream);
}

#[tokio::test]
async fn retry_after_is_waited_for_by_everyone() {
    let fake = Fake::start().await;
    fake.put_manifest("a", "t", MANIFEST);
    let later = vec![("retry-after", "1".to_owned())];
    fake.fault(Method::HEAD, "/manifests/", 1, Fault::Status(429, later));
    let client = client();
    let reference = fake.reference("a:t");
    let begun = Instant::now();
    let first = client.resolve(&reference);
    let second = async {
        // The first has been told to wait, or is about to be: either way both have to.
        while fake.seen(&Method::HEAD, "/manifests/").is_empty() {
            tokio::task::yield_now().await;
        }
        client.resolve(&reference).await
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    second.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(fake.seen(&Method::HEAD, "/manifests/").len(), 3);
}

#[tokio::test]
async fn too_many_requests_in_the_end_is_an_error() {
    let fake = Fake::start().await;
    fake.fault(Method::HEAD, "/manifests/", 9, Fault::Status(429, vec![]));
    let error = client().resolve(&fake.reference("a:t")).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited(_)), "{error}");
}

#[tokio::test]
async fn streams_a_blob_and_verifies_it() {
    let fake = Fake::start().await;
    let content = noise(1, 300_000);
    let descriptor = fake.put_blob("a", &content);
    let client = client();
    let repository = fake.repository("a");
    let stream = client
        .fetch_blob(&repository, &descriptor, 0)
        .await
        .unwrap();
    assert_eq!(stream.size(), 300_000);
    assert_eq!(stream.from(), fake.host());
    assert_eq!(all(stream.verified()).await.unwrap(), content);
    let bytes = client.fetch_blob_bytes(&repository, &descriptor, 300_000);
    assert_eq!(bytes.await.unwrap(), content);
    let mut reader = client
        .fetch_blob(&repository, &descriptor, 100_000)
        .await
        .unwrap()
        .into_reader();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, content[100_000..]);
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed_where_it_was() {
    let fake = Fake::start().await;
    let content = noise(2, 400_000);
    let descriptor = fake.put_blob("a", &content);
    for fault in [Fault::CutBody(100_000), Fault::StallBody(100_000)] {
        fake.state().seen.clear();
        fake.fault(Method::GET, "/blobs/", 3, fault.clone());
        let client = client();
        let stream = client
            .fetch_blob(&fake.repository("a"), &descriptor, 0)
            .await;
        let got = all(stream.unwrap().verified()).await.unwrap();
        assert_eq!(got, content, "{fault:?}");
        let ranges: Vec<_> = fake
            .seen(&Method::GET, "/blobs/")
            .iter()
            .map(|seen| seen.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges.len(), 4, "{fault:?}");
        assert_eq!(ranges[0], None);
        assert_eq!(ranges[3].as_deref(), Some("bytes=300000-"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start_again() {
    let fake = Fake::start().await;
    let content = noise(3, 200_000);
    let descriptor = fake.put_blob("a", &content);
    fake.fault(Method::GET, "/blobs/", 1, Fault::CutBody(150_000));
    fake.fault(Method::GET, "/blobs/", 1, Fault::NoRange);
    let stream = client()
        .fetch_blob(&fake.repository("a"), &descriptor, 0)
        .await
        .unwrap();
    assert_eq!(all(stream.verified()).await.unwrap(), content);
}

#[tokio::test]
async fn a_blob_that_never_moves_is_given_up() {
    let fake = Fake::start().await;
    let content = noise(4, 100_000);
    let descriptor = fake.put_blob("a", &content);
    fake.fault(Method::GET, "/blobs/", 99, Fault::CutBody(0));
    let stream = client()
        .fetch_blob(&fake.repository("a"), &descriptor, 0)
        .await
        .unwrap();
    let error = all(stream).await.unwrap_err();
    let Error::Interrupted { failure, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(failure.kind(), TransportFailure::Closed);
    assert_eq!(fake.seen(&Method::GET, "/blobs/").len(), 4);
}

#[tokio::test]
async fn a_blob_with_other_content_never_ends_well() {
    let fake = Fake::start().await;
    let descriptor = fake.put_blob("a", &noise(5, 50_000));
    fake.fault(Method::GET, "/blobs/", 2, Fault::Corrupt);
    let client = client();
    let repository = fake.repository("a");
    let stream = client
        .fetch_blob(&repository, &descriptor, 0)
        .await
        .unwrap();
    let error = all(stream.verified()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let bytes = client.fetch_blob_bytes(&repository, &descriptor, 50_000);
    assert!(matches!(bytes.await, Err(Error::DigestMismatch { .. })));
}

#[tokio::test]
async fn a_blob_of_another_size_is_refused() {
    let fake = Fake::start().await;
    let descriptor = fake.put_blob("a", &noise(6, 1000));
    let client = client();
    for size in [999, 1001] {
        let described = Descriptor::new("x", descriptor.digest, size);
        let error = client
            .fetch_blob(&fake.repository("a"), &described, 0)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    }
    let beyond = client
        .fetch_blob(&fake.repository("a"), &descriptor, 1001)
        .await;
    assert!(matches!(beyond, Err(Error::SizeMismatch { .. })));
    let at_end = client
        .fetch_blob(&fake.repository("a"), &descriptor, 1000)
        .await;
    assert_eq!(all(at_end.unwrap()).await.unwrap(), b"");
    let too_large = client
        .fetch_blob_bytes(&fake.repository("a"), &descriptor, 999)
        .await;
    assert!(matches!(too_large, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn redirects_keep_the_range_and_drop_nothing_else() {
    let (registry, storage) = (Fake::start().await, Fake::start().await);
    let content = noise(7, 100_000);
    let descriptor = registry.put_blob("a", &content);
    storage.put_blob("a", &content);
    registry.state().redirect_blobs_to = Some(storage.url());
    let stream = client()
        .fetch_blob(&registry.repository("a"), &descriptor, 60_000)
        .await
        .unwrap();
    assert_eq!(all(stream).await.unwrap(), content[60_000..]);
    let seen = &storage.seen(&Method::GET, "/blobs/")[0];
    assert_eq!(seen.header("range"), Some("bytes=60000-"));
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let fake = Fake::start().await;
    let descriptor = fake.put_blob("a", &noise(8, 10));
    let own = fake.url();
    fake.state().redirect_blobs_to = Some(own);
    let error = client()
        .fetch_blob(&fake.repository("a"), &descriptor, 0)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn existence_is_asked_by_head() {
    let fake = Fake::start().await;
    let descriptor = fake.put_blob("a", &noise(9, 10));
    let (client, repository) = (client(), fake.repository("a"));
    assert!(
        client
            .blob_exists(&repository, &descriptor.digest)
            .await
            .unwrap()
    );
    let other = Digest::sha256_of(b"other");
    assert!(!client.blob_exists(&repository, &other).await.unwrap());
}

#[tokio::test]
async fn lists_tags_over_pages_and_the_catalog() {
    let fake = Fake::start().await;
    for tag in ["a", "b", "c", "d", "e"] {
        fake.put_manifest("x/y", tag, MANIFEST);
    }
    let client = client();
    let tags = client.list_tags(&fake.repository("x/y")).await.unwrap();
    assert_eq!(tags, ["a", "b", "c", "d", "e"]);
    assert_eq!(client.catalog(&fake.host()).await.unwrap(), ["x/y"]);
}

#[tokio::test]
async fn downloads_are_bounded_for_each_host() {
    let fake = Fake::start().await;
    let descriptor = fake.put_blob("a", &noise(10, 200_000));
    let mut options = crate::options();
    options.max_concurrency = 1;
    let client = longshore_registry_client::Client::new(options);
    let repository = fake.repository("a");
    let first = client
        .fetch_blob(&repository, &descriptor, 0)
        .await
        .unwrap();
    let second = client.fetch_blob(&repository, &descriptor, 0);
    let waited = tokio::time::timeout(Duration::from_millis(200), second).await;
    assert!(waited.is_err(), "a second download began");
    drop(first);
    client
        .fetch_blob(&repository, &descriptor, 0)
        .await
        .unwrap();
}

#[derive(Default)]
struct Log(Mutex<Vec<(Direction, u64, u64)>>);

impl TransferObserver for Log {
    fn transferred(&self, transfer: Transfer<'_>) {
        let entry = (
            transfer.direction,
            transfer.position_bytes,
            transfer.size_bytes,
        );
        self.0.lock().unwrap().push(entry);
    }
}

#[tokio::test]
async fn progress_grows_to_the_size_across_a_break() {
    let fake = Fake::start().await;
    let content = noise(11, 200_000);
    let descriptor = fake.put_blob("a", &content);
    fake.fault(Method::GET, "/blobs/", 1, Fault::CutBody(100_000));
    let log = Arc::new(Log::default());
    let client = client().with_observer(Arc::clone(&log) as Arc<dyn TransferObserver>);
    let stream = client
        .fetch_blob(&fake.repository("a"), &descriptor, 0)
        .await;
    all(stream.unwrap()).await.unwrap();
    let log = log.0.lock().unwrap();
    assert!(log.is_sorted_by_key(|(_, position, _)| *position));
    assert_eq!(log.last(), Some(&(Direction::Download, 200_000, 200_000)));
}

#[tokio::test]
async fn referrers_come_from_the_registry_or_the_fallback_tag() {
    let fake = Fake::start().await;
    let subject = fake.put_manifest("a", "t", MANIFEST);
    let client = client();
    let repository = fake.repository("a");
    for lists in [true, false] {
        fake.state().lists_referrers = lists;
        let found = client.referrers(&repository, &subject.digest, None).await;
        assert_eq!(found.unwrap(), [], "lists: {lists}");
    }
    for (lists, name) in [(true, "listed"), (false, "tagged")] {
        fake.state().lists_referrers = lists;
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"application/vnd.test",
                "config":{{"mediaType":"x","digest":"{}","size":2}},"layers":[],
                "subject":{{"mediaType":"x","digest":"{}","size":1}},"annotations":{{"n":"{name}"}}}}"#,
            media_type::OCI_MANIFEST,
            Digest::sha256_of(b"{}"),
            subject.digest
        );
        let bytes = bytes::Bytes::from(text);
        let target = repository.at_digest(Digest::sha256_of(&bytes));
        // Pushing twice enters it once.
        for _ in 0..2 {
            let pushed = client
                .push_manifest(&target, media_type::OCI_MANIFEST, bytes.clone())
                .await
                .unwrap();
            assert_eq!(Some(pushed), target.digest());
        }
        let has = |found: Vec<Descriptor>| {
            let digests = found
                .iter()
                .filter(|one| Some(one.digest) == target.digest());
            digests.count()
        };
        let found = client
            .referrers(&repository, &subject.digest, Some("application/vnd.test"))
            .await;
        assert_eq!(has(found.unwrap()), 1, "{name}");
        let none = client
            .referrers(&repository, &subject.digest, Some("other"))
            .await;
        assert_eq!(has(none.unwrap()), 0, "{name}");
    }
    let tag = format!("sha256-{}", subject.digest.hex());
    assert!(fake.state().manifests.contains_key(&("a".to_owned(), tag)));
}

#[tokio::test]
async fn racing_writers_lose_no_referrer() {
    let fake = Fake::start().await;
    let subject = fake.put_manifest("a", "t", MANIFEST);
    let (client, repository) = (client(), fake.repository("a"));
    let pushes = (0..4).map(|n| {
        let text = format!(
            r#"{{"schemaVersion":2,"layers":[],"subject":{{"mediaType":"x","digest":"{}","size":1}},"annotations":{{"n":"{n}"}}}}"#,
            subject.digest
        );
        let bytes = bytes::Bytes::from(text);
        let target = repository.at_digest(Digest::sha256_of(&bytes));
        let client = client.clone();
        async move {
            client
                .push_manifest(&target, media_type::OCI_MANIFEST, bytes)
                .await
        }
    });
    futures_util::future::try_join_all(pushes).await.unwrap();
    let found = client.referrers(&repository, &subject.digest, None).await;
    assert_eq!(found.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_run_on_tasks_of_their_own() {
    let fake = Fake::start().await;
    let content = noise(12, 100_000);
    let descriptor = fake.put_blob("a", &content);
    let (client, from, to) = (client(), fake.repository("a"), fake.repository("b"));
    let copied = tokio::spawn(async move {
        let bytes = client.fetch_blob_bytes(&from, &descriptor, 100_000).await?;
        let options = longshore_registry_client::UploadOptions::default();
        client
            .upload_blob(&to, &descriptor, Arc::new(bytes), &options)
            .await
    });
    copied.await.unwrap().unwrap();
    assert_eq!(
        fake.blob("b", &Digest::sha256_of(&content)).unwrap(),
        content
    );
}
