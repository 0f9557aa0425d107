//! Trees as text.
//!
//! ```text
//! dir  /bin 755 0:0 @5        mode, owner and seconds may be left out, from the right
//! file /bin/sh 755 1:2 @5 =content +user.note=x
//! link /lib usr/lib
//! hard /bin/ash /bin/sh
//! fifo /p     char /null 1 3     gone /x     dir! /opaque
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::copy::LayerContent;
use crate::copy::tests::globs::Globs;
use crate::copy::{CopyError, CopyOptions, LayerBuilder, Selection, TreeSource};
use crate::source::OpenContent;
use crate::{
    Change, ContentHash, Entry, EntryPath, FileContent, IndexEntry, Kind, LayerIndex, Metadata,
    Node, Timestamp, TreeView,
};

/// One layer and its files' bytes.
pub(super) struct Fixture {
    pub(super) view: TreeView,
    bytes: BTreeMap<EntryPath, Vec<u8>>,
}

impl LayerContent for Fixture {
    fn content(&self, file: &Node<'_>) -> io::Result<FileContent> {
        let bytes = self.bytes.get(&file.entry.path);
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        Ok(FileContent::Inline(bytes.clone().into()))
    }
}

impl Fixture {
    pub(super) fn new(text: &str) -> Self {
        let mut bytes = BTreeMap::new();
        let entries = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| entry(line, &mut bytes))
            .collect();
        let index = LayerIndex::new(entries).unwrap();
        Self {
            view: TreeView::new(&[Arc::new(index)]),
            bytes,
        }
    }

    /// Puts a file with any bytes on top.
    pub(super) fn with_file(mut self, name: &str, content: &[u8]) -> Self {
        let path = EntryPath::new(name).unwrap();
        let listed = IndexEntry {
            entry: Entry {
                path: path.clone(),
                kind: Kind::File {
                    size: content.len() as u64,
                },
                metadata: Metadata {
                    mode: 0o644,
                    ..Metadata::default()
                },
            },
            content: Some(ContentHash::of(content)),
            data_offset: None,
        };
        self.view
            .push(Arc::new(LayerIndex::new(vec![listed]).unwrap()));
        self.bytes.insert(path, content.to_vec());
        self
    }

    pub(super) fn source(&self) -> TreeSource<'_> {
        TreeSource {
            view: &self.view,
            content: self,
        }
    }

    pub(super) fn builder(&self) -> LayerBuilder<'_> {
        LayerBuilder::new(self.view.clone(), self)
    }
}

fn entry(line: &str, bytes: &mut BTreeMap<EntryPath, Vec<u8>>) -> IndexEntry {
    let words: Vec<&str> = line.split_whitespace().collect();
    let path = EntryPath::new(words[1]).unwrap();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let mut content = None;
    let kind = match words[0] {
        "dir" => Kind::Directory { opaque: false },
        "file" => {
            let text = words.iter().find_map(|word| word.strip_prefix('='));
            let text = text.unwrap_or_default().as_bytes();
            bytes.insert(path.clone(), text.to_vec());
            content = Some(ContentHash::of(text));
            Kind::File {
                size: text.len() as u64,
            }
        }
        "link" => Kind::Symlink {
            target: word(2).as_bytes().to_vec(),
        },
        "hard" => Kind::Hardlink {
            target: EntryPath::new(word(2)).unwrap(),
        },
        "fifo" => Kind::Fifo,
        "char" => Kind::CharDevice {
            major: word(2).parse().unwrap(),
            minor: word(3).parse().unwrap(),
        },
        other => panic!("unknown kind {other}"),
    };
    IndexEntry {
        entry: Entry {
            path,
            metadata: metadata(&kind, &words),
            kind,
        },
        content,
        data_offset: None,
    }
}

fn metadata(kind: &Kind, words: &[&str]) -> Metadata {
    let mode = match kind {
        Kind::Directory { .. } => 0o755,
        Kind::Symlink { .. } => 0o777,
        _ => 0o644,
    };
    let mut metadata = Metadata {
        mode,
        ..Metadata::default()
    };
    for word in &words[2..] {
        if let Some(seconds) = word.strip_prefix('@') {
            metadata.mtime.seconds = seconds.parse().unwrap();
        } else if let Some(xattr) = word.strip_prefix('+') {
            let (name, value) = xattr.split_once('=').unwrap();
            metadata.xattrs.insert(name.into(), value.into());
        } else if word.starts_with('=') {
            // The content.
        } else if let Some((uid, gid)) = word.split_once(':') {
            metadata.uid = uid.parse().unwrap();
            metadata.gid = gid.parse().unwrap();
        } else if matches!(
            kind,
            Kind::File { .. } | Kind::Directory { .. } | Kind::Fifo
        ) {
            metadata.mode = u32::from_str_radix(word, 8).unwrap();
        }
    }
    metadata
}

/// The changes as text, complete.
pub(super) fn render(changes: &[Change]) -> String {
    changes.iter().map(|change| line(change) + "\n").collect()
}

fn line(change: &Change) -> String {
    let path = &change.entry.path;
    let metadata = &change.entry.metadata;
    let mut text = match &change.entry.kind {
        Kind::File { .. } => format!("file {path}"),
        Kind::Directory { opaque: false } => format!("dir {path}"),
        Kind::Directory { opaque: true } => format!("dir! {path}"),
        Kind::Symlink { target } => format!("link {path} {}", String::from_utf8_lossy(target)),
        Kind::Hardlink { target } => format!("hard {path} {target}"),
        Kind::CharDevice { major, minor } => format!("char {path} {major} {minor}"),
        Kind::BlockDevice { major, minor } => format!("block {path} {major} {minor}"),
        Kind::Fifo => format!("fifo {path}"),
        Kind::Whiteout => return format!("gone {path}"),
    };
    text += &format!(" {:o} {}:{}", metadata.mode, metadata.uid, metadata.gid);
    if metadata.mtime != Timestamp::default() {
        text += &format!(" @{}", metadata.mtime.seconds);
    }
    if let Kind::File { size } = change.entry.kind {
        let mut bytes = Vec::new();
        let content = OpenContent::open(path, &change.content).unwrap();
        content.read_into(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size, "{path}");
        text += &format!(" ={}", String::from_utf8_lossy(&bytes));
    }
    for (name, value) in &metadata.xattrs {
        let (name, value) = (
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(value),
        );
        text += &format!(" +{name}={value}");
    }
    text
}

/// `COPY SOURCE DEST` as the Dockerfile frontend asks for it.
pub(super) fn copy<'a>(source: &'a str, dest: &'a str) -> CopyOptions<'a, Globs> {
    CopyOptions {
        selection: Selection {
            wildcard: true,
            ..Selection::literal(source)
        },
        dest,
        owner: None,
        mode: None,
        unpack: false,
        allow_empty_wildcard: true,
        create_dest_path: true,
        always_replace: false,
        timestamp: None,
    }
}

/// One layer: copies from `source`, one after the other.
pub(super) fn layer(
    source: &str,
    base: &str,
    copies: &[CopyOptions<'_, Globs>],
) -> Result<Vec<Change>, CopyError> {
    let (source, base) = (Fixture::new(source), Fixture::new(base));
    let mut builder = base.builder();
    for options in copies {
        builder.copy(options, &source.source())?;
    }
    Ok(builder.finish())
}

/// As [`layer`], as text; an error is its message.
pub(super) fn shown(source: &str, base: &str, copies: &[CopyOptions<'_, Globs>]) -> String {
    match layer(source, base, copies) {
        Ok(changes) => render(&changes),
        Err(error) => format!("error: {error}\n"),
    }
}
