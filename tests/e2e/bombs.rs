//! Small files that would become large ones: whatever they are compressed with and however they
//! come, they are refused before they fill the disk, and the message says where and how to allow it.

use std::fs;
use std::path::{Path, PathBuf};

use longshore_oci::Digest;
use serde_json::json;

use crate::harness::{Outcome, Sandbox, Server, disk_usage, peer, tool};
use crate::sources::web::{Answer, Web};

/// What the bombs of these tests become.
const BOMB_BYTES: usize = 48 << 20;
/// What a refused one may leave or have left on the disk, the database included.
const LEFT_BYTES_MAX: u64 = 24 << 20;
/// Programs, and the ends of names that they give.
const PROGRAMS: [(&str, &str); 4] = [
    ("gzip", "gz"),
    ("xz", "xz"),
    ("bzip2", "bz2"),
    ("zstd", "zst"),
];

/// Where a little may come out freely: the tests need not write what the defaults allow.
const STRICT: &str = "[unpack]\nmaxRatio = 50\nfreeSize = \"4MB\"\n";

struct Scene {
    sandbox: Sandbox,
    config: PathBuf,
    /// A bomb of each kind, with the end of its name.
    bombs: Vec<(&'static str, PathBuf)>,
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let config = sandbox.path("strict.toml");
        fs::write(&config, STRICT).unwrap();
        let plain = sandbox.path("bomb.tar");
        fs::write(&plain, tar_with("big", &vec![b'A'; BOMB_BYTES])).unwrap();
        let packed = |(program, end): (&str, &'static str)| {
            tool(program)?;
            peer(program, [Path::new("-k"), &plain]);
            Some((end, sandbox.path(&format!("bomb.tar.{end}"))))
        };
        let bombs: Vec<_> = PROGRAMS.into_iter().filter_map(packed).collect();
        assert!(!bombs.is_empty(), "none of the compressors is installed");
        Self {
            config,
            bombs,
            sandbox,
        }
    }

    /// Runs a command under the strict limits.
    fn run(&self, args: &[&str]) -> Outcome {
        let config = ["--config", self.config.to_str().unwrap()];
        self.sandbox.run(config.iter().chain(args))
    }

    /// Fails the test unless the command is refused for what it unpacks, and keeps nothing of it.
    #[track_caller]
    fn is_refused(&self, args: &[&str], names: &str) {
        let before = disk_usage(self.sandbox.root());
        self.run(args)
            .failure(1, &[names, "expands more than 50 times", "`maxRatio`"]);
        let more = disk_usage(self.sandbox.root()).saturating_sub(before);
        assert!(more < LEFT_BYTES_MAX, "{args:?} left {more} bytes");
    }
}

fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
    archive.into_inner().unwrap()
}

/// An OCI layout of an image with one layer, as the files of an archive; and the layer's name there.
fn image(layer: &[u8], plain: &[u8]) -> (Vec<u8>, String) {
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {
        "type": "layers", "diff_ids": [Digest::sha256_of(plain).to_string()]}});
    let config = config.to_string().into_bytes();
    let described = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": Digest::sha256_of(bytes).to_string(), "size": bytes.len()})
    };
    let manifest = json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config),
        "layers": [described("layer.v1.tar+gzip", layer)]});
    let manifest = manifest.to_string().into_bytes();
    let mut top = described("manifest.v1+json", &manifest);
    top["annotations"] = json!({"io.containerd.image.name": "docker.io/library/bomb:1"});
    let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |name: String, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    };
    put(
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    for blob in [&manifest[..], &config, layer] {
        put(
            format!("blobs/sha256/{}", Digest::sha256_of(blob).hex()),
            blob,
        );
    }
    put("index.json".to_owned(), index.as_bytes());
    let name = Digest::sha256_of(plain).hex().to_string();
    (archive.into_inner().unwrap(), name)
}

#[test]
fn an_archive_that_is_added_is_no_bomb() {
    let scene = Scene::new();
    for (end, bomb) in &scene.bombs {
        let name = format!("bomb.tar.{end}");
        let dockerfile = format!("FROM scratch\nADD {name} /unpacked/\n");
        let context = scene.sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        fs::copy(bomb, context.join(&name)).unwrap();
        scene.is_refused(&["build", context.to_str().unwrap()], &name);

        let bytes = fs::read(bomb).unwrap();
        let web = Web::of(Answer::file(bytes));
        let dockerfile = format!(
            "FROM scratch\nADD --unpack=true {} /u/\n",
            web.url(&format!("/{name}"))
        );
        let context = scene.sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        scene.is_refused(&["build", context.to_str().unwrap()], &name);
        // As a context it is read in full as well.
        scene.is_refused(&["build", &web.url(&format!("/{name}"))], "expands");
    }
}

#[test]
fn an_archive_that_is_imported_or_loaded_is_no_bomb() {
    let scene = Scene::new();
    let plain = tar_with("big", &vec![b'A'; BOMB_BYTES]);
    let (archive, _) = image(&plain, &plain);
    let outer = scene.sandbox.path("outer.tar");
    fs::write(&outer, archive).unwrap();
    for (end, bomb) in &scene.bombs {
        scene.is_refused(&["import", bomb.to_str().unwrap(), "bomb"], "`big`");
        let (program, _) = PROGRAMS.into_iter().find(|(_, it)| it == end).unwrap();
        peer(program, [Path::new("-k"), &outer]);
        let packed = scene.sandbox.path(&format!("outer.tar.{end}"));
        let args = ["load", "-i", packed.to_str().unwrap()];
        scene.is_refused(&args, "`blobs/sha256/");
    }
}

#[test]
fn a_base_image_that_is_loaded_or_pulled_is_no_bomb() {
    let scene = Scene::new();
    let server = Server::start();
    let plain = tar_with("big", &vec![b'A'; BOMB_BYTES]);
    for (end, bomb) in &scene.bombs {
        let (archive, diff_id) = image(&fs::read(bomb).unwrap(), &plain);
        let path = scene.sandbox.path("image.tar");
        fs::write(&path, archive).unwrap();
        // Its blobs are small: only who wants files of it unpacks them.
        scene.run(&["load", "-i", path.to_str().unwrap()]).success();
        let copied = |base: &str| {
            let dockerfile =
                format!("FROM {base} AS base\nFROM scratch\nCOPY --from=base /big /\n");
            scene.sandbox.fresh_context(&[("Dockerfile", &dockerfile)])
        };
        let context = copied("bomb:1");
        scene.is_refused(&["build", context.to_str().unwrap()], &diff_id);

        let name = server.reference(&format!("bomb:{end}"));
        scene.run(&["tag", "bomb:1", &name]).success();
        scene.run(&["push", &name]).success();
        let elsewhere = Scene::new();
        elsewhere.run(&["pull", &name]).success();
        let context = copied(&name);
        elsewhere.is_refused(&["build", context.to_str().unwrap()], &diff_id);
    }
}

#[test]
fn who_means_it_may_unpack_what_expands() {
    let scene = Scene::new();
    let (end, bomb) = &scene.bombs[0];
    let name = format!("bomb.tar.{end}");
    let dockerfile = format!("FROM scratch\nADD {name} /unpacked/\n");
    let context = scene.sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    fs::copy(bomb, context.join(&name)).unwrap();
    let args = ["build", context.to_str().unwrap()];
    scene.is_refused(&args, &name);
    let with = |config: &str| {
        fs::write(&scene.config, config).unwrap();
        scene.run(&args)
    };
    with("[unpack]\nmaxSize = \"8MB\"\n").failure(1, &[&name, "than 8388608"]);
    for (config, parts) in [
        ("maxsize = \"8MB\"", ["maxsize", "unknown"]),
        ("maxRatio = 0", ["[unpack]", "0"]),
        ("freeSize = \"much\"", ["freeSize", "much"]),
    ] {
        let outcome = with(&format!("[unpack]\n{config}\n"));
        assert_ne!(outcome.code, 0, "{config}");
        let said = |part: &&str| outcome.stderr.contains(*part);
        assert!(parts.iter().all(said), "{config}: {}", outcome.stderr);
    }
    // Without a file, so much is free at any ratio.
    with("[unpack]\nmaxRatio = 5000\nfreeSize = \"4MB\"\n").success();
    with("").success();
}
