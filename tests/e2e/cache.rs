//! The build cache: what runs again, what does not, and that it says why.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::harness::Sandbox;

const TWO_FILES: &str = "\
FROM busybox
COPY a.txt /a.txt
RUN cat /a.txt > /a.out
COPY b.txt /b.txt
RUN cat /b.txt > /b.out
";

/// A sandbox in which `TWO_FILES` was built once, and its context.
fn built_once() -> Option<(Sandbox, std::path::PathBuf)> {
    let sandbox = Sandbox::with_busybox()?;
    let files = [
        ("Dockerfile", TWO_FILES),
        ("a.txt", "one\n"),
        ("b.txt", "two\n"),
        ("other.txt", "x\n"),
    ];
    let context = sandbox.context("app", &files);
    let first = sandbox.build_app(&context, &[]);
    assert_eq!(first.ran().len(), 4, "{}", first.stderr);
    Some((sandbox, context))
}

#[test]
fn an_unchanged_build_runs_no_step_and_makes_the_same_image() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    let before = sandbox.format("app", "{{.Digest}}");
    let second = sandbox.build_app(&context, &[]);
    assert_eq!(second.ran(), Vec::<String>::new());
    assert!(!second.cached().is_empty(), "{}", second.stderr);
    assert_eq!(sandbox.format("app", "{{.Digest}}"), before);
}

#[test]
fn a_changed_file_runs_the_step_that_takes_it_and_what_follows() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    fs::write(context.join("b.txt"), "three\n").unwrap();
    let second = sandbox.build_app(&context, &[]);
    assert_eq!(
        second.ran(),
        ["COPY b.txt /b.txt", "RUN cat /b.txt > /b.out"]
    );
    assert_eq!(
        sandbox.output_of("app", &["cat", "/a.out", "/b.out"]),
        "one\nthree\n"
    );
}

#[test]
fn a_touched_file_with_equal_content_runs_nothing() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    let file = fs::File::options()
        .append(true)
        .open(context.join("a.txt"))
        .unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(100))
        .unwrap();
    assert_eq!(sandbox.build_app(&context, &[]).ran(), Vec::<String>::new());
}

#[test]
fn an_edit_of_the_same_size_with_its_time_put_back_is_seen() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    let path = context.join("b.txt");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "TWO\n").unwrap();
    fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    sandbox.build_app(&context, &[]);
    assert_eq!(sandbox.output_of("app", &["cat", "/b.out"]), "TWO\n");
}

#[test]
fn a_file_that_no_step_takes_runs_nothing() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    fs::write(context.join("other.txt"), "y\n").unwrap();
    assert_eq!(sandbox.build_app(&context, &[]).ran(), Vec::<String>::new());
}

#[test]
fn no_cache_runs_every_step_again() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    let again = sandbox.build_app(&context, &["--no-cache"]);
    assert_eq!(again.ran().len(), 4, "{}", again.stderr);
    assert_eq!(again.cached(), Vec::<String>::new());
}

#[test]
fn no_cache_filter_runs_only_that_stage_again() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS one\nRUN echo one > /one\nFROM busybox AS two\nRUN echo two > /two\nCOPY --from=one /one /\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    sandbox.build_app(&context, &[]);
    let again = sandbox.build_app(&context, &["--no-cache-filter", "one"]);
    assert_eq!(again.ran(), ["RUN echo one > /one"]);
}

#[test]
fn explain_cache_names_the_file_that_changed() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    fs::write(context.join("b.txt"), "three\n").unwrap();
    let second = sandbox.build_app(&context, &["--explain-cache"]);
    let line = second.stderr.lines().find(|line| line.contains("`b.txt`"));
    assert!(
        line.is_some_and(|line| line.contains("changed")),
        "{}",
        second.stderr
    );
    assert!(!second.stderr.contains("`a.txt`"), "{}", second.stderr);
}

#[test]
fn explain_cache_names_the_argument_that_changed() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.context(
        "app",
        &[(
            "Dockerfile",
            "FROM busybox\nARG VERSION\nRUN echo $VERSION > /version\n",
        )],
    );
    sandbox.build_app(&context, &["--build-arg", "VERSION=1"]);
    let second = sandbox.build_app(&context, &["--build-arg", "VERSION=2", "--explain-cache"]);
    let line = second
        .stderr
        .lines()
        .find(|line| line.contains("VERSION") && line.contains("changed from"));
    assert!(
        line.is_some_and(|line| line.contains("`1`") && line.contains("`2`")),
        "{}",
        second.stderr
    );
}

#[test]
fn a_build_argument_runs_only_what_uses_it() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile =
        "FROM busybox\nRUN echo before > /before\nARG VERSION\nRUN echo $VERSION > /version\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    sandbox.build_app(&context, &["--build-arg", "VERSION=1"]);
    let second = sandbox.build_app(&context, &["--build-arg", "VERSION=2"]);
    assert_eq!(second.ran(), ["RUN echo 2 > /version"]);
    assert_eq!(sandbox.output_of("app", &["cat", "/version"]), "2\n");
    // The first is remembered still.
    assert_eq!(
        sandbox
            .build_app(&context, &["--build-arg", "VERSION=1"])
            .ran(),
        Vec::<String>::new()
    );
    assert_eq!(sandbox.output_of("app", &["cat", "/version"]), "1\n");
}

#[test]
fn a_step_that_makes_the_same_as_before_ends_the_rebuild() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS count\nCOPY list /list\nRUN wc -l < /list > /count\n\
                      FROM busybox\nCOPY --from=count /count /count\nRUN cat /count > /result\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("list", "a\nb\n")]);
    sandbox.build_app(&context, &[]);
    fs::write(context.join("list"), "c\nd\n").unwrap();
    let second = sandbox.build_app(&context, &[]);
    assert_eq!(
        second.ran(),
        ["COPY list /list", "RUN wc -l < /list > /count"]
    );
}

/// Each stage waits for the other's sign: neither ends unless both run at once.
#[test]
fn independent_stages_run_at_the_same_time() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let wait =
        "n=0; while [ ! -e /meet/THERE ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done";
    let stage = |here: &str, there: &str| {
        format!(
            "FROM busybox AS {here}\nRUN --mount=type=cache,id=meet,target=/meet touch /meet/{here}; {}; echo {here} > /{here}\n",
            wait.replace("THERE", there)
        )
    };
    let both = "FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n";
    let dockerfile = format!("{}{}{both}", stage("left", "right"), stage("right", "left"));
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    sandbox.build_app(&context, &["-j", "2"]);
}

#[test]
fn a_stage_that_nothing_needs_does_not_run() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS broken\nRUN exit 1\nFROM no-such-image.invalid/x AS absent\nRUN exit 1\nFROM busybox\nRUN echo fine > /fine\n";
    let outcome = sandbox.build("app", &[("Dockerfile", dockerfile)]);
    assert_eq!(outcome.ran(), ["RUN echo fine > /fine"]);
}

#[test]
fn target_builds_that_stage_and_what_it_needs() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS base\nRUN echo base > /base\nFROM base AS wanted\nRUN echo wanted > /wanted\nFROM base AS last\nRUN exit 1\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
    let outcome = sandbox.build_app(&context, &["--target", "wanted"]);
    assert_eq!(
        outcome.ran(),
        ["RUN echo base > /base", "RUN echo wanted > /wanted"]
    );
    assert_eq!(
        sandbox.output_of("app", &["cat", "/base", "/wanted"]),
        "base\nwanted\n"
    );
}

/// Twice the same step in one Dockerfile, and two processes that build it: it runs once.
#[test]
fn two_builds_at_once_run_the_same_step_once() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let step = "RUN --mount=type=cache,target=/tally echo run >> /tally/runs && sleep 2 && echo done > /done";
    let context = sandbox.context("app", &[("Dockerfile", &format!("FROM busybox\n{step}\n"))]);
    let start = |tag: &str| {
        let mut command = sandbox.command(["build", "-t", tag, context.to_str().unwrap()]);
        command
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let builds = [start("one"), start("two")];
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let count = "FROM busybox\nRUN --mount=type=cache,target=/tally cp /tally/runs /runs\n";
    sandbox.build("count", &[("Dockerfile", count)]);
    assert_eq!(sandbox.output_of("count", &["cat", "/runs"]), "run\n");
    let layers = |name: &str| sandbox.format(name, "{{json .RootFS.Layers}}");
    assert_eq!(layers("one"), layers("two"));
}

#[test]
fn the_cache_outlives_the_image() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    sandbox.ok(["rmi", "app"]);
    sandbox.ok(["prune"]);
    assert_eq!(sandbox.build_app(&context, &[]).ran(), Vec::<String>::new());
    assert_eq!(sandbox.output_of("app", &["cat", "/b.out"]), "two\n");
}

#[test]
fn prune_all_forgets_the_cache_and_keeps_the_images() {
    let Some((sandbox, context)) = built_once() else {
        return;
    };
    sandbox.ok(["prune", "--all"]);
    assert_eq!(sandbox.output_of("app", &["cat", "/b.out"]), "two\n");
    assert_eq!(sandbox.build_app(&context, &[]).ran().len(), 4);
}
