//! What is wrong is named, nothing half-written stays, and the next build works.

use std::fs;

use expect_test::{Expect, expect};

use crate::harness::{Outcome, Sandbox, is_root};

/// Fails to build a Dockerfile with just that message, after which the good one builds.
#[track_caller]
fn check(sandbox: &Sandbox, files: &[(&str, &str)], message: Expect) {
    let outcome = sandbox.fail_to_build(files, 1, &[]);
    let said: Vec<&str> = outcome
        .stderr
        .lines()
        .filter(|line| !is_progress(line))
        .collect();
    message.assert_eq(&format!("{}\n", said.join("\n").trim_start()));
    nothing_is_left(sandbox);
}

/// A line that a step printed, which is not about the failure.
fn is_progress(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

/// No image of that name is here, and the next build is good.
#[track_caller]
fn nothing_is_left(sandbox: &Sandbox) {
    assert!(!sandbox.names().contains(&"failed:latest".to_owned()));
    sandbox.build(
        "good",
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    sandbox.ok(["rmi", "good"]);
}

#[test]
fn an_unknown_instruction_is_shown_where_it_stands() {
    check(
        &Sandbox::new(),
        &[("Dockerfile", "FROM scratch\nCOPPY a /a\n")],
        expect![[r#"
            error[unknown-instruction]: unknown instruction: COPPY (did you mean COPY?)
             --> Dockerfile:2:1
              |
            2 | COPPY a /a
              | ^^^^^
              |
              = help: write `COPY`
        "#]],
    );
}

#[test]
fn all_errors_of_the_text_are_told_at_once() {
    check(
        &Sandbox::new(),
        &[(
            "Dockerfile",
            "FROM scratch\nENV\nRUN --mount=type=nope true\nEXPOSE\n",
        )],
        expect![[r#"
            error[missing-argument]: ENV requires at least one argument
             --> Dockerfile:2:1
              |
            2 | ENV
              | ^^^
              |
              = help: write `ENV name=value`
            error[invalid-mount-field]: unsupported mount type "nope"
             --> Dockerfile:3:5
              |
            3 | RUN --mount=type=nope true
              |     ^^^^^^^^^^^^^^^^^
            error[missing-argument]: EXPOSE requires at least one argument
             --> Dockerfile:4:1
              |
            4 | EXPOSE
              | ^^^^^^
              |
              = help: write `EXPOSE <port>[/<protocol>]`
        "#]],
    );
}

#[test]
fn an_unknown_stage_is_told_with_the_nearest_name() {
    let sandbox = Sandbox::new();
    let files = [(
        "Dockerfile",
        "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /a /a\n",
    )];
    let outcome = sandbox.fail_to_build(&files, 1, &["biuld"]);
    assert!(
        outcome.stderr.contains("Dockerfile:3"),
        "{}",
        outcome.stderr
    );
    let context = sandbox.fresh_context(&files);
    let outcome = sandbox.run(["build", "--target", "biuld", context.to_str().unwrap()]);
    outcome.failure(1, &["biuld", "did you mean build?"]);
    nothing_is_left(&sandbox);
}

#[test]
fn a_copy_source_that_is_not_there_is_named_with_its_line() {
    check(
        &Sandbox::new(),
        &[
            (
                "Dockerfile",
                "FROM scratch\nCOPY here /\nCOPY missing.txt /\n",
            ),
            ("here", ""),
        ],
        expect![[r#"
            error: cannot read `[internal] load build context` for `[2/2] COPY missing.txt /`: "/missing.txt": not found
            Dockerfile:3
            --------------------
               1 |     FROM scratch
               2 |     COPY here /
               3 | >>> COPY missing.txt /
            --------------------
        "#]],
    );
}

#[test]
fn a_copy_source_that_is_ignored_is_said_to_be() {
    let sandbox = Sandbox::new();
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY secret.txt /\n"),
        ("secret.txt", ""),
        (".dockerignore", "secret*\n"),
    ];
    sandbox.fail_to_build(&files, 1, &["secret.txt", ".dockerignore"]);
    nothing_is_left(&sandbox);
}

#[test]
fn a_failing_step_shows_its_last_lines_and_its_code() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    check(
        &sandbox,
        &[(
            "Dockerfile",
            "FROM busybox\nRUN echo fine\nRUN echo last words >&2; \\\n    exit 23\n",
        )],
        expect![[r#"
            ------
             > [3/3] RUN echo last words >&2;     exit 23:
            last words
            ------
            error: `[3/3] RUN echo last words >&2;     exit 23` failed: process "/bin/sh -c echo last words >&2;     exit 23" did not complete successfully: exit code: 23
            Dockerfile:3
            --------------------
               1 |     FROM busybox
               2 |     RUN echo fine
               3 | >>> RUN echo last words >&2; \
               4 | >>>     exit 23
            --------------------
        "#]],
    );
}

#[test]
fn privileged_a_step_that_takes_too_much_memory_is_said_to() {
    let Some(sandbox) = Sandbox::with_busybox().filter(|_| is_root()) else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let context = context.to_str().unwrap();
    sandbox
        .run(["build", "-t", "failed", "--memory", "64m", context])
        .failure(1, &["exit code: 137", "out of memory"]);
    nothing_is_left(&sandbox);
    sandbox.ok(["build", "--memory", "600m", context]);
}

#[test]
fn a_failed_step_writes_no_output_and_keeps_the_old_one() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox.build(
        "app",
        &[("Dockerfile", "FROM busybox\nRUN echo old > /v\n")],
    );
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nRUN exit 1\n")]);
    let folder = sandbox.context("out", &[]);
    for output in [
        "type=oci,dest=DEST/x.tar",
        "type=docker,dest=DEST/x.tar",
        "type=tar,dest=DEST/x.tar",
        "type=local,dest=DEST/x",
    ] {
        let output = output.replace("DEST", folder.to_str().unwrap());
        assert_eq!(
            sandbox
                .run([
                    "build",
                    "-t",
                    "app",
                    "-o",
                    &output,
                    context.to_str().unwrap()
                ])
                .code,
            1
        );
    }
    assert_eq!(
        sandbox
            .run(["build", "-t", "app", context.to_str().unwrap()])
            .code,
        1
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(sandbox.output_of("app", &["cat", "/v"]), "old\n");
}

#[test]
fn a_base_image_that_is_not_there_is_named_with_its_line() {
    let sandbox = Sandbox::new();
    let server = crate::harness::Server::start();
    let dockerfile = format!("FROM {}\n", server.reference("no/such:tag"));
    let outcome = sandbox.fail_to_build(
        &[("Dockerfile", &dockerfile)],
        1,
        &["no/such:tag", "Dockerfile:1"],
    );
    assert!(
        outcome.stderr.contains("not found") || outcome.stderr.contains("unknown"),
        "{}",
        outcome.stderr
    );
    nothing_is_left(&sandbox);
}

#[test]
fn contexts_and_dockerfiles_that_are_not_there_are_named() {
    let sandbox = Sandbox::new();
    let absent = sandbox.path("absent");
    sandbox
        .run(["build", absent.to_str().unwrap()])
        .failure(1, &[absent.to_str().unwrap()]);
    let empty = sandbox.fresh_context(&[]);
    sandbox
        .run(["build", empty.to_str().unwrap()])
        .failure(1, &["Dockerfile"]);
    sandbox
        .run(["build", "-f", "Other.Dockerfile", empty.to_str().unwrap()])
        .failure(1, &["Other.Dockerfile"]);
    sandbox.fail_to_build(&[("Dockerfile", "")], 1, &["no instructions"]);
    sandbox.fail_to_build(
        &[("Dockerfile", "# a comment alone\n")],
        1,
        &["no instructions"],
    );
    nothing_is_left(&sandbox);
}

#[test]
fn flags_that_are_not_there_yet_are_refused_by_name() {
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\n")]);
    for flag in [
        "--sbom",
        "--provenance",
        "--attest=type=sbom",
        "--builder=x",
    ] {
        let outcome = sandbox.run(["build", flag, context.to_str().unwrap()]);
        let name = flag.split('=').next().unwrap();
        assert!(
            [1, 2].contains(&outcome.code) && outcome.stderr.contains(name),
            "{flag}: {} {}",
            outcome.code,
            outcome.stderr
        );
    }
    for wrong in [
        &["--frobnicate"][..],
        &["-o", "type=nope"],
        &["--secret", "src=x"],
        &["--platform", "vax"],
        &["-t", "UPPER CASE"],
    ] {
        let outcome = sandbox.run(
            ["build"]
                .iter()
                .chain(wrong)
                .copied()
                .chain([context.to_str().unwrap()]),
        );
        let word = wrong.last().unwrap().split('=').next_back().unwrap();
        assert!(
            [1, 2].contains(&outcome.code) && outcome.stderr.contains(word),
            "{wrong:?}: {} {}",
            outcome.code,
            outcome.stderr
        );
    }
    sandbox.run(["frobnicate"]).failure(2, &["frobnicate"]);
    assert_eq!(sandbox.names(), Vec::<String>::new());
}

#[test]
fn what_is_neither_file_nor_link_in_the_context_is_named_or_kept() {
    let sandbox = Sandbox::new();
    let context =
        sandbox.fresh_context(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("f", "f\n")]);
    let socket = std::os::unix::net::UnixListener::bind(context.join("socket")).unwrap();
    let exported = sandbox.exported_from(&context, &[]);
    drop(socket);
    // As BuildKit has it, a socket becomes an empty file.
    assert_eq!(exported.text("f"), "f\n");
    assert_eq!(exported.text("socket"), "");
}

/// A file that is written to while it is read is copied whole or refused by name; no image
/// holds a layer that is not what its digest says.
#[test]
fn a_file_that_changes_while_it_is_read_is_named_or_whole() {
    let (sandbox, copy) = (Sandbox::new(), Sandbox::new());
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\nCOPY log /\n")]);
    let log = context.join("log");
    fs::write(&log, "start\n".repeat(300_000)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&log).unwrap();
            let mut lines = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, b"another line\n").unwrap();
                lines += 1;
                if lines % 5000 == 0 {
                    file.set_len(1_000_000).unwrap();
                }
            }
        });
        for _ in 0..4 {
            let outcome = sandbox.run(["build", "-t", "app", context.to_str().unwrap()]);
            if outcome.code != 0 {
                assert!(outcome.stderr.contains("log"), "{}", outcome.stderr);
                continue;
            }
            let archive = sandbox.path("app.tar");
            sandbox.ok(["save", "-o", archive.to_str().unwrap(), "app"]);
            copy.ok(["load", "-i", archive.to_str().unwrap()]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    sandbox.ok(["build", "-t", "app", context.to_str().unwrap()]);
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(root.text("log"), fs::read_to_string(&log).unwrap());
}

#[test]
fn privileged_an_unreadable_file_is_named_and_may_be_ignored() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("hidden", "x\n"),
    ]);
    fs::set_permissions(
        context.join("hidden"),
        std::os::unix::fs::PermissionsExt::from_mode(0o0),
    )
    .unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command
            .args([crate::harness::LONGSHORE, "--root"])
            .arg(sandbox.path("nobody/state"))
            .args(arguments);
        command
            .env_remove("LONGSHORE_ROOT")
            .env("HOME", sandbox.path("nobody"));
        Outcome::of(command)
    };
    fs::create_dir(sandbox.path("nobody")).unwrap();
    std::os::unix::fs::chown(sandbox.path("nobody"), Some(65534), Some(65534)).unwrap();
    for folder in [sandbox.path(""), context.clone()] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let context_text = context.to_str().unwrap();
    let outcome = as_nobody(&["build", "-t", "failed", context_text]);
    assert!(
        [1, 3].contains(&outcome.code),
        "{}: {}",
        outcome.code,
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("hidden")
            && outcome.stderr.to_lowercase().contains("permission denied"),
        "{}",
        outcome.stderr
    );
    fs::write(context.join(".dockerignore"), "hidden\n").unwrap();
    as_nobody(&["build", "-t", "good", context_text]).success();
}

/// On a file system of 24 MB: every command that runs out of space says so, and after
/// some is freed the same command works.
#[test]
fn privileged_a_full_disk_is_told_and_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let saved = sandbox.path("busybox.saved");
    sandbox.ok(["save", "-o", saved.to_str().unwrap(), "busybox"]);
    let noise: Vec<u8> = (0..4_000_000u64)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let context = sandbox.context("app", &[("Dockerfile", "FROM busybox\nCOPY noise /\n")]);
    fs::write(context.join("noise"), noise).unwrap();
    sandbox.context(
        "step",
        &[(
            "Dockerfile",
            "FROM busybox\nRUN dd if=/dev/urandom of=/noise bs=1M count=40\n",
        )],
    );
    sandbox.context(
        "small",
        &[("Dockerfile", "FROM busybox\nRUN echo fits > /note\n")],
    );
    let mount = sandbox.context("disk", &[]);
    // The file system is seen by this script alone and goes with it.
    let script = r#"
set -u
mount -t tmpfs -o size=24m tmpfs "$DISK" || exit 90
export LONGSHORE_ROOT="$DISK/state"
"$LONGSHORE" load -q -i "$SAVED" || exit 91
for context in app step; do
  "$LONGSHORE" build -t "$context" "$SCRATCH/$context" 2>"$SCRATCH/$context.err"
  code=$?
  [ $code = 1 ] || [ $code = 3 ] || { echo "$context: exit code $code"; exit 92; }
  grep -qi "no space left" "$SCRATCH/$context.err" || { cat "$SCRATCH/$context.err"; exit 93; }
done
"$LONGSHORE" images -q --no-trunc | wc -l
"$LONGSHORE" build -q -t small "$SCRATCH/small" >/dev/null || exit 94
"$LONGSHORE" run --rm small cat /note
"#;
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command
        .env("DISK", &mount)
        .env("LONGSHORE", crate::harness::LONGSHORE)
        .env("SAVED", &saved)
        .env("SCRATCH", sandbox.path(""));
    assert_eq!(
        Outcome::of(command)
            .success()
            .stdout
            .trim_start_matches("busybox:latest\n"),
        "1\nfits\n"
    );
}

#[test]
fn a_state_root_that_cannot_be_is_an_environment_error() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("file");
    fs::write(&file, "").unwrap();
    let outcome = sandbox.run(["--root", file.join("below").to_str().unwrap(), "images"]);
    outcome.failure(3, &[file.to_str().unwrap()]);
}

#[test]
fn an_image_is_no_main_context() {
    let sandbox = Sandbox::new();
    for place in ["docker-image://busybox:1", "oci-layout:///nowhere"] {
        let hint = format!("--build-context NAME={place}");
        let refused = ["cannot be the build's context", &hint];
        sandbox.run(["build", place]).failure(1, &refused);
    }
}
