//! How steps and containers end: by themselves, by a signal, by a limit, or because their time is
//! up; and what they wrote until then.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Outcome, Sandbox};

/// A number that no other process has among its arguments.
pub(crate) fn unused_seconds(kind: u32) -> String {
    format!("{kind}{:07}", std::process::id())
}

#[track_caller]
fn is_gone(word: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !crate::kill::is_idle(word) {
        assert!(Instant::now() < deadline, "{word} still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_step_that_takes_too_long_is_killed_with_all_that_it_started() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = unused_seconds(81);
    let dockerfile = format!(
        "FROM busybox\nRUN trap '' TERM; setsid sleep {word} & sleep {word} & echo begun; sleep {word}\n"
    );
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    let path = context.to_str().unwrap();
    let failed = sandbox.run(["build", "--step-timeout", "1s", path]);
    let failed = failed.failure(1, &["did not complete within 1s", "begun", "Dockerfile:2"]);
    assert!(failed.stderr.contains("sleep"), "{}", failed.stderr);
    is_gone(&word);
    sandbox
        .run(["build", "--timeout", "1500ms", path])
        .failure(1, &["the build did not end within 1.5s"]);
    is_gone(&word);
    // The limit is each step's own, and no part of what is cached.
    let context =
        sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nRUN sleep 0.1\nRUN sleep 0.2\n")]);
    let path = context.to_str().unwrap();
    sandbox.ok(["build", "--step-timeout", "1h", "--timeout", "2h", path]);
    let cached = sandbox.ok(["build", "--step-timeout", "1ms", path]);
    assert_eq!(cached.ran(), Vec::<String>::new());
    for flag in ["--step-timeout", "--timeout"] {
        let wrong = sandbox.run(["build", flag, "soon", path]);
        wrong.failure(1, &[flag, "soon"]);
    }
}

#[test]
fn an_interrupted_build_ends_although_nobody_reads_what_it_says() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = unused_seconds(83);
    let dockerfile = format!("FROM busybox\nRUN sleep {word} & yes flood\n");
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    for impatient in [false, true] {
        let mut command = sandbox.command(["build", "--progress", "plain", "--no-cache"]);
        command.arg(&context).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = child.stderr.take().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"flood") {
            let mut byte = [0];
            assert_ne!(said.read(&mut byte).unwrap(), 0, "it ended");
            head.push(byte[0]);
        }
        // From here on the pipe fills, and nothing more is taken from it.
        crate::kill::wait_until("the step runs", || crate::kill::runs(&word));
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT).unwrap();
        if impatient {
            // Two at once may look like one, so it is as many as it takes.
            crate::kill::wait_until("it ends", || {
                kill_process(pid, Signal::INT).unwrap();
                child.try_wait().unwrap().is_some()
            });
        }
        assert!(!child.wait().unwrap().success());
        is_gone(&word);
    }
}

#[test]
fn a_container_that_takes_too_long_is_killed() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = unused_seconds(82);
    let script = format!("sleep {word} & echo begun; sleep {word}");
    let killed = sandbox.run(["run", "--timeout", "1", "busybox", "sh", "-c", &script]);
    assert_eq!(killed.stdout, "begun\n");
    killed.failure(137, &["did not end within 1s"]);
    is_gone(&word);
    sandbox.ok(["run", "--timeout", "0", "busybox", "sleep", "0.1"]);
}

#[test]
fn a_failed_step_says_its_code_or_signal() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (command, part) in [
        ("exit 7", "exit code: 7\n"),
        ("exit 255", "exit code: 255\n"),
        // The first process of a namespace gets no signal that it sends itself.
        ("sh -c 'kill -11 $$'; exit $?", "exit code: 139\n"),
        (
            "ulimit -t 1; while :; do :; done",
            "exit code: 137 (signal 9)\n",
        ),
        ("no-such-program", "exit code: 127\n"),
        ("/etc/passwd", "exit code: 126\n"),
    ] {
        let dockerfile = format!("FROM busybox\nRUN {command}\n");
        sandbox.fail_to_build(&[("Dockerfile", &dockerfile)], 1, &[part]);
    }
}

#[test]
fn privileged_a_lack_of_memory_is_called_one() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN tail /dev/zero\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    if !crate::limits::are_controlled("memory") {
        return;
    }
    let built = sandbox.run(["build", "--memory", "24m", context.to_str().unwrap()]);
    let ran = sandbox.run(["run", "--memory", "24m", "busybox", "tail", "/dev/zero"]);
    built.failure(1, &["exit code: 137 (out of memory)"]);
    ran.failure(137, &["out of memory"]);
}

fn started(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut child = sandbox
        .command(args)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"ready\n");
    child
}

#[test]
fn signals_reach_the_process_without_a_terminal() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
    ] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = started(&sandbox, &["run", "busybox", "sh", "-c", &script]);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{name}");
    }
}

#[test]
fn an_init_passes_on_signals_and_codes() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let ran = sandbox.run(["run", "--init", "busybox", "sh", "-c", script]);
        assert_eq!(ran.code, code, "{script}: {}", ran.stderr);
    }
    // It is not the first of its namespace, so a signal that it does not handle ends it.
    let script = "echo ready; exec sleep 100000";
    let mut child = started(&sandbox, &["run", "--init", "busybox", "sh", "-c", script]);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let orphans = "(sleep 0.05 & exit); sleep 0.3; ps -o stat | grep -c Z";
    let ran = sandbox.run(["run", "--init", "busybox", "sh", "-c", orphans]);
    assert_eq!(ran.stdout, "0\n");
}

/// The most memory that a process has used so far, bytes.
fn peak_memory(process: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

#[test]
fn a_flood_fills_no_memory_and_arrives_whole() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    const MEGABYTES: usize = 96;
    // One line without an end, escape sequences without an end, and lines.
    let dockerfile = format!(
        "FROM busybox\nRUN head -c {MEGABYTES}m /dev/zero | tr '\\0' x\n\
         RUN head -c 1m /dev/zero | tr '\\0' '\\033'\nRUN yes | head -c 1m >&2\n"
    );
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    let args = ["build", "-q", "-t", "flood", context.to_str().unwrap()];
    let mut build = sandbox
        .command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_memory(&build).unwrap_or_default());
        if let Some(status) = build.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    assert!(
        peak < (MEGABYTES as u64) << 20,
        "{peak} bytes for a flood of {MEGABYTES} MiB"
    );
    let logs = sandbox.path("logs");
    let mut command = sandbox.command(["build-history", "logs"]);
    command.stdout(Stdio::from(fs::File::create(&logs).unwrap()));
    Outcome::of(command).success();
    let text = fs::read(&logs).unwrap();
    let count = |byte: u8| text.iter().filter(|it| **it == byte).count();
    assert!(count(b'x') >= MEGABYTES << 20, "{}", count(b'x'));
    assert!(count(b'y') >= 1 << 19, "{}", count(b'y'));
}

#[test]
fn both_streams_of_a_container_arrive_whole_and_in_order() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let script = "seq 1 200000; seq 1 200000 >&2; exit 3";
    let mut command: Command = sandbox.command(["run", "busybox", "sh", "-c", script]);
    command.stdin(Stdio::null());
    let ran = Outcome::of(command);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(ran.code, 3);
    assert!(ran.stdout == expected && ran.stderr == expected);
}
