//! One file change of a layer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A path inside a root: bytes, `/` between components, no leading or trailing slash,
/// no empty, `.` or `..` component. The root itself is the empty path.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct EntryPath(Vec<u8>);

/// A path that is not clean, or climbs out of its root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a path inside the root", String::from_utf8_lossy(.0))]
pub struct EntryPathError(pub Vec<u8>);

impl EntryPath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Cleans `path`: leading slashes, `.` components and doubled slashes go.
    ///
    /// # Errors
    /// When a component is `..` or holds a NUL.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, EntryPathError> {
        let path = path.as_ref();
        let mut clean = Vec::with_capacity(path.len());
        for component in path.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(EntryPathError(path.to_vec())),
                name if name.contains(&0) => return Err(EntryPathError(path.to_vec())),
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        Ok(Self(clean))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|b| *b == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The containing directory; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The path of `name` within this directory.
    ///
    /// # Errors
    /// When `name` is no clean relative path.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, EntryPathError> {
        let name = Self::new(name)?;
        Ok(match (self.is_root(), name.is_root()) {
            (true, _) => name,
            (_, true) => self.clone(),
            _ => Self([&self.0[..], b"/", &name.0[..]].concat()),
        })
    }

    /// Whether this is `ancestor` or below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root()
            || (self.0.starts_with(&ancestor.0)
                && matches!(self.0.get(ancestor.0.len()), None | Some(b'/')))
    }
}

/// Orders by components, so that a directory stands right before what it contains.
impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank = |b: u8| if b == b'/' { 0 } else { u16::from(b) + 1 };
        let (a, b) = (&self.0[..], &other.0[..]);
        match a.iter().zip(b).find(|(a, b)| a != b) {
            Some((a, b)) => rank(*a).cmp(&rank(*b)),
            None => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What every kind of entry has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission bits with set-id and sticky, up to 07777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content last changed.
    pub mtime: Timestamp,
    /// Extended attributes by full name (`security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory; `opaque` hides what lower layers have in it.
    Directory {
        /// Whether it hides lower layers' entries.
        opaque: bool,
    },
    /// A symbolic link; the target is verbatim.
    Symlink {
        /// The link's text.
        target: Vec<u8>,
    },
    /// Another name of a file of the same layer.
    Hardlink {
        /// The first name.
        target: EntryPath,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Nothing: hides what lower layers have at the path.
    Whiteout,
}

/// One change: what stands at a path in the layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub path: EntryPath,
    /// What.
    pub kind: Kind,
    /// Whose, when, with which attributes. All zero for a whiteout.
    pub metadata: Metadata,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_clean_and_inside() {
        assert_eq!(EntryPath::new("/a//./b/").unwrap().as_bytes(), b"a/b");
        assert!(EntryPath::new("a/../b").is_err());
        assert!(EntryPath::new(b"a\0b").is_err());
        let path = EntryPath::new("a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a");
        assert_eq!(path.name(), b"b");
        assert!(path.starts_with(&EntryPath::new("a").unwrap()));
        assert!(
            !EntryPath::new("ab")
                .unwrap()
                .starts_with(&EntryPath::new("a").unwrap())
        );
    }

    #[test]
    fn a_directory_stands_right_before_its_content() {
        let mut paths: Vec<EntryPath> = ["a.b", "a/z", "a", "a-c", "b"]
            .iter()
            .map(|p| EntryPath::new(p).unwrap())
            .collect();
        paths.sort();
        let text: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["/a", "/a/z", "/a-c", "/a.b", "/b"]);
    }
}
