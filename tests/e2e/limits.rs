//! Limits and other surroundings of steps and containers: what is asked for is read inside.

use std::fs;
use std::path::Path;

use crate::harness::{Outcome, Sandbox, is_root};
use crate::skip::skip;

/// A limit as it is read inside: from the hierarchy of its controller, or the unified one.
struct Limit {
    flag: &'static str,
    value: &'static str,
    old: (&'static str, &'static str),
    unified: (&'static str, &'static str),
}

const fn limit(
    flag: &'static str,
    value: &'static str,
    old: (&'static str, &'static str),
    unified: (&'static str, &'static str),
) -> Limit {
    Limit {
        flag,
        value,
        old,
        unified,
    }
}

const LIMITS: [Limit; 7] = [
    limit(
        "--memory",
        "64m",
        ("memory/memory.limit_in_bytes", "67108864"),
        ("memory.max", "67108864"),
    ),
    limit(
        "--memory-swap",
        "96m",
        ("memory/memory.memsw.limit_in_bytes", "100663296"),
        ("memory.swap.max", "33554432"),
    ),
    limit(
        "--cpu-shares",
        "512",
        ("cpu/cpu.shares", "512"),
        ("cpu.weight", "20"),
    ),
    limit(
        "--cpu-quota",
        "50000",
        ("cpu/cpu.cfs_quota_us", "50000"),
        ("cpu.max", "50000 200000"),
    ),
    limit(
        "--cpu-period",
        "200000",
        ("cpu/cpu.cfs_period_us", "200000"),
        ("cpu.max", "50000 200000"),
    ),
    limit(
        "--cpuset-cpus",
        "0",
        ("cpuset/cpuset.cpus", "0"),
        ("cpuset.cpus", "0"),
    ),
    limit(
        "--cpuset-mems",
        "0",
        ("cpuset/cpuset.mems", "0"),
        ("cpuset.mems", "0"),
    ),
];

/// What a limit that this machine does not hold is called in the warning.
fn warned(limit: &Limit) -> &'static str {
    match limit.flag {
        "--memory" => "memory limit",
        "--memory-swap" => "swap limit",
        "--cpu-shares" => "CPU shares",
        "--cpu-quota" => "CPU quota",
        "--cpu-period" => "CPU period",
        "--cpuset-cpus" => "CPU set",
        _ => "memory node set",
    }
}

/// Whether root can have limits of a kind here, by what the kernel shows; says so if not.
pub(crate) fn are_controlled(controller: &str) -> bool {
    let top = Path::new("/sys/fs/cgroup");
    let unified = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
    let is_unified = unified.split_whitespace().any(|it| it == controller);
    let controlled = is_unified || top.join(controller).join("cgroup.procs").exists();
    if !controlled {
        skip(format_args!("no control group limits {controller} here"));
    }
    controlled
}

/// One line for each limit; nothing where there is no such file.
fn script() -> String {
    let lines = LIMITS.iter().map(|it| {
        let (old, unified) = (it.old.0, it.unified.0);
        format!(
            "echo {}=$(cat /sys/fs/cgroup/{old} 2>/dev/null || cat /sys/fs/cgroup/{unified} 2>/dev/null)",
            it.flag
        )
    });
    lines.collect::<Vec<_>>().join("; ")
}

fn flags() -> Vec<String> {
    LIMITS
        .iter()
        .map(|it| format!("{}={}", it.flag, it.value))
        .collect()
}

/// Each limit is there, or it was said that it is not.
#[track_caller]
fn all_are_held(shown: &str, said: &str) {
    let mut held = 0;
    for limit in &LIMITS {
        let line = format!("{}=", limit.flag);
        let value = shown.lines().find_map(|it| it.strip_prefix(&line)).unwrap();
        let is_held = [limit.old.1, limit.unified.1].contains(&value);
        let is_warned = said.contains(&format!("{}:", warned(limit)));
        assert!(is_held != is_warned, "{}: `{value}`; {said}", limit.flag);
        held += usize::from(is_held);
    }
    if held == 0 {
        skip("control groups limit nothing here");
    }
}

#[test]
fn privileged_the_limits_of_a_step_are_read_inside() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let dockerfile = format!("FROM busybox\nRUN ({}) > /limits\n", script());
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    let archive = sandbox.path("out.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let mut args = vec!["build".to_owned(), "-o".to_owned(), output];
    args.extend(flags());
    args.push(context.display().to_string());
    let said = sandbox.ok(&args).stderr;
    let root = crate::harness::Exported::read(&archive);
    all_are_held(root.text("limits"), &said);
}

#[test]
fn privileged_the_limits_of_a_container_are_read_inside() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let mut args = vec!["run".to_owned()];
    args.extend(flags());
    args.extend(["busybox", "sh", "-c", &script()].map(str::to_owned));
    let ran = sandbox.ok(&args);
    all_are_held(&ran.stdout, &ran.stderr);
}

/// The groups above, where the builder is, are none of the step's business.
#[test]
fn privileged_a_step_is_at_the_top_of_the_control_groups_that_it_sees() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let ran = sandbox.ok(["run", "--memory=64m", "busybox", "cat", "/proc/self/cgroup"]);
    let mut lines = ran.stdout.lines().peekable();
    assert!(lines.peek().is_some(), "there are no control groups here");
    for line in lines {
        assert!(line.ends_with(":/"), "{line}");
    }
}

#[test]
fn swap_is_counted_with_memory_and_needs_it() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\n")]);
    let path = context.to_str().unwrap();
    for (flags, says) in [
        (&["--memory-swap", "64m"][..], "needs --memory"),
        (&["--memory", "64m", "--memory-swap", "32m"], "less than"),
    ] {
        let build = ["build"].iter().chain(flags).chain([&path]);
        let build = sandbox.run(build);
        assert_ne!(build.code, 0);
        assert!(build.stderr.contains(says), "{}", build.stderr);
        let run = ["run"].iter().chain(flags).chain(&["busybox", "true"]);
        sandbox.run(run).failure(125, &[says]);
    }
    let unlimited = ["run", "--memory=64m", "--memory-swap", "-1"];
    sandbox.ok(unlimited.iter().chain(&["busybox", "true"]));
}

/// Of a build: all in one step.
#[test]
fn surroundings_that_a_build_asks_for_are_there_in_its_steps() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\n\
        RUN ulimit -n > /nofile; ulimit -Hn >> /nofile; \
        df -k /dev/shm | tail -1 | awk '{print $2}' > /shm; \
        cat /etc/hosts > /hosts\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let flags = [
        "--ulimit=nofile=100:200",
        "--shm-size=1m",
        "--add-host=crane:10.1.2.3",
        "--add-host=pier=[fd00::1]",
        "--add-host=here:host-gateway",
    ];
    let root = sandbox.exported_from(&context, &flags);
    assert_eq!(root.text("nofile"), "100\n200\n");
    assert_eq!(root.text("shm"), "1024\n");
    let hosts = root.text("hosts");
    for line in ["10.1.2.3\tcrane", "fd00::1\tpier", "127.0.0.1\there"] {
        assert!(hosts.contains(line), "no `{line}` in {hosts}");
    }
    let offline = [
        "--network=none",
        "--add-host=here:host-gateway",
        "--no-cache",
    ];
    let args = ["build", context.to_str().unwrap()];
    let refused = sandbox.run(args.iter().chain(&offline));
    refused.failure(1, &["host-gateway", "reaches no host"]);
}

/// A limit that only `CAP_SYS_RESOURCE` could raise is as high as it can be, whoever makes the sandbox.
#[test]
fn privileged_a_limit_above_the_hard_one_is_as_high_as_it_can_be() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let limited = |flags: &[&str]| {
        let ours = sandbox.command(
            ["run", "--ulimit=nofile=900:900"]
                .iter()
                .chain(flags)
                .chain(&["busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]),
        );
        let mut command = std::process::Command::new("prlimit");
        command
            .arg("--nofile=800:800")
            .args([
                "setpriv",
                "--bounding-set=-sys_resource",
                "--inh-caps=-all",
                "--",
            ])
            .arg(ours.get_program())
            .args(ours.get_args())
            .env("LONGSHORE_ROOT", sandbox.root());
        Outcome::of(command).success()
    };
    let runc = crate::oci_runtime::runc();
    let by_runc = runc.map(|it| format!("--oci-runtime={}", it.display()));
    for flags in [None, by_runc.as_deref()] {
        let flags: Vec<&str> = flags.into_iter().collect();
        let ran = limited(&flags);
        assert_eq!(ran.stdout, "800\n800\n", "{flags:?}");
        assert!(ran.stderr.contains("rlimit nofile"), "{}", ran.stderr);
    }
}

#[test]
fn privileged_an_empty_home_is_none_in_every_way() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let runc = crate::oci_runtime::runc();
    let by_runc = runc.map(|it| format!("--oci-runtime={}", it.display()));
    let ways = [Some("--isolation=full"), Some("--isolation=chroot")];
    for way in ways.into_iter().chain([by_runc.as_deref()]).flatten() {
        for (home, expected) in [("HOME=", "/root\n"), ("HOME=/x", "/x\n")] {
            let ran = sandbox.ok(["run", way, "-e", home, "busybox", "sh", "-c", "echo $HOME"]);
            assert_eq!(ran.stdout, expected, "{way} {home}");
        }
    }
}

/// Memory that cannot be mounted has no size.
#[test]
fn privileged_by_chroot_sizes_that_are_not_held_are_warned_of() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN --mount=type=tmpfs,target=/mem,size=1m true\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let args = ["build", "--isolation=chroot", "--shm-size=1m"];
    let said = sandbox
        .ok(args.iter().chain(&[context.to_str().unwrap()]))
        .stderr;
    for part in ["the size of /mem", "the size of /dev/shm"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    fs::remove_dir_all(context).unwrap();
}
