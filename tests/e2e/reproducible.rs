//! The same input gives the same bytes: in another directory, on another root, with
//! another number of jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::harness::Sandbox;

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
    crate::harness::peer(
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
        crate::harness::Outcome::of(command).success();
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
    crate::harness::peer("sh", ["-c", &script, "sh", dockerfile]);
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
