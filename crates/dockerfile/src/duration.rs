//! Durations as Go writes them: `300ms`, `1.5h`, `1h15m30s`.

use std::time::Duration;

use crate::quote::quote;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not follow the form at all, or is longer than 292 years.
    #[error("time: invalid duration {}", quote(.text))]
    Invalid {
        /// The whole text.
        text: String,
    },
    /// A number stands without its unit.
    #[error("time: missing unit in duration {}", quote(.text))]
    MissingUnit {
        /// The whole text.
        text: String,
    },
    /// A unit other than `ns us ms s m h`.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// What stands in the unit's place.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// A duration with a sign, in nanoseconds. Go's are 64-bit, so are these.
///
/// # Errors
/// What [`DurationError`] says.
pub fn parse_nanoseconds(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid {
        text: text.to_owned(),
    };
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    let mut rest = rest;
    while !rest.is_empty() {
        let (part, after) = parse_part(rest, text)?;
        total = total
            .checked_add(part)
            .filter(|sum| *sum <= 1 << 63)
            .ok_or_else(invalid)?;
        rest = after;
    }
    signed(total, negative).ok_or_else(invalid)
}

fn signed(total: u64, negative: bool) -> Option<i64> {
    if negative {
        0_i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    }
}

/// Reads one number with its unit; answers its nanoseconds and what follows.
fn parse_part<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid {
        text: text.to_owned(),
    };
    let (whole, after) = split_digits(rest);
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = after
        .find(|ch: char| ch == '.' || ch.is_ascii_digit())
        .unwrap_or(after.len());
    let (unit, after) = after.split_at(unit_end);
    let scale = scale_of(unit, text)?;
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| invalid())?
    };
    let nanos = whole
        .checked_mul(scale)
        .filter(|nanos| *nanos <= 1 << 63)
        .ok_or_else(invalid)?;
    Ok((nanos.saturating_add(fraction_nanos(fraction, scale)), after))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|ch: char| !ch.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn scale_of(unit: &str, text: &str) -> Result<u64, DurationError> {
    if unit.is_empty() {
        return Err(DurationError::MissingUnit {
            text: text.to_owned(),
        });
    }
    let known = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale)| *scale);
    known.ok_or_else(|| DurationError::UnknownUnit {
        unit: unit.to_owned(),
        text: text.to_owned(),
    })
}

/// The nanoseconds of a decimal fraction of a unit, rounded as Go does: in floating point, down.
/// Digits that do not fit 63 bits are far below a nanosecond and are left out.
fn fraction_nanos(digits: &str, scale: u64) -> u64 {
    let mut value: u64 = 0;
    let mut divisor = 1.0;
    for digit in digits.bytes() {
        let longer = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')));
        let Some(longer) = longer.filter(|value| *value <= 1 << 63) else {
            break;
        };
        value = longer;
        divisor *= 10.0;
    }
    truncate(value as f64 * (scale as f64 / divisor))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a fraction of a unit is not negative and below 2^63"
)]
fn truncate(nanos: f64) -> u64 {
    nanos as u64
}

/// A duration that may not be negative.
pub(crate) fn non_negative(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: i64) {
        assert_eq!(parse_nanoseconds(text), Ok(expected), "{text}");
    }

    fn check_error(text: &str, expected: &str) {
        assert_eq!(parse_nanoseconds(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn reads_durations_like_go() {
        check("0", 0);
        check("5s", 5_000_000_000);
        check("-5s", -5_000_000_000);
        check("1.5h", 5_400_000_000_000);
        check("1h15m30.918s", 4_530_918_000_000);
        check(".5s", 500_000_000);
        check("1.s", 1_000_000_000);
        check("10µs", 10_000);
        check("0.3333333333333333333h", 1_200_000_000_000);
        check("9223372036854775807ns", i64::MAX);
        check("-9223372036854775808ns", i64::MIN);
    }

    #[test]
    fn refuses_what_go_refuses() {
        check_error("", "time: invalid duration \"\"");
        check_error("3", "time: missing unit in duration \"3\"");
        check_error("-", "time: invalid duration \"-\"");
        check_error("s", "time: invalid duration \"s\"");
        check_error(".", "time: invalid duration \".\"");
        check_error("10x", "time: unknown unit \"x\" in duration \"10x\"");
        check_error(
            "9223372036854775808ns",
            "time: invalid duration \"9223372036854775808ns\"",
        );
    }
}
