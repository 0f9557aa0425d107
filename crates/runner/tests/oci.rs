//! Somebody else's runtime behind the same contract, and the same answers from both.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are test code"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore_runner::{
    Cancel, Limits, Mount, MountSource, OciRunner, ProcessIo, ProcessSpec, Refused, Runner,
    Security, WindowSize, conformance,
};
use support::{Image, can_run};

/// Debian's.
const RUNC: &str = "/usr/sbin/runc";

fn runner() -> Option<OciRunner> {
    if !can_run() {
        return None;
    }
    if !Path::new(RUNC).exists() {
        support::skip::skip(format_args!("needs {RUNC}"));
        return None;
    }
    Some(OciRunner::new(support::new_runner(), Path::new(RUNC)).unwrap())
}

/// Runs the same in our own sandbox and in the runtime's: exit code or error, and output.
fn both(image: &Image, theirs: &dyn Runner, change: &dyn Fn(&mut ProcessSpec), script: &str) {
    let run = |runner: &dyn Runner| {
        let mut spec = image.spec(script);
        change(&mut spec);
        let outcome = support::run_by(runner, spec, &Cancel::new().unwrap());
        let ended = match &outcome.status {
            Ok(status) => (status.docker_code(), status.oom),
            Err(error) => (error.docker_code(), false),
        };
        (ended, outcome.stdout, outcome.stderr)
    };
    assert_eq!(run(image.runner), run(theirs), "{script}");
}

#[test]
fn privileged_runc_conforms() {
    let Some(runner) = runner() else { return };
    let directory = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run_foreign(&runner, &|| {
        count.set(count.get() + 1);
        let root = directory.path().join(count.get().to_string());
        support::fill(&root);
        root
    });
    support::assert_nothing_is_left("sleep 9753");
}

#[test]
fn privileged_runc_s_sandbox_is_ours() {
    let Some(runc) = runner() else { return };
    let image = Image::new();
    type Change = fn(&mut ProcessSpec);
    let changes: [(&str, Change); 5] = [
        ("as it is", |_| {}),
        ("a user", |spec| "app".clone_into(&mut spec.user)),
        ("no network", |spec| {
            spec.network = longshore_runner::Network::None;
        }),
        ("everything", |spec| spec.security = Security::Insecure),
        ("more", |spec| {
            spec.hostname = "pier".to_owned();
            spec.umask = 0o027;
            spec.shm_bytes = 1 << 20;
            spec.env = vec!["A=1".to_owned(), "HOME=/tmp".to_owned()];
            spec.readonly_rootfs = true;
            spec.mounts = vec![Mount {
                target: "/tmp".to_owned(),
                source: MountSource::Tmpfs {
                    size_bytes: Some(1 << 20),
                    mode: 0o1777,
                    readonly: false,
                    refused: Refused::SUID,
                },
            }];
        }),
    ];
    let scripts = [
        "grep -E '^(Cap|NoNew|Seccomp:|Groups|Uid|Gid|Umask|Sig[BI])' /proc/self/status",
        "env | sort; pwd; hostname; id; cat /etc/hosts /etc/resolv.conf; ls /sys/class/net",
        "ls -lR /dev | grep -v ' \\.' | awk '{ $6 = $7 = $8 = \"\"; print }'",
        "awk '{ print $5 }' /proc/self/mountinfo | sort",
        "df -k /dev/shm /tmp | awk 'NR > 1 { print $2 }'; touch /file /tmp/file",
        "kill -TERM 1; exit 3",
        "mount -t tmpfs none /home; echo mine > /proc/sys/kernel/hostname; hostname",
        "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk; rm -f /tmp/disk",
    ];
    for (_name, change) in changes {
        for script in scripts {
            both(&image, &runc, &change, script);
        }
    }
}

#[test]
fn privileged_limits_around_runc_hold_and_are_reported() {
    let Some(runc) = runner() else { return };
    if !support::are_controlled("memory") {
        return;
    }
    let image = Image::new();
    let limit = |spec: &mut ProcessSpec| {
        spec.limits = Limits {
            memory_bytes: Some(32 << 20),
            ..Limits::default()
        };
    };
    let hog = "head -c 200m /dev/zero | tail -c 200m | wc -c";
    let mut spec = image.spec(hog);
    limit(&mut spec);
    let outcome = support::run_by(&runc, spec, &Cancel::new().unwrap());
    let status = outcome.status.unwrap();
    assert_eq!(status.warnings, []);
    assert!(status.oom, "{status:?} {}", outcome.stdout);
    let mut spec = image.spec("echo enough");
    limit(&mut spec);
    let outcome = support::run_by(&runc, spec, &Cancel::new().unwrap());
    assert!(!outcome.status.as_ref().unwrap().oom);
    assert_eq!(outcome.ok(), "enough\n");
    support::assert_nothing_is_left("head -c 200m");
}

#[test]
fn privileged_runc_gets_a_terminal() {
    let Some(runc) = runner() else { return };
    let image = Image::new();
    let mut spec = image.spec("tty; stty size; echo $TERM");
    spec.terminal = true;
    let shown = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&shown);
    let io = ProcessIo {
        window: Some(WindowSize {
            rows: 33,
            columns: 77,
        }),
        ..ProcessIo::to_sink(move |_, bytes| sink.lock().unwrap().extend_from_slice(bytes))
    };
    let status = runc.run(spec, io, &Cancel::new().unwrap()).unwrap();
    let shown = String::from_utf8(shown.lock().unwrap().clone()).unwrap();
    assert!(status.success(), "{shown}");
    assert_eq!(shown, "/dev/pts/0\r\n33 77\r\nxterm\r\n");
}

#[test]
fn privileged_a_script_around_a_runtime_is_one() {
    if runner().is_none() {
        return;
    }
    let image = Image::new();
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("runtime");
    std::fs::write(&script, format!("#!/bin/sh\nexec {RUNC} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let runner = OciRunner::new(support::new_runner(), &script).unwrap();
    let outcome = support::run_by(&runner, image.spec("echo shown"), &Cancel::new().unwrap());
    assert_eq!(outcome.ok(), "shown\n");
}

#[test]
fn privileged_what_a_runtime_cannot_is_said() {
    let Some(runc) = runner() else { return };
    let image = Image::new();
    let mut spec = image.spec("true");
    spec.init = true;
    let refused = support::run_by(&runc, spec, &Cancel::new().unwrap()).error();
    assert!(refused.to_string().contains("OCI runtime"), "{refused}");
    for (path, reason) in [("/no/such/runc", "No such file"), ("/etc", "no program")] {
        let error = OciRunner::new(support::new_runner(), Path::new(path)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(path) && said.contains(reason), "{said}");
    }
    // A file that is no program is not the command's fault.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("no-program");
    std::fs::write(&file, "").unwrap();
    let runner = OciRunner::new(support::new_runner(), &file).unwrap();
    let error = support::run_by(&runner, image.spec("true"), &Cancel::new().unwrap()).error();
    assert_eq!(error.docker_code(), 125, "{error}");
    assert!(error.to_string().contains("no-program"), "{error}");
    // A program that is no runtime at all.
    let program = PathBuf::from("/bin/false");
    let runner = OciRunner::new(support::new_runner(), &program).unwrap();
    let outcome = support::run_by(&runner, image.spec("true"), &Cancel::new().unwrap());
    assert_ne!(outcome.code(), 0);
}
