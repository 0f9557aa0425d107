//! What outputs can be told: times, one layer, names, annotations, platforms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageIndex, ImageManifest};

use crate::harness::{Exported, Outcome, Sandbox, Server, http_get, is_root, peer, tool, tree};
use crate::outputs::Layout;

/// Builds a context into an OCI layout directory, with an environment of its own.
fn layout_of(sandbox: &Sandbox, name: &str, context: &Path, args: &[&str]) -> (PathBuf, Outcome) {
    let dest = sandbox.path(name);
    let (first, rest) = args.split_first().unwrap_or((&"", &[]));
    let output = format!("type=oci,tar=false,dest={}{first}", dest.display());
    let epoch = rest.iter().find_map(|arg| arg.strip_prefix("epoch="));
    let flags = rest.iter().filter(|arg| !arg.starts_with("epoch="));
    let base = ["build", "-t", "app:1", "-o", &output];
    let mut command = sandbox.command(base.iter().chain(flags));
    command.arg(context);
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    (dest, Outcome::of(command).success())
}

/// The times in each layer of a layout, by path; lowest first.
fn times(layout: &Path) -> Vec<BTreeMap<String, u64>> {
    let layout = Layout::open(layout);
    let read = |layer: &oci_spec::image::Descriptor| {
        let blob = fs::File::open(layout.blob(layer)).unwrap();
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob));
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let time = |entry: tar::Entry<'_, _>| {
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mtime().unwrap())
        };
        entries.map(time).collect()
    };
    layout.manifest().layers().iter().map(read).collect()
}

#[test]
fn times_are_cut_off_at_the_epoch_and_a_new_epoch_runs_nothing_again() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN echo made > /made && touch -d @77 /old\n\
                      COPY file /file\nCOPY --link file /linked\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("file", "text\n")]);
    let own = layout_of(&sandbox, "own", &context, &[]).0;
    let base = times(&own)[0].clone();
    assert!(times(&own)[1]["made"] > 1_700_000_000);

    let (early, outcome) = layout_of(&sandbox, "early", &context, &["", "epoch=1500000000"]);
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    let layers = times(&early);
    assert_eq!(layers[0], base, "the base's times are its own");
    assert_eq!(layers[1]["made"], 1_500_000_000);
    assert_eq!(layers[1]["old"], 77);
    assert_eq!(layers[2]["file"], 1_500_000_000);
    assert_eq!(layers[3]["linked"], 1_500_000_000);

    let (again, _) = layout_of(&sandbox, "again", &context, &["", "epoch=1500000000"]);
    assert_eq!(Layout::open(&again).layers(), Layout::open(&early).layers());
    let (earlier, _) = layout_of(
        &sandbox,
        "earlier",
        &context,
        &[",compression-level=1", "epoch=1400000000"],
    );
    assert_eq!(times(&earlier)[1]["made"], 1_400_000_000);
    // What the files' own times are early enough for is not written again; what the step made
    // would have that epoch, had it run just now.
    let (late, _) = layout_of(&sandbox, "late", &context, &["", "epoch=8000000000"]);
    assert_eq!(times(&late)[1]["made"], 8_000_000_000);
    assert_eq!(times(&late)[1]["old"], 77);
    assert_eq!(
        Layout::open(&late).layers()[2..],
        Layout::open(&own).layers()[2..]
    );
    let off = [",rewrite-timestamp=false", "epoch=1500000000"];
    let (off, _) = layout_of(&sandbox, "off", &context, &off);
    assert_eq!(Layout::open(&off).layers(), Layout::open(&own).layers());
    let outputs = [",source-date-epoch=1400000000", "epoch=1500000000"];
    let (of_output, _) = layout_of(&sandbox, "of-output", &context, &outputs);
    assert_eq!(times(&of_output)[1]["made"], 1_400_000_000);
    if tool("skopeo").is_some() {
        let copy = format!("oci:{}:x", sandbox.path("copy").display());
        peer(
            "skopeo",
            ["copy", "-q", &format!("oci:{}", early.display()), &copy],
        );
    }
}

#[test]
fn a_first_build_with_an_epoch_is_found_by_the_next_one() {
    let sandbox = Sandbox::new();
    let dockerfile = "FROM scratch\nCOPY a /a\nWORKDIR /w\nCOPY b b\n";
    let files = [("Dockerfile", dockerfile), ("a", "a\n"), ("b", "b\n")];
    let context = sandbox.context("app", &files);
    let (first, _) = layout_of(&sandbox, "first", &context, &["", "epoch=1500000000"]);
    let (second, outcome) = layout_of(&sandbox, "second", &context, &["", "epoch=1500000000"]);
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    let index = |layout: &Path| fs::read_to_string(layout.join("index.json")).unwrap();
    assert_eq!(index(&first), index(&second));
    assert!(
        times(&second)
            .iter()
            .flat_map(BTreeMap::values)
            .all(|time| *time == 1_500_000_000)
    );
}

#[test]
fn files_of_a_tar_and_a_directory_are_no_later_than_the_epoch() {
    let sandbox = Sandbox::new();
    let context = sandbox.context(
        "app",
        &[("Dockerfile", "FROM scratch\nCOPY a d/\n"), ("a", "")],
    );
    let (archive, folder) = (sandbox.path("files.tar"), sandbox.path("files"));
    let mut command = sandbox.command([
        "build",
        "-o",
        &format!("type=tar,dest={}", archive.display()),
        "-o",
        &format!("type=local,dest={}", folder.display()),
    ]);
    command.arg(&context).env("SOURCE_DATE_EPOCH", "1500000000");
    Outcome::of(command).success();
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    for path in ["d", "d/a"] {
        let found = fs::metadata(folder.join(path)).unwrap();
        assert_eq!(found.modified().unwrap(), epoch, "{path}");
    }
    let listed = peer("tar", ["--utc", "-tvf", archive.to_str().unwrap()]).stdout;
    assert!(
        listed.lines().all(|line| line.contains("2017-07-14 02:40")),
        "{listed}"
    );
}

/// Changes of every kind, over each other.
const SQUASHED: &str = "\
FROM busybox AS base
RUN mkdir -p /d/kept /d/lost /emptied /replaced && echo base > /d/kept/a && echo x > /d/lost/b \\
 && echo y > /emptied/c && echo z > /replaced/old && echo s > /straight && ln /straight /other
";
const ABOVE: &str = "\
FROM base
RUN echo one > /first && ln /first /second && ln /first /third && echo temporary > /tmp/gone
RUN rm /tmp/gone /first && rm -r /d/lost && echo more >> /d/kept/a
RUN rm -r /replaced && mkdir /replaced && echo new > /replaced/new && rm /emptied/c
RUN rm -r /d/kept && echo file > /d/kept && rm /straight && ln -s d /link
COPY --chown=7:8 file /link/copied
LABEL squashed=maybe
";

#[test]
fn privileged_a_squashed_image_has_the_files_of_its_layers() {
    if !is_root() || tool("umoci").is_none() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox.build("base", &[("Dockerfile", SQUASHED)]);
    let context = sandbox.context("app", &[("Dockerfile", ABOVE), ("file", "copied\n")]);
    let (plain, _) = layout_of(&sandbox, "plain", &context, &[]);
    let (squashed, outcome) = layout_of(&sandbox, "squashed", &context, &["", "--squash"]);
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    let files = |layout: &Path| {
        let bundle = layout.with_extension("bundle");
        let image = format!("{}:1", layout.display());
        peer(
            "umoci",
            ["unpack", "--image", &image, bundle.to_str().unwrap()],
        );
        let root = bundle.join("rootfs");
        let names = peer(
            "find",
            [
                root.to_str().unwrap(),
                "-printf",
                "%P %n %s %T@ %m %U:%G %l\n",
            ],
        );
        let mut lines: Vec<String> = names.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        let text = fs::read_to_string(root.join("d/kept")).unwrap();
        (lines, tree(&root), text)
    };
    assert_eq!(files(&squashed), files(&plain));

    let (plain, one) = (Layout::open(&plain), Layout::open(&squashed));
    assert_eq!(plain.layers().len(), 7);
    assert_eq!(one.layers().len(), 3, "the base's two and one");
    assert_eq!(one.layers()[..2], plain.layers()[..2]);
    let (before, after) = (plain.config(), one.config());
    assert_eq!(before.config(), after.config());
    let (before, after) = (
        before.history().clone().unwrap(),
        after.history().clone().unwrap(),
    );
    assert_eq!(after.len(), before.len() + 1);
    let made = after
        .iter()
        .filter(|entry| entry.empty_layer() != Some(true));
    assert_eq!(made.count(), 3);
    let last = after.last().unwrap();
    assert_eq!(last.comment().as_deref(), Some("merge 5 layers"));
    let removed = is_in_layer(&squashed, "tmp/gone") || is_in_layer(&squashed, "first");
    assert!(!removed, "what was removed again is not in the image");
    // The same again, byte for byte, from what is stored.
    let (again, _) = layout_of(&sandbox, "again", &context, &["", "--squash"]);
    assert_eq!(Layout::open(&again).index(), one.index());
    // And in an image that is run.
    sandbox.ok([
        "build",
        "--squash",
        "-t",
        "app:run",
        context.to_str().unwrap(),
    ]);
    let told = sandbox.output_of(
        "app:run",
        &["sh", "-c", "cat /second /d/kept; ls /replaced"],
    );
    assert_eq!(told, "one\nfile\nnew\n");
}

fn is_in_layer(layout: &Path, path: &str) -> bool {
    times(layout).last().unwrap().contains_key(path)
}

#[test]
fn one_layer_is_as_squashed_as_can_be() {
    let sandbox = Sandbox::new();
    let context = sandbox.context(
        "app",
        &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")],
    );
    let (plain, _) = layout_of(&sandbox, "plain", &context, &[]);
    let (squashed, _) = layout_of(&sandbox, "squashed", &context, &["", "--squash"]);
    assert_eq!(
        Layout::open(&plain).index(),
        Layout::open(&squashed).index()
    );
    sandbox
        .run([
            "build",
            "--squash",
            "-t",
            "app",
            "--cache-to",
            "type=inline",
            context.to_str().unwrap(),
        ])
        .failure(1, &["inline cache", "--squash"]);
}

#[test]
fn a_push_by_digest_moves_no_tag() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    let context = sandbox.context(
        "app",
        &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")],
    );
    let name = server.reference("by/digest");
    let output = |name: &str| {
        format!("type=image,name={name},push=true,push-by-digest=true,name-canonical=true")
    };
    let built = sandbox.ok(["build", "-o", &output(&name), context.to_str().unwrap()]);
    let digest = sandbox.format(&name, "{{.Digest}}");
    assert!(
        built.stderr.contains(&format!("pushing {name}@{digest}")),
        "{}",
        built.stderr
    );
    let (_, tags) = http_get(&server.address, "/v2/by/digest/tags/list").unwrap();
    assert!(tags.contains("\"tags\":[]"), "{tags}");
    let manifest = format!("/v2/by/digest/manifests/{digest}");
    assert_eq!(http_get(&server.address, &manifest).unwrap().0, 200);
    let canonical = format!("{name}@{digest}");
    assert_eq!(sandbox.format(&canonical, "{{.Digest}}"), digest);
    assert!(sandbox.names().contains(&format!("{name}:<none>")));
    if tool("skopeo").is_some() {
        let place = format!("docker://{canonical}");
        let args = ["inspect", "--tls-verify=false", "--raw", &place];
        assert!(peer("skopeo", args).stdout.contains("\"layers\""));
    }
    let tagged = output(&format!("{name}:tag"));
    sandbox
        .run(["build", "-o", &tagged, context.to_str().unwrap()])
        .failure(1, &["push-by-digest moves no tag", ":tag"]);
}

#[test]
fn privileged_an_unpacked_image_is_ready_to_run() {
    let Some(sandbox) = Sandbox::with_busybox().filter(|_| is_root()) else {
        return;
    };
    let context = sandbox.context(
        "app",
        &[("Dockerfile", "FROM busybox\nCOPY a /\n"), ("a", "a\n")],
    );
    let directories = || {
        let folder = sandbox.root().join("snapshots");
        let found = walkdir::WalkDir::new(folder)
            .into_iter()
            .map(Result::unwrap);
        found.filter(|entry| entry.file_name() == "a").count()
    };
    let build = |flags: &[&str]| {
        let base = ["build", "-t", "app"];
        let args = base.iter().chain(flags).copied();
        sandbox.ok(args.chain([context.to_str().unwrap()]));
    };
    build(&[]);
    assert_eq!(directories(), 0);
    build(&["-o", "type=image,unpack=true"]);
    assert_eq!(directories(), 1);
    assert_eq!(sandbox.output_of("app", &["cat", "/a"]), "a\n");
}

const PLATFORMS: &str = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH/ /\n";
const OF_PLATFORMS: &[(&str, &str)] = &[
    ("Dockerfile", PLATFORMS),
    ("amd64/file", "amd64\n"),
    ("arm64/file", "arm64\n"),
    ("arm64/only", ""),
];
const BOTH: &str = "linux/amd64,linux/arm64";

#[test]
fn annotations_stand_on_every_level_of_an_index() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", OF_PLATFORMS);
    let flags = [
        ",annotation.org.a=field,annotation-index.org.f=field",
        "--platform",
        BOTH,
        "--annotation",
        "org.a=flag",
        "--annotation",
        "manifest[linux/arm64]:org.a=arm",
        "--annotation",
        "index,index-descriptor:org.i=index",
        "--annotation",
        "manifest-descriptor:org.d=descriptor",
    ];
    let (path, _) = layout_of(&sandbox, "layout", &context, &flags);
    let layout = Layout::open(&path);
    let outer = layout.index().manifests()[0].clone();
    let text = |map: &Option<std::collections::HashMap<String, String>>, name: &str| {
        map.as_ref().and_then(|map| map.get(name)).cloned()
    };
    assert_eq!(text(outer.annotations(), "org.i").as_deref(), Some("index"));
    assert!(text(outer.annotations(), "org.opencontainers.image.created").is_some());
    let index = ImageIndex::from_file(layout.blob(&outer)).unwrap();
    assert_eq!(text(index.annotations(), "org.i").as_deref(), Some("index"));
    assert_eq!(text(index.annotations(), "org.f").as_deref(), Some("field"));
    let of = |at: usize| {
        let descriptor = &index.manifests()[at];
        let manifest = ImageManifest::from_file(layout.blob(descriptor)).unwrap();
        assert_eq!(
            text(descriptor.annotations(), "org.d").as_deref(),
            Some("descriptor")
        );
        text(manifest.annotations(), "org.a").unwrap()
    };
    assert_eq!((of(0), of(1)), ("flag".to_owned(), "arm".to_owned()));

    let server = Server::start();
    let name = server.reference("many:1");
    sandbox.ok([
        "build",
        "--platform",
        BOTH,
        "--annotation",
        "index:org.i=pushed",
        "--push",
        "-t",
        &name,
        context.to_str().unwrap(),
    ]);
    let pushed = http_get(&server.address, "/v2/many/manifests/1").unwrap().1;
    assert!(pushed.contains("\"org.i\":\"pushed\""), "{pushed}");
    if tool("skopeo").is_some() {
        let copy = format!("oci:{}:x", sandbox.path("copy").display());
        let from = format!("docker://{name}");
        peer(
            "skopeo",
            [
                "copy",
                "-q",
                "--all",
                "--src-tls-verify=false",
                &from,
                &copy,
            ],
        );
    }
}

#[test]
fn annotations_that_have_no_place_fail_before_anything_is_built() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", OF_PLATFORMS);
    let context = context.to_str().unwrap();
    let fails = |flags: &[&str], part: &str| {
        let args = [&["build", "--platform", "linux/amd64"], flags, &[context]].concat();
        let outcome = sandbox.run(args).failure(1, &[part]);
        assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    };
    fails(&["--annotation", "index:a=b"], "no index");
    fails(
        &["--annotation", "manifest[linux/s390x]:a=b"],
        "linux/s390x is not built",
    );
    fails(
        &[
            "--annotation",
            "manifest-descriptor:a=b",
            "-o",
            "type=docker",
        ],
        "oci-mediatypes=false",
    );
    fails(&["--push"], "a push needs a name");
}

#[test]
fn a_single_platforms_descriptor_has_annotations_too() {
    let sandbox = Sandbox::new();
    let context = sandbox.context(
        "app",
        &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")],
    );
    let metadata = sandbox.path("metadata.json");
    let flags = [
        "",
        "--annotation",
        "manifest-descriptor,manifest:org.a=both",
        "--metadata-file",
        metadata.to_str().unwrap(),
    ];
    let (path, _) = layout_of(&sandbox, "layout", &context, &flags);
    let layout = Layout::open(&path);
    let annotations = layout.index().manifests()[0].annotations().clone().unwrap();
    assert_eq!(annotations["org.a"], "both");
    assert_eq!(
        layout.manifest().annotations().clone().unwrap()["org.a"],
        "both"
    );
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    let told = &told["containerimage.descriptor"]["annotations"];
    assert_eq!(told, &serde_json::json!({"org.a": "both"}));
}

#[test]
fn platforms_get_directories_of_their_own_in_tars_and_directories() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", OF_PLATFORMS);
    let (archive, folder) = (sandbox.path("files.tar"), sandbox.path("files"));
    sandbox.ok([
        "build",
        "--platform",
        BOTH,
        "-o",
        &format!("type=tar,dest={}", archive.display()),
        "-o",
        &format!("type=local,dest={}", folder.display()),
        context.to_str().unwrap(),
    ]);
    let exported = Exported::read(&archive);
    for arch in ["amd64", "arm64"] {
        let text = format!("{arch}\n");
        let file = format!("linux_{arch}/file");
        assert_eq!(exported.text(&file), text);
        assert_eq!(fs::read_to_string(folder.join(&file)).unwrap(), text);
    }
    let together = format!("type=local,platform-split=false,dest={}", folder.display());
    let args = ["build", "--platform", BOTH, "-o", &together];
    sandbox
        .run(args.iter().copied().chain([context.to_str().unwrap()]))
        .failure(1, &["`/file` is there for linux/amd64 and for linux/arm64"]);
}
