//! The image's history, and values as Go prints them in it.

use std::time::Duration;

use longshore_dockerfile::quote::quote;
use longshore_oci::{Healthcheck, HistoryEntry};

/// Who made an entry.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// An entry. `created` is set for reproducible builds alone; the exporter fills in the others.
pub(crate) fn entry(created_by: String, has_layer: bool, epoch: Option<i64>) -> HistoryEntry {
    HistoryEntry {
        created: epoch.map(rfc3339),
        created_by,
        author: String::new(),
        comment: COMMENT.to_owned(),
        empty_layer: !has_layer,
    }
}

/// `[a b]`, as `%v` prints a list.
pub(crate) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(" "))
}

/// `["a" "b"]`, as `%q` prints a list.
pub(crate) fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    list(&items)
}

/// As `%+v` prints the struct.
pub(crate) fn healthcheck(check: &Healthcheck) -> String {
    let time = |nanoseconds: i64| duration(Duration::from_nanos(nanoseconds.unsigned_abs()));
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&check.test),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
        check.retries
    )
}

/// `1h0m30s`, `1.5s`, `250ms`, as Go prints durations.
fn duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds < 1_000_000_000 {
        return match nanoseconds {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanoseconds}ns"),
            1_000..1_000_000 => decimal(nanoseconds, 1_000) + "µs",
            _ => decimal(nanoseconds, 1_000_000) + "ms",
        };
    }
    let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
    let minutes = nanoseconds / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with as many decimal places as it takes.
fn decimal(value: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let fraction = format!("{:0width$}", value % unit);
    match fraction.trim_end_matches('0') {
        "" => (value / unit).to_string(),
        fraction => format!("{}.{fraction}", value / unit),
    }
}

/// Seconds since 1970 as `2006-01-02T15:04:05Z`.
fn rfc3339(seconds: i64) -> String {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// The date so many days after 1970-01-01, by counting from 1 March of a leap cycle's year 0.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_CYCLE: i64 = 146_097;
    let shifted = days + 719_468;
    let cycle = shifted.div_euclid(DAYS_PER_CYCLE);
    let day_of_cycle = shifted.rem_euclid(DAYS_PER_CYCLE);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (2_000, "2µs"),
            (30_000_000_000, "30s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), expected);
        }
    }

    #[test]
    fn times_as_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_577_836_800, "2020-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }
}
