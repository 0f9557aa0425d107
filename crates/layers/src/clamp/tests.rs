use super::*;
use crate::{
    Compression, DecompressLimits, Decompressor, Entry, EntryPath, FileContent, Metadata,
    index_of_tar, write_layer,
};

const LATE: i64 = 1_700_000_000;

fn change(path: &str, kind: Kind, seconds: i64) -> Change {
    let metadata = Metadata {
        mode: 0o640,
        uid: 3,
        mtime: Timestamp {
            seconds,
            nanoseconds: 0,
        },
        xattrs: [(b"user.color".to_vec(), b"teal".to_vec())].into(),
        ..Metadata::default()
    };
    let entry = Entry {
        path: EntryPath::new(path).unwrap(),
        kind,
        metadata,
    };
    let content = match entry.kind {
        Kind::File { size } if size > 0 => {
            let bytes = vec![7; usize::try_from(size).unwrap()];
            FileContent::Inline(bytes.into())
        }
        _ => FileContent::Empty,
    };
    Change { entry, content }
}

/// Every kind of entry, with marks, a long name and a file of many pieces.
fn layer() -> Vec<Change> {
    let mut whiteout = Change::without_content(Entry {
        path: EntryPath::new("d/gone").unwrap(),
        kind: Kind::Whiteout,
        metadata: Metadata::default(),
    });
    whiteout.entry.metadata.mode = 0;
    let target = EntryPath::new("d/file").unwrap();
    vec![
        change("d", Kind::Directory { opaque: true }, LATE),
        change("d/early", Kind::File { size: 513 }, 5),
        change("d/empty", Kind::File { size: 0 }, LATE),
        change("d/file", Kind::File { size: 3_000_001 }, LATE),
        whiteout,
        change("d/hard", Kind::Hardlink { target }, LATE),
        change(
            "d/link",
            Kind::Symlink {
                target: b"../x".to_vec(),
            },
            LATE,
        ),
        change(&format!("d/{}", "n".repeat(200)), Kind::Fifo, LATE + 1),
    ]
}

fn written(changes: Vec<Change>) -> (crate::LayerSummary, Vec<u8>) {
    let mut blob = Vec::new();
    let options = WriteOptions::new(Compression::GZIP);
    let summary = write_layer(changes, &options, &mut blob).unwrap();
    (summary, blob)
}

fn clamped(blob: &[u8], seconds: i64) -> (ClampedLayer, Vec<u8>) {
    let latest = Timestamp {
        seconds,
        nanoseconds: 0,
    };
    let input = Decompressor::new(io::Cursor::new(blob), DecompressLimits::LAYER).unwrap();
    let options = WriteOptions::new(Compression::GZIP);
    clamp_tar(
        input,
        TimeLimit::at(latest),
        TarLimits::LAYER,
        &options,
        Vec::new(),
    )
    .unwrap()
}

#[test]
fn a_stream_that_is_early_enough_comes_out_byte_for_byte() {
    let (summary, blob) = written(layer());
    let (again, bytes) = clamped(&blob, LATE + 1);
    assert_eq!(bytes, blob);
    assert_eq!(again.source_diff_id, summary.diff_id);
    assert_eq!(again.diff_id, summary.diff_id);
    assert_eq!(again.digest, summary.digest);
    assert_eq!(again.uncompressed_size, summary.uncompressed_size);
}

#[test]
fn clamping_a_blob_gives_what_clamping_its_files_gives() {
    let (_, blob) = written(layer());
    let mut early = layer();
    let latest = Timestamp {
        seconds: 1000,
        nanoseconds: 0,
    };
    clamp_changes(&mut early, TimeLimit::at(latest));
    let (expected, expected_blob) = written(early);
    let (again, bytes) = clamped(&blob, 1000);
    assert_eq!(bytes, expected_blob);
    assert_eq!(again.diff_id, expected.diff_id);
    let read = Decompressor::new(io::Cursor::new(bytes), DecompressLimits::LAYER).unwrap();
    let index = index_of_tar(read, TarLimits::LAYER).unwrap().index;
    let time = |path: &str| {
        let path = EntryPath::new(path).unwrap();
        index.find(&path).unwrap().entry.metadata.mtime.seconds
    };
    assert_eq!(
        (time("d/early"), time("d/file"), time("d")),
        (5, 1000, 1000)
    );
}

#[test]
fn the_latest_time_is_found() {
    let (summary, blob) = written(layer());
    let input = Decompressor::new(io::Cursor::new(blob), DecompressLimits::LAYER).unwrap();
    let (latest, diff_id) = latest_time_of_tar(input, TarLimits::LAYER).unwrap();
    assert_eq!(latest.seconds, LATE + 1);
    assert_eq!(diff_id, summary.diff_id);
}

#[test]
fn a_truncated_stream_is_an_error() {
    let mut blob = Vec::new();
    let options = WriteOptions::new(Compression::None);
    write_layer(layer(), &options, &mut blob).unwrap();
    blob.truncate(100_000);
    let latest = Timestamp::default();
    let failed = clamp_tar(
        &blob[..],
        TimeLimit::at(latest),
        TarLimits::LAYER,
        &options,
        Vec::new(),
    );
    failed.unwrap_err();
}

#[test]
fn what_a_step_made_has_the_latest_time_and_nothing_is_later() {
    let at = |seconds| Timestamp {
        seconds,
        nanoseconds: 0,
    };
    let time = |seconds, made, latest| {
        let limit = TimeLimit {
            latest: at(latest),
            made: at(made),
        };
        let given = limit.apply(at(seconds)).seconds;
        assert!(!limit.keeps_until(at(seconds)) || given == seconds);
        given
    };
    // The step ran at 100; the limit is before that.
    assert_eq!([time(100, 100, 50), time(70, 100, 50)], [50, 50]);
    assert_eq!([time(50, 100, 50), time(49, 100, 50)], [50, 49]);
    // The limit is after the step ran: as if it had run then.
    assert_eq!([time(100, 100, 500), time(101, 100, 500)], [500, 500]);
    assert_eq!([time(99, 100, 500), time(0, 100, 500)], [99, 0]);
    let limit = TimeLimit {
        latest: at(500),
        made: at(100),
    };
    assert!(limit.keeps_until(at(99)) && !limit.keeps_until(at(100)));
    assert!(TimeLimit::at(at(5)).keeps_until(at(5)) && !TimeLimit::at(at(5)).keeps_until(at(6)));
}
