//! What earlier builds hashed.
//!
//! One file per context root, named by the root's path. All numbers are little endian.
//!
//! ```text
//! magic       8  "LSSTAT01"
//! root        4 length + bytes       the context's path, as a collision guard
//! count       4
//! records, sorted by path:
//!   shared    2  bytes that the path has in common with the previous record's
//!   rest      2 length + bytes
//!   age       1  stores since the path was last part of the context
//!   device 8  inode 8  size 8  mtime 8+4  ctime 8+4
//!   hash     32  BLAKE3 of the content
//! check      32  BLAKE3 of everything above
//! ```
//!
//! Invariant: a record is only written when its stamp was settled before the content was
//! read. A file that is missing, damaged, or of another version or root is an empty
//! cache: this is a shortcut, never a source of truth.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::context::{ContextNode, ContextTree};
use crate::{ContentHash, EntryPath, FileStamp, Timestamp};

const MAGIC: &[u8; 8] = b"LSSTAT01";
const CHECK_BYTES: usize = 32;

/// A path that was not part of the context this many times in a row is forgotten. Builds
/// with different ignore files share one cache, so one absence is not enough.
const AGE_MAX: u8 = 16;

/// A larger file is not read: no cache of ours is.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// How much all contexts of a directory may take; one is some 150 bytes for each of its files.
const DIRECTORY_BYTES_MAX: u64 = 256 << 20;

/// A cache that is used is marked as used this often.
const MARK_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Remembers which content a path had when its file looked a certain way.
pub trait StatCache: Sync {
    /// The digest of the file at `path`, if it certainly still is what it was when the
    /// file had this stamp: a stamp that was not settled then must give `None`.
    fn lookup(&self, path: &EntryPath, stamp: &FileStamp) -> Option<ContentHash>;
}

/// Remembers nothing: every file is read.
#[derive(Clone, Copy, Debug)]
pub struct NoStatCache;

impl StatCache for NoStatCache {
    fn lookup(&self, _path: &EntryPath, _stamp: &FileStamp) -> Option<ContentHash> {
        None
    }
}

/// A cache on disk.
#[derive(Debug)]
pub struct StatCacheFile {
    file: PathBuf,
    root: PathBuf,
    records: HashMap<EntryPath, Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    age: u8,
    stamp: FileStamp,
    hash: ContentHash,
}

impl StatCache for StatCacheFile {
    fn lookup(&self, path: &EntryPath, stamp: &FileStamp) -> Option<ContentHash> {
        let record = self.records.get(path)?;
        (record.stamp == *stamp).then_some(record.hash)
    }
}

impl StatCacheFile {
    /// Reads the cache for the context `root` from `directory`; empty where there is
    /// none that can be used.
    pub fn load(directory: &Path, root: &Path) -> Self {
        // However it is named: relative, or through links.
        let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
        let name = blake3::hash(root.as_os_str().as_bytes()).to_hex();
        let file = directory.join(format!("{}.stat", &name[..32]));
        let records = read_bounded(&file)
            .and_then(|bytes| decode(&bytes, &root))
            .unwrap_or_default();
        mark_used(&file);
        Self {
            file,
            root,
            records,
        }
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Writes what is known after a build, replacing the file at once; nothing is
    /// written where nothing changed.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn store(&self, tree: &ContextTree) -> io::Result<()> {
        if self.is_current(tree) {
            return Ok(());
        }
        let next = self.next(tree);
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        replace(&self.file, &encode(&next, &self.root))?;
        match self.file.parent() {
            // Checkouts have a new path each time in some places.
            Some(directory) if self.is_empty() => forget_oldest(directory, DIRECTORY_BYTES_MAX),
            _ => Ok(()),
        }
    }

    /// Whether it knows exactly what the tree knows now.
    fn is_current(&self, tree: &ContextTree) -> bool {
        let mut known = 0;
        let mut fresh = tree
            .nodes()
            .iter()
            .filter_map(|node| Some((node, fresh(node)?)));
        let is_same = fresh.all(|(node, record)| {
            known += 1;
            self.records.get(&node.path) == Some(&record)
        });
        is_same && known == self.records.len()
    }

    fn next(&self, tree: &ContextTree) -> HashMap<EntryPath, Record> {
        let mut next: HashMap<EntryPath, Record> = tree
            .nodes()
            .iter()
            .filter_map(|node| Some((node.path.clone(), fresh(node)?)))
            .collect();
        for (path, record) in &self.records {
            if !next.contains_key(path) && tree.node(path).is_none() && record.age < AGE_MAX {
                let age = record.age + 1;
                next.insert(path.clone(), Record { age, ..*record });
            }
        }
        next
    }
}

fn fresh(node: &ContextNode) -> Option<Record> {
    let known = node.hash.get().filter(|known| known.settled)?;
    // An empty file is hashed faster than it is looked up.
    (node.stamp.size > 0).then_some(Record {
        age: 0,
        stamp: node.stamp,
        hash: known.hash,
    })
}

fn read_bounded(file: &Path) -> Option<Vec<u8>> {
    let size = std::fs::metadata(file).ok()?.len();
    (size <= FILE_BYTES_MAX)
        .then(|| std::fs::read(file).ok())
        .flatten()
}

/// Lets a cache that is used look younger than one that is not. One that cannot be marked is
/// merely forgotten earlier.
fn mark_used(file: &Path) {
    let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > MARK_INTERVAL);
    let metadata = std::fs::metadata(file);
    if metadata.and_then(|it| it.modified()).is_ok_and(is_old)
        && let Ok(file) = std::fs::File::open(file)
    {
        _ = file.set_modified(SystemTime::now());
    }
}

/// Removes the caches that were not used for the longest time, until those that are left take no
/// more than `bytes_max`.
fn forget_oldest(directory: &Path, bytes_max: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // What is gone was forgotten by another build.
        if let Ok(metadata) = entry.metadata() {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    let mut kept = 0u64;
    for (_, size, path) in files {
        kept = kept.saturating_add(size);
        if kept > bytes_max {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// No `fsync`: what a crash leaves behind fails its check and is an empty cache.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = file.with_extension(format!("{}-{unique}.tmp", std::process::id()));
    let written = std::fs::File::create_new(&temporary)
        .and_then(|mut out| out.write_all(bytes))
        .and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        // The first error is the one to report; a file left behind is only waste.
        _ = std::fs::remove_file(&temporary);
    }
    written
}

fn encode(records: &HashMap<EntryPath, Record>, root: &Path) -> Vec<u8> {
    let mut sorted: Vec<(&EntryPath, &Record)> = records
        .iter()
        // Longer paths than the format has room for are merely not remembered.
        .filter(|(path, _)| path.as_bytes().len() <= usize::from(u16::MAX))
        .collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
    let mut out = MAGIC.to_vec();
    put_bytes32(&mut out, root.as_os_str().as_bytes());
    out.extend(
        u32::try_from(sorted.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    let mut previous: &[u8] = b"";
    for (path, record) in sorted {
        put_record(&mut out, previous, path.as_bytes(), record);
        previous = path.as_bytes();
    }
    let check = blake3::hash(&out);
    out.extend_from_slice(check.as_bytes());
    out
}

fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_record(out: &mut Vec<u8>, previous: &[u8], path: &[u8], record: &Record) {
    let shared = previous
        .iter()
        .zip(path)
        .take_while(|(a, b)| a == b)
        .count();
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
    out.extend(short(shared));
    out.extend(short(path.len() - shared));
    out.extend_from_slice(&path[shared..]);
    out.push(record.age);
    for number in [record.stamp.device, record.stamp.inode, record.stamp.size] {
        out.extend(number.to_le_bytes());
    }
    for time in [record.stamp.mtime, record.stamp.ctime] {
        out.extend(time.seconds.to_le_bytes());
        out.extend(time.nanoseconds.to_le_bytes());
    }
    out.extend_from_slice(&record.hash.0);
}

fn decode(bytes: &[u8], root: &Path) -> Option<HashMap<EntryPath, Record>> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    if blake3::hash(body).as_bytes() != check {
        return None;
    }
    let mut input = body.strip_prefix(MAGIC)?;
    let root_length = u32::from_le_bytes(take(&mut input)?);
    if take_slice(&mut input, usize::try_from(root_length).ok()?)? != root.as_os_str().as_bytes() {
        return None;
    }
    let count = u32::from_le_bytes(take(&mut input)?);
    let mut records = HashMap::new();
    let mut path = Vec::new();
    for _ in 0..count {
        let record = take_record(&mut input, &mut path)?;
        records.insert(EntryPath::new(&path).ok()?, record);
    }
    input.is_empty().then_some(records)
}

fn take_record(input: &mut &[u8], path: &mut Vec<u8>) -> Option<Record> {
    let shared = u16::from_le_bytes(take(input)?);
    let rest = u16::from_le_bytes(take(input)?);
    path.truncate(shared.into());
    path.extend_from_slice(take_slice(input, rest.into())?);
    let [age] = take(input)?;
    let stamp = FileStamp {
        device: u64::from_le_bytes(take(input)?),
        inode: u64::from_le_bytes(take(input)?),
        size: u64::from_le_bytes(take(input)?),
        mtime: take_time(input)?,
        ctime: take_time(input)?,
    };
    let hash = ContentHash(take(input)?);
    Some(Record { age, stamp, hash })
}

fn take_time(input: &mut &[u8]) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: i64::from_le_bytes(take(input)?),
        nanoseconds: u32::from_le_bytes(take(input)?),
    })
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*head)
}

fn take_slice<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u64) -> Record {
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 7,
        };
        Record {
            age: 3,
            stamp: FileStamp {
                device: n,
                inode: 2,
                size: 3,
                mtime: time,
                ctime: time,
            },
            hash: ContentHash::of(&n.to_le_bytes()),
        }
    }

    fn sample() -> HashMap<EntryPath, Record> {
        ["a", "a/b", "a/bc", "z"]
            .iter()
            .zip(0..)
            .map(|(path, n)| (EntryPath::new(path).unwrap(), record(n)))
            .collect()
    }

    #[test]
    fn contexts_that_were_not_used_for_long_are_forgotten_first() {
        let folder = tempfile::tempdir().unwrap();
        for (name, age_s) in [("old", 300), ("new", 100), ("older", 400)] {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_len(10).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age_s);
            file.set_modified(time).unwrap();
        }
        let left = |bytes_max| {
            forget_oldest(folder.path(), bytes_max).unwrap();
            let names = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(30), ["new", "old", "older"]);
        assert_eq!(left(29), ["new", "old"]);
        assert_eq!(left(9), Vec::<&str>::new());
    }

    #[test]
    fn what_is_encoded_decodes() {
        let root = Path::new("/srv/app");
        let bytes = encode(&sample(), root);
        assert_eq!(decode(&bytes, root), Some(sample()));
        assert_eq!(decode(&bytes, Path::new("/srv/other")), None);
    }

    #[test]
    fn any_damage_empties_the_cache() {
        let root = Path::new("/srv/app");
        let bytes = encode(&sample(), root);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, root), None, "bit flipped at {at}");
            assert_eq!(decode(&bytes[..at], root), None, "cut at {at}");
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let one = HashMap::from([(EntryPath::new("a").unwrap(), record(0))]);
        let bytes = encode(&one, Path::new("/r"));
        let record_bytes = 2 + 2 + 1 + 1 + 3 * 8 + 2 * 12 + 32;
        assert_eq!(bytes.len(), 8 + (4 + 2) + 4 + record_bytes + 32);
        assert_eq!(&bytes[..18], b"LSSTAT01\x02\0\0\0/r\x01\0\0\0");
    }
}
