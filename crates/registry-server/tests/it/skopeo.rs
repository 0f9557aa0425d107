//! A real client: skopeo, where it is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use longshore_oci::{Digest, media_type};
use serde_json::{Value, json};

use crate::harness::{TestRegistry, descriptor};

fn is_installed() -> bool {
    let found = Command::new("skopeo").arg("--version").output().is_ok();
    if !found {
        println!("skipped: skopeo is not installed");
    }
    found
}

async fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = tokio::process::Command::new("skopeo")
        .args(["--insecure-policy"])
        .args(arguments)
        .output()
        .await
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {arguments:?}: {complaint}");
    output.stdout
}

/// An OCI layout with two images in an index, made by hand.
fn write_layout(dir: &Path) -> Digest {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, content: &[u8]| {
        let digest = Digest::sha256_of(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        descriptor(media_type, &digest, content.len())
    };
    let image = |architecture: &str| {
        let layer = vec![0; 10_240];
        let diff_id = Digest::sha256_of(&layer);
        let layer = put(media_type::OCI_LAYER_TAR, &layer);
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = put(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": [layer],
        });
        let mut entry = put(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [image("amd64"), image("arm64")],
    });
    let mut entry = put(media_type::OCI_INDEX, index.to_string().as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let top = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(dir.join("index.json"), top.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    Digest::sha256_of(index.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_in_and_out_unchanged() {
    if !is_installed() {
        return;
    }
    let registry = TestRegistry::start().await;
    let work = tempfile::tempdir().unwrap();
    let digest = write_layout(&work.path().join("in"));
    let source = format!("oci:{}:v1", work.path().join("in").display());
    let image = format!("docker://{}/team/app:v1", registry.0);
    let plain = "--dest-tls-verify=false";
    skopeo(&[
        "copy",
        "--all",
        "--preserve-digests",
        plain,
        &source,
        &image,
    ])
    .await;
    let head = registry.head("/v2/team/app/manifests/v1").await.expect(200);
    assert_eq!(head.header("docker-content-digest"), digest.to_string());

    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]).await;
    assert_eq!(Digest::sha256_of(&raw), digest);
    let target = format!("oci:{}:v1", work.path().join("out").display());
    let plain = "--src-tls-verify=false";
    skopeo(&[
        "copy",
        "--all",
        "--preserve-digests",
        plain,
        &image,
        &target,
    ])
    .await;
    let pulled = work.path().join("out/blobs/sha256").join(digest.hex());
    assert_eq!(Digest::sha256_of(&fs::read(pulled).unwrap()), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn copying_between_repositories_listing_and_deleting() {
    if !is_installed() {
        return;
    }
    let registry = TestRegistry::start().await;
    let work = tempfile::tempdir().unwrap();
    write_layout(&work.path().join("in"));
    let source = format!("oci:{}:v1", work.path().join("in").display());
    let one = format!("docker://{}/one:v1", registry.0);
    let two = format!("docker://{}/two:v2", registry.0);
    let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    skopeo(&["copy", insecure[1], "--format=v2s2", &source, &one]).await;
    skopeo(&["copy", insecure[0], insecure[1], &one, &two]).await;
    let head = registry.head("/v2/two/manifests/v2").await.expect(200);
    assert_eq!(head.header("content-type"), media_type::DOCKER_MANIFEST);
    let repository = format!("docker://{}/two", registry.0);
    let tags = skopeo(&["list-tags", "--tls-verify=false", &repository]).await;
    let tags: Value = serde_json::from_slice(&tags).unwrap();
    assert_eq!(tags["Tags"], json!(["v2"]));
    skopeo(&["delete", "--tls-verify=false", &two]).await;
    registry.head("/v2/two/manifests/v2").await.expect(404);
    registry.head("/v2/one/manifests/v1").await.expect(200);
}
