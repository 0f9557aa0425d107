//! Sizes, durations and times as people write and read them.

use anyhow::{Context as _, Result, bail};
use longshore_engine::Space;

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

/// `--memory` and `--memory-swap`, which is memory and swap together, and `-1` for no limit of swap.
pub(crate) fn parse_memory(
    memory: Option<&str>,
    swap: Option<&str>,
) -> Result<(Option<u64>, Option<i64>)> {
    let memory = memory.map(parse_bytes).transpose().context("--memory")?;
    let both = match swap {
        None | Some("0") => return Ok((memory, None)),
        Some("-1") => -1,
        Some(text) => i64::try_from(parse_bytes(text).context("--memory-swap")?)?,
    };
    let Some(memory) = memory else {
        bail!("--memory-swap is memory and swap together, and needs --memory");
    };
    if u64::try_from(both).is_ok_and(|both| both < memory) {
        bail!("--memory-swap is memory and swap together, and may not be less than --memory");
    }
    Ok((Some(memory), Some(both)))
}

/// An amount of space: bytes as [`parse_bytes`] reads them, or `20%` of the file system.
pub(crate) fn parse_space(text: &str) -> Result<Space> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return Ok(Space::Bytes(parse_bytes(text)?));
    };
    let percent: u8 = percent
        .parse()
        .with_context(|| format!("`{text}` is not a percentage"))?;
    anyhow::ensure!(percent <= 100, "`{text}` is more than there is");
    Ok(Space::Percent(percent))
}

/// How long something may take: as [`parse_duration`] reads it, or a number of seconds; 0 is no limit.
pub(crate) fn parse_timeout(text: Option<&str>) -> Result<Option<std::time::Duration>> {
    let time = match text {
        None => return Ok(None),
        Some(text) => match text.parse() {
            Ok(seconds) => std::time::Duration::from_secs(seconds),
            Err(_) => parse_duration(text)?,
        },
    };
    Ok((!time.is_zero()).then_some(time))
}

/// A time as Go writes it: `24h`, `1h30m`, `90s`; days too: `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<std::time::Duration> {
    let wrong = || format!("`{text}` is not a duration: 24h, 1h30m, 7d");
    let (mut seconds, mut rest) = (0f64, text.trim());
    anyhow::ensure!(!rest.is_empty(), wrong());
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(number_end.with_context(wrong)?);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(unit_end.unwrap_or(tail.len()));
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => bail!(wrong()),
        };
        seconds += number.parse::<f64>().with_context(wrong)? * factor;
        rest = tail;
    }
    std::time::Duration::try_from_secs_f64(seconds).with_context(wrong)
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

/// `1.3s`, `2m 5s`: how long something took.
pub(crate) fn show_seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let minutes = (seconds / 60.0).floor();
    format!("{minutes:.0}m {:.0}s", (seconds - minutes * 60.0).floor())
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
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("24h", 86_400.0),
            ("1h30m", 5400.0),
            ("7d", 604_800.0),
            ("1.5s", 1.5),
            ("0s", 0.0),
        ] {
            assert_eq!(
                parse_duration(text).unwrap().as_secs_f64(),
                seconds,
                "{text}"
            );
        }
        for bad in ["", "5", "h", "3x", "-1h", "1h 2m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn timeouts() {
        let of = |text| parse_timeout(Some(text)).unwrap().map(|it| it.as_millis());
        assert_eq!(
            [of("90"), of("1m30s"), of("500ms"), of("0"), of("0s")],
            [Some(90_000), Some(90_000), Some(500), None, None]
        );
        assert_eq!(parse_timeout(None).unwrap(), None);
        for bad in ["-1", "soon", "1 fortnight"] {
            assert!(parse_timeout(Some(bad)).is_err(), "{bad}");
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
