//! Layers from strangers: nothing outside the directory is ever touched, legitimate layers
//! are accepted, and streams and disks that fail are errors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{
    directory, file, hardlink, is_root, listing, open, options, path, plain, symlink, whiteout,
    written,
};
use longshore_layers::{
    Change, DirectoryError, DirectoryForm, EntryPath, Kind, LowerLayers, Metadata, NoLowerLayers,
    OverlayAttributes, TarLimits, UnpackError, Unpacked, diff_upper, index_of_tar, materialise,
    settle_implied_directories, unpack,
};

/// A member of an archive that our own writer would refuse to write.
#[derive(Clone, Debug)]
struct Raw {
    kind: u8,
    name: String,
    link: String,
    content: &'static [u8],
}

fn raw(kind: u8, name: &str, link: &str) -> Raw {
    Raw {
        kind,
        name: name.to_owned(),
        link: link.to_owned(),
        content: if kind == b'0' { b"evil" } else { b"" },
    }
}

fn tar_of(members: &[Raw]) -> Vec<u8> {
    let mut tar = Vec::new();
    for member in members {
        let mut block = [0; 512];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, member.name.as_bytes());
        put(100, b"0000777\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", member.content.len()).as_bytes());
        put(136, b"00000000007\0");
        put(156, &[member.kind]);
        put(157, member.link.as_bytes());
        put(257, b"ustar\x0000");
        if member.kind == b'3' {
            put(329, b"0000001\0");
            put(337, b"0000003\0");
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&block);
        tar.extend_from_slice(member.content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A folder to unpack into, and beside it what must not be touched.
struct Yard {
    scratch: tempfile::TempDir,
    before: Vec<String>,
}

impl Yard {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path();
        fs::create_dir(at.join("root")).unwrap();
        fs::create_dir(at.join("canary")).unwrap();
        fs::write(at.join("canary/file"), b"canary").unwrap();
        fs::set_permissions(at.join("canary/file"), PermissionsExt::from_mode(0o640)).unwrap();
        let before = listing(&at.join("canary"));
        Self { scratch, before }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn canary(&self) -> String {
        self.scratch.path().join("canary").display().to_string()
    }

    fn unpack(&self, members: &[Raw]) -> Result<Unpacked, UnpackError> {
        let options = options(DirectoryForm::Merged);
        let tar = tar_of(members);
        unpack(
            &tar[..],
            open(&self.root()),
            &options,
            TarLimits::LAYER,
            &NoLowerLayers,
        )
    }

    fn check(&self, what: &str) {
        let at = self.scratch.path();
        assert_eq!(listing(&at.join("canary")), self.before, "{what}");
        assert_eq!(
            fs::read(at.join("canary/file")).unwrap(),
            b"canary",
            "{what}"
        );
        let stat = fs::metadata(at.join("canary/file")).unwrap();
        assert_eq!(stat.nlink(), 1, "{what}");
        let names = fs::read_dir(at).unwrap().count();
        assert_eq!(names, 2, "{what}");
    }
}

/// Entries of every kind with one name: what an attack would put at `name`.
fn of_every_kind(name: &str, canary: &str) -> Vec<Raw> {
    let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
    let in_parent = |last: &str| match parent {
        "" => last.to_owned(),
        parent => format!("{parent}/{last}"),
    };
    vec![
        raw(b'0', name, ""),
        raw(b'5', name, ""),
        raw(b'2', name, "target"),
        raw(b'1', name, &format!("{canary}/file")),
        raw(b'1', name, "../canary/file"),
        raw(b'3', name, ""),
        raw(b'6', name, ""),
        raw(b'0', &in_parent(&format!(".wh.{last}")), ""),
        raw(b'0', &in_parent(".wh..wh..opq"), ""),
    ]
}

#[test]
fn nothing_outside_is_touched_by_any_kind_of_entry_in_any_way() {
    // CVE-2014-9357, CVE-2018-20990, CVE-2021-32760, CVE-2021-38511, CVE-2026-33056
    let yard = Yard::new();
    let canary = yard.canary();
    let links = [
        vec![],
        vec![raw(b'2', "link", &canary)],
        vec![raw(b'2', "link", "../canary")],
        vec![
            raw(b'2', "deep/link", "../../canary"),
            raw(b'2', "link", "deep/link"),
        ],
        vec![raw(b'2', "link", &format!("{canary}/file"))],
        vec![raw(b'2', "link", "..")],
    ];
    let names = [
        "../canary/file".to_owned(),
        "../canary".to_owned(),
        "a/../../canary/file".to_owned(),
        format!("{canary}/file"),
        "link/file".to_owned(),
        "link/canary/file".to_owned(),
        "link".to_owned(),
        "./link/".to_owned(),
    ];
    for before in &links {
        for name in &names {
            for entry in of_every_kind(name, &canary) {
                let yard = Yard::new();
                let entry = Raw {
                    link: entry.link.replace(&canary, &yard.canary()),
                    name: entry.name.replace(&canary, &yard.canary()),
                    ..entry
                };
                let mut members: Vec<Raw> = before
                    .iter()
                    .map(|member| Raw {
                        link: member.link.replace(&canary, &yard.canary()),
                        ..member.clone()
                    })
                    .collect();
                // In one layer, and over links that an earlier layer left on disk.
                members.push(entry.clone());
                let _either = yard.unpack(&members);
                yard.check(&format!("{members:?}"));
                let _either = yard.unpack(&[entry]);
                yard.check(&format!("{members:?} in two layers"));
            }
        }
    }
}

#[test]
fn somebody_who_swaps_directories_for_links_meanwhile_gains_nothing() {
    // CVE-2025-47290
    let yard = Yard::new();
    let root = yard.root();
    let names: Vec<Raw> = (0..400)
        .flat_map(|n| {
            let names = [
                format!("d/e/{n}"),
                format!("d/e/dir{n}"),
                format!("d/e/p{n}"),
            ];
            let kinds = [b'0', b'5', b'6'];
            kinds
                .into_iter()
                .zip(names)
                .map(|(kind, name)| raw(kind, &name, ""))
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, aside) = (root.join("d/e"), root.join("d/aside"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if fs::rename(&real, &aside).is_ok() {
                    let _made = std::os::unix::fs::symlink(yard.canary(), &real);
                    std::thread::yield_now();
                    let _gone = fs::remove_file(&real);
                    let _back = fs::rename(&aside, &real);
                }
            }
        });
        for _ in 0..10 {
            let _either = yard.unpack(&names);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    yard.check("swapped");
}

#[test]
fn a_directory_entry_replaces_a_link_instead_of_following_it() {
    // CVE-2026-33056: the mode went to what the link named.
    let yard = Yard::new();
    let members = [raw(b'2', "d", &yard.canary()), raw(b'5', "d", "")];
    yard.unpack(&members).unwrap();
    yard.check("directory over a link");
    assert!(
        fs::symlink_metadata(yard.root().join("d"))
            .unwrap()
            .is_dir()
    );
}

#[test]
fn layers_that_look_odd_and_are_right_are_accepted() {
    let yard = Yard::new();
    let members = [
        raw(b'5', "usr", ""),
        raw(b'5', "usr/lib", ""),
        raw(b'2', "lib", "usr/lib"),
        raw(b'0', "lib/through-link", ""),
        raw(b'2', "up", "../../../../../../etc/passwd"),
        raw(b'2', "self", "self"),
        raw(b'2', "absolute", "/usr/lib"),
        raw(b'0', "absolute/inside", ""),
        raw(b'5', "changes", ""),
        raw(b'0', "changes/x", ""),
        raw(b'0', "changes", ""),
        raw(b'5', "changes", ""),
        raw(b'0', "changes/y", ""),
        raw(b'0', "dup", ""),
        raw(b'1', "dup2", "dup"),
        raw(b'0', "dup", ""),
        raw(b'1', "of-link", "up"),
        raw(b'0', "no/parents/listed", ""),
    ];
    let unpacked = yard.unpack(&members).unwrap();
    yard.check("odd but right");
    let root = yard.root();
    for name in [
        "usr/lib/through-link",
        "usr/lib/inside",
        "changes/y",
        "no/parents/listed",
    ] {
        assert_eq!(fs::read(root.join(name)).unwrap(), b"evil", "{name}");
    }
    assert!(!root.join("changes/x").exists());
    let target = |name: &str| fs::read_link(root.join(name)).unwrap();
    assert_eq!(target("up"), Path::new("../../../../../../etc/passwd"));
    assert_eq!(target("of-link"), target("up"));
    assert_eq!(target("self"), Path::new("self"));
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_ne!(inode("dup"), inode("dup2"));
    assert_eq!(
        unpacked.implied_directories,
        [path("no"), path("no/parents")]
    );
}

#[test]
fn marks_never_become_files() {
    let yard = Yard::new();
    let members = [
        raw(b'5', "d", ""),
        raw(b'0', "d/.wh.x", ""),
        raw(b'0', "d/.wh..wh..opq", ""),
        raw(b'0', ".wh..wh.plnk", ""),
        raw(b'0', ".wh..wh.orph/1", ""),
        raw(b'0', ".wh.gone", ""),
    ];
    let unpacked = yard.unpack(&members).unwrap();
    assert_eq!(listing(&yard.root()).len(), 1);
    let index = unpacked.tar.index;
    let kinds: Vec<_> = index
        .entries()
        .iter()
        .map(|line| &line.entry.kind)
        .collect();
    let opaque = Kind::Directory { opaque: true };
    assert_eq!(kinds, [&opaque, &Kind::Whiteout, &Kind::Whiteout]);
}

#[test]
fn a_reader_that_fails_at_any_point_is_an_error() {
    let changes: Vec<Change> = (0..40)
        .map(|n| file(&format!("{n:02}"), &vec![1; n * 40]))
        .chain([file("large", &vec![2; 400_000])])
        .collect();
    let (_, tar) = written(&changes);
    for length in (0..tar.len() - 1024).step_by(7001) {
        struct Failing<'a>(&'a [u8]);
        impl Read for Failing<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::Error::other("connection lost")),
                    count => Ok(count),
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let options = options(DirectoryForm::Merged);
        let to = open(folder.path());
        let failing = Failing(&tar[..length]);
        let error = unpack(failing, to, &options, TarLimits::LAYER, &NoLowerLayers).unwrap_err();
        let text = format!("{error}");
        assert!(text.contains("connection lost"), "{text}");
        assert!(index_of_tar(Failing(&tar[..length]), TarLimits::LAYER).is_err());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_names_the_file() {
    if is_root() {
        // Root is stopped by a full file system alone.
        let Some(small) = Mount::tmpfs(200_000) else {
            common::skip("may not mount");
            return;
        };
        let changes = [file("a", &[1; 1000]), file("b", &vec![1; 900_000])];
        let (_, tar) = written(&changes);
        let options = options(DirectoryForm::Merged);
        let to = open(small.at());
        let failed = unpack(&tar[..], to, &options, TarLimits::LAYER, &NoLowerLayers);
        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("cannot write `/b`: No space"), "{text}");
        fs::remove_file(small.at().join("a")).unwrap();
        fs::remove_file(small.at().join("b")).unwrap();
        let failed = materialise(&changes, open(small.at()), &options, &NoLowerLayers);
        assert!(
            matches!(failed, Err(DirectoryError::Io { .. })),
            "{failed:?}"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o500)).unwrap();
    let options = options(DirectoryForm::Merged);
    let changes = [file("a", b"x")];
    let failed = materialise(&changes, open(folder.path()), &options, &NoLowerLayers);
    assert!(
        failed
            .unwrap_err()
            .to_string()
            .starts_with("cannot create the file `/a`: ")
    );
}

/// Directories of a lower layer on disk.
struct Lower(OwnedFd);

impl LowerLayers for Lower {
    fn directory(&self, path: &EntryPath) -> Option<Metadata> {
        let mut metadata = Metadata {
            mode: 0o1777,
            ..Metadata::default()
        };
        metadata.mtime.seconds = 99;
        (path.as_bytes() == b"tmp").then_some(metadata)
    }

    fn file(&self, path: &EntryPath) -> io::Result<Option<(OwnedFd, Metadata)>> {
        if path.as_bytes() != b"lower/file" {
            return Ok(None);
        }
        let flags = rustix::fs::OFlags::RDONLY;
        let name = path.as_bytes();
        let file = rustix::fs::openat(&self.0, name, flags, rustix::fs::Mode::empty())?;
        let metadata = Metadata {
            mode: 0o751,
            ..Metadata::default()
        };
        Ok(Some((file, metadata)))
    }
}

#[test]
fn what_a_layer_needs_of_lower_ones_is_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir_all(scratch.path().join("lower")).unwrap();
    fs::write(scratch.path().join("lower/file"), b"from below").unwrap();
    let lower = Lower(open(scratch.path()));
    let tar = tar_of(&[
        raw(b'0', "tmp/new", ""),
        raw(b'0', "other/new", ""),
        raw(b'1', "link", "lower/file"),
    ]);
    let out = scratch.path().join("out");
    fs::create_dir(&out).unwrap();
    let options = options(DirectoryForm::Overlay(OverlayAttributes::User));
    let unpacked = unpack(&tar[..], open(&out), &options, TarLimits::LAYER, &lower).unwrap();
    let stat = fs::metadata(out.join("tmp")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o1777, 99));
    assert_eq!(fs::read(out.join("link")).unwrap(), b"from below");
    assert_eq!(
        fs::metadata(out.join("link")).unwrap().mode() & 0o7777,
        0o751
    );
    assert_eq!(unpacked.implied_directories, [path("other")]);
    settle_implied_directories(open(&out), &[path("tmp")], &lower, options.ownership).unwrap();

    let nothing = scratch.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    let to = open(&nothing);
    let failed = unpack(&tar[..], to, &options, TarLimits::LAYER, &NoLowerLayers);
    let text = failed.unwrap_err().to_string();
    assert_eq!(
        text,
        "the hard link `/link` names `/lower/file`, which does not exist"
    );
}

/// Something that is mounted and is unmounted in the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(bytes: u64) -> Option<Self> {
        Self::new("tmpfs", &format!("size={bytes}"))
    }

    fn new(kind: &str, mount_options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", kind, "-o", mount_options, kind])
            .arg(folder.path())
            .output()
            .ok()?;
        done.status.success().then_some(Self(folder))
    }

    fn at(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _done = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

/// Layers unpacked side by side, mounted over one another, changed, and read back.
#[test]
fn privileged_an_overlay_mount_shows_and_diffs_what_the_view_says() {
    if !is_root() {
        common::skip("only root mounts overlay file systems");
        return;
    }
    // An upper directory on the file system that holds everything else may be an overlay
    // itself, which cannot be one.
    let Some(scratch) = Mount::tmpfs(64 << 20) else {
        common::skip("may not mount");
        return;
    };
    let form = DirectoryForm::Overlay(OverlayAttributes::Trusted);
    let opaque = Kind::Directory { opaque: true };
    let layers = [
        vec![
            directory("a"),
            file("a/one", b"1"),
            file("a/two", b"2"),
            directory("b"),
            directory("b/deep"),
            file("b/deep/x", b"x"),
            file("f", b"f"),
            hardlink("g", "f"),
            symlink("s", "a/one"),
        ],
        vec![
            directory("a"),
            whiteout("a/one"),
            plain("b", opaque),
            file("b/fresh", b"y"),
        ],
    ];
    let mut view = longshore_layers::TreeView::empty();
    let mut lower = Vec::new();
    for (number, changes) in layers.iter().enumerate() {
        let (by_tar, by_name) = (format!("tar{number}"), format!("name{number}"));
        let (by_tar, by_name) = (scratch.at().join(by_tar), scratch.at().join(by_name));
        fs::create_dir(&by_tar).unwrap();
        fs::create_dir(&by_name).unwrap();
        let (summary, tar) = written(changes);
        let options = options(form);
        let to = open(&by_tar);
        unpack(&tar[..], to, &options, TarLimits::LAYER, &NoLowerLayers).unwrap();
        materialise(changes, open(&by_name), &options, &NoLowerLayers).unwrap();
        assert_eq!(listing(&by_tar), listing(&by_name));
        view.push(std::sync::Arc::new(summary.index));
        lower.insert(0, by_tar.display().to_string());
    }
    let (upper, work) = (scratch.at().join("upper"), scratch.at().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let mount_options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=off,xino=off",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let Some(mounted) = Mount::new("overlay", &mount_options) else {
        common::skip("no overlay file system here");
        return;
    };
    let names = |folder: &Path| -> Vec<String> {
        let name = |line: &String| line.split(' ').next().unwrap().to_owned();
        listing(folder).iter().map(name).collect()
    };
    let shown: Vec<String> = view
        .walk(&EntryPath::root())
        .skip(1)
        .map(|node| node.entry.path.to_string())
        .collect();
    assert_eq!(names(mounted.at()), shown);

    let at = mounted.at();
    fs::remove_file(at.join("a/two")).unwrap();
    fs::write(at.join("a/three"), b"3").unwrap();
    fs::remove_file(at.join("a/three")).unwrap();
    fs::remove_dir_all(at.join("b")).unwrap();
    fs::create_dir_all(at.join("b/again")).unwrap();
    fs::write(at.join("b/again/z"), b"z").unwrap();
    fs::hard_link(at.join("b/again/z"), at.join("z2")).unwrap();
    fs::File::options().append(true).open(at.join("f")).unwrap();
    fs::set_permissions(at.join("g"), PermissionsExt::from_mode(0o600)).unwrap();
    let mount_shows = listing(at);

    let changes = diff_upper(open(&upper), &view, OverlayAttributes::Trusted).unwrap();
    let text: Vec<String> = changes
        .iter()
        .map(|change| match &change.entry.kind {
            Kind::Whiteout => format!("-{}", change.entry.path),
            _ => change.entry.path.to_string(),
        })
        .collect();
    let expected = [
        "/a",
        "-/a/two",
        "/b",
        "/b/again",
        "/b/again/z",
        "-/b/fresh",
        "/g",
        "/z2",
    ];
    assert_eq!(text, expected);

    // The three layers, written and applied one after the other, are what the mount showed.
    let flat = scratch.at().join("flat");
    fs::create_dir(&flat).unwrap();
    let merged = options(DirectoryForm::Merged);
    for changes in layers.iter().chain([&changes]) {
        let (_, tar) = written(changes);
        let to = open(&flat);
        unpack(&tar[..], to, &merged, TarLimits::LAYER, &NoLowerLayers).unwrap();
    }
    assert_eq!(listing(&flat), mount_shows);
}
