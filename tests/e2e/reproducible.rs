//! The same input gives the same bytes: in another directory, on another root, with
//! another number of jobs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::harness::{Outcome, Sandbox, peer, tool};
use crate::sources::repository::{FIRST_COMMIT_S, Repository};

const DOCKERFILE: &str = "\
FROM scratch
COPY tree /tree
COPY --chown=5:6 --chmod=640 tree/b /single
ADD tree/sub /sub/
WORKDIR /work
";

/// A tree whose times are all the same, written in the given order of names.
fn context(sandbox: &Sandbox, name: &str, reversed: bool) -> PathBuf {
    let mut files = vec![
        ("tree/a", "a\n"),
        ("tree/b", "bb\n"),
        ("tree/sub/c", "ccc\n"),
        ("tree/sub/d", ""),
        ("Dockerfile", DOCKERFILE),
    ];
    if reversed {
        files.reverse();
    }
    let folder = sandbox.context(name, &files);
    std::os::unix::fs::symlink("../b", folder.join("tree/sub/link")).unwrap();
    fs::hard_link(folder.join("tree/a"), folder.join("tree/again")).unwrap();
    set_times(&folder);
    folder
}

/// Gives everything below, and the folder, the same time.
fn set_times(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder).contents_first(true) {
        let entry = entry.unwrap();
        if !entry.path_is_symlink() {
            let file = fs::File::open(entry.path()).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000))
                .unwrap();
        }
    }
    // A link's own time cannot be set through a file handle.
    peer(
        "find",
        [
            folder.to_str().unwrap(),
            "-type",
            "l",
            "-exec",
            "touch",
            "-h",
            "-d",
            "@1600000000",
            "{}",
            "+",
        ],
    );
}

/// Builds on a state root of its own; what identifies the image, but for the time of the build.
fn layers(sandbox: &Sandbox, context: &Path, jobs: &str) -> (String, String) {
    sandbox.ok(["build", "-j", jobs, "-t", "app", context.to_str().unwrap()]);
    (
        sandbox.format("app", "{{json .RootFS.Layers}}"),
        sandbox.format("app", "{{json .Manifest.layers}}"),
    )
}

#[test]
fn copies_give_the_same_layers_in_any_directory_on_any_root_with_any_number_of_jobs() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let first = layers(&one, &context(&one, "here", false), "1");
    let second = layers(&two, &context(&two, "elsewhere/deep", true), "4");
    assert_eq!(first, second);
}

#[test]
fn with_an_epoch_the_whole_image_is_the_same() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let build = |sandbox: &Sandbox, name: &str| {
        let context = context(sandbox, name, false);
        let mut command = sandbox.command(["build", "-t", "app", context.to_str().unwrap()]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        Outcome::of(command).success();
        assert_eq!(
            sandbox.format("app", "{{.Created}}"),
            "2023-11-14T22:13:20Z"
        );
        sandbox.format("app", "{{.Digest}}")
    };
    assert_eq!(build(&one, "here"), build(&two, "there"));
}

#[test]
fn compressed_layers_are_the_same_with_any_number_of_jobs_and_unpack_to_their_diff_ids() {
    let sandbox = Sandbox::new();
    let text: String = (0..400_000u32)
        .map(|number| format!("{number} {}\n", number.wrapping_mul(2_654_435_761)))
        .collect();
    let context = sandbox.context(
        "large",
        &[
            ("Dockerfile", "FROM scratch\nCOPY data /\n"),
            ("data", &text),
        ],
    );
    for compression in ["gzip", "zstd", "uncompressed"] {
        let blob = |jobs: &str| {
            let layout = sandbox.path(&format!("{compression}-{jobs}"));
            let output = format!(
                "type=oci,tar=false,compression={compression},dest={}",
                layout.display()
            );
            sandbox.ok([
                "build",
                "--no-cache",
                "-j",
                jobs,
                "-o",
                &output,
                context.to_str().unwrap(),
            ]);
            crate::outputs::Layout::open(&layout).layers()
        };
        assert_eq!(blob("1"), blob("4"), "{compression}");
    }
}

/// A checkout of the same files by someone with another umask.
fn checkout(sandbox: &Sandbox, name: &str, umask: &str, dockerfile: &str) -> PathBuf {
    let folder = sandbox.path(name);
    let script = format!(
        "umask {umask}; mkdir -p {0}/bin/deep && cd {0} && echo a > a && echo s > bin/s && \
         echo d > bin/deep/d && chmod +x bin/s && printf '%s' \"$1\" > Dockerfile",
        folder.display()
    );
    peer("sh", ["-c", &script, "sh", dockerfile]);
    folder
}

#[test]
fn with_gits_modes_a_checkout_with_another_umask_hits_and_gives_the_same_layers() {
    let dockerfile =
        "FROM scratch AS one\nCOPY . /all\nFROM scratch\nCOPY bin /bin\nCOPY --from=one /all/a /\n";
    let sandbox = Sandbox::new();
    let private = checkout(&sandbox, "private", "077", dockerfile);
    let open = checkout(&sandbox, "open", "002", dockerfile);
    let build = |context: &Path, modes: &str| {
        let flag = format!("--context-modes={modes}");
        sandbox.ok(["build", "-t", modes, &flag, context.to_str().unwrap()])
    };
    assert!(!build(&private, "git").ran().is_empty());
    assert_eq!(build(&open, "git").ran(), Vec::<String>::new());
    // Without them, modes count.
    build(&private, "host");
    assert!(!build(&open, "host").ran().is_empty());

    let root = sandbox.exported_from(&private, &["--context-modes", "git"]);
    for (path, line) in [
        ("bin", "dir 755 0:0"),
        ("bin/deep", "dir 755 0:0"),
        ("bin/deep/d", "file 644 0:0 d"),
        ("bin/s", "file 755 0:0 s"),
        ("a", "file 644 0:0 a"),
    ] {
        assert_eq!(root.line(path), line, "{path}");
    }
    let as_it_is = sandbox.exported_from(&private, &[]);
    assert_eq!(as_it_is.line("bin/deep/d"), "file 600 0:0 d");
}

#[test]
fn gits_modes_are_those_of_named_contexts_and_mounts_too() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nCOPY --from=more . /more\nRUN --mount=target=/ctx stat -c %a /ctx/a /ctx/bin /ctx/bin/s > /modes\n";
    let context = checkout(&sandbox, "private", "077", dockerfile);
    let more = format!("more={}", context.display());
    let root = sandbox.exported_from(&context, &["--context-modes=git", "--build-context", &more]);
    assert_eq!(root.text("modes"), "644\n755\n755\n");
    assert_eq!(root.line("more/a"), "file 644 0:0 a");
}

/// A step that makes files now, one that copies them on, and files of the context.
const APP: &str = "\
FROM busybox AS build
COPY src /src
RUN mkdir /out && cat /src/a > /out/a && touch -d @1000000000 /out/old
FROM busybox
COPY --from=build /out /out
WORKDIR /srv/deep
COPY src .
RUN echo made > made && rm /etc/group
";

/// A time after every run of these tests.
const LATER_S: i64 = 4_000_000_000;

/// Machines that have one base image; `None`, with a message, where they cannot be had.
fn machines<const N: usize>() -> Option<[Sandbox; N]> {
    tool("git")?;
    let first = Sandbox::with_busybox()?;
    let base = first.path("base.tar");
    first.ok(["save", "-o", base.to_str().unwrap(), "busybox"]);
    Some(std::array::from_fn(|_| {
        let machine = Sandbox::new();
        machine.ok(["load", "-i", base.to_str().unwrap()]);
        machine
    }))
}

fn repository(sandbox: &Sandbox) -> Repository {
    let files = [("Dockerfile", APP), ("src/a", "a\n"), ("src/sub/b", "b\n")];
    Repository::with(sandbox.path("origin"), &files)
}

/// Clones into a directory of another machine, with its umask.
fn clone(from: &Repository, to: &Sandbox, name: &str, umask: &str) -> PathBuf {
    let folder = to.path(name);
    let script = format!(
        "umask {umask}; git clone -q {} {}",
        from.path.display(),
        folder.display()
    );
    peer("sh", ["-c", &script]);
    folder
}

/// Builds `context` as `app`; the steps that ran, and the image's digest.
#[track_caller]
fn digest(sandbox: &Sandbox, context: &Path, flags: &[&str]) -> (Vec<String>, String) {
    let args = [
        "build",
        "--reproducible",
        "-t",
        "app",
        context.to_str().unwrap(),
    ];
    let built = sandbox.ok(args.into_iter().chain(flags.iter().copied()));
    (built.ran(), sandbox.format("app", "{{.Digest}}"))
}

/// Builds and exports as a tar; the modification time at each path.
#[track_caller]
fn times(sandbox: &Sandbox, context: &Path, flags: &[&str]) -> BTreeMap<String, i64> {
    let archive = sandbox.path("times.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let args = ["build", "-o", &output, context.to_str().unwrap()];
    sandbox.ok(args.into_iter().chain(flags.iter().copied()));
    times_in(&archive)
}

fn times_in(archive: &Path) -> BTreeMap<String, i64> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let time = i64::try_from(entry.header().mtime().unwrap()).unwrap();
        (path.trim_matches('/').to_owned(), time)
    });
    entries.collect()
}

#[test]
fn a_commit_gives_one_image_whatever_the_directory_umask_time_zone_and_jobs() {
    let Some([one, two]) = machines() else {
        return;
    };
    let origin = repository(&one);
    let build = |sandbox: &Sandbox, context: &Path, zone: &str, jobs: &str| {
        let context = context.to_str().unwrap();
        let args = [
            "build",
            "--reproducible",
            "--context-modes=git",
            "-t",
            "app",
            "-j",
            jobs,
            context,
        ];
        let mut command = sandbox.command(args);
        command.env("TZ", zone);
        Outcome::of(command).success();
        let created = sandbox.format("app", "{{.Created}}");
        assert_eq!(created, "2017-07-14T02:40:00Z");
        sandbox.format("app", "{{.Digest}}")
    };
    let first = build(&one, &clone(&origin, &one, "here", "022"), "UTC", "1");
    // The files of the other checkout are of another second.
    std::thread::sleep(Duration::from_millis(1100));
    let place = clone(&origin, &two, "else/where", "077");
    assert_eq!(first, build(&two, &place, "Asia/Kathmandu", "7"));
}

#[test]
fn the_files_of_a_commits_image_have_its_time_and_keep_what_a_step_set() {
    let Some([one]) = machines() else { return };
    let origin = repository(&one);
    let times = times(&one, &origin.path, &["--reproducible"]);
    for (path, time) in [
        ("srv/deep/a", FIRST_COMMIT_S),
        ("srv/deep/sub/b", FIRST_COMMIT_S),
        ("srv/deep/made", FIRST_COMMIT_S),
        ("out/a", FIRST_COMMIT_S),
        ("out/old", 1_000_000_000),
    ] {
        assert_eq!(times[path], time, "{path}");
    }
}

#[test]
fn another_commit_alone_runs_no_process_again_and_gives_what_a_cold_machine_gives() {
    let Some([warm, cold]) = machines() else {
        return;
    };
    let origin = repository(&warm);
    let processes = |ran: &[String]| ran.iter().filter(|step| step.starts_with("RUN")).count();
    // Not committed yet: by the clock.
    fs::write(origin.path.join("notes"), "").unwrap();
    let (ran, by_the_clock) = digest(&warm, &origin.path, &[]);
    assert_eq!(processes(&ran), 2);
    fs::remove_file(origin.path.join("notes")).unwrap();
    let (ran, first) = digest(&warm, &origin.path, &[]);
    assert_eq!(processes(&ran), 0, "{ran:?}");
    assert_ne!(first, by_the_clock);
    // The processes ran before this commit was made.
    origin.commit_at(LATER_S, &[("notes", "nothing copies this")]);
    let (ran, second) = digest(&warm, &origin.path, &[]);
    assert_eq!(processes(&ran), 0, "{ran:?}");
    assert_ne!(first, second);
    assert_eq!(
        digest(&warm, &origin.path, &[]),
        (Vec::new(), second.clone())
    );

    let place = clone(&origin, &cold, "clone", "022");
    let (ran, cold_digest) = digest(&cold, &place, &[]);
    assert_eq!(processes(&ran), 2);
    assert_eq!(cold_digest, second);
    for machine in [&warm, &cold] {
        let times = times(machine, &origin.path, &["--reproducible"]);
        for path in ["out/a", "srv/deep/a", "srv/deep/made"] {
            assert_eq!(times[path], LATER_S, "{path}");
        }
    }
    // And back again.
    origin.git(["checkout", "-q", "HEAD~"]);
    assert_eq!(
        digest(&warm, &origin.path, &[]),
        (Vec::new(), first.clone())
    );
    peer(
        "git",
        ["-C", place.to_str().unwrap(), "checkout", "-q", "HEAD~"],
    );
    assert_eq!(digest(&cold, &place, &[]).1, first);
}

#[test]
fn a_commit_has_its_time_without_asking_on_every_machine_that_is_new_to_it() {
    let Some([one, two]) = machines() else {
        return;
    };
    let origin = repository(&one);
    let build = |sandbox: &Sandbox, context: &Path, jobs: &str| {
        let context = context.to_str().unwrap();
        sandbox.ok([
            "build",
            "--context-modes=git",
            "-t",
            "app",
            "-j",
            jobs,
            context,
        ]);
        let created = sandbox.format("app", "{{.Created}}");
        assert_eq!(created, "2017-07-14T02:40:00Z");
        sandbox.format("app", "{{.Digest}}")
    };
    let first = build(&one, &clone(&origin, &one, "here", "022"), "1");
    // The files of the other checkout are of another second.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(first, build(&two, &clone(&origin, &two, "c", "077"), "7"));
    for machine in [&one, &two] {
        let times = times(machine, &origin.path, &["--context-modes=git"]);
        for path in ["out/a", "srv/deep/a", "srv/deep/made"] {
            assert_eq!(times[path], FIRST_COMMIT_S, "{path}");
        }
    }
}

#[test]
fn layers_that_commits_have_in_common_are_written_once_unless_all_are_to_be_dated() {
    let Some([one]) = machines() else { return };
    let origin = repository(&one);
    let build = |flags: &[&str]| {
        let args = ["build", "-t", "app", origin.path.to_str().unwrap()];
        let built = one.ok(args.into_iter().chain(flags.iter().copied()));
        (
            built.ran(),
            one.format("app", "{{.Created}}")[..10].to_owned(),
            one.format("app", "{{json .RootFS.Layers}}"),
        )
    };
    let (_, day, layers) = build(&[]);
    assert_eq!(day, "2017-07-14");
    origin.commit_at(FIRST_COMMIT_S + 86_400, &[("notes", "nothing copies this")]);
    let none = Vec::<String>::new();
    assert_eq!(
        build(&[]),
        (none, "2017-07-15".to_owned(), layers.clone()),
        "the image is the new commit's, its layers are the old ones"
    );
    let (_, day, dated) = build(&["--reproducible"]);
    assert_eq!(day, "2017-07-15");
    assert_ne!(dated, layers);
}

#[test]
fn an_epoch_dates_what_an_earlier_build_made_by_the_clock() {
    let Some([one]) = machines() else { return };
    let context = one.context("app", &[("Dockerfile", APP), ("src/a", "a\n")]);
    digest(&one, &context, &[]);
    let build = |epoch: &str| {
        let layout = one.path(&format!("layout-{epoch}"));
        let output = format!(
            "type=oci,tar=false,compression=uncompressed,dest={}",
            layout.display()
        );
        let epoch = format!("SOURCE_DATE_EPOCH={epoch}");
        let context = context.to_str().unwrap();
        let built = one.ok(["build", "-o", &output, "--build-arg", &epoch, context]);
        assert!(
            !built.ran().iter().any(|step| step.starts_with("RUN")),
            "{:?}",
            built.ran()
        );
        let layers = crate::outputs::Layout::open(&layout).layers();
        let blobs = layers
            .iter()
            .map(|(digest, _)| layout.join("blobs").join(digest.replace(':', "/")));
        // The first is the base.
        blobs
            .skip(1)
            .flat_map(|blob| times_in(&blob))
            .collect::<Vec<_>>()
    };
    for epoch in [1_200_000_000, 900_000_000, LATER_S] {
        let times = build(&epoch.to_string());
        assert!(
            times
                .iter()
                .any(|(path, time)| path.ends_with("made") && *time == epoch),
            "{times:?}"
        );
        assert!(
            times.iter().all(|(_, time)| *time <= epoch),
            "{epoch}: {times:?}"
        );
        let old = times.iter().find(|(path, _)| path == "out/old").unwrap().1;
        assert_eq!(old, epoch.min(1_000_000_000));
    }
}

#[test]
fn a_cache_elsewhere_gives_the_commits_image_without_running_anything() {
    let Some([one, two, three]) = machines() else {
        return;
    };
    let origin = repository(&one);
    let cache = one.path("cache");
    let to = format!("type=local,mode=max,dest={}", cache.display());
    let from = format!("type=local,src={}", cache.display());
    let (_, first) = digest(&one, &origin.path, &["--cache-to", &to]);
    let (ran, same) = digest(
        &two,
        &clone(&origin, &two, "c", "022"),
        &["--cache-from", &from],
    );
    assert_eq!((ran, same), (Vec::new(), first));
    // Of another commit, what ran is still good.
    origin.commit_at(LATER_S, &[("notes", "nothing copies this")]);
    let (_, fresh) = digest(&one, &origin.path, &["--no-cache"]);
    let place = clone(&origin, &three, "c", "022");
    let (ran, same) = digest(&three, &place, &["--cache-from", &from]);
    assert!(!ran.iter().any(|step| step.starts_with("RUN")), "{ran:?}");
    assert_eq!(same, fresh);
}

#[test]
fn the_clock_is_for_who_asks_for_it_and_for_what_is_not_committed() {
    let Some([one]) = machines() else { return };
    let origin = repository(&one);
    let year = |flags: &[&str], environment: Option<&str>| {
        let args = ["build", "-t", "app", origin.path.to_str().unwrap()];
        let mut command = one.command(args.into_iter().chain(flags.iter().copied()));
        command.envs(environment.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
        Outcome::of(command).success();
        one.format("app", "{{.Created}}")[..4]
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!(year(&[], None), 2017);
    assert!(year(&["--no-reproducible"], None) > 2020);
    assert!(year(&["--build-arg=SOURCE_DATE_EPOCH="], None) > 2020);
    assert_eq!(year(&[], Some("1000000000")), 2001);
    assert_eq!(year(&["--reproducible"], None), 2017);
    assert_eq!(year(&["--build-arg=SOURCE_DATE_EPOCH=context"], None), 2017);
    assert_eq!(year(&["--reproducible"], Some("1000000000")), 2001);
    assert_eq!(year(&[], Some("context")), 2017);
    assert!(year(&["--no-cache", "--no-reproducible"], Some("1000000000")) > 2020);
    assert!(
        year(
            &[
                "--no-cache",
                "--reproducible",
                "--build-arg=SOURCE_DATE_EPOCH="
            ],
            None
        ) > 2020
    );
    let made = times(&one, &origin.path, &["--no-reproducible"])["srv/deep/made"];
    assert!(made > FIRST_COMMIT_S + 1);
    one.run([
        "build",
        "--no-reproducible",
        "--build-arg=SOURCE_DATE_EPOCH=5",
        origin.path.to_str().unwrap(),
    ])
    .failure(2, &["--no-reproducible", "SOURCE_DATE_EPOCH=5"]);

    fs::write(origin.path.join(".git/info/exclude"), "local\n").unwrap();
    fs::write(origin.path.join("local"), "").unwrap();
    assert_eq!(
        year(&["--no-cache", "--reproducible"], None),
        2017,
        "what is ignored is no change"
    );
    fs::write(origin.path.join("src/a"), "edited\n").unwrap();
    assert!(year(&["--no-cache", "--reproducible"], None) > 2020);
    assert!(year(&["--no-cache"], None) > 2020);
    let edited = one.ok(["build", "--reproducible", origin.path.to_str().unwrap()]);
    assert!(
        edited.stderr.contains("nor a clean git work tree"),
        "{}",
        edited.stderr
    );
}

#[test]
fn a_repositorys_settings_run_nothing() {
    let Some([one]) = machines() else { return };
    let origin = repository(&one);
    origin.commit(&[(".gitattributes", "* filter=evil diff=evil\n")]);
    let witness = one.path("witness");
    let command = format!("touch {}; cat", witness.display());
    for name in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.command",
        "diff.evil.textconv",
        "gpg.program",
    ] {
        origin.git(["config", name, &command]);
    }
    // Git has to look into the file: its stamp is not what the index says.
    let file = fs::File::options()
        .write(true)
        .open(origin.path.join("src/a"))
        .unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000))
        .unwrap();
    let _ = fs::remove_file(&witness);
    digest(&one, &origin.path, &[]);
    assert_eq!(one.format("app", "{{.Created}}"), "2017-07-14T02:40:00Z");
    assert!(!witness.exists());
}
