//! Uploads: whole, in chunks, as a stream; interrupted, wrong, concurrent.

use std::time::Duration;

use longshore_oci::{Algorithm, Digest};
use longshore_registry_server::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Client, TestRegistry};

const CONTENT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// That a repository `a` serves a blob of this content.
async fn assert_blob(registry: &TestRegistry, digest: &Digest, content: &[u8]) {
    let path = format!("/v2/a/blobs/{digest}");
    let blob = registry.get(&path).await.expect(200);
    assert!(blob.body == content, "{} bytes", blob.body.len());
}

async fn assert_status(client: &Client, location: &str, range: &str) {
    let reply = client.get(location).await.expect(204);
    assert_eq!(reply.header("range"), range);
    assert_eq!(reply.header("location"), location);
    assert!(!reply.has("content-length"), "204 has no content");
}

#[tokio::test]
async fn one_post_is_enough() {
    let registry = TestRegistry::start().await;
    registry.push("a", CONTENT).await;
}

#[tokio::test]
async fn post_then_put() {
    let registry = TestRegistry::start().await;
    let digest = Digest::sha256_of(CONTENT);
    let location = registry.start("a").await;
    let reply = registry
        .finish(&location, &digest, CONTENT)
        .await
        .expect(201);
    let blob = reply.header("location").to_owned();
    assert_eq!(registry.get(&blob).await.expect(200).body, CONTENT);
    registry
        .get(&location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn chunks_in_order() {
    let registry = TestRegistry::start().await;
    let digest = Digest::sha256_of(CONTENT);
    let location = registry.start("a").await;
    let reply = registry
        .patch(&location, "0-9", &CONTENT[..10])
        .await
        .expect(202);
    assert_eq!(reply.header("range"), "0-9");
    assert_eq!(reply.header("location"), location);
    assert!(reply.has("docker-upload-uuid"));
    let reply = registry
        .patch(&location, "10-10", &CONTENT[10..11])
        .await
        .expect(202);
    assert_eq!(reply.header("range"), "0-10");
    registry
        .patch(&location, "bytes 11-19/*", &CONTENT[11..20])
        .await
        .expect(202);
    let put = format!("{location}?digest={digest}");
    let range = [("content-range", "20-35")];
    let last = CONTENT[20..].to_vec();
    registry.send("PUT", &put, &range, last).await.expect(201);
    assert_blob(&registry, &digest, CONTENT).await;
}

#[tokio::test]
async fn chunks_out_of_order_are_refused_and_the_session_lives() {
    let registry = TestRegistry::start().await;
    let digest = Digest::sha256_of(CONTENT);
    let location = registry.start("a").await;
    let reply = registry.patch(&location, "5-14", &CONTENT[5..15]).await;
    let reply = reply.refused(416, "RANGE_INVALID");
    assert_eq!(reply.header("location"), location);
    assert_eq!(reply.header("range"), "0-0");
    assert_status(&registry, &location, "0-0").await;
    registry
        .patch(&location, "0-9", &CONTENT[..10])
        .await
        .expect(202);
    registry
        .patch(&location, "0-9", &CONTENT[..10])
        .await
        .refused(416, "RANGE_INVALID");
    assert_status(&registry, &location, "0-9").await;
    let put = format!("{location}?digest={digest}");
    let skipped = [("content-range", "15-24")];
    let reply = registry
        .send("PUT", &put, &skipped, CONTENT[15..25].to_vec())
        .await;
    reply.refused(416, "RANGE_INVALID");
    assert_status(&registry, &location, "0-9").await;
    registry
        .patch(&location, "10-34", &CONTENT[10..35])
        .await
        .expect(202);
    let right = [("content-range", "35-35")];
    registry
        .send("PUT", &put, &right, CONTENT[35..].to_vec())
        .await
        .expect(201);
    assert_blob(&registry, &digest, CONTENT).await;
}

#[tokio::test]
async fn a_chunk_is_as_long_as_it_says() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    registry
        .patch(&location, "0-8", &CONTENT[..10])
        .await
        .refused(400, "SIZE_INVALID");
    registry
        .patch(&location, "0-10", &CONTENT[..10])
        .await
        .refused(400, "SIZE_INVALID");
    assert_status(&registry, &location, "0-0").await;
    for nonsense in ["9-0", "x", "bytes=0-9"] {
        let reply = registry.patch(&location, nonsense, &CONTENT[..10]).await;
        reply.refused(416, "RANGE_INVALID");
    }
    assert_status(&registry, &location, "0-0").await;
}

#[tokio::test]
async fn a_stream_has_no_ranges() {
    let registry = TestRegistry::start().await;
    let content: Vec<u8> = CONTENT.iter().copied().cycle().take(5_000_000).collect();
    let digest = Digest::sha256_of(&content);
    let location = registry.start("a").await;
    registry
        .patch(&location, "", &content[..3_000_000])
        .await
        .expect(202);
    let reply = registry
        .patch(&location, "", &content[3_000_000..])
        .await
        .expect(202);
    assert_eq!(reply.header("range"), "0-4999999");
    registry.finish(&location, &digest, b"").await.expect(201);
    assert_blob(&registry, &digest, &content).await;
}

#[tokio::test]
async fn a_wrong_digest_is_refused_in_every_way() {
    let registry = TestRegistry::start().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let wrong = Digest::of(algorithm, b"something else");
        let path = format!("/v2/a/blobs/uploads/?digest={wrong}");
        let reply = registry.send("POST", &path, &[], CONTENT.to_vec()).await;
        reply.refused(400, "DIGEST_INVALID");
        let location = registry.start("a").await;
        registry
            .finish(&location, &wrong, CONTENT)
            .await
            .refused(400, "DIGEST_INVALID");
        let location = registry.start("a").await;
        registry.patch(&location, "0-35", CONTENT).await.expect(202);
        registry
            .finish(&location, &wrong, b"")
            .await
            .refused(400, "DIGEST_INVALID");
        let location = registry.start("a").await;
        registry.patch(&location, "", CONTENT).await.expect(202);
        registry
            .finish(&location, &wrong, b"")
            .await
            .refused(400, "DIGEST_INVALID");
        registry
            .head(&format!("/v2/a/blobs/{wrong}"))
            .await
            .expect(404);
    }
    let right = Digest::sha256_of(CONTENT);
    registry
        .head(&format!("/v2/a/blobs/{right}"))
        .await
        .expect(404);
    let uploads = std::fs::read_dir(registry.dir.path().join("uploads")).unwrap();
    assert_eq!(uploads.count(), 0, "what was refused is not kept");
}

#[tokio::test]
async fn an_upload_needs_a_valid_digest_to_finish() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    registry.patch(&location, "", CONTENT).await.expect(202);
    for query in ["", "?digest=", "?digest=sha256:xyz", "?digest=md5:00"] {
        let path = format!("{location}{query}");
        registry
            .send("PUT", &path, &[], "")
            .await
            .refused(400, "DIGEST_INVALID");
    }
    assert_status(&registry, &location, "0-35").await;
}

#[tokio::test]
async fn sha512_uploads_with_and_without_a_hint() {
    let registry = TestRegistry::start().await;
    let digest = Digest::of(Algorithm::Sha512, CONTENT);
    for query in ["?digest-algorithm=sha512", ""] {
        let path = format!("/v2/a/blobs/uploads/{query}");
        let reply = registry.post(&path).await.expect(202);
        let location = reply.header("location").to_owned();
        registry
            .patch(&location, "0-9", &CONTENT[..10])
            .await
            .expect(202);
        registry
            .patch(&location, "10-35", &CONTENT[10..])
            .await
            .expect(202);
        let reply = registry.finish(&location, &digest, b"").await.expect(201);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    }
    registry
        .post("/v2/a/blobs/uploads/?digest-algorithm=md5")
        .await
        .refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    registry.patch(&location, "", CONTENT).await.expect(202);
    registry.delete(&location).await.expect(204);
    registry
        .delete(&location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry
        .get(&location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry
        .patch(&location, "", CONTENT)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let uploads = std::fs::read_dir(registry.dir.path().join("uploads")).unwrap();
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "DELETE"] {
        let reply = registry.send(method, &elsewhere, &[], "x").await;
        reply.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    assert_status(&registry, &location, "0-0").await;
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let registry = TestRegistry::start().await;
    let digest = Digest::sha256_of(CONTENT);
    let location = registry.start("a").await;
    registry
        .patch(&location, "0-9", &CONTENT[..10])
        .await
        .expect(202);
    let dir = registry.stop().await;
    let registry = TestRegistry::start_with(dir, Options::open_to_all()).await;
    assert_status(&registry, &location, "0-9").await;
    registry
        .patch(&location, "10-35", &CONTENT[10..])
        .await
        .expect(202);
    registry.finish(&location, &digest, b"").await.expect(201);
}

/// A client that breaks off in the middle of a chunk, as on a bad line.
async fn send_half(client: &Client, location: &str, promised: usize, sent: &[u8]) {
    let mut stream = TcpStream::connect(client.0).await.unwrap();
    let head =
        format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: {promised}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
}

#[tokio::test]
async fn what_arrived_before_a_connection_broke_is_kept() {
    let registry = TestRegistry::start().await;
    let digest = Digest::sha256_of(CONTENT);
    let location = registry.start("a").await;
    send_half(&registry, &location, 36, &CONTENT[..20]).await;
    assert_status(&registry, &location, "0-19").await;
    registry
        .patch(&location, "20-35", &CONTENT[20..])
        .await
        .expect(202);
    registry.finish(&location, &digest, b"").await.expect(201);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_an_upload_forever() {
    let options = Options {
        body_idle_timeout: Duration::from_millis(200),
        ..Options::open_to_all()
    };
    let registry = TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await;
    let location = registry.start("a").await;
    let mut stream = TcpStream::connect(registry.0).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert_status(&registry, &location, "0-2").await;
}

#[tokio::test]
async fn the_status_of_an_upload_that_is_being_written_is_told() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    let mut stream = TcpStream::connect(registry.0).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nabc");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_status(&registry, &location, "0-2").await;
}

#[tokio::test]
async fn two_writers_of_one_upload_do_not_mix() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    let (one, two) = tokio::join!(
        registry.patch(&location, "0-9", &CONTENT[..10]),
        registry.patch(&location, "0-9", &CONTENT[..10]),
    );
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 416]);
    assert_status(&registry, &location, "0-9").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_blob_may_be_pushed_by_many_at_once() {
    let registry = TestRegistry::start().await;
    let client = registry.client;
    let mut pushes = tokio::task::JoinSet::new();
    for number in 0..12 {
        pushes.spawn(async move {
            let content: Vec<u8> = CONTENT.iter().copied().cycle().take(1_500_000).collect();
            let repository = format!("r{}", number % 3);
            let digest = client.push(&repository, &content).await;
            let path = format!("/v2/{repository}/blobs/{digest}");
            assert!(client.get(&path).await.expect(200).body == content);
        });
    }
    while let Some(pushed) = pushes.join_next().await {
        pushed.unwrap();
    }
}

#[tokio::test]
async fn a_blob_larger_than_allowed_is_refused() {
    let options = Options {
        blob_bytes_max: Some(20),
        ..Options::open_to_all()
    };
    let registry = TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await;
    registry.push("a", &CONTENT[..20]).await;
    let digest = Digest::sha256_of(CONTENT);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let reply = registry.send("POST", &path, &[], CONTENT.to_vec()).await;
    reply.refused(413, "SIZE_INVALID");
    let location = registry.start("a").await;
    registry
        .patch(&location, "", CONTENT)
        .await
        .refused(413, "SIZE_INVALID");
}

#[tokio::test]
async fn a_refused_body_is_not_asked_for() {
    let registry = TestRegistry::start().await;
    let location = registry.start("a").await;
    let mut stream = TcpStream::connect(registry.0).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\
         content-range: 5-14\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 416");
}
