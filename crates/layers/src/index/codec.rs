//! The stored form of a [`LayerIndex`].
//!
//! ```text
//! "LSLI" version:u8  count:varint  entry*  blake3(all before):32
//! entry = shared:varint  rest:bytes             path: as many bytes as the last one shares, then the rest
//!         kind:u8 …                             see kind_tag; sizes, targets and numbers follow
//!         mode uid gid : varint                 absent for a whiteout, like the next two
//!         seconds:zigzag nanoseconds:varint
//!         xattrs: count:varint (name:bytes value:bytes)*
//!         flags:u8  hash:32 if 1  offset:varint if 2
//! bytes = length:varint, then as many bytes      varint = LEB128
//! ```

use super::{IndexEntry, IndexError, LayerIndex};
use crate::limits::{PATH_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX, path_within_limits};
use crate::{ContentHash, Entry, EntryPath, Kind, Metadata, Timestamp};

/// The longest stored index that is read: 4 million entries of 256 bytes.
pub const INDEX_BYTES_MAX: usize = 1 << 30;

const MAGIC: &[u8; 4] = b"LSLI";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;
/// The fewest bytes an entry takes: three for the path, one each for kind and flags.
const ENTRY_BYTES_MIN: usize = 5;
const HAS_HASH: u8 = 1;
const HAS_OFFSET: u8 = 2;

/// Why bytes are no stored index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexDecodeError {
    /// Another format or version.
    #[error("not a layer index of version {VERSION}")]
    Version,
    /// The checksum does not match: truncated or damaged.
    #[error("the layer index is damaged")]
    Checksum,
    /// A field is malformed or beyond its limit.
    #[error("the layer index has an invalid {0}")]
    Field(&'static str),
    /// The entries break an invariant.
    #[error(transparent)]
    Entries(#[from] IndexError),
}

/// The number of each kind, in the stored form and in the layer's identity.
pub(super) const fn kind_tag(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 0,
        Kind::Directory { opaque: false } => 1,
        Kind::Directory { opaque: true } => 2,
        Kind::Symlink { .. } => 3,
        Kind::Hardlink { .. } => 4,
        Kind::CharDevice { .. } => 5,
        Kind::BlockDevice { .. } => 6,
        Kind::Fifo => 7,
        Kind::Whiteout => 8,
    }
}

impl LayerIndex {
    /// The stored form: the same bytes for the same index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 80);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        put_varint(&mut out, self.entries.len() as u64);
        let mut last: &[u8] = &[];
        for entry in &self.entries {
            put_entry(&mut out, entry, last);
            last = entry.entry.path.as_bytes();
        }
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When the bytes are of another version, damaged, or break a limit or an invariant.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexDecodeError> {
        if bytes.len() > INDEX_BYTES_MAX {
            return Err(IndexDecodeError::Field("length"));
        }
        if !bytes.starts_with(MAGIC) || bytes.get(4) != Some(&VERSION) {
            return Err(IndexDecodeError::Version);
        }
        let split = bytes.len().checked_sub(CHECKSUM_BYTES);
        let (body, checksum) = bytes.split_at(split.ok_or(IndexDecodeError::Checksum)?);
        if body.len() < 5 || blake3::hash(body).as_bytes() != checksum {
            return Err(IndexDecodeError::Checksum);
        }
        Self::decode_body(&mut Cursor(&body[5..]))
    }

    fn decode_body(cursor: &mut Cursor<'_>) -> Result<Self, IndexDecodeError> {
        let count = cursor.length("count", cursor.0.len() / ENTRY_BYTES_MIN)?;
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let last = entries.last().map(|entry| &entry.entry.path);
            let entry = cursor.entry(last)?;
            entries.push(entry);
        }
        if !cursor.0.is_empty() {
            return Err(IndexDecodeError::Field("end"));
        }
        Ok(Self::new(entries)?)
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_entry(out: &mut Vec<u8>, entry: &IndexEntry, last: &[u8]) {
    let path = entry.entry.path.as_bytes();
    let shared = path.iter().zip(last).take_while(|(a, b)| a == b).count();
    put_varint(out, shared as u64);
    put_bytes(out, &path[shared..]);
    put_kind(out, &entry.entry.kind);
    if entry.entry.kind != Kind::Whiteout {
        put_metadata(out, &entry.entry.metadata);
    }
    let hash = entry.content.map_or(0, |_| HAS_HASH);
    let offset = entry.data_offset.map_or(0, |_| HAS_OFFSET);
    out.push(hash | offset);
    if let Some(hash) = &entry.content {
        out.extend_from_slice(&hash.0);
    }
    if let Some(offset) = entry.data_offset {
        put_varint(out, offset);
    }
}

fn put_kind(out: &mut Vec<u8>, kind: &Kind) {
    out.push(kind_tag(kind));
    match kind {
        Kind::File { size } => put_varint(out, *size),
        Kind::Symlink { target } => put_bytes(out, target),
        Kind::Hardlink { target } => put_bytes(out, target.as_bytes()),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            put_varint(out, u64::from(*major));
            put_varint(out, u64::from(*minor));
        }
        Kind::Directory { .. } | Kind::Fifo | Kind::Whiteout => {}
    }
}

fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    put_varint(out, u64::from(metadata.mode));
    put_varint(out, u64::from(metadata.uid));
    put_varint(out, u64::from(metadata.gid));
    let seconds = metadata.mtime.seconds;
    put_varint(out, ((seconds << 1) ^ (seconds >> 63)).cast_unsigned());
    put_varint(out, u64::from(metadata.mtime.nanoseconds));
    put_varint(out, metadata.xattrs.len() as u64);
    for (name, value) in &metadata.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], IndexDecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(IndexDecodeError::Field(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, IndexDecodeError> {
        Ok(self.take(1, field)?[0])
    }

    fn varint(&mut self, field: &'static str) -> Result<u64, IndexDecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            let low = u64::from(byte & 0x7f);
            if low << shift >> shift != low {
                break;
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(IndexDecodeError::Field(field))
    }

    fn length(&mut self, field: &'static str, max: usize) -> Result<usize, IndexDecodeError> {
        let length = self.varint(field)?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= max)
            .ok_or(IndexDecodeError::Field(field))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, IndexDecodeError> {
        u32::try_from(self.varint(field)?).map_err(|_| IndexDecodeError::Field(field))
    }

    fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], IndexDecodeError> {
        let length = self.length(field, max)?;
        self.take(length, field)
    }

    fn entry(&mut self, last: Option<&EntryPath>) -> Result<IndexEntry, IndexDecodeError> {
        let path = self.path(last)?;
        let kind = self.kind()?;
        let metadata = match kind {
            Kind::Whiteout => Metadata::default(),
            _ => self.metadata()?,
        };
        let flags = self.byte("flags")?;
        if flags & !(HAS_HASH | HAS_OFFSET) != 0 {
            return Err(IndexDecodeError::Field("flags"));
        }
        let content = match flags & HAS_HASH {
            0 => None,
            _ => Some(self.hash()?),
        };
        let data_offset = match flags & HAS_OFFSET {
            0 => None,
            _ => Some(self.varint("offset")?),
        };
        Ok(IndexEntry {
            entry: Entry {
                path,
                kind,
                metadata,
            },
            content,
            data_offset,
        })
    }

    fn path(&mut self, last: Option<&EntryPath>) -> Result<EntryPath, IndexDecodeError> {
        let last = last.map_or(&[][..], EntryPath::as_bytes);
        let shared = self.length("path", last.len())?;
        let rest = self.bytes("path", PATH_BYTES_MAX)?;
        let joined = [&last[..shared], rest].concat();
        clean_path(&joined)
    }

    fn kind(&mut self) -> Result<Kind, IndexDecodeError> {
        Ok(match self.byte("kind")? {
            0 => Kind::File {
                size: self.varint("size")?,
            },
            1 => Kind::Directory { opaque: false },
            2 => Kind::Directory { opaque: true },
            3 => Kind::Symlink {
                target: self.bytes("target", PATH_BYTES_MAX)?.to_vec(),
            },
            4 => Kind::Hardlink {
                target: clean_path(self.bytes("target", PATH_BYTES_MAX)?)?,
            },
            5 => Kind::CharDevice {
                major: self.u32("major")?,
                minor: self.u32("minor")?,
            },
            6 => Kind::BlockDevice {
                major: self.u32("major")?,
                minor: self.u32("minor")?,
            },
            7 => Kind::Fifo,
            8 => Kind::Whiteout,
            _ => return Err(IndexDecodeError::Field("kind")),
        })
    }

    fn metadata(&mut self) -> Result<Metadata, IndexDecodeError> {
        let (mode, uid, gid) = (self.u32("mode")?, self.u32("uid")?, self.u32("gid")?);
        if mode > 0o7777 {
            return Err(IndexDecodeError::Field("mode"));
        }
        let zigzag = self.varint("seconds")?;
        let seconds = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let nanoseconds = self.u32("nanoseconds")?;
        if nanoseconds > 999_999_999 {
            return Err(IndexDecodeError::Field("nanoseconds"));
        }
        let mut metadata = Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp {
                seconds,
                nanoseconds,
            },
            ..Metadata::default()
        };
        for _ in 0..self.length("xattrs", XATTRS_MAX)? {
            let name = self.bytes("xattr", XATTR_VALUE_BYTES_MAX)?.to_vec();
            let value = self.bytes("xattr", XATTR_VALUE_BYTES_MAX)?.to_vec();
            metadata.xattrs.insert(name, value);
        }
        Ok(metadata)
    }

    fn hash(&mut self) -> Result<ContentHash, IndexDecodeError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.take(32, "hash")?);
        Ok(ContentHash(hash))
    }
}

/// A path exactly as it is stored: already clean, within the limits.
fn clean_path(bytes: &[u8]) -> Result<EntryPath, IndexDecodeError> {
    let path = EntryPath::new(bytes).map_err(|_| IndexDecodeError::Field("path"))?;
    if path.as_bytes() != bytes || !path_within_limits(&path) {
        return Err(IndexDecodeError::Field("path"));
    }
    Ok(path)
}
