//! Text as Go's `%q` prints it, because BuildKit's messages and dumps are written with it.

use std::fmt::Write as _;

/// Puts `text` in double quotes with Go's escapes (`strconv.Quote`).
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for ch in text.chars() {
        push_escaped(&mut out, ch);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, ch: char) {
    match ch {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        ' '..='~' => out.push(ch),
        _ if is_printable(ch) => out.push(ch),
        _ => push_code(out, u32::from(ch)),
    }
}

fn push_code(out: &mut String, code: u32) {
    let written = match code {
        0..0x80 => write!(out, "\\x{code:02x}"),
        0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a string cannot fail");
}

/// Rust's own escaper knows which characters are printable; it agrees with Go's on blanks other
/// than U+0020 being escaped.
fn is_printable(ch: char) -> bool {
    !ch.is_whitespace() && (ch.escape_debug().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_go() {
        assert_eq!(
            quote("a\"b\\c\n\u{0}\u{7f}é\u{a0}\u{1f600}"),
            "\"a\\\"b\\\\c\\n\\x00\\x7fé\\u00a0😀\""
        );
        assert_eq!(quote("it's"), "\"it's\"");
    }
}
