//! Numbers and truth values as Go's `strconv` reads them, with the reasons it gives.

/// Why a number was refused, in Go's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    Syntax,
    Range,
}

impl NumberError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Syntax => "invalid syntax",
            Self::Range => "value out of range",
        }
    }
}

/// `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint(text, radix, 32)`: digits only, no sign. Digits are read from the left, so a
/// number that is too large before it goes wrong is too large.
pub(crate) fn parse_u32(text: &str, radix: u32) -> Result<u32, NumberError> {
    if text.is_empty() {
        return Err(NumberError::Syntax);
    }
    text.chars().try_fold(0_u32, |value, ch| {
        let digit = ch.to_digit(radix).ok_or(NumberError::Syntax)?;
        let value = value
            .checked_mul(radix)
            .and_then(|value| value.checked_add(digit));
        value.ok_or(NumberError::Range)
    })
}

/// `strconv.ParseInt(text, 10, 32)`: digits with an optional sign.
pub(crate) fn parse_i32(text: &str) -> Result<i32, NumberError> {
    let value = i64::from(parse_u32(
        text.strip_prefix(['+', '-']).unwrap_or(text),
        10,
    )?);
    let value = if text.starts_with('-') { -value } else { value };
    i32::try_from(value).map_err(|_| NumberError::Range)
}

/// A size such as `64m`, `1.5 GiB` or `100` in bytes, units in powers of 1024
/// (`units.RAMInBytes`). Nothing if it is no size.
pub(crate) fn parse_ram_bytes(text: &str) -> Option<u64> {
    let last = text.rfind(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == ' ')?;
    let (number, suffix) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let size: f64 = number.parse().ok()?;
    if size < 0.0 || size.is_nan() {
        return None;
    }
    Some(truncate(size * unit(&suffix.to_ascii_lowercase())?))
}

fn unit(suffix: &str) -> Option<f64> {
    let power = match suffix.as_bytes() {
        [] | [b'b'] => 0,
        [unit] | [unit, b'b'] | [unit, b'i', b'b'] => {
            1 + b"kmgtp".iter().position(|known| known == unit)?
        }
        _ => return None,
    };
    Some(1024_f64.powi(i32::try_from(power).ok()?))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is not negative and the cast saturates"
)]
fn truncate(size: f64) -> u64 {
    size as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_like_docker() {
        assert_eq!(parse_ram_bytes("32"), Some(32));
        assert_eq!(parse_ram_bytes("32kb"), Some(32 << 10));
        assert_eq!(parse_ram_bytes("32 MiB"), Some(32 << 20));
        assert_eq!(parse_ram_bytes("1.5G"), Some(3 << 29));
        assert_eq!(parse_ram_bytes("32b"), Some(32));
        for bad in [
            "", "hello", "-32", "32bb", "32mm", "32.3.3", "32 5", "32kibs",
        ] {
            assert_eq!(parse_ram_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_integers_like_go() {
        assert_eq!(parse_u32("0755", 8), Ok(0o755));
        assert_eq!(parse_u32("+1", 10), Err(NumberError::Syntax));
        assert_eq!(parse_u32("8", 8), Err(NumberError::Syntax));
        assert_eq!(parse_u32("99999999999", 10), Err(NumberError::Range));
        assert_eq!(parse_i32("-3"), Ok(-3));
        assert_eq!(parse_i32("a"), Err(NumberError::Syntax));
        assert_eq!(parse_i32("99999999999x"), Err(NumberError::Range));
        assert_eq!(parse_i32("-2147483648"), Ok(i32::MIN));
        assert_eq!(parse_i32("2147483648"), Err(NumberError::Range));
        assert_eq!(parse_i32("4294967296"), Err(NumberError::Range));
    }
}
