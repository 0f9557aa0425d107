//! PAX extended header records: `length key=value\n` (POSIX.1-2017 `pax`, "pax Extended
//! Header").

use std::collections::BTreeMap;

use crate::Timestamp;

/// The prefix of the keys that carry extended attributes.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Records by key. Where a key is repeated, the last one counts.
pub(crate) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether every reader takes the record: a key without `=` or NUL, and no NUL in a name.
pub(crate) fn is_valid(key: &[u8], value: &[u8]) -> bool {
    if key.is_empty() || key.contains(&b'=') {
        return false;
    }
    match key {
        b"path" | b"linkpath" | b"uname" | b"gname" => !value.contains(&0),
        _ => !key.contains(&0),
    }
}

/// Appends a record. Its length counts its own digits too.
pub(crate) fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut size = rest + digits(rest);
    if digits(size) != digits(rest) {
        size = rest + digits(size);
    }
    out.extend_from_slice(size.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Takes the first record off `rest`.
pub(crate) fn take_record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = rest.iter().take(20).position(|byte| *byte == b' ')?;
    let size = usize::try_from(decimal(&rest[..space])?).ok()?;
    if size < 5 || size > rest.len() || size <= space + 1 {
        return None;
    }
    let (record, after) = rest.split_at(size);
    let (newline, record) = record[space + 1..].split_last()?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    *rest = after;
    (*newline == b'\n' && is_valid(key, value)).then_some((key, value))
}

/// A non-negative decimal number, digits alone.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_i64, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => i64::from(digit - b'0'),
            _ => return None,
        };
        number.checked_mul(10)?.checked_add(value)
    })
}

/// A time: seconds since 1970, perhaps negative, perhaps with a fraction, of which
/// nanoseconds are kept.
pub(crate) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, unsigned) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let mut parts = unsigned.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(parts.next()?)?;
    let nanoseconds = match parts.next() {
        Some(fraction) => parse_fraction(fraction)?,
        None => 0,
    };
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn parse_fraction(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0'));
    Some(
        padded
            .take(9)
            .fold(0, |number, digit| number * 10 + u32::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in [
            0, 1, 85, 86, 87, 88, 89, 90, 91, 985, 986, 987, 988, 989, 990,
        ] {
            let value = vec![b'v'; length];
            let mut out = Vec::new();
            put_record(&mut out, b"key", &value);
            let mut rest = &out[..];
            let record = take_record(&mut rest).unwrap();
            assert_eq!(record, (&b"key"[..], &value[..]), "{length}");
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn malformed_records_are_none() {
        for text in [
            &b"6 k=v"[..],
            b"6 k=v\n\n"[..4].as_ref(),
            b"7 k=v\n",
            b"6 =vv\n",
            b"6  k=\n",
            b"+6 k=v\n",
            b"06 k=v",
            b"6\0k=v\n",
            b"99999999999999999999999 k=v\n",
            b"3 \n",
            b"11 path=a\0\n",
        ] {
            let mut rest = text;
            let record = take_record(&mut rest);
            let expected = (text == b"6  k=\n").then_some((&b" k"[..], &b""[..]));
            assert_eq!(record, expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let at = |seconds, nanoseconds| {
            Some(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(parse_time(b"1.5"), at(1, 500_000_000));
        assert_eq!(parse_time(b"-1.5"), at(-2, 500_000_000));
        assert_eq!(parse_time(b"-1"), at(-1, 0));
        assert_eq!(parse_time(b"7.0123456789"), at(7, 12_345_678));
        assert_eq!(parse_time(b"7."), at(7, 0));
        for bad in [
            &b""[..],
            b"-",
            b".5",
            b"1.-5",
            b"1e5",
            b"99999999999999999999",
        ] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }
}
