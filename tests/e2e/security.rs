//! What hostile Dockerfiles, contexts, base images and archives try, through the whole program.
//! docs/security.md lists the classes; the crates' own tests hold most of them closer to the code.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{LONGSHORE, Outcome, Sandbox, is_root};

/// A directory of the machine that nobody may read from or write to.
pub(crate) struct Canary {
    folder: PathBuf,
    before: BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)>,
}

impl Canary {
    pub(crate) const TEXT: &str = "only this machine knows";

    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let folder = sandbox.path("canary");
        fs::create_dir_all(folder.join("sub/empty")).unwrap();
        fs::write(folder.join("marker"), Self::TEXT).unwrap();
        fs::write(folder.join("stub"), "").unwrap();
        fs::write(folder.join("sub/marker"), Self::TEXT).unwrap();
        let before = Self::list(&folder);
        Self { folder, before }
    }

    fn list(folder: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
        let walk = walkdir::WalkDir::new(folder).into_iter();
        walk.map(|entry| {
            let path = entry.unwrap().into_path();
            let meta = path.symlink_metadata().unwrap();
            let text = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let facts = (
                meta.mode(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec(),
                text,
            );
            (path, facts)
        })
        .collect()
    }

    pub(crate) fn path(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// It is as it was, and nobody told of it.
    #[track_caller]
    pub(crate) fn is_untouched(&self, outcome: &Outcome) {
        assert_eq!(Self::list(&self.folder), self.before);
        for said in [&outcome.stdout, &outcome.stderr] {
            assert!(!said.contains(Self::TEXT), "{said}");
        }
    }
}

/// Runs a command that may fail but must end: a test that does not end is ended by whoever runs the
/// tests (`.config/nextest.toml`), and has failed.
#[track_caller]
pub(crate) fn in_time(mut command: Command) -> Outcome {
    command.stdin(Stdio::null());
    Outcome::of(command)
}

pub(crate) fn build(sandbox: &Sandbox, context: &Path, flags: &[&str]) -> Outcome {
    let args = ["build", "-t", "hostile"].into_iter();
    in_time(
        sandbox.command(
            args.chain(flags.iter().copied())
                .chain([context.to_str().unwrap()]),
        ),
    )
}

/// Every file below a directory in which some bytes stand.
fn files_with(folder: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.unwrap();
        if !entry.file_type().is_file() {
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap();
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(&bytes[..]);
        // What is not compressed is looked at as it is.
        if decoder.read_to_end(&mut unpacked).is_err() {
            unpacked.clear();
        }
        let has = |bytes: &[u8]| {
            bytes
                .windows(needle.len())
                .any(|part| part == needle.as_bytes())
        };
        if has(&bytes) || has(&unpacked) {
            found.push(entry.into_path());
        }
    }
    found
}

#[test]
fn privileged_cve_2024_23652_mount_points_that_become_links_delete_nothing() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    fs::write(sandbox.path("key"), "key").unwrap();
    for (mount, target) in [
        ("type=tmpfs", "/made/sub/empty"),
        ("type=cache", "/made/sub/empty"),
        ("type=bind,source=Dockerfile", "/made/stub"),
        ("type=secret,id=key", "/made/stub"),
    ] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount={mount},target={target} mv /made /old && ln -s {} /made\n",
            canary.path()
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let secret = format!("id=key,src={}", sandbox.path("key").display());
        let outcome = build(&sandbox, &context, &["--secret", &secret]);
        canary.is_untouched(&outcome);
    }
}

#[test]
fn privileged_cve_2024_45310_mount_targets_behind_links_stay_inside() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let up = format!("{}{}", "../".repeat(20), &canary.path()[1..]);
    for link in [canary.path(), &up] {
        let dockerfile = format!(
            "FROM busybox\nRUN ln -s {link} /link && ln -s {link}/new /dangling\n\
             RUN --mount=type=tmpfs,target=/link/sub --mount=type=cache,target=/dangling/x \\\n\
             \x20   --mount=type=bind,source=Dockerfile,target=/link/marker \\\n\
             \x20   touch /link/sub/f /dangling/x/f && cat /link/marker\nWORKDIR /link/workdir\nRUN touch here\n\
             COPY Dockerfile /link/copied\n"
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let outcome = build(&sandbox, &context, &[]);
        canary.is_untouched(&outcome);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
}

#[test]
fn privileged_cve_2024_23651_a_cache_that_another_step_rearranges_shows_nothing_else() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let looks: String = (0..6)
        .map(|n| {
            format!("RUN --mount=type=cache,id=shared,target=/m,source=sub sleep 0.02; echo {n}; cat /m/marker; touch /m/written; true\n")
        })
        .collect();
    let dockerfile = format!(
        "FROM busybox AS flips\n\
         RUN --mount=type=cache,id=shared,target=/c end=$(($(date +%s) + 3)); \\\n\
         \x20   while [ $(date +%s) -lt $end ]; do \\\n\
         \x20     rm -rf /c/sub; mkdir -p /c/sub; rm -rf /c/sub; ln -s {} /c/sub; rm -f /c/sub; ln -s /proc/1/root{} /c/sub; done; touch /flipped\n\
         FROM busybox AS looks\n{looks}RUN touch /looked\n\
         FROM busybox\nCOPY --from=flips /flipped /\nCOPY --from=looks /looked /\n",
        canary.path(),
        canary.path()
    );
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
    for _ in 0..4 {
        // A step whose mount has just vanished may fail: what it saw before counts.
        let outcome = build(&sandbox, &context, &["--no-cache"]);
        canary.is_untouched(&outcome);
    }
}

#[test]
fn privileged_cve_2024_1753_sources_that_are_links_lead_nowhere_else() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let dockerfile = format!(
        "FROM busybox AS base\nRUN ln -s / /root-link && ln -s {0} /host-link && ln -s {0}/marker /file-link\n",
        canary.path()
    );
    for step in [
        "FROM base\nRUN --mount=type=bind,source=/host,target=/m cat /m/marker /m/sub/marker",
        "FROM base\nRUN --mount=type=bind,source=/host-file,target=/m cat /m",
        "FROM base\nRUN --mount=type=bind,source=/up,target=/m cat /m/marker",
        "FROM base\nRUN --mount=type=bind,from=base,source=/host-link,target=/m cat /m/marker",
        "FROM base\nRUN --mount=type=bind,from=base,source=/root-link,target=/m cat /m/CANARY/marker",
        "FROM base\nRUN --mount=type=bind,from=base,source=/file-link,target=/m,rw cat /m; echo written > /m",
        "FROM base\nCOPY host/ /out/\nRUN cat /out/marker",
        "FROM base\nCOPY host/marker /out/\nRUN cat /out/marker",
        "FROM base\nCOPY host-file /out/\nRUN cat /out/host-file",
        "FROM base\nADD up/marker /out/\nRUN cat /out/marker",
        "FROM base\nCOPY --from=base /host-link/marker /out/\nRUN cat /out/marker",
        "FROM base\nCOPY --from=base /file-link /out/\nRUN cat /out/file-link",
        "FROM base\nCOPY ../canary/marker /out/\nRUN cat /out/marker",
        "FROM base\nCOPY CANARY/marker /out/\nRUN cat /out/marker",
    ] {
        let step = step.replace("CANARY", &canary.path()[1..]);
        let context = sandbox.fresh_context(&[("Dockerfile", &format!("{dockerfile}{step}\n"))]);
        symlink(&canary.folder, context.join("host")).unwrap();
        symlink(canary.folder.join("marker"), context.join("host-file")).unwrap();
        symlink("../canary", context.join("up")).unwrap();
        let outcome = build(&sandbox, &context, &[]);
        canary.is_untouched(&outcome);
    }
}

#[test]
fn privileged_cve_2025_4953_writes_to_bind_mounts_never_reach_their_source() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox AS one\nRUN echo original > /file\nFROM busybox\n\
         RUN --mount=type=bind,target=/ctx,rw echo changed > /ctx/file; echo x > /ctx/new; rm /ctx/gone; cat /ctx/file\n\
         RUN --mount=type=bind,from=one,target=/one,rw echo changed > /one/file; cat /one/file\n\
         RUN --mount=type=bind,target=/ctx cat /ctx/file /ctx/gone > /seen; ! echo x > /ctx/file\n\
         COPY --from=one /file /one-file\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("file", "original\n"),
        ("gone", "still here\n"),
    ];
    let context = sandbox.fresh_context(&files);
    let before = crate::harness::tree(&context);
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(root.text("seen"), "original\nstill here\n");
    assert_eq!(root.text("one-file"), "original\n");
    assert_eq!(crate::harness::tree(&context), before);
    assert_eq!(
        fs::read_to_string(context.join("file")).unwrap(),
        "original\n"
    );
}

#[test]
fn privileged_cve_2019_13509_secrets_leave_no_trace() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let [in_file, in_variable, in_proxy] = [
        "hunter2-in-a-file",
        "hunter2-in-a-variable",
        "hunter2-proxy",
    ];
    fs::write(sandbox.path("key"), in_file).unwrap();
    let dockerfile = "FROM busybox\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN,target=/deep/down/token \\\n\
         \x20   wc -c < /run/secrets/file && echo ${#TOKEN} && wc -c < /deep/down/token && test -n \"$HTTP_PROXY\"\n\
         RUN env | grep -vi proxy; ls -la /run /deep 2>&1; true\n";
    let failing = dockerfile.replace(
        "test -n",
        "echo before; sleep 0.1; grep -q nothing /run/secrets/file && test -n",
    );
    for (dockerfile, code) in [(dockerfile, 0), (&failing, 1)] {
        let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
        let mut command = sandbox.command([
            "--debug",
            "build",
            "-t",
            "secretive",
            "--explain-cache",
            "--metadata-file",
        ]);
        let metadata = sandbox.path("metadata.json");
        command
            .arg(&metadata)
            .arg("--secret")
            .arg(format!("id=file,src={}", sandbox.path("key").display()))
            .args(["--secret", "id=variable,env=TOKEN_OF_MINE", "--build-arg"])
            .arg(format!("HTTP_PROXY=http://user:{in_proxy}@127.0.0.1:9"))
            .arg(&context)
            .env("TOKEN_OF_MINE", in_variable);
        let outcome = in_time(command);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        fs::remove_file(sandbox.path("key")).unwrap();
        for secret in [in_file, in_variable, in_proxy] {
            assert_eq!(
                files_with(sandbox.root(), secret),
                Vec::<PathBuf>::new(),
                "{secret}"
            );
            for said in [&outcome.stdout, &outcome.stderr] {
                assert!(!said.contains(secret), "{secret} in {said}");
            }
            if let Ok(text) = fs::read_to_string(&metadata) {
                assert!(!text.contains(secret));
            }
        }
        fs::write(sandbox.path("key"), in_file).unwrap();
    }
    for command in [
        &["history", "--no-trunc", "secretive"][..],
        &["inspect", "secretive"],
    ] {
        let said = sandbox.ok(command).stdout;
        assert!(!said.contains("hunter2"), "{said}");
    }
    let left = sandbox.output_of("secretive", &["sh", "-c", "ls /run; ls -d /deep || true"]);
    assert_eq!(left.trim(), "", "mount points are not in the image");
}

#[test]
fn privileged_cve_2021_3602_the_builder_s_environment_stays_its_own() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nENV MINE=1\nRUN env | sort > /env; tr '\\0' '\\n' < /proc/1/environ | sort > /first; cat /proc/*/environ > /all\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let archive = sandbox.path("out.tar");
    let mut command = sandbox.command(["build", "-o"]);
    command
        .arg(format!("type=tar,dest={}", archive.display()))
        .arg(&context)
        .env("CLOUD_TOKEN", "hunter2")
        .env("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:9");
    Outcome::of(command).success();
    let root = crate::harness::Exported::read(&archive);
    let names = |text: &str| {
        let names = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name);
        names
            .filter(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(root.text("env")), ["HOME", "MINE", "PATH"]);
    assert_eq!(names(root.text("first")), ["HOME", "MINE", "PATH"]);
    assert!(!root.text("all").contains("hunter2"));
    let mut command = sandbox.command(["run", "busybox", "sh", "-c", "env; cat /proc/*/environ"]);
    command.env("CLOUD_TOKEN", "hunter2");
    assert!(!Outcome::of(command).success().stdout.contains("hunter2"));
}

#[test]
fn privileged_cve_2024_9675_ids_are_names_and_not_paths() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    fs::write(sandbox.path("key"), "value").unwrap();
    let outside = |sandbox: &Sandbox| {
        let list = fs::read_dir(sandbox.path("")).unwrap();
        let mut names: Vec<_> = list.map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| !name.to_string_lossy().starts_with("context-"));
        names.sort();
        names
    };
    let before = outside(&sandbox);
    let long = "x".repeat(5000);
    for id in [
        "../../canary",
        "../../../canary/sub",
        canary.path(),
        "..",
        ".",
        "/",
        "a/b/c",
        "nul%00x",
        &long,
    ] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/m touch /m/made && ls /m\n\
             RUN --mount=type=secret,id={id},target=/s true\n\
             RUN --mount=type=cache,target=/{id} true\n"
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let key = format!("id={id},src={}", sandbox.path("key").display());
        let outcome = build(&sandbox, &context, &["--secret", &key]);
        canary.is_untouched(&outcome);
        assert_eq!(outside(&sandbox), before, "{id}");
    }
}

/// An archive of entries that must not be possible: kind, name, link target, text.
fn archive_of(entries: &[(tar::EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, link, text) in entries {
        let mut header = tar::Header::new_gnu();
        // Not through the library, which would refuse such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6777);
        header.set_size(text.len() as u64);
        if *kind == tar::EntryType::Block {
            header.set_device_major(254).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        archive.append(&header, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn privileged_cve_2014_9357_hostile_archives_touch_nothing_outside() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    let absolute = canary.path().to_owned();
    let up = format!("{}{}", "../".repeat(12), &absolute[1..]);
    let mut archives = Vec::new();
    for place in [&absolute, &up] {
        let marker = format!("{place}/marker");
        let fresh = format!("{place}/fresh");
        for kind in [Regular, Directory] {
            archives.push(archive_of(&[(kind, &marker, "", "")]));
            archives.push(archive_of(&[(kind, &fresh, "", "")]));
            archives.push(archive_of(&[
                (Symlink, "link", place, ""),
                (kind, "link/marker", "", ""),
                (kind, "link/fresh", "", ""),
            ]));
            archives.push(archive_of(&[
                (Symlink, "marker", &marker, ""),
                (kind, "marker", "", ""),
            ]));
        }
        archives.push(archive_of(&[(Symlink, &fresh, "x", "")]));
        archives.push(archive_of(&[
            (Link, "hard", &marker, ""),
            (Regular, "hard", "", "overwritten"),
        ]));
        archives.push(archive_of(&[
            (Symlink, "link", place, ""),
            (Link, "hard", "link/marker", ""),
        ]));
        archives.push(archive_of(&[
            (Symlink, "link", place, ""),
            (Regular, "link/.wh.marker", "", ""),
            (Regular, "link/.wh..wh..opq", "", ""),
        ]));
    }
    for (n, bytes) in archives.iter().enumerate() {
        let tar = sandbox.path("hostile.tar");
        fs::write(&tar, bytes).unwrap();
        let name = format!("imported:{n}");
        let imported = in_time(sandbox.command(["import", tar.to_str().unwrap(), &name]));
        canary.is_untouched(&imported);
        let dockerfile = format!(
            "FROM busybox AS one\nADD hostile.tar /\nRUN cat /hard /link/marker 2>&1; true\n{}",
            if imported.code == 0 {
                format!(
                    "FROM {name} AS two\nCOPY --from=busybox /bin /bin\nRUN [\"/bin/sh\", \"-c\", \"cat /hard /link/marker 2>&1; echo x > /link/new; true\"]\nFROM one\nCOPY --from=two / /two/\n"
                )
            } else {
                String::new()
            }
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        fs::copy(&tar, context.join("hostile.tar")).unwrap();
        let outcome = build(&sandbox, &context, &[]);
        canary.is_untouched(&outcome);
        // The context itself as an archive, and an image archive of it.
        let loaded = in_time(sandbox.command(["load", "-i", tar.to_str().unwrap()]));
        assert_ne!(loaded.code, 0);
        canary.is_untouched(&loaded);
        let mut command = sandbox.command(["build", "-"]);
        command.stdin(Stdio::from(fs::File::open(&tar).unwrap()));
        let outcome = Outcome::of(command);
        assert_ne!(outcome.code, 0, "there is no Dockerfile in it");
        canary.is_untouched(&outcome);
    }
}

#[test]
fn privileged_devices_that_an_archive_brings_cannot_be_opened() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    if !is_root() {
        return;
    }
    let dockerfile = "FROM busybox\nADD devices.tar /\n\
         RUN test -b /disk && ! dd if=/disk of=/dev/null bs=512 count=1 2>/why && cat /why\n\
         RUN mknod /mine b 254 0 && ! dd if=/mine of=/dev/null bs=512 count=1\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let tar = archive_of(&[(tar::EntryType::Block, "disk", "", "")]);
    fs::write(context.join("devices.tar"), tar).unwrap();
    let outcome = build(&sandbox, &context, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("not permitted") || outcome.stderr.contains("denied"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn privileged_cve_2024_40635_ids_that_overflow_are_never_root() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for user in [
        "4294967295",
        "4294967296",
        "2147483648",
        "-1",
        "0x0",
        "00000000004294967296",
        "1000:4294967295",
        "1000:-1",
        "www:4294967296",
        "18446744073709551616",
    ] {
        let dockerfile = format!("FROM busybox\nUSER \"{user}\"\nRUN echo id=$(id -u):$(id -g)\n");
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let outcome = build(&sandbox, &context, &["--no-cache"]);
        assert!(
            outcome.code != 0 || !outcome.stderr.contains("id=0"),
            "{user}: {}",
            outcome.stderr
        );
        let ran = in_time(sandbox.command(["run", "-u", user, "busybox", "id", "-u"]));
        assert!(
            ran.code != 0 || ran.stdout.trim() != "0",
            "{user}: {}",
            ran.stdout
        );
        let dockerfile = format!(
            "FROM busybox\nCOPY --chown={} Dockerfile /f\nRUN stat -c %u:%g /f\n",
            user.trim()
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        let outcome = build(&sandbox, &context, &["--no-cache"]);
        assert!(
            outcome.code != 0
                || !outcome.stderr.contains(" 0:0\n")
                || outcome.stderr.contains("root is taken"),
            "--chown {user}: {}",
            outcome.stderr
        );
    }
    // Users whose names are numbers are never meant by a number.
    let dockerfile = "FROM busybox\nRUN echo '1000:x:0:0::/:/bin/sh' >> /etc/passwd && echo '4294967295:x:0:0::/:/bin/sh' >> /etc/passwd\nUSER 1000\nRUN id -u > /tmp/id\n";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("tmp/id"), "1000\n");
}

#[test]
fn privileged_a_secret_that_no_variable_can_hold_is_not_shown() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    fs::write(sandbox.path("key"), "hunter2\0tail").unwrap();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=key,env=TOKEN true\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let secret = format!("id=key,src={}", sandbox.path("key").display());
    let refused = sandbox
        .run(["build", "--secret", &secret, context.to_str().unwrap()])
        .failure(1, &["TOKEN"]);
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    fs::remove_file(sandbox.path("key")).unwrap();
    assert_eq!(files_with(sandbox.root(), "hunter2"), Vec::<PathBuf>::new());
}

#[test]
fn privileged_cve_2024_23653_privileges_are_asked_for_and_granted() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (step, part) in [
        ("RUN --security=insecure id", "security.insecure"),
        ("RUN --network=host id", "network.host"),
    ] {
        let text = format!("FROM busybox\n{step}\n");
        sandbox.fail_to_build(&[("Dockerfile", &text)], 1, &[part]);
        // Not by way of a trigger of the base image either.
        sandbox.build(
            "trigger",
            &[("Dockerfile", &format!("FROM busybox\nONBUILD {step}\n"))],
        );
        sandbox.fail_to_build(&[("Dockerfile", "FROM trigger\n")], 1, &[part]);
        let text = format!("FROM busybox\nRUN echo {part}\n{step}\n");
        let context = sandbox.fresh_context(&[("Dockerfile", &text)]);
        let path = context.to_str().unwrap();
        // Asked before any step begins.
        let refused = sandbox.run(["build", path]);
        refused.failure(1, &[part, "Dockerfile:3"]);
        let began = sandbox.ok(["build", "--allow", part, path]).ran();
        assert!(began.iter().any(|step| step.starts_with("RUN echo")));
        // What one build was allowed does not count for the next, cached or not.
        sandbox.run(["build", path]).failure(1, &[part]);
        sandbox
            .run(["build", "--no-cache", path])
            .failure(1, &[part]);
    }
    for step in [
        "RUN --security=Insecure id",
        "RUN --security=none id",
        "RUN --network=bridge id",
        "RUN --device=all id",
    ] {
        let text = format!("FROM busybox\n{step}\n");
        sandbox.fail_to_build(&[("Dockerfile", &text)], 1, &["Dockerfile:2"]);
    }
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nRUN id\n")]);
    let outcome = sandbox.run(["build", "--allow", "everything", context.to_str().unwrap()]);
    assert_ne!(outcome.code, 0);
}

#[test]
fn privileged_cve_2024_21626_a_working_directory_is_inside() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let canary = Canary::new(&sandbox);
    for n in 3..12 {
        let dockerfile = format!(
            "FROM busybox\nWORKDIR /proc/self/fd/{n}\nRUN pwd; cat ../../../../../../../..{}/marker; true\n",
            canary.path()
        );
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
        canary.is_untouched(&build(&sandbox, &context, &[]));
        let directory = format!("/proc/self/fd/{n}");
        let script = format!("cat ../../../../../../../..{}/marker", canary.path());
        let outcome =
            in_time(sandbox.command(["run", "-w", &directory, "busybox", "sh", "-c", &script]));
        assert_ne!(outcome.code, 0);
        canary.is_untouched(&outcome);
    }
}

#[test]
fn privileged_cve_2024_9676_special_files_are_errors_and_not_hangs() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        let made = Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
        let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nCOPY . /all\n")]);
        fifo(&context.join(name));
        build(&sandbox, &context, &[]);
        fs::remove_file(context.join(name)).unwrap();
        symlink("/dev/zero", context.join(name)).unwrap();
        build(&sandbox, &context, &[]);
    }
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=s true\n",
    )]);
    fifo(&sandbox.path("fifo"));
    for source in [sandbox.path("fifo"), PathBuf::from("/dev/zero")] {
        let secret = format!("id=s,src={}", source.display());
        let outcome = build(&sandbox, &context, &["--secret", &secret]);
        assert_ne!(outcome.code, 0);
    }
    // Account files of the image.
    for make in [
        "mkfifo /etc/passwd /etc/group",
        "ln -s /dev/zero /etc/passwd; ln -s /dev/zero /etc/group",
        "mkdir /etc/passwd /etc/group",
    ] {
        for use_it in [
            "USER www\nRUN true",
            "COPY --chown=www:www Dockerfile /f",
            "USER www\nWORKDIR /w",
        ] {
            let dockerfile =
                format!("FROM busybox\nRUN rm /etc/passwd /etc/group; {make}\n{use_it}\n");
            let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile)]);
            let outcome = build(&sandbox, &context, &[]);
            // As BuildKit does it, a file of nobody's is root's; here that is said.
            let is_said = outcome.code != 0 || outcome.stderr.contains("root is taken");
            assert!(is_said, "{make}; {use_it}: {}", outcome.stderr);
        }
    }
}

#[test]
fn privileged_limits_of_run_hold() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let run = |flags: &[&str], script: &str| {
        let args = ["run"].into_iter().chain(flags.iter().copied());
        in_time(sandbox.command(args.chain(["busybox", "sh", "-c", script])))
    };
    let outcome = run(
        &["--read-only"],
        "echo x > /f; echo x > /dev/null && echo x > /etc/hosts",
    );
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("Read-only"), "{}", outcome.stderr);
    let tmpfs = run(
        &["--read-only", "--tmpfs", "/tmp:size=64k"],
        "echo x > /tmp/f && ! dd if=/dev/zero of=/tmp/g bs=1k count=100 2>/dev/null",
    );
    assert_eq!(tmpfs.code, 0, "{}", tmpfs.stderr);
    // Whose parent is gone is the reaper's, and is reaped: its number is gone at some time.
    let init = run(
        &["--init"],
        "echo $$; orphan=$(sh -c 'true & echo $!'); while kill -0 $orphan 2>/dev/null; do :; done; \
         ps -o stat | grep -c Z",
    );
    assert_ne!(init.stdout.lines().next(), Some("1"), "another is first");
    assert_eq!(init.stdout.lines().nth(1), Some("0"), "nothing is left");
    let pids = run(
        &["--pids-limit", "8"],
        "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; wait",
    );
    if crate::limits::are_controlled("pids") {
        assert!(pids.stderr.contains("fork"), "{}", pids.stderr);
    } else {
        assert!(
            pids.stderr.contains("warning: process limit"),
            "{}",
            pids.stderr
        );
    }
    if crate::limits::are_controlled("memory") {
        let memory = run(&["--memory", "24m"], "tail /dev/zero");
        memory.failure(137, &["out of memory"]);
    }
}

#[test]
fn privileged_what_a_step_prints_cannot_steer_the_terminal() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN printf 'a\\033]0;owned\\007b\\033[2Jc\\233x\\n'\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let outcome = build(&sandbox, &context, &[]);
    assert_eq!(outcome.code, 0);
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains('\u{7}'));
}

#[test]
fn the_program_asks_nothing_of_its_neighbours_paths() {
    // Another user who can write to the current directory gets nothing run by name.
    let sandbox = Sandbox::new();
    let folder = sandbox.path("cwd");
    fs::create_dir_all(&folder).unwrap();
    for name in [
        "git",
        "newuidmap",
        "ssh",
        "docker-credential-x",
        "longshore",
    ] {
        fs::write(folder.join(name), "#!/bin/sh\ntouch \"$0.ran\"\n").unwrap();
        let made = Command::new("chmod")
            .arg("755")
            .arg(folder.join(name))
            .status();
        assert!(made.unwrap().success());
    }
    let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let mut command = sandbox.command(["build", context.to_str().unwrap()]);
    command.current_dir(&folder);
    Outcome::of(command).success();
    let ran: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().ends_with(".ran"))
        .collect();
    assert!(ran.is_empty(), "{ran:?} {LONGSHORE}");
}
