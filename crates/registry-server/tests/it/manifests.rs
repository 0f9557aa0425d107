//! Manifests: exact bytes, any type, by tag and digest, with what they need.

use longshore_oci::{Algorithm, Digest, media_type};
use longshore_registry_server::Options;
use serde_json::json;

use crate::harness::{TestRegistry, descriptor};

#[tokio::test]
async fn a_manifest_comes_back_byte_for_byte() {
    let registry = TestRegistry::start().await;
    let image = registry
        .push_image("a/b", "v1", "image", &json!({ "x": [1, null] }))
        .await;
    let by_digest = format!("/v2/a/b/manifests/{}", image.digest);
    assert_eq!(image.reply.header("location"), by_digest);
    assert_eq!(
        image.reply.header("docker-content-digest"),
        image.digest.to_string()
    );
    for path in [by_digest.as_str(), "/v2/a/b/manifests/v1"] {
        let head = registry.head(path).await.expect(200);
        let get = registry.get(path).await.expect(200);
        assert_eq!(get.body, image.document);
        for reply in [head, get] {
            assert_eq!(reply.header("content-type"), media_type::OCI_MANIFEST);
            assert_eq!(
                reply.header("content-length"),
                image.document.len().to_string()
            );
            assert_eq!(
                reply.header("docker-content-digest"),
                image.digest.to_string()
            );
            assert_eq!(reply.header("etag"), format!("\"{}\"", image.digest));
        }
    }
}

#[tokio::test]
async fn a_manifest_is_served_whatever_the_client_accepts() {
    let registry = TestRegistry::start().await;
    registry.push_image("a", "v1", "image", &json!({})).await;
    for accept in [
        "*/*",
        "text/html",
        media_type::DOCKER_MANIFEST,
        media_type::OCI_MANIFEST,
    ] {
        let headers = [("accept", accept)];
        let reply = registry
            .send("GET", "/v2/a/manifests/v1", &headers, "")
            .await
            .expect(200);
        assert_eq!(reply.header("content-type"), media_type::OCI_MANIFEST);
    }
}

#[tokio::test]
async fn a_manifest_that_the_client_has_is_not_sent_again() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let etag = format!("W/\"{}\", \"other\"", image.digest);
    let known = [("if-none-match", etag.as_str())];
    for method in ["GET", "HEAD"] {
        let reply = registry
            .send(method, "/v2/a/manifests/v1", &known, "")
            .await
            .expect(304);
        assert!(reply.body.is_empty());
    }
    registry.push_image("a", "v1", "other", &json!({})).await;
    registry
        .send("GET", "/v2/a/manifests/v1", &known, "")
        .await
        .expect(200);
}

#[tokio::test]
async fn unknown_manifests_and_repositories() {
    let registry = TestRegistry::start().await;
    registry.push_image("a", "v1", "image", &json!({})).await;
    let absent = Digest::sha256_of(b"absent");
    for reference in ["v2", &absent.to_string()] {
        for method in ["GET", "DELETE"] {
            let path = format!("/v2/a/manifests/{reference}");
            registry
                .send(method, &path, &[], "")
                .await
                .refused(404, "MANIFEST_UNKNOWN");
            let path = format!("/v2/b/manifests/{reference}");
            registry
                .send(method, &path, &[], "")
                .await
                .refused(404, "NAME_UNKNOWN");
        }
        registry
            .head(&format!("/v2/a/manifests/{reference}"))
            .await
            .expect(404);
    }
}

#[tokio::test]
async fn bad_references_are_bad_requests() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let bad = "sha256:baddigeststring";
    let put = registry
        .put_manifest("a", bad, media_type::OCI_MANIFEST, &image.document)
        .await;
    put.refused(400, "DIGEST_INVALID");
    registry
        .get(&format!("/v2/a/manifests/{bad}"))
        .await
        .refused(400, "DIGEST_INVALID");
    let put = registry
        .put_manifest("a", ".x", media_type::OCI_MANIFEST, &image.document)
        .await;
    put.refused(400, "TAG_INVALID");
}

#[tokio::test]
async fn a_digest_names_the_exact_bytes() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let reference = image.digest.to_string();
    let padded = format!("{}\n", image.document);
    let put = registry
        .put_manifest("a", &reference, media_type::OCI_MANIFEST, &padded)
        .await;
    put.refused(400, "DIGEST_INVALID");
    // By tag it is a manifest like any other.
    let put = registry
        .put_manifest("a", "padded", media_type::OCI_MANIFEST, &padded)
        .await;
    let digest = Digest::sha256_of(padded.as_bytes());
    assert_eq!(
        put.expect(201).header("docker-content-digest"),
        digest.to_string()
    );
    assert_eq!(
        registry
            .get("/v2/a/manifests/padded")
            .await
            .expect(200)
            .body,
        padded
    );
}

#[tokio::test]
async fn sha512_manifests_are_tagged_by_parameter() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let digest = Digest::of(Algorithm::Sha512, image.document.as_bytes());
    let reference = format!("{digest}?tag=one&tag=two");
    let put = registry
        .put_manifest("a", &reference, media_type::OCI_MANIFEST, &image.document)
        .await
        .expect(201);
    let tags: Vec<_> = put.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["one", "two"]);
    assert_eq!(put.header("location"), format!("/v2/a/manifests/{digest}"));
    for reference in ["one", "two", &digest.to_string()] {
        let head = registry
            .head(&format!("/v2/a/manifests/{reference}"))
            .await
            .expect(200);
        assert_eq!(head.header("docker-content-digest"), digest.to_string());
    }
}

#[tokio::test]
async fn many_tags_at_once_and_too_many() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "", "image", &json!({})).await;
    let tags = |count: usize| (0..count).map(|n| format!("tag=t{n}&")).collect::<String>();
    let put = |query: String| {
        let reference = format!("{}?{query}", image.digest);
        let document = image.document.clone();
        let client = registry.client;
        async move {
            client
                .put_manifest("a", &reference, media_type::OCI_MANIFEST, &document)
                .await
        }
    };
    let reply = put(tags(20)).await.expect(201);
    assert_eq!(reply.headers.get_all("oci-tag").iter().count(), 20);
    put(tags(100)).await.refused(414, "TAG_INVALID");
    put("tag=ok&tag=.bad".to_owned())
        .await
        .refused(400, "TAG_INVALID");
    registry.head("/v2/a/manifests/ok").await.expect(404);
}

#[tokio::test]
async fn large_manifests_are_accepted_and_larger_ones_refused() {
    let registry = TestRegistry::start().await;
    let annotation = "x".repeat(10_000);
    let annotations: serde_json::Map<_, _> = (0..780)
        .map(|number| (format!("key-{number}"), json!(annotation)))
        .collect();
    let extra = json!({ "annotations": annotations });
    let image = registry.push_image("a", "large", "image", &extra).await;
    assert!(image.document.len() > 7_500_000);
    let get = registry.get("/v2/a/manifests/large").await.expect(200);
    assert!(get.body == image.document);

    let too_large = format!("{}{}", image.document, " ".repeat(1_000_000));
    let put = registry
        .put_manifest("a", "larger", media_type::OCI_MANIFEST, &too_large)
        .await;
    put.refused(413, "SIZE_INVALID");
    let options = Options {
        manifest_bytes_max: 100,
        ..Options::open_to_all()
    };
    let small = TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await;
    let document = " ".repeat(101);
    let put = small
        .put_manifest("a", "x", media_type::OCI_MANIFEST, &document)
        .await;
    put.refused(413, "SIZE_INVALID");
}

#[tokio::test]
async fn what_a_manifest_needs_must_be_there() {
    let registry = TestRegistry::start().await;
    let config = registry.push("a", b"{}").await;
    registry.push("elsewhere", b"layer").await;
    let elsewhere = Digest::sha256_of(b"layer");
    let absent = Digest::sha256_of(b"absent");
    let document = json!({
        "schemaVersion": 2,
        "config": descriptor(media_type::OCI_EMPTY, &config, 2),
        "layers": [descriptor("x", &elsewhere, 5), descriptor("x", &absent, 6)],
    })
    .to_string();
    let put = registry
        .put_manifest("a", "v1", media_type::OCI_MANIFEST, &document)
        .await;
    let put = put.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let missing: Vec<_> = put.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["detail"]["digest"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(missing, [elsewhere.to_string(), absent.to_string()]);
    registry.head("/v2/a/manifests/v1").await.expect(404);

    let index = json!({
        "schemaVersion": 2,
        "manifests": [descriptor(media_type::OCI_MANIFEST, &absent, 6)],
    });
    let put = registry
        .put_manifest("a", "i", media_type::OCI_INDEX, &index.to_string())
        .await;
    put.refused(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn foreign_layers_need_not_be_there() {
    let registry = TestRegistry::start().await;
    let config = registry.push("a", b"{}").await;
    let absent = Digest::sha256_of(b"absent");
    for foreign in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let document = json!({
            "schemaVersion": 2,
            "config": descriptor(media_type::OCI_CONFIG, &config, 2),
            "layers": [descriptor(foreign, &absent, 6)],
        });
        let document = document.to_string();
        let put = registry
            .put_manifest("a", "v1", media_type::OCI_MANIFEST, &document)
            .await;
        put.expect(201);
    }
}

#[tokio::test]
async fn indexes_of_every_kind() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "", "image", &json!({})).await;
    let image = descriptor(
        media_type::OCI_MANIFEST,
        &image.digest,
        image.document.len(),
    );
    let put = |tag: &'static str, kind: &'static str, manifests: serde_json::Value| {
        let client = registry.client;
        async move {
            let document = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
            let document = document.to_string();
            let put = client
                .put_manifest("a", tag, kind, &document)
                .await
                .expect(201);
            let get = client
                .get(&format!("/v2/a/manifests/{tag}"))
                .await
                .expect(200);
            assert_eq!(get.header("content-type"), kind);
            let digest = put.header("docker-content-digest").parse().unwrap();
            descriptor(kind, &digest, document.len())
        }
    };
    let index = put("index", media_type::OCI_INDEX, json!([image])).await;
    put("nested", media_type::OCI_INDEX, json!([index, image])).await;
    put("empty", media_type::OCI_INDEX, json!([])).await;
    put("docker", media_type::DOCKER_INDEX, json!([image])).await;
    let blob = registry.push("a", b"a cache's layer").await;
    let layer = descriptor(media_type::OCI_LAYER_GZIP, &blob, 15);
    put("cache", media_type::OCI_INDEX, json!([layer])).await;
}

#[tokio::test]
async fn other_kinds_of_manifests_are_kept_as_they_are() {
    let registry = TestRegistry::start().await;
    let config = registry.push("a", b"{}").await;
    let empty = descriptor(media_type::OCI_EMPTY, &config, 2);
    let artifact =
        json!({ "schemaVersion": 2, "artifactType": "x/y", "config": empty, "layers": [] });
    let artifact = artifact.to_string();
    let put = registry.put_manifest("a", "t1", media_type::OCI_MANIFEST, &artifact);
    put.await.expect(201);
    let custom = json!({ "blobs": [empty], "anything": true }).to_string();
    let parameters = "application/vnd.example.v1+json; charset=utf-8";
    registry
        .put_manifest("a", "t2", parameters, &custom)
        .await
        .expect(201);
    let get = registry.get("/v2/a/manifests/t2").await.expect(200);
    assert_eq!(
        get.header("content-type"),
        "application/vnd.example.v1+json"
    );
    assert_eq!(get.body, custom);
    for (kind, document) in [
        (media_type::OCI_MANIFEST, "not json"),
        (media_type::OCI_MANIFEST, "{}"),
        (media_type::OCI_INDEX, &artifact),
        ("", ""),
    ] {
        let put = registry.put_manifest("a", "bad", kind, document).await;
        put.refused(400, "MANIFEST_INVALID");
    }
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_all_tags() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "t1", "image", &json!({})).await;
    registry
        .put_manifest("a", "t2", media_type::OCI_MANIFEST, &image.document)
        .await
        .expect(201);
    registry.delete("/v2/a/manifests/t1").await.expect(202);
    registry.head("/v2/a/manifests/t1").await.expect(404);
    registry
        .delete("/v2/a/manifests/t1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry.head("/v2/a/manifests/t2").await.expect(200);
    let by_digest = format!("/v2/a/manifests/{}", image.digest);
    registry.delete(&by_digest).await.expect(202);
    registry.head("/v2/a/manifests/t2").await.expect(404);
    registry.head(&by_digest).await.expect(404);
    registry
        .delete(&by_digest)
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(
        registry.get("/v2/a/tags/list").await.expect(200).json()["tags"],
        json!([])
    );
}

#[tokio::test]
async fn a_tag_moves_to_what_was_pushed_last() {
    let registry = TestRegistry::start().await;
    let first = registry.push_image("a", "t", "first", &json!({})).await;
    let second = registry.push_image("a", "t", "second", &json!({})).await;
    let head = registry.head("/v2/a/manifests/t").await.expect(200);
    assert_eq!(
        head.header("docker-content-digest"),
        second.digest.to_string()
    );
    registry
        .head(&format!("/v2/a/manifests/{}", first.digest))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_manifest_is_of_one_repository() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "t", "image", &json!({})).await;
    registry.push("b", b"x").await;
    let elsewhere = format!("/v2/b/manifests/{}", image.digest);
    registry
        .get(&elsewhere)
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry
        .get(&format!("/v2/a/blobs/{}", image.digest))
        .await
        .refused(404, "BLOB_UNKNOWN");
}
