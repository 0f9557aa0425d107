//! What the tests of layers share: trees on disk as lines of text, random layers.
#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod made;
#[path = "../../../../tests/skip.rs"]
mod skip_or_fail;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use longshore_layers::{
    Change, Compression, ContentHash, DirectoryForm, DirectoryOptions, Entry, EntryPath,
    FileContent, Kind, LayerSummary, Metadata, Ownership, Timestamp, WriteOptions, write_layer,
};
use proptest::prelude::*;

pub(crate) use skip_or_fail::skip;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

pub(crate) fn open(folder: &Path) -> OwnedFd {
    fs::File::open(folder).unwrap().into()
}

/// Owners are restored when the tests may do so.
pub(crate) fn options(form: DirectoryForm) -> DirectoryOptions {
    let mut options = DirectoryOptions::new(form);
    if !is_root() {
        options.ownership = Ownership::Ignore;
    }
    options
}

pub(crate) fn written(changes: &[Change]) -> (LayerSummary, Vec<u8>) {
    let mut tar = Vec::new();
    let options = WriteOptions::new(Compression::None);
    let summary = write_layer(changes.iter().cloned(), &options, &mut tar).unwrap();
    (summary, tar)
}

pub(crate) fn entry(text: &str, kind: Kind) -> Entry {
    Entry {
        path: path(text),
        kind,
        metadata: Metadata {
            mode: 0o755,
            mtime: Timestamp {
                seconds: 1_500_000_000,
                nanoseconds: 0,
            },
            ..Metadata::default()
        },
    }
}

pub(crate) fn plain(text: &str, kind: Kind) -> Change {
    Change::without_content(entry(text, kind))
}

pub(crate) fn file(text: &str, content: &[u8]) -> Change {
    let size = content.len() as u64;
    Change {
        entry: entry(text, Kind::File { size }),
        content: FileContent::Inline(content.into()),
    }
}

pub(crate) fn directory(text: &str) -> Change {
    plain(text, Kind::Directory { opaque: false })
}

pub(crate) fn symlink(text: &str, target: &str) -> Change {
    let target = target.as_bytes().to_vec();
    plain(text, Kind::Symlink { target })
}

pub(crate) fn hardlink(text: &str, target: &str) -> Change {
    let target = path(target);
    plain(text, Kind::Hardlink { target })
}

pub(crate) fn whiteout(text: &str) -> Change {
    let mut change = plain(text, Kind::Whiteout);
    change.entry.metadata = Metadata::default();
    change
}

/// A line of text for everything below a folder: kind, mode, owner, time, content or target,
/// attributes. Names of one file are told by their first one.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let mut lines = BTreeMap::new();
    let mut first_names = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    let mut all = Vec::new();
    while let Some(at) = pending.pop() {
        for found in fs::read_dir(folder.join(&at)).unwrap() {
            let at = at.join(found.unwrap().file_name());
            if fs::symlink_metadata(folder.join(&at)).unwrap().is_dir() {
                pending.push(at.clone());
            }
            all.push(EntryPath::new(at.as_os_str().as_bytes()).unwrap());
        }
    }
    all.sort();
    for at in all {
        let real = folder.join(std::ffi::OsStr::from_bytes(at.as_bytes()));
        let stat = fs::symlink_metadata(&real).unwrap();
        let file_type = stat.file_type();
        let kind = if file_type.is_dir() {
            "dir".to_owned()
        } else if file_type.is_symlink() {
            format!("-> {}", fs::read_link(&real).unwrap().display())
        } else if file_type.is_fifo() {
            "fifo".to_owned()
        } else if file_type.is_char_device() {
            format!("char {}", stat.rdev())
        } else if file_type.is_block_device() {
            format!("block {}", stat.rdev())
        } else {
            let first = first_names.entry(stat.ino()).or_insert_with(|| at.clone());
            match *first == at {
                true => ContentHash::of(&fs::read(&real).unwrap()).to_string()[..12].to_owned(),
                false => format!("= {first}"),
            }
        };
        let mode = stat.mode() & 0o7777;
        let (owner, time) = (format!("{}:{}", stat.uid(), stat.gid()), stat.mtime());
        let line = format!("{at} {kind} {mode:o} {owner} {time}{}", attributes(&real));
        lines.insert(at, line);
    }
    lines.into_values().collect()
}

fn attributes(at: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(at, &mut names[..]).unwrap_or(0);
    let mut text = String::new();
    let names = names[..length].split(|byte| *byte == 0);
    let mut names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    names.sort();
    for name in names {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(at, name, &mut value[..]).unwrap();
        let (name, value) = (String::from_utf8_lossy(name), &value[..length]);
        text += &format!(" {name}={}", String::from_utf8_lossy(value));
    }
    text
}

/// Paths of few short names, so that they meet often.
pub(crate) fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[a-c]", Just("n-.é".to_owned())], 1..4)
        .prop_map(|names| names.join("/"))
}

pub(crate) fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (0..3000_u64).prop_map(|size| Kind::File { size }),
        3 => any::<bool>().prop_map(|opaque| Kind::Directory { opaque }),
        1 => any_path().prop_map(|target| Kind::Symlink { target: target.into() }),
        1 => any_path().prop_map(|target| Kind::Hardlink { target: path(&target) }),
        1 => Just(Kind::Fifo),
        2 => Just(Kind::Whiteout),
    ]
}

/// A layer as a writer would make it: sorted, nothing below what is no directory, hard links
/// to earlier files of the layer alone.
pub(crate) fn any_layer() -> impl Strategy<Value = Vec<Change>> {
    let one = (any_path(), any_kind(), any::<u8>(), 0..2_000_000_000_i64);
    proptest::collection::vec(one, 0..12).prop_map(|all| {
        let mut changes: BTreeMap<EntryPath, Change> = BTreeMap::new();
        for (at, kind, seed, seconds) in all {
            let mut change = plain(&at, kind);
            change.entry.metadata.mode = 0o700 | u32::from(seed & 0o77);
            change.entry.metadata.mtime.seconds = seconds;
            if let Kind::File { size } = change.entry.kind
                && size > 0
            {
                let bytes = vec![seed; usize::try_from(size).unwrap()];
                change.content = FileContent::Inline(bytes.into());
            }
            changes.insert(path(&at), change);
        }
        settle(changes)
    })
}

fn settle(all: BTreeMap<EntryPath, Change>) -> Vec<Change> {
    let mut kept: BTreeMap<EntryPath, Change> = BTreeMap::new();
    for (at, mut change) in all {
        let mut above = at.parent();
        let mut is_below_file = false;
        while let Some(parent) = above {
            let kind = kept.get(&parent).map(|change| &change.entry.kind);
            is_below_file |= kind.is_some_and(|kind| !matches!(kind, Kind::Directory { .. }));
            above = parent.parent();
        }
        let kind = change.entry.kind.clone();
        match &kind {
            Kind::Whiteout => change.entry.metadata = Metadata::default(),
            Kind::Symlink { .. } => change.entry.metadata.mode = 0o777,
            Kind::Hardlink { target } => match kept.get(target) {
                Some(file) if matches!(file.entry.kind, Kind::File { .. }) => {
                    change.entry.metadata = file.entry.metadata.clone();
                }
                _ => continue,
            },
            _ => {}
        }
        if !is_below_file {
            kept.insert(at, change);
        }
    }
    kept.into_values().collect()
}
