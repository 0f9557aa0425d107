//! What the build cache may take: held while building, and pruned on request.

use crate::harness::{Sandbox, disk_usage};

const MIB: u64 = 1 << 20;

/// A Dockerfile whose step makes `mib` MiB that do not compress, other ones for each `seed`;
/// one whose seed is `dear` takes its time.
fn heavy(seed: &str, mib: u64) -> String {
    let pause = if seed == "dear" { "sleep 5 && " } else { "" };
    format!(
        "FROM busybox\n\
         RUN {pause}echo {seed} > /seed && \
         dd if=/dev/urandom of=/noise bs=1048576 count={mib} 2>/dev/null\n"
    )
}

/// Builds a Dockerfile without keeping an image.
fn build(sandbox: &Sandbox, dockerfile: &str, flags: &[&str]) -> crate::harness::Outcome {
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let output = format!("type=tar,dest={}", sandbox.path("out.tar").display());
    let args = ["build", "-o", &output, context.to_str().unwrap()];
    sandbox.ok(args.into_iter().chain(flags.iter().copied()))
}

fn df(sandbox: &Sandbox, kind: &str) -> (u64, u64) {
    let text = sandbox.ok(["df", "--format", "json"]).stdout;
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let row = rows.into_iter().find(|row| row["Type"] == kind).unwrap();
    let number = |name: &str| row[name].as_u64().unwrap();
    (number("Count"), number("Bytes"))
}

#[test]
fn privileged_the_limit_holds_over_builds_and_what_took_longest_stays() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let limit = ["--max-used-space", "20m"];
    for seed in ["a", "b", "c", "d", "e", "dear"] {
        build(&sandbox, &heavy(seed, 6), &limit);
        let taken = disk_usage(&sandbox.root().join("snapshots"));
        // The base's directory is a copy of its blob; its size is no step's.
        assert!(taken < 24 * MIB, "after {seed}: {taken}");
    }
    let again = build(&sandbox, &heavy("dear", 6), &limit);
    assert_eq!(again.ran(), [""; 0], "{}", again.stderr);
    let first = build(&sandbox, &heavy("a", 6), &limit);
    assert_eq!(first.ran().len(), 1, "{}", first.stderr);
    assert_eq!(sandbox.output_of("busybox", &["echo", "here"]), "here\n");
}

#[test]
fn privileged_a_build_that_needs_more_than_the_limit_goes_on_says_so_and_cleans_up() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let mut dockerfile = "FROM busybox\n".to_owned();
    for number in 0..4 {
        dockerfile += &format!(
            "RUN dd if=/dev/urandom of=/noise{number} bs=1048576 count=4 2>/dev/null; sleep 0.3\n"
        );
    }
    dockerfile += "RUN test -s /noise0 && test -s /noise3\n";
    let built = build(&sandbox, &dockerfile, &["--max-used-space", "5m"]);
    let said = built
        .stderr
        .matches("warning: the build cache takes")
        .count();
    assert_eq!(said, 1, "{}", built.stderr);
    let taken = disk_usage(&sandbox.root().join("snapshots"));
    assert!(taken < 8 * MIB, "{taken}");
}

#[test]
fn privileged_limits_come_from_flags_the_environment_and_the_file() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let config = sandbox.path("longshore.toml");
    std::fs::write(&config, "[gc]\nmaxUsedSpace = \"5MB\"\n").unwrap();
    let context = sandbox.fresh_context(&[("Dockerfile", &heavy("x", 8))]);
    let output = format!("type=tar,dest={}", sandbox.path("out.tar").display());
    let args = ["build", "-o", &output, context.to_str().unwrap()];
    let snapshots = sandbox.root().join("snapshots");

    let mut command = sandbox.command(args);
    command.env("LONGSHORE_CONFIG", &config);
    assert!(command.output().unwrap().status.success());
    assert!(disk_usage(&snapshots) < 8 * MIB, "the file's limit");

    let mut command = sandbox.command(args);
    command.env("LONGSHORE_CONFIG", &config);
    command.env("LONGSHORE_MAX_USED_SPACE", "1GB");
    assert!(command.output().unwrap().status.success());
    assert!(disk_usage(&snapshots) > 8 * MIB, "the environment's limit");

    let mut command = sandbox.command(args.into_iter().chain(["--max-used-space", "1%%"]));
    command.env("LONGSHORE_CONFIG", &config);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--max-used-space"), "{said}");

    std::fs::write(&config, "[gc]\nmaxUsed = \"5MB\"\n").unwrap();
    let mut command = sandbox.command(args);
    command.env("LONGSHORE_CONFIG", &config);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("maxUsed"),
        "{said}"
    );
}

#[test]
fn privileged_a_dry_run_names_what_a_prune_removes() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for text in ["first", "second"] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/cache echo {text} | tee /cache/f > /f\n"
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        sandbox.ok(["build", "-q", "-t", "app", context.to_str().unwrap()]);
    }
    let named = |args: &[&str], doing: &str| {
        let said = sandbox.ok(args).stdout;
        let mut lines: Vec<String> = said
            .lines()
            .filter_map(|line| line.strip_prefix(doing))
            // How long ago something was used changes meanwhile.
            .map(|line| line.split(", last used").next().unwrap().to_owned())
            .collect();
        lines.sort();
        lines
    };
    let would = named(&["prune", "--all", "--dry-run"], "would delete: ");
    assert!(would.iter().any(|line| line.starts_with("image sha256:")));
    assert!(would.iter().any(|line| line.starts_with("exec.cachemount")));
    assert!(would.iter().any(|line| line.starts_with("sha256:")));
    assert_eq!(named(&["prune", "--all"], "deleted: "), would);
    assert_eq!(named(&["prune", "--all"], "deleted: "), [""; 0]);
}

#[test]
fn privileged_cache_mounts_are_shown_and_pruned_on_their_own() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,id=packages,target=/cache \
        dd if=/dev/urandom of=/cache/noise bs=1048576 count=3 2>/dev/null; echo made > /made\n";
    build(&sandbox, dockerfile, &[]);
    let (count, bytes) = df(&sandbox, "Cache mounts");
    assert_eq!(count, 1);
    assert!(bytes >= 3 * MIB, "{bytes}");

    let would = sandbox.ok(["prune", "--dry-run", "--filter", "type=exec.cachemount"]);
    assert!(would.stdout.contains("packages"), "{}", would.stdout);
    assert_eq!(df(&sandbox, "Cache mounts").0, 1);
    let young = sandbox.ok([
        "prune",
        "--filter",
        "type=exec.cachemount",
        "--filter",
        "until=1h",
    ]);
    assert!(!young.stdout.contains("packages"), "{}", young.stdout);

    let done = sandbox.ok(["prune", "--filter", "type=exec.cachemount"]);
    assert!(done.stdout.contains("packages"), "{}", done.stdout);
    assert_eq!(df(&sandbox, "Cache mounts"), (0, 0));
    let again = build(&sandbox, dockerfile, &[]);
    assert_eq!(again.ran(), [""; 0], "{}", again.stderr);
    sandbox
        .run(["prune", "--filter", "type=frontend"])
        .failure(2, &["type=frontend", "exec.cachemount"]);
}

#[test]
fn privileged_prune_keeps_as_much_as_it_is_told_and_says_why() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for seed in ["a", "b", "dear"] {
        build(&sandbox, &heavy(seed, 4), &[]);
    }
    let would = sandbox.ok(["prune", "--keep-storage", "9m", "--dry-run"]);
    let chosen = would.stdout.matches("would delete: regular").count();
    assert!((1..=2).contains(&chosen), "{}", would.stdout);
    assert!(would.stdout.contains("to make again"), "{}", would.stdout);
    sandbox.ok(["prune", "--keep-storage", "9m"]);
    let (_, blobs) = df(&sandbox, "Build cache");
    let (_, directories) = df(&sandbox, "Layer directories");
    assert!(blobs + directories <= 9 * MIB, "{blobs} {directories}");
    let last = build(&sandbox, &heavy("dear", 4), &[]);
    assert_eq!(last.ran(), [""; 0], "{}", last.stderr);
    sandbox.ok(["prune", "--keep-storage", "0"]);
    assert_eq!(df(&sandbox, "Layer directories").1, 0);
    assert_eq!(sandbox.output_of("busybox", &["echo", "here"]), "here\n");
}
