//! Reading, removing and mounting blobs.

use longshore_oci::{Algorithm, Digest};

use crate::harness::TestRegistry;

fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
        .collect()
}

#[tokio::test]
async fn the_base_answers() {
    let registry = TestRegistry::start().await;
    for path in ["/v2/", "/v2"] {
        registry.get(path).await.expect(200);
        registry.head(path).await.expect(200);
    }
    registry.get("/").await.refused(404, "UNSUPPORTED");
    registry
        .get("/v2/x/what/ever")
        .await
        .refused(404, "UNSUPPORTED");
    let reply = registry
        .delete("/v2/_catalog")
        .await
        .refused(405, "UNSUPPORTED");
    assert_eq!(reply.header("allow"), "GET, HEAD");
}

#[tokio::test]
async fn a_blob_comes_back_whole() {
    let registry = TestRegistry::start().await;
    for size in [0, 1, 2, 100_000, 3 * 1024 * 1024 + 1] {
        let content = content(size);
        let digest = registry.push("a/b", &content).await;
        let path = format!("/v2/a/b/blobs/{digest}");
        let head = registry.head(&path).await.expect(200);
        let get = registry.get(&path).await.expect(200);
        assert!(get.body == content);
        for reply in [head, get] {
            assert_eq!(reply.header("content-length"), size.to_string());
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
            assert_eq!(reply.header("etag"), format!("\"{digest}\""));
            assert_eq!(reply.header("accept-ranges"), "bytes");
            assert_eq!(reply.header("content-type"), "application/octet-stream");
        }
    }
}

#[tokio::test]
async fn unknown_and_invalid_blobs_are_told_apart() {
    let registry = TestRegistry::start().await;
    registry.push("a", b"x").await;
    let absent = Digest::sha256_of(b"absent");
    for method in ["GET", "DELETE"] {
        let path = format!("/v2/a/blobs/{absent}");
        registry
            .send(method, &path, &[], "")
            .await
            .refused(404, "BLOB_UNKNOWN");
        let path = format!("/v2/unknown/blobs/{absent}");
        registry
            .send(method, &path, &[], "")
            .await
            .refused(404, "NAME_UNKNOWN");
    }
    let head = registry
        .head(&format!("/v2/a/blobs/{absent}"))
        .await
        .expect(404);
    assert!(head.header("content-length").parse::<usize>().unwrap() > 0);
    registry
        .get("/v2/a/blobs/sha256:bad")
        .await
        .refused(400, "DIGEST_INVALID");
    registry
        .get("/v2/A/blobs/sha256:bad")
        .await
        .refused(400, "DIGEST_INVALID");
    registry
        .get(&format!("/v2/A/blobs/{absent}"))
        .await
        .refused(400, "NAME_INVALID");
}

#[tokio::test]
async fn ranges_answer_with_exactly_what_was_asked_for() {
    let registry = TestRegistry::start().await;
    let content = content(3000);
    let digest = registry.push("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, first, last) in [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2999),
        ("bytes=-500", 2500, 2999),
        ("bytes=2000-5000", 2000, 2999),
        ("bytes=0-0", 0, 0),
    ] {
        let reply = registry
            .send("GET", &path, &[("range", range)], "")
            .await
            .expect(206);
        assert_eq!(
            reply.header("content-range"),
            format!("bytes {first}-{last}/3000")
        );
        assert_eq!(
            reply.header("content-length"),
            (last - first + 1).to_string()
        );
        assert_eq!(reply.body, content[first..=last]);
    }
    for range in [
        "bytes=500-0",
        "bytes=5000-10000",
        "bytes=3000-",
        "bytes=9999-",
    ] {
        let reply = registry.send("GET", &path, &[("range", range)], "").await;
        let reply = reply.refused(416, "RANGE_INVALID");
        assert_eq!(reply.header("content-range"), "bytes */3000", "{range}");
    }
    for range in ["bytes=0-1,5-6", "lines=1-2", "nonsense"] {
        let reply = registry
            .send("GET", &path, &[("range", range)], "")
            .await
            .expect(200);
        assert_eq!(reply.body.len(), 3000, "{range}");
    }
}

#[tokio::test]
async fn a_range_of_another_representation_is_the_whole() {
    let registry = TestRegistry::start().await;
    let digest = registry.push("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let etag = format!("\"{digest}\"");
    let same = [("range", "bytes=0-1"), ("if-range", etag.as_str())];
    registry.send("GET", &path, &same, "").await.expect(206);
    let other = [("range", "bytes=0-1"), ("if-range", "\"other\"")];
    registry.send("GET", &path, &other, "").await.expect(200);
}

#[tokio::test]
async fn a_blob_that_the_client_has_is_not_sent_again() {
    let registry = TestRegistry::start().await;
    let digest = registry.push("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let etag = format!("\"{digest}\"");
    let reply = registry
        .send("GET", &path, &[("if-none-match", &etag)], "")
        .await
        .expect(304);
    assert_eq!(reply.header("etag"), etag);
    assert!(reply.body.is_empty());
    registry
        .send("GET", &path, &[("if-none-match", "\"x\"")], "")
        .await
        .expect(200);
}

#[tokio::test]
async fn blobs_by_sha512_keep_their_name() {
    let registry = TestRegistry::start().await;
    let digest = registry.push_by(Algorithm::Sha512, "a", b"content").await;
    let path = format!("/v2/a/blobs/{digest}");
    let head = registry.head(&path).await.expect(200);
    assert_eq!(head.header("docker-content-digest"), digest.to_string());
    assert_eq!(registry.get(&path).await.expect(200).body, "content");
    let sha256 = Digest::sha256_of(b"content");
    registry
        .head(&format!("/v2/a/blobs/{sha256}"))
        .await
        .expect(404);
}

#[tokio::test]
async fn deleting_a_blob_is_immediate_and_of_one_repository() {
    let registry = TestRegistry::start().await;
    let digest = registry.push("one", b"shared").await;
    registry.push("two", b"shared").await;
    registry
        .delete(&format!("/v2/one/blobs/{digest}"))
        .await
        .expect(202);
    registry
        .head(&format!("/v2/one/blobs/{digest}"))
        .await
        .expect(404);
    registry
        .delete(&format!("/v2/one/blobs/{digest}"))
        .await
        .expect(404);
    let other = registry
        .get(&format!("/v2/two/blobs/{digest}"))
        .await
        .expect(200);
    assert_eq!(other.body, "shared");
    registry.push("one", b"shared").await;
    registry
        .head(&format!("/v2/one/blobs/{digest}"))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_blob_is_invisible_where_it_was_not_pushed() {
    let registry = TestRegistry::start().await;
    let secret = registry.push("private", b"secret").await;
    registry.push("public", b"other").await;
    registry
        .get(&format!("/v2/public/blobs/{secret}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn mounting_links_a_blob_of_the_named_or_any_repository() {
    let registry = TestRegistry::start().await;
    let digest = registry.push("source/x", b"shared").await;
    for (target, from) in [("t1", "&from=source%2Fx"), ("t2", ""), ("t3", "&from=")] {
        let path = format!("/v2/{target}/blobs/uploads/?mount={digest}{from}");
        let reply = registry.post(&path).await.expect(201);
        let blob = format!("/v2/{target}/blobs/{digest}");
        assert_eq!(reply.header("location"), blob);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        assert_eq!(registry.get(&blob).await.expect(200).body, "shared");
    }
}

#[tokio::test]
async fn a_mount_that_cannot_be_is_an_upload() {
    let registry = TestRegistry::start().await;
    let held = registry.push("source", b"held").await;
    let absent = Digest::sha256_of(b"absent");
    for query in [
        format!("mount={absent}&from=source"),
        format!("mount={absent}"),
        format!("mount={held}&from=nowhere"),
    ] {
        let path = format!("/v2/target/blobs/uploads/?{query}");
        let reply = registry.post(&path).await.expect(202);
        let location = reply.header("location").to_owned();
        registry.delete(&location).await.expect(204);
    }
    let path = format!("/v2/target/blobs/uploads/?mount={absent}");
    let reply = registry.post(&path).await.expect(202);
    let location = reply.header("location").to_owned();
    let reply = registry.finish(&location, &absent, b"absent").await;
    reply.expect(201);
    registry
        .post("/v2/target/blobs/uploads/?mount=bad")
        .await
        .refused(400, "DIGEST_INVALID");
}
