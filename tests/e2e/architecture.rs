//! Holds the dependency picture of ARCHITECTURE.md: which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate, and what it may depend on. Exact: an edge that is not needed any more goes too.
const PICTURE: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("dockerfile", &[]),
    ("runner", &[]),
    ("graph", &["oci"]),
    ("layers", &["oci"]),
    ("content", &["oci"]),
    ("registry-client", &["oci"]),
    ("solver", &["graph", "oci"]),
    ("frontend", &["dockerfile", "graph", "oci"]),
    ("snapshot", &["layers"]),
    ("registry-server", &["content", "oci"]),
    (
        "engine",
        &[
            "content",
            "dockerfile",
            "frontend",
            "graph",
            "layers",
            "oci",
            "registry-client",
            "runner",
            "snapshot",
            "solver",
        ],
    ),
    (
        "cli",
        &[
            "content",
            "dockerfile",
            "engine",
            "frontend",
            "graph",
            "oci",
            "registry-client",
            "registry-server",
            "runner",
            "solver",
        ],
    ),
];

fn workspace_edges() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(crate::harness::REPOSITORY)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let short = |name: &str| match name {
        "longshore" => Some("cli".to_owned()),
        other => other.strip_prefix("longshore-").map(str::to_owned),
    };
    let packages = metadata["packages"].as_array().unwrap();
    let edges_of = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| short(dependency["name"].as_str().unwrap()))
            .collect::<BTreeSet<_>>()
    };
    packages
        .iter()
        .map(|package| {
            (
                short(package["name"].as_str().unwrap()).unwrap(),
                edges_of(package),
            )
        })
        .collect()
}

#[test]
fn crates_depend_on_one_another_as_the_picture_shows() {
    let picture: BTreeMap<String, BTreeSet<String>> = PICTURE
        .iter()
        .map(|(name, edges)| {
            (
                (*name).to_owned(),
                edges.iter().map(|edge| (*edge).to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(workspace_edges(), picture);
}

#[test]
fn every_crate_says_what_it_is_first() {
    for name in PICTURE.iter().map(|(name, _)| *name) {
        let file = if name == "cli" { "main.rs" } else { "lib.rs" };
        let path = format!("{}/crates/{name}/src/{file}", crate::harness::REPOSITORY);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//! "),
            "{path} does not begin with its module documentation"
        );
    }
}

#[test]
fn unsafe_code_stands_in_the_sys_modules_alone() {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(format!("{}/crates", crate::harness::REPOSITORY)) {
        let entry = entry.unwrap();
        let path = entry.path().to_string_lossy().into_owned();
        if !path.ends_with(".rs") || path.contains("/sys") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        if code.into_iter().any(|line| {
            line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("allow(unsafe_code)")
        }) {
            found.push(path);
        }
    }
    assert!(
        found.is_empty(),
        "unsafe outside the sys modules: {found:?}"
    );
}
