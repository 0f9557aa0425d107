//! However a run ends, nothing is left of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are test code")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use longshore_runner::{
    Cancel, Input, ProcessIo, ProcessSpec, Rootfs, RunError, Runner as _, WindowSize,
};
use support::{Image, assert_nothing_is_left, can_run, processes_with};

/// Set in the copies of this test that play a caller to be killed; names the root file system.
const CALLER: &str = "LONGSHORE_RUNNER_TEST_ROOT";

/// Not a test of its own: the caller that gets killed.
#[test]
fn caller() {
    let Some(root) = std::env::var_os(CALLER) else {
        return;
    };
    let runner = support::new_runner();
    let script = "trap '' TERM HUP; setsid sleep 4321 & setsid sh -c 'trap \"\" TERM; sleep 4322' & \
        echo; echo running; sleep 4323";
    let mut spec = ProcessSpec::new(Rootfs::Path(PathBuf::from(root)), ["sh", "-c", script]);
    // Becoming another user clears what ties a process to its parent.
    spec.user = "app".to_owned();
    let result = runner.run(spec, ProcessIo::inherit(), &Cancel::new().unwrap());
    println!("{result:?}");
}

fn start_caller(image: &Image) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "caller", "--nocapture"])
        .env(CALLER, image.root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line == "running"),
        "the sandbox started"
    );
    child
}

#[test]
fn privileged_killing_the_caller_kills_everything() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut caller = start_caller(&image);
    // It says so before the last of its processes is there.
    let deadline = Instant::now() + Duration::from_secs(20);
    while processes_with("sleep 432").len() < 3 {
        assert!(Instant::now() < deadline, "its processes never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert_nothing_is_left("sleep 432");
    let deadline = Instant::now() + Duration::from_secs(5);
    while image.path("proc").exists() || image.path("etc/hosts").exists() {
        assert!(Instant::now() < deadline, "mount points are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn privileged_killing_the_supervisor_kills_the_sandbox_and_is_reported() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let start = Instant::now();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The supervisor is the parent of the sandbox's first process.
            let first = loop {
                let found = processes_with("sh -c sleep 5432");
                if let Some(it) = found.first() {
                    break it.split(':').next().unwrap().to_owned();
                }
                assert!(start.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(10));
            };
            let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
            let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
            let parent = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
            rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
        });
        image.sh("sleep 5432; true")
    });
    assert!(matches!(outcome.error(), RunError::Lost { .. }));
    drop(support::new_runner());
    assert_nothing_is_left("sleep 5432");
}

#[test]
fn privileged_a_fork_bomb_is_cancelled_at_once() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let cancel = Cancel::new().unwrap();
    let canceller = cancel.clone();
    let mut spec = image.spec("f() { f | f & }; f; sleep 6543");
    // Bounded, so that a broken test does not take the machine along.
    spec.limits.pids_max = Some(400);
    let (outcome, took) = std::thread::scope(|scope| {
        let canceller = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            canceller.cancel();
            Instant::now()
        });
        let outcome = image.run_with(spec, &cancel);
        (outcome, canceller.join().unwrap().elapsed())
    });
    assert!(matches!(outcome.error(), RunError::Cancelled));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_nothing_is_left("sleep 6543");
}

#[test]
fn privileged_64_at_once_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let images: Vec<_> = (0..64).map(|_| Image::new()).collect();
    images[0].sh("true").ok();
    let mounts_before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let open_before = open();
    let cancel = Cancel::new().unwrap();
    std::thread::scope(|scope| {
        for (n, image) in images.iter().enumerate() {
            let cancel = cancel.clone();
            scope.spawn(move || match n % 4 {
                0 => assert_eq!(image.sh("setsid sleep 7654 & exit 5").code(), 5),
                1 => drop(image.sh("kill -9 $$; no-such-command")),
                2 => drop(image.run_with(image.spec("sleep 7654"), &cancel).error()),
                _ => {
                    let mut spec = image.spec("true");
                    spec.args = vec!["/no/such/file".to_owned()];
                    assert_eq!(image.run(spec).error().docker_code(), 127);
                }
            });
        }
        std::thread::sleep(Duration::from_secs(3));
        cancel.cancel();
    });
    assert_nothing_is_left("sleep 7654");
    assert_eq!(
        open(),
        open_before + 2,
        "a cancel handle is all that is open"
    );
    assert_eq!(
        fs::read_to_string("/proc/self/mountinfo").unwrap(),
        mounts_before
    );
    for image in &images {
        assert!(!image.path("proc").exists() && !image.path("etc/hosts").exists());
    }
}

#[test]
fn privileged_a_panicking_sink_ends_the_run() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let spec = image.spec("echo x; sleep 8765");
    let io = ProcessIo::to_sink(|_, _| panic!("the sink's own"));
    let cancel = Cancel::new().unwrap();
    let run = std::panic::AssertUnwindSafe(|| image.runner.run(spec, io, &cancel));
    assert!(std::panic::catch_unwind(run).is_err());
    assert_nothing_is_left("sleep 8765");
}

#[test]
fn privileged_a_terminal_works_both_ways_and_is_the_process_s_own() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&write, b"typed line\n").unwrap();
    let mut spec = image.spec(
        "tty; stty size; echo TERM=$TERM; read line; echo \"got $line\"; ls -l /dev/console | cut -c1; \
         echo err >&2; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; cat; echo end",
    );
    spec.terminal = true;
    spec.user = "app".to_owned();
    drop(write);
    let output = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&output);
    let mut io = ProcessIo::to_sink(move |_, bytes| sink.lock().unwrap().extend_from_slice(bytes));
    io.stdin = Input::Fd(read);
    io.window = Some(WindowSize {
        rows: 33,
        columns: 77,
    });
    let status = image.runner.run(spec, io, &Cancel::new().unwrap()).unwrap();
    assert!(status.success());
    let output = String::from_utf8(output.lock().unwrap().clone())
        .unwrap()
        .replace('\r', "");
    for expected in [
        "/dev/pts/0\n",
        "33 77\n",
        "TERM=xterm\n",
        "got typed line\n",
        "err\n",
        "all three\n",
        "end\n",
    ] {
        assert!(output.contains(expected), "{expected:?} in {output:?}");
    }
    assert!(
        output.contains("\nc\n"),
        "the console is a device: {output:?}"
    );
}
