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
    BindSource, Cancel, Isolation, Mapping, Mount, MountSource, Network, ProcessIo, ProcessSpec,
    Refused, Rootfs, RunError, Runner as _, RunnerOptions, SandboxRunner, Secret,
    become_root_in_user_namespace, conformance,
};

/// A user that no machine has.
const NOBODY_IN_PARTICULAR: u32 = 54_321;

const TESTS: [(&str, fn()); 3] = [
    (
        "privileged_the_runner_conforms_in_a_user_namespace",
        conforms_in_a_user_namespace,
    ),
    (
        "privileged_a_user_without_subordinate_ids_can_run",
        own_id_is_enough,
    ),
    (
        "privileged_without_mounts_there_is_chroot_which_leaves_nothing_either",
        chroot_without_mounts,
    ),
];

fn main() {
    longshore_runner::init_if_requested();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["play-conformance", directory] => play_conformance(Path::new(directory)),
        ["play-container", root] => play_container(Path::new(root)),
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

/// Docker's default capabilities: root, but neither mounts nor namespaces.
fn chroot_without_mounts() {
    if !support::can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    support::fill(&root);
    fs::write(root.join("etc/resolv.conf"), "").unwrap();
    let before = listing(&root);
    let capabilities = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
        +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";
    let output = Command::new("setpriv")
        .args(["--bounding-set", capabilities, "--inh-caps", "-all"])
        .arg(std::env::current_exe().unwrap())
        .arg("play-container")
        .arg(&root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_file(root.join("made")).unwrap();
    let names = |list: &[(PathBuf, i64)]| list.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
    let after = listing(&root);
    assert_eq!(names(&after), names(&before));
    let etc = |list: &[(PathBuf, i64)]| {
        let in_etc = list.iter().filter(|it| it.0.starts_with(root.join("etc")));
        in_etc.cloned().collect::<Vec<_>>()
    };
    assert_eq!(etc(&after), etc(&before), "times too");
    support::assert_nothing_is_left("sleep 9753");
}

fn listing(directory: &Path) -> Vec<(PathBuf, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
        }
        found.push((path, metadata.mtime_nsec()));
    }
    found.sort();
    found
}

/// Runs as root of an ordinary container.
fn play_container(root: &Path) {
    let full = RunnerOptions {
        isolation: Isolation::Full,
        ..RunnerOptions::default()
    };
    assert!(matches!(
        SandboxRunner::new(&full),
        Err(RunError::NoIsolation { .. })
    ));
    let runner = SandboxRunner::new(&RunnerOptions::default()).unwrap();
    assert_eq!(runner.isolation(), Isolation::Chroot);
    assert!(runner.why_not_stronger().is_some());
    let run = |change: &dyn Fn(&mut ProcessSpec), script: &str| {
        let rootfs = Rootfs::Path(PathBuf::from(root));
        let mut spec = ProcessSpec::new(rootfs, ["/bin/sh", "-c", script]);
        change(&mut spec);
        let (sender, receiver) = mpsc::channel();
        let io = ProcessIo::to_sink(move |_, bytes| sender.send(bytes.to_vec()).unwrap());
        let status = runner.run(spec, io, &Cancel::new().unwrap())?;
        let output: Vec<u8> = receiver.into_iter().flatten().collect();
        Ok::<_, RunError>((status.docker_code(), String::from_utf8(output).unwrap()))
    };
    let nothing = |_: &mut ProcessSpec| {};
    let script = "id -u; pwd; ls /dev; echo x > /dev/null; touch /made; grep -c localhost /etc/hosts; \
        grep -c nameserver /etc/resolv.conf >/dev/null && echo resolver; \
        (trap '' TERM HUP; setsid sleep 9753) & setsid sh -c 'sleep 9753 & sleep 9753' & exit 4";
    let (code, output) = run(&nothing, script).unwrap();
    let expected = "0\n/\nfull\nnull\nrandom\nshm\ntty\nurandom\nzero\n2\nresolver\n";
    assert_eq!((code, output.as_str()), (4, expected));
    let as_app = |spec: &mut ProcessSpec| spec.user = "app".to_owned();
    assert_eq!(
        run(
            &as_app,
            "id -u; id -g; echo x > /dev/null && echo y > /dev/shm/y && echo written"
        )
        .unwrap(),
        (0, "1000\n1000\nwritten\n".to_owned())
    );
    let lent = root.with_file_name("lent");
    fs::create_dir_all(lent.join("sub")).unwrap();
    fs::write(lent.join("sub/before"), "kept").unwrap();
    let loan = |target: &str, subpath: Option<&str>| Mount {
        target: target.to_owned(),
        source: MountSource::Bind {
            source: BindSource::Loan(lent.clone()),
            subpath: subpath.map(PathBuf::from),
            readonly: false,
            recursive: false,
        },
    };
    let secret = || Mount {
        target: "/run/secrets/token".to_owned(),
        source: MountSource::File {
            contents: Secret(b"word".to_vec()),
            mode: 0o400,
            uid: 1000,
            gid: 1000,
        },
    };
    let tmpfs = |target: &str| Mount {
        target: target.to_owned(),
        source: MountSource::Tmpfs {
            size_bytes: None,
            mode: 0o1777,
            readonly: false,
            refused: Refused::SUID,
        },
    };
    let with_mounts = |spec: &mut ProcessSpec| {
        spec.mounts = vec![
            loan("/srv/cache/deep", Some("sub")),
            secret(),
            tmpfs("/srv/hosts.d"),
        ];
    };
    let script = "cat /srv/cache/deep/before /run/secrets/token; ls -ln /run/secrets | grep -c '1000 *1000'; \
        echo new > /srv/cache/deep/after; echo x > /srv/hosts.d/x";
    assert_eq!(
        run(&with_mounts, script).unwrap(),
        (0, "keptword1\n".to_owned())
    );
    assert_eq!(fs::read_to_string(lent.join("sub/after")).unwrap(), "new\n");
    // Whatever the process does to the places themselves, what was lent comes back.
    for (script, comes_back) in [
        (
            "mv /srv/cache /moved; mkdir -p /srv/cache/deep; rm -r /srv/cache",
            true,
        ),
        (
            "mv /srv/cache/deep /srv/cache/other; echo file > /srv/cache/deep; rm -r /srv/cache/deep",
            true,
        ),
        ("rm -r /srv/cache /run/secrets /srv/hosts.d", false),
    ] {
        let status = run(&with_mounts, script).unwrap();
        assert_eq!(status, (0, String::new()), "{script}");
        assert_eq!(lent.join("sub/before").exists(), comes_back, "{script}");
        for left in ["moved", "srv/cache", "srv/hosts.d", "srv"] {
            let _absent = fs::remove_dir_all(root.join(left));
        }
    }
    // A step that cannot begin gives back what it has borrowed by then, and so does one with two
    // loans for one place, of which the later one is shown.
    let other = root.with_file_name("other");
    for directory in [&lent, &other] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("before"), "kept").unwrap();
    }
    let of_other = |target: &str| Mount {
        target: target.to_owned(),
        source: MountSource::Bind {
            source: BindSource::Loan(other.clone()),
            subpath: None,
            readonly: false,
            recursive: false,
        },
    };
    let of_machine = || Mount {
        target: "/here".to_owned(),
        source: MountSource::Bind {
            source: BindSource::Path("/etc".into()),
            subpath: None,
            readonly: true,
            recursive: true,
        },
    };
    type Mounts<'a> = &'a dyn Fn() -> Vec<Mount>;
    let cases: [(Mounts<'_>, bool); 3] = [
        (&|| vec![loan("/srv/cache", None), of_machine()], true),
        (
            &|| vec![of_other("/srv/a"), loan("/etc/passwd", None)],
            true,
        ),
        (&|| vec![loan("/srv/b", None), of_other("/srv/b")], false),
    ];
    for (mounts, fails) in cases {
        let result = run(&|spec| spec.mounts = mounts(), "true");
        assert_eq!(result.is_err(), fails, "{result:?}");
        for directory in [&lent, &other] {
            let kept = fs::read_to_string(directory.join("before"));
            assert_eq!(kept.unwrap(), "kept", "{result:?}");
        }
    }
    fs::remove_dir_all(&other).unwrap();
    fs::remove_dir_all(&lent).unwrap();
    let beside: Vec<_> = fs::read_dir(root.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    let of_the_machine = |spec: &mut ProcessSpec| spec.mounts = vec![of_machine()];
    let refused = run(&of_the_machine, "true").unwrap_err();
    assert!(refused.to_string().contains("`/here`"), "{refused}");
    let without_network = |spec: &mut ProcessSpec| spec.network = Network::None;
    // Where no namespace of it can be made, a filter stands in (`seccomp::offline`).
    let (code, output) = run(
        &without_network,
        "grep NoNewPrivs /proc/self/status; exit 5",
    )
    .unwrap();
    assert_eq!(
        (code, output.contains("No such file")),
        (5, true),
        "{output}"
    );
    let missing = |spec: &mut ProcessSpec| spec.args = vec!["no-such-command".to_owned()];
    assert_eq!(run(&missing, "").unwrap_err().docker_code(), 127);
}
