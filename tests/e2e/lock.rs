//! Lock files: written by a build or without one, held to, refreshed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::harness::{Exported, Sandbox, tool};
use crate::sources::repository::{Repository, smart_http};
use crate::sources::web::{Answer, Request, Web};

/// A registry whose tags the test moves, and which remembers what it was asked.
struct Registry {
    web: Web,
    sandbox: Sandbox,
    tags: Arc<Mutex<BTreeMap<String, String>>>,
    blobs: PathBuf,
}

impl Registry {
    fn start() -> Self {
        let sandbox = Sandbox::new();
        let (blobs, tags) = (sandbox.path("layout/blobs/sha256"), Arc::default());
        let (folder, named) = (blobs.clone(), Arc::clone(&tags));
        let web = Web::serve(move |request| document(&folder, &named, request));
        Self {
            web,
            sandbox,
            tags,
            blobs,
        }
    }

    /// Makes `REPOSITORY:TAG` an image for two platforms with this text in `/text`; its digest.
    fn push(&self, name: &str, text: &str) -> String {
        let dockerfile = format!("FROM scratch\nCOPY <<x /text\n{text}\nx\n");
        let context = self.sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let layout = format!(
            "type=oci,tar=false,dest={}",
            self.blobs.ancestors().nth(2).unwrap().display()
        );
        let platforms = "linux/amd64,linux/arm64";
        let context = context.to_str().unwrap();
        self.sandbox
            .ok(["build", "--platform", platforms, "-o", &layout, context]);
        let index = self.blobs.ancestors().nth(2).unwrap().join("index.json");
        let index: serde_json::Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
        let digest = index["manifests"].as_array().unwrap().last().unwrap()["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        self.tags
            .lock()
            .unwrap()
            .insert(name.to_owned(), digest.clone());
        digest
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.web.address)
    }

    /// The tags that were asked for since this was last called.
    fn asked_tags(&self) -> Vec<String> {
        let asked = self.web.asked().into_iter().map(|request| request.path);
        let is_tag = |path: &String| path.contains("/manifests/") && !path.contains("sha256:");
        asked.filter(is_tag).collect()
    }
}

fn document(blobs: &Path, tags: &Mutex<BTreeMap<String, String>>, request: &Request) -> Answer {
    let path = request.path.trim_start_matches("/v2/");
    if path.is_empty() {
        return Answer::status(200);
    }
    let Some((repository, version)) = path
        .split_once("/manifests/")
        .or_else(|| path.split_once("/blobs/"))
    else {
        return Answer::status(404);
    };
    let named = tags
        .lock()
        .unwrap()
        .get(&format!("{repository}:{version}"))
        .cloned();
    let digest = named.unwrap_or_else(|| version.to_owned());
    let Ok(bytes) = fs::read(blobs.join(digest.trim_start_matches("sha256:"))) else {
        return Answer::status(404);
    };
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let media_type = json["mediaType"]
        .as_str()
        .unwrap_or("application/octet-stream");
    Answer::file(if request.method == "HEAD" {
        Vec::new()
    } else {
        bytes
    })
    .with("Content-Type", media_type)
    .with("Docker-Content-Digest", digest)
}

/// Builds on a machine that knows nothing, and exports the result.
fn built_elsewhere(context: &Path, flags: &[&str]) -> Exported {
    Sandbox::new().exported_from(context, flags)
}

fn lock_of(context: &Path) -> String {
    fs::read_to_string(context.join("Dockerfile.lock")).unwrap()
}

#[test]
fn a_build_writes_what_tags_stood_for_and_locked_builds_ask_for_no_tag() {
    let registry = Registry::start();
    let first = registry.push("base:1", "one");
    let other = registry.push("other:1", "from");
    let (base, from) = (registry.name("base:1"), registry.name("other:1"));
    let dockerfile =
        format!("# syntax=docker/dockerfile:1\nFROM {base}\nCOPY --from={from} /text /other\n");
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    sandbox.build_app(&context, &["--lock"]);
    let mut images = [(base.as_str(), &first), (from.as_str(), &other)];
    images.sort();
    let entries: String = images
        .iter()
        .map(|(name, digest)| format!("[[image]]\nname = \"{name}\"\ndigest = \"{digest}\"\n\n"))
        .collect();
    let golden = format!(
        "# What the names in \"Dockerfile\" stand for. `longshore lock` writes this file.\n\
         version = 1\n\n{entries}[[syntax]]\nname = \"docker/dockerfile:1\"\nbuilt-in = true\n"
    );
    assert_eq!(lock_of(&context), golden);

    // The tags move; the lock does not.
    registry.push("base:1", "two");
    registry.push("other:1", "new");
    registry.asked_tags();
    let held = built_elsewhere(&context, &["--locked"]);
    assert_eq!((held.text("text"), held.text("other")), ("one\n", "from\n"));
    // On another platform too: what is locked is the index.
    let held = built_elsewhere(
        &context,
        &["--locked", "--platform", "linux/arm64", "--pull"],
    );
    assert_eq!(held.text("text"), "one\n");
    assert_eq!(registry.asked_tags(), Vec::<String>::new());
    // It is the image that the build made.
    let (old, again) = (Sandbox::new(), Sandbox::new());
    for sandbox in [&old, &again] {
        sandbox.build_app(
            &context,
            &["--locked", "--build-arg", "SOURCE_DATE_EPOCH=0"],
        );
    }
    assert_eq!(
        old.format("app", "{{.Digest}}"),
        again.format("app", "{{.Digest}}")
    );
    // Who does not ask for it has no lock.
    assert_eq!(built_elsewhere(&context, &[]).text("text"), "two\n");
    assert_eq!(lock_of(&context), golden);

    // A build with --lock takes what is there now.
    Sandbox::new().build_app(&context, &["--lock"]);
    let now = lock_of(&context);
    assert!(!now.contains(&first) && now.lines().count() == golden.lines().count());
    sandbox
        .run(["build", "--lock", "--locked", context.to_str().unwrap()])
        .failure(2, &["--locked"]);
}

#[test]
fn what_is_not_in_the_lock_is_named_with_its_line_and_asked_of_nobody() {
    let registry = Registry::start();
    let sandbox = Sandbox::new();
    let address = &registry.web.address;
    let base = format!("FROM {address}/base:1 AS b\n");
    for (text, line, name) in [
        (base.clone(), 1, format!("{address}/base:1")),
        (
            format!("FROM scratch\n\nCOPY --from={address}/x /a /b\n"),
            3,
            format!("{address}/x:latest"),
        ),
        (
            format!("FROM scratch\nRUN --mount=from={address}/x:2,target=/m true\n"),
            2,
            format!("{address}/x:2"),
        ),
        (
            format!("FROM scratch\nARG A=file\nADD http://u:secret@{address}/$A /\n"),
            3,
            format!("http://xxxxx:xxxxx@{address}/file"),
        ),
        (
            format!("FROM scratch\nADD http://{address}/r.git#main /\n"),
            2,
            format!("http://{address}/r.git#main"),
        ),
        (
            "# syntax=a/b:1\nFROM scratch\n".to_owned(),
            1,
            "a/b:1".to_owned(),
        ),
    ] {
        let files = [
            ("Dockerfile", text.as_str()),
            ("Dockerfile.lock", "version = 1\n"),
        ];
        let context = sandbox.fresh_context(&files);
        let place = format!("Dockerfile:{line}");
        let failed = sandbox
            .run(["build", "--locked", context.to_str().unwrap()])
            .failure(
                1,
                &[
                    &format!("`{name}` is not in `"),
                    &place,
                    "`longshore lock` adds it",
                ],
            );
        assert!(!failed.stderr.contains("secret"), "{}", failed.stderr);
    }
    assert!(registry.web.asked().is_empty());
    // What a Dockerfile pins itself needs no lock.
    let digest = registry.push("base:1", "one");
    let text = format!("FROM {address}/base@{digest}\n");
    let files = [
        ("Dockerfile", text.as_str()),
        ("Dockerfile.lock", "version = 1\n"),
    ];
    built_elsewhere(&sandbox.fresh_context(&files), &["--locked"]);
}

#[test]
fn a_lock_is_written_without_a_build_for_all_stages_and_refreshed_by_name() {
    let registry = Registry::start();
    let (one, two) = (registry.name("one:1"), registry.name("two:1"));
    let (first, _) = (registry.push("one:1", "one"), registry.push("two:1", "two"));
    let dockerfile = format!("FROM {one} AS other\nFROM {two}\nRUN false\n");
    let sandbox = Sandbox::new();
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    let path = context.to_str().unwrap();
    let made = sandbox.ok(["lock", path]).stdout;
    assert!(made.contains(&format!("+ image {one} {first}\n")), "{made}");
    assert_eq!(made.lines().count(), 2, "{made}");
    let before = lock_of(&context);

    // What is locked stays so.
    let moved = registry.push("one:1", "three");
    registry.push("two:1", "four");
    registry.asked_tags();
    let same = sandbox.ok(["lock", path]);
    assert!(same.stdout.is_empty() && same.stderr.contains("nothing changed"));
    assert_eq!(
        (lock_of(&context), registry.asked_tags().len()),
        (before.clone(), 0)
    );
    let changed = sandbox.ok(["lock", path, "--update", &one]).stdout;
    assert_eq!(changed, format!("~ image {one} {first} -> {moved}\n"));
    sandbox
        .run(["lock", path, "--update", "nothing:1"])
        .failure(1, &["`nothing:1` is not in", &two]);
    sandbox
        .run(["lock", "--update", path])
        .failure(2, &["put it first"]);

    // What is new is added; what is gone goes with a whole refresh.
    fs::write(context.join("Dockerfile"), format!("FROM {one}\n")).unwrap();
    assert_eq!(sandbox.ok(["lock", path]).stdout, "");
    let dropped = sandbox.ok(["lock", path, "--update"]).stdout;
    assert!(dropped.starts_with(&format!("- image {two} ")), "{dropped}");
    assert_eq!(dropped.lines().count(), 1, "{dropped}");

    // A locked digest that nobody has any more.
    let gone = lock_of(&context).replace(&moved, &format!("sha256:{}", "0".repeat(64)));
    fs::write(context.join("Dockerfile.lock"), gone).unwrap();
    let refresh = format!("`longshore lock --update {one}`");
    let parts = ["Dockerfile:1", "is locked to sha256:0000", &refresh];
    sandbox.run(["build", "--locked", path]).failure(1, &parts);
}

#[test]
fn urls_and_commits_are_held() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let repository = Repository::with(folder.join("r"), &[("file", "old")]);
    repository.git(["tag", "-m", "t", "v1"]);
    let (git, web) = (smart_http(&folder, None), Web::of(Answer::file("first")));
    let (remote, url) = (git.url("/r.git"), web.url("/data"));
    let dockerfile = format!(
        "FROM scratch\nADD {url} /data\nADD {remote}#main /main\nADD --keep-git-dir {remote}#v1 /tag\n"
    );
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    sandbox.build_app(&context, &["--lock"]);
    let commit = repository.head();
    let object = repository.git(["rev-parse", "v1"]);
    let lock = lock_of(&context);
    for part in [
        format!(
            "[[git]]\nname = \"{remote}#main\"\nreference = \"refs/heads/main\"\ncommit = \"{commit}\"\n\n"
        ),
        format!("reference = \"refs/tags/v1\"\ncommit = \"{commit}\"\ntag = \"{object}\"\n\n"),
        format!("[[url]]\nname = \"{url}\"\nchecksum = \"sha256:"),
    ] {
        assert!(lock.contains(&part), "no {part}\n{lock}");
    }
    let without = sandbox.ok(["lock", context.to_str().unwrap()]);
    assert_eq!((without.stdout.as_str(), lock_of(&context)), ("", lock));

    repository.commit(&[("file", "new")]);
    repository.git(["tag", "-f", "-m", "t", "v1"]);
    git.asked();
    let held = built_elsewhere(&context, &["--locked"]);
    assert_eq!(
        (held.text("main/file"), held.text("tag/file")),
        ("old", "old")
    );
    assert!(held.has("tag/.git/HEAD"));
    assert_eq!(held.text("data"), "first");
    let unlocked = built_elsewhere(&context, &[]);
    assert_eq!(unlocked.text("main/file"), "new");

    web.now(|_| Answer::file("second"));
    let refresh = format!("`longshore lock --update {url}`");
    let parts = [
        url.as_str(),
        "is locked to sha256:",
        "Dockerfile:2",
        &refresh,
    ];
    Sandbox::new()
        .run(["build", "--locked", context.to_str().unwrap()])
        .failure(1, &parts);
    // The machine that has the file needs nobody.
    assert_eq!(
        sandbox.exported_from(&context, &["--locked"]).text("data"),
        "first"
    );
}

#[test]
fn named_contexts_are_in_the_lock_unless_they_are_directories() {
    let Some(_) = tool("git") else { return };
    let registry = Registry::start();
    let digest = registry.push("base:1", "one");
    let layout = registry.blobs.ancestors().nth(2).unwrap().to_owned();
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let repository = Repository::with(folder.join("r"), &[("file", "old")]);
    let git = smart_http(&folder, None);
    let web = Web::of(Answer::file("data"));
    let local = sandbox.context("local", &[("file", "here")]);
    let dockerfile = "FROM image\nCOPY --from=layout /text /layout\nCOPY --from=git /file /git\n\
        COPY --from=url /context /url\nCOPY --from=local /file /local\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    let places = [
        format!("image=docker-image://{}", registry.name("base:1")),
        format!("layout=oci-layout://{}", layout.display()),
        format!("git={}", git.url("/r.git#main")),
        format!("url={}", web.url("/data")),
        format!("local={}", local.display()),
    ];
    let flags: Vec<&str> = places
        .iter()
        .flat_map(|place| ["--build-context", place])
        .collect();
    let with = |last: &'static str| [&flags[..], &[last]].concat();
    sandbox.build_app(&context, &with("--lock"));
    let lock = lock_of(&context);
    for part in [
        format!("[[image]]\nname = \"{}\"", registry.name("base:1")),
        format!(
            "[[layout]]\nname = \"{}\"\ndigest = \"{digest}\"",
            layout.display()
        ),
        format!("[[git]]\nname = \"{}#main\"", git.url("/r.git")),
        format!("[[url]]\nname = \"{}\"", web.url("/data")),
    ] {
        assert!(lock.contains(&part), "no {part}\n{lock}");
    }
    assert_eq!(lock.matches("[[").count(), 4, "{lock}");
    repository.commit(&[("file", "new")]);
    let held = built_elsewhere(&context, &with("--locked"));
    assert_eq!((held.text("git"), held.text("local")), ("old", "here"));
    // A context that is not locked is named.
    fs::write(
        context.join("Dockerfile.lock"),
        lock.replace("#main", "#other"),
    )
    .unwrap();
    let args = ["build", "--locked", context.to_str().unwrap()];
    sandbox
        .run(args.into_iter().chain(flags.iter().copied()))
        .failure(1, &["r.git#main` is not in", "Dockerfile:3"]);
}

#[test]
fn a_lock_that_is_none_is_an_error_with_file_and_line_and_nothing_unless_asked_for() {
    let sandbox = Sandbox::new();
    let corrupt = "version = 1\n<<<<<<< HEAD\n[[image]]\n";
    let files = [
        ("app.Dockerfile", "FROM scratch\n"),
        ("app.Dockerfile.lock", corrupt),
    ];
    let context = sandbox.context("app", &files);
    let (path, file) = (context.to_str().unwrap(), context.join("app.Dockerfile"));
    let dockerfile = file.to_str().unwrap();
    let place = format!("{dockerfile}.lock`, line 2: ");
    for flag in ["--locked", "--lock"] {
        let args = ["build", flag, "-f", dockerfile, path];
        sandbox.run(args).failure(1, &[&place]);
    }
    sandbox
        .run(["lock", "-f", dockerfile, path])
        .failure(1, &[&place]);
    sandbox.ok(["build", "-f", dockerfile, path]);
    assert_eq!(
        fs::read_to_string(format!("{dockerfile}.lock")).unwrap(),
        corrupt
    );

    // There is none, or no place for one.
    fs::remove_file(format!("{dockerfile}.lock")).unwrap();
    let args = ["build", "--locked", "-f", dockerfile, path];
    sandbox
        .run(args)
        .failure(1, &["there is no `", "app.Dockerfile.lock`"]);
    sandbox.ok(["build", "--lock", "-f", dockerfile, path]);
    sandbox.ok(["build", "--locked", "-f", dockerfile, path]);
    let args = ["build", "--lock", "-f", "-", path];
    sandbox.run(args).failure(1, &["cannot have a lock file"]);
}

#[test]
fn the_lock_of_a_context_elsewhere_is_read_but_not_written() {
    let Some(_) = tool("git") else { return };
    let registry = Registry::start();
    let base = registry.name("base:1");
    registry.push("base:1", "one");
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let dockerfile = format!("FROM {base}\nCOPY own /own\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("own", "own")];
    let repository = Repository::with(folder.join("r"), &files);
    let git = smart_http(&folder, None);
    let url = git.url("/r.git#main");
    sandbox
        .run(["build", "--locked", &url])
        .failure(1, &["there is no `Dockerfile.lock`"]);
    for args in [&["build", "--lock", &url][..], &["lock", &url]] {
        let parts = ["not a directory of this machine"];
        sandbox.run(args).failure(1, &parts);
    }
    sandbox.ok(["lock", repository.path.to_str().unwrap()]);
    repository.commit(&[]);
    registry.push("base:1", "two");
    registry.asked_tags();
    let archive = sandbox.path("x.tar");
    let output = format!("type=tar,dest={}", archive.display());
    Sandbox::new().ok(["build", "--locked", "-o", &output, &url]);
    let made = Exported::read(&archive);
    assert_eq!((made.text("text"), made.text("own")), ("one\n", "own"));
    assert!(registry.asked_tags().is_empty());
}
