//! Builds and containers of ordinary users: with subordinate ids, with their own id alone, and
//! where processes cannot be isolated at all.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Exported, LONGSHORE, Outcome, REPOSITORY, busybox_tar, debian_base, is_root, write_file,
};

/// An ordinary user, made for a test and gone after it.
struct User {
    name: String,
    uid: u32,
    gid: u32,
    scratch: tempfile::TempDir,
}

/// Whether a user may map ids of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subordinate {
    Ids,
    Nothing,
}

impl User {
    /// Needs root, who makes users.
    fn new(subordinate: Subordinate) -> Option<Self> {
        if !is_root() {
            crate::skip::skip("needs root");
            return None;
        }
        let (name, scratch) = (unused_name(), tempfile::tempdir().unwrap());
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        administer(
            Command::new("useradd")
                .args(["--no-create-home", "--shell", "/bin/sh", "--user-group"])
                .args(["--home-dir".as_ref(), scratch.path().as_os_str()])
                .arg(&name),
        );
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")));
        let ids: Vec<u32> = line
            .unwrap()
            .split(':')
            .filter_map(|it| it.parse().ok())
            .collect();
        let user = Self {
            name,
            uid: ids[0],
            gid: ids[1],
            scratch,
        };
        user.set_subordinate(subordinate);
        chown(user.path(""), Some(user.uid), Some(user.gid)).unwrap();
        fs::copy(LONGSHORE, user.path("longshore")).unwrap();
        Some(user)
    }

    /// What `useradd` gave, or nothing.
    fn set_subordinate(&self, subordinate: Subordinate) {
        let own = format!("{}:", self.name);
        for (file, delete) in [("/etc/subuid", "-V"), ("/etc/subgid", "-W")] {
            let text = fs::read_to_string(file).unwrap_or_default();
            let Some(line) = text.lines().find(|line| line.starts_with(&own)) else {
                assert!(
                    subordinate == Subordinate::Nothing,
                    "useradd grants no ids here"
                );
                continue;
            };
            let range: Vec<u64> = line
                .split(':')
                .filter_map(|part| part.parse().ok())
                .collect();
            if subordinate == Subordinate::Nothing {
                let range = format!("{}-{}", range[0], range[0] + range[1] - 1);
                administer(Command::new("usermod").args([delete, &range, &self.name]));
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes a context that the user can read and returns its path.
    fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        let folder = self.path(name);
        for (path, text) in files {
            write_file(&folder.join(path), text);
        }
        folder.to_str().unwrap().to_owned()
    }

    /// A program as this user, with nothing of the caller's environment.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.uid.to_string()])
            .args(["--regid", &self.gid.to_string()])
            .args(["--init-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .env_clear()
            .env("HOME", self.path(""))
            .env("PATH", std::env::var_os("PATH").unwrap())
            .current_dir(self.path(""))
            .stdin(Stdio::null());
        command
    }

    fn longshore(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.path("longshore"));
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.longshore(args))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Outcome {
        self.run(args).success()
    }

    fn import_busybox(&self) -> Option<()> {
        let tar = busybox_tar(&self.path("busybox.tar"))?;
        // A file of another owner, as every distribution has them.
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_gid(42);
        header.set_size(7);
        // Two empty blocks end an archive: the second one takes their place.
        let text = fs::read(&tar).unwrap();
        let end = text.len() - 1024;
        let mut joined = tar::Builder::new(Vec::new());
        joined
            .append_data(&mut header, "etc/shadow", &b"root:*\n"[..])
            .unwrap();
        let mut file = fs::File::create(&tar).unwrap();
        file.write_all(&text[..end]).unwrap();
        file.write_all(&joined.into_inner().unwrap()).unwrap();
        drop(file);
        self.ok(&["import", tar.to_str().unwrap(), "busybox"]);
        Some(())
    }

    fn state(&self) -> PathBuf {
        self.path(".local/share/longshore")
    }
}

impl Drop for User {
    fn drop(&mut self) {
        administer(Command::new("userdel").arg(&self.name));
    }
}

fn unused_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("ls{}x{number}", std::process::id())
}

/// The files of users have one lock, which other tests may hold.
fn administer(command: &mut Command) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = command.output().unwrap();
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("lock") && Instant::now() < deadline,
            "{command:?}: {said}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

const DOCKERFILE: &str = "\
FROM busybox
RUN id -u > /who && touch /etc/passwd && echo more >> /etc/shadow && rm -r /home && mkdir /home && echo x > /home/new
RUN mkdir -p /d/e && echo 1 > /d/e/f
RUN rm -rf /d && mkdir /d
COPY --chown=33:44 Dockerfile /copied
RUN --mount=type=cache,target=/cache,uid=33 --mount=type=tmpfs,target=/mem \\
    echo a > /cache/a && echo b > /mem/b && ls -ln /copied > /seen
";

/// What holds for every ordinary user.
fn builds_and_runs(user: &User) -> Exported {
    let context = user.context("context", &[("Dockerfile", DOCKERFILE)]);
    user.ok(&["build", "-t", "made", &context]);
    let archive = user.path("out.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let cached = user.ok(&["build", "-o", &output, &context]);
    assert_eq!(cached.ran(), Vec::<String>::new(), "{}", cached.stderr);
    let root = Exported::read(&archive);
    assert_eq!(root.text("who"), "0\n");
    assert_eq!(root.below("home"), ["new"], "the old directory is hidden");
    assert_eq!(root.below("d"), Vec::<&str>::new());
    assert_eq!(root.line("copied").split(' ').nth(2), Some("33:44"));
    assert_eq!(root.line("etc/shadow"), "file 640 0:42 root:*\nmore");
    assert!(
        !root.has("cache") && !root.has("mem"),
        "mount points are gone"
    );
    let script = "id -u; cat /home/*; test -w /dev/null && ls /sys/kernel > /dev/null && echo fine";
    let ran = user.ok(&["run", "made", "sh", "-c", script]);
    assert_eq!(ran.stdout, "0\nx\nfine\n");
    // What is written outside belongs to the user.
    let output = format!("type=local,dest={}", user.path("out").display());
    user.ok(&["build", "-o", &output, &context]);
    for name in ["out/copied", "out/etc/shadow", "out.tar"] {
        assert_eq!(
            fs::metadata(user.path(name)).unwrap().uid(),
            user.uid,
            "{name}"
        );
    }
    // And all that is inside can be removed again, whoever it belongs to.
    user.ok(&["rmi", "made", "busybox"]);
    user.ok(&["prune", "--all"]);
    let left: Vec<_> = ["snapshots-user", "snapshots-own", "work", "trash"]
        .iter()
        .filter_map(|name| fs::read_dir(user.state().join(name)).ok())
        .flat_map(|list| list.map(|entry| entry.unwrap().path()))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    let mode = fs::metadata(user.state()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700, "nobody else looks in");
    root
}

#[test]
fn privileged_the_cache_mounts_of_users_go_through_a_cache_elsewhere() {
    for subordinate in [Subordinate::Ids, Subordinate::Nothing] {
        let Some(user) = User::new(subordinate) else {
            return;
        };
        let Some(tar) = busybox_tar(&user.path("busybox.tar")) else {
            return;
        };
        let chown = match subordinate {
            Subordinate::Ids => "chown 33:50 /c/d/f",
            Subordinate::Nothing => "true",
        };
        let dockerfile = format!(
            "FROM busybox\nARG V\nRUN --mount=type=cache,target=/c ls -ln /c/d > /before; \\\n\
             mkdir -p /c/d && echo $V >> /c/d/f && {chown} && chmod 0555 /c/d\n"
        );
        let context = user.context("context", &[("Dockerfile", &dockerfile)]);
        let place = format!("={},mounts=true", user.path("cache").display());
        let build = |root: &str, version: &str, flag: &str, spec: &str| {
            let root = user.path(root);
            let root = root.to_str().unwrap();
            user.ok(&["--root", root, "import", tar.to_str().unwrap(), "busybox"]);
            let spec = format!("type=local,{spec}{place}");
            let build = ["--root", root, "build", "-t", "app", "--build-arg", version];
            user.ok(&[&build[..], &[flag, &spec, &context]].concat());
            user.ok(&["--root", root, "run", "app", "cat", "/before"])
                .stdout
        };
        assert_eq!(build("warm", "V=1", "--cache-to", "dest"), "");
        let before = build("cold", "V=2", "--cache-from", "src");
        let owner = match subordinate {
            Subordinate::Ids => " 33       50 ",
            Subordinate::Nothing => " 0        0 ",
        };
        assert!(before.contains(owner), "{before}");
        user.ok(&[
            "--root",
            user.path("cold").to_str().unwrap(),
            "prune",
            "--all",
        ]);
    }
}

#[test]
fn privileged_a_user_with_subordinate_ids_builds_and_runs() {
    let Some(user) = User::new(Subordinate::Ids) else {
        return;
    };
    if user.import_busybox().is_none() {
        return;
    }
    let root = builds_and_runs(&user);
    assert!(
        root.text("seen").contains(" 33       44 "),
        "{}",
        root.text("seen")
    );
    user.import_busybox().unwrap();
    let as_www = user.ok(&["run", "-u", "www", "busybox", "sh", "-c", "id -u; id -g"]);
    assert_eq!(as_www.stdout, "33\n33\n");
    let context = user.context(
        "owners",
        &[(
            "Dockerfile",
            "FROM busybox\nRUN chown 5:6 /etc && touch /f && chown www:staff /f\nUSER www\nRUN echo mine > /tmp/mine\n",
        )],
    );
    let archive = user.path("owners.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let said = user.ok(&["build", "-o", &output, &context]).stderr;
    assert_eq!(said.matches("isolation: userns").count(), 1, "{said}");
    let root = Exported::read(&archive);
    assert_eq!(root.line("etc"), "dir 755 5:6");
    assert_eq!(root.line("f"), "file 644 33:50 ");
    assert_eq!(root.line("tmp/mine"), "file 644 33:33 mine");
}

#[test]
fn privileged_a_user_with_one_id_builds_and_runs() {
    let Some(user) = User::new(Subordinate::Nothing) else {
        return;
    };
    if user.import_busybox().is_none() {
        return;
    }
    builds_and_runs(&user);
    user.import_busybox().unwrap();
    let context = user.context(
        "other",
        &[("Dockerfile", "FROM busybox\nUSER www\nRUN true\n")],
    );
    // What one id cannot do, and what is missing.
    let parts = ["subuid", "own id alone", "/etc/subuid grants no ids"];
    user.run(&["build", &context]).failure(3, &parts);
}

#[test]
fn privileged_the_python_application_is_built_by_an_ordinary_user() {
    let Some(base) = debian_base() else { return };
    let Some(user) = User::new(Subordinate::Ids) else {
        return;
    };
    let tar = user.path("base.tar");
    fs::copy(base, &tar).unwrap();
    let environment = "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt";
    let args = ["import", tar.to_str().unwrap(), "debian:bookworm-slim"];
    user.ok(&[&args[..], &["-c", environment]].concat());
    // In no one's private directory.
    let context = user.path("python-web");
    let source = format!("{REPOSITORY}/testdata/apps/python-web");
    let copied = Command::new("cp")
        .args(["-r".as_ref(), source.as_ref(), context.as_os_str()])
        .status();
    assert!(copied.unwrap().success());
    user.ok(&["build", "-t", "notes", context.to_str().unwrap()]);
    let script = "id -un; python3 -c 'import flask, waitress; print(\"imported\")'";
    let ran = user.ok(&["run", "notes", "sh", "-c", script]);
    assert_eq!(ran.stdout, "notes\nimported\n");
}

/// Of Python and Node: what needs packages of the system comes from elsewhere, as their official images
/// bring it; what a user with one id cannot do is to become another.
#[test]
fn privileged_applications_are_built_by_a_user_with_one_id() {
    let Some(base) = debian_base() else { return };
    let Some(user) = User::new(Subordinate::Nothing) else {
        return;
    };
    let tools = "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y \
        --no-install-recommends python3 python3-venv nodejs npm\n";
    let root = crate::harness::Sandbox::new();
    let environment = "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt";
    let import = ["import", base.to_str().unwrap(), "debian:bookworm-slim"];
    root.ok(import.iter().chain(&["-c", environment]));
    root.build("tools", &[("Dockerfile", tools)]);
    let saved = user.path("tools.tar");
    root.ok(["save", "-o", saved.to_str().unwrap(), "tools"]);
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o644)).unwrap();
    user.ok(&["load", "-i", saved.to_str().unwrap()]);
    let context = user.path("app");
    for name in ["python-web", "node-front"] {
        let source = format!("{REPOSITORY}/testdata/apps/{name}");
        fs::create_dir_all(&context).unwrap();
        let copied = Command::new("cp")
            .args([
                "-r".as_ref(),
                source.as_ref(),
                context.join(name).as_os_str(),
            ])
            .status();
        assert!(copied.unwrap().success());
    }
    let dockerfile = "FROM tools\nENV PATH=/srv/venv/bin:$PATH\nWORKDIR /srv/notes\n\
        COPY python-web .\n\
        RUN python3 -m venv /srv/venv && pip install --no-cache-dir -r requirements.txt\n\
        WORKDIR /front\nCOPY node-front .\nRUN npm ci && npm run build\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let built = user.ok(&["build", "-t", "app", context.to_str().unwrap()]);
    assert!(built.stderr.contains("own id alone"), "{}", built.stderr);
    let script = "cd /srv/notes && python3 -c 'import flask, notes.app; print(\"imported\")'; \
        test -s /front/dist/main.js && echo bundled";
    let ran = user.ok(&["run", "app", "sh", "-c", script]);
    assert_eq!(ran.stdout, "imported\nbundled\n");
}

#[test]
fn privileged_a_set_user_id_program_is_its_owner_s_for_a_user_too() {
    let (Some(user), Some(who)) = (User::new(Subordinate::Ids), crate::run_mounts::who()) else {
        return;
    };
    if user.import_busybox().is_none() {
        return;
    }
    let dockerfile = "FROM busybox\nCOPY who /\nRUN chmod 4755 /who\nUSER www\n\
        RUN /who; test $? = 0\n";
    let context = user.context("sudo", &[("Dockerfile", dockerfile)]);
    fs::write(Path::new(&context).join("who"), who).unwrap();
    let built = user.ok(&["build", &context]);
    assert!(
        built.stderr.contains("isolation: userns"),
        "{}",
        built.stderr
    );
}

#[test]
fn privileged_without_isolation_what_needs_no_process_is_built() {
    let Some(user) = User::new(Subordinate::Nothing) else {
        return;
    };
    if user.import_busybox().is_none() {
        return;
    }
    let files = [
        (
            "copies",
            "FROM busybox AS one\nCOPY Dockerfile /a/\nFROM busybox\nWORKDIR /w\nCOPY --from=one /a /etc/passwd /b/\nADD Dockerfile /c\nENV A=1\n",
        ),
        ("runs", "FROM busybox\nCOPY Dockerfile /a\nRUN true\n"),
    ]
    .map(|(name, text)| user.context(name, &[("Dockerfile", text)]));
    let [copies, runs] = [&files[0], &files[1]];
    user.ok(&["build", "-t", "copied", "--isolation", "none", copies]);
    let archive = user.path("out.tar");
    let output = format!("type=tar,dest={}", archive.display());
    user.ok(&["build", "-o", &output, "--isolation=none", copies]);
    let root = Exported::read(&archive);
    assert!(root.has("b/passwd") && root.has("b/Dockerfile") && root.has("w"));
    user.run(&["build", "--isolation=none", runs])
        .failure(3, &["RUN true", "switched off (--isolation none)"]);
    let mut by_environment = user.longshore(&["build", runs]);
    by_environment.env("LONGSHORE_ISOLATION", "none");
    Outcome::of(by_environment).failure(3, &["switched off"]);
    let mut wrong = user.longshore(&["images"]);
    wrong.env("LONGSHORE_ISOLATION", "some");
    Outcome::of(wrong).failure(2, &["LONGSHORE_ISOLATION", "some"]);
    // What was asked for and cannot be had is refused before anything is built.
    let full = user.run(&["build", "--isolation=full", copies]);
    assert!(!full.failure(3, &["CAP_SYS_ADMIN"]).stderr.contains("#1"));
    user.run(&["run", "--isolation=none", "busybox", "true"])
        .failure(125, &["switched off"]);
}

#[test]
fn privileged_where_namespaces_are_forbidden_the_reason_is_said() {
    let Some(user) = User::new(Subordinate::Ids) else {
        return;
    };
    if user.import_busybox().is_none() {
        return;
    }
    let context = user.context("runs", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    // No more namespaces below this one, as in a container that allows none.
    let forbid = "echo $$; read -r _; echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let as_user = user.longshore(&["build", &context]);
    let mut child = Command::new("unshare")
        .args(["--user", "--keep-caps", "sh", "-c", forbid, "sh"])
        .arg(as_user.get_program())
        .args(as_user.get_args())
        .env("HOME", user.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut pid).unwrap();
    for kind in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{kind}", pid.trim()), "0 0 65536\n").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for part in [
        "isolation: none",
        "RUN true",
        "make a user namespace",
        "max_user_namespaces",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

#[test]
fn privileged_where_proc_is_masked_steps_share_the_container_s_processes() {
    for subordinate in [Subordinate::Ids, Subordinate::Nothing] {
        let Some(user) = User::new(subordinate) else {
            return;
        };
        if user.import_busybox().is_none() {
            return;
        }
        // As in every container: parts of /proc are covered, and no fresh one can be mounted.
        let masked = |args: &[&str]| {
            let ours = user.longshore(args);
            let mask = "mount --bind /dev/null /proc/interrupts && exec \"$@\"";
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--propagation=private", "sh", "-c", mask, "sh"])
                .arg(ours.get_program())
                .args(ours.get_args())
                .env_clear()
                .env("HOME", user.path(""))
                .env("PATH", std::env::var_os("PATH").unwrap());
            Outcome::of(command)
        };
        let word = format!("76{:07}", std::process::id());
        let dockerfile = format!(
            "FROM busybox\n\
             RUN id -u > /who && test -d /proc/self/fd && test -c /dev/null && wc -c < /proc/interrupts > /masked\n\
             RUN (trap '' TERM HUP; sleep {word} & sleep {word}) & (setsid sleep {word} &) ; true\n\
             RUN rm -r /home && mkdir /home && echo x > /home/new\n"
        );
        let context = user.context("masked", &[("Dockerfile", dockerfile.as_str())]);
        let archive = user.path("masked.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let built = masked(&["build", "-o", &output, &context]).success();
        for part in ["isolation: userns", "/proc is masked", "procMount"] {
            assert!(
                built.stderr.contains(part),
                "no `{part}` in {}",
                built.stderr
            );
        }
        let root = Exported::read(&archive);
        assert_eq!((root.text("who"), root.text("masked")), ("0\n", "0\n"));
        assert_eq!(root.below("home"), ["new"]);
        let still = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&word)
        });
        assert_eq!(still.count(), 0, "what steps started ends with them");
        let ran = masked(&["run", "busybox", "sh", "-c", "exit 7"]);
        assert_eq!(ran.code, 7, "{}", ran.stderr);
        let doctor = masked(&["doctor"]).success().stdout;
        for part in ["share /proc", "systempaths=unconfined", "auto takes userns"] {
            assert!(doctor.contains(part), "no `{part}` in {doctor}");
        }
        let advised = doctor.contains("--add-subuids");
        assert_eq!(advised, subordinate == Subordinate::Nothing, "{doctor}");
    }
}
