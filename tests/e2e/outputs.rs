//! Every output, read back by another tool: skopeo, umoci, podman, tar.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use crate::harness::{Exported, Sandbox, is_root, peer, tool, tree};

const DOCKERFILE: &str = "\
FROM scratch
COPY hello.txt /greetings/hello.txt
COPY --chown=33:50 --chmod=600 secret.txt /secret.txt
ENV COLOR=teal
LABEL org.example.kind=\"test\"
ENTRYPOINT [\"/bin/greet\"]
";
const FILES: &[(&str, &str)] = &[
    ("Dockerfile", DOCKERFILE),
    ("hello.txt", "hello\n"),
    ("secret.txt", "hush\n"),
];

/// An OCI layout directory, read with another implementation of the specification.
pub(crate) struct Layout(PathBuf);

impl Layout {
    /// Opens it.
    pub(crate) fn open(path: &Path) -> Self {
        let marker = oci_spec::image::OciLayout::from_file(path.join("oci-layout")).unwrap();
        assert_eq!(marker.image_layout_version(), "1.0.0");
        Self(path.to_owned())
    }

    /// `index.json`.
    pub(crate) fn index(&self) -> ImageIndex {
        ImageIndex::from_file(self.0.join("index.json")).unwrap()
    }

    /// The first manifest.
    pub(crate) fn manifest(&self) -> ImageManifest {
        ImageManifest::from_file(self.blob(&self.index().manifests()[0])).unwrap()
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> ImageConfiguration {
        ImageConfiguration::from_file(self.blob(self.manifest().config())).unwrap()
    }

    /// The layers' digests and sizes.
    pub(crate) fn layers(&self) -> Vec<(String, u64)> {
        self.manifest()
            .layers()
            .iter()
            .map(|layer| (layer.digest().to_string(), layer.size()))
            .collect()
    }

    /// A blob's file, which must be as long and hash as the descriptor says.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> PathBuf {
        let digest = descriptor.digest().to_string();
        let path = self.0.join("blobs").join(digest.replace(':', "/"));
        assert_eq!(fs::metadata(&path).unwrap().len(), descriptor.size());
        let sum = peer("sha256sum", [&path]).stdout;
        assert_eq!(format!("sha256:{}", &sum[..64]), digest);
        path
    }
}

/// Builds the context with an output; `DEST` in the flag is the returned path.
fn build_to(sandbox: &Sandbox, flag: &str, name: &str) -> PathBuf {
    let context = sandbox.context("app", FILES);
    let dest = sandbox.path(name);
    let flag = flag.replace("DEST", dest.to_str().unwrap());
    sandbox.ok([
        "build",
        "-t",
        "app:1",
        "-o",
        &flag,
        context.to_str().unwrap(),
    ]);
    dest
}

#[test]
fn an_oci_directory_parses_as_the_specification_says() {
    let sandbox = Sandbox::new();
    let layout = Layout::open(&build_to(
        &sandbox,
        "type=oci,tar=false,dest=DEST",
        "layout",
    ));
    assert_eq!(layout.index().manifests().len(), 1);
    let manifest = layout.manifest();
    assert_eq!(manifest.layers().len(), 2);
    manifest
        .layers()
        .iter()
        .for_each(|layer| drop(layout.blob(layer)));
    let config = layout.config();
    assert_eq!(config.rootfs().diff_ids().len(), 2);
    let process = config.config().clone().unwrap();
    assert!(
        process
            .env()
            .clone()
            .unwrap()
            .contains(&"COLOR=teal".to_owned())
    );
    assert_eq!(process.entrypoint().clone().unwrap(), ["/bin/greet"]);
    assert_eq!(
        process.labels().clone().unwrap()["org.example.kind"],
        "test"
    );
    let history = config.history().clone().unwrap();
    let made_layers = history
        .iter()
        .filter(|entry| entry.empty_layer() != Some(true))
        .count();
    assert_eq!(made_layers, 2);
}

#[test]
fn privileged_an_oci_directory_is_unpacked_by_umoci() {
    if tool("umoci").is_none() || !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let layout = build_to(&sandbox, "type=oci,tar=false,dest=DEST", "layout");
    let bundle = sandbox.path("bundle");
    // umoci finds an image by its tag in the layout.
    peer(
        "umoci",
        [
            "unpack",
            "--image",
            &format!("{}:1", layout.display()),
            bundle.to_str().unwrap(),
        ],
    );
    let found = tree(&bundle.join("rootfs"));
    assert_eq!(
        found,
        [
            "greetings 0:0 40755",
            "greetings/hello.txt 0:0 644 6 bytes",
            "secret.txt 33:50 600 5 bytes"
        ]
    );
}

#[test]
fn an_oci_archive_is_read_by_skopeo() {
    if tool("skopeo").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = build_to(&sandbox, "type=oci,dest=DEST", "app.tar");
    let place = format!("oci-archive:{}", archive.display());
    let seen: serde_json::Value =
        serde_json::from_str(&peer("skopeo", ["inspect", &place]).stdout).unwrap();
    assert_eq!(seen["Labels"]["org.example.kind"], "test");
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    let copy = sandbox.path("copy");
    peer(
        "skopeo",
        ["copy", "-q", &place, &format!("oci:{}:x", copy.display())],
    );
    assert_eq!(Layout::open(&copy).layers().len(), 2);
}

#[test]
fn a_docker_archive_is_read_by_skopeo() {
    if tool("skopeo").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = build_to(&sandbox, "type=docker,dest=DEST", "app.tar");
    let place = format!("docker-archive:{}:app:1", archive.display());
    let raw = peer("skopeo", ["inspect", "--config", "--raw", &place]).stdout;
    let config: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(config["config"]["Env"][1], "COLOR=teal", "{raw}");
    let copy = sandbox.path("copy");
    peer(
        "skopeo",
        ["copy", "-q", &place, &format!("dir:{}", copy.display())],
    );
}

#[test]
fn privileged_a_docker_archive_is_loaded_and_mounted_by_podman() {
    if tool("podman").is_none() || !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = build_to(&sandbox, "type=docker,dest=DEST", "app.tar");
    let podman = Podman::new(&sandbox);
    podman.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let shown = podman.ok(&[
        "image",
        "inspect",
        "app:1",
        "--format",
        "{{.Config.Entrypoint}} {{.Config.Labels}}",
    ]);
    assert_eq!(shown.trim_end(), "[/bin/greet] map[org.example.kind:test]");
    let mounted = podman.ok(&["image", "mount", "app:1"]);
    let found = tree(Path::new(mounted.trim_end()));
    podman.ok(&["image", "unmount", "app:1"]);
    assert!(
        found.contains(&"secret.txt 33:50 600 5 bytes".to_owned()),
        "{found:?}"
    );
}

/// podman with a storage of its own.
pub(crate) struct Podman(Vec<String>);

impl Podman {
    /// Below a sandbox.
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let place = |name: &str| sandbox.path(name).display().to_string();
        Self(vec![
            "--root".into(),
            place("podman"),
            "--runroot".into(),
            place("podman-run"),
            "--storage-driver".into(),
            "vfs".into(),
        ])
    }

    /// Runs it, which must succeed; its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        peer(
            "podman",
            self.0
                .iter()
                .map(String::as_str)
                .chain(args.iter().copied()),
        )
        .stdout
    }
}

#[test]
fn privileged_podman_runs_a_saved_image_as_it_is_configured() {
    let Some(runc) = tool("runc").filter(|_| tool("podman").is_some() && is_root()) else {
        return;
    };
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN echo carried > /cargo\nUSER www\nWORKDIR /tmp\n\
                      CMD [\"sh\", \"-c\", \"cat /cargo; id -un; pwd\"]\n";
    sandbox.build("app:1", &[("Dockerfile", dockerfile)]);
    let archive = sandbox.path("app.tar");
    sandbox.ok(["save", "-o", archive.to_str().unwrap(), "app:1"]);
    let podman = Podman::new(&sandbox);
    podman.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let runtime = [
        "--runtime",
        runc.to_str().unwrap(),
        "--cgroup-manager",
        "cgroupfs",
    ];
    // Limits that no machine is below.
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    let run = [
        &runtime[..],
        &["run", "--rm", "--network", "host"],
        &limits,
        &["app:1"],
    ]
    .concat();
    let said = podman.ok(&run);
    assert_eq!(said, "carried\nwww\n/tmp\n");
}

#[test]
fn a_tar_is_listed_by_tar() {
    let sandbox = Sandbox::new();
    let archive = build_to(&sandbox, "type=tar,dest=DEST", "rootfs.tar");
    let listed = peer(
        "tar",
        ["--numeric-owner", "-tvf", archive.to_str().unwrap()],
    )
    .stdout;
    let lines: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let shown: Vec<String> = lines
        .iter()
        .map(|line| format!("{} {} {}", line[0], line[1], line[5]))
        .collect();
    assert_eq!(
        shown,
        [
            "drwxr-xr-x 0/0 greetings/",
            "-rw-r--r-- 0/0 greetings/hello.txt",
            "-rw------- 33/50 secret.txt"
        ]
    );
}

#[test]
fn a_tar_goes_to_standard_output() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", FILES);
    let output = sandbox
        .command(["build", "-o", "-", context.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success());
    let exported = Exported::from_reader(output.stdout.as_slice());
    assert_eq!(exported.text("greetings/hello.txt"), "hello\n");
}

#[test]
fn a_local_directory_holds_the_files() {
    let sandbox = Sandbox::new();
    let folder = build_to(&sandbox, "type=local,dest=DEST", "out");
    assert_eq!(
        fs::read_to_string(folder.join("greetings/hello.txt")).unwrap(),
        "hello\n"
    );
    assert_eq!(
        fs::read_to_string(folder.join("secret.txt")).unwrap(),
        "hush\n"
    );
    let shorthand = sandbox.path("short");
    sandbox.ok([
        "build",
        "-o",
        shorthand.to_str().unwrap(),
        sandbox.path("app").to_str().unwrap(),
    ]);
    assert_eq!(tree(&shorthand), tree(&folder));
}

#[test]
fn digests_agree_in_the_store_in_archives_and_in_the_metadata_file() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", FILES);
    let context = context.to_str().unwrap();
    let (metadata, iid) = (sandbox.path("metadata.json"), sandbox.path("iid"));
    let built = sandbox.ok([
        "build",
        "-t",
        "app:1",
        "--metadata-file",
        metadata.to_str().unwrap(),
        "--iidfile",
        iid.to_str().unwrap(),
        context,
    ]);
    let digest = sandbox.format("app:1", "{{.Digest}}");
    let id = sandbox.format("app:1", "{{.Id}}");
    assert_eq!(fs::read_to_string(&iid).unwrap().trim_end(), id);
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(told["containerimage.digest"], digest.as_str());
    assert_eq!(told["containerimage.config.digest"], id.as_str());
    assert!(built.stdout.contains("sha256:"), "{}", built.stdout);

    let layout = sandbox.path("layout");
    sandbox.ok([
        "build",
        "-t",
        "app:1",
        "-o",
        &format!("type=oci,tar=false,dest={}", layout.display()),
        context,
    ]);
    assert_eq!(
        Layout::open(&layout).index().manifests()[0]
            .digest()
            .to_string(),
        digest
    );
    assert_eq!(
        Layout::open(&layout)
            .manifest()
            .config()
            .digest()
            .to_string(),
        id
    );

    if tool("skopeo").is_some() {
        let archive = sandbox.path("saved.tar");
        sandbox.ok([
            "save",
            "--format",
            "oci",
            "-o",
            archive.to_str().unwrap(),
            "app:1",
        ]);
        let seen = peer(
            "skopeo",
            [
                "inspect",
                "--format",
                "{{.Digest}}",
                &format!("oci-archive:{}", archive.display()),
            ],
        );
        assert_eq!(seen.stdout.trim_end(), digest);
    }
}

#[test]
fn one_build_writes_several_outputs() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", FILES);
    let (archive, folder) = (sandbox.path("a.tar"), sandbox.path("out"));
    let oci = format!("type=oci,dest={}", archive.display());
    let local = format!("type=local,dest={}", folder.display());
    sandbox.ok([
        "build",
        "-t",
        "app",
        "-o",
        "type=image",
        "-o",
        &oci,
        "-o",
        &local,
        context.to_str().unwrap(),
    ]);
    assert_eq!(sandbox.names(), ["app:latest"]);
    assert!(archive.exists());
    assert!(folder.join("secret.txt").exists());
}

#[test]
fn layers_are_compressed_as_asked() {
    let sandbox = Sandbox::new();
    let media = "application/vnd.oci.image.layer.v1.tar";
    for (compression, media_type, magic) in [
        ("gzip", format!("{media}+gzip"), [0x1f, 0x8b]),
        ("zstd", format!("{media}+zstd"), [0x28, 0xb5]),
        ("uncompressed", media.to_owned(), [b'g', b'r']),
    ] {
        let flag = format!("type=oci,tar=false,compression={compression},dest=DEST");
        let layout = Layout::open(&build_to(&sandbox, &flag, compression));
        let manifest = layout.manifest();
        let layer = &manifest.layers()[0];
        assert_eq!(layer.media_type().to_string(), media_type);
        assert_eq!(
            fs::read(layout.blob(layer)).unwrap()[..2],
            magic,
            "{compression}"
        );
        if tool("skopeo").is_some() {
            let copy = format!(
                "oci:{}:x",
                sandbox.path(&format!("{compression}-copy")).display()
            );
            peer(
                "skopeo",
                [
                    "copy",
                    "-q",
                    &format!("oci:{}", sandbox.path(compression).display()),
                    &copy,
                ],
            );
        }
    }
}

#[test]
fn platforms_make_an_index_whose_manifests_say_which() {
    let sandbox = Sandbox::new();
    let context = sandbox.context(
        "app",
        &[(
            "Dockerfile",
            "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY Dockerfile /\n",
        )],
    );
    let layout = sandbox.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    sandbox.ok([
        "build",
        "--platform",
        "linux/amd64,linux/arm64",
        "-o",
        &output,
        context.to_str().unwrap(),
    ]);
    let layout = Layout::open(&layout);
    let outer = layout.index();
    let index = ImageIndex::from_file(layout.blob(&outer.manifests()[0])).unwrap();
    let architectures: Vec<String> = index
        .manifests()
        .iter()
        .map(|descriptor| {
            let manifest = ImageManifest::from_file(layout.blob(descriptor)).unwrap();
            let config = ImageConfiguration::from_file(layout.blob(manifest.config())).unwrap();
            let label = config.config().clone().unwrap().labels().clone().unwrap()["arch"].clone();
            assert_eq!(
                descriptor
                    .platform()
                    .clone()
                    .unwrap()
                    .architecture()
                    .to_string(),
                label
            );
            label
        })
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
}
