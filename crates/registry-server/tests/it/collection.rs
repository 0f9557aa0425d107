//! Garbage collection beside a serving registry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_content::{GcOptions, NoDirectories, StateRoot};
use longshore_oci::{Digest, media_type};
use longshore_registry_server::Options;
use serde_json::json;

use crate::harness::TestRegistry;

fn options() -> GcOptions {
    GcOptions {
        push_grace: Duration::ZERO,
        ..GcOptions::blobs_only(Duration::ZERO)
    }
}

/// Another process's collection, as far as the registry can tell.
fn collect(registry: &TestRegistry) -> usize {
    let root = StateRoot::open(registry.dir.path()).unwrap();
    let report = root
        .collect_garbage(&HashSet::new(), &options(), &NoDirectories)
        .unwrap();
    report.removed.len()
}

/// The exchange that loses images elsewhere: push, delete, collect, and push what `HEAD` says is
/// missing.
#[tokio::test]
async fn what_head_says_is_there_can_be_pulled_after_a_collection() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    registry
        .delete(&format!("/v2/a/manifests/{}", image.digest))
        .await
        .expect(202);
    // A restart ends the leases of the push; only then everything may go.
    let dir = registry.stop().await;
    let registry = TestRegistry::start_with(dir, Options::open_to_all()).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(collect(&registry), 3);
    let layer = format!("/v2/a/blobs/{}", image.layer);
    registry.head(&layer).await.expect(404);
    let put = registry
        .put_manifest("a", "v1", media_type::OCI_MANIFEST, &image.document)
        .await;
    put.refused(400, "MANIFEST_BLOB_UNKNOWN");
    registry.push_image("a", "v1", "image", &json!({})).await;
    assert_eq!(collect(&registry), 0);
    assert_eq!(
        registry.get(&layer).await.expect(200).body,
        "the layer of image"
    );
}

#[tokio::test]
async fn a_manifest_keeps_its_blobs_and_nothing_else_does() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let loose = registry.push("a", b"loose").await;
    let dir = registry.stop().await;
    let registry = TestRegistry::start_with(dir, Options::open_to_all()).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(collect(&registry), 1);
    registry
        .head(&format!("/v2/a/blobs/{loose}"))
        .await
        .expect(404);
    registry
        .head(&format!("/v2/a/blobs/{}", image.layer))
        .await
        .expect(200);
    registry.head("/v2/a/manifests/v1").await.expect(200);
}

/// Pushes, mounts and deletions while another process collects without pause: no push fails, and
/// whatever was acknowledged can be pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_push_fails_beside_a_collector() {
    let registry = TestRegistry::start().await;
    let done = Arc::new(AtomicBool::new(false));
    let collector = {
        let (done, path) = (Arc::clone(&done), registry.dir.path().to_owned());
        tokio::task::spawn_blocking(move || {
            let root = StateRoot::open(path).unwrap();
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                root.collect_garbage(&HashSet::new(), &options(), &NoDirectories)
                    .unwrap();
                rounds += 1;
            }
            rounds
        })
    };
    let client = registry.client;
    let mut pushers = tokio::task::JoinSet::new();
    for pusher in 0..4 {
        pushers.spawn(async move {
            for round in 0..12 {
                let repository = format!("r{}", pusher % 2);
                // The same few images again and again, so that they come and go.
                let name = format!("image {}", (pusher + round) % 3);
                let image = client.push_image(&repository, "", &name, &json!({})).await;
                let mounted = format!("/v2/m{pusher}/blobs/uploads/?mount={}", image.layer);
                client.post(&mounted).await.expect(201);
                let layer = format!("/v2/m{pusher}/blobs/{}", image.layer);
                let expected = format!("the layer of {name}");
                assert_eq!(client.get(&layer).await.expect(200).body, expected);
                // Another pusher may have deleted it already.
                let manifest = format!("/v2/{repository}/manifests/{}", image.digest);
                let status = client.delete(&manifest).await.status;
                assert!([202, 404].contains(&status), "{status}");
            }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(pushed) = pushers.join_next().await {
        outcomes.push(pushed);
    }
    done.store(true, Ordering::SeqCst);
    outcomes.into_iter().for_each(Result::unwrap);
    assert!(collector.await.unwrap() > 3);
    let absent = Digest::sha256_of(b"absent");
    registry
        .head(&format!("/v2/r0/blobs/{absent}"))
        .await
        .expect(404);
}
