//! Sparse files: the old GNU format and GNU's PAX formats 0.0, 0.1 and 1.0.
//!
//! A map lists the parts of the file that are stored; all else is zeros.

use std::io::Read;

use super::block::{self, BLOCK, Block, Format};
use super::pax::{self, Records};
use super::reader::TarReason;

/// The key of the list of numbers in formats 0.0 and 0.1.
pub(super) const MAP_KEY: &[u8] = b"GNU.sparse.map";

/// The most parts of a sparse file: a map longer than a PAX header is hostile.
const PARTS_MAX: usize = 1 << 18;

/// A stored part: where it starts and how long it is.
type Part = (u64, u64);

/// The parts of the current file and how far it was read.
#[derive(Debug)]
pub(super) struct SparseMap {
    parts: std::vec::IntoIter<Part>,
    part: Option<Part>,
    size: u64,
    position: u64,
}

impl SparseMap {
    /// Checks that parts are in order, within the file, and are exactly what is stored.
    pub(super) fn new(parts: Vec<Part>, size: u64, stored: u64) -> Option<Self> {
        let mut end = 0;
        let mut total = 0_u64;
        for (offset, length) in &parts {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            total = total.checked_add(*length)?;
        }
        if end > size || total != stored {
            return None;
        }
        let mut parts = parts.into_iter();
        Some(Self {
            part: parts.next(),
            parts,
            size,
            position: 0,
        })
    }

    /// How many bytes come next, at most `max`, and whether they are a hole.
    pub(super) fn next(&mut self, max: usize) -> (usize, bool) {
        while let Some((offset, length)) = self.part {
            if self.position < offset + length {
                break;
            }
            self.part = self.parts.next();
        }
        let (end, is_hole) = match self.part {
            Some((offset, _)) if self.position < offset => (offset, true),
            Some((offset, length)) => (offset + length, false),
            None => (self.size, true),
        };
        let left = end - self.position;
        (
            usize::try_from(left).map_or(max, |left| left.min(max)),
            is_hole,
        )
    }

    pub(super) fn advance(&mut self, count: u64) {
        self.position += count;
    }
}

/// What a PAX header says of a sparse file.
pub(super) struct PaxSparse {
    pub(super) map: Vec<Part>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
}

/// The sparse map of a PAX header; format 1.0 has it before the stored parts.
pub(super) fn read_pax(
    records: &Records,
    stored: &mut impl Read,
) -> Result<Option<PaxSparse>, TarReason> {
    let value = |key: &str| {
        let value = records.get(key.as_bytes()).map(|value| &value[..]);
        value.filter(|value| !value.is_empty())
    };
    let version = (value("GNU.sparse.major"), value("GNU.sparse.minor"));
    let is_in_content = match version {
        (Some(b"0"), Some(b"0" | b"1")) => false,
        (Some(b"1"), Some(b"0")) => true,
        (None, None) if value("GNU.sparse.map").is_some() => false,
        // A lone name or size, which GNU tar and bsdtar heed and Go does not, is refused below.
        (None, None) if !records.keys().any(|key| key.starts_with(b"GNU.sparse.")) => {
            return Ok(None);
        }
        // A format that not every archiver knows.
        _ => return Err(TarReason::Sparse),
    };
    let size = value("GNU.sparse.size").or_else(|| value("GNU.sparse.realsize"));
    let size = match size {
        Some(size) => Some(pax::decimal(size).ok_or(TarReason::Sparse)?),
        None => None,
    };
    let map = match is_in_content {
        true => read_map_in_content(stored)?,
        false => parse_map(records, value("GNU.sparse.numblocks"))?,
    };
    let name = value("GNU.sparse.name").map(<[u8]>::to_vec);
    Ok(Some(PaxSparse { map, name, size }))
}

fn parse_map(records: &Records, count: Option<&[u8]>) -> Result<Vec<Part>, TarReason> {
    let list = records.get(MAP_KEY).map_or(&[][..], |list| &list[..]);
    let numbers: Option<Vec<u64>> = match list {
        [] => Some(Vec::new()),
        _ => list.split(|byte| *byte == b',').map(number).collect(),
    };
    let parts = pairs(&numbers.ok_or(TarReason::Sparse)?)?;
    let count = pax::decimal(count.ok_or(TarReason::Sparse)?);
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) if count == parts.len() => Ok(parts),
        _ => Err(TarReason::Sparse),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    u64::try_from(pax::decimal(text)?).ok()
}

fn pairs(numbers: &[u64]) -> Result<Vec<Part>, TarReason> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > PARTS_MAX {
        return Err(TarReason::Sparse);
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// Format 1.0: lines of decimal numbers, the count of parts first, padded to a block.
fn read_map_in_content(stored: &mut impl Read) -> Result<Vec<Part>, TarReason> {
    let mut lines = Lines {
        stored,
        block: [0; BLOCK],
        at: BLOCK,
    };
    let count = usize::try_from(lines.number()?).map_err(|_| TarReason::Sparse)?;
    if count > PARTS_MAX {
        return Err(TarReason::Sparse);
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push((lines.number()?, lines.number()?));
    }
    Ok(parts)
}

struct Lines<'a, R> {
    stored: &'a mut R,
    block: Block,
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, TarReason> {
        let mut digits = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return number(&digits).ok_or(TarReason::Sparse),
                _ if digits.len() > 20 => return Err(TarReason::Sparse),
                digit => digits.push(digit),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, TarReason> {
        if self.at == BLOCK {
            self.stored
                .read_exact(&mut self.block)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => TarReason::Sparse,
                    _ => TarReason::Io(error),
                })?;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

/// The old GNU format: four parts in the header, more in blocks behind it. Also gives the
/// file's size.
pub(super) fn read_old_gnu(
    block: &Block,
    stream: &mut impl Read,
) -> Result<(Vec<Part>, i64), TarReason> {
    if block::format_of(block) != Some(Format::Gnu) {
        return Err(TarReason::Sparse);
    }
    let size = block::parse_number(&block[block::GNU_REAL_SIZE]).ok_or(TarReason::Sparse)?;
    let mut parts = Vec::new();
    push_parts(&block[block::GNU_SPARSE], &mut parts)?;
    let mut has_more = block[block::GNU_SPARSE_MORE] != 0;
    while has_more {
        const MORE_PARTS: usize = 21 * 24;
        let mut more = [0; BLOCK];
        stream
            .read_exact(&mut more)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => TarReason::Truncated,
                _ => TarReason::Io(error),
            })?;
        push_parts(&more[..MORE_PARTS], &mut parts)?;
        has_more = more[MORE_PARTS] != 0;
    }
    Ok((parts, size))
}

fn push_parts(fields: &[u8], parts: &mut Vec<Part>) -> Result<(), TarReason> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        let number = |field| {
            let number = block::parse_number(field).ok_or(TarReason::Sparse)?;
            u64::try_from(number).map_err(|_| TarReason::Sparse)
        };
        parts.push((number(&field[..12])?, number(&field[12..])?));
    }
    match parts.len() > PARTS_MAX {
        true => Err(TarReason::Sparse),
        false => Ok(()),
    }
}
