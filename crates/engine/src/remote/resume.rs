//! Downloads whose connection broke: what arrived, and whether an answer is the rest of it.
//!
//! Invariant: bytes of two answers make one file only where both have the same strong tag,
//! which says that they are of the same bytes (RFC 9110 section 8.8.1), and a file is whole
//! only where it has the size that the host told.

use longshore_content::LocalWriter;
use longshore_registry_client::WebAnswer;

use super::download::Validators;

/// How often in a row a download may break off without bringing more.
const FAILURES_MAX: u32 = 3;
/// What counts as more.
const PROGRESS_BYTES: u64 = 4 << 20;

/// What arrived of a file before the connection broke.
pub(super) struct Partial {
    pub(super) writer: LocalWriter,
    /// Of the first answer: that to a range need not repeat them.
    pub(super) validators: Validators,
    /// The size of all of it, where the host has said so.
    pub(super) whole_bytes: Option<u64>,
}

impl Partial {
    /// The strong tag under which the rest can be asked for.
    fn tag(&self) -> Option<&str> {
        self.validators.strong_tag()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.writer.size_bytes()
    }

    /// Whether it has the size that the host told, if it told one.
    pub(super) fn is_whole(&self) -> bool {
        self.whole_bytes
            .is_none_or(|whole| self.size_bytes() == whole)
    }

    /// Whether the rest alone can be asked for.
    pub(super) fn can_go_on(&self) -> bool {
        let is_rest_left = self
            .whole_bytes
            .is_none_or(|whole| self.size_bytes() < whole);
        self.size_bytes() > 0 && is_rest_left && self.tag().is_some()
    }

    /// The headers that ask for the rest, or for the whole where it has changed
    /// (RFC 9110 section 13.1.5).
    pub(super) fn conditions(&self) -> Vec<(&'static str, String)> {
        let range = ("range", format!("bytes={}-", self.size_bytes()));
        let tag = self.tag().map(|tag| ("if-range", tag.to_owned()));
        std::iter::once(range).chain(tag).collect()
    }

    /// What goes on with an answer to them, where that is the rest.
    pub(super) fn going_on_with(self, answer: &WebAnswer) -> Option<Self> {
        let range = answer.header("content-range").unwrap_or_default();
        let whole = rest_of(range, self.size_bytes())?;
        let is_rest = answer.status() == 206
            && self.whole_bytes.is_none_or(|told| told == whole)
            && self.tag().is_some()
            && answer.header("etag").map(str::trim) == self.tag();
        is_rest.then_some(Self {
            whole_bytes: Some(whole),
            ..self
        })
    }
}

/// The size of the whole, of a `Content-Range` that begins at `offset` and goes to the end.
fn rest_of(range: &str, offset: u64) -> Option<u64> {
    let (range, whole) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let whole: u64 = whole.parse().ok()?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first == offset && last.checked_add(1)? == whole).then_some(whole)
}

/// How often a download broke off since it last got further.
#[derive(Default)]
pub(super) struct Failures {
    in_a_row: u32,
    furthest_bytes: u64,
}

impl Failures {
    /// Notes that it broke off after `bytes`; whether to ask again.
    pub(super) fn may_go_on(&mut self, bytes: u64) -> bool {
        if bytes >= self.furthest_bytes + PROGRESS_BYTES {
            self.in_a_row = 0;
        }
        self.furthest_bytes = self.furthest_bytes.max(bytes);
        self.in_a_row += 1;
        self.in_a_row < FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_rest_is_the_rest() {
        for (range, whole) in [
            ("bytes 5-9/10", Some(10)),
            ("bytes 5-8/10", None),
            ("bytes 4-9/10", None),
            ("bytes 5-9/*", None),
            ("bytes 5-18446744073709551615/0", None),
            ("5-9/10", None),
            ("", None),
        ] {
            assert_eq!(rest_of(range, 5), whole, "{range}");
        }
    }

    #[test]
    fn a_download_that_gets_further_is_asked_for_again() {
        let mut failures = Failures::default();
        for step in 1..100 {
            assert!(failures.may_go_on(step * PROGRESS_BYTES));
        }
        assert!(failures.may_go_on(99 * PROGRESS_BYTES));
        assert!(!failures.may_go_on(100 * PROGRESS_BYTES - 1));
    }
}
