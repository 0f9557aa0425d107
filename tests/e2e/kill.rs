//! `kill -9` at any moment: the next start clears what was left, and nothing that was
//! published is lost.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Outcome, Sandbox, Server, is_root};

/// Waits for something to become true.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process has `word` in its command line, but for `longshore` itself.
pub(crate) fn runs(word: &str) -> bool {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&line).into_owned();
            !text.contains("longshore") && text.split('\0').any(|argument| argument == word)
        })
}

/// Whether no process has `word` in its command line.
pub(crate) fn is_idle(word: &str) -> bool {
    !runs(word)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Fails if a mount of this machine is in the sandbox.
#[track_caller]
pub(crate) fn no_mount_in(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = folder.to_str().unwrap();
    assert!(
        !mounts.contains(folder),
        "{:?}",
        mounts
            .lines()
            .filter(|line| line.contains(folder))
            .collect::<Vec<_>>()
    );
}

/// What is in the directories of a state root in which nothing is published.
pub(crate) fn unpublished(root: &Path) -> Vec<String> {
    let folders = ["tmp", "work", "trash", "uploads"].map(|name| root.join(name));
    let below = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    below
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

#[test]
fn a_build_killed_in_the_middle_of_a_step_leaves_no_process_mount_or_file() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox.build(
        "before",
        &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")],
    );
    let word = format!("77{:07}", std::process::id());
    let dockerfile = format!("FROM busybox\nRUN echo half > /half; sleep {word}\n");
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    let child = sandbox
        .command(["build", "-t", "killed", context.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the step runs", || runs(&word));
    assert!(!unpublished(sandbox.root()).is_empty());
    kill(child);
    wait_until("the step's processes are gone", || !runs(&word));
    no_mount_in(sandbox.root());

    // The next command, whichever it is, clears what was left.
    assert_eq!(sandbox.names(), ["before:latest", "busybox:latest"]);
    assert_eq!(unpublished(sandbox.root()), Vec::<String>::new());
    assert_eq!(sandbox.output_of("before", &["cat", "/kept"]), "kept\n");
    let again = dockerfile.replace(&format!("sleep {word}"), "true");
    sandbox.build("killed", &[("Dockerfile", &again)]);
    assert_eq!(sandbox.output_of("killed", &["cat", "/half"]), "half\n");
}

/// Nothing is mounted then, and no process namespace ends with its first process.
#[test]
fn privileged_a_build_by_chroot_killed_in_the_middle_leaves_nothing_either() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = format!("75{:07}", std::process::id());
    let mounts = "--mount=type=cache,target=/cache --mount=type=secret,id=s";
    let dockerfile = format!(
        "FROM busybox\nRUN {mounts} echo x >> /cache/x; (trap '' TERM HUP; setsid sleep {word}) & sleep {word}\n"
    );
    let secret = sandbox.path("secret");
    fs::write(&secret, "word").unwrap();
    let secret = format!("id=s,src={}", secret.display());
    let build = |dockerfile: &str| {
        let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
        let path = context.to_str().unwrap().to_owned();
        sandbox.command([
            "build",
            "--isolation=chroot",
            "--secret",
            &secret,
            "-t",
            "made",
            &path,
        ])
    };
    let child = build(&dockerfile).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the step runs", || runs(&word));
    kill(child);
    wait_until("the step's processes are gone", || !runs(&word));
    wait_until("the next command clears all", || {
        sandbox.names() == ["busybox:latest"] && unpublished(sandbox.root()).is_empty()
    });
    let again =
        format!("FROM busybox\nRUN {mounts} echo x >> /cache/x; wc -l < /cache/x > /lines\n");
    Outcome::of(build(&again)).success();
    let lines = sandbox.output_of("made", &["cat", "/lines"]);
    assert!(
        ["1\n", "2\n"].contains(&lines.as_str()),
        "the cache may be lost, not torn: {lines}"
    );
}

#[test]
fn a_run_killed_takes_its_container_with_it() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = format!("78{:07}", std::process::id());
    let script = format!("(trap '' TERM HUP INT; sleep {word}) & sleep {word}");
    let child = sandbox
        .command(["run", "busybox", "sh", "-c", &script])
        .spawn()
        .unwrap();
    wait_until("the container runs", || runs(&word));
    kill(child);
    wait_until("the container is gone", || !runs(&word));
    no_mount_in(sandbox.root());
    assert_eq!(sandbox.output_of("busybox", &["echo", "fine"]), "fine\n");
}

/// A context whose layer takes a while to write.
fn large_context(sandbox: &Sandbox, name: &str, seed: u64) -> std::path::PathBuf {
    let context = sandbox.context(name, &[("Dockerfile", "FROM scratch\nCOPY noise /\n")]);
    let mut value = seed;
    let noise: Vec<u8> = (0..6_000_000u64)
        .flat_map(|_| {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (value >> 8).to_le_bytes()
        })
        .collect();
    fs::write(context.join("noise"), noise).unwrap();
    context
}

#[test]
fn a_build_killed_while_it_writes_a_layer_publishes_all_or_nothing() {
    let sandbox = Sandbox::new();
    sandbox.build(
        "before",
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    let context = large_context(&sandbox, "large", 1);
    for milliseconds in [30, 90, 200, 350, 550] {
        let child = sandbox
            .command(["build", "-t", "large", context.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        kill(child);
        // Whatever is named is whole.
        let archive = sandbox.path("whole.tar");
        for name in sandbox.names() {
            sandbox.ok(["save", "-o", archive.to_str().unwrap(), &name]);
        }
        assert!(sandbox.names().contains(&"before:latest".to_owned()));
    }
    sandbox.ok(["build", "-t", "large", context.to_str().unwrap()]);
    let copy = Sandbox::new();
    let archive = sandbox.path("large.tar");
    sandbox.ok(["save", "-o", archive.to_str().unwrap(), "large"]);
    // Loading verifies every digest.
    copy.ok(["load", "-i", archive.to_str().unwrap()]);
    // Nothing half-written takes space: what is there is the two images.
    sandbox.ok(["rmi", "large"]);
    sandbox.ok(["prune", "--all"]);
    let size: u64 = walkdir::WalkDir::new(sandbox.root())
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|meta| meta.len())
        .sum();
    assert!(size < 4_000_000, "{size} bytes are left");
    assert_eq!(unpublished(sandbox.root()), Vec::<String>::new());
}

/// Starts a command and kills it when it says `word`; whether it did.
fn kill_when_it_says(mut command: Command, word: &str) -> bool {
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains(word));
    kill(child);
    said
}

#[test]
fn a_push_killed_in_the_middle_leaves_no_tag_and_can_be_repeated() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    let reference = server.reference("large:1");
    let context = large_context(&sandbox, "large", 2);
    sandbox.ok(["build", "-t", &reference, context.to_str().unwrap()]);
    assert!(kill_when_it_says(
        sandbox.command(["push", &reference]),
        "upload"
    ));
    let (status, _) = crate::harness::http_get(&server.address, "/v2/large/manifests/1").unwrap();
    assert_eq!(status, 404);
    sandbox.ok(["push", &reference]);
    let copy = Sandbox::new();
    copy.ok(["pull", &reference]);
    assert_eq!(
        copy.format(&reference, "{{.Digest}}"),
        sandbox.format(&reference, "{{.Digest}}")
    );
}

#[test]
fn a_pull_killed_in_the_middle_leaves_no_name_and_can_be_repeated() {
    let (sandbox, server, copy) = (Sandbox::new(), Server::start(), Sandbox::new());
    let reference = server.reference("large:1");
    let context = large_context(&sandbox, "large", 3);
    sandbox.ok([
        "build",
        "--push",
        "-t",
        &reference,
        context.to_str().unwrap(),
    ]);
    assert!(kill_when_it_says(
        copy.command(["pull", &reference]),
        "download"
    ));
    assert_eq!(copy.names(), Vec::<String>::new());
    copy.ok(["pull", &reference]);
    assert_eq!(
        copy.format(&reference, "{{.Digest}}"),
        sandbox.format(&reference, "{{.Digest}}")
    );
}

#[test]
fn a_registry_killed_while_it_takes_a_push_keeps_what_it_had_and_takes_it_again() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("registry");
    let server = Server::start_at(&root);
    let small = server.reference("small:1");
    sandbox.build(
        &small,
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    sandbox.ok(["push", &small]);
    let digest = sandbox.format(&small, "{{.Digest}}");
    let large = server.reference("large:1");
    let context = large_context(&sandbox, "large", 4);
    sandbox.ok(["build", "-t", &large, context.to_str().unwrap()]);

    let mut push = sandbox
        .command(["push", &large])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(push.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("upload")));
    server.kill();
    // It gives up, and says so, or is still trying when it is no longer wanted.
    let _ = push.kill();
    push.wait().unwrap();

    let server = Server::start_at(&root);
    let copy = Sandbox::new();
    copy.ok(["pull", &server.reference(&format!("small@{digest}"))]);
    assert_eq!(
        crate::harness::http_get(&server.address, "/v2/large/manifests/1")
            .unwrap()
            .0,
        404
    );
    sandbox.ok(["tag", &large, &server.reference("large:1")]);
    sandbox.ok(["push", &server.reference("large:1")]);
    copy.ok(["pull", &server.reference("large:1")]);
}

#[test]
fn interrupted_builds_end_at_once_and_say_so() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = format!("79{:07}", std::process::id());
    let context =
        sandbox.fresh_context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {word}\n"))]);
    let child = sandbox
        .command(["build", context.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the step runs", || runs(&word));
    let id = child.id().to_string();
    Outcome::of({
        let mut kill = Command::new("kill");
        kill.args(["-INT", &id]);
        kill
    })
    .success();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("cancel"));
    assert!(!runs(&word));
}

#[test]
fn privileged_nothing_is_mounted_while_or_after_a_step_runs() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = format!("80{:07}", std::process::id());
    let context =
        sandbox.fresh_context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {word}\n"))]);
    let child = sandbox
        .command(["build", context.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the step runs", || runs(&word));
    no_mount_in(sandbox.root());
    kill(child);
    wait_until("the step's processes are gone", || !runs(&word));
    no_mount_in(sandbox.root());
}
