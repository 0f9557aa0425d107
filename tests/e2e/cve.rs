//! One test for each known hole of runtimes, builders, engines and registries that could be one
//! here too and has none elsewhere. docs/security.md has the whole table.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_oci::Digest;
use serde_json::{Value, json};

use crate::harness::{LONGSHORE, Sandbox, Server, is_root};
use crate::security::{Canary, build, in_time};

/// A process that makes files by these names would be seen.
const SPY: &str = "#!/bin/sh\ntouch CANARY/ran; echo ran > CANARY/marker\n";

#[test]
fn privileged_cve_2019_14271_nothing_of_an_image_is_run_by_the_builder() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let spy = SPY.replace("CANARY", canary.path());
    // Also CVE-2026-41567: a decompressor that is looked up in the image.
    let dockerfile = "FROM busybox AS base\n\
        COPY --chmod=755 spy /usr/local/bin/xz\nCOPY --chmod=755 spy /usr/local/bin/gzip\n\
        COPY --chmod=755 spy /usr/local/bin/unpigz\nCOPY --chmod=755 spy /usr/local/bin/zstd\n\
        COPY --chmod=755 spy /usr/local/bin/tar\nCOPY --chmod=755 spy /usr/local/bin/git\n\
        COPY --chmod=755 spy /lib/libnss_files.so.2\n\
        RUN echo /lib/libnss_files.so.2 > /etc/ld.so.preload\n\
        FROM base\nUSER www\nADD layer.tar.gz /unpacked/\nCOPY --chown=www:www spy /copied\n\
        COPY --from=base /etc/ld.so.preload /preloaded\nWORKDIR /made\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile), ("spy", &spy)]);
    let gzip = fs::File::create(context.join("layer.tar.gz")).unwrap();
    let gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    archive
        .append_path_with_name(context.join("spy"), "file")
        .unwrap();
    archive.into_inner().unwrap().finish().unwrap();
    let outcome = build(&sandbox, &context, &[]);
    canary.is_untouched(&outcome);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let archive = sandbox.path("saved.tar");
    let saved = in_time(sandbox.command(["save", "-o", archive.to_str().unwrap(), "hostile"]));
    canary.is_untouched(&saved);
    assert_eq!(saved.code, 0, "{}", saved.stderr);
}

#[test]
fn privileged_cve_2025_52881_nothing_is_mounted_in_proc() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    // Also CVE-2019-16884 and CVE-2023-27561: a volume, or a link, in place of /proc.
    let dockerfile = "FROM busybox\nRUN ln -s /proc/self /sly && ln -s /proc/sys /deep && ln -s .. /up\n\
        VOLUME /proc /proc/sys/kernel\n";
    sandbox.build("base", &[("Dockerfile", dockerfile)]);
    let targets = [
        "/proc",
        "/proc/self/attr",
        "/sly/attr/exec",
        "/deep/kernel",
        "/up/proc/self",
    ];
    for target in targets {
        for kind in ["tmpfs", "cache", "bind,from=base"] {
            let text = format!("FROM base\nRUN --mount=type={kind},target={target} true\n");
            let context = sandbox.fresh_context(&[("Dockerfile", &text)]);
            let outcome = build(&sandbox, &context, &[]);
            canary.is_untouched(&outcome);
            assert_ne!(outcome.code, 0, "{kind} on {target}");
        }
        let volume = format!("{}:{target}", canary.path());
        let outcome = in_time(sandbox.command(["run", "-v", &volume, "base", "true"]));
        assert_eq!(outcome.code, 125, "{target}: {}", outcome.stderr);
        canary.is_untouched(&outcome);
    }
    let script = "! echo b > /proc/sysrq-trigger && ! echo x > /proc/sys/kernel/hostname && \
        ! head -c 1 /proc/kcore | grep -q . && cat /proc/self/attr/current; true";
    let outcome = in_time(sandbox.command(["run", "base", "sh", "-c", script]));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn privileged_cve_2026_41579_a_link_in_place_of_dev_leads_nowhere() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    for make in [
        format!("rm -rf /dev; ln -s {} /dev", canary.path()),
        format!(
            "mkdir -p /dev && ln -s {} /dev/pts && ln -s {0}/marker /dev/ptmx",
            canary.path()
        ),
        format!(
            "mkdir -p /dev/fd && ln -s {}/marker /dev/stdin && ln -s {0} /dev/shm",
            canary.path()
        ),
        "mkdir -p /dev && ln -s .. /dev/pts && ln -s ../.. /dev/mqueue".to_owned(),
    ] {
        // What a step makes in its own /dev is not in its layer: an archive has it.
        let folder = sandbox.context("dev-image", &[]);
        let made = Command::new("sh")
            .args([
                "-c",
                &format!(
                    "cd {} && rm -rf dev && {}",
                    folder.display(),
                    make.replace("/dev", "dev")
                ),
            ])
            .status();
        assert!(made.unwrap().success());
        let text = "FROM busybox\nADD dev.tar /\n";
        let context = sandbox.fresh_context(&[("Dockerfile", text)]);
        let packed = Command::new("tar")
            .args(["-C", folder.to_str().unwrap(), "-cf"])
            .args([context.join("dev.tar").to_str().unwrap(), "dev"])
            .status();
        assert!(packed.unwrap().success());
        let outcome = in_time(sandbox.command(["build", "-t", "dev", context.to_str().unwrap()]));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let text = "FROM dev\nRUN echo x > /dev/null; echo y > /dev/shm/f; test -c /dev/ptmx\n";
        let context = sandbox.fresh_context(&[("Dockerfile", text)]);
        canary.is_untouched(&build(&sandbox, &context, &["--no-cache"]));
        for flags in [&["run"][..], &["run", "-t"]] {
            let args = flags
                .iter()
                .copied()
                .chain(["dev", "sh", "-c", "ls -l /dev"]);
            canary.is_untouched(&in_time(sandbox.command(args)));
        }
    }
}

#[test]
fn privileged_cve_2022_24769_no_capability_is_inherited() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    if !is_root() {
        return;
    }
    // Also CVE-2022-29162, CVE-2022-27650 (crun), CVE-2022-27651 (Buildah), CVE-2025-27612 (youki).
    // A program whose file would make use of inheritable ones, were there any.
    let mut archive = tar::Builder::new(Vec::new());
    let words = [0x0200_0001u32, 0, u32::MAX, 0, u32::MAX];
    let attribute: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let attributes = [("SCHILY.xattr.security.capability", attribute.as_slice())];
    archive.append_pax_extensions(attributes).unwrap();
    let program = fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive
        .append_data(&mut header, "bin/busybox-capable", program.as_slice())
        .unwrap();
    let text = "FROM busybox\nADD capable.tar /\nUSER www\n\
        RUN grep Cap /proc/self/status > /tmp/plain; /bin/busybox-capable grep Cap /proc/self/status > /tmp/capable\n";
    let context = sandbox.fresh_context(&[("Dockerfile", text)]);
    fs::write(context.join("capable.tar"), archive.into_inner().unwrap()).unwrap();
    let root = sandbox.exported_from(&context, &[]);
    sandbox.ok(["build", "-t", "capable", context.to_str().unwrap()]);
    let status = ["/bin/busybox-capable", "grep", "Cap", "/proc/self/status"];
    let ran = sandbox.output_of("capable", &status);
    let as_root = sandbox
        .ok([
            "run",
            "-u",
            "0",
            "capable",
            "grep",
            "Cap",
            "/proc/self/status",
        ])
        .stdout;
    for (who, sets) in [
        ("a step", root.text("tmp/plain")),
        ("a step's program", root.text("tmp/capable")),
        ("a container's program", &ran),
        ("root", &as_root),
    ] {
        for name in ["CapInh", "CapAmb"] {
            assert_eq!(set_of(sets, name), 0, "{who}: {name} of\n{sets}");
        }
        if who != "root" {
            assert_eq!(set_of(sets, "CapEff"), 0, "{who}:\n{sets}");
        }
    }
    assert_eq!(set_of(&as_root, "CapEff"), 0xa804_25fb);
}

fn set_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

#[test]
fn privileged_cve_2020_15257_nothing_of_ours_listens_in_an_abstract_name() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    if !is_root() {
        return;
    }
    let _server = Server::start();
    let word = format!("83{:07}", std::process::id());
    let text =
        format!("FROM busybox\nRUN --network=none ! grep @ /proc/net/unix\nRUN sleep {word}\n");
    let context = sandbox.fresh_context(&[("Dockerfile", &text)]);
    let mut child = sandbox
        .command(["build", context.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while crate::kill::is_idle(&word) {
        assert_eq!(child.try_wait().unwrap(), None, "the build goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let sockets = abstract_sockets();
    for process in processes_of(LONGSHORE) {
        for socket in sockets_of(&process) {
            assert!(!sockets.contains(&socket), "{process} has {socket}");
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The inodes of all sockets in abstract names.
fn abstract_sockets() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let fields = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = fields.filter(|fields| fields.get(7).is_some_and(|name| name.starts_with('@')));
    named.map(|fields| fields[6].to_owned()).collect()
}

fn processes_of(program: &str) -> Vec<String> {
    let own = fs::metadata(program).unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        use std::os::unix::fs::MetadataExt as _;
        let exe = fs::metadata(entry.path().join("exe"));
        if exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == (own.dev(), own.ino())) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    assert!(found.len() >= 2, "the server and the build: {found:?}");
    found
}

fn sockets_of(process: &str) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let targets = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    let inode = |target: std::path::PathBuf| {
        let text = target.to_str()?.to_owned();
        Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    targets.filter_map(inode).collect()
}

#[test]
fn privileged_cve_2026_33747_names_are_never_paths() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let text = "FROM busybox\nARG TARGETPLATFORM\nRUN echo made\nFROM busybox AS last\n";
    let context = sandbox.fresh_context(&[("Dockerfile", text)]);
    let path = context.to_str().unwrap();
    let outside = || {
        let names = fs::read_dir(sandbox.path("")).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = outside();
    let long = "x".repeat(3000);
    for name in [
        "../../canary",
        "..",
        ".",
        "/",
        canary.path(),
        "a/../../../canary",
        &long,
    ] {
        for flag in [
            "-t",
            "--platform",
            "--target",
            "--build-context",
            "--cache-to",
            "--no-cache-filter",
        ] {
            let value = match flag {
                "--build-context" => format!("{name}=docker-image://{name}"),
                "--cache-to" => format!("type=registry,ref={name}"),
                _ => name.to_owned(),
            };
            canary.is_untouched(&in_time(sandbox.command(["build", flag, &value, path])));
        }
        for command in [
            &["tag", "busybox"][..],
            &["rmi"],
            &["inspect"],
            &["run"],
            &["pull"],
            &["history"],
        ] {
            let outcome = in_time(sandbox.command(command.iter().copied().chain([name])));
            canary.is_untouched(&outcome);
            assert_ne!(outcome.code, 0, "{command:?} {name}");
        }
        for command in [
            &["why"][..],
            &["build-history", "logs"],
            &["build-history", "rm"],
        ] {
            canary.is_untouched(&in_time(
                sandbox.command(command.iter().copied().chain([name])),
            ));
        }
        assert_eq!(outside(), before, "{name}");
    }
}

#[test]
fn privileged_cve_2024_9407_options_of_mounts_are_not_smuggled_in() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for options in [
        "type=bind,bind-propagation=shared,target=/m",
        "type=bind,target=/m,bind-propagation=rshared",
        "type=bind,target=/m,relabel=shared",
        "type=tmpfs,target=/m,options=suid",
        "type=tmpfs,target=/m,size=1m\\,dev",
        "type=cache,target=/m,sharing=public",
        "type=cache,target=/m,mode=0755\\,suid",
        "type=bind,target=/m,Z=true",
    ] {
        let text = format!("FROM busybox\nRUN --mount={options} true\n");
        sandbox.fail_to_build(&[("Dockerfile", &text)], 1, &["Dockerfile:2"]);
    }
    // What a comma in a path brings is no option either.
    let script = "grep ' /m' /proc/self/mountinfo";
    let folder = sandbox.path("a,dev,suid");
    fs::create_dir(&folder).unwrap();
    let volume = format!("{}:/m:ro", folder.display());
    let shown = sandbox
        .ok(["run", "-v", &volume, "busybox", "sh", "-c", script])
        .stdout;
    let options = shown.split_whitespace().nth(5).unwrap();
    assert!(options.split(',').any(|option| option == "ro"), "{shown}");
}

#[test]
fn cve_2024_24557_a_changed_configuration_is_another_image() {
    let sandbox = Sandbox::new();
    let id = |lines: &str| {
        let text = format!("FROM scratch\nCOPY Dockerfile.base /\n{lines}\n");
        let context = sandbox.fresh_context(&[("Dockerfile", &text), ("Dockerfile.base", "same")]);
        sandbox
            .ok(["build", "-q", context.to_str().unwrap()])
            .stdout
    };
    let mut seen = std::collections::BTreeMap::new();
    for lines in [
        "",
        "HEALTHCHECK CMD a",
        "HEALTHCHECK CMD b",
        "HEALTHCHECK --interval=5s CMD a",
        "HEALTHCHECK NONE",
        "ONBUILD RUN a",
        "ONBUILD RUN b",
        "ENV A=1",
        "ENV A=2",
        "LABEL a=1",
        "LABEL a=2",
        "CMD a",
        "CMD [\"a\"]",
        "ENTRYPOINT [\"a\"]",
        "SHELL [\"a\"]",
        "USER 1",
        "USER 1:1",
        "EXPOSE 1",
        "EXPOSE 1/udp",
        "VOLUME /a",
        "STOPSIGNAL 9",
        "MAINTAINER a",
        "WORKDIR /a",
    ] {
        if let Some(other) = seen.insert(id(lines), lines) {
            panic!("`{lines}` is taken for `{other}`");
        }
    }
}

/// An OCI layout of one image whose documents are these, by digests that are theirs.
fn layout(folder: &Path, config: &Value, manifest: impl Fn(Value) -> Value) -> String {
    let _none = fs::remove_dir_all(folder);
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |document: &Value, kind: &str| {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = Digest::sha256_of(&bytes).to_string();
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::write(blobs.join(name), &bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let described = put(config, "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let document = json!({
        "schemaVersion": 2, "mediaType": kind, "config": described, "layers": [],
    });
    let top = put(&manifest(document), kind);
    let index = json!({ "schemaVersion": 2, "manifests": [top] });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    format!("base=oci-layout://{}", folder.display())
}

fn good_config() -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/bin"], "User": "", "WorkingDir": "/", "Labels": {"a": "b"},
            "ExposedPorts": {"1/tcp": {}}, "Volumes": {"/v": {}}, "Cmd": ["a"],
            "OnBuild": ["ENV X=1"], "Healthcheck": {"Test": ["CMD", "a"], "Interval": 1},
        },
        "rootfs": { "type": "layers", "diff_ids": [] }, "history": [{"empty_layer": true}],
    })
}

/// The document with each of its values replaced by each of these, one at a time.
fn mutations(document: &Value, values: &[Value]) -> Vec<Value> {
    let mut found = values.to_vec();
    match document {
        Value::Object(fields) => {
            for (name, inner) in fields {
                for changed in mutations(inner, values) {
                    let mut whole = document.clone();
                    whole[name] = changed;
                    found.push(whole);
                }
            }
        }
        Value::Array(items) => {
            for (n, inner) in items.iter().enumerate() {
                for changed in mutations(inner, values) {
                    let mut whole = document.clone();
                    whole[n] = changed;
                    found.push(whole);
                }
            }
        }
        _ => {}
    }
    found
}

/// It failed, or not, but as a program does.
#[track_caller]
fn did_not_panic(sandbox: &Sandbox, context: &str, base: &str, what: &str) -> i32 {
    let outcome = in_time(sandbox.command(["build", "--build-context", base, context]));
    assert!(
        [0, 1].contains(&outcome.code),
        "{what}: {} {}",
        outcome.code,
        outcome.stderr
    );
    assert!(
        !outcome.stderr.contains("panicked"),
        "{what}: {}",
        outcome.stderr
    );
    outcome.code
}

#[test]
fn cve_2024_23650_malformed_images_are_errors() {
    // Also CVE-2026-15792; and CVE-2021-21285: an engine that a malformed manifest brings down.
    let sandbox = Sandbox::new();
    let context = sandbox.context("context", &[("Dockerfile", "FROM base\nLABEL a=1\n")]);
    let (context, folder) = (context.to_str().unwrap(), sandbox.path("layout"));
    let base = layout(&folder, &good_config(), |manifest| manifest);
    assert_eq!(did_not_panic(&sandbox, context, &base, "a good one"), 0);
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let values = [json!(null), json!(-1), deep];
    for config in mutations(&good_config(), &values) {
        let base = layout(&folder, &config, |manifest| manifest);
        did_not_panic(&sandbox, context, &base, &config.to_string());
    }
    let sample = json!({ "schemaVersion": 2, "mediaType": "x", "config": {"mediaType": "y", "digest": "z", "size": 1}, "layers": [{}] });
    for field in ["schemaVersion", "mediaType", "config", "layers"] {
        for changed in mutations(&sample[field], &values) {
            let base = layout(&folder, &good_config(), |mut manifest| {
                manifest[field] = changed.clone();
                manifest
            });
            did_not_panic(&sandbox, context, &base, &format!("{field}: {changed}"));
        }
    }
    for (name, value) in [
        ("digest", json!("sha256:../../../../etc/passwd")),
        ("digest", json!("sha256:ABCDEF")),
        ("size", json!(-1)),
        ("size", json!("1")),
    ] {
        let base = layout(&folder, &good_config(), |mut manifest| {
            manifest["config"][name] = value.clone();
            manifest
        });
        let code = did_not_panic(&sandbox, context, &base, &format!("{name}: {value}"));
        assert_eq!(code, 1, "{name}: {value}");
    }
}

#[test]
fn cve_2021_41190_a_document_is_a_manifest_or_an_index() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("context", &[("Dockerfile", "FROM base\nLABEL a=1\n")]);
    let (context, folder) = (context.to_str().unwrap(), sandbox.path("layout"));
    for (name, value) in [
        ("manifests", json!([])),
        (
            "manifests",
            json!([{ "digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "mediaType": "x" }]),
        ),
        (
            "mediaType",
            json!("application/vnd.oci.image.index.v1+json"),
        ),
        (
            "mediaType",
            json!("application/vnd.docker.distribution.manifest.list.v2+json"),
        ),
    ] {
        let base = layout(&folder, &good_config(), |mut manifest| {
            manifest[name] = value.clone();
            manifest
        });
        let code = did_not_panic(&sandbox, context, &base, &format!("{name}: {value}"));
        assert_eq!(code, 1, "{name}: {value}");
    }
}

#[test]
fn cve_2023_25153_a_document_without_measure_is_refused() {
    let sandbox = Sandbox::new();
    let context = sandbox.context("context", &[("Dockerfile", "FROM base\nLABEL a=1\n")]);
    let (context, folder) = (context.to_str().unwrap(), sandbox.path("layout"));
    let padding = "x".repeat(64 << 20);
    let base = layout(&folder, &good_config(), |mut manifest| {
        manifest["annotations"] = json!({ "padding": padding });
        manifest
    });
    assert_eq!(
        did_not_panic(&sandbox, context, &base, "a manifest of 64 MiB"),
        1
    );
    let mut config = good_config();
    config["config"]["Labels"]["padding"] = json!(padding);
    let base = layout(&folder, &config, |manifest| manifest);
    assert_eq!(
        did_not_panic(&sandbox, context, &base, "a configuration of 64 MiB"),
        1
    );
}

/// Sends a request as it stands; the answer's first line.
fn ask(server: &Server, request: &str, body_bytes: usize) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // Whoever refuses a body closes the connection.
    while sent < body_bytes && stream.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).unwrap_or_default();
    let text = String::from_utf8_lossy(&answer[..count]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn cve_2017_11468_a_registry_takes_no_document_without_measure() {
    let server = Server::start();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let size = 64 << 20;
    let put = format!(
        "PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    );
    let answer = ask(&server, &put, size);
    assert!(
        answer.contains(" 413 ") || answer.contains(" 400 ") || answer.is_empty(),
        "{answer}"
    );
    // Without a length as well.
    let chunked = format!(
        "PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n"
    );
    let answer = ask(&server, &chunked, size);
    assert!(
        answer.contains(" 413 ") || answer.contains(" 400 ") || answer.is_empty(),
        "{answer}"
    );
    let alive = ask(&server, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 0);
    assert!(alive.contains(" 200 "), "{alive}");
}

#[test]
fn cve_2023_2253_a_registry_lists_no_more_than_a_page() {
    let server = Server::start();
    for path in ["/v2/_catalog", "/v2/a/tags/list"] {
        for n in [
            "1000000000000",
            "18446744073709551615",
            "-1",
            "99999999999999999999999",
            "x",
        ] {
            let request = format!("GET {path}?n={n} HTTP/1.1\r\nHost: x\r\n\r\n");
            let answer = ask(&server, &request, 0);
            let known = [" 200 ", " 400 ", " 404 "]
                .iter()
                .any(|code| answer.contains(code));
            assert!(known, "{path}?n={n}: {answer}");
        }
    }
    let alive = ask(&server, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 0);
    assert!(alive.contains(" 200 "), "{alive}");
}
