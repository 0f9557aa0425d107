//! Options of `longshore run`: mounts, volumes, capabilities and signals.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::harness::{Outcome, Sandbox, is_root};

fn shell(sandbox: &Sandbox, flags: &[&str], script: &str) -> Outcome {
    let args = ["run"].iter().chain(flags);
    sandbox.run(args.chain(&["busybox", "sh", "-c", script]))
}

#[test]
fn mounts_are_said_in_one_word_or_in_many() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let folder = sandbox.context("shared", &[("in.txt", "from the host\n")]);
    let source = folder.display();
    let mount = format!("--mount=type=bind,source={source},target=/shared,readonly");
    let script = "cat /shared/in.txt; touch /shared/x 2>/dev/null || echo refused";
    let ran = shell(&sandbox, &[&mount], script).success();
    assert_eq!(ran.stdout, "from the host\nrefused\n");
    // Labels are for where there are any.
    let labelled = format!("--volume={source}:/shared:ro,z");
    let ran = shell(&sandbox, &[&labelled], "cat /shared/in.txt").success();
    assert_eq!(ran.stdout, "from the host\n");
    // Unlike --volume, --mount makes nothing.
    let absent = format!("--mount=type=bind,source={source}/absent,target=/a");
    shell(&sandbox, &[&absent], "true").failure(125, &["absent", "does not exist"]);
    assert!(!folder.join("absent").exists());
    let memory = "--mount=type=tmpfs,target=/mem,tmpfs-size=64k,tmpfs-mode=700";
    let script = "stat -c %a /mem; df -k /mem | tail -1 | awk '{print $2}'";
    let ran = shell(&sandbox, &[memory], script).success();
    assert_eq!(ran.stdout, "700\n64\n");
    let twice = ["--tmpfs=/mem", memory];
    shell(&sandbox, &twice, "true").failure(125, &["two mounts", "/mem"]);
}

/// As Docker's: nothing is executed from it unless that is said.
#[test]
fn memory_is_mounted_as_its_options_say() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let script = "cp /bin/busybox /mem/true && /mem/true 2>/dev/null && echo executed; \
        awk '$5 == \"/mem\" {print $6}' /proc/self/mountinfo";
    let options = |spec: &str| {
        let flag = format!("--tmpfs={spec}");
        shell(&sandbox, &[&flag], script).stdout
    };
    let usual = options("/mem");
    assert!(usual.starts_with("rw,nosuid,nodev,noexec"), "{usual}");
    assert_eq!(options("/mem:rw,noexec,size=8m"), usual);
    let executed = options("/mem:exec,mode=755");
    assert!(executed.starts_with("executed\n"), "{executed}");
    assert!(!executed.contains("noexec"), "{executed}");
    let read_only = shell(&sandbox, &["--tmpfs=/mem:ro"], "touch /mem/x");
    assert!(
        read_only.stderr.contains("Read-only"),
        "{}",
        read_only.stderr
    );
}

#[test]
fn a_named_volume_begins_as_the_image_and_outlives_its_containers() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN mkdir -m 750 /data && echo image > /data/file\n";
    sandbox.build("app", &[("Dockerfile", dockerfile)]);
    let run = |volume: &str, script: &str| {
        let args = ["run", "-v", volume, "app", "sh", "-c", script];
        sandbox.ok(args).stdout
    };
    let script = "cat /data/file; stat -c %a /data; echo container > /data/file";
    assert_eq!(run("store:/data", script), "image\n750\n");
    assert_eq!(
        run("store:/elsewhere:ro", "cat /elsewhere/file"),
        "container\n"
    );
    assert_eq!(run("other:/data", "cat /data/file"), "image\n");
    assert_eq!(run("empty:/absent", "ls /absent | wc -l"), "0\n");
    let mount = "--mount=type=volume,source=store,target=/data";
    let read = sandbox.ok(["run", mount, "app", "cat", "/data/file"]);
    assert_eq!(read.stdout, "container\n");
    let wrong = sandbox.run(["run", "-v", "no/name:/data", "app", "true"]);
    wrong.failure(125, &["no/name"]);
}

#[test]
fn privileged_by_chroot_a_named_volume_is_copied_there_and_back() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let flags = ["--isolation=chroot", "--volume=store:/etc"];
    let script = "test -f /etc/passwd && echo kept >> /etc/mine && cat /etc/mine";
    let first = shell(&sandbox, &flags, script).success();
    let second = shell(&sandbox, &flags, script).success();
    assert_eq!(
        (first.stdout.as_str(), second.stdout.as_str()),
        ("kept\n", "kept\nkept\n")
    );
}

#[test]
fn what_an_image_declares_as_volumes_can_be_written_to_though_nothing_else_can() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN mkdir /data && echo image > /data/file\n\
        VOLUME /data /made/for/it\n";
    sandbox.build("app", &[("Dockerfile", dockerfile)]);
    let script = "cat /data/file; echo x > /data/new && cat /data/new; touch /made/for/it/y && echo made; \
        touch /z 2>/dev/null || echo refused";
    for _ in 0..2 {
        let args = ["run", "--read-only", "app", "sh", "-c", script];
        // What the first container wrote is gone with it.
        assert_eq!(sandbox.ok(args).stdout, "image\nx\nmade\nrefused\n");
    }
    let args = ["run", "--read-only", "-v", "/etc", "app"];
    let script = ["sh", "-c", "echo x >> /etc/passwd && tail -1 /etc/passwd"];
    assert_eq!(sandbox.ok(args.iter().chain(&script)).stdout, "x\n");
}

#[test]
fn privileged_capabilities_are_given_and_taken() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let held = |flags: &[&str]| {
        let ran = shell(&sandbox, flags, "grep CapEff /proc/self/status").success();
        let bits = ran.stdout.split_whitespace().nth(1).unwrap();
        u64::from_str_radix(bits, 16).unwrap()
    };
    let (usual, net_admin, chown, kill) = (0xa804_25fb, 1 << 12, 1, 1 << 5);
    assert_eq!(held(&[]), usual);
    assert_eq!(held(&["--cap-add=NET_ADMIN"]), usual | net_admin);
    assert_eq!(
        held(&["--cap-drop=chown", "--cap-drop=CAP_KILL"]),
        usual & !chown & !kill
    );
    assert_eq!(held(&["--cap-drop=ALL", "--cap-add=CHOWN"]), chown);
    let all = held(&["--cap-add=ALL", "--cap-drop=KILL"]);
    assert_eq!((all & net_admin, all & kill), (net_admin, 0));
    // The filter of system calls goes with them: mounting is a matter of the capability.
    let mount = "mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused";
    let script = format!("mkdir -p /mnt; {mount}");
    assert_eq!(shell(&sandbox, &[], &script).stdout, "refused\n");
    assert_eq!(
        shell(&sandbox, &["--cap-add=SYS_ADMIN"], &script).stdout,
        "mounted\n"
    );
    let dropped = shell(&sandbox, &["--cap-drop=CHOWN"], "touch /f; chown 5 /f");
    assert_ne!(dropped.code, 0);
    shell(&sandbox, &["--cap-add=SYS_NOTHING"], "true").failure(125, &["SYS_NOTHING"]);
}

/// Also the real-time ones, and those that would stop this program itself.
#[test]
fn signals_are_passed_on_whatever_they_are() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (number, init) in [
        (15, false),
        (20, false),
        (28, false),
        (10, true),
        (40, false),
        (40, true),
    ] {
        let script =
            format!("trap 'echo got; exit 9' {number}; echo ready; while :; do sleep 0.05; done");
        let flags = init.then_some("--init");
        let args = ["run"].into_iter().chain(flags);
        let mut command = sandbox.command(args.chain(["busybox", "sh", "-c", &script]));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let sent = std::process::Command::new("kill")
            .args([format!("-{number}"), child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(lines.next().unwrap().unwrap(), "got", "{number}");
        assert_eq!(child.wait().unwrap().code(), Some(9), "{number}");
    }
}

#[test]
fn signals_are_kept_from_the_process_on_request() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let script = "trap 'touch /v/got' TERM; echo ready; while :; do sleep 0.05; done";
    let folder = sandbox.context("seen", &[]);
    let volume = format!("--volume={}:/v", folder.display());
    let args = [
        "run",
        "--sig-proxy=false",
        &volume,
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let mut child = sandbox
        .command(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(!child.wait().unwrap().success());
    // The process ends with the program, and its output with it.
    assert!(lines.next().is_none());
    assert!(!fs::exists(folder.join("got")).unwrap());
}
