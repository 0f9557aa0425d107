//! What differs between two layers, file by file: pure.

use longshore_layers::{EntryPath, IndexEntry, Kind, LayerIndex, Timestamp};
use serde::Serialize;

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Where; what is no UTF-8 is replaced.
    pub path: String,
    /// How, at least in one way.
    pub how: Vec<How>,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum How {
    /// The second alone has it.
    Added,
    /// The first alone has it.
    Removed,
    /// It is another sort of thing.
    Kind {
        /// What it is in the first.
        first: String,
        /// In the second.
        second: String,
    },
    /// The bytes of a file, or the target of a link.
    Content {
        /// How many bytes in the first.
        first_bytes: u64,
        /// In the second.
        second_bytes: u64,
    },
    /// The permissions, octal.
    Mode {
        /// In the first.
        first: String,
        /// In the second.
        second: String,
    },
    /// User and group.
    Owner {
        /// In the first.
        first: String,
        /// In the second.
        second: String,
    },
    /// When it was last changed, seconds since 1970.
    Mtime {
        /// In the first.
        first: String,
        /// In the second.
        second: String,
    },
    /// Extended attributes.
    Attributes {
        /// Those that differ.
        names: Vec<String>,
    },
}

/// What differs, sorted by path.
pub(super) fn differences(first: &LayerIndex, second: &LayerIndex) -> Vec<FileDifference> {
    let (mut ours, mut theirs) = (
        first.entries().iter().peekable(),
        second.entries().iter().peekable(),
    );
    let mut found = Vec::new();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(one), Some(other)) => one.entry.path.cmp(&other.entry.path),
        };
        let one = if order.is_le() { ours.next() } else { None };
        let other = if order.is_ge() { theirs.next() } else { None };
        let (path, how) = match (one, other) {
            (Some(one), Some(other)) => (&one.entry.path, compare(one, other)),
            (Some(one), None) => (&one.entry.path, vec![How::Removed]),
            (None, Some(other)) => (&other.entry.path, vec![How::Added]),
            (None, None) => return found,
        };
        if !how.is_empty() {
            let path = shown_path(path);
            found.push(FileDifference { path, how });
        }
    }
}

fn compare(one: &IndexEntry, other: &IndexEntry) -> Vec<How> {
    let mut how = Vec::new();
    let (ours, theirs) = (&one.entry, &other.entry);
    how.extend(compare_kinds(one, other));
    let (before, after) = (&ours.metadata, &theirs.metadata);
    if before.mode != after.mode {
        how.push(How::Mode {
            first: format!("{:04o}", before.mode),
            second: format!("{:04o}", after.mode),
        });
    }
    if (before.uid, before.gid) != (after.uid, after.gid) {
        how.push(How::Owner {
            first: format!("{}:{}", before.uid, before.gid),
            second: format!("{}:{}", after.uid, after.gid),
        });
    }
    if before.mtime != after.mtime {
        how.push(How::Mtime {
            first: shown_time(before.mtime),
            second: shown_time(after.mtime),
        });
    }
    let names = before.xattrs.keys().chain(after.xattrs.keys());
    let mut names: Vec<String> = names
        .filter(|name| before.xattrs.get(*name) != after.xattrs.get(*name))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names.dedup();
    if !names.is_empty() {
        how.push(How::Attributes { names });
    }
    how
}

fn compare_kinds(one: &IndexEntry, other: &IndexEntry) -> Option<How> {
    let (ours, theirs) = (&one.entry.kind, &other.entry.kind);
    match (ours, theirs) {
        (Kind::File { size }, Kind::File { size: second }) => (one.content != other.content)
            .then_some(How::Content {
                first_bytes: *size,
                second_bytes: *second,
            }),
        (Kind::Symlink { target }, Kind::Symlink { target: second }) => (target != second)
            .then_some(How::Content {
                first_bytes: target.len() as u64,
                second_bytes: second.len() as u64,
            }),
        (ours, theirs) => (ours != theirs).then(|| How::Kind {
            first: shown_kind(ours),
            second: shown_kind(theirs),
        }),
    }
}

fn shown_path(path: &EntryPath) -> String {
    format!("/{}", String::from_utf8_lossy(path.as_bytes()))
}

fn shown_time(time: Timestamp) -> String {
    match time.nanoseconds {
        0 => time.seconds.to_string(),
        nanoseconds => format!("{}.{nanoseconds:09}", time.seconds),
    }
}

fn shown_kind(kind: &Kind) -> String {
    match kind {
        Kind::File { .. } => "file".to_owned(),
        Kind::Directory { opaque: false } => "directory".to_owned(),
        Kind::Directory { opaque: true } => "opaque directory".to_owned(),
        Kind::Symlink { .. } => "symbolic link".to_owned(),
        Kind::Hardlink { target } => format!("hard link to {}", shown_path(target)),
        Kind::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        Kind::Fifo => "pipe".to_owned(),
        Kind::Whiteout => "whiteout".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use longshore_layers::{ContentHash, Entry, Metadata};

    use super::*;

    fn file(path: &str, content: &[u8]) -> IndexEntry {
        let size = content.len() as u64;
        IndexEntry {
            entry: Entry {
                path: EntryPath::new(path).unwrap(),
                kind: Kind::File { size },
                metadata: Metadata {
                    mode: 0o644,
                    ..Metadata::default()
                },
            },
            content: Some(ContentHash::of(content)),
            data_offset: None,
        }
    }

    fn link(path: &str, target: &str) -> IndexEntry {
        IndexEntry {
            content: None,
            entry: Entry {
                kind: Kind::Symlink {
                    target: target.as_bytes().to_vec(),
                },
                ..file(path, b"").entry
            },
            ..file(path, b"")
        }
    }

    fn of(entries: Vec<IndexEntry>) -> LayerIndex {
        LayerIndex::new(entries).unwrap()
    }

    #[test]
    fn every_way_to_differ_is_told_and_what_is_equal_is_not() {
        let mut other = file("meta", b"x");
        other.entry.metadata.mode = 0o600;
        other.entry.metadata.gid = 7;
        other.entry.metadata.mtime.seconds = 5;
        other.entry.metadata.mtime.nanoseconds = 1;
        other.entry.metadata.xattrs = [(b"user.a".to_vec(), vec![1])].into();
        let first = of(vec![
            file("content", b"one"),
            file("gone", b""),
            file("kind", b""),
            link("link", "a"),
            file("meta", b"x"),
            file("same", b"s"),
        ]);
        let second = of(vec![
            file("content", b"three"),
            link("kind", "x"),
            link("link", "b"),
            other,
            file("new", b""),
            file("same", b"s"),
        ]);
        assert!(differences(&first, &first).is_empty());
        let found = differences(&first, &second);
        let how = |path: &str| {
            let found = found.iter().find(|file| file.path == path);
            found.unwrap_or_else(|| panic!("{path}")).how.clone()
        };
        assert_eq!(found.len(), 6);
        assert_eq!(
            how("/content"),
            [How::Content {
                first_bytes: 3,
                second_bytes: 5
            }]
        );
        assert_eq!(
            (how("/gone"), how("/new")),
            (vec![How::Removed], vec![How::Added])
        );
        assert!(matches!(&how("/kind")[..], [How::Kind { first, .. }] if first == "file"));
        assert_eq!(
            how("/link"),
            [How::Content {
                first_bytes: 1,
                second_bytes: 1
            }]
        );
        let pair = |first: &str, second: &str| (first.to_owned(), second.to_owned());
        let [
            How::Mode { first, second },
            How::Owner { .. },
            How::Mtime { second: time, .. },
            How::Attributes { names },
        ] = &how("/meta")[..]
        else {
            panic!("{:?}", how("/meta"));
        };
        assert_eq!(pair(first, second), pair("0644", "0600"));
        assert_eq!(
            (time.as_str(), names.as_slice()),
            ("5.000000001", &["user.a".to_owned()][..])
        );
    }
}
