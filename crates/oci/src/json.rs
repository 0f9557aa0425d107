//! JSON as Go's `encoding/json` writes it, so that documents we make are byte for
//! byte what Docker's and BuildKit's tools would have made of the same values.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

struct GoFormatter(CompactFormatter);

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, tail) = rest.split_at(at);
            self.0.write_string_fragment(writer, plain)?;
            let escaped = tail.chars().next().map_or(0, u32::from);
            write!(writer, "\\u{escaped:04x}")?;
            rest = &tail[tail.chars().next().map_or(0, char::len_utf8)..];
        }
        self.0.write_string_fragment(writer, rest)
    }
}

/// The value's compact JSON with Go's HTML-safe escapes.
///
/// # Errors
/// When the value cannot be JSON (a map with non-string keys).
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, GoFormatter(CompactFormatter));
    value.serialize(&mut serializer)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_as_go_does() {
        let text = String::from_utf8(super::to_vec("a<b>&\u{2028}\"\n").unwrap()).unwrap();
        assert_eq!(text, r#""a\u003cb\u003e\u0026\u2028\"\n""#);
    }
}
