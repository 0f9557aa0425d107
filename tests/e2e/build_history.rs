//! What was built, why steps ran, and that steps which two processes need run once.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Outcome, Sandbox};

const DOCKERFILE: &str = "\
FROM busybox
COPY a.txt /a.txt
RUN echo building; cat /a.txt; printf 'no new line'
ARG V=1
RUN echo $V > /v
";

fn machine() -> Option<(Sandbox, PathBuf)> {
    let sandbox = Sandbox::with_busybox()?;
    let files = [("Dockerfile", DOCKERFILE), ("a.txt", "alpha\n")];
    let context = sandbox.context("app", &files);
    Some((sandbox, context))
}

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn why_says_of_each_step_what_became_of_it() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    sandbox.build_app(&context, &[]);
    sandbox.build_app(&context, &["--build-arg", "V=2"]);
    let why = sandbox.ok(["why", "app"]).stdout;
    assert!(why.contains("of app:latest"), "{why}");
    assert!(why.contains("hit: local"), "{why}");
    assert!(why.contains("miss: env V changed from `1` to `2`"), "{why}");
    let step = sandbox.ok(["why", "app", "> /v"]).stdout;
    assert!(step.contains("miss: env V changed"), "{step}");
    assert!(!step.contains("COPY"), "{step}");

    let steps = json(&sandbox.ok(["why", "app", "--format", "json"]))["steps"].clone();
    let named = |part: &str| {
        let steps = steps.as_array().unwrap().iter();
        let mut found = steps.filter(|step| step["name"].as_str().unwrap().contains(part));
        found.next().unwrap().clone()
    };
    let ran = named("> /v");
    assert_eq!(ran["outcome"], "ran");
    assert_eq!(ran["reason"]["fields"][0]["name"], "env V");
    let fields = ran["fields"].as_array().unwrap();
    assert!(
        fields
            .iter()
            .any(|field| field["name"] == "env V" && field["shown"] == "2")
    );
    let hit = named("echo building");
    assert_eq!(hit["outcome"], "hit");
    assert_eq!(hit["from"]["where"], "local");
    let fields = hit["fields"].as_array().unwrap();
    assert!(fields.iter().any(|field| field["name"] == "argv"), "{hit}");

    sandbox.run(["why", "nothing"]).failure(1, &["nothing"]);
    sandbox.run(["why", "app", "99"]).failure(2, &["99"]);
}

#[test]
fn a_miss_says_which_file_of_a_stage_changed_and_how() {
    let sandbox = Sandbox::new();
    let dockerfile =
        "FROM scratch AS one\nCOPY a b /all/\nFROM scratch\nCOPY --from=one /all/a /\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("a", "1"), ("b", "1")]);
    let build = || {
        let context = context.to_str().unwrap();
        sandbox
            .ok(["build", "-t", "app", "--explain-cache", context])
            .stderr
    };
    build();
    std::fs::write(context.join("a"), "2").unwrap();
    let said = build();
    assert!(
        said.contains("load build context`: `a` changed (content)"),
        "{said}"
    );
    assert!(said.contains("`all/a` changed (content)"), "{said}");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(context.join("a"), mode).unwrap();
    let said = build();
    assert!(said.contains("`all/a` changed (mode)"), "{said}");
    let why = sandbox.ok(["why", "app", "--format", "json"]).stdout;
    assert!(why.contains("\"aspects\""), "{why}");
}

#[test]
fn a_step_of_another_project_explains_nothing() {
    let sandbox = Sandbox::new();
    let build = |name: &str, text: &str| {
        let files = [("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", text)];
        let context = sandbox.context(name, &files);
        let context = context.to_str().unwrap();
        sandbox.ok(["build", "--explain-cache", context]).stderr
    };
    build("one", "1");
    assert!(build("two", "2").contains("it has not run before"));
    assert!(build("one", "3").contains("`a` changed (content)"));
}

#[test]
fn logs_are_kept_byte_for_byte() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    sandbox.build_app(&context, &["-q"]);
    let step = sandbox.ok(["build-history", "logs", "", "echo building"]);
    assert_eq!(step.stdout, "building\nalpha\nno new line");
    // More than any terminal shows, and no line is cut.
    let long =
        "FROM busybox\nRUN head -c 3000000 /dev/zero | tr '\\0' x; echo; seq 1 50000; echo end\n";
    fs::write(context.join("Dockerfile"), long).unwrap();
    sandbox.build_app(&context, &["-q"]);
    let all = sandbox.ok(["build-history", "logs", "", "head"]).stdout;
    let numbers: String = (1..=50000).map(|n| format!("{n}\n")).collect();
    assert!(
        all == format!("{}\n{numbers}end\n", "x".repeat(3_000_000)),
        "{} bytes",
        all.len()
    );
    let listed = sandbox.ok([
        "build-history",
        "ls",
        "--format",
        "{{.Name}} {{.Status}} {{.Ran}}",
    ]);
    assert_eq!(listed.stdout, "app:latest done 1\napp:latest done 3\n");
}

#[test]
fn a_failed_build_is_remembered_with_what_it_said() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    let text = "FROM busybox\nRUN echo before\nRUN echo reason >&2; exit 7\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    let path = context.to_str().unwrap();
    let args = ["build", "-t", "app", "--build-arg", "SHOWN=x", path];
    assert_ne!(sandbox.run(args).code, 0);
    let build = json(&sandbox.ok(["build-history", "inspect"]));
    assert_eq!(build["status"], "failed");
    assert!(build["error"].as_str().unwrap().contains("7"), "{build}");
    assert_eq!(build["inputs"]["build_args"]["SHOWN"], "x");
    assert_eq!(build["inputs"]["context"], path);
    let steps = build["steps"].as_array().unwrap();
    assert_eq!(steps[steps.len() - 1]["outcome"], "failed");
    assert_eq!(
        sandbox.ok(["build-history", "logs", "", "exit 7"]).stdout,
        "reason\n"
    );
    assert!(sandbox.ok(["why", "app"]).stdout.contains("failed: "));
    // So is one that never came to a step.
    fs::write(context.join("Dockerfile"), "FORM x\n").unwrap();
    assert_ne!(sandbox.run(["build", "-t", "app", path]).code, 0);
    let build = json(&sandbox.ok(["build-history", "inspect"]));
    assert_eq!(build["status"], "failed");
    assert_eq!(build["steps"].as_array().unwrap().len(), 0);
}

#[test]
fn the_history_is_bounded_by_builds_and_by_bytes() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    for n in 0..5 {
        let arg = format!("V={n}");
        let flags = ["-q", "--history-builds", "3", "--build-arg", &arg];
        sandbox.build_app(&context, &flags);
    }
    let ids = sandbox.ok(["build-history", "ls", "-q"]).stdout;
    assert_eq!(ids.lines().count(), 3);
    let kept = fs::read_dir(sandbox.root().join("builds")).unwrap().count();
    assert_eq!(kept, 3);
    let loud = "FROM busybox\nARG V\nRUN head -c 200000 /dev/zero; echo $V\n";
    fs::write(context.join("Dockerfile"), loud).unwrap();
    for n in 0..4 {
        let arg = format!("V={n}");
        let flags = ["-q", "--history-bytes", "500k", "--build-arg", &arg];
        sandbox.build_app(&context, &flags);
    }
    assert_eq!(
        sandbox
            .ok(["build-history", "ls", "-q"])
            .stdout
            .lines()
            .count(),
        2
    );

    let id = sandbox.ok(["build-history", "ls", "-q"]).stdout;
    let id = id.lines().next().unwrap();
    sandbox.ok(["build-history", "rm", &id[..6]]);
    sandbox
        .run(["build-history", "inspect", id])
        .failure(1, &["no build"]);
    sandbox.ok(["build-history", "rm", "--all"]);
    assert_eq!(sandbox.ok(["build-history", "ls", "-q"]).stdout, "");
    sandbox.build_app(&context, &["-q", "--history-builds", "0"]);
    assert_eq!(sandbox.ok(["build-history", "ls", "-q"]).stdout, "");
}

#[test]
fn a_build_that_cannot_be_read_hides_no_other() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    sandbox.build_app(&context, &["-q"]);
    let bad = sandbox.ok(["build-history", "ls", "-q"]).stdout;
    let bad = bad.trim();
    sandbox.build_app(&context, &["-q", "--build-arg", "V=2"]);
    let change = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.execute('UPDATE builds SET record = ? WHERE id = ?', ('{', sys.argv[2]))\n\
        db.commit()\n";
    let changed = Command::new("python3")
        .args(["-c", change])
        .arg(sandbox.root().join("meta.db"))
        .arg(bad)
        .status()
        .unwrap();
    assert!(changed.success());

    let listed = sandbox.ok(["build-history", "ls"]);
    assert_eq!(listed.stdout.lines().count(), 2, "{}", listed.stdout);
    assert!(!listed.stdout.contains(bad), "{}", listed.stdout);
    let warning = "warning: 1 of the history's builds cannot be read";
    assert_eq!(listed.stderr.matches(warning).count(), 1);
    assert!(listed.stderr.contains(bad), "{}", listed.stderr);
    assert!(sandbox.ok(["why", "app"]).stdout.contains("> /v"));
    sandbox
        .run(["build-history", "inspect", bad])
        .failure(1, &[bad]);

    sandbox.ok(["build-history", "rm", bad]);
    assert_eq!(sandbox.ok(["build-history", "ls"]).stderr, "");
}

#[test]
fn the_history_counts_as_cache_and_goes_when_it_is_asked_for() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    let loud = "FROM busybox\nARG V\nRUN head -c 200000 /dev/zero; echo $V\n";
    fs::write(context.join("Dockerfile"), loud).unwrap();
    for v in ["V=1", "V=2", "V=3"] {
        sandbox.build_app(&context, &["-q", "--build-arg", v]);
    }
    let ids = || sandbox.ok(["build-history", "ls", "-q"]).stdout;
    let taken = sandbox.ok(["df", "--format", "{{.Type}} {{.Count}} {{.Bytes}}"]);
    let row = taken
        .stdout
        .lines()
        .find(|row| row.starts_with("Build history"));
    let words: Vec<&str> = row.unwrap().split(' ').collect();
    assert_eq!(words[2], "3");
    assert!(words[3].parse::<u64>().unwrap() > 600_000, "{words:?}");

    sandbox.ok(["prune", "--all"]);
    assert_eq!(ids().lines().count(), 3, "nobody asked for that");
    let filter = ["prune", "--filter", "type=build.history"];
    let dry = sandbox.ok(filter.iter().chain(&["--dry-run"]));
    assert_eq!(dry.stdout.matches("would delete: build.history").count(), 3);
    sandbox.ok(filter);
    assert_eq!(ids(), "");

    let config = sandbox.path("history.toml");
    fs::write(&config, "[gc]\nhistoryBuilds = 1\n").unwrap();
    for v in ["V=1", "V=2"] {
        let mut command = sandbox.command(["build", "-q", "--build-arg", v]);
        command.arg(&context).env("LONGSHORE_CONFIG", &config);
        assert!(command.output().unwrap().status.success());
    }
    assert_eq!(ids().lines().count(), 1, "the file's limit");
}

#[test]
fn a_build_that_was_killed_has_its_history_up_to_there() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    let word = format!("79{:07}", std::process::id());
    let text = format!("FROM busybox\nRUN echo first\nRUN echo said before; sleep {word}\n");
    fs::write(context.join("Dockerfile"), text).unwrap();
    let mut child = sandbox
        .command(["build", "-t", "app", context.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let logs = || sandbox.run(["build-history", "logs", "", "sleep"]).stdout;
    while !logs().contains("said before") {
        assert!(Instant::now() < deadline, "the step did not run");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        json(&sandbox.ok(["build-history", "inspect"]))["status"],
        "running"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let build = json(&sandbox.ok(["build-history", "inspect"]));
    assert_eq!(build["status"], "interrupted");
    let steps = build["steps"].as_array().unwrap();
    let outcomes: Vec<&str> = steps
        .iter()
        .map(|step| step["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["source", "ran", "stopped"]);
    assert_eq!(logs(), "said before\n");
    sandbox.ok(["build-history", "rm", "--all"]);
    assert_eq!(
        fs::read_dir(sandbox.root().join("builds")).unwrap().count(),
        0
    );
}

#[test]
fn two_processes_that_need_a_step_run_it_once() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c sleep 2; echo x >> /c/runs; cp /c/runs /runs\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let start = |n| {
            let (sandbox, context) = (&sandbox, &context);
            let tag = format!("app{n}");
            scope.spawn(move || sandbox.ok(["build", "-t", &tag, context.to_str().unwrap()]))
        };
        let running: Vec<_> = (0..3).map(start).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let ran: usize = outcomes.iter().map(|outcome| outcome.ran().len()).sum();
    assert_eq!(ran, 1, "{}", outcomes[0].stderr);
    for n in 0..3 {
        assert_eq!(
            sandbox.output_of(&format!("app{n}"), &["cat", "/runs"]),
            "x\n"
        );
    }
}

#[test]
fn prune_with_a_filter_keeps_what_was_used_since() {
    let Some((sandbox, context)) = machine() else {
        return;
    };
    sandbox.build_app(&context, &[]);
    sandbox.ok(["rmi", "-f", "app"]);
    sandbox.ok(["prune", "--filter", "until=1h"]);
    assert_eq!(sandbox.build_app(&context, &[]).ran(), Vec::<String>::new());
    sandbox.ok(["rmi", "-f", "app"]);
    sandbox.ok(["prune", "--filter", "until=0s"]);
    assert_eq!(sandbox.build_app(&context, &[]).ran().len(), 3);
    sandbox
        .run(["prune", "--filter", "label=x"])
        .failure(2, &["label=x"]);
}
