//! Every way of isolating a step, where it is the best there is: in containers that our own runner
//! makes, without capabilities, with a covered `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Exported, LONGSHORE, Outcome, REPOSITORY, Sandbox, busybox_tar, debian_base, is_root,
};

/// Owners, deletions, links, modes, all kinds of mounts, and a step upon a step.
pub(crate) const DOCKERFILE: &str = "\
FROM busybox AS made
RUN mkdir -p /d/e /gone && echo 1 > /d/e/f && ln /d/e/f /d/same && ln -s f /d/e/link && echo x > /gone/x
FROM busybox
COPY --from=made /d /d
COPY --from=made /gone /gone
RUN chown -R 5:6 /d && chmod 4711 /d/e/f && rm -r /gone && mkdir /gone && echo 2 > /gone/new
COPY --chown=33:44 Dockerfile /copied
RUN --mount=type=cache,target=/var/cache/deep --mount=type=tmpfs,target=/mem \\
    --mount=type=secret,id=word,target=/run/word,uid=7 \\
    --mount=type=bind,source=sub,target=/context --mount=type=bind,from=made,source=/d,target=/other,rw \\
    cat /run/word /context/file /other/e/f > /seen && echo kept >> /var/cache/deep/count && \\
    wc -l < /var/cache/deep/count > /count && echo y > /mem/y && rm -r /other/e && echo lost > /context-of-mine
RUN echo more >> /gone/new; echo x > /dev/null; (sleep 7531 &) ; cat /etc/hosts > /hosts; rm /copied; true
USER www
WORKDIR /home/www
RUN id > who && touch mine && echo x > /dev/null
";

fn context(sandbox: &Sandbox) -> PathBuf {
    fs::write(sandbox.path("word"), "secret\n").unwrap();
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("sub/file", "from the context\n"),
    ];
    sandbox.context("rungs", &files)
}

/// What the Dockerfile makes, whoever builds it.
pub(crate) fn is_as_meant(root: &Exported) {
    for (path, line) in [
        ("d/e/f", "file 4711 5:6 1"),
        ("d/e/link", "link f"),
        ("gone/new", "file 644 0:0 2\nmore"),
        ("seen", "file 644 0:0 secret\nfrom the context\n1"),
        ("home/www/mine", "file 644 33:33"),
    ] {
        assert_eq!(root.line(path).trim_end(), line, "{path}");
    }
    assert!(
        root.text("home/www/who")
            .starts_with("uid=33(www) gid=33(www)")
    );
    for path in [
        "gone/x",
        "copied",
        "mem/y",
        "run/word",
        "run/secrets",
        "other",
        "context",
    ] {
        assert!(!root.has(path), "{path}");
    }
    assert!(root.text("hosts").contains("localhost"));
    assert!(
        root.below("var/cache")
            .iter()
            .all(|path| !path.contains("count"))
    );
    assert!(root.below("dev").is_empty(), "{:?}", root.below("dev"));
}

#[test]
fn privileged_by_chroot_the_same_is_built_as_in_namespaces() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = context(&sandbox);
    let word = format!("id=word,src={}", sandbox.path("word").display());
    let built = |isolation: &str| {
        let isolation = format!("--isolation={isolation}");
        let flags = [isolation.as_str(), "--no-cache", "--secret", &word];
        sandbox.exported_from(&context, &flags)
    };
    let (full, chroot) = (built("full"), built("chroot"));
    is_as_meant(&full);
    is_as_meant(&chroot);
    assert_eq!(chroot.paths(), full.paths());
    for path in full.paths() {
        // The cache counts on. Overlay makes two files of one with two names when it is changed.
        if !["count", "d/same"].contains(&path) {
            assert_eq!(chroot.line(path), full.line(path), "{path}");
        }
    }
    assert_eq!(chroot.line("d/same"), "hardlink d/e/f");
    // A cache outlives the build, and both ways share it.
    assert_eq!((full.text("count"), chroot.text("count")), ("1\n", "2\n"));
    assert_eq!(processes_of("sleep\x007531"), 0);
    let work = fs::read_dir(sandbox.root().join("work")).unwrap().count();
    assert_eq!(work, 0, "copies are gone");
}

/// A command of this sandbox's, started by another program that takes something away first.
fn behind(wrapper: &[&str], sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let ours = sandbox.command(args);
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(ours.get_program())
        .args(ours.get_args())
        .env("LONGSHORE_ROOT", sandbox.root());
    Outcome::of(command)
}

/// As in a pod whose capabilities are cut down to what its builder seems to need.
#[test]
fn privileged_by_chroot_the_same_is_built_without_the_right_to_make_devices() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let without = [
        "setpriv",
        "--bounding-set",
        "-sys_admin,-mknod",
        "--inh-caps",
        "-all",
        "--",
    ];
    let built = |context: &Path| {
        let word = format!("id=word,src={}", sandbox.path("word").display());
        let archive = sandbox.path("out.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let path = context.to_str().unwrap();
        let args = [
            "build",
            "--isolation=chroot",
            "--secret",
            &word,
            "-o",
            &output,
            path,
        ];
        let said = behind(&without, &sandbox, &args).success().stderr;
        assert!(said.contains("/dev/null is a file"), "{said}");
        Exported::read(&archive)
    };
    is_as_meant(&built(&context(&sandbox)));
    let dockerfile = "FROM busybox\n\
        RUN test -f /dev/null && test ! -e /dev/zero && echo lost > /dev/null\n\
        RUN test ! -s /dev/null && echo x > /dev/null && mv /dev/null /moved\n\
        USER www\nRUN echo lost > /dev/null\n";
    let root = built(&sandbox.fresh_context(&[("Dockerfile", dockerfile)]));
    assert!(root.below("dev").is_empty(), "{:?}", root.below("dev"));
    assert_eq!(root.text("moved"), "x\n");
    let doctor = behind(&without, &sandbox, &["doctor"]).stdout;
    assert!(doctor.contains("ok    chroot"), "{doctor}");
    assert!(doctor.contains("a file as /dev/null"), "{doctor}");
}

#[test]
fn privileged_by_chroot_a_step_without_network_has_loopback_alone() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN --network=none ip -o link > /links\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let root = sandbox.exported_from(&context, &["--isolation=chroot"]);
    let links = root.text("links");
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains("lo: <LOOPBACK,UP"), "{links}");
}

#[test]
fn privileged_by_chroot_an_agent_s_socket_is_there_for_the_step_alone() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.fresh_context(&[("Dockerfile", crate::ssh::DOCKERFILE)]);
    if !crate::view::compile(&context.join("view")) {
        return;
    }
    let agent = sandbox.path("agent");
    crate::ssh::echo(&agent);
    let forwarded = format!("default={}", agent.display());
    let root = sandbox.exported_from(&context, &["--isolation=chroot", "--ssh", &forwarded]);
    for (name, expected) in [
        ("root", "600 0:0 hello\n"),
        ("www", "660 33:50 hello\n"),
        ("there", "666 0:0 hello\n"),
    ] {
        assert_eq!(root.text(&format!("out/{name}")), expected);
    }
    for path in ["run/buildkit", "tmp/there"] {
        assert!(!root.has(path), "{path}");
    }
}

#[test]
fn privileged_by_chroot_volumes_are_copied_there_and_back() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let here = sandbox.context(
        "volume",
        &[("read", "here\n"), ("gone", ""), ("kept", "kept")],
    );
    let (volume, file) = (here.to_str().unwrap(), sandbox.path("file"));
    fs::write(&file, "file\n").unwrap();
    let run = |volumes: &[String], script: &str| {
        let flags = volumes.iter().map(|it| format!("--volume={it}"));
        let flags: Vec<String> = flags.collect();
        let fixed = ["run", "--isolation=chroot"].into_iter();
        let args = fixed.chain(flags.iter().map(String::as_str));
        sandbox.run(args.chain(["busybox", "sh", "-c", script]))
    };
    let both = [format!("{volume}:/v"), format!("{}:/f", file.display())];
    let script = "cat /v/read /f && echo new > /v/new && rm /v/gone && echo more >> /f; exit 7";
    let ran = run(&both, script);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "here\nfile\n"));
    let read = |name: &str| fs::read_to_string(here.join(name)).unwrap();
    assert_eq!(
        (read("new").as_str(), read("kept").as_str()),
        ("new\n", "kept")
    );
    assert!(!here.join("gone").exists());
    assert_eq!(fs::read_to_string(&file).unwrap(), "file\nmore\n");
    // Read-only: nothing comes back.
    run(&[format!("{volume}:/v:ro")], "rm -r /v/* ; true").success();
    assert_eq!(read("kept"), "kept");
    // What others see meanwhile is not locked away.
    let made = sandbox.path("made");
    run(&[format!("{}:/made", made.display())], "echo x > /made/x").success();
    assert_eq!(fs::read_to_string(made.join("x")).unwrap(), "x\n");
}

/// What an image brings in the places that are filled before a step runs.
#[test]
fn privileged_by_chroot_hostile_images_lead_nowhere_else() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = sandbox.path("canary");
    fs::create_dir(&canary).unwrap();
    for name in ["resolv.conf", "hosts", "file"] {
        fs::write(canary.join(name), "untouched").unwrap();
    }
    let up = format!("{}{}", "/..".repeat(30), canary.display());
    for link in [canary.display().to_string(), up] {
        let dockerfile = format!(
            "FROM busybox\n\
             RUN rm -rf /dev /etc/hosts /etc/resolv.conf /srv && ln -s {link} /dev && ln -s {link} /srv && \
                 ln -s {link}/hosts /etc/hosts && ln -s {link}/resolv.conf /etc/resolv.conf\n\
             RUN --mount=type=cache,target=/srv/deep --mount=type=tmpfs,target=/srv/mem \
                 --mount=type=secret,id=word,target=/srv/file echo x > /srv/deep/x; cat /srv/file > /seen\n\
             RUN --mount=type=cache,target=/c mv /c /kept; ln -s {link} /c\n"
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        fs::write(sandbox.path("word"), "secret").unwrap();
        let word = format!("id=word,src={}", sandbox.path("word").display());
        let flags = ["--isolation=chroot", "--secret", &word];
        let root = sandbox.exported_from(&context, &flags);
        assert_eq!(root.text("seen"), "secret");
        let mut names: Vec<_> = fs::read_dir(&canary)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["file", "hosts", "resolv.conf"]);
        for name in names {
            assert_eq!(fs::read_to_string(canary.join(name)).unwrap(), "untouched");
        }
    }
}

/// The program and what it needs to run, for a container of an image that has only a busybox.
fn volumes(shared: &Path) -> Vec<String> {
    fs::copy(LONGSHORE, shared.join("longshore")).unwrap();
    let libraries = ["/lib", "/lib64", "/usr/lib"].into_iter();
    let libraries = libraries.filter(|path| Path::new(path).exists());
    let mut volumes: Vec<String> = libraries
        .map(|path| format!("--volume={path}:{path}:ro"))
        .collect();
    volumes.push(format!("--volume={}:/shared", shared.display()));
    volumes
}

/// A directory that containers see as `/shared`: the program, a base and the context.
pub(crate) fn shared(sandbox: &Sandbox) -> PathBuf {
    let shared = sandbox.path("shared");
    fs::create_dir_all(shared.join("context/sub")).unwrap();
    fs::write(shared.join("context/Dockerfile"), DOCKERFILE).unwrap();
    fs::write(shared.join("context/sub/file"), "from the context\n").unwrap();
    fs::write(shared.join("word"), "secret\n").unwrap();
    busybox_tar(&shared.join("busybox.tar")).unwrap();
    shared
}

const BUILD_INSIDE: &str = "set -e
export LONGSHORE_ROOT=/state HOME=/tmp PATH=/bin:/usr/bin
/shared/longshore import /shared/busybox.tar busybox
/shared/longshore build --secret id=word,src=/shared/word -o type=tar,dest=/shared/out.tar $FLAGS /shared/context
/shared/longshore build --secret id=word,src=/shared/word -t again $FLAGS /shared/context
";

#[test]
fn privileged_in_a_container_without_privileges_root_builds_by_chroot() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let shared = shared(&sandbox);
    let volumes = volumes(&shared);
    let container = |options: &[&str], script: &str| {
        let run = ["run", "--rm"].into_iter().chain(options.iter().copied());
        let volumes = volumes.iter().map(String::as_str);
        sandbox.run(run.chain(volumes).chain(["busybox", "sh", "-c", script]))
    };
    let said = container(&[], BUILD_INSIDE).success().stderr;
    for part in ["isolation: chroot", "make a user namespace", "CACHED"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    is_as_meant(&Exported::read(&shared.join("out.tar")));
    // Not even a network of its own can be made there: sockets are refused.
    let offline = "FROM busybox\nRUN ! wget -qO- http://127.0.0.1:1/ 2> /said; grep refused /said\n\
        RUN --network=none ! wget -qO- http://127.0.0.1:1/ 2> /said; grep 'not permitted' /said\n";
    fs::create_dir_all(shared.join("offline")).unwrap();
    fs::write(shared.join("offline/Dockerfile"), offline).unwrap();
    let script = "export LONGSHORE_ROOT=/state HOME=/tmp
        /shared/longshore import /shared/busybox.tar busybox &&
        exec /shared/longshore build /shared/offline";
    let said = container(&[], script).success().stderr;
    assert!(said.contains("sockets are refused"), "{said}");
    // Its state is on the container's own overlay, where no other can be mounted.
    let script = "/shared/longshore --root /state doctor";
    let doctor = container(&[], script).success().stdout;
    for part in [
        "no    full",
        "--privileged",
        "no    userns",
        "auto takes chroot",
    ] {
        assert!(doctor.contains(part), "no `{part}` in {doctor}");
    }
    let script = format!("{script} --format=json");
    let answer = container(&["--user=1000", "--tmpfs=/state"], &script);
    let json: serde_json::Value = serde_json::from_str(&answer.failure(3, &[]).stdout).unwrap();
    assert_eq!(json["auto"], "none");
    let chroot = &json["isolation"][2];
    assert_eq!(chroot["name"], "chroot");
    assert!(chroot["advice"][0].as_str().unwrap().contains("SYS_CHROOT"));
    // Nobody in particular may not even change the root directory.
    let copies = "FROM busybox\nCOPY Dockerfile /a\n";
    fs::write(shared.join("context/copies"), copies).unwrap();
    fs::write(shared.join("context/runs"), format!("{copies}RUN true\n")).unwrap();
    let nobody = |dockerfile: &str| {
        let script = format!(
            "export LONGSHORE_ROOT=/tmp/state HOME=/tmp; cd /tmp &&
            /shared/longshore import /shared/busybox.tar busybox &&
            exec /shared/longshore build -f /shared/context/{dockerfile} /shared/context"
        );
        container(&["--user=1000", "--tmpfs=/tmp"], &script)
    };
    nobody("copies").success();
    let refused = nobody("runs").failure(3, &["isolation: none", "RUN true"]);
    assert!(
        refused.stderr.contains("user namespace"),
        "{}",
        refused.stderr
    );
}

/// Namespaces and mounts are allowed then, but no overlay on the container's own.
#[test]
fn privileged_in_a_privileged_container_layers_are_copied_where_overlay_cannot_be() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let shared = shared(&sandbox);
    let volumes = volumes(&shared);
    let script = format!("{BUILD_INSIDE}/shared/longshore doctor");
    let run = ["run", "--rm", "--privileged"].into_iter();
    let volumes = volumes.iter().map(String::as_str);
    let inside = sandbox.run(run.chain(volumes).chain(["busybox", "sh", "-c", &script]));
    let inside = inside.success();
    assert!(!inside.stderr.contains("isolation:"), "{}", inside.stderr);
    for part in ["auto takes full", "layers are copied", "on a volume"] {
        assert!(
            inside.stdout.contains(part),
            "no `{part}` in {}",
            inside.stdout
        );
    }
    is_as_meant(&Exported::read(&shared.join("out.tar")));
}

#[test]
fn privileged_root_without_the_right_to_mount_uses_a_user_namespace_with_all_ids() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = context(&sandbox);
    let word = format!("id=word,src={}", sandbox.path("word").display());
    let archive = sandbox.path("out.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let wrapper = [
        "setpriv",
        "--bounding-set",
        "-sys_admin",
        "--inh-caps",
        "-all",
        "--",
    ];
    let without = |args: &[&str]| behind(&wrapper, &sandbox, args);
    let path = context.to_str().unwrap();
    let built = without(&["build", "--secret", &word, "-o", &output, path]).success();
    assert!(
        built.stderr.contains("isolation: userns"),
        "{}",
        built.stderr
    );
    is_as_meant(&Exported::read(&archive));
    let full = without(&["build", "--isolation=full", path]);
    full.failure(3, &["CAP_SYS_ADMIN"]);
    let script = "id -u; touch /f && chown 12345:54321 /f && ls -ln /f";
    let ran = without(&["run", "busybox", "sh", "-c", script]).success();
    assert!(ran.stdout.contains("12345"), "{}", ran.stdout);
}

/// What a security module forbids in the middle of entering a namespace must be found out before:
/// there is no way back out of it.
#[test]
fn privileged_where_a_namespace_can_be_made_but_not_used_root_builds_by_chroot() {
    // Root may map itself only with CAP_SETFCAP, which the kernel asks for after the namespace is made.
    let no_map = [
        "setpriv",
        "--bounding-set",
        "-sys_admin,-setfcap",
        "--inh-caps",
        "-all",
        "--",
    ];
    // As AppArmor's `deny mount`: whoever is confined by Landlock may make file systems, and put them
    // nowhere. With and without the right to mount otherwise.
    let no_mount = ["python3", "-c", CONFINED];
    let no_mount_either = [
        &[
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-all",
            "--",
        ][..],
        &no_mount,
    ]
    .concat();
    let python = Command::new("python3").arg("--version").output().is_ok();
    for (confined, says, needs_python) in [
        (&no_map[..], "map the user's own id", false),
        (&no_mount, "namespaces and mounts are not allowed", true),
        (&no_mount_either, "separate the mounts", true),
    ] {
        if !is_root() || (needs_python && !python) {
            return;
        }
        let Some(sandbox) = Sandbox::with_busybox() else {
            return;
        };
        let context = context(&sandbox);
        let word = format!("id=word,src={}", sandbox.path("word").display());
        let archive = sandbox.path("out.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let path = context.to_str().unwrap();
        let args = ["build", "--secret", &word, "-o", &output, path];
        let said = behind(confined, &sandbox, &args).success().stderr;
        for part in ["isolation: chroot", says] {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
        is_as_meant(&Exported::read(&archive));
    }
}

/// Confines itself by Landlock, which forbids all mounting from then on, to nothing but what it allows:
/// links and renames across directories. Then becomes what its arguments say.
const CONFINED: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        sys.exit('landlock: ' + os.strerror(ctypes.get_errno()))
    return result
REFER = 1 << 13
ruleset = call(444, struct.pack('=Q', REFER), 8, 0)
call(445, ruleset, 1, struct.pack('=Qi', REFER, os.open('/', os.O_PATH)), 0)
libc.prctl(38, 1, 0, 0, 0)
call(446, ruleset, 0)
os.execvp(sys.argv[1], sys.argv[1:])
";

/// The real one, with a package manager, a language's packages, and users.
#[test]
fn privileged_the_python_application_is_built_in_a_container_without_privileges() {
    let Some(base) = debian_base() else { return };
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let shared = shared(&sandbox);
    fs::copy(base, shared.join("base.tar")).unwrap();
    let source = format!("{REPOSITORY}/testdata/apps/python-web");
    let copied = Command::new("cp")
        .args(["-r", &source, shared.join("app").to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
    let script = "set -e
        export LONGSHORE_ROOT=/state HOME=/tmp
        /shared/longshore import /shared/base.tar debian:bookworm-slim \\
            -c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt'
        /shared/longshore build -t notes /shared/app
        /shared/longshore save -o /shared/notes.tar notes";
    let run = ["run", "--rm"].into_iter().map(str::to_owned);
    let inside = ["busybox", "sh", "-c", script]
        .into_iter()
        .map(str::to_owned);
    let built = sandbox
        .run(run.chain(volumes(&shared)).chain(inside))
        .success();
    assert!(
        built.stderr.contains("isolation: chroot"),
        "{}",
        built.stderr
    );
    sandbox.ok(["load", "-i", shared.join("notes.tar").to_str().unwrap()]);
    let script = "id -un; python3 -c 'import flask, waitress; print(\"imported\")'; ls -l /srv/notes/notes/app.py | cut -c1-10";
    let ran = sandbox.output_of("notes", &["sh", "-c", script]);
    assert_eq!(ran, "notes\nimported\n-rw-r--r--\n");
}

#[test]
fn privileged_many_steps_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let word = format!("79{:07}", std::process::id());
    let in_a_row: String = (0..500)
        .map(|step| format!("RUN (sleep {word} &); echo {step} > /number\n"))
        .collect();
    // Each step ends with what it started, so none waits for the other.
    let row = format!("FROM busybox\n{in_a_row}");
    let at_once: String = (0..64)
        .map(|stage| {
            format!("FROM busybox AS s{stage}\nRUN (sleep {word} &); echo {stage} > /n{stage}\n")
        })
        .collect();
    let copies: String = (0..64)
        .map(|stage| format!("COPY --from=s{stage} /n{stage} /\n"))
        .collect();
    let fan = format!("{at_once}FROM busybox\n{copies}");
    let context = sandbox.fresh_context(&[("row", &row), ("fan", &fan)]);
    let groups = control_groups();
    for (dockerfile, last) in [("row", ("number", "499\n")), ("fan", ("n63", "63\n"))] {
        let file = context.join(dockerfile);
        let root = sandbox.exported_from(&context, &["-f", file.to_str().unwrap()]);
        assert_eq!(root.text(last.0), last.1);
        assert_eq!(processes_of(&format!("sleep\x00{word}")), 0);
        let work = fs::read_dir(sandbox.root().join("work")).unwrap().count();
        assert_eq!(work, 0, "no directory is left");
    }
    assert_eq!(mounts_in(&sandbox), Vec::<String>::new());
    // Others test at the same time: what is there now and was not then must go by itself.
    let ours = |now: Vec<String>, before: &[String]| {
        let new = now.into_iter().filter(|it| !before.contains(it));
        new.collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut left = ours(control_groups(), &groups);
    while !left.is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
        left.retain(|group| Path::new(group).exists());
    }
    assert_eq!(left, Vec::<String>::new());
}

fn mounts_in(sandbox: &Sandbox) -> Vec<String> {
    let root = sandbox.root().to_string_lossy().into_owned();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = text.lines().filter(|line| line.contains(&root));
    lines.map(str::to_owned).collect()
}

/// The groups that our runner made, wherever.
fn control_groups() -> Vec<String> {
    let found = walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .flatten();
    let ours = found.filter(|entry| entry.file_name().to_string_lossy().starts_with("longshore"));
    ours.map(|entry| entry.path().display().to_string())
        .collect()
}

/// How many processes have this in their command line.
pub(crate) fn processes_of(words: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(words))
    })
    .count()
}
