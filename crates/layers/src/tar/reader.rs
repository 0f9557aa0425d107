//! A strict reader of tar streams.
//!
//! It reads what Go's `archive/tar` reads and gives the same entries. Where archivers would
//! read one archive differently (two names for one entry, a global header that renames or
//! resizes, a lone zero block), it refuses the archive: what one program checks and another
//! unpacks must be the same files.

use std::fmt;
use std::io::{self, Read};

use super::block::{self, BLOCK, Block, Format};
use super::pax::{self, Records};
use super::sparse::{self, SparseMap};
use super::writer::padding_of;
use crate::limits::{
    ENTRIES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PAX_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX,
    path_within_limits,
};
use crate::{DecompressLimits, Entry, EntryPath, Kind, Metadata, Timestamp};

/// What a reader takes before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TarLimits {
    /// The most entries.
    pub entries_max: usize,
    /// The most bytes of all files together, holes of sparse files included.
    pub content_bytes_max: u64,
}

impl TarLimits {
    /// For image layers, which reach a million files and tens of gigabytes.
    pub const LAYER: Self = Self {
        entries_max: ENTRIES_MAX,
        content_bytes_max: 256 << 30,
    };

    /// For an archive that comes out of a decompressor: files are no larger than what may come
    /// out, holes included.
    pub const fn within(limits: &DecompressLimits) -> Self {
        Self {
            content_bytes_max: limits.output_bytes_max,
            ..Self::LAYER
        }
    }
}

/// Why a tar stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("tar entry {number}{}: {reason}", QuotedName(.name))]
pub struct TarError {
    /// The entry's place in the stream, from 1.
    pub number: usize,
    /// The entry's name, where it was read already.
    pub name: Vec<u8>,
    /// What is wrong.
    #[source]
    pub reason: TarReason,
}

struct QuotedName<'a>(&'a [u8]);

impl fmt::Display for QuotedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let shown = &self.0[..self.0.len().min(200)];
        write!(f, " `{}`", String::from_utf8_lossy(shown).escape_debug())
    }
}

/// What is wrong with a tar entry.
#[derive(Debug, thiserror::Error)]
pub enum TarReason {
    /// The stream could not be read.
    #[error("cannot read: {0}")]
    Io(#[source] io::Error),
    /// The stream ends in the middle of an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// A block is no header: wrong checksum, or content where a header should be.
    #[error("not a valid header")]
    Header,
    /// A number is malformed or out of range.
    #[error("invalid {0}")]
    Number(&'static str),
    /// An extended header is malformed.
    #[error("invalid extended header")]
    Extended,
    /// A header that archivers read differently.
    #[error("ambiguous: {0}")]
    Ambiguous(&'static str),
    /// A sparse map is malformed or does not fit the file.
    #[error("invalid sparse map")]
    Sparse,
    /// An entry of a type that is no file.
    #[error("unsupported type `{}`", char::from(*.0).escape_default())]
    Type(u8),
    /// A name that leads out of the root, or an empty target.
    #[error("the path `{}` leads out of the root", String::from_utf8_lossy(.0).escape_debug())]
    Path(Vec<u8>),
    /// A symbolic link's target is empty or too long.
    #[error("invalid link target")]
    Target,
    /// An extended attribute that no file system takes.
    #[error("invalid extended attribute")]
    Xattr,
    /// An entry lies below something that is no directory.
    #[error("`{0}` is in the way and no directory")]
    NotADirectory(EntryPath),
    /// Symbolic links lead in a circle.
    #[error("too many symbolic links on the way")]
    Loop,
    /// A hard link names a directory, itself or the root.
    #[error("`{0}` cannot have a hard link")]
    LinkTarget(EntryPath),
    /// A name that starts with `.wh.` and marks nothing (image-spec `layer.md#whiteouts`).
    #[error("`{0}` is no valid whiteout")]
    Whiteout(EntryPath),
    /// A character device 0:0, which overlay file systems take for a whiteout.
    #[error("the character device 0:0 is reserved for deletions")]
    WhiteoutDevice,
    /// A limit is exceeded.
    #[error("more {what} than {max} allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: u64,
    },
}

/// An entry of an archive. Whiteouts are files with special names here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What stands where; the path is the root's for an entry such as `./`.
    pub entry: Entry,
    /// Where a file's bytes start in the stream, unless they are not in one piece.
    pub data_offset: Option<u64>,
}

/// Reads entries one after the other; as [`Read`], the current file's bytes.
#[derive(Debug)]
pub struct TarReader<R> {
    stream: Stream<R>,
    limits: TarLimits,
    entries: usize,
    name: Vec<u8>,
    content_bytes: u64,
    /// Bytes of the current entry that are still in the stream, without padding.
    remaining: u64,
    padding: u64,
    sparse: Option<SparseMap>,
    finished: bool,
}

#[derive(Debug)]
struct Stream<R> {
    inner: R,
    position: u64,
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// What precedes an entry and says more about it.
#[derive(Default)]
struct Extensions {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// A header block's fields, then what extensions make of them.
struct Header {
    kind: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: i64,
    uid: i64,
    gid: i64,
    size: i64,
    mtime: Timestamp,
    device: (i64, i64),
}

impl<R: Read> TarReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R, limits: TarLimits) -> Self {
        Self {
            stream: Stream {
                inner: stream,
                position: 0,
            },
            limits,
            entries: 0,
            name: Vec::new(),
            content_bytes: 0,
            remaining: 0,
            padding: 0,
            sparse: None,
            finished: false,
        }
    }

    /// The next entry; `None` at the end of the archive. What was not read of the last one
    /// is skipped.
    ///
    /// # Errors
    /// When the stream fails or breaks a rule or a limit; the reader is of no use then.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.name.clear();
        self.advance().map_err(|reason| self.error(reason))
    }

    /// An error about the current entry.
    pub(crate) fn error(&self, reason: TarReason) -> TarError {
        TarError {
            number: self.entries,
            name: self.name.clone(),
            reason,
        }
    }

    /// Hands back the stream, which stands behind the last block that was read.
    pub fn into_inner(self) -> R {
        self.stream.inner
    }

    fn advance(&mut self) -> Result<Option<Member>, TarReason> {
        if self.finished {
            return Ok(None);
        }
        self.skip_rest()?;
        self.entries += 1;
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.read_header()? else {
                self.finished = true;
                return match extensions.is_empty() {
                    true => Ok(None),
                    false => Err(TarReason::Truncated),
                };
            };
            let header = Header::parse(&block)?;
            match header.kind {
                b'x' | b'g' | b'L' | b'K' => self.extend(&header, &mut extensions)?,
                _ => return self.member(header, &block, extensions).map(Some),
            }
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarReason> {
        let skip = self.remaining;
        let skipped = io::copy(&mut (&mut self.stream).take(skip), &mut io::sink());
        if skipped.map_err(TarReason::Io)? < skip {
            return Err(TarReason::Truncated);
        }
        // An archive may end without the last padding.
        io::copy(&mut (&mut self.stream).take(self.padding), &mut io::sink())
            .map_err(TarReason::Io)?;
        (self.remaining, self.padding, self.sparse) = (0, 0, None);
        Ok(())
    }

    /// The next block; `None` at the end of the stream or at two zero blocks.
    fn read_header(&mut self) -> Result<Option<Block>, TarReason> {
        let Some(block) = self.read_block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.read_block()? {
            Some(second) if second != [0; BLOCK] => Err(TarReason::Header),
            _ => Ok(None),
        }
    }

    fn read_block(&mut self) -> Result<Option<Block>, TarReason> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarReason::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarReason::Io(error)),
            }
        }
        Ok(Some(block))
    }

    fn extend(&mut self, header: &Header, known: &mut Extensions) -> Result<(), TarReason> {
        let content = self.read_special(header.size)?;
        let text = || block::text(&content).to_vec();
        let repeated = match header.kind {
            b'L' => known.long_name.replace(text()).is_some(),
            b'K' => known.long_link.replace(text()).is_some(),
            b'x' => known.records.replace(parse_records(&content)?).is_some(),
            _ => {
                check_global(&parse_records(&content)?)?;
                !known.is_empty()
            }
        };
        match repeated {
            true => Err(TarReason::Ambiguous("extended headers follow one another")),
            false => Ok(()),
        }
    }

    /// The content of an entry that describes the next one.
    fn read_special(&mut self, size: i64) -> Result<Vec<u8>, TarReason> {
        let limit = TarReason::Limit {
            what: "bytes of extended header",
            max: PAX_BYTES_MAX as u64,
        };
        let size = usize::try_from(size).map_err(|_| TarReason::Number("size"))?;
        if size > PAX_BYTES_MAX {
            return Err(limit);
        }
        let mut content = Vec::new();
        let padded = (size + padding_of(size as u64)) as u64;
        (&mut self.stream)
            .take(padded)
            .read_to_end(&mut content)
            .map_err(TarReason::Io)?;
        if content.len() < size {
            return Err(TarReason::Truncated);
        }
        content.truncate(size);
        Ok(content)
    }

    fn member(
        &mut self,
        mut header: Header,
        block: &Block,
        extensions: Extensions,
    ) -> Result<Member, TarReason> {
        if self.entries > self.limits.entries_max {
            return Err(TarReason::Limit {
                what: "entries",
                max: self.limits.entries_max as u64,
            });
        }
        let records = header.merge(extensions)?;
        self.name.clone_from(&header.name);
        let stored = u64::try_from(header.size).map_err(|_| TarReason::Number("size"))?;
        let has_content = matches!(header.kind, 0 | b'0' | b'7' | b'S');
        if !has_content && stored > 0 && records.get(&b"size"[..]).is_some_and(|v| !v.is_empty()) {
            return Err(TarReason::Ambiguous(
                "an extended header gives a size to what is no file",
            ));
        }
        self.remaining = if has_content { stored } else { 0 };
        self.padding = padding_of(self.remaining) as u64;
        self.read_sparse_map(&mut header, block, &records)?;
        let is_whole = has_content && self.sparse.is_none();
        let data_offset = is_whole.then_some(self.stream.position);
        let entry = header.into_entry(&records)?;
        self.name.clear();
        self.name.extend_from_slice(entry.path.as_bytes());
        if let Kind::File { size } = entry.kind {
            self.count_content(size)?;
        }
        Ok(Member { entry, data_offset })
    }

    fn read_sparse_map(
        &mut self,
        header: &mut Header,
        block: &Block,
        records: &Records,
    ) -> Result<(), TarReason> {
        let map = match header.kind {
            b'S' => {
                let (map, size) = sparse::read_old_gnu(block, &mut self.stream)?;
                header.size = size;
                Some(map)
            }
            _ => {
                let mut stored = (&mut self.stream).take(self.remaining);
                let found = sparse::read_pax(records, &mut stored)?;
                self.remaining = stored.limit();
                found.map(|found| {
                    if let Some(name) = found.name {
                        header.name = name;
                    }
                    header.size = found.size.unwrap_or(header.size);
                    found.map
                })
            }
        };
        let Some(map) = map else { return Ok(()) };
        if !matches!(header.kind, 0 | b'0' | b'7' | b'S') {
            return Err(TarReason::Sparse);
        }
        let size = u64::try_from(header.size).map_err(|_| TarReason::Sparse)?;
        self.sparse = Some(SparseMap::new(map, size, self.remaining).ok_or(TarReason::Sparse)?);
        Ok(())
    }

    fn count_content(&mut self, size: u64) -> Result<(), TarReason> {
        self.content_bytes = self.content_bytes.saturating_add(size);
        if self.content_bytes > self.limits.content_bytes_max {
            return Err(TarReason::Limit {
                what: "bytes of files",
                max: self.limits.content_bytes_max,
            });
        }
        Ok(())
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.remaining).map_or(buffer.len(), |n| n.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let count = self.stream.read(&mut buffer[..length])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(sparse) = &mut self.sparse else {
            return self.read_stored(buffer);
        };
        let (length, is_hole) = sparse.next(buffer.len());
        let buffer = &mut buffer[..length];
        let count = match is_hole {
            true => {
                buffer.fill(0);
                length
            }
            false => self.read_stored(buffer)?,
        };
        if let Some(sparse) = &mut self.sparse {
            sparse.advance(count as u64);
        }
        Ok(count)
    }
}

fn parse_records(content: &[u8]) -> Result<Records, TarReason> {
    let mut rest = content;
    let mut records = Records::new();
    let mut sparse_numbers: Vec<&[u8]> = Vec::new();
    while !rest.is_empty() {
        let (key, value) = pax::take_record(&mut rest).ok_or(TarReason::Extended)?;
        // Sparse format 0.0 repeats its keys in turn; the list is what format 0.1 writes.
        let turn: &[u8] = match sparse_numbers.len() % 2 {
            0 => b"GNU.sparse.offset",
            _ => b"GNU.sparse.numbytes",
        };
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                if key != turn || value.contains(&b',') {
                    return Err(TarReason::Sparse);
                }
                sparse_numbers.push(value);
            }
            _ => {
                records.insert(key.to_vec(), value.to_vec());
            }
        }
    }
    if !sparse_numbers.is_empty() {
        records.insert(sparse::MAP_KEY.to_vec(), sparse_numbers.join(&b','));
    }
    Ok(records)
}

/// Go and containerd ignore global headers, GNU tar applies them: one that would make a
/// difference to what is unpacked where is refused.
fn check_global(records: &Records) -> Result<(), TarReason> {
    let matters = |key: &[u8]| {
        matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.")
    };
    match records.keys().any(|key| matters(key)) {
        true => Err(TarReason::Ambiguous(
            "a global header names or resizes files",
        )),
        false => Ok(()),
    }
}

/// Old Go wrote GNU headers with a name prefix where GNU has two times.
fn has_gnu_times(block: &Block) -> bool {
    [block::GNU_ATIME, block::GNU_CTIME]
        .into_iter()
        .all(|field| block[field.start] == 0 || block::parse_number(&block[field]).is_some())
}

impl Header {
    fn parse(block: &Block) -> Result<Self, TarReason> {
        let format = block::format_of(block).ok_or(TarReason::Header)?;
        let number = |field: std::ops::Range<usize>, what| {
            block::parse_number(&block[field]).ok_or(TarReason::Number(what))
        };
        let text = |field: std::ops::Range<usize>| block::text(&block[field]).to_vec();
        let mut name = text(block::NAME);
        let prefix = match format {
            Format::Ustar => text(block::PREFIX),
            Format::Star => text(block::STAR_PREFIX),
            Format::V7 | Format::Gnu => Vec::new(),
        };
        if !prefix.is_empty() {
            name = [&prefix[..], b"/", &name].concat();
        }
        if format == Format::Gnu && !has_gnu_times(block) {
            return Err(TarReason::Ambiguous("a GNU header with a name prefix"));
        }
        let device = match format {
            Format::V7 => (0, 0),
            _ => (
                number(block::DEV_MAJOR, "device")?,
                number(block::DEV_MINOR, "device")?,
            ),
        };
        Ok(Self {
            kind: block[block::TYPE],
            name,
            link: text(block::LINK),
            mode: number(block::MODE, "mode")?,
            uid: number(block::UID, "user id")?,
            gid: number(block::GID, "group id")?,
            size: number(block::SIZE, "size")?,
            mtime: Timestamp {
                seconds: number(block::MTIME, "time")?,
                nanoseconds: 0,
            },
            device,
        })
    }

    /// Applies what preceded the header. An empty value leaves the header's own.
    fn merge(&mut self, extensions: Extensions) -> Result<Records, TarReason> {
        let records = extensions.records.unwrap_or_default();
        let number = |value, what| pax::decimal(value).ok_or(TarReason::Number(what));
        for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
            match &key[..] {
                b"path" => self.name.clone_from(value),
                b"linkpath" => self.link.clone_from(value),
                b"uid" => self.uid = number(value, "user id")?,
                b"gid" => self.gid = number(value, "group id")?,
                b"size" => self.size = number(value, "size")?,
                b"mtime" => {
                    self.mtime = pax::parse_time(value).ok_or(TarReason::Number("time"))?;
                }
                _ => {}
            }
        }
        let twice =
            |key: &[u8], long: &Option<Vec<u8>>| records.contains_key(key) && long.is_some();
        if twice(b"path", &extensions.long_name) || twice(b"linkpath", &extensions.long_link) {
            return Err(TarReason::Ambiguous("two names for one entry"));
        }
        let given = |long: Option<Vec<u8>>| long.filter(|name| !name.is_empty());
        if let Some(name) = given(extensions.long_name) {
            self.name = name;
        }
        if let Some(link) = given(extensions.long_link) {
            self.link = link;
        }
        Ok(records)
    }

    fn into_entry(self, records: &Records) -> Result<Entry, TarReason> {
        let path = clean_path(&self.name)?;
        let kind = self.entry_kind()?;
        let id = |number, what| u32::try_from(number).map_err(|_| TarReason::Number(what));
        // Some archivers store the file type in the mode's higher bits.
        let mode = u32::try_from(self.mode & 0o7777).map_err(|_| TarReason::Number("mode"))?;
        let mut metadata = Metadata {
            mode,
            uid: id(self.uid, "user id")?,
            gid: id(self.gid, "group id")?,
            mtime: self.mtime,
            ..Metadata::default()
        };
        for (key, value) in records {
            let Some(name) = key.strip_prefix(pax::XATTR_PREFIX) else {
                continue;
            };
            let is_valid = (1..=NAME_BYTES_MAX).contains(&name.len())
                && value.len() <= XATTR_VALUE_BYTES_MAX
                && metadata.xattrs.len() < XATTRS_MAX;
            if !is_valid {
                return Err(TarReason::Xattr);
            }
            metadata.xattrs.insert(name.to_vec(), value.clone());
        }
        Ok(Entry {
            path,
            kind,
            metadata,
        })
    }

    fn entry_kind(&self) -> Result<Kind, TarReason> {
        let size = u64::try_from(self.size).map_err(|_| TarReason::Number("size"))?;
        let ends_in_slash = self.name.last() == Some(&b'/');
        Ok(match self.kind {
            0 if ends_in_slash && size == 0 => Kind::Directory { opaque: false },
            0 | b'0' | b'7' | b'S' if ends_in_slash => {
                return Err(TarReason::Ambiguous("a file's name ends in a slash"));
            }
            0 | b'0' | b'7' | b'S' => Kind::File { size },
            b'1' => Kind::Hardlink {
                target: clean_path(&self.link)?,
            },
            b'2' => Kind::Symlink {
                target: self.symlink_target()?,
            },
            b'3' => {
                let (major, minor) = self.device()?;
                Kind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = self.device()?;
                Kind::BlockDevice { major, minor }
            }
            b'5' => Kind::Directory { opaque: false },
            b'6' => Kind::Fifo,
            other => return Err(TarReason::Type(other)),
        })
    }

    fn device(&self) -> Result<(u32, u32), TarReason> {
        let number = |number| u32::try_from(number).map_err(|_| TarReason::Number("device"));
        Ok((number(self.device.0)?, number(self.device.1)?))
    }

    fn symlink_target(&self) -> Result<Vec<u8>, TarReason> {
        match self.link.len() {
            1..=PATH_BYTES_MAX => Ok(self.link.clone()),
            _ => Err(TarReason::Target),
        }
    }
}

/// Cleans a name as written: `.` and doubled slashes go, `..` takes a component back, and
/// a leading slash is the root.
fn clean_path(name: &[u8]) -> Result<EntryPath, TarReason> {
    let outside = || TarReason::Path(name[..name.len().min(PATH_BYTES_MAX)].to_vec());
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    let path = EntryPath::new(parts.join(&b'/')).map_err(|_| outside())?;
    match path_within_limits(&path) {
        true => Ok(path),
        false => Err(TarReason::Limit {
            what: "bytes or components in a path",
            max: PATH_BYTES_MAX as u64,
        }),
    }
}
