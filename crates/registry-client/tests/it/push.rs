//! Pushing to a registry that misbehaves.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use longshore_oci::{Descriptor, Digest, media_type};
use longshore_registry_client::{
    BlobReader, BlobSource, Error, FileSource, UploadOptions, Uploaded,
};

use crate::fake::{Fake, Fault};
use crate::{client, noise};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn described(content: &Bytes) -> Descriptor {
    Descriptor::of("application/octet-stream", content)
}

fn source(content: &Bytes) -> Arc<dyn BlobSource> {
    Arc::new(content.clone())
}

fn chunked(bytes: u64) -> UploadOptions {
    UploadOptions {
        chunk_bytes: NonZeroU64::new(bytes),
        ..UploadOptions::default()
    }
}

async fn upload(fake: &Fake, content: &Bytes, options: &UploadOptions) -> Result<Uploaded, Error> {
    let repository = fake.repository("a/b");
    client()
        .upload_blob(&repository, &described(content), source(content), options)
        .await
}

#[tokio::test]
async fn sends_a_blob_in_one_request() {
    let fake = Fake::start().await;
    let content = noise(1, 500_000);
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    let digest = described(&content).digest;
    assert_eq!(fake.blob("a/b", &digest).unwrap(), content);
    let puts = fake.seen(&Method::PUT, "/uploads/");
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0].header("content-length"), Some("500000"));
    assert!(puts[0].query.starts_with("state=kept&digest=sha256%3A"));
    // The second time, one question is enough.
    fake.state().seen.clear();
    let again = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(again.unwrap(), Uploaded::Existed);
    assert_eq!(fake.seen(&Method::POST, "").len(), 0);
}

#[tokio::test]
async fn sends_an_empty_blob() {
    let fake = Fake::start().await;
    let sent = upload(&fake, &Bytes::new(), &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(fake.blob("a/b", &Digest::sha256_of(b"")).unwrap().len(), 0);
}

#[tokio::test]
async fn sends_a_file() {
    let fake = Fake::start().await;
    let content = noise(2, 300_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    fake.fault(Method::PUT, "/uploads/", 1, Fault::CutUpload(100_000));
    let sent = client()
        .upload_blob(
            &fake.repository("a/b"),
            &described(&content),
            Arc::new(FileSource::new(file.path())),
            &UploadOptions::default(),
        )
        .await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(
        fake.blob("a/b", &described(&content).digest).unwrap(),
        content
    );
}

#[tokio::test]
async fn a_truncated_blob_on_the_other_side_is_sent_again() {
    let fake = Fake::start().await;
    let content = noise(3, 1000);
    let digest = described(&content).digest;
    let key = ("a/b".to_owned(), digest.to_string());
    fake.state().blobs.insert(key, content.slice(..10));
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(fake.blob("a/b", &digest).unwrap(), content);
}

#[tokio::test]
async fn a_broken_upload_is_resumed_where_the_registry_was() {
    let fake = Fake::start().await;
    let content = noise(4, 800_000);
    fake.fault(Method::PUT, "/uploads/", 1, Fault::CutUpload(300_000));
    fake.fault(Method::PATCH, "/uploads/", 1, Fault::CutUpload(200_000));
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    let patches = fake.seen(&Method::PATCH, "/uploads/");
    let ranges: Vec<_> = patches.iter().map(|s| s.header("content-range")).collect();
    assert_eq!(ranges, [Some("300000-799999"), Some("500000-799999")]);
    assert_eq!(
        fake.blob("a/b", &described(&content).digest).unwrap(),
        content
    );
    assert_eq!(fake.seen(&Method::POST, "/uploads/").len(), 1);
}

#[tokio::test]
async fn an_upload_that_cannot_be_resumed_begins_again() {
    let fake = Fake::start().await;
    let content = noise(5, 300_000);
    // The registry forgot the session, or does not take part of a blob.
    for refusal in [404, 400] {
        fake.state().blobs.clear();
        fake.state().seen.clear();
        fake.fault(Method::PUT, "/uploads/", 1, Fault::CutUpload(100_000));
        let path = "/uploads/";
        if refusal == 404 {
            fake.fault(Method::GET, path, 1, Fault::Status(404, vec![]));
        } else {
            fake.fault(Method::PATCH, path, 1, Fault::Status(400, vec![]));
        }
        let sent = upload(&fake, &content, &UploadOptions::default()).await;
        assert_eq!(sent.unwrap(), Uploaded::Sent, "{refusal}");
        assert_eq!(fake.seen(&Method::POST, path).len(), 2, "{refusal}");
        assert!(fake.state().uploads.is_empty(), "a session was left open");
    }
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let fake = Fake::start().await;
    let content = noise(6, 100_000);
    fake.fault(Method::PUT, "/uploads/", 1, Fault::LoseAnswer);
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(fake.seen(&Method::PUT, "/uploads/").len(), 1);
}

#[tokio::test]
async fn an_upload_that_always_breaks_is_given_up_and_cancelled() {
    let fake = Fake::start().await;
    let content = noise(7, 100_000);
    fake.fault(Method::PUT, "/uploads/", 99, Fault::Status(502, vec![]));
    let error = upload(&fake, &content, &UploadOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.refusal().unwrap().status, 502);
    assert_eq!(fake.seen(&Method::PUT, "/uploads/").len(), 4);
    assert!(fake.state().uploads.is_empty(), "a session was left open");
}

#[tokio::test]
async fn sends_chunks_of_the_size_that_both_sides_want() {
    let fake = Fake::start().await;
    let content = noise(8, 100_000);
    for (min, asked, expected) in [(None, 30_000, 4), (Some(60_000), 30_000, 2)] {
        fake.state().blobs.clear();
        fake.state().seen.clear();
        fake.state().chunk_min = min;
        let sent = upload(&fake, &content, &chunked(asked)).await;
        assert_eq!(sent.unwrap(), Uploaded::Sent);
        assert_eq!(fake.seen(&Method::PATCH, "/uploads/").len(), expected);
        assert_eq!(
            fake.blob("a/b", &described(&content).digest).unwrap(),
            content
        );
    }
    // A blob of one chunk needs no chunks.
    fake.state().blobs.clear();
    fake.state().seen.clear();
    upload(&fake, &content, &chunked(100_000)).await.unwrap();
    assert!(fake.seen(&Method::PATCH, "/uploads/").is_empty());
}

#[tokio::test]
async fn a_broken_chunk_is_resumed() {
    let fake = Fake::start().await;
    let content = noise(9, 100_000);
    fake.fault(Method::PATCH, "/uploads/", 1, Fault::CutUpload(10_000));
    fake.fault(Method::PATCH, "/uploads/", 1, Fault::LoseAnswer);
    let sent = upload(&fake, &content, &chunked(30_000)).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(
        fake.blob("a/b", &described(&content).digest).unwrap(),
        content
    );
    assert_eq!(fake.seen(&Method::POST, "/uploads/").len(), 1);
}

#[tokio::test]
async fn a_chunk_at_another_offset_is_put_right() {
    let fake = Fake::start().await;
    let content = noise(10, 100_000);
    fake.fault(Method::PATCH, "/uploads/", 1, Fault::Status(416, vec![]));
    let sent = upload(&fake, &content, &chunked(30_000)).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
}

#[tokio::test]
async fn mounts_instead_of_sending() {
    let fake = Fake::start().await;
    let content = noise(11, 50_000);
    let descriptor = fake.put_blob("other", &content);
    let options = UploadOptions {
        mount_from: Some(fake.repository("other")),
        ..UploadOptions::default()
    };
    let mounted = upload(&fake, &content, &options).await.unwrap();
    assert_eq!(mounted, Uploaded::Mounted);
    assert_eq!(fake.blob("a/b", &descriptor.digest).unwrap(), content);
    assert_eq!(
        fake.state().seen.len(),
        2,
        "the question of the scheme, and one more"
    );

    let client = client();
    let (to, from) = (fake.repository("c"), fake.repository("other"));
    assert!(
        client
            .mount_blob(&to, &descriptor.digest, &from)
            .await
            .unwrap()
    );
    let unknown = Digest::sha256_of(b"unknown");
    assert!(!client.mount_blob(&to, &unknown, &from).await.unwrap());
    assert!(!client.mount_blob(&to, &unknown, &to).await.unwrap());
    let elsewhere = "localhost:1/x".parse().unwrap();
    assert!(!client.mount_blob(&to, &unknown, &elsewhere).await.unwrap());
    assert!(fake.state().uploads.is_empty(), "a session was left open");
}

#[tokio::test]
async fn a_mount_that_does_not_happen_goes_on_in_its_session() {
    let fake = Fake::start().await;
    fake.state().no_mounts = true;
    let content = noise(12, 50_000);
    fake.put_blob("other", &content);
    let options = UploadOptions {
        mount_from: Some(fake.repository("other")),
        ..UploadOptions::default()
    };
    assert_eq!(
        upload(&fake, &content, &options).await.unwrap(),
        Uploaded::Sent
    );
    assert_eq!(fake.seen(&Method::POST, "/uploads/").len(), 1);
    // Refused altogether, it is an upload like any other.
    fake.state().blobs.clear();
    fake.fault(Method::POST, "/uploads/", 1, Fault::Status(403, vec![]));
    assert_eq!(
        upload(&fake, &content, &options).await.unwrap(),
        Uploaded::Sent
    );
}

#[tokio::test]
async fn other_content_than_described_is_refused_by_the_registry() {
    let fake = Fake::start().await;
    let content = noise(13, 1000);
    let wrong = Descriptor::new("x", Digest::sha256_of(b"other"), 1000);
    let error = client()
        .upload_blob(
            &fake.repository("a"),
            &wrong,
            source(&content),
            &UploadOptions::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(
        error.refusal().unwrap().code.as_deref(),
        Some("DIGEST_INVALID")
    );
    assert_eq!(
        fake.seen(&Method::PUT, "/uploads/").len(),
        1,
        "it was tried again"
    );
}

/// Fails after some bytes.
struct Failing(u64);

#[async_trait]
impl BlobSource for Failing {
    async fn open(&self, _offset: u64) -> io::Result<BlobReader> {
        let length = usize::try_from(self.0).unwrap();
        let bytes = io::Cursor::new(vec![0; length]);
        let broken =
            tokio_util::io::StreamReader::new(futures_util::stream::iter([Err::<Bytes, _>(
                io::Error::other("disk on fire"),
            )]));
        Ok(Box::pin(tokio::io::AsyncReadExt::chain(bytes, broken)))
    }
}

#[tokio::test]
async fn a_failing_source_is_to_blame_itself() {
    let fake = Fake::start().await;
    let descriptor = Descriptor::new("x", Digest::sha256_of(b""), 1_000_000);
    let short: Arc<dyn BlobSource> = Arc::new(Bytes::from_static(b"short"));
    let failing: Arc<dyn BlobSource> = Arc::new(Failing(100_000));
    for (source, text) in [(failing, "disk on fire"), (short, "ended before")] {
        let error = client()
            .upload_blob(
                &fake.repository("a"),
                &descriptor,
                source,
                &UploadOptions::default(),
            )
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(fake.state().uploads.is_empty(), "a session was left open");
    }
}

/// Never yields anything.
struct Silent;

#[async_trait]
impl BlobSource for Silent {
    async fn open(&self, _offset: u64) -> io::Result<BlobReader> {
        let (reader, writer) = tokio::io::duplex(16);
        // The writer stays open as long as the process.
        std::mem::forget(writer);
        Ok(Box::pin(reader))
    }
}

#[tokio::test]
async fn an_abandoned_upload_is_cancelled() {
    let fake = Fake::start().await;
    let descriptor = Descriptor::new("x", Digest::sha256_of(b""), 1000);
    let (client, repository, options) = (client(), fake.repository("a"), UploadOptions::default());
    let uploading = client.upload_blob(&repository, &descriptor, Arc::new(Silent), &options);
    let waited = tokio::time::timeout(Duration::from_millis(300), uploading).await;
    assert!(waited.is_err(), "nothing was sent, and yet it ended");
    for _ in 0..100 {
        if !fake.state().cancelled.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the session was not cancelled");
}

#[tokio::test]
async fn an_upload_that_stalls_is_noticed() {
    let fake = Fake::start().await;
    let descriptor = Descriptor::new("x", Digest::sha256_of(b""), 1000);
    let options = UploadOptions::default();
    let mut settings = crate::options();
    settings.retry.attempts = 1;
    settings.timeouts.idle = Duration::from_millis(100);
    let client = longshore_registry_client::Client::new(settings);
    let error = client
        .upload_blob(
            &fake.repository("a"),
            &descriptor,
            Arc::new(Silent),
            &options,
        )
        .await
        .unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn a_registry_that_takes_its_time_at_the_end_is_waited_for() {
    let fake = Fake::start().await;
    let content = noise(14, 1000);
    let slow = Fault::Delay(Duration::from_millis(1200));
    fake.fault(Method::PUT, "/uploads/", 1, slow);
    let mut settings = crate::options();
    settings.retry.attempts = 1;
    settings.timeouts.idle = Duration::from_millis(300);
    let client = longshore_registry_client::Client::new(settings);
    let sent = client
        .upload_blob(
            &fake.repository("a"),
            &described(&content),
            source(&content),
            &UploadOptions::default(),
        )
        .await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
}

#[tokio::test]
async fn pushes_and_deletes_a_manifest() {
    let fake = Fake::start().await;
    let client = client();
    let target = fake.reference("a:t");
    fake.fault(Method::PUT, "/manifests/", 2, Fault::Status(503, vec![]));
    let digest = client
        .push_manifest(&target, media_type::OCI_MANIFEST, Bytes::from(MANIFEST))
        .await
        .unwrap();
    assert_eq!(digest, Digest::sha256_of(MANIFEST.as_bytes()));
    let put = fake.seen(&Method::PUT, "/manifests/t").pop().unwrap();
    assert_eq!(put.header("content-type"), Some(media_type::OCI_MANIFEST));
    let resolved = client.resolve(&target).await.unwrap();
    assert_eq!(resolved.descriptor.digest, digest);
    client.delete_manifest(&target).await.unwrap();
    assert!(
        client
            .delete_manifest(&target)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(client.resolve(&target).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_registry_that_stored_something_else_is_caught() {
    let fake = Fake::start().await;
    let client = client();
    let other = Digest::sha256_of(b"other").to_string();
    let headers = vec![("docker-content-digest", other)];
    fake.fault(Method::PUT, "/manifests/", 1, Fault::Status(201, headers));
    let pushed = client
        .push_manifest(
            &fake.reference("a:t"),
            media_type::OCI_MANIFEST,
            Bytes::from(MANIFEST),
        )
        .await;
    assert!(matches!(pushed, Err(Error::DigestMismatch { .. })));
    let wrong = fake.reference("a").with_digest(Digest::sha256_of(b"other"));
    let pushed = client
        .push_manifest(&wrong, media_type::OCI_MANIFEST, Bytes::from(MANIFEST))
        .await;
    assert!(matches!(pushed, Err(Error::DigestMismatch { .. })));
}

#[tokio::test]
async fn upload_locations_may_be_absolute() {
    let fake = Fake::start().await;
    let own = fake.url();
    fake.state().location_prefix = own;
    let content = noise(15, 1000);
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
}

#[tokio::test]
async fn an_upload_waits_as_long_as_the_registry_asks() {
    let fake = Fake::start().await;
    let content = noise(16, 1000);
    let later = vec![("retry-after", "1".to_owned())];
    fake.fault(Method::PUT, "/uploads/", 1, Fault::Status(429, later));
    let begun = std::time::Instant::now();
    let sent = upload(&fake, &content, &UploadOptions::default()).await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}
