//! When a request is tried again, and after how long.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

/// How often and how patiently failed requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; 1 never repeats.
    pub attempts: u32,
    /// The wait before the second try; doubles with each further one.
    pub base: Duration,
    /// The longest wait of our own choosing.
    pub backoff_max: Duration,
    /// The longest wait that a registry's `Retry-After` can ask for.
    pub retry_after_max: Duration,
}

impl RetryPolicy {
    /// Five tries over about four seconds, and at most a minute at the registry's wish.
    pub const STANDARD: Self = Self {
        attempts: 5,
        base: Duration::from_millis(250),
        backoff_max: Duration::from_secs(10),
        retry_after_max: Duration::from_secs(60),
    };

    /// Whether another try may follow the `attempt`-th one (counted from 1).
    pub(crate) fn allows_after(&self, attempt: u32) -> bool {
        attempt < self.attempts
    }

    /// The wait after the `attempt`-th try: what the registry asked for, else exponential.
    pub(crate) fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let wait = match retry_after {
            Some(asked) => asked.min(self.retry_after_max),
            None => self.backoff(attempt),
        };
        jittered(wait, RandomState::new().hash_one(attempt))
    }

    fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        self.base
            .saturating_mul(1 << doublings)
            .min(self.backoff_max)
    }
}

/// `wait` and up to a tenth more, so that clients that failed together do not return together.
fn jittered(wait: Duration, random: u64) -> Duration {
    let share = u32::try_from(random % 101).unwrap_or_default();
    wait.saturating_add(wait / 1000 * share)
}

/// Whether a status says that the same request may succeed later.
pub(crate) fn is_transient_status(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY
        )
}

/// The wait that a response asks for.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP date.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds is still only "very long".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let parsed = parse_retry_after(value, now);
            assert_eq!(parsed, expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn waits_grow_to_their_bound() {
        let policy = RetryPolicy::STANDARD;
        let waits: Vec<u128> = (1..9).map(|n| policy.backoff(n).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_registry_cannot_ask_for_hours() {
        let wait = RetryPolicy::STANDARD.delay(1, Some(Duration::from_secs(u64::MAX)));
        assert!(wait <= Duration::from_secs(66), "{wait:?}");
    }

    proptest! {
        #[test]
        fn retry_after_is_total(value in ".{0,60}") {
            let _ = parse_retry_after(&value, SystemTime::now());
        }

        #[test]
        fn jitter_adds_at_most_a_tenth(millis in 0u64..100_000, random: u64) {
            let wait = Duration::from_millis(millis);
            let with = jittered(wait, random);
            prop_assert!(with >= wait);
            prop_assert!(with <= wait + wait / 10 + Duration::from_millis(1));
        }
    }
}
