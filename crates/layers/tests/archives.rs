//! Archives of other programs: what GNU tar, bsdtar and the `tar` crate write is read as they
//! meant it, and hand-made archives are read as they read them or refused.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::made::Made;
use common::{any_layer, listing, open, options, written};
use longshore_layers::{
    ContentHash, DirectoryForm, Kind, Member, NoLowerLayers, TarError, TarLimits, TarReader,
    TarReason, unpack,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

/// A tree with everything that archivers disagree about.
fn make_tree(folder: &Path) {
    let long = "long-name-".repeat(9);
    let deep = format!("{long}/{long}/{long}");
    fs::create_dir_all(folder.join(&deep)).unwrap();
    fs::write(folder.join(&deep).join("file"), b"deep").unwrap();
    fs::write(folder.join("plain"), b"hello").unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    fs::write(folder.join("ünï"), vec![7; 513]).unwrap();
    fs::write(folder.join("block"), vec![8; 1024]).unwrap();
    fs::hard_link(folder.join("plain"), folder.join("second")).unwrap();
    fs::hard_link(folder.join("plain"), folder.join(&deep).join("third")).unwrap();
    std::os::unix::fs::symlink("../../outside", folder.join("sym")).unwrap();
    std::os::unix::fs::symlink(&deep, folder.join("longsym")).unwrap();
    fs::set_permissions(folder.join("plain"), PermissionsExt::from_mode(0o6755)).unwrap();
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_secs(86_400);
    let ends = fs::File::open(folder.join("empty")).unwrap();
    ends.set_modified(old).unwrap();
    make_sparse(&folder.join("sparse"), 40);
    make_sparse(&folder.join("sparse-small"), 2);
}

fn make_sparse(at: &Path, parts: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(at).unwrap();
    for part in 0..parts {
        let text = format!("part {part}");
        file.write_all_at(text.as_bytes(), part * 70_000 + 9000)
            .unwrap();
    }
    file.set_len(parts * 70_000 + 100_000).unwrap();
}

/// Whether an archive in a format can hold a name.
fn archive(program: &str, arguments: &[&str], folder: &Path, to: &Path) -> bool {
    let done = Command::new(program)
        .args(arguments)
        .arg("-cf")
        .arg(to)
        .arg("-C")
        .arg(folder)
        .arg(".")
        .env("LC_ALL", "C.UTF-8")
        .output();
    let Ok(done) = done else {
        common::skip(format_args!("no {program} here"));
        return false;
    };
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    true
}

fn check_unpacked(tar: &Path, tree: &Path, what: &str) {
    let out = tempfile::tempdir().unwrap();
    let stream = fs::File::open(tar).unwrap();
    let options = options(DirectoryForm::Merged);
    let to = open(out.path());
    let unpacked = unpack(stream, to, &options, TarLimits::LAYER, &NoLowerLayers);
    let unpacked = unpacked.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(listing(out.path()), listing(tree), "{what}");
    assert_eq!(unpacked.tar.size, fs::metadata(tar).unwrap().size());
}

#[test]
fn archives_of_gnu_tar_and_bsdtar_are_unpacked_as_they_were() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let tar = scratch.path().join("a.tar");
    let ways: [(&str, &[&str]); 9] = [
        ("tar", &["--format=gnu"]),
        ("tar", &["--format=oldgnu"]),
        ("tar", &["--format=posix"]),
        ("tar", &["--format=gnu", "--sparse"]),
        ("tar", &["--format=oldgnu", "--sparse"]),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
        ),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
        ),
        ("bsdtar", &["--format=pax"]),
    ];
    for (program, arguments) in ways {
        if archive(program, arguments, &tree, &tar) {
            check_unpacked(&tar, &tree, &format!("{program} {arguments:?}"));
        }
    }
}

#[test]
fn archives_of_old_formats_are_unpacked_as_they_were() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    let prefix = "directory-".repeat(8);
    fs::create_dir_all(tree.join(&prefix)).unwrap();
    fs::write(tree.join("plain"), b"hello").unwrap();
    fs::hard_link(tree.join("plain"), tree.join("second")).unwrap();
    std::os::unix::fs::symlink("plain", tree.join("sym")).unwrap();
    let tar = scratch.path().join("a.tar");
    if archive("tar", &["--format=v7"], &tree, &tar) {
        check_unpacked(&tar, &tree, "v7");
    }
    fs::write(
        tree.join(&prefix).join("name-in-two-fields".repeat(3)),
        b"x",
    )
    .unwrap();
    for (program, format) in [
        ("tar", "--format=ustar"),
        ("bsdtar", "--format=ustar"),
        ("bsdtar", "--format=gnutar"),
    ] {
        if archive(program, &[format], &tree, &tar) {
            check_unpacked(&tar, &tree, format);
        }
    }
}

#[test]
fn attributes_and_times_of_gnu_tar_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("f"), b"x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("f"), "user.k", b"v=\0\n\xff", flags).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::new(3, 250_000_000);
    fs::File::open(tree.join("f"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    let tar = scratch.path().join("a.tar");
    if !archive("tar", &["--format=posix", "--xattrs"], &tree, &tar) {
        return;
    }
    let members = members(&fs::read(&tar).unwrap()).unwrap();
    let (member, _) = members
        .iter()
        .find(|(m, _)| m.entry.path.name() == b"f")
        .unwrap();
    let metadata = &member.entry.metadata;
    assert_eq!(metadata.xattrs[&b"user.k"[..]], b"v=\0\n\xff");
    let mtime = (metadata.mtime.seconds, metadata.mtime.nanoseconds);
    assert_eq!(mtime, (-4, 750_000_000));
}

fn members(tar: &[u8]) -> Result<Vec<(Member, ContentHash)>, TarError> {
    let mut reader = TarReader::new(tar, TarLimits::LAYER);
    let mut all = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        if let Kind::File { size } = member.entry.kind {
            assert_eq!(content.len() as u64, size);
        }
        if let Some(offset) = member.data_offset {
            let start = usize::try_from(offset).unwrap();
            assert_eq!(tar[start..start + content.len()], content);
        }
        all.push((member, ContentHash::of(&content)));
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_tar_crate_reads_what_we_write_and_we_what_it_writes(changes in any_layer()) {
        let (summary, tar) = written(&changes);
        let mut names = Vec::new();
        let mut copy = tar::Builder::new(Vec::new());
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            names.push(entry.path_bytes().into_owned());
            let mut header = entry.header().clone();
            match entry.link_name().unwrap() {
                Some(link) => copy.append_link(&mut header, entry.path().unwrap(), link).unwrap(),
                None => copy.append_data(&mut header, entry.path().unwrap(), &content[..]).unwrap(),
            }
        }
        let markers = summary.index.entries().iter();
        let markers = markers.filter(|line| line.entry.kind == Kind::Directory { opaque: true });
        prop_assert_eq!(names.len(), summary.index.len() + markers.count());
        let copy = copy.into_inner().unwrap();
        let (ours, theirs) = (members(&tar).unwrap(), members(&copy).unwrap());
        prop_assert_eq!(ours.len(), theirs.len());
        for ((ours, our_hash), (theirs, their_hash)) in ours.iter().zip(&theirs) {
            prop_assert_eq!(&ours.entry, &theirs.entry);
            prop_assert_eq!(our_hash, their_hash);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _either = members(&bytes);
    }
}

/// A step in putting an archive together: whole entries, and headers that say something of the
/// next one, true or not.
#[derive(Clone, Debug)]
enum Step {
    File(&'static str, usize),
    Directory(&'static str),
    Link(u8, &'static str, &'static str),
    LongName(&'static str),
    Extended(u8, Vec<(&'static str, &'static str)>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = || proptest::sample::select(vec!["a", "b", "d", "d/e", "d/e/f", "./g", "h"]);
    let record = || {
        proptest::sample::select(vec![
            ("path", "from-a-record"),
            ("path", "d/record"),
            ("size", "5"),
            ("size", "512"),
            ("mtime", "1.5"),
            ("uid", "7"),
            ("comment", "x"),
        ])
    };
    prop_oneof![
        (name(), 0..700_usize).prop_map(|(name, size)| Step::File(name, size)),
        name().prop_map(Step::Directory),
        (proptest::sample::select(vec![b'1', b'2']), name(), name())
            .prop_map(|(kind, name, target)| Step::Link(kind, name, target)),
        name().prop_map(Step::LongName),
        proptest::collection::vec(record(), 1..3).prop_map(|it| Step::Extended(b'x', it)),
    ]
}

fn archive_of(steps: &[Step]) -> Vec<u8> {
    let mut made = Made::default();
    for step in steps {
        made = match step {
            Step::File(name, size) => made.file(name, &vec![b'x'; *size]),
            Step::Directory(name) => made.header(b'5', name, 0, |_| {}),
            Step::Link(kind, name, target) => made.header(*kind, name, 0, |block| {
                block[157..157 + target.len()].copy_from_slice(target.as_bytes());
            }),
            Step::LongName(name) => made
                .header(b'L', "././@LongLink", name.len() as u64 + 1, |_| {})
                .data(format!("{name}\0").as_bytes()),
            Step::Extended(kind, records) => made.extended(*kind, records),
        };
    }
    made.done()
}

#[test]
fn what_is_accepted_is_what_gnu_tar_and_bsdtar_list() {
    // The same archives in every run.
    let config = ProptestConfig::with_cases(150);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let mut compared = 0;
    for _ in 0..150 {
        let steps = proptest::collection::vec(any_step(), 1..8);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let tar = archive_of(&steps);
        let Ok(ours) = names(&tar) else { continue };
        for program in ["tar", "bsdtar"] {
            if let Some(theirs) = names_by(program, &tar) {
                assert_eq!(theirs, ours, "{program}: {steps:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 20, "{compared}");
}

fn names(tar: &[u8]) -> Result<Vec<String>, String> {
    let all = members(tar).map_err(|error| error.to_string())?;
    Ok(all
        .iter()
        .map(|(member, _)| member.entry.path.to_string())
        .collect())
}

/// What another program lists, each name once rooted and without a last slash.
fn names_by(program: &str, tar: &[u8]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("a.tar");
    fs::File::create(&at).unwrap().write_all(tar).unwrap();
    let done = Command::new(program).arg("-tf").arg(&at).output().ok()?;
    if !done.status.success() {
        return None;
    }
    let text = String::from_utf8(done.stdout).unwrap();
    let name = |line: &str| format!("/{}", line.trim_start_matches("./").trim_matches('/'));
    Some(text.lines().map(name).collect())
}

/// An archive inside a file: where headers and extended headers disagree about sizes, one
/// reader sees the inner entries and another does not.
fn nested() -> Vec<u8> {
    Made::default().file("inner", b"smuggled").done()
}

#[test]
fn a_size_in_an_extended_header_counts_for_the_next_entry_alone() {
    // CVE-2025-62518 and CVE-2026-33055: the header says 0, the extended header the truth.
    let inner = nested();
    let size = inner.len().to_string();
    let tar = Made::default()
        .extended(b'x', &[("size", &size)])
        .header(b'0', "outer", 0, |_| {})
        .data(&inner)
        .file("after", b"x")
        .done();
    assert_eq!(names(&tar).unwrap(), ["/outer", "/after"]);
    for program in ["tar", "bsdtar"] {
        if let Some(listed) = names_by(program, &tar) {
            assert_eq!(listed, ["/outer", "/after"], "{program}");
        }
    }
    // The other way round: the header has a size, the extended header says 0.
    let tar = Made::default()
        .extended(b'x', &[("size", "0")])
        .header(b'0', "outer", inner.len() as u64, |_| {})
        .data(&inner)
        .done();
    assert_eq!(names(&tar).unwrap(), ["/outer", "/inner"]);
    if let Some(listed) = names_by("tar", &tar) {
        assert_eq!(listed[..2], ["/outer", "/inner"]);
    }
}

#[test]
fn directories_and_links_have_no_content_whatever_their_size_says() {
    let tar = Made::default()
        .header(b'5', "d", 700, |_| {})
        .header(b'2', "s", 600, |block| block[157] = b'x')
        .extended(b'x', &[("size", "0")])
        .header(b'1', "l", 600, |block| block[157] = b's')
        .file("after", b"x")
        .done();
    assert_eq!(names(&tar).unwrap(), ["/d", "/s", "/l", "/after"]);
}

/// Go takes such entries to have no content all the same, while bsdtar, and of links GNU tar, skip as
/// much: one of them would see the entries in there, and another would not.
#[test]
fn a_size_in_an_extended_header_of_no_file_is_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let tar = Made::default()
            .extended(b'x', &[("size", "512")])
            .header(kind, "entry", 0, |block| block[157] = b'x')
            .data(&nested()[..512])
            .done();
        let error = members(&tar).unwrap_err();
        assert!(
            matches!(error.reason, TarReason::Ambiguous(_)),
            "{kind}: {error}"
        );
        assert!(error.to_string().contains("`entry`"), "{error}");
    }
}

#[test]
fn the_last_of_repeated_keys_counts() {
    let tar = Made::default()
        .extended(b'x', &[("path", "first"), ("path", "second")])
        .file("plain", b"")
        .done();
    assert_eq!(names(&tar).unwrap(), ["/second"]);
    if let Some(listed) = names_by("tar", &tar) {
        assert_eq!(listed, ["/second"]);
    }
}

#[test]
fn what_archivers_read_differently_is_refused() {
    let long = |name: &[u8]| {
        let size = name.len() as u64;
        Made::default()
            .header(b'L', "././@LongLink", size, |_| {})
            .data(name)
    };
    let ambiguous = [
        long(b"a\0")
            .extended(b'x', &[("path", "b")])
            .file("c", b"")
            .done(),
        long(b"a\0")
            .0
            .into_iter()
            .chain(long(b"b\0").file("c", b"").done())
            .collect(),
        Made::default()
            .extended(b'x', &[("path", "a")])
            .extended(b'x', &[("size", "0")])
            .file("b", b"")
            .done(),
        Made::default()
            .extended(b'x', &[("path", "a")])
            .extended(b'g', &[("comment", "b")])
            .file("c", b"")
            .done(),
        Made::default()
            .extended(b'g', &[("path", "a")])
            .file("b", b"")
            .done(),
        Made::default()
            .extended(b'g', &[("size", "9")])
            .file("b", b"")
            .done(),
        Made::default()
            .file("name-of-a-directory/", b"content")
            .done(),
        Made::default()
            .extended(
                b'x',
                &[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")],
            )
            .file("b", b"")
            .done(),
    ];
    for (number, tar) in ambiguous.iter().enumerate() {
        let error = members(tar).unwrap_err();
        assert!(
            matches!(error.reason, TarReason::Ambiguous(_) | TarReason::Sparse),
            "{number}: {error}"
        );
    }
    let fine = Made::default()
        .extended(b'g', &[("comment", "0123456789abcdef")])
        .file("b", b"")
        .done();
    assert_eq!(names(&fine).unwrap(), ["/b"]);
}

#[test]
fn malformed_archives_are_errors_that_name_the_entry() {
    let header = |edit: fn(&mut [u8; 512])| Made::default().header(b'0', "bad", 0, edit).done();
    let x = |data: &[u8]| {
        let size = data.len() as u64;
        Made::default()
            .header(b'x', "x", size, |_| {})
            .data(data)
            .file("f", b"")
            .done()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "invalid user id",
            header(|b| b[108..116].copy_from_slice(b"zzzzzzz\0")),
        ),
        ("invalid user id", header(|b| b[108..116].fill(0xff))),
        ("invalid size", header(|b| b[124..136].fill(0xff))),
        ("invalid size", header(|b| b[124..136].fill(0x80))),
        ("unsupported type `Z`", header(|b| b[156] = b'Z')),
        ("unsupported type `M`", header(|b| b[156] = b'M')),
        ("invalid link target", header(|b| b[156] = b'2')),
        ("invalid extended header", x(b"5 a=b\n")),
        ("invalid extended header", x(b"garbage")),
        ("invalid extended header", x(b"6 a=b\n99 c=d\n")),
        ("invalid extended header", x(b"12 path=a\0b\n")),
        ("invalid time", x(b"11 mtime=x\n")),
        ("invalid size", x(b"10 size=-\n")),
        ("invalid size", x(b"11 size=-1\n")),
        ("the archive is truncated", {
            let mut tar = Made::default().file("f", &[1; 600]).0;
            tar.truncate(1000);
            tar
        }),
        (
            "the archive is truncated",
            Made::default().extended(b'x', &[("path", "a")]).done(),
        ),
        ("not a valid header", {
            let mut tar = Made::default().file("a", b"").0;
            tar.resize(tar.len() + 512, 0);
            tar.extend(Made::default().file("b", b"").done());
            tar
        }),
        ("not a valid header", {
            let mut tar = Made::default().file("a", b"").done();
            tar[0] ^= 1;
            tar
        }),
        ("more bytes of extended header than 1048576 allowed", {
            Made::default().header(b'x', "x", 1 << 30, |_| {}).done()
        }),
        ("more bytes of files than", {
            Made::default()
                .extended(b'x', &[("size", "9223372036854775807")])
                .header(b'0', "huge", 0, |_| {})
                .done()
        }),
        ("more bytes or components in a path", {
            let deep = "d/".repeat(1500);
            Made::default()
                .extended(b'x', &[("path", &deep)])
                .file("f", b"")
                .done()
        }),
        (
            "leads out of the root",
            Made::default().file("a/../../b", b"").done(),
        ),
        (
            "leads out of the root",
            Made::default().file("../b", b"").done(),
        ),
    ];
    for (expected, tar) in cases {
        let folder = tempfile::tempdir().unwrap();
        let options = options(DirectoryForm::Merged);
        let to = open(folder.path());
        let unpacked = unpack(&tar[..], to, &options, TarLimits::LAYER, &NoLowerLayers);
        let error = unpacked.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} has no {expected}");
        assert!(error.starts_with("tar entry "), "{error}");
    }
}

#[test]
fn limits_hold() {
    let limits = TarLimits {
        entries_max: 2,
        content_bytes_max: 10,
    };
    let read = |tar: Vec<u8>| {
        let mut reader = TarReader::new(&tar[..], limits);
        loop {
            match reader.next_member() {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let three = Made::default().file("a", b"").file("b", b"").file("c", b"");
    assert_eq!(
        read(three.done()).unwrap_err(),
        "tar entry 3: more entries than 2 allowed"
    );
    let large = Made::default().file("a", b"123456").file("b", b"12345");
    assert_eq!(
        read(large.done()).unwrap_err(),
        "tar entry 2 `b`: more bytes of files than 10 allowed"
    );
    let fine = Made::default().file("a", b"12345").file("b", b"12345");
    assert_eq!(read(fine.done()), Ok(()));
}

#[test]
fn names_are_cleaned_as_go_cleans_them() {
    let tar = Made::default()
        .header(b'5', "./", 0, |_| {})
        .file("/abs//x/./y", b"")
        .file("a/b/../c", b"")
        .header(0, "old-directory/", 0, |_| {})
        .header(0, "old-file", 0, |_| {})
        .done();
    let found = names(&tar).unwrap();
    assert_eq!(
        found,
        ["/", "/abs/x/y", "/a/c", "/old-directory", "/old-file"]
    );
    let kinds: BTreeMap<_, _> = members(&tar)
        .unwrap()
        .into_iter()
        .map(|(member, _)| (member.entry.path.to_string(), member.entry.kind))
        .collect();
    assert_eq!(kinds["/old-directory"], Kind::Directory { opaque: false });
}

#[test]
fn content_behind_the_end_counts_for_the_digest() {
    let mut tar = Made::default().file("a", b"x").done();
    let short = longshore_layers::index_of_tar(&tar[..], TarLimits::LAYER).unwrap();
    tar.extend_from_slice(&[9; 10_000]);
    let long = longshore_layers::index_of_tar(&tar[..], TarLimits::LAYER).unwrap();
    assert_eq!(short.index, long.index);
    assert_eq!(long.size, tar.len() as u64);
    assert_eq!(long.diff_id.0, longshore_oci::Digest::sha256_of(&tar));
    assert_ne!(short.diff_id, long.diff_id);
}
