//! How layers are compressed in each output, read back by skopeo and umoci.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Sandbox, Server, http_get, is_root, peer, tool};
use crate::outputs::Layout;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 2] = [0x28, 0xb5];

/// Builds, with an output where `DEST` is `dest`.
fn build(sandbox: &Sandbox, dockerfile: &str, output: &str, dest: &Path) {
    let text = "some words that are said again and again\n".repeat(2000);
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile), ("text", &text)]);
    let output = output.replace("DEST", dest.to_str().unwrap());
    sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
}

/// The first bytes of each layer, which must be whole; another reader must take the image.
fn starts(layout: &Path) -> Vec<[u8; 2]> {
    if tool("skopeo").is_some() {
        let copy = layout.with_extension("copy");
        let (from, to) = (layout.display(), copy.display());
        peer(
            "skopeo",
            ["copy", "-q", &format!("oci:{from}"), &format!("oci:{to}:x")],
        );
    }
    let opened = Layout::open(layout);
    let manifest = opened.manifest();
    let start = |layer| {
        fs::read(opened.blob(layer)).unwrap()[..2]
            .try_into()
            .unwrap()
    };
    manifest.layers().iter().map(start).collect()
}

/// A base in the store whose layer is gzip.
fn gzip_base(sandbox: &Sandbox) {
    let made = "type=image,name=base:1";
    build(
        sandbox,
        "FROM scratch\nCOPY text /base\n",
        made,
        Path::new("/"),
    );
}

const ON_BASE: &str = "FROM base:1\nCOPY text /own\n";

#[test]
fn a_base_of_another_compression_is_compressed_again_only_by_force() {
    let sandbox = Sandbox::new();
    gzip_base(&sandbox);
    let output = |name: &str, force: &str| {
        let layout = sandbox.path(name);
        let fields = format!("type=oci,tar=false,compression=zstd{force},dest=DEST");
        build(&sandbox, ON_BASE, &fields, &layout);
        layout
    };
    let kept = output("kept", "");
    assert_eq!(starts(&kept), [GZIP, ZSTD]);
    let forced = output("forced", ",force-compression=true");
    assert_eq!(starts(&forced), [ZSTD, ZSTD]);
    let diff_ids = |layout: &Path| Layout::open(layout).config().rootfs().diff_ids().clone();
    assert_eq!(diff_ids(&kept), diff_ids(&forced), "the same archives");
}

#[test]
fn images_and_registries_get_the_compression_that_is_forced() {
    let sandbox = Sandbox::new();
    gzip_base(&sandbox);
    let server = Server::start();
    let field = "compression=zstd,force-compression=true";
    let pushed = server.reference("pushed:1");
    let output = format!("type=registry,name={pushed},{field}");
    build(&sandbox, ON_BASE, &output, Path::new("/"));
    let manifest = http_get(&server.address, "/v2/pushed/manifests/1")
        .unwrap()
        .1;
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+zstd"
        );
    }
    build(
        &sandbox,
        ON_BASE,
        &format!("type=image,name=kept:1,{field}"),
        Path::new("/"),
    );
    let (archive, layout) = (sandbox.path("kept.tar"), sandbox.path("kept"));
    let format = [
        "save",
        "--format",
        "oci",
        "-o",
        archive.to_str().unwrap(),
        "kept:1",
    ];
    sandbox.ok(format);
    fs::create_dir(&layout).unwrap();
    let (archive, folder) = (archive.to_str().unwrap(), layout.to_str().unwrap());
    peer("tar", ["-xf", archive, "-C", folder]);
    assert_eq!(starts(&layout), [ZSTD, ZSTD]);
}

#[test]
fn privileged_a_layer_of_each_level_holds_the_same_and_no_more_than_the_fastest() {
    let sandbox = Sandbox::new();
    let layer = |compression: &str, level: u32| {
        let layout = sandbox.path(&format!("{compression}{level}"));
        let fields = format!(
            "type=oci,tar=false,name=app:1,compression={compression},compression-level={level},dest=DEST"
        );
        build(&sandbox, "FROM scratch\nCOPY text /\n", &fields, &layout);
        starts(&layout);
        let opened = Layout::open(&layout);
        let diff_id = opened.config().rootfs().diff_ids()[0].clone();
        (opened.layers()[0].1, diff_id, layout)
    };
    for (compression, levels) in [("gzip", [0, 1, 6, 9]), ("zstd", [1, 3, 9, 19])] {
        let made = levels.map(|level| layer(compression, level));
        let (fastest, diff_id, _) = &made[0];
        for (size, other, _) in &made[1..] {
            assert!(size <= fastest, "{compression}: {size} after {fastest}");
            assert_eq!(other, diff_id);
        }
        if compression == "gzip" {
            assert!(made[0].0 > 2 * made[3].0, "level 0 stores");
        }
        if compression == "gzip" && is_root() && tool("umoci").is_some() {
            let (_, _, layout) = &made[3];
            let bundle = sandbox.path("bundle");
            let image = format!("{}:1", layout.display());
            peer(
                "umoci",
                ["unpack", "--image", &image, bundle.to_str().unwrap()],
            );
            assert!(bundle.join("rootfs/text").exists());
        }
    }
}

#[test]
fn without_oci_media_types_all_types_are_docker_s() {
    let sandbox = Sandbox::new();
    let archive = sandbox.path("docker.tar");
    let server = Server::start();
    let pushed = server.reference("docker:1");
    let output = format!("type=registry,name={pushed},oci-mediatypes=false");
    build(&sandbox, "FROM scratch\nCOPY text /\n", &output, &archive);
    let text = http_get(&server.address, "/v2/docker/manifests/1")
        .unwrap()
        .1;
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let docker = "application/vnd.docker";
    assert_eq!(
        manifest["mediaType"],
        format!("{docker}.distribution.manifest.v2+json")
    );
    assert_eq!(
        manifest["config"]["mediaType"],
        format!("{docker}.container.image.v1+json")
    );
    let layer = &manifest["layers"][0]["mediaType"];
    assert_eq!(*layer, format!("{docker}.image.rootfs.diff.tar.gzip"));
    if tool("skopeo").is_some() {
        let from = format!("docker://{pushed}");
        let raw = peer("skopeo", ["inspect", "--raw", "--tls-verify=false", &from]).stdout;
        assert_eq!(raw.trim(), text.trim());
    }
}

#[test]
fn load_keeps_the_image_beside_another_output() {
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let archive = sandbox.path("app.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let context = context.to_str().unwrap();
    sandbox.ok(["build", "-t", "app:1", "-o", &output, context]);
    assert!(sandbox.names().is_empty(), "an output is all that is made");
    sandbox.ok(["build", "--load", "-t", "app:1", context]);
    assert_eq!(sandbox.names().len(), 1);
}

#[test]
fn files_have_no_compression() {
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for kind in ["tar", "local"] {
        for field in [
            "compression=zstd",
            "compression-level=3",
            "force-compression=true",
            "oci-mediatypes=false",
        ] {
            let dest = sandbox.path("never");
            let output = format!("type={kind},{field},dest={}", dest.display());
            let name = field.split('=').next().unwrap();
            let outcome = sandbox.run(["build", "-o", &output, context.to_str().unwrap()]);
            assert_ne!(outcome.code, 0, "{output}");
            let said = format!("`{name}` is not supported for type={kind}");
            assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
            assert!(!dest.exists());
        }
    }
}
