//! Whole builds from other projects' fixtures: contexts, flags, and the image that the
//! reference implementation made of them.
//!
//! The corpus is read in place and is no part of the repository; `LONGSHORE_CORPORA` says
//! where it is. What is known to differ stands in `cases_expected.txt`, a case and its
//! reason a line: a case that fails and is not there fails the test, and so does one
//! that is there and passes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{LONGSHORE, Outcome, Sandbox, debian_base, is_root, peer, tool};

const EXPECTED: &str = include_str!("cases_expected.txt");
/// How many cases are built at once: they wait for the disk more than they compute.
const SHARDS: usize = 4;

const BUSYBOX_NAMES: &str = "busybox busybox:1.31 busybox:1.31.1 busybox:1.32.0 busybox:1.35 busybox:1.36 \
    busybox:stable busybox:stable-musl busybox:musl busybox:glibc libpod/busybox mirror.gcr.io/busybox";
const ALPINE_NAMES: &str =
    "alpine alpine:edge alpine:3 libpod/testimage:20241011 libpod/testimage:20221018 libpod/alpine";
const DEBIAN_NAMES: &str = "debian debian:12 debian:12.10 debian:bullseye-slim ubuntu centos fedora golang libpod/centos:7 libpod/ubuntu";

fn corpora() -> Option<PathBuf> {
    let beside = || {
        PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/corpora"
        ))
    };
    let folder = std::env::var_os("LONGSHORE_CORPORA").map_or_else(beside, PathBuf::from);
    if folder.join("build_cases.tar.zst").exists() {
        return Some(folder);
    }
    crate::skip::skip(format_args!("no corpora at {}", folder.display()));
    None
}

/// Unpacks the cases and puts their base images into the store.
fn prepare(sandbox: &Sandbox, corpora: &Path, debian: &Path) {
    let folder = sandbox.path("cases");
    fs::create_dir_all(folder.join("bases")).unwrap();
    let cases = corpora.join("build_cases.tar.zst");
    peer(
        "tar",
        [
            "--zstd",
            "-xf",
            cases.to_str().unwrap(),
            "-C",
            folder.to_str().unwrap(),
        ],
    );
    fs::copy(
        corpora.join("check_build_cases.py"),
        folder.join("check_build_cases.py"),
    )
    .unwrap();
    for name in ["busybox.json", "alpine.json"] {
        fs::copy(
            corpora.join("bases").join(name),
            folder.join("bases").join(name),
        )
        .unwrap();
    }
    let layouts = sandbox.path("layouts");
    peer(
        "python3",
        [
            corpora.join("bases/mkbase.py").to_str().unwrap(),
            layouts.to_str().unwrap(),
        ],
    );
    let alpine = (6..=22).fold(ALPINE_NAMES.to_owned(), |names, minor| {
        format!("{names} alpine:3.{minor}")
    });
    load(sandbox, &layouts.join("busybox"), BUSYBOX_NAMES);
    load(sandbox, &layouts.join("alpine"), &alpine);
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    sandbox.ok([
        "import",
        debian.to_str().unwrap(),
        "debian",
        "-c",
        path,
        "-c",
        "CMD [\"bash\"]",
    ]);
    name_all(sandbox, "debian", DEBIAN_NAMES);
}

fn load(sandbox: &Sandbox, layout: &Path, names: &str) {
    let archive = layout.with_extension("tar");
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
    let loaded = sandbox
        .ok(["load", "-q", "-i", archive.to_str().unwrap()])
        .stdout;
    name_all(sandbox, loaded.trim_end(), names);
}

fn name_all(sandbox: &Sandbox, image: &str, names: &str) {
    for name in names.split_whitespace() {
        sandbox.ok(["tag", image, name]);
    }
}

/// Checks every `SHARDS`th case from `shard` on; the failed ones with their reasons.
fn check(sandbox: &Sandbox, shard: usize) -> BTreeMap<String, String> {
    let report = sandbox.path(&format!("report-{shard}.json"));
    let mut command = Command::new("python3");
    command
        .arg(sandbox.path("cases/check_build_cases.py"))
        .args(["--cli", LONGSHORE, "--timeout", "120"]);
    command
        .args([
            "--every",
            &SHARDS.to_string(),
            "--offset",
            &shard.to_string(),
            "--out",
        ])
        .arg(&report);
    command
        .env("LONGSHORE_ROOT", sandbox.root())
        .env("DOCKER_CONFIG", sandbox.path("docker"))
        .stdin(Stdio::null());
    Outcome::of(command).success();
    let results: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(!results.is_empty());
    let failed = results
        .iter()
        .filter(|result| result["ok"] != true || result["history"] == false);
    failed
        .map(|result| (result["id"].as_str().unwrap().to_owned(), reason(result)))
        .collect()
}

fn reason(result: &serde_json::Value) -> String {
    let why = result["why"][0].as_str().unwrap_or_else(|| {
        if result["level"] == "error" {
            "was built"
        } else {
            "history"
        }
    });
    format!(
        "{}: {}",
        result["level"].as_str().unwrap(),
        why.trim().replace('\n', " / ")
    )
}

#[test]
fn privileged_other_projects_builds_make_the_images_that_they_should() {
    let Some(corpora) = corpora() else { return };
    let Some(debian) = debian_base() else { return };
    if !is_root()
        || tool("python3").is_none()
        || tool("zstd").is_none()
        || !Path::new("/bin/busybox").exists()
    {
        return;
    }
    let sandbox = Sandbox::new();
    prepare(&sandbox, &corpora, &debian);
    let mut failed = BTreeMap::new();
    std::thread::scope(|scope| {
        let shards: Vec<_> = (0..SHARDS)
            .map(|shard| {
                scope.spawn({
                    let sandbox = &sandbox;
                    move || check(sandbox, shard)
                })
            })
            .collect();
        shards
            .into_iter()
            .for_each(|shard| failed.extend(shard.join().unwrap()));
    });
    let lines = EXPECTED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let expected: BTreeMap<&str, &str> = lines
        .map(|line| line.split_once(" | ").expect("`id | reason`"))
        .collect();
    let new: Vec<String> = failed
        .iter()
        .filter(|(id, _)| !expected.contains_key(id.as_str()))
        .map(|(id, why)| format!("{id} | {why}"))
        .collect();
    let passed: Vec<&str> = expected
        .keys()
        .filter(|id| !failed.contains_key(**id))
        .copied()
        .collect();
    assert!(
        new.is_empty() && passed.is_empty(),
        "fail:\n{}\npass, and are in cases_expected.txt: {passed:?}",
        new.join("\n")
    );
}
