//! `--isolation inplace`, in containers of our own that may be thrown away. It never runs on this
//! machine's root directory: what it refuses is decided from what a place looks like, and tested
//! where it would do no harm to be wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Exported, LONGSHORE, Outcome, REPOSITORY, Sandbox, debian_base, is_root};
use crate::rungs::{DOCKERFILE, is_as_meant, processes_of, shared};

/// A container that has what an engine leaves in its own, and a volume with a program that needs
/// nothing outside of it.
struct Pod {
    sandbox: Sandbox,
    shared: PathBuf,
}

/// What a pod is told to do, and with which capabilities.
const SETUP: &str = "set -e
export LONGSHORE_ROOT=/state HOME=/tmp
/shared/longshore import /shared/busybox.tar busybox
";

impl Pod {
    fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let sandbox = Sandbox::with_busybox()?;
        let shared = shared(&sandbox);
        if !make_portable(&shared) {
            crate::skip::skip("this machine's loader is not known");
            return None;
        }
        let plain = "FROM busybox\nCOPY witness /\n";
        sandbox.build("plain", &[("Dockerfile", plain), ("witness", "")]);
        let marked = "FROM plain\nCOPY .dockerenv /\n";
        sandbox.build("marked", &[("Dockerfile", marked), (".dockerenv", "")]);
        Some(Self { sandbox, shared })
    }

    /// Runs a script in a new one, which may neither `chroot` nor mount.
    fn run(&self, image: &str, options: &[&str], script: &str) -> Outcome {
        let volume = format!("--volume={}:/shared", self.shared.display());
        let fixed = ["run", "--rm", volume.as_str()].into_iter();
        let args = fixed.chain(options.iter().copied());
        let ours = self
            .sandbox
            .command(args.chain([image, "sh", "-c", script]));
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set", "-sys_chroot", "--inh-caps", "-all", "--"])
            .arg(ours.get_program())
            .args(ours.get_args())
            .env("LONGSHORE_ROOT", self.sandbox.root());
        Outcome::of(command)
    }

    fn ok(&self, script: &str) -> Outcome {
        self.run("marked", &[], &format!("{SETUP}{script}"))
            .success()
    }

    fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            crate::harness::write_file(&self.shared.join(name).join(path), text);
        }
        format!("/shared/{name}")
    }
}

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Copies the program to a directory that containers see as `/shared`, with its loader and libraries,
/// and makes it look for them there and nowhere else: a stand-in for one that is linked statically.
fn make_portable(shared: &Path) -> bool {
    // Each as long as what it replaces.
    const PLACES: [(&str, &str); 2] = [
        ("/lib/x86_64-linux-gnu/", "/shared/lib/./././././"),
        ("/etc/ld.so.cache", "/shared/no-cache"),
    ];
    if !Path::new(LOADER).exists() {
        return false;
    }
    let interpreter = format!("/shared/ld.so{}", "\0".repeat(LOADER.len() - 13));
    let program = replaced(Path::new(LONGSHORE), &[(LOADER, &interpreter)]);
    put_program(&shared.join("longshore"), &program);
    put_program(&shared.join("ld.so"), &replaced(Path::new(LOADER), &PLACES));
    let libraries = shared.join("lib");
    fs::create_dir_all(&libraries).unwrap();
    for name in ["libc.so.6", "libm.so.6", "libgcc_s.so.1"] {
        let from = Path::new("/lib/x86_64-linux-gnu").join(name);
        fs::copy(from, libraries.join(name)).unwrap();
    }
    true
}

fn replaced(file: &Path, places: &[(&str, &str)]) -> Vec<u8> {
    // As far as either has such text.
    const SEARCHED_BYTES: usize = 1 << 20;
    let mut bytes = fs::read(file).unwrap();
    let searched = bytes.len().min(SEARCHED_BYTES);
    for (from, to) in places {
        assert_eq!(from.len(), to.len());
        let text = &mut bytes[..searched];
        let is_there = |text: &[u8]| {
            let mut windows = text.windows(from.len());
            windows.position(|window| window == from.as_bytes())
        };
        while let Some(at) = is_there(text) {
            text[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

fn put_program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const BUILD: &str = "/shared/longshore build --isolation=inplace";

#[test]
fn privileged_in_place_the_same_is_built_as_everywhere() {
    let Some(pod) = Pod::new() else { return };
    let flags = "--secret id=word,src=/shared/word";
    let said = pod.ok(&format!(
        "{BUILD} {flags} -o type=tar,dest=/shared/out.tar /shared/context
         {BUILD} {flags} -t again /shared/context
         /shared/longshore doctor || true"
    ));
    is_as_meant(&Exported::read(&pod.shared.join("out.tar")));
    assert!(said.stderr.contains("CACHED"), "{}", said.stderr);
    for part in [
        "ok    inplace: only when asked for",
        "RUN steps work here with --isolation=inplace alone",
    ] {
        assert!(said.stdout.contains(part), "no `{part}` in {}", said.stdout);
    }
    assert_eq!(processes_of("sleep\x007531"), 0);
    assert!(DOCKERFILE.contains("sleep 7531"));
}

#[test]
fn privileged_stages_in_place_see_nothing_of_one_another_and_run_one_at_a_time() {
    let Some(pod) = Pod::new() else { return };
    // Both would notice the other: each looks for what only the other has.
    let stage = |name: &str, other: &str| {
        format!(
            "FROM busybox AS {name}\n\
             RUN touch /{name} && for i in 1 2 3 4 5 6 7 8; do test ! -e /{other} || exit 1; sleep 0.1; done\n\
             RUN test -e /{name} && test ! -e /{other} && echo {name} > /result\n"
        )
    };
    let dockerfile = format!(
        "{}{}FROM scratch\nCOPY --from=a /result /a\nCOPY --from=b /result /b\n",
        stage("a", "b"),
        stage("b", "a")
    );
    pod.context("stages", &[("Dockerfile", &dockerfile)]);
    pod.ok(&format!(
        "{BUILD} -o type=tar,dest=/shared/out.tar /shared/stages"
    ));
    let root = Exported::read(&pod.shared.join("out.tar"));
    assert_eq!((root.text("a"), root.text("b")), ("a\n", "b\n"));
    assert_eq!(root.paths(), ["a", "b"]);
}

#[test]
fn privileged_in_place_is_refused_where_it_could_do_harm() {
    let Some(pod) = Pod::new() else { return };
    pod.context("step", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let witness = "test -e /witness || exit 99; exit $code";
    let build = |flags: &str, context: &str| {
        format!("{SETUP}code=0; {BUILD} {flags} {context} || code=$?; {witness}")
    };
    // No mark of an engine: it could be anything.
    let plain = pod.run("plain", &[], &build("", "/shared/step"));
    plain.failure(
        3,
        &["does not look like a container", "LONGSHORE_INPLACE_FORCE"],
    );
    // Somebody says that it may go.
    let insists = build("--inplace-force", "/shared/step");
    let gone = pod.run("plain", &[], &insists);
    assert_eq!(gone.code, 99, "{}", gone.stderr);
    // Nothing of it is removed for a stage that needs no process.
    pod.context(
        "copies",
        &[("Dockerfile", "FROM busybox\nCOPY Dockerfile /\n")],
    );
    let copied = pod.run("marked", &[], &build("", "/shared/copies"));
    copied.success();
    // The root directory as context would be removed while it is read.
    let whole = pod.run("marked", &[], &build("-f /shared/step/Dockerfile", "/"));
    whole.failure(2, &["other than the root directory"]);
    // A user cannot give files to others.
    let user = "export LONGSHORE_ROOT=/tmp/state HOME=/tmp; cd /tmp
        exec /shared/longshore build --isolation=inplace /shared/step";
    let user = pod.run("marked", &["--user=1000", "--tmpfs=/tmp"], user);
    user.failure(3, &["inplace needs root"]);
    // Containers would take the place of this one.
    let run = format!("{SETUP}exec /shared/longshore run --isolation=inplace busybox true");
    pod.run("marked", &[], &run)
        .failure(125, &["is for builds"]);
    // A program whose libraries a step would replace would not survive its first one.
    fs::copy(LONGSHORE, pod.shared.join("dynamic")).unwrap();
    fs::copy(LOADER, pod.shared.join("loader")).unwrap();
    let script = "set -e; export LONGSHORE_ROOT=/state HOME=/tmp
        mkdir -p /lib64 /lib/x86_64-linux-gnu
        cp /shared/loader /lib64/ld-linux-x86-64.so.2
        cp /shared/lib/* /lib/x86_64-linux-gnu/
        exec /shared/dynamic build --isolation=inplace /shared/step";
    let dynamic = pod.run("marked", &[], script);
    dynamic.failure(3, &["linked statically"]);
}

/// CVE-2026-28406 and its kin: what images and contexts put where the builder's own files are.
#[test]
fn privileged_cve_2026_28406_in_place_nothing_reaches_the_builder_s_own_files() {
    let Some(pod) = Pod::new() else { return };
    let shared = &pod.shared;
    let before = fs::read(shared.join("longshore")).unwrap();
    // An archive that climbs, and one that goes through a link.
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(if link.is_empty() { 4 } else { 0 });
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        let text: &[u8] = if link.is_empty() { b"evil" } else { b"" };
        archive.append(&header, text).unwrap();
    };
    add(tar::EntryType::Symlink, "way", "/shared");
    add(tar::EntryType::Regular, "way/longshore", "");
    add(tar::EntryType::Link, "stolen", "shared/longshore");
    fs::create_dir_all(shared.join("hostile")).unwrap();
    let archive = archive.into_inner().unwrap();
    fs::write(shared.join("hostile/plain"), "evil").unwrap();
    fs::write(shared.join("hostile/evil.tar"), archive).unwrap();
    pod.context(
        "onbuild",
        &[
            ("plain", "evil"),
            (
                "Dockerfile",
                "FROM busybox\nONBUILD COPY plain /shared/ld.so\n",
            ),
        ],
    );
    pod.context(
        "hostile",
        &[(
            "Dockerfile",
            "FROM parent AS first\n\
             COPY plain /shared/longshore\n\
             COPY plain /state/db\n\
             COPY plain /proc/sys/kernel/core_pattern\n\
             RUN test ! -e /way && echo fine > /first\n\
             FROM busybox AS links\n\
             RUN ln -s /shared /way && ln -s /state /other\n\
             COPY plain /way/longshore\n\
             COPY plain /other/lock\n\
             RUN echo fine > /second\n\
             FROM links\n\
             RUN rm -rf /other && rm -f /way && echo fine > /third\n",
        )],
    );
    pod.context(
        "archive",
        &[("Dockerfile", "FROM busybox\nADD evil.tar /\nRUN true\n")],
    );
    fs::copy(
        shared.join("hostile/evil.tar"),
        shared.join("archive/evil.tar"),
    )
    .unwrap();
    let said = pod.ok(&format!(
        "{BUILD} -t parent /shared/onbuild
         {BUILD} --progress=plain -o type=tar,dest=/shared/out.tar /shared/hostile
         {BUILD} --target=first -o type=tar,dest=/shared/first.tar /shared/hostile
         code=0; {BUILD} -t climbed /shared/archive || code=$?
         /shared/longshore images"
    ));
    let root = Exported::read(&shared.join("out.tar"));
    assert_eq!(root.text("third"), "fine\n");
    let first = Exported::read(&shared.join("first.tar"));
    // The image has what it says, in its own place.
    assert_eq!(first.text("shared/longshore"), "evil");
    assert_eq!(first.text("first"), "fine\n");
    assert!(
        said.stderr.contains("/shared is this container's own"),
        "{}",
        said.stderr
    );
    assert_eq!(fs::read(shared.join("longshore")).unwrap(), before);
    assert!(fs::read(shared.join("ld.so")).unwrap().len() > 4);
}

#[test]
fn privileged_a_build_in_place_that_is_killed_leaves_nothing_to_the_next() {
    let Some(pod) = Pod::new() else { return };
    let word = format!("74{:07}", std::process::id());
    let dockerfile = format!(
        "FROM busybox\nRUN touch /torn && (sleep {word} &) ; touch /shared/started; exec sleep {word}\n"
    );
    pod.context("killed", &[("Dockerfile", &dockerfile)]);
    pod.context(
        "next",
        &[(
            "Dockerfile",
            "FROM busybox\nRUN test ! -e /torn && echo fine > /made\n",
        )],
    );
    // With nothing but what the shell has itself: the programs are gone by then.
    pod.ok(&format!(
        "{BUILD} /shared/killed &
         while [ ! -e /shared/started ]; do kill -0 $! || exit 9; done
         kill -9 $!
         wait $! || true
         {BUILD} -o type=tar,dest=/shared/out.tar /shared/next"
    ));
    let root = Exported::read(&pod.shared.join("out.tar"));
    assert_eq!(root.text("made"), "fine\n");
    assert_eq!(processes_of(&format!("sleep\x00{word}")), 0);
}

/// The real one, with a package manager, a language's packages, and users.
#[test]
fn privileged_the_python_application_is_built_in_place() {
    let Some(base) = debian_base() else { return };
    let Some(pod) = Pod::new() else { return };
    fs::copy(base, pod.shared.join("base.tar")).unwrap();
    let source = format!("{REPOSITORY}/testdata/apps/python-web");
    let target = pod.shared.join("app");
    let copied = Command::new("cp")
        .args(["-r", &source, target.to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
    pod.ok(&format!(
        "/shared/longshore import /shared/base.tar debian:bookworm-slim \
             -c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt'
         {BUILD} -t notes /shared/app
         /shared/longshore save -o /shared/notes.tar notes"
    ));
    let archive = pod.shared.join("notes.tar");
    pod.sandbox.ok(["load", "-i", archive.to_str().unwrap()]);
    let script = "id -un; python3 -c 'import flask, waitress; print(\"imported\")'; ls -l /srv/notes/notes/app.py | cut -c1-10";
    let ran = pod.sandbox.output_of("notes", &["sh", "-c", script]);
    assert_eq!(ran, "notes\nimported\n-rw-r--r--\n");
}
