//! The 512-byte header block: where its fields are and how they are written and read
//! (POSIX.1-2017 `pax`, "ustar Interchange Format").

use std::ops::Range;

/// The size of every block.
pub(crate) const BLOCK: usize = 512;
/// A header block.
pub(crate) type Block = [u8; BLOCK];

pub(crate) const NAME: Range<usize> = 0..100;
pub(crate) const MODE: Range<usize> = 100..108;
pub(crate) const UID: Range<usize> = 108..116;
pub(crate) const GID: Range<usize> = 116..124;
pub(crate) const SIZE: Range<usize> = 124..136;
pub(crate) const MTIME: Range<usize> = 136..148;
pub(crate) const CHECKSUM: Range<usize> = 148..156;
pub(crate) const TYPE: usize = 156;
pub(crate) const LINK: Range<usize> = 157..257;
pub(crate) const MAGIC: Range<usize> = 257..265;
pub(crate) const DEV_MAJOR: Range<usize> = 329..337;
pub(crate) const DEV_MINOR: Range<usize> = 337..345;
pub(crate) const PREFIX: Range<usize> = 345..500;
/// The name prefix in `star` archives, whose last bytes are times and a trailer.
pub(crate) const STAR_PREFIX: Range<usize> = 345..476;
pub(crate) const STAR_TRAILER: Range<usize> = 508..512;
pub(crate) const GNU_ATIME: Range<usize> = 345..357;
pub(crate) const GNU_CTIME: Range<usize> = 357..369;
pub(crate) const GNU_SPARSE: Range<usize> = 386..482;
pub(crate) const GNU_SPARSE_MORE: usize = 482;
pub(crate) const GNU_REAL_SIZE: Range<usize> = 483..495;

pub(crate) const MAGIC_USTAR: &[u8; 8] = b"ustar\x0000";
pub(crate) const MAGIC_GNU: &[u8; 8] = b"ustar  \0";

/// What a header's magic says of its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The format of a block, whose checksum must match; `None` when it is no header.
pub(crate) fn format_of(block: &Block) -> Option<Format> {
    let stored = parse_octal(&block[CHECKSUM])?;
    let (unsigned, signed) = checksums(block);
    if stored != unsigned && i64::try_from(stored) != Ok(signed) {
        return None;
    }
    Some(match (&block[MAGIC], &block[STAR_TRAILER]) {
        ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Format::Star,
        ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Format::Ustar,
        (magic, _) if magic == MAGIC_GNU => Format::Gnu,
        _ => Format::V7,
    })
}

/// The sum of all bytes with the checksum itself as blanks, of unsigned and of signed bytes
/// (which some old archivers added up).
fn checksums(block: &Block) -> (u64, i64) {
    let mut unsigned = 0;
    let mut signed = 0;
    for (at, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    (unsigned, signed)
}

/// Writes the checksum: six digits, NUL, blank.
pub(crate) fn seal(block: &mut Block) {
    let (sum, _) = checksums(block);
    put_octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    block[CHECKSUM.end - 1] = b' ';
}

/// Whether `number` fits into a field of `width` bytes with its NUL.
pub(crate) fn fits_octal(width: usize, number: i64) -> bool {
    let bits = (width - 1) * 3;
    number >= 0 && (bits >= 63 || number < 1 << bits)
}

/// Writes `number` in octal, padded with zeros up to a NUL.
pub(crate) fn put_octal(field: &mut [u8], number: u64) {
    let last = field.len() - 1;
    let mut rest = number;
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    field[last] = 0;
}

/// Writes text, cut where it is too long.
pub(crate) fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() && field[length - 1] == b'/' {
        // Old readers take a name that ends in a slash for a directory: cut before it.
        let kept = field.iter().rposition(|byte| *byte != b'/');
        field[kept.map_or(0, |at| at + 1)] = 0;
    }
}

/// The text of a field, up to its first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number in octal, blanks and NULs around it ignored; nothing at all is 0.
pub(crate) fn parse_octal(field: &[u8]) -> Option<u64> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte));
    let Some(start) = start else { return Some(0) };
    let end = field.iter().rposition(|byte| !is_padding(byte))? + 1;
    let digits = text(&field[start..end]);
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = match digit {
            b'0'..=b'7' => u64::from(digit - b'0'),
            _ => return None,
        };
        number.checked_mul(8)?.checked_add(value)
    })
}

/// A number in octal or in GNU's base 256, which is two's complement below the first bit.
pub(crate) fn parse_number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return i64::try_from(parse_octal(field)?).ok();
    }
    let inversion = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut number = 0_u64;
    for (at, byte) in field.iter().enumerate() {
        let mut byte = byte ^ inversion;
        if at == 0 {
            byte &= 0x7f;
        }
        if number >> 56 > 0 {
            return None;
        }
        number = number << 8 | u64::from(byte);
    }
    let number = i64::try_from(number).ok()?;
    Some(if inversion == 0 { number } else { !number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let cases: [(&[u8], Option<i64>); 12] = [
            (b"", None),
            (b"\0\0\0", Some(0)),
            (b" 0000644\0", Some(0o644)),
            (b"123 \0", Some(0o123)),
            (b"8\0", None),
            (b"-1\0", None),
            (b"12\x0034", Some(0o12)),
            (b"\x80\0\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
        ];
        for (field, expected) in cases {
            assert_eq!(parse_number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn a_sealed_block_is_a_header() {
        let mut block = [0; BLOCK];
        put_text(&mut block[NAME], b"name");
        put_octal(&mut block[MODE], 0o644);
        block[MAGIC].copy_from_slice(MAGIC_USTAR);
        assert_eq!(format_of(&block), None);
        seal(&mut block);
        assert_eq!(format_of(&block), Some(Format::Ustar));
        assert_eq!(text(&block[NAME]), b"name");
        block[0] ^= 1;
        assert_eq!(format_of(&block), None);
    }
}
