//! Sizes, durations and times as people write and read them.

use anyhow::{Context as _, Result, bail};

/// Bytes from `512m`, `1.5GiB`, `1073741824`: powers of 1024, as Docker reads them.
pub(crate) fn parse_bytes(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number_end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(number_end);
    let number: f64 = number
        .parse()
        .with_context(|| format!("`{text}` is not a size"))?;
    let power = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        other => bail!("`{text}` is not a size: unknown unit `{other}`"),
    };
    let bytes = number * 1024f64.powi(power);
    if !(0.0..9e18).contains(&bytes) {
        bail!("`{text}` is too large");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Ok(bytes as u64)
}

/// `12.3MB`: decimal units with three significant digits, as Docker shows sizes.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match (unit, value) {
        (0, _) => 0,
        (_, v) if v < 10.0 => 2,
        (_, v) if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", UNITS[unit])
}

/// `3 hours ago`, from an RFC 3339 time.
pub(crate) fn show_age(created: &str, now: jiff::Timestamp) -> String {
    let Ok(created) = created.parse::<jiff::Timestamp>() else {
        return "N/A".to_owned();
    };
    let seconds = now.as_second() - created.as_second();
    let (count, unit) = match seconds {
        ..1 => return "Less than a second ago".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("10", 10),
            ("2kb", 2048),
            ("1B", 1),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "m", "12x", "-1", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(show_bytes(999), "999B");
        assert_eq!(show_bytes(1_234_567), "1.23MB");
        assert_eq!(show_bytes(174_179_840), "174MB");
    }

    #[test]
    fn ages_are_words() {
        let now: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(show_age("2026-01-01T23:00:00Z", now), "1 hour ago");
        assert_eq!(show_age("2025-12-30T00:00:00Z", now), "3 days ago");
        assert_eq!(show_age("", now), "N/A");
    }
}
