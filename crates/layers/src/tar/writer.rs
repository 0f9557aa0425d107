//! Headers as Go's `archive/tar` writes them in its PAX format.
//!
//! Invariant: the bytes depend on the entry alone. Times are whole seconds, as containerd
//! and BuildKit write them; there are no user or group names.

use super::block::{self, BLOCK, Block};
use super::pax::{self, Records};
use super::{OPAQUE_MARKER, WHITEOUT_PREFIX};
use crate::limits::{PATH_BYTES_MAX, PAX_BYTES_MAX, path_within_limits};
use crate::{Entry, EntryPath, Kind, Metadata};

/// The two zero blocks that end an archive.
pub(crate) const END_OF_ARCHIVE: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What the records of extended attributes may take of [`PAX_BYTES_MAX`], with room left
/// for a path, a target and numbers.
const XATTR_RECORDS_BYTES_MAX: usize = PAX_BYTES_MAX - 4 * PATH_BYTES_MAX;

/// Why an entry cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A layer never has its root as an entry.
    #[error("a layer has no entry for its root")]
    Root,
    /// The name would be read back as the mark of a deletion.
    #[error("`{0}` cannot be stored in a layer: names that start with `.wh.` mark deletions")]
    ReservedName(EntryPath),
    /// The path is longer or deeper than [`crate::limits`] allow.
    #[error("`{0}` is too long or too deep for a layer")]
    PathTooLong(EntryPath),
    /// The name of an extended attribute has no form in a PAX header.
    #[error("`{path}` has an extended attribute whose name cannot be stored: `{}`", String::from_utf8_lossy(.name))]
    XattrName {
        /// The entry.
        path: EntryPath,
        /// The attribute.
        name: Vec<u8>,
    },
    /// All extended attributes together are longer than readers take.
    #[error("`{0}` has more extended attributes than a layer can store")]
    XattrsTooLong(EntryPath),
    /// The target of a link holds a NUL, or a device number does not fit.
    #[error("`{0}` has a target or device number that cannot be stored")]
    Value(EntryPath),
}

/// How many zero bytes follow `size` bytes of content.
pub(crate) fn padding_of(size: u64) -> usize {
    let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - used) % BLOCK
}

/// Appends the headers of `entry`; a file's content comes after them, then its padding.
/// An opaque directory is followed by its marker.
pub(crate) fn encode_headers(entry: &Entry, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    let path = &entry.path;
    check_path(path)?;
    match &entry.kind {
        Kind::Whiteout => put_whiteout(path, out),
        Kind::Directory { opaque } => {
            put_entry(entry, out)?;
            if *opaque {
                put_marker(path, OPAQUE_MARKER, out);
            }
            Ok(())
        }
        _ => put_entry(entry, out),
    }
}

fn check_path(path: &EntryPath) -> Result<(), HeaderError> {
    if path.is_root() {
        return Err(HeaderError::Root);
    }
    if path
        .components()
        .any(|name| name.starts_with(WHITEOUT_PREFIX))
    {
        return Err(HeaderError::ReservedName(path.clone()));
    }
    if !path_within_limits(path) {
        return Err(HeaderError::PathTooLong(path.clone()));
    }
    Ok(())
}

fn put_whiteout(path: &EntryPath, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    let parent = path.parent().unwrap_or_default();
    put_marker(&parent, &[WHITEOUT_PREFIX, path.name()].concat(), out);
    Ok(())
}

/// An empty file that belongs to root and has mode 0 and no time.
pub(crate) fn put_marker(parent: &EntryPath, name: &[u8], out: &mut Vec<u8>) {
    let path = match parent.is_root() {
        true => name.to_vec(),
        false => [parent.as_bytes(), b"/", name].concat(),
    };
    let fields = Fields {
        kind: b'0',
        name: &path,
        link: &[],
        size: 0,
        device: (0, 0),
    };
    fields.put(&Metadata::default(), &[], out);
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    check_values(entry)?;
    let path = entry.path.as_bytes();
    let with_slash;
    let mut fields = Fields {
        kind: b'0',
        name: path,
        link: &[],
        size: 0,
        device: (0, 0),
    };
    match &entry.kind {
        Kind::File { size } => fields.size = *size,
        Kind::Directory { .. } => {
            with_slash = [path, b"/"].concat();
            fields.kind = b'5';
            fields.name = &with_slash;
        }
        Kind::Symlink { target } => (fields.kind, fields.link) = (b'2', target),
        Kind::Hardlink { target } => (fields.kind, fields.link) = (b'1', target.as_bytes()),
        Kind::CharDevice { major, minor } => {
            (fields.kind, fields.device) = (b'3', (*major, *minor));
        }
        Kind::BlockDevice { major, minor } => {
            (fields.kind, fields.device) = (b'4', (*major, *minor));
        }
        Kind::Fifo => fields.kind = b'6',
        Kind::Whiteout => {}
    }
    let xattrs: Vec<_> = entry.metadata.xattrs.iter().collect();
    fields.put(&entry.metadata, &xattrs, out);
    Ok(())
}

fn check_values(entry: &Entry) -> Result<(), HeaderError> {
    let fits = |number: &u32| block::fits_octal(block::DEV_MAJOR.len(), i64::from(*number));
    let valid = match &entry.kind {
        Kind::Symlink { target } => !target.contains(&0),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            fits(major) && fits(minor)
        }
        Kind::File { size } => i64::try_from(*size).is_ok(),
        _ => true,
    };
    if !valid {
        return Err(HeaderError::Value(entry.path.clone()));
    }
    let xattrs = &entry.metadata.xattrs;
    let records: usize = xattrs.iter().map(|(k, v)| k.len() + v.len() + 40).sum();
    if records > XATTR_RECORDS_BYTES_MAX {
        return Err(HeaderError::XattrsTooLong(entry.path.clone()));
    }
    for name in xattrs.keys() {
        if !pax::is_valid(&[pax::XATTR_PREFIX, name].concat(), &[]) {
            return Err(HeaderError::XattrName {
                path: entry.path.clone(),
                name: name.clone(),
            });
        }
    }
    Ok(())
}

struct Fields<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    size: u64,
    device: (u32, u32),
}

impl Fields<'_> {
    fn put(&self, metadata: &Metadata, xattrs: &[(&Vec<u8>, &Vec<u8>)], out: &mut Vec<u8>) {
        let mut block = [0; BLOCK];
        let mut records = Records::new();
        block[block::TYPE] = self.kind;
        put_text(&mut block, &mut records, block::NAME, b"path", self.name);
        put_text(
            &mut block,
            &mut records,
            block::LINK,
            b"linkpath",
            self.link,
        );
        let mode = u64::from(metadata.mode & 0o7777);
        block::put_octal(&mut block[block::MODE], mode);
        let mut put = |field, key, number| put_number(&mut block, &mut records, field, key, number);
        put(block::UID, b"uid", i64::from(metadata.uid));
        put(block::GID, b"gid", i64::from(metadata.gid));
        put(block::SIZE, b"size", self.size.cast_signed());
        put(block::MTIME, b"mtime", metadata.mtime.seconds);
        block::put_octal(&mut block[block::DEV_MAJOR], u64::from(self.device.0));
        block::put_octal(&mut block[block::DEV_MINOR], u64::from(self.device.1));
        for (name, value) in xattrs {
            records.insert([pax::XATTR_PREFIX, name].concat(), value.to_vec());
        }
        block[block::MAGIC].copy_from_slice(block::MAGIC_USTAR);
        block::seal(&mut block);
        if !records.is_empty() {
            put_extended(self.name, &records, out);
        }
        out.extend_from_slice(&block);
    }
}

/// Text that is too long or not ASCII goes into a record; the field keeps what it can.
fn put_text(
    block: &mut Block,
    records: &mut Records,
    field: std::ops::Range<usize>,
    key: &[u8],
    text: &[u8],
) {
    if text.len() > field.len() || !text.is_ascii() {
        records.insert(key.to_vec(), text.to_vec());
    }
    block::put_text(&mut block[field], &ascii(text));
}

fn put_number(
    block: &mut Block,
    records: &mut Records,
    field: std::ops::Range<usize>,
    key: &[u8],
    number: i64,
) {
    let fits = block::fits_octal(field.len(), number);
    if !fits {
        records.insert(key.to_vec(), number.to_string().into_bytes());
    }
    let number = if fits { number.cast_unsigned() } else { 0 };
    block::put_octal(&mut block[field], number);
}

fn ascii(text: &[u8]) -> Vec<u8> {
    let is_kept = |byte: &u8| byte.is_ascii() && *byte != 0;
    text.iter().copied().filter(is_kept).collect()
}

/// The `x` header before a header whose values do not fit.
fn put_extended(name: &[u8], records: &Records, out: &mut Vec<u8>) {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::put_record(&mut data, key, value);
    }
    let mut block = [0; BLOCK];
    let mut name = ascii(&extended_name(name));
    name.truncate(block::NAME.len());
    while name.last() == Some(&b'/') {
        name.pop();
    }
    block::put_text(&mut block[block::NAME], &name);
    block[block::TYPE] = b'x';
    for field in [block::MODE, block::UID, block::GID, block::MTIME] {
        block::put_octal(&mut block[field], 0);
    }
    block::put_octal(&mut block[block::SIZE], data.len() as u64);
    block[block::MAGIC].copy_from_slice(block::MAGIC_USTAR);
    block::seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(&data);
    out.resize(out.len() + padding_of(data.len() as u64), 0);
}

/// `directory/PaxHeaders.0/file`. A directory's trailing slash leaves no file name.
fn extended_name(name: &[u8]) -> Vec<u8> {
    let at = name.iter().rposition(|byte| *byte == b'/');
    let (directory, file) = name.split_at(at.map_or(0, |at| at + 1));
    let mut joined = [directory, b"PaxHeaders.0"].concat();
    if !file.is_empty() {
        joined.push(b'/');
        joined.extend_from_slice(file);
    }
    joined
}
