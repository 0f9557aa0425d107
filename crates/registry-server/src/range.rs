//! `Range` of blob requests (RFC 9110, section 14) and `Content-Range` of upload chunks
//! (distribution-spec, "Pushing a blob in chunks": `<first>-<last>`, without `bytes`).

/// Bytes from `first` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSpan {
    /// The first byte.
    pub first: u64,
    /// One past the last.
    pub end: u64,
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// `first-` or `first-last`.
    From {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: Option<u64>,
    },
    /// `-count`: the last bytes.
    Last(u64),
}

impl RangeRequest {
    /// Reads a header's value. `None` for what is to be ignored: other units, several ranges,
    /// and what is not a range.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", "") => None,
            ("", count) => Some(Self::Last(number(count)?)),
            (first, "") => Some(Self::From {
                first: number(first)?,
                last: None,
            }),
            (first, last) => Some(Self::From {
                first: number(first)?,
                last: Some(number(last)?),
            }),
        }
    }

    /// The bytes of content of `size_bytes`; `None` if it has none of them.
    ///
    /// A range whose last byte precedes its first is also answered so: clients are better
    /// served by an error than by everything.
    pub fn within(self, size_bytes: u64) -> Option<ByteSpan> {
        let span = match self {
            Self::From { first, last } => ByteSpan {
                first,
                end: last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes)),
            },
            Self::Last(count) => ByteSpan {
                first: size_bytes.saturating_sub(count),
                end: size_bytes,
            },
        };
        (span.first < span.end).then_some(span)
    }
}

/// Digits only: `u64::from_str` would take a sign. What is too large is as good as endless.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// The place of a chunk in its blob, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl ContentRange {
    /// Reads a header's value: `first-last`, or RFC 9110's `bytes first-last/size`.
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        let range = match value.strip_prefix("bytes ") {
            Some(rest) => rest.split_once('/').map_or(rest, |(range, _)| range),
            None => value,
        };
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// How many bytes the chunk has.
    pub fn size_bytes(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(value: &str, size_bytes: u64) -> Option<(u64, u64)> {
        let span = RangeRequest::parse(value).unwrap().within(size_bytes)?;
        Some((span.first, span.end))
    }

    #[test]
    fn ranges_are_cut_to_the_content() {
        assert_eq!(span("bytes=500-1499", 3000), Some((500, 1500)));
        assert_eq!(span("bytes=500-", 3000), Some((500, 3000)));
        assert_eq!(span("bytes=-500", 3000), Some((2500, 3000)));
        assert_eq!(span("bytes=-5000", 3000), Some((0, 3000)));
        assert_eq!(span("bytes=2000-5000", 3000), Some((2000, 3000)));
        assert_eq!(span("bytes=0-0", 3000), Some((0, 1)));
        assert_eq!(span("Bytes = 1-99999999999999999999999", 3), Some((1, 3)));
    }

    #[test]
    fn ranges_outside_the_content_or_backwards_have_nothing() {
        for value in ["bytes=500-0", "bytes=5000-10000", "bytes=3000-", "bytes=-0"] {
            assert_eq!(span(value, 3000), None, "{value}");
        }
        assert_eq!(span("bytes=0-", 0), None);
    }

    #[test]
    fn what_is_not_one_byte_range_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes=+1-2",
            "bytes=1--2",
            "0-5",
        ] {
            assert_eq!(RangeRequest::parse(value), None, "{value}");
        }
    }

    #[test]
    fn chunks_say_both_ends() {
        let chunk = ContentRange { first: 5, last: 14 };
        assert_eq!(ContentRange::parse("5-14"), Some(chunk));
        assert_eq!(ContentRange::parse("bytes 5-14/*"), Some(chunk));
        assert_eq!(ContentRange::parse("bytes 5-14/100"), Some(chunk));
        assert_eq!(chunk.size_bytes(), 10);
        for bad in [
            "",
            "5",
            "5-",
            "-5",
            "14-5",
            "a-b",
            "bytes=5-14",
            "5-14/100",
            "+5-14",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_span_is_never_empty_and_never_beyond(value in "bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Some(span) = RangeRequest::parse(&value).and_then(|range| range.within(size)) {
                prop_assert!(span.first < span.end && span.end <= size);
            }
        }

        #[test]
        fn what_is_written_reads_back(first: u64, length in 0..u64::MAX) {
            let last = first.saturating_add(length);
            let parsed = ContentRange::parse(&format!("{first}-{last}"));
            prop_assert_eq!(parsed, Some(ContentRange { first, last }));
        }

        #[test]
        fn parsing_is_total(value: String) {
            RangeRequest::parse(&value);
            ContentRange::parse(&value);
        }
    }
}
