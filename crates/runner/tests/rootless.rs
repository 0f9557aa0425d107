//! The sandbox for those who are not root of the machine.
//!
//! A program of its own: its `main` is the stage, and, in further copies, the unprivileged caller.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use longshore_runner::{
    Cancel, Mapping, ProcessIo, ProcessSpec, Rootfs, RunError, Runner as _, RunnerOptions,
    SandboxRunner, become_root_in_user_namespace, conformance,
};

/// A user that no machine has.
const NOBODY_IN_PARTICULAR: u32 = 54_321;

const TESTS: [(&str, fn()); 2] = [
    (
        "privileged_the_runner_conforms_in_a_user_namespace",
        conforms_in_a_user_namespace,
    ),
    (
        "privileged_a_user_without_subordinate_ids_can_run",
        own_id_is_enough,
    ),
];

fn main() {
    longshore_runner::init_if_requested();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["play-conformance", directory] => play_conformance(Path::new(directory)),
        ["play-caller", root] => play_caller(Path::new(root)),
        words if words.contains(&"--list") => {
            let listed = TESTS.iter().filter(|_| !words.contains(&"--ignored"));
            listed.for_each(|(name, _)| println!("{name}: test"));
        }
        words => {
            let chosen = |name: &&str| words.contains(name);
            let any = TESTS.iter().any(|(name, _)| chosen(name));
            let run = TESTS.iter().filter(|(name, _)| !any || chosen(name));
            run.for_each(|(_, test)| test());
        }
    }
}

/// As with `newuidmap`, but without an entry in `/etc/subuid`: root writes the mapping.
fn conforms_in_a_user_namespace() {
    if !support::can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new("unshare")
        .args(["--user", "--mount", "--propagation", "slave", "sh", "-c"])
        .arg("echo $$; read _; exec \"$0\" play-conformance \"$1\"")
        .args([std::env::current_exe().unwrap().as_path(), temp.path()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut pid = String::new();
    output.read_line(&mut pid).unwrap();
    for kind in ["uid_map", "gid_map"] {
        let file = format!("/proc/{}/{kind}", pid.trim());
        fs::write(file, "0 0 1\n1 200001 65535\n").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let rest: Vec<_> = output.lines().map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

fn play_conformance(directory: &Path) {
    let count = std::cell::Cell::new(0);
    let runner = SandboxRunner::new(&RunnerOptions::default()).unwrap();
    conformance::run(&runner, &|| {
        count.set(count.get() + 1);
        let root = directory.join(count.get().to_string());
        support::fill(&root);
        root
    });
}

fn own_id_is_enough() {
    if !support::can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = temp.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let root = temp.path().join("root");
    support::fill(&root);
    give_away(&root);
    let output = Command::new(&program)
        .arg("play-caller")
        .arg(&root)
        .uid(NOBODY_IN_PARTICULAR)
        .gid(NOBODY_IN_PARTICULAR)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!root.join("proc").exists() && !root.join("etc/hosts").exists());
}

fn give_away(tree: &Path) {
    let owner = Some(NOBODY_IN_PARTICULAR);
    let mut todo = vec![tree.to_owned()];
    while let Some(path) = todo.pop() {
        std::os::unix::fs::lchown(&path, owner, owner).unwrap();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
        }
    }
    chown(tree, owner, owner).unwrap();
}

/// Runs as the unprivileged user.
fn play_caller(root: &Path) {
    let mapping = become_root_in_user_namespace().unwrap();
    assert!(matches!(mapping, Mapping::OwnIdOnly { .. }), "{mapping:?}");
    let runner = SandboxRunner::new(&RunnerOptions::default()).unwrap();
    let run = |user: &str, script: &str| {
        let mut spec =
            ProcessSpec::new(Rootfs::Path(PathBuf::from(root)), ["/bin/sh", "-c", script]);
        spec.user = user.to_owned();
        let (sender, receiver) = mpsc::channel();
        let io = ProcessIo::to_sink(move |_, bytes| sender.send(bytes.to_vec()).unwrap());
        let status = runner.run(spec, io, &Cancel::new().unwrap())?;
        let output: Vec<u8> = receiver.into_iter().flatten().collect();
        assert!(
            status.success(),
            "{status:?} {}",
            String::from_utf8_lossy(&output)
        );
        Ok::<_, RunError>(String::from_utf8(output).unwrap())
    };
    assert_eq!(
        run("", "id -u; echo x > /dev/null; touch /made; echo $$").unwrap(),
        "0\n1\n"
    );
    assert!(root.join("made").exists());
    let script = "touch /sys/x /sys/fs/cgroup/x /proc/sys/x 2>/dev/null; \
        grep -E '^Cap(Inh|Eff|Amb)' /proc/self/status | tr -d '\\t'; \
        awk '$5 ~ \"^/sys\" && $6 !~ \"^ro\"' /proc/self/mountinfo";
    assert_eq!(
        run("", script).unwrap(),
        "CapInh:0000000000000000\nCapEff:00000000a80425fb\nCapAmb:0000000000000000\n"
    );
    let error = run("app", "true").unwrap_err();
    assert!(error.to_string().contains("subuid"), "{error}");
}
