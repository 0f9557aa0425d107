//! `ADD` of archives.

use std::io::Write as _;
use std::os::unix::fs::symlink;

use expect_test::{Expect, expect};

use super::fixture::{Fixture, copy, render};
use super::globs::Globs;
use crate::TreeView;
use crate::context::{
    ContextTree, IncludeAll, ModePolicy, NoStatCache, OwnerPolicy, ScanOptions, TimePolicy,
};
use crate::copy::{CopyError, CopyOptions, LayerBuilder, NoContent, Owner};

/// A tar stream from lines as in [`super::fixture`], names taken as they are.
fn archive(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        member(&mut out, &words);
    }
    out.extend([0; 1024]);
    out
}

fn member(out: &mut Vec<u8>, words: &[&str]) {
    let target = |at: usize| words.get(at).copied().unwrap_or_default();
    let (kind, mode, link) = match words[0] {
        "dir" => (tar::EntryType::Directory, 0o755, ""),
        "file" => (tar::EntryType::Regular, 0o644, ""),
        "link" => (tar::EntryType::Symlink, 0o644, target(2)),
        "hard" => (tar::EntryType::Link, 0o644, target(2)),
        "char" => (tar::EntryType::Char, 0o644, ""),
        "fifo" => (tar::EntryType::Fifo, 0o644, ""),
        other => panic!("unknown kind {other}"),
    };
    let content = words.iter().find_map(|word| word.strip_prefix('='));
    let content = content.unwrap_or_default().as_bytes();
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..words[1].len()].copy_from_slice(words[1].as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    for word in &words[2..] {
        if let Some(seconds) = word.strip_prefix('@') {
            header.set_mtime(seconds.parse().unwrap());
        } else if let Some((uid, gid)) = word.split_once(':') {
            header.set_uid(uid.parse().unwrap());
            header.set_gid(gid.parse().unwrap());
        } else if let Ok(mode) = u32::from_str_radix(word, 8) {
            header.set_mode(mode);
        }
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn add<'a>(source: &'a str, dest: &'a str) -> CopyOptions<'a, Globs> {
    CopyOptions {
        unpack: true,
        ..copy(source, dest)
    }
}

/// Adds archives, named `t0`, `t1` and so on, one after the other.
fn added(
    archives: &[Vec<u8>],
    base: &str,
    options: impl Fn(usize) -> CopyOptions<'static, Globs>,
) -> Result<String, CopyError> {
    let mut source = Fixture::new("");
    for (number, bytes) in archives.iter().enumerate() {
        source = source.with_file(&format!("t{number}"), bytes);
    }
    let base = Fixture::new(base);
    let mut builder = base.builder();
    for number in 0..archives.len() {
        builder.copy(&options(number), &source.source())?;
    }
    Ok(render(&builder.finish()))
}

fn check(archive_text: &str, base: &str, dest: &'static str, expected: Expect) {
    let shown = match added(&[archive(archive_text)], base, |_| add("t0", dest)) {
        Ok(changes) => changes,
        Err(error) => {
            let source = std::error::Error::source(&error);
            format!(
                "error: {error}{}\n",
                source.map_or_else(String::new, |it| format!(": {it}"))
            )
        }
    };
    expected.assert_eq(&shown);
}

fn compressed(format: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        "plain" => out.extend_from_slice(bytes),
        "gzip" => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(&mut out, level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        "zstd" => out = zstd::encode_all(bytes, 1).unwrap(),
        "bzip2" => {
            let level = bzip2::Compression::fast();
            let mut encoder = bzip2::write::BzEncoder::new(&mut out, level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(&mut out, 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        other => panic!("unknown format {other}"),
    }
    out
}

#[test]
fn archives_are_told_by_content_in_every_format() {
    let tar = archive("dir d 700 1:2 @3\nfile d/f 600 4:5 @6 =text\nfile g =more\nfile h");
    for format in ["plain", "gzip", "zstd", "bzip2", "xz"] {
        let shown = added(&[compressed(format, &tar)], "", |_| add("t0", "/")).unwrap();
        expect![[r#"
            dir /d 700 1:2 @3
            file /d/f 600 4:5 @6 =text
            file /g 644 0:0 =more
            file /h 644 0:0 =
        "#]]
        .assert_eq(&shown);
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let tar = archive("file f =text");
    let mut damaged = tar.clone();
    damaged[3] ^= 1;
    let cases = [
        Vec::new(),
        b"text".to_vec(),
        vec![0; 2048],
        compressed("gzip", b"just text"),
        b"\x1f\x8b\x08\0 but no gzip".to_vec(),
        damaged,
        tar[..300].to_vec(),
    ];
    for (number, bytes) in cases.into_iter().enumerate() {
        let source = Fixture::new("").with_file("t.tar.gz", &bytes);
        let mut builder = LayerBuilder::new(TreeView::empty(), &NoContent);
        let options = add("t.tar.gz", "/");
        builder.copy(&options, &source.source()).unwrap();
        let changes = builder.finish();
        let paths: Vec<_> = changes.iter().map(|it| it.entry.path.to_string()).collect();
        assert_eq!(paths, ["/t.tar.gz"], "case {number}");
    }
    // COPY unpacks nothing.
    let source = Fixture::new("").with_file("t.tar", &tar);
    let mut builder = LayerBuilder::new(TreeView::empty(), &NoContent);
    builder.copy(&copy("t.tar", "/"), &source.source()).unwrap();
    assert_eq!(builder.finish()[0].entry.path.to_string(), "/t.tar");
}

#[test]
fn the_destination_becomes_a_directory_with_the_given_owner() {
    let options = |_| CopyOptions {
        owner: Some(Owner::ids(100, 200)),
        ..add("t0", "/out/deep")
    };
    let tar = archive("file foo 4755 7:7 =content\ndir a/b 700 8:8 @4");
    let shown = added(&[tar], "", options).unwrap();
    // A directory that the archive does not list stays root's.
    expect![[r#"
        dir /out 755 100:200
        dir /out/deep 755 100:200
        dir /out/deep/a 755 0:0 @4
        dir /out/deep/a/b 700 100:200 @4
        file /out/deep/foo 4755 100:200 =content
    "#]]
    .assert_eq(&shown);
}

#[test]
fn several_archives_land_in_one_place() {
    let tars = [
        archive("file foo =0\ndir d 700"),
        archive("file bar =1\ndir d 711"),
    ];
    let shown = added(&tars, "", |number| add(["t0", "t1"][number], "/dest")).unwrap();
    expect![[r#"
        dir /dest 755 0:0
        file /dest/bar 644 0:0 =1
        dir /dest/d 711 0:0
        file /dest/foo 644 0:0 =0
    "#]]
    .assert_eq(&shown);
}

#[test]
fn the_archives_own_root_changes_nothing() {
    check(
        "dir ./ 777 9:9 @9\nfile ./f =x",
        "dir /d 700 1:1 @1",
        "/d",
        expect![[r#"
            dir /d 700 1:1 @1
            file /d/f 644 0:0 =x
        "#]],
    );
}

#[test]
fn what_stands_in_the_way_is_replaced_and_directories_merge() {
    check(
        "
        dir same 711 3:3 @3
        file dir =file
        dir file 755
        dir link 755
        file link/in =x
        link gone elsewhere
        ",
        "
        dir /same 700 1:1 @1 +user.a=b
        file /same/kept =k
        dir /dir
        file /dir/in =d
        file /file =f
        link /link same
        file /gone =g
        ",
        "/",
        expect![[r#"
            file /dir 644 0:0 =file
            dir /file 755 0:0
            link /gone elsewhere 777 0:0
            dir /link 755 0:0
            file /link/in 644 0:0 =x
            dir /same 711 3:3 @3 +user.a=b
        "#]],
    );
    check(
        "file d =x\ndir d\nfile d/new =y",
        "dir /d\nfile /d/old =x",
        "/",
        expect![[r#"
            dir! /d 755 0:0
            file /d/new 644 0:0 =y
        "#]],
    );
}

#[test]
fn absolute_links_lead_inside_the_destination() {
    let payload = "
        dir var/run/act
        file var/run/act/HEAD =ref
        hard var/run/act/HEAD.link var/run/act/HEAD
    ";
    check(
        payload,
        "dir /run\ndir /var\nlink /var/run /run",
        "/",
        expect![[r#"
            dir /run 755 0:0
            dir /run/act 755 0:0
            file /run/act/HEAD 644 0:0 =ref
            hard /run/act/HEAD.link /run/act/HEAD 644 0:0
        "#]],
    );
    // Below `/d`, `/run` means `/d/run`.
    check(
        "file var/run/x =1\nfile up/y =2",
        "dir /d\ndir /d/var\nlink /d/var/run /run\nlink /d/up ../../..",
        "/d",
        expect![[r#"
            dir /d 755 0:0
            dir /d/run 755 0:0
            file /d/run/x 644 0:0 =1
            file /d/y 644 0:0 =2
        "#]],
    );
}

#[test]
fn archives_cannot_leave_the_destination() {
    for (text, base) in [
        ("file ../evil =x", ""),
        ("file ok =x\nfile a/../../evil =x", ""),
        ("file ok =x\nhard evil ../ok", "file /ok =x"),
    ] {
        let error = added(&[archive(text)], base, |_| add("t0", "/d")).unwrap_err();
        assert!(
            matches!(error, CopyError::Archive { .. }),
            "{text}: {error}"
        );
    }
    check(
        "link out ../../../../other\nfile out/evil =x\nfile /abs =y",
        "",
        "/d",
        expect![[r#"
            dir /d 755 0:0
            file /d/abs 644 0:0 =y
            dir /d/other 755 0:0
            file /d/other/evil 644 0:0 =x
            link /d/out ../../../../other 777 0:0
        "#]],
    );
}

#[test]
fn links_bring_files_of_the_base_along() {
    check(
        "hard new old\nhard twin d/link",
        "file /d/old 600 5:5 @5 =kept\nlink /d/d .\nlink /d/link old",
        "/d",
        expect![[r#"
            dir /d 755 0:0
            file /d/new 600 5:5 @5 =kept
            hard /d/old /d/new 600 5:5 @5
            link /d/twin old 777 0:0
        "#]],
    );
    check(
        "hard a none",
        "",
        "/",
        expect![[r#"
        error: `/none` does not exist
    "#]],
    );
    check(
        "dir d\nhard a d",
        "",
        "/",
        expect![[r#"
        error: `/d` is a directory and cannot have a hard link
    "#]],
    );
    check(
        "file a =x\nhard a a",
        "",
        "/",
        expect![[r#"
        file /a 644 0:0 =x
    "#]],
    );
}

#[test]
fn what_layers_cannot_hold_is_refused() {
    check(
        "file d/.wh.f",
        "",
        "/",
        expect![[r#"
        error: `/d/.wh.f` cannot be in a layer: names that start with `.wh.` mark removals
    "#]],
    );
    check(
        "char null",
        "",
        "/",
        expect![[r#"
        error: `/null` cannot be in a layer: the character device 0:0 marks removals
    "#]],
    );
    check(
        "fifo p 600",
        "",
        "/",
        expect![[r#"
        fifo /p 600 0:0
    "#]],
    );
}

#[test]
fn a_bad_archive_is_an_error_once_it_began_well() {
    let mut tar = archive("file a =x\nfile b =y");
    tar[1024 + 3] ^= 1;
    let cut = archive("file a =text")[..514].to_vec();
    for bytes in [tar, cut] {
        for format in ["plain", "zstd"] {
            let bytes = compressed(format, &bytes);
            let error = added(&[bytes], "", |_| add("t0", "/")).unwrap_err();
            assert!(matches!(error, CopyError::Archive { .. }), "{error}");
        }
    }
}

#[test]
fn archives_of_a_context_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let large = "large".repeat(100_000);
    let tar = archive(&format!("file a =small\nfile b ={large}"));
    std::fs::write(dir.path().join("plain.tar"), &tar).unwrap();
    std::fs::write(dir.path().join("packed"), compressed("gzip", &tar)).unwrap();
    symlink("plain.tar", dir.path().join("link")).unwrap();
    let options = ScanOptions {
        owner: OwnerPolicy::Root,
        modes: ModePolicy::Host,
        times: TimePolicy::Host,
    };
    let context = ContextTree::scan(dir.path(), &IncludeAll, &NoStatCache, &options).unwrap();
    for name in ["plain.tar", "packed", "link"] {
        let mut builder = LayerBuilder::new(TreeView::empty(), &NoContent).spool_in(dir.path());
        builder.copy(&add(name, "/"), &context).unwrap();
        let shown = render(&builder.finish());
        assert!(
            shown.starts_with("file /a 644 0:0 =small\nfile /b 644 0:0 =large"),
            "{name}"
        );
        assert_eq!(shown.len(), 23 + 17 + large.len() + 1, "{name}");
    }
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 3, "no temporary file has a name");
}
