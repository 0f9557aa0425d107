//! The root file system that layers make: image-spec `layer.md` over `tar`'s entries,
//! written without any of Longshore's own code for layers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::SystemTime;

use longshore_oci::Digest;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The only extended attribute that `docker save` writes, so that only it can be compared.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";
/// Longer files are shown by their digests.
const SHOWN_BYTES_MAX: usize = 2000;
/// How much younger than its beginning what the build makes may be.
const BUILD_SECONDS_MAX: i64 = 3600;

/// A path from the root, without slashes at its ends.
type Name = Vec<u8>;

/// An entry of a layer.
pub(crate) struct Entry {
    name: Name,
    kind: tar::EntryType,
    link: Vec<u8>,
    node: Node,
}

/// What is at a path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Node {
    what: String,
    mode: u32,
    owner: (u64, u64),
    time: i64,
    capability: Vec<u8>,
    /// Names of one file have one number.
    inode: usize,
}

/// What is at a path, as it is shown.
pub(crate) struct Line {
    /// Mode, owner, kind and content.
    pub(crate) text: String,
    /// The time of the last change; `None` where it is the time of the build.
    pub(crate) time: Option<i64>,
}

/// A root file system.
pub(crate) struct Tree {
    nodes: BTreeMap<Name, Node>,
    inodes: usize,
    /// Times from this second on are the time of the build.
    since: i64,
}

/// Reads a layer, compressed or not.
pub(crate) fn read_layer(content: &[u8]) -> Vec<Entry> {
    let mut plain = Vec::new();
    if content.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(content)
            .read_to_end(&mut plain)
            .unwrap();
    } else {
        plain.extend_from_slice(content);
    }
    let mut archive = tar::Archive::new(plain.as_slice());
    let mut extended = Extended::default();
    let mut entries = Vec::new();
    for entry in archive.entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if !extended.take(entry.header().entry_type(), &content) {
            let extended = std::mem::take(&mut extended);
            entries.push(read_entry(entry.header(), &content, extended));
        }
    }
    entries
}

/// What the headers before an entry say about it: pax records, or GNU's long names.
/// Their values may be any bytes, line ends too, which `tar` itself does not read.
#[derive(Default)]
struct Extended(BTreeMap<String, Vec<u8>>);

impl Extended {
    /// Takes what such a header says; whether it is one.
    fn take(&mut self, kind: tar::EntryType, content: &[u8]) -> bool {
        let text = || content.strip_suffix(&[0]).unwrap_or(content).to_vec();
        match kind {
            tar::EntryType::XHeader => self.records(content),
            tar::EntryType::GNULongName => drop(self.0.insert("path".into(), text())),
            tar::EntryType::GNULongLink => drop(self.0.insert("linkpath".into(), text())),
            tar::EntryType::XGlobalHeader => {}
            _ => return false,
        }
        true
    }

    /// Records of `LENGTH KEY=VALUE` and a line end, where the length counts all of it.
    fn records(&mut self, mut content: &[u8]) {
        while let Some(space) = content.iter().position(|byte| *byte == b' ') {
            let length: usize = std::str::from_utf8(&content[..space])
                .unwrap()
                .parse()
                .unwrap();
            let (record, rest) = content.split_at(length);
            let record = &record[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').unwrap();
            let key = String::from_utf8(record[..equals].to_vec()).unwrap();
            self.0.insert(key, record[equals + 1..].to_vec());
            content = rest;
        }
    }

    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn number(&self, key: &str) -> Option<u64> {
        let text = self.bytes(key)?;
        Some(std::str::from_utf8(&text).unwrap().parse().unwrap())
    }

    fn time(&self) -> Option<i64> {
        let text = self.bytes("mtime")?;
        Some(whole_seconds(std::str::from_utf8(&text).unwrap()))
    }
}

fn read_entry(header: &tar::Header, content: &[u8], extended: Extended) -> Entry {
    let kind = header.entry_type();
    let name = extended.bytes("path");
    let name = clean(&name.unwrap_or_else(|| header.path_bytes().into_owned()));
    let link = extended.bytes("linkpath");
    let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
    // A number that is left out is nought.
    let uid = extended
        .number("uid")
        .unwrap_or_else(|| header.uid().unwrap_or(0));
    let gid = extended
        .number("gid")
        .unwrap_or_else(|| header.gid().unwrap_or(0));
    let written = || i64::try_from(header.mtime().unwrap()).unwrap_or(i64::MAX);
    let node = Node {
        what: describe(header, content, &link),
        // A symbolic link's mode means nothing.
        mode: if kind.is_symlink() {
            0o777
        } else {
            header.mode().unwrap() & 0o7777
        },
        owner: (uid, gid),
        time: extended.time().unwrap_or_else(written),
        capability: extended.bytes(CAPABILITY).unwrap_or_default(),
        inode: 0,
    };
    Entry {
        name,
        kind,
        link,
        node,
    }
}

/// The whole second at or before a time with a fraction.
fn whole_seconds(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().unwrap();
    let below = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    seconds - i64::from(below)
}

fn describe(header: &tar::Header, content: &[u8], link: &[u8]) -> String {
    let device = || {
        let major = header.device_major().unwrap().unwrap_or_default();
        let minor = header.device_minor().unwrap().unwrap_or_default();
        format!("{major}:{minor}")
    };
    match header.entry_type() {
        tar::EntryType::Directory => "directory".to_owned(),
        tar::EntryType::Symlink => format!("link to {}", link.escape_ascii()),
        tar::EntryType::Fifo => "fifo".to_owned(),
        tar::EntryType::Char => format!("character device {}", device()),
        tar::EntryType::Block => format!("block device {}", device()),
        _ => {
            let shown = match std::str::from_utf8(content) {
                Ok(text) if text.len() < SHOWN_BYTES_MAX => format!("{text:?}"),
                _ => Digest::sha256_of(content).to_string(),
            };
            format!("file of {} bytes {shown}", content.len())
        }
    }
}

fn clean(path: &[u8]) -> Name {
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    parts.join(&b'/')
}

/// The directory and the last part of a name.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&[], name),
    }
}

impl Tree {
    /// An empty one.
    pub(crate) fn new(since: SystemTime) -> Self {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self {
            nodes: BTreeMap::new(),
            inodes: 0,
            since: i64::try_from(since.as_secs()).unwrap() - 1,
        }
    }

    /// Puts a layer on top. Whiteouts hide what lower layers have, wherever they stand.
    pub(crate) fn apply(&mut self, layer: &[Entry]) {
        for entry in layer {
            let (folder, last) = split(&entry.name);
            if last == OPAQUE {
                self.remove_below(folder);
            } else if let Some(hidden) = last.strip_prefix(WHITEOUT) {
                let name = [folder, hidden].join(&b'/');
                self.remove(&clean(&name));
            }
        }
        for entry in layer {
            if !split(&entry.name).1.starts_with(WHITEOUT) && !entry.name.is_empty() {
                self.put(entry);
            }
        }
    }

    fn put(&mut self, entry: &Entry) {
        let node = if entry.kind.is_hard_link() {
            let target = clean(&entry.link);
            let found = self.nodes.get(&target);
            found
                .unwrap_or_else(|| {
                    let name = entry.name.escape_ascii();
                    panic!(
                        "{name} is a hard link to {}, which is not there",
                        target.escape_ascii()
                    )
                })
                .clone()
        } else {
            self.inodes += 1;
            let mut node = entry.node.clone();
            node.inode = self.inodes;
            node
        };
        let stays = node.what == "directory"
            && self
                .nodes
                .get(&entry.name)
                .is_some_and(|there| there.what == "directory");
        if !stays {
            self.remove(&entry.name);
        }
        self.nodes.insert(entry.name.clone(), node);
    }

    fn remove(&mut self, name: &[u8]) {
        self.nodes.remove(name);
        self.remove_below(name);
    }

    fn remove_below(&mut self, folder: &[u8]) {
        let mut prefix = folder.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        self.nodes.retain(|name, _| !name.starts_with(&prefix));
    }

    /// What is known of every path.
    pub(crate) fn lines(&self) -> BTreeMap<String, Line> {
        let mut groups: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (name, node) in &self.nodes {
            let shown = name.escape_ascii().to_string();
            groups.entry(node.inode).or_default().insert(shown);
        }
        self.nodes
            .iter()
            .map(|(name, node)| {
                let shown = format!("/{}", name.escape_ascii());
                (shown, self.line(node, &groups[&node.inode]))
            })
            .collect()
    }

    fn line(&self, node: &Node, names: &BTreeSet<String>) -> Line {
        let (uid, gid) = node.owner;
        let mut text = format!("{:04o} {uid}:{gid} {}", node.mode, node.what);
        if !node.capability.is_empty() {
            text += &format!(", capability {}", node.capability.escape_ascii());
        }
        if names.len() > 1 {
            text += &format!(", one of {names:?}");
        }
        let built = self.since..self.since + BUILD_SECONDS_MAX;
        Line {
            text,
            time: (!built.contains(&node.time)).then_some(node.time),
        }
    }
}
