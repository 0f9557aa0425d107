use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::{ContentHash, Entry, FileContent, FileStamp, HostFile, Metadata, Timestamp};

fn entry(path: &str, kind: Kind) -> Entry {
    let mode = match kind {
        Kind::Directory { .. } => 0o755,
        _ => 0o644,
    };
    Entry {
        path: EntryPath::new(path).unwrap(),
        kind,
        metadata: Metadata {
            mode,
            mtime: Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 5,
            },
            ..Metadata::default()
        },
    }
}

fn inline(path: &str, content: &[u8]) -> Change {
    let size = content.len() as u64;
    Change {
        entry: entry(path, Kind::File { size }),
        content: FileContent::Inline(content.into()),
    }
}

fn plain(path: &str, kind: Kind) -> Change {
    Change::without_content(entry(path, kind))
}

fn host(folder: &std::path::Path, name: &str) -> Change {
    let root = Arc::new(OwnedFd::from(File::open(folder).unwrap()));
    let file = File::open(folder.join(name)).unwrap();
    let stamp = FileStamp::of(&rustix::fs::fstat(&file).unwrap());
    Change {
        entry: entry(name, Kind::File { size: stamp.size }),
        content: FileContent::Host(HostFile {
            root,
            path: EntryPath::new(name).unwrap(),
            stamp,
            hash: None,
        }),
    }
}

fn options(compression: Compression, threads: usize) -> WriteOptions {
    WriteOptions {
        compression,
        threads: NonZeroUsize::new(threads).unwrap(),
    }
}

fn written(changes: &[Change], options: &WriteOptions) -> (LayerSummary, Vec<u8>) {
    let mut blob = Vec::new();
    let summary = write_layer(changes.iter().cloned(), options, &mut blob).unwrap();
    (summary, blob)
}

fn many() -> Vec<Change> {
    let mut changes = vec![plain("d", Kind::Directory { opaque: false })];
    for number in 0..1000 {
        let content = vec![b"abcdefghijklmnopqrstuvwxyz"[number % 26]; number * 7];
        changes.push(inline(&format!("d/{number:04}"), &content));
    }
    let large: Vec<u8> = (0..3_000_001_u32)
        .map(|n| (n / 3).to_le_bytes()[0])
        .collect();
    changes.push(inline("large", &large));
    changes.push(plain(
        "link",
        Kind::Hardlink {
            target: EntryPath::new("large").unwrap(),
        },
    ));
    changes.push(plain("none", Kind::Whiteout));
    changes
}

#[test]
fn no_changes_are_the_empty_tar() {
    let (summary, blob) = written(&[], &options(Compression::None, 1));
    assert_eq!(blob, [0; 1024]);
    assert_eq!(
        summary.diff_id.to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
    assert_eq!(summary.digest, summary.diff_id.0);
}

#[test]
fn the_same_changes_are_the_same_bytes_at_any_thread_count() {
    let changes = many();
    let (first, first_blob) = written(&changes, &options(Compression::GZIP, 1));
    for threads in [2, 7] {
        let (summary, blob) = written(&changes, &options(Compression::GZIP, threads));
        assert_eq!(summary, first);
        assert!(blob == first_blob);
    }
    assert_eq!(first.digest, Digest::sha256_of(&first_blob));
    assert_eq!(first.size, first_blob.len() as u64);
    let (zstd, _) = written(&changes, &options(Compression::ZSTD, 2));
    let (plain, tar) = written(&changes, &options(Compression::None, 2));
    assert_eq!(zstd.diff_id, first.diff_id);
    assert_eq!(plain.diff_id, first.diff_id);
    assert_eq!(plain.diff_id.0, Digest::sha256_of(&tar));
    assert_eq!(plain.uncompressed_size, tar.len() as u64);
    assert_eq!(plain.index, first.index);
}

#[test]
fn the_index_says_where_the_bytes_are() {
    let (summary, tar) = written(&many(), &options(Compression::None, 2));
    let mut files = 0;
    for line in summary.index.entries() {
        let Kind::File { size } = line.entry.kind else {
            continue;
        };
        let start = usize::try_from(line.data_offset.unwrap()).unwrap();
        let content = &tar[start..start + usize::try_from(size).unwrap()];
        assert_eq!(line.content, Some(ContentHash::of(content)));
        files += 1;
    }
    assert_eq!(files, 1001);
}

#[test]
fn compressed_digests_are_pinned() {
    // A new compressor version that changes these changes every image's digests: say so.
    let changes = many();
    let gzip = (0..=9).map(|level| (format!("gzip {level}"), Compression::Gzip { level }));
    // Higher ones take hundreds of megabytes.
    let zstd = (1..=12).map(|level| (format!("zstd {level}"), Compression::Zstd { level }));
    let none = ("none".to_owned(), Compression::None);
    let lines = gzip.chain(zstd).chain([none]).map(|(name, compression)| {
        let (summary, _) = written(&changes, &options(compression, 2));
        format!("{name} {}\n", summary.digest.short())
    });
    expect_test::expect![[r#"
        gzip 0 9b588dc9cdd8
        gzip 1 c0f1c7342316
        gzip 2 ca9abaf2604a
        gzip 3 7cd5a20dd2b1
        gzip 4 468c3795958f
        gzip 5 cdad2d4ed626
        gzip 6 1dc38148ce44
        gzip 7 eed35deac454
        gzip 8 1690af26fd5f
        gzip 9 e0d74a19e0dd
        zstd 1 0d8398627ac8
        zstd 2 6cabc144c080
        zstd 3 17be616abc0c
        zstd 4 6d3dca904ad2
        zstd 5 3b58098a18f2
        zstd 6 cdb4f730ff14
        zstd 7 260a420570a5
        zstd 8 ba5677fb0b31
        zstd 9 bbbd7fcc68df
        zstd 10 2ddfecba3000
        zstd 11 e0e84b4cc230
        zstd 12 e0e84b4cc230
        none e067de751316
    "#]]
    .assert_eq(&lines.collect::<String>());
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let long = "n".repeat(120);
    let name = "ünï/".to_owned() + &long;
    let mut owned = inline("x", b"hi");
    owned.entry.metadata.uid = 3_000_000;
    owned.entry.metadata.mtime.seconds = -5;
    owned.entry.metadata.mode = 0o4755;
    let xattrs = &mut owned.entry.metadata.xattrs;
    xattrs.insert(b"user.k".to_vec(), b"v\0w".to_vec());
    let changes = [
        plain(
            "dev",
            Kind::CharDevice {
                major: 5,
                minor: 300,
            },
        ),
        plain("fifo", Kind::Fifo),
        plain("gone", Kind::Whiteout),
        plain("opaque", Kind::Directory { opaque: true }),
        plain(
            "sym",
            Kind::Symlink {
                target: b"../../x".to_vec(),
            },
        ),
        owned,
        inline(&name, b"long"),
    ];
    let (_, tar) = written(&changes, &options(Compression::None, 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, tar).unwrap();
    let listed = Command::new("tar")
        .args(["--full-time", "--numeric-owner", "--quoting-style=literal"])
        .args(["--xattrs", "-tvvf"])
        .arg(&path)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let text = String::from_utf8(listed.stdout.clone()).unwrap();
    let text: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert!(listed.status.success(), "{listed:?}");
    for expected in [
        "crw-r--r-- 0/0 5,300 2023-11-14 22:13:20 dev",
        "prw-r--r-- 0/0 0 2023-11-14 22:13:20 fifo",
        "---------- 0/0 0 1970-01-01 00:00:00 .wh.gone",
        "drwxr-xr-x 0/0 0 2023-11-14 22:13:20 opaque/",
        "---------- 0/0 0 1970-01-01 00:00:00 opaque/.wh..wh..opq",
        "lrw-r--r-- 0/0 0 2023-11-14 22:13:20 sym -> ../../x",
        "-rwsr-xr-x* 3000000/0 2 1969-12-31 23:59:55 x",
        &format!("-rw-r--r-- 0/0 4 2023-11-14 22:13:20 {name}"),
        "x: 3 user.k",
    ] {
        assert!(
            text.iter().any(|line| line == expected),
            "no {expected} in {text:#?}"
        );
    }
    assert_eq!(text.len(), 9, "{text:#?}");
}

#[test]
fn files_that_changed_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("f");
    for new_content in [&b"other"[..], b"longer than before", b""] {
        std::fs::write(&at, b"first").unwrap();
        let change = host(folder.path(), "f");
        std::fs::write(&at, new_content).unwrap();
        let done = write_layer([change], &options(Compression::None, 1), io::sink());
        let error = done.unwrap_err().to_string();
        assert_eq!(error, "`/f` changed while it was being read");
    }
    let mut change = host(folder.path(), "f");
    if let FileContent::Host(file) = &mut change.content {
        file.hash = Some(ContentHash::of(b"something else"));
    }
    let done = write_layer([change], &options(Compression::None, 1), io::sink());
    assert!(matches!(
        done,
        Err(WriteError::Content(ContentError::Changed { .. }))
    ));
    let change = host(folder.path(), "f");
    std::fs::remove_file(&at).unwrap();
    let done = write_layer([change], &options(Compression::None, 1), io::sink());
    assert!(
        done.unwrap_err()
            .to_string()
            .starts_with("cannot read `/f`: ")
    );
}

#[test]
fn a_large_file_that_shrinks_meanwhile_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("f");
    std::fs::write(&at, vec![7; 3_000_000]).unwrap();
    let change = host(folder.path(), "f");
    let mut writer = LayerWriter::new(&options(Compression::None, 1), io::sink()).unwrap();
    writer.push(change).unwrap();
    File::options()
        .write(true)
        .open(&at)
        .unwrap()
        .set_len(1)
        .unwrap();
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(error, WriteError::Content(ContentError::Changed { .. })),
        "{error}"
    );
}

#[test]
fn impossible_layers_are_refused() {
    let target = EntryPath::new("b").unwrap();
    let mut wrong_size = inline("a", b"12");
    wrong_size.entry.kind = Kind::File { size: 3 };
    let cases: [(Vec<Change>, &str); 6] = [
        (
            vec![inline("b", b""), inline("a", b"")],
            "`/a` is out of order in its layer",
        ),
        (
            vec![inline("a", b""), inline("a", b"")],
            "`/a` is out of order in its layer",
        ),
        (
            vec![plain("a", Kind::Hardlink { target }), inline("b", b"")],
            "the hard link `/a` has no file `/b` before it in its layer",
        ),
        (
            vec![wrong_size],
            "the content given for `/a` does not fit its entry",
        ),
        (
            vec![inline("d/.wh.x", b"")],
            "`/d/.wh.x` cannot be stored in a layer: names that start with `.wh.` mark deletions",
        ),
        (vec![inline("", b"")], "a layer has no entry for its root"),
    ];
    for (changes, expected) in cases {
        let done = write_layer(changes, &options(Compression::None, 1), io::sink());
        assert_eq!(done.unwrap_err().to_string(), expected);
    }
}

/// Fails at the n-th write.
struct Failing {
    writes_left: usize,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.writes_left.checked_sub(1) {
            Some(left) => self.writes_left = left,
            None => return Err(io::Error::other("disk full")),
        }
        Ok(bytes.len().min(60_000))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_at_any_write_is_an_error() {
    let changes = many();
    for compression in [Compression::None, Compression::GZIP, Compression::ZSTD] {
        let mut writes_left = 0;
        loop {
            let sink = Failing { writes_left };
            match write_layer(changes.iter().cloned(), &options(compression, 2), sink) {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, WriteError::Sink { .. }), "{error}"),
            }
            writes_left += 1 + writes_left / 3;
        }
        assert!(writes_left > 0, "no write failed");
    }
}
