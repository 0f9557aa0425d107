//! Damaged content is never served as whole, and pushing it again heals it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use longshore_oci::media_type;
use serde_json::json;

use crate::harness::TestRegistry;

#[tokio::test]
async fn a_flipped_byte_is_found_and_healed() {
    let registry = TestRegistry::start().await;
    let content = vec![7; 100_000];
    let digest = registry.push("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let file = OpenOptions::new()
        .write(true)
        .open(registry.blob_path(&digest))
        .unwrap();
    file.write_all_at(&[8], 50_000).unwrap();
    registry.get(&path).await.refused(404, "BLOB_UNKNOWN");
    registry.head(&path).await.expect(404);
    registry.push("a", &content).await;
    assert!(registry.get(&path).await.expect(200).body == content);
}

#[tokio::test]
async fn a_truncated_blob_is_found_and_healed() {
    let registry = TestRegistry::start().await;
    let content = vec![7; 100_000];
    let digest = registry.push("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    fs::File::create(registry.blob_path(&digest)).unwrap();
    registry.head(&path).await.expect(404);
    registry.get(&path).await.refused(404, "BLOB_UNKNOWN");
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    registry.post(&mount).await.expect(202);
    registry.push("a", &content).await;
    assert!(registry.get(&path).await.expect(200).body == content);
}

#[tokio::test]
async fn a_manifest_whose_blobs_were_damaged_is_refused_until_they_are_pushed_again() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    fs::remove_file(registry.blob_path(&image.layer)).unwrap();
    registry
        .head(&format!("/v2/a/blobs/{}", image.layer))
        .await
        .expect(404);
    let put = |tag: &'static str| {
        let (client, document) = (registry.client, image.document.clone());
        async move {
            client
                .put_manifest("a", tag, media_type::OCI_MANIFEST, &document)
                .await
        }
    };
    put("v2").await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    registry.push("a", b"the layer of image").await;
    put("v2").await.expect(201);
}

#[tokio::test]
async fn healing_in_one_repository_heals_all() {
    let registry = TestRegistry::start().await;
    let digest = registry.push("one", b"shared content").await;
    registry.push("two", b"shared content").await;
    fs::write(registry.blob_path(&digest), "damaged").unwrap();
    registry
        .head(&format!("/v2/one/blobs/{digest}"))
        .await
        .expect(404);
    registry.push("one", b"shared content").await;
    let other = registry.get(&format!("/v2/two/blobs/{digest}")).await;
    assert_eq!(other.expect(200).body, "shared content");
}
