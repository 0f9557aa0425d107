//! `verify`: two cold builds that are compared, and images that are built again.

use std::fs;

use serde_json::Value;

use crate::harness::{Outcome, Sandbox, Server, tool};
use crate::sources::repository::{Repository, smart_http};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// Nothing of the builds is left in the state root.
fn assert_nothing_left(sandbox: &Sandbox) {
    let folders = walkdir::WalkDir::new(sandbox.root().join("tmp"));
    let cold = folders
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("cold-"));
    assert_eq!(cold.count(), 0);
}

#[test]
fn a_step_that_embeds_the_clock_or_randomness_is_named_with_file_and_line() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nCOPY same /same\n\
        RUN echo same > /quiet && head -c 8 /dev/urandom > /srv.key\n\
        RUN --mount=type=cache,target=/c [ -e /c/n ] || cat /proc/sys/kernel/random/uuid > /c/n; cp /c/n /n\n\
        RUN date +%s > /stamp\nCOPY --link same /linked\nWORKDIR /w\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("same", "same")]);
    let path = context.to_str().unwrap();
    let args = ["verify", "--build-arg", "SOURCE_DATE_EPOCH=1000", path];
    let said = sandbox.run(args);
    assert_eq!(said.code, 1, "{}\n{}", said.stdout, said.stderr);
    for part in [
        "differs: sha256:",
        "Dockerfile:3: ",
        "  /srv.key: content (8 bytes)\n",
        "Dockerfile:4: ",
        "  /n: content (",
        "Dockerfile:5: ",
        "  /stamp: content (11 bytes)\n",
    ] {
        assert!(said.stdout.contains(part), "no {part}\n{}", said.stdout);
    }
    // What is equal is not told: neither files nor fields.
    for part in [
        "same",
        "quiet",
        "configuration",
        "only times",
        "Dockerfile:2",
    ] {
        let lines = said
            .stdout
            .lines()
            .filter(|line| !line.starts_with("layer "));
        assert!(
            !lines.clone().any(|line| line.contains(part)),
            "{part}\n{}",
            said.stdout
        );
    }
    let args = [
        "verify",
        "--format",
        "json",
        "--build-arg",
        "SOURCE_DATE_EPOCH=1000",
        path,
    ];
    let told = json(&sandbox.run(args));
    assert_eq!(
        (&told["result"], &told["only_times"]),
        (&"differs".into(), &false.into())
    );
    let layers = told["platforms"][0]["layers"].as_array().unwrap();
    let lines: Vec<i64> = layers
        .iter()
        .map(|layer| layer["lines"][0].as_i64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 5]);
    assert_eq!(layers[2]["files"][0]["path"], "/stamp");
    assert_eq!(layers[2]["files"][0]["how"][0]["what"], "content");
    assert_nothing_left(&sandbox);
    assert!(
        !sandbox
            .names()
            .iter()
            .any(|name| !name.starts_with("busybox"))
    );
}

#[test]
fn a_build_with_an_epoch_is_equal() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS build\nRUN echo made > /made\nFROM busybox\n\
        COPY --from=build /made /made\nWORKDIR /srv\nCOPY . .\nRUN mkdir d && touch d/x\nLABEL a=b\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("f", "f")]);
    let path = context.to_str().unwrap();
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000"];
    let equal = sandbox.ok(["verify", epoch[0], epoch[1], path]);
    let digest = equal
        .stdout
        .trim()
        .strip_prefix("equal: ")
        .unwrap()
        .to_owned();
    let told = json(&sandbox.ok(["verify", "--format=json", epoch[0], epoch[1], path]));
    assert_eq!(
        (&told["result"], told["first"].as_str()),
        (&"equal".into(), Some(digest.as_str()))
    );
    // It is what a build makes.
    sandbox.build_app(&context, &epoch);
    assert_eq!(sandbox.format("app", "{{.Digest}}"), digest);
    sandbox.run(["verify", "-"]).failure(2, &["standard input"]);
    sandbox.run(["verify"]).failure(2, &["missing"]);
    sandbox
        .run(["verify", "nothing-there"])
        .failure(1, &["nothing-there"]);
    let broken = sandbox.context("broken", &[("Dockerfile", "FROM busybox\nRUN exit 4\n")]);
    sandbox
        .run(["verify", broken.to_str().unwrap()])
        .failure(1, &["exit 4"]);
    assert_nothing_left(&sandbox);
}

#[test]
fn times_alone_are_told_as_such() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN echo same > /same\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    let said = sandbox.run(["verify", context.to_str().unwrap()]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    for part in [
        "Dockerfile:2: ",
        "  /same: mtime ",
        "configuration:\n",
        "  created: ",
        "only times differ: --reproducible or SOURCE_DATE_EPOCH",
    ] {
        assert!(said.stdout.contains(part), "no {part}\n{}", said.stdout);
    }
    assert!(!said.stdout.contains("content"), "{}", said.stdout);
}

#[test]
fn modes_and_what_is_added_or_removed_are_told() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\n\
        RUN m=$(date +%s); touch /f$m /x; chown $m:0 /x; chmod $(printf %o $((m % 512))) /x\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    let args = [
        "verify",
        "--build-arg=SOURCE_DATE_EPOCH=1000",
        context.to_str().unwrap(),
    ];
    let said = sandbox.run(args);
    assert_eq!(said.code, 1, "{}", said.stderr);
    for part in [": added\n", ": removed\n", "  /x: mode ", "owner "] {
        assert!(said.stdout.contains(part), "no {part}\n{}", said.stdout);
    }
}

#[test]
fn an_image_is_built_again_from_its_record_whatever_its_base_tag_is_now() {
    let server = Server::start();
    let base = server.reference("base:1");
    let push = |text: &str| {
        let elsewhere = Sandbox::new();
        let dockerfile = format!("FROM scratch\nCOPY <<x /base\n{text}\nx\n");
        elsewhere.build(&base, &[("Dockerfile", &dockerfile)]);
        elsewhere.ok(["push", &base]);
    };
    push("one");
    let sandbox = Sandbox::new();
    let dockerfile = format!(
        "FROM {base}\nARG V\nARG FROM_ENVIRONMENT\nLABEL v=$V e=$FROM_ENVIRONMENT\nCOPY f /f\n"
    );
    let context = sandbox.context("app", &[("app.Dockerfile", &dockerfile), ("f", "f")]);
    let mut build = sandbox.command([
        "build",
        "-t",
        "app",
        "-f",
        "app/app.Dockerfile",
        "--build-arg",
        "V=1",
        "--build-arg",
        "FROM_ENVIRONMENT",
        "-o",
        "type=image,compression=zstd",
        "app",
    ]);
    build
        .current_dir(context.parent().unwrap())
        .env("SOURCE_DATE_EPOCH", "1000")
        .env("FROM_ENVIRONMENT", "e");
    Outcome::of(build).success();
    push("two");
    let equal = sandbox.ok(["verify", "app"]);
    let digest = sandbox.format("app", "{{.Digest}}");
    assert_eq!(equal.stdout, format!("equal: {digest}\n"));
    let told = json(&sandbox.ok(["verify", "--format", "json", "app:latest"]));
    assert_eq!(told["result"], "equal");
    sandbox
        .run(["verify", "--build-arg", "V=2", "app"])
        .failure(2, &["--build-arg", "as its record says"]);
    assert_nothing_left(&sandbox);

    // A file that was touched is the same input; the image is not the same.
    let file = fs::File::open(context.join("f")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let said = sandbox.run(["verify", "app"]);
    assert_eq!(said.code, 1, "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("app.Dockerfile:5: "),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("  /f: mtime 1000 -> 0\n"),
        "{}",
        said.stdout
    );
}

#[test]
fn an_image_whose_inputs_changed_or_whose_record_is_gone_is_not_judged() {
    let sandbox = Sandbox::new();
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let files = [("Dockerfile", dockerfile), ("a.txt", "a"), ("b.txt", "b")];
    let context = sandbox.context("app", &files);
    sandbox.build_app(&context, &["--build-arg", "SOURCE_DATE_EPOCH=1000"]);
    let cannot = |parts: &[&str]| {
        let said = sandbox.run(["verify", "app"]);
        assert_eq!(said.code, 3, "{}{}", said.stdout, said.stderr);
        assert!(
            said.stdout.starts_with("cannot verify app: "),
            "{}",
            said.stdout
        );
        for part in parts {
            assert!(said.stdout.contains(part), "no {part}\n{}", said.stdout);
        }
        said.stdout
    };
    fs::write(context.join("a.txt"), "changed").unwrap();
    let why = cannot(&["the context changed since it was built", "a.txt`"]);
    assert!(!why.contains("b.txt"), "{why}");
    let told = json(&sandbox.run(["verify", "--format=json", "app"]));
    assert_eq!(told["result"], "unverifiable");

    fs::write(
        context.join("Dockerfile"),
        format!("{dockerfile}LABEL a=b\n"),
    )
    .unwrap();
    cannot(&["the Dockerfile and the context changed"]);
    fs::rename(&context, sandbox.path("moved")).unwrap();
    cannot(&["app`"]);
    sandbox.ok(["build-history", "rm", "--all"]);
    cannot(&["no build of it is recorded"]);

    // What is not kept is said.
    let args = [
        "build",
        "-t",
        "app",
        "-f",
        "-",
        sandbox.path("moved").to_str().unwrap(),
    ]
    .map(str::to_owned);
    let mut command = sandbox.command(args);
    let text = sandbox.path("stdin");
    fs::write(&text, "FROM scratch\nCOPY a.txt /\n").unwrap();
    command.stdin(fs::File::open(&text).unwrap());
    Outcome::of(command).success();
    cannot(&["standard input"]);
    let secret = ["--build-arg", "URL=http://u:password@h/"];
    sandbox.build_app(&sandbox.path("moved"), &secret);
    cannot(&["passwords"]);
}

#[test]
fn an_image_of_a_repository_is_judged_as_long_as_its_branch_is_where_it_was() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY a.txt /\n"),
        ("a.txt", "a"),
    ];
    let repository = Repository::with(folder.join("r"), &files);
    let git = smart_http(&folder, None);
    sandbox.ok(["build", "-t", "app", &git.url("/r.git")]);
    let equal = sandbox.ok(["verify", "app"]);
    assert!(equal.stdout.starts_with("equal: "), "{}", equal.stdout);
    repository.commit(&[("a.txt", "b")]);
    let said = sandbox.run(["verify", "app"]);
    assert_eq!(said.code, 3, "{}{}", said.stdout, said.stderr);
    let why = "cannot verify app: the context changed since it was built";
    assert!(said.stdout.starts_with(why), "{}", said.stdout);
}
