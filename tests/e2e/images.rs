//! The local store: importing, listing, naming, removing, saving and loading images.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use longshore_oci::Digest;
use serde_json::Value;

use crate::harness::{Outcome, Sandbox, busybox_tar, disk_usage, is_root, peer, tool};

const FILES: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM scratch\nCOPY hello.txt /\nENV A=b\nLABEL k=v\n",
    ),
    ("hello.txt", "hello\n"),
];

#[test]
fn an_imported_root_file_system_is_a_base() {
    let sandbox = Sandbox::new();
    let Some(tar) = busybox_tar(&sandbox.path("root.tar")) else {
        return;
    };
    peer("gzip", ["-k", tar.to_str().unwrap()]);
    let printed = sandbox
        .ok([
            "import",
            "-m",
            "from a tar",
            "-c",
            "CMD [\"sh\"]",
            "-c",
            "ENV A=b",
            sandbox.path("root.tar.gz").to_str().unwrap(),
            "base:1",
        ])
        .stdout;
    assert_eq!(printed.trim_end(), sandbox.format("base:1", "{{.Digest}}"));
    let image = sandbox.inspect("base:1");
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(image["Config"]["Env"], serde_json::json!(["A=b"]));
    assert_eq!(image["Os"], "linux");
    assert!(
        sandbox
            .ok(["history", "base:1"])
            .stdout
            .contains("from a tar")
    );
    assert_eq!(sandbox.output_of("base:1", &["sh", "-c", "echo $A"]), "b\n");
    // From standard input, the plain tar is the same layer.
    let mut command = sandbox.command(["import", "-", "base:2"]);
    command.stdin(Stdio::from(fs::File::open(&tar).unwrap()));
    Outcome::of(command).success();
    assert_eq!(
        sandbox.format("base:2", "{{.RootFS.Layers}}"),
        sandbox.format("base:1", "{{.RootFS.Layers}}")
    );
}

#[test]
fn what_is_no_archive_is_not_imported() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("noise");
    fs::write(&file, "this is no tar\n".repeat(100)).unwrap();
    sandbox
        .run(["import", file.to_str().unwrap(), "noise"])
        .failure(1, &["archive"]);
    sandbox
        .run(["import", sandbox.path("absent").to_str().unwrap(), "x"])
        .failure(1, &["absent"]);
    assert_eq!(sandbox.names(), Vec::<String>::new());
}

#[test]
fn images_are_listed_as_a_table_as_json_and_by_template() {
    let sandbox = Sandbox::new();
    sandbox.build("team/app:1", FILES);
    let table = sandbox.ok(["images"]).stdout;
    let heading: Vec<&str> = table
        .lines()
        .next()
        .unwrap()
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    assert_eq!(
        heading,
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    );
    assert!(
        table.lines().nth(1).unwrap().starts_with("team/app "),
        "{table}"
    );

    let row: serde_json::Value =
        serde_json::from_str(&sandbox.ok(["images", "--format", "json"]).stdout).unwrap();
    assert_eq!(
        (row["Repository"].as_str(), row["Tag"].as_str()),
        (Some("team/app"), Some("1"))
    );
    let id = sandbox.format("team/app:1", "{{.Id}}");
    assert_eq!(
        sandbox.ok(["images", "-q", "--no-trunc"]).stdout.trim_end(),
        id
    );
    let short = sandbox.ok(["images", "-q"]).stdout;
    assert!(
        id.starts_with(&format!("sha256:{}", short.trim_end())),
        "{short}"
    );
    assert!(
        sandbox
            .ok(["images", "--digests"])
            .stdout
            .contains(&sandbox.format("team/app:1", "{{.Digest}}"))
    );
    sandbox
        .run(["images", "--format", "{{.Nope}}"])
        .failure(1, &["Nope", "Repository"]);
    assert_eq!(sandbox.ok(["images", "-q", "other"]).stdout, "");
}

#[test]
fn inspect_shows_the_configuration() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    let image = sandbox.inspect("app:1");
    assert_eq!(image["RepoTags"], serde_json::json!(["app:1"]));
    assert_eq!(image["Config"]["Labels"]["k"], "v");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let template = sandbox.format("app:1", "{{json .Config.Env}} {{.Os}}/{{.Architecture}}");
    assert!(
        template.contains("A=b") && template.ends_with(image["Architecture"].as_str().unwrap()),
        "{template}"
    );
    sandbox
        .run(["inspect", "nope", "app:1"])
        .failure(1, &["no such image: nope"]);
}

#[test]
fn inspect_finds_images_by_id_and_digest() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    let (id, digest) = (
        sandbox.format("app:1", "{{.Id}}"),
        sandbox.format("app:1", "{{.Digest}}"),
    );
    let hex = id.strip_prefix("sha256:").unwrap();
    for name in [id.as_str(), hex, &hex[..12], &format!("app@{digest}")] {
        assert_eq!(sandbox.format(name, "{{.Id}}"), id, "{name}");
    }
}

#[test]
fn history_names_the_instructions_from_the_newest() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    let lines = sandbox
        .ok([
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}",
            "app:1",
        ])
        .stdout;
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].starts_with("LABEL k=v") && lines[1].starts_with("ENV A=b"),
        "{lines:?}"
    );
    assert!(lines[2].starts_with("COPY hello.txt /"), "{lines:?}");
}

#[test]
fn names_are_given_and_taken_and_the_image_goes_with_the_last() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    sandbox.ok(["tag", "app:1", "other/name:2"]);
    assert_eq!(
        sandbox.format("other/name:2", "{{.Id}}"),
        sandbox.format("app:1", "{{.Id}}")
    );
    let removed = sandbox.ok(["rmi", "app:1"]).stdout;
    assert!(
        removed.contains("Untagged: app:1") && !removed.contains("Deleted"),
        "{removed}"
    );
    assert_eq!(sandbox.names(), ["other/name:2"]);
    let removed = sandbox.ok(["rmi", "other/name:2"]).stdout;
    assert!(removed.contains("Deleted: sha256:"), "{removed}");
    assert_eq!(sandbox.names(), Vec::<String>::new());
    sandbox
        .run(["rmi", "other/name:2"])
        .failure(1, &["no such image", "other/name:2"]);
}

#[test]
fn an_id_with_several_names_is_removed_by_force_alone() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    sandbox.ok(["tag", "app:1", "app:2"]);
    sandbox.ok(["tag", "app:1", "elsewhere:1"]);
    let id = sandbox.format("app:1", "{{.Id}}");
    assert_eq!(sandbox.run(["rmi", &id]).code, 1);
    assert_eq!(sandbox.names().len(), 3);
    sandbox.ok(["rmi", "-f", &id]);
    assert_eq!(sandbox.names(), Vec::<String>::new());
    sandbox.ok(["rmi", "-f", "never-was"]);
}

#[test]
fn rmi_goes_on_after_a_name_that_is_not_there() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    sandbox.run(["rmi", "nope", "app:1"]).failure(1, &["nope"]);
    assert_eq!(sandbox.names(), Vec::<String>::new());
}

#[test]
fn removing_an_image_frees_its_space_and_leaves_the_others() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let noise: String = (0..200_000u64)
        .map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    sandbox.build(
        "big:1",
        &[
            ("Dockerfile", "FROM busybox\nCOPY noise /\n"),
            ("noise", &noise),
        ],
    );
    let before = disk_usage(sandbox.root());
    sandbox.ok(["rmi", "big:1"]);
    sandbox.ok(["prune", "--all"]);
    let freed = before.saturating_sub(disk_usage(sandbox.root()));
    assert!(freed > 1_000_000, "{freed} bytes were freed");
    assert_eq!(sandbox.output_of("busybox", &["echo", "here"]), "here\n");
}

#[test]
fn prune_says_what_it_would_remove_and_removes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.build("app:1", FILES);
    sandbox.ok(["rmi", "--no-prune", "app:1"]);
    let before = disk_usage(&sandbox.root().join("blobs"));
    sandbox.ok(["prune", "--all", "--dry-run"]);
    assert_eq!(disk_usage(&sandbox.root().join("blobs")), before);
    let said = sandbox.ok(["prune", "--all"]).stdout;
    assert!(said.contains("Total reclaimed space"), "{said}");
    let row: serde_json::Value = serde_json::from_str(
        sandbox
            .ok(["df", "--format", "json"])
            .stdout
            .lines()
            .next()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(
        (row["Type"].as_str(), row["Count"].as_u64()),
        (Some("Images"), Some(0))
    );
}

#[test]
fn saved_images_are_loaded_with_names_and_digests() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    one.build("app:1", FILES);
    one.ok(["tag", "app:1", "app:2"]);
    one.build(
        "other:1",
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    for format in ["docker", "oci"] {
        let archive = one.path(&format!("{format}.tar"));
        one.ok([
            "save",
            "--format",
            format,
            "-o",
            archive.to_str().unwrap(),
            "app:1",
            "app:2",
            "other:1",
        ]);
        let loaded = two
            .ok(["load", "-q", "-i", archive.to_str().unwrap()])
            .stdout;
        let mut names: Vec<&str> = loaded.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["app:1", "app:2", "other:1"], "{format}");
        for name in names {
            assert_eq!(
                two.format(name, "{{.Id}}"),
                one.format(name, "{{.Id}}"),
                "{format} {name}"
            );
            assert_eq!(
                two.format(name, "{{.Digest}}"),
                one.format(name, "{{.Digest}}"),
                "{format} {name}"
            );
        }
        two.ok(["rmi", "app:1", "app:2", "other:1"]);
    }
}

#[test]
fn save_and_load_work_in_a_pipe_and_compressed() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    one.build("app:1", FILES);
    let saved = one.command(["save", "app:1"]).output().unwrap();
    assert!(saved.status.success());
    let archive = two.path("saved.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(
        fs::File::create(&archive).unwrap(),
        flate2::Compression::fast(),
    );
    std::io::Write::write_all(&mut encoder, &saved.stdout).unwrap();
    encoder.finish().unwrap();
    let mut load = two.command(["load"]);
    load.stdin(Stdio::from(fs::File::open(&archive).unwrap()));
    assert_eq!(Outcome::of(load).success().stdout, "Loaded image: app:1\n");
}

#[test]
fn archives_that_skopeo_made_are_loaded() {
    if tool("skopeo").is_none() {
        return;
    }
    let (one, two) = (Sandbox::new(), Sandbox::new());
    one.build("app:1", FILES);
    let source = one.path("source.tar");
    one.ok([
        "save",
        "--format",
        "oci",
        "-o",
        source.to_str().unwrap(),
        "app:1",
    ]);
    let source = format!("oci-archive:{}", source.display());
    for kind in ["docker-archive", "oci-archive"] {
        let archive = one.path(&format!("{kind}.tar"));
        let name = if kind == "docker-archive" {
            "by.example/skopeo:9"
        } else {
            "9"
        };
        peer(
            "skopeo",
            [
                "copy",
                "-q",
                &source,
                &format!("{kind}:{}:{name}", archive.display()),
            ],
        );
        let said = two
            .ok(["load", "-q", "-i", archive.to_str().unwrap()])
            .stdout;
        let layers = two.format(said.trim_end(), "{{json .RootFS.Layers}}");
        assert_eq!(
            layers,
            one.format("app:1", "{{json .RootFS.Layers}}"),
            "{kind}"
        );
    }
    assert!(
        two.names().contains(&"by.example/skopeo:9".to_owned()),
        "{:?}",
        two.names()
    );
}

#[test]
fn a_damaged_archive_is_not_loaded() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    one.build("app:1", FILES);
    let archive = one.path("app.tar");
    one.ok(["save", "-o", archive.to_str().unwrap(), "app:1"]);
    let whole = fs::read(&archive).unwrap();
    let cut = two.path("cut.tar");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(two.run(["load", "-i", cut.to_str().unwrap()]).code, 1);
    // One byte of the file in the layer, which no checksum of tar covers.
    let mut changed = whole;
    let at = changed
        .windows(4)
        .rposition(|window| window == [0x1f, 0x8b, 8, 0])
        .map(|at| at + 40);
    let at = at.expect("the archive holds a compressed layer");
    changed[at] ^= 0x40;
    fs::write(&cut, &changed).unwrap();
    assert_eq!(two.run(["load", "-i", cut.to_str().unwrap()]).code, 1);
    assert_eq!(two.names(), Vec::<String>::new());
}

#[test]
fn saving_what_is_not_there_leaves_no_file() {
    let sandbox = Sandbox::new();
    let archive = sandbox.path("out/app.tar");
    fs::create_dir(sandbox.path("out")).unwrap();
    sandbox
        .run(["save", "-o", archive.to_str().unwrap(), "nope"])
        .failure(1, &["no such image", "nope"]);
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 0);
}

#[test]
fn the_version_is_told() {
    let sandbox = Sandbox::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        sandbox.ok(["version"]).stdout,
        format!("longshore {version}\n")
    );
    assert_eq!(
        sandbox.ok(["version", "--format", "{{.Version}}"]).stdout,
        format!("{version}\n")
    );
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok(["version", "--format", "json"]).stdout).unwrap();
    assert_eq!(json["Os"], "linux");
}

#[test]
fn doctor_says_what_this_machine_can_do() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(["doctor"]);
    let answer = sandbox.run(["doctor", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    // What it says is what happens.
    let runs = json["run_steps"].as_bool().unwrap();
    let code = if runs { 0 } else { 3 };
    assert_eq!((text.code, answer.code), (code, code), "{}", text.stderr);
    let auto = json["auto"].as_str().unwrap();
    assert_eq!(runs, auto != "none");
    if runs {
        assert!(
            text.stdout.contains(&format!("auto takes {auto}.")),
            "{}",
            text.stdout
        );
    }
    if let Some(sandbox) = Sandbox::with_busybox() {
        let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
        let built = sandbox.run(["build", context.to_str().unwrap()]);
        assert_eq!(built.code == 0, runs, "{}", built.stderr);
        let said = format!("isolation: {auto}");
        assert_eq!(
            built.stderr.contains(&said),
            auto != "full",
            "{}",
            built.stderr
        );
    }
    for (name, check) in json["checks"].as_object().unwrap() {
        let (works, why) = (check["works"].as_bool().unwrap(), &check["why_not"]);
        assert_eq!(works, why.is_null(), "{name}: {check}");
        let mark = if works { "ok" } else { "no" };
        assert!(text.stdout.contains(&format!("{mark}    {name}")), "{name}");
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(json["kernel"], kernel.trim());
}

/// Each is tried: a program that only looks like one does not work.
#[test]
fn privileged_doctor_tries_what_is_beside_it() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let folder = sandbox.path("bin");
    fs::create_dir_all(&folder).unwrap();
    for name in ["youki", "pasta"] {
        let program = folder.join(name);
        fs::write(&program, "#!/bin/sh\necho out of order >&2\nexit 7\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
    }
    let mut path = std::ffi::OsString::from(&folder);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut command = sandbox.command(["doctor", "--format", "json"]);
    command.env("PATH", path);
    let answer = crate::harness::Outcome::of(command).stdout;
    let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let found = |kind: &str, name: &str| {
        let all = json["beside"][kind].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).cloned()
    };
    for (kind, name) in [("oci_runtimes", "youki"), ("networks", "pasta")] {
        let found = found(kind, name).unwrap();
        assert_eq!(found["works"], false, "{found}");
        assert!(!found["why_not"].as_str().unwrap().is_empty());
    }
    if tool("runc").is_some() {
        assert_eq!(
            found("oci_runtimes", "runc").unwrap()["works"],
            true,
            "{json}"
        );
    }
}

#[test]
fn completions_are_written() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            sandbox
                .ok(["completion", shell])
                .stdout
                .contains("longshore"),
            "{shell}"
        );
    }
}

/// Makes what `of` finds in a JSON document of a layout's another size, and names it anew wherever it
/// is named.
fn with_another_size(layout: &Path, in_index: bool, of: fn(&mut Value) -> &mut Value) {
    let index_path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&index_path).unwrap()).unwrap();
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let wrong = |part: &mut Value| {
        let size = part["size"].as_u64().unwrap();
        part["size"] = (size + 7).into();
    };
    if in_index {
        wrong(of(&mut index));
    } else {
        let top = &mut index["manifests"][0];
        let path = blob(top["digest"].as_str().unwrap());
        let mut manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        wrong(of(&mut manifest));
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = Digest::sha256_of(&bytes).to_string();
        fs::write(blob(&digest), &bytes).unwrap();
        top["digest"] = digest.into();
        top["size"] = bytes.len().into();
    }
    fs::write(index_path, serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn a_blob_that_is_not_as_large_as_it_is_described_is_refused_with_both_sizes() {
    type Place = (&'static str, bool, fn(&mut Value) -> &mut Value);
    let places: [Place; 3] = [
        ("manifest", true, |index| &mut index["manifests"][0]),
        ("configuration", false, |manifest| &mut manifest["config"]),
        ("layer", false, |manifest| &mut manifest["layers"][0]),
    ];
    for (what, in_index, of) in places {
        let sandbox = Sandbox::new();
        let files = [("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")];
        let context = sandbox.fresh_context(&files);
        let layout = sandbox.path("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
        with_another_size(&layout, in_index, of);
        let archive = sandbox.path("layout.tar");
        peer(
            "tar",
            [
                "-C",
                layout.to_str().unwrap(),
                "-cf",
                archive.to_str().unwrap(),
                ".",
            ],
        );
        let elsewhere = Sandbox::new();
        elsewhere
            .run(["load", "-i", archive.to_str().unwrap()])
            .failure(1, &[what, "bytes, but is described as"]);
        assert!(elsewhere.names().is_empty());
        let base = format!("base=oci-layout://{}", layout.display());
        let context = sandbox.fresh_context(&[("Dockerfile", "FROM base\nCOPY Dockerfile /\n")]);
        let args = ["build", "--build-context", &base, context.to_str().unwrap()];
        elsewhere
            .run(args)
            .failure(1, &["bytes, but is described as"]);
    }
}
