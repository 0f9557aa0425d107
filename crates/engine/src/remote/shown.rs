//! What strangers say, as messages show it.

/// A stranger's text fit to print: no control characters but line breaks.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|ch| if ch == '\r' { '\n' } else { ch })
        .filter(|ch| *ch == '\n' || !ch.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[31mb\rc\n\u{7}"), "a[31mb\nc");
    }
}
