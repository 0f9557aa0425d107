//! Debian's build of distribution's registry, with skopeo as the other client.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_oci::{Descriptor, Document, Manifest, media_type};
use longshore_registry_client::{
    Client, Credentials, MANIFEST_ACCEPT, StaticCredentials, UploadOptions, Uploaded,
};
use tempfile::TempDir;

use crate::{client, client_as, noise};

const SERVER: &str = "/usr/bin/docker-registry";
const PEER: &str = "/usr/bin/skopeo";

/// A running registry; stops and leaves nothing when dropped.
struct Registry {
    process: Child,
    host: String,
    directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// `None`, said aloud, where this machine does not have the programs.
    async fn start(htpasswd: Option<&str>) -> Option<Self> {
        for program in [SERVER, PEER] {
            if !Path::new(program).exists() {
                println!("skipped: {program} is not installed");
                return None;
            }
        }
        let directory = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let root = directory.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n",
            root.display()
        );
        if let Some(line) = htpasswd {
            let path = directory.path().join("htpasswd");
            fs::write(&path, line).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
                path.display()
            );
        }
        let config_path = directory.path().join("config.yml");
        fs::write(&config_path, config).unwrap();
        let process = Command::new(SERVER)
            .arg("serve")
            .arg(&config_path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            process,
            host,
            directory,
        };
        registry.wait().await;
        Some(registry)
    }

    async fn wait(&self) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&self.host).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry did not come up");
    }

    async fn skopeo(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::new(PEER)
            .args(arguments)
            .env("HOME", self.directory.path())
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo {arguments:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// An image as an OCI layout on disk: two layers, its configuration, and its manifest.
struct Image {
    parts: Vec<Bytes>,
    manifest: Bytes,
}

fn image(seed: u64) -> Image {
    let layers = [noise(seed, 300_000), noise(seed + 1, 2_000_000)];
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| longshore_oci::Digest::sha256_of(layer).to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = Bytes::from(config.to_string());
    let described: Vec<Descriptor> = layers
        .iter()
        .map(|layer| Descriptor::of(media_type::OCI_LAYER_TAR, layer))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": described,
    });
    let mut parts = vec![config];
    parts.extend(layers);
    Image {
        parts,
        manifest: Bytes::from(manifest.to_string()),
    }
}

impl Image {
    fn write_layout(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for part in self.parts.iter().chain([&self.manifest]) {
            let name = longshore_oci::Digest::sha256_of(part).hex();
            fs::write(blobs.join(name), part).unwrap();
        }
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &self.manifest);
        entry.annotations.insert(
            "org.opencontainers.image.ref.name".to_owned(),
            "t".to_owned(),
        );
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
    }

    async fn push(&self, client: &Client, reference: &str, options: &UploadOptions) {
        let reference = reference.parse().unwrap();
        let repository = longshore_registry_client::Repository::of(&reference);
        for part in &self.parts {
            let descriptor = Descriptor::of("application/octet-stream", part);
            client
                .upload_blob(&repository, &descriptor, Arc::new(part.clone()), options)
                .await
                .unwrap();
        }
        let digest = client
            .push_manifest(&reference, media_type::OCI_MANIFEST, self.manifest.clone())
            .await
            .unwrap();
        assert_eq!(digest, longshore_oci::Digest::sha256_of(&self.manifest));
    }

    /// Pulls the image and compares every byte.
    async fn check_pull(&self, client: &Client, reference: &str) {
        let reference = reference.parse().unwrap();
        let repository = longshore_registry_client::Repository::of(&reference);
        let resolved = client.resolve(&reference).await.unwrap();
        let (descriptor, bytes) = client
            .fetch_manifest(&reference, MANIFEST_ACCEPT)
            .await
            .unwrap();
        assert_eq!(resolved.descriptor, descriptor);
        assert_eq!(bytes, self.manifest);
        let Document::Manifest(Manifest { config, layers, .. }) =
            Document::parse(&bytes, &descriptor.media_type).unwrap()
        else {
            panic!("not a manifest");
        };
        for (described, expected) in [config].iter().chain(&layers).zip(&self.parts) {
            let got = client.fetch_blob_bytes(&repository, described, 10_000_000);
            assert_eq!(got.await.unwrap(), *expected);
        }
    }
}

#[tokio::test]
async fn what_skopeo_pushes_we_pull() {
    let Some(registry) = Registry::start(None).await else {
        return;
    };
    let image = image(1);
    let layout = registry.directory.path().join("layout");
    image.write_layout(&layout);
    let target = format!("{}/a/b:t", registry.host);
    registry
        .skopeo(&[
            "--insecure-policy",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:t", layout.display()),
            &format!("docker://{target}"),
        ])
        .await;
    let client = client();
    image.check_pull(&client, &target).await;
    let repository = target.parse().unwrap();
    assert_eq!(client.list_tags(&repository).await.unwrap(), ["t"]);
    assert_eq!(client.catalog(&registry.host).await.unwrap(), ["a/b"]);
}

#[tokio::test]
async fn what_we_push_skopeo_reads() {
    let Some(registry) = Registry::start(None).await else {
        return;
    };
    let client = client();
    let target = format!("{}/a/b:t", registry.host);
    let image = image(10);
    image
        .push(&client, &target, &UploadOptions::default())
        .await;
    let inspected = registry
        .skopeo(&[
            "inspect",
            "--tls-verify=false",
            &format!("docker://{target}"),
        ])
        .await;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let digest = longshore_oci::Digest::sha256_of(&image.manifest);
    assert_eq!(inspected["Digest"], digest.to_string());
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    let copied = registry.directory.path().join("copied");
    registry
        .skopeo(&[
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{target}"),
            &format!("dir:{}", copied.display()),
        ])
        .await;
    for part in &image.parts {
        let name = longshore_oci::Digest::sha256_of(part).hex();
        assert_eq!(fs::read(copied.join(name)).unwrap(), *part);
    }
    client
        .delete_manifest(&format!("{}/a/b@{digest}", registry.host).parse().unwrap())
        .await
        .unwrap();
    let gone = client.resolve(&target.parse().unwrap()).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[tokio::test]
async fn chunks_mounts_and_ranges() {
    let Some(registry) = Registry::start(None).await else {
        return;
    };
    let client = client();
    let image = image(20);
    let chunked = UploadOptions {
        chunk_bytes: std::num::NonZeroU64::new(700_000),
        ..UploadOptions::default()
    };
    let first = format!("{}/first:t", registry.host);
    image.push(&client, &first, &chunked).await;
    image.check_pull(&client, &first).await;

    let layer = &image.parts[2];
    let descriptor = Descriptor::of("application/octet-stream", layer);
    let mounting = UploadOptions {
        mount_from: Some(first.parse().unwrap()),
        ..UploadOptions::default()
    };
    let second = format!("{}/second", registry.host).parse().unwrap();
    let mounted = client
        .upload_blob(&second, &descriptor, Arc::new(layer.clone()), &mounting)
        .await
        .unwrap();
    assert_eq!(mounted, Uploaded::Mounted);

    let mut reader = client
        .fetch_blob(&second, &descriptor, 1_500_000)
        .await
        .unwrap()
        .into_reader();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest)
        .await
        .unwrap();
    assert_eq!(rest, layer[1_500_000..]);

    let referrers = client.referrers(&second, &descriptor.digest, None).await;
    assert_eq!(
        referrers.unwrap(),
        [],
        "this registry has no referrers list"
    );
}

#[tokio::test]
async fn passwords_are_needed_where_they_are() {
    // `me` with the password `secret`, hashed with bcrypt.
    let line = "me:$2y$05$F9Lfza/CRYSyBsSDtQ0cA.08Oi3byTsaHGgBelo1yM/YjTe0EQ8yC\n";
    let Some(registry) = Registry::start(Some(line)).await else {
        return;
    };
    let target = format!("{}/a:t", registry.host);
    let error = client()
        .resolve(&target.parse().unwrap())
        .await
        .unwrap_err();
    assert!(error.is_access(), "{error}");
    let credentials = Credentials::password("me", "secret");
    let me = client_as(StaticCredentials::new().with(registry.host.clone(), credentials));
    let image = image(30);
    image.push(&me, &target, &UploadOptions::default()).await;
    image.check_pull(&me, &target).await;
}
