//! The `Range` by which a registry says what it has of an upload.

/// The last byte that the registry has, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UploadRange {
    pub(super) last: u64,
}

/// Reads `0-<last>`, with or without `bytes=` before it.
pub(super) fn parse_upload_range(text: &str) -> Option<UploadRange> {
    let text = text.trim();
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let last = text.strip_prefix("0-")?;
    if last.is_empty() || !last.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let last = last.parse::<u64>().ok().filter(|last| *last < u64::MAX)?;
    Some(UploadRange { last })
}

/// How many bytes a range means, after some were sent.
pub(super) fn received(text: &str) -> Option<u64> {
    parse_upload_range(text).map(|range| range.last + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_count_inclusively() {
        for (text, expected) in [
            ("0-0", Some(1)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            (" 0-5 ", Some(6)),
            ("1-99", None),
            ("0--1", None),
            ("0-+1", None),
            ("0-", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(received(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_total(text in ".{0,40}") {
            let _ = received(&text);
        }
    }
}
