//! What every [`Runner`] must do: one suite, run by each implementation.
//!
//! Each check is a function over a runner and a fresh root file system; it panics when the contract
//! is broken. The root file systems need a POSIX shell and the usual small commands (`busybox` is
//! enough), an `/etc/passwd` with `root` and `app` (1000:1000, home `/home/app`), and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::{
    Cancel, Ended, ExitStatus, Mount, MountSource, ProcessIo, ProcessSpec, Refused, Rootfs,
    RunError, Runner, Secret, Stream,
};

const FLOOD_BYTES: usize = 16 << 20;
const MANY: usize = 64;

/// Runs the whole suite; `new_rootfs` makes a root file system each time.
///
/// # Panics
/// When the contract is broken.
pub fn run(runner: &dyn Runner, new_rootfs: &dyn Fn() -> PathBuf) {
    run_all(runner, new_rootfs, Reasons::Exact);
}

/// As [`run`], for a runner that leaves the sandbox to somebody else's runtime: why a command
/// could not be run is said in its words, and a missing interpreter is only a failed run.
///
/// # Panics
/// When the contract is broken.
pub fn run_foreign(runner: &dyn Runner, new_rootfs: &dyn Fn() -> PathBuf) {
    run_all(runner, new_rootfs, Reasons::Foreign);
}

/// How well a runner knows why a command could not be run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reasons {
    Exact,
    Foreign,
}

fn run_all(runner: &dyn Runner, new_rootfs: &dyn Fn() -> PathBuf, reasons: Reasons) {
    let checks: [fn(&Bench<'_>); 13] = [
        exit_codes_are_passed_on,
        signals_are_128_and_more,
        output_is_complete_and_in_order,
        a_flood_on_both_streams_arrives_whole,
        input_is_empty_unless_given,
        the_environment_is_what_was_asked_for,
        commands_that_cannot_be_run_say_why,
        users_are_the_image_s,
        the_working_directory_is_made,
        background_processes_do_not_outlive_the_command,
        cancelling_kills_whatever_resists,
        a_cancelled_handle_starts_nothing,
        mount_points_leave_no_trace,
    ];
    for check in checks {
        check(&Bench {
            runner,
            rootfs: new_rootfs(),
            reasons,
        });
    }
    let benches: Vec<_> = (0..MANY)
        .map(|_| Bench {
            runner,
            rootfs: new_rootfs(),
            reasons,
        })
        .collect();
    many_at_once_do_not_mix(&benches);
}

struct Bench<'runner> {
    runner: &'runner dyn Runner,
    rootfs: PathBuf,
    reasons: Reasons,
}

/// What a run gave.
struct Outcome {
    status: Result<ExitStatus, RunError>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    #[track_caller]
    fn text(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        match &self.status {
            Ok(status) => assert!(status.success(), "{status:?}: {stderr}"),
            Err(error) => panic!("{error:?}"),
        }
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    fn ended(&self) -> Ended {
        match &self.status {
            Ok(status) => status.ended,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[track_caller]
    fn error(self) -> RunError {
        match self.status {
            Ok(status) => panic!("it ran: {status:?}"),
            Err(error) => error,
        }
    }
}

impl Bench<'_> {
    fn spec(&self, args: &[&str]) -> ProcessSpec {
        ProcessSpec::new(Rootfs::Path(self.rootfs.clone()), args.iter().copied())
    }

    fn script(&self, script: &str) -> Outcome {
        self.run(self.spec(&["/bin/sh", "-c", script]), &new_cancel())
    }

    fn run(&self, spec: ProcessSpec, cancel: &Cancel) -> Outcome {
        let collected = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let sink = Arc::clone(&collected);
        let io = ProcessIo::to_sink(move |stream, bytes| {
            let mut collected = sink.lock().unwrap_or_else(PoisonError::into_inner);
            match stream {
                Stream::Stdout => collected.0.extend_from_slice(bytes),
                Stream::Stderr => collected.1.extend_from_slice(bytes),
            }
        });
        let status = self.runner.run(spec, io, cancel);
        let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdout, stderr) = std::mem::take(&mut *collected);
        Outcome {
            status,
            stdout,
            stderr,
        }
    }
}

fn exit_codes_are_passed_on(bench: &Bench<'_>) {
    for code in [0, 1, 7, 125, 126, 127, 128, 255] {
        let outcome = bench.script(&format!("exit {code}"));
        assert_eq!(outcome.ended(), Ended::Code(code));
    }
}

fn signals_are_128_and_more(bench: &Bench<'_>) {
    // Number 1 of a process namespace takes only signals it has a handler for, so ask from outside.
    let cancel = new_cancel();
    let signaller = cancel.clone();
    let spec = bench.spec(&[
        "/bin/sh",
        "-c",
        "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done",
    ]);
    let io = ProcessIo::to_sink(move |_, bytes| {
        if bytes.starts_with(b"ready") {
            signaller.signal(10);
        }
    });
    let ended = bench.runner.run(spec, io, &cancel).map(|it| it.ended);
    assert!(
        matches!(ended, Ok(Ended::Code(9))),
        "the process saw the signal: {ended:?}"
    );
    let outcome = bench.script("(kill -SEGV $(sh -c 'echo $PPID')); echo $?");
    assert_eq!(
        outcome.text().trim(),
        "139",
        "signals inside are as everywhere"
    );
    assert_eq!(
        (Ended::Signal(9).docker_code(), Ended::Code(3).docker_code()),
        (137, 3)
    );
}

fn output_is_complete_and_in_order(bench: &Bench<'_>) {
    let outcome =
        bench.script("i=0; while [ $i -lt 2000 ]; do echo $i; echo e$i >&2; i=$((i+1)); done");
    let expected: String = (0..2000).map(|n| format!("{n}\n")).collect();
    assert_eq!(outcome.text(), expected);
    let expected: String = (0..2000).map(|n| format!("e{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), expected);
    assert_eq!(bench.script("printf 'no newline'").text(), "no newline");
}

fn a_flood_on_both_streams_arrives_whole(bench: &Bench<'_>) {
    let half = FLOOD_BYTES / 2;
    let script = format!("head -c {half} /dev/zero & head -c {half} /dev/zero >&2; wait");
    let outcome = bench.script(&script);
    assert_eq!(outcome.ended(), Ended::Code(0));
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (half, half));
}

fn input_is_empty_unless_given(bench: &Bench<'_>) {
    assert_eq!(bench.script("cat; echo end").text(), "end\n");
}

fn the_environment_is_what_was_asked_for(bench: &Bench<'_>) {
    let mut spec = bench.spec(&["env"]);
    spec.env = ["A=1", "B=x y", "A=2"].map(str::to_owned).to_vec();
    let outcome = bench.run(spec, &new_cancel());
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        sorted_lines(&outcome.text()),
        ["A=2", "B=x y", "HOME=/root", path]
    );
}

fn commands_that_cannot_be_run_say_why(bench: &Bench<'_>) {
    let file = |name: &str, content: &str, mode| {
        let path = bench.rootfs.join(name);
        must(fs::write(&path, content));
        must(fs::set_permissions(
            &path,
            std::os::unix::fs::PermissionsExt::from_mode(mode),
        ));
    };
    file("script", "#!/no/such/interpreter\n", 0o755);
    file("plain", "text", 0o644);
    for (command, code, reason) in [
        ("no-such-command", 127, "not found in $PATH"),
        ("/no/such/file", 127, "no such file"),
        ("/script", 127, "/no/such/interpreter"),
        ("/plain", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        if bench.reasons == Reasons::Foreign && command == "/script" {
            let code = bench.run(bench.spec(&[command]), &new_cancel()).ended();
            assert_ne!(code, Ended::Code(0));
            continue;
        }
        let error = bench.run(bench.spec(&[command]), &new_cancel()).error();
        assert_eq!(error.docker_code(), code, "{error}");
        let says_why = error.to_string().contains(reason);
        assert!(says_why || bench.reasons == Reasons::Foreign, "{error}");
    }
}

fn users_are_the_image_s(bench: &Bench<'_>) {
    for (user, expected) in [
        ("", "0:0 /root"),
        ("app", "1000:1000 /home/app"),
        ("7:8", "7:8 /"),
    ] {
        let mut spec = bench.spec(&["/bin/sh", "-c", "echo $(id -u):$(id -g) $HOME"]);
        spec.user = user.to_owned();
        assert_eq!(bench.run(spec, &new_cancel()).text().trim(), expected);
    }
    let mut spec = bench.spec(&["true"]);
    spec.user = "nobody-knows".to_owned();
    let error = bench.run(spec, &new_cancel()).error();
    assert!(matches!(error, RunError::User { .. }), "{error:?}");
}

fn the_working_directory_is_made(bench: &Bench<'_>) {
    let mut spec = bench.spec(&["/bin/sh", "-c", "pwd; touch here; stat -c %u . .."]);
    spec.cwd = "/made/for it".to_owned();
    spec.user = "app".to_owned();
    assert_eq!(
        bench.run(spec, &new_cancel()).text(),
        "/made/for it\n1000\n1000\n"
    );
    assert!(bench.rootfs.join("made/for it/here").exists(), "it stays");
}

fn background_processes_do_not_outlive_the_command(bench: &Bench<'_>) {
    // Whoever waited for this one would never come back.
    let outcome = bench.script("(trap '' HUP TERM; setsid sleep 1000000) & echo started");
    assert_eq!(outcome.text(), "started\n");
}

fn cancelling_kills_whatever_resists(bench: &Bench<'_>) {
    let script = "trap '' HUP INT TERM QUIT; \
        i=0; while [ $i -lt 50 ]; do (trap '' TERM; setsid sleep 100) & i=$((i+1)); done; \
        echo ready; while :; do sleep 100; done";
    let cancel = new_cancel();
    let canceller = cancel.clone();
    let io = ProcessIo::to_sink(move |_, bytes| {
        if bytes.starts_with(b"ready") {
            canceller.cancel();
        }
    });
    // If something resists, this does not come back.
    let result = bench
        .runner
        .run(bench.spec(&["/bin/sh", "-c", script]), io, &cancel);
    assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
}

fn a_cancelled_handle_starts_nothing(bench: &Bench<'_>) {
    let cancel = new_cancel();
    cancel.cancel();
    let outcome = bench.run(bench.spec(&["touch", "/ran"]), &cancel);
    assert!(matches!(outcome.error(), RunError::Cancelled));
    assert!(!bench.rootfs.join("ran").exists());
}

fn mount_points_leave_no_trace(bench: &Bench<'_>) {
    let before = listing(&bench.rootfs);
    let mut spec = bench.spec(&[
        "/bin/sh",
        "-c",
        "cat /run/secrets/key; echo > /scratch/deep/file",
    ]);
    spec.mounts = vec![
        Mount {
            target: "/run/secrets/key".to_owned(),
            source: MountSource::File {
                contents: Secret(b"hush".to_vec()),
                mode: 0o400,
                uid: 0,
                gid: 0,
            },
        },
        Mount {
            target: "/scratch/deep".to_owned(),
            source: MountSource::Tmpfs {
                size_bytes: Some(1 << 20),
                mode: 0o755,
                readonly: false,
                refused: Refused::SUID,
            },
        },
    ];
    assert_eq!(bench.run(spec, &new_cancel()).text(), "hush");
    assert_eq!(listing(&bench.rootfs), before);
}

fn many_at_once_do_not_mix(benches: &[Bench<'_>]) {
    thread::scope(|scope| {
        let runs: Vec<_> = benches
            .iter()
            .enumerate()
            .map(|(n, bench)| {
                scope.spawn(move || bench.script(&format!("echo {n}; echo {n} >&2; exit {n}")))
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let outcome = must(run.join().map_err(|_| "a run panicked"));
            assert_eq!(
                outcome.ended().docker_code(),
                i32::try_from(n).unwrap_or(-1)
            );
            let expected = format!("{n}\n").into_bytes();
            assert_eq!((&outcome.stdout, &outcome.stderr), (&expected, &expected));
        }
    });
}

/// Every path below a directory, with its time of modification.
fn listing(directory: &Path) -> Vec<(PathBuf, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = must(fs::symlink_metadata(&path));
        if metadata.is_dir() {
            todo.extend(must(fs::read_dir(&path)).map(|entry| must(entry).path()));
        }
        found.push((path, metadata.mtime(), metadata.mtime_nsec()));
    }
    found.sort();
    found
}

fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn new_cancel() -> Cancel {
    must(Cancel::new())
}

#[track_caller]
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the check itself failed: {error:?}"),
    }
}
