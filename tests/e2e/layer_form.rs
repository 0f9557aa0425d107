//! Layers as EROFS images and as directories: builds give the same, and neither is left behind.

use std::path::{Path, PathBuf};

use crate::harness::{Outcome, Sandbox, debian_base, is_root, tree};

/// A sandbox whose commands unpack layers to one form.
struct InForm<'a> {
    sandbox: &'a Sandbox,
    form: &'static str,
}

impl InForm<'_> {
    #[track_caller]
    fn ok(&self, args: &[&str]) -> Outcome {
        let mut command = self.sandbox.command(args);
        command.env("LONGSHORE_LAYER_FORM", self.form);
        Outcome::of(command).success()
    }

    /// Builds a context and exports its root file system to a directory.
    #[track_caller]
    fn exported(&self, files: &[(&str, &str)]) -> Vec<String> {
        let context = self.sandbox.fresh_context(files);
        let to = self.sandbox.path("exported");
        let _absent = std::fs::remove_dir_all(&to);
        let output = format!("type=local,dest={}", to.display());
        self.ok(&["build", "-o", &output, context.to_str().unwrap()]);
        tree(&to)
    }
}

/// The images of layers in a state root.
fn images(root: &Path) -> Vec<PathBuf> {
    let snapshots = std::fs::read_dir(root.join("snapshots")).unwrap();
    let images = snapshots.map(|entry| entry.unwrap().path().join("layer.erofs"));
    images.filter(|path| path.exists()).collect()
}

/// Whether layers can be images here, as `doctor` says.
fn works(sandbox: &Sandbox) -> bool {
    let text = sandbox.run(["doctor", "--format", "json"]).stdout;
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    let works = said["checks"]["EROFS files"]["works"].as_bool().unwrap();
    if !works {
        crate::skip::skip(format_args!("layers cannot be EROFS images here: {said}"));
    }
    works
}

const DOCKERFILE: &str = "FROM busybox AS base
RUN mkdir -p /dir/sub /opaque && echo 1 > /dir/kept && echo 1 > /dir/deleted && echo 1 > /opaque/old \\
 && ln /dir/kept /dir/second && ln -s kept /dir/link && mkfifo /dir/pipe && chmod 4755 /dir/kept
FROM base AS changed
RUN rm /dir/deleted && rm -r /opaque && mkdir /opaque && echo 2 > /opaque/new \\
 && mv /dir/sub /dir/moved && chown 7:8 /dir/second && rm /bin/wget
COPY --from=base /dir /copied
COPY --from=busybox /bin /tools
RUN test ! -e /bin/wget && test ! -e /opaque/old && cmp /bin/busybox /tools/busybox && date > /dev/null
COPY many /many
RUN test \"$(ls /many | wc -l)\" = 300 && rm /many/7 && echo changed > /many/8
";

#[test]
fn privileged_a_build_gives_the_same_in_either_form() {
    let Some(first) = Sandbox::with_busybox().filter(|_| is_root()) else {
        return;
    };
    let Some(second) = Sandbox::with_busybox().filter(works) else {
        return;
    };
    let many: Vec<_> = (0..300)
        .map(|number| (format!("many/{number}"), format!("file {number}")))
        .collect();
    let mut files = vec![("Dockerfile", DOCKERFILE)];
    files.extend(many.iter().map(|(name, text)| (&name[..], &text[..])));
    let in_directories = InForm {
        sandbox: &first,
        form: "directory",
    };
    let in_images = InForm {
        sandbox: &second,
        form: "erofs",
    };
    let expected = in_directories.exported(&files);
    assert!(expected.iter().any(|line| line.starts_with("opaque/new ")));
    assert!(!expected.iter().any(|line| line.starts_with("bin/wget ")));
    assert_eq!(in_images.exported(&files), expected);
    assert!(images(first.root()).is_empty());
    assert!(
        images(second.root()).len() >= 2,
        "the base and what was copied"
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(second.root().to_str().unwrap()),
        "{mounts}"
    );

    // What one form has made, commands that want the other use.
    in_directories.ok(&["run", "--rm", "busybox", "true"]);
    let mixed = InForm {
        sandbox: &second,
        form: "directory",
    };
    let more = format!("{DOCKERFILE}RUN cat /many/8 > /last\n");
    files[0].1 = &more;
    let with_one_more = mixed.exported(&files);
    assert_eq!(with_one_more.len(), expected.len() + 1);
}

#[test]
fn privileged_prune_removes_images_of_layers_and_df_counts_them() {
    let Some(sandbox) = Sandbox::with_busybox().filter(|_| is_root()).filter(works) else {
        return;
    };
    let in_images = InForm {
        sandbox: &sandbox,
        form: "erofs",
    };
    let bytes = |sandbox: &Sandbox| -> u64 {
        let text = sandbox.ok(["df", "--format", "json"]).stdout;
        let rows = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut cache = rows.filter(|row| row["Type"] == "Layer directories");
        cache.next().unwrap()["Bytes"].as_u64().unwrap()
    };
    let before = bytes(&sandbox);
    in_images.ok(&["run", "--rm", "busybox", "true"]);
    let [image] = &images(sandbox.root())[..] else {
        panic!("one layer, one image")
    };
    let image_bytes = std::fs::metadata(image).unwrap().len();
    assert!(bytes(&sandbox) >= before + image_bytes / 2);
    in_images.ok(&["rmi", "busybox"]);
    in_images.ok(&["prune", "--all"]);
    assert_eq!(images(sandbox.root()), Vec::<PathBuf>::new());
}

#[test]
fn an_unknown_form_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(["--layer-form", "tar", "images"]);
    refused.failure(2, &["tar", "auto, directory or erofs"]);
}

#[test]
fn privileged_a_debian_is_the_same_in_either_form() {
    let Some(tar) = debian_base().filter(|_| is_root()) else {
        return;
    };
    let dockerfile = "FROM debian AS a
RUN rm -r /usr/share/doc && mkdir /usr/share/doc && apt-get --version > /version \\
 && dpkg --verify --verify-format rpm > /verified || true
FROM scratch
COPY --from=a / /
";
    let trees = ["directory", "erofs"].map(|form| {
        let sandbox = Sandbox::new();
        if form == "erofs" && !works(&sandbox) {
            return None;
        }
        sandbox.ok(["import", tar.to_str().unwrap(), "debian"]);
        let in_form = InForm {
            sandbox: &sandbox,
            form,
        };
        Some(in_form.exported(&[("Dockerfile", dockerfile)]))
    });
    let [Some(expected), Some(found)] = trees else {
        return;
    };
    assert!(expected.len() > 1000);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// A base image that is here as a blob alone, with a user in it.
fn base_with_users(sandbox: &Sandbox) {
    let users = "root:x:0:0::/:/bin/sh\nwww:x:33:50::/:/bin/sh\n";
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("etc/passwd", users),
        ("etc/group", "root:x:0:\nstaff:x:51:\n"),
        ("big", &"text\n".repeat(100_000)),
    ];
    sandbox.build("users:1", &files);
    let archive = sandbox.path("users.tar");
    let archive = archive.to_str().unwrap();
    sandbox.ok(["save", "-o", archive, "users:1"]);
    std::fs::remove_dir_all(sandbox.root()).unwrap();
    sandbox.ok(["load", "-i", archive]);
}

/// The layers that were unpacked to a state root.
fn unpacked(sandbox: &Sandbox) -> usize {
    let folders = std::fs::read_dir(sandbox.root()).unwrap();
    let folders = folders.map(|folder| folder.unwrap().path());
    let is_snapshots = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("snapshots")
    };
    let each = folders.filter(is_snapshots);
    each.map(|folder| std::fs::read_dir(folder).unwrap().count())
        .sum()
}

#[test]
fn what_only_reads_a_layer_unpacks_none() {
    let sandbox = Sandbox::new();
    base_with_users(&sandbox);
    let files = [
        (
            "Dockerfile",
            "FROM users:1\nCOPY --chown=www:staff f /f\nCOPY --chown=www f /g\n",
        ),
        ("f", "content"),
    ];
    // Twice: the second build has its own layers as blobs alone, too.
    for _ in 0..2 {
        sandbox.build("app:1", &files);
        let exported = sandbox.exported(&files);
        assert_eq!(exported.line("f"), "file 644 33:51 content");
        assert!(exported.line("g").starts_with("file 644 33:"));
        assert_eq!(exported.text("big").len(), 500_000);
        assert_eq!(unpacked(&sandbox), 0);
    }
    let context = sandbox.fresh_context(&files);
    let to = sandbox.path("local");
    let output = format!("type=local,dest={}", to.display());
    sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
    assert_eq!(std::fs::read(to.join("f")).unwrap(), b"content");
    assert_eq!(std::fs::read(to.join("big")).unwrap().len(), 500_000);
    assert_eq!(unpacked(&sandbox), 0);
}
